//! GetPublicKey: the public half of an asymmetric key, for use outside of the service.

use super::answer::json_body;
use super::describe_key::alias_of;
use super::drive::{Class, Query};
use super::input::{recorded, required};
use super::judge::{Judge, usable};
use super::refusal::{Refusal, RefusalKind};
use crate::policy::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct GetPublicKey {
    key_id: Option<String>,
    grant_tokens: Option<Vec<String>>,
}

impl Query for GetPublicKey {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        recorded(self.key_id.as_ref(), Value::Null)
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        let text = required(&self.key_id, "keyId")?;
        judge.grant_tokens(self.grant_tokens.as_ref()).await?;
        let key = judge.key(text).await?;
        let facts = Context { request_alias: alias_of(text), ..Context::default() };
        judge.allow_key("kms:GetPublicKey", &key, &facts)?;
        let (arn, kind) = (key.arn(), key.kind);
        let usable = usable(judge, &key)?;
        let Some(public_key) = usable.public_key() else {
            return Err(Refusal::bare(RefusalKind::UnsupportedOperation));
        };
        let public_key = public_key.map_err(|error| {
            tracing::error!(key_id = %key.id, %error, "public key cannot be written");
            Refusal::internal()
        })?;
        let mut answer = json!({
            "KeyId": arn,
            "PublicKey": STANDARD.encode(public_key),
            "CustomerMasterKeySpec": kind.spec.name(),
            "KeySpec": kind.spec.name(),
            "KeyUsage": kind.usage.name(),
        });
        for (name, algorithms) in kind.algorithm_lists() {
            answer[name] = algorithms.into();
        }
        Ok(json_body(&answer))
    }
}
