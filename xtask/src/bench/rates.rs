//! `cargo xtask bench rates`: latencies of single IDs at fixed rates, over HTTP and gRPC, beside bare servers.
//!
//! As `bench http` and `bench grpc`: on one core, loaded in turn from another, medians. A latency counts from when its
//! request was due, so that a server which stands still for a while shows in all that were due meanwhile.

use anyhow::Result;
use tempfile::TempDir;
use xshell::{Shell, cmd};

use super::load::{LATENCIES, Loader, Options, Target, latencies_us, rate};
use super::plot::{self, Series, Tone};
use super::{grpc, http, keep_plot};
use crate::tools::{step, target_dir};

/// Requests a second, and the colour of their line.
const RATES_PER_S: [(u32, Tone); 3] =
    [(1_000, Tone::Snowmint), (10_000, Tone::Violet), (50_000, Tone::Amber)];
/// The percentiles, without the longest: one request in so many takes longer.
const ONE_IN: [f64; LATENCIES.len() - 1] = [2.0, 10.0, 100.0, 1_000.0];

/// Measures all, prints the tables and draws the plots.
pub(crate) fn run(shell: &Shell, options: &Options) -> Result<()> {
    step("build", || {
        cmd!(shell, "cargo build --profile dist --locked -p snowmint-server").run()?;
        let examples = ["--example", "bare_hyper", "--example", "bare_tonic"];
        Ok(cmd!(shell, "cargo build --profile dist --locked -p xtask {examples...}").run()?)
    })?;
    let (loader, data_dirs) = (Loader::new(shell, options)?, [TempDir::new()?, TempDir::new()?]);
    let ours = http::start_snowmint(&loader, data_dirs[0].path(), "off", &[])?;
    let bare = http::start_bare(&target_dir(shell)?.join("dist/examples/bare_hyper"), &ours.server)?;
    let rest = measure(&loader, "REST", &ours, &bare, "bare hyper")?;
    let ours = grpc::start_snowmint(&loader, data_dirs[1].path())?;
    let bare = grpc::start_bare(shell)?;
    let grpc = measure(&loader, "gRPC", &ours, &bare, "bare tonic")?;
    for (name, protocol, series) in [("rates-rest", "REST", rest), ("rates-grpc", "gRPC", grpc)] {
        let title = format!("Single IDs over {protocol}: latency at fixed rates");
        let percentiles = "one request in so many takes longer (2: p50, 10: p90, 100: p99, 1 k: p99.9)";
        keep_plot(shell, name, &plot::lines(&title, percentiles, "µs", &series)?)?;
    }
    Ok(())
}

/// Both servers at each rate: a table, and the lines of the plot.
fn measure(
    loader: &Loader,
    protocol: &str,
    ours: &Target,
    bare: &Target,
    bare_name: &str,
) -> Result<Vec<Series>> {
    let mut all = Vec::new();
    for (rate_per_s, tone) in RATES_PER_S {
        let arguments = ["--rate", &rate_per_s.to_string()];
        let (ours, bare) =
            loader.alternate(&format!("{protocol}, {rate_per_s}/s"), ours, bare, &arguments)?;
        all.push((rate_per_s, "snowmint", tone, ours));
        all.push((rate_per_s, bare_name, Tone::Peer, bare));
    }
    let head = LATENCIES.map(|name| format!("{:>10}", name.replace('_', ".")));
    println!("\n{:<24}{:>10}{:>10}{}", format!("{protocol}, us"), "wanted/s", "made/s", head.concat());
    let mut lines = Vec::new();
    for (rate_per_s, name, tone, runs) in all {
        let latencies_us = latencies_us(&runs);
        let row = latencies_us.map(|latency_us| format!("{latency_us:>10.0}"));
        println!("{name:<24}{rate_per_s:>10}{:>10.0}{}", rate(&runs), row.concat());
        let points = ONE_IN.into_iter().zip(latencies_us).collect();
        lines.push(Series { label: format!("{name}, {} k/s", rate_per_s / 1_000), points, tone });
    }
    Ok(lines)
}
