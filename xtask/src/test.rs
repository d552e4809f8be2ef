//! `cargo xtask test`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use xshell::{Shell, cmd};

use crate::tools::{on_path, step, target_dir};

/// Preloaded into a server by the tests that step its clock.
const FAKETIME: &str = "faketime/libfaketime.so.1";

/// Installs what the tests need and runs them all.
pub(crate) fn run(shell: &Shell) -> Result<()> {
    if faketime().is_none() {
        step("install faketime, which the tests step the clock with", || install_faketime(shell))?;
    }
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
    step("every interleaving of the generator's threads (loom)", || loom(shell))
}

/// In a target directory of its own: other flags in the main one would rebuild everything, twice.
fn loom(shell: &Shell) -> Result<()> {
    let target = target_dir(shell)?.join("loom");
    let flags = format!("{} --cfg loom", env::var("RUSTFLAGS").unwrap_or_default());
    Ok(cmd!(shell, "cargo test -p snowmint --test loom --release --locked --target-dir {target}")
        .env("RUSTFLAGS", flags.trim())
        .run()?)
}

/// Where Debian's package puts the library: below the directory of the machine's architecture.
fn faketime() -> Option<PathBuf> {
    let architectures = fs::read_dir("/usr/lib").ok()?;
    architectures.filter_map(Result::ok).map(|entry| entry.path().join(FAKETIME)).find(|path| path.exists())
}

fn install_faketime(shell: &Shell) -> Result<()> {
    let by_hand = format!(
        "install it by hand: the Debian package is `faketime`, the file wanted /usr/lib/*/{FAKETIME}"
    );
    if on_path("apt-get").is_none() {
        bail!("libfaketime is missing and there is no apt-get to install it with; {by_hand}");
    }
    let root = cmd!(shell, "id -u").quiet().read()? == "0";
    let sudo = if root { None } else { on_path("sudo") };
    if !root && sudo.is_none() {
        bail!("libfaketime is missing, and installing it needs root or sudo; {by_hand}");
    }
    let apt_get = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"];
    let mut command: Vec<&Path> = sudo.iter().map(PathBuf::as_path).collect();
    command.extend(apt_get.map(Path::new));
    let (program, prefix) = (command[0], &command[1..]);
    cmd!(shell, "{program} {prefix...} update").run()?;
    cmd!(shell, "{program} {prefix...} install --yes --no-install-recommends faketime").run()?;
    if faketime().is_none() {
        bail!("the package was installed, but libfaketime is still missing; {by_hand}");
    }
    Ok(())
}
