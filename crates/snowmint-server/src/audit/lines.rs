//! An object's lines, one at a time, in bounded memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};

use bytes::{Buf, Bytes};
use flate2::bufread::MultiGzDecoder;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::path::Path;
use object_store::{GetOptions, GetResultPayload};
use tokio::runtime::Handle;

use crate::objects::Objects;

/// The longest line: many times what a request of a million IDs takes.
pub(super) const LINE_BYTES_MAX: u64 = 16 << 20;

/// How much is unpacked at a time.
const BUFFER_BYTES: usize = 128 << 10;

/// The lines of an object. Not for tasks: its reads block.
pub(super) struct Lines {
    unpacked: BufReader<Box<dyn Read>>,
    line: Vec<u8>,
}

/// Why there are no more lines.
#[derive(Debug, thiserror::Error)]
pub(super) enum LineError {
    /// What is there is not what was written.
    #[error("{0}")]
    Damaged(String),
    /// The last of them was not written to its end.
    #[error("its last line has no end")]
    NoEnd,
    /// Whether it is was not to be seen.
    #[error("{0}")]
    Unreadable(String),
}

impl Lines {
    pub(super) fn open(runtime: &Handle, objects: &Objects, path: &Path) -> Result<Self, LineError> {
        let get = runtime.block_on(objects.store.get_opts(path, GetOptions::default()));
        let get = get.map_err(|error| LineError::Unreadable(error.to_string()))?;
        let body = match get.payload {
            GetResultPayload::File(file, _) => Body::File(BufReader::with_capacity(BUFFER_BYTES, file)),
            GetResultPayload::Stream(chunks) => {
                Body::Stream(Stream { runtime: runtime.clone(), chunks, chunk: Bytes::new() })
            }
        };
        Ok(Self::of(Box::new(MultiGzDecoder::new(body))))
    }

    /// The lines of what is read, unpacked.
    pub(super) fn of(unpacked: Box<dyn Read>) -> Self {
        Self { unpacked: BufReader::with_capacity(BUFFER_BYTES, unpacked), line: Vec::new() }
    }

    /// The next line, without its end.
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>, LineError> {
        self.line.clear();
        let read = (&mut self.unpacked).take(LINE_BYTES_MAX).read_until(b'\n', &mut self.line);
        read.map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => LineError::Damaged("it ends before its end".to_owned()),
            ErrorKind::InvalidInput | ErrorKind::InvalidData => LineError::Damaged(error.to_string()),
            _ => LineError::Unreadable(error.to_string()),
        })?;
        match self.line.split_last() {
            None => Ok(None),
            Some((b'\n', line)) => Ok(Some(line)),
            Some(_) if self.line.len() as u64 == LINE_BYTES_MAX => {
                Err(LineError::Damaged(format!("the line is longer than {LINE_BYTES_MAX} bytes")))
            }
            Some(_) => Err(LineError::NoEnd),
        }
    }
}

/// What an object has, packed.
enum Body {
    File(BufReader<File>),
    Stream(Stream),
}

struct Stream {
    runtime: Handle,
    chunks: BoxStream<'static, object_store::Result<Bytes>>,
    chunk: Bytes,
}

impl BufRead for Stream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.chunk.is_empty() {
            match self.runtime.block_on(self.chunks.next()) {
                Some(chunk) => self.chunk = chunk.map_err(io::Error::other)?,
                None => break,
            }
        }
        Ok(&self.chunk)
    }

    fn consume(&mut self, amount: usize) {
        self.chunk.advance(amount);
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for Body {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self {
            Self::File(file) => file.fill_buf(),
            Self::Stream(stream) => stream.fill_buf(),
        }
    }

    fn consume(&mut self, amount: usize) {
        match self {
            Self::File(file) => file.consume(amount),
            Self::Stream(stream) => stream.consume(amount),
        }
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read(buffer),
            Self::Stream(stream) => stream.read(buffer),
        }
    }
}
