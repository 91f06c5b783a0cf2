//! The members of IAM's requests, checked one by one as an operation asks for them.
//!
//! One struct for all operations: their members mean the same wherever they appear. Texts and bounds are the model's.

use super::super::input::{Members, SecretText, recorded};
use super::super::refusal::{Refusal, RefusalKind};
use super::super::tags::is_tag_text;
use crate::directory::entity::PolicyText;
use crate::policy::{Flavor, PolicyError};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const TAGS_MAX: usize = 50;
const DESCRIPTION_CHARS_MAX: usize = 1_000;
/// Entries of one page.
const ITEMS_MAX: usize = 1_000;
const ITEMS_USUAL: usize = 100;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Input {
    pub(super) user_name: Option<String>,
    pub(super) group_name: Option<String>,
    pub(super) role_name: Option<String>,
    pub(super) policy_name: Option<String>,
    pub(super) policy_arn: Option<String>,
    pub(super) policy_document: Option<String>,
    pub(super) assume_role_policy_document: Option<String>,
    pub(super) description: Option<String>,
    pub(super) max_session_duration: Option<String>,
    pub(super) permissions_boundary: Option<String>,
    pub(super) tags: Option<Members<Tag>>,
    pub(super) tag_keys: Option<Members<String>>,
    pub(super) access_key_id: Option<String>,
    pub(super) status: Option<String>,
    pub(super) serial_number: Option<String>,
    #[serde(rename = "VirtualMFADeviceName")]
    pub(super) device_name: Option<String>,
    pub(super) assignment_status: Option<String>,
    pub(super) version_id: Option<String>,
    pub(super) set_as_default: Option<String>,
    pub(super) scope: Option<String>,
    pub(super) only_attached: Option<String>,
    pub(super) url: Option<String>,
    #[serde(rename = "OpenIDConnectProviderArn")]
    pub(super) provider_arn: Option<String>,
    #[serde(rename = "ClientIDList")]
    pub(super) client_ids: Option<Members<String>>,
    #[serde(rename = "ClientID")]
    pub(super) client_id: Option<String>,
    #[serde(rename = "ThumbprintList")]
    pub(super) thumbprints: Option<Members<String>>,
    path: Option<String>,
    path_prefix: Option<String>,
    max_items: Option<String>,
    marker: Option<String>,
    /// Never recorded.
    pub(super) authentication_code1: Option<SecretText>,
    /// Never recorded.
    pub(super) authentication_code2: Option<SecretText>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Tag {
    key: String,
    value: String,
}

/// The page of a listing that a caller asked for.
pub(super) struct Page {
    pub(super) items: usize,
    /// Where the previous page ended.
    pub(super) after: Option<String>,
}

impl Input {
    /// What may go into the event.
    pub(super) fn recorded(&self) -> Option<Value> {
        let tags = self
            .tags
            .as_ref()
            .map(|tags| tags.0.iter().map(|tag| json!({"key": tag.key, "value": tag.value})).collect::<Vec<_>>());
        let all = recorded(
            None,
            json!({
                "userName": self.user_name, "groupName": self.group_name, "roleName": self.role_name,
                "policyName": self.policy_name, "policyArn": self.policy_arn, "policyDocument": self.policy_document,
                "assumeRolePolicyDocument": self.assume_role_policy_document, "description": self.description,
                "maxSessionDuration": self.max_session_duration, "permissionsBoundary": self.permissions_boundary,
                "tags": tags, "tagKeys": self.tag_keys.as_ref().map(|keys| &keys.0),
                "accessKeyId": self.access_key_id, "status": self.status, "serialNumber": self.serial_number,
                "virtualMFADeviceName": self.device_name, "assignmentStatus": self.assignment_status,
                "versionId": self.version_id, "setAsDefault": self.set_as_default, "scope": self.scope,
                "onlyAttached": self.only_attached, "path": self.path, "pathPrefix": self.path_prefix,
                "maxItems": self.max_items, "url": self.url, "openIDConnectProviderArn": self.provider_arn,
                "clientIDList": self.client_ids.as_ref().map(|ids| &ids.0), "clientID": self.client_id,
                "thumbprintList": self.thumbprints.as_ref().map(|prints| &prints.0),
            }),
        );
        all.filter(|all| all.as_object().is_some_and(|members| !members.is_empty()))
    }

    /// Everything is at the root: a name alone is unique.
    pub(super) fn no_path(&self) -> Result<(), Refusal> {
        let root = |path: &Option<String>| path.as_ref().is_none_or(|path| path == "/");
        if root(&self.path) && root(&self.path_prefix) {
            return Ok(());
        }
        Err(Refusal::new(RefusalKind::Validation, "Paths other than / are not supported by this node."))
    }

    pub(super) fn boolean(text: Option<&String>) -> bool {
        text.is_some_and(|text| text.eq_ignore_ascii_case("true"))
    }

    /// Tags to set; keys differ in more than case, as conditions read them.
    pub(super) fn tags(&self) -> Result<BTreeMap<String, String>, Refusal> {
        let tags = self.tags.as_ref().map_or(&[][..], |tags| &tags.0);
        if tags.len() > TAGS_MAX {
            return Err(Refusal::constraint(None, "tags", "Member must have length less than or equal to 50"));
        }
        let mut lower = BTreeSet::new();
        for Tag { key, value } in tags {
            if !(1..=128).contains(&key.chars().count()) || !is_tag_text(key) || key.to_lowercase().starts_with("aws:")
            {
                let constraint = "Member must satisfy regular expression pattern: [\\p{L}\\p{Z}\\p{N}_.:/=+\\-@]+";
                return Err(Refusal::constraint(Some(key), "tags.member.key", constraint));
            }
            if value.chars().count() > 256 || !is_tag_text(value) {
                let constraint = "Member must satisfy regular expression pattern: [\\p{L}\\p{Z}\\p{N}_.:/=+\\-@]*";
                return Err(Refusal::constraint(Some(value), "tags.member.value", constraint));
            }
            if !lower.insert(key.to_lowercase()) {
                let text = "Duplicate tag keys found. Please note that Tag keys are case insensitive.";
                return Err(Refusal::new(RefusalKind::InvalidInput, text));
            }
        }
        Ok(tags.iter().map(|tag| (tag.key.clone(), tag.value.clone())).collect())
    }

    pub(super) fn description(&self) -> Result<Option<&String>, Refusal> {
        let long = self.description.as_ref().filter(|text| text.chars().count() > DESCRIPTION_CHARS_MAX);
        match long {
            Some(_) => {
                Err(Refusal::constraint(None, "description", "Member must have length less than or equal to 1000"))
            }
            None => Ok(self.description.as_ref()),
        }
    }

    /// Longest session of a role, within AWS's bounds.
    pub(super) fn max_session_secs(&self) -> Result<Option<u64>, Refusal> {
        let Some(text) = &self.max_session_duration else { return Ok(None) };
        let secs = text.parse().ok().filter(|secs| (3_600..=43_200).contains(secs));
        let constraint = "Member must have value between 3600 and 43200";
        secs.map(Some).ok_or_else(|| Refusal::constraint(Some(text), "maxSessionDuration", constraint))
    }

    /// MaxItems and Marker; a marker is the base64 of the last name given out.
    pub(super) fn page(&self) -> Result<Page, Refusal> {
        let items = match &self.max_items {
            None => ITEMS_USUAL,
            Some(text) => text.parse().ok().filter(|items| (1..=ITEMS_MAX).contains(items)).ok_or_else(|| {
                Refusal::constraint(Some(text), "maxItems", "Member must have value between 1 and 1000")
            })?,
        };
        let after = self.marker.as_ref().map(|marker| {
            let name = STANDARD.decode(marker).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            name.ok_or_else(|| Refusal::new(RefusalKind::Validation, "Invalid Marker."))
        });
        Ok(Page { items, after: after.transpose()? })
    }
}

/// A required member.
pub(super) fn required<'a>(member: &'a Option<String>, name: &str) -> Result<&'a str, Refusal> {
    member.as_deref().ok_or_else(|| Refusal::missing(name))
}

/// A name for something new.
pub(super) fn new_name<'a>(member: &'a Option<String>, name: &str, chars_max: usize) -> Result<&'a str, Refusal> {
    let text = required(member, name)?;
    if !(1..=chars_max).contains(&text.len()) {
        let constraint = format!("Member must have length between 1 and {chars_max}");
        return Err(Refusal::constraint(Some(text), name, &constraint));
    }
    if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte)) {
        let constraint = "Member must satisfy regular expression pattern: [\\w+=,.@-]+";
        return Err(Refusal::constraint(Some(text), name, constraint));
    }
    Ok(text)
}

/// Parses a policy of at most so many characters, blanks not counted, as AWS counts.
pub(super) fn policy(
    member: &Option<String>,
    name: &str,
    flavor: Flavor,
    chars_max: usize,
) -> Result<PolicyText, Refusal> {
    let text = required(member, name)?;
    let chars = text.chars().filter(|c| !c.is_whitespace()).count();
    if chars > chars_max {
        let text = format!("Cannot exceed quota for PolicySize: {chars_max}");
        return Err(Refusal::new(RefusalKind::LimitExceeded, text));
    }
    PolicyText::parse(text, flavor).map_err(|error| match error {
        PolicyError::Json(_) => Refusal::new(RefusalKind::MalformedPolicy, "This policy contains invalid Json"),
        error => Refusal::new(RefusalKind::MalformedPolicy, error.to_string()),
    })
}
