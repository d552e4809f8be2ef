//! The snowmint service: everything behind the `snowmint` binary.
//!
//! Data flows in three lines, and nothing points backwards:
//! request -> [`api`] -> [`service`] -> generator; [`registry`] -> [`lease`] -> generator; [`clock`] into
//! both. [`serve`] is the only module that names concrete parts.

pub mod cli;
pub mod config;
pub mod load;
pub mod serve;
pub mod server_url;
