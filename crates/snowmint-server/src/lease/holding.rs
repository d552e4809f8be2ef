//! The point where windows reach requests: the generator of the slot this node holds, if it holds one.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use snowmint::Generator;
use tokio::sync::{Notify, watch};

use crate::metrics::SlotMetrics;

/// A slot that is held.
pub struct Held {
    /// Mints its IDs.
    pub generator: Generator,
    /// Counts them.
    pub metrics: SlotMetrics,
    /// When it was taken, in Unix milliseconds of the serving clock.
    pub taken_ms: u64,
}

/// What the lease tells the requests. Reading it takes no lock.
pub struct Holding {
    held: ArcSwapOption<Held>,
    /// Why no slot is held, for as long as none is.
    absence: ArcSwap<String>,
    /// What went wrong at the registry's last call; nothing while it answers.
    registry_error: ArcSwapOption<String>,
    /// A request found the window closed: the lease should not wait for its timer.
    closed: Notify,
    /// Counts takings and extensions.
    changes: watch::Sender<u64>,
}

impl Holding {
    /// Nothing held yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            held: ArcSwapOption::empty(),
            absence: ArcSwap::from_pointee("the node is starting and has no worker slot yet".to_owned()),
            registry_error: ArcSwapOption::empty(),
            closed: Notify::new(),
            changes: watch::Sender::new(0),
        }
    }

    /// What is held now. To be dropped before the next await: whoever keeps it keeps a generator alive.
    #[inline]
    pub fn load(&self) -> Guard<Option<Arc<Held>>> {
        self.held.load()
    }

    /// Why no slot is held, where none is.
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

    /// Asks the lease to extend the window now.
    pub fn ask_for_extension(&self) {
        self.closed.notify_one();
    }

    pub(super) async fn extension_asked_for(&self) {
        self.closed.notified().await;
    }

    pub(super) fn take(&self, held: Arc<Held>) {
        self.held.store(Some(held));
        self.extended();
    }

    pub(super) fn extended(&self) {
        self.registry_answered();
        self.changes.send_modify(|count| *count += 1);
    }

    /// Drops the generator: requests that have it in hand finish, within a window that stays ours.
    pub(super) fn drop_slot(&self, reason: String) {
        self.absent_because(reason);
        self.held.store(None);
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

impl Default for Holding {
    fn default() -> Self {
        Self::new()
    }
}
