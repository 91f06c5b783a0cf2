//! The shipped policies of examples/policies: they parse, and let each role do its work and nothing beside it.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;

const ACCOUNT: &str = "123456789012";
const KEY: &str = "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab";
const NOW_US: u64 = 1_767_614_400_000_000;

macro_rules! shipped {
    ($name:literal) => {
        include_str!(concat!("../../../../examples/policies/", $name, ".json"))
    };
}

fn session(mfa: Mfa, team: &str) -> PrincipalContext {
    PrincipalContext {
        arn: format!("arn:aws:sts::{ACCOUNT}:assumed-role/role/person"),
        account: ACCOUNT.into(),
        kind: PrincipalKind::Session,
        user_id: "AROAEXAMPLEEXAMPLE12:person".into(),
        role_arn: Some(format!("arn:aws:iam::{ACCOUNT}:role/role")),
        issued_us: Some(NOW_US),
        mfa,
        tags: BTreeMap::from([("team".to_owned(), team.to_owned())]),
        ..PrincipalContext::default()
    }
}

/// Whether the caller may, with these policies, on a key of team red under the default key policy.
fn may(caller: &PrincipalContext, policies: &[&str], action: &str) -> bool {
    let named = |text: &&str| NamedDocument {
        name: "shipped".into(),
        document: Arc::new(Document::parse(text, Flavor::IdentityPolicy).unwrap()),
    };
    let identity: Vec<NamedDocument> = policies.iter().map(named).collect();
    let tags = BTreeMap::from([("team".to_owned(), "red".to_owned())]);
    let key = KeyFacts {
        spec: "SYMMETRIC_DEFAULT",
        usage: "ENCRYPT_DECRYPT",
        origin: "AWS_KMS",
        multi_region: false,
        multi_region_key_type: None,
        tags: Some(&tags),
        aliases: &[],
    };
    let on_key = action.starts_with("kms:") && !matches!(action, "kms:CreateKey" | "kms:ListKeys");
    let context = Context { time_us: NOW_US, key: on_key.then_some(key), ..Context::default() };
    let request = Request {
        action,
        resource_arn: if on_key { KEY } else { "*" },
        key_account: ACCOUNT,
        principal: caller,
        context: &context,
    };
    let default = Document::parse(&default_key_policy(ACCOUNT), Flavor::KeyPolicy).unwrap();
    let own = CallerPolicies { identity: &identity, ..CallerPolicies::default() };
    evaluate(&request, on_key.then_some(&default), &own).allowed
}

#[test]
fn each_role_may_do_its_work_and_nothing_beside_it() {
    let caller = session(Mfa::Without, "red");
    for (policy, yes, no) in [
        (
            shipped!("key-administrator"),
            &["kms:CreateKey", "kms:PutKeyPolicy", "kms:ScheduleKeyDeletion", "kms:DeleteAlias", "kms:ListKeys"][..],
            &["kms:Decrypt", "kms:GenerateDataKey", "kms:CreateGrant", "kms:Sign", "iam:CreateUser"][..],
        ),
        (
            shipped!("key-user"),
            &["kms:Encrypt", "kms:Decrypt", "kms:GenerateDataKey", "kms:ReEncryptFrom", "kms:DescribeKey"],
            &["kms:PutKeyPolicy", "kms:DisableKey", "kms:CreateGrant", "kms:ScheduleKeyDeletion", "kms:CreateKey"],
        ),
        (
            shipped!("analyst"),
            &["kms:DescribeKey", "kms:ListKeys", "kms:GetKeyPolicy", "keytrail:ListQuarantines"],
            &["kms:Decrypt", "kms:DisableKey", "keytrail:PutQuarantine", "iam:ListUsers"],
        ),
        (
            shipped!("auditor"),
            &["kms:DescribeKey", "kms:ListKeys", "kms:GetKeyPolicy", "iam:ListUsers", "iam:GetUser"],
            &["kms:Decrypt", "kms:Encrypt", "kms:PutKeyPolicy", "iam:CreateUser", "keytrail:PutQuarantine"],
        ),
        (
            shipped!("responder"),
            &[
                "kms:DisableKey",
                "kms:EnableKey",
                "kms:CancelKeyDeletion",
                "keytrail:PutQuarantine",
                "iam:UpdateAccessKey",
            ],
            &["kms:Decrypt", "kms:PutKeyPolicy", "kms:ScheduleKeyDeletion", "kms:CreateGrant", "iam:CreateAccessKey"],
        ),
    ] {
        for action in yes {
            assert!(may(&caller, &[policy], action), "{action} {policy}");
        }
        for action in no {
            assert!(!may(&caller, &[policy], action), "{action} {policy}");
        }
    }
    assert!(!may(&session(Mfa::Without, "blue"), &[shipped!("key-user")], "kms:Decrypt"), "another team's key");
    let everything = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}"#;
    assert!(!may(&caller, &[shipped!("auditor"), everything], "kms:Decrypt"));
    assert!(!may(&caller, &[shipped!("key-administrator"), everything], "kms:Decrypt"));
}

#[test]
fn destructive_calls_need_a_recent_second_factor() {
    let policies = [shipped!("key-administrator"), shipped!("mfa-for-destructive-calls")];
    let hour_us = 3_600_000_000;
    let long_term = PrincipalContext {
        kind: PrincipalKind::User,
        arn: format!("arn:aws:iam::{ACCOUNT}:user/person"),
        role_arn: None,
        issued_us: None,
        ..session(Mfa::Unknown, "red")
    };
    for (caller, may_destroy) in [
        (long_term, false),
        (session(Mfa::Without, "red"), false),
        (session(Mfa::At(NOW_US), "red"), true),
        (session(Mfa::At(NOW_US - hour_us), "red"), true),
        (session(Mfa::At(NOW_US - hour_us - 1_000_000), "red"), false),
    ] {
        for action in ["PutKeyPolicy", "ScheduleKeyDeletion", "DeleteAlias", "DeleteImportedKeyMaterial"] {
            assert_eq!(may(&caller, &policies, &format!("kms:{action}")), may_destroy, "{action} {:?}", caller.mfa);
        }
        assert!(may(&caller, &policies, "kms:DisableKey"));
    }
}

#[test]
fn the_shipped_trust_policy_asks_for_a_second_factor() {
    let trust = Document::parse(shipped!("trust-with-mfa"), Flavor::TrustPolicy).unwrap();
    let text = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"sts:AssumeRole","Resource":"*"}}"#;
    let document = Arc::new(Document::parse(text, Flavor::IdentityPolicy).unwrap());
    let identity = [NamedDocument { name: "assume".into(), document }];
    let own = CallerPolicies { identity: &identity, ..CallerPolicies::default() };
    let context = Context { time_us: NOW_US, ..Context::default() };
    for (mfa, want) in [(Mfa::Unknown, false), (Mfa::Without, false), (Mfa::At(NOW_US), true)] {
        let principal = session(mfa, "red");
        let request = Request {
            action: "sts:AssumeRole",
            resource_arn: "arn:aws:iam::123456789012:role/key-administrator",
            key_account: ACCOUNT,
            principal: &principal,
            context: &context,
        };
        assert_eq!(evaluate(&request, Some(&trust), &own).allowed, want, "{mfa:?}");
    }
}
