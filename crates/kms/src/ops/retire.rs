//! Retiring a key the right way: RetireKey disables it and watches for callers; when nobody has called, the service itself
//! schedules its deletion, warns seven and one day before, and gives it all up when anyone still calls.
//!
//! The service does the steps, under the key's lock, as events of `keytrail.internal`: no administrator's credentials lie about
//! for a step that comes in a week, and the responder's list does not grow by a call that destroys. Under dual control RetireKey
//! waits for its approval, which is one for the deletion too. Retirements are rows of the store beside the key.

use super::answer::json_body;
use super::drive::{Class, Effect, Mutation, Query};
use super::dual_control;
use super::enable::{change_key, key_stripes};
use super::input::{recorded, required};
use super::judge::{Judge, not_synchronizing, not_waiting};
use super::refusal::{Refusal, RefusalKind};
use super::service_event::ServiceEvent;
use crate::key::{AccountId, DAY_US, KeyId, KeyRecord, KeyState, epoch_seconds, rfc3339_micros};
use crate::locks::Stripe;
use crate::node::Node;
use crate::policy::Context;
use crate::registry::Publish;
use crate::retirement::{Failing, Retirement, Step, Turn};
use crate::store::{Change, EntityRow, StoreError};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Their rows among the entities.
pub(crate) const RETIREMENT_ROW: &str = "retirement";
/// How long callers are watched for when a call says nothing.
const WATCH_DAYS: u32 = 7;
/// A key that nobody has called for a year needs no longer look.
const WATCH_DAYS_MAX: u32 = 365;
/// AWS's waiting period when none is asked for.
const WINDOW_DAYS: u32 = 30;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct RetireKey {
    key_id: Option<String>,
    watch_days: Option<u32>,
    pending_window_in_days: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CancelRetirement {
    key_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListRetirements {}

impl Mutation for RetireKey {
    fn parameters(&self) -> Option<Value> {
        let (watch, window) =
            (self.watch_days.unwrap_or(WATCH_DAYS), self.pending_window_in_days.unwrap_or(WINDOW_DAYS));
        recorded(self.key_id.as_ref(), json!({"watchDays": watch, "pendingWindowInDays": window}))
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        dual_control::all_stripes(judge, self.key_id.as_deref())
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let text = required(&self.key_id, "keyId")?;
        let watch_days = self.watch_days.unwrap_or(WATCH_DAYS);
        let window_days = self.pending_window_in_days.unwrap_or(WINDOW_DAYS);
        if watch_days > WATCH_DAYS_MAX {
            return Err(Refusal::constraint(None, "watchDays", "Member must have value less than or equal to 365"));
        }
        if !(7..=30).contains(&window_days) {
            return Err(Refusal::constraint(None, "pendingWindowInDays", "Member must have value between 7 and 30"));
        }
        // What it comes to is a DisableKey and a ScheduleKeyDeletion.
        judge.action_asked = Some("kms:ScheduleKeyDeletion");
        let key = judge.key_without_alias(text).await?;
        dual_control::allow(judge, "kms:DisableKey", &key, &Context::default()).await?;
        let facts = Context { pending_window_days: Some(window_days), ..Context::default() };
        dual_control::allow(judge, "kms:ScheduleKeyDeletion", &key, &facts).await?;
        not_waiting(&key)?;
        not_synchronizing(&key)?;
        if key.related_regions().next().is_some() && !key.is_replica() {
            let text = "The key has replicas: retire them first.";
            return Err(Refusal::new(RefusalKind::InvalidState, text));
        }
        if judge.node.registry.retirement(key.account, key.id).is_some() {
            return Err(Refusal::new(RefusalKind::InvalidState, "The key is being retired already."));
        }
        let retirement = Retirement {
            key_arn: key.arn(),
            asked_by: judge.caller()?.arn.clone(),
            event_id: judge.event_id.to_string(),
            was_enabled: key.state == KeyState::Enabled,
            began_us: judge.judged_at_us,
            watch_until_us: judge.judged_at_us + u64::from(watch_days) * DAY_US,
            window_days,
            step: Step::Watching,
            warned_days: Vec::new(),
        };
        let changes = vec![Change::SetState(key.id, KeyState::Disabled)];
        let mut effect = change_key(judge, &key, key.with_state(KeyState::Disabled), changes);
        put(&key, retirement.clone(), &mut effect);
        let watched = rfc3339_micros(retirement.watch_until_us);
        judge.record.response_elements = Some(json!({"keyId": key.arn(), "watchUntil": watched}));
        effect.body = json_body(&told(&key, &retirement));
        dual_control::guarded(judge, &key, effect).await
    }
}

impl Mutation for CancelRetirement {
    fn parameters(&self) -> Option<Value> {
        recorded(self.key_id.as_ref(), Value::Null)
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        key_stripes(judge, self.key_id.as_deref())
    }

    /// Gives the key back the state that it had.
    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        judge.action_asked = Some("kms:EnableKey");
        let key = judge.key_without_alias(required(&self.key_id, "keyId")?).await?;
        judge.allow_key("kms:CancelKeyDeletion", &key, &Context::default())?;
        judge.allow_key("kms:EnableKey", &key, &Context::default())?;
        let Some(retirement) = judge.node.registry.retirement(key.account, key.id) else {
            return Err(Refusal::new(RefusalKind::InvalidState, "The key is not being retired."));
        };
        let state = back(&key, &retirement);
        let mut effect = change_key(judge, &key, key.with_state(state), vec![Change::SetState(key.id, state)]);
        forget(&key, &mut effect);
        effect.body = json_body(&json!({"KeyId": key.arn(), "KeyState": state.name()}));
        Ok(effect)
    }
}

impl Query for ListRetirements {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        None
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        judge.allow_account("keytrail:ListRetirements", &Context::default())?;
        let (account, registry) = (judge.account(), &judge.node.registry);
        let all = registry.retirements().into_iter().filter(|(owner, ..)| *owner == account);
        let listed = all.filter_map(|(account, id, one)| {
            let key = registry.key(account, id)?;
            Some(told(&key, &one))
        });
        Ok(json_body(&json!({"Retirements": listed.collect::<Vec<_>>()})))
    }
}

/// Does what has come due for each retirement; false when the node cannot record that now.
pub(crate) async fn advance_retirements(node: &Arc<Node>) -> bool {
    for (account, id, _) in node.registry.retirements() {
        if !advance(node, account, id).await {
            return false;
        }
    }
    true
}

async fn advance(node: &Arc<Node>, account: AccountId, id: KeyId) -> bool {
    let held = node.locks.hold(&BTreeSet::from([node.locks.key(account, id)])).await;
    let now_us = node.clock.now_us();
    let (Some(key), Some(retirement)) = (node.registry.key(account, id), node.registry.retirement(account, id)) else {
        return true;
    };
    let failing = node.failing.lock().get(&(account, id)).cloned();
    let turn = retirement.turn(key.state.name(), key.state.deletion_us(), failing.is_some(), now_us);
    let name = match turn {
        Turn::Wait => return true,
        Turn::Schedule => "ScheduleRetiredKeyDeletion",
        Turn::Warn(_) => "WarnOfKeyDeletion",
        Turn::StillUsed | Turn::Changed => "EndRetirement",
    };
    let mut event = ServiceEvent::new(node, name, &key, now_us).internal();
    let mut effect = Effect::default();
    let mut state = key.state;
    match turn {
        Turn::Wait => {}
        Turn::Schedule => {
            state = KeyState::PendingDeletion { deletion_us: now_us + u64::from(retirement.window_days) * DAY_US };
            put(&key, retirement.scheduled(), &mut effect);
        }
        Turn::Warn(days) => {
            event.detail("daysLeft", days);
            put(&key, retirement.warned(days), &mut effect);
        }
        Turn::StillUsed => {
            state = back(&key, &retirement);
            event.detail("reason", "used");
            if let Some(Failing { principal, operation, event_id }) = &failing {
                event.detail("principalArn", principal.as_str());
                event.detail("operation", operation.as_str());
                event.detail("calledBy", event_id.as_str());
            }
            forget(&key, &mut effect);
        }
        Turn::Changed => {
            event.detail("reason", "changed");
            forget(&key, &mut effect);
        }
    }
    event.detail("retiredBy", retirement.asked_by.as_str());
    event.detail("causedBy", retirement.event_id.as_str());
    let after = key.with_state(state);
    event.record.after = Some(after.image());
    if state != key.state {
        effect.changes.push(Change::SetState(id, state));
        effect.publish.push(Publish::Key(Arc::new(after)));
    }
    let recorded = event.carry(held, effect).await;
    if recorded {
        node.failing.lock().remove(&(account, id));
    }
    recorded
}

/// The state that the key had before; as at AWS one that was to be deleted comes back with its material or waits for it.
fn back(key: &KeyRecord, retirement: &Retirement) -> KeyState {
    match key.state_without_deletion() {
        KeyState::Disabled if retirement.was_enabled => KeyState::Enabled,
        other => other,
    }
}

/// Notes that somebody who may use the key has called in vain.
pub(super) fn note_failing(judge: &Judge<'_>, key: &KeyRecord) {
    if crate::usage::operation(&judge.call.operation).is_none()
        || judge.node.registry.retirement(key.account, key.id).is_none()
    {
        return;
    }
    let principal = judge.caller().map(|caller| caller.arn.clone()).unwrap_or_default();
    let (operation, event_id) = (judge.call.operation.clone(), judge.event_id.to_string());
    let first = Failing { principal, operation, event_id };
    judge.node.failing.lock().entry((key.account, key.id)).or_insert(first);
}

/// The retirements that the store has.
pub(crate) fn loaded_retirements(rows: &[EntityRow]) -> Result<Vec<Publish>, StoreError> {
    let damaged = || StoreError::Row { table: "entities" };
    let read = rows.iter().map(|row| {
        let retirement: Retirement = serde_json::from_str(&row.body).map_err(|_| damaged())?;
        let (account, id) = super::approval::key_named(&retirement.key_arn).ok_or_else(damaged)?;
        Ok(Publish::Retirement(account, id, Arc::new(retirement)))
    });
    read.collect()
}

/// The row of a key's retirement goes with the key.
pub(super) fn forget(key: &KeyRecord, effect: &mut Effect) {
    effect.changes.push(Change::DeleteEntity { account: key.account, kind: RETIREMENT_ROW, name: key.arn() });
    effect.publish.push(Publish::NoRetirement(key.account, key.id));
}

fn put(key: &KeyRecord, retirement: Retirement, effect: &mut Effect) {
    let body = serde_json::to_string(&retirement).expect("a retirement has only string keys");
    let (account, name) = (key.account, key.arn());
    effect.changes.push(Change::PutEntity { account, kind: RETIREMENT_ROW, name, body, sealed: None });
    effect.publish.push(Publish::Retirement(key.account, key.id, Arc::new(retirement)));
}

fn told(key: &KeyRecord, retirement: &Retirement) -> Value {
    let mut told = json!({
        "KeyId": retirement.key_arn, "Step": retirement.step, "RetiredBy": retirement.asked_by,
        "Began": epoch_seconds(retirement.began_us), "WatchUntil": epoch_seconds(retirement.watch_until_us),
        "PendingWindowInDays": retirement.window_days,
    });
    if let Some(deletion_us) = key.state.deletion_us() {
        told["DeletionDate"] = epoch_seconds(deletion_us);
    }
    told
}
