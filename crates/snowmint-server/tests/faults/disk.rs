//! A registry that takes no change: a full disk, a damaged file, a lock that nobody lets go of.

use std::fs::{self, File};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, prlimit};
use tempfile::TempDir;

use crate::checker::Checker;
use crate::load::{Journal, Load};
use crate::process::{BINARY, Node, STOP, Serve, until};

/// A refusal that waits for nothing takes no longer, on a machine that is busy with other tests.
const AT_ONCE: Duration = Duration::from_millis(500);

/// Many more than there are processors: none may wait for the others' refusals.
const CLIENTS: u32 = 32;

/// Refusals that are looked at.
const REFUSALS: usize = 200;

/// Invariants 1, 2, 8: without room the node serves to its ceiling, then refuses at once, and resumes by itself.
///
/// A limit on the size of files is what fails the writes: it needs no privilege, and comes and goes on a
/// process that runs. What the node sees is an error of `write`, as with a full disk.
#[tokio::test]
async fn full_disk_while_serving() {
    let directory = TempDir::new().unwrap();
    let node = serve_on_small_disk(&directory, "").start().await;
    let load = Load::on(node.address(), CLIENTS);
    load.receive(100).await;
    limit_files(&node, Some(0));
    assert_refuses(&node, &load, "cannot write").await;
    limit_files(&node, None);
    assert_resumes(&node, load).await;
}

/// A disk that is full from the start is an error, and the registry stays as it was.
#[tokio::test]
async fn full_disk_at_start() {
    let directory = TempDir::new().unwrap();
    let (code, log) = serve_on_small_disk(&directory, "ulimit -f 0;").refused().await;
    assert_eq!(code, 1, "{log}");
    assert!(log.contains("cannot write"), "{log}");
    assert!(!directory.path().join("registry.json").exists());
}

/// A node whose slot cannot be given back, because there is no room to write it down, stops in time all the same.
#[tokio::test]
async fn sigterm_with_a_full_disk() {
    let directory = TempDir::new().unwrap();
    let mut node = serve_on_small_disk(&directory, "").start().await;
    limit_files(&node, Some(0));
    node.signal(Signal::TERM);
    assert_eq!(node.ended(STOP).await, Some(0));
    node.logged("the worker slot could not be given back").await;
}

/// Invariants 1, 2, 8: a registry that is damaged or gone under a running node is not made anew, because what it
/// knew of windows would be lost.
#[tokio::test]
async fn registry_damaged_or_gone_while_serving() {
    let directory = TempDir::new().unwrap();
    let node = Serve::new(directory.path()).set("lease.window_ms", "2000").start().await;
    let load = Load::on(node.address(), CLIENTS);
    load.receive(100).await;
    let (file, kept) = (directory.path().join("registry.json"), directory.path().join("kept"));
    // Not while the node replaces it.
    let lock = File::open(directory.path().join("registry.lock")).unwrap();
    lock.lock().unwrap();
    fs::rename(&file, &kept).unwrap();
    lock.unlock().unwrap();
    assert_refuses(&node, &load, "cannot read").await;
    assert!(!file.exists());

    fs::write(&file, "damaged").unwrap();
    until(|| async { node.get("/readyz").await.body.contains("is damaged") }, "the damage is told").await;
    assert_eq!(fs::read_to_string(&file).unwrap(), "damaged");

    fs::rename(&kept, &file).unwrap();
    assert_resumes(&node, load).await;
}

/// Invariants 1, 2, 8: a process that was stopped while it had the registry locked stops no other before its
/// ceiling. Those that start meanwhile say what they wait for.
#[tokio::test]
async fn registry_locked_for_long() {
    let directory = TempDir::new().unwrap();
    let node = Serve::new(directory.path()).set("lease.window_ms", "2000").start().await;
    let load = Load::on(node.address(), CLIENTS);
    load.receive(100).await;
    let lock = File::open(directory.path().join("registry.lock")).unwrap();
    lock.lock().unwrap();
    let (code, log) = Serve::new(directory.path()).refused().await;
    assert_eq!(code, 1, "{log}");
    assert!(log.contains("has been locked by another process for 2000 ms"), "{log}");
    assert_refuses(&node, &load, "has been locked by another process").await;
    lock.unlock().unwrap();
    assert_resumes(&node, load).await;
}

/// Past its ceiling a node refuses, and says why wherever it is asked.
async fn assert_refuses(node: &Node, load: &Load, why: &str) {
    until(|| async { load.look(|journal| journal.failures.len() > REFUSALS) }, "refusals").await;
    until(|| async { node.get("/readyz").await.body.contains(why) }, "the reason is told").await;
    assert_eq!(node.get("/readyz").await.status, 503);
    let refusal = node.get("/api/v1/id").await;
    assert!(refusal.body.contains("WORKER_UNAVAILABLE") && refusal.body.contains(why), "{}", refusal.body);
    let health = node.get("/api/v1/health").await.body;
    assert!(health.contains("unhealthy") && health.contains(why), "{health}");
    assert_eq!(node.get("/livez").await.status, 200);
}

/// It mints again without being told, and all its refusals were of the right kind and came at once.
async fn assert_resumes(node: &Node, load: Load) {
    load.receive(100).await;
    until(|| async { node.get("/readyz").await.status == 200 }, "ready again").await;
    let journal = load.finish().await;
    assert_refusals(&journal);
    journal.assert_increasing();
    let mut checker = Checker::default();
    checker.add("node", &journal);
    checker.assert_unique();
}

fn assert_refusals(journal: &Journal) {
    for failure in &journal.failures {
        assert_eq!((failure.status, failure.code.as_str()), (503, "WORKER_UNAVAILABLE"), "{failure:?}");
        assert!(failure.took < AT_ONCE, "{failure:?}");
    }
    assert_eq!((journal.closed, journal.cut), (0, 0));
}

/// The signal that a write past the limit brings is ignored, so that the write fails: what a shell ignores is
/// ignored by what it runs.
pub fn serve_on_small_disk(directory: &TempDir, before: &str) -> Serve {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("trap '' XFSZ; {before} exec \"$@\""), "sh", BINARY]);
    Serve::with(shell, directory.path()).set("lease.window_ms", "2000")
}

pub fn limit_files(node: &Node, bytes: Option<u64>) {
    let limit = Rlimit { current: bytes, maximum: None };
    prlimit(Some(node.pid()), Resource::Fsize, limit).unwrap();
}
