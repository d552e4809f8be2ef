//! The command line, as a person or a script meets it: the real binary, its output and its exit codes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use snowmint::{Claim, Layout, Slot};
use snowmint_server::registry::{EmbeddedRegistry, Namespace, Owner, Registry, WindowRecord, Worker};
use uuid::Uuid;

const ID: &str = "397833929219919914";

fn snowmint(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_snowmint"));
    command.args(arguments).stdin(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SNOWMINT_")) {
        command.env_remove(name);
    }
    command
}

fn run(arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = snowmint(arguments).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// Asserts the exit code, and that both outputs hold what is expected of them.
fn assert_run(arguments: &[&str], code: i32, stdout: &[&str], stderr: &[&str]) {
    let (got, out, err) = run(arguments);
    assert_eq!(got, code, "{arguments:?}: {out}{err}");
    for part in stdout {
        assert!(out.contains(part), "{arguments:?}: {out}");
    }
    for part in stderr {
        assert!(err.contains(part), "{arguments:?}: {err}");
    }
    assert_eq!(stderr.is_empty(), err.is_empty(), "{arguments:?}: {err}");
}

#[test]
fn alone_it_prints_help() {
    assert_run(&[], 2, &[], &["Usage: snowmint", "serve", "bench"]);
    assert_run(&["--help"], 0, &["Usage: snowmint"], &[]);
    assert_run(&["--version"], 0, &[env!("CARGO_PKG_VERSION")], &[]);
}

#[test]
fn wrong_usage_exits_with_2() {
    assert_run(&["frobnicate"], 2, &[], &["error: unrecognized subcommand"]);
    assert_run(&["parse"], 2, &[], &["error: "]);
    assert_run(&["id", "-n", "0"], 2, &[], &["error: invalid value '0'"]);
    assert_run(&["id", "--server", "https://localhost"], 2, &[], &["https is not supported"]);
    assert_run(
        &["id", "--server", "localhost:8080"],
        2,
        &[],
        &["a URL such as http://127.0.0.1:8080 is wanted"],
    );
    assert_run(&["id", "--format", "roman"], 2, &[], &["decimal", "base62", "base32", "hex"]);
    assert_run(&["bench", "--batch", "10001"], 2, &[], &["1..=10000"]);
    assert_run(&["bench", "--batch", "1", "--ranges", "1"], 2, &[], &["cannot be used with"]);
    assert_run(&["parse", "--layout", "41/5/5/13", ID], 2, &[], &["must add up to 63 bits, these are 64"]);
}

#[test]
fn parse_reads_every_form() {
    for text in [ID, "0B1B3V77C0M1A", "0b1b3v77c0m1a", "0x058563d9cec0502a"] {
        let (code, out, err) = run(&["parse", text]);
        assert_eq!((code, err.as_str()), (0, ""), "{text}: {out}");
        for line in [
            "id          397833929219919914\n",
            "time        2024-01-03T19:30:00.123Z\n",
            "datacenter  0\n",
            "worker      5\n",
            "sequence    42\n",
            "base32      0B1B3V77C0M1A\n",
        ] {
            assert!(out.contains(line), "{text}: {out}");
        }
    }
}

#[test]
fn parse_has_json() {
    let (code, out, _) = run(&["parse", "--json", ID, "1"]);
    let lines: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((code, lines.len()), (0, 2));
    assert_eq!(lines[0]["id"], 397_833_929_219_919_914_u64);
    assert_eq!(lines[0]["components"]["timestamp_iso"], "2024-01-03T19:30:00.123Z");
    assert_eq!(lines[0]["components"]["worker_id"], 5);
    assert!(lines[0]["age_ms"].as_i64().unwrap() > 0);
}

#[test]
fn parse_takes_another_layout_and_epoch() {
    let arguments = ["parse", "--layout", "42/4/5/12", "--epoch-ms", "0", "2097157"];
    assert_run(&arguments, 0, &["1970-01-01T00:00:00.001Z", "sequence    5"], &[]);
}

#[test]
fn parse_tells_the_bad_from_the_good() {
    let (code, out, err) = run(&["parse", ID, "nonsense", "42", "9223372036854775808"]);
    assert_eq!(code, 1);
    let first_words: Vec<_> = out.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(first_words, ["id", ID, "42"]);
    let errors: Vec<_> = err.lines().collect();
    assert_eq!(errors.len(), 2, "{err}");
    assert!(errors[0].starts_with("error: \"nonsense\" is no ID: 8 characters with letters"), "{err}");
    assert!(errors[1].contains("the ID is too large"), "{err}");
}

#[test]
fn parse_asks_which_form_is_meant_where_it_could_be_two() {
    assert_run(&["parse", "12345678901"], 1, &[], &["say which form it is"]);
    assert_run(&["parse", "--format", "decimal", "12345678901"], 0, &["id          12345678901\n"], &[]);
}

#[test]
fn config_show_says_where_values_come_from() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("snowmint.toml");
    std::fs::write(&path, "[lease]\nwindow_ms = 5000\n").unwrap();
    let path = path.to_str().unwrap();
    let arguments = ["config", "show", "--config", path, "--http", "127.0.0.1:1", "--worker", "3"];
    let output = snowmint(&arguments).env("SNOWMINT_DATACENTER", "2").output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    let line = |start: &str| {
        let line = shown.lines().find(|line| line.starts_with(start)).unwrap();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("lease.window_ms"), format!("lease.window_ms = 5000 # file {path}, line 2"));
    assert_eq!(line("http.listen"), "http.listen = \"127.0.0.1:1\" # flag --http");
    assert_eq!(line("worker"), "worker = 3 # flag --worker");
    assert_eq!(line("datacenter"), "datacenter = 2 # environment SNOWMINT_DATACENTER");
    assert_eq!(line("grpc.listen"), "grpc.listen = \"127.0.0.1:9090\" # default");
    assert_eq!(line("# node_name"), "# node_name is unset # default");

    // What it shows is a configuration that says the same.
    let again = directory.path().join("again.toml");
    std::fs::write(&again, &shown).unwrap();
    let (code, json, err) = run(&["config", "show", "--json", "--config", again.to_str().unwrap()]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap_or_else(|_| panic!("{err}"));
    assert_eq!((code, &json["lease.window_ms"]["value"]), (0, &5000.into()));
    assert_eq!(json["node_name"]["origin"], "default");
}

#[test]
fn a_wrong_configuration_exits_with_2() {
    assert_run(&["config", "check"], 0, &["the configuration is right"], &[]);
    for command in [&["config", "check"][..], &["config", "show"], &["serve"]] {
        let with = |flags: &[&'static str]| [command, flags].concat();
        assert_run(
            &with(&["--worker", "-1"]),
            2,
            &[],
            &["error: worker = -1 (flag --worker): a whole number"],
        );
        assert_run(&with(&["--http", "0.0.0.0:80"]), 2, &[], &["error: http.listen = ", "--insecure"]);
        assert_run(
            &with(&["--registry", "consul://a"]),
            2,
            &[],
            &["`embedded` is wanted, or etcd://HOST:PORT"],
        );
        assert_run(
            &with(&["--config", "/nowhere/snowmint.toml"]),
            2,
            &[],
            &["error: cannot read the configuration file /nowhere/snowmint.toml: No such file"],
        );
        let output = snowmint(command).env("SNOWMINT_HTTP__LISTN", "").output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr.contains("did you mean SNOWMINT_HTTP__LISTEN?"), "{stderr}");
    }
}

#[test]
fn a_server_that_is_not_there_exits_with_1() {
    // Bound and dropped: nobody listens there.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    assert_run(&["id", "--server", &url], 1, &[], &["error: cannot get ", "Connection refused"]);
    assert_run(&["cluster", "status", "--server", &url], 1, &[], &["error: cannot get "]);
    assert_run(
        &["bench", "--url", &url],
        1,
        &[],
        &["error: cannot connect to 127.0.0.1:", "Connection refused"],
    );
}

/// A server that answers each path as it is told, until the test process ends.
fn serve(answer: impl Fn(&str) -> (u16, String) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let answer = Arc::clone(&answer);
            std::thread::spawn(move || converse(&stream.unwrap(), &*answer));
        }
    });
    url
}

/// Ends with an error when the client goes.
fn converse(mut stream: &TcpStream, answer: &dyn Fn(&str) -> (u16, String)) -> Option<()> {
    let mut lines = BufReader::new(stream).lines();
    loop {
        let request = lines.next()?.ok()?;
        while !lines.next()?.ok()?.is_empty() {}
        let (status, body) = answer(request.split(' ').nth(1)?);
        let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).ok()?;
    }
}

#[test]
fn id_asks_in_batches() {
    let next = AtomicU64::new(0);
    let url = serve(move |path| {
        let count: u64 = match path {
            "/api/v1/id?format=hex" => return (200, r#"{"id":"0x01"}"#.to_owned()),
            "/api/v1/ids?count=10000&format=decimal" => 10_000,
            "/api/v1/ids?count=2345&format=decimal" => 2_345,
            _ => return (404, r#"{"error":{"code":"NOT_FOUND","message":"no such call"}}"#.to_owned()),
        };
        let first = next.fetch_add(count, Ordering::Relaxed);
        (200, format!("{{\"ids\":{:?}}}", (first..first + count).collect::<Vec<_>>()))
    });
    assert_run(&["id", "--format", "hex", "--server", &url], 0, &["0x01\n"], &[]);
    let (code, out, err) = run(&["id", "-n", "12345", "--server", &url]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.lines().eq((0..12_345).map(|id: u64| id.to_string())));
    assert_run(&["id", "-n", "3", "--server", &url], 1, &[], &["error: ", "NOT_FOUND: no such call"]);
}

#[test]
fn a_reader_that_has_had_enough_is_no_error() {
    let url = serve(|_| (200, format!("{{\"ids\":{:?}}}", vec![1; 10_000])));
    let mut child = snowmint(&["id", "-n", "1000000000", "--server", &url])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((line.as_str(), output.status.code(), output.stderr.len()), ("1\n", Some(0), 0));
}

const CLUSTER: &str = r#"{"cluster_id":"c0ffee00-0000-4000-8000-000000000000","registry":"etcd://a:2379",
"as_of":"2026-01-01T00:00:00Z","stale":true,"problem":"the registry did not answer","epoch_ms":1609459200000,
"layout":"41/5/5/12","max_sequence":4095,"clock_drift_threshold_ms":100,
"datacenters":[{"datacenter_id":0,"name":"us-east-1","region":null,"workers":[{"worker_id":5,
"hostname":"host-a","ip":"127.0.0.1","port":8080,"started_at":"2026-01-01T00:00:00Z","version":"0.1.0","node":"a",
"instance":"00000000-0000-0000-0000-000000000000"}]}],
"windows":[{"slot":"dc0_worker5","datacenter_id":0,"worker_id":5,"node":"a","ceiling":397833929219899392,
"ceiling_time":"2024-01-03T19:30:00.123Z","held":true,"window_left_ms":123}],"retired_workers":[],
"damaged":[{"slot":"dc0_worker7","problem":"it is no JSON"}]}"#;

#[test]
fn cluster_status_is_a_table_or_json() {
    let url = serve(|_| (200, CLUSTER.to_owned()));
    let shown = [
        "c0ffee00",
        "etcd://a:2379, stale: what it last said, at 2026-01-01",
        "the registry did not answer",
        "us-east-1",
        "host-a",
        "127.0.0.1:8080",
        "dc0_worker5",
        "397833929219899392",
        "123 ms",
        "no retired workers",
        "dc0_worker7 cannot be used: it is no JSON",
    ];
    assert_run(&["cluster", "status", "--server", &url], 0, &shown, &[]);
    let (code, out, _) = run(&["cluster", "status", "--json", "--server", &url]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json), (0, &serde_json::from_str(CLUSTER).unwrap()));
    let other = serve(|_| (200, "{}".to_owned()));
    assert_run(&["cluster", "status", "--server", &other], 1, &[], &["is it a snowmint server?"]);
}

const REPORT: &str = r#"{"report":"ids-per-second","store":"embedded in /data/metrics.db","since":"2026-01-01T10:00:00Z",
"until":"2026-01-01T10:02:15Z","columns":["minute","datacenter_id","worker_id","ids_generated","ids_per_second"],"rows":[
{"minute":"2026-01-01T10:02:00Z","datacenter_id":0,"worker_id":5,"ids_generated":300,"ids_per_second":20.0},
{"minute":"2026-01-01T10:00:00Z","datacenter_id":0,"worker_id":5,"ids_generated":2400,"ids_per_second":40.0},
{"minute":"2026-01-01T10:00:00Z","datacenter_id":1,"worker_id":0,"ids_generated":60,"ids_per_second":1.0}],
"truncated":true}"#;

#[test]
fn a_report_is_a_table_and_a_plot_or_json() {
    let url = serve(|path| {
        match path {
        "/api/v1/reports/ids-per-second?since=5400s&datacenter=0&worker=5" | "/api/v1/reports/ids-per-second" => {
            (200, REPORT.to_owned())
        }
        "/api/v1/reports/errors" => (
            200,
            r#"{"store":"s","since":"2026-01-01T10:00:00Z","until":"2026-01-01T10:02:15Z","truncated":false,"rows":[
            {"error_code":3001,"error_count":9},{"error_code":1001,"error_count":2},{"error_code":3001,"error_count":1}]}"#
                .to_owned(),
        ),
        "/api/v1/reports/tables" => (503, r#"{"error":{"code":"SERVICE_UNAVAILABLE","message":"no"}}"#.to_owned()),
        _ => (
            200,
            r#"{"store":"s","since":"2026-01-01T10:00:00Z","until":"2026-01-01T10:02:15Z","truncated":false,"rows":[]}"#
                .to_owned(),
        ),
    }
    });
    let ids = [
        "report",
        "ids-per-second",
        "--since",
        "90m",
        "--datacenter",
        "0",
        "--worker",
        "5",
        "--server",
        &url,
    ];
    let shown = [
        "ids-per-second, embedded in /data/metrics.db, from 2026-01-01T10:00:00Z until 2026-01-01T10:02:15Z",
        "2026-01-01T10:02:00Z              0          5            300           20.00",
        "There are older rows: these are the newest 3.",
        "IDs per second, of all slots (a column for each minute)\n  41 ┤██████\n",
        "01-01 10:02 UTC",
    ];
    assert_run(&ids, 0, &shown, &[]);
    assert_run(&["report", "ids-per-second", "--json", "--server", &url], 0, &[REPORT], &[]);
    let errors = ["- ", "errors by code\n3001 10 ████", "\n1001  2 ████"];
    assert_run(&["report", "errors", "--server", &url], 0, &errors, &[]);
    assert_run(&["report", "daily", "--server", &url], 0, &["nothing happened"], &[]);
    assert_run(&["report", "tables", "--server", &url], 1, &[], &["SERVICE_UNAVAILABLE: no"]);
    assert_run(
        &["report", "latencies"],
        2,
        &[],
        &["there are ids-per-second, latency, clock-drift, overflow"],
    );
    assert_run(
        &["report", "latency", "--since", "yesterday"],
        2,
        &[],
        &["such as 90s, 30m, 1h or 7d, or a time"],
    );
}

/// The registry of a data directory, with one slot that `node` holds.
fn registry_with_a_holder(directory: &std::path::Path) -> EmbeddedRegistry {
    let layout = Layout::default();
    let namespace = Namespace {
        cluster_id: Uuid::new_v4(),
        epoch_ms: layout.epoch_ms(),
        layout: layout.split(),
        max_sequence: 4_095,
        clock_drift_threshold_ms: 100,
    };
    let slot = Slot { datacenter: 0, worker: 5 };
    let worker = Worker {
        hostname: "host-a".to_owned(),
        ip: "127.0.0.1".to_owned(),
        port: 8080,
        started_at: Timestamp::UNIX_EPOCH,
        version: "0.1.0".to_owned(),
        owner: Owner { node: "a".to_owned(), instance: Uuid::new_v4() },
    };
    let ceiling = Claim::new(layout, slot, None, 1_704_310_200_123, 10_000).unwrap().ceiling();
    let record = WindowRecord::new(worker.owner.clone(), ceiling, layout);
    let registry = EmbeddedRegistry::new(directory).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        registry.open(&namespace).await.unwrap();
        registry.claim(slot, None, &record, &worker).await.unwrap();
    });
    registry
}

#[test]
fn what_nodes_share_is_shown_and_changed() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().to_str().unwrap();
    let cluster =
        |words: &[&'static str]| -> Vec<&str> { [&["cluster"], words, &["--data-dir", data_dir]].concat() };
    assert_run(&cluster(&["status"]), 1, &[], &["cannot read", "registry.json"]);
    assert_eq!(std::fs::read_dir(data_dir).unwrap().count(), 0, "looking makes nothing");

    let _held = registry_with_a_holder(directory.path());
    assert_run(&cluster(&["status"]), 0, &["embedded, as of", "dc0_worker5", "host-a"], &[]);
    assert_run(&cluster(&["config", "get", "max_sequence"]), 0, &["4095\n"], &[]);
    assert_run(&cluster(&["config", "set", "max_sequence", "1023"]), 0, &[], &[]);
    assert_run(&cluster(&["config", "set", "dc0/name", "us-east-1"]), 0, &[], &[]);
    let all = ["max_sequence = 1023", "epoch = 1609459200000", "dc0/name = us-east-1", "cluster_id = "];
    assert_run(&cluster(&["config", "get"]), 0, &all, &[]);
    for (key, value, wanted) in [
        ("max_sequence", "4096", "the layout 41/5/5/12 has room for 0 to 4095"),
        ("clock_drift_threshold", "0", "milliseconds from 1 to 3600000 are wanted"),
        ("epoch", "0", "epoch is written once"),
        ("dc32/name", "x", "has datacenters 0 to 31"),
        ("max_sequences", "5", "is no setting: there are epoch"),
    ] {
        assert_run(&cluster(&["config", "set", key, value]), 2, &[], &[wanted]);
    }
}

#[test]
fn a_slot_is_given_back_by_force() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().to_str().unwrap();
    let _held = registry_with_a_holder(directory.path());
    let retire = |slot: &str| run(&["cluster", "retire", slot, "--data-dir", data_dir]);
    let (code, out, err) = retire("dc0_worker5");
    assert!(code == 0 && out.contains("dc0_worker5 was given back for node a"), "{out}{err}");
    let (_, status, _) = run(&["cluster", "status", "--json", "--data-dir", data_dir]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["retired_workers"][0]["slot"], "dc0_worker5");
    assert_eq!((&status["windows"][0]["held"], &status["windows"][0]["node"]), (&false.into(), &"a".into()));
    assert!(retire("dc0_worker6").2.contains("dc0_worker6 was never held"));
    assert!(retire("worker6").2.contains("is not a slot: one is written like dc0_worker5"));
}

fn bench(url: &str, more: &[&str]) -> (i32, serde_json::Value, String) {
    let (code, out, err) =
        run(&[&["bench", "--seconds", "1", "--connections", "4", "--json", "--url", url], more].concat());
    (code, serde_json::from_str(&out).unwrap(), err)
}

#[test]
fn bench_counts_and_checks() {
    let next = AtomicU64::new(1);
    let url = serve(move |path| {
        let first = next.fetch_add(3, Ordering::Relaxed);
        match path {
            "/api/v1/id" => (200, format!("{{\"id\":{first}}}")),
            "/api/v1/ids?count=3" => (200, format!("{{\"ids\":[{first},{},{}]}}", first + 1, first + 2)),
            _ => (200, format!("{{\"ranges\":[{{\"first\":{first},\"count\":3}}]}}")),
        }
    });
    for (more, ids) in [(&[][..], 1), (&["--batch", "3"], 3), (&["--ranges", "3", "--threads", "2"], 3)] {
        let (code, report, err) = bench(&url, more);
        assert_eq!((code, err.as_str()), (0, ""), "{report}");
        let requests = report["requests"].as_u64().unwrap();
        assert!(requests > 0);
        assert_eq!(report["ids"], requests * ids);
        assert_eq!((&report["duplicates"], &report["checked"]), (&0.into(), &"all".into()));
        assert!(report["latency_us"]["p50"].as_u64() <= report["latency_us"]["max"].as_u64());
    }
}

#[test]
fn bench_finds_duplicates_unless_told_not_to_look() {
    let url = serve(|path| match path {
        "/" => (500, String::new()),
        _ => (200, r#"{"id":7}"#.to_owned()),
    });
    let (code, report, err) = bench(&url, &[]);
    assert_eq!(code, 1);
    assert_eq!(report["duplicates"], report["requests"].as_u64().unwrap() - 1);
    assert!(err.contains("IDs came more than once, among them [7]"), "{err}");

    let (code, report, err) = bench(&format!("{url}/some/path"), &["--no-check"]);
    assert_eq!((code, err.as_str(), &report["checked"]), (0, "", &"off".into()));
    assert!(report["requests"].as_u64().unwrap() > 0);
}

#[test]
fn bench_keeps_to_a_rate() {
    let url = serve(|_| (200, String::new()));
    let (_, report, _) = bench(&url, &["--no-check", "--rate", "50"]);
    assert_eq!((&report["requests"], &report["latency_from"]), (&50.into(), &"due".into()), "{report}");
}

/// A thousand requests a second for a second, in which the server stands still for 300 ms once: those due in the
/// first 100 ms of that, a tenth, waited for 200 ms at least. Counted from when they were sent, or left out, it were the
/// four that were under way.
#[test]
fn bench_counts_latency_from_when_a_request_was_due() {
    let (stall, stall_us) = (std::time::Duration::from_millis(300), 300_000);
    let answered = std::sync::Mutex::new(0);
    let url = serve(move |_| {
        let mut answered = answered.lock().unwrap();
        *answered += 1;
        if *answered == 300 {
            #[expect(clippy::disallowed_methods, reason = "the thread of a server that is to stand still")]
            std::thread::sleep(stall);
        }
        (200, String::new())
    });
    let (code, report, err) = bench(&url, &["--no-check", "--rate", "1000"]);
    assert_eq!((code, err.as_str()), (0, ""), "{report}");
    assert_eq!((&report["requests"], &report["errors"]), (&1_000.into(), &0.into()), "{report}");
    let latency_us = |name: &str| report["latency_us"][name].as_u64().unwrap();
    assert!(latency_us("p90") >= 190_000, "{report}");
    assert!(latency_us("max") >= stall_us, "{report}");
}

#[test]
fn bench_says_when_it_may_not_have_so_many_connections() {
    let program = env!("CARGO_BIN_EXE_snowmint");
    let limited = format!("ulimit -n 300 && exec '{program}' bench --connections 100");
    let Output { status, stderr, .. } = Command::new("sh").args(["-c", &limited]).output().unwrap();
    let err = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{err}");
    assert!(err.contains("open files for 44 connections, and 100 are wanted"), "{err}");
}

#[test]
fn bench_tells_errors_by_their_code() {
    let url = serve(|_| (503, r#"{"error":{"code":"WORKER_UNAVAILABLE","message":"no slot"}}"#.to_owned()));
    let (code, report, err) = bench(&url, &[]);
    assert_eq!((code, err.as_str()), (1, "error: no request was answered with success\n"));
    assert!(report["errors"].as_u64().unwrap() > 0);
    assert_eq!(report["errors_by_code"]["WORKER_UNAVAILABLE"], report["errors"]);
}
