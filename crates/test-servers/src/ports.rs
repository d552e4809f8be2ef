//! Ports nobody listens on.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Where the search starts. Below it are the ports that people know servers by.
const LOWEST: u16 = 10_000;

/// Where it ends if the kernel does not say: the first port that Linux gives to outgoing connections.
const OUTGOING: u16 = 32_768;

/// How many ports are tried before it is given up.
const TRIES_MAX: usize = 10_000;

/// The address of a port on loopback.
pub(crate) fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// As many ports, each seen to be free. Someone else may take one before it is used: be ready to start over.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    let mut found = BTreeSet::new();
    let candidates = u64::from(outgoing().max(LOWEST + 1) - LOWEST);
    for _ in 0..TRIES_MAX {
        if found.len() == count {
            return found.into_iter().collect();
        }
        // Tests run in processes of their own, all at once: what they try must not be the same.
        let random = RandomState::new().hash_one(found.len());
        let port = LOWEST + u16::try_from(random % candidates).expect("below a port");
        if TcpListener::bind(loopback(port)).is_ok() {
            found.insert(port);
        }
    }
    panic!("{TRIES_MAX} ports were tried, and not {count} of them were free");
}

fn outgoing() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(OUTGOING)
}
