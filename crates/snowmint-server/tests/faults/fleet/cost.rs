//! What holding slots costs the registry, and what its absence costs a request.

use std::time::Duration;

use tokio::time::sleep;

use super::{Fleet, Kind, Loaded, eventually, figure, percentile, size};
use crate::checker::Checker;
use crate::process::PATIENCE;

const NODES: u32 = 4;

/// Of these, so many are asked for IDs.
const NODES_LOADED: u32 = 2;

/// Answers before anything is measured.
const ANSWERS: usize = 100;

/// An outage that is shorter than what is left of a default window when it begins.
const OUTAGE: Duration = Duration::from_secs(3);

/// A node of which more of its window than this is left has just extended it.
const EXTENDED_MS: u64 = 9_000;

/// An extension a third of a window is what holding a slot costs: as many writes a node and second as a
/// window has thirds a second, and a few for what begins.
const WRITES_A_SECOND_MAX: f64 = 0.6;

/// Registry writes at the default window, and how long requests take with and without the registry.
#[tokio::test(flavor = "multi_thread")]
async fn cost_on_etcd() {
    cost(Kind::Etcd).await;
}

/// The same on ZooKeeper.
#[tokio::test(flavor = "multi_thread")]
async fn cost_on_zookeeper() {
    cost(Kind::ZooKeeper).await;
}

async fn cost(kind: Kind) {
    let (length, outages) = size((Duration::from_secs(7), 1), (Duration::from_mins(1), 10));
    let fleet = Fleet::start(kind, 1).await;
    let mut nodes = Vec::new();
    for nth in 0..NODES {
        let name = format!("node-{nth}");
        let clients = if nth < NODES_LOADED { 2 } else { 0 };
        nodes.push(Loaded::start(fleet.serve(&name), &name, clients).await);
    }
    for (node, _) in nodes.iter().zip(0..NODES_LOADED) {
        node.load.receive(ANSWERS).await;
    }

    let (marks, writes) = (marks(&nodes), fleet.servers.writes().await);
    sleep(length).await;
    let writes = fleet.servers.writes().await - writes;
    let with = since(&nodes, &marks);
    let mut without = Vec::new();
    for _ in 0..outages {
        fleet.servers.kill(0);
        let (marks, failed) = (self::marks(&nodes), failures(&nodes));
        sleep(OUTAGE).await;
        without.extend(since(&nodes, &marks));
        assert_eq!(failures(&nodes), failed, "requests that failed within the window");
        fleet.servers.restart(0).await;
        for node in &nodes {
            eventually(PATIENCE, "its window is extended", async || extended(node).await).await;
        }
    }

    let mut checker = Checker::default();
    for node in nodes {
        node.finish(&mut checker).await;
    }
    let ids = checker.assert_unique();
    let a_second = f64::from(u32::try_from(writes).unwrap()) / length.as_secs_f64() / f64::from(NODES);
    figure(
        "cost",
        format_args!(
            "{kind:?}, {a_second:.2} registry writes a node and second; a request with the registry: p50 {:.2?}, p99 \
             {:.2?} (of {}); without it: p50 {:.2?}, p99 {:.2?} (of {}); {ids} IDs, no duplicate",
            percentile(with.clone(), 50),
            percentile(with.clone(), 99),
            with.len(),
            percentile(without.clone(), 50),
            percentile(without.clone(), 99),
            without.len(),
        ),
    );
    assert!(a_second <= WRITES_A_SECOND_MAX, "{a_second} registry writes a node and second");
}

/// How many answers each node has given.
fn marks(nodes: &[Loaded]) -> Vec<usize> {
    nodes.iter().map(|node| node.load.look(|journal| journal.took.len())).collect()
}

/// How long the answers since then took.
fn since(nodes: &[Loaded], marks: &[usize]) -> Vec<Duration> {
    let of = |(node, from): (&Loaded, &usize)| node.load.look(|journal| journal.took[*from..].to_vec());
    nodes.iter().zip(marks).flat_map(of).collect()
}

fn failures(nodes: &[Loaded]) -> usize {
    nodes.iter().map(|node| node.load.look(|journal| journal.failures.len())).sum()
}

async fn extended(node: &Loaded) -> bool {
    let health = node.node().get_json("/api/v1/health").await;
    health["window_left_ms"].as_u64().unwrap() > EXTENDED_MS
}
