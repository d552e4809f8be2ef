//! The lease and the service on a registry that fails in every way a registry can.

use std::num::NonZeroU16;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use snowmint::{Claim, Id, Layout, SequenceStart, Slot};
use snowmint_server::clock::{ClockSettings, HostTime, ServingClock};
use snowmint_server::event::{Events, Keeping};
use snowmint_server::lease::{Holding, Lease, LeaseSettings};
use snowmint_server::metrics::Metrics;
use snowmint_server::registry::{EmbeddedRegistry, Registry, WindowRecord};
use snowmint_server::service::{Refused, Service};
use snowmint_server::settings::Settings;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::contract::{namespace, worker};
use crate::faulty::{Fault, Faulty};

const WINDOW_MS: u64 = 600;
const PATIENCE: Duration = Duration::from_secs(20);

/// A whole node, in this process.
struct Node {
    registry: Arc<Faulty>,
    service: Arc<Service>,
    holding: Arc<Holding>,
    stop: CancellationToken,
    lease: JoinHandle<()>,
}

impl Node {
    async fn start(directory: &Path, name: &str, change: impl FnOnce(&mut LeaseSettings)) -> Self {
        Self::with_slots(NonZeroU16::MIN, directory, name, change).await
    }

    async fn with_slots(
        slots: NonZeroU16,
        directory: &Path,
        name: &str,
        change: impl FnOnce(&mut LeaseSettings),
    ) -> Self {
        let registry = Arc::new(Faulty::new(EmbeddedRegistry::new(directory).unwrap()));
        registry.open(&namespace()).await.unwrap();
        let clock = Arc::new(ServingClock::start(Arc::new(HostTime), ClockSettings::default()).unwrap());
        let (metrics, holding) = (Arc::new(Metrics::new()), Arc::new(Holding::new(slots)));
        let layout = Layout::default();
        let shared = Arc::new(Settings::new(namespace(), None));
        let mut settings = LeaseSettings {
            layout,
            worker: worker(name),
            datacenter: 0,
            fixed_worker: None,
            window_ms: WINDOW_MS,
            grace_s: 3_600,
            reuse_cooling: false,
            idle_days_max: 366,
            sequence_start: SequenceStart::Jittered,
            shared: Arc::clone(&shared),
            mark: None,
            events: Arc::new(Events::new(Arc::clone(&metrics), Keeping::Off)),
        };
        change(&mut settings);
        let service = Service::new(
            Arc::clone(&clock),
            Arc::clone(&holding),
            Arc::clone(&metrics),
            shared,
            layout,
            2_000,
        );
        let lease = Lease::new(registry.clone(), clock, Arc::clone(&holding), metrics, settings);
        let stop = CancellationToken::new();
        let lease = tokio::spawn(lease.run(stop.clone()));
        Self { registry, service: Arc::new(service), holding, stop, lease }
    }

    fn slot(&self) -> Option<Slot> {
        self.service.slot()
    }

    async fn ready(&self) -> Slot {
        until(|| self.service.unready().is_none()).await;
        self.slot().unwrap()
    }

    async fn stop(self) {
        self.stop.cancel();
        self.lease.await.unwrap();
    }
}

/// So few that requests have to wait, from a window that does not end meanwhile.
fn ten_a_millisecond(settings: &mut LeaseSettings) {
    settings.shared = Arc::new(Settings::new(namespace(), Some(9)));
    settings.window_ms = 10_000;
}

async fn until(condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "it did not happen");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_one_registry_hold_different_slots() {
    let directory = tempfile::tempdir().unwrap();
    let (a, b) =
        (Node::start(directory.path(), "a", |_| ()).await, Node::start(directory.path(), "b", |_| ()).await);
    assert_ne!(a.ready().await, b.ready().await);
}

/// Invariant 2: a window goes on as long as the registry answers, and IDs are inside it.
#[tokio::test(flavor = "multi_thread")]
async fn the_window_is_extended_before_it_ends() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path(), "a", |_| ()).await;
    let slot = node.ready().await;
    let started = Instant::now();
    let mut last = None;
    while started.elapsed() < Duration::from_millis(3 * WINDOW_MS) {
        let id = node.service.id().await.unwrap();
        assert!(Some(id) > last);
        last = Some(id);
        let (record, _) = node.registry.slot(slot).await.unwrap().window.unwrap();
        assert!(id < record.ceiling);
    }
    assert_eq!(node.slot(), Some(slot));
}

/// Invariant 8: without a window the answer is a typed refusal, at once; minting resumes by itself.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_survived_to_the_ceiling_and_then_refused_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path(), "a", |_| ()).await;
    let slot = node.ready().await;
    node.registry.set(Fault::Unreachable);
    let ceiling = node.holding.load().first().unwrap().generator.ceiling().id();
    let mut last = Id::new(0).unwrap();
    let refused = loop {
        match node.service.id().await {
            Ok(id) => last = id,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, Refused::WindowClosed { .. }), "{refused}");
    assert!(last < ceiling && node.service.now_ms() >= Layout::default().decompose(ceiling).timestamp_ms);
    until(|| !node.holding.registry_answers()).await;
    let asked = Instant::now();
    assert!(node.service.ranges(10_000).await.is_err());
    assert!(asked.elapsed() < Duration::from_millis(100), "{:?}", asked.elapsed());
    assert_eq!(node.service.health().status, "unhealthy");

    node.registry.set(Fault::None);
    assert_eq!(node.ready().await, slot);
    assert!(node.service.id().await.unwrap() >= ceiling);
    assert_eq!(node.service.health().status, "healthy");
}

/// Invariant 9: a swap whose reply was lost is read again, and a request that got lost is repeated.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_or_request_costs_nothing() {
    for fault in [Fault::LosesReply, Fault::LosesRequest] {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::start(directory.path(), "a", |_| ()).await;
        let slot = node.ready().await;
        for _ in 0..3 {
            let generator_ceiling = || node.holding.load().first().unwrap().generator.ceiling();
            let before = generator_ceiling();
            node.registry.set(fault);
            until(|| node.registry.fault() == Fault::None && generator_ceiling() > before).await;
            node.service.id().await.unwrap();
        }
        assert_eq!(node.slot(), Some(slot));
        let (record, _) = node.registry.slot(slot).await.unwrap().window.unwrap();
        let held = node.holding.load();
        assert!(held.first().unwrap().generator.ceiling().id() <= record.ceiling);
    }
}

/// Invariant 10: a slot whose record somebody else changed is lost; the generator is dropped, another slot
/// is claimed, and what the old one can still have in hand lies below the ceiling that was its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_drops_the_generator_and_claims_another_slot() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path(), "a", |_| ()).await;
    let slot = node.ready().await;
    let lost = Arc::downgrade(node.holding.load().first().unwrap());
    let thief = worker("thief");
    steal(&*node.registry, slot, &thief).await;
    until(|| node.slot().is_some_and(|now| now != slot)).await;
    until(|| lost.upgrade().is_none()).await;
    node.service.id().await.unwrap();
    let (record, _) = node.registry.slot(slot).await.unwrap().window.unwrap();
    assert_eq!(record.owner, thief.owner);
}

/// Moves a slot's window on, as a node that took it over would.
async fn steal(registry: &dyn Registry, slot: Slot, thief: &snowmint_server::registry::Worker) {
    let layout = Layout::default();
    loop {
        let (record, revision) = registry.slot(slot).await.unwrap().window.unwrap();
        let floor = snowmint::Ceiling::from_id(layout, record.ceiling).unwrap();
        let claim = Claim::new(layout, slot, Some(floor), floor.time_ms(layout), 1_000).unwrap();
        let record = WindowRecord::new(thief.owner.clone(), claim.ceiling(), layout);
        if registry.extend(slot, revision, &record).await.is_ok() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_given_back_is_kept_for_its_node() {
    let directory = tempfile::tempdir().unwrap();
    let fixed = |settings: &mut LeaseSettings| settings.fixed_worker = Some(3);
    let node = Node::start(directory.path(), "a", fixed).await;
    let slot = node.ready().await;
    let last = node.service.id().await.unwrap();
    let registry = Arc::clone(&node.registry);
    node.stop().await;
    let state = registry.slot(slot).await.unwrap();
    let retired = state.retired.unwrap();
    assert_eq!((retired.last_id, retired.node.as_str(), state.worker), (Some(last), "a", None));
    assert_eq!(retired.reuse_after.as_second() - retired.retired_at.as_second(), 3_600);

    let other = Node::start(directory.path(), "b", fixed).await;
    until(|| other.holding.absence().contains("is kept for it until")).await;
    assert_eq!(other.slot(), None);
    assert!(matches!(other.service.id().await, Err(Refused::NoSlot(_))));
    let again = Node::start(directory.path(), "a", fixed).await;
    assert_eq!(again.ready().await, slot);
    assert!(again.service.id().await.unwrap() > last);
    assert_eq!(registry.slot(slot).await.unwrap().retired, None);
}

/// Invariant 11: what cannot be given within the longest wait is refused at once, and nothing is used up;
/// what can is given in full.
#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_the_longest_wait_are_refused_and_others_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path(), "a", ten_a_millisecond).await;
    node.ready().await;
    let refused = node.service.ranges(1_000_000).await.unwrap_err();
    assert!(matches!(refused, Refused::Overflow { wanted: 1_000_000, .. }), "{refused}");

    let requests = (0..8).map(|_| {
        let service = Arc::clone(&node.service);
        tokio::spawn(async move { service.ranges(1_000).await })
    });
    let mut ids = Vec::new();
    for request in requests.collect::<Vec<_>>() {
        let ranges = request.await.unwrap().unwrap();
        assert_eq!(ranges.iter().map(snowmint::IdRange::count).sum::<u32>(), 1_000);
        ids.extend(ranges.iter().flat_map(snowmint::IdRange::ids));
    }
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count);
    assert!(node.service.health().sequence_overflows >= 8);
}

/// Who waits for a millisecond gets it before who came later, also before one who finds it free.
#[tokio::test(flavor = "multi_thread")]
async fn waiting_is_in_arrival_order() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path(), "a", ten_a_millisecond).await;
    node.ready().await;
    let mut requests = Vec::new();
    for _ in 0..20 {
        let mut request = Box::pin(node.service.ranges(25));
        // Polled once, it has arrived; it wants more than a millisecond has, and so it waits.
        assert!(futures_util::poll!(&mut request).is_pending());
        requests.push(request);
    }
    let answers = futures_util::future::join_all(requests).await;
    // What the first poll of each took at once came before all that was waited for.
    let lasts: Vec<Id> = answers.into_iter().map(|ranges| ranges.unwrap().last().unwrap().last()).collect();
    assert!(lasts.is_sorted_by(|one, next| one < next), "{lasts:?}");
}

/// Invariant 7: a clock years past everything the registry knows is not believed when a slot is taken.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_far_past_the_newest_window_takes_no_slot() {
    let directory = tempfile::tempdir().unwrap();
    let registry = EmbeddedRegistry::new(directory.path()).unwrap();
    registry.open(&namespace()).await.unwrap();
    // A window that ended in January 2021, which for a registry in use means that the clock is wrong.
    let (layout, slot, old) = (Layout::default(), Slot { datacenter: 0, worker: 9 }, worker("old"));
    let claim = Claim::new(layout, slot, None, crate::contract::NOW_MS, 10_000).unwrap();
    let record = WindowRecord::new(old.owner.clone(), claim.ceiling(), layout);
    registry.claim(slot, None, &record, &old).await.unwrap();
    registry.abandon(slot).await;

    let node = Node::start(directory.path(), "a", |_| ()).await;
    until(|| node.holding.absence().contains("is taken for wrong")).await;
    assert_eq!(node.slot(), None);
    let sure = Node::start(directory.path(), "b", |settings| settings.idle_days_max = 36_500).await;
    sure.ready().await;
}

/// Each slot of a node fares for itself; all of them are given back.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_holds_several_slots_and_loses_one_of_them() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::with_slots(NonZeroU16::new(3).unwrap(), directory.path(), "a", ten_a_millisecond).await;
    until(|| node.holding.missing() == 0).await;
    let workers = || node.service.health().slots.iter().map(|slot| slot.worker_id).collect::<Vec<_>>();
    assert_eq!(workers(), [0, 1, 2]);
    let kept = node.holding.load().iter().map(Arc::downgrade).collect::<Vec<_>>();

    steal(&*node.registry, Slot { datacenter: 0, worker: 1 }, &worker("thief")).await;
    node.holding.ask_for_extension();
    until(|| workers() == [0, 2, 3]).await;
    until(|| kept[1].strong_count() == 0).await;
    assert!(kept[0].strong_count() > 0 && kept[2].strong_count() > 0);

    let ranges = node.service.ranges(1_000).await.unwrap();
    assert!(ranges.is_sorted_by(|one, next| one.last() < next.first()), "{ranges:?}");
    let health = node.service.health();
    assert_eq!((health.status, health.ids_generated), ("healthy", 1_000));
    assert!(health.slots.iter().all(|slot| slot.ids_generated > 300), "{health:?}");
    let registry = Arc::clone(&node.registry);
    node.stop().await;
    for worker in [0, 2, 3] {
        let state = registry.slot(Slot { datacenter: 0, worker }).await.unwrap();
        let last_id = health.slots.iter().find(|slot| slot.worker_id == worker).unwrap().last_id;
        assert_eq!(state.retired.map(|retired| retired.last_id), Some(last_id));
    }
}

/// A node that gets fewer slots than it wants serves with those, and says what is missing and why.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_fewer_slots_than_it_wants_is_degraded_and_serves() {
    let directory = tempfile::tempdir().unwrap();
    let other = Node::with_slots(NonZeroU16::new(2).unwrap(), directory.path(), "a", |_| ()).await;
    until(|| other.holding.missing() == 0).await;
    let node = Node::with_slots(NonZeroU16::new(32).unwrap(), directory.path(), "b", |_| ()).await;
    until(|| node.service.health().reasons.iter().any(|why| why.contains("2 of 32 slots are not held")))
        .await;
    until(|| node.service.health().reasons.iter().any(|why| why.contains("of 32, 32 are held"))).await;
    let health = node.service.health();
    assert_eq!((health.status, health.slots.len(), health.slots_wanted), ("degraded", 30, 32));
    assert!(node.service.unready().is_none());
    node.service.id().await.unwrap();
    other.stop().await;
    until(|| node.service.health().reasons.iter().any(|why| why.contains("2 are kept for"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_thirty_third_node_is_told_why_it_has_no_slot() {
    let directory = tempfile::tempdir().unwrap();
    let mut nodes = Vec::new();
    for number in 0..32 {
        nodes.push(Node::start(directory.path(), &format!("node-{number}"), |s| s.window_ms = 60_000).await);
    }
    let mut slots = Vec::new();
    for node in &nodes {
        slots.push(node.ready().await);
    }
    slots.sort_unstable();
    slots.dedup();
    assert_eq!(slots.len(), 32);
    let late = Node::start(directory.path(), "late", |_| ()).await;
    until(|| late.holding.absence().contains("of 32, 32 are held (0 by node-")).await;
    let freed = nodes.swap_remove(7);
    let (slot, registry) = (freed.slot().unwrap(), Arc::clone(&freed.registry));
    freed.stop().await;
    until(|| late.holding.absence().contains("1 are kept for the nodes that gave them back")).await;
    assert!(late.holding.absence().contains("the next comes free at"));
    assert!(registry.slot(slot).await.unwrap().retired.is_some());
}
