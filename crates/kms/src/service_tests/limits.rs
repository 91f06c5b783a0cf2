//! What grows, and what takes long: each event of a key fits into the log, whoever filled the key's texts, and no change that would not fit is
//! committed.

use super::rotation::{fails, fixture_and_clock, rotations, works};
use super::*;
use crate::policy::{DOCUMENT_BYTES_MAX, default_key_policy};

const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// As many tags as a key can have, as long as they can be, of one character.
fn longest_tags(character: &str) -> Vec<(String, String)> {
    let tag = |number| (format!("{number:03}{}", character.repeat(125)), character.repeat(256));
    (0..50).map(tag).collect()
}

fn creation(description: &str, tags: &[(String, String)]) -> Value {
    let tags: Vec<Value> = tags.iter().map(|(key, value)| json!({"TagKey": key, "TagValue": value})).collect();
    json!({"Description": description, "Tags": tags})
}

#[tokio::test(flavor = "multi_thread")]
async fn only_slow_keys_wait_and_only_so_many() {
    let (fixture, _clock) = fixture_and_clock().await;
    let key = create_key(&fixture.admin()).await;
    let body = json!({"Origin": "EXTERNAL"});
    let external = works(&fixture, "CreateKey", body).await["KeyMetadata"]["Arn"].clone();
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let wait = Arc::new(parking_lot::Mutex::new(wait));
    let mut waiting = Vec::new();
    for _ in 0..8 {
        let (node, wait) = (Arc::clone(fixture.kms.as_ref().unwrap().node()), Arc::clone(&wait));
        let account = node.account();
        let mut run = Box::pin(async move { node.turns.run(account, move || wait.lock().recv().is_ok()).await });
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(Future::poll(run.as_mut(), &mut context).is_pending());
        waiting.push(run);
    }
    let rsa = json!({"KeySpec": "RSA_2048", "KeyUsage": "SIGN_VERIFY"});
    let pair = json!({"KeyId": key, "KeyPairSpec": "RSA_2048"});
    let wrapping = json!({"KeyId": external, "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"});
    for (target, body) in [
        ("CreateKey", rsa.clone()),
        ("GenerateDataKeyPair", pair.clone()),
        ("GetParametersForImport", wrapping.clone()),
    ] {
        assert_eq!(fails(&fixture, target, body).await, "ThrottlingException", "{target}");
    }
    // What will be refused does not ask for a turn.
    for (name, value, code) in [
        ("Policy", json!("{}"), "MalformedPolicyDocumentException"),
        ("Description", json!("x".repeat(8_193)), "ValidationException"),
        ("Tags", json!([{"TagKey": "aws:x", "TagValue": ""}]), "TagException"),
    ] {
        let mut body = rsa.clone();
        body[name] = value;
        assert_eq!(fails(&fixture, "CreateKey", body).await, code);
    }
    works(&fixture, "CreateKey", json!({"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"})).await;
    works(&fixture, "GenerateDataKeyPair", json!({"KeyId": key, "KeyPairSpec": "ECC_NIST_P521"})).await;
    drop(release);
    for run in waiting {
        assert_eq!(run.await, Ok(false), "released, not answered");
    }
    works(&fixture, "CreateKey", rsa).await;
    works(&fixture, "GenerateDataKeyPair", pair).await;
    works(&fixture, "GetParametersForImport", wrapping).await;
}

fn last(fixture: &Fixture, name: &str) -> AuditEvent {
    fixture.events().into_iter().rfind(|(_, event)| event.event_name == name).unwrap().1
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_key_is_changed_rotated_and_deleted() {
    let (mut fixture, clock) = fixture_and_clock().await;
    let escaped = "\u{1}".repeat(8_192);
    assert_eq!(fails(&fixture, "CreateKey", creation("", &longest_tags("\u{1}"))).await, "TagException");
    let large = creation(&escaped, &longest_tags("字"));
    assert_eq!(fails(&fixture, "CreateKey", large).await, "LimitExceededException");
    let created = works(&fixture, "CreateKey", creation(&escaped, &longest_tags("é"))).await;
    let key = created["KeyMetadata"]["Arn"].as_str().unwrap().to_owned();
    let tag =
        json!({"KeyId": key, "Tags": [{"TagKey": format!("000{}", "é".repeat(125)), "TagValue": "字".repeat(256)}]});
    works(&fixture, "TagResource", tag).await;
    let tags: Vec<Value> = longest_tags("é").iter().take(8).map(|(key, _)| key.clone().into()).collect();
    let tags: Vec<Value> = tags.iter().map(|key| json!({"TagKey": key, "TagValue": "字".repeat(256)})).collect();
    let body = json!({"KeyId": key, "Tags": tags});
    assert_eq!(fails(&fixture, "TagResource", body).await, "LimitExceededException");
    // Whitespace is a policy's own, and each line break takes two bytes in an event.
    let mut policy = default_key_policy(ACCOUNT);
    policy.push_str(&"\n".repeat(DOCUMENT_BYTES_MAX - policy.len()));
    works(&fixture, "PutKeyPolicy", json!({"KeyId": key, "Policy": policy})).await;
    let event = last(&fixture, "PutKeyPolicy");
    assert_eq!(event.additional_event_data.more["policy"], policy);
    assert_eq!(event.additional_event_data.before.unwrap()["description"], escaped);

    works(&fixture, "EnableKeyRotation", json!({"KeyId": key})).await;
    clock.advance(YEAR);
    assert_eq!(rotations(&fixture).await, 1);
    works(&fixture, "DisableKey", json!({"KeyId": key})).await;
    fixture.stop().await;
    fixture.start().await.unwrap();
    works(&fixture, "ScheduleKeyDeletion", json!({"KeyId": key, "PendingWindowInDays": 7})).await;
    clock.advance(Duration::from_secs(7 * 86_400));
    crate::ops::make_due_changes(fixture.kms.as_ref().unwrap().node()).await;
    assert_eq!(last(&fixture, "DeleteKey").additional_event_data.before.unwrap()["description"], escaped);
    fixture.stop().await;
    fixture.start().await.unwrap();
}

/// Versions before the limits took such texts; a hand in kms.db can still write longer ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_too_large_neither_stops_the_node_nor_other_keys() {
    let (mut fixture, clock) = fixture_and_clock().await;
    let admin = fixture.admin();
    let (huge, large, usual) = (create_key(&admin).await, create_key(&admin).await, create_key(&admin).await);
    for key in [&huge, &large, &usual] {
        works(&fixture, "EnableKeyRotation", json!({"KeyId": key})).await;
    }
    fixture.stop().await;
    let store = rusqlite::Connection::open(fixture.dir().join("kms.db")).unwrap();
    let id = |arn: &str| uuid::Uuid::parse_str(arn.rsplit('/').next().unwrap()).unwrap().into_bytes().to_vec();
    let escaped = "\u{1}".repeat(8_192);
    store.execute("UPDATE keys SET description = ?2 WHERE key_id = ?1", (id(&large), &escaped)).unwrap();
    for (name, value) in longest_tags("\u{1}") {
        store.execute("INSERT INTO tags VALUES (?1, ?2, ?3)", (id(&large), name, value)).unwrap();
    }
    store.execute("INSERT INTO tags VALUES (?1, 'huge', ?2)", (id(&huge), "x".repeat(300_000))).unwrap();
    drop(store);
    fixture.start().await.unwrap();

    works(&fixture, "DisableKey", json!({"KeyId": large})).await;
    let state = last(&fixture, "DisableKey").additional_event_data;
    let (before, after) = (state.before.unwrap(), state.after.unwrap());
    assert_eq!((&before["keyState"], &before["omitted"], before.get("tags")), (&json!("Enabled"), &json!(true), None));
    assert_eq!((&after["keyState"], &after["description"]), (&json!("Disabled"), &json!(escaped)));
    works(&fixture, "EnableKey", json!({"KeyId": large})).await;
    assert_eq!(fails(&fixture, "DisableKey", json!({"KeyId": huge})).await, "LimitExceededException");
    assert_eq!(last(&fixture, "DisableKey").error_code.as_deref(), Some("LimitExceededException"));

    clock.advance(YEAR);
    assert_eq!(rotations(&fixture).await, 2, "those that fit");
    fixture.stop().await;
    fixture.start().await.unwrap();
    works(&fixture, "UntagResource", json!({"KeyId": huge, "TagKeys": ["huge"]})).await;
    assert_eq!(rotations(&fixture).await, 3);
    works(&fixture, "DisableKey", json!({"KeyId": huge})).await;
}
