//! The requests that wait for their turn, and what is told of them.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use snowmint::Slot;

use crate::event::Overflowed;

/// What the requests in line tell the ones after them.
#[derive(Default)]
pub(super) struct Turn {
    /// The count of extensions at which one of them waited for the next in vain. Each waiting anew, the last of
    /// them would be refused late, and as if there had been too many of them.
    pub(super) waited_in_vain_at: Option<u64>,
}

/// The requests that wait.
#[derive(Default)]
pub(super) struct Line {
    /// How many IDs they still want. While it is not 0, nobody overtakes them.
    pub(super) ids: AtomicU64,
    pub(super) requests: AtomicU32,
}

/// A request's place in the line, given up when it is dropped, however the request ends.
pub(super) struct Place<'a> {
    pub(super) line: &'a Line,
    pub(super) missing: u32,
    /// How many IDs those before it wanted.
    pub(super) ahead: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.line.ids.fetch_sub(self.missing.into(), Ordering::Relaxed);
        self.line.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How often a burst that goes on is looked at before it is told of nevertheless.
const BURST_LOOKS_MAX: u32 = 60;

/// Requests that waited for a millisecond, told of together.
#[derive(Default)]
pub(super) struct Burst {
    /// Whose IDs were used up.
    slot: Option<Slot>,
    count: u32,
    wait_ms: u64,
    queued: u32,
    /// How many milliseconds' IDs were wanted at once, at the most.
    milliseconds_wanted: u64,
    looks: u32,
    /// The count at the last look.
    seen: u32,
}

impl Burst {
    pub(super) fn begun(&mut self, slot: Slot, queued: u32, ids_ahead: u64, ids_per_ms: u64) {
        self.slot = Some(slot);
        self.count = self.count.saturating_add(1);
        self.queued = self.queued.max(queued);
        self.milliseconds_wanted = self.milliseconds_wanted.max(1 + ids_ahead / ids_per_ms);
    }

    pub(super) fn waited(&mut self, wait_ms: u64) {
        self.wait_ms = self.wait_ms.max(wait_ms);
    }

    /// To be asked now and then: whether nobody waits any more and nobody has begun to since it was asked last, or
    /// it has gone on for too long.
    pub(super) fn is_over(&mut self, waiting: u32) -> bool {
        self.looks += u32::from(self.count > 0);
        let goes_on = waiting > 0 || std::mem::replace(&mut self.seen, self.count) != self.count;
        !goes_on || self.looks >= BURST_LOOKS_MAX
    }

    pub(super) fn told(self) -> Option<Overflowed> {
        #[expect(clippy::cast_precision_loss, reason = "a factor, for people")]
        let load_factor = self.milliseconds_wanted as f32;
        let wait_ms = u32::try_from(self.wait_ms).unwrap_or(u32::MAX);
        let Self { slot, count, queued, .. } = self;
        slot.map(|slot| Overflowed { slot, count, wait_ms, queued, load_factor })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: Slot = Slot { datacenter: 0, worker: 5 };

    #[test]
    fn a_burst_is_told_of_once_when_it_is_over() {
        let mut burst = Burst::default();
        assert!(burst.is_over(0));
        burst.begun(SLOT, 3, 8_192, 4_096);
        burst.begun(SLOT, 2, 0, 4_096);
        assert!(!burst.is_over(0), "somebody has just begun to wait");
        assert!(!burst.is_over(1), "somebody waits still");
        burst.waited(7);
        assert!(burst.is_over(0));
        let told = Overflowed { slot: SLOT, count: 2, wait_ms: 7, queued: 3, load_factor: 3.0 };
        assert_eq!(std::mem::take(&mut burst).told(), Some(told));
        assert_eq!(burst.told(), None);
    }

    #[test]
    fn a_burst_that_does_not_end_is_told_of_now_and_then() {
        let mut burst = Burst::default();
        let looks = (1..=2 * BURST_LOOKS_MAX).find(|_| {
            burst.begun(SLOT, 1, 0, 1);
            burst.is_over(1)
        });
        assert_eq!(looks, Some(BURST_LOOKS_MAX));
    }
}
