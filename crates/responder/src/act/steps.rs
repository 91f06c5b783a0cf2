//! What each action looks at before, calls, and looks at after.
//!
//! The look before is the last guard: the evidence is milliseconds old, and whoever changed the target since (the
//! attacker or its owner) must not be overruled by a plan made for another state.

use crate::act::{Answer, Control, ControlError};
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
        // An upsert by principal with a time limit: nothing to lose by doing it over what is there.
        ActionKind::QuarantinePrincipal | ActionKind::LiftQuarantine => Ok(Before::Ready("-".into())),
        ActionKind::RestoreKeyPolicy => {
            let current = policy_hash(kms, &action.target).await?;
            Ok(if Some(current.as_str()) == text(&action.args, "currentPolicySha256") {
                Before::Ready(current)
            } else {
                Before::Changed("the policy was changed since".into())
            })
        }
        _ => Ok(judge_state(action.kind, &key_state(kms, &action.target).await?)),
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
    let arg = |name: &str| action.args.get(name).cloned().unwrap_or(Value::Null);
    let target = &action.target;
    let (operation, body) = match action.kind {
        ActionKind::QuarantinePrincipal => (
            "KeytrailService.PutQuarantine",
            json!({ "PrincipalArn": target, "TtlSeconds": arg("ttlSeconds"), "Reason": arg("reason") }),
        ),
        ActionKind::LiftQuarantine => ("KeytrailService.LiftQuarantine", json!({ "PrincipalArn": target })),
        ActionKind::CancelKeyDeletion => ("TrentService.CancelKeyDeletion", json!({ "KeyId": target })),
        ActionKind::EnableKey => ("TrentService.EnableKey", json!({ "KeyId": target })),
        ActionKind::DisableKey => ("TrentService.DisableKey", json!({ "KeyId": target })),
        ActionKind::RestoreKeyPolicy => (
            "KeytrailService.RestoreKeyPolicy",
            json!({
                "KeyId": target,
                "CurrentPolicySha256": arg("currentPolicySha256"),
                "WantedEventId": arg("wantedEventId"),
            }),
        ),
    };
    kms.call(operation, body, Some(&action.id)).await
}

/// Reads the effect back: `None` when it is there, otherwise what is there instead.
pub async fn verify(kms: &dyn Control, action: &Action, answer: &Answer) -> Result<Option<String>, ControlError> {
    let found = match action.kind {
        // The answer is the effect: it names the principal and, for a quarantine, its end; there is no call to ask with.
        ActionKind::QuarantinePrincipal => answer.body.get("ExpiresAt").map_or("no quarantine", |_| "quarantined"),
        ActionKind::LiftQuarantine => return Ok(None),
        ActionKind::RestoreKeyPolicy => {
            let (current, wanted) = (policy_hash(kms, &action.target).await?, text(&answer.body, "PolicySha256"));
            let restored = wanted == Some(current.as_str()) && text(&action.args, "currentPolicySha256") != wanted;
            return Ok((!restored).then(|| format!("the policy has SHA-256 {current}")));
        }
        _ => {
            let state = key_state(kms, &action.target).await?;
            let there = match action.kind {
                ActionKind::DisableKey => state == "Disabled",
                ActionKind::EnableKey => state == "Enabled",
                _ => !PENDING_DELETION.contains(&state.as_str()),
            };
            return Ok((!there).then(|| format!("the key is in state {state}")));
        }
    };
    Ok((found != "quarantined").then(|| found.to_owned()))
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

async fn policy_hash(kms: &dyn Control, key: &str) -> Result<String, ControlError> {
    let body = json!({ "KeyId": key, "PolicyName": "default" });
    let answer = kms.call("TrentService.GetKeyPolicy", body, None).await?;
    let policy = text(&answer.body, "Policy").ok_or_else(|| unreadable("Policy"))?;
    Ok(hex::encode(sha256(&[policy.as_bytes()])))
}

fn text<'a>(value: &'a Value, member: &str) -> Option<&'a str> {
    value.get(member)?.as_str()
}

fn unreadable(member: &str) -> ControlError {
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
