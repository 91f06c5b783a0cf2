//! What a file gives, what it refuses, and that no error or record shows a secret.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::policy::{Context, Document, Flavor, PrincipalKind, Request, default_key_policy, evaluate};

const SECRET: &str = "canaryCANARYcanaryCANARYcanaryCANARY1234";
const SEED: &str = "CANARYSEEDCANARYSEEDCANARYSEED23";

fn sample() -> String {
    format!(
        r#"
        [[account]]
        id = "111122223333"
        name = "production"
        [[account]]
        id = "444455556666"

        [[policy]]
        account = "111122223333"
        name = "app-use"
        document = '''{{"Version": "2012-10-17", "Statement": {{"Effect": "Allow", "Action": "kms:Decrypt", "Resource": "*"}}}}'''

        [[group]]
        account = "111122223333"
        name = "apps"
        policies = ["app-use"]

        [[user]]
        account = "111122223333"
        name = "billing"
        groups = ["apps"]
        policies = ['{{"Version": "2012-10-17", "Statement": [{{"Sid": "NoEncrypt", "Effect": "Deny", "Action": "kms:Encrypt", "Resource": "*"}}]}}']
        tags = {{ team = "red" }}

        [[user]]
        account = "444455556666"
        name = "partner"
        policies = ["AdministratorAccess"]
        id = "AIDAEXAMPLEEXAMPLE123"

        [[role]]
        account = "111122223333"
        name = "reader"
        trust = '''{{"Version": "2012-10-17", "Statement": {{"Effect": "Allow", "Principal": {{"AWS": "111122223333"}}, "Action": "sts:AssumeRole"}}}}'''
        policies = ["app-use"]
        permissions_boundary = "app-use"
        max_session_secs = 7200

        [[mfa_device]]
        account = "111122223333"
        name = "phone"
        user = "billing"
        seed = "{SEED}"

        [[access_key]]
        id = "AKIABILLINGBILLING00"
        secret = "{SECRET}"
        account = "111122223333"
        user = "billing"
        [[access_key]]
        id = "AKIAOLDOLDOLDOLDOLD0"
        secret = "{SECRET}"
        account = "111122223333"
        user = "billing"
        status = "Inactive"
        [[access_key]]
        id = "AKIAROOTROOTROOTROOT"
        secret = "{SECRET}"
        account = "444455556666"
        root = true

        [[service_key]]
        id = "AKIAVOLUMESVOLUMES00"
        secret = "{SECRET}"
        account = "111122223333"
        service = "ec2"
        [[service_key]]
        id = "AKIAVOLUMESVOLUMES11"
        secret = "{SECRET}"
        account = "111122223333"
        service = "ec2"
        status = "Inactive"
        "#
    )
}

#[test]
fn a_file_gives_principals_with_their_policies() {
    let identities = Identities::parse(&sample()).unwrap();
    assert_eq!(identities.secret("AKIABILLINGBILLING00").unwrap().expose(), SECRET);
    assert!(identities.secret("AKIAOLDOLDOLDOLDOLD0").is_none() && identities.secret("AKIANOBODY").is_none());
    assert_eq!(identities.principal("AKIAOLDOLDOLDOLDOLD0").unwrap().context.user_name.as_deref(), Some("billing"));
    let billing = identities.principal("AKIABILLINGBILLING00").unwrap();
    assert_eq!(billing.context.arn, "arn:aws:iam::111122223333:user/billing");
    assert!(billing.context.user_id.starts_with("AIDA") && billing.context.user_id.len() == 21);
    let names: Vec<&str> = billing.policies.iter().map(|policy| policy.name.as_str()).collect();
    assert_eq!(names, ["billing#0", "app-use"]);
    let root = identities.principal("AKIAROOTROOTROOTROOT").unwrap();
    assert_eq!((root.context.kind, root.context.user_id.as_str()), (PrincipalKind::Root, "444455556666"));
    let volumes = identities.service_key("AKIAVOLUMESVOLUMES00").unwrap();
    assert_eq!((volumes.account.as_str(), volumes.service.as_str()), ("111122223333", "ec2"));
    assert_eq!(identities.secret("AKIAVOLUMESVOLUMES00").unwrap().expose(), SECRET);
    assert!(identities.principal("AKIAVOLUMESVOLUMES00").is_none());
    assert!(identities.service_key("AKIAVOLUMESVOLUMES11").is_none());
    assert!(identities.secret("AKIAVOLUMESVOLUMES11").is_none());
    assert_eq!(identities.principals().count(), 4);
    assert_eq!(identities.accounts().next(), Some(("111122223333", Some("production"))));
    let role = identities.role("arn:aws:iam::111122223333:role/reader").unwrap();
    assert!(role.id.starts_with("AROA") && role.max_session_secs == 7_200);
    assert_eq!((role.policies.len(), role.boundary.as_ref().unwrap().name.as_str()), (1, "app-use"));
    let phone = "arn:aws:iam::111122223333:mfa/phone";
    assert_eq!(*identities.mfa_seed(&billing.context.arn, phone).unwrap().expose_base32(), SEED);
    assert!(identities.mfa_seed("arn:aws:iam::111122223333:root", phone).is_none(), "somebody else's");
    let partner = identities.principal_by_arn("arn:aws:iam::444455556666:user/partner").unwrap();
    assert_eq!(partner.context.user_id, "AIDAEXAMPLEEXAMPLE123");

    let key_policy = Document::parse(&default_key_policy("111122223333"), Flavor::KeyPolicy).unwrap();
    let context = Context::default();
    let decide = |action: &'static str| {
        let principal = &billing.context;
        let request = Request { action, resource_arn: "*", key_account: "111122223333", principal, context: &context };
        evaluate(&request, Some(&key_policy), &billing.own()).decided_by
    };
    assert_eq!(decide("kms:Decrypt"), "IdentityPolicy/app-use/0");
    assert_eq!(decide("kms:Encrypt"), "IdentityPolicy/billing#0/NoEncrypt");
    assert_eq!(decide("kms:DescribeKey"), "Default");
}

#[test]
fn the_public_content_has_all_but_secrets_and_a_fixed_order() {
    let identities = Identities::parse(&sample()).unwrap();
    let text = identities.public_json().to_string();
    assert!(!text.contains(SEED) && text.contains("mfa/phone") && text.contains("role/reader"));
    assert!(!text.contains(SECRET) && text.contains("AKIAOLDOLDOLDOLDOLD0") && text.contains("NoEncrypt"));
    assert_eq!(identities.public_json()["users"].as_array().unwrap().len(), 2);
    let listed = serde_json::json!({
        "accessKeyId": "AKIAVOLUMESVOLUMES11", "accountId": "111122223333", "service": "ec2", "status": "Inactive",
    });
    assert_eq!(identities.public_json()["serviceKeys"][1], listed);
    // Order and comments do not count; a new secret counts for the comparison only.
    let same = Identities::parse(&format!("# hello\n{}", sample())).unwrap();
    assert!(same.is_same(&identities) && same.content_hash() == identities.content_hash());
    let rotated = Identities::parse(&sample().replacen(SECRET, &SECRET.to_lowercase(), 1)).unwrap();
    assert!(!rotated.is_same(&identities) && rotated.content_hash() == identities.content_hash());
    let reseeded = Identities::parse(&sample().replacen(SEED, &SEED.replace("23", "32"), 1)).unwrap();
    assert!(!reseeded.is_same(&identities) && reseeded.content_hash() == identities.content_hash());
    let retagged = Identities::parse(&sample().replace("red", "blue")).unwrap();
    assert!(retagged.content_hash() != identities.content_hash());
}

#[test]
fn anything_odd_refuses_the_whole_file_without_showing_secrets() {
    for (from, to) in [
        ("name = \"production\"", "nickname = \"production\""),
        ("name = \"production\"", "name = 7"),
        ("[[account]]\n        id = \"444455556666\"", "[[account]]\n        id = \"111122223333\""),
        ("[[account]]\n        id = \"444455556666\"", "[[account]]\n        id = \"4444\""),
        ("[[account]]\n        id = \"444455556666\"", ""),
        ("groups = [\"apps\"]", "groups = [\"none\"]"),
        ("policies = [\"app-use\"]", "policies = [\"none\"]"),
        ("name = \"app-use\"", "name = \"AdministratorAccess\""),
        ("name = \"app-use\"", "name = \"app use\""),
        ("kms:Decrypt", "kms Decrypt"),
        ("\"Sid\": \"NoEncrypt\"", "\"Sid\": 1, \"Nonsense\": 2"),
        ("user = \"billing\"\n        [[", "user = \"nobody\"\n        [["),
        ("user = \"billing\"\n        [[", "user = \"billing\"\n        root = true\n        [["),
        ("root = true", ""),
        ("AKIAOLDOLDOLDOLDOLD0", "AKIABILLINGBILLING00"),
        ("AKIAOLDOLDOLDOLDOLD0", "too short"),
        ("status = \"Inactive\"", "status = \"canaryCANARYcanaryCANARYcanaryCANARY1234\""),
        ("status = \"Inactive\"", "secret = \"canaryCANARYcanaryCANARYcanaryCANARY1234\""),
        ("secret = \"canary", "secret = [\"canary"),
        ("secret = \"canary", "secret = \" canary"),
        ("root = true", "root = \"canaryCANARYcanaryCANARYcanaryCANARY1234\""),
        ("id = \"AIDAEXAMPLEEXAMPLE123\"", "id = \"alice\""),
        ("name = \"partner\"", "name = \"part\\nner\""),
        ("\"sts:AssumeRole\"", "\"kms:Decrypt\""),
        ("permissions_boundary = \"app-use\"", "permissions_boundary = \"none\""),
        ("max_session_secs = 7200", "max_session_secs = 900"),
        ("max_session_secs = 7200", "id = \"AIDAEXAMPLEEXAMPLE123\""),
        ("name = \"reader\"", "name = \"a/reader\""),
        ("user = \"billing\"\n        seed", "user = \"nobody\"\n        seed"),
        ("user = \"billing\"\n        seed", "seed"),
        ("seed = \"CANARY", "seed = \"!canaryCANARY"),
        ("seed = \"CANARY", "seed = [\"canaryCANARY"),
        ("AKIAVOLUMESVOLUMES00", "AKIAVOLUMESVOLUMES11"),
        ("AKIAVOLUMESVOLUMES00", "AKIABILLINGBILLING00"),
        ("AKIAVOLUMESVOLUMES00", "short"),
        ("service = \"ec2\"", "service = \"EC2\""),
        ("service = \"ec2\"", "service = \"ec2.amazonaws.com\""),
        ("service = \"ec2\"", ""),
    ] {
        let text = sample();
        assert!(text.contains(from), "{from}");
        let Err(error) = Identities::parse(&text.replacen(from, to, 1)) else { panic!("{from} -> {to}") };
        let mut shown = format!("{error} {error:?}");
        let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(&error);
        while let Some(error) = cause {
            shown += &format!(" {error}");
            cause = error.source();
        }
        assert!(!shown.contains("canaryCANARY"), "{shown}");
    }
}

#[test]
fn the_file_must_be_private() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("identities.toml");
    let source = IdentitiesFile::new(&path);
    assert!(matches!(source.load(), Err(IdentitiesError::Read { .. })));
    let credentials = Credentials::generate().unwrap();
    write(&path, &starter("123456789012", "admin", &credentials)).unwrap();
    let identities = source.load().unwrap();
    let admin = identities.principal(&credentials.access_key_id).unwrap();
    assert_eq!(admin.policies.first().unwrap().name, ADMINISTRATOR_ACCESS);
    assert_eq!(identities.secret(&credentials.access_key_id).unwrap().expose(), credentials.secret.expose());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(source.load(), Err(IdentitiesError::Permissions { mode: 0o644, .. })));
}
