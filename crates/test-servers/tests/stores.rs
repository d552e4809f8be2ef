//! Every store of objects starts, keeps what it was given through a kill, and makes an object once.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use hdfs_native_object_store::HdfsObjectStoreBuilder;
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector as TcpConnector;
use hyper_util::rt::TokioExecutor;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{
    ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpResponseBody, HttpService,
};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, Result};
use test_servers::{Hdfs, RadosGw};
use tokio::net::TcpListener;

/// How many make one object at once.
const RIVALS: usize = 8;

/// How long a day is to lifecycle rules, in seconds.
const DAY_S: u32 = 1;

/// The longest that a lifecycle rule may take to be carried out, in milliseconds.
const LIFECYCLE_MS_MAX: u64 = 60_000;

/// The pause between two looks at something that is waited for, in milliseconds.
const POLL_MS: u64 = 50;

/// How long a store is watched that is to hang, in milliseconds.
const HANG_MS: u64 = 500;

#[tokio::test(flavor = "multi_thread")]
async fn radosgw_keeps_what_it_was_told_through_a_kill() {
    let radosgw = RadosGw::start().await;
    radosgw.create_bucket("kept").await;
    let store = s3(&radosgw, "kept");
    makes_once(&store).await;
    radosgw.kill();
    radosgw.restart().await;
    has_kept(&store).await;
    radosgw.pause();
    hangs(&store).await;
    radosgw.resume();
    has_kept(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hdfs_keeps_what_it_was_told_through_a_kill() {
    let hdfs = Hdfs::start().await;
    let store = HdfsObjectStoreBuilder::new().with_url(hdfs.url()).build().unwrap();
    makes_once(&store).await;
    hdfs.kill();
    hdfs.restart().await;
    has_kept(&store).await;
    hdfs.pause();
    hangs(&store).await;
    hdfs.resume();
    has_kept(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn radosgw_carries_lifecycle_rules_out() {
    let radosgw = RadosGw::start_with_days_of(DAY_S).await;
    radosgw.create_bucket("aging").await;
    let rules = "<LifecycleConfiguration><Rule><ID>aging</ID><Prefix></Prefix><Status>Enabled</Status>\
                 <Transition><Days>1</Days><StorageClass>GLACIER</StorageClass></Transition>\
                 </Rule></LifecycleConfiguration>";
    radosgw.request("PUT", "/aging?lifecycle", rules).await.unwrap();
    radosgw.request("PUT", "/aging/object", "some value").await.unwrap();
    let moved = async {
        while !radosgw.request("GET", "/aging", "").await.unwrap().contains("GLACIER") {
            tokio::time::sleep(Duration::from_millis(POLL_MS)).await;
        }
    };
    tokio::time::timeout(Duration::from_millis(LIFECYCLE_MS_MAX), moved)
        .await
        .expect("the rule is carried out");
}

#[tokio::test]
#[should_panic(expected = "node 0 of radosgw found its port taken")]
async fn radosgw_says_that_its_port_is_taken() {
    let radosgw = RadosGw::start().await;
    radosgw.kill();
    let _other = TcpListener::bind(radosgw.endpoint().trim_start_matches("http://")).await.unwrap();
    radosgw.restart().await;
}

#[tokio::test]
#[should_panic(expected = "node 0 of the NameNode of HDFS found its port taken")]
async fn hdfs_says_that_its_port_is_taken() {
    let hdfs = Hdfs::start().await;
    hdfs.kill();
    let _other = TcpListener::bind(hdfs.url().trim_start_matches("hdfs://")).await.unwrap();
    hdfs.restart().await;
}

async fn makes_once(store: &dyn ObjectStore) {
    make(store, "some/object", "some value").await.unwrap();
    let refused = make(store, "some/object", "another value").await.unwrap_err();
    assert!(matches!(refused, Error::AlreadyExists { .. }), "{refused}");

    let values: Vec<_> = (0..RIVALS).map(|rival| format!("value {rival}")).collect();
    let made = join_all(values.iter().map(|value| make(store, "some/rivals", value))).await;
    let mut winners = values.iter().zip(&made).filter(|(_, made)| made.is_ok()).map(|(value, _)| value);
    let winner = winners.next().expect("one makes it");
    assert_eq!(winners.next(), None, "two made one object");
    assert_eq!(read(store, "some/rivals").await.unwrap(), *winner);
    for lost in made.into_iter().filter_map(Result::err) {
        assert!(matches!(lost, Error::AlreadyExists { .. }), "{lost}");
    }
    store.delete(&Path::from("some/rivals")).await.unwrap();
    has_kept(store).await;
}

async fn has_kept(store: &dyn ObjectStore) {
    assert_eq!(read(store, "some/object").await.unwrap(), "some value");
    let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
    // The client of HDFS leaves the file behind that it could not give the object's name.
    let hidden = |path: &Path| path.filename().is_some_and(|name| name.starts_with('.'));
    let listed = listed.iter().map(|object| &object.location).filter(|path| !hidden(path));
    let listed: Vec<_> = listed.map(Path::as_ref).collect();
    assert_eq!(listed, ["some/object"]);
}

async fn hangs(store: &dyn ObjectStore) {
    let read = tokio::time::timeout(Duration::from_millis(HANG_MS), read(store, "some/object")).await;
    read.expect_err("it is paused");
}

async fn make(store: &dyn ObjectStore, path: &str, value: &str) -> Result<()> {
    store.put_opts(&Path::from(path), value.to_owned().into(), PutMode::Create.into()).await.map(drop)
}

async fn read(store: &dyn ObjectStore, path: &str) -> Result<String> {
    let bytes = store.get(&Path::from(path)).await?.bytes().await?;
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

fn s3(radosgw: &RadosGw, bucket: &str) -> AmazonS3 {
    AmazonS3Builder::new()
        .with_endpoint(radosgw.endpoint())
        .with_allow_http(true)
        .with_region(RadosGw::REGION)
        .with_bucket_name(bucket)
        .with_access_key_id(radosgw.access_key())
        .with_secret_access_key(radosgw.secret_key())
        .with_http_connector(Plain)
        .build()
        .unwrap()
}

/// HTTP without TLS, by the client that is there already.
#[derive(Debug)]
struct Plain;

#[derive(Debug)]
struct PlainClient(Client<TcpConnector, HttpRequestBody>);

impl HttpConnector for Plain {
    fn connect(&self, _: &ClientOptions) -> Result<HttpClient> {
        Ok(HttpClient::new(PlainClient(Client::builder(TokioExecutor::new()).build_http())))
    }
}

#[async_trait]
impl HttpService for PlainClient {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let answer = self.0.request(request).await;
        let answer = answer.map_err(|error| {
            let kind = if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Request };
            HttpError::new(kind, error)
        })?;
        let interrupted = |error| HttpError::new(HttpErrorKind::Interrupted, error);
        Ok(answer.map(|body| HttpResponseBody::new(body.map_err(interrupted))))
    }
}
