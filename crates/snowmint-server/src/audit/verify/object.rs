//! One object: what can be said of it without the others.

use std::collections::BTreeMap;

use serde::Deserialize;
use snowmint::{Id, Layout, Parts, Slot};
use tokio::runtime::Handle;
use uuid::Uuid;

use super::finding::{Finding, ObjectFindings, Place, issues};
use super::runs::{Run, Runs, Twice};
use crate::archive::{EventType, Hash, Hour, Link, ObjectKey, Range, iso};
use crate::audit::Entry;
use crate::audit::lines::{LineError, Lines};
use crate::objects::Objects;

/// How many chains of one object are kept: one more than there should be.
const PIECES_MAX: usize = 2;

/// What was found in an object.
pub(super) struct Checked {
    /// Its chain; more than one is a finding.
    pub(super) pieces: Vec<Piece>,
    /// The IDs that its slot issued in its hour or the one before, in order.
    pub(super) runs: Vec<Run>,
    /// Those that it has twice.
    pub(super) twice: Twice,
    pub(super) findings: ObjectFindings,
    pub(super) counts: Counts,
}

/// What was read.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) bytes: u64,
    pub(super) ids: u64,
    pub(super) records: BTreeMap<EventType, u64>,
    /// The times of the first and the last record.
    pub(super) span_ms: Option<(u64, u64)>,
}

/// Consecutive records of a chain, in one object.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) entry: Entry,
    pub(super) journal: Uuid,
    pub(super) slot: Option<Slot>,
    pub(super) first: End,
    pub(super) last: End,
    /// What the first record says of the line before.
    pub(super) previous: Hash,
    /// The hash of the last line; none where that could not be read.
    pub(super) hash: Option<Hash>,
}

/// An end of a piece.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) sequence: u64,
    pub(super) line: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: &Self) {
        self.bytes += other.bytes;
        self.ids += other.ids;
        for (event_type, count) in &other.records {
            *self.records.entry(*event_type).or_default() += count;
        }
        self.span_ms = match (self.span_ms, other.span_ms) {
            (Some((first, last)), Some((start, end))) => Some((first.min(start), last.max(end))),
            (one, other) => one.or(other),
        };
    }
}

impl Piece {
    pub(super) fn place(&self, end: End) -> Place {
        let End { sequence, line } = end;
        Place { object: self.entry.to_string(), line, journal: self.journal, sequence }
    }
}

/// What is read of a record.
#[derive(Deserialize)]
pub(super) struct Record {
    #[serde(with = "iso")]
    timestamp: u64,
    event_type: EventType,
    datacenter_id: Option<u16>,
    worker_id: Option<u16>,
    generated_id: Option<Id>,
    #[serde(default)]
    ranges: Vec<Range>,
    count: Option<u64>,
    pub(super) chain: Link,
}

impl Record {
    fn slot(&self) -> Option<Slot> {
        Some(Slot { datacenter: self.datacenter_id?, worker: self.worker_id? })
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = Range> {
        let one = self.generated_id.map(|first| Range { first, count: 1 });
        one.into_iter().chain(self.ranges.iter().copied())
    }
}

/// Reads an object to its end, or as far as it can be read.
pub(super) fn check(runtime: &Handle, objects: &Objects, layout: Layout, entry: Entry) -> Checked {
    let mut reading = Reading::new(layout, entry);
    if let Err(error) = reading.read(runtime, objects) {
        let object = entry.to_string();
        reading.findings.add(match error {
            LineError::Unreadable(problem) => Finding::Unreadable { object, problem },
            damaged @ (LineError::Damaged(_) | LineError::NoEnd) => {
                Finding::Damaged { object, line: reading.line + 1, problem: damaged.to_string() }
            }
        });
    }
    let Reading { pieces, runs, mut twice, findings, counts, .. } = reading;
    Checked { pieces, runs: runs.into_sorted(&mut twice), twice, findings, counts }
}

struct Reading {
    layout: Layout,
    entry: Entry,
    line: u64,
    pieces: Vec<Piece>,
    runs: Runs,
    twice: Twice,
    findings: ObjectFindings,
    counts: Counts,
}

impl Reading {
    fn new(layout: Layout, entry: Entry) -> Self {
        Self {
            layout,
            entry,
            line: 0,
            pieces: Vec::new(),
            runs: Runs::default(),
            twice: Twice::default(),
            findings: ObjectFindings::default(),
            counts: Counts::default(),
        }
    }

    fn read(&mut self, runtime: &Handle, objects: &Objects) -> Result<(), LineError> {
        let mut lines = Lines::open(runtime, objects, &self.entry.path())?;
        while let Some(line) = lines.next()? {
            self.line += 1;
            self.counts.bytes += line.len() as u64 + 1;
            match serde_json::from_slice(line) {
                Ok(record) => self.record(&record, line),
                Err(error) => self.damaged(&error),
            }
        }
        if self.line == 0 { Err(LineError::Damaged("it has no record".to_owned())) } else { Ok(()) }
    }

    /// Goes on behind a line that is no record, as if it were the one that is wanted there.
    fn damaged(&mut self, error: &serde_json::Error) {
        let problem = format!("it is no record: {error}");
        self.findings.add(Finding::Damaged { object: self.entry.to_string(), line: self.line, problem });
        if let Some(piece) = self.pieces.last_mut() {
            piece.last = End { sequence: piece.last.sequence + 1, line: self.line };
            piece.hash = None;
        }
    }

    fn record(&mut self, record: &Record, line: &[u8]) {
        *self.counts.records.entry(record.event_type).or_default() += 1;
        let at_ms = record.timestamp;
        let (first_ms, last_ms) = self.counts.span_ms.unwrap_or((at_ms, at_ms));
        self.counts.span_ms = Some((first_ms.min(at_ms), last_ms.max(at_ms)));
        self.link(record, Hash::of(line));
        self.belongs(record);
        self.issued(record);
    }

    /// Whether it follows the line before.
    fn link(&mut self, record: &Record, hash: Hash) {
        let Link { journal, sequence, previous } = record.chain;
        let (slot, here) = (record.slot(), End { sequence, line: self.line });
        let same = self.pieces.last().filter(|piece| piece.journal == journal && piece.slot == slot);
        let Some(piece) = same else { return self.another_chain(record, hash) };
        let wanted = piece.last.sequence + 1;
        let finding = if sequence > wanted {
            let (after, before) = (Some(piece.place(piece.last)), self.place(&record.chain));
            Some(Finding::Missing { slot, from: wanted, to: sequence - 1, after, before })
        } else if sequence < wanted {
            let (place, again) = (piece.place(piece.last), self.place(&record.chain));
            Some(Finding::Repeated { from: sequence, to: piece.last.sequence, place, again })
        } else if piece.hash.is_some_and(|hash| hash != previous) {
            Some(Finding::Changed { place: piece.place(piece.last), next: self.place(&record.chain) })
        } else {
            None
        };
        if let Some(piece) = self.pieces.last_mut() {
            (piece.last, piece.hash) = (here, Some(hash));
        }
        if let Some(finding) = finding {
            self.findings.add(finding);
        }
    }

    /// The first record is the first of a chain; any other should not be.
    fn another_chain(&mut self, record: &Record, hash: Hash) {
        let Link { journal, sequence, previous } = record.chain;
        if !self.pieces.is_empty() {
            self.findings.add(Finding::SeveralChains { place: self.place(&record.chain) });
        }
        // What is wrong with a second one is wrong with all of them.
        if self.pieces.len() < PIECES_MAX {
            let (entry, slot, here) = (self.entry, record.slot(), End { sequence, line: self.line });
            let piece = Piece { entry, journal, slot, first: here, last: here, previous, hash: Some(hash) };
            self.pieces.push(piece);
        }
    }

    /// Whether it is in the right object: of its slot, and of its hour, which is that of the first record. Later
    /// ones may be late ones of the hour before.
    fn belongs(&mut self, record: &Record) {
        let (key, slot, hour) = (self.entry.key, record.slot(), Hour::of(record.timestamp));
        let fits = if self.line == 1 { hour == key.hour } else { key.hour.takes(hour) };
        if slot != key.slot || !fits {
            let belongs = ObjectKey { hour, slot, number: 1 }.to_string();
            let place = self.place(&record.chain);
            self.findings.add(Finding::WrongObject { place, belongs });
        }
    }

    fn issued(&mut self, record: &Record) {
        let mut count = 0;
        for range in record.ids() {
            count += u64::from(range.count);
            self.range(record, range);
        }
        self.counts.ids += count;
        let fits = match record.event_type {
            EventType::IdGenerated => record.generated_id.is_some() && record.ranges.is_empty(),
            EventType::IdsIssued => record.generated_id.is_none() && record.count == Some(count),
            _ => count == 0,
        };
        if !fits {
            let problem = if issues(record.event_type) {
                format!("a record of {} IDs has {count}", record.count.unwrap_or(1))
            } else {
                format!("a record of something else has {count} IDs")
            };
            let place = self.place(&record.chain);
            self.findings.add(Finding::Contradiction { place, problem });
        }
    }

    fn range(&mut self, record: &Record, range: Range) {
        let Range { first, count } = range;
        let parts = self.layout.decompose(first);
        let place = || self.place(&record.chain);
        let Some(run) = self.run(range).filter(|_| Some(parts.slot) == record.slot()) else {
            let finding = Finding::OutsideSlot { place: place(), first, count, belongs: parts.slot };
            return self.findings.add(finding);
        };
        let id_ms = parts.timestamp_ms;
        if id_ms > record.timestamp || Hour::of(id_ms).0 + 1 < self.entry.key.hour.0 {
            let finding = Finding::WrongTime { place: place(), first, id_ms, record_ms: record.timestamp };
            return self.findings.add(finding);
        }
        self.runs.add(run, &mut self.twice);
    }

    /// The range, if all of it is of one millisecond of one slot.
    fn run(&self, Range { first, count }: Range) -> Option<Run> {
        let Parts { sequence, .. } = self.layout.decompose(first);
        let last = sequence.checked_add(count.checked_sub(1)?)?;
        let run = Run { first: first.get(), end: first.get() + u64::from(count) };
        (last <= self.layout.split().max_sequence()).then_some(run)
    }

    fn place(&self, chain: &Link) -> Place {
        let Link { journal, sequence, .. } = *chain;
        Place { object: self.entry.to_string(), line: self.line, journal, sequence }
    }
}
