//! Sign and Verify: signatures by asymmetric keys, over whole messages or digests.

use super::answer::json_body;
use super::describe_key::alias_of;
use super::drive::{Class, Query};
use super::encrypt::would_work;
use super::input::{Blob, member_of, recorded, required};
use super::judge::{Judge, usable, wrong_algorithm, wrong_usage};
use super::refusal::{Refusal, RefusalKind};
use crate::crypto::signing::{Message, SigningKey};
use crate::key::KeyRecord;
use crate::policy::Context;
use crate::spec::SigningAlgorithm;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// AWS's limit on a message; longer ones are hashed by the caller.
pub(crate) const MESSAGE_BYTES_MAX: usize = 4_096;
/// AWS's limit on a signature; the longest here, of ML_DSA_87, has 4,627 bytes.
const SIGNATURE_BYTES_MAX: usize = 6_144;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Input {
    key_id: Option<String>,
    message: Option<Blob>,
    message_type: Option<String>,
    signature: Option<Blob>,
    grant_tokens: Option<Vec<String>>,
    signing_algorithm: Option<String>,
    dry_run: Option<bool>,
}

#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct Sign(Input);

#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct Verify(Input);

impl Query for Sign {
    const CLASS: Class = Class::Crypto;

    fn parameters(&self) -> Option<Value> {
        self.0.parameters()
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        let Signing { key, algorithm, message } = self.0.judged(judge, "kms:Sign").await?;
        let signing = signing_key(judge, &key, algorithm)?;
        let message = message.of(algorithm, &key)?;
        would_work(self.0.dry_run)?;
        judge.uses(&key, None);
        let signature = signing.sign(algorithm, message).map_err(|error| {
            tracing::error!(key_id = %key.id, %error, "signing failed");
            Refusal::internal()
        })?;
        Ok(json_body(&json!({
            "KeyId": key.arn(),
            "Signature": STANDARD.encode(signature),
            "SigningAlgorithm": algorithm.name(),
        })))
    }
}

impl Query for Verify {
    const CLASS: Class = Class::Crypto;

    fn parameters(&self) -> Option<Value> {
        self.0.parameters()
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        let signature = required(&self.0.signature, "signature")?.checked("signature", SIGNATURE_BYTES_MAX)?;
        let Signing { key, algorithm, message } = self.0.judged(judge, "kms:Verify").await?;
        let signing = signing_key(judge, &key, algorithm)?;
        let message = message.of(algorithm, &key)?;
        would_work(self.0.dry_run)?;
        judge.uses(&key, None);
        // As at AWS a signature that does not hold is an error, so that no caller overlooks a false.
        let invalid = |_| Refusal::bare(RefusalKind::InvalidSignatureValue);
        signing.verify(algorithm, message, signature).map_err(invalid)?;
        Ok(json_body(&json!({
            "KeyId": key.arn(),
            "SignatureValid": true,
            "SigningAlgorithm": algorithm.name(),
        })))
    }
}

/// A call that the policies allow.
struct Signing<'a> {
    key: Arc<KeyRecord>,
    algorithm: SigningAlgorithm,
    message: Content<'a>,
}

/// The message member, before its length is compared with the algorithm.
struct Content<'a> {
    bytes: &'a [u8],
    is_digest: bool,
}

impl Input {
    fn parameters(&self) -> Option<Value> {
        recorded(
            self.key_id.as_ref(),
            json!({
                "messageType": self.message_type.as_deref().unwrap_or("RAW"),
                "signingAlgorithm": self.signing_algorithm,
                "dryRun": self.dry_run,
            }),
        )
    }

    /// Checks the members, finds the key and asks the policies.
    async fn judged(&self, judge: &mut Judge<'_>, action: &str) -> Result<Signing<'_>, Refusal> {
        let text = required(&self.key_id, "keyId")?;
        let bytes = required(&self.message, "message")?.checked("message", MESSAGE_BYTES_MAX)?;
        let algorithm = required(&self.signing_algorithm, "signingAlgorithm")?;
        let elsewhere = ["SM2DSA", "ED25519_PH_SHA_512"];
        let all = SigningAlgorithm::ALL;
        let algorithm = member_of("signingAlgorithm", algorithm, all, SigningAlgorithm::name, &elsewhere)?;
        let kind = self.message_type.as_deref().unwrap_or("RAW");
        let kind = member_of("messageType", kind, &["RAW", "DIGEST"], |name| name, &["EXTERNAL_MU"])?;
        judge.grant_tokens(self.grant_tokens.as_ref()).await?;
        let key = judge.key(text).await?;
        let facts = Context {
            signing_algorithm: Some(algorithm.name()),
            message_type: Some(kind),
            request_alias: alias_of(text),
            ..Context::default()
        };
        judge.allow_key(action, &key, &facts)?;
        Ok(Signing { key, algorithm, message: Content { bytes, is_digest: kind == "DIGEST" } })
    }
}

impl<'a> Content<'a> {
    fn of(&self, algorithm: SigningAlgorithm, key: &KeyRecord) -> Result<Message<'a>, Refusal> {
        let name = algorithm.name();
        match (self.is_digest, algorithm.digest_bytes()) {
            (false, _) => Ok(Message::Raw(self.bytes)),
            (true, Some(length)) if length == self.bytes.len() => Ok(Message::Digest(self.bytes)),
            (true, Some(_)) => {
                let text = format!("Digest is invalid length for algorithm {name}.");
                Err(Refusal::new(RefusalKind::Validation, text))
            }
            (true, None) => {
                let text = format!("Message type DIGEST is incompatible with key spec {}.", key.kind.spec.name());
                Err(Refusal::new(RefusalKind::Validation, text))
            }
        }
    }
}

/// The signing half of a key whose state, usage and spec allow the algorithm.
fn signing_key<'k>(
    judge: &Judge<'_>,
    key: &'k KeyRecord,
    algorithm: SigningAlgorithm,
) -> Result<&'k SigningKey, Refusal> {
    let signing = usable(judge, key)?.signing().ok_or_else(|| wrong_usage(judge, key))?;
    if !key.kind.signing_algorithms().contains(&algorithm) {
        return Err(wrong_algorithm(key, algorithm.name()));
    }
    Ok(signing)
}
