//! Whole imports over files made here: what lands, in which order, how often, and what is said about the rest.

use super::*;
use crate::query::gate;
use crate::query::run::{Cancel, run};
use crate::query::{Limits, open_folder, session};
use arrow::array::{Array, AsArray};
use flate2::Compression;
use flate2::write::GzEncoder;
use keytrail_kms::clock::SystemClock;
use keytrail_kms::verify::Verdict;
use std::fs;
use std::io::Write;

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("data")).unwrap();
        fs::create_dir_all(dir.path().join("files")).unwrap();
        Self { dir }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Puts a file below the folder that is imported.
    fn put(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.dir.path().join("files").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    async fn import(&self) -> Report {
        self.try_import("test", &self.dir.path().join("files")).await.unwrap()
    }

    async fn try_import(&self, name: &str, path: &Path) -> Result<Report, ImportError> {
        let source = Source::Local(path.to_owned());
        import(&self.data(), name, source, Arc::new(SystemClock), Arc::default()).await
    }

    /// The first column of a query, as text.
    async fn texts(&self, sql: &str) -> Vec<String> {
        let snapshot = Arc::new(open_folder(&self.data()).await.unwrap());
        assert!(snapshot.notices().is_empty(), "{:?}", snapshot.notices());
        let limits = Limits::default();
        let session = session(&snapshot, &limits, None).unwrap();
        let plan = gate::plan(&session, sql).await.unwrap();
        let batches = run(&session, plan, &limits, Cancel::new()).unwrap().collect().await.unwrap();
        let mut texts = Vec::new();
        for batch in batches {
            let column = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Utf8).unwrap();
            let column = column.as_string::<i32>();
            texts.extend(
                (0..column.len()).map(|row| if column.is_null(row) { "-" } else { column.value(row) }.to_owned()),
            );
        }
        texts
    }

    fn assert_verified(&self, records: u64) {
        let reports = verify_imported(&self.data(), None);
        let [report] = reports.as_slice() else { panic!("{reports:?}") };
        assert_eq!((&report.verdict, report.records), (&Verdict::Verified, records), "{reports:?}");
    }
}

fn record(id: &str, secs: u32) -> String {
    format!("{{ \"eventName\":\"Decrypt\",\"eventTime\":\"2024-01-01T00:00:{secs:02}Z\", \"eventID\":\"{id}\" }}")
}

fn file(records: &[String]) -> Vec<u8> {
    format!("{{\"Records\":[{}]}}", records.join(",\n")).into_bytes()
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn records_land_as_they_stand_in_order_of_time_and_once() {
    let place = Place::new();
    let (a, b, c, d) = (record("a", 9), record("b", 3), record("c", 5), record("d", 1));
    place.put("x/1.json.gz", &gzip(&file(&[a.clone(), b.clone()])));
    let members = [gzip(&file(&[b.clone(), c.clone()])), gzip(&file(std::slice::from_ref(&a)))].concat();
    place.put("x/y/2.json.gz", &members);
    place.put("3.json", &file(&[d.clone(), c.clone()]));
    place.put("AWSLogs/1/CloudTrail-Digest/r/1.json.gz", &gzip(b"{\"digestS3Object\":\"x\"}"));
    place.put("readme.txt", b"no log");
    let report = place.import().await;
    assert_eq!((report.landed, report.duplicates, report.differing), (4, 3, 0));
    assert_eq!((report.files, report.passed_over, report.faults, report.size), (3, 2, 0, 4));
    assert_eq!(place.texts("SELECT arrow_cast(raw, 'Utf8') FROM records ORDER BY seq").await, [d, b, c, a]);
    assert_eq!(place.texts("SELECT event_id FROM events ORDER BY event_time").await, ["d", "b", "c", "a"]);
    place.assert_verified(4);
}

#[tokio::test]
async fn a_second_run_goes_on_where_the_first_ended() {
    let place = Place::new();
    place.put("1.json", &file(&[record("a", 1), record("b", 2)]));
    let first = place.import().await;
    let before = fs::read(place.data().join("imports/test/latest")).unwrap();
    let again = place.import().await;
    assert_eq!((again.landed, again.files, again.files_known, again.size), (0, 0, 1, 2));
    assert_eq!((again.root, &again.origin), (first.root, &first.origin));
    assert_eq!(fs::read(place.data().join("imports/test/latest")).unwrap(), before, "nothing is signed anew");
    // Without the list of files, and without the tree, the lake says the same.
    fs::remove_file(place.data().join("imports/test/files.db")).unwrap();
    fs::write(place.data().join("imports/test/tree"), b"KTTREE\0\x01garbage").unwrap();
    let again = place.import().await;
    assert_eq!((again.landed, again.files, again.duplicates, again.size), (0, 1, 2, 2));
    // A changed file is read again, and a new one is taken.
    place.put("1.json", &file(&[record("a", 1), record("b", 2), record("c", 3)]));
    place.put("2.json", &file(&[record("d", 4)]));
    let more = place.import().await;
    assert_eq!((more.landed, more.duplicates, more.size), (2, 2, 4));
    assert_eq!(place.texts("SELECT DISTINCT epoch FROM records ORDER BY epoch").await, ["1", "2"]);
    assert_eq!(place.texts("SELECT count(DISTINCT log) FROM records").await, ["1"]);
    place.assert_verified(4);
}

#[tokio::test]
async fn another_record_under_a_known_id_is_named_and_the_first_stays() {
    let place = Place::new();
    place.put("1.json", &file(&[record("a", 1), record("a", 2), record("b", 3)]));
    let report = place.import().await;
    assert_eq!((report.landed, report.duplicates, report.differing), (2, 0, 1));
    let path = place.put("2.json", &file(&[record("b", 4)]));
    let report = place.import().await;
    assert_eq!((report.landed, report.differing), (0, 1));
    let path = path.canonicalize().unwrap().to_string_lossy().into_owned();
    assert_eq!(report.differing_named, [Fault { name: path, reason: "eventID b".to_owned() }]);
    assert_eq!(place.texts("SELECT event_time FROM events WHERE event_id = 'b'").await, ["2024-01-01T00:00:03Z"]);
}

#[tokio::test]
async fn odd_records_and_files_are_kept_or_named_and_the_rest_goes_on() {
    let place = Place::new();
    let long = format!(
        "{{\"eventName\":\"Long\",\"eventTime\":\"2024-01-01T00:00:00Z\",\"eventID\":\"long\",\"x\":\"{}\"}}",
        "y".repeat(300_000)
    );
    let odd = ["7".to_owned(), "null".to_owned(), "{\"eventName\":nope}".to_owned(), "{\"eventID\":\"e\"}".to_owned()];
    place.put("1.json", &file(&[vec![record("a", 1), long.clone()], odd.to_vec()].concat()));
    let gz = gzip(&file(&[record("b", 2)]));
    place.put("2-torn.json.gz", &gz[..gz.len() - 9]);
    place.put("3-plain.json", b"no json at all");
    place.put("4-cut.json", b"{\"Records\":[{\"eventName\":\"X\"}");
    place.put("5.json", &file(&[record("c", 3)]));
    let report = place.import().await;
    assert_eq!((report.landed, report.unparsed, report.cut), (7, 5, 1));
    assert_eq!((report.files, report.faults), (2, 3));
    let named: Vec<&str> = report.faults_named.iter().map(|fault| fault.name.rsplit('/').next().unwrap()).collect();
    assert_eq!(named, ["2-torn.json.gz", "3-plain.json", "4-cut.json"]);
    let kept = place.texts("SELECT payload_len FROM records WHERE parse_error IS NOT NULL ORDER BY payload_len").await;
    assert_eq!(kept, ["1", "4", "15", "18", "262144"]);
    assert_eq!(place.texts("SELECT count(*) FROM events WHERE event_time < '2025-01-01'").await, ["2"]);
    place.assert_verified(7);
    // Odd records are known again, and the files that failed are tried again.
    fs::remove_file(place.data().join("imports/test/files.db")).unwrap();
    place.put("2-torn.json.gz", &gz);
    let report = place.import().await;
    assert_eq!((report.landed, report.duplicates, report.faults, report.size), (1, 7, 2, 8));
}

#[tokio::test]
async fn names_and_paths_that_will_not_do_leave_nothing_behind() {
    let place = Place::new();
    for name in ["", "a/b", "..", "A", "-a", "a-", &"a".repeat(33)] {
        let result = place.try_import(name, &place.dir.path().join("files")).await;
        assert!(matches!(result, Err(ImportError::Name(_))), "{name}");
    }
    let result = place.try_import("test", &place.dir.path().join("nowhere")).await;
    assert!(matches!(result, Err(ImportError::Source(SourceError::Io { .. }))));
    assert_eq!(fs::read_dir(place.data()).unwrap().count(), 0);
    fs::remove_dir(place.data()).unwrap();
    let result = place.try_import("test", &place.dir.path().join("files")).await;
    assert!(matches!(result, Err(ImportError::NoFolder(_))));
}

#[tokio::test]
async fn a_log_that_is_not_what_was_signed_is_neither_verified_nor_extended() {
    let place = Place::new();
    place.put("1.json", &file(&[record("a", 1), record("b", 2)]));
    place.import().await;
    place.put("2.json", &file(&[record("c", 3)]));
    place.import().await;
    // The newest commit goes, and with it a record.
    let lake = place.data().join("lake");
    let commits = fs::read_dir(lake.join("commits")).unwrap().next().unwrap().unwrap().path();
    let newest = commits.join(format!("{:020}.json", 1));
    let bytes = fs::read(&newest).unwrap();
    fs::remove_file(&newest).unwrap();
    let reports = verify_imported(&place.data(), None);
    assert!(matches!(&reports[0].verdict, Verdict::Failed { seq: Some(2), .. }), "{reports:?}");
    let result = place.try_import("test", &place.dir.path().join("files")).await;
    assert!(matches!(result, Err(ImportError::Sign(SignError::Shrunk { size: 2, signed: 3 }))));
    fs::write(&newest, bytes).unwrap();
    place.assert_verified(3);
    // Rows without their import's folder are nobody's word.
    fs::rename(place.data().join("imports"), place.data().join("elsewhere")).unwrap();
    assert!(matches!(&verify_imported(&place.data(), None)[0].verdict, Verdict::Failed { .. }));
    // The auditor's own key decides.
    fs::rename(place.data().join("elsewhere"), place.data().join("imports")).unwrap();
    let vkey = fs::read_to_string(place.data().join("imports/test/vkey")).unwrap();
    let key = vkey.trim().parse().unwrap();
    assert_eq!(verify_imported(&place.data(), Some(&key))[0].verdict, Verdict::Verified);
}

#[tokio::test]
async fn an_import_that_is_stopped_goes_on_later() {
    let place = Place::new();
    place.put("1.json", &file(&[record("a", 1)]));
    let counters = Arc::new(Counters::default());
    counters.stop();
    let source = Source::Local(place.dir.path().join("files"));
    let report = import(&place.data(), "test", source, Arc::new(SystemClock), counters).await.unwrap();
    assert_eq!((report.stopped, report.landed, report.size), (true, 0, 0));
    assert_eq!(place.import().await.landed, 1);
    place.assert_verified(1);
}
