//! The packages in `clients/`, whose tests this starts servers for. They kill one of them themselves.

use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

use crate::process::Node;
use crate::start;

/// How long the tests of a package may take.
const PATIENCE: Duration = Duration::from_mins(3);

#[tokio::test]
async fn python() {
    let arguments =
        ["-W", "error::ResourceWarning", "-m", "unittest", "discover", "--start-directory", "tests"];
    run("python", "python3", &arguments).await;
}

#[tokio::test]
async fn node() {
    run("node", "node", &["--test", "test/"]).await;
}

/// Runs a program in a package's directory.
async fn run(package: &str, program: &str, arguments: &[&str]) {
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
}
