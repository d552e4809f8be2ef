//! The protocol of the fence, explored exhaustively: every order of every step, within small bounds.
//!
//! **Modelled** is one slot: its record in the registry, and processes that claim the slot, extend their window,
//! mint, give up waiting and crash, while their messages arrive late, in any order, or never.
//!
//! * *A clock is not part of the state*: each time one is read it says anything, so it may stand, leap and
//!   step back at will, differently for each process.
//! * *A pause is no state either*: a process that takes no step for a while is paused, before any step, for
//!   any time, with whatever it believes.
//! * *No lease is in sight*: who looks alive may be wrong at any time, so anybody may take the slot over at
//!   any time.
//! * *A swap* that was sent may take effect at any later time, whatever has become of its sender, or never: a
//!   lost one is one that never arrives, and one that is repeated is the same message. Its reply may be late
//!   or lost too. Whoever waits may at any time read the record instead, or give up.
//! * *A crash* takes all that a process knew, but not what it sent. It may never come back, or begin anew, even
//!   under its old name: real ones get a new instance with each life, which is safer still.
//!
//! **Assumed** is what docs/guarantees.md assumes: the registry is linearizable and durable. That one generator
//! never repeats itself within a millisecond is shown elsewhere (`loom.rs`, `generator.rs`): here a
//! millisecond has one ID.
//!
//! **Bounds:** [`PROCESSES`], [`TICKS`], [`WINDOW_MS`], [`IN_FLIGHT_MAX`]. The processes are alike, so of states
//! that differ only in who is who one is explored. States are told apart by hashes of 64 bits.
//!
//! Each [`Fault`] breaks one rule on purpose; the same properties must then find an ID that comes twice.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "the model is its own registry")]
#![allow(clippy::print_stdout, reason = "how much was explored is part of the evidence")]

use std::collections::BTreeSet;
use std::thread;
use std::time::Instant;

use snowmint::{Ceiling, Claim, Id, Layout, Slot, Split};
use stateright::{Checker, HasDiscoveries, Model, Property, Representative};

/// How many processes want the slot: two that compete, and a third that comes between.
const PROCESSES: usize = 3;

/// How many are enough to break the broken variants, so that the shortest history is found soon.
const PROCESSES_OF_A_FAULT: usize = 2;

/// How many milliseconds there are: clocks show 0 and up, and no window reaches further. Each swap needs a new
/// ceiling, so there are never more swaps than milliseconds. In release there are more, and some 200 times as
/// many states.
const TICKS: u64 = if cfg!(debug_assertions) { 4 } else { 6 };

/// How far past the clock a window reaches.
const WINDOW_MS: u64 = 2;

/// How many different swaps of one process may be under way at once: the one it waits for, and one it gave
/// up on.
const IN_FLIGHT_MAX: usize = 2;

const SLOT: Slot = Slot { datacenter: 0, worker: 0 };

/// Timestamps of 3 bits: a few more than [`TICKS`].
const SPLIT: [u8; 4] = [3, 16, 16, 28];

/// A rule that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// A lease that looks expired is believed to have stopped its holder: the successor starts at its own
    /// clock and not at the ceiling.
    TrustsTheTtl,
    /// A holder writes its extension whatever the record has become.
    ExtendsWithoutSwap,
    /// A reply that does not come is taken for success.
    GuessesLostReplies,
    /// A process whose clock is behind makes its lower ceiling durable.
    LowersTheCeiling,
    /// An owner is a name and not a life: any record with the ceiling that was asked for counts as granted.
    OwnersLookAlike,
}

/// The fence, whole or with one rule broken.
struct Fence {
    processes: usize,
    fault: Option<Fault>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    record: Option<Record>,
    processes: Vec<Process>,
    /// For the checker alone: what lay in two windows.
    given_twice: Ticks,
    /// For the checker alone: what was minted twice.
    minted_twice: Ticks,
    /// For the checker alone: what the last step was an example of.
    sight: Option<Sight>,
}

/// The slot's record. Revisions count its changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Record {
    owner: usize,
    ceiling: u64,
    revision: u64,
}

/// One that wants the slot: what it believes, and what it has sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Process {
    holds: Option<Holding>,
    waits_for: Option<Waiting>,
    /// Swaps that may still take effect.
    in_flight: BTreeSet<Swap>,
    /// For the checker alone: the milliseconds of all windows that were made durable for it.
    given: Ticks,
    /// For the checker alone: the milliseconds of its IDs.
    minted: Ticks,
}

/// The window a process believes in: it may mint from `next` up to `ceiling`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Holding {
    next: u64,
    ceiling: u64,
    revision: u64,
}

/// A swap whose outcome is not known to its sender, and whether the registry has confirmed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Waiting {
    swap: Swap,
    confirmed: bool,
}

/// Makes `ceiling` the sender's, if the record's revision is the expected one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Swap {
    expected: Option<u64>,
    floor: u64,
    ceiling: u64,
    /// Only by a [`Fault`]: whatever the revision.
    blind: bool,
}

impl Swap {
    fn takes_effect(&self, record: Option<Record>) -> bool {
        self.blind || self.expected == record.map(|record| record.revision)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Action {
    who: usize,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// A process asks for the slot, or for more of it, by what its clock says.
    Ask(u64),
    /// A swap reaches the registry.
    Arrive(Swap),
    /// A confirmation reaches the sender.
    Hear,
    /// The sender takes the reply for lost, and reads the record.
    Look,
    /// The sender does not want to know any more, and keeps what it has.
    GiveUp,
    /// One ID, by what the clock says.
    Mint(u64),
    /// The process ends, gives the slot back, or takes it for lost though it is not. It may begin anew.
    Crash,
}

/// What must be possible, or the model would show nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Sight {
    /// A holder mints from its window after the slot was taken over.
    MintsAfterTakeover,
    /// A process learns by reading that its swap took effect.
    FindsItsSwapDone,
    /// A process learns that its swap took effect after the slot was taken over.
    HearsAfterTakeover,
    /// A swap takes effect after its sender crashed, or gave up with nothing in hand, which is the same.
    OutlivesItsSender,
    /// A swap takes effect after its sender gave it up and asked for something else.
    OutlivesItsPurpose,
}

/// A set of milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Ticks(u64);

impl Ticks {
    fn span(floor: u64, ceiling: u64) -> Self {
        (floor..ceiling).map(Self::one).fold(Self::default(), Self::and)
    }

    fn one(tick: u64) -> Self {
        Self(1 << tick)
    }

    fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    fn end(self) -> u64 {
        (u64::BITS - self.0.leading_zeros()).into()
    }
}

impl Fence {
    /// The real rule of how a window follows from the ceiling there is and the clock: where it starts and
    /// ends, if it may be asked for at all.
    fn claim(floor: Option<u64>, clock: u64) -> Option<(u64, u64)> {
        let [timestamp, datacenter, worker, sequence] = SPLIT;
        let layout = Layout::new(Split::new(timestamp, datacenter, worker, sequence).unwrap(), 0).unwrap();
        let id_at = |tick| Id::new(tick << (datacenter + worker + sequence)).unwrap();
        let ceiling_at = |tick| Ceiling::from_id(layout, id_at(tick)).unwrap();
        let claim = Claim::new(layout, SLOT, floor.map(ceiling_at), clock, WINDOW_MS).ok()?;
        let window = claim.granted();
        Some((window.floor_ms(), window.ceiling_ms()))
    }

    /// Asks for a slot that is nobody's, or somebody else's: to this, it makes no difference.
    fn take(&self, record: Option<Record>, clock: u64) -> Option<Swap> {
        let ceiling = record.map(|record| record.ceiling);
        let (floor, ceiling) = match self.fault {
            Some(Fault::TrustsTheTtl) => (clock, Self::claim(None, clock)?.1),
            Some(Fault::LowersTheCeiling) => (ceiling.unwrap_or(0), Self::claim(None, clock)?.1),
            _ => Self::claim(ceiling, clock)?,
        };
        Some(Swap { expected: record.map(|record| record.revision), floor, ceiling, blind: false })
    }

    fn extend(&self, holding: Holding, clock: u64) -> Option<Swap> {
        let (floor, ceiling) = Self::claim(Some(holding.ceiling), clock)?;
        let blind = self.fault == Some(Fault::ExtendsWithoutSwap);
        Some(Swap { expected: Some(holding.revision), floor, ceiling, blind })
    }

    fn ask(&self, state: &mut State, who: usize, clock: u64) -> Option<()> {
        let swap = match state.processes[who].holds {
            Some(holding) => self.extend(holding, clock)?,
            None => self.take(state.record, clock)?,
        };
        state.processes[who].waits_for = Some(Waiting { swap, confirmed: false });
        state.send(who, swap);
        Some(())
    }

    /// An unknown outcome is looked into: see `resolve` in the server's `registry/mod.rs`.
    fn look(&self, state: &mut State, who: usize) -> Option<()> {
        let Waiting { swap, .. } = state.processes[who].waits_for?;
        let (stands, fault) = (state.record, self.fault);
        let is_its_own = |record: &Record| {
            record.ceiling == swap.ceiling && (record.owner == who || fault == Some(Fault::OwnersLookAlike))
        };
        if fault == Some(Fault::GuessesLostReplies) {
            state.grant(who, swap.expected.map_or(1, |revision| revision + 1))?;
        } else if let Some(record) = stands.filter(is_its_own) {
            state.sight = Some(Sight::FindsItsSwapDone);
            state.grant(who, record.revision)?;
        } else if stands.map(|record| record.revision) == swap.expected {
            state.send(who, swap);
        } else {
            state.forget(who);
        }
        Some(())
    }
}

impl State {
    fn given(&self) -> Ticks {
        self.processes.iter().map(|process| process.given).fold(Ticks::default(), Ticks::and)
    }

    fn minted(&self) -> Ticks {
        self.processes.iter().map(|process| process.minted).fold(Ticks::default(), Ticks::and)
    }

    fn is_owner(&self, who: usize) -> bool {
        self.record.is_some_and(|record| record.owner == who)
    }

    /// A swap that comes too late for its revision comes too late for ever, and is forgotten.
    fn send(&mut self, who: usize, swap: Swap) {
        if swap.takes_effect(self.record) {
            self.processes[who].in_flight.insert(swap);
        }
    }

    fn arrive(&mut self, who: usize, swap: Swap) {
        let revision = self.record.map_or(0, |record| record.revision) + 1;
        let record = Some(Record { owner: who, ceiling: swap.ceiling, revision });
        let window = Ticks::span(swap.floor, swap.ceiling);
        self.given_twice = self.given_twice.and(self.given().common(window));
        self.record = record;
        let sender = &mut self.processes[who];
        sender.given = sender.given.and(window);
        sender.in_flight.remove(&swap);
        match &mut sender.waits_for {
            Some(waiting) if waiting.swap == swap => waiting.confirmed = true,
            Some(_) => self.sight = Some(Sight::OutlivesItsPurpose),
            None if sender.holds.is_none() => self.sight = Some(Sight::OutlivesItsSender),
            None => {}
        }
        for process in &mut self.processes {
            process.in_flight.retain(|swap| swap.takes_effect(record));
        }
    }

    fn hear(&mut self, who: usize) -> Option<()> {
        let Waiting { swap, .. } = self.processes[who].waits_for?;
        if !self.is_owner(who) {
            self.sight = Some(Sight::HearsAfterTakeover);
        }
        self.grant(who, swap.expected.map_or(1, |revision| revision + 1))
    }

    /// What was asked for becomes the process's window, or the continuation of the one it has.
    fn grant(&mut self, who: usize, revision: u64) -> Option<()> {
        let process = &mut self.processes[who];
        let Waiting { swap, .. } = process.waits_for.take()?;
        let next = process.holds.map_or(swap.floor, |holding| holding.next);
        process.holds = Some(Holding { next, ceiling: swap.ceiling, revision });
        Some(())
    }

    fn mint(&mut self, who: usize, clock: u64) -> Option<()> {
        let holding = self.processes[who].holds?;
        let id = Ticks::one(clock);
        if !self.is_owner(who) {
            self.sight = Some(Sight::MintsAfterTakeover);
        }
        self.minted_twice = self.minted_twice.and(self.minted().common(id));
        let process = &mut self.processes[who];
        process.minted = process.minted.and(id);
        process.holds = Some(Holding { next: clock + 1, ..holding });
        Some(())
    }

    /// All that could mint is gone. What was sent is not, nor what was given and minted.
    fn forget(&mut self, who: usize) {
        let process = &mut self.processes[who];
        (process.holds, process.waits_for) = (None, None);
    }
}

impl Representative for State {
    fn representative(&self) -> Self {
        let mut order: Vec<usize> = (0..self.processes.len()).collect();
        order.sort_by_key(|&who| (self.is_owner(who), &self.processes[who]));
        let owner_last = |record| Record { owner: order.len() - 1, ..record };
        Self {
            record: self.record.map(owner_last),
            processes: order.iter().map(|&who| self.processes[who].clone()).collect(),
            ..*self
        }
    }
}

const NO_ID_TWICE: &str = "1: no ID is minted twice";
const INSIDE_A_WINDOW: &str = "2: every ID lies inside a durable window of its minter";
const WINDOWS_DISJOINT: &str = "3: ceilings never decrease, and windows are disjoint";

impl Model for Fence {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            record: None,
            processes: vec![Process::default(); self.processes],
            given_twice: Ticks::default(),
            minted_twice: Ticks::default(),
            sight: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (who, process) in state.processes.iter().enumerate() {
            let mut may = |step| actions.push(Action { who, step });
            process.in_flight.iter().for_each(|&swap| may(Step::Arrive(swap)));
            may(Step::Crash);
            match process.waits_for {
                Some(Waiting { confirmed, .. }) => {
                    confirmed.then_some(Step::Hear).into_iter().for_each(&mut may);
                    [Step::Look, Step::GiveUp].into_iter().for_each(&mut may);
                }
                None if process.in_flight.len() < IN_FLIGHT_MAX => {
                    (0..=TICKS - WINDOW_MS).map(Step::Ask).for_each(&mut may);
                }
                None => {}
            }
            // Inside the window and past its last ID, as in `Generator::mint`; at any other time nothing.
            if let Some(holding) = process.holds {
                (holding.next..holding.ceiling).map(Step::Mint).for_each(&mut may);
            }
        }
    }

    fn next_state(&self, state: &State, Action { who, step }: Action) -> Option<State> {
        let mut next = State { sight: None, ..state.clone() };
        match step {
            Step::Ask(clock) => self.ask(&mut next, who, clock)?,
            Step::Arrive(swap) => next.arrive(who, swap),
            Step::Hear => next.hear(who)?,
            Step::Look => self.look(&mut next, who)?,
            Step::GiveUp => next.processes[who].waits_for = None,
            Step::Mint(clock) => next.mint(who, clock)?,
            Step::Crash => next.forget(who),
        }
        Some(next)
    }

    /// Cuts off nothing of the whole fence, only what a fault adds without end.
    fn within_boundary(&self, state: &State) -> bool {
        state.record.is_none_or(|record| record.revision <= TICKS)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NO_ID_TWICE, |_, state: &State| state.minted_twice == Ticks::default()),
            Property::always(INSIDE_A_WINDOW, |_, state: &State| {
                state.processes.iter().all(|process| process.minted.common(process.given) == process.minted)
            }),
            // All that was ever given lies below the ceiling: it never went down.
            Property::always(WINDOWS_DISJOINT, |_, state: &State| {
                state.given_twice == Ticks::default()
                    && state.given().end() == state.record.map_or(0, |record| record.ceiling)
            }),
            Property::sometimes("all processes mint", |_, state: &State| {
                state.processes.iter().all(|process| process.minted != Ticks::default())
            }),
            Property::sometimes(
                "a holder that was taken over mints the rest of its window",
                |_, state: &State| state.sight == Some(Sight::MintsAfterTakeover),
            ),
            Property::sometimes("a swap whose reply was lost is found done", |_, state: &State| {
                state.sight == Some(Sight::FindsItsSwapDone)
            }),
            Property::sometimes("a reply comes after the slot was taken over", |_, state: &State| {
                state.sight == Some(Sight::HearsAfterTakeover)
            }),
            Property::sometimes("a swap takes effect after its sender crashed", |_, state: &State| {
                state.sight == Some(Sight::OutlivesItsSender)
            }),
            Property::sometimes(
                "a swap takes effect after its sender asked for something else",
                |_, state: &State| state.sight == Some(Sight::OutlivesItsPurpose),
            ),
        ]
    }
}

#[test]
fn no_id_comes_twice_and_windows_are_disjoint_in_every_history() {
    let start = Instant::now();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let fence = Fence { processes: PROCESSES, fault: None };
    let explored = fence.checker().threads(threads).symmetry().spawn_dfs().join();
    println!(
        "{} states ({} steps between them), {} deep, in {:.1?}",
        explored.unique_state_count(),
        explored.state_count(),
        explored.max_depth(),
        start.elapsed()
    );
    explored.assert_properties();
}

/// The fault shows as an ID that comes twice. It breaks `also` too: no property holds because it cannot fail.
fn is_caught(fault: Fault, also: &'static str) {
    let broken = Fence { processes: PROCESSES_OF_A_FAULT, fault: Some(fault) };
    let found = HasDiscoveries::AllOf([NO_ID_TWICE, also].into());
    let explored = broken.checker().finish_when(found).spawn_bfs().join();
    explored.assert_any_discovery(also);
    let history = explored.assert_any_discovery(NO_ID_TWICE).into_actions();
    println!("{fault:?}, after {} states:", explored.unique_state_count());
    for Action { who, step } in history {
        println!("  {who}: {step:?}");
    }
}

#[test]
fn an_id_comes_twice_if_a_lease_is_trusted() {
    is_caught(Fault::TrustsTheTtl, WINDOWS_DISJOINT);
}

#[test]
fn an_id_comes_twice_if_a_window_is_extended_without_a_swap() {
    is_caught(Fault::ExtendsWithoutSwap, WINDOWS_DISJOINT);
}

#[test]
fn an_id_comes_twice_if_a_ceiling_is_lowered() {
    is_caught(Fault::LowersTheCeiling, WINDOWS_DISJOINT);
}

#[test]
fn an_id_comes_twice_if_a_lost_reply_is_taken_for_success() {
    is_caught(Fault::GuessesLostReplies, INSIDE_A_WINDOW);
}

#[test]
fn an_id_comes_twice_if_owners_look_alike() {
    is_caught(Fault::OwnersLookAlike, INSIDE_A_WINDOW);
}
