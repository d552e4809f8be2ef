//! How a segment is written: a header, then records.
//!
//! ```text
//! header   magic (8 bytes), format u32, the journal's UUID (16 bytes), number of the first record u64, crc32 u32
//! record   length u32, crc32 u32, payload (an event, as postcard)
//! ```
//!
//! All numbers are little-endian. A record's checksum is also over its length and its number, which is not
//! written: bytes in a wrong place are no record.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use postcard::ser_flavors::Flavor;
use uuid::Uuid;

use crate::event::Event;

const MAGIC: &[u8; 8] = b"snowjrnl";

/// The format known here.
pub(super) const FORMAT: u32 = 1;

/// How long a segment's header is, in bytes.
pub(super) const HEADER_BYTES: usize = 40;

const RECORD_HEADER_BYTES: usize = 8;

/// The largest event that is kept, in bytes: a request for many IDs that got each in a millisecond of its own.
pub(super) const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// How much of a segment is read at once, in bytes.
const READ_BYTES: usize = 256 << 10;

/// What a segment's header says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// It is one of this journal.
    Of(Uuid),
    /// It is of a later version of the program.
    Format(u32),
    /// It cannot be read.
    Damaged,
}

impl Header {
    pub(super) fn encode(journal: Uuid, first: u64) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[12..28].copy_from_slice(journal.as_bytes());
        bytes[28..36].copy_from_slice(&first.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..36]);
        bytes[36..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads the header of the segment that starts with the record `first`.
    pub(super) fn read(file: &File, first: u64) -> io::Result<Self> {
        let mut bytes = [0; HEADER_BYTES];
        match file.read_exact_at(&mut bytes, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Self::Damaged),
            read => read?,
        }
        let format = u32::from_le_bytes(array(&bytes[8..12]));
        if &bytes[..8] == MAGIC && format > FORMAT {
            return Ok(Self::Format(format));
        }
        let journal = Uuid::from_bytes(array(&bytes[12..28]));
        let whole = bytes == Self::encode(journal, first);
        Ok(if whole { Self::Of(journal) } else { Self::Damaged })
    }
}

/// Why an event is not kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum EncodeError {
    #[error("it cannot be encoded: {0}")]
    Postcard(#[from] postcard::Error),
    #[error("it takes {0} bytes, and at most {PAYLOAD_BYTES_MAX} are kept")]
    TooLong(usize),
}

/// Appends an event to a buffer, or leaves the buffer as it was.
pub(super) fn append(buffer: &mut Vec<u8>, number: u64, event: &Event) -> Result<(), EncodeError> {
    let start = buffer.len();
    let encoded = append_payload(buffer, start + RECORD_HEADER_BYTES, event);
    match encoded {
        Ok(length) => {
            let (header, payload) = buffer[start..].split_at_mut(RECORD_HEADER_BYTES);
            header[..4].copy_from_slice(&length.to_le_bytes());
            header[4..].copy_from_slice(&checksum(number, length, payload).to_le_bytes());
            Ok(())
        }
        Err(error) => {
            buffer.truncate(start);
            Err(error)
        }
    }
}

fn append_payload(buffer: &mut Vec<u8>, at: usize, event: &Event) -> Result<u32, EncodeError> {
    buffer.resize(at, 0);
    postcard::serialize_with_flavor(event, Behind(buffer))?;
    let length = buffer.len() - at;
    if length > PAYLOAD_BYTES_MAX {
        return Err(EncodeError::TooLong(length));
    }
    Ok(u32::try_from(length).expect("PAYLOAD_BYTES_MAX is far below it"))
}

/// Writes behind what a buffer has. As an `io::Write` the buffer would be asked for each byte whether it took it.
struct Behind<'a>(&'a mut Vec<u8>);

impl Flavor for Behind<'_> {
    type Output = ();

    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(data);
        Ok(())
    }

    fn try_push(&mut self, data: u8) -> postcard::Result<()> {
        self.0.push(data);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

fn checksum(number: u64, length: u32, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(&length.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("the slices above are as long as what is made of them")
}

/// What the bytes at some place are.
enum Parsed {
    /// A record, of which this is the payload.
    Whole(Range<usize>),
    /// The beginning of one, as far as can be said.
    Partial,
    /// None; with how many bytes it would take, if its length is to be believed.
    Wrong(Option<usize>),
}

fn parse(bytes: &[u8], number: u64) -> Parsed {
    let Some((header, rest)) = bytes.split_at_checked(RECORD_HEADER_BYTES) else { return Parsed::Partial };
    let length = u32::from_le_bytes(array(&header[..4]));
    let bytes = length as usize;
    if !(1..=PAYLOAD_BYTES_MAX).contains(&bytes) {
        return Parsed::Wrong(None);
    }
    let Some(payload) = rest.get(..bytes) else { return Parsed::Partial };
    let end = RECORD_HEADER_BYTES + bytes;
    if checksum(number, length, payload).to_le_bytes() == header[4..] {
        Parsed::Whole(RECORD_HEADER_BYTES..end)
    } else {
        Parsed::Wrong(Some(end))
    }
}

/// A place between two records of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// The segment, by the number of its first record.
    pub(super) segment: u64,
    /// Where in it, in bytes.
    pub(super) offset: u64,
    /// The number of the record that begins there.
    pub(super) number: u64,
}

impl Position {
    /// Before the first record of a segment.
    pub(super) fn start(segment: u64) -> Self {
        Self { segment, offset: HEADER_BYTES as u64, number: segment }
    }
}

/// What comes next in a segment.
#[derive(Debug)]
pub(super) enum Step<'a> {
    /// A record's payload.
    Record(&'a [u8]),
    /// One record that is damaged; the one after it is not.
    Damaged,
    /// From here on nothing can be read.
    Broken,
    /// The end, between two records.
    End,
}

/// Goes through the records of a segment.
pub(super) struct Walk {
    file: File,
    /// Where the walk is.
    position: Position,
    /// What was read and is still to be walked: from `start` on.
    buffer: Vec<u8>,
    start: usize,
}

impl Walk {
    pub(super) fn new(file: File, from: Position) -> Self {
        Self { file, position: from, buffer: Vec::new(), start: 0 }
    }

    /// Before what [`next`](Self::next) gives next.
    pub(super) fn position(&self) -> Position {
        self.position
    }

    /// Steps over the next record; past `Broken` and `End` there is no step.
    pub(super) fn next(&mut self) -> io::Result<Step<'_>> {
        loop {
            let number = self.position.number;
            match parse(&self.buffer[self.start..], number) {
                Parsed::Partial if self.read_on()? => {}
                Parsed::Partial if self.start == self.buffer.len() => return Ok(Step::End),
                Parsed::Partial | Parsed::Wrong(None) => return Ok(Step::Broken),
                Parsed::Whole(payload) => {
                    let payload = self.start + payload.start..self.start + payload.end;
                    self.step(payload.end - self.start);
                    return Ok(Step::Record(&self.buffer[payload]));
                }
                // Its length holds if there is a record behind it.
                Parsed::Wrong(Some(bytes)) => match parse(&self.buffer[self.start + bytes..], number + 1) {
                    Parsed::Partial if self.read_on()? => {}
                    Parsed::Whole(_) => {
                        self.step(bytes);
                        return Ok(Step::Damaged);
                    }
                    _ => return Ok(Step::Broken),
                },
            }
        }
    }

    fn step(&mut self, bytes: usize) {
        self.start += bytes;
        self.position.offset += bytes as u64;
        self.position.number += 1;
    }

    /// Reads more of the segment, if there is more.
    fn read_on(&mut self) -> io::Result<bool> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let had = self.buffer.len();
        self.buffer.resize(had + READ_BYTES, 0);
        let read = self.file.read_at(&mut self.buffer[had..], self.position.offset + had as u64)?;
        self.buffer.truncate(had + read);
        Ok(read > 0)
    }
}
