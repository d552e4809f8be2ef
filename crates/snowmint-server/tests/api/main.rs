//! The wire: REST, gRPC and RESP of a node that runs inside the test.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(missing_docs, unreachable_pub, reason = "tests")]

mod grpc;
mod node;
mod reports;
mod resp;
mod rest;
