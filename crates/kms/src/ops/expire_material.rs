//! The end of imported material: it is deleted and the key waits for it to be imported again, as a service event.

use super::delete_material::without_material;
use super::drive::Effect;
use super::service_event::ServiceEvent;
use crate::key::{AccountId, KeyId};
use crate::node::Node;
use crate::registry::Publish;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Deletes the material of one key whose date has come; false when the node cannot record that now.
pub(crate) async fn expire(node: &Arc<Node>, account: AccountId, id: KeyId) -> bool {
    loop {
        let held = node.locks.hold(&BTreeSet::from([node.locks.key(account, id)])).await;
        let judged_at_us = node.clock.now_us();
        let Some(key) = node.registry.key(account, id) else { return true };
        let Some((ended, _)) = key.import_ends().find(|(_, at_us)| *at_us <= judged_at_us) else { return true };
        let (after, changes) = without_material(&key, Some(ended));
        let mut event = ServiceEvent::new(node, "DeleteExpiredKeyMaterial", &key, judged_at_us);
        event.detail("keyMaterialId", ended.to_string());
        event.record.after = Some(after.image());
        let effect = Effect { changes, publish: vec![Publish::Key(Arc::new(after))], ..Effect::default() };
        if !event.carry(held, effect).await {
            return false;
        }
    }
}
