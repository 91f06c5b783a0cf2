//! The payload of a kind-1 record, read in place: text borrowed from the payload, nested objects kept as raw JSON.
//!
//! Reads only what the columns need and ignores unknown members. What makes a record an event has to be as CloudTrail
//! has it, or the whole payload is unparseable. Values beside that are taken as they come (`Lax`): services write numbers
//! as text, and other services have other things under the names that KMS uses. Never builds a `serde_json::Value`: at
//! 80,000 events a second that would cost more than everything else on the path.

use serde::Deserialize;
use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// A string borrowed from the payload unless it holds escapes. (`Option<Cow<str>>` alone would always copy.)
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// A value whose type other writers than ours do not agree on: text as it is, numbers and truth values as their text,
/// nothing for the rest.
#[derive(Default)]
pub(crate) struct Lax<'a>(Option<Cow<'a, str>>);

impl Lax<'_> {
    /// As text.
    pub(crate) fn text(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// `true` or `false`, whether written as text or not.
    pub(super) fn truth(&self) -> Option<bool> {
        self.text()?.parse().ok()
    }

    /// A number, whether written as text or not.
    pub(super) fn number(&self) -> Option<i32> {
        self.text()?.parse().ok()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Lax<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LaxVisitor)
    }
}

struct LaxVisitor;

impl<'de> Visitor<'de> for LaxVisitor {
    type Value = Lax<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Lax(Some(Cow::Borrowed(text))))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Lax(Some(Cow::Owned(text.to_owned()))))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Lax(Some(Cow::Borrowed(if value { "true" } else { "false" }))))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Lax(Some(Cow::Owned(value.to_string()))))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Lax(Some(Cow::Owned(value.to_string()))))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Lax(Some(Cow::Owned(value.to_string()))))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Lax(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Lax(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Lax(None))
    }
}

/// What an import goes by: which event this is, and when it happened.
#[derive(Deserialize)]
pub(crate) struct Head<'a> {
    #[serde(borrow, rename = "eventID")]
    pub(crate) event_id: Option<Lax<'a>>,
    #[serde(borrow, rename = "eventTime")]
    event_time: Option<Lax<'a>>,
}

impl Head<'_> {
    /// `eventTime` in Unix microseconds.
    pub(crate) fn time_us(&self) -> Option<i64> {
        time_us(self.event_time.as_ref()).ok()
    }
}

fn time_us(event_time: Option<&Lax<'_>>) -> Result<i64, String> {
    let text = event_time.and_then(Lax::text).ok_or("eventTime is missing")?;
    let time = chrono::DateTime::parse_from_rfc3339(text).map_err(|error| format!("eventTime is no time: {error}"))?;
    Ok(time.timestamp_micros())
}

/// The members of the event that become columns.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Event<'a> {
    #[serde(borrow, rename = "eventID")]
    pub(super) event_id: Option<Lax<'a>>,
    #[serde(borrow, rename = "requestID")]
    pub(super) request_id: Option<Lax<'a>>,
    #[serde(borrow)]
    pub(super) event_source: Option<Lax<'a>>,
    #[serde(borrow)]
    pub(super) event_name: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) event_type: Option<Lax<'a>>,
    #[serde(borrow)]
    pub(super) read_only: Option<Lax<'a>>,
    #[serde(borrow)]
    event_time: Option<Lax<'a>>,
    #[serde(borrow)]
    pub(super) error_code: Option<Lax<'a>>,
    #[serde(borrow)]
    pub(super) error_message: Option<Lax<'a>>,
    #[serde(borrow)]
    pub(super) user_identity: Option<Identity<'a>>,
    #[serde(borrow, rename = "sourceIPAddress")]
    pub(super) source_ip: Option<Lax<'a>>,
    #[serde(borrow)]
    pub(super) user_agent: Option<Lax<'a>>,
    #[serde(borrow)]
    pub(super) aws_region: Option<Lax<'a>>,
    #[serde(borrow)]
    pub(super) recipient_account_id: Option<Lax<'a>>,
    #[serde(borrow)]
    pub(super) resources: Option<Vec<Resource<'a>>>,
    #[serde(borrow)]
    pub(super) request_parameters: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) response_elements: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) additional_event_data: Option<&'a RawValue>,
}

/// `userIdentity`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Identity<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Option<Lax<'a>>,
    #[serde(borrow)]
    pub(super) principal_id: Option<Lax<'a>>,
    #[serde(borrow)]
    pub(super) arn: Option<Lax<'a>>,
    #[serde(borrow)]
    pub(super) account_id: Option<Lax<'a>>,
    #[serde(borrow)]
    pub(super) access_key_id: Option<Lax<'a>>,
    #[serde(borrow)]
    pub(super) user_name: Option<Lax<'a>>,
    #[serde(borrow)]
    pub(super) invoked_by: Option<Lax<'a>>,
    #[serde(borrow)]
    session_context: Option<SessionContext<'a>>,
}

#[derive(Deserialize)]
struct SessionContext<'a> {
    #[serde(borrow)]
    attributes: Option<SessionAttributes<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SessionAttributes<'a> {
    #[serde(borrow)]
    mfa_authenticated: Option<Lax<'a>>,
}

/// One of `resources`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Resource<'a> {
    #[serde(borrow, rename = "ARN")]
    pub(super) arn: Option<Lax<'a>>,
    #[serde(borrow)]
    pub(super) account_id: Option<Lax<'a>>,
    #[serde(borrow, rename = "type")]
    pub(super) kind: Option<Lax<'a>>,
}

/// The part of `requestParameters` that becomes columns.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Parameters<'a> {
    #[serde(borrow)]
    encryption_context: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) policy: Option<Lax<'a>>,
    #[serde(borrow)]
    pub(super) pending_window_in_days: Option<Lax<'a>>,
}

/// The part of `additionalEventData` that becomes columns.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Additional<'a> {
    #[serde(borrow)]
    pub(super) decided_by: Option<Lax<'a>>,
    #[serde(borrow)]
    pub(super) action_id: Option<Lax<'a>>,
    #[serde(borrow)]
    pub(super) repeat_of: Option<Lax<'a>>,
    #[serde(borrow)]
    pub(super) policy: Option<Lax<'a>>,
    #[serde(borrow)]
    pub(super) before: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) after: Option<&'a RawValue>,
}

/// State of a key, alias or overlay entry before or after a change; only a key has `keyState`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Image<'a> {
    #[serde(borrow)]
    key_state: Option<Lax<'a>>,
}

/// `keyState` of an image.
pub(super) fn key_state(image: Option<&RawValue>) -> Option<String> {
    let image: Image<'_> = serde_json::from_str(image?.get()).ok()?;
    image.key_state?.text().map(str::to_owned)
}

impl Event<'_> {
    /// Every event has a name, but those by which CloudTrail tells of unusual numbers of events: theirs is what they are
    /// about, in `insightDetails`, and does not count as a call.
    pub(super) fn check_name(&self) -> Result<(), serde_json::Error> {
        let kind = self.event_type.as_ref().and_then(Lax::text);
        if self.event_name.is_none() && kind != Some("AwsCloudTrailInsight") {
            return Err(serde_json::Error::custom("eventName is missing"));
        }
        Ok(())
    }

    /// `eventTime` in Unix microseconds.
    pub(super) fn time_us(&self) -> Result<i64, String> {
        time_us(self.event_time.as_ref())
    }
}

impl<'a> Parameters<'a> {
    /// The encryption context, if it is one.
    pub(super) fn encryption_context(&self) -> Option<Pairs<'a>> {
        serde_json::from_str(self.encryption_context?.get()).ok()
    }
}

impl Identity<'_> {
    /// Whether the session was opened with MFA; CloudTrail writes it as text.
    pub(super) fn mfa(&self) -> Option<bool> {
        self.session_context.as_ref()?.attributes.as_ref()?.mfa_authenticated.as_ref()?.truth()
    }

    /// Whether the account is S3's word for a caller without credentials.
    pub(super) fn is_nobody(&self) -> bool {
        matches!(self.account_id.as_ref().and_then(Lax::text), Some("anonymous" | "ANONYMOUS_PRINCIPAL"))
    }
}

impl Resource<'_> {
    /// Whether it is a KMS key.
    pub(super) fn is_key(&self) -> bool {
        self.is("AWS::KMS::Key", ":key/")
    }

    /// Whether it is an alias of a KMS key.
    pub(super) fn is_alias(&self) -> bool {
        self.is("AWS::KMS::Alias", ":alias/")
    }

    /// By its type; records of years ago have none, and say it in the ARN.
    fn is(&self, kind: &str, part: &str) -> bool {
        match self.kind.as_ref().and_then(Lax::text) {
            Some(own) => own == kind,
            None => {
                let arn = self.arn.as_ref().and_then(Lax::text).unwrap_or_default();
                arn.split(':').nth(2) == Some("kms") && arn.contains(part)
            }
        }
    }
}

/// An encryption context: distinct names with their values.
pub(super) struct Pairs<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl Pairs<'_> {
    /// The context as JSON text with its names in byte order, so that equal contexts are equal texts.
    pub(super) fn sorted_json(mut self, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        self.0.sort_unstable();
        if self.0.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(serde_json::Error::custom("encryption context names a pair twice"));
        }
        out.push(b'{');
        for (index, (name, value)) in self.0.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            serde_json::to_writer(&mut *out, name)?;
            out.push(b':');
            serde_json::to_writer(&mut *out, value)?;
        }
        out.push(b'}');
        Ok(())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PairsVisitor)
    }
}

struct PairsVisitor;

impl<'de> Visitor<'de> for PairsVisitor {
    type Value = Pairs<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some((name, value)) = map.next_entry::<Text<'de>, Text<'de>>()? {
            pairs.push((name.0, value.0));
        }
        Ok(Pairs(pairs))
    }
}
