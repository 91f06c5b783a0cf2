//! DescribeKey: a key's metadata, in any state.

use super::answer::json_body;
use super::drive::{Class, Query};
use super::input::{recorded, required};
use super::judge::Judge;
use super::refusal::Refusal;
use crate::policy::Context;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct DescribeKey {
    key_id: Option<String>,
    grant_tokens: Option<Vec<String>>,
}

impl Query for DescribeKey {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        recorded(self.key_id.as_ref(), Value::Null)
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        let text = required(&self.key_id, "keyId")?;
        judge.grant_tokens(self.grant_tokens.as_ref()).await?;
        let key = judge.key(text).await?;
        let facts = Context { request_alias: alias_of(text), ..Context::default() };
        judge.allow_key("kms:DescribeKey", &key, &facts)?;
        Ok(json_body(&json!({"KeyMetadata": key.metadata()})))
    }
}

/// The alias name in a way to name a key, for `kms:RequestAlias`.
pub(crate) fn alias_of(text: &str) -> Option<&str> {
    text.find("alias/").map(|start| &text[start..])
}
