//! Which registry gives out workers, written as a URL.

use std::fmt;

use serde::{Deserialize, Serialize};

const ETCD_PORT: u16 = 2379;
const ZOOKEEPER_PORT: u16 = 2181;

/// What is wanted, for whoever wrote something else.
const WANTED: &str = "`embedded` is wanted, or etcd://HOST:PORT,… or zookeeper://HOST:PORT,…/CHROOT (etcds:// and \
                      zookeepers:// with TLS)";

/// The most servers that are named: a quorum of more is not run by anybody.
const SERVERS_MAX: usize = 15;

/// Which registry gives out workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Registry {
    /// A file in the data directory.
    Embedded,
    /// etcd.
    Etcd(Servers),
    /// `ZooKeeper`.
    ZooKeeper {
        /// Where.
        servers: Servers,
        /// The path that stands for `/`: empty, or starting with a slash and not ending with one.
        chroot: String,
    },
}

/// The servers of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Servers {
    /// Each as `host:port`.
    pub addresses: Vec<String>,
    /// Whether to talk TLS.
    pub tls: bool,
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = |tls| if tls { "s" } else { "" };
        match self {
            Self::Embedded => f.pad("embedded"),
            Self::Etcd(Servers { addresses, tls }) => {
                f.pad(&format!("etcd{}://{}", s(*tls), addresses.join(",")))
            }
            Self::ZooKeeper { servers: Servers { addresses, tls }, chroot } => {
                f.pad(&format!("zookeeper{}://{}{chroot}", s(*tls), addresses.join(",")))
            }
        }
    }
}

impl TryFrom<String> for Registry {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "embedded" {
            return Ok(Self::Embedded);
        }
        let (scheme, rest) = text.split_once("://").ok_or(WANTED)?;
        let (addresses, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let path = path.trim_end_matches('/');
        match scheme {
            "etcd" | "etcds" if !path.is_empty() => {
                Err(format!("etcd has no path, and {path} is one: the servers alone are wanted"))
            }
            "etcd" | "etcds" => {
                Ok(Self::Etcd(Servers { addresses: servers(addresses, ETCD_PORT)?, tls: scheme == "etcds" }))
            }
            "zookeeper" | "zookeepers" if path.contains("//") => {
                Err(format!("{path} is no path of ZooKeeper: a name is wanted between two slashes"))
            }
            "zookeeper" | "zookeepers" => Ok(Self::ZooKeeper {
                servers: Servers {
                    addresses: servers(addresses, ZOOKEEPER_PORT)?,
                    tls: scheme == "zookeepers",
                },
                chroot: path.to_owned(),
            }),
            _ => Err(WANTED.to_owned()),
        }
    }
}

impl From<Registry> for String {
    fn from(registry: Registry) -> Self {
        registry.to_string()
    }
}

/// Reads `host:port,host,[::1]:port`.
fn servers(text: &str, port: u16) -> Result<Vec<String>, String> {
    if text.contains('@') {
        return Err("a user does not belong into the URL: the section of the registry has `user` and \
                    `password_file`"
            .to_owned());
    }
    let servers: Result<Vec<String>, String> = text.split(',').map(|server| address(server, port)).collect();
    match servers?.as_slice() {
        servers if servers.len() > SERVERS_MAX => Err(format!("at most {SERVERS_MAX} servers are wanted")),
        servers => Ok(servers.to_vec()),
    }
}

pub(super) fn address(server: &str, default_port: u16) -> Result<String, String> {
    let wrong = || format!("{server:?} is no server: HOST:PORT is wanted, with an IPv6 address in brackets");
    let (host, port) = match server.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| wrong())?),
        _ => (server, default_port),
    };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let plain = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c));
    if port == 0 || !(plain || bracketed && host[1..host.len() - 1].parse::<std::net::Ipv6Addr>().is_ok()) {
        return Err(wrong());
    }
    Ok(format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn read(text: &str) -> Result<String, String> {
        Registry::try_from(text.to_owned()).map(String::from)
    }

    #[test]
    fn urls_are_read_and_written() {
        for (text, written) in [
            ("embedded", "embedded"),
            ("etcd://localhost", "etcd://localhost:2379"),
            ("etcds://a:1,b.example.com,[::1]:3,[::1]/", "etcds://a:1,b.example.com:2379,[::1]:3,[::1]:2379"),
            ("zookeeper://a,b:2", "zookeeper://a:2181,b:2"),
            ("zookeepers://a/ids/prod/", "zookeepers://a:2181/ids/prod"),
        ] {
            assert_eq!(read(text).unwrap(), written);
            assert_eq!(read(written).unwrap(), written);
        }
    }

    #[test]
    fn what_is_none_is_refused_with_what_would_be_right() {
        for (text, wanted) in [
            ("", "`embedded` is wanted"),
            ("consul://a", "`embedded` is wanted"),
            ("etcd://", "\"\" is no server"),
            ("etcd://a,", "\"\" is no server"),
            ("etcd://a:b", "\"a:b\" is no server"),
            ("etcd://a:0", "\"a:0\" is no server"),
            ("etcd://::1", "\"::1\" is no server"),
            ("etcd://a/b", "etcd has no path"),
            ("etcd://root:secret@a", "`password_file`"),
            ("zookeeper://a/b//c", "no path of ZooKeeper"),
        ] {
            let refusal = read(text).unwrap_err();
            assert!(refusal.contains(wanted), "{text}: {refusal}");
        }
    }
}
