//! Questions about key policies, answered by the evaluator's own parser and matchers, never by searching the text.

use super::{text, truth};
use crate::alert::grouping::role;
use datafusion::common::exec_datafusion_err;
use datafusion::error::Result;
use datafusion::logical_expr::ScalarUDF;
use keytrail_kms::policy::{self, Permissions, QuestionError};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;

pub(super) fn functions() -> Vec<ScalarUDF> {
    vec![
        truth("policy_is_public", |[text]| Ok(policy::is_public(text).ok())),
        text("policy_grants", |[text, action, pattern]| {
            Ok(answer(policy::grants(text, action, pattern))?.map(|all| list(all).to_string()))
        }),
        text("policy_diff", |[old, new]| Ok(answer(policy::diff(old, new))?.and_then(|diff| json_text(&diff)))),
        text("policy_lets_in", |[old, new]| {
            let roles = let_in(old, new).map(|all| all.iter().map(|one| role(one)).collect::<BTreeSet<_>>());
            Ok(roles.and_then(|all| json_text(&all)))
        }),
        text("arn_role", |[arn]| Ok(Some(role(arn)))),
        truth("policy_locks_out", |[text, account]| answer(policy::locks_out_account(text, account))),
        text("policy_mixed_duties", |[text]| Ok(policy::mixed_duties(text).ok().and_then(|all| json_text(&all)))),
        truth("policy_on_all_keys", |[text, action, account]| answer(policy::on_all_keys(text, action, account))),
        text("policy_accounts", |[text]| {
            Ok(policy::named_accounts(text).ok().and_then(|accounts| json_text(&accounts)))
        }),
    ]
}

/// Whom the new policy gives more than the old one; an empty text is no policy at all.
pub(super) fn let_in(old: &str, new: &str) -> Option<BTreeSet<String>> {
    let old = Some(old).filter(|old| !old.is_empty());
    // A former policy that cannot be read gave nothing that is known: all of the new one is news.
    policy::let_in(old, new).or_else(|_| policy::let_in(None, new)).ok()
}

/// What is in a row may be anything; what the author of the SQL wrote must be right.
fn answer<T>(answered: Result<T, QuestionError>) -> Result<Option<T>> {
    match answered {
        Ok(answer) => Ok(Some(answer)),
        Err(QuestionError::Policy(_)) => Ok(None),
        Err(error @ (QuestionError::Action(_) | QuestionError::Account(_))) => Err(exec_datafusion_err!("{error}")),
    }
}

/// The permissions as one list, with a last entry that says how many more there are.
fn list(all: Permissions) -> Value {
    let mut list: Vec<Value> = all.permissions.iter().filter_map(|one| serde_json::to_value(one).ok()).collect();
    if all.more > 0 {
        list.push(json!({ "more": all.more }));
    }
    list.into()
}

pub(super) fn json_text(value: &impl Serialize) -> Option<String> {
    serde_json::to_string(value).ok()
}
