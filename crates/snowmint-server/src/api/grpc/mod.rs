//! gRPC: the calls of `snowmint.v1`, health and reflection.

mod calls;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Request;
use http_body_util::Either;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};
use tower_service::Service as _;

use super::connections::{self, Admission, Bounds, Peer};
use super::issue::Issuer;
use crate::config::Limits;
use crate::error::Error;
use crate::event::Events;
use crate::service::Service;
use calls::Calls;
use proto::id_generator_server::IdGeneratorServer;

/// The messages and the service of `snowmint.v1`.
pub mod proto {
    #![allow(
        missing_docs,
        clippy::pedantic,
        clippy::allow_attributes_without_reason,
        unused_qualifications,
        unreachable_pub,
        reason = "generated code"
    )]

    tonic::include_proto!("snowmint.v1");

    /// The contract, as reflection serves it.
    pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("snowmint.v1");
}

/// How many calls one connection may have going at once.
const CALLS_PER_CONNECTION_MAX: u32 = 1_000;

/// After how long a silent client is asked whether it is still there, and how long it has to answer.
const KEEP_ALIVE_S: u64 = 60;
const KEEP_ALIVE_ANSWER_S: u64 = 20;

/// How often the health service looks whether the node may mint, in milliseconds.
const HEALTH_POLL_MS: u64 = 250;

/// Names of the services whose health is told; the empty one is the whole server.
const HEALTH_OF: [&str; 2] = ["", GENERATOR];

/// The service of `snowmint.v1`.
const GENERATOR: &str = <IdGeneratorServer<Calls> as NamedService>::NAME;

/// Serves until `stop`, then until what is in flight is done, for [`DRAIN_MS_MAX`](super::DRAIN_MS_MAX) at most.
pub async fn serve(
    listener: TcpListener,
    service: Arc<Service>,
    events: Arc<Events>,
    limits: Limits,
    stop: CancellationToken,
) {
    let (reporter, health) = tonic_health::server::health_reporter();
    report(&reporter, &service).await;
    let reporting = tokio::spawn(keep_reporting(reporter, Arc::clone(&service), stop.clone()));
    let issuer = Issuer::new(service, events);
    let counted = issuer.clone();
    let calls = Calls::new(issuer, Duration::from_secs(limits.request_s), stop.clone());
    let generator = IdGeneratorServer::new(calls).max_decoding_message_size(limits.body_bytes);
    let router = Routes::new(generator.clone())
        .add_service(health)
        .add_service(reflection())
        .prepare()
        .into_axum_router();
    let answer = move |mut request: Request<Incoming>, peer: Peer| {
        let (mut generator, mut router, issuer) = (generator.clone(), router.clone(), counted.clone());
        async move {
            if peer.admission == Admission::Full {
                let full = Error::too_many_connections(limits.connections);
                issuer.failed(&full, Instant::now(), None);
                return calls::status(&full).into_http().map(Either::Left);
            }
            request.extensions_mut().insert(peer);
            // What a busy service is asked most needs no router.
            let answered = if is_of_generator(request.uri().path()) {
                generator.call(request).await.map(|answer| answer.map(Either::Left))
            } else {
                router.call(request.map(Body::new)).await.map(|answer| answer.map(Either::Right))
            };
            // Neither ever fails: their errors are answers.
            answered.unwrap_or_else(|never| match never {})
        }
    };
    let bounds = Bounds {
        connections: limits.connections,
        first_request: Duration::from_secs(limits.header_s),
        // The protocol's own pings find out who is gone.
        idle: None,
    };
    connections::serve(listener, protocol(&limits), answer, bounds, stop).await;
    if let Err(error) = reporting.await {
        tracing::error!("the health reporter failed: {error}");
    }
}

/// Whether a call is one of `snowmint.v1`.
fn is_of_generator(path: &str) -> bool {
    path.strip_prefix('/')
        .and_then(|path| path.strip_prefix(GENERATOR))
        .is_some_and(|call| call.starts_with('/'))
}

fn reflection() -> ServerReflectionServer<impl ServerReflection> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the descriptors come from the compiler")
}

fn protocol(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut protocol = auto::Builder::new(TokioExecutor::new()).http2_only();
    protocol
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(CALLS_PER_CONNECTION_MAX)
        .max_header_list_size(limits.header_bytes.try_into().unwrap_or(u32::MAX))
        .keep_alive_interval(Duration::from_secs(KEEP_ALIVE_S))
        .keep_alive_timeout(Duration::from_secs(KEEP_ALIVE_ANSWER_S));
    protocol
}

async fn keep_reporting(mut reporter: HealthReporter, service: Arc<Service>, stop: CancellationToken) {
    let mut polls = tokio::time::interval(Duration::from_millis(HEALTH_POLL_MS));
    let mut told = service.unready().is_none();
    while stop.run_until_cancelled(polls.tick()).await.is_some() {
        let serving = service.unready().is_none();
        if serving != std::mem::replace(&mut told, serving) {
            report(&reporter, &service).await;
        }
    }
    // Whoever watches is told, and then that there is nothing more to watch: a watch would never end.
    for name in HEALTH_OF {
        reporter.set_service_status(name, ServingStatus::NotServing).await;
        reporter.clear_service_status(name).await;
    }
}

async fn report(reporter: &HealthReporter, service: &Service) {
    let status = if service.unready().is_none() { ServingStatus::Serving } else { ServingStatus::NotServing };
    for name in HEALTH_OF {
        reporter.set_service_status(name, status).await;
    }
}
