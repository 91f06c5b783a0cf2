//! Another key signs the log: whoever knows one key of the chain follows to the others, in one process and with a signer of
//! its own, and a transition that is not signed by the key of before is refused.

use super::*;
use crate::chain::{KeyTransition, RootHash, SigningKey, TransitionError, VerifyKey};
use crate::journal::{Draft, Journal};
use crate::service::{RotateSignerError, rotate_signer_offline};
use crate::signer::process::{SignerProcess, listen};
use crate::signer::{SUCCESSOR_NAME, SignError, TRANSITIONS_NAME, make_successor, move_key};
use crate::verify::{Report, Verdict, verify_folder_with};
use std::path::PathBuf;

fn vkey(fixture: &Fixture) -> VerifyKey {
    std::fs::read_to_string(fixture.dir().join("checkpoints/vkey")).unwrap().trim().parse().unwrap()
}

async fn rotate(fixture: &Fixture, socket: Option<PathBuf>) -> Result<KeyTransition, RotateSignerError> {
    rotate_signer_offline(fixture.dir(), (None, socket), Arc::clone(&fixture.clock)).await
}

fn verified(fixture: &Fixture, key: &VerifyKey) -> Report {
    let report = verify_folder_with(fixture.dir(), Some(key), |_| ());
    assert_eq!(report.verdict, Verdict::Verified);
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_keys_is_followed_from_any_of_them() {
    let mut fixture = Fixture::new().await;
    create_key(&fixture.admin()).await;
    fixture.stop().await;
    let mut keys = vec![vkey(&fixture)];
    for _ in 0..2 {
        let transition = rotate(&fixture, None).await.unwrap();
        assert_eq!(transition.old_key, keys.last().unwrap().to_string());
        keys.push(vkey(&fixture));
        assert_eq!(transition.new_key, keys.last().unwrap().to_string());
        let (leaf, payload) = fixture.records().into_iter().find(|(leaf, _)| leaf.seq == transition.size).unwrap();
        assert_eq!((leaf.kind, payload), (Kind::KeyTransition, transition.to_json().into_bytes()));
        fixture.start().await.unwrap();
        create_key(&fixture.admin()).await;
        fixture.stop().await;
    }
    for key in &keys {
        assert_eq!(verified(&fixture, key).keys.unwrap().all(), keys);
    }
    assert!(!fixture.dir().join("checkpoints").join(SUCCESSOR_NAME).exists());
    let stranger = SigningKey::generate(keys[0].name()).unwrap().0.verify_key().clone();
    assert!(matches!(verify_folder_with(fixture.dir(), Some(&stranger), |_| ()).verdict, Verdict::Failed { .. }));
    // Without the file nobody who knows the first key gets to the last; the node makes it anew of its records.
    let file = fixture.dir().join("checkpoints").join(TRANSITIONS_NAME);
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(verify_folder_with(fixture.dir(), Some(&keys[0]), |_| ()).verdict, Verdict::Failed { .. }));
    std::fs::write(fixture.dir().join("checkpoints/vkey"), format!("{}\n", keys[0])).unwrap();
    fixture.start().await.unwrap();
    fixture.stop().await;
    assert_eq!(verified(&fixture, &keys[0]).keys.unwrap().all(), keys);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signer_of_its_own_changes_to_the_key_that_its_user_prepared() {
    let mut fixture = Fixture::new().await;
    fixture.stop().await;
    let (old, folder) = (vkey(&fixture), tempfile::tempdir().unwrap());
    let (own, socket) = (folder.path().join("signer"), folder.path().join("sock"));
    move_key(&fixture.dir().join("checkpoints"), &own).unwrap();
    let process = tokio::spawn(SignerProcess::open(&own).unwrap().serve(listen(&socket).unwrap()));
    let refused = rotate(&fixture, Some(socket.clone())).await.unwrap_err();
    assert!(matches!(refused, RotateSignerError::Sign(SignError::Answer { .. })), "nothing is prepared: {refused}");
    let prepared = make_successor(&own).unwrap();
    let transition = rotate(&fixture, Some(socket.clone())).await.unwrap();
    assert_eq!((vkey(&fixture), transition.new_key), (prepared.clone(), prepared.to_string()));
    for key in [&old, &prepared] {
        verified(&fixture, key);
    }
    // A crash that left the signer at a key of before: the node's next start has it go on.
    let again = make_successor(&own).unwrap();
    let remote = crate::signer::RemoteSigner::open(&fixture.dir().join("checkpoints"), &socket).unwrap();
    std::fs::write(fixture.dir().join("checkpoints/vkey"), format!("{again}\n")).unwrap();
    let later = crate::signer::RemoteSigner::open(&fixture.dir().join("checkpoints"), &socket).unwrap();
    assert!(tokio::task::spawn_blocking(move || later.remembered()).await.unwrap().is_ok());
    assert!(tokio::task::spawn_blocking(move || remote.remembered()).await.unwrap().is_err(), "its key is gone");
    process.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn transitions_that_the_old_key_has_not_signed_are_refused() {
    let mut fixture = Fixture::new().await;
    fixture.stop().await;
    let key = vkey(&fixture);
    let origin = key.name().to_owned();
    let made = |seed| SigningKey::from_seed(&origin, &[seed; 32]).unwrap();
    let log = crate::chain::LogId::of_origin(&origin);
    let dir = fixture.dir().join("journal");
    let (journal, found) = Journal::open(&dir, log, Arc::clone(&fixture.clock), JournalOptions::default()).unwrap();
    let head = journal.head();
    let forged = KeyTransition::sign(&made(1), &made(2), found.next_seq, &RootHash(head.root.0)).to_json();
    // The stranger writes the log's own key where its own was.
    let forged = forged.replace(&made(1).verify_key().to_string(), &key.to_string());
    journal.append(Draft::new(Kind::KeyTransition, forged.into()).unwrap()).unwrap().await.unwrap();
    journal.close();
    drop(journal);
    let error = fixture.start().await.unwrap_err();
    let StartError::Checkpoint(SignError::Transition { source, .. }) = error else { panic!("{error}") };
    assert_eq!(source, TransitionError::Signature("old"));
    let verdict = verify_folder_with(fixture.dir(), Some(&key), |_| ()).verdict;
    assert!(matches!(&verdict, Verdict::Failed { seq: Some(seq), .. } if *seq == found.next_seq), "{verdict:?}");
}
