//! `cargo xtask bench resp`: `INCR`, beside Redis, by Redis' own benchmark.
//!
//! Both on one core, loaded in turn from another, medians. Neither writes anything down: Redis runs without
//! its snapshots and its log, snowmint without its journal.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use xshell::{Shell, cmd};

use super::http::{ID_PATH, compare, median, to_f64};
use super::http_server::{Server, free_address};
use super::load::{LOAD_CORE, SERVER_CORE, alternate, clock_ticks_hz};
use super::{pin, read_pinned};
use crate::tools::{on_path, step, target_dir};

/// How many commands a pipeline has, the other run's having one.
const DEEP: u32 = 32;
/// A pipeline's commands take so much less time that there have to be more of them.
const DEEP_TIMES: u64 = 8;

/// How much is measured.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How many commands each run has; eight times as many where they are pipelined.
    #[arg(long, default_value_t = 400_000)]
    commands: u64,
    /// How many connections each run uses.
    #[arg(long, default_value_t = 50)]
    connections: u32,
    /// How often the order ours, Redis, Redis, ours is gone through.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
}

/// One run of `redis-benchmark`.
struct Run {
    commands_per_s: f64,
    processor_us_per_command: f64,
    p50_us: f64,
    p99_us: f64,
}

struct Target {
    server: Server,
    address: SocketAddr,
}

/// Measures both servers and prints the table.
pub(crate) fn run(shell: &Shell, options: &Options) -> Result<()> {
    if on_path("redis-server").is_none() || on_path("redis-benchmark").is_none() {
        bail!("there is no redis-server here to be compared with: apt-get install redis-server redis-tools");
    }
    step("build", || Ok(cmd!(shell, "cargo build --profile dist --locked -p snowmint-server").run()?))?;
    let (data_dir, clock_ticks_hz) = (TempDir::new()?, clock_ticks_hz(shell)?);
    let (ours, redis) = (start_snowmint(shell, &data_dir)?, start_redis(&data_dir)?);
    for depth in [1, DEEP] {
        let run = |target| load(shell, options, target, depth, clock_ticks_hz);
        let what = format!("{depth} deep");
        let (ours, redis) = alternate(&what, options.rounds, || run(&ours), || run(&redis))?;
        let wanted = if depth == 1 {
            ["at least 1", "at most 1", ""]
        } else {
            ["at least 1.15", "at most 0.5", "at most 0.5"]
        };
        println!("\n{:<44}{:>12}{:>12}{:>8}  wanted", what, "snowmint", "Redis", "ratio");
        let of = |runs: &[Run], figure: fn(&Run) -> f64| median(runs.iter().map(figure));
        let show = |name, figure, wanted| compare(name, of(&ours, figure), of(&redis, figure), wanted);
        show("commands/s", |run| run.commands_per_s, wanted[0]);
        show("processor us per command", |run| run.processor_us_per_command, wanted[1]);
        show("p50 us", |run| run.p50_us, wanted[2]);
        show("p99 us", |run| run.p99_us, "");
    }
    Ok(())
}

fn load(shell: &Shell, options: &Options, target: &Target, depth: u32, clock_ticks_hz: u64) -> Result<Run> {
    let commands = if depth == 1 { options.commands } else { options.commands * DEEP_TIMES };
    let mut command = vec!["redis-benchmark".to_owned(), "--csv".into(), "-t".into(), "incr".into()];
    command.extend(["-p".into(), target.address.port().to_string()]);
    command.extend(["-c".into(), options.connections.to_string()]);
    command.extend(["-n".into(), commands.to_string(), "-P".into(), depth.to_string()]);
    let used_us = target.server.processor_us(clock_ticks_hz)?;
    let text = read_pinned(shell, LOAD_CORE, &command)?;
    let used_us = target.server.processor_us(clock_ticks_hz)? - used_us;
    // "test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms",…
    let figures: Vec<f64> = text
        .lines()
        .find_map(|line| line.strip_prefix("\"INCR\","))
        .map(|row| row.split(',').filter_map(|figure| figure.trim_matches('"').parse().ok()).collect())
        .with_context(|| format!("redis-benchmark says nothing of INCR: {text}"))?;
    let [commands_per_s, _, _, p50_ms, _, p99_ms, ..] = figures[..] else {
        bail!("redis-benchmark 7 has more figures than this: {text}");
    };
    let processor_us_per_command = to_f64(used_us) / to_f64(commands);
    Ok(Run { commands_per_s, processor_us_per_command, p50_us: p50_ms * 1e3, p99_us: p99_ms * 1e3 })
}

fn start_snowmint(shell: &Shell, data_dir: &TempDir) -> Result<Target> {
    let (http, address) = (free_address()?, free_address()?);
    let mut command = pin(SERVER_CORE)?;
    command.extend([target_dir(shell)?.join("dist/snowmint").display().to_string(), "serve".into()]);
    command.extend(["--data-dir".into(), data_dir.path().display().to_string()]);
    let environment = [
        ("SNOWMINT_HTTP__LISTEN", http.to_string()),
        ("SNOWMINT_GRPC__LISTEN", String::new()),
        ("SNOWMINT_RESP__LISTEN", address.to_string()),
        ("SNOWMINT_JOURNAL__DURABILITY", "off".to_owned()),
    ];
    let environment = environment.each_ref().map(|(key, value)| (*key, value.as_str()));
    Ok(Target { server: Server::start(&command, &environment, http, ID_PATH)?, address })
}

fn start_redis(directory: &TempDir) -> Result<Target> {
    let address = free_address()?;
    let mut command = pin(SERVER_CORE)?;
    command.extend(["redis-server".into(), "--port".into(), address.port().to_string()]);
    command.extend(["--bind".into(), address.ip().to_string()]);
    command.extend(["--dir".into(), directory.path().display().to_string()]);
    command.extend(["--save".into(), String::new(), "--appendonly".into(), "no".into()]);
    Ok(Target { server: Server::start_listener(&command, address)?, address })
}
