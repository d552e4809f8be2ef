//! The lines of an archive, as they are: all of them, or those that somebody asks for.

use std::io::Write;

use snowmint::{Id, Layout, Slot};
use tokio::runtime::Handle;

use super::AuditError;
use super::lines::{LineError, Lines};
use super::list::{Entry, Scope, list};
use crate::archive::{EventType, Hour, Record};
use crate::objects::Objects;

/// Which records are asked for: those for which all of it holds.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// They issued this ID.
    pub id: Option<Id>,
    /// Made then or later, in Unix milliseconds.
    pub since_ms: Option<u64>,
    /// Made before, in Unix milliseconds.
    pub until_ms: Option<u64>,
    /// Whoever asked came from there, as it was written down.
    pub client: Option<String>,
    /// Of the request with this ID.
    pub request_id: Option<String>,
    /// Of this type.
    pub event_type: Option<EventType>,
    /// Of this slot.
    pub slot: Option<Slot>,
}

/// What there was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// How many lines were written.
    pub lines: u64,
    /// How many objects were read.
    pub objects: u64,
    /// What could not be read, and why.
    pub problems: Vec<String>,
}

impl Filter {
    /// The objects that can have such records. An ID says itself which slot issued it and when; its record is of
    /// the same hour or, where the request ended after it, of the next.
    #[must_use]
    pub fn scope(&self, layout: Layout) -> Scope {
        let (mut slot, mut since, mut until) =
            (self.slot, self.since_ms.map(Hour::of), self.until_ms.map(later));
        if let Some(id) = self.id {
            let parts = layout.decompose(id);
            let hour = Hour::of(parts.timestamp_ms);
            slot = slot.or(Some(parts.slot));
            since = since.max(Some(hour));
            until = Some(until.unwrap_or(Hour(u32::MAX)).min(later(hour.start_ms())));
        }
        let (datacenter, worker) = (slot.map(|slot| slot.datacenter), slot.map(|slot| slot.worker));
        Scope { since, until, datacenter, worker }
    }

    fn fits(&self, record: &Record) -> bool {
        let metadata = record.request_metadata.as_ref();
        let told = |wanted: &Option<String>, is: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| is == Some(wanted))
        };
        self.since_ms.is_none_or(|since_ms| since_ms <= record.timestamp)
            && self.until_ms.is_none_or(|until_ms| record.timestamp < until_ms)
            && self.event_type.is_none_or(|event_type| event_type == record.event_type)
            && told(&self.client, metadata.map(|metadata| &*metadata.client_ip))
            && told(&self.request_id, metadata.map(|metadata| &*metadata.request_id))
            && self.id.is_none_or(|id| {
                let has = |first: Id, count| id >= first && id.get() - first.get() < u64::from(count);
                record.ids().any(|range| has(range.first, range.count))
            })
    }

    /// Whether each line is asked for, so that none has to be understood.
    fn is_all(&self) -> bool {
        let Self { id, since_ms, until_ms, client, request_id, event_type, slot: _ } = self;
        id.is_none()
            && since_ms.or(*until_ms).is_none()
            && client.as_ref().or(request_id.as_ref()).is_none()
            && event_type.is_none()
    }
}

/// The hour after that of a time: a record can be in the object of the hour after its own.
fn later(at_ms: u64) -> Hour {
    Hour(Hour::of(at_ms).0.saturating_add(1))
}

/// Writes the records that are asked for, by slot and time. Not for tasks: see [`super::verify::verify`].
pub fn cat(
    runtime: &Handle,
    objects: &Objects,
    layout: Layout,
    filter: &Filter,
    out: &mut dyn Write,
) -> Result<Found, AuditError> {
    let entries = runtime.block_on(list(objects, &filter.scope(layout)))?.entries;
    let mut found = Found { objects: entries.len() as u64, ..Found::default() };
    for entry in entries {
        let mut line = 0;
        match object(runtime, objects, entry, filter, &mut line, out) {
            Ok(lines) => found.lines += lines,
            Err(CatError::Output(error)) => return Err(error.into()),
            Err(CatError::Line(error)) => found.problems.push(format!("{entry} line {}: {error}", line + 1)),
        }
    }
    Ok(found)
}

#[derive(Debug, thiserror::Error)]
enum CatError {
    #[error(transparent)]
    Line(#[from] LineError),
    #[error(transparent)]
    Output(#[from] std::io::Error),
}

fn object(
    runtime: &Handle,
    objects: &Objects,
    entry: Entry,
    filter: &Filter,
    line: &mut u64,
    out: &mut dyn Write,
) -> Result<u64, CatError> {
    let mut lines = Lines::open(runtime, objects, &entry.path())?;
    let mut written = 0;
    while let Some(text) = lines.next()? {
        let wanted = filter.is_all()
            || filter
                .fits(&serde_json::from_slice(text).map_err(|error| LineError::Damaged(error.to_string()))?);
        if wanted {
            out.write_all(text)?;
            out.write_all(b"\n")?;
            written += 1;
        }
        *line += 1;
    }
    Ok(written)
}
