//! The least a tonic server can do: one constant ID, in the messages of `snowmint.v1`.
//!
//! `bare_tonic ADDRESS` is what `cargo xtask bench grpc` measures snowmint against. The messages and the
//! service are written out as `tonic-prost-build` would generate them, so that there is nothing to generate.

use std::convert::Infallible;
use std::env;
use std::error::Error;
use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::http;
use tonic::metadata::MetadataValue;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tower_service::Service;

/// As long as most of snowmint's.
const REQUEST_ID: &str = "7fea10f17993-1234567";

#[derive(Clone, PartialEq, prost::Message)]
struct GenerateIdRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct GenerateIdResponse {
    #[prost(fixed64, tag = "1")]
    id: u64,
    #[prost(message, optional, tag = "2")]
    components: Option<IdComponents>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct IdComponents {
    #[prost(uint64, tag = "1")]
    timestamp_ms: u64,
    #[prost(uint32, tag = "2")]
    datacenter_id: u32,
    #[prost(uint32, tag = "3")]
    worker_id: u32,
    #[prost(uint32, tag = "4")]
    sequence: u32,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).ok_or("usage: bare_tonic ADDRESS")?.parse()?;
    Ok(Server::builder().add_service(IdGenerator).serve(address).await?)
}

#[derive(Clone)]
struct IdGenerator;

impl NamedService for IdGenerator {
    const NAME: &'static str = "snowmint.v1.IdGenerator";
}

impl Service<http::Request<Body>> for IdGenerator {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let codec = tonic_prost::ProstCodec::default();
        Box::pin(async move { Ok(Grpc::new(codec).unary(GenerateId, request).await) })
    }
}

struct GenerateId;

impl UnaryService<GenerateIdRequest> for GenerateId {
    type Response = GenerateIdResponse;
    type Future = Ready<Result<Response<GenerateIdResponse>, Status>>;

    fn call(&mut self, _: Request<GenerateIdRequest>) -> Self::Future {
        let components =
            IdComponents { timestamp_ms: 1_795_543_200_123, datacenter_id: 1, worker_id: 5, sequence: 42 };
        let answer = GenerateIdResponse { id: 780_495_404_180_439_846, components: Some(components) };
        let mut response = Response::new(answer);
        response.metadata_mut().insert("x-request-id", MetadataValue::from_static(REQUEST_ID));
        ready(Ok(response))
    }
}
