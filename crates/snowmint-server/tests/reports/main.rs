//! The metrics stores: the same numbers from each on the same events.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(missing_docs, unreachable_pub, reason = "tests")]

mod contract;
mod embedded;
