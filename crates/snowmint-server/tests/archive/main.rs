//! The audit archive: what was issued is in it once, in every place that it can be, whatever happens on the way.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(missing_docs, unreachable_pub, reason = "tests")]

mod contract;
mod crash;
mod node;
mod place;
mod read;

/// How long anything that has to happen is waited for, in milliseconds.
const PATIENCE_MS: u64 = 60_000;

/// Whether all that a journal's records were is in the archive: what is left is what is remembered of them.
fn spool_is_empty(journal: &std::path::Path) -> bool {
    std::fs::read_dir(journal.join("archive")).unwrap().all(|entry| entry.unwrap().file_name() == "state")
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let held = async {
        while !holds().await {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let patience = std::time::Duration::from_millis(PATIENCE_MS);
    assert!(tokio::time::timeout(patience, held).await.is_ok(), "{what}: not within {patience:?}");
}
