//! A client of snowmint that has its IDs before they are asked for.
//!
//! It leases ranges of IDs over gRPC, in the background and ahead of their use, so that [`Client::next`] costs tens of
//! nanoseconds and no round trip. How much it leases follows the rate at which IDs are used.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let ids = snowmint_client::Client::builder().servers(["http://a:9090", "http://b:9090"]).build()?;
//! let id = ids.next().await?; // clones of `ids` share what is leased
//! println!("{id}");
//! # Ok(())
//! # }
//! ```
//!
//! * **No ID twice.** A range is received once and each of its IDs handed out once, to whichever clone or thread
//!   comes first. Where a reply is lost, a call cancelled or a client dropped, IDs are lost, never repeated.
//! * **No old ID.** An ID is handed out within [`Builder::max_age`] of when it was asked for, or not at all, so
//!   that the order of IDs is roughly that of time.
//! * **Several servers.** One is used until it fails; then the next, at once. A server that failed is left alone for
//!   a while. A call fails only if there was no ID by its [`Builder::deadline`], or if the request itself is refused.
//!
//! [`blocking`] is the same without `async`.

#[cfg_attr(loom, allow(dead_code, reason = "what uses the rest of it is not there"))]
mod store;

#[cfg(not(loom))]
pub mod blocking;
#[cfg(not(loom))]
mod builder;
#[cfg(not(loom))]
mod client;
#[cfg(not(loom))]
mod clock;
#[cfg(not(loom))]
mod error;
#[cfg(not(loom))]
mod refill;
#[cfg(not(loom))]
mod servers;

#[cfg(not(loom))]
pub use self::{
    builder::{BuildError, Builder, LEASE_IDS_MAX},
    client::{Client, Metrics},
    error::Error,
};
pub use snowmint::{Id, IdRange};
#[cfg(all(feature = "tls", not(loom)))]
pub use tonic::transport::ClientTlsConfig;

#[cfg(not(loom))]
mod proto {
    #![allow(
        missing_docs,
        clippy::pedantic,
        clippy::allow_attributes_without_reason,
        unused_qualifications,
        unreachable_pub,
        dead_code,
        reason = "generated code"
    )]

    tonic::include_proto!("snowmint.v1");
}
