//! AnnounceChange, WithdrawChange and ListChanges: work that is told beforehand, so that the responder lets it be done.
//!
//! An announcement is an event of the log under its announcer's name, and allows nothing: policies still decide about the
//! work itself. It counts for calls of others only, which is why it keeps all that its announcer is (docs/responder.md).

use super::answer::json_body;
use super::drive::{Class, Effect, Mutation, Query};
use super::input::{recorded, required};
use super::judge::Judge;
use super::refusal::{Refusal, RefusalKind};
use crate::access::Role;
use crate::announced::{Announced, AnnouncedChange, KEPT_US};
use crate::key::AccountId;
use crate::locks::Stripe;
use crate::policy::{Context, KMS_ACTIONS, Mfa};
use crate::store::Change;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A ticket number or address, with a few words.
const TICKET_BYTES_MAX: usize = 128;
/// IAM allows more; 200 announcements must fit into a few answers.
const ARN_BYTES_MAX: usize = 512;
const OPERATIONS_MAX: usize = 20;
/// Longest time from beginning to end: what takes longer is no change but a state, and belongs into a playbook.
const SPAN_US_MAX: u64 = 31 * 86_400 * 1_000_000;
/// Announcements of a node at once, those included that are over but still kept.
const CHANGES_MAX: usize = 500;
/// Of one answer, which stays far below what the responder reads.
const PAGE_CHANGES: usize = 50;
/// Of a text that the log holds although it was refused.
const TOLD_BYTES_MAX: usize = 512;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct AnnounceChange {
    ticket: Option<String>,
    key_id: Option<String>,
    principal_arn: Option<String>,
    operations: Option<Vec<String>>,
    /// Unix seconds.
    from: Option<u64>,
    /// Unix seconds.
    until: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct WithdrawChange {
    change_id: Option<String>,
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListChanges {
    marker: Option<String>,
}

impl Mutation for AnnounceChange {
    /// All judging stops while it is put down: no call is half before and half after it.
    const ACCESS: bool = true;

    fn parameters(&self) -> Option<Value> {
        let operations = self.operations.as_ref();
        let operations: Option<Vec<&str>> =
            operations.map(|names| names.iter().take(OPERATIONS_MAX).map(|name| cut(name)).collect());
        recorded(
            None,
            json!({
                "ticket": self.ticket.as_deref().map(cut), "keyId": self.key_id.as_deref().map(cut),
                "principalArn": self.principal_arn.as_deref().map(cut), "operations": operations,
                "from": self.from, "until": self.until,
            }),
        )
    }

    fn stripes(&self, _judge: &Judge<'_>) -> BTreeSet<Stripe> {
        BTreeSet::new()
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let ticket = printable(required(&self.ticket, "ticket")?, "ticket", TICKET_BYTES_MAX)?;
        let operations = checked_operations(required(&self.operations, "operations")?)?;
        let (from_us, until_us) = self.checked_times(judge.judged_at_us)?;
        judge.allow_account("keytrail:AnnounceChange", &Context::default())?;
        let (key_arn, principal_arn) = self.subject(judge).await?;
        let (account, caller) = (judge.account(), judge.caller()?);
        let change = AnnouncedChange {
            change_id: judge.event_id.to_string(),
            account: account.to_string(),
            ticket: ticket.to_owned(),
            key_arn,
            principal_arn,
            operations,
            from_us,
            until_us,
            announced_us: judge.judged_at_us,
            announced_by: caller.arn.clone(),
            announced_as: caller.quarantined_as().map(str::to_owned).collect(),
            mfa: caller.context().is_some_and(|context| matches!(context.mfa, Mfa::At(_))),
        };
        let mut announced = (*judge.access.announced).clone();
        let mut changes = forget_old(&mut announced, judge.judged_at_us);
        if announced.len() >= CHANGES_MAX {
            return Err(Refusal::new(RefusalKind::LimitExceeded, "Too many changes are announced."));
        }
        changes.push(change.stored(account));
        judge.record.after = Some(change.image());
        judge.record.response_elements = Some(json!({"changeId": change.change_id}));
        let body = json_body(&json!({"ChangeId": change.change_id}));
        announced.insert(change.change_id.clone(), Arc::new(change));
        Ok(Effect {
            body,
            changes,
            access: Some(Arc::new(judge.access.with_announced(announced))),
            ..Effect::default()
        })
    }
}

impl AnnounceChange {
    fn checked_times(&self, now_us: u64) -> Result<(u64, u64), Refusal> {
        let micros = |seconds: u64| seconds.saturating_mul(1_000_000);
        let from_us = self.from.map_or(now_us, micros);
        let until_us = micros(*required(&self.until, "until")?);
        if until_us <= now_us || until_us <= from_us || until_us - from_us.max(now_us) > SPAN_US_MAX {
            let constraint = "Member must be after from and now, by at most 31 days";
            return Err(Refusal::constraint(None, "until", constraint));
        }
        Ok((from_us, until_us))
    }

    /// One key or one principal, of the caller's own account.
    async fn subject(&self, judge: &mut Judge<'_>) -> Result<(Option<String>, Option<String>), Refusal> {
        match (&self.key_id, &self.principal_arn) {
            (Some(key), None) => {
                let key = judge.key_without_alias(key).await?;
                if key.account != judge.account() {
                    return Err(Refusal::constraint(None, "keyId", "Member must be a key of the caller's account"));
                }
                Ok((Some(key.arn()), None))
            }
            (None, Some(arn)) => {
                let arn = printable(arn, "principalArn", ARN_BYTES_MAX)?;
                let own = ["iam", "sts"].iter().any(|service| {
                    arn.strip_prefix(&format!("arn:aws:{service}::{}:", judge.account()))
                        .is_some_and(|name| !name.is_empty())
                });
                if !own || judge.access.is_protected(arn) {
                    let constraint = "Member must be the ARN of a user, role or session of the caller's account";
                    return Err(Refusal::constraint(Some(arn), "principalArn", constraint));
                }
                Ok((None, Some(arn.to_owned())))
            }
            _ => Err(Refusal::constraint(None, "keyId", "Either keyId or principalArn must be given, not both")),
        }
    }
}

/// Takes away what nothing can be about any more.
fn forget_old(announced: &mut Announced, now_us: u64) -> Vec<Change> {
    let mut changes = Vec::new();
    announced.retain(|_, change| {
        let kept = change.until_us.saturating_add(KEPT_US) > now_us;
        if let (false, Some(owner)) = (kept, AccountId::parse(&change.account)) {
            changes.push(change.deleted(owner));
        }
        kept
    });
    changes
}

impl Mutation for WithdrawChange {
    const ACCESS: bool = true;

    fn parameters(&self) -> Option<Value> {
        recorded(
            None,
            json!({"changeId": self.change_id.as_deref().map(cut), "reason": self.reason.as_deref().map(cut)}),
        )
    }

    fn stripes(&self, _judge: &Judge<'_>) -> BTreeSet<Stripe> {
        BTreeSet::new()
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let id = required(&self.change_id, "changeId")?;
        let reason = printable(required(&self.reason, "reason")?, "reason", TOLD_BYTES_MAX)?;
        judge.allow_account("keytrail:WithdrawChange", &Context::default())?;
        let account = judge.account();
        let found = judge.access.announced.get(id).filter(|change| {
            change.account == account.as_str() && change.until_us > judge.judged_at_us && !reason.is_empty()
        });
        let Some(found) = found.cloned() else {
            return Err(Refusal::new(RefusalKind::NotFound, "No change with this id is announced."));
        };
        // It ends now. What was done under it before was announced.
        let ended = AnnouncedChange { until_us: judge.judged_at_us, ..(*found).clone() };
        judge.record.before = Some(found.image());
        judge.record.after = Some(ended.image());
        judge.record.response_elements = Some(json!({"changeId": ended.change_id}));
        let body = json_body(&json!({"ChangeId": ended.change_id}));
        let changes = vec![ended.stored(account)];
        let mut announced = (*judge.access.announced).clone();
        announced.insert(ended.change_id.clone(), Arc::new(ended));
        Ok(Effect {
            body,
            changes,
            access: Some(Arc::new(judge.access.with_announced(announced))),
            ..Effect::default()
        })
    }
}

impl Query for ListChanges {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        None
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        judge.allow_account("keytrail:ListChanges", &Context::default())?;
        // The responder acts for all accounts, everyone else asks about its own.
        let everything = judge.caller()?.role == Role::Responder;
        let (account, after) = (judge.account(), self.marker.as_deref().unwrap_or_default());
        let mut listed =
            judge.access.announced.values().filter(|change| {
                (everything || change.account == account.as_str()) && change.change_id.as_str() > after
            });
        let page: Vec<&AnnouncedChange> = listed.by_ref().take(PAGE_CHANGES).map(|change| &**change).collect();
        let next = listed.next().and(page.last()).map(|last| last.change_id.as_str());
        let changes: Vec<Value> = page.iter().map(|change| change.image()).collect();
        // Whoever judges a call of before this moment need not ask again.
        Ok(json_body(&json!({"Changes": changes, "NextMarker": next, "AsOfMicros": judge.judged_at_us})))
    }
}

fn checked_operations(names: &[String]) -> Result<Vec<String>, Refusal> {
    if names.is_empty() || names.len() > OPERATIONS_MAX {
        return Err(Refusal::constraint(None, "operations", "Member must have between 1 and 20 operations"));
    }
    let known = |name: &&String| KMS_ACTIONS.iter().any(|(action, _)| action == *name);
    match names.iter().find(|name| !known(name)) {
        Some(name) => Err(Refusal::constraint(Some(cut(name)), "operations", "Member must be operations of KMS")),
        None => Ok(names.to_vec()),
    }
}

/// Text for people and for comparison: no control characters, which would reach terminals and mails.
fn printable<'a>(text: &'a str, member: &str, bytes_max: usize) -> Result<&'a str, Refusal> {
    if text.is_empty() || text.len() > bytes_max || text.chars().any(char::is_control) {
        let constraint = format!("Member must have between 1 and {bytes_max} bytes without control characters");
        return Err(Refusal::constraint(None, member, &constraint));
    }
    Ok(text)
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TOLD_BYTES_MAX)]
}
