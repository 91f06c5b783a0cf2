//! IAM as its callers see it: people made and unmade over the wire, next to those of identities.toml.

use super::sts::{element, temporary};
use super::*;
use crate::auth::credentials::SecretKey;
use crate::auth::totp::Seed;

fn form(pairs: &[(&str, &str)]) -> String {
    let encode =
        |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
    let pairs = pairs.iter().map(|(name, value)| format!("{name}={}", encode(value)));
    pairs.chain(["Version=2010-05-08".to_owned()]).collect::<Vec<_>>().join("&")
}

/// Calls IAM; status and XML.
async fn call(fixture: &Fixture, keys: &Credentials, action: &str, pairs: &[(&str, &str)]) -> (u16, String) {
    let all = [&[("Action", action)], pairs].concat();
    let headers = [("content-type", "application/x-www-form-urlencoded; charset=utf-8")];
    raw(fixture, &headers, form(&all).as_bytes(), Some((keys, REGION, "iam", fixture.clock.now_us()))).await
}

pub(super) async fn done(fixture: &Fixture, action: &str, pairs: &[(&str, &str)]) -> String {
    let (status, xml) = call(fixture, &admin(fixture), action, pairs).await;
    assert_eq!(status, 200, "{action} {pairs:?}: {xml}");
    xml
}

pub(super) async fn refusal(fixture: &Fixture, action: &str, pairs: &[(&str, &str)]) -> (u16, String) {
    let (status, xml) = call(fixture, &admin(fixture), action, pairs).await;
    assert_ne!(status, 200, "{action} {pairs:?}: {xml}");
    (status, element(&xml, "Code").to_owned())
}

fn admin(fixture: &Fixture) -> Credentials {
    Credentials::read(&fixture.dir().join("credentials"), "default").unwrap()
}

pub(super) fn access_key(xml: &str) -> Credentials {
    let secret = SecretKey::new(element(xml, "SecretAccessKey").to_owned()).unwrap();
    Credentials::new(element(xml, "AccessKeyId"), secret).unwrap()
}

fn allow(action: &str) -> String {
    format!(r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":"{action}","Resource":"*"}}]}}"#)
}

async fn list_keys(fixture: &Fixture, keys: &Credentials) -> Result<(), String> {
    let signing = Some((keys, REGION, "kms", fixture.clock.now_us()));
    let (status, text) = raw(fixture, &[("x-amz-target", "TrentService.ListKeys")], b"{}", signing).await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    if status == 200 { Ok(()) } else { Err(answer["__type"].as_str().unwrap().to_owned()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_made_over_the_wire_lives_in_the_store_and_the_log() {
    let mut fixture = Fixture::new().await;
    let xml = done(
        &fixture,
        "CreateUser",
        &[("UserName", "maria"), ("Tags.member.1.Key", "team"), ("Tags.member.1.Value", "red")],
    )
    .await;
    assert_eq!(element(&xml, "Arn"), "arn:aws:iam::123456789012:user/maria");
    let event = fixture.events().pop().unwrap().1;
    assert_eq!((event.event_source.as_str(), event.event_name.as_str()), ("iam.amazonaws.com", "CreateUser"));
    assert_eq!((event.read_only, event.resources[0].kind.as_str()), (false, "AWS::IAM::User"));
    let after = event.additional_event_data.after.unwrap();
    assert_eq!((&after["userName"], &after["tags"]["team"]), (&json!("maria"), &json!("red")));
    assert_eq!(event.response_elements.unwrap()["user"]["userName"], "maria");
    assert!(event.additional_event_data.mutation.is_some() && event.additional_event_data.before.is_none());

    let keys = access_key(&done(&fixture, "CreateAccessKey", &[("UserName", "maria")]).await);
    let denied = Err("AccessDeniedException".to_owned());
    assert_eq!(list_keys(&fixture, &keys).await, denied);
    let policy = [("UserName", "maria"), ("PolicyName", "look"), ("PolicyDocument", &allow("kms:ListKeys"))];
    done(&fixture, "PutUserPolicy", &policy).await;
    assert_eq!(list_keys(&fixture, &keys).await, Ok(()));
    let decided_by = fixture.events().pop().unwrap().1.additional_event_data.decided_by;
    assert_eq!(decided_by.as_deref(), Some("IdentityPolicy/look/0"));

    // All of it survives a restart, secret included, and the secret is in no file.
    fixture.stop().await;
    fixture.start().await.unwrap();
    assert_eq!(list_keys(&fixture, &keys).await, Ok(()));
    done(
        &fixture,
        "UpdateAccessKey",
        &[("UserName", "maria"), ("AccessKeyId", &keys.access_key_id), ("Status", "Inactive")],
    )
    .await;
    assert_eq!(list_keys(&fixture, &keys).await, Err("UnrecognizedClientException".to_owned()));
    assert_eq!(refusal(&fixture, "DeleteUser", &[("UserName", "maria")]).await, (409, "DeleteConflict".to_owned()));
    done(&fixture, "DeleteAccessKey", &[("UserName", "maria"), ("AccessKeyId", &keys.access_key_id)]).await;
    done(&fixture, "DeleteUserPolicy", &[("UserName", "maria"), ("PolicyName", "look")]).await;
    done(&fixture, "DeleteUser", &[("UserName", "maria")]).await;
    let event = fixture.events().pop().unwrap().1;
    assert_eq!(event.additional_event_data.before.unwrap()["userName"], "maria");
    assert_eq!(refusal(&fixture, "GetUser", &[("UserName", "maria")]).await, (404, "NoSuchEntity".to_owned()));
    fixture.stop().await;
    for file in ["kms.db", "kms.db-wal"] {
        let bytes = std::fs::read(fixture.dir().join(file)).unwrap_or_default();
        let secret = keys.secret.expose().as_bytes();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{file}");
    }
    for (_, payload) in fixture.records() {
        assert!(!String::from_utf8(payload).unwrap().contains(keys.secret.expose()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_iam_operation_can_be_denied_and_is_one_event() {
    let fixture = Fixture::new().await;
    done(&fixture, "CreatePolicy", &[("PolicyName", "p"), ("PolicyDocument", &allow("kms:ListKeys"))]).await;
    let powerless = user_credentials("powerless");
    let pairs = [
        ("UserName", "u"),
        ("GroupName", "g"),
        ("RoleName", "r"),
        ("PolicyName", "n"),
        ("PolicyArn", "arn:aws:iam::123456789012:policy/p"),
        ("PolicyDocument", &allow("*")),
        ("AssumeRolePolicyDocument", "{}"),
        ("AccessKeyId", "AKIAAAAAAAAAAAAAAAAA"),
        ("Status", "Active"),
        ("SerialNumber", "arn:aws:iam::123456789012:mfa/m"),
        ("VirtualMFADeviceName", "m"),
        ("PermissionsBoundary", "arn:aws:iam::123456789012:policy/p"),
        ("VersionId", "v1"),
        ("Url", "https://issuer.example.org"),
        ("OpenIDConnectProviderArn", "arn:aws:iam::123456789012:oidc-provider/issuer.example.org"),
        ("ClientID", "orders"),
        ("AuthenticationCode1", "123456"),
        ("AuthenticationCode2", "654321"),
    ];
    let operations: Vec<&str> = crate::ops::iam_operations().collect();
    assert!(operations.len() > 60);
    for operation in operations {
        let before = fixture.events().len();
        let (status, xml) = call(&fixture, &powerless, operation, &pairs).await;
        assert_eq!((status, element(&xml, "Code")), (403, "AccessDenied"), "{operation}");
        let events = fixture.events();
        assert_eq!(events.len(), before + 1, "{operation}");
        let event = &events.last().unwrap().1;
        assert_eq!((event.event_name.as_str(), event.error_code.as_deref()), (operation, Some("AccessDenied")));
        assert_eq!(event.additional_event_data.decided_by.as_deref(), Some("Default"), "{operation}");
        let text = serde_json::to_string(event).unwrap();
        assert!(!text.contains("654321"), "a code is never recorded: {text}");
    }
    let (status, xml) = call(&fixture, &powerless, "CreateLoginProfile", &[]).await;
    assert_eq!((status, element(&xml, "Code")), (400, "InvalidAction"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_gets_awss_error() {
    let fixture = Fixture::new().await;
    let long = "x".repeat(65);
    let huge = allow(&format!("kms:{}", "x".repeat(3_000)));
    done(&fixture, "CreateUser", &[("UserName", "here")]).await;
    for (action, pairs, want) in [
        ("CreateUser", &[][..], (400, "ValidationError")),
        ("CreateUser", &[("UserName", "a/b")], (400, "ValidationError")),
        ("CreateUser", &[("UserName", &long)], (400, "ValidationError")),
        ("CreateUser", &[("UserName", "x"), ("Path", "/deep/")], (400, "ValidationError")),
        ("CreateUser", &[("UserName", "HERE")], (409, "EntityAlreadyExists")),
        ("CreateUser", &[("UserName", "powerless")], (409, "EntityAlreadyExists")),
        (
            "CreateUser",
            &[("UserName", "x"), ("Tags.member.1.Key", "aws:x"), ("Tags.member.1.Value", "")],
            (400, "ValidationError"),
        ),
        ("DeleteUser", &[("UserName", "powerless")], (400, "UnmodifiableEntity")),
        (
            "PutUserPolicy",
            &[("UserName", "here"), ("PolicyName", "p"), ("PolicyDocument", "{}")],
            (400, "MalformedPolicyDocument"),
        ),
        (
            "PutUserPolicy",
            &[("UserName", "here"), ("PolicyName", "p"), ("PolicyDocument", &huge)],
            (409, "LimitExceeded"),
        ),
        (
            "PutUserPolicy",
            &[("UserName", "gone"), ("PolicyName", "p"), ("PolicyDocument", &allow("*"))],
            (404, "NoSuchEntity"),
        ),
        (
            "AttachUserPolicy",
            &[("UserName", "here"), ("PolicyArn", "arn:aws:iam::123456789012:policy/none")],
            (404, "NoSuchEntity"),
        ),
        (
            "AttachUserPolicy",
            &[("UserName", "here"), ("PolicyArn", "arn:aws:iam::210987654321:policy/p")],
            (404, "NoSuchEntity"),
        ),
        ("DeleteUserPolicy", &[("UserName", "here"), ("PolicyName", "none")], (404, "NoSuchEntity")),
        (
            "CreatePolicy",
            &[("PolicyName", "AdministratorAccess"), ("PolicyDocument", &allow("*"))],
            (409, "EntityAlreadyExists"),
        ),
        (
            "CreateRole",
            &[("RoleName", "r"), ("AssumeRolePolicyDocument", &allow("sts:AssumeRole"))],
            (400, "MalformedPolicyDocument"),
        ),
        (
            "CreateRole",
            &[("RoleName", "r"), ("MaxSessionDuration", "60"), ("AssumeRolePolicyDocument", "{}")],
            (400, "ValidationError"),
        ),
        ("ListUsers", &[("MaxItems", "0")], (400, "ValidationError")),
        ("ListUsers", &[("Marker", "%%%")], (400, "ValidationError")),
        ("ListPolicies", &[("Scope", "Mine")], (400, "ValidationError")),
        (
            "UpdateAccessKey",
            &[("UserName", "here"), ("AccessKeyId", "AKIAAAAAAAAAAAAAAAAA"), ("Status", "Off")],
            (400, "ValidationError"),
        ),
        ("CreateUser", &[("UserName.member.1", "x")], (400, "MalformedInput")),
    ] {
        let before = fixture.events().len();
        let (status, code) = refusal(&fixture, action, pairs).await;
        assert_eq!((status, code.as_str()), want, "{action} {pairs:?}");
        assert_eq!(fixture.events().len(), before + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_have_versions_and_stay_while_something_needs_them() {
    let fixture = Fixture::new().await;
    let arn = "arn:aws:iam::123456789012:policy/p";
    done(&fixture, "CreatePolicy", &[("PolicyName", "p"), ("PolicyDocument", &allow("kms:ListKeys"))]).await;
    done(&fixture, "CreateUser", &[("UserName", "u"), ("PermissionsBoundary", arn)]).await;
    done(&fixture, "CreateGroup", &[("GroupName", "g")]).await;
    done(&fixture, "AddUserToGroup", &[("GroupName", "g"), ("UserName", "u")]).await;
    let everything = "arn:aws:iam::aws:policy/AdministratorAccess";
    done(&fixture, "AttachGroupPolicy", &[("GroupName", "g"), ("PolicyArn", everything)]).await;
    let keys = access_key(&done(&fixture, "CreateAccessKey", &[("UserName", "u")]).await);
    assert_eq!(list_keys(&fixture, &keys).await, Ok(()), "everything, within the boundary");
    let denied = Err("AccessDeniedException".to_owned());
    let xml =
        done(&fixture, "CreatePolicyVersion", &[("PolicyArn", arn), ("PolicyDocument", &allow("kms:Decrypt"))]).await;
    assert_eq!(element(&xml, "VersionId"), "v2");
    assert_eq!(list_keys(&fixture, &keys).await, Ok(()));
    done(&fixture, "SetDefaultPolicyVersion", &[("PolicyArn", arn), ("VersionId", "v2")]).await;
    assert_eq!(list_keys(&fixture, &keys).await, denied);
    let decided_by = fixture.events().pop().unwrap().1.additional_event_data.decided_by;
    assert_eq!(decided_by.as_deref(), Some("PermissionsBoundary/p"));
    assert_eq!(
        refusal(&fixture, "DeletePolicyVersion", &[("PolicyArn", arn), ("VersionId", "v2")]).await.1,
        "DeleteConflict"
    );
    for _ in 0..3 {
        done(&fixture, "CreatePolicyVersion", &[("PolicyArn", arn), ("PolicyDocument", &allow("kms:*"))]).await;
    }
    let sixth = [("PolicyArn", arn), ("PolicyDocument", &allow("kms:*"))];
    assert_eq!(refusal(&fixture, "CreatePolicyVersion", &sixth).await, (409, "LimitExceeded".to_owned()));
    assert_eq!(refusal(&fixture, "DeletePolicy", &[("PolicyArn", arn)]).await.1, "DeleteConflict");
    let xml = done(&fixture, "GetPolicy", &[("PolicyArn", arn)]).await;
    assert_eq!((element(&xml, "AttachmentCount"), element(&xml, "PermissionsBoundaryUsageCount")), ("0", "1"));
    let xml = done(&fixture, "ListEntitiesForPolicy", &[("PolicyArn", arn)]).await;
    assert!(xml.contains("<PolicyUsers></PolicyUsers>"), "{xml}");
    assert_eq!(refusal(&fixture, "DeleteGroup", &[("GroupName", "g")]).await.1, "DeleteConflict");
    done(&fixture, "DeleteUserPermissionsBoundary", &[("UserName", "u")]).await;
    assert_eq!(list_keys(&fixture, &keys).await, Ok(()));
    done(&fixture, "RemoveUserFromGroup", &[("GroupName", "g"), ("UserName", "u")]).await;
    assert_eq!(list_keys(&fixture, &keys).await, denied);
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_are_cut_into_pages_and_show_the_files_people() {
    let fixture = Fixture::new().await;
    for name in ["b", "a", "c"] {
        done(&fixture, "CreateUser", &[("UserName", name)]).await;
    }
    let mut names = Vec::new();
    let mut marker = String::new();
    loop {
        let pairs = [("MaxItems", "2"), ("Marker", marker.as_str())];
        let xml = done(&fixture, "ListUsers", if marker.is_empty() { &pairs[..1] } else { &pairs }).await;
        names.extend(xml.split("<UserName>").skip(1).map(|rest| rest.split('<').next().unwrap().to_owned()));
        if element(&xml, "IsTruncated") == "false" {
            break;
        }
        marker = element(&xml, "Marker").to_owned();
    }
    assert_eq!(names, ["a", "administrator", "b", "c", "powerless"]);
}

/// A delegated administrator is held to hand out a boundary.
#[tokio::test(flavor = "multi_thread")]
async fn a_delegated_administrator_can_be_held_to_a_boundary() {
    let fixture = Fixture::new().await;
    let bound = "arn:aws:iam::123456789012:policy/bound";
    done(&fixture, "CreatePolicy", &[("PolicyName", "bound"), ("PolicyDocument", &allow("kms:ListKeys"))]).await;
    done(&fixture, "CreateUser", &[("UserName", "delegate")]).await;
    let text = format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":["iam:CreateUser","iam:AttachUserPolicy"],
            "Resource":"*","Condition":{{"ArnEquals":{{"iam:PermissionsBoundary":"{bound}"}}}}}}]}}"#
    );
    done(&fixture, "PutUserPolicy", &[("UserName", "delegate"), ("PolicyName", "p"), ("PolicyDocument", &text)]).await;
    let keys = access_key(&done(&fixture, "CreateAccessKey", &[("UserName", "delegate")]).await);
    let attempt = async |pairs: &[(&str, &str)], action: &str| call(&fixture, &keys, action, pairs).await.0;
    assert_eq!(attempt(&[("UserName", "free")], "CreateUser").await, 403);
    assert_eq!(attempt(&[("UserName", "bound"), ("PermissionsBoundary", bound)], "CreateUser").await, 200);
    let everything = "arn:aws:iam::aws:policy/AdministratorAccess";
    assert_eq!(attempt(&[("UserName", "bound"), ("PolicyArn", everything)], "AttachUserPolicy").await, 200);
    assert_eq!(attempt(&[("UserName", "delegate"), ("PolicyArn", everything)], "AttachUserPolicy").await, 403);
    assert_eq!(attempt(&[("UserName", "bound")], "DeleteUserPermissionsBoundary").await, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_enrolled_used_once_each_code_lost_and_taken_back() {
    let clock = Arc::new(FakeClock::new(SystemClock.now_us() / 30_000_000 * 30_000_000));
    let mut fixture = Fixture::with_clock(Arc::<FakeClock>::clone(&clock)).await;
    let serial = "arn:aws:iam::123456789012:mfa/phone";
    let named = ("UserName", "administrator");
    let xml = done(&fixture, "CreateVirtualMFADevice", &[("VirtualMFADeviceName", "phone")]).await;
    let text = String::from_utf8(STANDARD.decode(element(&xml, "Base32StringSeed")).unwrap()).unwrap();
    let seed = Seed::from_base32(&text).unwrap();
    let code = |off: i64| seed.code_at(clock.now_us().saturating_add_signed(off * 30_000_000));
    let enable = |first: &str, second: &str| {
        [
            ("SerialNumber", serial.to_owned()),
            ("AuthenticationCode1", first.to_owned()),
            ("AuthenticationCode2", second.to_owned()),
        ]
    };
    let wrong = enable("000000", "000000");
    let pairs: Vec<(&str, &str)> = wrong.iter().map(|(name, value)| (*name, value.as_str())).chain([named]).collect();
    assert_eq!(refusal(&fixture, "EnableMFADevice", &pairs).await, (403, "InvalidAuthenticationCode".to_owned()));
    let right = enable(&code(-1), &code(0));
    let pairs: Vec<(&str, &str)> = right.iter().map(|(name, value)| (*name, value.as_str())).chain([named]).collect();
    done(&fixture, "EnableMFADevice", &pairs).await;
    assert_eq!(refusal(&fixture, "EnableMFADevice", &pairs).await.1, "EntityAlreadyExists");
    let xml = done(&fixture, "ListMFADevices", &[named]).await;
    assert_eq!(element(&xml, "SerialNumber"), serial);

    let keys = admin(&fixture);
    let open = async |fixture: &Fixture, code: &str| {
        let pairs = [("Action", "GetSessionToken"), ("SerialNumber", serial), ("TokenCode", code)];
        sts::sts(fixture, &keys, None, &pairs).await
    };
    assert_eq!(open(&fixture, &code(0)).await.0, 403, "used up by the enrolment");
    let once = code(1);
    let (status, xml) = open(&fixture, &once).await;
    assert_eq!(status, 200, "{xml}");
    let session = temporary(&xml);
    let event = fixture.events().pop().unwrap().1;
    assert!(!event.read_only && event.additional_event_data.mutation.is_some());
    let (status, xml) = open(&fixture, &once).await;
    assert_eq!((status, element(&xml, "Code")), (403, "AccessDenied"));
    assert!(xml.contains("invalid MFA one time pass code"), "{xml}");
    let event = fixture.events().pop().unwrap().1;
    assert_eq!(event.additional_event_data.decided_by.as_deref(), Some("Mfa"));
    assert!(!serde_json::to_string(&event).unwrap().contains(&*once));

    // A used code stays used over a restart; the session stays, too, and says how it was opened.
    fixture.stop().await;
    fixture.start().await.unwrap();
    assert_eq!(open(&fixture, &once).await.0, 403);
    let headers = [("x-amz-target", "TrentService.ListKeys"), ("x-amz-security-token", session.token.as_str())];
    let signing = Some((&session.credentials, REGION, "kms", clock.now_us()));
    assert_eq!(raw(&fixture, &headers, b"{}", signing).await.0, 200);
    let identity = fixture.events().pop().unwrap().1.user_identity;
    assert_eq!(identity.kind.as_deref(), Some("IAMUser"));
    let context = identity.session_context.unwrap();
    assert_eq!((context.attributes.mfa_authenticated.as_str(), context.session_issuer), ("true", None));

    // Sessions do not open sessions of users, and without a second factor they do not administer.
    let pairs = [("Action", "GetSessionToken")];
    let (status, _) = sts::sts(&fixture, &session.credentials, Some(&session.token), &pairs).await;
    assert_eq!(status, 403);
    let (_, xml) = sts::sts(&fixture, &keys, None, &pairs).await;
    let without = temporary(&xml);
    for (session, want) in [(&without, 403), (&session, 200)] {
        let headers =
            [("content-type", "application/x-www-form-urlencoded"), ("x-amz-security-token", session.token.as_str())];
        let signing = Some((&session.credentials, REGION, "iam", clock.now_us()));
        let body = form(&[("Action", "ListUsers")]);
        assert_eq!(raw(&fixture, &headers, body.as_bytes(), signing).await.0, want);
    }

    assert_eq!(refusal(&fixture, "DeleteVirtualMFADevice", &[("SerialNumber", serial)]).await.1, "DeleteConflict");
    done(&fixture, "DeactivateMFADevice", &[named, ("SerialNumber", serial)]).await;
    clock.advance(Duration::from_secs(90));
    let (status, xml) = open(&fixture, &code(0)).await;
    assert!(status == 403 && xml.contains("serial number"), "{xml}");
    done(&fixture, "DeleteVirtualMFADevice", &[("SerialNumber", serial)]).await;
    fixture.stop().await;
    for (_, payload) in fixture.records() {
        assert!(!String::from_utf8(payload).unwrap().contains(&text));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_contradicts_the_api_is_refused() {
    let mut fixture = Fixture::new().await;
    done(&fixture, "CreateUser", &[("UserName", "twin")]).await;
    let path = fixture.dir().join("identities.toml");
    let good = std::fs::read_to_string(&path).unwrap();
    fixture.stop().await;
    fixture.append_identities(&user(ACCOUNT, "twin", "[]"));
    let error = fixture.start().await.unwrap_err();
    assert!(matches!(error, StartError::Directory(_)), "{error}");
    assert!(format!("{:?}", error).contains("user/twin"), "{error:?}");
    std::fs::write(&path, &good).unwrap();
    fixture.start().await.unwrap();

    // A policy of the file that something made through the API has attached cannot be dropped.
    let policy =
        format!("[[policy]]\naccount = \"{ACCOUNT}\"\nname = \"needed\"\ndocument = '''{}'''\n", allow("kms:ListKeys"));
    fixture.stop().await;
    fixture.append_identities(&policy);
    fixture.start().await.unwrap();
    let arn = "arn:aws:iam::123456789012:policy/needed";
    done(&fixture, "AttachUserPolicy", &[("UserName", "twin"), ("PolicyArn", arn)]).await;
    fixture.stop().await;
    std::fs::write(&path, &good).unwrap();
    assert!(matches!(fixture.start().await.unwrap_err(), StartError::Directory(_)));
    std::fs::write(&path, good + &policy).unwrap();
    fixture.start().await.unwrap();
}

/// Recovery without files: break-glass may administer.
#[tokio::test(flavor = "multi_thread")]
async fn break_glass_administers_and_others_accounts_are_out_of_reach() {
    let fixture = Fixture::new().await;
    let break_glass = Credentials::read(&fixture.dir().join("break-glass"), "break-glass").unwrap();
    let (status, _) = call(&fixture, &break_glass, "CreateUser", &[("UserName", "rescue")]).await;
    assert_eq!(status, 200);
    let decided_by = fixture.events().pop().unwrap().1.additional_event_data.decided_by;
    assert_eq!(decided_by.as_deref(), Some("BuiltIn"));
    let neighbour = user_credentials("neighbour");
    let (status, xml) = call(&fixture, &neighbour, "GetUser", &[("UserName", "rescue")]).await;
    assert_eq!((status, element(&xml, "Code")), (404, "NoSuchEntity"), "its own account has none");
    let (status, xml) = call(&fixture, &neighbour, "ListUsers", &[]).await;
    assert!(status == 200 && !xml.contains("rescue"), "{xml}");
    let responder = Credentials::read(&fixture.dir().join("service-credentials"), "responder").unwrap();
    assert_eq!(call(&fixture, &responder, "ListUsers", &[]).await.0, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_role_says_how_long_sessions_last_only_if_that_was_asked_for() {
    let fixture = Fixture::new().await;
    let trust = format!(
        r#"{{"Version":"2012-10-17","Statement":{{"Effect":"Allow","Principal":{{"AWS":"{ACCOUNT}"}},"Action":"sts:AssumeRole"}}}}"#
    );
    let plain = [("RoleName", "plain"), ("AssumeRolePolicyDocument", trust.as_str())];
    let long = [("RoleName", "long"), ("AssumeRolePolicyDocument", trust.as_str()), ("MaxSessionDuration", "7200")];
    assert!(!done(&fixture, "CreateRole", &plain).await.contains("MaxSessionDuration"));
    assert_eq!(element(&done(&fixture, "CreateRole", &long).await, "MaxSessionDuration"), "7200");
    let seen = done(&fixture, "GetRole", &plain[..1]).await;
    assert_eq!(element(&seen, "MaxSessionDuration"), "3600");
    // Documents that are no JSON and ARNs that are none, in the words of AWS.
    for (operation, pairs, code, message) in [
        (
            "CreateRole",
            vec![("RoleName", "r"), ("AssumeRolePolicyDocument", "{")],
            "MalformedPolicyDocument",
            "This policy contains invalid Json",
        ),
        (
            "AttachRolePolicy",
            vec![("RoleName", "plain"), ("PolicyArn", "long-enough-but-no-arn")],
            "ValidationError",
            "Invalid ARN:  Could not be parsed!",
        ),
    ] {
        let (status, xml) = call(&fixture, &admin(&fixture), operation, &pairs).await;
        assert_eq!((status, element(&xml, "Code"), element(&xml, "Message")), (400, code, message), "{operation}");
    }
}
