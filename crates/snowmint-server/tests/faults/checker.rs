//! Whether any ID was received twice.

use std::fmt;
use std::rc::Rc;

use super::load::{Journal, Receipt};

/// Examples that are shown.
const EXAMPLES_MAX: usize = 10;

/// All IDs received, of every node and every life of it.
#[derive(Default)]
pub struct Checker {
    received: Vec<Received>,
}

struct Received {
    node: Rc<str>,
    receipt: Receipt,
}

/// An ID that was received twice, and from whom.
#[derive(Debug)]
pub struct Duplicate {
    /// The first of the IDs that both have.
    pub id: u64,
    /// How many they both have.
    pub count: u64,
    /// Where from.
    pub origins: [String; 2],
}

impl Checker {
    /// Adds what a load received from a node.
    pub fn add(&mut self, node: &str, journal: &Journal) {
        self.add_receipts(node, &journal.receipts);
    }

    /// Adds receipts of a node.
    pub fn add_receipts(&mut self, node: &str, receipts: &[Receipt]) {
        let node: Rc<str> = node.into();
        self.received
            .extend(receipts.iter().map(|receipt| Received { node: Rc::clone(&node), receipt: *receipt }));
    }

    /// Every overlap of what was received.
    pub fn duplicates(&mut self) -> Vec<Duplicate> {
        self.received.sort_unstable_by_key(|received| received.receipt.first);
        let mut duplicates = Vec::new();
        // The run that reaches furthest of those before: a later one overlaps any of them only if it does this.
        let mut furthest: Option<&Received> = None;
        for received in &self.received {
            let (first, last) = (received.receipt.first, received.receipt.last());
            if let Some(before) = furthest
                && first <= before.receipt.last()
            {
                let count = last.min(before.receipt.last()) - first + 1;
                let origins = [before.to_string(), received.to_string()];
                duplicates.push(Duplicate { id: first, count, origins });
            }
            if furthest.is_none_or(|before| before.receipt.last() < last) {
                furthest = Some(received);
            }
        }
        duplicates
    }

    /// Invariant 1: no two acknowledged IDs are equal. Says how many there were.
    pub fn assert_unique(mut self) -> u64 {
        assert!(!self.received.is_empty(), "no ID was received: nothing is shown");
        let duplicates = self.duplicates();
        let examples = &duplicates[..duplicates.len().min(EXAMPLES_MAX)];
        assert!(examples.is_empty(), "{} times an ID came twice: {examples:#?}", duplicates.len());
        self.received.iter().map(|received| received.receipt.count).sum()
    }
}

impl fmt::Display for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Receipt { first, count, life, connection, .. } = self.receipt;
        write!(f, "{}, life {life}, connection {connection}: {count} from {first}", self.node)
    }
}
