//! ZooKeeper.
//!
//! What does not explain itself in how it is started:
//!
//! * `tickTime` is 200 ms, a tenth of the usual, because a session is found to have expired at a tick, and a
//!   dead leader after `syncLimit` ticks. `initLimit` and `syncLimit` are larger for it: 10 s and 3 s.
//! * `minSessionTimeout`, `maxSessionTimeout`: otherwise sessions from 2 to 20 ticks could be had.
//! * `maxClientCnxns=0`: otherwise an address may have 60 connections, and here every client has the same.
//! * `preAllocSize` (kB): otherwise the log of a node begins with 64 MB of zeros.
//! * `4lw.commands.whitelist`: `srvr` is how a node tells whether it leads.
//! * `zookeeper.admin.enableServer=false`: the admin server would want port 8080.
//! * `UseSerialGC`, `TieredStopAtLevel=1`: a small Java machine, which starts sooner.
//! * `-UsePerfData`: its file in the directory for temporary files would stay there after a kill.
//!
//! All else is left as it is, durability above all.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;

use crate::binary::run;
use crate::certificates::Certificates;
use crate::nodes::{Nodes, PortTaken, START_ATTEMPTS_MAX};
use crate::ports::{Port, free_ports};
use crate::process::Process;

/// The shortest and the longest session, in milliseconds.
const SESSION_MS: [u32; 2] = [1_000, 60_000];

/// The jar of Debian's package `libzookeeper-java`. It names the others that it needs.
const JAR: &str = "/usr/share/java/zookeeper.jar";

/// Makes the server log to its error output.
const LOGGING: &str = "/usr/share/java/slf4j-simple.jar";

/// A part of what serves TLS, which the jar of ZooKeeper does not name.
const NETTY: &str = "/usr/share/java/netty-codec.jar";

/// Makes the client log nowhere.
const NO_LOGGING: &str = "/usr/share/java/slf4j-nop.jar";

/// The file with the server's key and certificate.
const KEY_STORE: &str = "server-store.pem";

/// What makes a small Java machine.
const JAVA_FLAGS: [&str; 4] = ["-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"];

/// The longest a probe waits for a node's answer, in milliseconds.
const PROBE_MS_MAX: u64 = 2_000;

/// A running ZooKeeper, killed when it is dropped.
pub struct ZooKeeper {
    nodes: Nodes,
    client_ports: Vec<Port>,
    /// Two a node: what the leader listens on, and what it is elected through.
    peer_ports: Vec<Port>,
    secure: Option<Secure>,
}

/// Where a single node listens to clients that talk TLS, and what they have to trust.
struct Secure {
    port: Port,
    certificates: Certificates,
}

impl ZooKeeper {
    /// Starts one node or three, and waits until they answer.
    pub async fn start(nodes: usize) -> Self {
        Self::start_as(Ipv4Addr::LOCALHOST.into(), nodes, false).await
    }

    /// Starts one node that talks TLS, too, and waits until it answers.
    pub async fn start_with_tls() -> Self {
        Self::start_as(Ipv4Addr::LOCALHOST.into(), 1, true).await
    }

    /// Like [`start`](Self::start), on another address of this host than loopback's.
    pub async fn start_on(ip: IpAddr, nodes: usize) -> Self {
        Self::start_as(ip, nodes, false).await
    }

    async fn start_as(ip: IpAddr, nodes: usize, tls: bool) -> Self {
        for jar in [JAR, LOGGING, NO_LOGGING, NETTY] {
            assert!(Path::new(jar).exists(), "there is no {jar}: `cargo xtask test` installs it");
        }
        for _ in 0..START_ATTEMPTS_MAX {
            let zookeeper = Self::new(ip, nodes, tls).await;
            for node in 0..nodes {
                zookeeper.start_node(node);
            }
            if zookeeper.ready().await.is_ok() {
                return zookeeper;
            }
        }
        panic!("ZooKeeper found one of its ports taken, {START_ATTEMPTS_MAX} times over");
    }

    async fn new(ip: IpAddr, count: usize, tls: bool) -> Self {
        let nodes = Nodes::new("ZooKeeper", count);
        let mut client_ports = free_ports(ip, 3 * count);
        let peer_ports = client_ports.split_off(count);
        let secure = if tls { Some(Secure::new(nodes.directory()).await) } else { None };
        let zookeeper = Self { nodes, client_ports, peer_ports, secure };
        for node in 0..count {
            let data = zookeeper.nodes.data(node);
            fs::create_dir(&data).unwrap();
            fs::write(data.join("myid"), node.to_string()).unwrap();
            fs::write(data.join("zoo.cfg"), zookeeper.configuration(node)).unwrap();
        }
        zookeeper
    }

    /// The content of a node's `zoo.cfg`.
    fn configuration(&self, node: usize) -> String {
        let [shortest_ms, longest_ms] = SESSION_MS;
        let mut text = format!(
            "dataDir={}\nclientPort={}\nclientPortAddress={}\n\
             tickTime=200\ninitLimit=50\nsyncLimit=15\n\
             minSessionTimeout={shortest_ms}\nmaxSessionTimeout={longest_ms}\n\
             maxClientCnxns=0\npreAllocSize=1024\n4lw.commands.whitelist=*\n",
            self.nodes.data(node).display(),
            self.address(node).port(),
            self.address(node).ip(),
        );
        // A single node is no cluster, and would warn of being a bad one.
        if self.client_ports.len() > 1 {
            for (node, ports) in self.peer_ports.chunks(2).enumerate() {
                let [leader, election] = [&ports[0], &ports[1]].map(Port::address);
                let _ = writeln!(text, "server.{node}={leader}:{}", election.port());
            }
        }
        if let Some(secure) = &self.secure {
            text += &secure.configuration(self.nodes.directory());
        }
        text
    }

    /// Where a node started with TLS listens to clients that talk it.
    #[must_use]
    pub fn secure_address(&self) -> Option<SocketAddr> {
        self.secure.as_ref().map(|secure| secure.port.address())
    }

    /// The certificate that such clients have to trust.
    #[must_use]
    pub fn authority(&self) -> Option<&Path> {
        self.secure.as_ref().map(|secure| secure.certificates.authority.as_path())
    }

    /// Where a node listens to clients.
    #[must_use]
    pub fn address(&self, node: usize) -> SocketAddr {
        self.client_ports[node].address()
    }

    /// Where the nodes listen to clients, as `host:port`.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.client_ports.len()).map(|node| self.address(node).to_string()).collect()
    }

    /// All of it as one URL, `zookeeper://host:port,host:port,host:port`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("zookeeper://{}", self.endpoints().join(","))
    }

    /// The node that is the leader, once there is one; a single node is its own.
    pub async fn leader(&self) -> usize {
        self.nodes.until("leader", || self.find_leader()).await
    }

    /// Whether a session can be had, which a quorum has to agree to, from one of the running nodes.
    pub async fn healthy(&self) -> bool {
        for node in self.nodes.running() {
            if self.answers(node).await {
                return true;
            }
        }
        false
    }

    /// The number of the last change that a running node knows of, counted within the leader's epoch.
    pub async fn last_change(&self, node: usize) -> u64 {
        let status = timeout(Duration::from_millis(PROBE_MS_MAX), status(self.address(node))).await;
        let status = status.expect("a running node answers").expect("a running node answers");
        last_change(&status).expect("its status has it") & u64::from(u32::MAX)
    }

    /// Kills a node and waits until it is gone.
    pub fn kill(&self, node: usize) {
        self.nodes.kill(node);
    }

    /// Starts a node that was killed, on its old data and ports, and waits until it answers, unless too few
    /// nodes run for any to answer.
    pub async fn restart(&self, node: usize) {
        let answers = async |node| self.answers(node).await;
        self.nodes.restart(node, |node| self.start_node(node), answers).await;
    }

    /// Stops a node where it stands.
    pub fn pause(&self, node: usize) {
        self.nodes.with(node, Process::pause);
    }

    /// Lets a paused node go on.
    pub fn resume(&self, node: usize) {
        self.nodes.with(node, Process::resume);
    }

    /// What ZooKeeper's own client says, run against the nodes that run with a command such as
    /// `["get", "/path"]`. It begins with what the client says about its connection.
    pub async fn cli(&self, arguments: &[&str]) -> String {
        let running: Vec<_> =
            self.nodes.running().iter().map(|node| self.address(*node).to_string()).collect();
        assert!(!running.is_empty(), "no node of ZooKeeper is running");
        let mut client = Command::new("java");
        client.env_remove("JAVA_TOOL_OPTIONS").args(JAVA_FLAGS).arg("-cp").arg(format!("{JAR}:{NO_LOGGING}"));
        client.args(["org.apache.zookeeper.ZooKeeperMain", "-server", &running.join(",")]).args(arguments);
        run(client).await.unwrap_or_else(|error| panic!("zkCli {}: {error}", arguments.join(" ")))
    }

    fn start_node(&self, node: usize) {
        self.nodes.start(node, Path::new("java"), |java| {
            java.args(JAVA_FLAGS).arg("-Dzookeeper.admin.enableServer=false");
            java.arg("-cp").arg(format!("{JAR}:{LOGGING}:{NETTY}"));
            java.arg("org.apache.zookeeper.server.quorum.QuorumPeerMain");
            java.arg(self.nodes.data(node).join("zoo.cfg"));
        });
    }

    async fn ready(&self) -> Result<(), PortTaken> {
        self.nodes.ready(async |node| self.answers(node).await).await
    }

    async fn answers(&self, node: usize) -> bool {
        let opened = timeout(Duration::from_millis(PROBE_MS_MAX), open_session(self.address(node))).await;
        matches!(opened, Ok(Ok(())))
    }

    async fn find_leader(&self) -> Option<usize> {
        // Of two, one has just been resumed and still believes to be the leader, of an earlier epoch.
        let mut newest = None;
        for node in self.nodes.running() {
            let status = timeout(Duration::from_millis(PROBE_MS_MAX), status(self.address(node))).await;
            newest = newest.max(
                status.ok().and_then(Result::ok).and_then(|status| leads(&status)).map(|epoch| (epoch, node)),
            );
        }
        newest.map(|(_, node)| node)
    }
}

/// The epoch in which a node leads that has this status, if it does. A single node leads, too.
fn leads(status: &str) -> Option<u64> {
    let mode = status.lines().find_map(|line| line.strip_prefix("Mode: "))?;
    let last_change = last_change(status)?;
    matches!(mode, "leader" | "standalone").then_some(last_change >> 32)
}

/// The number of the last change, below that of the leader's epoch.
fn last_change(status: &str) -> Option<u64> {
    let hex = status.lines().find_map(|line| line.strip_prefix("Zxid: 0x"))?;
    u64::from_str_radix(hex, 16).ok()
}

impl Secure {
    /// Makes the certificates in `directory`.
    async fn new(directory: &Path) -> Self {
        let certificates = Certificates::make(directory).await;
        let [key, certificate] =
            [&certificates.key, &certificates.certificate].map(|file| fs::read_to_string(file).unwrap());
        fs::write(directory.join(KEY_STORE), key + &certificate).unwrap();
        let port = free_ports(Ipv4Addr::LOCALHOST.into(), 1).pop().expect("one was asked for");
        Self { port, certificates }
    }

    /// What it adds to `zoo.cfg`.
    fn configuration(&self, directory: &Path) -> String {
        format!(
            "secureClientPort={}\nsecureClientPortAddress=127.0.0.1\n\
             serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\n\
             ssl.keyStore.location={}\nssl.trustStore.location={}\nssl.clientAuth=none\n",
            self.port.address().port(),
            directory.join(KEY_STORE).display(),
            self.certificates.authority.display(),
        )
    }
}

/// Opens a session and closes it: both are changes that a quorum has to agree to.
async fn open_session(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    // A request's length, the protocol's version, the last change seen, the session's time-out, no session
    // to go on with, and its empty password of 16 bytes.
    stream.write_u32(44).await?;
    stream.write_u32(0).await?;
    stream.write_u64(0).await?;
    stream.write_u32(SESSION_MS[0]).await?;
    stream.write_u64(0).await?;
    stream.write_u32(16).await?;
    stream.write_all(&[0; 16]).await?;
    let mut response = vec![0; usize::try_from(stream.read_u32().await?).unwrap().min(64)];
    stream.read_exact(&mut response).await?;
    // A length, a request's number, and the type "close".
    stream.write_u32(8).await?;
    stream.write_u32(1).await?;
    stream.write_i32(-11).await
}

/// The answer to the four letter word `srvr`.
async fn status(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"srvr").await?;
    let mut status = String::new();
    stream.read_to_string(&mut status).await?;
    Ok(status)
}
