//! A key as others see it: the image in events, `KeyMetadata` in answers, and times as both write them.

use super::{Import, KeyRecord, KeyState, MaterialState, Region};
use crate::crypto::MaterialId;
use crate::spec::{ExpirationModel, KeyKind, Origin};
use serde_json::{Map, Value, json};

impl KeyRecord {
    /// The image that events carry in `before` and `after`; the lake's `keys` table is folded from it.
    pub fn image(&self) -> Value {
        let mut image = Map::new();
        let mut put = |name: &str, value: Value| image.insert(name.to_owned(), value);
        put("keyArn", self.arn().into());
        put("account", self.account.as_str().into());
        put("region", self.id.region.as_str().into());
        put("keyId", self.id.to_string().into());
        put("keyState", self.state.name().into());
        put("description", (*self.description).into());
        put("keySpec", self.kind.spec.name().into());
        put("keyUsage", self.kind.usage.name().into());
        put("origin", self.kind.origin.name().into());
        put("keyManager", self.manager().into());
        if let Some(service) = &self.service {
            put("service", (**service).into());
        }
        if let Some(store) = &self.store {
            put("customKeyStoreId", (*store.id).into());
        }
        put("createdAt", rfc3339_micros(self.created_us).into());
        if let Some(deletion_us) = self.state.deletion_us() {
            put("deletionDate", rfc3339_micros(deletion_us).into());
        }
        if let Some(window_days) = self.state.window_days() {
            put("pendingWindowInDays", window_days.into());
        }
        if let Some(family) = &self.family {
            put("multiRegionKeyType", family.key_type(self.id.region).name().into());
            put("primaryRegion", family.primary.as_str().into());
            if !self.is_replica() {
                put("replicaRegions", family.replicas.iter().map(Region::as_str).collect());
            }
        }
        let tags: Map<String, Value> =
            self.tags.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        put("tags", tags.into());
        put("policySha256", hex::encode(self.policy.sha256).into());
        if let Some(material_id) = self.material_id() {
            put("keyMaterialId", material_id.into());
        }
        if let Some(model) = self.expiration_model() {
            put("expirationModel", model.name().into());
        }
        if let Some(valid_to_us) = self.valid_to_us {
            put("validTo", rfc3339_micros(valid_to_us).into());
        }
        if !self.imports.former.is_empty() || self.imports.pending.is_some() {
            let (current, others) = (self.current, self.imported());
            let others = others.iter().filter(|(_, import)| Some(import.id) != current);
            put("otherKeyMaterial", others.map(|(state, import)| self.image_of(*state, import)).collect());
        }
        if self.comes_back_disabled {
            put("comesBackDisabled", true.into());
        }
        if let Some(rotation) = self.rotation {
            put("rotationPeriodInDays", rotation.period_days.into());
            put("nextRotationDate", rfc3339_micros(rotation.next_us).into());
        }
        if let Some(on_demand_us) = self.on_demand_us {
            put("onDemandRotationStartDate", rfc3339_micros(on_demand_us).into());
        }
        image.into()
    }

    /// One imported material beside the current one.
    fn image_of(&self, state: MaterialState, import: &Import) -> Value {
        let mut image = json!({
            "keyMaterialId": import.id.to_string(), "keyMaterialState": state.name(),
            "importState": self.import_state(import.id),
        });
        if let Some(valid_to_us) = import.valid_to_us {
            image["validTo"] = rfc3339_micros(valid_to_us).into();
        }
        image
    }

    /// AWS's word for whether imported material is here.
    pub fn import_state(&self, id: MaterialId) -> &'static str {
        if self.is_here(id) { "IMPORTED" } else { "PENDING_IMPORT" }
    }

    /// AWS's word for who manages it.
    fn manager(&self) -> &'static str {
        if self.service.is_some() { "AWS" } else { "CUSTOMER" }
    }

    /// Whether imported material ends by itself; none while there is none.
    pub fn expiration_model(&self) -> Option<ExpirationModel> {
        let imported = self.kind.origin == Origin::External && self.material.is_some();
        let model = if self.valid_to_us.is_some() { ExpirationModel::Expires } else { ExpirationModel::DoesNotExpire };
        imported.then_some(model)
    }

    /// `KeyMetadata` as DescribeKey and CreateKey answer it; members that do not apply are absent.
    pub fn metadata(&self) -> Value {
        let KeyKind { spec, usage, origin } = self.kind;
        let mut metadata = Map::new();
        let mut put = |name: &str, value: Value| metadata.insert(name.to_owned(), value);
        put("AWSAccountId", self.account.as_str().into());
        put("KeyId", self.id.to_string().into());
        put("Arn", self.arn().into());
        put("CreationDate", epoch_seconds(self.created_us));
        let state = self.shown_state();
        put("Enabled", (state == KeyState::Enabled).into());
        put("Description", (*self.description).into());
        put("KeyUsage", usage.name().into());
        put("KeyState", state.name().into());
        put("Origin", origin.name().into());
        put("KeyManager", self.manager().into());
        put("CustomerMasterKeySpec", spec.name().into());
        put("KeySpec", spec.name().into());
        for (name, algorithms) in self.kind.algorithm_lists() {
            put(name, algorithms.into());
        }
        put("MultiRegion", self.family.is_some().into());
        if let Some(family) = &self.family {
            put("MultiRegionConfiguration", family.configuration(self.account, self.id));
        }
        // As at AWS a replica that is being made has none to show yet.
        let creating = matches!(self.state, KeyState::Creating { .. });
        if let (true, Some(material_id)) = (self.kind.is_symmetric_encryption() && !creating, self.material_id()) {
            put("CurrentKeyMaterialId", material_id.into());
        }
        if let Some(store) = &self.store {
            put("CustomKeyStoreId", (*store.id).into());
            put("CloudHsmClusterId", (*store.cluster()).into());
        }
        if let Some(model) = self.expiration_model() {
            put("ExpirationModel", model.name().into());
        }
        if let Some(valid_to_us) = self.valid_to_us {
            put("ValidTo", epoch_seconds(valid_to_us));
        }
        if let Some(deletion_us) = self.state.deletion_us() {
            put("DeletionDate", epoch_seconds(deletion_us));
        }
        if let Some(window_days) = self.state.window_days() {
            put("PendingDeletionWindowInDays", window_days.into());
        }
        metadata.into()
    }
}

/// A JSON number of seconds with milliseconds, as the JSON protocol writes times.
pub fn epoch_seconds(time_us: u64) -> Value {
    // Milliseconds of this century fit a double exactly enough for SDKs, which round to them.
    #[allow(clippy::cast_precision_loss)]
    let seconds = (time_us / 1_000) as f64 / 1_000.0;
    seconds.into()
}

/// `2026-01-05T12:00:00.000000Z`.
pub fn rfc3339_micros(time_us: u64) -> String {
    timestamp(time_us).to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

/// `2026-01-05T12:00:00Z`.
pub fn rfc3339_seconds(time_us: u64) -> String {
    timestamp(time_us).to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

fn timestamp(time_us: u64) -> chrono::DateTime<chrono::Utc> {
    i64::try_from(time_us).ok().and_then(chrono::DateTime::from_timestamp_micros).unwrap_or_default()
}
