//! The wall clock of a process stepped under it, by libfaketime.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tempfile::TempDir;

use crate::checker::Checker;
use crate::load::{Journal, Load};
use crate::process::{Node, Serve, registry};

const WINDOW_MS: i64 = 2_000;

/// Clients of each node.
const CLIENTS: u32 = 4;

/// How long the load goes on after a step was noticed: two windows, so that a bad extension would show.
const AFTERWARDS: Duration = Duration::from_secs(4);

/// A wall clock that can be stepped.
pub struct WallClock {
    preload: PathBuf,
    directory: TempDir,
}

impl WallClock {
    pub fn new(offset: &str) -> Self {
        let clock = Self { preload: libfaketime(), directory: TempDir::new().unwrap() };
        clock.step(offset);
        clock
    }

    /// Puts it this far from the true time, as in `-3600` seconds.
    pub fn step(&self, offset: &str) {
        let (new, file) = (self.directory.path().join("new"), self.file());
        fs::write(&new, offset).unwrap();
        fs::rename(&new, &file).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("offset")
    }

    /// Makes it the wall clock of a process.
    pub fn of(&self, serve: Serve) -> Serve {
        serve
            .env("LD_PRELOAD", &self.preload)
            .env("FAKETIME_TIMESTAMP_FILE", self.file())
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    }

    async fn start(&self, directory: &Path, leap_confirm_s: &str) -> Node {
        let serve = Serve::new(directory).set("lease.window_ms", &WINDOW_MS.to_string());
        self.of(serve.set("clock.leap_confirm_s", leap_confirm_s)).start().await
    }
}

/// The library, where Debian and its like have it.
fn libfaketime() -> PathBuf {
    let architectures = fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let mut paths = architectures.map(|path| path.join("faketime/libfaketime.so.1"));
    paths.find(|path| path.exists()).expect(
        "these tests step the clock with libfaketime: install it with `apt-get install faketime`, or run the \
         tests by `cargo xtask test`, which does",
    )
}

/// Invariants 1, 4, 7: a small step back is slewed away and costs nothing.
#[tokio::test]
async fn clock_step_back_by_5_ms() {
    let (clock, directory) = (WallClock::new("+0"), TempDir::new().unwrap());
    let node = clock.start(directory.path(), "60").await;
    let load = Load::on(node.address(), CLIENTS);
    load.receive(100).await;
    clock.step("-0.005");
    node.counted("clock_regression_total", 1).await;
    load_goes_on(&load).await;
    assert_no_ceiling_beyond(directory.path(), 0);
    assert_unharmed(&load.finish().await);
}

/// Invariants 1, 4, 7: a large step back, and the way forward again, cost nothing.
#[tokio::test]
async fn clock_step_back_by_an_hour() {
    let (clock, directory) = (WallClock::new("+0"), TempDir::new().unwrap());
    let node = clock.start(directory.path(), "60").await;
    let load = Load::on(node.address(), CLIENTS);
    load.receive(100).await;
    clock.step("-3600");
    node.counted("clock_regression_total", 1).await;
    load_goes_on(&load).await;
    clock.step("+0");
    load_goes_on(&load).await;
    assert_no_ceiling_beyond(directory.path(), 0);
    assert_eq!(node.counter("clock_leap_total").await, 0, "the serving clock never went back");
    assert_unharmed(&load.finish().await);
}

/// Invariants 1, 4, 7: a leap that is not confirmed moves no window, and coming back from it costs nothing.
#[tokio::test]
async fn clock_step_ahead_by_an_hour_and_back() {
    let (clock, directory) = (WallClock::new("+0"), TempDir::new().unwrap());
    let node = clock.start(directory.path(), "60").await;
    let load = Load::on(node.address(), CLIENTS);
    load.receive(100).await;
    clock.step("+3600");
    node.counted("clock_leap_total", 1).await;
    load_goes_on(&load).await;
    assert_no_ceiling_beyond(directory.path(), 0);
    clock.step("+0");
    load_goes_on(&load).await;
    assert_no_ceiling_beyond(directory.path(), 0);
    assert_unharmed(&load.finish().await);
}

/// Invariants 1, 4, 7: a leap that lasts is believed, which costs no request either. When the clock then turns
/// out to have been wrong, the node goes on, ahead of it.
#[tokio::test]
async fn clock_step_ahead_by_an_hour_that_lasts() {
    let (clock, directory) = (WallClock::new("+0"), TempDir::new().unwrap());
    let mut node = clock.start(directory.path(), "3").await;
    let load = Load::on(node.address(), CLIENTS);
    load.receive(100).await;
    clock.step("+3600");
    node.counted("clock_leap_total", 1).await;
    assert_no_ceiling_beyond(directory.path(), 0);
    node.logged("the serving clock stepped forward").await;
    load_goes_on(&load).await;
    assert_no_ceiling_beyond(directory.path(), 3_600_000);
    let newest_ms = load.look(|journal| journal.receipts.last().unwrap().timestamp_ms());
    assert!(newest_ms.cast_signed() > Timestamp::now().as_millisecond() + 3_500_000);
    clock.step("+0");
    node.counted("clock_regression_total", 1).await;
    load_goes_on(&load).await;
    assert_unharmed(&load.finish().await);
}

/// Invariants 1 and 3: a node that is killed and comes back with its clock an hour behind stays away from the
/// windows of its last life, and serves.
#[tokio::test]
async fn restart_with_the_clock_an_hour_back() {
    let directory = TempDir::new().unwrap();
    let load = Load::start(CLIENTS);
    for offset in ["+0", "-3600", "+0"] {
        let node = WallClock::new(offset).start(directory.path(), "60").await;
        load.aim(node.address());
        load.receive(200).await;
        load.lower();
        node.kill();
    }
    let journal = load.finish().await;
    assert_eq!(journal.failures, []);
    let mut checker = Checker::default();
    checker.add("node", &journal);
    checker.assert_unique();
}

/// Invariants 1 and 3: a node that has to be one worker, restarted with its clock amid what it has minted, waits
/// for its window. The clock alone would lead it through the same milliseconds again.
#[tokio::test]
async fn restart_of_a_fixed_worker_with_the_clock_a_second_back() {
    let directory = TempDir::new().unwrap();
    let load = Load::start(CLIENTS);
    for offset in ["+0", "-1"] {
        let serve = Serve::new(directory.path()).set("worker", "7").set("lease.window_ms", "1000");
        let node = WallClock::new(offset).of(serve).start().await;
        load.aim(node.address());
        load.receive(1_500).await;
        load.lower();
        node.kill();
    }
    let mut checker = Checker::default();
    checker.add("node", &load.finish().await);
    checker.assert_unique();
}

/// Invariants 3 and 8: a node that has to be one worker, and whose clock is behind that worker's window, refuses
/// and says why. When the clock is put right it mints.
#[tokio::test]
async fn restart_of_a_fixed_worker_with_the_clock_an_hour_back() {
    let directory = TempDir::new().unwrap();
    let serve = || Serve::new(directory.path()).set("worker", "7").set("clock.leap_confirm_s", "1");
    let load = Load::start(CLIENTS);
    let node = serve().start().await;
    load.aim(node.address());
    load.receive(200).await;
    load.lower();
    node.kill();

    let clock = WallClock::new("-3600");
    let mut node = clock.of(serve()).spawn();
    node.serving_without_slot().await;
    let refusal = node.get("/api/v1/id").await.body;
    assert!(refusal.contains("WORKER_UNAVAILABLE") && refusal.contains("ahead of the clock"), "{refusal}");
    assert_eq!(node.get("/readyz").await.status, 503);

    clock.step("+0");
    node.serving().await;
    load.aim(node.address());
    load.receive(200).await;
    assert_eq!(node.worker().await, 7);
    let mut checker = Checker::default();
    checker.add("node", &load.finish().await);
    checker.assert_unique();
}

/// A wall clock before the epoch is no time to start with.
#[tokio::test]
async fn start_before_the_epoch_is_refused() {
    let directory = TempDir::new().unwrap();
    // From any year this test may run in to before 2021, and to before 1970.
    let years_s = |years: i64| format!("-{}", years * 366 * 86_400);
    for (offset, message) in [(years_s(40), "before the epoch"), (years_s(52), "before")] {
        let clock = WallClock::new(&offset);
        let (code, log) = clock.of(Serve::new(directory.path())).refused().await;
        assert_eq!(code, 1, "{log}");
        assert!(log.contains(message) && log.contains("set the host's clock"), "{log}");
    }
}

/// Waits until the load has got answers for a while.
async fn load_goes_on(load: &Load) {
    let started = Instant::now();
    while started.elapsed() < AFTERWARDS {
        load.receive(50).await;
    }
}

/// Invariant 7: no ceiling is further than a window, and two seconds of slewing, from the time that the
/// serving clock has.
fn assert_no_ceiling_beyond(directory: &Path, ahead_ms: i64) {
    let latest_ms = Timestamp::now().as_millisecond() + ahead_ms + WINDOW_MS + 2_000;
    for (slot, window) in registry(directory)["windows"].as_object().unwrap() {
        let ceiling: Timestamp = window["ceiling_time"].as_str().unwrap().parse().unwrap();
        assert!(ceiling.as_millisecond() <= latest_ms, "{slot}: {window}");
    }
}

fn assert_unharmed(journal: &Journal) {
    journal.assert_no_failure();
    journal.assert_increasing();
    let mut checker = Checker::default();
    checker.add("node", journal);
    checker.assert_unique();
}
