//! Real `snowmint serve` processes: started, signalled, listened to, and ended with the test.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::timeout;

use super::load::{Answer, Connection};

/// How long anything that has to happen is waited for.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long a node may take to stop after SIGTERM.
pub const STOP: Duration = Duration::from_secs(10);

/// How many of its last lines a node's log shows when a test fails.
const LINES_SHOWN_MAX: usize = 40;

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_snowmint");

/// A `snowmint serve` to be started, on ports that the system chooses.
pub struct Serve {
    command: Command,
}

impl Serve {
    /// On a data directory.
    pub fn new(data_dir: &Path) -> Self {
        Self::with(Command::new(BINARY), data_dir)
    }

    /// By another command, which takes the arguments of `snowmint`.
    pub fn with(command: Command, data_dir: &Path) -> Self {
        Self::by(command, data_dir)
            .set("http.listen", "127.0.0.1:0")
            .set("grpc.listen", "")
            .set("resp.listen", "")
    }

    /// On the ports it has by itself, until it is told others.
    pub fn bare(data_dir: &Path) -> Self {
        Self::by(Command::new(BINARY), data_dir)
    }

    fn by(mut command: Command, data_dir: &Path) -> Self {
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SNOWMINT_") {
                command.env_remove(name);
            }
        }
        command.args(["serve", "--data-dir"]).arg(data_dir);
        // Two nodes that mint on one slot in one millisecond then always give the same ID.
        Self { command }.set("id.sequence_start", "zero").env("RUST_BACKTRACE", "0")
    }

    /// With a value for a key of the configuration.
    pub fn set(self, key: &str, value: &str) -> Self {
        let name = format!("SNOWMINT_{}", key.replace('.', "__").to_uppercase());
        self.env(&name, value)
    }

    /// With a variable in its environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Starts it and waits until it serves with a slot.
    pub async fn start(self) -> Node {
        let mut node = self.spawn();
        node.serving().await;
        node
    }

    /// Starts it and waits until it ends by itself: its exit code and its log.
    pub async fn refused(self) -> (i32, String) {
        let mut node = self.spawn();
        let code = node.ended(PATIENCE).await;
        (code.expect("no signal was sent"), node.log.borrow().join("\n"))
    }

    /// Starts it.
    pub fn spawn(mut self) -> Node {
        let command = self.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = command.spawn().unwrap();
        let log = read_log(child.stderr.take().unwrap());
        Node { child, log, started, address: None }
    }
}

/// Reads a log to its end, which is also the end of the process. Whoever waits for it sees the channel close.
fn read_log(stderr: ChildStderr) -> watch::Receiver<Vec<String>> {
    let (lines, log) = watch::channel(Vec::new());
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            lines.send_modify(|lines| lines.push(line));
        }
    });
    log
}

/// A process that serves. It ends with its value, and shows its log if the test fails.
pub struct Node {
    child: Child,
    log: watch::Receiver<Vec<String>>,
    /// When it was started.
    pub started: Instant,
    address: Option<SocketAddr>,
}

impl Node {
    /// Waits for a line of the log that has this text, and gives it back.
    pub async fn logged(&mut self, text: &str) -> String {
        let find = |lines: &Vec<String>| lines.iter().find(|line| line.contains(text)).cloned();
        let seen = timeout(PATIENCE, self.log.wait_for(|lines| find(lines).is_some())).await;
        let lines = seen
            .unwrap_or_else(|_| panic!("no {text:?} in the log within {PATIENCE:?}"))
            .unwrap_or_else(|_| panic!("the node ended without {text:?} in its log"));
        find(&lines).expect("it was waited for")
    }

    /// Whether a line of the log has this text.
    pub fn has_logged(&self, text: &str) -> bool {
        self.log.borrow().iter().any(|line| line.contains(text))
    }

    /// Waits until it serves, with a slot.
    pub async fn serving(&mut self) {
        self.listening("\"message\":\"serving\"").await;
    }

    /// Waits until it serves and says that it has no slot.
    pub async fn serving_without_slot(&mut self) {
        self.listening("\"message\":\"serving, and refusing").await;
    }

    /// Waits until the log tells where it serves, in a line that has this text.
    async fn listening(&mut self, text: &str) {
        let line: Value = serde_json::from_str(&self.logged(text).await).unwrap();
        self.address = Some(line["http"].as_str().unwrap().parse().unwrap());
    }

    /// Where it serves REST.
    pub fn address(&self) -> SocketAddr {
        self.address.expect("the node was waited for until it served")
    }

    /// One request, on a connection of its own.
    pub async fn get(&self, path: &str) -> Answer {
        let mut connection = Connection::open(self.address()).await.unwrap();
        timeout(PATIENCE, connection.get(path)).await.unwrap().unwrap()
    }

    /// One request whose answer is a success, as JSON.
    pub async fn get_json(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        serde_json::from_str(&answer.body).unwrap()
    }

    /// The number of its worker.
    pub async fn worker(&self) -> u64 {
        self.get_json("/api/v1/health").await["worker_id"].as_u64().unwrap()
    }

    /// A counter without labels.
    pub async fn counter(&self, name: &str) -> u64 {
        self.metric(name).await.parse().unwrap()
    }

    /// The value of a metric, which is named with its labels.
    pub async fn metric(&self, name: &str) -> String {
        let metrics = self.get("/metrics").await.body;
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in {metrics}")).to_owned()
    }

    /// Waits until a counter has come to a value.
    pub async fn counted(&self, name: &str, value: u64) {
        until(|| async { self.counter(name).await >= value }, name).await;
    }

    /// The process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Stops it in whatever it is doing (SIGSTOP), and sees that it has stopped.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        let (_, status) = waitpid(Some(self.pid()), WaitOptions::UNTRACED).unwrap().unwrap();
        assert!(status.stopped(), "{status:?}");
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Stops it (SIGTERM), and waits until it has.
    pub async fn stop(mut self) {
        self.signal(Signal::TERM);
        assert_eq!(self.ended(STOP).await, Some(0));
    }

    /// Kills it (SIGKILL), and waits until it is gone.
    pub fn kill(mut self) {
        self.end();
    }

    /// Waits until it ends by itself, and gives its exit code (`None`: a signal ended it).
    pub async fn ended(&mut self, within: Duration) -> Option<i32> {
        let closed = async { while self.log.changed().await.is_ok() {} };
        assert!(timeout(within, closed).await.is_ok(), "the node did not end within {within:?}");
        self.child.wait().unwrap().code()
    }

    fn end(&mut self) {
        // Either fails only where the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            let lines = self.log.borrow();
            let shown = lines.len().saturating_sub(LINES_SHOWN_MAX);
            eprintln!(
                "--- process {}, its log's last lines:\n{}",
                self.child.id(),
                lines[shown..].join("\n")
            );
        }
    }
}

/// Waits until something holds.
pub async fn until<F: Future<Output = bool>>(mut holds: impl FnMut() -> F, what: &str) {
    let look_again = Duration::from_millis(10);
    let held = timeout(PATIENCE, async {
        while !holds().await {
            tokio::time::sleep(look_again).await;
        }
    });
    assert!(held.await.is_ok(), "{what}: not within {PATIENCE:?}");
}

/// The registry file of a data directory, without its first line, the checksum's.
pub fn registry(data_dir: &Path) -> Value {
    let text = fs::read_to_string(data_dir.join("registry.json")).unwrap();
    serde_json::from_str(text.split_once('\n').unwrap().1).unwrap()
}
