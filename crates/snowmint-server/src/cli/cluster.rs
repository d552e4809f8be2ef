//! `cluster status`: which node holds what.

use std::io::{self, Write};

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::Value;

use super::server::{Server, ServerError};
use super::server_url::ServerUrl;
use super::{CliError, DEFAULT_SERVER, block_on, iso, or_dash, table, write_table};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print the datacenters, workers, windows and retired workers that the registry has
    Status(Arguments),
}

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// A server of the cluster
    #[arg(long, value_name = "URL", default_value = DEFAULT_SERVER)]
    server: ServerUrl,
}

#[derive(Deserialize)]
struct Cluster {
    #[serde(rename = "cluster_id")]
    id: String,
    registry: String,
    epoch_ms: u64,
    layout: String,
    max_sequence: u32,
    datacenters: Vec<Datacenter>,
    windows: Vec<Window>,
    retired_workers: Vec<RetiredWorker>,
}

#[derive(Deserialize)]
struct Datacenter {
    #[serde(rename = "datacenter_id")]
    id: u16,
    name: Option<String>,
    region: Option<String>,
    workers: Vec<Worker>,
}

#[derive(Deserialize)]
struct Worker {
    #[serde(rename = "worker_id")]
    id: u16,
    node: Option<String>,
    hostname: Option<String>,
    ip: Option<String>,
    port: Option<u16>,
    version: Option<String>,
    started_at: Option<String>,
}

#[derive(Deserialize)]
struct Window {
    slot: String,
    node: Option<String>,
    ceiling: u64,
    ceiling_time: String,
    held: bool,
}

#[derive(Deserialize)]
struct RetiredWorker {
    slot: String,
    retired_at: Option<String>,
    last_id: Option<u64>,
    reuse_after: Option<String>,
}

pub(super) fn run(command: &Command, out: &mut dyn Write) -> Result<(), CliError> {
    const CALL: &str = "/api/v1/cluster";
    let Command::Status(arguments) = command;
    let answer: Value = block_on(async { Ok(Server::new(&arguments.server).get(CALL).await?) })?;
    if arguments.json {
        return Ok(writeln!(out, "{answer:#}")?);
    }
    let url = format!("{}{CALL}", arguments.server);
    let cluster = Cluster::deserialize(answer).map_err(|source| ServerError::Answer { url, source })?;
    Ok(cluster.write(out)?)
}

impl Cluster {
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "cluster       {}", self.id)?;
        writeln!(out, "registry      {}", self.registry)?;
        writeln!(out, "epoch         {} ({})", iso(self.epoch_ms), self.epoch_ms)?;
        writeln!(out, "layout        {}", self.layout)?;
        writeln!(out, "max sequence  {}", self.max_sequence)?;
        self.write_workers(out)?;
        self.write_windows(out)?;
        self.write_retired(out)
    }

    fn write_workers(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut rows = table(&[
            "datacenter",
            "name",
            "region",
            "worker",
            "node",
            "host",
            "address",
            "version",
            "started",
        ]);
        for datacenter in &self.datacenters {
            for worker in &datacenter.workers {
                let address = worker.ip.as_ref().zip(worker.port).map(|(ip, port)| format!("{ip}:{port}"));
                rows.add_row([
                    datacenter.id.to_string(),
                    or_dash(datacenter.name.as_ref()),
                    or_dash(datacenter.region.as_ref()),
                    worker.id.to_string(),
                    or_dash(worker.node.as_ref()),
                    or_dash(worker.hostname.as_ref()),
                    or_dash(address),
                    or_dash(worker.version.as_ref()),
                    or_dash(worker.started_at.as_ref()),
                ]);
            }
        }
        section(out, "workers", &rows)
    }

    fn write_windows(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut rows = table(&["slot", "held", "node", "ceiling", "ceiling time"]);
        for window in &self.windows {
            rows.add_row([
                window.slot.clone(),
                if window.held { "yes" } else { "no" }.to_owned(),
                or_dash(window.node.as_ref()),
                window.ceiling.to_string(),
                window.ceiling_time.clone(),
            ]);
        }
        section(out, "windows", &rows)
    }

    fn write_retired(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut rows = table(&["slot", "retired", "last id", "free after"]);
        for worker in &self.retired_workers {
            rows.add_row([
                worker.slot.clone(),
                or_dash(worker.retired_at.as_ref()),
                or_dash(worker.last_id),
                or_dash(worker.reuse_after.as_ref()),
            ]);
        }
        section(out, "retired workers", &rows)
    }
}

fn section(out: &mut dyn Write, title: &str, rows: &comfy_table::Table) -> io::Result<()> {
    writeln!(out)?;
    if rows.is_empty() {
        return writeln!(out, "no {title}");
    }
    write_table(out, rows)
}
