//! Groups and who is in them. Membership is kept with the user; groups of identities.toml take members only there.

use super::super::refusal::{Refusal, RefusalKind};
use super::input::{new_name, required};
use super::render;
use super::users;
use super::work::{Facts, Reply, Work};
use crate::auth::credentials::principal_id;
use crate::directory::entity::{Group, Permissions, User};
use serde_json::{Value, json};

/// AWS's quotas.
const GROUPS_MAX: usize = 300;
const GROUPS_OF_USER_MAX: usize = 10;

pub(super) fn create(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let name = new_name(&work.input.group_name, "groupName", 128)?;
    work.input.no_path()?;
    work.allow::<Group>(name, &Facts::default())?;
    work.room_for::<Group>(name, GROUPS_MAX)?;
    let group = Group {
        group_name: name.to_owned(),
        group_id: principal_id("AGPA").map_err(|_| Refusal::internal())?,
        created_us: work.now_us(),
        permissions: Permissions::default(),
    };
    let answer = json!({"Group": render::group(work.account, &group)});
    work.put(group, None);
    Ok(answer.into())
}

pub(super) fn get(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let name = required(&work.input.group_name, "groupName")?;
    work.allow::<Group>(name, &Facts::default())?;
    let group = work.existing::<Group>(name)?;
    let members = work.all::<User>().into_iter().filter(|user| user.groups.contains(name));
    let entries: Vec<(String, Value)> =
        members.map(|user| (user.user_name.clone(), render::user(work.account, &user))).collect();
    let mut answer = json!({"Group": render::group(work.account, &group)});
    if let (Some(answer), Value::Object(page)) = (answer.as_object_mut(), work.page("Users", entries)?) {
        answer.extend(page);
    }
    Ok(answer.into())
}

pub(super) fn list(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    work.input.no_path()?;
    work.allow_listing::<Group>()?;
    let groups = work.all::<Group>();
    let entries = groups.iter().map(|group| (group.group_name.clone(), render::group(work.account, group)));
    Ok(work.page("Groups", entries)?.into())
}

pub(super) fn of_user(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let name = required(&work.input.user_name, "userName")?;
    users::allow(work, name)?;
    let user = work.existing::<User>(name)?;
    let groups = user.groups.iter().filter_map(|name| work.find::<Group>(name));
    let entries: Vec<_> = groups.map(|group| (group.group_name.clone(), render::group(work.account, &group))).collect();
    Ok(work.page("Groups", entries)?.into())
}

pub(super) fn delete(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let name = required(&work.input.group_name, "groupName")?;
    work.allow::<Group>(name, &Facts::default())?;
    let group = work.changeable::<Group>(name)?;
    let members = work.all::<User>().iter().any(|user| user.groups.contains(name));
    for (there, what) in [
        (!group.permissions.attached_policies.is_empty(), "detach all policies"),
        (!group.permissions.inline_policies.is_empty(), "delete policies"),
        (members, "remove users from group"),
    ] {
        if there {
            let text = format!("Cannot delete entity, must {what} first.");
            return Err(Refusal::new(RefusalKind::DeleteConflict, text));
        }
    }
    work.remove::<Group>(name);
    Ok(Reply::nothing())
}

pub(super) fn add_user(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    change_members(work, |groups, name| {
        groups.insert(name.to_owned());
        if groups.len() > GROUPS_OF_USER_MAX {
            let text = format!("Cannot exceed quota for GroupsPerUser: {GROUPS_OF_USER_MAX}");
            return Err(Refusal::new(RefusalKind::LimitExceeded, text));
        }
        Ok(())
    })
}

pub(super) fn remove_user(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    change_members(work, |groups, name| {
        groups.remove(name);
        Ok(())
    })
}

fn change_members(
    work: &mut Work<'_, '_>,
    change: impl FnOnce(&mut std::collections::BTreeSet<String>, &str) -> Result<(), Refusal>,
) -> Result<Reply, Refusal> {
    let group = required(&work.input.group_name, "groupName")?;
    let user = required(&work.input.user_name, "userName")?;
    work.allow::<Group>(group, &Facts::default())?;
    work.changeable::<Group>(group)?;
    let mut user = (*work.changeable::<User>(user)?).clone();
    change(&mut user.groups, group)?;
    work.put(user, None);
    Ok(Reply::nothing())
}
