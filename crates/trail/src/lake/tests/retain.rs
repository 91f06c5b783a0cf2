//! Retention: old records leave, changes stay, and nothing that begins later passes for whole.

use super::*;
use crate::lake::file::FileError;
use crate::lake::rebuild::RebuildError;

const HOUR: Duration = Duration::from_secs(3600);

fn keeping(root: &Path, clock: &Arc<FakeClock>) -> Lake {
    let options = LakeOptions { keep: Some(HOUR), compact_files: 100, ..options() };
    Lake::open(root, options, Arc::<FakeClock>::clone(clock)).unwrap().0
}

/// A file of two calls and a change.
async fn add_file(lake: &mut Lake) {
    append_payload(lake, DENIED);
    append_payload(lake, DENIED);
    let change = DENIED.replace("\"readOnly\":true", "\"readOnly\":false");
    append_payload(lake, &change.replace("\"errorCode\":\"AccessDenied\",\"errorMessage\":\"no\",", ""));
    lake.flush().await.unwrap();
}

async fn seqs(lake: &Lake) -> Vec<Option<String>> {
    texts(lake, "SELECT seq FROM records ORDER BY seq").await
}

#[tokio::test]
async fn old_records_leave_changes_stay_and_the_rest_is_said_to_be_pruned() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(FakeClock::default());
    let mut lake = keeping(dir.path(), &clock);
    for _ in 0..3 {
        add_file(&mut lake).await;
    }
    lake.retain().await.unwrap();
    assert_eq!(seqs(&lake).await.len(), 9, "nothing is old yet");
    clock.advance(HOUR * 2);
    let old = lake.snapshot();
    lake.retain().await.unwrap();
    let text = |seqs: &[u64]| seqs.iter().map(|seq| Some(seq.to_string())).collect::<Vec<_>>();
    assert_eq!(seqs(&lake).await, text(&[2, 5, 6, 7, 8]), "the newest file and the changes before");
    assert_eq!(number(&lake, "SELECT count(*) FROM records").await, 5);
    assert_eq!(number(&lake, "SELECT whole_from FROM logs WHERE whole_since IS NOT NULL").await, 6);
    let health = include_str!("../../../../../queries/log-health.sql");
    assert_eq!(number(&lake, &format!("SELECT missing + records FROM ({health}) AS health")).await, 5);
    assert!(old.files().all(|file| dir.path().join(&file.path).exists()), "for queries that still read them");
    let commit = fs::read_to_string(commit(dir.path(), 3)).unwrap();
    assert!(commit.contains("\"version\": 2") && commit.contains("\"start\": 6"), "{commit}");

    // Whoever needs the beginning is refused; what is there verifies from where it begins.
    let snapshot = lake.snapshot();
    let pruned = |error: FileError| matches!(error, FileError::Rebuild(RebuildError::Pruned { last: 5 }));
    assert!(pruned(snapshot.records(log()).next().unwrap().unwrap_err()));
    assert!(pruned(snapshot.leaf_hashes(log(), 0, |_| {}).unwrap_err()));
    assert_eq!(snapshot.leaf_hashes(log(), 6, |_| {}).unwrap().next_seq, 9);
    let checked = check(dir.path()).unwrap();
    assert_eq!((checked.rows, checked.starts[&log()].next_seq, checked.positions[&log()].next_seq), (3, 6, 9));
    assert!(checked.notices.iter().any(|notice| notice.contains("pruned up to seq 5")), "{:?}", checked.notices);
    let mut past = Vec::new();
    let wanted = super::super::events::Wanted { time_us: 0..0, key_arn: None, tls: false };
    let visit = |row: &keytrail_kms::row::Row<'_>| {
        past.push(row.seq);
        Ok::<(), std::convert::Infallible>(())
    };
    super::super::events::events(&snapshot, log(), &wanted, visit).unwrap();
    assert_eq!(past, [2, 5, 8]);

    // Again after a restart; what was kept comes along.
    drop(lake);
    let mut lake = keeping(dir.path(), &clock);
    add_file(&mut lake).await;
    lake.retain().await.unwrap();
    assert_eq!(seqs(&lake).await, text(&[2, 5, 8, 9, 10, 11]));
    let copied = crate::lake::committed(dir.path()).unwrap();
    assert_eq!(copied.iter().filter(|path| path.contains("/kept-")).count(), 1);
    drop(lake);
    let (lake, opened) = Lake::open(dir.path(), options(), Arc::<FakeClock>::clone(&clock)).unwrap();
    assert!(opened.strays.is_empty() && opened.set_aside.is_empty(), "{opened:?}");
    assert_eq!(seqs(&lake).await, text(&[2, 5, 8, 9, 10, 11]));
    drop(lake);
    clock.advance(HOUR * 24);
    let mut lake = keeping(dir.path(), &clock);
    assert_eq!(lake.remove_replaced().unwrap(), 0, "opening removed them");
    assert_eq!(lake.snapshot().files().count(), 1);
    assert_eq!(data(dir.path(), 1).file_name().map(|name| name.to_string_lossy().starts_with("kept-")), Some(true));
    append(&mut lake, 2);
    lake.flush().await.unwrap();
    assert_eq!(check(dir.path()).unwrap().rows, 5);
}

#[tokio::test]
async fn a_lake_with_nothing_but_its_newest_file_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(FakeClock::default());
    let mut lake = keeping(dir.path(), &clock);
    add_file(&mut lake).await;
    clock.advance(HOUR * 2);
    lake.retain().await.unwrap();
    assert_eq!(seqs(&lake).await.len(), 3);
    assert_eq!(check(dir.path()).unwrap().starts[&log()], Position::START);
}
