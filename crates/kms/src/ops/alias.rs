//! CreateAlias, UpdateAlias, DeleteAlias and ListAliases: names for keys.
//!
//! A change of an alias is a change of its keys, too, since policies may look at a key's aliases: it holds the name's
//! stripe and those of all keys concerned.

use super::answer::json_body;
use super::drive::{Class, Effect, Mutation, Query};
use super::enable::key_stripes;
use super::input::{KeyReference, Page, recorded, required};
use super::judge::{Judge, not_pending};
use super::record::Record;
use super::refusal::{Refusal, RefusalKind};
use crate::key::{AccountId, KeyRecord, alias_arn, epoch_seconds};
use crate::locks::Stripe;
use crate::policy::Context;
use crate::registry::{Alias, Publish};
use crate::store::Change;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// AWS's quota of aliases of one key.
const ALIASES_MAX: usize = 50;
const NAME_BYTES_MAX: usize = 256;
/// The page that AWS's own message names.
const ALIAS_PAGE: &str = "https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CreateAlias {
    alias_name: Option<String>,
    target_key_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct UpdateAlias {
    alias_name: Option<String>,
    target_key_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct DeleteAlias {
    alias_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListAliases {
    key_id: Option<String>,
    limit: Option<i64>,
    marker: Option<String>,
}

/// Checks a name in the order and words of AWS: the model's constraints first.
fn checked(name: &str) -> Result<&str, Refusal> {
    let broken = |constraint: &str| Err(Refusal::constraint(Some(name), "aliasName", constraint));
    let refused = |text: String| Err(Refusal::new(RefusalKind::Validation, text));
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b":/_-".contains(&byte);
    if name.is_empty() {
        return broken("Member must have length greater than or equal to 1");
    }
    if name.len() > NAME_BYTES_MAX {
        return broken("Member must have length less than or equal to 256");
    }
    if !name.bytes().all(allowed) {
        return broken("Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$");
    }
    let Some(rest) = name.strip_prefix("alias/") else {
        return refused(format!("Alias must start with the prefix \"alias/\". Please see {ALIAS_PAGE}"));
    };
    if rest.starts_with("aws/") {
        return Err(Refusal::bare(RefusalKind::NotAuthorized));
    }
    if rest.is_empty() || rest.contains(':') {
        return refused(format!("{name} contains invalid characters for an alias"));
    }
    Ok(name)
}

fn parameters(alias_name: Option<&String>, target: Option<&String>) -> Option<Value> {
    let cut = |text: &String| Value::from(&text[..text.floor_char_boundary(2_048)]);
    recorded(None, json!({"aliasName": alias_name.map(cut), "targetKeyId": target.map(cut)}))
}

/// The stripes of a name, of the key it points to and of the key it will point to.
fn stripes(judge: &Judge<'_>, name: Option<&String>, target: Option<&String>) -> BTreeSet<Stripe> {
    let (node, account) = (judge.node, judge.account());
    let mut stripes = key_stripes(judge, target.map(String::as_str));
    if let Some(name) = name {
        stripes.insert(node.locks.alias(account, judge.region(), name));
        stripes.extend(
            node.registry.alias(account, judge.region(), name).map(|alias| node.locks.key(account, alias.target)),
        );
    }
    stripes
}

impl Mutation for CreateAlias {
    fn parameters(&self) -> Option<Value> {
        parameters(self.alias_name.as_ref(), self.target_key_id.as_ref())
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        stripes(judge, self.alias_name.as_ref(), self.target_key_id.as_ref())
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let name = checked(required(&self.alias_name, "aliasName")?)?;
        let key = target(judge, required(&self.target_key_id, "targetKeyId")?).await?;
        judge.record.touch_alias(key.account, name, judge.region());
        judge.allow_alias("kms:CreateAlias", key.account, name)?;
        judge.allow_key("kms:CreateAlias", &key, &Context::default())?;
        not_pending(&key)?;
        if judge.node.registry.alias(key.account, judge.region(), name).is_some() {
            let arn = alias_arn(judge.region(), key.account, name);
            let text = format!("An alias with the name {arn} already exists");
            return Err(Refusal::new(RefusalKind::AlreadyExists, text));
        }
        let now_us = judge.judged_at_us;
        let alias = Alias { target: key.id, created_us: now_us, updated_us: now_us };
        point(judge, name, None, &key, alias)
    }
}

impl Mutation for UpdateAlias {
    fn parameters(&self) -> Option<Value> {
        parameters(self.alias_name.as_ref(), self.target_key_id.as_ref())
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        stripes(judge, self.alias_name.as_ref(), self.target_key_id.as_ref())
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let name = checked(required(&self.alias_name, "aliasName")?)?;
        let text = required(&self.target_key_id, "targetKeyId")?;
        let (alias, old) = existing(judge, name).await?;
        let new = target(judge, text).await?;
        note_setter(judge, old.account, name).await?;
        judge.allow_alias("kms:UpdateAlias", new.account, name)?;
        judge.allow_key("kms:UpdateAlias", &old, &Context::default())?;
        judge.allow_key("kms:UpdateAlias", &new, &Context::default())?;
        not_pending(&new)?;
        same_purpose(&old, &new)?;
        let alias = Alias { target: new.id, updated_us: judge.judged_at_us, ..alias };
        point(judge, name, Some(&old), &new, alias)
    }
}

impl Mutation for DeleteAlias {
    fn parameters(&self) -> Option<Value> {
        parameters(self.alias_name.as_ref(), None)
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        stripes(judge, self.alias_name.as_ref(), None)
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let name = checked(required(&self.alias_name, "aliasName")?)?;
        let (_, key) = existing(judge, name).await?;
        note_setter(judge, key.account, name).await?;
        judge.allow_alias("kms:DeleteAlias", key.account, name)?;
        judge.allow_key("kms:DeleteAlias", &key, &Context::default())?;
        let region = judge.region();
        let arn = key.arn();
        judge.record.before = Some(Record::alias_image(region, key.account, name, &arn));
        judge.record.response_elements = Some(json!({"keyId": arn}));
        Ok(Effect {
            changes: vec![Change::DeleteAlias(key.account, region, name.to_owned())],
            publish: vec![
                Publish::NoAlias(key.account, region, name.into()),
                Publish::Key(Arc::new(key.without_alias(name))),
            ],
            ..Effect::default()
        })
    }
}

/// The key an alias shall point to: named by id or ARN, of the caller's own account.
async fn target(judge: &mut Judge<'_>, text: &str) -> Result<Arc<KeyRecord>, Refusal> {
    let KeyReference::Key(account, id) = KeyReference::parse(text, judge.region(), judge.account())? else {
        return Err(Refusal::new(RefusalKind::Validation, "Aliases must refer to keys. Not aliases"));
    };
    let key = judge.find_key(account, id).await?;
    if key.account != judge.account() {
        return Err(judge.denied_abroad());
    }
    Ok(key)
}

/// An alias of the caller's account with its key.
async fn existing(judge: &mut Judge<'_>, name: &str) -> Result<(Alias, Arc<KeyRecord>), Refusal> {
    let account: AccountId = judge.account();
    judge.record.touch_alias(account, name, judge.region());
    let arn = alias_arn(judge.region(), account, name);
    let gone = || Refusal::new(RefusalKind::NotFound, format!("Alias {arn} is not found."));
    let alias = judge.node.registry.alias(account, judge.region(), name).ok_or_else(gone)?;
    let key = judge.find_key(account, alias.target).await?;
    Ok((alias, key))
}

/// Records which event had pointed the alias to where it pointed: the way back for whoever restores it.
pub(crate) async fn note_setter(judge: &mut Judge<'_>, account: AccountId, name: &str) -> Result<(), Refusal> {
    let found = judge.node.store.alias_event((account, judge.region()), name).await;
    if let Some(event_id) = found.map_err(|_| Refusal::internal())? {
        judge.record.more.insert("previousTargetEventId".to_owned(), event_id.into());
    }
    Ok(())
}

/// AWS's rule: code that uses a name must not meet a key that does something else. HMAC keys have a usage of their own.
fn same_purpose(old: &KeyRecord, new: &KeyRecord) -> Result<(), Refusal> {
    let purpose = |key: &KeyRecord| (key.kind.spec.is_asymmetric(), key.kind.usage);
    if purpose(old) != purpose(new) {
        let text = "The current and new KMS key must be the same type (both symmetric or both asymmetric or both HMAC), \
                    and they must have the same key usage.";
        return Err(Refusal::new(RefusalKind::Validation, text));
    }
    Ok(())
}

/// Points a name to a key, away from another one if there was one.
pub(crate) fn point(
    judge: &mut Judge<'_>,
    name: &str,
    old: Option<&KeyRecord>,
    new: &KeyRecord,
    alias: Alias,
) -> Result<Effect, Refusal> {
    let region = judge.region();
    let moved = old.is_none_or(|old| old.id != new.id);
    if moved && new.aliases.len() >= ALIASES_MAX {
        return Err(Refusal::new(RefusalKind::LimitExceeded, "A key can have 50 aliases."));
    }
    let image = |key: &KeyRecord| Record::alias_image(region, key.account, name, &key.arn());
    judge.record.before = old.map(image);
    judge.record.after = Some(image(new));
    judge.record.response_elements = Some(json!({"keyId": new.arn()}));
    let mut publish = vec![Publish::Alias(new.account, name.into(), alias)];
    if moved {
        publish.extend(old.map(|old| Publish::Key(Arc::new(old.without_alias(name)))));
        publish.push(Publish::Key(Arc::new(new.with_alias(name))));
    }
    let Alias { target, created_us, updated_us } = alias;
    let event_id = judge.event_id.to_string();
    let (account, name) = (new.account, name.to_owned());
    let row = Change::PutAlias { account, name, id: target, created_us, updated_us, event_id };
    Ok(Effect { changes: vec![row], publish, ..Effect::default() })
}

impl Query for ListAliases {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        recorded(self.key_id.as_ref(), json!({"limit": self.limit}))
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        let page = Page::parse(self.limit, self.marker.as_deref(), 50, 100)?;
        judge.allow_account("kms:ListAliases", &Context::default())?;
        let target = match &self.key_id {
            Some(text) => Some(judge.key_without_alias(text).await?),
            None => None,
        };
        // The responder looks after the keys of all accounts.
        let account = target.as_ref().filter(|_| judge.is_responder()).map_or(judge.account(), |key| key.account);
        let target = target.filter(|key| key.account == account);
        if self.key_id.is_some() && target.is_none() {
            return Ok(json_body(&json!({"Aliases": [], "Truncated": false})));
        }
        let (node, region) = (judge.node, judge.region());
        let target = target.map(|key| key.id);
        let mut found = node.registry.aliases_after((account, region), target, page.after.as_deref(), page.limit + 1);
        let truncated = found.len() > page.limit;
        found.truncate(page.limit);
        let listed: Vec<Value> = found
            .iter()
            .map(|(name, alias)| {
                json!({
                    "AliasName": name,
                    "AliasArn": alias_arn(region, account, name),
                    "TargetKeyId": alias.target.to_string(),
                    "CreationDate": epoch_seconds(alias.created_us),
                    "LastUpdatedDate": epoch_seconds(alias.updated_us),
                })
            })
            .collect();
        let mut answer = json!({"Aliases": listed, "Truncated": truncated});
        if let (true, Some((last, _))) = (truncated, found.last()) {
            answer["NextMarker"] = Page::marker(last).into();
        }
        Ok(json_body(&answer))
    }
}
