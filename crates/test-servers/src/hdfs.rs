//! HDFS: a NameNode and a DataNode.
//!
//! They are Hadoop 2.7, from the jars of the PyPI package `pyspark`. What does not explain itself in how they are
//! started:
//!
//! * `--add-opens`, `--add-exports`: this Hadoop is older than the modules of Java, and looks into them.
//! * `hadoop.security.group.mapping`: otherwise a library is looked for that the jars have not.
//! * The file `web.xml` of each web application: without it the daemons would not start, and the jars have none.
//! * `dfs.webhdfs.enabled`: what serves that is not among the jars.
//! * `dfs.namenode.safemode.extension`: otherwise a NameNode that has found all its blocks stays read-only for
//!   another 30 s.
//! * `dfs.namenode.fs-limits.min-block-size`: otherwise a block, and with it the smallest file that has two, is 1 MB.
//! * `java.io.tmpdir`: what the web server unpacks would stay in the directory for temporary files after a kill.
//! * The log names no more than the first lines of an exception, so that its end shows the cause.
//! * `UseSerialGC`, `TieredStopAtLevel=1`, `-UsePerfData`: as for `ZooKeeper`.
//!
//! All else is left as it is.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use crate::binary::{self, run};
use crate::http;
use crate::nodes::{Nodes, PortTaken, START_ATTEMPTS_MAX};
use crate::ports::{Port, free_ports};
use crate::process::Process;

/// Where the jars are, below the directory of tools.
const JARS: &str = "hadoop-2.7";

const NAME_NODE: &str = "org.apache.hadoop.hdfs.server.namenode.NameNode";

const DATA_NODE: &str = "org.apache.hadoop.hdfs.server.datanode.DataNode";

/// What makes a small Java machine.
const JAVA_FLAGS: [&str; 4] = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"];

/// What Hadoop looks into.
const OPEN: [&str; 8] = [
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
    "--add-opens=java.base/java.util=ALL-UNNAMED",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/java.io=ALL-UNNAMED",
    "--add-opens=java.base/java.net=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.security.jgss/sun.security.krb5=ALL-UNNAMED",
    "--add-exports=java.security.jgss/sun.security.krb5=ALL-UNNAMED",
];

const LOGGING: &str = "log4j.rootLogger=WARN,console\n\
    log4j.appender.console=org.apache.log4j.ConsoleAppender\n\
    log4j.appender.console.target=System.err\n\
    log4j.appender.console.layout=org.apache.log4j.EnhancedPatternLayout\n\
    log4j.appender.console.layout.ConversionPattern=%d{HH:mm:ss.SSS} %p %c{1}: %m%n%throwable{2}\n";

const WEB_APPLICATION: &str = r#"<web-app version="2.4" xmlns="http://java.sun.com/xml/ns/j2ee"/>"#;

/// The longest a probe waits for an answer, in milliseconds.
const PROBE_MS_MAX: u64 = 2_000;

/// A running HDFS, killed when it is dropped.
pub struct Hdfs {
    name_node: Nodes,
    data_node: Nodes,
    ports: Vec<Port>,
    jars: PathBuf,
}

impl Hdfs {
    /// Starts one and waits until files can be written.
    pub async fn start() -> Self {
        let jars = jars();
        for _ in 0..START_ATTEMPTS_MAX {
            let hdfs = Self::new(jars.clone());
            hdfs.format().await;
            if hdfs.start_both().await.is_ok() {
                return hdfs;
            }
        }
        panic!("HDFS found one of its ports taken, {START_ATTEMPTS_MAX} times over");
    }

    fn new(jars: PathBuf) -> Self {
        let hdfs = Self {
            name_node: Nodes::new("the NameNode of HDFS", 1),
            data_node: Nodes::new("the DataNode of HDFS", 1),
            ports: free_ports(Ipv4Addr::LOCALHOST.into(), 5),
            jars,
        };
        let configuration = hdfs.configuration();
        for application in ["hdfs", "datanode", "secondary"] {
            let directory = configuration.join("webapps").join(application).join("WEB-INF");
            fs::create_dir_all(&directory).expect("a directory can be made");
            fs::write(directory.join("web.xml"), WEB_APPLICATION).expect("a file can be written");
        }
        for (file, text) in [
            ("core-site.xml", hdfs.core_site()),
            ("hdfs-site.xml", hdfs.hdfs_site()),
            ("log4j.properties", LOGGING.to_owned()),
        ] {
            fs::write(configuration.join(file), text).expect("a file can be written");
        }
        hdfs
    }

    /// Where it is, `hdfs://host:port`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("hdfs://{}", self.name_node_address())
    }

    /// Kills both daemons and waits until they are gone. What is stored stays.
    pub fn kill(&self) {
        self.name_node.kill(0);
        self.data_node.kill(0);
    }

    /// Starts both after they were killed, on their old data and ports, and waits until files can be written.
    pub async fn restart(&self) {
        let serves = async |_| self.serves().await;
        self.name_node.restart(0, |_| self.start_name_node(), serves).await;
        let answers = async |_| self.answers().await;
        self.data_node.restart(0, |_| self.start_data_node(), answers).await;
    }

    /// Stops both where they stand.
    pub fn pause(&self) {
        self.name_node.with(0, Process::pause);
        self.data_node.with(0, Process::pause);
    }

    /// Lets both go on.
    pub fn resume(&self) {
        self.name_node.with(0, Process::resume);
        self.data_node.with(0, Process::resume);
    }

    fn name_node_address(&self) -> String {
        self.ports[0].address().to_string()
    }

    fn name_node_status(&self) -> String {
        self.ports[1].address().to_string()
    }

    fn configuration(&self) -> PathBuf {
        self.name_node.directory().join("conf")
    }

    fn core_site(&self) -> String {
        let directory = self.name_node.directory().display().to_string();
        site(&[
            ("fs.defaultFS", &self.url()),
            ("hadoop.tmp.dir", &directory),
            ("hadoop.security.group.mapping", "org.apache.hadoop.security.ShellBasedUnixGroupsMapping"),
        ])
    }

    fn hdfs_site(&self) -> String {
        let [names, data] =
            [&self.name_node, &self.data_node].map(|nodes| format!("file://{}", nodes.data(0).display()));
        let address = |port: usize| self.ports[port].address().to_string();
        site(&[
            ("dfs.replication", "1"),
            ("dfs.namenode.name.dir", &names),
            ("dfs.datanode.data.dir", &data),
            ("dfs.namenode.http-address", &self.name_node_status()),
            ("dfs.datanode.address", &address(2)),
            ("dfs.datanode.http.address", &address(3)),
            ("dfs.datanode.ipc.address", &address(4)),
            ("dfs.namenode.datanode.registration.ip-hostname-check", "false"),
            ("dfs.webhdfs.enabled", "false"),
            ("dfs.namenode.safemode.extension", "0"),
            ("dfs.namenode.fs-limits.min-block-size", "0"),
        ])
    }

    /// Makes the NameNode's directory.
    async fn format(&self) {
        let mut java = Command::new("java");
        java.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        java.args(self.java_arguments()).args([NAME_NODE, "-format", "-nonInteractive"]);
        run(java).await.unwrap_or_else(|error| panic!("cannot format the NameNode of HDFS: {error}"));
    }

    fn start_name_node(&self) {
        self.name_node.start(0, Path::new("java"), |java| {
            java.args(self.java_arguments()).arg(NAME_NODE);
        });
    }

    fn start_data_node(&self) {
        self.data_node.start(0, Path::new("java"), |java| {
            java.args(self.java_arguments()).arg(DATA_NODE);
        });
    }

    fn java_arguments(&self) -> Vec<String> {
        let (directory, configuration) = (self.name_node.directory().display(), self.configuration());
        let configuration = configuration.display();
        let mut arguments: Vec<String> = JAVA_FLAGS.into_iter().chain(OPEN).map(str::to_owned).collect();
        arguments.extend([
            format!("-Djava.io.tmpdir={directory}"),
            format!("-Dhadoop.log.dir={directory}"),
            format!("-Dlog4j.configuration=file:{configuration}/log4j.properties"),
            "-cp".to_owned(),
            format!("{configuration}:{}/*", self.jars.display()),
        ]);
        arguments
    }

    async fn start_both(&self) -> Result<(), PortTaken> {
        self.start_name_node();
        self.start_data_node();
        self.name_node.ready(async |_| self.serves().await).await?;
        self.data_node.ready(async |_| self.answers().await).await
    }

    /// Whether the NameNode serves: it says so once it has its port.
    async fn serves(&self) -> bool {
        self.status("NameNodeStatus").await.contains(r#""State" : "active""#)
    }

    /// Whether it has found all blocks, and somebody to write to.
    async fn answers(&self) -> bool {
        let state = self.status("FSNamesystemState").await;
        state.contains(r#""FSState" : "Operational""#) && state.contains(r#""NumLiveDataNodes" : 1,"#)
    }

    /// What the NameNode says of itself; nothing if it does not.
    async fn status(&self, part: &str) -> String {
        let request = format!("GET /jmx?qry=Hadoop:service=NameNode,name={part} HTTP/1.0\r\n\r\n");
        let address = self.name_node_status();
        let probe = timeout(Duration::from_millis(PROBE_MS_MAX), http::ask(&address, &request)).await;
        probe.ok().and_then(Result::ok).unwrap_or_default()
    }
}

/// A file of Hadoop's configuration.
fn site(properties: &[(&str, &str)]) -> String {
    let property = |(name, value): &(&str, &str)| {
        format!("<property><name>{name}</name><value>{value}</value></property>\n")
    };
    format!("<configuration>\n{}</configuration>\n", properties.iter().map(property).collect::<String>())
}

/// The directory of the jars.
fn jars() -> PathBuf {
    let directory = binary::directories(JARS).into_iter().next().filter(|directory| directory.is_dir());
    directory.unwrap_or_else(|| {
        panic!(
            "there are no jars of Hadoop 2.7: `cargo xtask test` installs them, from the PyPI package pyspark"
        )
    })
}
