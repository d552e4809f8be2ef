//! What is leased and not yet handed out.
//!
//! IDs are taken from one run of consecutive IDs, the current one, by moving an atomic word on. Only to change the run is
//! there a lock. The word is the run's generation, which never comes twice, and how far into the run it is:
//!
//! * Whoever changes the run first makes the word of a new generation and [`EMPTY`], so that nobody takes from it;
//!   then writes the run down; then opens it by setting the word to its start.
//! * Whoever takes reads the word, then the run, and then moves the word on from exactly what it read. That fails if the
//!   run was changed meanwhile, because the word was; so what was read belongs together whenever it succeeds. (The
//!   one who moves the word on releases and the one who empties it acquires, so that a run which is read with the
//!   old word can't be that of a later one.)

use std::collections::VecDeque;

use snowmint::{Id, IdRange};

#[cfg(loom)]
use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU32, AtomicU64, Ordering},
};
use std::sync::PoisonError;
#[cfg(not(loom))]
use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

/// Where in the word the generation begins. The 44 bits of it last for decades of a million runs a second.
const OFFSET_BITS: u32 = 20;

/// The offset that says there is nothing to take: past the end of every run.
const EMPTY: u64 = (1 << OFFSET_BITS) - 1;

/// The longest run, in IDs. Longer ones are cut.
const RUN_IDS_MAX: u32 = (1 << OFFSET_BITS) - 2;

/// IDs that are leased: no ID is taken twice, nor one that is older than the greatest age.
#[derive(Debug)]
pub(crate) struct Store {
    /// Generation and offset of the current run.
    word: AtomicU64,
    first: AtomicU64,
    count: AtomicU32,
    leased_ns: AtomicU64,
    /// The offset at which the stock becomes low, or 0.
    low_at: AtomicU32,
    max_age_ns: u64,
    stock: Mutex<Stock>,
}

/// What is behind the current run, and what was counted.
#[derive(Debug, Default)]
struct Stock {
    runs: VecDeque<Run>,
    /// How many IDs the runs have.
    left: u64,
    /// Below how many IDs the stock is low.
    low_water: u64,
    leased: u64,
    expired: u64,
}

/// Consecutive IDs, from one lease.
#[derive(Clone, Copy, Debug)]
struct Run {
    first: u64,
    count: u32,
    leased_ns: u64,
}

/// What became of all IDs that were leased: it adds up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) leased: u64,
    pub(crate) handed_out: u64,
    pub(crate) expired: u64,
    pub(crate) left: u64,
}

/// IDs that are the taker's alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    pub(crate) first: Id,
    pub(crate) count: u32,
    pub(crate) leased_ns: u64,
    /// With these the stock became low: it is time to lease more.
    pub(crate) now_low: bool,
}

impl Store {
    pub(crate) fn new(max_age_ns: u64) -> Self {
        Self {
            word: AtomicU64::new(EMPTY),
            first: AtomicU64::new(0),
            count: AtomicU32::new(0),
            leased_ns: AtomicU64::new(0),
            low_at: AtomicU32::new(0),
            max_age_ns,
            stock: Mutex::default(),
        }
    }

    /// Whether an ID that was leased then is too old to be handed out.
    pub(crate) fn is_expired(&self, leased_ns: u64, now_ns: u64) -> bool {
        now_ns.saturating_sub(leased_ns) > self.max_age_ns
    }

    /// Takes as many consecutive IDs as there are in the current run, up to `wanted`; `None` where there is none at all.
    #[inline]
    pub(crate) fn take(&self, wanted: u32, now_ns: u64) -> Option<Taken> {
        loop {
            let word = self.word.load(Ordering::Acquire);
            let (count, leased_ns) =
                (self.count.load(Ordering::Relaxed), self.leased_ns.load(Ordering::Relaxed));
            let left = u64::from(count).saturating_sub(word & EMPTY);
            if left == 0 || self.is_expired(leased_ns, now_ns) {
                if self.advance(word, now_ns) {
                    continue;
                }
                return None;
            }
            let first = self.first.load(Ordering::Relaxed) + (word & EMPTY);
            let low_at = u64::from(self.low_at.load(Ordering::Relaxed));
            let taken = left.min(wanted.into());
            let moved_on = word + taken;
            if self.word.compare_exchange_weak(word, moved_on, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return Some(Taken {
                    first: Id::new(first).expect("it is of a range"),
                    count: u32::try_from(taken).expect("it is at most what was wanted"),
                    leased_ns,
                    now_low: (word & EMPTY) < low_at && low_at <= moved_on & EMPTY,
                });
            }
        }
    }

    /// Makes the next run the current one, if that is still what was seen of it and it is of no more use. Says whether it is
    /// worth looking again.
    #[cold]
    fn advance(&self, seen: u64, now_ns: u64) -> bool {
        let mut stock = self.stock();
        if self.word.load(Ordering::Relaxed) != seen {
            return true;
        }
        let emptied = self.empty(seen >> OFFSET_BITS, &mut stock);
        while let Some(run) = stock.runs.pop_front() {
            stock.left -= u64::from(run.count);
            if self.is_expired(run.leased_ns, now_ns) {
                stock.expired += u64::from(run.count);
                continue;
            }
            self.first.store(run.first, Ordering::Relaxed);
            self.count.store(run.count, Ordering::Relaxed);
            self.leased_ns.store(run.leased_ns, Ordering::Relaxed);
            self.low_at.store(low_at(run.count, &stock), Ordering::Relaxed);
            self.word.store(emptied & !EMPTY, Ordering::Release);
            return true;
        }
        false
    }

    /// Ends the current run, of which what is left has expired. Gives the word back.
    fn empty(&self, generation: u64, stock: &mut Stock) -> u64 {
        let emptied = (generation + 1) << OFFSET_BITS | EMPTY;
        let last = self.word.swap(emptied, Ordering::AcqRel);
        stock.expired += u64::from(self.count.load(Ordering::Relaxed)).saturating_sub(last & EMPTY);
        emptied
    }

    /// Adds what was leased. From now on it is told when there are fewer than `low_water` IDs.
    pub(crate) fn fill(&self, ranges: &[IdRange], leased_ns: u64, low_water: u32) {
        let mut stock = self.stock();
        stock.low_water = low_water.into();
        for range in ranges {
            let (mut first, mut left) = (range.first().get(), range.count());
            stock.left += u64::from(left);
            stock.leased += u64::from(left);
            while left > 0 {
                let count = left.min(RUN_IDS_MAX);
                stock.runs.push_back(Run { first, count, leased_ns });
                first += u64::from(count);
                left -= count;
            }
        }
    }

    /// Counts IDs as expired that were taken, and grew too old before they were handed on.
    pub(crate) fn expire(&self, count: u64) {
        if count > 0 {
            self.stock().expired += count;
        }
    }

    /// What became of the IDs, up to now.
    pub(crate) fn count(&self) -> Count {
        let stock = self.stock();
        let current = u64::from(self.count.load(Ordering::Relaxed))
            .saturating_sub(self.word.load(Ordering::Relaxed) & EMPTY);
        let (leased, expired, left) = (stock.leased, stock.expired, stock.left + current);
        Count { leased, handed_out: leased - expired - left, expired, left }
    }

    fn stock(&self) -> MutexGuard<'_, Stock> {
        // Nothing panics in there.
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// At which offset into a run of `count` IDs, with this behind it, the stock is low. Where it is from the start, so that
/// the first one to take is told; 0 where it is not yet with the whole run taken.
fn low_at(count: u32, stock: &Stock) -> u32 {
    let total = u64::from(count) + stock.left;
    match u32::try_from((total + 1).saturating_sub(stock.low_water)) {
        Ok(offset) if offset <= count => offset.max(1),
        _ => 0,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::collections::HashSet;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    fn range(first: u64, count: u32) -> IdRange {
        IdRange::new(Id::new(first).unwrap(), count).unwrap()
    }

    #[derive(Clone, Debug)]
    enum Act {
        Fill(Vec<u32>),
        Take(u32),
        Wait(u64),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            prop::collection::vec(1_u32..2_000_000, 1..4).prop_map(Act::Fill),
            (1_u32..2_000_000).prop_map(Act::Take),
            (0_u64..60).prop_map(Act::Wait),
        ]
    }

    proptest! {
        /// Each ID comes once, in the order of the leases, and never older than the greatest age; and the count adds up.
        #[test]
        fn once_in_order_and_never_old(acts in prop::collection::vec(act(), 1..60)) {
            let store = Store::new(100);
            let (mut now_ns, mut next, mut last, mut handed_out) = (0, 0, None, 0);
            for act in acts {
                match act {
                    Act::Fill(counts) => {
                        let ranges: Vec<_> = counts.iter().map(|count| {
                            let range = range(next, *count);
                            // A gap, so that runs do not join by accident.
                            next += u64::from(*count) + 1;
                            range
                        }).collect();
                        store.fill(&ranges, now_ns, 10);
                    }
                    Act::Take(wanted) => if let Some(taken) = store.take(wanted, now_ns) {
                        let first = taken.first.get();
                        prop_assert!(last.is_none_or(|last| last < first));
                        prop_assert!((1..=wanted).contains(&taken.count));
                        prop_assert!(now_ns - taken.leased_ns <= 100);
                        last = Some(first + u64::from(taken.count) - 1);
                        handed_out += u64::from(taken.count);
                    },
                    Act::Wait(ns) => now_ns += ns,
                }
                let count = store.count();
                prop_assert_eq!(count.handed_out, handed_out);
                prop_assert_eq!(count.leased, count.handed_out + count.expired + count.left);
            }
        }
    }

    /// Threads that take, of which one also fills, with a clock that makes runs expire under their hands.
    #[test]
    fn threads_never_share_an_id() {
        const FILLS: u64 = 2_000;
        let store = Store::new(50);
        let (clock, done) = (AtomicU64::new(0), AtomicBool::new(false));
        let taken: Vec<u64> = thread::scope(|scope| {
            let takers: Vec<_> = (1_u32..=3)
                .map(|wanted| {
                    let (store, clock, done) = (&store, &clock, &done);
                    scope.spawn(move || {
                        let mut ids = Vec::new();
                        loop {
                            let ended = done.load(Ordering::Relaxed);
                            match store.take(wanted, clock.load(Ordering::Relaxed)) {
                                Some(taken) => {
                                    ids.extend((0..taken.count).map(|at| taken.first.get() + u64::from(at)));
                                }
                                None if ended => return ids,
                                None => thread::yield_now(),
                            }
                        }
                    })
                })
                .collect();
            for fill in 0..FILLS {
                store.fill(&[range(fill * 100, 60)], clock.fetch_add(7, Ordering::Relaxed), 30);
            }
            done.store(true, Ordering::Relaxed);
            takers.into_iter().flat_map(|taker| taker.join().unwrap()).collect()
        });
        let unique: HashSet<u64> = taken.iter().copied().collect();
        assert_eq!(unique.len(), taken.len());
        let count = store.count();
        assert_eq!(count.handed_out, u64::try_from(taken.len()).unwrap());
        assert_eq!(count.handed_out + count.expired, FILLS * 60);
    }

    /// It is told once for each time that the stock becomes low, and when it is from the start.
    #[test]
    fn told_when_it_is_low() {
        let store = Store::new(100);
        store.fill(&[range(0, 8), range(100, 8)], 0, 4);
        let told = (0..16).filter(|_| store.take(1, 0).unwrap().now_low).map(|_| store.count().left);
        assert_eq!(told.collect::<Vec<_>>(), [3]);
        store.fill(&[range(200, 2)], 0, 4);
        assert!(store.take(1, 0).unwrap().now_low);
        assert!(!store.take(1, 0).unwrap().now_low);
        assert!(store.take(1, 0).is_none());
    }
}

/// Interleavings of threads: `RUSTFLAGS="--cfg loom" cargo test -p snowmint-client --lib --release`.
#[cfg(all(test, loom))]
mod loom_tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// How often a thread is interrupted, in the tests for which every interleaving would be too many.
    const PREEMPTIONS_MAX: usize = 3;

    fn ids(taken: Option<Taken>) -> Vec<u64> {
        taken.map_or(Vec::new(), |taken| {
            (0..taken.count).map(|at| taken.first.get() + u64::from(at)).collect()
        })
    }

    /// Two takers, who have to change the run under each other's hands.
    fn takers(preemptions_max: Option<usize>, runs: [(u64, u32); 2], takes: [&'static [(u32, u64)]; 2]) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = preemptions_max;
        model.check(move || {
            let store = Arc::new(Store::new(10));
            for (at, (first, count)) in runs.into_iter().enumerate() {
                let range = IdRange::new(Id::new(first).unwrap(), count).unwrap();
                store.fill(&[range], 5 * at as u64, 0);
            }
            let threads = takes.map(|takes| {
                let store = Arc::clone(&store);
                thread::spawn(move || {
                    let take = |(wanted, now_ns): &(u32, u64)| ids(store.take(*wanted, *now_ns));
                    takes.iter().flat_map(take).collect::<Vec<_>>()
                })
            });
            let mut taken: Vec<u64> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
            taken.sort_unstable();
            let all = taken.len();
            taken.dedup();
            assert_eq!(taken.len(), all, "{taken:?}");
            let leased =
                |id: &u64| runs.iter().any(|(first, count)| (*first..first + u64::from(*count)).contains(id));
            assert!(taken.iter().all(leased), "{taken:?}");
            assert_eq!(store.count().handed_out, all as u64);
        });
    }

    /// However they are interleaved.
    #[test]
    fn two_takers_never_share_an_id() {
        takers(None, [(100, 1), (200, 1)], [&[(1, 1)], &[(1, 1)]]);
    }

    /// To one of them the first run is too old, while the other takes from it.
    #[test]
    fn one_taker_ends_a_run_that_another_takes_from() {
        takers(Some(PREEMPTIONS_MAX), [(100, 2), (200, 2)], [&[(1, 1), (1, 1)], &[(2, 12)]]);
    }

    /// Both take more than once, across a change of the run.
    #[test]
    fn two_takers_across_runs() {
        takers(Some(PREEMPTIONS_MAX), [(100, 2), (200, 2)], [&[(1, 1), (2, 1)], &[(1, 1), (1, 1)]]);
    }
}
