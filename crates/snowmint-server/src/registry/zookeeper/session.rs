//! The session with ZooKeeper: made when it is needed, and made anew when it was lost.
//!
//! A lost connection is not a lost session: the client connects again by itself, to any of the servers, and
//! the session with its ephemeral nodes and watches lives on. It is over when the servers say so, and it is
//! given up here when it does not come back soon, because the client's tries come further and further apart
//! while a new session is tried at once. What a session given up has left behind goes away with it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use zookeeper_client::{Client, Connector, Error, SessionState, TlsOptions};

use crate::registry::{RegistryError, ServerAccess};

/// For how long a server may be silent before another is asked, in milliseconds. A server that hangs is left
/// in time for a swap to be looked into elsewhere within the same call.
const SILENCE_MS_MAX: u64 = 2_000;

/// For how long a session without a connection is waited for, in milliseconds. It leaves a call the time to
/// make a new one.
const RECONNECT_MS_MAX: u64 = 1_500;

/// Makes sessions, one at a time.
pub(super) struct Sessions {
    connector: Connector,
    servers: String,
    tls: bool,
    current: Mutex<Option<Arc<Session>>>,
}

/// One session. It is closed when its last user is gone.
pub(super) struct Session {
    pub(super) client: Client,
    /// Cancelled when the session is gone from here, whatever becomes of it at the servers.
    pub(super) ended: CancellationToken,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

impl Sessions {
    pub(super) fn new(access: &ServerAccess) -> Result<Self, RegistryError> {
        let mut connector = Client::connector()
            .with_session_timeout(Duration::from_secs(access.ttl_s))
            .with_connection_timeout(Duration::from_millis(SILENCE_MS_MAX))
            .with_fail_eagerly();
        if let Some((user, password)) = &access.user {
            connector = connector.with_auth("digest", format!("{user}:{password}").as_bytes());
        }
        if access.tls {
            connector = connector.with_tls(tls(access)?);
        }
        let servers = access.servers.join(",");
        Ok(Self { connector, servers, tls: access.tls, current: Mutex::default() })
    }

    /// The session, connected. Of a call that fails here, nothing was sent.
    pub(super) async fn connected(&self) -> Result<Arc<Session>, RegistryError> {
        let mut current = self.current.lock().await;
        if let Some(session) = &*current {
            if session.connects().await {
                return Ok(Arc::clone(session));
            }
            tracing::info!("the session with {} is over", self.servers);
            *current = None;
        }
        let connector = self.connector.clone();
        let client = if self.tls {
            connector.secure_connect(&self.servers).await
        } else {
            connector.connect(&self.servers).await
        };
        let client = client.map_err(|error| self.failed(&error))?;
        let session = Arc::new(Session { client, ended: CancellationToken::new() });
        Ok(Arc::clone(current.insert(session)))
    }

    /// What an error of the client means to whoever reads it.
    pub(super) fn failed(&self, error: &Error) -> RegistryError {
        let problem = match error {
            Error::NoHosts | Error::Timeout | Error::ConnectionLoss | Error::Custom(_) => {
                format!("cannot be reached: {error}")
            }
            Error::NoAuth | Error::AuthFailed | Error::InvalidAcl => {
                format!("refuses ({error}): set zookeeper.user to who may change it")
            }
            other => format!("failed: {other}"),
        };
        RegistryError::Server { registry: format!("ZooKeeper at {}", self.servers), problem }
    }
}

impl Session {
    /// Waits until the client is connected, or says that this is not to be expected.
    async fn connects(&self) -> bool {
        let mut states = self.client.state_watcher();
        let connected = async {
            let mut state = states.peek_state();
            while state == SessionState::Disconnected {
                state = states.changed().await;
            }
            state == SessionState::SyncConnected
        };
        timeout(Duration::from_millis(RECONNECT_MS_MAX), connected).await.unwrap_or(false)
    }
}

fn tls(access: &ServerAccess) -> Result<TlsOptions, RegistryError> {
    // The client takes the process's choice, and there is none while two are compiled in. It fails where
    // the choice was made already, which is as good.
    let _ = ring::default_provider().install_default();
    for server in &access.servers {
        let host = server.rsplit_once(':').map_or(server.as_str(), |(host, _)| host);
        ServerName::try_from(host.trim_matches(['[', ']'])).map_err(|_| RegistryError::Settings {
            key: "registry",
            problem: format!("{server} has no host that a certificate could be for"),
        })?;
    }
    let system = openssl_probe::probe().cert_file;
    let ca_file = access.ca_file.as_ref().or(system.as_ref()).ok_or_else(|| RegistryError::Settings {
        key: "zookeeper.ca_file",
        problem: "it is not set, and the system has no certificates of authorities".to_owned(),
    })?;
    let unfit = |key: &'static str, path: &Path, error: Error| RegistryError::Settings {
        key,
        problem: format!("{}: {error}", path.display()),
    };
    let ca = read("zookeeper.ca_file", ca_file)?;
    let options = TlsOptions::new().with_pem_ca(&ca);
    let options = options.map_err(|error| unfit("zookeeper.ca_file", ca_file, error))?;
    let Some((cert_file, key_file)) = &access.identity else { return Ok(options) };
    let certificate = read("zookeeper.cert_file", cert_file)?;
    let key = read("zookeeper.key_file", key_file)?;
    let options = options.with_pem_identity(&certificate, &key);
    options.map_err(|error| unfit("zookeeper.key_file", key_file, error))
}

fn read(key: &'static str, path: &Path) -> Result<String, RegistryError> {
    fs::read_to_string(path)
        .map_err(|error| RegistryError::Settings { key, problem: format!("{}: {error}", path.display()) })
}
