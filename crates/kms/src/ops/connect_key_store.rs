//! ConnectCustomKeyStore and DisconnectCustomKeyStore, and the login to the token that the first asks for.
//!
//! As at AWS the call only says what is wanted; what it comes to is told by DescribeCustomKeyStores and by an event of its
//! own. A PIN that the token refused is stored as refused: no restart tries it again.

use super::answer::json_body;
use super::drive::{Effect, Mutation};
use super::input::{recorded, required};
use super::internal::carry_internal;
use super::judge::Judge;
use super::key_store::{change, found, key_stores_stripe, recorded_id, wrong_state};
use super::refusal::Refusal;
use crate::hsm::HsmError;
use crate::key_store::{Body, Connection, KeyStore, error_code};
use crate::locks::Stripe;
use crate::node::Node;
use crate::policy::Context;
use crate::registry::Publish;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ConnectCustomKeyStore {
    custom_key_store_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct DisconnectCustomKeyStore {
    custom_key_store_id: Option<String>,
}

/// What these calls record: the store that is named.
pub(super) fn parameters(id: Option<&String>) -> Option<Value> {
    recorded(None, json!({"customKeyStoreId": id.map(|id| recorded_id(id))}))
}

impl Mutation for ConnectCustomKeyStore {
    fn parameters(&self) -> Option<Value> {
        parameters(self.custom_key_store_id.as_ref())
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        BTreeSet::from([key_stores_stripe(judge.node)])
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let id = required(&self.custom_key_store_id, "customKeyStoreId")?;
        judge.allow_account("kms:ConnectCustomKeyStore", &Context::default())?;
        let store = found(judge, id)?;
        if store.link.shown().0 == "FAILED" {
            return Err(wrong_state(&store));
        }
        want(judge, &store, true)
    }
}

impl Mutation for DisconnectCustomKeyStore {
    fn parameters(&self) -> Option<Value> {
        parameters(self.custom_key_store_id.as_ref())
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        BTreeSet::from([key_stores_stripe(judge.node)])
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let id = required(&self.custom_key_store_id, "customKeyStoreId")?;
        judge.allow_account("kms:DisconnectCustomKeyStore", &Context::default())?;
        let store = found(judge, id)?;
        if store.link.shown().0 == "DISCONNECTED" {
            return Err(wrong_state(&store));
        }
        want(judge, &store, false)
    }
}

fn want(judge: &mut Judge<'_>, store: &KeyStore, wanted: bool) -> Result<Effect, Refusal> {
    let after = store.with_body(Body { wanted, ..store.body.clone() });
    Ok(Effect { body: json_body(&json!({})), ..change(judge, Some(store), after, false)? })
}

/// Logs in to the token of a store, records what that came to, and only then lets the store's keys be used.
pub(crate) async fn connect(node: Arc<Node>, store: Arc<KeyStore>, attempt: u64) {
    let opened = match node.clusters.get(&store.body.cluster) {
        Some(cluster) => Connection::open(cluster.address(), Arc::clone(&store.pin)).await.map_err(|error| {
            tracing::error!(id = %store.id, error = %crate::service::chain(&error), "custom key store not connected");
            (error_code(&error), matches!(error, HsmError::WrongPin { .. }))
        }),
        None => Err(("CLUSTER_NOT_FOUND", false)),
    };
    let held = node.locks.hold(&BTreeSet::from([key_stores_stripe(&node)])).await;
    let now = node.registry.key_store(store.account, store.region, &store.id);
    let Some(now) = now.filter(|now| now.link.awaits(attempt)) else { return };
    let (outcome, refused) = match opened {
        Ok(connection) => (Ok(connection), false),
        Err((code, refused)) => (Err(code), refused),
    };
    let recorded = record(&node, held, &now, outcome.as_ref().err().copied(), refused).await;
    store.link.settle(attempt, if recorded { outcome } else { Err("INTERNAL_ERROR") });
}

/// Records that the token of a connected store does not answer any more, or does again. Until then its keys are unavailable.
pub(crate) async fn note(node: Arc<Node>, store: Arc<KeyStore>) {
    let held = node.locks.hold(&BTreeSet::from([key_stores_stripe(&node)])).await;
    let Some(now) = node.registry.key_store(store.account, store.region, &store.id) else { return };
    let error = match now.link.shown() {
        ("FAILED", Some(error)) => Some(error),
        ("CONNECTED", _) => None,
        _ => return,
    };
    tracing::error!(id = %now.id, error = error.unwrap_or("none any more"), "custom key store does not answer");
    if !record(&node, held, &now, error, now.body.pin_refused).await {
        tracing::error!(id = %now.id, "state of a custom key store is not recorded");
    }
}

async fn record(
    node: &Arc<Node>,
    held: crate::locks::Held,
    store: &KeyStore,
    error: Option<&'static str>,
    pin_refused: bool,
) -> bool {
    let mut parameters = json!({
        "customKeyStoreId": *store.id, "account": store.account.as_str(), "region": store.region.as_str(),
        "cloudHsmClusterId": store.body.cluster,
        "connectionState": if error.is_some() { "FAILED" } else { "CONNECTED" },
    });
    if let Some(error) = error {
        parameters["connectionErrorCode"] = error.into();
    }
    let after = store.with_body(Body { pin_refused, ..store.body.clone() });
    let Ok(row) = after.put(None) else { return false };
    let publish = vec![Publish::KeyStore(Arc::new(after))];
    let effect = Effect { changes: vec![row], publish, ..Effect::default() };
    carry_internal(node, held, "SettleCustomKeyStoreConnection", parameters, effect).await.is_ok()
}
