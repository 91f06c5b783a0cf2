//! Truth tables of sessions: roles named in four ways, permission boundaries and session policies between them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use super::*;

const OWN: &str = "111122223333";
const OTHER: &str = "444455556666";
const KEY: &str = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
const ROLE: &str = "arn:aws:iam::111122223333:role/reader";
const SESSION: &str = "arn:aws:sts::111122223333:assumed-role/reader/alice";

fn session(account: &str) -> PrincipalContext {
    PrincipalContext {
        arn: SESSION.replace(OWN, account),
        account: account.into(),
        kind: PrincipalKind::Session,
        user_id: "AROAEXAMPLEEXAMPLE12:alice".into(),
        role_arn: Some(ROLE.replace(OWN, account)),
        issued_us: Some(1_767_614_400_000_000),
        mfa: Mfa::Without,
        ..PrincipalContext::default()
    }
}

fn user() -> PrincipalContext {
    PrincipalContext {
        arn: format!("arn:aws:iam::{OWN}:user/alice"),
        account: OWN.into(),
        user_id: "AIDAEXAMPLEEXAMPLE12".into(),
        ..PrincipalContext::default()
    }
}

fn policy(flavor: Flavor, effect: &str, principal: &str, more: &str) -> Document {
    let text = format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Sid":"S","Effect":"{effect}",{principal}"Action":"kms:*","Resource":"*"{more}}}]}}"#
    );
    Document::parse(&text, flavor).unwrap()
}

fn named(effect: &str) -> Vec<NamedDocument> {
    vec![NamedDocument { name: "p".into(), document: Arc::new(policy(Flavor::IdentityPolicy, effect, "", "")) }]
}

fn nothing() -> Vec<NamedDocument> {
    let text = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:ListKeys","Resource":"*"}]}"#;
    let document = Document::parse(text, Flavor::IdentityPolicy).unwrap();
    vec![NamedDocument { name: "n".into(), document: Arc::new(document) }]
}

fn decide(principal: &PrincipalContext, key_policy: &Document, own: CallerPolicies<'_>) -> Decision {
    let context = Context::default();
    let request = Request { action: "kms:Decrypt", resource_arn: KEY, key_account: OWN, principal, context: &context };
    evaluate(&request, Some(key_policy), &own)
}

/// For each way to name a session: + whatever limits it, l only within its limits, i only with an identity policy too.
#[test]
fn every_way_to_name_a_session_with_every_limit() {
    let (yes, no, none) = (named("Allow"), nothing(), &[][..]);
    for (principal, cell) in [
        (format!(r#""Principal":{{"AWS":"{SESSION}"}},"#), '+'),
        (format!(r#""Principal":{{"AWS":"{ROLE}"}},"#), 'l'),
        (r#""Principal":{"AWS":"AROAEXAMPLEEXAMPLE12"},"#.to_owned(), 'l'),
        (r#""Principal":"*","#.to_owned(), 'l'),
        (r#""Principal":{"AWS":"111122223333"},"#.to_owned(), 'i'),
        (format!(r#""Principal":{{"AWS":"{SESSION}2"}},"#), '-'),
        (format!(r#""Principal":{{"AWS":"arn:aws:iam::{OWN}:role/other"}},"#), '-'),
        (r#""Principal":{"AWS":"444455556666"},"#.to_owned(), '-'),
    ] {
        let key_policy = policy(Flavor::KeyPolicy, "Allow", &principal, "");
        for (identity, boundary, limit) in
            [(none, None, None), (none, Some(&no[0]), None), (none, None, Some(&no[..])), (&yes[..], None, None)]
                .into_iter()
                .chain([(&yes[..], Some(&no[0]), None), (&yes[..], None, Some(&no[..]))])
                .chain([(&yes[..], Some(&yes[0]), Some(&yes[..])), (none, Some(&yes[0]), Some(&yes[..]))])
        {
            let limited = [boundary.into_iter().collect::<Vec<_>>(), limit.iter().flat_map(|l| l.iter()).collect()];
            let within = limited.iter().flatten().all(|document| document.name == "p");
            let want = match cell {
                '+' => true,
                'l' => within,
                'i' => within && !identity.is_empty(),
                _ => false,
            };
            let own = CallerPolicies { identity, boundary, session: limit };
            let found = decide(&session(OWN), &key_policy, own);
            assert_eq!(found.allowed, want, "{principal} {own:?}");
        }
        // A Deny in any of them wins over the closest naming.
        let deny = named("Deny");
        for (own, by) in [
            (CallerPolicies { identity: &deny, ..CallerPolicies::default() }, "IdentityPolicy/p/S"),
            (CallerPolicies { boundary: Some(&deny[0]), ..CallerPolicies::default() }, "PermissionsBoundary/p/S"),
            (CallerPolicies { session: Some(&deny), ..CallerPolicies::default() }, "SessionPolicy/p/S"),
        ] {
            let found = decide(&session(OWN), &key_policy, own);
            assert_eq!((found.allowed, found.decided_by.as_str()), (false, by));
        }
    }
}

#[test]
fn a_user_named_itself_is_not_limited_by_its_boundary_but_everyone_is() {
    let no = nothing();
    let own = CallerPolicies { boundary: Some(&no[0]), ..CallerPolicies::default() };
    let by_name = format!(r#""Principal":{{"AWS":"arn:aws:iam::{OWN}:user/alice"}},"#);
    assert!(decide(&user(), &policy(Flavor::KeyPolicy, "Allow", &by_name, ""), own).allowed);
    let found = decide(&user(), &policy(Flavor::KeyPolicy, "Allow", r#""Principal":"*","#, ""), own);
    assert_eq!((found.allowed, found.decided_by.as_str()), (false, "PermissionsBoundary/n"));
    assert_eq!(found.reason, Reason::BoundarySilent);
}

#[test]
fn a_session_of_another_account_needs_everything() {
    let (yes, no) = (named("Allow"), nothing());
    let foreign = session(OTHER);
    let key_policy = policy(Flavor::KeyPolicy, "Allow", &format!(r#""Principal":{{"AWS":"{}"}},"#, foreign.arn), "");
    let allowed = |identity, limit| {
        decide(&foreign, &key_policy, CallerPolicies { identity, session: limit, ..CallerPolicies::default() }).allowed
    };
    assert!(allowed(&yes, None) && allowed(&yes, Some(&yes[..])));
    assert!(!allowed(&no, None) && !allowed(&yes, Some(&no[..])));
}

#[test]
fn a_deny_with_exceptions_spares_a_session_whose_role_and_account_are_named_too() {
    for (list, spared) in [
        (vec![SESSION, ROLE, OWN], true),
        (vec![SESSION, OWN], false),
        (vec![ROLE, OWN], false),
        (vec![SESSION, ROLE], false),
    ] {
        let list = serde_json::to_string(&list).unwrap();
        let text = format!(
            r#"{{"Version":"2012-10-17","Statement":[
                {{"Effect":"Allow","Principal":{{"AWS":"{ROLE}"}},"Action":"kms:*","Resource":"*"}},
                {{"Effect":"Deny","NotPrincipal":{{"AWS":{list}}},"Action":"kms:*","Resource":"*"}}]}}"#
        );
        let key_policy = Document::parse(&text, Flavor::KeyPolicy).unwrap();
        assert_eq!(decide(&session(OWN), &key_policy, CallerPolicies::default()).allowed, spared, "{list}");
    }
}

#[test]
fn a_deny_with_exceptions_spares_nobody_who_has_a_permissions_boundary() {
    let caller = user();
    let text = format!(
        r#"{{"Version":"2012-10-17","Statement":[
            {{"Effect":"Allow","Principal":{{"AWS":"{0}"}},"Action":"kms:*","Resource":"*"}},
            {{"Effect":"Deny","NotPrincipal":{{"AWS":["{0}","{OWN}"]}},"Action":"kms:*","Resource":"*"}}]}}"#,
        caller.arn
    );
    let key_policy = Document::parse(&text, Flavor::KeyPolicy).unwrap();
    assert!(decide(&caller, &key_policy, CallerPolicies::default()).allowed);
    let boundary = named("Allow").remove(0);
    let bounded = CallerPolicies { boundary: Some(&boundary), ..CallerPolicies::default() };
    let decision = decide(&caller, &key_policy, bounded);
    assert_eq!((decision.allowed, decision.reason), (false, Reason::KeyPolicyDenies));
}

#[test]
fn conditions_see_the_role_behind_a_session_and_what_it_proved() {
    let long_term = user();
    let without = session(OWN);
    let with = PrincipalContext { mfa: Mfa::At(1_767_614_400_000_000), ..session(OWN) };
    let context = Context {
        time_us: 1_767_614_460_000_000,
        external_id: Some("x"),
        role_session_name: Some("alice"),
        ..Context::default()
    };
    // Condition; for a long-term key; a session without a second factor; with one, a minute ago.
    for (condition, wants) in [
        (r#"{"Bool":{"aws:MultiFactorAuthPresent":"true"}}"#, [false, false, true]),
        (r#"{"Bool":{"aws:MultiFactorAuthPresent":"false"}}"#, [false, true, false]),
        (r#"{"BoolIfExists":{"aws:MultiFactorAuthPresent":"false"}}"#, [true, true, false]),
        (r#"{"Null":{"aws:MultiFactorAuthPresent":"true"}}"#, [true, false, false]),
        (r#"{"NumericLessThanEquals":{"aws:MultiFactorAuthAge":"60"}}"#, [false, false, true]),
        (r#"{"NumericLessThan":{"aws:MultiFactorAuthAge":"60"}}"#, [false, false, false]),
        (r#"{"Null":{"aws:MultiFactorAuthAge":"true"}}"#, [true, true, false]),
        (r#"{"DateGreaterThan":{"aws:TokenIssueTime":"2026-01-05T11:59:59Z"}}"#, [false, true, true]),
        (r#"{"Null":{"aws:TokenIssueTime":"true"}}"#, [true, false, false]),
        (r#"{"ArnEquals":{"aws:PrincipalArn":"arn:aws:iam::111122223333:role/reader"}}"#, [false, true, true]),
        (r#"{"StringEquals":{"aws:PrincipalType":"AssumedRole"}}"#, [false, true, true]),
        (r#"{"StringLike":{"aws:userid":"AROA*:alice"}}"#, [false, true, true]),
        (r#"{"Null":{"aws:username":"true"}}"#, [true, true, true]),
        (r#"{"StringEquals":{"sts:ExternalId":"x"}}"#, [true, true, true]),
        (r#"{"StringEquals":{"sts:RoleSessionName":"bob"}}"#, [false, false, false]),
        (r#"{"Null":{"sts:TransitiveTagKeys":"true"}}"#, [true, true, true]),
    ] {
        let key_policy =
            policy(Flavor::KeyPolicy, "Allow", r#""Principal":"*","#, &format!(r#","Condition":{condition}"#));
        for (principal, want) in [&long_term, &without, &with].into_iter().zip(wants) {
            let request =
                Request { action: "kms:Decrypt", resource_arn: KEY, key_account: OWN, principal, context: &context };
            let found = evaluate(&request, Some(&key_policy), &CallerPolicies::default()).allowed;
            assert_eq!(found, want, "{condition} {}", principal.arn);
        }
    }
}

#[test]
fn a_trust_policy_speaks_of_principals_and_sts_only() {
    let parse = |more: &str| {
        let text = format!(r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow",{more}}}]}}"#);
        Document::parse(&text, Flavor::TrustPolicy)
    };
    let principal = r#""Principal":{"AWS":"111122223333"}"#;
    assert!(parse(&format!(r#"{principal},"Action":["sts:AssumeRole","sts:TagSession"]"#)).is_ok());
    for wrong in [
        r#""Action":"sts:AssumeRole""#.to_owned(),
        format!(r#"{principal},"Action":"kms:Decrypt""#),
        format!(r#"{principal},"Action":"*""#),
        format!(r#"{principal},"NotAction":"sts:AssumeRole""#),
        format!(r#"{principal},"Action":"sts:AssumeRole","Resource":"*""#),
    ] {
        assert!(parse(&wrong).is_err(), "{wrong}");
    }
    let trust = parse(&format!(r#"{principal},"Action":"sts:AssumeRole""#)).unwrap();
    let context = Context::default();
    let principal = user();
    let request = Request {
        action: "sts:AssumeRole",
        resource_arn: ROLE,
        key_account: OWN,
        principal: &principal,
        context: &context,
    };
    let text =
        format!(r#"{{"Statement":[{{"Sid":"A","Effect":"Allow","Action":"sts:AssumeRole","Resource":"{ROLE}"}}]}}"#);
    let document = Arc::new(Document::parse(&text, Flavor::IdentityPolicy).unwrap());
    let identity = [NamedDocument { name: "p".into(), document }];
    let own = CallerPolicies { identity: &identity, ..CallerPolicies::default() };
    assert_eq!(evaluate(&request, Some(&trust), &own).decided_by, "IdentityPolicy/p/A");
    assert!(!evaluate(&request, Some(&trust), &CallerPolicies::default()).allowed);
}
