//! Load for a server, from a client that is cheap enough not to be what is measured.
//!
//! Each connection has one request under way at a time. Without a rate the next follows at once, so that
//! latencies are those at the rate that came about. With one, every request has a time at which it is due, whatever
//! became of those before it, and its latency counts from then: a server that stands still for a while shows in
//! all that were due meanwhile ("coordinated omission" is what leaves them out). A request is the same bytes every
//! time, an answer is scanned, not parsed, and every ID received is checked against all others.

mod answer;
mod grpc;
mod pace;
mod plan;
mod seen;

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use crate::open_files;
use answer::{Answer, Malformed};
use grpc::Caller;
use pace::{Pace, on_time};
use plan::Link;
pub(super) use plan::{Demand, Plan, Target};
use seen::{Run, Seen};

/// The most connections of one load.
pub(super) const CONNECTIONS_MAX: u32 = 10_000;
/// The highest rate, in requests a second: more than a machine can make.
pub(super) const RATE_PER_S_MAX: u32 = 10_000_000;
/// The longest answer, in bytes: ten thousand IDs in the longest form are well below it.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Room that a read is given at least, in bytes.
const READ_BYTES_MIN: usize = 4 * 1024;
/// How many connections are being made at once: one after the other, the first would have been silent for longer than a
/// server allows before the last is there.
const CONNECTING_MAX: usize = 256;
/// How long to wait before a lost connection is made again.
const RECONNECT_WAIT: Duration = Duration::from_millis(100);
/// How long after the end answers are still waited for.
const LAST_ANSWER_WAIT: Duration = Duration::from_secs(5);
/// Requests, or runs of IDs, that a connection keeps to itself before it adds them to the totals.
const NOTES_MAX: usize = 1_024;
/// The longest latency told apart from longer ones, in nanoseconds: five minutes.
const LATENCY_NS_MAX: u64 = 300_000_000_000;
/// Significant digits of a latency.
const LATENCY_DIGITS: u8 = 3;

/// How far a load is.
#[derive(Debug, Default)]
pub(super) struct Progress {
    requests: AtomicU64,
    ids: AtomicU64,
    errors: AtomicU64,
}

impl Progress {
    /// Requests answered with success.
    #[must_use]
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// IDs received.
    #[must_use]
    pub(super) fn ids(&self) -> u64 {
        self.ids.load(Ordering::Relaxed)
    }

    /// Requests that failed.
    #[must_use]
    pub(super) fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }
}

/// How a load went.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    /// How long it took.
    pub(super) seconds: f64,
    /// Requests answered with success.
    pub(super) requests: u64,
    /// Those in a second.
    pub(super) requests_per_s: f64,
    /// IDs received.
    pub(super) ids: u64,
    /// Those in a second.
    pub(super) ids_per_s: f64,
    /// How long the answers took.
    pub(super) latency_us: Latency,
    /// What that counts from.
    pub(super) latency_from: LatencyFrom,
    /// Requests that failed.
    pub(super) errors: u64,
    /// Those by the answer's code, or by what happened.
    pub(super) errors_by_code: BTreeMap<String, u64>,
    /// Whether every ID was checked for duplicates.
    pub(super) checked: Checked,
    /// IDs received more than once, counted each time after the first.
    pub(super) duplicates: u64,
    /// Some of them.
    pub(super) duplicate_examples: Vec<u64>,
}

/// Percentiles, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Latency {
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
    pub(super) max: u64,
}

/// What a request's latency counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum LatencyFrom {
    /// When it was due, which takes a rate.
    Due,
    /// When it was sent.
    Sent,
}

/// Which IDs were checked for duplicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Checked {
    /// Every one.
    All,
    /// Those for which there was memory.
    Partly,
    /// None.
    Off,
}

/// Puts a load on a server.
pub(super) async fn run(plan: Plan, progress: Arc<Progress>) -> Result<Report, LoadError> {
    if let Some(allowed) = open_files::raise_limit()
        && u64::from(plan.connections) > allowed
    {
        return Err(LoadError::OpenFiles { connections: plan.connections, allowed });
    }
    let links: Vec<Link> = stream::iter(0..plan.connections)
        .map(|_| plan.connect())
        .buffer_unordered(CONNECTING_MAX)
        .try_collect()
        .await
        .map_err(|source| LoadError::Connect { address: plan.target.url().authority(), source })?;
    let start = Instant::now();
    let shared = Arc::new(Shared { end: start + plan.duration, plan, progress, totals: Mutex::default() });
    let mut clients = JoinSet::new();
    for (nth, link) in (0..).zip(links) {
        let pace = shared.plan.rate.map(|rate| Pace::new(rate, &shared.plan, start, nth));
        clients.spawn(Client::new(Arc::clone(&shared), pace).run(link));
    }
    while let Some(ended) = clients.join_next().await {
        ended.map_err(LoadError::Client)?;
    }
    let elapsed = start.elapsed();
    Ok(shared.totals().report(&shared.plan, &shared.progress, elapsed))
}

/// What all connections have in common.
struct Shared {
    plan: Plan,
    end: Instant,
    progress: Arc<Progress>,
    totals: Mutex<Totals>,
}

impl Shared {
    fn totals(&self) -> MutexGuard<'_, Totals> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What all connections have seen together.
struct Totals {
    latencies_ns: Histogram<u64>,
    errors: BTreeMap<String, u64>,
    seen: Seen,
}

impl Default for Totals {
    fn default() -> Self {
        let latencies_ns = Histogram::new_with_max(LATENCY_NS_MAX, LATENCY_DIGITS)
            .expect("three digits of at least two nanoseconds are allowed");
        Self { latencies_ns, errors: BTreeMap::new(), seen: Seen::default() }
    }
}

impl Totals {
    fn report(&mut self, plan: &Plan, progress: &Progress, elapsed: Duration) -> Report {
        let percentile = |percent: f64| self.latencies_ns.value_at_percentile(percent).div_ceil(1_000);
        let latency_us = Latency {
            p50: percentile(50.0),
            p90: percentile(90.0),
            p99: percentile(99.0),
            p99_9: percentile(99.9),
            max: self.latencies_ns.max().div_ceil(1_000),
        };
        self.seen.settle();
        let (requests, ids) = (progress.requests(), progress.ids());
        Report {
            seconds: elapsed.as_secs_f64(),
            requests,
            requests_per_s: per_second(requests, elapsed),
            ids,
            ids_per_s: per_second(ids, elapsed),
            latency_us,
            latency_from: if plan.rate.is_some() { LatencyFrom::Due } else { LatencyFrom::Sent },
            errors: progress.errors(),
            errors_by_code: std::mem::take(&mut self.errors),
            checked: match (plan.check && plan.demand != Demand::Path, self.seen.complete()) {
                (false, _) => Checked::Off,
                (true, true) => Checked::All,
                (true, false) => Checked::Partly,
            },
            duplicates: self.seen.duplicates(),
            duplicate_examples: self.seen.examples().to_vec(),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate is not exact to the 53rd bit")]
fn per_second(count: u64, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64()
}

/// One connection's end of it.
struct Client {
    shared: Arc<Shared>,
    pace: Option<Pace>,
    request: Vec<u8>,
    buffer: Vec<u8>,
    /// Since when the request that is under way counts.
    waiting: Option<Instant>,
    latencies_ns: Vec<u64>,
    runs: Vec<Run>,
}

impl Client {
    fn new(shared: Arc<Shared>, pace: Option<Pace>) -> Self {
        let request = shared.plan.request();
        let (latencies_ns, runs) = (Vec::new(), Vec::new());
        Self { shared, pace, request, buffer: Vec::new(), waiting: None, latencies_ns, runs }
    }

    async fn run(mut self, link: Link) {
        let last_answer = self.shared.end + LAST_ANSWER_WAIT;
        // However it ended, what is left over is counted next.
        let _ = timeout_at(last_answer, self.drive(link)).await;
        self.note_unanswered();
        self.add_notes();
    }

    async fn drive(&mut self, mut link: Link) {
        while let Some(since) = self.turn().await {
            self.waiting = Some(since);
            let keep = match &mut link {
                Link::Rest(stream) => self.ask(stream, since).await,
                Link::Grpc(caller) => self.call(caller, since).await,
            };
            self.waiting = None;
            if !keep {
                match self.reconnect().await {
                    Some(new) => link = new,
                    None => return,
                }
            }
        }
    }

    /// Makes a request, and says whether the connection is good for another.
    async fn ask(&mut self, stream: &mut TcpStream, since: Instant) -> bool {
        match self.exchange(stream).await {
            Ok(answer) => {
                self.note(&answer, since.elapsed());
                answer.keep_alive
            }
            Err(fault) => {
                self.error(fault.to_string(), 1);
                false
            }
        }
    }

    /// The same over gRPC.
    async fn call(&mut self, caller: &mut Caller, since: Instant) -> bool {
        let (check, runs) = (self.shared.plan.check, &mut self.runs);
        let each = |run| {
            if check {
                runs.push(run);
            }
        };
        match caller.call(self.shared.plan.demand, each).await {
            Ok(ids) => {
                self.count(Ok(ids), since.elapsed());
                true
            }
            Err(status) => {
                let (code, keep) = grpc::fault(&status);
                self.error(code, 1);
                keep
            }
        }
    }

    /// Waits for the next request's turn, and gives the time that its latency counts from, or `None` when
    /// the load is over.
    async fn turn(&mut self) -> Option<Instant> {
        let Some(pace) = &mut self.pace else {
            let now = Instant::now();
            return (now < self.shared.end).then_some(now);
        };
        let due = pace.next()?;
        on_time(due).await;
        Some(due)
    }

    async fn exchange(&mut self, stream: &mut TcpStream) -> Result<Answer, Fault> {
        stream.write_all(&self.request).await?;
        self.buffer.clear();
        loop {
            self.buffer.reserve(READ_BYTES_MIN);
            if stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(Fault::Closed);
            }
            if let Some(answer) = Answer::read(&self.buffer)? {
                return Ok(answer);
            }
            if self.buffer.len() > ANSWER_BYTES_MAX {
                return Err(Fault::TooLong);
            }
        }
    }

    async fn reconnect(&mut self) -> Option<Link> {
        while Instant::now() < self.shared.end {
            match self.shared.plan.connect().await {
                Ok(link) => return Some(link),
                Err(_) => self.error("cannot connect".to_owned(), 1),
            }
            sleep(RECONNECT_WAIT).await;
        }
        None
    }

    fn note(&mut self, answer: &Answer, latency: Duration) {
        let body = &self.buffer[answer.body.clone()];
        if !answer.is_success() {
            return self.error(answer::error_code(answer.status, body), 1);
        }
        let demand = self.shared.plan.demand;
        let ids = if self.shared.plan.check {
            demand.read(body, |run| self.runs.push(run))
        } else {
            Ok(demand.ids())
        };
        self.count(ids, latency);
    }

    /// Counts an answer with so many IDs.
    fn count(&mut self, ids: Result<u64, Malformed>, latency: Duration) {
        let demand = self.shared.plan.demand;
        match ids {
            // All or nothing was asked for.
            Ok(count) if count == demand.ids() => {
                self.shared.progress.requests.fetch_add(1, Ordering::Relaxed);
                self.shared.progress.ids.fetch_add(count, Ordering::Relaxed);
                self.latencies_ns.push(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
            }
            Ok(_) => self.error("wrong count of IDs".to_owned(), 1),
            Err(malformed) => self.error(malformed.to_string(), 1),
        }
        if self.latencies_ns.len() >= NOTES_MAX || self.runs.len() >= NOTES_MAX {
            self.add_notes();
        }
    }

    /// Counts the requests that got no answer or were never sent. How long they had waited until now stands for how
    /// long they would have taken: without them a server would look the better the less it answers.
    fn note_unanswered(&mut self) {
        let now = Instant::now();
        let under_way = self.waiting.take().map(|since| (now.saturating_duration_since(since), 1));
        let never_sent: Vec<_> = self.pace.iter().flat_map(|pace| pace.left(now)).collect();
        let mut totals = self.shared.totals();
        for (waited, count) in under_way.iter().chain(&never_sent) {
            let waited_ns = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
            totals.latencies_ns.saturating_record_n(waited_ns, *count);
        }
        drop(totals);
        if under_way.is_some() {
            self.error("no answer".to_owned(), 1);
        }
        let count = never_sent.iter().map(|(_, count)| count).sum();
        if count > 0 {
            self.error("not sent in time".to_owned(), count);
        }
    }

    fn add_notes(&mut self) {
        let mut totals = self.shared.totals();
        for latency_ns in self.latencies_ns.drain(..) {
            totals.latencies_ns.saturating_record(latency_ns);
        }
        for run in self.runs.drain(..) {
            totals.seen.add(run);
        }
    }

    fn error(&mut self, code: String, count: u64) {
        self.shared.progress.errors.fetch_add(count, Ordering::Relaxed);
        let mut totals = self.shared.totals();
        *totals.errors.entry(code).or_default() += count;
    }
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("connection closed")]
    Closed,
    #[error("connection failed")]
    Io(#[from] io::Error),
    #[error("answer too long")]
    TooLong,
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    /// The server cannot be reached.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where it should be.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// More connections than the process may have.
    #[error(
        "the system allows open files for {allowed} connections, and {connections} are wanted: raise its limit (ulimit -Hn), \
         or ask for fewer"
    )]
    OpenFiles {
        /// How many are wanted.
        connections: u32,
        /// How many there may be.
        allowed: u64,
    },
    /// A connection's task broke.
    #[error("a connection's task ended before its time")]
    Client(#[source] tokio::task::JoinError),
}
