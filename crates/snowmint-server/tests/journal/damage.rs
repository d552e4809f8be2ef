//! Files that are torn, changed, or shorter than they were.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::{Open, SMALL, STRICT, all_of, next, numbers, rest, segments};

/// Where each record of a segment starts, and where the last ends.
fn record_starts(bytes: &[u8]) -> Vec<usize> {
    let mut starts = vec![40];
    while *starts.last().unwrap() < bytes.len() {
        let start = *starts.last().unwrap();
        let length = u32::from_le_bytes(bytes[start..start + 4].try_into().unwrap());
        starts.push(start + 8 + length as usize);
    }
    starts
}

async fn written(directory: &Path, settings: super::JournalSettings, count: u32) {
    let open = Open::new(directory, settings, &["a"]);
    open.keep(0..count).await;
    open.close().await;
}

#[tokio::test]
async fn a_torn_tail_is_cut_wherever_it_is_torn() {
    let directory = TempDir::new().unwrap();
    written(directory.path(), STRICT, 4).await;
    let whole = fs::read(&segments(directory.path())[&0]).unwrap();
    let starts = record_starts(&whole);
    let (last, end) = (starts[3], starts[4]);
    assert_eq!(end, whole.len());
    for torn in last..end {
        // Cut short; and as long as it was, with zeros for what did not reach the disk.
        let mut zeros = whole[..torn].to_vec();
        zeros.resize(end, 0);
        for bytes in [&whole[..torn], &zeros[..]] {
            if bytes == whole {
                continue;
            }
            fs::write(&segments(directory.path())[&0], bytes).unwrap();
            let open = Open::new(directory.path(), STRICT, &["a"]);
            assert_eq!(open.journal.end(), 3, "{torn}");
            open.keep([7]).await;
            open.close().await;
            assert_eq!(all_of(directory.path()).await, [0, 1, 2, 7], "{torn}");
        }
    }
}

#[tokio::test]
async fn a_torn_header_is_no_segment() {
    let directory = TempDir::new().unwrap();
    written(directory.path(), STRICT, 3).await;
    fs::write(directory.path().join("00000000000000000003.log"), b"snowjrnl\x01").unwrap();
    let open = Open::new(directory.path(), STRICT, &["a"]);
    open.keep([3]).await;
    open.close().await;
    assert_eq!(all_of(directory.path()).await, [0, 1, 2, 3]);
}

#[tokio::test]
async fn a_changed_byte_costs_its_record_or_the_rest_of_its_segment_and_is_counted() {
    let directory = TempDir::new().unwrap();
    written(directory.path(), SMALL, 600).await;
    let segments = segments(directory.path());
    let after: Vec<u64> = segments.keys().copied().collect();
    let middle = &segments[&after[1]];
    let whole = fs::read(middle).unwrap();
    let damaged = after[1] + 10;
    let start = record_starts(&whole)[10];
    // In the header, in the checksum, in the payload; in the length.
    for (offset, lost) in [(20, 0), (start + 5, 1), (start + 9, 1), (start + 1, after[2] - damaged)] {
        let mut bytes = whole.clone();
        bytes[offset] ^= 1;
        fs::write(middle, bytes).unwrap();
        let sink = format!("sink-{offset}");
        let open = Open::new(directory.path(), SMALL, &["a", &sink]);
        let mut reader = open.reader(&sink);
        open.journal.close().await;
        let expected: Vec<u32> =
            (0..600).filter(|number| !(damaged..damaged + lost).contains(&u64::from(*number))).collect();
        assert_eq!(rest(&mut reader).await, expected, "{offset}");
        assert_eq!(open.lost(&sink), lost, "{offset}");
    }
}

#[tokio::test]
async fn a_batch_ends_before_damage_and_numbers_stay_right() {
    let directory = TempDir::new().unwrap();
    written(directory.path(), STRICT, 20).await;
    let path = &segments(directory.path())[&0];
    let mut bytes = fs::read(path).unwrap();
    let payload = record_starts(&bytes)[5] + 8;
    bytes[payload] ^= 0x40;
    fs::write(path, bytes).unwrap();
    let open = Open::new(directory.path(), STRICT, &["a"]);
    let mut reader = open.reader("a");
    let before = next(&mut reader, 100).await;
    assert_eq!((before.first, before.end()), (0, 5));
    reader.done(&before).await.unwrap();
    let after = next(&mut reader, 100).await;
    assert_eq!((after.first, numbers(&after)), (6, (6..20).collect()));
}

/// A disk that lost what it had confirmed: what was delivered has its numbers for ever.
#[tokio::test]
async fn no_number_is_given_twice() {
    let directory = TempDir::new().unwrap();
    let open = Open::new(directory.path(), STRICT, &["a"]);
    open.keep(0..10).await;
    let mut reader = open.reader("a");
    let batch = next(&mut reader, 8).await;
    reader.done(&batch).await.unwrap();
    open.close().await;
    drop(reader);
    let path = &segments(directory.path())[&0];
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..record_starts(&bytes)[5]]).unwrap();

    let open = Open::new(directory.path(), STRICT, &["a"]);
    open.keep([100]).await;
    let mut reader = open.reader("a");
    let batch = next(&mut reader, 100).await;
    assert_eq!((batch.first, numbers(&batch)), (8, vec![100]));
    assert_eq!(open.lost("a"), 0);
}
