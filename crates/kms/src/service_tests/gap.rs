//! A node that was set back starts again only by the word of two operators: in a new log, which says what is missing.

use super::backup::take;
use super::*;
use crate::backup::{Against, restore};
use crate::chain::{GapDeclaration, GapError, LogId, SigningKey, VerifyKey};
use crate::gap::{DeclareError, FORMER_NAME, apply, declare};
use crate::verify::{Trusted, Verdict, verify_folder, verify_folder_trusting};

fn operator(name: &str, seed: u8) -> SigningKey {
    SigningKey::from_seed(name, &[seed; 32]).unwrap()
}

fn operators() -> Vec<VerifyKey> {
    [("alice", 1), ("bob", 2), ("carol", 3)].map(|(name, seed)| operator(name, seed).verify_key().clone()).to_vec()
}

async fn applied(fixture: &Fixture, gap: &GapDeclaration) -> Result<(), DeclareError> {
    let (dir, gap) = (fixture.dir().to_owned(), gap.clone());
    tokio::task::spawn_blocking(move || apply(&dir, &gap, &operators(), Arc::new(SystemClock))).await.unwrap()
}

/// A node on a set that a checkpoint from elsewhere reaches beyond, that checkpoint, and a ciphertext of the set's time.
async fn set_back() -> (Fixture, String, String, String) {
    let fixture = Fixture::new().await;
    let key = create_key(&fixture.admin()).await;
    let blob = encrypt(&fixture.admin(), &key, b"kept", Value::Null).await;
    let (set, _) = take(fixture.dir()).await;
    create_key(&fixture.admin()).await;
    let (mut original, folder) = (fixture, tempfile::tempdir().unwrap());
    original.stop().await;
    let note = std::fs::read_to_string(original.dir().join("checkpoints/latest")).unwrap();
    let to = folder.path().to_owned();
    let from = set.path().to_owned();
    tokio::task::spawn_blocking(move || restore(&from, &to, None, &Against::Nothing)).await.unwrap().unwrap();
    let old = std::mem::replace(&mut original.folder, folder);
    drop(old);
    (original, note, key, blob)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_operators_begin_a_new_log_that_names_what_is_missing() {
    let (mut fixture, note, key, blob) = set_back().await;
    std::fs::write(fixture.dir().join("keytrail.toml"), "").unwrap();
    let held = verify_folder(fixture.dir(), |_| ());
    let former = held.checkpoint.unwrap();
    assert!(matches!(declare(fixture.dir(), (&[], None), "why", &SystemClock), Err(DeclareError::Nothing)));
    let mut gap = declare(fixture.dir(), (&[note], None), "disk of node 1 lost", &SystemClock).unwrap();
    assert_eq!((gap.held_size, gap.former_origin.as_str()), (former.size, former.origin.as_str()));
    assert_eq!(gap.missing(), Some((former.size, gap.known_size - 1)));
    let config = format!("[node]\norigin = \"{}\"\n", former.origin);
    std::fs::write(fixture.dir().join("keytrail.toml"), config).unwrap();

    let few = |found| move |error| matches!(error, DeclareError::Gap(GapError::Few { found: n }) if n == found);
    assert!(applied(&fixture, &gap).await.is_err_and(few(0)));
    gap.sign(&operator("alice", 1)).unwrap();
    gap.sign(&operator("mallory", 9)).unwrap();
    assert!(applied(&fixture, &gap).await.is_err_and(few(1)), "a stranger's word counts for nothing");
    gap.sign(&operator("bob", 2)).unwrap();
    applied(&fixture, &gap).await.unwrap();
    assert!(applied(&fixture, &gap).await.is_err(), "the folder is another one now");

    fixture.start().await.unwrap();
    let clear = ok(&fixture.admin(), "TrentService.Decrypt", json!({"CiphertextBlob": blob})).await;
    assert_eq!(clear.body["Plaintext"], STANDARD.encode(b"kept"));
    ok(&fixture.admin(), "TrentService.DisableKey", json!({"KeyId": key})).await;
    fixture.stop().await;
    let report = verify_folder(fixture.dir(), |_| ());
    assert_eq!((&report.verdict, report.log), (&Verdict::Verified, Some(LogId::of_origin(&gap.origin))));
    let declared = report.gap.unwrap();
    assert_eq!((declared.declaration, declared.operators.len()), (gap.clone(), 3));
    let trusting = |operators: &[VerifyKey]| {
        verify_folder_trusting(fixture.dir(), Trusted { operators, ..Trusted::default() }, |_| ())
    };
    assert_eq!(trusting(&operators()).gap.unwrap().operators.len(), 2);
    assert!(matches!(trusting(&operators()[1..]).verdict, Verdict::Failed { seq: Some(0), .. }));
    // What is left of the former log is still to be verified, and nobody can go on with it.
    let old = fixture.dir().join(FORMER_NAME).join(LogId::of_origin(&former.origin).to_string());
    let report = verify_folder(&old, |_| ());
    assert_eq!((report.verdict, report.records), (Verdict::Verified, former.size));
    assert!(!old.join("checkpoints/signer.key").exists());
    let config = std::fs::read_to_string(fixture.dir().join("keytrail.toml")).unwrap();
    assert_eq!(config, format!("[node]\norigin = \"{}\"\n", gap.origin));
    // The new log is a log like any other: it is stopped, started, saved.
    fixture.start().await.unwrap();
    let (set, manifest) = take(fixture.dir()).await;
    assert!(manifest.origin == gap.origin && set.path().join(FORMER_NAME).is_dir());
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_was_cut_or_a_store_that_was_set_back_is_declared_from_what_the_folder_knows() {
    let mut fixture = Fixture::new().await;
    fixture.stop_and_close().await;
    let early = tempfile::tempdir().unwrap();
    std::fs::copy(fixture.dir().join("kms.db"), early.path().join("kms.db")).unwrap();
    std::fs::copy(fixture.dir().join("journal/segment-00000000000000000000.ktj"), early.path().join("segment"))
        .unwrap();
    fixture.start().await.unwrap();
    create_key(&fixture.admin()).await;
    fixture.stop_and_close().await;
    let late = tempfile::tempdir().unwrap();
    std::fs::copy(fixture.dir().join("kms.db"), late.path().join("kms.db")).unwrap();
    std::fs::copy(early.path().join("kms.db"), fixture.dir().join("kms.db")).unwrap();
    assert!(matches!(fixture.start().await, Err(StartError::StoreBehind { .. })));
    let gap = declare(fixture.dir(), (&[], None), "store lost", &SystemClock).unwrap();
    assert!(gap.missing().is_none() && gap.state_change < gap.recorded_change);
    std::fs::copy(late.path().join("kms.db"), fixture.dir().join("kms.db")).unwrap();
    std::fs::copy(early.path().join("segment"), fixture.dir().join("journal/segment-00000000000000000000.ktj"))
        .unwrap();
    assert!(fixture.start().await.is_err());
    let mut gap = declare(fixture.dir(), (&[], None), "journal lost", &SystemClock).unwrap();
    assert!(gap.missing().is_some());
    gap.sign(&operator("alice", 1)).unwrap();
    gap.sign(&operator("carol", 3)).unwrap();
    applied(&fixture, &gap).await.unwrap();
    fixture.start().await.unwrap();
    create_key(&fixture.admin()).await;
    fixture.stop().await;
    assert_eq!(verify_folder(fixture.dir(), |_| ()).gap.unwrap().declaration.reason, "journal lost");
}
