//! What happened. An event is taken where it happens, without a lock or a system call, and written down elsewhere.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

use axum::http::HeaderValue;
use crossbeam_queue::ArrayQueue;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use snowmint::{IdRange, Slot};
use tokio::sync::oneshot;

use crate::metrics::Metrics;

/// How many events wait to be written down: a fifth of a second of a very busy node.
pub const EVENTS_MAX: usize = 65_536;

/// Something that happened.
///
/// This is also what the journal keeps, so that fields and variants are only ever added, at the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When, in Unix milliseconds of the serving clock.
    pub at_ms: u64,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum What {
    /// IDs were issued to a request.
    Issued(Issued),
    /// A request failed.
    Failed(Failed),
    /// The wall clock was found to be off.
    Drifted(Drifted),
    /// Requests had to wait, because there were no more IDs in a millisecond.
    Overflowed(Overflowed),
    /// A worker slot was taken, lost, or given back.
    Slot(SlotLife),
    /// The node measured itself.
    Measured(Measured),
}

/// Runs of consecutive IDs, lowest first: mostly one, which takes no memory of its own.
pub type Ranges = SmallVec<[IdRange; 1]>;

/// IDs that were issued to one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Issued {
    /// From which slot.
    pub slot: Slot,
    /// The IDs.
    #[serde(with = "ranges")]
    pub ranges: Ranges,
    /// From the request's arrival to its IDs, in microseconds.
    pub latency_us: u32,
    /// How much of that it waited for its turn or for a millisecond, in microseconds.
    pub queue_us: u32,
    /// Who asked.
    pub request: Request,
}

/// A request that failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failed {
    /// The slot of the node, if it held one.
    pub slot: Option<Slot>,
    /// The number of the error's code.
    pub code: u16,
    /// What the caller was told.
    pub message: Cow<'static, str>,
    /// From the request's arrival to the error, in microseconds.
    pub latency_us: u32,
    /// Who asked.
    pub request: Request,
}

/// A clock that was found to be off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drifted {
    /// The slot of the node, if it held one.
    pub slot: Option<Slot>,
    /// How far the wall clock is ahead; negative where it is behind.
    pub drift_ms: i32,
    /// What it was held against: an NTP server, or nothing for the serving clock.
    pub ntp_server: String,
    /// How far that server is from a reference clock; 0 for the serving clock.
    pub ntp_stratum: u8,
    /// What the wall clock said, in Unix milliseconds.
    pub system_time_ms: u64,
    /// What it was held against said, in Unix milliseconds.
    pub ntp_time_ms: u64,
    /// What was done about it.
    pub corrective_action: Cow<'static, str>,
}

/// A burst of requests that had to wait.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Overflowed {
    /// Whose IDs were used up.
    pub slot: Slot,
    /// How many requests waited.
    pub count: u32,
    /// The longest wait, in milliseconds.
    pub wait_ms: u32,
    /// The most requests in line.
    pub queued: u32,
    /// How much was asked for, of what the slot can give in that time.
    pub load_factor: f32,
}

/// A turn in the life of a slot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SlotLife {
    /// Which slot.
    pub slot: Slot,
    /// Which turn.
    pub turn: Turn,
    /// The node's name.
    pub node: String,
    /// Why, or from when until when.
    pub note: String,
}

/// What a node measured of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The slot of the node, if it held one.
    pub slot: Option<Slot>,
    /// Names, as in `/metrics`, and values.
    pub values: Vec<(Cow<'static, str>, f64)>,
}

/// What became of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Turn {
    /// This node holds it from now on.
    Taken,
    /// This node does not hold it any more, and did not want to let it go.
    Lost,
    /// This node gave it back.
    GivenBack,
}

/// Who asked, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// From where.
    pub client_ip: Option<IpAddr>,
    /// With what; at most [`USER_AGENT_BYTES_MAX`] of it are written down.
    #[serde(with = "header")]
    pub user_agent: Option<HeaderValue>,
    /// The request's ID.
    #[serde(with = "header")]
    pub request_id: Option<HeaderValue>,
    /// Over which interface.
    pub api: Api,
}

/// How much of a user agent is written down, in bytes.
pub const USER_AGENT_BYTES_MAX: usize = 256;

/// Which interface a request came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Api {
    /// REST, version 1.
    Rest,
    /// gRPC, version 1.
    Grpc,
    /// RESP, the protocol of Redis.
    Resp,
}

impl Request {
    /// What is kept of a request. Headers are copied: as they came, they keep the whole buffer they were read
    /// into.
    #[must_use]
    pub fn new(
        client_ip: Option<IpAddr>,
        user_agent: Option<&HeaderValue>,
        request_id: &HeaderValue,
        api: Api,
    ) -> Self {
        let copy = |value: &HeaderValue| {
            let bytes = value.as_bytes();
            HeaderValue::from_bytes(&bytes[..bytes.len().min(USER_AGENT_BYTES_MAX)]).ok()
        };
        Self { client_ip, user_agent: user_agent.and_then(copy), request_id: copy(request_id), api }
    }

    /// The user agent as text; empty where there is none.
    #[must_use]
    pub fn user_agent(&self) -> Cow<'_, str> {
        text(self.user_agent.as_ref())
    }

    /// The request's ID as text; empty where there is none.
    #[must_use]
    pub fn request_id(&self) -> Cow<'_, str> {
        text(self.request_id.as_ref())
    }
}

fn text(value: Option<&HeaderValue>) -> Cow<'_, str> {
    value.map_or(Cow::Borrowed(""), |value| String::from_utf8_lossy(value.as_bytes()))
}

/// Told when an event is as durable as it gets; dropped where it was lost.
pub type Kept = oneshot::Sender<()>;

/// An event on its way to the journal, and who waits for it to be kept.
#[derive(Debug)]
pub struct Taken {
    /// The event.
    pub event: Event,
    /// Who waits, if anybody does.
    pub kept: Option<Kept>,
}

/// Whether events are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// They are not.
    Off,
    /// Soon after.
    Relaxed,
    /// Before a request for IDs is answered: where the journal is strict, or the audit requires it.
    Strict,
}

/// Where events are taken. Bounded: one that finds it full is shed, and counted.
pub struct Events {
    queue: ArrayQueue<Taken>,
    metrics: Arc<Metrics>,
    keeping: Keeping,
    /// Who writes them down, to be woken where somebody waits.
    writer: OnceLock<Thread>,
}

impl Events {
    /// Room for [`EVENTS_MAX`] events; where they are not written down, for none.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, keeping: Keeping) -> Self {
        let room = if keeping == Keeping::Off { 1 } else { EVENTS_MAX };
        Self { queue: ArrayQueue::new(room), metrics, keeping, writer: OnceLock::new() }
    }

    /// Whether they are written down.
    #[inline]
    #[must_use]
    pub fn keeping(&self) -> Keeping {
        self.keeping
    }

    /// Takes an event: no lock, no system call.
    #[inline]
    pub fn take(&self, event: Event) {
        self.push(Taken { event, kept: None });
    }

    /// Takes an event and waits until it is kept, or says (`false`) that it was not.
    pub async fn keep(&self, event: Event) -> bool {
        let (kept, told) = oneshot::channel();
        self.push(Taken { event, kept: Some(kept) });
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
        told.await.is_ok()
    }

    fn push(&self, taken: Taken) {
        if self.keeping != Keeping::Off && self.queue.push(taken).is_err() {
            self.metrics.events_shed.inc();
        }
    }

    /// Names the thread that writes them down. The first is the only one.
    pub fn set_writer(&self, writer: Thread) {
        let _ = self.writer.set(writer);
    }

    /// The oldest event that waits, for the one who writes them down.
    pub fn next(&self) -> Option<Taken> {
        self.queue.pop()
    }
}

/// A header as bytes, all at once: byte by byte it would be the larger part of writing an event.
mod header {
    use axum::http::HeaderValue;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_bytes::Bytes;

    use super::USER_AGENT_BYTES_MAX;

    #[expect(clippy::ref_option, reason = "serde calls it so")]
    pub(super) fn serialize<S: Serializer>(
        value: &Option<HeaderValue>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let bytes = value.as_ref().map(HeaderValue::as_bytes);
        bytes.map(|bytes| Bytes::new(&bytes[..bytes.len().min(USER_AGENT_BYTES_MAX)])).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<HeaderValue>, D::Error> {
        let bytes: Option<&'de Bytes> = Option::deserialize(deserializer)?;
        bytes.map(|bytes| HeaderValue::from_bytes(bytes).map_err(D::Error::custom)).transpose()
    }
}

/// Runs of IDs as (first, count).
mod ranges {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};
    use smallvec::SmallVec;
    use snowmint::{Id, IdRange};

    use super::Ranges;

    pub(super) fn serialize<S: Serializer>(ranges: &[IdRange], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(ranges.iter().map(|range| (range.first(), range.count())))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Ranges, D::Error> {
        let pairs: SmallVec<[(Id, u32); 1]> = SmallVec::deserialize(deserializer)?;
        let range =
            |(first, count)| IdRange::new(first, count).ok_or_else(|| D::Error::custom("no range of IDs"));
        pairs.into_iter().map(range).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use snowmint::Id;

    use super::*;

    fn issued() -> Event {
        let request = Request {
            client_ip: Some([192, 168, 1, 100].into()),
            user_agent: Some(HeaderValue::from_static("MyApp/1.0")),
            request_id: Some(HeaderValue::from_static("req-123456")),
            api: Api::Rest,
        };
        let ranges = [IdRange::new(Id::new(7).unwrap(), 3).unwrap()].into();
        let slot = Slot { datacenter: 0, worker: 5 };
        let issued = Issued { slot, ranges, latency_us: 45, queue_us: 10, request };
        Event { at_ms: 1_704_310_200_123, what: What::Issued(issued) }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let bytes = postcard::to_stdvec(&issued()).unwrap();
        assert_eq!(postcard::from_bytes::<Event>(&bytes).unwrap(), issued());
    }

    #[test]
    fn one_too_many_is_shed_and_counted() {
        let metrics = Arc::new(Metrics::new());
        let events = Events::new(Arc::clone(&metrics), Keeping::Relaxed);
        for _ in 0..EVENTS_MAX + 3 {
            events.take(issued());
        }
        assert_eq!(metrics.events_shed.get(), 3);
        assert_eq!(std::iter::from_fn(|| events.next()).count(), EVENTS_MAX);
        let unwritten = Events::new(metrics, Keeping::Off);
        unwritten.take(issued());
        assert!(unwritten.next().is_none());
    }
}
