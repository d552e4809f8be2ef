//! Whole nodes in a simulated world: the real lease, generator, service, settings and clock, over a registry, a
//! network and clocks to which everything happens that can happen, in virtual time and in one thread, so that
//! one seed is one history.
//!
//! `SNOWMINT_SIMULATION_SEEDS=100000` lives through more of them than the usual number;
//! `SNOWMINT_SIMULATION_SEED=17` through the one that failed, and no other.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(missing_docs, unreachable_pub, reason = "tests")]

mod history;
mod network;
mod node;
mod registry;
mod rng;
mod time;
mod world;

use history::{Counts, Violation};
use registry::Flaw;
use world::{Outcome, live};

/// How many seeds are tried.
const SEEDS: u64 = 2_000;

/// Into how many tests they are split, so that they run side by side.
const SHARES: u64 = 4;

/// How many seeds a fault that was planted may take to be found.
const SEEDS_TO_FIND_A_FLAW: u64 = 50;

/// How many seeds are lived through twice.
const SEEDS_TWICE: u64 = 20;

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text}, and a number is wanted")))
}

/// Says which seed it was, however it fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to see it again: SNOWMINT_SIMULATION_SEED={}", self.0);
        }
    }
}

fn keeps_every_promise(seed: u64) -> Counts {
    let seed = Seed(seed);
    let Outcome { violations, tail, counts, .. } = live(seed.0, Flaw::None);
    assert!(violations.is_empty(), "seed {}: {violations:#?}\n{tail}", seed.0);
    counts
}

/// The seeds of one test.
fn share(number: u64) {
    if let Some(seed) = variable("SNOWMINT_SIMULATION_SEED") {
        if seed % SHARES == number {
            eprintln!("{:#?}", keeps_every_promise(seed));
        }
        return;
    }
    let seeds = variable("SNOWMINT_SIMULATION_SEEDS").unwrap_or(SEEDS);
    let mut counts = Counts::default();
    for seed in (0..seeds).filter(|seed| seed % SHARES == number) {
        counts += keeps_every_promise(seed);
    }
    eprintln!("{counts:#?}");
    counts.assert_all_happened();
}

#[test]
fn no_history_breaks_a_promise_first_share() {
    share(0);
}

#[test]
fn no_history_breaks_a_promise_second_share() {
    share(1);
}

#[test]
fn no_history_breaks_a_promise_third_share() {
    share(2);
}

#[test]
fn no_history_breaks_a_promise_fourth_share() {
    share(3);
}

/// Invariant 12: one seed is one history, and another seed another.
#[test]
fn a_seed_gives_one_history() {
    let mut hashes = std::collections::BTreeSet::new();
    for seed in 0..SEEDS_TWICE {
        let (first, second) = (live(seed, Flaw::None), live(seed, Flaw::None));
        assert_eq!(first.hash, second.hash, "seed {seed}:\n{}\n{}", first.tail, second.tail);
        hashes.insert(first.hash);
    }
    assert_eq!(hashes.len() as u64, SEEDS_TWICE);
}

/// Invariant 1, broken: windows that are extended without the swap repeat IDs, and the checker sees it.
#[test]
fn a_registry_that_extends_without_the_swap_is_caught() {
    assert_repeats_ids(Flaw::ExtendsWithoutSwap);
}

/// Invariant 1, broken: a registry that forgets a window gives it away twice.
#[test]
fn a_registry_that_forgets_a_record_is_caught() {
    assert_repeats_ids(Flaw::Forgets);
}

fn assert_repeats_ids(flaw: Flaw) {
    let repeats = |seed: &u64| {
        live(*seed, flaw).violations.iter().any(|violation| matches!(violation, Violation::Duplicate { .. }))
    };
    let found = (0..SEEDS_TO_FIND_A_FLAW).find(repeats);
    eprintln!("{flaw:?}: an ID came twice at seed {found:?}");
    assert!(found.is_some(), "{flaw:?} repeated no ID within {SEEDS_TO_FIND_A_FLAW} seeds");
}
