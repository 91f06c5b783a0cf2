//! Another root key takes over: everything opens under it, calls go on, what callers hold lasts out, and a set of before
//! opens with the root key of before.

use super::import::{external, parcel};
use super::root_key::{phrase, start_with};
use super::rotation::{fails, fixture_and_clock, works};
use super::sts::{form, kms, sts, temporary};
use super::*;
use crate::backup::Against;
use crate::crypto::{RootKey, Seal, SealKey};
use crate::service::{rotate_offline, rotate_running};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const DECRYPT: &str = "TrentService.Decrypt";

async fn rotate(fixture: &Fixture, seal: Option<Arc<SealKey>>, end_tokens: bool) -> Value {
    let dir = fixture.dir().to_owned();
    let rotating = tokio::task::spawn_blocking(move || rotate_running(&dir, seal.as_deref(), end_tokens));
    rotating.await.unwrap().unwrap()
}

fn parameters(fixture: &Fixture, name: &str) -> Vec<Value> {
    let events = fixture.events().into_iter().filter(|(_, event)| event.event_name == name);
    events.map(|(_, event)| event.request_parameters.unwrap()).collect()
}

fn root_key_id(fixture: &Fixture) -> String {
    RootKey::open(&fixture.dir().join("root.key"), None).unwrap().id()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_opens_under_the_next_root_key_and_what_callers_hold_lasts_out() {
    let (mut fixture, clock) = fixture_and_clock().await;
    let admin = fixture.admin();
    let key = create_key(&admin).await;
    let old_blob = encrypt(&admin, &key, b"old", Value::Null).await;
    works(&fixture, "RotateKeyOnDemand", json!({"KeyId": key})).await;
    wait_until(|| fixture.events().iter().any(|(_, event)| event.event_name == "RotateKey")).await;
    let blob = encrypt(&admin, &key, b"new", Value::Null).await;
    let rsa = json!({"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"});
    let pair = works(&fixture, "CreateKey", rsa).await["KeyMetadata"]["Arn"].clone();
    let imported = external(&fixture, "HMAC_256", "GENERATE_VERIFY_MAC").await;
    let import = parcel(&fixture, &imported, "RSAES_OAEP_SHA_256", &[3; 32]).await;
    let grantee = format!("arn:aws:iam::{ACCOUNT}:user/powerless");
    let grant = json!({"KeyId": key, "GranteePrincipal": grantee, "Operations": ["Decrypt"]});
    let grant = works(&fixture, "CreateGrant", grant).await;
    iam::done(&fixture, "CreateUser", &[("UserName", "maria")]).await;
    let made = iam::done(&fixture, "CreateAccessKey", &[("UserName", "maria")]).await;
    let maria = iam::access_key(&made);
    iam::done(&fixture, "CreateVirtualMFADevice", &[("VirtualMFADeviceName", "phone")]).await;
    let open = [("Action", "GetSessionToken"), ("DurationSeconds", "129600")];
    let administrator = Credentials::read(&fixture.dir().join("credentials"), "default").unwrap();
    let (status, xml) = sts(&fixture, &administrator, None, &open).await;
    assert_eq!(status, 200, "{xml} {}", form(&open));
    let session = temporary(&xml);
    let former_id = root_key_id(&fixture);
    let old_file = std::fs::read(fixture.dir().join("root.key")).unwrap();

    let answer = rotate(&fixture, None, false).await;
    let id = root_key_id(&fixture);
    assert_eq!((&answer["rootKeyId"], &answer["secrets"]), (&json!(id), &json!(2)));
    assert_ne!(id, former_id);
    let [told] = &parameters(&fixture, "RotateRootKey")[..] else { panic!("one event") };
    assert_eq!((&told["formerRootKeyId"], &told["rootKeyId"]), (&json!(former_id), &json!(id)));
    assert_eq!((&told["keyMaterials"], &told["formerTokens"]), (&answer["keyMaterials"], &json!("honoured")));
    assert_eq!(answer["keyMaterials"], 3, "two generations and a key pair; imported material comes below");

    for restarted in [false, true] {
        if restarted {
            fixture.stop().await;
            fixture.start().await.unwrap();
        }
        for (blob, text) in [(&old_blob, "old"), (&blob, "new")] {
            let opened = works(&fixture, "Decrypt", json!({"CiphertextBlob": blob})).await;
            assert_eq!(opened["Plaintext"], STANDARD.encode(text));
        }
        works(&fixture, "Sign", json!({"KeyId": pair, "Message": "eA==", "SigningAlgorithm": "ECDSA_SHA_256"})).await;
        ok(&fixture.client("break-glass", "break-glass"), "TrentService.ListKeys", json!({})).await;
        let (status, xml) = sts(&fixture, &maria, None, &[("Action", "GetCallerIdentity")]).await;
        assert_eq!(status, 200, "{xml}");
        let opened = kms(&fixture, &session, DECRYPT, json!({"CiphertextBlob": blob})).await;
        assert_eq!(opened, None, "a session of before goes on");
        let held = json!({"CiphertextBlob": blob, "GrantTokens": [grant["GrantToken"]]});
        ok(&fixture.user("powerless"), DECRYPT, held).await;
    }
    works(&fixture, "ImportKeyMaterial", import.clone()).await;
    fixture.stop().await;
    // Nothing of the root key of before is in the folder: neither its file nor anything that it opens.
    let old_root = std::fs::read(fixture.dir().join("root.key")).unwrap();
    assert_ne!(old_root, old_file);
    let names: Vec<_> = std::fs::read_dir(fixture.dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.iter().filter(|name| name.to_string_lossy().starts_with("root.key")).count(), 1, "{names:?}");
    std::fs::write(fixture.dir().join("root.key"), &old_file).unwrap();
    assert!(matches!(fixture.start().await.unwrap_err(), StartError::OtherRootKey));
    std::fs::write(fixture.dir().join("root.key"), &old_root).unwrap();

    clock.advance(Duration::from_secs(36 * 3_600));
    fixture.start().await.unwrap();
    assert_eq!(parameters(&fixture, "EndFormerTokens"), [json!({"formerRootKeyIds": [former_id]})]);
    let held = json!({"CiphertextBlob": blob, "GrantTokens": [grant["GrantToken"]]});
    assert_eq!(fails(&fixture, "Decrypt", held).await, "InvalidGrantTokenException");
    works(&fixture, "Decrypt", json!({"CiphertextBlob": blob})).await;
    fixture.stop().await;
    fixture.start().await.unwrap();
    assert_eq!(parameters(&fixture, "EndFormerTokens").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_can_be_ended_with_the_root_key_and_a_stopped_node_changes_its_too() {
    let (mut fixture, _clock) = fixture_and_clock().await;
    let administrator = Credentials::read(&fixture.dir().join("credentials"), "default").unwrap();
    let session = temporary(&sts(&fixture, &administrator, None, &[("Action", "GetSessionToken")]).await.1);
    let listing = || kms(&fixture, &session, "TrentService.ListKeys", json!({}));
    rotate(&fixture, None, false).await;
    assert_eq!(listing().await, None);
    rotate(&fixture, None, true).await;
    assert!(listing().await.is_some(), "also out of the memory of opened tokens");
    assert_eq!(parameters(&fixture, "RotateRootKey")[1]["formerTokens"], "ended");
    // Tokens of so many root keys are honoured and no more.
    for _ in 0..8 {
        rotate(&fixture, None, false).await;
    }
    let dir = fixture.dir().to_owned();
    let more = tokio::task::spawn_blocking(move || rotate_running(&dir, None, false)).await.unwrap().unwrap_err();
    assert!(more.to_string().contains("still honoured"), "{more}");
    fixture.stop().await;
    let (id, materials) = rotate_offline(fixture.dir(), (None, None), true, Arc::clone(&fixture.clock)).await.unwrap();
    assert_eq!((id, materials), (root_key_id(&fixture), 0));
    fixture.start().await.unwrap();
    assert_eq!(parameters(&fixture, "RotateRootKey").len(), 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_root_key_is_followed_by_one_under_the_same_passphrase() {
    let mut fixture = Fixture::new().await;
    let blob = encrypt(&fixture.admin(), &create_key(&fixture.admin()).await, b"x", Value::Null).await;
    let words = phrase("the only passphrase");
    let path = fixture.dir().join("root.key");
    RootKey::reseal(&path, None, Some(&words)).unwrap();
    wait_until(|| parameters(&fixture, "ResealRootKey").len() == 1).await;
    let before = std::fs::read(&path).unwrap();
    rotate(&fixture, Some(Arc::clone(&words)), false).await;
    assert!(matches!(RootKey::seal_of(&path).unwrap(), Seal::Passphrase { .. }));
    fixture.stop().await;
    start_with(&mut fixture, Some(Arc::clone(&words))).await.unwrap();
    works(&fixture, "Decrypt", json!({"CiphertextBlob": blob})).await;
    assert_eq!(parameters(&fixture, "ResealRootKey").len(), 1, "the change of root keys is one event, not two");
    fixture.stop().await;
    std::fs::write(&path, before).unwrap();
    assert!(matches!(start_with(&mut fixture, Some(words)).await.unwrap_err(), StartError::OtherRootKey));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_on_while_root_keys_change_and_a_set_of_before_opens_with_its_own() {
    let mut fixture = Fixture::new().await;
    let key = create_key(&fixture.admin()).await;
    let blob = encrypt(&fixture.admin(), &key, b"x", Value::Null).await;
    let (set, _) = backup::take(fixture.dir()).await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut tasks = Vec::new();
    for task in 0..4 {
        let (client, stop, done, blob) = (fixture.admin(), Arc::clone(&stop), Arc::clone(&done), blob.clone());
        tasks.push(tokio::spawn(async move {
            let mut made = Vec::new();
            while !stop.load(Ordering::Acquire) {
                // Each call must be answered; half of the tasks also make what has to be wrapped.
                ok(&client, DECRYPT, json!({"CiphertextBlob": blob})).await;
                if task % 2 == 0 {
                    let key = create_key(&client).await;
                    made.push(encrypt(&client, &key, b"y", Value::Null).await);
                }
                done.fetch_add(1, Ordering::AcqRel);
            }
            made
        }));
    }
    for round in 1..=5 {
        wait_until(|| done.load(Ordering::Acquire) >= 20 * round).await;
        rotate(&fixture, None, false).await;
    }
    stop.store(true, Ordering::Release);
    let mut made = Vec::new();
    for task in tasks {
        made.extend(task.await.unwrap());
    }
    fixture.stop().await;
    fixture.start().await.unwrap();
    for blob in made.iter().chain([&blob]) {
        works(&fixture, "Decrypt", json!({"CiphertextBlob": blob})).await;
    }
    let report = crate::verify::verify_folder(fixture.dir(), |_| ());
    assert!(format!("{:?}", report.verdict).contains("Verified"), "{:?}", report.verdict);
    let (newer, _) = backup::take(fixture.dir()).await;
    for set in [&set, &newer] {
        let own = Against::Note(std::fs::read_to_string(set.path().join("checkpoints/latest")).unwrap());
        let again = backup::restored(set.path(), own, Arc::new(SystemClock)).await;
        works(&again, "Decrypt", json!({"CiphertextBlob": blob})).await;
    }
    // A set whose store was written under another root key than the folder has by now.
    std::fs::copy(set.path().join("root.key"), fixture.dir().join("root.key")).unwrap();
    let (dir, out) = (fixture.dir().to_owned(), tempfile::tempdir().unwrap());
    let taken = crate::backup::Taking::begin(&dir, &out.path().join("set")).unwrap().finish(true, 7).unwrap_err();
    assert!(crate::service::chain(&taken).contains("not the one"), "{taken}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_every_region_and_related_ones_open_under_the_next_root_key() {
    use super::multi_region::{self as regions, US, node_of_regions, opens, related, sealed, settle};
    let (mut fixture, clock) = node_of_regions().await;
    let shared = related(&fixture, &clock, json!({})).await;
    let first = sealed(&fixture, REGION, &shared, "first").await;
    regions::works(&fixture, REGION, "RotateKeyOnDemand", json!({"KeyId": shared})).await;
    settle(&fixture, &clock).await;
    let second = sealed(&fixture, US, &shared, "second").await;
    let made = regions::works(&fixture, US, "CreateKey", json!({})).await;
    let own = made["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned();
    let of_own = sealed(&fixture, US, &own, "own").await;
    let answer = rotate(&fixture, None, false).await;
    let generations = fixture.events().iter().filter(|(_, event)| event.event_name == "RotateKey").count();
    assert_eq!(answer["keyMaterials"], 2 + generations, "related keys share theirs");
    for restarted in [false, true] {
        if restarted {
            fixture.stop().await;
            fixture.start().await.unwrap();
        }
        for region in [REGION, US] {
            opens(&fixture, region, &first, "first").await;
            opens(&fixture, region, &second, "second").await;
        }
        opens(&fixture, US, &of_own, "own").await;
    }
}
