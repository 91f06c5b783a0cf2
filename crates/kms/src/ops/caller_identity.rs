//! STS GetCallerIdentity: who the access key belongs to. No policy can forbid it, as at AWS.

use super::answer::json_body;
use super::drive::{Class, Query};
use super::judge::Judge;
use super::refusal::Refusal;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
pub(crate) struct GetCallerIdentity {}

impl Query for GetCallerIdentity {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        None
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        let caller = judge.caller()?;
        let user_id = caller.identity.principal_id.as_deref().unwrap_or_default();
        Ok(json_body(&json!({"UserId": user_id, "Account": caller.account.as_str(), "Arn": caller.arn})))
    }
}
