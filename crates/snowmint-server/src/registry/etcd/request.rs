//! The parts of a transaction, and what its answer says.

use serde::Serialize;

use super::super::key::ROOT;
use super::super::tree::Entry;
use super::super::{Owner, Revision};
use super::proto::compare::{CompareTarget, TargetUnion};
use super::proto::request_op::Request;
use super::proto::response_op::Response;
use super::proto::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse,
};

/// What became of a swap that etcd answered.
pub(super) enum Swapped {
    Done(Revision),
    Conflict {
        holder: Option<Owner>,
        /// The conflict may be with an earlier try of the very same swap.
        repeated: bool,
    },
}

/// The lease of an entry that stays.
pub(super) const NO_LEASE: i64 = 0;

/// `path` is below the root, as everywhere in this module.
fn key(path: &str) -> Vec<u8> {
    format!("{ROOT}/{path}").into_bytes()
}

/// All below a directory: from it with its slash to the byte after the slash.
pub(super) fn below(directory: &str) -> RangeRequest {
    let mut end = key(directory);
    if let Some(slash) = end.last_mut() {
        *slash += 1;
    }
    RangeRequest { key: key(directory), range_end: end }
}

pub(super) fn get(path: &str) -> RequestOp {
    op(Request::RequestRange(RangeRequest { key: key(path), range_end: Vec::new() }))
}

pub(super) fn get_below(directory: &str) -> RequestOp {
    op(Request::RequestRange(below(directory)))
}

pub(super) fn put(path: &str, value: impl Into<Vec<u8>>, lease: i64) -> RequestOp {
    op(Request::RequestPut(PutRequest { key: key(path), value: value.into(), lease }))
}

pub(super) fn delete(path: &str) -> RequestOp {
    op(Request::RequestDeleteRange(DeleteRangeRequest { key: key(path) }))
}

/// Does `change` unless `condition` holds.
pub(super) fn unless(condition: Compare, change: RequestOp) -> RequestOp {
    let txn = TxnRequest { compare: vec![condition], success: Vec::new(), failure: vec![change] };
    op(Request::RequestTxn(txn))
}

/// Does `change` if `condition` holds.
pub(super) fn when(condition: Compare, change: RequestOp) -> RequestOp {
    let txn = TxnRequest { compare: vec![condition], success: vec![change], failure: Vec::new() };
    op(Request::RequestTxn(txn))
}

/// An entry has this revision; `None`: it is not there.
pub(super) fn has_revision(path: &str, revision: Option<Revision>) -> Compare {
    let revision = revision.map_or(0, |Revision(number)| number.cast_signed());
    compare(path, CompareTarget::Mod, TargetUnion::ModRevision(revision))
}

/// An entry is there, and goes with this lease.
pub(super) fn has_lease(path: &str, lease: i64) -> Compare {
    compare(path, CompareTarget::Lease, TargetUnion::Lease(lease))
}

fn compare(path: &str, target: CompareTarget, value: TargetUnion) -> Compare {
    Compare { key: key(path), target: target.into(), target_union: Some(value), ..Compare::default() }
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

pub(super) fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("what is kept has text keys and no fallible parts")
}

/// The store's revision, of which a change that was made has made the entries.
pub(super) fn revision(response: &TxnResponse) -> Revision {
    Revision(response.header.map_or(0, |header| header.revision.cast_unsigned()))
}

/// Everything that was read.
pub(super) fn entries(response: TxnResponse) -> Vec<Entry> {
    let ranges = response.responses.into_iter().filter_map(|op| match op.response {
        Some(Response::ResponseRange(range)) => Some(range.kvs),
        _ => None,
    });
    let entry = |kv: super::proto::KeyValue| {
        let path = str::from_utf8(&kv.key).ok()?.strip_prefix(ROOT)?.strip_prefix('/')?.to_owned();
        Some(Entry { path, value: kv.value, revision: Revision(kv.mod_revision.cast_unsigned()) })
    };
    ranges.flatten().filter_map(entry).collect()
}
