//! SIGTERM under load, and what becomes of the slot.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::checker::Checker;
use crate::load::{Load, Receipt};
use crate::process::{BINARY, Node, STOP, Serve, registry, until};

/// Two workers only, so that it shows who may have which.
const LAYOUT: &str = "41/5/1/16";

/// Invariants 1 and 3: a stop answers what it has begun, gives the slot back with the last ID it gave away, and
/// keeps it for its node.
#[tokio::test]
async fn sigterm_under_load_drains_and_retires_the_slot() {
    let directory = TempDir::new().unwrap();
    let mut node = serve(directory.path(), "first").start().await;
    let load = Load::on(node.address(), 8);
    load.receive(500).await;
    let slot = format!("dc0_worker{}", node.worker().await);

    load.lower();
    node.signal(Signal::TERM);
    assert_eq!(node.ended(STOP).await, Some(0));
    assert_eq!(load.look(|journal| (journal.failures.clone(), journal.cut)), (vec![], 0));
    let retired = &registry(directory.path())["retired_workers"][&slot];
    let last_id = retired["last_id"].as_u64().unwrap();
    let highest = load.look(|journal| journal.receipts.iter().map(Receipt::last).max().unwrap());
    assert!(last_id >= highest, "{last_id} < {highest}");
    assert_eq!(retired["node"], "first");

    // In its grace the slot is for nobody else, even where there is no other.
    let second = serve(directory.path(), "second").start().await;
    assert_ne!(format!("dc0_worker{}", second.worker().await), slot);
    let mut third = serve(directory.path(), "third").spawn();
    third.serving_without_slot().await;
    let refusal = third.get("/api/v1/id").await;
    assert_eq!(refusal.status, 503);
    for part in ["WORKER_UNAVAILABLE", "1 are held", "1 are kept"] {
        assert!(refusal.body.contains(part), "{}", refusal.body);
    }
    assert_eq!(third.get("/readyz").await.status, 503);

    // Its node gets it back.
    let again = serve(directory.path(), "first").start().await;
    assert_eq!(format!("dc0_worker{}", again.worker().await), slot);
    load.aim(again.address());
    load.receive(100).await;
    assert!(registry(directory.path())["retired_workers"].get(&slot).is_none());
    let second_load = Load::on(second.address(), 2);
    second_load.receive(100).await;
    let mut checker = Checker::default();
    checker.add("first", &load.finish().await);
    checker.add("second", &second_load.finish().await);
    checker.assert_unique();
}

/// Whoever read the log is gone, as where a log's pipe died: the node goes on, and stops when it is told to.
#[tokio::test]
async fn sigterm_with_a_log_that_nobody_reads() {
    let directory = TempDir::new().unwrap();
    // It goes with this test, however that ends.
    let mut command = std::process::Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", BINARY, "serve", "--http", "127.0.0.1:0", "--grpc", "", "--resp", ""])
        .arg("--data-dir")
        .arg(directory.path());
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("\"message\":\"serving\"") {
        line.clear();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "the node ended");
    }
    drop(log);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let mut ended = None;
    until(
        || {
            ended = child.try_wait().unwrap();
            std::future::ready(ended.is_some())
        },
        "the end of the node",
    )
    .await;
    assert_eq!(ended.unwrap().code(), Some(0));
}

/// A node that has no slot stops as well.
#[tokio::test]
async fn sigterm_without_a_slot() {
    let directory = TempDir::new().unwrap();
    let holder = Serve::new(directory.path()).set("worker", "7").start().await;
    let mut waiting = Serve::new(directory.path()).set("worker", "7").spawn();
    waiting.serving_without_slot().await;
    let refusal = waiting.get("/api/v1/id").await;
    assert!(refusal.body.contains("dc0_worker7 is held by node"), "{}", refusal.body);
    waiting.signal(Signal::TERM);
    assert_eq!(waiting.ended(STOP).await, Some(0));
    holds(&holder, 7).await;
}

/// Invariants 1 and 3: a fixed worker that is stopped and started again mints, from its next window.
#[tokio::test]
async fn a_fixed_worker_restarts() {
    let directory = TempDir::new().unwrap();
    let load = Load::start(2);
    for signal in [Signal::TERM, Signal::KILL, Signal::TERM] {
        let serve = Serve::new(directory.path()).set("worker", "7").set("lease.window_ms", "1000");
        let mut node = serve.start().await;
        load.aim(node.address());
        load.receive(50).await;
        holds(&node, 7).await;
        load.lower();
        node.signal(signal);
        node.ended(STOP).await;
    }
    let mut checker = Checker::default();
    checker.add("node", &load.finish().await);
    checker.assert_unique();
}

fn serve(directory: &Path, node_name: &str) -> Serve {
    let serve = Serve::new(directory).set("id.layout", LAYOUT).set("lease.window_ms", "1000");
    serve.set("node_name", node_name)
}

async fn holds(node: &Node, worker: u64) {
    assert_eq!(node.worker().await, worker);
}
