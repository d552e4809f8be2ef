//! The registry contract, on every backend, and the lease on top of a registry that misbehaves.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(missing_docs, unreachable_pub, reason = "tests")]

mod contract;
mod embedded;
mod etcd;
mod faulty;
mod lease;
mod zookeeper;
