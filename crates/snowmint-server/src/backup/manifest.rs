//! What a backup says of itself.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{BackupError, files};
use crate::clickhouse::{ClickHouse, schema};
use crate::objects::Objects;

/// Written last: what has none is not complete.
pub(super) const MANIFEST_FILE: &str = "manifest.json";

/// The version of this form.
const FORMAT: u32 = 1;

/// What a backup is, and what is in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of this form.
    pub format: u32,
    /// Its name.
    pub name: String,
    /// Which snowmint made it.
    pub snowmint: String,
    /// The newest file of the schema that was applied.
    pub schema_version: u32,
    /// Which database it is of.
    pub database: String,
    /// As of when it is.
    pub moment: Moment,
    /// How many rows it has.
    pub rows: u64,
    /// How many bytes its files have.
    pub bytes: u64,
    /// What is in it.
    pub tables: Vec<Table>,
}

/// As of when a backup is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// What was inserted before is in it.
    pub from: Timestamp,
    /// What was inserted after is not.
    pub until: Timestamp,
    /// Nothing was inserted between the two: every insert is in all tables and views that it fills, or in none. Otherwise
    /// what was inserted then may be in some alone.
    pub whole: bool,
}

/// A table of a backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Its name.
    pub table: String,
    /// How many rows it has.
    pub rows: u64,
    /// Where they are.
    pub files: Vec<File>,
}

/// A file of a backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct File {
    /// Its path below the backup's place.
    pub path: String,
    /// The partition that its rows are of, such as 202601.
    pub partition: String,
    /// How many rows it has.
    pub rows: u64,
    /// How long it is.
    pub bytes: u64,
    /// The SHA-256 of its bytes, in hex.
    pub sha256: String,
    /// Not before this are its rows; none where they have no time.
    pub min_time: Option<Timestamp>,
    /// And not after this second.
    pub max_time: Option<Timestamp>,
}

impl Table {
    pub(super) fn new(table: &str, files: Vec<File>) -> Self {
        Self { table: table.to_owned(), rows: files.iter().map(|file| file.rows).sum(), files }
    }
}

impl Manifest {
    pub(super) async fn new(
        name: &str,
        clickhouse: &ClickHouse,
        moment: Moment,
        tables: Vec<Table>,
    ) -> Result<Self, BackupError> {
        let schema_version = schema::versions(clickhouse).await?.last().copied().unwrap_or(0);
        Ok(Self {
            format: FORMAT,
            name: name.to_owned(),
            snowmint: env!("CARGO_PKG_VERSION").to_owned(),
            schema_version,
            database: clickhouse.database().to_owned(),
            moment,
            rows: tables.iter().map(|table| table.rows).sum(),
            bytes: tables.iter().flat_map(|table| &table.files).map(|file| file.bytes).sum(),
            tables,
        })
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("it is text and numbers")
    }

    /// The manifest of a complete backup, which this snowmint can read.
    pub(super) async fn read(from: &Objects, name: &str) -> Result<Self, BackupError> {
        let path = format!("{name}/{MANIFEST_FILE}");
        let not_there = || BackupError::NotThere { at: from.url().to_string(), name: name.to_owned() };
        let json = files::get(from, &path).await?.ok_or_else(not_there)?;
        let damaged = |error: serde_json::Error| BackupError::Damaged {
            file: format!("{}/{path}", from.url()),
            problem: error.to_string(),
        };
        let manifest: Self = serde_json::from_slice(&json).map_err(damaged)?;
        if manifest.format != FORMAT || manifest.schema_version as usize > schema::MIGRATIONS.len() {
            return Err(BackupError::TooNew { name: name.to_owned(), version: manifest.snowmint });
        }
        Ok(manifest)
    }
}
