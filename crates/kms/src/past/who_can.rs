//! Who can: every principal that could do something on a key at a time, through what, and what has to hold for it.
//!
//! Asked are all users and roles of the log, the root users of their accounts, whomever the key policy names or a grant is
//! for, and a stranger where the policy names everyone. A principal that the log does not know is taken to be allowed
//! everything by its own account, and that is said.

use super::grants::KeyGrants;
use super::state::{Past, PastKey};
use crate::access::BUILT_INS;
use crate::auth::identities::Principal;
use crate::policy::{
    CallerPolicies, Context, Document, Flavor, GrantConstraints, GrantFacts, GrantTerms, KMS_ACTIONS, ListedGrants,
    Mfa, NamedDocument, PrincipalContext, PrincipalKind, Request, Survey, Way, survey,
};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// An account that no policy is about.
const STRANGERS_ACCOUNT: &str = "000000000000";
const EVERYTHING: &str = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}"#;

/// One principal's right to one action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Right {
    /// ARN of the user, role (all its sessions) or session; `*` for everyone.
    pub principal: String,
    /// `kms:Decrypt`.
    pub action: String,
    /// On which key.
    pub key_arn: String,
    /// Whether the log does not know it: then its own account has to allow it, too, where that is another one.
    pub unknown: bool,
    /// Ways and exceptions.
    #[serde(flatten)]
    pub survey: Survey,
}

struct Candidate {
    name: String,
    principal: Arc<Principal>,
    unknown: bool,
}

impl Past {
    /// Who could do these actions on a key; all of KMS's on one key when none is given. A key that is not there has
    /// nobody.
    pub fn who_can(&mut self, actions: &[String], key_arn: &str, now_us: u64) -> Vec<Right> {
        let all: Vec<String> = match actions {
            [] => {
                let on_key = KMS_ACTIONS.iter().filter(|(name, _)| is_on_key(name));
                on_key.map(|(name, _)| format!("kms:{name}")).collect()
            }
            some => some.to_vec(),
        };
        let candidates = self.candidates(key_arn);
        let Some(key) = self.keys.get(key_arn) else { return Vec::new() };
        let none = KeyGrants::default();
        let grants = self.grants.on(key_arn).unwrap_or(&none);
        let mut rights = Vec::new();
        for action in &all {
            for candidate in &candidates {
                let mut survey = asked(candidate, action, key_arn, key, grants, now_us);
                close(key, action, &mut survey);
                if !survey.ways.is_empty() {
                    let (principal, unknown) = (candidate.name.clone(), candidate.unknown);
                    let (action, key_arn) = (action.clone(), key_arn.to_owned());
                    rights.push(Right { principal, action, key_arn, unknown, survey });
                }
            }
            rights.extend(self.built_in(action, key_arn));
        }
        rights
    }

    /// ARNs of all keys.
    pub fn key_arns(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    fn candidates(&mut self, key_arn: &str) -> Vec<Candidate> {
        let (people, _) = self.people();
        let people = people.people();
        let mut all: BTreeMap<String, Candidate> = BTreeMap::new();
        for user in people.users() {
            let name = user.context.arn.clone();
            all.insert(name.clone(), Candidate { name, principal: Arc::clone(user), unknown: false });
        }
        for role in people.roles() {
            let Some(principal) = people.served(&role.account, "*", &role.arn) else { continue };
            all.insert(role.arn.clone(), Candidate { name: role.arn.clone(), principal, unknown: false });
        }
        let named = self.keys.get(key_arn).and_then(|key| key.policy.as_ref());
        let named = named.into_iter().flat_map(|policy| policy.document.named_principals());
        let granted = self.grants.on(key_arn).into_iter().flat_map(KeyGrants::iter);
        let granted = granted.map(|grant| grant.image.grantee_principal.clone());
        let accounts: Vec<String> = people.file.accounts().map(|(account, _)| account.to_owned()).collect();
        for name in named.chain(granted) {
            let known = all.contains_key(&name) || accounts.contains(&name);
            let session = crate::people::role_of_session(&name).and_then(|role| people.role(&role));
            let candidate = match session {
                Some(role) => {
                    let session_name = name.rsplit('/').next().unwrap_or_default();
                    people.served(&role.account, session_name, &role.arn).map(|principal| (principal, false))
                }
                None if known => None,
                None => stranger(&name).map(|principal| (Arc::new(principal), true)),
            };
            if let Some((principal, unknown)) = candidate {
                all.insert(name.clone(), Candidate { name, principal, unknown });
            }
        }
        all.into_values().collect()
    }

    /// Fixed principals, whom no policy is asked about.
    fn built_in(&self, action: &str, key_arn: &str) -> Vec<Right> {
        let (Some(node), Some(operation)) = (self.node_account.as_deref(), action.strip_prefix("kms:")) else {
            return Vec::new();
        };
        let own_key = key_arn.split(':').nth(4) == Some(node);
        let may = BUILT_INS.iter().filter_map(|(name, list)| match list {
            Some(list) if list.contains(&operation) => Some((name, Vec::new())),
            Some(list) if operation == "PutKeyPolicy" && list.contains(&"RestoreKeyPolicy") => {
                Some((name, vec!["only a policy that the key had before".to_owned()]))
            }
            Some(list) if operation == "UpdateAlias" && list.contains(&"RestoreAlias") => {
                Some((name, vec!["only to a key that the alias had before".to_owned()]))
            }
            Some(_) => None,
            None => own_key.then(|| (name, Vec::new())),
        });
        let right = |(name, conditions): (&&str, Vec<String>)| Right {
            principal: format!("arn:aws:iam::{node}:keytrail/{name}"),
            action: action.to_owned(),
            key_arn: key_arn.to_owned(),
            unknown: false,
            survey: Survey { ways: vec![Way { through: vec!["BuiltIn".to_owned()], conditions }], unless: Vec::new() },
        };
        may.map(right).collect()
    }
}

fn asked(
    candidate: &Candidate,
    action: &str,
    key_arn: &str,
    key: &PastKey,
    grants: &dyn ListedGrants,
    now_us: u64,
) -> Survey {
    let Some(policy) = &key.policy else { return Survey::default() };
    let least = GrantTerms { constraints: GrantConstraints::default(), ..GrantTerms::default() };
    let grant = GrantFacts { grantee: &candidate.principal.context.arn, retiring: None, terms: &least };
    let region = key_arn.split(':').nth(3).unwrap_or_default();
    let context = Context {
        time_us: now_us,
        region,
        secure_transport: true,
        grant: (action == "kms:CreateGrant").then_some(grant),
        key: Some(key.facts()),
        ..Context::default()
    };
    let principal = &candidate.principal.context;
    let request =
        Request { action, resource_arn: key_arn, key_account: &key.image.account, principal, context: &context };
    let everything = [NamedDocument { name: "of its own account".to_owned(), document: Arc::new(everything()) }];
    let own = match candidate.unknown {
        true => CallerPolicies { identity: &everything, ..CallerPolicies::default() },
        false => candidate.principal.own(),
    };
    survey(&request, &policy.document, &own, grants)
}

/// A service's own key is used through that service only.
fn close(key: &PastKey, action: &str, survey: &mut Survey) {
    let Some(service) = &key.image.service else { return };
    let name = action.strip_prefix("kms:").unwrap_or(action);
    if !crate::ops::looks_at_service_key(name) {
        let through = format!("through the service {service}, whose own key it is");
        survey.ways.iter_mut().for_each(|way| way.conditions.push(through.clone()));
    }
}

/// Whoever is behind an ARN, an account or `*` that the log does not know.
fn stranger(name: &str) -> Option<Principal> {
    let (arn, account, kind) = match name {
        "*" => (format!("arn:aws:iam::{STRANGERS_ACCOUNT}:user/stranger"), STRANGERS_ACCOUNT, PrincipalKind::User),
        account if account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit()) => {
            (format!("arn:aws:iam::{account}:user/someone"), account, PrincipalKind::User)
        }
        arn => {
            let mut parts = arn.split(':').skip(4);
            let (account, resource) = (parts.next()?, parts.next()?);
            let kind = match resource {
                "root" => PrincipalKind::Root,
                role if role.starts_with("role/") || role.starts_with("assumed-role/") => PrincipalKind::Session,
                _ => PrincipalKind::User,
            };
            (arn.to_owned(), account, kind)
        }
    };
    let role_arn = match kind {
        PrincipalKind::Session => crate::people::role_of_session(&arn).or_else(|| Some(arn.clone())),
        PrincipalKind::User | PrincipalKind::Root | PrincipalKind::Federated => None,
    };
    let mfa = if kind == PrincipalKind::Session { Mfa::Without } else { Mfa::Unknown };
    let context =
        PrincipalContext { account: account.to_owned(), arn, kind, role_arn, mfa, ..PrincipalContext::default() };
    Some(Principal { context, policies: Vec::new().into(), boundary: None, session: None })
}

pub(super) fn everything() -> Document {
    Document::parse(EVERYTHING, Flavor::IdentityPolicy).expect("a fixed policy parses")
}

/// Whether an action is about one key; aliases have keys, too.
pub(super) fn is_on_key(name: &str) -> bool {
    !matches!(
        name,
        "CreateKey"
            | "GenerateRandom"
            | "ListAliases"
            | "ListKeys"
            | "ListRetirableGrants"
            | "ConnectCustomKeyStore"
            | "CreateCustomKeyStore"
            | "DeleteCustomKeyStore"
            | "DescribeCustomKeyStores"
            | "DisconnectCustomKeyStore"
            | "UpdateCustomKeyStore"
    )
}
