//! Network partitions between a node and its registry, in real networks.
//!
//! Each test runs itself again in namespaces of its own: whatever is done to the network there is gone with
//! its process, and meets nothing of the machine's. In them, each node has a network of its own, joined to
//! that of the registry and the clients by a bridge. A node is cut off by its own firewall, and only from the
//! registry: its clients still reach it.

use std::env;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::look::{assert_handed_over, assert_typed, worker_of};
use super::{Fleet, Kind, figure, size};
use crate::checker::Checker;
use crate::load::Load;
use crate::process::{BINARY, Node, Serve, until};

/// Set where a test runs in namespaces of its own.
const INSIDE: &str = "SNOWMINT_TEST_NAMESPACES";

/// Where the registry and the clients are.
const BRIDGE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));

/// The window of the nodes, in milliseconds.
const WINDOW_MS: u64 = 3_000;

/// How long a worker looks alive without a sign of life, in seconds.
const TTL_S: u64 = 2;

/// Clients of the node that is cut off.
const CLIENTS: u32 = 2;

/// What does not pass any more between a node and its registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Requests,
    Replies,
    Both,
}

/// Nothing passes between the node and its registry.
#[tokio::test(flavor = "multi_thread")]
async fn two_way_partition_on_etcd() {
    if inside("two_way_partition_on_etcd").await {
        taken_over(Kind::Etcd, Cut::Both).await;
    }
}

/// The same on ZooKeeper.
#[tokio::test(flavor = "multi_thread")]
async fn two_way_partition_on_zookeeper() {
    if inside("two_way_partition_on_zookeeper").await {
        taken_over(Kind::ZooKeeper, Cut::Both).await;
    }
}

/// What the node says does not reach its registry.
#[tokio::test(flavor = "multi_thread")]
async fn one_way_partition_of_requests_on_etcd() {
    if inside("one_way_partition_of_requests_on_etcd").await {
        taken_over(Kind::Etcd, Cut::Requests).await;
    }
}

/// The same on ZooKeeper.
#[tokio::test(flavor = "multi_thread")]
async fn one_way_partition_of_requests_on_zookeeper() {
    if inside("one_way_partition_of_requests_on_zookeeper").await {
        taken_over(Kind::ZooKeeper, Cut::Requests).await;
    }
}

/// What the registry replies does not reach the node: an extension takes effect, and the node is not told.
#[tokio::test(flavor = "multi_thread")]
async fn one_way_partition_of_replies_on_etcd() {
    if inside("one_way_partition_of_replies_on_etcd").await {
        taken_over(Kind::Etcd, Cut::Replies).await;
    }
}

/// The same on ZooKeeper.
#[tokio::test(flavor = "multi_thread")]
async fn one_way_partition_of_replies_on_zookeeper() {
    if inside("one_way_partition_of_replies_on_zookeeper").await {
        taken_over(Kind::ZooKeeper, Cut::Replies).await;
    }
}

/// The node's slot is nobody else's wish: when the partition heals the node goes on with it.
#[tokio::test(flavor = "multi_thread")]
async fn partition_that_heals_before_anybody_takes_the_slot_on_etcd() {
    if inside("partition_that_heals_before_anybody_takes_the_slot_on_etcd").await {
        resumed(Kind::Etcd).await;
    }
}

/// The same on ZooKeeper.
#[tokio::test(flavor = "multi_thread")]
async fn partition_that_heals_before_anybody_takes_the_slot_on_zookeeper() {
    if inside("partition_that_heals_before_anybody_takes_the_slot_on_zookeeper").await {
        resumed(Kind::ZooKeeper).await;
    }
}

/// Invariants 1, 3, 8, 10: a node that is cut off serves to its ceiling and then refuses. Another takes its slot
/// over, and mints above that ceiling. When the partition heals, the node finds the slot lost and takes another.
async fn taken_over(kind: Kind, cut: Cut) {
    let fleet = Fleet::start_on(BRIDGE, kind, 1).await;
    let mut checker = Checker::default();
    let (mut takes, mut heals) = (Vec::new(), Vec::new());
    for round in 0..size(1, 5) {
        let (lone, heir) = (Network::new(2 * round + 2), Network::new(2 * round + 3));
        let mut node = serve(&fleet, &lone).start().await;
        let load = Load::on(node.address(), CLIENTS);
        load.receive(200).await;
        let worker = node.worker().await;
        let mut other = serve(&fleet, &heir).set("worker", &worker.to_string()).spawn();
        other.serving_without_slot().await;
        let refusal = other.get("/api/v1/id").await.body;
        assert!(refusal.contains("WORKER_UNAVAILABLE") && refusal.contains("is held by"), "{refusal}");

        lone.cut(cut, fleet.servers.address(0));
        let cut_at = Instant::now();
        other.serving().await;
        takes.push(cut_at.elapsed());
        let other_load = Load::on(other.address(), 1);
        other_load.receive(100).await;
        refuses(&node).await;

        lone.heal();
        let healed_at = Instant::now();
        node.logged("worker slot lost: the slot was taken over").await;
        load.receive(200).await;
        heals.push(healed_at.elapsed());
        assert_ne!(node.worker().await, worker);

        let (lost_by, taken_by) = (load.finish().await, other_load.finish().await);
        assert_typed(&lost_by.failures);
        lost_by.assert_increasing();
        assert_handed_over(worker, &lost_by, &taken_by);
        checker.add("cut off", &lost_by);
        checker.add("heir", &taken_by);
        other.stop().await;
        node.stop().await;
    }
    let (took, healed) = (takes.iter().max().unwrap(), heals.iter().max().unwrap());
    let ids = checker.assert_unique();
    figure(
        &format!("partition, {cut:?} lost"),
        format_args!(
            "{kind:?}, {} times, {ids} IDs, no duplicate; taken over within {took:.1?} (window {WINDOW_MS} ms, ttl \
             {TTL_S} s); 200 IDs of another slot within {healed:.1?} of healing",
            takes.len()
        ),
    );
}

/// Invariants 1, 8, 9: the node resumes its own slot, and what it refused meanwhile was refused by type.
async fn resumed(kind: Kind) {
    let fleet = Fleet::start_on(BRIDGE, kind, 1).await;
    let network = Network::new(2);
    let mut checker = Checker::default();
    let node = serve(&fleet, &network).start().await;
    let load = Load::on(node.address(), CLIENTS);
    load.receive(200).await;
    let worker = node.worker().await;
    let mut slowest = Duration::ZERO;
    let cuts = [Cut::Both, Cut::Replies, Cut::Requests];
    for cut in cuts.into_iter().cycle().take(size(2, 12)) {
        network.cut(cut, fleet.servers.address(0));
        refuses(&node).await;
        network.heal();
        let healed_at = Instant::now();
        load.receive(200).await;
        slowest = slowest.max(healed_at.elapsed());
        has_a_window(&node).await;
    }
    assert_eq!(node.worker().await, worker);
    assert!(!node.has_logged("worker slot lost"), "nobody else wanted it");
    let journal = load.finish().await;
    let refusal = assert_typed(&journal.failures);
    journal.assert_increasing();
    assert!(journal.receipts.iter().all(|receipt| worker_of(receipt) == worker));
    checker.add("node", &journal);
    let ids = checker.assert_unique();
    figure(
        "partition, nobody takes the slot",
        format_args!(
            "{kind:?}, {} times, {ids} IDs, no duplicate; {} refusals, the slowest after {refusal:.1?}; 200 IDs \
             within {slowest:.1?} of healing",
            size(2, 12),
            journal.failures.len()
        ),
    );
}

/// Waits until a node is past its ceiling, and says so.
async fn refuses(node: &Node) {
    let refuses = || async {
        let (ready, id) = (node.get("/readyz").await, node.get("/api/v1/id").await);
        ready.status == 503 && id.status == 503 && id.body.contains("WORKER_UNAVAILABLE")
    };
    until(refuses, "the node refuses").await;
}

/// Waits until most of a node's window is ahead of it.
async fn has_a_window(node: &Node) {
    let has = || async {
        let health: Value = serde_json::from_str(&node.get("/api/v1/health").await.body).unwrap();
        health["window_left_ms"].as_u64().unwrap() > WINDOW_MS / 2
    };
    until(has, "the node has a window").await;
}

/// A node in a network of its own.
fn serve(fleet: &Fleet, network: &Network) -> Serve {
    let mut command = network.enter();
    command.arg(BINARY);
    Serve::with(command, &fleet.data_dir(&network.name))
        .set("node_name", &network.name)
        .set("registry", &fleet.servers.url())
        .set("http.listen", &format!("{}:0", network.ip))
        .set("insecure", "true")
        .set("lease.window_ms", &WINDOW_MS.to_string())
        .set("lease.ttl_s", &TTL_S.to_string())
}

/// The network of one node, with an address that the bridge reaches.
struct Network {
    name: String,
    ip: IpAddr,
}

impl Network {
    fn new(host: u8) -> Self {
        let name = format!("node-{host}");
        let ip = Ipv4Addr::new(10, 77, 0, host);
        run("ip", &format!("netns add {name}"));
        run("ip", &format!("link add to-{host} type veth peer name eth0 netns {name}"));
        run("ip", &format!("link set to-{host} master bridge up"));
        run("ip", &format!("-n {name} link set lo up"));
        run("ip", &format!("-n {name} address add {ip}/24 dev eth0"));
        run("ip", &format!("-n {name} link set eth0 up"));
        Self { name, ip: ip.into() }
    }

    /// Runs what follows in it, in the place of this command.
    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name));
        command
    }

    /// Keeps from now on what belongs to `cut` from passing, of connections that stand as of new ones.
    fn cut(&self, cut: Cut, registry: SocketAddr) {
        let (ip, port) = (registry.ip(), registry.port());
        if cut != Cut::Replies {
            self.firewall(&format!(
                "--append OUTPUT --protocol tcp --destination {ip} --dport {port} --jump DROP"
            ));
        }
        if cut != Cut::Requests {
            self.firewall(&format!("--append INPUT --protocol tcp --source {ip} --sport {port} --jump DROP"));
        }
    }

    fn heal(&self) {
        self.firewall("--flush");
    }

    fn firewall(&self, arguments: &str) {
        succeed(self.enter().arg("iptables").args(arguments.split(' ')));
    }
}

/// Whether this runs in namespaces of its own. Where not, the test of that name was run again in some, and has
/// passed.
async fn inside(test: &'static str) -> bool {
    if env::var_os(INSIDE).is_some() {
        run("ip", "link set lo up");
        // Where `ip` keeps its namespaces. What the machine has there is not seen from here.
        run("mount", "-t tmpfs tmpfs /run");
        run("ip", "link add bridge type bridge");
        run("ip", &format!("address add {BRIDGE}/24 dev bridge"));
        run("ip", "link set bridge up");
        return true;
    }
    tokio::task::spawn_blocking(move || run_inside(test)).await.unwrap();
    false
}

/// Runs a test of this module again. All its processes end with it, and it ends with this one.
fn run_inside(test: &str) {
    let module = module_path!().split_once("::").expect("the crate's name comes first").1;
    let output = unshare()
        .arg(env::current_exe().unwrap())
        .args([&format!("{module}::{test}"), "--exact", "--nocapture"])
        .env(INSIDE, "")
        .output()
        .unwrap_or_else(|error| panic!("cannot run `unshare`, which is part of util-linux: {error}"));
    // As if this process had said it, so that it is shown when that would be.
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// A command that runs another one in new namespaces: of users, where it takes that to be allowed the others.
fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child"]);
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let mut trial = Command::new("unshare");
    trial.args(command.get_args()).arg("true");
    let trial = trial.output().unwrap_or_else(|error| panic!("cannot run `unshare`: {error}"));
    assert!(
        trial.status.success(),
        "this machine allows its user no namespaces ({}): run this test as root, or allow them, as in `sysctl \
         kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000 kernel.apparmor_restrict_unprivileged_userns=0`",
        String::from_utf8_lossy(&trial.stderr).trim()
    );
    command
}

fn run(program: &str, arguments: &str) {
    succeed(Command::new(program).args(arguments.split(' ')));
}

fn succeed(command: &mut Command) {
    let output = command.output();
    let output = output.unwrap_or_else(|error| {
        panic!("cannot run {command:?} ({error}): `cargo xtask test` installs what is needed")
    });
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
