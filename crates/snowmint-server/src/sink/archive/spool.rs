//! The spool: records on the local disk, until the archive has them.
//!
//! * `<slot>_<hour>.<first record>.<journal>.jsonl`: records, a line each. The last of a slot grows.
//! * `….json.gz`: what was made of one that does not, to be uploaded as it is.
//! * `state`: see [`State`].
//!
//! A file is sealed in three steps, each durable before the next: the compressed file, the state that says up to
//! where the chain is sealed, the end of the lines. Whatever a crash leaves of that is told by the state: lines
//! that it covers are done with, others are sealed again. Where a chain goes on is where its last lines end, or
//! else what the state says.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use snowmint::Slot;
use uuid::Uuid;

use super::file::{self, LINES, Name, SEALED, UNFINISHED};
use super::state::{End, State};
use super::told::Teller;
use super::{ArchiveState, GRACE_MS};
use crate::archive::{Hash, Hour, Link, ObjectKey, Record};
use crate::files;
use crate::sink::Batch;

/// How much is written to a file at once, in bytes, and a record.
const WRITE_BYTES: usize = 1 << 20;

/// Why records cannot be kept, or not be brought on their way.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpoolError {
    /// A file cannot be used.
    #[error("the archive's spool {}: {source}", directory.display())]
    File {
        /// Where it lies.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no more room for it.
    #[error(
        "{bytes} bytes wait for the archive, and audit.spool_max_bytes is {max_bytes}: the journal keeps what follows"
    )]
    Full {
        /// How much there is.
        bytes: u64,
        /// How much may be.
        max_bytes: u64,
    },
}

/// Records on their way into the archive. All of it blocks.
pub(super) struct Spool {
    directory: PathBuf,
    journal: Uuid,
    teller: Teller,
    limits: Limits,
    state: Arc<ArchiveState>,
    /// Nothing where what is on the disk has to be looked at first.
    opened: Option<Opened>,
    /// Files that a failed write may have made longer, each with how long it is to be.
    cuts: Vec<(PathBuf, u64)>,
}

/// What is enough.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Of all files, in bytes: from then on nothing is taken.
    pub(super) spool_bytes_max: u64,
    /// Of one file's lines, in bytes.
    pub(super) object_bytes: u64,
}

struct Opened {
    state: State,
    chains: BTreeMap<Option<Slot>, Chain>,
    /// Of all files together.
    bytes: u64,
}

/// Where a slot's records go on.
struct Chain {
    end: End,
    file: Option<Growing>,
}

struct Growing {
    name: Name,
    file: File,
    /// What is durable of it, and what is not written yet.
    bytes: u64,
    buffer: Vec<u8>,
    touched: Instant,
}

/// An object that is to be in the archive under this name.
#[derive(Clone)]
pub(super) struct Upload {
    pub(super) name: Name,
    pub(super) key: ObjectKey,
    pub(super) bytes: Bytes,
}

impl Spool {
    pub(super) fn new(
        directory: PathBuf,
        journal: Uuid,
        teller: Teller,
        limits: Limits,
        state: Arc<ArchiveState>,
    ) -> Self {
        Self { directory, journal, teller, limits, state, opened: None, cuts: Vec::new() }
    }

    /// Keeps the records of a batch, durably: those that were not kept before. Says whether a file is full.
    pub(super) fn append(&mut self, batch: &Batch) -> Result<bool, SpoolError> {
        self.look()?;
        let opened = self.opened.as_mut().expect("it was looked at");
        let Limits { spool_bytes_max: max_bytes, object_bytes } = self.limits;
        if opened.bytes >= max_bytes {
            return Err(SpoolError::Full { bytes: opened.bytes, max_bytes });
        }
        let mut append =
            Append { directory: &self.directory, opened, cuts: &mut self.cuts, object_bytes, full: false };
        match append.batch(batch, &self.teller) {
            Ok(full) => {
                self.cuts.clear();
                self.state.waiting(opened.bytes);
                Ok(full)
            }
            Err(source) => {
                self.opened = None;
                Err(self.error(source))
            }
        }
    }

    /// Seals the oldest file that is full, or whose hour is over, or, at the `end`, any; says whether there was one.
    pub(super) fn seal(&mut self, now_ms: u64, end: bool) -> Result<bool, SpoolError> {
        self.look()?;
        self.try_seal(now_ms, end).map_err(|source| self.error(source))
    }

    /// The oldest sealed file, with the name that it goes by in the archive.
    pub(super) fn next_upload(&mut self) -> Result<Option<Upload>, SpoolError> {
        self.look()?;
        self.try_next_upload().map_err(|source| self.error(source))
    }

    /// That name is another object's. This is the next to be tried.
    pub(super) fn rename(&mut self, name: Name, key: ObjectKey) -> Result<(), SpoolError> {
        self.look()?;
        let opened = self.opened.as_mut().expect("it was looked at");
        opened.begin(name, key, &self.directory).map_err(|source| self.error(source))
    }

    /// The archive has it.
    pub(super) fn uploaded(&mut self, name: Name) -> Result<(), SpoolError> {
        self.look()?;
        let path = self.directory.join(name.with(SEALED));
        let bytes = file::bytes(&path).and_then(|bytes| file::remove(&path).map(|()| bytes));
        let bytes = bytes.map_err(|source| self.error(source))?;
        let opened = self.opened.as_mut().expect("it was looked at");
        opened.bytes = opened.bytes.saturating_sub(bytes);
        self.state.waiting(opened.bytes);
        Ok(())
    }

    /// Looks at what is on the disk, where that is not known.
    pub(super) fn look(&mut self) -> Result<(), SpoolError> {
        if self.opened.is_none() {
            let opened = self.cut().and_then(|()| Opened::new(&self.directory, self.journal));
            let opened = opened.map_err(|source| self.error(source))?;
            self.state.waiting(opened.bytes);
            self.opened = Some(opened);
        }
        Ok(())
    }

    /// Cuts off what a failed write has left: it may not be on disk, whatever reads it.
    fn cut(&mut self) -> io::Result<()> {
        for (path, bytes) in &self.cuts {
            let file = match File::options().write(true).open(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file?,
            };
            if file.metadata()?.len() > *bytes {
                file.set_len(*bytes)?;
                file.sync_all()?;
            }
        }
        self.cuts.clear();
        Ok(())
    }

    fn try_seal(&mut self, now_ms: u64, end: bool) -> io::Result<bool> {
        let opened = self.opened.as_mut().expect("it was looked at");
        for chain in opened.chains.values_mut() {
            chain.file.take_if(|file| end || file.is_over(now_ms));
        }
        let growing = |name: &Name| {
            let chain = opened.chains.get(&name.slot).and_then(|chain| chain.file.as_ref());
            chain.is_some_and(|file| file.name == *name)
        };
        let lines = file::list(&self.directory, LINES)?;
        let Some(name) = lines.into_iter().find(|name| !growing(name)) else { return Ok(false) };
        let end = file::seal(&self.directory, name)?;
        files::sync_directory(&self.directory)?;
        if let Some(end) = end.filter(|_| name.journal == self.journal) {
            opened.state.chain_mut(name.slot).end = end;
            opened.state.write(&self.directory)?;
        }
        let lines = self.directory.join(name.with(LINES));
        let sealed = file::bytes(&self.directory.join(name.with(SEALED)))?;
        opened.bytes = (opened.bytes + sealed).saturating_sub(file::bytes(&lines)?);
        file::remove(&lines)?;
        self.state.waiting(opened.bytes);
        Ok(true)
    }

    fn try_next_upload(&mut self) -> io::Result<Option<Upload>> {
        let opened = self.opened.as_mut().expect("it was looked at");
        let sealed = file::list(&self.directory, SEALED)?;
        // What has lines yet is sealed again.
        let is_done = |name: &&Name| !self.directory.join(name.with(LINES)).exists();
        let begun = |name: &&Name| opened.state.uploading.as_deref() == Some(&name.to_string());
        let next = sealed.iter().find(begun).or_else(|| sealed.iter().find(is_done));
        let Some(&name) = next else { return Ok(None) };
        let last = opened.state.chain(name.slot).object;
        let key = match last {
            Some(last) if begun(&&name) => last,
            Some(last) if last.hour == name.hour => last.next(),
            _ => ObjectKey { hour: name.hour, slot: name.slot, number: 1 },
        };
        if !begun(&&name) {
            opened.begin(name, key, &self.directory)?;
        }
        let bytes = fs::read(self.directory.join(name.with(SEALED)))?.into();
        Ok(Some(Upload { name, key, bytes }))
    }

    fn error(&self, source: io::Error) -> SpoolError {
        SpoolError::File { directory: self.directory.clone(), source }
    }
}

impl Growing {
    /// Whether nothing is going to come any more.
    fn is_over(&self, now_ms: u64) -> bool {
        let grace = Duration::from_millis(GRACE_MS);
        now_ms >= self.name.hour.end_ms() + GRACE_MS && self.touched.elapsed() >= grace
    }
}

impl Opened {
    /// Makes whole what is on the disk.
    fn new(directory: &Path, journal: Uuid) -> io::Result<Self> {
        files::create_directory(directory)?;
        let state = State::read(directory, journal)?;
        for unfinished in file::list(directory, UNFINISHED)? {
            file::remove(&directory.join(unfinished.with(UNFINISHED)))?;
        }
        let mut chains: BTreeMap<Option<Slot>, Chain> = BTreeMap::new();
        // The last lines of a chain first: it goes on there.
        for name in file::list(directory, LINES)?.into_iter().rev() {
            let (path, ours) = (directory.join(name.with(LINES)), name.journal == journal);
            let sealed = ours && name.first <= state.chain(name.slot).end.sequence;
            let file = File::options().read(true).write(true).open(&path)?;
            match if sealed { None } else { file::repair(&file, name)? } {
                None => file::remove(&path)?,
                Some((end, bytes)) if ours && !chains.contains_key(&name.slot) => {
                    // What only the process wrote may not be on disk yet, and is about to be counted on. Those before
                    // were synced before this was begun.
                    file.sync_all()?;
                    let file = Growing { name, file, bytes, buffer: Vec::new(), touched: Instant::now() };
                    chains.insert(name.slot, Chain { end, file: Some(file) });
                }
                Some(_) => {}
            }
        }
        files::sync_directory(directory)?;
        Ok(Self { state, chains, bytes: bytes(directory)? })
    }

    /// Writes down that a file is about to be in the archive under this name.
    fn begin(&mut self, name: Name, key: ObjectKey, directory: &Path) -> io::Result<()> {
        let mut state = self.state.clone();
        state.chain_mut(name.slot).object = Some(key);
        state.uploading = Some(name.to_string());
        state.write(directory)?;
        self.state = state;
        Ok(())
    }
}

/// A batch on its way into the files.
struct Append<'a> {
    directory: &'a Path,
    opened: &'a mut Opened,
    cuts: &'a mut Vec<(PathBuf, u64)>,
    object_bytes: u64,
    full: bool,
}

impl Append<'_> {
    fn batch(&mut self, batch: &Batch, teller: &Teller) -> io::Result<bool> {
        for (number, event) in (batch.first..).zip(&batch.events) {
            teller.tell(batch, number, event, |record| self.record(record, number))?;
        }
        let slots: Vec<_> = self.opened.chains.keys().copied().collect();
        slots.into_iter().try_for_each(|slot| self.write(slot))?;
        Ok(self.full)
    }

    fn record(&mut self, mut record: Record<'_>, number: u64) -> io::Result<()> {
        let (slot, hour) = (record.slot(), Hour::of(record.timestamp));
        let state = &self.opened.state;
        let chain = self.opened.chains.entry(slot);
        let chain = chain.or_insert_with(|| Chain { end: state.chain(slot).end, file: None });
        if chain.end.event.is_some_and(|last| number <= last) {
            return Ok(());
        }
        // The last of an hour may come after the first of the next: an object is one piece of its chain. Those of long
        // before come after a restart with a clock that was set back.
        if chain.file.as_ref().is_some_and(|file| !file.name.hour.takes(hour)) {
            self.finish(slot)?;
        }
        let chain = self.opened.chains.get_mut(&slot).expect("it was there");
        let sequence = chain.end.sequence + 1;
        let file = match &mut chain.file {
            Some(file) => file,
            none => {
                let name = Name { hour, slot, first: sequence, journal: record.chain.journal };
                none.insert(create(self.directory, name, self.cuts)?)
            }
        };
        record.chain = Link { sequence, previous: chain.end.hash, ..record.chain };
        let start = file.buffer.len();
        serde_json::to_writer(&mut file.buffer, &record)?;
        chain.end = End { sequence, hash: Hash::of(&file.buffer[start..]), event: Some(number) };
        file.buffer.push(b'\n');
        if file.bytes + file.buffer.len() as u64 >= self.object_bytes {
            return self.finish(slot);
        }
        if file.buffer.len() >= WRITE_BYTES { self.write(slot) } else { Ok(()) }
    }

    /// Ends a slot's file.
    fn finish(&mut self, slot: Option<Slot>) -> io::Result<()> {
        self.write(slot)?;
        if let Some(chain) = self.opened.chains.get_mut(&slot) {
            chain.file = None;
            self.full = true;
        }
        Ok(())
    }

    /// Makes a slot's records durable.
    fn write(&mut self, slot: Option<Slot>) -> io::Result<()> {
        let chain = self.opened.chains.get_mut(&slot);
        let Some(file) = chain.and_then(|chain| chain.file.as_mut()).filter(|file| !file.buffer.is_empty())
        else {
            return Ok(());
        };
        self.cuts.push((self.directory.join(file.name.with(LINES)), file.bytes));
        file.file.write_all_at(&file.buffer, file.bytes)?;
        file.file.sync_data()?;
        if file.bytes == 0 {
            files::sync_directory(self.directory)?;
        }
        file.bytes += file.buffer.len() as u64;
        self.opened.bytes += file.buffer.len() as u64;
        file.buffer.clear();
        file.touched = Instant::now();
        Ok(())
    }
}

/// How large all files are together.
fn bytes(directory: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for kind in [LINES, SEALED] {
        for name in file::list(directory, kind)? {
            bytes += file::bytes(&directory.join(name.with(kind)))?;
        }
    }
    Ok(bytes)
}

fn create(directory: &Path, name: Name, cuts: &mut Vec<(PathBuf, u64)>) -> io::Result<Growing> {
    let path = directory.join(name.with(LINES));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    cuts.push((path, 0));
    Ok(Growing { name, file, bytes: 0, buffer: Vec::new(), touched: Instant::now() })
}
