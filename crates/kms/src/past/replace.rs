//! What stands in for a policy in force: another key policy, or another policy of a user, group or role.

use crate::directory::entity::{Entities, Entity, Group, Permissions, Policy, PolicyText, Role, User};
use crate::key::AccountId;
use crate::people::role_of_session;
use crate::policy::{Document, Flavor, PolicyError};
use serde_json::{Value, json};
use std::sync::Arc;

/// The name that decisions give a policy that is only tried.
const TRIED: &str = "proposed";

/// A policy to try.
#[derive(Clone, Default)]
pub struct Replacement {
    text: String,
    what: What,
}

#[derive(Clone, Default)]
enum What {
    #[default]
    Nothing,
    Key(String, Arc<Document>),
    Identity(Target),
}

/// Whose policy, as its ARN has it.
#[derive(Clone)]
struct Target {
    account: AccountId,
    kind: &'static str,
    name: String,
    arn: String,
}

/// Why a policy cannot be tried.
#[derive(Debug, thiserror::Error)]
pub enum ReplacementError {
    /// It does not parse.
    #[error("parse the policy")]
    Policy(#[from] PolicyError),
    /// The ARN is of nothing that has an identity policy.
    #[error("{0} is not the ARN of a user, group, role or managed policy")]
    Arn(String),
}

impl Replacement {
    /// A key policy for the key of this ARN.
    pub fn key(key_arn: &str, text: &str) -> Result<Self, ReplacementError> {
        let document = Document::parse(text, Flavor::KeyPolicy)?;
        Ok(Self { text: text.to_owned(), what: What::Key(key_arn.to_owned(), Arc::new(document)) })
    }

    /// An identity policy: for a managed policy its text; for a user, group or role all its own policies, inline and
    /// attached. What a user has from groups stays.
    pub fn identity(arn: &str, text: &str) -> Result<Self, ReplacementError> {
        Document::parse(text, Flavor::IdentityPolicy)?;
        let target = Target::parse(arn).ok_or_else(|| ReplacementError::Arn(arn.to_owned()))?;
        Ok(Self { text: text.to_owned(), what: What::Identity(target) })
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The key policy to try on a key.
    pub(super) fn key_policy(&self, key_arn: &str) -> Option<&Document> {
        match &self.what {
            What::Key(arn, document) if arn == key_arn => Some(document),
            What::Key(..) | What::Identity(_) | What::Nothing => None,
        }
    }

    /// The key whose calls alone can change, if it is one key.
    pub fn only_key(&self) -> Option<&str> {
        match &self.what {
            What::Key(arn, _) => Some(arn),
            What::Identity(_) | What::Nothing => None,
        }
    }

    /// Whether calls of this principal may be judged otherwise; who is in a group or has a managed policy changes with
    /// time, so there it may be anyone.
    pub(super) fn concerns(&self, principal_arn: &str) -> bool {
        match &self.what {
            What::Identity(target) if matches!(target.kind, User::KIND | Role::KIND) => {
                principal_arn == target.arn || role_of_session(principal_arn).as_deref() == Some(&target.arn)
            }
            What::Identity(_) | What::Key(..) | What::Nothing => true,
        }
    }

    /// Whether there is nothing to try: the replay then checks itself.
    pub(super) fn is_nothing(&self) -> bool {
        matches!(self.what, What::Nothing)
    }

    /// Puts an identity policy into both sources; false when there is none to put, or nobody to have it.
    pub(super) fn replace(&self, file: &mut Value, entities: &mut Entities) -> bool {
        let What::Identity(target) = &self.what else { return false };
        target.replace_in_file(file, &self.text) | target.replace_in_entities(entities, &self.text)
    }
}

impl Target {
    fn parse(arn: &str) -> Option<Self> {
        let (account, resource) = arn.strip_prefix("arn:aws:iam::")?.split_once(':')?;
        let (kind, name) = resource.split_once('/')?;
        let kinds = [User::KIND, Group::KIND, Role::KIND, Policy::KIND];
        let kind = kinds.into_iter().find(|known| *known == kind)?;
        Some(Self { account: AccountId::parse(account)?, kind, name: name.to_owned(), arn: arn.to_owned() })
    }

    fn replace_in_file(&self, file: &mut Value, text: &str) -> bool {
        let (list, name) = match self.kind {
            User::KIND => ("users", "userName"),
            Group::KIND => ("groups", "groupName"),
            Role::KIND => ("roles", "roleName"),
            _ => ("policies", "policyName"),
        };
        let document: Value = serde_json::from_str(text).unwrap_or_default();
        let mut entries = file.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        let found =
            entries.find(|entry| entry["accountId"] == self.account.as_str() && entry[name] == self.name.as_str());
        let Some(entry) = found else { return false };
        match self.kind {
            Policy::KIND => entry["policyDocument"] = document,
            _ => entry["policies"] = json!([{"policyName": TRIED, "policyDocument": document}]),
        }
        true
    }

    fn replace_in_entities(&self, entities: &mut Entities, text: &str) -> bool {
        let Ok(text) = PolicyText::parse(text, Flavor::IdentityPolicy) else { return false };
        let only = |permissions: &mut Permissions| {
            permissions.attached_policies.clear();
            permissions.inline_policies.clear();
            permissions.inline_policies.insert(TRIED.to_owned(), text.clone());
        };
        match self.kind {
            User::KIND => self.change::<User>(entities, |user| only(&mut user.permissions)),
            Group::KIND => self.change::<Group>(entities, |group| only(&mut group.permissions)),
            Role::KIND => self.change::<Role>(entities, |role| only(&mut role.permissions)),
            _ => self.change::<Policy>(entities, |policy| {
                if let Some(version) = policy.versions.get_mut(&policy.default_version) {
                    version.document = text.clone();
                }
            }),
        }
    }

    fn change<E: Entity>(&self, entities: &mut Entities, change: impl FnOnce(&mut E)) -> bool {
        let found = E::all_mut(entities).get_mut(&(self.account, self.name.clone()));
        found.map(|entity| change(Arc::make_mut(entity))).is_some()
    }
}
