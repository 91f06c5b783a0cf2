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

#[tokio::test]
async fn aliases_follow_their_keys() {
    const KEY: &str = "arn:aws:kms:eu-central-1:111122223333:key/k-1";
    const OTHER: &str = "arn:aws:kms:eu-central-1:111122223333:key/k-2";
    let alias = |name: &str, key: &str| {
        let arn = format!("arn:aws:kms:eu-central-1:111122223333:alias/{name}");
        json!({"aliasName": format!("alias/{name}"), "aliasArn": arn, "targetKeyArn": key})
    };
    let dir = tempfile::tempdir().unwrap();
    let (mut lake, _) = open(dir.path());
    for (event, name, additional) in [
        ("e-1", "CreateAlias", json!({"after": alias("a", KEY)})),
        ("e-2", "CreateAlias", json!({"after": alias("b", KEY)})),
        ("e-3", "CreateAlias", json!({"after": alias("c", OTHER)})),
        ("e-4", "UpdateAlias", json!({"before": alias("a", KEY), "after": alias("a", OTHER)})),
        ("e-5", "DeleteAlias", json!({"before": alias("c", OTHER)})),
    ] {
        append_payload(&mut lake, &change(name, event, &additional, None));
    }
    let sql = "SELECT concat(alias_name, ' ', key_arn, ' ', event_id, ' ', account, ' ', region) FROM aliases ORDER BY alias_name";
    let row =
        |name: &str, key: &str, event: &str| Some(format!("alias/{name} {key} {event} 111122223333 eu-central-1"));
    assert_eq!(texts(&lake, sql).await, [row("a", OTHER, "e-4"), row("b", KEY, "e-2")]);
    lake.flush().await.unwrap();
    assert_eq!(texts(&lake, sql).await, [row("a", OTHER, "e-4"), row("b", KEY, "e-2")]);
    let service =
        json!({"after": {"keyArn": KEY, "keyId": "k-1"}, "serviceEventDetails": {"aliasName": "alias/aws/s3"}});
    append_payload(&mut lake, &change("CreateKey", "e-6", &service, None));
    let deleted = json!({"before": {"keyArn": OTHER, "keyId": "k-2"}});
    append_payload(&mut lake, &change("DeleteKey", "e-7", &deleted, None));
    assert_eq!(texts(&lake, sql).await, [row("aws/s3", KEY, "e-6"), row("b", KEY, "e-2")]);
}

#[tokio::test]
async fn principals_and_their_policies_come_from_both_sources() {
    let document =
        json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:Decrypt", "Resource": "*"}]});
    let loaded = json!({"identities": {
        "users": [{"accountId": "111122223333", "userName": "app", "arn": "arn:aws:iam::111122223333:user/app", "userId": "AIDA1",
            "groups": ["team"], "policies": [{"policyName": "use"}, {"policyName": "app-0", "policyDocument": document}], "tags": {"t": "1"}}],
        "roles": [], "groups": [{"accountId": "111122223333", "groupName": "team", "policies": []}],
        "policies": [{"accountId": "111122223333", "policyName": "use", "policyDocument": document}],
    }});
    let load = |parameters: &serde_json::Value, id: &str| {
        let mut event: serde_json::Value =
            serde_json::from_str(&change("LoadIdentities", id, &json!({}), None)).unwrap();
        event["requestParameters"] = parameters.clone();
        event.to_string()
    };
    let dir = tempfile::tempdir().unwrap();
    let (mut lake, _) = open(dir.path());
    append_payload(&mut lake, &load(&loaded, "e-1"));
    let role = |attached: &[&str]| {
        json!({"arn": "arn:aws:iam::111122223333:role/reader", "roleName": "reader", "roleId": "AROA1",
        "createdUs": 1_767_614_400_000_000_i64, "attachedPolicies": attached, "inlinePolicies": {"own": document.to_string()}, "tags": {}})
    };
    append_payload(&mut lake, &change("CreateRole", "e-2", &json!({"after": role(&[])}), None));
    append_payload(
        &mut lake,
        &change("AttachRolePolicy", "e-3", &json!({"before": role(&[]), "after": role(&["use"])}), None),
    );
    let sql =
        "SELECT concat(kind, ' ', principal_arn, ' ', source, ' ', event_id) FROM principals ORDER BY principal_arn";
    let expected = [
        Some("group arn:aws:iam::111122223333:group/team identities.toml e-1".to_owned()),
        Some("role arn:aws:iam::111122223333:role/reader IAM e-3".to_owned()),
        Some("user arn:aws:iam::111122223333:user/app identities.toml e-1".to_owned()),
    ];
    assert_eq!(texts(&lake, sql).await, expected);
    lake.flush().await.unwrap();
    drop(lake);
    let (mut lake, _) = open(dir.path());
    assert_eq!(texts(&lake, sql).await, expected);
    let broad = "SELECT concat(principal_arn, ' ', policy_name, ' ', managed) FROM identity_policies
        WHERE policy_on_all_keys(policy, 'kms:Decrypt', account) ORDER BY principal_arn, policy_name";
    assert_eq!(
        texts(&lake, broad).await,
        [
            Some("arn:aws:iam::111122223333:role/reader own false".to_owned()),
            Some("arn:aws:iam::111122223333:role/reader use true".to_owned()),
            Some("arn:aws:iam::111122223333:user/app app-0 false".to_owned()),
            Some("arn:aws:iam::111122223333:user/app use true".to_owned()),
        ]
    );
    append_payload(&mut lake, &change("DeleteRole", "e-4", &json!({"before": role(&["use"])}), None));
    append_payload(&mut lake, &load(&json!({"identities": {"users": [], "policies": []}}), "e-5"));
    assert_eq!(number(&lake, "SELECT count(*) FROM principals").await, 0);
}

#[tokio::test]
async fn a_key_is_seen_as_it_was_whatever_the_caller_typed() {
    const ARN: &str = "arn:aws:kms:eu-central-1:111122223333:key/k-1";
    let image =
        |state: &str| json!({"keyArn": ARN, "keyId": "k-1", "account": "111122223333", "keyState": state, "tags": {}});
    let with_key = |name: &str, id: &str, key_id: &str, additional: &serde_json::Value| {
        let mut event: serde_json::Value = serde_json::from_str(&change(name, id, additional, None)).unwrap();
        event["resources"] = json!([
            {"ARN": "arn:aws:kms:eu-central-1:111122223333:alias/app", "type": "AWS::KMS::Alias"},
            {"ARN": ARN, "accountId": "111122223333", "type": "AWS::KMS::Key"}
        ]);
        event["requestParameters"] = json!({ "keyId": key_id });
        event.to_string()
    };
    let dir = tempfile::tempdir().unwrap();
    let (mut lake, _) = open(dir.path());
    append_payload(
        &mut lake,
        &with_key("CreateKey", "e-1", "", &json!({"after": image("Enabled"), "policy": "{\"v\":1}"})),
    );
    append_payload(&mut lake, &with_key("Decrypt", "e-2", "alias/app", &json!({})));
    append_payload(&mut lake, &with_key("DisableKey", "e-3", "k-1", &json!({"after": image("Disabled")})));
    // The key is its ARN, however it was named.
    assert_eq!(number(&lake, &format!("SELECT count(*) FROM events WHERE key_arn = '{ARN}'")).await, 3);
    let times = texts(&lake, "SELECT CAST(event_time AS VARCHAR) FROM events ORDER BY seq").await;
    let state = |at: usize| {
        format!(
            "SELECT concat(key_state, ' ', policy, ' ', last_used_at IS NOT NULL) FROM key_at('{ARN}', '{}')",
            times[at].as_ref().unwrap()
        )
    };
    assert_eq!(texts(&lake, &state(0)).await, [Some("Enabled {\"v\":1} false".to_owned())]);
    assert_eq!(texts(&lake, &state(1)).await, [Some("Enabled {\"v\":1} true".to_owned())]);
    assert_eq!(texts(&lake, &state(2)).await, [Some("Disabled {\"v\":1} true".to_owned())]);
    lake.flush().await.unwrap();
    assert_eq!(texts(&lake, &state(1)).await, [Some("Enabled {\"v\":1} true".to_owned())]);
    assert_eq!(number(&lake, &format!("SELECT count(*) FROM key_at('{ARN}', '2020-01-01T00:00:00Z')")).await, 0);
    assert_eq!(number(&lake, "SELECT count(*) FROM key_at('nothing', '2030-01-01')").await, 0);
    let ocsf = "SELECT concat(class_uid, ' ', type_uid, ' ', activity_id, ' ', json_get_str(event, 'api', 'operation')) FROM ocsf WHERE api_operation = 'DisableKey'";
    assert_eq!(texts(&lake, ocsf).await, [Some("6003 600303 3 DisableKey".to_owned())]);
}
