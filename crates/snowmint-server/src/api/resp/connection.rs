//! One connection: what one read brings is answered with one write, and its single IDs come of one request.

use std::borrow::Cow;
use std::io;
use std::ops::Range;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use smallvec::{SmallVec, smallvec};
use snowmint::{Id, IdRange};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::FrontEnd;
use super::commands::{self, Kind, Session, Spec};
use super::parser::{self, COMMAND_BYTES_MAX, ProtocolError, Words};
use super::reply::{Failure, Replies};
use crate::api::DRAIN_MS_MAX;
use crate::error::{Code, Error};
use crate::service::{BATCH_IDS_MAX, RANGE_IDS_MAX};

/// What a connection reads into at first, in bytes. It doubles when it is full, up to [`COMMAND_BYTES_MAX`].
const INPUT_BYTES_MIN: usize = 1_024;

/// The most commands that are looked at before they are answered, and so the most IDs of one request for
/// single ones: there is seldom room for more in what one read brings.
const PIPELINE_COMMANDS_MAX: u32 = 2_048;

/// Past so many bytes of answers, they are sent before the next command is answered.
const OUTPUT_BYTES_MAX: usize = 65_536;

/// How long a client that is sent away may take to hang up, in milliseconds. What it still sends is not
/// looked at; were it not read, the kernel would take back the last answer.
const LINGER_MS_MAX: u64 = 500;

/// Mostly one: what a pipeline wants, a millisecond has.
type Ranges = SmallVec<[IdRange; 1]>;

/// A client, what it sent, and what it is sent.
pub(super) struct Connection<'a> {
    front_end: &'a FrontEnd,
    stream: TcpStream,
    session: Session,
    stop: &'a CancellationToken,
    /// Until when all has to be done once the service stops.
    drain_until: OnceLock<tokio::time::Instant>,
    input: Vec<u8>,
    steps: Vec<Step>,
    replies: Replies,
}

/// What is to be answered, in order. A command is where it lies in the input.
enum Step {
    /// So many commands that want one ID each.
    Next(u32),
    /// One that wants many.
    Many(Range<usize>),
    /// One that wants none.
    Other(Range<usize>),
    /// None that could be understood.
    Wrong(ProtocolError),
}

/// What comes after the steps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    /// More commands that have come already.
    More,
    /// What the client sends next.
    Read,
    /// Nothing: the client takes its leave, or is not understood any more.
    Leave,
}

impl<'a> Connection<'a> {
    pub(super) fn new(
        front_end: &'a FrontEnd,
        stream: TcpStream,
        session: Session,
        stop: &'a CancellationToken,
    ) -> Self {
        Self {
            front_end,
            stream,
            session,
            stop,
            drain_until: OnceLock::new(),
            input: Vec::with_capacity(INPUT_BYTES_MIN),
            steps: Vec::new(),
            replies: Replies::default(),
        }
    }

    /// Answers until the client is done, or the service stops.
    pub(super) async fn run(mut self) -> io::Result<()> {
        // In a set of its own the end is looked at when it comes, not each time a command does.
        let mut stopped = FuturesUnordered::from_iter([self.stop.cancelled()]);
        loop {
            tokio::select! {
                biased;
                Some(()) = stopped.next() => break,
                read = self.stream.read_buf(&mut self.input) => if read? == 0 { return Ok(()) },
            }
            let full = self.input.len() == self.input.capacity();
            if self.answer_input().await? == After::Leave {
                leave(self.stream).await;
                return Ok(());
            }
            if full && self.input.capacity() < COMMAND_BYTES_MAX {
                self.input.reserve_exact(2 * self.input.capacity() - self.input.len());
            }
        }
        // What has come by now is in flight.
        if self.stream.try_read_buf(&mut self.input).is_ok_and(|read| read > 0) {
            self.answer_input().await?;
        }
        leave(self.stream).await;
        Ok(())
    }

    async fn answer_input(&mut self) -> io::Result<After> {
        let mut used = 0;
        let after = loop {
            let (next, after) = self.look_ahead(used);
            used = next;
            self.take_steps().await?;
            if after != After::More {
                break after;
            }
        };
        self.input.drain(..used);
        self.send().await?;
        Ok(after)
    }

    /// Finds out what is to be answered from `at` on, and where that ends.
    fn look_ahead(&mut self, mut at: usize) -> (usize, After) {
        self.steps.clear();
        let mut words = Words::new();
        for _ in 0..PIPELINE_COMMANDS_MAX {
            let from = at;
            match parser::parse(&self.input[from..], &mut words) {
                Ok(Some(used)) => at += used,
                Ok(None) => return (at, After::Read),
                Err(error) => {
                    self.steps.push(Step::Wrong(error));
                    return (at, After::Leave);
                }
            }
            let Some(name) = words.first() else { continue };
            let spec = Spec::named(name).filter(|spec| spec.takes(words.len()));
            if spec.is_some_and(|spec| spec.wants_one(&words)) {
                match self.steps.last_mut() {
                    Some(Step::Next(count)) => *count += 1,
                    _ => self.steps.push(Step::Next(1)),
                }
                continue;
            }
            match spec.map(|spec| spec.kind) {
                Some(Kind::Batch | Kind::Ranges) => self.steps.push(Step::Many(from..at)),
                Some(Kind::Quit) => {
                    self.steps.push(Step::Other(from..at));
                    return (at, After::Leave);
                }
                None if parser::is_http(name) => {
                    self.steps.push(Step::Wrong(ProtocolError::Http));
                    return (at, After::Leave);
                }
                _ => self.steps.push(Step::Other(from..at)),
            }
        }
        (at, After::More)
    }

    async fn take_steps(&mut self) -> io::Result<()> {
        let steps = std::mem::take(&mut self.steps);
        // The IDs of all single ones up to the next command that wants many: later commands get higher IDs.
        let mut ids = None;
        for (position, step) in steps.iter().enumerate() {
            match step {
                Step::Next(count) => {
                    let supply = match ids.as_mut() {
                        Some(supply) => supply,
                        None => ids.insert(self.single_ids(&steps[position..]).await),
                    };
                    for _ in 0..*count {
                        match supply {
                            Ok(ids) => self
                                .replies
                                .integer(ids.next().expect("there are as many as are wanted").get()),
                            Err(failure) => self.replies.error(failure),
                        }
                    }
                }
                Step::Many(command) => {
                    ids = None;
                    if let Err(failure) = self.give_many(command.clone()).await {
                        self.replies.error(&failure);
                    }
                }
                Step::Other(command) => self.answer_one(command.clone()),
                Step::Wrong(error) => {
                    let code = if *error == ProtocolError::TooLarge {
                        Code::PayloadTooLarge
                    } else {
                        Code::InvalidRequest
                    };
                    let failure = Failure::from(Error::new(code, error.to_string()));
                    self.failed(&failure, Instant::now(), 1);
                    self.replies.error(&failure);
                }
            }
            if self.replies.bytes.len() > OUTPUT_BYTES_MAX {
                self.send().await?;
            }
        }
        self.steps = steps;
        Ok(())
    }

    /// As many IDs as single ones are wanted before the next command that wants many.
    async fn single_ids(&self, steps: &[Step]) -> Result<impl Iterator<Item = Id> + use<>, Failure> {
        let alike = steps.iter().take_while(|step| !matches!(step, Step::Many(_)));
        let count = alike.map(|step| if let Step::Next(count) = step { *count } else { 0 }).sum();
        let ranges = self.mint(count, count).await?;
        Ok(ranges.into_iter().flat_map(|range| range.ids()))
    }

    fn answer_one(&mut self, command: Range<usize>) {
        let mut words = Words::new();
        read_again(&self.input[command], &mut words);
        let service = self.front_end.issuer.service();
        if let Err(failure) = self.session.answer(&words, service, &mut self.replies) {
            self.failed(&failure, Instant::now(), 1);
            self.replies.error(&failure);
        }
    }

    async fn give_many(&mut self, command: Range<usize>) -> Result<(), Failure> {
        let mut words = Words::new();
        read_again(&self.input[command], &mut words);
        let (kind, count) = wanted(&words).inspect_err(|failure| self.failed(failure, Instant::now(), 1))?;
        drop(words);
        let ranges = self.mint(count, 1).await?;
        if kind == Kind::Ranges {
            self.replies.array(ranges.len());
            for range in ranges {
                self.replies.array(2);
                self.replies.integer(range.first().get());
                self.replies.integer(range.count());
            }
        } else {
            self.replies.array(count as usize);
            for id in ranges.iter().flat_map(IdRange::ids) {
                self.replies.integer(id.get());
            }
        }
        Ok(())
    }

    /// `count` IDs, which so many `commands` want.
    async fn mint(&self, count: u32, commands: u32) -> Result<Ranges, Failure> {
        let issuer = &self.front_end.issuer;
        if count == 1
            && let Some(id) = issuer.id_now(|| Some(self.session.asker().clone()))
        {
            return Ok(smallvec![IdRange::new(id, 1).expect("one ID is a range")]);
        }
        let arrived = Instant::now();
        let asker = issuer.asks_who().then(|| self.session.asker());
        let given = match self.within_limits(issuer.ranges(count, asker)).await {
            Some(given) => given,
            None => Err(Error::too_slow(self.front_end.limits.request_s)),
        };
        given.map(Ranges::from_vec).map_err(|error| {
            let failure = Failure::from(error);
            self.failed(&failure, arrived, commands);
            failure
        })
    }

    /// To be called for each error, with how many commands it answers: all are counted, one is written down.
    fn failed(&self, Failure { error, .. }: &Failure, arrived: Instant, commands: u32) {
        let issuer = &self.front_end.issuer;
        issuer.failed(error, arrived, issuer.asks_who().then(|| self.session.asker().clone()));
        (1..commands).for_each(|_| issuer.service().failed(error.code));
    }

    /// Sends the answers. A client that does not take them within the limits is one no more.
    async fn send(&mut self) -> io::Result<()> {
        let mut replies = std::mem::take(&mut self.replies.bytes);
        let sending = async {
            let mut rest = &replies[..];
            while !rest.is_empty() {
                match self.stream.try_write(rest) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.stream.writable().await?,
                    sent => rest = &rest[sent?..],
                }
            }
            Ok::<_, io::Error>(())
        };
        self.within_limits(sending).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))?;
        replies.clear();
        replies.shrink_to(OUTPUT_BYTES_MAX);
        self.replies.bytes = replies;
        Ok(())
    }

    /// Does some work within the time that a request has, and that is left once the service stops. Where it is
    /// done at once, no clock is looked at.
    async fn within_limits<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let too_long =
            async { tokio::time::sleep(Duration::from_secs(self.front_end.limits.request_s)).await };
        let drained = async {
            self.stop.cancelled().await;
            let drain = Duration::from_millis(DRAIN_MS_MAX);
            let until = self.drain_until.get_or_init(|| tokio::time::Instant::now() + drain);
            tokio::time::sleep_until(*until).await;
        };
        tokio::select! {
            biased;
            done = work => Some(done),
            () = too_long => None,
            () = drained => None,
        }
    }
}

/// What a command for many IDs wants.
fn wanted(words: &[Cow<[u8]>]) -> Result<(Kind, u32), Failure> {
    let spec = commands::known(words)?;
    let most = if spec.kind == Kind::Ranges { RANGE_IDS_MAX } else { BATCH_IDS_MAX };
    Ok((spec.kind, commands::count(&words[1], most)?))
}

/// The words of a command that was read before.
fn read_again<'a>(command: &'a [u8], words: &mut Words<'a>) {
    let used = parser::parse(command, words);
    debug_assert_eq!(used, Ok(Some(command.len())));
}

/// Ends a connection so that the client gets what it was sent.
pub(super) async fn leave(mut stream: TcpStream) {
    let hang_up = async {
        stream.shutdown().await?;
        let mut ignored = [0; 1_024];
        while stream.read(&mut ignored).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    // Gone, or not gone in time: it is over either way.
    let _ = tokio::time::timeout(Duration::from_millis(LINGER_MS_MAX), hang_up).await;
}
