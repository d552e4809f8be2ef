//! What NTP says of the clocks: several servers, asked at once, of which fewer than half can lie.

mod query;
mod select;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde::Serialize;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::reference::Reference;
use super::{CorrectiveAction, NS_PER_MS, ServingClock};
pub use query::QUERY_MS_MAX;
use query::{QueryError, Sample};
use select::{Agreed, Interval, agreement};

/// For how many intervals an answer counts, so that a lost packet or two change nothing.
const ANSWER_INTERVALS: u32 = 3;

/// How long a server that did not want to be asked is left alone, in seconds.
const REFUSED_S: u64 = 600;

/// Asks the servers.
pub struct Monitor {
    clock: Arc<ServingClock>,
    peers: Vec<Peer>,
    interval: Duration,
}

/// A server, and what is known of it.
struct Peer {
    /// As `host:port`.
    server: String,
    sample: Option<Sample>,
    problem: Option<String>,
    /// It is not asked before this moment of the boot clock.
    asked_from_ns: u64,
}

impl Monitor {
    /// Of these servers, each as `host:port`, asked once every `interval`.
    #[must_use]
    pub fn new(clock: Arc<ServingClock>, servers: &[String], interval: Duration) -> Self {
        Self { clock, peers: servers.iter().map(|server| Peer::new(server)).collect(), interval }
    }

    /// Until `stop`: asks, tells the clock, and then `on_round`. A leap of the wall clock is asked after at once.
    pub async fn run(mut self, mut on_round: impl FnMut(&Status), stop: CancellationToken) {
        let unasked = self.judge();
        self.clock.set_ntp(Arc::new(unasked));
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let rounds = async {
            loop {
                tokio::select! { _ = ticks.tick() => {}, () = self.clock.leapt() => {} }
                let status = Arc::new(self.round().await);
                self.clock.set_ntp(Arc::clone(&status));
                on_round(&status);
            }
        };
        stop.run_until_cancelled(rounds).await;
    }

    async fn round(&mut self) -> Status {
        let time = self.clock.time_source();
        let now_ns = time.boot_ns();
        join_all(self.peers.iter_mut().filter(|peer| peer.asked_from_ns <= now_ns).map(async |peer| {
            peer.take(query::ask(&peer.server, &*time).await, time.boot_ns());
        }))
        .await;
        self.judge()
    }

    /// What the answers come to.
    fn judge(&mut self) -> Status {
        let now = self.clock.sample();
        let age_ns_max = u64::try_from((self.interval * ANSWER_INTERVALS).as_nanos()).unwrap_or(u64::MAX);
        for peer in &mut self.peers {
            peer.sample =
                peer.sample.filter(|sample| now.boot_ns.saturating_sub(sample.boot_ns) <= age_ns_max);
        }
        let interval = |peer: &Peer| peer.sample.map(|sample| at(&sample, now.boot_ns));
        let answers: Vec<_> =
            self.peers.iter().enumerate().filter_map(|(nth, peer)| Some((nth, interval(peer)?))).collect();
        // Of those that are configured, not of those that answer: a liar does not win by outlasting the others.
        let majority = self.peers.len() / 2 + 1;
        let agreed = agreement(&answers, majority);
        let server = |peer: &Peer| ServerStatus::new(peer, interval(peer), agreed.as_ref(), now.wall_ns);
        let servers = self.peers.iter().map(server).collect();
        Status {
            agreed: agreed.as_ref().map(|agreed| self.believe(agreed, now.boot_ns, now.wall_ns)),
            reason: agreed.is_none().then(|| {
                let answered = answers.len();
                let (asked, agree) = (self.peers.len(), if answered < majority { "answer" } else { "agree" });
                format!("fewer than {majority} of the {asked} NTP servers {agree}")
            }),
            servers,
        }
    }

    fn believe(&self, agreed: &Agreed, now_ns: u64, wall_ns: i128) -> Measurement {
        let Interval { time_ns, error_ns } = agreed.interval;
        let samples = self.peers.iter().filter_map(|peer| peer.sample);
        let counted = samples.filter(|sample| agreed.admits(&at(sample, now_ns)));
        // As old as the oldest answer in it: what happened since is not in it.
        let boot_ns = counted.map(|sample| sample.boot_ns).min().unwrap_or(now_ns);
        let then_ns = time_ns - i128::from(now_ns.saturating_sub(boot_ns));
        let action = self.clock.refer(Reference { boot_ns, time_ns: then_ns, error_ns });
        let source = &self.peers[agreed.source];
        Measurement {
            server: source.server.clone(),
            stratum: source.sample.map_or(0, |sample| sample.stratum),
            wall_ms: unix_ms(wall_ns),
            ntp_ms: unix_ms(time_ns),
            drift_ms: ms(wall_ns - time_ns),
            error_ms: ms(error_ns),
            action,
        }
    }
}

impl Peer {
    fn new(server: &str) -> Self {
        let problem = Some("it was not asked yet".to_owned());
        Self { server: server.to_owned(), sample: None, problem, asked_from_ns: 0 }
    }

    fn take(&mut self, answer: Result<Sample, QueryError>, now_ns: u64) {
        match answer {
            Ok(sample) => (self.sample, self.problem) = (Some(sample), None),
            Err(error) => {
                if matches!(error, QueryError::Refused(_)) {
                    self.asked_from_ns = now_ns.saturating_add(REFUSED_S * 1000 * NS_PER_MS);
                }
                self.problem = Some(error.to_string());
            }
        }
    }
}

/// What a sample says later.
fn at(sample: &Sample, boot_ns: u64) -> Interval {
    let Sample { boot_ns: then_ns, time_ns, error_ns, .. } = *sample;
    let (time_ns, error_ns) = Reference { boot_ns: then_ns, time_ns, error_ns: error_ns.into() }.at(boot_ns);
    Interval { time_ns, error_ns }
}

/// What NTP says, after each time that it was asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// What the majority of the servers agrees on.
    pub agreed: Option<Measurement>,
    /// Why there is no such thing.
    pub reason: Option<String>,
    /// What each of them says.
    pub servers: Vec<ServerStatus>,
}

impl Status {
    /// The servers that a majority of the others contradicts.
    pub fn falsetickers(&self) -> impl Iterator<Item = &str> {
        self.servers
            .iter()
            .filter(|server| server.state == ServerState::Falseticker)
            .map(|server| server.server.as_str())
    }
}

/// The clocks against NTP.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// Whose time it is, the median of those that agree, as `host:port`.
    pub server: String,
    /// How far that server is from a reference clock.
    pub stratum: u8,
    /// What the wall clock said, in Unix milliseconds.
    pub wall_ms: u64,
    /// What NTP said, in Unix milliseconds.
    pub ntp_ms: u64,
    /// How far the wall clock is ahead of NTP, in milliseconds.
    pub drift_ms: f64,
    /// How far NTP may be off, in milliseconds.
    pub error_ms: f64,
    /// What the serving clock does about it.
    pub action: CorrectiveAction,
}

impl Measurement {
    /// Whether the wall clock is off by more than this, and not only by what NTP may be off itself.
    #[must_use]
    pub fn is_beyond(&self, threshold_ms: u64) -> bool {
        is_beyond(self.drift_ms, self.error_ms, threshold_ms)
    }
}

/// Whether a drift that is known so well is more than a threshold.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "thresholds are small")]
pub(crate) fn is_beyond(drift_ms: f64, error_ms: f64, threshold_ms: u64) -> bool {
    drift_ms.abs() > error_ms.max(threshold_ms as f64)
}

/// What is known of a server.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ServerStatus {
    /// As `host:port`.
    pub server: String,
    /// What to think of it.
    pub state: ServerState,
    /// How far it is from a reference clock.
    pub stratum: Option<u8>,
    /// How far the wall clock is ahead of it.
    pub offset_ms: Option<f64>,
    /// How far that may be off.
    pub error_ms: Option<f64>,
    /// Why it did not answer when it was last asked.
    pub problem: Option<String>,
}

impl ServerStatus {
    fn new(peer: &Peer, interval: Option<Interval>, agreed: Option<&Agreed>, wall_ns: i128) -> Self {
        let state = match (&interval, agreed) {
            (None, _) => ServerState::Unavailable,
            (Some(_), None) => ServerState::Undecided,
            (Some(interval), Some(agreed)) if agreed.admits(interval) => ServerState::Agrees,
            (Some(_), Some(_)) => ServerState::Falseticker,
        };
        Self {
            server: peer.server.clone(),
            state,
            stratum: peer.sample.map(|sample| sample.stratum),
            offset_ms: interval.map(|interval| ms(wall_ns - interval.time_ns)),
            error_ms: interval.map(|interval| ms(interval.error_ns)),
            problem: peer.problem.clone(),
        }
    }
}

/// What to think of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ServerState {
    /// The majority agrees with it.
    Agrees,
    /// The majority agrees, and contradicts it.
    Falseticker,
    /// It answers, and there is no majority to tell whether it is right.
    Undecided,
    /// It does not answer, or not with a time that is of use.
    Unavailable,
}

impl ServerState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Agrees, Self::Falseticker, Self::Undecided, Self::Unavailable];

    /// Its name in `/health` and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agrees => "agrees",
            Self::Falseticker => "falseticker",
            Self::Undecided => "undecided",
            Self::Unavailable => "unavailable",
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown, and compared with whole milliseconds")]
pub(super) fn ms(ns: i128) -> f64 {
    // Whole microseconds: what is below them says nothing.
    (ns / 1_000) as f64 / 1e3
}

fn unix_ms(ns: i128) -> u64 {
    u64::try_from(ns.max(0) / i128::from(NS_PER_MS)).unwrap_or(u64::MAX)
}
