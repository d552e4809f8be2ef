//! Backups of what is in ClickHouse, made by asking it: they need nothing of a server that not every one has.
//!
//! A backup is a directory of an object store. Each file has rows of one table and one month, in ClickHouse's own format,
//! compressed; the manifest says what there is, and is written last, so that what has none is not a backup yet.
//!
//! What is read is a copy of the tables that costs no space (`snapshot.rs`), taken at one moment: what is inserted later
//! is not in the backup. An export is a backup of those months that are about to be dropped.

mod export;
mod files;
mod manifest;
mod place;
mod restore;
mod snapshot;

use jiff::Timestamp;

use crate::clickhouse::{ClickHouse, ClickHouseError, schema};
use crate::objects::Objects;

pub use export::apply_retention;
pub use files::upload;
pub use manifest::{File, Manifest, Moment, Table};
pub use place::{Kept, list, prune};
pub use restore::restore;

use manifest::MANIFEST_FILE;
use snapshot::{Snapshot, Wanted};

/// After how long what was begun and is not complete counts as given up, in hours.
pub const GIVEN_UP_H: i64 = 24;

/// Shows how far something is.
pub trait Progress: Sync {
    /// What is done from now on, and how many bytes it is.
    fn begin(&self, what: &str, bytes: u64);
    /// So many more are done.
    fn add(&self, bytes: u64);
}

/// To nobody.
impl Progress for () {
    fn begin(&self, _: &str, _: u64) {}
    fn add(&self, _: u64) {}
}

/// Why there is no backup, or nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// ClickHouse does not do what it should.
    #[error(transparent)]
    ClickHouse(#[from] ClickHouseError),
    /// The place for backups does not.
    #[error("{at}: {problem}")]
    Store {
        /// Which, and what in it.
        at: String,
        /// Why.
        problem: String,
    },
    /// Several servers share the tables.
    #[error("{table} is spread over the cluster {cluster}: ClickHouse's own BACKUP … ON CLUSTER is for that")]
    Cluster {
        /// Which table, among others.
        table: String,
        /// Which cluster.
        cluster: String,
    },
    /// There is nothing to be backed up.
    #[error("{clickhouse} has no table {table}: `snowmint schema apply` makes it")]
    NoTable {
        /// Where.
        clickhouse: String,
        /// What is missing.
        table: String,
    },
    /// There is no such backup.
    #[error("{at} has no complete backup {name}: `snowmint backup list` shows what there is")]
    NotThere {
        /// Where it was looked for.
        at: String,
        /// What was looked for.
        name: String,
    },
    /// It is of a later version.
    #[error("{name} was made by snowmint {version}, and this one cannot read it: a newer one is wanted")]
    TooNew {
        /// Which backup.
        name: String,
        /// What made it.
        version: String,
    },
    /// A file is not what was written.
    #[error("{file} is damaged: {problem}")]
    Damaged {
        /// Which.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// There is something where it should be restored to.
    #[error(
        "{clickhouse} has {tables} already: a database without them is wanted (`clickhouse.database` names it)"
    )]
    NotEmpty {
        /// Where.
        clickhouse: String,
        /// What is there.
        tables: String,
    },
}

/// Backs up every table of the schema. What was begun is taken away again if it fails.
pub async fn create(
    clickhouse: &ClickHouse,
    to: &Objects,
    progress: &dyn Progress,
) -> Result<Manifest, BackupError> {
    let wanted: Vec<Wanted> = schema::tables().into_iter().map(Wanted::all).collect();
    write(clickhouse, to, "backup", &wanted, progress).await
}

async fn write(
    clickhouse: &ClickHouse,
    to: &Objects,
    kind: &str,
    wanted: &[Wanted],
    progress: &dyn Progress,
) -> Result<Manifest, BackupError> {
    let name = place::claim(to, kind).await?;
    let written = async {
        let snapshot = Snapshot::take(clickhouse, &name, wanted).await?;
        write_files(clickhouse, to, &name, snapshot, progress).await
    };
    let written = written.await;
    let cleared = snapshot::clear(clickhouse, &name).await;
    let written = written.and_then(|manifest| cleared.map(|()| manifest));
    if written.is_err() {
        // As far as it goes: the rest is told by what is missing, and pruned.
        let _ = place::remove(to, &name).await;
    }
    written
}

async fn write_files(
    clickhouse: &ClickHouse,
    to: &Objects,
    name: &str,
    snapshot: Snapshot,
    progress: &dyn Progress,
) -> Result<Manifest, BackupError> {
    let moment = snapshot.moment.clone();
    progress.begin("reading ClickHouse", snapshot.bytes());
    let mut tables = Vec::new();
    for table in &snapshot.tables {
        let mut files = Vec::new();
        for chunk in table.chunks() {
            files.push(files::write(clickhouse, to, name, &chunk, progress).await?);
        }
        tables.push(Table::new(&table.name, files));
    }
    let manifest = Manifest::new(name, clickhouse, moment, tables).await?;
    files::put(to, &format!("{name}/{MANIFEST_FILE}"), manifest.to_json()).await?;
    Ok(manifest)
}

/// The name of what is begun now.
fn name_at(kind: &str, at: Timestamp) -> String {
    format!("{kind}_{}", at.strftime("%Y%m%d_%H%M%S"))
}

/// When what has that name was begun; nothing where the name is no backup's.
fn begun_at(name: &str) -> Option<Timestamp> {
    let (_, time) = name.split_once('_').filter(|(kind, _)| ["backup", "export"].contains(kind))?;
    let time = jiff::civil::DateTime::strptime("%Y%m%d_%H%M%S", time).ok()?;
    let at = jiff::tz::TimeZone::UTC.to_timestamp(time).ok()?;
    // Nothing else is taken for one: what is pruned is deleted.
    (name_at(name.split_once('_')?.0, at) == name).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_when() {
        let at = Timestamp::from_second(1_767_466_800).unwrap_or_default();
        assert_eq!(name_at("backup", at), "backup_20260103_190000");
        assert_eq!(begun_at("backup_20260103_190000"), Some(at));
        assert_eq!(begun_at("export_20260103_190000"), Some(at));
        for other in ["backup_2026", "backups_20260103_190000", "backup_20260103_190000x", "backup", "x"] {
            assert_eq!(begun_at(other), None, "{other}");
        }
    }
}
