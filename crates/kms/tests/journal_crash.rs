//! Kills a real process between each pair of steps of an append, and injects full disks, slow and failing syncs.
//!
//! The child is this test binary again, running one ignored test. It appends and reports each receipt on a pipe; the
//! parent then opens what is left: every acknowledged record is there once, nothing is there that was not given.

#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use bytes::Bytes;
use fail::FailScenario;
use keytrail_kms::chain::{Kind, Leaf, LogId};
use keytrail_kms::clock::SystemClock;
use keytrail_kms::journal::{
    AppendError, Bound, Chain, Draft, Journal, JournalError, JournalOptions, Reader, SubmitError, reader,
};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const DIR_VARIABLE: &str = "KEYTRAIL_CRASH_DIR";
const SIGABRT: i32 = 6;

fn log() -> LogId {
    LogId::of_origin("keytrail/test/node-0123456789abcdef")
}

fn options() -> JournalOptions {
    JournalOptions { segment_bytes: 270_336, prepare_retry: Duration::from_millis(1), ..JournalOptions::default() }
}

fn open(dir: &Path, options: JournalOptions) -> Journal {
    Journal::open(dir, log(), Arc::new(SystemClock), options).unwrap().0
}

fn draft(text: &str) -> Draft {
    Draft::new(Kind::Event, Bytes::copy_from_slice(text.as_bytes())).unwrap()
}

/// Waits until `done`; a test that never gets there ends by the runner's limit.
fn wait_until(mut done: impl FnMut() -> bool) {
    while !done() {
        std::thread::yield_now();
    }
}

/// All records, their chain checked.
fn records(dir: &Path) -> Vec<(Leaf, String)> {
    let mut chain = Chain::genesis(log());
    let frames = reader::read_range(dir, 0, 1_000_000).unwrap();
    frames
        .iter()
        .map(|frame| (chain.accept(frame).unwrap(), String::from_utf8(frame.payload.to_vec()).unwrap()))
        .collect()
}

#[test]
#[ignore = "the child of the crash tests"]
fn child() {
    let Ok(dir) = std::env::var(DIR_VARIABLE) else { return };
    let _scenario = FailScenario::setup();
    let journal = open(Path::new(&dir), options());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let journal = &journal;
            scope.spawn(move || {
                for n in 0..40 {
                    let text = format!("run{}-thread{thread}-{n}-{}", journal.epoch(), "x".repeat(n * 40));
                    let Ok(pending) = journal.append(draft(&text)) else { return };
                    let Ok(receipt) = pending.wait() else { return };
                    // One write call a line, so that lines of threads do not mix and none is half there.
                    let line = format!("ACK {} {text}\n", receipt.seq);
                    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
                    std::io::stdout().lock().flush().unwrap();
                }
            });
        }
    });
}

/// Runs the child with a fail point; gives its acknowledged records and whether it aborted.
fn run_child(dir: &Path, point: &str) -> (BTreeMap<u64, String>, bool) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIR_VARIABLE, dir)
        .env("FAILPOINTS", point)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let acknowledged = text
        .lines()
        .filter_map(|line| line.split_once("ACK ").map(|(_, rest)| rest.split_once(' ').unwrap()))
        .map(|(seq, text)| (seq.parse().unwrap(), text.to_owned()))
        .collect();
    (acknowledged, output.status.signal() == Some(SIGABRT))
}

#[test]
fn a_kill_between_any_two_steps_loses_no_acknowledged_record() {
    let points = ["before_write", "after_write", "before_fdatasync", "after_fdatasync", "before_head"];
    for point in points {
        let dir = tempfile::tempdir().unwrap();
        let mut acknowledged = BTreeMap::new();
        // Three runs over the same folder, each killed a little later.
        for rounds in [0, 3, 17] {
            let (more, aborted) = run_child(dir.path(), &format!("journal::{point}={rounds}*off->return"));
            assert!(aborted, "{point} after {rounds} batches");
            acknowledged.extend(more);
        }
        let (more, aborted) = run_child(dir.path(), "");
        assert!(!aborted && more.len() == 160, "{point}: the last run ends by itself, acknowledged {}", more.len());
        acknowledged.extend(more);

        drop(open(dir.path(), options()));
        let found = records(dir.path());
        for (seq, text) in &acknowledged {
            assert_eq!(&found[usize::try_from(*seq).unwrap()].1, text, "{point}: seq {seq}");
        }
        let mut texts: Vec<_> = found.iter().map(|(_, text)| text).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), found.len(), "{point}: nothing is there twice");
    }
}

#[test]
fn a_kill_while_a_segment_is_prepared_leaves_nothing_behind() {
    let scenario = FailScenario::setup();
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), options()));
    std::fs::write(dir.path().join("segment.tmp"), [7; 5_000]).unwrap();
    drop(open(dir.path(), options()));
    assert!(!dir.path().join("segment.tmp").exists());
    scenario.teardown();
}

#[test]
fn a_full_disk_refuses_calls_and_service_returns() {
    let scenario = FailScenario::setup();
    let dir = tempfile::tempdir().unwrap();
    // The first segment is there; no second one can be made.
    fail::cfg("journal::prepare_segment", "1*off->return").unwrap();
    let journal = open(dir.path(), options());
    let mut written = 0;
    let refused = loop {
        match journal.append(draft(&"x".repeat(10_000))) {
            Ok(pending) => {
                pending.wait().unwrap();
                written += 1;
            }
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused, SubmitError::Full(Bound::NoSpace));
    assert!(written > 10 && written < 30, "{written} records fit into one segment");
    assert!(journal.refusing().is_some());

    fail::remove("journal::prepare_segment");
    wait_until(|| journal.refusing().is_none());
    for _ in 0..30 {
        journal.append(draft(&"y".repeat(10_000))).unwrap().wait().unwrap();
    }
    journal.close();
    assert_eq!(records(dir.path()).len(), written + 30);
    scenario.teardown();
}

#[test]
fn a_batch_beyond_its_bound_stops_service_until_an_addendum_names_the_replies_not_sent() {
    let scenario = FailScenario::setup();
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), JournalOptions { append_bound: Duration::from_secs(2), ..options() });
    journal.append(draft("before")).unwrap().wait().unwrap();
    fail::cfg("journal::before_fdatasync", "pause").unwrap();
    let late: Vec<_> = (0..3).map(|n| journal.append(draft(&format!("late{n}"))).unwrap()).collect();
    for pending in late {
        assert_eq!(pending.wait(), Err(AppendError::Bound));
    }
    assert_eq!(journal.append(draft("refused")).unwrap_err(), SubmitError::Stalled);

    fail::remove("journal::before_fdatasync");
    wait_until(|| journal.refusing().is_none());
    journal.append(draft("after")).unwrap().wait().unwrap();
    journal.close();
    let found = records(dir.path());
    let texts: Vec<_> = found.iter().map(|(_, text)| text.as_str()).collect();
    let addendum = r#"{"recordVersion":1,"repliesNotSent":[[1,3]]}"#;
    assert_eq!(texts, ["before", "late0", "late1", "late2", addendum, "after"]);
    assert_eq!(found[4].0.kind, Kind::Addendum);
    scenario.teardown();
}

#[test]
fn a_failed_sync_is_fatal_and_nobody_gets_a_receipt() {
    let scenario = FailScenario::setup();
    let dir = tempfile::tempdir().unwrap();
    let (called, fatal) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let hook = Arc::clone(&fatal);
    let options = JournalOptions {
        on_fatal: Arc::new(move |error| {
            assert!(matches!(error, JournalError::Io { .. }));
            hook.store(true, Ordering::SeqCst);
        }),
        ..options()
    };
    let journal = open(dir.path(), options);
    journal.append(draft("before")).unwrap().wait().unwrap();
    fail::cfg("journal::fdatasync", "return").unwrap();
    assert_eq!(journal.append(draft("lost")).unwrap().wait(), Err(AppendError::Stopped));
    wait_until(|| fatal.load(Ordering::SeqCst));
    let refused = journal.submit(draft("refused"), || {
        called.store(true, Ordering::SeqCst);
        Ok::<(), ()>(())
    });
    assert_eq!(refused.unwrap_err(), SubmitError::Stopped);
    assert!(!called.load(Ordering::SeqCst));
    assert_eq!(Reader::open(dir.path(), 0).unwrap().next(10).unwrap().len(), 1);
    scenario.teardown();
}

#[test]
fn a_deleted_segment_is_fatal_before_the_next_batch() {
    let scenario = FailScenario::setup();
    let dir = tempfile::tempdir().unwrap();
    let fatal = Arc::new(AtomicBool::new(false));
    let hook = Arc::clone(&fatal);
    let options = JournalOptions { on_fatal: Arc::new(move |_| hook.store(true, Ordering::SeqCst)), ..options() };
    let journal = open(dir.path(), options);
    journal.append(draft("before")).unwrap().wait().unwrap();
    std::fs::remove_file(dir.path().join("segment-00000000000000000000.ktj")).unwrap();
    assert_eq!(journal.append(draft("lost")).unwrap().wait(), Err(AppendError::Stopped));
    wait_until(|| fatal.load(Ordering::SeqCst));
    scenario.teardown();
}
