//! 64-bit, time-ordered IDs that are never given twice.
//!
//! This crate is the ID itself, with no I/O, no async and no dependency: what its bits mean
//! ([`Layout`]), how it is written and read ([`Format`]), and a lock-free [`Generator`] that mints from a
//! durable [`Window`] and from nothing else. It is all that is needed to read IDs; to mint them you bring
//! a clock and a store with a compare-and-swap, or use the snowmint service, which has both.
//!
//! # Example
//!
//! ```
//! use snowmint::{Format, Layout};
//!
//! let layout = Layout::default();
//! let id = Format::Decimal.parse("397833929219919914")?;
//! let parts = layout.decompose(id);
//! assert_eq!((parts.timestamp_ms, parts.slot.worker, parts.sequence), (1_704_310_200_123, 5, 42));
//! assert_eq!(Format::Base32.text(id), "0B1B3V77C0M1A");
//! # Ok::<(), snowmint::ParseError>(())
//! ```
//!
//! Minting is shown in [`window`].
//!
//! # Features
//!
//! * `serde`: [`Id`] as a number, [`Split`] as text (`41/5/5/12`), [`Slot`] as its two fields.

mod format;
mod generator;
mod id;
mod layout;
#[cfg(feature = "serde")]
mod serde;
pub mod window;

pub use format::{Format, FormatError, ParseError, parse};
pub use generator::{ExtendError, Generator, Refusal, SequenceStart};
pub use id::{Id, IdRange, Slot, SlotError};
pub use layout::{ComposeError, DEFAULT_EPOCH_MS, EpochError, ID_BITS, Layout, Parts, Split, SplitError};
pub use window::{Ceiling, Claim, ClaimError, Window};

/// The generator's atomics: the standard library's, or loom's where its tests explore interleavings.
mod sync {
    #[cfg(loom)]
    pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
    #[cfg(not(loom))]
    pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
}

/// Runs the README's example.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
