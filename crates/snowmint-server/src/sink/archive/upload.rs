//! Brings what the spool has sealed into the archive.

use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use jiff::Timestamp;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::spool::{Spool, Upload};
use super::{ArchiveState, NAME, NICENESS, Shared, space};
use crate::archive::ObjectKey;
use crate::background;
use crate::objects::{Kind, Objects};

/// How often it is looked for hours that are over, in milliseconds.
const CHECK_MS: u64 = 10_000;

/// How long a request of the archive may take, in milliseconds, tries of its client included.
pub const REQUEST_MS_MAX: u64 = 60_000;

/// The pause before an upload is tried again, in milliseconds: doubled each time, up to the longest.
const BACKOFF_MS_MIN: u64 = 500;
/// The longest such pause.
pub const BACKOFF_MS_MAX: u64 = 30_000;

/// How long the last uploads may take when the service stops, in milliseconds. What is not there by then is
/// uploaded by the next start.
pub const LAST_MS_MAX: u64 = 2_000;

/// How many names of one object are tried in a row: others that write objects of the same slot and hour take them.
const NAMES_MAX: usize = 100;

/// Brings what the spool has sealed into the archive.
pub struct Uploader {
    spool: Shared,
    objects: Objects,
    /// How large the archive may get, where it is ours to keep it small.
    bytes_max: Option<u64>,
    full: Arc<Notify>,
    state: Arc<ArchiveState>,
    request_ms_max: u64,
}

/// What became of a put.
enum Put {
    /// The object is there.
    Done,
    /// Another is there under that name.
    Taken,
}

impl Uploader {
    pub(super) fn new(
        spool: Shared,
        objects: Objects,
        bytes_max: Option<u64>,
        full: Arc<Notify>,
        state: Arc<ArchiveState>,
    ) -> Self {
        Self { spool, objects, bytes_max, full, state, request_ms_max: REQUEST_MS_MAX }
    }

    /// Gives up on a request of the archive after so long, instead of [`REQUEST_MS_MAX`].
    #[must_use]
    pub fn request_ms_max(mut self, ms: u64) -> Self {
        self.request_ms_max = ms;
        self
    }

    /// How the archive is.
    #[must_use]
    pub fn state(&self) -> Arc<ArchiveState> {
        Arc::clone(&self.state)
    }

    /// Uploads until `stop`, and then what there is yet, within [`LAST_MS_MAX`]. The sink is to be done by then.
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! { () = self.go_on() => {}, () = stop.cancelled() => {} }
        let last = timeout(Duration::from_millis(LAST_MS_MAX), self.pass(true)).await;
        if !matches!(last, Ok(Ok(()))) {
            let bytes = self.state.status().waiting_bytes;
            tracing::warn!("{bytes} bytes wait for the archive on this disk until the next start");
        }
    }

    async fn go_on(&self) {
        let mut backoff_ms = BACKOFF_MS_MIN;
        loop {
            let pause_ms = match self.pass(false).await {
                Ok(()) => {
                    self.state.succeeded();
                    backoff_ms = BACKOFF_MS_MIN;
                    CHECK_MS
                }
                Err(error) => {
                    self.state.failed(&error);
                    let pause_ms = backoff_ms;
                    backoff_ms = (backoff_ms * 2).min(BACKOFF_MS_MAX);
                    pause_ms
                }
            };
            let pause = Duration::from_millis(pause_ms);
            if pause_ms == CHECK_MS {
                // Either way it is time to look.
                let _ = timeout(pause, self.full.notified()).await;
            } else {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Seals what is to be sealed, and uploads what is: at the `end`, everything.
    async fn pass(&self, end: bool) -> Result<(), String> {
        loop {
            let now_ms = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
            // What waits takes a fifth of the room when it is sealed, so that this comes first.
            while self.spool.with(move |spool| spool.seal(now_ms, end)).await? {}
            let Some(upload) = self.spool.with(Spool::next_upload).await? else { return Ok(()) };
            self.upload(upload).await?;
            self.keep_within().await;
        }
    }

    async fn upload(&self, mut upload: Upload) -> Result<(), String> {
        for _ in 0..NAMES_MAX {
            let key = upload.key;
            let put = timeout(Duration::from_millis(self.request_ms_max), self.put(&upload)).await;
            let put = put.map_err(|_| format!("{key}: no answer within {} ms", self.request_ms_max))?;
            match put.map_err(|error| format!("{key}: {error}"))? {
                Put::Done => {
                    let name = upload.name;
                    self.spool.with(move |spool| spool.uploaded(name)).await?;
                    self.state.uploaded();
                    tracing::debug!("the archive has {key}");
                    return Ok(());
                }
                Put::Taken => {
                    upload.key = self.free(key).await.map_err(|error| format!("{key}: {error}"))?;
                    let (name, key) = (upload.name, upload.key);
                    self.spool.with(move |spool| spool.rename(name, key)).await?;
                }
            }
        }
        Err(format!("{}: this name and {NAMES_MAX} before it were taken by others", upload.key))
    }

    /// Puts an object, once: what an earlier put of the same has done counts as done.
    async fn put(&self, upload: &Upload) -> Result<Put, Error> {
        let path = Path::from(upload.key.to_string());
        let put =
            self.objects.store.put_opts(&path, upload.bytes.clone().into(), PutMode::Create.into()).await;
        match put {
            Ok(_) => Ok(Put::Done),
            Err(Error::AlreadyExists { .. }) => {
                let there = self.objects.store.get(&path).await?;
                let mut same = there.meta.size == upload.bytes.len() as u64;
                let (mut chunks, mut at) = (there.into_stream(), 0);
                while same && let Some(chunk) = chunks.try_next().await? {
                    same = upload.bytes.get(at..at + chunk.len()).is_some_and(|ours| *ours == chunk);
                    at += chunk.len();
                }
                Ok(if same { Put::Done } else { Put::Taken })
            }
            Err(error) => Err(error),
        }
    }

    /// The first name after all those of its slot and hour that are there.
    async fn free(&self, taken: ObjectKey) -> Result<ObjectKey, Error> {
        let hour = Path::from(taken.hour.directory());
        let mut last = taken;
        let mut objects = self.objects.store.list(Some(&hour));
        while let Some(object) = objects.try_next().await? {
            let key: Option<ObjectKey> = object.location.as_ref().parse().ok();
            if let Some(key) = key.filter(|key| key.slot == taken.slot) {
                last = last.max(key);
            }
        }
        Ok(last.next())
    }

    /// Removes the oldest objects where there are too many.
    async fn keep_within(&self) {
        let (Some(bytes_max), Kind::Directory(directory)) = (self.bytes_max, &self.objects.kind) else {
            return;
        };
        let directory = directory.clone();
        match background::run(NAME, NICENESS, move || space::keep_within(&directory, bytes_max)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) | Err(error) => tracing::warn!("the archive cannot be kept small: {error}"),
        }
    }
}
