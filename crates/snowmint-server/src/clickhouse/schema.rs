//! The schema: the files in `schema/clickhouse`, in the order of their numbers.

use std::ops::RangeInclusive;

use serde_json::{Value, json};

use super::{ClickHouse, ClickHouseError, identifier};

/// One file.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// Its number.
    pub version: u32,
    /// Its name without the number.
    pub name: &'static str,
    sql: &'static str,
}

macro_rules! migration {
    ($version:literal, $number:literal, $name:literal) => {
        Migration {
            version: $version,
            name: $name,
            sql: include_str!(concat!("../../../../schema/clickhouse/", $number, "_", $name, ".sql")),
        }
    };
}

/// All of them.
pub const MIGRATIONS: [Migration; 5] = [
    migration!(1, "001", "versions"),
    migration!(2, "002", "tables"),
    migration!(3, "003", "ranges"),
    migration!(4, "004", "views"),
    migration!(5, "005", "retention"),
];

/// The columns whose statistics help to plan queries: what is compared with or aggregated, but is no key.
const STATISTICS: [(&str, &str); 4] = [
    ("id_generation_events", "generation_latency_us, error_code"),
    ("performance_metrics", "metric_value"),
    ("clock_drift_events", "drift_ms"),
    ("sequence_overflow_events", "overflow_count, wait_time_ms"),
];

impl Migration {
    /// The file as it is, or with its statements for a cluster of that name.
    #[must_use]
    pub fn text(&self, cluster: Option<&str>) -> String {
        let Some(cluster) = cluster else { return self.sql.to_owned() };
        format!("{};\n", self.statements(Some(cluster)).join(";\n\n"))
    }

    /// Its statements, without comments.
    #[must_use]
    pub fn statements(&self, cluster: Option<&str>) -> Vec<String> {
        let code: Vec<&str> = self.sql.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
        let code = code.join("\n");
        let statements = code.split(';').map(str::trim).filter(|statement| !statement.is_empty());
        match cluster {
            None => statements.map(str::to_owned).collect(),
            Some(cluster) => statements.flat_map(|statement| on_cluster(statement, cluster)).collect(),
        }
    }
}

/// A statement for a cluster.
///
/// A table `x` that keeps something becomes `x_local`, replicated within its shard, and `x` becomes a Distributed
/// table over all shards. Views that are filled read and write what is local, so that a row stays on the shard that it
/// was inserted into, and with it the memory of the tokens: a node has to insert into replicas of one shard alone.
fn on_cluster(statement: &str, cluster: &str) -> Vec<String> {
    let on = format!("ON CLUSTER {}", identifier(cluster));
    let named = |prefix: &str| {
        let rest = statement.strip_prefix(prefix)?;
        Some(rest.split_once(' ').unwrap_or((rest, "")))
    };
    if let Some((table, rest)) = named("CREATE TABLE IF NOT EXISTS ") {
        if rest.ends_with("ENGINE = Null") {
            return vec![format!("CREATE TABLE IF NOT EXISTS {table} {on} {rest}")];
        }
        let rest = replicated(rest);
        let key = first_of_key(&rest);
        return vec![
            format!("CREATE TABLE IF NOT EXISTS {table}_local {on} {rest}"),
            format!(
                "CREATE TABLE IF NOT EXISTS {table} {on} AS {table}_local\n\
                 ENGINE = Distributed({}, currentDatabase(), '{table}_local', cityHash64({key}))",
                identifier(cluster)
            ),
        ];
    }
    if let Some((view, rest)) = named("CREATE MATERIALIZED VIEW IF NOT EXISTS ") {
        let rest = rest
            .replacen(" AS\n", "_local AS\n", 1)
            .replace("FROM performance_metrics\n", "FROM performance_metrics_local\n");
        return vec![format!("CREATE MATERIALIZED VIEW IF NOT EXISTS {view} {on} {rest}")];
    }
    if let Some((view, rest)) = named("CREATE VIEW IF NOT EXISTS ") {
        return vec![format!("CREATE VIEW IF NOT EXISTS {view} {on} {rest}")];
    }
    vec![statement.to_owned()]
}

/// How long a replicated table remembers tokens, in seconds: as long as a journal may have to wait.
const TOKEN_MEMORY_S: u32 = 604_800;

fn replicated(definition: &str) -> String {
    definition
        .replace("ENGINE = MergeTree", "ENGINE = ReplicatedMergeTree")
        .replace("ENGINE = AggregatingMergeTree", "ENGINE = ReplicatedAggregatingMergeTree")
        .replace("ENGINE = ReplacingMergeTree", "ENGINE = ReplicatedReplacingMergeTree")
        .replace(
            "non_replicated_deduplication_window = 10000",
            &format!(
                "replicated_deduplication_window = 10000, \
                 replicated_deduplication_window_seconds = {TOKEN_MEMORY_S}"
            ),
        )
}

/// What rows are spread by: rows that are merged with each other have it in common.
fn first_of_key(definition: &str) -> &str {
    let key = definition.split("ORDER BY ").nth(1).unwrap_or_default().trim_start_matches('(');
    key.split([',', ')', '\n', ';']).next().unwrap_or_default()
}

/// What its statements create, table or view, by the kind of statement.
fn created(kind: &str) -> Vec<(&'static str, String)> {
    let statements =
        MIGRATIONS.iter().flat_map(|migration| {
            migration.sql.lines().filter(|line| line.starts_with("CREATE ")).zip(
                migration.statements(None).into_iter().filter(|statement| statement.starts_with("CREATE ")),
            )
        });
    let named = |(line, statement): (&'static str, String)| {
        let (before, name) = line.split_once(" IF NOT EXISTS ")?;
        let name = name.split([' ', '(']).next()?;
        before.ends_with(kind).then_some((name, statement))
    };
    statements.filter_map(named).collect()
}

/// The tables that keep something, in the order in which they are made.
pub(crate) fn tables() -> Vec<&'static str> {
    let keeps =
        |(name, statement): (&'static str, String)| (!statement.ends_with("ENGINE = Null")).then_some(name);
    created(" TABLE").into_iter().filter_map(keeps).collect()
}

/// Everything that it makes: tables and views.
pub(crate) fn names() -> Vec<&'static str> {
    created("").into_iter().map(|(name, _)| name).collect()
}

/// The statement that makes a table by another name, and without a TTL, so that it keeps what it is given.
pub(crate) fn create(table: &str, name: &str) -> Option<String> {
    let (_, statement) = created(" TABLE").into_iter().find(|(known, _)| *known == table)?;
    let statement = statement.replacen(&format!(" {table} ("), &format!(" {name} ("), 1);
    let lines: Vec<&str> = statement.lines().filter(|line| !line.starts_with("TTL ")).collect();
    Some(lines.join("\n"))
}

/// Makes what files of these numbers make, as far as it is not there, and writes down nothing.
pub(crate) async fn make(
    clickhouse: &ClickHouse,
    versions: RangeInclusive<u32>,
) -> Result<(), ClickHouseError> {
    for migration in MIGRATIONS.iter().filter(|migration| versions.contains(&migration.version)) {
        for statement in migration.statements(None) {
            clickhouse.execute(&statement).await?;
        }
    }
    Ok(())
}

/// A table as it lies on a server: by another name where there is a cluster.
pub(crate) struct Place {
    pub(crate) table: String,
    /// ` ON CLUSTER …`, or nothing.
    pub(crate) on: String,
    pub(crate) cluster: Option<String>,
}

/// Where the rows of a table are kept.
pub(crate) async fn place(clickhouse: &ClickHouse, table: &str) -> Result<Place, ClickHouseError> {
    const SQL: &str = "SELECT extract(engine_full, '^Distributed\\(\\'([^\\']+)\\'') FROM system.tables \
                       WHERE database = currentDatabase() AND name = {table:String}";
    let rows = clickhouse.rows(SQL, &[("table", json!(table))]).await?;
    let cluster = rows.first().and_then(|row| row[0].as_str()).filter(|cluster| !cluster.is_empty());
    Ok(match cluster {
        None => Place { table: table.to_owned(), on: String::new(), cluster: None },
        Some(cluster) => Place {
            table: format!("{table}_local"),
            on: format!(" ON CLUSTER {}", identifier(cluster)),
            cluster: Some(cluster.to_owned()),
        },
    })
}

/// Applies what was not applied yet, and says which.
///
/// Every statement can be repeated, so that a file that failed half-way is applied again as a whole.
pub async fn apply(
    clickhouse: &ClickHouse,
    cluster: Option<&str>,
) -> Result<Vec<Migration>, ClickHouseError> {
    let on = cluster.map(|cluster| format!(" ON CLUSTER {}", identifier(cluster))).unwrap_or_default();
    clickhouse.make_database(&on).await?;
    // It says what was applied, so that it is there before all else.
    for statement in MIGRATIONS[0].statements(cluster) {
        clickhouse.execute(&statement).await?;
    }
    let applied = versions(clickhouse).await?;
    let mut done = Vec::new();
    for migration in MIGRATIONS.into_iter().filter(|migration| !applied.contains(&migration.version)) {
        for statement in migration.statements(cluster) {
            clickhouse.execute(&statement).await?;
        }
        clickhouse
            .execute(&format!(
                "INSERT INTO schema_versions (version, name) SETTINGS async_insert = 0 VALUES ({}, '{}')",
                migration.version, migration.name
            ))
            .await?;
        done.push(migration);
    }
    Ok(done)
}

/// The numbers of the files that were applied.
pub async fn versions(clickhouse: &ClickHouse) -> Result<Vec<u32>, ClickHouseError> {
    let rows = clickhouse.rows("SELECT DISTINCT version FROM schema_versions ORDER BY version", &[]).await?;
    let version = |row: &Vec<Value>| row[0].as_u64().and_then(|version| u32::try_from(version).ok());
    Ok(rows.iter().filter_map(version).collect())
}

/// Merges the parts of every table into one for each month, and refreshes statistics. Says what it did.
///
/// `ANALYZE TABLE` is no statement of ClickHouse: statistics are added to columns and made of the rows there are.
pub async fn optimize(clickhouse: &ClickHouse) -> Result<Vec<String>, ClickHouseError> {
    const TABLES: &str = "SELECT name FROM system.tables WHERE database = currentDatabase() \
                          AND engine LIKE '%MergeTree' AND NOT startsWith(name, 'snowmint_') ORDER BY name";
    let mut done = Vec::new();
    for (table, columns) in STATISTICS {
        let Place { table, on, .. } = place(clickhouse, table).await?;
        for statement in [
            format!("ALTER TABLE {table}{on} ADD STATISTICS IF NOT EXISTS {columns} TYPE tdigest, minmax"),
            format!("ALTER TABLE {table}{on} MATERIALIZE STATISTICS {columns} SETTINGS mutations_sync = 1"),
        ] {
            clickhouse.execute(&statement).await?;
        }
        done.push(format!("{table}: statistics of {columns}"));
    }
    for row in clickhouse.rows(TABLES, &[]).await? {
        let table = row[0].as_str().unwrap_or_default();
        let Place { on, .. } = place(clickhouse, table.strip_suffix("_local").unwrap_or(table)).await?;
        clickhouse.execute(&format!("OPTIMIZE TABLE {table}{on} FINAL")).await?;
        done.push(format!("{table}: merged"));
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_numbered_from_1_and_can_be_applied_again() {
        for (index, migration) in MIGRATIONS.iter().enumerate() {
            assert_eq!(migration.version as usize, index + 1);
            for statement in migration.statements(None) {
                let again = statement.starts_with("INSERT INTO") || statement.contains("IF NOT EXISTS");
                assert!(again, "{statement}");
            }
        }
    }

    #[test]
    fn tables_are_made_by_other_names_without_a_ttl() {
        let tables = tables();
        assert_eq!((tables.first(), tables.last()), (Some(&"schema_versions"), Some(&"retention_policy")));
        assert!(tables.contains(&"id_generation_minutely") && !tables.contains(&"id_ranges"));
        let names = names();
        assert!(
            ["id_ranges", "id_ranges_to_events", "daily_id_stats"].iter().all(|name| names.contains(name))
        );
        for table in tables {
            let statement = create(table, "other").unwrap_or_default();
            assert!(statement.starts_with("CREATE TABLE IF NOT EXISTS other (\n"), "{statement}");
            assert!(!statement.contains("TTL") && statement.contains("ENGINE = "), "{statement}");
        }
    }

    #[test]
    fn on_a_cluster_tables_are_replicated_and_distributed() {
        let all: Vec<String> =
            MIGRATIONS.iter().flat_map(|migration| migration.statements(Some("fleet"))).collect();
        let with = |text: &str| all.iter().filter(|statement| statement.contains(text)).count();
        assert_eq!(with("ENGINE = Replicated"), with("ENGINE = Distributed(`fleet`, currentDatabase(), "));
        assert_eq!(with("non_replicated"), 0);
        assert_eq!(with("ENGINE = MergeTree"), 0);
        for statement in all.iter().filter(|statement| !statement.starts_with("INSERT")) {
            assert!(
                statement.lines().next().is_some_and(|line| line.contains(" ON CLUSTER `fleet` ")),
                "{statement}"
            );
        }
        assert_eq!(with("'id_generation_events_local', cityHash64(datacenter_id))"), 1);
        assert_eq!(with("'retention_policy_local', cityHash64(table_name))"), 1);
        assert_eq!(with("id_ranges_to_events ON CLUSTER `fleet` TO id_generation_events_local AS"), 1);
        assert_eq!(with("FROM performance_metrics_local"), 1);
    }
}
