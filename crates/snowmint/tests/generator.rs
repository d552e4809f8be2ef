//! The generator against arbitrary clocks, requests, limits and extensions, beside a reference that
//! remembers everything.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "these tests are their own registry")]

use std::collections::BTreeSet;

use proptest::prelude::*;
use snowmint::{Claim, Generator, Id, IdRange, Layout, Refusal, SequenceStart, Slot, Split, Window};

const SLOT: Slot = Slot { datacenter: 3, worker: 5 };
const WINDOW_MS: u64 = 50;
const START_MS: u64 = snowmint::DEFAULT_EPOCH_MS + 1_000;

/// A layout with 8 IDs a millisecond, so that limits are met often.
fn small_layout() -> Layout {
    Layout::new(Split::new(50, 5, 5, 3).unwrap(), snowmint::DEFAULT_EPOCH_MS).unwrap()
}

fn window(layout: Layout, floor: Option<snowmint::Ceiling>, now_ms: u64) -> Option<Window> {
    Claim::new(layout, SLOT, floor, now_ms, WINDOW_MS).ok().map(Claim::granted)
}

fn generator(layout: Layout, start: SequenceStart) -> Generator {
    Generator::new(window(layout, None, START_MS).unwrap(), start)
}

#[derive(Clone, Debug)]
enum Step {
    Mint { wanted: u32 },
    MintSince { back_ms: u64, wanted: u32 },
    Advance { ms: u64 },
    GoBack { ms: u64 },
    Extend,
    Limit { max_sequence: u32 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..20_u32).prop_map(|wanted| Step::Mint { wanted }),
        4 => (0..6_u64, 0..20_u32).prop_map(|(back_ms, wanted)| Step::MintSince { back_ms, wanted }),
        6 => (0..4_u64).prop_map(|ms| Step::Advance { ms }),
        1 => (0..200_u64).prop_map(|ms| Step::Advance { ms }),
        2 => (0..200_u64).prop_map(|ms| Step::GoBack { ms }),
        3 => Just(Step::Extend),
        1 => (0..12_u32).prop_map(|max_sequence| Step::Limit { max_sequence }),
    ];
    prop::collection::vec(step, 1..200)
}

fn starts() -> impl Strategy<Value = SequenceStart> {
    prop_oneof![Just(SequenceStart::Zero), Just(SequenceStart::Jittered)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Invariants 1, 2, 4: under any clock, IDs strictly increase, none repeats, and all lie in a window.
    #[test]
    fn any_clock_gives_increasing_ids_inside_the_window(steps in steps(), start in starts()) {
        let layout = small_layout();
        let generator = generator(layout, start);
        let mut now_ms = START_MS;
        let mut seen = BTreeSet::new();
        let mut last = None;
        for step in steps {
            let minted = match step {
                Step::Advance { ms } => { now_ms += ms; continue }
                // Also to before the epoch.
                Step::GoBack { ms } => { now_ms = now_ms.saturating_sub(ms * 10); continue }
                Step::Limit { max_sequence } => { generator.set_max_sequence(max_sequence); continue }
                Step::Extend => {
                    if let Some(window) = window(layout, Some(generator.ceiling()), now_ms) {
                        generator.extend(window).unwrap();
                    }
                    continue
                }
                Step::Mint { wanted } => (generator.mint(now_ms, wanted), wanted),
                Step::MintSince { back_ms, wanted } => {
                    (generator.mint_since(now_ms.saturating_sub(back_ms), now_ms, wanted), wanted)
                }
            };
            match minted {
                (Ok(range), wanted) => {
                    prop_assert!(range.count() <= wanted.max(1));
                    prop_assert!(last < Some(range.first()), "{last:?} is followed by {range:?}");
                    prop_assert!(range.last() < generator.ceiling().id());
                    for id in range.ids() {
                        prop_assert!(seen.insert(id), "{id} twice");
                        let parts = layout.decompose(id);
                        prop_assert_eq!(parts.slot, SLOT);
                        prop_assert_eq!(parts.timestamp_ms, layout.decompose(range.first()).timestamp_ms);
                    }
                    last = Some(range.last());
                    prop_assert_eq!(generator.last_id(), last);
                }
                (Err(Refusal::WindowClosed { ceiling_ms }), _) => {
                    prop_assert_eq!(ceiling_ms, generator.ceiling().time_ms(layout));
                }
                (Err(Refusal::Wait { until_ms } | Refusal::ClockBehind { until_ms }), _) => {
                    prop_assert!(until_ms > now_ms);
                    // Nothing is used up by a refusal, and the time it names is right.
                    if until_ms < generator.ceiling().time_ms(layout) {
                        let next = generator.mint(until_ms, 1).unwrap();
                        prop_assert!(last < Some(next.first()));
                        prop_assert_eq!(layout.decompose(next.first()).timestamp_ms, until_ms);
                        seen.insert(next.first());
                        last = Some(next.first());
                    }
                }
            }
        }
    }
}

/// The same checks catch two generators that were given one window, as two nodes on one slot would be.
#[test]
fn a_window_given_twice_repeats_ids() {
    let layout = small_layout();
    let [one, other] = [generator(layout, SequenceStart::Zero), generator(layout, SequenceStart::Zero)];
    assert_eq!(one.mint(START_MS, 8).unwrap(), other.mint(START_MS, 8).unwrap());
}

#[test]
fn a_full_millisecond_waits_for_the_next() {
    let layout = small_layout();
    let generator = generator(layout, SequenceStart::Zero);
    assert_eq!(generator.mint(START_MS, 100).unwrap().count(), 8);
    assert_eq!(generator.mint(START_MS, 1), Err(Refusal::Wait { until_ms: START_MS + 1 }));
    assert_eq!(generator.mint(START_MS - 1, 1), Err(Refusal::ClockBehind { until_ms: START_MS + 1 }));
    assert_eq!(generator.mint(START_MS + 1, 1).unwrap().count(), 1);
}

#[test]
fn a_late_waiter_gets_the_milliseconds_that_passed_meanwhile() {
    let layout = small_layout();
    let generator = generator(layout, SequenceStart::Zero);
    let times: Vec<u64> = (0..3)
        .map(|_| generator.mint_since(START_MS, START_MS + 2, 8).unwrap())
        .map(|range| layout.decompose(range.first()).timestamp_ms - START_MS)
        .collect();
    assert_eq!(times, [0, 1, 2]);
    assert_eq!(
        generator.mint_since(START_MS, START_MS + 2, 8),
        Err(Refusal::Wait { until_ms: START_MS + 3 })
    );
}

#[test]
fn the_window_ends_exactly_at_its_ceiling() {
    let layout = small_layout();
    let generator = generator(layout, SequenceStart::Zero);
    let ceiling_ms = START_MS + WINDOW_MS;
    let last = generator.mint(ceiling_ms - 1, 100).unwrap();
    assert_eq!(generator.mint(ceiling_ms, 1), Err(Refusal::WindowClosed { ceiling_ms }));
    assert_eq!(generator.mint(ceiling_ms - 1, 1), Err(Refusal::WindowClosed { ceiling_ms }));
    generator.extend(window(layout, Some(generator.ceiling()), ceiling_ms).unwrap()).unwrap();
    assert!(generator.mint(ceiling_ms, 1).unwrap().first() > last.last());
}

#[test]
fn a_new_holder_starts_where_the_last_window_ends() {
    let layout = small_layout();
    let first = generator(layout, SequenceStart::Zero);
    let now_ms = START_MS + 10;
    let second = Generator::new(window(layout, Some(first.ceiling()), now_ms).unwrap(), SequenceStart::Zero);
    assert_eq!(second.mint(now_ms, 1), Err(Refusal::ClockBehind { until_ms: START_MS + WINDOW_MS }));
    assert_eq!(second.last_id(), None);
    assert!(second.mint(START_MS + WINDOW_MS, 1).unwrap().first() >= first.ceiling().id());
}

#[test]
fn only_the_window_that_continues_extends() {
    let layout = small_layout();
    let generator = generator(layout, SequenceStart::Zero);
    let later = window(layout, Some(generator.ceiling()), START_MS + 10).unwrap();
    generator.extend(later).unwrap();
    let gap = window(layout, None, START_MS + 30).unwrap();
    assert!(matches!(generator.extend(gap), Err(snowmint::ExtendError::Gap { .. })));
    let other = Slot { datacenter: 3, worker: 6 };
    let other = Claim::new(layout, other, Some(generator.ceiling()), START_MS + 20, WINDOW_MS).unwrap();
    assert!(matches!(generator.extend(other.granted()), Err(snowmint::ExtendError::OtherSlot { .. })));
}

/// A live limit applies at once, also in the middle of a millisecond.
#[test]
fn max_sequence_applies_at_once() {
    let generator = generator(small_layout(), SequenceStart::Zero);
    assert_eq!(generator.mint(START_MS, 3).unwrap().count(), 3);
    generator.set_max_sequence(4);
    assert_eq!(generator.mint(START_MS, 100).unwrap().count(), 2);
    assert_eq!(generator.mint(START_MS, 1), Err(Refusal::Wait { until_ms: START_MS + 1 }));
    generator.set_max_sequence(u32::MAX);
    assert_eq!(generator.max_sequence(), 7);
    assert_eq!(generator.mint(START_MS, 100).unwrap().count(), 3);
}

/// IDs made one a millisecond spread over shards chosen by remainder; at full demand nothing is lost.
#[test]
fn jitter_spreads_slow_ids_and_costs_nothing_at_full_demand() {
    let layout = Layout::default();
    let generator = Generator::new(
        Claim::new(layout, SLOT, None, START_MS, 100_000).unwrap().granted(),
        SequenceStart::Jittered,
    );
    let mut shards = [0_u32; 64];
    for ms in 0..6_400 {
        let id = generator.mint(START_MS + ms, 1).unwrap().first();
        shards[usize::try_from(id.get() % 64).unwrap()] += 1;
    }
    assert!(shards.iter().all(|&count| (50..=150).contains(&count)), "{shards:?}");

    let full = |ms| -> u32 {
        std::iter::from_fn(|| generator.mint(START_MS + 10_000 + ms, 1_000).ok()).map(|r| r.count()).sum()
    };
    let counts: Vec<u32> = (0..10).map(full).collect();
    assert!(counts[0] > 4096 * 3 / 4 - 1 && counts[1..].iter().all(|&count| count == 4096), "{counts:?}");
}

#[test]
fn the_last_millisecond_of_a_layout_is_the_end() {
    let layout = Layout::new(Split::new(32, 8, 8, 15).unwrap(), 0).unwrap();
    let end_ms = layout.end_ms();
    let late = Claim::new(layout, SLOT, None, end_ms - 3, 10_000).unwrap();
    assert_eq!(late.ceiling().time_ms(layout), end_ms - 1);
    let generator = Generator::new(late.granted(), SequenceStart::Zero);
    assert!(generator.mint(end_ms - 2, 1).is_ok());
    assert!(generator.mint(end_ms - 1, 1).is_err());
    let over = Claim::new(layout, SLOT, Some(generator.ceiling()), end_ms - 1, 10_000);
    assert!(over.unwrap_err().to_string().contains("no timestamp"));
    assert!(Claim::new(layout, SLOT, None, end_ms, 10_000).is_err());
}

/// Invariants 3 and 7: however often and with whatever clock a slot is claimed, its ceiling never
/// decreases and is never further ahead of that clock than a window.
#[test]
fn claims_never_move_a_ceiling_back_nor_far_ahead() {
    let layout = Layout::default();
    let mut floor = None;
    for now_ms in [START_MS, START_MS + 1, START_MS, START_MS + 5_000, START_MS + 4_000, START_MS + 20_000] {
        match Claim::new(layout, SLOT, floor, now_ms, 10_000) {
            Ok(claim) => {
                assert!(Some(claim.ceiling()) > floor);
                assert!(claim.ceiling().time_ms(layout) <= now_ms + 10_000);
                floor = Some(claim.ceiling());
            }
            Err(error) => assert!(error.to_string().contains("ahead of the clock"), "{error}"),
        }
    }
    for window_ms in [0, Claim::WINDOW_MS_MAX + 1] {
        assert!(Claim::new(layout, SLOT, None, START_MS, window_ms).is_err());
    }
    assert!(Claim::new(layout, SLOT, None, 0, 10_000).unwrap_err().to_string().contains("before the epoch"));
}

#[test]
fn threads_share_a_generator() {
    let layout = Layout::default();
    let generator = Generator::new(
        Claim::new(layout, SLOT, None, START_MS, 1_000_000).unwrap().granted(),
        SequenceStart::Zero,
    );
    let clock = std::sync::atomic::AtomicU64::new(START_MS);
    let mint = || -> Vec<IdRange> {
        let mut minted = Vec::new();
        while minted.len() < 20_000 {
            match generator.mint(clock.load(std::sync::atomic::Ordering::Relaxed), 3) {
                Ok(range) => minted.push(range),
                Err(_) => _ = clock.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
            }
        }
        minted
    };
    let minted: Vec<Vec<IdRange>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(mint)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for one in &minted {
        assert!(one.windows(2).all(|pair| pair[0].last() < pair[1].first()));
    }
    let ids: BTreeSet<Id> = minted.iter().flatten().flat_map(IdRange::ids).collect();
    let count: u32 = minted.iter().flatten().map(IdRange::count).sum();
    assert_eq!(ids.len(), count as usize);
}
