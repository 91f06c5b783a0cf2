//! DeleteImportedKeyMaterial: an owner takes away what was imported; the key waits for the same to come back.

use super::answer::json_body;
use super::drive::{Effect, Mutation};
use super::dual_control;
use super::enable::change_key;
use super::import::{cut, external, import_changes};
use super::input::{recorded, required};
use super::judge::{Judge, not_synchronizing};
use super::refusal::{Refusal, RefusalKind};
use crate::crypto::MaterialId;
use crate::key::KeyRecord;
use crate::locks::Stripe;
use crate::policy::Context;
use crate::store::Change;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct DeleteImportedKeyMaterial {
    key_id: Option<String>,
    key_material_id: Option<String>,
}

impl Mutation for DeleteImportedKeyMaterial {
    fn parameters(&self) -> Option<Value> {
        recorded(self.key_id.as_ref(), json!({"keyMaterialId": self.key_material_id.as_deref().map(cut)}))
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        dual_control::all_stripes(judge, self.key_id.as_deref())
    }

    /// Works in every state, and without effect when there is nothing to delete.
    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let key = judge.key_without_alias(required(&self.key_id, "keyId")?).await?;
        dual_control::allow(judge, "kms:DeleteImportedKeyMaterial", &key, &Context::default()).await?;
        external(&key)?;
        not_synchronizing(&key)?;
        let id = match &self.key_material_id {
            None => key.current_material(),
            Some(text) => Some(named(&key, text)?),
        };
        let (after, changes) = without_material(&key, id);
        let arn = key.arn();
        let mut effect = change_key(judge, &key, after, changes);
        judge.record.response_elements = Some(json!({"keyId": arn, "keyMaterialId": id}));
        let mut answer = json!({"KeyId": arn});
        if let (true, Some(id)) = (key.kind.is_symmetric_encryption(), id) {
            answer["KeyMaterialId"] = id.to_string().into();
        }
        effect.body = json_body(&answer);
        dual_control::guarded(judge, &key, effect).await
    }
}

/// The material of this key with this id.
fn named(key: &KeyRecord, text: &str) -> Result<MaterialId, Refusal> {
    MaterialId::from_hex(text).filter(|id| key.state_of(*id).is_some()).ok_or_else(|| {
        let text = "The key has no key material with this KeyMaterialId.";
        Refusal::new(RefusalKind::NotFound, text)
    })
}

/// The key once imported material is gone, and what that stores.
pub(super) fn without_material(key: &KeyRecord, id: Option<MaterialId>) -> (KeyRecord, Vec<Change>) {
    let after = key.without_imported(id);
    let mut changes = vec![Change::DeleteMaterial(key.id, id.map(|id| id.to_string()).unwrap_or_default())];
    changes.extend(import_changes(&after));
    changes.push(Change::SetRotation(key.id, after.rotation, after.on_demand_us));
    (after, changes)
}
