//! Reading the tree, and the changes to it that are not a slot's.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use snowmint::Slot;
use zookeeper_client::{Client, CreateMode, Error, MultiReadResult, MultiWriteError, Stat};

use super::ZooKeeperRegistry;
use crate::registry::key::{self, Key};
use crate::registry::tree::{self, Entry};
use crate::registry::{Namespace, Revision, Worker};

/// How many reads of one snapshot are under way at once.
const READS_MAX: usize = 64;

/// How often a new namespace's settings are written while others write them. Each time, one of them stands
/// that did not before.
const OPEN_TRIES_MAX: usize = 8;

/// How often a setting is written while its node comes and goes.
const SET_TRIES_MAX: usize = 4;

/// The keys of the settings.
pub(super) const CONFIG: [&str; 5] =
    [key::EPOCH, key::MAX_SEQUENCE, key::CLOCK_DRIFT_THRESHOLD, key::LAYOUT, key::CLUSTER_ID];

impl ZooKeeperRegistry {
    /// Makes the nodes above a path, the chroot's included, unless they are known to be there.
    pub(super) async fn ensure_parent(&self, client: &Client, path: &str) -> Result<(), Error> {
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        if self.parents.lock().unwrap_or_else(PoisonError::into_inner).contains(parent) {
            return Ok(());
        }
        client.mkdir(parent, &self.node(CreateMode::Persistent)).await?;
        self.parents.lock().unwrap_or_else(PoisonError::into_inner).insert(parent.to_owned());
        Ok(())
    }

    /// The entries that stand at some keys, all as of one moment.
    pub(super) async fn read(&self, client: &Client, keys: &[String]) -> Result<Vec<Entry>, Error> {
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
    pub(super) async fn settle(&self, client: &Client, wanted: &Namespace) -> Result<Vec<Entry>, Error> {
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

    pub(super) async fn put(&self, client: &Client, key: &str, value: &[u8]) -> Result<(), Error> {
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
    pub(super) async fn entries(&self, client: &Client) -> Result<Vec<Entry>, Error> {
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
    pub(super) async fn bury(&self, client: &Client, slot: Slot, worker: &Worker) -> Result<(), Error> {
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
}

/// The keys of one slot.
pub(super) fn slot_keys(slot: Slot) -> Vec<String> {
    vec![key::window(slot), key::worker(slot), key::retired(slot)]
}

fn slot_of(key: &str) -> Option<Slot> {
    match Key::parse(key)? {
        Key::Worker(slot) | Key::Window(slot) | Key::Retired(slot) => Some(slot),
        _ => None,
    }
}

pub(super) fn entry(key: &str, value: Vec<u8>, stat: Stat) -> Entry {
    Entry { path: key.to_owned(), value, revision: revision(stat.version) }
}

/// A node's version begins at 0 and counts up: it is negative only past two thousand million changes, one
/// a second for 68 years.
pub(super) fn revision(version: i32) -> Revision {
    Revision(u64::try_from(version).unwrap_or(u64::MAX))
}

pub(super) fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("records are plain data")
}

/// What stands at a path, if anything. The request is sent at once.
pub(super) fn get(
    client: &Client,
    path: &str,
) -> impl Future<Output = Result<Option<(Vec<u8>, Stat)>, Error>> {
    let read = client.get_data(path);
    async move {
        match read.await {
            Ok(read) => Ok(Some(read)),
            Err(Error::NoNode) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
