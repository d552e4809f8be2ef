//! kill -9 and full disks, on real processes that write a journal: this binary, started by itself.

use std::collections::HashSet;
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use snowmint_server::journal::{Durability, IDLE_MS, JournalSettings};
use tempfile::TempDir;

use super::{Open, PATIENCE, STRICT, event, number, rest};

const DIRECTORY: &str = "JOURNAL_TEST_DIRECTORY";
const DURABILITY: &str = "JOURNAL_TEST_DURABILITY";
const FIRST: &str = "JOURNAL_TEST_FIRST";

/// How often a process is killed.
const KILLS: u32 = 100;

/// Requests that wait at the same time.
const WAITING: u32 = 16;

/// Each process numbers its events from a multiple of it.
const NUMBERS: u32 = 10_000_000;

const RELAXED: JournalSettings = JournalSettings { durability: Durability::Relaxed, flush_ms: 100, ..STRICT };

/// How long a thread may have to wait for a processor, on a machine that is busy with other tests.
const STALL_MS: u64 = 2_000;

/// Not a test: what the tests below start, to be killed.
#[test]
fn child() {
    let Ok(directory) = env::var(DIRECTORY) else { return };
    let first = env::var(FIRST).unwrap().parse().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if env::var(DURABILITY).unwrap() == "strict" {
        runtime.block_on(wait_for_each(Path::new(&directory), first));
    } else {
        runtime.block_on(wait_for_none(Path::new(&directory), first));
    }
}

/// Has events kept, many at a time, and says of each what became of it.
async fn wait_for_each(directory: &Path, first: u32) {
    let open = Arc::new(Open::new(directory, STRICT, &["a"]));
    let tasks = (0..WAITING).map(|task| {
        let open = Arc::clone(&open);
        tokio::spawn(async move {
            for number in (first + task..).step_by(WAITING as usize) {
                let kept = open.events.keep(event(number)).await;
                say(if kept { "kept" } else { "shed" }, number, 0);
                if !kept {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

/// Takes twenty events a millisecond, and says of the last when it was.
async fn wait_for_none(directory: &Path, first: u32) {
    let open = Open::new(directory, RELAXED, &["a"]);
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    let mut number = first;
    loop {
        tick.tick().await;
        let events: Vec<_> = (number..number + 20).map(event).collect();
        number += 20;
        let at_ms = events[19].at_ms;
        for event in events {
            open.events.take(event);
        }
        say("taken", number - 1, at_ms);
    }
}

fn say(what: &str, number: u32, at_ms: u64) {
    // One write, which a kill cannot divide. The one who reads may be gone.
    let _ = std::io::stdout().write_all(format!("\n{what} {number} {at_ms}\n").as_bytes());
}

/// A child and what it says.
struct Writer {
    child: Child,
    said: Receiver<(String, u32, u64)>,
}

impl Writer {
    fn start(directory: &Path, durability: &str, first: u32) -> Self {
        let mut command = Command::new("sh");
        // What a shell ignores is ignored by what it runs: a write past a limit then fails.
        command.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]).arg(env::current_exe().unwrap());
        command.args(["crash::child", "--exact", "--nocapture"]);
        command.env(DIRECTORY, directory).env(DURABILITY, durability).env(FIRST, first.to_string());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let (say, said) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let [what @ ("kept" | "shed" | "taken"), number, at_ms] =
                    line.split(' ').collect::<Vec<_>>()[..]
                {
                    let _ = say.send((what.to_owned(), number.parse().unwrap(), at_ms.parse().unwrap()));
                }
            }
        });
        Self { child, said }
    }

    /// What it says until it has said `what` so many times.
    fn until(&self, what: &str, count: usize) -> Vec<(String, u32, u64)> {
        let (mut all, mut seen) = (Vec::new(), 0);
        while seen < count {
            let said = self.said.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no {what} {count} times"));
            seen += usize::from(said.0 == what);
            all.push(said);
        }
        all
    }

    /// Kills it, and gives what it had said.
    fn kill(mut self) -> Vec<(String, u32, u64)> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let mut all = Vec::new();
        loop {
            match self.said.recv_timeout(PATIENCE) {
                Ok(said) => all.push(said),
                Err(RecvTimeoutError::Disconnected) => return all,
                Err(RecvTimeoutError::Timeout) => panic!("the pipe of a dead process stays open"),
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a journal has that was not looked at before.
async fn found(directory: &Path) -> Vec<super::Event> {
    let open = Open::new(directory, STRICT, &["a"]);
    let mut reader = open.reader("a");
    open.journal.close().await;
    let mut found = Vec::new();
    while let Some(batch) = reader.next_batch(5_000, 4 << 20).await.unwrap() {
        found.extend(batch.events.iter().cloned());
        reader.done(&batch).await.unwrap();
    }
    assert_eq!(open.lost("a"), 0);
    found
}

#[tokio::test]
async fn strict_keeps_all_that_it_said_it_kept_through_100_kills() {
    let directory = TempDir::new().unwrap();
    let (mut said_kept, mut in_journal) = (0, 0);
    for round in 0..KILLS {
        let writer = Writer::start(directory.path(), "strict", round * NUMBERS);
        // Killed sooner or later.
        let mut said = writer.until("kept", 1 + (round as usize * 37) % 400);
        said.extend(writer.kill());
        let found: Vec<u32> = found(directory.path()).await.iter().map(number).collect();
        let distinct: HashSet<u32> = found.iter().copied().collect();
        assert_eq!(distinct.len(), found.len(), "none is there twice");
        for (what, number, _) in &said {
            assert_eq!(what, "kept");
            assert!(distinct.contains(number), "kill {round}: {number} was kept, and is not there");
        }
        said_kept += said.len();
        in_journal += found.len();
    }
    eprintln!("strict: {KILLS} kills, {said_kept} events acknowledged, {in_journal} in the journal, 0 lost");
}

#[tokio::test]
async fn relaxed_loses_what_was_just_taken() {
    let directory = TempDir::new().unwrap();
    let mut lost_ms = Vec::new();
    for round in 0..KILLS / 4 {
        let writer = Writer::start(directory.path(), "relaxed", round * NUMBERS);
        let mut said = writer.until("taken", 100 + (round as usize * 37) % 100);
        said.extend(writer.kill());
        let (_, _, last_taken_ms) = *said.last().unwrap();
        let found = found(directory.path()).await;
        let numbers: Vec<u32> = found.iter().map(number).collect();
        let expected: Vec<u32> = (round * NUMBERS..).take(numbers.len()).collect();
        assert_eq!(numbers, expected, "what is lost is the end");
        let last_kept_ms = found.last().expect("more than the bound was taken").at_ms;
        lost_ms.push(last_taken_ms.saturating_sub(last_kept_ms));
    }
    let (max, mean) = (*lost_ms.iter().max().unwrap(), lost_ms.iter().sum::<u64>() / lost_ms.len() as u64);
    eprintln!("relaxed: {} kills lost the last {mean} ms on average, {max} ms at most", lost_ms.len());
    assert!(max <= RELAXED.flush_ms + IDLE_MS + STALL_MS, "{lost_ms:?}");
}

/// A limit on the size of files is what fails the writes: it needs no privilege, and comes and goes on a
/// process that runs. What the journal sees is an error of `write` in the middle of a record, as with a full
/// disk.
#[tokio::test]
async fn full_disk_sheds_and_goes_on_by_itself() {
    let directory = TempDir::new().unwrap();
    let writer = Writer::start(directory.path(), "strict", 0);
    let mut said = writer.until("kept", 100);
    let pid = Pid::from_child(&writer.child);
    let limit =
        |bytes| prlimit(Some(pid), Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
    let path = directory.path().join(format!("{:020}.log", 0));
    limit(Some(std::fs::metadata(&path).unwrap().len() + 1_000));
    said.extend(writer.until("shed", 50));
    limit(None);
    said.extend(writer.until("kept", 100));
    said.extend(writer.kill());
    let found: HashSet<u32> = found(directory.path()).await.iter().map(number).collect();
    for (what, number, _) in &said {
        assert_eq!(found.contains(number), what == "kept", "{what} {number}");
    }
}

#[tokio::test]
async fn what_is_left_after_a_crash_is_written_on() {
    let directory = TempDir::new().unwrap();
    let writer = Writer::start(directory.path(), "strict", 0);
    writer.until("kept", 10);
    writer.kill();
    let open = Open::new(directory.path(), STRICT, &["a"]);
    open.keep([NUMBERS]).await;
    let mut reader = open.reader("a");
    open.close().await;
    assert_eq!(rest(&mut reader).await.last(), Some(&NUMBERS));
}
