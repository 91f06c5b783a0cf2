//! Quotas as callers meet them: what is refused, who pays, who is never refused, what the log says.

use super::rotation::{fails, fixture_and_clock, works};
use super::*;

const TEXT: &str = "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.";

/// A service with these `[quotas]`, on a clock that the test moves.
async fn limited(quotas: &str) -> (Fixture, Arc<FakeClock>) {
    let (mut fixture, clock) = fixture_and_clock().await;
    fixture.stop().await;
    fixture.quotas = toml::from_str(quotas).unwrap();
    fixture.start().await.unwrap();
    (fixture, clock)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_call_has_no_effect_and_one_event() {
    let (fixture, clock) = limited("CreateKey = \"1/m\"").await;
    let admin = fixture.admin();
    let key = create_key(&admin).await;
    let before = fixture.events().len();
    let (code, seq) = refused(&admin, "TrentService.CreateKey", json!({"Description": "one too many"})).await;
    assert_eq!(code, "ThrottlingException");
    let events = fixture.events();
    assert_eq!(events.len(), before + 1);
    let event = &fixture.event(seq);
    assert_eq!((event.event_name.as_str(), event.error_code.as_deref()), ("CreateKey", Some("ThrottlingException")));
    assert_eq!(event.error_message.as_deref(), Some(TEXT));
    assert_eq!(event.user_identity.user_name.as_deref(), Some("administrator"));
    assert_eq!(
        (event.request_parameters.as_ref().unwrap()["description"].as_str(), event.read_only),
        (Some("one too many"), false)
    );
    let keys = ok(&admin, "TrentService.ListKeys", json!({})).await.body["Keys"].as_array().unwrap().len();
    assert_eq!(keys, 1);

    // Groups and accounts are independent of each other.
    ok(&admin, "TrentService.DescribeKey", json!({"KeyId": key})).await;
    create_key(&fixture.user("neighbour")).await;
    clock.advance(Duration::from_secs(60));
    works(&fixture, "CreateKey", json!({})).await;
    assert_eq!(fails(&fixture, "CreateKey", json!({})).await, "ThrottlingException");
}

#[tokio::test(flavor = "multi_thread")]
async fn uses_count_by_the_kind_of_key() {
    let (fixture, _clock) = limited("symmetric = \"2/m\"\necc = \"1/m\"").await;
    let symmetric = create_key(&fixture.admin()).await;
    let body = json!({"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"});
    let ecc = works(&fixture, "CreateKey", body).await["KeyMetadata"]["KeyId"].clone();
    let sign = json!({"KeyId": ecc, "Message": "aGk=", "SigningAlgorithm": "ECDSA_SHA_256"});
    works(&fixture, "Sign", sign.clone()).await;
    assert_eq!(fails(&fixture, "Sign", sign).await, "ThrottlingException");
    let data_key = json!({"KeyId": symmetric, "KeySpec": "AES_256"});
    works(&fixture, "GenerateDataKey", data_key.clone()).await;
    works(&fixture, "GenerateRandom", json!({"NumberOfBytes": 8})).await;
    assert_eq!(fails(&fixture, "GenerateDataKey", data_key).await, "ThrottlingException");
    assert_eq!(fails(&fixture, "GenerateRandom", json!({"NumberOfBytes": 8})).await, "ThrottlingException");
    works(&fixture, "GenerateDataKeyPair", json!({"KeyId": symmetric, "KeyPairSpec": "ECC_NIST_P256"})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_on_another_account_s_key_counts_against_the_caller() {
    let (fixture, _clock) = limited("symmetric = \"1/m\"").await;
    let (admin, neighbour) = (fixture.admin(), fixture.user("neighbour"));
    let policy = json!({"Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Action": "kms:*", "Resource": "*",
        "Principal": {"AWS": [format!("arn:aws:iam::{ACCOUNT}:root"), format!("arn:aws:iam::{OTHER}:root")]},
    }]});
    let created = ok(&admin, "TrentService.CreateKey", json!({"Policy": policy.to_string()})).await;
    let data_key = json!({"KeyId": created.body["KeyMetadata"]["Arn"], "KeySpec": "AES_256"});
    ok(&neighbour, "TrentService.GenerateDataKey", data_key.clone()).await;
    let (code, _) = refused(&neighbour, "TrentService.GenerateDataKey", data_key.clone()).await;
    assert_eq!(code, "ThrottlingException");
    ok(&admin, "TrentService.GenerateDataKey", data_key).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_responder_has_a_lane_of_its_own() {
    let (fixture, _clock) = limited("DescribeKey = \"1/m\"\nDisableKey = \"1/m\"\nEnableKey = \"1/m\"").await;
    let (admin, responder) = (fixture.admin(), fixture.responder());
    let named = json!({"KeyId": create_key(&admin).await});
    for operation in ["DescribeKey", "DisableKey", "EnableKey"] {
        let target = format!("TrentService.{operation}");
        ok(&admin, &target, named.clone()).await;
        let flood = repeated(20, || refused(&admin, &target, named.clone()));
        let acting = async {
            for _ in 0..5 {
                ok(&responder, &target, named.clone()).await;
            }
        };
        let (throttled, ()) = tokio::join!(flood, acting);
        assert!(throttled.iter().all(|(code, _)| code == "ThrottlingException"), "{operation}: {throttled:?}");
    }
}

/// Runs the same call many times, one after another.
async fn repeated<T, F: Future<Output = T>>(times: usize, call: impl Fn() -> F) -> Vec<T> {
    let mut all = Vec::with_capacity(times);
    for _ in 0..times {
        all.push(call().await);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_and_iam_have_their_own_and_speak_their_protocol() {
    let (fixture, _clock) = limited("sts = \"1/m\"").await;
    let keys = user_credentials("powerless");
    let ask = [("Action", "GetCallerIdentity")];
    assert_eq!(sts::sts(&fixture, &keys, None, &ask).await.0, 200);
    let (status, xml) = sts::sts(&fixture, &keys, None, &ask).await;
    assert_eq!((status, sts::element(&xml, "Code")), (400, "Throttling"));
    assert_eq!(fixture.events().last().unwrap().1.error_code.as_deref(), Some("ThrottlingException"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_has_so_many_keys_and_no_more() {
    let (mut fixture, clock) = limited("keys = \"2\"").await;
    let admin = fixture.admin();
    let key = create_key(&admin).await;
    create_key(&admin).await;
    let rsa = json!({"KeySpec": "RSA_2048", "KeyUsage": "SIGN_VERIFY"});
    for body in [json!({}), rsa] {
        assert_eq!(refused(&admin, "TrentService.CreateKey", body).await.0, "LimitExceededException");
    }
    create_key(&fixture.user("neighbour")).await;
    fixture.stop().await;
    fixture.start().await.unwrap();
    assert_eq!(fails(&fixture, "CreateKey", json!({})).await, "LimitExceededException");
    works(&fixture, "ScheduleKeyDeletion", json!({"KeyId": key, "PendingWindowInDays": 7})).await;
    assert_eq!(fails(&fixture, "CreateKey", json!({})).await, "LimitExceededException");
    clock.advance(Duration::from_secs(7 * 86_400));
    crate::ops::make_due_changes(fixture.kms.as_ref().unwrap().node()).await;
    works(&fixture, "CreateKey", json!({})).await;
}
