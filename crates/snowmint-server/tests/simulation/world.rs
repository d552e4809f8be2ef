//! A history: some hosts, one registry, and what chance does to them, all of it drawn from one seed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use snowmint::{Layout, Slot, Split};
use snowmint_server::clock::TimeSource;
use snowmint_server::registry::{Namespace, Owner, Retired, Setting, Worker, timestamp};
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use crate::history::{Counts, Event, History, Violation};
use crate::network::{Connection, Cut, Link};
use crate::node::{Common, Node};
use crate::registry::{Flaw, Store};
use crate::rng::Rng;
use crate::time::{HostClock, START_MS};

/// For how long things go wrong, in milliseconds.
const CHAOS_MS: u64 = 45_000;

/// After everything is healed: what may still be under way, and what a node needs to take a slot and to serve,
/// in milliseconds.
const RECOVERY_MS: u64 = 40_000 + 20_000;

/// How long a node that is told to stop may take, in milliseconds.
const STOP_MS_MAX: u64 = 3_000;

/// What happens to a part of the world.
#[derive(Clone, Debug, Hash)]
pub enum Fault {
    Kill { host: usize },
    Stop { host: usize },
    Pause { host: usize, ms: u64 },
    Cut { host: usize, cut: Cut, ms: u64 },
    Outage { cut: Cut, ms: u64 },
    BadConnection { host: usize, ms: u64 },
    ClockStep { host: usize, ms: i64, drift_ppm: i64 },
    Retire { slot: Slot },
    MaxSequence { to: u32 },
    Forget { slot: Slot },
}

/// What is to be done later.
enum Action {
    Harm,
    Start(usize),
    Kill(usize),
    Resume(usize),
    Heal(usize),
}

/// How a history ended.
pub struct Outcome {
    pub hash: u64,
    pub counts: Counts,
    pub violations: Vec<Violation>,
    pub tail: String,
}

struct Host {
    clock: Arc<HostClock>,
    link: Arc<Link>,
    name: String,
    node: Option<Node>,
}

struct World {
    rng: Rng,
    started: Instant,
    common: Common,
    flaw: Flaw,
    clock_step_ms_max: u64,
    hosts: Vec<Host>,
    store: Arc<Mutex<Store>>,
    actions: BTreeMap<(u64, u64), Action>,
    actions_ever: u64,
}

/// Lives through the history of a seed.
pub fn live(seed: u64, flaw: Flaw) -> Outcome {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut world = World::new(Rng::new(seed), flaw);
        world.chaos().await;
        world.recover().await;
        world.end().await
    })
}

impl World {
    fn new(mut rng: Rng, flaw: Flaw) -> Self {
        let started = Instant::now();
        let worker_bits = rng.pick(&[1, 2, 2]);
        let split = Split::new(41, 12 - worker_bits, worker_bits, 10).unwrap();
        let layout = Layout::new(split, snowmint::DEFAULT_EPOCH_MS).unwrap();
        let namespace = Namespace {
            cluster_id: Uuid::nil(),
            epoch_ms: layout.epoch_ms(),
            layout: split,
            max_sequence: rng.pick(&[3, 31, 1_023]),
            clock_drift_threshold_ms: 100,
        };
        let window_ms = rng.pick(&[1_000, 3_000, 10_000, 10_000]);
        // Extensions alone keep a worker alive here, so that it takes longer than the pause between two of them.
        let ttl = Duration::from_millis(window_ms * rng.pick(&[7, 10, 30, 30]) / 10);
        let history = History::new(started, layout);
        let store = Arc::new(Mutex::new(Store::new(namespace, ttl, flaw, history)));
        let common = Common {
            layout,
            window_ms,
            grace_s: rng.pick(&[0, 5, 20]),
            reuse_cooling: rng.per_mille(300),
            slots: if worker_bits == 2 { rng.pick(&[1, 1, 2, 3]) } else { 1 }.try_into().unwrap(),
            clients: 2,
            think_ms: 600,
            quiet: Arc::new(AtomicBool::new(false)),
        };
        let host = |number: u64, rng: &mut Rng| Host {
            clock: Arc::new(HostClock::new(started)),
            link: Arc::new(Link::new(rng.fork())),
            name: format!("node-{number}"),
            node: None,
        };
        let nodes = rng.within(2..=4);
        let hosts = (0..nodes).map(|number| host(number, &mut rng)).collect();
        let clock_step_ms_max = rng.pick(&[20, 2_000, 2_000, 2_000, 20_000, 20_000, 600_000]);
        let (actions, actions_ever) = (BTreeMap::new(), 0);
        Self { rng, started, common, flaw, clock_step_ms_max, hosts, store, actions, actions_ever }
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap()
    }

    fn later(&mut self, in_ms: u64, action: Action) {
        self.actions_ever += 1;
        self.actions.insert((self.now_ms() + in_ms, self.actions_ever), action);
    }

    async fn chaos(&mut self) {
        for host in 0..self.hosts.len() {
            let in_ms = self.rng.magnitude(0..=2_000);
            self.later(in_ms, Action::Start(host));
        }
        self.later(1_000, Action::Harm);
        while let Some(((at_ms, _), action)) = self.actions.pop_first()
            && at_ms < CHAOS_MS
        {
            sleep_until(self.started + Duration::from_millis(at_ms)).await;
            self.act(action).await;
        }
        self.actions.clear();
    }

    async fn act(&mut self, action: Action) {
        match action {
            Action::Harm => {
                let fault = self.draw();
                self.store().history.note(Event::Fault(fault.clone()));
                self.harm(fault).await;
                let in_ms = self.rng.magnitude(50..=4_000);
                self.later(in_ms, Action::Harm);
            }
            Action::Start(host) => self.start(host),
            Action::Kill(host) => self.kill(host).await,
            Action::Resume(host) => {
                if let Some(node) = &self.hosts[host].node {
                    node.gate.resume();
                }
            }
            Action::Heal(host) => self.hosts[host].link.heal(),
        }
    }

    fn draw(&mut self) -> Fault {
        let rng = &mut self.rng;
        let host = usize::try_from(rng.within(0..=self.hosts.len() as u64 - 1)).unwrap();
        let workers = u64::from(self.common.layout.split().workers());
        let slot = Slot { datacenter: 0, worker: u16::try_from(rng.within(0..=workers - 1)).unwrap() };
        let cut = rng.pick(&[Cut::Requests, Cut::Replies, Cut::Both]);
        let ms = rng.magnitude(100..=60_000);
        if self.flaw == Flaw::Forgets && rng.per_mille(200) {
            return Fault::Forget { slot };
        }
        match rng.within(0..=99) {
            0..20 => Fault::Kill { host },
            20..26 => Fault::Stop { host },
            26..46 => Fault::Pause { host, ms },
            46..60 => Fault::Cut { host, cut, ms },
            60..66 => Fault::Outage { cut, ms: ms / 3 },
            66..74 => Fault::BadConnection { host, ms },
            74..86 => {
                let ms = rng.magnitude(1..=self.clock_step_ms_max).cast_signed();
                let drift_ppm = rng.within(0..=1_000).cast_signed() - 500;
                Fault::ClockStep { host, ms: rng.pick(&[ms, -ms]), drift_ppm }
            }
            86..94 => Fault::Retire { slot },
            _ => Fault::MaxSequence { to: rng.pick(&[0, 3, 7, 31, 1_023, 5_000]) },
        }
    }

    async fn harm(&mut self, fault: Fault) {
        match fault {
            Fault::Kill { host } => self.kill(host).await,
            Fault::Stop { host } => {
                if let Some(node) = &self.hosts[host].node {
                    node.stop.cancel();
                }
                self.later(STOP_MS_MAX, Action::Kill(host));
            }
            Fault::Pause { host, ms } => {
                if let Some(node) = &self.hosts[host].node {
                    node.gate.pause();
                }
                self.later(ms, Action::Resume(host));
            }
            Fault::Cut { host, cut, ms } => {
                self.hosts[host].link.cut(Some(cut));
                self.later(ms, Action::Heal(host));
            }
            Fault::Outage { cut, ms } => {
                for host in 0..self.hosts.len() {
                    self.hosts[host].link.cut(Some(cut));
                    self.later(ms, Action::Heal(host));
                }
            }
            Fault::BadConnection { host, ms } => {
                self.hosts[host].link.worsen(300, 150);
                self.later(ms, Action::Heal(host));
            }
            Fault::ClockStep { host, ms, drift_ppm } => self.hosts[host].clock.step(ms, drift_ppm),
            Fault::Retire { slot } => self.retire(slot),
            Fault::MaxSequence { to } => self.store().set(&Setting::MaxSequence(to)),
            Fault::Forget { slot } => self.store().forget(slot),
        }
    }

    /// As `snowmint cluster retire` does it: reads, and swaps a moment later.
    fn retire(&mut self, slot: Slot) {
        let Some((record, revision)) = self.store().slot(slot).window else { return };
        let now_ms = START_MS + self.now_ms();
        let retired = Retired {
            retired_at: timestamp(now_ms),
            last_id: None,
            reuse_after: timestamp(now_ms + self.common.grace_s * 1_000),
            node: record.owner.node.clone(),
        };
        let (store, after) = (Arc::clone(&self.store), Duration::from_millis(self.rng.magnitude(1..=500)));
        tokio::spawn(async move {
            sleep(after).await;
            // Whose record was changed meanwhile is left alone.
            let _ = store.lock().unwrap().retire(slot, revision, &record, &retired);
        });
    }

    /// A new instance, under the host's name as a rule, or under a new one, or under that of another host.
    fn start(&mut self, host: usize) {
        if self.hosts[host].node.is_some() {
            return;
        }
        let rng = &mut self.rng;
        let instance = Uuid::from_u64_pair(rng.next(), rng.next());
        let name = match rng.within(0..=9) {
            0 => format!("node-{}", rng.within(0..=4)),
            1 => format!("new-{}", rng.within(0..=999)),
            _ => self.hosts[host].name.clone(),
        };
        let rng = rng.fork();
        let host_state = &mut self.hosts[host];
        let worker = Worker {
            hostname: host_state.name.clone(),
            ip: String::new(),
            port: 0,
            started_at: timestamp(START_MS),
            version: String::new(),
            owner: Owner { node: name, instance },
        };
        let (link, store) = (Arc::clone(&host_state.link), Arc::clone(&self.store));
        let connection = Connection { link, store, worker };
        host_state.node = Some(Node::start(&self.common, Arc::clone(&host_state.clock), connection, rng));
        self.store().history.note(Event::Started { host, instance });
    }

    async fn kill(&mut self, host: usize) {
        if let Some(node) = self.hosts[host].node.take() {
            self.store().history.counts.overflows += node.metrics.overflows_total();
            node.kill().await;
        }
        let in_ms = self.rng.magnitude(1..=10_000);
        self.later(in_ms, Action::Start(host));
    }

    /// Sets everything right and waits until every node that can have a slot serves.
    async fn recover(&mut self) {
        self.common.quiet.store(true, Ordering::Relaxed);
        self.store().history.note(Event::Healed);
        self.store().set(&Setting::MaxSequence(1_023));
        for host in 0..self.hosts.len() {
            self.hosts[host].clock.set_right();
            self.hosts[host].link.heal();
            if self.hosts[host].node.as_ref().is_some_and(|node| node.stop.is_cancelled()) {
                self.kill(host).await;
            }
            self.start(host);
            self.hosts[host].node.as_ref().unwrap().gate.resume();
        }
        // Where a node holds all that it may, others have none.
        let workers = usize::try_from(self.common.layout.split().workers()).unwrap();
        let wanted = self.hosts.len().min(workers.div_ceil(usize::from(self.common.slots.get())));
        let wait_ms = self.ceilings_ahead_ms() + RECOVERY_MS;
        let served = |host: &Host| host.node.as_ref().map_or(0, |node| node.served.load(Ordering::Relaxed));
        let before: Vec<u64> = self.hosts.iter().map(served).collect();
        let deadline = Instant::now() + Duration::from_millis(wait_ms);
        loop {
            sleep(Duration::from_millis(500)).await;
            let serving = self.hosts.iter().zip(&before).filter(|(host, before)| served(host) > **before);
            let serving = serving.count();
            if serving >= wanted {
                return self.store().history.note(Event::Serves { nodes: serving });
            }
            if Instant::now() > deadline {
                let problems =
                    self.hosts.iter().filter_map(|host| Some(host.node.as_ref()?.holding.absence()));
                let problems = problems.collect();
                return self.store().history.broken(Violation::Stuck { serving, wanted, problems });
            }
        }
    }

    /// How long the slowest clock takes to the newest ceiling, in milliseconds: it may run a tenth slower.
    fn ceilings_ahead_ms(&self) -> u64 {
        let newest_ms = self.store().history.newest_ceiling_ms();
        let slowest_ms = self
            .hosts
            .iter()
            .filter_map(|host| Some(host.node.as_ref()?.clock.now_ms().min(host.clock.wall_ms())));
        newest_ms.saturating_sub(slowest_ms.min().unwrap_or(START_MS)) * 10 / 9
    }

    async fn end(mut self) -> Outcome {
        for host in 0..self.hosts.len() {
            self.kill(host).await;
        }
        let history = &mut self.store.lock().unwrap().history;
        Outcome {
            hash: history.hash(),
            counts: history.counts,
            violations: std::mem::take(&mut history.violations),
            tail: history.to_string(),
        }
    }
}
