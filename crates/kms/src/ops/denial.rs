//! AWS's sentence for a denial: which kind of policy stood in the way, never which policy or statement.
//!
//! About something of another account there is one sentence only, whether it is there or not and whatever was silent
//! or said no: whoever asks learns nothing.

use crate::policy::Reason;

/// How the thing that was denied is named to the caller.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    /// By its ARN, or `*`.
    Named(&'a str),
    /// By a ciphertext, which names its key to the service only.
    Ciphertext,
    /// Of another account, named by the caller.
    Abroad,
    /// Of another account, by a ciphertext.
    CiphertextAbroad,
}

/// What the caller reads. No reason is given where none of its account's policies decided.
pub(super) fn sentence(caller: &str, action: &str, place: Place<'_>, reason: Option<Reason>) -> String {
    let on = match place {
        Place::Named(resource) => format!("on resource: {resource}"),
        Place::Ciphertext | Place::CiphertextAbroad => "on the resource associated with this ciphertext".to_owned(),
        Place::Abroad => "on this resource".to_owned(),
    };
    let because = match place {
        Place::Named(_) | Place::Ciphertext => reason.and_then(|reason| because(action, reason)),
        Place::Abroad | Place::CiphertextAbroad => Some(NOT_YOURS.to_owned()),
    };
    let because = because.map(|clause| format!(" {clause}")).unwrap_or_default();
    format!("User: {caller} is not authorized to perform: {action} {on}{because}")
}

/// For whatever another account has or has not.
const NOT_YOURS: &str = "because the resource does not exist in this Region, no resource-based policies allow access, \
                         or a resource-based policy explicitly denies access";

fn because(action: &str, reason: Reason) -> Option<String> {
    let silent = |kind: &str| Some(format!("because no {kind} allows the {action} action"));
    let denies = |kind: &str| Some(format!("with an explicit deny in {kind}"));
    match reason {
        Reason::Allowed => None,
        Reason::KeyPolicyDenies => denies("a resource-based policy"),
        Reason::IdentityPolicyDenies => denies("an identity-based policy"),
        Reason::BoundaryDenies => denies("a permissions boundary"),
        Reason::SessionPolicyDenies => denies("a session policy"),
        Reason::KeyPolicySilent | Reason::NotAcrossAccounts => silent("resource-based policy"),
        Reason::IdentityPolicySilent => silent("identity-based policy"),
        Reason::BoundarySilent => silent("permissions boundary"),
        Reason::SessionPolicySilent => silent("session policy"),
    }
}
