//! Which slot a node takes.

use jiff::Timestamp;
use snowmint::{Ceiling, Layout, Slot};

use crate::registry::{Owner, Retired, Revision, SlotState, Snapshot, timestamp};

/// What a node asks for.
pub(super) struct Wish<'a> {
    /// In which datacenter.
    pub(super) datacenter: u16,
    /// This worker and no other, where it is fixed.
    pub worker: Option<u16>,
    /// The node's name: it may take back a slot it gave back itself, or died with.
    pub node: &'a str,
    /// The slots that this very process holds.
    pub held: &'a [Slot],
    /// Whether a slot that cools down for another node may be taken when nothing else is free.
    pub reuse_cooling: bool,
}

/// A slot to be taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// Which.
    pub slot: Slot,
    /// The ceiling its record has.
    pub floor: Option<Ceiling>,
    /// The revision its record has.
    pub revision: Option<Revision>,
}

/// Why there is no slot to take.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NoSlot {
    /// The fixed worker is another node's.
    #[error("{slot} is held by {holder}")]
    Held {
        /// The slot that is wanted.
        slot: Slot,
        /// Who holds it.
        holder: Owner,
    },
    /// The fixed worker cools down.
    #[error("{slot} was given back by node {node} and is kept for it until {until}")]
    Cooling {
        /// The slot that is wanted.
        slot: Slot,
        /// The node it is kept for.
        node: String,
        /// When any node may take it.
        until: Timestamp,
    },
    /// No worker of the datacenter is free.
    #[error(
        "no worker slot is free in datacenter {datacenter}: of {workers}, {} are held{}, {} are kept for the nodes \
         that gave them back{}{}{}",
        held.len(),
        list(held.iter().map(|(worker, owner)| format!("{worker} by {}", owner.node))),
        cooling.len(),
        list(cooling.iter().map(|(worker, retired)| format!("{worker} for {}", retired.node))),
        if *damaged > 0 { format!(", {damaged} have entries that cannot be read") } else { String::new() },
        next.map(|at| format!("; the next comes free at {at}")).unwrap_or_default()
    )]
    Exhausted {
        /// Which datacenter.
        datacenter: u16,
        /// How many workers it has room for.
        workers: u32,
        /// Which workers are held, and by whom.
        held: Vec<(u16, Owner)>,
        /// Which cool down, and for whom.
        cooling: Vec<(u16, Retired)>,
        /// How many have an entry that cannot be read.
        damaged: usize,
        /// When the next one has cooled down.
        next: Option<Timestamp>,
    },
    /// An entry of the fixed worker cannot be read, or is not of this layout.
    #[error("{slot} cannot be used: {problem}")]
    Damaged {
        /// The slot that is wanted.
        slot: Slot,
        /// Which entry, and what is wrong with it.
        problem: String,
    },
}

/// In brackets, where there are any.
fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    if items.is_empty() { String::new() } else { format!(" ({})", items.join(", ")) }
}

/// The slot this node held last, or else the free slot whose ceiling is oldest; slots whose ceiling is
/// still ahead of the clock only if there is no other.
pub(super) fn choose(
    snapshot: &Snapshot,
    layout: Layout,
    wish: &Wish<'_>,
    now_ms: u64,
) -> Result<Choice, NoSlot> {
    let mut slots = Slots::default();
    for slot in candidates(layout, wish) {
        slots.add(slot, snapshot.slots.get(&slot), layout, wish, now_ms);
    }
    if slots.free.is_empty() && wish.reuse_cooling {
        let cooled = slots.cooling.extract_if(.., |(candidate, _)| candidate.ceiling_ms <= now_ms);
        slots.free.extend(cooled.map(|(candidate, _)| candidate));
    }
    let free = std::mem::take(&mut slots.free);
    match free.into_iter().min_by_key(|candidate| candidate.rank(now_ms)) {
        Some(best) => Ok(best.choice),
        None => Err(slots.refusal(layout, wish)),
    }
}

/// The slots a node could have, by what keeps it from them.
#[derive(Default)]
struct Slots {
    free: Vec<Candidate>,
    cooling: Vec<(Candidate, Retired)>,
    held: Vec<(Slot, Owner)>,
    damaged: Vec<(Slot, String)>,
}

impl Slots {
    fn add(&mut self, slot: Slot, state: Option<&SlotState>, layout: Layout, wish: &Wish<'_>, now_ms: u64) {
        let candidate = match Candidate::new(slot, state, layout, wish.node) {
            Ok(candidate) => candidate,
            Err(problem) => return self.damaged.push((slot, problem)),
        };
        match state {
            Some(SlotState { window: Some((record, _)), .. }) if wish.held.contains(&slot) => {
                self.held.push((slot, record.owner.clone()));
            }
            // A worker of this node's own name whose window has ended is an earlier life of it, which did not
            // end well: one that lives extends its window.
            Some(SlotState { worker: Some(worker), .. })
                if worker.owner.node != wish.node || candidate.ceiling_ms > now_ms =>
            {
                self.held.push((slot, worker.owner.clone()));
            }
            Some(SlotState { retired: Some(retired), .. })
                if retired.reuse_after > timestamp(now_ms) && retired.node != wish.node =>
            {
                self.cooling.push((candidate, retired.clone()));
            }
            _ => self.free.push(candidate),
        }
    }

    fn refusal(self, layout: Layout, wish: &Wish<'_>) -> NoSlot {
        let Self { cooling, held, damaged, .. } = self;
        if wish.worker.is_some() {
            let held = held.into_iter().next().map(|(slot, holder)| NoSlot::Held { slot, holder });
            let cooling = cooling.into_iter().next().map(|(candidate, retired)| NoSlot::Cooling {
                slot: candidate.choice.slot,
                node: retired.node,
                until: retired.reuse_after,
            });
            let damaged = damaged.into_iter().next().map(|(slot, problem)| NoSlot::Damaged { slot, problem });
            return held.or(cooling).or(damaged).expect("a fixed worker is free, or one of these");
        }
        NoSlot::Exhausted {
            datacenter: wish.datacenter,
            workers: layout.split().workers(),
            held: held.into_iter().map(|(slot, owner)| (slot.worker, owner)).collect(),
            next: cooling.iter().map(|(_, retired)| retired.reuse_after).min(),
            cooling: cooling.into_iter().map(|(c, retired)| (c.choice.slot.worker, retired)).collect(),
            damaged: damaged.len(),
        }
    }
}

fn candidates(layout: Layout, wish: &Wish<'_>) -> impl Iterator<Item = Slot> + use<> {
    let datacenter = wish.datacenter;
    let workers = match wish.worker {
        Some(worker) => u32::from(worker)..u32::from(worker) + 1,
        None => 0..layout.split().workers(),
    };
    workers.filter_map(move |worker| Some(Slot { datacenter, worker: u16::try_from(worker).ok()? }))
}

struct Candidate {
    choice: Choice,
    /// 0 where the slot was never held.
    ceiling_ms: u64,
    /// Whether this node held it last.
    own: bool,
    /// Whether a worker still looks alive on it: this node's own, from before.
    looks_alive: bool,
}

impl Candidate {
    fn new(slot: Slot, state: Option<&SlotState>, layout: Layout, node: &str) -> Result<Self, String> {
        if let Some(damage) = state.and_then(|state| state.damage.as_ref()) {
            return Err(damage.clone());
        }
        let looks_alive = state.is_some_and(|state| state.worker.is_some());
        let Some((record, revision)) = state.and_then(|state| state.window.as_ref()) else {
            let choice = Choice { slot, floor: None, revision: None };
            return Ok(Self { choice, ceiling_ms: 0, own: false, looks_alive });
        };
        let floor = Ceiling::from_id(layout, record.ceiling).map_err(|reason| reason.to_string())?;
        Ok(Self {
            choice: Choice { slot, floor: Some(floor), revision: Some(*revision) },
            ceiling_ms: floor.time_ms(layout),
            own: record.owner.node == node,
            looks_alive,
        })
    }

    /// Lower is better.
    fn rank(&self, now_ms: u64) -> (bool, bool, bool, u64) {
        (self.looks_alive, self.ceiling_ms > now_ms, !self.own, self.ceiling_ms)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::collections::BTreeMap;

    use snowmint::{Claim, Split};
    use uuid::Uuid;

    use super::*;
    use crate::registry::{Namespace, WindowRecord, Worker};

    const NOW_MS: u64 = snowmint::DEFAULT_EPOCH_MS + 1_000_000;

    /// Four workers a datacenter.
    fn layout() -> Layout {
        Layout::new(Split::new(44, 5, 2, 12).unwrap(), snowmint::DEFAULT_EPOCH_MS).unwrap()
    }

    fn slot(worker: u16) -> Slot {
        Slot { datacenter: 1, worker }
    }

    fn owner(node: &str) -> Owner {
        Owner { node: node.to_owned(), instance: Uuid::nil() }
    }

    /// A slot whose window ends `ends_in_ms` after now.
    fn held_before(node: &str, ends_in_ms: i64) -> SlotState {
        let claimed_ms = NOW_MS.checked_add_signed(ends_in_ms - 1).unwrap();
        let ceiling = Claim::new(layout(), slot(0), None, claimed_ms, 1).unwrap().ceiling();
        let record = WindowRecord::new(owner(node), ceiling, layout());
        SlotState { window: Some((record, Revision(7))), worker: None, retired: None, damage: None }
    }

    fn held(node: &str) -> SlotState {
        let worker = Worker {
            hostname: String::new(),
            ip: String::new(),
            port: 0,
            started_at: timestamp(NOW_MS),
            version: String::new(),
            owner: owner(node),
        };
        SlotState { worker: Some(worker), ..held_before(node, 5_000) }
    }

    fn cooling(node: &str, for_ms: u64, ends_in_ms: i64) -> SlotState {
        let retired = Retired {
            retired_at: timestamp(NOW_MS),
            last_id: None,
            reuse_after: timestamp(NOW_MS + for_ms),
            node: node.to_owned(),
        };
        SlotState { retired: Some(retired), ..held_before(node, ends_in_ms) }
    }

    fn choice(states: impl IntoIterator<Item = SlotState>, wish: &Wish<'_>) -> Result<u16, NoSlot> {
        let slots: BTreeMap<Slot, SlotState> = (0..).map(slot).zip(states).collect();
        let layout = layout();
        let namespace = Namespace {
            cluster_id: Uuid::nil(),
            epoch_ms: layout.epoch_ms(),
            layout: layout.split(),
            max_sequence: layout.split().max_sequence(),
            clock_drift_threshold_ms: 100,
        };
        choose(&Snapshot { namespace, datacenters: BTreeMap::new(), slots }, layout, wish, NOW_MS)
            .map(|choice| choice.slot.worker)
    }

    const WISH: Wish<'static> =
        Wish { datacenter: 1, worker: None, node: "me", held: &[], reuse_cooling: false };

    #[test]
    fn the_slot_held_last_comes_first_unless_its_window_is_ahead() {
        let others = [held("a"), held_before("b", -9_000), held_before("me", -1_000)];
        assert_eq!(choice(others, &WISH), Ok(2));
        let ahead = [held("a"), held_before("b", -9_000), held_before("me", 1_000), held_before("b", -1)];
        assert_eq!(choice(ahead, &WISH), Ok(1));
    }

    #[test]
    fn else_the_free_slot_with_the_oldest_ceiling() {
        let used = [held_before("a", -5), held_before("b", -9_000), held_before("c", -1), held("d")];
        assert_eq!(choice(used, &WISH), Ok(1));
        assert_eq!(choice([held_before("a", -9_000)], &WISH), Ok(1), "one never held is older than any");
    }

    #[test]
    fn a_window_that_is_ahead_of_the_clock_is_the_last_resort() {
        let ahead = [held("a"), held_before("b", 9_000), held_before("c", 2_000), held("d")];
        assert_eq!(choice(ahead, &WISH), Ok(2));
    }

    #[test]
    fn a_cooling_slot_is_its_nodes_alone() {
        let full = || [held("a"), held("b"), held("c"), cooling("d", 1_000, -1)];
        assert_eq!(choice(full(), &Wish { node: "d", ..WISH }), Ok(3));
        let none = choice(full(), &WISH).unwrap_err().to_string();
        assert_eq!(
            none,
            "no worker slot is free in datacenter 1: of 4, 3 are held (0 by a, 1 by b, 2 by c), 1 are kept for the \
             nodes that gave them back (3 for d); the next comes free at 2021-01-01T00:16:41Z"
        );
        let cooled = [held("a"), held("b"), held("c"), cooling("d", 0, -1)];
        assert_eq!(choice(cooled, &WISH), Ok(3));
    }

    /// A node that died takes its slot back before the registry has noticed, but not from a life that goes on.
    #[test]
    fn an_earlier_life_of_the_node_is_succeeded_once_its_window_has_ended() {
        let died = |ends_in_ms| SlotState { worker: held("me").worker, ..held_before("me", ends_in_ms) };
        assert_eq!(choice([held("a"), died(-1), held("c"), held("d")], &WISH), Ok(1));
        assert_eq!(choice([held("a"), died(-1), held("c"), held_before("d", 9_000)], &WISH), Ok(3));
        let lives = choice([held("a"), died(1), held("c"), held("d")], &WISH);
        assert!(matches!(lives, Err(NoSlot::Exhausted { ref held, .. }) if held.len() == 4), "{lives:?}");
        let fixed = Wish { worker: Some(1), ..WISH };
        assert_eq!(choice([held("a"), died(-1)], &fixed), Ok(1));
        assert!(matches!(choice([held("a"), died(1)], &fixed), Err(NoSlot::Held { .. })));
    }

    #[test]
    fn a_slot_with_an_entry_that_cannot_be_read_is_left_alone() {
        let damaged = || SlotState { damage: Some("it is \"\"".to_owned()), ..held_before("me", -9_000) };
        assert_eq!(choice([damaged(), held_before("b", -1), held("c"), held("d")], &WISH), Ok(1));
        let none = choice([damaged(), held("b"), held("c"), held("d")], &WISH).unwrap_err().to_string();
        assert!(none.contains("1 have entries that cannot be read"), "{none}");
        let fixed = Wish { worker: Some(0), ..WISH };
        assert!(matches!(choice([damaged()], &fixed), Err(NoSlot::Damaged { .. })));
    }

    #[test]
    fn reuse_cooling_takes_one_whose_window_has_passed_when_nothing_else_is_free() {
        let wish = Wish { reuse_cooling: true, ..WISH };
        let passed = [held("a"), cooling("b", 1_000, 500), cooling("c", 1_000, -1), held("d")];
        assert_eq!(choice(passed, &wish), Ok(2));
        assert!(choice([held("a"), cooling("b", 1_000, 500), held("c"), held("d")], &wish).is_err());
        let free = [held("a"), cooling("b", 1_000, -9_000), held_before("c", -1), held("d")];
        assert_eq!(choice(free, &wish), Ok(2));
    }

    #[test]
    fn a_slot_that_this_process_holds_is_not_taken_again() {
        let own = [Slot { datacenter: 1, worker: 0 }];
        let again = Wish { held: &own, ..WISH };
        // Its window has ended, and it looks dead: as after a long outage of the registry.
        let states = [held_before("me", -1), held("a"), held("b"), held_before("c", -1)];
        assert_eq!(choice(states, &again), Ok(3));
    }

    #[test]
    fn a_fixed_worker_is_taken_or_refused_with_the_reason() {
        let states = || [held("a"), cooling("b", 1_000, -1), held_before("c", 3_000)];
        let fixed = |worker| choice(states(), &Wish { worker: Some(worker), ..WISH });
        assert!(matches!(fixed(0), Err(NoSlot::Held { holder, .. }) if holder.node == "a"));
        assert!(matches!(fixed(1), Err(NoSlot::Cooling { node, .. }) if node == "b"));
        assert_eq!(fixed(2), Ok(2));
        assert_eq!(fixed(3), Ok(3));
    }
}
