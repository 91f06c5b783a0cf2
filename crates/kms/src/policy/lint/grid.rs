//! The requests on which documents are compared: every caller, resource and condition value that they name, some that
//! they do not, and every action.
//!
//! Callers bring an identity policy that allows everything, so that what a key policy leaves to an account counts as
//! given; identity policies meet a key policy that leaves all to the account. Bounded: past the bounds nothing is
//! claimed.

use super::super::action::KMS_ACTIONS;
use super::super::document::{Document, Flavor};
use super::super::evaluate::{CallerPolicies, NamedDocument, evaluate};
use super::super::grant::{GrantOperations, GrantTerms};
use super::super::lockout::default_key_policy;
use super::super::principal::is_account_id;
use super::super::request::{Context, GrantFacts, KeyFacts, Mfa, PrincipalContext, PrincipalKind, Request};
use super::Example;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Most callers and resources; a policy of 32 KiB could name hundreds.
const CALLERS_MAX: usize = 96;
const RESOURCES_MAX: usize = 12;
/// An account that no document is about.
const OUTSIDE: &str = "999988887777";
/// A time for all requests: 2026-01-05T12:00:00Z.
const NOW_US: u64 = 1_767_614_400_000_000;

/// The requests.
pub(super) struct Grid {
    account: String,
    callers: Vec<PrincipalContext>,
    resources: Vec<String>,
    values: Values,
    complete: bool,
}

/// Values that conditions name.
#[derive(Default)]
struct Values {
    encryption_context: BTreeMap<String, String>,
    source_ip: Option<IpAddr>,
    via_service: Option<String>,
    aliases: Vec<String>,
}

/// One set of circumstances.
struct Circumstances {
    name: &'static str,
    mfa: bool,
    named_values: bool,
    via: bool,
}

const CIRCUMSTANCES: [Circumstances; 4] = [
    Circumstances { name: "plain", mfa: false, named_values: false, via: false },
    Circumstances { name: "with the condition values of the policy", mfa: false, named_values: true, via: false },
    Circumstances {
        name: "with the condition values of the policy and MFA",
        mfa: true,
        named_values: true,
        via: false,
    },
    Circumstances { name: "through a service", mfa: true, named_values: true, via: true },
];

impl Grid {
    /// The requests derived from these documents.
    pub(super) fn of(documents: &[&Value], account: &str) -> Self {
        let (mut texts, mut values) = (BTreeSet::new(), Values::default());
        documents.iter().for_each(|json| collect(json, &mut texts, &mut values));
        let mut callers = vec![
            user(&format!("arn:aws:iam::{account}:user/anyone"), account),
            root(account),
            user(&format!("arn:aws:iam::{OUTSIDE}:user/stranger"), OUTSIDE),
        ];
        callers.extend(texts.iter().flat_map(|text| callers_of(text)));
        let mut resources = vec![
            format!("arn:aws:kms:eu-central-1:{account}:key/11111111-2222-3333-4444-555555555555"),
            format!("arn:aws:kms:eu-central-1:{account}:alias/some"),
        ];
        resources
            .extend(texts.iter().filter(|text| text.starts_with("arn:aws:kms:")).map(|text| text.replace('*', "x")));
        let complete = callers.len() <= CALLERS_MAX && resources.len() <= RESOURCES_MAX;
        callers.truncate(CALLERS_MAX);
        resources.truncate(RESOURCES_MAX);
        Self { account: account.to_owned(), callers, resources, values, complete }
    }

    /// The first request that the document allows and `shows` picks.
    pub(super) fn find(&self, document: &Document, shows: impl Fn(&Request<'_>) -> bool) -> Option<Example> {
        let bench = Bench::new(document, &self.account);
        let found = self.each(|request, circumstances| {
            if !(shows(request) && bench.allows(request)) {
                return ControlFlow::Continue(());
            }
            ControlFlow::Break(Example {
                principal: request.principal.arn.clone(),
                action: request.action.to_owned(),
                resource: request.resource_arn.to_owned(),
                circumstances,
            })
        });
        found.break_value()
    }

    /// Whether `inner` allows only what `outer` allows. False when the grid would be too large to say.
    pub(super) fn is_within(&self, inner: &Document, outer: &Document) -> bool {
        let (inner, outer) = (Bench::new(inner, &self.account), Bench::new(outer, &self.account));
        let compared = self.each(|request, _| match inner.allows(request) && !outer.allows(request) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        });
        self.complete && compared.is_continue()
    }

    fn each<B>(&self, mut visit: impl FnMut(&Request<'_>, &'static str) -> ControlFlow<B>) -> ControlFlow<B> {
        let decrypt = GrantOperations::parse(["Decrypt"]).unwrap_or_default();
        let terms = GrantTerms { operations: decrypt, ..GrantTerms::default() };
        let grantee = format!("arn:aws:iam::{}:user/anyone", self.account);
        let actions: Vec<String> = KMS_ACTIONS.iter().map(|(name, _)| format!("kms:{name}")).collect();
        for (circumstances, caller) in CIRCUMSTANCES.iter().flat_map(|c| self.callers.iter().map(move |p| (c, p))) {
            let mfa = if circumstances.mfa { Mfa::At(NOW_US) } else { caller.mfa };
            let principal = PrincipalContext { mfa, ..caller.clone() };
            let plain = self.context(circumstances);
            for (resource_arn, action) in self.resources.iter().flat_map(|r| actions.iter().map(move |a| (r, a))) {
                let grant = GrantFacts { grantee: &grantee, retiring: None, terms: &terms };
                let context = match action.as_str() {
                    "kms:CreateGrant" => Context { grant: Some(grant), encryption_context: None, ..plain },
                    _ => plain,
                };
                let key_account = resource_arn.split(':').nth(4).unwrap_or(&self.account);
                let request = Request { action, resource_arn, key_account, principal: &principal, context: &context };
                visit(&request, circumstances.name)?;
            }
        }
        ControlFlow::Continue(())
    }

    fn context(&self, circumstances: &Circumstances) -> Context<'_> {
        let values = &self.values;
        let key = KeyFacts {
            spec: "SYMMETRIC_DEFAULT",
            usage: "ENCRYPT_DECRYPT",
            origin: "AWS_KMS",
            multi_region: false,
            multi_region_key_type: None,
            tags: None,
            aliases: if circumstances.named_values { &values.aliases } else { &[] },
        };
        let plain = Context {
            time_us: NOW_US,
            region: "eu-central-1",
            secure_transport: true,
            bypass_lockout: Some(false),
            key: Some(key),
            ..Context::default()
        };
        if !circumstances.named_values {
            return plain;
        }
        let via = values.via_service.as_deref().unwrap_or("ec2.eu-central-1.amazonaws.com");
        Context {
            source_ip: values.source_ip,
            encryption_context: Some(&values.encryption_context).filter(|pairs| !pairs.is_empty()),
            request_alias: values.aliases.first().map(String::as_str),
            via_service: circumstances.via.then_some(via),
            ..plain
        }
    }
}

/// A document where it would be attached.
struct Bench<'a> {
    document: &'a Document,
    /// The policy at the other end.
    other: Document,
    own: Vec<NamedDocument>,
}

impl<'a> Bench<'a> {
    fn new(document: &'a Document, account: &str) -> Self {
        let everything = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}"#;
        let (other, own) = match document.flavor {
            Flavor::IdentityPolicy => (default_key_policy(account), document.clone()),
            Flavor::KeyPolicy | Flavor::TrustPolicy => {
                let identity = Document::parse(everything, Flavor::IdentityPolicy);
                (default_key_policy(account), identity.expect("a fixed policy parses"))
            }
        };
        let other = Document::parse(&other, Flavor::KeyPolicy).expect("the default policy parses");
        let own = vec![NamedDocument { name: "policy".to_owned(), document: Arc::new(own) }];
        Self { document, other, own }
    }

    fn allows(&self, request: &Request<'_>) -> bool {
        let own = CallerPolicies { identity: &self.own, ..CallerPolicies::default() };
        match self.document.flavor {
            // Account roots have no identity policies.
            Flavor::IdentityPolicy if request.principal.kind == PrincipalKind::Root => false,
            Flavor::IdentityPolicy => evaluate(request, Some(&self.other), &own).allowed,
            Flavor::KeyPolicy | Flavor::TrustPolicy => evaluate(request, Some(self.document), &own).allowed,
        }
    }
}

/// The callers that an ARN or account in a document stands for; for a role one of its sessions.
pub(super) fn callers_of(text: &str) -> Vec<PrincipalContext> {
    if is_account_id(text) {
        return vec![root(text), user(&format!("arn:aws:iam::{text}:user/anyone"), text)];
    }
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let &["arn", "aws", service, "", account, name] = parts.as_slice() else { return Vec::new() };
    if !is_account_id(account) || text.contains(['*', '?', '$']) {
        return Vec::new();
    }
    match (service, name) {
        ("iam", "root") => callers_of(account),
        ("iam", name) if name.starts_with("user/") => vec![user(text, account)],
        ("iam", name) if name.starts_with("role/") => {
            let role = name.rsplit('/').next().unwrap_or_default();
            vec![session(&format!("arn:aws:sts::{account}:assumed-role/{role}/some"), account, Some(text.to_owned()))]
        }
        ("sts", name) if name.starts_with("assumed-role/") => {
            let role = name.split('/').nth(1).map(|role| format!("arn:aws:iam::{account}:role/{role}"));
            vec![session(text, account, role)]
        }
        _ => Vec::new(),
    }
}

fn user(arn: &str, account: &str) -> PrincipalContext {
    let name = arn.rsplit('/').next().map(str::to_owned);
    let user_id = "AIDALINTLINTLINTLINT1".to_owned();
    PrincipalContext {
        arn: arn.to_owned(),
        account: account.to_owned(),
        user_id,
        user_name: name,
        ..Default::default()
    }
}

fn root(account: &str) -> PrincipalContext {
    PrincipalContext {
        arn: format!("arn:aws:iam::{account}:root"),
        account: account.to_owned(),
        kind: PrincipalKind::Root,
        user_id: account.to_owned(),
        ..Default::default()
    }
}

fn session(arn: &str, account: &str, role_arn: Option<String>) -> PrincipalContext {
    PrincipalContext {
        arn: arn.to_owned(),
        account: account.to_owned(),
        kind: PrincipalKind::Session,
        user_id: "AROALINTLINTLINTLINT1:some".to_owned(),
        role_arn,
        mfa: Mfa::Without,
        ..Default::default()
    }
}

fn collect(json: &Value, texts: &mut BTreeSet<String>, values: &mut Values) {
    match json {
        Value::String(text) => {
            if text.starts_with("alias/") && !values.aliases.contains(text) {
                values.aliases.push(text.replace('*', "x"));
            }
            texts.insert(text.clone());
        }
        Value::Array(list) => list.iter().for_each(|item| collect(item, texts, values)),
        Value::Object(members) => {
            for (name, value) in members {
                note(&name.to_lowercase(), value, values);
                collect(value, texts, values);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Remembers the value of a condition key.
fn note(name: &str, value: &Value, values: &mut Values) {
    let first = value.as_str().or_else(|| value.get(0)?.as_str());
    let Some(text) = first.map(|text| text.replace('*', "x")) else { return };
    match name.strip_prefix("kms:encryptioncontext:") {
        Some(key) => {
            values.encryption_context.insert(key.to_owned(), text);
        }
        None if name == "kms:viaservice" => values.via_service = Some(text),
        None if name == "aws:sourceip" => {
            values.source_ip = text.split('/').next().and_then(|address| address.parse().ok());
        }
        None => {}
    }
}
