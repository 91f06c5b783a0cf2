//! The end of a waiting period: the key's policies, tags, aliases and grants go for good, and its material unless related
//! keys have it, as a service event.

use super::companion;
use super::drive::Effect;
use super::internal::carry_internal;
use super::retire;
use super::service_event::ServiceEvent;
use crate::key::{AccountId, DAY_US, KeyId, KeyRecord, KeyState};
use crate::node::Node;
use crate::registry::Publish;
use crate::store::Change;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Deletes one key if it is still due; false when the node cannot record that now.
pub(crate) async fn delete(node: &Arc<Node>, account: AccountId, id: KeyId) -> bool {
    let Some(seen) = node.registry.key(account, id) else { return true };
    let mut stripes: BTreeSet<_> = seen.aliases.iter().map(|name| node.locks.alias(account, id.region, name)).collect();
    stripes.insert(node.locks.key(account, id));
    let held = node.locks.hold(&stripes).await;
    let judged_at_us = node.clock.now_us();
    let Some(key) = node.registry.key(account, id) else { return true };
    let due = key.state.deletion_us().is_some_and(|deletion_us| deletion_us <= judged_at_us);
    if !due || key.aliases != seen.aliases {
        return true;
    }
    let event = ServiceEvent::new(node, "DeleteKey", &key, judged_at_us);
    let recorded = event.carry(held, effect(node, &key, judged_at_us)).await;
    if recorded && key.store.is_some() {
        // A token may hang: neither locks nor other deletions wait for it.
        tokio::spawn(destroy_in_token(Arc::clone(node), Arc::clone(&key)));
    }
    if recorded {
        node.usages.forget((account, id));
    }
    recorded
}

/// Destroys a deleted key inside its token where that can be reached, and records what came of it. As at AWS the KMS key is
/// gone all the same; what is left in the token is its owner's to destroy.
async fn destroy_in_token(node: Arc<Node>, key: Arc<KeyRecord>) {
    let Some(store) = &key.store else { return };
    let label = key.id.to_string();
    let end = match store.connection() {
        None => "orphaned",
        Some(connection) => match connection.with(move |session| session.destroy_keys(&label)).await {
            Ok(()) => "destroyed",
            Err(error) => {
                tracing::error!(key_id = %key.id, %error, "deleted key stays in its token");
                "orphaned"
            }
        },
    };
    let told = json!({"keyId": key.arn(), "customKeyStoreId": *store.id, "tokenObject": end});
    let held = node.locks.hold(&BTreeSet::new()).await;
    if carry_internal(&node, held, "DestroyTokenKey", told, Effect::default()).await.is_err() {
        tracing::error!(key_id = %key.id, end, "end of a deleted key in its token is not recorded");
    }
}

fn effect(node: &Node, key: &KeyRecord, judged_at_us: u64) -> Effect {
    let gone = |name: &String| Publish::NoAlias(key.account, key.id.region, name.as_str().into());
    let mut publish: Vec<_> = key.aliases.iter().map(gone).collect();
    publish.push(Publish::NoKey(key.account, key.id));
    let mut effect = Effect { changes: vec![Change::DeleteKey(key.id)], publish, ..Effect::default() };
    retire::forget(key, &mut effect);
    let Some(family) = key.family.as_ref().map(|family| Arc::new(family.without(key.id.region))) else { return effect };
    for region in key.related_regions() {
        if let Some(before) = node.registry.key(key.account, key.id.in_region(region)) {
            let after = without_replica(before.with_family(Arc::clone(&family)), judged_at_us);
            companion::follow_as(node, &before, after, judged_at_us, &mut effect);
        }
    }
    effect
}

/// A related key of a replica that is gone: when it was the last one, a primary key that waits for that begins to wait for
/// its own deletion.
fn without_replica(key: KeyRecord, now_us: u64) -> KeyRecord {
    match (key.state, key.related_regions().next()) {
        (KeyState::PendingReplicaDeletion { window_days }, None) => {
            let deletion_us = now_us + u64::from(window_days) * DAY_US;
            key.with_state(KeyState::PendingDeletion { deletion_us })
        }
        _ => key,
    }
}
