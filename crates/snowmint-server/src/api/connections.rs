//! Accepts connections, keeps their number and their silence bounded, and ends them when told to.

use std::convert::Infallible;
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::{Request, Response};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::DRAIN_MS_MAX;

/// The pause after a connection could not be accepted (mostly for want of file descriptors), in milliseconds.
const ACCEPT_PAUSE_MS: u64 = 50;

/// How many connections past the limit are told so at once. Further ones wait in the listener's backlog.
const REFUSALS_MAX: usize = 64;

/// Whether there is room for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// There is.
    Granted,
    /// There is not: its first request is answered with an error, and then it is closed.
    Full,
}

/// Who is at the other end of a connection, and whether there is room for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) ip: IpAddr,
    pub(super) admission: Admission,
}

/// How many connections are open at once, and how long one may be silent.
pub(super) struct Bounds {
    pub(super) connections: usize,
    /// How long a new connection may take to send its first request's headers.
    pub(super) first_request: Duration,
    /// How long it may then go without a request: up to twice that passes before it is closed. `None` where
    /// the protocol itself finds out whether the other side is still there.
    pub(super) idle: Option<Duration>,
}

/// Serves what `listener` accepts until `stop`, then lets every connection finish what it has begun, for
/// [`DRAIN_MS_MAX`] at most.
pub(super) async fn serve<A, F, B>(
    listener: TcpListener,
    protocol: auto::Builder<TokioExecutor>,
    answer: A,
    bounds: Bounds,
    stop: CancellationToken,
) where
    A: Fn(Request<Incoming>, Peer) -> F + Clone + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let connections = bounds.connections;
    let (protocol, bounds) = (Arc::new(protocol), Arc::new(bounds));
    let connection = move |stream, peer, stop| {
        let (protocol, bounds, answer) = (Arc::clone(&protocol), Arc::clone(&bounds), answer.clone());
        async move { connection(stream, peer, &protocol, answer, &bounds, stop).await }
    };
    serve_each(listener, connections, connection, stop).await;
}

/// Has `connection` serve what `listener` accepts until `stop`, each on a task of its own, and waits until all
/// of them have ended, which they have to by themselves. Past so many `connections`, one is told that there is
/// no room.
pub(super) async fn serve_each<F>(
    listener: TcpListener,
    connections: usize,
    connection: impl Fn(TcpStream, Peer, CancellationToken) -> F,
    stop: CancellationToken,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS)));
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    let open = TaskTracker::new();
    loop {
        let next = async {
            let refusal = Arc::clone(&refusals).acquire_owned().await.expect("the semaphore is never closed");
            let (stream, address) = accept(&listener).await;
            let ip = address.ip().to_canonical();
            match Arc::clone(&places).try_acquire_owned() {
                Ok(place) => (stream, place, Peer { ip, admission: Admission::Granted }),
                Err(_) => (stream, refusal, Peer { ip, admission: Admission::Full }),
            }
        };
        let Some((stream, place, peer)) = stop.run_until_cancelled(next).await else { break };
        // Answers are small and written at once: there is nothing to wait for.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!("a connection is already gone: {error}");
            continue;
        }
        let serving = connection(stream, peer, stop.child_token());
        open.spawn(async move {
            let _place = place;
            serving.await;
        });
    }
    drop(listener);
    open.close();
    open.wait().await;
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::warn!("a connection could not be accepted: {error}");
                tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
            }
        }
    }
}

async fn connection<A, F, B>(
    stream: TcpStream,
    peer: Peer,
    protocol: &auto::Builder<TokioExecutor>,
    answer: A,
    bounds: &Bounds,
    stop: CancellationToken,
) where
    A: Fn(Request<Incoming>, Peer) -> F + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let requests = Arc::new(Requests::default());
    let counted = Arc::clone(&requests);
    let leave = stop.clone();
    let service = service_fn(move |request| {
        let turn = Requests::begin(&counted);
        let answered = answer(request, peer);
        if peer.admission == Admission::Full {
            leave.cancel();
        }
        answered.map(move |response| {
            drop(turn);
            Ok::<_, Infallible>(response)
        })
    });
    let mut connection = pin!(protocol.serve_connection(TokioIo::new(stream), service));
    // In a set of its own the alarm is looked at when it goes off, not each time a request comes.
    let mut alarm = FuturesUnordered::from_iter([alarm(&requests, bounds, &stop)]);
    let ended = tokio::select! {
        biased;
        ended = &mut connection => ended,
        Some(alarm) = alarm.next() => match alarm {
            Alarm::Silent => return,
            Alarm::Stop => {
                connection.as_mut().graceful_shutdown();
                let drain = Duration::from_millis(DRAIN_MS_MAX);
                let Ok(ended) = tokio::time::timeout(drain, connection).await else {
                    tracing::warn!("a connection was not done within {DRAIN_MS_MAX} ms and is dropped");
                    return;
                };
                ended
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a connection ended with {error}");
    }
}

/// Why a connection has to end.
enum Alarm {
    Silent,
    Stop,
}

async fn alarm(requests: &Requests, bounds: &Bounds, stop: &CancellationToken) -> Alarm {
    tokio::select! {
        () = silence(requests, bounds) => Alarm::Silent,
        () = stop.cancelled() => Alarm::Stop,
    }
}

/// Ends when a connection has been silent for longer than it may.
async fn silence(requests: &Requests, bounds: &Bounds) {
    let mut seen = 0;
    let mut patience = Some(bounds.first_request);
    while let Some(wait) = patience {
        tokio::time::sleep(wait).await;
        let begun = requests.begun.load(Ordering::Relaxed);
        if begun == seen && begun == requests.done.load(Ordering::Relaxed) {
            return;
        }
        seen = begun;
        patience = bounds.idle;
    }
    std::future::pending::<()>().await;
}

/// The requests of one connection.
#[derive(Default)]
struct Requests {
    begun: AtomicU64,
    done: AtomicU64,
}

impl Requests {
    fn begin(requests: &Arc<Self>) -> Turn {
        requests.begun.fetch_add(1, Ordering::Relaxed);
        Turn(Arc::clone(requests))
    }
}

/// A request until it is answered or given up.
struct Turn(Arc<Requests>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.done.fetch_add(1, Ordering::Relaxed);
    }
}
