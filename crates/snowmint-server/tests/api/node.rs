//! Starts the service inside the test, on ports of its own, with a registry in a directory of its own.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use jiff::Timestamp;
use serde_json::Value;
use snowmint::{Layout, SequenceStart, Split};
use snowmint_server::api;
use snowmint_server::clock::{ClockSettings, HostTime, ServingClock};
use snowmint_server::config::Limits;
use snowmint_server::event::{Events, Keeping};
use snowmint_server::lease::{Holding, Lease, LeaseSettings};
use snowmint_server::metrics::Metrics;
use snowmint_server::registry::{EmbeddedRegistry, Namespace, Owner, Registry, Worker};
use snowmint_server::report::Reports;
use snowmint_server::service::Service;
use snowmint_server::settings::Settings;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const WINDOW_MS: u64 = 10_000;
const WAIT_MS_MAX: u64 = 2_000;

/// A running node.
pub struct Node {
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    pub resp: SocketAddr,
    /// What happened, where somebody asked for it to be kept: the test is who writes it down.
    pub events: Arc<Events>,
    client: Client<HttpConnector, Full<Bytes>>,
    lease: Option<Lease>,
    holding: Arc<Holding>,
    stop: CancellationToken,
    /// The slot goes last.
    retire: CancellationToken,
    front_ends: Vec<JoinHandle<()>>,
    _data: TempDir,
}

/// What a node answered.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.body))
    }

    /// The error it has to be, by its stable code, in the one shape of errors.
    pub fn error(&self) -> (StatusCode, String, String) {
        let json = self.json();
        let error = &json["error"];
        let text =
            |name: &str| error[name].as_str().unwrap_or_else(|| panic!("no {name} in {json}")).to_owned();
        assert_eq!(text("request_id"), self.headers["x-request-id"].to_str().unwrap());
        text("timestamp").parse::<Timestamp>().unwrap();
        (self.status, text("code"), text("message"))
    }
}

impl Node {
    /// A node that has its slot.
    pub async fn start() -> Self {
        Self::start_with(Limits::default()).await
    }

    /// A node with other limits.
    pub async fn start_with(limits: Limits) -> Self {
        let mut node = Self::start_without_slot(limits).await;
        node.take_slot().await;
        node
    }

    /// A node that serves, and does not ask for a slot yet.
    pub async fn start_without_slot(limits: Limits) -> Self {
        Self::start_showing(limits, None).await
    }

    /// The same, whose `/cluster` shows another registry than the one it uses.
    pub async fn start_showing(limits: Limits, shown: Option<Arc<dyn Registry>>) -> Self {
        Self::start_of(limits, shown, None, Keeping::Off).await
    }

    /// A node that has its slot, and whose events are kept.
    pub async fn start_keeping(keeping: Keeping) -> Self {
        let mut node = Self::start_of(Limits::default(), None, None, keeping).await;
        node.take_slot().await;
        node
    }

    /// A node that serves `reports`, and does not ask for a slot yet.
    pub async fn start_reporting(reports: Arc<dyn Reports>) -> Self {
        Self::start_of(Limits::default(), None, Some(reports), Keeping::Off).await
    }

    async fn start_of(
        limits: Limits,
        shown: Option<Arc<dyn Registry>>,
        reports: Option<Arc<dyn Reports>>,
        keeping: Keeping,
    ) -> Self {
        let data = TempDir::new().unwrap();
        let layout = Layout::default();
        let namespace = Namespace {
            cluster_id: Uuid::new_v4(),
            epoch_ms: layout.epoch_ms(),
            layout: Split::DEFAULT,
            max_sequence: Split::DEFAULT.max_sequence(),
            clock_drift_threshold_ms: 100,
        };
        let registry: Arc<dyn Registry> = Arc::new(EmbeddedRegistry::new(data.path()).unwrap());
        registry.open(&namespace).await.unwrap();
        let shared = Arc::new(Settings::new(namespace, None));
        let clock = Arc::new(ServingClock::start(Arc::new(HostTime), ClockSettings::default()).unwrap());
        let (metrics, holding) = (Arc::new(Metrics::new()), Arc::new(Holding::new(NonZeroU16::MIN)));
        let service = Arc::new(Service::new(
            Arc::clone(&clock),
            Arc::clone(&holding),
            Arc::clone(&metrics),
            Arc::clone(&shared),
            layout,
            WAIT_MS_MAX,
        ));
        let (http_listener, http) = listener().await;
        let (grpc_listener, grpc) = listener().await;
        let (resp_listener, resp) = listener().await;
        let events = Arc::new(Events::new(Arc::clone(&metrics), keeping));
        let settings = lease_settings(layout, http, Arc::clone(&shared), Arc::clone(&events));
        let lease = Lease::new(Arc::clone(&registry), clock, Arc::clone(&holding), metrics, settings);
        let stop = CancellationToken::new();
        let shown = shown.unwrap_or(registry);
        let shown = api::http::Shown {
            registry: shown,
            registry_name: "embedded".to_owned(),
            settings: shared,
            reports,
            records: Arc::default(),
        };
        let state = api::http::State::new(Arc::clone(&service), Arc::clone(&events), shown, limits.clone());
        let front_ends = vec![
            tokio::spawn(api::http::serve(http_listener, state, stop.clone())),
            tokio::spawn(api::grpc::serve(
                grpc_listener,
                Arc::clone(&service),
                Arc::clone(&events),
                limits.clone(),
                stop.clone(),
            )),
            tokio::spawn(api::resp::serve(resp_listener, service, Arc::clone(&events), limits, stop.clone())),
        ];
        let client = Client::builder(TokioExecutor::new()).build(HttpConnector::new());
        Self {
            http,
            grpc,
            resp,
            events,
            client,
            lease: Some(lease),
            holding,
            stop,
            retire: CancellationToken::new(),
            front_ends,
            _data: data,
        }
    }

    /// Claims a slot and waits for it.
    pub async fn take_slot(&mut self) {
        let mut changes = self.holding.changes();
        let lease = self.lease.take().expect("a node takes its slot once");
        tokio::spawn(lease.run(self.retire.clone()));
        changes.changed().await.unwrap();
    }

    /// Tells the front ends to stop, and waits until they have.
    pub async fn stop(self) {
        self.stop.cancel();
        for front_end in self.front_ends {
            front_end.await.unwrap();
        }
        self.retire.cancel();
    }

    /// Tells the front ends to stop.
    pub fn begin_to_stop(&self) {
        self.stop.cancel();
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path).body(Full::default()).unwrap()).await
    }

    pub async fn post(&self, path: &str, json: impl Into<Bytes>) -> Answer {
        let request = self.request(Method::POST, path).header("content-type", "application/json");
        self.send(request.body(Full::new(json.into())).unwrap()).await
    }

    pub fn request(&self, method: Method, path: &str) -> hyper::http::request::Builder {
        Request::builder().method(method).uri(format!("http://{}{path}", self.http))
    }

    pub async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let answering = async {
            let (parts, body) = self.client.request(request).await.unwrap().into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            Answer { status: parts.status, headers: parts.headers, body }
        };
        tokio::time::timeout(Duration::from_secs(30), answering).await.expect("an answer within 30 s")
    }
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn lease_settings(
    layout: Layout,
    at: SocketAddr,
    shared: Arc<Settings>,
    events: Arc<Events>,
) -> LeaseSettings {
    LeaseSettings {
        layout,
        worker: Worker {
            hostname: "test".to_owned(),
            ip: at.ip().to_string(),
            port: at.port(),
            started_at: Timestamp::now(),
            version: "0".to_owned(),
            owner: Owner { node: "test".to_owned(), instance: Uuid::new_v4() },
        },
        datacenter: 0,
        fixed_worker: None,
        window_ms: WINDOW_MS,
        grace_s: 3_600,
        reuse_cooling: false,
        idle_days_max: 365,
        sequence_start: SequenceStart::default(),
        shared,
        mark: None,
        events,
    }
}
