//! The decision on one request, with the statement that made it.
//!
//! Order: any explicit Deny in the key policy, then in the caller's identity policies; then, in the key's own account,
//! a key policy that names the caller, or one that trusts the account together with an identity policy; from another
//! account the key policy **and** the caller's identity policy, and only for operations that reach across; else no.

use std::sync::Arc;

use super::action::is_cross_account_capable;
use super::document::{Document, Effect, Statement};
use super::principal::Closeness;
use super::request::{PrincipalKind, Request};

/// An identity policy under the name that decisions give it.
#[derive(Clone, Debug)]
pub struct NamedDocument {
    /// The policy's name.
    pub name: String,
    /// The policy.
    pub document: Arc<Document>,
}

/// Yes or no, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the request may go ahead.
    pub allowed: bool,
    /// `KeyPolicy/<Sid or index>`, `IdentityPolicy/<name>/<Sid or index>`, `AccountRoot` (an account's root user acting
    /// on no key) or `Default`. Where both policies must allow, the identity policy's statement.
    pub decided_by: String,
    /// The rule that was decisive.
    pub reason: Reason,
}

/// The rule that decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Something allowed it and nothing denied it.
    Allowed,
    /// A Deny of the key policy.
    KeyPolicyDenies,
    /// A Deny of an identity policy.
    IdentityPolicyDenies,
    /// The key policy has nothing for this caller, or not this caller's account.
    KeyPolicySilent,
    /// An identity policy was needed and none allows it.
    IdentityPolicySilent,
    /// The operation does not reach into another account.
    NotAcrossAccounts,
}

impl Decision {
    /// AWS's sentence for a refusal; tells the caller no more than AWS does.
    pub fn denial_message(&self, request: &Request<'_>) -> String {
        let Request { action, resource_arn, principal, .. } = request;
        let because = match self.reason {
            Reason::KeyPolicyDenies => "with an explicit deny in a resource-based policy".to_owned(),
            Reason::IdentityPolicyDenies => "with an explicit deny in an identity-based policy".to_owned(),
            Reason::IdentityPolicySilent => format!("because no identity-based policy allows the {action} action"),
            Reason::Allowed | Reason::KeyPolicySilent | Reason::NotAcrossAccounts => {
                format!("because no resource-based policy allows the {action} action")
            }
        };
        let on = if *resource_arn == "*" { String::new() } else { format!(" on resource: {resource_arn}") };
        format!("User: {} is not authorized to perform: {action}{on} {because}", principal.arn)
    }
}

/// Decides a request. `key_policy` is None for operations that act on no key (ListKeys, CreateKey, an alias).
pub fn evaluate(request: &Request<'_>, key_policy: Option<&Document>, identity_policies: &[NamedDocument]) -> Decision {
    let action = request.action.to_ascii_lowercase();
    if let Some(statement) = key_policy.and_then(|policy| key_policy_deny(policy, request, &action)) {
        return refused(Reason::KeyPolicyDenies, key_label(statement));
    }
    if let Some((name, statement)) = identity_match(identity_policies, Effect::Deny, request, &action) {
        return refused(Reason::IdentityPolicyDenies, identity_label(name, statement));
    }
    let own_account = request.principal.account == request.key_account;
    match key_policy {
        None if !own_account => refused(Reason::NotAcrossAccounts, default_label()),
        None => by_identity(request, &action, identity_policies, "AccountRoot"),
        Some(policy) => {
            let (closeness, statement) = key_policy_allow(policy, request, &action);
            let Some(statement) = statement else {
                return refused(Reason::KeyPolicySilent, default_label());
            };
            if own_account && closeness == Closeness::Direct {
                return allowed(key_label(statement));
            }
            if !own_account && !is_cross_account_capable(request.action) {
                return refused(Reason::NotAcrossAccounts, default_label());
            }
            by_identity(request, &action, identity_policies, &key_label(statement))
        }
    }
}

/// The caller's side: its identity policies, or for an account's root user, whom nothing else limits, `root_label`.
fn by_identity(request: &Request<'_>, action: &str, policies: &[NamedDocument], root_label: &str) -> Decision {
    if let Some((name, statement)) = identity_match(policies, Effect::Allow, request, action) {
        return allowed(identity_label(name, statement));
    }
    match request.principal.kind {
        PrincipalKind::Root => allowed(root_label.to_owned()),
        PrincipalKind::User => refused(Reason::IdentityPolicySilent, default_label()),
    }
}

fn key_policy_deny<'d>(policy: &'d Document, request: &Request<'_>, action: &str) -> Option<&'d Statement> {
    policy.statements.iter().find(|statement| {
        statement.effect == Effect::Deny
            && statement.principals.deny_names(request.principal)
            && statement.applies(request, action)
    })
}

/// The Allow that names the caller most closely; the first of equals.
fn key_policy_allow<'d>(
    policy: &'d Document,
    request: &Request<'_>,
    action: &str,
) -> (Closeness, Option<&'d Statement>) {
    let mut best = (Closeness::No, None);
    for statement in policy.statements.iter().filter(|statement| statement.effect == Effect::Allow) {
        let closeness = statement.principals.allow_closeness(request.principal);
        if closeness > best.0 && statement.applies(request, action) {
            best = (closeness, Some(statement));
        }
        if best.0 == Closeness::Direct {
            break;
        }
    }
    best
}

fn identity_match<'d>(
    policies: &'d [NamedDocument],
    effect: Effect,
    request: &Request<'_>,
    action: &str,
) -> Option<(&'d str, &'d Statement)> {
    policies.iter().find_map(|policy| {
        let mut statements = policy.document.statements.iter();
        let found = statements.find(|statement| statement.effect == effect && statement.applies(request, action))?;
        Some((policy.name.as_str(), found))
    })
}

fn allowed(decided_by: String) -> Decision {
    Decision { allowed: true, decided_by, reason: Reason::Allowed }
}

fn refused(reason: Reason, decided_by: String) -> Decision {
    Decision { allowed: false, decided_by, reason }
}

fn key_label(statement: &Statement) -> String {
    format!("KeyPolicy/{}", statement.label)
}

fn identity_label(name: &str, statement: &Statement) -> String {
    format!("IdentityPolicy/{name}/{}", statement.label)
}

fn default_label() -> String {
    "Default".into()
}
