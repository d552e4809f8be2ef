//! The calls of `snowmint.v1.IdGenerator`.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

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
use crate::api::request::{self, Origin};
use crate::api::request_id::{self, RequestIds};
use crate::error::{Code, Error};
use crate::service::{BATCH_IDS_MAX, RANGE_IDS_MAX, Service};

/// The most IDs one stream gives.
const STREAM_IDS_MAX: u64 = 1_000_000_000;

/// How many IDs a message of a stream has where the caller does not say.
const STREAM_BATCH_IDS: u32 = 1_000;

const CODE: &str = "snowmint-code";
const RETRY_AFTER_MS: &str = "retry-after-ms";

/// What answers the calls.
pub(super) struct Calls {
    service: Arc<Service>,
    request_ids: RequestIds,
    time_limit: Duration,
    stop: CancellationToken,
}

impl Calls {
    pub(super) fn new(service: Arc<Service>, time_limit: Duration, stop: CancellationToken) -> Self {
        Self { service, request_ids: RequestIds::new(), time_limit, stop }
    }

    /// Does the work of a call within the time limit, and answers with its request ID, whatever becomes of it.
    async fn answer<Q, A>(
        &self,
        request: Request<Q>,
        work: impl AsyncFnOnce(Q) -> Result<A, Error>,
    ) -> Result<Response<A>, Status> {
        let (metadata, _, question) = request.into_parts();
        let working = AssertUnwindSafe(work(question)).catch_unwind();
        let answered = match tokio::time::timeout(self.time_limit, working).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(_panic)) => {
                // The panic hook has logged what and where.
                Err(Error::new(Code::Internal, "the service failed at this request; its log says how"))
            }
            Err(_late) => {
                let message = format!("the request was not done within {} s", self.time_limit.as_secs());
                Err(Error::new(Code::ServiceUnavailable, message).retry_after_ms(1_000))
            }
        };
        let mut response = answered.map(Response::new).map_err(|error| refuse(&self.service, &error));
        let answer_metadata = match &mut response {
            Ok(response) => response.metadata_mut(),
            Err(status) => status.metadata_mut(),
        };
        self.echo_request_id(&metadata, answer_metadata);
        response
    }

    fn echo_request_id(&self, asked: &MetadataMap, answered: &mut MetadataMap) {
        let request_id = self.request_ids.of(asked.as_ref());
        if let Ok(value) = request_id.as_bytes().try_into() {
            answered.insert(request_id::KEY, value);
        }
    }
}

/// The status of an error, which is counted.
pub(super) fn refuse(service: &Service, error: &Error) -> Status {
    service.failed(error.code);
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
        self.answer(request, async |_| {
            let id = self.service.id().await?;
            Ok(GenerateIdResponse { id: id.get(), components: Some(components(id, self.service.layout())) })
        })
        .await
    }

    async fn generate_batch(
        &self,
        request: Request<GenerateBatchRequest>,
    ) -> Result<Response<GenerateBatchResponse>, Status> {
        self.answer(request, async |wanted| {
            let count = request::count(&wanted.count.to_string(), BATCH_IDS_MAX)?;
            Ok(GenerateBatchResponse { ids: listed(&self.service.ranges(count).await?) })
        })
        .await
    }

    type GenerateStreamStream = Pin<Box<dyn Stream<Item = Result<GenerateStreamResponse, Status>> + Send>>;

    async fn generate_stream(
        &self,
        request: Request<GenerateStreamRequest>,
    ) -> Result<Response<Self::GenerateStreamStream>, Status> {
        self.answer(request, async |wanted| {
            let batches = Batches::new(&wanted, Arc::clone(&self.service), self.stop.clone())?;
            let stream: Self::GenerateStreamStream = Box::pin(stream::try_unfold(batches, Batches::next));
            Ok(stream)
        })
        .await
    }

    async fn lease_ranges(
        &self,
        request: Request<LeaseRangesRequest>,
    ) -> Result<Response<LeaseRangesResponse>, Status> {
        self.answer(request, async |wanted| {
            let count = request::count(&wanted.count.to_string(), RANGE_IDS_MAX)?;
            let ranges = self.service.ranges(count).await?;
            let range =
                |range: &IdRange| super::proto::IdRange { first: range.first().get(), count: range.count() };
            Ok(LeaseRangesResponse { ranges: ranges.iter().map(range).collect() })
        })
        .await
    }

    async fn parse_id(&self, request: Request<ParseIdRequest>) -> Result<Response<ParseIdResponse>, Status> {
        self.answer(request, async |wanted| {
            let id = match wanted.id {
                Some(GivenId::Number(number)) => {
                    request::id(&number.to_string(), Some(snowmint::Format::Decimal))?
                }
                Some(GivenId::Text(text)) => request::id(&text, None)?,
                None => return Err(Error::parameter("id", "id is missing")),
            };
            let layout = self.service.layout();
            let Origin { age_ms, valid, .. } = Origin::of(id, layout, self.service.now_ms());
            Ok(ParseIdResponse { id: id.get(), components: Some(components(id, layout)), age_ms, valid })
        })
        .await
    }
}

/// The rest of a stream. A batch is minted when the caller has room for it, so that a caller who reads slowly
/// gets IDs of the time at which it reads, and one who stops costs none.
struct Batches {
    service: Arc<Service>,
    stop: CancellationToken,
    left: u64,
    batch: u32,
}

impl Batches {
    fn new(
        wanted: &GenerateStreamRequest,
        service: Arc<Service>,
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
        Ok(Self { service, stop, left: wanted.total, batch })
    }

    async fn next(mut self) -> Result<Option<(GenerateStreamResponse, Self)>, Status> {
        if self.left == 0 {
            return Ok(None);
        }
        if self.stop.is_cancelled() {
            let error =
                Error::new(Code::ServiceUnavailable, "the node is stopping: ask another for the rest");
            return Err(refuse(&self.service, &error.retry_after_ms(1_000)));
        }
        let count = u32::try_from(self.left).map_or(self.batch, |left| left.min(self.batch));
        let ranges =
            self.service.ranges(count).await.map_err(|refused| refuse(&self.service, &refused.into()))?;
        self.left -= u64::from(count);
        Ok(Some((GenerateStreamResponse { ids: listed(&ranges) }, self)))
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
