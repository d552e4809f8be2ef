//! What the clock reports.

use std::fmt;

/// What a wall clock did that is worth a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockEvent {
    /// The wall clock stepped back.
    Regressed {
        /// By how much.
        step_ms: u64,
        /// How far the serving clock is ahead of it now.
        behind_ms: u64,
        /// Whether NTP denies what it says, so that it is not followed.
        denied: bool,
    },
    /// The wall clock leapt ahead, and is not believed yet.
    LeapPending {
        /// How far it is ahead of the serving clock.
        ahead_ms: u64,
        /// How long it has to stay there.
        confirm_s: u64,
    },
    /// NTP denies a pending leap: it is not believed, however long it lasts.
    LeapDenied {
        /// How far the wall clock is ahead of the serving clock.
        ahead_ms: u64,
    },
    /// A pending leap went away.
    LeapDropped {
        /// How far the wall clock was ahead.
        ahead_ms: u64,
        /// For how long, or for how long after NTP denied it last.
        held_ms: u64,
        /// Whether NTP denies what the wall clock says now, too.
        denied: bool,
    },
    /// A leap is believed: the serving clock has stepped forward to the wall clock.
    LeapBelieved {
        /// How far the wall clock was ahead.
        ahead_ms: u64,
        /// For how long it was held.
        held_ms: u64,
        /// Whether NTP agreed, before it had lasted long enough by itself.
        confirmed: bool,
    },
}

impl ClockEvent {
    /// How far the wall clock was ahead of the serving clock, in milliseconds; negative where it was behind.
    #[must_use]
    pub fn drift_ms(&self) -> i64 {
        let signed = |ms| i64::try_from(ms).unwrap_or(i64::MAX);
        match *self {
            Self::Regressed { behind_ms, .. } => -signed(behind_ms),
            Self::LeapPending { ahead_ms, .. }
            | Self::LeapDenied { ahead_ms }
            | Self::LeapDropped { ahead_ms, .. }
            | Self::LeapBelieved { ahead_ms, .. } => signed(ahead_ms),
        }
    }

    /// What the serving clock does about it.
    #[must_use]
    pub const fn corrective_action(&self) -> CorrectiveAction {
        match self {
            Self::Regressed { denied: false, .. } | Self::LeapDropped { denied: false, .. } => {
                CorrectiveAction::Slew
            }
            Self::Regressed { .. }
            | Self::LeapDropped { .. }
            | Self::LeapPending { .. }
            | Self::LeapDenied { .. } => CorrectiveAction::Hold,
            Self::LeapBelieved { .. } => CorrectiveAction::Step,
        }
    }
}

impl fmt::Display for ClockEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Regressed { step_ms, denied: true, .. } => write!(
                f,
                "the wall clock stepped back by {step_ms} ms, and NTP denies what it says: the serving clock leaves it alone"
            ),
            Self::Regressed { step_ms, behind_ms: 0, .. } => {
                write!(
                    f,
                    "the wall clock stepped back by {step_ms} ms, which leaves it not behind the serving clock"
                )
            }
            Self::Regressed { step_ms, behind_ms, .. } => write!(
                f,
                "the wall clock stepped back by {step_ms} ms: the serving clock is {behind_ms} ms ahead and runs slower until they meet"
            ),
            Self::LeapPending { ahead_ms, confirm_s } => write!(
                f,
                "the wall clock leapt {ahead_ms} ms ahead: not believed until it is confirmed or has stayed there for {confirm_s} s"
            ),
            Self::LeapDenied { ahead_ms } => {
                write!(f, "the wall clock is {ahead_ms} ms ahead, which NTP denies: it is not believed")
            }
            Self::LeapDropped { ahead_ms, held_ms, .. } => {
                write!(
                    f,
                    "the wall clock came back after {held_ms} ms from being {ahead_ms} ms ahead: that leap is dropped"
                )
            }
            Self::LeapBelieved { ahead_ms, held_ms, confirmed } => write!(
                f,
                "the serving clock stepped forward by {ahead_ms} ms to the wall clock, {} after {held_ms} ms",
                if *confirmed { "which was confirmed" } else { "which was still there" }
            ),
        }
    }
}

/// How the serving clock deals with an offset from the wall clock, or from NTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CorrectiveAction {
    /// It runs faster or slower until they meet.
    Slew,
    /// It goes on by boot time, or with NTP, and leaves the wall clock alone.
    Hold,
    /// It steps forward to the wall clock.
    Step,
    /// The node mints no IDs meanwhile.
    Refuse,
    /// Nothing: it is no more than NTP may be off itself.
    Nothing,
}

impl CorrectiveAction {
    /// Its name in records: `slew`, `hold`, `step`, `refuse` or `none`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Slew => "slew",
            Self::Hold => "hold",
            Self::Step => "step",
            Self::Refuse => "refuse",
            Self::Nothing => "none",
        }
    }
}

impl fmt::Display for CorrectiveAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
