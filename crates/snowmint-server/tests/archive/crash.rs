//! kill -9 of a process that writes a journal and brings it into an archive: this binary, started by itself.

use std::collections::BTreeSet;
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use snowmint_server::archive::Record;
use snowmint_server::config::S3;
use snowmint_server::event::{Events, Keeping, What};
use snowmint_server::journal::{Durability, Journal, JournalSettings};
use snowmint_server::metrics::Metrics;
use snowmint_server::objects::Objects;
use snowmint_server::sink::archive;
use snowmint_server::sink::delivery::{self, SinkState};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::node::{SLOT, issued, settings};
use super::place::Place;
use super::read::{assert_whole, read};
use super::{PATIENCE_MS, spool_is_empty, until};

const DIRECTORY: &str = "ARCHIVE_TEST_DIRECTORY";
const URL: &str = "ARCHIVE_TEST_URL";
const ACCESS: &str = "ARCHIVE_TEST_S3";
const FIRST: &str = "ARCHIVE_TEST_FIRST";

/// How often a process is killed that writes into a directory, and one that writes over a network.
const KILLS: u32 = 100;
const KILLS_OF_REMOTE: u32 = 30;

/// Requests that wait at the same time.
const WAITING: u32 = 16;

/// Each process numbers its events from a multiple of it.
const NUMBERS: u32 = 10_000_000;

const STRICT: JournalSettings =
    JournalSettings { durability: Durability::Strict, flush_ms: 20, max_bytes: 1 << 30 };

/// A journal, and its way into the archive.
struct Open {
    journal: Journal,
    events: Arc<Events>,
    sink: Arc<SinkState>,
    delivery: JoinHandle<()>,
    uploads: JoinHandle<()>,
    stop: CancellationToken,
    stop_uploads: CancellationToken,
}

impl Open {
    async fn new(directory: &Path, url: &str, access: &S3) -> Self {
        let metrics = Arc::new(Metrics::new());
        let events = Arc::new(Events::new(Arc::clone(&metrics), Keeping::Strict));
        let journal = Journal::open(directory, STRICT, &[archive::NAME], &events, &metrics).unwrap();
        let objects = Objects::open(&url.parse().unwrap(), access).unwrap();
        let (sink, uploader) =
            archive::open(directory, journal.id(), objects, settings(), Arc::clone(&metrics));
        let (stop, stop_uploads) = (CancellationToken::new(), CancellationToken::new());
        let uploads = tokio::spawn(uploader.run(stop_uploads.clone()));
        let (sink, delivery) = delivery::start(&journal, Arc::new(sink), metrics, stop.clone()).unwrap();
        Self { journal, events, sink, delivery, uploads, stop, stop_uploads }
    }

    async fn stop(self) {
        assert!(self.journal.close().await);
        self.stop.cancel();
        self.delivery.await.unwrap();
        self.stop_uploads.cancel();
        self.uploads.await.unwrap();
    }
}

/// Not a test: what the tests below start, to be killed.
#[test]
fn child() {
    let Ok(directory) = env::var(DIRECTORY) else { return };
    let first: u32 = env::var(FIRST).unwrap().parse().unwrap();
    let access = serde_json::from_str(&env::var(ACCESS).unwrap()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let open = Arc::new(Open::new(Path::new(&directory), &env::var(URL).unwrap(), &access).await);
        let tasks: Vec<_> =
            (first..first + WAITING).map(|first| tokio::spawn(keep(Arc::clone(&open), first))).collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

/// Has events kept, one after the other, and says of each that it was.
async fn keep(open: Arc<Open>, first: u32) {
    for number in (first..).step_by(WAITING as usize) {
        let at_ms = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap();
        let mut event = issued(at_ms, SLOT, 1);
        let What::Issued(issued) = &mut event.what else { unreachable!() };
        issued.latency_us = number;
        assert!(open.events.keep(event).await);
        // One write, which a kill cannot divide. The one who reads may be gone.
        let _ = std::io::stdout().write_all(format!("\nkept {number}\n").as_bytes());
    }
}

/// A child and what it says.
struct Writer {
    child: Child,
    kept: Receiver<u32>,
}

impl Writer {
    fn start(directory: &Path, place: &Place, first: u32) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["crash::child", "--exact", "--nocapture"]).stdout(Stdio::piped());
        command.env(DIRECTORY, directory).env(FIRST, first.to_string()).env(URL, place.url("crash"));
        command.env(ACCESS, serde_json::to_string(&place.s3_access(None)).unwrap());
        let mut child = command.spawn().unwrap();
        let (say, kept) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some(number) = line.strip_prefix("kept ") {
                    let _ = say.send(number.parse().unwrap());
                }
            }
        });
        Self { child, kept }
    }

    /// Kills it when it has kept so many, and gives all that it kept.
    fn kill_after(mut self, count: u32) -> Vec<u32> {
        let patience = Duration::from_millis(PATIENCE_MS);
        let mut kept: Vec<u32> =
            (0..count).map(|_| self.kept.recv_timeout(patience).expect("it keeps events")).collect();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        loop {
            match self.kept.recv_timeout(patience) {
                Ok(number) => kept.push(number),
                Err(RecvTimeoutError::Disconnected) => return kept,
                Err(RecvTimeoutError::Timeout) => panic!("the pipe of a dead process stays open"),
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn directory_has_all_that_strict_kept_once_through_100_kills() {
    every_record_once(&Place::directory(), KILLS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_has_all_that_strict_kept_once_through_kills() {
    every_record_once(&Place::s3().await, KILLS_OF_REMOTE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hdfs_has_all_that_strict_kept_once_through_kills() {
    every_record_once(&Place::hdfs().await, KILLS_OF_REMOTE).await;
}

async fn every_record_once(place: &Place, kills: u32) {
    let directory = TempDir::new().unwrap();
    let mut kept = BTreeSet::new();
    for round in 0..kills {
        let writer = Writer::start(directory.path(), place, round * NUMBERS);
        // Killed sooner or later.
        kept.extend(writer.kill_after(1 + (round * 37) % 400));
    }
    let begun = Instant::now();
    loop {
        let open = Open::new(directory.path(), &place.url("crash"), &place.s3_access(None)).await;
        until("the journal is delivered", async || open.sink.status().lag_events == 0).await;
        open.stop().await;
        if spool_is_empty(directory.path()) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_millis(PATIENCE_MS), "it is not uploaded");
    }
    let lines = read(&place.objects("crash")).await;
    let events = assert_whole(&lines);
    let told: BTreeSet<u32> = lines.values().flatten().map(|line| number(line)).collect();
    assert_eq!(told.len(), events.len());
    let missing: Vec<_> = kept.difference(&told).collect();
    assert_eq!(missing, Vec::<&u32>::new());
    eprintln!(
        "figure: {kills} kills, {} acknowledged, {} in {} objects, each once",
        kept.len(),
        told.len(),
        lines.len()
    );
}

fn number(line: &str) -> u32 {
    let record: Record<'_> = serde_json::from_str(line).unwrap();
    record.performance.unwrap().total_latency_us
}
