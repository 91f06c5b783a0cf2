//! Is the effect of an action still there? Read anew, as the key service has it now.

use crate::act::steps::{Before, look};
use crate::act::{Control, ControlError};
use crate::guard::role_of_session;
use crate::outbox::{Action, ActionKind};
use serde_json::{Value, json};

/// The first effect that is gone, in words.
pub(super) async fn first_gone(kms: &dyn Control, actions: &[Action]) -> Result<Option<String>, ControlError> {
    let mut quarantines: Option<Value> = None;
    for action in actions {
        if action.kind == ActionKind::QuarantinePrincipal {
            let held = match quarantines.take() {
                Some(held) => held,
                None => kms.call("KeytrailService.ListQuarantines", json!({}), None).await?.body,
            };
            if !is_quarantined(&held, &action.target) {
                return Ok(Some(format!("the quarantine of {} is over", action.target)));
            }
            quarantines = Some(held);
            continue;
        }
        // Ready to be done means that it is not done any more. A key that was enabled again after a cancelled deletion may
        // have been disabled by a later step, which is looked at by itself.
        if action.kind != ActionKind::EnableKey && matches!(look(kms, action).await?, Before::Ready(_)) {
            return Ok(Some(format!("{} of {} was taken back", action.kind, action.target)));
        }
    }
    Ok(None)
}

/// The key service lists what is in force only, a session under its role.
fn is_quarantined(held: &Value, target: &str) -> bool {
    let role = role_of_session(target);
    let list = held.get("Quarantines").and_then(Value::as_array);
    list.is_some_and(|list| {
        let mut arns = list.iter().filter_map(|one| one.get("PrincipalArn")?.as_str());
        arns.any(|arn| arn == target || Some(arn) == role.as_deref())
    })
}
