//! What a node remembers of its registry, in its own data directory: its name, the namespace it belongs to,
//! and up to where it was given windows.
//!
//! A registry that was wiped, put back from an old copy, or mistaken for another knows less than that, and
//! would give windows out anew. It is not believed then. This is a second net: it holds where the directory
//! outlives the process, and knows of this node's windows alone.
//!
//! The files are plain text, replaced atomically: `mark/node_name`, `mark/cluster_id`, and
//! `mark/dc0_worker5` with the slot's ceiling as an ID. Processes that share a data directory share its mark.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use snowmint::{Ceiling, Id, Layout, Slot};
use uuid::Uuid;

use crate::registry::{Snapshot, timestamp};

const NODE_NAME: &str = "node_name";
const CLUSTER_ID: &str = "cluster_id";

/// The mark of one data directory.
#[derive(Debug)]
pub struct Mark {
    directory: PathBuf,
    /// Whether the last ceiling could not be written, which is said once.
    failing: AtomicBool,
}

/// Why the mark does not let a node go on.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    /// The data directory cannot be used.
    #[error("{doing} {path}: {source}. A node keeps what it knows of its registry in data_dir")]
    File {
        /// What was being done, such as `cannot write`.
        doing: &'static str,
        /// To which file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// A file has what was never written to it.
    #[error("{path} has {text:?}, and {wanted} is wanted: put it right, or remove {directory} if {when}")]
    Damaged {
        /// Which file.
        path: String,
        /// What is in it.
        text: String,
        /// What should be.
        wanted: &'static str,
        /// The mark's directory.
        directory: String,
        /// When that may be removed.
        when: &'static str,
    },
    /// The registry is another namespace's.
    #[error(
        "the registry is that of cluster {registry}, and this node belongs to cluster {own}: it was wiped, or it is \
         another one. If it is meant to replace the old one, remove {directory} and start again, once {when}"
    )]
    OtherCluster {
        /// The registry's.
        registry: Uuid,
        /// The one that is remembered.
        own: Uuid,
        /// The mark's directory.
        directory: String,
        /// When that may be removed.
        when: &'static str,
    },
    /// The registry knows less than this node was given.
    #[error(
        "the registry has forgotten windows: this node was given {slot} up to {remembered}, the registry has {}: it \
         was put back from an old copy. Put the newest one back, or remove {directory} and start again, once \
         {when}", known.map_or("none".to_owned(), |known| known.to_string())
    )]
    Forgotten {
        /// The slot.
        slot: Slot,
        /// The ceiling that is remembered.
        remembered: Timestamp,
        /// The ceiling in the registry.
        known: Option<Timestamp>,
        /// The mark's directory.
        directory: String,
        /// When that may be removed.
        when: &'static str,
    },
}

/// When it is safe to forget.
const WHEN: &str = "every node that used the old one has been stopped for longer than its window";

impl Mark {
    /// The mark in a data directory, which is made where it is not there.
    pub fn new(data_dir: &Path) -> Result<Self, MarkError> {
        let directory = data_dir.join("mark");
        fs::create_dir_all(&directory).map_err(|source| file_error("cannot create", &directory, source))?;
        Ok(Self { directory, failing: AtomicBool::new(false) })
    }

    /// This node's name: the one it got the first time, made from the host's.
    pub fn node_name(&self, hostname: &str) -> Result<String, MarkError> {
        if let Some(name) = self.read(NODE_NAME)? {
            return Ok(name);
        }
        let unique = Uuid::new_v4().simple().to_string();
        self.write(NODE_NAME, &format!("{hostname}-{}", &unique[..8]))?;
        // Another process of this directory may have been first; or last, which is as good.
        Ok(self.read(NODE_NAME)?.unwrap_or_default())
    }

    /// Refuses a registry that knows less than this node does, and remembers one that is new.
    pub fn check(&self, snapshot: &Snapshot, layout: Layout) -> Result<(), MarkError> {
        let registry = snapshot.namespace.cluster_id;
        match self.read_as(CLUSTER_ID, "a UUID", |text| text.parse::<Uuid>().ok())? {
            None => self.write(CLUSTER_ID, &registry.to_string())?,
            Some(own) if own != registry => {
                let directory = self.shown();
                return Err(MarkError::OtherCluster { registry, own, directory, when: WHEN });
            }
            Some(_) => {}
        }
        for (slot, remembered) in self.ceilings()? {
            let known = snapshot.slots.get(&slot).and_then(|state| state.window.as_ref());
            let known = known.map(|(record, _)| record.ceiling);
            if known.is_none_or(|known| known < remembered) {
                let time = |id| Ceiling::from_id(layout, id).ok().map(|c| timestamp(c.time_ms(layout)));
                return Err(MarkError::Forgotten {
                    slot,
                    remembered: time(remembered).unwrap_or_default(),
                    known: known.and_then(time),
                    directory: self.shown(),
                    when: WHEN,
                });
            }
        }
        Ok(())
    }

    /// Remembers up to where this node was given a slot, if that can be written down.
    pub fn keep(&self, slot: Slot, ceiling: Ceiling) {
        let written = self.write(&slot.to_string(), &ceiling.id().get().to_string());
        let failing = self.failing.swap(written.is_err(), Ordering::Relaxed);
        if let (Err(error), false) = (written, failing) {
            tracing::warn!("what this node knows of its registry cannot be kept: {error}");
        }
    }

    fn ceilings(&self) -> Result<BTreeMap<Slot, Id>, MarkError> {
        let entries = fs::read_dir(&self.directory)
            .map_err(|source| file_error("cannot read", &self.directory, source))?;
        let slots = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<Slot>().ok());
        let mut ceilings = BTreeMap::new();
        for slot in slots {
            let ceiling = self.read_as(&slot.to_string(), "an ID", |text| Id::new(text.parse().ok()?))?;
            ceilings.extend(ceiling.map(|ceiling| (slot, ceiling)));
        }
        Ok(ceilings)
    }

    fn read_as<T>(
        &self,
        name: &str,
        wanted: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, MarkError> {
        let Some(text) = self.read(name)? else { return Ok(None) };
        let damaged = || {
            let (path, directory) = (self.directory.join(name).display().to_string(), self.shown());
            MarkError::Damaged { path, text: text.clone(), wanted, directory, when: WHEN }
        };
        parse(&text).map(Some).ok_or_else(damaged)
    }

    fn read(&self, name: &str) -> Result<Option<String>, MarkError> {
        let path = self.directory.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(file_error("cannot read", &path, source)),
        }
    }

    /// Replaces a file, durably: a loss of power leaves the old text or the new one.
    fn write(&self, name: &str, text: &str) -> Result<(), MarkError> {
        let path = self.directory.join(name);
        let temporary = self.directory.join(format!("{name}.{}.new", std::process::id()));
        let write = || {
            let mut file = File::create(&temporary)?;
            writeln!(file, "{text}")?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.directory)?.sync_all()
        };
        write().map_err(|source| file_error("cannot write", &path, source))
    }

    fn shown(&self) -> String {
        self.directory.display().to_string()
    }
}

fn file_error(doing: &'static str, path: &Path, source: io::Error) -> MarkError {
    MarkError::File { doing, path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use snowmint::Claim;

    use super::*;
    use crate::registry::{Namespace, Owner, Revision, SlotState, WindowRecord};

    const SLOT: Slot = Slot { datacenter: 0, worker: 5 };
    const NOW_MS: u64 = snowmint::DEFAULT_EPOCH_MS + 1_000_000;

    fn ceiling(ahead_ms: u64) -> Ceiling {
        Claim::new(Layout::default(), SLOT, None, NOW_MS, ahead_ms).unwrap().ceiling()
    }

    fn registry(cluster_id: Uuid, ceiling: Option<Ceiling>) -> Snapshot {
        let layout = Layout::default();
        let namespace = Namespace {
            cluster_id,
            epoch_ms: layout.epoch_ms(),
            layout: layout.split(),
            max_sequence: 4095,
            clock_drift_threshold_ms: 100,
        };
        let owner = Owner { node: "a".to_owned(), instance: Uuid::nil() };
        let window = ceiling.map(|ceiling| (WindowRecord::new(owner, ceiling, layout), Revision(1)));
        let slots = [(SLOT, SlotState { window, ..SlotState::default() })].into();
        Snapshot { namespace, datacenters: BTreeMap::new(), slots }
    }

    #[test]
    fn a_name_is_made_once() {
        let directory = tempfile::tempdir().unwrap();
        let name = Mark::new(directory.path()).unwrap().node_name("host").unwrap();
        assert!(name.starts_with("host-") && name.len() == "host-".len() + 8, "{name}");
        assert_eq!(Mark::new(directory.path()).unwrap().node_name("renamed").unwrap(), name);
    }

    #[test]
    fn a_registry_that_knows_less_is_refused_and_what_to_do_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let mark = Mark::new(directory.path()).unwrap();
        let (cluster, layout) = (Uuid::new_v4(), Layout::default());
        let refusal = |registry: &Snapshot| mark.check(registry, layout).unwrap_err().to_string();
        mark.check(&registry(cluster, None), layout).unwrap();
        mark.keep(SLOT, ceiling(5_000));
        mark.check(&registry(cluster, Some(ceiling(5_000))), layout).unwrap();
        mark.check(&registry(cluster, Some(ceiling(9_000))), layout).unwrap();

        let wiped = refusal(&registry(Uuid::new_v4(), None));
        assert!(wiped.contains("this node belongs to cluster") && wiped.contains("/mark"), "{wiped}");
        let restored = refusal(&registry(cluster, Some(ceiling(1_000))));
        assert!(restored.contains("dc0_worker5 up to 2021-01-01T00:16:45Z"), "{restored}");
        assert!(restored.contains("the registry has 2021-01-01T00:16:41Z"), "{restored}");
        assert!(refusal(&registry(cluster, None)).contains("the registry has none"));

        fs::write(directory.path().join("mark/dc0_worker5"), "much").unwrap();
        let damaged = refusal(&registry(cluster, Some(ceiling(9_000))));
        assert!(damaged.contains("has \"much\", and an ID is wanted"), "{damaged}");
        fs::remove_dir_all(directory.path().join("mark")).unwrap();
        let mark = Mark::new(directory.path()).unwrap();
        mark.check(&registry(Uuid::new_v4(), None), layout).unwrap();
    }
}
