//! A node that loses its sign of life, and not its window: its session with ZooKeeper expires, its lease in etcd
//! runs out.

use std::time::{Duration, Instant};

use test_servers::Proxy;

use super::look::{assert_handed_over, assert_typed, worker_of};
use super::{Fleet, Kind, figure, size};
use crate::checker::Checker;
use crate::load::Load;
use crate::process::{Serve, until};

/// How long a worker looks alive without a sign of life, in seconds. The window is the default one, of 10 s.
const TTL_S: &str = "2";

/// Clients of the node.
const CLIENTS: u32 = 2;

/// The session expires while the node goes on inside its window. When its servers are back the node gets a new
/// session, and its worker looks alive again.
#[tokio::test(flavor = "multi_thread")]
async fn expired_session_on_zookeeper() {
    expired(Kind::ZooKeeper).await;
}

/// The same with a lease of etcd.
#[tokio::test(flavor = "multi_thread")]
async fn expired_lease_on_etcd() {
    expired(Kind::Etcd).await;
}

/// The session expires, and another node takes the slot.
#[tokio::test(flavor = "multi_thread")]
async fn expired_session_and_a_slot_that_was_taken_on_zookeeper() {
    taken(Kind::ZooKeeper).await;
}

/// The same with a lease of etcd.
#[tokio::test(flavor = "multi_thread")]
async fn expired_lease_and_a_slot_that_was_taken_on_etcd() {
    taken(Kind::Etcd).await;
}

/// Invariants 1 and 2: looking dead costs nothing.
async fn expired(kind: Kind) {
    let fleet = Fleet::start(kind, 1).await;
    let proxy = Proxy::start(fleet.servers.address(0)).await;
    let node = serve(&fleet, "node").set("registry", &fleet.servers.url_at(proxy.addr())).start().await;
    let load = Load::on(node.address(), CLIENTS);
    let worker = node.worker().await;
    let (times, mut back) = (size(2, 20), Vec::new());
    for time in 0..times {
        fresh_window(&fleet, worker).await;
        cut(&proxy, time).await;
        fleet.looks_alive(worker, false).await;
        load.receive(20).await;
        proxy.pass().await;
        let passed_at = Instant::now();
        fleet.looks_alive(worker, true).await;
        back.push(passed_at.elapsed());
    }
    assert!(!node.has_logged("worker slot lost"), "nobody else wanted it");
    let journal = load.finish().await;
    journal.assert_no_failure();
    journal.assert_increasing();
    assert!(journal.receipts.iter().all(|receipt| worker_of(receipt) == worker));
    let mut checker = Checker::default();
    checker.add("node", &journal);
    let (ids, slowest) = (checker.assert_unique(), back.into_iter().max().unwrap());
    figure(
        "expired session",
        format_args!(
            "{kind:?}, {times} times, {ids} IDs, no failed request, no duplicate; looks alive again within \
             {slowest:.1?}"
        ),
    );
    node.stop().await;
}

/// Invariants 1, 3, 10: the other mints above the window of the first, which finds its slot lost as soon as it
/// reaches its registry, and takes another.
async fn taken(kind: Kind) {
    let fleet = Fleet::start(kind, 1).await;
    let mut checker = Checker::default();
    let (times, mut refused, mut slowest) = (size(1, 10), 0, Duration::ZERO);
    for time in 0..times {
        let proxy = Proxy::start(fleet.servers.address(0)).await;
        let (first, second) = (format!("first-{time}"), format!("second-{time}"));
        let mut node =
            serve(&fleet, &first).set("registry", &fleet.servers.url_at(proxy.addr())).start().await;
        let load = Load::on(node.address(), CLIENTS);
        load.receive(100).await;
        let worker = node.worker().await;
        let mut other = serve(&fleet, &second).set("worker", &worker.to_string()).spawn();
        other.serving_without_slot().await;

        fresh_window(&fleet, worker).await;
        cut(&proxy, time).await;
        other.logged("worker slot taken").await;
        load.receive(20).await;
        proxy.pass().await;
        let passed_at = Instant::now();
        node.logged("worker slot lost: the slot was taken over").await;
        load.receive(100).await;
        slowest = slowest.max(passed_at.elapsed());
        assert_ne!(node.worker().await, worker);

        until(|| async { other.get("/api/v1/id").await.status == 200 }, "the other mints").await;
        let other_load = Load::on(other.address(), 1);
        other_load.receive(50).await;
        let (lost_by, taken_by) = (load.finish().await, other_load.finish().await);
        assert_typed(&lost_by.failures);
        refused += lost_by.failures.len();
        assert_handed_over(worker, &lost_by, &taken_by);
        checker.add(&first, &lost_by);
        checker.add(&second, &taken_by);
        other.stop().await;
        node.stop().await;
    }
    let ids = checker.assert_unique();
    figure(
        "expired session, slot taken",
        format_args!(
            "{kind:?}, {times} times, {ids} IDs, {refused} refused, no duplicate; 100 IDs of another slot within \
             {slowest:.1?}"
        ),
    );
}

/// Refuses connections, or lets nothing pass over them: the one and the other in turn.
async fn cut(proxy: &Proxy, time: usize) {
    if time.is_multiple_of(2) { proxy.refuse().await } else { proxy.blackhole().await }
}

/// Waits until a window was extended just now, so that most of it is left.
async fn fresh_window(fleet: &Fleet, worker: u64) {
    let before = fleet.ceilings().await[&worker];
    until(|| async { fleet.ceilings().await[&worker] > before }, "the window is extended").await;
}

fn serve(fleet: &Fleet, name: &str) -> Serve {
    fleet.serve(name).set("lease.ttl_s", TTL_S)
}
