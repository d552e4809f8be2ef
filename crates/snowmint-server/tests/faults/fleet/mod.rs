//! Fleets: nodes that share a registry in etcd or ZooKeeper, under everything that can be done to nodes, servers,
//! networks and clocks. Invariant 1 is checked at the end of each: no ID came twice.
//!
//! Each scenario has two sizes. `cargo xtask test` runs the small one; `cargo xtask faults` the whole, and shows
//! the figures.

mod clock;
mod cost;
mod crash;
mod leader;
mod look;
mod partition;
mod pause;
mod probe;
mod quorum;
mod replies;
mod rolling;
mod session;
mod start;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use snowmint::{Id, Layout, Slot};
use tempfile::TempDir;
use test_servers::{Etcd, EtcdVersion, ZooKeeper};
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use crate::checker::Checker;
use crate::load::Load;
use crate::process::{BINARY, Node, Serve};

/// Set by `cargo xtask faults`.
const WHOLE: &str = "SNOWMINT_FAULTS_WHOLE";

/// Answers of which some have many IDs.
const TASTE: usize = 8;

/// How often a registry is asked for its status until it answers.
const STATUS_TRIES_MAX: u32 = 5;

/// How many, or how long: the small size's or the whole's.
pub fn size<T>(small: T, whole: T) -> T {
    if std::env::var_os(WHOLE).is_some() { whole } else { small }
}

/// Waits until something holds that may take longer than most.
pub async fn eventually(within: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let look_again = Duration::from_millis(20);
    let held = timeout(within, async {
        while !holds().await {
            sleep(look_again).await;
        }
    });
    assert!(held.await.is_ok(), "{what}: not within {within:?}");
}

/// The slot of an ID, under the default layout.
pub fn slot_of(id: u64) -> Slot {
    Layout::default().decompose(Id::new(id).unwrap()).slot
}

/// The value below which this share of all lies, in hundredths.
pub fn percentile(mut all: Vec<Duration>, hundredths: usize) -> Duration {
    assert!(!all.is_empty(), "nothing was measured");
    all.sort_unstable();
    all[(all.len() * hundredths / 100).min(all.len() - 1)]
}

/// Prints a figure of a scenario.
pub fn figure(scenario: &str, figure: impl fmt::Display) {
    eprintln!("figure: {scenario}: {figure}");
}

/// Which registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Etcd,
    ZooKeeper,
}

/// The servers of a fleet's registry.
pub enum Servers {
    Etcd(Etcd),
    ZooKeeper(ZooKeeper),
}

impl Servers {
    pub async fn start(kind: Kind, count: usize, ip: IpAddr) -> Self {
        match kind {
            Kind::Etcd => Self::Etcd(Etcd::setup(EtcdVersion::V3_5, count).on(ip).start().await),
            Kind::ZooKeeper => Self::ZooKeeper(ZooKeeper::start_on(ip, count).await),
        }
    }

    /// Where a server listens.
    pub fn address(&self, server: usize) -> SocketAddr {
        match self {
            Self::Etcd(etcd) => etcd.address(server),
            Self::ZooKeeper(zookeeper) => zookeeper.address(server),
        }
    }

    /// What `--registry` takes for something at `address` that leads to a server.
    pub fn url_at(&self, address: SocketAddr) -> String {
        match self {
            Self::Etcd(_) => format!("etcd://{address}"),
            Self::ZooKeeper(_) => format!("zookeeper://{address}"),
        }
    }

    /// What `--registry` takes.
    pub fn url(&self) -> String {
        match self {
            Self::Etcd(etcd) => etcd.url(),
            Self::ZooKeeper(zookeeper) => zookeeper.url(),
        }
    }

    /// A registry without entries, as a URL. The one before is not to be used any more.
    pub async fn empty(&self, round: usize) -> String {
        match self {
            Self::Etcd(etcd) => {
                etcd.etcdctl(&["del", "--prefix", "/id-generator"]).await;
                etcd.url()
            }
            Self::ZooKeeper(zookeeper) => format!("{}/round-{round}", zookeeper.url()),
        }
    }

    /// How many changes it has made, its own bookkeeping of sessions included.
    pub async fn writes(&self) -> u64 {
        match self {
            Self::Etcd(etcd) => {
                let answer = etcd.etcdctl(&["get", "none", "--write-out=json"]).await;
                serde_json::from_str::<Value>(&answer).unwrap()["header"]["revision"].as_u64().unwrap()
            }
            Self::ZooKeeper(zookeeper) => zookeeper.last_change(0).await,
        }
    }

    /// The server that leads.
    pub async fn leader(&self) -> usize {
        match self {
            Self::Etcd(etcd) => etcd.leader().await,
            Self::ZooKeeper(zookeeper) => zookeeper.leader().await,
        }
    }

    /// Whether a request gets an answer that a quorum stands behind.
    pub async fn healthy(&self) -> bool {
        match self {
            Self::Etcd(etcd) => etcd.healthy().await,
            Self::ZooKeeper(zookeeper) => zookeeper.healthy().await,
        }
    }

    /// Kills a server (SIGKILL).
    pub fn kill(&self, server: usize) {
        match self {
            Self::Etcd(etcd) => etcd.kill(server),
            Self::ZooKeeper(zookeeper) => zookeeper.kill(server),
        }
    }

    /// Starts a killed server again, on its data.
    pub async fn restart(&self, server: usize) {
        match self {
            Self::Etcd(etcd) => etcd.restart(server).await,
            Self::ZooKeeper(zookeeper) => zookeeper.restart(server).await,
        }
    }
}

/// A registry's servers, and the data directories of nodes that share it.
pub struct Fleet {
    pub servers: Servers,
    directory: TempDir,
}

impl Fleet {
    pub async fn start(kind: Kind, servers: usize) -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST.into(), kind, servers).await
    }

    /// With its servers on another address of this host than loopback's.
    pub async fn start_on(ip: IpAddr, kind: Kind, servers: usize) -> Self {
        Self { servers: Servers::start(kind, servers, ip).await, directory: TempDir::new().unwrap() }
    }

    /// A node to be started: with a data directory and a name of its own, which it has again when it is
    /// started again.
    pub fn serve(&self, name: &str) -> Serve {
        Serve::new(&self.data_dir(name)).set("node_name", name).set("registry", &self.servers.url())
    }

    /// What the registry has, as `snowmint cluster status` shows it. It is asked again where it is late: many
    /// tests may share the machine.
    pub async fn status(&self) -> Value {
        let mut command = Command::new(BINARY);
        // It would be taken for a key of the configuration.
        command.env_remove(WHOLE).kill_on_drop(true);
        command.args(["cluster", "status", "--json", "--registry", &self.servers.url()]);
        let mut said = String::new();
        for _ in 0..STATUS_TRIES_MAX {
            let output = command.output().await.unwrap();
            if output.status.success() {
                return serde_json::from_slice(&output.stdout).unwrap();
            }
            said = String::from_utf8_lossy(&output.stderr).into_owned();
        }
        panic!("{STATUS_TRIES_MAX} times: {said}");
    }

    pub fn data_dir(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// Receives a few IDs from a node.
pub async fn taste(node: &Node, name: &str, checker: &mut Checker) {
    let load = Load::on(node.address(), 1);
    load.receive(TASTE).await;
    let journal = load.finish().await;
    journal.assert_no_failure();
    checker.add(name, &journal);
}

/// A node that is loaded, through all its lives.
pub struct Loaded {
    pub name: String,
    pub node: Option<Node>,
    pub load: Load,
}

impl Loaded {
    /// Starts a node and `clients` clients of it.
    pub async fn start(serve: Serve, name: &str, clients: u32) -> Self {
        let node = serve.start().await;
        let load = Load::on(node.address(), clients);
        Self { name: name.to_owned(), node: Some(node), load }
    }

    pub fn node(&self) -> &Node {
        self.node.as_ref().expect("it is only taken to be put back")
    }

    /// Kills it, and starts it again.
    pub async fn kill_and_restart(&mut self, serve: Serve) {
        self.load.lower();
        if let Some(node) = self.node.take() {
            node.kill();
        }
        let node = serve.start().await;
        self.load.aim(node.address());
        self.node = Some(node);
    }

    /// Ends its load, and adds what it received to `checker`. Says how many answers were no IDs.
    pub async fn finish(self, checker: &mut Checker) -> usize {
        let journal = self.load.finish().await;
        journal.assert_increasing();
        checker.add(&self.name, &journal);
        journal.failures.len()
    }
}
