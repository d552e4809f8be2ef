//! Where events go from the journal: each sink at its own pace, with its own place in it.

pub mod archive;
pub mod clickhouse;
pub mod delivery;
mod embedded;

use async_trait::async_trait;

pub use crate::journal::Batch;
pub use embedded::{EmbeddedStore, SLACK_BYTES, StoreError};

/// A store that events are delivered to.
#[async_trait]
pub trait Sink: Send + Sync + 'static {
    /// What it is called in metrics, in `/health` and in the names of files: letters and hyphens.
    fn name(&self) -> &'static str;

    /// Stores a batch, durably and once: it may have been stored before, wholly, without that being known.
    async fn deliver(&self, batch: &Batch) -> Result<(), SinkError>;
}

/// Why a batch was not stored.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The store is away, busy or full: the same batch is tried again.
    #[error("{0}")]
    Unavailable(String),
    /// The store will never take this batch: it is set aside.
    #[error("{0}")]
    Refused(String),
}
