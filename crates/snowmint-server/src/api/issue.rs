//! Requests for IDs, and for errors: what is given to whom becomes an event.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use smallvec::{SmallVec, smallvec};
use snowmint::{Id, IdRange, Slot};

use crate::error::{Code, Error};
use crate::event::{Event, Events, Failed, Issued, Keeping, Ranges, Request, What};
use crate::service::{Minted, Service};

/// Gives IDs, and has it written down who got them.
#[derive(Clone)]
pub(super) struct Issuer {
    service: Arc<Service>,
    events: Arc<Events>,
}

impl Issuer {
    pub(super) fn new(service: Arc<Service>, events: Arc<Events>) -> Self {
        Self { service, events }
    }

    pub(super) fn service(&self) -> &Service {
        &self.service
    }

    /// Whether anybody wants to know who asks.
    pub(super) fn asks_who(&self) -> bool {
        self.events.keeping() != Keeping::Off
    }

    /// One ID, if there is one that can be given without any wait. `asker` is asked for where it is wanted.
    pub(super) fn id_now(&self, asker: impl FnOnce() -> Option<Request>) -> Option<Id> {
        if self.events.keeping() == Keeping::Strict {
            return None;
        }
        let (id, took) = self.service.id_now()?;
        if self.asks_who()
            && let Some(asker) = asker()
        {
            let range = IdRange::new(id, 1).expect("one ID is a range");
            let slot = self.slot(&range);
            self.events.take(self.issued(slot, smallvec![range], took, Duration::ZERO, asker));
        }
        Some(id)
    }

    /// One ID.
    pub(super) async fn id(&self, asker: Option<&Request>) -> Result<Id, Error> {
        match self.id_now(|| asker.cloned()) {
            Some(id) => Ok(id),
            None => Ok(self.ranges(1, asker).await?[0].first()),
        }
    }

    /// `count` IDs as runs of consecutive ones, in order: all or none.
    pub(super) async fn ranges(&self, count: u32, asker: Option<&Request>) -> Result<Vec<IdRange>, Error> {
        let Minted { ranges, took, waited } = self.service.mint(count).await?;
        let Some(asker) = asker else { return Ok(ranges) };
        let events = self
            .by_slot(&ranges)
            .into_iter()
            .map(|(slot, ranges)| self.issued(slot, ranges, took, waited, asker.clone()));
        match self.events.keeping() {
            Keeping::Off => {}
            Keeping::Relaxed => events.for_each(|event| self.events.take(event)),
            Keeping::Strict => {
                let kept = join_all(events.map(|event| self.events.keep(event))).await;
                if kept.contains(&false) {
                    let message = "the IDs were not written down (the journal is full or cannot be written), and \
                                   journal.durability is strict or audit.required is set: nobody gets them";
                    return Err(Error::new(Code::AuditUnavailable, message).retry_after_ms(1_000));
                }
            }
        }
        Ok(ranges)
    }

    /// What each slot gave: a request may have IDs of several, each of which writes down its own.
    fn by_slot(&self, ranges: &[IdRange]) -> SmallVec<[(Slot, Ranges); 1]> {
        let mut by_slot: SmallVec<[(Slot, Ranges); 1]> = SmallVec::new();
        for range in ranges {
            let slot = self.slot(range);
            match by_slot.iter_mut().find(|(known, _)| *known == slot) {
                Some((_, ranges)) => ranges.push(*range),
                None => by_slot.push((slot, smallvec![*range])),
            }
        }
        by_slot
    }

    fn slot(&self, range: &IdRange) -> Slot {
        self.service.layout().decompose(range.first()).slot
    }

    /// Counts an error that a caller is told, and has it written down.
    pub(super) fn failed(&self, error: &Error, arrived: Instant, asker: Option<Request>) {
        self.service.failed(error.code);
        let Some(request) = asker else { return };
        let failed = Failed {
            slot: self.service.slot(),
            code: error.code.number(),
            message: error.message.clone(),
            latency_us: micros(arrived.elapsed()),
            request,
        };
        self.events.take(Event { at_ms: self.service.now_ms(), what: What::Failed(failed) });
    }

    fn issued(
        &self,
        slot: Slot,
        ranges: Ranges,
        took: Duration,
        waited: Duration,
        request: Request,
    ) -> Event {
        let issued = Issued { slot, ranges, latency_us: micros(took), queue_us: micros(waited), request };
        Event { at_ms: self.service.now_ms(), what: What::Issued(issued) }
    }
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}
