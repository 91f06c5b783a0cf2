//! EnableKeyRotation, DisableKeyRotation, GetKeyRotationStatus, RotateKeyOnDemand and ListKeyRotations: when a symmetric
//! key gets new material, and what it has had.
//!
//! These set dates; `rotate_key` does what they say. As at AWS only keys whose material the service made rotate by dates, and
//! on demand imported keys, too, when their owner has imported what comes next.

use super::answer::json_body;
use super::companion;
use super::drive::{Class, Effect, Mutation, Query};
use super::enable::{change_key, key_stripes};
use super::input::{Page, member_of, recorded, required};
use super::judge::{Judge, usable, wrong_origin};
use super::refusal::{Refusal, RefusalKind};
use crate::key::{AutomaticRotation, Import, KeyRecord, Material, MaterialState, epoch_seconds};
use crate::locks::Stripe;
use crate::policy::Context;
use crate::spec::{ExpirationModel, Origin, RotationType};
use crate::store::Change;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// AWS's period when none is asked for, and of its own keys.
pub(crate) const PERIOD_DAYS: u32 = 365;
const PERIOD_DAYS_MIN: i64 = 90;
const PERIOD_DAYS_MAX: i64 = 2_560;
/// AWS's quota of rotations on demand in a key's life.
const ON_DEMAND_MAX: usize = 25;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct EnableKeyRotation {
    key_id: Option<String>,
    rotation_period_in_days: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct DisableKeyRotation {
    key_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct RotateKeyOnDemand {
    key_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct GetKeyRotationStatus {
    key_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListKeyRotations {
    key_id: Option<String>,
    include_key_material: Option<String>,
    limit: Option<i64>,
    marker: Option<String>,
}

impl Mutation for EnableKeyRotation {
    fn parameters(&self) -> Option<Value> {
        recorded(
            self.key_id.as_ref(),
            json!({"rotationPeriodInDays": self.rotation_period_in_days.unwrap_or(PERIOD_DAYS.into())}),
        )
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        key_stripes(judge, self.key_id.as_deref())
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let text = required(&self.key_id, "keyId")?;
        let period_days = self.period_days()?;
        let key = judge.key_without_alias(text).await?;
        let facts = Context { rotation_period_days: Some(period_days), ..Context::default() };
        judge.allow_key("kms:EnableKeyRotation", &key, &facts)?;
        not_imported(&key)?;
        usable(judge, &key)?;
        rotates(&key)?;
        not_replica(&key)?;
        let rotation = AutomaticRotation::starting(period_days, judge.judged_at_us);
        Ok(schedule(judge, &key, Some(rotation)))
    }
}

impl EnableKeyRotation {
    fn period_days(&self) -> Result<u32, Refusal> {
        let days = self.rotation_period_in_days.unwrap_or(PERIOD_DAYS.into());
        let period = u32::try_from(days).ok().filter(|_| (PERIOD_DAYS_MIN..=PERIOD_DAYS_MAX).contains(&days));
        period.ok_or_else(|| {
            let (side, bound) =
                if days < PERIOD_DAYS_MIN { ("greater", PERIOD_DAYS_MIN) } else { ("less", PERIOD_DAYS_MAX) };
            let constraint = format!("Member must have value {side} than or equal to {bound}");
            Refusal::constraint(Some(&days.to_string()), "rotationPeriodInDays", &constraint)
        })
    }
}

impl Mutation for DisableKeyRotation {
    fn parameters(&self) -> Option<Value> {
        recorded(self.key_id.as_ref(), Value::Null)
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        key_stripes(judge, self.key_id.as_deref())
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let key = judge.key_without_alias(required(&self.key_id, "keyId")?).await?;
        judge.allow_key("kms:DisableKeyRotation", &key, &Context::default())?;
        not_imported(&key)?;
        // As at AWS that is nothing new for a key that cannot rotate, and no error.
        usable(judge, &key)?;
        not_replica(&key)?;
        Ok(schedule(judge, &key, None))
    }
}

fn schedule(judge: &mut Judge<'_>, key: &KeyRecord, rotation: Option<AutomaticRotation>) -> Effect {
    set_rotation(judge, key, key.with_rotation(rotation, key.on_demand_us))
}

/// Sets a key's dates, and those of its related keys with it.
fn set_rotation(judge: &mut Judge<'_>, key: &KeyRecord, after: KeyRecord) -> Effect {
    let row = Change::SetRotation(key.id, after.rotation, after.on_demand_us);
    let mut effect = change_key(judge, key, after.clone(), vec![row]);
    companion::follow(judge.node, &after, judge.judged_at_us, &mut effect);
    effect
}

impl Mutation for RotateKeyOnDemand {
    fn parameters(&self) -> Option<Value> {
        recorded(self.key_id.as_ref(), Value::Null)
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        key_stripes(judge, self.key_id.as_deref())
    }

    /// As at AWS the rotation follows by itself; until then the key says that one is under way.
    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let key = judge.key_without_alias(required(&self.key_id, "keyId")?).await?;
        judge.allow_key("kms:RotateKeyOnDemand", &key, &Context::default())?;
        usable(judge, &key)?;
        let arn = key.arn();
        let imported = key.kind.is_symmetric_encryption() && key.kind.origin == Origin::External;
        if imported && key.imports.pending.is_none() {
            let text = format!("No available key material pending rotation for the key: {arn}.");
            return Err(Refusal::new(RefusalKind::InvalidState, text));
        }
        rotates(&key)?;
        not_replica(&key)?;
        if key.on_demand_us.is_some() {
            let text = format!("{arn} already has a rotation on demand in progress.");
            return Err(Refusal::new(RefusalKind::Conflict, text));
        }
        let made = key.materials().filter(|material| material.rotation == Some(RotationType::OnDemand)).count();
        if made.max(key.import_rotations()) >= ON_DEMAND_MAX {
            let text = format!(
                "The on-demand rotations limit has been reached for the given keyId. \
                 No more on-demand rotations can be performed for this key: {arn}"
            );
            return Err(Refusal::new(RefusalKind::LimitExceeded, text));
        }
        let on_demand_us = Some(judge.judged_at_us);
        let mut effect = set_rotation(judge, &key, key.with_rotation(key.rotation, on_demand_us));
        effect.body = json_body(&json!({"KeyId": arn}));
        Ok(effect)
    }
}

impl Query for GetKeyRotationStatus {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        recorded(self.key_id.as_ref(), Value::Null)
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        let key = judge.key_without_alias(required(&self.key_id, "keyId")?).await?;
        judge.allow_key("kms:GetKeyRotationStatus", &key, &Context::default())?;
        // A key that cannot rotate says that it does not: Terraform asks every key.
        not_imported(&key)?;
        // A key that waits for its deletion does not rotate, whatever its schedule says.
        let rotation = key.rotation.filter(|_| !key.state.is_pending_deletion());
        let mut answer = json!({"KeyId": key.arn(), "KeyRotationEnabled": rotation.is_some()});
        if let Some(rotation) = rotation {
            answer["RotationPeriodInDays"] = rotation.period_days.into();
            answer["NextRotationDate"] = epoch_seconds(rotation.next_us);
        }
        if let Some(on_demand_us) = key.on_demand_us {
            answer["OnDemandRotationStartDate"] = epoch_seconds(on_demand_us);
        }
        Ok(json_body(&answer))
    }
}

impl Query for ListKeyRotations {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        recorded(self.key_id.as_ref(), json!({"includeKeyMaterial": self.include_key_material, "limit": self.limit}))
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        let text = required(&self.key_id, "keyId")?;
        let include = self.include_key_material.as_deref().unwrap_or("ROTATIONS_ONLY");
        let all = ["ALL_KEY_MATERIAL", "ROTATIONS_ONLY"];
        let include = member_of("includeKeyMaterial", include, &all, |name| name, &[])?;
        let page = Page::parse(self.limit, self.marker.as_deref(), 100, 1_000)?;
        let key = judge.key_without_alias(text).await?;
        judge.allow_key("kms:ListKeyRotations", &key, &Context::default())?;
        let listed = materials(&key, include == "ALL_KEY_MATERIAL")?;
        let start = match &page.after {
            None => 0,
            Some(last) => {
                let found = listed.iter().position(|(id, _)| id == last);
                found.ok_or_else(|| Refusal::bare(RefusalKind::InvalidMarker))? + 1
            }
        };
        let shown: Vec<_> = listed.iter().skip(start).take(page.limit).collect();
        let truncated = start + shown.len() < listed.len();
        let rotations: Vec<&Value> = shown.iter().map(|(_, entry)| entry).collect();
        let mut answer = json!({"Rotations": rotations, "Truncated": truncated});
        if let (true, Some((last, _))) = (truncated, shown.last()) {
            answer["NextMarker"] = Page::marker(last).into();
        }
        Ok(json_body(&answer))
    }
}

/// Ids and entries of a key's material, oldest first; `all` adds what came by no rotation.
fn materials(key: &KeyRecord, all: bool) -> Result<Vec<(String, Value)>, Refusal> {
    if key.kind.is_symmetric_encryption() && key.kind.origin == Origin::External {
        let listed = key.imported().into_iter().filter(|(_, import)| all || import.about.rotated_us.is_some());
        return Ok(listed.map(|(state, import)| (import.id.to_string(), imported(key, state, &import))).collect());
    }
    rotates(key)?;
    let wanted = key.materials().filter(|material| all || material.rotation.is_some());
    Ok(wanted.map(|material| (material.id.to_string(), entry(key, material))).collect())
}

/// Imported material of a key, here or away.
fn imported(key: &KeyRecord, state: MaterialState, import: &Import) -> Value {
    let mut entry = json!({
        "KeyId": key.id.to_string(),
        "KeyMaterialId": import.id,
        "KeyMaterialState": state.name(),
        "ImportState": key.import_state(import.id),
    });
    if let Some(description) = &import.about.description {
        entry["KeyMaterialDescription"] = (**description).into();
    }
    if key.is_here(import.id) {
        let ends = import.valid_to_us.is_some();
        let model = if ends { ExpirationModel::Expires } else { ExpirationModel::DoesNotExpire };
        entry["ExpirationModel"] = model.name().into();
    }
    if let Some(valid_to_us) = import.valid_to_us {
        entry["ValidTo"] = epoch_seconds(valid_to_us);
    }
    if let Some(rotated_us) = import.about.rotated_us {
        entry["RotationDate"] = epoch_seconds(rotated_us);
        entry["RotationType"] = RotationType::OnDemand.name().into();
    }
    entry
}

fn entry(key: &KeyRecord, material: &Material) -> Value {
    let id = material.id.to_string();
    let state = if Some(&id) == key.material_id().as_ref() { "CURRENT" } else { "NON_CURRENT" };
    let mut entry = json!({"KeyId": key.id.to_string(), "KeyMaterialId": id, "KeyMaterialState": state});
    if let Some(rotation) = material.rotation {
        entry["RotationDate"] = epoch_seconds(material.created_us);
        entry["RotationType"] = rotation.name().into();
    }
    entry
}

/// A replica rotates when its primary key does, and by nothing else.
fn not_replica(key: &KeyRecord) -> Result<(), Refusal> {
    if key.is_replica() {
        let text = format!("{} is a multi-Region replica key: its primary key rotates it.", key.arn());
        return Err(Refusal::new(RefusalKind::UnsupportedOperation, text));
    }
    Ok(())
}

/// Imported material is its owner's to replace, and a token's key stays the same; AWS says so before it looks at the key's state.
fn not_imported(key: &KeyRecord) -> Result<(), Refusal> {
    let imported = key.kind.is_symmetric_encryption() && key.kind.origin != Origin::AwsKms;
    if imported { Err(wrong_origin(key)) } else { Ok(()) }
}

/// Asymmetric and HMAC keys keep their material for life, which AWS refuses without a word.
fn rotates(key: &KeyRecord) -> Result<(), Refusal> {
    if key.kind.origin == Origin::CloudHsm {
        return Err(wrong_origin(key));
    }
    if key.kind.is_symmetric_encryption() { Ok(()) } else { Err(Refusal::bare(RefusalKind::UnsupportedOperation)) }
}
