//! Leasing ahead: when, and how many.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::builder::{LEASE_IDS_MAX, Settings};
use crate::client::Shared;
use crate::clock;
use crate::servers::{Failure, Servers};
use crate::store::Count;

/// A lease lasts for this part of the greatest age at least, and [`HORIZON_PARTS_MIN`] at most: more of it would expire.
const HORIZON_PARTS_MAX: u64 = 8;
const HORIZON_PARTS_MIN: u64 = 2;

/// While IDs are used, however slowly, none is left to grow older than this part of the greatest age before there are new ones.
const REFRESH_PARTS: u32 = 2;

/// The pause after a refusal, in milliseconds: the next would most likely be the same.
const REFUSED_PAUSE_MS: u64 = 100;

/// The shortest time that a rate is measured over, in nanoseconds.
const MEASURED_NS_MIN: u64 = 1_000_000;

/// Leases whenever there are few IDs left, or old ones, for as long as there is a client.
pub(crate) async fn run(shared: Arc<Shared>, mut servers: Servers) {
    let mut pace = Pace::new(&shared.settings);
    let look_again = shared.settings.max_age / REFRESH_PARTS;
    loop {
        while let Some(count) = pace.due(shared.store.count(), shared.waiting_ids(), clock::now_ns()) {
            match servers.lease(count).await {
                Ok(lease) => {
                    let counted = shared.store.count();
                    shared.store.fill(&lease.ranges, lease.asked_ns, pace.size);
                    shared.filled();
                    pace.leased(counted, lease.asked_ns, clock::now_ns());
                }
                Err(failure) => {
                    let refused = matches!(failure, Failure::Refused { .. });
                    shared.failed(failure);
                    if refused {
                        sleep(Duration::from_millis(REFUSED_PAUSE_MS)).await;
                        break;
                    }
                }
            }
        }
        // An error says that nobody asked: then it is looked whether what there is grows old.
        let _ = timeout(look_again, shared.demand.notified()).await;
    }
}

/// How many IDs are leased at a time.
struct Pace {
    ids: [u32; 2],
    max_age_ns: u64,
    /// Of the last lease: also how many IDs are left when it is time for the next.
    size: u32,
    /// When it was received, how many had been handed out by then, and how long it took.
    at_ns: u64,
    handed_out: u64,
    took_ns: u64,
}

impl Pace {
    fn new(settings: &Settings) -> Self {
        let ids = [*settings.lease_ids.start(), *settings.lease_ids.end()];
        Self { ids, max_age_ns: settings.max_age_ns(), size: ids[0], at_ns: 0, handed_out: 0, took_ns: 0 }
    }

    /// How many IDs to lease now, if any. So many that they last while the next ones are on their way, twice over.
    fn due(&mut self, count: Count, waiting_ids: u64, now_ns: u64) -> Option<u32> {
        let passed_ns = now_ns.saturating_sub(self.at_ns).max(MEASURED_NS_MIN);
        let used = count.handed_out - self.handed_out;
        let old = used > 0 && passed_ns >= self.max_age_ns / u64::from(REFRESH_PARTS);
        if count.left >= waiting_ids.max(self.size.into()) && !old {
            return None;
        }
        let horizon_ns = (2 * self.took_ns)
            .clamp(self.max_age_ns / HORIZON_PARTS_MAX, self.max_age_ns / HORIZON_PARTS_MIN);
        let lasting = u128::from(used) * u128::from(horizon_ns) / u128::from(passed_ns);
        let [least, most] = self.ids;
        // A moment without use is not the end of it.
        let size = u32::try_from(lasting).unwrap_or(most).max(self.size / 2).clamp(least, most);
        self.size = size;
        Some(u32::try_from(waiting_ids).unwrap_or(LEASE_IDS_MAX).clamp(size, LEASE_IDS_MAX))
    }

    fn leased(&mut self, before: Count, asked_ns: u64, now_ns: u64) {
        self.at_ns = now_ns;
        self.handed_out = before.handed_out;
        self.took_ns = now_ns.saturating_sub(asked_ns);
    }
}
