//! LookupEvents of CloudTrail: the account's newest events, page by page, as `aws cloudtrail lookup-events` asks for them.
//!
//! Who may look is the identity policies' to say (`cloudtrail:LookupEvents`). An event tells of its own account only, and
//! as at AWS only in its region. What is in an event may be read: no secret is.

use super::answer::json_body;
use super::drive::{Class, Query};
use super::input::recorded;
use super::judge::Judge;
use super::refusal::{Refusal, RefusalKind};
use crate::chain::leaf::sha256;
use crate::journal::Frame;
use crate::lookup::{Attribute, Filter, Listed, RECORDS_MAX, look_back};
use crate::policy::Context;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// AWS's limit, and its default.
const EVENTS_MAX: i64 = 50;
/// The model's limit on the value of an attribute, in characters.
const VALUE_CHARS_MAX: usize = 2_000;
/// Last second of the year 9999.
const SECS_MAX: f64 = 253_402_300_799.0;
/// A page token: a seq and what it was given for.
const TOKEN_BYTES: usize = 24;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct LookupEvents {
    lookup_attributes: Option<Vec<LookupAttribute>>,
    start_time: Option<f64>,
    end_time: Option<f64>,
    event_category: Option<String>,
    max_results: Option<i64>,
    next_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct LookupAttribute {
    attribute_key: Option<String>,
    attribute_value: Option<String>,
}

impl Query for LookupEvents {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        let cut = |text: &Option<String>| text.as_ref().map(|text| text[..text.floor_char_boundary(2_000)].to_owned());
        // More than one is refused; the first says enough.
        let first = self.lookup_attributes.as_ref().and_then(|list| list.first());
        let attributes = first
            .map(|one| json!([{"attributeKey": cut(&one.attribute_key), "attributeValue": cut(&one.attribute_value)}]));
        recorded(
            None,
            json!({
                "lookupAttributes": attributes, "startTime": self.start_time, "endTime": self.end_time,
                "maxResults": self.max_results,
            }),
        )
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        let count = self.max_results.unwrap_or(EVENTS_MAX);
        if !(1..=EVENTS_MAX).contains(&count) {
            let text = "A maximum result number should be between 1 and 50 inclusive.";
            return Err(Refusal::new(RefusalKind::InvalidMaxResults, text));
        }
        let filter = self.filter(judge)?;
        judge.allow_account("cloudtrail:LookupEvents", &Context::default())?;
        match self.event_category.as_deref() {
            None => {}
            // There are none: nothing here makes insights.
            Some("insight") => return Ok(json_body(&json!({"Events": []}))),
            Some(_) => return Err(Refusal::bare(RefusalKind::InvalidEventCategory)),
        }
        let invalid = || Refusal::new(RefusalKind::InvalidNextToken, "Invalid token");
        let below = self.next_token.as_deref().map(|text| place(text, &filter).ok_or_else(invalid)).transpose()?;
        let (dir, asked) = (judge.node.journal_dir(), filter.clone());
        let count = usize::try_from(count).unwrap_or(1);
        let looked = tokio::task::spawn_blocking(move || look_back(&dir, &asked, below, RECORDS_MAX, count)).await;
        let found = looked.map_err(|_| Refusal::internal())?.map_err(|error| {
            tracing::error!(%error, "events cannot be looked up");
            Refusal::internal()
        })?;
        let found = found.ok_or_else(invalid)?;
        let mut answer = json!({"Events": found.frames.iter().filter_map(event).collect::<Vec<_>>()});
        if let Some(below) = found.below {
            answer["NextToken"] = token(below, &filter).into();
        }
        Ok(json_body(&answer))
    }
}

impl LookupEvents {
    fn filter(&self, judge: &Judge<'_>) -> Result<Filter, Refusal> {
        let times = [self.start_time, self.end_time];
        let sane = times.iter().flatten().all(|secs| (0.0..=SECS_MAX).contains(secs));
        if !sane || matches!(times, [Some(start), Some(end)] if start > end) {
            return Err(Refusal::bare(RefusalKind::InvalidTimeRange));
        }
        Ok(Filter {
            account: judge.account().to_string(),
            region: judge.region().to_string(),
            from_secs: self.start_time,
            to_secs: self.end_time,
            attribute: self.attribute()?,
        })
    }

    fn attribute(&self) -> Result<Option<(Attribute, String)>, Refusal> {
        let invalid = |text| Refusal::new(RefusalKind::InvalidLookupAttributes, text);
        let one = match self.lookup_attributes.as_deref().unwrap_or_default() {
            [] => return Ok(None),
            [one] => one,
            _ => return Err(invalid("Only one lookup attribute can be specified.")),
        };
        let key = one.attribute_key.as_deref().and_then(Attribute::parse);
        let key = key.ok_or_else(|| invalid("The attribute key is not one that events can be looked up by."))?;
        let value = one.attribute_value.as_deref().unwrap_or_default();
        if value.is_empty() || value.chars().count() > VALUE_CHARS_MAX {
            return Err(invalid("The attribute value must have 1 to 2000 characters."));
        }
        Ok(Some((key, value.to_owned())))
    }
}

/// One event of the answer; `CloudTrailEvent` is the exact payload.
fn event(frame: &Frame) -> Option<Value> {
    let listed: Listed<'_> = serde_json::from_slice(&frame.payload).ok()?;
    let resources: Vec<Value> = listed
        .resources
        .iter()
        .map(|resource| json!({"ResourceType": resource.kind, "ResourceName": resource.arn}))
        .collect();
    let mut event = json!({
        "EventId": listed.event_id, "EventName": listed.event_name, "ReadOnly": listed.read_only.to_string(),
        "EventTime": listed.secs()?, "EventSource": listed.event_source, "Resources": resources,
        "CloudTrailEvent": std::str::from_utf8(&frame.payload).ok()?,
    });
    let more =
        [("AccessKeyId", listed.user_identity.access_key_id.as_deref()), ("Username", listed.user_identity.name())];
    let members: &mut Map<String, Value> = event.as_object_mut()?;
    members.extend(more.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?.into()))));
    Some(event)
}

/// A token is no secret and no permission: it only says where to go on, and for which question it was given.
fn token(below: u64, filter: &Filter) -> String {
    let mut bytes = [0; TOKEN_BYTES];
    bytes[..8].copy_from_slice(&below.to_be_bytes());
    bytes[8..].copy_from_slice(&digest(below, filter)[..16]);
    URL_SAFE_NO_PAD.encode(bytes)
}

fn place(text: &str, filter: &Filter) -> Option<u64> {
    let bytes: [u8; TOKEN_BYTES] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
    let below = u64::from_be_bytes(*bytes.first_chunk()?);
    (bytes[8..] == digest(below, filter)[..16]).then_some(below)
}

fn digest(below: u64, filter: &Filter) -> [u8; 32] {
    sha256(&[b"keytrail lookup v1\n", format!("{below} {filter:?}").as_bytes()])
}
