//! Layouts and text forms: round trips for every split, and errors that say what is wrong.
#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use snowmint::{ComposeError, Format, Id, Layout, ParseError, Parts, Slot, Split, SplitError, parse};

fn splits() -> impl Strategy<Value = Split> {
    (0..=16_u8, 0..=16_u8, 0..=31_u8)
        .prop_filter("the timestamp needs a bit", |(d, w, s)| d + w + s < 63)
        .prop_map(|(d, w, s)| Split::new(63 - d - w - s, d, w, s).unwrap())
}

fn ids() -> impl Strategy<Value = Id> {
    prop_oneof![0..=Id::MAX.get(), Just(0), Just(Id::MAX.get())].prop_map(|value| Id::new(value).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Invariant 6: every ID of every layout decomposes into parts that compose it again.
    #[test]
    fn compose_and_decompose_round_trip(split in splits(), epoch_ms in 0..=Layout::EPOCH_MS_MAX, id in ids()) {
        let layout = Layout::new(split, epoch_ms).unwrap();
        let parts = layout.decompose(id);
        prop_assert_eq!(layout.compose(parts), Ok(id));
        prop_assert!(i64::from(id) >= 0);
        let (lowest, highest) = layout.bounds(parts.timestamp_ms, parts.timestamp_ms + 1).unwrap();
        prop_assert!(lowest <= id && id <= highest);
        prop_assert_eq!(split.to_string().parse(), Ok(split));
    }

    #[test]
    fn a_part_too_large_is_an_error_that_names_it(split in splits(), extra in 0..5_u32) {
        let layout = Layout::new(split, 0).unwrap();
        let slot = Slot::default();
        let at = |timestamp_ms, slot, sequence| layout.compose(Parts { timestamp_ms, slot, sequence });
        let over = split.max_sequence() + 1 + extra;
        let most = split.max_sequence();
        prop_assert_eq!(at(0, slot, over), Err(ComposeError::TooLarge { part: "sequence", value: over, most }));
        if let Ok(worker) = u16::try_from(split.workers() + extra) {
            let error = at(0, Slot { worker, ..slot }, 0);
            prop_assert!(matches!(error, Err(ComposeError::TooLarge { part: "worker", .. })), "{error:?}");
        }
        let end = at(layout.end_ms() + u64::from(extra), slot, 0);
        prop_assert!(matches!(end, Err(ComposeError::OutOfTimestamps { .. })), "{end:?}");
    }

    #[test]
    fn every_form_round_trips(id in ids()) {
        for format in Format::ALL {
            let text = format.text(id);
            prop_assert_eq!(format.parse(&text), Ok(id), "{}", text);
            match parse(&text) {
                Ok(parsed) => prop_assert_eq!(parsed, id, "{}", text),
                Err(error) => prop_assert!(matches!(error, ParseError::Ambiguous { .. }), "{} {}", text, error),
            }
        }
        let lower = Format::Base32.text(id).to_lowercase().replace('0', "o").replace('1', "l");
        prop_assert_eq!(Format::Base32.parse(&lower), Ok(id));
    }

    /// Text of the fixed-width forms sorts as the numbers do.
    #[test]
    fn fixed_width_text_sorts_as_the_numbers_do(a in ids(), b in ids()) {
        for format in [Format::Base62, Format::Base32, Format::Hex] {
            prop_assert_eq!(format.text(a).cmp(&format.text(b)), a.cmp(&b));
            prop_assert_eq!(format.text(a).len(), format.text(b).len());
        }
    }

    #[test]
    fn no_text_makes_parsing_panic(text in "\\PC{0,24}") {
        let _ = parse(&text);
        for format in Format::ALL {
            let _ = format.parse(&text);
        }
    }
}

#[test]
fn splits_are_checked() {
    assert_eq!("41/5/5/13".parse::<Split>(), Err(SplitError::Total { bits: 64 }));
    assert!(matches!("0/16/16/31".parse::<Split>(), Err(SplitError::Part { part: "timestamp", .. })));
    assert!(matches!("30/17/4/12".parse::<Split>(), Err(SplitError::Part { part: "datacenter", .. })));
    assert!(matches!("20/1/10/32".parse::<Split>(), Err(SplitError::Part { part: "sequence", .. })));
    for text in ["", "41", "41/5/5", "41/5/5/12/0", "41/5/5/x", "41/5/5/-1", "300/5/5/12"] {
        let error = text.parse::<Split>().unwrap_err();
        assert!(error.to_string().contains("41/5/5/12"), "{error}");
    }
}

#[test]
fn the_default_layout_is_the_documented_one() {
    let layout = Layout::default();
    assert_eq!((layout.split().datacenters(), layout.split().workers()), (32, 32));
    assert_eq!(layout.split().max_sequence(), 4095);
    assert_eq!(layout.epoch_ms(), 1_609_459_200_000);
}

#[test]
fn bounds_are_those_of_the_interval() {
    let layout = Layout::default();
    let (lowest, highest) = layout.bounds(layout.epoch_ms() + 5, layout.epoch_ms() + 7).unwrap();
    assert_eq!((lowest.get(), highest.get()), (5 << 22, (7 << 22) - 1));
    assert!(layout.bounds(5, 5).unwrap_err().to_string().contains("empty"));
    assert!(layout.bounds(5, 6).unwrap_err().to_string().contains("before the epoch"));
}

#[test]
fn parse_errors_say_which_character_and_why() {
    let message = |text: &str| parse(text).unwrap_err().to_string();
    assert_eq!(message(""), "an ID is wanted, this is empty");
    assert_eq!(
        message("12x"),
        "3 characters with letters are no ID: base62 has 11, base32 13, hex 16 behind 0x"
    );
    assert_eq!(message("12 4"), "character 3 is ' ', which is no ID digit");
    assert_eq!(message("-1"), "character 1 is '-', which is no ID digit");
    assert_eq!(message("007"), "character 1 is '0': a decimal ID has no leading zero");
    assert_eq!(
        message("9223372036854775808"),
        "the ID is too large: the largest is 9223372036854775807 (2^63 - 1)"
    );
    assert_eq!(message("18446744073709551616"), message("9223372036854775808"));
    assert_eq!(message("0B1G4MAYW4R1U"), "character 13 is 'U', which is no base32 digit");
    assert_eq!(message("0x00000000000000g0"), "character 17 is 'g', which is no hex digit");
    // Both are base62, though one looks like the start of hex.
    assert_eq!(parse("0X000000000").unwrap().get(), 33 * 62_u64.pow(9));
    assert_eq!(message("0x000000_00"), "character 9 is '_', which is no base62 digit");
    assert_eq!(message("0x12"), "an ID in hex has 16 digits, this has 2");
    assert_eq!(message("zzzzzzzzzzz"), "the ID is too large: the largest is 9223372036854775807 (2^63 - 1)");
    assert_eq!(message("1234567890123"), "13 digits could be decimal or base32: say which form it is");
    assert_eq!(Format::Decimal.parse("1234567890123").unwrap().get(), 1_234_567_890_123);
    assert_eq!(message("é"), "character 1 is 'é', which is no ID digit");
    let unknown = "base64".parse::<Format>().unwrap_err().to_string();
    assert_eq!(unknown, "\"base64\" is no form of an ID: decimal, base62, base32 and hex are");
}

#[test]
fn slots_have_one_spelling() {
    let slot = Slot { datacenter: 0, worker: 5 };
    assert_eq!("dc0_worker5".parse(), Ok(slot));
    assert_eq!(slot.to_string(), "dc0_worker5");
    for text in ["", "dc0", "dc0_worker", "dc00_worker5", "dc0_worker+5", "dc0_worker70000", "DC0_worker5"] {
        assert!(text.parse::<Slot>().is_err(), "{text}");
    }
}

#[cfg(feature = "serde")]
#[test]
fn serde_forms() {
    let id = Id::new(397_833_929_219_919_914).unwrap();
    assert_eq!(serde_json::to_string(&id).unwrap(), "397833929219919914");
    assert_eq!(serde_json::from_str::<Id>("397833929219919914").unwrap(), id);
    let error = serde_json::from_str::<Id>("9223372036854775808").unwrap_err().to_string();
    assert!(error.contains("at most 2^63 - 1"), "{error}");
    assert_eq!(serde_json::to_string(&Split::DEFAULT).unwrap(), "\"41/5/5/12\"");
    assert!(serde_json::from_str::<Split>("\"41\"").is_err());
    let slot = Slot { datacenter: 1, worker: 2 };
    assert_eq!(serde_json::to_string(&slot).unwrap(), r#"{"datacenter":1,"worker":2}"#);
}
