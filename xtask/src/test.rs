//! `cargo xtask test`.

use std::env;

use anyhow::Result;
use xshell::{Shell, cmd};

use crate::install;
use crate::tools::{on_path, step, target_dir};

/// Installs what the tests need and runs them all.
pub(crate) fn run(shell: &Shell) -> Result<()> {
    install::run(shell)?;
    if on_path("cargo-nextest").is_some() {
        step("tests", || Ok(cmd!(shell, "cargo nextest run --workspace --all-features --locked").run()?))?;
        step("documentation tests", || {
            Ok(cmd!(shell, "cargo test --doc --workspace --all-features --locked").run()?)
        })?;
    } else {
        step("tests, documentation tests among them", || {
            Ok(cmd!(shell, "cargo test --workspace --all-features --locked").run()?)
        })?;
    }
    step("every interleaving of the threads of generator and client (loom)", || loom(shell))
}

/// In a target directory of its own: other flags in the main one would rebuild everything, twice.
fn loom(shell: &Shell) -> Result<()> {
    let target = target_dir(shell)?.join("loom");
    let flags = format!("{} --cfg loom", env::var("RUSTFLAGS").unwrap_or_default());
    for tests in [["snowmint", "--test=loom"], ["snowmint-client", "--lib"]] {
        cmd!(shell, "cargo test -p {tests...} --release --locked --target-dir {target}")
            .env("RUSTFLAGS", flags.trim())
            .run()?;
    }
    Ok(())
}
