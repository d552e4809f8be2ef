//! The reports over REST.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use jiff::Timestamp;
use serde_json::json;
use snowmint::{Id, IdRange, Slot};
use snowmint_server::config::MetricsStore;
use snowmint_server::event::{Api, Event, Issued, Request, What};
use snowmint_server::report::Report;
use snowmint_server::sink::{Batch, EmbeddedStore, Sink};
use tempfile::TempDir;
use uuid::Uuid;

use crate::node::Node;

#[tokio::test]
async fn what_was_issued_is_reported() {
    let directory = TempDir::new().unwrap();
    let store = Arc::new(EmbeddedStore::new(directory.path(), MetricsStore::default()));
    let node = Node::start_reporting(Arc::<EmbeddedStore>::clone(&store)).await;
    // In the minute that has ended last: the time does not show in its row.
    let now = Timestamp::now() - Duration::from_mins(1);
    let at_ms = u64::try_from(now.as_millisecond()).unwrap();
    let what = What::Issued(Issued {
        slot: Slot { datacenter: 0, worker: 5 },
        ranges: [IdRange::new(Id::new(1_000).unwrap(), 600).unwrap()].into(),
        latency_us: 45,
        queue_us: 0,
        request: Request { client_ip: None, user_agent: None, request_id: None, api: Api::Rest },
    });
    store
        .deliver(&Batch { journal: Uuid::new_v4(), first: 0, events: vec![Event { at_ms, what }] })
        .await
        .unwrap();

    let answer = node.get("/api/v1/reports/ids-per-second?since=5m&datacenter=0&worker=5").await;
    assert_eq!(answer.status, StatusCode::OK);
    let minute = now.strftime("%Y-%m-%dT%H:%M:00Z").to_string();
    let row = format!(
        r#""rows":[{{"minute":"{minute}","datacenter_id":0,"worker_id":5,"ids_generated":600,"ids_per_second":10.0}}]"#
    );
    assert!(String::from_utf8_lossy(&answer.body).contains(&row), "{:?}", answer.body);
    let json = answer.json();
    assert_eq!((&json["report"], &json["truncated"]), (&json!("ids-per-second"), &json!(false)));
    assert_eq!(json["columns"], json!(Report::IdsPerSecond.columns()));
    assert!(json["store"].as_str().unwrap().starts_with("embedded in "));
    let time = |name: &str| json[name].as_str().unwrap().parse::<Timestamp>().unwrap();
    assert!(time("since") < now && now < time("until"));

    let elsewhere = node.get("/api/v1/reports/ids-per-second?datacenter=1").await.json();
    assert_eq!(elsewhere["rows"], json!([]));
    for report in Report::ALL {
        let answer = node.get(&format!("/api/v1/reports/{report}")).await;
        assert_eq!((answer.status, &answer.json()["columns"]), (StatusCode::OK, &json!(report.columns())));
    }
    node.stop().await;
}

#[tokio::test]
async fn what_cannot_be_reported_says_what_would_be_right() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("no-directory");
    std::fs::write(&file, "").unwrap();
    let store = Arc::new(EmbeddedStore::new(&file, MetricsStore::default()));
    let node = Node::start_reporting(store).await;
    for (path, right) in [
        ("latencies", "\"latencies\" is no report: there are ids-per-second, latency, clock-drift"),
        ("latency?since=yesterday", "since is \"yesterday\": how long ago is wanted, such as 90s"),
        ("latency?datacenter=x", "datacenter is \"x\", it must be an integer from 0 to 65535"),
        ("latency?worker=65536", "worker is \"65536\", it must be an integer from 0 to 65535"),
        ("latency?day=1", "unknown field `day`"),
        ("%ff", "Invalid UTF-8"),
    ] {
        let (status, code, message) = node.get(&format!("/api/v1/reports/{path}")).await.error();
        assert_eq!((status, code.as_str()), (StatusCode::BAD_REQUEST, "INVALID_PARAMETER"), "{path}");
        assert!(message.contains(right), "{path}: {message}");
    }
    let (status, code, message) = node.get("/api/v1/reports/latency").await.error();
    assert_eq!((status, code.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "SERVICE_UNAVAILABLE"));
    assert!(message.contains("cannot answer"), "{message}");
    node.stop().await;

    let node = Node::start().await;
    let (status, _, message) = node.get("/api/v1/reports/latency").await.error();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(message.contains("this node has no metrics store"), "{message}");
    node.stop().await;
}
