//! The people and policies that the IAM API administers, beside those of identities.toml.
//!
//! identities.toml is the administrator's file: what is in it can be read, attached to and given access keys and MFA
//! devices through the API, but changed only there. Both share one space of names: a file that names what the API has
//! made is refused, as is one that drops a policy that the API has attached. Everything is resolved when something
//! changes, so that a call only looks up. Why: docs/decisions/0012-iam-beside-the-file.md.

pub(crate) mod entity;
mod load;

pub(crate) use load::{load, resealed};

use crate::auth::SecretKey;
use crate::auth::identities::{self, Identities, Principal};
use crate::auth::totp::Seed;
use crate::key::AccountId;
use crate::policy::{Document, NamedDocument, PrincipalContext};
use entity::{Entities, Entity, Group, Permissions, Policy, Role, User};
use std::collections::HashMap;
use std::sync::Arc;

/// Why the directory and identities.toml cannot be in force together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    /// Both have it.
    #[error("{arn} is in identities.toml and was also made through the IAM API; rename or delete one of them")]
    Twice {
        /// What.
        arn: String,
    },
    /// A policy or group is gone that something made through the API needs.
    #[error("{arn} needs {needs}, which is not there; put it back or detach it through the IAM API")]
    Missing {
        /// What.
        arn: String,
        /// What it needs.
        needs: String,
    },
}

/// A device that can prove a second factor.
pub(crate) struct Proof {
    pub(crate) seed: Arc<Seed>,
    pub(crate) drift_steps: i64,
    user_arn: String,
}

/// The entities of `kms.db`, resolved against identities.toml.
#[derive(Default)]
pub(crate) struct Directory {
    pub(crate) entities: Entities,
    principals: HashMap<String, Arc<Principal>>,
    roles: HashMap<String, Arc<identities::Role>>,
    access_keys: HashMap<String, (Arc<SecretKey>, Arc<Principal>)>,
    proofs: HashMap<String, Proof>,
}

impl Directory {
    /// Resolves entities; fails when they and the file do not fit.
    pub(crate) fn resolve(file: &Identities, entities: Entities) -> Result<Self, DirectoryError> {
        let mut directory = Self { entities, ..Self::default() };
        let (stored, in_file) = (&directory.entities, file.entities());
        no_doubles::<User>(stored, in_file)?;
        no_doubles::<Group>(stored, in_file)?;
        no_doubles::<Role>(stored, in_file)?;
        no_doubles::<Policy>(stored, in_file)?;
        no_doubles::<entity::Device>(stored, in_file)?;
        let resolver = Resolver { file, stored };
        let mut principals = HashMap::new();
        for ((account, name), user) in &stored.users {
            principals.insert(User::arn(*account, name), Arc::new(resolver.user(*account, user)?));
        }
        let mut roles = HashMap::new();
        for ((account, name), role) in &stored.roles {
            roles.insert(Role::arn(*account, name), Arc::new(resolver.role(*account, role)?));
        }
        // Keys and devices of a user who is gone from the file give nobody any right.
        let user = |account: AccountId, name: &str, id: &str| {
            let arn = User::arn(account, name);
            let found = principals.get(&arn).or_else(|| file.principal_by_arn(&arn));
            found.filter(|user| user.context.user_id == id).cloned()
        };
        let mut access_keys = HashMap::new();
        for ((account, id), key) in stored.access_keys.iter().filter(|(_, key)| key.active) {
            if let (Some(user), Some(secret)) = (user(*account, &key.user_name, &key.user_id), &key.secret) {
                access_keys.insert(id.clone(), (Arc::clone(secret), user));
            }
        }
        let mut proofs = HashMap::new();
        for ((account, name), device) in &stored.devices {
            let Some(holder) = &device.holder else { continue };
            if let (Some(user), Some(seed)) = (user(*account, &holder.user_name, &holder.user_id), &device.seed) {
                let user_arn = user.context.arn.clone();
                let proof = Proof { seed: Arc::clone(seed), drift_steps: device.drift_steps, user_arn };
                proofs.insert(entity::Device::arn(*account, name), proof);
            }
        }
        (directory.principals, directory.roles) = (principals, roles);
        (directory.access_keys, directory.proofs) = (access_keys, proofs);
        Ok(directory)
    }

    /// The secret of an active access key.
    pub(crate) fn secret(&self, access_key_id: &str) -> Option<&SecretKey> {
        self.access_keys.get(access_key_id).map(|(secret, _)| &**secret)
    }

    /// The user of an active access key.
    pub(crate) fn principal(&self, access_key_id: &str) -> Option<&Arc<Principal>> {
        self.access_keys.get(access_key_id).map(|(_, principal)| principal)
    }

    /// A user by its ARN.
    pub(crate) fn principal_by_arn(&self, arn: &str) -> Option<&Arc<Principal>> {
        self.principals.get(arn)
    }

    /// A role by its ARN.
    pub(crate) fn role(&self, arn: &str) -> Option<&Arc<identities::Role>> {
        self.roles.get(arn)
    }

    /// All users, in no order.
    pub(crate) fn principals(&self) -> impl Iterator<Item = &Arc<Principal>> {
        self.principals.values()
    }

    /// All roles, in no order.
    pub(crate) fn roles(&self) -> impl Iterator<Item = &Arc<identities::Role>> {
        self.roles.values()
    }

    /// The version in force of a managed policy.
    pub(crate) fn policy(&self, account: AccountId, name: &str) -> Option<&Arc<Document>> {
        let policy = self.entities.policies.get(&(account, name.to_owned()))?;
        policy.default_document().map(|text| &text.document)
    }

    /// A provider by the name in its ARN.
    pub(crate) fn oidc_provider(&self, account: AccountId, name: &str) -> Option<&Arc<entity::OidcProvider>> {
        self.entities.oidc_providers.get(&(account, name.to_owned()))
    }

    /// A user's enabled device, by both ARNs.
    pub(crate) fn proof(&self, user_arn: &str, serial: &str) -> Option<&Proof> {
        self.proofs.get(serial).filter(|proof| proof.user_arn == user_arn)
    }
}

fn no_doubles<E: Entity>(stored: &Entities, in_file: &Entities) -> Result<(), DirectoryError> {
    let twice = E::all(stored).keys().find(|name| E::all(in_file).contains_key(*name));
    twice.map_or(Ok(()), |(account, name)| Err(DirectoryError::Twice { arn: E::arn(*account, name) }))
}

struct Resolver<'a> {
    file: &'a Identities,
    stored: &'a Entities,
}

impl Resolver<'_> {
    fn user(&self, account: AccountId, user: &User) -> Result<Principal, DirectoryError> {
        let arn = User::arn(account, &user.user_name);
        let mut policies = self.policies(account, &arn, &user.permissions)?;
        for name in &user.groups {
            let missing = || DirectoryError::Missing { arn: arn.clone(), needs: Group::arn(account, name) };
            let group = self.stored.groups.get(&(account, name.clone())).ok_or_else(missing)?;
            policies.extend(self.policies(account, &arn, &group.permissions)?);
        }
        let context = PrincipalContext {
            account: account.to_string(),
            user_id: user.user_id.clone(),
            user_name: Some(user.user_name.clone()),
            groups: user.groups.iter().cloned().collect(),
            tags: user.tags.clone(),
            arn: arn.clone(),
            ..PrincipalContext::default()
        };
        let boundary = self.boundary(account, &arn, &user.permissions)?;
        Ok(Principal { context, policies: policies.into(), boundary, session: None })
    }

    fn role(&self, account: AccountId, role: &Role) -> Result<identities::Role, DirectoryError> {
        let arn = Role::arn(account, &role.role_name);
        Ok(identities::Role {
            id: role.role_id.clone(),
            account: account.to_string(),
            name: role.role_name.clone(),
            trust: Arc::clone(&role.assume_role_policy.document),
            policies: self.policies(account, &arn, &role.permissions)?.into(),
            boundary: self.boundary(account, &arn, &role.permissions)?,
            max_session_secs: role.max_session_secs,
            tags: role.tags.clone(),
            arn,
        })
    }

    fn policies(
        &self,
        account: AccountId,
        owner: &str,
        permissions: &Permissions,
    ) -> Result<Vec<NamedDocument>, DirectoryError> {
        let inline = permissions
            .inline_policies
            .iter()
            .map(|(name, text)| Ok(NamedDocument { name: name.clone(), document: Arc::clone(&text.document) }));
        let attached = permissions.attached_policies.iter().map(|name| self.policy(account, owner, name));
        inline.chain(attached).collect()
    }

    fn boundary(
        &self,
        account: AccountId,
        owner: &str,
        permissions: &Permissions,
    ) -> Result<Option<NamedDocument>, DirectoryError> {
        permissions.permissions_boundary.as_ref().map(|name| self.policy(account, owner, name)).transpose()
    }

    fn policy(&self, account: AccountId, owner: &str, name: &str) -> Result<NamedDocument, DirectoryError> {
        let stored = self.stored.policies.get(&(account, name.to_owned())).and_then(|policy| policy.default_document());
        let found = stored.map(|text| &text.document).or_else(|| self.file.policy(account.as_str(), name));
        let missing = || DirectoryError::Missing { arn: owner.to_owned(), needs: entity::policy_arn(account, name) };
        Ok(NamedDocument { name: name.to_owned(), document: Arc::clone(found.ok_or_else(missing)?) })
    }
}
