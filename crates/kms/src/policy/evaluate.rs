//! The decision on one request, with the statement that made it.
//!
//! Order: any explicit Deny in the resource's policy (the key's, or a role's trust policy), then in the caller's identity
//! policies, permissions boundary and session policies; then, in the resource's own account, a policy that names the
//! caller, or one that trusts the account together with an identity policy; from another account the resource's policy
//! **and** the caller's identity policy, and only for operations that reach across; then a grant (`grant`); else no. A
//! boundary and session policies must allow it, too, unless the resource's policy or a grant names the user or the
//! session itself.

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

/// What a caller brings: its own policies and those that limit them.
#[derive(Clone, Copy, Debug, Default)]
pub struct CallerPolicies<'a> {
    /// Its identity policies with those of its groups, or of its role.
    pub identity: &'a [NamedDocument],
    /// Its permissions boundary: what it does not allow, identity policies cannot.
    pub boundary: Option<&'a NamedDocument>,
    /// The policies that a session was opened with; one of them must allow what the session does. None: no such limit.
    pub session: Option<&'a [NamedDocument]>,
}

/// Yes or no, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the request may go ahead.
    pub allowed: bool,
    /// `KeyPolicy/<Sid or index>` or `TrustPolicy/...`, `IdentityPolicy/<name>/<Sid or index>`, `Grant/<id>`, `AccountRoot` (an
    /// account's root user acting on no key), `PermissionsBoundary/<name>` and `SessionPolicy/<name>`, each with
    /// `/<Sid or index>` when a Deny of theirs decided, or `Default`. Where both policies must allow, the identity
    /// policy's statement.
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
    /// A Deny of the permissions boundary.
    BoundaryDenies,
    /// A Deny of a session policy.
    SessionPolicyDenies,
    /// The key policy has nothing for this caller, or not this caller's account.
    KeyPolicySilent,
    /// An identity policy was needed and none allows it.
    IdentityPolicySilent,
    /// The permissions boundary does not allow what a policy allows.
    BoundarySilent,
    /// No session policy allows what a policy allows.
    SessionPolicySilent,
    /// The operation does not reach into another account.
    NotAcrossAccounts,
}

impl Reason {
    /// Whether nothing spoke against it, only nothing for it: then a grant may.
    pub(super) fn is_silence(self) -> bool {
        match self {
            Self::KeyPolicySilent
            | Self::IdentityPolicySilent
            | Self::BoundarySilent
            | Self::SessionPolicySilent
            | Self::NotAcrossAccounts => true,
            Self::Allowed
            | Self::KeyPolicyDenies
            | Self::IdentityPolicyDenies
            | Self::BoundaryDenies
            | Self::SessionPolicyDenies => false,
        }
    }
}

/// Decides a request by policies alone. `resource_policy` is None for operations that act on nothing with a policy of its own (ListKeys,
/// CreateKey, an alias).
pub fn evaluate(request: &Request<'_>, resource_policy: Option<&Document>, own: &CallerPolicies<'_>) -> Decision {
    let action = request.action.to_ascii_lowercase();
    if let Some((policy, statement)) =
        resource_policy.and_then(|policy| resource_deny(policy, request, &action, own.boundary.is_some()))
    {
        return refused(Reason::KeyPolicyDenies, resource_label(policy, statement));
    }
    if let Some(refusal) = own.deny(request, &action) {
        return refusal;
    }
    let own_account = request.principal.account == request.key_account;
    match resource_policy {
        None if !own_account => refused(Reason::NotAcrossAccounts, default_label()),
        None => own.decide(request, &action, "AccountRoot"),
        Some(policy) => {
            let (closeness, statement) = resource_allow(policy, request, &action);
            let Some(statement) = statement else {
                return refused(Reason::KeyPolicySilent, default_label());
            };
            let label = resource_label(policy, statement);
            if own_account && closeness == Closeness::Direct {
                return allowed(label);
            }
            if own_account && closeness == Closeness::Shared {
                return own.within_limits(request, &action, label);
            }
            if !own_account && !is_cross_account_capable(request.action) {
                return refused(Reason::NotAcrossAccounts, default_label());
            }
            own.decide(request, &action, &label)
        }
    }
}

impl CallerPolicies<'_> {
    fn deny(&self, request: &Request<'_>, action: &str) -> Option<Decision> {
        let boundary = self.boundary.map_or(&[][..], std::slice::from_ref);
        let all = [
            (self.identity, Reason::IdentityPolicyDenies, "IdentityPolicy"),
            (boundary, Reason::BoundaryDenies, "PermissionsBoundary"),
            (self.session.unwrap_or_default(), Reason::SessionPolicyDenies, "SessionPolicy"),
        ];
        all.into_iter().find_map(|(policies, reason, kind)| {
            let (name, statement) = first_match(policies, Effect::Deny, request, action)?;
            Some(refused(reason, named_label(kind, name, statement)))
        })
    }

    /// The caller's side: its identity policies, or for an account's root user, whom nothing else limits, `root_label`.
    pub(super) fn decide(&self, request: &Request<'_>, action: &str, root_label: &str) -> Decision {
        if let Some((name, statement)) = first_match(self.identity, Effect::Allow, request, action) {
            return self.within_limits(request, action, named_label("IdentityPolicy", name, statement));
        }
        match request.principal.kind {
            PrincipalKind::Root => self.within_limits(request, action, root_label.to_owned()),
            PrincipalKind::User | PrincipalKind::Session | PrincipalKind::Federated => {
                refused(Reason::IdentityPolicySilent, default_label())
            }
        }
    }

    /// What was allowed by `decided_by`, if boundary and session policies allow it, too.
    pub(super) fn within_limits(&self, request: &Request<'_>, action: &str, decided_by: String) -> Decision {
        let allows = |policies| first_match(policies, Effect::Allow, request, action).is_some();
        if let Some(boundary) = self.boundary.filter(|boundary| !allows(std::slice::from_ref(*boundary))) {
            return refused(Reason::BoundarySilent, format!("PermissionsBoundary/{}", boundary.name));
        }
        if self.session.is_some_and(|policies| !allows(policies)) {
            return refused(Reason::SessionPolicySilent, "SessionPolicy".into());
        }
        allowed(decided_by)
    }
}

fn resource_deny<'d>(
    policy: &'d Document,
    request: &Request<'_>,
    action: &str,
    has_boundary: bool,
) -> Option<(&'d Document, &'d Statement)> {
    let found = policy.statements.iter().find(|statement| {
        statement.effect == Effect::Deny
            && statement.principals.deny_names(request.principal, has_boundary)
            && statement.applies(request, action)
    });
    found.map(|statement| (policy, statement))
}

/// The Allow that names the caller most closely; the first of equals.
fn resource_allow<'d>(policy: &'d Document, request: &Request<'_>, action: &str) -> (Closeness, Option<&'d Statement>) {
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

fn first_match<'d>(
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

pub(super) fn allowed(decided_by: String) -> Decision {
    Decision { allowed: true, decided_by, reason: Reason::Allowed }
}

pub(super) fn refused(reason: Reason, decided_by: String) -> Decision {
    Decision { allowed: false, decided_by, reason }
}

fn resource_label(policy: &Document, statement: &Statement) -> String {
    format!("{}/{}", policy.flavor.label(), statement.label)
}

fn named_label(kind: &str, name: &str, statement: &Statement) -> String {
    format!("{kind}/{name}/{}", statement.label)
}

pub(super) fn default_label() -> String {
    "Default".into()
}
