//! The decisions of the control loop, free of clocks and of sharing.

use super::event::{ClockEvent, CorrectiveAction};
use super::reference::{Apart, Reference};
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
    /// From when on it counts how long it has lasted, in boot time.
    held_from_ns: u64,
    denied: bool,
}

/// What a reference says of a leap.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Confirmed,
    Denied,
    Unknown,
}

impl Leap {
    const fn new(since: Reading) -> Self {
        Self { held_from_ns: since.sample.boot_ns, since, denied: false }
    }

    pub(super) fn ahead_ms(&self) -> u64 {
        ms(self.since.offset_ns())
    }

    pub(super) const fn since_ms(&self) -> u64 {
        self.since.serving_ns / NS_PER_MS
    }

    pub(super) const fn denied(&self) -> bool {
        self.denied
    }

    fn held_ms(&self, now: &Reading) -> u64 {
        now.sample.boot_ns.saturating_sub(self.held_from_ns) / NS_PER_MS
    }

    fn is_still_there(&self, now: &Reading) -> bool {
        now.sample.step_ns_since(&self.since.sample).abs() <= LEAP_NS
    }

    /// What was said before the leap says nothing of it: a host that was stopped without its boot clock's noticing
    /// looks as if its wall clock had leapt, and has not.
    fn verdict(&self, reference: Option<Reference>, now: &Reading) -> Verdict {
        let Some(reference) = reference.filter(|said| said.boot_ns >= self.since.sample.boot_ns) else {
            return Verdict::Unknown;
        };
        let Apart { ahead_ns, error_ns, .. } = reference.wall_ns(now);
        match ahead_ns.abs() {
            off_ns if off_ns > error_ns.max(LEAP_NS) => Verdict::Denied,
            _ if error_ns <= LEAP_NS => Verdict::Confirmed,
            _ => Verdict::Unknown,
        }
    }
}

/// What the control loop remembers from step to step.
#[derive(Debug)]
pub(super) struct Control {
    last: Sample,
    pub(super) settings: ClockSettings,
    pub(super) reference: Option<Reference>,
    pub(super) leap: Option<Leap>,
    pub(super) regressions: u64,
    pub(super) leaps_pending: u64,
    pub(super) leaps_dropped: u64,
    pub(super) leaps_believed: u64,
}

/// What the serving clock is to do until the next step.
pub(super) struct Decision {
    pub(super) action: CorrectiveAction,
    /// How far ahead the time is that it is to have; negative where that is behind.
    pub(super) away_ns: i128,
    pub(super) event: Option<ClockEvent>,
}

impl Control {
    pub(super) const fn new(last: Sample, settings: ClockSettings) -> Self {
        Self {
            last,
            settings,
            reference: None,
            leap: None,
            regressions: 0,
            leaps_pending: 0,
            leaps_dropped: 0,
            leaps_believed: 0,
        }
    }

    /// What to do now, and what to report: an event's own action is always the one that is returned.
    ///
    /// The wall clock is followed as far as the reference allows. Where it does not, the serving clock goes with the
    /// reference; where the reference is too vague to tell, it stays within what that allows.
    pub(super) fn decide(&mut self, now: &Reading) -> Decision {
        let step_ns = now.sample.step_ns_since(&self.last);
        self.last = now.sample;
        // Left behind by a serving clock that goes with the reference, the wall clock has not leapt.
        let leapt = self.leap.is_some() || self.reference.is_none() || step_ns > STEP_NS;
        let denied = self.denies(now);
        let (action, event) = if now.offset_ns() > LEAP_NS && leapt {
            let event = self.doubt(now);
            (event.map_or(CorrectiveAction::Hold, |event| event.corrective_action()), event)
        } else {
            let action = if denied { CorrectiveAction::Hold } else { CorrectiveAction::Slew };
            (action, self.follow(now, step_ns, denied))
        };
        let away_ns = match self.reference {
            None if action == CorrectiveAction::Hold => 0,
            None => now.offset_ns(),
            Some(reference) if action == CorrectiveAction::Hold => {
                let serving = reference.serving_ns(now);
                -(if denied { serving.ahead_ns } else { serving.beyond_ns })
            }
            Some(reference) => now.offset_ns() - reference.wall_ns(now).beyond_ns,
        };
        Decision { action, away_ns, event }
    }

    /// Whether the reference does not allow what the wall clock says.
    fn denies(&self, now: &Reading) -> bool {
        self.reference.is_some_and(|reference| reference.wall_ns(now).beyond_ns.abs() > STEP_NS)
    }

    /// What is done about how far the wall clock is off the reference.
    pub(super) fn action(&self, now: &Reading) -> CorrectiveAction {
        let serving = self.reference.map(|reference| reference.serving_ns(now));
        match serving {
            _ if self.too_far(now).is_some() => CorrectiveAction::Refuse,
            _ if !self.denies(now) => CorrectiveAction::Nothing,
            Some(serving) if serving.beyond_ns.abs() > STEP_NS => CorrectiveAction::Slew,
            _ => CorrectiveAction::Hold,
        }
    }

    /// How far the wall clock or the serving clock is off the reference, where that is too far to go on.
    pub(super) fn too_far(&self, now: &Reading) -> Option<u64> {
        let (reference, above_ms) = (self.reference?, self.settings.refuse_above_ms?);
        let (wall, serving) = (reference.wall_ns(now), reference.serving_ns(now));
        let off_ns = wall.ahead_ns.abs().max(serving.ahead_ns.abs());
        let limit_ns = i128::from(above_ms) * i128::from(NS_PER_MS);
        (off_ns > wall.error_ns.max(limit_ns)).then(|| ms(off_ns))
    }

    /// The wall clock is too far ahead to follow: believe it when it is confirmed, or has lasted and is not denied.
    fn doubt(&mut self, now: &Reading) -> Option<ClockEvent> {
        let ahead_ms = ms(now.offset_ns());
        let Some(leap) = self.leap.as_mut().filter(|leap| leap.is_still_there(now)) else {
            self.leap = Some(Leap::new(*now));
            self.leaps_pending += 1;
            return Some(ClockEvent::LeapPending { ahead_ms, confirm_s: self.settings.leap_confirm_s });
        };
        let verdict = leap.verdict(self.reference, now);
        if verdict == Verdict::Denied {
            leap.held_from_ns = now.sample.boot_ns;
            let again = std::mem::replace(&mut leap.denied, true);
            return (!again).then_some(ClockEvent::LeapDenied { ahead_ms });
        }
        leap.denied = false;
        let (held_ms, confirmed) = (leap.held_ms(now), verdict == Verdict::Confirmed);
        let lasted = held_ms >= self.settings.leap_confirm_s.saturating_mul(1000);
        // There is no way back from believing a clock that shows no time, or one that has no timestamp.
        let believable = now.sample.time_ns().is_some_and(|ns| ns / NS_PER_MS < self.settings.end_ms);
        if !believable || !(confirmed || lasted) {
            return None;
        }
        self.leap = None;
        self.leaps_believed += 1;
        if !confirmed && self.denies(now) {
            // What was said before a leap that has lasted is over.
            self.reference = None;
        }
        Some(ClockEvent::LeapBelieved { ahead_ms, held_ms, confirmed })
    }

    /// The wall clock is near enough, or behind. A step back that only takes back a leap is not a
    /// regression: the serving clock never went along.
    fn follow(&mut self, now: &Reading, step_ns: i128, denied: bool) -> Option<ClockEvent> {
        let leap = self.leap.take();
        self.leaps_dropped += u64::from(leap.is_some());
        match leap {
            Some(leap) if now.offset_ns() >= -STEP_NS => Some(ClockEvent::LeapDropped {
                ahead_ms: leap.ahead_ms(),
                held_ms: leap.held_ms(now),
                denied,
            }),
            _ if step_ns < -STEP_NS => {
                self.regressions += 1;
                Some(ClockEvent::Regressed { step_ms: ms(-step_ns), behind_ms: ms(-now.offset_ns()), denied })
            }
            _ => None,
        }
    }
}

/// Nanoseconds as whole milliseconds, 0 for negative ones.
fn ms(ns: i128) -> u64 {
    u64::try_from(ns.max(0) / i128::from(NS_PER_MS)).unwrap_or(u64::MAX)
}
