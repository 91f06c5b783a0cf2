//! IAM's entities as its answers write them; members that do not apply are absent.

use crate::directory::entity::{
    AccessKey, Device, Entity, Group, Permissions, Policy, Role, User, Version, policy_arn,
};
use crate::key::{AccountId, rfc3339_seconds};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// IAM answers policy documents percent-encoded, by RFC 3986.
const DOCUMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

pub(super) fn document(text: &str) -> String {
    utf8_percent_encode(text, DOCUMENT).to_string()
}

pub(super) fn tags(tags: &BTreeMap<String, String>) -> Vec<Value> {
    tags.iter().map(|(key, value)| json!({"Key": key, "Value": value})).collect()
}

/// As lists have it.
pub(super) fn user(account: AccountId, user: &User) -> Value {
    json!({
        "Path": "/", "UserName": user.user_name, "UserId": user.user_id,
        "Arn": User::arn(account, &user.user_name), "CreateDate": rfc3339_seconds(user.created_us),
    })
}

/// As GetUser and CreateUser have it.
pub(super) fn user_in_full(account: AccountId, entity: &User) -> Value {
    let mut answer = user(account, entity);
    add_boundary(&mut answer, account, &entity.permissions);
    add_tags(&mut answer, &entity.tags);
    answer
}

pub(super) fn group(account: AccountId, group: &Group) -> Value {
    json!({
        "Path": "/", "GroupName": group.group_name, "GroupId": group.group_id,
        "Arn": Group::arn(account, &group.group_name), "CreateDate": rfc3339_seconds(group.created_us),
    })
}

/// As lists have it.
pub(super) fn role(account: AccountId, role: &Role) -> Value {
    let mut answer = json!({
        "Path": "/", "RoleName": role.role_name, "RoleId": role.role_id,
        "Arn": Role::arn(account, &role.role_name), "CreateDate": rfc3339_seconds(role.created_us),
        "AssumeRolePolicyDocument": document(&role.assume_role_policy.text),
    });
    if !role.description.is_empty() {
        answer["Description"] = role.description.as_str().into();
    }
    answer["MaxSessionDuration"] = role.max_session_secs.into();
    answer
}

/// As GetRole and CreateRole have it.
pub(super) fn role_in_full(account: AccountId, entity: &Role) -> Value {
    let mut answer = role(account, entity);
    add_boundary(&mut answer, account, &entity.permissions);
    add_tags(&mut answer, &entity.tags);
    answer
}

/// `uses`: how many entities have it attached, and how many have it as their boundary.
pub(super) fn policy(account: AccountId, policy: &Policy, uses: (usize, usize)) -> Value {
    let mut answer = json!({
        "PolicyName": policy.policy_name, "PolicyId": policy.policy_id,
        "Arn": policy_arn(account, &policy.policy_name), "Path": "/",
        "DefaultVersionId": version_id(policy.default_version), "AttachmentCount": uses.0,
        "PermissionsBoundaryUsageCount": uses.1, "IsAttachable": true,
    });
    if !policy.description.is_empty() {
        answer["Description"] = policy.description.as_str().into();
    }
    answer["CreateDate"] = rfc3339_seconds(policy.created_us).into();
    answer["UpdateDate"] = rfc3339_seconds(policy.updated_us).into();
    answer
}

pub(super) fn version_id(number: u32) -> String {
    format!("v{number}")
}

/// Without its document, as lists have it.
pub(super) fn version(policy: &Policy, number: u32, version: &Version) -> Value {
    json!({
        "VersionId": version_id(number), "IsDefaultVersion": number == policy.default_version,
        "CreateDate": rfc3339_seconds(version.created_us),
    })
}

pub(super) fn access_key(key: &AccessKey) -> Value {
    json!({
        "UserName": key.user_name, "AccessKeyId": key.access_key_id, "Status": status(key.active),
        "CreateDate": rfc3339_seconds(key.created_us),
    })
}

pub(super) fn status(active: bool) -> &'static str {
    if active { "Active" } else { "Inactive" }
}

/// A device as ListMFADevices has it; none when it is nobody's.
pub(super) fn device(account: AccountId, device: &Device) -> Option<Value> {
    let holder = device.holder.as_ref()?;
    Some(json!({
        "UserName": holder.user_name, "SerialNumber": Device::arn(account, &device.device_name),
        "EnableDate": rfc3339_seconds(holder.enabled_us),
    }))
}

fn add_boundary(answer: &mut Value, account: AccountId, permissions: &Permissions) {
    if let Some(name) = &permissions.permissions_boundary {
        answer["PermissionsBoundary"] =
            json!({"PermissionsBoundaryType": "Policy", "PermissionsBoundaryArn": policy_arn(account, name)});
    }
}

fn add_tags(answer: &mut Value, entity_tags: &BTreeMap<String, String>) {
    if !entity_tags.is_empty() {
        answer["Tags"] = tags(entity_tags).into();
    }
}
