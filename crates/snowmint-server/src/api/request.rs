//! What every front end checks in a request, so that all of them refuse it in the same words.

use serde_json::json;
use snowmint::{Format, Id, Layout, Parts};

use crate::error::{Code, Error};

/// How far a clock of another node may be ahead of ours, in milliseconds, before an ID of its is taken for
/// one that cannot have been issued yet.
const CLOCK_AHEAD_MS_MAX: i64 = 1_000;

/// A count as the caller wrote it, which has to be from 1 to `most`.
pub(super) fn count(given: &str, most: u32) -> Result<u32, Error> {
    // Digits only: `u32` would read a plus sign too.
    let number = given.bytes().all(|byte| byte.is_ascii_digit()).then(|| given.parse().ok()).flatten();
    number.filter(|number| (1..=most).contains(number)).ok_or_else(|| {
        let message = format!("count is {}, it must be an integer from 1 to {most}", excerpt(given));
        let details = json!({ "parameter": "count", "minimum": 1, "maximum": most });
        Error { details: Some(details), ..Error::new(Code::InvalidParameter, message) }
    })
}

/// An ID as the caller wrote it, in `format` or in whichever it is.
pub(super) fn id(text: &str, format: Option<Format>) -> Result<Id, Error> {
    format
        .map_or_else(|| snowmint::parse(text), |format| format.parse(text))
        .map_err(|error| Error::parameter("id", format!("id is {}: {error}", excerpt(text))))
}

/// What an ID says of its origin.
pub(super) struct Origin {
    pub(super) parts: Parts,
    /// Since it was minted; negative where its time is still to come.
    pub(super) age_ms: i64,
    /// Whether it can have been issued by now.
    pub(super) valid: bool,
}

impl Origin {
    pub(super) fn of(id: Id, layout: Layout, now_ms: u64) -> Self {
        let parts = layout.decompose(id);
        // Both are below 2^63: a layout's times end before that.
        let age_ms = now_ms.cast_signed() - parts.timestamp_ms.cast_signed();
        Self { parts, age_ms, valid: age_ms >= -CLOCK_AHEAD_MS_MAX }
    }
}

/// What was given, short enough for a message.
pub(super) fn excerpt(given: &str) -> String {
    const CHARACTERS_MAX: usize = 40;
    let mut characters = given.chars();
    let start: String = characters.by_ref().take(CHARACTERS_MAX).collect();
    let end = if characters.next().is_some() { "…" } else { "" };
    format!("{start:?}{end}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_an_integer_in_its_range() {
        assert_eq!(count("1", 10).unwrap(), 1);
        assert_eq!(count("10", 10).unwrap(), 10);
        for given in ["", "0", "11", "-1", "+1", "1.0", "1e1", " 1", "ten", "18446744073709551616"] {
            let error = count(given, 10).unwrap_err();
            assert_eq!(error.code, Code::InvalidParameter);
            assert!(error.message.contains(&format!("{given:?}")), "{error}");
            assert!(error.message.contains("from 1 to 10"), "{error}");
        }
    }

    #[test]
    fn an_id_of_the_future_is_not_valid() {
        let layout = Layout::default();
        let (lowest, _) = layout.bounds(1_704_310_200_123, 1_704_310_200_124).unwrap();
        let at = |now_ms| Origin::of(lowest, layout, now_ms);
        assert_eq!((at(1_704_310_200_223).age_ms, at(1_704_310_200_223).valid), (100, true));
        assert_eq!((at(1_704_310_199_123).age_ms, at(1_704_310_199_123).valid), (-1_000, true));
        assert!(!at(1_704_310_199_122).valid);
    }

    #[test]
    fn a_long_value_is_not_repeated_whole() {
        assert!(excerpt(&"9".repeat(1_000)).len() < 50);
    }
}
