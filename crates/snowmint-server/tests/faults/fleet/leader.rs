//! The registry's leader dies, over and over, and no request notices.

use std::time::{Duration, Instant};

use super::probe::Probe;
use super::{Fleet, Kind, Loaded, eventually, figure, percentile, size};
use crate::checker::Checker;
use crate::load::Journal;
use crate::process::PATIENCE;

const NODES: usize = 4;

/// How long a registry that has lost its leader may take until nodes extend their windows again.
const NEW_LEADER: Duration = Duration::from_mins(1);

/// The longest window of a node, at the defaults.
const WINDOW_MS: u64 = 10_000;

/// A node of which more of its window than this is left has just extended it.
const EXTENDED_MS: u64 = 9_000;

/// One of which less than this is left is about to: it does so when a third is used up.
const DUE_MS: u64 = 6_800;

/// At the default window the time without a leader costs no request.
#[tokio::test(flavor = "multi_thread")]
async fn kills_of_the_leader_of_etcd() {
    kills_of_the_leader(Kind::Etcd).await;
}

/// The same on ZooKeeper.
#[tokio::test(flavor = "multi_thread")]
async fn kills_of_the_leader_of_zookeeper() {
    kills_of_the_leader(Kind::ZooKeeper).await;
}

async fn kills_of_the_leader(kind: Kind) {
    let fleet = Fleet::start(kind, 3).await;
    let (mut nodes, mut probes) = (Vec::new(), Vec::new());
    for nth in 0..NODES {
        let name = format!("node-{nth}");
        let node = Loaded::start(fleet.serve(&name), &name, 1).await;
        probes.push(Probe::on(node.node().address()));
        nodes.push(node);
    }
    let (kills, mut interrupted) = (size(2, 20), Vec::new());
    for kill in 0..kills {
        let leader = fleet.servers.leader().await;
        // Some node is to want an extension while there is no leader.
        let (probe, now) = (&probes[kill % NODES], Instant::now());
        let due = async || probe.since(now).is_some_and(|sample| sample.window_left_ms < DUE_MS);
        eventually(PATIENCE, "an extension is due", due).await;
        fleet.servers.kill(leader);
        let killed = Instant::now();
        eventually(NEW_LEADER, "another leader", async || fleet.servers.healthy().await).await;
        interrupted.push(killed.elapsed());
        let without_leader = Instant::now();
        let extended = |probe: &Probe| {
            probe.since(without_leader).is_some_and(|sample| sample.window_left_ms > EXTENDED_MS)
        };
        for probe in &probes {
            eventually(NEW_LEADER, "its window is extended", async || extended(probe)).await;
        }
        fleet.servers.restart(leader).await;
    }
    let least_ms = probes.iter().flat_map(Probe::samples).map(|sample| sample.window_left_ms).min().unwrap();
    let (mut checker, mut took) = (Checker::default(), Vec::new());
    for node in nodes {
        took.extend(node.load.look(|journal| journal.took.clone()));
        node.load.look(Journal::assert_no_failure);
        assert_eq!(node.finish(&mut checker).await, 0, "requests that failed");
    }
    let (requests, ids) = (took.len(), checker.assert_unique());
    figure(
        "leader",
        format_args!(
            "{kind:?}, {kills} kills, {requests} requests, {ids} IDs, none failed, no duplicate; p99 {:.1?}, slowest \
             {:.0?}; no quorum for {:.1?} at the median, {:.1?} at most; at least {least_ms} of {WINDOW_MS} ms of \
             window were left",
            percentile(took.clone(), 99),
            percentile(took, 100),
            percentile(interrupted.clone(), 50),
            percentile(interrupted, 100),
        ),
    );
}
