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
use crate::report::Reports;
use crate::report::clickhouse::ClickHouseReports;
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
}

impl Records {
    /// Opens the journal and starts to deliver from it. Where nothing is written down there is neither.
    pub(super) fn start(config: &Config, layout: Layout, metrics: &Arc<Metrics>) -> Result<Self, ServeError> {
        let stop = CancellationToken::new();
        let (keeping, durability) = match config.journal.durability {
            Durability::Off => return Ok(Self::off(metrics, stop)),
            Durability::Relaxed => (Keeping::Relaxed, journal::Durability::Relaxed),
            Durability::Strict => (Keeping::Strict, journal::Durability::Strict),
        };
        let events = Arc::new(Events::new(Arc::clone(metrics), keeping));
        let (sink, reports) = store(config, layout)?;
        let config::Journal { flush_ms, max_bytes, .. } = config.journal;
        let settings = JournalSettings { durability, flush_ms, max_bytes };
        let journal = Journal::open_first_free(&config.data_dir, settings, &[sink.name()], &events, metrics)?;
        let (sink, delivery) = delivery::start(&journal, sink, Arc::clone(metrics), stop.clone())?;
        let state = RecordsState { journal: Some(journal), sinks: vec![sink] };
        Ok(Self { events, state: Arc::new(state), reports: Some(reports), deliveries: vec![delivery], stop })
    }

    fn off(metrics: &Arc<Metrics>, stop: CancellationToken) -> Self {
        let events = Arc::new(Events::new(Arc::clone(metrics), Keeping::Off));
        Self { events, state: Arc::default(), reports: None, deliveries: Vec::new(), stop }
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
    }
}

/// One store, as what is written to and as what answers.
type Store = (Arc<dyn Sink>, Arc<dyn Reports>);

/// The metrics store that the configuration names: ClickHouse, or else the one in the data directory.
fn store(config: &Config, layout: Layout) -> Result<Store, ServeError> {
    if config.clickhouse.url.is_none() {
        let store = Arc::new(EmbeddedStore::new(&config.data_dir, config.metrics.clone()));
        return Ok((Arc::clone(&store) as Arc<dyn Sink>, store));
    }
    let clickhouse = ClickHouse::new(&config.clickhouse)?;
    let sink = ClickHouseSink::new(clickhouse.clone(), layout, config.metrics.detail);
    Ok((Arc::new(sink), Arc::new(ClickHouseReports::new(clickhouse))))
}
