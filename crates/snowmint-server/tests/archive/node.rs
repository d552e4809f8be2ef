//! A node as far as the archive is concerned: a directory, a sink and an uploader.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::http::HeaderValue;
use snowmint::{Id, IdRange, Layout, Slot};
use snowmint_server::event::{Api, Event, Failed, Issued, Request, What};
use snowmint_server::metrics::Metrics;
use snowmint_server::objects::Objects;
use snowmint_server::privacy::Privacy;
use snowmint_server::sink::archive::{self, ArchiveSettings, ArchiveSink, ArchiveState};
use snowmint_server::sink::{Batch, Sink, SinkError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// 2024-01-03, 19:00.
pub const HOUR_MS: u64 = 1_704_308_400_000;

pub const SLOT: Slot = Slot { datacenter: 0, worker: 5 };

/// How long a request of the store may take, in milliseconds.
const REQUEST_MS_MAX: u64 = 2_000;

/// How often it is stopped until all is uploaded.
const STOPS_MAX: u32 = 20;

pub fn settings() -> ArchiveSettings {
    ArchiveSettings {
        layout: Layout::default(),
        privacy: Privacy::keep(),
        spool_bytes_max: 1 << 30,
        object_bytes: 10_000,
        bytes_max: None,
    }
}

pub struct Node {
    pub sink: ArchiveSink,
    pub state: Arc<ArchiveState>,
    pub journal: Uuid,
    next: u64,
    directory: PathBuf,
    objects: Objects,
    uploads: JoinHandle<()>,
    stop: CancellationToken,
}

impl Node {
    /// Starts on a directory, with a journal that has `next` events already.
    pub fn start(directory: &Path, journal: Uuid, next: u64, objects: Objects) -> Self {
        Self::start_with(directory, journal, next, objects, settings())
    }

    pub fn start_with(
        directory: &Path,
        journal: Uuid,
        next: u64,
        objects: Objects,
        settings: ArchiveSettings,
    ) -> Self {
        let metrics = Arc::new(Metrics::new());
        let (sink, uploader) = archive::open(directory, journal, objects.clone(), settings, metrics);
        let (state, stop) = (uploader.state(), CancellationToken::new());
        let uploads = tokio::spawn(uploader.request_ms_max(REQUEST_MS_MAX).run(stop.clone()));
        Self { sink, state, journal, next, directory: directory.to_owned(), objects, uploads, stop }
    }

    /// Delivers events.
    pub async fn deliver(&mut self, events: Vec<Event>) {
        let batch = Batch { journal: self.journal, first: self.next, events };
        self.next = batch.end();
        self.sink.deliver(&batch).await.unwrap();
    }

    /// Offers events that may not be taken.
    pub async fn offer(&mut self, events: Vec<Event>) -> Result<(), SinkError> {
        let batch = Batch { journal: self.journal, first: self.next, events };
        self.sink.deliver(&batch).await?;
        self.next = batch.end();
        Ok(())
    }

    /// The number of the next event.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Ends it as `kill -9` does, as far as that can be seen from here.
    pub fn kill(self) {
        self.uploads.abort();
    }

    /// Stops it as the service does. What that does not manage in its time, a start does.
    pub async fn stop(mut self) {
        for _ in 0..STOPS_MAX {
            self.stop.cancel();
            self.uploads.await.unwrap();
            if super::spool_files(&self.directory) == 1 {
                return;
            }
            self = Self::start(&self.directory, self.journal, self.next, self.objects.clone());
        }
        panic!("it is not uploaded");
    }
}

pub fn request() -> Request {
    Request::new(
        Some([192, 168, 1, 100].into()),
        Some(&HeaderValue::from_static("MyApp/1.0")),
        &HeaderValue::from_static("req-123456"),
        Api::Rest,
    )
}

/// A request that got so many IDs.
pub fn issued(at_ms: u64, slot: Slot, count: u32) -> Event {
    let parts = at_ms - Layout::default().epoch_ms();
    let slot_bits = u64::from(slot.datacenter) << 17 | u64::from(slot.worker) << 12;
    let range = IdRange::new(Id::new(parts << 22 | slot_bits).unwrap(), count).unwrap();
    let issued = Issued { slot, ranges: [range].into(), latency_us: 55, queue_us: 10, request: request() };
    Event { at_ms, what: What::Issued(issued) }
}

pub fn failed(at_ms: u64) -> Event {
    let failed =
        Failed { slot: None, code: 3002, message: "no slot".into(), latency_us: 7, request: request() };
    Event { at_ms, what: What::Failed(failed) }
}
