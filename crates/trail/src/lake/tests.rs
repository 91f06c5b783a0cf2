//! The lake as a whole: what survives which crash, what is visible when, and that nothing can be written through SQL.

mod erase;
mod fold;
mod imported;
mod merge;
mod retain;

use super::commit::{commit_name, commits_folder, data_folder};
use super::store::LakeError;
use super::writer::{Lake, LakeOptions, Opened, check};
use crate::lake::decode::tests::DENIED;
use crate::land::tests::{extend, frame, log};
use crate::land::{Landed, Position, VerifiedFrame};
use crate::query::bounded::bounded;
use crate::query::gate::{self, GateError};
use crate::query::run::{Cancel, RunError};
use crate::query::{Limits, run, session};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use keytrail_kms::chain::Kind;
use keytrail_kms::chain::leaf::sha256;
use keytrail_kms::clock::FakeClock;
use keytrail_kms::journal::Frame;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

fn options() -> LakeOptions {
    LakeOptions { compact_files: 4, snapshot_every: 3, ..LakeOptions::default() }
}

fn open(root: &Path) -> (Lake, Opened) {
    Lake::open(root, options(), Arc::new(FakeClock::default())).unwrap()
}

fn landed(frames: Vec<Frame>) -> Landed {
    let frames: Vec<VerifiedFrame> =
        frames.into_iter().map(|frame| VerifiedFrame { leaf: frame.verify().unwrap(), frame }).collect();
    Landed { log: log(), first_seq: frames[0].leaf.seq, frames }
}

/// `count` further records.
fn append(lake: &mut Lake, count: u64) {
    let position = lake.positions().get(&log()).copied().unwrap_or(Position::START);
    lake.append(&landed(extend(position, count, "Decrypt"))).unwrap();
}

/// Appends a record with this payload.
fn append_payload(lake: &mut Lake, payload: &str) {
    let position = lake.positions().get(&log()).copied().unwrap_or(Position::START);
    let frame = frame(position.next_seq, position.link, Bytes::copy_from_slice(payload.as_bytes()), Kind::Event);
    lake.append(&landed(vec![frame])).unwrap();
}

async fn query(lake: &Lake, sql: &str) -> Vec<RecordBatch> {
    let limits = Limits::default();
    let session = session(&lake.snapshot(), &limits, None).unwrap();
    let plan = gate::plan(&session, sql).await.unwrap();
    run(&session, plan, &limits, Cancel::new()).unwrap().collect().await.unwrap()
}

async fn number(lake: &Lake, sql: &str) -> i64 {
    let batches = query(lake, sql).await;
    batches.iter().find(|batch| batch.num_rows() > 0).unwrap().column(0).as_primitive::<Int64Type>().value(0)
}

async fn texts(lake: &Lake, sql: &str) -> Vec<Option<String>> {
    let batches = query(lake, sql).await;
    let values = batches.iter().flat_map(|batch| {
        let column = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Utf8).unwrap();
        let column = column.as_string::<i32>().clone();
        (0..column.len()).map(move |row| column.is_valid(row).then(|| column.value(row).to_owned())).collect::<Vec<_>>()
    });
    values.collect()
}

/// Every record exactly once: count, distinct seqs and the last one.
async fn assert_dense(lake: &Lake, rows: i64) {
    assert_eq!(number(lake, "SELECT count(*) FROM records").await, rows);
    assert_eq!(number(lake, "SELECT count(DISTINCT seq) FROM records").await, rows);
    assert_eq!(number(lake, "SELECT max(seq) FROM records").await, rows - 1);
}

/// Digest over names and contents of everything below `root`.
fn digest(root: &Path) -> [u8; 32] {
    let mut files = Vec::new();
    collect(root, &mut files);
    files.sort();
    let parts: Vec<Vec<u8>> = files
        .iter()
        .flat_map(|path| [path.to_string_lossy().into_owned().into_bytes(), fs::read(path).unwrap()])
        .collect();
    sha256(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { collect(&path, files) } else { files.push(path) }
    }
}

#[tokio::test]
async fn records_are_visible_at_once_and_stay_through_seal_restart_and_merge() {
    let dir = tempfile::tempdir().unwrap();
    let (mut lake, opened) = open(dir.path());
    assert_eq!(opened, Opened::default());
    for round in 1..=5 {
        append(&mut lake, 10);
        assert_dense(&lake, round * 10).await;
        let before = lake.snapshot();
        let committed = lake.flush().await.unwrap();
        assert_eq!(committed.last().map(|commit| commit.next_seq), Some(round.unsigned_abs() * 10));
        assert_dense(&lake, round * 10).await;
        assert_eq!(before.tail().map(RecordBatch::num_rows).sum::<usize>(), 10, "a taken snapshot does not change");
    }
    append(&mut lake, 3);
    drop(lake);

    let (mut lake, opened) = open(dir.path());
    assert_eq!(opened.positions[&log()].next_seq, 50);
    assert!(opened.set_aside.is_empty() && opened.strays.is_empty());
    append(&mut lake, 3);
    assert_dense(&lake, 53).await;

    let old = lake.snapshot();
    lake.compact().await.unwrap();
    assert_eq!(lake.snapshot().files().count(), 1);
    assert_eq!(old.files().count(), 5);
    assert_dense(&lake, 53).await;
    lake.flush().await.unwrap();
    assert_eq!(check(dir.path()).unwrap().rows, 53);
    drop(lake);
    let (mut lake, opened) = open(dir.path());
    assert!(opened.strays.is_empty(), "replaced files are known: {:?}", opened.strays);
    assert_dense(&lake, 53).await;
    assert_eq!(lake.remove_replaced().unwrap(), 0, "kept for a day");
}

#[tokio::test]
async fn sealing_is_by_rows_and_by_age_and_runs_beside() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(FakeClock::default());
    let options = LakeOptions { seal_rows: 20, ..options() };
    let (mut lake, _) = Lake::open(dir.path(), options, clock.clone()).unwrap();
    append(&mut lake, 19);
    assert_eq!(lake.maybe_seal().await.unwrap(), None);
    assert_eq!(lake.flush().await.unwrap().len(), 1);
    append(&mut lake, 25);
    assert_eq!(lake.maybe_seal().await.unwrap(), None, "started");
    append(&mut lake, 1);
    assert_dense(&lake, 45).await;
    // Another two thresholds' worth: now the writer waits.
    append(&mut lake, 40);
    assert_eq!(lake.maybe_seal().await.unwrap().map(|commit| commit.next_seq), Some(44));
    lake.flush().await.unwrap();
    append(&mut lake, 1);
    clock.advance(Duration::from_secs(15 * 60));
    lake.maybe_seal().await.unwrap();
    lake.flush().await.unwrap();
    assert_eq!(lake.snapshot().tail().count(), 0);
    assert_dense(&lake, 86).await;
}

#[tokio::test]
async fn only_one_writer_and_only_what_follows() {
    let dir = tempfile::tempdir().unwrap();
    let (mut lake, _) = open(dir.path());
    assert!(matches!(Lake::open(dir.path(), options(), Arc::new(FakeClock::default())), Err(LakeError::Locked)));
    append(&mut lake, 5);
    let again = landed(extend(Position::START, 5, "Decrypt"));
    assert!(matches!(lake.append(&again), Err(LakeError::Order { expected: 5, found: 0, .. })));
    let other = landed(extend(Position { next_seq: 5, ..Position::START }, 1, "Decrypt"));
    assert!(matches!(lake.append(&other), Err(LakeError::Order { .. })));
    assert_dense(&lake, 5).await;
}

/// One way in which a crash, or someone else, can leave the folder, and what opening it must do.
struct Left {
    name: &'static str,
    damage: fn(&Path),
    /// Committed records after opening, or None when opening is refused.
    rows: Option<u64>,
    set_aside: bool,
    strays: usize,
}

fn commit(root: &Path, n: u64) -> PathBuf {
    root.join(commits_folder(log())).join(commit_name(n))
}

fn data(root: &Path, index: usize) -> PathBuf {
    let mut files = Vec::new();
    collect(&root.join(data_folder(log())), &mut files);
    files.sort();
    files[index].clone()
}

fn truncate(path: &Path, bytes: u64) {
    fs::File::options().write(true).open(path).unwrap().set_len(bytes).unwrap();
}

#[tokio::test]
async fn every_state_a_crash_can_leave_is_recovered_and_any_other_refused() {
    let cases = [
        Left { name: "nothing", damage: |_| {}, rows: Some(40), set_aside: false, strays: 0 },
        Left {
            name: "killed while writing a file",
            damage: |root| fs::write(root.join(data_folder(log())).join(".tmp-1"), "half").unwrap(),
            rows: Some(40),
            set_aside: false,
            strays: 0,
        },
        Left {
            name: "killed between file and commit",
            damage: |root| fs::remove_file(commit(root, 3)).unwrap(),
            rows: Some(30),
            set_aside: false,
            strays: 1,
        },
        Left {
            name: "killed while putting the commit",
            damage: |root| fs::rename(commit(root, 3), commit(root, 3).with_extension("json#1")).unwrap(),
            rows: Some(30),
            set_aside: false,
            strays: 1,
        },
        Left {
            name: "newest commit empty",
            damage: |root| truncate(&commit(root, 3), 0),
            rows: Some(30),
            set_aside: true,
            strays: 1,
        },
        Left {
            name: "newest commit half written",
            damage: |root| truncate(&commit(root, 3), 100),
            rows: Some(30),
            set_aside: true,
            strays: 1,
        },
        Left {
            name: "newest commit names a missing file",
            damage: |root| fs::remove_file(data(root, 3)).unwrap(),
            rows: Some(30),
            set_aside: true,
            strays: 0,
        },
        Left {
            name: "newest commit names a short file",
            damage: |root| truncate(&data(root, 3), 50),
            rows: Some(30),
            set_aside: true,
            strays: 1,
        },
        Left {
            name: "newest commit names a file with zeros",
            damage: |root| {
                let length = fs::metadata(data(root, 3)).unwrap().len();
                fs::write(data(root, 3), vec![0; usize::try_from(length).unwrap()]).unwrap();
            },
            rows: Some(30),
            set_aside: true,
            strays: 1,
        },
        Left {
            name: "older commit empty",
            damage: |root| {
                remove_snapshots(root);
                truncate(&commit(root, 1), 0);
            },
            rows: None,
            set_aside: false,
            strays: 0,
        },
        Left {
            name: "older commit missing",
            damage: |root| {
                remove_snapshots(root);
                fs::remove_file(commit(root, 1)).unwrap();
            },
            rows: None,
            set_aside: false,
            strays: 0,
        },
        Left {
            name: "older commit names a missing file",
            damage: |root| fs::remove_file(data(root, 1)).unwrap(),
            rows: None,
            set_aside: false,
            strays: 0,
        },
        Left {
            name: "older commit names a short file",
            damage: |root| truncate(&data(root, 0), 10),
            rows: None,
            set_aside: false,
            strays: 0,
        },
        Left {
            name: "newest commit of a newer version",
            damage: |root| replace(&commit(root, 3), "\"version\": 1", "\"version\": 3"),
            rows: None,
            set_aside: false,
            strays: 0,
        },
        Left {
            name: "newest commit rewritten",
            damage: |root| replace(&commit(root, 3), "\"previousDigest\": \"", "\"previousDigest\": \"0"),
            rows: None,
            set_aside: false,
            strays: 0,
        },
        Left {
            name: "snapshot damaged",
            damage: |root| {
                let folder = root.join(commits_folder(log()));
                fs::write(folder.join(super::commit::snapshot_name(2)), "{}").unwrap();
            },
            rows: Some(40),
            set_aside: false,
            strays: 0,
        },
        Left {
            name: "stray file",
            damage: |root| {
                let name = super::commit::data_name(40, 49, &"a".repeat(64));
                fs::copy(data(root, 0), root.join(data_folder(log())).join(name)).unwrap();
                fs::write(root.join("data/notes.txt"), "hello").unwrap();
            },
            rows: Some(40),
            set_aside: false,
            strays: 2,
        },
    ];
    for case in cases {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let (mut lake, _) = open(root);
        for _ in 0..4 {
            append(&mut lake, 10);
            lake.flush().await.unwrap();
        }
        drop(lake);
        (case.damage)(root);
        // Another process reads the same and changes nothing.
        let before = digest(root);
        let read = super::writer::ReadLake::open(root);
        assert_eq!(digest(root), before, "{}", case.name);
        let opened = Lake::open(root, options(), Arc::new(FakeClock::default()));
        let Some(rows) = case.rows else {
            assert!(opened.is_err() && read.is_err(), "{}", case.name);
            assert_eq!(digest(root), before, "{}: refusing changes nothing", case.name);
            continue;
        };
        let (mut lake, opened) = opened.unwrap_or_else(|error| panic!("{}: {error:?}", case.name));
        assert_eq!(opened.positions[&log()].next_seq, rows, "{}", case.name);
        assert_eq!(!opened.set_aside.is_empty(), case.set_aside, "{}", case.name);
        assert_eq!(opened.strays.len(), case.strays, "{}: {:?}", case.name, opened.strays);
        assert_eq!(read.unwrap().positions(), opened.positions, "{}", case.name);
        // The source gives the lost records again; nothing is there twice.
        append(&mut lake, 45 - rows);
        assert_dense(&lake, 45).await;
        lake.flush().await.unwrap();
        assert_dense(&lake, 45).await;
        drop(lake);
        assert_eq!(check(root).unwrap().rows, 45, "{}", case.name);
    }
}

fn remove_snapshots(root: &Path) {
    let mut files = Vec::new();
    collect(&root.join(commits_folder(log())), &mut files);
    for path in files.iter().filter(|path| path.to_string_lossy().ends_with(".snapshot.json")) {
        fs::remove_file(path).unwrap();
    }
}

fn replace(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[tokio::test]
async fn a_stray_file_is_invisible_to_queries_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    let (mut lake, _) = open(dir.path());
    append(&mut lake, 10);
    lake.flush().await.unwrap();
    fs::copy(data(dir.path(), 0), dir.path().join(data_folder(log())).join("forged.parquet")).unwrap();
    assert_dense(&lake, 10).await;
    drop(lake);
    let (lake, opened) = open(dir.path());
    assert_eq!(opened.strays, [format!("{}/forged.parquet", data_folder(log()))]);
    assert!(lake.snapshot().notices()[0].contains("forged.parquet"));
    assert_dense(&lake, 10).await;
}

#[tokio::test]
async fn no_statement_changes_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (mut lake, _) = open(dir.path());
    append(&mut lake, 10);
    lake.flush().await.unwrap();
    append(&mut lake, 5);
    let before = digest(dir.path());
    let file = data(dir.path(), 0);
    let path = file.display();
    let out = dir.path().join("out").display().to_string();
    let probes = [
        "INSERT INTO events SELECT * FROM events".to_owned(),
        "INSERT INTO records SELECT * FROM records".to_owned(),
        "EXPLAIN ANALYZE INSERT INTO records SELECT * FROM records".to_owned(),
        "EXPLAIN INSERT INTO records SELECT * FROM records".to_owned(),
        format!("COPY records TO '{out}.parquet'"),
        format!("COPY (SELECT 1) TO '{out}.csv'"),
        format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{path}'"),
        "CREATE TABLE t AS SELECT * FROM records".to_owned(),
        "CREATE VIEW v AS SELECT 1".to_owned(),
        "CREATE SCHEMA s".to_owned(),
        "CREATE DATABASE d".to_owned(),
        "DROP TABLE records".to_owned(),
        "DROP VIEW events".to_owned(),
        "DELETE FROM records".to_owned(),
        "UPDATE records SET seq = 0".to_owned(),
        "SET datafusion.execution.batch_size = 1".to_owned(),
        "PREPARE p AS SELECT 1".to_owned(),
        "EXECUTE p".to_owned(),
        format!("SELECT * FROM '{path}'"),
        format!("SELECT * FROM \"{path}\""),
        format!("SELECT * FROM 'file://{path}'"),
        "SELECT * FROM '/etc/passwd'".to_owned(),
    ];
    for probe in &probes {
        let session = session(&lake.snapshot(), &Limits::default(), None).unwrap();
        let error = gate::plan(&session, probe).await.expect_err(probe);
        assert!(!matches!(error, GateError::TooLong(_) | GateError::TooDeep(_)), "{probe}: {error:?}");
    }
    assert_eq!(digest(dir.path()), before);
    assert_dense(&lake, 15).await;
}

#[tokio::test]
async fn a_session_is_confined_even_without_the_gate() {
    let dir = tempfile::tempdir().unwrap();
    let (mut lake, _) = open(dir.path());
    append(&mut lake, 10);
    lake.flush().await.unwrap();
    let before = digest(dir.path());
    let session = session(&lake.snapshot(), &Limits::default(), None).unwrap();
    let file = data(dir.path(), 0);
    for statement in [
        format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{}'", file.display()),
        format!("COPY (SELECT 1) TO '{}'", dir.path().join("out.parquet").display()),
        "INSERT INTO records SELECT * FROM records".to_owned(),
        "DROP TABLE records".to_owned(),
    ] {
        let outcome = match session.sql(&statement).await {
            Ok(frame) => frame.collect().await.map(|_| ()),
            Err(error) => Err(error),
        };
        assert!(outcome.is_err(), "{statement}");
    }
    assert_eq!(digest(dir.path()), before);
}

#[tokio::test]
async fn queries_end_at_their_deadline_when_cancelled_and_at_their_limits() {
    let dir = tempfile::tempdir().unwrap();
    let (mut lake, _) = open(dir.path());
    append(&mut lake, 2_000);
    let endless =
        "SELECT count(*) FROM records a, records b, records c, records d WHERE a.seq + b.seq <> c.seq * d.seq";
    let start = |limits: Limits, cancel: Cancel, sql: &'static str| {
        let snapshot = lake.snapshot();
        async move {
            let session = session(&snapshot, &limits, None).unwrap();
            let plan = gate::plan(&session, sql).await.unwrap();
            run(&session, plan, &limits, cancel).unwrap().collect().await
        }
    };
    let brief = Limits { deadline: Duration::from_millis(200), ..Limits::default() };
    assert!(matches!(start(brief, Cancel::new(), endless).await, Err(RunError::Deadline(_))));
    let cancel = Cancel::new();
    cancel.cancel();
    assert!(matches!(start(Limits::default(), cancel, endless).await, Err(RunError::Cancelled)));
    let few = Limits { rows_max: 100, ..Limits::default() };
    assert!(matches!(start(few, Cancel::new(), "SELECT seq FROM records").await, Err(RunError::Rows(100))));
    let small = Limits { memory_bytes: 10_000, ..Limits::default() };
    let sorted = start(small, Cancel::new(), "SELECT DISTINCT raw, seq FROM records ORDER BY raw").await;
    assert!(matches!(sorted, Err(RunError::Query(_))), "{sorted:?}");
}

/// Each would take years. What is left of them may not keep others out.
#[tokio::test]
async fn no_query_holds_the_threads_after_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let (mut lake, _) = open(dir.path());
    append(&mut lake, 2_000);
    let equal = "SELECT count(*) FROM records a JOIN records b ON a.kind = b.kind JOIN records c ON b.kind = c.kind \
        JOIN records d ON c.kind = d.kind JOIN records e ON d.kind = e.kind";
    let series = "generate_series(1, 3000000)";
    let endless = [
        equal.to_owned(),
        format!("{equal} WHERE a.seq + b.seq + c.seq + d.seq + e.seq < 0"),
        format!("SELECT count(*) FROM {series} a CROSS JOIN {series} b CROSS JOIN {series} c"),
        format!("SELECT count(*) FROM {series} a(x) JOIN {series} b(y) ON a.x % 2 = b.y % 2"),
        format!("SELECT max(a.x + b.y) FROM {series} a(x), {series} b(y) WHERE a.x + b.y < 0"),
        format!("SELECT a.x, b.y FROM {series} a(x), {series} b(y) ORDER BY a.x * b.y LIMIT 1"),
        "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n FROM t) SELECT count(*) FROM t".to_owned(),
        format!("SELECT count(*) FROM (SELECT unnest(make_array(x, y)) FROM {series} a(x), {series} b(y))"),
        format!("SELECT count(*) FROM {series} a(x) WHERE EXISTS (SELECT 1 FROM {series} b(y) WHERE x + y < 0)"),
    ];
    let start = |limits: Limits, sql: String| {
        let snapshot = lake.snapshot();
        async move {
            let session = session(&snapshot, &limits, None).unwrap();
            let plan = gate::plan(&session, &sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
            run(&session, plan, &limits, Cancel::new()).unwrap().collect().await
        }
    };
    for sql in endless {
        let brief = Limits { deadline: Duration::from_millis(200), ..Limits::default() };
        // As many as there are threads, and more.
        let ended = futures::future::join_all((0..8).map(|_| start(brief.clone(), sql.clone()))).await;
        assert!(ended.iter().all(|ended| matches!(ended, Err(RunError::Deadline(_)))), "{sql}: {ended:?}");
        let after = Limits { deadline: Duration::from_secs(20), ..Limits::default() };
        let count = start(after, "SELECT count(*) FROM records".to_owned()).await;
        assert!(count.is_ok(), "after {sql}: {count:?}");
    }
}

#[tokio::test]
async fn filters_reach_files_and_tail_alike() {
    let dir = tempfile::tempdir().unwrap();
    let (mut lake, _) = open(dir.path());
    append(&mut lake, 10);
    append_payload(&mut lake, DENIED);
    lake.flush().await.unwrap();
    append(&mut lake, 10);
    append_payload(&mut lake, DENIED);
    append_payload(&mut lake, "no json");
    assert_eq!(number(&lake, "SELECT count(*) FROM events WHERE error_code = 'AccessDenied'").await, 2);
    assert_eq!(number(&lake, "SELECT count(*) FROM events WHERE seq BETWEEN 10 AND 20").await, 11);
    assert_eq!(number(&lake, "SELECT count(*) FROM events WHERE parse_error IS NOT NULL").await, 1);
    assert_eq!(number(&lake, "SELECT count(*) FROM events WHERE event_time >= '2026-01-05T12:00:00Z'").await, 23);
    assert_eq!(number(&lake, "SELECT count(*) FROM events WHERE event_time < '2026-01-05T12:00:00Z'").await, 0);
    let limited = query(&lake, "SELECT seq FROM events ORDER BY seq DESC LIMIT 3").await;
    assert_eq!(limited.iter().map(RecordBatch::num_rows).sum::<usize>(), 3);
    let columns = query(&lake, "SELECT * FROM events LIMIT 1").await;
    assert_eq!(columns[0].num_columns(), super::schema::events_schema().fields().len());
    assert_eq!(texts(&lake, "SELECT enc_context FROM events WHERE seq = 10").await.len(), 1);
    assert!(number(&lake, "SELECT count(*) FROM information_schema.tables WHERE table_name = 'events'").await == 1);
}

#[tokio::test]
async fn policy_is_public_uses_the_evaluator() {
    let dir = tempfile::tempdir().unwrap();
    let (lake, _) = open(dir.path());
    let policy = |principal: &str| {
        format!(
            "{{\"Version\":\"2012-10-17\",\"Statement\":[{{\"Effect\":\"Allow\",\"Principal\":{principal},\"Action\":\"kms:Decrypt\",\"Resource\":\"*\"}}]}}"
        )
    };
    let sql = format!(
        "SELECT concat(policy_is_public('{}'), ' ', policy_is_public('{}'), ' ', policy_is_public('nonsense') IS NULL, ' ', policy_is_public(NULL) IS NULL)",
        policy("\"*\""),
        policy("{\"AWS\":\"arn:aws:iam::111122223333:root\"}")
    );
    assert_eq!(texts(&lake, &sql).await, [Some("true false true true".to_owned())]);
}

#[tokio::test]
async fn an_unwritable_lake_keeps_its_records_and_goes_on_later() {
    let dir = tempfile::tempdir().unwrap();
    let (mut lake, _) = open(dir.path());
    append(&mut lake, 10);
    lake.flush().await.unwrap();
    append(&mut lake, 10);
    // A folder stands where the next temporary file must go.
    let obstacle = dir.path().join(data_folder(log())).join(format!(".tmp-{:020}", 10));
    fs::create_dir(&obstacle).unwrap();
    let error = lake.flush().await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert_dense(&lake, 20).await;
    append(&mut lake, 5);
    fs::remove_dir(&obstacle).unwrap();
    lake.flush().await.unwrap();
    assert_dense(&lake, 25).await;
    drop(lake);
    assert_eq!(check(dir.path()).unwrap().rows, 25);
}

/// Where [`crash_child`] works; unset in an ordinary test run.
const CRASH_FOLDER: &str = "KEYTRAIL_TEST_CRASH_FOLDER";

/// The process that dies: lands twenty records on top of ten and commits them.
#[tokio::test]
async fn crash_child() {
    let Some(root) = std::env::var_os(CRASH_FOLDER) else { return };
    let _scenario = fail::FailScenario::setup();
    let (mut lake, _) = open(Path::new(&root));
    append(&mut lake, 20);
    lake.flush().await.unwrap();
}

#[tokio::test]
async fn a_writer_killed_between_any_two_steps_loses_and_doubles_nothing() {
    for (point, committed, strays) in
        [("lake::after_file", 10, 1), ("lake::before_commit", 10, 1), ("lake::after_commit", 30, 0)]
    {
        let dir = tempfile::tempdir().unwrap();
        let (mut lake, _) = open(dir.path());
        append(&mut lake, 10);
        lake.flush().await.unwrap();
        drop(lake);
        let killed = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "lake::tests::crash_child"])
            .env(CRASH_FOLDER, dir.path())
            .env("FAILPOINTS", format!("{point}=return"))
            .output()
            .unwrap();
        assert!(!killed.status.success(), "{point}: the child was not killed");
        let (mut lake, opened) = open(dir.path());
        assert_eq!(opened.positions[&log()].next_seq, committed, "{point}");
        assert_eq!(opened.strays.len(), strays, "{point}: {:?}", opened.strays);
        append(&mut lake, 35 - committed);
        assert_dense(&lake, 35).await;
        lake.flush().await.unwrap();
        drop(lake);
        let (lake, _) = open(dir.path());
        assert_dense(&lake, 35).await;
        drop(lake);
        assert_eq!(check(dir.path()).unwrap().rows, 35, "{point}");
    }
}

/// The example in docs/lake.md is the commit of these hundred records, digit for digit. After a deliberate change (also
/// of the Parquet version, which is in the file's footer) copy the text that this prints.
#[tokio::test]
async fn the_documented_commit_is_a_real_one() {
    let dir = tempfile::tempdir().unwrap();
    let (mut lake, _) = open(dir.path());
    append(&mut lake, 100);
    lake.flush().await.unwrap();
    let written = fs::read_to_string(commit(dir.path(), 0)).unwrap();
    let page = include_str!("../../../../docs/lake.md");
    let example = page.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    assert_eq!(example, written, "the commit is now:\n{written}");
}

#[tokio::test]
async fn events_come_in_order_from_files_and_tail_and_only_those_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (mut lake, _) = open(dir.path());
    let other = DENIED.replace("k-1", "k-2");
    let change = other.replace("\"readOnly\":true", "\"readOnly\":false");
    let over_tls = DENIED.replace("\"eventVersion\"", "\"tlsDetails\":{\"tlsVersion\":\"TLSv1.3\"},\"eventVersion\"");
    for payload in [DENIED, &other, &change] {
        append_payload(&mut lake, payload);
    }
    lake.flush().await.unwrap();
    for payload in ["no event", &over_tls, &other] {
        append_payload(&mut lake, payload);
    }
    let snapshot = lake.snapshot();
    let seen = |key: Option<&str>, time_us: std::ops::Range<u64>, tls: bool| {
        let mut seen = Vec::new();
        let key_arn = key.map(|id| format!("arn:aws:kms:eu-central-1:111122223333:key/{id}"));
        let visit = |row: &keytrail_kms::row::Row<'_>| {
            assert_eq!((row.event_name, row.decided_by), ("Decrypt", Some("KeyPolicy/Deny1")));
            assert!(row.additional.is_some_and(|text| text.contains("judgedAtMicros")));
            seen.push((row.seq, row.tls));
            Ok::<(), std::convert::Infallible>(())
        };
        super::events::events(&snapshot, log(), &super::events::Wanted { time_us, key_arn, tls }, visit).unwrap();
        seen
    };
    let all = 0..u64::MAX;
    let seqs = |seen: Vec<(u64, Option<bool>)>| seen.into_iter().map(|(seq, _)| seq).collect::<Vec<_>>();
    assert_eq!(seqs(seen(None, all.clone(), false)), [0, 1, 2, 4, 5]);
    assert_eq!(seqs(seen(Some("k-1"), all.clone(), false)), [0, 2, 4], "changes are always there");
    assert_eq!(seqs(seen(None, 0..0, false)), [2], "also of another time");
    let tls = [(0, Some(false)), (2, Some(false)), (4, Some(true))];
    assert_eq!(seen(Some("k-1"), all, true), tls);
    let failing = super::events::Wanted { time_us: 0..u64::MAX, key_arn: None, tls: false };
    let failed = super::events::events(&snapshot, log(), &failing, |_| Err(std::fmt::Error));
    assert!(matches!(failed, Err(super::events::EventsError::Visit(_))));
}

/// What CloudTrail Lake and Athena call things runs, and costs what the flat columns cost.
#[tokio::test]
async fn cloudtrails_own_names_are_a_view() {
    let dir = tempfile::tempdir().unwrap();
    let (mut lake, _) = open(dir.path());
    append(&mut lake, 10);
    append_payload(&mut lake, DENIED);
    lake.flush().await.unwrap();
    let own = "SELECT principal_arn FROM events WHERE error_code = 'AccessDenied' ORDER BY seq";
    let lakes = "SELECT userIdentity.arn FROM cloudtrail WHERE errorCode = 'AccessDenied' AND eventTime > '2020-01-01 00:00:00' ORDER BY eventTime";
    assert_eq!(texts(&lake, lakes).await, texts(&lake, own).await);
    let arn = texts(&lake, own).await.remove(0).unwrap();

    let session = session(&lake.snapshot(), &Limits::default(), None).unwrap();
    let names = async |sql: &str| -> Vec<String> {
        let plan = gate::plan(&session, sql).await.unwrap();
        plan.schema().fields().iter().map(|field| field.name().clone()).collect()
    };
    let grouped = "SELECT useridentity.arn, eventname, count(*) AS calls FROM cloudtrail GROUP BY useridentity.arn, eventname ORDER BY calls DESC LIMIT 5";
    assert_eq!(names(grouped).await, ["arn", "eventname", "calls"]);
    let twice =
        "SELECT a.useridentity.arn, b.useridentity.arn FROM cloudtrail a JOIN cloudtrail b ON a.eventid = b.eventid";
    assert_eq!(names(twice).await, ["a.useridentity[arn]", "b.useridentity[arn]"], "which is which stays visible");

    let filtered = format!("SELECT eventname FROM cloudtrail WHERE useridentity.arn = '{arn}'");
    let plan = bounded(gate::plan(&session, &filtered).await.unwrap()).unwrap();
    let physical = session.execute_logical_plan(plan).await.unwrap().create_physical_plan().await.unwrap();
    let shown = datafusion::physical_plan::displayable(physical.as_ref()).indent(true).to_string();
    assert!(shown.contains("predicate=") && shown.contains("principal_arn@"), "{shown}");
    assert!(shown.contains("principal_arn_min"), "row groups are skipped by it: {shown}");
    assert!(!shown.contains("user_name") && !shown.contains("named_struct"), "{shown}");
    assert_eq!(number(&lake, &format!("SELECT count(*) FROM ({filtered})")).await, 1);

    // A list that a driver binds is one of the scan's own filters, too.
    let bound = "SELECT seq FROM events WHERE event_name = ANY(ARRAY['Decrypt', 'Encrypt'])";
    let plan = bounded(gate::plan(&session, bound).await.unwrap()).unwrap();
    let physical = session.execute_logical_plan(plan).await.unwrap().create_physical_plan().await.unwrap();
    let shown = datafusion::physical_plan::displayable(physical.as_ref()).indent(true).to_string();
    assert!(shown.contains("event_name_min"), "{shown}");
}

#[tokio::test]
async fn a_scan_judges_each_filter_once_also_beside_the_tail() {
    let dir = tempfile::tempdir().unwrap();
    let (mut lake, _) = open(dir.path());
    append_payload(&mut lake, DENIED);
    lake.flush().await.unwrap();
    for rows in [1, 2] {
        let session = session(&lake.snapshot(), &Limits::default(), None).unwrap();
        let sql = "SELECT seq FROM events WHERE error_code = 'AccessDenied' AND event_name LIKE 'D%'";
        let plan = gate::plan(&session, sql).await.unwrap();
        let physical = session.execute_logical_plan(plan).await.unwrap().create_physical_plan().await.unwrap();
        let shown = datafusion::physical_plan::displayable(physical.as_ref()).indent(true).to_string();
        let predicate = shown.split(" predicate=").nth(1).and_then(|rest| rest.split(", pruning").next()).unwrap();
        assert_eq!(predicate.matches("error_code@").count(), 1, "{shown}");
        assert_eq!(shown.contains("UnionExec"), rows == 2, "{shown}");
        assert_eq!(number(&lake, &format!("SELECT count(*) FROM ({sql})")).await, rows);
        append_payload(&mut lake, DENIED);
    }
}
