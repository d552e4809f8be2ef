//! What is asked of the audit archive: whether it is whole and has no ID twice, who got an ID, and how long it is
//! kept.
//!
//! All of it reads objects, and `cat` what waits on this disk to become one: no node, no registry.

pub mod cat;
pub mod lifecycle;
mod lines;
mod list;
mod parallel;
pub mod verify;

pub use list::{Entry, Listing, Scope, Tier, list};

/// Why the archive cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// What there is could not be seen.
    #[error("the archive {archive} cannot be listed")]
    List {
        /// Where it is.
        archive: String,
        /// Why.
        source: object_store::Error,
    },
    /// An object could not be moved or deleted.
    #[error("{object} cannot be {done}")]
    Change {
        /// Which.
        object: String,
        /// Moved or deleted.
        done: &'static str,
        /// Why.
        source: object_store::Error,
    },
    /// A bucket does not do what is wanted.
    #[error("{url}: {problem}")]
    Bucket {
        /// Which.
        url: String,
        /// Why.
        problem: String,
    },
    /// What waits for the archive on this disk could not be seen.
    #[error("what waits for the archive cannot be read")]
    Waiting(#[source] std::io::Error),
    /// The result could not be written.
    #[error("cannot write the result")]
    Output(#[from] std::io::Error),
}
