//! The command line: what can be asked for, how results are written, and what the exit codes are.
//!
//! Results go to standard output, everything else to standard error.

mod audit;
mod backup;
mod bench;
mod cluster;
mod config;
mod id;
mod load;
mod parse;
mod plot;
mod report;
mod schema;
mod server;
mod server_url;

use std::error::Error;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Parser, Subcommand};
use comfy_table::{Table, presets};
use jiff::Timestamp;
use snowmint::Format;

use crate::audit::AuditError;
use crate::audit::lifecycle::AgesError;
use crate::backup::BackupError;
use crate::clickhouse::ClickHouseError;
use crate::config::{ConfigError, Loaded};
use crate::objects::ObjectsError;
use crate::serve::{self, ServeError};
use cluster::ClusterError;
use load::LoadError;
use server::ServerError;

/// Where a server is looked for.
const DEFAULT_SERVER: &str = "http://127.0.0.1:8080";

const EXIT_FAILED: u8 = 1;
const EXIT_USAGE: u8 = 2;

/// Mints 64-bit, time-ordered IDs that are never given twice
#[derive(Debug, Parser)]
#[command(name = "snowmint", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service
    Serve(config::Flags),
    /// Get IDs from a server, one a line
    Id(id::Arguments),
    /// Say what IDs are made of, in whichever form they are written; needs no server
    Parse(parse::Arguments),
    /// Look at the configuration that `serve` would have
    #[command(subcommand)]
    Config(config::Command),
    /// Look at the nodes of a cluster, change what they share, and take slots from them
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// Make and look after the tables in ClickHouse
    #[command(subcommand)]
    Schema(schema::Command),
    /// Say how long the tables in ClickHouse keep what they are given
    #[command(subcommand)]
    Retention(schema::RetentionCommand),
    /// Keep what is in ClickHouse elsewhere too, and put it back
    #[command(subcommand)]
    Backup(backup::Command),
    /// Prove from the archive that no ID was issued twice, see who got an ID, and say how long records are kept
    #[command(subcommand)]
    Audit(audit::Command),
    /// Print what was issued, how fast, and what went wrong: a table and a plot
    Report(report::Arguments),
    /// Load a server, and check every ID received for duplicates
    Bench(bench::Arguments),
}

impl Command {
    fn run(self, out: &mut dyn Write) -> Result<(), CliError> {
        match self {
            Self::Serve(flags) => Ok(serve::run(&flags.load()?)?),
            Self::Id(arguments) => id::run(&arguments, out),
            Self::Parse(arguments) => parse::run(&arguments, out),
            Self::Config(command) => config::run(&command, out),
            Self::Cluster(command) => cluster::run(&command, out),
            Self::Schema(command) => schema::run(&command, out),
            Self::Retention(command) => schema::run_retention(&command, out),
            Self::Backup(command) => backup::run(&command, out),
            Self::Audit(command) => audit::run(&command, out),
            Self::Report(arguments) => report::run(&arguments, out),
            Self::Bench(arguments) => bench::run(&arguments, out),
        }
    }
}

/// Does what the process was asked to do.
#[must_use]
pub fn run() -> ExitCode {
    let command = Cli::parse().command;
    // Not locked: the service may write too.
    let mut out = io::BufWriter::new(io::stdout());
    let done = command.run(&mut out);
    let done = done.and(out.flush().map_err(CliError::Output));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.report();
            ExitCode::from(error.exit_code())
        }
    }
}

/// Why a command did not do what it should.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    ClickHouse(#[from] ClickHouseError),
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    #[error(transparent)]
    Backup(#[from] BackupError),
    #[error(transparent)]
    Audit(AuditError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("cannot start")]
    Runtime(#[source] io::Error),
    #[error("cannot write the result")]
    Output(#[from] io::Error),
    /// Each has a message of its own.
    #[error("some are no IDs")]
    NoIds(Vec<parse::NoId>),
    #[error("{count} IDs came more than once, among them {examples:?}")]
    Duplicates { count: u64, examples: Vec<u64> },
    #[error(transparent)]
    Ages(#[from] AgesError),
    #[error("audit.url is off, so there is no archive: say which with --archive URL")]
    NoArchive,
    #[error("the archive proves nothing: {findings} findings")]
    NotProven { findings: u64 },
    /// Each is told.
    #[error("some of the archive cannot be read")]
    Unread(Vec<String>),
    #[error(
        "there is no such record in the {objects} objects that could have it, in the archive or waiting for it: \
         one comes there about a second after its answer"
    )]
    NoRecord { objects: u64 },
    #[error("no request was answered with success")]
    NoAnswer,
}

impl CliError {
    fn report(&self) {
        match self {
            _ if self.is_unread() => {}
            Self::NoIds(errors) => errors.iter().for_each(|error| report(error)),
            Self::Unread(problems) => {
                for problem in problems {
                    let _ = writeln!(io::stderr(), "error: {problem}");
                }
            }
            error => report(error),
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            _ if self.is_unread() => 0,
            Self::Config(_)
            | Self::Ages(_)
            | Self::NoArchive
            | Self::ClickHouse(ClickHouseError::NotConfigured | ClickHouseError::UnknownTable { .. })
            | Self::Cluster(
                ClusterError::UnknownKey { .. } | ClusterError::Immutable { .. } | ClusterError::Value { .. },
            ) => EXIT_USAGE,
            _ => EXIT_FAILED,
        }
    }

    /// Whoever read the output has had enough, as in `snowmint id -n 1000000 | head`.
    fn is_unread(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// Whoever read the output may have had enough here, too.
impl From<AuditError> for CliError {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::Output(error) => Self::Output(error),
            error => Self::Audit(error),
        }
    }
}

/// Writes an error and its causes in one line. Some errors have their source in their own text.
fn report(error: &dyn Error) {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let more = source.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = source.source();
    }
    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "error: {}", text.trim_end());
}

impl config::Flags {
    fn load(&self) -> Result<Loaded, ConfigError> {
        Loaded::load(self.config.as_deref(), crate::config::environment(), &self.values())
    }
}

/// Runs a command that talks to a server. One thread is enough for one conversation.
fn block_on<T>(work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::Runtime)?;
    runtime.block_on(work)
}

fn format_parser() -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new(Format::ALL.map(Format::name)).try_map(|name| name.parse::<Format>())
}

/// A table without lines, for people and for `awk`.
fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().copied());
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

fn write_table(out: &mut dyn Write, table: &Table) -> io::Result<()> {
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// A Unix time in milliseconds as ISO 8601.
fn iso(timestamp_ms: u64) -> String {
    i64::try_from(timestamp_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).map_or_else(
        || format!("{timestamp_ms} ms, past the year 9999"),
        |timestamp| format!("{timestamp:.3}"),
    )
}

/// A time as ISO 8601, to the second.
fn iso_time(time: Timestamp) -> String {
    format!("{time:.0}")
}

/// What may be missing.
fn or_dash(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}
