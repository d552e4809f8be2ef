//! The etcd backend, on real servers: the contract, and what becomes of leases, watches and calls when
//! servers are killed, paused and edited.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use snowmint::{Ceiling, Claim, Layout};
use snowmint_server::registry::{
    CALL_MS_MAX, Changed, EtcdRegistry, Purpose, Registry, RegistryError, Retired, Revision, ServerAccess,
    Setting, SlotState, SwapError, Wanted, WindowRecord, Worker, grant, timestamp,
};
use test_servers::{Etcd, EtcdVersion, Proxy, ROOT};

use crate::contract::{self, NOW_MS, PATIENCE, SLOT, namespace, worker};

const WORKER: &str = "/id-generator/datacenters/dc0/workers/worker5";
const RETIRED: &str = "/id-generator/retired_workers/dc0_worker5";

/// Longer than any test but those of leases takes.
const TTL_S: u64 = 60;

/// The shortest that etcd grants.
const TTL_S_MIN: u64 = 2;

fn settings(etcd: &Etcd) -> ServerAccess {
    ServerAccess {
        servers: etcd.endpoints(),
        tls: etcd.authority().is_some(),
        ca_file: etcd.authority().map(Path::to_owned),
        identity: None,
        user: None,
        ttl_s: TTL_S,
    }
}

fn open(etcd: &Etcd) -> EtcdRegistry {
    EtcdRegistry::new(settings(etcd)).unwrap()
}

/// A record of the worker whose window follows `floor`.
fn wanted(worker: &Worker, floor: Option<Ceiling>, now_ms: u64) -> Wanted {
    let layout = Layout::default();
    let claim = Claim::new(layout, SLOT, floor, now_ms, 10_000).unwrap();
    let record = WindowRecord::new(worker.owner.clone(), claim.ceiling(), layout);
    Wanted { claim, record }
}

async fn claimed(registry: &EtcdRegistry, worker: &Worker) -> (Wanted, Revision) {
    registry.open(&namespace()).await.unwrap();
    let wanted = wanted(worker, None, NOW_MS);
    let revision = registry.claim(SLOT, None, &wanted.record, worker).await.unwrap();
    (wanted, revision)
}

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn keeps_the_contract(version: EtcdVersion, nodes: usize) {
    let etcd = Arc::new(Etcd::start(version, nodes).await);
    contract::check(async || {
        etcd.etcdctl(&["del", "--prefix", "/id-generator/"]).await;
        let etcd = Arc::clone(&etcd);
        move || Arc::new(open(&etcd)) as Arc<dyn Registry>
    })
    .await;
}

#[tokio::test]
async fn keeps_the_contract_on_3_4() {
    keeps_the_contract(EtcdVersion::V3_4, 1).await;
}

#[tokio::test]
async fn keeps_the_contract_on_3_5() {
    keeps_the_contract(EtcdVersion::V3_5, 1).await;
}

#[tokio::test]
async fn keeps_the_contract_on_three_nodes_of_3_4() {
    keeps_the_contract(EtcdVersion::V3_4, 3).await;
}

#[tokio::test]
async fn keeps_the_contract_on_three_nodes_of_3_5() {
    keeps_the_contract(EtcdVersion::V3_5, 3).await;
}

/// Invariant 10 does not hang on it, but a worker that lost its lease looks alive again.
#[tokio::test]
async fn a_worker_whose_lease_was_lost_comes_back_with_the_next_window() {
    let etcd = Etcd::start(EtcdVersion::V3_5, 1).await;
    let (registry, worker) = (open(&etcd), worker("a"));
    let (first, revision) = claimed(&registry, &worker).await;
    let lease = etcd.etcdctl(&["lease", "list"]).await;
    let lease = lease.lines().last().unwrap();
    etcd.etcdctl(&["lease", "revoke", lease]).await;
    assert_eq!(registry.slot(SLOT).await.unwrap().worker, None);

    let next = wanted(&worker, Some(first.claim.ceiling()), NOW_MS + 5_000);
    let revision = registry.extend(SLOT, revision, &next.record).await.unwrap();
    let expected = SlotState {
        window: Some((next.record, revision)),
        worker: Some(worker.clone()),
        ..SlotState::default()
    };
    assert_eq!(registry.slot(SLOT).await.unwrap(), expected);

    // Just so where the entry was removed, or written by somebody, without its lease.
    for edit in [&["del", WORKER][..], &["put", WORKER, "{}"]] {
        etcd.etcdctl(edit).await;
        let (record, revision) = registry.slot(SLOT).await.unwrap().window.unwrap();
        registry.extend(SLOT, revision, &record).await.unwrap();
        assert_eq!(registry.slot(SLOT).await.unwrap().worker, Some(worker.clone()), "{edit:?}");
    }
}

#[tokio::test]
async fn a_worker_looks_alive_for_as_long_as_its_process() {
    let etcd = Etcd::start(EtcdVersion::V3_4, 1).await;
    let short = ServerAccess { ttl_s: TTL_S_MIN, ..settings(&etcd) };
    let (registry, watcher) = (EtcdRegistry::new(short).unwrap(), open(&etcd));
    claimed(&registry, &worker("a")).await;
    let looks_alive = async || watcher.slot(SLOT).await.unwrap().worker.is_some();
    let began = Instant::now();
    while began.elapsed() < 2 * Duration::from_secs(TTL_S_MIN) {
        assert!(looks_alive().await, "its lease is renewed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // This is how a crash looks: nothing is given back.
    drop(registry);
    assert!(looks_alive().await);
    until("the worker is gone", async || !looks_alive().await).await;
}

fn is_over(changed: &mut Changed) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    matches!(Pin::new(changed).poll(&mut context), Poll::Ready(()))
}

#[tokio::test]
async fn a_watch_survives_compaction_and_a_restart() {
    let etcd = Etcd::start(EtcdVersion::V3_5, 1).await;
    let registry = open(&etcd);
    registry.open(&namespace()).await.unwrap();
    let (_, unwatched) = registry.settings().await.unwrap();
    let (_, mut changed) = registry.settings().await.unwrap();
    let (_, mut other) = registry.settings().await.unwrap();
    assert!(!is_over(&mut changed) && !is_over(&mut other));

    etcd.kill(0);
    etcd.restart(0).await;
    // A change of something else, which a watch of the settings does not tell.
    registry.set(&Setting::DatacenterName(3, "eu-west-1".to_owned())).await.unwrap();
    assert!(!is_over(&mut changed));
    registry.set(&Setting::MaxSequence(1_000)).await.unwrap();
    tokio::time::timeout(PATIENCE, changed).await.expect("the change is told, after the restart");
    tokio::time::timeout(PATIENCE, other).await.expect("to each");

    // The change that this one waits for cannot be told any more, only that there may have been one.
    let text = etcd.etcdctl(&["endpoint", "status", "--write-out=json"]).await;
    let status: serde_json::Value = serde_json::from_str(&text).unwrap();
    etcd.etcdctl(&["compact", &status[0]["Status"]["header"]["revision"].to_string()]).await;
    tokio::time::timeout(PATIENCE, unwatched).await.expect("a compaction is told");
}

/// Extends until it succeeds, and says how long that took.
async fn extends(registry: &EtcdRegistry, worker: &Worker) -> Duration {
    let began = Instant::now();
    loop {
        let call = Instant::now();
        if let Ok(SlotState { window: Some((stands, expected)), .. }) = registry.slot(SLOT).await {
            let floor = Ceiling::from_id(Layout::default(), stands.ceiling).unwrap();
            let next = wanted(worker, Some(floor), floor.time_ms(Layout::default()));
            if grant(registry, next, Purpose::Hold { expected }).await.is_ok() {
                return began.elapsed();
            }
        }
        let (took, most) = (call.elapsed(), Duration::from_millis(4 * CALL_MS_MAX));
        assert!(took < most, "each of the calls ends, but they took {took:?}");
        assert!(began.elapsed() < PATIENCE, "no extension within {PATIENCE:?}");
    }
}

#[tokio::test]
async fn one_of_three_may_die_or_be_paused() {
    let etcd = Etcd::start(EtcdVersion::V3_5, 3).await;
    let worker = worker("a");
    // As a client of each of the nodes.
    let registries: Vec<_> = (0..3)
        .map(|first| {
            let mut settings = settings(&etcd);
            settings.servers.rotate_left(first);
            EtcdRegistry::new(settings).unwrap()
        })
        .collect();
    claimed(&registries[0], &worker).await;
    for registry in &registries {
        extends(registry, &worker).await;
    }

    let leader = etcd.leader().await;
    let follower = (leader + 1) % 3;
    etcd.pause(follower);
    for registry in &registries {
        let took = extends(registry, &worker).await;
        assert!(took < Duration::from_millis(CALL_MS_MAX), "a paused follower cost {took:?}");
    }
    etcd.resume(follower);

    let (_, mut changed) = registries[leader].settings().await.unwrap();
    assert!(!is_over(&mut changed));
    let watching = tokio::spawn(changed);
    etcd.kill(leader);
    for registry in &registries {
        extends(registry, &worker).await;
    }
    registries[follower].set(&Setting::MaxSequence(1_000)).await.unwrap();
    let told = tokio::time::timeout(PATIENCE, watching).await;
    told.expect("the watch goes on at another node").unwrap();

    etcd.restart(leader).await;
    let leader = etcd.leader().await;
    etcd.pause(leader);
    for registry in &registries {
        extends(registry, &worker).await;
    }

    // Without a quorum, a call ends in time, and says that it knows nothing.
    etcd.pause((leader + 1) % 3);
    let began = Instant::now();
    let set = registries[leader].set(&Setting::MaxSequence(1_000)).await.unwrap_err().to_string();
    assert!(set.contains("did not answer"), "{set}");
    assert!(began.elapsed() < Duration::from_millis(CALL_MS_MAX + 500), "{:?}", began.elapsed());
}

/// Invariant 9.
#[tokio::test]
async fn a_swap_whose_reply_was_lost_is_unknown_and_one_that_was_never_sent_is_not() {
    let etcd = Etcd::start(EtcdVersion::V3_4, 1).await;
    let proxy = Proxy::start(etcd.address(0)).await;
    let through = ServerAccess { servers: vec![proxy.addr().to_string()], ..settings(&etcd) };
    let (registry, worker) = (EtcdRegistry::new(through).unwrap(), worker("a"));
    let (first, revision) = claimed(&registry, &worker).await;
    let next = wanted(&worker, Some(first.claim.ceiling()), NOW_MS + 5_000);

    proxy.refuse().await;
    // The old connection may be found broken by a call only.
    let _ = registry.slot(SLOT).await;
    let extended = registry.extend(SLOT, revision, &next.record).await;
    assert!(matches!(extended, Err(SwapError::Unavailable(_))), "{extended:?}");

    proxy.swallow_replies().await;
    let began = Instant::now();
    let extended = registry.extend(SLOT, revision, &next.record).await;
    assert!(matches!(extended, Err(SwapError::Unknown(_))), "{extended:?}");
    assert!(began.elapsed() < Duration::from_millis(CALL_MS_MAX + 500), "{:?}", began.elapsed());

    proxy.pass().await;
    let granted = grant(&registry, next, Purpose::Hold { expected: revision }).await;
    let (window, _) = granted.expect("the record that stands is the one that was wanted");
    assert_eq!(window.ceiling_ms(), NOW_MS + 15_000);
}

#[tokio::test]
async fn a_claim_whose_reply_was_lost_is_granted_when_it_is_repeated() {
    let etcd = Etcd::start(EtcdVersion::V3_5, 1).await;
    let proxy = Proxy::start(etcd.address(0)).await;
    let through = ServerAccess { servers: vec![proxy.addr().to_string()], ..settings(&etcd) };
    let (registry, worker) = (EtcdRegistry::new(through).unwrap(), worker("a"));
    registry.open(&namespace()).await.unwrap();
    let wanted = wanted(&worker, None, NOW_MS);
    // From one of the claim's calls on, replies are lost: to its read, its lease, or its transaction.
    let lose = async {
        tokio::time::sleep(Duration::from_millis(2)).await;
        proxy.swallow_replies().await;
    };
    let _ = tokio::join!(registry.claim(SLOT, None, &wanted.record, &worker), lose);
    proxy.pass().await;
    let purpose = Purpose::Take { expected: None, worker: &worker };
    grant(&registry, wanted, purpose).await.expect("nothing is lost any more");
    assert_eq!(registry.slot(SLOT).await.unwrap().worker, Some(worker));
}

/// A swap is made at one server, whose reply is lost, and tried again at the next, where it conflicts.
#[tokio::test]
async fn a_server_that_falls_silent_costs_a_call_a_part_of_its_time() {
    let etcd = Etcd::start(EtcdVersion::V3_5, 1).await;
    let proxy = Proxy::start(etcd.address(0)).await;
    let servers = vec![proxy.addr().to_string(), etcd.address(0).to_string()];
    let registry = EtcdRegistry::new(ServerAccess { servers, ..settings(&etcd) }).unwrap();
    let worker = worker("a");
    let (first, expected) = claimed(&registry, &worker).await;
    let (_, mut changed) = registry.settings().await.unwrap();
    assert!(!is_over(&mut changed));
    let watching = tokio::spawn(changed);
    // Another call on the same connection lets the watch be under way before the server falls silent.
    registry.slot(SLOT).await.unwrap();

    proxy.swallow_replies().await;
    let next = wanted(&worker, Some(first.claim.ceiling()), NOW_MS + 5_000);
    let began = Instant::now();
    grant(&registry, next, Purpose::Hold { expected }).await.expect("it stands");
    let took = began.elapsed();
    assert!(took < Duration::from_millis(CALL_MS_MAX), "{took:?}");
    assert_eq!(registry.slot(SLOT).await.unwrap().worker, Some(worker));

    open(&etcd).set(&Setting::MaxSequence(1_000)).await.unwrap();
    let told = tokio::time::timeout(PATIENCE, watching).await;
    told.expect("a watch notices that its server fell silent").unwrap();
}

#[tokio::test]
async fn a_slot_is_given_back_though_the_reply_is_lost() {
    let etcd = Etcd::start(EtcdVersion::V3_5, 1).await;
    let proxy = Proxy::start(etcd.address(0)).await;
    let servers = vec![proxy.addr().to_string(), etcd.address(0).to_string()];
    let registry = EtcdRegistry::new(ServerAccess { servers, ..settings(&etcd) }).unwrap();
    let (wanted, revision) = claimed(&registry, &worker("a")).await;
    let retired = Retired {
        retired_at: timestamp(NOW_MS),
        last_id: None,
        reuse_after: timestamp(NOW_MS + 60_000),
        node: "a".to_owned(),
    };
    // The reply to the transaction, if all goes well; it has to be so for the others, too.
    let lose = async {
        tokio::time::sleep(Duration::from_millis(2)).await;
        proxy.swallow_replies().await;
    };
    let (given_back, ()) = tokio::join!(registry.retire(SLOT, revision, &wanted.record, &retired), lose);
    given_back.unwrap();
    let state = open(&etcd).slot(SLOT).await.unwrap();
    assert_eq!((state.worker, state.retired), (None, Some(retired)));
}

#[tokio::test]
async fn a_retired_entry_ends_with_its_cooling() {
    let etcd = Etcd::start(EtcdVersion::V3_4, 1).await;
    let (registry, worker) = (open(&etcd), worker("a"));
    let (wanted, revision) = claimed(&registry, &worker).await;
    let retired = |cooling_ms| Retired {
        retired_at: timestamp(NOW_MS),
        last_id: snowmint::Id::new(7),
        reuse_after: timestamp(NOW_MS + cooling_ms),
        node: "a".to_owned(),
    };
    registry.retire(SLOT, revision, &wanted.record, &retired(3_600_000)).await.unwrap();
    let lease = etcd.etcdctl(&["lease", "list"]).await;
    let lines: Vec<_> = lease.lines().collect();
    let ["found 1 leases", lease] = lines[..] else { panic!("the worker's is gone: {lines:?}") };
    let lease = etcd.etcdctl(&["lease", "timetolive", lease, "--keys"]).await;
    assert!(lease.contains("granted with TTL(3600s)") && lease.contains(RETIRED), "{lease}");

    let (_, revision) = registry.slot(SLOT).await.unwrap().window.unwrap();
    let revision = registry.claim(SLOT, Some(revision), &wanted.record, &worker).await.unwrap();
    registry.retire(SLOT, revision, &wanted.record, &retired(500)).await.unwrap();
    assert!(registry.slot(SLOT).await.unwrap().retired.is_some());
    until("the slot cooled down", async || registry.slot(SLOT).await.unwrap().retired.is_none()).await;
}

#[tokio::test]
async fn what_an_operator_writes_is_read() {
    let etcd = Etcd::start(EtcdVersion::V3_5, 1).await;
    let registry = open(&etcd);
    // The document's settings, before there is a node; the others are added to them.
    for (key, value) in
        [("epoch", "1609459200000"), ("max_sequence", "2000"), ("clock_drift_threshold", "50")]
    {
        etcd.etcdctl(&["put", &format!("/id-generator/config/{key}"), value]).await;
    }
    let wanted = namespace();
    let stands = registry.open(&wanted).await.unwrap();
    assert_eq!((stands.max_sequence, stands.clock_drift_threshold_ms), (2_000, 50));
    assert_eq!(stands.cluster_id, wanted.cluster_id);

    let alive = r#"{"hostname":"id-gen-01.example.com","ip":"10.0.1.10","port":8080,"started_at":"2024-01-03T19:00:00Z","version":"1.2.3"}"#;
    etcd.etcdctl(&["put", WORKER, alive]).await;
    let retired = r#"{"retired_at":"2024-01-03T18:00:00Z","last_id":1234567890123456789,"reuse_after":"2024-01-03T19:00:00Z"}"#;
    etcd.etcdctl(&["put", RETIRED, retired]).await;
    let state = registry.slot(SLOT).await.unwrap();
    assert_eq!((state.worker.unwrap().port, state.retired.unwrap().node.as_str()), (8080, ""));
    let (worker, record) = (worker("a"), self::wanted(&worker("a"), None, NOW_MS).record);
    let claim = registry.claim(SLOT, None, &record, &worker).await;
    assert!(matches!(claim, Err(SwapError::Conflict { holder: Some(_) })), "{claim:?}");

    etcd.etcdctl(&["put", WORKER, "nobody"]).await;
    let claim = registry.claim(SLOT, None, &record, &worker).await;
    assert!(matches!(claim, Err(SwapError::Conflict { holder: None })), "{claim:?}");
    assert!(registry.snapshot().await.unwrap().slots[&SLOT].damage.as_ref().unwrap().contains(WORKER));
    assert_eq!(etcd.etcdctl(&["lease", "list"]).await.trim(), "found 0 leases");
}

#[tokio::test]
async fn tls_and_passwords() {
    for version in [EtcdVersion::V3_4, EtcdVersion::V3_5] {
        let etcd = Etcd::setup(version, 1).tls().password("secret").start().await;
        let user = |password: &str| Some((ROOT.to_owned(), password.to_owned()));
        let refusal = async |settings| {
            let error = EtcdRegistry::new(settings).unwrap().open(&namespace()).await.unwrap_err();
            assert!(matches!(error, RegistryError::Server { .. }), "{error}");
            error.to_string()
        };
        let known = ServerAccess { user: user("secret"), ..settings(&etcd) };
        let registry = EtcdRegistry::new(known.clone()).unwrap();
        let (wanted, revision) = claimed(&registry, &worker("a")).await;
        let (_, changed) = registry.settings().await.unwrap();

        // The server forgets who gave the password.
        etcd.kill(0);
        etcd.restart(0).await;
        registry.set(&Setting::MaxSequence(1_000)).await.unwrap();
        tokio::time::timeout(PATIENCE, changed).await.expect("a change is told");
        registry.extend(SLOT, revision, &wanted.record).await.unwrap();

        let nobody = refusal(settings(&etcd)).await;
        assert!(nobody.contains("refused: ") && nobody.contains("user name is empty"), "{nobody}");
        let wrong = refusal(ServerAccess { user: user("guess"), ..known.clone() }).await;
        assert!(wrong.contains("refused: ") && wrong.contains("invalid user ID or password"), "{wrong}");
        let plain = refusal(ServerAccess { tls: false, ..known.clone() }).await;
        assert!(plain.contains(&format!("etcd at {}", etcd.address(0))), "{plain}");
        let stranger = refusal(ServerAccess { ca_file: None, ..known }).await;
        assert!(stranger.contains("cannot be reached: ") && stranger.contains("certificate"), "{stranger}");
    }
}

#[tokio::test]
async fn settings_that_are_of_no_use_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("text");
    std::fs::write(&text, "text").unwrap();
    let missing = directory.path().join("missing");
    let usable = ServerAccess {
        servers: vec!["localhost:1".to_owned()],
        tls: true,
        ca_file: None,
        identity: None,
        user: None,
        ttl_s: TTL_S,
    };
    let identity = |certificate: &PathBuf, key: &PathBuf| Some((certificate.clone(), key.clone()));
    let pem = directory.path().join("pem");
    std::fs::write(&pem, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    for (settings, expected) in [
        (ServerAccess { ca_file: Some(missing.clone()), ..usable.clone() }, "etcd.ca_file"),
        (ServerAccess { ca_file: Some(text.clone()), ..usable.clone() }, "etcd.ca_file"),
        (ServerAccess { identity: identity(&missing, &pem), ..usable.clone() }, "etcd.cert_file"),
        (ServerAccess { identity: identity(&pem, &text), ..usable.clone() }, "etcd.key_file"),
        (ServerAccess { identity: identity(&pem, &pem), ..usable.clone() }, "etcd.cert_file"),
        (ServerAccess { servers: vec!["no host".to_owned()], ..usable.clone() }, "registry"),
        (ServerAccess { servers: vec!["localhost".to_owned()], ..usable.clone() }, "registry"),
        (ServerAccess { servers: Vec::new(), ..usable }, "registry"),
    ] {
        let error = EtcdRegistry::new(settings).err().expect("it is of no use").to_string();
        assert!(error.starts_with(&format!("{expected} cannot be used: ")), "{error}");
    }
}
