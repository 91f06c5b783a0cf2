//! The shapes of `identities.toml` and the checks between its entries.
//!
//! TOML's own error texts quote the file, which holds secrets; only those that name fields are passed on.

mod listing;
mod recorded;

pub(super) use recorded::parse_recorded;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{self, SHA256};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, Visitor};
use serde_json::{Value, json};

use super::service::{self, ServiceKeyShape, service_keys};
use super::{ADMINISTRATOR_ACCESS, AccessKey, Identities, IdentitiesError, Principal, Role};
use super::{mfa_arn, role_arn, root_arn, user_arn};
use crate::auth::credentials::{SecretKey, is_access_key_id};
use crate::auth::totp::Seed;
use crate::policy::{Document, Flavor, NamedDocument, PrincipalContext, PrincipalKind};

const ADMINISTRATOR_DOCUMENT: &str =
    r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}"#;

/// Longest sessions of a role in seconds: AWS's bounds and default.
const SESSION_SECS: std::ops::RangeInclusive<u64> = 3_600..=43_200;
const SESSION_SECS_USUAL: u64 = 3_600;

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
    role: Vec<RoleShape>,
    access_key: Vec<AccessKeyShape>,
    service_key: Vec<ServiceKeyShape>,
    mfa_device: Vec<MfaDeviceShape>,
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
    permissions_boundary: Option<String>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    id: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleShape {
    account: String,
    name: String,
    trust: String,
    #[serde(default)]
    policies: Vec<String>,
    permissions_boundary: Option<String>,
    max_session_secs: Option<u64>,
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MfaDeviceShape {
    account: String,
    name: String,
    user: Option<String>,
    #[serde(default)]
    root: bool,
    seed: SeedText,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(super) enum Status {
    #[default]
    Active,
    Inactive,
}

impl Status {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Active => "Active",
            Self::Inactive => "Inactive",
        }
    }
}

/// Goes from the parser straight into its own type.
pub(super) struct Secret(pub(super) SecretKey);

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

/// Goes from the parser straight into its own type.
struct SeedText(Seed);

impl<'de> Deserialize<'de> for SeedText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SeedVisitor;
        impl Visitor<'_> for SeedVisitor {
            type Value = SeedText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a seed in Base32")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<SeedText, E> {
                Seed::from_base32(text).map(SeedText).ok_or_else(|| E::custom("malformed secret"))
            }
        }
        deserializer.deserialize_string(SeedVisitor).map_err(|_| D::Error::custom("malformed secret"))
    }
}

/// Named documents, by account and name.
pub(super) type Policies = HashMap<(String, String), Arc<Document>>;
/// Names of a group's policies, with their documents, by account and name.
type Groups = HashMap<(String, String), Vec<NamedDocument>>;

pub(super) fn parse(text: &str) -> Result<Identities, IdentitiesError> {
    identities(toml::from_str(text).map_err(|error| syntax(text, &error))?)
}

fn identities(shape: Shape) -> Result<Identities, IdentitiesError> {
    let accounts = accounts(&shape.account)?;
    let policies = policies(&shape.policy, &accounts)?;
    let groups = groups(&shape.group, &accounts, &policies)?;
    let principals = principals(&shape.user, &accounts, &policies, &groups)?;
    let roles = roles(&shape.role, &accounts, &policies)?;
    let public = public(&shape, &principals, &roles);
    let entities =
        listing::entities(&shape).map_err(|source| IdentitiesError::Policy { entry: "an entry".to_owned(), source })?;
    let access_keys = access_keys(shape.access_key, &accounts, &principals)?;
    let service_keys = service_keys(shape.service_key, &accounts, &access_keys)?;
    let mfa_devices = mfa_devices(shape.mfa_device, &accounts, &principals)?;
    let (content_hash, private_hash) = Identities::hash(&public, &access_keys, &service_keys, &mfa_devices);
    Ok(Identities {
        accounts,
        policies,
        principals,
        roles,
        access_keys,
        service_keys,
        mfa_devices,
        entities,
        public,
        content_hash,
        private_hash,
    })
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
    let UserShape { account, name, groups: memberships, policies: wanted, permissions_boundary, tags, .. } = shape;
    let mut documents = attached(&format!("user {label}"), account, name, wanted, policies)?;
    for group in memberships {
        let found = groups.get(&(account.clone(), group.clone()));
        let found = found.ok_or_else(|| entry("user", label, &format!("group '{group}' does not exist")))?;
        documents.extend(found.iter().cloned());
    }
    let user_id = user_id(shape);
    if !(user_id.starts_with("AIDA") && is_access_key_id(&user_id)) {
        return Err(entry("user", label, "id is not AIDA and 12 or more upper-case letters and digits"));
    }
    let boundary = boundary(&format!("user {label}"), account, name, permissions_boundary.as_ref(), policies)?;
    let context = PrincipalContext {
        arn: user_arn(account, name),
        account: account.clone(),
        kind: PrincipalKind::User,
        user_id,
        user_name: Some(name.clone()),
        groups: memberships.clone(),
        tags: tags.clone(),
        ..PrincipalContext::default()
    };
    Ok(Principal { context, policies: documents.into(), boundary, session: None })
}

fn roles(
    shapes: &[RoleShape],
    accounts: &BTreeMap<String, Option<String>>,
    policies: &Policies,
) -> Result<BTreeMap<String, Arc<Role>>, IdentitiesError> {
    let mut roles = BTreeMap::new();
    let mut ids = HashSet::new();
    for shape in shapes {
        let label = check_name("role", &shape.account, &shape.name, accounts)?;
        let role = role(shape, &label, policies)?;
        if !ids.insert(role.id.clone()) {
            return Err(entry("role", &label, "has the principal id of another role"));
        }
        if roles.insert(role.arn.clone(), Arc::new(role)).is_some() {
            return Err(entry("role", &label, "appears twice"));
        }
    }
    Ok(roles)
}

fn role(shape: &RoleShape, label: &str, policies: &Policies) -> Result<Role, IdentitiesError> {
    let RoleShape { account, name, trust, policies: wanted, permissions_boundary, max_session_secs, tags, id } = shape;
    let kind = format!("role {label}");
    let parsed = Document::parse(trust, Flavor::TrustPolicy);
    let trust = parsed.map_err(|source| IdentitiesError::Policy { entry: format!("{kind}, trust"), source })?;
    let max_session_secs = max_session_secs.unwrap_or(SESSION_SECS_USUAL);
    if !SESSION_SECS.contains(&max_session_secs) {
        return Err(entry("role", label, "max_session_secs is not between 3600 and 43200"));
    }
    let id = match id {
        Some(id) if id.starts_with("AROA") && is_access_key_id(id) => id.clone(),
        Some(_) => return Err(entry("role", label, "id is not AROA and 12 or more upper-case letters and digits")),
        None => derived_id("role", "AROA", account, name),
    };
    Ok(Role {
        arn: role_arn(account, name),
        id,
        account: account.clone(),
        name: name.clone(),
        trust: Arc::new(trust),
        policies: attached(&kind, account, name, wanted, policies)?.into(),
        boundary: boundary(&kind, account, name, permissions_boundary.as_ref(), policies)?,
        max_session_secs,
        tags: tags.clone(),
    })
}

/// A permissions boundary: the name of a policy, or a document in place.
fn boundary(
    label: &str,
    account: &str,
    owner: &str,
    wanted: Option<&String>,
    policies: &Policies,
) -> Result<Option<NamedDocument>, IdentitiesError> {
    let Some(text) = wanted else { return Ok(None) };
    let mut found =
        attached(&format!("{label}, permissions boundary"), account, owner, std::slice::from_ref(text), policies)?;
    Ok(found.pop())
}

fn root(account: &str) -> Principal {
    let context = PrincipalContext {
        arn: root_arn(account),
        account: account.to_owned(),
        kind: PrincipalKind::Root,
        user_id: account.to_owned(),
        ..PrincipalContext::default()
    };
    Principal { context, policies: Vec::new().into(), boundary: None, session: None }
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
        let arn = owner_arn(&account, user.as_ref(), root)
            .ok_or_else(|| entry("access_key", &id, "needs either user or root = true"))?;
        let principal = principals.get(&arn).ok_or_else(|| entry("access_key", &id, "its user does not exist"))?;
        let key = AccessKey { secret: secret.0, active: status == Status::Active, principal: principal.clone() };
        if keys.insert(id.clone(), key).is_some() {
            return Err(entry("access_key", &id, "appears twice"));
        }
    }
    Ok(keys)
}

/// The ARN of the user, or of the account's root user.
fn owner_arn(account: &str, user: Option<&String>, root: bool) -> Option<String> {
    match (user, root) {
        (Some(user), false) => Some(user_arn(account, user)),
        (None, true) => Some(root_arn(account)),
        (Some(_), true) | (None, false) => None,
    }
}

fn mfa_devices(
    shapes: Vec<MfaDeviceShape>,
    accounts: &BTreeMap<String, Option<String>>,
    principals: &BTreeMap<String, Arc<Principal>>,
) -> Result<HashMap<String, (String, Seed)>, IdentitiesError> {
    let mut devices = HashMap::new();
    for MfaDeviceShape { account, name, user, root, seed } in shapes {
        let label = check_name("mfa_device", &account, &name, accounts)?;
        let owner = owner_arn(&account, user.as_ref(), root)
            .ok_or_else(|| entry("mfa_device", &label, "needs either user or root = true"))?;
        if !principals.contains_key(&owner) {
            return Err(entry("mfa_device", &label, "its user does not exist"));
        }
        if devices.insert(mfa_arn(&account, &name), (owner, seed.0)).is_some() {
            return Err(entry("mfa_device", &label, "appears twice"));
        }
    }
    Ok(devices)
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
fn public(shape: &Shape, principals: &BTreeMap<String, Arc<Principal>>, roles: &BTreeMap<String, Arc<Role>>) -> Value {
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
        let mut value = json!({
            "accountId": u.account, "userName": u.name, "arn": arn, "userId": user_id, "groups": u.groups,
            "policies": listed(&u.name, &u.policies), "tags": u.tags,
        });
        if let Some(boundary) = &u.permissions_boundary {
            value["permissionsBoundary"] = listed(&u.name, std::slice::from_ref(boundary)).into();
        }
        ((u.account.as_str(), u.name.as_str()), value)
    });
    let roles = shape.role.iter().map(|r| {
        let arn = role_arn(&r.account, &r.name);
        let known = roles.get(&arn);
        let mut value = json!({
            "accountId": r.account, "roleName": r.name, "arn": arn, "roleId": known.map(|role| role.id.clone()),
            "assumeRolePolicyDocument": json_of(&r.trust), "policies": listed(&r.name, &r.policies),
            "maxSessionDuration": known.map(|role| role.max_session_secs), "tags": r.tags,
        });
        if let Some(boundary) = &r.permissions_boundary {
            value["permissionsBoundary"] = listed(&r.name, std::slice::from_ref(boundary)).into();
        }
        ((r.account.as_str(), r.name.as_str()), value)
    });
    let access_keys = shape.access_key.iter().map(|k| {
        let arn = k.user.as_ref().map_or_else(|| root_arn(&k.account), |user| user_arn(&k.account, user));
        let value = json!({"accessKeyId": k.id, "accountId": k.account, "arn": arn, "status": k.status.name()});
        ((k.account.as_str(), k.id.as_str()), value)
    });
    let mfa_devices = shape.mfa_device.iter().map(|d| {
        let arn = owner_arn(&d.account, d.user.as_ref(), d.root);
        let value = json!({"serialNumber": mfa_arn(&d.account, &d.name), "accountId": d.account, "arn": arn});
        ((d.account.as_str(), d.name.as_str()), value)
    });
    json!({
        "accounts": sorted(accounts),
        "policies": sorted(policies),
        "groups": sorted(groups),
        "users": sorted(users),
        "roles": sorted(roles),
        "accessKeys": sorted(access_keys),
        "serviceKeys": sorted(shape.service_key.iter().map(service::public)),
        "mfaDevices": sorted(mfa_devices),
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

fn user_id(shape: &UserShape) -> String {
    shape.id.clone().unwrap_or_else(|| derived_id("user", "AIDA", &shape.account, &shape.name))
}

/// A user's or role's stable id: the same for the same account and name, so that a file without ids keeps them.
fn derived_id(kind: &str, head: &str, account: &str, name: &str) -> String {
    let hash = digest::digest(&SHA256, format!("keytrail {kind} id v1\n{account}\n{name}").as_bytes());
    let tail = hash.as_ref().iter().take(17).map(|byte| char::from(ID_ALPHABET[usize::from(byte % 32)]));
    head.chars().chain(tail).collect()
}

pub(super) fn entry(kind: &str, name: &str, reason: &str) -> IdentitiesError {
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
