//! Roles, their trust policies and tags.

use super::super::refusal::{Refusal, RefusalKind};
use super::input::{new_name, policy, required};
use super::render;
use super::users::{merge_tags, tag_entries};
use super::work::{Facts, Reply, Work};
use crate::auth::credentials::principal_id;
use crate::directory::entity::{Permissions, Role};
use crate::policy::Flavor;
use serde_json::json;
use std::collections::BTreeMap;

/// AWS's quotas.
const ROLES_MAX: usize = 1_000;
const TRUST_CHARS_MAX: usize = 2_048;
const SESSION_SECS_USUAL: u64 = 3_600;

pub(super) fn create(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let name = new_name(&work.input.role_name, "roleName", 64)?;
    work.input.no_path()?;
    let (tags, description) = (work.input.tags()?, work.input.description()?.cloned().unwrap_or_default());
    let wanted_secs = work.input.max_session_secs()?;
    let boundary = work.input.permissions_boundary.as_deref();
    work.allow::<Role>(name, &Facts { request_tags: Some(&tags), boundary, ..Facts::default() })?;
    let assume_role_policy = trust(work)?;
    work.room_for::<Role>(name, ROLES_MAX)?;
    let permissions_boundary = boundary.map(|arn| work.attachable(arn)).transpose()?;
    let role = Role {
        role_name: name.to_owned(),
        role_id: principal_id("AROA").map_err(|_| Refusal::internal())?,
        created_us: work.now_us(),
        description,
        max_session_secs: wanted_secs.unwrap_or(SESSION_SECS_USUAL),
        tags,
        assume_role_policy,
        permissions: Permissions { permissions_boundary, ..Permissions::default() },
    };
    let mut made = render::role_in_full(work.account, &role);
    if let (None, Some(members)) = (wanted_secs, made.as_object_mut()) {
        // AWS tells its own choice to GetRole and ListRoles only.
        members.shift_remove("MaxSessionDuration");
    }
    work.put(role, None);
    Ok(json!({"Role": made}).into())
}

fn trust(work: &Work<'_, '_>) -> Result<crate::directory::entity::PolicyText, Refusal> {
    let member = if work.input.assume_role_policy_document.is_some() {
        (&work.input.assume_role_policy_document, "assumeRolePolicyDocument")
    } else {
        (&work.input.policy_document, "policyDocument")
    };
    policy(member.0, member.1, Flavor::TrustPolicy, TRUST_CHARS_MAX)
}

pub(super) fn get(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let name = required(&work.input.role_name, "roleName")?;
    allow(work, name)?;
    let role = work.existing::<Role>(name)?;
    Ok(json!({"Role": render::role_in_full(work.account, &role)}).into())
}

pub(super) fn list(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    work.input.no_path()?;
    work.allow_listing::<Role>()?;
    let roles = work.all::<Role>();
    let entries = roles.iter().map(|role| (role.role_name.clone(), render::role(work.account, role)));
    Ok(work.page("Roles", entries)?.into())
}

/// There are none; tools ask before they delete a role.
pub(super) fn instance_profiles(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let name = required(&work.input.role_name, "roleName")?;
    allow(work, name)?;
    work.existing::<Role>(name)?;
    Ok(work.page("InstanceProfiles", [])?.into())
}

pub(super) fn update(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let name = required(&work.input.role_name, "roleName")?;
    let (description, max_session_secs) = (work.input.description()?, work.input.max_session_secs()?);
    allow(work, name)?;
    let mut role = (*work.changeable::<Role>(name)?).clone();
    role.description = description.cloned().unwrap_or(role.description);
    role.max_session_secs = max_session_secs.unwrap_or(role.max_session_secs);
    work.put(role, None);
    Ok(Reply::nothing())
}

pub(super) fn update_trust(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let name = required(&work.input.role_name, "roleName")?;
    allow(work, name)?;
    let mut role = (*work.changeable::<Role>(name)?).clone();
    role.assume_role_policy =
        policy(&work.input.policy_document, "policyDocument", Flavor::TrustPolicy, TRUST_CHARS_MAX)?;
    work.put(role, None);
    Ok(Reply::nothing())
}

pub(super) fn delete(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let name = required(&work.input.role_name, "roleName")?;
    allow(work, name)?;
    let role = work.changeable::<Role>(name)?;
    for (there, what) in [
        (!role.permissions.attached_policies.is_empty(), "detach all policies"),
        (!role.permissions.inline_policies.is_empty(), "delete policies"),
    ] {
        if there {
            let text = format!("Cannot delete entity, must {what} first.");
            return Err(Refusal::new(RefusalKind::DeleteConflict, text));
        }
    }
    work.remove::<Role>(name);
    Ok(Reply::nothing())
}

pub(super) fn tag(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let name = required(&work.input.role_name, "roleName")?;
    let (tags, before) = (work.input.tags()?, tags_of(work, name));
    work.allow::<Role>(name, &Facts { resource_tags: Some(&before), request_tags: Some(&tags), ..Facts::default() })?;
    let mut role = (*work.changeable::<Role>(name)?).clone();
    merge_tags(&mut role.tags, tags)?;
    work.put(role, None);
    Ok(Reply::nothing())
}

pub(super) fn untag(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let name = required(&work.input.role_name, "roleName")?;
    let keys = work.input.tag_keys.as_ref().map_or(&[][..], |keys| &keys.0);
    let before = tags_of(work, name);
    work.allow::<Role>(name, &Facts { resource_tags: Some(&before), tag_keys: keys, ..Facts::default() })?;
    let mut role = (*work.changeable::<Role>(name)?).clone();
    role.tags.retain(|key, _| !keys.contains(key));
    work.put(role, None);
    Ok(Reply::nothing())
}

pub(super) fn tags(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let name = required(&work.input.role_name, "roleName")?;
    allow(work, name)?;
    let role = work.existing::<Role>(name)?;
    Ok(work.page("Tags", tag_entries(&role.tags))?.into())
}

/// Asks about this role.
fn allow(work: &mut Work<'_, '_>, name: &str) -> Result<(), Refusal> {
    let tags = tags_of(work, name);
    work.allow::<Role>(name, &Facts { resource_tags: Some(&tags), ..Facts::default() })
}

fn tags_of(work: &Work<'_, '_>, name: &str) -> BTreeMap<String, String> {
    work.find::<Role>(name).map(|role| role.tags.clone()).unwrap_or_default()
}
