//! Positive controls: faults planted on purpose, which the checker has to find.

use std::time::Instant;

use snowmint::{Claim, Generator, Layout, SequenceStart, Slot};
use tempfile::TempDir;

use crate::checker::Checker;
use crate::load::{Load, Receipt};
use crate::process::Serve;

/// How often each node is asked: in a thousand milliseconds two nodes meet in many.
const ANSWERS: usize = 500;

/// Invariant 1, broken: two nodes on one slot, because neither's registry knows of the other.
#[tokio::test]
async fn two_processes_on_one_slot_are_found() {
    let directories = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let (mut nodes, mut loads) = (Vec::new(), Vec::new());
    for directory in &directories {
        nodes.push(Serve::new(directory.path()).set("worker", "5").start().await);
    }
    for node in &nodes {
        loads.push(Load::on(node.address(), 2));
    }
    let mut checker = Checker::default();
    for (nth, load) in loads.into_iter().enumerate() {
        load.receive(ANSWERS).await;
        checker.add(&format!("node {nth}"), &load.finish().await);
    }
    let duplicates = checker.duplicates();
    assert!(!duplicates.is_empty(), "two nodes minted the same IDs, and the checker saw none");
    let across = duplicates.iter().find(|d| d.origins[0][..6] != d.origins[1][..6]).unwrap();
    assert!(across.count > 0 && across.id > 0, "{across:?}");
}

/// Invariant 1, broken: one window granted twice, by a registry that forgets.
#[test]
fn two_generators_on_one_window_are_found() {
    let (layout, slot, now_ms) = (Layout::default(), Slot { datacenter: 0, worker: 5 }, 1_704_310_200_123);
    let mut checker = Checker::default();
    for node in ["first", "second"] {
        let claim = Claim::new(layout, slot, None, now_ms, 10_000).unwrap();
        #[expect(clippy::disallowed_methods, reason = "this is the fault")]
        let generator = Generator::new(claim.granted(), SequenceStart::Zero);
        let range = generator.mint(now_ms, 10).unwrap();
        let (first, count) = (range.first().get(), range.count().into());
        checker
            .add_receipts(node, &[Receipt { first, count, life: 1, connection: 0, asked: Instant::now() }]);
    }
    let duplicates = checker.duplicates();
    assert_eq!((duplicates.len(), duplicates[0].count), (1, 10));
    assert!(std::panic::catch_unwind(|| checker.assert_unique()).is_err());
}

/// The checker itself: overlaps of runs of any length are found, neighbours are none.
#[test]
fn overlaps_are_found_and_neighbours_are_none() {
    let overlaps = |runs: &[(u64, u64)]| {
        let receipt =
            |&(first, count)| Receipt { first, count, life: 1, connection: 0, asked: Instant::now() };
        let mut checker = Checker::default();
        checker.add_receipts("node", &runs.iter().map(receipt).collect::<Vec<_>>());
        checker.duplicates().iter().map(|found| (found.id, found.count)).collect::<Vec<_>>()
    };
    assert_eq!(overlaps(&[(1, 1), (2, 3), (5, 1)]), []);
    assert_eq!(overlaps(&[(2, 1), (1, 1), (2, 1)]), [(2, 1)]);
    assert_eq!(overlaps(&[(0, 100), (10, 1), (50, 60)]), [(10, 1), (50, 50)]);
}
