//! What the service can be told: the keys, their defaults, and the values they may have.
//!
//! [`Config`] is the only list of keys: the file, the environment, the flags and `config show` are read
//! from it and into it by [`Loaded`]. `docs/configuration.md` describes the keys; a test compares the two.

mod audit;
mod detail;
mod load;
mod registry;
mod store;

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use snowmint::{Claim, DEFAULT_EPOCH_MS, EpochError, Layout, SequenceStart, Split};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

pub use audit::{ArchiveUrl, Personal};
pub use detail::Detail;
pub use load::{ConfigError, Loaded, Origin, Setting, environment};
pub use registry::{Registry, Servers};
pub use store::{Scheme, StoreUrl};

/// Where data is kept on a machine that gives its user no home directory.
const DATA_DIR_WITHOUT_HOME: &str = "/var/lib/snowmint";

/// Where the audit archive is that nobody put elsewhere, in the data directory.
const ARCHIVE_DIRECTORY: &str = "archive";

/// The longest name, in bytes: that of a DNS name.
pub(crate) const NAME_BYTES_MAX: usize = 253;

/// What a number may be, for every key that is one.
const RANGES: [(&str, RangeInclusive<u64>); 22] = [
    ("audit.max_bytes", 16 << 20..=1 << 50),
    ("audit.object_bytes", 64 << 10..=1 << 30),
    ("audit.spool_max_bytes", 16 << 20..=1 << 50),
    ("clock.idle_days_max", 1..=36_500),
    ("clock.leap_confirm_s", 1..=86_400),
    ("datacenter", 0..=u16::MAX as u64),
    ("id.epoch_ms", 0..=Layout::EPOCH_MS_MAX),
    ("id.max_sequence", 0..=(1 << Split::SEQUENCE_BITS_MAX) - 1),
    ("journal.flush_ms", 1..=10_000),
    ("journal.max_bytes", 16 << 20..=1 << 40),
    ("lease.grace_s", 0..=31_536_000),
    ("lease.ttl_s", 2..=3_600),
    ("lease.window_ms", 100..=Claim::WINDOW_MS_MAX),
    ("limits.body_bytes", 1_024..=16_777_216),
    ("limits.connections", 1..=1_000_000),
    ("limits.header_bytes", 8_192..=1_048_576),
    ("limits.header_s", 1..=300),
    ("limits.idempotency_keys", 0..=1_000_000),
    ("limits.request_s", 1..=3_600),
    ("limits.wait_ms", 0..=60_000),
    ("metrics.max_bytes", 16 << 20..=1 << 50),
    ("worker", 0..=u16::MAX as u64),
];

/// Everything the service can be told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the embedded registry is kept. Nodes that share it get different workers.
    pub data_dir: PathBuf,
    /// Which datacenter this node is in.
    pub datacenter: u16,
    /// Which worker this node is; unset, it takes a free one.
    pub worker: Option<u16>,
    /// How the registry names this node; unset, a name that is made once and kept in the data directory.
    pub node_name: Option<String>,
    /// What the registry calls the datacenter.
    pub datacenter_name: Option<String>,
    /// Where it says the datacenter is.
    pub datacenter_region: Option<String>,
    /// Which registry gives out workers.
    pub registry: Registry,
    /// Serve a routable address without TLS and keys.
    pub insecure: bool,
    /// REST.
    pub http: Http,
    /// gRPC.
    pub grpc: Grpc,
    /// How to talk to etcd.
    pub etcd: Access,
    /// How to talk to `ZooKeeper`.
    pub zookeeper: Access,
    /// The audit archive.
    pub audit: Audit,
    /// The metrics store of a fleet.
    pub clickhouse: ClickHouse,
    /// How a worker is held.
    pub lease: Lease,
    /// The serving clock.
    pub clock: Clock,
    /// What IDs are made of.
    pub id: Ids,
    /// What is too much.
    pub limits: Limits,
    /// What was issued, on its way to the sinks.
    pub journal: Journal,
    /// The log.
    pub log: Log,
    /// The metrics store.
    pub metrics: MetricsStore,
    /// How to talk to S3.
    pub s3: S3,
}

/// REST.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Where REST is served.
    pub listen: Listen,
}

/// gRPC.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grpc {
    /// Where gRPC is served.
    pub listen: Listen,
}

/// How to talk to the servers of a registry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Access {
    /// Who to say we are.
    pub user: Option<String>,
    /// The file that has the user's password.
    pub password_file: Option<PathBuf>,
    /// The certificate authority that is trusted with TLS, as PEM; unset, the system's.
    pub ca_file: Option<PathBuf>,
    /// The certificate that is shown with TLS, as PEM.
    pub cert_file: Option<PathBuf>,
    /// The key of that certificate, as PEM.
    pub key_file: Option<PathBuf>,
}

/// The audit archive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// Where it is; unset, a directory below `data_dir`.
    pub url: Option<ArchiveUrl>,
    /// Give IDs only to those of whom it was written down.
    pub required: bool,
    /// What is told of a client's address.
    pub client_ip: Personal,
    /// What is told of a client's user agent.
    pub user_agent: Personal,
    /// The file that has the key of what is hashed.
    pub hash_key_file: Option<PathBuf>,
    /// How large the directory below `data_dir` may get; the oldest objects go first.
    pub max_bytes: u64,
    /// When an object has enough records, before they are compressed.
    pub object_bytes: u64,
    /// How much waits for a place that is away; past it, the journal keeps what follows.
    pub spool_max_bytes: u64,
}

/// The metrics store of a fleet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClickHouse {
    /// Where it speaks HTTP; unset, there is none.
    pub url: Option<String>,
    /// Which database the tables are in.
    pub database: String,
    /// Who to say we are.
    pub user: Option<String>,
    /// The file that has the user's password.
    pub password_file: Option<PathBuf>,
    /// The certificate authority that is trusted with TLS, as PEM; unset, the system's.
    pub ca_file: Option<PathBuf>,
}

/// How a worker is held.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lease {
    /// How far ahead of the clock a window reaches: how long a registry outage is survived.
    pub window_ms: u64,
    /// How long a worker looks alive without a sign of life. Nothing rests on it but how soon it is free.
    pub ttl_s: u64,
    /// How long a worker that was given up cools down before another node may have it.
    pub grace_s: u64,
    /// When nothing else is free, take a cooling worker whose window has passed.
    pub reuse_cooling: bool,
}

/// The serving clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Clock {
    /// How long a wall clock that leapt forward must stay there to be believed.
    pub leap_confirm_s: u64,
    /// A clock this much past the newest window in the registry is taken for wrong.
    pub idle_days_max: u64,
}

/// What IDs are made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ids {
    /// The Unix millisecond that timestamps count from. The registry keeps the first node's for ever.
    pub epoch_ms: u64,
    /// How many bits time, datacenter, worker and sequence have. The registry keeps the first node's for ever.
    pub layout: Split,
    /// The highest sequence number used; unset, the registry's: the first node's, or else the layout's highest.
    pub max_sequence: Option<u32>,
    /// Where a millisecond's sequence starts.
    #[serde(with = "SequenceStartName")]
    pub sequence_start: SequenceStart,
}

/// What is too much.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// How long a request waits for its IDs.
    pub wait_ms: u64,
    /// Open connections, of REST and of gRPC each.
    pub connections: usize,
    /// A request's body.
    pub body_bytes: usize,
    /// A request's headers.
    pub header_bytes: usize,
    /// How long a request may take.
    pub request_s: u64,
    /// How long a client may take to send its headers.
    pub header_s: u64,
    /// Answers that are kept to be given again to the same `Idempotency-Key`.
    pub idempotency_keys: usize,
}

/// What was issued, on its way to the sinks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Journal {
    /// When what was issued is on disk.
    pub durability: Durability,
    /// How often what was written is made to outlive a loss of power.
    pub flush_ms: u64,
    /// How much is kept for sinks that are away; past it, new events are shed and counted.
    pub max_bytes: u64,
}

/// The log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Text or JSON.
    pub format: LogFormat,
    /// What is logged: a level, or directives such as `info,snowmint_server::lease=debug`.
    pub level: String,
}

/// The metrics store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsStore {
    /// Of which requests there is a row. What reports add up is exact all the same.
    pub detail: Detail,
    /// How large the embedded store may get; the oldest rows go first.
    pub max_bytes: u64,
}

/// How to talk to S3, or to what speaks like it. What is unset is taken from the environment (`AWS_…`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3 {
    /// Where it is; unset, Amazon's of the region.
    pub endpoint: Option<String>,
    /// Which region it is in.
    pub region: Option<String>,
    /// Who to say we are.
    pub access_key_id: Option<String>,
    /// The file that has the secret of that key.
    pub secret_access_key_file: Option<PathBuf>,
    /// The certificate authority that is trusted with TLS, as PEM; unset, the system's.
    pub ca_file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: default_data_dir(),
            datacenter: 0,
            worker: None,
            node_name: None,
            datacenter_name: None,
            datacenter_region: None,
            registry: Registry::Embedded,
            insecure: false,
            http: Http::default(),
            grpc: Grpc::default(),
            etcd: Access::default(),
            zookeeper: Access::default(),
            audit: Audit::default(),
            clickhouse: ClickHouse::default(),
            lease: Lease::default(),
            clock: Clock::default(),
            id: Ids::default(),
            limits: Limits::default(),
            journal: Journal::default(),
            log: Log::default(),
            metrics: MetricsStore::default(),
            s3: S3::default(),
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self { listen: Listen(Some(SocketAddr::from(([127, 0, 0, 1], 8080)))) }
    }
}

impl Default for Grpc {
    fn default() -> Self {
        Self { listen: Listen(Some(SocketAddr::from(([127, 0, 0, 1], 9090)))) }
    }
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            url: None,
            required: false,
            client_ip: Personal::Keep,
            user_agent: Personal::Keep,
            hash_key_file: None,
            max_bytes: 10 << 30,
            object_bytes: 64 << 20,
            spool_max_bytes: 1 << 30,
        }
    }
}

impl Default for ClickHouse {
    fn default() -> Self {
        Self { url: None, database: "default".to_owned(), user: None, password_file: None, ca_file: None }
    }
}

impl Default for Lease {
    fn default() -> Self {
        Self { window_ms: 10_000, ttl_s: 30, grace_s: 3_600, reuse_cooling: false }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self { leap_confirm_s: 60, idle_days_max: 366 }
    }
}

impl Default for Ids {
    fn default() -> Self {
        Self {
            epoch_ms: DEFAULT_EPOCH_MS,
            layout: Split::DEFAULT,
            max_sequence: None,
            sequence_start: SequenceStart::Jittered,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            wait_ms: 2_000,
            connections: 10_000,
            body_bytes: 65_536,
            header_bytes: 16_384,
            request_s: 10,
            header_s: 5,
            idempotency_keys: 10_000,
        }
    }
}

impl Default for Journal {
    fn default() -> Self {
        Self { durability: Durability::Relaxed, flush_ms: 100, max_bytes: 1 << 30 }
    }
}

impl Default for MetricsStore {
    fn default() -> Self {
        Self { detail: Detail::Every, max_bytes: 1 << 30 }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Auto, level: "info".to_owned() }
    }
}

impl Ids {
    /// The layout and its epoch. What was loaded has one.
    pub fn layout(&self) -> Result<Layout, EpochError> {
        Layout::new(self.layout, self.epoch_ms)
    }

    /// The highest sequence number to use.
    #[must_use]
    pub fn max_sequence(&self) -> u32 {
        self.max_sequence.unwrap_or(self.layout.max_sequence())
    }
}

/// A value that its type allows and that cannot be nevertheless.
struct Problem {
    key: &'static str,
    wanted: String,
}

impl Config {
    /// What only shows when keys are seen together, or is more than a type.
    fn check(&self) -> Result<(), Problem> {
        let split = self.id.layout;
        below("datacenter", Some(self.datacenter.into()), split.datacenters(), split)?;
        below("worker", self.worker.map(u32::from), split.workers(), split)?;
        below("id.max_sequence", self.id.max_sequence, split.max_sequence() + 1, split)?;
        check_level(&self.log.level)?;
        for (key, name) in [
            ("node_name", &self.node_name),
            ("datacenter_name", &self.datacenter_name),
            ("datacenter_region", &self.datacenter_region),
        ] {
            if name.as_ref().is_some_and(|name| !(1..=NAME_BYTES_MAX).contains(&name.len())) {
                return Err(Problem {
                    key,
                    wanted: format!("a name of 1 to {NAME_BYTES_MAX} bytes is wanted"),
                });
            }
        }
        if self.data_dir.as_os_str().is_empty() {
            return Err(Problem { key: "data_dir", wanted: "the path of a directory is wanted".to_owned() });
        }
        self.check_audit()?;
        self.etcd.check("etcd.password_file", "etcd.key_file")?;
        self.zookeeper.check("zookeeper.password_file", "zookeeper.key_file")?;
        self.clickhouse.check()?;
        self.s3.check()?;
        self.check_listeners()
    }

    /// Where the audit archive is, if there is one.
    #[must_use]
    pub fn archive(&self) -> Option<StoreUrl> {
        match &self.audit.url {
            Some(ArchiveUrl::Off) => None,
            Some(ArchiveUrl::At(url)) => Some(url.clone()),
            None => {
                let directory = self.data_dir.join(ARCHIVE_DIRECTORY);
                Some(StoreUrl::Directory(std::path::absolute(&directory).unwrap_or(directory)))
            }
        }
    }

    fn check_audit(&self) -> Result<(), Problem> {
        let audit = &self.audit;
        let problem = |key, wanted: &str| Err(Problem { key, wanted: wanted.to_owned() });
        if audit.required && self.journal.durability == Durability::Off {
            return problem(
                "audit.required",
                "with journal.durability = \"off\" nothing is ever written down",
            );
        }
        if audit.required && audit.url == Some(ArchiveUrl::Off) {
            return problem("audit.required", "with audit.url = \"off\" there is no archive");
        }
        let hashed = [audit.client_ip, audit.user_agent].contains(&Personal::Hash);
        if hashed && audit.hash_key_file.is_none() {
            return problem(
                "audit.hash_key_file",
                "what is hashed needs a key: the path of a file is wanted",
            );
        }
        Ok(())
    }

    fn check_listeners(&self) -> Result<(), Problem> {
        let listeners = [("http.listen", self.http.listen), ("grpc.listen", self.grpc.listen)];
        if listeners.iter().all(|(_, listen)| listen.0.is_none()) {
            return Err(Problem {
                key: "http.listen",
                wanted: "http.listen and grpc.listen are both off, and one of them is needed".to_owned(),
            });
        }
        for (key, listen) in listeners {
            let routable = listen.0.is_some_and(|address| !address.ip().to_canonical().is_loopback());
            if routable && !self.insecure {
                return Err(Problem {
                    key,
                    wanted:
                        "other machines could reach it, without TLS and without a key: an address of this \
                             machine alone is wanted, such as 127.0.0.1, or --insecure (insecure = true)"
                            .to_owned(),
                });
            }
        }
        Ok(())
    }
}

impl ClickHouse {
    fn check(&self) -> Result<(), Problem> {
        let fits = |url: &String| {
            let authority = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
            authority.is_some_and(|rest| !rest.is_empty() && !rest.contains(['@', '?', '#', ' ']))
        };
        if !self.url.as_ref().is_none_or(fits) {
            let wanted = "the URL of a ClickHouse is wanted, such as http://localhost:8123 or https://ch.example.com:8443; \
                          clickhouse.user, clickhouse.password_file and clickhouse.database say the rest";
            return Err(Problem { key: "clickhouse.url", wanted: wanted.to_owned() });
        }
        if !(1..=NAME_BYTES_MAX).contains(&self.database.len()) {
            let wanted = format!("a name of 1 to {NAME_BYTES_MAX} bytes is wanted");
            return Err(Problem { key: "clickhouse.database", wanted });
        }
        Ok(())
    }
}

impl S3 {
    fn check(&self) -> Result<(), Problem> {
        let fits = |url: &String| url.starts_with("http://") || url.starts_with("https://");
        if !self.endpoint.as_ref().is_none_or(fits) {
            let wanted =
                "a URL is wanted, such as https://s3.example.com or http://localhost:9000".to_owned();
            return Err(Problem { key: "s3.endpoint", wanted });
        }
        if self.access_key_id.is_some() != self.secret_access_key_file.is_some() {
            let wanted = "access_key_id and secret_access_key_file are wanted, or neither".to_owned();
            return Err(Problem { key: "s3.secret_access_key_file", wanted });
        }
        Ok(())
    }
}

impl Access {
    /// What belongs together comes together.
    fn check(&self, password_key: &'static str, key_key: &'static str) -> Result<(), Problem> {
        let pairs = [
            (password_key, self.user.is_some(), self.password_file.is_some(), "user and password_file"),
            (key_key, self.cert_file.is_some(), self.key_file.is_some(), "cert_file and key_file"),
        ];
        match pairs.into_iter().find(|(_, one, other, _)| one != other) {
            Some((key, .., both)) => Err(Problem { key, wanted: format!("{both} are wanted, or neither") }),
            None => Ok(()),
        }
    }
}

/// The password in a file: its text without the line's end.
pub(crate) fn password(file: &Path) -> Result<String, String> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(text.trim_end_matches(['\r', '\n']).to_owned()),
        Err(error) => Err(format!("{}: {error}", file.display())),
    }
}

fn below(key: &'static str, value: Option<u32>, end: u32, split: Split) -> Result<(), Problem> {
    match value {
        Some(value) if value >= end => {
            Err(Problem { key, wanted: format!("the layout {split} has room for 0 to {}", end - 1) })
        }
        _ => Ok(()),
    }
}

/// A misspelt level is a valid directive, for a module of that name, and would silence the log.
fn check_level(level: &str) -> Result<(), Problem> {
    let known =
        level.split(',').all(|part| part.contains(['=', '[']) || part.trim().parse::<LevelFilter>().is_ok());
    if known && EnvFilter::try_new(level).is_ok() {
        return Ok(());
    }
    Err(Problem {
        key: "log.level",
        wanted: "off, error, warn, info, debug or trace is wanted, or directives such as info,hyper=debug"
            .to_owned(),
    })
}

fn default_data_dir() -> PathBuf {
    match directories::ProjectDirs::from("", "", "snowmint") {
        // A configuration is text throughout.
        Some(directories) => directories.data_dir().to_string_lossy().into_owned().into(),
        None => DATA_DIR_WITHOUT_HOME.into(),
    }
}

/// Where to listen, or nowhere. Written as an address and a port, or as an empty string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Listen(pub Option<SocketAddr>);

impl FromStr for Listen {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        text.parse().map(|address| Self(Some(address))).map_err(|_| {
            "an IP address and a port are wanted, as in 127.0.0.1:8080 or [::1]:8080, or an empty string for off"
        })
    }
}

impl TryFrom<String> for Listen {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> Self {
        listen.0.map(|address| address.to_string()).unwrap_or_default()
    }
}

/// When what was issued is on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Soon after the answer.
    #[default]
    Relaxed,
    /// Before the answer.
    Strict,
    /// Never: nothing is written down.
    Off,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// The names of [`SequenceStart`].
#[derive(Serialize, Deserialize)]
#[serde(remote = "SequenceStart", rename_all = "lowercase")]
enum SequenceStartName {
    Zero,
    Jittered,
}
