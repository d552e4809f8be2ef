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
    #[must_use]
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
    pub fn mint_since(&self, since_ms: u64, now_ms: u64, wanted: u32) -> Option<Result<IdRange, Refusal>> {
        let Some((at_ms, held)) = self.next_open(since_ms) else {
            return Some(Err(Refusal::WindowClosed { ceiling_ms: self.ceiling_ms()? }));
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
        Some(held.generator.mint_since(at_ms, at_ms, wanted))
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::num::NonZeroU16;

    use snowmint::{Claim, Id, Layout, SequenceStart};

    use super::super::Holding;
    use super::*;
    use crate::metrics::Metrics;

    const NOW_MS: u64 = 1_704_310_200_000;
    /// IDs of a slot in a millisecond.
    const ROOM: u32 = 4;

    /// Holds a slot of this worker, with `ROOM` IDs a millisecond, for `window_ms`.
    fn hold(holding: &Holding, worker: u16, window_ms: u64) {
        let slot = Slot { datacenter: 0, worker };
        let claim = Claim::new(Layout::default(), slot, None, NOW_MS, window_ms).unwrap();
        #[expect(clippy::disallowed_methods, reason = "there is no registry here, and no second generator")]
        let generator = Generator::new(claim.granted(), SequenceStart::Zero);
        generator.set_max_sequence(ROOM - 1);
        holding.take(&Arc::new(Held { generator, metrics: Metrics::new().slot(slot) }));
    }

    fn holding() -> Holding {
        Holding::new(NonZeroU16::new(3).unwrap())
    }

    fn one(holding: &Holding, now_ms: u64) -> Option<Id> {
        holding.load().mint(now_ms, 1).map(|(_, range)| range.first())
    }

    fn worker(id: Id) -> u16 {
        Layout::default().decompose(id).slot.worker
    }

    /// Invariant 4, of a node: a millisecond goes to the lowest slot, then the next, and so the IDs increase.
    #[test]
    fn a_millisecond_is_used_up_slot_by_slot() {
        let holding = holding();
        for worker in [7, 2, 5] {
            hold(&holding, worker, 1_000);
        }
        let mut ids = Vec::new();
        for now_ms in NOW_MS..NOW_MS + 3 {
            let before = ids.len();
            ids.extend(std::iter::from_fn(|| one(&holding, now_ms)));
            let workers: Vec<u16> = ids[before..].iter().copied().map(worker).collect();
            assert_eq!(workers, [2, 2, 2, 2, 5, 5, 5, 5, 7, 7, 7, 7]);
        }
        assert!(ids.is_sorted_by(|one, next| one < next));
    }

    /// What was left by those who waited is used in order, too, to the last ID.
    #[test]
    fn milliseconds_that_passed_are_made_up_for_in_order() {
        let holding = holding();
        for worker in [1, 2] {
            hold(&holding, worker, 1_000);
        }
        let slots = holding.load();
        let mut ids = Vec::new();
        while let Some(Ok(range)) = slots.mint_since(NOW_MS, NOW_MS + 9, 3) {
            ids.extend(range.ids());
        }
        assert_eq!(ids.len(), 10 * 2 * ROOM as usize);
        assert!(ids.is_sorted_by(|one, next| one < next));
        let wait = Some(Refusal::Wait { until_ms: NOW_MS + 10 });
        assert_eq!(slots.mint_since(NOW_MS, NOW_MS + 9, 1).and_then(Result::err), wait);
    }

    /// Within a millisecond that a higher slot was used in, lower ones stay out: taken, extended or allowed more.
    #[test]
    fn nobody_goes_back_within_a_millisecond() {
        let holding = holding();
        hold(&holding, 5, 1_000);
        let before = one(&holding, NOW_MS).unwrap();
        hold(&holding, 3, 1_000);
        let after = one(&holding, NOW_MS).unwrap();
        assert!(after > before);
        assert_eq!((worker(after), one(&holding, NOW_MS + 1).map(worker)), (5, Some(3)));

        while one(&holding, NOW_MS + 1).is_some_and(|id| worker(id) == 3) {}
        let slots = holding.load();
        slots.first().unwrap().generator.set_max_sequence(100);
        assert_eq!(one(&holding, NOW_MS + 1).map(worker), Some(5));
        assert_eq!(one(&holding, NOW_MS + 2).map(worker), Some(3));
        drop(slots);

        // Lost, and another taken, in a millisecond.
        let before = one(&holding, NOW_MS + 3).unwrap();
        holding.drop_slot(Slot { datacenter: 0, worker: 3 }, String::new());
        holding.drop_slot(Slot { datacenter: 0, worker: 5 }, String::new());
        hold(&holding, 1, 1_000);
        assert_eq!((worker(before), one(&holding, NOW_MS + 3)), (3, None));
        let slots = holding.load();
        let range = slots.mint_since(NOW_MS, NOW_MS + 4, 1).unwrap().unwrap();
        assert!(range.first() > before);
    }

    /// A slot whose window has ended is passed over; where all have, that is what is said.
    #[test]
    fn open_windows_serve_for_those_that_have_closed() {
        let holding = holding();
        assert!(holding.load().mint_since(NOW_MS, NOW_MS, 1).is_none());
        hold(&holding, 1, 100);
        hold(&holding, 2, 200);
        let slots = holding.load();
        assert_eq!([50, 150].map(|ms| one(&holding, NOW_MS + ms).map(worker)), [Some(1), Some(2)]);
        let since = |ms| slots.mint_since(NOW_MS + ms, NOW_MS + ms, 1).unwrap();
        assert_eq!(since(160).map(|range| worker(range.first())), Ok(2));
        assert_eq!((slots.opens_ms(NOW_MS + 150), slots.opens_ms(NOW_MS + 250)), (Some(NOW_MS + 160), None));
        let closed = Refusal::WindowClosed { ceiling_ms: NOW_MS + 200 };
        assert_eq!((since(250).map(|_| ()), one(&holding, NOW_MS + 250)), (Err(closed), None));
    }
}
