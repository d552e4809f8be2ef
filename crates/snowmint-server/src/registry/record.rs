//! What a registry keeps, in the document's JSON: fields are added to it, never renamed.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use snowmint::{Ceiling, Id, Layout, Slot, Split};
use uuid::Uuid;

use super::{Revision, key};

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
    /// How far the wall clock may be from the serving clock before a node warns, in milliseconds.
    #[serde(default = "clock_drift_threshold_ms")]
    pub clock_drift_threshold_ms: u64,
}

/// The document's threshold, which a registry has that was written before there was one.
fn clock_drift_threshold_ms() -> u64 {
    CLOCK_DRIFT_THRESHOLD_MS
}

/// What a new namespace's `clock_drift_threshold` is.
pub const CLOCK_DRIFT_THRESHOLD_MS: u64 = 100;

/// A setting that may be changed at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// How far one millisecond's IDs count.
    MaxSequence(u32),
    /// How far the wall clock may be from the serving clock before a node warns, in milliseconds.
    ClockDriftThreshold(u64),
    /// What a datacenter is called.
    DatacenterName(u16, String),
    /// Where it is.
    DatacenterRegion(u16, String),
}

impl Setting {
    /// Its name below the registry's root, such as `config/max_sequence`.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::MaxSequence(_) => key::MAX_SEQUENCE.to_owned(),
            Self::ClockDriftThreshold(_) => key::CLOCK_DRIFT_THRESHOLD.to_owned(),
            Self::DatacenterName(datacenter, _) => key::datacenter(*datacenter, "name"),
            Self::DatacenterRegion(datacenter, _) => key::datacenter(*datacenter, "region"),
        }
    }

    /// Its value, as the registry has it.
    #[must_use]
    pub fn value(&self) -> String {
        match self {
            Self::MaxSequence(number) => number.to_string(),
            Self::ClockDriftThreshold(number) => number.to_string(),
            Self::DatacenterName(_, text) | Self::DatacenterRegion(_, text) => text.clone(),
        }
    }
}

/// What a datacenter is called, and where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datacenter {
    /// Such as `us-east-1`.
    pub name: Option<String>,
    /// Such as `us-east`.
    pub region: Option<String>,
}

/// Who holds a slot: a node, and which of its lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The node's name, which survives a restart. Empty where an entry was not written by snowmint.
    #[serde(default)]
    pub node: String,
    /// This run of it.
    #[serde(default)]
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
    #[serde(default)]
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
    /// What is wrong with an entry that somebody edited: a slot of which not all is known is not to be taken.
    pub damage: Option<String>,
}

/// A registry, as of one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The shared settings.
    pub namespace: Namespace,
    /// The datacenters that have a name or a region.
    pub datacenters: BTreeMap<u16, Datacenter>,
    /// Every slot that was ever held.
    pub slots: BTreeMap<Slot, SlotState>,
}

/// A Unix time in milliseconds, as JSON has it.
#[must_use]
pub fn timestamp(unix_ms: u64) -> Timestamp {
    // Layouts end before the year 9999 for every split that is of use; a later time shows as that year.
    i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or(Timestamp::MAX)
}
