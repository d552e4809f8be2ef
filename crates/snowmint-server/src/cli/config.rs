//! `config check` and `config show`, and the flags they share with `serve`.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::CliError;
use crate::config::Setting;

/// What can be configured by flag. They are text here: the configuration knows what each may be.
#[derive(Debug, Args)]
pub(super) struct Flags {
    /// Configuration file, in TOML; otherwise the one that `SNOWMINT_CONFIG` names
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Where data is kept
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Which registry gives out workers: embedded, etcd://HOST:PORT,… or zookeeper://HOST:PORT,…/CHROOT
    #[arg(long, value_name = "URL")]
    registry: Option<String>,
    /// Which datacenter this node is in
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    datacenter: Option<String>,
    /// Which worker this node is; otherwise a free one
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    worker: Option<String>,
    /// How many workers this node is, each good for another 4,096 IDs a millisecond; otherwise one
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    workers: Option<String>,
    /// How the registry names this node; otherwise a name kept in the data directory
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Where REST is served; empty for nowhere
    #[arg(long, value_name = "ADDRESS")]
    http: Option<String>,
    /// Where gRPC is served; empty for nowhere
    #[arg(long, value_name = "ADDRESS")]
    grpc: Option<String>,
    /// Where RESP, the protocol of Redis, is served; empty for nowhere
    #[arg(long, value_name = "ADDRESS")]
    resp: Option<String>,
    /// Serve a routable address without TLS and keys
    #[arg(long)]
    insecure: bool,
}

impl Flags {
    /// Pairs of key and value.
    pub(super) fn values(&self) -> Vec<(&'static str, String)> {
        let insecure = self.insecure.then(|| "true".to_owned());
        [
            ("data_dir", &self.data_dir),
            ("registry", &self.registry),
            ("datacenter", &self.datacenter),
            ("worker", &self.worker),
            ("workers", &self.workers),
            ("node_name", &self.node_name),
            ("http.listen", &self.http),
            ("grpc.listen", &self.grpc),
            ("resp.listen", &self.resp),
            ("insecure", &insecure),
        ]
        .into_iter()
        .filter_map(|(key, value)| value.clone().map(|value| (key, value)))
        .collect()
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Say whether the configuration is right, and what is wrong
    Check(Flags),
    /// Print every key with its value and where that came from
    Show {
        #[command(flatten)]
        flags: Flags,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(command: &Command, out: &mut dyn Write) -> Result<(), CliError> {
    match command {
        Command::Check(flags) => {
            flags.load()?;
            writeln!(out, "the configuration is right")?;
        }
        Command::Show { flags, json: true } => {
            let settings = flags.load()?.settings().map(as_json).collect::<Map<_, _>>();
            writeln!(out, "{:#}", Value::from(settings))?;
        }
        Command::Show { flags, json: false } => show(flags.load()?.settings(), out)?,
    }
    Ok(())
}

fn as_json(setting: Setting) -> (String, Value) {
    let Setting { key, value, origin } = setting;
    (key, json!({ "value": value, "origin": origin.to_string() }))
}

/// Writes lines that are themselves a configuration file.
fn show(settings: impl Iterator<Item = Setting>, out: &mut dyn Write) -> Result<(), CliError> {
    let lines: Vec<_> = settings
        .map(|Setting { key, value, origin }| match value {
            Value::Null => (format!("# {key} is unset"), origin),
            value => (format!("{key} = {value}"), origin),
        })
        .collect();
    let width = lines.iter().map(|(line, _)| line.chars().count()).max().unwrap_or_default();
    for (line, origin) in lines {
        writeln!(out, "{line:width$}  # {origin}")?;
    }
    Ok(())
}
