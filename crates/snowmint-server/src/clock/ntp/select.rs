//! Which of several servers are believed: Marzullo's intersection, as NTP has it (RFC 5905, section 11.2.1).

/// What a server says of the time, as an interval that has the true one in it if the server is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval {
    /// In the middle of it.
    pub(super) time_ns: i128,
    /// How far its ends are from there; not negative.
    pub(super) error_ns: i128,
}

impl Interval {
    const fn low_ns(&self) -> i128 {
        self.time_ns - self.error_ns
    }

    const fn high_ns(&self) -> i128 {
        self.time_ns + self.error_ns
    }
}

/// What the majority says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Agreed {
    /// Whose time it is: the median of those that agree.
    pub(super) source: usize,
    /// Where the true time is.
    pub(super) interval: Interval,
    low_ns: i128,
    high_ns: i128,
}

impl Agreed {
    /// Whether a server may be right.
    pub(super) const fn admits(&self, interval: &Interval) -> bool {
        interval.low_ns() <= self.high_ns && self.low_ns <= interval.high_ns()
    }
}

/// What at least `majority` of the servers agree on; `None` where there are not as many.
///
/// It is the hull of all moments that lie in so many intervals. If so many servers are right, the true time is
/// one of them; and as one that is right is among any so many, it is not further away than a server that is
/// right allows. The others, fewer than half, can change neither.
pub(super) fn agreement(intervals: &[(usize, Interval)], majority: usize) -> Option<Agreed> {
    let (low_ns, high_ns) = hull(intervals.iter().map(|(_, interval)| interval), majority)?;
    let everything = Interval { time_ns: 0, error_ns: 0 };
    let bounds = Agreed { source: 0, interval: everything, low_ns, high_ns };
    let mut admitted: Vec<_> =
        intervals.iter().filter(|(_, interval)| bounds.admits(interval)).copied().collect();
    admitted.sort_by_key(|(_, interval)| interval.time_ns);
    let (source, median) = admitted.get(admitted.len().saturating_sub(1) / 2)?;
    let time_ns = median.time_ns.clamp(low_ns, high_ns);
    let error_ns = (high_ns - time_ns).max(time_ns - low_ns);
    Some(Agreed { source: *source, interval: Interval { time_ns, error_ns }, ..bounds })
}

/// From the first moment that lies in `depth` intervals to the last one.
fn hull<'a>(intervals: impl Iterator<Item = &'a Interval>, depth: usize) -> Option<(i128, i128)> {
    // Where intervals touch they have a moment in common: starts come before ends.
    let mut edges: Vec<(i128, bool)> =
        intervals.flat_map(|interval| [(interval.low_ns(), false), (interval.high_ns(), true)]).collect();
    edges.sort_unstable();
    let (mut inside, mut found) = (0, None);
    for (at_ns, ends) in edges {
        if ends {
            if inside >= depth {
                found = found.map(|(low_ns, _)| (low_ns, at_ns));
            }
            inside -= 1;
        } else {
            inside += 1;
            if inside >= depth {
                found = found.or(Some((at_ns, at_ns)));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    /// What servers say: each its time, and its error.
    type Said = Vec<(i128, i128)>;

    fn of(pairs: &[(i128, i128)]) -> Vec<(usize, Interval)> {
        let interval =
            |(time_ns, error_ns): &(i128, i128)| Interval { time_ns: *time_ns, error_ns: *error_ns };
        pairs.iter().map(interval).enumerate().collect()
    }

    /// Source, time, error, and who is admitted.
    fn agreed(pairs: &[(i128, i128)], majority: usize) -> Option<(usize, i128, i128, Vec<usize>)> {
        let intervals = of(pairs);
        let agreed = agreement(&intervals, majority)?;
        let admitted = intervals.iter().filter(|(_, i)| agreed.admits(i)).map(|(n, _)| *n).collect();
        Some((agreed.source, agreed.interval.time_ns, agreed.interval.error_ns, admitted))
    }

    #[test]
    fn the_majority_is_found_and_the_liar_is_not_in_it() {
        assert_eq!(agreed(&[(10, 5)], 1), Some((0, 10, 5, vec![0])));
        assert_eq!(agreed(&[(10, 5), (12, 5), (3_600, 5)], 2), Some((0, 10, 5, vec![0, 1])));
        // The median of all that are admitted, as far as the others allow it.
        assert_eq!(agreed(&[(0, 5), (10, 5), (4, 6)], 2), Some((2, 4, 6, vec![0, 1, 2])));
        // They have a moment in common, and no more.
        assert_eq!(agreed(&[(0, 5), (10, 5)], 2), Some((0, 5, 0, vec![0, 1])));
    }

    #[test]
    fn where_there_is_no_majority_nobody_is_believed() {
        assert_eq!(agreed(&[], 1), None);
        assert_eq!(agreed(&[(0, 5)], 2), None);
        assert_eq!(agreed(&[(0, 5), (11, 5)], 2), None);
        assert_eq!(agreed(&[(0, 5), (1, 5), (100, 5), (101, 5)], 3), None);
    }

    /// Servers that are right, each by less than its error, and fewer that say anything.
    fn servers() -> impl Strategy<Value = (Said, Said)> {
        const RIGHT_MAX: usize = 5;
        let right = prop::collection::vec((0..=1_000_i128, -100..=100_i128), 1..=RIGHT_MAX);
        let wrong = prop::collection::vec((-5_000..5_000_i128, 0..6_000_i128), 0..RIGHT_MAX);
        (right, wrong).prop_map(|(right, mut wrong)| {
            wrong.truncate(right.len() - 1);
            (right.into_iter().map(|(error, percent)| (error * percent / 100, error)).collect(), wrong)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]

        /// The true time is 0. Fewer than half of the servers never get it out of the interval, nor the result
        /// out of what a server allows that is right, nor one that is right called wrong.
        #[test]
        fn fewer_liars_than_half_change_nothing((right, wrong) in servers()) {
            let all = [right.clone(), wrong].concat();
            let (_, time, error, admitted) = agreed(&all, all.len() / 2 + 1).unwrap();
            let bounds = agreement(&of(&all), all.len() / 2 + 1).unwrap();
            prop_assert!(time.abs() <= error && bounds.low_ns <= 0 && 0 <= bounds.high_ns);
            for moment in [time, bounds.low_ns, bounds.high_ns] {
                prop_assert!(right.iter().any(|(middle, bound)| (moment - middle).abs() <= *bound));
            }
            prop_assert!((0..right.len()).all(|server| admitted.contains(&server)));
        }

        /// The order in which servers are named does not matter.
        #[test]
        fn the_order_does_not_matter((right, wrong) in servers()) {
            let mut all = [right, wrong].concat();
            let majority = all.len() / 2 + 1;
            let time = |all: &[_]| agreed(all, majority).map(|(_, time, error, _)| (time, error));
            let before = time(&all);
            all.reverse();
            prop_assert_eq!(time(&all), before);
        }
    }
}
