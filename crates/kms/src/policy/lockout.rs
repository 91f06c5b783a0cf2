//! The default key policy, and the check that keeps a key manageable.
//!
//! AWS refuses a key policy under which its author could not change it again, unless told to skip the check.

use super::document::{Document, Effect, Principals, Statement};
use super::evaluate::{CallerPolicies, evaluate};
use super::principal::Principal;
use super::request::Request;

/// The policy of a key created without one: its account decides by identity policies. Word for word AWS's.
pub fn default_key_policy(account: &str) -> String {
    format!(
        r#"{{
  "Version" : "2012-10-17",
  "Id" : "key-default-1",
  "Statement" : [ {{
    "Sid" : "Enable IAM User Permissions",
    "Effect" : "Allow",
    "Principal" : {{
      "AWS" : "arn:aws:iam::{account}:root"
    }},
    "Action" : "kms:*",
    "Resource" : "*"
  }} ]
}}"#
    )
}

/// Whether `new_policy` would leave the caller unable to call PutKeyPolicy on the key again. `request` is the call at
/// hand (CreateKey, PutKeyPolicy); only its action and resource are replaced.
pub fn locks_out(new_policy: &Document, key_arn: &str, request: &Request<'_>, own: &CallerPolicies<'_>) -> bool {
    let next = Request { action: "kms:PutKeyPolicy", resource_arn: key_arn, ..*request };
    !evaluate(&next, Some(new_policy), own).allowed
}

/// Part of a key policy that keeps its key manageable.
pub struct Administration {
    /// Which statement, counted from 0.
    pub statement: usize,
    /// The users, roles and sessions that it names.
    pub principals: Vec<String>,
    /// Which of the actions asked about it covers.
    pub actions: Vec<String>,
    /// Whether it leaves it to an account.
    pub by_account: bool,
}

/// The statements by which somebody may change a key policy, with those of `actions` that they cover.
pub fn administration(document: &Document, actions: &[String]) -> Vec<Administration> {
    let covers = |statement: &Statement, action: &str| statement.covers_action(&action.to_ascii_lowercase());
    let statements = document.statements.iter().enumerate();
    let able = statements.filter(|(_, s)| s.effect == Effect::Allow && covers(s, "kms:PutKeyPolicy"));
    able.map(|(statement, s)| {
        let entries = if let Principals::These(entries) = &s.principals { entries.as_slice() } else { &[] };
        let arn = |entry: &Principal| if let Principal::Arn(arn) = entry { Some(arn.clone()) } else { None };
        Administration {
            statement,
            principals: entries.iter().filter_map(arn).collect(),
            actions: actions.iter().filter(|action| covers(s, action)).cloned().collect(),
            by_account: entries.iter().any(|entry| matches!(entry, Principal::Account(_))),
        }
    })
    .collect()
}
