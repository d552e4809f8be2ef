//! What the entries of etcd and ZooKeeper say: the same paths and texts in both.
//!
//! An operator may edit them. A wrong setting is an error that names it; a wrong entry of a slot takes that
//! slot out of use, and no other.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use snowmint::Slot;

use super::key::{self, Key};
use super::{Datacenter, Namespace, RegistryError, Revision, SlotState, Snapshot};

/// How much of a wrong value an error shows, in characters.
const SHOWN_CHARS_MAX: usize = 80;

/// One entry of a registry.
pub(super) struct Entry {
    /// Below the root, without a slash before it.
    pub(super) path: String,
    pub(super) value: Vec<u8>,
    pub(super) revision: Revision,
}

/// What a new namespace writes, where nothing stands yet.
pub(super) fn settings(wanted: &Namespace) -> [(&'static str, String); 5] {
    [
        (key::EPOCH, wanted.epoch_ms.to_string()),
        (key::MAX_SEQUENCE, wanted.max_sequence.to_string()),
        (key::CLOCK_DRIFT_THRESHOLD, wanted.clock_drift_threshold_ms.to_string()),
        (key::LAYOUT, wanted.layout.to_string()),
        (key::CLUSTER_ID, wanted.cluster_id.to_string()),
    ]
}

/// The namespace, from the entries below `config`.
pub(super) fn namespace<'a>(
    entries: impl IntoIterator<Item = &'a Entry>,
) -> Result<Namespace, RegistryError> {
    let texts: BTreeMap<&str, &[u8]> =
        entries.into_iter().map(|entry| (entry.path.as_str(), entry.value.as_slice())).collect();
    if texts.keys().all(|path| !path.starts_with(key::CONFIG)) {
        return Err(RegistryError::Unused);
    }
    Ok(Namespace {
        cluster_id: setting(&texts, key::CLUSTER_ID, "a UUID")?,
        epoch_ms: setting(&texts, key::EPOCH, "a Unix time in milliseconds")?,
        layout: setting(&texts, key::LAYOUT, "four bit counts such as 41/5/5/12")?,
        max_sequence: setting(&texts, key::MAX_SEQUENCE, "a whole number")?,
        clock_drift_threshold_ms: setting(&texts, key::CLOCK_DRIFT_THRESHOLD, "milliseconds")?,
    })
}

fn setting<T: std::str::FromStr>(
    texts: &BTreeMap<&str, &[u8]>,
    key: &'static str,
    wanted: &'static str,
) -> Result<T, RegistryError> {
    let value = texts.get(key).copied().unwrap_or_default();
    let text = str::from_utf8(value).ok().map(str::trim);
    text.and_then(|text| text.parse().ok()).ok_or_else(|| RegistryError::Setting {
        key: format!("{}/{key}", key::ROOT),
        value: shown(value),
        wanted,
    })
}

/// Everything there is.
pub(super) fn snapshot(entries: &[Entry]) -> Result<Snapshot, RegistryError> {
    let mut snapshot =
        Snapshot { namespace: namespace(entries)?, datacenters: BTreeMap::new(), slots: BTreeMap::new() };
    for entry in entries {
        match Key::parse(&entry.path) {
            Some(Key::DatacenterName(id)) => datacenter(&mut snapshot, id).name = text(&entry.value),
            Some(Key::DatacenterRegion(id)) => datacenter(&mut snapshot, id).region = text(&entry.value),
            Some(Key::Worker(slot) | Key::Window(slot) | Key::Retired(slot)) => {
                add(snapshot.slots.entry(slot).or_default(), slot, entry);
            }
            Some(Key::Config(_)) | None => {}
        }
    }
    Ok(snapshot)
}

/// One slot, from its own entries.
pub(super) fn slot<'a>(slot: Slot, entries: impl IntoIterator<Item = &'a Entry>) -> SlotState {
    let mut state = SlotState::default();
    for entry in entries {
        add(&mut state, slot, entry);
    }
    state
}

fn add(state: &mut SlotState, slot: Slot, entry: &Entry) {
    let SlotState { window, worker, retired, damage } = state;
    match Key::parse(&entry.path) {
        Some(Key::Window(of)) if of == slot => {
            *window = json(entry, damage).map(|record| (record, entry.revision));
        }
        Some(Key::Worker(of)) if of == slot => *worker = json(entry, damage),
        Some(Key::Retired(of)) if of == slot => *retired = json(entry, damage),
        _ => {}
    }
}

fn json<T: DeserializeOwned>(entry: &Entry, damage: &mut Option<String>) -> Option<T> {
    match serde_json::from_slice(&entry.value) {
        Ok(value) => Some(value),
        Err(error) => {
            *damage = Some(format!("{}/{} is {} ({error})", key::ROOT, entry.path, shown(&entry.value)));
            None
        }
    }
}

fn datacenter(snapshot: &mut Snapshot, id: u16) -> &mut Datacenter {
    snapshot.datacenters.entry(id).or_default()
}

fn text(value: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(value).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

fn shown(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    let cut = text.chars().count() > SHOWN_CHARS_MAX;
    let text: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    if cut { format!("{text:?} and more") } else { format!("{text:?}") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn entry(path: &str, value: &str) -> Entry {
        Entry { path: path.to_owned(), value: value.as_bytes().to_vec(), revision: Revision(3) }
    }

    fn config() -> Vec<Entry> {
        vec![
            entry("config/epoch", "1609459200000"),
            entry("config/max_sequence", "4095\n"),
            entry("config/clock_drift_threshold", "100"),
            entry("config/layout", "41/5/5/12"),
            entry("config/cluster_id", "550e8400-e29b-41d4-a716-446655440000"),
        ]
    }

    /// What the document shows, without the fields that were added, is understood.
    #[test]
    fn the_documents_own_json_is_read() {
        let mut entries = config();
        entries.extend([
            entry("datacenters/dc0/name", "us-east-1"),
            entry("datacenters/dc0/region", "us-east"),
            entry(
                "datacenters/dc0/workers/worker0",
                r#"{"hostname":"id-gen-01.example.com","ip":"10.0.1.10","port":8080,"started_at":"2024-01-03T19:00:00Z","version":"1.2.3"}"#,
            ),
            entry(
                "retired_workers/dc0_worker5",
                r#"{"retired_at":"2024-01-03T18:00:00Z","last_id":1234567890123456789,"reuse_after":"2024-01-03T19:00:00Z"}"#,
            ),
        ]);
        let snapshot = snapshot(&entries).unwrap();
        assert_eq!(snapshot.namespace.max_sequence, 4095);
        assert_eq!(snapshot.datacenters[&0].region.as_deref(), Some("us-east"));
        let worker = snapshot.slots[&Slot { datacenter: 0, worker: 0 }].worker.as_ref().unwrap();
        assert_eq!((worker.port, worker.owner.node.as_str()), (8080, ""));
        let retired = snapshot.slots[&Slot { datacenter: 0, worker: 5 }].retired.as_ref().unwrap();
        assert_eq!(retired.last_id, snowmint::Id::new(1_234_567_890_123_456_789));
    }

    #[test]
    fn a_wrong_setting_is_named() {
        for (path, value) in
            [("config/max_sequence", "many"), ("config/layout", "41/5"), ("config/epoch", "")]
        {
            let mut entries = config();
            entries.retain(|entry| entry.path != path);
            entries.push(entry(path, value));
            let error = namespace(&entries).unwrap_err().to_string();
            assert!(error.contains(&format!("/id-generator/{path} is {value:?}")), "{error}");
        }
    }

    #[test]
    fn an_empty_registry_says_so() {
        assert!(matches!(snapshot(&[]), Err(RegistryError::Unused)));
    }

    #[test]
    fn a_wrong_entry_damages_its_slot_alone() {
        let mut entries = config();
        entries.extend([entry("windows/dc0_worker1", "{}"), entry("retired_workers/dc0_worker2", "soon")]);
        let slots = snapshot(&entries).unwrap().slots;
        for state in slots.values() {
            assert!(state.damage.as_ref().unwrap().contains("/id-generator/"), "{state:?}");
        }
        assert_eq!(slots.len(), 2);
    }
}
