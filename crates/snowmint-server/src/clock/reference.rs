//! What another time source said, and what that still says later.

use super::control::Reading;

/// By how much a boot clock may run fast or slow, in parts per million: the most by which kernels correct one.
const BOOT_PPM: i128 = 500;

/// What NTP said, by the boot clock. It grows old by becoming vague, and is never simply forgotten: however the wall
/// clock steps meanwhile, this moves along with the boot clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference {
    /// When it said so, in nanoseconds of boot time.
    pub boot_ns: u64,
    /// The time, in Unix nanoseconds.
    pub time_ns: i128,
    /// How far off that may be, in nanoseconds.
    pub error_ns: i128,
}

impl Reference {
    /// What it says at a moment of boot time: the time, and how far that may be off.
    pub(super) fn at(&self, boot_ns: u64) -> (i128, i128) {
        let passed_ns = i128::from(boot_ns) - i128::from(self.boot_ns);
        (self.time_ns + passed_ns, self.error_ns + passed_ns.abs() * BOOT_PPM / 1_000_000)
    }

    /// How far the wall clock is ahead of it, and by how much that is more than it may be off.
    pub(super) fn wall_ns(&self, now: &Reading) -> Apart {
        self.apart(now.sample.wall_ns, now.sample.boot_ns)
    }

    /// The same of the serving clock.
    pub(super) fn serving_ns(&self, now: &Reading) -> Apart {
        self.apart(now.serving_ns.into(), now.sample.boot_ns)
    }

    fn apart(&self, clock_ns: i128, boot_ns: u64) -> Apart {
        let (time_ns, error_ns) = self.at(boot_ns);
        let ahead_ns = clock_ns - time_ns;
        Apart { ahead_ns, error_ns, beyond_ns: ahead_ns - ahead_ns.clamp(-error_ns, error_ns) }
    }
}

/// A clock against a reference.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_field_names, reason = "names carry their unit")]
pub(super) struct Apart {
    /// How far the clock is ahead; negative where it is behind.
    pub(super) ahead_ns: i128,
    /// How far off the reference may be.
    pub(super) error_ns: i128,
    /// How far the clock is ahead of, or behind, all that the reference allows.
    pub(super) beyond_ns: i128,
}
