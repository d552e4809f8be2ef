//! Runs of consecutive IDs, and those that are in two of them.

/// How many may be added before they are put in order.
const UNSORTED_MAX: usize = 1 << 16;

/// How many runs of duplicates are kept; all IDs in them are counted.
const TWICE_KEPT_MAX: usize = 1_000;

/// The IDs from `first` up to, not including, `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Run {
    pub(super) first: u64,
    pub(super) end: u64,
}

/// A set of IDs, as runs: those of one millisecond are mostly one.
#[derive(Debug, Default)]
pub(super) struct Runs {
    runs: Vec<Run>,
    /// How many of them are in order, and apart from each other.
    sorted: usize,
}

/// IDs that were added twice.
#[derive(Debug, Default)]
pub(super) struct Twice {
    pub(super) runs: Vec<Run>,
    pub(super) ids: u64,
}

impl Run {
    pub(super) fn overlap(self, other: Self) -> Option<Self> {
        let both = Self { first: self.first.max(other.first), end: self.end.min(other.end) };
        (both.first < both.end).then_some(both)
    }

    pub(super) fn len(self) -> u64 {
        self.end - self.first
    }
}

impl Runs {
    /// Adds a run. Those that come in order cost nothing but a look at the last.
    pub(super) fn add(&mut self, run: Run, twice: &mut Twice) {
        match self.runs.last_mut() {
            Some(last) if last.end == run.first => last.end = run.end,
            _ => self.runs.push(run),
        }
        self.bound(twice);
    }

    /// Adds runs that are in order.
    pub(super) fn extend(&mut self, runs: &[Run], twice: &mut Twice) {
        self.runs.extend_from_slice(runs);
        self.bound(twice);
    }

    /// Drops the IDs below; what was added is put in order first.
    pub(super) fn forget_below(&mut self, first: u64, twice: &mut Twice) {
        self.sort(twice);
        let kept = self.runs.partition_point(|run| run.end <= first);
        self.runs.drain(..kept);
        self.sorted = self.runs.len();
    }

    /// What was added, in order.
    pub(super) fn into_sorted(mut self, twice: &mut Twice) -> Vec<Run> {
        self.sort(twice);
        self.runs
    }

    fn bound(&mut self, twice: &mut Twice) {
        if self.runs.len() >= 2 * self.sorted + UNSORTED_MAX {
            self.sort(twice);
        }
    }

    fn sort(&mut self, twice: &mut Twice) {
        // Mostly runs that are in order already, one after the other: a stable sort merges those.
        self.runs.sort();
        let mut kept = 0;
        for at in 1..self.runs.len() {
            let (last, run) = (self.runs[kept], self.runs[at]);
            if run.first > last.end {
                kept += 1;
                self.runs[kept] = run;
                continue;
            }
            if let Some(both) = last.overlap(run) {
                twice.add(both);
            }
            self.runs[kept].end = last.end.max(run.end);
        }
        self.runs.truncate(kept + 1);
        self.sorted = self.runs.len();
    }
}

impl Twice {
    pub(super) fn add_all(&mut self, other: Self) {
        // More may be counted than are kept.
        let kept: u64 = other.runs.iter().map(|run| run.len()).sum();
        other.runs.into_iter().for_each(|run| self.add(run));
        self.ids += other.ids.saturating_sub(kept);
    }

    fn add(&mut self, run: Run) {
        self.ids += run.len();
        let kept = self.runs.len();
        match self.runs.last_mut() {
            Some(last) if last.end == run.first => last.end = run.end,
            _ if kept < TWICE_KEPT_MAX => self.runs.push(run),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Beside a table of how often each ID was added.
        #[test]
        fn what_was_added_is_there_and_what_was_added_twice_is_told(
            added in vec((0_u64..500, 1_u64..20), 0..200), forget in 0_u64..500,
        ) {
            let (mut runs, mut twice, mut often) = (Runs::default(), Twice::default(), [0_u64; 520]);
            for (first, count) in added {
                runs.add(Run { first, end: first + count }, &mut twice);
                (first..first + count).for_each(|id| often[usize::try_from(id).expect("small")] += 1);
            }
            runs.forget_below(forget, &mut twice);
            let sorted = runs.into_sorted(&mut Twice::default());
            prop_assert_eq!(twice.ids, often.iter().map(|count| count.saturating_sub(1)).sum::<u64>());
            for (id, count) in (0_u64..).zip(often) {
                let within = |runs: &[Run]| runs.iter().any(|run| run.first <= id && id < run.end);
                prop_assert!(count == 0 || id < forget || within(&sorted));
                prop_assert!(count > 0 || !within(&sorted));
                prop_assert_eq!(within(&twice.runs), count > 1);
            }
            prop_assert!(sorted.windows(2).all(|pair| pair[0].end < pair[1].first));
        }
    }
}
