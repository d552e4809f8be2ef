//! What an archive has.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use futures_util::TryStreamExt;
use object_store::ObjectStoreExt;
use snowmint::Slot;
use snowmint_server::archive::{Hash, ObjectKey, Record};
use snowmint_server::objects::{Objects, is_temporary};
use uuid::Uuid;

/// The lines of every object, by key.
pub type Lines = BTreeMap<ObjectKey, Vec<String>>;

/// Everything in an archive, as `zcat` gives it.
pub async fn read(objects: &Objects) -> Lines {
    let mut lines = Lines::new();
    let listed: Vec<_> = objects.store.list(None).try_collect().await.unwrap();
    for location in listed.into_iter().map(|object| object.location).filter(|path| !is_temporary(path)) {
        let bytes = objects.store.get(&location).await.unwrap().bytes().await.unwrap();
        let key: ObjectKey = location.as_ref().parse().unwrap();
        lines.insert(key, zcat(&bytes).lines().map(str::to_owned).collect());
    }
    lines
}

fn zcat(bytes: &[u8]) -> String {
    let mut zcat = Command::new("zcat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, bytes) = (zcat.stdin.take().unwrap(), bytes.to_vec());
    let writer = std::thread::spawn(move || stdin.write_all(&bytes).unwrap());
    let output = zcat.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// Checks that all chains are whole and that each object is one piece of one: the events' numbers in their journals,
/// each once.
pub fn assert_whole(lines: &Lines) -> Vec<(Uuid, u64)> {
    let mut chains: BTreeMap<(Uuid, Option<Slot>), BTreeMap<u64, (Hash, Hash)>> = BTreeMap::new();
    let mut events = Vec::new();
    for (key, lines) in lines {
        assert!(!lines.is_empty(), "{key}");
        let mut before: Option<(Uuid, u64)> = None;
        for line in lines {
            let record: Record<'_> = serde_json::from_str(line).unwrap();
            let chain = record.chain;
            assert_eq!(record.slot(), key.slot, "{key}: {line}");
            let follows = |before: (Uuid, u64)| before == (chain.journal, chain.sequence - 1);
            assert!(before.is_none_or(follows), "{key}: {line}");
            before = Some((chain.journal, chain.sequence));
            let hashes = (chain.previous, Hash::of(line.as_bytes()));
            let there = chains.entry((chain.journal, key.slot)).or_default();
            assert_eq!(there.insert(chain.sequence, hashes), None, "twice: {key}: {line}");
            let number = u64::try_from(record.event_id.as_u128() ^ chain.journal.as_u128()).unwrap();
            events.push((chain.journal, number));
        }
    }
    for chain in chains.values() {
        let mut previous = Hash::NOTHING;
        for (sequence, (there, (link, hash))) in (1..).zip(chain) {
            assert_eq!((*there, *link), (sequence, previous));
            previous = *hash;
        }
    }
    events.sort_unstable();
    let all = events.len();
    events.dedup();
    assert_eq!(events.len(), all, "an event is told twice");
    events
}
