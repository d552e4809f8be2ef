//! How a node is, for whoever asks.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;
use snowmint::{Generator, Id};

use super::Service;

/// The rate in `/health` is that of this many seconds.
const RATE_SECONDS: usize = 5;

impl Service {
    /// What `/health` says.
    #[must_use]
    pub fn health(&self) -> Health {
        let held = self.holding.load();
        let held = held.as_deref();
        let generator = held.map(|held| &held.generator);
        let slot = generator.map(Generator::slot);
        let clock = self.clock.status();
        let registry_error = self.holding.registry_error();
        let unready = self.unready();
        let mut reasons: Vec<String> = unready.iter().map(ToString::to_string).collect();
        reasons.extend(registry_error.iter().filter(|_| unready.is_none()).map(|e| format!("registry: {e}")));
        let settings = self.settings.current();
        // A registry that is away has been told of.
        reasons.extend(settings.problem.clone().filter(|_| registry_error.is_none()));
        reasons.extend(self.drift_reason(clock.offset_ms));
        let status = match (&unready, reasons.is_empty()) {
            (Some(_), _) => "unhealthy",
            (None, false) => "degraded",
            (None, true) => "healthy",
        };
        Health {
            status,
            reasons,
            datacenter_id: slot.map(|slot| slot.datacenter),
            worker_id: slot.map(|slot| slot.worker),
            uptime_seconds: self.started.elapsed().as_secs(),
            ids_generated: self.metrics.issued_total(),
            ids_per_second: self.rate.lock().map_or(0.0, |rate| rate.per_second()),
            clock_drift_ms: clock.offset_ms,
            ntp_synchronized: None,
            last_id: generator.and_then(Generator::last_id),
            sequence_overflows: self.metrics.overflows_total(),
            window_left_ms: self.window_left_ms(),
            registry: RegistryHealth {
                status: if registry_error.is_none() { "available" } else { "unavailable" },
                error: registry_error,
            },
            settings: SettingsHealth {
                max_sequence: self.settings.max_sequence(),
                clock_drift_threshold_ms: settings.namespace.clock_drift_threshold_ms,
                stale: settings.stale,
                age_seconds: settings.read_at.elapsed().as_secs(),
            },
        }
    }

    fn drift_reason(&self, drift_ms: f64) -> Option<String> {
        let threshold_ms = self.settings.clock_drift_threshold_ms();
        let too_far = Duration::try_from_secs_f64(drift_ms.abs() / 1_000.0)
            .is_ok_and(|drift| drift > Duration::from_millis(threshold_ms));
        too_far.then(|| {
            format!(
                "the wall clock is {drift_ms:.0} ms off the serving clock, more than the {threshold_ms} ms of \
                 clock_drift_threshold"
            )
        })
    }
}

/// The total of IDs, second by second.
#[derive(Default)]
pub(super) struct Rate {
    totals: VecDeque<u64>,
}

impl Rate {
    pub(super) fn push(&mut self, total: u64) {
        self.totals.push_back(total);
        while self.totals.len() > RATE_SECONDS + 1 {
            self.totals.pop_front();
        }
    }

    fn per_second(&self) -> f64 {
        match (self.totals.front(), self.totals.back(), self.totals.len()) {
            (Some(first), Some(last), length @ 2..) => {
                #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
                let rate = (last - first) as f64 / (length - 1) as f64;
                rate
            }
            _ => 0.0,
        }
    }
}

/// How the node is, as `/health` tells it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Health {
    /// `healthy`, `degraded` (it mints, but something is wrong) or `unhealthy` (it does not mint).
    pub status: &'static str,
    /// What is wrong, if anything.
    pub reasons: Vec<String>,
    /// The datacenter of the slot, while one is held.
    pub datacenter_id: Option<u16>,
    /// The worker of the slot, while one is held.
    pub worker_id: Option<u16>,
    /// Since the process started.
    pub uptime_seconds: u64,
    /// Since the process started.
    pub ids_generated: u64,
    /// Over the last five seconds.
    pub ids_per_second: f64,
    /// The wall clock less the serving clock.
    pub clock_drift_ms: f64,
    /// Whether NTP agrees; `null` where no NTP server is asked.
    pub ntp_synchronized: Option<bool>,
    /// The highest ID issued from the slot.
    #[schema(value_type = Option<u64>)]
    pub last_id: Option<Id>,
    /// How many requests had to wait for a millisecond.
    pub sequence_overflows: u64,
    /// Until the durable window ends.
    pub window_left_ms: u64,
    /// How the registry is.
    pub registry: RegistryHealth,
    /// The settings that all nodes share.
    pub settings: SettingsHealth,
}

/// The shared settings in use.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct SettingsHealth {
    /// How far a millisecond's IDs count.
    pub max_sequence: u32,
    /// How far the wall clock may be off before that is a reason to be degraded.
    pub clock_drift_threshold_ms: u64,
    /// Whether the registry could not be read when it was last tried: these are the last known then.
    pub stale: bool,
    /// Since they were read.
    pub age_seconds: u64,
}

/// How the registry is.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct RegistryHealth {
    /// `available` or `unavailable`.
    pub status: &'static str,
    /// What went wrong at the last call, if something did.
    pub error: Option<String>,
}
