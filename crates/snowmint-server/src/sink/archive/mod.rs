//! The audit archive: every request and every turn in the life of a slot, in objects that never change.
//!
//! A batch becomes records in the spool, on the local disk, and is delivered with that; the uploader brings what
//! the spool has sealed into the archive, one object at a time, and only then is it gone from here. Each slot's
//! records of a journal are one chain, and each object is one piece of it.
//!
//! **Once.** A batch that is offered again finds its records in the spool, or in what the spool remembers of those
//! that are gone: a chain knows the last event that it tells of. An object is put under a name that nobody can
//! take twice, and the name is durable before the first try; as long as it is not known whether a put was done, it
//! is repeated under the same name. If that is taken then, by the same bytes, it was.

mod file;
mod space;
mod spool;
mod state;
#[cfg(test)]
mod tests;
mod told;
mod upload;
mod waiting;

use std::path::Path;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::Serialize;
use snowmint::Layout;
use tokio::sync::{Mutex, Notify};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Batch, Sink, SinkError};
use crate::background;
use crate::metrics::Metrics;
use crate::objects::Objects;
use crate::privacy::Privacy;
use spool::{Limits, Spool, SpoolError};
use told::Teller;

pub use upload::{BACKOFF_MS_MAX, LAST_MS_MAX, REQUEST_MS_MAX, Uploader};
pub use waiting::{Waiting, waiting};

/// The sink's name.
pub const NAME: &str = "archive";

/// Where the spool is, in the journal's directory.
const SPOOL: &str = "archive";

/// How long records of an hour are waited for that is over, in milliseconds: as long as none has come for so long.
pub const GRACE_MS: u64 = 60_000;

/// How far its work stands back where processors are scarce, from 0 to 19: a busy thread beside it gets ten times as
/// much. It is what has to be kept, and stands back less than the metrics store.
const NICENESS: i32 = 10;

/// How an archive is to be kept.
pub struct ArchiveSettings {
    /// What says of IDs which slot they are of.
    pub layout: Layout,
    /// What is told of people.
    pub privacy: Privacy,
    /// How much may wait on the local disk, in bytes. One batch more may be there.
    pub spool_bytes_max: u64,
    /// When an object has enough records, in bytes before they are compressed, which makes a fifth of them.
    pub object_bytes: u64,
    /// How large the archive may get, in bytes, where it is a directory that nobody else looks after.
    pub bytes_max: Option<u64>,
}

/// The audit archive, as a place where events are delivered.
pub struct ArchiveSink {
    spool: Shared,
    /// There is something to be sealed.
    full: Arc<Notify>,
}

/// How the archive is.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ArchiveStatus {
    /// Where it is.
    pub url: String,
    /// What waits on the local disk for its hour to end, or to be uploaded.
    pub waiting_bytes: u64,
    /// How many objects were uploaded since the start.
    pub objects: u64,
    /// When the last was, if there was one.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_upload: Option<Timestamp>,
    /// Why nothing is uploaded, if something should be.
    pub last_error: Option<String>,
}

/// What is known of the archive, for whoever asks.
pub struct ArchiveState {
    status: StdMutex<ArchiveStatus>,
    metrics: Arc<Metrics>,
}

impl ArchiveState {
    /// How it is now.
    #[must_use]
    pub fn status(&self) -> ArchiveStatus {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, ArchiveStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self, bytes: u64) {
        self.lock().waiting_bytes = bytes;
        self.metrics.archive_waiting.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    fn uploaded(&self) {
        let mut status = self.lock();
        status.objects += 1;
        status.last_upload = Some(Timestamp::now());
        self.metrics.archive_objects.inc();
    }

    fn failed(&self, error: &str) {
        self.metrics.archive_failures.inc();
        let mut status = self.lock();
        if status.last_error.as_deref() != Some(error) {
            tracing::warn!("nothing goes into the archive {}, and waits for it: {error}", status.url);
            status.last_error = Some(error.to_owned());
        }
    }

    fn succeeded(&self) {
        let mut status = self.lock();
        if status.last_error.take().is_some() {
            tracing::info!("the archive {} can be written again", status.url);
        }
    }
}

/// The spool, which one at a time works with.
#[derive(Clone)]
struct Shared(Arc<Mutex<Spool>>);

impl Shared {
    /// Works with the spool where it may block. Whoever stops waiting leaves it to be finished.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Spool) -> Result<T, SpoolError> + Send + 'static,
    ) -> Result<T, String> {
        let mut spool = Arc::clone(&self.0).lock_owned().await;
        match background::run(NAME, NICENESS, move || work(&mut spool)).await {
            Ok(done) => done.map_err(|error| error.to_string()),
            Err(error) => Err(format!("there is no thread for the archive's spool: {error}")),
        }
    }
}

/// Opens the archive of a journal that lies in `journal_directory`: what takes its events, and what brings them
/// there once it is started.
#[must_use]
pub fn open(
    journal_directory: &Path,
    journal: Uuid,
    objects: Objects,
    settings: ArchiveSettings,
    metrics: Arc<Metrics>,
) -> (ArchiveSink, Uploader) {
    let status = ArchiveStatus {
        url: objects.url().to_string(),
        waiting_bytes: 0,
        objects: 0,
        last_upload: None,
        last_error: None,
    };
    let state = Arc::new(ArchiveState { status: StdMutex::new(status), metrics });
    let ArchiveSettings { layout, privacy, spool_bytes_max, object_bytes, bytes_max } = settings;
    let (teller, limits) = (Teller { layout, privacy }, Limits { spool_bytes_max, object_bytes });
    let directory = journal_directory.join(SPOOL);
    let spool = Spool::new(directory, journal, teller, limits, Arc::clone(&state));
    let spool = Shared(Arc::new(Mutex::new(spool)));
    let full = Arc::new(Notify::new());
    let sink = ArchiveSink { spool: spool.clone(), full: Arc::clone(&full) };
    (sink, Uploader::new(spool, objects, bytes_max, full, state))
}

#[async_trait]
impl Sink for ArchiveSink {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn deliver(&self, batch: &Batch) -> Result<(), SinkError> {
        let batch = batch.clone();
        // Whatever it is, it is not the batch's fault.
        let full =
            self.spool.with(move |spool| spool.append(&batch)).await.map_err(SinkError::Unavailable)?;
        if full {
            self.full.notify_one();
        }
        Ok(())
    }
}
