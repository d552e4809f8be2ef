//! What a registry keeps, in the document's JSON: fields are added to it, never renamed.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use snowmint::{Ceiling, Id, Layout, Slot, Split};
use uuid::Uuid;

use super::Revision;

/// What all nodes of one namespace share. Epoch and layout never change once a window exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Which namespace it is; written once, by the first node.
    pub cluster_id: Uuid,
    /// Where timestamps start, in Unix milliseconds.
    pub epoch_ms: u64,
    /// How the bits are split.
    pub layout: Split,
    /// How far one millisecond's IDs count.
    pub max_sequence: u32,
}

/// Who holds a slot: a node, and which of its lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The node's name, which survives a restart.
    pub node: String,
    /// This run of it.
    pub instance: Uuid,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} (instance {})", self.node, self.instance)
    }
}

/// The fence of a slot: below the ceiling every ID may have been given away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowRecord {
    /// Who may mint up to the ceiling.
    pub owner: Owner,
    /// The ceiling, as the lowest ID that is not below it.
    pub ceiling: Id,
    /// The same, to be read by people.
    pub ceiling_time: Timestamp,
}

impl WindowRecord {
    /// The record that makes `ceiling` the owner's.
    #[must_use]
    pub fn new(owner: Owner, ceiling: Ceiling, layout: Layout) -> Self {
        Self { owner, ceiling: ceiling.id(), ceiling_time: timestamp(ceiling.time_ms(layout)) }
    }
}

/// A worker that looks alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// The host it runs on.
    pub hostname: String,
    /// The address it serves on.
    pub ip: String,
    /// The port it serves on.
    pub port: u16,
    /// Since when.
    pub started_at: Timestamp,
    /// Of the program.
    pub version: String,
    /// Who it is.
    #[serde(flatten)]
    pub owner: Owner,
}

/// A slot that was given back, and cools down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// When it was given back.
    pub retired_at: Timestamp,
    /// The highest ID its holder issued, if any.
    pub last_id: Option<Id>,
    /// From when on any node may take it; until then only `node`.
    pub reuse_after: Timestamp,
    /// The node that held it.
    pub node: String,
}

/// All that is known of one slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotState {
    /// Its window record, if anybody ever held it.
    pub window: Option<(WindowRecord, Revision)>,
    /// Who looks alive on it.
    pub worker: Option<Worker>,
    /// The entry of whoever gave it back last, while it cools down.
    pub retired: Option<Retired>,
}

/// A registry, as of one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The shared settings.
    pub namespace: Namespace,
    /// Every slot that was ever held.
    pub slots: BTreeMap<Slot, SlotState>,
}

/// A Unix time in milliseconds, as JSON has it.
#[must_use]
pub fn timestamp(unix_ms: u64) -> Timestamp {
    // Layouts end before the year 9999 for every split that is of use; a later time shows as that year.
    i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or(Timestamp::MAX)
}
