//! A ClickHouse with the schema in it, as a sink and as a store that answers.

use std::env;

use async_trait::async_trait;
use snowmint::{DEFAULT_EPOCH_MS, Layout, Split};
use snowmint_server::clickhouse::{ClickHouse, schema};
use snowmint_server::config::{self, Detail};
use snowmint_server::report::clickhouse::ClickHouseReports;
use snowmint_server::report::{Report, ReportError, Reports, Rows, Scope};
use snowmint_server::sink::clickhouse::ClickHouseSink;
use snowmint_server::sink::{Batch, Sink, SinkError};
use tempfile::TempDir;
use uuid::Uuid;

pub struct Store {
    pub server: test_servers::ClickHouse,
    pub clickhouse: ClickHouse,
    pub sink: ClickHouseSink,
    pub reports: ClickHouseReports,
    pub config: config::ClickHouse,
    _directory: TempDir,
}

impl Store {
    /// With the schema.
    pub async fn start() -> Self {
        let store = Self::start_empty().await;
        schema::apply(&store.clickhouse, None).await.unwrap();
        store
    }

    /// In a database of its own, as a user with a password.
    pub async fn start_empty() -> Self {
        let server = test_servers::ClickHouse::start().await;
        let directory = tempfile::tempdir().unwrap();
        let password_file = directory.path().join("password");
        let (user, password) = test_servers::ClickHouse::USER;
        std::fs::write(&password_file, format!("{password}\n")).unwrap();
        let ours = env::var_os(test_servers::URL_VARIABLE).is_none();
        let config = config::ClickHouse {
            url: Some(server.url()),
            database: format!("snowmint_test_{}", Uuid::new_v4().simple()),
            user: ours.then(|| user.to_owned()),
            password_file: ours.then_some(password_file),
            ca_file: None,
        };
        let clickhouse = ClickHouse::new(&config).unwrap();
        let sink = sink(&clickhouse, Detail::Every);
        let reports = ClickHouseReports::new(clickhouse.clone());
        Self { server, clickhouse, sink, reports, config, _directory: directory }
    }

    /// The one value that a query answers with, as text.
    pub async fn one(&self, sql: &str) -> String {
        let rows = self.clickhouse.rows(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(rows.len(), 1, "{sql}: {rows:?}");
        let values: Vec<String> = rows[0].iter().map(ToString::to_string).collect();
        values.join(" ")
    }

    /// Merges every table, as far as it goes.
    pub async fn merge(&self) {
        schema::optimize(&self.clickhouse).await.unwrap();
    }
}

pub fn sink(clickhouse: &ClickHouse, detail: Detail) -> ClickHouseSink {
    let layout = Layout::new(Split::DEFAULT, DEFAULT_EPOCH_MS).unwrap();
    ClickHouseSink::new(clickhouse.clone(), layout, detail)
}

#[async_trait]
impl Sink for Store {
    fn name(&self) -> &'static str {
        self.sink.name()
    }

    async fn deliver(&self, batch: &Batch) -> Result<(), SinkError> {
        self.sink.deliver(batch).await
    }
}

#[async_trait]
impl Reports for Store {
    fn name(&self) -> String {
        self.reports.name()
    }

    async fn report(&self, report: Report, scope: &Scope) -> Result<Rows, ReportError> {
        self.reports.report(report, scope).await
    }
}
