//! REST, the probes and the metrics, over HTTP/1.1.

mod body;
mod extract;
mod failure;
mod idempotency;
mod reports;
mod routes;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use axum::body::{Body, Bytes};
use axum::http::header::{CONNECTION, USER_AGENT};
use axum::http::{HeaderValue, Method, Request, Response};
use axum::response::IntoResponse;
use futures_util::{FutureExt, future};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioExecutor;
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;

use super::connections::{self, Admission, Bounds, Peer};
use super::issue::Issuer;
use super::request_id::{RequestIds, X_REQUEST_ID};
use crate::cluster::Cluster;
use crate::config::Limits;
use crate::error::{Code, Error};
use crate::event::{self, Api, Events};
use crate::registry::Registry;
use crate::report::Reports;
use crate::service::Service;
use crate::settings::Settings;
use crate::sink::delivery::RecordsState;
use failure::Failure;
use idempotency::Answers;

/// How long a connection may be idle between two requests, in seconds: up to twice that passes.
const IDLE_S: u64 = 60;

/// The smallest read buffer that hyper can be limited to, in bytes.
const HEADER_BYTES_MIN: usize = 8_192;

/// What the handlers work with.
struct App {
    issuer: Issuer,
    shown: Shown,
    /// What the registry had when it was last shown.
    cluster: ArcSwapOption<Cluster>,
    answers: Answers,
    openapi: utoipa::openapi::OpenApi,
}

/// What is shown beside IDs.
pub struct Shown {
    /// What `/cluster` shows.
    pub registry: Arc<dyn Registry>,
    /// What it is called.
    pub registry_name: String,
    /// The settings that nodes share.
    pub settings: Arc<Settings>,
    /// The metrics store that `/reports` asks, if there is one.
    pub reports: Option<Arc<dyn Reports>>,
    /// The journal and its sinks, for `/health`.
    pub records: Arc<RecordsState>,
}

/// An answer's body: one piece as it is, or whatever the router gives.
type AnswerBody = Either<Full<Bytes>, Body>;

/// The REST front end, before it has a listener.
#[derive(Clone)]
pub struct State(Arc<FrontEnd>);

struct FrontEnd {
    app: Arc<App>,
    router: axum::Router,
    request_ids: RequestIds,
    limits: Limits,
}

impl State {
    /// A front end for `service`, which has its events taken by `events`.
    #[must_use]
    pub fn new(service: Arc<Service>, events: Arc<Events>, shown: Shown, limits: Limits) -> Self {
        let (router, openapi) = routes::routes(limits.body_bytes);
        let answers = Answers::new(limits.idempotency_keys);
        let cluster = ArcSwapOption::empty();
        let issuer = Issuer::new(service, events);
        let app = Arc::new(App { issuer, shown, cluster, answers, openapi });
        let router = router.with_state(Arc::clone(&app));
        Self(Arc::new(FrontEnd { app, router, request_ids: RequestIds::new(), limits }))
    }
}

/// Serves until `stop`, then until what is in flight is done, for [`DRAIN_MS_MAX`](super::DRAIN_MS_MAX) at most.
pub async fn serve(listener: TcpListener, state: State, stop: CancellationToken) {
    let limits = &state.0.limits;
    let mut protocol = auto::Builder::new(TokioExecutor::new()).http1_only();
    protocol
        .http1()
        .max_buf_size(limits.header_bytes.max(HEADER_BYTES_MIN))
        // Most answers are small: one write of one piece is cheaper than one of two.
        .writev(false)
        // The bounds below do that with one timer a connection instead of one a request.
        .header_read_timeout(None);
    let bounds = Bounds {
        connections: limits.connections,
        first_request: Duration::from_secs(limits.header_s),
        idle: Some(Duration::from_secs(IDLE_S)),
    };
    let answer = move |request, peer: Peer| {
        if peer.admission == Admission::Granted
            && let Some(response) = state.0.answer_now(&request, peer)
        {
            return future::Either::Left(future::ready(response));
        }
        let state = state.clone();
        // In a box: its state is large, and would be copied several times even when it is not needed.
        future::Either::Right(Box::pin(async move { state.0.answer(request, peer).await }))
    };
    connections::serve(listener, protocol, answer, bounds, stop).await;
}

impl FrontEnd {
    /// What a busy service is asked most, one ID in the usual form, needs neither a router nor, mostly, a wait.
    fn answer_now(&self, request: &Request<Incoming>, peer: Peer) -> Option<Response<AnswerBody>> {
        let uri = request.uri();
        if request.method() != Method::GET || uri.path() != routes::ONE_ID || uri.query().is_some() {
            return None;
        }
        let request_id = self.request_ids.of(request.headers());
        let id = self.app.issuer.id_now(|| Some(asker(peer, request, &request_id)))?;
        let mut response = routes::one_id(id, self.app.service()).map(Either::Left);
        response.headers_mut().insert(X_REQUEST_ID, request_id);
        Some(response)
    }

    async fn answer(&self, mut request: Request<Incoming>, peer: Peer) -> Response<AnswerBody> {
        let arrived = Instant::now();
        let request_id = self.request_ids.of(request.headers());
        let asker = self.app.issuer.asks_who().then(|| asker(peer, &request, &request_id));
        request.extensions_mut().insert(Asker(asker.clone()));
        let mut response = match AssertUnwindSafe(self.dispatch(request, peer.admission)).catch_unwind().await
        {
            Ok(response) => response,
            Err(_panic) => {
                // The panic hook has logged what and where.
                tracing::error!(request_id = ?request_id, "a request panicked");
                let message = "the service failed at this request; its log says how";
                Failure(Error::new(Code::Internal, message)).into_response().map(Either::Right)
            }
        };
        if let Some(Failure(error)) = response.extensions_mut().remove() {
            self.app.issuer.failed(&error, arrived, asker);
            failure::write(&error, &request_id, self.app.service().now_ms(), &mut response);
        }
        response.headers_mut().insert(X_REQUEST_ID, request_id);
        response
    }

    async fn dispatch(&self, request: Request<Incoming>, admission: Admission) -> Response<AnswerBody> {
        if admission == Admission::Full {
            let full = Error::too_many_connections(self.limits.connections);
            let mut response = Failure(full).into_response();
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            return response.map(Either::Right);
        }
        let limit = Duration::from_secs(self.limits.request_s);
        // A router never fails: its errors are answers.
        let response = match tokio::time::timeout(limit, self.router.clone().call(request)).await {
            Ok(response) => response.unwrap_or_else(|never| match never {}),
            Err(_late) => Failure(Error::too_slow(self.limits.request_s)).into_response(),
        };
        response.map(Either::Right)
    }
}

impl App {
    fn service(&self) -> &Service {
        self.issuer.service()
    }
}

/// Who asks, where that is wanted; found in a request's extensions.
#[derive(Clone)]
struct Asker(Option<event::Request>);

fn asker(peer: Peer, request: &Request<Incoming>, request_id: &HeaderValue) -> event::Request {
    event::Request::new(Some(peer.ip), request.headers().get(USER_AGENT), request_id, Api::Rest)
}

/// A header's value that is made of visible ASCII.
fn header(value: impl std::fmt::Display) -> HeaderValue {
    HeaderValue::try_from(value.to_string()).expect("only called with numbers")
}
