//! Chains: whether the pieces of all objects, put together, are what was written.

use std::cmp::Ordering;

use serde::Serialize;
use snowmint::Slot;
use uuid::Uuid;

use super::finding::{Finding, Findings, as_text_or_null};
use super::object::{End, Piece};
use crate::archive::{Hash, ObjectKey};

/// A chain, as far as it is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Chain {
    /// The journal.
    pub journal: Uuid,
    /// The slot.
    #[serde(serialize_with = "as_text_or_null")]
    pub slot: Option<Slot>,
    /// The number of the first record that is there.
    pub first: u64,
    /// That of the last.
    pub last: u64,
    /// The hash of the last line: whoever notes it elsewhere can tell later whether the chain was written anew.
    pub hash: Option<Hash>,
    /// How many objects it is in.
    pub objects: u64,
}

/// Puts the pieces of each chain together. With `whole`, chains have to start with their first record.
pub(super) fn join(mut pieces: Vec<Piece>, whole: bool, findings: &mut Findings) -> Vec<Chain> {
    pieces.sort_unstable_by(order);
    let mut chains = Vec::new();
    for chain in pieces.chunk_by(|one, other| (one.journal, one.slot) == (other.journal, other.slot)) {
        let (Some(first), Some(last)) = (chain.first(), chain.last()) else { continue };
        start(first, whole, findings);
        chain.windows(2).for_each(|pair| follow(&pair[0], &pair[1], findings));
        chains.push(summary(first, last, chain.len()));
    }
    chains
}

fn order(one: &Piece, other: &Piece) -> Ordering {
    let key =
        |piece: &Piece| (piece.slot, piece.journal, piece.first.sequence, piece.entry.key, piece.entry.tier);
    key(one).cmp(&key(other))
}

fn summary(first: &Piece, last: &Piece, objects: usize) -> Chain {
    Chain {
        journal: first.journal,
        slot: first.slot,
        first: first.first.sequence,
        last: last.last.sequence,
        hash: last.hash,
        objects: objects as u64,
    }
}

fn start(piece: &Piece, whole: bool, findings: &mut Findings) {
    let End { sequence, .. } = piece.first;
    if sequence > 1 && whole {
        let (slot, before) = (piece.slot, piece.place(piece.first));
        findings.add(Finding::Missing { slot, from: 1, to: sequence - 1, after: None, before });
    }
    if sequence == 1 && piece.previous != Hash::NOTHING {
        let problem = "the first record of a chain says that there was a line before it".to_owned();
        findings.add(Finding::Contradiction { place: piece.place(piece.first), problem });
    }
}

/// Whether a piece follows the one before it.
fn follow(before: &Piece, piece: &Piece, findings: &mut Findings) {
    let (last, first) = (before.place(before.last), piece.place(piece.first));
    let (wanted, sequence) = (before.last.sequence + 1, piece.first.sequence);
    match sequence.cmp(&wanted) {
        Ordering::Greater => {
            let (slot, to) = (piece.slot, sequence - 1);
            findings.add(Finding::Missing { slot, from: wanted, to, after: Some(last), before: first });
        }
        Ordering::Less => {
            let to = before.last.sequence.min(piece.last.sequence);
            findings.add(Finding::Repeated { from: sequence, to, place: last, again: first });
        }
        Ordering::Equal if before.hash.is_some_and(|hash| hash != piece.previous) => {
            findings.add(Finding::Changed { place: last, next: first });
        }
        Ordering::Equal => {}
    }
    // Of one hour they are numbered as they were written. The last record of an hour may come after the next hour's.
    if piece.entry.key.hour == before.entry.key.hour && piece.entry.key < before.entry.key {
        let (object, before) = (before.entry.to_string(), piece.entry.to_string());
        findings.add(Finding::OutOfOrder { object, before });
    }
}

/// The objects that are missing between `before` and `key`, of one hour and slot: they are numbered from 1.
pub(super) fn missing_objects(before: Option<ObjectKey>, key: ObjectKey) -> impl Iterator<Item = ObjectKey> {
    let same = before.filter(|before| (before.slot, before.hour) == (key.slot, key.hour));
    let next = same.map_or(1, |before| before.number + 1);
    (next..key.number).map(move |number| ObjectKey { number, ..key })
}
