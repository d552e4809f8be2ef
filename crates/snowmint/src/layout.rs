//! How 63 bits are split into time, place and count, and what follows from the split.

use std::fmt;
use std::str::FromStr;

use crate::{Id, Slot};

/// 2021-01-01T00:00:00Z in Unix milliseconds: where the timestamps of the default layout start.
pub const DEFAULT_EPOCH_MS: u64 = 1_609_459_200_000;

/// Bits of an ID that carry information. The 64th, the sign bit of languages without unsigned
/// integers, is always 0.
pub const ID_BITS: u8 = 63;

/// How many of an ID's 63 bits go to each part, most significant first. Written `41/5/5/12`.
///
/// ```
/// let split: snowmint::Split = "41/5/5/12".parse().unwrap();
/// assert_eq!(split, snowmint::Split::DEFAULT);
/// assert_eq!(split.to_string(), "41/5/5/12");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Split {
    timestamp: u8,
    datacenter: u8,
    worker: u8,
    sequence: u8,
}

impl Split {
    /// 41 bits of milliseconds (69 years), 32 datacenters of 32 workers, 4096 IDs a millisecond.
    pub const DEFAULT: Self = Self { timestamp: 41, datacenter: 5, worker: 5, sequence: 12 };

    /// Widest datacenter and widest worker part, in bits: a [`Slot`] holds both as `u16`.
    pub const NODE_BITS_MAX: u8 = 16;
    /// Widest sequence, in bits: a count of IDs is a `u32`.
    pub const SEQUENCE_BITS_MAX: u8 = 31;

    /// Checks that the parts fill the 63 bits and that each is of a usable width.
    pub fn new(timestamp: u8, datacenter: u8, worker: u8, sequence: u8) -> Result<Self, SplitError> {
        let total = [timestamp, datacenter, worker, sequence].map(u32::from).iter().sum();
        if total != u32::from(ID_BITS) {
            return Err(SplitError::Total { bits: total });
        }
        for (part, bits, least, most) in [
            ("timestamp", timestamp, 1, ID_BITS),
            ("datacenter", datacenter, 0, Self::NODE_BITS_MAX),
            ("worker", worker, 0, Self::NODE_BITS_MAX),
            ("sequence", sequence, 0, Self::SEQUENCE_BITS_MAX),
        ] {
            if !(least..=most).contains(&bits) {
                return Err(SplitError::Part { part, bits, least, most });
            }
        }
        Ok(Self { timestamp, datacenter, worker, sequence })
    }

    /// How many datacenters the split can tell apart.
    #[must_use]
    pub const fn datacenters(self) -> u32 {
        1 << self.datacenter
    }

    /// How many workers one datacenter can have.
    #[must_use]
    pub const fn workers(self) -> u32 {
        1 << self.worker
    }

    /// The highest sequence number there is room for: IDs of one worker in one millisecond, less one.
    #[must_use]
    pub const fn max_sequence(self) -> u32 {
        (1 << self.sequence) - 1
    }

    pub(crate) const fn sequence_bits(self) -> u8 {
        self.sequence
    }

    /// Bits below the timestamp.
    pub(crate) const fn node_and_sequence_bits(self) -> u8 {
        self.datacenter + self.worker + self.sequence
    }

    /// The first tick (millisecond since the epoch) that has no timestamp.
    pub(crate) const fn ticks_end(self) -> u64 {
        1 << self.timestamp
    }
}

impl Default for Split {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.timestamp, self.datacenter, self.worker, self.sequence)
    }
}

impl FromStr for Split {
    type Err = SplitError;

    fn from_str(text: &str) -> Result<Self, SplitError> {
        let malformed = || SplitError::Text { text: text.to_owned() };
        let parts: Vec<u8> =
            text.split('/').map(str::parse).collect::<Result<_, _>>().map_err(|_| malformed())?;
        let [timestamp, datacenter, worker, sequence] = parts[..] else {
            return Err(malformed());
        };
        Self::new(timestamp, datacenter, worker, sequence)
    }
}

/// Why a split was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SplitError {
    /// The parts do not add up to 63 bits.
    Total {
        /// What they add up to.
        bits: u32,
    },
    /// One part is too narrow or too wide.
    Part {
        /// Its name.
        part: &'static str,
        /// Its width.
        bits: u8,
        /// The least width it may have.
        least: u8,
        /// The most width it may have.
        most: u8,
    },
    /// The text is not four numbers between slashes.
    Text {
        /// What was given.
        text: String,
    },
}

impl fmt::Display for SplitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Total { bits } => {
                write!(f, "the parts of a layout must add up to {ID_BITS} bits, these are {bits}")
            }
            Self::Part { part, bits, least, most } => {
                write!(f, "the {part} part has {bits} bits, it may have {least} to {most}")
            }
            Self::Text { text } => write!(
                f,
                "{text:?} is not a layout: four bit counts are wanted, timestamp/datacenter/worker/sequence, as in 41/5/5/12"
            ),
        }
    }
}

impl std::error::Error for SplitError {}

/// A split and the epoch its timestamps count from: all it takes to make an ID or to read one.
///
/// ```
/// use snowmint::{Layout, Parts, Slot};
///
/// let layout = Layout::default();
/// let parts = Parts { timestamp_ms: 1_704_310_200_123, slot: Slot { datacenter: 0, worker: 5 }, sequence: 42 };
/// let id = layout.compose(parts)?;
/// assert_eq!(layout.decompose(id), parts);
/// # Ok::<(), snowmint::ComposeError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    split: Split,
    epoch_ms: u64,
}

impl Default for Layout {
    fn default() -> Self {
        Self { split: Split::DEFAULT, epoch_ms: DEFAULT_EPOCH_MS }
    }
}

impl Layout {
    /// The latest epoch, in Unix milliseconds (the year 2527), so that no sum of times overflows.
    pub const EPOCH_MS_MAX: u64 = (1 << 44) - 1;

    /// A layout whose timestamps count milliseconds from `epoch_ms` (Unix milliseconds, UTC).
    pub fn new(split: Split, epoch_ms: u64) -> Result<Self, EpochError> {
        if epoch_ms > Self::EPOCH_MS_MAX {
            return Err(EpochError { epoch_ms });
        }
        Ok(Self { split, epoch_ms })
    }

    /// How the bits are split.
    #[must_use]
    pub const fn split(&self) -> Split {
        self.split
    }

    /// Where the timestamps start, in Unix milliseconds.
    #[must_use]
    pub const fn epoch_ms(&self) -> u64 {
        self.epoch_ms
    }

    /// The first Unix millisecond for which this layout has no timestamp left.
    ///
    /// ```
    /// // 2090-09-07T15:47:35.552Z
    /// assert_eq!(snowmint::Layout::default().end_ms(), 3_808_482_455_552);
    /// ```
    #[must_use]
    pub const fn end_ms(&self) -> u64 {
        self.epoch_ms + self.split.ticks_end()
    }

    /// Packs the parts into an ID, or says which part does not fit.
    pub fn compose(&self, parts: Parts) -> Result<Id, ComposeError> {
        let tick = self.tick(parts.timestamp_ms)?;
        self.check_slot(parts.slot)?;
        if parts.sequence > self.split.max_sequence() {
            return Err(ComposeError::TooLarge {
                part: "sequence",
                value: parts.sequence,
                most: self.split.max_sequence(),
            });
        }
        Ok(self.pack(tick, parts.slot, parts.sequence))
    }

    /// The parts of an ID. Every ID has them; whether one was ever issued only a registry knows.
    #[must_use]
    pub const fn decompose(&self, id: Id) -> Parts {
        let low_bits = id.get() & ((1 << self.split.node_and_sequence_bits()) - 1);
        let sequence = low_bits & self.split.max_sequence() as u64;
        let node = low_bits >> self.split.sequence;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "masked to the parts' widths, at most 31 and 16 bits"
        )]
        Parts {
            timestamp_ms: self.epoch_ms + (id.get() >> self.split.node_and_sequence_bits()),
            slot: Slot {
                datacenter: (node >> self.split.worker) as u16,
                worker: (node & (self.split.workers() as u64 - 1)) as u16,
            },
            sequence: sequence as u32,
        }
    }

    /// The lowest and the highest ID that any node can issue from `from_ms` up to, not including,
    /// `to_ms`: the ends of a range scan by time.
    pub fn bounds(&self, from_ms: u64, to_ms: u64) -> Result<(Id, Id), ComposeError> {
        if to_ms <= from_ms {
            return Err(ComposeError::EmptyInterval { from_ms, to_ms });
        }
        let low_bits = self.split.node_and_sequence_bits();
        let lowest = self.tick(from_ms)? << low_bits;
        let highest = (self.tick(to_ms - 1)? << low_bits) | ((1 << low_bits) - 1);
        Ok((Id::from_bits(lowest), Id::from_bits(highest)))
    }

    /// Milliseconds since the epoch, if the layout has a timestamp for them.
    pub(crate) fn tick(&self, timestamp_ms: u64) -> Result<u64, ComposeError> {
        match timestamp_ms.checked_sub(self.epoch_ms) {
            None => Err(ComposeError::BeforeEpoch { timestamp_ms, epoch_ms: self.epoch_ms }),
            Some(tick) if tick >= self.split.ticks_end() => {
                Err(ComposeError::OutOfTimestamps { timestamp_ms, end_ms: self.end_ms() })
            }
            Some(tick) => Ok(tick),
        }
    }

    pub(crate) fn check_slot(&self, slot: Slot) -> Result<(), ComposeError> {
        for (part, value, room) in [
            ("datacenter", slot.datacenter, self.split.datacenters()),
            ("worker", slot.worker, self.split.workers()),
        ] {
            if u32::from(value) >= room {
                return Err(ComposeError::TooLarge { part, value: value.into(), most: room - 1 });
            }
        }
        Ok(())
    }

    /// The caller has checked the parts.
    pub(crate) fn pack(&self, tick: u64, slot: Slot, sequence: u32) -> Id {
        Id::from_bits(
            (tick << self.split.node_and_sequence_bits()) | self.slot_bits(slot) | u64::from(sequence),
        )
    }

    pub(crate) fn slot_bits(&self, slot: Slot) -> u64 {
        ((u64::from(slot.datacenter) << self.split.worker) | u64::from(slot.worker)) << self.split.sequence
    }
}

/// What an ID is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// When it was minted, in Unix milliseconds.
    pub timestamp_ms: u64,
    /// Who minted it.
    pub slot: Slot,
    /// Which of that millisecond's IDs it is.
    pub sequence: u32,
}

/// An epoch later than [`Layout::EPOCH_MS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochError {
    /// The epoch that was given.
    pub epoch_ms: u64,
}

impl fmt::Display for EpochError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the epoch {} is too late: it is in Unix milliseconds and may be at most {}",
            self.epoch_ms,
            Layout::EPOCH_MS_MAX
        )
    }
}

impl std::error::Error for EpochError {}

/// Why parts cannot be an ID of a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComposeError {
    /// The time is before the epoch.
    BeforeEpoch {
        /// The time, in Unix milliseconds.
        timestamp_ms: u64,
        /// The epoch, in Unix milliseconds.
        epoch_ms: u64,
    },
    /// The layout has no timestamps left for that time.
    OutOfTimestamps {
        /// The time, in Unix milliseconds.
        timestamp_ms: u64,
        /// The first Unix millisecond without a timestamp.
        end_ms: u64,
    },
    /// A part does not fit its bits.
    TooLarge {
        /// Its name.
        part: &'static str,
        /// Its value.
        value: u32,
        /// The largest value that fits.
        most: u32,
    },
    /// An interval ends before it starts.
    EmptyInterval {
        /// Its start, in Unix milliseconds.
        from_ms: u64,
        /// Its end, exclusive, in Unix milliseconds.
        to_ms: u64,
    },
}

impl fmt::Display for ComposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BeforeEpoch { timestamp_ms, epoch_ms } => {
                write!(f, "the time {timestamp_ms} ms is before the epoch, {epoch_ms} ms")
            }
            Self::OutOfTimestamps { timestamp_ms, end_ms } => write!(
                f,
                "the time {timestamp_ms} ms has no timestamp in this layout, which ends at {end_ms} ms"
            ),
            Self::TooLarge { part, value, most } => {
                write!(f, "{part} {value} does not fit this layout, which has room for 0 to {most}")
            }
            Self::EmptyInterval { from_ms, to_ms } => {
                write!(
                    f,
                    "the interval from {from_ms} ms to {to_ms} ms is empty: its end must be after its start"
                )
            }
        }
    }
}

impl std::error::Error for ComposeError {}
