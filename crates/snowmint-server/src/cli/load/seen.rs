//! Every ID received, in bounded memory, so that one that comes twice is found.

/// Runs of IDs that are remembered at most: 16 bytes each, 256 MiB together. Runs that touch are joined,
/// and IDs of one millisecond touch, so this is far more IDs than runs: of a slot at its limit, four hours.
const RUNS_MAX: usize = 16 * 1024 * 1024;
/// New runs that are sorted in at once, at least: few enough not to keep the load waiting for long.
const SETTLE_RUNS_MIN: usize = 4 * 1024;
/// Duplicates that are told by name.
const EXAMPLES_MAX: usize = 10;

/// Consecutive IDs, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Run {
    pub(super) first: u64,
    pub(super) last: u64,
}

/// A set of IDs that counts what was added twice.
#[derive(Debug)]
pub(super) struct Seen {
    runs: Vec<Run>,
    runs_max: usize,
    /// How many runs there are when they are sorted next.
    settle_at: usize,
    full: bool,
    dropped: bool,
    duplicates: u64,
    examples: Vec<u64>,
}

impl Default for Seen {
    fn default() -> Self {
        Self::with_room(RUNS_MAX)
    }
}

impl Seen {
    fn with_room(runs_max: usize) -> Self {
        Self {
            runs: Vec::new(),
            runs_max,
            settle_at: SETTLE_RUNS_MIN.min(runs_max),
            full: false,
            dropped: false,
            duplicates: 0,
            examples: Vec::new(),
        }
    }

    /// Adds a run, unless the room is full.
    pub(super) fn add(&mut self, run: Run) {
        if self.full {
            self.dropped = true;
            return;
        }
        self.runs.push(run);
        if self.runs.len() >= self.settle_at {
            let no_more_room = self.runs.len() == self.runs_max;
            self.settle();
            // With little won, the next time would come soon, and each one sorts everything.
            self.full = no_more_room && self.runs.len() > self.runs_max / 2;
            self.settle_at = (self.runs.len() * 2).max(SETTLE_RUNS_MIN).min(self.runs_max);
        }
    }

    /// Sorts and joins what was added, and counts what overlaps. The counts are right after this.
    pub(super) fn settle(&mut self) {
        let mut runs = std::mem::take(&mut self.runs);
        runs.sort_unstable();
        runs.dedup_by(|run, kept| {
            if run.first <= kept.last {
                self.count(run.first, run.last.min(kept.last));
            }
            let joins = run.first <= kept.last.saturating_add(1);
            if joins {
                kept.last = kept.last.max(run.last);
            }
            joins
        });
        self.runs = runs;
    }

    fn count(&mut self, first: u64, last: u64) {
        self.duplicates += last - first + 1;
        for id in first..=last {
            if self.examples.len() == EXAMPLES_MAX {
                break;
            }
            if !self.examples.contains(&id) {
                self.examples.push(id);
            }
        }
    }

    /// Whether every run that was offered was taken.
    pub(super) fn complete(&self) -> bool {
        !self.dropped
    }

    pub(super) fn duplicates(&self) -> u64 {
        self.duplicates
    }

    pub(super) fn examples(&self) -> &[u64] {
        &self.examples
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn duplicates_are_counted_as_a_plain_set_counts_them(
            runs in prop::collection::vec((0_u64..200, 1_u64..8), 0..60),
            runs_max in 20_usize..80,
        ) {
            let mut seen = Seen::with_room(runs_max);
            let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
            for (first, count) in runs {
                seen.add(Run { first, last: first + count - 1 });
                if seen.complete() {
                    (first..first + count).for_each(|id| *counts.entry(id).or_default() += 1);
                }
            }
            seen.settle();
            prop_assert_eq!(seen.duplicates(), counts.values().map(|count| count - 1).sum::<u64>());
            prop_assert!(seen.examples().iter().all(|id| counts[id] > 1));
            prop_assert_eq!(seen.examples().is_empty(), seen.duplicates() == 0);
        }
    }

    /// As a node at its limit gives them: a range for each millisecond of each slot.
    fn ranges(milliseconds: u64, slots: u64) -> impl Iterator<Item = Run> {
        let first_of = move |millisecond: u64, slot: u64| (millisecond * 1_024 + slot) * 4_096;
        let all = (0..milliseconds).flat_map(move |at| (0..slots).map(move |slot| first_of(at, slot)));
        all.map(|first| Run { first, last: first + 4_095 })
    }

    #[test]
    fn a_duplicate_inside_a_range_and_one_across_two_are_found() {
        let inside = Run { first: 4_096 * 1_024 * 500 + 77, last: 4_096 * 1_024 * 500 + 77 };
        // Slots 3 and 4 touch: one ID of each.
        let across = Run { first: 4_096 * (1_024 * 900 + 4) - 1, last: 4_096 * (1_024 * 900 + 4) };
        for (planted, ids) in [(inside, vec![inside.first]), (across, vec![across.first, across.last])] {
            let mut seen = Seen::default();
            seen.add(planted);
            ranges(1_000, 32).for_each(|run| seen.add(run));
            seen.settle();
            assert_eq!((seen.duplicates(), seen.examples()), (ids.len() as u64, &ids[..]));
        }
    }

    /// Memory is bounded by runs, not by IDs: 32 slots at their limit for a minute are 7,864 million IDs.
    #[test]
    fn ranges_are_kept_as_ranges() {
        let mut seen = Seen::with_room(200_000);
        ranges(60_000, 32).for_each(|run| seen.add(run));
        assert!(seen.complete() && seen.runs.capacity() <= 200_000 * 2);
        seen.settle();
        assert_eq!((seen.duplicates(), seen.runs.len()), (0, 60_000));
    }

    #[test]
    fn a_full_set_says_that_it_is_not_complete() {
        let mut seen = Seen::with_room(4);
        (0..4).for_each(|at| seen.add(Run { first: at * 10, last: at * 10 }));
        assert!(seen.complete());
        seen.add(Run { first: 0, last: 0 });
        assert!(!seen.complete());
        assert_eq!(seen.duplicates(), 0);
    }

    #[test]
    fn runs_that_touch_need_no_room() {
        let mut seen = Seen::with_room(4);
        (0..1_000).for_each(|id| seen.add(Run { first: id, last: id }));
        seen.settle();
        assert!(seen.complete());
        assert_eq!((seen.duplicates(), seen.runs.len()), (0, 1));
    }
}
