//! Is the effect of an action still there? Read anew, as the key service has it now.

use crate::act::steps::{Before, look, policy_hash};
use crate::act::{Control, ControlError};
use crate::guard::role_of_session;
use crate::outbox::{Action, ActionKind, RESTORED_ARG};
use serde_json::{Value, json};

/// The first effect that is gone, in words.
pub(super) async fn first_gone(kms: &dyn Control, actions: &[Action]) -> Result<Option<String>, ControlError> {
    let (mut quarantines, mut requirements): (Option<Value>, Option<Value>) = (None, None);
    for (at, action) in actions.iter().enumerate() {
        // Of several restores of one thing the last one counts.
        let again = |later: &Action| later.kind == action.kind && later.target == action.target;
        let restores = matches!(action.kind, ActionKind::RestoreKeyPolicy | ActionKind::AliasRestore);
        if restores && actions.iter().skip(at + 1).any(again) {
            continue;
        }
        match action.kind {
            // These contain nothing, or are rows of their own.
            ActionKind::SnapshotEvidence | ActionKind::CallOut | ActionKind::RevokeGrants => continue,
            ActionKind::QuarantinePrincipal => {
                let held = match quarantines.take() {
                    Some(held) => held,
                    None => kms.call("KeytrailService.ListQuarantines", json!({}), None).await?.body,
                };
                if !is_quarantined(&held, action) {
                    return Ok(Some(format!("the quarantine of {} is over", action.target)));
                }
                quarantines = Some(held);
                continue;
            }
            ActionKind::RequireMfa => {
                let held = match requirements.take() {
                    Some(held) => held,
                    None => kms.call("KeytrailService.ListMfaRequirements", json!({}), None).await?.body,
                };
                if !is_mfa_required(&held, &action.target) {
                    return Ok(Some(format!("the second factor on {} is not required any more", action.target)));
                }
                requirements = Some(held);
                continue;
            }
            _ => {}
        }
        if let Some(restored) = action.args.get(RESTORED_ARG).and_then(Value::as_str) {
            if policy_hash(kms, &action.target).await? != restored {
                return Ok(Some(format!("{} has another policy than the one that was put back", action.target)));
            }
            continue;
        }
        let seen = look(kms, action).await?;
        if action.kind == ActionKind::AliasRestore && !matches!(seen, Before::Already(_)) {
            return Ok(Some(format!("{} was moved after it was put back", action.target)));
        }
        // Ready to be done means that it is not done any more. A key that was enabled again after a cancelled deletion may
        // have been disabled by a later step, which is looked at by itself.
        if action.kind != ActionKind::EnableKey && matches!(seen, Before::Ready(_)) {
            return Ok(Some(format!("{} of {} was taken back", action.kind, action.target)));
        }
    }
    Ok(None)
}

/// The key service lists what is in force only, a session under its role; one on a key names it.
fn is_quarantined(held: &Value, action: &Action) -> bool {
    let role = role_of_session(&action.target);
    let key = action.args.get("keyArn").and_then(Value::as_str);
    let list = held.get("Quarantines").and_then(Value::as_array);
    list.is_some_and(|list| {
        let on_it = list.iter().filter(|one| one.get("KeyArn").and_then(Value::as_str) == key);
        let mut arns = on_it.filter_map(|one| one.get("PrincipalArn")?.as_str());
        arns.any(|arn| arn == action.target || Some(arn) == role.as_deref())
    })
}

/// A requirement is on a key, or on an account under its root's ARN.
fn is_mfa_required(held: &Value, target: &str) -> bool {
    let root = format!(":iam::{target}:root");
    let list = held.get("MfaRequirements").and_then(Value::as_array);
    list.is_some_and(|list| {
        let mut on = list.iter().filter_map(|one| one.get("OnArn")?.as_str());
        on.any(|on| on == target || on.ends_with(&root))
    })
}
