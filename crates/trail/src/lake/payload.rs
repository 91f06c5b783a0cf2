//! The payload of a kind-1 record, read in place: text borrowed from the payload, nested objects kept as raw JSON.
//!
//! Reads only what the columns need and ignores unknown members; a member of another type than CloudTrail's makes the
//! whole payload unparseable, so that no row is half filled. Never builds a `serde_json::Value`: at 80,000 events a
//! second that would cost more than everything else on the path.

use serde::Deserialize;
use serde::de::{Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// A string borrowed from the payload unless it holds escapes. (`Option<Cow<str>>` alone would always copy.)
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// The members of the event that become columns.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Event<'a> {
    #[serde(borrow, rename = "eventID")]
    pub(super) event_id: Option<Text<'a>>,
    #[serde(borrow, rename = "requestID")]
    pub(super) request_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) event_source: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) event_name: Text<'a>,
    #[serde(borrow)]
    pub(super) event_type: Option<Text<'a>>,
    pub(super) read_only: Option<bool>,
    #[serde(borrow)]
    pub(super) error_code: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) error_message: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) user_identity: Option<Identity<'a>>,
    #[serde(borrow, rename = "sourceIPAddress")]
    pub(super) source_ip: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) user_agent: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) aws_region: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) recipient_account_id: Option<Text<'a>>,
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
    pub(super) kind: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) principal_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) arn: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) account_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) access_key_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) user_name: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) invoked_by: Option<Text<'a>>,
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
    mfa_authenticated: Option<Text<'a>>,
}

/// One of `resources`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Resource<'a> {
    #[serde(borrow, rename = "ARN")]
    pub(super) arn: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) account_id: Option<Text<'a>>,
    #[serde(borrow, rename = "type")]
    pub(super) kind: Option<Text<'a>>,
}

/// The part of `requestParameters` that becomes columns.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Parameters<'a> {
    #[serde(borrow)]
    pub(super) encryption_context: Option<Pairs<'a>>,
    #[serde(borrow)]
    pub(super) policy: Option<Text<'a>>,
    pub(super) pending_window_in_days: Option<i32>,
}

/// The part of `additionalEventData` that becomes columns.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Additional<'a> {
    #[serde(borrow)]
    pub(super) decided_by: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) action_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) repeat_of: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) policy: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) before: Option<Image<'a>>,
    #[serde(borrow)]
    pub(super) after: Option<Image<'a>>,
}

/// State of a key, alias or overlay entry before or after a change; only a key has `keyState`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Image<'a> {
    #[serde(borrow)]
    pub(super) key_state: Option<Text<'a>>,
}

impl Identity<'_> {
    /// Whether the session was opened with MFA; CloudTrail writes it as text.
    pub(super) fn mfa(&self) -> Option<bool> {
        let text = self.session_context.as_ref()?.attributes.as_ref()?.mfa_authenticated.as_ref()?;
        match &*text.0 {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    }
}

impl Resource<'_> {
    /// Whether CloudTrail's type of this resource is `kind`.
    pub(super) fn is(&self, kind: &str) -> bool {
        self.kind.as_ref().is_some_and(|own| own.0 == kind)
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
