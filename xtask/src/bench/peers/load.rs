//! The loads, each on the loads' core, and what they found.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use xshell::{Shell, cmd};

use super::servers::{POSTGRES_PROGRAMS, POSTGRES_USER, Programs, Running};
use crate::bench::http::to_f64;
use crate::bench::load::LOAD_CORE;
use crate::bench::pin;

/// What redis-benchmark, which is told how many requests to make, finds the rate with: so many pipelines.
const PROBE_ROUNDS: u64 = 20_000;

/// One in so many requests is written down with its time: more would be pgbench's limit.
const PGBENCH_SAMPLING: &str = "0.1";

/// What a server is loaded with.
#[derive(Clone, Copy)]
pub(super) enum Load {
    /// `INCR` from redis-benchmark, so many at once on a connection.
    Incr { pipeline: u32 },
    /// `nextval` from pgbench, prepared.
    Nextval,
    /// `GET /api/v1/id` from `snowmint bench`.
    Rest,
    /// Streams of batches from the example `grpc_load`.
    Stream { server: &'static str, streams: u32, ids_per_batch: u32 },
}

/// How much of it.
#[derive(Clone, Copy)]
pub(super) struct Amount {
    pub(super) seconds: u64,
    pub(super) connections: u32,
}

/// What one run found, of requests or, where they are streamed, of IDs.
#[derive(Clone, Copy)]
pub(super) struct Figures {
    pub(super) per_s: f64,
    /// Of the server, for each.
    pub(super) processor_ns: f64,
    /// Of a request.
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
}

/// What a load generator says.
struct Found {
    count: f64,
    per_s: f64,
    p50_us: f64,
    p99_us: f64,
}

/// Loads servers.
pub(super) struct Loader<'a> {
    pub(super) shell: &'a Shell,
    pub(super) programs: &'a Programs,
    pub(super) clock_ticks_hz: u64,
}

impl Loader<'_> {
    pub(super) fn run(&self, running: &Running, load: Load, amount: Amount) -> Result<Figures> {
        let Amount { seconds, connections } = amount;
        let requests = match load {
            Load::Incr { pipeline } => {
                let probe = PROBE_ROUNDS * u64::from(pipeline);
                let rate = self.redis_benchmark(running.at, pipeline, connections, probe)?.per_s;
                to_u64(rate * to_f64(seconds))
            }
            Load::Nextval | Load::Rest | Load::Stream { .. } => 0,
        };
        let used_us = || running.server.processor_us(self.clock_ticks_hz);
        let before_us = used_us()?;
        let found = match load {
            Load::Incr { pipeline } => self.redis_benchmark(running.at, pipeline, connections, requests),
            Load::Nextval => self.pgbench(running.at, amount),
            Load::Rest => self.snowmint_bench(&running.server.url(), amount),
            Load::Stream { server, streams, ids_per_batch } => {
                self.grpc_load(server, running.at, seconds, streams, ids_per_batch)
            }
        }?;
        ensure!(found.count > 0.0, "there was no answer");
        let processor_ns = to_f64(used_us()? - before_us) * 1e3 / found.count;
        Ok(Figures { per_s: found.per_s, processor_ns, p50_us: found.p50_us, p99_us: found.p99_us })
    }

    fn redis_benchmark(
        &self,
        at: SocketAddr,
        pipeline: u32,
        connections: u32,
        requests: u64,
    ) -> Result<Found> {
        let (host, port) = (at.ip().to_string(), at.port().to_string());
        let (connections, pipeline) = (connections.to_string(), pipeline.to_string());
        let requests_text = requests.to_string();
        let to = ["redis-benchmark", "-h", &host, "-p", &port, "-t", "incr", "--csv"];
        let text = self.read(&to, &["-c", &connections, "-P", &pipeline, "-n", &requests_text])?;
        // "test","rps","avg_latency_ms","min","p50","p95","p99","max"
        let line = text.lines().find(|line| line.starts_with("\"INCR")).with_context(|| text.clone())?;
        let fields: Vec<f64> =
            line.split(',').skip(1).map(|field| field.trim_matches('"').parse()).collect::<Result<_, _>>()?;
        let [per_s, _, _, p50_ms, _, p99_ms, ..] = fields[..] else {
            anyhow::bail!("redis-benchmark says {line}");
        };
        Ok(Found { count: to_f64(requests), per_s, p50_us: p50_ms * 1e3, p99_us: p99_ms * 1e3 })
    }

    fn pgbench(&self, at: SocketAddr, Amount { seconds, connections }: Amount) -> Result<Found> {
        let directory = TempDir::new()?;
        let script = directory.path().join("nextval.sql");
        fs::write(&script, "select nextval('s');\n")?;
        let (script, log) =
            (script.display().to_string(), directory.path().join("log").display().to_string());
        let (host, port) = (at.ip().to_string(), at.port().to_string());
        let (connections, seconds) = (connections.to_string(), seconds.to_string());
        let program = format!("{POSTGRES_PROGRAMS}/pgbench");
        let to = [program.as_str(), "--host", &host, "--port", &port, "--username", POSTGRES_USER];
        let how = ["--no-vacuum", "--protocol", "prepared", "--client", &connections, "--time", &seconds];
        let logged = ["--log", "--sampling-rate", PGBENCH_SAMPLING, "--log-prefix", &log];
        let text = self.read(&[&to[..], &how, &logged].concat(), &["--file", &script, "postgres"])?;
        let number = |after: &str| -> Result<f64> {
            let (_, rest) = text.split_once(after).with_context(|| format!("no {after} in {text}"))?;
            Ok(rest.split_whitespace().next().unwrap_or_default().parse()?)
        };
        let took_us = pgbench_times_us(directory.path())?;
        let share = |percent: usize| took_us.get(took_us.len() * percent / 100).copied().unwrap_or(f64::NAN);
        let (count, per_s) = (number("actually processed: ")?, number("tps = ")?);
        Ok(Found { count, per_s, p50_us: share(50), p99_us: share(99) })
    }

    fn snowmint_bench(&self, url: &str, Amount { seconds, connections }: Amount) -> Result<Found> {
        let snowmint = self.programs.dist.join("snowmint").display().to_string();
        let (seconds, connections) = (seconds.to_string(), connections.to_string());
        // The bare server repeats one ID; and checking would slow the load down, not the server.
        let command = [snowmint.as_str(), "bench", "--json", "--no-check", "--url", url];
        let text = self.read(&command, &["--seconds", &seconds, "--connections", &connections])?;
        let number = numbers(&text)?;
        ensure!(number("/errors")? == 0.0, "requests failed: {text}");
        Ok(Found {
            count: number("/requests")?,
            per_s: number("/requests_per_s")?,
            p50_us: number("/latency_us/p50")?,
            p99_us: number("/latency_us/p99")?,
        })
    }

    fn grpc_load(
        &self,
        server: &str,
        at: SocketAddr,
        seconds: u64,
        streams: u32,
        batch: u32,
    ) -> Result<Found> {
        let program = self.programs.example("grpc_load").display().to_string();
        let (url, seconds) = (format!("http://{at}"), seconds.to_string());
        let text =
            self.read(&[&program, server, &url], &[&seconds, &streams.to_string(), &batch.to_string()])?;
        let number = numbers(&text)?;
        let count = number("/ids")?;
        Ok(Found {
            count,
            per_s: count / number("/seconds")?,
            p50_us: number("/request_us/p50")?,
            p99_us: number("/request_us/p99")?,
        })
    }

    /// What the generators in a program of their own cost, in nanoseconds.
    pub(super) fn in_process(&self, grpc: SocketAddr) -> Result<Value> {
        let program = self.programs.example("in_process").display().to_string();
        Ok(serde_json::from_str(&self.read(&[&program], &[&format!("http://{grpc}")])?)?)
    }

    /// What a command says. What it warns of is told only where it fails.
    fn read(&self, command: &[&str], more: &[&str]) -> Result<String> {
        let mut whole = pin(LOAD_CORE)?;
        whole.extend(command.iter().chain(more).map(ToString::to_string));
        let (program, arguments) = whole.split_first().context("a command has a program")?;
        let output = cmd!(self.shell, "{program} {arguments...}").quiet().ignore_status().output()?;
        ensure!(
            output.status.success(),
            "{} failed: {}",
            whole.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8(output.stdout)?)
    }
}

fn numbers(text: &str) -> Result<impl Fn(&str) -> Result<f64>> {
    let report: Value = serde_json::from_str(text).context("the load generator's report is JSON")?;
    Ok(move |at: &str| {
        report.pointer(at).and_then(Value::as_f64).with_context(|| format!("no {at} in {report}"))
    })
}

/// In ascending order. A line's third field is how long the transaction took.
fn pgbench_times_us(directory: &Path) -> Result<Vec<f64>> {
    let mut took_us = Vec::new();
    for file in fs::read_dir(directory)? {
        let path = file?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("log.")) {
            let text = fs::read_to_string(&path)?;
            took_us.extend(text.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<f64>().ok()));
        }
    }
    took_us.sort_by(f64::total_cmp);
    Ok(took_us)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of requests")]
fn to_u64(value: f64) -> u64 {
    value as u64
}
