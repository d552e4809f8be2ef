//! Clients that ask for IDs without end, write down all that they get, and outlive the server.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::process::PATIENCE;

/// The pause between two requests of one connection: it bounds the rate, so that all tests fit one machine.
pub const PACE: Duration = Duration::from_millis(2);

/// The pause before a lost connection is made again.
const RECONNECT: Duration = Duration::from_millis(5);

/// Answers that one load may write down.
const RECEIPTS_MAX: usize = 2_000_000;

/// The longest body that is read, in bytes.
const BODY_BYTES_MAX: usize = 1 << 20;

/// What a connection asks for, over and over: mostly single IDs, sometimes several.
const PATHS: [&str; 8] = [
    "/api/v1/id",
    "/api/v1/id",
    "/api/v1/id",
    "/api/v1/ids?count=10",
    "/api/v1/id",
    "/api/v1/id",
    "/api/v1/id",
    "/api/v1/ranges?count=1000",
];

/// Consecutive IDs that were received.
#[derive(Clone, Copy, Debug)]
pub struct Receipt {
    /// The first of them.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// From which life of the server: how often the load was aimed.
    pub life: u32,
    /// Over which connection, counted by client and again with every reconnect.
    pub connection: u32,
    /// When they were asked for.
    pub asked: Instant,
}

impl Receipt {
    /// The last of them.
    pub fn last(&self) -> u64 {
        self.first + self.count - 1
    }

    /// The timestamp of the first, in Unix milliseconds, under the default layout.
    pub fn timestamp_ms(&self) -> u64 {
        let id = snowmint::Id::new(self.first).unwrap();
        snowmint::Layout::default().decompose(id).timestamp_ms
    }
}

/// An answer that was no success, or no answer at all.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The HTTP status; 0 where there was no answer in time.
    pub status: u16,
    /// The error's code.
    pub code: String,
    /// When IDs were asked for.
    pub asked: Instant,
    /// How long the answer took.
    pub took: Duration,
}

/// What a load has seen.
#[derive(Debug, Default)]
pub struct Journal {
    /// What was received, by connection in the order of arrival.
    pub receipts: Vec<Receipt>,
    /// How long each answer with IDs took, in the order of arrival.
    pub took: Vec<Duration>,
    /// What was refused.
    pub failures: Vec<Failure>,
    /// Connections that ended, or were refused, before an answer began: asking again is safe.
    pub closed: u32,
    /// Connections that ended within an answer.
    pub cut: u32,
}

impl Journal {
    /// Every request was answered with IDs.
    pub fn assert_no_failure(&self) {
        assert_eq!((self.failures.as_slice().first(), self.closed, self.cut), (None, 0, 0));
    }

    /// Invariant 4, as a client sees it: what comes later over one connection is larger.
    pub fn assert_increasing(&self) {
        let mut receipts = self.receipts.clone();
        receipts.sort_by_key(|receipt| receipt.connection);
        for pair in receipts.windows(2).filter(|pair| pair[0].connection == pair[1].connection) {
            assert!(pair[0].last() < pair[1].first, "{pair:?}");
        }
    }
}

impl PartialEq for Failure {
    fn eq(&self, other: &Self) -> bool {
        (self.status, &self.code) == (other.status, &other.code)
    }
}

/// Clients of one server, whichever process that is.
pub struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

struct Shared {
    journal: Mutex<Journal>,
    /// How many answers were received.
    received: watch::Sender<usize>,
    /// Which life of the server, and where; `None` between two.
    target: watch::Sender<(u32, Option<SocketAddr>)>,
    stop: CancellationToken,
}

impl Shared {
    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Load {
    /// Starts this many clients, which wait until there is something to aim at.
    pub fn start(clients: u32) -> Self {
        let shared = Arc::new(Shared {
            journal: Mutex::default(),
            received: watch::Sender::new(0),
            target: watch::Sender::new((0, None)),
            stop: CancellationToken::new(),
        });
        let mut tasks = JoinSet::new();
        for nth in 0..clients {
            let shared = Arc::clone(&shared);
            tasks.spawn(async move {
                let stop = shared.stop.clone();
                stop.run_until_cancelled(Client { shared, nth, clients }.run()).await;
            });
        }
        Self { shared, clients: tasks }
    }

    /// Clients of a server that is there.
    pub fn on(address: SocketAddr, clients: u32) -> Self {
        let load = Self::start(clients);
        load.aim(address);
        load
    }

    /// Connections are made to this address from now on.
    pub fn aim(&self, address: SocketAddr) {
        self.shared.target.send_modify(|(life, target)| {
            *life += 1;
            *target = Some(address);
        });
    }

    /// No connection is made until there is a new target: a port that was given up may be somebody else's
    /// soon. Requests on connections that are open go on.
    pub fn lower(&self) {
        self.shared.target.send_modify(|(_, target)| *target = None);
    }

    /// Waits for so many more answers with IDs.
    pub async fn receive(&self, more: usize) {
        let mut received = self.shared.received.subscribe();
        let wanted = *received.borrow() + more;
        // What it gives is a lock on the count, under which the journal's must not be asked for.
        let seen = timeout(PATIENCE, received.wait_for(|count| *count >= wanted)).await.is_ok();
        let failures = &self.shared.journal().failures;
        assert!(seen, "no {more} answers within {PATIENCE:?}; failures: {failures:?}");
    }

    /// Looks at what was seen up to now.
    pub fn look<T>(&self, look: impl FnOnce(&Journal) -> T) -> T {
        look(&self.shared.journal())
    }

    /// Ends it. Requests that are under way are given up.
    pub async fn finish(mut self) -> Journal {
        self.shared.stop.cancel();
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        std::mem::take(&mut *self.shared.journal())
    }
}

struct Client {
    shared: Arc<Shared>,
    nth: u32,
    clients: u32,
}

impl Client {
    async fn run(self) {
        let mut target = self.shared.target.subscribe();
        let mut connection_number = self.nth;
        loop {
            let (life, address) = *target
                .wait_for(|(_, address)| address.is_some())
                .await
                .expect("this client has a share of it");
            match Connection::open(address.expect("it was waited for")).await {
                Ok(connection) => self.ask(connection, life, connection_number).await,
                Err(_) => self.shared.journal().closed += 1,
            }
            connection_number += self.clients;
            sleep(RECONNECT).await;
        }
    }

    /// Asks until the connection ends.
    async fn ask(&self, mut connection: Connection, life: u32, number: u32) {
        for path in PATHS.iter().cycle() {
            let asked = Instant::now();
            match timeout(PATIENCE, connection.get(path)).await {
                Ok(Ok(answer)) => self.note(&answer, life, number, asked),
                Ok(Err(Lost::Closed)) => return self.shared.journal().closed += 1,
                Ok(Err(Lost::Cut)) => return self.shared.journal().cut += 1,
                Err(_) => {
                    let code = "no answer".to_owned();
                    let failure = Failure { status: 0, code, asked, took: asked.elapsed() };
                    return self.shared.journal().failures.push(failure);
                }
            }
            if connection.ended {
                return;
            }
            sleep(PACE).await;
        }
    }

    fn note(&self, answer: &Answer, life: u32, connection: u32, asked: Instant) {
        let took = asked.elapsed();
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        let mut journal = self.shared.journal();
        if answer.status != 200 {
            let code = body["error"]["code"].as_str().unwrap().to_owned();
            let failure = Failure { status: answer.status, code, asked, took };
            return journal.failures.push(failure);
        }
        let runs = runs(&body);
        let receipt = |(first, count)| Receipt { first, count, life, connection, asked };
        journal.took.push(took);
        journal.receipts.extend(runs.into_iter().map(receipt));
        assert!(journal.receipts.len() <= RECEIPTS_MAX, "the load ran for longer than it was made for");
        self.shared.received.send_modify(|count| *count += 1);
    }
}

/// The IDs of an answer: (first, count) of each consecutive run.
pub fn runs(body: &Value) -> Vec<(u64, u64)> {
    let number = |value: &Value| value.as_u64().unwrap();
    if let Some(ids) = body["ids"].as_array() {
        return ids.iter().map(|id| (number(id), 1)).collect();
    }
    if let Some(ranges) = body["ranges"].as_array() {
        return ranges.iter().map(|range| (number(&range["first"]), number(&range["count"]))).collect();
    }
    vec![(number(&body["id"]), 1)]
}

/// A connection that is kept.
pub struct Connection {
    stream: BufReader<TcpStream>,
    /// The server has said that this was its last answer.
    pub ended: bool,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Lost {
    /// The connection ended before an answer began.
    Closed,
    /// It ended within one.
    Cut,
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), ended: false })
    }

    /// Sends one request and reads its answer.
    pub async fn get(&mut self, path: &str) -> Result<Answer, Lost> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        self.stream.write_all(request.as_bytes()).await.map_err(|_| Lost::Closed)?;
        let status_line = self.line().await?.ok_or(Lost::Closed)?;
        let status = status_line.split(' ').nth(1).unwrap().parse().unwrap();
        let mut length = 0;
        loop {
            let line = self.line().await?.ok_or(Lost::Cut)?.to_ascii_lowercase();
            match line.split_once(": ") {
                Some(("content-length", value)) => length = value.parse().unwrap(),
                Some(("connection", "close")) => self.ended = true,
                None if line.is_empty() => break,
                _ => {}
            }
        }
        assert!(length <= BODY_BYTES_MAX, "{path}: a body of {length} bytes");
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.map_err(|_| Lost::Cut)?;
        Ok(Answer { status, body: String::from_utf8(body).unwrap() })
    }

    /// A line without its end, or `None` where the connection ended before it.
    async fn line(&mut self) -> Result<Option<String>, Lost> {
        let mut line = String::new();
        match self.stream.read_line(&mut line).await {
            Ok(_) if line.ends_with("\r\n") => Ok(Some(line.trim_end().to_owned())),
            _ if line.is_empty() => Ok(None),
            _ => Err(Lost::Cut),
        }
    }
}
