//! The calls of `snowmint.v1.IdGenerator`.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::time::{Duration, Instant};

use axum::http::header::USER_AGENT;
use futures_util::{FutureExt, Stream, stream};
use snowmint::{Id, IdRange, Layout};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, async_trait};

use super::proto::id_generator_server::IdGenerator;
use super::proto::parse_id_request::Id as GivenId;
use super::proto::{
    GenerateBatchRequest, GenerateBatchResponse, GenerateIdRequest, GenerateIdResponse,
    GenerateStreamRequest, GenerateStreamResponse, IdComponents, LeaseRangesRequest, LeaseRangesResponse,
    ParseIdRequest, ParseIdResponse,
};
use crate::api::connections::Peer;
use crate::api::issue::Issuer;
use crate::api::request::{self, Origin};
use crate::api::request_id::{RequestIds, X_REQUEST_ID};
use crate::error::{Code, Error};
use crate::event::{self, Api};
use crate::service::{BATCH_IDS_MAX, RANGE_IDS_MAX};

/// The most IDs one stream gives.
const STREAM_IDS_MAX: u64 = 1_000_000_000;

/// How many IDs a message of a stream has where the caller does not say.
const STREAM_BATCH_IDS: u32 = 1_000;

const CODE: &str = "snowmint-code";
const RETRY_AFTER_MS: &str = "retry-after-ms";

/// What answers the calls.
pub(super) struct Calls {
    issuer: Issuer,
    request_ids: RequestIds,
    time_limit: Duration,
    stop: CancellationToken,
}

impl Calls {
    pub(super) fn new(issuer: Issuer, time_limit: Duration, stop: CancellationToken) -> Self {
        Self { issuer, request_ids: RequestIds::new(), time_limit, stop }
    }

    /// Does the work of a call within the time limit, and answers with its request ID, whatever becomes of it.
    async fn answer<Q, A>(
        &self,
        request: Request<Q>,
        work: impl AsyncFnOnce(Q, Option<&event::Request>) -> Result<A, Error>,
    ) -> Result<Response<A>, Status> {
        let arrived = Instant::now();
        let (metadata, extensions, question) = request.into_parts();
        let mut request_id = self.request_ids.of(metadata.as_ref());
        let ip = extensions.get::<Peer>().map(|peer| peer.ip);
        let asker = self
            .issuer
            .asks_who()
            .then(|| event::Request::new(ip, metadata.as_ref().get(USER_AGENT), &request_id, Api::Grpc));
        let working = AssertUnwindSafe(work(question, asker.as_ref())).catch_unwind();
        let answered = match tokio::time::timeout(self.time_limit, working).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(_panic)) => {
                // The panic hook has logged what and where.
                Err(Error::new(Code::Internal, "the service failed at this request; its log says how"))
            }
            Err(_late) => Err(Error::too_slow(self.time_limit.as_secs())),
        };
        let mut response = answered.map(Response::new).map_err(|error| {
            self.issuer.failed(&error, arrived, asker);
            status(&error)
        });
        let answer_metadata = match &mut response {
            Ok(response) => response.metadata_mut(),
            Err(status) => status.metadata_mut(),
        };
        // Sensitive headers are kept out of the table that HPACK looks through for values which came before: this
        // one never did.
        request_id.set_sensitive(true);
        answer_metadata.as_mut().insert(X_REQUEST_ID, request_id);
        response
    }
}

/// The status of an error.
pub(super) fn status(error: &Error) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert(CODE, tonic::metadata::MetadataValue::from_static(error.code.name()));
    if let Some(ms) = error.retry_after_ms {
        metadata.insert(RETRY_AFTER_MS, ms.into());
    }
    Status::with_metadata(error.code.grpc_code(), error.message.clone(), metadata)
}

#[async_trait]
impl IdGenerator for Calls {
    async fn generate_id(
        &self,
        request: Request<GenerateIdRequest>,
    ) -> Result<Response<GenerateIdResponse>, Status> {
        self.answer(request, async |_, asker| {
            let id = self.issuer.id(asker).await?;
            let layout = self.issuer.service().layout();
            Ok(GenerateIdResponse { id: id.get(), components: Some(components(id, layout)) })
        })
        .await
    }

    async fn generate_batch(
        &self,
        request: Request<GenerateBatchRequest>,
    ) -> Result<Response<GenerateBatchResponse>, Status> {
        self.answer(request, async |wanted, asker| {
            let count = request::count(&wanted.count.to_string(), BATCH_IDS_MAX)?;
            Ok(GenerateBatchResponse { ids: listed(&self.issuer.ranges(count, asker).await?) })
        })
        .await
    }

    type GenerateStreamStream = Pin<Box<dyn Stream<Item = Result<GenerateStreamResponse, Status>> + Send>>;

    async fn generate_stream(
        &self,
        request: Request<GenerateStreamRequest>,
    ) -> Result<Response<Self::GenerateStreamStream>, Status> {
        self.answer(request, async |wanted, asker| {
            let batches = Batches::new(&wanted, self.issuer.clone(), asker.cloned(), self.stop.clone())?;
            let stream: Self::GenerateStreamStream = Box::pin(stream::try_unfold(batches, Batches::next));
            Ok(stream)
        })
        .await
    }

    async fn lease_ranges(
        &self,
        request: Request<LeaseRangesRequest>,
    ) -> Result<Response<LeaseRangesResponse>, Status> {
        self.answer(request, async |wanted, asker| {
            let count = request::count(&wanted.count.to_string(), RANGE_IDS_MAX)?;
            let ranges = self.issuer.ranges(count, asker).await?;
            let range =
                |range: &IdRange| super::proto::IdRange { first: range.first().get(), count: range.count() };
            Ok(LeaseRangesResponse { ranges: ranges.iter().map(range).collect() })
        })
        .await
    }

    async fn parse_id(&self, request: Request<ParseIdRequest>) -> Result<Response<ParseIdResponse>, Status> {
        self.answer(request, async |wanted, _| {
            let id = match wanted.id {
                Some(GivenId::Number(number)) => {
                    request::id(&number.to_string(), Some(snowmint::Format::Decimal))?
                }
                Some(GivenId::Text(text)) => request::id(&text, None)?,
                None => return Err(Error::parameter("id", "id is missing")),
            };
            let service = self.issuer.service();
            let layout = service.layout();
            let Origin { age_ms, valid, .. } = Origin::of(id, layout, service.now_ms());
            Ok(ParseIdResponse { id: id.get(), components: Some(components(id, layout)), age_ms, valid })
        })
        .await
    }
}

/// The rest of a stream. A batch is minted when the caller has room for it, so that a caller who reads slowly
/// gets IDs of the time at which it reads, and one who stops costs none.
struct Batches {
    issuer: Issuer,
    asker: Option<event::Request>,
    stop: CancellationToken,
    left: u64,
    batch: u32,
}

impl Batches {
    fn new(
        wanted: &GenerateStreamRequest,
        issuer: Issuer,
        asker: Option<event::Request>,
        stop: CancellationToken,
    ) -> Result<Self, Error> {
        if !(1..=STREAM_IDS_MAX).contains(&wanted.total) {
            let message =
                format!("total is {}, it must be an integer from 1 to {STREAM_IDS_MAX}", wanted.total);
            return Err(Error::parameter("total", message));
        }
        if wanted.batch_size > BATCH_IDS_MAX {
            let message = format!(
                "batch_size is {}, it must be an integer from 1 to {BATCH_IDS_MAX}, or 0 for {STREAM_BATCH_IDS}",
                wanted.batch_size
            );
            return Err(Error::parameter("batch_size", message));
        }
        let batch = if wanted.batch_size == 0 { STREAM_BATCH_IDS } else { wanted.batch_size };
        Ok(Self { issuer, asker, stop, left: wanted.total, batch })
    }

    async fn next(mut self) -> Result<Option<(GenerateStreamResponse, Self)>, Status> {
        if self.left == 0 {
            return Ok(None);
        }
        if self.stop.is_cancelled() {
            let error =
                Error::new(Code::ServiceUnavailable, "the node is stopping: ask another for the rest");
            return Err(self.refuse(&error.retry_after_ms(1_000), Instant::now()));
        }
        let (arrived, count) =
            (Instant::now(), u32::try_from(self.left).map_or(self.batch, |left| left.min(self.batch)));
        let given = self.issuer.ranges(count, self.asker.as_ref()).await;
        let ranges = given.map_err(|error| self.refuse(&error, arrived))?;
        self.left -= u64::from(count);
        Ok(Some((GenerateStreamResponse { ids: listed(&ranges) }, self)))
    }
}

impl Batches {
    fn refuse(&self, error: &Error, arrived: Instant) -> Status {
        self.issuer.failed(error, arrived, self.asker.clone());
        status(error)
    }
}

fn listed(ranges: &[IdRange]) -> Vec<u64> {
    ranges.iter().flat_map(IdRange::ids).map(Id::get).collect()
}

fn components(id: Id, layout: Layout) -> IdComponents {
    let parts = layout.decompose(id);
    IdComponents {
        timestamp_ms: parts.timestamp_ms,
        datacenter_id: parts.slot.datacenter.into(),
        worker_id: parts.slot.worker.into(),
        sequence: parts.sequence,
    }
}
