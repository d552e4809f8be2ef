//! `report`: what was issued, how fast, and what went wrong.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Index;

use clap::Args;
use comfy_table::CellAlignment;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::plot::{self, Bars, Columns};
use super::server::Server;
use super::server_url::ServerUrl;
use super::{CliError, DEFAULT_SERVER, block_on, table, write_table};
use crate::report::{Report, Since};

/// How many bars are shown: the first.
const BARS_MAX: usize = 30;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// ids-per-second, latency, clock-drift, overflow, errors, daily or tables
    #[arg(value_name = "NAME")]
    report: Report,
    /// From when on: how long ago, such as 30m, 1h or 7d, or a time in RFC 3339; otherwise as long as suits the
    /// report
    #[arg(long, value_name = "AGO|TIME")]
    since: Option<Since>,
    /// Of one datacenter alone
    #[arg(long, value_name = "N")]
    datacenter: Option<u16>,
    /// Of the workers with this number alone
    #[arg(long, value_name = "N")]
    worker: Option<u16>,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// The server
    #[arg(long, value_name = "URL", default_value = DEFAULT_SERVER)]
    server: ServerUrl,
}

#[derive(Deserialize)]
struct Answer {
    store: String,
    since: Timestamp,
    until: Timestamp,
    rows: Vec<Row>,
    truncated: bool,
}

/// By column; one that is missing is null.
#[derive(Deserialize)]
struct Row(Map<String, Value>);

impl Index<&str> for Row {
    type Output = Value;

    fn index(&self, column: &str) -> &Value {
        self.0.get(column).unwrap_or(&Value::Null)
    }
}

impl Arguments {
    fn call(&self) -> String {
        let parameters = [
            ("since", self.since.map(|since| since.to_string())),
            ("datacenter", self.datacenter.map(|number| number.to_string())),
            ("worker", self.worker.map(|number| number.to_string())),
        ];
        let given = parameters.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?)));
        let query = given.collect::<Vec<_>>().join("&");
        let mark = if query.is_empty() { "" } else { "?" };
        format!("/api/v1/reports/{}{mark}{query}", self.report)
    }
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<(), CliError> {
    let server = Server::new(&arguments.server);
    let call = arguments.call();
    if arguments.json {
        // As it came, so that columns stay in their order.
        let answer: Box<RawValue> = block_on(async { Ok(server.get(&call).await?) })?;
        return Ok(writeln!(out, "{}", answer.get())?);
    }
    let answer: Answer = block_on(async { Ok(server.get(&call).await?) })?;
    write(arguments.report, &answer, out)
}

fn write(report: Report, answer: &Answer, out: &mut dyn Write) -> Result<(), CliError> {
    let Answer { store, since, until, rows, truncated } = answer;
    writeln!(out, "{report}, {store}, from {since:.0} until {until:.0}\n")?;
    if rows.is_empty() {
        return Ok(writeln!(out, "nothing happened")?);
    }
    let columns = report.columns();
    let mut shown = table(columns);
    for row in rows {
        shown.add_row(columns.iter().map(|column| cell(&row[*column])));
    }
    for (column, name) in shown.column_iter_mut().zip(columns) {
        if rows.iter().any(|row| row[*name].is_number()) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    write_table(out, &shown)?;
    if *truncated {
        writeln!(out, "\nThere are older rows: these are the newest {}.", rows.len())?;
    }
    writeln!(out)?;
    Ok(plot(report, rows, out)?)
}

/// What there is to see at a glance.
fn plot(report: Report, rows: &[Row], out: &mut dyn Write) -> std::io::Result<()> {
    let width = plot::width();
    let over_time = |title: &str, key, column, join| Columns {
        title: title.to_owned(),
        values: by_time(rows, key, column, join),
        unit_ms: report.unit_ms(),
        unit: key,
    };
    let bars = |title: &str, values| Bars { title: title.to_owned(), values };
    match report {
        Report::IdsPerSecond => {
            over_time("IDs per second, of all slots", "minute", "ids_per_second", |a, b| a + b)
                .write(out, width)
        }
        Report::ClockDrift => {
            over_time("largest drift in ms, of all slots", "hour", "max_drift_ms", f64::max).write(out, width)
        }
        Report::Overflow => {
            over_time("requests that waited for a millisecond", "hour", "total_overflows", |a, b| a + b)
                .write(out, width)
        }
        Report::Latency => bars("latency in µs", quantiles(rows)).write(out, width),
        Report::Errors => bars("errors by code", by(rows, "error_code", "error_count")).write(out, width),
        Report::Daily => bars("IDs by day, UTC", by(rows, "date", "total_ids")).write(out, width),
        Report::Tables => bars("bytes by table", by(rows, "table", "bytes")).write(out, width),
    }
}

/// A value for each time, joined where several slots have one.
fn by_time(rows: &[Row], key: &str, column: &str, join: fn(f64, f64) -> f64) -> Vec<(u64, f64)> {
    let mut times = BTreeMap::new();
    for row in rows {
        let at = row[key].as_str().and_then(|text| text.parse::<Timestamp>().ok());
        let at_ms = at.and_then(|at| u64::try_from(at.as_millisecond()).ok());
        if let (Some(at_ms), Some(value)) = (at_ms, row[column].as_f64()) {
            times.entry(at_ms).and_modify(|so_far| *so_far = join(*so_far, value)).or_insert(value);
        }
    }
    times.into_iter().collect()
}

/// The sums of a column by another, in the order of the rows.
fn by(rows: &[Row], key: &str, column: &str) -> Vec<(String, f64)> {
    let mut sums: Vec<(String, f64)> = Vec::new();
    for row in rows {
        let (label, value) = (cell(&row[key]), row[column].as_f64().unwrap_or(0.0));
        match sums.iter().position(|(known, _)| *known == label) {
            Some(at) => sums[at].1 += value,
            None if sums.len() < BARS_MAX => sums.push((label, value)),
            None => {}
        }
    }
    sums
}

fn quantiles(rows: &[Row]) -> Vec<(String, f64)> {
    let bar = |row: &Row, name: &str| {
        let (datacenter, worker) = (cell(&row["datacenter_id"]), cell(&row["worker_id"]));
        let value = row[format!("{name}_latency_us").as_str()].as_f64().unwrap_or(0.0);
        (format!("dc{datacenter}_worker{worker} {name}"), value)
    };
    let of = |row| ["p50", "p95", "p99"].map(|name| bar(row, name));
    rows.iter().flat_map(of).take(BARS_MAX).collect()
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => format!("{:.2}", number.as_f64().unwrap_or_default()),
        other => other.to_string(),
    }
}
