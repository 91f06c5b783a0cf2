//! RestoreKeyPolicy: back to a policy that the key had, if it still has the one the caller saw.
//!
//! Compare-and-swap: an administrator's change in between wins. One by `SetBy` does not: whoever is being answered could
//! otherwise keep ahead by changing the policy again and again. Nothing but the key's own history is accepted, so the
//! responder can undo but never write a policy of its own. That a key is back already is said apart: somebody else did it.

use super::answer::json_body;
use super::drive::{Effect, Mutation};
use super::dual_control;
use super::input::{recorded, required};
use super::judge::Judge;
use super::key_policy::{guarded_policy, parse_policy, replace_policy};
use super::refusal::{Refusal, RefusalKind};
use crate::key::KeyRecord;
use crate::locks::Stripe;
use crate::people::role_of_session;
use crate::policy::Context;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct RestoreKeyPolicy {
    key_id: Option<String>,
    current_policy_sha256: Option<String>,
    wanted_event_id: Option<String>,
    set_by: Option<String>,
}

impl Mutation for RestoreKeyPolicy {
    fn parameters(&self) -> Option<Value> {
        let cut = |text: &String| Value::from(&text[..text.floor_char_boundary(128)]);
        recorded(
            self.key_id.as_ref(),
            json!({
                "currentPolicySha256": self.current_policy_sha256.as_ref().map(cut),
                "wantedEventId": self.wanted_event_id.as_ref().map(cut),
                "setBy": self.set_by.as_ref().map(|arn| Value::from(&arn[..arn.floor_char_boundary(2_048)])),
            }),
        )
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        dual_control::all_stripes(judge, self.key_id.as_deref())
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let text = required(&self.key_id, "keyId")?;
        let current = required(&self.current_policy_sha256, "currentPolicySha256")?;
        let wanted = required(&self.wanted_event_id, "wantedEventId")?;
        // For anyone but the responder this is what PutKeyPolicy is.
        judge.action_asked = Some("kms:PutKeyPolicy");
        let key = judge.key_without_alias(text).await?;
        dual_control::allow(judge, "kms:PutKeyPolicy", &key, &Context::default()).await?;
        let found = judge.node.store.policy(key.id, wanted).await.map_err(|_| Refusal::internal())?;
        let Some(text) = found else {
            return Err(Refusal::new(RefusalKind::NotFound, "The key never had a policy set by WantedEventId."));
        };
        let policy = parse_policy(judge.node, &text)?;
        if *current != hex::encode(key.policy.sha256) {
            if policy.sha256 == key.policy.sha256 {
                let text = "The key has the policy of WantedEventId already.";
                return Err(Refusal::new(RefusalKind::AlreadyExists, text));
            }
            if !self.is_set_by(judge, &key).await? {
                let text = "The key has another policy than CurrentPolicySha256 names.";
                return Err(Refusal::new(RefusalKind::InvalidState, text));
            }
        }
        let after = key.with_policy(policy, judge.event_id);
        let arn = key.arn();
        let answer = json!({"KeyId": arn, "PolicySha256": hex::encode(after.policy.sha256)});
        let mut effect = replace_policy(judge, &key, after)?;
        effect.body = json_body(&answer);
        guarded_policy(judge, &key, effect).await
    }
}

impl RestoreKeyPolicy {
    /// Whether the policy in force is by the principal named; sessions of one role are one principal.
    async fn is_set_by(&self, judge: &Judge<'_>, key: &KeyRecord) -> Result<bool, Refusal> {
        let Some(named) = &self.set_by else { return Ok(false) };
        let setter = judge.node.store.policy_setter(key.id, &key.policy_event.to_string()).await;
        let whose = |arn: &str| role_of_session(arn).unwrap_or_else(|| arn.to_owned());
        Ok(setter.map_err(|_| Refusal::internal())?.is_some_and(|setter| whose(&setter) == whose(named)))
    }
}
