//! EnableKey and DisableKey: whether a key's material may be used.

use super::drive::{Effect, Mutation};
use super::input::{KeyReference, recorded, required};
use super::judge::{Judge, not_synchronizing, not_waiting};
use super::refusal::Refusal;
use crate::key::{KeyRecord, KeyState};
use crate::locks::Stripe;
use crate::policy::Context;
use crate::registry::Publish;
use crate::store::Change;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct EnableKey {
    key_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct DisableKey {
    key_id: Option<String>,
}

impl Mutation for EnableKey {
    fn parameters(&self) -> Option<Value> {
        recorded(self.key_id.as_ref(), Value::Null)
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        key_stripes(judge, self.key_id.as_deref())
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        set_state(judge, self.key_id.as_ref(), "kms:EnableKey", KeyState::Enabled).await
    }
}

impl Mutation for DisableKey {
    fn parameters(&self) -> Option<Value> {
        recorded(self.key_id.as_ref(), Value::Null)
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        key_stripes(judge, self.key_id.as_deref())
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        set_state(judge, self.key_id.as_ref(), "kms:DisableKey", KeyState::Disabled).await
    }
}

/// The responder disables in transient states, too: whoever may move the primary key could bring them back again and again,
/// and containment must not wait for that.
async fn set_state(
    judge: &mut Judge<'_>,
    key_id: Option<&String>,
    action: &str,
    state: KeyState,
) -> Result<Effect, Refusal> {
    let key_id = key_id.cloned();
    let key = judge.key_without_alias(required(&key_id, "keyId")?).await?;
    judge.allow_key(action, &key, &Context::default())?;
    not_waiting(&key)?;
    if !(state == KeyState::Disabled && judge.is_responder() && key.has_material()) {
        not_synchronizing(&key)?;
    }
    Ok(change_key(judge, &key, key.with_state(state), vec![Change::SetState(key.id, state)]))
}

/// The stripe of a key named by id or ARN; none for a name that will be refused.
pub(crate) fn key_stripes(judge: &Judge<'_>, text: Option<&str>) -> BTreeSet<Stripe> {
    let reference = text.and_then(|text| KeyReference::parse(text, judge.region(), judge.account()).ok());
    match reference {
        Some(KeyReference::Key(account, id)) => BTreeSet::from([judge.node.locks.key(account, id)]),
        Some(KeyReference::Alias(..)) | None => BTreeSet::new(),
    }
}

/// Records the images before and after, and what the change stores and publishes. The answer's body stays empty.
pub(crate) fn change_key(judge: &mut Judge<'_>, before: &KeyRecord, after: KeyRecord, changes: Vec<Change>) -> Effect {
    judge.record.before = Some(before.image());
    judge.record.after = Some(after.image());
    judge.record.response_elements = Some(json!({"keyId": after.arn()}));
    Effect { changes, publish: vec![Publish::Key(Arc::new(after))], ..Effect::default() }
}
