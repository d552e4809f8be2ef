//! The reports: the document's questions, answered from whichever store keeps the events.

pub mod clickhouse;
pub mod latency;

use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::Value;

/// The most rows a report has. The oldest are left out first.
pub const ROWS_MAX: usize = 10_000;

/// A question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// How many IDs, minute by minute and slot by slot.
    IdsPerSecond,
    /// How long requests took, slot by slot.
    Latency,
    /// How far clocks were off, hour by hour.
    ClockDrift,
    /// How often requests waited for a millisecond, hour by hour.
    Overflow,
    /// What went wrong, minute by minute.
    Errors,
    /// Statistics, day by day.
    Daily,
    /// How large each table is.
    Tables,
}

impl Report {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::IdsPerSecond,
        Self::Latency,
        Self::ClockDrift,
        Self::Overflow,
        Self::Errors,
        Self::Daily,
        Self::Tables,
    ];

    /// Its name, in a URL and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::IdsPerSecond => "ids-per-second",
            Self::Latency => "latency",
            Self::ClockDrift => "clock-drift",
            Self::Overflow => "overflow",
            Self::Errors => "errors",
            Self::Daily => "daily",
            Self::Tables => "tables",
        }
    }

    /// The columns, in order: the document's, by the same names, and what a correction adds.
    #[must_use]
    pub const fn columns(self) -> &'static [&'static str] {
        match self {
            Self::IdsPerSecond => {
                &["minute", "datacenter_id", "worker_id", "ids_generated", "ids_per_second"]
            }
            Self::Latency => &[
                "datacenter_id",
                "worker_id",
                "requests",
                "avg_latency_us",
                "p50_latency_us",
                "p95_latency_us",
                "p99_latency_us",
            ],
            Self::ClockDrift => {
                &["hour", "datacenter_id", "worker_id", "avg_drift_ms", "max_drift_ms", "drift_events"]
            }
            Self::Overflow => &[
                "hour",
                "datacenter_id",
                "worker_id",
                "total_overflows",
                "avg_wait_ms",
                "max_wait_ms",
                "avg_load_factor",
            ],
            Self::Errors => &[
                "minute",
                "datacenter_id",
                "worker_id",
                "error_code",
                "error_message",
                "error_count",
                "error_rate_percent",
            ],
            Self::Daily => &[
                "date",
                "datacenter_id",
                "worker_id",
                "total_ids",
                "requests",
                "error_count",
                "avg_latency_us",
                "max_latency_us",
            ],
            Self::Tables => &["table", "rows", "bytes", "oldest", "newest"],
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Report {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|report| report.name() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|report| report.name()).collect();
            format!("{text:?} is no report: there are {}", names.join(", "))
        })
    }
}

/// Of what a report tells.
#[derive(Clone, Debug)]
pub struct Scope {
    /// From when on.
    pub since: Timestamp,
    /// Until when: mostly now, so that a minute that has not ended is divided by its real length.
    pub until: Timestamp,
    /// Of one datacenter alone.
    pub datacenter: Option<u16>,
    /// Of one worker alone.
    pub worker: Option<u16>,
}

/// An answer: rows of [`Report::columns`], newest first where there are times.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    /// Each as long as the columns: texts, numbers or null. Times are RFC 3339 in UTC.
    pub rows: Vec<Vec<Value>>,
    /// Whether there were more than [`ROWS_MAX`].
    pub truncated: bool,
}

/// A store that answers.
#[async_trait]
pub trait Reports: Send + Sync + 'static {
    /// What it is called, for people.
    fn name(&self) -> String;

    /// Answers one question.
    async fn report(&self, report: Report, scope: &Scope) -> Result<Rows, ReportError>;
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("the metrics store {store} cannot answer: {problem}")]
pub struct ReportError {
    /// Which store.
    pub store: String,
    /// Why.
    pub problem: String,
}
