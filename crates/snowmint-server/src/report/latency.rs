//! Latencies in buckets, so that quantiles can be made of any number of them, and of totals of totals.
//!
//! A bucket goes by its highest latency and is at most 1/128 of it wide, so that a quantile is off by less than
//! [`QUANTILE_ERROR`](super::QUANTILE_ERROR). They are those of an `hdrhistogram` of two digits, which the embedded
//! store counts with: the same latencies are the same numbers in either store.

use std::collections::BTreeMap;

/// Within a power of two there are this many buckets.
const STEPS: u32 = 128;

/// The highest latency of the bucket that a latency is in.
#[must_use]
pub const fn bucket_us(latency_us: u32) -> u32 {
    if latency_us < 2 * STEPS {
        return latency_us;
    }
    let width = 1 << (latency_us.ilog2() - STEPS.ilog2());
    latency_us | (width - 1)
}

/// The latency of rank `⌈q·n⌉` of `n`, in a count for each bucket; nothing if there are none.
#[must_use]
pub fn quantile_us(buckets: &BTreeMap<u32, u64>, percent: u64) -> Option<u32> {
    let total: u64 = buckets.values().sum();
    let rank = (total * percent).div_ceil(100).max(1);
    let mut before = 0;
    buckets.iter().find_map(|(highest_us, count)| {
        before += count;
        (before >= rank).then_some(*highest_us)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_those_of_the_histogram() {
        let histogram = hdrhistogram::Histogram::<u64>::new_with_bounds(1, u32::MAX.into(), 2).unwrap();
        let mut latency_us = 0_u32;
        while let Some(next) = latency_us.checked_add(1 + latency_us / 1_000) {
            assert_eq!(u64::from(bucket_us(latency_us)), histogram.highest_equivalent(latency_us.into()));
            latency_us = next;
        }
    }

    #[test]
    fn quantiles_are_of_whole_ranks() {
        let buckets = BTreeMap::from([(1, 50), (2, 45), (100, 4), (120, 1)]);
        let quantiles = [50, 51, 95, 99, 100].map(|percent| quantile_us(&buckets, percent));
        assert_eq!(quantiles, [Some(1), Some(2), Some(2), Some(100), Some(120)]);
        assert_eq!(quantile_us(&BTreeMap::new(), 50), None);
    }
}
