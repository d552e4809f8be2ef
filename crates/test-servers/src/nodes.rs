//! The processes of one server, a single one or a cluster.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::process::Process;

/// The longest a server is waited for until it answers, in milliseconds. It takes a few seconds at most, but
/// a machine may be busy.
pub const READY_MS_MAX: u64 = 60_000;

/// How often a start is repeated because somebody else took a port.
pub(crate) const START_ATTEMPTS_MAX: usize = 5;

/// The pause between two looks at something that is waited for, in milliseconds.
const POLL_MS: u64 = 50;

/// A server's nodes, some of which may not be running. They are told apart by their index.
pub(crate) struct Nodes {
    // Before the directory, so that the processes are gone when it is removed.
    processes: Vec<Mutex<Option<Process>>>,
    server: &'static str,
    directory: TempDir,
}

/// A server could not start, because somebody else listens on one of its ports.
pub(crate) struct PortTaken;

impl Nodes {
    /// None of them running yet.
    pub(crate) fn new(server: &'static str, count: usize) -> Self {
        assert!(count == 1 || count == 3, "{server} is started with 1 or 3 nodes, not {count}");
        let directory = tempfile::Builder::new().prefix("snowmint-test-").tempdir();
        Self {
            processes: (0..count).map(|_| Mutex::default()).collect(),
            server,
            directory: directory.expect("a directory can be made"),
        }
    }

    /// The directory of all files.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The directory of one node's data.
    pub(crate) fn data(&self, node: usize) -> PathBuf {
        self.directory().join(format!("node{node}"))
    }

    /// Starts a node that is not running.
    pub(crate) fn start(&self, node: usize, program: &Path, configure: impl FnOnce(&mut Command)) {
        let mut process = self.lock(node);
        assert!(process.is_none(), "node {node} of {} is running already", self.server);
        let log = self.directory().join(format!("node{node}.log"));
        *process = Some(Process::start(program, log, configure));
    }

    /// Kills a node and waits until it is gone. Its data stays.
    pub(crate) fn kill(&self, node: usize) {
        let process = self.lock(node).take();
        assert!(process.is_some(), "node {node} of {} is not running", self.server);
    }

    /// Does something to a running node.
    pub(crate) fn with(&self, node: usize, act: impl FnOnce(&mut Process)) {
        let mut process = self.lock(node);
        act(process.as_mut().unwrap_or_else(|| panic!("node {node} of {} is not running", self.server)));
    }

    /// The nodes that run and are not paused.
    pub(crate) fn running(&self) -> Vec<usize> {
        let runs = |node: &usize| self.lock(*node).as_ref().is_some_and(|process| !process.paused);
        (0..self.processes.len()).filter(runs).collect()
    }

    /// Whether enough nodes run for any of them to answer.
    fn quorum(&self) -> bool {
        self.running().len() > self.processes.len() / 2
    }

    /// Waits until every running node answers.
    pub(crate) async fn ready(&self, answers: impl AsyncFn(usize) -> bool) -> Result<(), PortTaken> {
        let deadline = deadline();
        for node in self.running() {
            while !answers(node).await {
                let (mut ended, mut taken, mut log) = (false, false, String::new());
                self.with(node, |process| {
                    (ended, taken, log) = (process.ended(), process.port_taken(), process.log());
                });
                if !ended && Instant::now() < deadline {
                    pause().await;
                } else if taken {
                    return Err(PortTaken);
                } else {
                    let how = if ended { "ended by itself" } else { "does not answer" };
                    panic!("node {node} of {} {how}. Its log ends with:\n{log}", self.server);
                }
            }
        }
        Ok(())
    }

    /// Has `start` start a node that was killed, and waits until every running node answers, unless too few
    /// run for any to answer.
    pub(crate) async fn restart(
        &self,
        node: usize,
        start: impl Fn(usize),
        answers: impl AsyncFn(usize) -> bool,
    ) {
        for _ in 0..START_ATTEMPTS_MAX {
            start(node);
            if !self.quorum() || self.ready(&answers).await.is_ok() {
                return;
            }
            self.kill(node);
        }
        panic!("node {node} of {} found its port taken, {START_ATTEMPTS_MAX} times over", self.server);
    }

    /// Waits until `look` finds something.
    pub(crate) async fn until<T>(&self, what: &str, look: impl AsyncFn() -> Option<T>) -> T {
        let deadline = deadline();
        loop {
            if let Some(found) = look().await {
                return found;
            }
            assert!(Instant::now() < deadline, "{} has no {what}:\n{}", self.server, self.logs());
            pause().await;
        }
    }

    fn logs(&self) -> String {
        let log = |node| {
            let log = self.lock(node).as_ref().map_or("it is not running".to_owned(), Process::log);
            format!("node {node}:\n{log}\n")
        };
        (0..self.processes.len()).map(log).collect()
    }

    fn lock(&self, node: usize) -> MutexGuard<'_, Option<Process>> {
        self.processes[node].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn deadline() -> Instant {
    Instant::now() + Duration::from_millis(READY_MS_MAX)
}

async fn pause() {
    tokio::time::sleep(Duration::from_millis(POLL_MS)).await;
}
