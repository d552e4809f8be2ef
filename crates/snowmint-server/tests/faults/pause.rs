//! A process that is stopped for longer than its window, and believes that nothing has happened.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use tempfile::TempDir;

use crate::checker::Checker;
use crate::load::{Journal, Load, Receipt};
use crate::process::{Node, Serve, registry};

const WINDOW_MS: &str = "1000";

/// How far the serving clock may be from the wall clock, in milliseconds.
const CLOCK_MS: u64 = 50;

/// Answers before and after the pause.
const ANSWERS: usize = 200;

/// Invariants 1 and 2: what a stopped process still believes gives no ID. It resumes by itself, and what is
/// asked after it woke up has an ID from after it woke up, from a window that was extended then.
#[tokio::test]
async fn sigstop_past_the_window_and_back() {
    let directory = TempDir::new().unwrap();
    let node = serve(directory.path()).start().await;
    let load = Load::on(node.address(), 4);
    load.receive(ANSWERS).await;

    let ceiling_ms = pause_past_the_window(&node, directory.path()).await;
    let (resumed, resumed_ms) = (Instant::now(), now_ms());
    node.resume();
    load.receive(ANSWERS).await;

    let journal = load.finish().await;
    assert!(ceiling_ms < resumed_ms);
    assert_woke_up(&journal, resumed, resumed_ms);
    journal.assert_no_failure();
    journal.assert_increasing();
    let mut checker = Checker::default();
    checker.add("node", &journal);
    checker.assert_unique();
}

/// Invariants 1 and 3: the same while another process starts and mints.
#[tokio::test]
async fn sigstop_past_the_window_while_another_process_starts() {
    let directory = TempDir::new().unwrap();
    let paused = serve(directory.path()).start().await;
    let load = Load::on(paused.address(), 4);
    load.receive(ANSWERS).await;

    pause_past_the_window(&paused, directory.path()).await;
    let other = serve(directory.path()).start().await;
    let other_load = Load::on(other.address(), 4);
    other_load.receive(ANSWERS).await;
    let (resumed, resumed_ms) = (Instant::now(), now_ms());
    paused.resume();
    load.receive(ANSWERS).await;
    other_load.receive(ANSWERS).await;
    assert_ne!(paused.worker().await, other.worker().await);

    let mut checker = Checker::default();
    let journal = load.finish().await;
    assert_woke_up(&journal, resumed, resumed_ms);
    checker.add("paused", &journal);
    let other_journal = other_load.finish().await;
    other_journal.assert_no_failure();
    checker.add("other", &other_journal);
    checker.assert_unique();
}

/// Invariants 1 and 10: the slot of a stopped process is taken over. Only a fault lets that happen here: the
/// file that says it is alive is removed. It loses the slot when it wakes up, and takes another.
#[tokio::test]
async fn sigstop_and_the_slot_is_taken_over() {
    let directory = TempDir::new().unwrap();
    let paused = serve(directory.path()).start().await;
    let load = Load::on(paused.address(), 4);
    load.receive(ANSWERS).await;
    let worker = paused.worker().await;

    pause_past_the_window(&paused, directory.path()).await;
    std::fs::remove_file(directory.path().join(format!("slots/dc0_worker{worker}.lock"))).unwrap();
    let other = serve(directory.path()).set("worker", &worker.to_string()).start().await;
    let other_load = Load::on(other.address(), 4);
    other_load.receive(ANSWERS).await;
    paused.resume();
    load.receive(ANSWERS).await;
    other_load.receive(ANSWERS).await;
    let workers = (paused.worker().await, other.worker().await);

    let mut checker = Checker::default();
    checker.add("paused", &load.finish().await);
    checker.add("other", &other_load.finish().await);
    checker.assert_unique();
    assert!(workers.0 != worker && workers.1 == worker, "{workers:?}");
}

fn serve(directory: &Path) -> Serve {
    Serve::new(directory).set("lease.window_ms", WINDOW_MS)
}

/// Stops the node, waits until the ceiling in its registry has passed, and gives that ceiling.
async fn pause_past_the_window(node: &Node, directory: &Path) -> u64 {
    // Not while it has the registry locked: that would stop the other processes as well.
    let lock = File::open(directory.join("registry.lock")).unwrap();
    lock.lock().unwrap();
    node.pause();
    drop(lock);
    let windows = &registry(directory)["windows"];
    let ceilings =
        windows.as_object().unwrap().values().map(|window| window["ceiling_time"].as_str().unwrap());
    let newest: Timestamp = ceilings.map(|ceiling| ceiling.parse().unwrap()).max().unwrap();
    let ceiling_ms = u64::try_from(newest.as_millisecond()).unwrap();
    let past_ms = ceiling_ms + 2 * CLOCK_MS;
    tokio::time::sleep(Duration::from_millis(past_ms.saturating_sub(now_ms()))).await;
    ceiling_ms
}

fn assert_woke_up(journal: &Journal, resumed: Instant, resumed_ms: u64) {
    let (after, before): (Vec<&Receipt>, Vec<_>) =
        journal.receipts.iter().partition(|receipt| receipt.asked >= resumed);
    assert!(!after.is_empty() && !before.is_empty());
    for receipt in after {
        assert!(receipt.timestamp_ms() + CLOCK_MS >= resumed_ms, "{receipt:?}, resumed at {resumed_ms}");
    }
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}
