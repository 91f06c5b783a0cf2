//! Whether a new key policy lets somebody do what the old one does not. Where that cannot be told, it does.
//!
//! The comparison of `permission` knows principals, actions and conditions. What it passes over is looked at here: denials of
//! principals that only their account is allowed for, `NotPrincipal`, resources, conditions too long to be told.

use super::document::{Document, Effect, Flavor, Principals};
use super::permission::diff;
use serde_json::Value;

/// True unless the new policy certainly gives nothing that the old one does not give.
pub fn widens(old: &str, new: &str) -> bool {
    !narrows(old, new).unwrap_or(false)
}

/// None when it cannot be told.
fn narrows(old: &str, new: &str) -> Option<bool> {
    let (before, after) = (statements(old)?, statements(new)?);
    let of = |all: &[Value], effect: &str| -> Vec<Value> {
        all.iter().filter(|statement| statement["Effect"] == effect).cloned().collect()
    };
    let kept = |these: &[Value], those: &[Value]| these.iter().all(|statement| those.contains(statement));
    // Whatever a denial took back stays taken back only if the denial stays.
    if !kept(&of(&before, "Deny"), &of(&after, "Deny")) {
        return Some(false);
    }
    if kept(&of(&after, "Allow"), &of(&before, "Allow")) {
        return Some(true);
    }
    if !is_plain(old)? || !is_plain(new)? {
        return None;
    }
    let difference = diff(old, new).ok()?;
    Some(difference.added.is_empty() && difference.more == 0)
}

/// Whether `permission` sees all of what the policy allows.
fn is_plain(text: &str) -> Option<bool> {
    let document = Document::read(text, Flavor::KeyPolicy, false).ok()?;
    let mut allows = document.statements.iter().filter(|statement| statement.effect == Effect::Allow);
    Some(allows.all(|statement| {
        let told: usize = statement.conditions.iter().map(|condition| condition.text.len()).sum();
        matches!(statement.principals, Principals::These(_))
            && statement.covers_all_resources()
            && told <= CONDITIONS_BYTES_MAX
    }))
}

/// Below what `permission` tells of conditions.
const CONDITIONS_BYTES_MAX: usize = 4 * 1024;

/// The statements without what only names them.
fn statements(text: &str) -> Option<Vec<Value>> {
    let document: Value = serde_json::from_str(text).ok()?;
    let mut all = match document.get("Statement")? {
        Value::Array(all) => all.clone(),
        one => vec![one.clone()],
    };
    for statement in &mut all {
        statement.as_object_mut()?.remove("Sid");
        statement.sort_all_objects();
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: &str = r#"{"AWS":"arn:aws:iam::111122223333:user/a"}"#;
    const ROOT: &str = r#"{"AWS":"arn:aws:iam::111122223333:root"}"#;

    fn policy(statements: &[String]) -> String {
        format!(r#"{{"Version":"2012-10-17","Statement":[{}]}}"#, statements.join(","))
    }

    fn statement(effect: &str, principal: &str, action: &str, more: &str) -> String {
        format!(r#"{{"Effect":"{effect}","Principal":{principal},"Action":{action},"Resource":"*"{more}}}"#)
    }

    #[test]
    fn what_gives_more_widens_and_what_cannot_be_told_does() {
        let root = statement("Allow", ROOT, r#""kms:*""#, "");
        let user = statement("Allow", USER, r#"["kms:Encrypt","kms:Decrypt"]"#, "");
        let less = statement("Allow", USER, r#""kms:Decrypt""#, "");
        let tenant = r#","Condition":{"StringEquals":{"kms:EncryptionContext:tenant":"7"}}"#;
        let bound = statement("Allow", USER, r#""kms:Decrypt""#, tenant);
        let deny = statement("Deny", USER, r#""kms:Decrypt""#, "");
        let base = policy(&[root.clone(), user.clone()]);
        for narrower in [
            policy(&[root.clone(), user.clone()]),
            policy(&[user.clone(), root.clone()]),
            policy(std::slice::from_ref(&root)),
            policy(&[root.clone(), less.clone()]),
            policy(&[root.clone(), user.clone(), deny.clone()]),
            base.replacen(r#"{"Effect""#, r#"{"Sid":"named","Effect""#, 1),
        ] {
            assert!(!widens(&base, &narrower), "{narrower}");
        }
        let denied = policy(&[root.clone(), deny.clone()]);
        for (old, new) in [
            (policy(std::slice::from_ref(&root)), base.clone()),
            (policy(&[root.clone(), less.clone()]), base.clone()),
            (policy(&[root.clone(), bound.clone()]), policy(&[root.clone(), less.clone()])),
            // Another condition may hold for other calls: it cannot be told.
            (policy(&[root.clone(), less]), policy(&[root.clone(), bound])),
            // The account's users are allowed by the account: `permission` does not see the denial of one of them.
            (denied.clone(), policy(std::slice::from_ref(&root))),
            (denied, policy(&[root.clone(), deny.replace("kms:Decrypt", "kms:Sign")])),
            (base.clone(), policy(&[root.clone(), user.clone(), statement("Allow", r#""*""#, r#""kms:Decrypt""#, "")])),
            (base.clone(), policy(&[root.replace("Principal", "NotPrincipal"), user])),
            (policy(&[root.replace(r#""*"}"#, r#""arn:aws:kms:*:*:key/other"}"#)]), policy(&[root])),
            (base, "{".to_owned()),
        ] {
            assert!(widens(&old, &new), "{old} -> {new}");
        }
    }
}
