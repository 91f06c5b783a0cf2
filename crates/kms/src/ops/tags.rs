//! TagResource, UntagResource and ListResourceTags.

use super::answer::json_body;
use super::create_key::checked_image;
use super::drive::{Class, Effect, Mutation, Query};
use super::dual_control;
use super::enable::change_key;
use super::input::{Page, recorded, required};
use super::judge::{Judge, not_pending};
use super::refusal::{Refusal, RefusalKind};
use crate::key::KeyRecord;
use crate::locks::Stripe;
use crate::policy::Context;
use crate::store::Change;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// AWS's limit on tags of one key.
const TAGS_MAX: usize = 50;
const NAME_CHARS_MAX: usize = 128;
const VALUE_CHARS_MAX: usize = 256;
const TOO_MANY: &str = "Too many tags";

#[derive(Deserialize, Serialize)]
pub(crate) struct Tag {
    #[serde(rename(deserialize = "TagKey", serialize = "tagKey"))]
    pub(crate) key: String,
    #[serde(rename(deserialize = "TagValue", serialize = "tagValue"))]
    pub(crate) value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct TagResource {
    key_id: Option<String>,
    tags: Option<Vec<Tag>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct UntagResource {
    key_id: Option<String>,
    tag_keys: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListResourceTags {
    key_id: Option<String>,
    limit: Option<i64>,
    marker: Option<String>,
}

/// Checks new tags: lengths, characters, the reserved prefix, no name twice, not too many.
pub(crate) fn checked(tags: &[Tag]) -> Result<(), Refusal> {
    for (index, tag) in tags.iter().enumerate() {
        check_lengths(index + 1, tag)?;
    }
    let refused = |text: &'static str| Err(Refusal::new(RefusalKind::Tag, text));
    let mut names = BTreeSet::new();
    for tag in tags {
        if !is_tag_text(&tag.key) || !is_tag_text(&tag.value) {
            return refused("Tags can have letters, digits, spaces and the characters _ . : / = + - @ only.");
        }
        if tag.key.to_ascii_lowercase().starts_with("aws:") {
            return refused("Tags beginning with aws: are reserved");
        }
        if !names.insert(&tag.key) {
            return refused("Duplicate tag keys");
        }
    }
    if names.len() > TAGS_MAX { refused(TOO_MANY) } else { Ok(()) }
}

/// The model's limits on one tag; AWS counts tags from one.
fn check_lengths(place: usize, tag: &Tag) -> Result<(), Refusal> {
    let refused = |text: &str, half: &str, constraint: String| {
        Err(Refusal::constraint(Some(text), &format!("tags.{place}.member.{half}"), &constraint))
    };
    if tag.key.is_empty() {
        return refused("", "tagKey", "Member must have length greater than or equal to 1".to_owned());
    }
    for (text, half, chars_max) in [(&tag.key, "tagKey", NAME_CHARS_MAX), (&tag.value, "tagValue", VALUE_CHARS_MAX)] {
        if text.chars().count() > chars_max {
            return refused(text, half, format!("Member must have length less than or equal to {chars_max}"));
        }
    }
    Ok(())
}

/// Whether a tag's key or value has AWS's characters only; none of them grows when JSON escapes it.
pub(crate) fn is_tag_text(text: &str) -> bool {
    text.chars().all(|c| c.is_alphanumeric() || c == ' ' || "_.:/=+-@".contains(c))
}

/// As a record holds them.
pub(crate) fn by_key(tags: &[Tag]) -> BTreeMap<String, String> {
    tags.iter().map(|tag| (tag.key.clone(), tag.value.clone())).collect()
}

impl Mutation for TagResource {
    fn parameters(&self) -> Option<Value> {
        recorded(self.key_id.as_ref(), json!({"tags": self.tags}))
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        dual_control::stripes(judge, self.key_id.as_deref())
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let text = required(&self.key_id, "keyId")?;
        let tags = required(&self.tags, "tags")?;
        checked(tags)?;
        let key = judge.key_without_alias(text).await?;
        let added = by_key(tags);
        judge.allow_key("kms:TagResource", &key, &Context { request_tags: Some(&added), ..Context::default() })?;
        not_pending(&key)?;
        let mut merged = key.tags.clone();
        merged.extend(added);
        if merged.len() > TAGS_MAX {
            return Err(Refusal::new(RefusalKind::Tag, TOO_MANY));
        }
        let after = key.with_tags(merged);
        checked_image(&after)?;
        let rows = tags.iter().map(|tag| Change::PutTag(key.id, tag.key.clone(), tag.value.clone())).collect();
        retagged(judge, &key, after, rows).await
    }
}

impl Mutation for UntagResource {
    fn parameters(&self) -> Option<Value> {
        recorded(self.key_id.as_ref(), json!({"tagKeys": self.tag_keys}))
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        dual_control::stripes(judge, self.key_id.as_deref())
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let text = required(&self.key_id, "keyId")?;
        let names = required(&self.tag_keys, "tagKeys")?;
        if names.len() > TAGS_MAX {
            return Err(Refusal::new(RefusalKind::Tag, TOO_MANY));
        }
        let key = judge.key_without_alias(text).await?;
        let facts = Context { tag_keys: names, ..Context::default() };
        judge.allow_key("kms:UntagResource", &key, &facts)?;
        not_pending(&key)?;
        let mut left = key.tags.clone();
        left.retain(|name, _| !names.contains(name));
        let rows = names.iter().map(|name| Change::DeleteTag(key.id, name.clone())).collect();
        retagged(judge, &key, key.with_tags(left), rows).await
    }
}

/// Who takes a key from under dual control needs a second person, too.
async fn retagged(
    judge: &mut Judge<'_>,
    before: &KeyRecord,
    after: KeyRecord,
    rows: Vec<Change>,
) -> Result<Effect, Refusal> {
    let frees = !dual_control::is_required(&after);
    let effect = change_key(judge, before, after, rows);
    if frees { dual_control::guarded(judge, before, effect).await } else { Ok(effect) }
}

impl Query for ListResourceTags {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        recorded(self.key_id.as_ref(), json!({"limit": self.limit}))
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        let text = required(&self.key_id, "keyId")?;
        let page = Page::parse(self.limit, self.marker.as_deref(), 50, 50)?;
        let key = judge.key_without_alias(text).await?;
        judge.allow_key("kms:ListResourceTags", &key, &Context::default())?;
        let behind = |name: &str| page.after.as_deref().is_none_or(|after| name > after);
        let mut tags: Vec<_> = key.tags.iter().filter(|(name, _)| behind(name)).take(page.limit + 1).collect();
        let truncated = tags.len() > page.limit;
        tags.truncate(page.limit);
        let listed: Vec<Value> = tags.iter().map(|(name, value)| json!({"TagKey": name, "TagValue": value})).collect();
        let mut answer = json!({"Tags": listed, "Truncated": truncated});
        if let (true, Some((last, _))) = (truncated, tags.last()) {
            answer["NextMarker"] = Page::marker(last).into();
        }
        Ok(json_body(&answer))
    }
}
