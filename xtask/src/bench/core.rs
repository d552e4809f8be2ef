//! `cargo xtask bench core`: the generator alone.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;
use xshell::{Shell, cmd};

use super::read_pinned;
use crate::tools::{step, target_dir};

/// Names of the groups of `crates/snowmint/benches/core.rs`.
const GROUPS: [(&str, &str); 3] = [
    ("1 thread", "single_ids_1_threads"),
    ("2 threads", "single_ids_2_threads"),
    ("4 threads", "single_ids_4_threads"),
];
const RANGE_GROUP: &str = "ranges_of_4096";
const FULL_DEMAND_CORE: usize = 1;

/// Runs the criterion benchmark and the full demand, and prints what they found.
pub(crate) fn run(shell: &Shell) -> Result<()> {
    step("cost per ID (criterion)", || {
        Ok(cmd!(shell, "cargo bench -p snowmint --bench core --locked -- --noplot").run()?)
    })?;
    let target = target_dir(shell)?;
    let mut demand = String::new();
    step("full demand on a real clock", || {
        cmd!(shell, "cargo build --release -p snowmint --example full_demand --locked").run()?;
        let program = target.join("release/examples/full_demand").display().to_string();
        demand = read_pinned(shell, FULL_DEMAND_CORE, &[program])?;
        Ok(())
    })?;
    let criterion = target.join("criterion");
    println!("\n{:<20}{:>10}{:>10}{:>8}", "ns per ID, median", "snowmint", "ferroid", "ratio");
    for (name, group) in GROUPS {
        let ours = median_ns(&criterion, group, "snowmint")?;
        let theirs = median_ns(&criterion, group, "ferroid")?;
        println!("{name:<20}{ours:>10.2}{theirs:>10.2}{:>8.2}", ours / theirs);
    }
    println!(
        "{:<20}{:>10.2}  ns per range",
        "ranges of 4,096",
        median_ns(&criterion, RANGE_GROUP, "snowmint")?
    );
    println!("{demand}");
    Ok(())
}

fn median_ns(criterion: &Path, group: &str, function: &str) -> Result<f64> {
    let path = criterion.join(group).join(function).join("new/estimates.json");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let estimates: Value = serde_json::from_str(&text)?;
    estimates["median"]["point_estimate"]
        .as_f64()
        .with_context(|| format!("{} has no median", path.display()))
}
