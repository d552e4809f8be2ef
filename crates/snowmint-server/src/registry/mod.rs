//! Where slots, their windows and the namespace's settings are kept: one trait, one module a backend.

mod embedded;
mod record;

use async_trait::async_trait;
use snowmint::{Claim, Slot, Window};

pub use embedded::EmbeddedRegistry;
pub use record::{Namespace, Owner, Retired, SlotState, Snapshot, WindowRecord, Worker, timestamp};

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

    /// Everything there is, as of one moment.
    async fn snapshot(&self) -> Result<Snapshot, RegistryError>;

    /// One slot, by a read that sees every swap completed before it.
    async fn slot(&self, slot: Slot) -> Result<SlotState, RegistryError>;

    /// Takes a slot: its window record becomes `record`, `worker` is alive on it, and it is not retired any
    /// more. A slot on which another worker looks alive is a conflict.
    async fn claim(
        &self,
        slot: Slot,
        expected: Option<Revision>,
        record: &WindowRecord,
        worker: &Worker,
    ) -> Result<Revision, SwapError>;

    /// Changes the window record of a slot that is held.
    async fn extend(
        &self,
        slot: Slot,
        expected: Revision,
        record: &WindowRecord,
    ) -> Result<Revision, SwapError>;

    /// Gives a held slot back: its worker is gone, `retired` says until when it cools down.
    async fn retire(&self, slot: Slot, expected: Revision, retired: &Retired) -> Result<(), SwapError>;

    /// Forgets that this process holds the slot, after it was lost: no write, only what is kept locally.
    async fn abandon(&self, slot: Slot);
}

/// The longest a call to a registry takes, in milliseconds.
pub const CALL_MS_MAX: u64 = 5_000;

/// How often an unknown outcome is looked into before it is handed up as one.
const RESOLVE_ATTEMPTS_MAX: u32 = 5;

/// The first pause between two looks, in milliseconds; each later one is twice as long.
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

/// Makes a claim durable, and only then a window.
///
/// This is the one place where [`Claim::granted`] is called: a window exists because a backend confirmed
/// its record, or because a later read found exactly that record.
pub async fn grant(
    registry: &dyn Registry,
    claim: Claim,
    record: &WindowRecord,
    purpose: Purpose<'_>,
) -> Result<(Window, Revision), SwapError> {
    let slot = claim.slot();
    debug_assert_eq!(record.ceiling, claim.ceiling().id());
    let revision = match swap(registry, slot, record, purpose).await {
        Ok(revision) => revision,
        // A conflict may be this very swap, from a try whose reply was lost.
        Err(doubt @ (SwapError::Unknown(_) | SwapError::Conflict { .. })) => {
            resolve(registry, slot, record, purpose, doubt).await?
        }
        Err(unavailable) => return Err(unavailable),
    };
    #[expect(clippy::disallowed_methods, reason = "the registry has confirmed that the record is durable")]
    Ok((claim.granted(), revision))
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

/// Reads the record until it is known what became of a swap, repeating the same swap where it did not
/// happen: whichever of the two takes effect, it is this record.
async fn resolve(
    registry: &dyn Registry,
    slot: Slot,
    record: &WindowRecord,
    purpose: Purpose<'_>,
    mut doubt: SwapError,
) -> Result<Revision, SwapError> {
    let expected = match purpose {
        Purpose::Take { expected, .. } => expected,
        Purpose::Hold { expected } => Some(expected),
    };
    for attempt in 0..RESOLVE_ATTEMPTS_MAX {
        match registry.slot(slot).await {
            Ok(state) => match state.window {
                Some((ref stands, revision)) if stands == record => return Ok(revision),
                window if window.as_ref().map(|(_, revision)| *revision) != expected => {
                    return Err(SwapError::Conflict { holder: window.map(|(stands, _)| stands.owner) });
                }
                // The record is as it was. A conflict then is about the slot's worker, not its record.
                _ if matches!(doubt, SwapError::Conflict { .. }) => return Err(doubt),
                _ => match swap(registry, slot, record, purpose).await {
                    Ok(revision) => return Ok(revision),
                    Err(again) => doubt = again,
                },
            },
            Err(unreadable) => doubt = SwapError::Unknown(unreadable),
        }
        tokio::time::sleep(std::time::Duration::from_millis(RESOLVE_PAUSE_MS << attempt)).await;
    }
    Err(doubt)
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
