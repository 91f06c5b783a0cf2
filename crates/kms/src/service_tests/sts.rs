//! Sessions as callers see them: opened over the query protocol, used with their token, limited, quarantined, over.

use super::*;
use crate::auth::credentials::SecretKey;

/// Temporary credentials as a caller holds them.
pub(super) struct Temporary {
    pub(super) credentials: Credentials,
    pub(super) token: String,
}

/// The text of the first element of this name.
pub(super) fn element<'a>(xml: &'a str, name: &str) -> &'a str {
    let rest = xml.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("no {name} in {xml}")).1;
    rest.split_once("</").unwrap().0
}

/// A form with its values encoded.
pub(super) fn form(pairs: &[(&str, &str)]) -> String {
    let encode =
        |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
    let pairs = pairs.iter().map(|(name, value)| format!("{name}={}", encode(value)));
    pairs.chain(["Version=2011-06-15".to_owned()]).collect::<Vec<_>>().join("&")
}

fn now_us(fixture: &Fixture) -> u64 {
    fixture.clock.now_us()
}

/// Calls STS with long-term keys, or with temporary ones.
pub(super) async fn sts(
    fixture: &Fixture,
    keys: &Credentials,
    token: Option<&str>,
    pairs: &[(&str, &str)],
) -> (u16, String) {
    let mut headers = vec![("content-type", "application/x-www-form-urlencoded; charset=utf-8")];
    headers.extend(token.map(|token| ("x-amz-security-token", token)));
    raw(fixture, &headers, form(pairs).as_bytes(), Some((keys, REGION, "sts", now_us(fixture)))).await
}

pub(super) fn temporary(xml: &str) -> Temporary {
    let secret = SecretKey::new(element(xml, "SecretAccessKey").to_owned()).unwrap();
    let credentials = Credentials::new(element(xml, "AccessKeyId"), secret).unwrap();
    Temporary { credentials, token: element(xml, "SessionToken").to_owned() }
}

pub(super) async fn assume(fixture: &Fixture, keys: &Credentials, pairs: &[(&str, &str)]) -> Temporary {
    let all = [&[("Action", "AssumeRole"), ("RoleSessionName", "night-shift")], pairs].concat();
    let (status, xml) = sts(fixture, keys, None, &all).await;
    assert_eq!(status, 200, "{xml}");
    temporary(&xml)
}

/// Calls the KMS with temporary credentials; the exception, or nothing.
pub(super) async fn kms(fixture: &Fixture, keys: &Temporary, target: &str, body: Value) -> Option<String> {
    let headers = [("x-amz-target", target), ("x-amz-security-token", keys.token.as_str())];
    let signing = Some((&keys.credentials, REGION, "kms", now_us(fixture)));
    let (status, text) = raw(fixture, &headers, body.to_string().as_bytes(), signing).await;
    let exception = || serde_json::from_str::<Value>(&text).unwrap()["__type"].as_str().unwrap().to_owned();
    (status != 200).then(exception)
}

/// Who asks, how, and what comes of it.
type Attempt<'a> = (&'a Credentials, Vec<(&'a str, &'a str)>, &'a str);

pub(super) fn arn_of(role: &str) -> String {
    format!("arn:aws:iam::{ACCOUNT}:role/{role}")
}

fn allow(action: &str, more: &str) -> String {
    format!(r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":"{action}","Resource":"*"{more}}}]}}"#)
}

pub(super) fn role(name: &str, principal: &str, condition: &str, policies: &[String], more: &str) -> String {
    let policies: Vec<String> = policies.iter().map(|policy| format!("'''{policy}'''")).collect();
    format!(
        "[[role]]\naccount = \"{ACCOUNT}\"\nname = \"{name}\"\npolicies = [{}]\n{more}\ntrust = '''\
         {{\"Version\":\"2012-10-17\",\"Statement\":[{{\"Sid\":\"Let\",\"Effect\":\"Allow\",\"Principal\":{{\"AWS\":\"{principal}\"}},\
         \"Action\":[\"sts:AssumeRole\",\"sts:TagSession\"]{condition}}}]}}'''\n",
        policies.join(",")
    )
}

/// A service with roles, on a clock that the test moves.
async fn fixture() -> (Fixture, Arc<FakeClock>) {
    let clock = Arc::new(FakeClock::new(SystemClock.now_us()));
    let mut fixture = Fixture::with_clock(Arc::<FakeClock>::clone(&clock)).await;
    fixture.stop().await;
    let powerless = format!("arn:aws:iam::{ACCOUNT}:user/powerless");
    let all = allow("kms:*", "");
    let two_keys = r#"["kms:Encrypt","kms:Decrypt","kms:GenerateDataKey"]"#;
    let uses = allow("kms:*", "").replace("\"kms:*\"", two_keys);
    fixture.append_identities(&role("keeper", &powerless, "", std::slice::from_ref(&all), ""));
    fixture.append_identities(&role("by-account", ACCOUNT, "", std::slice::from_ref(&all), ""));
    let partner = format!("arn:aws:iam::{OTHER}:root");
    let external = r#","Condition":{"StringEquals":{"sts:ExternalId":"secret-handshake"}}"#;
    fixture.append_identities(&role("partner", &partner, external, std::slice::from_ref(&all), ""));
    let bounded = format!("permissions_boundary = '''{uses}'''\nmax_session_secs = 7200");
    fixture.append_identities(&role("bounded", &powerless, "", std::slice::from_ref(&all), &bounded));
    let next = format!("arn:aws:iam::{ACCOUNT}:role/keeper");
    fixture.append_identities(&role("next", &next, "", &[all], ""));
    fixture.start().await.unwrap();
    (fixture, clock)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_does_what_its_role_may_until_it_is_over() {
    let (mut fixture, clock) = fixture().await;
    let powerless = user_credentials("powerless");
    let key = create_key(&fixture.admin()).await;
    let session = assume(&fixture, &powerless, &[("RoleArn", &arn_of("keeper")), ("DurationSeconds", "900")]).await;
    let event = fixture.events().pop().unwrap().1;
    assert_eq!((event.event_source.as_str(), event.event_name.as_str()), ("sts.amazonaws.com", "AssumeRole"));
    assert_eq!(event.additional_event_data.decided_by.as_deref(), Some("TrustPolicy/Let"));
    assert_eq!((event.read_only, event.resources[0].kind.as_str()), (true, "AWS::IAM::Role"));
    let elements = event.response_elements.unwrap();
    assert_eq!(elements["credentials"]["accessKeyId"], session.credentials.access_key_id);

    assert_eq!(kms(&fixture, &session, "TrentService.DescribeKey", json!({"KeyId": key})).await, None);
    let event = fixture.events().pop().unwrap().1;
    let identity = event.user_identity;
    let page = include_str!("../../../../docs/event.md").split("```json userIdentity\n").nth(1).unwrap();
    let documented: Value = serde_json::from_str(page.split("```").next().unwrap()).unwrap();
    let (mut documented_paths, mut written) = Default::default();
    paths(&documented, "", &mut documented_paths);
    paths(&serde_json::to_value(&identity).unwrap(), "", &mut written);
    assert_eq!(written, documented_paths);
    assert_eq!(identity.kind.as_deref(), Some("AssumedRole"));
    let arn = format!("arn:aws:sts::{ACCOUNT}:assumed-role/keeper/night-shift");
    assert_eq!((identity.arn.as_deref(), identity.user_name), (Some(arn.as_str()), None));
    let context = identity.session_context.unwrap();
    let issuer = context.session_issuer.unwrap();
    assert_eq!((issuer.kind.as_str(), issuer.arn), ("Role", arn_of("keeper")));
    assert_eq!(identity.principal_id, Some(format!("{}:night-shift", issuer.principal_id)));
    assert_eq!(context.attributes.mfa_authenticated, "false");
    let identity = [("Action", "GetCallerIdentity")];
    let (_, xml) = sts(&fixture, &session.credentials, Some(&session.token), &identity).await;
    assert_eq!(element(&xml, "Arn"), arn);

    // Nothing is kept of it, so it outlives a restart, and ends at its time.
    fixture.stop().await;
    fixture.start().await.unwrap();
    clock.advance(Duration::from_secs(899));
    assert_eq!(kms(&fixture, &session, "TrentService.DescribeKey", json!({"KeyId": key})).await, None);
    clock.advance(Duration::from_secs(1));
    let over = kms(&fixture, &session, "TrentService.DescribeKey", json!({"KeyId": key})).await;
    assert_eq!(over.as_deref(), Some("ExpiredTokenException"));
    let event = fixture.events().pop().unwrap().1;
    assert_eq!((event.error_code.as_deref(), event.user_identity.arn), (Some("ExpiredTokenException"), Some(arn)));
    let (status, xml) = sts(&fixture, &session.credentials, Some(&session.token), &identity).await;
    assert_eq!((status, element(&xml, "Code")), (403, "ExpiredToken"));
    fixture.stop().await;
    for (_, payload) in fixture.records() {
        let text = String::from_utf8(payload).unwrap();
        assert!(!text.contains(session.credentials.secret.expose()) && !text.contains(&session.token), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_keys_work_with_their_own_signed_token_only() {
    let (fixture, _) = fixture().await;
    let powerless = user_credentials("powerless");
    let (one, two) = (
        assume(&fixture, &powerless, &[("RoleArn", &arn_of("keeper"))]).await,
        assume(&fixture, &powerless, &[("RoleArn", &arn_of("keeper"))]).await,
    );
    let list = "TrentService.ListKeys";
    let attempt = async |keys: &Credentials, token: Option<&str>, signed: bool| {
        let target = [("x-amz-target", list)];
        let token: Vec<(&str, &str)> = token.map(|token| ("x-amz-security-token", token)).into_iter().collect();
        let all = [&target[..], &token].concat();
        let signing = Some((keys, REGION, "kms", now_us(&fixture)));
        if signed {
            return raw(&fixture, &all, b"{}", signing).await.1;
        }
        // Signed without the token, which is added on the way.
        let host = fixture.kms.as_ref().unwrap().addr.to_string();
        let parts = [("host", host.as_bytes()), ("x-amz-target", list.as_bytes())];
        let parts = RequestParts { method: "POST", path: "/", query: "", headers: &parts, body: b"{}" };
        let mut request = reqwest::Client::new().post(fixture.endpoint()).body("{}");
        for (name, value) in all {
            request = request.header(name, value);
        }
        for (name, value) in sign(keys, &parts, REGION, "kms", now_us(&fixture)) {
            request = request.header(name, value);
        }
        request.send().await.unwrap().text().await.unwrap()
    };
    assert!(attempt(&one.credentials, Some(&one.token), true).await.contains("Keys"));
    let mut damaged = one.token.clone();
    damaged.replace_range(100..101, if damaged.as_bytes()[100] == b'A' { "B" } else { "A" });
    for (name, keys, token, signed, code) in [
        ("no token", &one.credentials, None, true, "UnrecognizedClientException"),
        ("another's token", &one.credentials, Some(two.token.as_str()), true, "UnrecognizedClientException"),
        ("damaged", &one.credentials, Some(damaged.as_str()), true, "UnrecognizedClientException"),
        ("not a token", &one.credentials, Some("x"), true, "UnrecognizedClientException"),
        ("beside a long-term key", &powerless, Some(one.token.as_str()), true, "UnrecognizedClientException"),
        ("unsigned token", &one.credentials, Some(one.token.as_str()), false, "InvalidSignatureException"),
    ] {
        let text = attempt(keys, token, signed).await;
        assert!(text.contains(code), "{name}: {text}");
    }
    let wrong = Credentials::new(one.credentials.access_key_id.clone(), SecretKey::generate().unwrap()).unwrap();
    assert!(attempt(&wrong, Some(&one.token), true).await.contains("InvalidSignatureException"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_assume_a_role_is_told_no_more_than_that() {
    let (fixture, _) = fixture().await;
    let (powerless, neighbour) = (user_credentials("powerless"), user_credentials("neighbour"));
    let admin = Credentials::read(&fixture.dir().join("credentials"), "default").unwrap();
    let break_glass = Credentials::read(&fixture.dir().join("break-glass"), "break-glass").unwrap();
    let attempt = async |keys: &Credentials, pairs: &[(&str, &str)]| {
        let all = [&[("Action", "AssumeRole")], pairs].concat();
        let (_, xml) = sts(&fixture, keys, None, &all).await;
        if xml.contains("<Code>") { element(&xml, "Code").to_owned() } else { "fine".to_owned() }
    };
    let named = ("RoleSessionName", "x1");
    let (keeper, by_account, partner) = (arn_of("keeper"), arn_of("by-account"), arn_of("partner"));
    let (bounded, missing) = (arn_of("bounded"), arn_of("missing"));
    let long = "x".repeat(2_100);
    let no_json = [("RoleArn", keeper.as_str()), named, ("Policy", "{")];
    let cases: Vec<Attempt<'_>> = vec![
        (&powerless, vec![("RoleArn", &keeper), named], "fine"),
        (&admin, vec![("RoleArn", &keeper), named], "AccessDenied"),
        (&break_glass, vec![("RoleArn", &keeper), named], "AccessDenied"),
        (&admin, vec![("RoleArn", &by_account), named], "fine"),
        (&powerless, vec![("RoleArn", &by_account), named], "AccessDenied"),
        (&neighbour, vec![("RoleArn", &by_account), named], "AccessDenied"),
        (&powerless, vec![("RoleArn", &missing), named], "AccessDenied"),
        (&neighbour, vec![("RoleArn", &partner), named], "AccessDenied"),
        (&neighbour, vec![("RoleArn", &partner), named, ("ExternalId", "guess")], "AccessDenied"),
        (&neighbour, vec![("RoleArn", &partner), named, ("ExternalId", "secret-handshake")], "fine"),
        (&powerless, vec![("RoleArn", &keeper)], "ValidationError"),
        (&powerless, vec![named], "ValidationError"),
        (&powerless, vec![("RoleArn", &keeper), ("RoleSessionName", "x/y")], "ValidationError"),
        (&powerless, vec![("RoleArn", &keeper), named, ("DurationSeconds", "899")], "ValidationError"),
        (&powerless, vec![("RoleArn", &keeper), named, ("DurationSeconds", "43201")], "ValidationError"),
        (&powerless, vec![("RoleArn", &keeper), named, ("DurationSeconds", "an hour")], "ValidationError"),
        (&powerless, vec![("RoleArn", &keeper), named, ("DurationSeconds", "7200")], "ValidationError"),
        (&powerless, vec![("RoleArn", &bounded), named, ("DurationSeconds", "7200")], "fine"),
        (&powerless, vec![("RoleArn", &keeper), named, ("SourceIdentity", "me")], "ValidationError"),
        (&powerless, vec![("RoleArn", &keeper), named, ("TransitiveTagKeys.member.1", "a")], "InvalidParameterValue"),
        (&powerless, vec![("RoleArn", "nothing-that-is-an-arn"), named], "ValidationError"),
        (
            &powerless,
            vec![
                ("RoleArn", &keeper),
                named,
                ("Tags.member.1.Key", "a"),
                ("Tags.member.1.Value", ""),
                ("Tags.member.2.Key", "A"),
                ("Tags.member.2.Value", ""),
            ],
            "InvalidParameterValue",
        ),
        (&powerless, no_json.to_vec(), "MalformedPolicyDocument"),
        (&powerless, vec![("RoleArn", &keeper), named, ("Policy", &long)], "ValidationError"),
        (
            &powerless,
            vec![("RoleArn", &keeper), named, ("PolicyArns.member.1.arn", "arn:aws:iam::aws:policy/None")],
            "MalformedPolicyDocument",
        ),
        (&powerless, vec![("RoleArn", &keeper), named, ("Tags.member.1", "a")], "MalformedInput"),
    ];
    for (keys, pairs, want) in cases {
        let before = fixture.events().len();
        assert_eq!(attempt(keys, &pairs).await, want, "{} {pairs:?}", keys.access_key_id);
        let events = fixture.events();
        assert_eq!(events.len(), before + 1);
        assert_eq!(events.last().unwrap().1.error_code.is_some(), want != "fine");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn boundaries_and_session_policies_narrow_and_tags_follow() {
    let (fixture, _) = fixture().await;
    let powerless = user_credentials("powerless");
    let key = create_key(&fixture.admin()).await;
    let named = json!({"KeyId": key});
    let data_key = json!({"KeyId": key, "KeySpec": "AES_256"});
    let denied = Some("AccessDeniedException".to_owned());
    let bounded = assume(&fixture, &powerless, &[("RoleArn", &arn_of("bounded"))]).await;
    assert_eq!(kms(&fixture, &bounded, "TrentService.GenerateDataKey", data_key.clone()).await, None);
    assert_eq!(kms(&fixture, &bounded, "TrentService.DescribeKey", named.clone()).await, denied);
    let decided_by = fixture.events().pop().unwrap().1.additional_event_data.decided_by;
    assert_eq!(decided_by.as_deref(), Some("PermissionsBoundary/bounded#0"));

    let policy = allow("kms:Describe*", "");
    let narrow = assume(&fixture, &powerless, &[("RoleArn", &arn_of("keeper")), ("Policy", &policy)]).await;
    assert_eq!(kms(&fixture, &narrow, "TrentService.DescribeKey", named.clone()).await, None);
    assert_eq!(kms(&fixture, &narrow, "TrentService.GenerateDataKey", data_key.clone()).await, denied);
    let decided_by = fixture.events().pop().unwrap().1.additional_event_data.decided_by;
    assert_eq!(decided_by.as_deref(), Some("SessionPolicy"));
    let arn = "arn:aws:iam::aws:policy/AdministratorAccess";
    let wide = assume(&fixture, &powerless, &[("RoleArn", &arn_of("keeper")), ("PolicyArns.member.1.arn", arn)]).await;
    assert_eq!(kms(&fixture, &wide, "TrentService.GenerateDataKey", data_key).await, None);

    // A transitive tag goes on into the next session and cannot be set anew there.
    let tags = [("Tags.member.1.Key", "team"), ("Tags.member.1.Value", "red"), ("TransitiveTagKeys.member.1", "team")];
    let pairs = [&[("RoleArn", arn_of("keeper"))][..], &[]].concat();
    let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let first = assume(&fixture, &powerless, &[&pairs[..], &tags].concat()).await;
    let next = [("Action", "AssumeRole"), ("RoleArn", &arn_of("next")), ("RoleSessionName", "second")];
    let (status, xml) = sts(&fixture, &first.credentials, Some(&first.token), &next).await;
    assert_eq!(status, 200, "{xml}");
    assert!(xml.contains("<PackedPolicySize>"), "{xml}");
    let (status, xml) = sts(&fixture, &first.credentials, Some(&first.token), &[&next[..], &tags].concat()).await;
    assert_eq!((status, element(&xml, "Code")), (400, "InvalidParameterValue"));
    let long = [&next[..], &[("DurationSeconds", "3601")]].concat();
    let (status, xml) = sts(&fixture, &first.credentials, Some(&first.token), &long).await;
    assert!(status == 400 && xml.contains("role chaining"), "{xml}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantine_reaches_the_sessions_of_a_role_and_of_whoever_opened_them() {
    let (fixture, _) = fixture().await;
    let powerless = user_credentials("powerless");
    let responder = fixture.responder();
    let key = create_key(&fixture.admin()).await;
    let data_key = json!({"KeyId": key, "KeySpec": "AES_256"});
    let session = assume(&fixture, &powerless, &[("RoleArn", &arn_of("keeper"))]).await;
    let denied = Some("AccessDeniedException".to_owned());
    let user = format!("arn:aws:iam::{ACCOUNT}:user/powerless");
    let own = format!("arn:aws:sts::{ACCOUNT}:assumed-role/keeper/night-shift");
    for (named, kept) in [(own, arn_of("keeper")), (arn_of("keeper"), arn_of("keeper")), (user.clone(), user)] {
        let put = json!({"PrincipalArn": named, "TtlSeconds": 60});
        let answer = ok(&responder, "KeytrailService.PutQuarantine", put).await;
        assert_eq!(answer.body["PrincipalArn"], kept);
        assert_eq!(kms(&fixture, &session, "TrentService.GenerateDataKey", data_key.clone()).await, denied, "{named}");
        assert_eq!(kms(&fixture, &session, "TrentService.DescribeKey", json!({"KeyId": key})).await, None);
        ok(&responder, "KeytrailService.LiftQuarantine", json!({"PrincipalArn": named})).await;
        assert_eq!(kms(&fixture, &session, "TrentService.GenerateDataKey", data_key.clone()).await, None, "{named}");
    }
    // Whoever reads the log sees through the change of roles, too.
    let used = fixture.events().into_iter().rfind(|(_, event)| event.event_name == "GenerateDataKey").unwrap().1;
    let opener = format!("arn:aws:iam::{ACCOUNT}:user/powerless");
    assert_eq!(used.additional_event_data.more["openedBy"], json!([opener]));
    let put = json!({"PrincipalArn": opener, "TtlSeconds": 60});
    ok(&responder, "KeytrailService.PutQuarantine", put).await;
    let again = [("Action", "AssumeRole"), ("RoleArn", &arn_of("keeper")), ("RoleSessionName", "again")];
    let (status, xml) = sts(&fixture, &powerless, None, &again).await;
    assert_eq!((status, element(&xml, "Code")), (403, "AccessDenied"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_account_of_a_key_is_told_to_those_who_may_ask() {
    let (fixture, _) = fixture().await;
    let admin = Credentials::read(&fixture.dir().join("credentials"), "default").unwrap();
    let neighbour = user_credentials("neighbour");
    let ask = async |keys: &Credentials, id: &str| {
        sts(&fixture, keys, None, &[("Action", "GetAccessKeyInfo"), ("AccessKeyId", id)]).await
    };
    let (status, xml) = ask(&admin, &neighbour.access_key_id).await;
    assert_eq!((status, element(&xml, "Account")), (200, OTHER));
    for (keys, id, want) in [
        (&admin, "AKIANOBODYNOBODYNOBO", (400, "ValidationError")),
        (&admin, "x", (400, "ValidationError")),
        (&user_credentials("powerless"), admin.access_key_id.as_str(), (403, "AccessDenied")),
    ] {
        let (status, xml) = ask(keys, id).await;
        assert_eq!((status, element(&xml, "Code")), want, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_role() {
    let (mut fixture, _) = fixture().await;
    let session = assume(&fixture, &user_credentials("powerless"), &[("RoleArn", &arn_of("keeper"))]).await;
    assert_eq!(kms(&fixture, &session, "TrentService.ListKeys", json!({})).await, None);
    fixture.stop().await;
    let path = fixture.dir().join("identities.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"keeper\"", "\"renamed\"")).unwrap();
    fixture.start().await.unwrap();
    let gone = kms(&fixture, &session, "TrentService.ListKeys", json!({})).await;
    assert_eq!(gone.as_deref(), Some("UnrecognizedClientException"));
}
