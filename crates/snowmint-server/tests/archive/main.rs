//! The audit archive: what was issued is in it once, in every place that it can be, whatever happens on the way.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(missing_docs, unreachable_pub, reason = "tests")]

mod cat;
mod contract;
mod crash;
mod node;
mod place;
mod read;

/// How long anything that has to happen is waited for, in milliseconds.
const PATIENCE_MS: u64 = 60_000;

/// How many files a journal's spool has: when all is in the archive, it is one, of what is remembered.
fn spool_files(journal: &std::path::Path) -> usize {
    std::fs::read_dir(journal.join("archive")).unwrap().count()
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
