//! The clocks of a host. They survive the node that runs on it.

use std::sync::Mutex;

use snowmint_server::clock::TimeSource;
use tokio::time::Instant;

/// When every history starts, as a Unix time in milliseconds.
pub const START_MS: u64 = snowmint::DEFAULT_EPOCH_MS + 100_000_000_000;

const NS_PER_MS: i128 = 1_000_000;
const PPM: i128 = 1_000_000;

/// Boot time is the runtime's own, which the scheduler moves; the wall clock is some way off it, and drifts.
pub struct HostClock {
    started: Instant,
    wall: Mutex<Wall>,
}

struct Wall {
    /// Up to here the offset is accounted for.
    boot_ns: u64,
    offset_ns: i128,
    drift_ppm: i64,
}

impl HostClock {
    pub fn new(started: Instant) -> Self {
        let wall = Wall { boot_ns: 0, offset_ns: 0, drift_ppm: 0 };
        Self { started, wall: Mutex::new(wall) }
    }

    /// Steps the wall clock and lets it drift from now on.
    pub fn step(&self, ms: i64, drift_ppm: i64) {
        let boot_ns = self.boot_ns();
        let mut wall = self.wall.lock().unwrap();
        wall.offset_ns = wall.offset_at(boot_ns) + i128::from(ms) * NS_PER_MS;
        (wall.boot_ns, wall.drift_ppm) = (boot_ns, drift_ppm);
    }

    /// Sets it right.
    pub fn set_right(&self) {
        let boot_ns = self.boot_ns();
        *self.wall.lock().unwrap() = Wall { boot_ns, offset_ns: 0, drift_ppm: 0 };
    }
}

impl Wall {
    fn offset_at(&self, boot_ns: u64) -> i128 {
        let since_ns = i128::from(boot_ns - self.boot_ns);
        self.offset_ns + since_ns * i128::from(self.drift_ppm) / PPM
    }
}

impl TimeSource for HostClock {
    fn boot_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap()
    }

    fn wall_ns(&self) -> i128 {
        let boot_ns = self.boot_ns();
        let offset_ns = self.wall.lock().unwrap().offset_at(boot_ns);
        i128::from(START_MS) * NS_PER_MS + i128::from(boot_ns) + offset_ns
    }
}
