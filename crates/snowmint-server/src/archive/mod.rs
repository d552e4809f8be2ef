//! The audit archive's format: gzipped JSON lines, a record each, in objects by hour and slot.
//!
//! Each slot's records of one journal are a chain, through all its objects: they are numbered from 1, and each
//! has the SHA-256 of the line before it. What is missing, changed or in a wrong place shows, and common tools
//! can check it: `zcat X.json.gz | head -1 | tr -d '\n' | sha256sum`.

mod key;
mod record;

pub(crate) use key::slot_name;
pub use key::{Hour, KeyError, ObjectKey};
pub(crate) use record::iso;
pub use record::{
    Components, EventType, Failure, Hash, Link, Performance, Range, Record, RequestMetadata, SlotTurn,
};
