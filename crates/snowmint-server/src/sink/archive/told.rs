//! What the archive tells of an event.

use snowmint::{IdRange, Layout, Slot};
use uuid::Uuid;

use crate::archive::{
    Components, EventType, Failure, Hash, Link, Performance, Range, Record, RequestMetadata, SlotTurn,
};
use crate::event::{Api, Event, Failed, Issued, Request, SlotLife, Turn, What};
use crate::privacy::Privacy;
use crate::sink::Batch;

/// Makes records of events.
pub(super) struct Teller {
    pub(super) layout: Layout,
    pub(super) privacy: Privacy,
}

impl Teller {
    /// Tells of one event of a batch: in one record; where a request got IDs of several slots, in one for each
    /// of them; where the archive does not keep such events, in none. Each has its place in no chain yet.
    pub(super) fn tell<E>(
        &self,
        batch: &Batch,
        number: u64,
        event: &Event,
        mut take: impl FnMut(Record<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let blank = |slot, event_type| blank(batch, number, event.at_ms, slot, event_type);
        match &event.what {
            What::Issued(issued) => match issued.ranges.as_slice() {
                [range] if range.count() == 1 => {
                    take(self.single(issued, *range, blank(Some(issued.slot), EventType::IdGenerated)))
                }
                ranges => self.by_slot(ranges).into_iter().try_for_each(|(slot, ranges)| {
                    take(self.several(issued, ranges, blank(Some(slot), EventType::IdsIssued)))
                }),
            },
            What::Failed(failed) => take(self.failed(failed, blank(failed.slot, EventType::RequestFailed))),
            What::Slot(life) => take(turn(life, blank(Some(life.slot), event_type(life.turn)))),
            What::Drifted(_) | What::Overflowed(_) | What::Measured(_) => Ok(()),
        }
    }

    /// A request that waited while the node changed slots has IDs of both.
    fn by_slot(&self, ranges: &[IdRange]) -> Vec<(Slot, Vec<Range>)> {
        let mut slots: Vec<(Slot, Vec<Range>)> = Vec::with_capacity(1);
        for range in ranges {
            let slot = self.layout.decompose(range.first()).slot;
            let range = Range { first: range.first(), count: range.count() };
            match slots.iter_mut().find(|(known, _)| *known == slot) {
                Some((_, ranges)) => ranges.push(range),
                None => slots.push((slot, vec![range])),
            }
        }
        slots
    }

    fn single<'a>(&self, issued: &'a Issued, range: IdRange, blank: Record<'a>) -> Record<'a> {
        let id = range.first();
        let sequence = Some(self.layout.decompose(id).sequence);
        let id_components = Some(Components { sequence, ..self.components(range.first()) });
        Record { generated_id: Some(id), id_components, ..self.issued(issued, blank) }
    }

    fn several<'a>(&self, issued: &'a Issued, ranges: Vec<Range>, blank: Record<'a>) -> Record<'a> {
        let count = Some(ranges.iter().map(|range| u64::from(range.count)).sum());
        let id_components = ranges.first().map(|range| self.components(range.first));
        Record { ranges, count, id_components, ..self.issued(issued, blank) }
    }

    fn components(&self, id: snowmint::Id) -> Components {
        let parts = self.layout.decompose(id);
        Components {
            timestamp_ms: parts.timestamp_ms,
            datacenter_id: parts.slot.datacenter,
            worker_id: parts.slot.worker,
            sequence: None,
        }
    }

    fn issued<'a>(&self, issued: &'a Issued, blank: Record<'a>) -> Record<'a> {
        Record {
            request_metadata: Some(self.request(&issued.request)),
            performance: Some(performance(issued.latency_us, issued.queue_us)),
            ..blank
        }
    }

    fn failed<'a>(&self, failed: &'a Failed, blank: Record<'a>) -> Record<'a> {
        Record {
            error: Some(Failure { code: failed.code, message: (&*failed.message).into() }),
            request_metadata: Some(self.request(&failed.request)),
            performance: Some(performance(failed.latency_us, 0)),
            ..blank
        }
    }

    fn request<'a>(&self, request: &'a Request) -> RequestMetadata<'a> {
        RequestMetadata {
            client_ip: self.privacy.client_ip(request).unwrap_or_default().into(),
            user_agent: self.privacy.user_agent(request),
            request_id: request.request_id(),
            api_version: "v1".into(),
            api: api(request.api).into(),
        }
    }
}

fn blank(
    batch: &Batch,
    number: u64,
    timestamp: u64,
    slot: Option<Slot>,
    event_type: EventType,
) -> Record<'static> {
    Record {
        event_id: batch.event_id(number),
        timestamp,
        event_type,
        datacenter_id: slot.map(|slot| slot.datacenter),
        worker_id: slot.map(|slot| slot.worker),
        generated_id: None,
        ranges: Vec::new(),
        count: None,
        id_components: None,
        error: None,
        slot: None,
        request_metadata: None,
        performance: None,
        chain: Link { journal: batch.journal, sequence: 0, previous: Hash::NOTHING },
    }
}

/// Which event of its journal a record tells of.
pub(super) fn number(event_id: Uuid, journal: Uuid) -> Option<u64> {
    u64::try_from(event_id.as_u128() ^ journal.as_u128()).ok()
}

fn performance(latency_us: u32, queue_us: u32) -> Performance {
    Performance {
        generation_latency_us: latency_us.saturating_sub(queue_us),
        queue_time_us: queue_us,
        total_latency_us: latency_us,
    }
}

fn turn<'a>(life: &'a SlotLife, blank: Record<'a>) -> Record<'a> {
    let slot = SlotTurn { node: (&*life.node).into(), note: (&*life.note).into() };
    Record { slot: Some(slot), ..blank }
}

fn event_type(turn: Turn) -> EventType {
    match turn {
        Turn::Taken => EventType::SlotTaken,
        Turn::Lost => EventType::SlotLost,
        Turn::GivenBack => EventType::SlotGivenBack,
    }
}

fn api(api: Api) -> &'static str {
    match api {
        Api::Rest => "rest",
        Api::Grpc => "grpc",
    }
}
