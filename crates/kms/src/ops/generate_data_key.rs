//! GenerateDataKey and GenerateDataKeyWithoutPlaintext: a fresh key for the caller, with itself under a KMS key.

use super::answer::{Member, secret_body};
use super::decrypt::no_recipient;
use super::drive::{Class, Query};
use super::encrypt::{Sealing, crypto_facts};
use super::input::{EncryptionContext, checked_context, recorded, required};
use super::judge::Judge;
use super::refusal::{Refusal, RefusalKind};
use crate::crypto::SecretBytes;
use crate::spec::EncryptionAlgorithm;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

const LENGTH_MAX: i64 = 1_024;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Input {
    key_id: Option<String>,
    encryption_context: Option<EncryptionContext>,
    number_of_bytes: Option<i64>,
    key_spec: Option<String>,
    grant_tokens: Option<Vec<String>>,
    recipient: Option<Value>,
    dry_run: Option<bool>,
}

#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct GenerateDataKey(Input);

#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct GenerateDataKeyWithoutPlaintext(Input);

impl Query for GenerateDataKey {
    const CLASS: Class = Class::Crypto;

    fn parameters(&self) -> Option<Value> {
        self.0.parameters()
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        self.0.run(judge, "kms:GenerateDataKey", true).await
    }
}

impl Query for GenerateDataKeyWithoutPlaintext {
    const CLASS: Class = Class::Crypto;

    fn parameters(&self) -> Option<Value> {
        self.0.parameters()
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        self.0.run(judge, "kms:GenerateDataKeyWithoutPlaintext", false).await
    }
}

impl Input {
    fn parameters(&self) -> Option<Value> {
        recorded(
            self.key_id.as_ref(),
            json!({
                "keySpec": self.key_spec,
                "numberOfBytes": self.number_of_bytes,
                "encryptionContext": self.encryption_context,
                "dryRun": self.dry_run,
            }),
        )
    }

    async fn run(&self, judge: &mut Judge<'_>, action: &str, with_plaintext: bool) -> Result<Bytes, Refusal> {
        let text = required(&self.key_id, "keyId")?;
        let length = self.length()?;
        checked_context(self.encryption_context.as_ref())?;
        judge.grant_tokens(self.grant_tokens.as_ref()).await?;
        no_recipient(self.recipient.as_ref())?;
        let key = judge.key(text).await?;
        let (algorithm, context) = (EncryptionAlgorithm::Symmetric, self.encryption_context.as_ref());
        judge.allow_key(action, &key, &crypto_facts(algorithm, context, Some(text)))?;
        let data_key = SecretBytes::random(length).map_err(|_| Refusal::internal())?;
        let sealing = Sealing { algorithm, context, dry_run: self.dry_run };
        let blob = sealing.seal(judge, &key, data_key.expose()).await?;
        let (arn, material_id) = (key.arn(), key.material_id());
        let mut members = vec![("CiphertextBlob", Member::Bytes(&blob))];
        if with_plaintext {
            members.push(("Plaintext", Member::Bytes(data_key.expose())));
        }
        members.push(("KeyId", Member::Text(&arn)));
        members.extend(material_id.as_deref().map(|id| ("KeyMaterialId", Member::Text(id))));
        Ok(secret_body(&members))
    }

    fn length(&self) -> Result<usize, Refusal> {
        match (self.key_spec.as_deref(), self.number_of_bytes) {
            (Some("AES_256"), None) => Ok(32),
            (Some("AES_128"), None) => Ok(16),
            (Some(other), None) => {
                let constraint = "Member must satisfy enum value set: [AES_256, AES_128]";
                Err(Refusal::constraint(Some(other), "keySpec", constraint))
            }
            (None, Some(length)) => {
                usize::try_from(length).ok().filter(|_| (1..=LENGTH_MAX).contains(&length)).ok_or_else(|| {
                    let (side, bound) = if length < 1 { ("greater", 1) } else { ("less", LENGTH_MAX) };
                    let constraint = format!("Member must have value {side} than or equal to {bound}");
                    Refusal::constraint(Some(&length.to_string()), "numberOfBytes", &constraint)
                })
            }
            (None, None) | (Some(_), Some(_)) => {
                Err(Refusal::new(RefusalKind::Validation, "Please specify either number of bytes or key spec."))
            }
        }
    }
}
