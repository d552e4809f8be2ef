//! ClickHouse: the connection, the schema in it, and how long it keeps what it is given.
//!
//! The sink and the reports of that name use it.

pub mod retention;
pub mod schema;
mod tls;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use clickhouse::Client;
use clickhouse::error::Error;
use clickhouse::insert_formatted::InsertFormatted;
use clickhouse::query::BytesCursor;
use serde_json::Value;
use snowmint::Slot;

use crate::config;

/// Both parts of the slot of a node that held none. No layout has room for it beside a useful sequence.
pub const NO_SLOT: Slot = Slot { datacenter: u16::MAX, worker: u16::MAX };

/// The longest a question may take, in milliseconds.
const QUERY_MS_MAX: u64 = 30_000;

/// The longest a change of the schema may take, in milliseconds: merging a large table takes its time.
const CHANGE_MS_MAX: u64 = 3_600_000;

/// The longest it may be silent while rows are read from it, in milliseconds, or take none while they are written.
const STALL_MS_MAX: u64 = 120_000;

/// How many of its threads read what is streamed: its memory is bounded by it.
const STREAM_THREADS: &str = "2";

/// How much of what ClickHouse says about an error is told on, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 500;

/// A ClickHouse, and who to be there. Nothing is sent before something is asked.
#[derive(Clone)]
pub struct ClickHouse {
    /// With the database.
    client: Client,
    /// Without: for making it.
    server: Client,
    url: String,
    database: String,
}

impl fmt::Debug for ClickHouse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClickHouse {self}")
    }
}

/// Where it is, for people.
impl fmt::Display for ClickHouse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, database {}", self.url, self.database)
    }
}

/// What does not work with a ClickHouse.
#[derive(Debug, thiserror::Error)]
pub enum ClickHouseError {
    /// There is none in the configuration.
    #[error("clickhouse.url is not set: the URL of a ClickHouse is wanted, such as http://localhost:8123")]
    NotConfigured,
    /// The configuration has something that cannot be used.
    #[error("{key}: {problem}")]
    Settings {
        /// Which key.
        key: &'static str,
        /// Why.
        problem: String,
    },
    /// It cannot be reached, or the connection broke.
    #[error("ClickHouse at {at} cannot be reached: {problem}")]
    Unreachable {
        /// Where.
        at: String,
        /// Why.
        problem: String,
    },
    /// It does not answer.
    #[error("ClickHouse at {at} did not answer within {after_ms} ms")]
    TimedOut {
        /// Where.
        at: String,
        /// How long it was waited for.
        after_ms: u64,
    },
    /// It answered with an error.
    #[error("ClickHouse at {at} says: {problem}")]
    Answer {
        /// Where.
        at: String,
        /// The number of ClickHouse's error, if it has one.
        code: Option<u32>,
        /// Its text, cut to [`MESSAGE_BYTES_MAX`].
        problem: String,
    },
    /// What was to be sent cannot be written down, or what came cannot be read.
    #[error("ClickHouse at {at} and this snowmint do not understand each other: {problem}")]
    Format {
        /// Where.
        at: String,
        /// Why.
        problem: String,
    },
    /// The schema knows no such table.
    #[error("{table:?} has no retention: there are {known}")]
    UnknownTable {
        /// What was asked for.
        table: String,
        /// What there is.
        known: String,
    },
}

impl ClickHouse {
    /// The one that the configuration names.
    pub fn new(config: &config::ClickHouse) -> Result<Self, ClickHouseError> {
        let url = config.url.clone().ok_or(ClickHouseError::NotConfigured)?;
        let mut server = tls::client(&url, config.ca_file.as_deref())?
            .with_url(&url)
            .with_product_info("snowmint", env!("CARGO_PKG_VERSION"))
            // Answers that are numbers, not texts of numbers.
            .with_setting("output_format_json_quote_64bit_integers", "0")
            // What is inserted through a Distributed table is there when that is answered.
            .with_setting("distributed_foreground_insert", "1");
        if let Some(user) = &config.user {
            server = server.with_user(user);
        }
        if let Some(file) = &config.password_file {
            let password = config::password(file)
                .map_err(|problem| ClickHouseError::Settings { key: "clickhouse.password_file", problem })?;
            server = server.with_password(password);
        }
        let client = server.clone().with_database(&config.database);
        Ok(Self { client, server, url, database: config.database.clone() })
    }

    /// Rows of an answer, each as its columns in order.
    pub async fn rows(
        &self,
        sql: &str,
        params: &[(&str, Value)],
    ) -> Result<Vec<Vec<Value>>, ClickHouseError> {
        let mut query = self.client.query_raw(sql);
        for (name, value) in params {
            query = query.param(name, value);
        }
        let answer = async { query.fetch_bytes("JSONCompactEachRow")?.collect().await };
        let answer = self.within(QUERY_MS_MAX, answer).await?;
        let row = |line: &[u8]| serde_json::from_slice(line).map_err(|error| self.unreadable(&error));
        answer.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(row).collect()
    }

    /// Changes something.
    pub async fn execute(&self, sql: &str) -> Result<(), ClickHouseError> {
        self.within(CHANGE_MS_MAX, self.client.query_raw(sql).execute()).await
    }

    /// Which database is used.
    pub(crate) fn database(&self) -> &str {
        &self.database
    }

    /// The names of what the database has.
    pub(crate) async fn tables(&self) -> Result<Vec<String>, ClickHouseError> {
        const SQL: &str = "SELECT name FROM system.tables WHERE database = currentDatabase() ORDER BY name";
        let rows = self.rows(SQL, &[]).await?;
        Ok(rows.iter().filter_map(|row| row[0].as_str()).map(str::to_owned).collect())
    }

    /// An answer of any length, in ClickHouse's own format.
    pub(crate) fn native(&self, sql: &str) -> Result<NativeAnswer<'_>, ClickHouseError> {
        let seconds = (STALL_MS_MAX / 1_000).to_string();
        let query = self
            .client
            .query_raw(sql)
            .with_setting("max_execution_time", "0")
            .with_setting("max_threads", STREAM_THREADS)
            // Whoever reads it may be slower than it is.
            .with_setting("http_send_timeout", seconds);
        let cursor = query.fetch_bytes("Native").map_err(|error| self.error(&error))?;
        Ok(NativeAnswer { clickhouse: self, cursor })
    }

    /// Rows for a table, in ClickHouse's own format, as they are: none is left out because it looks like one before, and
    /// none is merged with another at once.
    pub(crate) fn insert_native(&self, table: &str) -> NativeInsert<'_> {
        let seconds = (STALL_MS_MAX / 1_000).to_string();
        let insert = self
            .client
            .insert_formatted_with(format!("INSERT INTO {} FORMAT Native", identifier(table)))
            .with_setting("async_insert", "0")
            .with_setting("insert_deduplicate", "0")
            .with_setting("max_execution_time", "0")
            .with_setting("optimize_on_insert", "0")
            .with_setting("http_receive_timeout", seconds);
        NativeInsert { clickhouse: self, insert }
    }

    /// Makes the database if there is none.
    pub(crate) async fn make_database(&self, on_cluster: &str) -> Result<(), ClickHouseError> {
        let sql = format!("CREATE DATABASE IF NOT EXISTS {}{on_cluster}", identifier(&self.database));
        self.within(QUERY_MS_MAX, self.server.query_raw(&sql).execute()).await
    }

    /// For inserts.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Waits for an answer for so long.
    pub(crate) async fn within<T>(
        &self,
        ms_max: u64,
        answer: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, ClickHouseError> {
        match tokio::time::timeout(Duration::from_millis(ms_max), answer).await {
            Ok(answer) => answer.map_err(|error| self.error(&error)),
            Err(_) => Err(ClickHouseError::TimedOut { at: self.url.clone(), after_ms: ms_max }),
        }
    }

    fn error(&self, error: &Error) -> ClickHouseError {
        let at = self.url.clone();
        match error {
            Error::Network(source) => {
                ClickHouseError::Unreachable { at, problem: shortened(&with_causes(source.as_ref())) }
            }
            Error::BadResponse(text) => {
                ClickHouseError::Answer { at, code: error_code(text), problem: shortened(text) }
            }
            error => ClickHouseError::Format { at, problem: shortened(&error.to_string()) },
        }
    }

    fn unreadable(&self, error: &dyn fmt::Display) -> ClickHouseError {
        ClickHouseError::Format { at: self.url.clone(), problem: error.to_string() }
    }
}

/// Rows that are being read.
pub(crate) struct NativeAnswer<'a> {
    clickhouse: &'a ClickHouse,
    cursor: BytesCursor,
}

impl NativeAnswer<'_> {
    /// More of it. An answer that ClickHouse breaks off is an error.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, ClickHouseError> {
        self.clickhouse.within(STALL_MS_MAX, self.cursor.next()).await
    }
}

/// Rows that are being written.
pub(crate) struct NativeInsert<'a> {
    clickhouse: &'a ClickHouse,
    insert: InsertFormatted,
}

impl NativeInsert<'_> {
    /// More of them.
    pub(crate) async fn send(&mut self, bytes: Bytes) -> Result<(), ClickHouseError> {
        self.clickhouse.within(STALL_MS_MAX, self.insert.send(bytes)).await
    }

    /// All of them are there.
    pub(crate) async fn end(self) -> Result<(), ClickHouseError> {
        self.clickhouse.within(STALL_MS_MAX, self.insert.end()).await
    }
}

/// A name as ClickHouse wants it where it may be anything.
pub(crate) fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

/// `Code: 60. DB::Exception: …`
fn error_code(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("Code: ")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn shortened(text: &str) -> String {
    let text = text.trim();
    if text.len() <= MESSAGE_BYTES_MAX {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(MESSAGE_BYTES_MAX)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clickhouse_says_is_told_on_in_part() {
        let text = "Code: 60. DB::Exception: Unknown table expression identifier 'x'. (UNKNOWN_TABLE)";
        assert_eq!(error_code(text), Some(60));
        assert_eq!(error_code("503 Service Unavailable"), None);
        assert_eq!(shortened(text), text);
        assert_eq!(shortened(&"ö".repeat(MESSAGE_BYTES_MAX)).len(), MESSAGE_BYTES_MAX + "…".len());
        assert_eq!(identifier("a`b"), "`a\\`b`");
    }
}
