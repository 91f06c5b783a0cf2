//! Identities from what LoadIdentities recorded of them, by the same checks as from the file.
//!
//! The record has everything but secrets, so the result can say who could do what and can let nobody in.

use super::{AccountShape, GroupShape, PolicyShape, RoleShape, Shape, UserShape, identities};
use crate::auth::identities::{Identities, IdentitiesError};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct Recorded {
    accounts: Vec<Account>,
    policies: Vec<Policy>,
    groups: Vec<Group>,
    users: Vec<User>,
    roles: Vec<Role>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Account {
    account_id: String,
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Policy {
    account_id: String,
    policy_name: String,
    policy_document: Value,
}

/// A policy by its name, or a document in place.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    policy_name: String,
    policy_document: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    account_id: String,
    group_name: String,
    policies: Vec<Listed>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct User {
    account_id: String,
    user_name: String,
    user_id: Option<String>,
    groups: Vec<String>,
    policies: Vec<Listed>,
    #[serde(default)]
    permissions_boundary: Vec<Listed>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Role {
    account_id: String,
    role_name: String,
    role_id: Option<String>,
    assume_role_policy_document: Value,
    policies: Vec<Listed>,
    #[serde(default)]
    permissions_boundary: Vec<Listed>,
    max_session_duration: Option<u64>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

/// Reads the object that `public` wrote.
pub(in crate::auth::identities) fn parse_recorded(public: &Value) -> Result<Identities, IdentitiesError> {
    let recorded = Recorded::deserialize(public).map_err(|error| IdentitiesError::Syntax {
        line: error.line(),
        reason: "not as LoadIdentities writes it".to_owned(),
    })?;
    let Recorded { accounts, policies, groups, users, roles } = recorded;
    identities(Shape {
        account: accounts.into_iter().map(|a| AccountShape { id: a.account_id, name: a.name }).collect(),
        policy: policies
            .into_iter()
            .map(|p| PolicyShape {
                account: p.account_id,
                name: p.policy_name,
                document: p.policy_document.to_string(),
            })
            .collect(),
        group: groups
            .into_iter()
            .map(|g| GroupShape { account: g.account_id, name: g.group_name, policies: texts(g.policies) })
            .collect(),
        user: users.into_iter().map(user).collect(),
        role: roles.into_iter().map(role).collect(),
        ..Shape::default()
    })
}

fn user(user: User) -> UserShape {
    UserShape {
        account: user.account_id,
        name: user.user_name,
        groups: user.groups,
        policies: texts(user.policies),
        permissions_boundary: texts(user.permissions_boundary).pop(),
        tags: user.tags,
        id: user.user_id,
    }
}

fn role(role: Role) -> RoleShape {
    RoleShape {
        account: role.account_id,
        name: role.role_name,
        trust: role.assume_role_policy_document.to_string(),
        policies: texts(role.policies),
        permissions_boundary: texts(role.permissions_boundary).pop(),
        max_session_secs: role.max_session_duration,
        tags: role.tags,
        id: role.role_id,
    }
}

fn texts(listed: Vec<Listed>) -> Vec<String> {
    listed.into_iter().map(|one| one.policy_document.map_or(one.policy_name, |document| document.to_string())).collect()
}
