//! The store in the data directory.

use std::fs;
use std::path::Path;

use jiff::Timestamp;
use serde_json::json;
use snowmint::Slot;
use snowmint_server::config::{Detail, MetricsStore};
use snowmint_server::event::Event;
use snowmint_server::report::{ROWS_MAX, Report, Reports};
use snowmint_server::sink::{Batch, EmbeddedStore, SLACK_BYTES, Sink};
use tempfile::TempDir;
use uuid::Uuid;

use crate::contract::{
    A, batches, check_answers, check_reports, day_ms, drifted, failed, history, issued, measured, scope,
};

fn store_with(directory: &Path, detail: Detail, max_bytes: u64) -> EmbeddedStore {
    EmbeddedStore::new(directory, MetricsStore { detail, max_bytes })
}

fn store(directory: &Path) -> EmbeddedStore {
    store_with(directory, Detail::Every, 1 << 30)
}

fn batch(journal: Uuid, first: u64, events: Vec<Event>) -> Batch {
    Batch { journal, first, events }
}

/// How many rows a table has, as the store says.
async fn rows(store: &EmbeddedStore, table: &str) -> u64 {
    let tables = store.report(Report::Tables, &scope(day_ms())).await.unwrap().rows;
    tables.iter().find(|row| row[0] == table).unwrap()[1].as_u64().unwrap()
}

async fn ids(store: &EmbeddedStore) -> u64 {
    let days = store.report(Report::Daily, &scope(day_ms())).await.unwrap().rows;
    days.iter().map(|row| row[3].as_u64().unwrap()).sum()
}

#[tokio::test]
async fn it_answers_as_every_store_does() {
    let directory = TempDir::new().unwrap();
    check_reports(&store(directory.path())).await;
}

#[tokio::test]
async fn what_was_stored_is_there_after_a_restart_and_counts_once_then_too() {
    let directory = TempDir::new().unwrap();
    let batches = batches();
    for batch in &batches {
        store(directory.path()).deliver(batch).await.unwrap();
    }
    let again = store(directory.path());
    for batch in &batches {
        again.deliver(batch).await.unwrap();
    }
    check_answers(&again).await;
}

#[tokio::test]
async fn a_batch_that_was_cut_differently_counts_once() {
    let directory = TempDir::new().unwrap();
    let store = store(directory.path());
    let (events, _) = history();
    let journal = Uuid::new_v4();
    store.deliver(&batch(journal, 0, events[..30].to_vec())).await.unwrap();
    store.deliver(&batch(journal, 10, events[10..].to_vec())).await.unwrap();
    check_answers(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_share_a_data_directory_share_the_store() {
    let directory = TempDir::new().unwrap();
    let deliver = async |worker: u16| {
        let (store, journal) = (store(directory.path()), Uuid::new_v4());
        for first in (0..2_000).step_by(100) {
            let event = |n: u64| issued(day_ms() + first + n, Slot { datacenter: 0, worker }, &[3], 50);
            store.deliver(&batch(journal, first, (0..100).map(event).collect())).await.unwrap();
        }
    };
    tokio::join!(deliver(1), deliver(2), deliver(3));
    assert_eq!(ids(&store(directory.path())).await, 3 * 2_000 * 3);
}

#[tokio::test]
async fn totals_are_exact_whatever_the_detail() {
    for (detail, expected) in [("sampled 10", 13), ("none", 0)] {
        let directory = TempDir::new().unwrap();
        let detail = Detail::try_from(detail.to_owned()).unwrap();
        let store = store_with(directory.path(), detail, 1 << 30);
        store.deliver(&batch(Uuid::new_v4(), 0, history().0)).await.unwrap();
        let days = store.report(Report::Daily, &scope(day_ms() - 1)).await.unwrap().rows;
        assert_eq!(days.iter().map(|row| row[3].as_u64().unwrap()).sum::<u64>(), 2_774);
        let got = rows(&store, "id_generation_events").await;
        assert!(got.abs_diff(expected) <= 2, "{got} rows of {detail}");
    }
}

#[tokio::test]
async fn a_flood_stays_within_the_limit_and_is_counted_whole() {
    const LIMIT_BYTES: u64 = 8 << 20;
    let directory = TempDir::new().unwrap();
    let store = store_with(directory.path(), Detail::Every, LIMIT_BYTES);
    let (journal, at_ms) = (Uuid::new_v4(), day_ms());
    let bytes = |end: &str| fs::metadata(directory.path().join(format!("metrics.db{end}"))).unwrap().len();
    let (mut first, mut dropped) = (0, false);
    for round in 0..30_u64 {
        let event = |n: u64| issued(at_ms + round * 1_000 + n / 10, A, &[1], 50);
        let flood = batch(journal, first, (0..10_000).map(event).collect());
        first = flood.end();
        store.deliver(&flood).await.unwrap();
        assert!(bytes("") <= LIMIT_BYTES, "{} in round {round}", bytes(""));
        assert!(bytes("-wal") <= SLACK_BYTES, "{} in round {round}", bytes("-wal"));
        dropped |= rows(&store, "id_generation_events").await < first;
    }
    assert!(dropped && rows(&store, "id_generation_events").await > 50_000);
    assert_eq!(ids(&store).await, first);

    // A lower limit is come to, and the file gets shorter.
    let lower = store_with(directory.path(), Detail::None, LIMIT_BYTES / 4);
    for _ in 0..5 {
        lower.deliver(&batch(journal, first, vec![measured(at_ms, Some(A))])).await.unwrap();
    }
    assert!(bytes("") <= LIMIT_BYTES / 4);
    assert_eq!(ids(&lower).await, first);
}

#[tokio::test]
async fn without_rows_to_drop_the_oldest_minutes_go() {
    const LIMIT_BYTES: u64 = 512 << 10;
    let directory = TempDir::new().unwrap();
    let store = store_with(directory.path(), Detail::None, LIMIT_BYTES);
    let journal = Uuid::new_v4();
    // Many latencies, so that minutes are large.
    let minute =
        |n: u64| (0..500).map(move |us| issued(day_ms() + n * 60_000, A, &[1], 40 << (us % 20) | us));
    for hour in 0..20 {
        let events: Vec<_> = (hour * 60..(hour + 1) * 60).flat_map(minute).collect();
        store.deliver(&batch(journal, hour * 30_000, events)).await.unwrap();
        assert!(fs::metadata(directory.path().join("metrics.db")).unwrap().len() <= LIMIT_BYTES);
    }
    let left = rows(&store, "requests_by_minute").await;
    assert!((60..1_200).contains(&left), "{left}");
}

#[tokio::test]
async fn what_is_past_its_retention_goes() {
    let directory = TempDir::new().unwrap();
    let days_ago = |days: u64| u64::try_from(Timestamp::now().as_millisecond()).unwrap() - days * 86_400_000;
    let events = vec![
        measured(days_ago(366), None),
        measured(days_ago(364), None),
        issued(days_ago(91), A, &[5], 1),
        drifted(days_ago(181), None, 50),
        drifted(days_ago(179), None, 50),
        issued(days_ago(89), A, &[7], 1),
    ];
    // It looks when it first has something to do.
    let store = store(directory.path());
    store.deliver(&batch(Uuid::new_v4(), 0, events)).await.unwrap();
    for (table, left) in [
        ("performance_metrics", 2),
        ("clock_drift_events", 1),
        ("id_generation_events", 1),
        ("requests_by_minute", 1),
    ] {
        assert_eq!(rows(&store, table).await, left, "{table}");
    }
}

#[tokio::test]
async fn a_report_has_its_newest_rows() {
    let directory = TempDir::new().unwrap();
    let store = store(directory.path());
    let minutes = ROWS_MAX as u64 + 5;
    let event = |n: u64| issued(day_ms() - n * 60_000, A, &[1], 50);
    store.deliver(&batch(Uuid::new_v4(), 0, (0..minutes).map(event).collect())).await.unwrap();
    let answer = store.report(Report::IdsPerSecond, &scope(0)).await.unwrap();
    assert_eq!((answer.rows.len(), answer.truncated), (ROWS_MAX, true));
    assert_eq!(answer.rows[0][0], json!(crate::contract::iso(day_ms())));
}

#[tokio::test]
async fn messages_without_end_are_counted_together() {
    let directory = TempDir::new().unwrap();
    let store = store(directory.path());
    let event = |n: u32| {
        let mut event = failed(day_ms(), Some(A), 1001, "");
        if let snowmint_server::event::What::Failed(failed) = &mut event.what {
            failed.message = format!("count is {n}").into();
        }
        event
    };
    store.deliver(&batch(Uuid::new_v4(), 0, (0..500).map(event).collect())).await.unwrap();
    let errors = store.report(Report::Errors, &scope(day_ms())).await.unwrap().rows;
    assert_eq!(errors.len(), 101);
    assert_eq!((&errors[0][4], &errors[0][5]), (&json!("(other messages)"), &json!(400)));
}

#[tokio::test]
async fn a_file_that_is_no_database_is_moved_aside() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("metrics.db");
    fs::write(&path, "no database ".repeat(1_000)).unwrap();
    check_reports(&store(directory.path())).await;
    assert_eq!(fs::read(directory.path().join("metrics.db.damaged")).unwrap().len(), 12_000);
}

#[tokio::test]
async fn damage_that_shows_later_costs_the_old_rows_and_no_new_ones() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("metrics.db");
    let flood =
        |first| batch(Uuid::nil(), first, (0..10_000).map(|n| issued(day_ms() + n, A, &[1], 50)).collect());
    store(directory.path()).deliver(&flood(0)).await.unwrap();
    let mut bytes = fs::read(&path).unwrap();
    // All but the first page, which says what the tables are.
    bytes[4_096..].fill(0x5a);
    fs::write(&path, &bytes).unwrap();
    let store = store(directory.path());
    let refused = store.deliver(&flood(10_000)).await.unwrap_err().to_string();
    assert!(refused.contains("was damaged") && refused.contains("metrics.db.damaged"), "{refused}");
    store.deliver(&flood(10_000)).await.unwrap();
    assert_eq!(ids(&store).await, 10_000);
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_said_and_tried_again() {
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("data");
    fs::write(&data, "in the way").unwrap();
    let store = store(&data);
    let error = store.report(Report::Daily, &scope(day_ms())).await.unwrap_err().to_string();
    assert!(
        error.starts_with("the metrics store embedded in ") && error.contains("cannot answer"),
        "{error}"
    );
    fs::remove_file(&data).unwrap();
    check_reports(&store).await;
}
