//! The real servers that snowmint is tested against: started on ports that are chosen here, stopped with
//! their value.
//!
//! * [`Etcd`]: etcd 3.4 or 3.5, one node or three, with TLS and a password if wanted.
//! * [`ZooKeeper`]: one node or three.
//! * [`ClickHouse`]: one node.
//! * [`RadosGw`]: S3, with lifecycle rules.
//! * [`Hdfs`]: a NameNode and a DataNode.
//! * [`Proxy`]: a network between a client and a server that misbehaves on demand.
//!
//! `cargo xtask test` installs what is started here. Each module says how its server is started and why each
//! flag that does not explain itself is there. What they have in common:
//!
//! * **Nothing outlives the test.** A value kills its servers when it is dropped, also by a panic. Where the
//!   test's process itself is killed, the kernel kills them.
//! * **Everything is on loopback**, unless it is told another address of this host, and on ports below those that the kernel gives to outgoing connections. A
//!   client that keeps trying to reach a dead server on one of the latter would be given that very port some
//!   day, be connected to itself, and keep the server from coming back.
//! * **Ready means that a client's request was answered.** It is waited for up to [`READY_MS_MAX`].
//! * **Mistakes panic.** The text says what was expected and, where a server is to blame, what it logged last.

#![allow(clippy::unwrap_used, reason = "it is only used by tests")]

mod binary;
mod certificates;
mod clickhouse;
mod etcd;
mod hdfs;
mod http;
mod nodes;
mod ports;
mod process;
mod proxy;
mod radosgw;
mod zookeeper;

pub use clickhouse::{ClickHouse, URL_VARIABLE};
pub use etcd::{Etcd, EtcdSetup, EtcdVersion, ROOT};
pub use hdfs::Hdfs;
pub use nodes::READY_MS_MAX;
pub use proxy::Proxy;
pub use radosgw::RadosGw;
pub use zookeeper::ZooKeeper;
