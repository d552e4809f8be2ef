//! Programs, and what they say when they are run.

use std::env;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// The longest a program that is to say something may take, in milliseconds.
const RUN_MS_MAX: u64 = 30_000;

/// Where programs are looked for: what `cargo xtask test` has put below the target directory, then the search
/// path.
pub(crate) fn directories(tool: &str) -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    tools().into_iter().map(|tools| tools.join(tool)).chain(env::split_paths(&path)).collect()
}

/// A directory that `cargo xtask test` has put below the target directory.
#[must_use]
pub fn tool(name: &str) -> PathBuf {
    let directory = tools().map(|tools| tools.join(name)).filter(|directory| directory.is_dir());
    directory.unwrap_or_else(|| {
        panic!("there is no tools/{name} below the target directory: `cargo xtask test` installs it")
    })
}

fn tools() -> Option<PathBuf> {
    // The executable of a test lies in <target>/<profile>/deps.
    let executable = env::current_exe().expect("a process knows its executable");
    executable.ancestors().map(|directory| directory.join("tools")).find(|tools| tools.is_dir())
}

/// What a program writes to its output, or if it fails, everything that it said.
pub(crate) async fn run(mut command: Command) -> Result<String, String> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let program = command.as_std().get_program().to_owned();
    let output = tokio::time::timeout(Duration::from_millis(RUN_MS_MAX), command.output()).await;
    let output = match output {
        Err(_) => return Err(format!("{} did not end within {RUN_MS_MAX} ms", program.display())),
        Ok(Err(error)) => return Err(format!("cannot run {}: {error}", program.display())),
        Ok(Ok(output)) => output,
    };
    let [said, complained] =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    if output.status.success() { Ok(said) } else { Err(format!("{said}{complained}")) }
}
