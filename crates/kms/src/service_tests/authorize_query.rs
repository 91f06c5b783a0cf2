//! Whether a call of CloudTrail's query operations that the trail received is its caller's, and whether that one may: judged here.

use super::sts::{sts, temporary};
use super::*;

const CLOUDTRAIL: &str = "com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101.";
const STATEMENT: &str = r#"{"QueryStatement": "SELECT 1"}"#;

/// What the trail would say of a call signed by `keys`, with one header more that is signed.
fn received(fixture: &Fixture, keys: &Credentials, target: &str, more: Option<(&str, &str)>, service: &str) -> Value {
    let mut headers = vec![("host", "trail.example:7641"), ("x-amz-target", target)];
    headers.extend(more);
    let bytes: Vec<(&str, &[u8])> = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
    let parts = RequestParts { method: "POST", path: "/", query: "", headers: &bytes, body: STATEMENT.as_bytes() };
    let signed = sign(keys, &parts, REGION, service, fixture.clock.now_us());
    let all = headers.into_iter().map(|(name, value)| json!([name, value]));
    let all: Vec<Value> = all.chain(signed.iter().map(|(name, value)| json!([name, value]))).collect();
    json!({
        "Method": "POST", "Path": "/", "Query": "", "Headers": all, "Body": STATEMENT, "ClientAddress": "::ffff:192.0.2.7",
    })
}

fn keys_of(fixture: &Fixture, file: &str, name: &str) -> Credentials {
    Credentials::read(&fixture.dir().join(file), name).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_callers_own_call_is_judged_and_recorded() {
    let fixture = Fixture::new().await;
    let trail = fixture.client("service-credentials", "trail");
    let admin = keys_of(&fixture, "credentials", "default");
    let target = format!("{CLOUDTRAIL}StartQuery");
    let asked = received(&fixture, &admin, &target, Some(("user-agent", "hunt/1")), "cloudtrail");
    let answer = ok(&trail, "KeytrailService.AuthorizeQuery", asked).await;
    let arn = format!("arn:aws:iam::{ACCOUNT}:user/administrator");
    assert_eq!(answer.body, json!({"Arn": arn, "Account": ACCOUNT, "Operation": "StartQuery"}));
    let event = fixture.event(answer.seq.unwrap());
    assert_eq!((event.event_source.as_str(), event.event_name.as_str()), ("cloudtrail.amazonaws.com", "StartQuery"));
    assert_eq!(event.user_identity.arn, Some(arn));
    assert_eq!((event.source_ip_address.as_str(), event.user_agent.as_deref()), ("192.0.2.7", Some("hunt/1")));
    assert_eq!(event.request_parameters.unwrap(), json!({"queryStatement": "SELECT 1"}));

    // A session with its token.
    let (status, xml) = sts(&fixture, &admin, None, &[("Action", "GetSessionToken")]).await;
    assert_eq!(status, 200, "{xml}");
    let session = temporary(&xml);
    let token = Some(("x-amz-security-token", session.token.as_str()));
    let asked = received(&fixture, &session.credentials, &target, token, "cloudtrail");
    ok(&trail, "KeytrailService.AuthorizeQuery", asked).await;
    let asked = received(&fixture, &session.credentials, &target, None, "cloudtrail");
    let (code, _) = refused(&trail, "KeytrailService.AuthorizeQuery", asked).await;
    assert_eq!(code, "UnrecognizedClientException", "a temporary key without its token");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_hold_is_refused_in_awss_words_and_recorded_as_the_callers() {
    let fixture = Fixture::new().await;
    let trail = fixture.client("service-credentials", "trail");
    let admin = keys_of(&fixture, "credentials", "default");
    let target = format!("{CLOUDTRAIL}StartQuery");
    let good = received(&fixture, &admin, &target, None, "cloudtrail");
    let mut other_body = good.clone();
    other_body["Body"] = r#"{"QueryStatement": "SELECT 2"}"#.into();
    let mut other_operation = good.clone();
    other_operation["Headers"][1][1] = format!("{CLOUDTRAIL}CancelQuery").into();
    let mut unsigned = good.clone();
    unsigned["Headers"] = json!([["host", "trail.example:7641"], ["x-amz-target", target]]);
    let powerless = received(&fixture, &user_credentials("powerless"), &target, None, "cloudtrail");
    let neighbour = received(&fixture, &user_credentials("neighbour"), &target, None, "cloudtrail");
    let own = received(&fixture, &keys_of(&fixture, "service-credentials", "trail"), &target, None, "cloudtrail");
    let behalf = Some(("x-keytrail-on-behalf-of", "arn:aws:iam::123456789012:user/administrator"));
    for (asked, code, recorded) in [
        (other_body, "InvalidSignatureException", "StartQuery"),
        (other_operation, "InvalidSignatureException", "CancelQuery"),
        (unsigned, "MissingAuthenticationTokenException", "StartQuery"),
        (received(&fixture, &admin, &target, None, "kms"), "InvalidSignatureException", "StartQuery"),
        (received(&fixture, &admin, &target, behalf, "cloudtrail"), "ValidationException", "StartQuery"),
        (powerless, "AccessDeniedException", "StartQuery"),
        // It may do everything in its own account, and the tables hold those of all.
        (neighbour, "AccessDeniedException", "StartQuery"),
        (own, "AccessDeniedException", "StartQuery"),
        (
            received(&fixture, &admin, "TrentService.Decrypt", None, "cloudtrail"),
            "UnknownOperationException",
            "AuthorizeQuery",
        ),
    ] {
        let (found, seq) = refused(&trail, "KeytrailService.AuthorizeQuery", asked.clone()).await;
        assert_eq!(found, code, "{asked}");
        assert_eq!(fixture.event(seq).event_name, recorded, "{asked}");
    }
    let (code, seq) = refused(&fixture.admin(), "KeytrailService.AuthorizeQuery", good).await;
    assert_eq!((code.as_str(), fixture.event(seq).event_name.as_str()), ("AccessDeniedException", "AuthorizeQuery"));
}
