//! Grants as they decide: what one permits, under which constraints, and who may retire it. Pure.
//!
//! A grant speaks where the policies are silent and never against a Deny. Its encryption context constraints compare
//! names without case and values with it; they say nothing about operations that take no context. A grant that lets
//! its grantee make further ones permits only those that allow no more than itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::document::Document;
use super::evaluate::{CallerPolicies, Decision, Reason, allowed, default_label, evaluate, refused};
use super::request::{PrincipalKind, Request};

/// Every operation that a grant can permit, in the order in which AWS's model lists them; true marks those that take
/// an encryption context.
const OPERATIONS: [(&str, bool); 19] = [
    ("Decrypt", true),
    ("Encrypt", true),
    ("GenerateDataKey", true),
    ("GenerateDataKeyWithoutPlaintext", true),
    ("ReEncryptFrom", true),
    ("ReEncryptTo", true),
    ("Sign", false),
    ("Verify", false),
    ("GetPublicKey", false),
    ("CreateGrant", false),
    ("RetireGrant", false),
    ("DescribeKey", false),
    ("GenerateDataKeyPair", true),
    ("GenerateDataKeyPairWithoutPlaintext", true),
    ("GenerateMac", false),
    ("VerifyMac", false),
    ("DeriveSharedSecret", false),
    ("Encapsulate", false),
    ("Decapsulate", false),
];

/// A set of grant operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GrantOperations(u32);

impl GrantOperations {
    /// Reads names; the error is the first that is none.
    pub fn parse<'n>(names: impl IntoIterator<Item = &'n str>) -> Result<Self, &'n str> {
        names.into_iter().try_fold(Self::default(), |set, name| Ok(Self(set.0 | bit(name).ok_or(name)?)))
    }

    /// Names of the members, in the model's order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let listed = OPERATIONS.iter().enumerate().filter(move |(index, _)| self.0 & (1 << index) != 0);
        listed.map(|(_, (name, _))| *name)
    }

    /// Every name there is.
    pub fn known() -> impl Iterator<Item = &'static str> {
        OPERATIONS.iter().map(|(name, _)| *name)
    }

    /// Whether an operation is a member.
    pub fn has(self, name: &str) -> bool {
        bit(name).is_some_and(|bit| self.0 & bit != 0)
    }

    /// Whether all members are members of `other`.
    pub fn is_within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }
}

fn bit(name: &str) -> Option<u32> {
    OPERATIONS.iter().position(|(known, _)| *known == name).map(|index| 1 << index)
}

/// What must hold for a grant to permit anything. Stored and recorded under these names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrantConstraints {
    /// Pairs that the encryption context must consist of.
    #[serde(alias = "EncryptionContextEquals", skip_serializing_if = "Option::is_none")]
    pub encryption_context_equals: Option<BTreeMap<String, String>>,
    /// Pairs that the encryption context must hold.
    #[serde(alias = "EncryptionContextSubset", skip_serializing_if = "Option::is_none")]
    pub encryption_context_subset: Option<BTreeMap<String, String>>,
    /// The resource on whose behalf the request must be made.
    #[serde(alias = "SourceArn", skip_serializing_if = "Option::is_none")]
    pub source_arn: Option<String>,
}

/// What a grant permits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrantTerms {
    /// The operations.
    pub operations: GrantOperations,
    /// Their limits.
    pub constraints: GrantConstraints,
}

/// Where the grants on a key are found, by grantee.
pub trait GrantsOnKey {
    /// The id of a grant to exactly this principal whose terms fit.
    fn find(&self, grantee: &str, fits: &mut dyn FnMut(&GrantTerms) -> bool) -> Option<String>;
}

/// Grants that can be listed as well; no judgement does.
pub trait ListedGrants: GrantsOnKey {
    /// Shows each grant to exactly this principal, with its id.
    fn each(&self, grantee: &str, visit: &mut dyn FnMut(&str, &GrantTerms));
}

/// A grant as far as its end is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Retirable<'a> {
    /// Its id.
    pub id: &'a str,
    /// Whom it is for.
    pub grantee: &'a str,
    /// Who may retire it.
    pub retiring: Option<&'a str>,
    /// The account that made it.
    pub issuing_account: &'a str,
    /// What it permits.
    pub terms: &'a GrantTerms,
}

impl GrantConstraints {
    /// Whether nothing is constrained.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The encryption context constraint's name and pairs, if there is one.
    pub fn encryption_context(&self) -> Option<(&'static str, &BTreeMap<String, String>)> {
        let equals = self.encryption_context_equals.as_ref().map(|pairs| ("EncryptionContextEquals", pairs));
        equals.or_else(|| self.encryption_context_subset.as_ref().map(|pairs| ("EncryptionContextSubset", pairs)))
    }

    fn hold_for_context(&self, context: Option<&BTreeMap<String, String>>) -> bool {
        let none = BTreeMap::new();
        let context = context.unwrap_or(&none);
        self.encryption_context_equals
            .as_ref()
            .is_none_or(|pairs| pairs.len() == context.len() && holds_all(context, pairs))
            && self.encryption_context_subset.as_ref().is_none_or(|pairs| holds_all(context, pairs))
    }

    /// Whether whatever passes these passes `other`, too.
    fn are_within(&self, other: &Self) -> bool {
        let same = |wanted: &BTreeMap<String, String>, found: &BTreeMap<String, String>| {
            found.len() == wanted.len() && holds_all(found, wanted)
        };
        let (equals, subset) = (&self.encryption_context_equals, &self.encryption_context_subset);
        let fixed = other
            .encryption_context_equals
            .as_ref()
            .is_none_or(|wanted| equals.as_ref().is_some_and(|found| same(wanted, found)));
        let holding = other.encryption_context_subset.as_ref().is_none_or(|wanted| {
            let mut given = equals.iter().chain(subset);
            given.any(|found| holds_all(found, wanted))
        });
        fixed && holding && (other.source_arn.is_none() || self.source_arn == other.source_arn)
    }
}

/// Whether each wanted pair is there, its name in whatever case. A name that is there twice in different case is never
/// the one: choosing would let a caller show one value and use another.
///
/// No map is made of the context: this is asked for each grant of a grantee, which may be thousands.
fn holds_all(context: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(name, value)| {
        let mut found = context.iter().filter(|(other, _)| is_same_name(other, name));
        found.next().is_some_and(|(_, first)| first == value) && found.next().is_none()
    })
}

fn is_same_name(one: &str, other: &str) -> bool {
    if one.is_ascii() && other.is_ascii() {
        one.eq_ignore_ascii_case(other)
    } else {
        one.to_lowercase() == other.to_lowercase()
    }
}

impl GrantTerms {
    /// Whether these permit no more than `other`.
    pub fn are_within(&self, other: &Self) -> bool {
        self.operations.is_within(other.operations) && self.constraints.are_within(&other.constraints)
    }

    fn permit(&self, request: &Request<'_>) -> bool {
        let Some((name, takes_context)) = operation_of(request.action) else { return false };
        let context = request.context;
        let constraints = &self.constraints;
        self.operations.has(name)
            && constraints.source_arn.as_deref().is_none_or(|arn| context.source_arn == Some(arn))
            && (!takes_context || constraints.hold_for_context(context.encryption_context))
            && (name != "CreateGrant" || context.grant.is_some_and(|child| child.terms.are_within(self)))
    }
}

fn operation_of(action: &str) -> Option<(&'static str, bool)> {
    let name = action.strip_prefix("kms:")?;
    OPERATIONS.iter().find(|(known, _)| *known == name).copied()
}

/// Whether a key of this spec and usage knows an operation.
pub fn key_supports(operation: &str, spec: &str, usage: &str) -> bool {
    let symmetric = spec == "SYMMETRIC_DEFAULT";
    match operation {
        "CreateGrant" | "RetireGrant" | "DescribeKey" => true,
        "Decrypt" | "Encrypt" | "ReEncryptFrom" | "ReEncryptTo" => usage == "ENCRYPT_DECRYPT",
        "GenerateDataKey"
        | "GenerateDataKeyWithoutPlaintext"
        | "GenerateDataKeyPair"
        | "GenerateDataKeyPairWithoutPlaintext" => symmetric,
        "Sign" | "Verify" => usage == "SIGN_VERIFY",
        "GenerateMac" | "VerifyMac" => usage == "GENERATE_VERIFY_MAC",
        "DeriveSharedSecret" => usage == "KEY_AGREEMENT",
        "GetPublicKey" => !symmetric && usage != "GENERATE_VERIFY_MAC",
        _ => false,
    }
}

/// Decides a request about a key with its grants: where the policies are silent, a grant to the caller is enough, one to
/// its role if boundary and session policies allow it, too, and one to its account together with an identity policy.
pub fn evaluate_with_grants(
    request: &Request<'_>,
    key_policy: &Document,
    own: &CallerPolicies<'_>,
    grants: &dyn GrantsOnKey,
) -> Decision {
    let decision = evaluate(request, Some(key_policy), own);
    if !decision.reason.is_silence() {
        return decision;
    }
    let action = request.action.to_ascii_lowercase();
    let find = |grantee: &str| grants.find(grantee, &mut |terms| terms.permit(request));
    let as_named = by_name(request, &action, own, |arn| find(arn).map(|id| grant_label(&id)));
    as_named.unwrap_or(decision)
}

/// Decides who may end a grant: the retiring principal, the grantee if the grant says so, and the issuing account; an
/// account's users with an identity policy, too. Key policies can only deny it.
pub fn evaluate_retire(
    request: &Request<'_>,
    key_policy: &Document,
    own: &CallerPolicies<'_>,
    grant: &Retirable<'_>,
) -> Decision {
    let by_policy = evaluate(request, Some(key_policy), own);
    if !by_policy.allowed && !by_policy.reason.is_silence() {
        return by_policy;
    }
    let issuer = root_arn(grant.issuing_account);
    let grantee = Some(grant.grantee).filter(|_| grant.terms.operations.has("RetireGrant"));
    let named = |arn: &str| grant.retiring == Some(arn) || grantee == Some(arn) || issuer == arn;
    let action = request.action.to_ascii_lowercase();
    let as_named = by_name(request, &action, own, |arn| named(arn).then(|| grant_label(grant.id)));
    as_named.unwrap_or_else(|| refused(Reason::KeyPolicySilent, default_label()))
}

/// What follows from whom a grant names, most closely first: the caller itself, its role, its account. `label` is what
/// decides when it names that ARN. None when it names nobody of these, or that is not enough.
fn by_name(
    request: &Request<'_>,
    action: &str,
    own: &CallerPolicies<'_>,
    label: impl Fn(&str) -> Option<String>,
) -> Option<Decision> {
    let caller = request.principal;
    if let Some(label) = label(&caller.arn) {
        return Some(allowed(label));
    }
    let as_role = caller.role_arn.as_deref().and_then(&label);
    let as_role = as_role.map(|label| own.within_limits(request, action, label));
    if caller.kind == PrincipalKind::Root || as_role.as_ref().is_some_and(|decision| decision.allowed) {
        return as_role;
    }
    let delegated = label(&root_arn(&caller.account)).filter(|_| own.decide(request, action, "").allowed);
    delegated.map(allowed).or(as_role)
}

/// An account's root user, who also stands for the account.
pub fn root_arn(account: &str) -> String {
    format!("arn:aws:iam::{account}:root")
}

fn grant_label(id: &str) -> String {
    format!("Grant/{id}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{Context, Flavor, GrantFacts, NamedDocument, PrincipalContext, default_key_policy};
    use super::*;
    use std::sync::Arc;

    const OWN: &str = "111122223333";
    const OTHER: &str = "444455556666";
    const KEY: &str = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";

    /// Grants on one key, each under its grantee.
    struct Granted(Vec<(String, GrantTerms)>);

    impl GrantsOnKey for Granted {
        fn find(&self, grantee: &str, fits: &mut dyn FnMut(&GrantTerms) -> bool) -> Option<String> {
            let mut all = self.0.iter().enumerate().filter(|(_, (to, _))| to == grantee);
            all.find(|(_, (_, terms))| fits(terms)).map(|(index, _)| index.to_string())
        }
    }

    fn pairs(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    fn equals(list: &[(&str, &str)]) -> GrantConstraints {
        GrantConstraints { encryption_context_equals: Some(pairs(list)), ..GrantConstraints::default() }
    }

    fn subset(list: &[(&str, &str)]) -> GrantConstraints {
        GrantConstraints { encryption_context_subset: Some(pairs(list)), ..GrantConstraints::default() }
    }

    fn for_source(arn: &str) -> GrantConstraints {
        GrantConstraints { source_arn: Some(arn.into()), ..GrantConstraints::default() }
    }

    fn terms(operations: &[&str], constraints: GrantConstraints) -> GrantTerms {
        GrantTerms { operations: GrantOperations::parse(operations.iter().copied()).unwrap(), constraints }
    }

    fn user(account: &str, name: &str) -> PrincipalContext {
        let arn = format!("arn:aws:iam::{account}:user/{name}");
        PrincipalContext { arn, account: account.into(), ..PrincipalContext::default() }
    }

    fn root(account: &str) -> PrincipalContext {
        let (arn, kind) = (root_arn(account), PrincipalKind::Root);
        PrincipalContext { arn, account: account.into(), kind, ..PrincipalContext::default() }
    }

    fn identity(effect: &str) -> Vec<NamedDocument> {
        let text =
            format!(r#"{{"Version":"2012-10-17","Statement":{{"Effect":"{effect}","Action":"*","Resource":"*"}}}}"#);
        let document = Arc::new(Document::parse(&text, Flavor::IdentityPolicy).unwrap());
        vec![NamedDocument { name: "p".into(), document }]
    }

    fn with(identity: &[NamedDocument]) -> CallerPolicies<'_> {
        CallerPolicies { identity, ..CallerPolicies::default() }
    }

    /// Trusts nobody's identity policies.
    fn closed() -> Document {
        let text = r#"{"Version":"2012-10-17","Statement":[
            {"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:user/owner"},"Action":"kms:*","Resource":"*"},
            {"Sid":"No","Effect":"Deny","Principal":"*","Action":"kms:*","Resource":"*",
             "Condition":{"StringEquals":{"aws:UserAgent":"denied"}}}]}"#;
        Document::parse(text, Flavor::KeyPolicy).unwrap()
    }

    fn request<'a>(action: &'a str, principal: &'a PrincipalContext, context: &'a Context<'a>) -> Request<'a> {
        Request { action, resource_arn: KEY, key_account: OWN, principal, context }
    }

    #[test]
    fn operations_are_a_set_in_the_models_order() {
        let set = GrantOperations::parse(["DescribeKey", "Decrypt", "Decrypt"]).unwrap();
        assert_eq!(set.names().collect::<Vec<_>>(), ["Decrypt", "DescribeKey"]);
        assert!(set.has("Decrypt") && !set.has("Encrypt") && !set.has("decrypt"));
        assert_eq!(GrantOperations::parse(["Decrypt", "PutKeyPolicy"]), Err("PutKeyPolicy"));
        assert_eq!(GrantOperations::parse(GrantOperations::known()).unwrap().names().count(), 19);
        assert!(set.is_within(set) && GrantOperations::default().is_within(set));
        assert!(!GrantOperations::parse(["Decrypt", "Encrypt"]).unwrap().is_within(set));
    }

    #[test]
    fn context_constraints_compare_names_without_case_and_values_with_it() {
        let full: &[(&str, &str)] = &[("App", "Billing"), ("env", "prod")];
        let twins: &[(&str, &str)] = &[("app", "Billing"), ("APP", "Billing")];
        for (constraints, context, want) in [
            (GrantConstraints::default(), full, true),
            (equals(full), full, true),
            (equals(&[("APP", "Billing"), ("ENV", "prod")]), full, true),
            (equals(&[("App", "billing"), ("env", "prod")]), full, false),
            (equals(&[("App", "Billing")]), full, false),
            (equals(full), &[("App", "Billing")], false),
            (equals(full), &[], false),
            (subset(&[("app", "Billing")]), full, true),
            (subset(&[("app", "billing")]), full, false),
            (subset(full), &[("App", "Billing")], false),
            (subset(full), &[], false),
            (subset(&[("app", "Billing")]), twins, false),
            (equals(&[("app", "Billing")]), twins, false),
            (subset(&[("ä", "1")]), &[("Ä", "1")], true),
        ] {
            let context = pairs(context);
            let facts = Context { encryption_context: Some(&context), ..Context::default() };
            let alice = user(OWN, "alice");
            let terms = terms(&["Decrypt", "DescribeKey"], constraints);
            assert_eq!(terms.permit(&request("kms:Decrypt", &alice, &facts)), want, "{terms:?} {context:?}");
            // Operations without a context are not constrained by one; operations not named are not permitted.
            assert!(terms.permit(&request("kms:DescribeKey", &alice, &Context::default())));
            assert!(!terms.permit(&request("kms:Encrypt", &alice, &facts)));
        }
    }

    #[test]
    fn a_source_constraint_needs_a_request_on_behalf_of_its_resource() {
        let volume = "arn:aws:ec2:eu-central-1:111122223333:volume/vol-1";
        let terms = terms(&["Decrypt", "DescribeKey"], for_source(volume));
        for (source_arn, want) in
            [(Some(volume), true), (Some("arn:aws:ec2:eu-central-1:1:volume/vol-2"), false), (None, false)]
        {
            let facts = Context { source_arn, ..Context::default() };
            for action in ["kms:Decrypt", "kms:DescribeKey"] {
                assert_eq!(
                    terms.permit(&request(action, &user(OWN, "alice"), &facts)),
                    want,
                    "{action} {source_arn:?}"
                );
            }
        }
    }

    #[test]
    fn a_grant_made_by_grant_allows_no_more() {
        let a: &[(&str, &str)] = &[("a", "1")];
        let ab: &[(&str, &str)] = &[("A", "1"), ("b", "2")];
        let none = GrantConstraints::default;
        for (parent, child, want) in [
            (none(), none(), true),
            (none(), equals(a), true),
            (subset(a), none(), false),
            (subset(a), subset(a), true),
            (subset(a), subset(ab), true),
            (subset(ab), subset(a), false),
            (subset(a), equals(ab), true),
            (subset(a), equals(&[("a", "2")]), false),
            (equals(a), subset(a), false),
            (equals(a), equals(&[("A", "1")]), true),
            (equals(a), equals(ab), false),
            (equals(ab), equals(a), false),
            (for_source("x"), none(), false),
            (for_source("x"), for_source("x"), true),
            (for_source("x"), for_source("y"), false),
        ] {
            let source_arn = parent.source_arn.clone();
            let parent = terms(&["Decrypt", "CreateGrant"], parent);
            let makes = |child: &GrantTerms| {
                let facts = GrantFacts { grantee: "arn", retiring: None, terms: child };
                let context = Context { grant: Some(facts), source_arn: source_arn.as_deref(), ..Context::default() };
                parent.permit(&request("kms:CreateGrant", &user(OWN, "alice"), &context))
            };
            let wider = terms(&["Decrypt", "Encrypt"], child.clone());
            let child = terms(&["Decrypt"], child);
            assert_eq!(makes(&child), want, "{parent:?} {child:?}");
            assert!(!makes(&wider), "an operation more");
        }
        let alone = terms(&["CreateGrant"], none());
        assert!(!alone.permit(&request("kms:CreateGrant", &user(OWN, "alice"), &Context::default())));
    }

    #[test]
    fn a_grant_speaks_where_policies_are_silent_and_never_against_a_deny() {
        let to = |grantee: String| Granted(vec![(grantee, terms(&["Decrypt"], GrantConstraints::default()))]);
        let (own_root, other_root) = (root_arn(OWN), root_arn(OTHER));
        let (alice, bob, eve) = (user(OWN, "alice"), user(OWN, "bob"), user(OTHER, "eve"));
        let (yes, no) = (identity("Allow"), identity("Deny"));
        let default = Document::parse(&default_key_policy(OWN), Flavor::KeyPolicy).unwrap();
        let closed = closed();
        // Whom the grant is for, who asks, under which key policy, with which identity policies, and what decides.
        for (grantee, caller, policy, own, want) in [
            (&alice.arn, &alice, &closed, &[][..], Some("Grant/0")),
            (&alice.arn, &alice, &closed, &yes[..], Some("Grant/0")),
            (&alice.arn, &alice, &closed, &no[..], None),
            (&alice.arn, &alice, &default, &yes[..], Some("IdentityPolicy/p/0")),
            (&alice.arn, &bob, &closed, &yes[..], None),
            (&eve.arn, &eve, &closed, &[][..], Some("Grant/0")),
            (&eve.arn, &eve, &closed, &no[..], None),
            (&own_root, &alice, &closed, &[][..], None),
            (&own_root, &alice, &closed, &yes[..], Some("Grant/0")),
            (&own_root, &alice, &closed, &no[..], None),
            (&own_root, &root(OWN), &closed, &[][..], Some("Grant/0")),
            (&own_root, &eve, &closed, &yes[..], None),
            (&other_root, &eve, &closed, &yes[..], Some("Grant/0")),
            (&other_root, &eve, &closed, &[][..], None),
            (&other_root, &root(OTHER), &closed, &[][..], Some("Grant/0")),
            (&alice.arn, &root(OWN), &closed, &[][..], None),
        ] {
            let grants = to(grantee.clone());
            let decide = |action, context: &Context<'_>| {
                let decision = evaluate_with_grants(&request(action, caller, context), policy, &with(own), &grants);
                decision.allowed.then_some(decision.decided_by)
            };
            let none = Context::default();
            assert_eq!(decide("kms:Decrypt", &none).as_deref(), want, "{grantee} {}", caller.arn);
            if want == Some("Grant/0") {
                assert_eq!(decide("kms:Encrypt", &none), None);
                assert_eq!(decide("kms:PutKeyPolicy", &none), None);
                let denied = Context { user_agent: Some("denied"), ..none };
                assert_eq!(decide("kms:Decrypt", &denied), None);
            }
        }
    }

    #[test]
    fn a_role_is_granted_within_the_limits_of_its_sessions_and_a_session_is_granted_itself() {
        let role = format!("arn:aws:iam::{OWN}:role/reader");
        let session = PrincipalContext {
            arn: format!("arn:aws:sts::{OWN}:assumed-role/reader/alice"),
            account: OWN.into(),
            kind: PrincipalKind::Session,
            role_arn: Some(role.clone()),
            ..PrincipalContext::default()
        };
        let (everything, nothing) = (identity("Allow"), identity("Deny"));
        let limited = |text: &str| {
            let text = format!(
                r#"{{"Version":"2012-10-17","Statement":{{"Effect":"Allow","Action":"{text}","Resource":"*"}}}}"#
            );
            let document = Arc::new(Document::parse(&text, Flavor::IdentityPolicy).unwrap());
            vec![NamedDocument { name: "limit".into(), document }]
        };
        let (decrypt, encrypt) = (limited("kms:Decrypt"), limited("kms:Encrypt"));
        let closed = closed();
        let free = CallerPolicies::default();
        for (grantee, own, want) in [
            (&role, free, true),
            (&role, CallerPolicies { session: Some(&decrypt), ..free }, true),
            (&role, CallerPolicies { session: Some(&encrypt), ..free }, false),
            (&role, CallerPolicies { boundary: decrypt.first(), ..free }, true),
            (&role, CallerPolicies { boundary: encrypt.first(), ..free }, false),
            (&role, CallerPolicies { boundary: nothing.first(), ..free }, false),
            (&session.arn, CallerPolicies { session: Some(&encrypt), ..free }, true),
            (&session.arn, CallerPolicies { session: Some(&nothing), ..free }, false),
            (&root_arn(OWN), free, false),
            (&root_arn(OWN), with(&everything), true),
            (&root_arn(OWN), CallerPolicies { session: Some(&encrypt), ..with(&everything) }, false),
            (&format!("arn:aws:iam::{OWN}:role/writer"), with(&everything), false),
        ] {
            let terms = terms(&["Decrypt", "RetireGrant"], GrantConstraints::default());
            let grants = Granted(vec![(grantee.clone(), terms.clone())]);
            let context = Context::default();
            let used = evaluate_with_grants(&request("kms:Decrypt", &session, &context), &closed, &own, &grants);
            assert_eq!(used.allowed, want, "{grantee} {own:?}");
            let grant = Retirable { id: "g", grantee, retiring: None, issuing_account: OTHER, terms: &terms };
            let ended = evaluate_retire(&request("kms:RetireGrant", &session, &context), &closed, &own, &grant);
            let may_end = want && own.session.is_none() && own.boundary.is_none() || *grantee == session.arn && want;
            assert_eq!(ended.allowed, may_end, "{grantee} {own:?}");
        }
    }

    #[test]
    fn the_grant_says_who_may_end_it() {
        let (alice, bob) = (user(OWN, "alice"), user(OWN, "bob"));
        let (eve, other_root) = (user(OTHER, "eve"), root_arn(OTHER));
        let (yes, no) = (identity("Allow"), identity("Deny"));
        let to_retire = terms(&["Decrypt", "RetireGrant"], equals(&[("a", "1")]));
        let without = terms(&["Decrypt"], GrantConstraints::default());
        let closed = closed();
        // Grantee, retiring principal, issuer, terms, who asks with which policies, and what decides.
        for (grantee, retiring, issuing_account, terms, caller, own, want) in [
            (&bob.arn, None, OTHER, &without, &bob, &yes[..], None),
            (&bob.arn, None, OTHER, &to_retire, &bob, &[][..], Some("Grant/g")),
            (&bob.arn, None, OTHER, &to_retire, &bob, &no[..], None),
            (&bob.arn, Some(&alice.arn), OTHER, &without, &alice, &[][..], Some("Grant/g")),
            (&bob.arn, Some(&alice.arn), OTHER, &without, &alice, &no[..], None),
            (&bob.arn, Some(&eve.arn), OWN, &without, &eve, &[][..], Some("Grant/g")),
            (&bob.arn, Some(&other_root), OWN, &without, &eve, &[][..], None),
            (&bob.arn, Some(&other_root), OWN, &without, &eve, &yes[..], Some("Grant/g")),
            (&bob.arn, Some(&other_root), OWN, &without, &root(OTHER), &[][..], Some("Grant/g")),
            (&bob.arn, None, OWN, &without, &root(OWN), &[][..], Some("Grant/g")),
            (&bob.arn, None, OWN, &without, &alice, &yes[..], Some("Grant/g")),
            (&bob.arn, None, OWN, &without, &alice, &[][..], None),
            (&bob.arn, None, OWN, &without, &eve, &yes[..], None),
            // A key policy alone lets nobody retire.
            (&bob.arn, None, OTHER, &without, &user(OWN, "owner"), &[][..], None),
        ] {
            let retiring = retiring.map(String::as_str);
            let grant = Retirable { id: "g", grantee, retiring, issuing_account, terms };
            let context = Context::default();
            let decision = evaluate_retire(&request("kms:RetireGrant", caller, &context), &closed, &with(own), &grant);
            assert_eq!(decision.allowed.then_some(decision.decided_by).as_deref(), want, "{grant:?} {}", caller.arn);
        }
    }
}
