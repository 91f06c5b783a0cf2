//! A root key sealed by a passphrase: the node needs it, a change of the seal is in the log, and keys do not notice.

use super::rotation::works;
use super::*;
use crate::crypto::{Passphrase, RootKey, RootKeyError, SealKey};
use zeroize::Zeroizing;

pub(super) fn phrase(text: &str) -> Arc<SealKey> {
    Arc::new(SealKey::Passphrase(Passphrase::new(Zeroizing::new(text.as_bytes().to_vec())).unwrap()))
}

pub(super) async fn start_with(fixture: &mut Fixture, seal_key: Option<Arc<SealKey>>) -> Result<(), StartError> {
    let config = KmsConfig::new(fixture.dir(), "127.0.0.1:0".parse().unwrap());
    let config = KmsConfig { seal_key, ..config };
    fixture.kms = Some(Kms::start(config, Arc::clone(&fixture.clock)).await?);
    Ok(())
}

fn reseals(fixture: &Fixture) -> Vec<Value> {
    let events = fixture.events().into_iter().filter(|(_, event)| event.event_name == "ResealRootKey");
    events.map(|(_, event)| event.request_parameters.unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_seal_is_logged_by_the_running_node_and_asked_for_at_the_next_start() {
    let mut fixture = Fixture::new().await;
    let key = create_key(&fixture.admin()).await;
    let blob =
        works(&fixture, "Encrypt", json!({"KeyId": key, "Plaintext": "aGVsbG8="})).await["CiphertextBlob"].clone();
    assert!(reseals(&fixture).is_empty(), "nothing changed yet");
    let path = fixture.dir().join("root.key");
    let (first, second) = (phrase("the first passphrase"), phrase("the second passphrase"));
    RootKey::reseal(&path, None, Some(&first)).unwrap();
    for step in 0.. {
        assert!(step < STEPS_MAX, "the running node did not log the change");
        if reseals(&fixture).len() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    works(&fixture, "Decrypt", json!({"CiphertextBlob": blob})).await;
    fixture.stop().await;
    let none = start_with(&mut fixture, None).await.unwrap_err();
    assert!(matches!(none, StartError::RootKey(RootKeyError::Sealed { .. })), "{none}");
    let wrong = start_with(&mut fixture, Some(second.clone())).await.unwrap_err();
    assert!(matches!(wrong, StartError::RootKey(RootKeyError::WrongPassphrase { .. })), "{wrong}");
    start_with(&mut fixture, Some(first.clone())).await.unwrap();
    works(&fixture, "Decrypt", json!({"CiphertextBlob": blob})).await;
    fixture.stop().await;
    // Changed while the node is away: its next start says so.
    RootKey::reseal(&path, Some(&first), Some(&second)).unwrap();
    start_with(&mut fixture, Some(second)).await.unwrap();
    let reseals = reseals(&fixture);
    let [to_first, to_second] = reseals.as_slice() else { panic!("{reseals:?}") };
    assert_eq!((&to_first["formerSeal"], &to_first["sealedBy"]["method"]), (&json!("file"), &json!("passphrase")));
    assert_eq!(to_first["sealedBy"]["memoryKiB"], 262_144);
    assert_eq!(to_second["formerSeal"], to_first["seal"]);
    let answer = works(&fixture, "Decrypt", json!({"CiphertextBlob": blob})).await;
    assert_eq!(answer["Plaintext"], "aGVsbG8=");
    fixture.stop().await;
}
