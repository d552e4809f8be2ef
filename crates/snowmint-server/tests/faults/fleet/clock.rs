//! The wall clock of a node is ten minutes off when it comes back.

use std::collections::BTreeMap;
use std::time::Duration;

use super::look::{assert_typed, worker_of};
use super::{Fleet, Kind, figure, size};
use crate::checker::Checker;
use crate::clock::WallClock;
use crate::load::Load;
use crate::process::{Node, Serve};

/// The clocks of a node's lives, each in seconds from the true time. Every step is of ten minutes.
const CLOCKS: [&str; 6] = ["+0", "-600", "+0", "+600", "+0", "-600"];

/// Late enough for a window that a clock ten minutes ahead has claimed.
const LATER: &str = "+660";

/// Clients of a node.
const CLIENTS: u32 = 2;

/// Answers in each of its lives.
const ANSWERS: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// SIGKILL: the slot is not given back, and still looks alive.
    Kill,
    /// SIGTERM: the slot is given back at the time that the node's clock has.
    Stop,
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_10_minutes_off_after_kill_9_on_etcd() {
    lives(Kind::Etcd, End::Kill).await;
}

/// The same on ZooKeeper.
#[tokio::test(flavor = "multi_thread")]
async fn clock_10_minutes_off_after_kill_9_on_zookeeper() {
    lives(Kind::ZooKeeper, End::Kill).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_10_minutes_off_after_a_stop_on_etcd() {
    lives(Kind::Etcd, End::Stop).await;
}

/// The same on ZooKeeper.
#[tokio::test(flavor = "multi_thread")]
async fn clock_10_minutes_off_after_a_stop_on_zookeeper() {
    lives(Kind::ZooKeeper, End::Stop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_10_minutes_ahead_and_the_nodes_after_it_on_etcd() {
    ahead(Kind::Etcd).await;
}

/// The same on ZooKeeper.
#[tokio::test(flavor = "multi_thread")]
async fn clock_10_minutes_ahead_and_the_nodes_after_it_on_zookeeper() {
    ahead(Kind::ZooKeeper).await;
}

/// Invariants 1 and 3: whatever the clock of its life, a node mints above the ceiling that its slot had before,
/// and does not wait where that is ten minutes away: other slots are free.
async fn lives(kind: Kind, end: End) {
    let fleet = Fleet::start(kind, 1).await;
    let load = Load::start(CLIENTS);
    let clocks: Vec<_> = CLOCKS.into_iter().cycle().take(size(CLOCKS.len(), 5 * CLOCKS.len())).collect();
    let mut before = BTreeMap::new();
    let (mut workers, mut slowest) = (Vec::new(), Duration::ZERO);
    for clock in &clocks {
        let received = load.look(|journal| journal.receipts.len());
        let node = WallClock::new(clock).of(serve(&fleet)).start().await;
        slowest = slowest.max(node.started.elapsed());
        load.aim(node.address());
        load.receive(ANSWERS).await;
        load.lower();
        let worker = node.worker().await;
        load.look(|journal| {
            let ceiling = before.get(&worker).copied().unwrap_or(0u64);
            for receipt in &journal.receipts[received..] {
                assert_eq!(worker_of(receipt), worker);
                assert!(receipt.first >= ceiling, "{receipt:?} is below {ceiling}");
            }
        });
        workers.push(worker);
        match end {
            End::Kill => node.kill(),
            End::Stop => node.stop().await,
        }
        let after = fleet.ceilings().await;
        assert!(before.iter().all(|(worker, ceiling)| after[worker] >= *ceiling), "{before:?}, {after:?}");
        before = after;
    }
    for life in 1..clocks.len() {
        let back = clocks[life - 1].parse::<i32>().unwrap() > clocks[life].parse().unwrap();
        let same = workers[life - 1] == workers[life];
        assert!(!back || !same, "with its clock set back, life {life} took the slot before: {workers:?}");
    }
    let journal = load.finish().await;
    assert_typed(&journal.failures);
    let mut checker = Checker::default();
    checker.add("node", &journal);
    let ids = checker.assert_unique();
    figure(
        &format!("clock steps of 10 min, {end:?}"),
        format_args!(
            "{kind:?}, {} lives on workers {workers:?}, {ids} IDs, {} failed requests, no duplicate; a slot within \
             {slowest:.1?} of a start",
            clocks.len(),
            journal.failures.len()
        ),
    );
}

/// Invariants 1, 3, 8: a slot whose window was claimed by a clock ten minutes ahead is refused to right clocks,
/// which get others, and comes free when it is reached.
async fn ahead(kind: Kind) {
    let fleet = Fleet::start(kind, 1).await;
    let load = Load::start(CLIENTS);
    let node = WallClock::new("+600").of(serve(&fleet)).start().await;
    receive(&load, &node).await;
    let worker = node.worker().await;
    node.kill();
    let ceiling = fleet.ceilings().await[&worker];

    for name in ["node", "other"] {
        let node = fleet.serve(name).set("lease.ttl_s", "2").start().await;
        receive(&load, &node).await;
        assert_ne!(node.worker().await, worker);
        node.stop().await;
    }

    let mut refused = serve(&fleet).set("worker", &worker.to_string()).spawn();
    refused.serving_without_slot().await;
    let refusal = refused.get("/api/v1/id").await;
    assert_eq!(refusal.status, 503, "{}", refusal.body);
    assert!(refusal.body.contains("WORKER_UNAVAILABLE"), "{}", refusal.body);
    refused.stop().await;
    assert_eq!(fleet.ceilings().await[&worker], ceiling);

    let later = serve(&fleet).set("worker", &worker.to_string());
    let node = WallClock::new(LATER).of(later).start().await;
    let received = load.look(|journal| journal.receipts.len());
    receive(&load, &node).await;
    load.look(|journal| assert!(journal.receipts[received..].iter().all(|receipt| receipt.first >= ceiling)));
    node.kill();

    let journal = load.finish().await;
    assert_typed(&journal.failures);
    let mut checker = Checker::default();
    checker.add("nodes", &journal);
    let ids = checker.assert_unique();
    figure("clock 10 min ahead", format_args!("{kind:?}, 4 nodes, {ids} IDs, no duplicate"));
}

/// Receives some IDs.
async fn receive(load: &Load, node: &Node) {
    load.aim(node.address());
    load.receive(ANSWERS).await;
    load.lower();
}

/// The node, in any of its lives.
fn serve(fleet: &Fleet) -> Serve {
    fleet.serve("node").set("lease.ttl_s", "2")
}
