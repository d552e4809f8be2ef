//! The slots a node holds, as one source of IDs.

use std::sync::Arc;

use snowmint::{Generator, IdRange, Refusal, Slot};

use super::frontier::Frontier;
use crate::metrics::SlotMetrics;

/// A slot that is held.
pub struct Held {
    /// Mints its IDs.
    pub generator: Generator,
    /// Counts them.
    pub metrics: SlotMetrics,
}

impl Held {
    fn worker(&self) -> u16 {
        self.generator.slot().worker
    }
}

/// The slots that are held at a moment, lowest first.
///
/// A millisecond is used up slot by slot: while one is enough the others are idle, and the node's IDs come in
/// order, as if they were all of one.
#[derive(Clone, Default)]
pub struct Slots {
    held: Vec<Arc<Held>>,
    frontier: Arc<Frontier>,
}

impl Slots {
    /// Each of them.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Held>> + ExactSizeIterator {
        self.held.iter()
    }

    /// The lowest, which stands for the node where one has to.
    #[must_use]
    pub fn first(&self) -> Option<&Arc<Held>> {
        self.held.first()
    }

    /// The one that is `slot`.
    #[must_use]
    pub fn get(&self, slot: Slot) -> Option<&Arc<Held>> {
        self.held.iter().find(|held| held.generator.slot() == slot)
    }

    /// Whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Up to `wanted` IDs of the millisecond `now_ms`, at least one, from the lowest slot that has some left.
    #[inline]
    #[must_use]
    pub fn mint(&self, now_ms: u64, wanted: u32) -> Option<(&Held, IdRange)> {
        let lowest = self.frontier.lowest_worker(now_ms)?;
        let mut passed = false;
        for held in self.held.iter().skip_while(|held| held.worker() < lowest) {
            if passed {
                self.frontier.reach(now_ms, held.worker());
            }
            if let Ok(range) = held.generator.mint(now_ms, wanted) {
                return Some((held, range));
            }
            passed = true;
        }
        None
    }

    /// The same, from the earliest millisecond in `[since_ms, now_ms]` in which one of them has IDs left. `None`
    /// where nothing is held.
    #[must_use]
    pub fn mint_since(
        &self,
        since_ms: u64,
        now_ms: u64,
        wanted: u32,
    ) -> Option<Result<(&Held, IdRange), Refusal>> {
        let Some((at_ms, held)) = self.next_open(since_ms) else {
            let ceiling_ms = self.held.iter().map(|held| held.generator.ceiling_ms()).max()?;
            return Some(Err(Refusal::WindowClosed { ceiling_ms }));
        };
        if at_ms > now_ms {
            let until_ms = at_ms;
            let next = until_ms == now_ms + 1;
            return Some(Err(if next {
                Refusal::Wait { until_ms }
            } else {
                Refusal::ClockBehind { until_ms }
            }));
        }
        self.frontier.reach(at_ms, held.worker());
        Some(held.generator.mint_since(at_ms, at_ms, wanted).map(|range| (held, range)))
    }

    /// That millisecond, and the lowest slot that has IDs left in it.
    fn next_open(&self, since_ms: u64) -> Option<(u64, &Held)> {
        let opens = |held: &'_ Arc<Held>| {
            self.frontier.first_ms(held.worker(), held.generator.opens_ms().max(since_ms))
        };
        let open = self.held.iter().map(|held| (opens(held), &**held));
        open.filter(|(at_ms, held)| *at_ms < held.generator.ceiling_ms()).min_by_key(|(at_ms, _)| *at_ms)
    }

    /// The first Unix millisecond, not before `since_ms`, in which there are IDs left; `None` where every window
    /// ends before that.
    #[must_use]
    pub fn opens_ms(&self, since_ms: u64) -> Option<u64> {
        self.next_open(since_ms).map(|(at_ms, _)| at_ms)
    }

    /// How many IDs they have a millisecond.
    #[must_use]
    pub fn ids_per_ms(&self) -> u64 {
        self.held.iter().map(|held| u64::from(held.generator.max_sequence()) + 1).sum()
    }

    /// When the last of their windows ends, in Unix milliseconds.
    #[must_use]
    pub fn ceiling_ms(&self) -> Option<u64> {
        self.held.iter().map(|held| held.generator.ceiling_ms()).max()
    }

    pub(super) fn with(&self, held: &Arc<Held>) -> Self {
        let mut slots = self.settled();
        let at = slots.held.partition_point(|other| other.generator.slot() < held.generator.slot());
        slots.held.insert(at, Arc::clone(held));
        slots
    }

    pub(super) fn without(&self, slot: Slot) -> Self {
        let mut slots = self.settled();
        slots.held.retain(|held| held.generator.slot() != slot);
        slots
    }

    /// The same slots, once what they have minted is left behind by all that may come.
    fn settled(&self) -> Self {
        self.held.iter().for_each(|held| self.frontier.reach_last_of(&held.generator));
        self.clone()
    }
}
