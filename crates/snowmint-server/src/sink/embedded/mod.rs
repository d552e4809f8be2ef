//! The metrics store of a node that has no other: one `SQLite` database in its data directory.
//!
//! A batch is one transaction, with what it adds to each minute and the number of its last event, so that one
//! that comes twice counts once. Reports are made of the minutes, which are kept for the whole retention; rows
//! are there to be looked at, and the oldest go when the file is as large as it may be.
//!
//! Nothing rests on this store but reports. It is opened when it is first needed and is given up for a new one
//! when it is damaged, so that it never keeps the service from running.

mod answer;
mod latencies;
mod space;
mod write;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use tokio::sync::{Mutex, oneshot};

use super::{Batch, Sink, SinkError};
use crate::background;
use crate::config::MetricsStore;
use crate::privacy::Privacy;
use crate::report::{Report, ReportError, Reports, Rows, Scope};

/// What may be taken beyond `metrics.max_bytes`, in bytes, by the log beside the database: what one batch
/// changes, and what was not yet moved from there.
pub const SLACK_BYTES: u64 = 32 << 20;

const FILE: &str = "metrics.db";
/// What is appended to a database's name when it is damaged.
const DAMAGED: &str = ".damaged";
/// The files of a database, by what its name is followed by.
const FILES: [&str; 3] = ["", "-wal", "-shm"];

/// The database's format. A change of it is a new number and, where rows are to be kept, a way from the old one.
const FORMAT: i64 = 1;
const SCHEMA: &str = include_str!("schema.sql");

const BYTES_PER_PAGE: u64 = 4_096;

/// How large the log may be when nothing is in it, in bytes.
const LOG_BYTES_MAX: u64 = 4 << 20;

/// How long another process that shares the data directory is waited for, in milliseconds.
const BUSY_MS_MAX: u64 = 5_000;
/// How long storing a batch may take, in milliseconds, waiting for its turn included.
const STORE_MS_MAX: u64 = 30_000;
/// How long a report may take, in milliseconds, waiting for its turn included: less than a request may.
const REPORT_MS_MAX: u64 = 8_000;

/// How often it is looked for what is past its retention, in seconds.
const EXPIRY_S: u64 = 3_600;

/// How far the store stands back where processors are scarce, from 0 to 19: at 19, a busy thread beside it gets
/// 68 times as much. While they are all busy it falls behind, and the journal keeps what it has not taken.
const NICENESS: i32 = 19;

/// How many statements are kept ready.
const STATEMENTS_MAX: usize = 32;

/// Why the store did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It was too slow, or busy with something else.
    #[error("it was not done within {0} ms")]
    Late(u64),
    /// The system gives no thread.
    #[error("there is no thread to do it: {0}")]
    Thread(io::Error),
    /// A fault of ours, which the log has.
    #[error("it failed, and the log says how")]
    Panicked,
    /// The database cannot be used now.
    #[error("{}: {source}", path.display())]
    Database {
        /// Where it is.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// A file or the directory cannot be used.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The database was damaged, and there is a new one from now on.
    #[error("{} was damaged ({problem}) and is {} now; a new one was begun", path.display(), aside.display())]
    Damaged {
        /// Where it was.
        path: PathBuf,
        /// Where it is now.
        aside: PathBuf,
        /// What was wrong with it.
        problem: String,
    },
}

/// A metrics store in a file.
pub struct EmbeddedStore {
    path: PathBuf,
    settings: MetricsStore,
    privacy: Arc<Privacy>,
    database: Arc<Mutex<Database>>,
}

/// The database, as soon as it is needed.
#[derive(Default)]
struct Database {
    connection: Option<Connection>,
    /// When it was last looked for what is past its retention.
    expired: Option<Instant>,
}

impl EmbeddedStore {
    /// The store in `directory`.
    #[must_use]
    pub fn new(directory: &Path, settings: MetricsStore) -> Self {
        Self {
            path: directory.join(FILE),
            settings,
            privacy: Arc::new(Privacy::keep()),
            database: Arc::default(),
        }
    }

    /// Tells of people what `privacy` says, instead of all.
    #[must_use]
    pub fn privacy(mut self, privacy: Privacy) -> Self {
        self.privacy = Arc::new(privacy);
        self
    }

    /// Makes a change, drops what there is no room or no reason for, and makes all of it durable.
    async fn change(
        &self,
        change: impl FnOnce(&Connection) -> rusqlite::Result<()> + Send + 'static,
    ) -> Result<(), StoreError> {
        let max_bytes = self.settings.max_bytes;
        self.blocking(STORE_MS_MAX, move |database, path| {
            let expiry = database.expired.is_none_or(|at| at.elapsed() >= Duration::from_secs(EXPIRY_S));
            let connection = database.open(path)?;
            let failed = |source| StoreError::Database { path: path.to_owned(), source };
            let transact = || {
                let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                change(&transaction)?;
                let now_ms = Timestamp::now().as_millisecond();
                let expired = !expiry || space::drop_expired(&transaction, now_ms)?;
                space::keep_within(&transaction, max_bytes)?;
                transaction.commit()?;
                Ok(expired)
            };
            let expired = transact().map_err(failed)?;
            if expiry && expired {
                database.expired = Some(Instant::now());
            }
            Ok(())
        })
        .await
    }

    /// Works with the database where it may block, for `ms_max` at most: what takes longer is interrupted.
    async fn blocking<T: Send + 'static>(
        &self,
        ms_max: u64,
        work: impl FnOnce(&mut Database, &Path) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let deadline = tokio::time::Instant::now() + Duration::from_millis(ms_max);
        let late = |_| StoreError::Late(ms_max);
        let turn = Arc::clone(&self.database).lock_owned();
        let mut database = tokio::time::timeout_at(deadline, turn).await.map_err(late)?;
        let interrupt = database.connection.as_ref().map(Connection::get_interrupt_handle);
        let path = self.path.clone();
        let (finished, done) = oneshot::channel();
        let work = move || {
            background::give_way(NICENESS);
            let done = work(&mut database, &path);
            // Where nobody waits any more, it was late.
            let _ = finished.send(database.give_up_if_damaged(done, &path));
        };
        thread::Builder::new().name("metrics-store".to_owned()).spawn(work).map_err(StoreError::Thread)?;
        match tokio::time::timeout_at(deadline, done).await {
            Ok(Ok(result)) => result,
            Ok(Err(_panicked)) => Err(StoreError::Panicked),
            Err(passed) => {
                if let Some(interrupt) = interrupt {
                    interrupt.interrupt();
                }
                Err(late(passed))
            }
        }
    }
}

#[async_trait]
impl Sink for EmbeddedStore {
    fn name(&self) -> &'static str {
        "embedded"
    }

    async fn deliver(&self, batch: &Batch) -> Result<(), SinkError> {
        let (batch, detail, privacy) = (batch.clone(), self.settings.detail, Arc::clone(&self.privacy));
        // Whatever it is, it is not the batch's fault.
        self.change(move |connection| write::batch(connection, &batch, detail, &privacy))
            .await
            .map_err(|error| SinkError::Unavailable(error.to_string()))
    }
}

#[async_trait]
impl Reports for EmbeddedStore {
    fn name(&self) -> String {
        format!("embedded in {}", self.path.display())
    }

    async fn report(&self, report: Report, scope: &Scope) -> Result<Rows, ReportError> {
        let scope = scope.clone();
        self.blocking(REPORT_MS_MAX, move |database, path| {
            answer::report(database.open(path)?, report, &scope)
                .map_err(|source| StoreError::Database { path: path.to_owned(), source })
        })
        .await
        .map_err(|error| ReportError { store: Reports::name(self), problem: error.to_string() })
    }
}

impl Database {
    /// The open database; one that is no database gives way to a new one.
    fn open(&mut self, path: &Path) -> Result<&mut Connection, StoreError> {
        if self.connection.is_none() {
            self.connection = Some(match open(path) {
                Err(error) if is_damage(&error) => {
                    let moved = move_aside(path, error.to_string())?;
                    tracing::error!("{moved}");
                    open(path)?
                }
                opened => opened?,
            });
        }
        Ok(self.connection.as_mut().expect("it was opened just now"))
    }

    /// What turns out to be damaged is closed, and replaced, unless another process has done that.
    fn give_up_if_damaged<T>(&mut self, done: Result<T, StoreError>, path: &Path) -> Result<T, StoreError> {
        match done {
            Err(error) if is_damage(&error) => {
                self.connection = None;
                if matches!(open(path).map(|connection| is_sound(&connection)), Ok(true)) {
                    return Err(error);
                }
                let moved = move_aside(path, error.to_string())?;
                tracing::error!("{moved}");
                Err(moved)
            }
            done => done,
        }
    }
}

fn open(path: &Path) -> Result<Connection, StoreError> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)
            .map_err(|source| StoreError::File { path: directory.to_owned(), source })?;
    }
    connect(path).map_err(|source| StoreError::Database { path: path.to_owned(), source })
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_millis(BUSY_MS_MAX))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    // The way free pages are kept has to be said first. A batch that is taken stays, whatever happens: `FULL`.
    connection.execute_batch(&format!(
        "PRAGMA page_size = {BYTES_PER_PAGE}; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;
         PRAGMA journal_size_limit = {LOG_BYTES_MAX}; PRAGMA synchronous = FULL;"
    ))?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    match transaction.pragma_query_value(None, "user_version", |row| row.get(0))? {
        0 => {
            transaction.execute_batch(SCHEMA)?;
            transaction.pragma_update(None, "user_version", FORMAT)?;
        }
        FORMAT => {}
        format => {
            let problem = format!("its format is {format}, this version knows {FORMAT}");
            let error = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_NOTADB);
            return Err(rusqlite::Error::SqliteFailure(error, Some(problem)));
        }
    }
    transaction.commit()?;
    Ok(connection)
}

fn is_damage(error: &StoreError) -> bool {
    let StoreError::Database { source, .. } = error else { return false };
    matches!(source.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

fn is_sound(connection: &Connection) -> bool {
    connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0))
        .is_ok_and(|verdict| verdict == "ok")
}

/// Moves a database out of the way, in the place of one that was before: of damaged ones there is one at most.
fn move_aside(path: &Path, problem: String) -> Result<StoreError, StoreError> {
    let with = |end: &str| PathBuf::from(format!("{}{end}", path.display()));
    let aside = with(DAMAGED);
    for end in FILES {
        let (from, to) = (with(end), PathBuf::from(format!("{}{end}", aside.display())));
        let moved = match fs::rename(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::remove_file(&to) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                removed => removed,
            },
            moved => moved,
        };
        moved.map_err(|source| StoreError::File { path: from, source })?;
    }
    Ok(StoreError::Damaged { path: path.to_owned(), aside, problem })
}
