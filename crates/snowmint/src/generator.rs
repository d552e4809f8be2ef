//! The generator: one atomic word, from which every ID of a slot is drawn, in order.

use std::fmt;

use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::{Ceiling, Id, IdRange, Layout, Slot, Window};

/// Where a millisecond's IDs start counting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SequenceStart {
    /// At 0, so that every ID made alone in its millisecond is divisible by 4096 (in the default layout).
    Zero,
    /// Somewhere in the first quarter of the sequence, so that IDs spread evenly over shards chosen by
    /// remainder. While demand is high a millisecond starts at 0: full speed costs nothing.
    #[default]
    Jittered,
}

/// Mints the IDs of one slot. Shared by reference among threads, it never blocks and never allocates.
///
/// Pure: the time is an argument, and any sequence of times is safe. Its IDs strictly increase, and all
/// lie in the windows it was given. [`window`](crate::window) has an example.
#[derive(Debug)]
pub struct Generator {
    layout: Layout,
    slot: Slot,
    slot_bits: u64,
    /// Where it started, to tell a generator that issued nothing.
    first_position: u64,
    start: SequenceStart,
    limits: Limits,
    next: Next,
}

/// What minting only reads, on cache lines of its own, so that reading it never waits for the writers
/// of [`Next`].
#[derive(Debug)]
#[repr(align(128))]
struct Limits {
    ceiling_tick: AtomicU64,
    max_sequence: AtomicU32,
}

/// The one word that minting changes: the lowest position not given away yet.
///
/// A position is a tick (a millisecond since the epoch) above a sequence number, with no node bits
/// between them. Sequence 0 means that nothing of that tick is taken: after the last ID of a full
/// millisecond the position carries over into the next tick, which is what is wanted.
#[derive(Debug)]
#[repr(align(128))]
struct Next(AtomicU64);

impl Generator {
    /// A generator for a window that nobody else has or will have.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a window is used up: two generators from one would repeat IDs"
    )]
    #[must_use]
    pub fn new(window: Window, start: SequenceStart) -> Self {
        let Window { layout, slot, floor_tick, ceiling_tick } = window;
        let first_position = floor_tick << layout.split().sequence_bits();
        Self {
            layout,
            slot,
            slot_bits: layout.slot_bits(slot),
            first_position,
            start,
            limits: Limits {
                ceiling_tick: AtomicU64::new(ceiling_tick),
                max_sequence: AtomicU32::new(layout.split().max_sequence()),
            },
            next: Next(AtomicU64::new(first_position)),
        }
    }

    /// Mints up to `wanted` consecutive IDs of the millisecond `now_ms` (Unix time), at least one.
    ///
    /// A millisecond has a limited number of IDs, so fewer than wanted may come back: ask again for the
    /// rest. Asking for 0 is asking for 1.
    #[inline]
    pub fn mint(&self, now_ms: u64, wanted: u32) -> Result<IdRange, Refusal> {
        self.mint_since(now_ms, now_ms, wanted)
    }

    /// Like [`mint`](Self::mint), from the earliest millisecond in `[since_ms, now_ms]` that has IDs left.
    ///
    /// A request that waits for a millisecond to pass may wake up late; this lets it use every
    /// millisecond since it arrived, so that a late wake-up loses no IDs.
    #[inline]
    pub fn mint_since(&self, since_ms: u64, now_ms: u64, wanted: u32) -> Result<IdRange, Refusal> {
        let epoch_ms = self.layout.epoch_ms();
        let sequence_bits = self.layout.split().sequence_bits();
        // A clock before the epoch is a clock behind every window.
        let now_tick = now_ms.saturating_sub(epoch_ms);
        let since_tick = since_ms.saturating_sub(epoch_ms).min(now_tick);
        // Relaxed is enough throughout: a ceiling or a limit is all its message, and the position is only
        // ever changed by compare-exchange, which always sees the latest.
        let max_sequence = self.limits.max_sequence.load(Ordering::Relaxed);
        let mut next = self.next.0.load(Ordering::Relaxed);
        let wanted = wanted.max(1);
        loop {
            // A tick that was opened is below the ceiling, and ceilings never decrease: no need to look.
            let open = (1..=max_sequence).contains(&mask(next, sequence_bits))
                && next >> sequence_bits >= since_tick;
            let position =
                if open { next } else { self.open_tick(next, since_tick, now_tick, max_sequence)? };
            let sequence = mask(position, sequence_bits);
            let room = max_sequence - sequence + 1;
            let count = if wanted <= room { wanted } else { the_rest(room) };
            let taken = position + u64::from(count);
            match self.next.0.compare_exchange_weak(next, taken, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    let tick = position >> sequence_bits;
                    return Ok(IdRange::from_parts(self.pack(tick, sequence), count));
                }
                Err(changed) => next = changed,
            }
        }
    }

    /// The position that a tick nothing is taken of starts at: the first such tick after `next` and not
    /// before `since_tick`.
    ///
    /// Out of line, so that the many IDs that continue a tick are not slowed down by the one that opens it.
    #[cold]
    fn open_tick(
        &self,
        next: u64,
        since_tick: u64,
        now_tick: u64,
        max_sequence: u32,
    ) -> Result<u64, Refusal> {
        let sequence_bits = self.layout.split().sequence_bits();
        let ceiling_tick = self.limits.ceiling_tick.load(Ordering::Relaxed);
        let used_up = mask(next, sequence_bits) > max_sequence;
        let tick = ((next >> sequence_bits) + u64::from(used_up)).max(since_tick);
        if tick > now_tick {
            return Err(self.early(tick, now_tick, ceiling_tick));
        }
        if tick >= ceiling_tick {
            return Err(Refusal::WindowClosed { ceiling_ms: self.layout.epoch_ms() + ceiling_tick });
        }
        Ok((tick << sequence_bits) + u64::from(self.sequence_start(next, tick, max_sequence)))
    }

    /// Nothing is left of the milliseconds up to `now_tick`.
    #[cold]
    fn early(&self, tick: u64, now_tick: u64, ceiling_tick: u64) -> Refusal {
        let epoch_ms = self.layout.epoch_ms();
        let until_ms = epoch_ms + tick;
        if tick >= ceiling_tick {
            Refusal::WindowClosed { ceiling_ms: epoch_ms + ceiling_tick }
        } else if tick == now_tick + 1 {
            Refusal::Wait { until_ms }
        } else {
            Refusal::ClockBehind { until_ms }
        }
    }

    /// Where a millisecond starts that nothing has been taken of yet, `next` being the position before it.
    fn sequence_start(&self, next: u64, tick: u64, max_sequence: u32) -> u32 {
        if self.start == SequenceStart::Zero {
            return 0;
        }
        let sequence_bits = self.layout.split().sequence_bits();
        let (last_tick, last_sequence) = (next >> sequence_bits, mask(next, sequence_bits));
        let busy = last_tick == tick || (last_tick + 1 == tick && last_sequence > max_sequence / 2);
        if busy {
            return 0;
        }
        // Fibonacci hashing spreads consecutive ticks evenly; the top half of the product is the hash.
        let hash = tick.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let span = u64::from(max_sequence / 4) + 1;
        ((hash * span) >> 32) as u32
    }

    /// Moves the ceiling up to that of `window`, which must be the same slot's and start where this
    /// generator's last one ends.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a window is used up: two generators from one would repeat IDs"
    )]
    pub fn extend(&self, window: Window) -> Result<(), ExtendError> {
        if window.slot != self.slot || window.layout != self.layout {
            return Err(ExtendError::OtherSlot { own: self.slot, given: window.slot });
        }
        self.limits
            .ceiling_tick
            .compare_exchange(window.floor_tick, window.ceiling_tick, Ordering::Relaxed, Ordering::Relaxed)
            .map(|_| ())
            .map_err(|ceiling_tick| ExtendError::Gap {
                ceiling_ms: self.layout.epoch_ms() + ceiling_tick,
                floor_ms: window.floor_ms(),
            })
    }

    /// Changes, at once, how far a millisecond's IDs count. More than the layout has room for is cut to
    /// what it has.
    pub fn set_max_sequence(&self, max_sequence: u32) {
        self.limits
            .max_sequence
            .store(max_sequence.min(self.layout.split().max_sequence()), Ordering::Relaxed);
    }

    /// The highest sequence number now in use.
    #[must_use]
    pub fn max_sequence(&self) -> u32 {
        self.limits.max_sequence.load(Ordering::Relaxed)
    }

    /// The highest ID it has issued, if it has issued any.
    #[must_use]
    pub fn last_id(&self) -> Option<Id> {
        let next = self.next.0.load(Ordering::Relaxed);
        let sequence_bits = self.layout.split().sequence_bits();
        // What is below the next position is taken: positions skipped at the end of a millisecond are
        // skipped only by taking one above them.
        (next > self.first_position)
            .then(|| self.pack((next - 1) >> sequence_bits, mask(next - 1, sequence_bits)))
    }

    /// The first Unix millisecond in which it has IDs left.
    #[must_use]
    pub fn opens_ms(&self) -> u64 {
        let next = self.next.0.load(Ordering::Relaxed);
        let sequence_bits = self.layout.split().sequence_bits();
        let full = mask(next, sequence_bits) > self.max_sequence();
        self.layout.epoch_ms() + (next >> sequence_bits) + u64::from(full)
    }

    #[inline]
    fn pack(&self, tick: u64, sequence: u32) -> Id {
        let time_bits = tick << self.layout.split().node_and_sequence_bits();
        Id::from_bits(time_bits | self.slot_bits | u64::from(sequence))
    }

    /// Whose IDs it mints.
    #[must_use]
    pub const fn slot(&self) -> Slot {
        self.slot
    }

    /// The layout of its IDs.
    #[must_use]
    pub const fn layout(&self) -> Layout {
        self.layout
    }

    /// Where its windows end: it mints nothing from there on until it is extended.
    #[must_use]
    pub fn ceiling(&self) -> Ceiling {
        Ceiling::at_tick(self.layout, self.limits.ceiling_tick.load(Ordering::Relaxed))
    }

    /// The same, in Unix milliseconds.
    #[must_use]
    pub fn ceiling_ms(&self) -> u64 {
        self.layout.epoch_ms() + self.limits.ceiling_tick.load(Ordering::Relaxed)
    }
}

/// A call that is rarely made, so that the compiler branches and does not select: the usual count then does
/// not wait for the position to be loaded.
#[cold]
#[inline(never)]
fn the_rest(room: u32) -> u32 {
    room
}

#[inline]
fn mask(position: u64, sequence_bits: u8) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "masked to at most 31 bits")]
    let sequence = (position & ((1 << sequence_bits) - 1)) as u32;
    sequence
}

/// Why no ID was minted. Nothing was used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The millisecond's IDs are all taken: the next one has some.
    Wait {
        /// When to ask again, in Unix milliseconds.
        until_ms: u64,
    },
    /// The clock is behind what was already minted, or has not reached the window yet.
    ClockBehind {
        /// When to ask again, in Unix milliseconds.
        until_ms: u64,
    },
    /// The clock has reached the end of what is durable.
    WindowClosed {
        /// The end of the window, in Unix milliseconds.
        ceiling_ms: u64,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wait { until_ms } => {
                write!(f, "the IDs of this millisecond are all taken, there are more at {until_ms} ms")
            }
            Self::ClockBehind { until_ms } => {
                write!(f, "the clock is behind, there are IDs again at {until_ms} ms")
            }
            Self::WindowClosed { ceiling_ms } => write!(f, "the window closed at {ceiling_ms} ms"),
        }
    }
}

impl std::error::Error for Refusal {}

/// Why a window is not the continuation of a generator's last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtendError {
    /// It is another slot's, or of another layout.
    OtherSlot {
        /// The generator's slot.
        own: Slot,
        /// The window's slot.
        given: Slot,
    },
    /// It does not start where the last one ends.
    Gap {
        /// The end of the last window, in Unix milliseconds.
        ceiling_ms: u64,
        /// The start of the one given, in Unix milliseconds.
        floor_ms: u64,
    },
}

impl fmt::Display for ExtendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherSlot { own, given } => {
                write!(f, "the window of {given} cannot extend {own}, or is of another layout")
            }
            Self::Gap { ceiling_ms, floor_ms } => {
                write!(f, "a window from {floor_ms} ms does not continue one that ends at {ceiling_ms} ms")
            }
        }
    }
}

impl std::error::Error for ExtendError {}
