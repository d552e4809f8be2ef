//! `cargo xtask`: what is done to the code, the same by a person and by CI.

#![allow(clippy::print_stdout, reason = "a command line tool speaks through its output")]

mod bench;
mod faults;
mod install;
mod lint;
mod test;
mod tools;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use xshell::Shell;

/// Tests, lints and benchmarks.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run every test, after installing what the tests need and this machine has not.
    Test,
    /// Do everything to fleets on real servers that must never give an ID twice, and print the figures.
    Faults(faults::Options),
    /// Check formatting, lints, documentation and dependencies.
    Lint(lint::Options),
    /// Measure, beside something to be compared with.
    #[command(subcommand)]
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    match run(&Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        // On one line, without the backtrace: what failed has said why above.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: &Task) -> Result<()> {
    let shell = Shell::new()?;
    shell.change_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?);
    match task {
        Task::Test => test::run(&shell),
        Task::Faults(options) => faults::run(&shell, options),
        Task::Lint(options) => lint::run(&shell, options),
        Task::Bench(bench::Bench::Audit(options)) => bench::audit::run(&shell, options),
        Task::Bench(bench::Bench::Core) => bench::core::run(&shell),
        Task::Bench(bench::Bench::Grpc(options)) => bench::grpc::run(&shell, options),
        Task::Bench(bench::Bench::Http(options)) => bench::http::run(&shell, options),
        Task::Bench(bench::Bench::Peers(options)) => bench::peers::run(&shell, options),
        Task::Bench(bench::Bench::Ranges(options)) => bench::ranges::run(&shell, options),
        Task::Bench(bench::Bench::Rates(options)) => bench::rates::run(&shell, options),
        Task::Bench(bench::Bench::Scaling(options)) => bench::scaling::run(&shell, options),
    }
}
