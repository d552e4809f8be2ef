//! How latencies are kept in the database: how far each bucket in use is from the one before, and how many requests
//! it has; mostly two or three bytes each.

use rusqlite::ToSql;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef};

use crate::report::latency::Latencies;

/// Adds what [`ToSql`] wrote.
pub(super) fn add_stored(latencies: &mut Latencies, stored: ValueRef<'_>) -> FromSqlResult<()> {
    let buckets: Vec<(u64, u64)> =
        postcard::from_bytes(stored.as_blob()?).map_err(|error| FromSqlError::Other(Box::new(error)))?;
    let mut latency_us = 0_u64;
    for (more_us, requests) in buckets {
        latency_us = latency_us.saturating_add(more_us);
        latencies.record_several(latency_us, requests);
    }
    Ok(())
}

impl ToSql for Latencies {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let mut before_us = 0;
        let step =
            |(latency_us, requests)| (latency_us - std::mem::replace(&mut before_us, latency_us), requests);
        let buckets: Vec<(u64, u64)> = self.buckets().map(step).collect();
        let bytes = postcard::to_stdvec(&buckets).expect("a Vec takes every write, and buckets are numbers");
        Ok(bytes.into())
    }
}

impl FromSql for Latencies {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let mut latencies = Self::new();
        add_stored(&mut latencies, value)?;
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
            let (truth, got) = (f64::from(values[rank - 1]), all.quantile_us(quantile).unwrap() as f64);
            prop_assert!((got - truth).abs() <= truth * QUANTILE_ERROR, "{got}, not {truth}");
        }
    }
}
