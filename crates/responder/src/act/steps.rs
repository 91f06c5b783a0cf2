//! What each action looks at before, calls, and looks at after.
//!
//! The look before is the last guard: the evidence is milliseconds old, and whoever changed the target since (the
//! attacker or its owner) must not be overruled by a plan made for another state.

use crate::act::{Answer, Control, ControlError, grants};
use crate::outbox::{Action, ActionKind};
use keytrail_kms::approval;
use keytrail_kms::chain::leaf::sha256;
use serde_json::{Value, json};

/// The target as it is, against what the action needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Before {
    /// As expected; the word goes into the row before the call.
    Ready(String),
    /// Already what the action would make of it.
    Already(String),
    /// Something else: do not act.
    Changed(String),
}

/// States of a key that shall be deleted; in the second a primary key waits for its replicas.
const PENDING_DELETION: [&str; 2] = ["PendingDeletion", "PendingReplicaDeletion"];

/// Reads the target and judges.
pub async fn look(kms: &dyn Control, action: &Action) -> Result<Before, ControlError> {
    match action.kind {
        // Upserts with a time limit, and their ends: what is there is judged by the key service. The rest is no one call.
        ActionKind::QuarantinePrincipal
        | ActionKind::LiftQuarantine
        | ActionKind::RequireMfa
        | ActionKind::LiftMfa
        | ActionKind::SnapshotEvidence
        | ActionKind::RevokeGrants
        | ActionKind::CallOut => Ok(Before::Ready("-".into())),
        ActionKind::RestoreKeyPolicy => {
            let current = policy_hash(kms, &action.target).await?;
            Ok(if Some(current.as_str()) == text(&action.args, "currentPolicySha256") {
                Before::Ready(current)
            } else {
                Before::Changed("the policy was changed since".into())
            })
        }
        ActionKind::RevokeGrant => Ok(match grants::has(kms, action).await? {
            true => Before::Ready("granted".into()),
            false => Before::Already("there is no such grant".into()),
        }),
        ActionKind::AliasRestore => {
            let (current, args) = (alias_target(kms, &action.target).await?, &action.args);
            Ok(if current.as_deref() == text(args, "wantedKeyArn") {
                Before::Already(current.unwrap_or_default())
            } else if current.as_deref() == text(args, "currentTargetKeyArn") {
                Before::Ready(current.unwrap_or_else(|| "deleted".into()))
            } else {
                Before::Changed("the alias was moved since".into())
            })
        }
        ActionKind::DeactivateAccessKey | ActionKind::ActivateAccessKey => {
            let (inactive, wanted) = (is_inactive(kms, &action.target).await?, wants_inactive(action.kind));
            let state = if inactive { "Inactive" } else { "Active" };
            Ok(if inactive == wanted { Before::Already(state.into()) } else { Before::Ready(state.into()) })
        }
        ActionKind::DisableKey | ActionKind::EnableKey | ActionKind::CancelKeyDeletion => {
            Ok(judge_state(action.kind, &key_state(kms, &action.target).await?))
        }
    }
}

fn judge_state(kind: ActionKind, state: &str) -> Before {
    // The key service lets the responder disable a multi-Region key in its transient states, too.
    let (from, to): (&[&str], &str) = match kind {
        ActionKind::DisableKey => (&["Enabled", "Creating", "Updating"], "Disabled"),
        ActionKind::EnableKey => (&["Disabled"], "Enabled"),
        _ => (&PENDING_DELETION, "Disabled"),
    };
    if from.contains(&state) {
        Before::Ready(state.into())
    } else if state == to || (kind == ActionKind::CancelKeyDeletion && state == "Enabled") {
        Before::Already(state.into())
    } else {
        Before::Changed(format!("the key is in state {state}"))
    }
}

/// The one call that has the effect.
pub async fn act(kms: &dyn Control, action: &Action) -> Result<Answer, ControlError> {
    let (operation, body) = call(action);
    kms.call(operation, body, Some(&action.id)).await
}

/// Operation and body of an action; members without a value are left out.
fn call(action: &Action) -> (&'static str, Value) {
    let arg = |name: &str| action.args.get(name).cloned().unwrap_or(Value::Null);
    let target = &action.target;
    // A required second factor is on a key or on an account.
    let on = |name: &str| (name == "KeyId") == target.starts_with("arn:");
    let mut body = match action.kind {
        ActionKind::QuarantinePrincipal => json!({
            "PrincipalArn": target, "KeyId": arg("keyArn"), "TtlSeconds": arg("ttlSeconds"), "Reason": arg("reason"),
        }),
        ActionKind::LiftQuarantine => json!({ "PrincipalArn": target, "KeyId": arg("keyArn") }),
        ActionKind::RestoreKeyPolicy => json!({
            "KeyId": target,
            "CurrentPolicySha256": arg("currentPolicySha256"),
            "WantedEventId": arg("wantedEventId"),
            "SetBy": arg("setBy"),
        }),
        ActionKind::RevokeGrant => json!({ "KeyId": target, "GrantId": arg("grantId") }),
        ActionKind::RequireMfa | ActionKind::LiftMfa => json!({
            "KeyId": on("KeyId").then_some(target), "AccountId": on("AccountId").then_some(target),
            "Actions": arg("actions"), "TtlSeconds": arg("ttlSeconds"), "Reason": arg("reason"),
        }),
        ActionKind::AliasRestore => json!({
            "AliasName": target, "CurrentTargetKeyId": arg("currentTargetKeyArn"), "WantedEventId": arg("wantedEventId"),
        }),
        ActionKind::DeactivateAccessKey | ActionKind::ActivateAccessKey => {
            json!({ "AccessKeyId": target, "Reason": arg("reason") })
        }
        _ => json!({ "KeyId": target }),
    };
    if let Some(members) = body.as_object_mut() {
        members.retain(|_, value| !value.is_null());
    }
    (operation(action.kind), body)
}

fn operation(kind: ActionKind) -> &'static str {
    match kind {
        ActionKind::QuarantinePrincipal => "KeytrailService.PutQuarantine",
        ActionKind::LiftQuarantine => "KeytrailService.LiftQuarantine",
        ActionKind::CancelKeyDeletion => "TrentService.CancelKeyDeletion",
        ActionKind::EnableKey => "TrentService.EnableKey",
        ActionKind::DisableKey => "TrentService.DisableKey",
        ActionKind::RestoreKeyPolicy => "KeytrailService.RestoreKeyPolicy",
        ActionKind::RevokeGrant => "TrentService.RevokeGrant",
        ActionKind::RequireMfa => "KeytrailService.PutMfaRequirement",
        ActionKind::LiftMfa => "KeytrailService.LiftMfaRequirement",
        ActionKind::AliasRestore => "KeytrailService.RestoreAlias",
        ActionKind::DeactivateAccessKey => "KeytrailService.DeactivateAccessKey",
        ActionKind::ActivateAccessKey => "KeytrailService.ActivateAccessKey",
        // Never called: the worker does these itself.
        ActionKind::SnapshotEvidence | ActionKind::RevokeGrants | ActionKind::CallOut => "TrentService.DescribeKey",
    }
}

/// Reads the effect back: `None` when it is there, otherwise what is there instead.
pub async fn verify(kms: &dyn Control, action: &Action, answer: &Answer) -> Result<Option<String>, ControlError> {
    let absent = |there: bool, instead: &str| Ok((!there).then(|| instead.to_owned()));
    match action.kind {
        // The answer is the effect: it names the principal and, for a quarantine, its end; there is no call to ask with.
        ActionKind::QuarantinePrincipal => absent(answer.body.get("ExpiresAt").is_some(), "no quarantine"),
        ActionKind::LiftQuarantine | ActionKind::LiftMfa => Ok(None),
        ActionKind::RestoreKeyPolicy => {
            let (current, wanted) = (policy_hash(kms, &action.target).await?, text(&answer.body, "PolicySha256"));
            let restored = wanted == Some(current.as_str()) && text(&action.args, "currentPolicySha256") != wanted;
            Ok((!restored).then(|| format!("the policy has SHA-256 {current}")))
        }
        ActionKind::RevokeGrant => absent(!grants::has(kms, action).await?, "the grant is still there"),
        ActionKind::RequireMfa => {
            let listed = kms.call("KeytrailService.ListMfaRequirements", json!({}), None).await?;
            let on = text(&answer.body, "OnArn");
            let named = |entry: &Value| on.is_some() && text(entry, "OnArn") == on;
            absent(entries(&listed.body, "MfaRequirements").any(named), "no second factor is required")
        }
        ActionKind::AliasRestore => {
            let current = alias_target(kms, &action.target).await?;
            absent(current.as_deref() == text(&action.args, "wantedKeyArn"), "the alias points elsewhere")
        }
        ActionKind::DeactivateAccessKey | ActionKind::ActivateAccessKey => {
            let inactive = is_inactive(kms, &action.target).await?;
            absent(inactive == wants_inactive(action.kind), "the access key is as it was")
        }
        ActionKind::SnapshotEvidence | ActionKind::RevokeGrants | ActionKind::CallOut => Ok(None),
        ActionKind::DisableKey | ActionKind::EnableKey | ActionKind::CancelKeyDeletion => {
            let state = key_state(kms, &action.target).await?;
            let there = match action.kind {
                ActionKind::DisableKey => state == "Disabled",
                ActionKind::EnableKey => state == "Enabled",
                _ => !PENDING_DELETION.contains(&state.as_str()),
            };
            Ok((!there).then(|| format!("the key is in state {state}")))
        }
    }
}

/// Whether the key service left what was in force already: an undo would take away what somebody else put.
pub(crate) fn was_kept(answer: &Answer) -> bool {
    answer.body.get("Kept").and_then(Value::as_bool) == Some(true)
}

/// SHA-256 of the policy that a restore put back, hex.
pub(crate) fn restored_policy<'a>(action: &Action, answer: &'a Answer) -> Option<&'a str> {
    (action.kind == ActionKind::RestoreKeyPolicy).then(|| text(&answer.body, "PolicySha256")).flatten()
}

/// Refusals that say that there is nothing left to do, in words.
pub fn is_done_already(kind: ActionKind, code: &str) -> Option<&'static str> {
    match (kind, code) {
        (ActionKind::LiftQuarantine, "NotFoundException") => Some("no quarantine was in force any more"),
        (ActionKind::LiftMfa, "NotFoundException") => Some("no second factor was required any more"),
        (ActionKind::ActivateAccessKey, "NotFoundException") => Some("the access key was not withdrawn any more"),
        (ActionKind::RevokeGrant, "NotFoundException" | "InvalidGrantIdException") => {
            Some("there was no such grant any more")
        }
        (ActionKind::RestoreKeyPolicy, "AlreadyExistsException") => Some("the policy was put back before"),
        _ => None,
    }
}

/// Whether a target that is not as expected is for the key service to judge, under the key's lock: it alone knows whether the
/// present policy is the wanted one, and whose it is, and one of the offender's does not stop us.
pub fn is_judged_there(kind: ActionKind) -> bool {
    kind == ActionKind::RestoreKeyPolicy
}

/// Refusals that say that somebody else changed the target between the look and the call, in words.
pub fn is_changed_since(kind: ActionKind, code: &str) -> Option<&'static str> {
    match (kind, code) {
        (ActionKind::RestoreKeyPolicy, "KMSInvalidStateException") => Some("the policy was changed since"),
        _ => None,
    }
}

fn wants_inactive(kind: ActionKind) -> bool {
    kind == ActionKind::DeactivateAccessKey
}

async fn is_inactive(kms: &dyn Control, id: &str) -> Result<bool, ControlError> {
    // Ours lists all; an AWS account is asked about this one.
    let body = json!({ "AccessKeyId": id });
    let listed = kms.call("KeytrailService.ListDeactivatedAccessKeys", body, None).await?;
    Ok(entries(&listed.body, "AccessKeys").any(|entry| text(entry, "AccessKeyId") == Some(id)))
}

/// The key that an alias points to; none when there is no such alias.
async fn alias_target(kms: &dyn Control, alias: &str) -> Result<Option<String>, ControlError> {
    match kms.call("TrentService.DescribeKey", json!({ "KeyId": alias }), None).await {
        Ok(answer) => {
            let arn = answer.body.get("KeyMetadata").and_then(|metadata| text(metadata, "Arn"));
            arn.map(|arn| Some(arn.to_owned())).ok_or_else(|| unreadable("Arn"))
        }
        Err(ControlError::Refused { code, .. }) if code == "NotFoundException" => Ok(None),
        Err(error) => Err(error),
    }
}

fn entries<'a>(answer: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    answer.get(list).and_then(Value::as_array).into_iter().flatten()
}

async fn key_state(kms: &dyn Control, key: &str) -> Result<String, ControlError> {
    let answer = kms.call("TrentService.DescribeKey", json!({ "KeyId": key }), None).await?;
    let state = answer.body.get("KeyMetadata").and_then(|metadata| text(metadata, "KeyState"));
    state.map(str::to_owned).ok_or_else(|| unreadable("KeyState"))
}

/// A key as an approval binds to it.
pub(crate) async fn state_digest(kms: &dyn Control, key: &str) -> Result<String, ControlError> {
    let (state, policy) = (key_state(kms, key).await?, policy_hash(kms, key).await?);
    Ok(approval::key_state(key, &state, &policy))
}

pub(crate) async fn policy_hash(kms: &dyn Control, key: &str) -> Result<String, ControlError> {
    let body = json!({ "KeyId": key, "PolicyName": "default" });
    let answer = kms.call("TrentService.GetKeyPolicy", body, None).await?;
    let policy = text(&answer.body, "Policy").ok_or_else(|| unreadable("Policy"))?;
    Ok(hex::encode(sha256(&[policy.as_bytes()])))
}

fn text<'a>(value: &'a Value, member: &str) -> Option<&'a str> {
    value.get(member)?.as_str()
}

pub(crate) fn unreadable(member: &str) -> ControlError {
    ControlError::Refused { code: "UnreadableAnswer".into(), message: format!("the answer has no {member}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_of_a_key_is_judged() {
        let ready = |state: &str| Before::Ready(state.into());
        let already = |state: &str| Before::Already(state.into());
        let changed = |state: &str| Before::Changed(format!("the key is in state {state}"));
        let states = ["Enabled", "Disabled", "PendingDeletion", "PendingReplicaDeletion", "Updating"];
        let gone = || [changed("PendingDeletion"), changed("PendingReplicaDeletion")];
        let [first, second] = gone();
        let [third, fourth] = gone();
        let table = [
            (ActionKind::DisableKey, [ready("Enabled"), already("Disabled"), first, second, ready("Updating")]),
            (ActionKind::EnableKey, [already("Enabled"), ready("Disabled"), third, fourth, changed("Updating")]),
            (
                ActionKind::CancelKeyDeletion,
                [
                    already("Enabled"),
                    already("Disabled"),
                    ready("PendingDeletion"),
                    ready("PendingReplicaDeletion"),
                    changed("Updating"),
                ],
            ),
        ];
        for (kind, expected) in table {
            for (state, expected) in states.into_iter().zip(expected) {
                assert_eq!(judge_state(kind, state), expected, "{kind} {state}");
            }
        }
    }
}
