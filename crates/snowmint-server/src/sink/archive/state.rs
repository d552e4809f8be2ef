//! What the spool must remember of files that are gone: `archive/state`, replaced as a whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use snowmint::Slot;
use uuid::Uuid;

use crate::archive::{Hash, ObjectKey, slot_name};
use crate::files;

pub(super) const FILE: &str = "state";
const NEW_FILE: &str = "state.tmp";

/// The file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// Whose records they are.
    pub(super) journal: Uuid,
    chains: BTreeMap<String, Chain>,
    /// The file that is on its way into the archive, under its chain's `object`. Whether it is there is not known:
    /// until it is, no other name will do.
    pub(super) uploading: Option<String>,
}

/// What is remembered of a slot's records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chain {
    /// Up to where they are in files that were sealed.
    pub(super) end: End,
    /// What the last file that was uploaded is called in the archive.
    pub(super) object: Option<ObjectKey>,
}

/// Where a chain ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct End {
    /// The number of the last record, 0 where there is none.
    pub(super) sequence: u64,
    /// Its hash.
    pub(super) hash: Hash,
    /// The number in the journal of the event that it tells of.
    pub(super) event: Option<u64>,
}

impl Default for End {
    fn default() -> Self {
        Self { sequence: 0, hash: Hash::NOTHING, event: None }
    }
}

impl State {
    /// The state in a directory. What another journal has left behind says only which names were used.
    pub(super) fn read(directory: &Path, journal: Uuid) -> io::Result<Self> {
        let new = Self { journal, chains: BTreeMap::new(), uploading: None };
        let mut state: Self = match fs::read(directory.join(FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(new),
            Err(error) => return Err(error),
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                tracing::error!("the archive's state cannot be read, and is begun anew: {error}");
                new
            }),
        };
        if state.journal != journal {
            state.journal = journal;
            state.chains.values_mut().for_each(|chain| chain.end = End::default());
        }
        Ok(state)
    }

    /// Replaces the file, durably, with whatever was done in the directory before.
    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        let (new, path) = (directory.join(NEW_FILE), directory.join(FILE));
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(new, path)?;
        files::sync_directory(directory)
    }

    pub(super) fn chain(&self, slot: Option<Slot>) -> Chain {
        self.chains.get(&slot_name(slot)).copied().unwrap_or_default()
    }

    pub(super) fn chain_mut(&mut self, slot: Option<Slot>) -> &mut Chain {
        self.chains.entry(slot_name(slot)).or_default()
    }
}
