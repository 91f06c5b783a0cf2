//! GenerateRandom: bytes from the node's random source.

use super::answer::{Member, secret_body};
use super::decrypt::no_recipient;
use super::drive::{Class, Query};
use super::input::recorded;
use super::judge::Judge;
use super::refusal::{Refusal, RefusalKind};
use crate::crypto::SecretBytes;
use crate::policy::Context;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

const LENGTH_MAX: i64 = 1_024;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct GenerateRandom {
    number_of_bytes: Option<i64>,
    custom_key_store_id: Option<String>,
    recipient: Option<Value>,
}

impl Query for GenerateRandom {
    const CLASS: Class = Class::Crypto;

    fn parameters(&self) -> Option<Value> {
        recorded(None, json!({"numberOfBytes": self.number_of_bytes}))
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        let length = self.number_of_bytes.ok_or_else(|| {
            let text = "NumberOfBytes is required.";
            Refusal::new(RefusalKind::Validation, text)
        })?;
        let length = usize::try_from(length).ok().filter(|_| (1..=LENGTH_MAX).contains(&length)).ok_or_else(|| {
            let (side, bound) = if length < 1 { ("greater", 1) } else { ("less", LENGTH_MAX) };
            let constraint = format!("Member must have value {side} than or equal to {bound}");
            Refusal::constraint(Some(&length.to_string()), "numberOfBytes", &constraint)
        })?;
        no_recipient(self.recipient.as_ref())?;
        if self.custom_key_store_id.is_some() {
            let text = "Custom key stores are not supported by this node.";
            return Err(Refusal::new(RefusalKind::UnsupportedOperation, text));
        }
        judge.allow_account("kms:GenerateRandom", &Context::default())?;
        let bytes = SecretBytes::random(length).map_err(|_| Refusal::internal())?;
        Ok(secret_body(&[("Plaintext", Member::Bytes(bytes.expose()))]))
    }
}
