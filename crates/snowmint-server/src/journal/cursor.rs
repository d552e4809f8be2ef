//! Where a sink is in the journal, as a file: `journal/<sink>.cursor`.
//!
//! Two lines of text, each with a checksum, of which the one with the higher turn counts. They are written in
//! turn, each in its place: what is torn is never the one that counts, and moving a cursor takes no room on
//! the disk, so that a full one does not keep the sinks from making it empty.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use uuid::Uuid;

/// How long a line is, in bytes: what a disk writes at once.
const LINE_BYTES: usize = 512;

/// Where a sink is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    /// The number of the first event that the sink has not taken.
    pub(super) next: u64,
    /// The end of the batch it was offered, which starts at `next`; `next` where it was offered none.
    pub(super) offered: u64,
}

/// The file of one sink's cursor.
pub(super) struct CursorFile {
    file: File,
    turn: u64,
    journal: Uuid,
}

impl CursorFile {
    /// The cursor in a file, which is made where it is not there; `None` where none can be read.
    pub(super) fn open(path: &Path, journal: Uuid) -> io::Result<(Self, Option<Cursor>)> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = [0; 2 * LINE_BYTES];
        // What a shorter file lacks is no line.
        let _ = file.read_at(&mut bytes, 0)?;
        let lines = [&bytes[..LINE_BYTES], &bytes[LINE_BYTES..]];
        let newest = lines.into_iter().filter_map(|line| parse(line, journal)).max_by_key(|(turn, _)| *turn);
        let (turn, cursor) = newest.unzip();
        Ok((Self { file, turn: turn.unwrap_or(0), journal }, cursor))
    }

    /// Writes the cursor, durably.
    pub(super) fn write(&mut self, cursor: Cursor) -> io::Result<()> {
        let turn = self.turn + 1;
        let offset = (turn % 2) * LINE_BYTES as u64;
        self.file.write_all_at(line(turn, self.journal, cursor).as_bytes(), offset)?;
        self.file.sync_data()?;
        self.turn = turn;
        Ok(())
    }
}

fn line(turn: u64, journal: Uuid, Cursor { next, offered }: Cursor) -> String {
    let text = format!("turn {turn} journal {journal} next {next} offered {offered}");
    let checked = format!("{text} crc32 {:08x}", crc32fast::hash(text.as_bytes()));
    format!("{checked:<width$}\n", width = LINE_BYTES - 1)
}

fn parse(bytes: &[u8], journal: Uuid) -> Option<(u64, Cursor)> {
    let text = str::from_utf8(bytes).ok()?;
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let ["turn", turn, "journal", _, "next", next, "offered", offered, "crc32", _] = words[..] else {
        return None;
    };
    let (turn, next) = (turn.parse().ok()?, next.parse().ok()?);
    let cursor = Cursor { next, offered: offered.parse().ok()? };
    (text == line(turn, journal, cursor)).then_some((turn, cursor))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_last_write_counts_and_a_torn_one_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.cursor");
        let journal = Uuid::new_v4();
        let (mut file, none) = CursorFile::open(&path, journal).unwrap();
        assert_eq!(none, None);
        let cursors = [(0, 5), (5, 5), (5, 9)].map(|(next, offered)| Cursor { next, offered });
        for cursor in cursors {
            file.write(cursor).unwrap();
            assert_eq!(CursorFile::open(&path, journal).unwrap().1, Some(cursor));
        }
        assert_eq!(CursorFile::open(&path, Uuid::new_v4()).unwrap().1, None);
        // The third was written to the second place.
        let whole = std::fs::read(&path).unwrap();
        for torn in 0..LINE_BYTES {
            let mut bytes = whole.clone();
            bytes[LINE_BYTES + torn] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(CursorFile::open(&path, journal).unwrap().1, Some(cursors[1]), "{torn}");
        }
    }
}
