//! The changes of a slot: its window record, its worker and its retired entry in one `multi`.
//!
//! The window's version is checked first, so that nothing happens at all where the slot was changed by
//! somebody else. What was read of the other two is checked, too: if only that has changed, it is read again.

use std::sync::PoisonError;
use std::time::Duration;

use snowmint::Slot;
use tokio::time::{Instant, timeout_at};
use zookeeper_client::{
    Client, CreateMode, Error, MultiWriteError, MultiWriteResult, MultiWriter, SessionId,
};

use super::session::Session;
use super::{ZooKeeperRegistry, get};
use crate::registry::{
    CALL_MS_MAX, Owner, RegistryError, Retired, Revision, SwapError, WindowRecord, Worker, key,
};

/// How often a change is tried whose window record stands, while the slot's other entries change under it.
const TRIES_MAX: u32 = 4;

/// The first operation of every `multi`.
const WINDOW: usize = 0;

/// What becomes of a slot's worker and its retired entry when its window record changes.
#[derive(Clone, Copy)]
pub(super) enum Beside<'a> {
    /// There is this worker, alive in this session.
    Alive(&'a Worker),
    /// The worker stays alive that was made in this session.
    StillAlive(&'a Worker, SessionId),
    /// There is no worker, and this entry.
    Retired(&'a Retired),
    /// Nothing.
    Untouched,
}

/// A slot's window record as it is to be.
pub(super) struct Change<'a> {
    pub(super) slot: Slot,
    pub(super) expected: Option<Revision>,
    pub(super) record: &'a WindowRecord,
    pub(super) beside: Beside<'a>,
}

/// How one try ended that did not fail.
enum Tried {
    Done(Revision),
    /// The window record is not the expected one.
    Taken,
    /// Something beside it is not as it was read.
    Changed,
}

impl ZooKeeperRegistry {
    pub(super) async fn swap(&self, change: &Change<'_>) -> Result<Revision, SwapError> {
        let deadline = Instant::now() + Duration::from_millis(CALL_MS_MAX);
        for try_number in 0..TRIES_MAX {
            match self.try_swap(change, try_number == 0, deadline).await? {
                Tried::Done(revision) => return Ok(revision),
                Tried::Taken => break,
                Tried::Changed => {}
            }
        }
        let holder = timeout_at(deadline, self.holder(change.slot)).await.ok().flatten();
        Err(SwapError::Conflict { holder })
    }

    async fn try_swap(
        &self,
        change: &Change<'_>,
        first: bool,
        deadline: Instant,
    ) -> Result<Tried, SwapError> {
        let prepared = timeout_at(deadline, self.sessions.connected()).await;
        let session = prepared.unwrap_or(Err(RegistryError::TimedOut)).map_err(SwapError::Unavailable)?;
        let prepared = timeout_at(deadline, self.multi(&session, change, first)).await;
        let mut multi = prepared.unwrap_or(Err(SwapError::Unavailable(RegistryError::TimedOut)))?;
        if let Beside::Alive(worker) | Beside::StillAlive(worker, _) = change.beside {
            self.hold(change.slot, worker, session.client.session_id());
        }
        // From here on it may take effect, even when nobody waits for it any more.
        match timeout_at(deadline, multi.commit()).await {
            Ok(Ok(results)) => Ok(Tried::Done(revision_of(&results))),
            Ok(Err(MultiWriteError::OperationFailed { index, source })) => {
                self.refused(change, index, &source)
            }
            Ok(Err(MultiWriteError::RequestFailed { source })) => {
                Err(SwapError::Unknown(self.sessions.failed(&source)))
            }
            Err(_) => Err(SwapError::Unknown(RegistryError::TimedOut)),
        }
    }

    /// What it means that one operation was refused, and so all of them.
    fn refused(&self, change: &Change<'_>, index: usize, error: &Error) -> Result<Tried, SwapError> {
        if *error == Error::NoNode {
            // It may be a parent that somebody has deleted.
            self.parents.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        match error {
            Error::NoNode if index == WINDOW && change.expected.is_none() => Ok(Tried::Changed),
            Error::NoNode | Error::NodeExists | Error::BadVersion if index == WINDOW => Ok(Tried::Taken),
            Error::NoNode | Error::NodeExists | Error::BadVersion => Ok(Tried::Changed),
            error => Err(SwapError::Unavailable(self.sessions.failed(error))),
        }
    }

    /// The operations that make a change, the window's first.
    async fn multi<'a>(
        &self,
        session: &'a Session,
        change: &Change<'_>,
        first: bool,
    ) -> Result<MultiWriter<'a>, SwapError> {
        let unavailable = |error: Error| SwapError::Unavailable(self.sessions.failed(&error));
        let (client, slot) = (&session.client, change.slot);
        let mut multi = client.new_multi_writer();
        let (window, record) = (self.path(&key::window(slot)), super::json(change.record));
        let added = if let Some(Revision(expected)) = change.expected {
            // No node of ZooKeeper has a version that does not fit.
            let version = i32::try_from(expected).map_err(|_| SwapError::Conflict { holder: None })?;
            multi.add_set_data(&window, &record, Some(version))
        } else {
            self.ensure_parent(client, &window).await.map_err(unavailable)?;
            multi.add_create(&window, &record, &self.node(CreateMode::Persistent))
        };
        added.map_err(unavailable)?;
        match change.beside {
            Beside::StillAlive(_, made_in) if first && made_in == client.session_id() => {
                multi.add_check_version(&self.path(&key::worker(slot)), -1).map_err(unavailable)?;
            }
            Beside::Alive(worker) | Beside::StillAlive(worker, _) => {
                self.enliven(&mut multi, client, slot, worker).await?;
            }
            Beside::Retired(retired) => {
                self.cool_down(&mut multi, client, slot, retired).await.map_err(unavailable)?;
            }
            Beside::Untouched => {}
        }
        Ok(multi)
    }

    /// Adds that the worker is alive, and nothing is retired.
    async fn enliven(
        &self,
        multi: &mut MultiWriter<'_>,
        client: &Client,
        slot: Slot,
        worker: &Worker,
    ) -> Result<(), SwapError> {
        let unavailable = |error: Error| SwapError::Unavailable(self.sessions.failed(&error));
        let (path, retired) = (self.path(&key::worker(slot)), self.path(&key::retired(slot)));
        self.ensure_parent(client, &path).await.map_err(unavailable)?;
        let read = tokio::try_join!(client.sync(&self.root), get(client, &path), get(client, &retired));
        let ((), stands, retired_stands) = read.map_err(unavailable)?;
        if let Some((value, stat)) = stands {
            let holder = serde_json::from_slice(&value).ok().map(|stands: Worker| stands.owner);
            if holder.as_ref().is_none_or(|holder| holder.node != worker.owner.node) {
                return Err(SwapError::Conflict { holder });
            }
            // Of an earlier session, or an earlier life of this node.
            multi.add_delete(&path, Some(stat.version)).map_err(unavailable)?;
        }
        let node = self.node(CreateMode::Ephemeral);
        multi.add_create(&path, &super::json(worker), &node).map_err(unavailable)?;
        if let Some((_, stat)) = retired_stands {
            multi.add_delete(&retired, Some(stat.version)).map_err(unavailable)?;
        }
        Ok(())
    }

    /// Adds that there is no worker, and that the slot is retired.
    async fn cool_down(
        &self,
        multi: &mut MultiWriter<'_>,
        client: &Client,
        slot: Slot,
        retired: &Retired,
    ) -> Result<(), Error> {
        let (worker, path) = (self.path(&key::worker(slot)), self.path(&key::retired(slot)));
        self.ensure_parent(client, &path).await?;
        let read = tokio::try_join!(client.sync(&self.root), get(client, &worker), get(client, &path));
        let ((), worker_stands, stands) = read?;
        if let Some((_, stat)) = worker_stands {
            multi.add_delete(&worker, Some(stat.version))?;
        }
        match stands {
            Some((_, stat)) => multi.add_set_data(&path, &super::json(retired), Some(stat.version)),
            None => multi.add_create(&path, &super::json(retired), &self.node(CreateMode::Persistent)),
        }
    }

    /// Whose the window is, as far as that can be told.
    async fn holder(&self, slot: Slot) -> Option<Owner> {
        let session = self.sessions.connected().await.ok()?;
        let entries = self.read(&session.client, &[key::window(slot)]).await.ok()?;
        let (record, _) = crate::registry::tree::slot(slot, &entries).window?;
        Some(record.owner)
    }
}

/// The revision that a successful change gave the window record. What the servers say of a node that a
/// `multi` created is wrong in some of their versions, but its first version always is 0.
fn revision_of(results: &[MultiWriteResult]) -> Revision {
    match results.get(WINDOW) {
        Some(MultiWriteResult::SetData { stat }) => super::revision(stat.version),
        _ => super::revision(0),
    }
}
