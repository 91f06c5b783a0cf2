//! Users and their tags.

use super::super::refusal::{Refusal, RefusalKind};
use super::input::{new_name, required};
use super::render;
use super::work::{Facts, Reply, Work};
use crate::auth::credentials::principal_id;
use crate::directory::entity::{AccessKey, Device, Permissions, User, of_account};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// AWS's quota.
const USERS_MAX: usize = 5_000;
const TAGS_MAX: usize = 50;

pub(super) fn create(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let name = new_name(&work.input.user_name, "userName", 64)?;
    work.input.no_path()?;
    let tags = work.input.tags()?;
    let boundary = work.input.permissions_boundary.as_deref();
    work.allow::<User>(name, &Facts { request_tags: Some(&tags), boundary, ..Facts::default() })?;
    work.room_for::<User>(name, USERS_MAX)?;
    let permissions_boundary = boundary.map(|arn| work.attachable(arn)).transpose()?;
    let user = User {
        user_name: name.to_owned(),
        user_id: principal_id("AIDA").map_err(|_| Refusal::internal())?,
        created_us: work.now_us(),
        tags,
        groups: BTreeSet::new(),
        permissions: Permissions { permissions_boundary, ..Permissions::default() },
    };
    let answer = json!({"User": render::user_in_full(work.account, &user)});
    work.put(user, None);
    Ok(answer.into())
}

pub(super) fn get(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let name = work.user_name_or_caller()?;
    allow(work, &name)?;
    let user = work.existing::<User>(&name)?;
    Ok(json!({"User": render::user_in_full(work.account, &user)}).into())
}

pub(super) fn list(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    work.input.no_path()?;
    work.allow_listing::<User>()?;
    let users = work.all::<User>();
    let entries = users.iter().map(|user| (user.user_name.clone(), render::user(work.account, user)));
    Ok(work.page("Users", entries)?.into())
}

pub(super) fn delete(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let name = required(&work.input.user_name, "userName")?;
    allow(work, name)?;
    let user = work.changeable::<User>(name)?;
    let keys = of_account::<AccessKey>(work.stored(), work.account).any(|key| key.user_name == name);
    let held = |device: &Device| device.holder.as_ref().is_some_and(|holder| holder.user_name == name);
    let devices = of_account::<Device>(work.stored(), work.account).any(|device| held(device));
    let permissions = &user.permissions;
    for (there, what) in [
        (!permissions.attached_policies.is_empty(), "detach all policies"),
        (!permissions.inline_policies.is_empty(), "delete policies"),
        (!user.groups.is_empty(), "remove users from group"),
        (keys, "delete access keys"),
        (devices, "deactivate MFA devices"),
    ] {
        if there {
            let text = format!("Cannot delete entity, must {what} first.");
            return Err(Refusal::new(RefusalKind::DeleteConflict, text));
        }
    }
    work.remove::<User>(name);
    Ok(Reply::nothing())
}

pub(super) fn tag(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let name = required(&work.input.user_name, "userName")?;
    let tags = work.input.tags()?;
    let before = work.tags_of_user(name);
    work.allow::<User>(name, &Facts { resource_tags: Some(&before), request_tags: Some(&tags), ..Facts::default() })?;
    let mut user = (*work.changeable::<User>(name)?).clone();
    merge_tags(&mut user.tags, tags)?;
    work.put(user, None);
    Ok(Reply::nothing())
}

pub(super) fn untag(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let name = required(&work.input.user_name, "userName")?;
    let keys = work.input.tag_keys.as_ref().map_or(&[][..], |keys| &keys.0);
    let before = work.tags_of_user(name);
    work.allow::<User>(name, &Facts { resource_tags: Some(&before), tag_keys: keys, ..Facts::default() })?;
    let mut user = (*work.changeable::<User>(name)?).clone();
    user.tags.retain(|key, _| !keys.contains(key));
    work.put(user, None);
    Ok(Reply::nothing())
}

pub(super) fn tags(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let name = required(&work.input.user_name, "userName")?;
    allow(work, name)?;
    let user = work.existing::<User>(name)?;
    Ok(work.page("Tags", tag_entries(&user.tags))?.into())
}

/// Asks about this user.
pub(super) fn allow(work: &mut Work<'_, '_>, name: &str) -> Result<(), Refusal> {
    let tags = work.tags_of_user(name);
    work.allow::<User>(name, &Facts { resource_tags: Some(&tags), ..Facts::default() })
}

/// Lays tags over others; a key that differs from one there only in case takes its place, as at AWS.
pub(super) fn merge_tags(there: &mut BTreeMap<String, String>, added: BTreeMap<String, String>) -> Result<(), Refusal> {
    there.retain(|key, _| !added.keys().any(|new| new.to_lowercase() == key.to_lowercase()));
    there.extend(added);
    if there.len() > TAGS_MAX {
        return Err(Refusal::new(RefusalKind::LimitExceeded, "Cannot exceed quota for TagsPerEntity: 50"));
    }
    Ok(())
}

pub(super) fn tag_entries(tags: &BTreeMap<String, String>) -> impl Iterator<Item = (String, Value)> {
    tags.iter().map(|(key, value)| (key.clone(), json!({"Key": key, "Value": value})))
}
