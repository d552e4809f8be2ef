//! The default backend: one file in the data directory, shared by the processes of one machine.
//!
//! * `registry.json`: a line with a checksum, then all of it as JSON. Replaced atomically (temporary file,
//!   fsync, rename, fsync of the directory) and never edited in place.
//! * `registry.lock`: locked while the file is read and replaced, so that a swap is one step.
//! * `slots/dc0_worker5.lock`: locked by the process that holds the slot for as long as it lives. The system
//!   lets go of it with the process, kill -9 included; a stopped process keeps it.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use snowmint::Slot;

use crate::files;

use super::{
    CALL_MS_MAX, Changed, Datacenter, Namespace, Registry, RegistryError, Retired, Revision, Setting,
    SlotState, Snapshot, SwapError, WindowRecord, Worker,
};

const FORMAT: &str = "1";
const HEADER_NAME: &str = "snowmint-registry";

/// How long the lock of another process is waited for, in milliseconds: one replacement of the file takes
/// a few, unless that process was stopped in the middle of it.
const LOCK_WAIT_MS_MAX: u64 = 2_000;
const LOCK_POLL_MS: u64 = 1;

/// How often it is looked whether another process changed the settings, in milliseconds.
const SETTINGS_POLL_MS: u64 = 1_000;

/// The largest registry file that is read, in bytes: a thousand slots take half a megabyte.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// The registry of one data directory.
pub struct EmbeddedRegistry {
    files: Arc<Files>,
}

struct Files {
    directory: PathBuf,
    /// The slots this process holds, each by its locked file.
    held: Mutex<HashMap<Slot, File>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Contents {
    namespace: Namespace,
    #[serde(default)]
    datacenters: BTreeMap<u16, Datacenter>,
    windows: BTreeMap<String, Window>,
    workers: BTreeMap<String, Worker>,
    retired_workers: BTreeMap<String, Retired>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Window {
    revision: Revision,
    #[serde(flatten)]
    record: WindowRecord,
}

impl EmbeddedRegistry {
    /// The registry in `directory`, which is made where it is not there.
    pub fn new(directory: &Path) -> Result<Self, RegistryError> {
        let files = Files { directory: directory.to_owned(), held: Mutex::default() };
        let slots = files.slots_directory();
        files::create_directory(&slots).map_err(|source| file_error("cannot create", &slots, source))?;
        Ok(Self { files: Arc::new(files) })
    }

    /// The registry that is in `directory`, and none that is not.
    pub fn existing(directory: &Path) -> Result<Self, RegistryError> {
        let files = Files { directory: directory.to_owned(), held: Mutex::default() };
        let path = files.registry_file();
        fs::metadata(&path).map_err(|source| file_error("cannot read", &path, source))?;
        Self::new(directory)
    }

    /// Runs file work where it may block, and gives up on it after [`CALL_MS_MAX`].
    ///
    /// Given up on, a change may still be made: that is for the caller to call unknown.
    async fn blocking<T: Send + 'static, E: Send + 'static>(
        &self,
        work: impl FnOnce(&Files) -> Result<T, E> + Send + 'static,
        timed_out: fn(RegistryError) -> E,
    ) -> Result<T, E> {
        let files = Arc::clone(&self.files);
        let work = tokio::task::spawn_blocking(move || work(&files));
        match tokio::time::timeout(Duration::from_millis(CALL_MS_MAX), work).await {
            Ok(Ok(result)) => result,
            Ok(Err(panicked)) => std::panic::resume_unwind(panicked.into_panic()),
            Err(_) => Err(timed_out(RegistryError::TimedOut)),
        }
    }
}

#[async_trait]
impl Registry for EmbeddedRegistry {
    async fn open(&self, wanted: &Namespace) -> Result<Namespace, RegistryError> {
        let wanted = wanted.clone();
        self.blocking(
            move |files| {
                let _lock = files.lock()?;
                if let Some(contents) = files.read()? {
                    return Ok(contents.namespace);
                }
                let contents = Contents {
                    namespace: wanted,
                    datacenters: BTreeMap::new(),
                    windows: BTreeMap::new(),
                    workers: BTreeMap::new(),
                    retired_workers: BTreeMap::new(),
                };
                files.replace(&contents).map_err(ReplaceError::into_inner)?;
                Ok(contents.namespace)
            },
            |late| late,
        )
        .await
    }

    async fn settings(&self) -> Result<(Namespace, Changed), RegistryError> {
        let namespace = self.blocking(|files| Ok(files.locked_contents()?.namespace), |late| late).await?;
        let (read, files) = (namespace.clone(), Arc::clone(&self.files));
        // The file changes with every extension, so that it is read for what it says; without its lock, which
        // is for those who change it: a file is replaced as a whole.
        let changed = async move {
            loop {
                tokio::time::sleep(Duration::from_millis(SETTINGS_POLL_MS)).await;
                let files = Arc::clone(&files);
                let now = tokio::task::spawn_blocking(move || files.contents()).await;
                if !matches!(now, Ok(Ok(contents)) if contents.namespace == read) {
                    return;
                }
            }
        };
        Ok((namespace, Box::pin(changed)))
    }

    async fn set(&self, setting: &Setting) -> Result<(), RegistryError> {
        let setting = setting.clone();
        self.blocking(
            move |files| {
                let _lock = files.lock()?;
                let mut contents = files.contents()?;
                contents.set(setting);
                files.replace(&contents).map_err(ReplaceError::into_inner)
            },
            |late| late,
        )
        .await
    }

    async fn snapshot(&self) -> Result<Snapshot, RegistryError> {
        self.blocking(
            |files| {
                let _lock = files.lock()?;
                let contents = files.contents()?;
                let slots = contents.windows.keys().filter_map(|key| key.parse().ok());
                let slots = slots.map(|slot| (slot, files.state(&contents, slot))).collect();
                Ok(Snapshot { namespace: contents.namespace, datacenters: contents.datacenters, slots })
            },
            |late| late,
        )
        .await
    }

    async fn slot(&self, slot: Slot) -> Result<SlotState, RegistryError> {
        self.blocking(
            move |files| {
                let _lock = files.lock()?;
                Ok(files.state(&files.contents()?, slot))
            },
            |late| late,
        )
        .await
    }

    async fn claim(
        &self,
        slot: Slot,
        expected: Option<Revision>,
        record: &WindowRecord,
        worker: &Worker,
    ) -> Result<Revision, SwapError> {
        let (record, worker) = (record.clone(), worker.clone());
        self.blocking(move |files| files.claim(slot, expected, record, worker), SwapError::Unknown).await
    }

    async fn extend(
        &self,
        slot: Slot,
        expected: Revision,
        record: &WindowRecord,
    ) -> Result<Revision, SwapError> {
        let record = record.clone();
        self.blocking(move |files| files.extend(slot, expected, record), SwapError::Unknown).await
    }

    async fn retire(
        &self,
        slot: Slot,
        expected: Revision,
        record: &WindowRecord,
        retired: &Retired,
    ) -> Result<(), SwapError> {
        let (record, retired) = (record.clone(), retired.clone());
        self.blocking(move |files| files.retire(slot, expected, record, retired), SwapError::Unknown).await
    }

    async fn abandon(&self, slot: Slot) {
        self.files.let_go(slot);
    }
}

impl Files {
    fn claim(
        &self,
        slot: Slot,
        expected: Option<Revision>,
        record: WindowRecord,
        worker: Worker,
    ) -> Result<Revision, SwapError> {
        let _lock = self.lock().map_err(SwapError::Unavailable)?;
        let mut contents = self.contents().map_err(SwapError::Unavailable)?;
        let revision = contents.swap(slot, expected, record)?;
        let Some(alive) = self.lock_slot(slot).map_err(SwapError::Unavailable)? else {
            return Err(SwapError::Conflict {
                holder: contents.workers.remove(&slot.to_string()).map(|w| w.owner),
            });
        };
        contents.workers.insert(slot.to_string(), worker);
        contents.retired_workers.remove(&slot.to_string());
        // Whatever becomes of it, the slot's lock is ours until it is abandoned or retired; an unknown
        // outcome is looked into while nobody else can claim.
        let replaced = self.replace(&contents);
        if !matches!(replaced, Err(ReplaceError::NotDone(_))) {
            self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(slot, alive);
        }
        replaced?;
        Ok(revision)
    }

    fn extend(&self, slot: Slot, expected: Revision, record: WindowRecord) -> Result<Revision, SwapError> {
        let _lock = self.lock().map_err(SwapError::Unavailable)?;
        let mut contents = self.contents().map_err(SwapError::Unavailable)?;
        let revision = contents.swap(slot, Some(expected), record)?;
        self.replace(&contents)?;
        Ok(revision)
    }

    fn retire(
        &self,
        slot: Slot,
        expected: Revision,
        record: WindowRecord,
        retired: Retired,
    ) -> Result<(), SwapError> {
        let _lock = self.lock().map_err(SwapError::Unavailable)?;
        let mut contents = self.contents().map_err(SwapError::Unavailable)?;
        contents.swap(slot, Some(expected), record)?;
        contents.workers.remove(&slot.to_string());
        contents.retired_workers.insert(slot.to_string(), retired);
        self.replace(&contents)?;
        self.let_go(slot);
        Ok(())
    }

    /// What is known of a slot. Needs the registry's lock, so that looking whether a process holds the slot
    /// never gets in the way of one that takes it.
    fn state(&self, contents: &Contents, slot: Slot) -> SlotState {
        let key = slot.to_string();
        SlotState {
            window: contents.windows.get(&key).map(|window| (window.record.clone(), window.revision)),
            worker: contents.workers.get(&key).filter(|_| self.looks_alive(slot)).cloned(),
            retired: contents.retired_workers.get(&key).cloned(),
            damage: None,
        }
    }

    fn looks_alive(&self, slot: Slot) -> bool {
        // A lock that cannot be looked at may be held.
        !matches!(self.lock_slot(slot), Ok(Some(_)))
    }

    /// Locks a slot's file for this process, or says (`None`) that a process has it.
    fn lock_slot(&self, slot: Slot) -> Result<Option<File>, RegistryError> {
        let path = self.slots_directory().join(format!("{slot}.lock"));
        let file = open_lock(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(file_error("cannot lock", &path, source)),
        }
    }

    fn let_go(&self, slot: Slot) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&slot);
    }

    /// Locks the registry until the file that comes back is dropped.
    fn lock(&self) -> Result<File, RegistryError> {
        let path = self.directory.join("registry.lock");
        let file = open_lock(&path)?;
        let started = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock)
                    if started.elapsed() < Duration::from_millis(LOCK_WAIT_MS_MAX) =>
                {
                    #[expect(clippy::disallowed_methods, reason = "on a thread that may block")]
                    std::thread::sleep(Duration::from_millis(LOCK_POLL_MS));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(RegistryError::Busy {
                        path: path.display().to_string(),
                        waited_ms: LOCK_WAIT_MS_MAX,
                    });
                }
                Err(TryLockError::Error(source)) => return Err(file_error("cannot lock", &path, source)),
            }
        }
    }

    fn locked_contents(&self) -> Result<Contents, RegistryError> {
        let _lock = self.lock()?;
        self.contents()
    }

    fn contents(&self) -> Result<Contents, RegistryError> {
        self.read()?.ok_or_else(|| {
            file_error("cannot read", &self.registry_file(), io::Error::from(io::ErrorKind::NotFound))
        })
    }

    /// The contents of the registry's file, or `None` where there is none yet.
    fn read(&self) -> Result<Option<Contents>, RegistryError> {
        let path = self.registry_file();
        let mut bytes = Vec::new();
        match File::open(&path) {
            Ok(file) => file
                .take(FILE_BYTES_MAX)
                .read_to_end(&mut bytes)
                .map_err(|source| file_error("cannot read", &path, source))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(file_error("cannot read", &path, source)),
        };
        decode(&bytes).map(Some).map_err(|bad| match bad {
            Bad::Format(found) => {
                RegistryError::Format { path: path.display().to_string(), found, known: FORMAT }
            }
            Bad::Damaged(reason) => RegistryError::Corrupt { path: path.display().to_string(), reason },
        })
    }

    /// Replaces the registry's file, durably.
    fn replace(&self, contents: &Contents) -> Result<(), ReplaceError> {
        let path = self.registry_file();
        let temporary = self.directory.join("registry.json.new");
        let write = || {
            let mut file = File::create(&temporary)?;
            file.write_all(&encode(contents))?;
            file.sync_all()
        };
        write().map_err(|source| ReplaceError::NotDone(file_error("cannot write", &temporary, source)))?;
        fs::rename(&temporary, &path)
            .map_err(|source| ReplaceError::NotDone(file_error("cannot replace", &path, source)))?;
        // The new file is what every process reads from here on, but a loss of power may still undo it.
        files::sync_directory(&self.directory)
            .map_err(|source| ReplaceError::Unknown(file_error("cannot sync", &self.directory, source)))
    }

    fn registry_file(&self) -> PathBuf {
        self.directory.join("registry.json")
    }

    fn slots_directory(&self) -> PathBuf {
        self.directory.join("slots")
    }
}

impl Contents {
    /// Refuses unless the slot's record has the expected revision.
    fn expect(&self, slot: Slot, expected: Option<Revision>) -> Result<(), SwapError> {
        let stands = self.windows.get(&slot.to_string());
        if stands.map(|window| window.revision) == expected {
            return Ok(());
        }
        Err(SwapError::Conflict { holder: stands.map(|window| window.record.owner.clone()) })
    }

    fn set(&mut self, setting: Setting) {
        match setting {
            Setting::MaxSequence(number) => self.namespace.max_sequence = number,
            Setting::ClockDriftThreshold(ms) => self.namespace.clock_drift_threshold_ms = ms,
            Setting::DatacenterName(id, name) => self.datacenters.entry(id).or_default().name = Some(name),
            Setting::DatacenterRegion(id, region) => {
                self.datacenters.entry(id).or_default().region = Some(region);
            }
        }
    }

    fn swap(
        &mut self,
        slot: Slot,
        expected: Option<Revision>,
        record: WindowRecord,
    ) -> Result<Revision, SwapError> {
        self.expect(slot, expected)?;
        let revision = Revision(expected.map_or(1, |Revision(last)| last + 1));
        self.windows.insert(slot.to_string(), Window { revision, record });
        Ok(revision)
    }
}

enum ReplaceError {
    NotDone(RegistryError),
    Unknown(RegistryError),
}

impl ReplaceError {
    fn into_inner(self) -> RegistryError {
        match self {
            Self::NotDone(error) | Self::Unknown(error) => error,
        }
    }
}

impl From<ReplaceError> for SwapError {
    fn from(error: ReplaceError) -> Self {
        match error {
            ReplaceError::NotDone(error) => Self::Unavailable(error),
            ReplaceError::Unknown(error) => Self::Unknown(error),
        }
    }
}

fn encode(contents: &Contents) -> Vec<u8> {
    let body = serde_json::to_vec_pretty(contents).expect("the contents are maps with text keys");
    let mut bytes = format!("{HEADER_NAME} {FORMAT} crc32:{:08x}\n", crc32fast::hash(&body)).into_bytes();
    bytes.extend_from_slice(&body);
    bytes.push(b'\n');
    bytes
}

enum Bad {
    Format(String),
    Damaged(String),
}

fn decode(bytes: &[u8]) -> Result<Contents, Bad> {
    let damaged = |reason: &str| Bad::Damaged(reason.to_owned());
    let newline = bytes.iter().position(|&byte| byte == b'\n').ok_or_else(|| damaged("it has no header"))?;
    let header = str::from_utf8(&bytes[..newline]).map_err(|_| damaged("its header is no text"))?;
    let [HEADER_NAME, format, checksum] = header.split(' ').collect::<Vec<_>>()[..] else {
        return Err(damaged("its header is none"));
    };
    if format != FORMAT {
        return Err(Bad::Format(format.to_owned()));
    }
    let body = bytes[newline + 1..].strip_suffix(b"\n").ok_or_else(|| damaged("its end is missing"))?;
    if checksum != format!("crc32:{:08x}", crc32fast::hash(body)) {
        return Err(damaged("its checksum does not match"));
    }
    serde_json::from_slice(body).map_err(|error| Bad::Damaged(error.to_string()))
}

fn open_lock(path: &Path) -> Result<File, RegistryError> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|source| file_error("cannot open", path, source))
}

fn file_error(doing: &'static str, path: &Path, source: io::Error) -> RegistryError {
    let hint = match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            ". The data directory must be writable: choose another with --data-dir"
        }
        io::ErrorKind::StorageFull => ". The disk is full: nothing was changed",
        io::ErrorKind::NotFound => {
            ". The registry is gone: was the data directory removed under a running node?"
        }
        _ => "",
    };
    RegistryError::File { doing, path: path.display().to_string(), source, hint }
}
