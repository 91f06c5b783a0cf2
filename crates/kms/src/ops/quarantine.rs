//! PutQuarantine, LiftQuarantine and ListQuarantines: the overlay that stops a principal whatever policies say.
//!
//! A quarantine denies changes, cryptographic use and new sessions, always for a limited time. A session's is its role's:
//! whoever may open one may open another. Account roots, built-ins and the
//! break-glass principal are protected, so that someone can always lift it.

use super::answer::json_body;
use super::drive::{Class, Effect, Mutation, Query};
use super::input::required;
use super::judge::Judge;
use super::refusal::{Refusal, RefusalKind};
use crate::access::Quarantine;
use crate::key::epoch_seconds;
use crate::locks::Stripe;
use crate::people::role_of_session;
use crate::policy::Context;
use crate::store::Change;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Shortest and longest time limit: a minute, a week.
const TTL_SECONDS: std::ops::RangeInclusive<u64> = 60..=7 * 86_400;
/// Entries at once; far more than an incident has principals, far less than would slow judging.
const QUARANTINES_MAX: usize = 10_000;
const ARN_BYTES_MAX: usize = 2_048;
const REASON_BYTES_MAX: usize = 1_024;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct PutQuarantine {
    principal_arn: Option<String>,
    ttl_seconds: Option<u64>,
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct LiftQuarantine {
    pub(crate) principal_arn: Option<String>,
    pub(crate) reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListQuarantines {}

impl Mutation for PutQuarantine {
    const ACCESS: bool = true;

    fn parameters(&self) -> Option<Value> {
        parameters(self.principal_arn.as_deref(), self.ttl_seconds, self.reason.as_deref())
    }

    fn stripes(&self, _judge: &Judge<'_>) -> BTreeSet<Stripe> {
        BTreeSet::new()
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let arn = &checked_arn(self.principal_arn.as_ref())?;
        let ttl_seconds = *required(&self.ttl_seconds, "ttlSeconds")?;
        if !TTL_SECONDS.contains(&ttl_seconds) {
            let constraint = "Member must have value between 60 and 604800";
            return Err(Refusal::constraint(Some(&ttl_seconds.to_string()), "ttlSeconds", constraint));
        }
        let reason = checked_reason(self.reason.as_deref())?;
        judge.allow_account("keytrail:PutQuarantine", &Context::default())?;
        if judge.access.is_protected(arn) {
            return Err(Refusal::new(
                RefusalKind::Validation,
                format!("{arn} is protected and cannot be quarantined."),
            ));
        }
        let quarantine = Quarantine {
            expires_us: judge.judged_at_us + ttl_seconds * 1_000_000,
            reason: reason.to_owned(),
            event_id: judge.event_id.to_string(),
        };
        put(judge, arn, quarantine)
    }
}

fn put(judge: &mut Judge<'_>, arn: &str, quarantine: Quarantine) -> Result<Effect, Refusal> {
    let before = judge.access.quarantine(arn, judge.judged_at_us);
    judge.record.before = before.map(|quarantine| image(arn, quarantine));
    judge.record.after = Some(image(arn, &quarantine));
    let answer = json!({"PrincipalArn": arn, "ExpiresAt": epoch_seconds(quarantine.expires_us)});
    judge.record.response_elements = Some(json!({"principalArn": arn, "expiresAtMicros": quarantine.expires_us}));
    let mut entries = judge.access.quarantines.clone();
    // Those that are over decide nothing any more.
    let mut changes: Vec<Change> = Vec::new();
    entries.retain(|other, entry| {
        let live = entry.expires_us > judge.judged_at_us;
        if !live && other != arn {
            changes.push(Change::DeleteQuarantine(other.clone()));
        }
        live
    });
    if entries.len() >= QUARANTINES_MAX && !entries.contains_key(arn) {
        return Err(Refusal::new(RefusalKind::LimitExceeded, "Too many principals are in quarantine."));
    }
    changes.push(Change::PutQuarantine {
        principal_arn: arn.to_owned(),
        expires_us: quarantine.expires_us,
        reason: quarantine.reason.clone(),
        event_id: quarantine.event_id.clone(),
    });
    entries.insert(arn.to_owned(), quarantine);
    let access = Some(Arc::new(judge.access.with_quarantines(entries)));
    Ok(Effect { body: json_body(&answer), changes, access, ..Effect::default() })
}

impl Mutation for LiftQuarantine {
    const ACCESS: bool = true;

    fn parameters(&self) -> Option<Value> {
        parameters(self.principal_arn.as_deref(), None, self.reason.as_deref())
    }

    fn stripes(&self, _judge: &Judge<'_>) -> BTreeSet<Stripe> {
        BTreeSet::new()
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let arn = &checked_arn(self.principal_arn.as_ref())?;
        checked_reason(self.reason.as_deref())?;
        judge.allow_account("keytrail:LiftQuarantine", &Context::default())?;
        let mut entries = judge.access.quarantines.clone();
        let Some(before) = entries.remove(arn).filter(|entry| entry.expires_us > judge.judged_at_us) else {
            return Err(Refusal::new(RefusalKind::NotFound, format!("{arn} is not in quarantine.")));
        };
        judge.record.before = Some(image(arn, &before));
        judge.record.response_elements = Some(json!({"principalArn": arn}));
        Ok(Effect {
            body: json_body(&json!({"PrincipalArn": arn})),
            changes: vec![Change::DeleteQuarantine(arn.to_owned())],
            access: Some(Arc::new(judge.access.with_quarantines(entries))),
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
        let live = judge.access.quarantines.iter().filter(|(_, entry)| entry.expires_us > judge.judged_at_us);
        let listed: Vec<Value> = live
            .map(|(arn, entry)| {
                json!({"PrincipalArn": arn, "ExpiresAt": epoch_seconds(entry.expires_us), "Reason": entry.reason})
            })
            .collect();
        Ok(json_body(&json!({"Quarantines": listed})))
    }
}

fn image(arn: &str, quarantine: &Quarantine) -> Value {
    json!({"principalArn": arn, "expiresAtMicros": quarantine.expires_us})
}

fn parameters(arn: Option<&str>, ttl_seconds: Option<u64>, reason: Option<&str>) -> Option<Value> {
    let cut = |text: &str| Value::from(&text[..text.floor_char_boundary(ARN_BYTES_MAX)]);
    super::input::recorded(
        None,
        json!({"principalArn": arn.map(cut), "ttlSeconds": ttl_seconds, "reason": reason.map(cut)}),
    )
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

fn checked_reason(reason: Option<&str>) -> Result<&str, Refusal> {
    let reason = reason.unwrap_or_default();
    if reason.len() > REASON_BYTES_MAX {
        let constraint = "Member must have length less than or equal to 1024";
        return Err(Refusal::constraint(Some(reason), "reason", constraint));
    }
    Ok(reason)
}
