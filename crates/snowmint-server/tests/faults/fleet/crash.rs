//! kill -9 of nodes, over and over.

use std::time::Duration;

use super::{Fleet, Kind, Loaded, figure, size};
use crate::checker::Checker;

const NODES: usize = 4;

/// Answers of a node between two kills. A slot comes free with its window, in 10 s, and there are 32: nodes that
/// are killed faster than that find none.
const ANSWERS: usize = 300;

/// Invariants 1 and 3: whoever takes over a killed node's slot starts where its window ended.
#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_nodes_on_etcd() {
    kill_9_of_nodes(Kind::Etcd).await;
}

/// The same on ZooKeeper.
#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_nodes_on_zookeeper() {
    kill_9_of_nodes(Kind::ZooKeeper).await;
}

async fn kill_9_of_nodes(kind: Kind) {
    let fleet = Fleet::start(kind, 1).await;
    let mut nodes = Vec::new();
    for nth in 0..NODES {
        let name = format!("node-{nth}");
        nodes.push(Loaded::start(fleet.serve(&name), &name, 2).await);
    }
    let (kills, mut first_ids) = (size(12, 200), Vec::new());
    for kill in 0..kills {
        let node = &mut nodes[kill % NODES];
        let serve = fleet.serve(&node.name);
        node.kill_and_restart(serve).await;
        node.load.receive(1).await;
        first_ids.push(node.node().started.elapsed());
        node.load.receive(ANSWERS).await;
    }
    let mut checker = Checker::default();
    for node in nodes {
        assert_eq!(node.finish(&mut checker).await, 0, "requests that failed");
    }
    let ids = checker.assert_unique();
    first_ids.sort_unstable();
    let median: Duration = first_ids[first_ids.len() / 2];
    figure(
        "kill -9",
        format_args!(
            "{kind:?}, {kills} kills, {ids} IDs, no duplicate; first ID {median:.0?} after a start, at the median"
        ),
    );
}
