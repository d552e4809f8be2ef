//! Archives of every shape: right ones are proven, and no change of one is overlooked.

use std::collections::BTreeMap;

use proptest::prelude::*;
use snowmint::Slot;
use snowmint_server::archive::ObjectKey;
use snowmint_server::audit::verify::Report;

use crate::archive::{Archive, Chain, HOUR_MS, START_MS, id, key, options};

/// A record: whose, how long after the one before, how many runs of IDs, and whether its object ends with it.
type Made = (usize, u64, u32, bool);

/// Three chains, two of which have the same slot after each other.
fn build(made: &[Made]) -> Archive {
    let slots = [Slot { datacenter: 0, worker: 1 }, Slot { datacenter: 3, worker: 1 }];
    let mut chains = [Chain::new(1, slots[0]), Chain::new(2, slots[1]), Chain::new(3, slots[0])];
    let mut archive = Archive::new();
    let mut open: BTreeMap<usize, ObjectKey> = BTreeMap::new();
    let mut numbers: BTreeMap<(u32, Slot), u32> = BTreeMap::new();
    let mut now_ms = START_MS;
    for (chain, pause_ms, runs, ends) in made {
        now_ms += 1 + pause_ms;
        let hour = u32::try_from((now_ms - START_MS) / HOUR_MS).unwrap();
        let slot = chains[*chain].slot;
        let runs: Vec<_> = (0..*runs).map(|run| (id(slot, now_ms, 100 * run), 1 + run)).collect();
        let line = chains[*chain].line(now_ms, &runs);
        if open.get(chain).is_none_or(|open| open.hour != key(hour, slot, 1).hour) {
            let number = numbers.entry((hour, slot)).or_default();
            *number += 1;
            open.insert(*chain, key(hour, slot, *number));
        }
        archive.objects.entry(open[chain]).or_default().push(line);
        if *ends {
            open.remove(chain);
        }
    }
    archive
}

fn made() -> impl Strategy<Value = Vec<Made>> {
    let record = (0_usize..3, prop_oneof![0_u64..5, 0..HOUR_MS], 1_u32..4, prop::bool::weighted(0.1));
    prop::collection::vec(record, 1..40)
}

fn verified(archive: &Archive) -> Report {
    archive.write();
    archive.verified(options())
}

/// The lines that another of their chain comes after.
fn vouched(archive: &Archive) -> Vec<(ObjectKey, usize)> {
    let mut last: BTreeMap<String, (u64, ObjectKey, usize)> = BTreeMap::new();
    let mut all = Vec::new();
    for (key, lines) in &archive.objects {
        for (at, line) in lines.iter().enumerate() {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            let (journal, sequence) =
                (record["chain"]["journal"].to_string(), record["chain"]["sequence"].as_u64().unwrap());
            all.push((*key, at));
            let end = last.entry(journal).or_insert((sequence, *key, at));
            if sequence > end.0 {
                *end = (sequence, *key, at);
            }
        }
    }
    let ends: Vec<_> = last.into_values().map(|(_, key, at)| (key, at)).collect();
    all.retain(|line| !ends.contains(line));
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_written_is_proven(made in made()) {
        let archive = build(&made);
        let report = verified(&archive);
        prop_assert!(report.proven, "{:?}", report.findings);
        let ids: u64 = made.iter().map(|(_, _, runs, _)| u64::from(runs * (runs + 1) / 2)).sum();
        prop_assert_eq!(report.ids, ids);
    }

    #[test]
    fn a_change_is_found(made in made(), which: prop::sample::Index, byte: prop::sample::Index, bit in 0_u8..7) {
        let mut archive = build(&made);
        let lines = vouched(&archive);
        prop_assume!(!lines.is_empty());
        let (key, at) = lines[which.index(lines.len())];
        let line = &mut archive.objects.get_mut(&key).unwrap()[at];
        let mut bytes = line.clone().into_bytes();
        let byte = byte.index(bytes.len());
        bytes[byte] ^= 1 << bit;
        *line = String::from_utf8(bytes).unwrap();
        let report = verified(&archive);
        prop_assert!(!report.proven, "byte {} of {} line {}", byte, key, at + 1);
    }

    #[test]
    fn a_record_that_is_missing_is_found(made in made(), which: prop::sample::Index) {
        let mut archive = build(&made);
        let lines = vouched(&archive);
        prop_assume!(!lines.is_empty());
        let (key, at) = lines[which.index(lines.len())];
        archive.objects.get_mut(&key).unwrap().remove(at);
        prop_assert!(!verified(&archive).proven, "{} line {}", key, at + 1);
    }

    #[test]
    fn objects_that_were_exchanged_are_found(made in made(), one: prop::sample::Index, other: prop::sample::Index) {
        let mut archive = build(&made);
        let keys: Vec<_> = archive.objects.keys().copied().collect();
        let (one, other) = (keys[one.index(keys.len())], keys[other.index(keys.len())]);
        // Two journals may write objects of one hour and slot in either order.
        let journal = |archive: &Archive, key| -> serde_json::Value {
            let record: serde_json::Value = serde_json::from_str(&archive.objects[&key][0]).unwrap();
            record["chain"]["journal"].clone()
        };
        let alike = (one.hour, one.slot) == (other.hour, other.slot) && journal(&archive, one) != journal(&archive, other);
        prop_assume!(one != other && !alike);
        let lines = archive.objects.remove(&one).unwrap();
        let lines = archive.objects.insert(other, lines).unwrap();
        archive.objects.insert(one, lines);
        prop_assert!(!verified(&archive).proven, "{} and {}", one, other);
    }

    #[test]
    fn an_id_that_comes_again_is_found(made in made(), which: prop::sample::Index) {
        let mut archive = build(&made);
        let lines: Vec<_> = archive.objects.iter().flat_map(|(key, lines)| lines.iter().map(move |line| (*key, line))).collect();
        let (key, line) = lines[which.index(lines.len())];
        let record: snowmint_server::archive::Record = serde_json::from_str(line).unwrap();
        let first = record.ids().next().unwrap().first.get();
        let again = Chain::new(9, key.slot.unwrap()).line(record.timestamp, &[(first, 1)]);
        let mut free = key;
        while archive.objects.contains_key(&free) {
            free = free.next();
        }
        archive.objects.insert(free, vec![again]);
        prop_assert_eq!(verified(&archive).duplicate_ids, 1);
    }
}
