//! The reports, from ClickHouse.
//!
//! Each is the document's query with what gave wrong answers corrected; the files in `sql` say what that is.

use async_trait::async_trait;
use serde_json::{Value, json};

use super::latency::Latencies;
use super::{DRIFT_MS_MIN, ROWS_MAX, Report, ReportError, Reports, Rows, Scope};
use crate::clickhouse::{ClickHouse, ClickHouseError, NO_SLOT};

/// ClickHouse, as a store that answers.
pub struct ClickHouseReports {
    clickhouse: ClickHouse,
}

impl ClickHouseReports {
    /// Answers from what a node's sink wrote there.
    #[must_use]
    pub fn new(clickhouse: ClickHouse) -> Self {
        Self { clickhouse }
    }

    async fn answer(&self, report: Report, scope: &Scope) -> Result<Rows, ClickHouseError> {
        let any = |id: Option<u16>| json!(id.map_or(-1, i32::from));
        let params = [
            ("from_ms", json!(scope.from_ms(report))),
            ("until_ms", json!(scope.until_ms())),
            ("datacenter", any(scope.datacenter)),
            ("worker", any(scope.worker)),
            ("drift_ms_min", json!(DRIFT_MS_MIN)),
            // One more, to know that there are more.
            ("rows_max", json!(ROWS_MAX + 1)),
        ];
        let mut rows = self.clickhouse.rows(sql(report), &params).await?;
        let truncated = rows.len() > ROWS_MAX;
        rows.truncate(ROWS_MAX);
        let slot = report.columns().iter().position(|column| *column == "datacenter_id");
        for row in &mut rows {
            if let Some(at) = slot {
                without_slot(&mut row[at..]);
            }
            if report == Report::Latency {
                add_quantiles(row);
            }
        }
        Ok(Rows { rows, truncated })
    }
}

#[async_trait]
impl Reports for ClickHouseReports {
    fn name(&self) -> String {
        format!("ClickHouse at {}", self.clickhouse)
    }

    async fn report(&self, report: Report, scope: &Scope) -> Result<Rows, ReportError> {
        let answer = self.answer(report, scope).await;
        answer.map_err(|error| ReportError { store: self.name(), problem: error.to_string() })
    }
}

const fn sql(report: Report) -> &'static str {
    match report {
        Report::IdsPerSecond => include_str!("sql/ids_per_second.sql"),
        Report::Latency => include_str!("sql/latency.sql"),
        Report::ClockDrift => include_str!("sql/clock_drift.sql"),
        Report::Overflow => include_str!("sql/overflow.sql"),
        Report::Errors => include_str!("sql/errors.sql"),
        Report::Daily => include_str!("sql/daily.sql"),
        Report::Tables => include_str!("sql/tables.sql"),
    }
}

/// A node without a slot has numbers in the tables, because their keys have no null.
fn without_slot(slot: &mut [Value]) {
    if slot[0] == NO_SLOT.datacenter && slot[1] == NO_SLOT.worker {
        slot[..2].fill(Value::Null);
    }
}

/// Puts quantiles where the query has left the counts of the buckets, as the last column.
fn add_quantiles(row: &mut Vec<Value>) {
    let counts = row.pop().unwrap_or_default();
    let mut latencies = Latencies::new();
    for (bucket_us, count) in counts.as_object().into_iter().flatten() {
        if let (Ok(bucket_us), Some(count)) = (bucket_us.parse(), count.as_u64()) {
            latencies.record_several(bucket_us, count);
        }
    }
    row.extend([0.50, 0.95, 0.99].map(|quantile| json!(latencies.quantile_us(quantile))));
}
