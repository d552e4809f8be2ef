//! The JSON that calls take and give.

use std::cell::Cell;
use std::io::{Cursor, Write};

use axum::body::Bytes;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::json;
use serde_json::value::RawValue;
use snowmint::{Format, Id, IdRange, Layout};
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Type};
use utoipa::{IntoParams, ToSchema};

use super::idempotency::Batch;
use crate::api::request::Origin;
use crate::error::Error;
use crate::registry::timestamp;

/// How a call writes its IDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As a JSON number.
    Number,
    /// As text.
    Text(Format),
}

impl Form {
    /// The form a `format` parameter names.
    pub(super) fn named(name: Option<&str>) -> Result<Self, Error> {
        match name {
            None | Some("decimal") => Ok(Self::Number),
            Some("string") => Ok(Self::Text(Format::Decimal)),
            Some(name) => name.parse().map(Self::Text).map_err(|_| unknown_format(name)),
        }
    }

    /// The form to read an ID in; `None` leaves it to the ID.
    pub(super) fn to_read(name: Option<&str>) -> Result<Option<Format>, Error> {
        match name {
            None => Ok(None),
            Some("string") => Ok(Some(Format::Decimal)),
            Some(name) => name.parse().map(Some).map_err(|_| unknown_format(name)),
        }
    }
}

fn unknown_format(name: &str) -> Error {
    let given = crate::api::request::excerpt(name);
    let message = format!("format is {given}, it must be decimal, string, base62, base32 or hex");
    Error::parameter("format", message)
}

/// An ID in some form.
#[derive(Clone, Copy)]
struct Shown(Id, Form);

impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.1 {
            Form::Number => self.0.serialize(serializer),
            Form::Text(Format::Decimal) => serializer.serialize_str(itoa::Buffer::new().format(self.0.get())),
            Form::Text(format) => serializer.serialize_str(&format.text(self.0)),
        }
    }
}

/// The schema of [`Shown`]: which of the two it is, `format` says.
fn number_or_text() -> OneOfBuilder {
    let of_type = |kind| ObjectBuilder::new().schema_type(kind);
    let number = of_type(Type::Integer).minimum(Some(0)).maximum(Some(Id::MAX.get()));
    let text = of_type(Type::String);
    OneOfBuilder::new().item(number).item(text).examples([json!(397_833_929_219_919_914_u64)])
}

/// The schema of [`Listed`].
fn numbers_or_texts() -> ArrayBuilder {
    ArrayBuilder::new().items(number_or_text())
}

fn decimal(id: Id) -> Shown {
    Shown(id, Form::Text(Format::Decimal))
}

/// A Unix time in milliseconds, written as `2024-01-03T19:30:00.123Z`.
#[derive(Clone, Copy)]
pub(super) struct Iso(pub(super) u64);

impl Serialize for Iso {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.text().as_str())
    }
}

impl Iso {
    fn text(self) -> IsoText {
        thread_local! {
            /// The second that was written last, and its text: most IDs come in the same second as the one before.
            static LAST: Cell<(u64, [u8; 20])> = const { Cell::new((u64::MAX, [0; 20])) };
        }
        let (second, ms) = (self.0 / 1_000, self.0 % 1_000);
        let (mut last, mut text) = LAST.get();
        if second != last {
            let whole = timestamp(second.saturating_mul(1_000)).to_string();
            // `2024-01-03T19:30:00Z`, for every year that is written with four digits.
            let Ok(bytes) = whole.as_bytes().try_into() else {
                return IsoText::Other(timestamp(self.0).to_string());
            };
            (last, text) = (second, bytes);
            LAST.set((last, text));
        }
        let digit = |place: u64| b'0' + (ms / place % 10) as u8;
        let mut written = [b'Z'; 24];
        written[..19].copy_from_slice(&text[..19]);
        written[19..23].copy_from_slice(&[b'.', digit(100), digit(10), digit(1)]);
        IsoText::Usual(written)
    }
}

/// A time in ISO 8601.
enum IsoText {
    /// With a year of four digits.
    Usual([u8; 24]),
    Other(String),
}

impl IsoText {
    fn as_str(&self) -> &str {
        match self {
            Self::Usual(text) => str::from_utf8(text).expect("digits and punctuation"),
            Self::Other(text) => text,
        }
    }
}

/// How IDs are to be written.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct OneParams {
    /// `decimal` (a JSON number), `string` (decimal text), `base62`, `base32` or `hex`.
    #[param(default = "decimal", pattern = "^(decimal|string|base62|base32|hex)$")]
    pub(super) format: Option<String>,
}

/// How many IDs, and how they are to be written.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ManyParams {
    /// How many: 1 to 10,000.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 10_000, default = 1)]
    pub(super) count: Option<String>,
    /// `decimal` (a JSON number), `string` (decimal text), `base62`, `base32` or `hex`.
    #[param(default = "decimal", pattern = "^(decimal|string|base62|base32|hex)$")]
    pub(super) format: Option<String>,
}

/// How many IDs in ranges, and how they are to be written.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RangesParams {
    /// How many IDs in all: 1 to 1,000,000.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 1_000_000, default = 1)]
    pub(super) count: Option<String>,
    /// `decimal` (a JSON number), `string` (decimal text), `base62`, `base32` or `hex`.
    #[param(default = "decimal", pattern = "^(decimal|string|base62|base32|hex)$")]
    pub(super) format: Option<String>,
}

/// Which ID to read.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ParseParams {
    /// The ID, in any form.
    #[param(value_type = String)]
    pub(super) id: Option<String>,
    /// Which form it is in: `decimal`, `string`, `base62`, `base32` or `hex`. Only needed for 11 or 13 bare
    /// digits, which could be two of them.
    #[param(pattern = "^(decimal|string|base62|base32|hex)$")]
    pub(super) format: Option<String>,
}

/// Which form an ID is in.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ParseFormat {
    /// As of the call by GET.
    #[param(pattern = "^(decimal|string|base62|base32|hex)$")]
    pub(super) format: Option<String>,
}

/// An interval of time.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct BoundsParams {
    /// Its start, as in RFC 3339 or in Unix milliseconds.
    #[param(value_type = String, example = "2024-01-03T19:00:00Z")]
    pub(super) from: Option<String>,
    /// Its end, which is not part of it.
    #[param(value_type = String, example = "2024-01-03T20:00:00Z")]
    pub(super) to: Option<String>,
}

/// A request for several IDs.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchRequest {
    /// How many.
    #[schema(value_type = u32, minimum = 1, maximum = 10_000, example = 100)]
    pub(super) count: Option<Box<RawValue>>,
}

/// A request to read an ID.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ParseRequest {
    /// The ID, as a number or as text in any form.
    #[schema(schema_with = number_or_text, required)]
    pub(super) id: Option<Box<RawValue>>,
}

/// One ID.
#[derive(Serialize, ToSchema)]
#[schema(as = OneId)]
pub(super) struct One {
    /// The ID: a number, or text where `format` says so.
    #[schema(schema_with = number_or_text)]
    id: Shown,
    /// The same as decimal text, for languages whose numbers lose digits past 2^53.
    #[schema(value_type = String, example = "397833929219919914")]
    id_str: Shown,
    /// When it was minted, in UTC.
    #[schema(value_type = String, format = DateTime, example = "2024-01-03T19:30:00.123Z")]
    timestamp: Iso,
    datacenter_id: u16,
    worker_id: u16,
    /// Which of that millisecond's IDs it is.
    sequence: u32,
}

impl One {
    pub(super) fn new(id: Id, form: Form, layout: Layout) -> Self {
        let parts = layout.decompose(id);
        Self {
            id: Shown(id, form),
            id_str: decimal(id),
            timestamp: Iso(parts.timestamp_ms),
            datacenter_id: parts.slot.datacenter,
            worker_id: parts.slot.worker,
            sequence: parts.sequence,
        }
    }

    /// The JSON of an ID as a number, as serde writes it, in a third of the time: it is what is asked for most.
    pub(super) fn usual_json(&self) -> Bytes {
        let mut id = itoa::Buffer::new();
        let (id, timestamp) = (id.format(self.id.0.get()), self.timestamp.text());
        let [mut datacenter_id, mut worker_id, mut sequence] = [itoa::Buffer::new(); 3];
        let pieces = [
            "{\"id\":",
            id,
            ",\"id_str\":\"",
            id,
            "\",\"timestamp\":\"",
            timestamp.as_str(),
            "\",\"datacenter_id\":",
            datacenter_id.format(self.datacenter_id),
            ",\"worker_id\":",
            worker_id.format(self.worker_id),
            ",\"sequence\":",
            sequence.format(self.sequence),
            "}",
        ];
        let mut text = Cursor::new([0; ONE_BYTES_MAX]);
        for piece in pieces {
            text.write_all(piece.as_bytes()).expect("the longest ID, time and parts fit");
        }
        let length = pieces.iter().map(|piece| piece.len()).sum();
        Bytes::copy_from_slice(&text.get_ref()[..length])
    }
}

/// The most bytes that one ID's JSON takes: 83 for the names, 19 twice for the ID, 30 for a time, 5, 5 and 10
/// for the other parts.
const ONE_BYTES_MAX: usize = 192;

/// Several IDs, in order.
#[derive(Serialize, ToSchema)]
#[schema(as = ManyIds)]
pub(super) struct Many<'a> {
    /// Numbers, or texts where `format` says so.
    #[schema(schema_with = numbers_or_texts)]
    ids: Listed<'a>,
    count: u32,
    /// From the request's arrival at the service to its IDs.
    generation_time_ms: f64,
}

impl<'a> Many<'a> {
    pub(super) fn new(batch: &'a Batch, form: Form) -> Self {
        Self {
            ids: Listed(&batch.ranges, form),
            count: total(&batch.ranges),
            generation_time_ms: batch.generation_time_ms,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.count as usize
    }
}

/// Ranges, written out ID by ID.
struct Listed<'a>(&'a [IdRange], Form);

impl Serialize for Listed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().flat_map(IdRange::ids).map(|id| Shown(id, self.1)))
    }
}

/// Ranges of consecutive IDs, in order.
#[derive(Serialize, ToSchema)]
#[schema(as = IdRanges)]
pub(super) struct Ranges {
    ranges: Vec<Range>,
    /// How many IDs they have together.
    count: u32,
}

/// The IDs `first`, `first + 1`, … `first + count - 1`.
#[derive(Serialize, ToSchema)]
#[schema(as = IdRange)]
struct Range {
    /// The lowest: a number, or text where `format` says so.
    #[schema(schema_with = number_or_text)]
    first: Shown,
    /// The same as decimal text.
    #[schema(value_type = String)]
    first_str: Shown,
    count: u32,
}

impl Ranges {
    pub(super) fn new(ranges: &[IdRange], form: Form) -> Self {
        let shown = |range: &IdRange| Range {
            first: Shown(range.first(), form),
            first_str: decimal(range.first()),
            count: range.count(),
        };
        Self { ranges: ranges.iter().map(shown).collect(), count: total(ranges) }
    }
}

fn total(ranges: &[IdRange]) -> u32 {
    ranges.iter().map(IdRange::count).sum()
}

/// What an ID says of its origin.
#[derive(Serialize, ToSchema)]
#[schema(as = ParsedId)]
pub(super) struct Parsed {
    #[schema(value_type = u64)]
    id: Id,
    /// The same as decimal text.
    #[schema(value_type = String)]
    id_str: Shown,
    components: Components,
    /// Since it was minted; negative where its time is still to come.
    age_ms: i64,
    /// Whether it can have been issued by now: its time has come.
    valid: bool,
}

/// What an ID is made of.
#[derive(Serialize, ToSchema)]
struct Components {
    /// Unix milliseconds, UTC.
    timestamp_ms: u64,
    #[schema(value_type = String, format = DateTime)]
    timestamp_iso: Iso,
    datacenter_id: u16,
    /// Where the datacenter has a name.
    datacenter_name: Option<String>,
    worker_id: u16,
    sequence: u32,
}

impl Parsed {
    pub(super) fn new(id: Id, origin: &Origin, datacenter_name: Option<String>) -> Self {
        let Origin { parts, age_ms, valid } = *origin;
        Self {
            id,
            id_str: decimal(id),
            components: Components {
                timestamp_ms: parts.timestamp_ms,
                timestamp_iso: Iso(parts.timestamp_ms),
                datacenter_id: parts.slot.datacenter,
                datacenter_name,
                worker_id: parts.slot.worker,
                sequence: parts.sequence,
            },
            age_ms,
            valid,
        }
    }
}

/// The ends of a range scan by time, both of them possible IDs of the interval.
#[derive(Serialize, ToSchema)]
#[schema(as = IdBounds)]
pub(super) struct Bounds {
    #[schema(value_type = u64)]
    lowest: Id,
    /// The same as decimal text.
    #[schema(value_type = String)]
    lowest_str: Shown,
    #[schema(value_type = u64)]
    highest: Id,
    /// The same as decimal text.
    #[schema(value_type = String)]
    highest_str: Shown,
    #[schema(value_type = String, format = DateTime)]
    from: Iso,
    #[schema(value_type = String, format = DateTime)]
    to: Iso,
}

impl Bounds {
    pub(super) fn new((lowest, highest): (Id, Id), from_ms: u64, to_ms: u64) -> Self {
        Self {
            lowest,
            lowest_str: decimal(lowest),
            highest,
            highest_str: decimal(highest),
            from: Iso(from_ms),
            to: Iso(to_ms),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_with_milliseconds() {
        let text = |ms| serde_json::to_string(&Iso(ms)).unwrap();
        assert_eq!(text(1_704_310_200_123), r#""2024-01-03T19:30:00.123Z""#);
        assert_eq!(text(1_704_310_200_007), r#""2024-01-03T19:30:00.007Z""#);
        assert_eq!(text(1_704_310_201_000), r#""2024-01-03T19:30:01.000Z""#);
        assert_eq!(text(0), r#""1970-01-01T00:00:00.000Z""#);
    }

    #[test]
    fn an_id_is_written_as_the_contract_has_it() {
        let id = Format::Decimal.parse("397833929219919914").unwrap();
        let text = |form| serde_json::to_string(&One::new(id, form, Layout::default())).unwrap();
        for id in [Id::new(0).unwrap(), id, Id::MAX] {
            let one = One::new(id, Form::Number, Layout::default());
            assert_eq!(one.usual_json(), serde_json::to_vec(&one).unwrap());
        }
        assert_eq!(
            text(Form::Number),
            r#"{"id":397833929219919914,"id_str":"397833929219919914","timestamp":"2024-01-03T19:30:00.123Z","datacenter_id":0,"worker_id":5,"sequence":42}"#
        );
        assert!(
            text(Form::Text(Format::Base32))
                .starts_with(r#"{"id":"0B1B3V77C0M1A","id_str":"397833929219919914""#)
        );
    }
}
