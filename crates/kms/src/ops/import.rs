//! GetParametersForImport, ImportKeyMaterial and DeleteImportedKeyMaterial: keys whose material its owner made and can
//! take away again.
//!
//! A key has one imported material for life: what is imported after a deletion or expiry must be the same, or what it
//! encrypted would never open again.

use super::answer::json_body;
use super::drive::{Class, Effect, Mutation, Query};
use super::enable::{change_key, key_stripes};
use super::input::{Blob, member_of, recorded, required};
use super::judge::{Judge, not_creating, not_pending, not_synchronizing, wrong_origin};
use super::refusal::{Refusal, RefusalKind};
use crate::crypto::import::{TOKEN_BYTES_MAX, Terms, WRAPPED_MATERIAL_BYTES_MAX};
use crate::crypto::{DecryptingKey, SecretBytes, SecretHalf};
use crate::key::{DAY_US, KeyRecord, KeyState, Material, epoch_seconds, rfc3339_micros};
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

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct DeleteImportedKeyMaterial {
    key_id: Option<String>,
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
        let cut = |text: &String| Value::from(&text[..text.floor_char_boundary(128)]);
        let model = self.expiration_model.as_deref().unwrap_or(ExpirationModel::Expires.name());
        recorded(
            self.key_id.as_ref(),
            json!({
                "expirationModel": model,
                "validTo": self.valid_to.and_then(micros).map(rfc3339_micros),
                "importType": self.import_type.as_ref().map(cut),
                "keyMaterialId": self.key_material_id.as_ref().map(cut),
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
        let key = judge.key_without_alias(text).await?;
        let facts = Context { expiration_model: Some(model.name()), valid_to_us, ..Context::default() };
        judge.allow_key("kms:ImportKeyMaterial", &key, &facts)?;
        external(&key)?;
        not_pending(&key)?;
        not_disabled(&key)?;
        not_creating(&key)?;
        self.check_type(&key)?;
        let bytes = open(judge, &key, token, wrapped)?;
        let material = self.material(judge, &key, &bytes)?;
        import(judge, &key, material, &bytes, valid_to_us)
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

    /// What the caller expects the material to be, before it is looked at.
    fn check_type(&self, key: &KeyRecord) -> Result<(), Refusal> {
        let unsupported = |text: &'static str| Err(Refusal::new(RefusalKind::UnsupportedOperation, text));
        if self.key_material_description.is_some() {
            return unsupported("KeyMaterialDescription is not supported by this node.");
        }
        let all = ["NEW_KEY_MATERIAL", "EXISTING_KEY_MATERIAL"];
        let wanted = self.import_type.as_deref();
        let wanted = wanted.map(|wanted| member_of("importType", wanted, &all, |name| name, &[])).transpose()?;
        match (wanted, key.material_id()) {
            (Some("NEW_KEY_MATERIAL"), Some(_)) => {
                unsupported("This node keeps one imported key material for each key.")
            }
            (Some("EXISTING_KEY_MATERIAL"), None) => Err(incorrect("No key material was imported into the key yet.")),
            _ => Ok(()),
        }
    }

    /// The material with its id, which must be the one the key has had.
    fn material(&self, judge: &Judge<'_>, key: &KeyRecord, bytes: &SecretBytes) -> Result<Material, Refusal> {
        let fits = |_| incorrect("The key material is not of the key spec of the key.");
        let secret = SecretHalf::read(key.kind, bytes.expose()).map_err(fits)?;
        let id = key.imported_id(&secret, bytes).map_err(not_imported)?;
        let text = id.to_string();
        if key.material_id().is_some_and(|had| had != text)
            || self.key_material_id.as_ref().is_some_and(|wanted| *wanted != text)
        {
            return Err(incorrect("The key material is not the one that was imported into the key before."));
        }
        Ok(Material::new(id, secret, judge.judged_at_us, None))
    }
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
    valid_to_us: Option<u64>,
) -> Result<Effect, Refusal> {
    let id = material.id.to_string();
    let created_us = material.created_us;
    let after = key.with_imported(Arc::new(material), valid_to_us);
    let wrapped = judge.node.wrap(&after, bytes).map_err(not_imported)?;
    let row = MaterialRow { id: id.clone(), wrapped, created_us, rotation: None };
    let changes = vec![
        Change::AddMaterial(key.id, Box::new(row)),
        Change::SetState(key.id, after.state),
        Change::SetValidTo(key.id, valid_to_us),
    ];
    let arn = key.arn();
    let mut effect = change_key(judge, key, after, changes);
    let mut answer = json!({"KeyId": arn});
    judge.record.response_elements = Some(json!({"keyId": arn, "keyMaterialId": id}));
    judge.record.key_material_id = Some(id.clone());
    if key.kind.is_symmetric_encryption() {
        answer["KeyMaterialId"] = id.into();
    }
    effect.body = json_body(&answer);
    Ok(effect)
}

impl Mutation for DeleteImportedKeyMaterial {
    fn parameters(&self) -> Option<Value> {
        let cut = |text: &String| Value::from(&text[..text.floor_char_boundary(128)]);
        recorded(self.key_id.as_ref(), json!({"keyMaterialId": self.key_material_id.as_ref().map(cut)}))
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        key_stripes(judge, self.key_id.as_deref())
    }

    /// Works in every state, and without effect when there is nothing to delete.
    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let key = judge.key_without_alias(required(&self.key_id, "keyId")?).await?;
        judge.allow_key("kms:DeleteImportedKeyMaterial", &key, &Context::default())?;
        external(&key)?;
        not_synchronizing(&key)?;
        let id = key.material_id();
        if self.key_material_id.is_some() && self.key_material_id != id {
            let text = "The key has no key material with this KeyMaterialId.";
            return Err(Refusal::new(RefusalKind::NotFound, text));
        }
        let (after, changes) = without_material(&key);
        let arn = key.arn();
        let mut effect = change_key(judge, &key, after, changes);
        judge.record.response_elements = Some(json!({"keyId": arn, "keyMaterialId": id}));
        let mut answer = json!({"KeyId": arn});
        if let (true, Some(id)) = (key.kind.is_symmetric_encryption(), id) {
            answer["KeyMaterialId"] = id.into();
        }
        effect.body = json_body(&answer);
        Ok(effect)
    }
}

/// The key once its imported material is gone, and what that stores.
pub(crate) fn without_material(key: &KeyRecord) -> (KeyRecord, Vec<Change>) {
    let after = key.without_material();
    let changes = vec![
        Change::DeleteMaterial(key.id, after.comes_back_disabled),
        Change::SetState(key.id, after.state),
        Change::SetValidTo(key.id, None),
    ];
    (after, changes)
}

/// Only keys made for it take imported material.
fn external(key: &KeyRecord) -> Result<(), Refusal> {
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

/// Seconds of the wire as microseconds; none for what is no date from 1970 on.
fn micros(seconds: f64) -> Option<u64> {
    // 2^53 microseconds is the year 2255, far behind the latest date that is taken.
    let micros = seconds * 1_000_000.0;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    (micros.is_finite() && (0.0..9_007_199_254_740_992.0).contains(&micros)).then_some(micros as u64)
}
