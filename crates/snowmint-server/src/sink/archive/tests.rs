//! The spool is cut off at every point that a crash can choose, and goes on from what is left: every record is in the
//! archive once, and in its place.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as StdMutex};

use flate2::read::GzDecoder;
use snowmint::{Id, IdRange, Layout, Slot};
use tempfile::TempDir;
use uuid::Uuid;

use super::spool::{Limits, Spool, Upload};
use super::state;
use super::told::Teller;
use super::{ArchiveState, ArchiveStatus};
use crate::archive::{Hash, Hour, ObjectKey, Record};
use crate::event::{Api, Event, Failed, Issued, Request, SlotLife, Turn, What};
use crate::metrics::Metrics;
use crate::privacy::Privacy;
use crate::sink::Batch;

const HISTORIES: u64 = 40;
const STEPS: u64 = 60;
const HOUR_MS: u64 = 3_600_000;
const START_MS: u64 = 1_704_308_400_000;

/// A spool of files that are full with a few records.
fn spool(directory: &Path, journal: Uuid, bytes_max: u64) -> Spool {
    let status = ArchiveStatus {
        url: String::new(),
        waiting_bytes: 0,
        objects: 0,
        last_upload: None,
        last_error: None,
    };
    let state = ArchiveState { status: StdMutex::new(status), metrics: Arc::new(Metrics::new()) };
    let teller = Teller { layout: Layout::default(), privacy: Privacy::keep() };
    let limits = Limits { spool_bytes_max: bytes_max, object_bytes: 4_000 };
    Spool::new(directory.to_owned(), journal, teller, limits, Arc::new(state))
}

struct Rng(u64);

impl Rng {
    /// One of so many.
    fn below(&mut self, many: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % many
    }
}

fn event(rng: &mut Rng, number: u64) -> Event {
    let at_ms = START_MS + number * 60_000 - rng.below(3) * 1_000;
    let request = Request { client_ip: None, user_agent: None, request_id: None, api: Api::Rest };
    let slot = Slot { datacenter: 0, worker: u16::try_from(rng.below(2)).unwrap() };
    let id = |slot: Slot| Id::new((at_ms - 1_609_459_200_000) << 22 | u64::from(slot.worker) << 12).unwrap();
    let range = |slot| IdRange::new(id(slot), 3).unwrap();
    let other = Slot { worker: 1 - slot.worker, ..slot };
    let what = match rng.below(6) {
        0 => What::Failed(Failed {
            slot: None,
            code: 7,
            message: "no \"slot\"\n".into(),
            latency_us: 1,
            request,
        }),
        1 => What::Slot(SlotLife { slot, turn: Turn::Taken, node: "a".to_owned(), note: String::new() }),
        // Of both slots.
        2 => What::Issued(Issued {
            slot,
            ranges: [range(slot), range(other)].into_iter().collect(),
            latency_us: 9,
            queue_us: 4,
            request,
        }),
        _ => What::Issued(Issued { slot, ranges: [range(slot)].into(), latency_us: 9, queue_us: 4, request }),
    };
    Event { at_ms, what }
}

/// What a disk has: files by name.
type Files = BTreeMap<PathBuf, Vec<u8>>;

fn files(directory: &Path) -> Files {
    let paths = fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path());
    paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// Leaves the disk as it may be when a crash comes on the way from one state to another: first what grew, then what is
/// new, then the state, and what is gone last.
fn crash_between(before: &Files, after: &Files, rng: &mut Rng) {
    let state = |path: &PathBuf| path.file_name().is_some_and(|name| name == state::FILE);
    let mut changed: Vec<_> = after.iter().filter(|(path, bytes)| before.get(*path) != Some(bytes)).collect();
    // A chain's files are written one after the other.
    let first = |path: &PathBuf| path.file_name()?.to_str()?.split('.').nth(1).map(str::to_owned);
    changed.sort_by_key(|(path, _)| (state(path), !before.contains_key(*path), first(path)));
    let gone: Vec<_> = before.keys().filter(|path| !after.contains_key(*path)).collect();
    let done = usize::try_from(rng.below((changed.len() + gone.len()) as u64 + 1)).unwrap();
    for (at, (path, bytes)) in changed.iter().enumerate().filter(|(at, _)| *at >= done) {
        let old = before.get(*path);
        let lines = path.extension().is_some_and(|kind| kind == "jsonl");
        let from = old.map_or(0, Vec::len);
        if at == done && lines && bytes.len() > from {
            // Torn, or followed by what was never written.
            let torn = from + usize::try_from(rng.below((bytes.len() - from) as u64)).unwrap();
            let mut torn = bytes[..torn].to_vec();
            torn.resize(torn.len() + usize::try_from(rng.below(2) * 300).unwrap(), 0);
            fs::write(path, torn).unwrap();
        } else {
            match old {
                Some(old) => fs::write(path, old).unwrap(),
                None => fs::remove_file(path).unwrap(),
            }
        }
    }
    for path in gone.into_iter().skip(done.saturating_sub(changed.len())) {
        fs::write(path, &before[path]).unwrap();
    }
}

/// A node and its archive, in one history.
struct World {
    rng: Rng,
    directory: PathBuf,
    journal: Uuid,
    spool: Spool,
    archive: BTreeMap<ObjectKey, Vec<u8>>,
    events: Vec<Event>,
    /// How many of them are in batches that were taken.
    taken: usize,
    /// The end of the batch that was offered last.
    offered: usize,
    now_ms: u64,
    crashes: u32,
}

impl World {
    fn new(seed: u64, directory: &Path) -> Self {
        let journal = Uuid::from_u128(u128::from(seed) << 64);
        let mut rng = Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let events = (0..STEPS * 4).map(|number| event(&mut rng, number)).collect();
        Self {
            rng,
            directory: directory.to_owned(),
            journal,
            spool: spool(directory, journal, u64::MAX),
            archive: BTreeMap::new(),
            events,
            taken: 0,
            offered: 0,
            now_ms: START_MS,
            crashes: 0,
        }
    }

    fn step(&mut self) {
        let before = files(&self.directory);
        let what = self.rng.below(4);
        self.now_ms += self.rng.below(10) * 60_000;
        let taken = self.taken;
        match what {
            0 | 1 => self.deliver(),
            2 => drop(self.spool.seal(self.now_ms, self.rng.below(4) == 0).unwrap()),
            _ => self.upload(),
        }
        if self.rng.below(3) == 0 {
            // The process may have gone on, or not, or not so far.
            self.taken = taken;
            self.spool = spool(&self.directory, self.journal, u64::MAX);
            crash_between(&before, &files(&self.directory), &mut self.rng);
            self.crashes += 1;
        }
    }

    fn deliver(&mut self) {
        if self.offered == self.taken {
            let more = usize::try_from(self.rng.below(8)).unwrap() + 1;
            self.offered = (self.taken + more).min(self.events.len());
        }
        let events = self.events[self.taken..self.offered].to_vec();
        self.spool.append(&Batch { journal: self.journal, first: self.taken as u64, events }).unwrap();
        self.taken = self.offered;
    }

    /// Uploads, where others may take names, and answers may be lost.
    fn upload(&mut self) {
        let Some(Upload { name, mut key, bytes }) = self.spool.next_upload().unwrap() else { return };
        if self.rng.below(8) == 0 {
            self.archive.entry(key).or_default();
        }
        while self.archive.get(&key).is_some_and(|there| *there != bytes) {
            key = key.next();
            self.spool.rename(name, key).unwrap();
        }
        self.archive.insert(key, bytes.to_vec());
        if self.rng.below(3) > 0 {
            self.spool.uploaded(name).unwrap();
        }
    }

    fn finish(mut self) -> (BTreeMap<ObjectKey, Vec<u8>>, u32) {
        while self.taken < self.events.len() {
            self.deliver();
        }
        while self.spool.seal(self.now_ms, true).unwrap() {}
        while self.spool.next_upload().unwrap().is_some() {
            self.upload();
        }
        let left: Vec<_> = files(&self.directory).into_keys().collect();
        assert_eq!(left, [self.directory.join(state::FILE)]);
        (self.archive, self.crashes)
    }
}

#[test]
fn every_record_is_in_the_archive_once_wherever_a_crash_comes() {
    let mut crashes = 0;
    for seed in 1..=HISTORIES {
        let directory = in_memory();
        let mut world = World::new(seed, directory.path());
        (0..STEPS).for_each(|_| world.step());
        let events = world.events.clone();
        let (archive, in_this) = world.finish();
        crashes += in_this;
        assert_whole(&archive, &events, seed);
    }
    assert!(crashes > 400, "{crashes}");
}

/// In memory where the system has a directory there: it is synced so often that a disk would take minutes.
fn in_memory() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

/// Each object is one piece of one chain, all of them are whole chains, and they tell of every event.
fn assert_whole(archive: &BTreeMap<ObjectKey, Vec<u8>>, events: &[Event], seed: u64) {
    let mut chains: BTreeMap<Option<Slot>, BTreeMap<u64, (Hash, Hash)>> = BTreeMap::new();
    let mut told = BTreeSet::new();
    for (key, bytes) in archive.iter().filter(|(_, bytes)| !bytes.is_empty()) {
        let mut text = String::new();
        GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
        let mut next = None;
        for line in text.lines() {
            let record: Record<'_> = serde_json::from_str(line).unwrap();
            assert_eq!(record.slot(), key.slot);
            assert!(
                Hour::of(record.timestamp) <= key.hour && key.hour.start_ms() < record.timestamp + HOUR_MS
            );
            assert!(next.is_none_or(|next| next == record.chain.sequence), "history {seed}: {key} has a gap");
            next = Some(record.chain.sequence + 1);
            let link = (record.chain.previous, Hash::of(line.as_bytes()));
            let twice = chains.entry(key.slot).or_default().insert(record.chain.sequence, link);
            assert_eq!(twice, None, "history {seed}: {line}");
            assert!(told.insert((record.event_id, key.slot)), "history {seed}: {line}");
        }
    }
    for chain in chains.values() {
        let mut previous = Hash::NOTHING;
        for (sequence, (sequence_there, link)) in (1..).zip(chain) {
            assert_eq!((*sequence_there, link.0), (sequence, previous), "history {seed}");
            previous = link.1;
        }
    }
    let records: usize = events
        .iter()
        .map(|event| match &event.what {
            What::Issued(issued) => issued.ranges.len(),
            _ => 1,
        })
        .sum();
    assert_eq!(told.len(), records, "history {seed}");
}

#[test]
fn what_another_journal_has_left_is_uploaded_too() {
    let directory = TempDir::new().unwrap();
    let mut rng = Rng(1);
    let events: Vec<_> = (0..5).map(|number| event(&mut rng, number)).collect();
    let mut objects = Vec::new();
    for journal in [Uuid::from_u128(1 << 64), Uuid::from_u128(2 << 64)] {
        let mut spool = spool(directory.path(), journal, u64::MAX);
        spool.append(&Batch { journal, first: 0, events: events.clone() }).unwrap();
        if journal == Uuid::from_u128(2 << 64) {
            while spool.seal(START_MS, true).unwrap() {}
            while let Some(upload) = spool.next_upload().unwrap() {
                objects.push((upload.key, upload.name.journal));
                spool.uploaded(upload.name).unwrap();
            }
        }
    }
    let journals: BTreeSet<_> = objects.iter().map(|(_, journal)| *journal).collect();
    let keys: BTreeSet<_> = objects.iter().map(|(key, _)| *key).collect();
    assert_eq!((journals.len(), keys.len()), (2, objects.len()), "{objects:?}");
}

#[test]
fn a_spool_that_is_full_takes_nothing_until_there_is_room() {
    let directory = TempDir::new().unwrap();
    let journal = Uuid::from_u128(1 << 64);
    let mut spool = spool(directory.path(), journal, 10_000);
    let mut rng = Rng(7);
    let mut batch = |first: u64| Batch {
        journal,
        first,
        events: (first..first + 10).map(|number| event(&mut rng, number)).collect(),
    };
    let (mut first, full) = (0, "audit.spool_max_bytes is 10000");
    let refused = loop {
        match spool.append(&batch(first)) {
            Ok(_) => first += 10,
            Err(error) => break error.to_string(),
        }
    };
    assert!(first > 0 && refused.contains(full), "{refused}");
    while spool.seal(START_MS, true).unwrap() {}
    while let Some(upload) = spool.next_upload().unwrap() {
        spool.uploaded(upload.name).unwrap();
    }
    spool.append(&batch(first)).unwrap();
}
