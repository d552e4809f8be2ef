//! The files of the spool: what they are called, and what is done with one.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::str::FromStr;

use flate2::Compression;
use flate2::write::GzEncoder;
use snowmint::Slot;
use uuid::Uuid;

use super::state::End;
use super::told;
use crate::archive::{Hash, Hour, ObjectKey, Record};

/// What a file's records are while it grows: JSON lines.
pub(super) const LINES: &str = "jsonl";
/// What it is when it does not grow any more, byte by byte as it goes into the archive.
pub(super) const SEALED: &str = "json.gz";
/// What is being made.
pub(super) const UNFINISHED: &str = "tmp";

/// How hard it is compressed, of 1 to 9: 6 makes it a fifth smaller and takes twice as long.
const COMPRESSION: u32 = 2;

/// How much of a file is looked at at a time, in bytes, from its end, to find the last whole record.
const TAIL_BYTES: u64 = 64 << 10;

/// A file's name without its kind: `dc0_worker5_20240103_19.00000000000000000001.<journal>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) journal: Uuid,
    pub(super) slot: Option<Slot>,
    /// The place of its first record in its chain.
    pub(super) first: u64,
    pub(super) hour: Hour,
}

impl Name {
    pub(super) fn with(self, kind: &str) -> String {
        format!("{self}.{kind}")
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = ObjectKey { hour: self.hour, slot: self.slot, number: 1 };
        write!(f, "{}.{:020}.{}", key.stem(), self.first, self.journal.simple())
    }
}

impl FromStr for Name {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let parse = || {
            let mut parts = text.split('.');
            let ObjectKey { hour, slot, .. } = ObjectKey::of_stem(parts.next()?)?;
            let first = parts.next()?.parse().ok()?;
            Some(Self { hour, slot, first, journal: parts.next()?.parse().ok()? })
        };
        parse().filter(|name: &Self| name.to_string() == text).ok_or(())
    }
}

/// The files of a kind in a directory, those of a chain in its order, and how many bytes they have together.
pub(super) fn list(directory: &Path, kind: &str) -> io::Result<(Vec<Name>, u64)> {
    let (mut names, mut bytes) = (Vec::new(), 0);
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str().and_then(|name| name.strip_suffix(kind)?.strip_suffix('.'));
        if let Some(name) = name.and_then(|name| name.parse().ok()) {
            names.push(name);
            bytes += entry.metadata()?.len();
        }
    }
    names.sort_unstable();
    Ok((names, bytes))
}

/// Cuts off what is no whole record at the end of a file, and says where its chain stands and how long it is;
/// `None` where it has no record.
pub(super) fn repair(file: &File, name: Name) -> io::Result<Option<(End, u64)>> {
    let whole = file.metadata()?.len();
    let mut end = whole;
    let found = loop {
        let Some(start) = start_of_line(file, end)? else { break None };
        let mut line = vec![0; usize::try_from(end - start).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut line, start)?;
        if line.pop() == Some(b'\n')
            && let Some(found) = read_end(&line, name.journal)
        {
            break Some((found, end));
        }
        end = start;
    };
    let bytes = found.map_or(0, |(_, bytes)| bytes);
    if bytes < whole {
        tracing::warn!("the last {} bytes of {name} are no whole record, and are cut off", whole - bytes);
        file.set_len(bytes)?;
        file.sync_all()?;
    }
    Ok(found)
}

/// Where the line starts that ends before `end`; nothing where nothing is there.
fn start_of_line(file: &File, end: u64) -> io::Result<Option<u64>> {
    // The end of the line itself is not looked for.
    let mut until = match end {
        0 => return Ok(None),
        end => end - 1,
    };
    while until > 0 {
        let from = until.saturating_sub(TAIL_BYTES);
        let mut block = vec![0; usize::try_from(until - from).unwrap_or(0)];
        file.read_exact_at(&mut block, from)?;
        if let Some(at) = block.iter().rposition(|byte| *byte == b'\n') {
            return Ok(Some(from + at as u64 + 1));
        }
        until = from;
    }
    Ok(Some(0))
}

fn read_end(line: &[u8], journal: Uuid) -> Option<End> {
    let record: Record<'_> = serde_json::from_slice(line).ok()?;
    let event = told::number(record.event_id, journal);
    let ours = record.chain.journal == journal && event.is_some();
    ours.then(|| End { sequence: record.chain.sequence, hash: Hash::of(line), event })
}

/// Makes what goes into the archive of a file that does not grow any more, durably, and says where the file's chain
/// stands. The same lines give the same bytes.
pub(super) fn seal(directory: &Path, name: Name) -> io::Result<Option<End>> {
    let mut lines = BufReader::new(File::open(directory.join(name.with(LINES)))?);
    let unfinished = directory.join(name.with(UNFINISHED));
    let mut gzip = GzEncoder::new(BufWriter::new(File::create(&unfinished)?), Compression::new(COMPRESSION));
    let (mut line, mut last) = (Vec::new(), Vec::new());
    while lines.read_until(b'\n', &mut line)? > 0 {
        gzip.write_all(&line)?;
        std::mem::swap(&mut line, &mut last);
        line.clear();
    }
    let file = gzip.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    fs::rename(&unfinished, directory.join(name.with(SEALED)))?;
    last.pop_if(|end| *end == b'\n');
    Ok(read_end(&last, name.journal))
}

/// Removes a file that may be gone already.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
