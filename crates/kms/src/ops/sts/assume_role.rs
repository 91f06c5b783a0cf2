//! AssumeRole: credentials for a session of a role, if the role's trust policy and the caller's own policies have it.
//! AssumeRoleWithWebIdentity takes most of it over.

use super::super::answer::CallerKey;
use super::super::input::{Members, recorded, required};
use super::super::judge::Judge;
use super::super::refusal::{Refusal, RefusalKind};
use super::{Opens, credentials_body, credentials_image, duration_secs, issue};
use crate::auth::identities::{ADMINISTRATOR_ACCESS, Role};
use crate::auth::session::{Claims, Subject};
use crate::people::session_arn;
use crate::policy::{Context, Document, Flavor, Mfa, PrincipalKind};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use zeroize::Zeroizing;

/// When a call says nothing.
const SESSION_SECS_USUAL: u64 = 3_600;
/// The model's bound; a role's own is at most this.
const SESSION_SECS_MAX: u64 = 43_200;
/// For roles assumed by a session of a role: AWS's bound on chains.
const CHAINED_SECS_MAX: u64 = 3_600;
/// Characters of a session policy.
const POLICY_CHARS_MAX: usize = 2_048;
const POLICY_ARNS_MAX: usize = 10;
const TAGS_MAX: usize = 50;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::ops) struct AssumeRole {
    role_arn: Option<String>,
    role_session_name: Option<String>,
    policy: Option<String>,
    policy_arns: Option<Members<PolicyArn>>,
    duration_seconds: Option<String>,
    tags: Option<Members<Tag>>,
    transitive_tag_keys: Option<Members<String>>,
    external_id: Option<String>,
    serial_number: Option<String>,
    source_identity: Option<String>,
}

#[derive(Deserialize)]
struct PolicyArn {
    arn: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Tag {
    key: String,
    value: String,
}

/// A call whose members hold to the model.
struct Wanted<'a> {
    role_arn: &'a str,
    session_name: &'a str,
    duration_secs: u64,
    policy: Option<&'a String>,
    policy_arns: Vec<&'a str>,
    tags: BTreeMap<String, String>,
    transitive_tag_keys: Vec<String>,
}

impl Opens for AssumeRole {
    fn parameters(&self) -> Option<Value> {
        let tags = self
            .tags
            .as_ref()
            .map(|tags| tags.0.iter().map(|tag| json!({"key": tag.key, "value": tag.value})).collect::<Vec<_>>());
        let arns = self
            .policy_arns
            .as_ref()
            .map(|arns| arns.0.iter().map(|policy| json!({"arn": policy.arn})).collect::<Vec<_>>());
        recorded(
            None,
            json!({
                "roleArn": self.role_arn, "roleSessionName": self.role_session_name, "policy": self.policy,
                "policyArns": arns, "durationSeconds": self.duration_seconds, "tags": tags,
                "transitiveTagKeys": self.transitive_tag_keys.as_ref().map(|keys| &keys.0),
                "externalId": self.external_id, "serialNumber": self.serial_number,
                "sourceIdentity": self.source_identity,
            }),
        )
    }

    fn open(&self, judge: &mut Judge<'_>, mfa: Mfa) -> Result<Bytes, Refusal> {
        let mut body = self.opened(judge, mfa, "sts:AssumeRole")?;
        body.push('}');
        Ok(Bytes::from_owner(body))
    }
}

impl AssumeRole {
    /// Opens the session, if the caller may open it by this action; the answer without its last brace.
    pub(super) fn opened(&self, judge: &mut Judge<'_>, mfa: Mfa, action: &str) -> Result<Zeroizing<String>, Refusal> {
        let wanted = self.wanted()?;
        let role = self.allowed_role(judge, &wanted, mfa, action)?;
        let claims = claims(judge, &role, &wanted, mfa)?;
        let expires_us = claims.expires_us;
        let packed = claims.policy.is_some() || !claims.policy_names.is_empty() || !claims.tags.is_empty();
        let (issued, percent) = issue(judge, claims)?;
        let user = json!({
            "AssumedRoleId": format!("{}:{}", role.id, wanted.session_name),
            "Arn": session_arn(&role, wanted.session_name),
        });
        judge.record.response_elements = Some(json!({
            "credentials": credentials_image(&issued, expires_us),
            "assumedRoleUser": {"assumedRoleId": user["AssumedRoleId"], "arn": user["Arn"]},
        }));
        let mut body = credentials_body(&issued, expires_us);
        body.push_str(&format!(",\"AssumedRoleUser\":{user}"));
        if packed {
            body.push_str(&format!(",\"PackedPolicySize\":{percent}"));
        }
        Ok(body)
    }

    /// The account that the role's ARN names.
    pub(super) fn account(&self) -> Option<&str> {
        self.role_arn.as_deref()?.strip_prefix("arn:aws:iam::")?.split(':').next()
    }

    /// Checks the members before a token is looked at; those that only AssumeRole has are refused rather than ignored.
    pub(super) fn check_for_web_identity(&self) -> Result<(), Refusal> {
        let more = self.tags.is_some() || self.transitive_tag_keys.is_some() || self.external_id.is_some();
        if more || self.serial_number.is_some() || self.source_identity.is_some() {
            let text =
                "Tags, TransitiveTagKeys, ExternalId, SerialNumber and SourceIdentity are members of AssumeRole.";
            return Err(Refusal::new(RefusalKind::Validation, text));
        }
        self.wanted().map(drop)
    }

    /// Checks the members against the model.
    fn wanted(&self) -> Result<Wanted<'_>, Refusal> {
        let role_arn = required(&self.role_arn, "roleArn")?;
        checked_arn(role_arn)?;
        let session_name = required(&self.role_session_name, "roleSessionName")?;
        checked_text(session_name, "roleSessionName", 2..=64, "[\\w+=,.@-]*", b"_+=,.@-")?;
        if let Some(external_id) = &self.external_id {
            checked_text(external_id, "externalId", 2..=1_224, "[\\w+=,.@:\\/-]*", b"_+=,.@:/-")?;
        }
        if self.source_identity.is_some() {
            return Err(Refusal::new(RefusalKind::Validation, "SourceIdentity is not supported by this node."));
        }
        let duration_secs = duration_secs(self.duration_seconds.as_deref(), SESSION_SECS_USUAL, SESSION_SECS_MAX)?;
        let policy_arns: Vec<&str> =
            self.policy_arns.iter().flat_map(|arns| arns.0.iter().map(|policy| policy.arn.as_str())).collect();
        if policy_arns.len() > POLICY_ARNS_MAX {
            return Err(Refusal::constraint(None, "policyArns", "Member must have length less than or equal to 10"));
        }
        if let Some(policy) = &self.policy {
            checked_policy(policy)?;
        }
        let tags = checked_tags(self.tags.as_ref().map_or(&[][..], |tags| &tags.0))?;
        // In the spelling of the tags, by which the session finds their values again.
        let wanted_keys = self.transitive_tag_keys.iter().flat_map(|keys| keys.0.iter());
        let transitive_tag_keys: Vec<String> =
            wanted_keys.map(|key| tag_named(&tags, key).unwrap_or(key).to_owned()).collect();
        if !transitive_tag_keys.iter().all(|key| tag_named(&tags, key).is_some()) {
            let text = "The specified transitive tag key must be included in the requested tags.";
            return Err(Refusal::new(RefusalKind::InvalidParameterValue, text));
        }
        Ok(Wanted {
            role_arn,
            session_name,
            duration_secs,
            policy: self.policy.as_ref(),
            policy_arns,
            tags,
            transitive_tag_keys,
        })
    }

    /// The role, if the caller may assume it this way. One that is not there is refused alike.
    fn allowed_role(
        &self,
        judge: &mut Judge<'_>,
        wanted: &Wanted<'_>,
        mfa: Mfa,
        action: &str,
    ) -> Result<std::sync::Arc<Role>, Refusal> {
        if judge.caller()?.context().is_some_and(|caller| caller.kind == PrincipalKind::Root) {
            judge.record.decided_by = Some("Default".to_owned());
            return Err(Refusal::new(RefusalKind::AccessDenied, "Roles may not be assumed by root accounts."));
        }
        let facts = Context {
            external_id: self.external_id.as_deref(),
            role_session_name: Some(wanted.session_name),
            request_tags: Some(&wanted.tags).filter(|tags| !tags.is_empty()),
            transitive_tag_keys: &wanted.transitive_tag_keys,
            ..Context::default()
        };
        let role = judge.allow_role(action, wanted.role_arn, mfa, &facts)?;
        if !wanted.tags.is_empty() {
            let decided_by = judge.record.decided_by.take();
            judge.allow_role("sts:TagSession", wanted.role_arn, mfa, &facts)?;
            judge.record.decided_by = decided_by;
        }
        Ok(role)
    }
}

/// What the session's token will say.
fn claims(judge: &Judge<'_>, role: &Role, wanted: &Wanted<'_>, mfa: Mfa) -> Result<Claims, Refusal> {
    let caller = judge.caller()?;
    let refuse = |text: &'static str| Refusal::new(RefusalKind::Validation, text);
    let chained = caller.context().is_some_and(|context| context.kind == PrincipalKind::Session);
    if chained && wanted.duration_secs > CHAINED_SECS_MAX {
        let text = "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining";
        return Err(refuse(text));
    }
    if wanted.duration_secs > role.max_session_secs {
        return Err(refuse("The requested DurationSeconds exceeds the MaxSessionDuration set for this role."));
    }
    let mut tags = wanted.tags.clone();
    let mut transitive: BTreeSet<String> = wanted.transitive_tag_keys.iter().cloned().collect();
    if let Some(session) = &caller.session {
        for key in &session.claims.transitive_tag_keys {
            if tag_named(&tags, key).is_some() {
                let text = "One of the specified transitive tag keys can't be set because it conflicts with a \
                            transitive tag key from the calling session.";
                return Err(Refusal::new(RefusalKind::InvalidParameterValue, text));
            }
            tags.insert(key.clone(), session.claims.tags.get(key).cloned().unwrap_or_default());
            transitive.insert(key.clone());
        }
    }
    let policy_names = wanted.policy_arns.iter().map(|arn| policy_name(judge, role, arn)).collect::<Result<_, _>>()?;
    let mut via: Vec<String> = caller.quarantined_as().map(str::to_owned).collect();
    via.sort();
    via.dedup();
    Ok(Claims {
        account: role.account.clone(),
        subject: Subject::Role {
            arn: role.arn.clone(),
            id: role.id.clone(),
            session_name: wanted.session_name.to_owned(),
        },
        issued_us: judge.judged_at_us,
        expires_us: judge.judged_at_us + wanted.duration_secs * 1_000_000,
        mfa_us: match (mfa, caller.context().map(|context| context.mfa)) {
            // The call's own code, or the one that opened the caller's session: with the time it was proved.
            (Mfa::At(at_us), _) | (_, Some(Mfa::At(at_us))) => Some(at_us),
            (Mfa::Unknown | Mfa::Without, _) => None,
        },
        policy: wanted.policy.cloned(),
        policy_names,
        tags,
        transitive_tag_keys: transitive.into_iter().collect(),
        via,
        web_identity_provider: match &judge.call.caller {
            CallerKey::WebIdentity(identity) => Some(identity.provider_arn.clone()),
            CallerKey::AccessKey(_) | CallerKey::Session(_) | CallerKey::Operator => None,
        },
    })
}

/// The name of a policy in the role's account, which must be there.
fn policy_name(judge: &Judge<'_>, role: &Role, arn: &str) -> Result<String, Refusal> {
    let own = format!("arn:aws:iam::{}:policy/", role.account);
    let built_in = arn.strip_prefix("arn:aws:iam::aws:policy/").filter(|name| *name == ADMINISTRATOR_ACCESS);
    let name = arn.strip_prefix(&own).or(built_in).filter(|name| judge.access.has_policy(&role.account, name));
    name.map(str::to_owned).ok_or_else(|| {
        Refusal::new(RefusalKind::MalformedPolicy, format!("Policy {arn} does not exist or is not attachable."))
    })
}

/// The tag of this name in any case, as it is spelled.
pub(crate) fn tag_named<'t>(tags: &'t BTreeMap<String, String>, name: &str) -> Option<&'t str> {
    tags.keys().map(String::as_str).find(|key| key.to_lowercase() == name.to_lowercase())
}

/// Checks that something could be a role's ARN; whether there is such a role is not told.
fn checked_arn(text: &str) -> Result<(), Refusal> {
    let broken = |constraint| Err(Refusal::constraint(Some(text), "roleArn", constraint));
    if text.len() < 20 {
        return broken("Member must have length greater than or equal to 20");
    }
    if text.len() > 2_048 {
        return broken("Member must have length less than or equal to 2048");
    }
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let whole = matches!(parts[..], ["arn", partition, service, _, _, resource]
        if !partition.is_empty() && !service.is_empty() && !resource.is_empty());
    if whole { Ok(()) } else { Err(Refusal::new(RefusalKind::Validation, format!("{text} is invalid"))) }
}

/// Checks length and alphabet: letters, digits and `more`.
fn checked_text(
    text: &str,
    member: &str,
    length: std::ops::RangeInclusive<usize>,
    pattern: &str,
    more: &[u8],
) -> Result<(), Refusal> {
    if text.len() < *length.start() {
        let constraint = format!("Member must have length greater than or equal to {}", length.start());
        return Err(Refusal::constraint(Some(text), member, &constraint));
    }
    if text.len() > *length.end() {
        let constraint = format!("Member must have length less than or equal to {}", length.end());
        return Err(Refusal::constraint(Some(text), member, &constraint));
    }
    if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte)) {
        let constraint = format!("Member must satisfy regular expression pattern: {pattern}");
        return Err(Refusal::constraint(Some(text), member, &constraint));
    }
    Ok(())
}

fn checked_policy(text: &str) -> Result<(), Refusal> {
    if text.is_empty() || text.chars().count() > POLICY_CHARS_MAX {
        let constraint = "Member must have length between 1 and 2048";
        return Err(Refusal::constraint(None, "policy", constraint));
    }
    Document::parse(text, Flavor::IdentityPolicy)
        .map(|_| ())
        .map_err(|error| Refusal::new(RefusalKind::MalformedPolicy, error.to_string()))
}

/// Keys are told apart without regard to case, as conditions read them.
fn checked_tags(tags: &[Tag]) -> Result<BTreeMap<String, String>, Refusal> {
    if tags.len() > TAGS_MAX {
        return Err(Refusal::constraint(None, "tags", "Member must have length less than or equal to 50"));
    }
    let mut lower = BTreeSet::new();
    for Tag { key, value } in tags {
        let sane = |text: &str| text.chars().all(|c| c.is_alphanumeric() || c == ' ' || "_.:/=+-@".contains(c));
        if !(1..=128).contains(&key.chars().count()) || !sane(key) || key.to_lowercase().starts_with("aws:") {
            let constraint = "Member must satisfy regular expression pattern: [\\p{L}\\p{Z}\\p{N}_.:/=+\\-@]+";
            return Err(Refusal::constraint(Some(key), "tags.member.key", constraint));
        }
        if value.chars().count() > 256 || !sane(value) {
            let constraint = "Member must satisfy regular expression pattern: [\\p{L}\\p{Z}\\p{N}_.:/=+\\-@]*";
            return Err(Refusal::constraint(Some(value), "tags.member.value", constraint));
        }
        if !lower.insert(key.to_lowercase()) {
            let text = "Duplicate tag keys found. Please note that Tag keys are case insensitive.";
            return Err(Refusal::new(RefusalKind::InvalidParameterValue, text));
        }
    }
    Ok(tags.iter().map(|tag| (tag.key.clone(), tag.value.clone())).collect())
}
