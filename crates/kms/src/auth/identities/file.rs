//! The shapes of `identities.toml` and the checks between its entries.
//!
//! TOML's own error texts quote the file, which holds secrets; only those that name fields are passed on.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{self, SHA256};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, Visitor};
use serde_json::{Value, json};

use super::{ADMINISTRATOR_ACCESS, AccessKey, Identities, IdentitiesError, Principal};
use crate::auth::credentials::{SecretKey, is_access_key_id};
use crate::policy::{Document, Flavor, NamedDocument, PrincipalContext, PrincipalKind};

const ADMINISTRATOR_DOCUMENT: &str =
    r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}"#;

/// Base32 as AWS uses it in ids.
const ID_ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct Shape {
    account: Vec<AccountShape>,
    policy: Vec<PolicyShape>,
    group: Vec<GroupShape>,
    user: Vec<UserShape>,
    access_key: Vec<AccessKeyShape>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AccountShape {
    id: String,
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyShape {
    account: String,
    name: String,
    document: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupShape {
    account: String,
    name: String,
    #[serde(default)]
    policies: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserShape {
    account: String,
    name: String,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    policies: Vec<String>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    id: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AccessKeyShape {
    id: String,
    secret: Secret,
    account: String,
    user: Option<String>,
    #[serde(default)]
    root: bool,
    #[serde(default)]
    status: Status,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
enum Status {
    #[default]
    Active,
    Inactive,
}

/// Goes from the parser straight into its own type.
struct Secret(SecretKey);

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SecretVisitor;
        impl Visitor<'_> for SecretVisitor {
            type Value = Secret;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a secret access key")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Secret, E> {
                self.visit_string(text.to_owned())
            }

            fn visit_string<E: serde::de::Error>(self, text: String) -> Result<Secret, E> {
                SecretKey::new(text).map(Secret).map_err(|_| E::custom("malformed secret"))
            }
        }
        deserializer.deserialize_string(SecretVisitor).map_err(|_| D::Error::custom("malformed secret"))
    }
}

/// Named documents, by account and name.
type Policies = HashMap<(String, String), Arc<Document>>;
/// Names of a group's policies, with their documents, by account and name.
type Groups = HashMap<(String, String), Vec<NamedDocument>>;

pub(super) fn parse(text: &str) -> Result<Identities, IdentitiesError> {
    let shape: Shape = toml::from_str(text).map_err(|error| syntax(text, &error))?;
    let accounts = accounts(&shape.account)?;
    let policies = policies(&shape.policy, &accounts)?;
    let groups = groups(&shape.group, &accounts, &policies)?;
    let principals = principals(&shape.user, &accounts, &policies, &groups)?;
    let public = public(&shape, &principals);
    let access_keys = access_keys(shape.access_key, &accounts, &principals)?;
    let (content_hash, private_hash) = Identities::hash(&public, &access_keys);
    Ok(Identities { accounts, principals, access_keys, public, content_hash, private_hash })
}

fn accounts(shapes: &[AccountShape]) -> Result<BTreeMap<String, Option<String>>, IdentitiesError> {
    let mut accounts = BTreeMap::new();
    for AccountShape { id, name } in shapes {
        if id.len() != 12 || !id.bytes().all(|b| b.is_ascii_digit()) {
            return Err(entry("account", id, "an account id has twelve digits"));
        }
        if accounts.insert(id.clone(), name.clone()).is_some() {
            return Err(entry("account", id, "appears twice"));
        }
    }
    Ok(accounts)
}

fn policies(shapes: &[PolicyShape], accounts: &BTreeMap<String, Option<String>>) -> Result<Policies, IdentitiesError> {
    let mut policies = Policies::new();
    for account in accounts.keys() {
        let document = document(ADMINISTRATOR_ACCESS, ADMINISTRATOR_DOCUMENT)?;
        policies.insert((account.clone(), ADMINISTRATOR_ACCESS.to_owned()), document);
    }
    for PolicyShape { account, name, document: text } in shapes {
        let label = check_name("policy", account, name, accounts)?;
        let document = document(&label, text)?;
        if policies.insert((account.clone(), name.clone()), document).is_some() {
            return Err(entry("policy", &label, "appears twice, or has a built-in name"));
        }
    }
    Ok(policies)
}

fn groups(
    shapes: &[GroupShape],
    accounts: &BTreeMap<String, Option<String>>,
    policies: &Policies,
) -> Result<Groups, IdentitiesError> {
    let mut groups = Groups::new();
    for GroupShape { account, name, policies: wanted } in shapes {
        let label = check_name("group", account, name, accounts)?;
        let attached = attached(&format!("group {label}"), account, name, wanted, policies)?;
        if groups.insert((account.clone(), name.clone()), attached).is_some() {
            return Err(entry("group", &label, "appears twice"));
        }
    }
    Ok(groups)
}

/// Users, and the root user of each account, by ARN.
fn principals(
    shapes: &[UserShape],
    accounts: &BTreeMap<String, Option<String>>,
    policies: &Policies,
    groups: &Groups,
) -> Result<BTreeMap<String, Arc<Principal>>, IdentitiesError> {
    let mut principals: BTreeMap<String, Arc<Principal>> =
        accounts.keys().map(|account| (root_arn(account), Arc::new(root(account)))).collect();
    let mut ids = HashSet::new();
    for shape in shapes {
        let UserShape { account, name, .. } = shape;
        let label = check_name("user", account, name, accounts)?;
        let principal = user(shape, &label, policies, groups)?;
        if !ids.insert(principal.context.user_id.clone()) {
            return Err(entry("user", &label, "has the principal id of another user"));
        }
        if principals.insert(user_arn(account, name), Arc::new(principal)).is_some() {
            return Err(entry("user", &label, "appears twice"));
        }
    }
    Ok(principals)
}

fn user(shape: &UserShape, label: &str, policies: &Policies, groups: &Groups) -> Result<Principal, IdentitiesError> {
    let UserShape { account, name, groups: memberships, policies: wanted, tags, id } = shape;
    let mut documents = attached(&format!("user {label}"), account, name, wanted, policies)?;
    for group in memberships {
        let found = groups.get(&(account.clone(), group.clone()));
        let found = found.ok_or_else(|| entry("user", label, &format!("group '{group}' does not exist")))?;
        documents.extend(found.iter().cloned());
    }
    let user_id = match id {
        Some(id) if id.starts_with("AIDA") && is_access_key_id(id) => id.clone(),
        Some(_) => return Err(entry("user", label, "id is not AIDA and 12 or more upper-case letters and digits")),
        None => derived_id(account, name),
    };
    let context = PrincipalContext {
        arn: user_arn(account, name),
        account: account.clone(),
        kind: PrincipalKind::User,
        user_id,
        user_name: Some(name.clone()),
        groups: memberships.clone(),
        mfa_age_secs: None,
        tags: tags.clone(),
    };
    Ok(Principal { context, policies: documents })
}

fn root(account: &str) -> Principal {
    let context = PrincipalContext {
        arn: root_arn(account),
        account: account.to_owned(),
        kind: PrincipalKind::Root,
        user_id: account.to_owned(),
        ..PrincipalContext::default()
    };
    Principal { context, policies: Vec::new() }
}

fn access_keys(
    shapes: Vec<AccessKeyShape>,
    accounts: &BTreeMap<String, Option<String>>,
    principals: &BTreeMap<String, Arc<Principal>>,
) -> Result<HashMap<String, AccessKey>, IdentitiesError> {
    let mut keys = HashMap::new();
    for AccessKeyShape { id, secret, account, user, root, status } in shapes {
        if !is_access_key_id(&id) {
            return Err(entry(
                "access_key",
                "with a malformed id",
                "an id has 16 to 128 upper-case letters and digits",
            ));
        }
        if !accounts.contains_key(&account) {
            return Err(entry("access_key", &id, "its account does not exist"));
        }
        let arn = match (&user, root) {
            (Some(user), false) => user_arn(&account, user),
            (None, true) => root_arn(&account),
            (Some(_), true) | (None, false) => {
                return Err(entry("access_key", &id, "needs either user or root = true"));
            }
        };
        let principal = principals.get(&arn).ok_or_else(|| entry("access_key", &id, "its user does not exist"))?;
        let key = AccessKey { secret: secret.0, active: status == Status::Active, principal: principal.clone() };
        if keys.insert(id.clone(), key).is_some() {
            return Err(entry("access_key", &id, "appears twice"));
        }
    }
    Ok(keys)
}

/// Policies of a user or group: names of its account's policies, and documents in place as `<owner>#<index>`.
fn attached(
    label: &str,
    account: &str,
    owner: &str,
    wanted: &[String],
    policies: &Policies,
) -> Result<Vec<NamedDocument>, IdentitiesError> {
    let mut documents = Vec::with_capacity(wanted.len());
    for (index, text) in wanted.iter().enumerate() {
        let (name, document) = if is_inline(text) {
            let name = inline_name(owner, index);
            let document = document(&format!("{label}, policy {name}"), text)?;
            (name, document)
        } else {
            let found = policies.get(&(account.to_owned(), text.clone()));
            let reason = "names a policy that does not exist in its account";
            let missing = || IdentitiesError::Entry { entry: label.to_owned(), reason: format!("{reason}: '{text}'") };
            (text.clone(), found.ok_or_else(missing)?.clone())
        };
        documents.push(NamedDocument { name, document });
    }
    Ok(documents)
}

fn document(label: &str, text: &str) -> Result<Arc<Document>, IdentitiesError> {
    let parsed = Document::parse(text, Flavor::IdentityPolicy);
    parsed.map(Arc::new).map_err(|source| IdentitiesError::Policy { entry: label.to_owned(), source })
}

/// Checks account and name; gives `account/name`.
fn check_name(
    kind: &str,
    account: &str,
    name: &str,
    accounts: &BTreeMap<String, Option<String>>,
) -> Result<String, IdentitiesError> {
    let label = format!("{account}/{name}");
    if !accounts.contains_key(account) {
        return Err(entry(kind, &label, "its account does not exist"));
    }
    // IAM's own set: nothing that would need quoting in an ARN, a mail or a shell.
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b);
    if !(1..=64).contains(&name.len()) || !name.bytes().all(plain) {
        return Err(entry(kind, &label, "a name has 1 to 64 letters, digits and characters of +=,.@_-"));
    }
    Ok(label)
}

/// Everything but secrets, each list sorted by account and name.
fn public(shape: &Shape, principals: &BTreeMap<String, Arc<Principal>>) -> Value {
    let json_of = |text: &str| serde_json::from_str(text).unwrap_or(Value::Null);
    let listed = |owner: &str, policies: &[String]| -> Vec<Value> {
        let policies = policies.iter().enumerate();
        let one = policies.map(|(index, text)| match is_inline(text) {
            true => json!({"policyName": inline_name(owner, index), "policyDocument": json_of(text)}),
            false => json!({"policyName": text}),
        });
        one.collect()
    };
    let accounts = shape.account.iter().map(|a| ((a.id.as_str(), ""), json!({"accountId": a.id, "name": a.name})));
    let policies = shape.policy.iter().map(|p| {
        let document = json_of(&p.document);
        (
            (p.account.as_str(), p.name.as_str()),
            json!({"accountId": p.account, "policyName": p.name, "policyDocument": document}),
        )
    });
    let groups = shape.group.iter().map(|g| {
        let value = json!({"accountId": g.account, "groupName": g.name, "policies": listed(&g.name, &g.policies)});
        ((g.account.as_str(), g.name.as_str()), value)
    });
    let users = shape.user.iter().map(|u| {
        let arn = user_arn(&u.account, &u.name);
        let user_id = principals.get(&arn).map(|principal| principal.context.user_id.clone());
        let value = json!({
            "accountId": u.account, "userName": u.name, "arn": arn, "userId": user_id, "groups": u.groups,
            "policies": listed(&u.name, &u.policies), "tags": u.tags,
        });
        ((u.account.as_str(), u.name.as_str()), value)
    });
    let access_keys = shape.access_key.iter().map(|k| {
        let status = match k.status {
            Status::Active => "Active",
            Status::Inactive => "Inactive",
        };
        let arn = k.user.as_ref().map_or_else(|| root_arn(&k.account), |user| user_arn(&k.account, user));
        let value = json!({"accessKeyId": k.id, "accountId": k.account, "arn": arn, "status": status});
        ((k.account.as_str(), k.id.as_str()), value)
    });
    json!({
        "accounts": sorted(accounts),
        "policies": sorted(policies),
        "groups": sorted(groups),
        "users": sorted(users),
        "accessKeys": sorted(access_keys),
    })
}

fn sorted<'a>(entries: impl Iterator<Item = ((&'a str, &'a str), Value)>) -> Vec<Value> {
    entries.collect::<BTreeMap<_, _>>().into_values().collect()
}

fn is_inline(text: &str) -> bool {
    text.trim_start().starts_with('{')
}

fn inline_name(owner: &str, index: usize) -> String {
    format!("{owner}#{index}")
}

fn user_arn(account: &str, name: &str) -> String {
    format!("arn:aws:iam::{account}:user/{name}")
}

fn root_arn(account: &str) -> String {
    format!("arn:aws:iam::{account}:root")
}

/// A user's stable id: the same for the same account and name, so that a file without ids keeps them.
fn derived_id(account: &str, name: &str) -> String {
    let hash = digest::digest(&SHA256, format!("keytrail user id v1\n{account}\n{name}").as_bytes());
    let tail = hash.as_ref().iter().take(17).map(|byte| char::from(ID_ALPHABET[usize::from(byte % 32)]));
    "AIDA".chars().chain(tail).collect()
}

fn entry(kind: &str, name: &str, reason: &str) -> IdentitiesError {
    IdentitiesError::Entry { entry: format!("{kind} {name}"), reason: reason.to_owned() }
}

fn syntax(text: &str, error: &toml::de::Error) -> IdentitiesError {
    let start = error.span().map_or(0, |span| span.start.min(text.len()));
    let line = 1 + text.as_bytes().iter().take(start).filter(|byte| **byte == b'\n').count();
    let message = error.message();
    // The others may quote a value, and the value may be a secret in the wrong place.
    let safe = ["unknown field", "missing field", "duplicate key", "malformed secret"];
    let first = message.lines().next().unwrap_or_default();
    let reason =
        if safe.iter().any(|head| first.starts_with(head)) { first } else { "not TOML, or a value of a wrong type" };
    IdentitiesError::Syntax { line, reason: reason.to_owned() }
}
