//! What users, groups and roles may do: policies of their own, attached policies, boundaries. One set of functions for
//! the three: the operation's name says which it is about.

use super::super::refusal::{Refusal, RefusalKind};
use super::input::{new_name, policy, required};
use super::render;
use super::work::{Facts, Reply, Work};
use crate::directory::entity::{Entity, Group, Permissions, Role, User, policy_arn};
use crate::policy::Flavor;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// AWS's quotas.
const ATTACHED_MAX: usize = 10;
const USER_CHARS_MAX: usize = 2_048;
const GROUP_CHARS_MAX: usize = 5_120;
const ROLE_CHARS_MAX: usize = 10_240;

/// Whom an operation is about.
enum Owner {
    User(String),
    Group(String),
    Role(String),
}

impl Owner {
    /// By the member that the operation takes.
    fn of(work: &Work<'_, '_>) -> Result<Self, Refusal> {
        let name = work.judge.call.operation.as_str();
        if name.contains("Group") {
            return Ok(Self::Group(required(&work.input.group_name, "groupName")?.to_owned()));
        }
        if name.contains("Role") {
            return Ok(Self::Role(required(&work.input.role_name, "roleName")?.to_owned()));
        }
        Ok(Self::User(required(&work.input.user_name, "userName")?.to_owned()))
    }

    /// The member of answers that names it.
    fn member(&self) -> (&'static str, &str) {
        match self {
            Self::User(name) => ("UserName", name),
            Self::Group(name) => ("GroupName", name),
            Self::Role(name) => ("RoleName", name),
        }
    }

    /// Asks about it.
    fn allow(&self, work: &mut Work<'_, '_>, policy_arn: Option<&str>) -> Result<(), Refusal> {
        let (tags, boundary) = match self {
            Self::User(name) => work.find::<User>(name).map(|u| (u.tags.clone(), u.permissions.clone())),
            Self::Role(name) => work.find::<Role>(name).map(|r| (r.tags.clone(), r.permissions.clone())),
            Self::Group(_) => None,
        }
        .map(|(tags, permissions)| (tags, work.boundary_arn(permissions.permissions_boundary.as_ref())))
        .unwrap_or_default();
        self.allow_with(work, policy_arn, &tags, boundary.as_deref())
    }

    fn allow_with(
        &self,
        work: &mut Work<'_, '_>,
        policy_arn: Option<&str>,
        tags: &BTreeMap<String, String>,
        boundary: Option<&str>,
    ) -> Result<(), Refusal> {
        let facts = Facts { resource_tags: Some(tags), policy_arn, boundary, ..Facts::default() };
        match self {
            Self::User(name) => work.allow::<User>(name, &facts),
            Self::Group(name) => work.allow::<Group>(name, &facts),
            Self::Role(name) => work.allow::<Role>(name, &facts),
        }
    }

    fn permissions(&self, work: &Work<'_, '_>) -> Result<Permissions, Refusal> {
        Ok(match self {
            Self::User(name) => work.existing::<User>(name)?.permissions.clone(),
            Self::Group(name) => work.existing::<Group>(name)?.permissions.clone(),
            Self::Role(name) => work.existing::<Role>(name)?.permissions.clone(),
        })
    }

    /// Changes what it may do.
    fn change(
        &self,
        work: &mut Work<'_, '_>,
        change: impl FnOnce(&mut Permissions) -> Result<(), Refusal>,
    ) -> Result<Reply, Refusal> {
        fn changed<E: Entity>(
            work: &mut Work<'_, '_>,
            name: &str,
            change: impl FnOnce(&mut E) -> Result<(), Refusal>,
        ) -> Result<(), Refusal> {
            let mut entity = (*work.changeable::<E>(name)?).clone();
            change(&mut entity)?;
            work.put(entity, None);
            Ok(())
        }
        match self {
            Self::User(name) => changed::<User>(work, name, |user| change(&mut user.permissions))?,
            Self::Group(name) => changed::<Group>(work, name, |group| change(&mut group.permissions))?,
            Self::Role(name) => changed::<Role>(work, name, |role| change(&mut role.permissions))?,
        }
        Ok(Reply::nothing())
    }

    fn chars_max(&self) -> usize {
        match self {
            Self::User(_) => USER_CHARS_MAX,
            Self::Group(_) => GROUP_CHARS_MAX,
            Self::Role(_) => ROLE_CHARS_MAX,
        }
    }

    fn no_policy(&self, name: &str) -> Refusal {
        let (member, owner) = self.member();
        let noun = member.trim_end_matches("Name").to_lowercase();
        let text = format!("The {noun} policy with name {name} cannot be found for {owner}.");
        Refusal::new(RefusalKind::NoSuchEntity, text)
    }
}

pub(super) fn put_inline(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let owner = Owner::of(work)?;
    let name = new_name(&work.input.policy_name, "policyName", 128)?;
    owner.allow(work, None)?;
    let text = policy(&work.input.policy_document, "policyDocument", Flavor::IdentityPolicy, owner.chars_max())?;
    owner.change(work, |permissions| {
        permissions.inline_policies.insert(name.to_owned(), text);
        let chars = |text: &str| text.chars().filter(|c| !c.is_whitespace()).count();
        let all: usize = permissions.inline_policies.values().map(|policy| chars(&policy.text)).sum();
        if all > owner.chars_max() {
            let text = format!("Maximum policy size of {} bytes exceeded", owner.chars_max());
            return Err(Refusal::new(RefusalKind::LimitExceeded, text));
        }
        Ok(())
    })
}

pub(super) fn get_inline(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let owner = Owner::of(work)?;
    let name = required(&work.input.policy_name, "policyName")?;
    owner.allow(work, None)?;
    let permissions = owner.permissions(work)?;
    let found = permissions.inline_policies.get(name).ok_or_else(|| owner.no_policy(name))?;
    let (member, owner) = owner.member();
    Ok(json!({member: owner, "PolicyName": name, "PolicyDocument": render::document(&found.text)}).into())
}

pub(super) fn list_inline(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let owner = Owner::of(work)?;
    owner.allow(work, None)?;
    let permissions = owner.permissions(work)?;
    let entries = permissions.inline_policies.keys().map(|name| (name.clone(), Value::from(name.as_str())));
    Ok(work.page("PolicyNames", entries)?.into())
}

pub(super) fn delete_inline(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let owner = Owner::of(work)?;
    let name = required(&work.input.policy_name, "policyName")?;
    owner.allow(work, None)?;
    owner.change(work, |permissions| {
        permissions.inline_policies.remove(name).map(|_| ()).ok_or_else(|| owner.no_policy(name))
    })
}

pub(super) fn attach(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let owner = Owner::of(work)?;
    let arn = required(&work.input.policy_arn, "policyArn")?;
    owner.allow(work, Some(arn))?;
    let name = work.attachable(arn)?;
    owner.change(work, |permissions| {
        permissions.attached_policies.insert(name);
        if permissions.attached_policies.len() > ATTACHED_MAX {
            let text = format!("Cannot exceed quota for AttachedPoliciesPerEntity: {ATTACHED_MAX}");
            return Err(Refusal::new(RefusalKind::LimitExceeded, text));
        }
        Ok(())
    })
}

pub(super) fn detach(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let owner = Owner::of(work)?;
    let arn = required(&work.input.policy_arn, "policyArn")?;
    owner.allow(work, Some(arn))?;
    let name = work.attachable(arn)?;
    owner.change(work, |permissions| {
        let missing = || Refusal::new(RefusalKind::NoSuchEntity, format!("Policy {arn} was not found."));
        permissions.attached_policies.remove(&name).then_some(()).ok_or_else(missing)
    })
}

pub(super) fn list_attached(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let owner = Owner::of(work)?;
    work.input.no_path()?;
    owner.allow(work, None)?;
    let permissions = owner.permissions(work)?;
    let entries = permissions
        .attached_policies
        .iter()
        .map(|name| (name.clone(), json!({"PolicyName": name, "PolicyArn": policy_arn(work.account, name)})));
    Ok(work.page("AttachedPolicies", entries)?.into())
}

pub(super) fn put_boundary(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let owner = Owner::of(work)?;
    let arn = required(&work.input.permissions_boundary, "permissionsBoundary")?;
    let tags = match &owner {
        Owner::User(name) => work.tags_of_user(name),
        Owner::Role(name) => work.find::<Role>(name).map(|role| role.tags.clone()).unwrap_or_default(),
        Owner::Group(_) => BTreeMap::new(),
    };
    // The condition sees the boundary that is to be, so that an administrator can be held to hand out a certain one.
    owner.allow_with(work, None, &tags, Some(arn))?;
    let name = work.attachable(arn)?;
    owner.change(work, |permissions| {
        permissions.permissions_boundary = Some(name);
        Ok(())
    })
}

pub(super) fn delete_boundary(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let owner = Owner::of(work)?;
    owner.allow(work, None)?;
    owner.change(work, |permissions| {
        permissions.permissions_boundary = None;
        Ok(())
    })
}
