//! `cargo xtask bench audit`: what it takes to prove a month of the audit archive, beside what it takes common tools
//! to unpack it and count its lines.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use xshell::{Shell, cmd};

use super::http::{median, show, to_f64};
use crate::tools::{step, target_dir};

/// Often enough for the highest memory use not to be missed by much.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What it may take, in MB.
const MEMORY_WANTED: &str = "below 512";

/// How large the archive is.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// IDs that were issued.
    #[arg(long, default_value_t = 1_000_000_000)]
    ids: u64,
    /// How many a request got, on average.
    #[arg(long, default_value_t = 200)]
    ids_per_request: u32,
    /// Slots that issued them.
    #[arg(long, default_value_t = 4)]
    slots: u16,
    /// Hours that it took.
    #[arg(long, default_value_t = 31 * 24)]
    hours: u32,
    /// How often each is measured.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
}

/// One run of a program.
struct Run {
    seconds: f64,
    peak_mb: f64,
    output: String,
}

/// Makes the archive, measures, and prints the table.
pub(crate) fn run(shell: &Shell, options: &Options) -> Result<()> {
    step("build", || {
        cmd!(shell, "cargo build --profile dist --locked -p snowmint-server").run()?;
        Ok(cmd!(shell, "cargo build --profile dist --locked -p snowmint-server --example make_archive")
            .run()?)
    })?;
    let programs = target_dir(shell)?.join("dist");
    let directory = TempDir::new()?;
    let place = directory.path().display().to_string();
    let Options { ids, ids_per_request, slots, hours, rounds } = options;
    step("make the archive", || {
        let make = programs.join("examples/make_archive");
        let numbers = [ids.to_string(), ids_per_request.to_string(), slots.to_string(), hours.to_string()];
        Ok(cmd!(shell, "{make} {place} {numbers...}").quiet().run()?)
    })?;
    let snowmint = programs.join("snowmint").display().to_string();
    let verify = [snowmint.as_str(), "audit", "verify", "--whole", "--json", "--archive", &place];
    let count = format!("find '{place}' -name '*.json.gz' -print0 | xargs -0 zcat | wc -l");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    step("measure", || {
        for _ in 0..*rounds {
            ours.push(measure(&verify)?);
            theirs.push(measure(&["sh", "-c", &count])?);
        }
        Ok(())
    })?;
    print(&ours, &theirs)
}

fn print(ours: &[Run], theirs: &[Run]) -> Result<()> {
    let first = ours.first().context("at least one round is measured")?;
    let report: Value = serde_json::from_str(&first.output).context("the report is JSON")?;
    ensure!(report["proven"] == true, "the archive was not proven: {report}");
    let number =
        |name: &str| report[name].as_u64().map(to_f64).with_context(|| format!("no {name} in the report"));
    let records = report["records"].as_object().context("no records in the report")?;
    let records: u64 = records.values().filter_map(Value::as_u64).sum();
    ensure!(theirs.iter().all(|run| run.output.trim() == records.to_string()), "wc counts other lines");
    let mb = number("bytes")? / 1e6;
    let seconds = |runs: &[Run]| median(runs.iter().map(|run| run.seconds));
    show("IDs", number("ids")?, "");
    show("records", to_f64(records), "");
    show("objects", number("objects")?, "");
    show("MB, packed", number("packed_bytes")? / 1e6, "");
    show("MB, unpacked", mb, "");
    println!("\n{:<44}{:>12}{:>12}{:>8}", "", "verify", "zcat | wc", "ratio");
    super::http::compare("seconds", seconds(ours), seconds(theirs), "");
    super::http::compare("MB/s, unpacked", mb / seconds(ours), mb / seconds(theirs), "");
    show(
        "most resident memory of verify, MB",
        ours.iter().map(|run| run.peak_mb).fold(0.0, f64::max),
        MEMORY_WANTED,
    );
    Ok(())
}

fn measure(command: &[&str]) -> Result<Run> {
    let started = Instant::now();
    let (program, arguments) = command.split_first().context("a command has a program")?;
    let mut child =
        Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let status = format!("/proc/{}/status", child.id());
    let mut peak_kib = 0;
    while child.try_wait()?.is_none() {
        peak_kib = peak_kib.max(high_water_kib(&status).unwrap_or(0));
        #[expect(clippy::disallowed_methods, reason = "there is no runtime here, and no other thread")]
        thread::sleep(LOOK_EVERY);
    }
    let seconds = started.elapsed().as_secs_f64();
    // Its text is short: it fits the pipe, so that it has ended all the same.
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{} failed", command.join(" "));
    Ok(Run { seconds, peak_mb: to_f64(peak_kib) * 1024.0 / 1e6, output: String::from_utf8(output.stdout)? })
}

fn high_water_kib(status: &str) -> Option<u64> {
    let status = fs::read_to_string(status).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}
