//! The tables that are folded from the log.

use super::{append_payload, number, open, texts};
use serde_json::json;

fn change(name: &str, id: &str, additional: &serde_json::Value, error: Option<&str>) -> String {
    let mut event = serde_json::json!({
        "eventName": name, "eventID": id, "readOnly": false, "eventType": "AwsApiCall",
        "userIdentity": {"type": "IAMUser", "arn": "arn:aws:iam::111122223333:user/admin"},
        "additionalEventData": additional,
    });
    if let Some(error) = error {
        event["errorCode"] = error.into();
    }
    event.to_string()
}

#[tokio::test]
async fn keys_and_policies_are_folded_from_the_log() {
    const ARN: &str = "arn:aws:kms:eu-central-1:111122223333:key/k-1";
    let image = |state: &str| serde_json::json!({"keyArn": ARN, "keyId": "k-1", "account": "111122223333", "keyState": state, "keyManager": "AWS", "tags": {"b": "2", "a": "1"}, "createdAt": "2026-01-05T12:00:00Z", "unknown": 1});
    let dir = tempfile::tempdir().unwrap();
    let (mut lake, _) = open(dir.path());
    let created = serde_json::json!({"after": image("Enabled"), "policy": "{\"first\":1}"});
    append_payload(&mut lake, &change("CreateKey", "e-1", &created, None));
    append_payload(
        &mut lake,
        &change("DisableKey", "e-2", &serde_json::json!({"after": image("Disabled")}), Some("AccessDenied")),
    );
    lake.flush().await.unwrap();
    let state = "SELECT key_state FROM keys WHERE key_id = 'k-1'";
    assert_eq!(texts(&lake, state).await, [Some("Enabled".to_owned())]);
    append_payload(
        &mut lake,
        &change(
            "DisableKey",
            "e-3",
            &serde_json::json!({"before": image("Enabled"), "after": image("Disabled")}),
            None,
        ),
    );
    assert_eq!(texts(&lake, state).await, [Some("Disabled".to_owned())]);
    let put = serde_json::json!({"after": image("Disabled"), "policy": "{\"second\":2}", "previousPolicySha256": "ab"});
    append_payload(&mut lake, &change("PutKeyPolicy", "e-4", &put, None));
    lake.flush().await.unwrap();
    append_payload(
        &mut lake,
        &change("CreateAlias", "e-5", &serde_json::json!({"after": {"aliasName": "alias/a"}}), None),
    );
    let repeat = serde_json::json!({"after": image("Enabled"), "repeatOf": "e-3"});
    append_payload(&mut lake, &change("EnableKey", "e-6", &repeat, None));
    assert_eq!(texts(&lake, state).await, [Some("Disabled".to_owned())]);
    assert_eq!(texts(&lake, "SELECT key_manager FROM keys").await, [Some("AWS".to_owned())]);
    assert_eq!(texts(&lake, "SELECT tags FROM keys").await, [Some("{\"a\":\"1\",\"b\":\"2\"}".to_owned())]);
    assert_eq!(
        texts(&lake, "SELECT policy FROM key_policies ORDER BY seq").await,
        [Some("{\"first\":1}".to_owned()), Some("{\"second\":2}".to_owned())]
    );
    assert_eq!(texts(&lake, "SELECT event_id FROM key_policies WHERE current").await, [Some("e-4".to_owned())]);
    assert_eq!(number(&lake, "SELECT count(*) FROM alerts").await, 0);
    // The same after a restart, folded from files alone.
    lake.flush().await.unwrap();
    drop(lake);
    let (lake, _) = open(dir.path());
    assert_eq!(texts(&lake, state).await, [Some("Disabled".to_owned())]);
    assert_eq!(texts(&lake, "SELECT event_id FROM key_policies WHERE current").await, [Some("e-4".to_owned())]);
}

#[tokio::test]
async fn grants_are_folded_with_how_they_ended() {
    const KEY: &str = "arn:aws:kms:eu-central-1:111122223333:key/k-1";
    const OTHER: &str = "arn:aws:kms:eu-central-1:111122223333:key/k-2";
    let granted = |id: &str, key: &str| {
        json!({"after": {"grantId": id, "targetKeyArn": key, "granteePrincipal": "arn:aws:iam::111122223333:user/app",
            "issuingAccount": "111122223333", "operations": ["Decrypt"], "createdAt": "2026-01-05T12:00:00Z",
            "constraints": {"encryptionContextSubset": {"tenant": "7"}}}})
    };
    let dir = tempfile::tempdir().unwrap();
    let (mut lake, _) = open(dir.path());
    for (event, id, key) in [("e-1", "g-1", KEY), ("e-2", "g-2", KEY), ("e-3", "g-3", OTHER), ("e-4", "g-4", OTHER)] {
        append_payload(&mut lake, &change_of(key, "CreateGrant", event, &granted(id, key), None));
    }
    // A repeat, a refusal, an end, and the end of a grant that is not of this key.
    append_payload(&mut lake, &change_of(KEY, "CreateGrant", "e-5", &granted("g-1", KEY), None));
    append_payload(&mut lake, &change_of(KEY, "RevokeGrant", "e-6", &json!({"grantId": "g-2"}), Some("AccessDenied")));
    lake.flush().await.unwrap();
    append_payload(&mut lake, &change_of(KEY, "RevokeGrant", "e-7", &json!({"grantId": "g-2"}), None));
    append_payload(&mut lake, &change_of(KEY, "RetireGrant", "e-8", &json!({"grantId": "g-3"}), None));
    append_payload(&mut lake, &change_of(OTHER, "RetireGrant", "e-9", &json!({"grantId": "g-3"}), None));
    let live = "SELECT grant_id FROM grants WHERE current ORDER BY grant_id";
    let some = |values: &[&str]| values.iter().map(|value| Some((*value).to_owned())).collect::<Vec<_>>();
    assert_eq!(texts(&lake, live).await, some(&["g-1", "g-4"]));
    assert_eq!(
        texts(
            &lake,
            "SELECT concat_ws(' ', grant_id, ended_event_name, ended_event_id, event_id) FROM grants WHERE NOT current"
        )
        .await,
        some(&["g-2 RevokeGrant e-7 e-2", "g-3 RetireGrant e-9 e-3"])
    );
    assert_eq!(
        texts(&lake, "SELECT concat(operations, constraints, created_by) FROM grants WHERE grant_id = 'g-1'").await,
        some(&[r#"["Decrypt"]{"encryptionContextSubset":{"tenant":"7"}}arn:aws:iam::111122223333:user/admin"#])
    );
    // A key's deletion ends what is left, and the key is known as deleted; from the tail and from files alike.
    let image = json!({"before": {"keyArn": OTHER, "keyId": "k-2", "keyState": "PendingDeletion"}});
    append_payload(&mut lake, &change_of(OTHER, "DeleteKey", "e-10", &image, None));
    for _ in 0..2 {
        assert_eq!(texts(&lake, live).await, some(&["g-1"]));
        assert_eq!(
            texts(&lake, "SELECT ended_event_name FROM grants WHERE grant_id = 'g-4'").await,
            some(&["DeleteKey"])
        );
        assert_eq!(texts(&lake, "SELECT key_state FROM keys WHERE key_id = 'k-2'").await, some(&["Deleted"]));
        lake.flush().await.unwrap();
        drop(lake);
        (lake, _) = open(dir.path());
    }
}

fn change_of(key: &str, name: &str, id: &str, additional: &serde_json::Value, error: Option<&str>) -> String {
    let mut event: serde_json::Value = serde_json::from_str(&change(name, id, additional, error)).unwrap();
    event["resources"] = json!([{"ARN": key, "accountId": "111122223333", "type": "AWS::KMS::Key"}]);
    event.to_string()
}
