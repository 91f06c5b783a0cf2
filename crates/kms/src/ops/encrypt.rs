//! Encrypt: up to 4,096 bytes under a symmetric key, bound to an encryption context, or less under an RSA key's public
//! half.

use super::answer::json_body;
use super::describe_key::alias_of;
use super::drive::{Class, Query};
use super::input::{Blob, EncryptionContext, checked_context, encryption_algorithm, recorded, required};
use super::judge::{Judge, usable, wrong_algorithm, wrong_usage};
use super::refusal::{Refusal, RefusalKind};
use crate::crypto::CryptoFailure;
use crate::crypto::ciphertext::PLAINTEXT_BYTES_MAX;
use crate::hsm::HsmError;
use crate::key::KeyRecord;
use crate::policy::Context;
use crate::spec::EncryptionAlgorithm;
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
        let algorithm = self.encryption_algorithm.as_deref().unwrap_or(EncryptionAlgorithm::Symmetric.name());
        recorded(
            self.key_id.as_ref(),
            json!({"encryptionAlgorithm": algorithm, "encryptionContext": self.encryption_context, "dryRun": self.dry_run}),
        )
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        let text = required(&self.key_id, "keyId")?;
        let plaintext = required(&self.plaintext, "plaintext")?.checked("plaintext", PLAINTEXT_BYTES_MAX)?;
        checked_context(self.encryption_context.as_ref())?;
        let algorithm = encryption_algorithm("encryptionAlgorithm", self.encryption_algorithm.as_deref())?;
        judge.grant_tokens(self.grant_tokens.as_ref()).await?;
        let key = judge.key(text).await?;
        let facts = crypto_facts(algorithm, self.encryption_context.as_ref(), Some(text));
        judge.allow_key("kms:Encrypt", &key, &facts)?;
        let sealing = Sealing { algorithm, context: self.encryption_context.as_ref(), dry_run: self.dry_run };
        let blob = sealing.seal(judge, &key, plaintext).await?;
        Ok(json_body(&json!({
            "CiphertextBlob": STANDARD.encode(blob),
            "KeyId": key.arn(),
            "EncryptionAlgorithm": algorithm.name(),
        })))
    }
}

/// What policies may ask about a call that encrypts or decrypts.
pub(crate) fn crypto_facts<'a>(
    algorithm: EncryptionAlgorithm,
    context: Option<&'a EncryptionContext>,
    named: Option<&'a str>,
) -> Context<'a> {
    Context {
        encryption_context: context,
        encryption_algorithm: Some(algorithm.name()),
        request_alias: named.and_then(alias_of),
        ..Context::default()
    }
}

/// How something is encrypted.
pub(crate) struct Sealing<'a> {
    pub(crate) algorithm: EncryptionAlgorithm,
    pub(crate) context: Option<&'a EncryptionContext>,
    pub(crate) dry_run: Option<bool>,
}

impl Sealing<'_> {
    /// Encrypts under a key whose state and kind allow it, unless the caller only wanted to know.
    pub(crate) async fn seal(
        &self,
        judge: &mut Judge<'_>,
        key: &KeyRecord,
        plaintext: &[u8],
    ) -> Result<Vec<u8>, Refusal> {
        let usable = usable(judge, key)?;
        fitting(judge, key, self.algorithm, self.context)?;
        let failed = |error: CryptoFailure| {
            tracing::error!(key_id = %key.id, %error, "encryption failed");
            Refusal::internal()
        };
        if let Some(symmetric) = usable.symmetric() {
            would_work(self.dry_run)?;
            judge.uses(key, None);
            let none = EncryptionContext::new();
            return symmetric.encrypt(plaintext, self.context.unwrap_or(&none)).map_err(failed);
        }
        if let Some(token) = usable.in_token() {
            would_work(self.dry_run)?;
            judge.uses(key, None);
            let none = EncryptionContext::new();
            let sealed = token.encrypt(plaintext, self.context.unwrap_or(&none)).await;
            return sealed.map_err(|error| token_refusal(key, &error));
        }
        let rsa = usable.decrypting().ok_or_else(|| wrong_usage(judge, key))?;
        let longest = rsa.plaintext_bytes_max(self.algorithm);
        if plaintext.len() > longest {
            let (algorithm, spec) = (self.algorithm.name(), key.kind.spec.name());
            let text =
                format!("Algorithm {algorithm} and key spec {spec} cannot encrypt data larger than {longest} bytes.");
            return Err(Refusal::new(RefusalKind::Validation, text));
        }
        would_work(self.dry_run)?;
        judge.uses(key, None);
        rsa.encrypt(self.algorithm, plaintext).map_err(failed)
    }
}

/// Why a token did not do it, in AWS's words where it has some.
pub(crate) fn token_refusal(key: &KeyRecord, error: &HsmError) -> Refusal {
    match error {
        HsmError::NotOpened => Refusal::bare(RefusalKind::InvalidCiphertext),
        HsmError::Hangs { .. } => {
            tracing::error!(key_id = %key.id, %error, "key cannot be used in its token");
            Refusal::new(RefusalKind::DependencyTimeout, "The custom key store did not answer in time.")
        }
        error => {
            tracing::error!(key_id = %key.id, %error, "key cannot be used in its token");
            let text = format!("{} cannot be used in its custom key store.", key.arn());
            Refusal::new(RefusalKind::InvalidState, text)
        }
    }
}

/// Refuses an algorithm that the key does not have, and a context where nothing could bind it.
pub(crate) fn fitting(
    judge: &Judge<'_>,
    key: &KeyRecord,
    algorithm: EncryptionAlgorithm,
    context: Option<&EncryptionContext>,
) -> Result<(), Refusal> {
    let algorithms = key.kind.encryption_algorithms();
    if algorithms.is_empty() {
        return Err(wrong_usage(judge, key));
    }
    if !algorithms.contains(&algorithm) {
        return Err(wrong_algorithm(key, algorithm.name()));
    }
    if algorithm != EncryptionAlgorithm::Symmetric && context.is_some_and(|context| !context.is_empty()) {
        let text = "An encryption context is not supported with an asymmetric key.";
        return Err(Refusal::new(RefusalKind::Validation, text));
    }
    Ok(())
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
