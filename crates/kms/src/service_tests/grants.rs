//! Grants through the wire: whom they let in, how they end, what the log says of them.

use super::*;
use crate::grant::{Grant, GrantId, GrantPlace};
use crate::key::{AccountId, KeyId};
use crate::policy::{GrantConstraints, GrantOperations, GrantTerms};
use crate::registry::Publish;

const CREATE: &str = "TrentService.CreateGrant";
const LIST: &str = "TrentService.ListGrants";
const LIST_RETIRABLE: &str = "TrentService.ListRetirableGrants";
const RETIRE: &str = "TrentService.RetireGrant";
const REVOKE: &str = "TrentService.RevokeGrant";
const DECRYPT: &str = "TrentService.Decrypt";

pub(super) fn arn(account: &str, name: &str) -> String {
    format!("arn:aws:iam::{account}:user/{name}")
}

fn powerless() -> String {
    arn(ACCOUNT, "powerless")
}

/// A grant to the user without policies.
async fn grant(client: &Client, key: &str, more: Value) -> (String, String) {
    let mut body = json!({"KeyId": key, "GranteePrincipal": powerless(), "Operations": ["Decrypt", "DescribeKey"]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let answer = ok(client, CREATE, body).await.body;
    let text = |name: &str| answer[name].as_str().unwrap().to_owned();
    (text("GrantId"), text("GrantToken"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_lets_its_grantee_in_until_it_is_revoked() {
    let mut fixture = Fixture::new().await;
    let (admin, powerless_) = (fixture.admin(), fixture.user("powerless"));
    let key = create_key(&admin).await;
    let blob = encrypt(&admin, &key, b"x", json!({"app": "a", "env": "b"})).await;
    let decrypt = json!({"CiphertextBlob": blob, "EncryptionContext": {"app": "a", "env": "b"}});
    assert_eq!(refused(&powerless_, DECRYPT, decrypt.clone()).await.0, "AccessDeniedException");

    let body = json!({
        "KeyId": key, "GranteePrincipal": powerless(), "Operations": ["DescribeKey", "Decrypt"], "Name": "reader",
        "Constraints": {"EncryptionContextSubset": {"APP": "a"}}, "RetiringPrincipal": arn(OTHER, "neighbour"),
    });
    let made = ok(&admin, CREATE, body.clone()).await;
    let id = made.body["GrantId"].as_str().unwrap().to_owned();
    let token = made.body["GrantToken"].as_str().unwrap().to_owned();
    let event = fixture.event(made.seq.unwrap());
    let image = json!({
        "grantId": id, "targetKeyArn": key, "name": "reader", "granteePrincipal": powerless(),
        "retiringPrincipal": arn(OTHER, "neighbour"), "issuingAccount": ACCOUNT, "operations": ["Decrypt", "DescribeKey"],
        "constraints": {"encryptionContextSubset": {"APP": "a"}},
        "createdAt": event.additional_event_data.after.as_ref().unwrap()["createdAt"],
    });
    assert_eq!(event.additional_event_data.after.as_ref(), Some(&image));
    assert!(event.additional_event_data.before.is_none() && event.additional_event_data.mutation.is_some());
    assert_eq!(event.response_elements, Some(json!({"grantId": id, "keyId": key})));
    assert_eq!(event.request_parameters.unwrap()["constraints"], json!({"encryptionContextSubset": {"APP": "a"}}));
    assert!(!event.read_only);

    let answer = ok(&powerless_, DECRYPT, decrypt.clone()).await;
    let decided_by = fixture.event(answer.seq.unwrap()).additional_event_data.decided_by;
    assert_eq!(decided_by, Some(format!("Grant/{id}")));
    let mut with_token = decrypt.clone();
    with_token["GrantTokens"] = json!([token]);
    ok(&powerless_, DECRYPT, with_token.clone()).await;
    ok(&powerless_, "TrentService.DescribeKey", json!({"KeyId": key})).await;
    let other = encrypt(&admin, &key, b"x", json!({"app": "A"})).await;
    let other = json!({"CiphertextBlob": other, "EncryptionContext": {"app": "A"}});
    for (target, body) in [
        (DECRYPT, other),
        ("TrentService.Encrypt", json!({"KeyId": key, "Plaintext": "eA=="})),
        (LIST, json!({"KeyId": key})),
    ] {
        assert_eq!(refused(&powerless_, target, body).await.0, "AccessDeniedException", "{target}");
    }

    // The same words give the same grant and another token; other words another grant.
    let again = ok(&admin, CREATE, body.clone()).await;
    assert_eq!(again.body["GrantId"], id);
    assert_ne!(again.body["GrantToken"], token);
    let event = fixture.event(again.seq.unwrap()).additional_event_data;
    assert_eq!((event.before.as_ref(), event.after.as_ref()), (Some(&image), Some(&image)));
    let mut changed = body.clone();
    changed["Operations"] = json!(["Decrypt"]);
    let narrower = ok(&admin, CREATE, changed).await.body;
    assert_ne!(narrower["GrantId"], id);
    ok(&admin, REVOKE, json!({"KeyId": key, "GrantId": narrower["GrantId"]})).await;

    fixture.stop().await;
    fixture.start().await.unwrap();
    let (admin, powerless_) = (fixture.admin(), fixture.user("powerless"));
    ok(&powerless_, DECRYPT, with_token.clone()).await;
    let listed = ok(&admin, LIST, json!({"KeyId": key})).await.body;
    let listed = listed["Grants"].as_array().unwrap().clone();
    let expected = json!([{
        "KeyId": key, "GrantId": id, "Name": "reader", "CreationDate": listed[0]["CreationDate"],
        "GranteePrincipal": powerless(), "RetiringPrincipal": arn(OTHER, "neighbour"),
        "IssuingAccount": format!("arn:aws:iam::{ACCOUNT}:root"), "Operations": ["Decrypt", "DescribeKey"],
        "Constraints": {"EncryptionContextSubset": {"APP": "a"}},
    }]);
    assert_eq!(json!(listed), expected);

    let dry = json!({"KeyId": key, "GrantId": id, "DryRun": true});
    assert_eq!(refused(&admin, REVOKE, dry).await.0, "DryRunOperationException");
    let revoked = ok(&admin, REVOKE, json!({"KeyId": key, "GrantId": id})).await;
    let event = fixture.event(revoked.seq.unwrap()).additional_event_data;
    assert_eq!((event.before, event.after, event.more["grantId"].as_str()), (Some(image), None, Some(id.as_str())));
    assert_eq!(refused(&powerless_, DECRYPT, decrypt).await.0, "AccessDeniedException");
    assert_eq!(refused(&powerless_, DECRYPT, with_token).await.0, "InvalidGrantTokenException");
    let gone = json!({"KeyId": key, "GrantId": id});
    assert_eq!(refused(&admin, REVOKE, gone).await.0, "InvalidGrantIdException");

    fixture.stop().await;
    for (_, payload) in fixture.records() {
        assert!(!String::from_utf8(payload).unwrap().contains(&token));
    }
    let store = std::fs::read(fixture.dir().join("kms.db")).unwrap();
    assert!(!store.windows(token.len()).any(|window| window == token.as_bytes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_ends_by_whom_it_names_and_nobody_else() {
    let fixture = Fixture::new().await;
    let (admin, powerless_, neighbour) = (fixture.admin(), fixture.user("powerless"), fixture.user("neighbour"));
    let key = create_key(&admin).await;
    // The grantee, if the grant says so.
    let (id, _) = grant(&admin, &key, json!({})).await;
    let named = json!({"KeyId": key, "GrantId": id});
    assert_eq!(refused(&powerless_, RETIRE, named.clone()).await.0, "AccessDeniedException");
    assert_eq!(refused(&neighbour, RETIRE, named.clone()).await.0, "AccessDeniedException");
    ok(&admin, RETIRE, named).await;
    let (id, _) = grant(&admin, &key, json!({"Operations": ["Decrypt", "RetireGrant"]})).await;
    let retired = ok(&powerless_, RETIRE, json!({"KeyId": key, "GrantId": id})).await;
    let event = fixture.event(retired.seq.unwrap());
    assert_eq!(event.additional_event_data.decided_by, Some(format!("Grant/{id}")));
    assert_eq!(event.additional_event_data.more["grantId"], json!(id));
    assert_eq!(event.response_elements, Some(json!({"keyId": key})));
    // The retiring principal, from another account and by token.
    let retiring = json!({"RetiringPrincipal": arn(OTHER, "neighbour")});
    let (id, token) = grant(&admin, &key, retiring).await;
    let listed = ok(&neighbour, LIST_RETIRABLE, json!({"RetiringPrincipal": arn(OTHER, "neighbour")})).await.body;
    assert_eq!((&listed["Grants"][0]["GrantId"], &listed["Truncated"]), (&json!(id), &json!(false)));
    assert_eq!(refused(&powerless_, RETIRE, json!({"GrantToken": token})).await.0, "AccessDeniedException");
    let dry = json!({"GrantToken": token, "DryRun": true});
    assert_eq!(refused(&neighbour, RETIRE, dry).await.0, "DryRunOperationException");
    let retired = ok(&neighbour, RETIRE, json!({"GrantToken": token})).await;
    let event = fixture.event(retired.seq.unwrap());
    assert_eq!(event.request_parameters, Some(json!({"keyId": key})));
    assert_eq!(refused(&neighbour, RETIRE, json!({"GrantToken": token})).await.0, "InvalidGrantTokenException");
    // Another account learns nothing about which grants there are; the own one does.
    let named = json!({"KeyId": key, "GrantId": id});
    assert_eq!(refused(&neighbour, RETIRE, named.clone()).await.0, "AccessDeniedException");
    assert_eq!(refused(&admin, RETIRE, named).await.0, "InvalidGrantIdException");
    for body in [json!({}), json!({"KeyId": key}), json!({"KeyId": key, "GrantId": id, "GrantToken": token})] {
        assert_eq!(refused(&admin, RETIRE, body).await.0, "ValidationException");
    }
    let foreign = json!({"RetiringPrincipal": arn(ACCOUNT, "powerless")});
    assert_eq!(refused(&neighbour, LIST_RETIRABLE, foreign).await.0, "AccessDeniedException");
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_reach_other_accounts_and_grantees_can_grant_no_more_than_they_have() {
    let fixture = Fixture::new().await;
    let (admin, powerless_, neighbour) = (fixture.admin(), fixture.user("powerless"), fixture.user("neighbour"));
    let key = create_key(&admin).await;
    let blob = encrypt(&admin, &key, b"x", json!({"a": "1", "b": "2"})).await;
    let decrypt = json!({"CiphertextBlob": blob, "EncryptionContext": {"a": "1", "b": "2"}});
    let parent = json!({
        "Operations": ["Decrypt", "CreateGrant"], "Constraints": {"EncryptionContextSubset": {"a": "1"}},
    });
    let (parent, _) = grant(&admin, &key, parent).await;
    let child = |operations: Value, constraints: Value| {
        let grantee = arn(OTHER, "neighbour");
        json!({"KeyId": key, "GranteePrincipal": grantee, "Operations": operations, "Constraints": constraints})
    };
    assert_eq!(refused(&neighbour, DECRYPT, decrypt.clone()).await.0, "AccessDeniedException");
    for wider in [
        child(json!(["Decrypt"]), json!({})),
        child(json!(["Decrypt"]), json!({"EncryptionContextSubset": {"b": "2"}})),
        child(json!(["Decrypt", "Encrypt"]), json!({"EncryptionContextSubset": {"a": "1"}})),
    ] {
        assert_eq!(refused(&powerless_, CREATE, wider).await.0, "AccessDeniedException");
    }
    let narrower = child(json!(["Decrypt"]), json!({"EncryptionContextSubset": {"A": "1", "b": "2"}}));
    let made = ok(&powerless_, CREATE, narrower).await;
    let event = fixture.event(made.seq.unwrap());
    assert_eq!(event.additional_event_data.decided_by, Some(format!("Grant/{parent}")));
    let used = ok(&neighbour, DECRYPT, decrypt).await;
    let event = fixture.event(used.seq.unwrap());
    assert_eq!(event.recipient_account_id, ACCOUNT);
    assert_eq!(
        event.additional_event_data.decided_by,
        Some(format!("Grant/{}", made.body["GrantId"].as_str().unwrap()))
    );
    assert_eq!(refused(&neighbour, "TrentService.DisableKey", json!({"KeyId": key})).await.0, "AccessDeniedException");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_wrong_with_a_grant_is_refused_in_awss_words() {
    let fixture = Fixture::new().await;
    let admin = fixture.admin();
    let key = create_key(&admin).await;
    let grantee = powerless();
    let context = |pairs: Value| json!({"Constraints": {"EncryptionContextEquals": pairs}});
    let nine: BTreeMap<String, String> = (0..9).map(|index| (format!("k{index}"), String::new())).collect();
    for (more, code) in [
        (json!({"KeyId": null}), "ValidationException"),
        (json!({"KeyId": "alias/x"}), "NotFoundException"),
        (json!({"KeyId": "1234abcd-12ab-34cd-56ef-1234567890ab"}), "NotFoundException"),
        (json!({"GranteePrincipal": null}), "ValidationException"),
        (json!({"GranteePrincipal": "a b"}), "ValidationException"),
        (json!({"GranteePrincipal": "x".repeat(300)}), "ValidationException"),
        (json!({"GranteePrincipal": "AIDAEXAMPLE"}), "InvalidArnException"),
        (json!({"GranteePrincipal": arn(ACCOUNT, "nobody")}), "InvalidArnException"),
        (json!({"GranteePrincipal": format!("arn:aws:iam::{ACCOUNT}:keytrail/responder")}), "InvalidArnException"),
        (json!({"RetiringPrincipal": arn(ACCOUNT, "nobody")}), "InvalidArnException"),
        (json!({"GranteeServicePrincipal": "ec2.amazonaws.com"}), "UnsupportedOperationException"),
        (json!({"Operations": null}), "ValidationException"),
        (json!({"Operations": []}), "ValidationException"),
        (json!({"Operations": ["Decrypt", "PutKeyPolicy"]}), "ValidationException"),
        (json!({"Operations": ["Sign"]}), "ValidationException"),
        (json!({"Operations": "Decrypt"}), "SerializationException"),
        (json!({"Name": ""}), "ValidationException"),
        (json!({"Name": "a b"}), "ValidationException"),
        (json!({"Name": "a".repeat(257)}), "ValidationException"),
        (context(json!({})), "ValidationException"),
        (context(json!(nine)), "ValidationException"),
        (context(json!({"a": "x".repeat(385)})), "ValidationException"),
        (context(json!({"a": "1", "A": "1"})), "ValidationException"),
        (context(json!({"a": 1})), "SerializationException"),
        (json!({"Constraints": {"EncryptionContextEqual": {"a": "1"}}}), "SerializationException"),
        (
            json!({"Constraints": {"EncryptionContextEquals": {"a": "1"}, "EncryptionContextSubset": {"a": "1"}}}),
            "ValidationException",
        ),
        (json!({"Constraints": {"SourceArn": "arn:aws:ec2:eu-central-1::volume/x"}}), "ValidationException"),
        (json!({"GrantTokens": ["made up"]}), "InvalidGrantTokenException"),
        (json!({"GrantTokens": vec!["x"; 11]}), "ValidationException"),
        (json!({"DryRun": true}), "DryRunOperationException"),
    ] {
        let mut body = json!({"KeyId": key, "GranteePrincipal": grantee, "Operations": ["Decrypt"]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(refused(&admin, CREATE, body).await.0, code, "{more}");
    }
    for (target, body, code) in [
        (LIST, json!({}), "ValidationException"),
        (LIST, json!({"KeyId": key, "Limit": 101}), "ValidationException"),
        (LIST, json!({"KeyId": key, "Marker": "made up"}), "InvalidMarkerException"),
        (LIST, json!({"KeyId": key, "GrantId": "x"}), "InvalidGrantIdException"),
        (LIST, json!({"KeyId": key, "GranteeServicePrincipal": "ec2.amazonaws.com"}), "ValidationException"),
        (LIST_RETIRABLE, json!({}), "ValidationException"),
        (LIST_RETIRABLE, json!({"RetiringPrincipal": powerless(), "Marker": "eA=="}), "InvalidMarkerException"),
        (REVOKE, json!({"KeyId": key}), "ValidationException"),
        (REVOKE, json!({"KeyId": key, "GrantId": "x"}), "InvalidGrantIdException"),
        (RETIRE, json!({"GrantToken": "made up"}), "InvalidGrantTokenException"),
    ] {
        assert_eq!(refused(&admin, target, body.clone()).await.0, code, "{target} {body}");
    }
    let nobody = fixture.user("powerless");
    for (target, body) in [
        (CREATE, json!({"KeyId": key, "GranteePrincipal": grantee, "Operations": ["Decrypt"]})),
        (LIST, json!({"KeyId": key})),
        (LIST_RETIRABLE, json!({"RetiringPrincipal": grantee})),
        (REVOKE, json!({"KeyId": key, "GrantId": "0".repeat(64)})),
    ] {
        let (code, seq) = refused(&nobody, target, body).await;
        assert_eq!(code, "AccessDeniedException", "{target}");
        assert_eq!(fixture.event(seq).additional_event_data.decided_by.as_deref(), Some("Default"), "{target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_follow_the_states_of_their_key() {
    let clock = Arc::new(FakeClock::new(SystemClock.now_us()));
    let fixture = Fixture::with_clock(Arc::<FakeClock>::clone(&clock)).await;
    let admin = fixture.admin();
    let key = create_key(&admin).await;
    let retiring = json!({"RetiringPrincipal": powerless()});
    let (kept, _) = grant(&admin, &key, retiring.clone()).await;
    let named = json!({"KeyId": key});
    for (target, code) in [
        ("TrentService.DisableKey", "DisabledException"),
        ("TrentService.ScheduleKeyDeletion", "KMSInvalidStateException"),
    ] {
        ok(&admin, "TrentService.EnableKey", named.clone()).await;
        let (revoked, _) = grant(&admin, &key, json!({})).await;
        let (retired, token) = grant(&admin, &key, json!({})).await;
        ok(&admin, target, named.clone()).await;
        let body = json!({"KeyId": key, "GranteePrincipal": powerless(), "Operations": ["Decrypt"]});
        assert_eq!(refused(&admin, CREATE, body).await.0, code);
        let listed = ok(&admin, LIST, named.clone()).await.body;
        assert_eq!(listed["Grants"].as_array().unwrap().len(), 3);
        ok(&admin, REVOKE, json!({"KeyId": key, "GrantId": revoked})).await;
        ok(&admin, RETIRE, json!({"GrantToken": token})).await;
        assert_eq!(refused(&admin, LIST, json!({"KeyId": key, "GrantId": retired})).await.0, "InvalidGrantIdException");
    }
    let retirable = json!({"RetiringPrincipal": powerless()});
    let listed = ok(&admin, LIST_RETIRABLE, retirable.clone()).await.body;
    assert_eq!(listed["Grants"][0]["GrantId"], json!(kept));
    clock.advance(Duration::from_secs(31 * 86_400));
    wait_until(|| fixture.kms.as_ref().unwrap().node().key_count() == 0).await;
    clock.set(SystemClock.now_us());
    let listed = ok(&admin, LIST_RETIRABLE, retirable).await.body;
    assert_eq!(listed, json!({"Grants": [], "Truncated": false}));
    let store = rusqlite::Connection::open(fixture.dir().join("kms.db")).unwrap();
    let left: i64 = store.query_row("SELECT count(*) FROM grants", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_are_listed_in_pages_and_a_key_has_fifty_thousand() {
    let fixture = Fixture::new().await;
    let admin = fixture.admin();
    let key = create_key(&admin).await;
    let mut made = std::collections::BTreeSet::new();
    for index in 0..5 {
        let grantee = if index == 0 { arn(OTHER, "neighbour") } else { powerless() };
        let body = json!({"GranteePrincipal": grantee, "RetiringPrincipal": powerless()});
        made.insert(grant(&admin, &key, body).await.0);
    }
    for (target, filter, want) in [
        (LIST, json!({"KeyId": key}), 5),
        (LIST, json!({"KeyId": key, "GranteePrincipal": powerless()}), 4),
        (LIST_RETIRABLE, json!({"RetiringPrincipal": powerless()}), 5),
    ] {
        let (mut found, mut marker) = (Vec::new(), Value::Null);
        loop {
            let mut body = filter.clone();
            body["Limit"] = 2.into();
            if !marker.is_null() {
                body["Marker"] = marker;
            }
            let page = ok(&admin, target, body).await.body;
            let grants = page["Grants"].as_array().unwrap();
            found.extend(grants.iter().map(|grant| grant["GrantId"].as_str().unwrap().to_owned()));
            marker = page["NextMarker"].clone();
            assert_eq!(page["Truncated"], json!(!marker.is_null()));
            if marker.is_null() {
                break;
            }
        }
        assert!(found.is_sorted() && found.iter().all(|id| made.contains(id)), "{target}");
        assert_eq!(found.len(), want, "{target}");
    }

    let node = fixture.kms.as_ref().unwrap().node();
    let account = AccountId::parse(ACCOUNT).unwrap();
    let id = KeyId::parse(key.rsplit('/').next().unwrap(), node.region).unwrap();
    let fillers = (0..49_995_u32).map(|index| {
        let mut bytes = [0xff; 32];
        bytes[..4].copy_from_slice(&index.to_be_bytes());
        let operations = GrantOperations::parse(["Decrypt"]).unwrap();
        Publish::Grant(Arc::new(Grant {
            place: GrantPlace { account, key: id, id: GrantId(bytes) },
            name: None,
            grantee: format!("arn:aws:iam::{ACCOUNT}:user/{index}").into(),
            retiring: None,
            issuing_account: account,
            terms: GrantTerms { operations, constraints: GrantConstraints::default() },
            created_us: 0,
        }))
    });
    node.registry.publish(fillers);
    let body = json!({"KeyId": key, "GranteePrincipal": powerless(), "Operations": ["Decrypt"]});
    assert_eq!(refused(&admin, CREATE, body).await.0, "LimitExceededException");
    let one = made.first().unwrap();
    ok(&admin, REVOKE, json!({"KeyId": key, "GrantId": one})).await;
    grant(&admin, &key, json!({})).await;
}

/// The invariant of generations, for grants: replayed by seq, the log's grants explain each of its decisions.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn replaying_the_log_gives_each_decision_that_hung_on_a_grant() {
    let mut fixture = Fixture::new().await;
    let admin = fixture.admin();
    let key = create_key(&admin).await;
    let blob = encrypt(&admin, &key, b"x", Value::Null).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let (client, body) = (fixture.user("powerless"), json!({"CiphertextBlob": blob}));
        tasks.spawn(async move {
            for _ in 0..40 {
                // Refusals are the point.
                let _ = client.call(DECRYPT, body.clone(), None).await;
            }
        });
    }
    let (client, named) = (fixture.admin(), key.clone());
    tasks.spawn(async move {
        for _ in 0..20 {
            let (id, _) = grant(&client, &named, json!({})).await;
            ok(&client, REVOKE, json!({"KeyId": named, "GrantId": id})).await;
        }
    });
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    fixture.stop().await;
    let (mut living, mut decided) = (None, [0, 0]);
    for (leaf, event) in fixture.events() {
        let additional = event.additional_event_data;
        match event.event_name.as_str() {
            "CreateGrant" => living = additional.after.map(|image| image["grantId"].as_str().unwrap().to_owned()),
            "RevokeGrant" => living = None,
            "Decrypt" => {
                let wanted = living.as_ref().map_or("Default".to_owned(), |id| format!("Grant/{id}"));
                assert_eq!(additional.decided_by, Some(wanted), "seq {}", leaf.seq);
                assert_eq!(event.error_code.is_none(), living.is_some(), "seq {}", leaf.seq);
                decided[usize::from(living.is_some())] += 1;
            }
            _ => {}
        }
    }
    assert_eq!(decided.iter().sum::<usize>(), 240);
}
