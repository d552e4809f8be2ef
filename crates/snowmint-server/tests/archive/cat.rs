//! `snowmint audit cat` on a node's own machine: what waits there for the archive is found, too.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use snowmint_server::archive::Record;
use snowmint_server::config::{S3, StoreUrl};
use snowmint_server::objects::Objects;
use tempfile::TempDir;
use uuid::Uuid;

use super::node::{HOUR_MS, Node, SLOT, failed, issued};
use super::until;

/// How often it is asked while records are on their way.
const ROUNDS: u64 = 10;

const RECORDS_A_ROUND: u64 = 100;

/// A data directory, with a node at work in it.
struct Home {
    data_dir: TempDir,
    journal: Uuid,
}

impl Home {
    fn new() -> Self {
        let home = Self { data_dir: TempDir::new().unwrap(), journal: Uuid::new_v4() };
        fs::create_dir(home.data_dir.path().join("journal")).unwrap();
        home
    }

    fn node(&self, next: u64) -> Node {
        let archive = StoreUrl::Directory(self.data_dir.path().join("archive"));
        let objects = Objects::open(&archive, &S3::default()).unwrap();
        Node::start(&self.data_dir.path().join("journal"), self.journal, next, objects)
    }

    fn cat(&self, arguments: &[&str]) -> (i32, String, String) {
        cat(self.data_dir.path(), arguments)
    }

    /// The events that the lines tell of, by number.
    fn numbers(&self, lines: &str) -> Vec<u64> {
        let number = |line: &str| {
            let record: Record<'_> = serde_json::from_str(line).unwrap();
            u64::try_from(record.event_id.as_u128() ^ self.journal.as_u128()).unwrap()
        };
        lines.lines().map(number).collect()
    }

    /// The only file of the spool that grows.
    fn growing(&self) -> File {
        let files = fs::read_dir(self.data_dir.path().join("journal/archive")).unwrap();
        let mut paths = files.map(|file| file.unwrap().path());
        let lines = paths.find(|path| path.extension().is_some_and(|kind| kind == "jsonl")).unwrap();
        File::options().append(true).open(lines).unwrap()
    }
}

fn cat(data_dir: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut snowmint = Command::new(env!("CARGO_BIN_EXE_snowmint"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SNOWMINT_")) {
        snowmint.env_remove(name);
    }
    snowmint.args(["audit", "cat"]).args(arguments).env("SNOWMINT_DATA_DIR", data_dir);
    let Output { status, stdout, stderr } = snowmint.stdin(Stdio::null()).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_found_before_its_hour_is_in_the_archive() {
    let home = Home::new();
    let mut node = home.node(0);
    let events = [issued(HOUR_MS + 1, SLOT, 3), failed(HOUR_MS + 2), issued(HOUR_MS + 3, SLOT, 1)];
    let snowmint_server::event::What::Issued(wanted) = &events[2].what else { unreachable!() };
    let id = wanted.ranges[0].first().to_string();
    node.deliver(events.to_vec()).await;

    let (code, out, err) = home.cat(&["--id", &id]);
    assert_eq!((code, home.numbers(&out), err.as_str()), (0, vec![2], ""), "{out}");
    let (_, all, _) = home.cat(&[]);
    assert_eq!(home.numbers(&all), [1, 0, 2]);
    // A line that is being written is none yet.
    home.growing().write_all(&all.as_bytes()[..40]).unwrap();
    assert_eq!(home.cat(&[]), (0, all.clone(), String::new()));
    // Another archive has nothing of it.
    let other = TempDir::new().unwrap();
    let (code, out, err) = home.cat(&["--archive", other.path().to_str().unwrap(), "--id", &id]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("no such record"), "{err}");

    // What is uploaded is the same.
    node.kill();
    home.node(3).stop().await;
    assert_eq!(home.cat(&[]), (0, all, String::new()));
    assert_eq!(cat(other.path(), &[]).0, 1);
}

/// Records are in files that grow, that are sealed, and that are uploaded while it is looked.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_is_found_once_wherever_it_is() {
    let home = Home::new();
    let mut node = home.node(0);
    for round in 0..ROUNDS {
        let at_ms = HOUR_MS + round * 1_000;
        node.deliver((0..RECORDS_A_ROUND).map(|n| issued(at_ms + n, SLOT, 1)).collect()).await;
        let (code, out, err) = home.cat(&[]);
        let mut found = home.numbers(&out);
        found.sort_unstable();
        assert_eq!((code, err.as_str()), (0, ""));
        assert_eq!(found, (0..node.next()).collect::<Vec<_>>());
    }
    until("what is sealed is uploaded", async || {
        super::spool_files(&home.data_dir.path().join("journal")) <= 2
    })
    .await;
    assert_eq!(home.numbers(&home.cat(&[]).1), (0..node.next()).collect::<Vec<_>>());
    node.stop().await;
}
