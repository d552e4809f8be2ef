//! kill -9, and several processes on one data directory.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::checker::Checker;
use crate::load::Load;
use crate::process::{Node, PATIENCE, Serve, until};

/// Lives of a node that is killed over and over.
const LIVES: u32 = 100;

/// From start to the first ID that a client has.
const FIRST_ID: Duration = Duration::from_secs(2);

/// Answers in one life. Four clients get at most 2000 a second, so that a life is longer than 10 s / 32: a
/// window of each of the 32 slots, in turn, is over when its turn comes again.
const ANSWERS_A_LIFE: usize = 640;

/// Invariants 1 and 3: a killed node's window is never entered by its successor. A restart serves within 2 s,
/// from another slot while its own window lies ahead.
#[tokio::test]
async fn kill_9_and_restart_a_hundred_times_under_load() {
    let directory = TempDir::new().unwrap();
    let load = Load::start(4);
    let mut first_ids = Vec::new();
    for _ in 0..LIVES {
        let node = Serve::new(directory.path()).start().await;
        load.aim(node.address());
        load.receive(1).await;
        first_ids.push(node.started.elapsed());
        load.receive(ANSWERS_A_LIFE).await;
        load.lower();
        node.kill();
    }
    let journal = load.finish().await;
    first_ids.sort_unstable();
    let (median, longest) = (first_ids[first_ids.len() / 2], *first_ids.last().unwrap());
    eprintln!("first ID after a restart: median {median:?}, longest {longest:?}");
    assert_eq!(journal.failures, []);
    assert!(longest <= FIRST_ID, "a restart gave its first ID after {longest:?}");
    journal.assert_increasing();
    let mut checker = Checker::default();
    checker.add("node", &journal);
    checker.assert_unique();
}

/// Invariants 1 and 8: a node that is killed faster than windows pass finds every slot's window ahead of it.
/// It refuses, with a code of its own, until the oldest has passed, and then mints.
#[tokio::test]
async fn restarts_faster_than_windows_pass_wait_and_resume() {
    let directory = TempDir::new().unwrap();
    // One client: with more, one can be refused because another waits.
    let load = Load::start(1);
    // Two slots, and a third life that comes before either's window is over.
    let serve = || {
        let serve = Serve::new(directory.path()).set("id.layout", "41/5/1/16");
        serve.set("lease.window_ms", "5000").set("limits.wait_ms", "100")
    };
    for _ in 0..2 {
        let node = serve().start().await;
        load.aim(node.address());
        load.receive(10).await;
        load.lower();
        node.kill();
    }
    let node = serve().start().await;
    load.aim(node.address());
    until(|| async { load.look(|journal| !journal.failures.is_empty()) }, "a refusal").await;
    let ready = node.get("/readyz").await;
    assert_eq!(ready.status, 503, "{}", ready.body);
    load.receive(10).await;
    assert_eq!(node.get("/readyz").await.status, 200);
    let journal = load.finish().await;
    assert!(
        journal.failures.iter().all(|failure| failure.code == "CLOCK_REGRESSION"),
        "{:?}",
        journal.failures
    );
    let mut checker = Checker::default();
    checker.add("node", &journal);
    checker.assert_unique();
}

/// Invariants 1 and 3: processes that share a registry have different slots, and so have the successors of
/// those that are killed among them.
#[tokio::test]
async fn two_processes_on_one_directory() {
    processes_on_one_directory(2).await;
}

/// The same with more processes than processors.
#[tokio::test]
async fn eight_processes_on_one_directory() {
    processes_on_one_directory(8).await;
}

/// Answers that every process gives between two kills.
const ANSWERS_A_ROUND: usize = 100;

async fn processes_on_one_directory(count: usize) {
    let directory = TempDir::new().unwrap();
    let mut nodes = start_at_once(directory.path(), count).await;
    let loads: Vec<_> = nodes.iter().map(|node| Load::on(node.address(), 2)).collect();
    for round in 0..count {
        receive(&loads, ANSWERS_A_ROUND).await;
        assert_eq!(workers(&nodes).await.len(), count, "each process has a worker of its own");
        loads[round].lower();
        nodes.remove(round).kill();
        nodes.insert(round, Serve::new(directory.path()).start().await);
        loads[round].aim(nodes[round].address());
    }
    receive(&loads, ANSWERS_A_ROUND).await;
    assert_eq!(workers(&nodes).await.len(), count);
    let mut checker = Checker::default();
    for (nth, load) in loads.into_iter().enumerate() {
        let journal = load.finish().await;
        assert_eq!(journal.failures, [], "process {nth}");
        journal.assert_increasing();
        checker.add(&format!("process {nth}"), &journal);
    }
    checker.assert_unique();
}

/// Starts all of them before any serves, so that they race for the registry and the slots.
async fn start_at_once(directory: &Path, count: usize) -> Vec<Node> {
    let mut nodes: Vec<_> = (0..count).map(|_| Serve::new(directory).spawn()).collect();
    let started = Instant::now();
    for node in &mut nodes {
        node.serving().await;
    }
    assert!(started.elapsed() < PATIENCE);
    nodes
}

async fn receive(loads: &[Load], answers: usize) {
    for load in loads {
        load.receive(answers).await;
    }
}

async fn workers(nodes: &[Node]) -> BTreeSet<u64> {
    let mut workers = BTreeSet::new();
    for node in nodes {
        workers.insert(node.worker().await);
    }
    workers
}
