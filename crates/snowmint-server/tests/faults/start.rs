//! Starts that are refused: with a message, an exit code, and nothing written over.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::process::{BINARY, Serve, until};

/// Failed.
const FAILED: i32 = 1;
/// Wrong configuration.
const USAGE: i32 = 2;

async fn assert_refused(serve: Serve, code: i32, parts: &[&str]) {
    let (got, log) = serve.refused().await;
    assert_eq!(got, code, "{log}");
    for part in parts {
        assert!(log.contains(part), "no {part:?} in: {log}");
    }
}

/// A damaged registry is never guessed at, because IDs could repeat, and never written over.
#[tokio::test]
async fn corrupt_registry() {
    let directory = TempDir::new().unwrap();
    Serve::new(directory.path()).start().await.kill();
    let file = directory.path().join("registry.json");
    let intact = fs::read(&file).unwrap();
    let flipped = |at: usize| {
        let mut bytes = intact.clone();
        bytes[at] ^= 1;
        bytes
    };
    let half = intact[..intact.len() / 2].to_vec();
    let damages = [
        flipped(intact.len() / 2),
        flipped(0),
        flipped(intact.len() - 2),
        half,
        b"{}\n".to_vec(),
        Vec::new(),
    ];
    for damaged in damages {
        fs::write(&file, &damaged).unwrap();
        let path = file.to_str().unwrap();
        let wanted = ["is damaged", path, "restore the newest intact copy"];
        assert_refused(Serve::new(directory.path()), FAILED, &wanted).await;
        assert_eq!(fs::read(&file).unwrap(), damaged);
    }
    let later = String::from_utf8(intact.clone()).unwrap().replacen(
        "snowmint-registry 1 ",
        "snowmint-registry 2 ",
        1,
    );
    fs::write(&file, &later).unwrap();
    assert_refused(Serve::new(directory.path()), FAILED, &["has format 2, this version of snowmint knows 1"])
        .await;
    fs::write(&file, &intact).unwrap();
    Serve::new(directory.path()).start().await.kill();
}

/// A data directory that cannot be one.
#[tokio::test]
async fn data_directory_below_a_file() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "mine").unwrap();
    for path in [file.clone(), file.join("below")] {
        assert_refused(Serve::new(&path), FAILED, &["cannot create", path.to_str().unwrap()]).await;
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
}

/// A data directory that may be read only, new or with a registry in it.
#[tokio::test]
async fn read_only_data_directory() {
    let directory = TempDir::new().unwrap();
    open_to_all(directory.path(), 0o755);
    let data = directory.path().join("data");
    fs::create_dir(&data).unwrap();
    for used in [false, true] {
        if used {
            open_to_all(&data, 0o755);
            Serve::new(&data).start().await.kill();
        }
        let before = fs::read(data.join("registry.json")).ok();
        open_to_all(&data, 0o555);
        let wanted = ["Permission denied", data.to_str().unwrap(), "The data directory must be writable"];
        assert_refused(Serve::with(unprivileged(directory.path()), &data), FAILED, &wanted).await;
        assert_eq!(fs::read(data.join("registry.json")).ok(), before);
    }
    // So that it can be removed.
    open_to_all(&data, 0o755);
}

/// The binary, run by a user whom permissions hold back: root passes them by.
fn unprivileged(directory: &Path) -> Command {
    /// `nobody`, wherever there is one.
    const NOBODY: u32 = 65_534;
    if !rustix::process::geteuid().is_root() {
        return Command::new(BINARY);
    }
    // A copy, because that user may not be let into the directory of the original.
    let copy = directory.join("snowmint");
    fs::copy(BINARY, &copy).unwrap();
    open_to_all(&copy, 0o755);
    let mut command = Command::new(copy);
    command.uid(NOBODY).gid(NOBODY);
    command
}

fn open_to_all(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A port in use leaves no trace in the data directory.
#[tokio::test]
async fn port_in_use() {
    let directory = TempDir::new().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let keys = ["http.listen", "grpc.listen", "resp.listen"];
    for key in keys {
        let serve =
            keys.iter().fold(Serve::bare(directory.path()), |serve, key| serve.set(key, "127.0.0.1:0"));
        let serve = serve.set(key, &address);
        let wanted = [key, address.as_str(), "another process listens there: choose another port"];
        assert_refused(serve, FAILED, &wanted).await;
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

/// An unknown key is an error that names the nearest known one.
#[tokio::test]
async fn unknown_configuration_key() {
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("data");
    let wanted = ["unknown key lease.windw_ms", "did you mean SNOWMINT_LEASE__WINDOW_MS?"];
    assert_refused(Serve::new(&data).set("lease.windw_ms", "1000"), USAGE, &wanted).await;

    let file = directory.path().join("snowmint.toml");
    fs::write(&file, "[lease]\nwindw_ms = 1000\n").unwrap();
    let serve = Serve::new(&data).env("SNOWMINT_CONFIG", &file);
    assert_refused(serve, USAGE, &["unknown key lease.windw_ms", "line 2", "did you mean lease.window_ms?"])
        .await;
    assert!(!data.exists());
}

/// Without TLS and keys, a routable address needs a word of consent.
#[tokio::test]
async fn routable_address_without_consent() {
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("data");
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:8080"] {
        let serve = Serve::new(&data).set("http.listen", address);
        assert_refused(serve, USAGE, &["http.listen", address, "--insecure"]).await;
    }
    assert!(!data.exists());
    let node = Serve::new(&data).set("http.listen", "0.0.0.0:0").set("insecure", "true");
    node.start().await.kill();
}

/// Invariant 5: a node of another epoch or layout does not start, and says which value differs.
#[tokio::test]
async fn epoch_or_layout_that_disagrees() {
    let directory = TempDir::new().unwrap();
    Serve::new(directory.path()).start().await.kill();
    let file = directory.path().join("registry.json");
    let before = fs::read(&file).unwrap();
    let path = directory.path().to_str().unwrap();
    for (key, configured, stands) in
        [("id.epoch_ms", "1609459200001", "1609459200000"), ("id.layout", "41/4/6/12", "41/5/5/12")]
    {
        let serve = Serve::new(directory.path()).set(key, configured);
        assert_refused(serve, FAILED, &[key, configured, stands, path]).await;
        assert_eq!(fs::read(&file).unwrap(), before);
    }
}

/// A registry that was put back from an old copy, or begun anew, would give windows out a second time.
#[tokio::test]
async fn a_registry_that_knows_less_than_the_node() {
    let directory = TempDir::new().unwrap();
    let (file, mark) = (directory.path().join("registry.json"), directory.path().join("mark"));
    let serve = || Serve::new(directory.path()).set("lease.window_ms", "1000").set("worker", "0");
    let ceiling = || async { fs::read(mark.join("dc0_worker0")).ok() };
    let first = serve().start().await;
    until(|| async { ceiling().await.is_some() }, "a mark").await;
    first.kill();
    let (old, remembered) = (fs::read(&file).unwrap(), ceiling().await);
    let second = serve().start().await;
    until(|| async { ceiling().await != remembered }, "a later mark").await;
    second.kill();
    let newest = fs::read(&file).unwrap();

    let remedy = ["has forgotten windows", "dc0_worker0", "remove", mark.to_str().unwrap()];
    fs::write(&file, &old).unwrap();
    assert_refused(serve(), FAILED, &remedy).await;
    fs::remove_file(&file).unwrap();
    assert_refused(serve(), FAILED, &["this node belongs to cluster", mark.to_str().unwrap()]).await;
    fs::write(&file, &newest).unwrap();
    serve().start().await.kill();
    fs::write(&file, &old).unwrap();
    fs::remove_dir_all(&mark).unwrap();
    serve().start().await.kill();
}
