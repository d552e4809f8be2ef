//! The tables as they were at one moment, to be read at leisure.
//!
//! For each table there is another that shares its parts (`ATTACH PARTITION … FROM` makes hard links), and whose parts
//! are not merged, so that rows can be told by part and number. Attaching a table's parts takes milliseconds and sees
//! whole inserts alone; that no insert was under way while all tables were done is checked, and otherwise done again.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{BackupError, GIVEN_UP_H, Moment, begun_at};
use crate::clickhouse::{ClickHouse, ClickHouseError, identifier, schema};

/// What the names of the tables that share parts begin with.
const PREFIX: &str = "snowmint_snapshot_";

/// How long a moment without inserts is looked for, in milliseconds.
const MOMENT_MS_MAX: i64 = 30_000;

/// The pause before it is looked for again, in milliseconds.
const MOMENT_PAUSE_MS: u64 = 50;

/// How much of a table goes into one file, in bytes as ClickHouse has it uncompressed.
const FILE_BYTES: u64 = 256 << 20;

/// What is to be in a snapshot.
#[derive(Clone)]
pub(super) struct Wanted {
    table: String,
    /// All where there are none.
    partitions: Vec<String>,
}

impl Wanted {
    pub(super) fn all(table: &str) -> Self {
        Self { table: table.to_owned(), partitions: Vec::new() }
    }

    pub(super) fn partitions(table: &str, partitions: &[String]) -> Self {
        Self { table: table.to_owned(), partitions: partitions.to_vec() }
    }

    fn attach(&self, name: &str) -> Vec<String> {
        let (copy, table) = (copy_of(name, &self.table), &self.table);
        let attach = |which: String| format!("ALTER TABLE {copy} ATTACH PARTITION {which} FROM {table}");
        match self.partitions.as_slice() {
            [] => vec![attach("ALL".to_owned())],
            some => some.iter().map(|partition| attach(format!("ID '{partition}'"))).collect(),
        }
    }
}

/// Tables at one moment.
pub(super) struct Snapshot {
    pub(super) tables: Vec<SnapshotTable>,
    pub(super) moment: Moment,
}

/// One of them.
pub(super) struct SnapshotTable {
    pub(super) name: String,
    copy: String,
    parts: Vec<Part>,
}

struct Part {
    partition: String,
    name: String,
    rows: u64,
    bytes: u64,
    min_time: Option<Timestamp>,
    max_time: Option<Timestamp>,
}

/// Rows of one partition that go into one file.
pub(super) struct Chunk {
    pub(super) table: String,
    pub(super) partition: String,
    /// Which file of the partition it is.
    pub(super) number: usize,
    pub(super) sql: String,
    pub(super) rows: u64,
    pub(super) min_time: Option<Timestamp>,
    pub(super) max_time: Option<Timestamp>,
}

impl Snapshot {
    /// Takes one. [`clear`] has to follow, whatever comes of it.
    pub(super) async fn take(
        clickhouse: &ClickHouse,
        name: &str,
        wanted: &[Wanted],
    ) -> Result<Self, BackupError> {
        clear_given_up(clickhouse).await?;
        for wanted in wanted {
            make_copy(clickhouse, name, &wanted.table).await?;
        }
        let began = Timestamp::now();
        let moment = loop {
            let moment = attach(clickhouse, name, wanted).await?;
            if moment.whole || began.duration_until(Timestamp::now()).as_millis() > MOMENT_MS_MAX.into() {
                break moment;
            }
            for Wanted { table, .. } in wanted {
                clickhouse.execute(&format!("TRUNCATE TABLE {}", copy_of(name, table))).await?;
            }
            tokio::time::sleep(Duration::from_millis(MOMENT_PAUSE_MS)).await;
        };
        let mut tables = Vec::new();
        for Wanted { table, .. } in wanted {
            let copy = copy_of(name, table);
            let parts = parts(clickhouse, &copy).await?;
            tables.push(SnapshotTable { name: table.clone(), copy, parts });
        }
        Ok(Self { tables, moment })
    }

    /// How much there is, uncompressed.
    pub(super) fn bytes(&self) -> u64 {
        self.tables.iter().flat_map(|table| &table.parts).map(|part| part.bytes).sum()
    }
}

/// Takes a snapshot's tables away. What they share stays.
pub(super) async fn clear(clickhouse: &ClickHouse, name: &str) -> Result<(), BackupError> {
    for table in copies(clickhouse).await?.iter().filter(|table| snapshot_of(table) == Some(name)) {
        drop_table(clickhouse, table).await?;
    }
    Ok(())
}

/// Those of processes that were killed: they keep what was merged or dropped since.
async fn clear_given_up(clickhouse: &ClickHouse) -> Result<(), BackupError> {
    let before = Timestamp::now() - SignedDuration::from_hours(GIVEN_UP_H);
    for table in copies(clickhouse).await? {
        if snapshot_of(&table).and_then(begun_at).is_some_and(|at| at < before) {
            drop_table(clickhouse, &table).await?;
        }
    }
    Ok(())
}

async fn drop_table(clickhouse: &ClickHouse, table: &str) -> Result<(), ClickHouseError> {
    clickhouse.execute(&format!("DROP TABLE IF EXISTS {} SYNC", identifier(table))).await
}

fn copy_of(name: &str, table: &str) -> String {
    format!("{PREFIX}{name}_{table}")
}

/// Which snapshot a table is of: `backup_20260103_190000`.
fn snapshot_of(table: &str) -> Option<&str> {
    let rest = table.strip_prefix(PREFIX)?;
    let (end, _) = rest.match_indices('_').nth(2)?;
    Some(&rest[..end])
}

async fn copies(clickhouse: &ClickHouse) -> Result<Vec<String>, BackupError> {
    Ok(clickhouse.tables().await?.into_iter().filter(|table| table.starts_with(PREFIX)).collect())
}

async fn make_copy(clickhouse: &ClickHouse, name: &str, table: &str) -> Result<(), BackupError> {
    if let Some(cluster) = schema::place(clickhouse, table).await?.cluster {
        return Err(BackupError::Cluster { table: table.to_owned(), cluster });
    }
    if !clickhouse.tables().await?.iter().any(|known| known == table) {
        return Err(BackupError::NoTable { clickhouse: clickhouse.to_string(), table: table.to_owned() });
    }
    let copy = copy_of(name, table);
    clickhouse.execute(&format!("CREATE TABLE {copy} AS {table}")).await?;
    // Nor what is past its TTL removed.
    Ok(clickhouse.execute(&format!("SYSTEM STOP MERGES {copy}")).await?)
}

/// Attaches every part, and says whether it was a moment without inserts: none was under way at its beginning, and nothing
/// had come at its end.
async fn attach(clickhouse: &ClickHouse, name: &str, wanted: &[Wanted]) -> Result<Moment, BackupError> {
    let from = Timestamp::now();
    let before = marks(clickhouse, wanted).await?;
    let under_way = inserts_under_way(clickhouse).await?;
    for statement in wanted.iter().flat_map(|wanted| wanted.attach(name)) {
        clickhouse.execute(&statement).await?;
    }
    let whole = !under_way && marks(clickhouse, wanted).await? == before;
    Ok(Moment { from, until: Timestamp::now(), whole })
}

/// What changes with every insert: the number of the newest block in each partition. Merges do not change it.
pub(super) async fn marks(
    clickhouse: &ClickHouse,
    wanted: &[Wanted],
) -> Result<Vec<Vec<Value>>, BackupError> {
    const SQL: &str = "SELECT table, partition_id, max(max_block_number) FROM system.parts \
                       WHERE database = currentDatabase() AND has({tables:Array(String)}, table) \
                       GROUP BY table, partition_id ORDER BY table, partition_id";
    let tables: Vec<&str> = wanted.iter().map(|wanted| wanted.table.as_str()).collect();
    let mut marks = clickhouse.rows(SQL, &[("tables", json!(tables))]).await?;
    marks.retain(|row| {
        wanted.iter().any(|wanted| {
            let among = wanted.partitions.iter().any(|partition| row[1] == *partition);
            row[0] == wanted.table && (among || wanted.partitions.is_empty())
        })
    });
    Ok(marks)
}

async fn inserts_under_way(clickhouse: &ClickHouse) -> Result<bool, BackupError> {
    const SQL: &str = "SELECT count() FROM system.processes \
                       WHERE query_kind = 'Insert' AND current_database = currentDatabase()";
    let rows = clickhouse.rows(SQL, &[]).await?;
    Ok(rows.first().is_none_or(|row| row[0] != 0))
}

async fn parts(clickhouse: &ClickHouse, copy: &str) -> Result<Vec<Part>, BackupError> {
    const SQL: &str = "SELECT partition_id, name, rows, data_uncompressed_bytes, \
                       toInt64(if(toUInt32(min_time) > 0, toUInt32(min_time), toUInt16(min_date) * 86400)), \
                       toInt64(if(toUInt32(max_time) > 0, toUInt32(max_time), toUInt16(max_date) * 86400)) \
                       FROM system.parts WHERE active AND database = currentDatabase() \
                       AND table = {table:String} ORDER BY partition_id, name";
    let rows = clickhouse.rows(SQL, &[("table", json!(copy))]).await?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let time =
        |value: &Value| value.as_i64().filter(|at| *at > 0).and_then(|at| Timestamp::from_second(at).ok());
    let part = |row: &Vec<Value>| Part {
        partition: text(&row[0]),
        name: text(&row[1]),
        rows: number(&row[2]),
        bytes: number(&row[3]),
        min_time: time(&row[4]),
        max_time: time(&row[5]),
    };
    Ok(rows.iter().map(part).collect())
}

impl SnapshotTable {
    /// Its rows in pieces of about [`FILE_BYTES`]: several small parts, or a piece of a large one.
    pub(super) fn chunks(&self) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        for partition in self.parts.chunk_by(|one, next| one.partition == next.partition) {
            let mut bytes = partition[0].bytes;
            let fits = |_: &Part, next: &Part| {
                bytes += next.bytes;
                let fits = bytes <= FILE_BYTES;
                if !fits {
                    bytes = next.bytes;
                }
                fits
            };
            let pieces = partition.chunk_by(fits).flat_map(Self::pieces);
            for (number, (filter, rows, parts)) in pieces.enumerate() {
                chunks.push(Chunk {
                    table: self.name.clone(),
                    partition: partition[0].partition.clone(),
                    number,
                    sql: format!("SELECT * FROM {} WHERE {filter}", self.copy),
                    rows,
                    min_time: parts.iter().filter_map(|part| part.min_time).min(),
                    max_time: parts.iter().filter_map(|part| part.max_time).max(),
                });
            }
        }
        chunks
    }

    /// Which rows, and how many: all of these parts, or, of one that is large, some after the other.
    fn pieces(parts: &[Part]) -> Vec<(String, u64, &[Part])> {
        let names: Vec<String> = parts.iter().map(|part| format!("'{}'", part.name)).collect();
        let names = names.join(", ");
        let (rows, bytes) = (
            parts.iter().map(|part| part.rows).sum::<u64>(),
            parts.iter().map(|part| part.bytes).sum::<u64>(),
        );
        let pieces = bytes.div_ceil(FILE_BYTES).max(1);
        if parts.len() > 1 || pieces == 1 {
            return vec![(format!("_part IN ({names})"), rows, parts)];
        }
        let step = rows.div_ceil(pieces).max(1);
        let piece = |n: u64| {
            let (first, end) = (n * step, ((n + 1) * step).min(rows));
            let filter = format!("_part = {names} AND _part_offset >= {first} AND _part_offset < {end}");
            (filter, end.saturating_sub(first), parts)
        };
        (0..pieces).map(piece).filter(|(_, rows, _)| *rows > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, rows: u64, bytes: u64) -> Part {
        let partition = name[..6].to_owned();
        Part { partition, name: name.to_owned(), rows, bytes, min_time: None, max_time: None }
    }

    #[test]
    fn every_row_is_in_one_piece_of_bounded_size() {
        let parts = vec![
            part("202601_1_1_0", 10, FILE_BYTES / 2),
            part("202601_2_2_0", 10, FILE_BYTES / 2),
            part("202601_3_3_0", 1_000, 3 * FILE_BYTES - 1),
            part("202601_9_9_0", 5, 100),
            part("202602_4_4_0", 7, 100),
        ];
        let table = SnapshotTable { name: "t".to_owned(), copy: "c".to_owned(), parts };
        let chunks = table.chunks();
        let shown: Vec<_> =
            chunks.iter().map(|chunk| (chunk.partition.as_str(), chunk.number, chunk.rows)).collect();
        assert_eq!(
            shown,
            [
                ("202601", 0, 20),
                ("202601", 1, 334),
                ("202601", 2, 334),
                ("202601", 3, 332),
                ("202601", 4, 5),
                ("202602", 0, 7)
            ]
        );
        assert!(chunks[0].sql.ends_with("_part IN ('202601_1_1_0', '202601_2_2_0')"));
        assert!(
            chunks[3].sql.ends_with("_part = '202601_3_3_0' AND _part_offset >= 668 AND _part_offset < 1000")
        );
    }

    #[test]
    fn a_snapshots_tables_say_whose_they_are() {
        let copy = copy_of("backup_20260103_190000", "clock_drift_events");
        assert_eq!(snapshot_of(&copy), Some("backup_20260103_190000"));
        assert_eq!(snapshot_of("clock_drift_events"), None);
    }
}
