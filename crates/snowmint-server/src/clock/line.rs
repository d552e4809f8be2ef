//! The line that turns boot time into serving time.

/// How long an offset takes to be slewed away, as far as [`SLEW_PPM_MAX`] lets it.
pub const SLEW_TIME_S: u64 = 10;

/// The most by which the serving clock runs faster or slower than the boot clock: 10 %.
pub const SLEW_PPM_MAX: u64 = 100_000;

const PPM: u64 = 1_000_000;
const SLEW_TIME_NS: u64 = SLEW_TIME_S * 1_000_000_000;

/// Serving time as a function of boot time, from its anchor on.
///
/// A correction ends by itself when it is done, so that a process that is stopped or a host that is
/// suspended in the middle of one does not run past the wall clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    boot_anchor_ns: u64,
    serving_anchor_ns: u64,
    /// Towards which side the correction goes.
    backward: bool,
    rate_ppm: u64,
    correction_ns_max: u64,
}

impl Line {
    /// A line through an anchor that corrects `offset_ns`, which is wall minus serving.
    pub(super) fn new(boot_anchor_ns: u64, serving_anchor_ns: u64, offset_ns: i128) -> Self {
        let correction_ns_max = u64::try_from(offset_ns.unsigned_abs()).unwrap_or(u64::MAX);
        let rate_ppm = (correction_ns_max / (SLEW_TIME_NS / PPM)).min(SLEW_PPM_MAX);
        Self { boot_anchor_ns, serving_anchor_ns, backward: offset_ns < 0, rate_ppm, correction_ns_max }
    }

    /// The serving time at a boot time; the anchor's for one before it, which a reader has that was
    /// overtaken by a new line. Never decreases in `boot_ns`, because a correction is slower than time.
    pub(super) fn at(&self, boot_ns: u64) -> u64 {
        let elapsed_ns = boot_ns.saturating_sub(self.boot_anchor_ns);
        let straight_ns = self.serving_anchor_ns.saturating_add(elapsed_ns);
        if self.rate_ppm == 0 {
            return straight_ns;
        }
        let correction_ns = (elapsed_ns.saturating_mul(self.rate_ppm) / PPM).min(self.correction_ns_max);
        if self.backward {
            straight_ns.saturating_sub(correction_ns)
        } else {
            straight_ns.saturating_add(correction_ns)
        }
    }

    pub(super) const fn is_slewing(&self) -> bool {
        self.rate_ppm != 0
    }
}
