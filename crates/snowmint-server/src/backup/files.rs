//! Files of backups, written and read piece by piece: none is ever in memory as a whole.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{GzDecoder, GzEncoder};
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::manifest::MANIFEST_FILE;
use super::snapshot::Chunk;
use super::{BackupError, File, Manifest, Progress, place};
use crate::clickhouse::ClickHouse;
use crate::objects::Objects;

/// How much is sent to a store at once, in bytes.
const SENT_BYTES: usize = 8 << 20;

/// How much is read from a store at once, in bytes: in one request, so that none takes long.
const READ_BYTES: u64 = 4 << 20;

/// How many requests send at the same time.
const SENDERS: usize = 2;

/// How much is unpacked at once, in bytes: a thousand times that comes of it at most.
const UNPACKED_BYTES: usize = 16 << 10;

/// How much is packed at once, in bytes.
const PACKED_BYTES: usize = 256 << 10;

/// The longest manifest that is read, in bytes: about a million files.
const MANIFEST_BYTES_MAX: u64 = 512 << 20;

pub(super) fn store_error(at: &Objects, path: &str, error: &Error) -> BackupError {
    BackupError::Store { at: format!("{}/{path}", at.url()), problem: error.to_string() }
}

fn path(text: &str) -> Path {
    Path::from(text)
}

/// Writes a small object.
pub(super) async fn put(to: &Objects, name: &str, bytes: Vec<u8>) -> Result<(), BackupError> {
    let length = bytes.len() as u64;
    to.store.put(&path(name), bytes.into()).await.map_err(|error| store_error(to, name, &error))?;
    confirm(to, name, length).await
}

/// Reads a small one; nothing where there is none.
pub(super) async fn get(from: &Objects, name: &str) -> Result<Option<Bytes>, BackupError> {
    let read = async {
        let size = from.store.head(&path(name)).await?.size;
        let range = 0..size.min(MANIFEST_BYTES_MAX);
        from.store.get_range(&path(name), range).await
    };
    match read.await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(store_error(from, name, &error)),
    }
}

/// What was written is there.
async fn confirm(at: &Objects, name: &str, bytes: u64) -> Result<(), BackupError> {
    let meta = at.store.head(&path(name)).await.map_err(|error| store_error(at, name, &error))?;
    if meta.size == bytes {
        return Ok(());
    }
    let problem = format!("{bytes} bytes were written, and it has {}", meta.size);
    Err(BackupError::Damaged { file: format!("{}/{name}", at.url()), problem })
}

/// An object that is being written.
struct Sent<'a> {
    to: &'a Objects,
    name: String,
    writer: BufWriter,
    digest: Sha256,
    bytes: u64,
}

impl<'a> Sent<'a> {
    fn new(to: &'a Objects, name: String) -> Self {
        let writer = BufWriter::with_capacity(Arc::clone(&to.store), path(&name), SENT_BYTES)
            .with_max_concurrency(SENDERS);
        Self { to, name, writer, digest: Sha256::new(), bytes: 0 }
    }

    async fn put(&mut self, bytes: Bytes) -> Result<(), BackupError> {
        self.digest.update(&bytes);
        self.bytes += bytes.len() as u64;
        self.writer.put(bytes).await.map_err(|error| store_error(self.to, &self.name, &error))
    }

    /// How long it is, and the hash of it.
    async fn finish(mut self) -> Result<(u64, String), BackupError> {
        let error =
            |problem: String| BackupError::Store { at: format!("{}/{}", self.to.url(), self.name), problem };
        self.writer.shutdown().await.map_err(|source| error(source.to_string()))?;
        confirm(self.to, &self.name, self.bytes).await?;
        Ok((self.bytes, hex::encode(self.digest.finalize())))
    }

    /// What is there of it goes.
    async fn abort(mut self) {
        // Whoever called has an error to tell already.
        let _ = self.writer.abort().await;
    }
}

/// Writes what a query answers, compressed so that ClickHouse reads it by itself (`s3('….native.gz')`).
pub(super) async fn write(
    clickhouse: &ClickHouse,
    to: &Objects,
    name: &str,
    chunk: &Chunk,
    progress: &dyn Progress,
) -> Result<File, BackupError> {
    let file = format!("{}_{}_{:05}.native.gz", chunk.table, chunk.partition, chunk.number);
    let mut sent = Sent::new(to, format!("{name}/{file}"));
    if let Err(error) = pack(clickhouse, &chunk.sql, &mut sent, progress).await {
        sent.abort().await;
        return Err(error);
    }
    let (bytes, sha256) = sent.finish().await?;
    Ok(File {
        path: file,
        partition: chunk.partition.clone(),
        rows: chunk.rows,
        bytes,
        sha256,
        min_time: chunk.min_time,
        max_time: chunk.max_time,
    })
}

async fn pack(
    clickhouse: &ClickHouse,
    sql: &str,
    sent: &mut Sent<'_>,
    progress: &dyn Progress,
) -> Result<(), BackupError> {
    const NEVER: &str = "memory takes whatever is written";
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    let mut answer = clickhouse.native(sql)?;
    while let Some(bytes) = answer.next().await? {
        for piece in bytes.chunks(PACKED_BYTES) {
            gzip.write_all(piece).expect(NEVER);
            sent.put(std::mem::take(gzip.get_mut()).into()).await?;
        }
        progress.add(bytes.len() as u64);
    }
    sent.put(gzip.finish().expect(NEVER).into()).await
}

/// The pieces of a file, one after the other. The last comes only once all of it is known to be what was written.
struct Received<'a> {
    from: &'a Objects,
    name: String,
    file: &'a File,
    digest: Sha256,
    at: u64,
}

impl<'a> Received<'a> {
    fn new(from: &'a Objects, name: &str, file: &'a File) -> Self {
        Self { from, name: format!("{name}/{}", file.path), file, digest: Sha256::new(), at: 0 }
    }

    fn damaged(&self, problem: impl Into<String>) -> BackupError {
        BackupError::Damaged { file: format!("{}/{}", self.from.url(), self.name), problem: problem.into() }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, BackupError> {
        if self.at == self.file.bytes {
            return Ok(None);
        }
        let range = self.at..self.file.bytes.min(self.at + READ_BYTES);
        let wanted = range.end - range.start;
        let read = self.from.store.get_range(&path(&self.name), range).await;
        let bytes = read.map_err(|error| store_error(self.from, &self.name, &error))?;
        if bytes.len() as u64 != wanted {
            return Err(self.damaged(format!("it is shorter than {} bytes", self.file.bytes)));
        }
        self.at += wanted;
        self.digest.update(&bytes);
        if self.at == self.file.bytes && hex::encode(self.digest.clone().finalize()) != self.file.sha256 {
            return Err(self.damaged("its SHA-256 is not that of the manifest"));
        }
        Ok(Some(bytes))
    }
}

/// Inserts the rows of a file into a table. An insert that is not finished leaves what it has inserted.
pub(super) async fn load(
    clickhouse: &ClickHouse,
    from: &Objects,
    name: &str,
    file: &File,
    table: &str,
    progress: &dyn Progress,
) -> Result<(), BackupError> {
    let mut received = Received::new(from, name, file);
    let mut insert = clickhouse.insert_native(table);
    let mut gunzip = GzDecoder::new(Vec::new());
    while let Some(bytes) = received.next().await? {
        for piece in bytes.chunks(UNPACKED_BYTES) {
            gunzip.write_all(piece).map_err(|error| received.damaged(error.to_string()))?;
            let rows = std::mem::take(gunzip.get_mut());
            if !rows.is_empty() {
                insert.send(rows.into()).await?;
            }
        }
        progress.add(bytes.len() as u64);
    }
    let rest = gunzip.finish().map_err(|error| received.damaged(error.to_string()))?;
    if !rest.is_empty() {
        insert.send(rest.into()).await?;
    }
    Ok(insert.end().await?)
}

/// Copies a complete backup to another place.
pub async fn upload(
    from: &Objects,
    to: &Objects,
    manifest: &Manifest,
    progress: &dyn Progress,
) -> Result<(), BackupError> {
    let name = &manifest.name;
    if !place::claim_name(to, name).await? {
        let problem = "there is one of that name already".to_owned();
        return Err(BackupError::Store { at: format!("{}/{name}", to.url()), problem });
    }
    progress.begin("uploading", manifest.bytes);
    let copied = async {
        for file in manifest.tables.iter().flat_map(|table| &table.files) {
            copy(from, to, name, file, progress).await?;
        }
        put(to, &format!("{name}/{MANIFEST_FILE}"), manifest.to_json()).await
    };
    let copied = copied.await;
    if copied.is_err() {
        let _ = place::remove(to, name).await;
    }
    copied
}

async fn copy(
    from: &Objects,
    to: &Objects,
    name: &str,
    file: &File,
    progress: &dyn Progress,
) -> Result<(), BackupError> {
    let mut received = Received::new(from, name, file);
    let mut sent = Sent::new(to, format!("{name}/{}", file.path));
    let pieces = async {
        while let Some(bytes) = received.next().await? {
            let length = bytes.len() as u64;
            sent.put(bytes).await?;
            progress.add(length);
        }
        Ok(())
    };
    if let Err(error) = pieces.await {
        sent.abort().await;
        return Err(error);
    }
    sent.finish().await.map(|_| ())
}
