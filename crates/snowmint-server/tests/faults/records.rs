//! What was issued is in the metrics store, once, whatever is done to the node, the store, and the disk.
//!
//! Each scenario has two sizes, as those of `fleet` have.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use snowmint_server::journal::IDLE_MS;
use snowmint_server::sink::clickhouse::INSERT_MS_MAX;
use tempfile::TempDir;
use test_servers::ClickHouse;
use tokio::process::Command;
use tokio::time::sleep;
use uuid::Uuid;

use crate::checker::Checker;
use crate::disk::{limit_files, serve_on_small_disk};
use crate::fleet::{Loaded, eventually, figure, size};
use crate::load::{Journal, Load, Receipt};
use crate::process::{BINARY, Node, Serve, until};

const CLIENTS: u32 = 2;

/// The most IDs that a client asks for at once.
const IDS_A_REQUEST_MAX: u64 = 1_000;

/// Answers between two kills, at least: a second or more, so that batches are on their way when it comes.
const ANSWERS_A_LIFE: usize = 1_000;

/// The pause of a sink that was away for long, an insert that is given up, and the backlog.
const SETTLED: Duration = Duration::from_mins(3);

/// How much more memory a node may have while its sink is away, in kB.
const GROWTH_KB_MAX: u64 = 64 << 10;

/// How long a disk that is busy with other tests may keep the journal's writer from its queue.
const STALL: Duration = Duration::from_secs(2);

/// Received IDs are compared with the store's in so many parts, each of which fits its memory.
const PARTS: u64 = 8;

/// Rows in one insert of what was received.
const ROWS_MAX: usize = 50_000;

/// Strict: an acknowledged ID is in `ClickHouse`, and none is there twice, through kill -9 of either, also of both at once.
#[tokio::test(flavor = "multi_thread")]
async fn every_id_reaches_clickhouse_once_through_kills_of_both() {
    let (node_kills, kills_a_store_kill) = size((3, 3), (20, 4));
    let (store, directory) = (Store::start().await, TempDir::new().unwrap());
    let serve = || store.serve(directory.path()).set("journal.durability", "strict");
    let mut loaded = Loaded::start(serve(), "node", CLIENTS).await;
    for kill in 1..=node_kills {
        loaded.load.receive(ANSWERS_A_LIFE + kill * 37).await;
        let both = kill % kills_a_store_kill == 0;
        if both {
            store.server.kill();
            loaded.load.receive(ANSWERS_A_LIFE / 2).await;
        }
        loaded.kill_and_restart(serve()).await;
        if both {
            loaded.load.receive(ANSWERS_A_LIFE / 2).await;
            store.server.restart().await;
        }
    }
    loaded.load.receive(ANSWERS_A_LIFE).await;
    let (journal, node) = settled(loaded, serve()).await;
    assert_eq!(journal.failures, []);
    let ids = store.assert_has_once(&node, &journal).await;
    figure("records", format!("{node_kills} kills of the node, {ids} IDs in ClickHouse, each once"));
}

/// A `ClickHouse` that is gone.
#[tokio::test(flavor = "multi_thread")]
async fn clickhouse_away_costs_no_request() {
    away("gone", async |store| store.server.kill(), async |store| store.server.restart().await).await;
}

/// One that takes connections and answers nothing.
#[tokio::test(flavor = "multi_thread")]
async fn clickhouse_hung_costs_no_request() {
    away("hung", async |store| store.server.pause(), async |store| store.server.resume()).await;
}

/// One that answers every insert with an error, when it has taken some of it.
#[tokio::test(flavor = "multi_thread")]
async fn clickhouse_refusing_costs_no_request() {
    let refuse = async |store: &Store| store.alter_events("MODIFY SETTING parts_to_throw_insert = 1").await;
    let take = async |store: &Store| store.alter_events("RESET SETTING parts_to_throw_insert").await;
    away("refusing", refuse, take).await;
}

/// The store is away for a while: no request fails, the memory is flat, and everything is there afterwards, once.
async fn away(how: &str, leave: impl AsyncFn(&Store), back: impl AsyncFn(&Store)) {
    let length = size(Duration::from_secs(10), Duration::from_mins(5));
    let (store, directory) = (Store::start().await, TempDir::new().unwrap());
    let loaded = Loaded::start(store.serve(directory.path()), "node", CLIENTS).await;
    loaded.load.receive(ANSWERS_A_LIFE).await;
    let node = loaded.node();
    until(|| async { !sink(node).await["last_success"].is_null() }, "a first batch").await;

    let (before_kb, begun) = (memory_kb(node), Instant::now());
    let mut most_kb = before_kb;
    leave(&store).await;
    while begun.elapsed() < length {
        sleep(Duration::from_millis(100)).await;
        most_kb = most_kb.max(memory_kb(node));
    }
    let lag = sink(node).await["lag_events"].as_u64().unwrap();
    // It may still be an insert that takes long.
    if how != "hung" || length > Duration::from_millis(INSERT_MS_MAX * 3 / 2) {
        assert_degraded(node).await;
    }
    back(&store).await;
    loaded.load.receive(ANSWERS_A_LIFE).await;
    let (journal, node) = settled(loaded, store.serve(directory.path())).await;

    journal.assert_no_failure();
    let longest = journal.took.iter().max().unwrap();
    let grown_kb = most_kb - before_kb;
    figure(
        "records",
        format!("ClickHouse {how} for {length:?}: {lag} events waited, {grown_kb} kB more memory"),
    );
    figure(
        "records",
        format!("ClickHouse {how}: {} answers, the longest took {longest:?}", journal.took.len()),
    );
    assert!(lag > 0);
    assert!(grown_kb <= GROWTH_KB_MAX, "{before_kb} kB before, {most_kb} kB then");
    store.assert_has_once(&node, &journal).await;
}

async fn assert_degraded(node: &Node) {
    let health = node.get_json("/api/v1/health").await;
    assert_eq!(health["status"], "degraded", "{health}");
    assert!(health["reasons"].to_string().contains("clickhouse: ClickHouse at http://"), "{health}");
    assert!(node.counter("sink_failures_total{sink=\"clickhouse\"}").await > 0);
}

/// Strict, in the embedded store: nothing acknowledged is missing after kill -9.
#[tokio::test(flavor = "multi_thread")]
async fn every_id_is_in_the_embedded_store_through_kills() {
    let (journal, kept, _) = embedded("strict").await;
    assert_eq!(missing(&journal, &kept).len(), 0);
}

/// Relaxed: kill -9 takes what was issued just before it, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn relaxed_loses_the_last_moments_before_a_kill() {
    let (journal, kept, kills) = embedded("relaxed").await;
    let missing = missing(&journal, &kept);
    // After the last life, which ended in peace, there is no kill that could explain a loss.
    let before_kill = |receipt: &Receipt| {
        let kill = kills.get(receipt.life as usize - 1).expect("nothing is lost but by a kill");
        kill.saturating_duration_since(receipt.asked)
    };
    let longest = missing.iter().map(before_kill).max().unwrap_or_default();
    let answers = answers(&missing);
    figure(
        "records",
        format!("relaxed: {} kills lost {answers} answers, up to {longest:?} before", kills.len()),
    );
    assert!(longest <= Duration::from_millis(IDLE_MS) + STALL, "{longest:?}");
}

/// Kills a node with an embedded store over and over: what was received, what the store has, and when it was killed.
async fn embedded(durability: &str) -> (Journal, Vec<Run>, Vec<Instant>) {
    let directory = TempDir::new().unwrap();
    let serve = || Serve::new(directory.path()).set("journal.durability", durability);
    let mut loaded = Loaded::start(serve(), "node", CLIENTS).await;
    let mut kills = Vec::new();
    for kill in 0..size(3, 30) {
        // Longer than what may be lost.
        loaded.load.receive(2 * ANSWERS_A_LIFE + kill * 37).await;
        kills.push(Instant::now());
        loaded.kill_and_restart(serve()).await;
    }
    loaded.load.receive(ANSWERS_A_LIFE).await;
    let (journal, node) = settled(loaded, serve()).await;
    assert_eq!(journal.failures, []);
    let kept = kept(directory.path());
    let total: u64 = kept.iter().map(|run| run.count).sum();
    assert_eq!(reported(&node).await, total, "the report is of what the rows have");
    // Those that wait for an answer when the node is killed have IDs that no client has.
    let received: u64 = journal.receipts.iter().map(|receipt| receipt.count).sum();
    let on_the_way = (kills.len() as u64 + 1) * u64::from(CLIENTS) * IDS_A_REQUEST_MAX;
    assert!(total <= received + on_the_way, "{total} are kept, {received} were received");
    figure("records", format!("{durability}: {received} IDs received, {total} in the embedded store"));
    (journal, kept, kills)
}

/// Relaxed, without room: requests go on, what is not written down is counted, and writing resumes by itself.
#[tokio::test(flavor = "multi_thread")]
async fn full_disk_relaxed_sheds_and_counts() {
    let full = FullDisk::start("relaxed").await;
    full.node.counted("events_shed_total", 100).await;
    full.load.receive(ANSWERS_A_LIFE / 2).await;
    full.assert_told().await;
    full.room_again().await;
    let shed = full.node.counter("events_shed_total").await;
    let (journal, kept) = full.settled().await;
    journal.assert_no_failure();
    let missing = answers(&missing(&journal, &kept));
    figure(
        "records",
        format!("disk full, relaxed: {shed} events shed, {missing} answers are not in the store"),
    );
    assert!((1..=shed).contains(&missing), "{missing} are missing, {shed} were shed");
}

/// Strict, without room: requests are refused with a code of their own, and get IDs again by themselves.
#[tokio::test(flavor = "multi_thread")]
async fn full_disk_strict_refuses() {
    let full = FullDisk::start("strict").await;
    until(|| async { full.load.look(|journal| journal.failures.len() > 100) }, "refusals").await;
    full.assert_told().await;
    let refusal = full.node.get("/api/v1/id").await;
    assert!(refusal.status == 503 && refusal.body.contains("AUDIT_UNAVAILABLE"), "{}", refusal.body);
    full.room_again().await;
    let (journal, kept) = full.settled().await;
    for failure in &journal.failures {
        assert_eq!((failure.status, failure.code.as_str()), (503, "AUDIT_UNAVAILABLE"), "{failure:?}");
    }
    assert_eq!((journal.closed, journal.cut), (0, 0));
    assert_eq!(missing(&journal, &kept).len(), 0);
    figure("records", format!("disk full, strict: {} refused, no ID is missing", journal.failures.len()));
}

/// A node under load whose disk takes nothing more. Its window is longer than that lasts.
struct FullDisk {
    directory: TempDir,
    durability: &'static str,
    node: Node,
    load: Load,
}

impl FullDisk {
    async fn start(durability: &'static str) -> Self {
        let directory = TempDir::new().unwrap();
        let serve = serve_on_small_disk(&directory, "").set("lease.window_ms", "120000");
        let node = serve.set("journal.durability", durability).start().await;
        let load = Load::on(node.address(), CLIENTS);
        load.receive(ANSWERS_A_LIFE / 2).await;
        limit_files(&node, Some(0));
        Self { directory, durability, node, load }
    }

    async fn assert_told(&self) {
        let health = self.node.get_json("/api/v1/health").await;
        assert_eq!(health["status"], "degraded", "{health}");
        assert!(health["journal"]["problem"].as_str().unwrap().contains("cannot write"), "{health}");
    }

    async fn room_again(&self) {
        limit_files(&self.node, None);
        let problem = async || self.node.get_json("/api/v1/health").await["journal"]["problem"].clone();
        until(|| async { problem().await.is_null() }, "the journal is written again").await;
        self.load.receive(ANSWERS_A_LIFE / 2).await;
    }

    async fn settled(self) -> (Journal, Vec<Run>) {
        let loaded = Loaded { name: "node".to_owned(), node: Some(self.node), load: self.load };
        let serve = Serve::new(self.directory.path()).set("journal.durability", self.durability);
        let (journal, _node) = settled(loaded, serve).await;
        (journal, kept(self.directory.path()))
    }
}

/// Ends the load and waits until the node has brought what it wrote down to the store. Then stops it, so that what was
/// still in its memory is written down, and waits for that in its next life.
async fn settled(loaded: Loaded, serve: Serve) -> (Journal, Node) {
    let journal = loaded.load.finish().await;
    let (node, ended) = (loaded.node.expect("it runs"), Instant::now());
    let delivered = async |node: &Node| sink(node).await["lag_events"] == 0;
    eventually(SETTLED, "all is in the store", async || delivered(&node).await).await;
    figure("records", format!("all was in the store {:?} after the last answer", ended.elapsed()));
    node.stop().await;
    let node = serve.start().await;
    eventually(SETTLED, "all is in the store", async || delivered(&node).await).await;
    journal.assert_increasing();
    let mut checker = Checker::default();
    checker.add("node", &journal);
    checker.assert_unique();
    (journal, node)
}

/// How the node's only sink is.
async fn sink(node: &Node) -> Value {
    node.get_json("/api/v1/health").await["sinks"][0].take()
}

/// How many IDs the node's report has, all minutes together.
async fn reported(node: &Node) -> u64 {
    let report = node.get_json("/api/v1/reports/ids-per-second").await;
    assert_eq!(report["truncated"], false);
    report["rows"].as_array().unwrap().iter().map(|row| row["ids_generated"].as_u64().unwrap()).sum()
}

fn memory_kb(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid().as_raw_nonzero())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A row of the embedded store: consecutive IDs.
struct Run {
    first: u64,
    count: u64,
}

/// What the embedded store has, in order; no ID twice.
fn kept(data_dir: &Path) -> Vec<Run> {
    let database =
        Connection::open_with_flags(data_dir.join("metrics.db"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let select = "SELECT first_id, count FROM id_generation_events WHERE error_code = 0 ORDER BY first_id";
    let mut statement = database.prepare(select).unwrap();
    let number = |row: &rusqlite::Row<'_>, column| row.get(column).map(i64::cast_unsigned);
    let run = |row: &rusqlite::Row<'_>| Ok(Run { first: number(row, 0)?, count: number(row, 1)? });
    let runs: Vec<Run> = statement.query_map([], run).unwrap().map(Result::unwrap).collect();
    assert!(runs.is_sorted_by(|run, next| run.first + run.count <= next.first), "an ID is there twice");
    runs
}

/// What was received and is in none of the runs.
fn missing(journal: &Journal, kept: &[Run]) -> Vec<Receipt> {
    let is_kept = |receipt: &&Receipt| {
        let behind = kept.partition_point(|run| run.first <= receipt.first);
        behind > 0 && receipt.last() < kept[behind - 1].first + kept[behind - 1].count
    };
    journal.receipts.iter().filter(|receipt| !is_kept(receipt)).copied().collect()
}

/// How many answers these came in.
fn answers(receipts: &[Receipt]) -> u64 {
    let answers: BTreeSet<_> = receipts.iter().map(|receipt| (receipt.connection, receipt.asked)).collect();
    answers.len() as u64
}

/// A `ClickHouse` with the schema, in a database of its own.
struct Store {
    server: ClickHouse,
    database: String,
}

impl Store {
    async fn start() -> Self {
        let store = Self {
            server: ClickHouse::start().await,
            database: format!("snowmint_test_{}", Uuid::new_v4().simple()),
        };
        let mut command = Command::new(BINARY);
        command.args(["schema", "apply"]).env_remove("SNOWMINT_FAULTS_WHOLE").kill_on_drop(true);
        command.env("SNOWMINT_CLICKHOUSE__URL", store.server.url());
        command.env("SNOWMINT_CLICKHOUSE__DATABASE", &store.database);
        let output = command.output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        store
    }

    /// A node to be started whose events go there.
    fn serve(&self, data_dir: &Path) -> Serve {
        let serve = Serve::new(data_dir).set("clickhouse.url", &self.server.url());
        serve.set("clickhouse.database", &self.database)
    }

    async fn alter_events(&self, change: &str) {
        self.server.query(&format!("ALTER TABLE {}.id_generation_events {change}", self.database)).await;
    }

    async fn number(&self, sql: &str) -> u64 {
        self.server.query(sql).await.trim().parse().unwrap()
    }

    /// After merges: what was received is there, nothing is there twice, and the node's report says how many
    /// there are, which this does too.
    async fn assert_has_once(&self, node: &Node, journal: &Journal) -> u64 {
        let events = format!("{}.id_generation_events", self.database);
        self.server.query(&format!("OPTIMIZE TABLE {events} FINAL")).await;
        self.server.query(&format!("OPTIMIZE TABLE {}.id_generation_minutely FINAL", self.database)).await;
        let total = self.number(&format!("SELECT count() FROM {events} WHERE error_code = 0")).await;
        let different = format!("SELECT uniqExact(generated_id) FROM {events} WHERE error_code = 0");
        assert_eq!(self.number(&different).await, total, "an ID is there twice");

        let received = self.insert_received(journal).await;
        let mut found = 0;
        for part in 0..PARTS {
            let ids = format!(
                "SELECT arrayJoin(range(first, first + count)) AS id FROM {}.received",
                self.database
            );
            found += self
                .number(&format!(
                    "SELECT count() FROM {events} WHERE error_code = 0 AND generated_id % {PARTS} = {part} \
                     AND generated_id IN (SELECT id FROM ({ids}) WHERE id % {PARTS} = {part})"
                ))
                .await;
        }
        assert_eq!(found, received, "received, of those that are there");
        assert_eq!(reported(node).await, total, "the report's sum");
        figure("records", format!("{received} IDs received, {total} in ClickHouse"));
        total
    }

    /// Puts what was received into a table: how many IDs that are.
    async fn insert_received(&self, journal: &Journal) -> u64 {
        let table = format!("{}.received", self.database);
        self.server.query(&format!("CREATE TABLE {table} (first Int64, count Int64) ENGINE = Memory")).await;
        for receipts in journal.receipts.chunks(ROWS_MAX) {
            let mut insert = format!("INSERT INTO {table} VALUES");
            for receipt in receipts {
                write!(insert, " ({}, {})", receipt.first, receipt.count).unwrap();
            }
            self.server.query(&insert).await;
        }
        journal.receipts.iter().map(|receipt| receipt.count).sum()
    }
}
