//! Counters and histograms, under the names of the wire contract. Recording is atomic additions only.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use prometheus::core::Collector;
use prometheus::proto::{Metric, MetricFamily, MetricType};
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};
use snowmint::Slot;

use crate::error::Code;

/// The media type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Bounds of the latency histogram, in seconds: an ID takes microseconds, a wait for the next
/// millisecond one or two milliseconds, the longest wait seconds.
const LATENCY_BUCKETS_S: [f64; 14] =
    [1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 5e-4, 1e-3, 2.5e-3, 1e-2, 1e-1, 1.0, 2.5];

const SLOT_LABELS: [&str; 2] = ["datacenter", "worker"];
const SINK_LABEL: [&str; 1] = ["sink"];

/// Every metric of the process.
pub struct Metrics {
    registry: Registry,
    issued: IntCounterVec,
    latency: HistogramVec,
    overflows: IntCounterVec,
    window_left: GaugeVec,
    errors: IntCounterVec,
    /// `clock_drift_milliseconds`: the host's wall clock less NTP, or less the serving clock while NTP does not say.
    pub clock_drift: Gauge,
    /// `clock_ntp_synchronized`: 1 while NTP says what time it is.
    pub ntp_synchronized: IntGauge,
    /// `clock_ntp_servers`, by state: what to think of the servers that are asked.
    pub ntp_servers: IntGaugeVec,
    /// `clock_regression_total`: how often the wall clock stepped back.
    pub clock_regressions: IntCounter,
    /// `clock_leap_total`: how often it leapt forward.
    pub clock_leaps: IntCounter,
    /// `events_shed_total`: events that were not written down, because too many waited.
    pub events_shed: IntCounter,
    /// `archive_waiting_bytes`: what waits on the local disk for the audit archive.
    pub archive_waiting: IntGauge,
    /// `archive_objects_total`: objects that were uploaded.
    pub archive_objects: IntCounter,
    /// `archive_failures_total`: uploads that failed, each time they did.
    pub archive_failures: IntCounter,
    /// `journal_bytes`: what the journal keeps on disk.
    pub journal_bytes: IntGauge,
    /// `journal_lost_total`, by sink: events that the journal kept and that could not be read back.
    pub journal_lost: IntCounterVec,
    /// `sink_lag_records`, by sink: events in the journal that the sink has not taken yet.
    pub sink_lag: IntGaugeVec,
    /// `sink_failures_total`, by sink: batches that it did not take, each time it did not.
    pub sink_failures: IntCounterVec,
}

/// The metrics of one slot, looked up once when it is claimed.
pub struct SlotMetrics {
    /// `id_generation_total`: IDs issued.
    pub issued: IntCounter,
    /// `id_generation_latency_seconds`: from the request's arrival at the service to its IDs.
    latency: Histogram,
    /// `sequence_overflow_total`: requests that waited for a millisecond.
    pub overflows: IntCounter,
    /// `window_left_seconds`: until the durable window ends.
    pub window_left: Gauge,
}

impl SlotMetrics {
    /// Counts `count` IDs that were issued to a request which arrived at `arrived`, and says how long it took.
    #[expect(clippy::must_use_candidate, reason = "the time is there for who wants it")]
    #[inline]
    pub fn record(&self, count: u32, arrived: Instant) -> Duration {
        let took = arrived.elapsed();
        self.issued.inc_by(count.into());
        self.latency.observe(took.as_secs_f64());
        took
    }
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let latency = HistogramOpts::new("id_generation_latency_seconds", "Time from request to IDs.")
            .buckets(LATENCY_BUCKETS_S.to_vec());
        Self {
            issued: registered(&registry, vec("id_generation_total", "IDs issued.", &SLOT_LABELS)),
            latency: registered(&registry, valid(HistogramVec::new(latency, &SLOT_LABELS))),
            overflows: registered(
                &registry,
                vec("sequence_overflow_total", "Requests that waited for a millisecond.", &SLOT_LABELS),
            ),
            window_left: registered(
                &registry,
                valid(GaugeVec::new(
                    Opts::new("window_left_seconds", "Time until the durable window ends."),
                    &SLOT_LABELS,
                )),
            ),
            errors: registered(
                &registry,
                vec("id_generation_errors_total", "Failed requests, by error code.", &["code"]),
            ),
            clock_drift: registered(
                &registry,
                valid(Gauge::new(
                    "clock_drift_milliseconds",
                    "The wall clock less NTP, or less the serving clock while NTP does not say.",
                )),
            ),
            ntp_synchronized: registered(
                &registry,
                valid(IntGauge::new("clock_ntp_synchronized", "1 while NTP says what time it is.")),
            ),
            ntp_servers: registered(
                &registry,
                valid(IntGaugeVec::new(
                    Opts::new("clock_ntp_servers", "NTP servers that are asked, by what to think of them."),
                    &["state"],
                )),
            ),
            clock_regressions: registered(
                &registry,
                valid(IntCounter::new("clock_regression_total", "Steps back of the wall clock.")),
            ),
            events_shed: registered(
                &registry,
                valid(IntCounter::new("events_shed_total", "Events that were not written down.")),
            ),
            archive_waiting: registered(
                &registry,
                valid(IntGauge::new("archive_waiting_bytes", "What waits on disk for the audit archive.")),
            ),
            archive_objects: registered(
                &registry,
                valid(IntCounter::new("archive_objects_total", "Objects uploaded to the audit archive.")),
            ),
            archive_failures: registered(
                &registry,
                valid(IntCounter::new("archive_failures_total", "Failed uploads to the audit archive.")),
            ),
            journal_bytes: registered(
                &registry,
                valid(IntGauge::new("journal_bytes", "What the journal keeps on disk.")),
            ),
            journal_lost: registered(
                &registry,
                vec("journal_lost_total", "Events of the journal that could not be read back.", &SINK_LABEL),
            ),
            sink_lag: registered(
                &registry,
                valid(IntGaugeVec::new(
                    Opts::new("sink_lag_records", "Events that the sink has not taken yet."),
                    &SINK_LABEL,
                )),
            ),
            sink_failures: registered(
                &registry,
                vec("sink_failures_total", "Batches that the sink did not take.", &SINK_LABEL),
            ),
            clock_leaps: registered(
                &registry,
                valid(IntCounter::new("clock_leap_total", "Leaps forward of the wall clock.")),
            ),
            registry,
        }
    }

    /// The metrics of one slot.
    #[must_use]
    pub fn slot(&self, slot: Slot) -> SlotMetrics {
        let (datacenter, worker) = (slot.datacenter.to_string(), slot.worker.to_string());
        let labels = [datacenter.as_str(), worker.as_str()];
        SlotMetrics {
            issued: self.issued.with_label_values(&labels),
            latency: self.latency.with_label_values(&labels),
            overflows: self.overflows.with_label_values(&labels),
            window_left: self.window_left.with_label_values(&labels),
        }
    }

    /// A slot that is no longer held has no window to tell of. Its counters stay, as counters do.
    pub fn slot_lost(&self, slot: Slot) {
        let (datacenter, worker) = (slot.datacenter.to_string(), slot.worker.to_string());
        // It may never have been told of, which is as good.
        let _ = self.window_left.remove_label_values(&[datacenter.as_str(), worker.as_str()]);
    }

    /// Counts a failed request.
    pub fn failed(&self, code: Code) {
        self.errors.with_label_values(&[code.name()]).inc();
    }

    /// How many IDs the process has issued, from every slot it held.
    #[must_use]
    pub fn issued_total(&self) -> u64 {
        total(&self.issued)
    }

    /// How many requests waited for a millisecond, on every slot the process held.
    #[must_use]
    pub fn overflows_total(&self) -> u64 {
        total(&self.overflows)
    }

    /// Every metric as one number, over all its labels: counts, states, and of a histogram its count and sum.
    #[must_use]
    pub fn values(&self) -> Vec<(Cow<'static, str>, f64)> {
        let mut values = Vec::new();
        for family in self.registry.gather() {
            let metrics = family.get_metric();
            let sum = |of: fn(&Metric) -> f64| metrics.iter().map(of).sum::<f64>();
            let name = family.name().to_owned();
            match family.get_field_type() {
                MetricType::COUNTER => values.push((name.into(), sum(|m| m.get_counter().get_value()))),
                MetricType::GAUGE => values.push((name.into(), sum(|m| m.get_gauge().get_value()))),
                #[expect(clippy::cast_precision_loss, reason = "a count, for people")]
                MetricType::HISTOGRAM => {
                    let count = sum(|m| m.get_histogram().get_sample_count() as f64);
                    values.push((format!("{name}_count").into(), count));
                    values.push((format!("{name}_sum").into(), sum(|m| m.get_histogram().get_sample_sum())));
                }
                _ => {}
            }
        }
        values
    }

    /// All of it in Prometheus' text form.
    #[must_use]
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            // A Vec takes every write, and the names were checked when they were registered.
            tracing::error!("the metrics cannot be written: {error}");
        }
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn vec(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    valid(IntCounterVec::new(Opts::new(name, help), labels))
}

fn valid<T>(metric: prometheus::Result<T>) -> T {
    metric.expect("names, labels and buckets are constants in the form Prometheus wants")
}

fn registered<T: Collector + Clone + 'static>(registry: &Registry, metric: T) -> T {
    registry.register(Box::new(metric.clone())).expect("each name is registered once");
    metric
}

/// The sum of a counter over its labels.
fn total(counters: &IntCounterVec) -> u64 {
    let families = counters.collect();
    let counts = families.iter().flat_map(MetricFamily::get_metric).map(|m| m.get_counter().get_value());
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count, exact to 2^53")]
    let total = counts.sum::<f64>() as u64;
    total
}
