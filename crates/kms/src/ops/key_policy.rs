//! GetKeyPolicy, PutKeyPolicy and ListKeyPolicies: the text that decides who may use a key.

use super::answer::json_body;
use super::drive::{Class, Effect, Mutation, Query};
use super::dual_control;
use super::enable::change_key;
use super::input::{Page, recorded, required};
use super::judge::Judge;
use super::refusal::{Refusal, RefusalKind};
use crate::key::{KeyPolicy, KeyRecord};
use crate::locks::Stripe;
use crate::node::Node;
use crate::policy::{Context, DOCUMENT_BYTES_MAX, Document, Flavor, widens};
use crate::store::Change;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The only policy name AWS knows.
const POLICY_NAME: &str = "default";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct GetKeyPolicy {
    key_id: Option<String>,
    policy_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListKeyPolicies {
    key_id: Option<String>,
    limit: Option<i64>,
    marker: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct PutKeyPolicy {
    key_id: Option<String>,
    policy_name: Option<String>,
    policy: Option<String>,
    bypass_policy_lockout_safety_check: Option<bool>,
}

impl Query for GetKeyPolicy {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        recorded(self.key_id.as_ref(), json!({"policyName": self.policy_name.as_deref().unwrap_or(POLICY_NAME)}))
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        let text = required(&self.key_id, "keyId")?;
        let is_default = is_default_policy(self.policy_name.as_deref())?;
        let key = judge.key_without_alias(text).await?;
        judge.allow_key("kms:GetKeyPolicy", &key, &Context::default())?;
        if !is_default {
            return Err(Refusal::new(RefusalKind::NotFound, "No such policy exists"));
        }
        Ok(json_body(&json!({"Policy": &*key.policy.text, "PolicyName": POLICY_NAME})))
    }
}

impl Query for ListKeyPolicies {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        recorded(self.key_id.as_ref(), json!({"limit": self.limit}))
    }

    /// Each key has its one policy, so there is no second page and no marker that could be ours.
    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        let text = required(&self.key_id, "keyId")?;
        let page = Page::parse(self.limit, self.marker.as_deref(), 100, 1_000)?;
        if page.after.is_some() {
            return Err(Refusal::bare(RefusalKind::InvalidMarker));
        }
        let key = judge.key_without_alias(text).await?;
        judge.allow_key("kms:ListKeyPolicies", &key, &Context::default())?;
        Ok(json_body(&json!({"PolicyNames": [POLICY_NAME], "Truncated": false})))
    }
}

impl Mutation for PutKeyPolicy {
    fn parameters(&self) -> Option<Value> {
        let policy = self.policy.as_deref().filter(|text| text.len() <= DOCUMENT_BYTES_MAX);
        recorded(
            self.key_id.as_ref(),
            json!({
                "policyName": self.policy_name.as_deref().unwrap_or(POLICY_NAME),
                "policy": policy,
                "bypassPolicyLockoutSafetyCheck": self.bypass_policy_lockout_safety_check.unwrap_or(false),
            }),
        )
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        dual_control::all_stripes(judge, self.key_id.as_deref())
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let text = required(&self.key_id, "keyId")?;
        let policy = required(&self.policy, "policy")?;
        let is_default = is_default_policy(self.policy_name.as_deref())?;
        let key = judge.key_without_alias(text).await?;
        let bypass = self.bypass_policy_lockout_safety_check.unwrap_or(false);
        let facts = Context { bypass_lockout: Some(bypass), ..Context::default() };
        dual_control::allow(judge, "kms:PutKeyPolicy", &key, &facts).await?;
        if !is_default {
            return Err(Refusal::new(RefusalKind::NotFound, "No such policy exists"));
        }
        let policy = parse_policy(judge.node, policy)?;
        let after = key.with_policy(policy, judge.event_id);
        if !bypass {
            check_lockout(judge, &after)?;
        }
        let effect = replace_policy(judge, &key, after)?;
        guarded_policy(judge, &key, effect).await
    }
}

/// Another policy is held by dual control if it widens the one before, or a policy asks for approval of any.
pub(crate) async fn guarded_policy(
    judge: &mut Judge<'_>,
    before: &KeyRecord,
    effect: Effect,
) -> Result<Effect, Refusal> {
    let after = judge.record.more.get("policy").and_then(Value::as_str).unwrap_or_default();
    if judge.by_approval || (dual_control::is_required(before) && widens(&before.policy.text, after)) {
        return dual_control::guarded(judge, before, effect).await;
    }
    Ok(effect)
}

/// Whether a name is that of the one policy which a key has; it is when none is given.
fn is_default_policy(name: Option<&str>) -> Result<bool, Refusal> {
    let Some(name) = name else { return Ok(true) };
    let broken = |constraint| Err(Refusal::constraint(Some(name), "policyName", constraint));
    match name.len() {
        0 => return broken("Member must have length greater than or equal to 1"),
        1..=128 => {}
        _ => return broken("Member must have length less than or equal to 128"),
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return broken("Member must satisfy regular expression pattern: [\\w]+");
    }
    Ok(name == POLICY_NAME)
}

/// Parses a policy strictly, or finds a living one with the same text.
pub(crate) fn parse_policy(node: &Node, text: &str) -> Result<Arc<KeyPolicy>, Refusal> {
    let parsed = node.policies.policy(text, |text| Document::parse(text, Flavor::KeyPolicy));
    parsed.map_err(|error| {
        let causes = std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
        let reason = causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"));
        Refusal::new(RefusalKind::MalformedPolicy, reason)
    })
}

/// Refuses a policy that would lock its author out.
pub(crate) fn check_lockout(judge: &Judge<'_>, after: &KeyRecord) -> Result<(), Refusal> {
    if judge.locks_out(after) {
        let text = "The new key policy will not allow you to update the key policy in the future.";
        return Err(Refusal::new(RefusalKind::MalformedPolicy, text));
    }
    Ok(())
}

/// Records and stores another policy; the former stays in the key's history.
pub(crate) fn replace_policy(judge: &mut Judge<'_>, before: &KeyRecord, after: KeyRecord) -> Result<Effect, Refusal> {
    let policy = after.policy.text.to_string();
    let set_by = judge.caller()?.arn.clone();
    let row = Change::SetPolicy {
        id: after.id,
        event_id: judge.event_id.to_string(),
        policy: policy.clone(),
        set_us: judge.judged_at_us,
        set_by,
    };
    let more = &mut judge.record.more;
    more.insert("policy".to_owned(), policy.into());
    more.insert("previousPolicy".to_owned(), (*before.policy.text).into());
    more.insert("previousPolicySha256".to_owned(), hex::encode(before.policy.sha256).into());
    more.insert("previousPolicyEventId".to_owned(), before.policy_event.to_string().into());
    Ok(change_key(judge, before, after, vec![row]))
}
