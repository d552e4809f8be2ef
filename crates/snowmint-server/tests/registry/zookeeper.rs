//! The ZooKeeper backend: the contract, and what becomes of a session when servers and networks fail.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use snowmint::Slot;
use snowmint_server::registry::{
    CALL_MS_MAX, Registry, RegistryError, Revision, ServerAccess, Setting, SlotState, SwapError,
    WindowRecord, Worker, ZooKeeperRegistry,
};
use test_servers::{Proxy, ZooKeeper};
use zookeeper_client::{Acls, Client, CreateMode};

use crate::contract::{self, NOW_MS, PATIENCE, SLOT, claimed, namespace, record, worker};

/// The pause between two looks at what is waited for.
const POLL: Duration = Duration::from_millis(20);

fn access(servers: Vec<String>) -> ServerAccess {
    ServerAccess { servers, tls: false, ca_file: None, identity: None, user: None, ttl_s: 30 }
}

fn registry(access: &ServerAccess) -> ZooKeeperRegistry {
    registry_at(access, "")
}

fn registry_at(access: &ServerAccess, chroot: &str) -> ZooKeeperRegistry {
    ZooKeeperRegistry::new(access, chroot).unwrap()
}

/// A registry behind a proxy, and one that is not.
async fn behind_a_proxy(server: &ZooKeeper, ttl_s: u64) -> (Proxy, ZooKeeperRegistry, ZooKeeperRegistry) {
    let proxy = Proxy::start(server.address(0)).await;
    let behind = ServerAccess { ttl_s, ..access(vec![proxy.addr().to_string()]) };
    (proxy, registry(&behind), registry(&access(server.endpoints())))
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < PATIENCE, "it is waited in vain until {what}");
        tokio::time::sleep(POLL).await;
    }
}

async fn contract_on(nodes: usize) {
    let server = ZooKeeper::start(nodes).await;
    let (servers, number) = (server.endpoints(), AtomicUsize::new(0));
    contract::check(async || {
        let chroot = format!("/test/registry{}", number.fetch_add(1, Ordering::Relaxed));
        let access = access(servers.clone());
        move || -> Arc<dyn Registry> { Arc::new(registry_at(&access, &chroot)) }
    })
    .await;
}

#[tokio::test]
async fn keeps_the_contract() {
    contract_on(1).await;
}

#[tokio::test]
async fn three_nodes_keep_the_contract() {
    contract_on(3).await;
}

/// Whose session has expired does not look alive, keeps its window, and looks alive again when it extends it.
#[tokio::test]
async fn an_expired_session_costs_the_worker_and_an_extension_brings_it_back() {
    let server = ZooKeeper::start(1).await;
    let (proxy, cut_off, other) = behind_a_proxy(&server, 2).await;
    let holder = worker("a");
    let (stands, ceiling, revision) = claimed(&cut_off, &holder).await;

    proxy.blackhole().await;
    until("the session expires", async || other.slot(SLOT).await.unwrap().worker.is_none()).await;
    assert_eq!(other.slot(SLOT).await.unwrap().window, Some((stands, revision)));

    proxy.pass().await;
    let (next, _) = record(&holder, Some(ceiling), NOW_MS + 5_000);
    let mut extended = None;
    until("a new session extends it", async || {
        extended = cut_off.extend(SLOT, revision, &next).await.ok();
        extended.is_some()
    })
    .await;
    let window = Some((next, extended.unwrap()));
    let state = SlotState { window, worker: Some(holder), ..SlotState::default() };
    assert_eq!(other.slot(SLOT).await.unwrap(), state);
}

/// Entries written by hand are read, and a worker's that was deleted comes back with the next extension.
#[tokio::test]
async fn entries_are_the_documents_and_may_be_edited() {
    let server = ZooKeeper::start(1).await;
    let (registry, by_hand) =
        (registry(&access(server.endpoints())), Client::connect(&server.endpoints()[0]).await.unwrap());
    let holder = worker("a");
    let (_, ceiling, revision) = claimed(&registry, &holder).await;
    let epoch = server.cli(&["get", "/id-generator/config/epoch"]).await;
    assert!(epoch.lines().any(|line| line == "1609459200000"), "{epoch}");

    by_hand.delete("/id-generator/datacenters/dc0/workers/worker5", None).await.unwrap();
    assert_eq!(registry.slot(SLOT).await.unwrap().worker, None);
    let (next, _) = record(&holder, Some(ceiling), NOW_MS + 5_000);
    registry.extend(SLOT, revision, &next).await.unwrap();
    assert_eq!(registry.slot(SLOT).await.unwrap().worker, Some(holder));

    let node = CreateMode::Persistent.with_acls(Acls::anyone_all());
    for (path, value) in [
        ("/id-generator/retired_workers", ""),
        (
            "/id-generator/retired_workers/dc0_worker6",
            r#"{"retired_at":"2024-01-03T18:00:00Z","last_id":1234567890123456789,"reuse_after":"2024-01-03T19:00:00Z"}"#,
        ),
        (
            "/id-generator/datacenters/dc0/workers/worker6",
            r#"{"hostname":"id-gen-01.example.com","ip":"10.0.1.10","port":8080,"started_at":"2024-01-03T19:00:00Z","version":"1.2.3"}"#,
        ),
    ] {
        // A parent may be there already.
        let _ = by_hand.create(path, value.as_bytes(), &node).await;
    }
    let slot = Slot { worker: 6, ..SLOT };
    let state = registry.slot(slot).await.unwrap();
    assert_eq!(registry.snapshot().await.unwrap().slots[&slot], state);
    assert_eq!(state.retired.as_ref().unwrap().last_id, snowmint::Id::new(1_234_567_890_123_456_789));
    assert_eq!(state.worker.as_ref().unwrap().hostname, "id-gen-01.example.com");
    let claim = registry.claim(slot, None, &next, &worker("a")).await;
    assert!(matches!(claim, Err(SwapError::Conflict { holder: Some(_) })), "{claim:?}");
}

/// A first node that stopped half-way, or an operator, leaves settings to be completed, not to be changed.
#[tokio::test]
async fn settings_that_stand_are_completed() {
    let server = ZooKeeper::start(1).await;
    let by_hand = Client::connect(&server.endpoints()[0]).await.unwrap();
    let node = CreateMode::Persistent.with_acls(Acls::anyone_all());
    by_hand.mkdir("/id-generator/config", &node).await.unwrap();
    by_hand.create("/id-generator/config/max_sequence", b"77", &node).await.unwrap();
    let [first, second] = [(); 2].map(|()| registry(&access(server.endpoints())));
    let (first_wants, second_wants) = (namespace(), namespace());
    let (first, second) = tokio::join!(first.open(&first_wants), second.open(&second_wants));
    let stands = first.unwrap();
    assert_eq!((stands.max_sequence, &stands), (77, &second.unwrap()));
}

/// Invariant 9: a change whose reply was lost is unknown, within the time a call may take, and was made.
#[tokio::test]
async fn a_lost_reply_is_unknown() {
    let server = ZooKeeper::start(1).await;
    let (proxy, cut_off, other) = behind_a_proxy(&server, 30).await;
    let holder = worker("a");
    let (_, ceiling, revision) = claimed(&cut_off, &holder).await;
    let (next, _) = record(&holder, Some(ceiling), NOW_MS + 5_000);
    proxy.swallow_replies().await;
    let started = Instant::now();
    let extended = cut_off.extend(SLOT, revision, &next).await;
    assert!(matches!(extended, Err(SwapError::Unknown(_))), "{extended:?}");
    assert!(started.elapsed() < Duration::from_millis(CALL_MS_MAX + 500), "{:?}", started.elapsed());
    let made = async || other.slot(SLOT).await.unwrap().window.is_some_and(|(stands, _)| stands == next);
    until("the change is made", made).await;
}

/// What cannot have been sent is unavailable, and said at once.
#[tokio::test]
async fn servers_that_cannot_be_reached_are_named() {
    let server = ZooKeeper::start(1).await;
    let (proxy, cut_off, _) = behind_a_proxy(&server, 30).await;
    proxy.refuse().await;
    let holder = worker("a");
    let (wanted, _) = record(&holder, None, NOW_MS);
    let claim = cut_off.claim(SLOT, None, &wanted, &holder).await.unwrap_err();
    assert!(matches!(claim, SwapError::Unavailable(RegistryError::Server { .. })), "{claim:?}");
    let named = format!("ZooKeeper at {} cannot be reached", proxy.addr());
    assert!(claim.to_string().contains(&named), "{claim}");
}

#[tokio::test]
async fn a_watch_survives_a_lost_connection() {
    let server = ZooKeeper::start(1).await;
    let (proxy, cut_off, other) = behind_a_proxy(&server, 30).await;
    claimed(&cut_off, &worker("a")).await;
    let (_, changed) = cut_off.settings().await.unwrap();
    let changed = tokio::spawn(changed);
    proxy.refuse().await;
    other.set(&Setting::MaxSequence(7)).await.unwrap();
    assert!(!changed.is_finished(), "it is cut off from the change");
    proxy.pass().await;
    tokio::time::timeout(PATIENCE, changed).await.expect("the change is told").unwrap();
    assert_eq!(cut_off.settings().await.unwrap().0.max_sequence, 7);
    assert!(other.slot(SLOT).await.unwrap().worker.is_some(), "the session was kept");
}

/// Dropping the registry is the end of its session, whoever still waits for a change.
#[tokio::test]
async fn who_waits_for_a_change_does_not_keep_the_session() {
    let server = ZooKeeper::start(1).await;
    let [dropped, other] = [(); 2].map(|()| registry(&access(server.endpoints())));
    claimed(&dropped, &worker("a")).await;
    let (_, changed) = dropped.settings().await.unwrap();
    drop(dropped);
    tokio::time::timeout(PATIENCE, changed).await.expect("nothing is waited for any more");
    until("the worker is gone", async || other.slot(SLOT).await.unwrap().worker.is_none()).await;
}

#[tokio::test]
async fn a_killed_leader_holds_up_extensions_for_seconds_only() {
    let server = ZooKeeper::start(3).await;
    let registry = registry(&access(server.endpoints()));
    let holder = worker("a");
    let (_, mut ceiling, mut revision) = claimed(&registry, &holder).await;
    for round in 1..=2 {
        let leader = server.leader().await;
        server.kill(leader);
        let started = Instant::now();
        let (next, next_ceiling) = record(&holder, Some(ceiling), NOW_MS + round * 5_000);
        revision = held_on(&registry, revision, &next, &holder).await;
        ceiling = next_ceiling;
        eprintln!("extended {:?} after the leader was killed", started.elapsed());
        assert!(started.elapsed() < Duration::from_secs(10), "a window of the usual length has ended");
        server.restart(leader).await;
    }
}

/// Without a quorum every call ends in time, and with its return the slot is held on to.
#[tokio::test]
async fn a_lost_quorum_is_told_and_survived() {
    let server = ZooKeeper::start(3).await;
    let registry = registry(&access(server.endpoints()));
    let holder = worker("a");
    let (_, ceiling, revision) = claimed(&registry, &holder).await;
    server.kill(0);
    server.kill(1);
    let (next, _) = record(&holder, Some(ceiling), NOW_MS + 5_000);
    until("it is told that no server can be reached", async || {
        let started = Instant::now();
        let error = registry.extend(SLOT, revision, &next).await.unwrap_err();
        assert!(started.elapsed() < Duration::from_millis(CALL_MS_MAX + 500), "{error}");
        matches!(error, SwapError::Unavailable(RegistryError::Server { .. }))
    })
    .await;
    server.restart(0).await;
    let started = Instant::now();
    held_on(&registry, revision, &next, &holder).await;
    assert!(started.elapsed() < Duration::from_secs(3), "{:?} after the quorum", started.elapsed());
}

/// Extends until that is done and the worker looks alive. Both come at once, unless it was an earlier try
/// that took effect, in a session that is no more: then the next extension brings the worker back.
async fn held_on(
    registry: &ZooKeeperRegistry,
    mut revision: Revision,
    next: &WindowRecord,
    holder: &Worker,
) -> Revision {
    until("the slot is held on to", async || {
        let Some(newer) = extended(registry, revision, next).await else { return false };
        revision = newer;
        registry.slot(SLOT).await.is_ok_and(|state| state.worker.as_ref() == Some(holder))
    })
    .await;
    revision
}

/// Extends, or finds that an earlier try did.
async fn extended(registry: &ZooKeeperRegistry, revision: Revision, next: &WindowRecord) -> Option<Revision> {
    match registry.extend(SLOT, revision, next).await {
        Ok(newer) => Some(newer),
        Err(SwapError::Unavailable(_)) => None,
        Err(SwapError::Unknown(_) | SwapError::Conflict { .. }) => {
            let (stands, newer) = registry.slot(SLOT).await.ok()?.window.unwrap();
            (stands == *next).then_some(newer)
        }
    }
}

#[tokio::test]
async fn a_users_nodes_are_for_that_user() {
    let server = ZooKeeper::start(1).await;
    let anybody = access(server.endpoints());
    let user = |password: &str| Some(("snow".to_owned(), password.to_owned()));
    let ours = ServerAccess { user: user("secret:too"), ..anybody.clone() };
    let holder = worker("a");
    let registry = |access: &ServerAccess| registry_at(access, "/ours");
    let first = registry(&ours);
    let (record, _, revision) = claimed(&first, &holder).await;
    for other in [anybody.clone(), ServerAccess { user: user("guessed"), ..anybody }] {
        let other = registry(&other);
        let read = other.slot(SLOT).await.unwrap_err().to_string();
        assert!(read.contains("refuses") && read.contains("zookeeper.user"), "{read}");
        assert!(other.open(&namespace()).await.is_err());
        let swap = other.extend(SLOT, revision, &record).await;
        assert!(matches!(swap, Err(SwapError::Unavailable(_))), "{swap:?}");
    }
    assert_eq!(registry(&ours).slot(SLOT).await.unwrap().worker, Some(holder));
}

#[tokio::test]
async fn tls_is_talked_to_whom_the_authority_signed_for() {
    let server = ZooKeeper::start_with_tls().await;
    let trusting = ServerAccess {
        tls: true,
        ca_file: server.authority().map(Path::to_owned),
        ..access(vec![server.secure_address().unwrap().to_string()])
    };
    let holder = worker("a");
    claimed(&registry(&trusting), &holder).await;
    let plain = registry(&access(server.endpoints()));
    assert!(plain.slot(SLOT).await.unwrap().window.is_some());
    let strange = registry(&ServerAccess { ca_file: None, ..trusting });
    let refused = strange.slot(SLOT).await.unwrap_err().to_string();
    assert!(refused.contains("cannot be reached"), "{refused}");
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("empty.pem");
    std::fs::write(&file, "").unwrap();
    let tls =
        ServerAccess { tls: true, ca_file: Some(file.clone()), ..access(vec!["localhost:2281".to_owned()]) };
    let key_of = |access| match ZooKeeperRegistry::new(&access, "").map(drop).unwrap_err() {
        RegistryError::Settings { key, .. } => key,
        other => panic!("{other}"),
    };
    assert_eq!(key_of(tls.clone()), "zookeeper.ca_file");
    let missing = directory.path().join("missing.pem");
    assert_eq!(key_of(ServerAccess { ca_file: Some(missing.clone()), ..tls.clone() }), "zookeeper.ca_file");
    let identity = Some((missing, file));
    assert_eq!(key_of(ServerAccess { ca_file: None, identity, ..tls.clone() }), "zookeeper.cert_file");
    assert_eq!(key_of(ServerAccess { servers: vec!["a b:1".to_owned()], ..tls }), "registry");
}
