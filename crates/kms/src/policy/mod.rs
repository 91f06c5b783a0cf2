//! Key, trust and identity policies: parsing, and the decision on one request. Pure, no I/O, no clock.
//!
//! Parsing is strict, so that nothing unknown is met when a decision is due: an unknown element, operator, condition key
//! or a repeated JSON member refuses the document. What still cannot be decided (a policy variable without a value, two
//! encryption context keys that differ only in case) lets a Deny apply and an Allow not. Start with `evaluate`; the
//! rules are AWS's: "Policy evaluation logic" and the KMS "key policies" pages.

#![warn(clippy::indexing_slicing)]

mod action;
mod condition;
mod document;
mod evaluate;
mod fact;
mod grant;
mod json;
pub mod lint;
mod lockout;
mod operator;
mod pattern;
mod permission;
mod principal;
mod public;
mod request;
mod survey;
mod widening;

pub use action::{KMS_ACTIONS, is_cross_account_capable};
pub use condition::Network;
pub use document::{DOCUMENT_BYTES_MAX, Document, Flavor, PolicyError};
pub use evaluate::{CallerPolicies, Decision, NamedDocument, Reason, evaluate};
pub use grant::{
    GrantConstraints, GrantOperations, GrantTerms, GrantsOnKey, ListedGrants, Retirable, evaluate_retire,
    evaluate_with_grants, key_supports, root_arn,
};
pub use lockout::{Administration, administration, default_key_policy, locks_out};
pub use permission::{
    Change, Permission, Permissions, PolicyDiff, QuestionError, account_of, diff, grants, let_in, locks_out_account,
    mixed_duties, named_accounts, on_all_keys,
};
pub use public::is_public;
pub use request::{Context, GrantFacts, KeyFacts, Mfa, PrincipalContext, PrincipalKind, Request, WebIdentityFacts};
pub use survey::{Survey, Way, survey};
pub use widening::widens;

#[cfg(test)]
mod session_tests;
#[cfg(test)]
mod template_tests;
#[cfg(test)]
mod tests;
