//! DeactivateAccessKey, ActivateAccessKey and ListDeactivatedAccessKeys: long-term access keys that are not honoured until
//! they are given back, whether identities.toml or the IAM API has them.
//!
//! The file and the API's own entry stay as they are: giving a key back leaves the status that its owner gave it, and a file
//! that is loaded anew does not bring a stolen key back. Sessions opened with the key go on, as at AWS; a quarantine of its
//! owner ends those. Keys of account roots and of fixed principals cannot be withdrawn.

use super::answer::json_body;
use super::drive::{Class, Effect, Mutation, Query};
use super::input::recorded;
use super::judge::Judge;
use super::overlay_input::{checked_reason, cut};
use super::refusal::{Refusal, RefusalKind};
use crate::locks::Stripe;
use crate::overlay::Withdrawal;
use crate::policy::Context;
use crate::store::Change;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Keys at once.
const WITHDRAWN_MAX: usize = 10_000;
/// AWS's limit on an access key id.
const ID_BYTES_MAX: usize = 128;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct DeactivateAccessKey {
    access_key_id: Option<String>,
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ActivateAccessKey {
    access_key_id: Option<String>,
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListDeactivatedAccessKeys {}

impl Mutation for DeactivateAccessKey {
    const ACCESS: bool = true;

    fn parameters(&self) -> Option<Value> {
        parameters(self.access_key_id.as_ref(), self.reason.as_ref())
    }

    fn stripes(&self, _judge: &Judge<'_>) -> BTreeSet<Stripe> {
        BTreeSet::new()
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let id = checked_id(self.access_key_id.as_ref())?;
        let reason = checked_reason(self.reason.as_deref())?.to_owned();
        judge.allow_account("keytrail:DeactivateAccessKey", &Context::default())?;
        let principal_arn = owner(judge, id)?;
        if judge.access.is_protected(&principal_arn) {
            let text = format!("The access key of {principal_arn} is protected and cannot be withdrawn.");
            return Err(Refusal::new(RefusalKind::Validation, text));
        }
        let mut overlay = judge.access.overlay().clone();
        if overlay.withdrawn.len() >= WITHDRAWN_MAX && !overlay.withdrawn.contains_key(id) {
            return Err(Refusal::new(RefusalKind::LimitExceeded, "Too many access keys are withdrawn."));
        }
        let entry = Withdrawal { principal_arn, reason, event_id: judge.event_id.to_string() };
        judge.record.before = overlay.withdrawn.get(id).map(|before| image(id, before));
        judge.record.after = Some(image(id, &entry));
        judge.record.response_elements = Some(image(id, &entry));
        let body = json_body(&json!({"AccessKeyId": id, "PrincipalArn": entry.principal_arn}));
        let changes = vec![Change::WithdrawAccessKey(id.to_owned(), entry.clone())];
        overlay.withdrawn.insert(id.to_owned(), entry);
        let access = Some(Arc::new(judge.access.with_overlay(overlay)));
        Ok(Effect { body, changes, access, ..Effect::default() })
    }
}

impl Mutation for ActivateAccessKey {
    const ACCESS: bool = true;

    fn parameters(&self) -> Option<Value> {
        parameters(self.access_key_id.as_ref(), self.reason.as_ref())
    }

    fn stripes(&self, _judge: &Judge<'_>) -> BTreeSet<Stripe> {
        BTreeSet::new()
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let id = checked_id(self.access_key_id.as_ref())?;
        checked_reason(self.reason.as_deref())?;
        judge.allow_account("keytrail:ActivateAccessKey", &Context::default())?;
        let mut overlay = judge.access.overlay().clone();
        let Some(before) = overlay.withdrawn.get(id).cloned().filter(|entry| is_visible(judge, entry)) else {
            return Err(Refusal::new(RefusalKind::NotFound, format!("The access key {id} is not withdrawn.")));
        };
        overlay.withdrawn.remove(id);
        judge.record.before = Some(image(id, &before));
        judge.record.response_elements = Some(json!({"accessKeyId": id}));
        Ok(Effect {
            body: json_body(&json!({"AccessKeyId": id})),
            changes: vec![Change::GiveBackAccessKey(id.to_owned())],
            access: Some(Arc::new(judge.access.with_overlay(overlay))),
            ..Effect::default()
        })
    }
}

impl Query for ListDeactivatedAccessKeys {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        None
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        judge.allow_account("keytrail:ListDeactivatedAccessKeys", &Context::default())?;
        let all = judge.access.overlay().withdrawn.iter().filter(|(_, entry)| is_visible(judge, entry));
        let listed: Vec<Value> = all
            .map(|(id, entry)| json!({"AccessKeyId": id, "PrincipalArn": entry.principal_arn, "Reason": entry.reason}))
            .collect();
        Ok(json_body(&json!({"AccessKeys": listed})))
    }
}

/// Keys of another account are the business of the responder and of break-glass alone.
fn is_visible(judge: &Judge<'_>, entry: &Withdrawal) -> bool {
    let account = judge.account();
    let above = judge.caller().is_ok_and(|caller| caller.context().is_none());
    above || entry.principal_arn.split(':').nth(4) == Some(account.as_str())
}

/// Whose key it is; one that the caller may not know of is one that is not there.
fn owner(judge: &Judge<'_>, id: &str) -> Result<String, Refusal> {
    let found = judge.access.owner_of_key(id);
    let found = found.filter(|_| {
        let above = judge.caller().is_ok_and(|caller| caller.context().is_none());
        above || judge.access.account_of_key(id).as_deref() == Some(judge.account().as_str())
    });
    found.ok_or_else(|| Refusal::new(RefusalKind::NotFound, format!("There is no access key {id} to withdraw.")))
}

/// Only long-term keys: a session's ends by itself, and with the quarantine of whoever opened it.
fn checked_id(id: Option<&String>) -> Result<&str, Refusal> {
    let id = id.ok_or_else(|| Refusal::missing("accessKeyId"))?;
    if id.len() > ID_BYTES_MAX || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) || id.starts_with("ASIA") {
        let constraint = "Member must be the id of a long-term access key";
        return Err(Refusal::constraint(Some(id), "accessKeyId", constraint));
    }
    Ok(id)
}

fn parameters(id: Option<&String>, reason: Option<&String>) -> Option<Value> {
    recorded(None, json!({"accessKeyId": id.map(cut), "reason": reason.map(cut)}))
}

fn image(id: &str, entry: &Withdrawal) -> Value {
    json!({"accessKeyId": id, "principalArn": entry.principal_arn, "status": "Inactive"})
}
