//! What one ID costs, beside `ferroid`'s atomic generator: same layout, same clock, same threads.
//!
//! The clock is injected and never runs out: it moves on often enough that a millisecond always has IDs
//! left, so what is measured is the generator and not the format's 4,096 IDs a millisecond.
//! `cargo xtask bench core` prints the result as a table.

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ferroid::generator::AtomicSnowflakeGenerator;
use ferroid::time::TimeSource;
use snowmint::{Claim, Generator, Layout, SequenceStart, Slot};

/// 41/10/12 bits, which is the default layout: `ferroid` has one node number where we have 5 and 5 bits.
type FerroidId = ferroid::id::SnowflakeTwitterId;

const SLOT: Slot = Slot { datacenter: 3, worker: 5 };
/// The same slot as one number.
const MACHINE_ID: u64 = 3 << 5 | 5;
/// 2024-01-03, in Unix milliseconds.
const START_MS: u64 = 1_704_310_200_123;
const WINDOW_MS: u64 = Claim::WINDOW_MS_MAX;
/// How many IDs a thread takes before it moves the clock on. Four threads at most, each up to this far
/// into a millisecond, are below its 4,096 IDs even where it starts a quarter of the way in.
const IDS_PER_MS: u64 = 512;
const THREADS: [u64; 3] = [1, 2, 4];
/// A whole millisecond.
const RANGE: u32 = 4096;

/// The clock of both: one relaxed load, and it moves when a benchmark moves it.
#[repr(align(128))]
struct Clock {
    now_ms: AtomicU64,
}

impl Clock {
    const fn at(now_ms: u64) -> Self {
        Self { now_ms: AtomicU64::new(now_ms) }
    }

    #[inline]
    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    #[inline]
    fn advance(&self) {
        self.now_ms.fetch_add(1, Ordering::Relaxed);
    }
}

impl TimeSource<u64> for &Clock {
    #[inline]
    fn current_millis(&self) -> u64 {
        self.now_ms()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a benchmark's slot is nobody else's, and its IDs are thrown away"
)]
fn generator() -> Generator {
    let claim = Claim::new(Layout::default(), SLOT, None, START_MS, WINDOW_MS)
        .expect("the slot and window are valid");
    Generator::new(claim.granted(), SequenceStart::default())
}

/// How long `threads` threads take to draw `ids` IDs together, from the first one's start to the last
/// one's end.
fn draw(threads: u64, ids: u64, clock: &Clock, next_id: impl Fn() -> u64 + Sync) -> Duration {
    let share = ids.div_ceil(threads);
    let barrier = Barrier::new(usize::try_from(threads).expect("a handful"));
    let run = || {
        barrier.wait();
        let started = Instant::now();
        let mut left = share;
        while left > 0 {
            let turn = left.min(IDS_PER_MS);
            for _ in 0..turn {
                black_box(next_id());
            }
            clock.advance();
            left -= turn;
        }
        (started, Instant::now())
    };
    let spans: Vec<_> = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
        let own = run();
        others.into_iter().map(|thread| thread.join().expect("it does not panic")).chain([own]).collect()
    });
    let started = spans.iter().map(|span| span.0).min().expect("there is a thread");
    let ended = spans.iter().map(|span| span.1).max().expect("there is a thread");
    ended - started
}

fn single_ids(criterion: &mut Criterion) {
    for threads in THREADS {
        let mut group = criterion.benchmark_group(format!("single_ids_{threads}_threads"));
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::from_parameter("snowmint"), |bencher| {
            bencher.iter_custom(|ids| {
                let (generator, clock) = (generator(), Clock::at(START_MS));
                draw(threads, ids, &clock, || {
                    generator.mint(clock.now_ms(), 1).expect("the clock never runs out").first().get()
                })
            });
        });
        group.bench_function(BenchmarkId::from_parameter("ferroid"), |bencher| {
            bencher.iter_custom(|ids| {
                let clock = Clock::at(START_MS - snowmint::DEFAULT_EPOCH_MS);
                let generator: AtomicSnowflakeGenerator<FerroidId, _> =
                    AtomicSnowflakeGenerator::new(MACHINE_ID, &clock);
                // Its "pending" is another thread's success, or a clock read before one: try again at once.
                draw(threads, ids, &clock, || generator.next_id(|_| ()).to_raw())
            });
        });
        group.finish();
    }
}

fn ranges(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ranges_of_4096");
    group.throughput(Throughput::Elements(RANGE.into()));
    group.bench_function(BenchmarkId::from_parameter("snowmint"), |bencher| {
        bencher.iter_custom(|ranges| {
            let started = Instant::now();
            // Each takes a millisecond of the window.
            let windows =
                (0..ranges.div_ceil(WINDOW_MS)).map(|window| (ranges - window * WINDOW_MS).min(WINDOW_MS));
            for ranges_here in windows {
                let (generator, clock) = (generator(), Clock::at(START_MS));
                for _ in 0..ranges_here {
                    black_box(generator.mint(clock.now_ms(), RANGE).expect("the clock never runs out"));
                    clock.advance();
                }
            }
            started.elapsed()
        });
    });
    group.finish();
}

criterion_group!(benches, single_ids, ranges);
criterion_main!(benches);
