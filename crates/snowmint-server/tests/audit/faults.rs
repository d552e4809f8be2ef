//! Every fault that somebody could plant is found, and named.

use std::fs;

use snowmint::Slot;
use snowmint_server::archive::Hour;
use snowmint_server::audit::Scope;
use snowmint_server::audit::verify::{Finding, Options};

use crate::archive::{Archive, Chain, HOUR_MS, SLOT, START_MS, id, key, options};

/// The only thing that is wrong.
fn only(findings: Vec<Finding>) -> Finding {
    let [finding] = <[Finding; 1]>::try_from(findings).unwrap();
    finding
}

fn assert_says(finding: &Finding, parts: &[&str]) {
    let text = finding.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn an_archive_as_it_was_written_is_proven() {
    let (archive, _) = Archive::three_hours();
    archive.write();
    let report = archive.verified(options());
    assert!(report.proven, "{:?}", report.findings);
    assert_eq!((report.objects, report.ids, report.slots, report.chains.len()), (4, 400, 1, 1));
    assert_eq!((report.chains[0].first, report.chains[0].last, report.chains[0].objects), (1, 40, 4));
    assert_eq!(report.first.unwrap().as_millisecond().unsigned_abs(), START_MS + 1_000);
}

#[test]
fn a_chain_that_starts_before_the_hours_that_are_read_is_no_finding() {
    let (archive, _) = Archive::three_hours();
    archive.write();
    let since = Some(Hour(Hour::of(START_MS).0 + 2));
    let report =
        archive.verified(Options { scope: Scope { since, ..Scope::default() }, whole: false, ..options() });
    assert!(report.proven, "{:?}", report.findings);
    assert_eq!((report.objects, report.chains[0].first), (1, 31));
}

#[test]
fn a_late_record_is_in_the_object_of_the_next_hour() {
    let (mut archive, mut chain) = Archive::three_hours();
    let late_ms = START_MS + 3 * HOUR_MS - 1;
    let lines = vec![
        chain.line(late_ms + 1, &[(id(SLOT, late_ms + 1, 0), 1)]),
        chain.line(late_ms, &[(id(SLOT, late_ms, 5), 1), (id(SLOT, late_ms - 9, 5), 3)]),
    ];
    archive.objects.insert(key(3, SLOT, 1), lines);
    assert_eq!(archive.findings(), []);
}

#[test]
fn an_id_that_two_chains_have_is_found() {
    let (mut archive, _) = Archive::three_hours();
    let mut other = Chain::new(2, SLOT);
    let at_ms = START_MS + HOUR_MS + 1_003;
    archive.objects.insert(key(1, SLOT, 3), vec![other.line(at_ms + 5, &[(id(SLOT, at_ms, 9), 1)])]);
    let finding = only(archive.findings());
    assert_says(
        &finding,
        &[
            &format!("ID {} of dc0_worker5 was issued more than once", id(SLOT, at_ms, 9)),
            "dc0_worker5_20240103_20.json.gz line 4 (record 14 of journal 00000000-0000-0000-0000-000000000001)",
            "dc0_worker5_20240103_20-3.json.gz line 1 (record 1 of journal 00000000-0000-0000-0000-000000000002)",
        ],
    );
    assert_eq!(archive.verified(options()).duplicate_ids, 1);
}

#[test]
fn ids_that_one_chain_has_twice_are_found_across_an_hour_and_within_a_record() {
    let (mut archive, mut chain) = Archive::three_hours();
    // The hour before had the IDs 7 to 16 of this millisecond, and this request is late.
    let before_ms = START_MS + 2 * HOUR_MS + 1_009;
    let at_ms = START_MS + 3 * HOUR_MS;
    let line =
        chain.line(at_ms, &[(id(SLOT, before_ms, 15), 4), (id(SLOT, at_ms, 1), 2), (id(SLOT, at_ms, 1), 1)]);
    archive.objects.insert(key(3, SLOT, 1), vec![line]);
    let findings = archive.findings();
    let [before, within] = findings.as_slice() else { panic!("{findings:?}") };
    assert_says(before, &["2 IDs of dc0_worker5", "_21.json.gz line 10", "_22.json.gz line 1"]);
    assert_says(within, &["_22.json.gz line 1 (record 41", "_22.json.gz line 1 (record 41"]);
}

#[test]
fn a_record_that_was_removed_is_found() {
    let (mut archive, _) = Archive::three_hours();
    archive.lines(1, 2).remove(3);
    let finding = only(archive.findings());
    assert_says(
        &finding,
        &["record 24 is of dc0_worker5 missing", "removed", "_20-2.json.gz line 3", "_20-2.json.gz line 4"],
    );

    // The last of an object, and the first of the chain.
    let (mut archive, _) = Archive::three_hours();
    archive.lines(1, 2).pop();
    assert_says(&only(archive.findings()), &["record 30 is", "_20-2.json.gz line 9", "_21.json.gz line 1"]);
    let (mut archive, _) = Archive::three_hours();
    archive.lines(0, 1).remove(0);
    assert_says(&only(archive.findings()), &["record 1 is", "audit.max_bytes", "_19.json.gz line 1"]);
}

#[test]
fn a_byte_that_was_changed_is_found() {
    let (mut archive, _) = Archive::three_hours();
    let line = &mut archive.lines(1, 1)[6];
    *line = line.replace("tester/1", "tester/2");
    let finding = only(archive.findings());
    assert_says(
        &finding,
        &[
            "a line was changed",
            "in year=2024/month=01/day=03/hour=20/dc0_worker5_20240103_20.json.gz line 7",
        ],
    );

    // In the last line of an object, which the next object vouches for.
    let (mut archive, _) = Archive::three_hours();
    let line = &mut archive.lines(1, 1)[9];
    *line = line.replace("tester/1", "tester/2");
    assert_says(&only(archive.findings()), &["_20.json.gz line 10", "_20-2.json.gz line 1"]);

    // So that the line is no record any more.
    let (mut archive, _) = Archive::three_hours();
    let line = &mut archive.lines(1, 1)[6];
    *line = line.replacen('"', "'", 1);
    assert_says(&only(archive.findings()), &["damaged: it is no record", "_20.json.gz line 7"]);
}

#[test]
fn a_byte_of_a_file_that_was_changed_is_found() {
    let (archive, _) = Archive::three_hours();
    archive.write();
    let path = archive.path(key(1, SLOT, 1));
    let packed = fs::read(&path).unwrap();
    for at in (10..packed.len()).step_by(37) {
        let mut damaged = packed.clone();
        damaged[at] ^= 0x10;
        fs::write(&path, damaged).unwrap();
        let report = archive.verified(options());
        let named = |finding: &Finding| matches!(finding, Finding::Damaged { object, .. } if object.ends_with("_20.json.gz"));
        assert!(report.findings.iter().any(named), "byte {at}: {:?}", report.findings);
    }
}

#[test]
fn an_object_that_was_cut_short_is_found() {
    let (archive, _) = Archive::three_hours();
    archive.write();
    let path = archive.path(key(1, SLOT, 1));
    let packed = fs::read(&path).unwrap();
    for (bytes, problem) in
        [(packed.len() - 4, "it ends before its end"), (packed.len() / 2, "it ends"), (0, "it ends")]
    {
        fs::write(&path, &packed[..bytes]).unwrap();
        let report = archive.verified(options());
        let named = |finding: &Finding| {
            finding.to_string().contains(problem) && finding.to_string().contains("_20.json.gz")
        };
        assert!(report.findings.iter().any(named), "{bytes} bytes: {:?}", report.findings);
    }
}

#[test]
fn an_object_that_was_removed_is_found() {
    let (mut archive, _) = Archive::three_hours();
    archive.objects.remove(&key(1, SLOT, 1));
    let findings = archive.findings();
    let [object, records] = findings.as_slice() else { panic!("{findings:?}") };
    assert_says(object, &["hour=20/dc0_worker5_20240103_20.json.gz is missing"]);
    assert_says(
        records,
        &["records 11 to 20 are", "not yet uploaded", "_19.json.gz line 10", "_20-2.json.gz line 1"],
    );
}

#[test]
fn objects_that_were_exchanged_are_found() {
    // Of one hour.
    let (mut archive, _) = Archive::three_hours();
    let (one, other) = (archive.lines(1, 1).clone(), archive.lines(1, 2).clone());
    (*archive.lines(1, 1), *archive.lines(1, 2)) = (other, one);
    assert_says(
        &only(archive.findings()),
        &["objects were exchanged", "_20-2.json.gz has", "those of", "_20.json.gz"],
    );

    // Of two hours.
    let (mut archive, _) = Archive::three_hours();
    let (one, other) = (archive.lines(0, 1).clone(), archive.lines(1, 1).clone());
    (*archive.lines(0, 1), *archive.lines(1, 1)) = (other, one);
    let findings = archive.findings();
    for (object, belongs) in [("_19.json.gz line 1", "hour=20"), ("_20.json.gz line 1", "hour=19")] {
        let named = |finding: &Finding| matches!(finding, Finding::WrongObject { place, belongs: is } if place.to_string().contains(object) && is.contains(belongs));
        assert!(findings.iter().any(named), "{object}: {findings:?}");
    }

    // Of two slots.
    let (mut archive, _) = Archive::three_hours();
    let moved = archive.objects.remove(&key(2, SLOT, 1)).unwrap();
    archive.objects.insert(key(2, Slot { worker: 6, ..SLOT }, 1), moved);
    let finding = &archive.findings()[0];
    assert_says(
        finding,
        &["belongs into", "dc0_worker5_20240103_21.json.gz", "dc0_worker6_20240103_21.json.gz line 1"],
    );
}

#[test]
fn ids_outside_of_their_slot_are_found() {
    let other = Slot { worker: 6, ..SLOT };
    let at_ms = START_MS + 3 * HOUR_MS;
    for (run, parts) in [
        ((id(other, at_ms, 3), 1), "belongs to dc0_worker6"),
        // From the end of a millisecond on, into the next slot's.
        ((id(SLOT, at_ms, 4_090), 7), "the 7 IDs"),
        ((id(SLOT, at_ms, 0), 0), "the 0 IDs"),
    ] {
        let (mut archive, mut chain) = Archive::three_hours();
        archive.objects.insert(key(3, SLOT, 1), vec![chain.line(at_ms, &[run])]);
        assert_says(&only(archive.findings()), &[parts, &run.0.to_string(), "_22.json.gz line 1"]);
    }
}

#[test]
fn ids_of_another_time_than_their_records_are_found() {
    let at_ms = START_MS + 3 * HOUR_MS;
    for id_ms in [at_ms + 1, at_ms - HOUR_MS - 1] {
        let (mut archive, mut chain) = Archive::three_hours();
        archive.objects.insert(key(3, SLOT, 1), vec![chain.line(at_ms, &[(id(SLOT, id_ms, 0), 1)])]);
        let finding = only(archive.findings());
        assert!(matches!(&finding, Finding::WrongTime { id_ms: is, .. } if *is == id_ms), "{finding:?}");
    }
}

#[test]
fn a_copy_of_an_object_is_found() {
    let (mut archive, _) = Archive::three_hours();
    let copy = archive.lines(2, 1).clone();
    archive.objects.insert(key(2, SLOT, 2), copy);
    let findings = archive.findings();
    assert!(
        findings.iter().any(
            |finding| matches!(finding, Finding::Duplicate { count: 10, places, .. } if places.len() == 2)
        )
    );
    let repeated = findings.iter().find(|finding| matches!(finding, Finding::Repeated { .. })).unwrap();
    assert_says(repeated, &["records 31 to 40 are more than once", "_21.json.gz", "_21-2.json.gz"]);
}

#[test]
fn a_record_put_in_between_is_found() {
    let (mut archive, _) = Archive::three_hours();
    let mut other = Chain::new(2, SLOT);
    let at_ms = START_MS + HOUR_MS + 1_500;
    let line = other.line(at_ms, &[(id(SLOT, at_ms, 0), 1)]);
    archive.lines(1, 1).insert(5, line);
    let findings = archive.findings();
    assert!(
        findings.iter().any(|finding| matches!(finding, Finding::SeveralChains { place } if place.line == 6)),
        "{findings:?}"
    );

    // A count that is not that of the ranges.
    let (mut archive, _) = Archive::three_hours();
    let line = &mut archive.lines(2, 1)[9];
    *line = line.replace("\"count\":10}", "\"count\":9}");
    assert_says(&only(archive.findings()), &["a record of 10 IDs has 9", "_21.json.gz line 10"]);
}
