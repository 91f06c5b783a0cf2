//! The end of imported material: it is deleted and the key waits for it to be imported again, as a service event.

use super::drive::Effect;
use super::import::without_material;
use super::service_event::ServiceEvent;
use crate::key::{AccountId, KeyId};
use crate::node::Node;
use crate::registry::Publish;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Deletes one key's material if its date has come; false when the node cannot record that now.
pub(crate) async fn expire(node: &Arc<Node>, account: AccountId, id: KeyId) -> bool {
    let held = node.locks.hold(&BTreeSet::from([node.locks.key(account, id)])).await;
    let judged_at_us = node.clock.now_us();
    let Some(key) = node.registry.key(account, id) else { return true };
    if key.valid_to_us.is_none_or(|valid_to_us| valid_to_us > judged_at_us) {
        return true;
    }
    let (after, changes) = without_material(&key);
    let mut event = ServiceEvent::new(node, "DeleteExpiredKeyMaterial", &key, judged_at_us);
    if let Some(material_id) = key.material_id() {
        event.detail("keyMaterialId", material_id);
    }
    event.record.after = Some(after.image());
    let effect = Effect { changes, publish: vec![Publish::Key(Arc::new(after))], ..Effect::default() };
    event.carry(held, effect).await
}
