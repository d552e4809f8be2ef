//! Delivery to a sink that fails, refuses, or hangs.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde_json::Value;
use snowmint_server::sink::delivery::{self, ERROR_BYTES_MAX, SinkState};
use snowmint_server::sink::{Batch, Sink, SinkError};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Open, PATIENCE, STRICT, event, numbers, until};

/// A store whose answers are given beforehand; when they are used up, it takes everything.
#[derive(Default)]
struct Store {
    answers: Mutex<VecDeque<Answer>>,
    offered: Mutex<Vec<Batch>>,
    taken: Mutex<Vec<u32>>,
}

enum Answer {
    Fails(SinkError),
    Hangs,
}

#[async_trait]
impl Sink for Store {
    fn name(&self) -> &'static str {
        "store"
    }

    async fn deliver(&self, batch: &Batch) -> Result<(), SinkError> {
        self.offered.lock().unwrap().push(batch.clone());
        let answer = self.answers.lock().unwrap().pop_front();
        match answer {
            Some(Answer::Fails(error)) => Err(error),
            Some(Answer::Hangs) => std::future::pending().await,
            None => {
                self.taken.lock().unwrap().extend(numbers(batch));
                Ok(())
            }
        }
    }
}

impl Store {
    fn answering(answers: impl IntoIterator<Item = Answer>) -> Arc<Self> {
        Arc::new(Self { answers: Mutex::new(answers.into_iter().collect()), ..Self::default() })
    }

    fn taken(&self) -> Vec<u32> {
        self.taken.lock().unwrap().clone()
    }
}

fn deliver(open: &Open, store: &Arc<Store>, stop: &CancellationToken) -> (Arc<SinkState>, JoinHandle<()>) {
    let sink: Arc<dyn Sink> = Arc::<Store>::clone(store);
    delivery::start(&open.journal, sink, Arc::clone(&open.metrics), stop.clone()).unwrap()
}

#[tokio::test]
async fn a_store_that_is_away_gets_the_same_batch_until_it_takes_it() {
    let directory = TempDir::new().unwrap();
    let open = Open::new(directory.path(), STRICT, &["store"]);
    open.keep(0..10).await;
    let away = || Answer::Fails(SinkError::Unavailable("it is away".to_owned()));
    let store = Store::answering([away(), away()]);
    let (state, task) = deliver(&open, &store, &CancellationToken::new());
    until(|| state.status().failures == 1, "a failure").await;
    let failing = state.status();
    assert_eq!(failing.last_error.as_deref(), Some("it is away"));
    assert_eq!((failing.lag_events, failing.last_success), (10, None));
    open.keep(10..20).await;
    until(|| store.taken().len() == 20, "everything is taken").await;
    until(|| state.status().lag_events == 0, "nothing is left").await;

    let status = state.status();
    assert_eq!((status.failures, status.refused, status.last_error), (2, 0, None));
    assert!(status.last_success.is_some());
    assert_eq!(open.metrics.sink_failures.with_label_values(&["store"]).get(), 2);
    assert_eq!(store.taken(), (0..20).collect::<Vec<_>>());
    let tokens: Vec<String> = store.offered.lock().unwrap().iter().map(Batch::token).collect();
    assert_eq!(&tokens[..3], vec![tokens[0].clone(); 3]);
    open.close().await;
    tokio::time::timeout(PATIENCE, task).await.expect("it ends with the journal").unwrap();
}

#[tokio::test]
async fn a_refused_batch_is_set_aside_and_the_next_goes_on() {
    let directory = TempDir::new().unwrap();
    let open = Open::new(directory.path(), STRICT, &["store"]);
    open.keep(0..10).await;
    let long = "no such column: ".repeat(1_000);
    let store = Store::answering([Answer::Fails(SinkError::Refused(long.clone()))]);
    let (state, _task) = deliver(&open, &store, &CancellationToken::new());
    until(|| state.status().refused == 1, "the batch is refused").await;
    open.keep(10..20).await;
    until(|| store.taken() == (10..20).collect::<Vec<_>>(), "the next is taken").await;
    assert_eq!(state.status().failures, 1);

    let path = directory.path().join("set-aside/store-0.json");
    let aside: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!((aside["first"].as_u64(), aside["count"].as_u64()), (Some(0), Some(10)));
    assert_eq!(aside["events"].as_array().unwrap().len(), 10);
    assert_eq!(aside["events"][3]["what"]["Failed"]["latency_us"], 3);
    assert_eq!(aside["error"].as_str().unwrap(), &long[..ERROR_BYTES_MAX]);
}

/// At a stop what is in the queue is written down, and offered once more.
#[tokio::test]
async fn a_stop_delivers_what_it_can_and_ends() {
    let directory = TempDir::new().unwrap();
    let open = Open::new(directory.path(), STRICT, &["store"]);
    let store = Store::answering([Answer::Hangs]);
    let stop = CancellationToken::new();
    let (state, task) = deliver(&open, &store, &stop);
    open.keep(0..3).await;
    until(|| store.offered.lock().unwrap().len() == 1, "the store hangs").await;
    for number in 3..100 {
        open.events.take(event(number));
    }
    assert!(open.journal.close().await);
    stop.cancel();
    tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
    assert_eq!(store.taken(), (0..100).collect::<Vec<_>>());
    assert_eq!(state.status().lag_events, 0);
}

/// A store that still hangs keeps nobody, and gets the same batch after the next start.
#[tokio::test]
async fn what_a_stop_could_not_deliver_is_delivered_after_the_next_start() {
    let directory = TempDir::new().unwrap();
    let open = Open::new(directory.path(), STRICT, &["store"]);
    open.keep(0..3).await;
    let store = Store::answering([Answer::Hangs, Answer::Hangs]);
    let stop = CancellationToken::new();
    let (state, task) = deliver(&open, &store, &stop);
    until(|| store.offered.lock().unwrap().len() == 1, "the store hangs").await;
    open.journal.close().await;
    stop.cancel();
    tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
    assert!(store.taken().is_empty());
    drop((open, state));

    let open = Open::new(directory.path(), STRICT, &["store"]);
    let (_state, _task) = deliver(&open, &store, &CancellationToken::new());
    until(|| store.taken() == [0, 1, 2], "it is taken").await;
    let tokens: Vec<String> = store.offered.lock().unwrap().iter().map(Batch::token).collect();
    assert_eq!(tokens, vec![tokens[0].clone(); 3]);
}
