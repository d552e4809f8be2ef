//! An ID, a run of IDs, and the slot that issues them.

use std::fmt;
use std::str::FromStr;

/// A 64-bit ID whose sign bit is 0, so that it is the same number in every language.
///
/// Shown in decimal; [`Format`](crate::Format) has the other text forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u64);

impl Id {
    /// The largest ID, 2^63 - 1.
    pub const MAX: Self = Self(i64::MAX as u64);

    /// The ID with this value, or `None` where the sign bit is set.
    #[must_use]
    pub const fn new(value: u64) -> Option<Self> {
        if value <= Self::MAX.0 { Some(Self(value)) } else { None }
    }

    /// The caller knows the sign bit to be 0.
    pub(crate) const fn from_bits(bits: u64) -> Self {
        debug_assert!(bits <= Self::MAX.0);
        Self(bits)
    }

    /// Its value, at most 2^63 - 1.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<Id> for u64 {
    fn from(id: Id) -> Self {
        id.0
    }
}

impl From<Id> for i64 {
    fn from(id: Id) -> Self {
        id.0.cast_signed()
    }
}

/// A run of consecutive IDs: those one worker issued in one millisecond, in one go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    first: Id,
    count: u32,
}

impl IdRange {
    /// A run of `count` IDs from `first`, or `None` where it is empty or goes past [`Id::MAX`].
    #[must_use]
    pub fn new(first: Id, count: u32) -> Option<Self> {
        let last = first.get().checked_add(u64::from(count.checked_sub(1)?))?;
        Id::new(last).map(|_| Self { first, count })
    }

    /// The caller knows that the run is neither empty nor too long.
    pub(crate) const fn from_parts(first: Id, count: u32) -> Self {
        debug_assert!(count > 0 && first.0 + (count as u64 - 1) <= Id::MAX.0);
        Self { first, count }
    }

    /// The lowest ID of the run.
    #[must_use]
    pub const fn first(&self) -> Id {
        self.first
    }

    /// The highest ID of the run.
    #[must_use]
    pub const fn last(&self) -> Id {
        Id::from_bits(self.first.0 + (self.count as u64 - 1))
    }

    /// How many IDs the run has, at least one.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// The IDs of the run, lowest first.
    #[must_use]
    pub fn ids(&self) -> impl ExactSizeIterator<Item = Id> + use<> {
        let first = self.first.0;
        (0..self.count).map(move |offset| Id::from_bits(first + u64::from(offset)))
    }
}

/// A worker's place: while one node holds it, no other node mints from its bits.
///
/// Written `dc0_worker5`, as in the registry's keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Slot {
    /// Which datacenter, from 0.
    pub datacenter: u16,
    /// Which worker of that datacenter, from 0.
    pub worker: u16,
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dc{}_worker{}", self.datacenter, self.worker)
    }
}

impl FromStr for Slot {
    type Err = SlotError;

    fn from_str(text: &str) -> Result<Self, SlotError> {
        text.strip_prefix("dc")
            .and_then(|rest| rest.split_once("_worker"))
            .and_then(|(datacenter, worker)| {
                Some(Self { datacenter: datacenter.parse().ok()?, worker: worker.parse().ok()? })
            })
            // Only the spelling that `Display` gives, so that a slot has one key: no `dc00_worker+5`.
            .filter(|slot| slot.to_string() == text)
            .ok_or_else(|| SlotError { text: text.to_owned() })
    }
}

/// Text that names no slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotError {
    /// What was given.
    pub text: String,
}

impl fmt::Display for SlotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a slot: one is written like dc0_worker5", self.text)
    }
}

impl std::error::Error for SlotError {}
