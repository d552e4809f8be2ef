//! ClickHouse.
//!
//! Where there is a `clickhouse-server`, that is started. Elsewhere its library is, which has the same HTTP and TCP
//! servers: it comes in an npm package, and a few lines of Python start it. What it has not is replication and
//! `BACKUP`. With [`URL_VARIABLE`] set, a server that is running already is used: it is not killed, so that tests which
//! do that fail.

use std::env;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::binary;
use crate::http;
use crate::nodes::{Nodes, PortTaken, START_ATTEMPTS_MAX};
use crate::ports::{Port, free_ports};
use crate::process::Process;

/// Names a server to be used instead of one that is started, as `http://host:port`.
pub const URL_VARIABLE: &str = "SNOWMINT_TEST_CLICKHOUSE_URL";

/// Where the npm package has the library, below the directory of tools.
const LIBRARY: &str = "chdb/node_modules/@chdb/lib-linux-x64-gnu/libchdb.so";

/// What starts its servers.
const SCRIPT: &str = include_str!("clickhouse_server.py");

/// The longest a query may take, in milliseconds.
const QUERY_MS_MAX: u64 = 60_000;

/// The longest a probe waits for an answer, in milliseconds.
const PROBE_MS_MAX: u64 = 2_000;

/// A running ClickHouse, killed when it is dropped.
pub struct ClickHouse {
    authority: String,
    /// Nothing where somebody else runs it.
    own: Option<Own>,
}

struct Own {
    nodes: Nodes,
    ports: Vec<Port>,
    program: Program,
}

#[derive(Clone)]
enum Program {
    Server(PathBuf),
    Library { python: PathBuf, library: PathBuf },
}

impl ClickHouse {
    /// The name and the password of a user, beside `default`, who needs none.
    pub const USER: (&'static str, &'static str) = ("tester", "secret");

    /// Starts one and waits until it answers.
    pub async fn start() -> Self {
        if let Ok(url) = env::var(URL_VARIABLE) {
            let authority = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
            return Self { authority, own: None };
        }
        let program = Program::find();
        for _ in 0..START_ATTEMPTS_MAX {
            let own = Own::new(program.clone());
            own.start_process();
            let authority = own.ports[0].address().to_string();
            let clickhouse = Self { authority, own: Some(own) };
            if clickhouse.ready().await.is_ok() {
                return clickhouse;
            }
        }
        panic!("ClickHouse found one of its ports taken, {START_ATTEMPTS_MAX} times over");
    }

    /// Where it speaks HTTP.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.authority)
    }

    /// What it answers to a query, which has to succeed.
    pub async fn query(&self, sql: &str) -> String {
        self.try_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The same, where it may fail: the error is what it says then.
    pub async fn try_query(&self, sql: &str) -> Result<String, String> {
        let answer = tokio::time::timeout(Duration::from_millis(QUERY_MS_MAX), self.ask(sql)).await;
        answer.unwrap_or_else(|_| Err(format!("no answer within {QUERY_MS_MAX} ms")))
    }

    /// Kills it and waits until it is gone. Its data stays.
    pub fn kill(&self) {
        self.own().nodes.kill(0);
    }

    /// Starts it after it was killed, on its old data and ports, and waits until it answers.
    pub async fn restart(&self) {
        let own = self.own();
        let answers = async |_| self.answers().await;
        own.nodes.restart(0, |_| own.start_process(), answers).await;
    }

    /// Stops it where it stands.
    pub fn pause(&self) {
        self.own().nodes.with(0, Process::pause);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.own().nodes.with(0, Process::resume);
    }

    fn own(&self) -> &Own {
        self.own
            .as_ref()
            .unwrap_or_else(|| panic!("the server that {URL_VARIABLE} names is not ours to stop"))
    }

    async fn ready(&self) -> Result<(), PortTaken> {
        self.own().nodes.ready(async |_| self.answers().await).await
    }

    async fn answers(&self) -> bool {
        let probe = tokio::time::timeout(Duration::from_millis(PROBE_MS_MAX), self.ask("SELECT 1")).await;
        probe.is_ok_and(|answer| answer.is_ok())
    }

    async fn ask(&self, sql: &str) -> Result<String, String> {
        let request = format!(
            "POST / HTTP/1.0\r\nHost: {}\r\nContent-Length: {}\r\n\r\n{sql}",
            self.authority,
            sql.len()
        );
        http::ask(&self.authority, &request).await
    }
}

impl Own {
    fn new(program: Program) -> Self {
        let own = Self {
            nodes: Nodes::new("ClickHouse", 1),
            ports: free_ports(Ipv4Addr::LOCALHOST.into(), 2),
            program,
        };
        fs::create_dir_all(own.nodes.data(0)).expect("a directory can be made");
        for (file, text) in
            [(own.config(), own.configuration()), (own.users(), users()), (own.script(), SCRIPT.to_owned())]
        {
            fs::write(file, text).expect("a file can be written");
        }
        own
    }

    fn config(&self) -> PathBuf {
        self.nodes.directory().join("config.xml")
    }

    fn users(&self) -> PathBuf {
        self.nodes.directory().join("users.xml")
    }

    fn script(&self) -> PathBuf {
        self.nodes.directory().join("clickhouse_server.py")
    }

    fn configuration(&self) -> String {
        let [http, tcp] = [&self.ports[0], &self.ports[1]].map(|port| port.address().port());
        let (data, users) = (self.nodes.data(0), self.users());
        format!(
            "<clickhouse>\n\
             <logger><level>warning</level><console>1</console></logger>\n\
             <listen_host>127.0.0.1</listen_host><http_port>{http}</http_port><tcp_port>{tcp}</tcp_port>\n\
             <path>{}/</path>\n\
             <user_directories><users_xml><path>{}</path></users_xml></user_directories>\n\
             </clickhouse>\n",
            data.display(),
            users.display()
        )
    }

    fn start_process(&self) {
        match &self.program {
            Program::Server(server) => self.nodes.start(0, server, |command| {
                command.arg("--config-file").arg(self.config());
            }),
            Program::Library { python, library } => self.nodes.start(0, python, |command| {
                command.arg(self.script()).arg(library).arg(self.config()).arg(self.nodes.data(0));
                command.args(self.ports.iter().map(|port| port.address().port().to_string()));
            }),
        }
    }
}

impl Program {
    fn find() -> Self {
        let file = |tool: &str, name: &str| {
            binary::directories(tool)
                .into_iter()
                .map(|directory| directory.join(name))
                .find(|path| path.is_file())
        };
        if let Some(server) = file("", "clickhouse-server") {
            return Self::Server(server);
        }
        let (directory, name) = LIBRARY.rsplit_once('/').expect("it is a path");
        match (file("", "python3"), file(directory, name)) {
            (Some(python), Some(library)) => Self::Library { python, library },
            _ => panic!(
                "there is neither a clickhouse-server nor {} with a python3: `cargo xtask test` installs them, the \
                 library from the npm package @chdb/lib-linux-x64-gnu",
                Path::new(LIBRARY).file_name().expect("it has a name").display()
            ),
        }
    }
}

fn users() -> String {
    let (name, password) = ClickHouse::USER;
    let rights = "<networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota>";
    format!(
        "<clickhouse>\n\
         <profiles><default/></profiles><quotas><default/></quotas>\n\
         <users>\n\
         <default><password></password>{rights}<access_management>1</access_management></default>\n\
         <{name}><password>{password}</password>{rights}</{name}>\n\
         </users>\n\
         </clickhouse>\n"
    )
}
