//! Rotation: by date and on demand, what stays readable, what is refused.

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

pub(super) async fn fixture_and_clock() -> (Fixture, Arc<FakeClock>) {
    let clock = Arc::new(FakeClock::new(SystemClock.now_us()));
    (Fixture::with_clock(Arc::<FakeClock>::clone(&clock)).await, clock)
}

/// Makes what is due and gives the number of RotateKey events so far.
pub(super) async fn rotations(fixture: &Fixture) -> usize {
    crate::ops::make_due_changes(fixture.kms.as_ref().unwrap().node()).await;
    fixture.events().iter().filter(|(_, event)| event.event_name == "RotateKey").count()
}

/// A client whose signatures the moved clock accepts.
async fn call(fixture: &Fixture, target: &str, body: Value) -> (u16, Value) {
    let credentials = Credentials::read(&fixture.dir().join("credentials"), "default").unwrap();
    let target = format!("TrentService.{target}");
    let headers = [("content-type", "application/x-amz-json-1.1"), ("x-amz-target", target.as_str())];
    let signed = Some((&credentials, REGION, "kms", fixture.clock.now_us()));
    let (status, text) = raw(fixture, &headers, body.to_string().as_bytes(), signed).await;
    (status, serde_json::from_str(&text).unwrap_or_default())
}

pub(super) async fn works(fixture: &Fixture, target: &str, body: Value) -> Value {
    let (status, answer) = call(fixture, target, body.clone()).await;
    assert_eq!(status, 200, "{target} {body}: {answer}");
    answer
}

pub(super) async fn fails(fixture: &Fixture, target: &str, body: Value) -> String {
    let (status, answer) = call(fixture, target, body.clone()).await;
    assert_eq!(status, 400, "{target} {body}: {answer}");
    answer["__type"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_rotates_when_its_date_comes_and_old_ciphertexts_open() {
    let (mut fixture, clock) = fixture_and_clock().await;
    let admin = fixture.admin();
    let key = create_key(&admin).await;
    let named = json!({"KeyId": key});
    let status = works(&fixture, "GetKeyRotationStatus", named.clone()).await;
    assert_eq!(status, json!({"KeyId": key, "KeyRotationEnabled": false}));
    let first = encrypt(&admin, &key, b"first", Value::Null).await;
    let body = json!({"KeyId": key, "RotationPeriodInDays": 90});
    let answer = ok(&admin, "TrentService.EnableKeyRotation", body).await;
    let event = fixture.event(answer.seq.unwrap());
    assert_eq!(event.request_parameters.unwrap()["rotationPeriodInDays"], 90);
    assert_eq!(event.additional_event_data.after.unwrap()["rotationPeriodInDays"], 90);
    let status = works(&fixture, "GetKeyRotationStatus", named.clone()).await;
    assert_eq!((&status["KeyRotationEnabled"], &status["RotationPeriodInDays"]), (&json!(true), &json!(90)));
    assert!(status["NextRotationDate"].is_number() && status.get("OnDemandRotationStartDate").is_none());

    clock.advance(DAY * 90 - Duration::from_secs(60));
    assert_eq!(rotations(&fixture).await, 0, "a minute too early");
    // A disabled key waits, and catches up when it is enabled again.
    works(&fixture, "DisableKey", named.clone()).await;
    assert_eq!(fails(&fixture, "RotateKeyOnDemand", named.clone()).await, "DisabledException");
    clock.advance(Duration::from_secs(61));
    assert_eq!(rotations(&fixture).await, 0);
    works(&fixture, "EnableKey", named.clone()).await;
    wait_until(|| fixture.events().iter().any(|(_, event)| event.event_name == "RotateKey")).await;
    assert_eq!(rotations(&fixture).await, 1);
    let event = fixture.events().into_iter().find(|(_, event)| event.event_name == "RotateKey").unwrap().1;
    assert_eq!((event.event_type.as_str(), event.request_id), ("AwsServiceEvent", None));
    let details = &event.additional_event_data.more["serviceEventDetails"];
    assert_eq!((&details["rotationType"], &details["keyId"]), (&json!("AUTOMATIC"), &json!(key)));
    let (before, after) = (event.additional_event_data.before.unwrap(), event.additional_event_data.after.unwrap());
    assert_eq!(before["keyMaterialId"], details["previousKeyMaterialId"]);
    assert_eq!(after["keyMaterialId"], details["currentKeyMaterialId"]);
    assert_ne!(before["keyMaterialId"], after["keyMaterialId"]);
    assert_ne!(before["nextRotationDate"], after["nextRotationDate"]);

    clock.advance(DAY * 90);
    wait_until(|| fixture.events().iter().filter(|(_, event)| event.event_name == "RotateKey").count() == 2).await;
    assert_eq!(rotations(&fixture).await, 2);
    fixture.stop().await;
    fixture.start().await.unwrap();
    let opened = works(&fixture, "Decrypt", json!({"CiphertextBlob": first})).await;
    assert_eq!(opened["Plaintext"], STANDARD.encode("first"));
    assert_eq!(opened["KeyMaterialId"], before["keyMaterialId"], "the material that encrypted it");
    let sealed = works(&fixture, "Encrypt", json!({"KeyId": key, "Plaintext": "eA=="})).await;
    let opened = works(&fixture, "Decrypt", json!({"CiphertextBlob": sealed["CiphertextBlob"]})).await;
    let described = works(&fixture, "DescribeKey", named.clone()).await;
    assert_eq!(opened["KeyMaterialId"], described["KeyMetadata"]["CurrentKeyMaterialId"]);

    works(&fixture, "DisableKeyRotation", named.clone()).await;
    clock.advance(DAY * 400);
    assert_eq!(rotations(&fixture).await, 2);
    let status = works(&fixture, "GetKeyRotationStatus", named).await;
    assert_eq!(status["KeyRotationEnabled"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn rotations_on_demand_are_listed_in_pages_and_end_at_the_quota() {
    let (fixture, _clock) = fixture_and_clock().await;
    let admin = fixture.admin();
    let key = create_key(&admin).await;
    let named = json!({"KeyId": key});
    for round in 1..=25 {
        let answer = ok(&admin, "TrentService.RotateKeyOnDemand", named.clone()).await;
        assert_eq!(answer.body, json!({"KeyId": key}));
        assert!(!fixture.event(answer.seq.unwrap()).read_only);
        wait_until(|| fixture.events().iter().filter(|(_, event)| event.event_name == "RotateKey").count() == round)
            .await;
        let node = Arc::clone(fixture.kms.as_ref().unwrap().node());
        crate::ops::make_due_changes(&node).await;
    }
    assert_eq!(refused(&admin, "TrentService.RotateKeyOnDemand", named.clone()).await.0, "LimitExceededException");
    let event = fixture.events().into_iter().rfind(|(_, event)| event.event_name == "RotateKey").unwrap().1;
    assert_eq!(event.additional_event_data.more["serviceEventDetails"]["rotationType"], "ON_DEMAND");

    let (mut listed, mut marker) = (Vec::new(), Value::Null);
    loop {
        let body = json!({"KeyId": key, "Limit": 10, "Marker": marker});
        let page = ok(&admin, "TrentService.ListKeyRotations", body).await.body;
        listed.extend(page["Rotations"].as_array().unwrap().clone());
        match page.get("NextMarker") {
            Some(next) => marker = next.clone(),
            None => break,
        }
    }
    assert_eq!(listed.len(), 25);
    assert!(listed.iter().all(|entry| entry["RotationType"] == "ON_DEMAND" && entry["RotationDate"].is_number()));
    let states: Vec<_> = listed.iter().map(|entry| entry["KeyMaterialState"].as_str().unwrap()).collect();
    assert_eq!((states[24], states.iter().filter(|state| **state == "NON_CURRENT").count()), ("CURRENT", 24));
    let body = json!({"KeyId": key, "IncludeKeyMaterial": "ALL_KEY_MATERIAL"});
    let all = ok(&admin, "TrentService.ListKeyRotations", body).await.body;
    assert_eq!(all["Rotations"].as_array().unwrap().len(), 26);
    assert!(all["Rotations"][0].get("RotationType").is_none(), "the first material came with the key");
    for (body, code) in [
        (json!({"KeyId": key, "Marker": "eA=="}), "InvalidMarkerException"),
        (json!({"KeyId": key, "Limit": 0}), "ValidationException"),
        (json!({"KeyId": key, "IncludeKeyMaterial": "SOME"}), "ValidationException"),
    ] {
        assert_eq!(refused(&admin, "TrentService.ListKeyRotations", body.clone()).await.0, code, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_keys_that_can_rotate_do() {
    let fixture = Fixture::new().await;
    let admin = fixture.admin();
    let body = json!({"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"});
    let mac = ok(&admin, "TrentService.CreateKey", body).await.body["KeyMetadata"]["Arn"].clone();
    let key = create_key(&admin).await;
    let targets =
        ["EnableKeyRotation", "DisableKeyRotation", "RotateKeyOnDemand", "GetKeyRotationStatus", "ListKeyRotations"];
    for target in targets {
        let target = format!("TrentService.{target}");
        assert_eq!(refused(&admin, &target, json!({})).await.0, "ValidationException");
        assert_eq!(refused(&admin, &target, json!({"KeyId": "alias/none"})).await.0, "NotFoundException");
    }
    for target in ["EnableKeyRotation", "RotateKeyOnDemand", "ListKeyRotations"] {
        let target = format!("TrentService.{target}");
        assert_eq!(refused(&admin, &target, json!({"KeyId": mac})).await.0, "UnsupportedOperationException");
    }
    // That it does not rotate can be said of any key, and asked for: Terraform does.
    ok(&admin, "TrentService.DisableKeyRotation", json!({"KeyId": mac})).await;
    let status = ok(&admin, "TrentService.GetKeyRotationStatus", json!({"KeyId": mac})).await.body;
    assert_eq!(status, json!({"KeyId": mac, "KeyRotationEnabled": false}));
    for days in [0, 89, 2_561] {
        let body = json!({"KeyId": key, "RotationPeriodInDays": days});
        assert_eq!(refused(&admin, "TrentService.EnableKeyRotation", body).await.0, "ValidationException");
    }
    let named = json!({"KeyId": key});
    for (change, code) in [("DisableKey", "DisabledException"), ("ScheduleKeyDeletion", "KMSInvalidStateException")] {
        ok(&admin, &format!("TrentService.{change}"), named.clone()).await;
        for target in targets {
            let answer = admin.call(&format!("TrentService.{target}"), named.clone(), None).await;
            match answer {
                Ok(_) => assert!(["GetKeyRotationStatus", "ListKeyRotations"].contains(&target), "{target}"),
                Err(error) => assert_eq!(error.code(), Some(code), "{target} after {change}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_may_ask_for_a_short_period() {
    let fixture = Fixture::new().await;
    let admin = fixture.admin();
    let key = create_key(&admin).await;
    let policy = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"AWS": format!("arn:aws:iam::{ACCOUNT}:root")}, "Action": "kms:*", "Resource": "*"},
        {"Sid": "Short", "Effect": "Deny", "Principal": "*", "Action": "kms:EnableKeyRotation", "Resource": "*",
         "Condition": {"NumericGreaterThan": {"kms:RotationPeriodInDays": "180"}}},
    ]});
    ok(&admin, "TrentService.PutKeyPolicy", json!({"KeyId": key, "Policy": policy.to_string()})).await;
    let (code, seq) = refused(&admin, "TrentService.EnableKeyRotation", json!({"KeyId": key})).await;
    assert_eq!(code, "AccessDeniedException", "the default of 365 days counts");
    assert_eq!(fixture.event(seq).additional_event_data.decided_by.as_deref(), Some("KeyPolicy/Short"));
    let body = json!({"KeyId": key, "RotationPeriodInDays": 180});
    ok(&admin, "TrentService.EnableKeyRotation", body).await;
}
