//! An archive for tests, made record by record.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use snowmint::{Id, Layout, Parts, Slot};
use snowmint_server::archive::{EventType, Hash, Hour, Link, ObjectKey, Range, Record, RequestMetadata};
use snowmint_server::audit::Scope;
use snowmint_server::audit::verify::{Finding, Options, Report, verify};
use snowmint_server::config::{S3, StoreUrl};
use snowmint_server::objects::Objects;
use tempfile::TempDir;
use uuid::Uuid;

/// 2024-01-03T19:00:00Z.
pub(crate) const START_MS: u64 = 1_704_308_400_000;
pub(crate) const HOUR_MS: u64 = 3_600_000;
pub(crate) const SLOT: Slot = Slot { datacenter: 0, worker: 5 };

/// The end of a chain.
#[derive(Clone)]
pub(crate) struct Chain {
    journal: Uuid,
    pub(crate) slot: Slot,
    sequence: u64,
    previous: Hash,
}

/// Objects, as the lines that they have.
pub(crate) struct Archive {
    directory: TempDir,
    pub(crate) objects: BTreeMap<ObjectKey, Vec<String>>,
}

impl Chain {
    pub(crate) fn new(journal: u128, slot: Slot) -> Self {
        Self { journal: Uuid::from_u128(journal), slot, sequence: 0, previous: Hash::NOTHING }
    }

    /// The next line: IDs were issued, as runs of first and count.
    pub(crate) fn line(&mut self, at_ms: u64, runs: &[(u64, u32)]) -> String {
        let ranges: Vec<_> = runs
            .iter()
            .map(|(first, count)| Range { first: Id::new(*first).unwrap(), count: *count })
            .collect();
        let one = matches!(runs, [(_, 1)]);
        self.sequence += 1;
        let record = Record {
            event_id: Uuid::from_u128(self.journal.as_u128() ^ u128::from(self.sequence)),
            timestamp: at_ms,
            event_type: if one { EventType::IdGenerated } else { EventType::IdsIssued },
            datacenter_id: Some(self.slot.datacenter),
            worker_id: Some(self.slot.worker),
            generated_id: one.then(|| ranges[0].first),
            count: (!one).then(|| runs.iter().map(|(_, count)| u64::from(*count)).sum()),
            ranges: if one { Vec::new() } else { ranges },
            id_components: None,
            error: None,
            slot: None,
            request_metadata: Some(RequestMetadata {
                client_ip: format!("10.0.0.{}", self.sequence % 7).into(),
                user_agent: "tester/1".into(),
                request_id: format!("req-{}-{}", self.journal.as_u128(), self.sequence).into(),
                api_version: "v1".into(),
                api: "rest".into(),
            }),
            performance: None,
            chain: Link { journal: self.journal, sequence: self.sequence, previous: self.previous },
        };
        let line = serde_json::to_string(&record).unwrap();
        self.previous = Hash::of(line.as_bytes());
        line
    }
}

/// The IDs of a slot's millisecond from a sequence number on.
pub(crate) fn id(slot: Slot, timestamp_ms: u64, sequence: u32) -> u64 {
    Layout::default().compose(Parts { timestamp_ms, slot, sequence }).unwrap().get()
}

pub(crate) fn key(hour: u32, slot: Slot, number: u32) -> ObjectKey {
    ObjectKey { hour: Hour(Hour::of(START_MS).0 + hour), slot: Some(slot), number }
}

impl Archive {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), objects: BTreeMap::new() }
    }

    /// Three hours of one slot, in objects of ten records of ten IDs each: two of the second hour, one of others.
    pub(crate) fn three_hours() -> (Self, Chain) {
        let (mut archive, mut chain) = (Self::new(), Chain::new(1, SLOT));
        for (hour, number) in [(0, 1), (1, 1), (1, 2), (2, 1)] {
            let lines = (0..10).map(|record| {
                let at_ms = START_MS + u64::from(hour) * HOUR_MS + u64::from(number) * 1_000 + record;
                chain.line(at_ms, &[(id(SLOT, at_ms, 7), 10)])
            });
            archive.objects.insert(key(hour, SLOT, number), lines.collect());
        }
        (archive, chain)
    }

    pub(crate) fn lines(&mut self, hour: u32, number: u32) -> &mut Vec<String> {
        self.objects.get_mut(&key(hour, SLOT, number)).unwrap()
    }

    pub(crate) fn path(&self, key: ObjectKey) -> PathBuf {
        self.directory.path().join(key.to_string())
    }

    pub(crate) fn url(&self) -> String {
        self.directory.path().display().to_string()
    }

    pub(crate) fn write(&self) {
        for (key, lines) in &self.objects {
            let path = self.path(*key);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let mut packed = GzEncoder::new(fs::File::create(path).unwrap(), Compression::fast());
            for line in lines {
                writeln!(packed, "{line}").unwrap();
            }
            packed.finish().unwrap();
        }
    }

    /// What is said of what is in the directory.
    pub(crate) fn verified(&self, options: Options) -> Report {
        let url = StoreUrl::Directory(self.directory.path().to_owned());
        let objects = Objects::open(&url, &S3::default()).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        verify(runtime.handle(), &objects, &options, &mut |_| {}).unwrap()
    }

    /// Writes it, and says what is wrong with it.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        self.write();
        self.verified(options()).findings
    }
}

pub(crate) fn options() -> Options {
    Options { scope: Scope::default(), layout: Layout::default(), whole: true }
}
