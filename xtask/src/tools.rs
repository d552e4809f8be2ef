//! What every task needs: steps with a heading and a time, and where things are.

use std::env;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::Value;
use xshell::{Shell, cmd};

/// Does one step: a heading before it, how long it took after it.
pub(crate) fn step(heading: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("\n== {heading}");
    let started = Instant::now();
    work().with_context(|| format!("step failed: {heading}"))?;
    println!("== {heading}: done in {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// Where cargo puts what it builds, whatever decides that.
pub(crate) fn target_dir(shell: &Shell) -> Result<PathBuf> {
    let metadata = cmd!(shell, "cargo metadata --no-deps --locked --format-version 1").quiet().read()?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    Ok(metadata["target_directory"].as_str().context("cargo metadata names no target directory")?.into())
}

/// The program of that name, if there is one on the search path.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}
