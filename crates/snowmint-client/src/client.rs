//! The client, and what its clones share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use snowmint::{Id, IdRange};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::builder::{Builder, LEASE_IDS_MAX, Settings};
use crate::clock;
use crate::error::Error;
use crate::refill;
use crate::servers::{Failure, Servers};
use crate::store::{Store, Taken};

/// Hands out IDs that it leases ahead. Clones share what is leased; the last one to go takes it with it.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    refilling: JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.refilling.abort();
    }
}

/// What became of IDs and requests, from the start on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// IDs that servers gave.
    pub leased: u64,
    /// IDs that were handed out, also to calls that were cancelled.
    pub handed_out: u64,
    /// IDs that grew too old to be handed out.
    pub expired: u64,
    /// IDs that are still there: leased, neither handed out nor expired.
    pub left: u64,
    /// Requests to servers.
    pub requests: u64,
    /// Those of them that gave no IDs.
    pub failed_requests: u64,
    /// Changes from one server to another.
    pub failovers: u64,
}

impl Client {
    /// Begins to describe a client.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn start(settings: Settings, servers: impl FnOnce(Arc<Counters>) -> Servers) -> Self {
        let shared = Arc::new(Shared::new(settings));
        let servers = servers(Arc::clone(&shared.counters));
        let refilling = tokio::spawn(refill::run(Arc::clone(&shared), servers));
        Self { inner: Arc::new(Inner { shared, refilling }) }
    }

    /// An ID: at once where one is leased, as is usual; else as soon as a server gives some.
    ///
    /// A call that is cancelled may lose an ID.
    pub async fn next(&self) -> Result<Id, Error> {
        match self.try_next() {
            Some(id) => Ok(id),
            // Boxed, so that those who never come here do not carry its size.
            None => Box::pin(self.inner.shared.wait(1, || self.try_next())).await,
        }
    }

    /// An ID, if one is leased. If not, some are leased, for the next call.
    #[inline]
    #[must_use]
    pub fn try_next(&self) -> Option<Id> {
        let shared = &self.inner.shared;
        let taken = shared.take(1, clock::now_ns());
        if taken.is_none() {
            shared.demand.notify_one();
        }
        taken.map(|taken| taken.first)
    }

    /// Several IDs, 1 to [`LEASE_IDS_MAX`], all or none: as ranges, of which [`IdRange::ids`] gives the IDs.
    ///
    /// A call that fails or is cancelled may lose IDs.
    pub async fn next_many(&self, count: u32) -> Result<Vec<IdRange>, Error> {
        if !(1..=LEASE_IDS_MAX).contains(&count) {
            return Err(Error::Count { count });
        }
        let shared = &self.inner.shared;
        let mut gathered = Vec::new();
        if shared.gather(count, &mut gathered).is_none() {
            Box::pin(shared.wait(count, || shared.gather(count, &mut gathered))).await?;
        }
        let range = |taken: &Taken| IdRange::new(taken.first, taken.count).expect("it is of a range");
        Ok(gathered.iter().map(range).collect())
    }

    /// What became of IDs and requests, from the start on.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let count = self.inner.shared.store.count();
        let counters = &self.inner.shared.counters;
        Metrics {
            leased: count.leased,
            handed_out: count.handed_out,
            expired: count.expired,
            left: count.left,
            requests: counters.requests.get(),
            failed_requests: counters.failed_requests.get(),
            failovers: counters.failovers.get(),
        }
    }
}

/// What the clones of a client and its refilling share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) settings: Settings,
    /// Told when there are few IDs.
    pub(crate) demand: Notify,
    /// How many IDs are waited for.
    waiting_ids: AtomicU64,
    /// What became of the last lease: told to those who wait.
    outcome: watch::Sender<Outcome>,
    pub(crate) counters: Arc<Counters>,
}

#[derive(Debug)]
enum Outcome {
    Filled,
    Failed(Failure),
}

impl Shared {
    fn new(settings: Settings) -> Self {
        Self {
            store: Store::new(settings.max_age_ns()),
            settings,
            demand: Notify::new(),
            waiting_ids: AtomicU64::new(0),
            outcome: watch::Sender::new(Outcome::Filled),
            counters: Arc::default(),
        }
    }

    #[inline]
    fn take(&self, wanted: u32, now_ns: u64) -> Option<Taken> {
        let taken = self.store.take(wanted, now_ns)?;
        if taken.now_low {
            self.demand.notify_one();
        }
        Some(taken)
    }

    /// Adds to what was gathered until it is `wanted`, or there is no more.
    fn gather(&self, wanted: u32, gathered: &mut Vec<Taken>) -> Option<()> {
        let now_ns = clock::now_ns();
        // What was gathered before others were waited for may have grown old by now.
        let mut expired = 0;
        gathered.retain(|taken| {
            let old = self.store.is_expired(taken.leased_ns, now_ns);
            expired += if old { u64::from(taken.count) } else { 0 };
            !old
        });
        self.store.expire(expired);
        let mut missing = wanted - gathered.iter().map(|taken| taken.count).sum::<u32>();
        while missing > 0 {
            let taken = self.take(missing, now_ns)?;
            missing -= taken.count;
            gathered.push(taken);
        }
        Some(())
    }

    /// Waits until `take` takes something, up to the deadline.
    async fn wait<T>(&self, ids: u32, mut take: impl FnMut() -> Option<T>) -> Result<T, Error> {
        // From here on, so that none is missed between a look at the store and the wait.
        let mut outcomes = self.outcome.subscribe();
        let _waiting = Waiting::new(&self.waiting_ids, ids);
        let deadline = self.settings.deadline;
        let mut late = Error::Timeout { deadline };
        let taking = async {
            loop {
                if let Some(taken) = take() {
                    return Ok(taken);
                }
                self.demand.notify_one();
                outcomes.changed().await.expect("the sender is in `self`");
                match &*outcomes.borrow_and_update() {
                    Outcome::Filled => {}
                    Outcome::Failed(Failure::Unavailable { server, message, .. }) => {
                        let (server, message) = (server.clone(), message.clone());
                        late = Error::Unavailable { deadline, server, message };
                    }
                    Outcome::Failed(Failure::Refused { server, code, message }) => {
                        let (server, message) = (server.clone(), message.clone());
                        return Err(Error::Refused { server, code: *code, message });
                    }
                }
            }
        };
        let taken = timeout(deadline, taking).await;
        taken.unwrap_or(Err(late))
    }

    pub(crate) fn waiting_ids(&self) -> u64 {
        self.waiting_ids.load(Ordering::Relaxed)
    }

    pub(crate) fn filled(&self) {
        self.outcome.send_replace(Outcome::Filled);
    }

    pub(crate) fn failed(&self, failure: Failure) {
        self.outcome.send_replace(Outcome::Failed(failure));
    }
}

/// IDs that are waited for, as long as it lives.
struct Waiting<'a> {
    all_ids: &'a AtomicU64,
    ids: u64,
}

impl<'a> Waiting<'a> {
    fn new(all_ids: &'a AtomicU64, ids: u32) -> Self {
        all_ids.fetch_add(ids.into(), Ordering::Relaxed);
        Self { all_ids, ids: ids.into() }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.all_ids.fetch_sub(self.ids, Ordering::Relaxed);
    }
}

/// What is counted of requests.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) requests: Counter,
    pub(crate) failed_requests: Counter,
    pub(crate) failovers: Counter,
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
