//! PutQuarantine, LiftQuarantine and ListQuarantines: the overlay that stops a principal whatever policies say.
//!
//! A quarantine denies changes, cryptographic use and new sessions, always for a limited time; with a key it denies them on
//! that key (and its related ones) alone. Putting one never ends it earlier. A session's is its role's: whoever may open one may open another. Account roots, built-ins and the
//! break-glass principal are protected, so that someone can always lift it.

use super::answer::json_body;
use super::drive::{Class, Effect, Mutation, Query};
use super::input::{recorded, required};
use super::judge::Judge;
use super::overlay_input::{KeyScope, checked_reason, checked_ttl, cut, existing_key, named_key};
use super::refusal::{Refusal, RefusalKind};
use crate::key::epoch_seconds;
use crate::locks::Stripe;
use crate::overlay::{Quarantine, Scope};
use crate::people::role_of_session;
use crate::policy::Context;
use crate::store::Change;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Entries at once; far more than an incident has principals, far less than would slow judging.
const QUARANTINES_MAX: usize = 10_000;
const ARN_BYTES_MAX: usize = 2_048;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct PutQuarantine {
    principal_arn: Option<String>,
    key_id: Option<String>,
    ttl_seconds: Option<u64>,
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct LiftQuarantine {
    pub(crate) principal_arn: Option<String>,
    pub(crate) key_id: Option<String>,
    pub(crate) reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListQuarantines {}

impl Mutation for PutQuarantine {
    const ACCESS: bool = true;

    fn parameters(&self) -> Option<Value> {
        let rest = json!({
            "principalArn": self.principal_arn.as_ref().map(cut),
            "ttlSeconds": self.ttl_seconds,
            "reason": self.reason.as_ref().map(cut),
        });
        recorded(self.key_id.as_ref(), rest)
    }

    fn stripes(&self, _judge: &Judge<'_>) -> BTreeSet<Stripe> {
        BTreeSet::new()
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let arn = &checked_arn(self.principal_arn.as_ref())?;
        let ttl_seconds = checked_ttl(*required(&self.ttl_seconds, "ttlSeconds")?)?;
        let reason = checked_reason(self.reason.as_deref())?;
        judge.allow_account("keytrail:PutQuarantine", &Context::default())?;
        if judge.access.is_protected(arn) {
            return Err(Refusal::new(
                RefusalKind::Validation,
                format!("{arn} is protected and cannot be quarantined."),
            ));
        }
        let key = match &self.key_id {
            Some(text) => Some(existing_key(judge, text).await?),
            None => None,
        };
        let (scope, key_arn) = scope_of(key);
        let entry = Quarantine {
            expires_us: judge.judged_at_us + ttl_seconds * 1_000_000,
            reason: reason.to_owned(),
            event_id: judge.event_id.to_string(),
            key_arn,
        };
        put(judge, arn, scope, entry)
    }
}

fn scope_of(key: Option<KeyScope>) -> (Scope, Option<String>) {
    key.map_or_else(|| (Scope::new(), None), |key| (key.scope, Some(key.arn)))
}

fn put(judge: &mut Judge<'_>, arn: &str, scope: Scope, entry: Quarantine) -> Result<Effect, Refusal> {
    let before = judge.access.overlay().quarantine(arn, &scope, judge.judged_at_us);
    // One that somebody else put for longer is not shortened: whoever wants that lifts it first.
    let longer = before.filter(|before| before.expires_us > entry.expires_us).cloned();
    let (is_kept, entry) = longer.map_or((false, entry), |longer| (true, longer));
    judge.record.before = before.map(|before| image(arn, before));
    judge.record.after = Some(image(arn, &entry));
    let mut answer = json!({"PrincipalArn": arn, "ExpiresAt": epoch_seconds(entry.expires_us)});
    if let Some(key_arn) = &entry.key_arn {
        answer["KeyArn"] = key_arn.as_str().into();
    }
    judge.record.response_elements = Some(image(arn, &entry));
    if is_kept {
        answer["Kept"] = true.into();
        return Ok(Effect { body: json_body(&answer), ..Effect::default() });
    }
    let mut overlay = judge.access.overlay().clone();
    // Those that are over decide nothing any more.
    let ended = overlay.take_ended_quarantines(judge.judged_at_us).into_iter();
    let mut changes: Vec<Change> = ended.map(|(arn, scope)| Change::DeleteQuarantine(arn, scope)).collect();
    let of_principal = overlay.quarantines.get(arn);
    let is_new = of_principal.is_none_or(|scopes| !scopes.contains_key(&scope));
    if is_new && overlay.quarantine_count() >= QUARANTINES_MAX {
        return Err(Refusal::new(RefusalKind::LimitExceeded, "Too many principals are in quarantine."));
    }
    overlay.quarantines.entry(arn.to_owned()).or_default().insert(scope.clone(), entry.clone());
    changes.push(Change::PutQuarantine { principal_arn: arn.to_owned(), scope, entry });
    let access = Some(Arc::new(judge.access.with_overlay(overlay)));
    Ok(Effect { body: json_body(&answer), changes, access, ..Effect::default() })
}

impl Mutation for LiftQuarantine {
    const ACCESS: bool = true;

    fn parameters(&self) -> Option<Value> {
        let rest = json!({
            "principalArn": self.principal_arn.as_ref().map(cut), "reason": self.reason.as_ref().map(cut),
        });
        recorded(self.key_id.as_ref(), rest)
    }

    fn stripes(&self, _judge: &Judge<'_>) -> BTreeSet<Stripe> {
        BTreeSet::new()
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let arn = &checked_arn(self.principal_arn.as_ref())?;
        checked_reason(self.reason.as_deref())?;
        judge.allow_account("keytrail:LiftQuarantine", &Context::default())?;
        let key = self.key_id.as_ref().map(|text| named_key(judge, text)).transpose()?;
        let (scope, key_arn) = scope_of(key);
        let mut overlay = judge.access.overlay().clone();
        let entry = overlay.quarantines.get_mut(arn).and_then(|scopes| scopes.remove(&scope));
        let Some(before) = entry.filter(|entry| entry.expires_us > judge.judged_at_us) else {
            return Err(Refusal::new(RefusalKind::NotFound, format!("{arn} is not in quarantine.")));
        };
        overlay.quarantines.retain(|_, scopes| !scopes.is_empty());
        judge.record.before = Some(image(arn, &before));
        let mut answer = json!({"PrincipalArn": arn});
        let mut recorded = json!({"principalArn": arn});
        if let Some(key_arn) = key_arn {
            recorded["targetKeyArn"] = key_arn.as_str().into();
            answer["KeyArn"] = key_arn.into();
        }
        judge.record.response_elements = Some(recorded);
        Ok(Effect {
            body: json_body(&answer),
            changes: vec![Change::DeleteQuarantine(arn.to_owned(), scope)],
            access: Some(Arc::new(judge.access.with_overlay(overlay))),
            ..Effect::default()
        })
    }
}

impl Query for ListQuarantines {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        None
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        judge.allow_account("keytrail:ListQuarantines", &Context::default())?;
        let all = judge.access.overlay().quarantines.iter();
        let all = all.flat_map(|(arn, scopes)| scopes.values().map(move |entry| (arn, entry)));
        let live = all.filter(|(_, entry)| entry.expires_us > judge.judged_at_us);
        let listed: Vec<Value> = live
            .map(|(arn, entry)| {
                let mut listed =
                    json!({"PrincipalArn": arn, "ExpiresAt": epoch_seconds(entry.expires_us), "Reason": entry.reason});
                if let Some(key_arn) = &entry.key_arn {
                    listed["KeyArn"] = key_arn.as_str().into();
                }
                listed
            })
            .collect();
        Ok(json_body(&json!({"Quarantines": listed})))
    }
}

fn image(arn: &str, entry: &Quarantine) -> Value {
    let mut image = json!({"principalArn": arn, "expiresAtMicros": entry.expires_us});
    // Not `keyArn`: that is a key's own image.
    if let Some(key_arn) = &entry.key_arn {
        image["targetKeyArn"] = key_arn.as_str().into();
    }
    image
}

/// The ARN that a quarantine is kept under.
fn checked_arn(arn: Option<&String>) -> Result<String, Refusal> {
    let arn = arn.ok_or_else(|| Refusal::missing("principalArn"))?;
    let kept = role_of_session(arn).unwrap_or_else(|| arn.clone());
    if arn.len() > ARN_BYTES_MAX
        || !kept.starts_with("arn:aws:iam::")
        || !arn.bytes().all(|byte| byte.is_ascii_graphic())
    {
        return Err(Refusal::constraint(Some(arn), "principalArn", "Member must be the ARN of an IAM principal"));
    }
    Ok(kept)
}
