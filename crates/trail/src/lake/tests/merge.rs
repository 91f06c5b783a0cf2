//! Merging at work: sorted by key yet provable in order, beside landing and queries, and never believed unproved.

use super::*;
use crate::lake::file;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};

/// Four files of ten records about five keys.
async fn filled(root: &Path) -> Lake {
    let (mut lake, _) = open(root);
    for n in 0..40 {
        append_payload(&mut lake, &DENIED.replace("k-1", &format!("k-{}", n * 7 % 5)));
        if n % 10 == 9 {
            lake.flush().await.unwrap();
        }
    }
    lake
}

fn seqs(batches: impl IntoIterator<Item = RecordBatch>) -> Vec<i64> {
    let seqs = batches.into_iter().map(|batch| batch["seq"].as_primitive::<Int64Type>().values().to_vec());
    seqs.collect::<Vec<_>>().concat()
}

#[tokio::test]
async fn a_merged_file_is_sorted_by_key_and_reads_back_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut lake = filled(dir.path()).await;
    let all = "SELECT seq, key_arn, raw FROM records ORDER BY seq";
    let (before, old) = (query(&lake, all).await, lake.snapshot());
    lake.compact().await.unwrap();
    let snapshot = lake.snapshot();
    let merged = snapshot.files().next().unwrap();
    assert_eq!((snapshot.files().count(), merged.rows, merged.order.as_str()), (1, 40, "key"));
    let stored: Vec<RecordBatch> =
        file::read_columns(&dir.path().join(&merged.path), None).unwrap().map(Result::unwrap).collect();
    let keys: Vec<String> = stored
        .iter()
        .flat_map(|batch| batch["key_arn"].as_string::<i32>().iter().flatten().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    assert!(keys.is_sorted() && keys.len() == 40);
    assert_eq!(seqs(stored)[..8], [0, 5, 10, 15, 20, 25, 30, 35], "of one key in order of time");
    let ordered = file::read(dir.path(), merged, Some(&["seq", "key_arn"])).unwrap().map(Result::unwrap);
    assert_eq!(seqs(ordered), (0..40).collect::<Vec<_>>());
    assert_eq!(query(&lake, all).await, before);
    let frames = snapshot.frames(log(), 13, 5).unwrap();
    assert_eq!(frames.iter().map(|frame| frame.leaf.seq).collect::<Vec<_>>(), [13, 14, 15, 16, 17]);
    assert_eq!(snapshot.records(log()).map(|records| records.unwrap().len()).sum::<usize>(), 40);
    assert_eq!(check(dir.path()).unwrap().rows, 40);
    // Whoever had begun before goes on reading the files there were.
    let limits = Limits::default();
    let session = session(&old, &limits, None).unwrap();
    let plan = gate::plan(&session, all).await.unwrap();
    assert_eq!(run(&session, plan, &limits, Cancel::new()).unwrap().collect().await.unwrap(), before);
    assert_eq!(number(&lake, "SELECT count(*) FROM events WHERE request_id = 'no such id'").await, 0);
    // Another of the same merges with it no further than half of the largest file.
    drop(lake);
    let (lake, opened) = open(dir.path());
    assert!(opened.strays.is_empty() && opened.set_aside.is_empty(), "{opened:?}");
    assert_dense(&lake, 40).await;
}

#[tokio::test]
async fn merged_files_have_bloom_filters_on_ids_and_a_lookup_asks_them() {
    let dir = tempfile::tempdir().unwrap();
    let (mut lake, _) = open(dir.path());
    for n in 10..50 {
        append_payload(&mut lake, &DENIED.replace("019b8d3e-0000-7000-8000-000000000001", &format!("request-{n}")));
        if n % 10 == 9 {
            lake.flush().await.unwrap();
        }
    }
    let filters = |lake: &Lake| {
        let snapshot = lake.snapshot();
        let file = fs::File::open(dir.path().join(&snapshot.files().next().unwrap().path)).unwrap();
        let reader = SerializedFileReader::new(file).unwrap();
        let columns = reader.metadata().row_groups().iter().flat_map(RowGroupMetaData::columns);
        let filtered = columns.filter(|column| column.bloom_filter_offset().is_some());
        filtered.map(|column| column.column_descr().name().to_owned()).collect::<Vec<_>>()
    };
    assert!(filters(&lake).is_empty(), "in order of time the statistics do");
    lake.compact().await.unwrap();
    assert_eq!(filters(&lake), ["event_id", "request_id"]);
    // Both are in the statistics' range; only the filter knows that one is not there.
    for (id, found) in [("request-30", 1), ("request-30b", 0)] {
        let lookup = format!("SELECT seq FROM events WHERE request_id = '{id}'");
        let rows = query(&lake, &lookup).await;
        assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), found);
        let analyzed = query(&lake, &format!("EXPLAIN ANALYZE {lookup}")).await;
        let plan = analyzed[0]["plan"].as_string::<i32>().value(0).to_owned();
        assert!(plan.contains("row_groups_pruned_statistics=1 total → 1 matched"), "{plan}");
        assert!(plan.contains(&format!("row_groups_pruned_bloom_filter=1 total → {found} matched")), "{plan}");
    }
}

#[tokio::test]
async fn landing_and_sealing_go_on_while_files_merge() {
    let dir = tempfile::tempdir().unwrap();
    let options = LakeOptions { seal_rows: 10, ..options() };
    let (mut lake, _) = Lake::open(dir.path(), options, Arc::new(FakeClock::default())).unwrap();
    let mut rows = 0;
    // Until seals and merges have both come by themselves.
    while lake.snapshot().files().all(|file| file.order == "seq") || rows < 200 {
        append(&mut lake, 10);
        rows += 10;
        lake.maybe_seal().await.unwrap();
        tokio::task::yield_now().await;
        assert!(rows < 1_000_000, "no merge came");
    }
    assert_dense(&lake, rows).await;
    lake.flush().await.unwrap();
    drop(lake);
    let (lake, opened) = open(dir.path());
    assert!(opened.strays.is_empty() && opened.set_aside.is_empty(), "{opened:?}");
    assert_dense(&lake, rows).await;
    assert_eq!(check(dir.path()).unwrap().rows, rows.unsigned_abs());
}

#[tokio::test]
async fn a_merge_that_is_being_committed_does_not_begin_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut lake = filled(dir.path()).await;
    while lake.snapshot().files().count() > 1 {
        lake.maybe_seal().await.unwrap();
        tokio::task::yield_now().await;
    }
    // A second merge of the same files would have written a file of the same name, which a stop removes.
    lake.flush().await.unwrap();
    drop(lake);
    let (lake, opened) = open(dir.path());
    assert!(opened.strays.is_empty() && opened.set_aside.is_empty(), "{opened:?}");
    assert_dense(&lake, 40).await;
}

#[tokio::test]
async fn files_that_do_not_rebuild_the_chain_are_not_merged_and_landing_goes_on() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut lake = filled(dir.path()).await;
    // The rows of another chain under the name of the second file.
    let mut forged = open(other.path()).0;
    append(&mut forged, 10);
    forged.flush().await.unwrap();
    append(&mut forged, 10);
    forged.flush().await.unwrap();
    fs::copy(data(other.path(), 1), data(dir.path(), 1)).unwrap();
    lake.compact().await.unwrap();
    let snapshot = lake.snapshot();
    assert_eq!(snapshot.files().count(), 4);
    assert!(
        snapshot.notices().iter().any(|notice| notice.contains("seq 0 to 39 are not merged")),
        "{:?}",
        snapshot.notices()
    );
    assert!(!dir.path().join(data_folder(log())).read_dir().unwrap().any(|entry| {
        entry.unwrap().file_name().to_string_lossy().contains("00000000000000000000-00000000000000000039")
    }));
    append(&mut lake, 5);
    assert_eq!(lake.flush().await.unwrap().last().map(|commit| commit.next_seq), Some(45));
}

/// The process that dies while it merges.
#[tokio::test]
async fn merge_crash_child() {
    let Some(root) = std::env::var_os("KEYTRAIL_TEST_MERGE_FOLDER") else { return };
    let _scenario = fail::FailScenario::setup();
    let (mut lake, _) = open(Path::new(&root));
    lake.compact().await.unwrap();
}

#[tokio::test]
async fn a_merge_killed_at_any_step_leaves_a_readable_lake() {
    for (point, files, strays) in [
        ("lake::merging", 4, 0),
        ("lake::merged", 4, 1),
        ("lake::after_file", 4, 1),
        ("lake::before_commit", 4, 1),
        ("lake::after_commit", 1, 0),
    ] {
        let dir = tempfile::tempdir().unwrap();
        drop(filled(dir.path()).await);
        let killed = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "lake::tests::merge::merge_crash_child"])
            .env("KEYTRAIL_TEST_MERGE_FOLDER", dir.path())
            .env("FAILPOINTS", format!("{point}=return"))
            .output()
            .unwrap();
        assert!(!killed.status.success(), "{point}: the child was not killed");
        let (mut lake, opened) = open(dir.path());
        assert_eq!(opened.strays.len(), strays, "{point}: {:?}", opened.strays);
        assert_eq!(lake.snapshot().files().count(), files, "{point}");
        assert_dense(&lake, 40).await;
        lake.compact().await.unwrap();
        assert_eq!(lake.snapshot().files().count(), 1, "{point}");
        drop(lake);
        assert_eq!(check(dir.path()).unwrap().rows, 40, "{point}");
    }
}

#[tokio::test]
async fn an_erasure_rewrites_a_merged_file_in_its_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut lake = filled(dir.path()).await;
    lake.compact().await.unwrap();
    let position = lake.positions()[&log()];
    let payload = Bytes::from_static(br#"{"recordVersion":1,"ranges":[{"first":3,"last":6}],"reason":"asked"}"#);
    lake.append(&landed(vec![frame(position.next_seq, position.link, payload, Kind::Erasure)])).unwrap();
    lake.flush().await.unwrap();
    let snapshot = lake.snapshot();
    assert_eq!(snapshot.files().map(|file| file.order.as_str()).collect::<Vec<_>>(), ["key", "seq"]);
    assert_eq!(number(&lake, "SELECT count(*) FROM records WHERE raw IS NULL").await, 4);
    assert_dense(&lake, 41).await;
    assert_eq!(check(dir.path()).unwrap().rows, 41);
}
