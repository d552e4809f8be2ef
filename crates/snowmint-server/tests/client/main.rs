//! The clients, on real `snowmint serve` processes: the crate `snowmint-client`, and the packages of `clients/`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(missing_docs, unreachable_pub, reason = "tests")]

#[allow(dead_code, reason = "these tests need less of it")]
#[path = "../faults/load.rs"]
mod load;
mod packages;
#[allow(dead_code, reason = "these tests need less of it")]
#[path = "../faults/process.rs"]
mod process;
mod rust;

use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;

use process::{Node, Serve};

/// A node with gRPC.
pub async fn start(data: &Path) -> Node {
    Serve::new(data).set("grpc.listen", "127.0.0.1:0").start().await
}

/// Where it serves gRPC.
pub async fn grpc(node: &mut Node) -> SocketAddr {
    let line: Value = serde_json::from_str(&node.logged("\"message\":\"serving\"").await).unwrap();
    line["grpc"].as_str().unwrap().parse().unwrap()
}

/// That no ID came twice.
pub fn assert_unique(mut ids: Vec<u64>) {
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(count - ids.len(), 0, "so many IDs of {count} came twice");
}
