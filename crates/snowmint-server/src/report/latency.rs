//! Latencies in buckets, so that quantiles can be made of any number of them, and of totals of totals.
//!
//! A bucket is at most 1/64 of its lowest latency wide, and stands for its middle: a quantile is off by less than 1 %.

use std::collections::BTreeMap;

/// Within a power of two there are this many buckets.
const STEPS: u32 = 64;

/// Which bucket a latency is in: `0..2 * STEPS` are latencies as they are.
#[must_use]
pub const fn bucket(latency_us: u32) -> u32 {
    if latency_us < 2 * STEPS {
        return latency_us;
    }
    let shift = latency_us.ilog2() - STEPS.ilog2();
    shift * STEPS + (latency_us >> shift)
}

/// The latency that a bucket stands for.
#[must_use]
pub const fn value(bucket: u32) -> u32 {
    if bucket < 2 * STEPS {
        return bucket;
    }
    let shift = bucket / STEPS - 1;
    let lowest = ((bucket % STEPS + STEPS) as u64) << shift;
    // No bucket of a latency is past the end of u32.
    (lowest + (1 << shift) / 2) as u32
}

/// The latency of rank `⌈q·n⌉` of `n`, in a count for each bucket; nothing if there are none.
#[must_use]
pub fn quantile(buckets: &BTreeMap<u32, u64>, percent: u64) -> Option<u32> {
    let total: u64 = buckets.values().sum();
    let rank = (total * percent).div_ceil(100).max(1);
    let mut before = 0;
    buckets.iter().find_map(|(bucket, count)| {
        before += count;
        (before >= rank).then(|| value(*bucket))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_stands_for_its_latencies_within_one_percent() {
        let mut latency_us = 0_u32;
        let mut last = 0;
        while let Some(next) = latency_us.checked_add(1 + latency_us / 500) {
            let bucket = bucket(latency_us);
            assert!(bucket >= last, "{latency_us}");
            last = bucket;
            let off = (f64::from(value(bucket)) - f64::from(latency_us)).abs();
            assert!(off <= 0.01 * f64::from(latency_us), "{latency_us}: {}", value(bucket));
            latency_us = next;
        }
        assert!(value(bucket(u32::MAX)) > u32::MAX - u32::MAX / 100);
    }

    #[test]
    fn quantiles_are_of_whole_ranks() {
        let buckets = BTreeMap::from([(1, 50), (2, 45), (100, 4), (120, 1)]);
        let quantiles = [50, 51, 95, 99, 100].map(|percent| quantile(&buckets, percent));
        assert_eq!(quantiles, [Some(1), Some(2), Some(2), Some(100), Some(120)]);
        assert_eq!(quantile(&BTreeMap::new(), 50), None);
    }
}
