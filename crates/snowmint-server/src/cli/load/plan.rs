//! What is asked for, of whom, and how often.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::answer::{self, Malformed};
use super::grpc::Caller;
use super::seen::Run;
use crate::cli::server_url::{ServerUrl, ServerUrlError};

/// How the URL of a server that is asked over gRPC begins.
const GRPC_SCHEME: &str = "grpc://";
/// How long to wait for a connection.
pub(super) const CONNECT_WAIT: Duration = Duration::from_secs(5);

/// What one request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Demand {
    /// One ID.
    Single,
    /// This many IDs, as a list.
    Batch(u32),
    /// This many IDs, as ranges.
    Ranges(u32),
    /// Whatever the URL's own path gives: no ID is read from it.
    Path,
}

impl Demand {
    fn path(self) -> String {
        match self {
            Self::Single => "/api/v1/id".to_owned(),
            Self::Batch(count) => format!("/api/v1/ids?count={count}"),
            Self::Ranges(count) => format!("/api/v1/ranges?count={count}"),
            Self::Path => String::new(),
        }
    }

    pub(super) fn ids(self) -> u64 {
        match self {
            Self::Single => 1,
            Self::Batch(count) | Self::Ranges(count) => count.into(),
            Self::Path => 0,
        }
    }

    /// Reads the IDs of an answer's body, and says how many there are.
    pub(super) fn read(self, body: &[u8], each: impl FnMut(Run)) -> Result<u64, Malformed> {
        match self {
            Self::Single => answer::single(body, each),
            Self::Batch(_) => answer::list(body, each),
            Self::Ranges(_) => answer::ranges(body, each),
            Self::Path => Ok(0),
        }
    }
}

/// A server, and the protocol that it is asked in.
#[derive(Clone, Debug)]
pub(in crate::cli) enum Target {
    Rest(ServerUrl),
    Grpc(ServerUrl),
}

impl Target {
    pub(super) fn url(&self) -> &ServerUrl {
        match self {
            Self::Rest(url) | Self::Grpc(url) => url,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rest(url) => write!(f, "{url}"),
            Self::Grpc(url) => write!(f, "{GRPC_SCHEME}{}", url.authority()),
        }
    }
}

impl FromStr for Target {
    type Err = ServerUrlError;

    fn from_str(text: &str) -> Result<Self, ServerUrlError> {
        match text.strip_prefix(GRPC_SCHEME) {
            Some(rest) => format!("http://{rest}").parse().map(Self::Grpc),
            None => text.parse().map(Self::Rest),
        }
    }
}

/// A load.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Plan {
    /// Of what server.
    pub(in crate::cli) target: Target,
    /// What each request asks for.
    pub(in crate::cli) demand: Demand,
    /// For how long.
    pub(in crate::cli) duration: Duration,
    /// Over how many connections.
    pub(in crate::cli) connections: u32,
    /// Requests a second that are aimed at, all connections together.
    pub(in crate::cli) rate: Option<u32>,
    /// Whether the IDs are read, and checked for duplicates.
    pub(in crate::cli) check: bool,
}

impl Plan {
    pub(super) fn request(&self) -> Vec<u8> {
        let url = self.target.url();
        let path = format!("{}{}", url.path(), self.demand.path());
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", url.authority()).into_bytes()
    }

    pub(super) async fn connect(&self) -> io::Result<Link> {
        match &self.target {
            Target::Rest(url) => {
                let stream = timeout(CONNECT_WAIT, TcpStream::connect(url.address())).await??;
                stream.set_nodelay(true)?;
                Ok(Link::Rest(stream))
            }
            Target::Grpc(url) => {
                Caller::connect(&url.authority()).await.map(Link::Grpc).map_err(io::Error::other)
            }
        }
    }
}

/// A connection to the server.
pub(super) enum Link {
    Rest(TcpStream),
    Grpc(Caller),
}
