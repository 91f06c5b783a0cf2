//! Decrypt: the ciphertext says which key, unless the caller insists on one.

use super::answer::data_key_body;
use super::drive::{Class, Query};
use super::encrypt::{crypto_facts, would_work};
use super::input::{
    Blob, EncryptionContext, checked_context, no_grant_tokens, recorded, required, symmetric_algorithm,
};
use super::judge::{Judge, usable};
use super::refusal::{Refusal, RefusalKind};
use crate::crypto::ciphertext::{self, CIPHERTEXT_BYTES_MAX};
use crate::key::{AccountId, KeyId, KeyRecord, SPEC_SYMMETRIC};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Decrypt {
    key_id: Option<String>,
    ciphertext_blob: Option<Blob>,
    encryption_context: Option<EncryptionContext>,
    grant_tokens: Option<Vec<String>>,
    encryption_algorithm: Option<String>,
    recipient: Option<Value>,
    dry_run: Option<bool>,
}

impl Query for Decrypt {
    const CLASS: Class = Class::Crypto;

    fn parameters(&self) -> Option<Value> {
        let algorithm = self.encryption_algorithm.as_deref().unwrap_or(SPEC_SYMMETRIC);
        recorded(
            self.key_id.as_ref(),
            json!({"encryptionAlgorithm": algorithm, "encryptionContext": self.encryption_context, "dryRun": self.dry_run}),
        )
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        let blob =
            required(&self.ciphertext_blob, "ciphertextBlob")?.checked("ciphertextBlob", CIPHERTEXT_BYTES_MAX)?;
        checked_context(self.encryption_context.as_ref())?;
        symmetric_algorithm(self.encryption_algorithm.as_deref())?;
        no_grant_tokens(self.grant_tokens.as_ref())?;
        no_recipient(self.recipient.as_ref())?;
        let owner = owner_of(judge, blob)?;
        let key = self.key(judge, owner).await?;
        judge.allow_key(
            "kms:Decrypt",
            &key,
            &crypto_facts(self.encryption_context.as_ref(), self.key_id.as_deref()),
        )?;
        let region = &judge.node.region;
        let usable = usable(&key, region)?;
        would_work(self.dry_run)?;
        let none = EncryptionContext::new();
        let context = self.encryption_context.as_ref().unwrap_or(&none);
        let plaintext = usable.decrypt(blob, context).map_err(|_| Refusal::bare(RefusalKind::InvalidCiphertext))?;
        judge.record.key_material_id = Some(key.material_id());
        Ok(data_key_body(&key.arn(region), Some(&plaintext), None))
    }
}

impl Decrypt {
    /// The named key, which must then be the ciphertext's, or the ciphertext's.
    async fn key(&self, judge: &mut Judge<'_>, owner: (AccountId, KeyId)) -> Result<Arc<KeyRecord>, Refusal> {
        let Some(text) = &self.key_id else {
            // A blob that names a key nobody has is a damaged blob; saying "not found" would speak of a key the caller
            // never named.
            return judge.key_by_id(owner.0, owner.1).await.map_err(|refusal| match refusal.kind {
                RefusalKind::NotFound => Refusal::bare(RefusalKind::InvalidCiphertext),
                _ => refusal,
            });
        };
        let key = judge.key(text).await?;
        if (key.account, key.id) != owner {
            // The caller may know that it is another key only if it may use the one it named.
            judge.allow_key("kms:Decrypt", &key, &crypto_facts(self.encryption_context.as_ref(), Some(text)))?;
            let text = "The key ID in the request does not identify a CMK that can perform this operation.";
            return Err(Refusal::new(RefusalKind::IncorrectKey, text));
        }
        Ok(key)
    }
}

/// The key that a blob claims to be of. A blob of another region is none of ours.
fn owner_of(judge: &Judge<'_>, blob: &[u8]) -> Result<(AccountId, KeyId), Refusal> {
    let header = ciphertext::parse_header(blob).ok().filter(|header| header.region == judge.node.region);
    let owner = header.and_then(|header| Some((AccountId::parse(header.account)?, KeyId::parse(header.key_id)?)));
    owner.ok_or_else(|| Refusal::bare(RefusalKind::InvalidCiphertext))
}

/// Attested callers are not supported, and must not get plaintext in clear by mistake.
pub(crate) fn no_recipient(recipient: Option<&Value>) -> Result<(), Refusal> {
    match recipient {
        None | Some(Value::Null) => Ok(()),
        Some(_) => Err(Refusal::new(RefusalKind::UnsupportedOperation, "Recipient is not supported by this node.")),
    }
}
