//! The registry as it is shown: by `/cluster`, and by `snowmint cluster status`.
#![expect(clippy::struct_field_names, reason = "the names are those of the wire")]

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use snowmint::{Id, Slot};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::registry::{Datacenter as Named, Owner, Retired, Snapshot, WindowRecord, Worker};

/// Who holds what.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Cluster {
    /// Which namespace it is.
    #[schema(value_type = String, format = "uuid")]
    pub(crate) cluster_id: Uuid,
    /// Which registry keeps it.
    #[schema(example = "etcd://etcd-0:2379")]
    pub(crate) registry: String,
    /// When it was read.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) as_of: Timestamp,
    /// Whether the registry could not be read now, so that this is what it last said.
    pub(crate) stale: bool,
    /// What is wrong with the registry or with the settings in it, if anything.
    pub(crate) problem: Option<String>,
    /// Where timestamps start, in Unix milliseconds.
    pub(crate) epoch_ms: u64,
    /// How many bits time, datacenter, worker and sequence have.
    #[schema(example = "41/5/5/12")]
    pub(crate) layout: String,
    /// How far one millisecond's IDs count.
    pub(crate) max_sequence: u32,
    /// How far the wall clock may be from the serving clock before a node warns.
    pub(crate) clock_drift_threshold_ms: u64,
    /// The workers that look alive.
    pub(crate) datacenters: Vec<Datacenter>,
    /// The window of every slot that was ever held.
    pub(crate) windows: Vec<Window>,
    /// The slots that cool down.
    pub(crate) retired_workers: Vec<RetiredWorker>,
    /// The slots that cannot be used, because an entry of theirs cannot be read.
    pub(crate) damaged: Vec<Damaged>,
}

/// A datacenter and its workers.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Datacenter {
    pub(crate) datacenter_id: u16,
    /// Where it has one.
    pub(crate) name: Option<String>,
    /// Where it has one.
    pub(crate) region: Option<String>,
    pub(crate) workers: Vec<LiveWorker>,
}

/// A worker that looks alive.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LiveWorker {
    pub(crate) worker_id: u16,
    pub(crate) hostname: String,
    /// Where it serves.
    pub(crate) ip: String,
    /// Where it serves.
    pub(crate) port: u16,
    #[schema(value_type = String, format = DateTime)]
    pub(crate) started_at: Timestamp,
    /// Of the program.
    pub(crate) version: String,
    /// The node's name, which survives a restart.
    pub(crate) node: String,
    /// This run of it.
    #[schema(value_type = String, format = "uuid")]
    pub(crate) instance: Uuid,
}

/// The durable window of a slot.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Window {
    #[schema(example = "dc0_worker5")]
    pub(crate) slot: String,
    pub(crate) datacenter_id: u16,
    pub(crate) worker_id: u16,
    /// The node that holds or held it.
    pub(crate) node: String,
    /// The lowest ID that cannot have been issued yet.
    #[schema(value_type = u64)]
    pub(crate) ceiling: Id,
    #[schema(value_type = String, format = DateTime)]
    pub(crate) ceiling_time: Timestamp,
    /// Whether a worker looks alive on it.
    pub(crate) held: bool,
    /// From then until the ceiling, in milliseconds; 0 where that has passed.
    pub(crate) window_left_ms: u64,
}

/// A slot that was given back, and cools down.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RetiredWorker {
    #[schema(example = "dc0_worker5")]
    pub(crate) slot: String,
    pub(crate) datacenter_id: u16,
    pub(crate) worker_id: u16,
    #[schema(value_type = String, format = DateTime)]
    pub(crate) retired_at: Timestamp,
    /// The highest ID its holder issued, if any.
    #[schema(value_type = Option<u64>)]
    pub(crate) last_id: Option<Id>,
    /// From when on any node may take it.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) reuse_after: Timestamp,
    /// The node that may take it before.
    pub(crate) node: String,
}

/// A slot that cannot be used.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Damaged {
    #[schema(example = "dc0_worker5")]
    pub(crate) slot: String,
    /// Which entry, and what is wrong with it.
    pub(crate) problem: String,
}

impl Cluster {
    /// What was read from `registry` at `now`.
    #[must_use]
    pub fn new(snapshot: Snapshot, registry: String, now: Timestamp) -> Self {
        let Snapshot { namespace, datacenters, slots } = snapshot;
        let mut datacenters: BTreeMap<u16, Datacenter> =
            datacenters.into_iter().map(|(id, named)| (id, Datacenter::new(id, named))).collect();
        let (mut windows, mut retired_workers, mut damaged) = (Vec::new(), Vec::new(), Vec::new());
        for (slot, state) in slots {
            if let Some((record, _)) = state.window {
                windows.push(Window::new(slot, record, state.worker.is_some(), now));
            }
            if let Some(worker) = state.worker {
                let id = slot.datacenter;
                let datacenter =
                    datacenters.entry(id).or_insert_with(|| Datacenter::new(id, Named::default()));
                datacenter.workers.push(LiveWorker::new(slot, worker));
            }
            if let Some(retired) = state.retired.filter(|retired| retired.reuse_after > now) {
                retired_workers.push(RetiredWorker::new(slot, retired));
            }
            damaged.extend(state.damage.map(|problem| Damaged { slot: slot.to_string(), problem }));
        }
        Self {
            cluster_id: namespace.cluster_id,
            registry,
            as_of: now,
            stale: false,
            problem: None,
            epoch_ms: namespace.epoch_ms,
            layout: namespace.layout.to_string(),
            max_sequence: namespace.max_sequence,
            clock_drift_threshold_ms: namespace.clock_drift_threshold_ms,
            datacenters: datacenters.into_values().collect(),
            windows,
            retired_workers,
            damaged,
        }
    }

    /// With what is wrong, if anything is.
    #[must_use]
    pub fn with_problem(self, problem: Option<String>) -> Self {
        Self { problem, ..self }
    }

    /// What was read before, now that the registry cannot be read.
    #[must_use]
    pub fn gone_stale(self, problem: String) -> Self {
        Self { stale: true, problem: Some(problem), ..self }
    }
}

impl Datacenter {
    fn new(datacenter_id: u16, Named { name, region }: Named) -> Self {
        Self { datacenter_id, name, region, workers: Vec::new() }
    }
}

impl LiveWorker {
    fn new(slot: Slot, worker: Worker) -> Self {
        let Worker { hostname, ip, port, started_at, version, owner: Owner { node, instance } } = worker;
        Self { worker_id: slot.worker, hostname, ip, port, started_at, version, node, instance }
    }
}

impl Window {
    fn new(slot: Slot, record: WindowRecord, held: bool, now: Timestamp) -> Self {
        let left_ms = record.ceiling_time.as_millisecond().saturating_sub(now.as_millisecond());
        Self {
            slot: slot.to_string(),
            datacenter_id: slot.datacenter,
            worker_id: slot.worker,
            node: record.owner.node,
            ceiling: record.ceiling,
            ceiling_time: record.ceiling_time,
            held,
            window_left_ms: u64::try_from(left_ms).unwrap_or(0),
        }
    }
}

impl RetiredWorker {
    fn new(slot: Slot, retired: Retired) -> Self {
        Self {
            slot: slot.to_string(),
            datacenter_id: slot.datacenter,
            worker_id: slot.worker,
            retired_at: retired.retired_at,
            last_id: retired.last_id,
            reuse_after: retired.reuse_after,
            node: retired.node,
        }
    }
}
