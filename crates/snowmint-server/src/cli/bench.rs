//! `bench`: load for a server.

use std::io::Write;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, interval};

use super::load::{
    self, CONNECTIONS_MAX, Checked, Demand, LatencyFrom, Plan, Progress, RATE_PER_S_MAX, Report, Target,
};
use super::{CliError, DEFAULT_SERVER};

/// How often the progress line changes.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);
/// The longest load, in seconds: a week.
const SECONDS_MAX: u64 = 604_800;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The server, grpc://HOST:PORT to ask over gRPC; with --no-check a full URL may stand here, which is then
    /// requested as it is
    #[arg(long, value_name = "URL", default_value = DEFAULT_SERVER)]
    url: Target,
    /// For how long
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=SECONDS_MAX))]
    seconds: u64,
    /// Over how many connections, each with one request under way at a time
    #[arg(long, value_name = "C", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=i64::from(CONNECTIONS_MAX)))]
    connections: u32,
    /// Aim at R requests a second; otherwise as many as there can be
    ///
    /// Each request is then due at a time of its own, and its latency counts from that time rather than from when it was
    /// sent: while the server stands still, requests go on being due, and all of them show how long they waited
    /// (percentiles are corrected for coordinated omission). Requests that could not be sent within 5 s of the end
    /// are errors, and count with how long they had waited. Being on time keeps a processor busy.
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..=i64::from(RATE_PER_S_MAX)))]
    rate: Option<u32>,
    /// Ask for lists of N IDs rather than for single ones
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: Option<u32>,
    /// Ask for N IDs as ranges rather than for single ones
    #[arg(long, value_name = "N", conflicts_with = "batch", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    ranges: Option<u32>,
    /// Do not read the IDs: neither check them for duplicates nor mind what is answered
    #[arg(long)]
    no_check: bool,
    /// On how many threads
    #[arg(long, value_name = "T", default_value = "1")]
    threads: NonZeroUsize,
    /// As JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    fn plan(&self) -> Plan {
        let demand = match (self.batch, self.ranges) {
            (Some(count), _) => Demand::Batch(count),
            (None, Some(count)) => Demand::Ranges(count),
            (None, None) => match &self.url {
                Target::Rest(url) if self.no_check && !url.path().is_empty() => Demand::Path,
                _ => Demand::Single,
            },
        };
        Plan {
            target: self.url.clone(),
            demand,
            duration: Duration::from_secs(self.seconds),
            connections: self.connections,
            rate: self.rate,
            check: !self.no_check,
        }
    }
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<(), CliError> {
    let runtime = match arguments.threads.get() {
        1 => tokio::runtime::Builder::new_current_thread().enable_all().build(),
        threads => tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build(),
    };
    let plan = arguments.plan();
    let title = title(&plan);
    let report = runtime.map_err(CliError::Runtime)?.block_on(with_progress(plan))?;
    if arguments.json {
        let json = serde_json::to_string_pretty(&report).map_err(std::io::Error::from)?;
        writeln!(out, "{json}")?;
    } else {
        write(out, &title, &report)?;
    }
    match report {
        Report { duplicates: count @ 1.., duplicate_examples: examples, .. } => {
            Err(CliError::Duplicates { count, examples })
        }
        Report { requests: 0, .. } => Err(CliError::NoAnswer),
        _ => Ok(()),
    }
}

fn title(plan: &Plan) -> String {
    let what = match plan.demand {
        Demand::Single => "single IDs".to_owned(),
        Demand::Batch(count) => format!("batches of {count} IDs"),
        Demand::Ranges(count) => format!("ranges of {count} IDs"),
        Demand::Path => "answers".to_owned(),
    };
    let rate = plan.rate.map_or_else(String::new, |rate| format!(", at {rate} requests/s,"));
    format!("{what} from {} over {} connections{rate}", plan.target, plan.connections)
}

/// Shows a line that moves, where standard error is a terminal.
async fn with_progress(plan: Plan) -> Result<Report, load::LoadError> {
    let seconds = plan.duration.as_secs();
    let progress = Arc::new(Progress::default());
    let load = load::run(plan, Arc::clone(&progress));
    tokio::pin!(load);
    let bar = ProgressBar::new(seconds);
    bar.set_style(
        ProgressStyle::with_template("{wide_bar} {pos}/{len} s  {msg}").expect("the template is a valid one"),
    );
    let start = Instant::now();
    let mut ticks = interval(PROGRESS_EVERY);
    loop {
        tokio::select! {
            report = &mut load => {
                bar.finish_and_clear();
                return report;
            }
            _ = ticks.tick(), if !bar.is_hidden() => {
                let (requests, ids, errors) = (progress.requests(), progress.ids(), progress.errors());
                bar.set_message(format!("{requests} requests  {ids} IDs  {errors} errors"));
                bar.set_position(start.elapsed().as_secs().min(seconds));
            }
        }
    }
}

fn write(out: &mut dyn Write, title: &str, report: &Report) -> std::io::Result<()> {
    let Report { latency_us, .. } = report;
    writeln!(out, "{title} for {:.1} s\n", report.seconds)?;
    writeln!(out, "{:<12}{:>14}{:>14.0} /s", "requests", report.requests, report.requests_per_s)?;
    writeln!(out, "{:<12}{:>14}{:>14.0} /s\n", "IDs", report.ids, report.ids_per_s)?;
    for (name, value_us) in [
        ("p50", latency_us.p50),
        ("p90", latency_us.p90),
        ("p99", latency_us.p99),
        ("p99.9", latency_us.p99_9),
        ("longest", latency_us.max),
    ] {
        writeln!(out, "{name:<12}{value_us:>14} µs")?;
    }
    if report.latency_from == LatencyFrom::Due {
        writeln!(out, "\nlatencies count from when each request was due")?;
    }
    writeln!(out)?;
    for (code, count) in &report.errors_by_code {
        writeln!(out, "{:<12}{count:>14}  {code}", "errors")?;
    }
    let among = match report.checked {
        Checked::Off => return writeln!(out, "duplicates were not looked for"),
        Checked::All => "among all IDs received",
        Checked::Partly => "among those IDs that there was memory to check, which is not all",
    };
    match report.duplicates {
        0 => writeln!(out, "no duplicate {among}"),
        count => writeln!(out, "{count} duplicates {among}"),
    }
}
