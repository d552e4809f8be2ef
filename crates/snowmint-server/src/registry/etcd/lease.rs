//! The leases that let this process's workers look alive.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use snowmint::Slot;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::client::{Client, Failure, deadline};

/// How many renewals fit into a lease's time to live.
const RENEWALS_PER_TTL: u32 = 3;

/// The pause after a renewal that failed, in milliseconds.
const RENEWAL_PAUSE_MS_MAX: u64 = 1_000;

/// The leases of the slots that are held. They are not renewed any more once this is dropped.
pub(super) struct Leases {
    client: Arc<Client>,
    ttl_s: i64,
    held: Mutex<HashMap<Slot, Held>>,
}

struct Held {
    alive: Alive,
    _renewal: AbortOnDropHandle<()>,
}

/// A worker that looks alive for as long as its lease is renewed.
#[derive(Clone)]
pub(super) struct Alive {
    pub(super) lease: i64,
    pub(super) worker: Arc<[u8]>,
    gone: Arc<AtomicBool>,
}

impl Alive {
    /// Notes that etcd has no such lease any more.
    pub(super) fn lost(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    fn is_lost(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}

impl Leases {
    pub(super) fn new(client: Arc<Client>, ttl_s: i64) -> Self {
        Self { client, ttl_s, held: Mutex::default() }
    }

    /// What is known of a slot's lease, if this process holds the slot.
    pub(super) fn held(&self, slot: Slot) -> Option<Alive> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.get(&slot).map(|held| held.alive.clone())
    }

    /// The lease of this worker, which is a new one, unless it has one.
    pub(super) async fn of(&self, slot: Slot, worker: &[u8], deadline: Instant) -> Result<Alive, Failure> {
        match self.held(slot) {
            Some(alive) if *alive.worker == *worker && !alive.is_lost() => Ok(alive),
            _ => self.grant(slot, worker.into(), deadline).await,
        }
    }

    async fn grant(&self, slot: Slot, worker: Arc<[u8]>, deadline: Instant) -> Result<Alive, Failure> {
        let granted = self.client.grant(deadline, self.ttl_s).await?;
        // The server has a shortest time of its own.
        let ttl = Duration::from_secs(granted.ttl.max(1).cast_unsigned());
        let alive = Alive { lease: granted.id, worker, gone: Arc::default() };
        let renewal = tokio::spawn(renew(Arc::clone(&self.client), slot, alive.clone(), ttl));
        let held = Held { alive: alive.clone(), _renewal: AbortOnDropHandle::new(renewal) };
        self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(slot, held);
        Ok(alive)
    }

    /// Stops renewing a slot's lease, and ends it if etcd answers until then.
    pub(super) async fn end(&self, slot: Slot, deadline: Instant) {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&slot);
        if let Some(Held { alive, .. }) = held
            && let Err(failure) = self.client.revoke(deadline, alive.lease).await
            && !failure.lease_lost
        {
            tracing::debug!(%slot, "a lease that is left to run out could not be ended: {failure:?}");
        }
    }
}

/// Renews a lease until there is none.
async fn renew(client: Arc<Client>, slot: Slot, alive: Alive, ttl: Duration) {
    let regular = ttl / RENEWALS_PER_TTL;
    let mut pause = regular;
    loop {
        tokio::time::sleep(pause).await;
        pause = match client.renew(deadline(), alive.lease).await {
            Ok(true) => regular,
            Ok(false) => {
                tracing::warn!(%slot, "the worker's lease ran out; it looks alive again with the next window");
                return alive.lost();
            }
            Err(_) => regular.min(Duration::from_millis(RENEWAL_PAUSE_MS_MAX)),
        };
    }
}
