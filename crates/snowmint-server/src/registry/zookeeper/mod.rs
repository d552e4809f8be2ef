//! ZooKeeper.
//!
//! * A window's **revision** is its node's data version: windows are never deleted.
//! * A **worker** is an ephemeral node, and goes with its session. Where the session was lost, the next
//!   extension makes the node again, in the same change. Until then the slot looks free, which costs the
//!   slot if another node takes it, and no more.
//! * **Retired** entries have no time to live here, unlike in etcd: whoever reads them compares `reuse_after`
//!   with the time, and the next claim of the slot deletes them.
//! * A **read that decides** comes after a `sync`, because a server may be behind. If it is wrong all the
//!   same, the swap that follows is refused.
//! * With a **user**, nodes are for that user alone, reading included: they tell hosts and addresses. An
//!   operator says `addauth digest user:password` first. Without one they are for everybody.

mod entries;
mod session;
mod swap;

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{select_all, try_join_all};
use snowmint::Slot;
use tokio::time::timeout;
use zookeeper_client::{Acls, CreateMode, CreateOptions, Error, SessionId};

use self::entries::{CONFIG, entry, slot_keys};
use self::session::Sessions;
use self::swap::{Beside, Change};
use super::{
    CALL_MS_MAX, Changed, Namespace, Registry, RegistryError, Retired, Revision, ServerAccess, Setting,
    SlotState, Snapshot, SwapError, WindowRecord, Worker, key, tree,
};

/// The registry of a fleet, in ZooKeeper.
pub struct ZooKeeperRegistry {
    sessions: Sessions,
    /// Where our tree begins, chroot included.
    root: String,
    acls: Acls<'static>,
    /// The parents that are known to exist.
    parents: Mutex<HashSet<String>>,
    /// The workers this client has made or tried to make, each with the session its node lives in.
    held: Mutex<HashMap<Slot, (Worker, SessionId)>>,
}

impl ZooKeeperRegistry {
    /// A client of these servers. It connects with the first call.
    /// `chroot` is the path that stands for `/`: empty, or starting with a slash.
    pub fn new(access: &ServerAccess, chroot: &str) -> Result<Self, RegistryError> {
        Ok(Self {
            sessions: Sessions::new(access)?,
            acls: if access.user.is_some() { Acls::creator_all() } else { Acls::anyone_all() },
            root: chroot.to_owned() + key::ROOT,
            parents: Mutex::default(),
            held: Mutex::default(),
        })
    }

    fn path(&self, key: &str) -> String {
        format!("{}/{key}", self.root)
    }

    fn node(&self, mode: CreateMode) -> CreateOptions<'static> {
        mode.with_acls(self.acls)
    }

    fn hold(&self, slot: Slot, worker: &Worker, session: SessionId) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.insert(slot, (worker.clone(), session));
    }

    fn held(&self, slot: Slot) -> Option<(Worker, SessionId)> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).get(&slot).cloned()
    }

    fn let_go(&self, slot: Slot) -> Option<(Worker, SessionId)> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&slot)
    }

    fn failed(&self, error: &Error) -> RegistryError {
        self.sessions.failed(error)
    }
}

#[async_trait]
impl Registry for ZooKeeperRegistry {
    async fn open(&self, wanted: &Namespace) -> Result<Namespace, RegistryError> {
        bounded(async {
            let session = self.sessions.connected().await?;
            let settled = self.settle(&session.client, wanted).await;
            tree::namespace(&settled.map_err(|error| self.failed(&error))?)
        })
        .await
    }

    async fn settings(&self) -> Result<(Namespace, Changed), RegistryError> {
        bounded(async {
            let session = self.sessions.connected().await?;
            let client = &session.client;
            let reads = CONFIG.map(|key| async move {
                match client.get_and_watch_data(&self.path(key)).await {
                    Ok((data, stat, watcher)) => Ok(Some((entry(key, data, stat), watcher))),
                    Err(Error::NoNode) => Ok(None),
                    Err(error) => Err(error),
                }
            });
            let read = tokio::try_join!(client.sync(&self.root), try_join_all(reads));
            let ((), read) = read.map_err(|error| self.failed(&error))?;
            let (entries, watchers): (Vec<_>, Vec<_>) = read.into_iter().flatten().unzip();
            let namespace = tree::namespace(&entries)?;
            // All of them stand, so that a deleted one is told by its own watch. Watches last over a lost
            // connection, and end with their session.
            let ended = session.ended.clone();
            let changed = async move {
                let fired = select_all(watchers.into_iter().map(|watcher| Box::pin(watcher.changed())));
                tokio::select! {
                    _ = fired => {}
                    () = ended.cancelled() => {}
                }
            };
            Ok((namespace, Box::pin(changed) as Changed))
        })
        .await
    }

    async fn set(&self, setting: &Setting) -> Result<(), RegistryError> {
        bounded(async {
            let session = self.sessions.connected().await?;
            let put = self.put(&session.client, &setting.key(), setting.value().as_bytes()).await;
            put.map_err(|error| self.failed(&error))
        })
        .await
    }

    async fn snapshot(&self) -> Result<Snapshot, RegistryError> {
        bounded(async {
            let session = self.sessions.connected().await?;
            let entries = self.entries(&session.client).await;
            tree::snapshot(&entries.map_err(|error| self.failed(&error))?)
        })
        .await
    }

    async fn slot(&self, slot: Slot) -> Result<SlotState, RegistryError> {
        bounded(async {
            let session = self.sessions.connected().await?;
            let (client, keys) = (&session.client, slot_keys(slot));
            let read = tokio::try_join!(client.sync(&self.root), self.read(client, &keys));
            let ((), entries) = read.map_err(|error| self.failed(&error))?;
            Ok(tree::slot(slot, &entries))
        })
        .await
    }

    async fn claim(
        &self,
        slot: Slot,
        expected: Option<Revision>,
        record: &WindowRecord,
        worker: &Worker,
    ) -> Result<Revision, SwapError> {
        self.swap(&Change { slot, expected, record, beside: Beside::Alive(worker) }).await
    }

    async fn extend(
        &self,
        slot: Slot,
        expected: Revision,
        record: &WindowRecord,
    ) -> Result<Revision, SwapError> {
        let held = self.held(slot);
        let beside =
            held.as_ref().map_or(Beside::Untouched, |(worker, session)| Beside::StillAlive(worker, *session));
        self.swap(&Change { slot, expected: Some(expected), record, beside }).await
    }

    async fn retire(
        &self,
        slot: Slot,
        expected: Revision,
        record: &WindowRecord,
        retired: &Retired,
    ) -> Result<(), SwapError> {
        let beside = Beside::Retired(retired);
        self.swap(&Change { slot, expected: Some(expected), record, beside }).await?;
        self.let_go(slot);
        Ok(())
    }

    async fn abandon(&self, slot: Slot) {
        let Some((worker, _)) = self.let_go(slot) else { return };
        let buried = bounded(async {
            let session = self.sessions.connected().await?;
            let buried = self.bury(&session.client, slot, &worker).await;
            buried.map_err(|error| self.failed(&error))
        });
        // It goes away with its session all the same.
        if let Err(error) = buried.await {
            tracing::debug!(%slot, "the worker's node could not be deleted: {error}");
        }
    }
}

/// A call that does not change a slot, and may be given up at any point.
async fn bounded<T>(call: impl Future<Output = Result<T, RegistryError>>) -> Result<T, RegistryError> {
    let bound = Duration::from_millis(CALL_MS_MAX);
    timeout(bound, call).await.unwrap_or(Err(RegistryError::TimedOut))
}
