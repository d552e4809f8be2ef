//! A fleet's registry in etcd: the document's keys, each change of a slot one transaction.
//!
//! The window record's revision is its `mod_revision`. A worker's entry goes with a lease that this process
//! renews, a retired entry with one that ends when the slot has cooled down.

mod client;
mod lease;
mod request;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use snowmint::Slot;
use tokio::time::Instant;

use self::client::{Client, Failure, deadline};
use self::lease::Leases;
use self::proto::{Compare, RequestOp, TxnRequest, TxnResponse, WatchCreateRequest};
use self::request::{
    NO_LEASE, Swapped, below, delete, entries, get, get_below, has_lease, has_revision, json, put, revision,
    unless, when,
};
use super::{
    Changed, Namespace, Registry, RegistryError, Retired, Revision, ServerAccess, Setting, SlotState,
    Snapshot, SwapError, WindowRecord, Worker, key, tree,
};

/// The part of etcd's API that is used.
mod proto {
    #![allow(
        missing_docs,
        dead_code,
        clippy::all,
        clippy::pedantic,
        clippy::allow_attributes_without_reason,
        unused_qualifications,
        unreachable_pub,
        reason = "generated code"
    )]

    tonic::include_proto!("etcdserverpb");
}

/// The directory of everything, below the root.
const EVERYTHING: &str = "";

/// How often an extension is tried whose lease turns out to be gone: with that lease, and with a new one.
const EXTEND_TRIES: usize = 2;

/// The longest that is waited for a lease to be ended that would run out anyway, in milliseconds.
const END_LEASE_MS_MAX: u64 = 1_000;

/// The pause before a watch that broke off is taken up again, in milliseconds.
const WATCH_PAUSE_MS: u64 = 500;

/// The registry of a fleet, in etcd.
pub struct EtcdRegistry {
    client: Arc<Client>,
    leases: Leases,
}

impl EtcdRegistry {
    /// A client of these servers. It connects with the first call.
    pub fn new(access: ServerAccess) -> Result<Self, RegistryError> {
        let ttl_s = i64::try_from(access.ttl_s).unwrap_or(i64::MAX);
        let client = Arc::new(Client::new(access)?);
        Ok(Self { leases: Leases::new(Arc::clone(&client), ttl_s), client })
    }

    /// Does what needs no condition, such as to read.
    async fn run(&self, deadline: Instant, what: Vec<RequestOp>) -> Result<TxnResponse, RegistryError> {
        let txn = TxnRequest { success: what, ..TxnRequest::default() };
        Ok(self.client.txn(deadline, txn).await?.message)
    }

    async fn state(&self, slot: Slot, deadline: Instant) -> Result<SlotState, RegistryError> {
        let paths = [key::window(slot), key::worker(slot), key::retired(slot)];
        let read = self.run(deadline, paths.iter().map(|path| get(path)).collect()).await?;
        Ok(tree::slot(slot, &entries(read)))
    }

    /// Makes a change of a slot whose window has the expected revision, and fulfils `condition` if there is one.
    ///
    /// A try that got no answer is repeated as it is: at most one of them finds the expected revision.
    async fn swap(
        &self,
        deadline: Instant,
        slot: Slot,
        expected: Option<Revision>,
        condition: Option<Compare>,
        change: Vec<RequestOp>,
    ) -> Result<Swapped, Failure> {
        let mut compare = vec![has_revision(&key::window(slot), expected)];
        compare.extend(condition);
        let failure = vec![get(&key::window(slot)), get(&key::worker(slot))];
        let reply = self.client.txn(deadline, TxnRequest { compare, success: change, failure }).await?;
        if reply.message.succeeded {
            return Ok(Swapped::Done(revision(&reply.message)));
        }
        let SlotState { window, worker, .. } = tree::slot(slot, &entries(reply.message));
        let holder = match window {
            Some((record, revision)) if Some(revision) != expected => Some(record.owner),
            _ => worker.map(|worker| worker.owner),
        };
        Ok(Swapped::Conflict { holder, repeated: reply.repeated })
    }

    /// The revision of the worker's entry, if there is one: this node's own, which may be taken over.
    async fn free_for(
        &self,
        node: &str,
        slot: Slot,
        deadline: Instant,
    ) -> Result<Option<Revision>, SwapError> {
        let read = self.run(deadline, vec![get(&key::worker(slot))]).await;
        let read = read.map_err(SwapError::Unavailable)?;
        let entries = entries(read);
        let SlotState { worker, damage, .. } = tree::slot(slot, &entries);
        if damage.is_some() || worker.as_ref().is_some_and(|worker| worker.owner.node != node) {
            return Err(SwapError::Conflict { holder: worker.map(|worker| worker.owner) });
        }
        Ok(entries.first().map(|entry| entry.revision))
    }

    async fn end_lease(&self, slot: Slot, deadline: Instant) {
        let patience = Instant::now() + Duration::from_millis(END_LEASE_MS_MAX);
        self.leases.end(slot, deadline.min(patience)).await;
    }
}

#[async_trait]
impl Registry for EtcdRegistry {
    async fn open(&self, wanted: &Namespace) -> Result<Namespace, RegistryError> {
        // One transaction: of many first nodes, one writes all that is missing.
        let missing = tree::settings(wanted)
            .map(|(path, value)| when(has_revision(path, None), put(path, value, NO_LEASE)));
        let read =
            self.run(deadline(), missing.into_iter().chain([get_below(key::CONFIG)]).collect()).await?;
        tree::namespace(&entries(read))
    }

    async fn settings(&self) -> Result<(Namespace, Changed), RegistryError> {
        let read = self.run(deadline(), vec![get_below(key::CONFIG)]).await?;
        let Revision(seen) = revision(&read);
        let changed = changed(Arc::clone(&self.client), seen + 1);
        Ok((tree::namespace(&entries(read))?, Box::pin(changed)))
    }

    async fn set(&self, setting: &Setting) -> Result<(), RegistryError> {
        self.run(deadline(), vec![put(&setting.key(), setting.value(), NO_LEASE)]).await.map(|_| ())
    }

    async fn snapshot(&self) -> Result<Snapshot, RegistryError> {
        tree::snapshot(&entries(self.run(deadline(), vec![get_below(EVERYTHING)]).await?))
    }

    async fn slot(&self, slot: Slot) -> Result<SlotState, RegistryError> {
        self.state(slot, deadline()).await
    }

    async fn claim(
        &self,
        slot: Slot,
        expected: Option<Revision>,
        record: &WindowRecord,
        worker: &Worker,
    ) -> Result<Revision, SwapError> {
        let deadline = deadline();
        let stands = self.free_for(&worker.owner.node, slot, deadline).await?;
        let tried_before = self.leases.held(slot).is_some();
        let alive = self.leases.of(slot, &json(worker), deadline).await.map_err(SwapError::Unavailable)?;
        let change = vec![
            put(&key::window(slot), json(record), NO_LEASE),
            put(&key::worker(slot), &*alive.worker, alive.lease),
            delete(&key::retired(slot)),
        ];
        let same_worker = has_revision(&key::worker(slot), stands);
        let swapped = self.swap(deadline, slot, expected, Some(same_worker), change).await;
        match swapped.inspect_err(|failure| alive.note(failure))? {
            Swapped::Done(revision) => Ok(revision),
            Swapped::Conflict { holder, repeated } => {
                // Otherwise an earlier try may have succeeded, and the lease is needed.
                if !repeated && !tried_before {
                    self.end_lease(slot, deadline).await;
                }
                Err(SwapError::Conflict { holder })
            }
        }
    }

    async fn extend(
        &self,
        slot: Slot,
        expected: Revision,
        record: &WindowRecord,
    ) -> Result<Revision, SwapError> {
        let deadline = deadline();
        let mut tries_left = EXTEND_TRIES;
        loop {
            tries_left -= 1;
            let mut change = vec![put(&key::window(slot), json(record), NO_LEASE)];
            let mut held = self.leases.held(slot);
            if let Some(alive) = &mut held {
                let lease = self.leases.of(slot, &alive.worker, deadline).await;
                *alive = lease.map_err(SwapError::Unavailable)?;
                let path = key::worker(slot);
                let looks_alive = has_lease(&path, alive.lease);
                change.push(unless(looks_alive, put(&path, &*alive.worker, alive.lease)));
            }
            let failure = match self.swap(deadline, slot, Some(expected), None, change).await {
                Ok(Swapped::Done(revision)) => return Ok(revision),
                Ok(Swapped::Conflict { holder, .. }) => return Err(SwapError::Conflict { holder }),
                Err(failure) => failure,
            };
            if let Some(alive) = held {
                alive.note(&failure);
            }
            if failure.doubt || !failure.lease_lost || tries_left == 0 {
                return Err(failure.into());
            }
        }
    }

    async fn retire(
        &self,
        slot: Slot,
        expected: Revision,
        record: &WindowRecord,
        retired: &Retired,
    ) -> Result<(), SwapError> {
        let deadline = deadline();
        let cooling_s = retired.reuse_after.duration_since(retired.retired_at).as_secs().max(1);
        let lease = self.client.grant(deadline, cooling_s).await.map_err(SwapError::Unavailable)?.id;
        let change = vec![
            put(&key::window(slot), json(record), NO_LEASE),
            delete(&key::worker(slot)),
            put(&key::retired(slot), json(retired), lease),
        ];
        if let Swapped::Conflict { holder, repeated } =
            self.swap(deadline, slot, Some(expected), None, change).await?
        {
            if !repeated {
                // It runs out by itself if it is not revoked.
                let _ = self.client.revoke(deadline, lease).await;
                return Err(SwapError::Conflict { holder });
            }
            let stands = self.state(slot, deadline).await.map_err(SwapError::Unknown)?;
            if stands.retired.as_ref() != Some(retired) {
                return Err(SwapError::Conflict { holder });
            }
        }
        // The worker's entry is gone, and its lease is of no use.
        self.end_lease(slot, deadline).await;
        Ok(())
    }

    async fn abandon(&self, slot: Slot) {
        self.end_lease(slot, deadline()).await;
    }
}

/// Ends when there is a change of the settings from the revision `from` on.
async fn changed(client: Arc<Client>, from: u64) {
    let what = below(key::CONFIG);
    let what =
        WatchCreateRequest { key: what.key, range_end: what.range_end, start_revision: from.cast_signed() };
    loop {
        if let Ok(mut watching) = client.watch(deadline(), what.clone()).await {
            while let Some(said) = watching.next().await {
                // What was compacted away has to be read to be known.
                if !said.events.is_empty() || said.compact_revision != 0 {
                    return;
                }
                if said.canceled {
                    // Such as for a missing permission, which a new watch would not have either.
                    tracing::warn!("etcd ended the watch of the settings: {}", said.cancel_reason);
                    return tokio::time::sleep(Duration::from_millis(WATCH_PAUSE_MS)).await;
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(WATCH_PAUSE_MS)).await;
    }
}
