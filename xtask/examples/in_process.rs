//! What an ID costs one thread, in a program of its own, from snowmint and from others: each with the real clock, and
//! below the rate at which its format would make it wait. Printed as JSON, in nanoseconds.
//!
//! `in_process [URL]` is a part of `cargo xtask bench peers`; at the URL is the gRPC of a `snowmint serve`, whose client
//! is measured too.

#![allow(clippy::print_stdout, reason = "it is what was measured")]

use std::env;
use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ferroid::generator::AtomicSnowflakeGenerator;
use ferroid::id::SnowflakeTwitterId;
use ferroid::time::{MonotonicClock, TimeSource};
use snowflake::SnowflakeIdGenerator;
use snowmint::{Claim, Generator, Layout, SequenceStart, Slot};
use snowmint_client::Client;
use sonyflake::Sonyflake;
use uuid::Uuid;

/// Taken at once, and then it is waited for the next millisecond: a quarter of what a millisecond has.
const BURST_IDS: u32 = 1024;
const BURST_EVERY: Duration = Duration::from_millis(2);
/// sonyflake has 256 in 10 ms.
const SONYFLAKE_BURST_IDS: u32 = 128;
const SONYFLAKE_BURST_EVERY: Duration = Duration::from_millis(20);
const BURSTS: usize = 200;

const SLOT: Slot = Slot { datacenter: 3, worker: 5 };
const MACHINE_ID: u64 = 3 << 5 | 5;

/// More than all bursts take.
const LEASE_IDS: u32 = 400_000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut figures = vec![
        ("snowmint", median_ns(snowmint(now_ms)?)),
        ("snowmint, ferroid's clock", median_ns(with_ferroids_clock()?)),
        ("ferroid", median_ns(ferroid())),
        ("rs-snowflake", median_ns(rs_snowflake())),
        ("uuid v7", median_ns(Uuid::now_v7)),
        ("ulid", median_ns(ulid())),
        ("sonyflake", sonyflake()?),
    ];
    if let Some(url) = env::args().nth(1) {
        figures.insert(2, ("snowmint-client", client(&url)?));
    }
    let figures: Vec<_> = figures.iter().map(|(name, ns)| format!(r#""{name}":{ns:.2}"#)).collect();
    println!("{{{}}}", figures.join(","));
    Ok(())
}

fn median_ns<T>(next: impl FnMut() -> T) -> f64 {
    bursts(BURST_IDS, BURST_EVERY, next)
}

/// The median of the bursts, for one ID.
fn bursts<T>(ids: u32, every: Duration, mut next: impl FnMut() -> T) -> f64 {
    let mut took_ns: Vec<f64> = (0..BURSTS)
        .map(|_| {
            let started = Instant::now();
            for _ in 0..ids {
                black_box(next());
            }
            let took = started.elapsed();
            // Awake, so that the processor's caches and its speed are as in a busy program.
            while started.elapsed() < every {}
            took.as_secs_f64() * 1e9 / f64::from(ids)
        })
        .collect();
    took_ns.sort_by(f64::total_cmp);
    took_ns[BURSTS / 2]
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is right");
    u64::try_from(since.as_millis()).expect("the clock is right")
}

/// In a window that lasts longer than the benchmark.
#[expect(clippy::disallowed_methods, reason = "its slot is nobody else's, and its IDs are thrown away")]
fn snowmint(now_ms: impl Fn() -> u64) -> Result<impl FnMut() -> u64, Box<dyn Error>> {
    let claim = Claim::new(Layout::default(), SLOT, None, now_ms(), Claim::WINDOW_MS_MAX)?;
    let generator = Generator::new(claim.granted(), SequenceStart::default());
    Ok(move || generator.mint(now_ms(), 1).expect("a burst is less than a millisecond's IDs").first().get())
}

/// A thread counts the milliseconds, and reading them is reading a word.
fn with_ferroids_clock() -> Result<impl FnMut() -> u64, Box<dyn Error>> {
    let clock = MonotonicClock::<1>::default();
    snowmint(move || clock.current_millis())
}

/// Leased at once.
fn client(url: &str) -> Result<f64, Box<dyn Error>> {
    let client = Client::builder().servers([url]).lease_ids(LEASE_IDS..=LEASE_IDS).build_blocking()?;
    client.next()?;
    Ok(median_ns(|| client.next().expect("the server was there a moment ago")))
}

fn ferroid() -> impl FnMut() -> SnowflakeTwitterId {
    let generator = AtomicSnowflakeGenerator::new(MACHINE_ID, MonotonicClock::<1>::default());
    move || generator.next_id(|_| std::hint::spin_loop())
}

/// With the time of the call, as the others have it: `generate` looks at the clock once in 4,096 IDs.
fn rs_snowflake() -> impl FnMut() -> i64 {
    let mut generator = SnowflakeIdGenerator::new(3, 5);
    move || generator.real_time_generate()
}

/// In order, as the others are.
fn ulid() -> impl FnMut() -> ulid::Ulid {
    let mut generator = ulid::Generator::new();
    move || generator.generate().expect("80 random bits do not run over in a burst")
}

fn sonyflake() -> Result<f64, Box<dyn Error>> {
    let generator = Sonyflake::builder().machine_id(&|| Ok(5)).finalize()?;
    Ok(bursts(SONYFLAKE_BURST_IDS, SONYFLAKE_BURST_EVERY, || generator.next_id()))
}
