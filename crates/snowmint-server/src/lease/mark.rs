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

use crate::files;
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

/// What a node knew of its registry at some moment.
#[derive(Debug)]
pub struct Recollection {
    directory: String,
    cluster_id: Option<Uuid>,
    ceilings: BTreeMap<Slot, Id>,
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
    #[error("{path} has {text:?}, and {wanted} is wanted: put it right, or remove {directory} once {WHEN}")]
    Damaged {
        /// Which file.
        path: String,
        /// What is in it.
        text: String,
        /// What should be.
        wanted: &'static str,
        /// The mark's directory.
        directory: String,
    },
    /// The registry is another namespace's.
    #[error(
        "the registry is that of cluster {registry}, and this node belongs to cluster {own}: it was wiped, or it is \
         another one. If it is meant to replace the old one, remove {directory} and start again, once {WHEN}"
    )]
    OtherCluster {
        /// The registry's.
        registry: Uuid,
        /// The one that is remembered.
        own: Uuid,
        /// The mark's directory.
        directory: String,
    },
    /// The registry knows less than this node was given.
    #[error(
        "the registry has forgotten windows: this node was given {slot} up to {remembered}, the registry has {}: it \
         was put back from an old copy. Put the newest one back, or remove {directory} and start again, once \
         {WHEN}", known.map_or("none".to_owned(), |known| known.to_string())
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
    },
}

/// When it is safe to forget.
const WHEN: &str = "every node that used the old one has been stopped for longer than its window";

impl Mark {
    /// The mark in a data directory, which is made where it is not there.
    pub fn new(data_dir: &Path) -> Result<Self, MarkError> {
        let directory = data_dir.join("mark");
        files::create_directory(&directory)
            .map_err(|source| file_error("cannot create", &directory, source))?;
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

    /// What this node knows, to be read before the registry is: a process that shares the directory may be
    /// given more at any time.
    pub fn recall(&self) -> Result<Recollection, MarkError> {
        let cluster_id = self.read_as(CLUSTER_ID, "a UUID", |text| text.parse().ok())?;
        Ok(Recollection { directory: self.shown(), cluster_id, ceilings: self.ceilings()? })
    }

    /// Remembers the namespace, the first time.
    pub fn belong_to(&self, cluster_id: Uuid) -> Result<(), MarkError> {
        match self.read(CLUSTER_ID)? {
            None => self.write(CLUSTER_ID, &cluster_id.to_string()),
            Some(_) => Ok(()),
        }
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
            MarkError::Damaged { path, text: text.clone(), wanted, directory }
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
            files::sync_directory(&self.directory)
        };
        write().map_err(|source| file_error("cannot write", &path, source))
    }

    fn shown(&self) -> String {
        self.directory.display().to_string()
    }
}

impl Recollection {
    /// Refuses a registry, read afterwards, that knows less.
    pub fn check(&self, snapshot: &Snapshot, layout: Layout) -> Result<(), MarkError> {
        let (registry, directory) = (snapshot.namespace.cluster_id, self.directory.clone());
        if let Some(own) = self.cluster_id.filter(|own| *own != registry) {
            return Err(MarkError::OtherCluster { registry, own, directory });
        }
        let known = |slot| Some(snapshot.slots.get(slot)?.window.as_ref()?.0.ceiling);
        let forgotten = self.ceilings.iter().find(|(slot, remembered)| known(*slot) < Some(**remembered));
        let Some((&slot, &remembered)) = forgotten else { return Ok(()) };
        let time = |id| Ceiling::from_id(layout, id).ok().map(|ceiling| timestamp(ceiling.time_ms(layout)));
        let (remembered, known) = (time(remembered).unwrap_or_default(), known(&slot).and_then(time));
        Err(MarkError::Forgotten { slot, remembered, known, directory })
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
        let check = |registry: &Snapshot| mark.recall()?.check(registry, layout);
        let refusal = |registry: &Snapshot| check(registry).unwrap_err().to_string();
        check(&registry(cluster, None)).unwrap();
        mark.belong_to(cluster).unwrap();
        mark.keep(SLOT, ceiling(5_000));
        check(&registry(cluster, Some(ceiling(5_000)))).unwrap();
        check(&registry(cluster, Some(ceiling(9_000)))).unwrap();

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
        mark.recall().unwrap().check(&registry(Uuid::new_v4(), None), layout).unwrap();
    }

    /// A process that shares the directory extends its window after the registry was read: that is no reason to
    /// call the registry old.
    #[test]
    fn what_is_given_after_the_registry_was_read_is_not_missed_there() {
        let directory = tempfile::tempdir().unwrap();
        let mark = Mark::new(directory.path()).unwrap();
        let cluster = Uuid::new_v4();
        mark.keep(SLOT, ceiling(1_000));
        let before = mark.recall().unwrap();
        let read = registry(cluster, Some(ceiling(1_000)));
        mark.keep(SLOT, ceiling(5_000));
        before.check(&read, Layout::default()).unwrap();
        let late = mark.recall().unwrap().check(&read, Layout::default());
        assert!(matches!(late, Err(MarkError::Forgotten { .. })), "{late:?}");
    }
}
