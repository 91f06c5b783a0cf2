//! The newest events first: the node's own journal, read backwards for LookupEvents.
//!
//! Each call does a bounded piece of work and says where the next one goes on. Nothing at or above `journal/head` is
//! looked at, and nothing that pruning has removed: that is in the lake. Never judges; the caller has been judged before.

use crate::chain::{Kind, Leaf};
use crate::journal::{Frame, JournalError, Reader, frame::PAYLOAD_BYTES_MAX};
use serde::Deserialize;
use std::borrow::Cow;
use std::path::Path;

/// Records looked at in one call: a fraction of a second's work.
pub(crate) const RECORDS_MAX: u64 = 20_000;
/// Records read at once; with the largest payloads 16 MiB.
const CHUNK_RECORDS: u64 = 64;
/// Bytes of payload in one answer, beyond which it ends after the event at hand.
const PAYLOADS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Which events are wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Filter {
    /// `recipientAccountId`.
    pub(crate) account: String,
    /// `awsRegion`.
    pub(crate) region: String,
    /// Not before this time, in Unix seconds.
    pub(crate) from_secs: Option<f64>,
    /// Not after this time.
    pub(crate) to_secs: Option<f64>,
    /// What else must be so.
    pub(crate) attribute: Option<(Attribute, String)>,
}

/// What an event can be looked up by, in AWS's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attribute {
    EventId,
    EventName,
    ReadOnly,
    Username,
    ResourceType,
    ResourceName,
    EventSource,
    AccessKeyId,
}

impl Attribute {
    const ALL: [(&'static str, Self); 8] = [
        ("EventId", Self::EventId),
        ("EventName", Self::EventName),
        ("ReadOnly", Self::ReadOnly),
        ("Username", Self::Username),
        ("ResourceType", Self::ResourceType),
        ("ResourceName", Self::ResourceName),
        ("EventSource", Self::EventSource),
        ("AccessKeyId", Self::AccessKeyId),
    ];

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, attribute)| *attribute)
    }
}

/// The members of an event that a lookup needs.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Listed<'a> {
    #[serde(rename = "eventID", borrow)]
    pub(crate) event_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) event_name: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) event_time: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) event_source: Cow<'a, str>,
    pub(crate) read_only: bool,
    #[serde(borrow)]
    aws_region: Cow<'a, str>,
    #[serde(borrow)]
    recipient_account_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) user_identity: Who<'a>,
    #[serde(borrow, default)]
    pub(crate) resources: Vec<Named<'a>>,
}

/// Who called.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Who<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    principal_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    user_name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(crate) access_key_id: Option<Cow<'a, str>>,
}

/// A resource.
#[derive(Debug, Deserialize)]
pub(crate) struct Named<'a> {
    #[serde(rename = "ARN", borrow)]
    pub(crate) arn: Cow<'a, str>,
    #[serde(rename = "type", borrow)]
    pub(crate) kind: Cow<'a, str>,
}

impl Who<'_> {
    /// As AWS shows it: the name of a user, the session name of a role, `root`.
    pub(crate) fn name(&self) -> Option<&str> {
        match self.kind.as_deref() {
            Some("AssumedRole") => self.principal_id.as_deref()?.split_once(':').map(|(_, session)| session),
            Some("Root") => Some("root"),
            _ => self.user_name.as_deref(),
        }
    }
}

impl Named<'_> {
    /// By its ARN or what stands in it behind the account: `alias/app`, a key's id.
    fn is(&self, name: &str) -> bool {
        let tail = self.arn.splitn(6, ':').nth(5).unwrap_or_default();
        self.arn == name || tail == name || tail.strip_prefix("key/") == Some(name)
    }
}

impl Listed<'_> {
    /// Seconds of `eventTime`.
    pub(crate) fn secs(&self) -> Option<i64> {
        chrono::DateTime::parse_from_rfc3339(&self.event_time).ok().map(|time| time.timestamp())
    }

    fn has(&self, attribute: Attribute, value: &str) -> bool {
        match attribute {
            Attribute::EventId => self.event_id == value,
            Attribute::EventName => self.event_name == value,
            Attribute::ReadOnly => (if self.read_only { "true" } else { "false" }) == value,
            Attribute::Username => self.user_identity.name() == Some(value),
            Attribute::ResourceType => self.resources.iter().any(|resource| resource.kind == value),
            Attribute::ResourceName => self.resources.iter().any(|resource| resource.is(value)),
            Attribute::EventSource => self.event_source == value,
            Attribute::AccessKeyId => self.user_identity.access_key_id.as_deref() == Some(value),
        }
    }
}

impl Filter {
    /// The event in a frame, if there is one and it is wanted.
    fn wanted<'f>(&self, leaf: &Leaf, frame: &'f Frame) -> Option<Listed<'f>> {
        if leaf.kind != Kind::Event || frame.payload.len() > PAYLOAD_BYTES_MAX {
            return None;
        }
        // An erased payload is no event any more.
        let listed: Listed<'f> = serde_json::from_slice(&frame.payload).ok()?;
        #[allow(clippy::cast_precision_loss, reason = "seconds of this age are whole in a double")]
        let secs = listed.secs()? as f64;
        let in_time = self.from_secs.is_none_or(|from| secs >= from) && self.to_secs.is_none_or(|to| secs <= to);
        let owned = listed.recipient_account_id == self.account && listed.aws_region == self.region;
        let named = self.attribute.as_ref().is_none_or(|(attribute, value)| listed.has(*attribute, value));
        (in_time && owned && named).then_some(listed)
    }

    /// Whether no event up to this leaf can be late enough. An event's time is that of its judgement, which is not after
    /// its leaf's, and leaf times never fall.
    fn begins_after(&self, leaf: &Leaf) -> bool {
        #[allow(clippy::cast_precision_loss, reason = "microseconds of this age are whole in a double")]
        let secs = leaf.time_us as f64 / 1e6;
        self.from_secs.is_some_and(|from| secs < from)
    }
}

/// Events found, newest first, and where to go on: below this seq. None when there is nothing more to find.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) frames: Vec<Frame>,
    pub(crate) below: Option<u64>,
}

/// Looks at `records_max` records below `below` (the durable end, if None), or fewer when `events_max` are found. A
/// `below` that the log does not reach gives None.
pub(crate) fn look_back(
    dir: &Path,
    filter: &Filter,
    below: Option<u64>,
    records_max: u64,
    events_max: usize,
) -> Result<Option<Found>, JournalError> {
    let mut reader = Reader::open(dir, 0)?;
    let durable = reader.durable()?;
    let mut end = below.unwrap_or(durable);
    if end > durable {
        return Ok(None);
    }
    let (mut found, mut bytes) = (Found::default(), 0);
    let stop_at = end.saturating_sub(records_max);
    while end > stop_at {
        let Some(frames) = chunk(&mut reader, stop_at.max(end.saturating_sub(CHUNK_RECORDS)), end)? else {
            return Ok(Some(found));
        };
        for frame in frames.into_iter().rev() {
            end -= 1;
            let Ok(leaf) = Leaf::decode(&frame.leaf) else { continue };
            if filter.begins_after(&leaf) {
                return Ok(Some(found));
            }
            if filter.wanted(&leaf, &frame).is_none() {
                continue;
            }
            bytes += frame.payload.len();
            found.frames.push(frame);
            if found.frames.len() >= events_max || bytes >= PAYLOADS_BYTES_MAX {
                found.below = (end > 0).then_some(end);
                return Ok(Some(found));
            }
        }
    }
    found.below = (end > 0).then_some(end);
    Ok(Some(found))
}

/// The records from `first` up to `end`, or those of them that the journal still has; None when it has none.
fn chunk(reader: &mut Reader, first: u64, end: u64) -> Result<Option<Vec<Frame>>, JournalError> {
    let read = |reader: &mut Reader, first: u64| {
        reader.seek(first);
        reader.next(usize::try_from(end - first).unwrap_or(usize::MAX))
    };
    let frames = match read(reader, first) {
        Err(JournalError::NoSuchSeq { first, .. }) if first < end => read(reader, first),
        Err(JournalError::NoSuchSeq { .. }) => return Ok(None),
        other => other,
    }?;
    Ok(Some(frames).filter(|frames| !frames.is_empty()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn people_and_resources_are_named_as_at_aws() {
        let who = |json: &'static str| serde_json::from_str::<Who<'static>>(json).unwrap();
        for (json, name) in [
            (r#"{"type":"IAMUser","principalId":"AIDA1","userName":"bob"}"#, Some("bob")),
            (r#"{"type":"AssumedRole","principalId":"AROA1:night-shift"}"#, Some("night-shift")),
            (r#"{"type":"Root","principalId":"123456789012"}"#, Some("root")),
            (r#"{"accountId":"123456789012","invokedBy":"keytrail.internal"}"#, None),
        ] {
            assert_eq!(who(json).name(), name, "{json}");
        }
        let named = |arn: &'static str| Named { arn: arn.into(), kind: "AWS::KMS::Key".into() };
        let key = named("arn:aws:kms:eu-central-1:123456789012:key/8b093289");
        let alias = named("arn:aws:kms:eu-central-1:123456789012:alias/a/b");
        for (resource, name, is) in [
            (&key, "arn:aws:kms:eu-central-1:123456789012:key/8b093289", true),
            (&key, "key/8b093289", true),
            (&key, "8b093289", true),
            (&key, "8b09328", false),
            (&key, "", false),
            (&alias, "alias/a/b", true),
            (&alias, "a/b", false),
        ] {
            assert_eq!(resource.is(name), is, "{name}");
        }
    }
}
