//! A server under load: started, asked, and watched through `/proc`.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::tools::on_path;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How often processor time is counted anew, at most: connections end together, within milliseconds.
const COUNTS_MAX: u32 = 1000;
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Short beside the 200 ms in which a first ID is wanted.
const POLL: Duration = Duration::from_millis(1);

/// A process that listens at an address, and is stopped when it is dropped.
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
    /// From its start until `path` was first answered with 200.
    pub(crate) first_answer: Duration,
}

impl Server {
    /// Starts `command`, which is to listen at `address`, and waits until it answers `path` with 200.
    pub(crate) fn start(
        command: &[String],
        environment: &[(&str, &str)],
        address: SocketAddr,
        path: &str,
    ) -> Result<Self> {
        Self::start_until(command, environment, address, |server| server.get(path).is_ok())
    }

    /// The same for a server of another protocol: waits until there is a connection.
    pub(crate) fn start_listener(command: &[String], address: SocketAddr) -> Result<Self> {
        Self::start_until(command, &[], address, |server| {
            TcpStream::connect_timeout(&server.address, ANSWER_TIMEOUT).is_ok()
        })
    }

    /// The same, until it is `ready`.
    pub(crate) fn start_until(
        command: &[String],
        environment: &[(&str, &str)],
        address: SocketAddr,
        ready: impl Fn(&Self) -> bool,
    ) -> Result<Self> {
        let command = [stops_with_us(), command.to_vec()].concat();
        let (program, arguments) = command.split_first().context("a command has a program")?;
        let started = Instant::now();
        let child = Command::new(program)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {}", command.join(" ")))?;
        let mut server = Self { child, address, first_answer: Duration::ZERO };
        loop {
            if ready(&server) {
                server.first_answer = started.elapsed();
                return Ok(server);
            }
            if let Some(status) = server.child.try_wait()? {
                bail!("{} ended before it answered: {status}", command.join(" "));
            }
            if started.elapsed() > START_TIMEOUT {
                bail!("{} did not answer within {} s", command.join(" "), START_TIMEOUT.as_secs());
            }
            #[expect(clippy::disallowed_methods, reason = "there is no runtime here, and no other thread")]
            thread::sleep(POLL);
        }
    }

    /// Its address as the start of a URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its answer to a GET, on a connection of its own. Anything but 200 is an error.
    pub(crate) fn get(&self, path: &str) -> Result<Answer> {
        let mut stream = TcpStream::connect_timeout(&self.address, ANSWER_TIMEOUT)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.address)?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Answer::parse(&text)
    }

    /// The processor time that it and its child processes have used so far, in microseconds; `clock_ticks_hz` is how it
    /// is counted.
    pub(crate) fn processor_us(&self, clock_ticks_hz: u64) -> Result<u64> {
        let id = self.child.id();
        let own = || Stat::read(&format!("/proc/{id}/stat"));
        for _ in 0..COUNTS_MAX {
            let before = own()?;
            let mut ticks = 0;
            for process in fs::read_dir("/proc")? {
                // What is none, or has just ended, has no such file.
                let stat = Stat::read(&format!("{}/stat", process?.path().display())).ok();
                ticks +=
                    stat.filter(|stat| stat.parent == id).map_or(0, |stat| stat.ticks + stat.ended_ticks);
            }
            let after = own()?;
            // A child process that ended meanwhile may have been counted twice, or not at all.
            if after.ended_ticks == before.ended_ticks {
                return Ok((ticks + after.ticks + after.ended_ticks) * 1_000_000 / clock_ticks_hz);
            }
        }
        bail!("its child processes end all the time: their processor time cannot be counted")
    }

    /// The same of the threads that it has now, to the nanosecond rather than the hundredth of a second: what work that
    /// is cheap took of a few seconds is told apart from none.
    pub(crate) fn processor_time(&self) -> Result<Duration> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id()))?;
        let of_thread = |thread: fs::DirEntry| {
            // A thread that has ended meanwhile takes its time along.
            let Ok(text) = fs::read_to_string(thread.path().join("schedstat")) else {
                return Ok(Duration::ZERO);
            };
            let spent_ns = text.split_whitespace().next().context("schedstat begins with nanoseconds")?;
            Ok(Duration::from_nanos(spent_ns.parse()?))
        };
        threads.map(|thread| of_thread(thread?)).sum()
    }

    /// How much of it is in memory, in KiB.
    pub(crate) fn resident_kib(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, and then there is nothing to stop. What has child processes stops them when it
        // is asked to stop; what does not stop soon is killed.
        let _ = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        let asked = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && asked.elapsed() < STOP_TIMEOUT {
            #[expect(clippy::disallowed_methods, reason = "there is no runtime here, and no other thread")]
            thread::sleep(POLL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What makes a server stop when this program ends, however it does.
fn stops_with_us() -> Vec<String> {
    match on_path("setpriv") {
        Some(setpriv) => vec![setpriv.display().to_string(), "--pdeathsig".into(), "INT".into()],
        None => Vec::new(),
    }
}

/// A process's own account of itself.
struct Stat {
    parent: u32,
    /// In user and system mode.
    ticks: u64,
    /// The same of its child processes that have ended.
    ended_ticks: u64,
}

impl Stat {
    fn read(path: &str) -> Result<Self> {
        let stat = fs::read_to_string(path)?;
        // The name before the parenthesis may have spaces; behind it, the 2nd is the parent, and the 12th to the
        // 15th are utime, stime, cutime and cstime.
        let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat has no name")?;
        let fields: Vec<_> = fields.split_whitespace().collect();
        let number = |at: usize| -> Result<u64> {
            Ok(fields.get(at).with_context(|| format!("{path} has too few fields"))?.parse()?)
        };
        let parent = u32::try_from(number(1)?)?;
        Ok(Self { parent, ticks: number(11)? + number(12)?, ended_ticks: number(13)? + number(14)? })
    }
}

/// An address that nothing listened at a moment ago.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// An answer of 200.
pub(crate) struct Answer {
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    fn parse(text: &str) -> Result<Self> {
        let (head, body) = text.split_once("\r\n\r\n").context("the answer has no end of headers")?;
        let mut lines = head.lines();
        let status = lines.next().unwrap_or_default();
        ensure!(status.starts_with("HTTP/1.1 200"), "the answer is {status}: {body}");
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        Ok(Self { headers, body: body.to_owned() })
    }
}
