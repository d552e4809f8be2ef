//! What holds wherever the archive is.

use std::time::Duration;

use serde_json::{Value, json};
use snowmint::{Layout, Slot};
use snowmint_server::audit::Scope;
use snowmint_server::audit::verify::{Options, verify};
use snowmint_server::sink::archive::ArchiveSettings;
use tempfile::TempDir;
use test_servers::Proxy;
use tokio::runtime::Handle;
use uuid::Uuid;

use super::node::{HOUR_MS, Node, SLOT, failed, issued, settings};
use super::place::Place;
use super::read::{assert_whole, read};
use super::until;

/// How far a clock is set back.
const BACK_MS: u64 = 5 * 3_600_000;

const OTHER: Slot = Slot { datacenter: 1, worker: 0 };

#[tokio::test(flavor = "multi_thread")]
async fn directory() {
    suite(&Place::directory()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3() {
    suite(&Place::s3().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hdfs() {
    suite(&Place::hdfs().await).await;
}

async fn suite(place: &Place) {
    objects_have_the_documents_keys_and_form(place).await;
    an_hour_that_several_hold_has_numbered_objects(place).await;
    an_archive_that_is_away_costs_no_record(place).await;
    one_that_hangs_or_whose_answers_are_lost_has_every_object_once(place).await;
    one_that_is_slow_has_every_object_once(place).await;
}

/// Killed, and started again with a clock that was set back by hours, and again when it is right: each record is in an
/// object of its hour, and its chain goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_set_back_by_hours_is_no_finding() {
    let place = Place::directory();
    let (directory, objects, journal) = (TempDir::new().unwrap(), place.objects("back"), Uuid::new_v4());
    let mut next = 0;
    for at_ms in [HOUR_MS, HOUR_MS - BACK_MS, HOUR_MS - BACK_MS + 3_599_000, HOUR_MS + 10_000] {
        let mut node = Node::start(directory.path(), journal, next, objects.clone());
        node.deliver((0..5).map(|n| issued(at_ms + n * 1_000, SLOT, 10)).collect()).await;
        node.deliver(vec![failed(at_ms + 10)]).await;
        next = node.next();
        node.kill();
    }
    Node::start(directory.path(), journal, next, objects.clone()).stop().await;
    let lines = read(&objects).await;
    assert_eq!(assert_whole(&lines).len(), 24);
    let keys: Vec<_> = lines.keys().filter(|key| key.slot.is_some()).map(|key| key.stem()).collect();
    assert_eq!(
        keys,
        [
            "dc0_worker5_20240103_14",
            "dc0_worker5_20240103_15",
            "dc0_worker5_20240103_19",
            "dc0_worker5_20240103_19-2"
        ]
    );
    let options = Options { scope: Scope::default(), layout: Layout::default(), whole: true };
    let runtime = Handle::current();
    let verify = move || verify(&runtime, &objects, &options, &mut |_| {}).unwrap();
    let report = tokio::task::spawn_blocking(verify).await.unwrap();
    assert!(report.proven && report.ids == 200, "{:?}", report.findings);
}

/// Hours that are over are uploaded without a stop; a stop uploads the rest.
async fn objects_have_the_documents_keys_and_form(place: &Place) {
    let (directory, objects) = (TempDir::new().unwrap(), place.objects("keys"));
    let mut node = Node::start(directory.path(), Uuid::new_v4(), 0, objects.clone());
    let next_hour_ms = HOUR_MS + 3_600_000;
    node.deliver(vec![
        issued(HOUR_MS + 1, SLOT, 1),
        failed(HOUR_MS + 2),
        issued(HOUR_MS + 3, OTHER, 1_000),
        issued(next_hour_ms, SLOT, 1),
        // The hour before has a straggler.
        issued(next_hour_ms - 1, SLOT, 1),
    ])
    .await;
    until("an hour that is over is uploaded", async || read(&objects).await.len() == 1).await;
    node.stop().await;

    let lines = read(&objects).await;
    let keys: Vec<_> = lines.keys().map(ToString::to_string).collect();
    assert_eq!(
        keys,
        [
            "year=2024/month=01/day=03/hour=19/no_slot_20240103_19.json.gz",
            "year=2024/month=01/day=03/hour=19/dc0_worker5_20240103_19.json.gz",
            "year=2024/month=01/day=03/hour=19/dc1_worker0_20240103_19.json.gz",
            "year=2024/month=01/day=03/hour=20/dc0_worker5_20240103_20.json.gz",
        ]
    );
    let numbers: Vec<_> = assert_whole(&lines).into_iter().map(|(_, number)| number).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4]);
    let record: Value =
        serde_json::from_str(&lines[&keys[1].parse().unwrap()][0]).expect("it is JSON, line by line");
    assert_eq!(record["event_type"], "id_generated");
    assert_eq!(record["timestamp"], "2024-01-03T19:00:00.001Z");
    assert_eq!(
        record["request_metadata"],
        json!({ "client_ip": "192.168.1.100", "user_agent": "MyApp/1.0", "request_id": "req-123456",
                "api_version": "v1", "api": "rest" })
    );
    let several: Value = serde_json::from_str(&lines[&keys[2].parse().unwrap()][0]).unwrap();
    assert_eq!((&several["event_type"], &several["count"]), (&json!("ids_issued"), &json!(1_000)));
    let left: Vec<_> = std::fs::read_dir(directory.path().join("archive")).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

/// Two processes that both held the slot, at the same time, and one of them again.
async fn an_hour_that_several_hold_has_numbered_objects(place: &Place) {
    let (one, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let objects = place.objects("numbers");
    let (one_journal, other_journal) = (Uuid::new_v4(), Uuid::new_v4());
    for life in 0..2 {
        let mut one = Node::start(one.path(), one_journal, life, objects.clone());
        let mut other = Node::start(other.path(), other_journal, life, objects.clone());
        one.deliver(vec![issued(HOUR_MS + life, SLOT, 1)]).await;
        other.deliver(vec![issued(HOUR_MS + 100 + life, SLOT, 1)]).await;
        tokio::join!(one.stop(), other.stop());
    }
    let lines = read(&objects).await;
    let numbers: Vec<_> = lines.keys().map(|key| key.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    assert_eq!(assert_whole(&lines).len(), 4);
}

async fn an_archive_that_is_away_costs_no_record(place: &Place) {
    let (directory, objects) = (TempDir::new().unwrap(), place.objects("away"));
    let small = ArchiveSettings { spool_bytes_max: 60_000, ..settings() };
    let journal = Uuid::new_v4();
    let mut node = Node::start_with(directory.path(), journal, 0, objects.clone(), small);
    node.deliver(vec![issued(HOUR_MS, SLOT, 1)]).await;
    place.kill("away");
    // Until there is no more room: then the journal keeps what follows.
    let mut at_ms = HOUR_MS;
    let refused = loop {
        at_ms += 1_000;
        let events: Vec<_> = (0..100).map(|n| issued(at_ms + n, SLOT, 1)).collect();
        if let Err(error) = node.offer(events).await {
            break error.to_string();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(refused.contains("audit.spool_max_bytes"), "{refused}");
    until("it is said", async || node.state.status().last_error.is_some()).await;
    place.restart("away").await;
    until("what waits is uploaded", async || {
        node.offer((0..100).map(|n| issued(at_ms + n, SLOT, 1)).collect()).await.is_ok()
    })
    .await;
    let next = node.next();
    node.stop().await;
    let numbers: Vec<_> = assert_whole(&read(&objects).await).into_iter().map(|(_, number)| number).collect();
    assert_eq!(numbers, (0..next).collect::<Vec<_>>());
}

async fn one_that_hangs_or_whose_answers_are_lost_has_every_object_once(place: &Place) {
    let Some(address) = place.address() else { return };
    let directory = TempDir::new().unwrap();
    let proxy = Proxy::start(address).await;
    let mut node = Node::start(directory.path(), Uuid::new_v4(), 0, place.objects_over("lost", &proxy));
    let mut at_ms = HOUR_MS;
    let mut events = || {
        at_ms += 1_000;
        (0..100).map(|n| issued(at_ms + n, SLOT, 1)).collect::<Vec<_>>()
    };
    for _ in 0..2 {
        let failed = |error: &Option<String>| error.is_some();
        proxy.swallow_replies().await;
        node.deliver(events()).await;
        until("an answer is lost", async || failed(&node.state.status().last_error)).await;
        proxy.pass().await;
        until("it is uploaded", async || !failed(&node.state.status().last_error)).await;
        if place.pause() {
            node.deliver(events()).await;
            until("it hangs", async || failed(&node.state.status().last_error)).await;
            place.resume();
            until("it is uploaded", async || !failed(&node.state.status().last_error)).await;
        }
    }
    let next = node.next();
    node.stop().await;
    let lines = read(&place.objects("lost")).await;
    let numbers: Vec<_> = assert_whole(&lines).into_iter().map(|(_, number)| number).collect();
    assert_eq!(numbers, (0..next).collect::<Vec<_>>());
}

/// So slow that some uploads end in time, and others do not.
async fn one_that_is_slow_has_every_object_once(place: &Place) {
    let Some(address) = place.address() else { return };
    let directory = TempDir::new().unwrap();
    let proxy = Proxy::start(address).await;
    let mut node = Node::start(directory.path(), Uuid::new_v4(), 0, place.objects_over("slow", &proxy));
    for (round, delay_ms) in (0..).zip([50, 800]) {
        proxy.slow(Duration::from_millis(delay_ms)).await;
        let at_ms = HOUR_MS + round * 1_000;
        node.deliver((0..100).map(|n| issued(at_ms + n, SLOT, 1)).collect()).await;
        let (before, tried) = (node.state.status().objects, || node.state.status());
        until("it is tried", async || tried().objects > before || tried().last_error.is_some()).await;
    }
    proxy.pass().await;
    let next = node.next();
    node.stop().await;
    let numbers: Vec<_> =
        assert_whole(&read(&place.objects("slow")).await).into_iter().map(|(_, number)| number).collect();
    assert_eq!(numbers, (0..next).collect::<Vec<_>>());
}
