//! `Serialize` and `Deserialize` for the types that are one value. [`Slot`](crate::Slot) derives them.

use ::serde::de::{Error, Unexpected};
use ::serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Id, Split};

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.get())
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = u64::deserialize(deserializer)?;
        Self::new(value)
            .ok_or_else(|| D::Error::invalid_value(Unexpected::Unsigned(value), &"an ID, at most 2^63 - 1"))
    }
}

impl Serialize for Split {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Split {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
