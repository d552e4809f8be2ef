//! What a fleet's registry has, and what its clients received.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Fleet, slot_of};
use crate::load::{Failure, Journal, Receipt};
use crate::process::until;

impl Fleet {
    /// The workers that look alive, each with its node.
    pub async fn alive(&self) -> BTreeMap<u64, String> {
        let status = self.status().await;
        let workers = status["datacenters"].as_array().unwrap().iter();
        let workers = workers.flat_map(|datacenter| datacenter["workers"].as_array().unwrap());
        workers.map(|w| (w["worker_id"].as_u64().unwrap(), w["node"].as_str().unwrap().to_owned())).collect()
    }

    /// The ceiling of every worker that was ever held.
    pub async fn ceilings(&self) -> BTreeMap<u64, u64> {
        let status = self.status().await;
        let windows = status["windows"].as_array().unwrap().iter();
        windows.map(|w| (w["worker_id"].as_u64().unwrap(), w["ceiling"].as_u64().unwrap())).collect()
    }

    /// Waits until a worker looks alive, or until it does not.
    pub async fn looks_alive(&self, worker: u64, alive: bool) {
        let what = format!("worker {worker} looks {}", if alive { "alive" } else { "dead" });
        until(|| async { self.alive().await.contains_key(&worker) == alive }, &what).await;
    }
}

/// The worker in the IDs of a receipt.
pub fn worker_of(receipt: &Receipt) -> u64 {
    slot_of(receipt.first).worker.into()
}

/// Invariant 3, as clients see it: all IDs of a worker from the node that lost it are below those of the node
/// that took it over.
pub fn assert_handed_over(worker: u64, lost_by: &Journal, taken_by: &Journal) {
    let of_worker = |receipt: &&Receipt| worker_of(receipt) == worker;
    let last = lost_by.receipts.iter().filter(of_worker).map(Receipt::last).max();
    let first = taken_by.receipts.iter().filter(of_worker).map(|receipt| receipt.first).min();
    assert!(last.is_some() && last < first, "{last:?} before, {first:?} after");
}

/// Invariant 8: what is not answered with IDs is refused, typed, and at once. Gives the longest that took.
pub fn assert_typed(failures: &[Failure]) -> Duration {
    for failure in failures {
        assert_eq!((failure.status, failure.code.as_str()), (503, "WORKER_UNAVAILABLE"), "{failure:?}");
    }
    failures.iter().map(|failure| failure.took).max().unwrap_or_default()
}
