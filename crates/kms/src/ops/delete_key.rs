//! The end of a waiting period: the key's material, policies, tags and aliases go for good, as a service event.

use super::drive::Effect;
use super::service_event::ServiceEvent;
use crate::key::{AccountId, KeyId, KeyRecord};
use crate::node::Node;
use crate::registry::Publish;
use crate::store::Change;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Deletes one key if it is still due; false when the node cannot record that now.
pub(crate) async fn delete(node: &Arc<Node>, account: AccountId, id: KeyId) -> bool {
    let Some(seen) = node.registry.key(account, id) else { return true };
    let mut stripes: BTreeSet<_> = seen.aliases.iter().map(|name| node.locks.alias(account, name)).collect();
    stripes.insert(node.locks.key(account, id));
    let held = node.locks.hold(&stripes).await;
    let judged_at_us = node.clock.now_us();
    let Some(key) = node.registry.key(account, id) else { return true };
    let due = key.state.deletion_us().is_some_and(|deletion_us| deletion_us <= judged_at_us);
    if !due || key.aliases != seen.aliases {
        return true;
    }
    let recorded = ServiceEvent::new(node, "DeleteKey", &key, judged_at_us).carry(held, effect(&key)).await;
    if recorded {
        node.usages.forget((account, id));
    }
    recorded
}

fn effect(key: &KeyRecord) -> Effect {
    let mut publish: Vec<_> =
        key.aliases.iter().map(|name| Publish::NoAlias(key.account, name.as_str().into())).collect();
    publish.push(Publish::NoKey(key.account, key.id));
    Effect { changes: vec![Change::DeleteKey(key.id)], publish, ..Effect::default() }
}
