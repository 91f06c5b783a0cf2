//! Erasure in the lake: gone from files, tail and disk, with proofs intact; what must stay stays; no crash brings it back.

use super::*;

const SECRET: &str = "canary-of-a-person-8472";

/// An event that changed nothing, with a text that must go.
fn used(n: usize) -> String {
    DENIED
        .replace("mallory", SECRET)
        .replace("\"encryptionContext\":{", &format!("\"encryptionContext\":{{\"n{n}\":\"{SECRET}\","))
}

/// A change, with the same text.
fn changed() -> String {
    let text = used(0).replace("\"readOnly\":true", "\"readOnly\":false");
    text.replace("\"errorCode\":\"AccessDenied\",\"errorMessage\":\"no\",", "")
}

fn erase(lake: &mut Lake, ranges: &str) {
    let position = lake.positions()[&log()];
    let payload = format!(r#"{{"recordVersion":1,"ranges":[{ranges}],"reason":"asked"}}"#);
    let frame = frame(position.next_seq, position.link, Bytes::from(payload), Kind::Erasure);
    lake.append(&landed(vec![frame])).unwrap();
}

fn range(first: u64, last: u64) -> String {
    format!(r#"{{"first":{first},"last":{last}}}"#)
}

/// Parquet compresses: what the rows say is what counts.
async fn seqs_with_secret(lake: &Lake) -> Vec<i64> {
    let batches = query(lake, "SELECT * FROM records ORDER BY seq").await;
    let mut seqs = Vec::new();
    for batch in batches {
        let seq = batch.column_by_name("seq").unwrap().as_primitive::<Int64Type>().clone();
        for row in 0..batch.num_rows() {
            let says = batch.columns().iter().any(|column| {
                let texts = column.as_string_opt::<i32>().filter(|column| column.is_valid(row));
                let bytes = column.as_binary_opt::<i32>().filter(|column| column.is_valid(row));
                texts.is_some_and(|column| column.value(row).contains(SECRET))
                    || bytes.is_some_and(|column| String::from_utf8_lossy(column.value(row)).contains(SECRET))
            });
            if says {
                seqs.push(seq.value(row));
            }
        }
    }
    seqs
}

/// Data files on the disk, whether a commit names them or not.
fn data_files(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    collect(&root.join("data"), &mut files);
    files
}

/// Files with seqs 0 to 2, 3 to 5, 6 to 8, and a tail with 9 to 11; each ends with a change.
async fn filled(root: &Path) -> Lake {
    let (mut lake, _) = open(root);
    for n in 0..4 {
        append_payload(&mut lake, &used(n));
        append_payload(&mut lake, &used(n));
        append_payload(&mut lake, &changed());
        if n < 3 {
            lake.flush().await.unwrap();
        }
    }
    assert_eq!(seqs_with_secret(&lake).await.len(), 12);
    lake
}

#[tokio::test]
async fn what_is_named_is_gone_from_files_tail_and_disk_and_the_chain_holds() {
    let dir = tempfile::tempdir().unwrap();
    let mut lake = filled(dir.path()).await;
    let before = lake.positions()[&log()];
    erase(&mut lake, &[range(0, 1), range(4, 10)].join(","));
    assert_eq!(seqs_with_secret(&lake).await, [0, 1, 2, 3, 4, 5, 6, 7, 8, 11], "the tail at once");
    lake.flush().await.unwrap();
    // 2, 5, 8 and 11 are changes; 3 was not named.
    assert_eq!(seqs_with_secret(&lake).await, [2, 3, 5, 8, 11]);
    assert_eq!(data_files(dir.path()).len(), lake.snapshot().files().count(), "replaced files are gone from the disk");
    assert_dense(&lake, 13).await;
    let row = "FROM records WHERE seq = 4";
    assert_eq!(
        number(
            &lake,
            &format!("SELECT count(*) {row} AND salt IS NULL AND raw IS NULL AND payload_digest IS NOT NULL")
        )
        .await,
        1
    );
    assert_eq!(texts(&lake, &format!("SELECT principal_arn {row}")).await, [None]);
    assert_eq!(texts(&lake, "SELECT count(*) FROM events WHERE event_name IS NULL").await, [Some("7".to_owned())]);
    assert_eq!(check(dir.path()).unwrap().positions[&log()].next_seq, before.next_seq + 1);
    drop(lake);
    let (mut lake, opened) = open(dir.path());
    assert!(opened.set_aside.is_empty() && opened.strays.is_empty(), "{opened:?}");
    assert_eq!(seqs_with_secret(&lake).await, [2, 3, 5, 8, 11]);
    // Again, and of what is not there: changes nothing.
    let files = data_files(dir.path());
    erase(&mut lake, &[range(0, 1), range(500, 600)].join(","));
    lake.flush().await.unwrap();
    assert!(files.iter().all(|file| file.exists()));
    append(&mut lake, 3);
    lake.compact().await.unwrap();
    lake.flush().await.unwrap();
    assert_eq!(seqs_with_secret(&lake).await, [2, 3, 5, 8, 11]);
    check(dir.path()).unwrap();
}

#[tokio::test]
async fn an_erasure_that_a_crash_cut_off_is_finished_after_it_lands_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut lake = filled(dir.path()).await;
    let old: Vec<(PathBuf, Vec<u8>)> =
        data_files(dir.path()).into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    erase(&mut lake, &range(0, 1));
    // The file is rewritten, nothing is sealed; then the process is gone.
    while lake.snapshot().files().any(|file| file.first == 0 && old.iter().any(|(path, _)| path.ends_with(&file.path)))
    {
        lake.maybe_seal().await.unwrap();
        tokio::task::yield_now().await;
    }
    drop(lake);
    // As if the crash had come between the commit and the removal of the file it replaced.
    for (path, bytes) in &old {
        if !path.exists() {
            fs::write(path, bytes).unwrap();
        }
    }
    let (mut lake, opened) = open(dir.path());
    assert_eq!(opened.positions[&log()].next_seq, 9, "the erasure was not committed before its work");
    assert!(opened.strays.is_empty());
    for n in [3, 3] {
        append_payload(&mut lake, &used(n));
    }
    append_payload(&mut lake, &changed());
    assert_eq!(seqs_with_secret(&lake).await, [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    erase(&mut lake, &range(0, 1));
    lake.flush().await.unwrap();
    assert_eq!(seqs_with_secret(&lake).await, [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    assert_eq!(data_files(dir.path()).len(), lake.snapshot().files().count());
    check(dir.path()).unwrap();
}

#[tokio::test]
async fn a_record_that_cannot_be_read_or_names_what_comes_later_erases_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut lake = filled(dir.path()).await;
    erase(&mut lake, "5");
    erase(&mut lake, &range(0, 1_000));
    erase(&mut lake, &range(7, 3));
    lake.flush().await.unwrap();
    assert_eq!(seqs_with_secret(&lake).await.len(), 12);
    check(dir.path()).unwrap();
}

#[tokio::test]
async fn an_erasure_that_lands_during_a_seal_that_fails_is_done_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let options = LakeOptions { seal_rows: 2, ..options() };
    let (mut lake, _) = Lake::open(dir.path(), options, Arc::new(FakeClock::default())).unwrap();
    append_payload(&mut lake, &used(0));
    append_payload(&mut lake, &used(1));
    // No folder can be made where a file is.
    let data = dir.path().join("data");
    if data.exists() {
        fs::remove_dir_all(&data).unwrap();
    }
    fs::write(&data, b"").unwrap();
    lake.maybe_seal().await.unwrap();
    erase(&mut lake, &range(0, 1));
    while lake.maybe_seal().await.is_ok() {
        tokio::task::yield_now().await;
    }
    fs::remove_file(&data).unwrap();
    lake.flush().await.unwrap();
    assert!(seqs_with_secret(&lake).await.is_empty());
    assert_eq!(check(dir.path()).unwrap().rows, 3);
}
