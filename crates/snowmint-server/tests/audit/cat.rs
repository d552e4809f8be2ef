//! Who got this ID?

use std::process::{Command, Output, Stdio};

use snowmint::{Format, Id};

use crate::archive::{Archive, Chain, HOUR_MS, SLOT, START_MS, id, key};

fn audit(archive: &Archive, arguments: &[&str]) -> (i32, String, String) {
    let (command, rest) = arguments.split_first().unwrap();
    let mut snowmint = Command::new(env!("CARGO_BIN_EXE_snowmint"));
    snowmint.args(["audit", command, "--archive", &archive.url()]).args(rest).stdin(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SNOWMINT_")) {
        snowmint.env_remove(name);
    }
    let Output { status, stdout, stderr } = snowmint.output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn who_got_an_id_is_told_whatever_form_it_is_in() {
    let (mut archive, _) = Archive::three_hours();
    archive.write();
    let got = Id::new(id(SLOT, START_MS + HOUR_MS + 2_004, 12)).unwrap();
    let line = format!("{}\n", archive.lines(1, 2)[4]);
    for format in Format::ALL {
        let answer = audit(&archive, &["cat", "--id", &format.text(got)]);
        assert_eq!(answer, (0, line.clone(), String::new()));
    }
    let nobody = id(SLOT, START_MS + HOUR_MS + 2_004, 17).to_string();
    let (code, out, err) = audit(&archive, &["cat", "--id", &nobody]);
    assert_eq!((code, out.as_str()), (1, ""));
    let wanted = "error: there is no such record in the 3 objects that could have it, in the archive or waiting for it: \
                  one comes there about a second after its answer\n";
    assert_eq!(err, wanted);
}

#[test]
fn records_are_chosen_by_all_that_is_known_of_them() {
    let (mut archive, _) = Archive::three_hours();
    archive.write();
    let number = |arguments: &[&str]| audit(&archive, &[&["cat"], arguments].concat()).1.lines().count();
    assert_eq!(number(&[]), 40);
    assert_eq!(number(&["--slot", "dc0_worker5", "--event-type", "ids_issued"]), 40);
    assert_eq!(number(&["--slot", "dc0_worker6"]), 0);
    assert_eq!(number(&["--event-type", "slot_taken"]), 0);
    assert_eq!(number(&["--client", "10.0.0.1"]), 6);
    assert_eq!(number(&["--since", "2024-01-03T20:00:01.005Z", "--until", "2024-01-03T21:00:00Z"]), 15);
    let (code, out, _) = audit(&archive, &["cat", "--request-id", "req-1-24"]);
    assert_eq!((code, out), (0, format!("{}\n", archive.lines(1, 2)[3])));
}

/// Objects that are read side by side, and are much larger than what is held of one.
#[test]
fn lines_come_in_order_however_many_there_are() {
    let (mut archive, mut chain) = (Archive::new(), Chain::new(1, SLOT));
    for hour in 0..6 {
        let lines = (0..1_500).map(|record| {
            let at_ms = START_MS + u64::from(hour) * HOUR_MS + record;
            chain.line(at_ms, &[(id(SLOT, at_ms, 0), 1)])
        });
        archive.objects.insert(key(hour, SLOT, 1), lines.collect());
    }
    archive.write();
    let lines: Vec<&String> = archive.objects.values().flatten().collect();
    let (code, out, _) = audit(&archive, &["cat"]);
    assert!(code == 0 && out.lines().eq(lines.iter().copied()));
    let (_, out, _) = audit(&archive, &["cat", "--client", "10.0.0.3"]);
    let wanted = lines.iter().copied().filter(|line| line.contains("\"10.0.0.3\""));
    assert!(out.lines().eq(wanted));
}

#[test]
fn a_closed_pipe_is_no_error() {
    let (archive, _) = Archive::three_hours();
    archive.write();
    let mut child = Command::new(env!("CARGO_BIN_EXE_snowmint"))
        .args(["audit", "cat", "--archive", &archive.url()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &[][..]));
}

#[test]
fn verify_says_what_it_found_and_how_it_ends() {
    let (mut archive, _) = Archive::three_hours();
    archive.write();
    let (code, out, err) = audit(&archive, &["verify"]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("IDs         400\n") && out.contains("PROVEN: "), "{out}");
    let (code, out, _) = audit(&archive, &["verify", "--json", "--since", "2024-01-03T20:30:00Z"]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &report["ids"], &report["chains"][0]["first"]), (0, &300.into(), &11.into()));

    archive.lines(1, 1).remove(4);
    archive.write();
    let (code, out, err) = audit(&archive, &["verify"]);
    assert!(code == 1 && out.contains("record 15 is of dc0_worker5 missing"), "{out}");
    assert_eq!(err, "error: the archive proves nothing: 1 findings\n");
    let (code, out, _) = audit(&archive, &["verify", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &report["findings"][0]["finding"], &report["findings"][0]["from"]),
        (1, &"missing".into(), &15.into())
    );
}
