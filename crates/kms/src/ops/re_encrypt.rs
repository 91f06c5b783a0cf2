//! ReEncrypt: from one key or context to another without showing the plaintext to the caller.
//!
//! Two permissions, kms:ReEncryptFrom on the source and kms:ReEncryptTo on the destination; the event names both keys
//! and both decisions.

use super::answer::json_body;
use super::decrypt::Source;
use super::drive::{Class, Query};
use super::encrypt::{Sealing, crypto_facts};
use super::input::{Blob, EncryptionContext, checked_context, encryption_algorithm, recorded, required};
use super::judge::Judge;
use super::refusal::{Refusal, RefusalKind};
use crate::crypto::ciphertext::CIPHERTEXT_BYTES_MAX;
use crate::policy::Context;
use crate::spec::EncryptionAlgorithm;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ReEncrypt {
    ciphertext_blob: Option<Blob>,
    source_encryption_context: Option<EncryptionContext>,
    source_key_id: Option<String>,
    destination_key_id: Option<String>,
    destination_encryption_context: Option<EncryptionContext>,
    source_encryption_algorithm: Option<String>,
    destination_encryption_algorithm: Option<String>,
    grant_tokens: Option<Vec<String>>,
    dry_run: Option<bool>,
}

impl Query for ReEncrypt {
    const CLASS: Class = Class::Crypto;

    fn parameters(&self) -> Option<Value> {
        let symmetric = EncryptionAlgorithm::Symmetric.name();
        let cut = |text: &String| Value::from(&text[..text.floor_char_boundary(2_048)]);
        recorded(
            None,
            json!({
                "sourceKeyId": self.source_key_id.as_ref().map(cut),
                "sourceEncryptionAlgorithm": self.source_encryption_algorithm.as_deref().unwrap_or(symmetric),
                "sourceEncryptionContext": self.source_encryption_context,
                "destinationKeyId": self.destination_key_id.as_ref().map(cut),
                "destinationEncryptionAlgorithm": self.destination_encryption_algorithm.as_deref().unwrap_or(symmetric),
                "destinationEncryptionContext": self.destination_encryption_context,
                "dryRun": self.dry_run,
            }),
        )
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        let text = required(&self.destination_key_id, "destinationKeyId")?;
        let blob =
            required(&self.ciphertext_blob, "ciphertextBlob")?.checked("ciphertextBlob", CIPHERTEXT_BYTES_MAX)?;
        let (from_context, to_context) =
            (self.source_encryption_context.as_ref(), self.destination_encryption_context.as_ref());
        checked_context(from_context)?;
        checked_context(to_context)?;
        let from = encryption_algorithm("sourceEncryptionAlgorithm", self.source_encryption_algorithm.as_deref())?;
        let to =
            encryption_algorithm("destinationEncryptionAlgorithm", self.destination_encryption_algorithm.as_deref())?;
        judge.grant_tokens(self.grant_tokens.as_ref()).await?;

        let named = self.source_key_id.as_ref();
        let source = Source { blob, algorithm: from, context: from_context, key_id: named };
        judge.action_asked = Some("kms:ReEncryptFrom");
        let source_key = source.key(judge, "sourceKeyId", "kms:ReEncryptFrom").await?;
        judge.action_asked = Some("kms:ReEncryptTo");
        // What is wrong with the destination is said below, to a caller who may use the source: else the order of two
        // refusals would tell whether it exists.
        let found = judge.key_as("destinationKeyId", text).await;
        let same = Some(found.as_ref().is_ok_and(|key| (source_key.account, source_key.id) == (key.account, key.id)));
        let facts = crypto_facts(from, from_context, named.map(String::as_str));
        judge.allow_key("kms:ReEncryptFrom", &source_key, &Context { re_encrypt_on_same_key: same, ..facts })?;
        if let Some(decided_by) = judge.record.decided_by.clone() {
            judge.record.more.insert("sourceDecidedBy".to_owned(), decided_by.into());
        }
        let key = found.inspect_err(|refusal| {
            judge.record.decided_by = (refusal.kind == RefusalKind::AccessDenied).then(|| "Default".to_owned());
        })?;
        let facts = crypto_facts(to, to_context, Some(text));
        judge.allow_key("kms:ReEncryptTo", &key, &Context { re_encrypt_on_same_key: same, ..facts })?;

        // The dry run ends where the destination would be used: both sides have been looked at by then.
        let (plaintext, source_material_id) = source.open(judge, &source_key, None).await?;
        judge.uses(&source_key, source_material_id.clone());
        let sealing = Sealing { algorithm: to, context: to_context, dry_run: self.dry_run };
        let sealed = sealing.seal(judge, &key, plaintext.expose()).await?;
        if let Some(id) = &source_material_id {
            judge.record.more.insert("sourceKeyMaterialId".to_owned(), id.as_str().into());
        }
        let mut answer = json!({
            "CiphertextBlob": STANDARD.encode(sealed),
            "SourceKeyId": source_key.arn(),
            "KeyId": key.arn(),
            "SourceEncryptionAlgorithm": from.name(),
            "DestinationEncryptionAlgorithm": to.name(),
        });
        if let (true, Some(id)) = (source_key.kind.is_symmetric_encryption(), source_material_id) {
            answer["SourceKeyMaterialId"] = id.into();
        }
        if let (true, Some(id)) = (key.kind.is_symmetric_encryption(), key.material_id()) {
            answer["DestinationKeyMaterialId"] = id.into();
        }
        Ok(json_body(&answer))
    }
}
