//! Where things stand in etcd and in ZooKeeper: the document's paths, below one root.

use snowmint::Slot;

/// Above everything.
pub(super) const ROOT: &str = "/id-generator";

/// Above the settings.
pub(super) const CONFIG: &str = "config/";

pub(super) const EPOCH: &str = "config/epoch";
pub(super) const MAX_SEQUENCE: &str = "config/max_sequence";
pub(super) const CLOCK_DRIFT_THRESHOLD: &str = "config/clock_drift_threshold";
pub(super) const LAYOUT: &str = "config/layout";
pub(super) const CLUSTER_ID: &str = "config/cluster_id";

/// What a key below the root is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key<'a> {
    Config(&'a str),
    DatacenterName(u16),
    DatacenterRegion(u16),
    Worker(Slot),
    Window(Slot),
    Retired(Slot),
}

impl<'a> Key<'a> {
    /// Reads a path below the root, without a slash before it. What is no key of ours is `None`.
    pub(super) fn parse(path: &'a str) -> Option<Self> {
        match path.split('/').collect::<Vec<_>>()[..] {
            ["config", _] => Some(Self::Config(path)),
            ["datacenters", datacenter, "name"] => Some(Self::DatacenterName(numbered("dc", datacenter)?)),
            ["datacenters", datacenter, "region"] => {
                Some(Self::DatacenterRegion(numbered("dc", datacenter)?))
            }
            ["datacenters", datacenter, "workers", worker] => Some(Self::Worker(Slot {
                datacenter: numbered("dc", datacenter)?,
                worker: numbered("worker", worker)?,
            })),
            ["windows", slot] => slot.parse().ok().map(Self::Window),
            ["retired_workers", slot] => slot.parse().ok().map(Self::Retired),
            _ => None,
        }
    }
}

fn numbered(prefix: &str, text: &str) -> Option<u16> {
    text.strip_prefix(prefix)?.parse().ok()
}

pub(super) fn datacenter(datacenter: u16, leaf: &str) -> String {
    format!("datacenters/dc{datacenter}/{leaf}")
}

pub(super) fn worker(slot: Slot) -> String {
    format!("datacenters/dc{}/workers/worker{}", slot.datacenter, slot.worker)
}

pub(super) fn window(slot: Slot) -> String {
    format!("windows/{slot}")
}

pub(super) fn retired(slot: Slot) -> String {
    format!("retired_workers/{slot}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let slot = Slot { datacenter: 3, worker: 17 };
        for (path, key) in [
            (worker(slot), Key::Worker(slot)),
            (window(slot), Key::Window(slot)),
            (retired(slot), Key::Retired(slot)),
            (datacenter(3, "name"), Key::DatacenterName(3)),
            (datacenter(3, "region"), Key::DatacenterRegion(3)),
            (EPOCH.to_owned(), Key::Config(EPOCH)),
        ] {
            assert_eq!(Key::parse(&path), Some(key));
        }
        assert_eq!(worker(slot), "datacenters/dc3/workers/worker17");
        assert_eq!(retired(slot), "retired_workers/dc3_worker17");
        for other in ["", "config", "windows/dc1", "datacenters/dcx/name", "something/else"] {
            assert_eq!(Key::parse(other), None, "{other}");
        }
    }
}
