//! Load for a server, from a client that is cheap enough not to be what is measured.
//!
//! Each connection has one request under way at a time. Without a rate the next follows at once, so that
//! latencies are those at the rate that came about. With one, every request has a time at which it is due, whatever
//! became of those before it, and its latency counts from then: a server that stands still for a while shows in
//! all that were due meanwhile ("coordinated omission" is what leaves them out). A request is the same bytes every
//! time, an answer is scanned, not parsed, and every ID received is checked against all others.

mod answer;
mod grpc;
mod seen;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::server_url::{ServerUrl, ServerUrlError};
use crate::open_files;
use answer::{Answer, Malformed};
use grpc::Caller;
use seen::{Run, Seen};

/// How the URL of a server that is asked over gRPC begins.
const GRPC_SCHEME: &str = "grpc://";
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
/// How long to wait for a connection.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// How long to wait before a lost connection is made again.
const RECONNECT_WAIT: Duration = Duration::from_millis(100);
/// How long after the end answers are still waited for.
const LAST_ANSWER_WAIT: Duration = Duration::from_secs(5);
/// How late a timer may be.
const TIMER_LATE_MAX: Duration = Duration::from_millis(2);
/// Requests, or runs of IDs, that a connection keeps to itself before it adds them to the totals.
const NOTES_MAX: usize = 1_024;
/// Requests of a connection that were never sent are counted one by one up to so many, and in so many groups beyond.
const UNSENT_GROUPS_MAX: u64 = 1_024;
/// The longest latency told apart from longer ones, in nanoseconds: five minutes.
const LATENCY_NS_MAX: u64 = 300_000_000_000;
/// Significant digits of a latency.
const LATENCY_DIGITS: u8 = 3;

/// What one request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Demand {
    /// One ID.
    Single,
    /// This many IDs, as a list.
    Batch(u32),
    /// This many IDs, as ranges.
    Ranges(u32),
    /// Whatever the URL's own path gives: no ID is read from it.
    Path,
}

impl Demand {
    fn call(self) -> String {
        match self {
            Self::Single => "/api/v1/id".to_owned(),
            Self::Batch(count) => format!("/api/v1/ids?count={count}"),
            Self::Ranges(count) => format!("/api/v1/ranges?count={count}"),
            Self::Path => String::new(),
        }
    }

    fn ids(self) -> u64 {
        match self {
            Self::Single => 1,
            Self::Batch(count) | Self::Ranges(count) => count.into(),
            Self::Path => 0,
        }
    }

    /// Reads the IDs of an answer's body, and says how many there are.
    fn read(self, body: &[u8], each: impl FnMut(Run)) -> Result<u64, Malformed> {
        match self {
            Self::Single => answer::single(body, each),
            Self::Batch(_) => answer::list(body, each),
            Self::Ranges(_) => answer::ranges(body, each),
            Self::Path => Ok(0),
        }
    }
}

/// A server, and the protocol that it is asked in.
#[derive(Clone, Debug)]
pub(super) enum Target {
    Rest(ServerUrl),
    Grpc(ServerUrl),
}

impl Target {
    pub(super) fn url(&self) -> &ServerUrl {
        match self {
            Self::Rest(url) | Self::Grpc(url) => url,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rest(url) => write!(f, "{url}"),
            Self::Grpc(url) => write!(f, "{GRPC_SCHEME}{}", url.authority()),
        }
    }
}

impl FromStr for Target {
    type Err = ServerUrlError;

    fn from_str(text: &str) -> Result<Self, ServerUrlError> {
        match text.strip_prefix(GRPC_SCHEME) {
            Some(rest) => format!("http://{rest}").parse().map(Self::Grpc),
            None => text.parse().map(Self::Rest),
        }
    }
}

/// A load.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Of what server.
    pub(super) target: Target,
    /// What each request asks for.
    pub(super) demand: Demand,
    /// For how long.
    pub(super) duration: Duration,
    /// Over how many connections.
    pub(super) connections: u32,
    /// Requests a second that are aimed at, all connections together.
    pub(super) rate: Option<u32>,
    /// Whether the IDs are read, and checked for duplicates.
    pub(super) check: bool,
}

impl Plan {
    fn request(&self) -> Vec<u8> {
        let url = self.target.url();
        let path = format!("{}{}", url.path(), self.demand.call());
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", url.authority()).into_bytes()
    }

    async fn connect(&self) -> io::Result<Link> {
        match &self.target {
            Target::Rest(url) => {
                let stream = timeout(CONNECT_WAIT, TcpStream::connect(url.address())).await??;
                stream.set_nodelay(true)?;
                Ok(Link::Rest(stream))
            }
            Target::Grpc(url) => {
                Caller::connect(&url.authority()).await.map(Link::Grpc).map_err(io::Error::other)
            }
        }
    }
}

/// A connection to the server.
enum Link {
    Rest(TcpStream),
    Grpc(Caller),
}

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

/// When one connection's requests are due: all of them, also those for which it is already too late.
#[derive(Clone, Debug)]
struct Pace {
    due: Instant,
    every: Duration,
    end: Instant,
}

impl Pace {
    /// The connections take turns, the `nth` after those before it.
    fn new(rate: u32, plan: &Plan, start: Instant, nth: u32) -> Self {
        let turns = |count: u32| Duration::from_secs(count.into()) / rate;
        Self { due: start + turns(nth), every: turns(plan.connections), end: start + plan.duration }
    }

    /// The rest of them at `now`, in groups: how long each had waited by then, and how many they are.
    fn left(&self, now: Instant) -> impl Iterator<Item = (Duration, u64)> {
        let left_ns = self.end.saturating_duration_since(self.due).as_nanos();
        let left = u64::try_from(left_ns.div_ceil(self.every.as_nanos())).unwrap_or(u64::MAX);
        let group = left.div_ceil(UNSENT_GROUPS_MAX).max(1);
        let groups = (0..left).step_by(usize::try_from(group).unwrap_or(usize::MAX));
        let waited = now.saturating_duration_since(self.due);
        groups.map(move |nth| {
            let since_first = self.every.saturating_mul(u32::try_from(nth).unwrap_or(u32::MAX));
            (waited.saturating_sub(since_first), group.min(left - nth))
        })
    }
}

impl Iterator for Pace {
    type Item = Instant;

    fn next(&mut self) -> Option<Instant> {
        let due = self.due;
        (due < self.end).then(|| {
            self.due += self.every;
            due
        })
    }
}

/// Returns at `due`, which a timer alone would miss by up to [`TIMER_LATE_MAX`]: time that is not the server's.
async fn on_time(due: Instant) {
    let early = due.checked_sub(TIMER_LATE_MAX).unwrap_or(due);
    if Instant::now() < early {
        sleep_until(early).await;
    }
    while Instant::now() < due {
        yield_now().await;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_has_every_request_however_late_it_is() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let pace = Pace { due: start, every: second / 1_000, end: start + second };
        assert_eq!(pace.clone().count(), 1_000);
        let left: Vec<_> = pace.left(start + second).collect();
        assert_eq!((left.len(), left[0], left[999]), (1_000, (second, 1), (second / 1_000, 1)));

        let pace = Pace { due: start, every: second / 100_000, end: start + second };
        let left: Vec<_> = pace.left(start + second).collect();
        assert!(left.len() <= 1_024);
        assert_eq!((left[0].0, left.iter().map(|(_, count)| count).sum::<u64>()), (second, 100_000));
    }
}
