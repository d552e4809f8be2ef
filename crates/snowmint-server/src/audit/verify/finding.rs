//! What is wrong with an archive.

use std::fmt;

use serde::{Serialize, Serializer};
use snowmint::{Id, Slot};
use uuid::Uuid;

use crate::archive::EventType;

/// How many findings of one kind are kept of one object; all are counted.
const KEPT_OF_OBJECT_MAX: u64 = 3;

/// How many findings are kept; all are counted.
const KEPT_MAX: usize = 1_000;

/// A line of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The object, below the archive's root.
    pub object: String,
    /// The line, from 1.
    pub line: u64,
    /// The journal of its record.
    pub journal: Uuid,
    /// The number of its record in the chain.
    pub sequence: u64,
}

/// Something that is not as it was written, or should not have been written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
pub enum Finding {
    /// IDs that were issued more than once.
    Duplicate {
        /// Whose they are.
        #[serde(serialize_with = "as_text")]
        slot: Slot,
        /// The first.
        first: Id,
        /// How many they are.
        count: u64,
        /// The records that have them; none where there are too many duplicates to look for each.
        places: Vec<Place>,
    },
    /// IDs that belong to another slot than the record, or to none.
    OutsideSlot {
        /// The record.
        place: Place,
        /// The first ID.
        first: Id,
        /// How many they are said to be.
        count: u32,
        /// Whose slot's bits the first has.
        #[serde(serialize_with = "as_text")]
        belongs: Slot,
    },
    /// IDs whose time is after the record's, or long before.
    WrongTime {
        /// The record.
        place: Place,
        /// The first ID.
        first: Id,
        /// The ID's time, in Unix milliseconds.
        id_ms: u64,
        /// The record's, in Unix milliseconds.
        record_ms: u64,
    },
    /// A record that belongs into another object: one that was exchanged, or renamed.
    WrongObject {
        /// The record.
        place: Place,
        /// What the object that it belongs into is called.
        belongs: String,
    },
    /// A line that is not what the one after it says it was.
    Changed {
        /// The line.
        place: Place,
        /// The one after.
        next: Place,
    },
    /// Records that are not there.
    Missing {
        /// Whose they are.
        #[serde(serialize_with = "as_text_or_null")]
        slot: Option<Slot>,
        /// The number of the first.
        from: u64,
        /// The number of the last.
        to: u64,
        /// The record before them, if there is one.
        after: Option<Place>,
        /// The record after them.
        before: Place,
    },
    /// Records that are there more than once.
    Repeated {
        /// The number of the first.
        from: u64,
        /// The number of the last.
        to: u64,
        /// Where they are, or where the one before them is.
        place: Place,
        /// Where they are again.
        again: Place,
    },
    /// Objects that are not in the order in which they were written: they were exchanged, or renamed.
    OutOfOrder {
        /// An object.
        object: String,
        /// The one whose name comes before, and whose records come after.
        before: String,
    },
    /// An object that others of its hour say there was.
    NoObject {
        /// Its name.
        object: String,
    },
    /// An object with the records of two chains.
    SeveralChains {
        /// The first record of the second.
        place: Place,
    },
    /// A record that contradicts itself.
    Contradiction {
        /// The record.
        place: Place,
        /// What of its fields do not fit.
        problem: String,
    },
    /// Something that nobody wrote so.
    Damaged {
        /// The object.
        object: String,
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// An object of which it is not known.
    Unreadable {
        /// The object.
        object: String,
        /// Why.
        problem: String,
    },
}

/// Findings: the first of them, and how many there are.
#[derive(Clone, Debug, Default)]
pub(super) struct Findings {
    pub(super) kept: Vec<Finding>,
    pub(super) count: u64,
}

/// Those of one object.
#[derive(Debug, Default)]
pub(super) struct ObjectFindings {
    kept: Vec<Finding>,
    counts: [u64; Finding::KINDS],
}

impl Finding {
    const KINDS: usize = 12;

    /// How many kinds of findings there are in front of this one.
    fn kind(&self) -> usize {
        match self {
            Self::Duplicate { .. } => 0,
            Self::OutsideSlot { .. } => 1,
            Self::WrongTime { .. } => 2,
            Self::WrongObject { .. } => 3,
            Self::Changed { .. } => 4,
            Self::Missing { .. } => 5,
            Self::Repeated { .. } => 6,
            Self::OutOfOrder { .. } | Self::NoObject { .. } => 7,
            Self::SeveralChains { .. } => 8,
            Self::Contradiction { .. } => 9,
            Self::Damaged { .. } => 10,
            Self::Unreadable { .. } => 11,
        }
    }
}

impl Findings {
    pub(super) fn add(&mut self, finding: Finding) {
        self.count += 1;
        if self.kept.len() < KEPT_MAX {
            self.kept.push(finding);
        }
    }

    pub(super) fn add_all(&mut self, object: ObjectFindings) {
        let kept = object.kept.len() as u64;
        object.kept.into_iter().for_each(|finding| self.add(finding));
        self.count += object.counts.iter().sum::<u64>() - kept;
    }
}

impl ObjectFindings {
    pub(super) fn add(&mut self, finding: Finding) {
        let count = &mut self.counts[finding.kind()];
        *count += 1;
        if *count <= KEPT_OF_OBJECT_MAX {
            self.kept.push(finding);
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, line, journal, sequence } = self;
        write!(f, "{object} line {line} (record {sequence} of journal {journal})")
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duplicate { slot, first, count, places } => {
                match count {
                    1 => write!(f, "ID {first} of {slot} was issued more than once")?,
                    count => write!(f, "{count} IDs of {slot} from {first} on were issued more than once")?,
                }
                places.iter().try_for_each(|place| write!(f, "\n    in {place}"))
            }
            Self::OutsideSlot { place, first, count: 1, belongs } => {
                write!(f, "ID {first} belongs to {belongs} and was issued by another\n    in {place}")
            }
            Self::OutsideSlot { place, first, count, belongs } => write!(
                f,
                "the {count} IDs from {first} on, of {belongs}, are not all of one millisecond of the slot that \
                 issued them\n    in {place}"
            ),
            Self::WrongTime { place, first, id_ms, record_ms } => write!(
                f,
                "ID {first} is of {}, and its record of {}\n    in {place}",
                iso(*id_ms),
                iso(*record_ms)
            ),
            Self::WrongObject { place, belongs } => {
                write!(
                    f,
                    "a record that belongs into {belongs}: the object was exchanged or renamed\n    in {place}"
                )
            }
            Self::Changed { place, next } => {
                write!(
                    f,
                    "a line was changed: it is not what the next one says it was\n    in {place}\n    next {next}"
                )
            }
            Self::Missing { slot, from, to, after, before } => {
                write_missing(f, *slot, *from..=*to, after.as_ref(), before)
            }
            Self::Repeated { from, to, place, again } => {
                write!(f, "{} more than once\n    in {place}\n    in {again}", records(*from, *to))
            }
            Self::OutOfOrder { object, before } => write!(
                f,
                "{object} has records that were written before those of {before}: objects were exchanged or renamed"
            ),
            Self::NoObject { object } => {
                write!(f, "{object} is missing: those with higher numbers were written after it")
            }
            Self::SeveralChains { place } => {
                write!(f, "an object has the records of more than one journal or slot\n    from {place} on")
            }
            Self::Contradiction { place, problem } => write!(f, "{problem}\n    in {place}"),
            Self::Damaged { object, line, problem } => {
                write!(f, "damaged: {problem}\n    in {object} line {line}")
            }
            Self::Unreadable { object, problem } => write!(f, "{object} cannot be read: {problem}"),
        }
    }
}

/// What is missing, and what that can be.
fn write_missing(
    f: &mut fmt::Formatter<'_>,
    slot: Option<Slot>,
    range: std::ops::RangeInclusive<u64>,
    after: Option<&Place>,
    before: &Place,
) -> fmt::Result {
    let of = slot.map_or_else(|| "no slot".to_owned(), |slot| slot.to_string());
    write!(f, "{} of {of} missing", records(*range.start(), *range.end()))?;
    let Some(after) = after else {
        return write!(
            f,
            ": given up for audit.max_bytes, past what is kept, or removed\n    before {before}"
        );
    };
    let what = if after.object == before.object {
        "removed from the object"
    } else {
        "removed, not yet uploaded by a node that is down, or of hours that were not read"
    };
    write!(f, ": {what}\n    after {after}\n    before {before}")
}

fn records(from: u64, to: u64) -> String {
    if from == to { format!("record {from} is") } else { format!("records {from} to {to} are") }
}

fn iso(at_ms: u64) -> String {
    let at = i64::try_from(at_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map_or_else(|| format!("{at_ms} ms"), |at| format!("{at:.3}"))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn as_text<S: Serializer>(slot: &Slot, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(slot)
}

#[expect(clippy::trivially_copy_pass_by_ref, clippy::ref_option, reason = "serde calls it so")]
pub(super) fn as_text_or_null<S: Serializer>(slot: &Option<Slot>, serializer: S) -> Result<S::Ok, S::Error> {
    slot.map(|slot| slot.to_string()).serialize(serializer)
}

/// The events that say that IDs were issued.
pub(super) fn issues(event_type: EventType) -> bool {
    matches!(event_type, EventType::IdGenerated | EventType::IdsIssued)
}
