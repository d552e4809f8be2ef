//! Nodes that are stopped while others take their slots over, and wake up believing that nothing has happened.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::sleep;

use super::{Fleet, Kind, Loaded, eventually, figure, size, slot_of};
use crate::checker::Checker;
use crate::load::{Journal, Receipt};

/// Answers of a node before it is stopped, while it is, of its taker, and after it.
const ANSWERS: usize = 100;

/// How much longer than its time to live a worker may look alive.
const SLACK: Duration = Duration::from_secs(30);

/// How long nodes are stopped, and how.
struct Pauses {
    /// So many at once, so many times.
    nodes: usize,
    batches: usize,
    ttl: Duration,
    window_ms: u64,
    /// The shortest a node is stopped.
    length: Duration,
}

/// Invariants 2, 3 and 10: a node that wakes up mints nothing on a slot that was taken over meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn sigstop_and_the_slot_is_taken_over_on_etcd() {
    sigstop_and_the_slot_is_taken_over(Kind::Etcd).await;
}

/// The same on ZooKeeper.
#[tokio::test(flavor = "multi_thread")]
async fn sigstop_and_the_slot_is_taken_over_on_zookeeper() {
    sigstop_and_the_slot_is_taken_over(Kind::ZooKeeper).await;
}

async fn sigstop_and_the_slot_is_taken_over(kind: Kind) {
    let pauses = size(
        Pauses {
            nodes: 2,
            batches: 1,
            ttl: Duration::from_secs(2),
            window_ms: 2_000,
            length: Duration::ZERO,
        },
        Pauses {
            nodes: 5,
            batches: 4,
            ttl: Duration::from_secs(30),
            window_ms: 10_000,
            length: Duration::from_secs(40),
        },
    );
    let fleet = Fleet::start(kind, 1).await;
    let mut checker = Checker::default();
    let mut recovered = Vec::new();
    for batch in 0..pauses.batches {
        recovered.extend(pause_some(&fleet, &pauses, batch, &mut checker).await);
    }
    let (count, ids) = (recovered.len(), checker.assert_unique());
    figure(
        "SIGSTOP",
        format_args!(
            "{kind:?}, {count} nodes stopped for {:.0?} at least, their slots taken over meanwhile; {ids} IDs, no \
             duplicate, none past the old ceiling; minting on another slot {:.2?} after waking up at most",
            recovered.iter().map(|(stopped, _)| *stopped).min().unwrap(),
            recovered.iter().map(|(_, back)| *back).max().unwrap(),
        ),
    );
}

/// Stops some nodes, has others take their slots, and lets them go on. How long each was stopped, and how long
/// it took from then on until it minted on another slot.
async fn pause_some(
    fleet: &Fleet,
    pauses: &Pauses,
    batch: usize,
    checker: &mut Checker,
) -> Vec<(Duration, Duration)> {
    let serve = |name: &str| {
        let (ttl_s, window_ms) = (pauses.ttl.as_secs().to_string(), pauses.window_ms.to_string());
        fleet.serve(name).set("lease.ttl_s", &ttl_s).set("lease.window_ms", &window_ms)
    };
    let (mut sleepers, mut takers) = (Vec::new(), Vec::new());
    for nth in 0..pauses.nodes {
        let name = format!("paused-{batch}-{nth}");
        let node = Loaded::start(serve(&name), &name, 1).await;
        node.load.receive(ANSWERS).await;
        let worker = node.node().worker().await;
        sleepers.push((worker, node));
    }
    for (_, node) in &sleepers {
        node.node().pause();
    }
    let stopped = Instant::now();
    let ceilings = ceilings_of_the_dead(fleet, &sleepers, pauses.ttl).await;
    for (worker, node) in &sleepers {
        let name = format!("taker-of-{}", node.name);
        let taker = Loaded::start(serve(&name).set("worker", &worker.to_string()), &name, 1).await;
        taker.load.receive(ANSWERS).await;
        takers.push(taker);
    }
    sleep(pauses.length.saturating_sub(stopped.elapsed())).await;

    let (stopped, resumed) = (stopped.elapsed(), Instant::now());
    for (_, node) in &sleepers {
        node.node().resume();
    }
    let mut recovered = Vec::new();
    for (worker, mut node) in sleepers {
        node.node.as_mut().unwrap().logged("worker slot lost").await;
        eventually(SLACK, "another slot", async || has_another_slot(&node, worker).await).await;
        recovered.push((stopped, resumed.elapsed()));
        node.load.receive(ANSWERS).await;
        node.load.look(|journal| assert_fenced(journal, worker, ceilings[&worker]));
        node.finish(checker).await;
    }
    for taker in takers {
        taker.load.receive(ANSWERS).await;
        taker.finish(checker).await;
    }
    recovered
}

/// Waits until nobody looks alive on the slots any more, and reads their ceilings: what a stopped node had
/// sent before it was stopped has arrived by then.
async fn ceilings_of_the_dead(fleet: &Fleet, paused: &[(u64, Loaded)], ttl: Duration) -> BTreeMap<u64, u64> {
    let mut ceilings = BTreeMap::new();
    let what = "the stopped nodes look dead, and their windows are over";
    eventually(ttl + SLACK, what, async || {
        let status = fleet.status().await;
        let windows = status["windows"].as_array().unwrap().iter();
        let dead = |window: &&Value| window["held"] == false && window["window_left_ms"] == 0;
        let dead = windows
            .filter(dead)
            .map(|window| (window["worker_id"].as_u64().unwrap(), window["ceiling"].as_u64().unwrap()));
        ceilings = dead.collect();
        paused.iter().all(|(worker, _)| ceilings.contains_key(worker))
    })
    .await;
    ceilings
}

async fn has_another_slot(node: &Loaded, old_worker: u64) -> bool {
    let health: Value = serde_json::from_str(&node.node().get("/api/v1/health").await.body).unwrap();
    health["worker_id"].as_u64().is_some_and(|worker| worker != old_worker)
}

/// No ID of the old slot is at or above the ceiling that the node had.
fn assert_fenced(journal: &Journal, old_worker: u64, ceiling: u64) {
    let (old, new): (Vec<&Receipt>, Vec<_>) =
        journal.receipts.iter().partition(|receipt| u64::from(slot_of(receipt.first).worker) == old_worker);
    assert!(!old.is_empty() && !new.is_empty(), "it minted on both slots");
    for receipt in old {
        assert!(receipt.last() < ceiling, "{receipt:?} is past the ceiling {ceiling}");
    }
}
