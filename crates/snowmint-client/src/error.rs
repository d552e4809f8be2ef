//! Why a call gave no ID.

use std::time::Duration;

use tonic::Code;

/// Why a call gave no ID.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No server answered in time: neither with IDs nor with an error.
    #[error("no server answered within {deadline:?}")]
    Timeout {
        /// How long a call may take.
        deadline: Duration,
    },
    /// No server gave IDs in time, and this is what the last one that was tried said.
    #[error("no server gave IDs within {deadline:?}; the last that was tried, {server}: {message}")]
    Unavailable {
        /// How long a call may take.
        deadline: Duration,
        /// Which server.
        server: String,
        /// What was wrong with it.
        message: String,
    },
    /// A server refuses the request, and another would do the same.
    #[error("{server} refused: {message} ({code:?})")]
    Refused {
        /// Which server.
        server: String,
        /// The gRPC code.
        code: Code,
        /// What is wrong with the request.
        message: String,
    },
    /// More IDs were asked for at once than a server gives.
    #[error("{count} IDs were asked for at once, it must be from 1 to {}", crate::LEASE_IDS_MAX)]
    Count {
        /// How many.
        count: u32,
    },
}
