//! A real registry behind a connection that fails in the ways a connection can.

use std::sync::Mutex;

use async_trait::async_trait;
use snowmint::Slot;
use snowmint_server::registry::{
    Changed, EmbeddedRegistry, Namespace, Registry, RegistryError, Retired, Revision, Setting, SlotState,
    Snapshot, SwapError, WindowRecord, Worker,
};

/// What happens to the calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: they pass.
    #[default]
    None,
    /// They do not get there.
    Unreachable,
    /// They get there, and the next reply to a swap is lost.
    LosesReply,
    /// They do not get there, and nobody can tell.
    LosesRequest,
}

pub struct Faulty {
    inner: EmbeddedRegistry,
    fault: Mutex<Fault>,
}

impl Faulty {
    pub fn new(inner: EmbeddedRegistry) -> Self {
        Self { inner, fault: Mutex::default() }
    }

    pub fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    pub fn fault(&self) -> Fault {
        *self.fault.lock().unwrap()
    }

    fn reachable(&self) -> Result<(), RegistryError> {
        match self.fault() {
            Fault::Unreachable => Err(RegistryError::TimedOut),
            _ => Ok(()),
        }
    }

    /// Lets a swap through, or not. Losing something happens once.
    async fn swap<T>(&self, call: impl Future<Output = Result<T, SwapError>>) -> Result<T, SwapError> {
        let fault = self.fault();
        match fault {
            Fault::None => call.await,
            Fault::Unreachable => Err(SwapError::Unavailable(RegistryError::TimedOut)),
            Fault::LosesReply => {
                self.set(Fault::None);
                call.await.and_then(|_| Err(SwapError::Unknown(RegistryError::TimedOut)))
            }
            Fault::LosesRequest => {
                self.set(Fault::None);
                Err(SwapError::Unknown(RegistryError::TimedOut))
            }
        }
    }
}

#[async_trait]
impl Registry for Faulty {
    async fn open(&self, wanted: &Namespace) -> Result<Namespace, RegistryError> {
        self.reachable()?;
        self.inner.open(wanted).await
    }

    async fn settings(&self) -> Result<(Namespace, Changed), RegistryError> {
        self.reachable()?;
        self.inner.settings().await
    }

    async fn set(&self, setting: &Setting) -> Result<(), RegistryError> {
        self.reachable()?;
        self.inner.set(setting).await
    }

    async fn snapshot(&self) -> Result<Snapshot, RegistryError> {
        self.reachable()?;
        self.inner.snapshot().await
    }

    async fn slot(&self, slot: Slot) -> Result<SlotState, RegistryError> {
        self.reachable()?;
        self.inner.slot(slot).await
    }

    async fn claim(
        &self,
        slot: Slot,
        expected: Option<Revision>,
        record: &WindowRecord,
        worker: &Worker,
    ) -> Result<Revision, SwapError> {
        self.swap(self.inner.claim(slot, expected, record, worker)).await
    }

    async fn extend(
        &self,
        slot: Slot,
        expected: Revision,
        record: &WindowRecord,
    ) -> Result<Revision, SwapError> {
        self.swap(self.inner.extend(slot, expected, record)).await
    }

    async fn retire(
        &self,
        slot: Slot,
        expected: Revision,
        record: &WindowRecord,
        retired: &Retired,
    ) -> Result<(), SwapError> {
        self.swap(self.inner.retire(slot, expected, record, retired)).await
    }

    async fn abandon(&self, slot: Slot) {
        self.inner.abandon(slot).await;
    }
}
