//! One process of a server.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, mpsc};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

/// How much of a log a panic shows.
const LOG_LINES_MAX: usize = 30;

/// A running process, killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
    pub(crate) paused: bool,
}

impl Process {
    /// Starts `program`, configured by what `configure` says, which writes what it has to say to the file `log`.
    ///
    /// The program sees none of the environment: variables meant for other servers (`ETCD_NAME`,
    /// `JAVA_TOOL_OPTIONS`) would change what is tested.
    pub(crate) fn start(program: &Path, log: PathBuf, configure: impl FnOnce(&mut Command)) -> Self {
        let output = File::create(&log).expect("the log can be created");
        // The kernel kills what was started so when the thread that started it ends, however it ends. The
        // program itself is started by `setpriv`, in its place: to ask for this from here takes `unsafe`.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program).env_clear().stdin(Stdio::null());
        command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.stdout(output.try_clone().expect("the log can be shared")).stderr(output);
        configure(&mut command);
        let child = start_on_lasting_thread(command)
            .unwrap_or_else(|error| panic!("cannot run `setpriv`, which is part of util-linux: {error}"));
        Self { child, log, paused: false }
    }

    /// Whether it ended by itself.
    pub(crate) fn ended(&mut self) -> bool {
        self.child.try_wait().expect("it is a child of this process").is_some()
    }

    /// Stops it where it stands.
    pub(crate) fn pause(&mut self) {
        self.signal(Signal::STOP);
        self.paused = true;
    }

    /// Lets it go on.
    pub(crate) fn resume(&mut self) {
        self.signal(Signal::CONT);
        self.paused = false;
    }

    fn signal(&self, signal: Signal) {
        let id = Pid::from_child(&self.child);
        kill_process(id, signal).unwrap_or_else(|error| panic!("cannot signal process {id:?}: {error}"));
    }

    /// Whether it logged that somebody else listens where it was to: at its end, or before all that Ceph says then.
    pub(crate) fn port_taken(&self) -> bool {
        self.whole_log().contains("ddress already in use")
    }

    /// The last of what it logged.
    pub(crate) fn log(&self) -> String {
        let log = self.whole_log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_MAX)..].join("\n")
    }

    fn whole_log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Process {
    /// Kills it and waits until it is gone, and its ports and files with it.
    fn drop(&mut self) {
        // An error says that it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// Starts a process on a thread that lasts as long as this process.
///
/// "The parent died" means to the kernel that the *thread* has ended that started the child, and the threads
/// of tests and of their runtimes end while their servers are still in use.
fn start_on_lasting_thread(command: Command) -> io::Result<Child> {
    static STARTER: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
        let (orders, received) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, reply) in received {
                // The other side waits for it.
                let _ = reply.send(command.spawn());
            }
        });
        orders
    });
    let (reply, child) = mpsc::channel();
    STARTER.send((command, reply)).expect("the thread never ends");
    child.recv().expect("the thread replies to every order")
}
