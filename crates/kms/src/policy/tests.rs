//! Truth tables of the evaluator: who is let in by which policy, and each kind of condition true, false and absent.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

const OWN: &str = "111122223333";
const OTHER: &str = "444455556666";
const KEY: &str = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";

fn user(account: &str, name: &str) -> PrincipalContext {
    PrincipalContext {
        arn: format!("arn:aws:iam::{account}:user/{name}"),
        account: account.into(),
        user_id: format!("AIDA{:A>16}", name.to_uppercase()),
        user_name: Some(name.into()),
        ..PrincipalContext::default()
    }
}

fn root(account: &str) -> PrincipalContext {
    PrincipalContext {
        arn: format!("arn:aws:iam::{account}:root"),
        account: account.into(),
        kind: PrincipalKind::Root,
        user_id: account.into(),
        ..PrincipalContext::default()
    }
}

fn statement(effect: &str, principal: &str, action: &str, more: &str) -> String {
    let principal = if principal.is_empty() { String::new() } else { format!("{principal},") };
    format!(r#"{{"Effect":"{effect}",{principal}"Action":{action},"Resource":"*"{more}}}"#)
}

fn aws(arn: &str) -> String {
    format!(r#""Principal":{{"AWS":"{arn}"}}"#)
}

fn document(statements: &[String], flavor: Flavor) -> Document {
    Document::parse(&format!(r#"{{"Version":"2012-10-17","Statement":[{}]}}"#, statements.join(",")), flavor).unwrap()
}

fn key_policy(statements: &[String]) -> Document {
    document(statements, Flavor::KeyPolicy)
}

fn identity(statements: &[String]) -> Vec<NamedDocument> {
    vec![NamedDocument { name: "p".into(), document: Arc::new(document(statements, Flavor::IdentityPolicy)) }]
}

fn own(identity: &[NamedDocument]) -> CallerPolicies<'_> {
    CallerPolicies { identity, ..CallerPolicies::default() }
}

fn decide(
    principal: &PrincipalContext,
    action: &str,
    policy: Option<&Document>,
    policies: &[NamedDocument],
) -> (bool, String) {
    let context = Context::default();
    let request = Request { action, resource_arn: KEY, key_account: OWN, principal, context: &context };
    let decision = evaluate(&request, policy, &own(policies));
    assert_eq!(decision.allowed, decision.reason == Reason::Allowed);
    (decision.allowed, decision.decided_by)
}

#[test]
fn every_combination_of_caller_key_policy_and_identity_policy() {
    let allow = |principal: &str| key_policy(&[statement("Allow", principal, r#""kms:*""#, "")]);
    let policies = [
        ("own root", allow(&aws("arn:aws:iam::111122223333:root"))),
        ("own digits", allow(&aws(OWN))),
        ("alice", allow(&aws("arn:aws:iam::111122223333:user/alice"))),
        ("alice's id", allow(&aws("AIDAAAAAAAAAAAAALICE"))),
        ("anyone", allow(r#""Principal":"*""#)),
        ("not mallory", allow(r#""NotPrincipal":{"AWS":"arn:aws:iam::111122223333:user/mallory"}"#)),
        ("other root", allow(&aws("arn:aws:iam::444455556666:root"))),
        ("other alice", allow(&aws("arn:aws:iam::444455556666:user/alice"))),
        ("a service", allow(r#""Principal":{"Service":"s3.amazonaws.com"}"#)),
    ];
    let callers = [
        ("alice", user(OWN, "alice")),
        ("bob", user(OWN, "bob")),
        ("root", root(OWN)),
        ("other alice", user(OTHER, "alice")),
        ("other root", root(OTHER)),
    ];
    // For each policy and caller: - never, i only with an identity policy, + always.
    let table = [
        ("own root", "ii+--"),
        ("own digits", "ii+--"),
        ("alice", "+----"),
        ("alice's id", "+----"),
        ("anyone", "+++i+"),
        ("not mallory", "+++i+"),
        ("other root", "---i+"),
        ("other alice", "---i-"),
        ("a service", "-----"),
    ];
    let yes = identity(&[statement("Allow", "", r#""kms:Decrypt""#, "")]);
    let no = identity(&[statement("Allow", "", r#""kms:Encrypt""#, "")]);
    for ((policy_name, policy), (row, cells)) in policies.iter().zip(table) {
        assert_eq!(*policy_name, row);
        for ((caller_name, caller), cell) in callers.iter().zip(cells.chars()) {
            // The owner's identity policies do not help "alice's id" of another account, whose id is the same here.
            if *policy_name == "alice's id" && *caller_name == "other alice" {
                continue;
            }
            let with = decide(caller, "kms:Decrypt", Some(policy), &yes).0;
            let without = decide(caller, "kms:Decrypt", Some(policy), &no).0;
            assert_eq!((with, without), (cell != '-', cell == '+'), "{policy_name}, {caller_name}");
            let denying = identity(&[statement("Allow", "", r#""*""#, ""), statement("Deny", "", r#""kms:Dec*""#, "")]);
            assert_eq!(decide(caller, "kms:Decrypt", Some(policy), &denying), (false, "IdentityPolicy/p/1".into()));
        }
    }
}

#[test]
fn decisions_name_their_statement() {
    let policy = Document::parse(
        r#"{"Version":"2012-10-17","Id":"x","Statement":[
          {"Sid":"Account","Effect":"Allow","Principal":{"AWS":"111122223333"},"Action":"kms:*","Resource":"*"},
          {"Sid":"Alice","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:user/alice"},"Action":"kms:Decrypt","Resource":"*"},
          {"Effect":"Deny","Principal":"*","Action":"kms:ScheduleKeyDeletion","Resource":"*"}]}"#,
        Flavor::KeyPolicy,
    )
    .unwrap();
    let all = identity(&[statement("Allow", "", r#""kms:*""#, "")]);
    let alice = user(OWN, "alice");
    assert_eq!(decide(&alice, "kms:Decrypt", Some(&policy), &[]), (true, "KeyPolicy/Alice".into()));
    assert_eq!(decide(&alice, "kms:Encrypt", Some(&policy), &all), (true, "IdentityPolicy/p/0".into()));
    assert_eq!(decide(&alice, "kms:Encrypt", Some(&policy), &[]), (false, "Default".into()));
    assert_eq!(decide(&root(OWN), "kms:Encrypt", Some(&policy), &[]), (true, "KeyPolicy/Account".into()));
    assert_eq!(decide(&root(OWN), "kms:ScheduleKeyDeletion", Some(&policy), &[]), (false, "KeyPolicy/2".into()));
    assert_eq!(decide(&root(OWN), "kms:ListKeys", None, &[]), (true, "AccountRoot".into()));
    assert_eq!(decide(&alice, "kms:ListKeys", None, &all), (true, "IdentityPolicy/p/0".into()));
    assert_eq!(decide(&alice, "kms:ListKeys", None, &[]), (false, "Default".into()));
    assert_eq!(decide(&root(OTHER), "kms:ListKeys", None, &all), (false, "Default".into()));
}

#[test]
fn only_some_operations_reach_across_accounts() {
    let open = key_policy(&[statement("Allow", &aws(OTHER), r#""kms:*""#, "")]);
    let all = identity(&[statement("Allow", "", r#""*""#, "")]);
    for (name, capable) in KMS_ACTIONS {
        let action = format!("kms:{name}");
        assert_eq!(decide(&user(OTHER, "bob"), &action, Some(&open), &all).0, capable, "{action}");
        assert!(!decide(&user(OTHER, "bob"), &action, Some(&open), &[]).0, "{action}");
        assert_eq!(decide(&root(OTHER), &action, Some(&open), &[]).0, capable, "{action}");
    }
}

#[test]
fn a_deny_reaches_an_account_and_spares_only_whom_it_names_with_it() {
    let allow = statement("Allow", r#""Principal":"*""#, r#""kms:*""#, "");
    let denied = |principal: &str, caller: &PrincipalContext| {
        let policy = key_policy(&[allow.clone(), statement("Deny", principal, r#""kms:*""#, "")]);
        !decide(caller, "kms:Decrypt", Some(&policy), &[]).0
    };
    let (alice, bob) = (user(OWN, "alice"), user(OWN, "bob"));
    let alice_arn = "arn:aws:iam::111122223333:user/alice";
    assert!(denied(&aws(OWN), &alice) && denied(&aws(OWN), &root(OWN)));
    assert!(denied(&aws(alice_arn), &alice) && !denied(&aws(alice_arn), &bob));
    let both = format!(r#""NotPrincipal":{{"AWS":["{alice_arn}","{OWN}"]}}"#);
    assert!(!denied(&both, &alice) && denied(&both, &bob) && !denied(&both, &root(OWN)));
    // AWS: excepting the user without its account denies the account, and with it the user.
    let user_only = format!(r#""NotPrincipal":{{"AWS":"{alice_arn}"}}"#);
    assert!(denied(&user_only, &alice) && denied(&user_only, &bob));
}

/// Whether a Decrypt by `principal` with this context passes a condition, as an Allow and as a Deny.
fn holds(condition: &str, principal: &PrincipalContext, context: &Context<'_>) -> (bool, bool) {
    holds_for("kms:Decrypt", condition, principal, context)
}

fn holds_for(action: &str, condition: &str, principal: &PrincipalContext, context: &Context<'_>) -> (bool, bool) {
    let more = format!(r#","Condition":{condition}"#);
    let request = Request { action, resource_arn: KEY, key_account: OWN, principal, context };
    let anyone = r#""Principal":"*""#;
    let allowing = key_policy(&[statement("Allow", anyone, r#""kms:*""#, &more)]);
    let denying =
        key_policy(&[statement("Allow", anyone, r#""kms:*""#, ""), statement("Deny", anyone, r#""kms:*""#, &more)]);
    (evaluate(&request, Some(&allowing), &own(&[])).allowed, !evaluate(&request, Some(&denying), &own(&[])).allowed)
}

#[test]
fn conditions_true_false_and_absent() {
    let pairs = |list: &[(&str, &str)]| -> BTreeMap<String, String> {
        list.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    };
    let (encryption, tags) = (pairs(&[("App", "billing"), ("env", "prod")]), pairs(&[("team", "red")]));
    let aliases = ["alias/a".to_owned(), "alias/b".to_owned()];
    let key = KeyFacts {
        spec: "SYMMETRIC_DEFAULT",
        usage: "ENCRYPT_DECRYPT",
        origin: "AWS_KMS",
        multi_region: true,
        multi_region_key_type: Some("REPLICA"),
        tags: Some(&tags),
        aliases: &aliases,
    };
    let terms = GrantTerms {
        operations: GrantOperations::parse(["Decrypt", "Encrypt"]).unwrap(),
        constraints: GrantConstraints {
            encryption_context_subset: Some(pairs(&[("App", "billing")])),
            source_arn: Some("arn:aws:ec2:eu-central-1:111122223333:volume/vol-1".into()),
            ..GrantConstraints::default()
        },
    };
    let grantee = "arn:aws:iam::444455556666:user/eve";
    let grant = GrantFacts { grantee, retiring: Some("arn:aws:iam::111122223333:user/ret"), terms: &terms };
    let web_identity = WebIdentityFacts {
        issuer: "issuer.example.org:8443/Tenant".into(),
        audience: "orders".into(),
        subject: "app-7".into(),
        amr: vec!["pwd".into(), "otp".into()],
    };
    let full = Context {
        web_identity: Some(&web_identity),
        time_us: 1_767_614_400_999_999,
        region: "eu-central-1",
        source_ip: Some("::ffff:203.0.113.9".parse().unwrap()),
        secure_transport: true,
        user_agent: Some("Boto3/1.43"),
        encryption_context: Some(&encryption),
        encryption_algorithm: Some("SYMMETRIC_DEFAULT"),
        signing_algorithm: Some("ECDSA_SHA_256"),
        message_type: Some("RAW"),
        mac_algorithm: Some("HMAC_SHA_256"),
        key_agreement_algorithm: Some("ECDH"),
        data_key_pair_spec: Some("RSA_2048"),
        rotation_period_days: Some(365),
        wrapping_algorithm: Some("RSAES_OAEP_SHA_256"),
        wrapping_key_spec: Some("RSA_4096"),
        expiration_model: Some("KEY_MATERIAL_EXPIRES"),
        valid_to_us: Some(1_767_614_400_000_000),
        re_encrypt_on_same_key: Some(true),
        request_alias: Some("alias/a"),
        request_tags: Some(&tags),
        tag_keys: &aliases,
        pending_window_days: Some(7),
        primary_region: Some("us-east-1"),
        replica_region: Some("ap-south-1"),
        bypass_lockout: Some(false),
        approved: Some(true),
        via_service: Some("ec2.eu-central-1.amazonaws.com"),
        source_arn: Some("arn:aws:ec2:eu-central-1:111122223333:volume/vol-1"),
        grant: Some(grant),
        external_id: Some("ext-1"),
        role_session_name: Some("nightly"),
        transitive_tag_keys: &aliases,
        resource_tags: None,
        policy_arn: Some("arn:aws:iam::111122223333:policy/use"),
        permissions_boundary: Some("arn:aws:iam::111122223333:policy/limit"),
        key: Some(key),
    };
    let mut alice = user(OWN, "alice");
    alice.mfa = Mfa::At(full.time_us - 60_000_000);
    alice.issued_us = Some(full.time_us - 3_600_000_000);
    alice.tags = tags.clone();
    let empty = Context::default();
    let nobody = root(OWN);
    // Condition; with everything present; with as much as possible absent.
    let table = [
        (r#"{"StringEquals":{"issuer.example.org:8443/tenant:aud":"orders"}}"#, true, false),
        (r#"{"StringLike":{"issuer.example.org:8443/Tenant:sub":"app-*"}}"#, true, false),
        (r#"{"StringEquals":{"issuer.example.org/Tenant:sub":"app-7"}}"#, false, false),
        (r#"{"ForAnyValue:StringEquals":{"issuer.example.org:8443/Tenant:amr":"otp"}}"#, true, false),
        (r#"{"StringEquals":{"kms:EncryptionContext:App":"billing"}}"#, true, false),
        (r#"{"StringEquals":{"KMS:encryptioncontext:APP":["x","billing"]}}"#, true, false),
        (r#"{"StringEquals":{"kms:EncryptionContext:App":"Billing"}}"#, false, false),
        (r#"{"StringEqualsIgnoreCase":{"kms:EncryptionContext:App":"BILLING"}}"#, true, false),
        (r#"{"StringNotEquals":{"kms:EncryptionContext:App":"billing"}}"#, false, true),
        (r#"{"StringNotEqualsIgnoreCase":{"kms:EncryptionContext:App":"BILLING"}}"#, false, true),
        (r#"{"StringEqualsIfExists":{"kms:EncryptionContext:App":"other"}}"#, false, true),
        (r#"{"StringLike":{"kms:EncryptionContext:App":"b*g"}}"#, true, false),
        (r#"{"StringEquals":{"kms:EncryptionContext:App":"b*g"}}"#, false, false),
        (r#"{"StringNotLike":{"kms:EncryptionContext:App":["b*g","x"]}}"#, false, true),
        (r#"{"Null":{"kms:EncryptionContext:App":"true"}}"#, false, true),
        (r#"{"Null":{"kms:EncryptionContext:App":false}}"#, true, false),
        (r#"{"ForAnyValue:StringEquals":{"kms:EncryptionContextKeys":"App"}}"#, true, false),
        (r#"{"ForAnyValue:StringEquals":{"kms:EncryptionContextKeys":"app"}}"#, false, false),
        (r#"{"ForAllValues:StringEquals":{"kms:EncryptionContextKeys":["App","env","more"]}}"#, true, true),
        (r#"{"ForAllValues:StringEquals":{"kms:EncryptionContextKeys":["App"]}}"#, false, true),
        (r#"{"ForAnyValue:StringNotEquals":{"kms:EncryptionContextKeys":"App"}}"#, true, false),
        (r#"{"ForAllValues:StringNotEquals":{"kms:EncryptionContextKeys":"App"}}"#, false, true),
        (r#"{"StringEquals":{"kms:EncryptionContextKeys":"env"}}"#, true, false),
        (r#"{"StringNotEquals":{"kms:EncryptionContextKeys":"env"}}"#, false, true),
        (r#"{"ForAnyValue:StringLike":{"kms:ResourceAliases":"alias/*"}}"#, true, false),
        (r#"{"StringEquals":{"kms:RequestAlias":"alias/a"}}"#, true, false),
        (
            r#"{"StringEquals":{"kms:KeySpec":"SYMMETRIC_DEFAULT","kms:KeyUsage":"ENCRYPT_DECRYPT","kms:KeyOrigin":"AWS_KMS"}}"#,
            true,
            false,
        ),
        (r#"{"StringEquals":{"kms:EncryptionAlgorithm":"SYMMETRIC_DEFAULT"}}"#, true, false),
        (r#"{"StringEquals":{"kms:SigningAlgorithm":"ECDSA_SHA_256","kms:MessageType":"RAW"}}"#, true, false),
        (r#"{"StringEquals":{"kms:SigningAlgorithm":"ECDSA_SHA_384"}}"#, false, false),
        (r#"{"StringNotEquals":{"kms:MessageType":"RAW"}}"#, false, true),
        (r#"{"StringEquals":{"kms:MacAlgorithm":"HMAC_SHA_256"}}"#, true, false),
        (r#"{"StringNotEquals":{"kms:MacAlgorithm":"HMAC_SHA_256"}}"#, false, true),
        (r#"{"StringEquals":{"kms:KeyAgreementAlgorithm":"ECDH"}}"#, true, false),
        (r#"{"StringLike":{"kms:DataKeyPairSpec":"RSA_*"}}"#, true, false),
        (r#"{"StringLike":{"kms:DataKeyPairSpec":"ECC_*"}}"#, false, false),
        (r#"{"NumericLessThanEquals":{"kms:RotationPeriodInDays":"365"}}"#, true, false),
        (r#"{"NumericLessThan":{"kms:RotationPeriodInDays":"365"}}"#, false, false),
        (
            r#"{"StringEquals":{"kms:WrappingAlgorithm":"RSAES_OAEP_SHA_256","kms:WrappingKeySpec":"RSA_4096"}}"#,
            true,
            false,
        ),
        (r#"{"StringNotEquals":{"kms:WrappingKeySpec":"RSA_4096"}}"#, false, true),
        (r#"{"StringEquals":{"kms:ExpirationModel":"KEY_MATERIAL_EXPIRES"}}"#, true, false),
        (r#"{"DateLessThanEquals":{"kms:ValidTo":"2026-01-05T12:00:00Z"}}"#, true, false),
        (r#"{"DateLessThan":{"kms:ValidTo":"2026-01-05T12:00:00Z"}}"#, false, false),
        (r#"{"Bool":{"kms:ReEncryptOnSameKey":"true"}}"#, true, false),
        (r#"{"Bool":{"kms:ReEncryptOnSameKey":"false"}}"#, false, false),
        (r#"{"Bool":{"kms:MultiRegion":false}}"#, false, false),
        (r#"{"Bool":{"kms:MultiRegion":true},"StringEquals":{"kms:MultiRegionKeyType":"REPLICA"}}"#, true, false),
        (r#"{"StringNotEquals":{"kms:MultiRegionKeyType":"REPLICA"}}"#, false, true),
        (r#"{"StringLike":{"kms:PrimaryRegion":["eu-*","us-*"]}}"#, true, false),
        (r#"{"StringNotLike":{"kms:ReplicaRegion":"ap-*"}}"#, false, true),
        (r#"{"Bool":{"kms:BypassPolicyLockoutSafetyCheck":"true"}}"#, false, false),
        (r#"{"NumericLessThan":{"kms:ScheduleKeyDeletionPendingWindowInDays":"30"}}"#, true, false),
        (r#"{"NumericGreaterThanEquals":{"kms:ScheduleKeyDeletionPendingWindowInDays":8}}"#, false, false),
        (r#"{"NumericNotEquals":{"kms:ScheduleKeyDeletionPendingWindowInDays":7}}"#, false, true),
        (r#"{"StringEquals":{"kms:CallerAccount":"111122223333"}}"#, true, true),
        (r#"{"StringEquals":{"kms:ViaService":"s3.eu-central-1.amazonaws.com"}}"#, false, false),
        (r#"{"StringLike":{"kms:ViaService":"ec2.*.amazonaws.com"}}"#, true, false),
        (r#"{"StringNotEquals":{"kms:GrantConstraintType":"EncryptionContextEquals"}}"#, true, true),
        (r#"{"Null":{"kms:GrantIsForAWSResource":"true"}}"#, true, true),
        (r#"{"StringNotEquals":{"aws:PrincipalOrgID":"o-1"}}"#, true, true),
        (r#"{"ArnLike":{"aws:PrincipalArn":"arn:aws:iam::111122223333:user/*"}}"#, true, false),
        (r#"{"ArnEquals":{"aws:PrincipalArn":"arn:aws:iam::*:user/alice"}}"#, true, false),
        (r#"{"ArnNotEquals":{"aws:PrincipalArn":"arn:aws:iam::111122223333:user/alice"}}"#, false, true),
        (r#"{"ArnLike":{"aws:PrincipalArn":"arn:aws:iam::1111222*3333:user/a?ice"}}"#, true, false),
        (r#"{"ArnLike":{"aws:PrincipalArn":"arn:*:iam:*:*:x"}}"#, false, false),
        (r#"{"StringEquals":{"aws:username":"alice","aws:PrincipalType":"User"}}"#, true, false),
        (r#"{"StringEquals":{"aws:PrincipalTag/Team":"red"}}"#, true, false),
        (r#"{"StringEquals":{"aws:RequestTag/team":"red"}}"#, true, false),
        (r#"{"StringEquals":{"aws:ResourceTag/team":"${aws:PrincipalTag/team}"}}"#, true, false),
        (r#"{"ForAllValues:StringEquals":{"aws:TagKeys":["team","alias/a","alias/b"]}}"#, true, true),
        (r#"{"IpAddress":{"aws:SourceIp":["10.0.0.0/8","203.0.113.0/24"]}}"#, true, false),
        (r#"{"NotIpAddress":{"aws:SourceIp":"203.0.113.0/24"}}"#, false, true),
        (r#"{"DateLessThan":{"aws:CurrentTime":"2026-01-05T12:00:01Z"}}"#, true, true),
        (r#"{"DateGreaterThan":{"aws:CurrentTime":"2026-01-05T12:00:00Z"}}"#, false, false),
        (r#"{"DateEquals":{"aws:EpochTime":"1767614400"}}"#, true, false),
        (r#"{"NumericGreaterThan":{"aws:EpochTime":"1767614399"}}"#, true, false),
        (r#"{"Bool":{"aws:SecureTransport":"false"}}"#, false, true),
        (r#"{"StringLike":{"aws:UserAgent":"Boto3/*"}}"#, true, false),
        (r#"{"Bool":{"aws:MultiFactorAuthPresent":"true"}}"#, true, false),
        (r#"{"BoolIfExists":{"aws:MultiFactorAuthPresent":"false"}}"#, false, true),
        (r#"{"NumericLessThan":{"aws:MultiFactorAuthAge":"300"}}"#, true, false),
        (r#"{"StringEquals":{"aws:RequestedRegion":"eu-central-1"}}"#, true, false),
    ];
    for (condition, present, absent) in table {
        assert_eq!(holds(condition, &alice, &full), (present, present), "{condition} with everything");
        assert_eq!(holds(condition, &nobody, &empty), (absent, absent), "{condition} with nothing");
    }
    // Each key by itself: an operator, a value that fits, one that does not, and whether the first fits the caller
    // without anything: `-` where the key is absent then.
    let keys = [
        ("keytrail:ApprovedBySecondPrincipal", "Bool", "true", "false", '-'),
        ("kms:BypassPolicyLockoutSafetyCheck", "Bool", "false", "true", '-'),
        ("kms:CallerAccount", "StringEquals", OWN, OTHER, 'y'),
        ("kms:DataKeyPairSpec", "StringEquals", "RSA_2048", "RSA_4096", '-'),
        ("kms:EncryptionAlgorithm", "StringEquals", "SYMMETRIC_DEFAULT", "RSAES_OAEP_SHA_1", '-'),
        ("kms:EncryptionContextKeys", "ForAnyValue:StringEquals", "App", "Other", '-'),
        ("kms:ExpirationModel", "StringEquals", "KEY_MATERIAL_EXPIRES", "KEY_MATERIAL_DOES_NOT_EXPIRE", '-'),
        ("kms:GrantConstraintSourceArn", "ArnEquals", "arn:aws:ec2:*:*:volume/*", "arn:aws:s3:*:*:*", '-'),
        ("kms:GrantConstraintType", "StringEquals", "EncryptionContextSubset", "EncryptionContextEquals", '-'),
        ("kms:GranteePrincipal", "StringEquals", grantee, "arn:aws:iam::444455556666:user/bob", '-'),
        ("kms:GrantIsForAWSResource", "Bool", "true", "false", 'n'),
        ("kms:GrantOperations", "ForAnyValue:StringEquals", "Decrypt", "Sign", '-'),
        ("kms:KeyAgreementAlgorithm", "StringEquals", "ECDH", "OTHER", '-'),
        ("kms:KeyOrigin", "StringEquals", "AWS_KMS", "EXTERNAL", '-'),
        ("kms:KeySpec", "StringEquals", "SYMMETRIC_DEFAULT", "RSA_2048", '-'),
        ("kms:KeyUsage", "StringEquals", "ENCRYPT_DECRYPT", "SIGN_VERIFY", '-'),
        ("kms:MacAlgorithm", "StringEquals", "HMAC_SHA_256", "HMAC_SHA_512", '-'),
        ("kms:MessageType", "StringEquals", "RAW", "DIGEST", '-'),
        ("kms:MultiRegion", "Bool", "true", "false", '-'),
        ("kms:MultiRegionKeyType", "StringEquals", "REPLICA", "PRIMARY", '-'),
        ("kms:PrimaryRegion", "StringEquals", "us-east-1", "eu-west-1", '-'),
        ("kms:ReplicaRegion", "StringLike", "ap-*", "eu-*", '-'),
        ("kms:ScheduleKeyDeletionPendingWindowInDays", "NumericEquals", "7", "8", '-'),
        ("kms:ReEncryptOnSameKey", "Bool", "true", "false", '-'),
        ("kms:RequestAlias", "StringEquals", "alias/a", "alias/b", '-'),
        ("kms:ResourceAliases", "ForAnyValue:StringEquals", "alias/b", "alias/c", '-'),
        ("kms:RetiringPrincipal", "ArnLike", "arn:aws:iam::111122223333:user/*", "arn:aws:iam::*:role/*", '-'),
        ("kms:RotationPeriodInDays", "NumericEquals", "365", "90", '-'),
        ("kms:SigningAlgorithm", "StringEquals", "ECDSA_SHA_256", "ECDSA_SHA_384", '-'),
        ("kms:ViaService", "StringEquals", "ec2.eu-central-1.amazonaws.com", "ec2.us-east-1.amazonaws.com", '-'),
        ("kms:ValidTo", "DateEquals", "2026-01-05T12:00:00Z", "2026-01-05T12:00:01Z", '-'),
        ("kms:WrappingAlgorithm", "StringEquals", "RSAES_OAEP_SHA_256", "RSAES_OAEP_SHA_1", '-'),
        ("kms:WrappingKeySpec", "StringEquals", "RSA_4096", "RSA_2048", '-'),
        ("aws:CurrentTime", "DateLessThan", "2026-01-05T12:00:01Z", "2026-01-05", 'y'),
        ("aws:EpochTime", "DateGreaterThanEquals", "1767614400", "1767614401", 'n'),
        ("aws:MultiFactorAuthAge", "NumericLessThan", "61", "60", '-'),
        ("aws:MultiFactorAuthPresent", "Bool", "true", "false", '-'),
        ("aws:PrincipalAccount", "StringEquals", OWN, OTHER, 'y'),
        ("aws:PrincipalArn", "ArnEquals", "arn:aws:iam::111122223333:user/alice", "arn:aws:iam::*:role/alice", 'n'),
        ("aws:PrincipalIsAWSService", "Bool", "false", "true", 'y'),
        ("aws:PrincipalTag/team", "StringEquals", "red", "blue", '-'),
        ("aws:PrincipalType", "StringEquals", "User", "AssumedRole", 'n'),
        ("aws:RequestedRegion", "StringEquals", "eu-central-1", "us-east-1", '-'),
        ("aws:RequestTag/team", "StringEquals", "red", "blue", '-'),
        ("aws:ResourceTag/team", "StringEquals", "red", "blue", '-'),
        ("aws:SecureTransport", "Bool", "true", "false", 'n'),
        ("aws:SourceAccount", "StringEquals", OWN, OTHER, '-'),
        ("aws:SourceArn", "ArnLike", "arn:aws:ec2:*:111122223333:volume/*", "arn:aws:s3:*:111122223333:*", '-'),
        ("aws:SourceIp", "IpAddress", "203.0.113.0/24", "10.0.0.0/8", '-'),
        ("aws:TagKeys", "ForAnyValue:StringEquals", "team", "cost", '-'),
        ("aws:TokenIssueTime", "DateEquals", "2026-01-05T11:00:00Z", "2026-01-05T11:00:01Z", '-'),
        ("aws:UserAgent", "StringLike", "Boto3/*", "aws-cli/*", '-'),
        ("aws:userid", "StringEquals", "AIDAAAAAAAAAAAAALICE", "AIDAAAAAAAAAAAAAAABOB", 'n'),
        ("aws:username", "StringEquals", "alice", "bob", '-'),
        ("aws:ViaAWSService", "Bool", "true", "false", 'n'),
        ("sts:ExternalId", "StringEquals", "ext-1", "ext-2", '-'),
        ("sts:RoleSessionName", "StringLike", "night*", "day*", '-'),
        ("sts:TransitiveTagKeys", "ForAnyValue:StringEquals", "alias/a", "alias/c", '-'),
        ("iam:PolicyARN", "ArnEquals", "arn:aws:iam::111122223333:policy/use", "arn:aws:iam::*:policy/limit", '-'),
        ("iam:PermissionsBoundary", "ArnLike", "arn:aws:iam::*:policy/limit", "arn:aws:iam::*:policy/use", '-'),
    ];
    let never = ["kms:granteeserviceprincipal", "kms:retiringserviceprincipal", "aws:principalorgid"];
    for (known, ..) in fact::NAMES {
        let tested = keys.iter().any(|(key, ..)| key.to_lowercase() == *known);
        assert!(tested != never.contains(known), "{known}");
    }
    for (key, operator, fits, differs, bare) in keys {
        let asks = |operator: &str, value: &str, caller, context| {
            holds_for("kms:CreateGrant", &format!(r#"{{"{operator}":{{"{key}":"{value}"}}}}"#), caller, context)
        };
        let both = |holds| (holds, holds);
        assert_eq!(asks(operator, fits, &alice, &full), both(true), "{key}");
        assert_eq!(asks(operator, differs, &alice, &full), both(false), "{key}");
        assert_eq!(asks(operator, fits, &nobody, &empty), both(bare == 'y'), "{key} with nothing");
        assert_eq!(asks(&format!("{operator}IfExists"), fits, &nobody, &empty), both(bare != 'n'), "{key} if exists");
        assert_eq!(asks("Null", "true", &nobody, &empty), both(bare == '-'), "{key} is absent");
        assert_eq!(asks("Null", "true", &alice, &full), both(false), "{key} is there");
    }
    for key in never {
        assert_eq!(holds(&format!(r#"{{"Null":{{"{key}":"true"}}}}"#), &alice, &full), (true, true), "{key}");
    }
    // Of a grant: on CreateGrant, on RetireGrant, on anything else.
    let about = grant.context();
    for (condition, made, ended, other) in [
        (r#"{"ForAllValues:StringEquals":{"kms:GrantOperations":["Decrypt","Encrypt"]}}"#, true, true, true),
        (r#"{"ForAllValues:StringEquals":{"kms:GrantOperations":["Decrypt"]}}"#, false, true, true),
        (r#"{"ForAnyValue:StringEquals":{"kms:GrantOperations":"Encrypt"}}"#, true, false, false),
        (r#"{"ArnLike":{"kms:GranteePrincipal":"arn:aws:iam::444455556666:*"}}"#, true, false, false),
        (r#"{"StringEquals":{"kms:EncryptionContext:app":"billing"}}"#, true, true, true),
        (r#"{"StringEquals":{"kms:EncryptionContext:app":"other"}}"#, false, false, false),
        (r#"{"StringEquals":{"kms:GrantConstraintType":"EncryptionContextSubset"}}"#, true, true, true),
        (r#"{"Bool":{"kms:GrantIsForAWSResource":"false"}}"#, true, false, false),
    ] {
        for (action, want) in [("kms:CreateGrant", made), ("kms:RetireGrant", ended), ("kms:Decrypt", other)] {
            assert_eq!(holds_for(action, condition, &alice, &about), (want, want), "{condition} {action}");
        }
    }
    let binary = pairs(&[("bin", "AAEC")]);
    let context = Context { encryption_context: Some(&binary), ..full };
    assert_eq!(holds(r#"{"BinaryEquals":{"kms:EncryptionContext:bin":"AAEC"}}"#, &alice, &context), (true, true));
    assert_eq!(holds(r#"{"BinaryEquals":{"kms:EncryptionContext:bin":"aaec"}}"#, &alice, &context), (false, false));
}

#[test]
fn each_operator_true_false_and_absent() {
    let names: BTreeMap<String, String> = [("text".into(), "Abc".into()), ("bytes".into(), "AAEC".into())].into();
    let aliases = ["alias/a".to_owned(), "alias/b".to_owned()];
    let context = Context {
        time_us: 1_767_614_400_000_000,
        source_ip: Some("203.0.113.9".parse().unwrap()),
        encryption_context: Some(&names),
        tag_keys: &aliases,
        pending_window_days: Some(7),
        bypass_lockout: Some(true),
        source_arn: Some("arn:aws:ec2:eu-central-1:111122223333:volume/vol-1"),
        ..Context::default()
    };
    let (text, bytes, arn) = ("kms:EncryptionContext:text", "kms:EncryptionContext:bytes", "aws:SourceArn");
    let (days, bypass) = ("kms:ScheduleKeyDeletionPendingWindowInDays", "kms:BypassPolicyLockoutSafetyCheck");
    let (now, ip) = ("aws:CurrentTime", "aws:SourceIp");
    let (exact, volumes, other) =
        ("arn:aws:ec2:eu-central-1:111122223333:volume/vol-1", "arn:aws:ec2:*:*:volume/*", "arn:aws:ec2:*:*:image/*");
    // Operator, key, a value that makes it true, one that makes it false.
    let table = [
        ("StringEquals", text, "Abc", "abc"),
        ("StringNotEquals", text, "abc", "Abc"),
        ("StringEqualsIgnoreCase", text, "aBC", "abd"),
        ("StringNotEqualsIgnoreCase", text, "abd", "aBC"),
        ("StringLike", text, "A?c*", "a*"),
        ("StringNotLike", text, "a*", "A?c*"),
        ("ArnEquals", arn, exact, other),
        ("ArnLike", arn, volumes, other),
        ("ArnNotEquals", arn, other, exact),
        ("ArnNotLike", arn, other, volumes),
        ("NumericEquals", days, "7", "8"),
        ("NumericNotEquals", days, "8", "7"),
        ("NumericLessThan", days, "8", "7"),
        ("NumericLessThanEquals", days, "7", "6"),
        ("NumericGreaterThan", days, "6", "7"),
        ("NumericGreaterThanEquals", days, "7", "8"),
        ("DateEquals", now, "2026-01-05T12:00:00Z", "2026-01-05T12:00:01Z"),
        ("DateNotEquals", now, "2026-01-05T12:00:01Z", "2026-01-05T12:00:00Z"),
        ("DateLessThan", now, "2026-01-05T12:00:01Z", "2026-01-05T12:00:00Z"),
        ("DateLessThanEquals", now, "2026-01-05T12:00:00Z", "2026-01-05T11:59:59Z"),
        ("DateGreaterThan", now, "2026-01-05T11:59:59Z", "2026-01-05T12:00:00Z"),
        ("DateGreaterThanEquals", now, "2026-01-05T12:00:00Z", "2026-01-05T12:00:01Z"),
        ("Bool", bypass, "true", "false"),
        ("BinaryEquals", bytes, "AAEC", "AAED"),
        ("IpAddress", ip, "203.0.113.0/24", "10.0.0.0/8"),
        ("NotIpAddress", ip, "10.0.0.0/8", "203.0.113.0/24"),
        ("ForAnyValue:StringEquals", "aws:TagKeys", "alias/a", "alias/c"),
        ("ForAnyValue:StringNotLike", "aws:TagKeys", "*/a", "alias/?"),
        ("ForAnyValue:StringLike", "aws:TagKeys", "*/b", "*/c"),
        ("ForAllValues:StringLike", "aws:TagKeys", "alias/?", "*/a"),
        ("ForAllValues:StringNotLike", "aws:TagKeys", "*/c", "*/a"),
    ];
    let (alice, nothing) = (user(OWN, "alice"), Context::default());
    for (operator, key, fits, differs) in table {
        let asks = |operator: &str, key: &str, value: &str, context| {
            holds(&format!(r#"{{"{operator}":{{"{key}":"{value}"}}}}"#), &alice, context)
        };
        let both = |holds| (holds, holds);
        let if_exists = format!("{operator}IfExists");
        for operator in [operator, if_exists.as_str()] {
            assert_eq!(asks(operator, key, fits, &context), both(true), "{operator} {fits}");
            assert_eq!(asks(operator, key, differs, &context), both(false), "{operator} {differs}");
        }
        // There is always a time, but only sessions have a date of issue.
        let absent = if key == now { "aws:TokenIssueTime" } else { key };
        let satisfied = operator.starts_with("ForAllValues:")
            || (operator.contains("Not") && !operator.starts_with("ForAnyValue:"));
        assert_eq!(asks(operator, absent, fits, &nothing), both(satisfied), "{operator} of nothing");
        assert_eq!(asks(&if_exists, absent, fits, &nothing), both(true), "{if_exists} of nothing");
    }
}

#[test]
fn not_action_covers_all_but_what_it_names() {
    let alice = user(OWN, "alice");
    let anyone = r#""Principal":"*""#;
    let except =
        |effect: &str| statement(effect, anyone, r#"["kms:Decrypt","kms:List*"]"#, "").replace("Action", "NotAction");
    let allowing = key_policy(&[except("Allow")]);
    let denying = key_policy(&[statement("Allow", anyone, r#""kms:*""#, ""), except("Deny")]);
    for (action, named) in
        [("kms:Decrypt", true), ("kms:ListGrants", true), ("kms:Encrypt", false), ("kms:CreateGrant", false)]
    {
        assert_eq!(decide(&alice, action, Some(&allowing), &[]).0, !named, "{action}");
        assert_eq!(decide(&alice, action, Some(&denying), &[]).0, named, "{action}");
    }
}

#[test]
fn what_cannot_be_told_denies() {
    // Two keys that differ only in case: an Allow does not apply, a Deny does, whatever the values.
    let twins: BTreeMap<String, String> = [("app".into(), "a".into()), ("APP".into(), "b".into())].into();
    let context = Context { encryption_context: Some(&twins), ..Context::default() };
    let alice = user(OWN, "alice");
    for condition in [
        r#"{"StringEquals":{"kms:EncryptionContext:app":"a"}}"#,
        r#"{"StringNotEquals":{"kms:EncryptionContext:app":"a"}}"#,
        r#"{"Null":{"kms:EncryptionContext:app":"true"}}"#,
        r#"{"StringEquals":{"aws:username":"${aws:PrincipalTag/none}"}}"#,
        r#"{"StringNotEquals":{"aws:username":"${aws:PrincipalTag/none}"}}"#,
    ] {
        assert_eq!(holds(condition, &alice, &context), (false, true), "{condition}");
    }
    assert_eq!(
        holds(r#"{"StringEquals":{"aws:username":"${aws:PrincipalTag/none,'alice'}"}}"#, &alice, &context),
        (true, true)
    );
}

#[test]
fn variables_are_values_and_never_wildcards() {
    let star = user(OWN, "*");
    let context = Context { user_agent: Some("anything"), ..Context::default() };
    let condition = r#"{"StringLike":{"aws:UserAgent":"${aws:username}"}}"#;
    assert_eq!(holds(condition, &star, &context), (false, false));
    assert_eq!(holds(condition, &user(OWN, "anything"), &context), (true, true));
    // Escapes, and 2008's policies that know no variables.
    let literal = Context { user_agent: Some("*${x"), ..Context::default() };
    let alice = user(OWN, "alice");
    assert_eq!(holds(r#"{"StringLike":{"aws:UserAgent":"${*}${$}{?"}}"#, &alice, &literal), (true, true));
    let old = r#"{"Version":"2008-10-17","Statement":{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*",
                 "Condition":{"StringEquals":{"aws:UserAgent":"${aws:username}"}}}}"#;
    let old = Document::parse(old, Flavor::KeyPolicy).unwrap();
    for (agent, want) in [("alice", false), ("${aws:username}", true)] {
        let context = Context { user_agent: Some(agent), ..Context::default() };
        let request = Request {
            action: "kms:Decrypt",
            resource_arn: KEY,
            key_account: OWN,
            principal: &alice,
            context: &context,
        };
        assert_eq!(evaluate(&request, Some(&old), &own(&[])).allowed, want);
    }
}

#[test]
fn resources_bound_identity_policies() {
    let account = Document::parse(&default_key_policy(OWN), Flavor::KeyPolicy).unwrap();
    let alice = user(OWN, "alice");
    let with = |resource: &str| {
        let text =
            format!(r#"{{"Version":"2012-10-17","Statement":{{"Effect":"Allow","Action":"kms:*",{resource}}}}}"#);
        let document = Arc::new(Document::parse(&text, Flavor::IdentityPolicy).unwrap());
        decide(&alice, "kms:Decrypt", Some(&account), &[NamedDocument { name: "p".into(), document }]).0
    };
    assert!(with(&format!(r#""Resource":"{KEY}""#)));
    assert!(with(r#""Resource":["arn:aws:kms:*:111122223333:key/*"]"#));
    assert!(with(r#""Resource":"arn:aws:kms:*:111122223333:${aws:PrincipalTag/none,'key'}/*""#));
    // AWS replaces no variable before the fifth colon: an Allow with one covers nothing, and with NotResource neither.
    assert!(!with(r#""Resource":"arn:aws:kms:${aws:RequestedRegion,'eu-central-1'}:111122223333:key/*""#));
    assert!(!with(r#""NotResource":"arn:aws:kms:*:${aws:PrincipalAccount}:alias/*""#));
    assert!(with(r#""NotResource":"arn:aws:kms:*:444455556666:key/*""#));
    assert!(!with(&format!(r#""NotResource":"{KEY}""#)));
    assert!(!with(r#""Resource":"arn:aws:kms:us-east-1:111122223333:key/*""#));
}

#[test]
fn malformed_documents_are_refused_with_their_statement() {
    let good = r#""Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*""#;
    assert!(Document::parse(&format!(r#"{{"Statement":{{{good}}}}}"#), Flavor::KeyPolicy).is_ok());
    for broken in [
        good.replace("Allow", "allow"),
        good.replace(r#""Effect":"Allow","#, ""),
        good.replace(r#""Principal":"*","#, ""),
        good.replace(r#""Action":"kms:*","#, ""),
        good.replace(r#","Resource":"*""#, ""),
        good.replace(r#""Resource":"*""#, r#""Resource":"key/x""#),
        good.replace(r#""Resource":"*""#, r#""Resource":[]"#),
        good.replace(r#""Principal":"*""#, r#""Principal":"111122223333""#),
        good.replace(r#""Principal":"*""#, r#""Principal":{}"#),
        good.replace(r#""Principal":"*""#, r#""Principal":{"AWS":"arn:aws:iam::*:root"}"#),
        good.replace(r#""Principal":"*""#, r#""Principal":{"AWS":"arn:aws:iam::111122223333:user/*"}"#),
        good.replace(r#""Principal":"*""#, r#""Principal":{"AWS":"alice"}"#),
        good.replace(r#""Principal":"*""#, r#""Principal":{"CanonicalUser":"x"}"#),
        format!(r#"{good},"NotPrincipal":"*""#),
        format!(r#"{good},"NotAction":"kms:Decrypt""#),
        format!(r#"{good},"Unknown":1"#),
        format!(r#"{good},"Effect":"Deny""#),
        format!(r#"{good},"Sid":7,"Sid":8"#),
        format!(r#"{good},"Condition":[]"#),
        format!(r#"{good},"Condition":{{"StringEquals":{{}}}}"#),
        format!(r#"{good},"Condition":{{"StringEquals":{{"aws:username":[]}}}}"#),
        format!(r#"{good},"Condition":{{"StringEquals":{{"aws:username":null}}}}"#),
        format!(r#"{good},"Condition":{{"StringEquals":{{"aws:nonsense":"x"}}}}"#),
        format!(r#"{good},"Condition":{{"StringEquals":{{"kms:EncryptionContext:":"x"}}}}"#),
        format!(r#"{good},"Condition":{{"StringMatches":{{"aws:username":"x"}}}}"#),
        format!(r#"{good},"Condition":{{"NullIfExists":{{"aws:username":"true"}}}}"#),
        format!(r#"{good},"Condition":{{"ForSomeValue:StringEquals":{{"aws:username":"x"}}}}"#),
        format!(r#"{good},"Condition":{{"StringEquals":{{"aws:SourceIp":"10.0.0.0/8"}}}}"#),
        format!(r#"{good},"Condition":{{"IpAddress":{{"aws:SourceIp":"ten"}}}}"#),
        format!(r#"{good},"Condition":{{"Bool":{{"aws:SecureTransport":"yes"}}}}"#),
        format!(r#"{good},"Condition":{{"NumericEquals":{{"aws:MultiFactorAuthAge":"NaN"}}}}"#),
        format!(r#"{good},"Condition":{{"DateLessThan":{{"aws:CurrentTime":"soon"}}}}"#),
        format!(r#"{good},"Condition":{{"ArnLike":{{"aws:PrincipalArn":"alice"}}}}"#),
    ] {
        let version = r#""Version":"2012-10-17""#;
        let parsed = Document::parse(&format!(r#"{{{version},"Statement":[{{{broken}}}]}}"#), Flavor::KeyPolicy);
        assert!(matches!(parsed, Err(PolicyError::Statement { index: 0, .. } | PolicyError::Json(_))), "{broken}");
    }
    let whole = |text: &str| Document::parse(text, Flavor::KeyPolicy);
    assert!(matches!(
        whole(&format!(r#"{{"Version":"2026-01-01","Statement":{{{good}}}}}"#)),
        Err(PolicyError::Document(_))
    ));
    assert!(matches!(whole(&format!(r#"{{"Nonsense":1,"Statement":{{{good}}}}}"#)), Err(PolicyError::Document(_))));
    assert!(matches!(
        whole(&format!(r#"{{"Statement":[{{"Sid":"a",{good}}},{{"Sid":"a",{good}}}]}}"#)),
        Err(PolicyError::Statement { index: 1, .. })
    ));
    assert_eq!(whole(&" ".repeat(40_000)).unwrap_err(), PolicyError::TooLong);
    assert!(whole(&"[".repeat(30_000)).is_err());
    assert!(Document::parse(&format!(r#"{{"Statement":{{{good}}}}}"#), Flavor::IdentityPolicy).is_err());
}

#[test]
fn a_policy_that_shuts_its_author_out_is_noticed() {
    let alice = user(OWN, "alice");
    let context = Context::default();
    let request =
        Request { action: "kms:CreateKey", resource_arn: "*", key_account: OWN, principal: &alice, context: &context };
    let all = identity(&[statement("Allow", "", r#""kms:*""#, "")]);
    let default = Document::parse(&default_key_policy(OWN), Flavor::KeyPolicy).unwrap();
    assert!(!locks_out(&default, KEY, &request, &own(&all)));
    assert!(locks_out(&default, KEY, &request, &own(&[])));
    let only_use =
        key_policy(&[statement("Allow", &aws("arn:aws:iam::111122223333:user/alice"), r#""kms:Decrypt""#, "")]);
    assert!(locks_out(&only_use, KEY, &request, &own(&all)));
    let bob = key_policy(&[statement("Allow", &aws("arn:aws:iam::111122223333:user/bob"), r#""kms:*""#, "")]);
    assert!(locks_out(&bob, KEY, &request, &own(&all)));
}

proptest! {
    #[test]
    fn any_text_gets_an_answer(text in "\\PC{0,200}") {
        let _ = Document::parse(&text, Flavor::KeyPolicy);
        let _ = is_public(&text);
    }

    #[test]
    fn any_condition_gets_an_answer(
        operator in "(ForAllValues:|ForAnyValue:)?(String|Arn|Date|Numeric|Bool|Null|IpAddress)(Not)?(Equals|Like)?(IfExists)?",
        key in "(kms:EncryptionContext:a|aws:username|aws:SourceIp|aws:PrincipalArn|aws:CurrentTime|kms:EncryptionContextKeys)",
        value in "[-a-z0-9:*?$/{}., ']{0,20}",
    ) {
        let text = serde_json::json!({"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Principal": "*",
            "Action": "kms:*", "Resource": "*", "Condition": {operator: {key: value}}}}).to_string();
        if let Ok(document) = Document::parse(&text, Flavor::KeyPolicy) {
            decide(&user(OWN, "alice"), "kms:Decrypt", Some(&document), &[]);
        }
        prop_assert!(is_public(&text).is_ok() || Document::parse(&text, Flavor::KeyPolicy).is_err());
    }

    /// Whatever else the policies hold, a Deny that applies wins.
    #[test]
    fn a_deny_always_wins(allows in proptest::collection::vec("kms:(\\*|De\\*|Decrypt|Encrypt)", 0..6), at in 0usize..6) {
        let mut statements: Vec<String> =
            allows.iter().map(|action| statement("Allow", r#""Principal":"*""#, &format!("\"{action}\""), "")).collect();
        statements.insert(at.min(statements.len()), statement("Deny", &aws(OWN), r#""kms:Decrypt""#, ""));
        let all = identity(&[statement("Allow", "", r#""*""#, "")]);
        prop_assert!(!decide(&user(OWN, "alice"), "kms:Decrypt", Some(&key_policy(&statements)), &all).0);
    }
}

#[test]
fn an_identity_provider_is_let_in_by_its_own_name_and_kept_out_by_any() {
    let provider = "arn:aws:iam::111122223333:oidc-provider/issuer.example.org";
    let somebody = PrincipalContext {
        arn: provider.into(),
        account: OWN.into(),
        kind: PrincipalKind::Federated,
        user_id: format!("{provider}:aud:sub"),
        ..PrincipalContext::default()
    };
    let context = Context::default();
    let role = "arn:aws:iam::111122223333:role/r";
    let request = Request {
        action: "sts:AssumeRoleWithWebIdentity",
        resource_arn: role,
        key_account: OWN,
        principal: &somebody,
        context: &context,
    };
    let allow = |principal: &str| {
        format!(r#"{{"Effect":"Allow","Principal":{principal},"Action":"sts:AssumeRoleWithWebIdentity"}}"#)
    };
    let named = allow(&format!(r#"{{"Federated":"{provider}"}}"#));
    let deny = |principal: &str| format!(r#"{named},{{"Effect":"Deny","Principal":{principal},"Action":"sts:*"}}"#);
    for (statements, allowed) in [
        (named.clone(), true),
        (allow(r#"{"Federated":"arn:aws:iam::111122223333:oidc-provider/issuer.example.or"}"#), false),
        (allow(r#""*""#), false),
        (allow(r#"{"AWS":"*"}"#), false),
        (allow(r#"{"AWS":"111122223333"}"#), false),
        (allow(&format!(r#"{{"AWS":"{provider}"}}"#)), false),
        (allow(r#"{"AWS":"arn:aws:iam::111122223333:user/x"}"#).replace("\"Principal\"", "\"NotPrincipal\""), false),
        (deny(r#""*""#), false),
        (deny(r#"{"AWS":"111122223333"}"#), false),
        (deny(&format!(r#"{{"Federated":"{provider}"}}"#)), false),
        (deny(r#"{"AWS":"arn:aws:iam::111122223333:user/x"}"#), true),
    ] {
        let text = format!(r#"{{"Version":"2012-10-17","Statement":[{statements}]}}"#);
        let trust = Document::parse(&text, Flavor::TrustPolicy).unwrap();
        let own = CallerPolicies { identity: &[], boundary: None, session: None };
        assert_eq!(evaluate(&request, Some(&trust), &own).allowed, allowed, "{text}");
    }
    // A user of the same name as the provider, if there could be one, is not it.
    let user = PrincipalContext { kind: PrincipalKind::User, ..somebody.clone() };
    let text = format!(r#"{{"Version":"2012-10-17","Statement":[{named}]}}"#);
    let trust = Document::parse(&text, Flavor::TrustPolicy).unwrap();
    let own = CallerPolicies { identity: &[], boundary: None, session: None };
    assert!(!evaluate(&Request { principal: &user, ..request }, Some(&trust), &own).allowed);
}
