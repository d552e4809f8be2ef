//! Ports nobody listens on.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{self, UnixListener};

/// Where the search starts. Below it are the ports that people know servers by.
const LOWEST: u16 = 10_000;

/// Where it ends if the kernel does not say: the first port that Linux gives to outgoing connections.
const OUTGOING: u16 = 32_768;

/// How many ports are tried before it is given up.
const TRIES_MAX: usize = 10_000;

/// A port that no other test gets while this value lives, also while nobody listens on it: its
/// server may be dead and coming back, and one of another test in its place would be taken for it.
pub(crate) struct Port {
    address: SocketAddr,
    /// A name that the kernel gives away once at a time, and takes back at the latest with the process.
    _reserved: UnixListener,
}

impl Port {
    /// Where it is listened on.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nothing if the port is in use.
    fn reserve(ip: IpAddr, number: u16) -> Option<Self> {
        let name = net::SocketAddr::from_abstract_name(format!("snowmint-test-port-{number}")).ok()?;
        let port = Self { address: (ip, number).into(), _reserved: UnixListener::bind_addr(&name).ok()? };
        TcpListener::bind(port.address()).is_ok().then_some(port)
    }
}

/// As many ports of this host's address `ip`. Something else than a test may still take one before it is used: be ready to start over.
pub(crate) fn free_ports(ip: IpAddr, count: usize) -> Vec<Port> {
    let mut found = Vec::new();
    let candidates = u64::from(outgoing().max(LOWEST + 1) - LOWEST);
    for _ in 0..TRIES_MAX {
        if found.len() == count {
            return found;
        }
        let random = RandomState::new().hash_one(count);
        let number = LOWEST + u16::try_from(random % candidates).expect("it is less than a port");
        found.extend(Port::reserve(ip, number));
    }
    panic!("{TRIES_MAX} ports were tried, and not {count} of them were free");
}

fn outgoing() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(OUTGOING)
}
