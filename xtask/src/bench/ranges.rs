//! `cargo xtask bench ranges`: IDs as ranges of a million, as many as the format has, from a node with one slot and
//! from one with many. The client checks every ID that it receives against all others, and fails where one came twice.

use anyhow::{Result, ensure};
use tempfile::TempDir;
use xshell::{Shell, cmd};

use super::http::{BATCH_CONNECTIONS, ID_PATH};
use super::http_server::{Server, free_address};
use super::load::{self, Loader, SERVER_CORE, Target};
use super::pin;
use crate::tools::step;

const RANGES_IDS: &str = "1000000";
/// What a slot has in a second.
const SLOT_IDS_PER_S: f64 = 4_096_000.0;

/// How much is measured.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long each run lasts.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// How many slots the node has.
    #[arg(long, value_delimiter = ',', default_value = "1,32")]
    workers: Vec<u16>,
}

/// Measures all, and prints the table.
pub(crate) fn run(shell: &Shell, options: &Options) -> Result<()> {
    step("build", || Ok(cmd!(shell, "cargo build --profile dist --locked -p snowmint-server").run()?))?;
    let loading = load::Options { seconds: options.seconds, rounds: 1, connections: BATCH_CONNECTIONS };
    let loader = Loader::new(shell, &loading)?;
    println!(
        "\n{:<8}{:<10}{:<14}{:>14}{:>14}{:>16}",
        "slots", "over", "written down", "IDs/s", "of the limit", "share of a core"
    );
    for workers in &options.workers {
        for (journal, written_down) in [("off", "nothing"), ("relaxed", "everything")] {
            let data_dir = TempDir::new()?;
            let (mut target, grpc) = start(&loader, &data_dir, *workers, journal)?;
            let rest = target.url.clone();
            for (protocol, url) in [("REST", rest), ("gRPC", grpc)] {
                target.url = url;
                let run = loader.load_checked(&target, BATCH_CONNECTIONS, &["--ranges", RANGES_IDS])?;
                ensure!(run.checked == "all", "not every ID was checked for duplicates: {}", run.checked);
                let of_limit = run.ids_per_s / (SLOT_IDS_PER_S * f64::from(*workers));
                let share = run.processor_share * 100.0;
                println!(
                    "{workers:<8}{protocol:<10}{written_down:<14}{:>14.0}{of_limit:>14.3}{share:>14.1} %  0 duplicates",
                    run.ids_per_s
                );
            }
        }
    }
    Ok(())
}

/// Starts a node: loaded over HTTP, and the URL under which it is over gRPC.
fn start(loader: &Loader, data_dir: &TempDir, workers: u16, journal: &str) -> Result<(Target, String)> {
    let (http, grpc) = (free_address()?, free_address()?);
    let mut command = pin(SERVER_CORE)?;
    command.extend([loader.snowmint.display().to_string(), "serve".into()]);
    command.extend(["--data-dir".into(), data_dir.path().display().to_string()]);
    command.extend(["--workers".into(), workers.to_string()]);
    command.extend(["--http".into(), http.to_string(), "--grpc".into(), grpc.to_string()]);
    let environment = [
        ("SNOWMINT_RESP__LISTEN", ""),
        ("SNOWMINT_JOURNAL__DURABILITY", journal),
        // It says of each slot that it was taken.
        ("SNOWMINT_LOG__LEVEL", "warn"),
    ];
    let server = Server::start(&command, &environment, http, ID_PATH)?;
    Ok((Target { url: server.url(), server }, format!("grpc://{grpc}")))
}
