//! The fence: which IDs a holder of a slot may mint, and why no other holder can mint them too.
//!
//! Each slot has one durable record, whose ceiling says below which ID everything may already have
//! been given away. A holder asks for the stretch above it with a [`Claim`], makes the claim's
//! ceiling durable with a compare-and-swap of the record, and only then has a [`Window`].
//!
//! ```
//! use snowmint::{Claim, Generator, Layout, SequenceStart, Slot};
//!
//! let layout = Layout::default();
//! let slot = Slot { datacenter: 0, worker: 5 };
//! let now_ms = 1_704_310_200_123; // your clock
//!
//! // `None`: your store has no ceiling for this slot yet.
//! let claim = Claim::new(layout, slot, None, now_ms, 10_000)?;
//! // Here `claim.ceiling()` goes to your store, if the record is still the one you read.
//! let window = claim.granted();
//!
//! let generator = Generator::new(window, SequenceStart::Zero);
//! let range = generator.mint(now_ms, 100)?;
//! assert_eq!(range.count(), 100);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt;

use crate::{ComposeError, Id, Layout, Slot};

/// The end of what a slot may have issued, kept in ID space (an ID whose node and sequence bits are
/// 0), so that a changed epoch cannot move it backwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ceiling(Id);

impl Ceiling {
    /// A ceiling as a store gave it back, or why it cannot be one under this layout.
    pub fn from_id(layout: Layout, id: Id) -> Result<Self, ClaimError> {
        let low_bits = layout.split().node_and_sequence_bits();
        if id.get() & ((1 << low_bits) - 1) != 0 {
            return Err(ClaimError::NotACeiling { id });
        }
        Ok(Self(id))
    }

    /// The lowest ID that is not below the ceiling.
    #[must_use]
    pub const fn id(self) -> Id {
        self.0
    }

    /// The Unix millisecond the ceiling stands for.
    #[must_use]
    pub const fn time_ms(self, layout: Layout) -> u64 {
        layout.epoch_ms() + self.tick(layout)
    }

    pub(crate) const fn at_tick(layout: Layout, tick: u64) -> Self {
        Self(Id::from_bits(tick << layout.split().node_and_sequence_bits()))
    }

    const fn tick(self, layout: Layout) -> u64 {
        self.0.get() >> layout.split().node_and_sequence_bits()
    }
}

/// A window that is asked for and not yet durable: nothing can be minted from it.
///
/// Not `Clone`: one claim gives one window.
#[derive(Debug)]
#[must_use = "a claim gives no IDs until its ceiling is durable"]
pub struct Claim {
    layout: Layout,
    slot: Slot,
    floor: Option<Ceiling>,
    ceiling: Ceiling,
}

impl Claim {
    /// The longest window, in milliseconds: how far ahead of the clock a ceiling may be made durable,
    /// and so how long one mistaken clock can keep a slot from the others.
    pub const WINDOW_MS_MAX: u64 = 3_600_000;

    /// Asks for the stretch of `slot` from the ceiling its record has (`None`: it has no record) to
    /// `window_ms` after `now_ms`, both in milliseconds, `now_ms` a Unix time.
    ///
    /// The new ceiling is never below the old one, and never further than `window_ms` ahead of the
    /// clock: a node that restarts over and over cannot push its slot into the future.
    pub fn new(
        layout: Layout,
        slot: Slot,
        floor: Option<Ceiling>,
        now_ms: u64,
        window_ms: u64,
    ) -> Result<Self, ClaimError> {
        layout.check_slot(slot)?;
        if !(1..=Self::WINDOW_MS_MAX).contains(&window_ms) {
            return Err(ClaimError::WindowLength { window_ms });
        }
        let now_tick = layout.tick(now_ms)?;
        // At the very end of the timestamps the window is what is left of them. The layout's end itself
        // is no ID where time and sequence take all 63 bits, so the ceiling stays one tick below it.
        let tick = (now_tick + window_ms).min(layout.split().ticks_end() - 1);
        let ceiling = Ceiling::at_tick(layout, tick);
        match floor {
            Some(floor) if ceiling <= floor && now_ms.saturating_add(window_ms) >= layout.end_ms() => {
                Err(ComposeError::OutOfTimestamps { timestamp_ms: now_ms, end_ms: layout.end_ms() }.into())
            }
            Some(floor) if ceiling <= floor => {
                Err(ClaimError::Ahead { floor_ms: floor.time_ms(layout), now_ms, window_ms })
            }
            _ => Ok(Self { layout, slot, floor, ceiling }),
        }
    }

    /// Whose window it is.
    #[must_use]
    pub const fn slot(&self) -> Slot {
        self.slot
    }

    /// What has to become durable before the claim is granted.
    #[must_use]
    pub const fn ceiling(&self) -> Ceiling {
        self.ceiling
    }

    /// Makes the claim a window.
    ///
    /// The whole promise rests on this call: make it only when the store has confirmed, durably and by
    /// compare-and-swap, that the slot's record went from the floor this claim was made with to
    /// [`ceiling`](Self::ceiling). A swap whose reply was lost is not confirmed: drop the claim and read
    /// the record again.
    #[must_use]
    pub const fn granted(self) -> Window {
        let floor_tick = match self.floor {
            Some(floor) => floor.tick(self.layout),
            None => 0,
        };
        Window {
            layout: self.layout,
            slot: self.slot,
            floor_tick,
            ceiling_tick: self.ceiling.tick(self.layout),
        }
    }
}

/// A durable window: whoever holds it may mint the IDs of its slot whose time lies in `[floor,
/// ceiling)`, and nobody else may.
///
/// Only [`Claim::granted`] makes one, and a generator takes it by value.
#[derive(Debug)]
pub struct Window {
    pub(crate) layout: Layout,
    pub(crate) slot: Slot,
    pub(crate) floor_tick: u64,
    pub(crate) ceiling_tick: u64,
}

impl Window {
    /// Whose window it is.
    #[must_use]
    pub const fn slot(&self) -> Slot {
        self.slot
    }

    /// The first Unix millisecond whose IDs are in the window.
    #[must_use]
    pub const fn floor_ms(&self) -> u64 {
        self.layout.epoch_ms() + self.floor_tick
    }

    /// The first Unix millisecond whose IDs are past the window.
    #[must_use]
    pub const fn ceiling_ms(&self) -> u64 {
        self.layout.epoch_ms() + self.ceiling_tick
    }
}

/// Why a window cannot be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimError {
    /// The clock is outside the layout's timestamps, or the slot outside its datacenters and workers.
    Layout(ComposeError),
    /// The slot's ceiling is already further ahead of the clock than a window reaches.
    Ahead {
        /// The ceiling the record has, in Unix milliseconds.
        floor_ms: u64,
        /// The clock, in Unix milliseconds.
        now_ms: u64,
        /// The length that was asked for, in milliseconds.
        window_ms: u64,
    },
    /// The window's length is 0, or more than [`Claim::WINDOW_MS_MAX`].
    WindowLength {
        /// The length that was asked for, in milliseconds.
        window_ms: u64,
    },
    /// A stored ceiling has node or sequence bits: it was written under another layout, or damaged.
    NotACeiling {
        /// What was stored.
        id: Id,
    },
}

impl From<ComposeError> for ClaimError {
    fn from(error: ComposeError) -> Self {
        Self::Layout(error)
    }
}

impl fmt::Display for ClaimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layout(error) => error.fmt(f),
            Self::Ahead { floor_ms, now_ms, window_ms } => write!(
                f,
                "the slot's window already ends {} ms ahead of the clock, further than the {window_ms} ms asked for",
                floor_ms - now_ms
            ),
            Self::WindowLength { window_ms } => {
                write!(
                    f,
                    "a window of {window_ms} ms cannot be: it may have 1 to {} ms",
                    Claim::WINDOW_MS_MAX
                )
            }
            Self::NotACeiling { id } => write!(
                f,
                "{id} is not a ceiling: its node and sequence bits are not 0, so it was written under another layout"
            ),
        }
    }
}

impl std::error::Error for ClaimError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Layout(error) => Some(error),
            _ => None,
        }
    }
}
