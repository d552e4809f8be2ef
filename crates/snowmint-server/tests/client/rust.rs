//! `snowmint-client`.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use snowmint::{Id, IdRange, Layout};
use snowmint_client::{BuildError, Builder, Client, Error};
use tempfile::TempDir;
use test_servers::{Etcd, EtcdVersion, Proxy};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::Code;

use crate::process::{Node, PATIENCE, until};
use crate::{assert_unique, grpc, start};

/// How far two readings of clocks may lie apart, in milliseconds: IDs count in them.
const CLOCKS_MS: u64 = 20;

/// The pause of a load after so many IDs, so that it fits beside other tests.
const PAUSE: Duration = Duration::from_millis(1);
const IDS_WITHOUT_PAUSE: u32 = 50;

/// Node by node, their IDs in one directory.
async fn fleet(data: &TempDir, count: usize) -> (Vec<Node>, Vec<String>) {
    let (mut nodes, mut urls) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let mut node = start(data.path()).await;
        urls.push(format!("http://{}", grpc(&mut node).await));
        nodes.push(node);
    }
    (nodes, urls)
}

fn to(urls: &[String]) -> Builder {
    Client::builder().servers(urls)
}

fn all(ranges: &[IdRange]) -> impl Iterator<Item = u64> {
    ranges.iter().flat_map(IdRange::ids).map(Id::get)
}

/// Takes IDs until it is told to stop: single ones, and now and then several. Any error fails the test.
async fn load(client: Client, stop: Arc<AtomicBool>) -> Vec<u64> {
    let mut ids = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..IDS_WITHOUT_PAUSE {
            ids.push(client.next().await.unwrap().get());
        }
        ids.extend(all(&client.next_many(IDS_WITHOUT_PAUSE).await.unwrap()));
        sleep(PAUSE).await;
    }
    ids
}

async fn handed_out(client: &Client, count: u64) {
    until(|| async { client.metrics().handed_out >= count }, "IDs are handed out").await;
}

/// Nodes are stopped in the middle of a lease and then killed, one after another, under load. No call sees an error, and
/// no ID comes twice.
#[tokio::test]
async fn a_server_killed_in_the_middle_of_a_lease() {
    let data = TempDir::new().unwrap();
    let (mut nodes, urls) = fleet(&data, 3).await;
    // So that what is leased does not outlast the kills.
    let client = to(&urls).max_age(Duration::from_millis(200)).attempt_timeout(Duration::from_millis(300));
    let client = client.build().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut loads = JoinSet::new();
    for _ in 0..4 {
        loads.spawn(load(client.clone(), Arc::clone(&stop)));
    }
    while nodes.len() > 1 {
        handed_out(&client, client.metrics().handed_out + 20_000).await;
        let victim = nodes.remove(in_use(&nodes).await);
        victim.pause();
        let failed = client.metrics().failed_requests;
        until(|| async { client.metrics().failed_requests > failed }, "a lease is lost").await;
        victim.kill();
    }
    handed_out(&client, client.metrics().handed_out + 20_000).await;
    stop.store(true, Ordering::Relaxed);
    let ids: Vec<u64> = loads.join_all().await.concat();
    let metrics = client.metrics();
    assert_eq!(metrics.handed_out, u64::try_from(ids.len()).unwrap());
    assert_eq!(metrics.leased, metrics.handed_out + metrics.expired + metrics.left);
    assert_eq!(metrics.failovers, 2, "{metrics:?}");
    assert_unique(ids);
}

/// Which of the nodes gives IDs, of which there is one.
async fn in_use(nodes: &[Node]) -> usize {
    let mut before = Vec::new();
    for node in nodes {
        before.push(generated(node).await);
    }
    let patience = async {
        loop {
            for (at, node) in nodes.iter().enumerate() {
                if generated(node).await > before[at] {
                    return at;
                }
            }
            sleep(PAUSE).await;
        }
    };
    timeout(PATIENCE, patience).await.expect("a node gives IDs")
}

async fn generated(node: &Node) -> u64 {
    node.get_json("/api/v1/health").await["ids_generated"].as_u64().unwrap()
}

/// However calls lie in time: at once, near the bound, after it.
#[tokio::test]
async fn no_id_is_older_than_its_bound() {
    const MAX_AGE_MS: u64 = 100;
    let data = TempDir::new().unwrap();
    let (_nodes, urls) = fleet(&data, 1).await;
    let client = to(&urls).max_age(Duration::from_millis(MAX_AGE_MS)).build().unwrap();
    let layout = Layout::default();
    for pause_ms in [0, 30, 120, 60, 95, 250, 99, 101, 50] {
        client.next().await.unwrap();
        sleep(Duration::from_millis(pause_ms)).await;
        let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let minted_ms = layout.decompose(client.next().await.unwrap()).timestamp_ms;
        let bound_ms = u64::try_from(before.as_millis()).unwrap() - MAX_AGE_MS;
        assert!(minted_ms + CLOCKS_MS >= bound_ms, "it is {} ms too old", bound_ms - minted_ms);
    }
    assert!(client.metrics().expired > 0);
}

/// Calls that are dropped at any moment cost IDs, and repeat none.
#[tokio::test]
async fn cancelled_calls() {
    let data = TempDir::new().unwrap();
    let (_nodes, urls) = fleet(&data, 1).await;
    let client = to(&urls).max_age(Duration::from_millis(50)).lease_ids(1..=500).build().unwrap();
    let mut ids = Vec::new();
    for at in 0..300_u32 {
        let limit = Duration::from_micros(u64::from(at % 30) * 50);
        let (client, other) = (client.clone(), client.clone());
        if let Ok(ranges) = timeout(limit, client.next_many(at * 7 % 400 + 1)).await {
            ids.extend(all(&ranges.unwrap()));
        }
        if let Ok(id) = timeout(limit, other.next()).await {
            ids.push(id.unwrap().get());
        }
    }
    ids.extend(all(&client.next_many(1_000).await.unwrap()));
    assert_unique(ids);
}

/// All or none, however many leases it takes; and never more than a server gives.
#[tokio::test]
async fn many_at_once() {
    let data = TempDir::new().unwrap();
    let (_nodes, urls) = fleet(&data, 1).await;
    let client = to(&urls).build().unwrap();
    let mut ids = Vec::new();
    for count in [1, 10, 5_000, 100_000, 500_000] {
        let ranges = client.next_many(count).await.unwrap();
        assert_eq!(ranges.iter().map(IdRange::count).sum::<u32>(), count);
        ids.extend(all(&ranges));
    }
    assert!(ids.is_sorted());
    assert_unique(ids);
    for count in [0, 1_000_001] {
        assert!(matches!(client.next_many(count).await, Err(Error::Count { count: got }) if got == count));
    }
}

/// The network to the only server is gone for a while: calls wait, and then go on.
#[tokio::test]
async fn servers_that_come_back() {
    let data = TempDir::new().unwrap();
    let mut node = start(data.path()).await;
    let proxy = Proxy::start(grpc(&mut node).await).await;
    let urls = [format!("http://{}", proxy.addr())];
    let client = to(&urls).deadline(PATIENCE).attempt_timeout(Duration::from_millis(300)).build().unwrap();
    let mut ids = vec![client.next().await.unwrap().get()];
    let wait = |client: Client| async move { client.next_many(100_000).await.unwrap() };
    proxy.refuse().await;
    let waiting = tokio::spawn(wait(client.clone()));
    let failed = |at_least| {
        let client = client.clone();
        async move { until(|| async { client.metrics().failed_requests >= at_least }, "requests fail").await }
    };
    failed(2).await;
    proxy.blackhole().await;
    failed(4).await;
    proxy.pass().await;
    ids.extend(all(&waiting.await.unwrap()));
    // A reply that is lost takes its IDs with it.
    proxy.swallow_replies().await;
    let waiting = tokio::spawn(wait(client.clone()));
    failed(client.metrics().failed_requests + 1).await;
    proxy.pass().await;
    ids.extend(all(&waiting.await.unwrap()));
    assert_unique(ids);
}

#[tokio::test]
async fn errors_say_what_is_wrong() {
    let data = TempDir::new().unwrap();
    let mut node = start(data.path()).await;
    let proxy = Proxy::start(grpc(&mut node).await).await;
    let urls = [format!("http://{}", proxy.addr())];
    let short = || to(&urls).deadline(Duration::from_millis(400));

    proxy.refuse().await;
    match short().build().unwrap().next().await {
        Err(Error::Unavailable { server, message, .. }) => {
            assert_eq!(server, urls[0]);
            assert!(message.contains("Connection refused"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    proxy.blackhole().await;
    let silent = short().attempt_timeout(Duration::from_secs(10)).build().unwrap().next().await;
    assert!(matches!(silent, Err(Error::Timeout { .. })), "{silent:?}");
    // Who speaks gRPC and is no snowmint: another server would do no better.
    let etcd = Etcd::start(EtcdVersion::V3_4, 1).await;
    let elsewhere = [format!("http://{}", etcd.address(0))];
    match to(&elsewhere).deadline(PATIENCE).build().unwrap().next().await {
        Err(Error::Refused { server, code: Code::Unimplemented, .. }) => {
            assert_eq!(server, elsewhere[0]);
        }
        other => panic!("{other:?}"),
    }

    assert!(matches!(Client::builder().build(), Err(BuildError::NoServers)));
    for wrong in ["no URL", "127.0.0.1:9090", "ftp://127.0.0.1:9090"] {
        assert!(matches!(to(&[wrong.to_owned()]).build(), Err(BuildError::Server { .. })));
    }
    let old = to(&urls).max_age(Duration::from_millis(1)).build();
    assert!(matches!(old, Err(BuildError::MaxAge { .. })));
    for lease_ids in [0..=10, RangeInclusive::new(10, 5), 1..=1_000_001] {
        assert!(matches!(to(&urls).lease_ids(lease_ids).build(), Err(BuildError::LeaseIds { .. })));
    }
    let outside = thread::spawn(move || to(&urls).build().map(drop)).join().unwrap();
    assert!(matches!(outside, Err(BuildError::NoRuntime)));
}

/// Threads without a runtime, which share a client.
#[tokio::test]
async fn blocking() {
    let data = TempDir::new().unwrap();
    let (_nodes, urls) = fleet(&data, 1).await;
    let client = to(&urls).build_blocking().unwrap();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let client = client.clone();
            thread::spawn(move || {
                let mut ids: Vec<u64> = (0..20_000).map(|_| client.next().unwrap().get()).collect();
                assert!(ids.is_sorted());
                ids.extend(all(&client.next_many(1_000).unwrap()));
                ids
            })
        })
        .collect();
    let ids = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    assert_unique(ids);
    let metrics = client.metrics();
    assert_eq!((metrics.handed_out, metrics.failed_requests), (4 * 21_000, 0));
    assert!(metrics.requests < 1_000, "{metrics:?}");
}

/// Who uses no IDs costs no requests, and when the last clone is gone, neither does the client.
#[tokio::test]
async fn idle() {
    let data = TempDir::new().unwrap();
    let (nodes, urls) = fleet(&data, 1).await;
    let client = to(&urls).max_age(Duration::from_millis(20)).build().unwrap();
    client.next().await.unwrap();
    // What is left is renewed once, because an ID was used; then there is nothing to do.
    let idle = async || {
        let before = client.metrics().requests;
        sleep(Duration::from_millis(200)).await;
        client.metrics().requests == before
    };
    until(idle, "there are no more requests").await;
    client.next().await.unwrap();
    drop(client);
    let before = generated(&nodes[0]).await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!(generated(&nodes[0]).await, before);
}
