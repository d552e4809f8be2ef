//! `cargo xtask bench http`: the server, beside a bare hyper server under the same load, and beside itself with
//! everything written down.
//!
//! All run at once on the same core, and are loaded in turn from another (in the order ours, other, other,
//! ours, so that a machine that slows down slows both), and what is shown are medians. The bare server
//! returns the same bytes and headers for every request, so what it costs is what HTTP costs; ours writes
//! nothing down in that comparison. All are built as they would be shipped, in the profile `dist`.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;
use xshell::{Shell, cmd};

use super::http_server::{Server, free_address};
use super::load::{Loader, Options, Run, SERVER_CORE, Target, alternate, cost_us, p99_us, rate};
use super::pin;
use crate::tools::{step, target_dir};

pub(super) const ID_PATH: &str = "/api/v1/id";
const RANGES_IDS: u64 = 1_000_000;
const BATCH_IDS: u64 = 10_000;
/// A batch takes milliseconds of the format's IDs: more connections would only wait for each other.
pub(super) const BATCH_CONNECTIONS: u32 = 4;
const MEMORY_AFTER_REQUESTS: u64 = 1_000_000;
const STEADY_REQUESTS_PER_S: u64 = 10_000;
/// What hyper adds by itself, or what belongs to the one connection that was asked on.
const OWN_HEADERS: [&str; 3] = ["connection", "content-length", "date"];

/// Measures both servers and prints the table.
pub(crate) fn run(shell: &Shell, options: &Options) -> Result<()> {
    step("build", || {
        cmd!(shell, "cargo build --profile dist --locked -p snowmint-server").run()?;
        Ok(cmd!(shell, "cargo build --profile dist --locked -p xtask --example bare_hyper").run()?)
    })?;
    let bench = Bench::start(shell, options)?;
    let (ours, bare) = bench.loader.alternate("single IDs", &bench.ours, &bench.bare, &[])?;
    println!("\n{:<44}{:>12}{:>12}{:>8}  wanted", "", "snowmint", "bare hyper", "ratio");
    compare("single IDs, requests/s", rate(&ours), rate(&bare), "at least 0.9");
    compare("single IDs, processor us per request", cost_us(&ours), cost_us(&bare), "at most 1.15");
    compare("single IDs, p99 us", p99_us(&ours), p99_us(&bare), "");
    bench.loader.half_load((&bench.ours, &ours), (&bench.bare, &bare))?;
    bench.steady()?;
    show("resident memory after 1,000,000 requests, MB", bench.resident_mb()?, "below 40");
    show("from start to first ID, ms", bench.ours.server.first_answer.as_secs_f64() * 1e3, "below 200");
    show("batches of 10,000, IDs/s", bench.batches()?, "");
    show("ranges of 1,000,000, IDs/s", bench.ranges()?, "");
    let (recorded, silent) = bench.recorded()?;
    println!("\n{:<44}{:>12}{:>12}{:>8}  wanted", "", "journal on", "off", "ratio");
    compare("single IDs, requests/s", rate(&recorded), rate(&silent), "at least 0.85");
    compare("single IDs, processor us per request", cost_us(&recorded), cost_us(&silent), "");
    compare("single IDs, p99 us", p99_us(&recorded), p99_us(&silent), "");
    let (archived, unarchived) = bench.archived()?;
    println!("\n{:<44}{:>12}{:>12}{:>8}  wanted", "", "archive on", "off", "ratio");
    compare("single IDs, requests/s", rate(&archived), rate(&unarchived), "at least 0.8");
    compare("single IDs, processor us per request", cost_us(&archived), cost_us(&unarchived), "");
    Ok(())
}

struct Bench<'a> {
    loader: Loader<'a>,
    /// Writes nothing down.
    ours: Target,
    bare: Target,
    _data_dir: TempDir,
}

impl<'a> Bench<'a> {
    fn start(shell: &'a Shell, options: &'a Options) -> Result<Self> {
        let loader = Loader::new(shell, options)?;
        let data_dir = TempDir::new()?;
        let ours = start_snowmint(&loader, data_dir.path(), "off", &[])?;
        let bare = start_bare(&target_dir(shell)?.join("dist/examples/bare_hyper"), &ours.server)?;
        Ok(Self { loader, ours, bare, _data_dir: data_dir })
    }

    /// Single IDs from a node as it is by default, with a journal and the metrics store and the archive behind it,
    /// beside the one that writes nothing down.
    fn recorded(&self) -> Result<(Vec<Run>, Vec<Run>)> {
        let data_dir = TempDir::new()?;
        let recorded = start_snowmint(&self.loader, data_dir.path(), "relaxed", &[])?;
        self.loader.alternate("written down", &recorded, &self.ours, &[])
    }

    /// Single IDs from a node with its archive and from one without, both as they are by default otherwise. Each run
    /// has a node of its own: what one has yet to write would take its time from the next.
    fn archived(&self) -> Result<(Vec<Run>, Vec<Run>)> {
        let run = |archive: &[(&str, &str)]| {
            let data_dir = TempDir::new()?;
            let node = start_snowmint(&self.loader, data_dir.path(), "relaxed", archive)?;
            self.loader.single_ids(&node, &[])
        };
        let off = [("SNOWMINT_AUDIT__URL", "off")];
        alternate("archive", self.loader.options.rounds, || run(&[]), || run(&off))
    }

    /// The processor share, in percent of a core, of both at so many requests a second.
    fn steady(&self) -> Result<()> {
        let rate = STEADY_REQUESTS_PER_S.to_string();
        let ours = self.loader.single_ids(&self.ours, &["--rate", &rate])?;
        let bare = self.loader.single_ids(&self.bare, &["--rate", &rate])?;
        let (ours_share, bare_share) = (ours.processor_share * 100.0, bare.processor_share * 100.0);
        compare("processor share at 10,000 requests/s, %", ours_share, bare_share, "");
        show("  beyond the bare server's", ours_share - bare_share, "below 5");
        // Fewer than asked for would make the share look better than it is.
        compare("  requests/s that were made", ours.requests_per_s, bare.requests_per_s, "10,000");
        Ok(())
    }

    /// Loads on until the server has answered enough, and says what it then holds in memory.
    fn resident_mb(&self) -> Result<f64> {
        let mut requests = 0.0;
        while requests < to_f64(MEMORY_AFTER_REQUESTS) {
            requests +=
                self.loader.single_ids(&self.ours, &[])?.requests_per_s * to_f64(self.loader.options.seconds);
        }
        Ok(to_f64(self.ours.server.resident_kib()?) * 1024.0 / 1e6)
    }

    fn batches(&self) -> Result<f64> {
        let arguments = ["--batch", &BATCH_IDS.to_string()];
        // All or nothing: an answered batch is a whole one.
        Ok(self.loader.load(&self.ours, BATCH_CONNECTIONS, &arguments)?.requests_per_s * to_f64(BATCH_IDS))
    }

    /// One caller after the other: a single one already asks for more than the format has.
    fn ranges(&self) -> Result<f64> {
        let started = Instant::now();
        let mut ids = 0;
        while started.elapsed() < Duration::from_secs(self.loader.options.seconds) {
            let answer = self.ours.server.get(&format!("/api/v1/ranges?count={RANGES_IDS}"))?;
            let answer: Value = serde_json::from_str(&answer.body).context("ranges are JSON")?;
            ids += answer["count"].as_u64().context("ranges have a count")?;
        }
        Ok(to_f64(ids) / started.elapsed().as_secs_f64())
    }
}

pub(super) fn start_snowmint(
    loader: &Loader,
    data_dir: &Path,
    journal: &str,
    more: &[(&str, &str)],
) -> Result<Target> {
    let address = free_address()?;
    let mut command = pin(SERVER_CORE)?;
    command.extend([loader.snowmint.display().to_string(), "serve".into()]);
    command.extend(["--data-dir".into(), data_dir.display().to_string()]);
    let listen = address.to_string();
    let mut environment = vec![
        ("SNOWMINT_HTTP__LISTEN", listen.as_str()),
        ("SNOWMINT_GRPC__LISTEN", ""),
        ("SNOWMINT_RESP__LISTEN", ""),
        ("SNOWMINT_JOURNAL__DURABILITY", journal),
    ];
    environment.extend(more);
    let server = Server::start(&command, &environment, address, ID_PATH)?;
    Ok(Target { url: server.url(), server })
}

/// Starts the bare server with an answer of `ours` as its constant.
pub(super) fn start_bare(program: &Path, ours: &Server) -> Result<Target> {
    let address = free_address()?;
    let answer = ours.get(ID_PATH)?;
    let mut command = pin(SERVER_CORE)?;
    command.extend([program.display().to_string(), address.to_string(), answer.body]);
    let headers = answer.headers.iter().filter(|(name, _)| !OWN_HEADERS.contains(&name.as_str()));
    command.extend(headers.map(|(name, value)| format!("{name}={value}")));
    let server = Server::start(&command, &[], address, ID_PATH)?;
    Ok(Target { url: server.url(), server })
}

pub(super) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
pub(super) fn to_f64(value: u64) -> f64 {
    value as f64
}

pub(super) fn compare(name: &str, ours: f64, bare: f64, wanted: &str) {
    println!("{name:<44}{ours:>12.1}{bare:>12.1}{:>8.2}  {wanted}", ours / bare);
}

pub(super) fn show(name: &str, ours: f64, wanted: &str) {
    println!("{name:<44}{ours:>12.1}{:>20}  {wanted}", "");
}
