//! Lint over everything that the log has besides key policies: identity policies, living grants, and all documents together.

use super::state::Past;
use crate::directory::entity::{Entity, Group, Name, Permissions, Policy, Role, User};
use crate::policy::lint::{Finding, Granted, lint, lint_grant};
use crate::policy::{Flavor, PolicyError};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// An identity policy as the log has it.
struct Written {
    /// The ARN of whom it belongs to, and its name there.
    name: String,
    account: String,
    text: String,
}

impl Past {
    /// Findings by what they are about: identity policies, then keys with their grants, then principals. `now_us` is the
    /// time of the calls that are thought of.
    pub fn lint(&mut self, now_us: u64) -> Result<Vec<(String, Vec<Finding>)>, PolicyError> {
        let mut found = Vec::new();
        for Written { name, account, text } in self.written() {
            found.push((name, lint(&text, Flavor::IdentityPolicy, &account)?));
        }
        for key_arn in self.key_arns() {
            let grants = self.grants.on(key_arn).into_iter().flat_map(super::grants::KeyGrants::iter);
            let findings: Vec<Finding> = grants
                .flat_map(|grant| {
                    let image = &grant.image;
                    lint_grant(&Granted {
                        id: &image.grant_id,
                        key_arn,
                        grantee: &image.grantee_principal,
                        retiring: image.retiring_principal.as_deref(),
                        terms: &grant.terms,
                    })
                })
                .collect();
            found.push((format!("grants on {key_arn}"), findings));
        }
        let reach = self.reach(now_us);
        if reach.cut {
            let message = "there are too many principals and keys: not all ways were looked at".to_owned();
            let finding = Finding { code: "not-looked-at", statement: None, message, example: None, correction: None };
            found.push(("all documents".to_owned(), vec![finding]));
        }
        for reached in reach.found {
            let message = format!("{}: {}", reached.message, reached.steps.join(", then "));
            let finding = Finding { code: reached.code, statement: None, message, example: None, correction: None };
            found.push((reached.principal, vec![finding]));
        }
        Ok(found)
    }

    fn written(&self) -> Vec<Written> {
        let mut all = Vec::new();
        let (file, stored) = (self.file(), self.entities());
        for (list, kind, name) in
            [("users", User::KIND, "userName"), ("groups", Group::KIND, "groupName"), ("roles", Role::KIND, "roleName")]
        {
            for entry in entries(file, list) {
                let owner = arn(entry, kind, name);
                for policy in entries(entry, "policies") {
                    let policy_name = policy["policyName"].as_str().unwrap_or_default();
                    all.extend(written(format!("{owner} {policy_name}"), entry, &policy["policyDocument"]));
                }
            }
        }
        for policy in entries(file, "policies") {
            all.extend(written(arn(policy, Policy::KIND, "policyName"), policy, &policy["policyDocument"]));
        }
        inline(&stored.users, |user| &user.permissions, &mut all);
        inline(&stored.groups, |group| &group.permissions, &mut all);
        inline(&stored.roles, |role| &role.permissions, &mut all);
        for ((account, name), policy) in &stored.policies {
            let Some(text) = policy.default_document() else { continue };
            let (name, account) = (Policy::arn(*account, name), account.to_string());
            all.push(Written { name, account, text: text.text.clone() });
        }
        all
    }
}

fn inline<E: Entity>(of: &BTreeMap<Name, Arc<E>>, permissions: impl Fn(&E) -> &Permissions, all: &mut Vec<Written>) {
    for ((account, name), entity) in of {
        for (policy, text) in &permissions(entity).inline_policies {
            let name = format!("{} {policy}", E::arn(*account, name));
            all.push(Written { name, account: account.to_string(), text: text.text.clone() });
        }
    }
}

fn entries<'v>(of: &'v Value, list: &str) -> impl Iterator<Item = &'v Value> {
    of.get(list).and_then(Value::as_array).into_iter().flatten()
}

fn arn(entry: &Value, kind: &str, name: &str) -> String {
    let text = |member: &str| entry[member].as_str().unwrap_or_default();
    format!("arn:aws:iam::{}:{kind}/{}", text("accountId"), text(name))
}

/// None for a policy that is only named here.
fn written(name: String, entry: &Value, document: &Value) -> Option<Written> {
    let account = entry["accountId"].as_str()?.to_owned();
    (!document.is_null()).then(|| Written { name, account, text: document.to_string() })
}
