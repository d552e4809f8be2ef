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

/// Requests that waited for a millisecond, told of together.
#[derive(Default)]
pub(super) struct Burst {
    count: u32,
    wait_ms: u64,
    queued: u32,
    /// How many milliseconds' IDs were wanted at once, at the most.
    milliseconds_wanted: u64,
}

impl Burst {
    pub(super) fn begun(&mut self, queued: u32, ids_ahead: u64, ids_per_ms: u64) {
        self.count = self.count.saturating_add(1);
        self.queued = self.queued.max(queued);
        self.milliseconds_wanted = self.milliseconds_wanted.max(1 + ids_ahead / ids_per_ms);
    }

    pub(super) fn waited(&mut self, wait_ms: u64) {
        self.wait_ms = self.wait_ms.max(wait_ms);
    }

    pub(super) fn told(self, slot: Slot) -> Option<Overflowed> {
        #[expect(clippy::cast_precision_loss, reason = "a factor, for people")]
        let load_factor = self.milliseconds_wanted as f32;
        let wait_ms = u32::try_from(self.wait_ms).unwrap_or(u32::MAX);
        (self.count > 0).then_some(Overflowed {
            slot,
            count: self.count,
            wait_ms,
            queued: self.queued,
            load_factor,
        })
    }
}
