//! The point where windows reach requests: the generators of the slots this node holds.

use std::num::NonZeroU16;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use snowmint::Slot;
use tokio::sync::watch;

use super::slots::{Held, Slots};

/// What the lease tells the requests. Reading it takes no lock.
pub struct Holding {
    slots: ArcSwap<Slots>,
    /// How many slots the node is to hold.
    wanted: NonZeroU16,
    /// Why fewer slots are held than are wanted, for as long as that is so.
    absence: ArcSwap<String>,
    /// What went wrong at the registry's last call; nothing while it answers.
    registry_error: ArcSwapOption<String>,
    /// Counts the requests that found every window closed: the lease should not wait for its timers.
    closed: watch::Sender<u64>,
    /// Counts takings and extensions.
    changes: watch::Sender<u64>,
}

impl Holding {
    /// Nothing held yet, and `wanted` slots to be held.
    #[must_use]
    pub fn new(wanted: NonZeroU16) -> Self {
        Self {
            slots: ArcSwap::default(),
            wanted,
            absence: ArcSwap::from_pointee("the node is starting and has no worker slot yet".to_owned()),
            registry_error: ArcSwapOption::empty(),
            closed: watch::Sender::new(0),
            changes: watch::Sender::new(0),
        }
    }

    /// What is held now. To be dropped before the next await: whoever keeps it keeps generators alive.
    #[inline]
    pub fn load(&self) -> Guard<Arc<Slots>> {
        self.slots.load()
    }

    /// How many slots the node is to hold.
    #[must_use]
    pub fn wanted(&self) -> NonZeroU16 {
        self.wanted
    }

    /// How many it does not hold yet, or any more.
    #[must_use]
    pub fn missing(&self) -> usize {
        usize::from(self.wanted.get()).saturating_sub(self.load().iter().len())
    }

    /// Why fewer slots are held than are wanted, where that is so.
    #[must_use]
    pub fn absence(&self) -> String {
        String::clone(&self.absence.load())
    }

    /// What went wrong at the registry's last call, if something did.
    #[must_use]
    pub fn registry_error(&self) -> Option<String> {
        self.registry_error.load().as_deref().cloned()
    }

    /// Whether the registry answered when it was last asked.
    #[must_use]
    pub fn registry_answers(&self) -> bool {
        self.registry_error.load().is_none()
    }

    /// To be awaited by a request that found no open window. Subscribe, look again, then wait.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Asks the lease to extend the windows now.
    pub fn ask_for_extension(&self) {
        self.closed.send_modify(|count| *count += 1);
    }

    /// Says when requests ask for that.
    pub(super) fn extension_wanted(&self) -> watch::Receiver<u64> {
        self.closed.subscribe()
    }

    pub(super) fn take(&self, held: &Arc<Held>) {
        self.slots.rcu(|slots| slots.with(held));
        self.extended();
    }

    pub(super) fn extended(&self) {
        self.registry_answered();
        self.changes.send_modify(|count| *count += 1);
    }

    /// Drops a generator: requests that have it in hand finish, within a window that stays ours.
    pub(super) fn drop_slot(&self, slot: Slot, reason: String) {
        self.absent_because(reason);
        self.slots.rcu(|slots| slots.without(slot));
    }

    pub(super) fn absent_because(&self, reason: String) {
        self.absence.store(Arc::new(reason));
    }

    pub(super) fn registry_answered(&self) {
        self.registry_error.store(None);
    }

    pub(super) fn registry_failed(&self, error: String) {
        self.registry_error.store(Some(Arc::new(error)));
    }
}
