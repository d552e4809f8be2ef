//! Where events go: the journal, the metrics store behind it, and the reports that come from there.

use std::sync::Arc;

use snowmint::Layout;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::ServeError;
use crate::clickhouse::ClickHouse;
use crate::config::{self, Config, Durability};
use crate::event::{Events, Keeping};
use crate::journal::{self, Journal, JournalSettings};
use crate::metrics::Metrics;
use crate::objects::Objects;
use crate::privacy::Privacy;
use crate::report::Reports;
use crate::report::clickhouse::ClickHouseReports;
use crate::sink::archive::{self, ArchiveSettings, Uploader};
use crate::sink::clickhouse::ClickHouseSink;
use crate::sink::delivery::{self, RecordsState};
use crate::sink::{EmbeddedStore, Sink};

/// Everything that keeps what happened.
pub(super) struct Records {
    events: Arc<Events>,
    state: Arc<RecordsState>,
    reports: Option<Arc<dyn Reports>>,
    deliveries: Vec<JoinHandle<()>>,
    stop: CancellationToken,
    uploads: Option<JoinHandle<()>>,
    stop_uploads: CancellationToken,
}

impl Records {
    /// Opens the journal and starts to deliver from it. Where nothing is written down there is neither.
    pub(super) fn start(config: &Config, layout: Layout, metrics: &Arc<Metrics>) -> Result<Self, ServeError> {
        let stop = CancellationToken::new();
        let (keeping, durability) = match config.journal.durability {
            Durability::Off => return Ok(Self::off(metrics, stop)),
            Durability::Relaxed if config.audit.required => (Keeping::Strict, journal::Durability::Relaxed),
            Durability::Relaxed => (Keeping::Relaxed, journal::Durability::Relaxed),
            Durability::Strict => (Keeping::Strict, journal::Durability::Strict),
        };
        let archive = config.archive().map(|url| Objects::open(&url, &config.s3)).transpose()?;
        let events = Arc::new(Events::new(Arc::clone(metrics), keeping));
        let privacy = Privacy::new(&config.audit)?;
        let (store, reports) = store(config, layout, privacy.clone())?;
        let config::Journal { flush_ms, max_bytes, .. } = config.journal;
        let settings = JournalSettings { durability, flush_ms, max_bytes };
        let names = [Some(store.name()), archive.as_ref().map(|_| archive::NAME)];
        let names: Vec<_> = names.into_iter().flatten().collect();
        let journal = Journal::open_first_free(&config.data_dir, settings, &names, &events, metrics)?;
        let archive = archive.map(|objects| {
            let settings = archive_settings(config, layout, privacy);
            archive::open(journal.directory(), journal.id(), objects, settings, Arc::clone(metrics))
        });
        let (archive, uploader) = archive.unzip();
        let mut records = Self { reports: Some(reports), ..Self::new(events, stop) };
        let mut sinks = Vec::new();
        for sink in [Some(store), archive.map(|sink| Arc::new(sink) as Arc<dyn Sink>)].into_iter().flatten() {
            let (sink, delivery) =
                delivery::start(&journal, sink, Arc::clone(metrics), records.stop.clone())?;
            sinks.push(sink);
            records.deliveries.push(delivery);
        }
        let required = config.audit.required;
        let archive = uploader.as_ref().map(Uploader::state);
        records.state = Arc::new(RecordsState { journal: Some(journal), sinks, archive, required });
        records.uploads = uploader.map(|uploader| tokio::spawn(uploader.run(records.stop_uploads.clone())));
        Ok(records)
    }

    fn off(metrics: &Arc<Metrics>, stop: CancellationToken) -> Self {
        Self::new(Arc::new(Events::new(Arc::clone(metrics), Keeping::Off)), stop)
    }

    fn new(events: Arc<Events>, stop: CancellationToken) -> Self {
        Self {
            events,
            state: Arc::default(),
            reports: None,
            deliveries: Vec::new(),
            stop,
            uploads: None,
            stop_uploads: CancellationToken::new(),
        }
    }

    /// Where events are taken.
    pub(super) fn events(&self) -> &Arc<Events> {
        &self.events
    }

    /// How the journal and its sinks are.
    pub(super) fn state(&self) -> Arc<RecordsState> {
        Arc::clone(&self.state)
    }

    /// Who answers reports, if anybody does.
    pub(super) fn reports(&self) -> Option<Arc<dyn Reports>> {
        self.reports.clone()
    }

    /// Writes down what is still to be, and offers it to the sinks once more. All of it is bounded.
    pub(super) async fn stop(self) {
        if let Some(journal) = &self.state.journal
            && !journal.close().await
        {
            tracing::warn!("the journal did not end in time: its last events may be lost");
        }
        self.stop.cancel();
        for delivery in self.deliveries {
            super::ended(delivery).await;
        }
        // What the sink has taken last is to be in the archive, too.
        self.stop_uploads.cancel();
        if let Some(uploads) = self.uploads {
            super::ended(uploads).await;
        }
    }
}

/// One store, as what is written to and as what answers.
type Store = (Arc<dyn Sink>, Arc<dyn Reports>);

/// The metrics store that the configuration names: ClickHouse, or else the one in the data directory.
fn store(config: &Config, layout: Layout, privacy: Privacy) -> Result<Store, ServeError> {
    if config.clickhouse.url.is_none() {
        let store = Arc::new(EmbeddedStore::new(&config.data_dir, config.metrics.clone()).privacy(privacy));
        return Ok((Arc::clone(&store) as Arc<dyn Sink>, store));
    }
    let clickhouse = ClickHouse::new(&config.clickhouse)?;
    let sink = ClickHouseSink::new(clickhouse.clone(), layout, config.metrics.detail).privacy(privacy);
    Ok((Arc::new(sink), Arc::new(ClickHouseReports::new(clickhouse))))
}

fn archive_settings(config: &Config, layout: Layout, privacy: Privacy) -> ArchiveSettings {
    let config::Audit { max_bytes, spool_max_bytes, object_bytes, .. } = config.audit;
    // What somebody put elsewhere is theirs to keep small.
    let bytes_max = config.audit.url.is_none().then_some(max_bytes);
    ArchiveSettings { layout, privacy, spool_bytes_max: spool_max_bytes, object_bytes, bytes_max }
}
