//! RESP, the protocol of Redis, in both of its versions: any Redis client is a client.
//!
//! A connection may be silent for as long as it likes, as with Redis, whose clients keep pools of them; the
//! kernel finds out which other sides are gone.

mod commands;
mod connection;
mod parser;
mod reply;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepidle};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::connections::{self, Admission, Peer};
use super::issue::Issuer;
use super::request_id::RequestIds;
use crate::config::Limits;
use crate::error::Error;
use crate::event::{self, Api, Events};
use crate::service::Service;
use commands::Session;
use connection::Connection;

/// After how long the other side of a silent connection is asked whether it is still there, in seconds.
const KEEP_ALIVE_S: u64 = 300;

/// What a connection past the limit is told, in the words by which clients know it.
const FULL: &[u8] = b"-ERR max number of clients reached\r\n";

/// What the connections share.
struct FrontEnd {
    issuer: Issuer,
    request_ids: RequestIds,
    limits: Limits,
}

/// Serves until `stop`, then until what is in flight is done, for [`DRAIN_MS_MAX`](super::DRAIN_MS_MAX) at most.
pub async fn serve(
    listener: TcpListener,
    service: Arc<Service>,
    events: Arc<Events>,
    limits: Limits,
    stop: CancellationToken,
) {
    let connections = limits.connections;
    let issuer = Issuer::new(service, events);
    let front_end = Arc::new(FrontEnd { issuer, request_ids: RequestIds::new(), limits });
    let connection = move |stream, peer, stop| {
        let front_end = Arc::clone(&front_end);
        async move { front_end.connection(stream, peer, stop).await }
    };
    connections::serve_each(listener, connections, connection, stop).await;
}

impl FrontEnd {
    async fn connection(&self, stream: TcpStream, peer: Peer, stop: CancellationToken) {
        if peer.admission == Admission::Full {
            self.issuer.failed(&Error::too_many_connections(self.limits.connections), Instant::now(), None);
            // It fits what the kernel keeps for a new connection, which is writable at once.
            if stream.writable().await.is_ok() && stream.try_write(FULL).is_ok() {
                connection::leave(stream).await;
            }
            return;
        }
        let watched = set_socket_keepalive(&stream, true)
            .and_then(|()| set_tcp_keepidle(&stream, Duration::from_secs(KEEP_ALIVE_S)));
        if let Err(error) = watched {
            tracing::debug!("a connection is already gone: {error}");
            return;
        }
        let (number, request_id) = self.request_ids.make();
        let asker = event::Request::new(Some(peer.ip), None, &request_id, Api::Resp);
        let connection = Connection::new(self, stream, Session::new(number, asker), &stop);
        if let Err(error) = connection.run().await {
            tracing::debug!("a connection ended with {error}");
        }
    }
}
