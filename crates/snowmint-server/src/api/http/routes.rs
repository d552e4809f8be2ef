//! The calls: each with its handler and its description, side by side.

use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use axum::response::IntoResponse;
use axum::{Extension, Json, Router};
use http_body_util::Full;
use jiff::Timestamp;
use serde::Serialize;
use snowmint::{ComposeError, Format, Id};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::{
    BatchRequest, Bounds, BoundsParams, Form, Many, ManyParams, One, OneParams, ParseFormat, ParseParams,
    ParseRequest, Parsed, Ranges, RangesParams,
};
use super::extract::{self, BodyLimit, Params};
use super::failure::{ErrorBody, Failure, Failures};
use super::idempotency::Batch;
use super::reports::{self, ReportParams};
use super::{App, Asker};
use crate::api::request::{self, Origin};
use crate::cluster::Cluster;
use crate::error::{Code, Error};
use crate::metrics;
use crate::registry::timestamp;
use crate::service::{BATCH_IDS_MAX, Health, RANGE_IDS_MAX, Service};
use crate::sink::delivery::RecordsHealth;

/// The path of the call for one ID.
pub(super) const ONE_ID: &str = "/api/v1/id";

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The bytes an answer with one ID takes, about.
const ONE_BYTES: usize = 192;

/// The bytes that a row of a report takes, about.
const REPORTED_BYTES: usize = 160;

/// The bytes that one ID of a list takes in the longest form, about.
const LISTED_BYTES: usize = 22;

type AppState = State<Arc<App>>;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "snowmint",
        description = "64-bit, time-ordered IDs that are never given twice.\n\nEvery answer carries `X-Request-Id`: \
                       the request's, or one that was made. Errors have one shape and stable codes. Request headers \
                       beyond the limit are answered with 431 and no body.",
        license(name = "MIT OR Apache-2.0")
    ),
    components(schemas(ErrorBody))
)]
struct Description;

/// All calls, and the description of what is served.
pub(super) fn routes(body_bytes_max: usize) -> (Router<Arc<App>>, utoipa::openapi::OpenApi) {
    let (router, openapi) = OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(get_id))
        .routes(routes!(get_ids))
        .routes(routes!(post_batch))
        .routes(routes!(get_ranges))
        .routes(routes!(get_parse, post_parse))
        .routes(routes!(get_bounds))
        .routes(routes!(get_health))
        .routes(routes!(get_cluster))
        .routes(routes!(get_report))
        .routes(routes!(get_openapi))
        .routes(routes!(livez))
        .routes(routes!(readyz))
        .routes(routes!(get_metrics))
        .split_for_parts();
    let router = router
        .fallback(nothing_there)
        .method_not_allowed_fallback(wrong_method)
        .layer(Extension(BodyLimit(body_bytes_max)));
    (router, openapi)
}

/// One ID as it is asked for most.
pub(super) fn one_id(id: Id, service: &Service) -> Response<Full<Bytes>> {
    json_response(One::new(id, Form::Number, service.layout()).usual_json())
}

/// One ID
#[utoipa::path(get, path = "/api/v1/id", params(OneParams), responses((status = 200, body = One, description = "the ID and its parts"), Failures))]
async fn get_id(
    State(app): AppState,
    Extension(asker): Extension<Asker>,
    Params(params): Params<OneParams>,
) -> Result<Response<Body>, Failure> {
    let form = Form::named(params.format.as_deref())?;
    let id = app.issuer.id(asker.0.as_ref()).await?;
    Ok(json(&One::new(id, form, app.service().layout()), ONE_BYTES))
}

/// Several IDs, all or none
#[utoipa::path(get, path = "/api/v1/ids", params(ManyParams), responses((status = 200, body = Many, description = "the IDs, lowest first"), Failures))]
async fn get_ids(
    State(app): AppState,
    Extension(asker): Extension<Asker>,
    Params(params): Params<ManyParams>,
) -> Result<Response<Body>, Failure> {
    let form = Form::named(params.format.as_deref())?;
    let count = request::count(params.count.as_deref().unwrap_or("1"), BATCH_IDS_MAX)?;
    Ok(listed(&batch(&app, count, asker).await?, form))
}

/// Several IDs, all or none
///
/// With an `Idempotency-Key` a repeated request gets the IDs of the first, from this node, for 24 hours, as
/// long as the key is among the newest that the node keeps.
#[utoipa::path(
    post,
    path = "/api/v1/ids/batch",
    request_body = BatchRequest,
    params(
        OneParams,
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters", max_length = 255)
    ),
    responses((status = 200, body = Many, description = "the IDs, lowest first"), Failures)
)]
async fn post_batch(
    State(app): AppState,
    Extension(asker): Extension<Asker>,
    Params(params): Params<OneParams>,
    headers: HeaderMap,
    extract::Json(wanted): extract::Json<BatchRequest>,
) -> Result<Response<Body>, Failure> {
    let form = Form::named(params.format.as_deref())?;
    let count = wanted.count.ok_or_else(|| missing("count"))?;
    let count = request::count(count.get(), BATCH_IDS_MAX)?;
    let mint = async || batch(&app, count, asker).await;
    let batch = match headers.get(IDEMPOTENCY_KEY) {
        Some(key) => app.answers.batch(key.as_bytes(), count, mint).await?,
        None => mint().await?,
    };
    Ok(listed(&batch, form))
}

/// Many IDs as ranges of consecutive integers, all or none: the cheapest way to get them
#[utoipa::path(get, path = "/api/v1/ranges", params(RangesParams), responses((status = 200, body = Ranges, description = "the ranges, lowest first"), Failures))]
async fn get_ranges(
    State(app): AppState,
    Extension(asker): Extension<Asker>,
    Params(params): Params<RangesParams>,
) -> Result<Response<Body>, Failure> {
    let form = Form::named(params.format.as_deref())?;
    let count = request::count(params.count.as_deref().unwrap_or("1"), RANGE_IDS_MAX)?;
    let ranges = app.issuer.ranges(count, asker.0.as_ref()).await?;
    Ok(json(&Ranges::new(&ranges, form), ONE_BYTES))
}

/// What an ID says of its origin
#[utoipa::path(get, path = "/api/v1/parse", params(ParseParams), responses((status = 200, body = Parsed, description = "what the ID says"), Failures))]
async fn get_parse(
    State(app): AppState,
    Params(params): Params<ParseParams>,
) -> Result<Json<Parsed>, Failure> {
    let text = params.id.ok_or_else(|| missing("id"))?;
    parsed(&app, &text, Form::to_read(params.format.as_deref())?)
}

/// What an ID says of its origin
#[utoipa::path(
    post,
    path = "/api/v1/parse",
    request_body = ParseRequest,
    params(ParseFormat),
    responses((status = 200, body = Parsed, description = "what the ID says"), Failures)
)]
async fn post_parse(
    State(app): AppState,
    Params(params): Params<ParseFormat>,
    extract::Json(wanted): extract::Json<ParseRequest>,
) -> Result<Json<Parsed>, Failure> {
    let given = wanted.id.ok_or_else(|| missing("id"))?;
    let format = Form::to_read(params.format.as_deref())?;
    match serde_json::from_str::<String>(given.get()) {
        Ok(text) => parsed(&app, &text, format),
        // A number is decimal, however many digits it has.
        Err(_) => parsed(&app, given.get(), Some(Format::Decimal)),
    }
}

/// The lowest and the highest possible ID of an interval, for range scans
#[utoipa::path(get, path = "/api/v1/bounds", params(BoundsParams), responses((status = 200, body = Bounds, description = "the ends of the interval"), Failures))]
async fn get_bounds(
    State(app): AppState,
    Params(params): Params<BoundsParams>,
) -> Result<Json<Bounds>, Failure> {
    let from_ms = unix_ms("from", params.from.as_deref())?;
    let to_ms = unix_ms("to", params.to.as_deref())?;
    let bounds = app.service().layout().bounds(from_ms, to_ms).map_err(|error| {
        let parameter = match error {
            ComposeError::BeforeEpoch { timestamp_ms, .. } if timestamp_ms == from_ms => "from",
            _ => "to",
        };
        Error::parameter(parameter, error.to_string())
    })?;
    Ok(Json(Bounds::new(bounds, from_ms, to_ms)))
}

/// How the node is
#[utoipa::path(
    get,
    path = "/api/v1/health",
    responses(
        (status = 200, body = NodeHealth, description = "healthy, or degraded: it mints"),
        (status = 503, body = NodeHealth, description = "unhealthy: it does not mint")
    )
)]
async fn get_health(State(app): AppState) -> (StatusCode, Json<NodeHealth>) {
    let health = NodeHealth::new(app.service().health(), app.shown.records.health());
    let status =
        if health.service.status == "unhealthy" { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (status, Json(health))
}

/// How the node is, and what it writes down.
#[derive(Serialize, utoipa::ToSchema)]
struct NodeHealth {
    #[serde(flatten)]
    service: Health,
    #[serde(flatten)]
    records: RecordsHealth,
}

impl NodeHealth {
    fn new(mut service: Health, records: RecordsHealth) -> Self {
        let problem = records.journal.as_ref().and_then(|journal| journal.problem.as_ref());
        if let Some(problem) = problem {
            service.reasons.push(format!("journal: {problem}"));
        }
        let failing = records.sinks.iter().filter_map(|sink| Some((sink.name, sink.last_error.as_ref()?)));
        service.reasons.extend(failing.map(|(name, error)| format!("{name}: {error}")));
        let archive = records.archive.as_ref();
        if let Some((archive, error)) =
            archive.and_then(|archive| Some((archive, archive.last_error.as_ref()?)))
        {
            service.reasons.push(format!("archive {}: {error}", archive.url));
        }
        if service.status == "healthy" && !service.reasons.is_empty() {
            service.status = "degraded";
        }
        Self { service, records }
    }
}

/// Datacenters, workers, windows and retired slots, as the registry has them, or last had them while it is away
#[utoipa::path(get, path = "/api/v1/cluster", responses((status = 200, body = Cluster, description = "what the registry has"), Failures))]
async fn get_cluster(State(app): AppState) -> Result<Json<Cluster>, Failure> {
    match app.shown.registry.snapshot().await {
        Ok(snapshot) => {
            let cluster =
                Cluster::new(snapshot, app.shown.registry_name.clone(), timestamp(app.service().now_ms()));
            let cluster = cluster.with_problem(app.shown.settings.current().problem.clone());
            app.cluster.store(Some(Arc::new(cluster.clone())));
            Ok(Json(cluster))
        }
        Err(error) => {
            tracing::warn!("the cluster cannot be read: {error}");
            let last = app.cluster.load_full().ok_or_else(|| {
                Error::new(Code::ServiceUnavailable, "the registry cannot be read now").retry_after_ms(1_000)
            })?;
            Ok(Json(Cluster::clone(&last).gone_stale(error.to_string())))
        }
    }
}

/// What was issued, how fast, and what went wrong, from this node's metrics store
///
/// Latencies are those of requests that got IDs, each counted once however many it got; quantiles are within 1 %.
/// Drift counts by its absolute value. Error rates are of all requests of that minute and slot. A minute that has
/// not ended is divided by what has passed of it.
#[utoipa::path(
    get,
    path = "/api/v1/reports/{name}",
    params(
        ("name" = String, Path, description = "`ids-per-second`, `latency`, `clock-drift`, `overflow`, `errors`, `daily` or `tables`"),
        ReportParams
    ),
    responses((status = 200, body = reports::Answer, description = "the report"), Failures)
)]
async fn get_report(
    State(app): AppState,
    name: Result<Path<String>, PathRejection>,
    Params(params): Params<ReportParams>,
) -> Result<Response<Body>, Failure> {
    let report = reports::named(name)?;
    let scope = params.scope(report, timestamp(app.service().now_ms()))?;
    let store = app.shown.reports.as_ref().ok_or_else(reports::no_store)?;
    let rows = store.report(report, &scope).await.map_err(|error| reports::unanswered(report, &error))?;
    let answer = reports::Answer::new(report, store.name(), &scope, rows);
    Ok(json(&answer, ONE_BYTES + answer.len() * REPORTED_BYTES))
}

/// This description
#[utoipa::path(get, path = "/api/v1/openapi.json", responses((status = 200, body = Object, description = "OpenAPI 3.1")))]
async fn get_openapi(State(app): AppState) -> Response<Body> {
    json(&app.openapi, 0)
}

/// Whether the process is there
#[utoipa::path(get, path = "/livez", responses((status = 200, body = String, content_type = "text/plain", description = "it is")))]
async fn livez() -> &'static str {
    "alive\n"
}

/// Whether the node may mint
#[utoipa::path(
    get,
    path = "/readyz",
    responses(
        (status = 200, body = String, content_type = "text/plain", description = "it may"),
        (status = 503, body = String, content_type = "text/plain", description = "it may not, and why")
    )
)]
async fn readyz(State(app): AppState) -> (StatusCode, String) {
    let refused = app.service().unready().map(|refused| refused.to_string());
    let unkept = || app.shown.records.refusal().map(|problem| format!("audit.required: {problem}"));
    match refused.or_else(unkept) {
        None => (StatusCode::OK, format!("ready, for {} ms of window\n", app.service().window_left_ms())),
        Some(refused) => (StatusCode::SERVICE_UNAVAILABLE, format!("{refused}\n")),
    }
}

/// The metrics, for Prometheus
#[utoipa::path(get, path = "/metrics", responses((status = 200, body = String, content_type = "text/plain", description = "in Prometheus' text form")))]
async fn get_metrics(State(app): AppState) -> impl IntoResponse {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], app.service().render_metrics())
}

async fn nothing_there(uri: axum::http::Uri) -> Failure {
    let path = request::excerpt(uri.path());
    Failure(Error::new(
        Code::NotFound,
        format!("there is nothing at {path}; /api/v1/openapi.json says what there is"),
    ))
}

async fn wrong_method(method: axum::http::Method) -> (StatusCode, Failure) {
    let message = format!("the method {method} is not for this path; the Allow header says which are");
    (StatusCode::METHOD_NOT_ALLOWED, Failure(Error::new(Code::InvalidRequest, message)))
}

async fn batch(app: &App, count: u32, asker: Asker) -> Result<Batch, Failure> {
    let arrived = Instant::now();
    let ranges = app.issuer.ranges(count, asker.0.as_ref()).await?.into();
    // Whole microseconds: what is below them says nothing.
    let generation_time_ms = (arrived.elapsed().as_secs_f64() * 1e6).round() / 1e3;
    Ok(Batch { ranges, generation_time_ms })
}

fn listed(batch: &Batch, form: Form) -> Response<Body> {
    let body = Many::new(batch, form);
    json(&body, ONE_BYTES + body.len() * LISTED_BYTES)
}

fn parsed(app: &App, text: &str, format: Option<Format>) -> Result<Json<Parsed>, Failure> {
    let id = request::id(text, format)?;
    let origin = Origin::of(id, app.service().layout(), app.service().now_ms());
    let datacenter_name = app.shown.settings.datacenter_name(origin.parts.slot.datacenter);
    Ok(Json(Parsed::new(id, &origin, datacenter_name)))
}

/// A time in Unix milliseconds, given as such or in RFC 3339; a part of a millisecond is left out.
fn unix_ms(parameter: &str, given: Option<&str>) -> Result<u64, Error> {
    let given = given.ok_or_else(|| missing(parameter))?;
    let ms = given.parse().ok().or_else(|| given.parse().ok().map(Timestamp::as_millisecond));
    ms.and_then(|ms: i64| u64::try_from(ms).ok()).ok_or_else(|| {
        let given = request::excerpt(given);
        let message = format!(
            "{parameter} is {given}, it must be a time since 1970 as in RFC 3339, such as 2024-01-03T19:30:00Z, or in \
             Unix milliseconds (in a URL, + is written %2B)"
        );
        Error::parameter(parameter, message)
    })
}

fn missing(parameter: &str) -> Error {
    Error::parameter(parameter, format!("{parameter} is missing"))
}

fn json<B: From<Bytes>>(body: &impl Serialize, bytes: usize) -> Response<B> {
    let mut text = Vec::with_capacity(bytes);
    serde_json::to_writer(&mut text, body)
        .expect("a Vec takes every write, and the body has no keys but texts");
    json_response(Bytes::from(text))
}

fn json_response<B: From<Bytes>>(text: Bytes) -> Response<B> {
    let mut response = Response::new(B::from(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
