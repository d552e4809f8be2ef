//! One question to one NTP server (RFC 5905, as an SNTP client).
//!
//! Clients there are measure with the wall clock, which is what is in doubt here and may step between question and
//! answer, and do not tell a server's root dispersion, without which its error has no bound. Hence these few bytes.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{UdpSocket, lookup_host};
use uuid::Uuid;

use crate::clock::source::TimeSource;

/// The longest that finding a server and its answer may take, in milliseconds.
pub const QUERY_MS_MAX: u64 = 2_000;

/// The least that a server's error is taken for, in nanoseconds: no server on another machine is known better, and
/// intervals of no width would not meet.
const ERROR_NS_MIN: u64 = 1_000_000;

/// The most, in nanoseconds, as NTP's own `MAXDIST`: who knows less does not know the time.
const ERROR_NS_MAX: u64 = 1_500_000_000;

const PACKET_BYTES: usize = 48;
/// Version 4, client.
const CLIENT: u8 = (4 << 3) | 3;
const MODE_SERVER: u8 = 4;
const LEAP_ALARM: u8 = 3;
const STRATUM_END: u8 = 16;
/// What a server without a stratum says that does not want to be asked, or not as often.
const KISSES: [&[u8]; 3] = [b"DENY", b"RSTR", b"RATE"];
/// From 1900, where NTP counts from, to 1970.
const UNIX_S: i128 = 2_208_988_800;
const NS_PER_S: i128 = 1_000_000_000;

/// What a server said, by the boot clock of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    /// When it said so.
    pub(super) boot_ns: u64,
    /// The time, in Unix nanoseconds.
    pub(super) time_ns: i128,
    /// How far off that may be, the way there and back included.
    pub(super) error_ns: u64,
    /// How far the server is from a reference clock.
    pub(super) stratum: u8,
}

/// Why there is no sample.
#[derive(Debug, thiserror::Error)]
pub(super) enum QueryError {
    #[error("its name cannot be resolved: {0}")]
    Resolve(io::Error),
    #[error("its name has no address")]
    NoAddress,
    #[error("it cannot be reached: {0}")]
    Io(#[from] io::Error),
    #[error("no answer within {QUERY_MS_MAX} ms")]
    TimedOut,
    #[error("it answers what is no NTP")]
    Malformed,
    #[error("it is not synchronized itself")]
    Unsynchronized,
    #[error("it may be off by {} ms, and {} ms is the most that is of use", error_ns / 1_000_000, ERROR_NS_MAX / 1_000_000)]
    TooVague { error_ns: u64 },
    #[error("it does not want to be asked ({0})")]
    Refused(String),
}

/// Asks `server`, as `host:port`.
pub(super) async fn ask(server: &str, time: &dyn TimeSource) -> Result<Sample, QueryError> {
    let exchange = async { exchange(&connect(server).await?, time).await };
    let limit = Duration::from_millis(QUERY_MS_MAX);
    tokio::time::timeout(limit, exchange).await.unwrap_or(Err(QueryError::TimedOut))
}

/// A socket that gets packets from the server alone.
async fn connect(server: &str) -> Result<UdpSocket, QueryError> {
    let mut last = QueryError::NoAddress;
    for address in lookup_host(server).await.map_err(QueryError::Resolve)? {
        let any: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any).await?;
        match socket.connect(address).await {
            Ok(()) => return Ok(socket),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

async fn exchange(socket: &UdpSocket, time: &dyn TimeSource) -> Result<Sample, QueryError> {
    // A server gives back what it was sent, whatever that is: chance, so that nobody else can answer for it.
    let cookie = Uuid::new_v4().as_u64_pair().1.to_be_bytes();
    let mut question = [0; PACKET_BYTES];
    question[0] = CLIENT;
    question[40..].copy_from_slice(&cookie);
    let sent_boot_ns = time.boot_ns();
    socket.send(&question).await?;
    let mut answer = [0; 2 * PACKET_BYTES];
    loop {
        let bytes = socket.recv(&mut answer).await?;
        let received_boot_ns = time.boot_ns();
        // An answer to an earlier question, or somebody's guess: the time-out bounds how long it goes on.
        if bytes >= PACKET_BYTES && answer[24..32] == cookie {
            return sample(&answer, sent_boot_ns, received_boot_ns);
        }
    }
}

/// What an answer says that came in between two moments of the boot clock.
fn sample(answer: &[u8], sent_boot_ns: u64, received_boot_ns: u64) -> Result<Sample, QueryError> {
    let (leap, mode, stratum) = (answer[0] >> 6, answer[0] & 7, answer[1]);
    if mode != MODE_SERVER {
        return Err(QueryError::Malformed);
    }
    let kiss = &answer[12..16];
    if stratum == 0 && KISSES.contains(&kiss) {
        return Err(QueryError::Refused(kiss.escape_ascii().to_string()));
    }
    // A server that has just started has no stratum either.
    if leap == LEAP_ALARM || !(1..STRATUM_END).contains(&stratum) {
        return Err(QueryError::Unsynchronized);
    }
    let (came_ns, went_ns) = (unix_ns(&answer[32..40]), unix_ns(&answer[40..48]));
    let (Some(came_ns), Some(went_ns)) = (came_ns, went_ns) else { return Err(QueryError::Malformed) };
    let there_ns = u64::try_from(went_ns - came_ns).map_err(|_| QueryError::Malformed)?;
    let round_ns = received_boot_ns.saturating_sub(sent_boot_ns);
    // Half of the way there and back, and what the server knows of its own distance from the truth.
    let error_ns =
        round_ns.saturating_sub(there_ns) / 2 + short_ns(&answer[4..8]) / 2 + short_ns(&answer[8..12]);
    if error_ns > ERROR_NS_MAX {
        return Err(QueryError::TooVague { error_ns });
    }
    Ok(Sample {
        boot_ns: sent_boot_ns + round_ns / 2,
        time_ns: came_ns + (went_ns - came_ns) / 2,
        error_ns: error_ns.max(ERROR_NS_MIN),
        stratum,
    })
}

/// A timestamp of NTP, whose seconds begin anew in 2036; nothing where there is none.
fn unix_ns(bytes: &[u8]) -> Option<i128> {
    let (seconds, fraction) = (i128::from(word(bytes)), i128::from(word(&bytes[4..])));
    let era_s = if seconds < 1 << 31 { 1 << 32 } else { 0 };
    (seconds + fraction > 0).then_some((seconds + era_s - UNIX_S) * NS_PER_S + ((fraction * NS_PER_S) >> 32))
}

/// A short time of NTP: seconds and their 65536ths.
fn short_ns(bytes: &[u8]) -> u64 {
    (u64::from(word(bytes)) * 1_000_000_000) >> 16
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const BOOT_NS: u64 = 5_000_000_000;
    const ROUND_NS: u64 = 40_000_000;

    /// 2024-01-03T19:30:00.5Z from a server of stratum 2, with a root delay of 1/2 s and a dispersion of 1/4 s.
    fn answer() -> [u8; PACKET_BYTES] {
        let mut answer = [0; PACKET_BYTES];
        answer[0] = (4 << 3) | MODE_SERVER;
        answer[1] = 2;
        answer[4..8].copy_from_slice(&0x8000_u32.to_be_bytes());
        answer[8..12].copy_from_slice(&0x4000_u32.to_be_bytes());
        let seconds = u32::try_from(1_704_310_200 + UNIX_S).unwrap();
        for at in [32, 40] {
            answer[at..at + 4].copy_from_slice(&seconds.to_be_bytes());
            answer[at + 4] = 0x80;
        }
        answer
    }

    fn read(answer: &[u8]) -> Result<Sample, String> {
        sample(answer, BOOT_NS, BOOT_NS + ROUND_NS).map_err(|error| error.to_string())
    }

    #[test]
    fn an_answer_is_the_middle_of_its_way_and_as_good_as_the_server_and_the_way() {
        let boot_ns = BOOT_NS + ROUND_NS / 2;
        let time_ns = 1_704_310_200_500_000_000;
        let error_ns = 20_000_000 + 250_000_000 + 250_000_000;
        assert_eq!(read(&answer()), Ok(Sample { boot_ns, time_ns, error_ns, stratum: 2 }));
        let mut near = answer();
        near[4..12].fill(0);
        assert_eq!(sample(&near, BOOT_NS, BOOT_NS + 4_000).unwrap().error_ns, ERROR_NS_MIN);
    }

    #[test]
    fn seconds_begin_anew_in_2036() {
        assert_eq!(unix_ns(&[0xff; 8]).unwrap() / NS_PER_S, 2_085_978_495);
        assert_eq!(unix_ns(&[0, 0, 0, 1, 0, 0, 0, 0]).unwrap() / NS_PER_S, 2_085_978_497);
        assert_eq!(unix_ns(&[0; 8]), None);
    }

    #[test]
    fn an_answer_that_tells_no_time_says_why() {
        let but = |change: &dyn Fn(&mut [u8; PACKET_BYTES])| {
            let mut answer = answer();
            change(&mut answer);
            read(&answer).unwrap_err()
        };
        assert_eq!(but(&|a| a[0] = CLIENT), "it answers what is no NTP");
        assert_eq!(but(&|a| a[0] |= LEAP_ALARM << 6), "it is not synchronized itself");
        assert_eq!(but(&|a| a[1] = STRATUM_END), "it is not synchronized itself");
        assert_eq!(but(&|a| a[1] = 0), "it is not synchronized itself");
        assert_eq!(but(&|a| a[40..48].fill(0)), "it answers what is no NTP");
        assert_eq!(but(&|a| a[32] = 0xff), "it answers what is no NTP");
        assert!(but(&|a| a[8] = 0xff).starts_with("it may be off by"));
        let kiss = |a: &mut [u8; PACKET_BYTES]| {
            a[1] = 0;
            a[12..16].copy_from_slice(b"RATE");
        };
        assert_eq!(but(&kiss), "it does not want to be asked (RATE)");
    }
}
