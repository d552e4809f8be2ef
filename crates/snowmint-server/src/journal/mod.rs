//! The journal: what happened, on the local disk, until every sink has taken it.
//!
//! One thread takes events from the queue and appends them to segment files; each sink reads them at its own
//! pace, with a cursor of its own. Whoever takes an event touches the queue alone: no lock, no system call.
//!
//! * `journal/00000000000000000000.log`, …: the segments, each named by the number of its first event. Events
//!   are numbered in the order they were written, from 0, and a number is given once.
//! * `journal/<sink>.cursor`: where a sink is.
//! * `journal/set-aside/`: batches that a sink refused.
//! * `journal/lock`: locked by the process that writes.
//!
//! **What can be lost.** Sinks are given only what has been synced, so that nothing they have seen is lost.
//!
//! | | `relaxed` | `strict`, where somebody waited |
//! |---|---|---|
//! | kill -9 | what was not yet taken from the queue: [`IDLE_MS`] ms, and while the disk syncs, for as long as that takes | nothing |
//! | loss of power | the same, and `flush_ms` before it | nothing |
//! | a full disk, or `max_bytes` | what happens meanwhile: shed, counted, and whoever waits is told | the same |
//! | a damaged record | it alone, if its length still holds; or else the rest of its segment | the same |
//!
//! **Why not a crate.** Those that were looked at keep one cursor (yaque, queue-file), are logs to recover from,
//! without readers that follow (okaywal, commitlog, wal-db, walogs), or databases (raft-engine). None has several
//! durable cursors, a bound in bytes that sheds, and batches that are the same after a restart.

mod batch;
mod cursor;
mod reader;
mod record;
mod writer;

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use tokio::sync::watch;
use uuid::Uuid;

use crate::event::Events;
use crate::files;
use crate::metrics::Metrics;
use cursor::{Cursor, CursorFile};
use record::{Header, Position, Step, Walk};
use writer::Writer;

pub use batch::Batch;
pub use reader::{Lag, Reader};
pub use writer::{IDLE_MS, POLL_MS};

/// When a segment is full, in bytes; where the journal's bound is small, an eighth of that.
pub const SEGMENT_BYTES: u64 = 16 << 20;

/// How long the end of the journal is waited for, in milliseconds: what is in the queue takes a fraction of it.
pub const CLOSE_MS_MAX: u64 = 3_000;

/// How many processes may each have a journal in one data directory.
pub const JOURNALS_MAX: usize = 64;

/// When an event counts as kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// When it is written: it outlives the process. It outlives the system within `flush_ms`.
    Relaxed,
    /// When it is synced: it outlives the system. Those that wait at the same time share a sync.
    Strict,
}

/// How a journal is kept.
#[derive(Clone, Copy, Debug)]
pub struct JournalSettings {
    /// When an event counts as kept.
    pub durability: Durability,
    /// How often what was written is synced.
    pub flush_ms: u64,
    /// How much is kept. Past it new events are shed.
    pub max_bytes: u64,
}

/// A journal that is written.
pub struct Journal {
    shared: Arc<Shared>,
    writer: Thread,
    ended: Mutex<Option<JoinHandle<()>>>,
}

/// What the writer and the readers have in common. No request comes here.
struct Shared {
    directory: PathBuf,
    id: Uuid,
    metrics: Arc<Metrics>,
    stopping: AtomicBool,
    state: Mutex<State>,
    progress: watch::Sender<Progress>,
    /// Locked until the last who uses the journal is gone.
    _lock: File,
}

struct State {
    /// At least one; the last is being written.
    segments: VecDeque<Segment>,
    /// Where each sink durably is.
    cursors: BTreeMap<String, u64>,
    /// Why events are shed, if they are.
    trouble: Option<String>,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    first: u64,
    bytes: u64,
}

/// How far the journal has come.
#[derive(Clone, Copy, Debug)]
struct Progress {
    /// The number after that of the last event that was synced.
    end: u64,
    /// Whether nothing will be added.
    closed: bool,
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A file cannot be used.
    #[error("{doing} {path}: {source}. The journal keeps what was issued in data_dir")]
    File {
        /// What was being done, such as `cannot write`.
        doing: &'static str,
        /// To which file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// Another process writes it.
    #[error("the journal {path} is written by another process: each needs its own")]
    Busy {
        /// Which lock file.
        path: String,
    },
    /// A segment is of a later version of the program.
    #[error("the journal's segment {path} has format {found}, this version of snowmint knows {known}")]
    Format {
        /// Which file.
        path: String,
        /// Its format.
        found: u32,
        /// The format known here.
        known: u32,
    },
    /// A segment was put there from elsewhere.
    #[error("the segment {path} is of journal {found}, those after it are of {journal}: move it elsewhere")]
    Foreign {
        /// Which file.
        path: String,
        /// Its journal.
        found: Uuid,
        /// The one it lies in.
        journal: Uuid,
    },
}

impl Journal {
    /// Opens the journal in a directory, which is made where it is not there, and starts to write `events` to
    /// it. `sinks` are those that it is kept for: the place of any other is forgotten.
    pub fn open(
        directory: &Path,
        settings: JournalSettings,
        sinks: &[&str],
        events: &Arc<Events>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, JournalError> {
        let file_error = |doing| move |source| file_error(doing, directory, source);
        files::create_directory(directory).map_err(file_error("cannot create"))?;
        let lock = lock(directory)?;
        let mut segments = segments(directory).map_err(file_error("cannot read"))?;
        let id = journal_id(directory, &segments)?;
        let end = repair(directory, &mut segments)?;
        forget_others(directory, sinks).map_err(file_error("cannot clean"))?;
        let oldest = segments.front().map_or(0, |segment| segment.first);
        let cursors = cursors(directory, id, sinks, oldest)?;
        // No number is given twice, whatever became of the disk.
        let next = cursors.values().map(|cursor| cursor.offered).fold(end, u64::max);
        let shared = Arc::new(Shared {
            directory: directory.to_owned(),
            id,
            metrics: Arc::clone(metrics),
            stopping: AtomicBool::new(false),
            state: Mutex::new(State {
                segments,
                cursors: cursors.into_iter().map(|(sink, cursor)| (sink, cursor.next)).collect(),
                trouble: None,
            }),
            progress: watch::Sender::new(Progress { end: next, closed: false }),
            _lock: lock,
        });
        let writer = Writer::new(Arc::clone(&shared), Arc::clone(events), settings, end, next)?;
        shared.passed();
        let thread = std::thread::Builder::new().name("journal".to_owned()).spawn(move || writer.run());
        let thread = thread.map_err(file_error("cannot start the thread that writes"))?;
        let writer = thread.thread().clone();
        events.set_writer(writer.clone());
        Ok(Self { shared, writer, ended: Mutex::new(Some(thread)) })
    }

    /// Opens the first journal of a data directory that no other process writes: `journal`, or else `journal-2`
    /// and so on, for nodes that share the directory.
    pub fn open_first_free(
        data_dir: &Path,
        settings: JournalSettings,
        sinks: &[&str],
        events: &Arc<Events>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, JournalError> {
        let mut opened = Err(JournalError::Busy { path: data_dir.display().to_string() });
        for directory in directories(data_dir) {
            if !matches!(opened, Err(JournalError::Busy { .. })) {
                break;
            }
            opened = Self::open(&directory, settings, sinks, events, metrics);
        }
        opened
    }

    /// Where it lies.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.shared.directory
    }

    /// What no other journal has.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.shared.id
    }

    /// A sink's place in it, to be had once. The sink is one that the journal was opened for.
    pub fn reader(&self, sink: &str) -> Result<Reader, JournalError> {
        Reader::open(Arc::clone(&self.shared), sink)
    }

    /// How much it keeps, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shared.state().bytes()
    }

    /// The number of the next event to be synced, which is how many there ever were.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.shared.progress.borrow().end
    }

    /// Why events are shed, if they are.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.shared.state().trouble.clone()
    }

    /// Writes down what is in the queue and ends; `false` where that took longer than [`CLOSE_MS_MAX`].
    /// Readers can go on to the end. Whoever would still wait for an event to be kept is to be gone by then.
    pub async fn close(&self) -> bool {
        self.stop();
        let mut progress = self.shared.progress.subscribe();
        let closed = progress.wait_for(|progress| progress.closed);
        let closed = tokio::time::timeout(Duration::from_millis(CLOSE_MS_MAX), closed).await.is_ok();
        let thread = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (true, Some(thread)) = (closed, thread) {
            // It is past its last write.
            let _ = thread.join();
        }
        closed
    }

    fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.writer.unpark();
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, segment: u64) -> PathBuf {
        segment_path(&self.directory, segment)
    }

    /// A sink is durably at `next`: what every sink has passed goes.
    fn move_cursor(&self, sink: &str, next: u64) {
        if let Some(cursor) = self.state().cursors.get_mut(sink) {
            *cursor = next;
        }
        self.passed();
    }

    /// Removes the segments that every sink has passed, and tells how much is left.
    fn passed(&self) {
        let mut state = self.state();
        let passed = state.cursors.values().copied().min().unwrap_or(u64::MAX);
        while state.segments.get(1).is_some_and(|next| next.first <= passed) {
            let path = self.path(state.segments[0].first);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(
                        "a segment that is not needed any more stays: {}: {error}",
                        path.display()
                    );
                    break;
                }
                _ => state.segments.pop_front(),
            };
        }
        let end = self.progress.borrow().end;
        let gauge = |count| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.journal_bytes.set(gauge(state.bytes()));
        for (sink, next) in &state.cursors {
            self.metrics.sink_lag.with_label_values(&[sink]).set(gauge(end.saturating_sub(*next)));
        }
    }
}

impl State {
    fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }
}

/// Where the journals of a data directory are, as far as they are there.
pub fn directories(data_dir: &Path) -> impl Iterator<Item = PathBuf> {
    let others = (2..=JOURNALS_MAX).map(|number| format!("journal-{number}"));
    std::iter::once("journal".to_owned()).chain(others).map(|name| data_dir.join(name))
}

fn segment_path(directory: &Path, first: u64) -> PathBuf {
    directory.join(format!("{first:020}.log"))
}

fn cursor_path(directory: &Path, sink: &str) -> PathBuf {
    directory.join(format!("{sink}.cursor"))
}

fn file_error(doing: &'static str, path: &Path, source: io::Error) -> JournalError {
    JournalError::File { doing, path: path.display().to_string(), source }
}

fn lock(directory: &Path) -> Result<File, JournalError> {
    let path = directory.join("lock");
    let error = |source| file_error("cannot lock", &path, source);
    let file = File::create(&path).map_err(error)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(JournalError::Busy { path: path.display().to_string() }),
        Err(TryLockError::Error(source)) => Err(error(source)),
    }
}

/// The segments, oldest first. One that was being made when the power went, and has no record, is removed.
fn segments(directory: &Path) -> io::Result<VecDeque<Segment>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let digits = name.to_str().and_then(|name| name.strip_suffix(".log"));
        let Some(first) = digits.filter(|digits| digits.len() == 20).and_then(|digits| digits.parse().ok())
        else {
            continue;
        };
        let bytes = entry.metadata()?.len();
        if bytes < record::HEADER_BYTES as u64 {
            fs::remove_file(entry.path())?;
        } else {
            segments.push(Segment { first, bytes });
        }
    }
    segments.sort_by_key(|segment| segment.first);
    Ok(segments.into())
}

/// Which journal it is, as its newest segment says; where none says it, a new one.
fn journal_id(directory: &Path, segments: &VecDeque<Segment>) -> Result<Uuid, JournalError> {
    let mut journal = None;
    for segment in segments.iter().rev() {
        let path = segment_path(directory, segment.first);
        let header = File::open(&path).and_then(|file| Header::read(&file, segment.first));
        let shown = path.display().to_string();
        match header.map_err(|source| file_error("cannot read", &path, source))? {
            Header::Of(found) if journal.is_some_and(|journal| journal != found) => {
                let journal = journal.unwrap_or_default();
                return Err(JournalError::Foreign { path: shown, found, journal });
            }
            Header::Of(found) => journal = Some(found),
            Header::Format(found) => {
                return Err(JournalError::Format { path: shown, found, known: record::FORMAT });
            }
            Header::Damaged => tracing::warn!("the header of {shown} is damaged; its records are read"),
        }
    }
    Ok(journal.unwrap_or_else(Uuid::new_v4))
}

/// Cuts what was half written off the last segment, and gives the number of the record that comes next.
fn repair(directory: &Path, segments: &mut VecDeque<Segment>) -> Result<u64, JournalError> {
    let Some(last) = segments.back_mut() else { return Ok(0) };
    let path = segment_path(directory, last.first);
    let mut scan = || {
        let file = File::options().read(true).write(true).open(&path)?;
        let mut walk = Walk::new(file.try_clone()?, Position::start(last.first));
        while !matches!(walk.next()?, Step::Broken | Step::End) {}
        let Position { offset, number, .. } = walk.position();
        if offset < last.bytes {
            tracing::warn!(
                "the last {} bytes of {} are no whole record, and are cut off",
                last.bytes - offset,
                path.display()
            );
            file.set_len(offset)?;
        }
        // What only the process wrote may not be on disk yet, and sinks are about to be given it.
        file.sync_all()?;
        last.bytes = offset;
        Ok(number)
    };
    scan().map_err(|source| file_error("cannot repair", &path, source))
}

/// Forgets the place of sinks that are not configured any more: nothing is kept for them.
fn forget_others(directory: &Path, sinks: &[&str]) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(sink) = name.to_str().and_then(|name| name.strip_suffix(".cursor")) else { continue };
        if !sinks.contains(&sink) {
            tracing::info!(
                "the sink {sink} is not configured any more: its place in the journal is forgotten"
            );
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Where each sink is; one without a place starts at the oldest event there is.
fn cursors(
    directory: &Path,
    id: Uuid,
    sinks: &[&str],
    oldest: u64,
) -> Result<BTreeMap<String, Cursor>, JournalError> {
    let cursor = |sink: &&str| {
        let path = cursor_path(directory, sink);
        let open = || {
            let (mut file, cursor) = CursorFile::open(&path, id)?;
            let cursor = cursor.unwrap_or(Cursor { next: oldest, offered: oldest });
            // Also makes the room that later writes need.
            file.write(cursor)?;
            file.write(cursor)?;
            Ok(cursor)
        };
        let cursor = open().map_err(|source| file_error("cannot write", &path, source))?;
        Ok(((*sink).to_owned(), cursor))
    };
    let cursors = sinks.iter().map(cursor).collect::<Result<_, JournalError>>()?;
    files::sync_directory(directory).map_err(|source| file_error("cannot write", directory, source))?;
    Ok(cursors)
}
