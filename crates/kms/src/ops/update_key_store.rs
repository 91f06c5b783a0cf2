//! UpdateCustomKeyStore: another name, PIN or cluster; and DeleteCustomKeyStore. Both only while it is disconnected.

use super::answer::json_body;
use super::connect_key_store::parameters;
use super::drive::{Effect, Mutation};
use super::input::{SecretText, recorded, required};
use super::judge::Judge;
use super::key_store::{answered, change, checked_cluster, checked_name, checked_password, disconnected, found};
use super::key_store::{key_stores_stripe, not_external, recorded_id, recorded_name};
use super::refusal::{Refusal, RefusalKind};
use crate::locks::Stripe;
use crate::policy::Context;
use crate::registry::Publish;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct UpdateCustomKeyStore {
    custom_key_store_id: Option<String>,
    new_custom_key_store_name: Option<String>,
    key_store_password: Option<SecretText>,
    cloud_hsm_cluster_id: Option<String>,
    xks_proxy_uri_endpoint: Option<IgnoredAny>,
    xks_proxy_uri_path: Option<IgnoredAny>,
    xks_proxy_vpc_endpoint_service_name: Option<IgnoredAny>,
    xks_proxy_vpc_endpoint_service_owner: Option<IgnoredAny>,
    xks_proxy_authentication_credential: Option<IgnoredAny>,
    xks_proxy_connectivity: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct DeleteCustomKeyStore {
    custom_key_store_id: Option<String>,
}

impl Mutation for UpdateCustomKeyStore {
    fn parameters(&self) -> Option<Value> {
        recorded(
            None,
            json!({
                "customKeyStoreId": self.custom_key_store_id.as_deref().map(recorded_id),
                "newCustomKeyStoreName": self.new_custom_key_store_name.as_deref().map(recorded_name),
                "cloudHsmClusterId": self.cloud_hsm_cluster_id.as_deref().map(recorded_id),
                // That there is one, and not which.
                "keyStorePasswordGiven": self.key_store_password.as_ref().map(|_| true),
            }),
        )
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        BTreeSet::from([key_stores_stripe(judge.node)])
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let id = required(&self.custom_key_store_id, "customKeyStoreId")?;
        not_external([
            &self.xks_proxy_uri_endpoint,
            &self.xks_proxy_uri_path,
            &self.xks_proxy_vpc_endpoint_service_name,
            &self.xks_proxy_vpc_endpoint_service_owner,
            &self.xks_proxy_authentication_credential,
            &self.xks_proxy_connectivity,
        ])?;
        let pin = self.key_store_password.as_ref().map(checked_password).transpose()?;
        judge.allow_account("kms:UpdateCustomKeyStore", &Context::default())?;
        let store = found(judge, id)?;
        disconnected(&store)?;
        let mut body = store.body.clone();
        if let Some(name) = &self.new_custom_key_store_name {
            checked_name(judge, name, Some(&store.id), "newCustomKeyStoreName")?;
            body.name.clone_from(name);
        }
        if let Some(cluster) = &self.cloud_hsm_cluster_id {
            checked_cluster(judge, cluster, Some(&store.id))?;
            body.cluster.clone_from(cluster);
        }
        let new_pin = pin.is_some();
        body.pin_refused &= !new_pin;
        let mut after = store.with_body(body);
        if let Some(pin) = pin {
            after.pin = Arc::new(pin);
        }
        Ok(Effect { body: json_body(&json!({})), ..change(judge, Some(&store), after, new_pin)? })
    }
}

impl Mutation for DeleteCustomKeyStore {
    fn parameters(&self) -> Option<Value> {
        parameters(self.custom_key_store_id.as_ref())
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        BTreeSet::from([key_stores_stripe(judge.node)])
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let id = required(&self.custom_key_store_id, "customKeyStoreId")?;
        judge.allow_account("kms:DeleteCustomKeyStore", &Context::default())?;
        let store = found(judge, id)?;
        if judge.node.registry.has_keys(&store) {
            let text = format!("The custom key store {id} has KMS keys.");
            return Err(Refusal::new(RefusalKind::CustomKeyStoreHasCmks, text));
        }
        disconnected(&store)?;
        judge.record.before = Some(store.image());
        judge.record.response_elements = Some(answered(&store));
        let gone = Publish::NoKeyStore(store.account, store.region, Arc::clone(&store.id));
        let body = json_body(&json!({}));
        Ok(Effect { body, changes: vec![store.delete()], publish: vec![gone], ..Effect::default() })
    }
}
