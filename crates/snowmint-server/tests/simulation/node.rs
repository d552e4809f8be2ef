//! A node: its lease, clock, settings and service, put together as the server does it, and its clients. All of
//! it is one future, that can be stopped as with SIGSTOP and dropped as with SIGKILL.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::{join_all, join4};
use snowmint::{Id, IdRange, Layout, SequenceStart, Slot};
use snowmint_server::clock::{self, ClockSettings, ServingClock};
use snowmint_server::event::{Events, Keeping};
use snowmint_server::lease::{Held, Holding, Lease, LeaseSettings};
use snowmint_server::metrics::Metrics;
use snowmint_server::registry::{Registry, Worker};
use snowmint_server::service::{Refused, Service};
use snowmint_server::settings::Settings;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::history::{Event, Violation};
use crate::network::Connection;
use crate::registry::Store;
use crate::rng::Rng;
use crate::time::HostClock;

/// The longest wait for IDs, in milliseconds: `limits.wait_ms`.
const WAIT_MS_MAX: u64 = 200;

/// The latest that an answer may come, in milliseconds: the longest wait, a tenth more because the serving clock
/// may run a tenth slower than the timers, and the wait for an extension.
const ANSWER_MS_MAX: u64 = WAIT_MS_MAX + WAIT_MS_MAX / 9 + 100 + TIMER_MS;

/// What timers are late by, in milliseconds, in all.
const TIMER_MS: u64 = 4;

/// How long a forward leap has to last before it is believed, in seconds.
const LEAP_CONFIRM_S: u64 = 10;

/// The most IDs a client asks for: where a millisecond has few, more of them than the longest wait has.
const IDS_MAX: u64 = 300;

/// The most requests a client makes at once.
const BURST_MAX: u64 = 6;

/// What is the same for every node of a history.
#[derive(Clone)]
pub struct Common {
    pub layout: Layout,
    pub window_ms: u64,
    pub grace_s: u64,
    pub reuse_cooling: bool,
    /// How many slots a node holds.
    pub slots: NonZeroU16,
    pub clients: usize,
    pub think_ms: u64,
    /// Set when everything is healed: clients only look whether they are served.
    pub quiet: Arc<AtomicBool>,
}

/// Stops a future as SIGSTOP does: timers ring and replies pile up, and nobody looks.
#[derive(Default)]
pub struct Gate(Mutex<GateState>);

#[derive(Default)]
struct GateState {
    paused_since: Option<Instant>,
    paused: Duration,
    waker: Option<Waker>,
}

impl Gate {
    pub fn pause(&self) {
        self.0.lock().unwrap().paused_since.get_or_insert_with(Instant::now);
    }

    pub fn resume(&self) {
        let mut state = self.0.lock().unwrap();
        if let Some(since) = state.paused_since.take() {
            state.paused += since.elapsed();
        }
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// The time since `started` less the pauses, in milliseconds.
    fn awake_ms(&self, started: Instant) -> u64 {
        let awake = started.elapsed().saturating_sub(self.0.lock().unwrap().paused);
        u64::try_from(awake.as_millis()).unwrap()
    }
}

/// A future behind a gate.
struct Gated<F> {
    gate: Arc<Gate>,
    inner: Pin<Box<F>>,
}

impl<F: Future> Future for Gated<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        {
            let mut state = self.gate.0.lock().unwrap();
            if state.paused_since.is_some() {
                state.waker = Some(context.waker().clone());
                return Poll::Pending;
            }
        }
        self.inner.as_mut().poll(context)
    }
}

/// One run of a node.
pub struct Node {
    pub gate: Arc<Gate>,
    /// As SIGTERM does.
    pub stop: CancellationToken,
    pub served: Arc<AtomicU64>,
    pub holding: Arc<Holding>,
    pub clock: Arc<ServingClock>,
    pub metrics: Arc<Metrics>,
    running: tokio::task::JoinHandle<()>,
}

impl Node {
    /// Puts one together and starts it.
    pub fn start(common: &Common, host: Arc<HostClock>, connection: Connection, rng: Rng) -> Self {
        let Connection { ref worker, ref store, .. } = connection;
        let (worker, store) = (worker.clone(), Arc::clone(store));
        let instance = worker.owner.instance;
        let layout = common.layout;
        let clock_settings = ClockSettings {
            epoch_ms: layout.epoch_ms(),
            end_ms: layout.end_ms(),
            leap_confirm_s: LEAP_CONFIRM_S,
            refuse_above_ms: None,
        };
        let clock = Arc::new(ServingClock::start(host, clock_settings).unwrap());
        let (holding, metrics) = (Arc::new(Holding::new(common.slots)), Arc::new(Metrics::new()));
        // What a node opens at its start is what stands; that it waits for it is not simulated.
        let namespace = store.lock().unwrap().namespace.clone();
        let settings = Arc::new(Settings::new(namespace, None));
        let service = Service::new(
            Arc::clone(&clock),
            Arc::clone(&holding),
            Arc::clone(&metrics),
            Arc::clone(&settings),
            layout,
            WAIT_MS_MAX,
        );
        let registry: Arc<dyn Registry> = Arc::new(connection);
        let lease = Lease::new(
            Arc::clone(&registry),
            Arc::clone(&clock),
            Arc::clone(&holding),
            Arc::clone(&metrics),
            lease_settings(common, worker, Arc::clone(&settings), &metrics),
        );
        let (gate, stop, served) =
            (Arc::new(Gate::default()), CancellationToken::new(), Arc::new(AtomicU64::new(0)));
        let users = Arc::new(Users {
            instance,
            started: Instant::now(),
            gate: Arc::clone(&gate),
            stop: stop.clone(),
            service,
            holding: Arc::clone(&holding),
            store,
            seen: Mutex::default(),
            common: common.clone(),
            served: Arc::clone(&served),
        });
        let (end, clock_run) = (stop.clone(), Arc::clone(&clock));
        let held = Arc::clone(&holding);
        let whole = async move {
            let apply = move |settings: &Settings| {
                for held in held.load().iter() {
                    held.generator.set_max_sequence(settings.max_sequence());
                }
            };
            join4(
                lease.run(end.clone()),
                clock::run(clock_run, |_| (), end.clone()),
                settings.run(registry, apply, end.clone()),
                end.run_until_cancelled(users.all(rng)),
            )
            .await;
        };
        let running = tokio::spawn(Gated { gate: Arc::clone(&gate), inner: Box::pin(whole) });
        Self { gate, stop, served, holding, clock, metrics, running }
    }

    /// As SIGKILL does.
    pub async fn kill(self) {
        self.running.abort();
        // It was cancelled, unless it has panicked, which is the history's end.
        if let Err(error) = self.running.await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

fn lease_settings(
    common: &Common,
    worker: Worker,
    shared: Arc<Settings>,
    metrics: &Arc<Metrics>,
) -> LeaseSettings {
    LeaseSettings {
        layout: common.layout,
        worker,
        datacenter: 0,
        fixed_worker: None,
        window_ms: common.window_ms,
        grace_s: common.grace_s,
        reuse_cooling: common.reuse_cooling,
        idle_days_max: 366,
        // The same IDs for the same history.
        sequence_start: SequenceStart::Zero,
        shared,
        mark: None,
        events: Arc::new(Events::new(Arc::clone(metrics), Keeping::Off)),
    }
}

/// The clients of one run of a node, and what they see.
struct Users {
    instance: Uuid,
    started: Instant,
    gate: Arc<Gate>,
    stop: CancellationToken,
    service: Service,
    holding: Arc<Holding>,
    store: Arc<Mutex<Store>>,
    /// The generators that were held when one of them last looked.
    seen: Mutex<BTreeMap<Slot, Weak<Held>>>,
    common: Common,
    served: Arc<AtomicU64>,
}

impl Users {
    async fn all(self: Arc<Self>, mut rng: Rng) {
        join_all((0..self.common.clients).map(|number| self.one(number, rng.fork()))).await;
    }

    /// A client: thinks, asks, and holds what it gets against what it got before.
    async fn one(&self, number: usize, mut rng: Rng) {
        let mut last = None;
        loop {
            if !self.common.quiet.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(rng.within(0..=self.common.think_ms))).await;
            } else if number == 0 {
                sleep(Duration::from_secs(1)).await;
            } else {
                return;
            }
            let at_once = if rng.per_mille(60) { rng.within(2..=BURST_MAX) } else { 1 };
            let requests = (0..at_once).map(|_| self.ask(rng.magnitude(1..=IDS_MAX), last));
            last = join_all(requests.collect::<Vec<_>>()).await.into_iter().flatten().max().max(last);
            self.look_at_the_slots();
        }
    }

    /// One request. `after` is the last ID that this client got.
    async fn ask(&self, count: u64, after: Option<Id>) -> Option<Id> {
        let asked_ms = self.gate.awake_ms(self.started);
        let count = u32::try_from(count).unwrap();
        let answer = match count {
            1 => self.service.id().await.map(|id| vec![IdRange::new(id, 1).unwrap()]),
            _ => self.service.ranges(count).await,
        };
        self.answered(count, &answer, after, self.gate.awake_ms(self.started) - asked_ms);
        answer.ok()?.last().map(IdRange::last)
    }

    fn answered(&self, count: u32, answer: &Result<Vec<IdRange>, Refused>, after: Option<Id>, took_ms: u64) {
        let (instance, history) = (self.instance, &mut self.store.lock().unwrap().history);
        if took_ms > ANSWER_MS_MAX {
            history.broken(Violation::Late { instance, took_ms, most_ms: ANSWER_MS_MAX });
        }
        match answer {
            Err(refused) => history.refused(instance, refused),
            Ok(ranges) => {
                assert_eq!(ranges.iter().map(IdRange::count).sum::<u32>(), count, "all or none");
                history.granted(instance, ranges);
                let mut before = after;
                for range in ranges {
                    if let Some(after) = before.filter(|before| *before >= range.first()) {
                        history.broken(Violation::NotIncreasing { id: range.first(), after, instance });
                    }
                    before = Some(range.last());
                }
                self.served.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Invariant 10: the generator of a slot that is not held any more is gone.
    fn look_at_the_slots(&self) {
        let slots = self.holding.load();
        let held: BTreeMap<_, _> =
            slots.iter().map(|held| (held.generator.slot(), Arc::downgrade(held))).collect();
        drop(slots);
        let mut seen = self.seen.lock().unwrap();
        let history = &mut self.store.lock().unwrap().history;
        for (slot, lost) in std::mem::replace(&mut *seen, held.clone()) {
            if held.get(&slot).is_some_and(|held| held.ptr_eq(&lost)) {
                continue;
            }
            history.counts.lost_slots += 1;
            history.note(Event::SlotLost { slot, instance: self.instance });
            // One that stops keeps it until the slot is given back with the last ID.
            if lost.strong_count() > 0 && !self.stop.is_cancelled() {
                history.broken(Violation::GeneratorKept { slot, instance: self.instance });
            }
        }
    }
}
