//! ReplicateKey: a replica of a multi-Region primary key, in another region and under a policy of its own.
//!
//! The answer shows it in state Creating; the service's job of due changes makes it usable within a second. Who replicates
//! may do both: replicate the primary key, and make keys where the replica will be.

use super::answer::json_body;
use super::companion::{self, Companion};
use super::create_key::{
    allow_creation, checked_description, checked_image, key_row, recorded_description, recorded_metadata,
};
use super::drive::{Effect, Mutation};
use super::enable::key_stripes;
use super::input::{recorded, region_member, required};
use super::judge::{Judge, not_synchronizing, usable};
use super::key_policy::{check_lockout, parse_policy};
use super::refusal::{Refusal, RefusalKind};
use super::tags::{self, Tag};
use crate::key::{KeyRecord, MultiRegionKeyType, Region, key_arn};
use crate::locks::Stripe;
use crate::policy::{Context, KeyFacts, default_key_policy};
use crate::quota::Group;
use crate::registry::Publish;
use crate::store::Change;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ReplicateKey {
    key_id: Option<String>,
    replica_region: Option<String>,
    policy: Option<String>,
    bypass_policy_lockout_safety_check: Option<bool>,
    description: Option<String>,
    tags: Option<Vec<Tag>>,
}

impl Mutation for ReplicateKey {
    fn parameters(&self) -> Option<Value> {
        recorded(
            self.key_id.as_ref(),
            json!({
                "replicaRegion": self.replica_region.as_ref().map(|text| &text[..text.floor_char_boundary(64)]),
                "description": recorded_description(self.description.as_deref().unwrap_or_default()),
                "bypassPolicyLockoutSafetyCheck": self.bypass(),
                "tags": self.tags,
            }),
        )
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        key_stripes(judge, self.key_id.as_deref())
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let text = required(&self.key_id, "keyId")?;
        let region = region_member("replicaRegion", required(&self.replica_region, "replicaRegion")?)?;
        checked_description(self.description.as_deref().unwrap_or_default())?;
        tags::checked(self.tags.as_deref().unwrap_or_default())?;
        let primary = judge.key_without_alias(text).await?;
        let facts = Context {
            replica_region: Some(region.as_str()),
            bypass_lockout: Some(self.bypass()),
            ..Context::default()
        };
        judge.allow_key("kms:ReplicateKey", &primary, &facts)?;
        let decided_by = judge.record.decided_by.clone();
        self.allow_there(judge, &primary, region)?;
        let allowed_there = std::mem::replace(&mut judge.record.decided_by, decided_by);
        self.check(judge, &primary, region)?;

        let mut creation = Companion::of_call(judge, "CreateKey", region);
        creation.record.decided_by = allowed_there;
        let replica = self.replica(judge, &primary, &creation, region)?;
        effect(judge, &primary, replica, creation)
    }
}

impl ReplicateKey {
    fn bypass(&self) -> bool {
        self.bypass_policy_lockout_safety_check.unwrap_or(false)
    }

    /// Asks whether the caller may make the replica where it shall be.
    fn allow_there(&self, judge: &mut Judge<'_>, primary: &KeyRecord, region: Region) -> Result<(), Refusal> {
        let tags = tags::by_key(self.tags.as_deref().unwrap_or_default());
        let facts = Context {
            region: region.as_str(),
            request_tags: (!tags.is_empty()).then_some(&tags),
            bypass_lockout: Some(self.bypass()),
            key: Some(KeyFacts {
                spec: primary.kind.spec.name(),
                usage: primary.kind.usage.name(),
                origin: primary.kind.origin.name(),
                multi_region: true,
                multi_region_key_type: Some(MultiRegionKeyType::Replica.name()),
                tags: None,
                aliases: &[],
            }),
            ..Context::default()
        };
        allow_creation(judge, &facts)
    }

    /// Whether this key can have a replica there now.
    fn check(&self, judge: &mut Judge<'_>, primary: &KeyRecord, region: Region) -> Result<(), Refusal> {
        // As at AWS a replica is no primary key before it is one that is being made.
        primary_key(primary)?;
        usable(judge, primary)?;
        not_synchronizing(primary)?;
        if !judge.node.regions.contains(&region) {
            let text = format!("{region} is not a region of this node.");
            return Err(Refusal::new(RefusalKind::UnsupportedOperation, text));
        }
        if region == primary.id.region || primary.related_regions().any(|taken| taken == region) {
            let text = format!("{} already exists.", key_arn(primary.account, primary.id.in_region(region)));
            return Err(Refusal::new(RefusalKind::AlreadyExists, text));
        }
        // As at AWS two CreateKey in the other region: one looks whether it would work.
        for _ in 0..2 {
            judge.count_in(region, Group::named("CreateKey"))?;
        }
        if judge.node.registry.key_count_of(primary.account, region) >= judge.node.quotas.keys_max() {
            let text = "The account has as many keys as it can have in the replica region.";
            return Err(Refusal::new(RefusalKind::LimitExceeded, text));
        }
        Ok(())
    }

    /// Makes the replica, in memory only.
    fn replica(
        &self,
        judge: &Judge<'_>,
        primary: &KeyRecord,
        creation: &Companion,
        region: Region,
    ) -> Result<KeyRecord, Refusal> {
        let text = match &self.policy {
            Some(text) => text.clone(),
            None => default_key_policy(primary.account.as_str()),
        };
        let policy = (parse_policy(judge.node, &text)?, creation.event_id);
        let mut replica = primary.replica(region, judge.judged_at_us, policy);
        if let Some(family) = &primary.family {
            replica.family = Some(Arc::new(family.with_replica(region)));
        }
        replica.description = self.description.as_deref().unwrap_or_default().into();
        replica.tags = tags::by_key(self.tags.as_deref().unwrap_or_default());
        checked_image(&replica)?;
        if self.policy.is_some() && !self.bypass() {
            check_lockout(judge, &replica)?;
        }
        Ok(replica)
    }
}

/// Refuses a key that is not the primary one of related keys.
pub(crate) fn primary_key(key: &KeyRecord) -> Result<(), Refusal> {
    if key.key_type() == Some(MultiRegionKeyType::Primary) {
        return Ok(());
    }
    let text = format!("{} is not a multi-region primary key.", key.arn());
    Err(Refusal::new(RefusalKind::UnsupportedOperation, text))
}

fn effect(
    judge: &mut Judge<'_>,
    primary: &KeyRecord,
    replica: KeyRecord,
    mut creation: Companion,
) -> Result<Effect, Refusal> {
    let node = judge.node;
    let mut effect = Effect::default();
    effect.changes.push(Change::InsertKey(Box::new(key_row(node, &replica, None)?)));
    effect
        .changes
        .extend(replica.tags.iter().map(|(name, value)| Change::PutTag(replica.id, name.clone(), value.clone())));
    effect.changes.push(Change::SetRotation(replica.id, replica.rotation, replica.on_demand_us));
    let after = replica.family.clone().map_or_else(|| primary.clone(), |family| primary.with_family(family));
    judge.record.before = Some(primary.image());
    judge.record.after = Some(after.image());
    let metadata = recorded_metadata(&replica);
    judge.record.response_elements =
        Some(json!({"replicaKeyMetadata": metadata, "replicaPolicy": &*replica.policy.text}));
    about_creation(&mut creation, &replica, metadata);
    effect.companions.push(creation);

    let tags: Vec<Value> =
        replica.tags.iter().map(|(name, value)| json!({"TagKey": name, "TagValue": value})).collect();
    let mut answer = json!({"ReplicaKeyMetadata": replica.metadata(), "ReplicaPolicy": &*replica.policy.text});
    if !tags.is_empty() {
        answer["ReplicaTags"] = tags.into();
    }
    effect.body = json_body(&answer);
    // The replicas that there were; the new one is not published yet.
    companion::follow(node, &after, judge.judged_at_us, &mut effect);
    effect.publish.extend([Publish::Key(Arc::new(after)), Publish::Key(Arc::new(replica))]);
    Ok(effect)
}

/// What CreateKey in the replica's region says.
fn about_creation(creation: &mut Companion, replica: &KeyRecord, metadata: Value) {
    let record = &mut creation.record;
    record.touch_key(replica);
    record.request_parameters = Some(json!({
        "description": &*replica.description,
        "keySpec": replica.kind.spec.name(),
        "customerMasterKeySpec": replica.kind.spec.name(),
        "keyUsage": replica.kind.usage.name(),
        "origin": replica.kind.origin.name(),
        "multiRegion": true,
    }));
    record.response_elements = Some(json!({"keyMetadata": metadata}));
    record.after = Some(replica.image());
    record.more.insert("policy".to_owned(), (*replica.policy.text).into());
}
