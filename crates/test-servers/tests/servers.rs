//! Every server starts, answers, survives what the tests do to it, and leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "tests")]

use test_servers::{Etcd, EtcdVersion, ZooKeeper};
use tokio::net::TcpStream;

async fn etcd_single(version: EtcdVersion) {
    let etcd = Etcd::start(version, 1).await;
    assert!(etcd.healthy().await);
    etcd.etcdctl(&["put", "/some/key", "some value"]).await;
    etcd.kill(0);
    etcd.restart(0).await;
    assert_eq!(etcd.etcdctl(&["get", "/some/key", "--print-value-only"]).await, "some value\n");

    let address = etcd.address(0);
    drop(etcd);
    TcpStream::connect(address).await.unwrap_err();
}

#[tokio::test]
async fn etcd_3_4_keeps_what_it_was_told_through_a_kill() {
    etcd_single(EtcdVersion::V3_4).await;
}

#[tokio::test]
async fn etcd_3_5_keeps_what_it_was_told_through_a_kill() {
    etcd_single(EtcdVersion::V3_5).await;
}

async fn etcd_cluster(version: EtcdVersion) {
    let etcd = Etcd::start(version, 3).await;
    let first = etcd.leader().await;
    etcd.kill(first);
    let second = etcd.leader().await;
    assert_ne!(first, second);
    assert!(etcd.healthy().await);

    etcd.pause(second);
    assert!(!etcd.healthy().await, "one node of three is no quorum");
    etcd.restart(first).await;
    etcd.resume(second);
    etcd.leader().await;
    assert!(etcd.healthy().await);
}

#[tokio::test]
async fn etcd_3_4_elects_another_leader_when_one_is_killed_or_paused() {
    etcd_cluster(EtcdVersion::V3_4).await;
}

#[tokio::test]
async fn etcd_3_5_elects_another_leader_when_one_is_killed_or_paused() {
    etcd_cluster(EtcdVersion::V3_5).await;
}

#[tokio::test]
async fn zookeeper_keeps_what_it_was_told_through_a_kill() {
    let zookeeper = ZooKeeper::start(1).await;
    assert_eq!(zookeeper.leader().await, 0);
    zookeeper.cli(&["create", "/some", "some value"]).await;
    zookeeper.kill(0);
    assert!(!zookeeper.healthy().await);
    zookeeper.restart(0).await;
    assert!(zookeeper.cli(&["get", "/some"]).await.ends_with("\nsome value\n"));
}

#[tokio::test]
async fn zookeeper_elects_another_leader_when_one_is_killed_or_paused() {
    let zookeeper = ZooKeeper::start(3).await;
    let first = zookeeper.leader().await;
    zookeeper.kill(first);
    let second = zookeeper.leader().await;
    assert_ne!(first, second);
    zookeeper.pause(second);
    zookeeper.restart(first).await;
    zookeeper.resume(second);
    zookeeper.leader().await;
    assert!(zookeeper.healthy().await);
}
