//! The registry, as `/cluster` shows it.
#![expect(clippy::struct_field_names, reason = "the names are those of the wire")]

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use snowmint::{Id, Slot};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::registry::{Datacenter as Named, Owner, Retired, Snapshot, WindowRecord, Worker};

/// Who holds what.
#[derive(Serialize, ToSchema)]
pub(super) struct Cluster {
    /// Which namespace it is.
    #[schema(value_type = String, format = "uuid")]
    cluster_id: Uuid,
    /// Which registry keeps it.
    registry: &'static str,
    /// Where timestamps start, in Unix milliseconds.
    epoch_ms: u64,
    /// How many bits time, datacenter, worker and sequence have.
    #[schema(example = "41/5/5/12")]
    layout: String,
    /// How far one millisecond's IDs count.
    max_sequence: u32,
    /// The workers that look alive.
    datacenters: Vec<Datacenter>,
    /// The window of every slot that was ever held.
    windows: Vec<Window>,
    /// The slots that cool down.
    retired_workers: Vec<RetiredWorker>,
}

/// A datacenter and its workers.
#[derive(Serialize, ToSchema)]
struct Datacenter {
    datacenter_id: u16,
    /// Where it has one.
    name: Option<String>,
    /// Where it has one.
    region: Option<String>,
    workers: Vec<LiveWorker>,
}

/// A worker that looks alive.
#[derive(Serialize, ToSchema)]
struct LiveWorker {
    worker_id: u16,
    hostname: String,
    /// Where it serves.
    ip: String,
    /// Where it serves.
    port: u16,
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    /// Of the program.
    version: String,
    /// The node's name, which survives a restart.
    node: String,
    /// This run of it.
    #[schema(value_type = String, format = "uuid")]
    instance: Uuid,
}

/// The durable window of a slot.
#[derive(Serialize, ToSchema)]
struct Window {
    #[schema(example = "dc0_worker5")]
    slot: String,
    datacenter_id: u16,
    worker_id: u16,
    /// The node that holds or held it.
    node: String,
    /// The lowest ID that cannot have been issued yet.
    #[schema(value_type = u64)]
    ceiling: Id,
    #[schema(value_type = String, format = DateTime)]
    ceiling_time: Timestamp,
    /// Whether a worker looks alive on it.
    held: bool,
}

/// A slot that was given back, and cools down.
#[derive(Serialize, ToSchema)]
struct RetiredWorker {
    #[schema(example = "dc0_worker5")]
    slot: String,
    datacenter_id: u16,
    worker_id: u16,
    #[schema(value_type = String, format = DateTime)]
    retired_at: Timestamp,
    /// The highest ID its holder issued, if any.
    #[schema(value_type = Option<u64>)]
    last_id: Option<Id>,
    /// From when on any node may take it.
    #[schema(value_type = String, format = DateTime)]
    reuse_after: Timestamp,
}

impl Cluster {
    pub(super) fn new(snapshot: Snapshot, now: Timestamp) -> Self {
        let Snapshot { namespace, datacenters, slots } = snapshot;
        let mut datacenters: BTreeMap<u16, Datacenter> =
            datacenters.into_iter().map(|(id, named)| (id, Datacenter::new(id, named))).collect();
        let (mut windows, mut retired_workers) = (Vec::new(), Vec::new());
        for (slot, state) in slots {
            if let Some((record, _)) = state.window {
                windows.push(Window::new(slot, record, state.worker.is_some()));
            }
            if let Some(worker) = state.worker {
                let id = slot.datacenter;
                let datacenter =
                    datacenters.entry(id).or_insert_with(|| Datacenter::new(id, Named::default()));
                datacenter.workers.push(LiveWorker::new(slot, worker));
            }
            if let Some(retired) = state.retired.filter(|retired| retired.reuse_after > now) {
                retired_workers.push(RetiredWorker::new(slot, &retired));
            }
        }
        Self {
            cluster_id: namespace.cluster_id,
            registry: "embedded",
            epoch_ms: namespace.epoch_ms,
            layout: namespace.layout.to_string(),
            max_sequence: namespace.max_sequence,
            datacenters: datacenters.into_values().collect(),
            windows,
            retired_workers,
        }
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
    fn new(slot: Slot, record: WindowRecord, held: bool) -> Self {
        Self {
            slot: slot.to_string(),
            datacenter_id: slot.datacenter,
            worker_id: slot.worker,
            node: record.owner.node,
            ceiling: record.ceiling,
            ceiling_time: record.ceiling_time,
            held,
        }
    }
}

impl RetiredWorker {
    fn new(slot: Slot, retired: &Retired) -> Self {
        Self {
            slot: slot.to_string(),
            datacenter_id: slot.datacenter,
            worker_id: slot.worker,
            retired_at: retired.retired_at,
            last_id: retired.last_id,
            reuse_after: retired.reuse_after,
        }
    }
}
