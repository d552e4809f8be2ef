//! The journal and what is delivered from it, on real files; what it keeps through kill -9 and a full disk, in
//! real processes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(missing_docs, unreachable_pub, reason = "tests")]

mod crash;
mod damage;
mod delivery;
mod keep;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use snowmint_server::event::{Api, Event, Events, Failed, Keeping, Request, What};
use snowmint_server::journal::{Durability, Journal, JournalError, JournalSettings, Reader};
use snowmint_server::metrics::Metrics;
use snowmint_server::sink::Batch;

/// How long anything that has to happen is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

const STRICT: JournalSettings =
    JournalSettings { durability: Durability::Strict, flush_ms: 20, max_bytes: 1 << 30 };

/// With segments of 8 KiB.
const SMALL: JournalSettings = JournalSettings { max_bytes: 64 << 10, ..STRICT };

/// An open journal and what belongs to it.
struct Open {
    journal: Journal,
    events: Arc<Events>,
    metrics: Arc<Metrics>,
}

impl Open {
    fn new(directory: &Path, settings: JournalSettings, sinks: &[&str]) -> Self {
        Self::try_new(directory, settings, sinks).unwrap()
    }

    fn try_new(directory: &Path, settings: JournalSettings, sinks: &[&str]) -> Result<Self, JournalError> {
        let metrics = Arc::new(Metrics::new());
        let events = Arc::new(Events::new(Arc::clone(&metrics), Keeping::Relaxed));
        let journal = Journal::open(directory, settings, sinks, &events, &metrics)?;
        Ok(Self { journal, events, metrics })
    }

    /// Has events kept that are numbered so.
    async fn keep(&self, numbers: impl IntoIterator<Item = u32>) {
        for number in numbers {
            assert!(self.events.keep(event(number)).await, "{number}: {:?}", self.journal.trouble());
        }
    }

    fn reader(&self, sink: &str) -> Reader {
        self.journal.reader(sink).unwrap()
    }

    /// How many events a sink cannot get any more.
    fn lost(&self, sink: &str) -> u64 {
        self.metrics.journal_lost.with_label_values(&[sink]).get()
    }

    async fn close(self) {
        assert!(self.journal.close().await);
    }
}

/// An event that is told from others by its number.
fn event(number: u32) -> Event {
    let request = Request {
        client_ip: Some([192, 168, 1, 100].into()),
        user_agent: None,
        request_id: None,
        api: Api::Rest,
    };
    let message = "no worker slot".into();
    let failed = Failed { slot: None, code: 7, message, latency_us: number, request };
    let at_ms = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap();
    Event { at_ms, what: What::Failed(failed) }
}

fn number(event: &Event) -> u32 {
    let What::Failed(failed) = &event.what else { panic!("{event:?}") };
    failed.latency_us
}

fn numbers(batch: &Batch) -> Vec<u32> {
    batch.events.iter().map(number).collect()
}

/// The next batch, of at most so many events.
async fn next(reader: &mut Reader, events_max: usize) -> Batch {
    let next = reader.next_batch(events_max, 1 << 20);
    tokio::time::timeout(PATIENCE, next).await.unwrap().unwrap().expect("the journal is open")
}

/// Takes all there is, to the end of a journal that is closed.
async fn rest(reader: &mut Reader) -> Vec<u32> {
    let mut all = Vec::new();
    while let Some(batch) = reader.next_batch(1_000, 1 << 20).await.unwrap() {
        all.extend(numbers(&batch));
        reader.done(&batch).await.unwrap();
    }
    all
}

/// Everything that a journal keeps for a sink that has not taken anything.
async fn all_of(directory: &Path) -> Vec<u32> {
    let open = Open::new(directory, STRICT, &["all"]);
    let mut reader = open.reader("all");
    open.journal.close().await;
    rest(&mut reader).await
}

/// The segments of a journal by their first number.
fn segments(directory: &Path) -> BTreeMap<u64, PathBuf> {
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let first = |path: &PathBuf| path.file_name()?.to_str()?.strip_suffix(".log")?.parse().ok();
    paths.filter_map(|path| Some((first(&path)?, path))).collect()
}

async fn until(holds: impl Fn() -> bool, what: &str) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
