//! The front ends, and what they have in common.

mod connections;
pub mod grpc;
pub mod http;
mod request;
mod request_id;

use crate::config;

/// How long connections may take to end once the service is told to stop, in milliseconds. What is still
/// open then is dropped.
pub const DRAIN_MS_MAX: u64 = 5_000;

/// What a front end takes from one client.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections. Further ones wait to be accepted.
    pub connections: usize,
    /// The bytes of a request's body.
    pub body_bytes: usize,
    /// The bytes of a request's headers.
    pub header_bytes: usize,
    /// How long a request may take, in seconds.
    pub request_s: u64,
    /// How long a new connection may take to send its first request's headers, in seconds.
    pub header_s: u64,
    /// How many answers are kept to be given again to the same `Idempotency-Key`.
    pub idempotency_keys: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self::from(&config::Limits::default())
    }
}

impl From<&config::Limits> for Limits {
    fn from(limits: &config::Limits) -> Self {
        Self {
            connections: limits.connections,
            body_bytes: limits.body_bytes,
            header_bytes: limits.header_bytes,
            request_s: limits.request_s,
            header_s: limits.header_s,
            idempotency_keys: limits.idempotency_keys,
        }
    }
}
