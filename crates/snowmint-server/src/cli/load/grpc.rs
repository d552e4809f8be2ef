//! The load over gRPC: a connection of its own for each caller, as over HTTP.

use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::plan::{CONNECT_WAIT, Demand};
use super::seen::Run;
use crate::api::grpc::proto::id_generator_client::IdGeneratorClient;
use crate::api::grpc::proto::{GenerateBatchRequest, GenerateIdRequest, LeaseRangesRequest};

/// Where an error has the service's own code.
const ERROR_CODE: &str = "snowmint-code";

/// One connection.
pub(super) struct Caller(IdGeneratorClient<Channel>);

impl Caller {
    pub(super) async fn connect(authority: &str) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{authority}"))?.connect_timeout(CONNECT_WAIT);
        Ok(Self(IdGeneratorClient::new(endpoint.connect().await?)))
    }

    /// Asks once: how many IDs there were.
    pub(super) async fn call(&mut self, demand: Demand, mut each: impl FnMut(Run)) -> Result<u64, Status> {
        let mut count = 0;
        let mut read = |first: u64, ids: u32| {
            count += u64::from(ids);
            each(Run { first, last: first.saturating_add(u64::from(ids).saturating_sub(1)) });
        };
        match demand {
            Demand::Single | Demand::Path => {
                read(self.0.generate_id(GenerateIdRequest {}).await?.into_inner().id, 1);
            }
            Demand::Batch(count) => {
                let batch = self.0.generate_batch(GenerateBatchRequest { count }).await?.into_inner();
                batch.ids.into_iter().for_each(|id| read(id, 1));
            }
            Demand::Ranges(count) => {
                let ranges = self.0.lease_ranges(LeaseRangesRequest { count }).await?.into_inner();
                ranges.ranges.iter().for_each(|range| read(range.first, range.count));
            }
        }
        Ok(count)
    }
}

/// What an error is counted as, and whether the connection is still good.
pub(super) fn fault(status: &Status) -> (String, bool) {
    match status.metadata().get(ERROR_CODE).and_then(|code| code.to_str().ok()) {
        Some(code) => (code.to_owned(), true),
        None => (format!("gRPC {:?}", status.code()), status.code() != Code::Unavailable),
    }
}
