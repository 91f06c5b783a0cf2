//! CreateCustomKeyStore: a token of the configuration becomes a place for KMS keys; nothing is connected yet.

use super::answer::json_body;
use super::drive::{Effect, Mutation};
use super::input::{SecretText, member_of, recorded, required};
use super::judge::Judge;
use super::key_store::{change, checked_cluster, checked_name, checked_password, key_stores_stripe};
use super::key_store::{not_external, of_caller, recorded_id, recorded_name};
use super::refusal::{Refusal, RefusalKind};
use crate::key_store::{Body, KeyStore, STORES_MAX};
use crate::locks::Stripe;
use crate::policy::Context;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const ANCHOR_CHARS_MAX: usize = 5_000;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CreateCustomKeyStore {
    custom_key_store_name: Option<String>,
    cloud_hsm_cluster_id: Option<String>,
    trust_anchor_certificate: Option<String>,
    key_store_password: Option<SecretText>,
    custom_key_store_type: Option<String>,
    xks_proxy_uri_endpoint: Option<IgnoredAny>,
    xks_proxy_uri_path: Option<IgnoredAny>,
    xks_proxy_vpc_endpoint_service_name: Option<IgnoredAny>,
    xks_proxy_vpc_endpoint_service_owner: Option<IgnoredAny>,
    xks_proxy_authentication_credential: Option<IgnoredAny>,
    xks_proxy_connectivity: Option<IgnoredAny>,
}

impl Mutation for CreateCustomKeyStore {
    fn parameters(&self) -> Option<Value> {
        recorded(
            None,
            json!({
                "customKeyStoreName": self.custom_key_store_name.as_deref().map(recorded_name),
                "customKeyStoreType": self.custom_key_store_type.as_deref().map(recorded_id),
                "cloudHsmClusterId": self.cloud_hsm_cluster_id.as_deref().map(recorded_id),
            }),
        )
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        BTreeSet::from([key_stores_stripe(judge.node)])
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let name = required(&self.custom_key_store_name, "customKeyStoreName")?;
        self.supported()?;
        let cluster = required(&self.cloud_hsm_cluster_id, "cloudHsmClusterId")?;
        let anchor = required(&self.trust_anchor_certificate, "trustAnchorCertificate")?;
        let pin = checked_password(required(&self.key_store_password, "keyStorePassword")?)?;
        judge.allow_account("kms:CreateCustomKeyStore", &Context::default())?;
        checked_name(judge, name, None, "customKeyStoreName")?;
        checked_cluster(judge, cluster, None)?;
        checked_anchor(judge, cluster, anchor)?;
        let (account, region) = (judge.account(), judge.region());
        if of_caller(judge).len() >= STORES_MAX {
            let text = "The account has as many custom key stores as it can have.";
            return Err(Refusal::new(RefusalKind::LimitExceeded, text));
        }
        let id = format!("cks-{}", &hex::encode(judge.node.random::<9>())[..17]);
        let body = Body {
            name: name.clone(),
            cluster: cluster.clone(),
            trust_anchor: anchor.clone(),
            created_us: judge.judged_at_us,
            wanted: false,
            pin_refused: false,
        };
        let answer = json!({"CustomKeyStoreId": id});
        let effect = change(judge, None, KeyStore::new((account, region, id), body, pin), true)?;
        Ok(Effect { body: json_body(&answer), ..effect })
    }
}

impl CreateCustomKeyStore {
    /// External key stores, and what belongs to them, are not here.
    fn supported(&self) -> Result<(), Refusal> {
        let kind = self.custom_key_store_type.as_deref().unwrap_or("AWS_CLOUDHSM");
        member_of("customKeyStoreType", kind, &["AWS_CLOUDHSM"], |kind| kind, &["EXTERNAL_KEY_STORE"])?;
        not_external([
            &self.xks_proxy_uri_endpoint,
            &self.xks_proxy_uri_path,
            &self.xks_proxy_vpc_endpoint_service_name,
            &self.xks_proxy_vpc_endpoint_service_owner,
            &self.xks_proxy_authentication_credential,
            &self.xks_proxy_connectivity,
        ])
    }
}

/// Whoever sets up a store must know the certificate that the configuration has for the cluster.
fn checked_anchor(judge: &Judge<'_>, cluster: &str, anchor: &str) -> Result<(), Refusal> {
    if anchor.is_empty() || anchor.chars().count() > ANCHOR_CHARS_MAX {
        let constraint = "Member must have length between 1 and 5000";
        return Err(Refusal::constraint(None, "trustAnchorCertificate", constraint));
    }
    let known = judge.node.trust_anchors.get(cluster);
    if known.is_some_and(|known| known.trim() != anchor.trim()) {
        let text = format!("The trust anchor certificate is not that of the cluster {cluster}.");
        return Err(Refusal::new(RefusalKind::IncorrectTrustAnchor, text));
    }
    Ok(())
}
