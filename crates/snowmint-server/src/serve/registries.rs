//! Which registry a configuration means, and what it takes to open it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::config::{self, Access, Config, Servers};
use crate::registry::{
    EmbeddedRegistry, EtcdRegistry, Namespace, Registry, RegistryError, ServerAccess, ZooKeeperRegistry,
};

/// For how long a registry whose servers do not answer is tried at the start, in milliseconds, and the pause
/// between two tries.
const OPEN_WAIT_MS: u64 = 10_000;
const OPEN_PAUSE_MS: u64 = 250;

/// The registry that the configuration names.
pub(super) fn registry(config: &Config) -> Result<Arc<dyn Registry>, RegistryError> {
    match &config.registry {
        config::Registry::Embedded => Ok(Arc::new(EmbeddedRegistry::new(&config.data_dir)?)),
        _ => existing_registry(config),
    }
}

/// The same for whoever only looks: an embedded registry that is not there is not made.
pub(crate) fn existing_registry(config: &Config) -> Result<Arc<dyn Registry>, RegistryError> {
    match &config.registry {
        config::Registry::Embedded => Ok(Arc::new(EmbeddedRegistry::existing(&config.data_dir)?)),
        config::Registry::Etcd(servers) => {
            let access = access(servers, &config.etcd, "etcd.password_file", config.lease.ttl_s)?;
            Ok(Arc::new(EtcdRegistry::new(access)?))
        }
        config::Registry::ZooKeeper { servers, chroot } => {
            let access = access(servers, &config.zookeeper, "zookeeper.password_file", config.lease.ttl_s)?;
            Ok(Arc::new(ZooKeeperRegistry::new(&access, chroot)?))
        }
    }
}

fn access(
    servers: &Servers,
    access: &Access,
    password_key: &'static str,
    ttl_s: u64,
) -> Result<ServerAccess, RegistryError> {
    Ok(ServerAccess {
        servers: servers.addresses.clone(),
        tls: servers.tls,
        ca_file: access.ca_file.clone(),
        identity: access.cert_file.clone().zip(access.key_file.clone()),
        user: user(access, password_key)?,
        ttl_s,
    })
}

/// The user and the password, which is read from its file.
fn user(access: &Access, key: &'static str) -> Result<Option<(String, String)>, RegistryError> {
    let (Some(user), Some(file)) = (&access.user, &access.password_file) else { return Ok(None) };
    let password = config::password(file).map_err(|problem| RegistryError::Settings { key, problem })?;
    Ok(Some((user.clone(), password)))
}

/// The registry, for people.
pub(super) fn name(config: &Config) -> String {
    match &config.registry {
        config::Registry::Embedded => format!("embedded in {}", config.data_dir.display()),
        registry => registry.to_string(),
    }
}

/// Opens the namespace. Servers that do not answer yet are waited for: all may be starting at once.
pub(super) async fn open(
    registry: &dyn Registry,
    wanted: &Namespace,
    stop: &CancellationToken,
) -> Result<Namespace, RegistryError> {
    let started = Instant::now();
    let mut told = false;
    loop {
        match registry.open(wanted).await {
            Err(error @ (RegistryError::Server { .. } | RegistryError::TimedOut))
                if started.elapsed() < Duration::from_millis(OPEN_WAIT_MS) && !stop.is_cancelled() =>
            {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!("{error}; trying for {OPEN_WAIT_MS} ms");
                }
                tokio::time::sleep(Duration::from_millis(OPEN_PAUSE_MS)).await;
            }
            known => return known,
        }
    }
}
