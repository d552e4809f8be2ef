//! Where time comes from: the host, or a test.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use super::{NS_PER_MS, WALL_MS_END};

/// What a host knows of time.
pub trait TimeSource: Send + Sync {
    /// Nanoseconds since boot: never steps, and counts the time the host was suspended.
    fn boot_ns(&self) -> u64;

    /// The wall clock, in Unix nanoseconds: whatever the host believes, however wrong.
    fn wall_ns(&self) -> i128;

    /// The wall clock, in Unix milliseconds; 0 for a time before 1970.
    fn wall_ms(&self) -> u64 {
        let wall_ms = self.wall_ns().max(0) / i128::from(NS_PER_MS);
        u64::try_from(wall_ms).unwrap_or(u64::MAX)
    }
}

/// The host's clocks.
///
/// Boot time is read past the C library, so that what fakes the wall clock there (to test clock steps on
/// a real process) leaves it alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostTime;

impl TimeSource for HostTime {
    fn boot_ns(&self) -> u64 {
        let since_boot = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(since_boot.tv_sec).unwrap_or(0);
        let rest_ns = u64::try_from(since_boot.tv_nsec).unwrap_or(0);
        seconds.saturating_mul(1_000_000_000).saturating_add(rest_ns)
    }

    fn wall_ns(&self) -> i128 {
        // A duration is at most 2^64 seconds, whose nanoseconds are far from the end of an i128.
        let signed = |ns: u128| i128::try_from(ns).unwrap_or(i128::MAX);
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => signed(since.as_nanos()),
            Err(before) => -signed(before.duration().as_nanos()),
        }
    }
}

/// Time that moves when told to: for tests and simulations.
#[derive(Debug)]
pub struct ManualTime {
    now: Mutex<ManualNow>,
}

#[derive(Debug)]
struct ManualNow {
    boot_ns: u64,
    wall_ns: i128,
}

impl ManualTime {
    /// A host that has just booted, at `wall_ms`, a Unix time in milliseconds.
    #[must_use]
    pub fn new(wall_ms: u64) -> Self {
        let now = ManualNow { boot_ns: 0, wall_ns: i128::from(wall_ms) * i128::from(NS_PER_MS) };
        Self { now: Mutex::new(now) }
    }

    /// Lets `ms` milliseconds pass, on both clocks: awake, suspended or stopped, which look the same.
    pub fn advance(&self, ms: u64) {
        let ns = ms.saturating_mul(NS_PER_MS);
        let mut now = self.now();
        now.boot_ns = now.boot_ns.saturating_add(ns);
        now.wall_ns = now.wall_ns.saturating_add(ns.into());
    }

    /// Steps the wall clock alone by `ms` milliseconds, forward or back.
    pub fn step_wall(&self, ms: i64) {
        let mut now = self.now();
        now.wall_ns = now.wall_ns.saturating_add(i128::from(ms) * i128::from(NS_PER_MS));
    }

    fn now(&self) -> MutexGuard<'_, ManualNow> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TimeSource for ManualTime {
    fn boot_ns(&self) -> u64 {
        self.now().boot_ns
    }

    fn wall_ns(&self) -> i128 {
        self.now().wall_ns
    }
}

/// Both clocks, read at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) boot_ns: u64,
    pub(super) wall_ns: i128,
}

impl Sample {
    /// How often a pair is read anew because something came between its halves.
    const TRIES_MAX: usize = 8;
    /// How far apart the halves may be: well below a step that is reported.
    const GAP_NS_MAX: u64 = 100_000;
    /// Further from 1970 than any clock can say, and near enough to be computed with.
    const WALL_NS_BOUND: i128 = 1 << 100;

    /// Reads the wall clock between two readings of the boot clock, which tell whether the thread was
    /// put to sleep meanwhile: that would look like a step of the wall clock. The closest pair counts.
    pub(super) fn take(source: &dyn TimeSource) -> Self {
        let (mut best, mut best_gap_ns) = Self::read(source);
        for _ in 1..Self::TRIES_MAX {
            if best_gap_ns <= Self::GAP_NS_MAX {
                break;
            }
            let (sample, gap_ns) = Self::read(source);
            if gap_ns < best_gap_ns {
                (best, best_gap_ns) = (sample, gap_ns);
            }
        }
        best
    }

    fn read(source: &dyn TimeSource) -> (Self, u64) {
        let before_ns = source.boot_ns();
        let wall_ns = source.wall_ns().clamp(-Self::WALL_NS_BOUND, Self::WALL_NS_BOUND);
        let gap_ns = source.boot_ns().saturating_sub(before_ns);
        (Self { boot_ns: before_ns.saturating_add(gap_ns / 2), wall_ns }, gap_ns)
    }

    /// The wall clock, if it shows a time: from 1970 on, and before [`WALL_MS_END`].
    pub(super) fn time_ns(&self) -> Option<u64> {
        u64::try_from(self.wall_ns).ok().filter(|&time_ns| time_ns < WALL_MS_END * NS_PER_MS)
    }

    /// By how much the wall clock has moved more than the boot clock since `earlier`, in nanoseconds.
    ///
    /// A wall clock that is slewed does not show here, because the boot clock is slewed with it.
    pub(super) fn step_ns_since(&self, earlier: &Self) -> i128 {
        let boot_ns = i128::from(self.boot_ns) - i128::from(earlier.boot_ns);
        self.wall_ns - earlier.wall_ns - boot_ns
    }
}
