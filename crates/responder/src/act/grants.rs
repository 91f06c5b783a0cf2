//! Grants as the responder revokes them: one action each, so that each has its own id, event and row.

use crate::act::aws::carry_account;
use crate::act::steps::unreadable;
use crate::act::{Control, ControlError};
use crate::outbox::{Action, ActionKind};
use crate::plan::{Proposal, action_id};
use crate::playbook::Mode;
use serde_json::{Value, json};

/// Grants of one grantee on one key that are revoked in one go; who made more has made enough for a person to look.
pub(crate) const GRANTS_MAX: usize = 200;

/// Whether the grant that an action revokes is there.
pub(crate) async fn has(kms: &dyn Control, action: &Action) -> Result<bool, ControlError> {
    let body = json!({ "KeyId": action.target, "GrantId": action.args.get("grantId") });
    match kms.call("TrentService.ListGrants", body, None).await {
        Ok(answer) => {
            let grants = answer.body.get("Grants").and_then(Value::as_array).ok_or_else(|| unreadable("Grants"))?;
            // Not everyone who speaks the protocol heeds the id.
            Ok(grants.iter().any(|grant| grant.get("GrantId") == action.args.get("grantId")))
        }
        Err(ControlError::Refused { code, .. }) if code == "InvalidGrantIdException" || code == "NotFoundException" => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Ids of all grants that a grantee has on the key, and whether these are all.
pub(crate) async fn of_grantee(kms: &dyn Control, action: &Action) -> Result<(Vec<String>, bool), ControlError> {
    let (mut ids, mut marker) = (Vec::new(), Value::Null);
    while ids.len() < GRANTS_MAX {
        let mut body = json!({
            "KeyId": action.target, "GranteePrincipal": action.args.get("granteePrincipal"), "Limit": 100,
        });
        if marker.is_string() {
            body["Marker"] = marker.take();
        }
        let mut answer = kms.call("TrentService.ListGrants", body, None).await?.body;
        let grants = answer.get("Grants").and_then(Value::as_array).ok_or_else(|| unreadable("Grants"))?;
        // Not everyone who speaks the protocol heeds the grantee, and the others' grants must stay.
        let of_grantee = |grant: &&Value| grant.get("GranteePrincipal") == action.args.get("granteePrincipal");
        let theirs = grants.iter().filter(of_grantee);
        ids.extend(theirs.filter_map(|grant| grant.get("GrantId")?.as_str().map(str::to_owned)));
        marker = answer.get_mut("NextMarker").map(Value::take).unwrap_or_default();
        if !marker.is_string() {
            return Ok((ids, true));
        }
    }
    ids.truncate(GRANTS_MAX);
    Ok((ids, false))
}

/// The action that revokes one of the grants that this one found.
pub(crate) fn of_one(action: &Action, grant_id: &str) -> Proposal {
    let step = format!("{}/{grant_id}", action.step);
    let (playbook, version) = (&action.playbook, action.playbook_version);
    let mut args = json!({ "grantId": grant_id });
    carry_account(&action.args, &mut args);
    Proposal {
        id: action_id(&action.incident, playbook, version, &step, &action.target, action.generation),
        incident: action.incident.clone(),
        playbook: playbook.clone(),
        playbook_version: version,
        step,
        kind: ActionKind::RevokeGrant,
        target: action.target.clone(),
        generation: action.generation,
        cause: action.cause.clone(),
        args,
        mode: Mode::Enforce,
        requires: None,
        stop_on_error: action.stop_on_error,
        impossible: None,
        again: false,
    }
}
