//! `snowmint schema` and `snowmint retention`, as they are typed.

use std::process::Command;

use super::store::Store;

pub fn command(store: &Store, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_snowmint"));
    command.args(arguments).env("SNOWMINT_CLICKHOUSE__URL", store.server.url());
    command.env("SNOWMINT_CLICKHOUSE__DATABASE", &store.config.database);
    if let (Some(user), Some(file)) = (&store.config.user, &store.config.password_file) {
        command.env("SNOWMINT_CLICKHOUSE__USER", user).env("SNOWMINT_CLICKHOUSE__PASSWORD_FILE", file);
    }
    command
}

pub fn snowmint(store: &Store, arguments: &[&str]) -> String {
    let output = command(store, arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn commands_say_what_they_did() {
    let store = Store::start_empty().await;
    let applied = snowmint(&store, &["schema", "apply"]);
    assert!(applied.starts_with("applied 001_versions\napplied 002_tables\n"), "{applied}");
    let applied = snowmint(&store, &["schema", "apply"]);
    assert!(!applied.contains("applied") && applied.ends_with("has version 5 of the schema\n"), "{applied}");
    assert!(snowmint(&store, &["schema", "optimize"]).contains("id_generation_events: merged"));

    let set = snowmint(&store, &["retention", "set", "performance_metrics", "400"]);
    assert_eq!(
        set,
        "performance_metrics: kept for 400 days\nperformance_metrics_hourly_states: kept for 400 days\n"
    );
    assert_eq!(snowmint(&store, &["retention", "apply"]), "nothing to do\n");
    let shown = snowmint(&store, &["retention", "show"]);
    let row = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert!(shown.lines().any(|line| row(line) == ["performance_metrics", "400", "400"]), "{shown}");
}

#[tokio::test]
async fn what_is_printed_is_what_is_applied() {
    let store = Store::start_empty().await;
    let create = format!("CREATE DATABASE {}", store.config.database);
    store.server.query(&create).await;
    let printed = snowmint(&store, &["schema", "print"]);
    let code: Vec<&str> = printed.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
    for statement in code.join("\n").split(';').filter(|statement| !statement.trim().is_empty()) {
        store.clickhouse.execute(statement).await.unwrap();
    }
    assert_eq!(store.one("SELECT count() FROM retention_policy").await, "4");

    // There is no cluster here: the server can say only whether these are statements.
    let printed = snowmint(&store, &["schema", "print", "--cluster", "fleet"]);
    for statement in printed.split(';').filter(|statement| statement.contains("CREATE")) {
        let code: Vec<&str> = statement.lines().filter(|line| !line.starts_with("--")).collect();
        store.clickhouse.rows(&format!("EXPLAIN AST {}", code.join("\n").trim()), &[]).await.unwrap();
    }
}
