//! The registry, as its trait promises it: one map, changed by one call after the other, that forgets nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use snowmint::Slot;
use snowmint_server::registry::{
    Namespace, Retired, Revision, Setting, SlotState, Snapshot, SwapError, WindowRecord, Worker,
};
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use crate::history::{Event, History, Swap};

/// What is wrong with the registry, where a check has to show that it would notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    None,
    /// A window is extended whatever its record's revision is.
    ExtendsWithoutSwap,
    /// A slot's record is forgotten now and then, and the slot is free.
    Forgets,
}

pub struct Store {
    pub namespace: Namespace,
    slots: BTreeMap<Slot, SlotState>,
    /// When each slot's worker was heard of last.
    contacts: BTreeMap<Slot, Instant>,
    ttl: Duration,
    revision: u64,
    flaw: Flaw,
    settings_changes: watch::Sender<u64>,
    pub history: History,
}

impl Store {
    pub fn new(namespace: Namespace, ttl: Duration, flaw: Flaw, history: History) -> Self {
        Self {
            namespace,
            slots: BTreeMap::new(),
            contacts: BTreeMap::new(),
            ttl,
            revision: 0,
            flaw,
            settings_changes: watch::Sender::new(0),
            history,
        }
    }

    pub fn settings_changes(&self) -> watch::Receiver<u64> {
        self.settings_changes.subscribe()
    }

    pub fn set(&mut self, setting: &Setting) {
        if let Setting::MaxSequence(number) = setting {
            self.namespace.max_sequence = *number;
            self.settings_changes.send_modify(|count| *count += 1);
        }
    }

    pub fn slot(&self, slot: Slot) -> SlotState {
        let mut state = self.slots.get(&slot).cloned().unwrap_or_default();
        state.worker = state.worker.filter(|_| self.looks_alive(slot));
        state
    }

    pub fn snapshot(&self) -> Snapshot {
        let slots = self.slots.keys().map(|slot| (*slot, self.slot(*slot))).collect();
        Snapshot { namespace: self.namespace.clone(), datacenters: BTreeMap::new(), slots }
    }

    pub fn claim(
        &mut self,
        slot: Slot,
        expected: Option<Revision>,
        record: &WindowRecord,
        worker: &Worker,
    ) -> Result<Revision, SwapError> {
        self.expect(slot, expected)?;
        match self.slot(slot).worker {
            Some(alive) if alive.owner.node != worker.owner.node => {
                return Err(SwapError::Conflict { holder: Some(alive.owner) });
            }
            _ => {}
        }
        let revision = self.replace(slot, record, Swap::Claim);
        self.keep_alive(slot, worker);
        self.slots.entry(slot).or_default().retired = None;
        Ok(revision)
    }

    pub fn extend(
        &mut self,
        slot: Slot,
        expected: Revision,
        record: &WindowRecord,
        worker: &Worker,
    ) -> Result<Revision, SwapError> {
        if self.flaw != Flaw::ExtendsWithoutSwap {
            self.expect(slot, Some(expected))?;
        }
        let revision = self.replace(slot, record, Swap::Extend);
        self.keep_alive(slot, worker);
        Ok(revision)
    }

    pub fn retire(
        &mut self,
        slot: Slot,
        expected: Revision,
        record: &WindowRecord,
        retired: &Retired,
    ) -> Result<(), SwapError> {
        self.expect(slot, Some(expected))?;
        self.replace(slot, record, Swap::Retire);
        let state = self.slots.entry(slot).or_default();
        (state.worker, state.retired) = (None, Some(retired.clone()));
        Ok(())
    }

    pub fn abandon(&mut self, slot: Slot, instance: Uuid) {
        if let Some(state) = self.slots.get_mut(&slot) {
            state.worker = state.worker.take().filter(|worker| worker.owner.instance != instance);
        }
    }

    /// [`Flaw::Forgets`].
    pub fn forget(&mut self, slot: Slot) {
        self.slots.remove(&slot);
    }

    fn keep_alive(&mut self, slot: Slot, worker: &Worker) {
        self.slots.entry(slot).or_default().worker = Some(worker.clone());
        self.contacts.insert(slot, Instant::now());
    }

    fn looks_alive(&self, slot: Slot) -> bool {
        self.contacts.get(&slot).is_some_and(|last| last.elapsed() < self.ttl)
    }

    fn expect(&self, slot: Slot, expected: Option<Revision>) -> Result<(), SwapError> {
        let stands = self.slots.get(&slot).and_then(|state| state.window.as_ref());
        if stands.map(|(_, revision)| *revision) == expected {
            return Ok(());
        }
        Err(SwapError::Conflict { holder: stands.map(|(record, _)| record.owner.clone()) })
    }

    fn replace(&mut self, slot: Slot, record: &WindowRecord, swap: Swap) -> Revision {
        self.revision += 1;
        let revision = Revision(self.revision);
        let before = self.slots.entry(slot).or_default().window.replace((record.clone(), revision));
        self.history.swapped(slot, swap, before.as_ref().map(|(record, _)| record), record);
        self.history.note(Event::Swapped {
            slot,
            swap,
            instance: record.owner.instance,
            ceiling: record.ceiling,
            revision,
        });
        revision
    }
}
