//! ClickHouse: what is told to it is there once, in every table and view, whatever happens on the way.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(missing_docs, unreachable_pub, reason = "tests")]

mod backup;
mod commands;
#[allow(dead_code, reason = "other stores' tests use more of it")]
#[path = "../reports/contract.rs"]
mod contract;
mod delivery;
mod measure;
mod store;
mod tables;
