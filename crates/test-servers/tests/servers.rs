//! Every server starts, answers, survives what the tests do to it, and leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::env;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use test_servers::{ClickHouse, Etcd, EtcdVersion, Hdfs, RadosGw, ZooKeeper};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

/// The longest that a server may take to end after the process that started it, in milliseconds.
const END_MS_MAX: u64 = 10_000;

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
async fn etcd_speaks_tls_and_asks_for_the_password() {
    let etcd = Etcd::setup(EtcdVersion::V3_5, 3).tls().password("secret").start().await;
    etcd.etcdctl(&["put", "/some/key", "some value"]).await;
    let refused = etcd.try_etcdctl(&["--user=root:guessed", "get", "/some/key"]).await.unwrap_err();
    assert!(refused.contains("authentication failed"), "{refused}");

    let leader = etcd.leader().await;
    etcd.kill(leader);
    etcd.restart(leader).await;
    assert!(etcd.healthy().await);

    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-connect", &etcd.endpoints()[0], "-verify_return_error", "-CAfile"]);
    openssl.arg(etcd.authority().unwrap()).stdin(Stdio::null()).kill_on_drop(true);
    assert!(openssl.output().await.unwrap().status.success(), "the certificate is not trusted");
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

#[tokio::test]
#[should_panic(expected = "node 0 of etcd found its port taken")]
async fn etcd_says_that_its_port_is_taken() {
    let etcd = Etcd::start(EtcdVersion::V3_5, 1).await;
    etcd.kill(0);
    let _other = TcpListener::bind(etcd.address(0)).await.unwrap();
    etcd.restart(0).await;
}

#[tokio::test]
#[should_panic(expected = "node 0 of ZooKeeper found its port taken")]
async fn zookeeper_says_that_its_port_is_taken() {
    let zookeeper = ZooKeeper::start(1).await;
    zookeeper.kill(0);
    let _other = TcpListener::bind(zookeeper.address(0)).await.unwrap();
    zookeeper.restart(0).await;
}

#[tokio::test]
async fn clickhouse_keeps_what_it_was_told_through_a_kill() {
    let clickhouse = ClickHouse::start().await;
    clickhouse.query("CREATE DATABASE kept").await;
    clickhouse.query("CREATE TABLE kept.numbers (n UInt8) ENGINE = MergeTree ORDER BY n").await;
    clickhouse.query("INSERT INTO kept.numbers SETTINGS async_insert = 0 VALUES (1), (2)").await;
    clickhouse.kill();
    clickhouse.try_query("SELECT 1").await.unwrap_err();
    clickhouse.restart().await;
    assert_eq!(clickhouse.query("SELECT sum(n) FROM kept.numbers").await, "3\n");
    clickhouse.pause();
    clickhouse.resume();
    assert_eq!(clickhouse.query("SELECT count() FROM kept.numbers").await, "2\n");
}

/// The test's process starts another one of itself, which starts servers, and is killed.
#[tokio::test]
async fn servers_end_with_a_test_process_that_is_killed() {
    const NAME: &str = "servers_end_with_a_test_process_that_is_killed";
    if env::var_os(NAME).is_some() {
        return serve_forever().await;
    }
    // What the other one leaves behind is removed with this.
    let directory = tempfile::tempdir().unwrap();
    let mut process = Command::new(env::current_exe().unwrap())
        .args([NAME, "--exact", "--nocapture"])
        .env(NAME, "")
        .env("TMPDIR", directory.path())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut said = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut servers: Vec<SocketAddr> = Vec::new();
    while servers.len() < 5 {
        let line = said.next_line().await.unwrap().expect("it says where its servers are");
        servers.extend(line.strip_prefix("server ").map(|address| address.parse::<SocketAddr>().unwrap()));
    }
    for server in &servers {
        TcpStream::connect(server).await.unwrap();
    }
    process.kill().await.unwrap();
    for server in servers {
        let ended = async {
            while TcpStream::connect(server).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_millis(END_MS_MAX), ended).await.expect("the server ends");
    }
}

#[allow(clippy::print_stdout, reason = "the other process reads it")]
async fn serve_forever() {
    let (etcd, zookeeper, clickhouse, hdfs, radosgw) = tokio::join!(
        Etcd::start(EtcdVersion::V3_5, 1),
        ZooKeeper::start(1),
        ClickHouse::start(),
        Hdfs::start(),
        RadosGw::start()
    );
    let urls = [clickhouse.url(), hdfs.url(), radosgw.endpoint()];
    let authorities = urls.map(|url| url.split_once("://").unwrap().1.to_owned());
    println!();
    for server in [etcd.address(0).to_string(), zookeeper.address(0).to_string()].iter().chain(&authorities) {
        println!("server {server}");
    }
    std::future::pending::<()>().await;
}
