//! Which objects there are.

use std::fmt;

use futures_util::TryStreamExt;
use object_store::ObjectMeta;
use object_store::path::Path;
use snowmint::Slot;

use super::AuditError;
use crate::archive::{Hour, ObjectKey};
use crate::objects::{self, Objects};

const HOURS_PER_DAY: u32 = 24;

/// Up to so many hours are listed hour by hour.
const HOURS_ONE_BY_ONE_MAX: u32 = 48;

/// Up to so many days are listed day by day; beyond, all there is.
const DAYS_ONE_BY_ONE_MAX: u32 = 400;

/// How many names that are no object's are kept.
const OTHERS_KEPT_MAX: usize = 3;

/// How far an object has come on its way out, where the archive's own command moves it. A bucket of S3 has storage
/// classes instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Where it was written.
    Hot,
    /// Below `warm/`.
    Warm,
    /// Below `cold/`.
    Cold,
}

/// An object of the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its name.
    pub key: ObjectKey,
    /// Below what it lies.
    pub tier: Tier,
    /// How large it is.
    pub bytes: u64,
}

/// Which objects are meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Of this hour and later.
    pub since: Option<Hour>,
    /// Of this hour and earlier.
    pub until: Option<Hour>,
    /// Of one datacenter alone.
    pub datacenter: Option<u16>,
    /// Of the workers with this number alone.
    pub worker: Option<u16>,
}

/// What there is.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// By slot, hour and number.
    pub entries: Vec<Entry>,
    /// What puts of such objects have left that were cut short.
    pub unfinished: Vec<ObjectMeta>,
    /// How many names are no object's of an archive.
    pub others: u64,
    /// The first of them.
    pub other_names: Vec<String>,
}

impl Tier {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Hot, Self::Warm, Self::Cold];

    /// Below what its objects lie; the hot ones lie in the archive's root.
    fn directory(self) -> Option<&'static str> {
        match self {
            Self::Hot => None,
            Self::Warm => Some("warm"),
            Self::Cold => Some("cold"),
        }
    }

    fn join(self, below: &str) -> String {
        self.directory().map_or_else(|| below.to_owned(), |directory| format!("{directory}/{below}"))
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.directory().unwrap_or("hot"))
    }
}

impl Entry {
    /// Where it lies below the archive's root.
    #[must_use]
    pub fn path(&self) -> Path {
        Path::from(self.to_string())
    }

    /// The order in which objects are read.
    fn order(&self) -> (Option<Slot>, Hour, u32, Tier) {
        (self.key.slot, self.key.hour, self.key.number, self.tier)
    }

    fn parse(path: &str) -> Option<(ObjectKey, Tier)> {
        let moved = [Tier::Warm, Tier::Cold].into_iter().find_map(|tier| {
            let below = path.strip_prefix(tier.directory()?)?.strip_prefix('/')?;
            Some((below, tier))
        });
        let (key, tier) = moved.unwrap_or((path, Tier::Hot));
        Some((key.parse().ok()?, tier))
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.tier.join(&self.key.to_string()))
    }
}

impl Scope {
    pub(super) fn has(&self, key: ObjectKey) -> bool {
        let fits = |wanted: Option<u16>, part: fn(Slot) -> u16| {
            wanted.is_none_or(|wanted| key.slot.is_some_and(|slot| part(slot) == wanted))
        };
        self.since.is_none_or(|since| since <= key.hour)
            && self.until.is_none_or(|until| key.hour <= until)
            && fits(self.datacenter, |slot| slot.datacenter)
            && fits(self.worker, |slot| slot.worker)
    }

    /// What is listed: as little as there is a name for.
    fn directories(&self) -> Vec<String> {
        let (Some(since), Some(until)) = (self.since, self.until) else { return vec![String::new()] };
        let hours = until.0.saturating_sub(since.0);
        let named: Vec<String> = if hours < HOURS_ONE_BY_ONE_MAX {
            (since.0..=until.0).map(|hour| Hour(hour).directory()).collect()
        } else if hours / HOURS_PER_DAY < DAYS_ONE_BY_ONE_MAX {
            let day = |day: u32| {
                let first = Hour(day * HOURS_PER_DAY).directory();
                first.rsplit_once('/').map(|(day, _)| day.to_owned()).unwrap_or_default()
            };
            (since.0 / HOURS_PER_DAY..=until.0 / HOURS_PER_DAY).map(day).collect()
        } else {
            return vec![String::new()];
        };
        named.iter().flat_map(|below| Tier::ALL.map(|tier| tier.join(below))).collect()
    }
}

/// Lists what there is of `scope`.
pub async fn list(objects: &Objects, scope: &Scope) -> Result<Listing, AuditError> {
    let mut listing = Listing::default();
    for directory in scope.directories() {
        let prefix = (!directory.is_empty()).then(|| Path::from(directory));
        let mut found = objects.store.list(prefix.as_ref());
        loop {
            match found.try_next().await {
                Ok(Some(meta)) => listing.add(meta, scope),
                // HDFS has no directory where nothing is.
                Ok(None) | Err(object_store::Error::NotFound { .. }) => break,
                Err(source) => return Err(AuditError::List { archive: objects.url().to_string(), source }),
            }
        }
    }
    listing.entries.sort_unstable_by_key(Entry::order);
    Ok(listing)
}

impl Listing {
    fn add(&mut self, meta: ObjectMeta, scope: &Scope) {
        let unfinished = objects::unfinished(&meta.location);
        match Entry::parse(unfinished.as_deref().unwrap_or(meta.location.as_ref())) {
            Some((key, _)) if !scope.has(key) => {}
            Some(_) if unfinished.is_some() => self.unfinished.push(meta),
            Some((key, tier)) => self.entries.push(Entry { key, tier, bytes: meta.size }),
            None if unfinished.is_some() => {}
            None => {
                self.others += 1;
                if self.other_names.len() < OTHERS_KEPT_MAX {
                    self.other_names.push(meta.location.to_string());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn little_is_listed_where_little_is_meant() {
        let hour = Hour::of(1_704_310_200_123);
        let of = |since, until| Scope { since, until, ..Scope::default() }.directories();
        assert_eq!(of(None, Some(hour)), [""]);
        assert_eq!(
            of(Some(hour), Some(hour)),
            [
                "year=2024/month=01/day=03/hour=19",
                "warm/year=2024/month=01/day=03/hour=19",
                "cold/year=2024/month=01/day=03/hour=19"
            ]
        );
        let days = of(Some(hour), Some(Hour(hour.0 + 100)));
        assert_eq!((days.len(), days[0].as_str()), (5 * 3, "year=2024/month=01/day=03"));
        assert_eq!(of(Some(Hour(0)), Some(hour)), [""]);
    }

    #[test]
    fn an_object_is_known_in_every_tier() {
        let name = "year=2024/month=01/day=03/hour=19/dc0_worker5_20240103_19.json.gz";
        for (path, tier) in
            [(name, Tier::Hot), (&format!("warm/{name}"), Tier::Warm), (&format!("cold/{name}"), Tier::Cold)]
        {
            let (key, found) = Entry::parse(path).unwrap();
            assert_eq!((found, Entry { key, tier, bytes: 0 }.to_string()), (tier, path.to_owned()));
        }
        assert_eq!(Entry::parse(&format!("other/{name}")), None);
    }
}
