//! chrony, as an NTP server that is right, or off by as much as is wanted.
//!
//! Two processes: one that serves this host's time, and one that takes its time from there with an `offset`. Neither
//! touches the host's clock (`-x`), nor needs to be root (`-U`). `maxslewrate` and `corrtimeratio` have the second one
//! make up for the offset at once.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::binary;
use crate::nodes::Nodes;
use crate::ports::{Port, free_ports};

/// The longest a probe waits for an answer, in milliseconds.
const PROBE_MS_MAX: u64 = 500;

const PACKET_BYTES: usize = 48;

/// A running chrony, killed when it is dropped.
pub struct Chrony {
    program: PathBuf,
    truth: Nodes,
    server: Nodes,
    ports: Vec<Port>,
}

impl Chrony {
    /// Starts one that is so far ahead of this host's clock, and waits until it is synchronized.
    pub async fn start(ahead_ms: i64) -> Self {
        let ports = free_ports(Ipv4Addr::LOCALHOST.into(), 2);
        let (truth, server) = (Nodes::new("chrony", 1), Nodes::new("chrony", 1));
        let chrony = Self { program: program(), truth, server, ports };
        chrony.run(&chrony.truth, "local stratum 2\n", &chrony.ports[0]).await;
        chrony.run_ahead(ahead_ms).await;
        chrony
    }

    /// Where it is asked.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.ports[1].address()
    }

    /// Whether it answers, and knows what time it is.
    pub async fn synchronized(&self) -> bool {
        synchronized(self.address()).await
    }

    /// Has it be so far ahead from now on: it is killed, and started anew.
    pub async fn put_ahead(&self, ahead_ms: i64) {
        self.kill();
        self.run_ahead(ahead_ms).await;
    }

    /// Kills it and waits until it is gone.
    pub fn kill(&self) {
        self.server.kill(0);
    }

    /// Starts it after it was killed.
    pub async fn run_ahead(&self, ahead_ms: i64) {
        let (sign, ms) = (if ahead_ms < 0 { "-" } else { "" }, ahead_ms.unsigned_abs());
        let lines = format!(
            "server 127.0.0.1 port {} minpoll -2 maxpoll -2 iburst offset {sign}{}.{:03}\n\
             maxslewrate 100000\ncorrtimeratio 1\n",
            self.ports[0].address().port(),
            ms / 1_000,
            ms % 1_000
        );
        self.run(&self.server, &lines, &self.ports[1]).await;
    }

    async fn run(&self, nodes: &Nodes, lines: &str, port: &Port) {
        let (config, pid) = (nodes.directory().join("chrony.conf"), nodes.directory().join("pid"));
        let listen = port.address();
        let text = format!(
            "{lines}bindaddress {}\nport {}\nallow 127.0.0.1\ncmdport 0\nbindcmdaddress /\npidfile {}\n",
            listen.ip(),
            listen.port(),
            pid.display()
        );
        fs::write(&config, text).expect("a file can be written");
        // One that was killed left it.
        let _ = fs::remove_file(pid);
        nodes.start(0, &self.program, |command| {
            command.args(["-U", "-u", "root", "-x", "-d", "-f"]).arg(config);
        });
        let ready = nodes.ready(async |_| synchronized(listen).await).await;
        // It listens beside whoever else does.
        assert!(ready.is_ok(), "chrony never says that a port is taken");
    }
}

/// Whether a server answers, and knows what time it is.
async fn synchronized(server: SocketAddr) -> bool {
    let ask = async {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        socket.connect(server).await?;
        let (mut question, mut answer) = ([0; PACKET_BYTES], [0; PACKET_BYTES]);
        // Version 4, client.
        question[0] = (4 << 3) | 3;
        socket.send(&question).await?;
        socket.recv(&mut answer).await?;
        // The leap indicator is no alarm, and there is a stratum.
        std::io::Result::Ok(answer[0] >> 6 != 3 && answer[1] != 0)
    };
    timeout(Duration::from_millis(PROBE_MS_MAX), ask).await.is_ok_and(|answer| answer.unwrap_or(false))
}

fn program() -> PathBuf {
    // Not everybody has the administrator's programs on the search path.
    let directories = binary::directories("").into_iter().chain([PathBuf::from("/usr/sbin")]);
    let mut programs = directories.map(|directory| directory.join("chronyd"));
    programs
        .find(|path| path.is_file())
        .expect("there is no chronyd: `cargo xtask test` installs the Debian package chrony")
}
