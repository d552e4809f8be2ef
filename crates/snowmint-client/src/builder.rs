//! What a client is told before it starts.

use std::ops::RangeInclusive;
use std::time::Duration;

use tonic::transport::Endpoint;

use crate::blocking;
use crate::client::Client;
use crate::servers::Servers;

/// The most IDs that a server gives at once.
pub const LEASE_IDS_MAX: u32 = 1_000_000;

const LEASE_IDS_MIN: u32 = 256;
const DEADLINE: Duration = Duration::from_secs(5);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_AGE: Duration = Duration::from_secs(1);

/// What a greatest age may be. With a lower one, IDs would expire on their way; and in a higher one there is no sense.
const MAX_AGE_BOUNDS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_hours(1);

/// How often a connection is tried with nothing to say, and how long an answer may take.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A client that is not there yet: [`Client::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    servers: Vec<String>,
    settings: Settings,
    #[cfg(feature = "tls")]
    tls: Option<tonic::transport::ClientTlsConfig>,
}

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) deadline: Duration,
    pub(crate) attempt_timeout: Duration,
    pub(crate) max_age: Duration,
    pub(crate) lease_ids: RangeInclusive<u32>,
}

impl Settings {
    pub(crate) fn max_age_ns(&self) -> u64 {
        u64::try_from(self.max_age.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// There is nobody to lease from.
    #[error("no server was named: give at least one, like http://127.0.0.1:9090")]
    NoServers,
    /// A server is not named by its URL.
    #[error("{server:?} is not the URL of a server, such as http://127.0.0.1:9090")]
    Server {
        /// What was given.
        server: String,
    },
    /// TLS cannot be set up as it was asked for.
    #[cfg(feature = "tls")]
    #[error("TLS cannot be set up so")]
    Tls(#[source] tonic::transport::Error),
    /// A server wants TLS, and the feature is off.
    #[error("{server} needs TLS: build snowmint-client with its feature `tls`")]
    NoTls {
        /// Which server.
        server: String,
    },
    /// A greatest age that no client can keep to.
    #[error("the greatest age is {max_age:?}, it must be from {:?} to {:?}", MAX_AGE_BOUNDS.start(), MAX_AGE_BOUNDS.end())]
    MaxAge {
        /// What was given.
        max_age: Duration,
    },
    /// Leases that no server gives.
    #[error(
        "leases of {lease_ids:?} IDs were asked for, it must be within 1 to {LEASE_IDS_MAX}, the lower bound first"
    )]
    LeaseIds {
        /// What was given.
        lease_ids: RangeInclusive<u32>,
    },
    /// There is nothing to lease in the background with.
    #[error("there is no tokio runtime here: build the client inside of one, or use `build_blocking`")]
    NoRuntime,
    /// A blocking client could not start its own runtime.
    #[error("the client's thread cannot be started")]
    Runtime(#[source] std::io::Error),
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            settings: Settings {
                deadline: DEADLINE,
                attempt_timeout: ATTEMPT_TIMEOUT,
                max_age: MAX_AGE,
                lease_ids: LEASE_IDS_MIN..=LEASE_IDS_MAX,
            },
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

impl Builder {
    /// The gRPC URLs of the servers, such as `http://127.0.0.1:9090`.
    #[must_use]
    pub fn servers(mut self, servers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.servers = servers.into_iter().map(Into::into).collect();
        self
    }

    /// How long a call may take, where it has to wait for servers: 5 s by default.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.settings.deadline = deadline;
        self
    }

    /// After how long without an answer another server is asked: 1 s by default. Half the greatest age should be less, because
    /// that is how long a server that is used to the full may take.
    #[must_use]
    pub fn attempt_timeout(mut self, attempt_timeout: Duration) -> Self {
        self.settings.attempt_timeout = attempt_timeout;
        self
    }

    /// How old an ID may be when it is handed out, counted from before it was asked for: 1 s by default, 10 ms to 1 h.
    #[must_use]
    pub fn max_age(mut self, max_age: Duration) -> Self {
        self.settings.max_age = max_age;
        self
    }

    /// How many IDs are leased at a time: 256 to 1,000,000 by default, within which it follows the rate.
    #[must_use]
    pub fn lease_ids(mut self, lease_ids: RangeInclusive<u32>) -> Self {
        self.settings.lease_ids = lease_ids;
        self
    }

    /// Whom to trust, and who to be, where servers have `https://` URLs.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: tonic::transport::ClientTlsConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Starts the client, in the tokio runtime that this is called in. It connects and leases in the background; servers that
    /// are down are no error here.
    pub fn build(self) -> Result<Client, BuildError> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(BuildError::NoRuntime);
        }
        let Settings { max_age, lease_ids, attempt_timeout, .. } = &self.settings;
        if !MAX_AGE_BOUNDS.contains(max_age) {
            return Err(BuildError::MaxAge { max_age: *max_age });
        }
        if lease_ids.is_empty() || *lease_ids.start() == 0 || *lease_ids.end() > LEASE_IDS_MAX {
            return Err(BuildError::LeaseIds { lease_ids: lease_ids.clone() });
        }
        let endpoints =
            self.servers.iter().map(|server| self.endpoint(server)).collect::<Result<Vec<_>, _>>()?;
        if endpoints.is_empty() {
            return Err(BuildError::NoServers);
        }
        let attempt = *attempt_timeout;
        Ok(Client::start(self.settings, |counters| Servers::new(endpoints, attempt, counters)))
    }

    /// Starts a client for code that is not `async`, with a thread of its own.
    pub fn build_blocking(self) -> Result<blocking::Client, BuildError> {
        blocking::Client::start(self)
    }

    fn endpoint(&self, server: &str) -> Result<(String, Endpoint), BuildError> {
        let wrong = || BuildError::Server { server: server.to_owned() };
        let endpoint = Endpoint::from_shared(server.to_owned()).map_err(|_| wrong())?;
        if !matches!(endpoint.uri().scheme_str(), Some("http" | "https")) {
            return Err(wrong());
        }
        let endpoint = endpoint
            .user_agent(concat!("snowmint-client/", env!("CARGO_PKG_VERSION")))
            .expect("it is plain text")
            .connect_timeout(self.settings.attempt_timeout)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        #[cfg(not(feature = "tls"))]
        if endpoint.uri().scheme_str() == Some("https") {
            return Err(BuildError::NoTls { server: server.to_owned() });
        }
        #[cfg(feature = "tls")]
        let endpoint = if endpoint.uri().scheme_str() == Some("https") {
            let tls = self
                .tls
                .clone()
                .unwrap_or_else(|| tonic::transport::ClientTlsConfig::new().with_native_roots());
            endpoint.tls_config(tls).map_err(BuildError::Tls)?
        } else {
            endpoint
        };
        Ok((server.to_owned(), endpoint))
    }
}
