//! The serving clock: Unix time that never steps back, and does not believe everything.
//!
//! It is anchored to the wall clock once, advances by boot time, and is slewed towards the wall clock by
//! a control loop. A wall clock that steps back costs no request: the serving clock runs slower until
//! they meet. One that leaps ahead is not believed until NTP confirms it, or until it has stayed there for
//! a while and NTP does not deny it. Where NTP is asked, the wall clock is followed as far as NTP's own
//! error allows, and no further; NTP by itself never makes the serving clock step.
//!
//! No promise of uniqueness rests on it: that is what windows are for. It decides how close an ID's
//! timestamp is to the truth, and that minting goes on.

mod control;
mod event;
mod line;
pub mod ntp;
mod reference;
mod source;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use control::{Control, Decision, Reading};
pub use event::{ClockEvent, CorrectiveAction};
use line::Line;
pub use line::{SLEW_PPM_MAX, SLEW_TIME_S};
pub use reference::Reference;
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
    /// How far off NTP the clocks may be while IDs are minted; unset, however far they are.
    pub refuse_above_ms: Option<u64>,
}

impl Default for ClockSettings {
    fn default() -> Self {
        let layout = snowmint::Layout::default();
        Self {
            epoch_ms: layout.epoch_ms(),
            end_ms: layout.end_ms(),
            leap_confirm_s: 60,
            refuse_above_ms: None,
        }
    }
}

/// The clock that requests are served by.
pub struct ServingClock {
    source: Arc<dyn TimeSource>,
    line: ArcSwap<Line>,
    /// The latest millisecond given to anyone.
    given_ms: AtomicU64,
    /// How far off NTP the clocks are, in milliseconds, where that is too far to mint; otherwise 0.
    too_far_ms: AtomicU64,
    /// Told when the wall clock leaps.
    leapt: Notify,
    /// What NTP said last.
    ntp: ArcSwapOption<ntp::Status>,
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
            too_far_ms: AtomicU64::new(0),
            leapt: Notify::new(),
            ntp: ArcSwapOption::empty(),
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
        let Decision { action, away_ns, event } = control.decide(&now);
        // Only a leap that is believed is made at once, and never backward.
        let (serving_ns, away_ns) = match action {
            CorrectiveAction::Step => (forward(now.serving_ns, away_ns), 0),
            _ => (now.serving_ns, away_ns),
        };
        self.line.store(Arc::new(Line::new(now.sample.boot_ns, serving_ns, away_ns)));
        self.judge(&control, &Reading { serving_ns, ..now });
        if matches!(event, Some(ClockEvent::LeapPending { .. })) {
            self.leapt.notify_one();
        }
        event
    }

    /// Takes what NTP says, which counts from the next [`discipline`](Self::discipline) on, and says what is done
    /// about how far off the wall clock is.
    pub fn refer(&self, reference: Reference) -> CorrectiveAction {
        let mut control = self.control();
        control.reference = Some(reference);
        let now = self.reading();
        self.judge(&control, &now);
        control.action(&now)
    }

    fn judge(&self, control: &Control, now: &Reading) {
        self.too_far_ms.store(control.too_far(now).unwrap_or(0), Ordering::Relaxed);
    }

    /// How far off NTP the clocks are, in milliseconds, where that is too far to mint. Takes no lock.
    #[inline]
    #[must_use]
    pub fn too_far_ms(&self) -> Option<u64> {
        match self.too_far_ms.load(Ordering::Relaxed) {
            0 => None,
            off_ms => Some(off_ms),
        }
    }

    /// Waits for a leap of the wall clock.
    async fn leapt(&self) {
        self.leapt.notified().await;
    }

    /// What NTP said last, where it is asked.
    #[must_use]
    pub fn ntp(&self) -> Option<Arc<ntp::Status>> {
        self.ntp.load_full()
    }

    fn set_ntp(&self, status: Arc<ntp::Status>) {
        self.ntp.store(Some(status));
    }

    fn time_source(&self) -> Arc<dyn TimeSource> {
        Arc::clone(&self.source)
    }

    fn sample(&self) -> Sample {
        Sample::take(&*self.source)
    }

    /// How the clock is doing.
    #[must_use]
    pub fn status(&self) -> ClockStatus {
        let control = self.control();
        let now = self.reading();
        ClockStatus {
            offset_ms: ntp::ms(now.offset_ns()),
            ntp: control.reference.map(|reference| reference.wall_ns(&now)).map(|wall| NtpOffset {
                offset_ms: ntp::ms(wall.ahead_ns),
                error_ms: ntp::ms(wall.error_ns),
            }),
            slewing: self.line.load().is_slewing(),
            leap: control.leap.map(|leap| PendingLeap {
                ahead_ms: leap.ahead_ms(),
                since_ms: leap.since_ms(),
                denied: leap.denied(),
            }),
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
        let sample = self.sample();
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
    /// The wall clock against what NTP said last, however long ago.
    pub ntp: Option<NtpOffset>,
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

/// The wall clock against NTP.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NtpOffset {
    /// Wall minus NTP, in milliseconds.
    pub offset_ms: f64,
    /// How far that may be off: the older what NTP said, the further.
    pub error_ms: f64,
}

/// A leap of the wall clock that is not believed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingLeap {
    /// How far the wall clock is ahead, in milliseconds.
    pub ahead_ms: u64,
    /// Since when, in Unix milliseconds of the serving clock.
    pub since_ms: u64,
    /// Whether NTP denies it.
    pub denied: bool,
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

/// A time further on; the same one where that is behind.
fn forward(serving_ns: u64, away_ns: i128) -> u64 {
    serving_ns.saturating_add(u64::try_from(away_ns).unwrap_or(0))
}
