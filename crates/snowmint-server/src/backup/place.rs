//! What is in a place for backups, and what of it has to go.

use std::collections::BTreeSet;

use futures_util::{StreamExt, TryStreamExt};
use jiff::{SignedDuration, Timestamp};
use object_store::path::Path;
use object_store::{Error, ObjectMeta, ObjectStoreExt, PutMode, PutPayload};

use super::files::store_error;
use super::manifest::{MANIFEST_FILE, Manifest};
use super::{BackupError, GIVEN_UP_H, begun_at, name_at};
use crate::objects::Objects;

/// The first object of a backup: whoever writes it has the name.
const CLAIM_FILE: &str = "begun";

/// How many names are tried, one for each second.
const CLAIMS_MAX: i64 = 10;

/// What is there of a backup.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its name.
    pub name: String,
    /// When it was begun.
    pub begun_at: Timestamp,
    /// How many bytes there are.
    pub bytes: u64,
    /// How many rows it has; nothing where it is not complete.
    pub rows: Option<u64>,
    /// It has no manifest, and nothing was written to it for long.
    is_given_up: bool,
}

impl Kept {
    /// Whether all of it is there.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.rows.is_some()
    }
}

/// A name that nobody has.
pub(super) async fn claim(at: &Objects, kind: &str) -> Result<String, BackupError> {
    for seconds in 0..CLAIMS_MAX {
        let time = Timestamp::now() + SignedDuration::from_secs(seconds);
        let name = name_at(kind, time);
        if claim_name(at, &name).await? {
            return Ok(name);
        }
    }
    let problem = format!("the names of {CLAIMS_MAX} seconds are taken");
    Err(BackupError::Store { at: at.url().to_string(), problem })
}

/// Whether a name was free, and is ours now.
pub(super) async fn claim_name(at: &Objects, name: &str) -> Result<bool, BackupError> {
    let object = format!("{name}/{CLAIM_FILE}");
    let begun = PutPayload::from(Timestamp::now().to_string());
    match at.store.put_opts(&Path::from(object.as_str()), begun, PutMode::Create.into()).await {
        Ok(_) => Ok(true),
        Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
        Err(error) => Err(store_error(at, &object, &error)),
    }
}

/// Every backup that is there or was begun, oldest first. Exports are not among them.
pub async fn list(at: &Objects) -> Result<Vec<Kept>, BackupError> {
    let listed = at.store.list_with_delimiter(None).await.map_err(|error| store_error(at, "", &error))?;
    let names: BTreeSet<String> = listed
        .common_prefixes
        .iter()
        .filter_map(|prefix| prefix.filename())
        .filter(|name| name.starts_with("backup_"))
        .map(str::to_owned)
        .collect();
    let mut kept = Vec::new();
    for name in names {
        if let Some(begun_at) = begun_at(&name) {
            kept.extend(look_at(at, name, begun_at).await?);
        }
    }
    Ok(kept)
}

/// What there is of a backup; nothing where only an empty directory is left of it.
async fn look_at(at: &Objects, name: String, begun_at: Timestamp) -> Result<Option<Kept>, BackupError> {
    let objects = objects(at, &name).await?;
    let Some(changed_at) = objects.iter().map(|object| object.last_modified.timestamp_millis()).max() else {
        return Ok(None);
    };
    let has_manifest = objects.iter().any(|object| object.location.filename() == Some(MANIFEST_FILE));
    let given_up = Timestamp::now() - SignedDuration::from_hours(GIVEN_UP_H);
    Ok(Some(Kept {
        begun_at,
        bytes: objects.iter().map(|object| object.size).sum(),
        rows: if has_manifest { rows(at, &name).await? } else { None },
        is_given_up: !has_manifest && changed_at < given_up.as_millisecond(),
        name,
    }))
}

/// How many rows a backup with a manifest has; nothing where that cannot be read.
async fn rows(at: &Objects, name: &str) -> Result<Option<u64>, BackupError> {
    match Manifest::read(at, name).await {
        Ok(manifest) => Ok(Some(manifest.rows)),
        // Complete all the same.
        Err(BackupError::TooNew { .. }) => Ok(Some(0)),
        Err(BackupError::Damaged { .. } | BackupError::NotThere { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn objects(at: &Objects, name: &str) -> Result<Vec<ObjectMeta>, BackupError> {
    let listed = at.store.list(Some(&Path::from(name))).try_collect().await;
    listed.map_err(|error| store_error(at, name, &error))
}

/// Deletes all but the newest `keep` complete backups, and what was begun and given up. Says what went.
///
/// The newest complete one stays whatever is asked for.
pub async fn prune(at: &Objects, keep: u16) -> Result<Vec<String>, BackupError> {
    let (complete, begun): (Vec<Kept>, Vec<Kept>) = list(at).await?.into_iter().partition(Kept::is_complete);
    let old = complete.into_iter().rev().skip(usize::from(keep.max(1)));
    let mut gone = Vec::new();
    for kept in old.chain(begun.into_iter().filter(|kept| kept.is_given_up)) {
        remove(at, &kept.name).await?;
        gone.push(kept.name);
    }
    Ok(gone)
}

/// Deletes a backup, its manifest first: what is left of it, if this fails, is not taken for a whole one.
pub(super) async fn remove(at: &Objects, name: &str) -> Result<(), BackupError> {
    let mut paths: Vec<Path> = objects(at, name).await?.into_iter().map(|object| object.location).collect();
    paths.sort_by_key(|path| path.filename() != Some(MANIFEST_FILE));
    if let Some((first, rest)) = paths.split_first() {
        at.store.delete(first).await.map_err(|error| store_error(at, first.as_ref(), &error))?;
        let rest: Vec<_> = rest.iter().cloned().map(Ok).collect();
        let deleted = at.store.delete_stream(futures_util::stream::iter(rest).boxed());
        deleted.try_for_each(|_| async { Ok(()) }).await.map_err(|error| store_error(at, name, &error))?;
    }
    // What has directories keeps them, empty; others know of none.
    let _ = at.store.delete(&Path::from(name)).await;
    Ok(())
}
