//! What waits in a spool, for those who only look: the node may be at work with it.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use snowmint::Slot;
use uuid::Uuid;

use super::SPOOL;
use super::file::{self, LINES, Name, SEALED};
use crate::archive::Hour;
use crate::journal;

/// A piece of a chain that waits on this disk for its hour to end, or to be uploaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    directory: PathBuf,
    name: Name,
}

/// All that waits in the spools below a data directory: of each journal in the order of its chains.
pub fn waiting(data_dir: &Path) -> io::Result<Vec<Waiting>> {
    let mut waiting = Vec::new();
    for journal in journal::directories(data_dir) {
        let directory = journal.join(SPOOL);
        let (lines, sealed) = match file::list(&directory, LINES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            lines => (lines?, file::list(&directory, SEALED)?),
        };
        let mut names = [lines, sealed].concat();
        names.sort_unstable();
        names.dedup();
        waiting.extend(names.into_iter().map(|name| Waiting { directory: directory.clone(), name }));
    }
    Ok(waiting)
}

impl Waiting {
    /// The slot, where the node held one.
    #[must_use]
    pub fn slot(&self) -> Option<Slot> {
        self.name.slot
    }

    /// The hour of the object that it becomes.
    #[must_use]
    pub fn hour(&self) -> Hour {
        self.name.hour
    }

    /// Which piece of which chain it is: the chain's journal and slot, and the number of the piece's first record.
    #[must_use]
    pub fn piece(&self) -> (Uuid, Option<Slot>, u64) {
        (self.name.journal, self.name.slot, self.name.first)
    }

    /// Its lines, of which the last may be written just now; nothing where it waits no more.
    pub fn open(&self) -> io::Result<Option<Box<dyn Read>>> {
        // First what it is sealed from: it may be sealed in between.
        if let Some(lines) = self.file(LINES)? {
            return Ok(Some(Box::new(lines)));
        }
        let sealed = self.file(SEALED)?;
        Ok(sealed.map(|sealed| Box::new(MultiGzDecoder::new(BufReader::new(sealed))) as Box<dyn Read>))
    }

    fn file(&self, kind: &str) -> io::Result<Option<File>> {
        match File::open(self.directory.join(self.name.with(kind))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            file => file.map(Some),
        }
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.directory.join(self.name.to_string()).display())
    }
}
