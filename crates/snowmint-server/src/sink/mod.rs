//! Where events go from the journal: each sink at its own pace, with its own place in it.

pub mod delivery;
mod embedded;

use async_trait::async_trait;
use uuid::Uuid;

use crate::event::Event;
pub use embedded::{EmbeddedStore, SLACK_BYTES, StoreError};

/// Consecutive events of one journal.
///
/// A batch that was offered once is offered again as it is, until the sink has taken it: also after a restart.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Which journal: made with it, and never again.
    pub journal: Uuid,
    /// The number of the first event in that journal; the others follow without a gap.
    pub first: u64,
    /// The events, at least one.
    pub events: Vec<Event>,
}

impl Batch {
    /// What no other batch has: for stores that tell a repeated batch by it.
    #[must_use]
    pub fn token(&self) -> String {
        format!("{}-{}-{}", self.journal.simple(), self.first, self.events.len())
    }

    /// The number of the event after the last.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }
}

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
