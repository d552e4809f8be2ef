//! What a sink is given at a time.

use uuid::Uuid;

use crate::event::Event;

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

    /// What an event is called in stores: the same whenever it is asked, and no other event's.
    #[must_use]
    pub fn event_id(&self, number: u64) -> Uuid {
        // Numbers are far too small to reach the bits that say which version of UUID it is.
        Uuid::from_u128(self.journal.as_u128() ^ u128::from(number))
    }

    /// The number of the event after the last.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }
}
