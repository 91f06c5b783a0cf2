//! GetKeyLastUsage: when a key was last used, with the id of the event that proves it.

use super::answer::json_body;
use super::drive::{Class, Query};
use super::input::{recorded, required};
use super::judge::Judge;
use super::refusal::Refusal;
use crate::key::epoch_seconds;
use crate::policy::Context;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct GetKeyLastUsage {
    key_id: Option<String>,
}

impl Query for GetKeyLastUsage {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        recorded(self.key_id.as_ref(), Value::Null)
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        let key = judge.key_without_alias(required(&self.key_id, "keyId")?).await?;
        judge.allow_key("kms:GetKeyLastUsage", &key, &Context::default())?;
        let usages = &judge.node.usages;
        // A replica that is made again has the id of the one that was deleted.
        let last = usages.last((key.account, key.id)).filter(|last_use| last_use.at_us >= key.created_us);
        let last_usage = last.map_or_else(
            || json!({}),
            |last_use| {
                json!({
                    "Operation": last_use.operation,
                    "Timestamp": epoch_seconds(last_use.at_us),
                    "CloudTrailEventId": last_use.event_id.to_string(),
                    "KmsRequestId": last_use.request_id.to_string(),
                })
            },
        );
        Ok(json_body(&json!({
            // The id alone: other operations that answer with a `KeyId` give the ARN.
            "KeyId": key.id.to_string(),
            "KeyLastUsage": last_usage,
            "TrackingStartDate": epoch_seconds(usages.since_us.max(key.created_us)),
            "KeyCreationDate": epoch_seconds(key.created_us),
        })))
    }
}
