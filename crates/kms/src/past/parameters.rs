//! `requestParameters` and `additionalEventData` of an event, as far as policies can ask about them.

use crate::ops::tag_named;
use crate::policy::{GrantConstraints, GrantOperations, GrantTerms};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Text borrowed from the event unless it holds escapes.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// Inputs of all operations, by their names in the log.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Parameters<'a> {
    /// The event would have been too large with them.
    pub(super) omitted: bool,
    #[serde(borrow)]
    pub(super) key_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) alias_name: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) target_key_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) source_key_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) destination_key_id: Option<Text<'a>>,
    pub(super) encryption_context: Option<BTreeMap<String, String>>,
    pub(super) source_encryption_context: Option<BTreeMap<String, String>>,
    pub(super) destination_encryption_context: Option<BTreeMap<String, String>>,
    #[serde(borrow)]
    pub(super) encryption_algorithm: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) source_encryption_algorithm: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) destination_encryption_algorithm: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) signing_algorithm: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) message_type: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) mac_algorithm: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) key_agreement_algorithm: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) key_pair_spec: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) key_spec: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) key_usage: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) origin: Option<Text<'a>>,
    pub(super) multi_region: Option<bool>,
    #[serde(borrow)]
    pub(super) replica_region: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) primary_region: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) wrapping_algorithm: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) wrapping_key_spec: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) expiration_model: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) valid_to: Option<Text<'a>>,
    pub(super) pending_window_in_days: Option<u32>,
    pub(super) rotation_period_in_days: Option<u32>,
    pub(super) bypass_policy_lockout_safety_check: Option<bool>,
    pub(super) tags: Option<Vec<Tag>>,
    pub(super) tag_keys: Option<Vec<String>>,
    #[serde(borrow)]
    pub(super) grantee_principal: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) retiring_principal: Option<Text<'a>>,
    pub(super) operations: Option<Vec<String>>,
    pub(super) constraints: Option<GrantConstraints>,
    #[serde(borrow)]
    pub(super) grant_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) role_arn: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) role_session_name: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) external_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) serial_number: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) policy: Option<Text<'a>>,
    transitive_tag_keys: Option<Vec<String>>,
    #[serde(borrow)]
    pub(super) policy_arns: Option<Vec<PolicyArn<'a>>>,
}

/// A tag, as KMS and as STS have it.
#[derive(Debug, Deserialize)]
pub(super) struct Tag {
    #[serde(alias = "tagKey")]
    key: String,
    #[serde(alias = "tagValue")]
    value: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct PolicyArn<'a> {
    #[serde(borrow)]
    pub(super) arn: Text<'a>,
}

impl<'a> Parameters<'a> {
    /// Reads them. What cannot be read counts as left out.
    pub(super) fn parse(text: Option<&'a str>) -> Self {
        let Some(text) = text.filter(|text| *text != "null") else { return Self::default() };
        serde_json::from_str(text).unwrap_or_else(|_| Self { omitted: true, ..Self::default() })
    }

    /// Tags of the request, for conditions.
    pub(super) fn request_tags(&self) -> Option<BTreeMap<String, String>> {
        let tags = self.session_tags();
        (!tags.is_empty()).then_some(tags)
    }

    /// Transitive tag keys in the spelling of the tags, as a session has them.
    pub(super) fn transitive_tag_keys(&self) -> Vec<String> {
        let tags = self.session_tags();
        let spelled = |key: &String| tag_named(&tags, key).map_or_else(|| key.clone(), str::to_owned);
        self.transitive_tag_keys.iter().flatten().map(spelled).collect()
    }

    pub(super) fn session_tags(&self) -> BTreeMap<String, String> {
        self.tags.iter().flatten().map(|tag| (tag.key.clone(), tag.value.clone())).collect()
    }

    /// Terms of the grant that CreateGrant asks for.
    pub(super) fn terms(&self) -> Option<GrantTerms> {
        let operations = GrantOperations::parse(self.operations.as_ref()?.iter().map(String::as_str)).ok()?;
        Some(GrantTerms { operations, constraints: self.constraints.clone().unwrap_or_default() })
    }
}

/// Borrowed text of an optional member.
pub(super) fn text<'t>(member: &'t Option<Text<'_>>) -> Option<&'t str> {
    member.as_ref().map(|text| &*text.0)
}

/// The members of `additionalEventData` that the fold and the questions need.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Additional<'a> {
    pub(super) judged_at_micros: u64,
    #[serde(borrow)]
    pub(super) before: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) after: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) policy: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) via_service: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) source_arn: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) grant_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) service_event_details: Option<ServiceEventDetails<'a>>,
    /// Who approved the call; its presence says that somebody did.
    #[serde(borrow)]
    pub(super) approved_by: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ServiceEventDetails<'a> {
    #[serde(borrow)]
    pub(super) alias_name: Option<Text<'a>>,
}

impl<'a> Additional<'a> {
    pub(super) fn parse(text: Option<&'a str>) -> Option<Self> {
        serde_json::from_str(text?).ok()
    }
}
