//! Encrypt: up to 4,096 bytes under a key, bound to an encryption context.

use super::answer::json_body;
use super::describe_key::alias_of;
use super::drive::{Class, Query};
use super::input::{
    Blob, EncryptionContext, checked_context, no_grant_tokens, recorded, required, symmetric_algorithm,
};
use super::judge::{Judge, usable};
use super::refusal::{Refusal, RefusalKind};
use crate::crypto::ciphertext::PLAINTEXT_BYTES_MAX;
use crate::key::{KeyRecord, SPEC_SYMMETRIC};
use crate::policy::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Encrypt {
    key_id: Option<String>,
    plaintext: Option<Blob>,
    encryption_context: Option<EncryptionContext>,
    grant_tokens: Option<Vec<String>>,
    encryption_algorithm: Option<String>,
    dry_run: Option<bool>,
}

impl Query for Encrypt {
    const CLASS: Class = Class::Crypto;

    fn parameters(&self) -> Option<Value> {
        let algorithm = self.encryption_algorithm.as_deref().unwrap_or(SPEC_SYMMETRIC);
        recorded(
            self.key_id.as_ref(),
            json!({"encryptionAlgorithm": algorithm, "encryptionContext": self.encryption_context, "dryRun": self.dry_run}),
        )
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        let text = required(&self.key_id, "keyId")?;
        let plaintext = required(&self.plaintext, "plaintext")?.checked("plaintext", PLAINTEXT_BYTES_MAX)?;
        checked_context(self.encryption_context.as_ref())?;
        symmetric_algorithm(self.encryption_algorithm.as_deref())?;
        no_grant_tokens(self.grant_tokens.as_ref())?;
        let key = judge.key(text).await?;
        let facts = crypto_facts(self.encryption_context.as_ref(), Some(text));
        judge.allow_key("kms:Encrypt", &key, &facts)?;
        let blob = seal(judge, &key, plaintext, self.encryption_context.as_ref(), self.dry_run)?;
        Ok(json_body(&json!({
            "CiphertextBlob": STANDARD.encode(blob),
            "KeyId": key.arn(&judge.node.region),
            "EncryptionAlgorithm": SPEC_SYMMETRIC,
        })))
    }
}

/// What policies may ask about a cryptographic call.
pub(crate) fn crypto_facts<'a>(context: Option<&'a EncryptionContext>, named: Option<&'a str>) -> Context<'a> {
    Context {
        encryption_context: context,
        encryption_algorithm: Some(SPEC_SYMMETRIC),
        request_alias: named.and_then(alias_of),
        ..Context::default()
    }
}

/// Encrypts under a key whose state allows it, unless the caller only wanted to know.
pub(crate) fn seal(
    judge: &mut Judge<'_>,
    key: &KeyRecord,
    plaintext: &[u8],
    context: Option<&EncryptionContext>,
    dry_run: Option<bool>,
) -> Result<Vec<u8>, Refusal> {
    let region = &judge.node.region;
    let usable = usable(key, region)?;
    would_work(dry_run)?;
    judge.record.key_material_id = Some(key.material_id());
    let none = EncryptionContext::new();
    usable.encrypt(region, plaintext, context.unwrap_or(&none)).map_err(|error| {
        tracing::error!(key_id = %key.id, %error, "encryption failed");
        Refusal::internal()
    })
}

/// A dry run ends where the effect would begin.
pub(crate) fn would_work(dry_run: Option<bool>) -> Result<(), Refusal> {
    if dry_run == Some(true) {
        return Err(Refusal::new(
            RefusalKind::DryRun,
            "The request would have succeeded, but the DryRun option is set.",
        ));
    }
    Ok(())
}
