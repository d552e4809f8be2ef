//! Directories and HDFS: objects are moved and deleted by the hour that they are of.

use std::collections::BTreeSet;
use std::fs;

use object_store::path::Path;
use object_store::{Error, ObjectMeta, ObjectStoreExt};

use super::Ages;
use crate::archive::ObjectKey;
use crate::audit::AuditError;
use crate::audit::list::{Entry, Listing, Scope, Tier, list};
use crate::objects::{Kind, Objects};

const MS_PER_DAY: u64 = 86_400_000;

/// How old what a put has left is when no put can be at it any more, in milliseconds: a day.
const UNFINISHED_MS_MIN: u64 = MS_PER_DAY;

/// How deep an object lies below its tier, in directories.
const DEPTH: usize = 4;

/// What is done with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Move(Entry, Entry),
    Delete(Entry),
}

pub(super) async fn print(objects: &Objects, ages: Ages, now_ms: u64) -> Result<Vec<String>, AuditError> {
    let listing = list(objects, &Scope::default()).await?;
    let mut lines: Vec<String> = Tier::ALL.iter().map(|tier| count(&listing.entries, *tier)).collect();
    let left = left(&listing, now_ms).count();
    lines.extend(told(&plan(&listing.entries, ages, now_ms), left, "to be "));
    Ok(lines)
}

pub(super) async fn apply(objects: &Objects, ages: Ages, now_ms: u64) -> Result<Vec<String>, AuditError> {
    let listing = list(objects, &Scope::default()).await?;
    let steps = plan(&listing.entries, ages, now_ms);
    for step in &steps {
        take(objects, *step).await?;
    }
    let mut cleared = 0;
    for path in left(&listing, now_ms) {
        delete(objects, path).await?;
        cleared += 1;
    }
    Ok(told(&steps, cleared, "").collect())
}

/// What puts have left that were cut short, and that no put can be at any more. By the clock of whoever has it: with a
/// day to spare, it need not be right.
fn left(listing: &Listing, now_ms: u64) -> impl Iterator<Item = &Path> {
    let age_ms = move |meta: &ObjectMeta| {
        let modified_ms = u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0);
        now_ms.saturating_sub(modified_ms)
    };
    let old = move |meta: &&ObjectMeta| age_ms(meta) >= UNFINISHED_MS_MIN;
    listing.unfinished.iter().filter(old).map(|meta| &meta.location)
}

async fn delete(objects: &Objects, path: &Path) -> Result<(), AuditError> {
    match objects.store.delete(path).await {
        // Somebody else has done it.
        Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
        Err(source) => Err(AuditError::Change { object: path.to_string(), done: "deleted", source }),
    }
}

/// What is to be done now. No object takes another's place: where its name is taken, it gets the next number.
fn plan(entries: &[Entry], ages: Ages, now_ms: u64) -> Vec<Step> {
    let mut taken: BTreeSet<(Tier, ObjectKey)> =
        entries.iter().map(|entry| (entry.tier, entry.key)).collect();
    let mut steps = Vec::new();
    for entry in entries {
        let days = now_ms.saturating_sub(entry.key.hour.end_ms()) / MS_PER_DAY;
        let tier = match days {
            days if days >= ages.delete_days.into() => {
                steps.push(Step::Delete(*entry));
                continue;
            }
            days if days >= ages.cold_days.into() => Tier::Cold,
            days if days >= ages.warm_days.into() => Tier::Warm,
            _ => Tier::Hot,
        };
        // Never back, where ages were less before.
        if tier > entry.tier {
            let mut key = entry.key;
            while !taken.insert((tier, key)) {
                key = key.next();
            }
            steps.push(Step::Move(*entry, Entry { key, tier, ..*entry }));
        }
    }
    steps
}

async fn take(objects: &Objects, step: Step) -> Result<(), AuditError> {
    let (entry, done, result) = match step {
        Step::Move(from, to) => (from, "moved", objects.store.rename(&from.path(), &to.path()).await),
        Step::Delete(entry) => (entry, "deleted", objects.store.delete(&entry.path()).await),
    };
    match result {
        // Somebody else has done it.
        Ok(()) | Err(Error::NotFound { .. }) => {
            tidy(objects, entry);
            Ok(())
        }
        Err(source) => Err(AuditError::Change { object: entry.to_string(), done, source }),
    }
}

/// The directory of an hour goes with its last object, and so on. One that is not empty stays.
fn tidy(objects: &Objects, entry: Entry) {
    let Kind::Directory(root) = &objects.kind else { return };
    for directory in root.join(entry.to_string()).ancestors().skip(1).take(DEPTH) {
        if fs::remove_dir(directory).is_err() {
            return;
        }
    }
}

fn count(entries: &[Entry], tier: Tier) -> String {
    let of_tier = entries.iter().filter(|entry| entry.tier == tier);
    let (objects, bytes) =
        of_tier.fold((0_u64, 0), |(objects, bytes), entry| (objects + 1, bytes + entry.bytes));
    format!("{tier}: {objects} objects, {bytes} bytes")
}

/// How many objects each kind of step is for, and how many were left by puts.
fn told<'a>(steps: &'a [Step], left: usize, prefix: &'a str) -> impl Iterator<Item = String> + 'a {
    let number = |wanted: &dyn Fn(&Step) -> bool| steps.iter().filter(|step| wanted(step)).count();
    let moved = |tier| number(&|step| matches!(step, Step::Move(_, to) if to.tier == tier));
    let counts = [
        (moved(Tier::Warm), "moved to warm/"),
        (moved(Tier::Cold), "moved to cold/"),
        (number(&|step| matches!(step, Step::Delete(_))), "deleted"),
        (left, "deleted, of uploads that were cut short"),
    ];
    let some = counts.into_iter().filter(|(count, _)| *count > 0);
    some.map(move |(count, what)| format!("{prefix}{what}: {count} objects"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::Hour;

    #[test]
    fn objects_go_by_their_age_and_take_nobodys_place() {
        let key = |hour, number| ObjectKey { hour: Hour(hour), slot: None, number };
        let entry = |hour, number, tier| Entry { key: key(hour, number), tier, bytes: 1 };
        let ages = Ages { warm_days: 1, cold_days: 2, delete_days: 3 };
        let entries = [
            entry(0, 1, Tier::Cold),
            entry(24, 1, Tier::Warm),
            entry(48, 1, Tier::Hot),
            entry(48, 1, Tier::Warm),
            entry(48, 2, Tier::Warm),
            entry(71, 1, Tier::Hot),
            entry(72, 1, Tier::Cold),
        ];
        let steps = plan(&entries, ages, Hour(73).start_ms());
        assert_eq!(
            steps,
            [
                Step::Delete(entries[0]),
                Step::Move(entries[1], entry(24, 1, Tier::Cold)),
                Step::Move(entries[2], entry(48, 3, Tier::Warm)),
            ]
        );
        let lines: Vec<_> = told(&steps, 2, "").collect();
        assert_eq!(
            lines,
            [
                "moved to warm/: 1 objects",
                "moved to cold/: 1 objects",
                "deleted: 1 objects",
                "deleted, of uploads that were cut short: 2 objects"
            ]
        );
    }
}
