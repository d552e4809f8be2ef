//! A rolling restart behind a load balancer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Fleet, Kind, eventually, figure, size, slot_of};
use crate::checker::Checker;
use crate::load::{Connection, Lost, PACE, Receipt, runs};
use crate::process::{Node, PATIENCE, STOP};

const NODES: usize = 8;

const CLIENTS: usize = 2;

/// The pause between two looks of the balancer at a node.
const LOOK: Duration = Duration::from_millis(20);

/// Answers between two restarts.
const ANSWERS: usize = 200;

/// No request fails, and every slot is given back.
#[tokio::test(flavor = "multi_thread")]
async fn rolling_restart_on_etcd() {
    rolling_restart(Kind::Etcd).await;
}

/// The same on ZooKeeper.
#[tokio::test(flavor = "multi_thread")]
async fn rolling_restart_on_zookeeper() {
    rolling_restart(Kind::ZooKeeper).await;
}

async fn rolling_restart(kind: Kind) {
    let fleet = Fleet::start(kind, 1).await;
    let names: Vec<String> = (0..NODES).map(|nth| format!("node-{nth}")).collect();
    let mut nodes = Vec::new();
    for name in &names {
        nodes.push(fleet.serve(name).start().await);
    }
    let balancer = Balancer::start(nodes.iter().map(Node::address).collect()).await;
    balancer.receive(ANSWERS).await;
    let (rounds, mut restarts) = (size(1, 5), 0);
    for nth in (0..rounds).flat_map(|_| 0..NODES) {
        stop(&mut nodes[nth]).await;
        assert_retired(&fleet.status().await, &balancer.highest_ids(nth));
        nodes[nth] = fleet.serve(&names[nth]).start().await;
        balancer.replace(nth, nodes[nth].address()).await;
        restarts += 1;
        balancer.receive(ANSWERS).await;
    }
    let (requests, elsewhere) = balancer.finish().await;
    for node in &mut nodes {
        stop(node).await;
    }
    let status = fleet.status().await;
    let mut checker = Checker::default();
    for (nth, name) in names.iter().enumerate() {
        assert_retired(&status, &balancer.highest_ids(nth));
        checker.add_receipts(name, &balancer.members()[nth].receipts);
    }
    let slots = |of: &str| -> BTreeSet<String> {
        let entries = status[of].as_array().unwrap().iter();
        entries.map(|entry| entry["slot"].as_str().unwrap().to_owned()).collect()
    };
    // More than nodes: whoever comes back before its window is over takes a free slot.
    assert_eq!(slots("windows"), slots("retired_workers"), "every slot that was held is retired");
    let workers =
        status["datacenters"].as_array().unwrap().iter().map(|dc| dc["workers"].as_array().unwrap());
    assert_eq!(workers.map(Vec::len).sum::<usize>(), 0, "workers that still look alive");
    figure(
        "rolling restart",
        format_args!(
            "{kind:?}, {restarts} restarts of {NODES} nodes: {requests} requests, none failed, {elsewhere} went to another \
             node because a connection had been closed; {} IDs, no duplicate; all {} slots retired",
            checker.assert_unique(),
            slots("windows").len()
        ),
    );
}

async fn stop(node: &mut Node) {
    node.signal(Signal::TERM);
    assert_eq!(node.ended(STOP).await, Some(0));
}

/// Each slot of which an ID was received is retired, with a last ID that is not below it.
fn assert_retired(status: &Value, highest: &BTreeMap<String, u64>) {
    for (slot, id) in highest {
        let retired =
            status["retired_workers"].as_array().unwrap().iter().find(|entry| entry["slot"] == **slot);
        let retired = retired.unwrap_or_else(|| panic!("{slot} is not retired: {status:#}"));
        assert!(retired["last_id"].as_u64().unwrap() >= *id, "{retired} is below {id}");
    }
}

/// Clients that go round the nodes which are ready.
struct Balancer {
    members: Arc<Mutex<Vec<Member>>>,
    stop: CancellationToken,
    tasks: Mutex<JoinSet<()>>,
}

/// A node, as the balancer knows it.
struct Member {
    address: SocketAddr,
    /// Which life of it this is.
    life: u32,
    ready: bool,
    receipts: Vec<Receipt>,
    /// Requests that went elsewhere, because a connection had been closed before an answer began.
    closed: usize,
}

impl Balancer {
    /// Looks at the nodes until all are ready, and then starts the clients.
    async fn start(addresses: Vec<SocketAddr>) -> Self {
        let member = |address| Member { address, life: 1, ready: false, receipts: Vec::new(), closed: 0 };
        let members = Arc::new(Mutex::new(addresses.into_iter().map(member).collect::<Vec<_>>()));
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        for nth in 0..NODES {
            tasks.spawn(watch(Arc::clone(&members), nth, stop.clone()));
        }
        let all_ready = async || lock(&members).iter().all(|member| member.ready);
        eventually(PATIENCE, "all nodes are ready", all_ready).await;
        for nth in 0..CLIENTS {
            let client = Client { members: Arc::clone(&members), connections: BTreeMap::new(), nth };
            tasks.spawn(client.run(stop.clone()));
        }
        Self { members, stop, tasks: Mutex::new(tasks) }
    }

    fn members(&self) -> MutexGuard<'_, Vec<Member>> {
        lock(&self.members)
    }

    fn received(&self) -> usize {
        self.members().iter().map(|member| member.receipts.len()).sum()
    }

    /// Waits for so many more answers.
    async fn receive(&self, more: usize) {
        let wanted = self.received() + more;
        eventually(PATIENCE, "answers from behind the balancer", async || self.received() >= wanted).await;
    }

    /// A node has been started again: waits until it is used.
    async fn replace(&self, nth: usize, address: SocketAddr) {
        {
            let member = &mut self.members()[nth];
            (member.address, member.life) = (address, member.life + 1);
        }
        eventually(PATIENCE, "the balancer uses the node again", async || self.members()[nth].ready).await;
    }

    /// The highest ID that was received from a node, of each slot.
    fn highest_ids(&self, nth: usize) -> BTreeMap<String, u64> {
        let mut highest = BTreeMap::new();
        for receipt in &self.members()[nth].receipts {
            let id: &mut u64 = highest.entry(slot_of(receipt.first).to_string()).or_default();
            *id = receipt.last().max(*id);
        }
        highest
    }

    /// Ends it: how many requests were answered, and how many had to go to another node.
    async fn finish(&self) -> (usize, usize) {
        self.stop.cancel();
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
        (self.received(), self.members().iter().map(|member| member.closed).sum())
    }
}

fn lock(members: &Mutex<Vec<Member>>) -> MutexGuard<'_, Vec<Member>> {
    members.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps looking whether a node is ready.
async fn watch(members: Arc<Mutex<Vec<Member>>>, nth: usize, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let (address, life) = {
            let member = &lock(&members)[nth];
            (member.address, member.life)
        };
        let ready = is_ready(address).await;
        {
            let member = &mut lock(&members)[nth];
            member.ready = ready && member.life == life;
        }
        sleep(LOOK).await;
    }
}

async fn is_ready(address: SocketAddr) -> bool {
    let Ok(mut connection) = Connection::open(address).await else { return false };
    matches!(timeout(PATIENCE, connection.get("/readyz")).await, Ok(Ok(answer)) if answer.status == 200)
}

struct Client {
    members: Arc<Mutex<Vec<Member>>>,
    /// By node and its life.
    connections: BTreeMap<(usize, u32), Connection>,
    nth: usize,
}

impl Client {
    async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            self.request().await;
            sleep(PACE).await;
        }
    }

    /// One request, at the first node of the round that takes it.
    async fn request(&mut self) {
        for _ in 0..NODES {
            self.nth = (self.nth + 1) % NODES;
            if self.request_of(self.nth).await {
                return;
            }
        }
        panic!("a request failed: no node took it");
    }

    /// Whether this node took the request. One that it took and did not answer with an ID fails the test.
    async fn request_of(&mut self, nth: usize) -> bool {
        let (address, life) = {
            let member = &lock(&self.members)[nth];
            if !member.ready {
                return false;
            }
            (member.address, member.life)
        };
        let mut connection = match self.connections.remove(&(nth, life)) {
            Some(connection) => connection,
            None => match Connection::open(address).await {
                Ok(connection) => connection,
                Err(_) => return self.closed(nth),
            },
        };
        let asked = Instant::now();
        let answer = match timeout(PATIENCE, connection.get("/api/v1/id")).await.unwrap() {
            Ok(answer) => answer,
            Err(Lost::Closed) => return self.closed(nth),
            Err(Lost::Cut) => panic!("a request failed: its answer was cut"),
        };
        assert_eq!(answer.status, 200, "a request failed: {}", answer.body);
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        let receipt = |(first, count)| Receipt { first, count, life, connection: 0, asked };
        lock(&self.members)[nth].receipts.extend(runs(&body).into_iter().map(receipt));
        if !connection.ended {
            self.connections.insert((nth, life), connection);
        }
        true
    }

    fn closed(&self, nth: usize) -> bool {
        lock(&self.members)[nth].closed += 1;
        false
    }
}
