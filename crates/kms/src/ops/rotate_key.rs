//! The rotation itself: new material becomes current, the former stays for what it encrypted, as a service event.
//!
//! One way for both kinds: the schedule's date and RotateKeyOnDemand make a rotation due, this carries it out.

use super::companion;
use super::drive::Effect;
use super::import::import_changes;
use super::service_event::ServiceEvent;
use crate::crypto::{MaterialId, SecretHalf, WrapError};
use crate::key::{AccountId, KeyId, KeyRecord, Material};
use crate::node::Node;
use crate::registry::Publish;
use crate::spec::RotationType;
use crate::store::{Change, MaterialRow};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Rotates one key if it is still due; false when the node cannot do that now.
pub(crate) async fn rotate(node: &Arc<Node>, account: AccountId, id: KeyId) -> bool {
    let held = node.locks.hold(&BTreeSet::from([node.locks.key(account, id)])).await;
    let judged_at_us = node.clock.now_us();
    let Some(key) = node.registry.key(account, id) else { return true };
    let Some(kind) = key.rotation_due(judged_at_us) else { return true };
    let (after, changes) = match rotated(node, &key, kind, judged_at_us) {
        Ok(rotated) => rotated,
        Err(error) => {
            tracing::error!(key_id = %id, %error, "key cannot be rotated");
            return false;
        }
    };
    let mut event = ServiceEvent::new(node, "RotateKey", &key, judged_at_us);
    event.detail("rotationType", kind.name());
    event.detail("keyOrigin", key.kind.origin.name());
    event.detail("previousKeyMaterialId", key.material_id());
    event.detail("currentKeyMaterialId", after.material_id());
    event.record.after = Some(after.image());
    let mut effect = Effect { changes, ..Effect::default() };
    // As at AWS no key encrypts with new material before all related keys could decrypt that.
    companion::follow(node, &after, judged_at_us, &mut effect);
    effect.publish.push(Publish::Key(Arc::new(after)));
    event.carry(held, effect).await
}

/// The key with other material and what that stores: new one of the service's, or what its owner has imported for it.
fn rotated(
    node: &Node,
    key: &KeyRecord,
    kind: RotationType,
    now_us: u64,
) -> Result<(KeyRecord, Vec<Change>), WrapError> {
    if let Some(after) = key.with_pending_rotated(now_us) {
        let mut changes = vec![Change::SetMaterial(key.id, after.material_id().unwrap_or_default())];
        changes.extend(import_changes(&after));
        changes.push(Change::SetRotation(key.id, after.rotation, after.on_demand_us));
        return Ok((after, changes));
    }
    let bytes = SecretHalf::generate(key.kind)?;
    let secret = SecretHalf::read(key.kind, bytes.expose()).map_err(|_| WrapError::Damaged)?;
    let id = MaterialId::generate()?;
    let material = Material::new(id, secret, now_us, Some(kind));
    let after = key.with_rotated(Arc::new(material), kind, now_us);
    let wrapped = node.wrap(&after, &bytes)?;
    let row = MaterialRow { id: id.to_string(), wrapped, created_us: now_us, rotation: Some(kind) };
    let changes = vec![
        Change::AddMaterial(key.id, Box::new(row)),
        Change::SetRotation(key.id, after.rotation, after.on_demand_us),
    ];
    Ok((after, changes))
}
