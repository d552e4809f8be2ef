//! Events into ClickHouse: one row per range of IDs on the wire, one row per ID in its tables.

use async_trait::async_trait;
use clickhouse::{Row, RowWrite};
use serde::Serialize;
use snowmint::Layout;
use uuid::Uuid;

use super::{Batch, Sink, SinkError};
use crate::clickhouse::{ClickHouse, ClickHouseError, NO_SLOT};
use crate::config::Detail;
use crate::event::{Drifted, Event, Failed, Issued, Measured, Overflowed, What};
use crate::privacy::Privacy;
use crate::report::latency;

/// The longest an insert may take, in milliseconds. A busy ClickHouse needs about a second for [`IDS_MAX`].
pub const INSERT_MS_MAX: u64 = 30_000;

/// How many IDs one insert expands to, unless a single range has more: what one takes of ClickHouse's memory and time
/// is bounded by it.
pub const IDS_MAX: u64 = 1_000_000;

/// ClickHouse's errors that are about the rows: sent again they would be refused again.
///
/// What is wrong with the server (a table that is missing or of another form, a password, memory, a disk) is not among
/// them. It would be the same with every batch, and somebody is going to mend it.
const ABOUT_THE_ROWS: [u32; 14] = [
    6,   // CANNOT_PARSE_TEXT
    25,  // CANNOT_PARSE_ESCAPE_SEQUENCE
    26,  // CANNOT_PARSE_QUOTED_STRING
    27,  // CANNOT_PARSE_INPUT_ASSERTION_FAILED
    32,  // ATTEMPT_TO_READ_AFTER_EOF
    33,  // CANNOT_READ_ALL_DATA
    41,  // CANNOT_PARSE_DATETIME
    69,  // ARGUMENT_OUT_OF_BOUND
    72,  // CANNOT_PARSE_NUMBER
    117, // INCORRECT_DATA
    131, // TOO_LARGE_STRING_SIZE
    321, // VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
    395, // FUNCTION_THROW_IF_VALUE_IS_NON_ZERO
    469, // VIOLATED_CONSTRAINT
];

/// ClickHouse, as a place where events are delivered.
pub struct ClickHouseSink {
    clickhouse: ClickHouse,
    layout: Layout,
    /// Which requests become rows of `id_generation_events`. Totals count all.
    detail: Detail,
    privacy: Privacy,
    insert_ms_max: u64,
}

impl ClickHouseSink {
    /// A sink that writes as many requests ID by ID as `detail` says.
    #[must_use]
    pub fn new(clickhouse: ClickHouse, layout: Layout, detail: Detail) -> Self {
        Self { clickhouse, layout, detail, privacy: Privacy::keep(), insert_ms_max: INSERT_MS_MAX }
    }

    /// Tells of people what `privacy` says, instead of all.
    #[must_use]
    pub fn privacy(mut self, privacy: Privacy) -> Self {
        self.privacy = privacy;
        self
    }

    /// Gives up on an insert after so long, instead of [`INSERT_MS_MAX`].
    #[must_use]
    pub fn insert_ms_max(mut self, ms: u64) -> Self {
        self.insert_ms_max = ms;
        self
    }

    /// All rows of one table and batch, in one insert.
    ///
    /// What the rows are is told by the token: ClickHouse counts an insert that it has had already as done, and so does
    /// every view behind it.
    async fn insert<R>(&self, table: &str, token: &str, rows: &[R]) -> Result<(), SinkError>
    where
        R: for<'a> Row<Value<'a> = R> + RowWrite + Sync,
    {
        if rows.is_empty() {
            return Ok(());
        }
        let insert = async {
            let mut insert = self
                .clickhouse
                .client()
                .insert::<R>(table)
                .await?
                .with_setting("insert_deduplication_token", format!("{token}-{table}"))
                .with_setting("insert_deduplicate", "1")
                .with_setting("deduplicate_blocks_in_dependent_materialized_views", "1")
                // Otherwise the answer comes before the rows are on disk, and one insert may be put together with others.
                .with_setting("async_insert", "0");
            for row in rows {
                insert.write(row).await?;
            }
            insert.end().await
        };
        self.clickhouse.within(self.insert_ms_max, insert).await.map_err(|error| sink_error(&error))
    }
}

fn sink_error(error: &ClickHouseError) -> SinkError {
    match error {
        ClickHouseError::Answer { code: Some(code), .. } if ABOUT_THE_ROWS.contains(code) => {
            SinkError::Refused(error.to_string())
        }
        _ => SinkError::Unavailable(error.to_string()),
    }
}

#[async_trait]
impl Sink for ClickHouseSink {
    fn name(&self) -> &'static str {
        "clickhouse"
    }

    async fn deliver(&self, batch: &Batch) -> Result<(), SinkError> {
        let token = batch.token();
        let rows = self.rows(batch);
        self.insert("clock_drift_events", &token, &rows.drifts).await?;
        self.insert("sequence_overflow_events", &token, &rows.overflows).await?;
        self.insert("performance_metrics", &token, &rows.measurements).await?;
        // The same batch is always cut at the same places.
        for (part, ranges) in cut(&rows.ranges).into_iter().enumerate() {
            self.insert("id_ranges", &format!("{token}-{part}"), ranges).await?;
        }
        Ok(())
    }
}

/// Runs of rows that expand to [`IDS_MAX`] rows at most, or are one row.
fn cut(rows: &[RangeRow]) -> Vec<&[RangeRow]> {
    let mut ids = 0;
    rows.chunk_by(|row, next| {
        ids += u64::from(row.count);
        let fits = ids + u64::from(next.count) <= IDS_MAX;
        if !fits {
            ids = 0;
        }
        fits
    })
    .collect()
}

/// A batch as rows, table by table.
#[derive(Default)]
struct Rows {
    ranges: Vec<RangeRow>,
    drifts: Vec<DriftRow>,
    overflows: Vec<OverflowRow>,
    measurements: Vec<MeasurementRow>,
}

impl ClickHouseSink {
    fn rows(&self, batch: &Batch) -> Rows {
        let mut rows = Rows::default();
        for (number, event) in (batch.first..).zip(&batch.events) {
            match &event.what {
                What::Issued(issued) => self.add_issued(&mut rows, batch, number, event, issued),
                What::Failed(failed) => rows.ranges.push(self.failed(batch, number, event, failed)),
                What::Drifted(drifted) => rows.drifts.push(DriftRow::new(event.at_ms, drifted)),
                What::Overflowed(overflowed) => {
                    rows.overflows.push(OverflowRow::new(event.at_ms, overflowed));
                }
                What::Measured(measured) => {
                    rows.measurements.extend(MeasurementRow::all(event.at_ms, measured));
                }
                // The audit archive's alone.
                What::Slot(_) => {}
            }
        }
        rows
    }

    fn add_issued(&self, rows: &mut Rows, batch: &Batch, number: u64, event: &Event, issued: &Issued) {
        let ranges = issued.ranges.iter().enumerate();
        rows.ranges.extend(ranges.map(|(index, range)| RangeRow {
            event_id: batch.event_id(number),
            timestamp: milliseconds(event.at_ms),
            datacenter_id: issued.slot.datacenter,
            worker_id: issued.slot.worker,
            first_id: range.first().get().cast_signed(),
            count: range.count(),
            first_sequence: self.layout.decompose(range.first()).sequence,
            requests: u8::from(index == 0),
            latency_us: issued.latency_us,
            latency_bucket_us: latency::bucket_us(issued.latency_us),
            client_ip: self.privacy.client_ip(&issued.request).unwrap_or_default(),
            client_user_agent: self.privacy.user_agent(&issued.request).into_owned(),
            request_id: issued.request.request_id().into_owned(),
            error_code: 0,
            error_message: String::new(),
            detail: u8::from(self.detail.keeps(number)),
        }));
    }

    fn failed(&self, batch: &Batch, number: u64, event: &Event, failed: &Failed) -> RangeRow {
        let slot = failed.slot.unwrap_or(NO_SLOT);
        RangeRow {
            event_id: batch.event_id(number),
            timestamp: milliseconds(event.at_ms),
            datacenter_id: slot.datacenter,
            worker_id: slot.worker,
            first_id: 0,
            count: 0,
            first_sequence: 0,
            requests: 1,
            latency_us: failed.latency_us,
            latency_bucket_us: latency::bucket_us(failed.latency_us),
            client_ip: self.privacy.client_ip(&failed.request).unwrap_or_default(),
            client_user_agent: self.privacy.user_agent(&failed.request).into_owned(),
            request_id: failed.request.request_id().into_owned(),
            error_code: failed.code,
            error_message: failed.message.clone().into_owned(),
            detail: u8::from(self.detail.keeps(number)),
        }
    }
}

/// A row of `id_ranges`.
#[derive(Row, Serialize)]
struct RangeRow {
    #[serde(with = "clickhouse::serde::uuid")]
    event_id: Uuid,
    timestamp: i64,
    datacenter_id: u16,
    worker_id: u16,
    first_id: i64,
    count: u32,
    first_sequence: u32,
    requests: u8,
    latency_us: u32,
    latency_bucket_us: u32,
    client_ip: String,
    client_user_agent: String,
    request_id: String,
    error_code: u16,
    error_message: String,
    detail: u8,
}

/// A row of `clock_drift_events`.
#[derive(Row, Serialize)]
struct DriftRow {
    timestamp: i64,
    datacenter_id: u16,
    worker_id: u16,
    drift_ms: i32,
    ntp_server: String,
    ntp_stratum: u8,
    system_time: i64,
    ntp_time: i64,
    corrective_action: String,
}

impl DriftRow {
    fn new(at_ms: u64, drifted: &Drifted) -> Self {
        let slot = drifted.slot.unwrap_or(NO_SLOT);
        Self {
            timestamp: milliseconds(at_ms),
            datacenter_id: slot.datacenter,
            worker_id: slot.worker,
            drift_ms: drifted.drift_ms,
            ntp_server: drifted.ntp_server.clone(),
            ntp_stratum: drifted.ntp_stratum,
            system_time: milliseconds(drifted.system_time_ms),
            ntp_time: milliseconds(drifted.ntp_time_ms),
            corrective_action: drifted.corrective_action.clone().into_owned(),
        }
    }
}

/// A row of `sequence_overflow_events`.
#[derive(Row, Serialize)]
struct OverflowRow {
    timestamp: i64,
    datacenter_id: u16,
    worker_id: u16,
    overflow_count: u32,
    wait_time_ms: u32,
    requests_queued: u32,
    load_factor: f32,
}

impl OverflowRow {
    fn new(at_ms: u64, overflowed: &Overflowed) -> Self {
        Self {
            timestamp: milliseconds(at_ms),
            datacenter_id: overflowed.slot.datacenter,
            worker_id: overflowed.slot.worker,
            overflow_count: overflowed.count,
            wait_time_ms: overflowed.wait_ms,
            requests_queued: overflowed.queued,
            load_factor: overflowed.load_factor,
        }
    }
}

/// A row of `performance_metrics`: one number that a node measured of itself.
#[derive(Row, Serialize)]
struct MeasurementRow {
    /// When, in Unix seconds.
    timestamp: u32,
    datacenter_id: u16,
    worker_id: u16,
    metric_name: String,
    metric_value: f64,
    /// What else tells it from others, as pairs.
    tags: Vec<(String, String)>,
}

impl MeasurementRow {
    fn all(at_ms: u64, measured: &Measured) -> impl Iterator<Item = Self> {
        let slot = measured.slot.unwrap_or(NO_SLOT);
        let timestamp = u32::try_from(at_ms / 1_000).unwrap_or(u32::MAX);
        measured.values.iter().map(move |(name, value)| Self {
            timestamp,
            datacenter_id: slot.datacenter,
            worker_id: slot.worker,
            metric_name: name.clone().into_owned(),
            metric_value: *value,
            tags: Vec::new(),
        })
    }
}

/// A time as `DateTime64(3)` has it.
fn milliseconds(at_ms: u64) -> i64 {
    i64::try_from(at_ms).unwrap_or(i64::MAX)
}
