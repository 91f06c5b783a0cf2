//! Services that call for users, and AWS's example policy for encrypted volumes, as it is printed.

use super::sts::{Temporary, arn_of, assume, role};
use super::*;
use crate::client::{ON_BEHALF_OF_HEADER, SOURCE_ARN_HEADER};

const VOLUME: &str = "arn:aws:ec2:eu-central-1:123456789012:volume/vol-1";

pub(super) fn arn(name: &str) -> String {
    format!("arn:aws:iam::{ACCOUNT}:user/{name}")
}

pub(super) fn service_key(account: &str, name: &str, service: &str, status: &str) -> String {
    let credentials = user_credentials(name);
    format!(
        "[[service_key]]\nid = \"{}\"\naccount = \"{account}\"\nservice = \"{service}\"\nstatus = \"{status}\"\n\
         secret = \"{}\"\n",
        credentials.access_key_id,
        credentials.secret.expose(),
    )
}

/// A call signed with a service's key, with its two headers.
pub(super) async fn call(
    fixture: &Fixture,
    key: &str,
    (on_behalf, source): (Option<&str>, Option<&str>),
    operation: &str,
    body: &Value,
) -> Result<Value, String> {
    let mut headers: Vec<_> = on_behalf.map(|arn| (ON_BEHALF_OF_HEADER, arn)).into_iter().collect();
    headers.extend(source.map(|arn| (SOURCE_ARN_HEADER, arn)));
    send(fixture, &user_credentials(key), headers, operation, body).await
}

/// A call of a role's session.
async fn as_role(fixture: &Fixture, session: &Temporary, operation: &str, body: &Value) -> Result<Value, String> {
    let headers = vec![("x-amz-security-token", session.token.as_str())];
    send(fixture, &session.credentials, headers, operation, body).await
}

async fn send(
    fixture: &Fixture,
    credentials: &Credentials,
    mut headers: Vec<(&str, &str)>,
    operation: &str,
    body: &Value,
) -> Result<Value, String> {
    let target = format!("TrentService.{operation}");
    headers.extend([("content-type", "application/x-amz-json-1.1"), ("x-amz-target", target.as_str())]);
    let signing = Some((credentials, REGION, "kms", fixture.clock.now_us()));
    let (status, text) = raw(fixture, &headers, body.to_string().as_bytes(), signing).await;
    let answer: Value = serde_json::from_str(&text).unwrap_or_default();
    if status == 200 { Ok(answer) } else { Err(answer["__type"].as_str().unwrap_or_default().to_owned()) }
}

async fn started(more: &str) -> Fixture {
    let mut fixture = Fixture::new().await;
    fixture.stop().await;
    fixture.append_identities(&format!(
        "{}{}{}{}{more}",
        user(ACCOUNT, "instance", "[]"),
        role("UserRole", &arn("powerless"), "", &[], ""),
        role("InstanceRole", &arn("powerless"), "", &[], ""),
        service_key(ACCOUNT, "blocks", "ec2", "Active"),
    ));
    fixture.start().await.unwrap();
    fixture
}

/// The whitepaper's two statements, word for word but for account and region.
fn volume_policy() -> Value {
    json!({"Version": "2012-10-17", "Statement": [
        {
            "Sid": "Owner", "Effect": "Allow", "Principal": {"AWS": format!("arn:aws:iam::{ACCOUNT}:root")},
            "Action": "kms:*", "Resource": "*",
        },
        {
            "Sid": "Allow for use of this Key", "Effect": "Allow", "Principal": {"AWS": arn_of("UserRole")},
            "Action": ["kms:GenerateDataKeyWithoutPlaintext", "kms:Decrypt"], "Resource": "*",
        },
        {
            "Sid": "Allow for EC2 Use", "Effect": "Allow", "Principal": {"AWS": arn_of("UserRole")},
            "Action": ["kms:CreateGrant", "kms:ListGrants", "kms:RevokeGrant"], "Resource": "*",
            "Condition": {"StringEquals": {"kms:ViaService": "ec2.eu-central-1.amazonaws.com"}},
        },
    ]})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_best_practices_policy_for_volumes_works_as_written() {
    let fixture = started("").await;
    let admin = fixture.admin();
    let made = ok(&admin, "TrentService.CreateKey", json!({"Policy": volume_policy().to_string()})).await.body;
    let key = made["KeyMetadata"]["Arn"].as_str().unwrap().to_owned();
    let powerless = user_credentials("powerless");
    let user_role = assume(&fixture, &powerless, &[("RoleArn", &arn_of("UserRole"))]).await;
    let instance = assume(&fixture, &powerless, &[("RoleArn", &arn_of("InstanceRole"))]).await;
    let denied = || Err("AccessDeniedException".to_owned());
    let context = json!({"aws:ebs:id": "vol-1"});

    // The role may make and open data keys, and nothing else by itself.
    let body = json!({"KeyId": key, "NumberOfBytes": 64, "EncryptionContext": context});
    let data_key = as_role(&fixture, &user_role, "GenerateDataKeyWithoutPlaintext", &body).await.unwrap();
    let open = json!({"CiphertextBlob": data_key["CiphertextBlob"], "EncryptionContext": context});
    as_role(&fixture, &user_role, "Decrypt", &open).await.unwrap();
    assert_eq!(as_role(&fixture, &user_role, "GenerateDataKey", &body).await, denied());
    let attach = json!({
        "KeyId": key, "GranteePrincipal": arn_of("InstanceRole"), "Operations": ["Decrypt"],
        "Constraints": {"EncryptionContextEquals": context},
    });
    let named = json!({"KeyId": key});
    for (operation, body) in [("CreateGrant", &attach), ("ListGrants", &named)] {
        assert_eq!(as_role(&fixture, &user_role, operation, body).await, denied(), "{operation}");
    }

    // Through the service it may grant: attaching the volume. The instance's role opens the data key, also when its
    // instance comes back with another session (re-attach), and nobody else does.
    let role_arn = arn_of("UserRole");
    let for_role = (Some(role_arn.as_str()), Some(VOLUME));
    let grant = call(&fixture, "blocks", for_role, "CreateGrant", &attach).await.unwrap();
    let event = fixture.events().pop().unwrap().1;
    let session = format!("arn:aws:sts::{ACCOUNT}:assumed-role/UserRole/ec2");
    assert_eq!(event.user_identity.arn.as_deref(), Some(session.as_str()));
    assert_eq!(event.user_identity.invoked_by.as_deref(), Some("ec2.amazonaws.com"));
    assert_eq!(event.user_identity.access_key_id, Some(user_credentials("blocks").access_key_id));
    let additional = event.additional_event_data;
    assert_eq!(additional.decided_by.as_deref(), Some("KeyPolicy/Allow for EC2 Use"));
    assert_eq!(additional.more["viaService"], "ec2.eu-central-1.amazonaws.com");
    assert_eq!(additional.more["sourceArn"], VOLUME);
    as_role(&fixture, &instance, "Decrypt", &open).await.unwrap();
    let again = assume(&fixture, &powerless, &[("RoleArn", &arn_of("InstanceRole"))]).await;
    as_role(&fixture, &again, "Decrypt", &open).await.unwrap();
    let decided_by = fixture.events().pop().unwrap().1.additional_event_data.decided_by.unwrap();
    assert_eq!(decided_by, format!("Grant/{}", grant["GrantId"].as_str().unwrap()));
    let other = json!({"CiphertextBlob": data_key["CiphertextBlob"], "EncryptionContext": {"aws:ebs:id": "vol-2"}});
    assert_eq!(as_role(&fixture, &instance, "Decrypt", &other).await, denied());
    assert_eq!(
        refused(&fixture.user("powerless"), "TrentService.Decrypt", open.clone()).await.0,
        "AccessDeniedException"
    );
    // A session opened with a policy of its own has no more than that.
    let policy = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:Encrypt","Resource":"*"}]}"#;
    let narrow = assume(&fixture, &powerless, &[("RoleArn", &arn_of("InstanceRole")), ("Policy", policy)]).await;
    assert_eq!(as_role(&fixture, &narrow, "Decrypt", &open).await, denied());

    // Detaching.
    let listed = call(&fixture, "blocks", for_role, "ListGrants", &named).await.unwrap();
    assert_eq!(listed["Grants"][0]["GrantId"], grant["GrantId"]);
    let end = json!({"KeyId": key, "GrantId": grant["GrantId"]});
    assert_eq!(as_role(&fixture, &user_role, "RevokeGrant", &end).await, denied());
    call(&fixture, "blocks", for_role, "RevokeGrant", &end).await.unwrap();
    assert_eq!(as_role(&fixture, &instance, "Decrypt", &open).await, denied());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_acts_for_users_of_its_account_within_its_list_only() {
    let more = format!(
        "{}{}{}",
        service_key(OTHER, "otherebs", "ec2", "Active"),
        service_key(ACCOUNT, "oldebs", "ec2", "Inactive"),
        user(ACCOUNT, "strong", "[\"AdministratorAccess\"]"),
    );
    let fixture = started(&more).await;
    let key = create_key(&fixture.admin()).await;
    let body = json!({"KeyId": key});
    let (root, built_in) =
        (format!("arn:aws:iam::{ACCOUNT}:root"), format!("arn:aws:iam::{ACCOUNT}:keytrail/responder"));
    let (strong, nobody) = (arn("strong"), arn("nobody"));
    call(&fixture, "blocks", (Some(&strong), None), "DescribeKey", &body).await.unwrap();
    for (key, on_behalf, source, operation, code) in [
        ("blocks", Some(strong.as_str()), None, "DisableKey", "AccessDeniedException"),
        ("blocks", Some(strong.as_str()), None, "PutKeyPolicy", "AccessDeniedException"),
        ("blocks", Some(strong.as_str()), None, "ListKeys", "AccessDeniedException"),
        ("blocks", None, None, "DescribeKey", "AccessDeniedException"),
        ("blocks", Some(nobody.as_str()), None, "DescribeKey", "AccessDeniedException"),
        ("blocks", Some(root.as_str()), None, "DescribeKey", "AccessDeniedException"),
        ("blocks", Some(built_in.as_str()), None, "DescribeKey", "AccessDeniedException"),
        ("otherebs", Some(strong.as_str()), None, "DescribeKey", "AccessDeniedException"),
        ("oldebs", Some(strong.as_str()), None, "DescribeKey", "UnrecognizedClientException"),
        // Whoever is no service must not be answered as itself when it names another.
        ("strong", Some(strong.as_str()), None, "DescribeKey", "AccessDeniedException"),
        ("blocks", Some("somebody"), None, "DescribeKey", "ValidationException"),
        ("blocks", Some(strong.as_str()), Some("x"), "DescribeKey", "ValidationException"),
        ("blocks", None, Some(VOLUME), "DescribeKey", "ValidationException"),
    ] {
        let before = fixture.events().len();
        let answer = call(&fixture, key, (on_behalf, source), operation, &body).await;
        assert_eq!(answer.unwrap_err(), code, "{key} {on_behalf:?} {operation}");
        assert_eq!(fixture.events().len(), before + 1, "{key} {on_behalf:?} {operation}");
    }
    // The header counts only under the signature.
    let credentials = user_credentials("blocks");
    let headers = [("x-amz-target", "TrentService.DescribeKey")];
    let host = fixture.kms.as_ref().unwrap().addr.to_string();
    let text = body.to_string();
    let signed_headers: Vec<(&str, &[u8])> =
        [("host", host.as_str())].into_iter().chain(headers).map(|(name, value)| (name, value.as_bytes())).collect();
    let parts = RequestParts { method: "POST", path: "/", query: "", headers: &signed_headers, body: text.as_bytes() };
    let mut request = reqwest::Client::new().post(fixture.endpoint()).body(text.clone());
    request = request.header("x-amz-target", headers[0].1).header(ON_BEHALF_OF_HEADER, &strong);
    for (name, value) in sign(&credentials, &parts, REGION, "kms", fixture.clock.now_us()) {
        request = request.header(name, value);
    }
    let answer: Value = serde_json::from_str(&request.send().await.unwrap().text().await.unwrap()).unwrap();
    assert_eq!(answer["__type"], "InvalidSignatureException");

    // A quarantine reaches a user through services, too.
    let encrypt = json!({"KeyId": key, "Plaintext": "eA=="});
    call(&fixture, "blocks", (Some(&strong), None), "Encrypt", &encrypt).await.unwrap();
    let quarantine = json!({"PrincipalArn": strong, "TtlSeconds": 60});
    ok(&fixture.responder(), "KeytrailService.PutQuarantine", quarantine).await;
    let stopped = call(&fixture, "blocks", (Some(&strong), None), "Encrypt", &encrypt).await;
    assert_eq!(stopped.unwrap_err(), "AccessDeniedException");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_constraint_holds_for_calls_on_behalf_of_its_resource_only() {
    let fixture = started("").await;
    let admin = fixture.admin();
    let key = create_key(&admin).await;
    let body = json!({
        "KeyId": key, "GranteePrincipal": arn("instance"), "Operations": ["GenerateDataKey"],
        "Constraints": {"SourceArn": VOLUME},
    });
    ok(&admin, "TrentService.CreateGrant", body).await;
    let listed = ok(&admin, "TrentService.ListGrants", json!({"KeyId": key})).await.body;
    assert_eq!(listed["Grants"][0]["Constraints"], json!({"SourceArn": VOLUME}));
    let body = json!({"KeyId": key, "KeySpec": "AES_256"});
    let (instance, other) = (arn("instance"), "arn:aws:ec2:eu-central-1:123456789012:volume/vol-2");
    let direct = fixture.user("instance");
    assert_eq!(refused(&direct, "TrentService.GenerateDataKey", body.clone()).await.0, "AccessDeniedException");
    for (source, works) in [(Some(VOLUME), true), (Some(other), false), (None, false)] {
        let answer = call(&fixture, "blocks", (Some(&instance), source), "GenerateDataKey", &body).await;
        assert_eq!(answer.is_ok(), works, "{source:?}");
    }
}
