//! The overlay as callers meet it: quarantines of one key, required second factors, withdrawn access keys, restored
//! aliases; each with its action id, its events, after a restart, and replayed by a plain model of what the log says.

use super::sts::{Temporary, kms, sts, temporary};
use super::*;
use crate::auth::totp::Seed;
use std::collections::BTreeSet;

const ADMINISTRATOR: &str = "arn:aws:iam::123456789012:user/administrator";
const SEED: &str = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP";
const PHONE: &str = "arn:aws:iam::123456789012:mfa/phone";

/// A node whose administrator has a second factor, on a clock that the test moves: slow at first, so that clients, who sign
/// by the real one, stay within five minutes of it.
async fn with_phone() -> (Fixture, Arc<FakeClock>) {
    let clock = Arc::new(FakeClock::new(SystemClock.now_us() - 200_000_000));
    let mut fixture = Fixture::with_clock(Arc::<FakeClock>::clone(&clock)).await;
    fixture.stop().await;
    fixture.append_identities(&format!(
        "[[mfa_device]]\naccount = \"{ACCOUNT}\"\nname = \"phone\"\nuser = \"administrator\"\nseed = \"{SEED}\"\n"
    ));
    fixture.start().await.unwrap();
    (fixture, clock)
}

/// A session of the administrator, opened with a code of this moment.
async fn with_code(fixture: &Fixture) -> Temporary {
    let admin = Credentials::read(&fixture.dir().join("credentials"), "default").unwrap();
    let seed = Seed::from_base32(SEED).unwrap();
    let code = seed.code_at(fixture.clock.now_us());
    let pairs = [("Action", "GetSessionToken"), ("SerialNumber", PHONE), ("TokenCode", code.as_str())];
    let (status, xml) = sts(fixture, &admin, None, &pairs).await;
    assert_eq!(status, 200, "{xml}");
    temporary(&xml)
}

fn decided_by(fixture: &Fixture, seq: u64) -> String {
    fixture.event(seq).additional_event_data.decided_by.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantine_on_one_key_leaves_the_others_alone() {
    let mut fixture = Fixture::new().await;
    let (admin, responder) = (fixture.admin(), fixture.responder());
    let (key, other) = (create_key(&admin).await, create_key(&admin).await);
    let put = json!({"PrincipalArn": ADMINISTRATOR, "KeyId": key, "TtlSeconds": 600, "Reason": "test"});
    let answer = responder.call("KeytrailService.PutQuarantine", put.clone(), Some("q-1")).await.unwrap();
    assert_eq!(answer.body["KeyArn"], key);
    let event = fixture.event(answer.seq.unwrap());
    assert_eq!(event.resources[0].arn, key);
    let image = event.additional_event_data.after.unwrap();
    assert_eq!(image["targetKeyArn"], key);
    assert!(image.get("keyArn").is_none(), "a key's own image is told by that");
    let again = responder.call("KeytrailService.PutQuarantine", put, Some("q-1")).await.unwrap();
    let repeat = fixture.event(again.seq.unwrap()).additional_event_data;
    assert!(repeat.repeat_of.is_some() && repeat.after.is_none());
    let reused = json!({"PrincipalArn": ADMINISTRATOR, "KeyId": other, "TtlSeconds": 600, "Reason": "test"});
    let reused = responder.call("KeytrailService.PutQuarantine", reused, Some("q-1")).await.unwrap_err();
    assert_eq!(reused.code(), Some("ValidationException"));

    fixture.stop().await;
    fixture.start().await.unwrap();
    let (admin, responder) = (fixture.admin(), fixture.responder());
    for (target, more) in [
        ("TrentService.GenerateDataKey", json!({"KeySpec": "AES_256"})),
        ("TrentService.DisableKey", json!({})),
        ("TrentService.TagResource", json!({"Tags": [{"TagKey": "a", "TagValue": "b"}]})),
    ] {
        let mut body = more.clone();
        body["KeyId"] = key.as_str().into();
        let (code, seq) = refused(&admin, target, body).await;
        assert_eq!(code, "AccessDeniedException", "{target}");
        assert!(decided_by(&fixture, seq).starts_with("Quarantine/"), "{target}");
        let mut elsewhere = more;
        elsewhere["KeyId"] = other.as_str().into();
        ok(&admin, target, elsewhere).await;
    }
    ok(&admin, "TrentService.DescribeKey", json!({"KeyId": key})).await;
    ok(&admin, "TrentService.CreateKey", json!({})).await;
    let alias = json!({"AliasName": "alias/away", "TargetKeyId": key});
    assert_eq!(refused(&admin, "TrentService.CreateAlias", alias).await.0, "AccessDeniedException");
    let listed = ok(&admin, "KeytrailService.ListQuarantines", json!({})).await.body;
    assert_eq!(listed["Quarantines"][0]["KeyArn"], key);

    // Whoever is stopped on a key lifts nothing; and a lift is of one scope.
    let lift = json!({"PrincipalArn": ADMINISTRATOR, "KeyId": key});
    assert_eq!(refused(&admin, "KeytrailService.LiftQuarantine", lift.clone()).await.0, "AccessDeniedException");
    let everywhere = json!({"PrincipalArn": ADMINISTRATOR});
    assert_eq!(refused(&responder, "KeytrailService.LiftQuarantine", everywhere).await.0, "NotFoundException");
    let answer = ok(&responder, "KeytrailService.LiftQuarantine", lift).await;
    assert_eq!(fixture.event(answer.seq.unwrap()).response_elements.unwrap()["targetKeyArn"], key);
    ok(&admin, "TrentService.GenerateDataKey", json!({"KeyId": key, "KeySpec": "AES_256"})).await;
    let gone = json!({"PrincipalArn": ADMINISTRATOR, "TtlSeconds": 600,
        "KeyId": "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"});
    assert_eq!(refused(&responder, "KeytrailService.PutQuarantine", gone).await.0, "NotFoundException");
    let abroad = json!({"PrincipalArn": ADMINISTRATOR, "TtlSeconds": 600, "KeyId": key});
    let neighbour = fixture.user("neighbour");
    assert_eq!(refused(&neighbour, "KeytrailService.PutQuarantine", abroad).await.0, "ValidationException");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_wants_a_second_factor_is_refused_without_a_fresh_one() {
    let (mut fixture, clock) = with_phone().await;
    let (admin, responder) = (fixture.admin(), fixture.responder());
    let key = create_key(&admin).await;
    let blob = encrypt(&admin, &key, b"x", Value::Null).await;
    let policy = ok(&admin, "TrentService.GetKeyPolicy", json!({"KeyId": key})).await.body["Policy"].clone();
    let put_policy = json!({"KeyId": key, "Policy": policy});
    let old = with_code(&fixture).await;
    let actions = json!(["PutKeyPolicy", "ScheduleKeyDeletion", "PutKeyPolicy"]);
    let put = json!({"KeyId": key, "Actions": actions, "TtlSeconds": 3_600, "Reason": "test"});
    for wrong in [
        json!({"KeyId": key, "Actions": ["Decrypt"], "TtlSeconds": 600}),
        json!({"KeyId": key, "Actions": [], "TtlSeconds": 600}),
        json!({"KeyId": key, "AccountId": ACCOUNT, "Actions": ["DisableKey"], "TtlSeconds": 600}),
        json!({"Actions": ["DisableKey"], "TtlSeconds": 600}),
        json!({"KeyId": key, "Actions": ["DisableKey"], "TtlSeconds": 1}),
    ] {
        assert_eq!(refused(&responder, "KeytrailService.PutMfaRequirement", wrong).await.0, "ValidationException");
    }
    let answer = responder.call("KeytrailService.PutMfaRequirement", put.clone(), Some("m-1")).await.unwrap();
    let event = fixture.event(answer.seq.unwrap());
    let image = event.additional_event_data.after.unwrap();
    assert_eq!((&image["onArn"], &image["actions"]), (&json!(key), &json!(["PutKeyPolicy", "ScheduleKeyDeletion"])));
    let less = json!({"KeyId": key, "Actions": ["PutKeyPolicy"], "TtlSeconds": 60});
    let kept = ok(&responder, "KeytrailService.PutMfaRequirement", less).await.body;
    assert_eq!((&kept["ExpiresAt"], &kept["Actions"]), (&answer.body["ExpiresAt"], &answer.body["Actions"]));
    assert_eq!((&kept["Kept"], &kept["Reason"]), (&json!(true), &json!("test")), "it only adds");
    let again = responder.call("KeytrailService.PutMfaRequirement", put, Some("m-1")).await.unwrap();
    assert_eq!(fixture.event(again.seq.unwrap()).additional_event_data.repeat_of, Some(event.event_id.clone()));
    fixture.stop().await;
    fixture.start().await.unwrap();
    let (admin, responder) = (fixture.admin(), fixture.responder());

    let (code, seq) = refused(&admin, "TrentService.PutKeyPolicy", put_policy.clone()).await;
    assert_eq!(code, "AccessDeniedException");
    assert_eq!(decided_by(&fixture, seq), format!("MfaRequirement/{}", event.event_id));
    ok(&admin, "TrentService.Decrypt", json!({"CiphertextBlob": blob})).await;
    ok(&admin, "TrentService.TagResource", json!({"KeyId": key, "Tags": [{"TagKey": "a", "TagValue": "b"}]})).await;
    clock.advance(Duration::from_secs(301));
    let late = kms(&fixture, &old, "TrentService.PutKeyPolicy", put_policy.clone()).await;
    assert_eq!(late.as_deref(), Some("AccessDeniedException"), "five minutes, no more");
    let fresh = with_code(&fixture).await;
    assert_eq!(kms(&fixture, &fresh, "TrentService.PutKeyPolicy", put_policy.clone()).await, None);
    ok(&fixture.client("break-glass", "break-glass"), "TrentService.PutKeyPolicy", put_policy.clone()).await;
    let body = json!({"KeyId": key});
    ok(&responder, "TrentService.DisableKey", body.clone()).await;
    ok(&responder, "TrentService.EnableKey", body.clone()).await;

    // Nobody takes the requirement away who does not fulfil it, by lifting or by putting another in its place.
    let weaker = json!({"KeyId": key, "Actions": ["TagResource"], "TtlSeconds": 60});
    assert_eq!(refused(&admin, "KeytrailService.PutMfaRequirement", weaker).await.0, "AccessDeniedException");
    assert_eq!(refused(&admin, "KeytrailService.LiftMfaRequirement", body.clone()).await.0, "AccessDeniedException");
    let listed = ok(&admin, "KeytrailService.ListMfaRequirements", json!({})).await.body;
    assert_eq!(listed["MfaRequirements"][0]["OnArn"], key);
    assert_eq!(kms(&fixture, &fresh, "KeytrailService.LiftMfaRequirement", body.clone()).await, None);
    assert_eq!(refused(&responder, "KeytrailService.LiftMfaRequirement", body).await.0, "NotFoundException");

    // On all keys of an account, until it ends by itself.
    let account = json!({"AccountId": ACCOUNT, "Actions": ["PutKeyPolicy"], "TtlSeconds": 120});
    ok(&responder, "KeytrailService.PutMfaRequirement", account).await;
    assert_eq!(refused(&admin, "TrentService.PutKeyPolicy", put_policy.clone()).await.0, "AccessDeniedException");
    clock.advance(Duration::from_secs(121));
    ok(&admin, "TrentService.PutKeyPolicy", put_policy).await;
    let abroad = json!({"AccountId": ACCOUNT, "Actions": ["PutKeyPolicy"], "TtlSeconds": 120});
    let neighbour = fixture.user("neighbour");
    assert_eq!(refused(&neighbour, "KeytrailService.PutMfaRequirement", abroad).await.0, "ValidationException");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_access_key_is_dead_until_it_is_given_back() {
    let mut fixture = Fixture::new().await;
    iam::done(&fixture, "CreateUser", &[("UserName", "maria")]).await;
    let xml = iam::done(&fixture, "CreateAccessKey", &[("UserName", "maria")]).await;
    let (stored, in_file) = (iam::access_key(&xml), user_credentials("powerless"));
    let identity = [("Action", "GetCallerIdentity")];
    for (index, keys) in [&stored, &in_file].into_iter().enumerate() {
        assert_eq!(sts(&fixture, keys, None, &identity).await.0, 200);
        let id = keys.access_key_id.as_str();
        let (responder, action) = (fixture.responder(), format!("k-{index}"));
        let body = json!({"AccessKeyId": id, "Reason": "test"});
        let first =
            responder.call("KeytrailService.DeactivateAccessKey", body.clone(), Some(action.as_str())).await.unwrap();
        let second =
            responder.call("KeytrailService.DeactivateAccessKey", body.clone(), Some(action.as_str())).await.unwrap();
        assert_eq!(first.body, second.body);
        let event = fixture.event(second.seq.unwrap());
        assert!(event.additional_event_data.repeat_of.is_some());
        fixture.stop().await;
        fixture.start().await.unwrap();
        assert_eq!(sts(&fixture, keys, None, &identity).await.0, 403, "after a restart, too");
        let listed = ok(&fixture.admin(), "KeytrailService.ListDeactivatedAccessKeys", json!({})).await.body;
        assert_eq!(listed["AccessKeys"][0]["AccessKeyId"], id);
        if index == 0 {
            let xml = iam::done(&fixture, "ListAccessKeys", &[("UserName", "maria")]).await;
            assert!(xml.contains("<Status>Inactive</Status>"), "{xml}");
            let pairs = [("UserName", "maria"), ("AccessKeyId", id), ("Status", "Active")];
            assert_eq!(iam::refusal(&fixture, "UpdateAccessKey", &pairs).await.1, "UnmodifiableEntity");
        }
        let responder = fixture.responder();
        ok(&responder, "KeytrailService.ActivateAccessKey", body.clone()).await;
        assert_eq!(sts(&fixture, keys, None, &identity).await.0, 200);
        assert_eq!(refused(&responder, "KeytrailService.ActivateAccessKey", body).await.0, "NotFoundException");
    }
    let responder = fixture.responder();
    let own = Credentials::read(&fixture.dir().join("service-credentials"), "responder").unwrap();
    for (id, code) in [
        (own.access_key_id.as_str(), "NotFoundException"),
        ("AKIANOSUCHKEY00000000", "NotFoundException"),
        ("ASIATEMPORARY00000000", "ValidationException"),
        ("AKIA/../1", "ValidationException"),
    ] {
        let body = json!({"AccessKeyId": id});
        assert_eq!(refused(&responder, "KeytrailService.DeactivateAccessKey", body).await.0, code, "{id}");
    }
    // Another account's administrator neither sees nor touches them.
    let neighbour = fixture.user("neighbour");
    let body = json!({"AccessKeyId": in_file.access_key_id});
    assert_eq!(refused(&neighbour, "KeytrailService.DeactivateAccessKey", body).await.0, "NotFoundException");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_goes_back_only_to_where_it_was_and_only_from_where_it_was_seen() {
    let mut fixture = Fixture::new().await;
    let (admin, responder) = (fixture.admin(), fixture.responder());
    let (first, second) = (create_key(&admin).await, create_key(&admin).await);
    let made = ok(&admin, "TrentService.CreateAlias", json!({"AliasName": "alias/app", "TargetKeyId": first})).await;
    let made = fixture.event(made.seq.unwrap()).event_id;
    let body = json!({"AliasName": "alias/app", "TargetKeyId": second});
    let moved = fixture.event(ok(&admin, "TrentService.UpdateAlias", body).await.seq.unwrap());
    assert_eq!(moved.additional_event_data.more["previousTargetEventId"], made);
    let restore = |current: Option<&str>, wanted: &str| {
        let mut body = json!({"AliasName": "arn:aws:kms:eu-central-1:123456789012:alias/app", "WantedEventId": wanted});
        if let Some(current) = current {
            body["CurrentTargetKeyId"] = current.into();
        }
        body
    };
    let op = "KeytrailService.RestoreAlias";
    assert_eq!(refused(&responder, op, restore(Some(&first), &made)).await.0, "KMSInvalidStateException");
    assert_eq!(refused(&responder, op, restore(None, &made)).await.0, "KMSInvalidStateException");
    assert_eq!(refused(&responder, op, restore(Some(&second), "another")).await.0, "NotFoundException");
    assert_eq!(refused(&admin, op, restore(Some(&second), &made)).await.0, "AccessDeniedException");
    let answer = responder.call(op, restore(Some(&second), &made), Some("a-1")).await.unwrap();
    assert_eq!(answer.body["TargetKeyId"], first);
    let event = fixture.event(answer.seq.unwrap());
    assert_eq!(event.additional_event_data.after.unwrap()["targetKeyArn"], first);
    assert_eq!(event.additional_event_data.more["previousTargetEventId"], moved.event_id);
    let again = responder.call(op, restore(Some(&second), &made), Some("a-1")).await.unwrap();
    assert_eq!(fixture.event(again.seq.unwrap()).additional_event_data.repeat_of, Some(event.event_id));
    let described = ok(&admin, "TrentService.DescribeKey", json!({"KeyId": "alias/app"})).await.body;
    assert_eq!(described["KeyMetadata"]["Arn"], first);

    // Deleted, and another key of another type in its place: it comes back all the same, and from nothing, too.
    let gone = ok(&admin, "TrentService.DeleteAlias", json!({"AliasName": "alias/app"})).await;
    let setter = fixture.event(gone.seq.unwrap()).additional_event_data.more["previousTargetEventId"].clone();
    let setter = setter.as_str().unwrap().to_owned();
    fixture.stop().await;
    fixture.start().await.unwrap();
    let (admin, responder) = (fixture.admin(), fixture.responder());
    ok(&responder, op, restore(None, &setter)).await;
    ok(&admin, "TrentService.DeleteAlias", json!({"AliasName": "alias/app"})).await;
    let spec = json!({"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"});
    let signing = ok(&admin, "TrentService.CreateKey", spec).await.body["KeyMetadata"]["Arn"].clone();
    ok(&admin, "TrentService.CreateAlias", json!({"AliasName": "alias/app", "TargetKeyId": signing})).await;
    ok(&responder, op, restore(signing.as_str(), &setter)).await;
    let listed = ok(&responder, "TrentService.ListAliases", json!({"KeyId": first})).await.body;
    assert_eq!(listed["Aliases"][0]["AliasName"], "alias/app");
    ok(&admin, "TrentService.ScheduleKeyDeletion", json!({"KeyId": second, "PendingWindowInDays": 7})).await;
    let pending = refused(&responder, op, restore(Some(&first), &moved.event_id)).await;
    assert_eq!(pending.0, "KMSInvalidStateException");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantine_on_a_multi_region_key_is_on_its_related_keys() {
    let mut fixture = Fixture::new().await;
    fixture.stop().await;
    fixture.regions = vec![REGION.into(), "us-east-1".into()];
    fixture.start().await.unwrap();
    let (admin, responder) = (fixture.admin(), fixture.responder());
    let made = ok(&admin, "TrentService.CreateKey", json!({"MultiRegion": true})).await.body;
    let id = made["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned();
    ok(&admin, "TrentService.ReplicateKey", json!({"KeyId": id, "ReplicaRegion": "us-east-1"})).await;
    let put = json!({"PrincipalArn": ADMINISTRATOR, "KeyId": id, "TtlSeconds": 600});
    ok(&responder, "KeytrailService.PutQuarantine", put).await;
    let elsewhere = fixture.client_in("us-east-1", "credentials", "default");
    let body = json!({"KeyId": id, "KeySpec": "AES_256"});
    assert_eq!(refused(&elsewhere, "TrentService.GenerateDataKey", body.clone()).await.0, "AccessDeniedException");
    assert_eq!(refused(&admin, "TrentService.GenerateDataKey", body).await.0, "AccessDeniedException");
}

/// What the log says stands above policies.
#[derive(Default)]
struct Model {
    stopped: BTreeSet<(String, Option<String>)>,
    required: BTreeMap<String, Vec<String>>,
}

impl Model {
    fn take(&mut self, event: &AuditEvent) {
        if event.error_code.is_some() || event.additional_event_data.repeat_of.is_some() {
            return;
        }
        let data = &event.additional_event_data;
        let either = data.after.as_ref().or(data.before.as_ref()).cloned().unwrap_or_default();
        let text = |name: &str| either[name].as_str().map(str::to_owned);
        match event.event_name.as_str() {
            "PutQuarantine" => drop(self.stopped.insert((text("principalArn").unwrap(), text("targetKeyArn")))),
            "LiftQuarantine" => drop(self.stopped.remove(&(text("principalArn").unwrap(), text("targetKeyArn")))),
            "PutMfaRequirement" => {
                let actions = serde_json::from_value(either["actions"].clone()).unwrap();
                self.required.insert(text("onArn").unwrap(), actions);
            }
            "LiftMfaRequirement" => drop(self.required.remove(&text("onArn").unwrap())),
            _ => {}
        }
    }

    /// What decides the administrator's call on a key, if it is the overlay.
    fn decides(&self, key: &str, action: &str) -> Option<&'static str> {
        let stopped = |key: Option<String>| self.stopped.contains(&(ADMINISTRATOR.to_owned(), key));
        if stopped(None) || stopped(Some(key.to_owned())) {
            return Some("Quarantine");
        }
        let root = format!("arn:aws:iam::{ACCOUNT}:root");
        let named = |on: &str| self.required.get(on).is_some_and(|actions| actions.iter().any(|name| name == action));
        (named(key) || named(&root)).then_some("MfaRequirement")
    }
}

/// Callers and the responder at the same time: at each place in the log the decision is what the model says.
#[tokio::test(flavor = "multi_thread")]
async fn every_decision_is_what_the_overlay_at_its_place_in_the_log_says() {
    let fixture = Fixture::new().await;
    let admin = fixture.admin();
    let keys = [create_key(&admin).await, create_key(&admin).await];
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..6_usize {
        let (client, key) = (fixture.admin(), keys[task % 2].clone());
        tasks.spawn(async move {
            for round in 0..40 {
                let (target, body) = match round % 3 {
                    0 => ("TrentService.GenerateDataKey", json!({"KeyId": key, "KeySpec": "AES_256"})),
                    1 => ("TrentService.UpdateKeyDescription", json!({"KeyId": key, "Description": "x"})),
                    _ => ("TrentService.DescribeKey", json!({"KeyId": key})),
                };
                // Refusals are the point.
                let _ = client.call(target, body, None).await;
            }
        });
    }
    let (responder, on) = (fixture.responder(), keys[0].clone());
    tasks.spawn(async move {
        let quarantine = |key: Option<&String>| json!({"PrincipalArn": ADMINISTRATOR, "KeyId": key, "TtlSeconds": 600});
        let actions = json!(["UpdateKeyDescription"]);
        for _ in 0..12 {
            for (verb, thing, body) in [
                ("Put", "Quarantine", quarantine(Some(&on))),
                ("Put", "MfaRequirement", json!({"KeyId": on, "Actions": actions, "TtlSeconds": 600})),
                ("Lift", "Quarantine", quarantine(Some(&on))),
                ("Lift", "MfaRequirement", json!({"KeyId": on})),
                ("Put", "MfaRequirement", json!({"AccountId": ACCOUNT, "Actions": actions, "TtlSeconds": 600})),
                ("Lift", "MfaRequirement", json!({"AccountId": ACCOUNT})),
                ("Put", "Quarantine", quarantine(None)),
                ("Lift", "Quarantine", quarantine(None)),
            ] {
                ok(&responder, &format!("KeytrailService.{verb}{thing}"), body).await;
            }
        }
    });
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let (mut model, mut seen) = (Model::default(), BTreeSet::new());
    for (leaf, event) in fixture.events() {
        model.take(&event);
        let key = event.resources.first().map(|resource| resource.arn.clone()).unwrap_or_default();
        let expected = match event.event_name.as_str() {
            name @ ("GenerateDataKey" | "UpdateKeyDescription") => model.decides(&key, name),
            "DescribeKey" => None,
            _ => continue,
        };
        let decided = event.additional_event_data.decided_by.clone().unwrap();
        let (kind, _) = decided.split_once('/').unwrap();
        assert_eq!(event.error_code.is_some(), expected.is_some(), "seq {}: {decided}", leaf.seq);
        match expected {
            Some(expected) => assert_eq!(kind, expected, "seq {}", leaf.seq),
            None => assert!(!["Quarantine", "MfaRequirement"].contains(&kind), "seq {}: {decided}", leaf.seq),
        }
        seen.insert(kind.to_owned());
    }
    assert!(seen.len() >= 3, "the race met too few cases: {seen:?}");
}
