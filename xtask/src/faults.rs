//! `cargo xtask faults`: the fault scenarios of fleets and of what is written down, at their whole size, with their
//! figures.

use anyhow::Result;
use xshell::{Shell, cmd};

use crate::install;
use crate::tools::{on_path, step};

/// Which scenarios.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only those whose name has this text, such as `leader` or `zookeeper`.
    name: Option<String>,
}

/// Runs them one after the other: each wants the machine for itself.
pub(crate) fn run(shell: &Shell, options: &Options) -> Result<()> {
    install::run(shell)?;
    let name = options.name.as_deref().unwrap_or_default();
    shell.set_var("SNOWMINT_FAULTS_WHOLE", "1");
    step("faults", || {
        if on_path("cargo-nextest").is_some() {
            let filter = format!("test(/^(archive|fleet|records)::.*{name}/)");
            Ok(cmd!(shell, "cargo nextest run --release -p snowmint-server --test faults --locked --no-fail-fast --no-capture -E {filter}").run()?)
        } else {
            let [archive, fleet, records] =
                ["archive", "fleet", "records"].map(|module| format!("{module}::{name}"));
            Ok(cmd!(shell, "cargo test --release -p snowmint-server --test faults --locked --no-fail-fast -- --nocapture --test-threads 1 {archive} {fleet} {records}").run()?)
        }
    })
}
