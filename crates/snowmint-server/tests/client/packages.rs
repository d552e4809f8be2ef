//! The packages in `clients/`, whose tests this starts servers for. They kill one of them themselves. And that each,
//! as the command line does, says who it is.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

use crate::process::{Node, until};
use crate::start;

/// How long the tests of a package may take.
const PATIENCE: Duration = Duration::from_mins(3);

#[tokio::test]
async fn python() {
    let arguments =
        ["-W", "error::ResourceWarning", "-m", "unittest", "discover", "--start-directory", "tests"];
    run("python", "python3", &arguments, "snowmint-python").await;
}

#[tokio::test]
async fn node() {
    run("node", "node", &["--test", "test/"], "snowmint-node").await;
}

#[tokio::test]
async fn command_line() {
    let data = TempDir::new().unwrap();
    let node = start(data.path()).await;
    let server = format!("http://{}", node.address());
    let output = snowmint(data.path(), &["id", "--server", &server]).await;
    assert!(output.status.success(), "{output:?}");
    assert_told(data.path(), concat!("snowmint/", env!("CARGO_PKG_VERSION"))).await;
}

/// Runs a program in a package's directory, whose requests are then known as its `agent`'s.
async fn run(package: &str, program: &str, arguments: &[&str], agent: &str) {
    let data = TempDir::new().unwrap();
    let (stays, victim) = (start(data.path()).await, start(data.path()).await);
    let url = |node: &Node| format!("http://{}", node.address());
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../clients").join(package);
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(directory)
        // Nothing is left in the package.
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONPATH", "src")
        .env("SNOWMINT_URL", url(&stays))
        .env("SNOWMINT_VICTIM_URL", url(&victim))
        .env("SNOWMINT_VICTIM_PID", victim.pid().as_raw_nonzero().to_string())
        .kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.expect("the tests of a package end");
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; `cargo xtask test` installs it"));
    let said = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
    assert!(output.status.success(), "{}{}", said(&output.stdout), said(&output.stderr));
    assert_told(data.path(), agent).await;
}

/// That the records of a node have the user agent.
async fn assert_told(data: &Path, agent: &str) {
    let wanted = format!("\"user_agent\":\"{agent}\"");
    let told = async || {
        let records = snowmint(data, &["audit", "cat"]).await.stdout;
        String::from_utf8(records).unwrap().contains(&wanted)
    };
    until(told, &wanted).await;
}

async fn snowmint(data: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_snowmint"));
    command.args(arguments).env("SNOWMINT_DATA_DIR", data).kill_on_drop(true).output().await.unwrap()
}
