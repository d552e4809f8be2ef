//! The commands: which there are, and what those answer that mint nothing.

use std::borrow::Cow;
use std::fmt::Write as _;

use axum::http::HeaderValue;

use super::reply::{Failure, Replies, Version};
use crate::api::request::{self, Origin};
use crate::error::{Code, Error};
use crate::event::{self, USER_AGENT_BYTES_MAX};
use crate::registry::timestamp;
use crate::service::Service;

/// The highest database that can be selected. There are none, but many a client selects one.
const DATABASE_MAX: i64 = 15;

/// How much of what it does not know an error repeats, in bytes.
const REPEATED_BYTES_MAX: usize = 128;

/// What a client has to be called for a password to be right, there being none.
const DEFAULT_USER: &[u8] = b"default";

/// A command that there is.
pub(super) struct Spec {
    /// In lower case.
    pub(super) name: &'static str,
    /// How many words it has with its name; negative: so many at least.
    arity: i8,
    pub(super) kind: Kind,
    summary: &'static str,
}

/// What a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Next,
    /// One where the increment is 1, which is how some clients say `INCR`.
    NextBy,
    Batch,
    Ranges,
    Parse,
    Ping,
    Echo,
    Hello,
    Auth,
    Client,
    Command,
    Info,
    Select,
    Quit,
    Reset,
}

#[rustfmt::skip]
const COMMANDS: [Spec; 16] = [
    spec("incr",            2,  Kind::Next,    "Returns an ID, whatever the key."),
    spec("incrby",          3,  Kind::NextBy,  "Returns an ID, whatever the key, where the increment is 1."),
    spec("snowmint.next",   1,  Kind::Next,    "Returns an ID."),
    spec("snowmint.batch",  2,  Kind::Batch,   "Returns up to 10000 IDs, in order: all or none."),
    spec("snowmint.ranges", 2,  Kind::Ranges,  "Returns up to 1000000 IDs as runs of consecutive ones, each its first and how many."),
    spec("snowmint.parse",  2,  Kind::Parse,   "Returns what an ID, in any text form, says of its origin."),
    spec("ping",            -1, Kind::Ping,    "Returns its argument, or PONG."),
    spec("echo",            2,  Kind::Echo,    "Returns its argument."),
    spec("hello",           -1, Kind::Hello,   "Chooses the protocol's version, and returns what the server is."),
    spec("auth",            -2, Kind::Auth,    "Says that no password is wanted."),
    spec("client",          -2, Kind::Client,  "Names the connection, and tells of it."),
    spec("command",         -1, Kind::Command, "Returns which commands there are."),
    spec("info",            -1, Kind::Info,    "Returns how the node is."),
    spec("select",          2,  Kind::Select,  "Does nothing: there are no databases."),
    spec("quit",            -1, Kind::Quit,    "Closes the connection."),
    spec("reset",           1,  Kind::Reset,   "Makes the connection as good as new."),
];

/// What there is of `CLIENT`, to tell a wrong number of arguments from a word that is not known.
const OF_CLIENT: [&str; 7] = ["getname", "id", "info", "no-evict", "no-touch", "setinfo", "setname"];

const OF_COMMAND: [&str; 4] = ["count", "docs", "info", "list"];

const fn spec(name: &'static str, arity: i8, kind: Kind, summary: &'static str) -> Spec {
    Spec { name, arity, kind, summary }
}

impl Spec {
    /// The command that `name` names, in whatever case.
    pub(super) fn named(name: &[u8]) -> Option<&'static Self> {
        COMMANDS.iter().find(|spec| spec.name.as_bytes().eq_ignore_ascii_case(name))
    }

    /// Whether it wants one ID with these words, being as many as it takes.
    pub(super) fn wants_one(&self, words: &[Cow<[u8]>]) -> bool {
        self.kind == Kind::Next || self.kind == Kind::NextBy && *words[2] == *b"1"
    }

    /// Whether it can have so many words, its name being one.
    pub(super) fn takes(&self, words: usize) -> bool {
        let wanted = usize::from(self.arity.unsigned_abs());
        if self.arity < 0 { words >= wanted } else { words == wanted }
    }

    fn mints(&self) -> bool {
        matches!(self.kind, Kind::Next | Kind::NextBy | Kind::Batch | Kind::Ranges)
    }

    /// Its row of `COMMAND`, as Redis 7 has it.
    fn describe(&self, replies: &mut Replies) {
        replies.array(10);
        replies.bulk(self.name);
        replies.integer(self.arity);
        let flags: &[&str] = if self.mints() { &["write", "fast"] } else { &["fast"] };
        replies.array(flags.len());
        for flag in flags {
            replies.simple(flag);
        }
        // Which of its words are keys: the first, the last, and how far they are apart.
        let key = u8::from(self.name.starts_with("incr"));
        (0..3).for_each(|_| replies.integer(key));
        // Access categories, hints, keys, subcommands.
        (0..4).for_each(|_| replies.array(0));
    }

    fn document(&self, replies: &mut Replies) {
        replies.bulk(self.name);
        replies.map(3);
        for (key, value) in [("summary", self.summary), ("since", "0.1.0"), ("group", "generic")] {
            replies.bulk(key);
            replies.bulk(value);
        }
    }
}

/// What a connection is to remember between commands.
pub(super) struct Session {
    id: u64,
    name: Vec<u8>,
    library: Vec<u8>,
    library_version: Vec<u8>,
    /// Who asks, for events: a request's ID is its connection's.
    asker: event::Request,
}

impl Session {
    pub(super) fn new(id: u64, asker: event::Request) -> Self {
        let (name, library, library_version) = Default::default();
        Self { id, name, library, library_version, asker }
    }

    pub(super) fn asker(&self) -> &event::Request {
        &self.asker
    }

    /// Answers a command that mints nothing.
    pub(super) fn answer(
        &mut self,
        words: &[Cow<[u8]>],
        service: &Service,
        replies: &mut Replies,
    ) -> Result<(), Failure> {
        let spec = known(words)?;
        match (spec.kind, &words[1..]) {
            (Kind::NextBy, _) => {
                let message =
                    "the increment must be 1: SNOWMINT.BATCH and SNOWMINT.RANGES give more than one ID";
                return Err(invalid(message).into());
            }
            (Kind::Ping, []) => replies.simple("PONG"),
            (Kind::Ping | Kind::Echo, [message]) => replies.bulk(message),
            (Kind::Parse, [id]) => parse(id, service, replies)?,
            (Kind::Hello, given) => self.hello(given, replies)?,
            (Kind::Auth, given) => authenticate(given, replies)?,
            (Kind::Client, [subcommand, given @ ..]) => self.client(subcommand, given, replies)?,
            (Kind::Command, given) => command(given, replies)?,
            (Kind::Info, sections) => replies.text(&info(sections, service)),
            (Kind::Select, [database]) => match number(database)? {
                0..=DATABASE_MAX => replies.ok(),
                _ => return Err(invalid("DB index is out of range").into()),
            },
            (Kind::Quit, _) => replies.ok(),
            (Kind::Reset, _) => {
                *self = Self::new(self.id, event::Request { user_agent: None, ..self.asker.clone() });
                replies.version = Version::Two;
                replies.simple("RESET");
            }
            _ => return Err(wrong_arity(spec.name).into()),
        }
        Ok(())
    }

    fn hello(&mut self, given: &[Cow<[u8]>], replies: &mut Replies) -> Result<(), Failure> {
        let (mut version, mut name, mut rest) = (replies.version, None, &[][..]);
        if let [wanted, options @ ..] = given {
            version = match number(wanted) {
                Ok(2) => Version::Two,
                Ok(3) => Version::Three,
                Ok(_) => {
                    let error = invalid("unsupported protocol version");
                    return Err(Failure { prefix: "NOPROTO", error });
                }
                Err(_) => return Err(invalid("Protocol version is not an integer or out of range").into()),
            };
            rest = options;
        }
        while let [option, values @ ..] = rest {
            rest = match (option.to_ascii_lowercase().as_slice(), values) {
                (b"auth", [user, _password, rest @ ..]) => {
                    check_user(user)?;
                    rest
                }
                (b"setname", [wanted, rest @ ..]) => {
                    name = Some(checked("Client names", wanted)?);
                    rest
                }
                _ => {
                    let message = format!("Syntax error in HELLO option '{}'", repeated(option));
                    return Err(invalid(message).into());
                }
            };
        }
        replies.version = version;
        if let Some(name) = name {
            self.name = name;
            self.introduce();
        }
        replies.map(7);
        for (key, value) in [("server", "snowmint"), ("version", env!("CARGO_PKG_VERSION"))] {
            replies.bulk(key);
            replies.bulk(value);
        }
        replies.bulk("proto");
        replies.integer(if version == Version::Two { 2 } else { 3 });
        replies.bulk("id");
        replies.integer(self.id);
        for (key, value) in [("mode", "standalone"), ("role", "master")] {
            replies.bulk(key);
            replies.bulk(value);
        }
        replies.bulk("modules");
        replies.array(0);
        Ok(())
    }

    fn client(
        &mut self,
        subcommand: &[u8],
        given: &[Cow<[u8]>],
        replies: &mut Replies,
    ) -> Result<(), Failure> {
        match (subcommand.to_ascii_lowercase().as_slice(), given) {
            (b"id", []) => replies.integer(self.id),
            (b"getname", []) if self.name.is_empty() => replies.null(),
            (b"getname", []) => replies.bulk(&self.name),
            (b"setname", [name]) => {
                self.name = checked("Client names", name)?;
                self.introduce();
                replies.ok();
            }
            (b"setinfo", [attribute, value]) => {
                match attribute.to_ascii_lowercase().as_slice() {
                    b"lib-name" => self.library = checked("lib-name", value)?,
                    b"lib-ver" => self.library_version = checked("lib-ver", value)?,
                    _ => return Err(unrecognized(attribute).into()),
                }
                self.introduce();
                replies.ok();
            }
            (b"info", []) => replies.text(&self.tell(replies.version)),
            (b"no-evict" | b"no-touch", [on]) => match on.to_ascii_lowercase().as_slice() {
                b"on" | b"off" => replies.ok(),
                _ => return Err(invalid("syntax error").into()),
            },
            _ => return Err(no_such("client", &OF_CLIENT, subcommand).into()),
        }
        Ok(())
    }

    /// What the client says of itself is the user agent of its requests.
    fn introduce(&mut self) {
        let mut agent = self.library.clone();
        if !self.library_version.is_empty() {
            agent.extend([b"/", self.library_version.as_slice()].concat());
        }
        if !self.name.is_empty() {
            agent.extend([if agent.is_empty() { b"" } else { &b" "[..] }, &self.name].concat());
        }
        agent.truncate(USER_AGENT_BYTES_MAX);
        // What was checked is visible ASCII.
        self.asker.user_agent = HeaderValue::from_bytes(&agent).ok().filter(|agent| !agent.is_empty());
    }

    fn tell(&self, version: Version) -> String {
        let text = |bytes| String::from_utf8_lossy(bytes);
        let ip = self.asker.client_ip.map(|ip| ip.to_string()).unwrap_or_default();
        format!(
            "id={} addr={ip} name={} resp={} lib-name={} lib-ver={}\n",
            self.id,
            text(&self.name),
            if version == Version::Two { 2 } else { 3 },
            text(&self.library),
            text(&self.library_version),
        )
    }
}

/// The command that is meant, if it is one, with as many words as it may have.
pub(super) fn known(words: &[Cow<[u8]>]) -> Result<&'static Spec, Error> {
    let spec = Spec::named(&words[0]).ok_or_else(|| unknown(words))?;
    if spec.takes(words.len()) { Ok(spec) } else { Err(wrong_arity(spec.name)) }
}

/// How many IDs a command asks for.
pub(super) fn count(given: &[u8], most: u32) -> Result<u32, Error> {
    request::count(&String::from_utf8_lossy(given), most)
}

fn parse(id: &[u8], service: &Service, replies: &mut Replies) -> Result<(), Error> {
    let id = request::id(&String::from_utf8_lossy(id), None)?;
    let Origin { parts, age_ms, valid } = Origin::of(id, service.layout(), service.now_ms());
    replies.map(8);
    replies.bulk("id");
    replies.integer(id.get());
    replies.bulk("timestamp_ms");
    replies.integer(parts.timestamp_ms);
    replies.bulk("timestamp_iso");
    replies.bulk(timestamp(parts.timestamp_ms).to_string());
    replies.bulk("datacenter_id");
    replies.integer(parts.slot.datacenter);
    replies.bulk("worker_id");
    replies.integer(parts.slot.worker);
    replies.bulk("sequence");
    replies.integer(parts.sequence);
    replies.bulk("age_ms");
    replies.integer(age_ms);
    replies.bulk("valid");
    replies.boolean(valid);
    Ok(())
}

fn authenticate(given: &[Cow<[u8]>], replies: &mut Replies) -> Result<(), Failure> {
    match given {
        [_password] => {
            let message = "AUTH <password> called without any password configured for the default user. Are \
                           you sure your configuration is correct?";
            return Err(invalid(message).into());
        }
        [user, _password] => check_user(user)?,
        _ => return Err(invalid("syntax error").into()),
    }
    replies.ok();
    Ok(())
}

/// Without a password, any is right for the default user, and there is no other.
fn check_user(user: &[u8]) -> Result<(), Failure> {
    if user == DEFAULT_USER {
        return Ok(());
    }
    let error = invalid("invalid username-password pair or user is disabled.");
    Err(Failure { prefix: "WRONGPASS", error })
}

fn command(given: &[Cow<[u8]>], replies: &mut Replies) -> Result<(), Error> {
    let Some((subcommand, names)) = given.split_first() else {
        replies.array(COMMANDS.len());
        for spec in &COMMANDS {
            spec.describe(replies);
        }
        return Ok(());
    };
    let meant = || names.iter().map(|name| Spec::named(name));
    match (subcommand.to_ascii_lowercase().as_slice(), names) {
        (b"count", []) => replies.integer(COMMANDS.len()),
        (b"list", []) => {
            replies.array(COMMANDS.len());
            for spec in &COMMANDS {
                replies.bulk(spec.name);
            }
        }
        (b"info", []) => command(&[], replies)?,
        (b"info", _) => {
            replies.array(names.len());
            meant().for_each(|spec| match spec {
                Some(spec) => spec.describe(replies),
                None => replies.null_array(),
            });
        }
        (b"docs", []) => {
            replies.map(COMMANDS.len());
            for spec in &COMMANDS {
                spec.document(replies);
            }
        }
        (b"docs", _) => {
            replies.map(meant().flatten().count());
            meant().flatten().for_each(|spec| spec.document(replies));
        }
        _ => return Err(no_such("command", &OF_COMMAND, subcommand)),
    }
    Ok(())
}

/// What `/health` tells, in the form of Redis' `INFO`.
fn info(sections: &[Cow<[u8]>], service: &Service) -> String {
    let health = service.health();
    let workers: Vec<_> = health.slots.iter().map(|slot| slot.worker_id.to_string()).collect();
    let or_none = |number: Option<u64>| number.map_or("none".to_owned(), |number| number.to_string());
    let server = [
        ("snowmint_version", env!("CARGO_PKG_VERSION").to_owned()),
        ("redis_mode", "standalone".to_owned()),
        ("process_id", std::process::id().to_string()),
        ("uptime_in_seconds", health.uptime_seconds.to_string()),
    ];
    let stats = [
        ("ids_generated", health.ids_generated.to_string()),
        ("ids_per_second", format!("{:.0}", health.ids_per_second)),
        ("sequence_overflows", health.sequence_overflows.to_string()),
        ("last_id", or_none(health.last_id.map(snowmint::Id::get))),
    ];
    let node = [
        ("status", health.status.to_owned()),
        ("reasons", health.reasons.join("; ")),
        ("datacenter_id", or_none(health.datacenter_id.map(u64::from))),
        ("worker_id", or_none(health.worker_id.map(u64::from))),
        ("worker_ids", workers.join(",")),
        ("window_left_ms", health.window_left_ms.to_string()),
        ("clock_drift_ms", format!("{:.3}", health.clock_drift_ms)),
    ];
    let wanted = |title: &str| {
        let all = ["all", "default", "everything", title];
        let is_wanted =
            |section: &Cow<[u8]>| all.iter().any(|name| name.as_bytes().eq_ignore_ascii_case(section));
        sections.is_empty() || sections.iter().any(is_wanted)
    };
    let mut text = String::new();
    for (title, lines) in [("Server", &server[..]), ("Stats", &stats), ("Node", &node)] {
        if wanted(title) {
            let gap = if text.is_empty() { "" } else { "\r\n" };
            let _ = write!(text, "{gap}# {title}\r\n");
            for (key, value) in lines {
                text.extend([*key, ":", value, "\r\n"]);
            }
        }
    }
    text
}

fn number(given: &[u8]) -> Result<i64, Error> {
    let number = std::str::from_utf8(given).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| invalid("value is not an integer or out of range"))
}

/// A name that has to be short and visible.
fn checked(what: &str, given: &[u8]) -> Result<Vec<u8>, Error> {
    if !given.iter().all(u8::is_ascii_graphic) {
        return Err(invalid(format!("{what} cannot contain spaces, newlines or special characters.")));
    }
    if given.len() > USER_AGENT_BYTES_MAX {
        return Err(invalid(format!("{what} cannot be longer than {USER_AGENT_BYTES_MAX} bytes.")));
    }
    Ok(given.to_vec())
}

fn invalid(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(Code::InvalidParameter, message)
}

fn wrong_arity(name: &str) -> Error {
    Error::new(Code::InvalidRequest, format!("wrong number of arguments for '{name}' command"))
}

fn unrecognized(option: &[u8]) -> Error {
    invalid(format!("Unrecognized option '{}'", repeated(option)))
}

fn no_such(command: &str, subcommands: &[&str], given: &[u8]) -> Error {
    match subcommands.iter().find(|name| name.as_bytes().eq_ignore_ascii_case(given)) {
        Some(name) => wrong_arity(&format!("{command}|{name}")),
        None => Error::new(Code::NotFound, format!("unknown subcommand '{}'", repeated(given))),
    }
}

/// As Redis says it, to the letter: there are clients that look.
fn unknown(words: &[Cow<[u8]>]) -> Error {
    let mut arguments = String::new();
    for word in &words[1..] {
        let Some(room) = REPEATED_BYTES_MAX.checked_sub(arguments.len()).filter(|room| *room > 0) else {
            break;
        };
        let _ = write!(arguments, "'{}' ", String::from_utf8_lossy(&word[..word.len().min(room)]));
    }
    let name = repeated(&words[0]);
    Error::new(Code::NotFound, format!("unknown command '{name}', with args beginning with: {arguments}"))
}

fn repeated(given: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(&given[..given.len().min(REPEATED_BYTES_MAX)])
}
