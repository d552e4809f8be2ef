//! REST, the probes and the metrics.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::grpc::grpc;
use crate::node::Node;
use async_trait::async_trait;
use http_body_util::Full;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use snowmint::{Format, Slot};
use snowmint_server::api::grpc::proto;
use snowmint_server::config::Limits;
use snowmint_server::registry::{
    Changed, Namespace, Registry, RegistryError, Retired, Revision, Setting, SlotState, Snapshot, SwapError,
    WindowRecord, Worker,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const FORMATS: [(&str, Format); 4] = [
    ("string", Format::Decimal),
    ("base62", Format::Base62),
    ("base32", Format::Base32),
    ("hex", Format::Hex),
];

#[tokio::test]
async fn one_id_tells_its_parts() {
    let node = Node::start().await;
    let answer = node.get("/api/v1/id").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers["content-type"], "application/json");
    let one = answer.json();
    assert_eq!(one["id"].as_u64().unwrap().to_string(), one["id_str"].as_str().unwrap());
    let parsed = node.get(&format!("/api/v1/parse?id={}", one["id"])).await.json();
    assert_eq!(parsed["id"], one["id"]);
    let components = &parsed["components"];
    assert_eq!(components["timestamp_iso"], one["timestamp"]);
    for part in ["datacenter_id", "worker_id", "sequence"] {
        assert_eq!(components[part], one[part]);
    }
    assert_eq!(components["datacenter_name"], Value::Null);
    assert_eq!(parsed["valid"], true);
    assert!((0..60_000).contains(&parsed["age_ms"].as_i64().unwrap()));
}

#[tokio::test]
async fn ids_in_every_form_sort_as_their_numbers() {
    let node = Node::start().await;
    for (name, format) in FORMATS {
        let mut last = String::new();
        for _ in 0..20 {
            let one = node.get(&format!("/api/v1/id?format={name}")).await.json();
            let text = one["id"].as_str().unwrap().to_owned();
            assert_eq!(format.parse(&text).unwrap().to_string(), one["id_str"].as_str().unwrap());
            assert!(last < text, "{last} before {text} in {name}");
            last = text;
        }
        let many = node.get(&format!("/api/v1/ids?count=5000&format={name}")).await.json();
        let texts: Vec<&str> =
            many["ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
        assert!(last.as_str() < texts[0] && texts.is_sorted_by(|a, b| a < b), "{name}");
        let parsed = node.get(&format!("/api/v1/parse?id={}&format={name}", texts[0])).await.json();
        assert_eq!(parsed["id"].as_u64().unwrap(), format.parse(texts[0]).unwrap().get());
    }
    assert!(node.get("/api/v1/id?format=decimal").await.json()["id"].is_u64());
}

#[tokio::test]
async fn batches_are_whole_and_without_duplicates() {
    let node = Node::start().await;
    let mut seen = HashSet::new();
    for count in [1, 2, 4_096, 10_000] {
        let by_get = node.get(&format!("/api/v1/ids?count={count}")).await.json();
        let by_post = node.post("/api/v1/ids/batch", format!(r#"{{"count":{count}}}"#)).await.json();
        for answer in [by_get, by_post] {
            assert_eq!(answer["count"], count);
            assert!(answer["generation_time_ms"].is_f64());
            let ids = answer["ids"].as_array().unwrap();
            assert_eq!(ids.len(), count);
            assert!(ids.iter().all(|id| seen.insert(id.as_u64().unwrap())));
        }
    }
    assert_eq!(node.get("/api/v1/ids").await.json()["count"], 1);
}

#[tokio::test]
async fn a_million_ids_in_ranges_add_up() {
    let node = Node::start().await;
    let answer = node.get("/api/v1/ranges?count=1000000").await.json();
    assert_eq!(answer["count"], 1_000_000);
    let (mut total, mut next) = (0, 0);
    for range in answer["ranges"].as_array().unwrap() {
        let (first, count) = (range["first"].as_u64().unwrap(), range["count"].as_u64().unwrap());
        assert_eq!(range["first_str"], first.to_string());
        assert!(first >= next && count >= 1);
        (total, next) = (total + count, first + count);
    }
    assert_eq!(total, 1_000_000);
}

#[tokio::test]
async fn bad_counts_are_told_what_would_be_right() {
    let node = Node::start().await;
    for (path, most) in [("/api/v1/ids", 10_000), ("/api/v1/ranges", 1_000_000)] {
        let more = (most + 1).to_string();
        for given in ["0", "-1", more.as_str(), "text", "18446744073709551616", "1.5", ""] {
            let (status, code, message) = node.get(&format!("{path}?count={given}")).await.error();
            assert_eq!((status, code.as_str()), (StatusCode::BAD_REQUEST, "INVALID_PARAMETER"));
            assert_eq!(message, format!("count is {given:?}, it must be an integer from 1 to {most}"));
        }
    }
    for given in ["0", "-1", "10001", "18446744073709551616", "1.5", "null", "[1]", r#""10""#] {
        let answer = node.post("/api/v1/ids/batch", format!(r#"{{"count":{given}}}"#)).await;
        let (status, code, message) = answer.error();
        assert_eq!((status, code.as_str()), (StatusCode::BAD_REQUEST, "INVALID_PARAMETER"), "{given}");
        assert!(message.contains("count"), "{message}");
        assert_eq!(answer.json()["error"]["details"]["parameter"], "count");
    }
    let (_, code, message) = node.post("/api/v1/ids/batch", "{}").await.error();
    assert_eq!((code.as_str(), message.as_str()), ("INVALID_PARAMETER", "count is missing"));
}

#[tokio::test]
async fn requests_that_cannot_be_understood_are_refused() {
    let node = Node::start().await;
    for body in ["", "{", "[]", "7", r#"{"count":1,"cuont":2}"#, r#"{"count":1}{}"#, "\u{0}"] {
        let (status, code, _) = node.post("/api/v1/ids/batch", body).await.error();
        assert_eq!((status, code.as_str()), (StatusCode::BAD_REQUEST, "INVALID_REQUEST"), "{body}");
    }
    let request = node.request(Method::POST, "/api/v1/ids/batch").header("content-type", "text/plain");
    let (status, code, message) =
        node.send(request.body(Full::from(r#"{"count":1}"#)).unwrap()).await.error();
    assert_eq!((status, code.as_str()), (StatusCode::BAD_REQUEST, "INVALID_REQUEST"));
    assert!(message.contains("application/json"), "{message}");

    for path in
        ["/api/v1/id?format=roman", "/api/v1/ids?cuont=5", "/api/v1/ids?count=1&count=2", "/api/v1/parse"]
    {
        let (status, code, _) = node.get(path).await.error();
        assert_eq!((status, code.as_str()), (StatusCode::BAD_REQUEST, "INVALID_PARAMETER"), "{path}");
    }
    for path in ["/", "/api/v1", "/api/v1/ids/", "/api/v2/id", "/%00"] {
        let (status, code, _) = node.get(path).await.error();
        assert_eq!((status, code.as_str()), (StatusCode::NOT_FOUND, "NOT_FOUND"), "{path}");
    }
    let answer = node.post("/api/v1/id", "{}").await;
    let (status, code, _) = answer.error();
    assert_eq!((status, code.as_str()), (StatusCode::METHOD_NOT_ALLOWED, "INVALID_REQUEST"));
    assert_eq!(answer.headers["allow"], "GET,HEAD");
}

#[tokio::test]
async fn bodies_and_headers_have_limits() {
    let node = Node::start().await;
    for path in ["/api/v1/ids/batch", "/api/v1/parse"] {
        let (status, code, message) = node.post(path, vec![b' '; 1 << 20]).await.error();
        assert_eq!((status, code.as_str()), (StatusCode::PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE"));
        assert!(message.contains("65536 bytes"), "{message}");
    }
    let request = node.request(Method::GET, "/api/v1/id").header("x-long", "a".repeat(20_000));
    assert_eq!(node.send(request.body(Full::default()).unwrap()).await.status.as_u16(), 431);
    assert_eq!(node.get("/api/v1/id").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_connection_that_sends_nothing_is_closed() {
    let node = Node::start_with(Limits { header_s: 1, ..Limits::default() }).await;
    let mut stream = TcpStream::connect(node.http).await.unwrap();
    stream.write_all(b"GET /api/v1/id HTTP/1.1\r\nhost:").await.unwrap();
    let mut rest = Vec::new();
    // Closed or reset: either way it ends.
    let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn a_connection_beyond_the_limit_is_told_so_and_closed() {
    let node = Node::start_with(Limits { connections: 1, ..Limits::default() }).await;
    let ask = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut start = [0; 15];
    let mut first = TcpStream::connect(node.http).await.unwrap();
    first.write_all(ask).await.unwrap();
    first.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200 OK");
    let beyond = async || {
        let mut stream = TcpStream::connect(node.http).await.unwrap();
        stream.write_all(ask).await.unwrap();
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        // One that has a place stays open, and says what it has to say within the patience.
        let _ = tokio::time::timeout(Duration::from_millis(200), read).await;
        answer
    };
    let refused = beyond().await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("SERVICE_UNAVAILABLE"), "{refused}");
    assert!(refused.contains("1 connections are open") && refused.contains("connection: close"), "{refused}");
    drop(first);
    let patience = std::time::Instant::now();
    while beyond().await.starts_with("HTTP/1.1 503") {
        assert!(patience.elapsed() < Duration::from_secs(10), "the place was not given back");
    }
    let full = grpc(&node).await;
    let refused = grpc(&node).await.generate_id(proto::GenerateIdRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    assert_eq!(refused.metadata().get("snowmint-code").unwrap(), "SERVICE_UNAVAILABLE");
    drop(full);
}

#[tokio::test]
async fn ids_are_parsed_in_every_form() {
    let node = Node::start().await;
    let parsed = node.get("/api/v1/parse?id=397833929219919914").await.json();
    for text in ["0TO5BQA5sBm", "0B1B3V77C0M1A", "0b1b3v77c0m1a", "0x058563d9cec0502a"] {
        let answer = node.get(&format!("/api/v1/parse?id={text}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{text}: {:?}", answer.body);
        assert_eq!(answer.json()["components"], parsed["components"]);
        let by_post = node.post("/api/v1/parse", json!({ "id": text }).to_string()).await.json();
        assert_eq!(by_post["components"], parsed["components"]);
    }
    assert_eq!(parsed["components"]["timestamp_iso"], "2024-01-03T19:30:00.123Z");
    assert_eq!(parsed["components"]["timestamp_ms"], 1_704_310_200_123_u64);
    let by_number = node.post("/api/v1/parse", r#"{"id":397833929219919914}"#).await.json();
    assert_eq!(by_number["components"], parsed["components"]);

    let future = node.get("/api/v1/parse?id=9223372036854775807").await.json();
    assert_eq!((future["valid"].as_bool(), future["age_ms"].as_i64().unwrap() < 0), (Some(false), true));

    for text in ["", "abc", "18446744073709551616", "9223372036854775808", "0TO5BQA5s%2Bm", "01", "-1"] {
        let (status, code, message) = node.get(&format!("/api/v1/parse?id={text}")).await.error();
        assert_eq!((status, code.as_str()), (StatusCode::BAD_REQUEST, "INVALID_PARAMETER"), "{text}");
        assert!(message.starts_with("id is "), "{message}");
    }
    for body in [r#"{"id":18446744073709551616}"#, r#"{"id":-1}"#, r#"{"id":1.5}"#, r#"{"id":true}"#, "{}"] {
        let (_, code, _) = node.post("/api/v1/parse", body).await.error();
        assert_eq!(code, "INVALID_PARAMETER", "{body}");
    }
}

#[tokio::test]
async fn bounds_enclose_an_interval() {
    let node = Node::start().await;
    let by_text =
        node.get("/api/v1/bounds?from=2024-01-03T19:30:00.123Z&to=2024-01-03T20:30:00.124%2B01:00").await;
    let bounds = by_text.json();
    assert_eq!(by_text.status, StatusCode::OK);
    let (lowest, highest) = (bounds["lowest"].as_u64().unwrap(), bounds["highest"].as_u64().unwrap());
    assert_eq!(
        (highest - lowest, (lowest..=highest).contains(&397_833_929_219_919_914)),
        ((1 << 22) - 1, true)
    );
    assert_eq!(bounds["lowest_str"], lowest.to_string());
    assert_eq!(bounds["to"], "2024-01-03T19:30:00.124Z");
    let by_number = node.get("/api/v1/bounds?from=1704310200123&to=1704310200124").await;
    assert_eq!(by_number.json(), bounds);
    for query in [
        "from=0&to=1",
        "from=1704310200124&to=1704310200123",
        "from=x&to=1",
        "to=1",
        "from=1704310200123&to=-1",
    ] {
        let (_, code, message) = node.get(&format!("/api/v1/bounds?{query}")).await.error();
        assert_eq!(code, "INVALID_PARAMETER", "{query}: {message}");
    }
}

#[tokio::test]
async fn one_key_is_one_batch() {
    let node = Node::start().await;
    let post = async |key: &str, count: u32| {
        let request = node
            .request(Method::POST, "/api/v1/ids/batch")
            .header("content-type", "application/json")
            .header("idempotency-key", key);
        node.send(request.body(Full::from(json!({ "count": count }).to_string())).unwrap()).await
    };
    let (first, second) = tokio::join!(post("a", 100), post("a", 100));
    assert_eq!((first.status, second.status), (StatusCode::OK, StatusCode::OK));
    assert_eq!(first.body, second.body);
    assert_eq!(post("a", 100).await.body, first.body);
    assert_ne!(post("b", 100).await.body, first.body);
    let (status, code, message) = post("a", 99).await.error();
    assert_eq!((status, code.as_str()), (StatusCode::BAD_REQUEST, "INVALID_REQUEST"));
    assert!(message.contains("a count of 100"), "{message}");
    for key in ["", &"k".repeat(256), "a b"] {
        assert_eq!(post(key, 1).await.error().1, "INVALID_PARAMETER");
    }
}

#[tokio::test]
async fn request_ids_are_taken_or_made() {
    let node = Node::start().await;
    let asked = async |id: &str, path: &str| {
        let request = node.request(Method::GET, path).header("x-request-id", id);
        node.send(request.body(Full::default()).unwrap()).await
    };
    assert_eq!(asked("mine-1", "/api/v1/id").await.headers["x-request-id"], "mine-1");
    assert_eq!(asked("mine-2", "/nowhere").await.json()["error"]["request_id"], "mine-2");
    let mut made = HashSet::new();
    for unusable in ["", "a b", &"x".repeat(129)] {
        let id = asked(unusable, "/api/v1/id").await.headers["x-request-id"].clone();
        assert!(id != unusable && made.insert(id));
    }
    assert!(made.insert(node.get("/livez").await.headers["x-request-id"].clone()));
}

#[tokio::test]
async fn a_node_without_a_slot_says_so() {
    let mut node = Node::start_without_slot(Limits::default()).await;
    assert_eq!(node.get("/livez").await.status, StatusCode::OK);
    let unready = node.get("/readyz").await;
    assert_eq!(unready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(String::from_utf8_lossy(&unready.body).contains("no worker slot yet"));
    let health = node.get("/api/v1/health").await;
    assert_eq!(
        (health.status, &health.json()["status"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("unhealthy"))
    );
    for path in ["/api/v1/id", "/api/v1/id?format=hex", "/api/v1/ids?count=5", "/api/v1/ranges"] {
        let answer = node.get(path).await;
        let (status, code, _) = answer.error();
        assert_eq!((status, code.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "WORKER_UNAVAILABLE"));
        assert_eq!(answer.headers["retry-after"], "1");
    }
    let metrics = node.get("/metrics").await;
    let counted = r#"id_generation_errors_total{code="WORKER_UNAVAILABLE"} 4"#;
    assert!(String::from_utf8_lossy(&metrics.body).contains(counted), "{:?}", metrics.body);

    node.take_slot().await;
    let ready = node.get("/readyz").await.body;
    assert!(ready.starts_with(b"ready, for ") && ready.ends_with(b" ms of window\n"), "{ready:?}");
    node.get("/api/v1/ids?count=10").await;
    let health = node.get("/api/v1/health").await.json();
    assert_eq!((&health["status"], &health["ids_generated"]), (&json!("healthy"), &json!(10)));
    let metrics = node.get("/metrics").await;
    assert!(metrics.headers["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    let counted = r#"id_generation_total{datacenter="0",worker="0"} 10"#;
    assert!(String::from_utf8_lossy(&metrics.body).contains(counted), "{:?}", metrics.body);
}

#[tokio::test]
async fn the_cluster_is_the_registry_s() {
    let node = Node::start().await;
    let cluster = node.get("/api/v1/cluster").await.json();
    assert_eq!((&cluster["registry"], &cluster["layout"]), (&json!("embedded"), &json!("41/5/5/12")));
    let worker = &cluster["datacenters"][0]["workers"][0];
    assert_eq!((&worker["worker_id"], &worker["port"]), (&json!(0), &json!(node.http.port())));
    let window = &cluster["windows"][0];
    assert_eq!((&window["slot"], &window["held"]), (&json!("dc0_worker0"), &json!(true)));
    assert!(window["ceiling"].as_u64() > node.get("/api/v1/id").await.json()["id"].as_u64());
    assert_eq!(cluster["retired_workers"], json!([]));
}

#[tokio::test]
async fn the_description_is_of_what_is_served() {
    let node = Node::start().await;
    let openapi = node.get("/api/v1/openapi.json").await.json();
    assert!(openapi["openapi"].as_str().unwrap().starts_with("3.1"));
    let paths = openapi["paths"].as_object().unwrap();
    let mut calls = BTreeSet::new();
    for (path, item) in paths {
        for (method, operation) in item.as_object().unwrap() {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let status =
                node.send(node.request(method.clone(), path).body(Full::default()).unwrap()).await.status;
            assert!(!matches!(status.as_u16(), 404 | 405), "{method} {path}: {status}");
            let described = operation["responses"].as_object().unwrap();
            assert!(described.contains_key(status.as_str()), "{method} {path}: {status} is not described");
            for (status, response) in described {
                let text = response["description"].as_str().unwrap_or_default();
                assert!(!text.is_empty(), "{method} {path}: {status} needs a description");
            }
            calls.insert(format!("{method} {path}"));
        }
    }
    let wanted = [
        "GET /api/v1/bounds",
        "GET /api/v1/cluster",
        "GET /api/v1/health",
        "GET /api/v1/id",
        "GET /api/v1/ids",
        "GET /api/v1/openapi.json",
        "GET /api/v1/parse",
        "GET /api/v1/ranges",
        "GET /api/v1/reports/{name}",
        "GET /livez",
        "GET /metrics",
        "GET /readyz",
        "POST /api/v1/ids/batch",
        "POST /api/v1/parse",
    ];
    assert_eq!(calls.iter().map(String::as_str).collect::<Vec<_>>(), wanted);
    every_reference_is_there(&openapi, &openapi);
}

fn every_reference_is_there(part: &Value, openapi: &Value) {
    match part {
        Value::Object(fields) => {
            if let Some(reference) = fields.get("$ref").and_then(Value::as_str) {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(openapi.pointer(pointer).is_some(), "{reference} leads nowhere");
            }
            fields.values().for_each(|field| every_reference_is_there(field, openapi));
        }
        Value::Array(items) => items.iter().for_each(|item| every_reference_is_there(item, openapi)),
        _ => {}
    }
}

#[tokio::test]
async fn stopping_finishes_what_is_in_flight() {
    let node = Node::start().await;
    let mut idle = TcpStream::connect(node.http).await.unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    idle.read_exact(&mut [0; 15]).await.unwrap();
    // Enough to keep it busy for a quarter of a second.
    let big = node.request(Method::GET, "/api/v1/ranges?count=1000000").body(Full::default()).unwrap();
    let (answer, ()) = tokio::join!(node.send(big), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        node.begin_to_stop();
    });
    assert_eq!((answer.status, answer.json()["count"].as_u64()), (StatusCode::OK, Some(1_000_000)));
    node.stop().await;
}

/// A registry whose reading never ends, or panics.
struct Faulty {
    panics: bool,
}

#[async_trait]
impl Registry for Faulty {
    async fn open(&self, _: &Namespace) -> Result<Namespace, RegistryError> {
        Err(RegistryError::TimedOut)
    }

    async fn settings(&self) -> Result<(Namespace, Changed), RegistryError> {
        Err(RegistryError::TimedOut)
    }

    async fn set(&self, _: &Setting) -> Result<(), RegistryError> {
        Err(RegistryError::TimedOut)
    }

    async fn snapshot(&self) -> Result<Snapshot, RegistryError> {
        assert!(!self.panics, "a fault in a handler");
        std::future::pending().await
    }

    async fn slot(&self, _: Slot) -> Result<SlotState, RegistryError> {
        Err(RegistryError::TimedOut)
    }

    async fn claim(
        &self,
        _: Slot,
        _: Option<Revision>,
        _: &WindowRecord,
        _: &Worker,
    ) -> Result<Revision, SwapError> {
        Err(SwapError::Unavailable(RegistryError::TimedOut))
    }

    async fn extend(&self, _: Slot, _: Revision, _: &WindowRecord) -> Result<Revision, SwapError> {
        Err(SwapError::Unavailable(RegistryError::TimedOut))
    }

    async fn retire(&self, _: Slot, _: Revision, _: &WindowRecord, _: &Retired) -> Result<(), SwapError> {
        Err(SwapError::Unavailable(RegistryError::TimedOut))
    }

    async fn abandon(&self, _: Slot) {}
}

#[tokio::test]
async fn a_fault_or_a_slow_part_is_an_error_and_not_a_silence() {
    let limits = Limits { request_s: 1, ..Limits::default() };
    for (panics, wanted) in [
        (true, (StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR")),
        (false, (StatusCode::SERVICE_UNAVAILABLE, "SERVICE_UNAVAILABLE")),
    ] {
        let node = Node::start_showing(limits.clone(), Some(Arc::new(Faulty { panics }))).await;
        let (status, code, _) = node.get("/api/v1/cluster").await.error();
        assert_eq!((status, code.as_str()), wanted);
        assert_eq!(node.get("/livez").await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn stopping_does_not_wait_for_what_never_ends() {
    let limits = Limits { request_s: 3_600, ..Limits::default() };
    let node = Node::start_showing(limits, Some(Arc::new(Faulty { panics: false }))).await;
    let mut endless = TcpStream::connect(node.http).await.unwrap();
    endless.write_all(b"GET /api/v1/cluster HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(node.get("/livez").await.status, StatusCode::OK);
    tokio::time::timeout(Duration::from_secs(10), node.stop()).await.expect("a stop takes 10 s at most");
    let mut rest = Vec::new();
    // Closed or reset: either way without an answer.
    let _ = endless.read_to_end(&mut rest).await;
    assert_eq!(rest, b"");
}
