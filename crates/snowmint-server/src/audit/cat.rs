//! The lines of an archive, as they are: all of them, or those that somebody asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, Write};
use std::path::Path as FilePath;
use std::sync::mpsc::{Receiver, SyncSender};

use serde::Deserialize;
use snowmint::{Id, Layout, Slot};
use tokio::runtime::Handle;
use uuid::Uuid;

use super::AuditError;
use super::lines::{LineError, Lines};
use super::list::{Entry, Scope, list};
use super::parallel::{in_order, threads};
use crate::archive::{EventType, Hour, Link, ObjectKey, Record};
use crate::objects::Objects;
use crate::sink::archive::{self, Waiting};

/// How much is read ahead of what is written, in bytes: a few such parts of each object that is read.
const PART_BYTES: usize = 64 << 10;

/// Which records are asked for: those for which all of it holds.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// They issued this ID.
    pub id: Option<Id>,
    /// Made then or later, in Unix milliseconds.
    pub since_ms: Option<u64>,
    /// Made before, in Unix milliseconds.
    pub until_ms: Option<u64>,
    /// Whoever asked came from there, as it was written down.
    pub client: Option<String>,
    /// Of the request with this ID.
    pub request_id: Option<String>,
    /// Of this type.
    pub event_type: Option<EventType>,
    /// Of this slot.
    pub slot: Option<Slot>,
}

/// What there was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// How many lines were written.
    pub lines: u64,
    /// How many objects were read, those among them that are still to be made.
    pub objects: u64,
    /// What could not be read, and why.
    pub problems: Vec<String>,
}

impl Filter {
    /// The objects that can have such records. An ID says itself which slot issued it and when; its record is of
    /// the same hour or, where the request ended after it, of the next.
    #[must_use]
    pub fn scope(&self, layout: Layout) -> Scope {
        let (mut slot, mut since, mut until) =
            (self.slot, self.since_ms.map(Hour::of), self.until_ms.map(later));
        if let Some(id) = self.id {
            let parts = layout.decompose(id);
            let hour = Hour::of(parts.timestamp_ms);
            slot = slot.or(Some(parts.slot));
            since = since.max(Some(hour));
            until = Some(until.unwrap_or(Hour(u32::MAX)).min(later(hour.start_ms())));
        }
        let (datacenter, worker) = (slot.map(|slot| slot.datacenter), slot.map(|slot| slot.worker));
        Scope { since, until, datacenter, worker }
    }

    fn fits(&self, record: &Record) -> bool {
        let metadata = record.request_metadata.as_ref();
        let told = |wanted: &Option<String>, is: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| is == Some(wanted))
        };
        self.since_ms.is_none_or(|since_ms| since_ms <= record.timestamp)
            && self.until_ms.is_none_or(|until_ms| record.timestamp < until_ms)
            && self.event_type.is_none_or(|event_type| event_type == record.event_type)
            && told(&self.client, metadata.map(|metadata| &*metadata.client_ip))
            && told(&self.request_id, metadata.map(|metadata| &*metadata.request_id))
            && self.id.is_none_or(|id| {
                let has = |first: Id, count| id >= first && id.get() - first.get() < u64::from(count);
                record.ids().any(|range| has(range.first, range.count))
            })
    }

    /// Whether each line is asked for, so that none has to be understood.
    fn is_all(&self) -> bool {
        let Self { id, since_ms, until_ms, client, request_id, event_type, slot: _ } = self;
        id.is_none()
            && since_ms.or(*until_ms).is_none()
            && client.as_ref().or(request_id.as_ref()).is_none()
            && event_type.is_none()
    }
}

/// The hour after that of a time: a record can be in the object of the hour after its own.
fn later(at_ms: u64) -> Hour {
    Hour(Hour::of(at_ms).0.saturating_add(1))
}

/// Writes the records that are asked for, by slot and time. Not for tasks: see [`super::verify::verify`].
///
/// With the data directory of a node, those that wait there for the archive are among them.
pub fn cat(
    runtime: &Handle,
    objects: &Objects,
    data_dir: Option<&FilePath>,
    layout: Layout,
    filter: &Filter,
    out: &mut dyn Write,
) -> Result<Found, AuditError> {
    let scope = filter.scope(layout);
    // First what waits: what goes into the archive meanwhile is seen there.
    let mut waiting = data_dir.map_or(Ok(Vec::new()), archive::waiting).map_err(AuditError::Waiting)?;
    waiting.retain(|waiting| scope.has(key(waiting)));
    let mut taking = Taking {
        out,
        pieces: waiting.iter().map(|waiting| (waiting.piece(), false)).collect(),
        missed: false,
        found: Found::default(),
    };
    let access = Access { runtime, objects, filter };
    let listed = runtime.block_on(list(objects, &scope))?.entries;
    let mut sources: Vec<Source> = listed.iter().copied().map(Source::Object).collect();
    sources.extend(waiting.into_iter().map(Source::Waiting));
    sources.sort_by_key(Source::order);
    taking.take_all(&access, &sources)?;
    if taking.missed {
        let before: BTreeSet<ObjectKey> = listed.into_iter().map(|entry| entry.key).collect();
        let now = runtime.block_on(list(objects, &scope))?.entries.into_iter();
        let new = now.filter(|entry| !before.contains(&entry.key));
        taking.take_all(&access, &new.map(Source::Object).collect::<Vec<_>>())?;
    }
    Ok(taking.found)
}

/// What becomes of it in the archive, where nothing else is there of that hour.
fn key(waiting: &Waiting) -> ObjectKey {
    ObjectKey { hour: waiting.hour(), slot: waiting.slot(), number: 1 }
}

/// Where lines come from.
enum Source {
    Object(Entry),
    Waiting(Waiting),
}

/// A piece of a chain: the chain's journal and slot, and the number of the piece's first record.
type Piece = (Uuid, Option<Slot>, u64);

/// What is read of a source.
enum Part {
    /// Which piece it is, in front of all others.
    Piece(Piece),
    /// Lines that are asked for.
    Lines { text: Vec<u8>, lines: u64 },
    /// It does not wait here any more.
    Gone,
    /// What cannot be read, and why.
    Problem(String),
}

impl Source {
    /// Those that wait come after the objects of their hour.
    fn order(&self) -> (Option<Slot>, Hour, bool) {
        match self {
            Self::Object(Entry { key, .. }) => (key.slot, key.hour, false),
            Self::Waiting(waiting) => (waiting.slot(), waiting.hour(), true),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object(entry) => entry.fmt(f),
            Self::Waiting(waiting) => waiting.fmt(f),
        }
    }
}

/// What threads read from.
struct Access<'a> {
    runtime: &'a Handle,
    objects: &'a Objects,
    filter: &'a Filter,
}

impl Access<'_> {
    /// Reads a source until its end, or until nobody wants more of it.
    fn read(&self, source: &Source, parts: &SyncSender<Part>) {
        let mut reading = Reading { filter: self.filter, parts, text: Vec::new(), lines: 0, line: 0 };
        let read = self.open(source).and_then(|lines| {
            let Some(lines) = lines else {
                let _ = parts.send(Part::Gone);
                return Ok(());
            };
            reading.read(lines, source)
        });
        // What was before a line that cannot be read is told, too.
        reading.give();
        if let Err(error) = read {
            let _ = parts.send(Part::Problem(format!("{source} line {}: {error}", reading.line + 1)));
        }
    }

    fn open(&self, source: &Source) -> Result<Option<Lines>, LineError> {
        match source {
            Source::Object(entry) => Lines::open(self.runtime, self.objects, &entry.path()).map(Some),
            Source::Waiting(waiting) => {
                let unpacked = waiting.open().map_err(|error| LineError::Unreadable(error.to_string()))?;
                Ok(unpacked.map(Lines::of))
            }
        }
    }
}

/// The lines of a source, on their way to be written.
struct Reading<'a> {
    filter: &'a Filter,
    parts: &'a SyncSender<Part>,
    text: Vec<u8>,
    lines: u64,
    /// How many were read.
    line: u64,
}

impl Reading<'_> {
    fn read(&mut self, mut lines: Lines, source: &Source) -> Result<(), LineError> {
        loop {
            let line = match lines.next() {
                // It is being written.
                Err(LineError::NoEnd) if matches!(source, Source::Waiting(_)) => return Ok(()),
                line => line?,
            };
            let Some(line) = line else { return Ok(()) };
            if self.line == 0 && !self.begin(line, source) {
                return Ok(());
            }
            if self.wants(line)? {
                self.text.extend_from_slice(line);
                self.text.push(b'\n');
                self.lines += 1;
            }
            self.line += 1;
            if self.text.len() >= PART_BYTES && !self.give() {
                return Ok(());
            }
        }
    }

    /// Says which piece it is. Says itself whether anybody wants it.
    fn begin(&self, line: &[u8], source: &Source) -> bool {
        #[derive(Deserialize)]
        struct First {
            chain: Link,
        }
        // What is no record is told where it is asked for.
        let Ok(First { chain }) = serde_json::from_slice(line) else { return true };
        let (slot, ..) = source.order();
        self.parts.send(Part::Piece((chain.journal, slot, chain.sequence))).is_ok()
    }

    fn wants(&self, line: &[u8]) -> Result<bool, LineError> {
        if self.filter.is_all() {
            return Ok(true);
        }
        let record = serde_json::from_slice(line).map_err(|error| LineError::Damaged(error.to_string()))?;
        Ok(self.filter.fits(&record))
    }

    /// Says whether anybody wants more.
    fn give(&mut self) -> bool {
        let (text, lines) = (std::mem::take(&mut self.text), std::mem::take(&mut self.lines));
        text.is_empty() || self.parts.send(Part::Lines { text, lines }).is_ok()
    }
}

/// Writes what was read, each piece once.
struct Taking<'a> {
    out: &'a mut dyn Write,
    /// The pieces that waited, and whether they were taken, from here or from the archive.
    pieces: BTreeMap<Piece, bool>,
    /// One went into the archive before it was read.
    missed: bool,
    found: Found,
}

impl Taking<'_> {
    fn take_all(&mut self, access: &Access<'_>, sources: &[Source]) -> io::Result<()> {
        self.found.objects += sources.len() as u64;
        let read = |source: &Source, parts: &SyncSender<Part>| access.read(source, parts);
        in_order(sources, threads(access.objects), &read, |_, parts| self.take(parts))
    }

    fn take(&mut self, parts: Receiver<Part>) -> io::Result<()> {
        for part in parts {
            match part {
                Part::Piece(piece) => match self.pieces.get_mut(&piece) {
                    Some(true) => return Ok(()),
                    Some(taken) => *taken = true,
                    None => {}
                },
                Part::Lines { text, lines } => {
                    self.out.write_all(&text)?;
                    self.found.lines += lines;
                }
                Part::Gone => self.missed = true,
                Part::Problem(problem) => self.found.problems.push(problem),
            }
        }
        Ok(())
    }
}
