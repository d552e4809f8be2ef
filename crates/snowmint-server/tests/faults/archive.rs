//! What was issued is in the audit archive, once, whatever is done to the node, the archive, and the disk.
//!
//! Each scenario has two sizes, as those of `fleet` have.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use snowmint::Layout;
use snowmint_server::archive::Record;
use snowmint_server::audit::Scope;
use snowmint_server::audit::verify::{Options, Report, verify};
use snowmint_server::config::S3;
use snowmint_server::objects::Objects;
use tempfile::TempDir;
use test_servers::Proxy;
use tokio::runtime::Handle;
use tokio::time::sleep;

use crate::disk::{limit_files, serve_on_small_disk};
use crate::fleet::{Loaded, eventually, figure, size};
use crate::load::{Journal, Load};
use crate::process::{Node, Serve, until};
use place::Place;
use read::{assert_whole, read};

#[allow(dead_code, reason = "the archive's own tests use more of it")]
#[path = "../archive/place.rs"]
mod place;
#[path = "../archive/read.rs"]
mod read;

const CLIENTS: u32 = 2;

/// Answers between two kills, at least.
const ANSWERS_A_LIFE: usize = 300;

/// The backlog of the whole size on a busy machine, and the longest pause between two tries.
const SETTLED: Duration = Duration::from_mins(10);

/// How long a slow store takes for each piece of a request and of its answer.
const SLOW: Duration = Duration::from_millis(500);

/// What is the matter with a store, for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// It is not there.
    Gone,
    /// It answers nothing, and does later what it was asked for, when nobody waits any more.
    Hung,
    /// It is slow.
    Slow,
}

/// A node whose archive is there, or behind a proxy, with objects of some hundreds of records.
fn serve(data_dir: &Path, place: &Place, proxy: Option<&Proxy>) -> Serve {
    let url = proxy.map_or_else(|| place.url("audit"), |proxy| place.url_over("audit", proxy));
    let mut serve = Serve::new(data_dir)
        .set("audit.url", &url)
        .set("audit.object_bytes", "65536")
        .set("journal.durability", "strict");
    let S3 { endpoint, region, access_key_id, secret_access_key_file, .. } =
        place.s3_access(proxy.map(Proxy::addr));
    let secret = secret_access_key_file.map(|file| file.display().to_string());
    for (key, value) in [
        ("s3.endpoint", endpoint),
        ("s3.region", region),
        ("s3.access_key_id", access_key_id),
        ("s3.secret_access_key_file", secret),
    ] {
        if let Some(value) = value {
            serve = serve.set(key, &value);
        }
    }
    serve
}

#[tokio::test(flavor = "multi_thread")]
async fn directory_has_every_id_through_kills() {
    kills(&Place::directory(), size(5, 100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_has_every_id_through_kills() {
    kills(&Place::s3().await, size(5, 100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hdfs_has_every_id_through_kills() {
    kills(&Place::hdfs().await, size(5, 100)).await;
}

/// Strict: what was acknowledged is in the archive once, through kill -9 of the node.
async fn kills(place: &Place, kills: usize) {
    let directory = TempDir::new().unwrap();
    let mut loaded = Loaded::start(serve(directory.path(), place, None), "node", CLIENTS).await;
    for kill in 0..kills {
        loaded.load.receive(ANSWERS_A_LIFE + (kill * 37) % 500).await;
        loaded.kill_and_restart(serve(directory.path(), place, None)).await;
    }
    loaded.load.receive(ANSWERS_A_LIFE).await;
    let journal = settled(loaded, directory.path(), || serve(directory.path(), place, None)).await;
    assert_eq!(journal.failures, []);
    let (received, objects) = assert_has_once(&place.objects("audit"), &journal).await;
    figure("archive", format!("{kills} kills, {received} IDs received, each once in {objects} objects"));
}

#[tokio::test(flavor = "multi_thread")]
async fn directory_away_costs_no_request_and_no_record() {
    costs_nothing(&Place::directory(), Trouble::Gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_away_costs_no_request_and_no_record() {
    costs_nothing(&Place::s3().await, Trouble::Gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_hung_costs_no_request_and_no_record() {
    costs_nothing(&Place::s3().await, Trouble::Hung).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_slow_costs_no_request_and_no_record() {
    costs_nothing(&Place::s3().await, Trouble::Slow).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hdfs_away_costs_no_request_and_no_record() {
    costs_nothing(&Place::hdfs().await, Trouble::Gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hdfs_hung_costs_no_request_and_no_record() {
    costs_nothing(&Place::hdfs().await, Trouble::Hung).await;
}

/// Its name node is: what it says goes through the proxy.
#[tokio::test(flavor = "multi_thread")]
async fn hdfs_slow_costs_no_request_and_no_record() {
    costs_nothing(&Place::hdfs().await, Trouble::Slow).await;
}

async fn costs_nothing(place: &Place, trouble: Trouble) {
    let length = size(Duration::from_secs(10), Duration::from_mins(5));
    let directory = TempDir::new().unwrap();
    let proxy = match place.address() {
        Some(address) if trouble == Trouble::Slow => Some(Proxy::start(address).await),
        _ => None,
    };
    let serve = || serve(directory.path(), place, proxy.as_ref());
    let loaded = Loaded::start(serve(), "node", CLIENTS).await;
    loaded.load.receive(ANSWERS_A_LIFE).await;
    let begun = Instant::now();
    begin(trouble, place, proxy.as_ref()).await;
    let mut waited = 0;
    while begun.elapsed() < length {
        sleep(Duration::from_millis(100)).await;
        waited = waited.max(waiting_bytes(loaded.node()).await);
    }
    end(trouble, place, proxy.as_ref()).await;
    let ended = Instant::now();
    loaded.load.receive(ANSWERS_A_LIFE).await;
    let journal = settled(loaded, directory.path(), serve).await;
    journal.assert_no_failure();
    let settled = ended.elapsed();
    let (received, objects) = assert_has_once(&place.objects("audit"), &journal).await;
    let longest = journal.took.iter().max().unwrap();
    figure(
        "archive",
        format!(
            "{trouble:?} for {length:?}: {waited} bytes waited, and {settled:.1?} later none; {received} IDs received, each once in {objects} objects, the longest answer took {longest:?}"
        ),
    );
}

async fn begin(trouble: Trouble, place: &Place, proxy: Option<&Proxy>) {
    match trouble {
        Trouble::Gone => place.kill("audit"),
        Trouble::Hung => assert!(place.pause(), "a directory does not hang"),
        Trouble::Slow => proxy.expect("it is reached over one").slow(SLOW).await,
    }
}

async fn end(trouble: Trouble, place: &Place, proxy: Option<&Proxy>) {
    match trouble {
        Trouble::Gone => place.restart("audit").await,
        Trouble::Hung => place.resume(),
        Trouble::Slow => proxy.expect("it is reached over one").pass().await,
    }
}

/// `audit.required`, without room: requests are refused, and get IDs again by themselves; `/readyz` says so.
#[tokio::test(flavor = "multi_thread")]
async fn required_refuses_what_cannot_be_written_down() {
    let (directory, place) = (TempDir::new().unwrap(), Place::directory());
    let node = serve_on_small_disk(&directory, "")
        .set("lease.window_ms", "120000")
        .set("audit.url", &place.url("audit"))
        .set("audit.required", "true")
        .start()
        .await;
    let load = Load::on(node.address(), CLIENTS);
    load.receive(ANSWERS_A_LIFE).await;
    assert_eq!(node.get("/readyz").await.status, 200);
    limit_files(&node, Some(0));
    until(|| async { load.look(|journal| journal.failures.len() > 100) }, "refusals").await;
    let refusal = node.get("/api/v1/id").await;
    assert!(refusal.status == 503 && refusal.body.contains("AUDIT_UNAVAILABLE"), "{}", refusal.body);
    let unready = node.get("/readyz").await;
    assert!(unready.status == 503 && unready.body.contains("audit.required"), "{}", unready.body);
    limit_files(&node, None);
    until(|| async { node.get("/readyz").await.status == 200 }, "it is ready").await;
    load.receive(ANSWERS_A_LIFE).await;
    let loaded = Loaded { name: "node".to_owned(), node: Some(node), load };
    let url = place.url("audit");
    let journal =
        settled(loaded, directory.path(), || Serve::new(directory.path()).set("audit.url", &url)).await;
    for failure in &journal.failures {
        assert_eq!((failure.status, failure.code.as_str()), (503, "AUDIT_UNAVAILABLE"), "{failure:?}");
    }
    let (received, _) = assert_has_once(&place.objects("audit"), &journal).await;
    figure(
        "archive",
        format!("required, disk full: {} refused, {received} IDs received", journal.failures.len()),
    );
}

/// Ends the load, and the node, again and again until all that it wrote down is in the archive.
async fn settled(loaded: Loaded, data_dir: &Path, serve: impl Fn() -> Serve) -> Journal {
    let journal = loaded.load.finish().await;
    let mut node = loaded.node.expect("it runs");
    let spool = data_dir.join("journal/archive");
    let files = |ending: &str| {
        let files = std::fs::read_dir(&spool).unwrap();
        files.filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().ends_with(ending)).count()
    };
    let begun = Instant::now();
    loop {
        eventually(SETTLED, "the archive has what is sealed", async || {
            lag(&node).await == 0 && files(".json.gz") == 0
        })
        .await;
        node.stop().await;
        // All but the state is gone.
        if files("") == 1 {
            break;
        }
        assert!(begun.elapsed() < SETTLED, "it is not uploaded");
        node = serve().start().await;
    }
    journal.assert_increasing();
    journal
}

async fn lag(node: &Node) -> u64 {
    let health = node.get_json("/api/v1/health").await;
    let sinks = health["sinks"].as_array().unwrap();
    sinks.iter().find(|sink| sink["name"] == "archive").unwrap()["lag_events"].as_u64().unwrap()
}

async fn waiting_bytes(node: &Node) -> u64 {
    node.get_json("/api/v1/health").await["archive"]["waiting_bytes"].as_u64().unwrap()
}

/// Everything that was received is there, and nothing twice, and `audit verify --whole` proves it: how many IDs that
/// are, and in how many objects.
async fn assert_has_once(objects: &Objects, journal: &Journal) -> (u64, usize) {
    let lines = read(objects).await;
    assert_whole(&lines);
    let mut runs = BTreeMap::new();
    for line in lines.values().flatten() {
        let record: Record<'_> = serde_json::from_str(line).unwrap();
        for ids in record.ids() {
            assert_eq!(runs.insert(ids.first.get(), u64::from(ids.count)), None, "{line}");
        }
    }
    let ends: Vec<_> = runs.iter().map(|(first, count)| (*first, first + count)).collect();
    assert!(ends.is_sorted_by(|(_, end), (next, _)| end <= next), "an ID is there twice");
    for receipt in &journal.receipts {
        let run = runs.range(..=receipt.first).next_back();
        assert!(run.is_some_and(|(first, count)| receipt.last() < first + count), "missing: {receipt:?}");
    }
    let Report { proven, ids, findings, .. } = verified(objects).await;
    assert!(proven, "{findings:#?}");
    assert_eq!(ids, runs.values().sum::<u64>());
    (journal.receipts.iter().map(|receipt| receipt.count).sum(), lines.len())
}

async fn verified(objects: &Objects) -> Report {
    let (runtime, objects) = (Handle::current(), objects.clone());
    let options = Options { scope: Scope::default(), layout: Layout::default(), whole: true };
    let verify = move || verify(&runtime, &objects, &options, &mut |_| {}).unwrap();
    tokio::task::spawn_blocking(verify).await.unwrap()
}
