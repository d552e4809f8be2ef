//! The one thread that writes the journal.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::record::{self, HEADER_BYTES, Header};
use super::{Durability, JournalError, JournalSettings, SEGMENT_BYTES, Segment, Shared, file_error};
use crate::event::{Events, Kept};
use crate::files;

/// How often the queue is looked at while events come, in milliseconds: it takes what a million events a second
/// leave in six times that.
pub const POLL_MS: u64 = 10;

/// How often it is looked at while none come, in milliseconds.
pub const IDLE_MS: u64 = 50;

/// How much is written at once, in bytes.
const ROUND_BYTES_MAX: u64 = 1 << 20;

/// A segment in eight may be one that sinks are just done with.
const SEGMENTS_MIN: u64 = 8;

/// How long trouble is believed in while nothing is tried, in milliseconds.
const TROUBLE_MS: u64 = 1_000;

pub(super) struct Writer {
    shared: Arc<Shared>,
    events: Arc<Events>,
    settings: JournalSettings,
    segment_bytes: u64,
    file: File,
    /// Behind the last event that was written, and behind the last that was synced.
    written: Place,
    synced: Place,
    /// Since when there has been something to sync.
    unsynced_since: Option<Instant>,
    /// Whether there may be something behind `written` that is to be cut off.
    torn: bool,
    /// Records on their way into the file, and who waits for them.
    buffer: Vec<u8>,
    waiting: Vec<Kept>,
    trouble: Option<Shedding>,
}

#[derive(Clone, Copy)]
struct Place {
    offset: u64,
    number: u64,
}

/// Events are not written.
struct Shedding {
    why: String,
    tried: Instant,
    shed: u64,
}

impl Shedding {
    fn begin() -> Self {
        Self { why: String::new(), tried: Instant::now(), shed: 0 }
    }
}

/// Why events are not written.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(
        "the journal is full: the sinks have not taken what it keeps, and journal.max_bytes is {max_bytes}"
    )]
    Full { max_bytes: u64 },
    #[error(transparent)]
    File(#[from] JournalError),
}

impl Writer {
    /// Goes on behind the last segment, which ends before the number `end`, with the number `next`.
    pub(super) fn new(
        shared: Arc<Shared>,
        events: Arc<Events>,
        settings: JournalSettings,
        end: u64,
        next: u64,
    ) -> Result<Self, JournalError> {
        let last = shared.state().segments.back().copied();
        let (file, offset) = match last {
            Some(last) if end == next => {
                let path = shared.path(last.first);
                let file = File::options().write(true).open(&path);
                (file.map_err(|source| file_error("cannot write", &path, source))?, last.bytes)
            }
            _ => create_segment(&shared, next)?,
        };
        let place = Place { offset, number: next };
        Ok(Self {
            shared,
            events,
            settings,
            segment_bytes: SEGMENT_BYTES.min(settings.max_bytes / SEGMENTS_MIN),
            file,
            written: place,
            synced: place,
            unsynced_since: None,
            torn: false,
            buffer: Vec::new(),
            waiting: Vec::new(),
            trouble: None,
        })
    }

    /// Writes until the journal is stopped and the queue is empty.
    pub(super) fn run(mut self) {
        loop {
            let stopping = self.shared.stopping.load(Ordering::Acquire);
            let taken = self.round();
            if stopping && taken == 0 {
                break;
            }
            if !stopping && (self.buffer.len() as u64) < self.round_bytes() {
                let busy = taken > 0 || self.unsynced_since.is_some();
                let pause_ms = if busy { POLL_MS } else { IDLE_MS };
                std::thread::park_timeout(Duration::from_millis(pause_ms.min(self.settings.flush_ms)));
            }
        }
        let synced = self.sync();
        self.tell(synced);
        self.shared.progress.send_modify(|progress| progress.closed = true);
    }

    fn round_bytes(&self) -> u64 {
        ROUND_BYTES_MAX.min(self.segment_bytes)
    }

    /// Writes what is in the queue, and syncs where it is time: how many events it took.
    fn round(&mut self) -> u64 {
        let (taken, kept) = self.take();
        let mut result = if kept > 0 { self.write(kept) } else { Ok(()) };
        if result.is_ok() && self.sync_is_due() {
            result = self.sync();
        }
        if kept > 0 || result.is_err() {
            self.tell(result);
        } else if self.trouble.as_ref().is_some_and(|trouble| is_past(trouble.tried, TROUBLE_MS)) {
            // Whoever issues nothing while there is trouble would never learn that it has passed.
            self.shared.state().trouble = None;
        }
        taken
    }

    /// Takes events from the queue: how many, and how many of them are in the buffer.
    fn take(&mut self) -> (u64, u64) {
        self.buffer.clear();
        let (mut taken, mut kept) = (0, 0);
        while (self.buffer.len() as u64) < self.round_bytes()
            && let Some(next) = self.events.next()
        {
            taken += 1;
            match record::append(&mut self.buffer, self.written.number + kept, &next.event) {
                Ok(()) => {
                    kept += 1;
                    self.waiting.extend(next.kept);
                }
                Err(error) => {
                    tracing::warn!("an event is not kept: {error}");
                    self.shared.metrics.events_shed.inc();
                }
            }
        }
        (taken, kept)
    }

    fn sync_is_due(&self) -> bool {
        let strict = self.settings.durability == Durability::Strict;
        strict && !self.waiting.is_empty()
            || self.unsynced_since.is_some_and(|since| is_past(since, self.settings.flush_ms))
    }

    /// Writes the buffer, which has so many events, or sheds them.
    fn write(&mut self, events: u64) -> Result<(), Trouble> {
        let result = self.try_write();
        if result.is_ok() {
            self.written.offset += self.buffer.len() as u64;
            self.written.number += events;
            self.unsynced_since.get_or_insert_with(Instant::now);
        } else {
            self.shed(events);
        }
        result
    }

    fn try_write(&mut self) -> Result<(), Trouble> {
        if self.written.offset >= self.segment_bytes {
            self.sync()?;
            let (file, offset) = create_segment(&self.shared, self.written.number)?;
            self.file = file;
            self.written.offset = offset;
            self.synced = self.written;
            self.torn = false;
        }
        let older: u64 = self.shared.state().segments.iter().rev().skip(1).map(|older| older.bytes).sum();
        let max_bytes = self.settings.max_bytes;
        if older + self.written.offset + self.buffer.len() as u64 > max_bytes {
            return Err(Trouble::Full { max_bytes });
        }
        self.cut_back().and_then(|()| self.append()).map_err(|source| self.cannot("cannot write", source))
    }

    /// Cuts off what a failed write has left.
    fn cut_back(&mut self) -> io::Result<()> {
        if self.torn {
            self.file.set_len(self.written.offset)?;
            self.torn = false;
        }
        Ok(())
    }

    fn append(&mut self) -> io::Result<()> {
        let appended = self.file.write_all_at(&self.buffer, self.written.offset);
        if appended.is_err() {
            self.torn = true;
            // Where that fails too, it is done before the next write.
            let _ = self.cut_back();
        }
        appended
    }

    /// Makes what was written outlive the system, and gives it to the sinks; or sheds it.
    fn sync(&mut self) -> Result<(), Trouble> {
        if self.unsynced_since.take().is_none() {
            return Ok(());
        }
        if let Err(source) = self.file.sync_data() {
            // What is on disk now is not known, and a second try would not tell.
            self.shed(self.written.number - self.synced.number);
            self.written = self.synced;
            self.torn = true;
            return Err(self.cannot("cannot sync", source));
        }
        self.synced = self.written;
        if let Some(segment) = self.shared.state().segments.back_mut() {
            segment.bytes = self.synced.offset;
        }
        self.shared.progress.send_modify(|progress| progress.end = self.synced.number);
        self.shared.passed();
        Ok(())
    }

    fn cannot(&self, doing: &'static str, source: io::Error) -> Trouble {
        file_error(doing, &self.shared.directory, source).into()
    }

    fn shed(&mut self, events: u64) {
        self.shared.metrics.events_shed.inc_by(events);
        self.trouble.get_or_insert_with(Shedding::begin).shed += events;
    }

    /// Tells those who wait, and the log, where the trouble is new or over.
    fn tell(&mut self, result: Result<(), Trouble>) {
        match result {
            Ok(()) => {
                // Before anybody is told: whoever has just had an event kept is to find no trouble.
                if let Some(Shedding { shed, .. }) = self.trouble.take() {
                    tracing::info!("events are written down again; {shed} were not");
                    self.shared.state().trouble = None;
                }
                for kept in self.waiting.drain(..) {
                    // Whoever has stopped waiting does not want to know.
                    let _ = kept.send(());
                }
            }
            Err(trouble) => {
                self.waiting.clear();
                let why = trouble.to_string();
                self.shared.state().trouble = Some(why.clone());
                let shedding = self.trouble.get_or_insert_with(Shedding::begin);
                shedding.tried = Instant::now();
                if shedding.why != why {
                    tracing::error!("events are not written down: {why}");
                    shedding.why = why;
                }
            }
        }
    }
}

fn is_past(since: Instant, ms: u64) -> bool {
    since.elapsed() >= Duration::from_millis(ms)
}

/// Makes the segment that starts with the record `first`, durably, and appends it to the others.
fn create_segment(shared: &Shared, first: u64) -> Result<(File, u64), JournalError> {
    let path = shared.path(first);
    let create = || {
        let file = File::options().write(true).create_new(true).open(&path)?;
        let written = file
            .write_all_at(&Header::encode(shared.id, first), 0)
            .and_then(|()| file.sync_all())
            .and_then(|()| files::sync_directory(&shared.directory));
        if written.is_err() {
            let _ = fs::remove_file(&path);
        }
        written.map(|()| file)
    };
    let file = create().map_err(|source| file_error("cannot create", &path, source))?;
    let bytes = HEADER_BYTES as u64;
    shared.state().segments.push_back(Segment { first, bytes });
    Ok((file, bytes))
}
