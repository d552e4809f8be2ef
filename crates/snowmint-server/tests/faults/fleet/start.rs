//! Many nodes that start at once, and the one for which there is no slot.

use std::collections::BTreeSet;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::Value;

use super::{Fleet, Kind, eventually, figure, percentile, size, taste};
use crate::checker::Checker;
use crate::load::Load;
use crate::process::{Node, PATIENCE, STOP};

/// Answers that each of many nodes gives.
const ANSWERS: usize = 4;

/// Invariant 1: nodes that start at once on an empty registry get as many slots.
#[tokio::test(flavor = "multi_thread")]
async fn many_nodes_at_once_on_an_empty_etcd() {
    many_nodes_at_once(Kind::Etcd).await;
}

/// The same on ZooKeeper.
#[tokio::test(flavor = "multi_thread")]
async fn many_nodes_at_once_on_an_empty_zookeeper() {
    many_nodes_at_once(Kind::ZooKeeper).await;
}

async fn many_nodes_at_once(kind: Kind) {
    let (rounds, nodes) = size((1, 16), (20, 50));
    let fleet = Fleet::start(kind, 1).await;
    let (mut took, mut ids) = (Vec::new(), 0);
    for round in 0..rounds {
        let registry = fleet.servers.empty(round).await;
        let serve = |nth: usize| {
            let name = format!("node-{round}-{nth}");
            let datacenter = (nth % 2).to_string();
            fleet.serve(&name).set("registry", &registry).set("datacenter", &datacenter).spawn()
        };
        let started = Instant::now();
        let mut started_nodes: Vec<Node> = (0..nodes).map(serve).collect();
        for node in &mut started_nodes {
            node.serving().await;
        }
        took.push(started.elapsed());
        assert_distinct_slots(&started_nodes).await;
        ids += unique_ids(&started_nodes).await;
    }
    figure(
        "start",
        format_args!(
            "{kind:?}, {rounds} times {nodes} nodes at once on an empty registry: as many slots, all serve after {:.1?} \
             at the median, {:.1?} at most; {ids} IDs, no duplicate",
            percentile(took.clone(), 50),
            percentile(took, 100),
        ),
    );
}

/// No two have the same slot, and each datacenter has half of them.
async fn assert_distinct_slots(nodes: &[Node]) {
    let mut slots = BTreeSet::new();
    for node in nodes {
        let health = node.get_json("/api/v1/health").await;
        slots.insert((health["datacenter_id"].as_u64().unwrap(), health["worker_id"].as_u64().unwrap()));
    }
    let in_first = slots.iter().filter(|(datacenter, _)| *datacenter == 0).count();
    assert_eq!((slots.len(), in_first), (nodes.len(), nodes.len() / 2), "{slots:?}");
}

/// All mint at once. Says how many IDs that were.
async fn unique_ids(nodes: &[Node]) -> u64 {
    let loads: Vec<Load> = nodes.iter().map(|node| Load::on(node.address(), 1)).collect();
    let mut checker = Checker::default();
    for (nth, load) in loads.into_iter().enumerate() {
        load.receive(ANSWERS).await;
        checker.add(&format!("node {nth}"), &load.finish().await);
    }
    checker.assert_unique()
}

/// The node for which there is no slot says who holds which, and when the next comes free; with
/// `lease.reuse_cooling` it does not have to wait that long.
#[tokio::test(flavor = "multi_thread")]
async fn one_node_too_many_is_told_why_on_etcd() {
    one_node_too_many(Kind::Etcd).await;
}

/// The same on ZooKeeper.
#[tokio::test(flavor = "multi_thread")]
async fn one_node_too_many_is_told_why_on_zookeeper() {
    one_node_too_many(Kind::ZooKeeper).await;
}

async fn one_node_too_many(kind: Kind) {
    let (layout, workers, window_ms) = size(("44/5/2/12", 4, "2000"), ("41/5/5/12", 32, "10000"));
    let fleet = Fleet::start(kind, 1).await;
    let serve = |name: &str| fleet.serve(name).set("id.layout", layout).set("lease.window_ms", window_ms);
    let mut checker = Checker::default();
    let mut holders = Vec::new();
    for nth in 0..workers {
        let name = format!("node-{nth}");
        let node = serve(&name).start().await;
        taste(&node, &name, &mut checker).await;
        holders.push((node.worker().await, name, node));
    }
    holders.sort_by_key(|(worker, ..)| *worker);

    let mut late = serve("late").spawn();
    late.serving_without_slot().await;
    let none_free = format!(
        "no worker slot is free in datacenter 0: of {workers}, {workers} are held ({}), 0 are kept for the nodes \
         that gave them back",
        list(&holders)
    );
    late.logged(&format!("no worker slot: {none_free}\"")).await;
    refuses(&late, &none_free).await;

    let (worker, name, mut stopped) = holders.remove(1);
    stopped.signal(Signal::TERM);
    assert_eq!(stopped.ended(STOP).await, Some(0));
    let status = fleet.status().await;
    let retired = &status["retired_workers"][0];
    assert_eq!((retired["worker_id"].as_u64(), retired["node"].as_str()), (Some(worker), Some(&*name)));
    let one_cools_down = format!(
        "no worker slot is free in datacenter 0: of {workers}, {} are held ({}), 1 are kept for the nodes that gave \
         them back ({worker} for {name}); the next comes free at {}",
        holders.len(),
        list(&holders),
        retired["reuse_after"].as_str().unwrap()
    );
    late.logged(&format!("no worker slot: {one_cools_down}\"")).await;
    refuses(&late, &one_cools_down).await;

    let ended = Instant::now();
    let hasty = serve("hasty").set("lease.reuse_cooling", "true").start().await;
    let waited = ended.elapsed();
    assert_eq!(hasty.worker().await, worker);
    taste(&hasty, "hasty", &mut checker).await;
    assert_eq!(late.get("/api/v1/id").await.status, 503);
    figure(
        "no slot",
        format_args!(
            "{kind:?}, one node more than {workers} workers: {none_free}; with lease.reuse_cooling a slot was had \
             {waited:.1?} after it was given back; {} IDs, no duplicate",
            checker.assert_unique()
        ),
    );
}

fn list(holders: &[(u64, String, Node)]) -> String {
    let holders: Vec<String> =
        holders.iter().map(|(worker, name, _)| format!("{worker} by {name}")).collect();
    holders.join(", ")
}

/// A request is refused with this reason, and so is the question whether the node is ready.
async fn refuses(node: &Node, reason: &str) {
    let says_so = async || {
        let (refusal, ready) = (node.get("/api/v1/id").await, node.get("/readyz").await);
        let body: Value = serde_json::from_str(&refusal.body).unwrap();
        let message = body["error"]["message"].as_str().unwrap().to_owned();
        assert_eq!((refusal.status, ready.status), (503, 503));
        assert_eq!(body["error"]["code"], "WORKER_UNAVAILABLE");
        message.ends_with(reason) && ready.body.trim_end().ends_with(reason)
    };
    eventually(PATIENCE, reason, says_so).await;
}
