//! Latencies in buckets, so that those of many minutes make quantiles together.

use hdrhistogram::Histogram;
use hdrhistogram::iterators::IterationValue;
use rusqlite::ToSql;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef};

/// Two digits: a bucket is 1/128 as wide as its values at most, which is below
/// [`QUANTILE_ERROR`](crate::report::QUANTILE_ERROR). That makes 3,328 buckets at most. Those in use are written,
/// as how far each is from the one before and how many requests it has: mostly two or three bytes.
const DIGITS: u8 = 2;

/// How many requests took how long, in microseconds.
#[derive(Clone)]
pub(super) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(super) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, u32::MAX.into(), DIGITS);
        Self(histogram.expect("the bounds and the digits are such as there are"))
    }

    pub(super) fn record(&mut self, latency_us: u32) {
        self.0.saturating_record(latency_us.into());
    }

    pub(super) fn add(&mut self, more: &Self) {
        self.0.add(&more.0).expect("both have the same bounds");
    }

    /// Adds what [`ToSql`] wrote.
    pub(super) fn add_stored(&mut self, stored: ValueRef<'_>) -> FromSqlResult<()> {
        let buckets: Vec<(u64, u64)> =
            postcard::from_bytes(stored.as_blob()?).map_err(|error| FromSqlError::Other(Box::new(error)))?;
        let mut latency_us = 0_u64;
        for (more_us, requests) in buckets {
            latency_us = latency_us.saturating_add(more_us);
            self.0.saturating_record_n(latency_us, requests);
        }
        Ok(())
    }

    /// The latency of rank `⌈q·n⌉`, or the highest of its bucket.
    pub(super) fn quantile_us(&self, quantile: f64) -> u64 {
        self.0.value_at_quantile(quantile)
    }
}

impl ToSql for Latencies {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let mut before_us = 0;
        let bucket = |step: IterationValue<u64>| {
            let more_us =
                step.value_iterated_to() - std::mem::replace(&mut before_us, step.value_iterated_to());
            (more_us, step.count_at_value())
        };
        let buckets: Vec<(u64, u64)> = self.0.iter_recorded().map(bucket).collect();
        let bytes = postcard::to_stdvec(&buckets).expect("a Vec takes every write, and buckets are numbers");
        Ok(bytes.into())
    }
}

impl FromSql for Latencies {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let mut latencies = Self::new();
        latencies.add_stored(value)?;
        Ok(latencies)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::cast_precision_loss, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::report::QUANTILE_ERROR;

    fn stored(latencies: &Latencies) -> Latencies {
        match latencies.to_sql().unwrap() {
            ToSqlOutput::Owned(rusqlite::types::Value::Blob(bytes)) => {
                Latencies::column_result(ValueRef::Blob(&bytes)).unwrap()
            }
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn quantiles_are_within_their_error(
            mut values in prop::collection::vec(0..u32::MAX, 1..300),
            shift in 0..32_u32,
            quantile in 0.001..1.0_f64,
        ) {
            let (mut one, mut other) = (Latencies::new(), Latencies::new());
            for (n, value) in values.iter_mut().enumerate() {
                *value >>= shift;
                if n % 2 == 0 { one.record(*value) } else { other.record(*value) }
            }
            // Stored and read back again and again, as a minute is that grows.
            let mut all = stored(&stored(&one));
            all.add(&stored(&other));
            values.sort_unstable();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank")]
            let rank = (quantile * values.len() as f64).ceil() as usize;
            let (truth, got) = (f64::from(values[rank - 1]), all.quantile_us(quantile) as f64);
            prop_assert!((got - truth).abs() <= truth * QUANTILE_ERROR, "{got}, not {truth}");
        }
    }
}
