//! Runs of the load generator, and what they cost the server.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xshell::{Shell, cmd};

use super::http::{compare, median};
use super::http_server::Server;
use super::read_pinned;
use crate::tools::{step, target_dir};

pub(super) const SERVER_CORE: usize = 0;
pub(super) const LOAD_CORE: usize = 1;

/// Short runs, and many of them.
const HALF_LOAD_S: u64 = 2;
const HALF_LOAD_ROUNDS: u32 = 10;

/// How much is measured.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long each run lasts.
    #[arg(long, default_value_t = 4)]
    pub(super) seconds: u64,
    /// How many connections each run uses.
    #[arg(long, default_value_t = 64)]
    pub(super) connections: u32,
    /// How often the order ours, other, other, ours is gone through.
    #[arg(long, default_value_t = 3)]
    pub(super) rounds: u32,
}

/// The load generator: `snowmint bench`, on a core of its own.
pub(super) struct Loader<'a> {
    pub(super) shell: &'a Shell,
    pub(super) options: &'a Options,
    pub(super) snowmint: PathBuf,
}

/// A server, and the URL under which it is loaded.
pub(super) struct Target {
    pub(super) server: Server,
    pub(super) url: String,
}

/// The names of the latencies in [`Run::latencies_us`].
pub(super) const LATENCIES: [&str; 5] = ["p50", "p90", "p99", "p99_9", "max"];
const P99: usize = 2;
/// What the load generator says of requests that it did not come to, or of which it did not see the answer.
const TOO_LATE: [&str; 2] = ["not sent in time", "no answer"];

/// One run against one server.
pub(super) struct Run {
    pub(super) requests: f64,
    pub(super) requests_per_s: f64,
    pub(super) ids_per_s: f64,
    /// The server's.
    pub(super) processor_us: f64,
    pub(super) processor_us_per_request: f64,
    /// Of one core.
    pub(super) processor_share: f64,
    pub(super) latencies_us: [f64; LATENCIES.len()],
    /// Of which IDs it is known that none came twice.
    pub(super) checked: String,
}

impl<'a> Loader<'a> {
    pub(super) fn new(shell: &'a Shell, options: &'a Options) -> Result<Self> {
        let snowmint = target_dir(shell)?.join("dist/snowmint");
        Ok(Self { shell, options, snowmint })
    }

    /// Single IDs from two servers in turn.
    pub(super) fn alternate(
        &self,
        what: &str,
        one: &Target,
        other: &Target,
        arguments: &[&str],
    ) -> Result<(Vec<Run>, Vec<Run>)> {
        let run = |target| self.single_ids(target, arguments);
        alternate(what, self.options.rounds, || run(one), || run(other))
    }

    /// What an answer takes where there is room: each at half of what it can do itself, and both at half of what the
    /// other can.
    pub(super) fn half_load(&self, ours: (&Target, &[Run]), other: (&Target, &[Run])) -> Result<()> {
        let (our_half, their_half) = (rate(ours.1) / 2.0, rate(other.1) / 2.0);
        self.compare_p99("each at half of what it can do", (ours.0, our_half), (other.0, their_half))?;
        self.compare_p99("both at half of what the other can do", (ours.0, their_half), (other.0, their_half))
    }

    /// At rates, in turn. A virtual machine that stops for milliseconds makes the p99 of most runs its own: what the
    /// servers make shows in the others.
    fn compare_p99(&self, what: &str, ours: (&Target, f64), other: (&Target, f64)) -> Result<()> {
        let options = Options { seconds: HALF_LOAD_S, rounds: HALF_LOAD_ROUNDS, ..*self.options };
        let short = Loader { shell: self.shell, options: &options, snowmint: self.snowmint.clone() };
        let run =
            |(target, rate): (&Target, f64)| short.single_ids(target, &["--rate", &format!("{rate:.0}")]);
        let (ours, other) = alternate(what, HALF_LOAD_ROUNDS, || run(ours), || run(other))?;
        compare("requests/s", rate(&ours), rate(&other), "");
        compare("  p99 us", p99_us(&ours), p99_us(&other), "at most 1.2");
        compare("  where the machine was quietest", quiet_p99_us(&ours), quiet_p99_us(&other), "at most 1.2");
        Ok(())
    }

    pub(super) fn single_ids(&self, target: &Target, arguments: &[&str]) -> Result<Run> {
        self.load(target, self.options.connections, arguments)
    }

    /// Without a check: a bare server repeats one ID; and checking would slow the load down, not the server.
    pub(super) fn load(&self, target: &Target, connections: u32, arguments: &[&str]) -> Result<Run> {
        self.load_checked(target, connections, &[arguments, &["--no-check"]].concat())
    }

    /// Fails where an ID came twice.
    pub(super) fn load_checked(&self, target: &Target, connections: u32, arguments: &[&str]) -> Result<Run> {
        let mut command = vec![self.snowmint.display().to_string(), "bench".into(), "--json".into()];
        command.extend(["--url".into(), target.url.clone()]);
        command.extend(["--seconds".into(), self.options.seconds.to_string()]);
        command.extend(["--connections".into(), connections.to_string()]);
        command.extend(arguments.iter().map(ToString::to_string));

        let (started, used) = (Instant::now(), target.server.processor_time()?);
        let text = read_pinned(self.shell, LOAD_CORE, &command)?;
        let elapsed = started.elapsed();
        // A thread that ended took its time along.
        let used = target.server.processor_time()?.saturating_sub(used);

        let report: Value = serde_json::from_str(&text).context("the load generator's report is JSON")?;
        let number = |at: &str| {
            report.pointer(at).and_then(Value::as_f64).with_context(|| format!("no {at} in {text}"))
        };
        // A rate that the server cannot hold is no failure: those that were too late are in the latencies.
        let too_late: f64 = TOO_LATE.iter().filter_map(|code| report["errors_by_code"][code].as_f64()).sum();
        ensure!(number("/errors")? <= too_late, "requests failed: {text}");
        let requests = number("/requests")?;
        ensure!(requests > 0.0, "there was no request: {text}");
        let mut latencies_us = [0.0; LATENCIES.len()];
        for (latency_us, name) in latencies_us.iter_mut().zip(LATENCIES) {
            *latency_us = number(&format!("/latency_us/{name}"))?;
        }
        let processor_us = used.as_secs_f64() * 1e6;
        Ok(Run {
            requests,
            requests_per_s: number("/requests_per_s")?,
            ids_per_s: number("/ids_per_s")?,
            processor_us,
            processor_us_per_request: processor_us / requests,
            processor_share: used.as_secs_f64() / elapsed.as_secs_f64(),
            latencies_us,
            checked: report["checked"].as_str().unwrap_or_default().to_owned(),
        })
    }
}

/// Runs of two kinds in the order one, other, other, one, so that a machine that slows down slows both.
pub(super) fn alternate<T>(
    what: &str,
    rounds: u32,
    one: impl Fn() -> Result<T>,
    other: impl Fn() -> Result<T>,
) -> Result<(Vec<T>, Vec<T>)> {
    let (mut ones, mut others) = (Vec::new(), Vec::new());
    step(what, || {
        for _ in 0..rounds {
            ones.push(one()?);
            others.extend([other()?, other()?]);
            ones.push(one()?);
        }
        Ok(())
    })?;
    Ok((ones, others))
}

/// In what the system counts the time of a process.
pub(super) fn clock_ticks_hz(shell: &Shell) -> Result<u64> {
    Ok(cmd!(shell, "getconf CLK_TCK").quiet().read()?.parse()?)
}

pub(super) fn rate(runs: &[Run]) -> f64 {
    median(runs.iter().map(|run| run.requests_per_s))
}

pub(super) fn cost_us(runs: &[Run]) -> f64 {
    median(runs.iter().map(|run| run.processor_us_per_request))
}

pub(super) fn p99_us(runs: &[Run]) -> f64 {
    latencies_us(runs)[P99]
}

/// Three of four runs had a higher one.
fn quiet_p99_us(runs: &[Run]) -> f64 {
    let mut sorted: Vec<f64> = runs.iter().map(|run| run.latencies_us[P99]).collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 4).copied().unwrap_or(f64::NAN)
}

pub(super) fn latencies_us(runs: &[Run]) -> [f64; LATENCIES.len()] {
    std::array::from_fn(|at| median(runs.iter().map(|run| run.latencies_us[at])))
}
