//! `cargo xtask bench peers`: snowmint beside others that give out IDs, in one run, on one machine, under one load.
//!
//! Every run has a server of its own, alone on one core, and its load has another. A contest's servers are gone through
//! forwards and backwards, so that a machine that slows down slows all, and what is shown are medians. What a peer
//! does less than snowmint, or more, stands beside it. A peer that cannot be had is named and left out.

mod load;
mod servers;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use self::load::{Amount, Figures, Load, Loader};
use self::servers::{Front, Kind, Programs, WORKERS};
use super::http::median;
use super::keep_plot;
use super::load::clock_ticks_hz;
use super::plot::{self, Bar, Panel, Tone};
use crate::tools::{step, target_dir};

/// What the best batches are looked for among.
const BATCHES_OF_SNOWMINT: [u32; 3] = [1_000, 4_096, 10_000];
const BATCHES_OF_FERROID: [u32; 4] = [1_024, 4_096, 16_384, 65_536];
const STREAMS: [u32; 3] = [1, 4, 16];
const LOOK: Amount = Amount { seconds: 1, connections: 1 };

/// How much is measured.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long each run lasts.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// How many connections each run uses, where they are not streams.
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// How often each contest's servers are gone through, forwards and backwards.
    #[arg(long, default_value_t = 2)]
    rounds: u32,
}

/// Servers that do the same under the same load. The first is what the others are compared with.
struct Contest {
    title: &'static str,
    unit: &'static str,
    contenders: Vec<Contender>,
}

struct Contender {
    name: &'static str,
    /// What it does less than snowmint, or more.
    note: String,
    kind: Kind,
    load: Load,
}

/// A contender's medians.
struct Standing {
    name: &'static str,
    note: String,
    figures: Figures,
}

/// What has been found so far.
struct Bench<'a> {
    loader: Loader<'a>,
    options: &'a Options,
    panels: Vec<Panel>,
    left_out: Vec<String>,
}

/// Measures, prints the tables and draws the plot.
pub(crate) fn run(shell: &Shell, options: &Options) -> Result<()> {
    step("build", || {
        cmd!(shell, "cargo build --profile dist --locked -p snowmint-server").run()?;
        Ok(cmd!(shell, "cargo build --profile dist --locked -p xtask --examples").run()?)
    })?;
    let target = target_dir(shell)?;
    let programs = Programs { dist: target.join("dist"), tools: target.join("tools") };
    let loader = Loader { shell, programs: &programs, clock_ticks_hz: clock_ticks_hz(shell)? };
    let mut bench = Bench { loader, options, panels: Vec::new(), left_out: Vec::new() };
    for contest in [one_at_a_time(), pipelined(), rest()] {
        bench.hold(contest)?;
    }
    let streamed = bench.streamed()?;
    bench.hold(streamed)?;
    bench.in_process()?;
    for what in &bench.left_out {
        println!("\nleft out: {what}");
    }
    let title = "snowmint and others that give out IDs: one server on one core, loaded from another";
    println!();
    keep_plot(shell, "peers", &plot::bars(title, &bench.panels)?)
}

fn one_at_a_time() -> Contest {
    let load = Load::Incr { pipeline: 1 };
    let mut contenders = incr(load);
    for (name, cache, note) in [
        ("PostgreSQL nextval", 1, "transactional, fsync for every 32 values; one server"),
        ("nextval, cache 1000", 1000, "the same; gaps, no order between connections"),
    ] {
        contenders.push(Contender {
            name,
            note: note.into(),
            kind: Kind::Postgres { cache },
            load: Load::Nextval,
        });
    }
    Contest {
        title: "One ID a request, over the protocol of Redis or PostgreSQL",
        unit: "requests/s",
        contenders,
    }
}

fn pipelined() -> Contest {
    let contenders = incr(Load::Incr { pipeline: 32 });
    Contest { title: "One ID a request, 32 requests at once on a connection", unit: "requests/s", contenders }
}

fn rest() -> Contest {
    let mut contenders = ours(Front::Http, "1", Load::Rest);
    contenders.push(Contender {
        name: "bare hyper",
        note: "gives no IDs: a constant of the same size".into(),
        kind: Kind::BareHyper,
        load: Load::Rest,
    });
    Contest { title: "One ID a request, over REST", unit: "requests/s", contenders }
}

fn incr(load: Load) -> Vec<Contender> {
    let mut contenders = ours(Front::Resp, "1", load);
    contenders.push(Contender {
        name: "Redis INCR",
        note: "a count without gaps; one server; nothing on disk".into(),
        kind: Kind::Redis,
        load,
    });
    contenders
}

/// snowmint as it is by default, and without a record of what it gave to whom.
fn ours(front: Front, workers: &'static str, load: Load) -> Vec<Contender> {
    [
        ("snowmint", "relaxed", "unique across nodes and restarts, recorded"),
        ("snowmint, journal off", "off", "unique across nodes and restarts"),
    ]
    .into_iter()
    .map(|(name, journal, note)| Contender {
        name,
        note: note.into(),
        kind: Kind::Snowmint { front, journal, workers },
        load,
    })
    .collect()
}

impl Bench<'_> {
    /// Measures a contest's servers, and prints and keeps what was found.
    fn hold(&mut self, contest: Contest) -> Result<()> {
        let Contest { title, unit, .. } = contest;
        let mut standings = Vec::new();
        step(title, || {
            let mut contenders = Vec::new();
            for contender in contest.contenders {
                if self.can_be_had(&contender)? {
                    contenders.push(contender);
                }
            }
            let mut runs = vec![Vec::new(); contenders.len()];
            for _ in 0..self.options.rounds {
                let forwards = 0..contenders.len();
                for at in forwards.clone().chain(forwards.rev()) {
                    runs[at].push(self.measure(contenders[at].kind, contenders[at].load, self.amount())?);
                }
            }
            standings = contenders.into_iter().zip(runs).map(Standing::of).collect();
            Ok(())
        })?;
        print(unit, &standings);
        self.panels.push(panel(title, unit, &standings));
        Ok(())
    }

    /// Whether a peer can be installed, started and loaded; if not, why is kept. Without snowmint there is nothing to
    /// measure.
    fn can_be_had(&mut self, Contender { name, kind, load, .. }: &Contender) -> Result<bool> {
        let Loader { shell, programs, .. } = self.loader;
        let tried = kind
            .install(shell, programs)
            .and_then(|()| self.measure(*kind, *load, Amount { seconds: 1, ..self.amount() }));
        match tried {
            Err(error) if matches!(kind, Kind::Snowmint { .. }) => Err(error),
            Err(error) => {
                self.left_out.push(format!("{name}: {error:#}"));
                Ok(false)
            }
            Ok(_) => Ok(true),
        }
    }

    fn amount(&self) -> Amount {
        Amount { seconds: self.options.seconds, connections: self.options.connections }
    }

    fn measure(&self, kind: Kind, load: Load, amount: Amount) -> Result<Figures> {
        let running = kind.start(self.loader.shell, self.loader.programs)?;
        self.loader.run(&running, load, amount)
    }

    /// Streams of batches, each server with those that it is best with.
    fn streamed(&mut self) -> Result<Contest> {
        let (mut snowmint, mut ferroid) = (None, None);
        step("look for the best batches", || {
            let kind = Kind::Snowmint { front: Front::Grpc, journal: "relaxed", workers: WORKERS };
            snowmint = Some(self.best("snowmint", BATCHES_OF_SNOWMINT.map(|batch| (kind, batch)))?);
            let kinds = BATCHES_OF_FERROID.map(|batch| (Kind::Ferroid { ids_per_chunk: batch }, batch));
            match kinds[0].0.install(self.loader.shell, self.loader.programs) {
                Ok(()) => ferroid = Some(self.best("ferroid", kinds)?),
                Err(error) => self.left_out.push(format!("ferroid-tonic-server: {error:#}")),
            }
            Ok(())
        })?;
        let (_, load) = snowmint.context("something is best")?;
        let mut contenders = ours(Front::Grpc, WORKERS, load);
        for contender in &mut contenders {
            contender.note = format!("{}; {}", load.batches(), contender.note);
        }
        if let Some((kind, load)) = ferroid {
            let note = format!("{}; nothing durable, workers numbered by you", load.batches());
            contenders.push(Contender { name: "ferroid-tonic-server", note, kind, load });
        }
        Ok(Contest { title: "Batches of IDs streamed over gRPC, 32 slots", unit: "IDs/s", contenders })
    }

    fn best(
        &self,
        server: &'static str,
        kinds: impl IntoIterator<Item = (Kind, u32)>,
    ) -> Result<(Kind, Load)> {
        let mut best: Option<(f64, Kind, Load)> = None;
        for (kind, ids_per_batch) in kinds {
            for streams in STREAMS {
                let load = Load::Stream { server, streams, ids_per_batch };
                let per_s = self.measure(kind, load, LOOK)?.per_s;
                println!("{server}, {}: {per_s:.0} IDs/s", load.batches());
                if best.is_none_or(|(best_per_s, ..)| per_s > best_per_s) {
                    best = Some((per_s, kind, load));
                }
            }
        }
        let (_, kind, load) = best.context("there is something to choose from")?;
        Ok((kind, load))
    }

    /// Generators in a program of their own.
    fn in_process(&mut self) -> Result<()> {
        let title = "In a program of one's own, one thread";
        let mut bars = Vec::new();
        step(title, || {
            let kind = Kind::Snowmint { front: Front::Grpc, journal: "relaxed", workers: WORKERS };
            let running = kind.start(self.loader.shell, self.loader.programs)?;
            let found = (0..=self.options.rounds)
                .map(|_| self.loader.in_process(running.at))
                .collect::<Result<Vec<_>>>()?;
            for (name, note) in GENERATORS {
                let value = median(found.iter().filter_map(|found| found[name].as_f64()));
                let tone = if name.starts_with("snowmint") { Tone::Snowmint } else { Tone::Peer };
                bars.push(Bar { label: name.into(), value, note: note.into(), tone });
            }
            Ok(())
        })?;
        let ours = bars.first().context("ours is first")?.value;
        println!("\n{:<32}{:>12}{:>8}  what it does less, or more", "", "ns per ID", "ratio");
        for Bar { label, value, note, .. } in &bars {
            println!("{label:<32}{value:>12.1}{:>8.2}  {note}", value / ours);
        }
        self.panels.push(Panel { title: format!("{title}: ns per ID, less is better"), bars });
        Ok(())
    }
}

/// As the example `in_process` names them.
const GENERATORS: [(&str, &str); 8] = [
    ("snowmint", "64 bits, from durable windows, system's clock; 4,096 a ms"),
    ("snowmint, ferroid's clock", "the same, with a thread that counts milliseconds"),
    ("snowmint-client", "leased ahead from a server, reads the system's clock"),
    ("ferroid", "64 bits, no window, its clock is never set right; 4,096 a ms"),
    ("rs-snowflake", "64 bits, repeats when the clock steps back; 4,096 a ms"),
    ("sonyflake", "64 bits, the machine told by you; 25.6 a ms"),
    ("uuid v7", "128 bits, unique by chance"),
    ("ulid", "128 bits, unique by chance"),
];

impl Load {
    fn batches(self) -> String {
        match self {
            Self::Stream { streams, ids_per_batch, .. } => format!("{streams} × {ids_per_batch}"),
            Self::Incr { .. } | Self::Nextval | Self::Rest => String::new(),
        }
    }
}

impl Standing {
    fn of((Contender { name, note, .. }, runs): (Contender, Vec<Figures>)) -> Self {
        let of = |figure: fn(&Figures) -> f64| median(runs.iter().map(figure));
        let figures = Figures {
            per_s: of(|run| run.per_s),
            processor_ns: of(|run| run.processor_ns),
            p50_us: of(|run| run.p50_us),
            p99_us: of(|run| run.p99_us),
        };
        Self { name, note, figures }
    }
}

fn print(unit: &str, standings: &[Standing]) {
    let Some(Standing { figures: ours, .. }) = standings.first() else { return };
    println!(
        "\n{:<32}{unit:>12}{:>8}{:>14}{:>8}{:>10}{:>10}  what it does less, or more",
        "", "ratio", "processor ns", "ratio", "p50 us", "p99 us"
    );
    for Standing { name, note, figures } in standings {
        let Figures { per_s, processor_ns, p50_us, p99_us } = figures;
        let (rate, cost) = (per_s / ours.per_s, processor_ns / ours.processor_ns);
        println!(
            "{name:<32}{per_s:>12.0}{rate:>8.2}{processor_ns:>14.1}{cost:>8.2}{p50_us:>10.0}{p99_us:>10.0}  {note}"
        );
    }
}

fn panel(title: &str, unit: &str, standings: &[Standing]) -> Panel {
    let bars = standings.iter().map(|Standing { name, note, figures }| Bar {
        label: (*name).into(),
        value: figures.per_s,
        note: note.clone(),
        tone: if name.starts_with("snowmint") { Tone::Snowmint } else { Tone::Peer },
    });
    Panel { title: format!("{title}: {unit}, more is better"), bars: bars.collect() }
}
