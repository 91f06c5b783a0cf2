//! What the responder tells the log about incidents, and what it asks the log.

use super::*;

fn entry(number: u64, text: &str) -> Value {
    json!({"Number": number, "AtMicros": 7, "Kind": "note", "Text": text, "Digest": "0".repeat(64)})
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_responder_records_incidents_and_what_is_recorded_is_what_was_sent() {
    let fixture = Fixture::new().await;
    let body = |entries: Vec<Value>| json!({"IncidentId": "I-0123456789ab", "Entries": entries});
    let call = "KeytrailService.RecordIncident";
    for stranger in [fixture.admin(), fixture.client("service-credentials", "trail")] {
        let (code, _) = refused(&stranger, call, body(vec![entry(1, "mine")])).await;
        assert_eq!(code, "AccessDeniedException");
    }
    let responder = fixture.client("service-credentials", "responder");
    let long = "é".repeat(1_002);
    let seq = ok(&responder, call, body(vec![entry(1, "opened"), entry(2, &long)])).await.seq.unwrap();
    let event = fixture.event(seq);
    let parameters = event.request_parameters.unwrap();
    assert_eq!((event.event_source.as_str(), event.read_only), ("keytrail.internal", true));
    assert_eq!(parameters["incidentId"], "I-0123456789ab");
    assert_eq!(parameters["entries"][1]["text"], long);
    assert_eq!((&parameters["entries"][0]["number"], &parameters["entries"][0]["atMicros"]), (&json!(1), &json!(7)));
    let many: Vec<Value> = (1..=33).map(|number| entry(number, "x")).collect();
    let no_digest = json!({"Number": 1, "AtMicros": 7, "Kind": "note", "Text": "x", "Digest": "00"});
    for (entries, what) in [
        (vec![], "none"),
        (many, "too many"),
        (vec![entry(1, "a"), entry(3, "b")], "a gap"),
        (vec![entry(2, "a"), entry(1, "b")], "disorder"),
        (vec![entry(1, &"x".repeat(2_005))], "too long a text"),
        (vec![no_digest], "no digest"),
    ] {
        assert_eq!(refused(&responder, call, body(entries)).await.0, "ValidationException", "{what}");
    }
    let full: Vec<Value> = (1..=32).map(|number| entry(number, &"\"".repeat(2_004))).collect();
    ok(&responder, call, body(full)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_responder_learns_which_uses_were_allowed_between_two_places() {
    let fixture = Fixture::new().await;
    let (admin, call) = (fixture.admin(), "KeytrailService.GetUsage");
    let responder = fixture.client("service-credentials", "responder");
    let key = create_key(&admin).await;
    let first = ok(&admin, "TrentService.DescribeKey", json!({"KeyId": key})).await.seq.unwrap();
    let blob = encrypt(&admin, &key, b"x", json!({"tenant": "a"})).await;
    for _ in 0..3 {
        let body = json!({"CiphertextBlob": blob, "EncryptionContext": {"tenant": "a"}});
        ok(&admin, "TrentService.Decrypt", body).await;
    }
    refused(&admin, "TrentService.Decrypt", json!({"CiphertextBlob": blob, "EncryptionContext": {"tenant": "b"}}))
        .await;
    let arn = ok(&admin, "TrentService.DescribeKey", json!({"KeyId": key})).await.body["KeyMetadata"]["Arn"].clone();
    let disabled = ok(&admin, "TrentService.DisableKey", json!({"KeyId": key})).await.seq.unwrap();
    let who = fixture.event(disabled).user_identity.arn.unwrap();

    for stranger in [fixture.admin(), fixture.client("service-credentials", "trail")] {
        assert_eq!(refused(&stranger, call, json!({"FirstSeq": 0})).await.0, "AccessDeniedException");
    }
    let of_key = ok(&responder, call, json!({"KeyArns": [arn], "FirstSeq": first, "EndSeq": disabled})).await.body;
    let uses = of_key["Uses"].as_array().unwrap();
    let shown: Vec<(&Value, &Value)> = uses.iter().map(|one| (&one["Operation"], &one["Count"])).collect();
    assert_eq!(shown, [(&json!("Encrypt"), &json!(1)), (&json!("Decrypt"), &json!(3))], "{of_key}");
    assert_eq!(uses[1]["EncryptionContext"], json!({"tenant": "a"}));
    assert_eq!((&uses[1]["PrincipalArn"], &uses[1]["KeyArn"]), (&json!(who), &arn));
    assert_eq!((&of_key["NextSeq"], &of_key["Unreadable"]), (&json!(disabled), &json!(0)));

    // A change counts for whoever is asked for, and nothing after it was a use of the key.
    let of_admin = ok(&responder, call, json!({"PrincipalArns": [who], "FirstSeq": disabled})).await.body;
    assert_eq!(of_admin["Uses"][0]["Operation"], "DisableKey");
    assert_eq!(of_admin["NextSeq"], of_admin["EndSeq"]);
    let since = ok(&responder, call, json!({"KeyArns": [arn], "FirstSeq": disabled + 1})).await.body;
    assert_eq!(since["Uses"], json!([]), "{since}");
    let names = vec!["x"; 101];
    assert_eq!(refused(&responder, call, json!({"KeyArns": names, "FirstSeq": 0})).await.0, "ValidationException");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_room_says_where_to_go_on() {
    let fixture = Fixture::new().await;
    let admin = fixture.admin();
    let responder = fixture.client("service-credentials", "responder");
    let key = create_key(&admin).await;
    let arn = ok(&admin, "TrentService.DescribeKey", json!({"KeyId": key})).await.body["KeyMetadata"]["Arn"].clone();
    for tenant in 0..205 {
        encrypt(&admin, &key, b"x", json!({"tenant": tenant.to_string()})).await;
    }
    let ask = |from: u64| {
        let (responder, arn) = (&responder, &arn);
        async move { ok(responder, "KeytrailService.GetUsage", json!({"KeyArns": [arn], "FirstSeq": from})).await.body }
    };
    let first = ask(0).await;
    assert_eq!(first["Uses"].as_array().map(Vec::len), Some(200));
    assert!(first["NextSeq"].as_u64() < first["EndSeq"].as_u64());
    let rest = ask(first["NextSeq"].as_u64().unwrap()).await;
    assert_eq!(rest["Uses"].as_array().map(Vec::len), Some(5));
    assert_eq!(rest["NextSeq"], rest["EndSeq"]);
}
