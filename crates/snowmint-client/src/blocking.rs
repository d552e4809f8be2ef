//! The client for code that is not `async`.

use std::sync::Arc;

use snowmint::{Id, IdRange};
use tokio::runtime::{self, Runtime};

use crate::builder::{BuildError, Builder};
use crate::client::{self, Metrics};
use crate::error::Error;

/// Like [`Client`](crate::Client), for threads that may wait: [`Builder::build_blocking`].
///
/// Its calls panic inside an async runtime, whose other tasks they would stop.
#[derive(Clone, Debug)]
pub struct Client {
    // Before the runtime, so that it is gone first.
    client: client::Client,
    background: Arc<Background>,
}

/// A thread that leases.
#[derive(Debug)]
struct Background(Option<Runtime>);

impl Background {
    fn runtime(&self) -> &Runtime {
        self.0.as_ref().expect("it is taken only when it is dropped")
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Without waiting for it, which is not allowed everywhere.
            runtime.shutdown_background();
        }
    }
}

impl Client {
    pub(crate) fn start(builder: Builder) -> Result<Self, BuildError> {
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("snowmint-client")
            .enable_all()
            .build()
            .map_err(BuildError::Runtime)?;
        let inside = runtime.enter();
        let client = builder.build()?;
        drop(inside);
        Ok(Self { client, background: Arc::new(Background(Some(runtime))) })
    }

    /// An ID: at once where one is leased, as is usual; else as soon as a server gives some.
    pub fn next(&self) -> Result<Id, Error> {
        match self.client.try_next() {
            Some(id) => Ok(id),
            None => self.background.runtime().block_on(self.client.next()),
        }
    }

    /// An ID, if one is leased. If not, some are leased, for the next call.
    #[must_use]
    pub fn try_next(&self) -> Option<Id> {
        self.client.try_next()
    }

    /// Several IDs, 1 to [`LEASE_IDS_MAX`](crate::LEASE_IDS_MAX), all or none: as ranges, of which
    /// [`IdRange::ids`] gives the IDs.
    pub fn next_many(&self, count: u32) -> Result<Vec<IdRange>, Error> {
        self.background.runtime().block_on(self.client.next_many(count))
    }

    /// What became of IDs and requests, from the start on.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.client.metrics()
    }
}
