//! Policy documents: parsed in each place where one can be attached, then asked about calls.

use super::{ACCOUNT, KEY_ID, REGION};
use crate::policy::lint::lint;
use crate::policy::{
    CallerPolicies, Context, Document, Flavor, KeyFacts, NamedDocument, PrincipalContext, PrincipalKind, Request,
    evaluate, is_public, locks_out,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// An account that no seed names.
const STRANGER: &str = "987698769876";

/// A policy's text.
///
/// As a boundary or session policy it must make nothing possible that is not possible without, and as a key policy that
/// is called not public it must let nobody in from an account that it does not mention.
pub fn policy(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let key_policy = Document::parse(text, Flavor::KeyPolicy).ok();
    let identity = Document::parse(text, Flavor::IdentityPolicy).ok().map(named);
    let _ = Document::parse(text, Flavor::TrustPolicy);
    let public = is_public(text);
    if key_policy.is_some() {
        assert!(public.is_ok(), "what is enforced can be judged");
    }
    let outsider = key_policy.is_some() && public == Ok(false) && !text.contains(STRANGER);
    let (tags, pairs, aliases) = (pairs("team", "red"), pairs("tenant", "7"), ["alias/orders".to_owned()]);
    let key = KeyFacts {
        spec: "SYMMETRIC_DEFAULT",
        usage: "ENCRYPT_DECRYPT",
        origin: "AWS_KMS",
        multi_region: false,
        multi_region_key_type: None,
        tags: Some(&tags),
        aliases: &aliases,
    };
    let context = Context {
        time_us: super::request::NOW_US,
        region: REGION,
        source_ip: Some([203, 0, 113, 7].into()),
        secure_transport: true,
        user_agent: Some("aws-cli"),
        encryption_context: Some(&pairs),
        encryption_algorithm: Some("SYMMETRIC_DEFAULT"),
        request_alias: Some("alias/orders"),
        key: Some(key),
        ..Context::default()
    };
    let everything = named(Document::parse(ALL, Flavor::IdentityPolicy).expect("a fixed text"));
    for caller in callers() {
        for action in ["kms:Decrypt", "kms:PutKeyPolicy", "kms:CreateGrant"] {
            let arn = format!("arn:aws:kms:{REGION}:{ACCOUNT}:key/{KEY_ID}");
            let request =
                Request { action, resource_arn: &arn, key_account: ACCOUNT, principal: &caller, context: &context };
            let own = std::slice::from_ref(&everything);
            let free = CallerPolicies { identity: own, ..CallerPolicies::default() };
            if let Some(document) = &key_policy {
                let decision = evaluate(&request, Some(document), &free);
                let _ = locks_out(document, &arn, &request, &free);
                if outsider && caller.account == STRANGER {
                    assert!(!decision.allowed, "a policy that is not public lets {} in: {text}", caller.arn);
                }
            }
            if let Some(document) = &identity {
                never_more(&request, key_policy.as_ref(), document, &free);
            }
        }
    }
    // Lint evaluates hundreds of requests: only what is short enough for the fuzzer to do so often.
    if data.len() <= 1_024 {
        for flavor in [Flavor::KeyPolicy, Flavor::IdentityPolicy] {
            let _ = lint(text, flavor, ACCOUNT);
        }
    }
    key_policy.is_some() || identity.is_some()
}

fn never_more(
    request: &Request<'_>,
    key_policy: Option<&Document>,
    document: &NamedDocument,
    free: &CallerPolicies<'_>,
) {
    let alone = std::slice::from_ref(document);
    let without = evaluate(request, key_policy, free).allowed;
    let bounded = CallerPolicies { boundary: Some(document), ..*free };
    let in_session = CallerPolicies { session: Some(alone), ..*free };
    for limited in [bounded, in_session] {
        assert!(without || !evaluate(request, key_policy, &limited).allowed, "a limit allows something");
    }
    let _ = evaluate(request, key_policy, &CallerPolicies { identity: alone, ..CallerPolicies::default() });
}

fn named(document: Document) -> NamedDocument {
    NamedDocument { name: "p".into(), document: Arc::new(document) }
}

fn pairs(name: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(name.to_owned(), value.to_owned())])
}

fn callers() -> Vec<PrincipalContext> {
    let caller = |account: &str, kind: PrincipalKind| {
        let (arn, role_arn, user_name) = match kind {
            PrincipalKind::Root => (format!("arn:aws:iam::{account}:root"), None, None),
            PrincipalKind::Session => (
                format!("arn:aws:sts::{account}:assumed-role/reader/one"),
                Some(format!("arn:aws:iam::{account}:role/reader")),
                None,
            ),
            PrincipalKind::User | PrincipalKind::Federated => {
                (format!("arn:aws:iam::{account}:user/alice"), None, Some("alice".to_owned()))
            }
        };
        // Ids say their account, so that a policy which names a stranger's is seen to mention it.
        let user_id =
            if kind == PrincipalKind::Session { format!("AROA{account}:one") } else { format!("AIDA{account}") };
        PrincipalContext {
            arn,
            account: account.to_owned(),
            kind,
            user_id,
            user_name,
            role_arn,
            tags: pairs("team", "red"),
            ..PrincipalContext::default()
        }
    };
    vec![
        caller(ACCOUNT, PrincipalKind::User),
        caller(ACCOUNT, PrincipalKind::Session),
        caller(ACCOUNT, PrincipalKind::Root),
        caller(STRANGER, PrincipalKind::User),
        caller(STRANGER, PrincipalKind::Session),
    ]
}

const ALL: &str = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}"#;
