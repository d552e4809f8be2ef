//! What a node notices of itself, second by second, and has written down.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::ClockEvent;
use crate::clock::ntp::{Measurement, Status};
use crate::event::{Drifted, Event, Events, Measured, Overflowed, What};
use crate::metrics::Metrics;
use crate::report::DRIFT_MS_MIN;
use crate::service::Service;
use crate::settings::Settings;

/// How often a node measures itself, in seconds.
const MEASURE_S: u32 = 10;

/// Watches a node.
pub struct Observer {
    service: Arc<Service>,
    metrics: Arc<Metrics>,
    settings: Arc<Settings>,
    events: Arc<Events>,
}

/// What was told of NTP last, so that the log tells of changes alone.
#[derive(Debug, Default)]
pub struct Told {
    reason: Option<String>,
    falsetickers: Vec<String>,
    /// Whether the drift was beyond the threshold.
    beyond: bool,
    /// Whether a drift was written down that reports count.
    drifted: bool,
}

impl Observer {
    /// Of this node.
    #[must_use]
    pub fn new(
        service: Arc<Service>,
        metrics: Arc<Metrics>,
        settings: Arc<Settings>,
        events: Arc<Events>,
    ) -> Self {
        Self { service, metrics, settings, events }
    }

    /// Until `stop`: keeps the rate that `/health` tells, tells of bursts of overflow once each, and measures.
    pub async fn run(&self, stop: CancellationToken) {
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        let mut since_measured_s = 0;
        while stop.run_until_cancelled(seconds.tick()).await.is_some() {
            self.service.tick_rate();
            self.overflowed(self.service.overflow());
            since_measured_s += 1;
            if since_measured_s >= MEASURE_S {
                since_measured_s = 0;
                self.service.refresh_metrics();
                let values = self.metrics.values();
                self.tell(What::Measured(Measured { slot: self.service.slot(), values }));
            }
        }
        self.overflowed(self.service.last_overflow());
    }

    fn overflowed(&self, burst: Option<Overflowed>) {
        if let Some(burst) = burst {
            self.tell(What::Overflowed(burst));
        }
    }

    /// To be called with what the clock reports.
    pub fn clock(&self, event: ClockEvent) {
        match event {
            ClockEvent::Regressed { .. } => self.metrics.clock_regressions.inc(),
            ClockEvent::LeapPending { .. } => self.metrics.clock_leaps.inc(),
            ClockEvent::LeapDenied { .. }
            | ClockEvent::LeapDropped { .. }
            | ClockEvent::LeapBelieved { .. } => {}
        }
        tracing::warn!(corrective_action = %event.corrective_action(), "{event}");
        let (drift_ms, serving_ms) = (event.drift_ms(), self.service.now_ms());
        self.tell(What::Drifted(Drifted {
            slot: self.service.slot(),
            drift_ms: i32::try_from(drift_ms).unwrap_or(if drift_ms < 0 { i32::MIN } else { i32::MAX }),
            // The serving clock found it out by itself.
            ntp_server: String::new(),
            ntp_stratum: 0,
            system_time_ms: serving_ms.saturating_add_signed(drift_ms),
            ntp_time_ms: serving_ms,
            corrective_action: event.corrective_action().as_str().into(),
        }));
    }

    /// To be called with what NTP says, each time that it was asked.
    ///
    /// A measurement is written down if it counts in reports, so that their averages are averages over time and
    /// their counts say how long it lasted; and once more when it is over, or when other servers lie.
    pub fn ntp(&self, status: &Status, told: &mut Told) {
        let falsetickers: Vec<String> = status.falsetickers().map(ToOwned::to_owned).collect();
        let liars_changed = falsetickers != told.falsetickers;
        if liars_changed && falsetickers.is_empty() {
            tracing::info!("no NTP server is contradicted by the majority any more");
        } else if liars_changed {
            tracing::warn!(?falsetickers, "NTP servers are contradicted by the majority, and ignored");
        }
        told.falsetickers = falsetickers;
        if status.reason != told.reason {
            if let Some(reason) = &status.reason {
                tracing::warn!("not synchronized with NTP: {reason}");
            } else {
                tracing::info!("synchronized with NTP again");
            }
            told.reason.clone_from(&status.reason);
        }
        let Some(measured) = &status.agreed else { return };
        self.warn_of_drift(measured, &mut told.beyond);
        let drift_ms = whole_ms(measured.drift_ms);
        let drifted = drift_ms.unsigned_abs() > DRIFT_MS_MIN;
        if drifted || told.drifted || liars_changed {
            self.tell(What::Drifted(Drifted {
                slot: self.service.slot(),
                drift_ms,
                ntp_server: measured.server.clone(),
                ntp_stratum: measured.stratum,
                system_time_ms: measured.wall_ms,
                ntp_time_ms: measured.ntp_ms,
                corrective_action: action(measured, &told.falsetickers).into(),
            }));
        }
        told.drifted = drifted;
    }

    fn warn_of_drift(&self, measured: &Measurement, told: &mut bool) {
        let threshold_ms = self.settings.clock_drift_threshold_ms();
        let Measurement { server, stratum, drift_ms, error_ms, action, .. } = measured;
        let beyond = measured.is_beyond(threshold_ms);
        match (beyond, std::mem::replace(told, beyond)) {
            (true, false) => tracing::warn!(
                %server, stratum, drift_ms, error_ms, corrective_action = %action,
                "the wall clock is {drift_ms:.0} ms off NTP, more than the {threshold_ms} ms of clock_drift_threshold"
            ),
            (false, true) => tracing::info!(
                %server, stratum, drift_ms, error_ms,
                "the wall clock is within the {threshold_ms} ms of clock_drift_threshold again"
            ),
            _ => {}
        }
    }

    fn tell(&self, what: What) {
        self.events.take(Event { at_ms: self.service.now_ms(), what });
    }
}

/// What is done about a measurement, and which servers were ignored for it.
fn action(measured: &Measurement, falsetickers: &[String]) -> String {
    if falsetickers.is_empty() {
        return measured.action.to_string();
    }
    format!("{}, ignoring {}", measured.action, falsetickers.join(", "))
}

#[expect(clippy::cast_possible_truncation, reason = "what is out of range becomes the end of it")]
fn whole_ms(ms: f64) -> i32 {
    ms.round() as i32
}
