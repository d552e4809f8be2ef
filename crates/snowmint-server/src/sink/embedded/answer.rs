//! The reports, from the minutes that were added up.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Params, params};
use serde_json::{Value, json};

use super::latencies;
use super::space::{MINUTES, ROWS};
use crate::report::latency::Latencies;
use crate::report::{ROWS_MAX, Report, Rows, Scope};

const MINUTE_MS: u64 = 60_000;

/// The statements have the same parameters: the first minute, the minute after the last, where the last ends
/// (Unix milliseconds), a datacenter or null, a worker or null, and how many rows at most.
const IDS_PER_SECOND: &str = "
    SELECT strftime('%Y-%m-%dT%H:%M:00Z', minute * 60, 'unixepoch'), nullif(datacenter_id, -1),
           nullif(worker_id, -1), ids, ids * 1000.0 / min(60000, ?3 - minute * 60000)
    FROM requests_by_minute
    WHERE minute >= ?1 AND minute < ?2 AND ids > 0
      AND datacenter_id = coalesce(?4, datacenter_id) AND worker_id = coalesce(?5, worker_id)
    ORDER BY minute DESC, datacenter_id, worker_id
    LIMIT ?6";

const LATENCY: &str = "
    SELECT datacenter_id, worker_id, issued, latency_sum_us, latencies
    FROM requests_by_minute
    WHERE minute >= ?1 AND minute < ?2 AND issued > 0
      AND datacenter_id = coalesce(?4, datacenter_id) AND worker_id = coalesce(?5, worker_id)
      AND ?3 IS NOT NULL AND ?6 IS NOT NULL";

const CLOCK_DRIFT: &str = "
    SELECT strftime('%Y-%m-%dT%H:00:00Z', minute * 60, 'unixepoch'), nullif(datacenter_id, -1),
           nullif(worker_id, -1), sum(drift_sum_ms) * 1.0 / sum(drifts), max(drift_max_ms) AS highest, sum(drifts)
    FROM drift_by_minute
    WHERE minute >= ?1 AND minute < ?2 AND ?3 IS NOT NULL
      AND datacenter_id = coalesce(?4, datacenter_id) AND worker_id = coalesce(?5, worker_id)
    GROUP BY minute / 60, datacenter_id, worker_id
    ORDER BY minute / 60 DESC, highest DESC, datacenter_id, worker_id
    LIMIT ?6";

const OVERFLOW: &str = "
    SELECT strftime('%Y-%m-%dT%H:00:00Z', minute * 60, 'unixepoch'), nullif(datacenter_id, -1),
           nullif(worker_id, -1), sum(overflows) AS total, sum(wait_sum_ms) * 1.0 / sum(bursts),
           max(wait_max_ms), sum(load_sum) / sum(bursts)
    FROM overflow_by_minute
    WHERE minute >= ?1 AND minute < ?2 AND ?3 IS NOT NULL
      AND datacenter_id = coalesce(?4, datacenter_id) AND worker_id = coalesce(?5, worker_id)
    GROUP BY minute / 60, datacenter_id, worker_id
    HAVING total > 0
    ORDER BY minute / 60 DESC, total DESC, datacenter_id, worker_id
    LIMIT ?6";

const ERRORS: &str = "
    SELECT strftime('%Y-%m-%dT%H:%M:00Z', minute * 60, 'unixepoch'), nullif(datacenter_id, -1),
           nullif(worker_id, -1), error_code, error_message, errors, errors * 100.0 / (issued + failed)
    FROM errors_by_minute JOIN requests_by_minute USING (minute, datacenter_id, worker_id)
    WHERE minute >= ?1 AND minute < ?2 AND ?3 IS NOT NULL
      AND datacenter_id = coalesce(?4, datacenter_id) AND worker_id = coalesce(?5, worker_id)
    ORDER BY minute DESC, errors DESC, datacenter_id, worker_id, error_code, error_message
    LIMIT ?6";

const DAILY: &str = "
    SELECT date(minute * 60, 'unixepoch'), nullif(datacenter_id, -1), nullif(worker_id, -1), sum(ids),
           sum(issued + failed), sum(failed), sum(latency_sum_us) * 1.0 / nullif(sum(issued), 0),
           iif(sum(issued) > 0, max(latency_max_us), NULL)
    FROM requests_by_minute
    WHERE minute >= ?1 AND minute < ?2 AND ?3 IS NOT NULL
      AND datacenter_id = coalesce(?4, datacenter_id) AND worker_id = coalesce(?5, worker_id)
    GROUP BY minute / 1440, datacenter_id, worker_id
    ORDER BY minute / 1440 DESC, datacenter_id, worker_id
    LIMIT ?6";

/// Answers one question.
pub(super) fn report(database: &Connection, report: Report, scope: &Scope) -> rusqlite::Result<Rows> {
    let statement = match report {
        Report::IdsPerSecond => IDS_PER_SECOND,
        Report::Latency => return latency(database, scope),
        Report::ClockDrift => CLOCK_DRIFT,
        Report::Overflow => OVERFLOW,
        Report::Errors => ERRORS,
        Report::Daily => DAILY,
        Report::Tables => return tables(database),
    };
    let mut statement = database.prepare_cached(statement)?;
    let columns = statement.column_count();
    let row = |row: &rusqlite::Row<'_>| (0..columns).map(|column| row.get_ref(column).map(json_of)).collect();
    let rows = statement.query_map(parameters(report, scope), row)?.collect::<Result<_, _>>()?;
    Ok(bounded(rows))
}

fn parameters(report: Report, scope: &Scope) -> impl Params {
    let until_ms = scope.until_ms();
    (
        (scope.from_ms(report) / MINUTE_MS).cast_signed(),
        until_ms.div_ceil(MINUTE_MS).cast_signed(),
        until_ms.cast_signed(),
        scope.datacenter,
        scope.worker,
        (ROWS_MAX + 1).cast_signed(),
    )
}

fn bounded(mut rows: Vec<Vec<Value>>) -> Rows {
    let truncated = rows.len() > ROWS_MAX;
    rows.truncate(ROWS_MAX);
    Rows { rows, truncated }
}

fn json_of(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null | ValueRef::Blob(_) => Value::Null,
        ValueRef::Integer(number) => number.into(),
        ValueRef::Real(number) => number.into(),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into(),
    }
}

fn latency(database: &Connection, scope: &Scope) -> rusqlite::Result<Rows> {
    let mut slots: BTreeMap<(i32, i32), (u64, u64, Latencies)> = BTreeMap::new();
    let mut statement = database.prepare_cached(LATENCY)?;
    let mut minutes = statement.query(parameters(Report::Latency, scope))?;
    while let Some(minute) = minutes.next()? {
        let (requests, sum_us) = (minute.get::<_, i64>(2)?, minute.get::<_, i64>(3)?);
        let (all, all_us, latencies) =
            slots.entry((minute.get(0)?, minute.get(1)?)).or_insert_with(|| (0, 0, Latencies::new()));
        *all += requests.cast_unsigned();
        *all_us += sum_us.cast_unsigned();
        latencies::add_stored(latencies, minute.get_ref(4)?)?;
    }
    let row = |((datacenter, worker), (requests, sum_us, latencies)): (_, (u64, u64, Latencies))| {
        #[expect(clippy::cast_precision_loss, reason = "a mean of microseconds")]
        let average_us = sum_us as f64 / requests as f64;
        let quantiles = [0.50, 0.95, 0.99].map(|quantile| json!(latencies.quantile_us(quantile)));
        let mut row = vec![json!(datacenter), json!(worker), json!(requests), json!(average_us)];
        row.extend(quantiles);
        row
    };
    Ok(bounded(slots.into_iter().map(row).collect()))
}

/// The tables with their sizes; the oldest and the newest are what was stored first and last.
fn tables(database: &Connection) -> rusqlite::Result<Rows> {
    let mut rows = Vec::new();
    for (table, _) in ROWS {
        // Without a gap: counting would read the whole table.
        let count = format!("SELECT coalesce(max(rowid) - min(rowid) + 1, 0) FROM {table}");
        let end = |order| format!("SELECT timestamp FROM {table} ORDER BY rowid {order} LIMIT 1");
        rows.push(sizes(database, table, &count, [end("ASC"), end("DESC")])?);
    }
    for (table, _) in MINUTES {
        let end = |which| format!("SELECT {which}(minute) * 60000 FROM {table}");
        rows.push(sizes(
            database,
            table,
            &format!("SELECT count(*) FROM {table}"),
            [end("min"), end("max")],
        )?);
    }
    Ok(bounded(rows))
}

fn sizes(database: &Connection, table: &str, count: &str, ends: [String; 2]) -> rusqlite::Result<Vec<Value>> {
    let count: i64 = database.query_row(count, [], |row| row.get(0))?;
    let bytes = "SELECT pgsize FROM dbstat WHERE name = ?1 AND aggregate = TRUE";
    let bytes: i64 = database.prepare_cached(bytes)?.query_row(params![table], |row| row.get(0))?;
    let mut row = vec![json!(table), json!(count), json!(bytes)];
    for end in ends {
        let ms: Option<Option<i64>> = database.query_row(&end, [], |row| row.get(0)).optional()?;
        row.push(
            ms.flatten()
                .and_then(|ms| Timestamp::from_millisecond(ms).ok())
                .map_or(Value::Null, |at| json!(at)),
        );
    }
    Ok(row)
}
