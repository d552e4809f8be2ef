//! What is kept, for whom, and for how long.

use std::fs;

use snowmint_server::journal::JournalError;
use snowmint_server::metrics::Metrics;
use tempfile::TempDir;

use super::{Open, SMALL, STRICT, event, next, numbers, rest, segments, until};

#[tokio::test]
async fn what_was_taken_is_given_to_each_sink_at_its_own_pace() {
    let directory = TempDir::new().unwrap();
    let open = Open::new(directory.path(), STRICT, &["fast", "slow"]);
    let (mut fast, mut slow) = (open.reader("fast"), open.reader("slow"));
    open.keep(0..10).await;
    open.events.take(event(10));
    until(|| open.journal.end() == 11, "the one that nobody waits for is synced too").await;

    let first = next(&mut fast, 4).await;
    assert_eq!((first.first, numbers(&first)), (0, vec![0, 1, 2, 3]));
    assert_eq!(next(&mut fast, 100).await.token(), first.token(), "offered again until it is done");
    fast.done(&first).await.unwrap();
    assert_eq!(numbers(&next(&mut fast, 100).await), (4..11).collect::<Vec<_>>());
    assert_eq!((fast.lag().events(), slow.lag().events()), (7, 11));

    let journal = open.journal.id();
    open.close().await;
    assert_eq!(rest(&mut slow).await, (0..11).collect::<Vec<_>>());
    drop((fast, slow));

    let open = Open::new(directory.path(), STRICT, &["fast", "slow", "new"]);
    assert_eq!(open.journal.id(), journal);
    let (mut fast, mut slow, mut new) = (open.reader("fast"), open.reader("slow"), open.reader("new"));
    open.keep([11]).await;
    open.close().await;
    assert_eq!(rest(&mut fast).await, (4..12).collect::<Vec<_>>());
    assert_eq!(rest(&mut slow).await, [11]);
    assert_eq!(rest(&mut new).await, (0..12).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_batch_that_was_offered_is_the_same_after_a_restart() {
    let directory = TempDir::new().unwrap();
    let open = Open::new(directory.path(), STRICT, &["a"]);
    open.keep(0..30).await;
    let mut reader = open.reader("a");
    let offered = next(&mut reader, 10).await;
    open.keep(30..40).await;
    open.close().await;
    drop(reader);

    let open = Open::new(directory.path(), STRICT, &["a"]);
    let mut reader = open.reader("a");
    let again = next(&mut reader, 1_000).await;
    assert_eq!((again.token(), numbers(&again)), (offered.token(), numbers(&offered)));
    reader.done(&again).await.unwrap();
    assert_eq!(numbers(&next(&mut reader, 1_000).await), (10..40).collect::<Vec<_>>());
    assert_eq!(next(&mut reader, 3).await.events.len(), 30, "it was offered so");
}

#[tokio::test]
async fn segments_that_all_have_passed_go() {
    let directory = TempDir::new().unwrap();
    let open = Open::new(directory.path(), SMALL, &["a", "b"]);
    open.keep(0..600).await;
    let had = segments(directory.path()).len();
    assert!(had > 2, "{had}");
    let (mut a, mut b) = (open.reader("a"), open.reader("b"));
    let batch = next(&mut a, 1_000).await;
    assert_eq!(batch.events.len(), 600, "a batch goes over segments");
    a.done(&batch).await.unwrap();
    assert_eq!(segments(directory.path()).len(), had);
    let batch = next(&mut b, 300).await;
    b.done(&batch).await.unwrap();
    let left = segments(directory.path());
    assert!(left.len() < had && *left.keys().next().unwrap() <= 300, "{left:?}");
    let batch = next(&mut b, 1_000).await;
    b.done(&batch).await.unwrap();
    assert_eq!(segments(directory.path()).len(), 1);
    assert!(open.journal.bytes() < 16 << 10, "{}", open.journal.bytes());
}

#[tokio::test]
async fn nothing_is_kept_for_a_sink_that_is_not_configured_any_more() {
    let directory = TempDir::new().unwrap();
    let open = Open::new(directory.path(), SMALL, &["a", "gone"]);
    open.keep(0..600).await;
    let mut a = open.reader("a");
    open.close().await;
    assert_eq!(rest(&mut a).await.len(), 600);
    drop(a);
    assert!(segments(directory.path()).len() > 2);

    let open = Open::new(directory.path(), SMALL, &["a"]);
    assert_eq!(segments(directory.path()).len(), 1);
    assert!(!directory.path().join("gone.cursor").exists());
    assert!(matches!(open.journal.reader("gone"), Err(JournalError::File { .. })));
    open.close().await;

    let open = Open::new(directory.path(), SMALL, &[]);
    open.keep(0..600).await;
    until(|| segments(directory.path()).len() == 1, "without sinks nothing is kept").await;
}

/// The policy of a full journal: what is kept stays, what is new is shed and counted, whoever waits is told, and
/// it goes on by itself.
#[tokio::test]
async fn a_full_journal_sheds_what_is_new_until_there_is_room() {
    let directory = TempDir::new().unwrap();
    let open = Open::new(directory.path(), SMALL, &["away"]);
    let mut kept = 0;
    while open.events.keep(event(kept)).await {
        kept += 1;
    }
    open.events.take(event(kept + 1));
    until(|| open.metrics.events_shed.get() == 2, "the others are shed too").await;
    assert!(open.journal.bytes() <= SMALL.max_bytes && open.journal.bytes() > SMALL.max_bytes * 9 / 10);
    assert!(open.journal.trouble().unwrap().contains("journal.max_bytes"), "{:?}", open.journal.trouble());

    let mut away = open.reader("away");
    let batch = next(&mut away, 400).await;
    assert_eq!(numbers(&batch), (0..400).collect::<Vec<_>>());
    away.done(&batch).await.unwrap();
    open.keep([kept + 2]).await;
    assert_eq!(open.journal.trouble(), None);
    assert_eq!(gauge(&open.metrics, "journal_bytes"), open.journal.bytes());
    assert_eq!(gauge(&open.metrics, "sink_lag_records{sink=\"away\"}"), away.lag().events());
    open.close().await;
    assert_eq!(rest(&mut away).await, (400..kept).chain([kept + 2]).collect::<Vec<_>>());
}

fn gauge(metrics: &Metrics, name: &str) -> u64 {
    let text = String::from_utf8(metrics.render()).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

#[tokio::test]
async fn each_process_has_its_own() {
    use snowmint_server::journal::Journal;

    let data_dir = TempDir::new().unwrap();
    let first = Open::new(&data_dir.path().join("journal"), STRICT, &["a"]);
    let busy = Open::try_new(&data_dir.path().join("journal"), STRICT, &["a"]);
    assert!(matches!(busy, Err(JournalError::Busy { .. })));
    let open = || Journal::open_first_free(data_dir.path(), STRICT, &["a"], &first.events, &first.metrics);
    let second = open().unwrap();
    assert_eq!(second.directory(), data_dir.path().join("journal-2"));
    assert_ne!(second.id(), first.journal.id());
}

#[tokio::test]
async fn a_later_format_and_a_segment_from_elsewhere_are_refused() {
    let (here, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    for (directory, count) in [(&here, 600), (&elsewhere, 5)] {
        let open = Open::new(directory.path(), SMALL, &["a"]);
        open.keep(0..count).await;
        open.close().await;
    }
    let first = segments(here.path())[&0].clone();
    let own = fs::read(&first).unwrap();
    fs::copy(&segments(elsewhere.path())[&0], &first).unwrap();
    let refusal = || Open::try_new(here.path(), SMALL, &["a"]).err().unwrap().to_string();
    assert!(refusal().contains("move it elsewhere"), "{}", refusal());
    let mut later = own;
    later[8] = 2;
    fs::write(&first, later).unwrap();
    assert!(refusal().contains("has format 2, this version of snowmint knows 1"), "{}", refusal());
}
