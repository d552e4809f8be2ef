//! `cluster`: what the registry has, and the few things that are changed by hand.
//!
//! It talks to the registry itself, so that it works while no node does; `status` can also ask a node, which
//! knows what the registry last said while that is away.

use std::io::{self, Write};
use std::sync::Arc;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use snowmint::Slot;

use super::server::Server;
use super::server_url::ServerUrl;
use super::{CliError, block_on, iso, or_dash, table, write_table};
use crate::cluster::Cluster;
use crate::config::{self, Config, NAME_BYTES_MAX};
use crate::registry::{Namespace, Registry, RegistryError, Retired, Setting, SwapError, timestamp};
use crate::serve;

/// How often giving a slot back is tried anew because its holder extended it just then.
const RETIRE_TRIES_MAX: u32 = 5;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print the datacenters, workers, windows and retired workers that the registry has
    Status {
        #[command(flatten)]
        place: Place,
        /// Ask this node instead of the registry
        #[arg(long, value_name = "URL", conflicts_with_all = ["config", "data_dir", "registry"])]
        server: Option<ServerUrl>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Look at the settings all nodes share, or change one
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Take a worker slot from whoever holds it, as if it had been given back
    ///
    /// A holder that is alive is told when it next extends its window, drops the slot and takes another. No ID
    /// comes twice: the next holder starts where this one's window ends.
    Retire {
        #[command(flatten)]
        place: Place,
        /// Such as `dc0_worker5`
        #[arg(value_name = "SLOT")]
        slot: Slot,
        /// For how long no other node may take it, in seconds; otherwise `lease.grace_s`
        #[arg(long, value_name = "SECONDS")]
        grace_s: Option<u32>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print a setting, or all of them
    Get {
        #[command(flatten)]
        place: Place,
        /// Such as `max_sequence` or `dc0/name`
        key: Option<String>,
    },
    /// Change a setting; nodes apply it within moments
    Set {
        #[command(flatten)]
        place: Place,
        /// `max_sequence`, `clock_drift_threshold`, `dcN/name` or `dcN/region`
        key: String,
        value: String,
    },
}

/// Which registry.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// Configuration file, in TOML; otherwise the one that `SNOWMINT_CONFIG` names
    #[arg(long, value_name = "FILE")]
    config: Option<std::path::PathBuf>,
    /// Where the embedded registry is
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Which registry: embedded, etcd://HOST:PORT,… or zookeeper://HOST:PORT,…/CHROOT
    #[arg(long, value_name = "URL")]
    registry: Option<String>,
}

/// What cannot be done to a registry.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClusterError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("{key:?} is no setting: there are {KEYS}")]
    UnknownKey { key: String },
    #[error(
        "{key} is written once, by the first node, and never changed: IDs of before and after would get into each \
         other's way. Another {key} is for another registry"
    )]
    Immutable { key: String },
    #[error("{key} = {value:?}: {wanted}")]
    Value { key: String, value: String, wanted: String },
    #[error("{slot} was never held: there is nothing to give back")]
    NeverHeld { slot: Slot },
    #[error("{slot} could not be given back: {source}")]
    Retire { slot: Slot, source: SwapError },
}

const KEYS: &str = "epoch, layout, cluster_id, max_sequence, clock_drift_threshold, and dcN/name and dcN/region of a datacenter";

impl Place {
    fn open(&self) -> Result<(Config, Arc<dyn Registry>), CliError> {
        let flags = [("data_dir", &self.data_dir), ("registry", &self.registry)];
        let flags: Vec<_> =
            flags.into_iter().filter_map(|(key, value)| Some((key, value.clone()?))).collect();
        let loaded = config::Loaded::load(self.config.as_deref(), config::environment(), &flags)?;
        let registry = serve::existing_registry(&loaded.config).map_err(ClusterError::from)?;
        Ok((loaded.config, registry))
    }
}

pub(super) fn run(command: &Command, out: &mut dyn Write) -> Result<(), CliError> {
    match command {
        Command::Status { place, server, json } => {
            let cluster = block_on(status(place, server.as_ref()))?;
            if *json {
                let json = serde_json::to_value(&cluster).expect("it is made of numbers, texts and lists");
                return Ok(writeln!(out, "{json:#}")?);
            }
            Ok(write(&cluster, out)?)
        }
        Command::Config(ConfigCommand::Get { place, key }) => {
            for line in block_on(get(place, key.as_deref()))? {
                writeln!(out, "{line}")?;
            }
            Ok(())
        }
        Command::Config(ConfigCommand::Set { place, key, value }) => block_on(set(place, key, value)),
        Command::Retire { place, slot, grace_s } => {
            let done = block_on(retire(place, *slot, *grace_s))?;
            Ok(writeln!(out, "{done}")?)
        }
    }
}

async fn status(place: &Place, server: Option<&ServerUrl>) -> Result<Cluster, CliError> {
    if let Some(server) = server {
        return Ok(Server::new(server).get("/api/v1/cluster").await?);
    }
    let (config, registry) = place.open()?;
    let snapshot = registry.snapshot().await.map_err(ClusterError::from)?;
    Ok(Cluster::new(snapshot, config.registry.to_string(), Timestamp::now()))
}

/// A setting alone as its value, all of them as `key = value`.
async fn get(place: &Place, key: Option<&str>) -> Result<Vec<String>, CliError> {
    let (_, registry) = place.open()?;
    let snapshot = registry.snapshot().await.map_err(ClusterError::from)?;
    let namespace = &snapshot.namespace;
    let mut settings = vec![
        ("epoch".to_owned(), namespace.epoch_ms.to_string()),
        ("layout".to_owned(), namespace.layout.to_string()),
        ("cluster_id".to_owned(), namespace.cluster_id.to_string()),
        ("max_sequence".to_owned(), namespace.max_sequence.to_string()),
        ("clock_drift_threshold".to_owned(), namespace.clock_drift_threshold_ms.to_string()),
    ];
    for (id, datacenter) in snapshot.datacenters {
        settings.extend(datacenter.name.map(|name| (format!("dc{id}/name"), name)));
        settings.extend(datacenter.region.map(|region| (format!("dc{id}/region"), region)));
    }
    let Some(key) = key else {
        return Ok(settings.into_iter().map(|(key, value)| format!("{key} = {value}")).collect());
    };
    match settings.into_iter().find(|(known, _)| known == key) {
        Some((_, value)) => Ok(vec![value]),
        None if datacenter_key(key).is_some() => Ok(vec![String::new()]),
        None => Err(ClusterError::UnknownKey { key: key.to_owned() }.into()),
    }
}

async fn set(place: &Place, key: &str, value: &str) -> Result<(), CliError> {
    let (_, registry) = place.open()?;
    let (namespace, _) = registry.settings().await.map_err(ClusterError::from)?;
    let setting = setting(key, value, &namespace)?;
    Ok(registry.set(&setting).await.map_err(ClusterError::from)?)
}

fn setting(key: &str, value: &str, namespace: &Namespace) -> Result<Setting, ClusterError> {
    let wrong = |wanted: String| ClusterError::Value { key: key.to_owned(), value: value.to_owned(), wanted };
    match key {
        "max_sequence" => {
            let highest = namespace.layout.max_sequence();
            let number = value.parse().ok().filter(|number| *number <= highest);
            let wanted = || wrong(format!("the layout {} has room for 0 to {highest}", namespace.layout));
            number.map(Setting::MaxSequence).ok_or_else(wanted)
        }
        "clock_drift_threshold" => {
            let ms = value.parse().ok().filter(|ms| (1..=3_600_000).contains(ms));
            let wanted = || wrong("milliseconds from 1 to 3600000 are wanted".to_owned());
            ms.map(Setting::ClockDriftThreshold).ok_or_else(wanted)
        }
        "epoch" | "layout" | "cluster_id" => Err(ClusterError::Immutable { key: key.to_owned() }),
        _ => {
            let Some((datacenter, leaf)) = datacenter_key(key) else {
                return Err(ClusterError::UnknownKey { key: key.to_owned() });
            };
            let datacenters = namespace.layout.datacenters();
            if u32::from(datacenter) >= datacenters {
                return Err(wrong(format!(
                    "the layout {} has datacenters 0 to {}",
                    namespace.layout,
                    datacenters - 1
                )));
            }
            if !(1..=NAME_BYTES_MAX).contains(&value.len()) {
                return Err(wrong(format!("a text of 1 to {NAME_BYTES_MAX} bytes is wanted")));
            }
            Ok(leaf(datacenter, value.to_owned()))
        }
    }
}

/// Makes a setting of a datacenter's number and a text.
type DatacenterSetting = fn(u16, String) -> Setting;

/// Reads `dc0/name`, with or without `datacenters/` before it.
fn datacenter_key(key: &str) -> Option<(u16, DatacenterSetting)> {
    let key = key.strip_prefix("datacenters/").unwrap_or(key);
    let (datacenter, leaf) = key.strip_prefix("dc")?.split_once('/')?;
    let leaf: DatacenterSetting = match leaf {
        "name" => Setting::DatacenterName,
        "region" => Setting::DatacenterRegion,
        _ => return None,
    };
    Some((datacenter.parse().ok()?, leaf))
}

async fn retire(place: &Place, slot: Slot, grace_s: Option<u32>) -> Result<String, CliError> {
    let (config, registry) = place.open()?;
    let grace_s = grace_s.map_or(config.lease.grace_s, u64::from);
    let mut tries = 0;
    loop {
        let state = registry.slot(slot).await.map_err(ClusterError::from)?;
        let Some((record, revision)) = state.window else {
            return Err(ClusterError::NeverHeld { slot }.into());
        };
        let now_ms = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
        let retired = Retired {
            retired_at: timestamp(now_ms),
            // Nobody but its holder knows; it is below the ceiling.
            last_id: None,
            reuse_after: timestamp(now_ms.saturating_add(grace_s.saturating_mul(1_000))),
            node: record.owner.node.clone(),
        };
        match registry.retire(slot, revision, &record, &retired).await {
            Ok(()) => {
                return Ok(format!(
                    "{slot} was given back for {}: other nodes may take it after {}, from {} on",
                    record.owner, retired.reuse_after, record.ceiling_time
                ));
            }
            Err(SwapError::Conflict { .. } | SwapError::Unknown(_)) if tries < RETIRE_TRIES_MAX => tries += 1,
            Err(source) => return Err(ClusterError::Retire { slot, source }.into()),
        }
    }
}

fn write(cluster: &Cluster, out: &mut dyn Write) -> io::Result<()> {
    let fresh = if cluster.stale { "stale: what it last said, at" } else { "as of" };
    writeln!(out, "cluster         {}", cluster.cluster_id)?;
    writeln!(out, "registry        {}, {fresh} {:.3}", cluster.registry, cluster.as_of)?;
    if let Some(problem) = &cluster.problem {
        writeln!(out, "problem         {problem}")?;
    }
    writeln!(out, "epoch           {} ({})", iso(cluster.epoch_ms), cluster.epoch_ms)?;
    writeln!(out, "layout          {}", cluster.layout)?;
    writeln!(out, "max sequence    {}", cluster.max_sequence)?;
    writeln!(out, "clock drift     up to {} ms", cluster.clock_drift_threshold_ms)?;
    write_workers(cluster, out)?;
    write_windows(cluster, out)?;
    write_retired(cluster, out)?;
    for damaged in &cluster.damaged {
        writeln!(out, "\n{} cannot be used: {}", damaged.slot, damaged.problem)?;
    }
    Ok(())
}

fn write_workers(cluster: &Cluster, out: &mut dyn Write) -> io::Result<()> {
    let mut rows =
        table(&["datacenter", "name", "region", "worker", "node", "host", "address", "version", "started"]);
    for datacenter in &cluster.datacenters {
        let named = || {
            [
                datacenter.datacenter_id.to_string(),
                or_dash(datacenter.name.as_ref()),
                or_dash(datacenter.region.as_ref()),
            ]
        };
        for worker in &datacenter.workers {
            let address = format!("{}:{}", worker.ip, worker.port);
            let of_worker = [
                worker.worker_id.to_string(),
                worker.node.clone(),
                worker.hostname.clone(),
                address,
                worker.version.clone(),
                format!("{:.3}", worker.started_at),
            ];
            rows.add_row(named().into_iter().chain(of_worker));
        }
        if datacenter.workers.is_empty() {
            rows.add_row(named());
        }
    }
    section(out, "workers", &rows)
}

fn write_windows(cluster: &Cluster, out: &mut dyn Write) -> io::Result<()> {
    let mut rows = table(&["slot", "held", "node", "left", "ceiling", "ceiling time"]);
    for window in &cluster.windows {
        rows.add_row([
            window.slot.clone(),
            if window.held { "yes" } else { "no" }.to_owned(),
            window.node.clone(),
            if window.window_left_ms == 0 { "-".to_owned() } else { format!("{} ms", window.window_left_ms) },
            window.ceiling.to_string(),
            format!("{:.3}", window.ceiling_time),
        ]);
    }
    section(out, "windows", &rows)
}

fn write_retired(cluster: &Cluster, out: &mut dyn Write) -> io::Result<()> {
    let mut rows = table(&["slot", "retired", "last id", "free after", "or for node"]);
    for worker in &cluster.retired_workers {
        rows.add_row([
            worker.slot.clone(),
            format!("{:.3}", worker.retired_at),
            or_dash(worker.last_id),
            format!("{:.3}", worker.reuse_after),
            worker.node.clone(),
        ]);
    }
    section(out, "retired workers", &rows)
}

fn section(out: &mut dyn Write, title: &str, rows: &comfy_table::Table) -> io::Result<()> {
    writeln!(out)?;
    if rows.is_empty() {
        return writeln!(out, "no {title}");
    }
    write_table(out, rows)
}
