//! `audit`: what the archive proves, who got an ID, and how long it is kept.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use snowmint::{Id, Layout, Slot};
use tokio::runtime::{Builder, Runtime};

use super::{CliError, or_dash};
use crate::archive::{EventType, Hour};
use crate::audit::Scope;
use crate::audit::cat::{self, Filter};
use crate::audit::lifecycle::{self, Ages};
use crate::audit::verify::{self, Chain, Finding, Options, Progress, Report};
use crate::config::{self, Config, Loaded, StoreUrl};
use crate::objects::Objects;
use crate::report::Since;

/// How often the progress line changes.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// How many findings are printed; `--json` has more.
const FINDINGS_SHOWN_MAX: usize = 20;

/// How many chains that do not start with their first record are printed.
const STARTS_SHOWN_MAX: usize = 5;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Prove from the archive that no ID was issued twice and that no record is missing or was changed
    ///
    /// Exits with 0 where it is proven, and with 1 where there is any finding.
    Verify {
        #[command(flatten)]
        place: Place,
        /// From when on, by whole hours: how long ago, such as 12h or 30d, or a time in RFC 3339
        #[arg(long, value_name = "AGO|TIME")]
        since: Option<Since>,
        /// Until when, by whole hours
        #[arg(long, value_name = "AGO|TIME")]
        until: Option<Since>,
        /// Of one datacenter alone
        #[arg(long, value_name = "N")]
        datacenter: Option<u16>,
        /// Of the workers with this number alone
        #[arg(long, value_name = "N")]
        worker: Option<u16>,
        /// Nothing was ever given up: a chain that does not start with its first record is a finding
        #[arg(long, conflicts_with = "since")]
        whole: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print records as they are, one a line: who got this ID?
    ///
    /// Beside the archive, those are looked for that wait in the data directory to be uploaded. Exits with 1 where
    /// there are none.
    Cat(#[command(flatten)] Box<Wanted>),
    /// Say how long records are kept, and where
    #[command(subcommand)]
    Lifecycle(Lifecycle),
}

#[derive(Debug, Subcommand)]
pub(super) enum Lifecycle {
    /// Print how it is, and what `apply` would do
    Print {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        days: Days,
    },
    /// Make it so; can be done again at any time, and in a directory or HDFS has to be, such as once a day
    ///
    /// A bucket of S3 gets a rule for the archive's objects, beside those it has, and does the rest itself:
    /// one storage class after the other, then gone. In a directory and in HDFS, objects are moved below warm/ and cold/,
    /// and then deleted. In HDFS, what uploads have left that were cut short is deleted after a day.
    Apply {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        days: Days,
    },
}

#[derive(Debug, Args)]
#[expect(clippy::struct_field_names, reason = "names carry their units")]
pub(super) struct Days {
    /// Where they cost less after so many days
    #[arg(long, value_name = "DAYS", default_value_t = lifecycle::WARM_DAYS)]
    warm_days: u32,
    /// Where they cost least after so many days
    #[arg(long, value_name = "DAYS", default_value_t = lifecycle::COLD_DAYS)]
    cold_days: u32,
    /// Deleted after so many days
    #[arg(long, value_name = "DAYS", default_value_t = lifecycle::DELETE_DAYS)]
    delete_days: u32,
}

#[derive(Debug, Args)]
pub(super) struct Wanted {
    #[command(flatten)]
    place: Place,
    /// The one that issued this ID, in any form: only the hour and the slot that it is of are read
    #[arg(long, value_parser = id_parser)]
    id: Option<Id>,
    /// From when on: how long ago, such as 90s, 12h or 30d, or a time in RFC 3339
    #[arg(long, value_name = "AGO|TIME")]
    since: Option<Since>,
    /// Until when
    #[arg(long, value_name = "AGO|TIME")]
    until: Option<Since>,
    /// Those that a client got, by its address as it was written down
    #[arg(long, value_name = "IP")]
    client: Option<String>,
    /// That of the request with this ID
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// `id_generated`, `ids_issued`, `request_failed`, `slot_taken`, `slot_lost` or `slot_given_back`
    #[arg(long, value_name = "TYPE", value_parser = event_type_parser)]
    event_type: Option<EventType>,
    /// Of one slot alone, such as `dc0_worker5`
    #[arg(long)]
    slot: Option<Slot>,
}

/// Which archive.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// Configuration file, in TOML; otherwise the one that `SNOWMINT_CONFIG` names
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the archive is, as in `audit.url`: a directory, `s3://BUCKET/PREFIX` and so on; otherwise where the
    /// configuration says
    #[arg(long, value_name = "URL")]
    archive: Option<StoreUrl>,
}

fn id_parser(text: &str) -> Result<Id, String> {
    snowmint::parse(text).map_err(|error| error.to_string())
}

fn event_type_parser(text: &str) -> Result<EventType, serde_json::Error> {
    serde_json::from_value(text.into())
}

impl Place {
    fn open(&self) -> Result<(Config, Objects), CliError> {
        let config = Loaded::load(self.config.as_deref(), config::environment(), &[])?.config;
        let url = self.archive.clone().or_else(|| config.archive()).ok_or(CliError::NoArchive)?;
        let objects = Objects::open(&url, &config.s3)?;
        Ok((config, objects))
    }
}

pub(super) fn run(command: &Command, out: &mut dyn Write) -> Result<(), CliError> {
    // Reads of other threads are done on it, so it has one of its own.
    let runtime =
        Builder::new_multi_thread().worker_threads(1).enable_all().build().map_err(CliError::Runtime)?;
    match command {
        Command::Verify { place, since, until, datacenter, worker, whole, json } => {
            let (config, objects) = place.open()?;
            let (since, until) = (hour(*since), hour(*until));
            let scope = Scope { since, until, datacenter: *datacenter, worker: *worker };
            let options = Options { scope, layout: layout(&config), whole: *whole };
            let report = with_progress(&runtime, &objects, &options)?;
            if *json {
                let json = serde_json::to_string_pretty(&report).map_err(io::Error::from)?;
                writeln!(out, "{json}")?;
            } else {
                write(&report, out)?;
            }
            if report.proven { Ok(()) } else { Err(CliError::NotProven { findings: report.findings_count }) }
        }
        Command::Lifecycle(Lifecycle::Print { place, days }) => {
            let (_, objects) = place.open()?;
            let lines = runtime.block_on(lifecycle::print(&objects, days.ages()?, now_ms()))?;
            write_lines(&lines, out)
        }
        Command::Lifecycle(Lifecycle::Apply { place, days }) => {
            let (_, objects) = place.open()?;
            let lines = runtime.block_on(lifecycle::apply(&objects, days.ages()?, now_ms()))?;
            if lines.is_empty() { Ok(writeln!(out, "nothing to do")?) } else { write_lines(&lines, out) }
        }
        Command::Cat(wanted) => {
            let (config, objects) = wanted.place.open()?;
            // What waits here is on its way to the archive that the configuration names.
            let own = config.archive().as_ref() == Some(objects.url());
            let data_dir = own.then_some(config.data_dir.as_path());
            let found =
                cat::cat(runtime.handle(), &objects, data_dir, layout(&config), &wanted.filter(), out)?;
            // Even so, there may be more: what could not be read is told.
            out.flush()?;
            match (found.lines, found.problems) {
                (_, problems) if !problems.is_empty() => Err(CliError::Unread(problems)),
                (0, _) => Err(CliError::NoRecord { objects: found.objects }),
                _ => Ok(()),
            }
        }
    }
}

fn write_lines(lines: &[String], out: &mut dyn Write) -> Result<(), CliError> {
    lines.iter().try_for_each(|line| writeln!(out, "{line}")).map_err(CliError::Output)
}

fn now_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0)
}

impl Days {
    fn ages(&self) -> Result<Ages, CliError> {
        Ok(Ages::new(self.warm_days, self.cold_days, self.delete_days)?)
    }
}

impl Wanted {
    fn filter(&self) -> Filter {
        Filter {
            id: self.id,
            since_ms: self.since.map(at_ms),
            until_ms: self.until.map(at_ms),
            client: self.client.clone(),
            request_id: self.request_id.clone(),
            event_type: self.event_type,
            slot: self.slot,
        }
    }
}

fn layout(config: &Config) -> Layout {
    config.id.layout().expect("what was loaded has a layout")
}

fn at_ms(since: Since) -> u64 {
    u64::try_from(since.before(Timestamp::now()).as_millisecond()).unwrap_or(0)
}

fn hour(since: Option<Since>) -> Option<Hour> {
    since.map(|since| Hour::of(at_ms(since)))
}

/// Shows a line that moves, where standard error is a terminal.
fn with_progress(runtime: &Runtime, objects: &Objects, options: &Options) -> Result<Report, CliError> {
    let bar = if io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
    bar.set_style(
        ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec}  {eta}  {msg}")
            .expect("the template is a valid one"),
    );
    bar.enable_steady_tick(PROGRESS_EVERY);
    let report = verify::verify(runtime.handle(), objects, options, &mut |progress: &Progress| {
        let Progress { all_bytes, bytes, ids, findings } = *progress;
        bar.set_length(all_bytes);
        bar.set_position(bytes);
        bar.set_message(format!("{} IDs  {findings} findings", grouped(ids)));
    });
    bar.finish_and_clear();
    Ok(report?)
}

fn write(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let mut row = |name: &str, value: String| writeln!(out, "{name:<12}{value}");
    row("archive", report.archive.clone())?;
    row("records of", format!("{} until {}", time(report.first), time(report.last)))?;
    let packed = megabytes(report.packed_bytes);
    row("objects", format!("{}, {packed} ({} unpacked)", grouped(report.objects), megabytes(report.bytes)))?;
    row("records", grouped(report.records.values().sum()))?;
    row("IDs", grouped(report.ids))?;
    row("slots", grouped(report.slots))?;
    row("chains", grouped(report.chains.len() as u64))?;
    let mb_per_s = to_f64(report.bytes) / 1e6 / report.seconds.max(f64::MIN_POSITIVE);
    row("read in", format!("{:.1} s, {mb_per_s:.0} MB/s unpacked", report.seconds))?;
    writeln!(out)?;
    write_notes(report, out)?;
    write_verdict(report, out)
}

/// What is no finding, and worth knowing.
fn write_notes(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let late: Vec<&Chain> = report.chains.iter().filter(|chain| chain.first > 1).collect();
    for chain in late.iter().take(STARTS_SHOWN_MAX) {
        let Chain { journal, slot, first, .. } = chain;
        let of = or_dash(*slot);
        writeln!(out, "the chain of {of} and journal {journal} starts here with record {first}")?;
    }
    if late.len() > STARTS_SHOWN_MAX {
        writeln!(
            out,
            "so do {} other chains with later records than their first",
            late.len() - STARTS_SHOWN_MAX
        )?;
    }
    if !late.is_empty() {
        writeln!(
            out,
            "  What was before is not in the hours that were read, was given up for audit.max_bytes, is past what is \
             kept, or was removed: --whole makes it a finding.\n"
        )?;
    }
    if report.others > 0 {
        let names = report.other_names.join(", ");
        writeln!(out, "{} names are no object's and were left aside, among them {names}\n", report.others)?;
    }
    Ok(())
}

fn write_verdict(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    if report.objects == 0 {
        return writeln!(out, "There is no object: nothing is proven, and nothing is wrong.");
    }
    if report.proven {
        return writeln!(
            out,
            "PROVEN: no ID was issued twice, none outside its slot, and every chain is unbroken."
        );
    }
    for (number, finding) in (1..).zip(report.findings.iter().take(FINDINGS_SHOWN_MAX)) {
        writeln!(out, "{number:>3} {finding}")?;
        if let Finding::Duplicate { first, .. } = finding {
            writeln!(out, "    who got it: snowmint audit cat --id {first}")?;
        }
    }
    let shown = report.findings.len().min(FINDINGS_SHOWN_MAX) as u64;
    if report.findings_count > shown {
        writeln!(out, "    and {} more", grouped(report.findings_count - shown))?;
    }
    writeln!(
        out,
        "\nNOT PROVEN: {} findings, {} IDs issued more than once.",
        report.findings_count, report.duplicate_ids
    )
}

fn time(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "-".to_owned(), |at| format!("{at:.3}"))
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", to_f64(bytes) / 1e6)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn to_f64(value: u64) -> f64 {
    value as f64
}

/// A number with its thousands apart.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
