//! How long `next()` takes with the server 1 ms away, at fixed rates and without a pause; and that no ID came twice.
//!
//! `cargo run --release -p snowmint-client --example latency`, with a `snowmint serve` whose gRPC is on
//! `SNOWMINT_GRPC`, by default 127.0.0.1:9090.

#![allow(clippy::print_stdout, reason = "it prints what it measured")]

use std::env;
use std::error::Error;
use std::hint;
use std::time::{Duration, Instant};

use snowmint_client::Client;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// How long what the server says is held back.
const DISTANCE: Duration = Duration::from_millis(1);
const BUFFER_BYTES: usize = 16 * 1_024;

/// IDs a second; the last one is: as fast as they come.
const RATES: [Option<u32>; 5] = [Some(1_000), Some(10_000), Some(100_000), Some(1_000_000), None];
const SECONDS: u32 = 4;
/// The most IDs of one rate, so that what is remembered is bounded.
const IDS_MAX: usize = 20_000_000;
/// Before it is measured: the client learns the rate.
const WARM_UP: Duration = Duration::from_millis(500);

fn main() -> Result<(), Box<dyn Error>> {
    let server = env::var("SNOWMINT_GRPC").unwrap_or_else(|_| "127.0.0.1:9090".to_owned());
    // The network between client and server, on a thread of its own.
    let distance = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let listener = distance.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let url = format!("http://{}", listener.local_addr()?);
    distance.spawn(hold_back(listener, server));
    println!(
        "{:>12}{:>12}{:>10}{:>10}{:>10}{:>10}{:>12}{:>10}",
        "wanted/s", "got/s", "mean ns", "p50", "p99", "p99.9", "requests/s", "expired"
    );
    for rate in RATES {
        let client = Client::builder().servers([url.as_str()]).build_blocking()?;
        measure(&client, rate)?;
    }
    Ok(())
}

fn measure(client: &snowmint_client::blocking::Client, rate: Option<u32>) -> Result<(), Box<dyn Error>> {
    let (mut ids, mut took_ns) = (Vec::new(), Vec::new());
    let start = Instant::now();
    let (from, to) = (start + WARM_UP, start + WARM_UP + Duration::from_secs(SECONDS.into()));
    let (mut due, mut before) = (start, client.metrics());
    loop {
        // A thread that sleeps wakes up too late for such rates.
        while rate.is_some() && Instant::now() < due {
            hint::spin_loop();
        }
        let asked = Instant::now();
        let id = client.next()?;
        let took = asked.elapsed();
        if asked < from {
            before = client.metrics();
        } else if asked >= to || ids.len() == IDS_MAX {
            break;
        } else {
            ids.push(id.get());
            took_ns.push(took.as_nanos());
        }
        due += rate.map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate);
    }
    let (after, seconds) = (client.metrics(), from.elapsed().as_secs_f64());
    let count = ids.len();
    let mean_ns = took_ns.iter().sum::<u128>() / count as u128;
    took_ns.sort_unstable();
    ids.sort_unstable();
    ids.dedup();
    if ids.len() != count {
        return Err(format!("{} IDs came twice", count - ids.len()).into());
    }
    println!(
        "{:>12}{:>12.0}{mean_ns:>10}{:>10}{:>10}{:>10}{:>12.1}{:>10}",
        rate.map_or("most".to_owned(), |rate| rate.to_string()),
        per_second(count as u64, seconds),
        took_ns[count / 2],
        took_ns[count * 99 / 100],
        took_ns[count * 999 / 1_000],
        per_second(after.requests - before.requests, seconds),
        after.expired - before.expired,
    );
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "it is printed with few digits")]
fn per_second(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds
}

/// Passes connections on to the server, as if it were far away.
async fn hold_back(listener: TcpListener, server: String) -> std::io::Result<()> {
    loop {
        let (client, _) = listener.accept().await?;
        let server = TcpStream::connect(&server).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        tokio::spawn(forward(from_client, to_server, Duration::ZERO));
        tokio::spawn(forward(from_server, to_client, DISTANCE));
    }
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        tokio::time::sleep(delay).await;
        to.write_all(&buffer[..length]).await?;
    }
}
