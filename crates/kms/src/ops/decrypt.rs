//! Decrypt: a symmetric ciphertext says which key, unless the caller insists on one; an RSA ciphertext says nothing.

use super::answer::{Member, secret_body};
use super::drive::{Class, Query};
use super::encrypt::{crypto_facts, fitting, token_refusal, would_work};
use super::input::{Blob, EncryptionContext, checked_context, encryption_algorithm, recorded, required};
use super::judge::{Judge, KEY_ID, usable, wrong_usage};
use super::refusal::{Refusal, RefusalKind};
use crate::crypto::SecretBytes;
use crate::crypto::ciphertext::{self, CIPHERTEXT_BYTES_MAX};
use crate::key::{self, AccountId, KeyId, KeyRecord};
use crate::spec::EncryptionAlgorithm;
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
        let algorithm = self.encryption_algorithm.as_deref().unwrap_or(EncryptionAlgorithm::Symmetric.name());
        recorded(
            self.key_id.as_ref(),
            json!({"encryptionAlgorithm": algorithm, "encryptionContext": self.encryption_context, "dryRun": self.dry_run}),
        )
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        let blob =
            required(&self.ciphertext_blob, "ciphertextBlob")?.checked("ciphertextBlob", CIPHERTEXT_BYTES_MAX)?;
        checked_context(self.encryption_context.as_ref())?;
        let algorithm = encryption_algorithm("encryptionAlgorithm", self.encryption_algorithm.as_deref())?;
        judge.grant_tokens(self.grant_tokens.as_ref()).await?;
        no_recipient(self.recipient.as_ref())?;
        let source =
            Source { blob, algorithm, context: self.encryption_context.as_ref(), key_id: self.key_id.as_ref() };
        let key = source.key(judge, KEY_ID, "kms:Decrypt").await?;
        judge.allow_key("kms:Decrypt", &key, &crypto_facts(algorithm, source.context, self.key_id.as_deref()))?;
        let (plaintext, material_id) = source.open(judge, &key, self.dry_run).await?;
        judge.uses(&key, material_id.clone());
        let arn = key.arn();
        let mut members = vec![
            ("KeyId", Member::Text(&arn)),
            ("Plaintext", Member::Bytes(plaintext.expose())),
            ("EncryptionAlgorithm", Member::Text(algorithm.name())),
        ];
        if let (true, Some(id)) = (key.kind.is_symmetric_encryption(), &material_id) {
            members.push(("KeyMaterialId", Member::Text(id)));
        }
        Ok(secret_body(&members))
    }
}

/// Something encrypted, and how its key was named.
pub(crate) struct Source<'a> {
    pub(crate) blob: &'a [u8],
    pub(crate) algorithm: EncryptionAlgorithm,
    pub(crate) context: Option<&'a EncryptionContext>,
    pub(crate) key_id: Option<&'a String>,
}

impl Source<'_> {
    /// The named key, or the one that a symmetric blob claims to be of. Whether they agree is for `open` to say, to a
    /// caller who may use the key.
    pub(crate) async fn key(
        &self,
        judge: &mut Judge<'_>,
        member: &'static str,
        action: &'static str,
    ) -> Result<Arc<KeyRecord>, Refusal> {
        if self.algorithm == EncryptionAlgorithm::Symmetric {
            let owner = owner_of(judge, self.blob)?;
            let Some(text) = self.key_id else {
                judge.by_ciphertext = Some(action);
                let Some(owner) = owner else { return Err(judge.denied_abroad()) };
                // As at AWS a ciphertext of a key that is gone is answered like one of somebody else's key: "not found"
                // would speak of a key that the caller never named.
                return match judge.key_by_id(member, owner.0, owner.1).await {
                    Err(refusal) if refusal.kind == RefusalKind::NotFound => Err(judge.denied_abroad()),
                    found => found,
                };
            };
            return judge.key_as(member, text).await;
        }
        let Some(text) = self.key_id else {
            let text = "A key ID is required to decrypt with an asymmetric key.";
            return Err(Refusal::new(RefusalKind::Validation, text));
        };
        judge.key_as(member, text).await
    }

    /// Decrypts with a key that the caller may use; gives the id of the material too.
    pub(crate) async fn open(
        &self,
        judge: &Judge<'_>,
        key: &KeyRecord,
        dry_run: Option<bool>,
    ) -> Result<(SecretBytes, Option<String>), Refusal> {
        let symmetric = self.algorithm == EncryptionAlgorithm::Symmetric;
        if symmetric && owner_of(judge, self.blob)? != Some((key.account, key.id)) {
            let text = "The key ID in the request does not identify a CMK that can perform this operation.";
            return Err(Refusal::new(RefusalKind::IncorrectKey, text));
        }
        let usable = usable(judge, key)?;
        fitting(judge, key, self.algorithm, self.context)?;
        would_work(dry_run)?;
        let damaged = |_| Refusal::bare(RefusalKind::InvalidCiphertext);
        if let Some(symmetric) = usable.symmetric() {
            let none = EncryptionContext::new();
            let plaintext = symmetric.decrypt(self.blob, self.context.unwrap_or(&none)).map_err(damaged)?;
            return Ok((plaintext, material_of(self.blob)));
        }
        if let Some(token) = usable.in_token() {
            let none = EncryptionContext::new();
            let opened = token.decrypt(self.blob, self.context.unwrap_or(&none)).await;
            return Ok((opened.map_err(|error| token_refusal(key, &error))?, None));
        }
        let rsa = usable.decrypting().ok_or_else(|| wrong_usage(judge, key))?;
        Ok((rsa.decrypt(self.algorithm, self.blob).map_err(damaged)?, key.material_id()))
    }
}

/// The material that a blob, which has been opened, names.
fn material_of(blob: &[u8]) -> Option<String> {
    ciphertext::parse_header(blob).ok()?.material_id.map(|id| id.to_string())
}

/// The key that a blob claims to be of: of a multi-Region key the related key in this region. None for a blob of another
/// region, which is answered like one of somebody else's key.
fn owner_of(judge: &Judge<'_>, blob: &[u8]) -> Result<Option<(AccountId, KeyId)>, Refusal> {
    let owner = ciphertext::parse_header(blob).ok().and_then(|header| {
        let id = KeyId::parse(header.key_id, judge.region())?;
        let account = AccountId::parse(header.account)?;
        Some((header.region == key::scope(&id)).then_some((account, id)))
    });
    owner.ok_or_else(|| Refusal::bare(RefusalKind::InvalidCiphertext))
}

/// Attested callers are not supported, and must not get plaintext in clear by mistake.
pub(crate) fn no_recipient(recipient: Option<&Value>) -> Result<(), Refusal> {
    match recipient {
        None | Some(Value::Null) => Ok(()),
        Some(_) => Err(Refusal::new(RefusalKind::UnsupportedOperation, "Recipient is not supported by this node.")),
    }
}
