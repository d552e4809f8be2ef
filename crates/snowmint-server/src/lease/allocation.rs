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
