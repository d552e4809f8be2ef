//! Where slots, their windows and the namespace's settings are kept: one trait, one module a backend.

mod embedded;
mod etcd;
mod key;
mod record;
mod tree;
mod zookeeper;

use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use snowmint::{Claim, Slot, Window};
use tokio::time::Instant;

pub use embedded::EmbeddedRegistry;
pub use etcd::EtcdRegistry;
pub use record::{
    CLOCK_DRIFT_THRESHOLD_MS, Datacenter, Namespace, Owner, Retired, Setting, SlotState, Snapshot,
    WindowRecord, Worker, timestamp,
};
pub use zookeeper::ZooKeeperRegistry;

/// Which version of a window record was read. It changes with every change of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Revision(pub u64);

/// A store of slots.
///
/// What every backend owes, and the contract suite checks:
///
/// * **Linearizable and durable.** A swap that returned `Ok` is seen by every later read of every node, and
///   survives the loss of power.
/// * **Compare-and-swap.** A record changes only from the expected revision (`None`: there is no record).
///   Otherwise nothing changes at all, and the answer is [`SwapError::Conflict`].
/// * **One change.** What a call changes (window, worker, retired entry) changes together or not at all.
/// * **Honest about doubt.** [`SwapError::Unavailable`] only where the swap can never take effect any more;
///   if it may have, or still may, it is [`SwapError::Unknown`].
/// * **Bounded.** Every call ends within [`CALL_MS_MAX`].
///
/// Liveness (a [`Worker`] that disappears with its process) only says who looks alive. No backend needs to
/// get it right for IDs to be unique.
#[async_trait]
pub trait Registry: Send + Sync + 'static {
    /// Writes `wanted` where nothing stands yet, and returns what stands.
    async fn open(&self, wanted: &Namespace) -> Result<Namespace, RegistryError>;

    /// The shared settings, and when it is worth reading them again.
    async fn settings(&self) -> Result<(Namespace, Changed), RegistryError>;

    /// Changes one setting.
    async fn set(&self, setting: &Setting) -> Result<(), RegistryError>;

    /// Everything there is. Each slot is as it was at one moment of the call.
    async fn snapshot(&self) -> Result<Snapshot, RegistryError>;

    /// One slot, by a read that sees every swap completed before it.
    async fn slot(&self, slot: Slot) -> Result<SlotState, RegistryError>;

    /// Takes a slot: its window record becomes `record`, `worker` is alive on it, and it is not retired any
    /// more. A slot on which another node's worker looks alive is a conflict.
    async fn claim(
        &self,
        slot: Slot,
        expected: Option<Revision>,
        record: &WindowRecord,
        worker: &Worker,
    ) -> Result<Revision, SwapError>;

    /// Changes the window record of a slot that is held, and sees to it that its worker looks alive.
    async fn extend(
        &self,
        slot: Slot,
        expected: Revision,
        record: &WindowRecord,
    ) -> Result<Revision, SwapError>;

    /// Gives a slot back: its worker is gone, `retired` says until when it cools down.
    ///
    /// `record` is the one that stands. It gets a new revision, so that whoever believes to hold the slot
    /// after somebody else gave it back is told at the next extension.
    async fn retire(
        &self,
        slot: Slot,
        expected: Revision,
        record: &WindowRecord,
        retired: &Retired,
    ) -> Result<(), SwapError>;

    /// Lets a slot that was lost look free, as far as that can be done: the window is not touched.
    async fn abandon(&self, slot: Slot);
}

/// Ends when the settings may have changed since they were read. A hint: it may come without reason, and
/// a registry that is away may hold it back.
pub type Changed = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where the servers of a registry are, and how to talk to them.
// Not `Debug`: it has a password.
#[derive(Clone)]
pub struct ServerAccess {
    /// The servers, as `host:port`.
    pub servers: Vec<String>,
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

/// The longest a call to a registry takes, in milliseconds. A swap that got no answer and the read that looks
/// into it are over before a window of the usual length is.
pub const CALL_MS_MAX: u64 = 2_500;

/// For how long a swap of unknown outcome is looked into and repeated, in milliseconds. Calls that are
/// under way then are not cut short.
const RESOLVE_MS_MAX: u64 = CALL_MS_MAX;

/// The pause before such a swap is repeated, in milliseconds.
const RESOLVE_PAUSE_MS: u64 = 50;

/// What a claim is for.
#[derive(Clone, Copy)]
pub enum Purpose<'a> {
    /// To take a slot.
    Take {
        /// The revision its record had, if it had one.
        expected: Option<Revision>,
        /// Who takes it.
        worker: &'a Worker,
    },
    /// To go on holding one.
    Hold {
        /// The revision of the last swap.
        expected: Revision,
    },
}

impl Purpose<'_> {
    fn expected(&self) -> Option<Revision> {
        match *self {
            Self::Take { expected, .. } => expected,
            Self::Hold { expected } => Some(expected),
        }
    }
}

/// A claim, and the record that makes it a window once it is durable.
#[derive(Debug)]
pub struct Wanted {
    /// What is asked for.
    pub claim: Claim,
    /// What has to become durable.
    pub record: WindowRecord,
}

/// A claim that was not granted.
#[derive(Debug)]
pub struct NotGranted {
    /// Why.
    pub error: SwapError,
    /// Where it is unknown what became of it: to be granted again, as it is, before anything else is asked
    /// for. Whichever try takes effect then, it is this record.
    pub unknown: Option<Wanted>,
}

/// Makes a claim durable, and only then a window.
///
/// This is the one place where [`Claim::granted`] is called: a window exists because a backend confirmed
/// its record, or because a later read found exactly that record.
pub async fn grant(
    registry: &dyn Registry,
    wanted: Wanted,
    purpose: Purpose<'_>,
) -> Result<(Window, Revision), NotGranted> {
    debug_assert_eq!(wanted.record.ceiling, wanted.claim.ceiling().id());
    match confirm(registry, wanted.claim.slot(), &wanted.record, purpose).await {
        #[expect(
            clippy::disallowed_methods,
            reason = "the registry has confirmed that the record is durable"
        )]
        Ok(revision) => Ok((wanted.claim.granted(), revision)),
        Err(error) => {
            let unknown = matches!(error, SwapError::Unknown(_)).then_some(wanted);
            Err(NotGranted { error, unknown })
        }
    }
}

/// Swaps until it is known what became of it, or it took too long.
async fn confirm(
    registry: &dyn Registry,
    slot: Slot,
    record: &WindowRecord,
    purpose: Purpose<'_>,
) -> Result<Revision, SwapError> {
    let started = Instant::now();
    loop {
        let doubt = match swap(registry, slot, record, purpose).await {
            // A conflict may be this very swap, from a try whose reply was lost.
            Err(doubt @ (SwapError::Unknown(_) | SwapError::Conflict { .. })) => doubt,
            known => return known,
        };
        let window = registry.slot(slot).await.map_err(SwapError::Unknown)?.window;
        match window {
            Some((ref stands, revision)) if stands == record => return Ok(revision),
            window if window.as_ref().map(|(_, revision)| *revision) != purpose.expected() => {
                return Err(SwapError::Conflict { holder: window.map(|(stands, _)| stands.owner) });
            }
            // The record is as it was. A conflict then is about the slot's worker, not its record.
            _ if matches!(doubt, SwapError::Conflict { .. }) => return Err(doubt),
            _ if started.elapsed() >= Duration::from_millis(RESOLVE_MS_MAX) => return Err(doubt),
            _ => tokio::time::sleep(Duration::from_millis(RESOLVE_PAUSE_MS)).await,
        }
    }
}

async fn swap(
    registry: &dyn Registry,
    slot: Slot,
    record: &WindowRecord,
    purpose: Purpose<'_>,
) -> Result<Revision, SwapError> {
    match purpose {
        Purpose::Take { expected, worker } => registry.claim(slot, expected, record, worker).await,
        Purpose::Hold { expected } => registry.extend(slot, expected, record).await,
    }
}

/// Why a registry could not be read, or refuses to be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The data directory cannot be used.
    #[error("{doing} {path}: {source}{hint}")]
    File {
        /// What was being done, such as `cannot write`.
        doing: &'static str,
        /// To which file.
        path: String,
        /// What the system said.
        source: std::io::Error,
        /// What to do about it, or nothing.
        hint: &'static str,
    },
    /// The registry's file is damaged.
    #[error(
        "the registry file {path} is damaged ({reason}). It is never guessed at, because IDs could repeat: \
         restore the newest intact copy, or, once every node that used it has been stopped for longer than \
         its window, move the file away and start anew"
    )]
    Corrupt {
        /// Which file.
        path: String,
        /// How it shows.
        reason: String,
    },
    /// The registry's file is of a later version of the program.
    #[error("the registry file {path} has format {found}, this version of snowmint knows {known}")]
    Format {
        /// Which file.
        path: String,
        /// Its format.
        found: String,
        /// The format known here.
        known: &'static str,
    },
    /// Another process keeps the registry locked.
    #[error("the registry {path} has been locked by another process for {waited_ms} ms")]
    Busy {
        /// Which lock file.
        path: String,
        /// For how long it was waited.
        waited_ms: u64,
    },
    /// A call had to be given up.
    #[error("the registry did not answer within {CALL_MS_MAX} ms")]
    TimedOut,
    /// The registry's servers cannot be reached, or refuse.
    #[error("the registry {registry} {problem}")]
    Server {
        /// Which registry.
        registry: String,
        /// What it said, or what became of the connection.
        problem: String,
    },
    /// What is needed to talk to the registry is not there or of no use.
    #[error("{key} cannot be used: {problem}")]
    Settings {
        /// The configuration's key.
        key: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// There is nothing in the registry.
    #[error("the registry is empty: no node has used it yet")]
    Unused,
    /// A shared setting is none.
    #[error("the registry's {key} is {value}, and {wanted} is wanted")]
    Setting {
        /// Which.
        key: String,
        /// What stands there.
        value: String,
        /// What would be right.
        wanted: &'static str,
    },
}

/// Why a swap did not, or may not, have happened.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// The record is not the expected one any more, or another worker looks alive on the slot.
    #[error("the slot was taken{}", holder.as_ref().map(|o| format!(" by {o}")).unwrap_or_default())]
    Conflict {
        /// Whose it is now, where that is known.
        holder: Option<Owner>,
    },
    /// It did not happen and never will.
    #[error(transparent)]
    Unavailable(RegistryError),
    /// It may have happened, or may still: read again before acting on it.
    #[error("it is not known whether the registry took the change: {0}")]
    Unknown(RegistryError),
}
