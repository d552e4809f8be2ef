//! How long each table is kept: a durable table says so, and [`apply`] makes it so.

use serde_json::{Value, json};

use super::schema::{Place, place};
use super::{ClickHouse, ClickHouseError};

/// The longest that can be asked for, in days: fifty years. A TTL is a time of ClickHouse's, and these end in 2106: one
/// that passes it begins again in 1970, and removes everything.
pub const DAYS_MAX: u16 = 18_250;

/// Which tables of totals are kept as long as the table that they are made beside, and their columns of time.
const TOTALS: [(&str, &str, &str); 2] = [
    ("id_generation_events", "id_generation_minutely", "minute"),
    ("performance_metrics", "performance_metrics_hourly_states", "hour"),
];

/// How long one table is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Which.
    pub table: String,
    /// How long it is to be kept.
    pub days: u16,
    /// How long the server keeps it as it is: nothing for ever, or what is no number of days.
    pub applied_days: Option<u16>,
}

/// Every table's.
pub async fn show(clickhouse: &ClickHouse) -> Result<Vec<Policy>, ClickHouseError> {
    const SQL: &str = "SELECT table_name, retention_days FROM retention_policy FINAL ORDER BY table_name";
    let mut policies = Vec::new();
    for row in clickhouse.rows(SQL, &[]).await? {
        let table = row[0].as_str().unwrap_or_default().to_owned();
        let applied_days = applied_days(clickhouse, &place(clickhouse, &table).await?.table).await?;
        policies.push(Policy { table, days: days(&row[1]).unwrap_or(DAYS_MAX), applied_days });
    }
    Ok(policies)
}

/// Changes one table's. It takes effect with [`apply`].
pub async fn set(clickhouse: &ClickHouse, table: &str, days: u16) -> Result<(), ClickHouseError> {
    let policies = show(clickhouse).await?;
    if !policies.iter().any(|policy| policy.table == table) {
        let known: Vec<String> = policies.into_iter().map(|policy| policy.table).collect();
        return Err(ClickHouseError::UnknownTable { table: table.to_owned(), known: known.join(", ") });
    }
    // The name is one of those that are there.
    clickhouse
        .execute(&format!(
            "INSERT INTO retention_policy (table_name, retention_days, partition_key) SETTINGS async_insert = 0 \
             VALUES ('{table}', {}, 'toYYYYMM(timestamp)')",
            days.min(DAYS_MAX)
        ))
        .await
}

/// Makes it so: sets the tables' TTLs where they differ, and drops the months that have passed as a whole. Says what it
/// did.
pub async fn apply(clickhouse: &ClickHouse) -> Result<Vec<String>, ClickHouseError> {
    let mut done = Vec::new();
    for Kept { table, time, days } in kept(clickhouse).await? {
        let place = place(clickhouse, &table).await?;
        // First, so that the TTL has less to rewrite.
        for month in expired_months(clickhouse, &place, days).await? {
            drop_month(clickhouse, &table, &month).await?;
            done.push(format!("{}: dropped {month}", place.table));
        }
        let Place { table, on, .. } = &place;
        if applied_days(clickhouse, table).await? != Some(days) {
            let ttl = format!("toDateTime({time}) + INTERVAL {days} DAY");
            clickhouse.execute(&format!("ALTER TABLE {table}{on} MODIFY TTL {ttl}")).await?;
            done.push(format!("{table}: kept for {days} days"));
        }
    }
    Ok(done)
}

/// Every table with the months that have passed as a whole.
pub(crate) async fn expired(clickhouse: &ClickHouse) -> Result<Vec<(String, Vec<String>)>, ClickHouseError> {
    let mut expired = Vec::new();
    for Kept { table, days, .. } in kept(clickhouse).await? {
        let months = expired_months(clickhouse, &place(clickhouse, &table).await?, days).await?;
        expired.push((table, months));
    }
    Ok(expired)
}

/// Drops a month of a table.
pub(crate) async fn drop_month(
    clickhouse: &ClickHouse,
    table: &str,
    month: &str,
) -> Result<(), ClickHouseError> {
    let Place { table, on, .. } = place(clickhouse, table).await?;
    clickhouse.execute(&format!("ALTER TABLE {table}{on} DROP PARTITION ID '{month}'")).await
}

/// Has no table remove rows by itself. Says what it did.
pub(crate) async fn remove_ttls(clickhouse: &ClickHouse) -> Result<Vec<String>, ClickHouseError> {
    const SQL: &str = "SELECT count() FROM system.tables WHERE database = currentDatabase() \
                       AND name = {table:String} AND engine_full LIKE '% TTL %'";
    let mut done = Vec::new();
    for Kept { table, .. } in kept(clickhouse).await? {
        let Place { table, on, .. } = place(clickhouse, &table).await?;
        let rows = clickhouse.rows(SQL, &[("table", json!(table))]).await?;
        if rows.first().is_some_and(|row| row[0] != 0) {
            clickhouse.execute(&format!("ALTER TABLE {table}{on} REMOVE TTL")).await?;
            done.push(format!("{table}: kept until it is exported"));
        }
    }
    Ok(done)
}

/// A table and how long it is to be kept, by its column of time.
struct Kept {
    table: String,
    time: &'static str,
    days: u16,
}

/// Every table with a policy, and the totals that are kept as long.
async fn kept(clickhouse: &ClickHouse) -> Result<Vec<Kept>, ClickHouseError> {
    let mut kept = Vec::new();
    for Policy { table, days, .. } in show(clickhouse).await? {
        let totals = TOTALS.iter().filter(|(of, ..)| *of == table);
        let totals = totals.map(|(_, totals, time)| Kept { table: (*totals).to_owned(), time, days });
        let totals: Vec<Kept> = totals.collect();
        kept.push(Kept { table, time: "timestamp", days });
        kept.extend(totals);
    }
    Ok(kept)
}

async fn applied_days(clickhouse: &ClickHouse, table: &str) -> Result<Option<u16>, ClickHouseError> {
    const SQL: &str = "SELECT toUInt16OrNull(extract(engine_full, 'TTL [^ ]+ \\+ toIntervalDay\\((\\d+)\\)')) \
                       FROM system.tables WHERE database = currentDatabase() AND name = {table:String}";
    let rows = clickhouse.rows(SQL, &[("table", json!(table))]).await?;
    Ok(rows.first().and_then(|row| days(&row[0])))
}

/// Months whose last day is past. Dropping one costs nothing, however many rows it has.
///
/// Days are compared as numbers: there is no date before 1970, and what would be lies far ahead.
async fn expired_months(
    clickhouse: &ClickHouse,
    place: &Place,
    days: u16,
) -> Result<Vec<String>, ClickHouseError> {
    let parts = match &place.cluster {
        None => "system.parts".to_owned(),
        Some(cluster) => format!("cluster('{}', system.parts)", cluster.replace('\'', "\\'")),
    };
    let sql = format!(
        "SELECT DISTINCT partition_id FROM {parts} WHERE active AND database = currentDatabase() \
         AND table = {{table:String}} AND match(partition_id, '^\\\\d{{6}}$') \
         AND toInt32(addMonths(toDate(concat(partition_id, '01')), 1)) <= toInt32(toUInt16(today())) - {{days:UInt16}} ORDER BY partition_id"
    );
    let rows = clickhouse.rows(&sql, &[("table", json!(place.table)), ("days", json!(days))]).await?;
    Ok(rows.iter().filter_map(|row| row[0].as_str()).map(str::to_owned).collect())
}

fn days(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|days| u16::try_from(days).ok())
}
