//! The composition root: the only module that names concrete parts, and puts them together.

mod records;
mod registries;

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use snowmint::{Layout, Slot};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::clickhouse::ClickHouseError;
use crate::clock::{self, ClockError, ClockSettings, HostTime, ServingClock, ntp};
use crate::config::{Config, Loaded};
use crate::event::Events;
use crate::journal::JournalError;
use crate::lease::{Holding, Lease, LeaseSettings, Mark, MarkError};
use crate::metrics::Metrics;
use crate::objects::ObjectsError;
use crate::observe::{Observer, Told};
use crate::privacy::PrivacyError;
use crate::registry::{
    CLOCK_DRIFT_THRESHOLD_MS, Namespace, Owner, Registry, RegistryError, Setting, Worker, timestamp,
};
use crate::service::Service;
use crate::settings::Settings;
use crate::{api, log, open_files};
use records::Records;
pub(crate) use registries::existing_registry;

/// How long giving the slot back may take at the end, in milliseconds. With the front ends' own bound it
/// keeps a stop under 10 s.
const RETIRE_MS_MAX: u64 = 3_000;

/// How long the start waits for a slot before it says that there is none yet, in milliseconds.
const SLOT_WAIT_MS: u64 = 2_000;

/// Why the service did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The system gives no runtime.
    #[error("the runtime cannot start: {0}")]
    Runtime(io::Error),
    /// A listener's address cannot be had.
    #[error("{key} cannot be {address}: {source}{hint}")]
    Listen {
        /// The configuration's key.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
        /// What to do about it, or nothing.
        hint: &'static str,
    },
    /// The clock cannot be used.
    #[error(transparent)]
    Clock(#[from] ClockError),
    /// The registry cannot be used.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The registry knows less than this node, or the data directory cannot be used.
    #[error(transparent)]
    Mark(#[from] MarkError),
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The audit archive cannot be used as it is configured.
    #[error("the audit archive {0}")]
    Archive(#[from] ObjectsError),
    /// What of people leaves the journal cannot be hashed.
    #[error(transparent)]
    Privacy(#[from] PrivacyError),
    /// ClickHouse cannot be used as it is configured.
    #[error(transparent)]
    ClickHouse(#[from] ClickHouseError),
    /// The registry is of another epoch or layout.
    #[error(
        "{key} is {configured} in the configuration and {stands} in the registry {registry}: IDs of both would \
         get into each other's way. Set {key} to {stands}, or use another registry"
    )]
    Disagreement {
        /// The configuration's key.
        key: &'static str,
        /// What the configuration says.
        configured: String,
        /// What the registry says.
        stands: String,
        /// Which registry.
        registry: String,
    },
}

/// Serves until SIGTERM or SIGINT, then drains.
pub fn run(loaded: &Loaded) -> Result<(), ServeError> {
    log::init(&loaded.config.log);
    allow_connections(loaded.config.limits.connections);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(ServeError::Runtime)?;
    let stop = CancellationToken::new();
    runtime.block_on(async {
        stop_on_signal(&stop).map_err(ServeError::Runtime)?;
        serve(&loaded.config, stop).await
    })
}

/// Lets the process have as many open files as the system allows, and says where that is less than what is configured.
fn allow_connections(wanted: usize) {
    if let Some(allowed) = open_files::raise_limit()
        && u64::try_from(wanted).is_ok_and(|wanted| wanted > allowed)
    {
        tracing::warn!(
            "limits.connections is {wanted}, and the system allows open files for {allowed}: raise its limit (LimitNOFILE \
             of systemd, ulimits of a container, ulimit -Hn of a shell), or lower limits.connections"
        );
    }
}

/// Serves until `stop`.
pub async fn serve(config: &Config, stop: CancellationToken) -> Result<(), ServeError> {
    let listeners = Listeners::bind(config).await?;
    let namespace_wanted = namespace(config);
    let registry = registries::registry(config)?;
    let namespace = registries::open(&*registry, &namespace_wanted, &stop).await?;
    check_agreement(&namespace_wanted, &namespace, &registries::name(config))?;
    let layout = Layout::new(namespace.layout, namespace.epoch_ms)
        .expect("the epoch is the configuration's, which was checked");
    let mark = Mark::new(&config.data_dir)?;
    mark.recall()?.check(&registry.snapshot().await?, layout)?;
    mark.belong_to(namespace.cluster_id)?;
    name_datacenter(config, &*registry).await?;

    let clock_settings = ClockSettings {
        epoch_ms: layout.epoch_ms(),
        end_ms: layout.end_ms(),
        leap_confirm_s: config.clock.leap_confirm_s,
        refuse_above_ms: config.clock.refuse_above_ms,
    };
    let clock = Arc::new(ServingClock::start(Arc::new(HostTime), clock_settings)?);
    let metrics = Arc::new(Metrics::new());
    let holding = Arc::new(Holding::new(config.workers));
    let settings = Arc::new(Settings::new(namespace, config.id.max_sequence));
    let service = Arc::new(Service::new(
        Arc::clone(&clock),
        Arc::clone(&holding),
        Arc::clone(&metrics),
        Arc::clone(&settings),
        layout,
        config.limits.wait_ms,
    ));
    let worker = worker(config, &mark, listeners.advertised(), clock.now_ms())?;
    let records = Records::start(config, layout, &metrics)?;
    let events = Arc::clone(records.events());
    let lease_settings =
        lease_settings(config, layout, worker, Arc::clone(&settings), Arc::new(mark), Arc::clone(&events));
    let lease = Lease::new(
        Arc::clone(&registry),
        Arc::clone(&clock),
        Arc::clone(&holding),
        Arc::clone(&metrics),
        lease_settings,
    );

    // The slot goes last: it is given back only when no request can want it any more.
    let retire = CancellationToken::new();
    let lease = tokio::spawn(lease.run(retire.clone()));
    let observer =
        Arc::new(Observer::new(Arc::clone(&service), metrics, Arc::clone(&settings), Arc::clone(&events)));
    let ntp = ask_ntp(config, &clock, &observer, &retire);
    let watching = Arc::clone(&observer);
    let on_event = move |event| watching.clock(event);
    let until = retire.clone();
    let background = [
        tokio::spawn(clock::run(clock, on_event, retire.clone())),
        tokio::spawn(async move { observer.run(until).await }),
        tokio::spawn(follow_settings(
            Arc::clone(&settings),
            Arc::clone(&registry),
            Arc::clone(&holding),
            retire.clone(),
        )),
        tokio::spawn(announce(
            config.clone(),
            layout,
            Arc::clone(&holding),
            listeners.addresses(),
            stop.clone(),
        )),
    ];
    let shown = Shown { registry, settings, records: &records };
    for front_end in listeners.serve(config, &service, &shown, &stop) {
        ended(front_end).await;
    }
    retire.cancel();
    if tokio::time::timeout(Duration::from_millis(RETIRE_MS_MAX), ended(lease)).await.is_err() {
        tracing::warn!(
            "the worker slot was not given back within {RETIRE_MS_MAX} ms: it comes free by itself"
        );
    }
    for task in background.into_iter().chain(ntp) {
        ended(task).await;
    }
    // Last of all: what happened until here is written down, too.
    records.stop().await;
    tracing::info!("stopped");
    Ok(())
}

/// What the configuration would have a new namespace be.
fn namespace(config: &Config) -> Namespace {
    Namespace {
        cluster_id: Uuid::new_v4(),
        epoch_ms: config.id.epoch_ms,
        layout: config.id.layout,
        max_sequence: config.id.max_sequence(),
        clock_drift_threshold_ms: CLOCK_DRIFT_THRESHOLD_MS,
    }
}

/// Invariant 5: a node whose epoch or layout is not the registry's does not start.
fn check_agreement(wanted: &Namespace, stands: &Namespace, registry: &str) -> Result<(), ServeError> {
    let values = [
        ("id.epoch_ms", wanted.epoch_ms.to_string(), stands.epoch_ms.to_string()),
        ("id.layout", wanted.layout.to_string(), stands.layout.to_string()),
    ];
    match values.into_iter().find(|(_, configured, stands)| configured != stands) {
        None => Ok(()),
        Some((key, configured, stands)) => {
            Err(ServeError::Disagreement { key, configured, stands, registry: registry.to_owned() })
        }
    }
}

/// Writes what the configuration calls the datacenter, where it calls it anything.
async fn name_datacenter(config: &Config, registry: &dyn Registry) -> Result<(), RegistryError> {
    let name = config.datacenter_name.clone().map(|name| Setting::DatacenterName(config.datacenter, name));
    let region =
        config.datacenter_region.clone().map(|region| Setting::DatacenterRegion(config.datacenter, region));
    for setting in name.into_iter().chain(region) {
        registry.set(&setting).await?;
    }
    Ok(())
}

/// This node, as the registry shows it.
fn worker(
    config: &Config,
    mark: &Mark,
    advertised: Option<SocketAddr>,
    now_ms: u64,
) -> Result<Worker, MarkError> {
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let node = match &config.node_name {
        Some(name) => name.clone(),
        None => mark.node_name(&hostname)?,
    };
    Ok(Worker {
        hostname,
        ip: advertised.map(|address| address.ip().to_string()).unwrap_or_default(),
        port: advertised.map_or(0, |address| address.port()),
        started_at: timestamp(now_ms),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        owner: Owner { node, instance: Uuid::new_v4() },
    })
}

fn lease_settings(
    config: &Config,
    layout: Layout,
    worker: Worker,
    shared: Arc<Settings>,
    mark: Arc<Mark>,
    events: Arc<Events>,
) -> LeaseSettings {
    LeaseSettings {
        layout,
        worker,
        datacenter: config.datacenter,
        fixed_worker: config.worker,
        window_ms: config.lease.window_ms,
        grace_s: config.lease.grace_s,
        reuse_cooling: config.lease.reuse_cooling,
        idle_days_max: config.clock.idle_days_max,
        sequence_start: config.id.sequence_start,
        shared,
        mark: Some(mark),
        events,
    }
}

/// Has the NTP servers asked, if there are any.
fn ask_ntp(
    config: &Config,
    clock: &Arc<ServingClock>,
    observer: &Arc<Observer>,
    stop: &CancellationToken,
) -> Option<JoinHandle<()>> {
    let servers = &config.clock.ntp_servers.0;
    let interval = Duration::from_secs(config.clock.interval_s);
    let monitor = ntp::Monitor::new(Arc::clone(clock), servers, interval);
    let (observer, stop) = (Arc::clone(observer), stop.clone());
    let mut told = Told::default();
    (!servers.is_empty())
        .then(|| tokio::spawn(monitor.run(move |status| observer.ntp(status, &mut told), stop)))
}

/// Applies changed settings to what is held.
async fn follow_settings(
    settings: Arc<Settings>,
    registry: Arc<dyn Registry>,
    holding: Arc<Holding>,
    stop: CancellationToken,
) {
    let apply = |settings: &Settings| {
        for held in holding.load().iter() {
            held.generator.set_max_sequence(settings.max_sequence());
        }
    };
    settings.run(registry, apply, stop).await;
}

/// What the front ends show beside the service.
struct Shown<'a> {
    registry: Arc<dyn Registry>,
    settings: Arc<Settings>,
    records: &'a Records,
}

/// The front ends' sockets, bound before anything else is touched: a port in use leaves no trace.
struct Listeners {
    http: Option<(TcpListener, SocketAddr)>,
    grpc: Option<(TcpListener, SocketAddr)>,
    resp: Option<(TcpListener, SocketAddr)>,
}

impl Listeners {
    async fn bind(config: &Config) -> Result<Self, ServeError> {
        Ok(Self {
            http: bind("http.listen", config.http.listen.0).await?,
            grpc: bind("grpc.listen", config.grpc.listen.0).await?,
            resp: bind("resp.listen", config.resp.listen.0).await?,
        })
    }

    fn addresses(&self) -> Addresses {
        let address = |bound: &Option<(TcpListener, SocketAddr)>| bound.as_ref().map(|(_, at)| *at);
        Addresses { http: address(&self.http), grpc: address(&self.grpc), resp: address(&self.resp) }
    }

    /// The address the registry shows.
    fn advertised(&self) -> Option<SocketAddr> {
        let Addresses { http, grpc, resp } = self.addresses();
        http.or(grpc).or(resp)
    }

    fn serve(
        self,
        config: &Config,
        service: &Arc<Service>,
        shown: &Shown<'_>,
        stop: &CancellationToken,
    ) -> Vec<JoinHandle<()>> {
        let (limits, events) = (config.limits.clone(), shown.records.events());
        let mut front_ends = Vec::new();
        if let Some((listener, _)) = self.http {
            let shown = api::http::Shown {
                registry: Arc::clone(&shown.registry),
                registry_name: config.registry.to_string(),
                settings: Arc::clone(&shown.settings),
                reports: shown.records.reports(),
                records: shown.records.state(),
            };
            let state = api::http::State::new(Arc::clone(service), Arc::clone(events), shown, limits.clone());
            front_ends.push(tokio::spawn(api::http::serve(listener, state, stop.clone())));
        }
        if let Some((listener, _)) = self.grpc {
            front_ends.push(tokio::spawn(api::grpc::serve(
                listener,
                Arc::clone(service),
                Arc::clone(events),
                limits.clone(),
                stop.clone(),
            )));
        }
        if let Some((listener, _)) = self.resp {
            front_ends.push(tokio::spawn(api::resp::serve(
                listener,
                Arc::clone(service),
                Arc::clone(events),
                limits,
                stop.clone(),
            )));
        }
        front_ends
    }
}

async fn bind(
    key: &'static str,
    address: Option<SocketAddr>,
) -> Result<Option<(TcpListener, SocketAddr)>, ServeError> {
    let Some(address) = address else { return Ok(None) };
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let local = listener.local_addr()?;
        Ok((listener, local))
    };
    bound.await.map(Some).map_err(|source: io::Error| {
        let hint = match source.kind() {
            io::ErrorKind::AddrInUse => " (another process listens there: choose another port)",
            io::ErrorKind::AddrNotAvailable => " (this machine has no such address)",
            io::ErrorKind::PermissionDenied => " (ports below 1024 need a privilege: choose another)",
            _ => "",
        };
        ServeError::Listen { key, address, source, hint }
    })
}

#[derive(Clone, Copy)]
struct Addresses {
    http: Option<SocketAddr>,
    grpc: Option<SocketAddr>,
    resp: Option<SocketAddr>,
}

impl Addresses {
    /// REST's, gRPC's and RESP's, to be read by people.
    fn shown(self) -> [String; 3] {
        let shown = |address: Option<SocketAddr>| address.map_or("off".to_owned(), |at| at.to_string());
        [self.http, self.grpc, self.resp].map(shown)
    }
}

/// Says what is served, where and from which slots, as soon as they are held, or some of them are after a while.
async fn announce(
    config: Config,
    layout: Layout,
    holding: Arc<Holding>,
    addresses: Addresses,
    stop: CancellationToken,
) {
    let held = async |most_missing: usize| {
        let mut changes = holding.changes();
        while holding.missing() > most_missing {
            // The sender lives as long as the holding, which this task has a share of.
            let _ = changes.changed().await;
        }
    };
    let [http, grpc, resp] = addresses.shown();
    let patience = tokio::time::sleep(Duration::from_millis(SLOT_WAIT_MS));
    tokio::select! {
        () = stop.cancelled() => return,
        () = held(0) => {}
        () = patience => {
            if holding.load().is_empty() {
                tracing::warn!(%http, %grpc, %resp, "serving, and refusing requests for IDs until there is a worker slot");
            }
            let all_but_one = usize::from(holding.wanted().get()) - 1;
            tokio::select! { () = stop.cancelled() => return, () = held(all_but_one) => {} }
        }
    }
    let slots = holding.load().iter().map(|held| held.generator.slot()).collect();
    let registry = registries::name(&config);
    Greeting { addresses, slots, wanted: holding.wanted(), registry, layout }.give(log::is_json(&config.log));
}

/// What is served, where, from which slots, and one line to try.
struct Greeting {
    addresses: Addresses,
    slots: Vec<Slot>,
    /// How many there are to be.
    wanted: NonZeroU16,
    registry: String,
    layout: Layout,
}

impl Greeting {
    fn give(&self, json: bool) {
        let [http, grpc, resp] = self.addresses.shown();
        let (registry, version) = (&self.registry, env!("CARGO_PKG_VERSION"));
        let held = match self.slots.as_slice() {
            [] => "none".to_owned(),
            [only] => only.to_string(),
            [first, .., last] => format!("{first} … {last}"),
        };
        let slots = match self.wanted.get() {
            1 => held,
            wanted => format!("{held} ({} of {wanted})", self.slots.len()),
        };
        let (epoch, end) = (timestamp(self.layout.epoch_ms()), timestamp(self.layout.end_ms()));
        let layout = format!("{} bits, from {epoch} until {end}", self.layout.split());
        let curl = self.addresses.http.map(|at| format!("curl http://{}/api/v1/id", reachable(at)));
        let curl = curl.unwrap_or_default();
        if json {
            tracing::info!(version, http, grpc, resp, slots, registry, layout, r#try = curl, "serving");
            return;
        }
        let greeting = format!(
            "\n  snowmint {version}\n\n  REST      {http}\n  gRPC      {grpc}\n  RESP      {resp}\n  slots     {slots}\n  \
             registry  {registry}\n  layout    {layout}\n\n  {curl}\n\n"
        );
        // A standard error that is gone keeps nobody from being served.
        let _ = io::stderr().write_all(greeting.as_bytes());
    }
}

/// An address a client on this machine can use for a listener.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        ip if !ip.is_unspecified() => address,
        IpAddr::V4(_) => SocketAddr::from(([127, 0, 0, 1], address.port())),
        IpAddr::V6(_) => SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, address.port())),
    }
}

fn stop_on_signal(stop: &CancellationToken) -> io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("stopping: finishing what is in flight");
        stop.cancel();
        // Asked a second time, it does not wait.
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::warn!("stopped at once");
        std::process::exit(1);
    });
    Ok(())
}

/// Waits for a task, and hands on its panic if it has one.
async fn ended(task: JoinHandle<()>) {
    if let Err(error) = task.await
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}
