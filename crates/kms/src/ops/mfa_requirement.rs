//! PutMfaRequirement, LiftMfaRequirement and ListMfaRequirements: administrative actions that want a second factor shown
//! within the last five minutes, on one key or on all keys of an account, whatever policies say.
//!
//! For everyone but the responder and break-glass, whose use stays possible in the hour in which nothing else works. Who
//! has no fresh second factor cannot lift or replace a requirement either, or it would stop nobody. Putting one only adds
//! actions and time to what is required already.

use super::answer::json_body;
use super::drive::{Class, Effect, Mutation, Query};
use super::input::{recorded, required};
use super::judge::Judge;
use super::overlay_input::{checked_reason, checked_ttl, cut, existing_key, named_key};
use super::refusal::{Refusal, RefusalKind};
use crate::key::{AccountId, epoch_seconds};
use crate::locks::Stripe;
use crate::overlay::{MfaRequirement, Scope, account_scope};
use crate::policy::Context;
use crate::store::Change;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Requirements at once.
const REQUIREMENTS_MAX: usize = 10_000;
/// What may be required: actions that change a key, its names or who may use it. Never its use: a second factor is a
/// person's, and applications have none.
const ACTIONS: [&str; 21] = [
    "CancelKeyDeletion",
    "CreateAlias",
    "CreateGrant",
    "DeleteAlias",
    "DeleteImportedKeyMaterial",
    "DisableKey",
    "DisableKeyRotation",
    "EnableKey",
    "EnableKeyRotation",
    "ImportKeyMaterial",
    "PutKeyPolicy",
    "ReplicateKey",
    "RetireGrant",
    "RevokeGrant",
    "RotateKeyOnDemand",
    "ScheduleKeyDeletion",
    "TagResource",
    "UntagResource",
    "UpdateAlias",
    "UpdateKeyDescription",
    "UpdatePrimaryRegion",
];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct PutMfaRequirement {
    key_id: Option<String>,
    account_id: Option<String>,
    actions: Option<Vec<String>>,
    ttl_seconds: Option<u64>,
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct LiftMfaRequirement {
    key_id: Option<String>,
    account_id: Option<String>,
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListMfaRequirements {}

/// What a requirement is on.
struct On {
    scope: Scope,
    arn: String,
}

impl Mutation for PutMfaRequirement {
    const ACCESS: bool = true;

    fn parameters(&self) -> Option<Value> {
        let actions = self.actions.as_ref().map(|all| all.iter().take(ACTIONS.len()).map(cut).collect::<Vec<_>>());
        let rest = json!({
            "accountId": self.account_id.as_ref().map(cut), "actions": actions, "ttlSeconds": self.ttl_seconds,
            "reason": self.reason.as_ref().map(cut),
        });
        recorded(self.key_id.as_ref(), rest)
    }

    fn stripes(&self, _judge: &Judge<'_>) -> BTreeSet<Stripe> {
        BTreeSet::new()
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let actions = checked_actions(required(&self.actions, "actions")?)?;
        let ttl_seconds = checked_ttl(*required(&self.ttl_seconds, "ttlSeconds")?)?;
        let reason = checked_reason(self.reason.as_deref())?.to_owned();
        judge.allow_account("keytrail:PutMfaRequirement", &Context::default())?;
        let on = match (&self.key_id, &self.account_id) {
            (Some(text), None) => {
                let key = existing_key(judge, text).await?;
                On { scope: key.scope, arn: key.arn }
            }
            (None, Some(text)) => account(judge, text)?,
            _ => return Err(one_of()),
        };
        let mut overlay = judge.access.overlay().clone();
        let live = |entry: &MfaRequirement| entry.expires_us > judge.judged_at_us;
        let before = overlay.mfa.get(&on.scope).filter(|entry| live(entry)).cloned();
        if let Some(before) = before.as_ref().filter(|_| !judge.has_fresh_mfa()) {
            return Err(judge.mfa_missing(&before.event_id));
        }
        let ended: Vec<Scope> =
            overlay.mfa.iter().filter(|(_, entry)| !live(entry)).map(|(scope, _)| scope.clone()).collect();
        ended.iter().for_each(|scope| drop(overlay.mfa.remove(scope)));
        if before.is_none() && overlay.mfa.len() >= REQUIREMENTS_MAX {
            return Err(Refusal::new(RefusalKind::LimitExceeded, "Too many requirements of a second factor."));
        }
        let mut entry = MfaRequirement {
            on_arn: on.arn,
            actions,
            expires_us: judge.judged_at_us + ttl_seconds * 1_000_000,
            reason,
            event_id: judge.event_id.to_string(),
        };
        // One adds to what is required already, for as long: whoever wants less lifts it first.
        if let Some(before) = &before {
            let all: BTreeSet<String> = entry.actions.into_iter().chain(before.actions.iter().cloned()).collect();
            entry.actions = all.into_iter().collect();
            entry.expires_us = entry.expires_us.max(before.expires_us);
        }
        let same =
            |before: &&MfaRequirement| (&before.actions, before.expires_us) == (&entry.actions, entry.expires_us);
        let kept = before.as_ref().filter(same).cloned();
        let is_kept = kept.is_some();
        let entry = kept.unwrap_or(entry);
        judge.record.before = before.as_ref().map(image);
        judge.record.after = Some(image(&entry));
        judge.record.response_elements = Some(image(&entry));
        let mut body = listed(&entry);
        if is_kept {
            body["Kept"] = true.into();
            return Ok(Effect { body: json_body(&body), ..Effect::default() });
        }
        let body = json_body(&body);
        let mut changes: Vec<Change> = ended.into_iter().map(Change::DeleteMfaRequirement).collect();
        changes.push(Change::PutMfaRequirement(on.scope.clone(), entry.clone()));
        overlay.mfa.insert(on.scope, entry);
        let access = Some(Arc::new(judge.access.with_overlay(overlay)));
        Ok(Effect { body, changes, access, ..Effect::default() })
    }
}

impl Mutation for LiftMfaRequirement {
    const ACCESS: bool = true;

    fn parameters(&self) -> Option<Value> {
        let rest = json!({
            "accountId": self.account_id.as_ref().map(cut), "reason": self.reason.as_ref().map(cut),
        });
        recorded(self.key_id.as_ref(), rest)
    }

    fn stripes(&self, _judge: &Judge<'_>) -> BTreeSet<Stripe> {
        BTreeSet::new()
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        checked_reason(self.reason.as_deref())?;
        judge.allow_account("keytrail:LiftMfaRequirement", &Context::default())?;
        let on = match (&self.key_id, &self.account_id) {
            (Some(text), None) => {
                let key = named_key(judge, text)?;
                On { scope: key.scope, arn: key.arn }
            }
            (None, Some(text)) => account(judge, text)?,
            _ => return Err(one_of()),
        };
        let mut overlay = judge.access.overlay().clone();
        let found = overlay.mfa.remove(&on.scope).filter(|entry| entry.expires_us > judge.judged_at_us);
        let Some(before) = found else {
            let text = format!("No second factor is required on {}.", on.arn);
            return Err(Refusal::new(RefusalKind::NotFound, text));
        };
        if !judge.has_fresh_mfa() {
            return Err(judge.mfa_missing(&before.event_id));
        }
        judge.record.before = Some(image(&before));
        judge.record.response_elements = Some(json!({"onArn": on.arn}));
        Ok(Effect {
            body: json_body(&json!({"OnArn": on.arn})),
            changes: vec![Change::DeleteMfaRequirement(on.scope)],
            access: Some(Arc::new(judge.access.with_overlay(overlay))),
            ..Effect::default()
        })
    }
}

impl Query for ListMfaRequirements {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        None
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        judge.allow_account("keytrail:ListMfaRequirements", &Context::default())?;
        let all = judge.access.overlay().mfa.values();
        let all: Vec<Value> = all.filter(|entry| entry.expires_us > judge.judged_at_us).map(listed).collect();
        Ok(json_body(&json!({"MfaRequirements": all})))
    }
}

fn one_of() -> Refusal {
    Refusal::new(RefusalKind::Validation, "You must specify either a key ID or an account ID.")
}

/// All keys of an account: of another one only for the responder.
fn account(judge: &Judge<'_>, text: &str) -> Result<On, Refusal> {
    let account: Option<AccountId> = AccountId::parse(text);
    let own = account.filter(|account| *account == judge.account() || judge.is_responder());
    let Some(account) = own else {
        return Err(Refusal::constraint(Some(text), "accountId", "Member must be the caller's own account"));
    };
    Ok(On { scope: account_scope(account), arn: format!("arn:aws:iam::{account}:root") })
}

/// Known names without `kms:`, in order, each once.
fn checked_actions(actions: &[String]) -> Result<Vec<String>, Refusal> {
    let mut checked = BTreeSet::new();
    for action in actions {
        let known = ACTIONS.iter().find(|known| *known == action);
        let Some(known) = known else {
            let constraint = format!("Member must satisfy enum value set: [{}]", ACTIONS.join(", "));
            return Err(Refusal::constraint(Some(action), "actions", &constraint));
        };
        checked.insert((*known).to_owned());
    }
    if checked.is_empty() {
        let constraint = "Member must have length greater than or equal to 1";
        return Err(Refusal::constraint(None, "actions", constraint));
    }
    Ok(checked.into_iter().collect())
}

fn image(entry: &MfaRequirement) -> Value {
    json!({"onArn": entry.on_arn, "actions": entry.actions, "expiresAtMicros": entry.expires_us})
}

fn listed(entry: &MfaRequirement) -> Value {
    json!({
        "OnArn": entry.on_arn, "Actions": entry.actions, "ExpiresAt": epoch_seconds(entry.expires_us),
        "Reason": entry.reason,
    })
}
