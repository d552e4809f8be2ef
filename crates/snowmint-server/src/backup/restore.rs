//! Backups put back.
//!
//! Rows are loaded into tables of other names, which no view looks at. Only when all are there and are what was written
//! do these get their names, one after the other, and then the views are made: nothing is counted twice, and a table
//! that has its name has its rows. The versions of the schema come last. Cut short while it loads, a restore begins anew
//! when it is run again; cut short while it names tables, it goes on.

use super::{BackupError, Manifest, Progress, Table, files};
use crate::clickhouse::{ClickHouse, identifier, schema};
use crate::objects::Objects;

/// What the names of tables begin with while they are loaded.
const PREFIX: &str = "snowmint_restore_";

/// Loaded last and named last: it says that all the others are there.
const LAST: &str = "schema_versions";

/// Puts a backup back into a database that has none of its tables.
///
/// What it restores is kept until retention is applied: a backup may well be older than what is to be kept.
pub async fn restore(
    clickhouse: &ClickHouse,
    from: &Objects,
    name: &str,
    progress: &dyn Progress,
) -> Result<Manifest, BackupError> {
    let manifest = Manifest::read(from, name).await?;
    clickhouse.make_database("").await?;
    if !is_loaded(clickhouse, name).await? {
        begin(clickhouse).await?;
        progress.begin("restoring", manifest.bytes);
        let (last, others): (Vec<&Table>, Vec<&Table>) =
            manifest.tables.iter().partition(|table| table.table == LAST);
        for table in others.into_iter().chain(last) {
            load(clickhouse, from, name, table, progress).await?;
        }
    }
    put_in_place(clickhouse, &manifest).await?;
    Ok(manifest)
}

fn staged(name: &str, table: &str) -> String {
    format!("{PREFIX}{name}_{table}")
}

/// Whether all tables of this backup were loaded before.
async fn is_loaded(clickhouse: &ClickHouse, name: &str) -> Result<bool, BackupError> {
    let last = staged(name, LAST);
    if !clickhouse.tables().await?.contains(&last) {
        return Ok(false);
    }
    let rows = clickhouse.rows(&format!("SELECT count() FROM {last}"), &[]).await?;
    Ok(rows.first().is_some_and(|row| row[0] != 0))
}

/// Refuses to put rows among others, and clears what a restore before has left.
async fn begin(clickhouse: &ClickHouse) -> Result<(), BackupError> {
    let present = clickhouse.tables().await?;
    let ours = schema::names();
    let in_the_way: Vec<&str> =
        present.iter().map(String::as_str).filter(|table| ours.contains(table)).collect();
    if !in_the_way.is_empty() {
        let (clickhouse, tables) = (clickhouse.to_string(), in_the_way.join(", "));
        return Err(BackupError::NotEmpty { clickhouse, tables });
    }
    for table in present.iter().filter(|table| table.starts_with(PREFIX)) {
        clickhouse.execute(&format!("DROP TABLE {} SYNC", identifier(table))).await?;
    }
    Ok(())
}

async fn load(
    clickhouse: &ClickHouse,
    from: &Objects,
    name: &str,
    table: &Table,
    progress: &dyn Progress,
) -> Result<(), BackupError> {
    let staged = staged(name, &table.table);
    let damaged = |problem: String| BackupError::Damaged { file: format!("{}/{name}", from.url()), problem };
    let unknown = || damaged(format!("it has a table {:?}, which the schema has not", table.table));
    let create = schema::create(&table.table, &staged).ok_or_else(unknown)?;
    clickhouse.execute(&create).await?;
    for file in &table.files {
        files::load(clickhouse, from, name, file, &staged, progress).await?;
    }
    // In the other engines rows are merged into one.
    if create.contains("ENGINE = MergeTree") {
        let rows = clickhouse.rows(&format!("SELECT count() FROM {staged}"), &[]).await?;
        if rows.first().is_none_or(|row| row[0] != table.rows) {
            let got = rows.first().map(|row| row[0].to_string()).unwrap_or_default();
            return Err(damaged(format!("{} has {got} rows, not {}", table.table, table.rows)));
        }
    }
    Ok(())
}

async fn put_in_place(clickhouse: &ClickHouse, manifest: &Manifest) -> Result<(), BackupError> {
    let name = |table: &str| staged(&manifest.name, table);
    let loaded = clickhouse.tables().await?;
    let tables = manifest.tables.iter().map(|table| table.table.as_str()).filter(|table| *table != LAST);
    for table in tables.filter(|table| loaded.contains(&name(table))) {
        clickhouse.execute(&format!("RENAME TABLE {} TO {table}", name(table))).await?;
    }
    // What has no rows of its own; the rest is there.
    schema::make(clickhouse, 2..=manifest.schema_version).await?;
    clickhouse.execute(&format!("RENAME TABLE {} TO {LAST}", name(LAST))).await?;
    // And what was added to the schema since.
    schema::apply(clickhouse, None).await?;
    Ok(())
}
