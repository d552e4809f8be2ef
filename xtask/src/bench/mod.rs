//! `cargo xtask bench`.

pub(crate) mod audit;
pub(crate) mod core;
pub(crate) mod grpc;
pub(crate) mod http;
mod http_server;
pub(crate) mod load;
pub(crate) mod peers;
mod plot;
pub(crate) mod ranges;
pub(crate) mod rates;
pub(crate) mod scaling;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

/// What is measured.
#[derive(clap::Subcommand)]
pub(crate) enum Bench {
    /// The proof of a month of the audit archive, beside `zcat | wc -l`.
    Audit(audit::Options),
    /// The generator: what an ID costs beside `ferroid`'s, and how near it comes to the format's limit.
    Core,
    /// The server over gRPC, beside a bare tonic server that returns a constant.
    Grpc(load::Options),
    /// The server over HTTP, beside a bare hyper server that returns a constant.
    Http(load::Options),
    /// The service and the generator, beside others that give out IDs.
    Peers(peers::Options),
    /// IDs as ranges, at the limit of one slot and of many, every one received checked for duplicates.
    Ranges(ranges::Options),
    /// Latencies at fixed rates over HTTP and gRPC, beside bare servers.
    Rates(load::Options),
    /// What a request costs with 1 to 10,000 connections, and an ID in answers of 1 to 10,000.
    Scaling(scaling::Options),
}

/// Where the documentation has its plots.
const PLOTS: &str = "docs/plots";

/// Keeps a plot for the documentation, and says where.
fn keep_plot(shell: &Shell, name: &str, svg: &str) -> Result<()> {
    let path = format!("{PLOTS}/{name}.svg");
    shell.write_file(&path, svg)?;
    println!("{path}");
    Ok(())
}

/// What runs a program on one core alone: nothing where there is only one, or no `taskset`.
fn pin(core: usize) -> Result<Vec<String>> {
    let cores = std::thread::available_parallelism().context("counting the cores")?.get();
    let pinned = cores >= 2 && crate::tools::on_path("taskset").is_some();
    Ok(if pinned { vec!["taskset".into(), "--cpu-list".into(), core.to_string()] } else { Vec::new() })
}

/// The text of a command's answer, run on one core.
fn read_pinned(shell: &Shell, core: usize, command: &[String]) -> Result<String> {
    let whole = [pin(core)?.as_slice(), command].concat();
    let (program, arguments) = whole.split_first().context("a command has a program")?;
    Ok(cmd!(shell, "{program} {arguments...}").quiet().read()?)
}
