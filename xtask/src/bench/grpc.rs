//! `cargo xtask bench grpc`: `GenerateId`, beside a bare tonic server under the same load.
//!
//! As `bench http`: both on one core, loaded in turn from another over connections that have one call under
//! way each, medians. The bare server answers with a constant in the same messages, so what it costs is what
//! gRPC costs.

use std::path::Path;

use anyhow::Result;
use tempfile::TempDir;
use xshell::{Shell, cmd};

use super::http::{ID_PATH, compare};
use super::http_server::{Server, free_address};
use super::load::{Loader, Options, SERVER_CORE, Target, cost_us, p99_us, rate};
use super::pin;
use crate::tools::{step, target_dir};

/// Measures both servers and prints the table.
pub(crate) fn run(shell: &Shell, options: &Options) -> Result<()> {
    step("build", || {
        cmd!(shell, "cargo build --profile dist --locked -p snowmint-server").run()?;
        Ok(cmd!(shell, "cargo build --profile dist --locked -p xtask --example bare_tonic").run()?)
    })?;
    let (loader, data_dir) = (Loader::new(shell, options)?, TempDir::new()?);
    let (ours, bare) = (start_snowmint(&loader, data_dir.path())?, start_bare(shell)?);
    let (our_runs, bare_runs) = loader.alternate("single IDs", &ours, &bare, &[])?;
    println!("\n{:<44}{:>12}{:>12}{:>8}  wanted", "", "snowmint", "bare tonic", "ratio");
    compare("single IDs, requests/s", rate(&our_runs), rate(&bare_runs), "");
    compare("single IDs, processor us per request", cost_us(&our_runs), cost_us(&bare_runs), "at most 1.15");
    compare("single IDs, p99 us", p99_us(&our_runs), p99_us(&bare_runs), "");
    loader.half_load((&ours, &our_runs), (&bare, &bare_runs))
}

pub(super) fn start_snowmint(loader: &Loader, data_dir: &Path) -> Result<Target> {
    let (http, grpc) = (free_address()?, free_address()?.to_string());
    let mut command = pin(SERVER_CORE)?;
    command.extend([loader.snowmint.display().to_string(), "serve".into()]);
    command.extend(["--data-dir".into(), data_dir.display().to_string()]);
    let listen = http.to_string();
    let environment = [
        ("SNOWMINT_HTTP__LISTEN", listen.as_str()),
        ("SNOWMINT_GRPC__LISTEN", &grpc),
        ("SNOWMINT_RESP__LISTEN", ""),
        ("SNOWMINT_JOURNAL__DURABILITY", "off"),
    ];
    let server = Server::start(&command, &environment, http, ID_PATH)?;
    Ok(Target { server, url: format!("grpc://{grpc}") })
}

pub(super) fn start_bare(shell: &Shell) -> Result<Target> {
    let address = free_address()?;
    let mut command = pin(SERVER_CORE)?;
    let program = target_dir(shell)?.join("dist/examples/bare_tonic");
    command.extend([program.display().to_string(), address.to_string()]);
    Ok(Target { server: Server::start_listener(&command, address)?, url: format!("grpc://{address}") })
}
