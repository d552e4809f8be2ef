//! Answers requests for IDs: at once where it can, in arrival order where a millisecond has to pass.

mod health;
mod line;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use snowmint::{Id, IdRange, Layout, Refusal, Slot};
use tokio::sync::{Mutex, watch};

use crate::clock::ServingClock;
use crate::clock::ntp::ServerState;
use crate::error::{Code, Error};
use crate::event::Overflowed;
use crate::lease::Holding;
use crate::metrics::Metrics;
use crate::settings::Settings;
use health::Rate;
pub use health::{Health, NtpHealth, RegistryHealth, SettingsHealth};
use line::{Burst, Line, Place, Turn};

/// The most IDs one batch has, where every ID is written out.
pub const BATCH_IDS_MAX: u32 = 10_000;

/// The most IDs one call for ranges gives.
pub const RANGE_IDS_MAX: u32 = 1_000_000;

/// How long a request waits for a window that has just closed while the registry answers, in milliseconds:
/// after a pause or a step of the clock the lease extends it within a few. Where it turns out not to answer any
/// more, the refusal is still given within 100 ms.
const EXTENSION_WAIT_MS: u64 = 50;

/// What asking again may wait for where no slot is held, or the clock is off, in milliseconds.
const RETRY_AFTER_MS: u64 = 1_000;

/// Why a request got no IDs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The node holds no slot.
    #[error("this node cannot mint: {0}")]
    NoSlot(String),
    /// The window is used up and the registry does not extend it.
    #[error("this node cannot mint: its window has ended{}", .registry.as_ref().map(|e| format!(" and {e}")).unwrap_or_default())]
    WindowClosed {
        /// What the registry says, if anything.
        registry: Option<String>,
    },
    /// The clock has to catch up with what was already issued.
    #[error("the clock is {behind_ms} ms behind what may already have been issued")]
    ClockBehind {
        /// By how much.
        behind_ms: u64,
    },
    /// The clocks are too far off NTP, by the configuration.
    #[error("the clocks are {off_ms} ms off NTP, more than clock.refuse_above_ms allows")]
    ClockOff {
        /// By how much.
        off_ms: u64,
    },
    /// There will not be enough IDs within the longest wait.
    #[error("{wanted} IDs cannot be given within {wait_ms_max} ms, {ahead} are waited for already")]
    Overflow {
        /// How many were asked for.
        wanted: u32,
        /// How many the requests before it wait for.
        ahead: u64,
        /// The longest wait.
        wait_ms_max: u64,
    },
}

impl Refused {
    fn code(&self) -> Code {
        match self {
            Self::NoSlot(_) | Self::WindowClosed { .. } => Code::WorkerUnavailable,
            Self::ClockBehind { .. } | Self::ClockOff { .. } => Code::ClockRegression,
            Self::Overflow { .. } => Code::SequenceOverflow,
        }
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        let retry_after_ms = match refused {
            Refused::NoSlot(_) | Refused::WindowClosed { .. } | Refused::ClockOff { .. } => RETRY_AFTER_MS,
            Refused::ClockBehind { behind_ms } => behind_ms,
            Refused::Overflow { wait_ms_max, .. } => wait_ms_max,
        };
        Self::new(refused.code(), refused.to_string()).retry_after_ms(retry_after_ms)
    }
}

/// The service behind every front end.
pub struct Service {
    clock: Arc<ServingClock>,
    holding: Arc<Holding>,
    metrics: Arc<Metrics>,
    settings: Arc<Settings>,
    layout: Layout,
    wait_ms_max: u64,
    /// Whose turn it is. A fair lock: waiters get it in the order they came.
    turn: Mutex<Turn>,
    line: Line,
    started: Instant,
    rate: std::sync::Mutex<Rate>,
    /// The requests that waited for a millisecond since the last look.
    burst: std::sync::Mutex<Burst>,
}

impl Service {
    /// A service that mints with what `holding` holds and lets no request wait longer than `wait_ms_max`.
    #[must_use]
    pub fn new(
        clock: Arc<ServingClock>,
        holding: Arc<Holding>,
        metrics: Arc<Metrics>,
        settings: Arc<Settings>,
        layout: Layout,
        wait_ms_max: u64,
    ) -> Self {
        Self {
            clock,
            holding,
            metrics,
            settings,
            layout,
            wait_ms_max,
            turn: Mutex::default(),
            line: Line::default(),
            started: Instant::now(),
            rate: std::sync::Mutex::default(),
            burst: std::sync::Mutex::default(),
        }
    }

    /// The layout of its IDs.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The serving clock, in Unix milliseconds.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// One ID, if there is one without waiting, and how long it took. Nothing is used up where there is none.
    #[must_use]
    pub fn id_now(&self) -> Option<(Id, Duration)> {
        self.mint_now(1, Instant::now()).map(|(range, took)| (range.first(), took))
    }

    /// One ID.
    pub async fn id(&self) -> Result<Id, Refused> {
        Ok(self.mint(1).await?.ranges[0].first())
    }

    /// `count` IDs (at least 1) as runs of consecutive ones, in order: all or none.
    pub async fn ranges(&self, count: u32) -> Result<Vec<IdRange>, Refused> {
        Ok(self.mint(count).await?.ranges)
    }

    /// The same, and how long it took.
    pub async fn mint(&self, count: u32) -> Result<Minted, Refused> {
        let arrived = Instant::now();
        match self.mint_now(count, arrived) {
            Some((range, took)) if range.count() == count => {
                Ok(Minted { ranges: vec![range], took, waited: Duration::ZERO })
            }
            some => self.wait_for(count, some.map(|(range, _)| range).into_iter().collect(), arrived).await,
        }
    }

    /// The lowest slot that is held, if there is one: it stands for the node where no other is meant.
    #[must_use]
    pub fn slot(&self) -> Option<Slot> {
        self.holding.load().first().map(|held| held.generator.slot())
    }

    /// The hot path: no lock, no await, no allocation. Where it gives fewer than wanted, or nothing, the
    /// rest has to be waited for.
    #[inline]
    fn mint_now(&self, wanted: u32, arrived: Instant) -> Option<(IdRange, Duration)> {
        if self.line.ids.load(Ordering::Relaxed) > 0 || self.clock.too_far_ms().is_some() {
            return None;
        }
        let slots = self.holding.load();
        let (held, range) = slots.mint(self.clock.now_ms(), wanted)?;
        let took =
            if range.count() == wanted { held.metrics.record(wanted, arrived) } else { Duration::ZERO };
        Some((range, took))
    }

    /// Waits, in arrival order, until there are `count` IDs, `taken` being the first of them.
    async fn wait_for(&self, count: u32, taken: Vec<IdRange>, arrived: Instant) -> Result<Minted, Refused> {
        let (waiting_from, arrived_ms) = (Instant::now(), self.clock.now_ms());
        let ranges = self.wait_in_line(count, taken, arrived_ms).await?;
        let waited = waiting_from.elapsed();
        self.record(&ranges, arrived);
        Ok(Minted { ranges, took: arrived.elapsed(), waited })
    }

    /// Counts the IDs of a request for the slots that they are of, and its time for the first.
    fn record(&self, ranges: &[IdRange], arrived: Instant) {
        let slots = self.holding.load();
        let of = |range: &IdRange| slots.get(self.layout.decompose(range.first()).slot);
        if let Some(held) = ranges.first().and_then(of) {
            held.metrics.record(0, arrived);
        }
        for range in ranges {
            if let Some(held) = of(range) {
                held.metrics.issued.inc_by(range.count().into());
            }
        }
    }

    async fn wait_in_line(
        &self,
        count: u32,
        mut taken: Vec<IdRange>,
        arrived_ms: u64,
    ) -> Result<Vec<IdRange>, Refused> {
        if self.holding.load().is_empty() {
            return Err(Refused::NoSlot(self.holding.absence()));
        }
        let mut missing = count - taken.iter().map(IdRange::count).sum::<u32>();
        let place = self.line_up(missing, count)?;
        let deadline_ms = arrived_ms + self.wait_ms_max;
        let patience = Duration::from_millis(self.wait_ms_max);
        let Ok(mut turn) = tokio::time::timeout(patience, self.turn.lock()).await else {
            return Err(self.too_many(count, place.ahead));
        };
        let mut extensions = self.holding.changes();
        let (mut overflowed, mut extension_waited) = (false, false);
        while missing > 0 {
            match self.mint_since(arrived_ms, missing) {
                Ok(range) => {
                    missing -= range.count();
                    taken.push(range);
                }
                Err(Step::Refuse(refused)) => return Err(refused),
                Err(Step::AwaitExtension(refused))
                    if extension_waited || turn.waited_in_vain_at == Some(*extensions.borrow()) =>
                {
                    return Err(refused);
                }
                Err(Step::AwaitExtension(_)) => {
                    extension_waited = true;
                    self.await_extension(&mut extensions, &mut turn).await;
                }
                Err(Step::Sleep { until_ms }) => {
                    let now_ms = self.clock.now_ms();
                    if !std::mem::replace(&mut overflowed, true) {
                        self.count_overflow(place.ahead);
                    }
                    if until_ms > deadline_ms {
                        return Err(self.too_late(count, place.ahead, until_ms, now_ms));
                    }
                    self.sleep_for_ids(until_ms, deadline_ms, now_ms, missing).await;
                }
            }
        }
        if overflowed {
            self.burst().waited(self.clock.now_ms().saturating_sub(arrived_ms));
        }
        Ok(taken)
    }

    /// Waits for the lease to extend the window. Late or not, the next look at the window decides.
    async fn await_extension(&self, extensions: &mut watch::Receiver<u64>, turn: &mut Turn) {
        self.holding.ask_for_extension();
        let wait = Duration::from_millis(EXTENSION_WAIT_MS);
        if tokio::time::timeout(wait, extensions.changed()).await.is_err() {
            turn.waited_in_vain_at = Some(*extensions.borrow());
        }
    }

    /// Joins the line, or is told at once that it is too long.
    fn line_up(&self, missing: u32, count: u32) -> Result<Place<'_>, Refused> {
        self.line.requests.fetch_add(1, Ordering::Relaxed);
        let ahead = self.line.ids.fetch_add(missing.into(), Ordering::Relaxed);
        let place = Place { line: &self.line, missing, ahead };
        if (ahead + u64::from(missing)) / self.ids_per_ms() > self.wait_ms_max {
            return Err(self.too_many(count, ahead));
        }
        Ok(place)
    }

    /// Takes what there is, from the first millisecond since the request arrived that has something left.
    fn mint_since(&self, arrived_ms: u64, missing: u32) -> Result<IdRange, Step> {
        if let Some(off_ms) = self.clock.too_far_ms() {
            return Err(Step::Refuse(Refused::ClockOff { off_ms }));
        }
        let slots = self.holding.load();
        match slots.mint_since(arrived_ms, self.clock.now_ms(), missing) {
            None => Err(Step::Refuse(Refused::NoSlot(self.holding.absence()))),
            Some(Ok(range)) => Ok(range),
            Some(Err(Refusal::Wait { until_ms } | Refusal::ClockBehind { until_ms })) => {
                Err(Step::Sleep { until_ms })
            }
            Some(Err(Refusal::WindowClosed { .. })) => {
                let refused = Refused::WindowClosed { registry: self.holding.registry_error() };
                Err(if self.holding.registry_answers() {
                    Step::AwaitExtension(refused)
                } else {
                    Step::Refuse(refused)
                })
            }
        }
    }

    /// Sleeps until the missing IDs should all be there: milliseconds that pass meanwhile are not lost.
    async fn sleep_for_ids(&self, until_ms: u64, deadline_ms: u64, now_ms: u64, missing: u32) {
        let more_ms = u64::from(missing.saturating_sub(1)) / self.ids_per_ms();
        let wake_ms = (until_ms + more_ms).min(deadline_ms).max(now_ms);
        let left_ns = (wake_ms * 1_000_000).saturating_sub(self.clock.now_ns());
        tokio::time::sleep(Duration::from_nanos(left_ns)).await;
    }

    fn count_overflow(&self, ids_ahead: u64) {
        if let Some(held) = self.holding.load().first() {
            held.metrics.overflows.inc();
            let queued = self.line.requests.load(Ordering::Relaxed);
            let slot = held.generator.slot();
            self.burst().begun(slot, queued, ids_ahead, self.ids_per_ms());
        }
    }

    fn burst(&self) -> std::sync::MutexGuard<'_, Burst> {
        self.burst.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The burst of waiting requests, once it is over; to be asked for once a second.
    pub fn overflow(&self) -> Option<Overflowed> {
        let mut burst = self.burst();
        let over = burst.is_over(self.line.requests.load(Ordering::Relaxed));
        if over { std::mem::take(&mut *burst).told() } else { None }
    }

    /// The burst of waiting requests, over or not.
    pub fn last_overflow(&self) -> Option<Overflowed> {
        std::mem::take(&mut *self.burst()).told()
    }

    fn ids_per_ms(&self) -> u64 {
        match self.holding.load().ids_per_ms() {
            0 => u64::from(self.layout.split().max_sequence()) + 1,
            ids => ids,
        }
    }

    fn too_late(&self, wanted: u32, ahead: u64, until_ms: u64, now_ms: u64) -> Refused {
        match until_ms.saturating_sub(now_ms) {
            behind_ms if behind_ms > 1 => Refused::ClockBehind { behind_ms },
            _ => self.too_many(wanted, ahead),
        }
    }

    fn too_many(&self, wanted: u32, ahead: u64) -> Refused {
        Refused::Overflow { wanted, ahead, wait_ms_max: self.wait_ms_max }
    }

    /// Why the node may not mint now, or `None` if it may.
    #[must_use]
    pub fn unready(&self) -> Option<Refused> {
        let slots = self.holding.load();
        if slots.is_empty() {
            return Some(Refused::NoSlot(self.holding.absence()));
        }
        if let Some(off_ms) = self.clock.too_far_ms() {
            return Some(Refused::ClockOff { off_ms });
        }
        let now_ms = self.clock.now_ms();
        let Some(opens_ms) = slots.opens_ms(now_ms) else {
            return Some(Refused::WindowClosed { registry: self.holding.registry_error() });
        };
        // One millisecond ahead is a full millisecond, which is no reason to be taken out of service.
        let behind_ms = opens_ms - now_ms;
        (behind_ms > 1).then_some(Refused::ClockBehind { behind_ms })
    }

    /// Until the last durable window ends, in milliseconds; 0 where there is none.
    #[must_use]
    pub fn window_left_ms(&self) -> u64 {
        let ceiling_ms = self.holding.load().ceiling_ms();
        ceiling_ms.map_or(0, |ceiling_ms| ceiling_ms.saturating_sub(self.now_ms()))
    }

    /// The metrics, with those brought up to date that are states and not counts.
    #[must_use]
    pub fn render_metrics(&self) -> Vec<u8> {
        self.refresh_metrics();
        self.metrics.render()
    }

    /// Brings those metrics up to date that are states and not counts.
    pub fn refresh_metrics(&self) {
        let now_ms = self.now_ms();
        for held in self.holding.load().iter() {
            let left_ms = held.generator.ceiling_ms().saturating_sub(now_ms);
            held.metrics.window_left.set(Duration::from_millis(left_ms).as_secs_f64());
        }
        self.metrics.clock_drift.set(self.drift().ms);
        let Some(ntp) = self.clock.ntp() else { return };
        self.metrics.ntp_synchronized.set(ntp.agreed.is_some().into());
        for state in ServerState::ALL {
            let servers = ntp.servers.iter().filter(|server| server.state == state).count();
            let gauge = self.metrics.ntp_servers.with_label_values(&[state.as_str()]);
            gauge.set(i64::try_from(servers).unwrap_or(i64::MAX));
        }
    }

    /// To be called by a front end for each request it answers with an error, whoever found it.
    pub fn failed(&self, code: Code) {
        self.metrics.failed(code);
    }

    /// To be called once a second: keeps the rate that `/health` tells.
    pub fn tick_rate(&self) {
        if let Ok(mut rate) = self.rate.lock() {
            rate.push(self.metrics.issued_total());
        }
    }
}

/// IDs that were minted for one request.
#[derive(Clone, Debug)]
pub struct Minted {
    /// Runs of consecutive IDs, in order.
    pub ranges: Vec<IdRange>,
    /// From the request's arrival to its IDs.
    pub took: Duration,
    /// How much of that it waited for its turn or for a millisecond.
    pub waited: Duration,
}

/// What a request at the head of the line does when it gets nothing.
enum Step {
    Sleep { until_ms: u64 },
    AwaitExtension(Refused),
    Refuse(Refused),
}
