//! The file's entries as the IAM API lists them, beside what was made through it. They have no date of creation.

use super::{Shape, derived_id, inline_name, is_inline, user_id};
use crate::directory::entity::{Device, Entities, Group, Holder, Permissions, Policy, PolicyText, Role, User, Version};
use crate::key::AccountId;
use crate::policy::{Flavor, PolicyError};
use std::collections::BTreeMap;
use std::sync::Arc;

/// All entries; the shape was checked before.
pub(super) fn entities(shape: &Shape) -> Result<Entities, PolicyError> {
    let mut all = Entities::default();
    let at = |account: &str, name: &str| AccountId::parse(account).map(|account| (account, name.to_owned()));
    for policy in &shape.policy {
        let Some(name) = at(&policy.account, &policy.name) else { continue };
        let document = PolicyText::parse(&policy.document, Flavor::IdentityPolicy)?;
        let policy = Policy {
            policy_name: policy.name.clone(),
            policy_id: derived_id("policy", "ANPA", &policy.account, &policy.name),
            created_us: 0,
            updated_us: 0,
            description: String::new(),
            tags: BTreeMap::new(),
            versions: BTreeMap::from([(1, Version { document, created_us: 0 })]),
            default_version: 1,
            next_version: 2,
        };
        all.policies.insert(name, Arc::new(policy));
    }
    for group in &shape.group {
        let Some(name) = at(&group.account, &group.name) else { continue };
        let group = Group {
            group_name: group.name.clone(),
            group_id: derived_id("group", "AGPA", &group.account, &group.name),
            created_us: 0,
            permissions: permissions(&group.name, &group.policies, None)?,
        };
        all.groups.insert(name, Arc::new(group));
    }
    for user in &shape.user {
        let Some(name) = at(&user.account, &user.name) else { continue };
        let user = User {
            user_name: user.name.clone(),
            user_id: user_id(user),
            created_us: 0,
            tags: user.tags.clone(),
            groups: user.groups.iter().cloned().collect(),
            permissions: permissions(&user.name, &user.policies, user.permissions_boundary.as_ref())?,
        };
        all.users.insert(name, Arc::new(user));
    }
    for role in &shape.role {
        let Some(name) = at(&role.account, &role.name) else { continue };
        let role = Role {
            role_name: role.name.clone(),
            role_id: role.id.clone().unwrap_or_else(|| derived_id("role", "AROA", &role.account, &role.name)),
            created_us: 0,
            description: String::new(),
            max_session_secs: role.max_session_secs.unwrap_or(super::SESSION_SECS_USUAL),
            tags: role.tags.clone(),
            assume_role_policy: PolicyText::parse(&role.trust, Flavor::TrustPolicy)?,
            permissions: permissions(&role.name, &role.policies, role.permissions_boundary.as_ref())?,
        };
        all.roles.insert(name, Arc::new(role));
    }
    for device in &shape.mfa_device {
        let Some(name) = at(&device.account, &device.name) else { continue };
        let user = device.user.as_ref().and_then(|user| all.users.get(&at(&device.account, user)?).cloned());
        let holder =
            user.map(|user| Holder { user_name: user.user_name.clone(), user_id: user.user_id.clone(), enabled_us: 0 });
        let device = Device { device_name: device.name.clone(), holder, drift_steps: 0, seed: None };
        all.devices.insert(name, Arc::new(device));
    }
    Ok(all)
}

fn permissions(owner: &str, wanted: &[String], boundary: Option<&String>) -> Result<Permissions, PolicyError> {
    let mut permissions = Permissions::default();
    for (index, text) in wanted.iter().enumerate() {
        if is_inline(text) {
            let parsed = PolicyText::parse(text, Flavor::IdentityPolicy)?;
            permissions.inline_policies.insert(inline_name(owner, index), parsed);
        } else {
            permissions.attached_policies.insert(text.clone());
        }
    }
    permissions.permissions_boundary =
        boundary.map(|text| if is_inline(text) { inline_name(owner, 0) } else { text.clone() });
    Ok(permissions)
}
