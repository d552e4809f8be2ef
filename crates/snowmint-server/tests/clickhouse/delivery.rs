//! Batches, when ClickHouse is not well.

use std::time::{Duration, Instant};

use snowmint_server::clickhouse::MESSAGE_BYTES_MAX;
use snowmint_server::config::Detail;
use snowmint_server::sink::clickhouse::IDS_MAX;
use snowmint_server::sink::{Batch, Sink, SinkError};
use uuid::Uuid;

use super::contract::{A, B, day_ms, drifted, failed, issued, overflowed};
use super::store::{Store, sink};

/// How long something that is about to happen is waited for, in milliseconds.
const SOON_MS_MAX: u64 = 60_000;

const TOTALS: &str = "SELECT (SELECT sum(ids) FROM id_generation_minutely), (SELECT sum(total_ids) FROM daily_id_stats), \
                      (SELECT count() FROM id_generation_events), (SELECT sum(requests) FROM daily_id_stats), \
                      (SELECT count() FROM clock_drift_events), (SELECT count() FROM sequence_overflow_events)";

/// Whether some of a batch is there, the same in every table.
const PART_IS_WHOLE: &str = "SELECT minutely > 0 AND minutely = daily AND minutely = events FROM (SELECT \
                             (SELECT sum(ids) FROM id_generation_minutely) AS minutely, \
                             (SELECT sum(total_ids) FROM daily_id_stats) AS daily, \
                             (SELECT count() FROM id_generation_events) AS events)";

/// Requests for `ids` IDs in all, and one of everything else.
fn batch(ids: u64) -> Batch {
    let day = day_ms();
    let requests = ids / 10_000;
    let mut events: Vec<_> = (0..requests).map(|n| issued(day + n, A, &[10_000], 7)).collect();
    events.push(failed(day, Some(B), 3001, "too much"));
    events.push(drifted(day, Some(A), 20));
    events.push(overflowed(day, A, 1, 2, 0.5));
    Batch { journal: Uuid::new_v4(), first: 0, events }
}

/// What [`TOTALS`] are of that batch.
fn once(ids: u64) -> String {
    format!("{ids} {ids} {} {} 1 1", ids + 1, ids / 10_000 + 1)
}

#[tokio::test]
async fn a_batch_counts_once_however_often_it_comes_and_through_a_kill() {
    let store = Store::start().await;
    let ids = 4 * IDS_MAX;
    let batch = batch(ids);
    let clickhouse = store.clickhouse.clone();
    let again = batch.clone();
    let delivery = tokio::spawn(async move { sink(&clickhouse, Detail::Every).deliver(&again).await });
    // Some of it is there, in every table, and the rest is on its way: ClickHouse remembers a block a moment before
    // its rows are there, and a kill in between loses them (docs/guarantees.md says so).
    let deadline = Instant::now() + Duration::from_millis(SOON_MS_MAX);
    while store.one(PART_IS_WHOLE).await != "1" {
        assert!(Instant::now() < deadline, "nothing comes");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    store.server.kill();
    let broken = delivery.await.unwrap();
    assert!(matches!(broken, Err(SinkError::Unavailable(_))), "{broken:?}");

    store.server.restart().await;
    for _ in 0..3 {
        store.deliver(&batch).await.unwrap();
        assert_eq!(store.one(TOTALS).await, once(ids));
    }
    store.server.kill();
    store.server.restart().await;
    store.deliver(&batch).await.unwrap();
    store.merge().await;
    assert_eq!(store.one(TOTALS).await, once(ids));
}

#[tokio::test]
async fn one_that_is_down_or_hangs_is_unavailable_in_time_and_recovers() {
    const INSERT_MS_MAX: u64 = 1_000;
    let store = Store::start().await;
    let sink = sink(&store.clickhouse, Detail::Every).insert_ms_max(INSERT_MS_MAX);
    let unavailable = async |batch: &Batch| {
        let started = Instant::now();
        let failure = sink.deliver(batch).await.unwrap_err();
        assert!(matches!(failure, SinkError::Unavailable(_)), "{failure:?}");
        let late = Duration::from_millis(INSERT_MS_MAX + SOON_MS_MAX / 10);
        assert!(started.elapsed() < late, "{failure} after {:?}", started.elapsed());
    };
    let batch = batch(20_000);
    store.server.kill();
    unavailable(&batch).await;
    store.server.restart().await;
    sink.deliver(&batch).await.unwrap();

    // What it was sent while it hung may count too, once, when it goes on.
    store.server.pause();
    let mut other = batch.clone();
    other.first = batch.end();
    unavailable(&other).await;
    unavailable(&other).await;
    store.server.resume();
    store.deliver(&other).await.unwrap();
    assert_eq!(store.one(TOTALS).await, "40000 40000 40002 6 2 2");
}

#[tokio::test]
async fn one_without_the_tables_is_unavailable_and_bad_rows_are_refused() {
    let store = Store::start_empty().await;
    let missing = store.deliver(&batch(10_000)).await.unwrap_err();
    assert!(matches!(missing, SinkError::Unavailable(_)), "{missing:?}");
    snowmint_server::clickhouse::schema::apply(&store.clickhouse, None).await.unwrap();
    store.deliver(&batch(10_000)).await.unwrap();

    let constraint = "ALTER TABLE clock_drift_events ADD CONSTRAINT possible CHECK drift_ms < 1000";
    store.clickhouse.execute(constraint).await.unwrap();
    let mut poison = drifted(day_ms(), Some(A), 5_000);
    if let snowmint_server::event::What::Drifted(drifted) = &mut poison.what {
        drifted.ntp_server = "a long name".repeat(1_000);
    }
    let poison = Batch { journal: Uuid::new_v4(), first: 0, events: vec![poison] };
    match store.deliver(&poison).await {
        Err(SinkError::Refused(text)) => {
            assert!(text.contains("VIOLATED_CONSTRAINT") || text.contains("possible"), "{text}");
            assert!(text.len() < MESSAGE_BYTES_MAX + 100, "{text}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(store.one(TOTALS).await, once(10_000));
}
