//! How long records are kept: by a bucket itself, and in a directory by the command.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use futures_util::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use snowmint_server::audit::lifecycle::{self, Ages};
use snowmint_server::audit::verify::verify;
use snowmint_server::config::S3;
use snowmint_server::objects::Objects;
use test_servers::{Hdfs, Proxy, RadosGw};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use crate::archive::{Archive, SLOT, key, options};

/// How long a day is to the bucket's rules, in seconds.
const DAY_S: u32 = 5;

/// How long it may take them, in seconds: it was five days, and the machine may be busy.
const LIFE_S_MAX: u64 = 240;

fn invoke(arguments: &[&str], environment: &[(&str, &str)]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_snowmint"))
        .args(["audit", "lifecycle"])
        .args(arguments)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn a_directory_moves_and_deletes_by_age_and_stays_proven() {
    let (archive, _) = Archive::three_hours();
    archive.write();
    let url = archive.url();
    // The records are of 2024, so that they are older than two days and younger than a hundred years.
    let days = ["--warm-days", "1", "--cold-days", "36500", "--delete-days", "36501"];
    let run = |command: &str, days: &[&str]| invoke(&[&[command, "--archive", &url], days].concat(), &[]);
    let (code, out, _) = run("print", &days);
    assert!(
        code == 0 && out.contains("hot: 4 objects") && out.contains("to be moved to warm/: 4 objects"),
        "{out}"
    );
    assert_eq!(run("apply", &days), (0, "moved to warm/: 4 objects\n".to_owned(), String::new()));
    assert_eq!(run("apply", &days), (0, "nothing to do\n".to_owned(), String::new()));
    assert!(!archive.path(key(0, SLOT, 1)).exists());
    let mut left: Vec<_> = fs::read_dir(&url).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["warm"]);
    let report = archive.verified(options());
    assert!(report.proven && report.objects == 4, "{:?}", report.findings);

    assert_eq!(run("apply", &["--warm-days", "1", "--cold-days", "2"]).1, "moved to cold/: 4 objects\n");
    assert!(archive.verified(options()).proven);
    let all = ["--warm-days", "1", "--cold-days", "2", "--delete-days", "3"];
    assert_eq!(run("apply", &all).1, "deleted: 4 objects\n");
    assert_eq!(archive.verified(options()).objects, 0);

    let (code, _, err) = run("apply", &["--warm-days", "3", "--cold-days", "2"]);
    assert!(code == 2 && err.contains("each has to be more than the one before"), "{err}");
    let (code, _, err) = invoke(&["apply", "--archive", "gs://bucket"], &[("GOOGLE_SKIP_SIGNATURE", "true")]);
    assert!(code == 1 && err.contains("rules of its own"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hdfs_moves_and_deletes_by_age_and_stays_proven() {
    let server = Hdfs::start().await;
    let url = format!("{}/audit", server.url());
    let objects = Objects::open(&url.parse().unwrap(), &S3::default()).unwrap();
    let (archive, _) = Archive::three_hours();
    archive.write();
    for key in archive.objects.keys() {
        let bytes = fs::read(archive.path(*key)).unwrap();
        objects.store.put(&Path::from(key.to_string()), bytes.into()).await.unwrap();
    }
    let proven = || {
        let (runtime, objects) = (Handle::current(), objects.clone());
        tokio::task::spawn_blocking(move || verify(&runtime, &objects, &options(), &mut |_| {}).unwrap())
    };
    let run = |days: &[&str]| invoke(&[&["apply", "--archive", &url], days].concat(), &[]).1;
    assert_eq!(
        run(&["--warm-days", "1", "--cold-days", "36500", "--delete-days", "36501"]),
        "moved to warm/: 4 objects\n"
    );
    assert_eq!(run(&["--warm-days", "1", "--cold-days", "2"]), "moved to cold/: 4 objects\n");
    assert_eq!(run(&["--warm-days", "1", "--cold-days", "2"]), "nothing to do\n");
    let report = proven().await.unwrap();
    assert!(report.proven && report.objects == 4, "{:?}", report.findings);
    assert_eq!(run(&["--warm-days", "1", "--cold-days", "2", "--delete-days", "3"]), "deleted: 4 objects\n");
    assert_eq!(proven().await.unwrap().objects, 0);
}

/// Uploads that are cut short leave their temporary files, for a put that may still go on. After a day there is none.
#[tokio::test(flavor = "multi_thread")]
async fn hdfs_is_rid_of_what_uploads_have_left_after_a_day() {
    let server = Hdfs::start().await;
    let address = server.url().strip_prefix("hdfs://").unwrap().parse().unwrap();
    let proxy = Proxy::start(address).await;
    let open = |url: &str| Objects::open(&url.parse().unwrap(), &S3::default()).unwrap();
    let objects = open(&format!("{}/audit", server.url()));
    let over_proxy = open(&format!("hdfs://{}/audit", proxy.addr()));
    let whole = Path::from(key(0, SLOT, 1).to_string());
    objects.store.put(&whole, "whole".into()).await.unwrap();
    let cut = Path::from(key(0, SLOT, 2).to_string());
    let listed = async || -> Vec<Path> {
        let listed: Vec<_> = objects.store.list(None).try_collect().await.unwrap();
        listed.into_iter().map(|meta| meta.location).collect()
    };
    proxy.swallow_replies_to("create").await;
    let put = tokio::spawn(async move { over_proxy.store.put(&cut, "cut".into()).await });
    let until = Instant::now() + Duration::from_mins(1);
    while listed().await.len() < 2 {
        assert!(Instant::now() < until, "it leaves nothing");
        sleep(Duration::from_millis(20)).await;
    }
    put.abort();
    // What is not the archive's is nobody's to delete.
    objects.store.put(&Path::from("other/.file.tmp.1"), "theirs".into()).await.unwrap();

    let now_ms = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap();
    // The records are of 2024.
    let ages = Ages::new(36_500, 36_501, 36_502).unwrap();
    let day_ms = 86_400_000;
    let apply = async |now_ms| lifecycle::apply(&objects, ages, now_ms).await.unwrap();
    assert_eq!(apply(now_ms + day_ms / 2).await, Vec::<String>::new());
    assert_eq!(listed().await.len(), 3);
    assert_eq!(apply(now_ms + day_ms * 2).await, ["deleted, of uploads that were cut short: 1 objects"]);
    let mut left = listed().await;
    left.sort_unstable();
    assert_eq!(left, [Path::from("other/.file.tmp.1"), whole]);
    assert_eq!(apply(now_ms + day_ms * 2).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_bucket_gets_its_rule_beside_others_and_carries_it_out() {
    let server = RadosGw::start_with_days_of(DAY_S).await;
    server.create_bucket("archive").await;
    let others = "<LifecycleConfiguration><Rule><ID>theirs</ID><Filter><Prefix>theirs/</Prefix></Filter>\
                  <Status>Enabled</Status><Expiration><Days>9</Days></Expiration></Rule></LifecycleConfiguration>";
    server.request("PUT", "/archive?lifecycle", others).await.unwrap();

    let secret = tempfile::NamedTempFile::new().unwrap();
    fs::write(secret.path(), server.secret_key()).unwrap();
    let endpoint = server.endpoint();
    let environment = [
        ("SNOWMINT_S3__ENDPOINT", endpoint.as_str()),
        ("SNOWMINT_S3__REGION", RadosGw::REGION),
        ("SNOWMINT_S3__ACCESS_KEY_ID", server.access_key()),
        ("SNOWMINT_S3__SECRET_ACCESS_KEY_FILE", secret.path().to_str().unwrap()),
    ];
    let apply = |url: &str, days: [&str; 3]| {
        let days = ["--warm-days", days[0], "--cold-days", days[1], "--delete-days", days[2]];
        invoke(&[&["apply", "--archive", url], &days[..]].concat(), &environment)
    };
    // Another archive's rule in the same bucket stays.
    let done = apply("s3://archive/other", ["7", "8", "9"]);
    assert_eq!(
        done,
        (0, "the rule snowmint-audit:other is set; 1 others were kept\n".to_owned(), String::new())
    );
    for _ in 0..2 {
        let done = apply("s3://archive/logs", ["1", "3", "5"]);
        assert_eq!(
            done,
            (0, "the rule snowmint-audit:logs is set; 2 others were kept\n".to_owned(), String::new())
        );
    }
    let (code, out, err) = invoke(&["print", "--archive", "s3://archive/logs"], &environment);
    assert!(
        code == 0 && out.contains("<Days>2557</Days>") && out.contains("snowmint-audit:other"),
        "{out}{err}"
    );
    assert!(out.contains("<Prefix>logs/year=</Prefix>"), "{out}");

    let name = "year=2024/month=01/day=03/hour=19/dc0_worker5_20240103_19.json.gz";
    for path in [format!("logs/{name}"), format!("kept/{name}")] {
        server.request("PUT", &format!("/archive/{path}").replace('=', "%3D"), "x").await.unwrap();
    }
    let seen = classes_of(&server, "logs/").await;
    assert_eq!(seen, ["STANDARD", "STANDARD_IA", "GLACIER", "gone"]);
    assert_eq!(class(&server, "kept/").await.as_deref(), Some("STANDARD"));
}

/// The storage classes that the object goes through, until it is gone.
async fn classes_of(server: &RadosGw, prefix: &str) -> Vec<String> {
    let until = Instant::now() + Duration::from_secs(LIFE_S_MAX);
    let mut seen: Vec<String> = Vec::new();
    loop {
        let class = class(server, prefix).await;
        let class_or_gone = class.clone().unwrap_or_else(|| "gone".to_owned());
        if seen.last() != Some(&class_or_gone) {
            seen.push(class_or_gone);
        }
        if class.is_none() || Instant::now() > until {
            return seen;
        }
        sleep(Duration::from_millis(200)).await;
    }
}

async fn class(server: &RadosGw, prefix: &str) -> Option<String> {
    let list =
        server.request("GET", &format!("/archive?prefix={}", prefix.replace('/', "%2F")), "").await.unwrap();
    let (_, rest) = list.split_once("<StorageClass>")?;
    Some(rest.split_once('<')?.0.to_owned())
}
