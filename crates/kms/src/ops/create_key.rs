//! CreateKey: a new symmetric key with fresh material, wrapped at rest under the root key.

use super::answer::json_body;
use super::drive::{Effect, Mutation};
use super::input::recorded;
use super::judge::Judge;
use super::key_policy::{check_lockout, parse_policy};
use super::refusal::{Refusal, RefusalKind};
use super::tags::{self, Tag};
use crate::crypto::{CryptoFailure, KeyMaterial, MaterialId};
use crate::key::{KeyId, KeyRecord, Material, SPEC_SYMMETRIC, USAGE_ENCRYPT_DECRYPT, rfc3339_seconds};
use crate::locks::Stripe;
use crate::policy::{Context, KeyFacts, default_key_policy};
use crate::registry::Publish;
use crate::store::{Change, KeyRow};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

const DESCRIPTION_CHARS_MAX: usize = 8_192;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CreateKey {
    policy: Option<String>,
    description: Option<String>,
    key_usage: Option<String>,
    key_spec: Option<String>,
    customer_master_key_spec: Option<String>,
    origin: Option<String>,
    bypass_policy_lockout_safety_check: Option<bool>,
    tags: Option<Vec<Tag>>,
    multi_region: Option<bool>,
    custom_key_store_id: Option<String>,
    xks_key_id: Option<String>,
}

impl Mutation for CreateKey {
    fn parameters(&self) -> Option<Value> {
        let description = self.description.as_deref().unwrap_or_default();
        recorded(
            None,
            json!({
                "description": &description[..description.floor_char_boundary(4 * DESCRIPTION_CHARS_MAX)],
                "keySpec": self.spec(),
                "customerMasterKeySpec": self.spec(),
                "keyUsage": self.key_usage.as_deref().unwrap_or(USAGE_ENCRYPT_DECRYPT),
                "origin": self.origin.as_deref().unwrap_or("AWS_KMS"),
                "bypassPolicyLockoutSafetyCheck": self.bypass_policy_lockout_safety_check.unwrap_or(false),
                "multiRegion": self.multi_region.unwrap_or(false),
                "tags": self.tags,
            }),
        )
    }

    /// A key that nobody knows yet needs no lock of its own.
    fn stripes(&self, _judge: &Judge<'_>) -> BTreeSet<Stripe> {
        BTreeSet::new()
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        self.check_kind()?;
        let description = self.description.as_deref().unwrap_or_default();
        if description.chars().count() > DESCRIPTION_CHARS_MAX {
            let constraint = "Member must have length less than or equal to 8192";
            return Err(Refusal::constraint(Some(description), "description", constraint));
        }
        let tags = self.tags.as_deref().unwrap_or_default();
        tags::checked(tags)?;
        let record = self.allowed_record(judge, description)?;
        self.effect(judge, record)
    }
}

impl CreateKey {
    fn spec(&self) -> &str {
        self.key_spec.as_deref().or(self.customer_master_key_spec.as_deref()).unwrap_or(SPEC_SYMMETRIC)
    }

    /// What AWS could make and this node cannot is said plainly.
    fn check_kind(&self) -> Result<(), Refusal> {
        let unsupported = |what: String| Err(Refusal::new(RefusalKind::UnsupportedOperation, what));
        let usage = self.key_usage.as_deref().unwrap_or(USAGE_ENCRYPT_DECRYPT);
        if let (Some(spec), Some(old)) = (&self.key_spec, &self.customer_master_key_spec)
            && spec != old
        {
            let text = "You cannot specify KeySpec and CustomerMasterKeySpec in the same request. CustomerMasterKeySpec is deprecated.";
            return Err(Refusal::new(RefusalKind::Validation, text));
        }
        if self.spec() != SPEC_SYMMETRIC {
            return unsupported(format!("KeySpec {} is not supported by this node.", self.spec()));
        }
        if usage != USAGE_ENCRYPT_DECRYPT {
            let text = format!("KeyUsage {usage} is not compatible with KeySpec {SPEC_SYMMETRIC}");
            return Err(Refusal::new(RefusalKind::Validation, text));
        }
        if self.origin.as_deref().is_some_and(|origin| origin != "AWS_KMS")
            || self.custom_key_store_id.is_some()
            || self.xks_key_id.is_some()
        {
            return unsupported("Only Origin AWS_KMS is supported by this node.".to_owned());
        }
        if self.multi_region == Some(true) {
            return unsupported("Multi-Region keys are not supported by this node.".to_owned());
        }
        Ok(())
    }

    /// Asks the policies and makes the key, in memory only.
    fn allowed_record(&self, judge: &mut Judge<'_>, description: &str) -> Result<KeyRecord, Refusal> {
        let tags = tags::by_key(self.tags.as_deref().unwrap_or_default());
        let bypass = self.bypass_policy_lockout_safety_check.unwrap_or(false);
        let facts = Context {
            request_tags: (!tags.is_empty()).then_some(&tags),
            bypass_lockout: Some(bypass),
            key: Some(KeyFacts {
                spec: SPEC_SYMMETRIC,
                usage: USAGE_ENCRYPT_DECRYPT,
                origin: "AWS_KMS",
                multi_region: false,
                tags: None,
                aliases: &[],
            }),
            ..Context::default()
        };
        judge.allow_account("kms:CreateKey", &facts)?;
        if !tags.is_empty() {
            judge.allow_account("kms:TagResource", &facts)?;
        }
        let account = judge.account();
        let text = match &self.policy {
            Some(text) => text.clone(),
            None => default_key_policy(account.as_str()),
        };
        let policy = parse_policy(judge.node, &text)?;
        let internal = |error: CryptoFailure| {
            tracing::error!(%error, "key material cannot be made");
            Refusal::internal()
        };
        let id = KeyId(judge.node.random_id());
        let secret = KeyMaterial::generate().map_err(internal)?;
        let material = Arc::new(Material { id: MaterialId::generate().map_err(internal)?, secret });
        let mut record = KeyRecord::new(id, account, judge.judged_at_us, (policy, judge.event_id), material);
        record.description = description.into();
        record.tags = tags;
        if self.policy.is_some() && !bypass {
            check_lockout(judge, &record)?;
        }
        Ok(record)
    }

    fn effect(&self, judge: &mut Judge<'_>, record: KeyRecord) -> Result<Effect, Refusal> {
        let node = judge.node;
        let wrapped = node.wrap(&record).map_err(|error| {
            tracing::error!(%error, "key material cannot be wrapped");
            Refusal::internal()
        })?;
        let policy = record.policy.text.to_string();
        let row = KeyRow {
            id: record.id,
            account: record.account,
            region: node.region.clone(),
            description: record.description.to_string(),
            created_us: record.created_us,
            policy_event: judge.event_id.to_string(),
            material_id: record.material_id(),
            wrapped,
            policy: policy.clone(),
        };
        let mut changes = vec![Change::InsertKey(Box::new(row))];
        changes.extend(record.tags.iter().map(|(name, value)| Change::PutTag(record.id, name.clone(), value.clone())));
        let metadata = json!({"KeyMetadata": record.metadata(&node.region)});
        judge.record.touch_key(&record, &node.region);
        judge.record.after = Some(record.image(&node.region));
        judge.record.more.insert("policy".to_owned(), policy.into());
        judge.record.response_elements = Some(json!({"keyMetadata": recorded_metadata(&record, &node.region)}));
        Ok(Effect {
            body: json_body(&metadata),
            changes,
            publish: vec![Publish::Key(Arc::new(record))],
            ..Effect::default()
        })
    }
}

/// `keyMetadata` as CloudTrail spells it: the answer's members with a small first letter, dates as text.
fn recorded_metadata(record: &KeyRecord, region: &str) -> Value {
    let Value::Object(members) = record.metadata(region) else { return Value::Null };
    let spelled = members.into_iter().map(|(name, value)| {
        let value = if name == "CreationDate" { rfc3339_seconds(record.created_us).into() } else { value };
        (name[..1].to_ascii_lowercase() + &name[1..], value)
    });
    Value::Object(spelled.collect())
}
