//! The tables, the views and the reports.

use std::num::NonZeroU32;

use snowmint_server::clickhouse::{retention, schema};
use snowmint_server::config::Detail;
use snowmint_server::event::{Event, Measured, What};
use snowmint_server::sink::{Batch, Sink};
use uuid::Uuid;

use super::contract::{self, A, day_ms, failed, issued};
use super::store::{Store, sink};

#[tokio::test]
async fn the_schema_is_applied_once() {
    let store = Store::start_empty().await;
    let applied = schema::apply(&store.clickhouse, None).await.unwrap();
    assert_eq!(applied.len(), schema::MIGRATIONS.len());
    retention::set(&store.clickhouse, "clock_drift_events", 7).await.unwrap();
    assert!(schema::apply(&store.clickhouse, None).await.unwrap().is_empty());

    // As after a crash before the last was written down.
    store.clickhouse.execute("TRUNCATE TABLE schema_versions").await.unwrap();
    assert_eq!(schema::apply(&store.clickhouse, None).await.unwrap().len(), schema::MIGRATIONS.len());
    assert_eq!(schema::versions(&store.clickhouse).await.unwrap(), [1, 2, 3, 4, 5]);
    let policies = retention::show(&store.clickhouse).await.unwrap();
    let days: Vec<_> = policies.iter().map(|policy| (policy.table.as_str(), policy.days)).collect();
    assert_eq!(
        days,
        [
            ("clock_drift_events", 7),
            ("id_generation_events", 90),
            ("performance_metrics", 365),
            ("sequence_overflow_events", 180)
        ]
    );
}

#[tokio::test]
async fn reports_are_right_before_and_after_merges() {
    let store = Store::start().await;
    contract::check_reports(&store).await;
    store.merge().await;
    contract::check_answers(&store).await;
}

#[tokio::test]
async fn every_id_has_a_row_and_the_designed_queries_run_as_they_were_written() {
    let store = Store::start().await;
    for batch in contract::batches() {
        store.deliver(&batch).await.unwrap();
    }
    let (events, _) = contract::history();
    let ids: Vec<u64> = events.iter().flat_map(ids_of).collect();
    let (count, all_xored) = (ids.len(), ids.iter().fold(0, |xored, id| xored ^ id));
    let all = "SELECT count(), uniqExact(generated_id), groupBitXor(generated_id) FROM id_generation_events WHERE error_code = 0";
    assert_eq!(store.one(all).await, format!("{count} {count} {all_xored}"));
    // The sequence is the ID's last 12 bits, as its layout says.
    let wrong =
        "SELECT count() FROM id_generation_events WHERE sequence_number != bitAnd(generated_id, 4095)";
    assert_eq!(store.one(wrong).await, "0");
    // An event's ID is that of its request: 8 + 102 + 1 requests that got IDs, 4 that failed.
    let requests = "SELECT uniqExactIf(event_id, error_code = 0), uniqExactIf(event_id, error_code != 0), \
                    countIf(error_code != 0 AND generated_id != 0) FROM id_generation_events";
    assert_eq!(store.one(requests).await, "111 4 0");

    // From the design, but for the time, which is two days back here.
    let latency = "SELECT datacenter_id, worker_id, count(), quantile(0.50)(generation_latency_us) as p50_latency_us \
                   FROM id_generation_events WHERE timestamp >= now() - INTERVAL 72 HOUR AND worker_id = 5 \
                   GROUP BY datacenter_id, worker_id ORDER BY datacenter_id, worker_id";
    assert_eq!(store.one(latency).await, "0 5 2707 300");
    let overflows = "SELECT toStartOfHour(timestamp) as hour, datacenter_id, worker_id, sum(overflow_count) as total_overflows, \
                     avg(wait_time_ms) as avg_wait_ms, max(wait_time_ms) as max_wait_ms, avg(load_factor) as avg_load_factor \
                     FROM sequence_overflow_events WHERE timestamp >= now() - INTERVAL 72 HOUR \
                     GROUP BY hour, datacenter_id, worker_id HAVING total_overflows > 0 \
                     ORDER BY hour DESC, total_overflows DESC";
    assert_eq!(store.clickhouse.rows(overflows, &[]).await.unwrap().len(), 3);
    let size = "SELECT sum(rows) as rows FROM system.parts WHERE table = 'id_generation_events' AND active \
                AND database = currentDatabase() GROUP BY table";
    assert_eq!(store.one(size).await, format!("{}", count + 4));
}

fn ids_of(event: &Event) -> Vec<u64> {
    match &event.what {
        What::Issued(issued) => {
            issued.ranges.iter().flat_map(snowmint::IdRange::ids).map(snowmint::Id::get).collect()
        }
        _ => Vec::new(),
    }
}

#[tokio::test]
async fn the_hourly_view_is_right_before_and_after_merges() {
    let store = Store::start().await;
    let hour = u32::try_from(day_ms() / 1_000).unwrap();
    let journal = Uuid::new_v4();
    // In two parts, so that there is something to merge: 10, 16, 12, 90 are 32 on average.
    for (n, values) in [[10.0, 16.0], [12.0, 90.0]].iter().enumerate() {
        let measurement = |value: &f64| {
            let values = vec![("ids_per_second".into(), *value)];
            let what = What::Measured(Measured { slot: Some(A), values });
            Event { at_ms: u64::from(hour + 60) * 1_000, what }
        };
        let events = values.iter().map(measurement).collect();
        let batch = Batch { journal, first: 2 * n as u64, events };
        for _ in 0..2 {
            store.deliver(&batch).await.unwrap();
        }
    }
    let view = "SELECT toUnixTimestamp(timestamp), avg_value, max_value, min_value, sample_count \
                FROM performance_metrics_hourly WHERE metric_name = 'ids_per_second'";
    for _ in 0..2 {
        assert_eq!(store.one(view).await, format!("{hour} 32 90 10 4"));
        store.merge().await;
    }
    assert_eq!(store.one("SELECT count() FROM performance_metrics").await, "4");
}

#[tokio::test]
async fn totals_are_exact_whatever_detail_is_kept() {
    let store = Store::start().await;
    let day = day_ms();
    let event = |n: u64| match n % 10 {
        0 => failed(day + n, Some(A), 3002, "no"),
        _ => issued(day + n, A, &[50, 50], 10),
    };
    for (worker, detail, rows) in [
        (0, Detail::Every, 100 + 90_000),
        (1, Detail::Sampled(NonZeroU32::new(10).unwrap()), 100),
        (2, Detail::None, 0),
    ] {
        store.clickhouse.execute("TRUNCATE TABLE id_generation_events").await.unwrap();
        let batch = Batch { journal: Uuid::new_v4(), first: 0, events: (0..1_000).map(event).collect() };
        sink(&store.clickhouse, detail).deliver(&batch).await.unwrap();
        assert_eq!(store.one("SELECT count() FROM id_generation_events").await, rows.to_string());
        let times = worker + 1;
        let totals = "SELECT total_ids, requests, error_count FROM daily_id_stats";
        assert_eq!(store.one(totals).await, format!("{} {} {}", 90_000 * times, 1_000 * times, 100 * times));
    }
}

#[tokio::test]
async fn what_is_past_its_retention_goes() {
    let store = Store::start().await;
    let batch = |at_ms| {
        let events = vec![contract::drifted(at_ms, Some(A), 20)];
        Batch { journal: Uuid::new_v4(), first: 0, events }
    };
    // The longest is long: nothing is past it, neither as a month nor by its TTL.
    retention::set(&store.clickhouse, "clock_drift_events", retention::DAYS_MAX).await.unwrap();
    retention::apply(&store.clickhouse).await.unwrap();
    // 2020-01-02, and the day before yesterday.
    store.deliver(&batch(1_577_923_200_000)).await.unwrap();
    store.deliver(&batch(day_ms())).await.unwrap();
    assert!(retention::apply(&store.clickhouse).await.unwrap().is_empty());
    store.merge().await;
    assert_eq!(store.one("SELECT count() FROM clock_drift_events").await, "2");
    retention::set(&store.clickhouse, "clock_drift_events", 180).await.unwrap();
    let done = retention::apply(&store.clickhouse).await.unwrap();
    assert_eq!(done, ["clock_drift_events: dropped 202001", "clock_drift_events: kept for 180 days"]);
    assert_eq!(store.one("SELECT count() FROM clock_drift_events").await, "1");

    retention::set(&store.clickhouse, "id_generation_events", 30).await.unwrap();
    let done = retention::apply(&store.clickhouse).await.unwrap();
    assert_eq!(done, ["id_generation_events: kept for 30 days", "id_generation_minutely: kept for 30 days"]);
    assert!(retention::apply(&store.clickhouse).await.unwrap().is_empty());
    for policy in retention::show(&store.clickhouse).await.unwrap() {
        assert_eq!(policy.applied_days, Some(policy.days), "{}", policy.table);
    }
    let unknown = retention::set(&store.clickhouse, "id_ranges", 30).await.unwrap_err();
    assert!(unknown.to_string().contains("there are clock_drift_events, id_generation_events"), "{unknown}");
}
