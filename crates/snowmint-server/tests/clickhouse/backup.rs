//! Backups: what comes back is what was there.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use snowmint_server::backup::{self, BackupError, Manifest};
use snowmint_server::clickhouse::{ClickHouse, retention};
use snowmint_server::config::{self, Detail, StoreUrl};
use snowmint_server::objects::Objects;
use snowmint_server::report::{Report, Reports};
use snowmint_server::sink::{Batch, Sink};
use uuid::Uuid;

use super::commands::command;
use super::contract::{self, A, B, day_ms, drifted, issued, scope};
use super::store::{Store, sink};

/// How long something that happens soon is waited for, in milliseconds.
const SOON_MS: u64 = 60_000;

const EVENTS: [&str; 4] =
    ["id_generation_events", "performance_metrics", "clock_drift_events", "sequence_overflow_events"];

fn directory(path: &Path) -> Objects {
    Objects::open(&StoreUrl::Directory(path.to_owned()), &config::S3::default()).unwrap()
}

/// The same server, another database.
fn beside(store: &Store) -> (ClickHouse, config::ClickHouse) {
    let database = format!("{}_beside", store.config.database);
    let config = config::ClickHouse { database, ..store.config.clone() };
    (ClickHouse::new(&config).unwrap(), config)
}

async fn one(clickhouse: &ClickHouse, sql: &str) -> String {
    let rows = clickhouse.rows(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    rows[0].iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn batch(events: Vec<snowmint_server::event::Event>) -> Batch {
    Batch { journal: Uuid::new_v4(), first: 0, events }
}

/// Every report, without how many bytes a table has, and the rows of every table of events.
async fn everything(store: &Store) -> Vec<Value> {
    let mut all = Vec::new();
    for report in Report::ALL {
        let mut rows = store.report(report, &scope(day_ms() - 1)).await.unwrap().rows;
        if report == Report::Tables {
            for row in &mut rows {
                row.remove(2);
            }
        }
        all.push(rows.into());
    }
    for table in EVENTS {
        all.push(store.one(&format!("SELECT count(), sum(cityHash64(*)) FROM {table}")).await.into());
    }
    for view in ["performance_metrics_hourly", "daily_id_stats"] {
        all.push(store.one(&format!("SELECT count(), sum(cityHash64(*)) FROM {view}")).await.into());
    }
    all
}

/// A store with a history: merged, but for what came last, and with a row that the TTL of a new table would remove.
async fn with_history() -> Store {
    let store = Store::start().await;
    retention::set(&store.clickhouse, "clock_drift_events", 400).await.unwrap();
    retention::apply(&store.clickhouse).await.unwrap();
    for batch in contract::batches() {
        store.deliver(&batch).await.unwrap();
    }
    store.merge().await;
    for days in [0, 200, 300] {
        store.deliver(&batch(vec![drifted(day_ms() - days * 86_400_000, Some(B), 70)])).await.unwrap();
    }
    store
}

/// From a server to a place for backups to another server, and nothing is different.
async fn comes_back(at: &Objects) {
    let store = with_history().await;
    let before = everything(&store).await;
    let manifest = backup::create(&store.clickhouse, at, &()).await.unwrap();
    assert!(manifest.moment.whole && manifest.schema_version == 5, "{manifest:?}");
    let left = "SELECT count() FROM system.tables WHERE database = currentDatabase() AND startsWith(name, 'snowmint_')";
    assert_eq!(store.one(left).await, "0");
    let listed = backup::list(at).await.unwrap();
    assert_eq!((listed.len(), &listed[0].name, listed[0].rows), (1, &manifest.name, Some(manifest.rows)));
    let drift = manifest.tables.iter().find(|table| table.table == "clock_drift_events").unwrap();
    let months: Vec<&str> = drift.files.iter().map(|file| file.partition.as_str()).collect();
    assert!(months.len() >= 3 && months.is_sorted(), "{months:?}");
    assert!(drift.files.iter().all(|file| file.min_time <= file.max_time && file.min_time.is_some()));

    let other = Store::start_empty().await;
    backup::restore(&other.clickhouse, at, &manifest.name, &()).await.unwrap();
    assert_eq!(everything(&other).await, before);
    assert_eq!(other.one(left).await, "0");
    // The policy is there, and is not in force before somebody wants it to be.
    let policies = retention::show(&other.clickhouse).await.unwrap();
    assert_eq!((policies[0].days, policies[0].applied_days), (400, None));
    retention::apply(&other.clickhouse).await.unwrap();
    other.merge().await;
    assert_eq!(everything(&other).await, before);

    // The views are there too, and count what comes now.
    other.deliver(&batch(vec![issued(day_ms() + 1, A, &[5, 6], 10)])).await.unwrap();
    let of_both = "SELECT sum(total_ids) FROM daily_id_stats";
    let ids = |text: String| text.parse::<u64>().unwrap();
    assert_eq!(ids(other.one(of_both).await), ids(store.one(of_both).await) + 11);

    let refused = backup::restore(&other.clickhouse, at, &manifest.name, &()).await.unwrap_err();
    assert!(
        matches!(&refused, BackupError::NotEmpty { tables, .. } if tables.contains("clock_drift_events")),
        "{refused}"
    );
    assert!(refused.to_string().contains("a database without them is wanted"), "{refused}");
    let missing = backup::restore(&other.clickhouse, at, "backup_20200101_000000", &()).await.unwrap_err();
    assert!(matches!(missing, BackupError::NotThere { .. }), "{missing}");
    // Another place has the same, and of two the newer is kept.
    assert_eq!(backup::prune(at, 1).await.unwrap(), Vec::<String>::new());
    let newer = backup::create(&other.clickhouse, at, &()).await.unwrap();
    assert_eq!(backup::prune(at, 1).await.unwrap(), std::slice::from_ref(&manifest.name));
    let listed = backup::list(at).await.unwrap();
    assert_eq!(listed.iter().map(|kept| &kept.name).collect::<Vec<_>>(), [&newer.name]);
}

#[tokio::test]
async fn what_is_put_back_from_a_directory_is_what_was_there() {
    let place = tempfile::tempdir().unwrap();
    comes_back(&directory(place.path())).await;
}

#[tokio::test]
async fn what_is_put_back_from_s3_is_what_was_there() {
    let gateway = test_servers::RadosGw::start().await;
    gateway.create_bucket("backups").await;
    let keys = tempfile::tempdir().unwrap();
    let secret = keys.path().join("secret");
    std::fs::write(&secret, gateway.secret_key()).unwrap();
    let s3 = config::S3 {
        endpoint: Some(gateway.endpoint()),
        region: Some("default".to_owned()),
        access_key_id: Some(gateway.access_key().to_owned()),
        secret_access_key_file: Some(secret),
        ca_file: None,
    };
    comes_back(&Objects::open(&"s3://backups/of/clickhouse".parse().unwrap(), &s3).unwrap()).await;
}

#[tokio::test]
async fn what_is_put_back_from_hdfs_is_what_was_there() {
    let hdfs = test_servers::Hdfs::start().await;
    let url = format!("{}/backups/clickhouse", hdfs.url().trim_end_matches('/'));
    comes_back(&Objects::open(&url.parse().unwrap(), &config::S3::default()).unwrap()).await;
}

#[tokio::test]
async fn while_inserts_go_on_a_backup_has_each_whole_or_not() {
    let store = Store::start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let inserts = tokio::spawn({
        let (sink, stop) = (sink(&store.clickhouse, Detail::Every), Arc::clone(&stop));
        async move {
            while !stop.load(Ordering::Relaxed) {
                let events = (0..50).map(|n| issued(day_ms() + n, A, &[100, 10], 10)).collect();
                sink.deliver(&batch(events)).await.unwrap();
                // As a node does it, but more often.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    });
    let place = tempfile::tempdir().unwrap();
    let at = directory(place.path());
    let manifest = backup::create(&store.clickhouse, &at, &()).await.unwrap();
    stop.store(true, Ordering::Relaxed);
    inserts.await.unwrap();
    assert!(manifest.moment.whole);
    let (other, _) = beside(&store);
    backup::restore(&other, &at, &manifest.name, &()).await.unwrap();
    let ids = one(&other, "SELECT count() FROM id_generation_events").await;
    assert_eq!(ids.parse::<u64>().unwrap() % (50 * 110), 0);
    assert_eq!(one(&other, "SELECT sum(ids) FROM id_generation_minutely").await, ids);
    let days = one(&other, "SELECT sum(total_ids) FROM daily_id_stats").await;
    assert_eq!(days, ids);
}

/// Enough rows that restoring them takes a while.
async fn with_many_rows(store: &Store, rows: u64) {
    let insert = format!(
        "INSERT INTO performance_metrics SELECT fromUnixTimestamp({} + intDiv(number, 1000)), 0, number % 32, \
         concat('metric_', toString(number % 40)), sipHash64(number) / 1e9, map('n', toString(sipHash64(number + 1))) \
         FROM numbers({rows})",
        day_ms() / 1_000
    );
    store.clickhouse.execute(&insert).await.unwrap();
}

#[tokio::test]
async fn a_restore_that_was_killed_begins_anew_or_goes_on() {
    const ROWS: u64 = 300_000;
    let store = Store::start().await;
    with_many_rows(&store, ROWS).await;
    let place = tempfile::tempdir().unwrap();
    let at = directory(place.path());
    let Manifest { name, .. } = backup::create(&store.clickhouse, &at, &()).await.unwrap();
    let (other, config) = beside(&store);
    let from = at.url().to_string();
    let restore = |config: &config::ClickHouse| {
        let mut command = command(&store, &["backup", "restore", &name, "--from", &from]);
        command.env("SNOWMINT_CLICKHOUSE__DATABASE", &config.database);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    let mut child = restore(&config).spawn().unwrap();
    let staged = format!("EXISTS TABLE snowmint_restore_{name}_performance_metrics");
    let deadline = tokio::time::Instant::now() + Duration::from_millis(SOON_MS);
    while other.rows(&staged, &[]).await.map_or(true, |rows| rows[0][0] == 0) {
        assert!(tokio::time::Instant::now() < deadline, "nothing was loaded");
        assert!(child.try_wait().unwrap().is_none(), "it was done before it could be killed");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let tables = "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'performance_metrics'";
    assert_eq!(one(&other, tables).await, "0", "nothing has its name before everything is there");
    let output = restore(&config).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let samples =
        "SELECT count(), (SELECT sum(sample_count) FROM performance_metrics_hourly) FROM performance_metrics";
    assert_eq!(one(&other, samples).await, format!("{ROWS} {ROWS}"));

    // As after a kill while the tables got their names.
    for view in ["performance_metrics_to_hourly", "daily_id_stats"] {
        other.execute(&format!("DROP TABLE {view}")).await.unwrap();
    }
    for table in ["schema_versions", "daily_id_stats_states", "performance_metrics"] {
        let rename = format!("RENAME TABLE {table} TO snowmint_restore_{name}_{table}");
        other.execute(&rename).await.unwrap();
    }
    let output = restore(&config).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(one(&other, samples).await, format!("{ROWS} {ROWS}"));
    assert_eq!(one(&other, "SELECT count() FROM schema_versions").await, "5");
    assert_eq!(one(&other, "SELECT count() FROM daily_id_stats").await, "0");
}

#[tokio::test]
async fn a_backup_that_was_cut_short_is_none() {
    let store = Store::start().await;
    with_many_rows(&store, 300_000).await;
    let place = tempfile::tempdir().unwrap();
    let at = directory(place.path());
    let begun = async |count: usize| {
        let deadline = tokio::time::Instant::now() + Duration::from_millis(SOON_MS);
        let has_begun =
            |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().path().join("begun").exists();
        while std::fs::read_dir(place.path()).unwrap().map(has_begun).filter(|begun| *begun).count() < count {
            assert!(tokio::time::Instant::now() < deadline, "no backup was begun");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // Killed: what is there of it is no backup.
    let mut child =
        command(&store, &["backup", "create", "--to", at.url().to_string().as_str()]).spawn().unwrap();
    begun(1).await;
    child.kill().unwrap();
    child.wait().unwrap();
    let listed = backup::list(&at).await.unwrap();
    assert!(listed.len() == 1 && !listed[0].is_complete(), "{listed:?}");
    let name = listed[0].name.clone();
    let (other, _) = beside(&store);
    let error = backup::restore(&other, &at, &name, &()).await.unwrap_err();
    assert!(matches!(error, BackupError::NotThere { .. }), "{error}");

    // ClickHouse is killed: that is told, and nothing is left of it.
    let create = tokio::spawn({
        let (clickhouse, at) = (store.clickhouse.clone(), at.clone());
        async move { backup::create(&clickhouse, &at, &()).await }
    });
    begun(2).await;
    store.server.kill();
    let error = create.await.unwrap().unwrap_err();
    assert!(matches!(error, BackupError::ClickHouse(_)), "{error}");
    assert_eq!(backup::list(&at).await.unwrap().len(), 1);
    store.server.restart().await;
    let manifest = backup::create(&store.clickhouse, &at, &()).await.unwrap();
    let metrics = manifest.tables.iter().find(|table| table.table == "performance_metrics").unwrap();
    assert_eq!(metrics.rows, 300_000);
}

#[tokio::test]
async fn a_damaged_backup_is_not_restored() {
    let store = Store::start().await;
    store.deliver(&batch(vec![drifted(day_ms(), Some(A), 20)])).await.unwrap();
    let place = tempfile::tempdir().unwrap();
    let at = directory(place.path());
    let manifest = backup::create(&store.clickhouse, &at, &()).await.unwrap();
    let drift = manifest.tables.iter().find(|table| table.table == "clock_drift_events").unwrap();
    let file = place.path().join(&manifest.name).join(&drift.files[0].path);
    let good = std::fs::read(&file).unwrap();
    let mut bad = good.clone();
    let last = bad.len() - 1;
    bad[last] ^= 1;
    let (other, _) = beside(&store);
    for (bytes, wanted) in [(bad, "SHA-256"), (good[..good.len() - 1].to_vec(), "clock_drift_events")] {
        std::fs::write(&file, bytes).unwrap();
        let error = backup::restore(&other, &at, &manifest.name, &()).await.unwrap_err();
        assert!(error.to_string().contains(wanted), "{error}");
        let to = directory(&place.path().join("elsewhere"));
        backup::upload(&at, &to, &manifest, &()).await.unwrap_err();
        assert!(backup::list(&to).await.unwrap().is_empty(), "what could not be copied is taken away");
    }
    std::fs::write(&file, good).unwrap();
    backup::restore(&other, &at, &manifest.name, &()).await.unwrap();
    assert_eq!(one(&other, "SELECT count() FROM clock_drift_events").await, "1");
}

#[tokio::test]
async fn the_newest_are_kept_and_what_was_given_up_goes() {
    let store = Store::start().await;
    let place = tempfile::tempdir().unwrap();
    let at = directory(place.path());
    let mut names = Vec::new();
    for _ in 0..3 {
        names.push(backup::create(&store.clickhouse, &at, &()).await.unwrap().name);
    }
    let begun = |name: &str, age_h: u64| {
        let directory = place.path().join(name);
        std::fs::create_dir(&directory).unwrap();
        let file = std::fs::File::create(directory.join("begun")).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age_h * 3_600)).unwrap();
    };
    begun("backup_20200101_000000", 25);
    begun("backup_20200102_000000", 23);
    begun("export_20200101_000000", 25);
    begun("something_else", 25);
    let listed = backup::list(&at).await.unwrap();
    assert_eq!(
        listed.iter().map(backup::Kept::is_complete).collect::<Vec<_>>(),
        [false, false, true, true, true]
    );
    let gone = backup::prune(&at, 2).await.unwrap();
    assert_eq!(gone, [names[0].as_str(), "backup_20200101_000000"]);
    for keep in [1, 0] {
        backup::prune(&at, keep).await.unwrap();
        let left = backup::list(&at).await.unwrap();
        assert_eq!(
            left.iter().map(|kept| kept.name.as_str()).collect::<Vec<_>>(),
            ["backup_20200102_000000", &names[2]]
        );
    }
    assert!(
        place.path().join("something_else").exists() && place.path().join("export_20200101_000000").exists()
    );
}

#[tokio::test]
async fn a_month_is_dropped_once_it_is_exported() {
    let store = Store::start().await;
    // 2020-01-02 in two tables, and the day before yesterday. No TTL may have them before.
    retention::set(&store.clickhouse, "clock_drift_events", retention::DAYS_MAX).await.unwrap();
    retention::set(&store.clickhouse, "id_generation_events", retention::DAYS_MAX).await.unwrap();
    retention::apply(&store.clickhouse).await.unwrap();
    let old_ms = 1_577_923_200_000;
    let events = |at_ms| vec![drifted(at_ms, Some(A), 20), issued(at_ms, A, &[7], 10)];
    store.deliver(&batch(events(old_ms))).await.unwrap();
    store.deliver(&batch(events(day_ms()))).await.unwrap();
    let place = tempfile::tempdir().unwrap();
    let at = directory(place.path());

    // The TTLs go first, so that none takes a row that was not exported.
    let done = backup::apply_retention(&store.clickhouse, &at, &()).await.unwrap();
    assert_eq!(done.len(), 6, "{done:?}");
    assert!(done.iter().all(|line| line.ends_with("kept until it is exported")), "{done:?}");
    for table in ["clock_drift_events", "id_generation_events"] {
        retention::set(&store.clickhouse, table, 30).await.unwrap();
    }
    store.merge().await;
    assert_eq!(store.one("SELECT count() FROM clock_drift_events").await, "2");

    // What cannot be exported is not dropped.
    let nowhere = place.path().join("file");
    std::fs::write(&nowhere, "").unwrap();
    let output = command(&store, &["retention", "apply"])
        .env("SNOWMINT_RETENTION__EXPORT", &nowhere)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(store.one("SELECT count() FROM clock_drift_events").await, "2");

    let done = backup::apply_retention(&store.clickhouse, &at, &()).await.unwrap();
    assert!(done[0].starts_with("exported 14 rows to file://"), "{done:?}");
    assert_eq!(
        done[1..],
        [
            "clock_drift_events: dropped 202001",
            "id_generation_events: dropped 202001",
            "id_generation_minutely: dropped 202001"
        ]
    );
    assert_eq!(store.one("SELECT count() FROM clock_drift_events").await, "1");
    assert_eq!(store.one("SELECT sum(total_ids) FROM daily_id_stats").await, "14");
    assert!(backup::apply_retention(&store.clickhouse, &at, &()).await.unwrap().is_empty());
    assert!(backup::list(&at).await.unwrap().is_empty(), "an export is no backup, and never pruned");

    let name = done[0].rsplit('/').next().unwrap();
    let (other, _) = beside(&store);
    backup::restore(&other, &at, name, &()).await.unwrap();
    let exported =
        "SELECT count(), sum(drift_ms), (SELECT count() FROM id_generation_events) FROM clock_drift_events";
    assert_eq!(one(&other, exported).await, "1 20 7");
}

#[tokio::test]
async fn commands_make_copy_list_and_put_back() {
    let store = Store::start().await;
    store.deliver(&batch(vec![drifted(day_ms(), Some(A), 20)])).await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = command(&store, arguments);
        command.env("SNOWMINT_DATA_DIR", data.path()).env("SNOWMINT_BACKUP__KEEP_LOCAL", "1");
        let output = command.env("SNOWMINT_BACKUP__REMOTE", data.path().join("remote")).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(run(&["backup", "list"]), "no backups\n");
    let first = run(&["backup", "create"]);
    assert!(first.contains("/backups/backup_") && first.contains("\ncopied to file://"), "{first}");
    let second = run(&["backup", "create"]);
    assert!(second.contains("deleted file://"), "{second}");
    let listed: Vec<Value> = serde_json::from_str(&run(&["backup", "list", "--json"])).unwrap();
    let places: Vec<_> = listed.iter().map(|kept| (&kept["place"], &kept["complete"])).collect();
    assert_eq!(
        places,
        [(&"local".into(), &true.into()), (&"remote".into(), &true.into()), (&"remote".into(), &true.into())]
    );
    assert!(run(&["backup", "list"]).lines().nth(1).unwrap().contains("complete"));
    assert_eq!(run(&["backup", "prune"]), "");

    // The older one is at the remote place alone.
    let (_, config) = beside(&store);
    let name = listed[1]["name"].as_str().unwrap();
    let mut restore = command(&store, &["backup", "restore", name]);
    restore.env("SNOWMINT_DATA_DIR", data.path()).env("SNOWMINT_BACKUP__REMOTE", data.path().join("remote"));
    let output = restore.env("SNOWMINT_CLICKHOUSE__DATABASE", &config.database).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("until `snowmint retention apply`"), "{output:?}");
    let output = restore.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("clock_drift_events"), "{said}");
}
