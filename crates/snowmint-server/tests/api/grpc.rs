//! gRPC.

use std::collections::BTreeSet;
use std::time::Duration;

use snowmint_server::api::grpc::proto;
use snowmint_server::api::grpc::proto::id_generator_client::IdGeneratorClient;
use snowmint_server::config::Limits;
use tokio::process::Command;
use tonic::transport::Channel;

use crate::node::Node;

async fn channel(node: &Node) -> Channel {
    Channel::from_shared(format!("http://{}", node.grpc)).unwrap().connect().await.unwrap()
}

pub async fn grpc(node: &Node) -> IdGeneratorClient<Channel> {
    IdGeneratorClient::new(channel(node).await)
}

#[tokio::test]
async fn grpc_mints_and_parses() {
    let node = Node::start().await;
    let mut client = grpc(&node).await;
    let mut request = tonic::Request::new(proto::GenerateIdRequest {});
    request.metadata_mut().insert("x-request-id", "mine".parse().unwrap());
    let one = client.generate_id(request).await.unwrap();
    assert_eq!(one.metadata().get("x-request-id").unwrap(), "mine");
    let one = one.into_inner();
    let given = proto::parse_id_request::Id::Number(one.id);
    let parsed = client.parse_id(proto::ParseIdRequest { id: Some(given) }).await.unwrap().into_inner();
    assert_eq!((parsed.id, parsed.components, parsed.valid), (one.id, one.components, true));
    let given = proto::parse_id_request::Id::Text("0B1B3V77C0M1A".to_owned());
    let parsed = client.parse_id(proto::ParseIdRequest { id: Some(given) }).await.unwrap().into_inner();
    assert_eq!(parsed.components.unwrap().timestamp_ms, 1_704_310_200_123);

    let ids =
        client.generate_batch(proto::GenerateBatchRequest { count: 10_000 }).await.unwrap().into_inner().ids;
    assert!(ids.len() == 10_000 && ids[0] > one.id && ids.is_sorted_by(|a, b| a < b));
    let ranges = client
        .lease_ranges(proto::LeaseRangesRequest { count: 1_000_000 })
        .await
        .unwrap()
        .into_inner()
        .ranges;
    assert_eq!(ranges.iter().map(|range| range.count).sum::<u32>(), 1_000_000);
}

#[tokio::test]
async fn grpc_streams_what_was_asked_for() {
    let node = Node::start().await;
    let mut client = grpc(&node).await;
    for (total, batch_size, sizes) in
        [(2_500, 0, vec![1_000, 1_000, 500]), (5, 2, vec![2, 2, 1]), (1, 10_000, vec![1])]
    {
        let request = proto::GenerateStreamRequest { total, batch_size };
        let mut stream = client.generate_stream(request).await.unwrap().into_inner();
        let (mut got, mut last) = (Vec::new(), 0);
        while let Some(message) = stream.message().await.unwrap() {
            assert!(message.ids[0] > last && message.ids.is_sorted());
            last = *message.ids.last().unwrap();
            got.push(message.ids.len());
        }
        assert_eq!(got, sizes);
    }
    // A stream that would take minutes does not keep a node from stopping.
    let request = proto::GenerateStreamRequest { total: 1_000_000_000, batch_size: 10_000 };
    let mut stream = client.generate_stream(request).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    node.begin_to_stop();
    let ended = loop {
        match stream.message().await {
            Ok(message) => assert!(message.is_some(), "a stream that is cut short says so"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.metadata().get("snowmint-code").unwrap(), "SERVICE_UNAVAILABLE");
    tokio::time::timeout(Duration::from_secs(4), node.stop()).await.expect("no connection has to be dropped");
}

#[tokio::test]
async fn grpc_refuses_with_the_same_codes() {
    let mut node = Node::start_without_slot(Limits::default()).await;
    let mut client = grpc(&node).await;
    let status = client.generate_id(proto::GenerateIdRequest {}).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert_eq!(status.metadata().get("snowmint-code").unwrap(), "WORKER_UNAVAILABLE");
    assert_eq!(status.metadata().get("retry-after-ms").unwrap(), "1000");
    node.take_slot().await;
    let refusals = [
        client.generate_batch(proto::GenerateBatchRequest { count: 0 }).await.unwrap_err(),
        client.generate_batch(proto::GenerateBatchRequest { count: 10_001 }).await.unwrap_err(),
        client.lease_ranges(proto::LeaseRangesRequest { count: 1_000_001 }).await.unwrap_err(),
        client.parse_id(proto::ParseIdRequest { id: None }).await.unwrap_err(),
        client.generate_stream(proto::GenerateStreamRequest { total: 0, batch_size: 1 }).await.unwrap_err(),
        client
            .generate_stream(proto::GenerateStreamRequest { total: 1, batch_size: 10_001 })
            .await
            .unwrap_err(),
    ];
    for status in refusals {
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
        assert_eq!(status.metadata().get("snowmint-code").unwrap(), "INVALID_PARAMETER");
        assert!(status.metadata().get("x-request-id").is_some());
    }
    let long = proto::parse_id_request::Id::Text("1".repeat(1 << 20));
    let status = client.parse_id(proto::ParseIdRequest { id: Some(long) }).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::OutOfRange, "{status}");
}

#[tokio::test]
async fn grpc_health_follows_readiness() {
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    let mut node = Node::start_without_slot(Limits::default()).await;
    let mut client = HealthClient::new(channel(&node).await);
    for service in ["", "snowmint.v1.IdGenerator"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let status = client.check(request).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::NotServing, "{service}");
    }
    let mut watch = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    node.take_slot().await;
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    tokio::time::timeout(Duration::from_secs(4), node.stop())
        .await
        .expect("a watch does not keep a node from stopping");
}

#[tokio::test]
async fn grpc_reflection_describes_the_service() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let node = Node::start().await;
    let mut client = ServerReflectionClient::new(channel(&node).await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let asking = futures_util::stream::iter([request]);
    let answer =
        client.server_reflection_info(asking).await.unwrap().into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("not a list of services: {answer:?}");
    };
    let names: BTreeSet<String> = list.service.into_iter().map(|service| service.name).collect();
    let wanted = ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "snowmint.v1.IdGenerator"];
    assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), wanted);
}

/// What `snowmint bench` reports after a second over gRPC.
async fn bench(node: &Node, more: &[&str]) -> serde_json::Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_snowmint"));
    command.args(["bench", "--seconds", "1", "--connections", "2", "--json"]).args(more);
    let output = command.arg("--url").arg(format!("grpc://{}", node.grpc)).output().await.unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn bench_asks_over_grpc() {
    let node = Node::start().await;
    for (more, ids) in [(&[][..], 1), (&["--batch", "3"], 3), (&["--ranges", "5"], 5)] {
        let report = bench(&node, more).await;
        let requests = report["requests"].as_u64().unwrap();
        assert!(requests > 0, "{report}");
        assert_eq!(report["ids"], requests * ids);
        assert_eq!((&report["errors"], &report["duplicates"]), (&0.into(), &0.into()), "{report}");
        assert_eq!(report["checked"], "all");
    }
    let node = Node::start_without_slot(Limits::default()).await;
    let report = bench(&node, &[]).await;
    assert_eq!((&report["requests"], &report["ids"]), (&0.into(), &0.into()), "{report}");
    assert_eq!(report["errors_by_code"]["WORKER_UNAVAILABLE"], report["errors"]);
}
