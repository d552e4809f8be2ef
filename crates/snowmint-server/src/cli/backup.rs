//! `backup`: what is in ClickHouse, kept elsewhere and put back.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use jiff::Timestamp;
use serde_json::json;

use super::{CliError, block_on, iso_time, or_dash, table, write_table};
use crate::backup::{self, BackupError, Kept, Manifest, Progress};
use crate::clickhouse::ClickHouse;
use crate::config::{self, Config, Loaded, StoreUrl};
use crate::objects::Objects;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Back up every table: where `backup.local` says, copied to `backup.remote`; then delete what is more than is kept
    Create {
        #[command(flatten)]
        settings: Settings,
        /// To this place alone, and delete nothing
        #[arg(long, value_name = "URL")]
        to: Option<StoreUrl>,
    },
    /// Print what backups there are, those that are not complete too
    List {
        #[command(flatten)]
        settings: Settings,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete all but the newest: `backup.keep_local` and `backup.keep_remote` of them are kept
    Prune {
        #[command(flatten)]
        settings: Settings,
    },
    /// Put a backup back, into a database that has none of its tables
    Restore {
        #[command(flatten)]
        settings: Settings,
        /// Such as `backup_20260103_190000`
        name: String,
        /// From this place; otherwise from where it is made, or else where it is copied to
        #[arg(long, value_name = "URL")]
        from: Option<StoreUrl>,
    },
}

/// Which ClickHouse, and which places.
#[derive(Debug, Args)]
pub(super) struct Settings {
    /// Configuration file, in TOML; otherwise the one that `SNOWMINT_CONFIG` names
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Settings {
    fn load(&self) -> Result<Config, CliError> {
        Ok(Loaded::load(self.config.as_deref(), config::environment(), &[])?.config)
    }
}

/// Where backups are, and how many are kept there.
struct Place {
    what: &'static str,
    objects: Objects,
    keep: u16,
}

/// Where they are made, and, if anywhere, where they are copied to.
fn places(config: &Config) -> Result<(Place, Option<Place>), CliError> {
    let open = |what, url: &StoreUrl, keep| {
        Ok::<_, CliError>(Place { what, objects: Objects::open(url, &config.s3)?, keep })
    };
    let settings = &config.backup;
    let local = open("local", &settings.local(&config.data_dir), settings.keep_local)?;
    let remote = settings.remote.as_ref().map(|url| open("remote", url, settings.keep_remote)).transpose()?;
    Ok((local, remote))
}

pub(super) fn run(command: &Command, out: &mut dyn Write) -> Result<(), CliError> {
    match command {
        Command::Create { settings, to } => {
            let config = settings.load()?;
            block_on(create(&config, to.as_ref(), out))
        }
        Command::List { settings, json } => {
            let config = settings.load()?;
            block_on(list(&config, *json, out))
        }
        Command::Prune { settings } => {
            let (local, remote) = places(&settings.load()?)?;
            block_on(async {
                for place in std::iter::once(local).chain(remote) {
                    prune(&place, out).await?;
                }
                Ok(())
            })
        }
        Command::Restore { settings, name, from } => {
            let config = settings.load()?;
            block_on(restore(&config, name, from.as_ref(), out))
        }
    }
}

async fn create(config: &Config, to: Option<&StoreUrl>, out: &mut dyn Write) -> Result<(), CliError> {
    let clickhouse = ClickHouse::new(&config.clickhouse)?;
    let bar = Bar::new();
    if let Some(url) = to {
        let to = Objects::open(url, &config.s3)?;
        let manifest = backup::create(&clickhouse, &to, &bar).await?;
        return write_made(&manifest, &to, out);
    }
    let (local, remote) = places(config)?;
    let manifest = backup::create(&clickhouse, &local.objects, &bar).await?;
    write_made(&manifest, &local.objects, out)?;
    if let Some(remote) = &remote {
        backup::upload(&local.objects, &remote.objects, &manifest, &bar).await?;
        writeln!(out, "copied to {}/{}", remote.objects.url(), manifest.name)?;
    }
    // Only now: a backup more has to be there before one goes.
    for place in std::iter::once(local).chain(remote) {
        prune(&place, out).await?;
    }
    Ok(())
}

fn write_made(manifest: &Manifest, at: &Objects, out: &mut dyn Write) -> Result<(), CliError> {
    let Manifest { name, rows, bytes, moment, .. } = manifest;
    writeln!(out, "{}/{name}: {rows} rows, {}", at.url(), HumanBytes(*bytes))?;
    if !moment.whole {
        let (from, until) = (iso_time(moment.from), iso_time(moment.until));
        writeln!(
            out,
            "of inserts between {from} and {until}, some tables may have rows that others have not"
        )?;
    }
    Ok(())
}

async fn prune(place: &Place, out: &mut dyn Write) -> Result<(), CliError> {
    for name in backup::prune(&place.objects, place.keep).await? {
        writeln!(out, "deleted {}/{name}", place.objects.url())?;
    }
    Ok(())
}

async fn list(config: &Config, as_json: bool, out: &mut dyn Write) -> Result<(), CliError> {
    let (local, remote) = places(config)?;
    let mut found = Vec::new();
    for place in std::iter::once(&local).chain(&remote) {
        found.extend(backup::list(&place.objects).await?.into_iter().map(|kept| (place, kept)));
    }
    if as_json {
        let shown: Vec<_> = found.iter().map(|(place, kept)| as_value(place, kept)).collect();
        let text = serde_json::to_string_pretty(&shown).map_err(std::io::Error::from)?;
        return Ok(writeln!(out, "{text}")?);
    }
    if found.is_empty() {
        return Ok(writeln!(out, "no backups")?);
    }
    let mut rows = table(&["backup", "place", "state", "rows", "size", "age"]);
    for (place, kept) in found {
        rows.add_row([
            kept.name.clone(),
            place.what.to_owned(),
            state(&kept).to_owned(),
            or_dash(kept.rows),
            HumanBytes(kept.bytes).to_string(),
            age(kept.begun_at),
        ]);
    }
    Ok(write_table(out, &rows)?)
}

fn state(kept: &Kept) -> &'static str {
    if kept.is_complete() { "complete" } else { "incomplete" }
}

fn as_value(place: &Place, kept: &Kept) -> serde_json::Value {
    json!({
        "name": kept.name,
        "place": place.what,
        "url": format!("{}/{}", place.objects.url(), kept.name),
        "complete": kept.is_complete(),
        "begun_at": iso_time(kept.begun_at),
        "rows": kept.rows,
        "bytes": kept.bytes,
    })
}

/// How long ago, in the largest unit of which there are two.
fn age(begun_at: Timestamp) -> String {
    let seconds = begun_at.duration_until(Timestamp::now()).as_secs().max(0);
    match seconds {
        172_800.. => format!("{} d", seconds / 86_400),
        7_200.. => format!("{} h", seconds / 3_600),
        120.. => format!("{} min", seconds / 60),
        _ => format!("{seconds} s"),
    }
}

async fn restore(
    config: &Config,
    name: &str,
    from: Option<&StoreUrl>,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let clickhouse = ClickHouse::new(&config.clickhouse)?;
    let bar = Bar::new();
    let manifest = if let Some(url) = from {
        backup::restore(&clickhouse, &Objects::open(url, &config.s3)?, name, &bar).await?
    } else {
        let (local, remote) = places(config)?;
        match (backup::restore(&clickhouse, &local.objects, name, &bar).await, remote) {
            (Err(BackupError::NotThere { .. }), Some(remote)) => {
                backup::restore(&clickhouse, &remote.objects, name, &bar).await?
            }
            (restored, _) => restored?,
        }
    };
    writeln!(out, "{clickhouse} has the {} rows of {name}", manifest.rows)?;
    Ok(writeln!(out, "they are kept, whatever their age, until `snowmint retention apply`")?)
}

/// A line that moves, where standard error is a terminal.
pub(super) struct Bar(ProgressBar);

impl Bar {
    pub(super) fn new() -> Self {
        let bar = ProgressBar::no_length();
        let template = "{msg} {wide_bar} {bytes}/{total_bytes}  {bytes_per_sec}  {eta}";
        bar.set_style(ProgressStyle::with_template(template).expect("the template is a valid one"));
        Self(bar)
    }
}

impl Progress for Bar {
    fn begin(&self, what: &str, bytes: u64) {
        self.0.reset();
        self.0.set_message(what.to_owned());
        self.0.set_length(bytes);
    }

    fn add(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
