//! What every metrics store answers about one small history.
//!
//! It lies two days back, so that no store's retention touches it, and ends in a minute that has not ended.

use std::borrow::Cow;
use std::sync::LazyLock;

use jiff::Timestamp;
use serde_json::{Value, json};
use snowmint::{Id, IdRange, Slot};
use snowmint_server::event::{
    Api, Drifted, Event, Failed, Issued, Measured, Overflowed, Request, SlotLife, Turn, What,
};
use snowmint_server::report::{QUANTILE_ERROR, Report, Reports, Rows, Scope};
use snowmint_server::sink::{Batch, Sink};
use uuid::Uuid;

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 86_400_000;

/// How far two numbers of a report may be apart, as a share: stores add fractions up in different orders.
const ROUNDING: f64 = 1e-6;

pub const A: Slot = Slot { datacenter: 0, worker: 5 };
pub const B: Slot = Slot { datacenter: 1, worker: 0 };

/// Where the history's day starts, in Unix milliseconds: the same day, also when midnight passes.
pub fn day_ms() -> u64 {
    static DAY: LazyLock<u64> = LazyLock::new(|| {
        let now_ms = u64::try_from(Timestamp::now().as_millisecond()).unwrap();
        now_ms - now_ms % DAY_MS - 2 * DAY_MS
    });
    *DAY
}

pub fn iso(ms: u64) -> String {
    Timestamp::from_millisecond(ms.cast_signed()).unwrap().to_string()
}

pub fn date(ms: u64) -> String {
    iso(ms)[..10].to_owned()
}

pub fn request() -> Request {
    Request { client_ip: Some([192, 0, 2, 1].into()), user_agent: None, request_id: None, api: Api::Rest }
}

/// A request that got `counts` IDs, in a range each.
pub fn issued(at_ms: u64, slot: Slot, counts: &[u32], latency_us: u32) -> Event {
    let range = |(at, count): (usize, &u32)| {
        let first = Id::new((at_ms << 22) + (u64::from(slot.worker) << 12) + 1_000 * at as u64).unwrap();
        IdRange::new(first, *count).unwrap()
    };
    let ranges = counts.iter().enumerate().map(range).collect();
    let issued = Issued { slot, ranges, latency_us, queue_us: 0, request: request() };
    Event { at_ms, what: What::Issued(issued) }
}

pub fn failed(at_ms: u64, slot: Option<Slot>, code: u16, message: &'static str) -> Event {
    let message = Cow::Borrowed(message);
    Event {
        at_ms,
        what: What::Failed(Failed { slot, code, message, latency_us: 2_000_000, request: request() }),
    }
}

pub fn drifted(at_ms: u64, slot: Option<Slot>, drift_ms: i32) -> Event {
    let drifted = Drifted {
        slot,
        drift_ms,
        ntp_server: "ntp.example.org".to_owned(),
        ntp_stratum: 2,
        system_time_ms: at_ms.saturating_add_signed(drift_ms.into()),
        ntp_time_ms: at_ms,
        corrective_action: Cow::Borrowed("slewed"),
    };
    Event { at_ms, what: What::Drifted(drifted) }
}

pub fn overflowed(at_ms: u64, slot: Slot, count: u32, wait_ms: u32, load_factor: f32) -> Event {
    Event { at_ms, what: What::Overflowed(Overflowed { slot, count, wait_ms, queued: count, load_factor }) }
}

pub fn measured(at_ms: u64, slot: Option<Slot>) -> Event {
    let values = vec![(Cow::Borrowed("snowmint_ids_total"), 1.0), (Cow::Borrowed("load"), 0.5)];
    Event { at_ms, what: What::Measured(Measured { slot, values }) }
}

/// The history, and until when it goes: 15 s into the last minute.
pub fn history() -> (Vec<Event>, u64) {
    let day = day_ms();
    let (eight, ten) = (day + 8 * HOUR_MS, day + 10 * HOUR_MS);
    let mut events = vec![
        // The day before, and the hour before: what starts in the middle of either has all of it.
        issued(day - HOUR_MS, A, &[7], 50),
        overflowed(eight + 1, A, 2, 3, 0.5),
        overflowed(eight + 2, A, 4, 1, 1.0),
        overflowed(eight + 3, B, 9, 2, 0.75),
        drifted(eight + 1_000, Some(A), -50),
        drifted(eight + 2_000, Some(A), 20),
        drifted(eight + 3_000, Some(B), 11),
        // Not off.
        drifted(eight + 4_000, Some(B), -10),
        drifted(eight + HOUR_MS, None, 500),
        overflowed(eight + HOUR_MS, A, 1, 1, 0.25),
        measured(eight + HOUR_MS, Some(A)),
        measured(eight + HOUR_MS + 10_000, None),
        Event {
            at_ms: ten,
            what: What::Slot(SlotLife {
                slot: A,
                turn: Turn::Taken,
                node: "a".to_owned(),
                note: String::new(),
            }),
        },
        // A request of several ranges is one request; the last millisecond of a minute is of that minute.
        issued(ten, A, &[1_000, 200], 100),
        issued(ten + MINUTE_MS - 1, A, &[1_200], 300),
        issued(ten + 5, B, &[60], 40),
    ];
    // Ten requests of one minute and slot, of which three failed; and one of a node without a slot.
    let second = ten + MINUTE_MS;
    events.extend((0..7).map(|n| issued(second + n, B, &[1], 1_000)));
    events.push(failed(second + 10, Some(B), 3001, "too much"));
    events.push(failed(second + 11, Some(B), 3001, "too much"));
    events.push(failed(second + 12, Some(B), 1001, "count is 0"));
    events.push(failed(second + 13, None, 3002, "no slot"));
    // A hundred more, for the quantiles: 1,000 to 100,000 µs.
    let third = ten + 2 * MINUTE_MS;
    events.extend((1..=100).map(|n| issued(third + u64::from(n), A, &[3], n * 1_000)));
    (events, third + 15_000)
}

/// The history as one journal's batches: uneven ones.
pub fn batches() -> Vec<Batch> {
    let (events, _) = history();
    let journal = Uuid::new_v4();
    let mut first = 0;
    let batch = |events: &[Event]| {
        let batch = Batch { journal, first, events: events.to_vec() };
        first = batch.end();
        batch
    };
    events.chunks(17).map(batch).collect()
}

/// The questions, and the rows they must have, as a list of lists.
fn expected() -> Vec<(Report, Scope, Value)> {
    let day = day_ms();
    let (eight, ten) = (day + 8 * HOUR_MS, day + 10 * HOUR_MS);
    // In the middle of a minute, an hour and a day.
    let (minute, hour) = (scope(ten + 30_000), scope(eight + HOUR_MS / 2));
    let of_b = Scope { datacenter: Some(1), worker: Some(0), ..scope(ten + MINUTE_MS) };
    let (first, second, third) = (iso(ten), iso(ten + MINUTE_MS), iso(ten + 2 * MINUTE_MS));
    let (eight, nine) = (iso(eight), iso(eight + HOUR_MS));
    let (today, yesterday) = (date(day), date(day - HOUR_MS));
    let ids_per_second = json!([
        [third, 0, 5, 300, 20.0],
        [second, 1, 0, 7, 7.0 / 60.0],
        [first, 0, 5, 2_400, 40.0],
        [first, 1, 0, 60, 1.0],
    ]);
    let latency = json!([
        [0, 5, 102, 5_050_400.0 / 102.0, 49_000, 95_000, 99_000],
        [1, 0, 8, 880.0, 1_000, 1_000, 1_000],
    ]);
    let clock_drift =
        json!([[nine, null, null, 500.0, 500, 1], [eight, 0, 5, 35.0, 50, 2], [eight, 1, 0, 11.0, 11, 1],]);
    let overflow = json!([
        [nine, 0, 5, 1, 1.0, 1, 0.25],
        [eight, 1, 0, 9, 2.0, 2, 0.75],
        [eight, 0, 5, 6, 2.0, 3, 0.75],
    ]);
    let errors = json!([
        [second, 1, 0, 3001, "too much", 2, 20.0],
        [second, null, null, 3002, "no slot", 1, 100.0],
        [second, 1, 0, 1001, "count is 0", 1, 10.0],
    ]);
    let daily = json!([
        [today, null, null, 0, 1, 1, null, null],
        [today, 0, 5, 2_700, 102, 0, 5_050_400.0 / 102.0, 100_000],
        [today, 1, 0, 67, 11, 3, 880.0, 1_000],
        [yesterday, 0, 5, 7, 1, 0, 50.0, 50],
    ]);
    vec![
        (Report::IdsPerSecond, minute.clone(), ids_per_second),
        (Report::IdsPerSecond, of_b, json!([[second, 1, 0, 7, 7.0 / 60.0]])),
        (Report::Latency, minute.clone(), latency),
        (Report::ClockDrift, hour.clone(), clock_drift),
        (Report::Overflow, hour, overflow),
        (Report::Errors, minute, errors),
        (Report::Daily, scope(day - 1), daily),
    ]
}

/// From `since_ms` until the history ends, of every slot.
pub fn scope(since_ms: u64) -> Scope {
    let time = |ms: u64| Timestamp::from_millisecond(ms.cast_signed()).unwrap();
    Scope { since: time(since_ms), until: time(history().1), datacenter: None, worker: None }
}

/// Delivers the history, every batch twice, and asks everything.
pub async fn check_reports(store: &(impl Sink + Reports)) {
    for batch in batches() {
        for _ in 0..2 {
            store.deliver(&batch).await.unwrap();
        }
    }
    check_answers(store).await;
}

/// Asks everything of a store that has the history.
pub async fn check_answers(store: &(impl Reports + ?Sized)) {
    for (report, scope, wanted) in expected() {
        let Rows { rows, truncated } = store.report(report, &scope).await.unwrap();
        assert!(!truncated);
        let wanted = wanted.as_array().unwrap();
        assert_eq!(rows.len(), wanted.len(), "{report}: {rows:?}");
        for (row, wanted) in rows.iter().zip(wanted) {
            assert_eq!(row.len(), report.columns().len(), "{report}");
            for ((column, got), wanted) in report.columns().iter().zip(row).zip(wanted.as_array().unwrap()) {
                assert!(alike(column, got, wanted), "{report} {column}: {got}, not {wanted}, in {row:?}");
            }
        }
    }
    check_tables(store).await;
}

/// Counts are equal, fractions nearly, quantiles within their error.
fn alike(column: &str, got: &Value, wanted: &Value) -> bool {
    let error = if column.starts_with('p') { QUANTILE_ERROR } else { ROUNDING };
    match (got.as_f64(), wanted.as_f64()) {
        (Some(got), Some(of)) if column.starts_with('p') || !wanted.is_u64() => {
            (got - of).abs() <= of * error
        }
        _ => got == wanted,
    }
}

/// The document's tables are among a store's, with what happened in those whose rows are events.
async fn check_tables(store: &(impl Reports + ?Sized)) {
    let tables = store.report(Report::Tables, &scope(day_ms())).await.unwrap().rows;
    let table =
        |name: &str| tables.iter().find(|row| row[0] == name).unwrap_or_else(|| panic!("{name}: {tables:?}"));
    let (day, (_, until_ms)) = (day_ms(), history());
    for (name, rows, oldest_ms) in [
        ("id_generation_events", None, day - HOUR_MS),
        ("performance_metrics", Some(4), day + 9 * HOUR_MS),
        ("clock_drift_events", Some(5), day + 8 * HOUR_MS + 1_000),
        ("sequence_overflow_events", Some(4), day + 8 * HOUR_MS + 1),
    ] {
        let row = table(name);
        assert!(rows.is_none_or(|rows| row[1] == rows) && row[2].as_u64().unwrap() > 0, "{row:?}");
        let time = |value: &Value| value.as_str().unwrap().parse::<Timestamp>().unwrap().as_millisecond();
        assert_eq!(time(&row[3]), oldest_ms.cast_signed(), "{row:?}");
        assert!((time(&row[3])..until_ms.cast_signed()).contains(&time(&row[4])), "{row:?}");
    }
}
