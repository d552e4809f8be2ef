//! The servers that are compared, each started on the servers' core, on free ports and with a directory of its own.

use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;
use xshell::{Shell, cmd};

use crate::bench::http_server::{Server, free_address};
use crate::bench::load::SERVER_CORE;
use crate::bench::{http, pin};
use crate::install::{self, Brings, Package};
use crate::tools::{on_path, step};

#[rustfmt::skip]
const REDIS: [Package; 2] = [
    Package { name: "redis-server", brings: Brings::Program("redis-server"), purpose: "a peer" },
    Package { name: "redis-tools", brings: Brings::Program("redis-benchmark"), purpose: "loading what speaks RESP" },
];
/// Where Debian has them.
pub(super) const POSTGRES_PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
#[rustfmt::skip]
const POSTGRES: [Package; 1] = [
    Package { name: "postgresql-15", brings: Brings::File("/usr/lib/postgresql/15/bin/initdb"), purpose: "a peer" },
];
/// `PostgreSQL` does not run as root: then it runs as this user, who is on every system.
const NOBODY_ID: u32 = 65534;
/// A user of the database.
pub(super) const POSTGRES_USER: &str = "postgres";
const FERROID: &str = "ferroid-tonic-server@2.0.0";
#[rustfmt::skip]
const PROTOC: [Package; 1] = [
    Package { name: "protobuf-compiler", brings: Brings::Program("protoc"), purpose: "building ferroid-tonic-server" },
];

/// Slots of snowmint, workers of ferroid: enough for the format not to be the limit.
pub(super) const WORKERS: &str = "32";

/// What a server is, and how it is set up.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Snowmint { front: Front, journal: &'static str, workers: &'static str },
    Redis,
    Postgres { cache: u32 },
    Ferroid { ids_per_chunk: u32 },
    BareHyper,
}

/// What of snowmint is loaded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Front {
    Http,
    Grpc,
    Resp,
}

/// Where the programs are.
pub(super) struct Programs {
    /// What this workspace builds.
    pub(super) dist: PathBuf,
    /// What others have built, below the target directory.
    pub(super) tools: PathBuf,
}

/// A server that runs until it is dropped.
pub(super) struct Running {
    // Before its directory, so that it is gone first.
    pub(super) server: Server,
    /// Where it is loaded.
    pub(super) at: SocketAddr,
    _directory: TempDir,
}

impl Kind {
    /// Installs what is not ours, unless it is there.
    pub(super) fn install(self, shell: &Shell, programs: &Programs) -> Result<()> {
        match self {
            Self::Snowmint { front: Front::Resp, .. } | Self::Redis => install::packages(shell, &REDIS),
            Self::Postgres { .. } => install::packages(shell, &POSTGRES),
            Self::Ferroid { .. } if !programs.ferroid().exists() => install_ferroid(shell, programs),
            Self::Snowmint { .. } | Self::BareHyper | Self::Ferroid { .. } => Ok(()),
        }
    }

    pub(super) fn start(self, shell: &Shell, programs: &Programs) -> Result<Running> {
        let directory = TempDir::new()?;
        let at = free_address()?;
        let server = match self {
            Self::Snowmint { front, journal, workers } => {
                start_snowmint(programs, directory.path(), (front, at), journal, workers)
            }
            Self::Redis => start_redis(directory.path(), at),
            Self::Postgres { cache } => start_postgres(shell, directory.path(), at, cache),
            Self::Ferroid { ids_per_chunk } => start_ferroid(programs, at, ids_per_chunk),
            Self::BareHyper => start_bare(shell, programs),
        };
        Ok(Running { server: server?, at, _directory: directory })
    }
}

impl Programs {
    pub(super) fn example(&self, name: &str) -> PathBuf {
        self.dist.join("examples").join(name)
    }

    fn ferroid(&self) -> PathBuf {
        self.tools.join("ferroid-tonic-server/bin/ferroid-tonic-server")
    }
}

/// Optimized as the profile `dist` is.
fn install_ferroid(shell: &Shell, programs: &Programs) -> Result<()> {
    install::packages(shell, &PROTOC)?;
    let root = programs.tools.join("ferroid-tonic-server");
    step("install ferroid-tonic-server", || {
        Ok(cmd!(shell, "cargo install {FERROID} --locked --root {root}")
            .env("CARGO_PROFILE_RELEASE_LTO", "fat")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
            .run()?)
    })
}

fn start_snowmint(
    programs: &Programs,
    data_dir: &Path,
    (front, at): (Front, SocketAddr),
    journal: &str,
    workers: &str,
) -> Result<Server> {
    // HTTP is always there: it is asked whether the server is ready.
    let http = if front == Front::Http { at } else { free_address()? };
    let listen = |asked: Front| if front == asked { at.to_string() } else { String::new() };
    let program = programs.dist.join("snowmint").display().to_string();
    let data_dir = data_dir.display().to_string();
    let command = pinned([program.as_str(), "serve", "--data-dir", &data_dir, "--workers", workers])?;
    let environment = [
        ("SNOWMINT_HTTP__LISTEN", http.to_string()),
        ("SNOWMINT_GRPC__LISTEN", listen(Front::Grpc)),
        ("SNOWMINT_RESP__LISTEN", listen(Front::Resp)),
        ("SNOWMINT_JOURNAL__DURABILITY", journal.to_owned()),
        ("SNOWMINT_LOG__LEVEL", "error".to_owned()),
    ];
    let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Server::start(&command, &environment, http, "/readyz")
}

/// With nothing written down.
fn start_redis(directory: &Path, at: SocketAddr) -> Result<Server> {
    let (ip, port) = (at.ip().to_string(), at.port().to_string());
    let directory = directory.display().to_string();
    let silent = ["--save", "", "--appendonly", "no", "--loglevel", "warning"];
    let mut command = pinned(["redis-server", "--bind", &ip, "--port", &port, "--dir", &directory])?;
    command.extend(silent.map(str::to_owned));
    Server::start_listener(&command, at)
}

/// As it is by default, with a sequence of which each connection keeps `cache` values.
fn start_postgres(shell: &Shell, directory: &Path, at: SocketAddr, cache: u32) -> Result<Server> {
    let program = |name: &str| format!("{POSTGRES_PROGRAMS}/{name}");
    let user = unprivileged(shell, directory)?;
    let data = directory.join("data").display().to_string();
    let initdb = [&user[..], &[program("initdb"), "--no-sync".into(), "--auth=trust".into()]].concat();
    let (first, initdb) = initdb.split_first().context("a command has a program")?;
    cmd!(shell, "{first} {initdb...} --username {POSTGRES_USER} --pgdata {data}")
        .quiet()
        .ignore_stdout()
        .run()?;
    let (ip, port) = (at.ip().to_string(), at.port().to_string());
    let postgres =
        [program("postgres"), "-D".into(), data, "-h".into(), ip.clone(), "-p".into(), port.clone()];
    let sockets = ["-k".to_owned(), directory.display().to_string()];
    // It tells of every start and stop: in a file, not here.
    let log = ["-c", "logging_collector=on", "-c", "log_min_messages=fatal"].map(str::to_owned);
    let command = [pin(SERVER_CORE)?, user, postgres.into(), sockets.into(), log.into()].concat();
    let ready = program("pg_isready");
    let server = Server::start_until(&command, &[], at, |_| {
        cmd!(shell, "{ready} --quiet --host {ip} --port {port}").quiet().run().is_ok()
    })?;
    let psql = program("psql");
    let create = format!("create sequence s cache {cache}");
    cmd!(shell, "{psql} --quiet --host {ip} --port {port} --username {POSTGRES_USER} --command {create}")
        .quiet()
        .run()?;
    Ok(server)
}

/// What runs a program as a user who may do nothing, and has the directory; nothing where this is such a user.
fn unprivileged(shell: &Shell, directory: &Path) -> Result<Vec<String>> {
    if cmd!(shell, "id -u").quiet().read()? != "0" {
        return Ok(Vec::new());
    }
    chown(directory, Some(NOBODY_ID), Some(NOBODY_ID))?;
    let setpriv = on_path("setpriv").context("setpriv (util-linux) is needed to run PostgreSQL as root")?;
    let id = NOBODY_ID.to_string();
    // Another user's process forgets what it was told to do when this one ends: it is told again.
    let flags = ["--reuid", &id, "--regid", &id, "--clear-groups", "--pdeathsig", "INT"];
    Ok([setpriv.display().to_string()].into_iter().chain(flags.map(str::to_owned)).collect())
}

fn start_ferroid(programs: &Programs, at: SocketAddr, ids_per_chunk: u32) -> Result<Server> {
    let program = programs.ferroid().display().to_string();
    let (address, chunk) = (at.to_string(), ids_per_chunk.to_string());
    let flags = ["--num-workers", WORKERS, "--ids-per-chunk", &chunk, "--server-addr", &address];
    let command = pinned([program.as_str()].into_iter().chain(flags))?;
    Server::start_listener(&command, at)
}

/// With an answer of snowmint as its constant.
fn start_bare(shell: &Shell, programs: &Programs) -> Result<Server> {
    let kind = Kind::Snowmint { front: Front::Http, journal: "off", workers: "1" };
    let ours = kind.start(shell, programs)?;
    Ok(http::start_bare(&programs.example("bare_hyper"), &ours.server)?.server)
}

fn pinned<'a>(command: impl IntoIterator<Item = &'a str>) -> Result<Vec<String>> {
    let mut whole = pin(SERVER_CORE)?;
    whole.extend(command.into_iter().map(str::to_owned));
    Ok(whole)
}
