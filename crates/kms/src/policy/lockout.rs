//! The default key policy, and the check that keeps a key manageable.
//!
//! AWS refuses a key policy under which its author could not change it again, unless told to skip the check.

use super::document::Document;
use super::evaluate::{CallerPolicies, evaluate};
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
