//! What the service can be told: the keys, their defaults, and the values they may have.
//!
//! [`Config`] is the only list of keys: the file, the environment, the flags and `config show` are read
//! from it and into it by [`Loaded`]. `docs/configuration.md` describes the keys; a test compares the two.

mod audit;
mod check;
mod detail;
mod load;
mod ntp;
mod registry;
mod store;

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use snowmint::{Claim, DEFAULT_EPOCH_MS, EpochError, Layout, SequenceStart, Split};

pub use audit::{ArchiveUrl, Personal};
pub use detail::Detail;
pub use load::{ConfigError, Loaded, Origin, Setting, environment};
pub use ntp::NtpServers;
pub use registry::{Registry, Servers};
pub use store::{Scheme, StoreUrl};

/// Where data is kept on a machine that gives its user no home directory.
const DATA_DIR_WITHOUT_HOME: &str = "/var/lib/snowmint";

/// Where the audit archive is that nobody put elsewhere, in the data directory.
const ARCHIVE_DIRECTORY: &str = "archive";

/// The longest name, in bytes: that of a DNS name.
pub(crate) const NAME_BYTES_MAX: usize = 253;

/// What a number may be, for every key that is one.
const RANGES: [(&str, RangeInclusive<u64>); 27] = [
    ("audit.max_bytes", 16 << 20..=1 << 50),
    ("audit.object_bytes", 64 << 10..=1 << 30),
    ("audit.spool_max_bytes", 16 << 20..=1 << 50),
    ("backup.keep_local", 1..=10_000),
    ("backup.keep_remote", 1..=10_000),
    ("clock.idle_days_max", 1..=36_500),
    ("clock.interval_s", 1..=3_600),
    ("clock.leap_confirm_s", 1..=86_400),
    ("clock.refuse_above_ms", 1..=86_400_000),
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
    ("workers", 1..=u16::MAX as u64),
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
    /// How many workers this node is: each more is another 4,096 IDs a millisecond in the default layout.
    pub workers: NonZeroU16,
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
    /// RESP.
    pub resp: Resp,
    /// How to talk to etcd.
    pub etcd: Access,
    /// How to talk to `ZooKeeper`.
    pub zookeeper: Access,
    /// The audit archive.
    pub audit: Audit,
    /// The metrics store of a fleet.
    pub clickhouse: ClickHouse,
    /// Backups of it.
    pub backup: Backup,
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
    /// What goes.
    pub retention: Retention,
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

/// RESP, the protocol of Redis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Resp {
    /// Where RESP is served.
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

/// Backups of what is in ClickHouse.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Backup {
    /// Where they are made; unset, `backups` below the data directory.
    pub local: Option<StoreUrl>,
    /// Where they are copied to; unset, nowhere.
    pub remote: Option<StoreUrl>,
    /// How many are kept where they are made.
    pub keep_local: u16,
    /// How many are kept where they are copied to.
    pub keep_remote: u16,
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
    /// Which NTP servers are asked what time it is.
    pub ntp_servers: NtpServers,
    /// How often they are asked.
    pub interval_s: u64,
    /// How far off NTP the clocks may be while IDs are minted; unset, however far they are.
    pub refuse_above_ms: Option<u64>,
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
    /// Open connections, of REST, gRPC and RESP each.
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

/// What is past its retention.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// Where months are exported to before they are dropped; unset, nowhere.
    pub export: Option<StoreUrl>,
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
            workers: NonZeroU16::MIN,
            node_name: None,
            datacenter_name: None,
            datacenter_region: None,
            registry: Registry::Embedded,
            insecure: false,
            http: Http::default(),
            grpc: Grpc::default(),
            resp: Resp::default(),
            etcd: Access::default(),
            zookeeper: Access::default(),
            audit: Audit::default(),
            clickhouse: ClickHouse::default(),
            backup: Backup::default(),
            lease: Lease::default(),
            clock: Clock::default(),
            id: Ids::default(),
            limits: Limits::default(),
            journal: Journal::default(),
            log: Log::default(),
            metrics: MetricsStore::default(),
            retention: Retention::default(),
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

impl Default for Resp {
    fn default() -> Self {
        Self { listen: Listen(Some(SocketAddr::from(([127, 0, 0, 1], 6380)))) }
    }
}

impl Default for ClickHouse {
    fn default() -> Self {
        Self { url: None, database: "default".to_owned(), user: None, password_file: None, ca_file: None }
    }
}

impl Default for Backup {
    fn default() -> Self {
        Self { local: None, remote: None, keep_local: 7, keep_remote: 30 }
    }
}

impl Backup {
    /// Where backups are made.
    #[must_use]
    pub fn local(&self, data_dir: &Path) -> StoreUrl {
        let below = || {
            let absolute = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
            StoreUrl::Directory(absolute.join("backups"))
        };
        self.local.clone().unwrap_or_else(below)
    }
}

impl Default for Lease {
    fn default() -> Self {
        Self { window_ms: 10_000, ttl_s: 30, grace_s: 3_600, reuse_cooling: false }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            ntp_servers: NtpServers::default(),
            interval_s: 10,
            refuse_above_ms: None,
            leap_confirm_s: 60,
            idle_days_max: 366,
        }
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

impl Config {
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
}

/// The password in a file: its text without the line's end.
pub(crate) fn password(file: &Path) -> Result<String, String> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(text.trim_end_matches(['\r', '\n']).to_owned()),
        Err(error) => Err(format!("{}: {error}", file.display())),
    }
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
