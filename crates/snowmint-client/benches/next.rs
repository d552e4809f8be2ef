//! What `next()` costs where IDs are leased ahead: `cargo bench -p snowmint-client`, with a `snowmint serve` on
//! `SNOWMINT_GRPC_URL`, by default <http://127.0.0.1:9090>.
//!
//! A server mints 4,096 IDs a millisecond, and this takes them faster: what is timed are rounds of IDs that are there
//! already, between which it is waited for the next ones.

#![allow(missing_docs, reason = "criterion's macros")]

use std::env;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use snowmint_client::Client;
use tokio::runtime::Runtime;

/// How many IDs are taken at a time. A server needs 12 ms for them.
const ROUND_IDS: u64 = 50_000;
const LEASE_IDS: u32 = 400_000;

/// How often it is looked whether they are there.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

fn next(criterion: &mut Criterion) {
    let url = env::var("SNOWMINT_GRPC_URL").unwrap_or_else(|_| "http://127.0.0.1:9090".to_owned());
    let runtime = Runtime::new().expect("a runtime can be made");
    let client = runtime.block_on(async {
        let builder = Client::builder().servers([url]).lease_ids(LEASE_IDS..=LEASE_IDS);
        let client = builder.build().expect("it is the URL of a server");
        client.next().await.expect("`snowmint serve` runs");
        client
    });
    let mut group = criterion.benchmark_group("client");
    group.throughput(Throughput::Elements(1));
    group.bench_function("next", |bencher| {
        bencher.iter_custom(|iterations| {
            runtime.block_on(async {
                let (mut left, mut took) = (iterations, Duration::ZERO);
                while left > 0 {
                    let round = left.min(ROUND_IDS);
                    while client.metrics().left < 2 * ROUND_IDS {
                        let _ = client.try_next();
                        tokio::time::sleep(LOOK_AGAIN).await;
                    }
                    let started = Instant::now();
                    for _ in 0..round {
                        black_box(client.next().await.expect("IDs are leased"));
                    }
                    took += started.elapsed();
                    left -= round;
                }
                took
            })
        });
    });
    group.finish();
}

criterion_group!(benches, next);
criterion_main!(benches);
