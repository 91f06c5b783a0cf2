//! LookupEvents as its callers see it: whose events, which of them, in which order, and over how many pages.

use super::*;

const TARGET: &str = "com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101.LookupEvents";

async fn signed_for(fixture: &Fixture, keys: &Credentials, region: &str, service: &str, body: &Value) -> (u16, Value) {
    let headers = [("content-type", "application/x-amz-json-1.1"), ("x-amz-target", TARGET)];
    let signing = Some((keys, region, service, fixture.clock.now_us()));
    let (status, text) = raw(fixture, &headers, body.to_string().as_bytes(), signing).await;
    (status, serde_json::from_str(&text).unwrap())
}

fn administrator(fixture: &Fixture) -> Credentials {
    Credentials::read(&fixture.dir().join("credentials"), "default").unwrap()
}

async fn look(fixture: &Fixture, body: Value) -> Value {
    let (status, answer) = signed_for(fixture, &administrator(fixture), REGION, "cloudtrail", &body).await;
    assert_eq!(status, 200, "{body}: {answer}");
    answer
}

/// Everything that a lookup finds, as a client that follows the tokens gets it.
async fn all(fixture: &Fixture, mut body: Value) -> Vec<Value> {
    let mut events = Vec::new();
    loop {
        let page = look(fixture, body.clone()).await;
        events.extend(page["Events"].as_array().unwrap().iter().cloned());
        match page["NextToken"].as_str() {
            Some(token) => body["NextToken"] = token.into(),
            None => return events,
        }
    }
}

fn names(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["EventName"].as_str().unwrap()).collect()
}

fn by(key: &str, value: &str) -> Value {
    json!({"LookupAttributes": [{"AttributeKey": key, "AttributeValue": value}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_events_of_the_account_come_first_with_their_exact_bytes() {
    let fixture = Fixture::new().await;
    let admin = fixture.admin();
    let key = create_key(&admin).await;
    ok(&admin, "TrentService.CreateAlias", json!({"AliasName": "alias/app", "TargetKeyId": key})).await;
    refused(&fixture.user("powerless"), "TrentService.DescribeKey", json!({"KeyId": key})).await;
    create_key(&fixture.user("neighbour")).await;

    let page = look(&fixture, json!({})).await;
    let events = page["Events"].as_array().unwrap();
    assert_eq!(names(&events[..3]), ["DescribeKey", "CreateAlias", "CreateKey"]);
    assert!(page.get("NextToken").is_none());
    let payloads: Vec<Vec<u8>> = fixture.records().into_iter().map(|(_, payload)| payload).collect();
    for event in events {
        let text = event["CloudTrailEvent"].as_str().unwrap();
        assert!(payloads.iter().any(|payload| payload == text.as_bytes()), "{text}");
        assert_eq!(serde_json::from_str::<AuditEvent>(text).unwrap().recipient_account_id, ACCOUNT);
    }
    let created = &events[2];
    assert_eq!((&created["ReadOnly"], &created["Username"]), (&json!("false"), &json!("administrator")));
    assert_eq!(created["EventSource"], "kms.amazonaws.com");
    assert_eq!(created["Resources"], json!([{"ResourceType": "AWS::KMS::Key", "ResourceName": key}]));
    assert_eq!(created["AccessKeyId"], administrator(&fixture).access_key_id);
    let told: Value = serde_json::from_str(created["CloudTrailEvent"].as_str().unwrap()).unwrap();
    let secs = chrono::DateTime::parse_from_rfc3339(told["eventTime"].as_str().unwrap()).unwrap().timestamp();
    assert_eq!(created["EventTime"], secs);

    // The lookup itself is an event, and found by the next.
    let own = fixture.events().pop().unwrap().1;
    assert_eq!((own.event_source.as_str(), own.event_name.as_str()), ("cloudtrail.amazonaws.com", "LookupEvents"));
    assert_eq!((own.read_only, own.error_code), (true, None));
    assert!(own.additional_event_data.decided_by.unwrap().starts_with("IdentityPolicy/"));
    assert_eq!(names(&all(&fixture, by("EventName", "LookupEvents")).await), ["LookupEvents"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_attribute_finds_what_has_it_and_pages_meet_without_a_gap() {
    let fixture = Fixture::new().await;
    let admin = fixture.admin();
    let key = create_key(&admin).await;
    let id = key.rsplit('/').next().unwrap();
    ok(&admin, "TrentService.CreateAlias", json!({"AliasName": "alias/app", "TargetKeyId": key})).await;
    refused(&fixture.user("powerless"), "TrentService.DescribeKey", json!({"KeyId": key})).await;
    let made = all(&fixture, by("EventName", "CreateKey")).await;
    let event_id = made[0]["EventId"].as_str().unwrap().to_owned();
    for (attribute, value, found) in [
        ("EventId", event_id.as_str(), vec!["CreateKey"]),
        ("EventName", "CreateAlias", vec!["CreateAlias"]),
        ("EventName", "createalias", vec![]),
        ("Username", "powerless", vec!["DescribeKey"]),
        ("AccessKeyId", "AKIATESTTESTPOWERLESS", vec!["DescribeKey"]),
        ("ResourceName", &key, vec!["DescribeKey", "CreateAlias", "CreateKey"]),
        ("ResourceName", id, vec!["DescribeKey", "CreateAlias", "CreateKey"]),
        ("ResourceName", "alias/app", vec!["CreateAlias"]),
        ("ResourceType", "AWS::KMS::Alias", vec!["CreateAlias"]),
        ("EventSource", "kms.amazonaws.com", vec!["DescribeKey", "CreateAlias", "CreateKey"]),
    ] {
        assert_eq!(names(&all(&fixture, by(attribute, value)).await), found, "{attribute} {value}");
    }
    let writes = all(&fixture, by("ReadOnly", "false")).await;
    assert!(names(&writes).contains(&"CreateAlias") && !names(&writes).contains(&"DescribeKey"));

    let mut by_one = by("EventSource", "kms.amazonaws.com");
    by_one["MaxResults"] = 1.into();
    assert_eq!(names(&all(&fixture, by_one).await), ["DescribeKey", "CreateAlias", "CreateKey"]);
    let now = fixture.clock.now_us() / 1_000_000;
    for (start, end, any) in [(now - 600, now + 600, true), (now + 600, now + 700, false), (0, now - 600, false)] {
        let found = all(&fixture, json!({"StartTime": start, "EndTime": end})).await;
        assert_eq!(!found.is_empty(), any, "{start} {end}");
    }
    assert_eq!(all(&fixture, json!({"EventCategory": "insight"})).await, Vec::<Value>::new());
    let (_, elsewhere) =
        signed_for(&fixture, &user_credentials("neighbour"), REGION, "cloudtrail", &by("ResourceName", &key)).await;
    assert_eq!(elsewhere["Events"], json!([]), "another account's");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_looked_up_is_refused_in_awss_words_and_recorded() {
    let fixture = Fixture::new().await;
    let keys = administrator(&fixture);
    create_key(&fixture.admin()).await;
    let token = look(&fixture, json!({"MaxResults": 1})).await["NextToken"].clone();
    let long = "x".repeat(2_001);
    let two = json!([
        {"AttributeKey": "EventName", "AttributeValue": "a"}, {"AttributeKey": "EventId", "AttributeValue": "b"},
    ]);
    for (body, code) in [
        (json!({"LookupAttributes": two}), "InvalidLookupAttributesException"),
        (by("EventNames", "CreateKey"), "InvalidLookupAttributesException"),
        (by("EventName", ""), "InvalidLookupAttributesException"),
        (by("EventName", &long), "InvalidLookupAttributesException"),
        (json!({"LookupAttributes": [{"AttributeKey": "EventName"}]}), "InvalidLookupAttributesException"),
        (json!({"StartTime": 200, "EndTime": 100}), "InvalidTimeRangeException"),
        (json!({"StartTime": -1}), "InvalidTimeRangeException"),
        (json!({"EndTime": 1e300}), "InvalidTimeRangeException"),
        (json!({"MaxResults": 0}), "InvalidMaxResultsException"),
        (json!({"MaxResults": 51}), "InvalidMaxResultsException"),
        (json!({"NextToken": "AAAA"}), "InvalidNextTokenException"),
        (json!({"NextToken": "é"}), "InvalidNextTokenException"),
        (json!({"NextToken": token, "StartTime": 100}), "InvalidNextTokenException"),
        (json!({"EventCategory": "data"}), "InvalidEventCategoryException"),
        (json!({"LookupAttributes": 7}), "SerializationException"),
    ] {
        let (status, answer) = signed_for(&fixture, &keys, REGION, "cloudtrail", &body).await;
        assert_eq!((status, answer["__type"].as_str()), (400, Some(code)), "{body}");
        let event = fixture.events().pop().unwrap().1;
        assert_eq!((event.event_name.as_str(), event.error_code.as_deref()), ("LookupEvents", Some(code)));
    }
    for (keys, service, code) in [
        (user_credentials("powerless"), "cloudtrail", "AccessDeniedException"),
        (keys, "kms", "InvalidSignatureException"),
    ] {
        let (_, answer) = signed_for(&fixture, &keys, REGION, service, &json!({})).await;
        assert_eq!(answer["__type"], code);
        let event = fixture.events().pop().unwrap().1;
        assert_eq!((event.event_source.as_str(), event.error_code.is_some()), ("cloudtrail.amazonaws.com", true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_reads_so_many_records_and_says_where_the_next_goes_on() {
    let mut fixture = Fixture::new().await;
    let clock = Arc::new(FakeClock::new(SystemClock.now_us()));
    fixture.stop().await;
    fixture.clock = Arc::<FakeClock>::clone(&clock);
    fixture.quotas = toml::from_str("LookupEvents = \"2/m\"").unwrap();
    fixture.start().await.unwrap();
    create_key(&fixture.admin()).await;
    let filter = crate::lookup::Filter { account: ACCOUNT.into(), region: REGION.into(), ..Default::default() };
    let dir = fixture.dir().join("journal");
    let look = |below, records| crate::lookup::look_back(&dir, &filter, below, records, 50).unwrap();
    assert!(look(Some(u64::MAX), 1).is_none(), "a seq that the log does not reach");
    let nothing = look(Some(0), 1).unwrap();
    assert!(nothing.frames.is_empty() && nothing.below.is_none());
    // The first record of a log is no event: a call can find nothing and still say where to go on.
    let whole = look(None, u64::MAX).unwrap();
    let (mut pieces, mut below, mut calls) = (Vec::new(), None, 0);
    loop {
        let found = look(below, 1).unwrap();
        assert!(found.frames.len() <= 1);
        pieces.extend(found.frames);
        (below, calls) = (found.below, calls + 1);
        if below.is_none() {
            break;
        }
    }
    assert!(whole.frames.len() > 1 && pieces == whole.frames && calls > pieces.len(), "{calls} calls");

    let keys = administrator(&fixture);
    for expected in [200, 200, 400] {
        let (status, answer) = signed_for(&fixture, &keys, REGION, "cloudtrail", &json!({})).await;
        assert_eq!(status, expected, "{answer}");
    }
    let event = fixture.events().pop().unwrap().1;
    assert_eq!(event.error_code.as_deref(), Some("ThrottlingException"));
    assert_eq!(event.error_message.as_deref(), Some("Rate exceeded"));
    clock.advance(Duration::from_secs(30));
    assert_eq!(signed_for(&fixture, &keys, REGION, "cloudtrail", &json!({})).await.0, 200);
}
