//! The way from a node to the registry and back, on which everything can happen to a message.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use snowmint::Slot;
use snowmint_server::registry::{
    CALL_MS_MAX, Changed, Namespace, Registry, RegistryError, Retired, Revision, Setting, SlotState,
    Snapshot, SwapError, WindowRecord, Worker,
};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::history::Event;
use crate::registry::Store;
use crate::rng::Rng;

/// Which way of a host's connection is cut.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Cut {
    Requests,
    Replies,
    Both,
}

/// A host's connection to the registry. It survives the node that runs on the host.
pub struct Link(Mutex<LinkState>);

struct LinkState {
    rng: Rng,
    cut: Option<Cut>,
    /// How many of a thousand messages get lost, each way, and how many arrive very late.
    lost_per_mille: u64,
    late_per_mille: u64,
}

/// What becomes of one call, drawn when it is made. Whether the connection is cut is looked at again when a
/// message arrives.
struct Fate {
    request: Duration,
    reply: Duration,
    request_lost: bool,
    reply_lost: bool,
    /// Whether the caller notices a loss at once, as with a connection that is reset, or waits in vain.
    noticed: bool,
}

impl Link {
    pub fn new(rng: Rng) -> Self {
        Self(Mutex::new(LinkState { rng, cut: None, lost_per_mille: 2, late_per_mille: 2 }))
    }

    pub fn cut(&self, cut: Option<Cut>) {
        self.state().cut = cut;
    }

    pub fn worsen(&self, lost_per_mille: u64, late_per_mille: u64) {
        let mut state = self.state();
        (state.lost_per_mille, state.late_per_mille) = (lost_per_mille, late_per_mille);
    }

    pub fn heal(&self) {
        self.cut(None);
        self.worsen(0, 0);
    }

    /// `None`: the connection is refused, and nothing was sent.
    fn fate(&self) -> Option<Fate> {
        let LinkState { rng, cut, lost_per_mille, late_per_mille } = &mut *self.state();
        if cut.is_some_and(|cut| cut != Cut::Replies) && rng.per_mille(300) {
            return None;
        }
        let mut way = || match rng.within(1..=1_000) {
            late if late <= *late_per_mille => rng.within(CALL_MS_MAX..=40_000),
            slow if slow <= 30 => rng.within(20..=CALL_MS_MAX),
            _ => rng.within(1..=8),
        };
        let (request, reply) = (Duration::from_millis(way()), Duration::from_millis(way()));
        Some(Fate {
            request,
            reply,
            request_lost: rng.per_mille(*lost_per_mille),
            reply_lost: rng.per_mille(*lost_per_mille),
            noticed: rng.per_mille(500),
        })
    }

    fn requests_pass(&self) -> bool {
        self.state().cut.is_none_or(|cut| cut == Cut::Replies)
    }

    fn replies_pass(&self) -> bool {
        self.state().cut.is_none_or(|cut| cut == Cut::Requests)
    }

    fn state(&self) -> MutexGuard<'_, LinkState> {
        self.0.lock().unwrap()
    }
}

/// The registry as one node sees it.
pub struct Connection {
    pub link: Arc<Link>,
    pub store: Arc<Mutex<Store>>,
    /// Whose it is.
    pub worker: Worker,
}

/// Why a call has no answer.
enum Unanswered {
    NotSent,
    NoReply,
}

impl Connection {
    /// Sends a request. Once sent it goes its way, whatever becomes of its sender: it may take effect long
    /// after that gave up, asked again, or died.
    async fn call<T: Send + 'static>(
        &self,
        request: impl FnOnce(&mut Store) -> T + Send + 'static,
    ) -> Result<T, Unanswered> {
        let Some(fate) = self.link.fate() else {
            sleep(Duration::from_millis(1)).await;
            return Err(Unanswered::NotSent);
        };
        let (answer, answered) = oneshot::channel();
        let (link, store) = (Arc::clone(&self.link), Arc::clone(&self.store));
        let noticed = fate.noticed;
        tokio::spawn(async move {
            sleep(fate.request).await;
            if fate.request_lost || !link.requests_pass() {
                return;
            }
            let reply = request(&mut store.lock().unwrap());
            sleep(fate.reply).await;
            if !fate.reply_lost && link.replies_pass() {
                // Nobody may be waiting for it any more.
                let _ = answer.send(reply);
            }
        });
        let reply = async {
            match answered.await {
                Ok(reply) => Ok(reply),
                Err(_) if noticed => Err(Unanswered::NoReply),
                Err(_) => std::future::pending().await,
            }
        };
        timeout(Duration::from_millis(CALL_MS_MAX), reply).await.unwrap_or(Err(Unanswered::NoReply))
    }

    async fn read<T: Send + 'static>(
        &self,
        request: impl FnOnce(&mut Store) -> T + Send + 'static,
    ) -> Result<T, RegistryError> {
        self.call(request).await.map_err(|unanswered| match unanswered {
            Unanswered::NotSent => refused(),
            Unanswered::NoReply => RegistryError::TimedOut,
        })
    }

    async fn swap<T: Send + 'static>(
        &self,
        slot: Slot,
        request: impl FnOnce(&mut Store) -> Result<T, SwapError> + Send + 'static,
    ) -> Result<T, SwapError> {
        match self.call(request).await {
            Ok(answer) => answer,
            Err(Unanswered::NotSent) => Err(SwapError::Unavailable(refused())),
            Err(Unanswered::NoReply) => {
                let history = &mut self.store.lock().unwrap().history;
                history.counts.unknown_swaps += 1;
                history.note(Event::UnknownSwap { slot, instance: self.worker.owner.instance });
                Err(SwapError::Unknown(RegistryError::TimedOut))
            }
        }
    }
}

fn refused() -> RegistryError {
    RegistryError::Server { registry: "simulated".to_owned(), problem: "refuses connections".to_owned() }
}

#[async_trait]
impl Registry for Connection {
    async fn open(&self, _wanted: &Namespace) -> Result<Namespace, RegistryError> {
        self.read(|store| store.namespace.clone()).await
    }

    async fn settings(&self) -> Result<(Namespace, Changed), RegistryError> {
        let read = |store: &mut Store| (store.namespace.clone(), store.settings_changes());
        let (namespace, mut updates) = self.read(read).await?;
        let link = Arc::clone(&self.link);
        let changed = async move {
            let told = updates.changed().await.is_ok() && link.replies_pass();
            if !told {
                // A hint that got lost: whoever waits for it has a limit.
                std::future::pending::<()>().await;
            }
        };
        Ok((namespace, Box::pin(changed)))
    }

    async fn set(&self, setting: &Setting) -> Result<(), RegistryError> {
        let setting = setting.clone();
        self.read(move |store| store.set(&setting)).await
    }

    async fn snapshot(&self) -> Result<Snapshot, RegistryError> {
        self.read(|store| store.snapshot()).await
    }

    async fn slot(&self, slot: Slot) -> Result<SlotState, RegistryError> {
        self.read(move |store| store.slot(slot)).await
    }

    async fn claim(
        &self,
        slot: Slot,
        expected: Option<Revision>,
        record: &WindowRecord,
        worker: &Worker,
    ) -> Result<Revision, SwapError> {
        let (record, worker) = (record.clone(), worker.clone());
        self.swap(slot, move |store| store.claim(slot, expected, &record, &worker)).await
    }

    async fn extend(
        &self,
        slot: Slot,
        expected: Revision,
        record: &WindowRecord,
    ) -> Result<Revision, SwapError> {
        let (record, worker) = (record.clone(), self.worker.clone());
        self.swap(slot, move |store| store.extend(slot, expected, &record, &worker)).await
    }

    async fn retire(
        &self,
        slot: Slot,
        expected: Revision,
        record: &WindowRecord,
        retired: &Retired,
    ) -> Result<(), SwapError> {
        let (record, retired) = (record.clone(), retired.clone());
        self.swap(slot, move |store| store.retire(slot, expected, &record, &retired)).await
    }

    async fn abandon(&self, slot: Slot) {
        let instance = self.worker.owner.instance;
        // As far as it can be done.
        let _ = self.call(move |store| store.abandon(slot, instance)).await;
    }
}
