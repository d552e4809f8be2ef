//! When requests are due.

use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use super::plan::Plan;

/// How late a timer may be.
const TIMER_LATE_MAX: Duration = Duration::from_millis(2);
/// Requests of a connection that were never sent are counted one by one up to so many, and in so many groups beyond.
const UNSENT_GROUPS_MAX: u64 = 1_024;

/// When one connection's requests are due: all of them, also those for which it is already too late.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    due: Instant,
    every: Duration,
    end: Instant,
}

impl Pace {
    /// The connections take turns, the `nth` after those before it.
    pub(super) fn new(rate: u32, plan: &Plan, start: Instant, nth: u32) -> Self {
        let turns = |count: u32| Duration::from_secs(count.into()) / rate;
        Self { due: start + turns(nth), every: turns(plan.connections), end: start + plan.duration }
    }

    /// The rest of them at `now`, in groups: how long each had waited by then, and how many they are.
    pub(super) fn left(&self, now: Instant) -> impl Iterator<Item = (Duration, u64)> {
        let left_ns = self.end.saturating_duration_since(self.due).as_nanos();
        let left = u64::try_from(left_ns.div_ceil(self.every.as_nanos())).unwrap_or(u64::MAX);
        let group = left.div_ceil(UNSENT_GROUPS_MAX).max(1);
        let groups = (0..left).step_by(usize::try_from(group).unwrap_or(usize::MAX));
        let waited = now.saturating_duration_since(self.due);
        groups.map(move |nth| {
            let since_first = self.every.saturating_mul(u32::try_from(nth).unwrap_or(u32::MAX));
            (waited.saturating_sub(since_first), group.min(left - nth))
        })
    }
}

impl Iterator for Pace {
    type Item = Instant;

    fn next(&mut self) -> Option<Instant> {
        let due = self.due;
        (due < self.end).then(|| {
            self.due += self.every;
            due
        })
    }
}

/// Returns at `due`, which a timer alone would miss by up to [`TIMER_LATE_MAX`]: time that is not the server's.
pub(super) async fn on_time(due: Instant) {
    let early = due.checked_sub(TIMER_LATE_MAX).unwrap_or(due);
    if Instant::now() < early {
        sleep_until(early).await;
    }
    while Instant::now() < due {
        yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_has_every_request_however_late_it_is() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let pace = Pace { due: start, every: second / 1_000, end: start + second };
        assert_eq!(pace.clone().count(), 1_000);
        let left: Vec<_> = pace.left(start + second).collect();
        assert_eq!((left.len(), left[0], left[999]), (1_000, (second, 1), (second / 1_000, 1)));

        let pace = Pace { due: start, every: second / 100_000, end: start + second };
        let left: Vec<_> = pace.left(start + second).collect();
        assert!(left.len() <= 1_024);
        assert_eq!((left[0].0, left.iter().map(|(_, count)| count).sum::<u64>()), (second, 100_000));
    }
}
