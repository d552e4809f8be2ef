//! The servers that ranges are leased from: one at a time, and another when it fails.

use std::error::Error;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use snowmint::{Id, IdRange};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::client::Counters;
use crate::clock;
use crate::proto::LeaseRangesRequest;
use crate::proto::id_generator_client::IdGeneratorClient;

/// For how long a server that failed is left alone, in milliseconds: at first, and after it failed again and again.
const AWAY_MS_MIN: u64 = 50;
const AWAY_MS_MAX: u64 = 2_000;

/// A server says in this trailer for how long it wants to be left alone.
const RETRY_AFTER_MS: &str = "retry-after-ms";

/// Ranges that are this client's.
pub(crate) struct Lease {
    pub(crate) ranges: Vec<IdRange>,
    /// Before the request was sent: no ID of it is older.
    pub(crate) asked_ns: u64,
}

/// Why a server gave none.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// Another may do better.
    Unavailable { server: String, message: String, retry_after_ms: u64 },
    /// Another would do the same.
    Refused { server: String, code: Code, message: String },
}

pub(crate) struct Servers {
    all: Vec<Server>,
    /// The one in use.
    current: usize,
    attempt: Duration,
    counters: Arc<Counters>,
}

struct Server {
    name: String,
    client: IdGeneratorClient<Channel>,
    away_until: Instant,
    failures: u32,
}

impl Servers {
    /// Connects to none of them yet. Clients begin with a random one, so that the servers share them.
    pub(crate) fn new(
        endpoints: Vec<(String, Endpoint)>,
        attempt: Duration,
        counters: Arc<Counters>,
    ) -> Self {
        let all: Vec<_> = endpoints
            .into_iter()
            .map(|(name, endpoint)| Server {
                name,
                client: IdGeneratorClient::new(endpoint.connect_lazy()),
                away_until: Instant::now(),
                failures: 0,
            })
            .collect();
        let random = RandomState::new().hash_one(0) % u64::try_from(all.len()).unwrap_or(1);
        Self { all, current: usize::try_from(random).unwrap_or(0), attempt, counters }
    }

    /// Leases from the first server that gives it, beginning with the one in use. Each is asked once.
    pub(crate) async fn lease(&mut self, count: u32) -> Result<Lease, Failure> {
        let mut failed = None;
        for at in self.candidates().await {
            let server = &mut self.all[at];
            self.counters.requests.add_one();
            let failure = match server.lease(count, self.attempt).await {
                Ok(lease) => {
                    server.failures = 0;
                    if at != self.current {
                        self.counters.failovers.add_one();
                        self.current = at;
                    }
                    return Ok(lease);
                }
                Err(failure) => failure,
            };
            self.counters.failed_requests.add_one();
            match failure {
                Failure::Refused { .. } => return Err(failure),
                Failure::Unavailable { retry_after_ms, .. } => server.leave_alone(retry_after_ms),
            }
            failed = Some(failure);
        }
        Err(failed.expect("there is a candidate, and it has failed"))
    }

    /// Those that are not left alone, the one in use first. Waits until there is one.
    async fn candidates(&self) -> Vec<usize> {
        let soonest = self.all.iter().map(|server| server.away_until).min();
        sleep_until(soonest.expect("there is a server")).await;
        let now = Instant::now();
        let count = self.all.len();
        (self.current..self.current + count)
            .map(|at| at % count)
            .filter(|at| self.all[*at].away_until <= now)
            .collect()
    }
}

impl Server {
    async fn lease(&mut self, count: u32, attempt: Duration) -> Result<Lease, Failure> {
        let asked_ns = clock::now_ns();
        let request = self.client.lease_ranges(LeaseRangesRequest { count });
        let answer = match timeout(attempt, request).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => return Err(self.failure(&status)),
            Err(_) => return Err(self.unavailable(format!("no answer within {attempt:?}"), 0)),
        };
        let range = |range: &crate::proto::IdRange| IdRange::new(Id::new(range.first)?, range.count);
        match answer.ranges.iter().map(range).collect() {
            Some(ranges) => Ok(Lease { ranges, asked_ns }),
            None => Err(self
                .unavailable("it answered with a range that has no IDs, or impossible ones".to_owned(), 0)),
        }
    }

    fn failure(&self, status: &Status) -> Failure {
        let message = explain(status);
        if refuses(status.code()) {
            return Failure::Refused { server: self.name.clone(), code: status.code(), message };
        }
        let retry_after = status.metadata().get(RETRY_AFTER_MS).and_then(|ms| ms.to_str().ok()?.parse().ok());
        self.unavailable(format!("{message} ({:?})", status.code()), retry_after.unwrap_or(0))
    }

    fn unavailable(&self, message: String, retry_after_ms: u64) -> Failure {
        Failure::Unavailable { server: self.name.clone(), message, retry_after_ms }
    }

    fn leave_alone(&mut self, retry_after_ms: u64) {
        let doubled_ms = AWAY_MS_MIN.saturating_mul(1 << self.failures.min(u64::BITS - 1));
        self.failures = self.failures.saturating_add(1);
        let away_ms = doubled_ms.max(retry_after_ms).min(AWAY_MS_MAX);
        self.away_until = Instant::now() + Duration::from_millis(away_ms);
    }
}

/// What a status says, and what it comes from: of a connection that failed it says nothing itself.
fn explain(status: &Status) -> String {
    let mut message = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    message
}

/// Whether it is the request that is wrong.
fn refuses(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
    )
}
