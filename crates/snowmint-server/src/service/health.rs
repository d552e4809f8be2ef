//! How a node is, for whoever asks.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::Serialize;
use snowmint::Id;

use super::Service;
use crate::clock::NtpOffset;
use crate::clock::ntp::{self, ServerStatus};
use crate::lease::Held;

/// The rate in `/health` is that of this many seconds.
const RATE_SECONDS: usize = 5;

impl Service {
    /// What `/health` says.
    #[must_use]
    pub fn health(&self) -> Health {
        let slots = self.slots_health();
        let first = slots.first();
        let drift = self.drift();
        let ntp = self.clock.ntp();
        let registry_error = self.holding.registry_error();
        let unready = self.unready();
        let mut reasons: Vec<String> = unready.iter().map(ToString::to_string).collect();
        reasons.extend(self.too_few_slots().filter(|_| !slots.is_empty()));
        reasons.extend(registry_error.iter().filter(|_| unready.is_none()).map(|e| format!("registry: {e}")));
        let settings = self.settings.current();
        // A registry that is away has been told of.
        reasons.extend(settings.problem.clone().filter(|_| registry_error.is_none()));
        reasons.extend(self.drift_reason(&drift));
        let status = match (&unready, reasons.is_empty()) {
            (Some(_), _) => "unhealthy",
            (None, false) => "degraded",
            (None, true) => "healthy",
        };
        Health {
            status,
            reasons,
            datacenter_id: first.map(|slot| slot.datacenter_id),
            worker_id: first.map(|slot| slot.worker_id),
            uptime_seconds: self.started.elapsed().as_secs(),
            ids_generated: self.metrics.issued_total(),
            ids_per_second: self.rate.lock().map_or(0.0, |rate| rate.per_second()),
            clock_drift_ms: drift.ms,
            ntp_synchronized: ntp.as_ref().map(|ntp| ntp.agreed.is_some()),
            ntp: ntp.map(|ntp| NtpHealth::new(&ntp, self.clock.status().ntp)),
            last_id: slots.iter().filter_map(|slot| slot.last_id).max(),
            sequence_overflows: self.metrics.overflows_total(),
            window_left_ms: self.window_left_ms(),
            slots,
            slots_wanted: self.holding.wanted().get(),
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

    fn slots_health(&self) -> Vec<SlotHealth> {
        let now_ms = self.now_ms();
        let health = |held: &Arc<Held>| {
            let Held { generator, metrics } = &**held;
            SlotHealth {
                datacenter_id: generator.slot().datacenter,
                worker_id: generator.slot().worker,
                ids_generated: metrics.issued.get(),
                last_id: generator.last_id(),
                window_left_ms: generator.ceiling_ms().saturating_sub(now_ms),
            }
        };
        self.holding.load().iter().map(health).collect()
    }

    fn too_few_slots(&self) -> Option<String> {
        let (missing, wanted) = (self.holding.missing(), self.holding.wanted());
        (missing > 0).then(|| format!("{missing} of {wanted} slots are not held: {}", self.holding.absence()))
    }

    /// How far the wall clock is off NTP, or off the serving clock while NTP does not say.
    pub(super) fn drift(&self) -> Drift {
        let status = self.clock.status();
        let source = self.clock.ntp().and_then(|ntp| ntp.agreed.as_ref().map(|agreed| agreed.server.clone()));
        match (status.ntp, source) {
            (Some(ntp), Some(server)) => {
                Drift { ms: ntp.offset_ms, error_ms: ntp.error_ms, off: format!("NTP ({server})") }
            }
            _ => Drift { ms: status.offset_ms, error_ms: 0.0, off: "the serving clock".to_owned() },
        }
    }

    fn drift_reason(&self, drift: &Drift) -> Option<String> {
        let threshold_ms = self.settings.clock_drift_threshold_ms();
        let Drift { ms, error_ms, off } = drift;
        ntp::is_beyond(*ms, *error_ms, threshold_ms).then(|| {
            format!(
                "the wall clock is {ms:.0} ms off {off}, more than the {threshold_ms} ms of clock_drift_threshold"
            )
        })
    }
}

/// How far the wall clock is off.
pub(super) struct Drift {
    pub(super) ms: f64,
    error_ms: f64,
    /// Off what.
    off: String,
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
    /// The datacenter of the lowest slot, while one is held.
    pub datacenter_id: Option<u16>,
    /// The worker of the lowest slot, while one is held.
    pub worker_id: Option<u16>,
    /// Since the process started.
    pub uptime_seconds: u64,
    /// Since the process started.
    pub ids_generated: u64,
    /// Over the last five seconds.
    pub ids_per_second: f64,
    /// The wall clock less NTP, or less the serving clock while NTP does not say.
    pub clock_drift_ms: f64,
    /// Whether a majority of the NTP servers says what time it is; `null` where none is asked.
    pub ntp_synchronized: Option<bool>,
    /// What NTP says; `null` where no server is asked.
    pub ntp: Option<NtpHealth>,
    /// The highest ID issued from the slots that are held.
    #[schema(value_type = Option<u64>)]
    pub last_id: Option<Id>,
    /// How many requests had to wait for a millisecond.
    pub sequence_overflows: u64,
    /// Until the last of the durable windows ends.
    pub window_left_ms: u64,
    /// The slots that are held, lowest first.
    pub slots: Vec<SlotHealth>,
    /// How many there should be.
    pub slots_wanted: u16,
    /// How the registry is.
    pub registry: RegistryHealth,
    /// The settings that all nodes share.
    pub settings: SettingsHealth,
}

/// How a slot is.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct SlotHealth {
    /// Its datacenter.
    pub datacenter_id: u16,
    /// Its worker.
    pub worker_id: u16,
    /// From this slot, since the process started.
    pub ids_generated: u64,
    /// The highest ID issued from it since it was taken.
    #[schema(value_type = Option<u64>)]
    pub last_id: Option<Id>,
    /// Until its durable window ends.
    pub window_left_ms: u64,
}

/// What NTP says.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct NtpHealth {
    /// How far the wall clock is ahead of NTP, as far as the last measurement tells; `null` before the first.
    pub offset_ms: Option<f64>,
    /// How far that may be off: the older the measurement, the further.
    pub error_ms: Option<f64>,
    /// Whose time it is, the median of those that agree.
    pub source: Option<String>,
    /// How far that server is from a reference clock.
    pub stratum: Option<u8>,
    /// Why it is not synchronized, if it is not.
    pub reason: Option<String>,
    /// The servers that the majority contradicts.
    pub falsetickers: Vec<String>,
    /// Every server.
    pub servers: Vec<ServerStatus>,
}

impl NtpHealth {
    fn new(status: &ntp::Status, offset: Option<NtpOffset>) -> Self {
        let agreed = status.agreed.as_ref();
        Self {
            offset_ms: offset.map(|offset| offset.offset_ms),
            error_ms: offset.map(|offset| offset.error_ms),
            source: agreed.map(|agreed| agreed.server.clone()),
            stratum: agreed.map(|agreed| agreed.stratum),
            reason: status.reason.clone(),
            falsetickers: status.falsetickers().map(ToOwned::to_owned).collect(),
            servers: status.servers.clone(),
        }
    }
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
