//! What every backend owes, as its trait's documentation says.

use std::sync::Arc;
use std::time::Duration;

use snowmint::{Ceiling, Claim, Layout, Slot};
use snowmint_server::registry::{
    Datacenter, Namespace, Owner, Registry, Retired, Revision, Setting, SlotState, SwapError, WindowRecord,
    Worker, timestamp,
};
use uuid::Uuid;

pub const NOW_MS: u64 = snowmint::DEFAULT_EPOCH_MS + 1_000_000;
/// How long anything that has to happen is waited for.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const SLOT: Slot = Slot { datacenter: 0, worker: 5 };

/// Opens the registry as another node would: with each call there is one more node.
pub type Open<'a> = &'a dyn Fn() -> Arc<dyn Registry>;

/// The whole contract, each clause on a registry of its own.
pub async fn check<F: Fn() -> Arc<dyn Registry>>(fresh: impl AsyncFn() -> F) {
    the_first_node_names_the_namespace(&fresh().await).await;
    a_claim_is_seen_by_every_node(&fresh().await).await;
    a_swap_needs_the_expected_revision(&fresh().await).await;
    a_slot_that_looks_alive_is_a_conflict(&fresh().await).await;
    a_retired_slot_says_so_and_a_claim_ends_it(&fresh().await).await;
    an_abandoned_slot_is_free_and_keeps_its_record(&fresh().await).await;
    a_slot_can_be_taken_from_its_holder(&fresh().await).await;
    of_many_at_once_one_gets_the_slot(&fresh().await).await;
    a_changed_setting_is_seen_by_who_waits_for_it(&fresh().await).await;
    of_many_first_nodes_one_names_the_namespace(&fresh().await).await;
}

pub fn namespace() -> Namespace {
    let layout = Layout::default();
    Namespace {
        cluster_id: Uuid::new_v4(),
        epoch_ms: layout.epoch_ms(),
        layout: layout.split(),
        max_sequence: layout.split().max_sequence(),
        clock_drift_threshold_ms: 100,
    }
}

pub fn worker(node: &str) -> Worker {
    Worker {
        hostname: "host".to_owned(),
        ip: "127.0.0.1".to_owned(),
        port: 8080,
        started_at: timestamp(NOW_MS),
        version: "1.2.3".to_owned(),
        owner: Owner { node: node.to_owned(), instance: Uuid::new_v4() },
    }
}

pub fn record(worker: &Worker, floor: Option<Ceiling>, now_ms: u64) -> (WindowRecord, Ceiling) {
    let layout = Layout::default();
    let ceiling = Claim::new(layout, SLOT, floor, now_ms, 10_000).unwrap().ceiling();
    (WindowRecord::new(worker.owner.clone(), ceiling, layout), ceiling)
}

pub async fn claimed(registry: &dyn Registry, worker: &Worker) -> (WindowRecord, Ceiling, Revision) {
    registry.open(&namespace()).await.unwrap();
    let (record, ceiling) = record(worker, None, NOW_MS);
    let revision = registry.claim(SLOT, None, &record, worker).await.unwrap();
    (record, ceiling, revision)
}

async fn the_first_node_names_the_namespace(open: Open<'_>) {
    let (first, second) = (namespace(), Namespace { max_sequence: 100, ..namespace() });
    assert_eq!(open().open(&first).await.unwrap(), first);
    assert_eq!(open().open(&second).await.unwrap(), first);
    assert_eq!(open().snapshot().await.unwrap().namespace, first);
}

async fn a_claim_is_seen_by_every_node(open: Open<'_>) {
    let (registry, worker) = (open(), worker("a"));
    let (record, _, revision) = claimed(&*registry, &worker).await;
    let expected =
        SlotState { window: Some((record, revision)), worker: Some(worker), retired: None, damage: None };
    let other = open();
    assert_eq!(other.slot(SLOT).await.unwrap(), expected);
    assert_eq!(other.snapshot().await.unwrap().slots, [(SLOT, expected)].into());
    assert_eq!(other.slot(Slot { worker: 6, ..SLOT }).await.unwrap(), SlotState::default());
}

/// Invariant 3: a record changes only from the revision that was read.
async fn a_swap_needs_the_expected_revision(open: Open<'_>) {
    let (registry, worker) = (open(), worker("a"));
    let (first, ceiling, revision) = claimed(&*registry, &worker).await;
    let (next, _) = record(&worker, Some(ceiling), NOW_MS + 5_000);
    let newer = registry.extend(SLOT, revision, &next).await.unwrap();
    assert_ne!(newer, revision);

    let conflict = registry.extend(SLOT, revision, &first).await.unwrap_err();
    assert!(matches!(conflict, SwapError::Conflict { holder: Some(ref owner) } if *owner == worker.owner));
    let retired = retired("a", NOW_MS);
    let retire = registry.retire(SLOT, revision, &first, &retired).await;
    assert!(matches!(retire, Err(SwapError::Conflict { .. })), "{retire:?}");
    for stale in [None, Some(revision)] {
        let claim = open().claim(SLOT, stale, &first, &worker).await;
        assert!(matches!(claim, Err(SwapError::Conflict { .. })), "{claim:?}");
    }
    let state = open().slot(SLOT).await.unwrap();
    assert_eq!((state.window, state.retired), (Some((next, newer)), None));
}

async fn a_slot_that_looks_alive_is_a_conflict(open: Open<'_>) {
    let (registry, holder, other) = (open(), worker("a"), worker("b"));
    let (_, ceiling, revision) = claimed(&*registry, &holder).await;
    let (taken, _) = record(&other, Some(ceiling), NOW_MS + 20_000);
    let claim = open().claim(SLOT, Some(revision), &taken, &other).await;
    assert!(matches!(claim, Err(SwapError::Conflict { holder: Some(ref owner) }) if *owner == holder.owner));
    assert_eq!(open().slot(SLOT).await.unwrap().worker, Some(holder));
}

async fn a_retired_slot_says_so_and_a_claim_ends_it(open: Open<'_>) {
    let (registry, holder) = (open(), worker("a"));
    let (record_before, ceiling, revision) = claimed(&*registry, &holder).await;
    let entry = retired("a", NOW_MS + 1_000);
    registry.retire(SLOT, revision, &record_before, &entry).await.unwrap();
    let other = open();
    let state = other.slot(SLOT).await.unwrap();
    assert_eq!((&state.worker, &state.retired), (&None, &Some(entry)));
    let (window, revision_after) = state.window.unwrap();
    assert_eq!(window, record_before, "the ceiling stays when a slot is given back");
    assert_ne!(revision_after, revision, "who believes to hold it still has to be told");

    let next = worker("b");
    let (taken, _) = record(&next, Some(ceiling), NOW_MS + 20_000);
    other.claim(SLOT, Some(revision_after), &taken, &next).await.unwrap();
    let state = registry.slot(SLOT).await.unwrap();
    assert_eq!((state.worker, state.retired), (Some(next), None));
}

async fn an_abandoned_slot_is_free_and_keeps_its_record(open: Open<'_>) {
    let (registry, holder) = (open(), worker("a"));
    let (record, _, revision) = claimed(&*registry, &holder).await;
    registry.abandon(SLOT).await;
    let state = open().slot(SLOT).await.unwrap();
    assert_eq!((state.window, state.worker), (Some((record, revision)), None));
}

/// Invariant 10: an operator gives back a slot whose holder knows nothing of it, until it extends.
async fn a_slot_can_be_taken_from_its_holder(open: Open<'_>) {
    let (registry, holder) = (open(), worker("a"));
    let (stands, ceiling, revision) = claimed(&*registry, &holder).await;
    let entry = retired("a", NOW_MS);
    open().retire(SLOT, revision, &stands, &entry).await.unwrap();
    let state = open().slot(SLOT).await.unwrap();
    assert_eq!((state.worker, state.retired), (None, Some(entry.clone())));

    let (next, _) = record(&holder, Some(ceiling), NOW_MS + 5_000);
    let extended = registry.extend(SLOT, revision, &next).await;
    assert!(matches!(extended, Err(SwapError::Conflict { .. })), "{extended:?}");
    registry.abandon(SLOT).await;
    let state = open().slot(SLOT).await.unwrap();
    assert_eq!((state.worker, state.retired), (None, Some(entry)));
    assert_eq!(state.window.unwrap().0, stands);
}

async fn a_changed_setting_is_seen_by_who_waits_for_it(open: Open<'_>) {
    let registry = open();
    let first = registry.open(&namespace()).await.unwrap();
    let (read, changed) = registry.settings().await.unwrap();
    assert_eq!(read, first);
    open().set(&Setting::MaxSequence(1_000)).await.unwrap();
    tokio::time::timeout(PATIENCE, changed).await.expect("a change is told");
    let (read, _) = registry.settings().await.unwrap();
    assert_eq!(read, Namespace { max_sequence: 1_000, ..first.clone() });

    open().set(&Setting::ClockDriftThreshold(250)).await.unwrap();
    open().set(&Setting::DatacenterName(3, "eu-west-1".to_owned())).await.unwrap();
    open().set(&Setting::DatacenterRegion(3, "eu-west".to_owned())).await.unwrap();
    let snapshot = registry.snapshot().await.unwrap();
    let changed = Namespace { max_sequence: 1_000, clock_drift_threshold_ms: 250, ..first };
    assert_eq!(snapshot.namespace, changed);
    let datacenter = Datacenter { name: Some("eu-west-1".to_owned()), region: Some("eu-west".to_owned()) };
    assert_eq!(snapshot.datacenters, [(3, datacenter)].into());
    // What stands is not written over by a node that starts.
    assert_eq!(open().open(&namespace()).await.unwrap(), changed);
}

async fn of_many_first_nodes_one_names_the_namespace(open: Open<'_>) {
    let opened = (0..8).map(|number| {
        let (registry, wanted) = (open(), Namespace { max_sequence: number, ..namespace() });
        tokio::spawn(async move { registry.open(&wanted).await.unwrap() })
    });
    let mut stands = Vec::new();
    for opened in opened.collect::<Vec<_>>() {
        stands.push(opened.await.unwrap());
    }
    assert!(stands.iter().all(|one| *one == stands[0]), "{stands:?}");
}

async fn of_many_at_once_one_gets_the_slot(open: Open<'_>) {
    let contenders = 8;
    open().open(&namespace()).await.unwrap();
    let claims = (0..contenders).map(|number| {
        let (registry, worker) = (open(), worker(&number.to_string()));
        tokio::spawn(async move {
            let (record, _) = record(&worker, None, NOW_MS);
            let won = registry.claim(SLOT, None, &record, &worker).await.is_ok();
            (registry, won)
        })
    });
    let mut winners = 0;
    // The registries stay open until all have tried: a winner that is gone would free the slot.
    let mut open_registries = Vec::new();
    for claim in claims.collect::<Vec<_>>() {
        let (registry, won) = claim.await.unwrap();
        winners += usize::from(won);
        open_registries.push(registry);
    }
    assert_eq!(winners, 1);
}

fn retired(node: &str, now_ms: u64) -> Retired {
    Retired {
        retired_at: timestamp(now_ms),
        last_id: snowmint::Id::new(7),
        reuse_after: timestamp(now_ms + 3_600_000),
        node: node.to_owned(),
    }
}
