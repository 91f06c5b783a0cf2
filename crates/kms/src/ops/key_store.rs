//! What the operations on custom key stores share: their members' constraints, finding one, and their refusals.

use super::drive::Effect;
use super::input::SecretText;
use super::judge::Judge;
use super::refusal::{Refusal, RefusalKind};
use crate::hsm::Pin;
use crate::key_store::KeyStore;
use crate::locks::Stripe;
use crate::node::Node;
use crate::registry::Publish;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use std::sync::Arc;

const ID_BYTES_MAX: usize = 64;
const NAME_CHARS_MAX: usize = 256;

/// The one lock of all custom key stores of a node: their names and clusters are compared with each other's.
pub(crate) fn key_stores_stripe(node: &Node) -> Stripe {
    // No alias has such a name.
    node.locks.alias(node.account, node.region, "\0custom key stores")
}

/// An id as far as an event may hold it.
pub(crate) fn recorded_id(text: &str) -> &str {
    &text[..text.floor_char_boundary(ID_BYTES_MAX)]
}

/// A name as far as an event may hold it.
pub(crate) fn recorded_name(text: &str) -> &str {
    &text[..text.floor_char_boundary(4 * NAME_CHARS_MAX)]
}

/// The store of the caller's account and region with this id.
pub(crate) fn found(judge: &Judge<'_>, id: &str) -> Result<Arc<KeyStore>, Refusal> {
    length(id, "customKeyStoreId", 1, ID_BYTES_MAX)?;
    let found = judge.node.registry.key_store(judge.account(), judge.region(), id);
    found.ok_or_else(|| {
        let text = format!("The custom key store with ID {id} does not exist.");
        Refusal::new(RefusalKind::CustomKeyStoreNotFound, text)
    })
}

/// The stores of the caller's account and region, in order of id.
pub(crate) fn of_caller(judge: &Judge<'_>) -> Vec<Arc<KeyStore>> {
    let place = (judge.account(), judge.region());
    let mut stores = judge.node.registry.key_stores();
    stores.retain(|store| (store.account, store.region) == place);
    stores
}

/// Refuses members that only external key stores (XKS) have.
pub(crate) fn not_external(members: [&Option<IgnoredAny>; 6]) -> Result<(), Refusal> {
    if members.iter().any(|member| member.is_some()) {
        let text = "External key stores are not supported by this node.";
        return Err(Refusal::new(RefusalKind::UnsupportedOperation, text));
    }
    Ok(())
}

/// The operation is not for a store in the state that its connection is in.
pub(crate) fn wrong_state(store: &KeyStore) -> Refusal {
    let text = format!("The custom key store {} is {}.", store.id, store.link.shown().0);
    Refusal::new(RefusalKind::CustomKeyStoreInvalidState, text)
}

/// Refuses a store that is not disconnected.
pub(crate) fn disconnected(store: &KeyStore) -> Result<(), Refusal> {
    if store.link.shown().0 == "DISCONNECTED" { Ok(()) } else { Err(wrong_state(store)) }
}

fn length(text: &str, member: &str, min: usize, max: usize) -> Result<(), Refusal> {
    let chars = text.chars().count();
    if chars >= min && chars <= max {
        return Ok(());
    }
    let (side, bound) = if chars < min { ("greater", min) } else { ("less", max) };
    let constraint = format!("Member must have length {side} than or equal to {bound}");
    Err(Refusal::constraint(Some(text), member, &constraint))
}

/// A name that no other store of the account and region has.
pub(crate) fn checked_name(judge: &Judge<'_>, name: &str, own: Option<&str>, member: &str) -> Result<(), Refusal> {
    length(name, member, 1, NAME_CHARS_MAX)?;
    if of_caller(judge).iter().any(|store| own != Some(&*store.id) && store.body.name == name) {
        let text = "Another custom key store has this name.";
        return Err(Refusal::new(RefusalKind::CustomKeyStoreNameInUse, text));
    }
    Ok(())
}

/// A cluster that the configuration has and no other store of the node is in.
pub(crate) fn checked_cluster(judge: &Judge<'_>, cluster: &str, own: Option<&str>) -> Result<(), Refusal> {
    let tail = cluster.strip_prefix("cluster-").filter(|tail| (11..=16).contains(&tail.len()));
    if !tail.is_some_and(|tail| tail.bytes().all(|byte| byte.is_ascii_alphabetic() || (b'2'..=b'7').contains(&byte))) {
        let constraint = "Member must satisfy regular expression pattern: cluster-[2-7a-zA-Z]{11,16}";
        return Err(Refusal::constraint(Some(recorded_id(cluster)), "cloudHsmClusterId", constraint));
    }
    if !judge.node.clusters.contains_key(cluster) {
        let text = format!("The cluster {cluster} is not in the configuration of this node.");
        return Err(Refusal::new(RefusalKind::CloudHsmClusterNotFound, text));
    }
    let stores = judge.node.registry.key_stores();
    if stores.iter().any(|store| own != Some(&*store.id) && store.body.cluster == cluster) {
        let text = format!("The cluster {cluster} is associated with another custom key store.");
        return Err(Refusal::new(RefusalKind::CloudHsmClusterInUse, text));
    }
    Ok(())
}

/// The token's PIN. What is wrong with it is said without it.
pub(crate) fn checked_password(password: &SecretText) -> Result<Pin, Refusal> {
    let text = password.expose();
    let constraint = match text.chars().count() {
        ..7 => "Member must have length greater than or equal to 7",
        33.. => "Member must have length less than or equal to 32",
        _ => "Member must be a text without line ends",
    };
    let pin = (7..=32).contains(&text.chars().count()) && !text.ends_with(['\n', '\r']);
    let pin = pin.then(|| Pin::new(text.as_bytes().to_vec().into()).ok()).flatten();
    pin.ok_or_else(|| Refusal::constraint(None, "keyStorePassword", constraint))
}

/// The change from one record of a store to another, with the images of both; `new_pin` stores its PIN too.
pub(crate) fn change(
    judge: &mut Judge<'_>,
    before: Option<&KeyStore>,
    after: KeyStore,
    new_pin: bool,
) -> Result<Effect, Refusal> {
    let root = judge.node.root();
    let row = after.put(new_pin.then_some(&*root)).map_err(|error| {
        tracing::error!(%error, "custom key store cannot be stored");
        Refusal::internal()
    })?;
    judge.record.before = before.map(KeyStore::image);
    judge.record.after = Some(after.image());
    judge.record.response_elements = Some(answered(&after));
    Ok(Effect { changes: vec![row], publish: vec![Publish::KeyStore(Arc::new(after))], ..Effect::default() })
}

/// What an event tells of an answer: the answers themselves are empty but for one.
pub(crate) fn answered(store: &KeyStore) -> Value {
    json!({"customKeyStoreId": *store.id})
}
