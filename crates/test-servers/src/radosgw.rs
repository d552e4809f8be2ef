//! S3, as Ceph's RADOS gateway has it: it checks signatures, refuses what `If-None-Match` says, and carries
//! lifecycle rules out.
//!
//! The gateway keeps everything in a Ceph, of which there is the least there can be: one monitor, and one storage
//! daemon that keeps what it has in memory. They stay while the gateway is killed, and nothing is lost with it.
//!
//! What does not explain itself in their configuration:
//!
//! * `paxos_propose_interval`, `paxos_min_wait` (s): otherwise the monitor gathers for a second what it changes at
//!   once. Every pool is a few changes, there are ten of them, and a start takes 15 s longer.
//! * `osd_pool_default_…`, `mon_allow_pool_size_one`, `osd_crush_chooseleaf_type`: one copy of everything, on the
//!   one daemon.
//! * `mon_data_avail_crit` (%): otherwise the monitor ends on a disk that is nearly full.
//! * `rgw_lc_debug_interval` (s): that long is a day to lifecycle rules, and that often they are carried out.
//! * `admin_socket`, `pid_file`, `log_file`: none of these files; the log goes to the error output.
//! * `log_flush_on_exit`: otherwise a daemon that ends at once may not have said why.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::{HttpRequest, HttpRequestBody};
use tokio::process::Command;
use tokio::time::timeout;

use crate::binary::{self, run};
use crate::http;
use crate::nodes::{Nodes, PortTaken, START_ATTEMPTS_MAX};
use crate::ports::{Port, free_ports};
use crate::process::Process;

/// All that is run, which lies in one directory.
const PROGRAMS: [&str; 7] =
    ["ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin"];

/// Who the gateway is to Ceph.
const GATEWAY: &str = "client.rgw.a";

/// The storage classes beside `STANDARD`. All are memory; it is the names that count.
const STORAGE_CLASSES: [&str; 2] = ["STANDARD_IA", "GLACIER"];

/// Who may do what with Ceph: the monitor, whoever administers it, the storage daemon, the gateway.
const RIGHTS: [(&str, &[&str]); 4] = [
    ("mon.", &["mon", "allow *"]),
    ("client.admin", &["mon", "allow *", "osd", "allow *", "mgr", "allow *"]),
    ("osd.0", &["mon", "allow profile osd", "osd", "allow *"]),
    (GATEWAY, &["mon", "allow rwx", "osd", "allow rwx"]),
];

/// The longest a probe waits for an answer, in milliseconds.
const PROBE_MS_MAX: u64 = 2_000;

/// The same for a probe of Ceph, in seconds: its client takes half a second to start.
const CEPH_PROBE_S_MAX: u64 = 5;

/// The longest a request may take, in milliseconds.
const REQUEST_MS_MAX: u64 = 30_000;

/// A running RADOS gateway with a Ceph of its own, killed when it is dropped.
pub struct RadosGw {
    // In the order in which they are killed.
    gateway: Nodes,
    storage: Nodes,
    monitor: Nodes,
    gateway_port: Port,
    monitor_port: Port,
    programs: PathBuf,
    day_s: Option<u32>,
}

impl RadosGw {
    /// The region that requests are signed for.
    pub const REGION: &str = "us-east-1";

    /// Starts one and waits until it answers.
    pub async fn start() -> Self {
        Self::start_as(None).await
    }

    /// The same, where a day is `day_s` seconds long to lifecycle rules: they are carried out that often. Otherwise
    /// they are once a night.
    pub async fn start_with_days_of(day_s: u32) -> Self {
        Self::start_as(Some(day_s)).await
    }

    async fn start_as(day_s: Option<u32>) -> Self {
        let programs = programs();
        for _ in 0..START_ATTEMPTS_MAX {
            let radosgw = Self::new(programs.clone(), day_s);
            if radosgw.start_all().await.is_ok() {
                return radosgw;
            }
        }
        panic!("the RADOS gateway found one of its ports taken, {START_ATTEMPTS_MAX} times over");
    }

    fn new(programs: PathBuf, day_s: Option<u32>) -> Self {
        let mut ports = free_ports(Ipv4Addr::LOCALHOST.into(), 2);
        Self {
            gateway: Nodes::new("radosgw", 1),
            storage: Nodes::new("ceph-osd", 1),
            monitor: Nodes::new("ceph-mon", 1),
            gateway_port: ports.pop().expect("two were asked for"),
            monitor_port: ports.pop().expect("two were asked for"),
            programs,
            day_s,
        }
    }

    /// Where it speaks S3.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.authority())
    }

    /// The name of the key of the one user, who may do everything.
    #[must_use]
    pub fn access_key(&self) -> &'static str {
        "tester"
    }

    /// The key itself.
    #[must_use]
    pub fn secret_key(&self) -> &'static str {
        "testers-secret"
    }

    /// Makes a bucket, of the one user.
    pub async fn create_bucket(&self, name: &str) {
        let made = self.request("PUT", &format!("/{name}"), "").await;
        made.unwrap_or_else(|error| panic!("cannot make the bucket {name}: {error}"));
    }

    /// What it answers to a request of the one user, such as `GET` of `/bucket?lifecycle`, if that is the status 200.
    pub async fn request(&self, method: &str, path: &str, body: &str) -> Result<String, String> {
        let answer = timeout(Duration::from_millis(REQUEST_MS_MAX), self.ask(method, path, body)).await;
        answer.unwrap_or_else(|_| Err(format!("no answer within {REQUEST_MS_MAX} ms")))
    }

    /// Kills the gateway and waits until it is gone. What is stored stays.
    pub fn kill(&self) {
        self.gateway.kill(0);
    }

    /// Starts the gateway after it was killed, on its old port, and waits until it answers.
    pub async fn restart(&self) {
        self.gateway.restart(0, |_| self.start_gateway(), async |_| self.answers().await).await;
    }

    /// Stops the gateway where it stands.
    pub fn pause(&self) {
        self.gateway.with(0, Process::pause);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.gateway.with(0, Process::resume);
    }

    fn authority(&self) -> String {
        self.gateway_port.address().to_string()
    }

    async fn start_all(&self) -> Result<(), PortTaken> {
        let storage_id = uuid();
        self.make_monitor().await;
        self.start_daemon(&self.monitor, "ceph-mon", "a");
        let new = ["osd", "new", &storage_id];
        self.monitor.ready(async |_| self.ask_ceph(&new).await.is_ok()).await?;

        self.run("ceph-osd", &["--id=0", "--mkfs", "--osd-uuid", &storage_id]).await;
        self.start_daemon(&self.storage, "ceph-osd", "0");
        self.storage.ready(async |_| self.stores().await).await?;

        self.make_user().await;
        self.start_gateway();
        self.gateway.ready(async |_| self.answers().await).await
    }

    /// Makes what the monitor starts from: the configuration, everybody's keys, and where it is.
    async fn make_monitor(&self) {
        let cluster = uuid();
        for directory in [&self.monitor, &self.storage].map(|nodes| nodes.data(0)) {
            fs::create_dir(directory).expect("a directory can be made");
        }
        fs::write(self.configuration_file(), self.configuration(&cluster)).expect("a file can be written");
        let (keys, map) = (self.file("keyring"), self.file("monmap"));
        for (index, (name, rights)) in RIGHTS.into_iter().enumerate() {
            let mut arguments = vec![keys.as_str(), "--gen-key", "--name", name];
            arguments.extend((index == 0).then_some("--create-keyring"));
            arguments.extend(rights.chunks(2).flat_map(|right| ["--cap", right[0], right[1]]));
            self.run("ceph-authtool", &arguments).await;
        }
        let address = self.monitor_address();
        self.run("monmaptool", &["--create", "--fsid", &cluster, "--addv", "a", &address, &map]).await;
        self.run("ceph-mon", &["--id=a", "--mkfs", "--monmap", &map, "--keyring", &keys]).await;
    }

    /// Makes the one user, and with the first thing that is done for the gateway, everything it keeps of itself.
    async fn make_user(&self) {
        let keys = ["--access-key", self.access_key(), "--secret-key", self.secret_key()];
        let user = [&["user", "create", "--uid=tester", "--display-name=tester"][..], &keys].concat();
        self.run("radosgw-admin", &user).await;
        for class in STORAGE_CLASSES {
            let add = ["placement", "add", "--placement-id=default-placement", "--storage-class", class];
            self.run("radosgw-admin", &[&["zonegroup", "--rgw-zonegroup=default"], &add[..]].concat()).await;
            let pool = format!("--data-pool=default.rgw.{class}.data");
            self.run("radosgw-admin", &[&["zone", "--rgw-zone=default"], &add[..], &[&pool]].concat()).await;
        }
    }

    fn configuration(&self, cluster: &str) -> String {
        let (monitor, keys) = (self.monitor_address(), self.file("keyring"));
        let [monitor_data, storage_data] =
            [&self.monitor, &self.storage].map(|nodes| nodes.data(0).display().to_string());
        let day = self.day_s.map_or(String::new(), |day_s| format!("rgw_lc_debug_interval = {day_s}\n"));
        format!(
            "[global]\n\
             fsid = {cluster}\nmon_host = {monitor}\npublic_addr = 127.0.0.1\nkeyring = {keys}\n\
             auth_allow_insecure_global_id_reclaim = false\n\
             admin_socket =\npid_file =\nlog_file =\nlog_to_stderr = true\nlog_flush_on_exit = true\n\
             paxos_propose_interval = 0.05\npaxos_min_wait = 0.01\n\
             mon_data_avail_crit = 1\nmon_allow_pool_size_one = true\nmon_max_pg_per_osd = 1000\n\
             osd_pool_default_size = 1\nosd_pool_default_min_size = 1\n\
             osd_pool_default_pg_num = 1\nosd_pool_default_pgp_num = 1\n\
             osd_pool_default_pg_autoscale_mode = off\nosd_crush_chooseleaf_type = 0\n\
             [mon.a]\nmon_data = {monitor_data}\n\
             [osd.0]\nosd_data = {storage_data}\nosd_objectstore = memstore\n\
             [{GATEWAY}]\nrgw_frontends = beast endpoint={}\nrgw_enable_usage_log = false\n{day}",
            self.authority()
        )
    }

    fn monitor_address(&self) -> String {
        format!("[v2:{}/0]", self.monitor_port.address())
    }

    fn configuration_file(&self) -> String {
        self.file("ceph.conf")
    }

    fn file(&self, name: &str) -> String {
        self.monitor.directory().join(name).display().to_string()
    }

    fn start_daemon(&self, nodes: &Nodes, program: &str, id: &str) {
        nodes.start(0, &self.programs.join(program), |daemon| {
            daemon.args(["--conf", &self.configuration_file(), "--id", id, "--foreground"]);
        });
    }

    fn start_gateway(&self) {
        self.gateway.start(0, &self.programs.join("radosgw"), |gateway| {
            gateway.args(["--conf", &self.configuration_file(), "--name", GATEWAY, "--foreground"]);
        });
    }

    async fn stores(&self) -> bool {
        let status = self.ask_ceph(&["osd", "stat", "--format=json"]).await;
        status.is_ok_and(|status| status.contains(r#""num_up_osds":1,"#))
    }

    async fn answers(&self) -> bool {
        let probe = timeout(Duration::from_millis(PROBE_MS_MAX), self.ask("GET", "/", "")).await;
        probe.is_ok_and(|answer| answer.is_ok())
    }

    async fn ask(&self, method: &str, path: &str, body: &str) -> Result<String, String> {
        let credential = AwsCredential {
            key_id: self.access_key().to_owned(),
            secret_key: self.secret_key().to_owned(),
            token: None,
        };
        let mut request = HttpRequest::new(HttpRequestBody::from(body.to_owned()));
        *request.method_mut() = method.parse().expect("it is a method");
        *request.uri_mut() = format!("{}{path}", self.endpoint()).parse().expect("it is a path");
        let signer = AwsAuthorizer::new(&credential, "s3", Self::REGION);
        signer.try_authorize(&mut request, None).expect("it can be signed");
        // The host is signed, too, and left to whoever sends it.
        let (host, length) = (self.authority(), body.len());
        let mut text = format!("{method} {path} HTTP/1.0\r\nHost: {host}\r\nContent-Length: {length}\r\n");
        for (name, value) in request.headers() {
            let value = value.to_str().expect("it is text");
            write!(text, "{name}: {value}\r\n").expect("a string takes it");
        }
        http::ask(&host, &format!("{text}\r\n{body}")).await
    }

    async fn ask_ceph(&self, arguments: &[&str]) -> Result<String, String> {
        let bound = format!("--connect-timeout={CEPH_PROBE_S_MAX}");
        run(self.command("ceph", &[&[bound.as_str()], arguments].concat())).await
    }

    async fn run(&self, program: &str, arguments: &[&str]) {
        let command = self.command(program, arguments);
        run(command).await.unwrap_or_else(|error| panic!("{program} {}: {error}", arguments.join(" ")));
    }

    /// Without the environment, as the daemons: they would take arguments from there, too.
    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.args(["--conf", &self.configuration_file()]).args(arguments);
        command
    }
}

/// The directory of Ceph's programs.
fn programs() -> PathBuf {
    let has_all = |directory: &PathBuf| PROGRAMS.iter().all(|program| directory.join(program).is_file());
    binary::directories("").into_iter().find(has_all).unwrap_or_else(|| {
        panic!(
            "there is no directory that has all of {}: `cargo xtask test` installs them, from the packages \
             ceph-mon, ceph-osd and radosgw of Debian 12",
            PROGRAMS.join(", ")
        )
    })
}

fn uuid() -> String {
    let uuid = fs::read_to_string(Path::new("/proc/sys/kernel/random/uuid"));
    uuid.expect("Linux has it").trim().to_owned()
}
