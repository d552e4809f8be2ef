//! What goes when it is old, or when the file is as large as it may be.

use rusqlite::{Connection, OptionalExtension, params};

use super::BYTES_PER_PAGE;

/// The tables of rows, and for how many days each is kept: the document's retention.
pub(super) const ROWS: [(&str, i64); 4] = [
    ("id_generation_events", 90),
    ("performance_metrics", 365),
    ("clock_drift_events", 180),
    ("sequence_overflow_events", 180),
];

/// The tables of minutes, each kept as long as the rows it sums up.
pub(super) const MINUTES: [(&str, i64); 4] = [
    ("requests_by_minute", 90),
    ("errors_by_minute", 90),
    ("drift_by_minute", 180),
    ("overflow_by_minute", 180),
];

const DAY_MS: i64 = 86_400_000;
const MINUTE_MS: i64 = 60_000;

/// How many rows go at once, and how often in one transaction: its log is to stay small.
const CHUNK_ROWS: i64 = 10_000;
const CHUNKS_MAX: u32 = 64;

/// How many minutes go at once, when there are no rows left to make room.
const CHUNK_MINUTES: i64 = 60;

/// How much room is made at once, so that it is not done for every batch: this share of the limit, and at
/// most so many pages (8 MiB).
const ROOM_SHARE: i64 = 16;
const ROOM_PAGES_MAX: i64 = 2_048;

/// How many pages the file is shortened by in one transaction: 16 MiB.
const SHORTEN_PAGES_MAX: i64 = 4_096;

/// Drops what is past its retention; whether there was no more of it than goes at once.
pub(super) fn drop_expired(database: &Connection, now_ms: i64) -> rusqlite::Result<bool> {
    for (table, days) in MINUTES {
        let first_minute = (now_ms - days * DAY_MS).div_euclid(MINUTE_MS);
        database.execute(&format!("DELETE FROM {table} WHERE minute < ?1"), [first_minute])?;
    }
    let mut all = true;
    for (table, days) in ROWS {
        all &= drop_rows(database, table, now_ms - days * DAY_MS)? < CHUNK_ROWS;
    }
    Ok(all)
}

/// Drops the first rows of a table that are from before `before_ms`, as many as go at once, and says how many.
fn drop_rows(database: &Connection, table: &str, before_ms: i64) -> rusqlite::Result<i64> {
    let Some(first) = first_row(database, table)?.filter(|(_, at_ms)| *at_ms < before_ms) else {
        return Ok(0);
    };
    let kept = format!("SELECT min(rowid) FROM {table} WHERE rowid >= ?1 AND rowid < ?2 AND timestamp >= ?3");
    let end = first.0 + CHUNK_ROWS;
    let kept: Option<i64> = database.query_row(&kept, params![first.0, end, before_ms], |row| row.get(0))?;
    let dropped =
        database.execute(&format!("DELETE FROM {table} WHERE rowid < ?1"), [kept.unwrap_or(end)])?;
    Ok(i64::try_from(dropped).unwrap_or(CHUNK_ROWS))
}

/// The rowid and the time of a table's first row.
fn first_row(database: &Connection, table: &str) -> rusqlite::Result<Option<(i64, i64)>> {
    let first = format!("SELECT rowid, timestamp FROM {table} ORDER BY rowid LIMIT 1");
    database.query_row(&first, [], |row| Ok((row.get(0)?, row.get(1)?))).optional()
}

/// Keeps the file within its limit: the oldest rows go, then, when there are none left, the oldest minutes.
///
/// A file that is far too large, because the limit is new, comes to it over several batches.
pub(super) fn keep_within(database: &Connection, max_bytes: u64) -> rusqlite::Result<()> {
    let most = i64::try_from(max_bytes / BYTES_PER_PAGE).unwrap_or(i64::MAX);
    let pages = pragma(database, "page_count")?;
    if pages <= most {
        return Ok(());
    }
    let room = (most / ROOM_SHARE).min(ROOM_PAGES_MAX);
    for _ in 0..CHUNKS_MAX {
        if pages - pragma(database, "freelist_count")? <= most - room {
            break;
        }
        if !drop_oldest_rows(database)? && !drop_oldest_minutes(database)? {
            break;
        }
    }
    shorten(database, (pages - most).min(SHORTEN_PAGES_MAX))
}

/// Drops the oldest rows of the table that has the oldest; not where there are none.
fn drop_oldest_rows(database: &Connection) -> rusqlite::Result<bool> {
    let mut oldest: Option<(i64, &str)> = None;
    for (table, _) in ROWS {
        if let Some((_, at_ms)) = first_row(database, table)? {
            oldest = Some(oldest.map_or((at_ms, table), |oldest| oldest.min((at_ms, table))));
        }
    }
    let Some((_, table)) = oldest else { return Ok(false) };
    Ok(drop_rows(database, table, i64::MAX)? > 0)
}

fn drop_oldest_minutes(database: &Connection) -> rusqlite::Result<bool> {
    let mut oldest: Option<i64> = None;
    for (table, _) in MINUTES {
        let minute: Option<i64> =
            database.query_row(&format!("SELECT min(minute) FROM {table}"), [], |row| row.get(0))?;
        oldest = oldest.into_iter().chain(minute).min();
    }
    let Some(oldest) = oldest else { return Ok(false) };
    tracing::warn!(
        "the metrics store has no room left but for sums: its oldest {CHUNK_MINUTES} minutes go. A larger \
         metrics.max_bytes would keep them"
    );
    for (table, _) in MINUTES {
        database.execute(&format!("DELETE FROM {table} WHERE minute < ?1"), [oldest + CHUNK_MINUTES])?;
    }
    Ok(true)
}

/// Gives free pages back to the file system.
fn shorten(database: &Connection, pages: i64) -> rusqlite::Result<()> {
    let mut vacuum = database.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
    // Each step gives one page back.
    let mut steps = vacuum.query([])?;
    while steps.next()?.is_some() {}
    Ok(())
}

fn pragma(database: &Connection, name: &str) -> rusqlite::Result<i64> {
    database.pragma_query_value(None, name, |row| row.get(0))
}
