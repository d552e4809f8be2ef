//! Every interleaving of the generator's atomics. Runs under `RUSTFLAGS="--cfg loom"` only.
#![cfg(loom)]
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "these tests are their own registry")]

use loom::sync::Arc;
use loom::thread;
use snowmint::{Claim, Generator, IdRange, Layout, Refusal, SequenceStart, Slot, Split};

const SLOT: Slot = Slot { datacenter: 0, worker: 1 };
const START_MS: u64 = snowmint::DEFAULT_EPOCH_MS + 1_000;

/// Four IDs a millisecond.
fn layout() -> Layout {
    Layout::new(Split::new(51, 5, 5, 2).unwrap(), snowmint::DEFAULT_EPOCH_MS).unwrap()
}

fn generator() -> Arc<Generator> {
    let window = Claim::new(layout(), SLOT, None, START_MS, 2).unwrap().granted();
    Arc::new(Generator::new(window, SequenceStart::Zero))
}

fn assert_disjoint(ranges: &[IdRange]) {
    for (at, one) in ranges.iter().enumerate() {
        for other in &ranges[at + 1..] {
            assert!(one.last() < other.first() || other.last() < one.first(), "{one:?} meets {other:?}");
        }
    }
}

#[test]
fn two_threads_with_different_clocks_never_share_an_id() {
    loom::model(|| {
        let generator = generator();
        let mint = |now_ms| {
            let generator = Arc::clone(&generator);
            thread::spawn(move || {
                let first = generator.mint(now_ms, 3);
                let second = generator.mint(now_ms, 2);
                if let (Ok(first), Ok(second)) = (first, second) {
                    assert!(first.last() < second.first());
                }
                [first, second].into_iter().flatten().collect::<Vec<_>>()
            })
        };
        let threads = [mint(START_MS), mint(START_MS + 1)];
        let ranges: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert!(!ranges.is_empty());
        assert_disjoint(&ranges);
    });
}

#[test]
fn what_happens_before_is_lower() {
    loom::model(|| {
        let generator = generator();
        let other = Arc::clone(&generator);
        let (sender, receiver) = loom::sync::mpsc::channel();
        let thread = thread::spawn(move || sender.send(other.mint(START_MS, 1).unwrap()).unwrap());
        let before = receiver.recv().unwrap();
        assert!(before.last() < generator.mint(START_MS, 1).unwrap().first());
        thread.join().unwrap();
    });
}

#[test]
fn an_extension_beside_minting_lets_nothing_past_either_ceiling() {
    loom::model(|| {
        let generator = generator();
        let ceiling_ms = generator.ceiling().time_ms(layout());
        let minting = Arc::clone(&generator);
        let thread = thread::spawn(move || minting.mint(ceiling_ms, 1));
        let window = Claim::new(layout(), SLOT, Some(generator.ceiling()), ceiling_ms, 2).unwrap().granted();
        generator.extend(window).unwrap();
        match thread.join().unwrap() {
            Ok(range) => assert!(range.last() < generator.ceiling().id()),
            Err(refusal) => assert_eq!(refusal, Refusal::WindowClosed { ceiling_ms }),
        }
        assert!(generator.mint(ceiling_ms, 1).is_ok());
    });
}

#[test]
fn a_lowered_limit_is_never_exceeded_by_what_comes_after_it() {
    loom::model(|| {
        let generator = generator();
        let minting = Arc::clone(&generator);
        let thread = thread::spawn(move || minting.mint(START_MS, 4));
        generator.set_max_sequence(1);
        let after = generator.mint(START_MS, 4);
        let beside = thread.join().unwrap();
        if let Ok(after) = after {
            assert!(layout().decompose(after.last()).sequence <= 1);
            assert_disjoint(&[Some(after), beside.ok()].into_iter().flatten().collect::<Vec<_>>());
        }
    });
}

/// The checks above catch a generator that reads its word and writes it back in two steps.
#[test]
#[should_panic = "meets"]
fn a_generator_without_compare_exchange_is_caught() {
    use loom::sync::atomic::{AtomicU64, Ordering};
    loom::model(|| {
        let next = Arc::new(AtomicU64::new(0));
        let mint = || {
            let next = Arc::clone(&next);
            thread::spawn(move || {
                let first = next.load(Ordering::SeqCst);
                next.store(first + 1, Ordering::SeqCst);
                IdRange::new(snowmint::Id::new(first).unwrap(), 1).unwrap()
            })
        };
        let threads = [mint(), mint()];
        assert_disjoint(&threads.map(|thread| thread.join().unwrap()));
    });
}
