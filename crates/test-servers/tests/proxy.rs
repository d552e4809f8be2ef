//! The proxy does to connections what it was told.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io;
use std::time::{Duration, Instant};

use test_servers::Proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// The longest that is waited for what should come, in milliseconds.
const COME_MS_MAX: u64 = 5_000;

/// How long is waited for what should not come, in milliseconds.
const STAY_AWAY_MS: u64 = 100;

/// A proxy before a server that sends every byte back, and what that server hears.
async fn echo() -> (Proxy, mpsc::UnboundedReceiver<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(listener.local_addr().unwrap()).await;
    let (tell, heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move {
                while let Ok(byte) = stream.read_u8().await {
                    let _ = tell.send(byte);
                    stream.write_u8(byte).await.unwrap();
                }
            });
        }
    });
    (proxy, heard)
}

async fn come<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_millis(COME_MS_MAX), what).await.expect("it comes")
}

async fn stays_away<T>(what: impl Future<Output = T>) -> bool {
    timeout(Duration::from_millis(STAY_AWAY_MS), what).await.is_err()
}

async fn round_trip(stream: &mut TcpStream, byte: u8) -> io::Result<()> {
    stream.write_u8(byte).await?;
    assert_eq!(come(stream.read_u8()).await?, byte);
    Ok(())
}

#[tokio::test]
async fn passes_and_passes_on_the_end_of_a_stream() {
    let (proxy, _heard) = echo().await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    round_trip(&mut stream, 1).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(come(stream.read(&mut [0])).await.unwrap(), 0);
}

#[tokio::test]
async fn refuses_until_it_passes_again() {
    let (proxy, _heard) = echo().await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    round_trip(&mut stream, 1).await.unwrap();
    proxy.refuse().await;
    assert!(!matches!(come(stream.read(&mut [0])).await, Ok(1..)));
    assert_eq!(TcpStream::connect(proxy.addr()).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    proxy.pass().await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    round_trip(&mut stream, 2).await.unwrap();
}

#[tokio::test]
async fn a_black_hole_holds_everything_and_loses_nothing() {
    let (proxy, mut heard) = echo().await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    round_trip(&mut stream, 1).await.unwrap();
    assert_eq!(come(heard.recv()).await, Some(1));
    proxy.blackhole().await;
    let mut new = TcpStream::connect(proxy.addr()).await.unwrap();
    stream.write_u8(2).await.unwrap();
    new.write_u8(2).await.unwrap();
    assert!(stays_away(heard.recv()).await);
    proxy.pass().await;
    assert_eq!(come(stream.read_u8()).await.unwrap(), 2);
    assert_eq!(come(new.read_u8()).await.unwrap(), 2);
}

#[tokio::test]
async fn a_slow_network_takes_its_time_in_each_direction() {
    let (proxy, mut heard) = echo().await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    let delay = Duration::from_millis(100);
    proxy.slow(delay).await;
    let begun = Instant::now();
    round_trip(&mut stream, 1).await.unwrap();
    assert!(begun.elapsed() >= 2 * delay, "{:?}", begun.elapsed());
    assert_eq!(come(heard.recv()).await, Some(1));
}

#[tokio::test]
async fn swallowed_replies_never_come_and_their_connections_end() {
    let (proxy, mut heard) = echo().await;
    let mut spared = TcpStream::connect(proxy.addr()).await.unwrap();
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    round_trip(&mut stream, 1).await.unwrap();
    assert_eq!(come(heard.recv()).await, Some(1));
    proxy.swallow_replies().await;
    stream.write_u8(2).await.unwrap();
    assert_eq!(come(heard.recv()).await, Some(2));
    assert!(stays_away(stream.read_u8()).await);
    proxy.blackhole().await;
    proxy.pass().await;
    assert!(!matches!(come(stream.read(&mut [0])).await, Ok(1..)), "the reply was swallowed");
    round_trip(&mut spared, 3).await.unwrap();
}

#[tokio::test]
async fn replies_to_a_text_are_swallowed_from_that_text_on() {
    let (proxy, mut heard) = echo().await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    proxy.swallow_replies_to("ab").await;
    round_trip(&mut stream, b'a').await.unwrap();
    assert!(stays_away(proxy.swallowing()).await);
    assert_eq!(come(heard.recv()).await, Some(b'a'));
    stream.write_u8(b'b').await.unwrap();
    come(proxy.swallowing()).await;
    assert_eq!(come(heard.recv()).await, Some(b'b'));
    assert!(stays_away(stream.read_u8()).await);
}

#[tokio::test]
async fn its_connections_end_with_it() {
    let (proxy, _heard) = echo().await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    round_trip(&mut stream, 1).await.unwrap();
    drop(proxy);
    assert!(!matches!(come(stream.read(&mut [0])).await, Ok(1..)));
}
