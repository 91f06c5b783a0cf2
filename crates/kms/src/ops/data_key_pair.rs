//! GenerateDataKeyPair and GenerateDataKeyPairWithoutPlaintext: a fresh private key for the caller, with itself under a
//! symmetric KMS key.

use super::answer::{Member, secret_body};
use super::decrypt::no_recipient;
use super::drive::{Class, Query};
use super::encrypt::{Sealing, crypto_facts, fitting, would_work};
use super::input::{EncryptionContext, checked_context, member_of, recorded, required};
use super::judge::{Judge, usable};
use super::refusal::Refusal;
use crate::crypto::SecretBytes;
use crate::crypto::signing::SigningKey;
use crate::policy::Context;
use crate::spec::{EncryptionAlgorithm, KeyKind, KeySpec, KeyUsage};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::OnceLock;

/// The pairs that callers may have; AWS gives out no ML-DSA keys.
const SPECS: &[KeySpec] = &[
    KeySpec::Rsa2048,
    KeySpec::Rsa3072,
    KeySpec::Rsa4096,
    KeySpec::P256,
    KeySpec::P384,
    KeySpec::P521,
    KeySpec::Secp256k1,
    KeySpec::Ed25519,
];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Input {
    key_id: Option<String>,
    key_pair_spec: Option<String>,
    encryption_context: Option<EncryptionContext>,
    grant_tokens: Option<Vec<String>>,
    recipient: Option<Value>,
    dry_run: Option<bool>,
    /// The private key; the same when the call is judged again.
    #[serde(skip)]
    private: OnceLock<SecretBytes>,
}

#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct GenerateDataKeyPair(Input);

#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct GenerateDataKeyPairWithoutPlaintext(Input);

impl Query for GenerateDataKeyPair {
    const CLASS: Class = Class::Crypto;

    fn parameters(&self) -> Option<Value> {
        self.0.parameters()
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        self.0.run(judge, "kms:GenerateDataKeyPair", true).await
    }
}

impl Query for GenerateDataKeyPairWithoutPlaintext {
    const CLASS: Class = Class::Crypto;

    fn parameters(&self) -> Option<Value> {
        self.0.parameters()
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        self.0.run(judge, "kms:GenerateDataKeyPairWithoutPlaintext", false).await
    }
}

impl Input {
    fn parameters(&self) -> Option<Value> {
        recorded(
            self.key_id.as_ref(),
            json!({
                "keyPairSpec": self.key_pair_spec,
                "encryptionContext": self.encryption_context,
                "dryRun": self.dry_run,
            }),
        )
    }

    async fn run(&self, judge: &mut Judge<'_>, action: &str, with_plaintext: bool) -> Result<Bytes, Refusal> {
        let text = required(&self.key_id, "keyId")?;
        let spec = required(&self.key_pair_spec, "keyPairSpec")?;
        let elsewhere = ["SM2", "ML_KEM_512", "ML_KEM_768", "ML_KEM_1024"];
        let spec = member_of("keyPairSpec", spec, SPECS, KeySpec::name, &elsewhere)?;
        checked_context(self.encryption_context.as_ref())?;
        judge.grant_tokens(self.grant_tokens.as_ref()).await?;
        no_recipient(self.recipient.as_ref())?;
        let key = judge.key(text).await?;
        let (algorithm, context) = (EncryptionAlgorithm::Symmetric, self.encryption_context.as_ref());
        let facts = Context { data_key_pair_spec: Some(spec.name()), ..crypto_facts(algorithm, context, Some(text)) };
        judge.allow_key(action, &key, &facts)?;
        // An RSA pair takes up to seconds: nothing is made that would not be given out.
        usable(judge, &key)?;
        fitting(judge, &key, algorithm, context)?;
        would_work(self.dry_run)?;
        let kind = KeyKind { spec, usage: KeyUsage::SignVerify, ..KeyKind::SYMMETRIC };
        let private = judge.generate_once(&self.private, kind).await?;
        let public = public_half(spec, private)?;
        let sealing = Sealing { algorithm, context, dry_run: self.dry_run };
        let blob = sealing.seal(judge, &key, private.expose()).await?;
        let (arn, material_id) = (key.arn(), key.material_id());
        let mut members = vec![("PrivateKeyCiphertextBlob", Member::Bytes(&blob))];
        if with_plaintext {
            members.push(("PrivateKeyPlaintext", Member::Bytes(private.expose())));
        }
        members.extend([
            ("PublicKey", Member::Bytes(&public)),
            ("KeyId", Member::Text(&arn)),
            ("KeyPairSpec", Member::Text(spec.name())),
        ]);
        members.extend(material_id.as_deref().map(|id| ("KeyMaterialId", Member::Text(id))));
        Ok(secret_body(&members))
    }
}

/// The public half of a private key, as X.509.
fn public_half(spec: KeySpec, private: &SecretBytes) -> Result<Vec<u8>, Refusal> {
    let failed = |error: &dyn std::error::Error| {
        tracing::error!(%error, "data key pair cannot be made");
        Refusal::internal()
    };
    let public = SigningKey::read(spec, private.expose()).map_err(|error| failed(&error))?;
    public.public_key().map_err(|error| failed(&error))
}
