//! Brings what the journal keeps to a sink: in batches, again and again until each is stored, or set aside
//! because it never will be.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::archive::{ArchiveState, ArchiveStatus};
use super::{Batch, Sink, SinkError};
use crate::journal::{Journal, JournalError, Lag, Reader};
use crate::metrics::Metrics;

/// The most events in a batch.
pub const BATCH_EVENTS_MAX: usize = 5_000;

/// The most of the journal that goes into a batch, in bytes; one event always does.
pub const BATCH_BYTES_MAX: usize = 4 << 20;

/// How long events are gathered for a batch that is not full, in milliseconds.
pub const BATCH_MS: u64 = 1_000;

/// How long a sink may take for a batch, in milliseconds: it counts as away then.
pub const DELIVER_MS_MAX: u64 = 60_000;

/// The pause before a batch is tried again, in milliseconds: doubled each time, up to the longest.
pub const BACKOFF_MS_MIN: u64 = 500;
/// The longest such pause.
pub const BACKOFF_MS_MAX: u64 = 30_000;

/// How long the last delivery may take when the service stops, in milliseconds.
pub const LAST_MS_MAX: u64 = 3_000;

/// How much of a refused batch is set aside, in bytes, how many batches are, and how much of an error is told.
pub const SET_ASIDE_BYTES_MAX: usize = 1 << 20;
/// Once there are so many, further ones are only counted: the first tell most.
pub const SET_ASIDE_FILES_MAX: usize = 100;
/// What follows is left out.
pub const ERROR_BYTES_MAX: usize = 1_000;

/// How a sink is doing.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SinkStatus {
    /// Which sink.
    pub name: &'static str,
    /// Events in the journal that it has not taken.
    pub lag_events: u64,
    /// How old the oldest of them is, in seconds.
    pub lag_s: u64,
    /// How often it did not take a batch.
    pub failures: u64,
    /// How many batches were set aside.
    pub refused: u64,
    /// When it last took a batch, if it has since the start.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_success: Option<Timestamp>,
    /// Why it did not take the last one, if it did not.
    pub last_error: Option<String>,
}

/// What is known of a sink, for whoever asks.
pub struct SinkState {
    inner: Mutex<Inner>,
    lag: Lag,
}

struct Inner {
    status: SinkStatus,
    /// When the oldest event that waits happened, where that is known.
    oldest_ms: Option<u64>,
}

impl SinkState {
    /// How it is doing now.
    #[must_use]
    pub fn status(&self) -> SinkStatus {
        let inner = self.lock();
        let lag_events = self.lag.events();
        let now_ms = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
        let oldest_ms = inner.oldest_ms.filter(|_| lag_events > 0);
        let lag_s = oldest_ms.map_or(0, |oldest_ms| now_ms.saturating_sub(oldest_ms) / 1_000);
        SinkStatus { lag_events, lag_s, ..inner.status.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts to deliver the journal's events to a sink, until `stop`: then what the journal still has is offered
/// once more, within [`LAST_MS_MAX`]. The journal is to be closed before.
pub fn start(
    journal: &Journal,
    sink: Arc<dyn Sink>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> Result<(Arc<SinkState>, JoinHandle<()>), JournalError> {
    let reader = journal.reader(sink.name())?;
    let status = SinkStatus {
        name: sink.name(),
        lag_events: 0,
        lag_s: 0,
        failures: 0,
        refused: 0,
        last_success: None,
        last_error: None,
    };
    let inner = Mutex::new(Inner { status, oldest_ms: None });
    let state = Arc::new(SinkState { inner, lag: reader.lag() });
    let set_aside = journal.directory().join("set-aside");
    let delivery = Delivery { sink, reader, metrics, state: Arc::clone(&state), set_aside };
    Ok((state, tokio::spawn(delivery.run(stop))))
}

/// The journal and its sinks, for whoever asks; nothing where nothing is written down.
#[derive(Default)]
pub struct RecordsState {
    /// What happened and is kept.
    pub journal: Option<Journal>,
    /// Where it goes.
    pub sinks: Vec<Arc<SinkState>>,
    /// The archive behind the sink of that name, if there is one.
    pub archive: Option<Arc<ArchiveState>>,
    /// Whether IDs are given only to those of whom it can be written down.
    pub required: bool,
}

/// How the journal and its sinks are.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RecordsHealth {
    /// How the journal is; `null` where nothing is written down.
    pub journal: Option<JournalHealth>,
    /// How its sinks are.
    pub sinks: Vec<SinkStatus>,
    /// How the audit archive is; `null` where there is none.
    pub archive: Option<ArchiveStatus>,
}

/// How the journal is.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct JournalHealth {
    /// How much it keeps.
    pub bytes: u64,
    /// How many events it was given, since it was made.
    pub events: u64,
    /// Why events are shed, if they are.
    pub problem: Option<String>,
}

impl RecordsState {
    /// How they are now.
    #[must_use]
    pub fn health(&self) -> RecordsHealth {
        let journal = self.journal.as_ref().map(|journal| JournalHealth {
            bytes: journal.bytes(),
            events: journal.end(),
            problem: journal.trouble(),
        });
        RecordsHealth {
            journal,
            sinks: self.sinks.iter().map(|sink| sink.status()).collect(),
            archive: self.archive.as_ref().map(|archive| archive.status()),
        }
    }

    /// Why nobody gets IDs, where they are given only to those of whom it can be written down.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        self.journal.as_ref().filter(|_| self.required)?.trouble()
    }
}

struct Delivery {
    sink: Arc<dyn Sink>,
    reader: Reader,
    metrics: Arc<Metrics>,
    state: Arc<SinkState>,
    set_aside: PathBuf,
}

impl Delivery {
    async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = self.deliver() => return,
            () = stop.cancelled() => {}
        }
        let last = async { while self.try_next().await == Outcome::Passed {} };
        // Out of time is as good as failed.
        let _ = timeout(Duration::from_millis(LAST_MS_MAX), last).await;
        let (sink, lag) = (self.sink.name(), self.reader.lag().events());
        if lag > 0 {
            tracing::warn!(sink, "{lag} events wait in the journal for the next start");
        }
    }

    /// Delivers until the journal has ended.
    async fn deliver(&mut self) {
        let mut backoff_ms = BACKOFF_MS_MIN;
        loop {
            let started = Instant::now();
            match self.try_next().await {
                Outcome::Ended => return,
                Outcome::Passed => {
                    backoff_ms = BACKOFF_MS_MIN;
                    let full = self.reader.wait_for(BATCH_EVENTS_MAX as u64);
                    // Either way there is a batch to be made, or soon will be.
                    let _ = timeout_at(started + Duration::from_millis(BATCH_MS), full).await;
                }
                Outcome::Failed => {
                    sleep(Duration::from_millis(backoff_ms)).await;
                    backoff_ms = (backoff_ms * 2).min(BACKOFF_MS_MAX);
                }
            }
        }
    }

    /// Offers the next batch to the sink.
    async fn try_next(&mut self) -> Outcome {
        let batch = match self.reader.next_batch(BATCH_EVENTS_MAX, BATCH_BYTES_MAX).await {
            Ok(Some(batch)) => batch,
            Ok(None) => return Outcome::Ended,
            Err(error) => {
                self.failed(&error.to_string());
                return Outcome::Failed;
            }
        };
        self.state.lock().oldest_ms = batch.events.first().map(|event| event.at_ms);
        let delivered = timeout(Duration::from_millis(DELIVER_MS_MAX), self.sink.deliver(&batch)).await;
        match delivered {
            Ok(Ok(())) => self.succeeded(),
            Ok(Err(SinkError::Refused(error))) => self.refused(&batch, &error),
            Ok(Err(SinkError::Unavailable(error))) => {
                self.failed(&error);
                return Outcome::Failed;
            }
            Err(_) => {
                self.failed(&format!("it did not answer within {DELIVER_MS_MAX} ms"));
                return Outcome::Failed;
            }
        }
        if let Err(error) = self.reader.done(&batch).await {
            tracing::warn!(
                sink = self.sink.name(),
                "a batch may be delivered again after a restart: {error}"
            );
        }
        self.state.lock().oldest_ms = None;
        Outcome::Passed
    }

    fn succeeded(&self) {
        let mut inner = self.state.lock();
        inner.status.last_success = Some(Timestamp::now());
        if inner.status.last_error.take().is_some() {
            tracing::info!(sink = self.sink.name(), "the sink takes events again");
        }
    }

    fn failed(&self, error: &str) {
        let error = shortened(error);
        self.metrics.sink_failures.with_label_values(&[self.sink.name()]).inc();
        let mut inner = self.state.lock();
        inner.status.failures += 1;
        if inner.status.last_error.as_deref() != Some(error) {
            tracing::warn!(sink = self.sink.name(), "the sink takes no events, which wait for it: {error}");
            inner.status.last_error = Some(error.to_owned());
        }
    }

    fn refused(&self, batch: &Batch, error: &str) {
        let (sink, error) = (self.sink.name(), shortened(error));
        self.metrics.sink_failures.with_label_values(&[sink]).inc();
        let path = self.set_aside.join(format!("{sink}-{}.json", batch.first));
        match set_aside(&path, sink, batch, error) {
            Ok(()) => {
                tracing::error!(sink, "a batch was refused, and set aside: {}: {error}", path.display());
            }
            Err(unkept) => tracing::error!(sink, "a batch was refused, and is left out: {error} ({unkept})"),
        }
        let mut inner = self.state.lock();
        inner.status.failures += 1;
        inner.status.refused += 1;
        inner.status.last_error = Some(error.to_owned());
    }
}

/// What became of an offer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The batch is stored or set aside.
    Passed,
    /// It is to be tried again.
    Failed,
    /// There is none, and there will be none.
    Ended,
}

fn shortened(error: &str) -> &str {
    &error[..error.floor_char_boundary(ERROR_BYTES_MAX)]
}

/// Writes down what was refused, and why, as far as it fits.
fn set_aside(path: &Path, sink: &str, batch: &Batch, error: &str) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(path);
    fs::create_dir_all(directory)?;
    if fs::read_dir(directory)?.count() >= SET_ASIDE_FILES_MAX {
        return Err(std::io::Error::other(format!(
            "{} has {SET_ASIDE_FILES_MAX} batches already: look at them, and remove them",
            directory.display()
        )));
    }
    let mut bytes = 0;
    let events = batch.events.iter().map_while(|event| to_raw_value(event).ok()).take_while(|json| {
        bytes += json.get().len();
        bytes <= SET_ASIDE_BYTES_MAX
    });
    let contents = SetAside {
        sink,
        error,
        batch: batch.token(),
        first: batch.first,
        count: batch.events.len(),
        events: events.collect(),
    };
    fs::write(path, serde_json::to_vec(&contents)?)
}

/// The form of a refused batch.
#[derive(Serialize)]
struct SetAside<'a> {
    sink: &'a str,
    error: &'a str,
    batch: String,
    first: u64,
    /// How many events it has; those that follow are what of them fits.
    count: usize,
    events: Vec<Box<RawValue>>,
}
