//! The reports over REST.

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::api::request;
use crate::error::{Code, Error};
use crate::report::{Report, ReportError, Rows, Scope, Since};

/// How long a client waits before it asks a store again that could not answer, in milliseconds.
const RETRY_MS: u64 = 1_000;

/// Of what a report is to tell.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ReportParams {
    /// From when on: how long ago, such as `30m`, `1h` or `7d`, or a time in RFC 3339. Otherwise 1 hour, for
    /// `clock-drift` and `overflow` 24 hours, for `daily` 30 days. It begins with a whole minute, hour or day.
    #[param(example = "1h")]
    since: Option<String>,
    /// Of one datacenter alone.
    #[param(value_type = Option<u16>)]
    datacenter: Option<String>,
    /// Of the workers with this number alone.
    #[param(value_type = Option<u16>)]
    worker: Option<String>,
}

impl ReportParams {
    pub(super) fn scope(&self, report: Report, now: Timestamp) -> Result<Scope, Error> {
        let since = match self.since.as_deref() {
            None => report.default_since(),
            Some(given) => given.parse::<Since>().map_err(|wanted| {
                let given = request::excerpt(given);
                Error::parameter("since", format!("since is {given}: {wanted} (in a URL, + is written %2B)"))
            })?,
        };
        Ok(Scope {
            since: since.before(now),
            until: now,
            datacenter: number("datacenter", self.datacenter.as_deref())?,
            worker: number("worker", self.worker.as_deref())?,
        })
    }
}

fn number(parameter: &str, given: Option<&str>) -> Result<Option<u16>, Error> {
    let parse = |given: &str| {
        given.parse().map_err(|_| {
            let given = request::excerpt(given);
            Error::parameter(
                parameter,
                format!("{parameter} is {given}, it must be an integer from 0 to 65535"),
            )
        })
    };
    given.map(parse).transpose()
}

/// The report that a path names.
pub(super) fn named(name: Result<Path<String>, PathRejection>) -> Result<Report, Error> {
    let Path(name) = name.map_err(|error| Error::parameter("name", error.body_text()))?;
    name.parse().map_err(|known: String| {
        Error::parameter("name", format!("{} is no report: {known}", request::excerpt(&name)))
    })
}

/// What is said when there is no store to ask.
pub(super) fn no_store() -> Error {
    Error::new(Code::ServiceUnavailable, "this node has no metrics store: none is configured")
}

/// What is said when the store has no answer.
pub(super) fn unanswered(report: Report, error: &ReportError) -> Error {
    tracing::warn!(%report, "{error}");
    Error::new(Code::ServiceUnavailable, error.to_string()).retry_after_ms(RETRY_MS)
}

/// A report.
#[derive(Serialize, ToSchema)]
pub(super) struct Answer {
    /// Its name.
    #[schema(value_type = String, example = "ids-per-second")]
    report: &'static str,
    /// The store that answered.
    store: String,
    /// Where the first row starts, in UTC.
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// Until when it tells, in UTC.
    #[schema(value_type = String, format = DateTime)]
    until: Timestamp,
    /// The columns' names, in order.
    #[schema(value_type = Vec<String>)]
    columns: &'static [&'static str],
    /// The rows, newest first; each has a value for each column.
    #[schema(value_type = Vec<Object>)]
    rows: Vec<Row>,
    /// Whether there are more rows, older ones, than are given.
    truncated: bool,
}

impl Answer {
    pub(super) fn new(report: Report, store: String, scope: &Scope, Rows { rows, truncated }: Rows) -> Self {
        let columns = report.columns();
        let since = Timestamp::from_millisecond(scope.from_ms(report).cast_signed());
        Self {
            report: report.name(),
            store,
            since: since.unwrap_or(scope.since),
            until: scope.until,
            columns,
            rows: rows.into_iter().map(|values| Row { columns, values }).collect(),
            truncated,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }
}

/// A row, written as an object whose members are in the columns' order.
struct Row {
    columns: &'static [&'static str],
    values: Vec<Value>,
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.columns.iter().zip(&self.values))
    }
}
