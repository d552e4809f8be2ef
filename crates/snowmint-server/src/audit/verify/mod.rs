//! Whether an archive is what was written, and no ID is in it twice.
//!
//! Objects are read once, by many threads. Each gives the runs of IDs that it has, and the ends of its chain. Runs
//! are put together in one place, slot by slot and hour by hour, where only those of the hour and the one before
//! are held: the IDs of an object are of its hour or, where their record was late, of the one before; any other is a
//! finding of its own. Chains are put together at the end, by their ends alone. So what is held is an hour of runs
//! of one slot, a few objects' runs, and some 150 bytes an object.

mod chain;
mod finding;
mod object;
mod runs;
mod search;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Instant;

use jiff::Timestamp;
use serde::Serialize;
use snowmint::{Layout, Parts, Slot};
use tokio::runtime::Handle;

use super::AuditError;
use super::list::{Entry, Listing, Scope, list};
use super::parallel::{in_order, threads};
use crate::archive::{EventType, Hour, ObjectKey};
use crate::objects::Objects;
pub use chain::Chain;
use finding::Findings;
pub use finding::{Finding, Place};
use object::{Checked, Piece};
use runs::{Run, Runs, Twice};

/// How many missing objects are told of one slot and hour.
const MISSING_OBJECTS_MAX: usize = 3;

/// What is verified, and how.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Which objects.
    pub scope: Scope,
    /// How IDs are made.
    pub layout: Layout,
    /// Whether nothing was ever given up, so that every chain has to start with its first record.
    pub whole: bool,
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Bytes of objects that there are.
    pub all_bytes: u64,
    /// Bytes of objects that were read.
    pub bytes: u64,
    /// IDs that they have.
    pub ids: u64,
    /// What was found.
    pub findings: u64,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where the archive is.
    pub archive: String,
    /// Whether there is no finding.
    pub proven: bool,
    /// How many objects were read.
    pub objects: u64,
    /// How large they are.
    pub packed_bytes: u64,
    /// How large their lines are.
    pub bytes: u64,
    /// How many records they have, of each type.
    pub records: BTreeMap<EventType, u64>,
    /// How many IDs.
    pub ids: u64,
    /// Of how many slots.
    pub slots: u64,
    /// When the first record was made.
    pub first: Option<Timestamp>,
    /// When the last was.
    pub last: Option<Timestamp>,
    /// How many IDs were issued more than once.
    pub duplicate_ids: u64,
    /// What was found.
    pub findings: Vec<Finding>,
    /// How many findings there are; the first of them are told.
    pub findings_count: u64,
    /// The chains, as far as they are there.
    pub chains: Vec<Chain>,
    /// How many names are no object's; they were left aside.
    pub others: u64,
    /// The first of them.
    pub other_names: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

/// Reads the archive and says what is wrong with it. Not for tasks: it blocks until it is done, and its reads are
/// done on `runtime`, which has to have a thread of its own.
pub fn verify(
    runtime: &Handle,
    objects: &Objects,
    options: &Options,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Report, AuditError> {
    let started = Instant::now();
    let listing = runtime.block_on(list(objects, &options.scope))?;
    let mut whole = Whole::new(options.layout, &listing);
    let Ok(()) = in_order(
        &listing.entries,
        threads(objects),
        &|entry, done| {
            // Whoever wanted it is there until the end.
            let _ = done.send(object::check(runtime, objects, options.layout, *entry));
        },
        |entry, checked| {
            whole.add(*entry, checked.recv().expect("each object that is read has a result"));
            progress(&whole.progress);
            Ok::<(), Infallible>(())
        },
    );
    whole.end_slot();
    for (slot, run) in search::first(&whole.duplicates) {
        let places = search::places(runtime, objects, options.layout, &listing.entries, slot, run);
        whole.findings.add(duplicate(slot, run, places));
    }
    for (slot, run) in search::others(&whole.duplicates) {
        whole.findings.add(duplicate(slot, run, Vec::new()));
    }
    let chains = chain::join(std::mem::take(&mut whole.pieces), options.whole, &mut whole.findings);
    Ok(whole.report(objects, listing, chains, started))
}

fn duplicate(slot: Slot, run: Run, places: Vec<Place>) -> Finding {
    let first = snowmint::Id::new(run.first).expect("it was read as an ID");
    Finding::Duplicate { slot, first, count: run.len(), places }
}

/// All objects, put together.
struct Whole {
    layout: Layout,
    before: Option<ObjectKey>,
    oldest: Option<Hour>,
    /// The IDs of the slot and the hour at hand, and of the hour before.
    held: Runs,
    twice: Twice,
    duplicates: Vec<(Slot, Run)>,
    duplicate_ids: u64,
    pieces: Vec<Piece>,
    findings: Findings,
    progress: Progress,
    counts: object::Counts,
    slots: BTreeSet<Slot>,
}

impl Whole {
    fn new(layout: Layout, listing: &Listing) -> Self {
        let all_bytes = listing.entries.iter().map(|entry| entry.bytes).sum();
        Self {
            layout,
            before: None,
            oldest: listing.entries.iter().map(|entry| entry.key.hour).min(),
            held: Runs::default(),
            twice: Twice::default(),
            duplicates: Vec::new(),
            duplicate_ids: 0,
            pieces: Vec::with_capacity(listing.entries.len()),
            findings: Findings::default(),
            progress: Progress { all_bytes, ..Progress::default() },
            counts: object::Counts::default(),
            slots: BTreeSet::new(),
        }
    }

    fn add(&mut self, entry: Entry, checked: Checked) {
        let Checked { pieces, runs, twice, findings, counts } = checked;
        self.turn(entry.key);
        self.held.extend(&runs, &mut self.twice);
        self.twice.add_all(twice);
        self.pieces.extend(pieces);
        self.findings.add_all(findings);
        self.counts.add(&counts);
        self.slots.extend(entry.key.slot);
        self.progress.bytes += entry.bytes;
        self.progress.ids = self.counts.ids;
        self.progress.findings = self.findings.count;
    }

    /// Goes on to the next object, and forgets what cannot be in it.
    fn turn(&mut self, key: ObjectKey) {
        // Of the oldest hour some may have been given up.
        if Some(key.hour) != self.oldest {
            for missing in chain::missing_objects(self.before, key).take(MISSING_OBJECTS_MAX) {
                self.findings.add(Finding::NoObject { object: missing.to_string() });
            }
        }
        match self.before {
            Some(before) if before.slot != key.slot => self.end_slot(),
            Some(before) if before.hour != key.hour => {
                let first = first_id(self.layout, Hour(key.hour.0.saturating_sub(1)));
                self.held.forget_below(first, &mut self.twice);
            }
            _ => {}
        }
        self.before = Some(key);
    }

    fn end_slot(&mut self) {
        std::mem::take(&mut self.held).into_sorted(&mut self.twice);
        let Twice { mut runs, ids } = std::mem::take(&mut self.twice);
        runs.sort_unstable();
        self.duplicate_ids += ids;
        if let Some(slot) = self.before.and_then(|key| key.slot) {
            self.duplicates.extend(runs.into_iter().map(|run| (slot, run)));
        }
    }

    fn report(self, objects: &Objects, listing: Listing, chains: Vec<Chain>, started: Instant) -> Report {
        let at = |ms: u64| Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok();
        let span = self.counts.span_ms;
        Report {
            archive: objects.url().to_string(),
            proven: self.findings.count == 0,
            objects: listing.entries.len() as u64,
            packed_bytes: self.progress.all_bytes,
            bytes: self.counts.bytes,
            records: self.counts.records,
            ids: self.counts.ids,
            slots: self.slots.len() as u64,
            first: span.and_then(|(first_ms, _)| at(first_ms)),
            last: span.and_then(|(_, last_ms)| at(last_ms)),
            duplicate_ids: self.duplicate_ids,
            findings: self.findings.kept,
            findings_count: self.findings.count,
            chains,
            others: listing.others,
            other_names: listing.other_names,
            seconds: started.elapsed().as_secs_f64(),
        }
    }
}

/// The lowest ID of an hour and of those after.
fn first_id(layout: Layout, hour: Hour) -> u64 {
    let parts = Parts { timestamp_ms: hour.start_ms(), slot: Slot::default(), sequence: 0 };
    // Before the epoch there are no IDs.
    layout.compose(parts).map_or(0, snowmint::Id::get)
}
