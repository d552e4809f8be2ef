//! How far the slots of a node have come, together.

use std::sync::atomic::{AtomicU64, Ordering};

use snowmint::{Generator, Slot};

const WORKER_BITS: u32 = u16::BITS;

/// The lowest (millisecond, worker) that the node may still mint from.
///
/// An ID's worker stands below its millisecond and above its sequence number. A node that uses up a millisecond
/// worker by worker, lowest first, and never goes back, gives IDs in order, whatever slots it holds: whoever asks
/// after he got an ID gets a higher one. This is what keeps it from going back, when a slot is taken, extended late
/// or allowed more within a millisecond that higher ones were used in. It also tells which slots are used up.
///
/// It is order that rests on this, not uniqueness.
#[derive(Debug, Default)]
pub(super) struct Frontier(AtomicU64);

impl Frontier {
    /// The lowest worker that may mint from `now_ms`, if any may.
    #[inline]
    pub(super) fn lowest_worker(&self, now_ms: u64) -> Option<u16> {
        let frontier = self.0.load(Ordering::Acquire);
        let at_ms = frontier >> WORKER_BITS;
        #[expect(clippy::cast_possible_truncation, reason = "these are the worker's bits")]
        let worker = frontier as u16;
        match at_ms {
            _ if at_ms < now_ms => Some(0),
            _ if at_ms == now_ms => Some(worker),
            _ => None,
        }
    }

    /// The first millisecond, not before `since_ms`, that `worker` may mint from.
    pub(super) fn first_ms(&self, worker: u16, since_ms: u64) -> u64 {
        let frontier = self.0.load(Ordering::Acquire);
        if position(since_ms, worker) >= frontier {
            return since_ms;
        }
        let at_ms = frontier >> WORKER_BITS;
        if position(at_ms, worker) >= frontier { at_ms } else { at_ms + 1 }
    }

    /// Leaves behind what is below. To be called before `worker` mints, where a lower one may be held.
    pub(super) fn reach(&self, at_ms: u64, worker: u16) {
        self.0.fetch_max(position(at_ms, worker), Ordering::AcqRel);
    }

    /// The same, after what this generator has minted.
    pub(super) fn reach_last_of(&self, generator: &Generator) {
        if let Some(last_id) = generator.last_id() {
            let parts = generator.layout().decompose(last_id);
            let Slot { worker, .. } = generator.slot();
            self.reach(parts.timestamp_ms, worker);
        }
    }
}

/// A Unix millisecond has 48 bits until the year 10889.
fn position(at_ms: u64, worker: u16) -> u64 {
    at_ms << WORKER_BITS | u64::from(worker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_millisecond_is_left_worker_by_worker() {
        let frontier = Frontier::default();
        assert_eq!(frontier.lowest_worker(7), Some(0));
        frontier.reach(7, 3);
        frontier.reach(7, 2);
        frontier.reach(6, 30);
        assert_eq!([6, 7, 8].map(|now_ms| frontier.lowest_worker(now_ms)), [None, Some(3), Some(0)]);
        assert_eq!([2, 3, 4].map(|worker| frontier.first_ms(worker, 5)), [8, 7, 7]);
        assert_eq!([2, 3, 4].map(|worker| frontier.first_ms(worker, 9)), [9, 9, 9]);
    }
}
