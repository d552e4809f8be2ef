//! What happened, and whether it may have: every event is noted, and checked when it is.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use snowmint::{Id, IdRange, Slot};
use snowmint_server::registry::{Revision, WindowRecord};
use snowmint_server::service::Refused;
use tokio::time::Instant;
use uuid::Uuid;

use crate::world::Fault;

/// How many events are shown of a history that broke a promise.
const TAIL_EVENTS: usize = 60;

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Swap {
    Claim,
    Extend,
    Retire,
}

#[derive(Clone, Debug, Hash)]
pub enum Event {
    Started { host: usize, instance: Uuid },
    Granted { instance: Uuid, ranges: Vec<(Id, u32)> },
    Refused { instance: Uuid, code: &'static str },
    Swapped { slot: Slot, swap: Swap, instance: Uuid, ceiling: Id, revision: Revision },
    UnknownSwap { slot: Slot, instance: Uuid },
    SlotLost { slot: Slot, instance: Uuid },
    Fault(Fault),
    Healed,
    Serves { nodes: usize },
    Broken,
}

/// A promise that was broken.
#[derive(Debug)]
#[expect(dead_code, reason = "the fields are for whoever sees them printed")]
pub enum Violation {
    /// Invariant 1.
    Duplicate { id: Id, instance: Uuid },
    /// Invariants 2 and 10.
    OutsideWindow { id: Id, slot: Slot, instance: Uuid, window: Option<Granted> },
    /// Invariant 3.
    CeilingFell { slot: Slot, from: Id, to: Id },
    /// Invariant 4.
    NotIncreasing { id: Id, after: Id, instance: Uuid },
    /// Invariant 8.
    Late { instance: Uuid, took_ms: u64, most_ms: u64 },
    /// Invariant 10: something keeps the generator of a slot that was lost.
    GeneratorKept { slot: Slot, instance: Uuid },
    /// When nothing is wrong any more, minting goes on.
    Stuck { serving: usize, wanted: usize, problems: Vec<String> },
}

/// A window that became durable.
#[derive(Clone, Debug)]
pub struct Granted {
    pub instance: Uuid,
    pub floor: Id,
    pub ceiling: Id,
}

/// How often things happened that a simulation is of no use without.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub histories: u64,
    pub ids: u64,
    pub answers: u64,
    pub takeovers: u64,
    pub lost_slots: u64,
    pub unknown_swaps: u64,
    pub overflows: u64,
    pub refused_no_slot: u64,
    pub refused_window: u64,
    pub refused_clock: u64,
    pub refused_overflow: u64,
}

pub struct History {
    started: Instant,
    hasher: DefaultHasher,
    tail: VecDeque<(u64, Event)>,
    windows: BTreeMap<Slot, Vec<Granted>>,
    /// Acknowledged runs: the last ID of each, by its first.
    acknowledged: BTreeMap<u64, u64>,
    pub counts: Counts,
    pub violations: Vec<Violation>,
    layout: snowmint::Layout,
}

impl History {
    pub fn new(started: Instant, layout: snowmint::Layout) -> Self {
        Self {
            started,
            hasher: DefaultHasher::new(),
            tail: VecDeque::with_capacity(TAIL_EVENTS),
            windows: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            counts: Counts { histories: 1, ..Counts::default() },
            violations: Vec::new(),
            layout,
        }
    }

    pub fn note(&mut self, event: Event) {
        let at_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap();
        (at_ms, &event).hash(&mut self.hasher);
        if !self.violations.is_empty() {
            // What led to the first one is what is of interest.
            return;
        }
        if self.tail.len() == TAIL_EVENTS {
            self.tail.pop_front();
        }
        self.tail.push_back((at_ms, event));
    }

    pub fn hash(&self) -> u64 {
        self.hasher.finish()
    }

    /// Invariant 3, and the windows that invariant 2 is checked against.
    pub fn swapped(&mut self, slot: Slot, swap: Swap, before: Option<&WindowRecord>, record: &WindowRecord) {
        let windows = self.windows.get(&slot);
        let floor =
            windows.and_then(|windows| windows.last()).map_or(Id::new(0).unwrap(), |window| window.ceiling);
        let (instance, ceiling) = (record.owner.instance, record.ceiling);
        let rises = if swap == Swap::Retire { ceiling == floor } else { ceiling > floor };
        if !rises {
            self.broken(Violation::CeilingFell { slot, from: floor, to: ceiling });
        }
        if swap != Swap::Retire {
            self.windows.entry(slot).or_default().push(Granted { instance, floor, ceiling });
        }
        let taken_over = before.is_some_and(|before| before.owner.node != record.owner.node);
        self.counts.takeovers += u64::from(swap == Swap::Claim && taken_over);
    }

    /// The newest ceiling there is, in Unix milliseconds.
    pub fn newest_ceiling_ms(&self) -> u64 {
        let newest = self.windows.values().filter_map(|windows| Some(windows.last()?.ceiling)).max();
        newest.map_or(0, |ceiling| self.layout.decompose(ceiling).timestamp_ms)
    }

    /// Invariants 1, 2 and 10: no ID twice, each in a window that was its minter's and durable.
    pub fn granted(&mut self, instance: Uuid, ranges: &[IdRange]) {
        self.counts.answers += 1;
        let runs = ranges.iter().map(|range| (range.first(), range.count()));
        self.note(Event::Granted { instance, ranges: runs.collect() });
        for range in ranges {
            self.counts.ids += u64::from(range.count());
            self.check_unique(instance, *range);
            self.check_window(instance, *range);
        }
    }

    fn check_unique(&mut self, instance: Uuid, range: IdRange) {
        let (first, last) = (range.first().get(), range.last().get());
        let overlapped = self.acknowledged.range(..=last).next_back().filter(|&(_, &end)| end >= first);
        if let Some((&start, _)) = overlapped {
            let id = Id::new(start.max(first)).unwrap();
            self.broken(Violation::Duplicate { id, instance });
        }
        let end = self.acknowledged.entry(first).or_insert(last);
        *end = last.max(*end);
    }

    fn check_window(&mut self, instance: Uuid, range: IdRange) {
        let (first, last) = (range.first(), range.last());
        let slot = self.layout.decompose(first).slot;
        let windows = self.windows.get(&slot).map_or(&[][..], Vec::as_slice);
        let window = windows.get(windows.partition_point(|window| window.ceiling <= first));
        let inside = window.is_some_and(|window| {
            window.instance == instance && window.floor <= first && last < window.ceiling
        });
        if !inside {
            let window = window.cloned();
            self.broken(Violation::OutsideWindow { id: first, slot, instance, window });
        }
    }

    pub fn refused(&mut self, instance: Uuid, refused: &Refused) {
        let (code, count) = match refused {
            Refused::NoSlot(_) => ("no slot", &mut self.counts.refused_no_slot),
            Refused::WindowClosed { .. } => ("window closed", &mut self.counts.refused_window),
            Refused::ClockBehind { .. } => ("clock behind", &mut self.counts.refused_clock),
            Refused::ClockOff { .. } => ("clock off", &mut self.counts.refused_clock),
            Refused::Overflow { .. } => ("overflow", &mut self.counts.refused_overflow),
        };
        *count += 1;
        self.note(Event::Refused { instance, code });
    }

    pub fn broken(&mut self, violation: Violation) {
        self.note(Event::Broken);
        self.violations.push(violation);
    }
}

/// The end of it, for whoever has to find out what went wrong.
impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at_ms, event) in &self.tail {
            writeln!(f, "{at_ms:>8} ms  {event:?}")?;
        }
        Ok(())
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.histories += more.histories;
        self.ids += more.ids;
        self.answers += more.answers;
        self.takeovers += more.takeovers;
        self.lost_slots += more.lost_slots;
        self.unknown_swaps += more.unknown_swaps;
        self.overflows += more.overflows;
        self.refused_no_slot += more.refused_no_slot;
        self.refused_window += more.refused_window;
        self.refused_clock += more.refused_clock;
        self.refused_overflow += more.refused_overflow;
    }
}

impl Counts {
    /// A simulation in which nothing happens shows nothing.
    pub fn assert_all_happened(&self) {
        let text = format!("{self:?}");
        assert!(!text.contains(": 0,") && !text.contains(": 0 "), "something never happened: {text}");
    }
}
