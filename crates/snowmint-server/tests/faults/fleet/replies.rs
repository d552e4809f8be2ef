//! A network that loses replies: what a node asked its registry for is done, and the node is not told.

use std::time::{Duration, Instant};

use test_servers::Proxy;
use tokio::time::{sleep, timeout};

use super::look::worker_of;
use super::{Fleet, Kind, figure, size};
use crate::checker::Checker;
use crate::load::Load;
use crate::process::{Node, PATIENCE, until};

/// What a request says that changes a window, and no other does.
pub const SWAP: &str = "ceiling_time";

/// For how long a fault lasts: a call to a registry takes 2.5 s at most.
const SHORTER: Duration = Duration::from_secs(1);
const LONGER: Duration = Duration::from_secs(3);

/// Clients of the node.
const CLIENTS: u32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The next change of the window is made, and neither that nor anything after it is replied to.
    SwallowReplies,
    /// Nothing passes.
    Blackhole,
    /// There are no connections.
    Refuse,
}

/// Invariants 1 and 9: a node whose extension took effect without its knowledge finds its own record, and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn swallowed_replies_on_etcd() {
    lost(Kind::Etcd, Fault::SwallowReplies).await;
}

/// The same on ZooKeeper.
#[tokio::test(flavor = "multi_thread")]
async fn swallowed_replies_on_zookeeper() {
    lost(Kind::ZooKeeper, Fault::SwallowReplies).await;
}

/// Connections stand, and nothing passes.
#[tokio::test(flavor = "multi_thread")]
async fn black_holes_on_etcd() {
    lost(Kind::Etcd, Fault::Blackhole).await;
}

/// The same on ZooKeeper.
#[tokio::test(flavor = "multi_thread")]
async fn black_holes_on_zookeeper() {
    lost(Kind::ZooKeeper, Fault::Blackhole).await;
}

/// Connections are refused.
#[tokio::test(flavor = "multi_thread")]
async fn refused_connections_on_etcd() {
    lost(Kind::Etcd, Fault::Refuse).await;
}

/// The same on ZooKeeper.
#[tokio::test(flavor = "multi_thread")]
async fn refused_connections_on_zookeeper() {
    lost(Kind::ZooKeeper, Fault::Refuse).await;
}

/// A claim that took effect without its node's knowledge.
#[tokio::test(flavor = "multi_thread")]
async fn swallowed_replies_to_a_claim_on_etcd() {
    lost_claims(Kind::Etcd).await;
}

/// The same on ZooKeeper.
#[tokio::test(flavor = "multi_thread")]
async fn swallowed_replies_to_a_claim_on_zookeeper() {
    lost_claims(Kind::ZooKeeper).await;
}

/// At the default window no fault of a few seconds costs a request, or the slot.
async fn lost(kind: Kind, fault: Fault) {
    let fleet = Fleet::start(kind, 1).await;
    let proxy = Proxy::start(fleet.servers.address(0)).await;
    let serve = fleet.serve("node").set("registry", &fleet.servers.url_at(proxy.addr()));
    let node = serve.start().await;
    let load = Load::on(node.address(), CLIENTS);
    let worker = node.worker().await;
    let times = if fault == Fault::SwallowReplies { size(3, 20) } else { size(2, 20) };
    let mut least_ms = u64::MAX;
    for hold in [LONGER, SHORTER].into_iter().cycle().take(times) {
        match fault {
            Fault::SwallowReplies => {
                proxy.swallow_replies_to(SWAP).await;
                timeout(PATIENCE, proxy.swallowing()).await.expect("the node extends its window");
            }
            Fault::Blackhole => proxy.blackhole().await,
            Fault::Refuse => proxy.refuse().await,
        }
        sleep(hold).await;
        let ceiling = fleet.ceilings().await[&worker];
        least_ms = least_ms.min(window_left_ms(&node).await);
        proxy.pass().await;
        until(|| async { fleet.ceilings().await[&worker] > ceiling }, "the window is extended").await;
        until(|| registry_answers(&node), "the node knows").await;
        load.receive(50).await;
    }
    assert!(!node.has_logged("worker slot lost"), "nobody else wanted it");
    let journal = load.finish().await;
    journal.assert_no_failure();
    journal.assert_increasing();
    assert!(journal.receipts.iter().all(|receipt| worker_of(receipt) == worker));
    let mut checker = Checker::default();
    checker.add("node", &journal);
    let ids = checker.assert_unique();
    figure(
        &format!("{fault:?}"),
        format_args!(
            "{kind:?}, {times} times, {ids} IDs, no failed request, no duplicate; at least {least_ms} ms of window left"
        ),
    );
    node.stop().await;
}

/// Invariants 1 and 9: whatever became of its claims, the node has one slot in the end.
async fn lost_claims(kind: Kind) {
    let fleet = Fleet::start(kind, 1).await;
    let proxy = Proxy::start(fleet.servers.address(0)).await;
    let mut checker = Checker::default();
    let (times, mut slowest) = (size(3, 20), Duration::ZERO);
    for (life, hold) in [LONGER, SHORTER].into_iter().cycle().take(times).enumerate() {
        proxy.swallow_replies_to(SWAP).await;
        let serve = fleet.serve("node").set("registry", &fleet.servers.url_at(proxy.addr()));
        let mut node = serve.set("lease.ttl_s", "2").spawn();
        timeout(PATIENCE, proxy.swallowing()).await.expect("the node claims a slot");
        sleep(hold).await;
        proxy.pass().await;
        let passed_at = Instant::now();
        node.serving().await;
        let load = Load::on(node.address(), CLIENTS);
        load.receive(100).await;
        slowest = slowest.max(passed_at.elapsed());
        let worker = node.worker().await;
        until(|| async { fleet.alive().await.into_keys().eq([worker]) }, "it has one slot").await;
        let journal = load.finish().await;
        journal.assert_no_failure();
        checker.add(&format!("life {life}"), &journal);
        node.kill();
    }
    let ids = checker.assert_unique();
    figure(
        "SwallowReplies, to a claim",
        format_args!(
            "{kind:?}, {times} times, {ids} IDs, no duplicate; 100 IDs within {slowest:.1?} of the end of it"
        ),
    );
}

async fn window_left_ms(node: &Node) -> u64 {
    node.get_json("/api/v1/health").await["window_left_ms"].as_u64().unwrap()
}

async fn registry_answers(node: &Node) -> bool {
    node.get_json("/api/v1/health").await["registry"]["status"] == "available"
}
