//! Managed policies and their versions.

use super::super::refusal::{Refusal, RefusalKind};
use super::input::{Input, new_name, policy, required};
use super::render;
use super::users::{merge_tags, tag_entries};
use super::work::{Facts, Reply, Work};
use crate::auth::credentials::principal_id;
use crate::auth::identities::ADMINISTRATOR_ACCESS;
use crate::directory::entity::{Entity, Group, Permissions, Policy, Role, User, Version};
use crate::policy::Flavor;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// AWS's quotas.
const POLICIES_MAX: usize = 1_500;
const VERSIONS_MAX: usize = 5;
const POLICY_CHARS_MAX: usize = 6_144;

pub(super) fn create(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let name = new_name(&work.input.policy_name, "policyName", 128)?;
    work.input.no_path()?;
    let (tags, description) = (work.input.tags()?, work.input.description()?.cloned().unwrap_or_default());
    work.allow::<Policy>(name, &Facts { request_tags: Some(&tags), ..Facts::default() })?;
    let document = policy(&work.input.policy_document, "policyDocument", Flavor::IdentityPolicy, POLICY_CHARS_MAX)?;
    if name.eq_ignore_ascii_case(ADMINISTRATOR_ACCESS) {
        let text = format!("A policy called {name} already exists. Duplicate names are not allowed.");
        return Err(Refusal::new(RefusalKind::EntityAlreadyExists, text));
    }
    work.room_for::<Policy>(name, POLICIES_MAX)?;
    let created_us = work.now_us();
    let made = Policy {
        policy_name: name.to_owned(),
        policy_id: principal_id("ANPA").map_err(|_| Refusal::internal())?,
        created_us,
        updated_us: created_us,
        description,
        tags,
        versions: BTreeMap::from([(1, Version { document, created_us })]),
        default_version: 1,
        next_version: 2,
    };
    let answer = json!({"Policy": render::policy(work.account, &made, (0, 0))});
    work.put(made, None);
    Ok(answer.into())
}

/// The policy that PolicyArn names, after the caller was asked about.
fn named(work: &mut Work<'_, '_>) -> Result<Arc<Policy>, Refusal> {
    asked(work, &Facts::default())
}

fn asked(work: &mut Work<'_, '_>, facts: &Facts<'_>) -> Result<Arc<Policy>, Refusal> {
    let arn = required(&work.input.policy_arn, "policyArn")?;
    let found = arn.strip_prefix(&Policy::arn(work.account, "")).and_then(|name| work.find::<Policy>(name));
    let tags = found.as_ref().map(|policy| policy.tags.clone()).unwrap_or_default();
    work.allow_on(arn, Policy::TYPE, &Facts { resource_tags: Some(&tags), ..*facts })?;
    found.ok_or_else(|| Refusal::new(RefusalKind::NoSuchEntity, format!("Policy {arn} was not found.")))
}

pub(super) fn get(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let found = named(work)?;
    let mut answer = render::policy(work.account, &found, uses(work, &found.policy_name));
    if !found.tags.is_empty() {
        answer["Tags"] = render::tags(&found.tags).into();
    }
    Ok(json!({"Policy": answer}).into())
}

pub(super) fn list(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    work.input.no_path()?;
    work.allow_listing::<Policy>()?;
    let local = match work.input.scope.as_deref() {
        None | Some("All" | "Local") => true,
        // The built-in policy has no entity of its own.
        Some("AWS") => false,
        Some(other) => {
            let constraint = "Member must satisfy enum value set: [All, AWS, Local]";
            return Err(Refusal::constraint(Some(other), "scope", constraint));
        }
    };
    let only_attached = Input::boolean(work.input.only_attached.as_ref());
    let all = if local { work.all::<Policy>() } else { Vec::new() };
    let entries: Vec<(String, Value)> = all
        .iter()
        .map(|policy| (policy, uses(work, &policy.policy_name)))
        .filter(|(_, uses)| !only_attached || uses.0 > 0)
        .map(|(policy, uses)| (policy.policy_name.clone(), render::policy(work.account, policy, uses)))
        .collect();
    Ok(work.page("Policies", entries)?.into())
}

pub(super) fn delete(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let found = named(work)?;
    work.changeable::<Policy>(&found.policy_name)?;
    if uses(work, &found.policy_name) != (0, 0) {
        let text = "Cannot delete a policy attached to entities.";
        return Err(Refusal::new(RefusalKind::DeleteConflict, text));
    }
    if found.versions.len() > 1 {
        let text = "This policy has more than one version. Before you delete a policy, you must delete the policy's \
                    versions. The default version is deleted with the policy.";
        return Err(Refusal::new(RefusalKind::DeleteConflict, text));
    }
    work.remove::<Policy>(&found.policy_name);
    Ok(Reply::nothing())
}

pub(super) fn create_version(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let found = named(work)?;
    let document = policy(&work.input.policy_document, "policyDocument", Flavor::IdentityPolicy, POLICY_CHARS_MAX)?;
    let mut changed = (*work.changeable::<Policy>(&found.policy_name)?).clone();
    if changed.versions.len() >= VERSIONS_MAX {
        let text = "A managed policy can have up to 5 versions. Before you create a new version, you must delete an \
                    existing version.";
        return Err(Refusal::new(RefusalKind::LimitExceeded, text));
    }
    let number = changed.next_version;
    let version = Version { document, created_us: work.now_us() };
    changed.next_version += 1;
    changed.updated_us = work.now_us();
    if Input::boolean(work.input.set_as_default.as_ref()) {
        changed.default_version = number;
    }
    let answer = json!({"PolicyVersion": render::version(&changed, number, &version)});
    changed.versions.insert(number, version);
    work.put(changed, None);
    Ok(answer.into())
}

/// The number in VersionId, of a version that is there.
fn version_number(work: &Work<'_, '_>, policy: &Policy) -> Result<u32, Refusal> {
    let text = required(&work.input.version_id, "versionId")?;
    let number = text.strip_prefix('v').and_then(|digits| digits.parse().ok());
    number.filter(|number| policy.versions.contains_key(number)).ok_or_else(|| {
        let text = format!("Policy {} version {text} does not exist or is not attachable.", policy.policy_name);
        Refusal::new(RefusalKind::NoSuchEntity, text)
    })
}

pub(super) fn get_version(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let found = named(work)?;
    let number = version_number(work, &found)?;
    let version = &found.versions[&number];
    let mut answer = json!({"Document": render::document(&version.document.text)});
    if let (Some(answer), Value::Object(rest)) = (answer.as_object_mut(), render::version(&found, number, version)) {
        answer.extend(rest);
    }
    Ok(json!({"PolicyVersion": answer}).into())
}

pub(super) fn versions(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let found = named(work)?;
    let entries = found.versions.iter().rev().map(|(number, version)| {
        // Newest first; the key that pages are cut by rises all the same.
        (format!("{:010}", u32::MAX - number), render::version(&found, *number, version))
    });
    Ok(work.page("Versions", entries)?.into())
}

pub(super) fn set_default_version(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let found = named(work)?;
    let number = version_number(work, &found)?;
    let mut changed = (*work.changeable::<Policy>(&found.policy_name)?).clone();
    changed.default_version = number;
    changed.updated_us = work.now_us();
    work.put(changed, None);
    Ok(Reply::nothing())
}

pub(super) fn delete_version(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let found = named(work)?;
    let number = version_number(work, &found)?;
    let mut changed = (*work.changeable::<Policy>(&found.policy_name)?).clone();
    if number == changed.default_version {
        let text = "Cannot delete the default version of a policy.";
        return Err(Refusal::new(RefusalKind::DeleteConflict, text));
    }
    changed.versions.remove(&number);
    work.put(changed, None);
    Ok(Reply::nothing())
}

pub(super) fn entities(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let found = named(work)?;
    let has = |permissions: &Permissions| permissions.attached_policies.contains(&found.policy_name);
    let users: Vec<Value> = work
        .all::<User>()
        .iter()
        .filter(|user| has(&user.permissions))
        .map(|user| json!({"UserName": user.user_name, "UserId": user.user_id}))
        .collect();
    let groups: Vec<Value> = work
        .all::<Group>()
        .iter()
        .filter(|group| has(&group.permissions))
        .map(|group| json!({"GroupName": group.group_name, "GroupId": group.group_id}))
        .collect();
    let roles: Vec<Value> = work
        .all::<Role>()
        .iter()
        .filter(|role| has(&role.permissions))
        .map(|role| json!({"RoleName": role.role_name, "RoleId": role.role_id}))
        .collect();
    Ok(json!({"PolicyGroups": groups, "PolicyUsers": users, "PolicyRoles": roles, "IsTruncated": false}).into())
}

pub(super) fn tag(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let tags = work.input.tags()?;
    let found = asked(work, &Facts { request_tags: Some(&tags), ..Facts::default() })?;
    let mut changed = (*work.changeable::<Policy>(&found.policy_name)?).clone();
    merge_tags(&mut changed.tags, tags)?;
    work.put(changed, None);
    Ok(Reply::nothing())
}

pub(super) fn untag(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let keys = work.input.tag_keys.as_ref().map_or(&[][..], |keys| &keys.0);
    let found = asked(work, &Facts { tag_keys: keys, ..Facts::default() })?;
    let mut changed = (*work.changeable::<Policy>(&found.policy_name)?).clone();
    changed.tags.retain(|key, _| !keys.contains(key));
    work.put(changed, None);
    Ok(Reply::nothing())
}

pub(super) fn tags(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let found = named(work)?;
    Ok(work.page("Tags", tag_entries(&found.tags))?.into())
}

/// How many entities have it attached, and how many as their boundary.
fn uses(work: &Work<'_, '_>, name: &str) -> (usize, usize) {
    let users = work.all::<User>();
    let (groups, roles) = (work.all::<Group>(), work.all::<Role>());
    let all = users.iter().map(|user| &user.permissions);
    let all = all.chain(groups.iter().map(|group| &group.permissions));
    all.chain(roles.iter().map(|role| &role.permissions)).fold((0, 0), |(attached, boundaries), permissions| {
        let bounded = permissions.permissions_boundary.as_deref() == Some(name);
        (attached + usize::from(permissions.attached_policies.contains(name)), boundaries + usize::from(bounded))
    })
}
