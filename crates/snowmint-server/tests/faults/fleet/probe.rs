//! Looks at what a node says of itself, over and over.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use crate::load::Connection;

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// What a node said.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// When it was asked first.
    pub asked: Instant,
    /// When all was answered.
    pub answered: Instant,
    /// `window_left_ms` of `/health`, which was asked first.
    pub window_left_ms: u64,
    /// Whether `/health` calls the registry available.
    pub registry: bool,
    /// Whether `/readyz` says 200.
    pub ready: bool,
}

/// Asks one node for as long as this value lives.
pub struct Probe {
    samples: Arc<Mutex<Vec<Sample>>>,
    _task: AbortOnDropHandle<()>,
}

impl Probe {
    pub fn on(address: SocketAddr) -> Self {
        let samples = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(probe(address, Arc::clone(&samples)));
        Self { samples, _task: AbortOnDropHandle::new(task) }
    }

    /// All that was seen up to now.
    pub fn samples(&self) -> Vec<Sample> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was seen last, if it was asked for after `since`.
    pub fn since(&self, since: Instant) -> Option<Sample> {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.last().copied().filter(|sample| sample.asked > since)
    }
}

async fn probe(address: SocketAddr, samples: Arc<Mutex<Vec<Sample>>>) {
    let mut connection = Connection::open(address).await.unwrap();
    loop {
        let asked = Instant::now();
        // It ends with the node.
        let Ok(health) = connection.get("/api/v1/health").await else { return };
        let Ok(readiness) = connection.get("/readyz").await else { return };
        let health: Value = serde_json::from_str(&health.body).unwrap();
        let sample = Sample {
            asked,
            answered: Instant::now(),
            window_left_ms: health["window_left_ms"].as_u64().unwrap(),
            registry: health["registry"]["status"] == "available",
            ready: readiness.status == 200,
        };
        samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
        sleep(PAUSE).await;
    }
}
