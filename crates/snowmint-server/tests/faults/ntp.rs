//! NTP servers that are right, wrong, at odds, or gone: real ones, of chrony.

use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use tempfile::TempDir;
use test_servers::Chrony;
use tokio::process::Command;

use crate::checker::Checker;
use crate::clock::WallClock;
use crate::load::{Journal, Load};
use crate::process::{BINARY, Node, Serve, until};

/// Clients of each node.
const CLIENTS: u32 = 4;

const HOUR_MS: i64 = 3_600_000;

/// How far a measurement may be off on a machine that is busy, in milliseconds.
const BUSY_MS: f64 = 30.0;

/// How long a leap has to last in these tests, and what is waited to see that it is not believed then.
const LEAP_CONFIRM_S: &str = "2";
const AFTERWARDS: Duration = Duration::from_secs(4);

/// Three servers that tell the same time.
async fn three(ahead_ms: i64) -> [Chrony; 3] {
    let (one, two, three) =
        tokio::join!(Chrony::start(ahead_ms), Chrony::start(ahead_ms), Chrony::start(ahead_ms));
    [one, two, three]
}

async fn put_ahead(servers: &[Chrony; 3], ahead_ms: i64) {
    let [one, two, three] = servers;
    tokio::join!(one.put_ahead(ahead_ms), two.put_ahead(ahead_ms), three.put_ahead(ahead_ms));
}

fn serve(directory: &Path, servers: &[&Chrony]) -> Serve {
    let addresses: Vec<_> = servers.iter().map(|server| server.address().to_string()).collect();
    Serve::new(directory).set("clock.ntp_servers", &addresses.join(",")).set("clock.interval_s", "1")
}

async fn health(node: &Node) -> Value {
    serde_json::from_str(&node.get("/api/v1/health").await.body).unwrap()
}

/// Waits until NTP says that the wall clock is so far ahead.
async fn measured(node: &Node, drift_ms: f64) {
    let seen = async || {
        let health = health(node).await;
        let metric: f64 = node.metric("clock_drift_milliseconds").await.parse().unwrap();
        let near = |seen_ms: f64| (seen_ms - drift_ms).abs() < BUSY_MS;
        near(health["clock_drift_ms"].as_f64().unwrap()) && near(metric) && health["ntp_synchronized"] == true
    };
    until(seen, &format!("a drift of {drift_ms} ms")).await;
    assert_eq!(node.metric("clock_ntp_synchronized").await, "1");
}

/// Waits for a status, and gives the reasons.
async fn status(node: &Node, wanted: &str) -> String {
    until(async || health(node).await["status"] == wanted, wanted).await;
    health(node).await["reasons"].to_string()
}

async fn set_threshold(directory: &Path, threshold_ms: &str) {
    let arguments = ["cluster", "config", "set", "clock_drift_threshold", threshold_ms];
    let output =
        Command::new(BINARY).args(arguments).env("SNOWMINT_DATA_DIR", directory).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// What the metrics store has of drifts: how far, against whom, of which stratum, and what was done.
fn drifts(directory: &Path) -> Vec<(i64, String, u8, String)> {
    let path = directory.join("metrics.db");
    let database = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let query =
        "SELECT drift_ms, ntp_server, ntp_stratum, corrective_action FROM clock_drift_events ORDER BY 1";
    let mut statement = database.prepare(query).unwrap();
    let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
    statement.query_map([], row).unwrap().map(Result::unwrap).collect()
}

fn near(drift_ms: i64, wanted_ms: i64) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "it is small")]
    let off_ms = (drift_ms - wanted_ms).abs() as f64;
    off_ms < BUSY_MS
}

fn newest_ahead_ms(load: &Load) -> i64 {
    let newest_ms = load.look(|journal| journal.receipts.last().unwrap().timestamp_ms());
    newest_ms.cast_signed() - Timestamp::now().as_millisecond()
}

async fn load_goes_on(load: &Load) {
    let started = Instant::now();
    while started.elapsed() < AFTERWARDS {
        load.receive(50).await;
    }
}

fn assert_unharmed(journal: &Journal) {
    journal.assert_no_failure();
    journal.assert_increasing();
    let mut checker = Checker::default();
    checker.add("node", journal);
    checker.assert_unique();
}

/// All three are 250 ms ahead, 80 ms behind, right; one lies by an hour; none is left. Each shows in health, metrics,
/// log and report, the serving clock goes with them, and no request fails.
#[tokio::test]
async fn drift_of_both_signs_a_liar_and_none() {
    let (servers, directory) = (three(250).await, TempDir::new().unwrap());
    let mut node = serve(directory.path(), &servers.each_ref()).start().await;
    let load = Load::on(node.address(), CLIENTS);

    measured(&node, -250.0).await;
    let reasons = status(&node, "degraded").await;
    assert!(
        reasons.contains("off NTP (127.0.0.1:") && reasons.contains("100 ms of clock_drift_threshold"),
        "{reasons}"
    );
    node.logged("off NTP, more than the 100 ms").await;
    let ntp = health(&node).await["ntp"].clone();
    assert_eq!((ntp["stratum"].as_u64(), ntp["servers"].as_array().unwrap().len()), (Some(3), 3), "{ntp}");
    assert_eq!(node.metric("clock_ntp_servers{state=\"agrees\"}").await, "3");
    until(async || newest_ahead_ms(&load) > 100, "IDs with the time of NTP").await;

    put_ahead(&servers, -80).await;
    measured(&node, 80.0).await;
    status(&node, "healthy").await;
    set_threshold(directory.path(), "40").await;
    let reasons = status(&node, "degraded").await;
    assert!(reasons.contains("the 40 ms of clock_drift_threshold"), "{reasons}");
    node.logged("off NTP, more than the 40 ms").await;

    put_ahead(&servers, 0).await;
    measured(&node, 0.0).await;
    status(&node, "healthy").await;

    servers[1].put_ahead(HOUR_MS).await;
    let liar = servers[1].address().to_string();
    let named = async || health(&node).await["ntp"]["falsetickers"] == serde_json::json!([liar]);
    until(named, "the liar named").await;
    measured(&node, 0.0).await;
    status(&node, "healthy").await;
    assert_eq!(node.metric("clock_ntp_servers{state=\"falseticker\"}").await, "1");
    assert!(node.logged("contradicted by the majority, and ignored").await.contains(&liar));

    servers.iter().for_each(Chrony::kill);
    until(async || health(&node).await["ntp_synchronized"] == false, "no NTP").await;
    let ntp = health(&node).await["ntp"].clone();
    assert_eq!(
        (&ntp["reason"], &ntp["source"]),
        (&"fewer than 2 of the 3 NTP servers answer".into(), &Value::Null)
    );
    status(&node, "healthy").await;
    assert_eq!(node.metric("clock_ntp_synchronized").await, "0");
    load.receive(100).await;
    assert_unharmed(&load.finish().await);

    let told = async || drifts(directory.path()).iter().any(|(.., action)| action.contains(&liar));
    until(told, "a record of the liar").await;
    let rows = drifts(directory.path());
    for (wanted_ms, wanted) in [(-250, "slew"), (80, "slew")] {
        let found = rows.iter().find(|(drift_ms, .., action)| near(*drift_ms, wanted_ms) && action == wanted);
        let (_, server, stratum, _) =
            found.unwrap_or_else(|| panic!("no {wanted_ms} ms, {wanted}: {rows:?}"));
        assert!(
            servers.iter().any(|known| known.address().to_string() == *server) && *stratum == 3,
            "{rows:?}"
        );
    }
    let report = node.get_json("/api/v1/reports/clock-drift").await;
    let highest_ms = report["rows"][0]["max_drift_ms"].as_i64().unwrap();
    assert!(near(highest_ms, 250), "{report}");
}

/// A node that is told to refuse does, and resumes by itself.
#[tokio::test]
async fn clocks_too_far_off_ntp_refuse() {
    let (server, directory) = (Chrony::start(0).await, TempDir::new().unwrap());
    let node = serve(directory.path(), &[&server]).set("clock.refuse_above_ms", "1000").start().await;
    measured(&node, 0.0).await;
    assert_eq!(node.get("/api/v1/id").await.status, 200);

    server.put_ahead(60_000).await;
    until(async || node.get("/readyz").await.status == 503, "a refusal").await;
    let answer = node.get("/api/v1/id").await;
    assert!(answer.status == 503 && answer.body.contains("CLOCK_REGRESSION"), "{}", answer.body);
    assert!(answer.body.contains("more than clock.refuse_above_ms allows"), "{}", answer.body);
    assert_eq!(health(&node).await["status"], "unhealthy");

    server.put_ahead(0).await;
    until(async || node.get("/readyz").await.status == 200, "no refusal").await;
    assert_eq!(node.get("/api/v1/id").await.status, 200);
    let refused = async || drifts(directory.path()).iter().any(|(.., action)| action == "refuse");
    until(refused, "a record of the refusal").await;
}

/// A leap that NTP confirms is believed long before it has lasted.
#[tokio::test]
async fn leap_that_ntp_confirms() {
    let (server, directory) = (Chrony::start(HOUR_MS).await, TempDir::new().unwrap());
    let clock = WallClock::new("+0");
    let mut node = clock.of(serve(directory.path(), &[&server])).start().await;
    let load = Load::on(node.address(), CLIENTS);
    node.logged("off NTP, more than").await;
    clock.step("+3600");
    node.logged("which was confirmed").await;
    load.receive(100).await;
    assert!(newest_ahead_ms(&load) > HOUR_MS - 10_000);
    assert_eq!(node.counter("clock_leap_total").await, 1);
    assert_unharmed(&load.finish().await);
}

/// A leap that NTP denies is not believed when it has lasted, nor when NTP is gone.
#[tokio::test]
async fn leap_that_ntp_denies() {
    let (server, directory) = (Chrony::start(0).await, TempDir::new().unwrap());
    let clock = WallClock::new("+0");
    let serve = serve(directory.path(), &[&server]).set("clock.leap_confirm_s", LEAP_CONFIRM_S);
    let mut node = clock.of(serve).start().await;
    let load = Load::on(node.address(), CLIENTS);
    measured(&node, 0.0).await;
    clock.step("+3600");
    node.logged("ahead, which NTP denies").await;
    load_goes_on(&load).await;
    status(&node, "degraded").await;
    server.kill();
    until(async || health(&node).await["ntp_synchronized"] == false, "no NTP").await;
    load_goes_on(&load).await;
    assert!(!node.has_logged("the serving clock stepped forward"));
    assert!(newest_ahead_ms(&load) < 10_000);
    clock.step("+0");
    load.receive(100).await;
    assert_unharmed(&load.finish().await);
}

/// A wall clock that is wrong at the start is believed, with a warning, and left slowly: neither is a leap.
#[tokio::test]
async fn start_with_a_wrong_wall_clock() {
    let server = Chrony::start(0).await;
    for offset in ["+3600", "-3600"] {
        let (clock, directory) = (WallClock::new(offset), TempDir::new().unwrap());
        let mut node = clock.of(serve(directory.path(), &[&server])).start().await;
        let load = Load::on(node.address(), CLIENTS);
        let warning = node.logged("off NTP, more than the 100 ms").await;
        assert!(warning.contains("slew"), "{warning}");
        status(&node, "degraded").await;
        load_goes_on(&load).await;
        assert_eq!(node.counter("clock_leap_total").await, 0);
        assert_unharmed(&load.finish().await);
    }
}
