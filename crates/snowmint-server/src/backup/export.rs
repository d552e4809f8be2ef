//! Retention that drops nothing before it is kept elsewhere.

use serde_json::Value;

use super::snapshot::{Wanted, marks};
use super::{BackupError, Progress, write};
use crate::clickhouse::{ClickHouse, retention};
use crate::objects::Objects;

/// Exports the months that are past as a whole, and drops them when every file of theirs is there. Says what it did.
///
/// From then on the tables have no TTL, which would take rows away day by day before their month can be exported: they
/// are kept up to a month longer, and for as long as exports fail.
pub async fn apply_retention(
    clickhouse: &ClickHouse,
    to: &Objects,
    progress: &dyn Progress,
) -> Result<Vec<String>, BackupError> {
    let mut done = retention::remove_ttls(clickhouse).await?;
    let mut expired = retention::expired(clickhouse).await?;
    expired.retain(|(_, months)| !months.is_empty());
    if expired.is_empty() {
        return Ok(done);
    }
    let wanted: Vec<Wanted> =
        expired.iter().map(|(table, months)| Wanted::partitions(table, months)).collect();
    // Written down before it is read: what comes later is seen.
    let before = marks(clickhouse, &wanted).await?;
    let manifest = write(clickhouse, to, "export", &with_versions(&wanted), progress).await?;
    done.push(format!("exported {} rows to {}/{}", manifest.rows, to.url(), manifest.name));
    let after = marks(clickhouse, &wanted).await?;
    for (table, month) in
        expired.iter().flat_map(|(table, months)| months.iter().map(move |month| (table, month)))
    {
        let mark =
            |marks: &[Vec<Value>]| marks.iter().find(|row| row[0] == *table && row[1] == *month).cloned();
        if mark(&before) == mark(&after) {
            retention::drop_month(clickhouse, table, month).await?;
            done.push(format!("{table}: dropped {month}"));
        } else {
            done.push(format!("{table}: {month} got rows meanwhile, and stays until the next time"));
        }
    }
    Ok(done)
}

/// An export can be restored as a backup can: it says of which schema it is.
fn with_versions(wanted: &[Wanted]) -> Vec<Wanted> {
    [wanted, &[Wanted::all("schema_versions")]].concat()
}
