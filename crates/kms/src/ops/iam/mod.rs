//! IAM over the query protocol: who exists and what they may do, administered without editing files.
//!
//! Each operation is a function over [`Work`]: it checks its members, asks the caller's policies, looks at what is
//! there, and says what is to be stored. Operations that change something run under the exclusive access lock and
//! commit with their event, like a quarantine; the rest are judged on a snapshot. To add one: the function, its line in
//! `CHANGES` or `READS`, its row in docs/event.md, a denial test.

mod access_keys;
mod groups;
mod input;
mod mfa;
mod oidc;
mod permissions;
mod policies;
mod render;
mod roles;
mod users;
mod work;

use super::answer::{Answer, Call};
use super::drive::{self, Class, Effect, Mutation, Query};
use super::judge::Judge;
use super::refusal::{Refusal, RefusalKind};
use crate::locks::Stripe;
use crate::node::Node;
use bytes::Bytes;
use input::Input;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use work::{Reply, Work};

/// One operation.
type Run = fn(&mut Work<'_, '_>) -> Result<Reply, Refusal>;

const CHANGES: &[(&str, Run)] = &[
    ("AddClientIDToOpenIDConnectProvider", oidc::add_client),
    ("AddUserToGroup", groups::add_user),
    ("AttachGroupPolicy", permissions::attach),
    ("AttachRolePolicy", permissions::attach),
    ("AttachUserPolicy", permissions::attach),
    ("CreateAccessKey", access_keys::create),
    ("CreateGroup", groups::create),
    ("CreateOpenIDConnectProvider", oidc::create),
    ("CreatePolicy", policies::create),
    ("CreatePolicyVersion", policies::create_version),
    ("CreateRole", roles::create),
    ("CreateUser", users::create),
    ("CreateVirtualMFADevice", mfa::create),
    ("DeactivateMFADevice", mfa::deactivate),
    ("DeleteAccessKey", access_keys::delete),
    ("DeleteGroup", groups::delete),
    ("DeleteGroupPolicy", permissions::delete_inline),
    ("DeleteOpenIDConnectProvider", oidc::delete),
    ("DeletePolicy", policies::delete),
    ("DeletePolicyVersion", policies::delete_version),
    ("DeleteRole", roles::delete),
    ("DeleteRolePermissionsBoundary", permissions::delete_boundary),
    ("DeleteRolePolicy", permissions::delete_inline),
    ("DeleteUser", users::delete),
    ("DeleteUserPermissionsBoundary", permissions::delete_boundary),
    ("DeleteUserPolicy", permissions::delete_inline),
    ("DeleteVirtualMFADevice", mfa::delete),
    ("DetachGroupPolicy", permissions::detach),
    ("DetachRolePolicy", permissions::detach),
    ("DetachUserPolicy", permissions::detach),
    ("EnableMFADevice", mfa::enable),
    ("PutGroupPolicy", permissions::put_inline),
    ("PutRolePermissionsBoundary", permissions::put_boundary),
    ("PutRolePolicy", permissions::put_inline),
    ("PutUserPermissionsBoundary", permissions::put_boundary),
    ("PutUserPolicy", permissions::put_inline),
    ("RemoveClientIDFromOpenIDConnectProvider", oidc::remove_client),
    ("RemoveUserFromGroup", groups::remove_user),
    ("ResyncMFADevice", mfa::resync),
    ("SetDefaultPolicyVersion", policies::set_default_version),
    ("TagOpenIDConnectProvider", oidc::tag),
    ("TagPolicy", policies::tag),
    ("TagRole", roles::tag),
    ("TagUser", users::tag),
    ("UntagOpenIDConnectProvider", oidc::untag),
    ("UntagPolicy", policies::untag),
    ("UntagRole", roles::untag),
    ("UntagUser", users::untag),
    ("UpdateAccessKey", access_keys::update),
    ("UpdateAssumeRolePolicy", roles::update_trust),
    ("UpdateOpenIDConnectProviderThumbprint", oidc::update_thumbprints),
    ("UpdateRole", roles::update),
];

const READS: &[(&str, Run)] = &[
    ("GetGroup", groups::get),
    ("GetGroupPolicy", permissions::get_inline),
    ("GetOpenIDConnectProvider", oidc::get),
    ("GetPolicy", policies::get),
    ("GetPolicyVersion", policies::get_version),
    ("GetRole", roles::get),
    ("GetRolePolicy", permissions::get_inline),
    ("GetUser", users::get),
    ("GetUserPolicy", permissions::get_inline),
    ("ListAccessKeys", access_keys::list),
    ("ListAttachedGroupPolicies", permissions::list_attached),
    ("ListAttachedRolePolicies", permissions::list_attached),
    ("ListAttachedUserPolicies", permissions::list_attached),
    ("ListEntitiesForPolicy", policies::entities),
    ("ListGroupPolicies", permissions::list_inline),
    ("ListGroups", groups::list),
    ("ListGroupsForUser", groups::of_user),
    ("ListInstanceProfilesForRole", roles::instance_profiles),
    ("ListMFADevices", mfa::of_user),
    ("ListOpenIDConnectProviderTags", oidc::tags),
    ("ListOpenIDConnectProviders", oidc::list),
    ("ListPolicies", policies::list),
    ("ListPolicyTags", policies::tags),
    ("ListPolicyVersions", policies::versions),
    ("ListRolePolicies", permissions::list_inline),
    ("ListRoleTags", roles::tags),
    ("ListRoles", roles::list),
    ("ListUserPolicies", permissions::list_inline),
    ("ListUserTags", users::tags),
    ("ListUsers", users::list),
    ("ListVirtualMFADevices", mfa::list),
];

/// Runs one authenticated IAM call.
pub(super) async fn run(node: &Arc<Node>, call: Arc<Call>, body: &[u8]) -> Answer {
    let found = |table: &[(&str, Run)]| table.iter().find(|(name, _)| *name == call.operation).map(|(_, run)| *run);
    let (change, read) = (found(CHANGES), found(READS));
    match (super::input::parse::<Input>(body), change, read) {
        (Ok(input), Some(run), _) => drive::change(node, call, Changing { input, run }).await,
        (Ok(input), None, Some(run)) => drive::answer_query(node, &call, &Reading { input, run }).await,
        (Err(refusal), Some(_), _) | (Err(refusal), _, Some(_)) => drive::refuse(node, &call, refusal).await,
        (_, None, None) => {
            let text = format!("Could not find operation {} for version 2010-05-08", call.operation);
            drive::refuse(node, &call, Refusal::new(RefusalKind::UnknownOperation, text)).await
        }
    }
}

/// Names of all operations.
#[cfg(test)]
pub(crate) fn operations() -> impl Iterator<Item = &'static str> {
    CHANGES.iter().chain(READS).map(|(name, _)| *name)
}

/// What an IAM operation would record of a form's JSON; nothing when it is no input.
#[cfg(feature = "testing")]
pub(super) fn records(body: &[u8]) -> Option<Value> {
    let input = super::input::parse::<Input>(body).ok()?;
    Some(input.recorded().unwrap_or_default())
}

struct Reading {
    input: Input,
    run: Run,
}

impl Query for Reading {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        self.input.recorded()
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        (self.run)(&mut Work::new(judge, &self.input)?).map(|reply| reply.body)
    }
}

struct Changing {
    input: Input,
    run: Run,
}

impl Mutation for Changing {
    const ACCESS: bool = true;

    fn parameters(&self) -> Option<Value> {
        self.input.recorded()
    }

    fn stripes(&self, _judge: &Judge<'_>) -> BTreeSet<Stripe> {
        BTreeSet::new()
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let mut work = Work::new(judge, &self.input)?;
        let reply = (self.run)(&mut work)?;
        work.finish(reply)
    }
}
