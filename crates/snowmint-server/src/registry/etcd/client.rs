//! Calls to etcd: one server after the other, within the time that a call to a registry may take.
//!
//! Why not tonic's own balancing: it spreads calls over all servers that accept connections, so that one that
//! was stopped or cut off, and whose connections stand, swallows its share of them for as long as it is so.
//! Here all calls go to one server until it fails one; the same call then goes to the next, and later ones
//! follow. A server that died costs nothing, one that fell silent costs one call a part of its time.

use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, ConnectError, Request, Response, Status, Streaming};

use super::super::{CALL_MS_MAX, RegistryError, ServerAccess, SwapError};
use super::proto::auth_client::AuthClient;
use super::proto::kv_client::KvClient;
use super::proto::lease_client::LeaseClient;
use super::proto::watch_client::WatchClient;
use super::proto::{
    AuthenticateRequest, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseRevokeRequest,
    TxnRequest, TxnResponse, WatchCreateRequest, WatchRequest, WatchResponse, watch_request,
};
use super::tls;

/// How often a call is tried. A single server gets a second try, on a new connection; of many, three are
/// asked, so that each has long enough to answer.
const TRIES_MIN: u32 = 2;
const TRIES_MAX: u32 = 3;

/// The longest a connection takes to be made, in milliseconds. Shorter than a try, so that it is known that
/// nothing was sent.
const CONNECT_MS_MAX: u64 = 500;

/// How often a server that watches for us is asked whether it is still there, in seconds, and how long it has
/// to answer. etcd hangs up on who asks more often than every 5 s.
const KEEP_ALIVE_S: u64 = 6;
const KEEP_ALIVE_ANSWER_S: u64 = 2;

/// The largest reply that is read, in bytes: a thousand slots take half a megabyte.
const REPLY_BYTES_MAX: usize = 64 << 20;

/// A client of all servers of one etcd.
pub(super) struct Client {
    servers: Vec<Server>,
    /// The index of the server that is asked first: to begin with, the first.
    preferred: AtomicUsize,
    user: Option<(String, String)>,
    /// What stands for user and password, once a server has asked for them.
    token: Mutex<Token>,
}

struct Server {
    address: String,
    endpoint: Endpoint,
    /// Made by the first call to it, and anew where it fell silent: an old connection that was cut off would
    /// take its time to notice that it is not any more.
    channel: Mutex<Option<Channel>>,
}

type Connection = InterceptedService<Channel, Token>;

#[derive(Clone, Default)]
struct Token(Option<MetadataValue<Ascii>>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("token", token.clone());
        }
        Ok(request)
    }
}

/// What came of a call that was answered.
pub(super) struct Reply<T> {
    pub(super) message: T,
    /// An earlier try, that got no answer, may have been served as well.
    pub(super) repeated: bool,
    server: usize,
}

/// Why a call came to nothing.
#[derive(Debug)]
pub(super) struct Failure {
    error: RegistryError,
    /// What was asked for may have been done, or still may be.
    pub(super) doubt: bool,
    /// It named a lease that there is not.
    pub(super) lease_lost: bool,
}

impl From<Failure> for RegistryError {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

impl From<Failure> for SwapError {
    fn from(failure: Failure) -> Self {
        if failure.doubt { Self::Unknown(failure.error) } else { Self::Unavailable(failure.error) }
    }
}

/// Why one try failed.
enum Trouble {
    /// There was no connection: nothing was sent.
    Unreachable(String),
    /// It was sent, and what became of it is not known.
    NoAnswer(String),
    /// The server will not do it, nor would another.
    Refused(Status),
}

impl Client {
    pub(super) fn new(access: ServerAccess) -> Result<Self, RegistryError> {
        let tls = if access.tls { Some(tls::config(&access)?) } else { None };
        let server = |address: String| {
            let endpoint = tls::endpoint(&address, tls.clone())?
                .connect_timeout(Duration::from_millis(CONNECT_MS_MAX))
                .http2_keep_alive_interval(Duration::from_secs(KEEP_ALIVE_S))
                .keep_alive_timeout(Duration::from_secs(KEEP_ALIVE_ANSWER_S));
            Ok(Server { address, endpoint, channel: Mutex::default() })
        };
        let servers = access.servers.into_iter().map(server).collect::<Result<Vec<_>, RegistryError>>()?;
        if servers.is_empty() {
            return Err(tls::unusable("registry", "there are none"));
        }
        Ok(Self { servers, preferred: AtomicUsize::new(0), user: access.user, token: Mutex::default() })
    }

    pub(super) async fn txn(
        &self,
        deadline: Instant,
        txn: TxnRequest,
    ) -> Result<Reply<TxnResponse>, Failure> {
        self.call(deadline, |connection| {
            let txn = txn.clone();
            async move { KvClient::new(connection).max_decoding_message_size(REPLY_BYTES_MAX).txn(txn).await }
        })
        .await
    }

    pub(super) async fn grant(
        &self,
        deadline: Instant,
        ttl_s: i64,
    ) -> Result<LeaseGrantResponse, RegistryError> {
        let granted = self.call(deadline, |connection| async move {
            LeaseClient::new(connection).lease_grant(LeaseGrantRequest { ttl: ttl_s }).await
        });
        Ok(granted.await?.message)
    }

    pub(super) async fn revoke(&self, deadline: Instant, lease: i64) -> Result<(), Failure> {
        let revoked = self.call(deadline, |connection| async move {
            LeaseClient::new(connection).lease_revoke(LeaseRevokeRequest { id: lease }).await
        });
        revoked.await.map(|_| ())
    }

    /// Renews a lease, or says (`false`) that there is none.
    pub(super) async fn renew(&self, deadline: Instant, lease: i64) -> Result<bool, Failure> {
        let renewed = self.call(deadline, |connection| async move {
            let request = stream::iter([LeaseKeepAliveRequest { id: lease }]);
            let mut replies = LeaseClient::new(connection).lease_keep_alive(request).await?.into_inner();
            let reply = replies.message().await?;
            reply.map(Response::new).ok_or_else(|| Status::unavailable("the stream ended"))
        });
        Ok(renewed.await?.message.ttl > 0)
    }

    /// Starts to watch. It ends with an error where the server falls silent or loses its leader.
    pub(super) async fn watch(
        &self,
        deadline: Instant,
        what: WatchCreateRequest,
    ) -> Result<Watching<'_>, Failure> {
        let opened = self.call(deadline, |connection| {
            let create = watch_request::RequestUnion::CreateRequest(what.clone());
            async move {
                // The server ends the watch when the requests end.
                let requests = stream::iter([WatchRequest { request_union: Some(create) }]);
                let mut request = Request::new(requests.chain(stream::pending()));
                request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
                WatchClient::new(connection).watch(request).await
            }
        });
        let Reply { message: events, server, .. } = opened.await?;
        Ok(Watching { client: self, server, events })
    }

    /// Calls one server after the other until one answers, or refuses.
    async fn call<T, F>(&self, deadline: Instant, send: impl Fn(Connection) -> F) -> Result<Reply<T>, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let (mut doubt, mut authenticated) = (false, false);
        let servers = u32::try_from(self.servers.len()).unwrap_or(TRIES_MAX);
        let mut tries_left = servers.clamp(TRIES_MIN, TRIES_MAX);
        loop {
            let server = self.preferred.load(Ordering::Relaxed);
            let now = Instant::now();
            let until = now + deadline.saturating_duration_since(now) / tries_left;
            let trouble = match self.attempt(server, until, &send).await {
                Ok(message) => return Ok(Reply { message, repeated: doubt, server }),
                Err(Trouble::Refused(status)) if !authenticated && self.wants_user(&status) => {
                    authenticated = true;
                    match self.authenticate(server, until).await {
                        Ok(()) => continue,
                        Err(trouble) => trouble,
                    }
                }
                Err(trouble) => trouble,
            };
            let (problem, lease_lost, last) = match trouble {
                Trouble::Refused(status) => {
                    let lease_lost = status.code() == Code::NotFound;
                    (format!("refused: {}", status.message()), lease_lost, true)
                }
                Trouble::Unreachable(why) => (format!("cannot be reached: {why}"), false, false),
                Trouble::NoAnswer(why) => {
                    doubt = true;
                    (format!("did not answer: {why}"), false, false)
                }
            };
            tracing::debug!(server = self.servers[server].address, "etcd {problem}");
            tries_left -= 1;
            if last || tries_left == 0 {
                let error = RegistryError::Server { registry: self.name(), problem };
                return Err(Failure { error, doubt, lease_lost });
            }
            self.avoid(server);
        }
    }

    async fn attempt<T, F>(
        &self,
        server: usize,
        until: Instant,
        send: impl Fn(Connection) -> F,
    ) -> Result<T, Trouble>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let server = &self.servers[server];
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let connection = InterceptedService::new(server.channel(), token);
        let began = Instant::now();
        match tokio::time::timeout_at(until, send(connection)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(server.trouble(status)),
            Err(_) => {
                server.disconnect();
                let silent_ms = began.elapsed().as_millis();
                Err(Trouble::NoAnswer(format!("{} was silent for {silent_ms} ms", server.address)))
            }
        }
    }

    /// Whether it is the user's name and password that are missing, or have to be given again: tokens run out,
    /// and are forgotten by a server that restarts.
    fn wants_user(&self, status: &Status) -> bool {
        let reasons = ["user name is empty", "revision of auth store is old"];
        self.user.is_some()
            && (status.code() == Code::Unauthenticated
                || reasons.iter().any(|reason| status.message().contains(reason)))
    }

    async fn authenticate(&self, server: usize, until: Instant) -> Result<(), Trouble> {
        let (name, password) = self.user.clone().unwrap_or_default();
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Token::default();
        let reply = self.attempt(server, until, |connection| {
            let request = AuthenticateRequest { name: name.clone(), password: password.clone() };
            async move { AuthClient::new(connection).authenticate(request).await }
        });
        let token = reply.await?.token.parse();
        let token = token.map_err(|_| Trouble::Refused(Status::unauthenticated("its token is no text")))?;
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Token(Some(token));
        Ok(())
    }

    /// Lets the calls that follow begin with the next server.
    fn avoid(&self, server: usize) {
        let next = (server + 1) % self.servers.len();
        // Where it fails, another call has moved on already.
        let _ = self.preferred.compare_exchange(server, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn name(&self) -> String {
        let addresses: Vec<_> = self.servers.iter().map(|server| server.address.as_str()).collect();
        format!("etcd at {}", addresses.join(","))
    }
}

impl Server {
    fn channel(&self) -> Channel {
        let mut channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        channel.get_or_insert_with(|| self.endpoint.connect_lazy()).clone()
    }

    fn disconnect(&self) {
        *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn trouble(&self, status: Status) -> Trouble {
        let Some(cause) = causes(&status).last() else {
            // From the server itself.
            return if refused(status.code()) {
                Trouble::Refused(status)
            } else {
                Trouble::NoAnswer(format!("{} says {}", self.address, status.message()))
            };
        };
        let cause = format!("{}: {cause}", self.address);
        if causes(&status).any(<dyn Error>::is::<ConnectError>) {
            Trouble::Unreachable(cause)
        } else {
            Trouble::NoAnswer(cause)
        }
    }
}

/// What led to a status on this side of the connection.
fn causes(status: &Status) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(status.source(), |&error| error.source())
}

/// Whether a server that answers so has not done what it was asked to, and will not. "Unavailable" is not among
/// these: etcd says it of what it has proposed and not seen applied.
fn refused(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::ResourceExhausted
            | Code::Unimplemented
    )
}

/// A watch that is going on.
pub(super) struct Watching<'a> {
    client: &'a Client,
    server: usize,
    events: Streaming<WatchResponse>,
}

impl Watching<'_> {
    /// What the server says next; nothing where the watch broke off, and another server should be asked.
    pub(super) async fn next(&mut self) -> Option<WatchResponse> {
        let next = self.events.message().await.ok().flatten();
        if next.is_none() {
            self.client.avoid(self.server);
        }
        next
    }
}

/// When a call that begins now has to be over.
pub(super) fn deadline() -> Instant {
    Instant::now() + Duration::from_millis(CALL_MS_MAX)
}
