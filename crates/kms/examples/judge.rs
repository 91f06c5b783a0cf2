//! The policy evaluator as a filter: one case as JSON on each line in, one decision on each line out, in order. For the
//! comparison with another evaluator in tests/clients/differential; cases.py says what a case holds.

#![allow(clippy::print_stdout)]

use keytrail_kms::policy::{
    CallerPolicies, Context, Document, Flavor, GrantConstraints, GrantFacts, GrantOperations, GrantTerms, KeyFacts,
    Mfa, NamedDocument, PolicyError, PrincipalContext, PrincipalKind, Request, evaluate,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

const NOW_SECS: u64 = 1_767_614_400;
const MICROS: u64 = 1_000_000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    id: u64,
    caller: Caller,
    action: String,
    resource: String,
    key_account: String,
    facts: Facts,
    key_policy: Value,
    identity: Vec<Value>,
    boundary: Option<Value>,
    session: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Caller {
    account: String,
    kind: String,
    arn: String,
    user_id: String,
    user_name: Option<String>,
    role_arn: Option<String>,
    issued_at: Option<u64>,
    /// False, or when the code was given.
    mfa: Option<Value>,
    tags: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Facts {
    source_ip: String,
    secure_transport: bool,
    user_agent: String,
    key_spec: String,
    key_usage: String,
    key_tags: BTreeMap<String, String>,
    aliases: Vec<String>,
    request_alias: Option<String>,
    via_service: Option<String>,
    encryption_algorithm: Option<String>,
    encryption_context: Option<BTreeMap<String, String>>,
    pending_window_days: Option<u32>,
    bypass_lockout: Option<bool>,
    request_tags: Option<BTreeMap<String, String>>,
    grant: Option<Grant>,
}

#[derive(Deserialize)]
struct Grant {
    grantee: String,
    retiring: Option<String>,
    operations: Vec<String>,
    subset: Option<BTreeMap<String, String>>,
}

fn main() -> Result<(), Box<dyn Error>> {
    for line in std::io::stdin().lines() {
        let case: Case = serde_json::from_str(&line?)?;
        let mut answer = judge(&case).unwrap_or_else(|error| json!({"refused": error.to_string()}));
        answer["id"] = case.id.into();
        println!("{answer}");
    }
    Ok(())
}

fn judge(case: &Case) -> Result<Value, PolicyError> {
    let own = |policy: &Value, name: &str| {
        let document = Arc::new(Document::parse(&policy.to_string(), Flavor::IdentityPolicy)?);
        Ok::<_, PolicyError>(NamedDocument { name: name.to_owned(), document })
    };
    let key_policy = Document::parse(&case.key_policy.to_string(), Flavor::KeyPolicy)?;
    let identity: Vec<NamedDocument> = case.identity.iter().map(|policy| own(policy, "p")).collect::<Result<_, _>>()?;
    let boundary = case.boundary.as_ref().map(|policy| own(policy, "boundary")).transpose()?;
    let session = case.session.as_ref().map(|policy| own(policy, "session")).transpose()?;
    let session = session.as_ref().map(std::slice::from_ref);
    let terms = case.facts.grant.as_ref().map(terms);
    let principal = principal(&case.caller);
    let context = context(&case.facts, terms.as_ref());
    let request = Request {
        action: &case.action,
        resource_arn: &case.resource,
        key_account: &case.key_account,
        principal: &principal,
        context: &context,
    };
    let policies = CallerPolicies { identity: &identity, boundary: boundary.as_ref(), session };
    let decision = evaluate(&request, Some(&key_policy), &policies);
    Ok(json!({
        "allowed": decision.allowed, "decidedBy": decision.decided_by, "reason": format!("{:?}", decision.reason),
    }))
}

fn terms(grant: &Grant) -> GrantTerms {
    GrantTerms {
        operations: GrantOperations::parse(grant.operations.iter().map(String::as_str)).unwrap_or_default(),
        constraints: GrantConstraints { encryption_context_subset: grant.subset.clone(), ..Default::default() },
    }
}

fn principal(caller: &Caller) -> PrincipalContext {
    PrincipalContext {
        arn: caller.arn.clone(),
        account: caller.account.clone(),
        kind: match caller.kind.as_str() {
            "Root" => PrincipalKind::Root,
            "Session" => PrincipalKind::Session,
            _ => PrincipalKind::User,
        },
        user_id: caller.user_id.clone(),
        user_name: caller.user_name.clone(),
        role_arn: caller.role_arn.clone(),
        issued_us: caller.issued_at.map(|secs| secs * MICROS),
        mfa: match &caller.mfa {
            None => Mfa::Unknown,
            Some(at) => at.as_u64().map_or(Mfa::Without, |secs| Mfa::At(secs * MICROS)),
        },
        tags: caller.tags.clone(),
        ..PrincipalContext::default()
    }
}

fn context<'a>(facts: &'a Facts, terms: Option<&'a GrantTerms>) -> Context<'a> {
    let grant = facts.grant.as_ref().zip(terms).map(|(grant, terms)| GrantFacts {
        grantee: &grant.grantee,
        retiring: grant.retiring.as_deref(),
        terms,
    });
    Context {
        time_us: NOW_SECS * MICROS,
        region: "eu-central-1",
        source_ip: facts.source_ip.parse().ok(),
        secure_transport: facts.secure_transport,
        user_agent: Some(&facts.user_agent),
        encryption_context: facts.encryption_context.as_ref(),
        encryption_algorithm: facts.encryption_algorithm.as_deref(),
        request_alias: facts.request_alias.as_deref(),
        request_tags: facts.request_tags.as_ref(),
        pending_window_days: facts.pending_window_days,
        bypass_lockout: facts.bypass_lockout,
        via_service: facts.via_service.as_deref(),
        grant,
        key: Some(KeyFacts {
            multi_region_key_type: None,
            spec: &facts.key_spec,
            usage: &facts.key_usage,
            origin: "AWS_KMS",
            multi_region: false,
            tags: Some(&facts.key_tags),
            aliases: &facts.aliases,
        }),
        ..Context::default()
    }
}
