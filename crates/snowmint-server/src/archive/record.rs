//! A record: one line of an object.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest, Sha256};
use snowmint::{Id, Slot};
use uuid::Uuid;

/// One line of an object. The fields are the document's; which of those that may be missing are there depends
/// on the event's type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record<'a> {
    /// No other event's.
    pub event_id: Uuid,
    /// When, in Unix milliseconds of the serving clock; written as `2024-01-03T19:30:00.123Z`.
    #[serde(with = "iso")]
    pub timestamp: u64,
    /// What happened.
    pub event_type: EventType,
    /// Of the slot, if the node held one.
    pub datacenter_id: Option<u16>,
    /// Of the slot, if the node held one.
    pub worker_id: Option<u16>,
    /// The ID, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generated_id: Option<Id>,
    /// The runs of consecutive IDs, where they are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<Range>,
    /// How many they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// The parts of the first ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_components: Option<Components>,
    /// Why a request failed.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure<'a>>,
    /// What became of the slot.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<SlotTurn<'a>>,
    /// Who asked.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub request_metadata: Option<RequestMetadata<'a>>,
    /// How long it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub performance: Option<Performance>,
    /// Its place in the chain.
    pub chain: Link,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventType {
    /// A request got one ID.
    IdGenerated,
    /// A request got several.
    IdsIssued,
    /// A request failed.
    RequestFailed,
    /// The node holds the slot from now on.
    SlotTaken,
    /// The node does not hold it any more, and did not want to let it go.
    SlotLost,
    /// The node gave it back.
    SlotGivenBack,
}

/// A run of consecutive IDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The lowest.
    pub first: Id,
    /// How many.
    pub count: u32,
}

/// The parts of an ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Components {
    /// Its Unix millisecond.
    pub timestamp_ms: u64,
    /// Its datacenter.
    pub datacenter_id: u16,
    /// Its worker.
    pub worker_id: u16,
    /// Its number within the millisecond, where it is the only ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u32>,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure<'a> {
    /// The error's number.
    pub code: u16,
    /// What the caller was told.
    #[serde(borrow)]
    pub message: Cow<'a, str>,
}

/// What became of a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotTurn<'a> {
    /// The node's name.
    #[serde(borrow)]
    pub node: Cow<'a, str>,
    /// Why, or from when until when.
    #[serde(borrow)]
    pub note: Cow<'a, str>,
}

/// Who asked, and how. What is not told is empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestMetadata<'a> {
    /// From where.
    #[serde(borrow)]
    pub client_ip: Cow<'a, str>,
    /// With what.
    #[serde(borrow)]
    pub user_agent: Cow<'a, str>,
    /// The request's ID.
    #[serde(borrow)]
    pub request_id: Cow<'a, str>,
    /// Which version of the interface.
    #[serde(borrow)]
    pub api_version: Cow<'a, str>,
    /// Which interface: `rest`, `grpc` and so on.
    #[serde(borrow)]
    pub api: Cow<'a, str>,
}

/// How long a request took, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Performance {
    /// Without the wait.
    pub generation_latency_us: u32,
    /// Waiting for its turn or for a millisecond.
    pub queue_time_us: u32,
    /// From its arrival to the answer.
    pub total_latency_us: u32,
}

/// A record's place in its chain, which is of one journal and one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Which journal it came from: a node's, for as long as its data directory lives.
    pub journal: Uuid,
    /// Its number, from 1.
    pub sequence: u64,
    /// The hash of the line before; of nothing for the first.
    pub previous: Hash,
}

/// The SHA-256 of a line without its end; written in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "Cow<'_, str>")]
pub struct Hash([u8; 32]);

impl Record<'_> {
    /// The slot, where the node held one.
    #[must_use]
    pub fn slot(&self) -> Option<Slot> {
        Some(Slot { datacenter: self.datacenter_id?, worker: self.worker_id? })
    }

    /// The runs of IDs that were issued.
    pub fn ids(&self) -> impl Iterator<Item = Range> {
        let one = self.generated_id.map(|first| Range { first, count: 1 });
        one.into_iter().chain(self.ranges.iter().copied())
    }
}

impl Hash {
    /// What stands before the first line of a chain.
    pub const NOTHING: Self = Self([0; 32]);

    /// The hash of a line.
    #[must_use]
    pub fn of(line: &[u8]) -> Self {
        Self(Sha256::digest(line).into())
    }

    // There is one in every record: it is written without an allocation.
    fn hex(self) -> [u8; 64] {
        let mut hex = [0; 64];
        hex::encode_to_slice(self.0, &mut hex).expect("two digits for each byte");
        hex
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(digits(&self.hex()))
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(digits(&self.hex()))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut hash = [0; 32];
        hex::decode_to_slice(text, &mut hash).map_err(|_| "64 hexadecimal digits are wanted")?;
        Ok(Self(hash))
    }
}

impl TryFrom<Cow<'_, str>> for Hash {
    type Error = &'static str;

    fn try_from(text: Cow<'_, str>) -> Result<Self, Self::Error> {
        text.parse()
    }
}

fn digits(ascii: &[u8]) -> &str {
    str::from_utf8(ascii).expect("digits and signs are ASCII")
}

/// Unix milliseconds as `2024-01-03T19:30:00.123Z`.
pub(crate) mod iso {
    use std::borrow::Cow;

    use jiff::Timestamp;
    use jiff::civil::DateTime;
    use jiff::tz::TimeZone;
    use serde::de::Error as _;
    use serde::ser::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    pub(crate) fn serialize<S: Serializer>(at_ms: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        let at_ms = i64::try_from(*at_ms).map_err(S::Error::custom)?;
        let at = Timestamp::from_millisecond(at_ms).map_err(S::Error::custom)?;
        serializer.serialize_str(super::digits(&written(TimeZone::UTC.to_datetime(at))))
    }

    /// Each record has one, and this is a tenth of the work that the general way is.
    fn written(at: DateTime) -> [u8; 24] {
        let mut text = *b"0000-00-00T00:00:00.000Z";
        let mut put = |end: usize, digits: usize, value: u16| {
            let mut rest = value;
            for place in text[end - digits..end].iter_mut().rev() {
                *place = b'0' + u8::try_from(rest % 10).unwrap_or(0);
                rest /= 10;
            }
        };
        put(4, 4, at.year().unsigned_abs());
        let parts = [at.month(), at.day(), at.hour(), at.minute(), at.second()];
        for (end, part) in (7..).step_by(3).zip(parts) {
            put(end, 2, part.unsigned_abs().into());
        }
        put(23, 3, at.millisecond().unsigned_abs());
        text
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        let at: Timestamp = text.parse().map_err(D::Error::custom)?;
        u64::try_from(at.as_millisecond()).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn record() -> Record<'static> {
        Record {
            event_id: "550e8400-e29b-41d4-a716-446655440000".parse().unwrap(),
            timestamp: 1_704_310_200_123,
            event_type: EventType::IdGenerated,
            datacenter_id: Some(0),
            worker_id: Some(5),
            generated_id: Id::new(1_234_567_890_123_456_789),
            ranges: Vec::new(),
            count: None,
            id_components: Some(Components {
                timestamp_ms: 1_704_310_200_123,
                datacenter_id: 0,
                worker_id: 5,
                sequence: Some(42),
            }),
            error: None,
            slot: None,
            request_metadata: Some(RequestMetadata {
                client_ip: "192.168.1.100".into(),
                user_agent: "MyApp/1.0".into(),
                request_id: "req-123456".into(),
                api_version: "v1".into(),
                api: "rest".into(),
            }),
            performance: Some(Performance {
                generation_latency_us: 45,
                queue_time_us: 10,
                total_latency_us: 55,
            }),
            chain: Link { journal: Uuid::nil(), sequence: 1, previous: Hash::NOTHING },
        }
    }

    #[test]
    fn one_id_is_the_documents_record_field_for_field() {
        let document = r#"{"event_id":"550e8400-e29b-41d4-a716-446655440000","timestamp":"2024-01-03T19:30:00.123Z","event_type":"id_generated","datacenter_id":0,"worker_id":5,"generated_id":1234567890123456789,"id_components":{"timestamp_ms":1704310200123,"datacenter_id":0,"worker_id":5,"sequence":42},"request_metadata":{"client_ip":"192.168.1.100","user_agent":"MyApp/1.0","request_id":"req-123456","api_version":"v1","#;
        let line = serde_json::to_string(&record()).unwrap();
        assert!(line.starts_with(document), "{line}");
        assert!(line.contains(
            r#""performance":{"generation_latency_us":45,"queue_time_us":10,"total_latency_us":55}"#
        ));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let several = Record {
            event_type: EventType::IdsIssued,
            generated_id: None,
            ranges: vec![Range { first: Id::new(7).unwrap(), count: 3 }],
            count: Some(3),
            ..record()
        };
        let failed = Record {
            event_type: EventType::RequestFailed,
            datacenter_id: None,
            worker_id: None,
            error: Some(Failure { code: 3_002, message: "no \"worker\"".into() }),
            ..record()
        };
        for record in [record(), several, failed] {
            let line = serde_json::to_vec(&record).unwrap();
            assert_eq!(serde_json::from_slice::<Record>(&line).unwrap(), record);
        }
    }

    #[test]
    fn a_hash_is_what_common_tools_say() {
        let hash = Hash::of(b"abc");
        assert_eq!(hash.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert!("ba78".parse::<Hash>().is_err() && "xy".repeat(32).parse::<Hash>().is_err());
    }
}
