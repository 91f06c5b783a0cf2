//! The checks: what each looks for, and how it would write the document.

use super::super::action::KMS_ACTIONS;
use super::super::document::{Effect, Flavor, Principals, Statement};
use super::super::fact::{ConditionKey, Name};
use super::super::principal::{Closeness, Principal};
use super::super::public::{allows_outsiders, is_public};
use super::super::request::{PrincipalContext, PrincipalKind, Request};
use super::grid::callers_of;
use super::{Draft, Subject};
use serde_json::{Value, json};

/// Actions that work with a key's material.
pub(crate) const USE: [&str; 13] = [
    "Decrypt",
    "DeriveSharedSecret",
    "Encrypt",
    "GenerateDataKey",
    "GenerateDataKeyPair",
    "GenerateDataKeyPairWithoutPlaintext",
    "GenerateDataKeyWithoutPlaintext",
    "GenerateMac",
    "ReEncryptFrom",
    "ReEncryptTo",
    "Sign",
    "Verify",
    "VerifyMac",
];
/// What makes an administrator.
pub(crate) const ADMINISTER: [&str; 3] = ["DisableKey", "PutKeyPolicy", "ScheduleKeyDeletion"];

/// A right that leads to others.
struct Step {
    code: &'static str,
    action: &'static str,
    /// What can be done with it.
    leads: &'static str,
    /// Condition of the Deny that takes the dangerous part away.
    unless: fn() -> Value,
}

static STEPS: [Step; 3] = [
    Step {
        code: "escalates-by-policy",
        action: "PutKeyPolicy",
        leads: "may not decrypt, but may write a key policy that lets it, without a second factor",
        unless: || json!({"BoolIfExists": {"aws:MultiFactorAuthPresent": "false"}}),
    },
    Step {
        code: "unlimited-grants",
        action: "CreateGrant",
        leads: "may grant any operation to anyone, itself included",
        unless: || json!({"Bool": {"kms:GrantIsForAWSResource": "false"}}),
    },
    Step {
        code: "escalates-by-alias",
        action: "UpdateAlias",
        leads: "may point an alias at another key, so that whoever names the alias uses a key that it chose, without a second factor",
        unless: || json!({"BoolIfExists": {"aws:MultiFactorAuthPresent": "false"}}),
    },
];

/// Runs them all.
pub(super) fn all<'a>(subject: &'a Subject<'a>) -> Vec<Draft<'a>> {
    let mut drafts: Vec<Draft<'a>> = Vec::new();
    let public = subject.document.flavor == Flavor::KeyPolicy && is_public(subject.text).unwrap_or(true);
    for (index, statement) in subject.document.statements.iter().enumerate() {
        drafts.extend(all_actions(subject, index, statement));
        drafts.extend(deny_not_principal(subject, index, statement));
        drafts.extend(open_to_everyone(subject, index, statement).filter(|_| public));
        drafts.extend(alias_in_policy(subject, index, statement));
    }
    drafts.extend(default_unchanged(subject));
    drafts.extend(no_account_statement(subject));
    for holder in holders(subject) {
        drafts.extend(administers_and_uses(subject, &holder));
        drafts.extend(STEPS.iter().filter_map(|step| leads_further(subject, &holder, step)));
    }
    drafts
}

fn all_actions<'a>(subject: &'a Subject<'a>, index: usize, statement: &'a Statement) -> Option<Draft<'a>> {
    if statement.effect != Effect::Allow || !covers_everything(statement) || is_for_accounts(statement) {
        return None;
    }
    let actions = json!(["kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"]);
    Some(Draft {
        code: "all-actions",
        statement: Some(statement),
        message: "allows every action, today's and tomorrow's: name those that are needed".to_owned(),
        shows: Box::new(move |request| request.action == "kms:ScheduleKeyDeletion" && covers(statement, request)),
        corrected: vec![subject.with(index, |members| {
            members.shift_remove("NotAction");
            members.insert("Action".to_owned(), actions);
        })],
        adds: false,
    })
}

fn deny_not_principal<'a>(subject: &'a Subject<'a>, index: usize, statement: &'a Statement) -> Option<Draft<'a>> {
    let Principals::AllBut(entries) = &statement.principals else { return None };
    if statement.effect != Effect::Deny {
        return None;
    }
    Some(Draft {
        code: "deny-not-principal",
        statement: Some(statement),
        message: "a Deny with NotPrincipal also meets those it names when their account or role is not named beside \
                  them: write a Deny for * with a condition on aws:PrincipalArn"
            .to_owned(),
        shows: Box::new(move |request| {
            !statement.principals.deny_names(request.principal, false)
                && statement.covers_action(&request.action.to_ascii_lowercase())
        }),
        corrected: vec![subject.with(index, |members| except_by_condition(members, entries))],
        adds: false,
    })
}

/// Excepted are those whom the NotPrincipal really excepts: roots of its accounts and users named beside their account.
fn except_by_condition(members: &mut serde_json::Map<String, Value>, entries: &[Principal]) {
    let accounts: Vec<&str> = entries.iter().filter_map(account_of).collect();
    let mut excepted: Vec<String> = accounts.iter().map(|account| format!("arn:aws:iam::{account}:root")).collect();
    excepted.extend(entries.iter().filter_map(|entry| match entry {
        Principal::Arn(arn) if accounts.iter().any(|a| arn.starts_with(&format!("arn:aws:iam::{a}:user/"))) => {
            Some(arn.clone())
        }
        _ => None,
    }));
    members.shift_remove("NotPrincipal");
    members.insert("Principal".to_owned(), "*".into());
    if !excepted.is_empty() {
        add_condition(members, "ArnNotEquals", "aws:PrincipalArn", json!(excepted));
    }
}

fn open_to_everyone<'a>(subject: &'a Subject<'a>, index: usize, statement: &'a Statement) -> Option<Draft<'a>> {
    if !allows_outsiders(statement) {
        return None;
    }
    let account = subject.account;
    Some(Draft {
        code: "open-to-everyone",
        statement: Some(statement),
        message: "names everyone, and no condition ties the caller to an account or principal".to_owned(),
        shows: Box::new(move |request| request.principal.account != account && covers(statement, request)),
        corrected: vec![subject.with(index, |members| {
            add_condition(members, "StringEquals", "kms:CallerAccount", json!(account));
        })],
        adds: false,
    })
}

fn alias_in_policy<'a>(subject: &'a Subject<'a>, index: usize, statement: &'a Statement) -> Option<Draft<'a>> {
    let is_alias = |key: &ConditionKey| matches!(key, ConditionKey::Plain(Name::RequestAlias | Name::ResourceAliases));
    let by_condition = statement.conditions.iter().any(|condition| is_alias(&condition.key));
    let by_resource = subject.resources(index).any(|resource| resource.contains(":alias/"))
        && USE.iter().any(|name| covers_name(statement, name));
    let message = match (by_condition, by_resource) {
        (true, _) => "depends on an alias: whoever may move or make aliases decides what it covers",
        (_, true) => "names an alias as resource of key operations: it never applies to the key behind the alias",
        _ => return None,
    };
    let mut without = subject.json.clone();
    statements(&mut without).remove(index);
    let others = subject.resources(index).any(|resource| !resource.contains(":alias/"));
    let corrected = match statement.effect {
        // Which keys were meant is not in the document: only what does not depend on an alias can be kept.
        Effect::Allow if others && !by_condition => vec![subject.with(index, drop_alias_resources)],
        Effect::Allow => vec![without],
        Effect::Deny if by_condition => vec![subject.with(index, drop_alias_conditions)],
        Effect::Deny => Vec::new(),
    };
    Some(Draft {
        code: "alias-in-policy",
        statement: Some(statement),
        message: message.to_owned(),
        shows: Box::new(move |request| by_condition && covers(statement, request)),
        corrected,
        adds: false,
    })
}

fn drop_alias_resources(members: &mut serde_json::Map<String, Value>) {
    if let Some(Value::Array(list)) = members.get_mut("Resource") {
        list.retain(|resource| !resource.as_str().is_some_and(|text| text.contains(":alias/")));
    }
}

fn drop_alias_conditions(members: &mut serde_json::Map<String, Value>) {
    if let Some(Value::Object(operators)) = members.get_mut("Condition") {
        for keys in operators.values_mut().filter_map(Value::as_object_mut) {
            keys.retain(|key, _| !matches!(key.to_lowercase().as_str(), "kms:requestalias" | "kms:resourcealiases"));
        }
        operators.retain(|_, keys| keys.as_object().is_some_and(|keys| !keys.is_empty()));
    }
}

fn default_unchanged<'a>(subject: &'a Subject<'a>) -> Option<Draft<'a>> {
    let [statement] = subject.document.statements.as_slice() else { return None };
    let is_default = statement.effect == Effect::Allow
        && is_for_accounts(statement)
        && covers_everything(statement)
        && statement.conditions.is_empty();
    if !is_default {
        return None;
    }
    let keep = |name: &str| !USE.contains(&name) && name != "CreateGrant";
    let kept = KMS_ACTIONS.iter().map(|(name, _)| *name).filter(|name| keep(name));
    let actions: Vec<String> = kept.map(|name| format!("kms:{name}")).collect();
    Some(Draft {
        code: "default-unchanged",
        statement: Some(statement),
        message: "is the default policy: every identity policy of the account that allows kms:Decrypt reaches this key"
            .to_owned(),
        shows: Box::new(|request| request.action == "kms:Decrypt" && request.principal.kind == PrincipalKind::User),
        corrected: vec![subject.with(0, |members| {
            members.insert("Action".to_owned(), json!(actions));
        })],
        adds: false,
    })
}

fn no_account_statement<'a>(subject: &'a Subject<'a>) -> Option<Draft<'a>> {
    let account = subject.account;
    let root = move |request: &Request<'_>| {
        let principal = request.principal;
        request.action == "kms:PutKeyPolicy" && principal.account == account && principal.kind == PrincipalKind::Root
    };
    if subject.document.flavor != Flavor::KeyPolicy || subject.grid.find(subject.document, root).is_some() {
        return None;
    }
    let arn = format!("arn:aws:iam::{account}:root");
    let corrected = subject.adding(json!({
        "Effect": "Allow",
        "Principal": {"AWS": arn},
        "Action": ["kms:DescribeKey", "kms:GetKeyPolicy", "kms:PutKeyPolicy"],
        "Resource": "*",
        "Condition": {"ArnEquals": {"aws:PrincipalArn": arn}}
    }));
    Some(Draft {
        code: "no-account-statement",
        statement: None,
        message: "lets the account's root user not change the policy: when the principals that it names are gone, \
                  nobody can"
            .to_owned(),
        shows: Box::new(|_| false),
        corrected: vec![corrected],
        adds: true,
    })
}

/// Whoever gets rights of its own from the document: a principal that a key policy names, or the bearer.
struct Holder {
    name: String,
    arn: Option<String>,
    callers: Vec<PrincipalContext>,
}

impl Holder {
    fn is(&self, caller: &PrincipalContext) -> bool {
        match &self.arn {
            None => true,
            Some(_) => self.callers.iter().any(|own| own.arn == caller.arn),
        }
    }
}

fn holders(subject: &Subject<'_>) -> Vec<Holder> {
    if subject.document.flavor == Flavor::IdentityPolicy {
        return vec![Holder { name: "its bearer".to_owned(), arn: None, callers: Vec::new() }];
    }
    let mut arns: Vec<&String> = Vec::new();
    for statement in subject.document.statements.iter().filter(|statement| statement.effect == Effect::Allow) {
        let Principals::These(entries) = &statement.principals else { continue };
        let named = entries.iter().filter_map(|entry| if let Principal::Arn(arn) = entry { Some(arn) } else { None });
        named.for_each(|arn| {
            if !arns.contains(&arn) {
                arns.push(arn)
            }
        });
    }
    let holder = |arn: &String| Holder { name: arn.clone(), arn: Some(arn.clone()), callers: callers_of(arn) };
    arns.into_iter().map(holder).collect()
}

fn administers_and_uses<'a>(subject: &'a Subject<'a>, holder: &Holder) -> Option<Draft<'a>> {
    let administers = subject.allowing(holder, &ADMINISTER)?;
    let statement = subject.allowing(holder, &USE)?;
    let callers: Vec<String> = holder.callers.iter().map(|caller| caller.arn.clone()).collect();
    let name = &holder.name;
    Some(Draft {
        code: "administers-and-uses",
        statement: Some(statement),
        message: format!("{name} uses the key by this statement and administers it by {}", administers.label),
        shows: Box::new(move |request| {
            (callers.is_empty() || callers.contains(&request.principal.arn)) && is_one_of(request.action, &USE)
        }),
        corrected: vec![subject.denying(holder, &USE, None)],
        adds: false,
    })
}

fn leads_further<'a>(subject: &'a Subject<'a>, holder: &Holder, step: &'static Step) -> Option<Draft<'a>> {
    let action = format!("kms:{}", step.action);
    // Whoever decrypts already gains nothing by a policy of its own.
    if step.action == "PutKeyPolicy" && subject.allowing(holder, &["Decrypt"]).is_some() {
        return None;
    }
    let statement = subject.allowing(holder, &[step.action])?;
    let callers: Vec<String> = holder.callers.iter().map(|caller| caller.arn.clone()).collect();
    let plainly = move |request: &Request<'_>| {
        let without_mfa = !matches!(request.principal.mfa, super::super::request::Mfa::At(_));
        let own = callers.is_empty() || callers.contains(&request.principal.arn);
        own && without_mfa && request.context.via_service.is_none() && request.action == action
    };
    subject.grid.find(subject.document, &plainly)?;
    Some(Draft {
        code: step.code,
        statement: Some(statement),
        message: format!("{} {}", holder.name, step.leads),
        shows: Box::new(plainly),
        corrected: vec![subject.denying(holder, &[step.action], Some((step.unless)()))],
        adds: false,
    })
}

impl Subject<'_> {
    /// The statement by which the document allows the holder one of these actions.
    fn allowing(&self, holder: &Holder, names: &[&str]) -> Option<&Statement> {
        let wanted = |request: &Request<'_>| holder.is(request.principal) && is_one_of(request.action, names);
        let mut allows = self.document.statements.iter().filter(|statement| statement.effect == Effect::Allow);
        allows.find(|statement| {
            self.grid.find(self.document, |request| wanted(request) && covers(statement, request)).is_some()
        })
    }

    fn resources(&self, index: usize) -> impl Iterator<Item = &str> {
        let list = match self.json.get("Statement") {
            Some(Value::Array(list)) => list.get(index),
            single => single,
        };
        let resource = list.and_then(|statement| statement.get("Resource"));
        let many = resource.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        many.chain(resource.and_then(Value::as_str))
    }

    /// The document with one statement changed.
    fn with(&self, index: usize, change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> Value {
        let mut json = self.json.clone();
        if let Some(Value::Object(members)) = statements(&mut json).get_mut(index) {
            change(members);
        }
        json
    }

    fn adding(&self, statement: Value) -> Value {
        let mut json = self.json.clone();
        statements(&mut json).push(statement);
        json
    }

    fn denying(&self, holder: &Holder, names: &[&str], condition: Option<Value>) -> Value {
        let actions: Vec<String> = names.iter().map(|name| format!("kms:{name}")).collect();
        let principal = holder.arn.iter().map(|arn| ("Principal", json!({"AWS": arn})));
        let condition = condition.into_iter().map(|condition| ("Condition", condition));
        let fixed = [("Effect", json!("Deny")), ("Action", json!(actions)), ("Resource", json!("*"))];
        let members = fixed.into_iter().chain(principal).chain(condition);
        self.adding(members.map(|(name, value)| (name.to_owned(), value)).collect())
    }
}

/// The statements of a document that was parsed, as a list.
fn statements(json: &mut Value) -> &mut Vec<Value> {
    let member = &mut json["Statement"];
    if !member.is_array() {
        *member = Value::Array(vec![member.take()]);
    }
    member.as_array_mut().expect("it was just made one")
}

fn add_condition(members: &mut serde_json::Map<String, Value>, operator: &str, key: &str, value: Value) {
    let Value::Object(operators) = members.entry("Condition").or_insert_with(|| json!({})) else { return };
    let Value::Object(keys) = operators.entry(operator).or_insert_with(|| json!({})) else { return };
    keys.insert(key.to_owned(), value);
}

fn is_one_of(action: &str, names: &[&str]) -> bool {
    action.strip_prefix("kms:").is_some_and(|name| names.contains(&name))
}

fn covers_name(statement: &Statement, name: &str) -> bool {
    statement.covers_action(&format!("kms:{}", name.to_ascii_lowercase()))
}

fn covers_everything(statement: &Statement) -> bool {
    KMS_ACTIONS.iter().all(|(name, _)| covers_name(statement, name))
}

fn covers(statement: &Statement, request: &Request<'_>) -> bool {
    statement.principals.allow_closeness(request.principal) != Closeness::No
        && statement.applies(request, &request.action.to_ascii_lowercase())
}

fn account_of(entry: &Principal) -> Option<&str> {
    if let Principal::Account(account) = entry { Some(account) } else { None }
}

/// Whether a statement trusts accounts and nobody else: they decide by their identity policies.
fn is_for_accounts(statement: &Statement) -> bool {
    match &statement.principals {
        Principals::These(entries) => entries.iter().all(|entry| account_of(entry).is_some()),
        Principals::Attached | Principals::AllBut(_) => false,
    }
}
