//! Claims slots, extends their windows, loses them cleanly and takes others.

mod allocation;
mod frontier;
mod holding;
mod mark;
mod slots;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use snowmint::{Ceiling, Claim, ClaimError, Generator, Layout, SequenceStart, Slot};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::clock::ServingClock;
use crate::event::{Event, Events, SlotLife, Turn, What};
use crate::metrics::Metrics;
use crate::registry::{
    self, NotGranted, Owner, Purpose, Registry, RegistryError, Retired, Revision, Snapshot, SwapError,
    Wanted, WindowRecord, Worker, timestamp,
};
use crate::settings::Settings;
pub use allocation::NoSlot;
use allocation::{Choice, Wish};
pub use holding::Holding;
pub use mark::{Mark, MarkError};
pub use slots::{Held, Slots};

/// A window is extended when this share of it is used up, so that two extensions may fail before it ends.
const EXTEND_AFTER_SHARE: u64 = 3;

/// The pause before the registry is asked again after it failed, in milliseconds: the first and the longest.
const RETRY_MS: u64 = 100;
const RETRY_MS_MAX: u64 = 1_000;

/// How often a slot is lost to another node in the race for it before the lease takes a pause.
const RACES_MAX: u32 = 64;

/// How often giving a slot back is tried while it is unknown whether it was.
const RETIRE_TRIES_MAX: u32 = 3;

const DAY_MS: u64 = 86_400_000;

/// What a lease needs to know. Times are in the unit their names end in.
pub struct LeaseSettings {
    /// The layout of the namespace.
    pub layout: Layout,
    /// Who this node is, and where.
    pub worker: Worker,
    /// In which datacenter it is.
    pub datacenter: u16,
    /// The worker it must be, if it is to hold one slot; otherwise any.
    pub fixed_worker: Option<u16>,
    /// How far ahead a window reaches.
    pub window_ms: u64,
    /// For how long a slot that was given back is kept for this node.
    pub grace_s: u64,
    /// Whether a slot that is kept for another node may be taken when nothing else is free.
    pub reuse_cooling: bool,
    /// How many days past the registry's newest window a clock is still believed.
    pub idle_days_max: u64,
    /// Where a millisecond's IDs start counting.
    pub sequence_start: SequenceStart,
    /// How far they count.
    pub shared: Arc<Settings>,
    /// What this node remembers of its registry, where it has a place to.
    pub mark: Option<Arc<Mark>>,
    /// Where the turns of a slot's life are told.
    pub events: Arc<Events>,
}

/// Keeps the node in possession of its slots.
pub struct Lease {
    registry: Arc<dyn Registry>,
    clock: Arc<ServingClock>,
    holding: Arc<Holding>,
    metrics: Arc<Metrics>,
    settings: LeaseSettings,
    /// Held while a slot is taken, from the first try to the last: they are taken one after the other.
    taking: Mutex<()>,
}

/// A slot while this node holds it.
struct Tenure {
    held: Arc<Held>,
    /// Of the last swap that is known to have taken effect.
    revision: Revision,
    /// The extension that may have taken effect since.
    unknown: Option<Wanted>,
}

/// Why no slot could be taken.
#[derive(Debug, thiserror::Error)]
enum TakeError {
    #[error(transparent)]
    NoSlot(#[from] NoSlot),
    #[error("the registry cannot be read: {0}")]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Mark(#[from] MarkError),
    #[error("the slot's window cannot be asked for: {0}")]
    Claim(#[from] ClaimError),
    #[error("the slot's window could not be made durable: {0}")]
    Swap(#[from] SwapError),
    #[error(
        "the clock says {now}, more than {days} days after the newest window in the registry ended ({newest}), \
         and is taken for wrong: set it right, or raise clock.idle_days_max"
    )]
    ClockLeap { now: jiff::Timestamp, newest: jiff::Timestamp, days: u64 },
}

impl From<NotGranted> for TakeError {
    fn from(NotGranted { error, .. }: NotGranted) -> Self {
        Self::Swap(error)
    }
}

/// How holding a slot ended.
enum End {
    Stopped,
    Lost(String),
}

impl Lease {
    /// A lease that has nothing yet. `holding` says how many slots it is to take, and is where requests find them.
    #[must_use]
    pub fn new(
        registry: Arc<dyn Registry>,
        clock: Arc<ServingClock>,
        holding: Arc<Holding>,
        metrics: Arc<Metrics>,
        settings: LeaseSettings,
    ) -> Self {
        Self { registry, clock, holding, metrics, settings, taking: Mutex::default() }
    }

    /// Holds its slots until `stop`, then gives them back.
    pub async fn run(self, stop: CancellationToken) {
        let wanted = self.holding.wanted().get();
        join_all((0..wanted).map(|_| self.keep_one(&stop))).await;
    }

    /// Holds one of them. Each fares for itself: one that is lost, or whose registry node is slow, is nothing to
    /// the others.
    async fn keep_one(&self, stop: &CancellationToken) {
        while let Some(tenure) = self.take(stop).await {
            let slot = tenure.held.generator.slot();
            match self.hold(tenure, stop).await {
                End::Stopped => return,
                End::Lost(reason) => self.lose(slot, &reason).await,
            }
        }
    }

    /// Takes a slot, however long that takes, until `stop`.
    async fn take(&self, stop: &CancellationToken) -> Option<Tenure> {
        let _turn = self.taking.lock().await;
        let mut retry_ms = RETRY_MS;
        let mut last_problem = String::new();
        while !stop.is_cancelled() {
            let problem = match self.try_to_take().await {
                Ok(tenure) => return Some(tenure),
                Err(problem) => problem.to_string(),
            };
            if problem != last_problem {
                tracing::error!(missing = self.holding.missing(), "no worker slot: {problem}");
                last_problem.clone_from(&problem);
            }
            self.holding.absent_because(problem);
            pause(retry_ms, stop).await;
            retry_ms = (retry_ms * 2).min(RETRY_MS_MAX);
        }
        None
    }

    async fn try_to_take(&self) -> Result<Tenure, TakeError> {
        let mut races = 0;
        loop {
            let snapshot = self.believable_snapshot().await?;
            let now_ms = self.clock.now_ms();
            self.check_clock(&snapshot, now_ms)?;
            let held: Vec<Slot> = self.holding.load().iter().map(|held| held.generator.slot()).collect();
            let choice = allocation::choose(&snapshot, self.settings.layout, &self.wish(&held), now_ms)?;
            let slot = choice.slot;
            match self.claim(choice, now_ms).await {
                Err(TakeError::Swap(SwapError::Conflict { .. })) if races < RACES_MAX => {
                    self.registry.abandon(slot).await;
                    races += 1;
                }
                Err(error) => {
                    self.registry.abandon(slot).await;
                    return Err(error);
                }
                taken => return taken,
            }
        }
    }

    fn wish<'a>(&'a self, held: &'a [Slot]) -> Wish<'a> {
        Wish {
            datacenter: self.settings.datacenter,
            worker: self.settings.fixed_worker,
            node: &self.settings.worker.owner.node,
            held,
            reuse_cooling: self.settings.reuse_cooling,
        }
    }

    /// A clock years ahead would put a slot's ceiling where no right clock reaches it.
    fn check_clock(&self, snapshot: &Snapshot, now_ms: u64) -> Result<(), TakeError> {
        let newest = snapshot.slots.values().filter_map(|state| state.window.as_ref());
        let Some(newest) = newest.map(|(record, _)| record.ceiling_time).max() else {
            return Ok(());
        };
        let days = self.settings.idle_days_max;
        let latest_ms = newest.as_millisecond().saturating_add_unsigned(days.saturating_mul(DAY_MS));
        if i64::try_from(now_ms).is_ok_and(|now_ms| now_ms <= latest_ms) {
            return Ok(());
        }
        Err(TakeError::ClockLeap { now: timestamp(now_ms), newest, days })
    }

    /// What the registry has, unless it was wiped or put back from an old copy: it would give windows out anew.
    async fn believable_snapshot(&self) -> Result<Snapshot, TakeError> {
        let before = match self.settings.mark.clone() {
            Some(mark) => {
                let recall = tokio::task::spawn_blocking(move || mark.recall()).await;
                Some(recall.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()))?)
            }
            None => None,
        };
        let snapshot = self.registry.snapshot().await.inspect_err(|error| {
            self.holding.registry_failed(error.to_string());
        })?;
        if let Some(before) = before {
            before.check(&snapshot, self.settings.layout)?;
        }
        Ok(snapshot)
    }

    /// Writes down how far this node was given a slot. Nothing waits for it: what is lost is a piece of the
    /// second net, not of the first.
    fn remember(&self, slot: Slot, ceiling: Ceiling) {
        if let Some(mark) = self.settings.mark.clone() {
            tokio::task::spawn_blocking(move || mark.keep(slot, ceiling));
        }
    }

    async fn claim(&self, choice: Choice, now_ms: u64) -> Result<Tenure, TakeError> {
        let Choice { slot, floor, revision } = choice;
        let claim = Claim::new(self.settings.layout, slot, floor, now_ms, self.settings.window_ms)?;
        let purpose = Purpose::Take { expected: revision, worker: &self.settings.worker };
        let (window, revision) = registry::grant(&*self.registry, self.wanted(claim), purpose).await?;
        let (floor, ceiling) = (timestamp(window.floor_ms()), timestamp(window.ceiling_ms()));
        tracing::info!(%slot, %floor, %ceiling, "worker slot taken");
        self.tell(slot, Turn::Taken, format!("from {floor}, first until {ceiling}"));
        let generator = Generator::new(window, self.settings.sequence_start);
        generator.set_max_sequence(self.settings.shared.max_sequence());
        self.remember(slot, generator.ceiling());
        let held = Arc::new(Held { generator, metrics: self.metrics.slot(slot) });
        self.holding.take(&held);
        Ok(Tenure { held, revision, unknown: None })
    }

    fn wanted(&self, claim: Claim) -> Wanted {
        let record = self.record(claim.ceiling());
        Wanted { claim, record }
    }

    fn record(&self, ceiling: Ceiling) -> WindowRecord {
        WindowRecord::new(self.settings.worker.owner.clone(), ceiling, self.settings.layout)
    }

    async fn hold(&self, mut tenure: Tenure, stop: &CancellationToken) -> End {
        let regular_ms = (self.settings.window_ms / EXTEND_AFTER_SHARE).max(1);
        let mut wait_ms = regular_ms;
        let mut extension_wanted = self.holding.extension_wanted();
        loop {
            tokio::select! {
                // In this order, so that the same history gives the same choice.
                biased;
                () = stop.cancelled() => {
                    self.retire(tenure).await;
                    return End::Stopped;
                }
                _ = extension_wanted.changed() => {}
                () = tokio::time::sleep(Duration::from_millis(wait_ms)) => {}
            }
            wait_ms = match self.extend(&mut tenure).await {
                Ok(()) => regular_ms,
                Err(TakeError::Swap(SwapError::Conflict { holder })) => {
                    return End::Lost(self.loss(holder.as_ref()));
                }
                Err(problem) => {
                    let problem = problem.to_string();
                    if self.holding.registry_answers() {
                        tracing::warn!("the window cannot be extended: {problem}");
                    }
                    self.holding.registry_failed(problem);
                    regular_ms.min(RETRY_MS_MAX)
                }
            };
        }
    }

    /// Moves the ceiling on, unless most of the window is still ahead.
    async fn extend(&self, tenure: &mut Tenure) -> Result<(), TakeError> {
        if let Some(unknown) = tenure.unknown.take() {
            self.grant_more(tenure, unknown).await?;
        }
        let generator = &tenure.held.generator;
        let (layout, window_ms, now_ms) =
            (self.settings.layout, self.settings.window_ms, self.clock.now_ms());
        let left_ms = generator.ceiling().time_ms(layout).saturating_sub(now_ms);
        if left_ms > window_ms - window_ms / EXTEND_AFTER_SHARE / 2 {
            return Ok(());
        }
        let claim = Claim::new(layout, generator.slot(), Some(generator.ceiling()), now_ms, window_ms)?;
        self.grant_more(tenure, self.wanted(claim)).await
    }

    async fn grant_more(&self, tenure: &mut Tenure, wanted: Wanted) -> Result<(), TakeError> {
        let generator = &tenure.held.generator;
        let purpose = Purpose::Hold { expected: tenure.revision };
        let granted = registry::grant(&*self.registry, wanted, purpose).await;
        let (window, revision) = granted.map_err(|NotGranted { error, unknown }| {
            tenure.unknown = unknown;
            error
        })?;
        generator.extend(window).expect("the claim was made from this generator's slot and ceiling");
        tenure.revision = revision;
        // A change that was applied to the generator before this one is applied to this one here.
        generator.set_max_sequence(self.settings.shared.max_sequence());
        self.remember(generator.slot(), generator.ceiling());
        if !self.holding.registry_answers() {
            tracing::info!(slot = %generator.slot(), "the registry answers again");
        }
        self.holding.extended();
        Ok(())
    }

    fn tell(&self, slot: Slot, turn: Turn, note: String) {
        let owner = &self.settings.worker.owner;
        let what = What::Slot(SlotLife { slot, turn, node: owner.node.clone(), note });
        self.settings.events.take(Event { at_ms: self.clock.now_ms(), what });
    }

    fn loss(&self, holder: Option<&Owner>) -> String {
        match holder {
            // The record is this node's, and the change of it was not.
            Some(holder) if *holder == self.settings.worker.owner => {
                "the slot was given back by somebody else".to_owned()
            }
            Some(holder) => format!("the slot was taken over by {holder}"),
            None => "the slot's record is gone".to_owned(),
        }
    }

    async fn lose(&self, slot: Slot, reason: &str) {
        tracing::error!(%slot, "worker slot lost: {reason}");
        self.tell(slot, Turn::Lost, reason.to_owned());
        self.holding.drop_slot(slot, format!("{reason}; another is being claimed"));
        self.metrics.slot_lost(slot);
        self.registry.abandon(slot).await;
    }

    /// Gives the slot back, after the generator is dropped, so that `last_id` is the last.
    async fn retire(&self, tenure: Tenure) {
        let slot = tenure.held.generator.slot();
        self.holding.drop_slot(slot, "the node is stopping".to_owned());
        self.metrics.slot_lost(slot);
        let now_ms = self.clock.now_ms();
        let retired = Retired {
            retired_at: timestamp(now_ms),
            last_id: tenure.held.generator.last_id(),
            reuse_after: timestamp(now_ms.saturating_add(self.settings.grace_s.saturating_mul(1_000))),
            node: self.settings.worker.owner.node.clone(),
        };
        match self.give_back(tenure, &retired).await {
            Ok(()) => {
                tracing::info!(%slot, "worker slot given back");
                self.tell(slot, Turn::GivenBack, format!("kept for this node until {}", retired.reuse_after));
            }
            // It comes free by itself, with the process or its lease.
            Err(error) => tracing::warn!(%slot, "the worker slot could not be given back: {error}"),
        }
    }

    /// Where a reply is lost, or was before, what stands in the registry decides.
    async fn give_back(&self, tenure: Tenure, retired: &Retired) -> Result<(), SwapError> {
        let (slot, own) = (tenure.held.generator.slot(), &self.settings.worker.owner);
        let mut stands = (self.record(tenure.held.generator.ceiling()), tenure.revision);
        for _ in 0..RETIRE_TRIES_MAX {
            match self.registry.retire(slot, stands.1, &stands.0, retired).await {
                Err(SwapError::Conflict { .. } | SwapError::Unknown(_)) => {}
                known => return known,
            }
            let state = self.registry.slot(slot).await.map_err(SwapError::Unknown)?;
            match state.window {
                _ if state.retired.as_ref() == Some(retired) => return Ok(()),
                Some((record, revision)) if record.owner == *own => stands = (record, revision),
                taken => return Err(SwapError::Conflict { holder: taken.map(|(record, _)| record.owner) }),
            }
        }
        Err(SwapError::Unknown(RegistryError::TimedOut))
    }
}

async fn pause(ms: u64, stop: &CancellationToken) {
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = tokio::time::sleep(Duration::from_millis(ms)) => {}
    }
}
