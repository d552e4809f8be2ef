//! What it costs. Run by hand: `cargo nextest run --test clickhouse --run-ignored only --no-capture`.

#![allow(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "what it is for"
)]

use std::time::Instant;

use axum::http::HeaderValue;
use snowmint_server::config::{Detail, MetricsStore};
use snowmint_server::event::What;
use snowmint_server::report::{Report, Reports};
use snowmint_server::sink::{Batch, EmbeddedStore, Sink};
use tempfile::TempDir;
use uuid::Uuid;

use super::contract::{A, day_ms, issued, scope};
use super::store::Store;

const EVENTS_PER_BATCH: u64 = 5_000;

/// What a large installation has issued, in requests.
const MANY: u64 = 10_000_000;

#[tokio::test]
#[ignore = "measures, and takes a minute"]
async fn rows_and_ids_per_second_and_bytes_per_million_ids() {
    for (ids_per_request, batches) in [(100, 40), (1, 100)] {
        let store = Store::start().await;
        let batches: Vec<_> = (0..batches).map(|n| batch(n, ids_per_request)).collect();
        let rows = batches.len() as u64 * EVENTS_PER_BATCH;
        let ids = rows * u64::from(ids_per_request);
        let started = Instant::now();
        for batch in &batches {
            store.deliver(batch).await.unwrap();
        }
        let elapsed = started.elapsed().as_secs_f64();
        assert_eq!(store.one("SELECT count() FROM id_generation_events").await, ids.to_string());
        println!(
            "{ids_per_request} IDs a request: {:.0} rows/s on the wire, {:.0} IDs/s; {:.2} MB on disk per million IDs",
            rows as f64 / elapsed,
            ids as f64 / elapsed,
            merged_bytes(&store).await / ids as f64
        );
        time_reports(&store.reports).await;
    }
}

#[tokio::test]
#[ignore = "measures, and takes ten minutes"]
async fn reports_over_ten_million_ranges_from_both_stores() {
    const IDS_PER_REQUEST: u32 = 10;
    let ids = (MANY * u64::from(IDS_PER_REQUEST)) as f64;
    let (store, directory) = (Store::start().await, TempDir::new().unwrap());
    let settings = MetricsStore { detail: Detail::Every, max_bytes: 16 << 30 };
    let embedded = EmbeddedStore::new(directory.path(), settings);
    for n in 0..MANY / EVENTS_PER_BATCH {
        let batch = batch(n, IDS_PER_REQUEST);
        let (there, here) = tokio::join!(store.deliver(&batch), embedded.deliver(&batch));
        there.and(here).unwrap();
    }
    println!("ClickHouse: {:.2} MB on disk per million IDs", merged_bytes(&store).await / ids);
    time_reports(&store.reports).await;
    let files = std::fs::read_dir(directory.path()).unwrap();
    let bytes: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
    println!("embedded: {:.2} MB on disk per million IDs", bytes as f64 / ids);
    time_reports(&embedded).await;
}

/// 10,000 requests a second, of 500 clients: the batch `n` of them.
fn batch(n: u64, ids_per_request: u32) -> Batch {
    let event = |i: u64| {
        let at = n * EVENTS_PER_BATCH + i;
        let mut event = issued(day_ms() + at / 10, A, &[ids_per_request], 40 + (at % 90) as u32);
        if let What::Issued(issued) = &mut event.what {
            issued.request.client_ip = Some([10, 0, (at % 2) as u8, (at % 250) as u8].into());
            issued.request.user_agent = Some(HeaderValue::from_static("MyApp/1.0"));
            let id = Uuid::new_v4().to_string();
            issued.request.request_id = Some(HeaderValue::from_str(&id).unwrap());
        }
        event
    };
    let events = (0..EVENTS_PER_BATCH).map(event).collect();
    Batch { journal: Uuid::from_u128(7), first: n * EVENTS_PER_BATCH, events }
}

async fn merged_bytes(store: &Store) -> f64 {
    store.merge().await;
    let bytes = "SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = currentDatabase()";
    store.one(bytes).await.parse().unwrap()
}

async fn time_reports(store: &dyn Reports) {
    for report in Report::ALL {
        let started = Instant::now();
        store.report(report, &scope(day_ms())).await.unwrap();
        println!("  {report}: {} ms", started.elapsed().as_millis());
    }
}
