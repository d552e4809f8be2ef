//! ZooKeeper.
//!
//! * A window's **revision** is its node's data version: windows are never deleted.
//! * A **worker** is an ephemeral node, and goes with its session. Where the session was lost, the next
//!   extension makes the node again, in the same change.
//! * **Retired** entries have no time to live here, unlike in etcd: whoever reads them compares `reuse_after`
//!   with the time, and the next claim of the slot deletes them.
//! * A **read that decides** comes after a `sync`, because a server may be behind. If it is wrong all the
//!   same, the swap that follows is refused.
//! * With a **user**, nodes are for that user alone, reading included: they tell hosts and addresses. An
//!   operator says `addauth digest user:password` first. Without one they are for everybody.

mod session;
mod swap;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{select_all, try_join_all};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use snowmint::Slot;
use tokio::time::timeout;
use zookeeper_client::{
    Acls, Client, CreateMode, CreateOptions, Error, MultiReadResult, MultiWriteError, SessionId, Stat,
};

use self::session::Sessions;
use self::swap::{Beside, Change};
use super::key::{self, Key};
use super::tree::{self, Entry};
use super::{
    CALL_MS_MAX, Changed, Namespace, Registry, RegistryError, Retired, Revision, Setting, SlotState,
    Snapshot, SwapError, WindowRecord, Worker,
};

/// How many reads of one snapshot are under way at once.
const READS_MAX: usize = 64;

/// How often a new namespace's settings are written while others write them. Each time, one of them stands
/// that did not before.
const OPEN_TRIES_MAX: usize = 8;

/// How often a setting is written while its node comes and goes.
const SET_TRIES_MAX: usize = 4;

/// Where ZooKeeper is, and how to talk to it.
#[derive(Clone, Debug)]
pub struct ZooKeeperSettings {
    /// The servers, as `host:port`.
    pub servers: Vec<String>,
    /// The path that stands for `/`: empty, or starting with a slash.
    pub chroot: String,
    /// Whether to talk TLS.
    pub tls: bool,
    /// The certificate authority to trust, as a PEM file; otherwise the system's.
    pub ca_file: Option<PathBuf>,
    /// This client's certificate and key, as PEM files.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Who to say we are, and the password.
    pub user: Option<(String, String)>,
    /// For how long a worker looks alive without a sign of life, in seconds.
    pub ttl_s: u64,
}

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
    pub fn new(settings: ZooKeeperSettings) -> Result<Self, RegistryError> {
        Ok(Self {
            sessions: Sessions::new(&settings)?,
            acls: if settings.user.is_some() { Acls::creator_all() } else { Acls::anyone_all() },
            root: settings.chroot + key::ROOT,
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

    /// Makes the nodes above a path, the chroot's included, unless they are known to be there.
    async fn ensure_parent(&self, client: &Client, path: &str) -> Result<(), Error> {
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        if self.parents.lock().unwrap_or_else(PoisonError::into_inner).contains(parent) {
            return Ok(());
        }
        client.mkdir(parent, &self.node(CreateMode::Persistent)).await?;
        self.parents.lock().unwrap_or_else(PoisonError::into_inner).insert(parent.to_owned());
        Ok(())
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

    /// The entries that stand at some keys, all as of one moment.
    async fn read(&self, client: &Client, keys: &[String]) -> Result<Vec<Entry>, Error> {
        let mut multi = client.new_multi_reader();
        for key in keys {
            multi.add_get_data(&self.path(key))?;
        }
        let mut entries = Vec::new();
        for (key, result) in keys.iter().zip(multi.commit().await?) {
            match result {
                MultiReadResult::Data { data, stat } => entries.push(entry(key, data, stat)),
                MultiReadResult::Error { err: Error::NoNode } => {}
                MultiReadResult::Error { err } => return Err(err),
                other => return Err(Error::UnexpectedError(format!("{key} was read as {other:?}"))),
            }
        }
        Ok(entries)
    }

    /// The names of what lies below a key.
    async fn children(&self, client: &Client, key: &str) -> Result<Vec<String>, Error> {
        match client.list_children(&self.path(key)).await {
            Ok(names) => Ok(names.into_iter().map(|name| format!("{key}/{name}")).collect()),
            Err(Error::NoNode) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Writes the settings that do not stand yet, in one change, and returns those that stand.
    async fn settle(&self, client: &Client, wanted: &Namespace) -> Result<Vec<Entry>, Error> {
        let wanted = tree::settings(wanted);
        let keys = wanted.each_ref().map(|(key, _)| (*key).to_owned());
        self.ensure_parent(client, &self.path(key::EPOCH)).await?;
        for _ in 0..OPEN_TRIES_MAX {
            let ((), stand) = tokio::try_join!(client.sync(&self.root), self.read(client, &keys))?;
            if stand.len() == keys.len() {
                return Ok(stand);
            }
            let mut multi = client.new_multi_writer();
            for (key, value) in &wanted {
                if stand.iter().all(|entry| entry.path != *key) {
                    let node = self.node(CreateMode::Persistent);
                    multi.add_create(&self.path(key), value.as_bytes(), &node)?;
                }
            }
            match multi.commit().await {
                Ok(_) | Err(MultiWriteError::OperationFailed { source: Error::NodeExists, .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::NodeExists)
    }

    async fn put(&self, client: &Client, key: &str, value: &[u8]) -> Result<(), Error> {
        let path = self.path(key);
        self.ensure_parent(client, &path).await?;
        for _ in 0..SET_TRIES_MAX {
            match client.set_data(&path, value, None).await {
                Err(Error::NoNode) => {}
                done => return done.map(drop),
            }
            match client.create(&path, value, &self.node(CreateMode::Persistent)).await {
                Err(Error::NodeExists) => {}
                done => return done.map(drop),
            }
        }
        Err(Error::NodeExists)
    }

    /// Everything there is, each slot and the settings as of one moment.
    async fn entries(&self, client: &Client) -> Result<Vec<Entry>, Error> {
        let ((), windows, retired, datacenters) = tokio::try_join!(
            client.sync(&self.root),
            self.children(client, "windows"),
            self.children(client, "retired_workers"),
            self.children(client, "datacenters"),
        )?;
        let below: Vec<_> = datacenters.iter().map(|key| format!("{key}/workers")).collect();
        let workers = stream::iter(below)
            .map(|key| async move { self.children(client, &key).await })
            .buffer_unordered(READS_MAX)
            .try_concat()
            .await?;
        let slots = [windows, retired, workers].concat();
        let slots: BTreeSet<Slot> = slots.iter().filter_map(|key| slot_of(key)).collect();
        let mut together = vec![CONFIG.map(str::to_owned).to_vec()];
        together.extend(datacenters.iter().map(|key| vec![format!("{key}/name"), format!("{key}/region")]));
        together.extend(slots.into_iter().map(slot_keys));
        stream::iter(together)
            .map(|keys| async move { self.read(client, &keys).await })
            .buffer_unordered(READS_MAX)
            .try_concat()
            .await
    }

    /// Deletes a worker's node unless it is another's by now.
    async fn bury(&self, client: &Client, slot: Slot, worker: &Worker) -> Result<(), Error> {
        let entries = self.read(client, &slot_keys(slot)).await?;
        let state = tree::slot(slot, &entries);
        if state.worker.is_none_or(|stands| stands.owner != worker.owner) {
            return Ok(());
        }
        let mut multi = client.new_multi_writer();
        // Whoever makes the node anew also changes the window.
        for entry in entries.iter().filter(|entry| entry.path == key::window(slot)) {
            let version = i32::try_from(entry.revision.0).unwrap_or_default();
            multi.add_check_version(&self.path(&entry.path), version)?;
        }
        multi.add_delete(&self.path(&key::worker(slot)), None)?;
        multi.commit().await?;
        Ok(())
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

/// The keys of the settings.
const CONFIG: [&str; 5] =
    [key::EPOCH, key::MAX_SEQUENCE, key::CLOCK_DRIFT_THRESHOLD, key::LAYOUT, key::CLUSTER_ID];

/// The keys of one slot.
fn slot_keys(slot: Slot) -> Vec<String> {
    vec![key::window(slot), key::worker(slot), key::retired(slot)]
}

fn slot_of(key: &str) -> Option<Slot> {
    match Key::parse(key)? {
        Key::Worker(slot) | Key::Window(slot) | Key::Retired(slot) => Some(slot),
        _ => None,
    }
}

fn entry(key: &str, value: Vec<u8>, stat: Stat) -> Entry {
    Entry { path: key.to_owned(), value, revision: revision(stat.version) }
}

/// A node's version begins at 0 and counts up: it is negative only past two thousand million changes, one
/// a second for 68 years.
fn revision(version: i32) -> Revision {
    Revision(u64::try_from(version).unwrap_or(u64::MAX))
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("records are plain data")
}

/// What stands at a path, if anything. The request is sent at once.
fn get(client: &Client, path: &str) -> impl Future<Output = Result<Option<(Vec<u8>, Stat)>, Error>> {
    let read = client.get_data(path);
    async move {
        match read.await {
            Ok(read) => Ok(Some(read)),
            Err(Error::NoNode) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A call that does not change a slot, and may be given up at any point.
async fn bounded<T>(call: impl Future<Output = Result<T, RegistryError>>) -> Result<T, RegistryError> {
    let bound = Duration::from_millis(CALL_MS_MAX);
    timeout(bound, call).await.unwrap_or(Err(RegistryError::TimedOut))
}
