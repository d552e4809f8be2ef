//! The snowmint service: everything behind the `snowmint` binary.
//!
//! Data flows in three lines, and nothing points backwards: requests through `api` and [`service`] to the
//! generator; slots and windows from the [`registry`] through the [`lease`] to the generator; time from the
//! [`clock`] into both.

pub mod api;
pub mod archive;
pub mod audit;
mod background;
pub mod backup;
pub mod cli;
pub mod clickhouse;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod error;
pub mod event;
mod files;
pub mod journal;
pub mod lease;
pub mod log;
pub mod metrics;
pub mod objects;
pub mod observe;
mod open_files;
pub mod privacy;
pub mod registry;
pub mod report;
pub mod serve;
pub mod service;
pub mod settings;
pub mod sink;
