//! Makes an audit archive as nodes would have in a month, for `cargo xtask bench audit`.
//!
//! `make_archive DIRECTORY IDS IDS_PER_REQUEST SLOTS HOURS`: so many IDs, in requests for so many on average, of so
//! many slots with a node each, from the start of 2024 on. The same arguments give the same archive.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::thread;

use flate2::Compression;
use flate2::write::GzEncoder;
use snowmint::{Layout, Parts, Slot};
use snowmint_server::archive::{
    Components, EventType, Hash, Hour, Link, ObjectKey, Performance, Range, Record, RequestMetadata,
};
use uuid::Uuid;

/// 2024-01-01T00:00:00Z.
const START_MS: u64 = 1_704_067_200_000;
const MS_PER_HOUR: u64 = 3_600_000;
const WORKERS: u16 = 32;

struct Plan {
    directory: PathBuf,
    slots: u16,
    hours: u32,
    ids_per_request: u32,
    requests_per_hour: u64,
}

fn main() -> io::Result<()> {
    let plan = plan().ok_or_else(|| io::Error::other("wanted: DIRECTORY IDS IDS_PER_REQUEST SLOTS HOURS"))?;
    thread::scope(|scope| {
        let start = |number: u16| {
            let slot = Slot { datacenter: number / WORKERS, worker: number % WORKERS };
            let node = Node::new(&plan, slot);
            scope.spawn(|| node.write())
        };
        let nodes: Vec<_> = (0..plan.slots).map(start).collect();
        nodes.into_iter().try_for_each(|node| node.join().expect("it does not panic"))
    })
}

fn plan() -> Option<Plan> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next()?.into();
    let ids: u64 = arguments.next()?.parse().ok()?;
    let ids_per_request: u32 = arguments.next()?.parse().ok()?;
    let slots: u16 = arguments.next()?.parse().ok()?;
    let hours: u32 = arguments.next()?.parse().ok()?;
    let requests = ids.checked_div(u64::from(ids_per_request) * u64::from(slots) * u64::from(hours))?;
    // A request's IDs are of one millisecond, and a millisecond's of one request.
    let fits = (1..=MS_PER_HOUR).contains(&requests)
        && ids_per_request <= Layout::default().split().max_sequence() / 2;
    fits.then_some(Plan { directory, slots, hours, ids_per_request, requests_per_hour: requests })
}

/// What one node writes.
struct Node<'a> {
    plan: &'a Plan,
    slot: Slot,
    chain: Link,
    chance: u64,
    line: Vec<u8>,
}

impl<'a> Node<'a> {
    fn new(plan: &'a Plan, slot: Slot) -> Self {
        let chance = u64::from(slot.datacenter) << 16 | u64::from(slot.worker);
        let journal = Uuid::from_u64_pair(0x5eed, chance);
        let chain = Link { journal, sequence: 0, previous: Hash::NOTHING };
        Self { plan, slot, chain, chance, line: Vec::new() }
    }

    fn write(mut self) -> io::Result<()> {
        for hour in 0..self.plan.hours {
            let hour = Hour(Hour::of(START_MS).0 + hour);
            let key = ObjectKey { hour, slot: Some(self.slot), number: 1 };
            fs::create_dir_all(self.plan.directory.join(hour.directory()))?;
            let file = File::create(self.plan.directory.join(key.to_string()))?;
            let mut packed = GzEncoder::new(BufWriter::new(file), Compression::default());
            for request in 0..self.plan.requests_per_hour {
                self.request(hour.start_ms() + request * MS_PER_HOUR / self.plan.requests_per_hour)?;
                packed.write_all(&self.line)?;
            }
            packed.finish()?.flush()?;
        }
        Ok(())
    }

    fn request(&mut self, timestamp_ms: u64) -> io::Result<()> {
        let count = 1 + self.random(2 * self.plan.ids_per_request - 1);
        let sequence = self.random(Layout::default().split().max_sequence() - count + 1);
        let first = Layout::default().compose(Parts { timestamp_ms, slot: self.slot, sequence });
        let first = first.map_err(io::Error::other)?;
        let one = count == 1;
        self.chain.sequence += 1;
        let record = Record {
            event_id: Uuid::from_u128(self.chain.journal.as_u128() ^ u128::from(self.chain.sequence)),
            timestamp: timestamp_ms,
            event_type: if one { EventType::IdGenerated } else { EventType::IdsIssued },
            datacenter_id: Some(self.slot.datacenter),
            worker_id: Some(self.slot.worker),
            generated_id: one.then_some(first),
            ranges: if one { Vec::new() } else { vec![Range { first, count }] },
            count: (!one).then_some(count.into()),
            id_components: Some(Components {
                timestamp_ms,
                datacenter_id: self.slot.datacenter,
                worker_id: self.slot.worker,
                sequence: one.then_some(sequence),
            }),
            error: None,
            slot: None,
            request_metadata: Some(self.metadata()),
            performance: Some(Performance {
                generation_latency_us: self.random(90),
                queue_time_us: self.random(20),
                total_latency_us: self.random(300),
            }),
            chain: self.chain,
        };
        self.line.clear();
        serde_json::to_writer(&mut self.line, &record)?;
        self.chain.previous = Hash::of(&self.line);
        self.line.push(b'\n');
        Ok(())
    }

    fn metadata(&mut self) -> RequestMetadata<'static> {
        let client_ip = format!("10.{}.{}.{}", self.random(4), self.random(256), self.random(256));
        let request_id = Uuid::from_u64_pair(self.random_u64(), self.random_u64());
        RequestMetadata {
            client_ip: client_ip.into(),
            user_agent: "orders/3.2 (Linux; x86_64)".into(),
            request_id: request_id.to_string().into(),
            api_version: "v1".into(),
            api: "rest".into(),
        }
    }

    /// Below `limit`.
    fn random(&mut self, limit: u32) -> u32 {
        u32::try_from(self.random_u64() % u64::from(limit)).unwrap_or(0)
    }

    /// The next of `SplitMix64`.
    fn random_u64(&mut self) -> u64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.chance;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
