//! The registry loses its quorum for longer than a window lasts.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::probe::{Probe, Sample};
use super::{Fleet, Kind, Loaded, Servers, eventually, figure, percentile, size};
use crate::checker::Checker;
use crate::load::Failure;
use crate::process::PATIENCE;

const NODES: usize = 3;

/// Answers before the fault and after it.
const ANSWERS: usize = 200;

/// The longest a refusal takes.
const REFUSAL: Duration = Duration::from_millis(100);

/// The longest a node takes to mint again once there is a quorum.
const BACK: Duration = Duration::from_secs(2);

/// Two of three servers may take so long to start.
const SERVERS_START: Duration = Duration::from_mins(1);

/// Invariant 8: minting goes on to the ceiling, what follows is a typed refusal at once, and it ends by itself.
#[tokio::test(flavor = "multi_thread")]
async fn quorum_of_etcd_lost_and_back() {
    quorum_lost_and_back(Kind::Etcd).await;
}

/// The same on ZooKeeper.
#[tokio::test(flavor = "multi_thread")]
async fn quorum_of_zookeeper_lost_and_back() {
    quorum_lost_and_back(Kind::ZooKeeper).await;
}

async fn quorum_lost_and_back(kind: Kind) {
    // The small one, too, is longer than the default window, which has told the node by its end that the
    // registry is away.
    let outage = size(Duration::from_secs(12), Duration::from_mins(1));
    let fleet = Fleet::start(kind, 3).await;
    let (mut nodes, mut probes) = (Vec::new(), Vec::new());
    for nth in 0..NODES {
        let name = format!("node-{nth}");
        let node = Loaded::start(fleet.serve(&name), &name, 1).await;
        node.load.receive(ANSWERS).await;
        probes.push(Probe::on(node.node().address()));
        nodes.push(node);
    }

    let leader = fleet.servers.leader().await;
    let gone = [leader, (leader + 1) % 3];
    for server in gone {
        fleet.servers.kill(server);
    }
    let killed = Instant::now();
    let unready = |probe: &Probe| probe.since(killed).is_some_and(|sample| !sample.ready);
    eventually(PATIENCE, "all windows end", async || probes.iter().all(unready)).await;
    sleep(outage.saturating_sub(killed.elapsed())).await;
    let ((), (), quorum) = tokio::join!(
        fleet.servers.restart(gone[0]),
        fleet.servers.restart(gone[1]),
        quorum_is_back(&fleet.servers)
    );
    let minting = |probe: &Probe| probe.since(quorum).is_some_and(|sample| sample.ready);
    eventually(PATIENCE, "all nodes mint again", async || probes.iter().all(minting)).await;
    for node in &nodes {
        node.load.receive(ANSWERS).await;
    }

    let (mut checker, mut seen) = (Checker::default(), Vec::new());
    for (node, probe) in nodes.into_iter().zip(&probes) {
        let failures = node.load.look(|journal| journal.failures.clone());
        node.finish(&mut checker).await;
        seen.push(Seen::check(&probe.samples(), &failures, killed, quorum));
    }
    let ids = checker.assert_unique();
    let worst = |of: fn(&Seen) -> Duration| seen.iter().map(of).max().unwrap();
    figure(
        "quorum",
        format_args!(
            "{kind:?}, {outage:?} without one, {ids} IDs, no duplicate; served for {:.1?} \
             at least, then {} refusals, p99 {:.1?}, slowest {:.1?}; back {:.2?} after the quorum at most",
            seen.iter().map(|seen| seen.served).min().unwrap(),
            seen.iter().map(|seen| seen.refusals).sum::<usize>(),
            worst(|seen| seen.refusal_p99),
            worst(|seen| seen.refusal_slowest),
            worst(|seen| seen.back),
        ),
    );
    // The small size shares its machine with other tests, and their pauses are not the node's.
    let slowest = size(worst(|seen| seen.refusal_p99), worst(|seen| seen.refusal_slowest));
    assert!(slowest <= REFUSAL, "a refusal took {slowest:?}");
    assert!(worst(|seen| seen.back) <= BACK, "minting resumed too late");
}

/// When there is a quorum again, as an independent client finds it.
async fn quorum_is_back(servers: &Servers) -> Instant {
    eventually(SERVERS_START, "the quorum is back", async || servers.healthy().await).await;
    Instant::now()
}

/// What one node did.
struct Seen {
    /// For how long it went on.
    served: Duration,
    refusals: usize,
    refusal_p99: Duration,
    refusal_slowest: Duration,
    /// How long after the quorum it was ready.
    back: Duration,
}

impl Seen {
    fn check(samples: &[Sample], failures: &[Failure], killed: Instant, quorum: Instant) -> Self {
        let away: Vec<&Sample> = samples.iter().filter(|sample| within(sample, killed, quorum)).collect();
        for sample in away.iter().filter(|sample| sample.window_left_ms == 0) {
            assert!(!sample.ready, "/readyz says 200 without a window");
        }
        let told: Vec<u64> =
            away.iter().filter(|sample| !sample.registry).map(|sample| sample.window_left_ms).collect();
        assert!(
            told.is_sorted_by(|earlier, later| earlier >= later),
            "the window is to count down: {told:?}"
        );
        assert_eq!(told.last(), Some(&0), "the window ends");

        // As long as a window is open, and when it is again, nobody is refused.
        let open = away.iter().rfind(|sample| sample.window_left_ms > 0).unwrap().asked;
        let again = samples.iter().find(|sample| sample.asked > open && sample.ready).unwrap();
        for failure in failures {
            assert_eq!((failure.status, failure.code.as_str()), (503, "WORKER_UNAVAILABLE"));
            let answered = failure.asked + failure.took;
            assert!(answered > open && failure.asked < again.answered, "refused with a window: {failure:?}");
        }
        let took: Vec<Duration> = failures.iter().map(|failure| failure.took).collect();
        Self {
            served: open - killed,
            refusals: failures.len(),
            refusal_p99: percentile(took.clone(), 99),
            refusal_slowest: percentile(took, 100),
            back: again.answered.saturating_duration_since(quorum),
        }
    }
}

fn within(sample: &Sample, from: Instant, to: Instant) -> bool {
    sample.asked > from && sample.answered < to
}
