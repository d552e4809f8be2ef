//! What a node notices of itself, second by second, and has written down.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::ClockEvent;
use crate::event::{Drifted, Event, Events, Measured, What};
use crate::metrics::Metrics;
use crate::service::Service;

/// How often a node measures itself, in seconds.
const MEASURE_S: u32 = 10;

/// Watches a node.
pub struct Observer {
    service: Arc<Service>,
    metrics: Arc<Metrics>,
    events: Arc<Events>,
}

impl Observer {
    /// Of this node.
    #[must_use]
    pub fn new(service: Arc<Service>, metrics: Arc<Metrics>, events: Arc<Events>) -> Self {
        Self { service, metrics, events }
    }

    /// Until `stop`: keeps the rate that `/health` tells, tells of bursts of overflow once each, and measures.
    pub async fn run(&self, stop: CancellationToken) {
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        let mut since_measured_s = 0;
        while stop.run_until_cancelled(seconds.tick()).await.is_some() {
            self.service.tick_rate();
            if let Some(burst) = self.service.overflow() {
                self.tell(What::Overflowed(burst));
            }
            since_measured_s += 1;
            if since_measured_s >= MEASURE_S {
                since_measured_s = 0;
                self.service.refresh_metrics();
                let values = self.metrics.values();
                self.tell(What::Measured(Measured { slot: self.service.slot(), values }));
            }
        }
    }

    /// To be called with what the clock reports.
    pub fn clock(&self, event: ClockEvent) {
        match event {
            ClockEvent::Regressed { .. } => self.metrics.clock_regressions.inc(),
            ClockEvent::LeapPending { .. } => self.metrics.clock_leaps.inc(),
            ClockEvent::LeapDropped { .. } | ClockEvent::LeapBelieved { .. } => {}
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

    fn tell(&self, what: What) {
        self.events.take(Event { at_ms: self.service.now_ms(), what });
    }
}
