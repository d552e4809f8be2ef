//! The serving clock: Unix time that never steps back, and does not believe everything.
//!
//! It is anchored to the wall clock once, advances by boot time, and is slewed towards the wall clock by
//! a control loop. A wall clock that steps back costs no request: the serving clock runs slower until
//! they meet. One that leaps ahead is not believed until another time source confirms it, or until it
//! has stayed there for a while.
//!
//! No promise of uniqueness rests on it: that is what windows are for. It decides how close an ID's
//! timestamp is to the truth, and that minting goes on.

mod control;
mod event;
mod line;
mod source;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use control::{Control, Reading};
pub use event::{ClockEvent, CorrectiveAction};
use line::Line;
pub use line::{SLEW_PPM_MAX, SLEW_TIME_S};
use source::Sample;
pub use source::{HostTime, ManualTime, TimeSource};

/// How often [`run`] compares the serving clock with the wall clock, in milliseconds.
pub const DISCIPLINE_MS: u64 = 1000;

/// How far the wall clock may be ahead and still be followed by slewing, in milliseconds. Beyond it is a
/// leap.
pub const LEAP_MS: u64 = 1000;

/// By how much the wall clock has to move against the boot clock to have stepped, in milliseconds: above
/// what two readings can be apart, below the smallest step worth a report.
pub const STEP_MS: u64 = 2;

/// The start of the year 2500, in Unix milliseconds: what is at or past it is no time. A clock is not
/// started there, and a leap to there is held and never believed.
pub const WALL_MS_END: u64 = 16_725_225_600_000;

const NS_PER_MS: u64 = 1_000_000;

/// What a serving clock is told.
#[derive(Clone, Copy, Debug)]
pub struct ClockSettings {
    /// The epoch of the IDs, in Unix milliseconds: no clock starts before it.
    pub epoch_ms: u64,
    /// The end of the IDs' timestamps, in Unix milliseconds: no leap to there is believed, because there would
    /// be no way back from it.
    pub end_ms: u64,
    /// How long a forward leap has to last before it is believed, in seconds of boot time.
    pub leap_confirm_s: u64,
}

impl Default for ClockSettings {
    fn default() -> Self {
        let layout = snowmint::Layout::default();
        Self { epoch_ms: layout.epoch_ms(), end_ms: layout.end_ms(), leap_confirm_s: 60 }
    }
}

/// The clock that requests are served by.
pub struct ServingClock {
    source: Arc<dyn TimeSource>,
    line: ArcSwap<Line>,
    /// The latest millisecond given to anyone.
    given_ms: AtomicU64,
    /// Taken by the control loop and by [`status`](Self::status), never by a reader of the time.
    control: Mutex<Control>,
}

impl ServingClock {
    /// Anchors a serving clock to the wall clock.
    pub fn start(source: Arc<dyn TimeSource>, settings: ClockSettings) -> Result<Self, ClockError> {
        let sample = Sample::take(&*source);
        let now_ns = sample.time_ns().ok_or(ClockError::NoTime)?;
        let wall_ms = now_ns / NS_PER_MS;
        if wall_ms < settings.epoch_ms {
            return Err(ClockError::BeforeEpoch { wall_ms, epoch_ms: settings.epoch_ms });
        }
        Ok(Self {
            source,
            line: ArcSwap::from_pointee(Line::new(sample.boot_ns, now_ns, 0)),
            given_ms: AtomicU64::new(wall_ms),
            control: Mutex::new(Control::new(sample, settings)),
        })
    }

    /// Unix time in milliseconds. It never steps back, not even from one thread to another, and takes no
    /// lock.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        let now_ms = self.line_ns() / NS_PER_MS;
        // A reader can hold a line by a hair longer than the one that replaced it, and be ahead of the
        // next reader if the new line is slower. The maximum makes up for that; it is written once a
        // millisecond, so that readers share its cache line. One word needs no ordering but its own.
        let given_ms = self.given_ms.load(Ordering::Relaxed);
        if now_ms <= given_ms {
            return given_ms;
        }
        self.given_ms.fetch_max(now_ms, Ordering::Relaxed).max(now_ms)
    }

    /// The same time in nanoseconds, for precise waits: never before a millisecond that
    /// [`now_ms`](Self::now_ms) has given. Within a millisecond, two threads may differ by a hair.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.line_ns().max(self.given_ms.load(Ordering::Relaxed) * NS_PER_MS)
    }

    /// One step of the control loop, to be taken every [`DISCIPLINE_MS`]: compares the clocks, chooses
    /// what to do until the next step, and says what is worth a record.
    pub fn discipline(&self) -> Option<ClockEvent> {
        let mut control = self.control();
        let now = self.reading();
        let (action, event) = control.decide(&now);
        let (serving_ns, offset_ns) = match action {
            CorrectiveAction::Slew => (now.serving_ns, now.offset_ns()),
            CorrectiveAction::Hold => (now.serving_ns, 0),
            CorrectiveAction::Step => (now.sample.time_ns().unwrap_or(now.serving_ns), 0),
        };
        self.line.store(Arc::new(Line::new(now.sample.boot_ns, serving_ns, offset_ns)));
        event
    }

    /// Another time source agrees with the leap that is pending: the next [`discipline`](Self::discipline)
    /// believes it. Without a pending leap this does nothing.
    pub fn confirm_leap(&self) {
        self.control().confirm_leap();
    }

    /// How the clock is doing.
    #[must_use]
    pub fn status(&self) -> ClockStatus {
        let control = self.control();
        ClockStatus {
            offset_ms: offset_ms(&self.reading()),
            slewing: self.line.load().is_slewing(),
            leap: control
                .leap
                .map(|leap| PendingLeap { ahead_ms: leap.ahead_ms(), since_ms: leap.since_ms() }),
            regressions: control.regressions,
            leaps_pending: control.leaps_pending,
            leaps_dropped: control.leaps_dropped,
            leaps_believed: control.leaps_believed,
        }
    }

    fn line_ns(&self) -> u64 {
        // Boot time comes first: a reader that sleeps between the two then has an old time on a new line,
        // which is harmless, and not a new time on an old line, which may be far off.
        let boot_ns = self.source.boot_ns();
        self.line.load().at(boot_ns)
    }

    fn reading(&self) -> Reading {
        let sample = Sample::take(&*self.source);
        Reading { sample, serving_ns: self.line.load().at(sample.boot_ns) }
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a step of the control loop every [`DISCIPLINE_MS`], until `shutdown`.
pub async fn run(clock: Arc<ServingClock>, on_event: impl Fn(ClockEvent), shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(Duration::from_millis(DISCIPLINE_MS));
    // After a pause one step is as good as all that were missed.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        if let Some(event) = clock.discipline() {
            on_event(event);
        }
    }
}

/// How a serving clock is doing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClockStatus {
    /// Wall minus serving, in milliseconds.
    pub offset_ms: f64,
    /// Whether the serving clock runs faster or slower to make up for an offset.
    pub slewing: bool,
    /// The leap that is not believed yet.
    pub leap: Option<PendingLeap>,
    /// How often the wall clock stepped back, other than from a leap that was not believed.
    pub regressions: u64,
    /// How many leaps were held, a leap that changed its size counting anew.
    pub leaps_pending: u64,
    /// How many of them went away.
    pub leaps_dropped: u64,
    /// How many of them were believed.
    pub leaps_believed: u64,
}

/// A leap of the wall clock that is not believed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingLeap {
    /// How far the wall clock is ahead, in milliseconds.
    pub ahead_ms: u64,
    /// Since when, in Unix milliseconds of the serving clock.
    pub since_ms: u64,
}

/// Why a serving clock cannot start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClockError {
    /// The wall clock is before the epoch.
    #[error(
        "the wall clock says {wall_ms} ms since 1970, which is before the epoch, {epoch_ms} ms: \
         set the host's clock (or start its time synchronization) and start again"
    )]
    BeforeEpoch {
        /// The wall clock, in Unix milliseconds.
        wall_ms: u64,
        /// The epoch, in Unix milliseconds.
        epoch_ms: u64,
    },
    /// The wall clock is before 1970, or not before [`WALL_MS_END`].
    #[error("the wall clock is before the year 1970 or past 2499: set the host's clock and start again")]
    NoTime,
}

#[expect(clippy::cast_precision_loss, reason = "an offset is shown, not computed with")]
fn offset_ms(reading: &Reading) -> f64 {
    reading.offset_ns() as f64 / NS_PER_MS as f64
}
