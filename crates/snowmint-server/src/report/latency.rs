//! Latencies in buckets, so that those of any number of minutes make quantiles together.

use std::sync::LazyLock;

use hdrhistogram::Histogram;

/// Two digits: a bucket is 1/128 as wide as its values at most, which is below
/// [`QUANTILE_ERROR`](super::QUANTILE_ERROR). That makes 3,328 buckets at most.
const DIGITS: u8 = 2;

/// How many requests took how long, in microseconds.
#[derive(Clone)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, u32::MAX.into(), DIGITS);
        Self(histogram.expect("the bounds and the digits are such as there are"))
    }

    /// Counts a request.
    pub fn record(&mut self, latency_us: u32) {
        self.0.saturating_record(latency_us.into());
    }

    /// Counts several of one bucket.
    pub fn record_several(&mut self, latency_us: u64, requests: u64) {
        self.0.saturating_record_n(latency_us, requests);
    }

    /// Counts what another has counted.
    pub fn add(&mut self, more: &Self) {
        self.0.add(&more.0).expect("both have the same bounds");
    }

    /// The buckets that have requests: the highest latency of each, and how many.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value()))
    }

    /// The highest latency of the bucket of rank `⌈q·n⌉`; nothing where there are none.
    #[must_use]
    pub fn quantile_us(&self, quantile: f64) -> Option<u64> {
        (!self.0.is_empty()).then(|| self.0.value_at_quantile(quantile))
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

/// The highest latency of the bucket that a latency is in: what a store goes by that counts by itself.
#[must_use]
pub fn bucket_us(latency_us: u32) -> u32 {
    static BUCKETS: LazyLock<Latencies> = LazyLock::new(Latencies::new);
    u32::try_from(BUCKETS.0.highest_equivalent(latency_us.into())).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_whole_ranks() {
        let mut latencies = Latencies::new();
        for (latency_us, requests) in [(1, 50), (2, 45), (100, 4), (120, 1)] {
            latencies.record_several(latency_us, requests);
        }
        let quantiles = [0.50, 0.51, 0.95, 0.99, 1.0].map(|quantile| latencies.quantile_us(quantile));
        assert_eq!(quantiles, [Some(1), Some(2), Some(2), Some(100), Some(120)]);
        assert_eq!(Latencies::new().quantile_us(0.5), None);
    }

    #[test]
    fn a_bucket_goes_by_its_highest() {
        assert_eq!([0, 255, 256, 257, u32::MAX].map(bucket_us), [0, 255, 257, 257, u32::MAX]);
    }
}
