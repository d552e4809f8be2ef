//! `parse`: what IDs are made of.

use std::io::Write;

use clap::Args;
use jiff::Timestamp;
use serde_json::json;
use snowmint::{DEFAULT_EPOCH_MS, Format, Id, Layout, ParseError, Parts, Split};

use super::{CliError, format_parser, iso, table, write_table};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// IDs, in any form
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// The form they are written in; otherwise each is seen to have one
    #[arg(long, value_parser = format_parser())]
    format: Option<Format>,
    /// As JSON, an object a line
    #[arg(long)]
    json: bool,
    /// The Unix millisecond that timestamps count from
    #[arg(long, value_name = "N", default_value_t = DEFAULT_EPOCH_MS, value_parser = clap::value_parser!(u64).range(..=Layout::EPOCH_MS_MAX))]
    epoch_ms: u64,
    /// Bits of time, datacenter, worker and sequence
    #[arg(long, default_value_t = Split::DEFAULT)]
    layout: Split,
}

/// A text that is no ID.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no ID: {source}")]
pub(super) struct NoId {
    text: String,
    source: ParseError,
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<(), CliError> {
    let layout = Layout::new(arguments.layout, arguments.epoch_ms)
        .expect("the command line takes no epoch that a layout cannot have");
    let (mut ids, mut errors) = (Vec::new(), Vec::new());
    for text in &arguments.ids {
        let parsed = arguments.format.map_or_else(|| snowmint::parse(text), |format| format.parse(text));
        match parsed {
            Ok(id) => ids.push(Reading::new(layout, id)),
            Err(source) => errors.push(NoId { text: text.clone(), source }),
        }
    }
    match &ids[..] {
        readings if arguments.json => {
            readings.iter().try_for_each(|reading| writeln!(out, "{}", reading.json()))?;
        }
        [] => {}
        [one] if errors.is_empty() => one.write(out)?,
        several => write_several(several, out)?,
    }
    if errors.is_empty() { Ok(()) } else { Err(CliError::NoIds(errors)) }
}

/// An ID and what is in it.
struct Reading {
    id: Id,
    parts: Parts,
    age_ms: i64,
}

impl Reading {
    fn new(layout: Layout, id: Id) -> Self {
        let parts = layout.decompose(id);
        let age_ms = Timestamp::now().as_millisecond().saturating_sub_unsigned(parts.timestamp_ms);
        Self { id, parts, age_ms }
    }

    fn fields(&self) -> [(&'static str, String); 9] {
        [
            ("id", self.id.to_string()),
            ("time", iso(self.parts.timestamp_ms)),
            ("age", age(self.age_ms)),
            ("datacenter", self.parts.slot.datacenter.to_string()),
            ("worker", self.parts.slot.worker.to_string()),
            ("sequence", self.parts.sequence.to_string()),
            ("base62", Format::Base62.text(self.id)),
            ("base32", Format::Base32.text(self.id)),
            ("hex", Format::Hex.text(self.id)),
        ]
    }

    fn write(&self, out: &mut dyn Write) -> Result<(), CliError> {
        for (name, value) in self.fields() {
            writeln!(out, "{name:<12}{value}")?;
        }
        Ok(())
    }

    /// As the service's own `parse` answers, and every form.
    fn json(&self) -> serde_json::Value {
        json!({
            "id": self.id,
            "id_str": self.id.to_string(),
            "components": {
                "timestamp_ms": self.parts.timestamp_ms,
                "timestamp_iso": iso(self.parts.timestamp_ms),
                "datacenter_id": self.parts.slot.datacenter,
                "worker_id": self.parts.slot.worker,
                "sequence": self.parts.sequence,
            },
            "age_ms": self.age_ms,
            "base62": Format::Base62.text(self.id),
            "base32": Format::Base32.text(self.id),
            "hex": Format::Hex.text(self.id),
        })
    }
}

fn write_several(readings: &[Reading], out: &mut dyn Write) -> Result<(), CliError> {
    let names = readings.first().map(|reading| reading.fields().map(|(name, _)| name));
    let mut table = table(&names.unwrap_or_default());
    for reading in readings {
        table.add_row(reading.fields().map(|(_, value)| value));
    }
    Ok(write_table(out, &table)?)
}

const UNITS_MS: [(u64, &str); 5] = [
    (365 * 86_400_000, "year"),
    (86_400_000, "day"),
    (3_600_000, "hour"),
    (60_000, "minute"),
    (1_000, "second"),
];

/// How long ago something was, in the two largest units that it has.
fn age(age_ms: i64) -> String {
    let mut rest_ms = age_ms.unsigned_abs();
    let mut parts = Vec::new();
    for (unit_ms, name) in UNITS_MS {
        let count = rest_ms / unit_ms;
        rest_ms %= unit_ms;
        if count > 0 {
            parts.push(format!("{count} {name}{}", if count == 1 { "" } else { "s" }));
        } else if !parts.is_empty() {
            break;
        }
        if parts.len() == 2 {
            break;
        }
    }
    match (parts.is_empty(), age_ms < 0) {
        (true, _) => "now".to_owned(),
        (false, false) => format!("{} ago", parts.join(" ")),
        (false, true) => format!("in {}", parts.join(" ")),
    }
}

#[cfg(test)]
mod tests {
    use super::age;

    #[test]
    fn ages_have_two_units() {
        for (age_ms, text) in [
            (0, "now"),
            (-999, "now"),
            (1_000, "1 second ago"),
            (-61_000, "in 1 minute 1 second"),
            (3_600_000, "1 hour ago"),
            (3_601_000, "1 hour ago"),
            (2 * 86_400_000 + 3_660_000, "2 days 1 hour ago"),
            (366 * 86_400_000, "1 year 1 day ago"),
        ] {
            assert_eq!(age(age_ms), text);
        }
    }
}
