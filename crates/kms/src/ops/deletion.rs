//! ScheduleKeyDeletion and CancelKeyDeletion: the waiting period before a key is gone for good.

use super::answer::json_body;
use super::drive::{Effect, Mutation};
use super::dual_control;
use super::enable::{change_key, key_stripes};
use super::input::{recorded, required};
use super::judge::{Judge, not_pending, state_refusal};
use super::refusal::{Refusal, RefusalKind};
use crate::key::{DAY_US, KeyState, epoch_seconds, rfc3339_micros};
use crate::locks::Stripe;
use crate::policy::Context;
use crate::store::Change;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// AWS's waiting period when none is asked for.
const WINDOW_DAYS: i64 = 30;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ScheduleKeyDeletion {
    key_id: Option<String>,
    pending_window_in_days: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CancelKeyDeletion {
    key_id: Option<String>,
}

impl Mutation for ScheduleKeyDeletion {
    fn parameters(&self) -> Option<Value> {
        recorded(
            self.key_id.as_ref(),
            json!({"pendingWindowInDays": self.pending_window_in_days.unwrap_or(WINDOW_DAYS)}),
        )
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        dual_control::all_stripes(judge, self.key_id.as_deref())
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let text = required(&self.key_id, "keyId")?;
        let days = self.pending_window_in_days.unwrap_or(WINDOW_DAYS);
        let window_days = u32::try_from(days).ok().filter(|days| (7..=30).contains(days)).ok_or_else(|| {
            let (side, bound) = if days < 7 { ("greater", 7) } else { ("less", 30) };
            let constraint = format!("Member must have value {side} than or equal to {bound}");
            Refusal::constraint(Some(&days.to_string()), "pendingWindowInDays", &constraint)
        })?;
        let key = judge.key_without_alias(text).await?;
        let facts = Context { pending_window_days: Some(window_days), ..Context::default() };
        dual_control::allow(judge, "kms:ScheduleKeyDeletion", &key, &facts).await?;
        not_pending(&key)?;
        if matches!(key.state, KeyState::Updating { .. }) {
            return Err(state_refusal(&key, key.state));
        }
        let state = match key.related_regions().next() {
            Some(_) if !key.is_replica() => KeyState::PendingReplicaDeletion { window_days },
            _ => KeyState::PendingDeletion { deletion_us: judge.judged_at_us + u64::from(window_days) * DAY_US },
        };
        let mut effect = change_key(judge, &key, key.with_state(state), vec![Change::SetState(key.id, state)]);
        let arn = key.arn();
        let mut recorded = json!({"keyId": arn, "keyState": state.name(), "pendingWindowInDays": days});
        let mut answer = json!({"KeyId": arn, "KeyState": state.name(), "PendingWindowInDays": days});
        if let Some(deletion_us) = state.deletion_us() {
            recorded["deletionDate"] = rfc3339_micros(deletion_us).into();
            answer["DeletionDate"] = epoch_seconds(deletion_us);
        }
        judge.record.response_elements = Some(recorded);
        effect.body = json_body(&answer);
        dual_control::guarded(judge, &key, effect).await
    }
}

impl Mutation for CancelKeyDeletion {
    fn parameters(&self) -> Option<Value> {
        recorded(self.key_id.as_ref(), Value::Null)
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        key_stripes(judge, self.key_id.as_deref())
    }

    /// As at AWS the key comes back disabled, whatever it was before; without its imported material it waits for that.
    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let key = judge.key_without_alias(required(&self.key_id, "keyId")?).await?;
        judge.allow_key("kms:CancelKeyDeletion", &key, &Context::default())?;
        let arn = key.arn();
        if !key.state.is_pending_deletion() {
            return Err(Refusal::new(RefusalKind::InvalidState, format!("{arn} is not pending deletion.")));
        }
        let state = key.state_without_deletion();
        let mut effect = change_key(judge, &key, key.with_state(state), vec![Change::SetState(key.id, state)]);
        effect.body = json_body(&json!({"KeyId": arn}));
        Ok(effect)
    }
}
