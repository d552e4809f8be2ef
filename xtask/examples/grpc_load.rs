//! Streams of batches of IDs over gRPC, from snowmint or from ferroid-tonic-server, as fast as they come.
//!
//! `grpc_load snowmint|ferroid URL SECONDS STREAMS IDS_PER_BATCH` is a load of `cargo xtask bench peers`: every
//! stream is a connection of its own, on which one request follows the other. It prints what it got as JSON.
//! ferroid-tonic-server itself knows how large its batches are.

#![allow(clippy::print_stdout, reason = "it is what was measured")]

use std::env;
use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tonic::Request;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

type Failure = Box<dyn Error + Send + Sync>;

/// IDs that a request asks for.
const IDS_PER_REQUEST: u64 = 200_000;

/// Larger than any batch.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// What snowmint is asked for.
#[derive(Clone, PartialEq, prost::Message)]
struct GenerateStreamRequest {
    #[prost(uint64, tag = "1")]
    total: u64,
    #[prost(uint32, tag = "2")]
    batch_size: u32,
}

/// `repeated fixed64`, which are the same bytes.
#[derive(Clone, PartialEq, prost::Message)]
struct GenerateStreamResponse {
    #[prost(bytes = "bytes", tag = "1")]
    ids: Bytes,
}

/// What ferroid-tonic-server is asked for.
#[derive(Clone, PartialEq, prost::Message)]
struct StreamIdsRequest {
    #[prost(uint64, tag = "1")]
    count: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct IdChunk {
    #[prost(bytes = "bytes", tag = "1")]
    packed_ids: Bytes,
}

#[derive(Clone)]
struct Load {
    ferroid: bool,
    url: String,
    duration: Duration,
    ids_per_batch: u32,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [server, url, seconds, streams, ids_per_batch] = arguments.as_slice() else {
        return Err("usage: grpc_load snowmint|ferroid URL SECONDS STREAMS IDS_PER_BATCH".into());
    };
    let load = Load {
        ferroid: server == "ferroid",
        url: url.clone(),
        duration: Duration::from_secs(seconds.parse()?),
        ids_per_batch: ids_per_batch.parse()?,
    };
    let started = Instant::now();
    let tasks: Vec<_> = (0..streams.parse()?).map(|_| tokio::spawn(load.clone().run())).collect();
    let mut took_us = Vec::new();
    for task in tasks {
        took_us.extend(task.await??);
    }
    let seconds = started.elapsed().as_secs_f64();
    took_us.sort_unstable();
    let ids = u64::try_from(took_us.len())? * IDS_PER_REQUEST;
    let share = |percent: usize| took_us.get(took_us.len() * percent / 100).copied().unwrap_or_default();
    println!(
        r#"{{"ids":{ids},"seconds":{seconds},"request_us":{{"p50":{},"p99":{}}}}}"#,
        share(50),
        share(99)
    );
    Ok(())
}

impl Load {
    /// How long each request took, in microseconds.
    async fn run(self) -> Result<Vec<u64>, Failure> {
        let channel = Endpoint::from_shared(self.url.clone())?.connect().await?;
        let mut grpc = Grpc::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let (started, mut took_us) = (Instant::now(), Vec::new());
        while started.elapsed() < self.duration {
            let asked = Instant::now();
            let ids = if self.ferroid { from_ferroid(&mut grpc).await } else { self.ids(&mut grpc).await }?;
            if ids != IDS_PER_REQUEST {
                return Err(format!("{ids} IDs came of {IDS_PER_REQUEST}").into());
            }
            took_us.push(u64::try_from(asked.elapsed().as_micros())?);
        }
        Ok(took_us)
    }

    async fn ids(&self, grpc: &mut Grpc<Channel>) -> Result<u64, Failure> {
        let request = GenerateStreamRequest { total: IDS_PER_REQUEST, batch_size: self.ids_per_batch };
        let path = PathAndQuery::from_static("/snowmint.v1.IdGenerator/GenerateStream");
        grpc.ready().await?;
        let codec = ProstCodec::<_, GenerateStreamResponse>::default();
        let mut batches = grpc.server_streaming(Request::new(request), path, codec).await?.into_inner();
        let mut count = 0;
        while let Some(GenerateStreamResponse { ids }) = batches.message().await? {
            count += read(&ids)?;
        }
        Ok(count)
    }
}

async fn from_ferroid(grpc: &mut Grpc<Channel>) -> Result<u64, Failure> {
    let request = StreamIdsRequest { count: IDS_PER_REQUEST };
    let path = PathAndQuery::from_static("/ferroid.IdGenerator/StreamIds");
    grpc.ready().await?;
    let codec = ProstCodec::<_, IdChunk>::default();
    let mut batches = grpc.server_streaming(Request::new(request), path, codec).await?.into_inner();
    let mut count = 0;
    while let Some(IdChunk { packed_ids }) = batches.message().await? {
        count += read(&packed_ids)?;
    }
    Ok(count)
}

/// Has the IDs of a batch, and says how many they are.
fn read(packed: &[u8]) -> Result<u64, Failure> {
    let (ids, _) = packed.as_chunks();
    let ids: Vec<u64> = ids.iter().map(|id| u64::from_le_bytes(*id)).collect();
    Ok(u64::try_from(black_box(ids).len())?)
}
