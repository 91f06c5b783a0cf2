//! GetParametersForImport and ImportKeyMaterial: keys whose material its owner made.
//!
//! What is imported after a deletion or expiry must be the same, or what it encrypted would never open again. New material
//! goes into a symmetric key beside that, and waits until RotateKeyOnDemand makes it the current one (key/imported.rs).

use super::answer::json_body;
use super::create_key::checked_image;
use super::drive::{Class, Effect, Mutation, Query};
use super::enable::{change_key, key_stripes};
use super::input::{Blob, member_of, recorded, required};
use super::judge::{Judge, not_creating, not_pending, not_synchronizing, wrong_origin};
use super::refusal::{Refusal, RefusalKind};
use crate::crypto::import::{TOKEN_BYTES_MAX, Terms, WRAPPED_MATERIAL_BYTES_MAX};
use crate::crypto::{DecryptingKey, MaterialId, SecretBytes, SecretHalf};
use crate::key::{DAY_US, KeyRecord, KeyState, Material, MaterialState, epoch_seconds, rfc3339_micros};
use crate::locks::Stripe;
use crate::policy::Context;
use crate::spec::{ExpirationModel, KeyKind, KeySpec, KeyUsage, Origin, WrappingAlgorithm};
use crate::store::{Change, MaterialRow};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

/// How long AWS's tokens work.
const TOKEN_US: u64 = DAY_US;
/// The farthest end of imported material.
const VALID_DAYS_MAX: u64 = 365;
/// The model's limit.
const DESCRIPTION_CHARS_MAX: usize = 256;
const WRAPPING_SPECS: &[KeySpec] = &[KeySpec::Rsa2048, KeySpec::Rsa3072, KeySpec::Rsa4096];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct GetParametersForImport {
    key_id: Option<String>,
    wrapping_algorithm: Option<String>,
    wrapping_key_spec: Option<String>,
    /// The wrapping private key; the same when the call is judged again.
    #[serde(skip)]
    private: OnceLock<SecretBytes>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ImportKeyMaterial {
    key_id: Option<String>,
    import_token: Option<Blob>,
    encrypted_key_material: Option<Blob>,
    valid_to: Option<f64>,
    expiration_model: Option<String>,
    import_type: Option<String>,
    key_material_description: Option<String>,
    key_material_id: Option<String>,
}

impl Query for GetParametersForImport {
    const CLASS: Class = Class::Crypto;

    fn parameters(&self) -> Option<Value> {
        recorded(
            self.key_id.as_ref(),
            json!({"wrappingAlgorithm": self.wrapping_algorithm, "wrappingKeySpec": self.wrapping_key_spec}),
        )
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        let text = required(&self.key_id, "keyId")?;
        let algorithm = required(&self.wrapping_algorithm, "wrappingAlgorithm")?;
        let (all, elsewhere) = (WrappingAlgorithm::ALL, ["RSAES_PKCS1_V1_5", "SM2PKE"]);
        let algorithm = member_of("wrappingAlgorithm", algorithm, all, WrappingAlgorithm::name, &elsewhere)?;
        let spec = required(&self.wrapping_key_spec, "wrappingKeySpec")?;
        let spec = member_of("wrappingKeySpec", spec, WRAPPING_SPECS, KeySpec::name, &["SM2"])?;
        let key = judge.key_without_alias(text).await?;
        let facts = Context {
            wrapping_algorithm: Some(algorithm.name()),
            wrapping_key_spec: Some(spec.name()),
            ..Context::default()
        };
        judge.allow_key("kms:GetParametersForImport", &key, &facts)?;
        external(&key)?;
        not_pending(&key)?;
        not_synchronizing(&key)?;
        let valid_to_us = judge.judged_at_us + TOKEN_US;
        let kind = KeyKind { spec, usage: KeyUsage::EncryptDecrypt, ..KeyKind::SYMMETRIC };
        let private = judge.generate_once(&self.private, kind).await?;
        let public_key = DecryptingKey::read(spec, private.expose()).map_err(not_imported)?.public_key();
        let terms = Terms { valid_to_us, algorithm, spec };
        let token = judge.node.seal_token(&key, &terms, private).map_err(not_imported)?;
        Ok(json_body(&json!({
            "KeyId": key.arn(),
            "ImportToken": STANDARD.encode(token),
            "PublicKey": STANDARD.encode(public_key),
            "ParametersValidTo": epoch_seconds(valid_to_us),
        })))
    }
}

impl Mutation for ImportKeyMaterial {
    fn parameters(&self) -> Option<Value> {
        let model = self.expiration_model.as_deref().unwrap_or(ExpirationModel::Expires.name());
        recorded(
            self.key_id.as_ref(),
            json!({
                "expirationModel": model,
                "validTo": self.valid_to.and_then(micros).map(rfc3339_micros),
                "importType": self.import_type.as_deref().map(cut),
                "keyMaterialId": self.key_material_id.as_deref().map(cut),
                "keyMaterialDescription": self.key_material_description.as_deref().map(cut),
            }),
        )
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        key_stripes(judge, self.key_id.as_deref())
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let text = required(&self.key_id, "keyId")?;
        let token = required(&self.import_token, "importToken")?.checked("importToken", TOKEN_BYTES_MAX)?;
        let wrapped = required(&self.encrypted_key_material, "encryptedKeyMaterial")?
            .checked("encryptedKeyMaterial", WRAPPED_MATERIAL_BYTES_MAX)?;
        let (model, valid_to_us) = self.expiry(judge.judged_at_us)?;
        self.check_description()?;
        let key = judge.key_without_alias(text).await?;
        let facts = Context { expiration_model: Some(model.name()), valid_to_us, ..Context::default() };
        judge.allow_key("kms:ImportKeyMaterial", &key, &facts)?;
        external(&key)?;
        not_pending(&key)?;
        not_disabled(&key)?;
        not_creating(&key)?;
        let new = self.is_new(&key)?;
        let bytes = open(judge, &key, token, wrapped)?;
        let material = self.material(judge, &key, &bytes, new)?;
        import(judge, &key, material, &bytes, (valid_to_us, self.key_material_description.as_deref()))
    }
}

impl ImportKeyMaterial {
    /// When the material ends: by default it must.
    fn expiry(&self, now_us: u64) -> Result<(ExpirationModel, Option<u64>), Refusal> {
        let model = self.expiration_model.as_deref().unwrap_or(ExpirationModel::Expires.name());
        let all = ExpirationModel::ALL;
        let model = member_of("expirationModel", model, all, ExpirationModel::name, &[])?;
        let refused = |text: &'static str| Err(Refusal::new(RefusalKind::Validation, text));
        match (model, self.valid_to) {
            (ExpirationModel::DoesNotExpire, None) => Ok((model, None)),
            (ExpirationModel::DoesNotExpire, Some(_)) => {
                refused("A validTo date must not be set if the ExpirationModel is KEY_MATERIAL_DOES_NOT_EXPIRE")
            }
            (ExpirationModel::Expires, None) => {
                refused("A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES")
            }
            (ExpirationModel::Expires, Some(valid_to)) => {
                let latest_us = now_us + VALID_DAYS_MAX * DAY_US;
                match micros(valid_to).filter(|at_us| (now_us + 1..=latest_us).contains(at_us)) {
                    Some(valid_to_us) => Ok((model, Some(valid_to_us))),
                    None => refused("ValidTo must be in the future and at most 365 days away."),
                }
            }
        }
    }

    fn check_description(&self) -> Result<(), Refusal> {
        let Some(text) = &self.key_material_description else { return Ok(()) };
        let refused = |constraint: &str| Refusal::constraint(Some(text), "keyMaterialDescription", constraint);
        if text.chars().count() > DESCRIPTION_CHARS_MAX {
            return Err(refused("Member must have length less than or equal to 256"));
        }
        let fits = |c: char| c.is_ascii_alphanumeric() || c.is_ascii_whitespace() || ":/_.-".contains(c);
        if text.is_empty() || !text.chars().all(fits) {
            return Err(refused("Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_\\s.-]+$"));
        }
        Ok(())
    }

    /// Whether the caller expects the material to be new to the key, before it is looked at.
    fn is_new(&self, key: &KeyRecord) -> Result<bool, Refusal> {
        let unsupported = |text: &'static str| Err(Refusal::new(RefusalKind::UnsupportedOperation, text));
        let all = ["NEW_KEY_MATERIAL", "EXISTING_KEY_MATERIAL"];
        let wanted = self.import_type.as_deref();
        let wanted = wanted.map(|wanted| member_of("importType", wanted, &all, |name| name, &[])).transpose()?;
        let had = key.material_id().is_some();
        if self.key_material_description.is_some() && !key.takes_several_imports() {
            return unsupported("KeyMaterialDescription is for symmetric encryption keys of one region.");
        }
        match wanted {
            Some("NEW_KEY_MATERIAL") if self.key_material_id.is_some() => {
                let text = "A key material ID cannot be specified with the import type NEW_KEY_MATERIAL.";
                Err(Refusal::new(RefusalKind::Validation, text))
            }
            Some("NEW_KEY_MATERIAL") if had && !key.takes_several_imports() => {
                unsupported("Only symmetric encryption keys of one region take new key material after their first.")
            }
            Some("NEW_KEY_MATERIAL") => Ok(true),
            Some(_) if !had => Err(incorrect("No key material was imported into the key yet.")),
            _ => Ok(!had),
        }
    }

    /// The material with its id: one that the key has had, or a new one where there is room for it.
    fn material(
        &self,
        judge: &Judge<'_>,
        key: &KeyRecord,
        bytes: &SecretBytes,
        new: bool,
    ) -> Result<Material, Refusal> {
        let fits = |_| incorrect("The key material is not of the key spec of the key.");
        let secret = SecretHalf::read(key.kind, bytes.expose()).map_err(fits)?;
        let id = key.imported_id(&secret, bytes).map_err(not_imported)?;
        if self.key_material_id.as_ref().is_some_and(|wanted| *wanted != id.to_string()) {
            return Err(incorrect("The key material is not the one that was imported into the key before."));
        }
        match (new, key.state_of(id)) {
            (false, None) if key.material_id().is_some() => {
                return Err(incorrect("The key material is not the one that was imported into the key before."));
            }
            (true, None) => room_for(key, id)?,
            // A caller who repeats what was not answered.
            (true, Some(MaterialState::Pending)) | (false, _) => {}
            (true, Some(_)) => return Err(incorrect("The key material was imported into the key before.")),
        }
        Ok(Material::new(id, secret, judge.judged_at_us, None))
    }
}

/// One material at a time waits for its rotation.
fn room_for(key: &KeyRecord, id: MaterialId) -> Result<(), Refusal> {
    let Some(pending) = &key.imports.pending else { return Ok(()) };
    let text = format!(
        "New key material (id: {id}) cannot be imported into KMS key {}, because another key material (id: {}) is pending \
         rotation.",
        key.arn(),
        pending.id
    );
    Err(Refusal::new(RefusalKind::InvalidState, text))
}

/// Decrypts what was wrapped for a token of this key.
fn open(judge: &Judge<'_>, key: &KeyRecord, token: &[u8], wrapped: &[u8]) -> Result<SecretBytes, Refusal> {
    let token = judge.node.open_token(key, token).map_err(|_| Refusal::bare(RefusalKind::InvalidImportToken))?;
    if token.terms.valid_to_us <= judge.judged_at_us {
        return Err(Refusal::bare(RefusalKind::ExpiredImportToken));
    }
    if !token.fits(wrapped.len()) {
        return Err(Refusal::new(RefusalKind::Validation, "Invalid encrypted key size."));
    }
    token.unwrap(wrapped).map_err(|_| Refusal::bare(RefusalKind::InvalidCiphertext))
}

/// Records and stores the material; a key that waited for it works from now on.
fn import(
    judge: &mut Judge<'_>,
    key: &KeyRecord,
    material: Material,
    bytes: &SecretBytes,
    (valid_to_us, description): (Option<u64>, Option<&str>),
) -> Result<Effect, Refusal> {
    let (id, created_us) = (material.id, material.created_us);
    let after = key.with_imported(Arc::new(material), valid_to_us, description);
    checked_image(&after)?;
    let wrapped = after.wrapped_as(&judge.node.root(), id, bytes).map_err(not_imported)?;
    let row = Box::new(MaterialRow { id: id.to_string(), wrapped, created_us, rotation: None });
    let current = after.state_of(id) == Some(MaterialState::Current);
    let add = if current { Change::AddMaterial(key.id, row) } else { Change::PutMaterial(key.id, row) };
    let mut changes = vec![add];
    changes.extend(import_changes(&after));
    let arn = key.arn();
    let mut effect = change_key(judge, key, after, changes);
    let mut answer = json!({"KeyId": arn});
    judge.record.response_elements = Some(json!({"keyId": arn, "keyMaterialId": id}));
    judge.record.key_material_id = Some(id.to_string());
    if key.kind.is_symmetric_encryption() {
        answer["KeyMaterialId"] = id.to_string().into();
    }
    effect.body = json_body(&answer);
    Ok(effect)
}

/// What the store has of a key's imported material besides the material itself.
pub(super) fn import_changes(after: &KeyRecord) -> [Change; 3] {
    [
        Change::SetState(after.id, after.state),
        Change::SetValidTo(after.id, after.valid_to_us),
        Change::SetImports(after.id, Arc::clone(&after.imports), after.comes_back_disabled),
    ]
}

/// Only keys made for it take imported material.
pub(super) fn external(key: &KeyRecord) -> Result<(), Refusal> {
    if key.kind.origin == Origin::External { Ok(()) } else { Err(wrong_origin(key)) }
}

/// AWS imports into keys that are enabled or wait for it.
fn not_disabled(key: &KeyRecord) -> Result<(), Refusal> {
    if key.state == KeyState::Disabled {
        return Err(Refusal::new(RefusalKind::InvalidState, format!("{} is disabled.", key.arn())));
    }
    Ok(())
}

fn incorrect(text: &'static str) -> Refusal {
    Refusal::new(RefusalKind::IncorrectKeyMaterial, text)
}

fn not_imported(error: impl std::error::Error) -> Refusal {
    tracing::error!(%error, "key material cannot be imported");
    Refusal::internal()
}

/// What an event holds of a text that may yet be refused.
pub(super) fn cut(text: &str) -> Value {
    text[..text.floor_char_boundary(256)].into()
}

/// Seconds of the wire as microseconds; none for what is no date from 1970 on.
fn micros(seconds: f64) -> Option<u64> {
    // 2^53 microseconds is the year 2255, far behind the latest date that is taken.
    let micros = seconds * 1_000_000.0;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    (micros.is_finite() && (0.0..9_007_199_254_740_992.0).contains(&micros)).then_some(micros as u64)
}
