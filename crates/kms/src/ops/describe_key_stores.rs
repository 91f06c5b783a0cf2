//! DescribeCustomKeyStores: the custom key stores of the account in the region, and what their connections have come to.

use super::answer::json_body;
use super::drive::{Class, Query};
use super::input::{Page, recorded};
use super::judge::Judge;
use super::key_store::{found, of_caller, recorded_id, recorded_name};
use super::refusal::{Refusal, RefusalKind};
use crate::key::epoch_seconds;
use crate::key_store::KeyStore;
use crate::policy::Context;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct DescribeCustomKeyStores {
    custom_key_store_id: Option<String>,
    custom_key_store_name: Option<String>,
    limit: Option<i64>,
    marker: Option<String>,
}

impl Query for DescribeCustomKeyStores {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        recorded(
            None,
            json!({
                "customKeyStoreId": self.custom_key_store_id.as_deref().map(recorded_id),
                "customKeyStoreName": self.custom_key_store_name.as_deref().map(recorded_name),
                "limit": self.limit,
            }),
        )
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        let page = Page::parse(self.limit, self.marker.as_deref(), 100, 1_000)?;
        judge.allow_account("kms:DescribeCustomKeyStores", &Context::default())?;
        let mut stores = self.wanted(judge)?;
        if let Some(after) = &page.after {
            stores.retain(|store| *store.id > **after);
        }
        let truncated = stores.len() > page.limit;
        stores.truncate(page.limit);
        let listed: Vec<Value> = stores.iter().map(|store| entry(store)).collect();
        let mut answer = json!({"CustomKeyStores": listed, "Truncated": truncated});
        if let (true, Some(last)) = (truncated, stores.last()) {
            answer["NextMarker"] = Page::marker(&last.id).into();
        }
        Ok(json_body(&answer))
    }
}

impl DescribeCustomKeyStores {
    /// The one that is named, or all, in order of id.
    fn wanted(&self, judge: &Judge<'_>) -> Result<Vec<Arc<KeyStore>>, Refusal> {
        let mut stores = match (&self.custom_key_store_id, &self.custom_key_store_name) {
            (Some(_), Some(_)) => {
                let text = "CustomKeyStoreId and CustomKeyStoreName cannot both be given.";
                return Err(Refusal::new(RefusalKind::Validation, text));
            }
            (Some(id), None) => return Ok(vec![found(judge, id)?]),
            (None, _) => of_caller(judge),
        };
        if let Some(name) = &self.custom_key_store_name {
            stores.retain(|store| store.body.name == *name);
            if stores.is_empty() {
                let text = "No custom key store has this name.";
                return Err(Refusal::new(RefusalKind::CustomKeyStoreNotFound, text));
            }
        }
        Ok(stores)
    }
}

fn entry(store: &KeyStore) -> Value {
    let (state, error) = store.link.shown();
    let mut entry = json!({
        "CustomKeyStoreId": *store.id,
        "CustomKeyStoreName": store.body.name,
        "CustomKeyStoreType": "AWS_CLOUDHSM",
        "CloudHsmClusterId": store.body.cluster,
        "TrustAnchorCertificate": store.body.trust_anchor,
        "ConnectionState": state,
        "CreationDate": epoch_seconds(store.body.created_us),
    });
    if let Some(error) = error {
        entry["ConnectionErrorCode"] = error.into();
    }
    entry
}
