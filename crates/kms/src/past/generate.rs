//! Generate: the policy that the recorded calls needed, and no more.
//!
//! Allowed calls are gathered by principal, action and resource; what all of them had in common becomes a condition. Calls
//! that a grant allowed need no statement. Whatever keeps the key manageable stays: denials word for word, named
//! administrators with what they had of administration, and the account's root user. A policy learnt from a time in
//! which something did not happen does not allow it: rare jobs need a longer time.

use super::question::{Call, On, Question};
use super::state::Past;
use super::used::Used;
use super::{Replacement, judge};
use crate::people::role_of_session;
use crate::policy::{Administration, DOCUMENT_BYTES_MAX, KMS_ACTIONS, administration, lint};
use crate::row::Row;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Most different uses; a policy cannot hold more.
const USES_MAX: usize = 20_000;

/// Why there is no policy.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The log has no such key, or not its policy.
    #[error("the log has no key {0}")]
    NoKey(String),
    /// Nobody used it in that time.
    #[error("no call in that time was allowed by a policy")]
    NoCalls,
    /// They would not fit into any policy.
    #[error("more than {USES_MAX} different uses: take a shorter time")]
    TooMany,
    /// The statements are too long.
    #[error("what was used takes {0} bytes, more than the {DOCUMENT_BYTES_MAX} of a policy")]
    TooLong(usize),
    /// Groups and managed policies have no calls of their own.
    #[error("{0} is not the ARN of a user or role")]
    Arn(String),
}

/// What is learnt from.
#[derive(Clone)]
enum Subject {
    Key(String),
    Identity(String),
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Use {
    /// ARN of the user, or of the role of a session.
    principal: String,
    action: String,
    resource: String,
}

/// Uses, gathered from a log.
pub struct Usage {
    past: Past,
    subject: Subject,
    time_us: Range<u64>,
    used: BTreeMap<Use, Used>,
    by_grant: u64,
    overflow: bool,
}

impl Usage {
    /// Of a key, for its policy.
    pub fn of_key(key_arn: &str, time_us: Range<u64>) -> Self {
        Self::of(Subject::Key(key_arn.to_owned()), time_us)
    }

    /// By a user or role, for its policy.
    pub fn of_identity(arn: &str, time_us: Range<u64>) -> Result<Self, GenerateError> {
        let is_bearer = arn.starts_with("arn:aws:iam::") && (arn.contains(":user/") || arn.contains(":role/"));
        is_bearer
            .then(|| Self::of(Subject::Identity(arn.to_owned()), time_us))
            .ok_or_else(|| GenerateError::Arn(arn.to_owned()))
    }

    fn of(subject: Subject, time_us: Range<u64>) -> Self {
        let past = Past::new(Replacement::default());
        Self { past, subject, time_us, used: BTreeMap::new(), by_grant: 0, overflow: false }
    }

    /// The key whose calls alone matter, if it is one.
    pub fn only_key(&self) -> Option<&str> {
        match &self.subject {
            Subject::Key(arn) => Some(arn),
            Subject::Identity(_) => None,
        }
    }

    /// Calls that grants allowed: no statement is made for them.
    pub fn by_grant(&self) -> u64 {
        self.by_grant
    }

    /// Takes the next event of a log.
    pub fn take(&mut self, row: &Row<'_>) {
        if self.time_us.contains(&row.time_us) && !row.is_denied() && judge::asked_policies(row) {
            self.note(row);
        }
        self.past.take(row);
    }

    /// Goes on with the log of another node. The state at the end is that of the last log that has the key.
    pub fn next_log(&mut self) {
        let has_key = self.only_key().is_some_and(|arn| self.past.key(arn).is_some());
        if !has_key {
            self.past = Past::new(Replacement::default());
        }
    }

    fn note(&mut self, row: &Row<'_>) {
        let Some(arn) = row.principal_arn else { return };
        let principal = role_of_session(arn).unwrap_or_else(|| arn.to_owned());
        if matches!(&self.subject, Subject::Identity(wanted) if *wanted != principal) {
            return;
        }
        if row.decided_by.is_some_and(|decided_by| decided_by.starts_with("Grant/")) {
            self.by_grant += 1;
            return;
        }
        let call = Call::new(row, &self.past);
        // IAM's calls name what they are about in the whole event only.
        let service = row.event_source.split('.').next().unwrap_or_default();
        let anything = || vec![Question::new(format!("{service}:{}", row.event_name), On::Own("*"))];
        let questions = call.questions(&self.past).unwrap_or_else(|_| anything());
        for question in &questions {
            let (On::Key(resource) | On::Own(resource) | On::Retire(resource, _) | On::Role(resource)) = question.on;
            if self.only_key().is_some_and(|key| key != resource) {
                continue;
            }
            let name =
                Use { principal: principal.clone(), action: question.action.clone(), resource: resource.to_owned() };
            if self.used.len() >= USES_MAX && !self.used.contains_key(&name) {
                self.overflow = true;
                return;
            }
            let via = call.additional.via_service.as_ref().map(|text| &*text.0);
            let mfa = self.past.mfa(row);
            let decided_by = row.decided_by.unwrap_or_default();
            self.used.entry(name).or_default().take(question, via, mfa, decided_by);
        }
    }

    /// The policy. Without `conditions` it allows whatever was done under any circumstances.
    pub fn policy(&self, conditions: bool) -> Result<String, GenerateError> {
        if self.overflow {
            return Err(GenerateError::TooMany);
        }
        let statements = match &self.subject {
            Subject::Key(arn) => self.of_key_policy(arn, conditions)?,
            Subject::Identity(_) => self.of_identity_policy(conditions),
        };
        if self.used.is_empty() {
            return Err(GenerateError::NoCalls);
        }
        let policy = json!({"Version": "2012-10-17", "Statement": statements});
        let text = serde_json::to_string_pretty(&policy).unwrap_or_default();
        // AWS counts what it is sent; without the blanks there is room for more.
        let text = if text.len() > DOCUMENT_BYTES_MAX { policy.to_string() } else { text };
        if text.len() > DOCUMENT_BYTES_MAX {
            return Err(GenerateError::TooLong(text.len()));
        }
        Ok(text)
    }

    fn of_identity_policy(&self, conditions: bool) -> Vec<Value> {
        let mut grouped: BTreeMap<(String, Vec<String>), BTreeSet<String>> = BTreeMap::new();
        let mut by_resource: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
        for (name, used) in &self.used {
            let block = Value::from(used.conditions(conditions)).to_string();
            by_resource.entry((block, name.resource.clone())).or_default().push(name.action.clone());
        }
        for ((block, resource), actions) in by_resource {
            grouped.entry((block, actions)).or_default().insert(resource);
        }
        let statement = |((block, actions), resources): ((String, Vec<String>), BTreeSet<String>)| {
            let mut statement = json!({"Effect": "Allow", "Action": actions, "Resource": resources});
            with_condition(&mut statement, &block);
            statement
        };
        grouped.into_iter().map(statement).collect()
    }

    fn of_key_policy(&self, key_arn: &str, conditions: bool) -> Result<Vec<Value>, GenerateError> {
        let missing = || GenerateError::NoKey(key_arn.to_owned());
        let key = self.past.key(key_arn).ok_or_else(missing)?;
        let current = key.policy.as_ref().ok_or_else(missing)?;
        let json: Value = serde_json::from_str(&current.text).map_err(|_| missing())?;
        let administrative: Vec<String> = KMS_ACTIONS
            .iter()
            .map(|(name, _)| *name)
            .filter(|name| !lint::USE.contains(name) && *name != "CreateGrant" && super::who_can::is_on_key(name))
            .map(|name| format!("kms:{name}"))
            .collect();
        let users: BTreeSet<&str> =
            self.used.keys().filter(|name| is_use(&name.action)).map(|name| name.principal.as_str()).collect();
        let administration = administration(&current.document, &administrative);
        let account = &key.image.account;
        let mut statements = vec![root(account, &administration, &administrative, &users)];
        statements.extend(self.named(&json, &administration, &users));
        let by_account = administration.iter().find(|part| part.by_account).map(|part| part.actions.as_slice());
        let left = |name: &Use, used: &Used| {
            // Of the account's own administrators: their identity policies allow it, as they did.
            let own = name.principal.split(':').nth(4) == Some(account);
            let theirs = own && used.by_identity() && !users.contains(name.principal.as_str());
            theirs && by_account.is_some_and(|actions| actions.contains(&name.action))
        };
        statements.extend(self.of_uses(account, conditions, left));
        let denials = listed(&json).iter().filter(|statement| statement["Effect"] == "Deny");
        statements.extend(denials.cloned());
        number(&mut statements);
        Ok(statements)
    }

    /// Named administrators who do not use the key keep what they had of administration; writing the policy takes a second
    /// factor, unless the log has it without.
    fn named(&self, json: &Value, administration: &[Administration], users: &BTreeSet<&str>) -> Vec<Value> {
        let mut statements = Vec::new();
        for part in administration {
            let kept: Vec<&String> = part.principals.iter().filter(|arn| !users.contains(arn.as_str())).collect();
            let Some(former) = listed(json).get(part.statement).filter(|_| !kept.is_empty()) else { continue };
            let (writing, other): (Vec<_>, Vec<_>) =
                part.actions.iter().cloned().partition(|action| action == "kms:PutKeyPolicy");
            let mut plain = former.clone();
            if let Some(members) = plain.as_object_mut() {
                members.shift_remove("NotAction");
                members.shift_remove("Sid");
                members.insert("Principal".to_owned(), json!({"AWS": kept}));
                members.insert("Action".to_owned(), json!(other));
            }
            let mut with_mfa = plain.clone();
            with_mfa["Action"] = json!(writing);
            with_mfa["Condition"]["Bool"]["aws:MultiFactorAuthPresent"] = "true".into();
            statements.extend([plain, with_mfa].into_iter().filter(|s| s["Action"] != json!([])));
        }
        statements
    }

    /// One statement for each principal and set of conditions.
    fn of_uses(&self, account: &str, conditions: bool, left: impl Fn(&Use, &Used) -> bool) -> Vec<Value> {
        let mut grouped: BTreeMap<(&str, String), Vec<&str>> = BTreeMap::new();
        for (name, used) in self.used.iter().filter(|(name, used)| !left(name, used)) {
            let mut block = used.conditions(conditions && is_use(&name.action));
            if name.action == "kms:PutKeyPolicy" && used.always_with_mfa() {
                block.insert("Bool".to_owned(), json!({"aws:MultiFactorAuthPresent": "true"}));
            }
            if name.principal.ends_with(":root") {
                // As a principal the ARN would be the whole account.
                block.insert("ArnEquals".to_owned(), json!({"aws:PrincipalArn": name.principal}));
            }
            grouped.entry((&name.principal, Value::from(block).to_string())).or_default().push(&name.action);
        }
        let own_root = format!("arn:aws:iam::{account}:root");
        let statement = |((principal, block), actions): ((&str, String), Vec<&str>)| {
            let mut statement =
                json!({"Effect": "Allow", "Principal": {"AWS": principal}, "Action": actions, "Resource": "*"});
            with_condition(&mut statement, &block);
            statement
        };
        // What the account's root user does as administrator it may do by its own statement.
        let needed = grouped
            .into_iter()
            .filter(|((principal, _), actions)| *principal != own_root || actions.iter().any(|action| is_use(action)));
        needed.map(statement).collect()
    }
}

/// What keeps the key manageable: where the account decides today, it goes on deciding about administration, but not for
/// those who use the key; else its root user alone.
fn root(account: &str, administration: &[Administration], actions: &[String], users: &BTreeSet<&str>) -> Value {
    let arn = format!("arn:aws:iam::{account}:root");
    let by_account = administration.iter().find(|part| part.by_account);
    let actions = by_account.map_or(actions, |part| &part.actions);
    let mut statement = json!({"Effect": "Allow", "Principal": {"AWS": arn}, "Action": actions, "Resource": "*"});
    let users: Vec<&&str> = users.iter().filter(|user| **user != arn).collect();
    match by_account {
        Some(_) if users.is_empty() => {}
        Some(_) => statement["Condition"] = json!({"ArnNotEquals": {"aws:PrincipalArn": users}}),
        None => statement["Condition"] = json!({"ArnEquals": {"aws:PrincipalArn": arn}}),
    }
    statement
}

/// Whether an action uses a key, or lets others use it.
fn is_use(action: &str) -> bool {
    action.strip_prefix("kms:").is_some_and(|name| lint::USE.contains(&name) || name == "CreateGrant")
}

fn with_condition(statement: &mut Value, block: &str) {
    let block: Map<String, Value> = serde_json::from_str(block).unwrap_or_default();
    if !block.is_empty() {
        statement["Condition"] = block.into();
    }
}

fn listed(policy: &Value) -> &[Value] {
    match &policy["Statement"] {
        Value::Array(list) => list,
        single => std::slice::from_ref(single),
    }
}

/// Sids by which decisions name the statements, in front.
fn number(statements: &mut [Value]) {
    for (index, statement) in statements.iter_mut().enumerate() {
        let Value::Object(members) = statement else { continue };
        let sid = members.get("Sid").and_then(Value::as_str).filter(|_| members["Effect"] == "Deny");
        let sid = sid.map_or_else(|| format!("Generated{index}"), str::to_owned);
        let mut named = Map::from_iter([("Sid".to_owned(), Value::from(sid))]);
        named.extend(std::mem::take(members).into_iter().filter(|(name, _)| name != "Sid"));
        *members = named;
    }
}
