//! The reports: the document's questions, answered from whichever store keeps the events.

pub mod clickhouse;
pub mod latency;

use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};
use serde_json::Value;

/// The most rows a report has. The oldest are left out first.
pub const ROWS_MAX: usize = 10_000;

/// Clocks that are off by this much or less are not off, in milliseconds: the document's threshold.
pub const DRIFT_MS_MIN: u32 = 10;

/// How far a quantile may be off, as a share of the true one: that of rank `⌈q·n⌉` of `n` latencies.
pub const QUANTILE_ERROR: f64 = 0.01;

/// How far back the day-by-day statistics go unasked, in hours.
const DAILY_HOURS: i64 = 30 * 24;

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

    /// The time that one row covers, in milliseconds; of a report without times, the one it starts at.
    ///
    /// Rows are of whole minutes, hours or days in UTC, so that the first is not of an odd part of one.
    #[must_use]
    pub const fn unit_ms(self) -> u64 {
        match self {
            Self::IdsPerSecond | Self::Latency | Self::Errors | Self::Tables => 60_000,
            Self::ClockDrift | Self::Overflow => 3_600_000,
            Self::Daily => 86_400_000,
        }
    }

    /// How far it goes back unasked: as the document's query does.
    #[must_use]
    pub const fn default_since(self) -> Since {
        Since::Ago(SignedDuration::from_hours(match self {
            Self::IdsPerSecond | Self::Latency | Self::Errors | Self::Tables => 1,
            Self::ClockDrift | Self::Overflow => 24,
            Self::Daily => DAILY_HOURS,
        }))
    }

    /// The columns, in order: the document's, by the same names, and what a correction adds.
    ///
    /// * A row whose event came from a node without a slot has null for both parts of it.
    /// * `ids_per_second` divides by the 60 s of a minute, or by what has passed of it at [`Scope::until`].
    ///   Minutes without IDs have no row.
    /// * Latencies are those of requests that got IDs, each counted once however many it got; `requests` beside
    ///   them in [`Report::Latency`] counts those, and in [`Report::Daily`] failed ones too. Quantiles are
    ///   within [`QUANTILE_ERROR`], null where there are none.
    /// * Drift counts by its absolute value, above [`DRIFT_MS_MIN`].
    /// * `avg_wait_ms` and `avg_load_factor` are means over the bursts, `max_wait_ms` the longest wait.
    /// * `error_rate_percent` is the share of all requests of that minute and that slot.
    ///
    /// The newest minute, hour or day comes first; within it drift by `max_drift_ms`, overflows and errors by
    /// their count, the highest first; what is left by slot (none before any), code and message.
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
            format!("there are {}", names.join(", "))
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

impl Scope {
    /// Where the first row of a report starts, in Unix milliseconds.
    #[must_use]
    pub fn from_ms(&self, report: Report) -> u64 {
        let since_ms = u64::try_from(self.since.as_millisecond()).unwrap_or(0);
        since_ms - since_ms % report.unit_ms()
    }

    /// What rows are before, in Unix milliseconds.
    #[must_use]
    pub fn until_ms(&self) -> u64 {
        u64::try_from(self.until.as_millisecond()).unwrap_or(0)
    }
}

/// From when on, as it is asked for: `1h`, `7d`, or a time in RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// This long before now.
    Ago(SignedDuration),
    /// Then.
    At(Timestamp),
}

impl Since {
    /// The time that is meant at `now`: none before 1970.
    #[must_use]
    pub fn before(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Ago(ago) => now.checked_sub(ago).unwrap_or_default().max(Timestamp::UNIX_EPOCH),
            Self::At(at) => at,
        }
    }
}

impl FromStr for Since {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(at) = text.parse() {
            return Ok(Self::At(at));
        }
        // A day is 24 hours here, and a month is nothing.
        text.parse::<Span>()
            .and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()))
            .map(|ago| SignedDuration::from_secs(ago.as_secs()))
            .ok()
            .filter(SignedDuration::is_positive)
            .map(Self::Ago)
            .ok_or("how long ago is wanted, such as 90s, 30m, 1h or 7d, or a time in RFC 3339, such as 2024-01-03T19:30:00Z")
    }
}

impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ago(ago) => write!(f, "{}s", ago.as_secs()),
            Self::At(at) => write!(f, "{at}"),
        }
    }
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn how_long_ago_is_a_length_or_a_time() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        for (text, meant, shown) in [
            ("1h", "2026-01-01T23:00:00Z", "3600s"),
            ("90s", "2026-01-01T23:58:30Z", "90s"),
            ("1d", "2026-01-01T00:00:00Z", "86400s"),
            ("99999d", "1970-01-01T00:00:00Z", "8639913600s"),
            ("2025-12-31T23:00:00+01:00", "2025-12-31T22:00:00Z", "2025-12-31T22:00:00Z"),
        ] {
            let since: Since = text.parse().unwrap();
            assert_eq!((since.before(now).to_string().as_str(), since.to_string().as_str()), (meant, shown));
            assert_eq!(since.to_string().parse::<Since>().unwrap(), since);
        }
        for text in ["", "1", "yesterday", "-1h", "0s", "1 month", "2026-01-02"] {
            assert!(text.parse::<Since>().is_err(), "{text}");
        }
    }

    #[test]
    fn rows_are_of_whole_units() {
        let since = "2026-01-02T03:04:05.678Z".parse().unwrap();
        let scope = Scope { since, until: Timestamp::MAX, datacenter: None, worker: None };
        let from =
            |report| Timestamp::from_millisecond(scope.from_ms(report).cast_signed()).unwrap().to_string();
        assert_eq!(from(Report::Latency), "2026-01-02T03:04:00Z");
        assert_eq!(from(Report::Overflow), "2026-01-02T03:00:00Z");
        assert_eq!(from(Report::Daily), "2026-01-02T00:00:00Z");
    }
}
