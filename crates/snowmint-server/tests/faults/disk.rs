//! A disk that takes nothing more.

use std::process::Command;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, prlimit};
use tempfile::TempDir;

use crate::checker::Checker;
use crate::load::Load;
use crate::process::{BINARY, Node, Serve, until};

/// A refusal that waits for nothing takes no longer, on a machine that is busy with other tests.
const AT_ONCE: Duration = Duration::from_millis(500);

/// Invariants 1, 2, 8: without room the node serves to its ceiling, then refuses at once, and resumes by itself.
///
/// A limit on the size of files is what fails the writes: it needs no privilege, and comes and goes on a
/// process that runs. What the node sees is an error of `write`, as with a full disk.
#[tokio::test]
async fn full_disk_while_serving() {
    let directory = TempDir::new().unwrap();
    let node = serve_on_small_disk(&directory).start().await;
    let load = Load::on(node.address(), 2);
    load.receive(100).await;

    limit_files(&node, Some(0));
    until(|| async { load.look(|journal| !journal.failures.is_empty()) }, "a refusal").await;
    let ready = node.get("/readyz").await;
    assert_eq!(ready.status, 503, "{}", ready.body);
    assert!(ready.body.contains("cannot write"), "the body says why: {}", ready.body);
    let refusal = node.get("/api/v1/id").await;
    assert!(refusal.body.contains("WORKER_UNAVAILABLE") && refusal.body.contains("registry.json"));
    let health = node.get("/api/v1/health").await.body;
    assert!(health.contains("unhealthy") && health.contains("unavailable"), "{health}");
    until(|| async { load.look(|journal| journal.failures.len() > 100) }, "more refusals").await;

    limit_files(&node, None);
    load.receive(100).await;
    until(|| async { node.get("/readyz").await.status == 200 }, "ready again").await;
    let journal = load.finish().await;
    for failure in &journal.failures {
        assert_eq!((failure.status, failure.code.as_str()), (503, "WORKER_UNAVAILABLE"));
        assert!(failure.took < AT_ONCE, "{failure:?}");
    }
    journal.assert_increasing();
    let mut checker = Checker::default();
    checker.add("node", &journal);
    checker.assert_unique();
}

/// The signal that a write past the limit brings is ignored, so that the write fails: what a shell ignores is
/// ignored by what it runs.
fn serve_on_small_disk(directory: &TempDir) -> Serve {
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh", BINARY]);
    Serve::with(shell, directory.path()).set("lease.window_ms", "2000")
}

fn limit_files(node: &Node, bytes: Option<u64>) {
    let limit = Rlimit { current: bytes, maximum: None };
    prlimit(Some(node.pid()), Resource::Fsize, limit).unwrap();
}
