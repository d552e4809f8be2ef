//! A network that misbehaves on demand.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use crate::ports::{Port, free_ports};

/// How many connections there may be at once. More wait to be accepted.
const CONNECTIONS_MAX: usize = 1_024;

/// How much of a stream is on its way, in bytes, beside what the kernel holds.
const BUFFER_BYTES: usize = 16 * 1_024;

/// How often a port is chosen before it is given up.
const START_ATTEMPTS_MAX: usize = 5;

/// A TCP proxy in the test's process, before a server. Its behaviour can be changed at any time.
pub struct Proxy {
    port: Port,
    upstream: SocketAddr,
    mode: Arc<watch::Sender<Mode>>,
    /// Accepts connections, and has them all. Empty while they are refused.
    listening: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Pass,
    Slow(Duration),
    Refuse,
    Blackhole,
    SwallowReplies,
    SwallowRepliesTo(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Requests,
    Replies,
}

/// What becomes of what a stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Forward,
    Swallow,
}

impl Direction {
    /// Nothing where it is held back.
    fn fate(self, mode: Mode) -> Option<Fate> {
        match (mode, self) {
            (Mode::Pass | Mode::Slow(_) | Mode::SwallowRepliesTo(_), _)
            | (Mode::SwallowReplies, Self::Requests) => Some(Fate::Forward),
            (Mode::SwallowReplies, Self::Replies) => Some(Fate::Swallow),
            (Mode::Blackhole | Mode::Refuse, _) => None,
        }
    }
}

impl Proxy {
    /// Listens on a port of its own, and passes everything on to `upstream`.
    pub async fn start(upstream: SocketAddr) -> Self {
        for _ in 0..START_ATTEMPTS_MAX {
            let port = free_ports(Ipv4Addr::LOCALHOST.into(), 1).remove(0);
            if let Ok(listener) = TcpListener::bind(port.address()).await {
                let mode = Arc::new(watch::Sender::new(Mode::Pass));
                let listening = tokio::spawn(listen(listener, upstream, Control::of(&mode)));
                return Self { port, upstream, mode, listening: Mutex::new(Some(listening)) };
            }
        }
        panic!("the proxy found its port taken, {START_ATTEMPTS_MAX} times over");
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.port.address()
    }

    /// From now on, everything is passed on, late where it was held back. Connections of which a reply was
    /// swallowed are closed, because what would follow makes no sense without it.
    pub async fn pass(&self) {
        self.change(Mode::Pass).await;
    }

    /// From now on, everything is passed on, each piece of a stream so much later, one after the other.
    pub async fn slow(&self, delay: Duration) {
        self.change(Mode::Slow(delay)).await;
    }

    /// From now on, there are no connections: those that stand are closed, new ones are refused.
    pub async fn refuse(&self) {
        let mut listening = self.listening.lock().await;
        self.mode.send_replace(Mode::Refuse);
        if let Some(listening) = listening.take() {
            listening.await.expect("it ends by itself");
        }
    }

    /// From now on, connections stand and new ones are accepted, but nothing passes in either direction.
    pub async fn blackhole(&self) {
        self.change(Mode::Blackhole).await;
    }

    /// From now on, what the client says is passed on, and nothing that the server replies.
    pub async fn swallow_replies(&self) {
        self.change(Mode::SwallowReplies).await;
    }

    /// From now on, everything is passed on until a client says `text`: the reply to that is swallowed, and
    /// every reply after it, of any connection.
    pub async fn swallow_replies_to(&self, text: &'static str) {
        self.change(Mode::SwallowRepliesTo(text)).await;
    }

    /// Waits until replies are swallowed.
    pub async fn swallowing(&self) {
        let mut mode = self.mode.subscribe();
        let waited = mode.wait_for(|mode| *mode == Mode::SwallowReplies).await;
        waited.expect("this proxy has the other end");
    }

    async fn change(&self, mode: Mode) {
        let mut listening = self.listening.lock().await;
        self.mode.send_replace(mode);
        if listening.is_none() {
            let listener = TcpListener::bind(self.addr()).await;
            let listener =
                listener.unwrap_or_else(|error| panic!("{} was taken meanwhile: {error}", self.addr()));
            *listening = Some(tokio::spawn(listen(listener, self.upstream, Control::of(&self.mode))));
        }
    }
}

/// Serves connections until they are to be refused, or the proxy is gone.
async fn listen(listener: TcpListener, upstream: SocketAddr, control: Control) {
    let mut connections = JoinSet::new();
    let mut refuse = control.mode.clone();
    loop {
        tokio::select! {
            _ = refuse.wait_for(|mode| *mode == Mode::Refuse) => break,
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                if let Ok((client, _)) = accepted {
                    connections.spawn(connect(client, upstream, control.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    connections.shutdown().await;
}

/// Serves one connection until it ends on both sides, or has to.
async fn connect(client: TcpStream, upstream: SocketAddr, control: Control) -> io::Result<()> {
    let [mut requests, replies] = [Direction::Requests, Direction::Replies].map(|direction| Way {
        direction,
        control: control.clone(),
        torn: false,
        said: Vec::new(),
    });
    // What is in a black hole is not heard of by the server, not even that it is there.
    requests.fate().await?;
    let server = TcpStream::connect(upstream).await?;
    // A proxy that waits to fill packets would be a delay that nobody asked for.
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::try_join!(requests.forward(from_client, to_server), replies.forward(from_server, to_client))?;
    Ok(())
}

/// The mode, as connections see it: it ends with the proxy.
#[derive(Clone)]
struct Control {
    mode: watch::Receiver<Mode>,
    change: Weak<watch::Sender<Mode>>,
}

impl Control {
    fn of(mode: &Arc<watch::Sender<Mode>>) -> Self {
        Self { mode: mode.subscribe(), change: Arc::downgrade(mode) }
    }

    /// From now on replies are swallowed, if it was the one to this text that was waited for.
    fn heard(&self, text: &'static str) {
        let Some(change) = self.change.upgrade() else { return };
        change.send_if_modified(|mode| {
            let waited = *mode == Mode::SwallowRepliesTo(text);
            if waited {
                *mode = Mode::SwallowReplies;
            }
            waited
        });
    }
}

/// One direction of a connection.
struct Way {
    direction: Direction,
    control: Control,
    /// Whether something was swallowed.
    torn: bool,
    /// The end of what was said, which a text that is listened for may begin in.
    said: Vec<u8>,
}

impl Way {
    /// Carries everything, until one side closes. An error ends the other direction, too.
    async fn forward(mut self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            self.fate().await?;
            let length = tokio::select! {
                _ = self.control.mode.changed() => continue,
                length = from.read(&mut buffer) => length?,
            };
            // The mode may have changed since.
            match self.fate().await? {
                _ if length == 0 => return to.shutdown().await,
                Fate::Swallow => self.torn = true,
                Fate::Forward => {
                    self.take_time().await;
                    self.listen_for_text(&buffer[..length]);
                    to.write_all(&buffer[..length]).await?;
                }
            }
        }
    }

    /// Waits as long as a slow network takes for a piece.
    async fn take_time(&self) {
        let Mode::Slow(delay) = *self.control.mode.borrow() else { return };
        sleep(delay).await;
    }

    /// Where the replies to a text are to be swallowed, and this has it, they are from here on.
    fn listen_for_text(&mut self, data: &[u8]) {
        let Mode::SwallowRepliesTo(text) = *self.control.mode.borrow() else { return };
        if self.direction == Direction::Replies {
            return;
        }
        self.said.extend(data);
        if self.said.windows(text.len()).any(|said| said == text.as_bytes()) {
            self.control.heard(text);
            self.said.clear();
        }
        let kept = self.said.len().min(text.len() - 1);
        self.said.drain(..self.said.len() - kept);
    }

    /// What is to be done now. While that is to hold everything back, it is waited.
    async fn fate(&mut self) -> io::Result<Fate> {
        let direction = self.direction;
        let held_no_more = self.control.mode.wait_for(|mode| direction.fate(*mode).is_some()).await;
        let fate = held_no_more.ok().and_then(|mode| direction.fate(*mode));
        match fate {
            Some(Fate::Forward) if self.torn => Err(io::ErrorKind::ConnectionAborted.into()),
            Some(fate) => Ok(fate),
            // The proxy is gone.
            None => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }
}
