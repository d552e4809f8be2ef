//! Of which requests the metrics store has a row.

use std::fmt;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

/// Of which requests the metrics store has a row. Totals are exact in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Detail {
    /// Of each.
    Every,
    /// Of one in so many.
    Sampled(NonZeroU32),
    /// Of none.
    None,
}

impl Detail {
    /// Whether the event with this number has a row: a batch that is stored anew has the same ones.
    #[must_use]
    pub fn keeps(self, number: u64) -> bool {
        match self {
            Self::Every => true,
            Self::Sampled(one_in) => number.is_multiple_of(one_in.get().into()),
            Self::None => false,
        }
    }
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every => f.write_str("every"),
            Self::Sampled(one_in) => write!(f, "sampled {one_in}"),
            Self::None => f.write_str("none"),
        }
    }
}

impl TryFrom<String> for Detail {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.as_str() {
            "every" => Ok(Self::Every),
            "none" => Ok(Self::None),
            _ => {
                let one_in = text.strip_prefix("sampled ").and_then(|number| number.parse().ok());
                one_in.map(Self::Sampled).ok_or("`every`, `sampled N` (one row of N) or `none` is wanted")
            }
        }
    }
}

impl From<Detail> for String {
    fn from(detail: Detail) -> Self {
        detail.to_string()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::Detail;

    #[test]
    fn a_detail_is_read_as_it_is_written() {
        for (text, kept) in [("every", 30), ("sampled 10", 3), ("none", 0)] {
            let detail = Detail::try_from(text.to_owned()).unwrap();
            assert_eq!(detail.to_string(), text);
            assert_eq!((0..30).filter(|number| detail.keeps(*number)).count(), kept);
        }
        for text in ["", "all", "sampled", "sampled 0", "sampled x", "10"] {
            assert!(Detail::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
