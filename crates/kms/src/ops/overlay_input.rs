//! What the operations of the overlay have in common: keys as scopes, time limits, reasons.

use super::input::KeyReference;
use super::judge::{Judge, KEY_ID};
use super::refusal::{Refusal, RefusalKind};
use crate::key::{AccountId, KeyId, key_arn};
use crate::overlay::{Scope, key_scope};
use serde_json::Value;

/// Shortest and longest time limit: a minute, a week.
const TTL_SECONDS: std::ops::RangeInclusive<u64> = 60..=7 * 86_400;
const REASON_BYTES_MAX: usize = 1_024;
/// Longest input that an event quotes.
const QUOTED_BYTES_MAX: usize = 2_048;

/// A key that an entry is about.
pub(crate) struct KeyScope {
    pub(crate) scope: Scope,
    pub(crate) arn: String,
}

/// A key that must be there; of another account only for the responder, who looks after all accounts.
pub(crate) async fn existing_key(judge: &mut Judge<'_>, text: &str) -> Result<KeyScope, Refusal> {
    let (account, id) = reference(judge, text)?;
    judge.key_by_id(KEY_ID, account, id).await?;
    Ok(scope(account, id))
}

/// A key that may be gone by now.
pub(crate) fn named_key(judge: &mut Judge<'_>, text: &str) -> Result<KeyScope, Refusal> {
    let (account, id) = reference(judge, text)?;
    let found = scope(account, id);
    judge.record.touch_key_arn(found.arn.clone(), account);
    judge.record.parameter(KEY_ID, found.arn.as_str());
    Ok(found)
}

fn reference(judge: &Judge<'_>, text: &str) -> Result<(AccountId, KeyId), Refusal> {
    let (account, id) = KeyReference::parse(text, judge.region(), judge.account())?.key_only(text)?;
    if account != judge.account() && !judge.is_responder() {
        let text = "The key must be one of the caller's own account.";
        return Err(Refusal::new(RefusalKind::Validation, text));
    }
    Ok((account, id))
}

fn scope(account: AccountId, id: KeyId) -> KeyScope {
    KeyScope { scope: key_scope(account, id), arn: key_arn(account, id) }
}

/// A time limit in seconds.
pub(crate) fn checked_ttl(ttl_seconds: u64) -> Result<u64, Refusal> {
    if !TTL_SECONDS.contains(&ttl_seconds) {
        let constraint = "Member must have value between 60 and 604800";
        return Err(Refusal::constraint(Some(&ttl_seconds.to_string()), "ttlSeconds", constraint));
    }
    Ok(ttl_seconds)
}

/// Why, for people.
pub(crate) fn checked_reason(reason: Option<&str>) -> Result<&str, Refusal> {
    let reason = reason.unwrap_or_default();
    if reason.len() > REASON_BYTES_MAX {
        let constraint = "Member must have length less than or equal to 1024";
        return Err(Refusal::constraint(Some(reason), "reason", constraint));
    }
    Ok(reason)
}

/// An input as events quote it.
pub(crate) fn cut(text: impl AsRef<str>) -> Value {
    let text = text.as_ref();
    Value::from(&text[..text.floor_char_boundary(QUOTED_BYTES_MAX)])
}
