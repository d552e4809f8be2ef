//! The front ends, and what they have in common.

mod connections;
pub mod grpc;
pub mod http;
mod issue;
mod request;
mod request_id;
pub mod resp;

/// How long connections may take to end once the service is told to stop, in milliseconds. What is still
/// open then is dropped.
pub const DRAIN_MS_MAX: u64 = 5_000;
