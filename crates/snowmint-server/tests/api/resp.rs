//! RESP, as sockets, `redis-cli`, `redis-benchmark` and the Redis clients of Python and Node see it.

use std::process::Stdio;
use std::time::Duration;

use snowmint::{Id, IdRange};
use snowmint_server::config::Limits;
use snowmint_server::event::{Api, Issued, Keeping, Kept, Taken, What};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;

use crate::node::Node;

const PATIENCE: Duration = Duration::from_mins(1);

/// A connection.
struct Raw(TcpStream);

impl Raw {
    async fn to(node: &Node) -> Self {
        Self(TcpStream::connect(node.resp).await.unwrap())
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// The next line, without its end.
    async fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(timeout(PATIENCE, self.0.read_u8()).await.expect("an answer in time").unwrap());
        }
        String::from_utf8(line).unwrap().trim_end().to_owned()
    }

    async fn lines(&mut self, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        for _ in 0..count {
            lines.push(self.line().await);
        }
        lines
    }

    async fn ids(&mut self, count: usize) -> Vec<u64> {
        let lines = self.lines(count).await;
        lines
            .iter()
            .map(|line| line.strip_prefix(':').unwrap_or_else(|| panic!("{line}")).parse().unwrap())
            .collect()
    }

    /// Everything until the other side has hung up.
    async fn rest(&mut self) -> String {
        let mut rest = String::new();
        timeout(PATIENCE, self.0.read_to_string(&mut rest)).await.expect("the end in time").unwrap();
        rest
    }

    /// Sends a command as a line, and gets a line.
    async fn ask(&mut self, command: &str) -> String {
        self.send(format!("{command}\r\n")).await;
        self.line().await
    }
}

/// What a program prints that has to succeed.
async fn printed(mut command: Command) -> String {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let program = command.as_std().get_program().display().to_string();
    let output = timeout(PATIENCE, command.output()).await.expect("its end in time");
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; `cargo xtask test` installs it"));
    let [said, complained] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(output.status.success(), "{program}: {said}{complained}");
    said
}

async fn redis_cli(node: &Node, arguments: &[&str]) -> String {
    let mut command = Command::new("redis-cli");
    command.args(["-p", &node.resp.port().to_string()]).args(arguments);
    printed(command).await
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_cli_is_a_client() {
    let node = Node::start().await;
    for version in ["-2", "-3"] {
        let one: u64 = redis_cli(&node, &[version, "incr", "orders"]).await.trim().parse().unwrap();
        let next: u64 = redis_cli(&node, &[version, "snowmint.next"]).await.trim().parse().unwrap();
        assert!(one < next);
        let batch = redis_cli(&node, &[version, "snowmint.batch", "3"]).await;
        assert!(batch.lines().all(|line| line.parse::<u64>().unwrap() > next) && batch.lines().count() == 3);
        let ranges = redis_cli(&node, &[version, "snowmint.ranges", "100"]).await;
        assert!(ranges.lines().nth(1) == Some("100"), "{ranges}");
        let parsed = redis_cli(&node, &[version, "snowmint.parse", "0B1B3V77C0M1A"]).await;
        assert!(parsed.contains("2024-01-03T19:30:00.123Z"), "{parsed}");
        let info = redis_cli(&node, &[version, "info"]).await;
        assert!(info.contains("# Server\r\n") && info.contains("status:healthy\r\n"), "{info}");
        assert_eq!(redis_cli(&node, &[version, "-n", "3", "ping"]).await, "PONG\n");
        let documented = redis_cli(&node, &[version, "command", "docs", "incr", "get"]).await;
        assert!(documented.contains("Returns an ID") && !documented.contains("get"), "{documented}");
    }
    let refused = redis_cli(&node, &["get", "key"]).await;
    assert!(refused.contains("ERR unknown command 'get', with args beginning with: 'key'"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_benchmark_runs_to_its_end() {
    let node = Node::start().await;
    let runs: [&[&str]; 4] = [
        &["-t", "incr,ping", "-n", "20000"],
        &["-t", "incr", "-n", "100000", "-P", "32"],
        &["-t", "incr", "-n", "100000", "-P", "1000", "-3", "--threads", "2"],
        &["-n", "200", "snowmint.batch", "1000"],
    ];
    for run in runs {
        let mut command = Command::new("redis-benchmark");
        command.args(["-p", &node.resp.port().to_string(), "-q"]).args(run);
        let report = printed(command).await;
        assert!(report.contains("requests per second"), "{run:?}: {report}");
        assert!(!report.contains("rror from server"), "{run:?}: {report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_of_python_and_node_are_clients() {
    let node = Node::start().await;
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/api/resp");
    for (program, script, variable, modules) in [
        ("python3", "client.py", "PYTHONPATH", test_servers::tool("redis-py")),
        ("node", "client.cjs", "NODE_PATH", test_servers::tool("node-redis").join("node_modules")),
    ] {
        for version in ["2", "3"] {
            let mut command = Command::new(program);
            command.env(variable, &modules).env("PYTHONDONTWRITEBYTECODE", "1");
            command.arg(format!("{directory}/{script}")).args([&node.resp.port().to_string(), version]);
            assert_eq!(printed(command).await, "done\n", "{script}, version {version}");
        }
    }
}

#[tokio::test]
async fn commands_that_mint_nothing_answer_as_redis_does() {
    let node = Node::start().await;
    let mut raw = Raw::to(&node).await;
    for (command, answer) in [
        ("ping", "+PONG"),
        ("select 15", "+OK"),
        ("select 16", "-ERR DB index is out of range"),
        ("select x", "-ERR value is not an integer or out of range"),
        ("client getname", "$-1"),
        ("client setname me", "+OK"),
        ("client setinfo lib-name lib", "+OK"),
        ("client setinfo lib-ver 1.2", "+OK"),
        ("client setinfo lib-color red", "-ERR Unrecognized option 'lib-color'"),
        (
            "client setname \"a b\"",
            "-ERR Client names cannot contain spaces, newlines or special characters.",
        ),
        ("client setname", "-ERR wrong number of arguments for 'client|setname' command"),
        ("client kill", "-ERR unknown subcommand 'kill'"),
        ("client", "-ERR wrong number of arguments for 'client' command"),
        ("command count", ":16"),
        ("command info get", "*1"),
        ("auth default secret", "+OK"),
        ("auth someone secret", "-WRONGPASS invalid username-password pair or user is disabled."),
        (
            "auth secret",
            "-ERR AUTH <password> called without any password configured for the default user. Are you sure \
             your configuration is correct?",
        ),
        ("hello 4", "-NOPROTO unsupported protocol version"),
        ("hello x", "-ERR Protocol version is not an integer or out of range"),
        ("hello 3 now", "-ERR Syntax error in HELLO option 'now'"),
        ("hello 3 auth someone secret", "-WRONGPASS invalid username-password pair or user is disabled."),
        ("incr", "-ERR wrong number of arguments for 'incr' command"),
        (
            "incrby a 2",
            "-ERR the increment must be 1: SNOWMINT.BATCH and SNOWMINT.RANGES give more than one ID",
        ),
        ("snowmint.next 1", "-ERR wrong number of arguments for 'snowmint.next' command"),
        ("snowmint.batch 0", "-ERR count is \"0\", it must be an integer from 1 to 10000"),
        ("snowmint.ranges 1000001", "-ERR count is \"1000001\", it must be an integer from 1 to 1000000"),
        ("get", "-ERR unknown command 'get', with args beginning with:"),
        ("set \"a\\nb\" 1", "-ERR unknown command 'set', with args beginning with: 'a b' '1'"),
        ("reset", "+RESET"),
        ("client getname", "$-1"),
    ] {
        assert_eq!(raw.ask(command).await, answer, "{command}");
        if answer == "*1" {
            assert_eq!(raw.line().await, "*-1");
        }
    }
    assert!(raw.ask("snowmint.parse nonsense").await.starts_with("-ERR id is \"nonsense\""));
    assert_eq!(raw.ask("hello 3 auth default x setname me").await, "%7");
    let hello = raw.lines(25).await;
    assert!(hello.contains(&"snowmint".to_owned()) && hello.ends_with(&["*0".to_owned()]), "{hello:?}");
    assert_eq!((raw.ask("client getname").await, raw.line().await), ("$2".to_owned(), "me".to_owned()));
    assert!(raw.ask("snowmint.ranges 10").await == "*1" && raw.lines(3).await[0] == "*2");
    raw.send("quit\r\nincr never\r\n").await;
    assert_eq!(raw.rest().await, "+OK\r\n");
}

#[tokio::test]
async fn a_pipeline_is_one_request_and_is_answered_in_order() {
    let node = Node::start_keeping(Keeping::Relaxed).await;
    let mut raw = Raw::to(&node).await;
    raw.send("client setname me\r\n").await;
    raw.line().await;
    while node.events.next().is_some() {}
    raw.send(
        "incr a\r\n*1\r\n$13\r\nSNOWMINT.NEXT\r\nping\r\n\r\nincrby b 1\r\nsnowmint.batch 2\r\nincr c\r\n",
    )
    .await;
    let mut got = raw.ids(2).await;
    assert_eq!(raw.line().await, "+PONG");
    got.extend(raw.ids(1).await);
    assert_eq!(raw.line().await, "*2");
    got.extend(raw.ids(3).await);
    assert!(got.is_sorted_by(|a, b| a < b), "{got:?}");
    let events: Vec<Issued> = std::iter::from_fn(|| node.events.next()).map(issued).collect();
    let told: Vec<Vec<u64>> = events.iter().map(ids).collect();
    assert_eq!(told, [&got[..3], &got[3..5], &got[5..]]);
    let request = &events[0].request;
    assert_eq!((request.api, request.user_agent().as_ref()), (Api::Resp, "me"));
    assert_eq!(request.request_id(), events[2].request.request_id());
}

fn issued(taken: Taken) -> Issued {
    match taken.event.what {
        What::Issued(issued) => issued,
        other => panic!("{other:?}"),
    }
}

fn ids(issued: &Issued) -> Vec<u64> {
    issued.ranges.iter().flat_map(IdRange::ids).map(Id::get).collect()
}

/// What was issued and waits to be written down, and who is told of it.
async fn to_be_kept(node: &Node) -> (Issued, Kept) {
    let wait = async {
        loop {
            match node.events.next() {
                Some(Taken { event, kept: Some(told) }) => break (issued(Taken { event, kept: None }), told),
                Some(_) => {}
                None => tokio::task::yield_now().await,
            }
        }
    };
    timeout(PATIENCE, wait).await.expect("an event in time")
}

#[tokio::test]
async fn strict_answers_when_it_is_written_down_and_not_before() {
    let node = Node::start_keeping(Keeping::Strict).await;
    let mut raw = Raw::to(&node).await;
    for kept in [true, false] {
        raw.send("ping\r\nincr a\r\nincr b\r\n").await;
        let (issued, told) = to_be_kept(&node).await;
        assert!(raw.0.try_read(&mut [0]).is_err(), "nothing is answered before");
        if kept {
            told.send(()).unwrap();
            assert_eq!(raw.line().await, "+PONG");
            assert_eq!(raw.ids(2).await, ids(&issued));
        } else {
            drop(told);
            let lines = raw.lines(3).await;
            assert!(lines[1].starts_with("-TRYAGAIN AUDIT_UNAVAILABLE") && lines[1] == lines[2], "{lines:?}");
        }
    }
}

#[tokio::test]
async fn refusals_begin_with_the_word_that_clients_know() {
    let mut node = Node::start_without_slot(Limits { connections: 1, ..Limits::default() }).await;
    let mut raw = Raw::to(&node).await;
    raw.send("incr a\r\nsnowmint.batch 2\r\nping\r\nincr b\r\n").await;
    let lines = raw.lines(4).await;
    for refused in [0, 1, 3] {
        assert!(lines[refused].starts_with("-LOADING WORKER_UNAVAILABLE this node cannot mint"), "{lines:?}");
    }
    assert_eq!(lines[2], "+PONG");
    let metrics = String::from_utf8(node.get("/metrics").await.body.to_vec()).unwrap();
    assert!(metrics.contains("id_generation_errors_total{code=\"WORKER_UNAVAILABLE\"} 3"), "{metrics}");
    node.take_slot().await;
    raw.send("incr a\r\n").await;
    raw.ids(1).await;
    let mut second = Raw::to(&node).await;
    assert_eq!(second.rest().await, "-ERR max number of clients reached\r\n");
}

#[tokio::test]
async fn what_is_no_command_is_answered_and_ends_the_connection() {
    let node = Node::start().await;
    for (bytes, error) in [
        (&b"*1\r\n:1\r\n"[..], "expected '$', got ':'"),
        (b"*x\r\n", "invalid multibulk length"),
        (b"*1\r\n$x\r\n", "invalid bulk length"),
        (b"ping \"\r\n", "unbalanced quotes in request"),
        (b"POST / HTTP/1.1\r\nHost: a\r\n\r\nincr a\r\n", "this is HTTP, which is served at http.listen"),
        (&b"a".repeat(100_000), "too big request, more than 65536 bytes"),
    ] {
        let mut raw = Raw::to(&node).await;
        raw.send(b"ping\r\n").await;
        raw.send(bytes).await;
        assert_eq!(raw.rest().await, format!("+PONG\r\n-ERR Protocol error: {error}\r\n"));
    }
}

#[tokio::test]
async fn a_large_command_and_one_in_pieces_are_commands() {
    let node = Node::start().await;
    let mut raw = Raw::to(&node).await;
    let message = "m".repeat(60_000);
    raw.send(format!("*2\r\n$4\r\nECHO\r\n$60000\r\n{message}\r\n")).await;
    assert_eq!((raw.line().await, raw.line().await), ("$60000".to_owned(), message));
    for byte in b"*2\r\n$4\r\nINCR\r\n$1\r\na\r\n" {
        raw.send([*byte]).await;
        tokio::task::yield_now().await;
    }
    raw.ids(1).await;
}

/// A client that sends and never reads is kept to what its socket and the bounds hold, and does not stay.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_dropped() {
    let node = Node::start_with(Limits { request_s: 1, ..Limits::default() }).await;
    let mut raw = Raw::to(&node).await;
    let greedy = "snowmint.batch 10000\r\n".repeat(1_000);
    let sending = async { while raw.0.write_all(greedy.as_bytes()).await.is_ok() {} };
    timeout(PATIENCE, sending).await.expect("the connection is dropped");
}

#[tokio::test]
async fn a_node_that_stops_finishes_what_has_come() {
    let node = Node::start_keeping(Keeping::Strict).await;
    let (mut idle, mut busy) = (Raw::to(&node).await, Raw::to(&node).await);
    assert_eq!(idle.ask("ping").await, "+PONG");
    busy.send("incr a\r\nping\r\n").await;
    let (_, told) = to_be_kept(&node).await;
    node.begin_to_stop();
    assert_eq!(idle.rest().await, "");
    told.send(()).unwrap();
    busy.ids(1).await;
    assert_eq!(busy.rest().await, "+PONG\r\n");
    drop((idle, busy));
    timeout(Duration::from_secs(4), node.stop()).await.expect("no connection has to be dropped");
}
