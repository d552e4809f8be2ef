//! The threads that connections are served on: one for each processor, each with a runtime of its own.
//!
//! A connection stays on its thread. Where idle threads look for the tasks of busy ones, and are woken to do
//! so, that costs more than an ID does.

use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The threads, until the last who has them is gone.
#[derive(Clone)]
pub struct Threads(Arc<Shared>);

struct Shared {
    runtimes: Vec<Handle>,
    next: AtomicUsize,
    _stop: DropGuard,
}

impl Threads {
    /// Starts a thread for each processor that the process may use.
    pub fn start() -> io::Result<Self> {
        let stop = CancellationToken::new();
        let count = std::thread::available_parallelism().map_or(1, NonZero::get);
        let runtimes = (0..count).map(|number| start(number, stop.clone())).collect::<io::Result<_>>()?;
        Ok(Self(Arc::new(Shared { runtimes, next: AtomicUsize::new(0), _stop: stop.drop_guard() })))
    }

    /// Where the next connection is to be served: each in turn.
    pub(super) fn next(&self) -> &Handle {
        let Shared { runtimes, next, .. } = &*self.0;
        &runtimes[next.fetch_add(1, Ordering::Relaxed) % runtimes.len()]
    }
}

fn start(number: usize, stop: CancellationToken) -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let serve = move || runtime.block_on(stop.cancelled());
    std::thread::Builder::new().name(format!("serve-{number}")).spawn(serve)?;
    Ok(handle)
}
