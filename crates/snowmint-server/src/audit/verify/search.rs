//! Duplicates: which records have them. Objects are read again for it, as few as there can be.

use snowmint::{Id, Layout, Slot};
use tokio::runtime::Handle;

use super::finding::Place;
use super::object::Record;
use super::runs::Run;
use crate::archive::{Hour, Range};
use crate::audit::Entry;
use crate::audit::lines::Lines;
use crate::objects::Objects;

/// How many duplicates are looked for.
const SOUGHT_MAX: usize = 20;

/// How many records are named of one.
const PLACES_MAX: usize = 10;

/// Those that are looked for.
pub(super) fn first(duplicates: &[(Slot, Run)]) -> Vec<(Slot, Run)> {
    duplicates.iter().copied().take(SOUGHT_MAX).collect()
}

/// Those that are not.
pub(super) fn others(duplicates: &[(Slot, Run)]) -> Vec<(Slot, Run)> {
    duplicates.iter().copied().skip(SOUGHT_MAX).collect()
}

/// The records that have IDs of a run.
pub(super) fn places(
    runtime: &Handle,
    objects: &Objects,
    layout: Layout,
    entries: &[Entry],
    slot: Slot,
    run: Run,
) -> Vec<Place> {
    let hour = Id::new(run.first).map_or(Hour(0), |id| Hour::of(layout.decompose(id).timestamp_ms));
    let can_have =
        |entry: &&Entry| entry.key.slot == Some(slot) && (hour.0..=hour.0 + 1).contains(&entry.key.hour.0);
    let mut places = Vec::new();
    for entry in entries.iter().filter(can_have) {
        if let Ok(mut lines) = Lines::open(runtime, objects, &entry.path()) {
            in_object(*entry, &mut lines, run, &mut places);
        }
    }
    places
}

/// Stops where the object cannot be read: that is a finding of its own.
fn in_object(entry: Entry, lines: &mut Lines, run: Run, places: &mut Vec<Place>) {
    let mut line = 0;
    while let Ok(Some(text)) = lines.next() {
        line += 1;
        let Ok(record) = serde_json::from_slice::<Record>(text) else { continue };
        for Range { first, count } in record.ids() {
            let other = Run { first: first.get(), end: first.get().saturating_add(u64::from(count)) };
            if other.overlap(run).is_some() && places.len() < PLACES_MAX {
                let (journal, sequence) = (record.chain.journal, record.chain.sequence);
                places.push(Place { object: entry.to_string(), line, journal, sequence });
            }
        }
    }
}
