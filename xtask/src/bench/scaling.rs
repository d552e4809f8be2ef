//! `cargo xtask bench scaling`: what a request costs as connections go from 1 to 10,000, beside a bare hyper server,
//! and what an ID costs as answers go from 1 to 10,000 IDs.
//!
//! As `bench http`: on one core, loaded from another, medians. Neither opening connections nor closing them is in what
//! a request costs: that is measured by itself and taken off.

use anyhow::Result;
use tempfile::TempDir;
use xshell::{Shell, cmd};

use super::http::{BATCH_CONNECTIONS, median, start_bare, start_snowmint};
use super::keep_plot;
use super::load::{self, Loader, Run, Target, alternate, p99_us, rate};
use super::plot::{self, Series, Tone};
use crate::tools::{step, target_dir};

const CONNECTIONS: [u32; 5] = [1, 10, 100, 1_000, 10_000];
const BATCHES_IDS: [u32; 5] = [1, 10, 100, 1_000, 10_000];
/// Room for those of one run while those of the last are not all gone.
const CONNECTIONS_ALLOWED: &str = "15000";
/// The first connection is silent until the last is there, on a busy machine for longer than by default it may be.
const SILENCE_ALLOWED_S: &str = "60";
/// Opens its connections, makes the one request that is due, and closes them.
const ONLY_OPEN: [&str; 2] = ["--rate", "1"];

/// How much is measured.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long each run lasts.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// How often the order ours, bare, bare, ours is gone through.
    #[arg(long, default_value_t = 1)]
    rounds: u32,
}

/// A run, and the same without its requests.
struct Loaded {
    run: Run,
    opened_us: f64,
}

impl Loaded {
    fn cost_us(&self) -> f64 {
        (self.run.processor_us - self.opened_us).max(0.0) / self.run.requests
    }
}

/// Measures all, prints the tables and draws the plots.
pub(crate) fn run(shell: &Shell, options: &Options) -> Result<()> {
    step("build", || {
        cmd!(shell, "cargo build --profile dist --locked -p snowmint-server").run()?;
        Ok(cmd!(shell, "cargo build --profile dist --locked -p xtask --example bare_hyper").run()?)
    })?;
    let Options { seconds, rounds } = *options;
    let options = load::Options { seconds, rounds, connections: BATCH_CONNECTIONS };
    let (loader, data_dir) = (Loader::new(shell, &options)?, TempDir::new()?);
    let room = [
        ("SNOWMINT_LIMITS__CONNECTIONS", CONNECTIONS_ALLOWED),
        ("SNOWMINT_LIMITS__HEADER_S", SILENCE_ALLOWED_S),
    ];
    let ours = start_snowmint(&loader, data_dir.path(), "off", &room)?;
    let bare = start_bare(&target_dir(shell)?.join("dist/examples/bare_hyper"), &ours.server)?;
    connections(&loader, &ours, &bare)?;
    batches(&loader, &ours)
}

fn connections(loader: &Loader, ours: &Target, bare: &Target) -> Result<()> {
    let mut all = Vec::new();
    for connections in CONNECTIONS {
        let run = |target| loaded(loader, target, connections);
        let what = format!("{connections} connections");
        let (ours, bare) = alternate(&what, loader.options.rounds, || run(ours), || run(bare))?;
        all.push((connections, ours, bare));
    }
    println!("\n{:<14}{:>28}{:>28}{:>22}", "", "processor us per request", "requests/s", "p99 us");
    let names = ["snowmint", "bare hyper"];
    println!(
        "{:<14}{:>16}{:>12}{:>16}{:>12}{:>10}{:>12}",
        "connections", names[0], names[1], names[0], names[1], names[0], names[1]
    );
    let (mut costs, mut p99s) = ([const { Vec::new() }; 2], [const { Vec::new() }; 2]);
    for (connections, ours, bare) in all {
        let of = |figure: fn(&[Loaded]) -> f64| [figure(&ours), figure(&bare)];
        let (cost_us, rate, p99_us) = (
            of(|runs| median(runs.iter().map(Loaded::cost_us))),
            of(|runs| median(runs.iter().map(|run| run.run.requests_per_s))),
            of(|runs| median(runs.iter().map(|run| p99_us(std::slice::from_ref(&run.run))))),
        );
        println!(
            "{connections:<14}{:>16.2}{:>12.2}{:>16.0}{:>12.0}{:>10.0}{:>12.0}",
            cost_us[0], cost_us[1], rate[0], rate[1], p99_us[0], p99_us[1]
        );
        for whose in 0..names.len() {
            costs[whose].push((f64::from(connections), cost_us[whose]));
            p99s[whose].push((f64::from(connections), p99_us[whose]));
        }
    }
    draw(
        loader.shell,
        "scaling-connections",
        "Single IDs: what a request costs",
        ["connections", "µs of processor time per request"],
        names,
        costs,
    )?;
    draw(
        loader.shell,
        "scaling-p99",
        "Single IDs, as many as there can be: the longest but for one in a hundred",
        ["connections", "p99, µs"],
        names,
        p99s,
    )
}

fn loaded(loader: &Loader, target: &Target, connections: u32) -> Result<Loaded> {
    let opened_us = loader.load(target, connections, &ONLY_OPEN)?.processor_us;
    Ok(Loaded { run: loader.load(target, connections, &[])?, opened_us })
}

fn batches(loader: &Loader, ours: &Target) -> Result<()> {
    let mut all = Vec::new();
    step("answers of many IDs", || {
        for ids in BATCHES_IDS {
            let count = ids.to_string();
            let run = |kind| -> Result<Vec<Run>> {
                let runs = (0..loader.options.rounds * 2).map(|_| loader.single_ids(ours, &[kind, &count]));
                runs.collect()
            };
            all.push((ids, [run("--batch")?, run("--ranges")?]));
        }
        Ok(())
    })?;
    println!("\n{:<14}{:>24}{:>28}", "", "processor ns per ID", "IDs/s");
    println!("{:<14}{:>12}{:>12}{:>16}{:>12}", "IDs", "list", "ranges", "list", "ranges");
    let mut costs = [const { Vec::new() }; 2];
    for (ids, runs) in all {
        let ids = f64::from(ids);
        let cost_ns = runs.each_ref().map(|runs| load::cost_us(runs) * 1e3 / ids);
        let ids_per_s = runs.each_ref().map(|runs| rate(runs) * ids);
        println!(
            "{ids:<14}{:>12.2}{:>12.2}{:>16.0}{:>12.0}",
            cost_ns[0], cost_ns[1], ids_per_s[0], ids_per_s[1]
        );
        costs.iter_mut().zip(cost_ns).for_each(|(line, cost_ns)| line.push((ids, cost_ns)));
    }
    let title = "Many IDs in one answer: what each costs";
    let axes = ["IDs in an answer", "ns of processor time per ID"];
    draw(loader.shell, "scaling-batches", title, axes, ["list", "ranges"], costs)
}

/// The first line is in snowmint's colour.
fn draw(
    shell: &Shell,
    file: &str,
    title: &str,
    [x, y]: [&str; 2],
    names: [&str; 2],
    lines: [Vec<(f64, f64)>; 2],
) -> Result<()> {
    let tones = [Tone::Snowmint, if names[1] == "bare hyper" { Tone::Peer } else { Tone::Violet }];
    let series = names.into_iter().zip(lines).zip(tones);
    let series: Vec<Series> =
        series.map(|((label, points), tone)| Series { label: label.into(), points, tone }).collect();
    keep_plot(shell, file, &plot::lines(title, x, y, &series)?)
}
