//! Nodes that hold several slots.

use std::path::Path;
use std::process::{Command, Output};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::checker::Checker;
use crate::load::{Load, Receipt};
use crate::process::{BINARY, Node, STOP, Serve, registry, until};

const SLOTS: usize = 8;

/// Lives of a node that is killed over and over.
const LIVES: u32 = 12;

/// More than a window lies between a life and the one that gets its slots again, as in `crash`.
const ANSWERS_A_LIFE: usize = 640;

/// So few IDs a millisecond that a thousand need every slot.
fn serve(data_dir: &Path) -> Serve {
    Serve::new(data_dir).set("workers", &SLOTS.to_string()).set("id.max_sequence", "15")
}

/// The workers that a node says it holds.
async fn workers(node: &Node) -> Vec<u64> {
    let health = node.get_json("/api/v1/health").await;
    let slots = health["slots"].as_array().unwrap();
    slots.iter().map(|slot| slot["worker_id"].as_u64().unwrap()).collect()
}

async fn holds_all(node: &Node) {
    until(|| async { workers(node).await.len() == SLOTS }, "every slot").await;
}

fn snowmint(data_dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.args(arguments).env("SNOWMINT_DATA_DIR", data_dir).output().unwrap()
}

/// Invariants 1, 3 and 4, of a node with several slots.
#[tokio::test]
async fn kill_9_of_a_node_with_several_slots() {
    let directory = TempDir::new().unwrap();
    let load = Load::start(4);
    for _ in 0..LIVES {
        let node = serve(directory.path()).set("lease.window_ms", "1000").start().await;
        load.aim(node.address());
        holds_all(&node).await;
        load.receive(ANSWERS_A_LIFE).await;
        load.lower();
        node.kill();
    }
    let journal = load.finish().await;
    assert_eq!(journal.failures, []);
    journal.assert_increasing();
    let mut checker = Checker::default();
    checker.add("node", &journal);
    checker.assert_unique();
}

/// Invariant 10: one that is taken away is dropped and replaced; the others serve on, and nobody is refused.
#[tokio::test]
async fn a_slot_that_is_taken_away_is_replaced_while_the_others_serve() {
    let directory = TempDir::new().unwrap();
    let node = serve(directory.path()).set("lease.window_ms", "3000").start().await;
    holds_all(&node).await;
    let load = Load::on(node.address(), 2);
    load.receive(100).await;
    let before = workers(&node).await;
    assert_eq!(before, (0..SLOTS as u64).collect::<Vec<_>>());

    let retired = snowmint(directory.path(), &["cluster", "retire", "dc0_worker3"]);
    assert!(retired.status.success(), "{retired:?}");
    // Kept for the node that held it, it may be taken back by it, and by nobody else.
    let lost = "another is being claimed";
    until(|| async { node.has_logged("worker slot lost") }, lost).await;
    holds_all(&node).await;
    load.receive(200).await;
    let journal = load.finish().await;
    journal.assert_no_failure();
    journal.assert_increasing();
    let mut checker = Checker::default();
    checker.add("node", &journal);
    checker.assert_unique();
}

/// Each slot is given back with its own last ID, and has a chain of records of its own, with nothing missing.
#[tokio::test]
async fn sigterm_gives_every_slot_back_and_each_has_its_records() {
    let directory = TempDir::new().unwrap();
    let mut node = serve(directory.path()).set("journal.durability", "strict").start().await;
    holds_all(&node).await;
    let load = Load::on(node.address(), 4);
    load.receive(400).await;
    load.lower();
    for worker in workers(&node).await {
        let labels = format!("{{datacenter=\"0\",worker=\"{worker}\"}}");
        let left: f64 = node.metric(&format!("window_left_seconds{labels}")).await.parse().unwrap();
        let issued: u64 = node.metric(&format!("id_generation_total{labels}")).await.parse().unwrap();
        assert!(left > 0.0 && issued > 0, "{labels}: {left} s, {issued} IDs");
    }
    node.signal(Signal::TERM);
    assert_eq!(node.ended(STOP).await, Some(0));
    let journal = load.finish().await;
    assert_eq!((journal.failures.as_slice(), journal.cut), ([].as_slice(), 0));
    journal.assert_increasing();

    let retired = registry(directory.path())["retired_workers"].as_object().unwrap().clone();
    assert_eq!(retired.len(), SLOTS);
    let highest = journal.receipts.iter().map(Receipt::last).max();
    assert_eq!(retired.values().map(|entry| entry["last_id"].as_u64()).max(), Some(highest));
    let report = snowmint(directory.path(), &["audit", "verify", "--whole", "--json"]);
    let report: Value = serde_json::from_slice(&report.stdout).unwrap_or_else(|_| panic!("{report:?}"));
    assert_eq!(report["proven"], true, "{report:#}");
    assert_eq!(report["slots"], SLOTS, "{report:#}");
    let mut checker = Checker::default();
    checker.add("node", &journal);
    assert_eq!(report["ids"], checker.assert_unique(), "{report:#}");
}
