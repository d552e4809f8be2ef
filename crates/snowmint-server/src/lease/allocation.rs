//! Which slot a node takes.

use jiff::Timestamp;
use snowmint::{Ceiling, ClaimError, Layout, Slot};

use crate::registry::{Owner, Revision, SlotState, Snapshot, timestamp};

/// What a node asks for.
pub(super) struct Wish<'a> {
    /// In which datacenter.
    pub(super) datacenter: u16,
    /// This worker and no other, where it is fixed.
    pub worker: Option<u16>,
    /// The node's name: it may take back a slot it gave back itself.
    pub node: &'a str,
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
        "no worker slot is free in datacenter {datacenter}: of {workers}, {held} are held and {cooling} are \
         kept for the nodes that gave them back{}",
        next.map(|at| format!(" (the next comes free at {at})")).unwrap_or_default()
    )]
    Exhausted {
        /// Which datacenter.
        datacenter: u16,
        /// How many workers it has room for.
        workers: u32,
        /// How many slots are held.
        held: usize,
        /// How many cool down.
        cooling: usize,
        /// When the next one has cooled down.
        next: Option<Timestamp>,
    },
    /// A record is not of this layout.
    #[error("the window record of {slot} cannot be used: {reason}")]
    Record {
        /// Whose record.
        slot: Slot,
        /// Why.
        reason: ClaimError,
    },
}

/// The slot this node held last, or else the free slot whose ceiling is oldest; slots whose ceiling is
/// still ahead of the clock only if there is no other.
pub(super) fn choose(
    snapshot: &Snapshot,
    layout: Layout,
    wish: &Wish<'_>,
    now_ms: u64,
) -> Result<Choice, NoSlot> {
    let now = timestamp(now_ms);
    let (mut free, mut cooling, mut held) = (Vec::new(), Vec::new(), 0);
    for slot in candidates(layout, wish) {
        let state = snapshot.slots.get(&slot);
        let candidate = Candidate::new(slot, state, layout, wish.node)?;
        match state {
            Some(SlotState { worker: Some(worker), .. }) if wish.worker.is_some() => {
                return Err(NoSlot::Held { slot, holder: worker.owner.clone() });
            }
            Some(SlotState { worker: Some(_), .. }) => held += 1,
            Some(SlotState { retired: Some(retired), .. })
                if retired.reuse_after > now && retired.node != wish.node =>
            {
                cooling.push((candidate, retired));
            }
            _ => free.push(candidate),
        }
    }
    if free.is_empty() && wish.reuse_cooling {
        let cooled = cooling.extract_if(.., |(candidate, _)| candidate.ceiling_ms <= now_ms);
        free.extend(cooled.map(|(candidate, _)| candidate));
    }
    if let Some(best) = free.into_iter().min_by_key(|candidate| candidate.rank(now_ms)) {
        return Ok(best.choice);
    }
    if let (Some(_), Some((candidate, retired))) = (wish.worker, cooling.first()) {
        let (slot, until) = (candidate.choice.slot, retired.reuse_after);
        return Err(NoSlot::Cooling { slot, node: retired.node.clone(), until });
    }
    Err(NoSlot::Exhausted {
        datacenter: wish.datacenter,
        workers: layout.split().workers(),
        held,
        cooling: cooling.len(),
        next: cooling.iter().map(|(_, retired)| retired.reuse_after).min(),
    })
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
}

impl Candidate {
    fn new(slot: Slot, state: Option<&SlotState>, layout: Layout, node: &str) -> Result<Self, NoSlot> {
        let Some((record, revision)) = state.and_then(|state| state.window.as_ref()) else {
            let choice = Choice { slot, floor: None, revision: None };
            return Ok(Self { choice, ceiling_ms: 0, own: false });
        };
        let floor =
            Ceiling::from_id(layout, record.ceiling).map_err(|reason| NoSlot::Record { slot, reason })?;
        Ok(Self {
            choice: Choice { slot, floor: Some(floor), revision: Some(*revision) },
            ceiling_ms: floor.time_ms(layout),
            own: record.owner.node == node,
        })
    }

    /// Lower is better.
    fn rank(&self, now_ms: u64) -> (bool, bool, u64) {
        (self.ceiling_ms > now_ms, !self.own, self.ceiling_ms)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::collections::BTreeMap;

    use snowmint::{Claim, Split};
    use uuid::Uuid;

    use super::*;
    use crate::registry::{Namespace, Retired, WindowRecord, Worker};

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

    const WISH: Wish<'static> = Wish { datacenter: 1, worker: None, node: "me", reuse_cooling: false };

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
            "no worker slot is free in datacenter 1: of 4, 3 are held and 1 are kept for the nodes that gave \
             them back (the next comes free at 2021-01-01T00:16:41Z)"
        );
        let cooled = [held("a"), held("b"), held("c"), cooling("d", 0, -1)];
        assert_eq!(choice(cooled, &WISH), Ok(3));
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
    fn a_fixed_worker_is_taken_or_refused_with_the_reason() {
        let states = || [held("a"), cooling("b", 1_000, -1), held_before("c", 3_000)];
        let fixed = |worker| choice(states(), &Wish { worker: Some(worker), ..WISH });
        assert!(matches!(fixed(0), Err(NoSlot::Held { holder, .. }) if holder.node == "a"));
        assert!(matches!(fixed(1), Err(NoSlot::Cooling { node, .. }) if node == "b"));
        assert_eq!(fixed(2), Ok(2));
        assert_eq!(fixed(3), Ok(3));
    }
}
