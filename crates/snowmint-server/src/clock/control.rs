//! The decisions of the control loop, free of clocks and of sharing.

use super::event::{ClockEvent, CorrectiveAction};
use super::source::Sample;
use super::{ClockSettings, LEAP_MS, NS_PER_MS, STEP_MS};

const LEAP_NS: i128 = (LEAP_MS * NS_PER_MS) as i128;
const STEP_NS: i128 = (STEP_MS * NS_PER_MS) as i128;

/// The host's clocks and the serving clock at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) sample: Sample,
    pub(super) serving_ns: u64,
}

impl Reading {
    /// Wall minus serving.
    pub(super) fn offset_ns(&self) -> i128 {
        self.sample.wall_ns - i128::from(self.serving_ns)
    }
}

/// A wall clock that is ahead and not believed yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leap {
    since: Reading,
    confirmed: bool,
}

impl Leap {
    pub(super) fn ahead_ms(&self) -> u64 {
        ms(self.since.offset_ns())
    }

    pub(super) const fn since_ms(&self) -> u64 {
        self.since.serving_ns / NS_PER_MS
    }

    fn held_ms(&self, now: &Reading) -> u64 {
        now.sample.boot_ns.saturating_sub(self.since.sample.boot_ns) / NS_PER_MS
    }

    fn is_still_there(&self, now: &Reading) -> bool {
        (now.offset_ns() - self.since.offset_ns()).abs() <= LEAP_NS
    }
}

/// What the control loop remembers from step to step.
#[derive(Debug)]
pub(super) struct Control {
    last: Sample,
    settings: ClockSettings,
    pub(super) leap: Option<Leap>,
    pub(super) regressions: u64,
    pub(super) leaps_pending: u64,
    pub(super) leaps_dropped: u64,
    pub(super) leaps_believed: u64,
}

impl Control {
    pub(super) const fn new(last: Sample, settings: ClockSettings) -> Self {
        Self {
            last,
            settings,
            leap: None,
            regressions: 0,
            leaps_pending: 0,
            leaps_dropped: 0,
            leaps_believed: 0,
        }
    }

    pub(super) const fn confirm_leap(&mut self) {
        if let Some(leap) = &mut self.leap {
            leap.confirmed = true;
        }
    }

    /// What to do now, and what to report: an event's own action is always the one that is returned.
    pub(super) fn decide(&mut self, now: &Reading) -> (CorrectiveAction, Option<ClockEvent>) {
        let step_ns = now.sample.step_ns_since(&self.last);
        self.last = now.sample;
        if now.offset_ns() > LEAP_NS {
            let event = self.doubt(now);
            (event.map_or(CorrectiveAction::Hold, |event| event.corrective_action()), event)
        } else {
            (CorrectiveAction::Slew, self.follow(now, step_ns))
        }
    }

    /// The wall clock is too far ahead to follow: believe it when it is confirmed or has lasted.
    fn doubt(&mut self, now: &Reading) -> Option<ClockEvent> {
        let Some(leap) = self.leap.filter(|leap| leap.is_still_there(now)) else {
            self.leap = Some(Leap { since: *now, confirmed: false });
            self.leaps_pending += 1;
            let ahead_ms = ms(now.offset_ns());
            return Some(ClockEvent::LeapPending { ahead_ms, confirm_s: self.settings.leap_confirm_s });
        };
        let held_ms = leap.held_ms(now);
        let lasted = held_ms >= self.settings.leap_confirm_s.saturating_mul(1000);
        // There is no way back from believing a clock that shows no time, or one that has no timestamp.
        let believable = now.sample.time_ns().is_some_and(|ns| ns / NS_PER_MS < self.settings.end_ms);
        if !believable || !(leap.confirmed || lasted) {
            return None;
        }
        self.leap = None;
        self.leaps_believed += 1;
        Some(ClockEvent::LeapBelieved { ahead_ms: ms(now.offset_ns()), held_ms, confirmed: leap.confirmed })
    }

    /// The wall clock is near enough, or behind. A step back that only takes back a leap is not a
    /// regression: the serving clock never went along.
    fn follow(&mut self, now: &Reading, step_ns: i128) -> Option<ClockEvent> {
        let leap = self.leap.take();
        self.leaps_dropped += u64::from(leap.is_some());
        match leap {
            Some(leap) if now.offset_ns() >= -STEP_NS => {
                Some(ClockEvent::LeapDropped { ahead_ms: leap.ahead_ms(), held_ms: leap.held_ms(now) })
            }
            _ if step_ns < -STEP_NS => {
                self.regressions += 1;
                Some(ClockEvent::Regressed { step_ms: ms(-step_ns), behind_ms: ms(-now.offset_ns()) })
            }
            _ => None,
        }
    }
}

/// Nanoseconds as whole milliseconds, 0 for negative ones.
fn ms(ns: i128) -> u64 {
    u64::try_from(ns.max(0) / i128::from(NS_PER_MS)).unwrap_or(u64::MAX)
}
