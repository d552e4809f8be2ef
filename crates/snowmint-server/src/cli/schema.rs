//! `schema` and `retention`: the tables in ClickHouse, and how long they keep what they are given.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::backup::Bar;
use super::{CliError, block_on, or_dash, table, write_table};
use crate::backup;
use crate::clickhouse::retention::{self, DAYS_MAX};
use crate::clickhouse::{ClickHouse, schema};
use crate::config::{self, Config, Loaded};
use crate::objects::Objects;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print the statements that make the tables; needs no server
    Print {
        /// For a cluster of that name, replicated and distributed
        #[arg(long, value_name = "NAME")]
        cluster: Option<String>,
    },
    /// Make the tables, as far as they are not there; can be done again at any time
    Apply {
        #[command(flatten)]
        place: Place,
        /// On every server of a cluster of that name, replicated and distributed
        #[arg(long, value_name = "NAME")]
        cluster: Option<String>,
    },
    /// Merge what tables are made of, and refresh the statistics that queries are planned with
    Optimize {
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum RetentionCommand {
    /// Print how long each table is kept
    Show {
        #[command(flatten)]
        place: Place,
    },
    /// Change how long a table is kept, and make it so
    Set {
        #[command(flatten)]
        place: Place,
        /// Such as `id_generation_events`
        table: String,
        /// For so many days
        #[arg(value_parser = clap::value_parser!(u16).range(1..=i64::from(DAYS_MAX)))]
        days: u16,
    },
    /// Make the tables keep what they are to keep, and drop the months that are past as a whole, exported first where
    /// `retention.export` says to
    Apply {
        #[command(flatten)]
        place: Place,
    },
}

/// Which ClickHouse.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// Configuration file, in TOML; otherwise the one that `SNOWMINT_CONFIG` names
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Place {
    fn load(&self) -> Result<Config, CliError> {
        Ok(Loaded::load(self.config.as_deref(), config::environment(), &[])?.config)
    }

    fn open(&self) -> Result<ClickHouse, CliError> {
        Ok(ClickHouse::new(&self.load()?.clickhouse)?)
    }
}

pub(super) fn run(command: &Command, out: &mut dyn Write) -> Result<(), CliError> {
    match command {
        Command::Print { cluster } => {
            for migration in schema::MIGRATIONS {
                let text = migration.text(cluster.as_deref());
                writeln!(out, "-- {:03}_{}\n\n{}\n", migration.version, migration.name, text.trim_end())?;
            }
            Ok(())
        }
        Command::Apply { place, cluster } => {
            let clickhouse = place.open()?;
            let applied = block_on(async { Ok(schema::apply(&clickhouse, cluster.as_deref()).await?) })?;
            for migration in &applied {
                writeln!(out, "applied {:03}_{}", migration.version, migration.name)?;
            }
            let version = schema::MIGRATIONS.len();
            Ok(writeln!(out, "{clickhouse} has version {version} of the schema")?)
        }
        Command::Optimize { place } => {
            let clickhouse = place.open()?;
            write_done(out, &block_on(async { Ok(schema::optimize(&clickhouse).await?) })?)
        }
    }
}

pub(super) fn run_retention(command: &RetentionCommand, out: &mut dyn Write) -> Result<(), CliError> {
    match command {
        RetentionCommand::Show { place } => {
            let clickhouse = place.open()?;
            let mut rows = table(&["table", "days", "applied"]);
            for policy in block_on(async { Ok(retention::show(&clickhouse).await?) })? {
                rows.add_row([policy.table, policy.days.to_string(), or_dash(policy.applied_days)]);
            }
            Ok(write_table(out, &rows)?)
        }
        RetentionCommand::Set { place, table, days } => {
            let (config, clickhouse) = (place.load()?, place.open()?);
            let set = async {
                retention::set(&clickhouse, table, *days).await?;
                apply_retention(&config, &clickhouse).await
            };
            write_done(out, &block_on(set)?)
        }
        RetentionCommand::Apply { place } => {
            let (config, clickhouse) = (place.load()?, place.open()?);
            write_done(out, &block_on(apply_retention(&config, &clickhouse))?)
        }
    }
}

async fn apply_retention(config: &Config, clickhouse: &ClickHouse) -> Result<Vec<String>, CliError> {
    let Some(url) = &config.retention.export else { return Ok(retention::apply(clickhouse).await?) };
    let to = Objects::open(url, &config.s3)?;
    Ok(backup::apply_retention(clickhouse, &to, &Bar::new()).await?)
}

fn write_done(out: &mut dyn Write, done: &[String]) -> Result<(), CliError> {
    if done.is_empty() {
        writeln!(out, "nothing to do")?;
    }
    for line in done {
        writeln!(out, "{line}")?;
    }
    Ok(())
}
