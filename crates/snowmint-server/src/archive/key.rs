//! What objects are called: `year=2024/month=01/day=03/hour=19/dc0_worker5_20240103_19.json.gz`.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use snowmint::Slot;

const MS_PER_HOUR: u64 = 3_600_000;

/// What stands for the slot where requests failed at a node that held none.
const NO_SLOT: &str = "no_slot";

/// An hour, counted from the start of 1970 in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hour(pub u32);

/// The name of an object of the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectKey {
    /// When its records were made; the last of the hour before may be among them.
    pub hour: Hour,
    /// Whose records it has; none for those of a node that held no slot.
    pub slot: Option<Slot>,
    /// Which of the objects of that hour and slot it is, from 1.
    pub number: u32,
}

/// A name that no object of the archive has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no object of an archive: one is called like year=2024/month=01/day=03/hour=19/dc0_worker5_20240103_19.json.gz"
)]
pub struct KeyError(pub String);

impl Hour {
    /// The hour of a Unix time in milliseconds.
    #[must_use]
    pub fn of(at_ms: u64) -> Self {
        Self(u32::try_from(at_ms / MS_PER_HOUR).unwrap_or(u32::MAX))
    }

    /// When it starts, in Unix milliseconds.
    #[must_use]
    pub fn start_ms(self) -> u64 {
        u64::from(self.0) * MS_PER_HOUR
    }

    /// When it ends, in Unix milliseconds.
    #[must_use]
    pub fn end_ms(self) -> u64 {
        self.start_ms() + MS_PER_HOUR
    }

    /// Whether an object of this hour takes records of another: late ones of the hour before, after its first.
    #[must_use]
    pub fn takes(self, record: Self) -> bool {
        record == self || record.0.checked_add(1) == Some(self.0)
    }

    /// The directory of its objects, such as `year=2024/month=01/day=03/hour=19`.
    #[must_use]
    pub fn directory(self) -> String {
        self.civil().strftime("year=%Y/month=%m/day=%d/hour=%H").to_string()
    }

    fn civil(self) -> DateTime {
        // Past the year 9999 there are no hours to be had.
        let at = Timestamp::from_second(i64::from(self.0) * 3_600).unwrap_or(Timestamp::MAX);
        TimeZone::UTC.to_datetime(at)
    }
}

impl ObjectKey {
    /// The same hour and slot, one further.
    #[must_use]
    pub fn next(self) -> Self {
        Self { number: self.number + 1, ..self }
    }

    /// Its name in the directory of its hour, without what all end in: `dc0_worker5_20240103_19`.
    #[must_use]
    pub fn stem(self) -> String {
        let number = if self.number > 1 { format!("-{}", self.number) } else { String::new() };
        format!("{}_{}{number}", slot_name(self.slot), self.hour.civil().strftime("%Y%m%d_%H"))
    }

    /// The key of that [`stem`](Self::stem).
    #[must_use]
    pub fn of_stem(stem: &str) -> Option<Self> {
        parse(stem).filter(|key| key.stem() == stem)
    }
}

/// What the slot is called in names.
pub(crate) fn slot_name(slot: Option<Slot>) -> String {
    slot.map_or_else(|| NO_SLOT.to_owned(), |slot| slot.to_string())
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}.json.gz", self.hour.directory(), self.stem())
    }
}

impl FromStr for ObjectKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        // What is read is written again, so that there is one name for an object.
        let stem = text.rsplit_once('/').and_then(|(_, name)| name.strip_suffix(".json.gz"));
        let key = stem.and_then(parse).filter(|key| key.to_string() == text);
        key.ok_or_else(|| KeyError(text.to_owned()))
    }
}

impl TryFrom<String> for ObjectKey {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        text.parse()
    }
}

impl From<ObjectKey> for String {
    fn from(key: ObjectKey) -> Self {
        key.to_string()
    }
}

fn parse(stem: &str) -> Option<ObjectKey> {
    let (name, number) = match stem.split_once('-') {
        Some((name, number)) => (name, number.parse().ok()?),
        None => (stem, 1),
    };
    let (name, hour) = name.rsplit_once('_')?;
    let (slot, day) = name.rsplit_once('_')?;
    let slot = if slot == NO_SLOT { None } else { Some(slot.parse().ok()?) };
    let at = DateTime::strptime("%Y%m%d %H", format!("{day} {hour}")).ok()?;
    let at_s = TimeZone::UTC.to_timestamp(at).ok()?.as_second();
    Some(ObjectKey { hour: Hour(u32::try_from(at_s / 3_600).ok()?), slot, number })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let hour = Hour::of(1_704_310_200_123);
        let slot = Some(Slot { datacenter: 0, worker: 5 });
        for (key, text) in [
            (
                ObjectKey { hour, slot, number: 1 },
                "year=2024/month=01/day=03/hour=19/dc0_worker5_20240103_19.json.gz",
            ),
            (
                ObjectKey { hour, slot, number: 12 },
                "year=2024/month=01/day=03/hour=19/dc0_worker5_20240103_19-12.json.gz",
            ),
            (
                ObjectKey { hour, slot: None, number: 2 },
                "year=2024/month=01/day=03/hour=19/no_slot_20240103_19-2.json.gz",
            ),
        ] {
            assert_eq!(key.to_string(), text);
            assert_eq!(text.parse(), Ok(key));
        }
        assert_eq!((hour.start_ms(), hour.end_ms()), (1_704_308_400_000, 1_704_312_000_000));
    }

    #[test]
    fn other_names_are_refused() {
        for text in [
            "",
            "dc0_worker5_20240103_19.json.gz",
            "year=2024/month=01/day=03/hour=18/dc0_worker5_20240103_19.json.gz",
            "year=2024/month=01/day=03/hour=19/dc0_worker5_20240103_19-1.json.gz",
            "year=2024/month=01/day=03/hour=19/dc0_worker05_20240103_19.json.gz",
            "year=2024/month=01/day=03/hour=19/dc0_worker5_20240103_19.json",
            "year=2024/month=13/day=03/hour=19/dc0_worker5_20241303_19.json.gz",
        ] {
            assert_eq!(text.parse::<ObjectKey>(), Err(KeyError(text.to_owned())));
        }
    }
}
