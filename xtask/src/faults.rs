//! `cargo xtask faults`: the fault scenarios of fleets and of what is written down, at their whole size, with their
//! figures.

use anyhow::Result;
use xshell::{Shell, cmd};

use crate::install;
use crate::tools::{on_path, step};

/// Where the scenarios are that have a size.
const MODULES: [&str; 3] = ["archive", "fleet", "records"];

/// Which scenarios.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only those whose name has this text, such as `leader` or `zookeeper`.
    name: Option<String>,
}

/// Runs them one after the other: each wants the machine for itself.
pub(crate) fn run(shell: &Shell, options: &Options) -> Result<()> {
    install::run(shell)?;
    let name = options.name.as_deref();
    shell.set_var("SNOWMINT_FAULTS_WHOLE", "1");
    step("faults", || {
        if on_path("cargo-nextest").is_some() {
            let all = format!("test(/^({})::/)", MODULES.join("|"));
            let filter = name.map_or(all.clone(), |name| format!("{all} & test(~{name})"));
            Ok(cmd!(shell, "cargo nextest run --release -p snowmint-server --test faults --locked --no-fail-fast --no-capture -E {filter}").run()?)
        } else {
            // Cargo's own runner takes several texts, of which a name has one, and none that it must have all of.
            let filters = name.map_or(MODULES.to_vec(), |name| vec![name]);
            Ok(cmd!(shell, "cargo test --release -p snowmint-server --test faults --locked --no-fail-fast -- --nocapture --test-threads 1 {filters...}").run()?)
        }
    })
}
