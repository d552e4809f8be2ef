//! How long records are kept, and where: at hand, then where they cost less, then not at all.
//!
//! A bucket of S3 is told so once, and does it itself. In a directory and in HDFS the command does it each time it
//! is asked to: what is older goes below `warm/` and `cold/`, where `verify` and `cat` find it.

mod bucket;
mod tiers;

use super::AuditError;
use crate::config::{Scheme, StoreUrl};
use crate::objects::{Kind, Objects};

/// How old records are that are moved to where they cost less, in days: the document's.
pub const WARM_DAYS: u32 = 30;

/// How old records are that are moved to where they cost least, in days: the document's.
pub const COLD_DAYS: u32 = 365;

/// How old records are that are deleted, in days: seven years, which have two leap days at most.
pub const DELETE_DAYS: u32 = 7 * 365 + 2;

/// At what age something is done with records, in days. Each is more than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "names carry their units")]
pub struct Ages {
    warm_days: u32,
    cold_days: u32,
    delete_days: u32,
}

/// Ages that are not in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "records cannot be warm after {warm_days} days, cold after {cold_days} and deleted after {delete_days}: each has \
     to be more than the one before"
)]
#[expect(clippy::struct_field_names, reason = "names carry their units")]
pub struct AgesError {
    warm_days: u32,
    cold_days: u32,
    delete_days: u32,
}

impl Ages {
    /// Ages in days.
    pub fn new(warm_days: u32, cold_days: u32, delete_days: u32) -> Result<Self, AgesError> {
        if 0 < warm_days && warm_days < cold_days && cold_days < delete_days {
            Ok(Self { warm_days, cold_days, delete_days })
        } else {
            Err(AgesError { warm_days, cold_days, delete_days })
        }
    }
}

/// Says how it is, and what [`apply`] would do.
pub async fn print(objects: &Objects, ages: Ages, now_ms: u64) -> Result<Vec<String>, AuditError> {
    match &objects.kind {
        Kind::S3(s3) => bucket::print(s3, objects.url(), ages).await,
        _ => tiers::print(movable(objects)?, ages, now_ms).await,
    }
}

/// Does it, and says what was done. Where there is nothing to do, nothing is.
pub async fn apply(objects: &Objects, ages: Ages, now_ms: u64) -> Result<Vec<String>, AuditError> {
    match &objects.kind {
        Kind::S3(s3) => bucket::apply(s3, objects.url(), ages).await,
        _ => tiers::apply(movable(objects)?, ages, now_ms).await,
    }
}

/// Google's and Azure's buckets move objects by rules of their own, and by nothing but a copy when asked.
fn movable(objects: &Objects) -> Result<&Objects, AuditError> {
    match objects.url() {
        StoreUrl::Remote { scheme: Scheme::Gcs | Scheme::Azure, .. } => Err(AuditError::Bucket {
            url: objects.url().to_string(),
            problem: "it has lifecycle rules of its own, which are set with the tools of whoever runs it"
                .to_owned(),
        }),
        _ => Ok(objects),
    }
}
