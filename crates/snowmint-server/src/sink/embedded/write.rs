//! Writing a batch: its events' rows, and what they add to the minutes that the reports are made of.

use std::borrow::Cow;
use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};
use snowmint::Slot;

use crate::config::Detail;
use crate::event::{Drifted, Event, Failed, Issued, Measured, Overflowed, Request, What};
use crate::privacy::Privacy;
use crate::report::DRIFT_MS_MIN;
use crate::report::latency::Latencies;
use crate::sink::Batch;

/// How many kinds of errors a slot has in a minute; more are counted together, by their code.
const ERRORS_PER_MINUTE_MAX: u32 = 100;

/// What the message of errors is that are counted together.
const OTHER_MESSAGES: &str = "(other messages)";

/// Stores what is not stored yet of a batch.
pub(super) fn batch(
    database: &Connection,
    batch: &Batch,
    detail: Detail,
    privacy: &Privacy,
) -> rusqlite::Result<()> {
    let journal = batch.journal.as_bytes();
    let stored = database
        .prepare_cached("SELECT stored FROM journals WHERE journal = ?1")?
        .query_row([journal], |row| row.get(0))
        .optional()?
        .map_or(0, i64::cast_unsigned);
    let mut minutes = Minutes::default();
    for (number, event) in (batch.first..).zip(&batch.events).filter(|(number, _)| *number >= stored) {
        row(database, event, detail.keeps(number), privacy)?;
        minutes.add(event);
    }
    minutes.write(database)?;
    database
        .prepare_cached(
            "INSERT INTO journals VALUES (?1, ?2) ON CONFLICT DO UPDATE SET stored = max(stored, excluded.stored)",
        )?
        .execute(params![journal, signed(batch.end())])?;
    Ok(())
}

/// The rows of one event. Only those of requests are so many that there may be less `detail`.
fn row(database: &Connection, event: &Event, detail: bool, privacy: &Privacy) -> rusqlite::Result<()> {
    let at_ms = signed(event.at_ms);
    let who = |request| Who::new(request, privacy);
    match &event.what {
        What::Issued(issued) if detail => issued.ranges.iter().try_for_each(|range| {
            let ids = (Some(signed(range.first().get())), range.count());
            request(
                database,
                at_ms,
                Some(issued.slot),
                ids,
                issued.latency_us,
                &who(&issued.request),
                (0, ""),
            )
        }),
        What::Failed(failed) if detail => {
            let error = (failed.code, &*failed.message);
            request(database, at_ms, failed.slot, (None, 0), failed.latency_us, &who(&failed.request), error)
        }
        What::Drifted(drifted) => drift(database, at_ms, drifted),
        What::Overflowed(overflowed) => overflow(database, at_ms, overflowed),
        What::Measured(measured) => measurements(database, at_ms, measured),
        // What is only counted, and what the document has no table of: the archive keeps it.
        What::Issued(_) | What::Failed(_) | What::Slot(_) => Ok(()),
    }
}

/// What is told of who asked.
struct Who<'a> {
    client_ip: Option<String>,
    user_agent: Cow<'a, str>,
    request_id: Cow<'a, str>,
}

impl<'a> Who<'a> {
    fn new(request: &'a Request, privacy: &Privacy) -> Self {
        Self {
            client_ip: privacy.client_ip(request),
            user_agent: privacy.user_agent(request),
            request_id: request.request_id(),
        }
    }
}

fn request(
    database: &Connection,
    at_ms: i64,
    slot: Option<Slot>,
    (first_id, count): (Option<i64>, u32),
    latency_us: u32,
    who: &Who<'_>,
    (code, message): (u16, &str),
) -> rusqlite::Result<()> {
    let insert =
        "INSERT INTO id_generation_events VALUES (NULL, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
    database.prepare_cached(insert)?.execute(params![
        at_ms,
        slot.map(|slot| slot.datacenter),
        slot.map(|slot| slot.worker),
        first_id,
        count,
        latency_us,
        who.client_ip,
        who.user_agent,
        who.request_id,
        code,
        message,
    ])?;
    Ok(())
}

fn drift(database: &Connection, at_ms: i64, drifted: &Drifted) -> rusqlite::Result<()> {
    let insert = "INSERT INTO clock_drift_events VALUES (NULL, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    database.prepare_cached(insert)?.execute(params![
        at_ms,
        drifted.slot.map(|slot| slot.datacenter),
        drifted.slot.map(|slot| slot.worker),
        drifted.drift_ms,
        drifted.ntp_server,
        drifted.ntp_stratum,
        signed(drifted.system_time_ms),
        signed(drifted.ntp_time_ms),
        drifted.corrective_action,
    ])?;
    Ok(())
}

fn overflow(database: &Connection, at_ms: i64, overflowed: &Overflowed) -> rusqlite::Result<()> {
    let insert = "INSERT INTO sequence_overflow_events VALUES (NULL, ?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    database.prepare_cached(insert)?.execute(params![
        at_ms,
        overflowed.slot.datacenter,
        overflowed.slot.worker,
        overflowed.count,
        overflowed.wait_ms,
        overflowed.queued,
        overflowed.load_factor,
    ])?;
    Ok(())
}

fn measurements(database: &Connection, at_ms: i64, measured: &Measured) -> rusqlite::Result<()> {
    let insert = "INSERT INTO performance_metrics VALUES (NULL, ?1, ?2, ?3, ?4, ?5)";
    let mut insert = database.prepare_cached(insert)?;
    let datacenter = measured.slot.map(|slot| slot.datacenter);
    let worker = measured.slot.map(|slot| slot.worker);
    for (name, value) in &measured.values {
        insert.execute(params![at_ms, datacenter, worker, name, value])?;
    }
    Ok(())
}

/// A minute of a slot: (minute, datacenter, worker).
type Key = (i64, i32, i32);

/// What a batch adds to each minute.
#[derive(Default)]
struct Minutes<'a> {
    requests: BTreeMap<Key, Requests>,
    errors: BTreeMap<(Key, u16, Cow<'a, str>), u64>,
    drifts: BTreeMap<Key, Drifts>,
    overflows: BTreeMap<Key, Overflows>,
}

#[derive(Default)]
struct Requests {
    ids: u64,
    issued: u64,
    failed: u64,
    latency_sum_us: u64,
    latency_max_us: u32,
    latencies: Latencies,
}

#[derive(Default)]
struct Drifts {
    count: u64,
    sum_ms: u64,
    max_ms: u32,
}

#[derive(Default)]
struct Overflows {
    bursts: u64,
    requests: u64,
    wait_sum_ms: u64,
    wait_max_ms: u32,
    load_sum: f64,
}

impl<'a> Minutes<'a> {
    fn add(&mut self, event: &'a Event) {
        let minute = signed(event.at_ms / 60_000);
        let key = |slot: Option<Slot>| {
            slot.map_or((minute, -1, -1), |slot| (minute, slot.datacenter.into(), slot.worker.into()))
        };
        match &event.what {
            What::Issued(issued) => self.requests.entry(key(Some(issued.slot))).or_default().issue(issued),
            What::Failed(failed) => {
                self.requests.entry(key(failed.slot)).or_default().failed += 1;
                *self.errors.entry(error(key(failed.slot), failed)).or_default() += 1;
            }
            What::Drifted(drifted) if drifted.drift_ms.unsigned_abs() > DRIFT_MS_MIN => {
                self.drifts.entry(key(drifted.slot)).or_default().add(drifted);
            }
            What::Overflowed(overflowed) => {
                self.overflows.entry(key(Some(overflowed.slot))).or_default().add(overflowed);
            }
            What::Drifted(_) | What::Slot(_) | What::Measured(_) => {}
        }
    }

    fn write(self, database: &Connection) -> rusqlite::Result<()> {
        self.requests.into_iter().try_for_each(|(key, requests)| requests.write(database, key))?;
        self.errors.iter().try_for_each(|((key, code, message), errors)| {
            write_errors(database, *key, *code, message, signed(*errors))
        })?;
        self.drifts.iter().try_for_each(|(key, drifts)| drifts.write(database, *key))?;
        self.overflows.iter().try_for_each(|(key, overflows)| overflows.write(database, *key))
    }
}

fn error(key: Key, failed: &Failed) -> (Key, u16, Cow<'_, str>) {
    (key, failed.code, Cow::Borrowed(&failed.message))
}

impl Requests {
    fn issue(&mut self, issued: &Issued) {
        self.ids += issued.ranges.iter().map(|range| u64::from(range.count())).sum::<u64>();
        self.issued += 1;
        self.latency_sum_us += u64::from(issued.latency_us);
        self.latency_max_us = self.latency_max_us.max(issued.latency_us);
        self.latencies.record(issued.latency_us);
    }

    fn write(mut self, database: &Connection, (minute, datacenter, worker): Key) -> rusqlite::Result<()> {
        let before = "SELECT latencies FROM requests_by_minute
            WHERE minute = ?1 AND datacenter_id = ?2 AND worker_id = ?3";
        let before: Option<Latencies> = database
            .prepare_cached(before)?
            .query_row(params![minute, datacenter, worker], |row| row.get(0))
            .optional()?;
        if let Some(before) = before {
            self.latencies.add(&before);
        }
        let add = "INSERT INTO requests_by_minute VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
            ON CONFLICT DO UPDATE SET
                ids = ids + excluded.ids,
                issued = issued + excluded.issued,
                failed = failed + excluded.failed,
                latency_sum_us = latency_sum_us + excluded.latency_sum_us,
                latency_max_us = max(latency_max_us, excluded.latency_max_us),
                latencies = excluded.latencies";
        database.prepare_cached(add)?.execute(params![
            minute,
            datacenter,
            worker,
            signed(self.ids),
            signed(self.issued),
            signed(self.failed),
            signed(self.latency_sum_us),
            self.latency_max_us,
            self.latencies,
        ])?;
        Ok(())
    }
}

/// Messages may hold what a caller sent, so that there can be any number of them.
fn write_errors(
    database: &Connection,
    (minute, datacenter, worker): Key,
    code: u16,
    message: &str,
    errors: i64,
) -> rusqlite::Result<()> {
    let more = "UPDATE errors_by_minute SET errors = errors + ?6 WHERE minute = ?1 AND datacenter_id = ?2
        AND worker_id = ?3 AND error_code = ?4 AND error_message = ?5";
    let more =
        database.prepare_cached(more)?.execute(params![minute, datacenter, worker, code, message, errors])?;
    if more > 0 {
        return Ok(());
    }
    let kinds: u32 = database
        .prepare_cached(
            "SELECT count(*) FROM errors_by_minute WHERE minute = ?1 AND datacenter_id = ?2 AND worker_id = ?3",
        )?
        .query_row(params![minute, datacenter, worker], |row| row.get(0))?;
    let message = if kinds < ERRORS_PER_MINUTE_MAX { message } else { OTHER_MESSAGES };
    let add = "INSERT INTO errors_by_minute VALUES (?1, ?2, ?3, ?4, ?5, ?6)
        ON CONFLICT DO UPDATE SET errors = errors + excluded.errors";
    database.prepare_cached(add)?.execute(params![minute, datacenter, worker, code, message, errors])?;
    Ok(())
}

impl Drifts {
    fn add(&mut self, drifted: &Drifted) {
        let drift_ms = drifted.drift_ms.unsigned_abs();
        self.count += 1;
        self.sum_ms += u64::from(drift_ms);
        self.max_ms = self.max_ms.max(drift_ms);
    }

    fn write(&self, database: &Connection, (minute, datacenter, worker): Key) -> rusqlite::Result<()> {
        let add = "INSERT INTO drift_by_minute VALUES (?1, ?2, ?3, ?4, ?5, ?6)
            ON CONFLICT DO UPDATE SET
                drifts = drifts + excluded.drifts,
                drift_sum_ms = drift_sum_ms + excluded.drift_sum_ms,
                drift_max_ms = max(drift_max_ms, excluded.drift_max_ms)";
        let (drifts, sum_ms) = (signed(self.count), signed(self.sum_ms));
        let add = database.prepare_cached(add)?.execute(params![
            minute,
            datacenter,
            worker,
            drifts,
            sum_ms,
            self.max_ms
        ]);
        add.map(drop)
    }
}

impl Overflows {
    fn add(&mut self, overflowed: &Overflowed) {
        self.bursts += 1;
        self.requests += u64::from(overflowed.count);
        self.wait_sum_ms += u64::from(overflowed.wait_ms);
        self.wait_max_ms = self.wait_max_ms.max(overflowed.wait_ms);
        self.load_sum += f64::from(overflowed.load_factor);
    }

    fn write(&self, database: &Connection, (minute, datacenter, worker): Key) -> rusqlite::Result<()> {
        let add = "INSERT INTO overflow_by_minute VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
            ON CONFLICT DO UPDATE SET
                bursts = bursts + excluded.bursts,
                overflows = overflows + excluded.overflows,
                wait_sum_ms = wait_sum_ms + excluded.wait_sum_ms,
                wait_max_ms = max(wait_max_ms, excluded.wait_max_ms),
                load_sum = load_sum + excluded.load_sum";
        database.prepare_cached(add)?.execute(params![
            minute,
            datacenter,
            worker,
            signed(self.bursts),
            signed(self.requests),
            signed(self.wait_sum_ms),
            self.wait_max_ms,
            self.load_sum,
        ])?;
        Ok(())
    }
}

/// A count or a time as the database has it; none of them reaches 2^63.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
