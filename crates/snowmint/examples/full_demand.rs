//! How near one generator comes to the format's limit on a real clock, with a core to itself and a caller
//! that asks for the next ID the moment it has one.
//!
//! `cargo run --release -p snowmint --example full_demand`

#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::error::Error;
use std::hint::{black_box, spin_loop};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use snowmint::{Claim, Generator, Layout, Refusal, SequenceStart, Slot};

const RUN: Duration = Duration::from_secs(2);
/// Longer than the run, so that the window never needs extending.
const WINDOW_MS: u64 = 60_000;

fn main() -> Result<(), Box<dyn Error>> {
    let generator = generator()?;
    // The first millisecond is a part of one, and starts somewhere in its sequence: wait for a whole one.
    let first_ms = now_ms()? + 1;
    while now_ms()? < first_ms {
        spin_loop();
    }
    let started = Instant::now();
    let mut ids: u64 = 0;
    let mut asked_ms = first_ms;
    while started.elapsed() < RUN {
        asked_ms = next_id(&generator, asked_ms)?;
        ids += 1;
    }
    report(ids, started.elapsed());
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "its slot is nobody else's, and its IDs are thrown away")]
fn generator() -> Result<Generator, Box<dyn Error>> {
    let slot = Slot { datacenter: 0, worker: 0 };
    let claim = Claim::new(Layout::default(), slot, None, now_ms()?, WINDOW_MS)?;
    Ok(Generator::new(claim.granted(), SequenceStart::default()))
}

/// Takes the next ID for a request that came in at `asked_ms`, waiting for it as a request would, and
/// says when it had it.
fn next_id(generator: &Generator, asked_ms: u64) -> Result<u64, Box<dyn Error>> {
    loop {
        let now_ms = now_ms()?;
        match generator.mint_since(asked_ms, now_ms, 1) {
            Ok(range) => {
                black_box(range);
                return Ok(now_ms);
            }
            Err(Refusal::Wait { .. } | Refusal::ClockBehind { .. }) => spin_loop(),
            Err(refusal @ Refusal::WindowClosed { .. }) => return Err(refusal.into()),
        }
    }
}

fn now_ms() -> Result<u64, Box<dyn Error>> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis().try_into()?)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn report(ids: u64, elapsed: Duration) {
    let ids_per_second = ids as f64 / elapsed.as_secs_f64();
    let ids_per_ms = u64::from(Layout::default().split().max_sequence()) + 1;
    let limit = (ids_per_ms * 1000) as f64;
    println!(
        "full demand, real clock: {ids_per_second:.0} IDs/s, {:.3} of the format's {limit:.0}",
        ids_per_second / limit
    );
}
