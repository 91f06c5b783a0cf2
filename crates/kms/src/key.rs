//! A KMS key as the node holds it in memory: identity, state, policy, tags, aliases and material.
//!
//! The state decides by type what can be done: only a [`UsableKey`], which only an enabled key gives out, reaches the
//! material. A record is immutable; a change makes a new one, which is published after its event is durable. Rows on
//! disk are store/'s business, decisions are ops/'s.

mod family;
mod imported;
mod state;
mod token;
mod view;

pub use family::{Family, MultiRegionKeyType};
pub use imported::{Import, Imports, MaterialState};
pub use state::{AutomaticRotation, DAY_US, DueKind, KeyState, TRANSIENT_US};
pub use token::TokenKey;
pub use view::{epoch_seconds, rfc3339_micros, rfc3339_seconds};

use crate::chain::leaf::sha256;
use crate::crypto::agreement::AgreementKey;
use crate::crypto::mac::MacKey;
use crate::crypto::material::{Imported, Owner};
use crate::crypto::oaep::DecryptingKey;
use crate::crypto::signing::SigningKey;
use crate::crypto::{
    CryptoFailure, InvalidCiphertext, KeyMaterial, MaterialId, RootKey, SecretBytes, SecretHalf, WrapError, ciphertext,
    wrap,
};
use crate::key_store::{Connection, Link};
pub use crate::place::{AccountId, KeyId, Region, alias_arn, key_arn};
use crate::policy::Document;
use crate::spec::{KeyKind, Origin, RotationType};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;
use std::sync::{Arc, Weak};
use uuid::Uuid;

/// A key policy: its exact text, hash and parsed form. Keys with the same text share one.
pub struct KeyPolicy {
    /// The text as its setter sent it.
    pub text: Box<str>,
    /// SHA-256 of the text.
    pub sha256: [u8; 32],
    /// The parsed form that evaluation uses.
    pub document: Document,
}

/// Shares equal policies, so that 100,000 keys under AWS's default policy hold it once.
#[derive(Default)]
pub struct PolicyPool(Mutex<HashMap<[u8; 32], Weak<KeyPolicy>>>);

impl PolicyPool {
    /// The shared policy for a text; `parse` runs only when no living key has it.
    pub fn policy<E>(&self, text: &str, parse: impl FnOnce(&str) -> Result<Document, E>) -> Result<Arc<KeyPolicy>, E> {
        let hash = sha256(&[text.as_bytes()]);
        if let Some(found) = self.0.lock().get(&hash).and_then(Weak::upgrade) {
            return Ok(found);
        }
        let made = Arc::new(KeyPolicy { text: text.into(), sha256: hash, document: parse(text)? });
        let mut pool = self.0.lock();
        if pool.len() >= 1_024 && pool.len().is_power_of_two() {
            pool.retain(|_, policy| policy.strong_count() > 0);
        }
        pool.insert(hash, Arc::downgrade(&made));
        Ok(made)
    }
}

/// One generation of a key's material, with the id that ciphertexts carry.
pub struct Material {
    /// AWS's KeyMaterialId.
    pub id: MaterialId,
    /// The secret; leaves this process never, and this module only through a [`UsableKey`].
    secret: SecretHalf,
    /// Unix microseconds since when it is the key's.
    pub created_us: u64,
    /// The rotation that brought it; none for a key's first.
    pub rotation: Option<RotationType>,
}

impl Material {
    /// Material that becomes a key's.
    pub fn new(id: MaterialId, secret: SecretHalf, created_us: u64, rotation: Option<RotationType>) -> Self {
        Self { id, secret, created_us, rotation }
    }
}

/// One key, immutable; a change publishes a new record.
#[derive(Clone)]
pub struct KeyRecord {
    /// The id.
    pub id: KeyId,
    /// The owning account.
    pub account: AccountId,
    /// Spec, usage and origin.
    pub kind: KeyKind,
    /// What it may be used for.
    pub state: KeyState,
    /// Free text, at most 8,192 characters.
    pub description: Box<str>,
    /// Unix microseconds of creation.
    pub created_us: u64,
    /// The policy in force.
    pub policy: Arc<KeyPolicy>,
    /// eventID of the call that set it.
    pub policy_event: Uuid,
    /// Tags by key.
    pub tags: BTreeMap<String, String>,
    /// Names of the aliases that point here, sorted.
    pub aliases: Vec<String>,
    /// The schedule, if it rotates by itself.
    pub rotation: Option<AutomaticRotation>,
    /// Unix microseconds when a rotation was asked for that has not happened yet.
    pub on_demand_us: Option<u64>,
    /// Unix microseconds when imported material ends by itself.
    pub valid_to_us: Option<u64>,
    /// Whether imported material that is away finds the key disabled when it comes back.
    pub comes_back_disabled: bool,
    /// What is known of imported material beside the current one.
    pub imports: Arc<Imports>,
    /// The service whose key it is, which nobody else manages or uses; none for keys of customers.
    pub service: Option<Box<str>>,
    /// The connection of the custom key store whose token has the key, under the key's id; none for all other keys.
    pub store: Option<Arc<Link>>,
    /// Its related keys in other regions and itself; none for keys of one region.
    pub family: Option<Arc<Family>>,
    /// Id of the material that encrypts, also while imported material is away; none before the first import.
    current: Option<MaterialId>,
    /// The material that encrypts, shared between the records of one key; none while imported material is away.
    material: Option<Arc<Material>>,
    /// Former material that is here, oldest first where the service made it: it decrypts what it encrypted.
    former: Vec<Arc<Material>>,
    /// Imported material that waits for its rotation.
    pending: Option<Arc<Material>>,
}

/// A key whose material may be used: proof that its state was looked at. It gives out the one secret that fits the
/// key's usage.
pub struct UsableKey<'a> {
    key: &'a KeyRecord,
    works: Works<'a>,
}

/// Where a key does its work.
enum Works<'a> {
    Here(&'a Material),
    InToken(Arc<Connection>),
}

/// A symmetric key in use.
pub struct SymmetricKey<'a> {
    key: &'a KeyRecord,
    id: MaterialId,
    current: &'a KeyMaterial,
}

impl<'a> UsableKey<'a> {
    fn material(&self) -> Option<&'a Material> {
        match self.works {
            Works::Here(material) => Some(material),
            Works::InToken(_) => None,
        }
    }

    /// For ENCRYPT_DECRYPT with a key inside a token.
    pub fn in_token(&self) -> Option<TokenKey<'a>> {
        match &self.works {
            Works::Here(_) => None,
            Works::InToken(connection) => Some(TokenKey { key: self.key, connection: Arc::clone(connection) }),
        }
    }

    /// For ENCRYPT_DECRYPT with a symmetric key.
    pub fn symmetric(&self) -> Option<SymmetricKey<'a>> {
        let material = self.material()?;
        match &material.secret {
            SecretHalf::Symmetric(current) => Some(SymmetricKey { key: self.key, id: material.id, current }),
            _ => None,
        }
    }

    /// For ENCRYPT_DECRYPT with an RSA key.
    pub fn decrypting(&self) -> Option<&'a DecryptingKey> {
        match &self.material()?.secret {
            SecretHalf::Decrypting(key) => Some(key),
            _ => None,
        }
    }

    /// For SIGN_VERIFY.
    pub fn signing(&self) -> Option<&'a SigningKey> {
        match &self.material()?.secret {
            SecretHalf::Signing(key) => Some(key),
            _ => None,
        }
    }

    /// For GENERATE_VERIFY_MAC.
    pub fn mac(&self) -> Option<&'a MacKey> {
        match &self.material()?.secret {
            SecretHalf::Mac(key) => Some(key),
            _ => None,
        }
    }

    /// For KEY_AGREEMENT.
    pub fn agreement(&self) -> Option<&'a AgreementKey> {
        match &self.material()?.secret {
            SecretHalf::Agreement(key) => Some(key),
            _ => None,
        }
    }

    /// The public half, which only asymmetric keys have.
    pub fn public_key(&self) -> Option<Result<Vec<u8>, CryptoFailure>> {
        self.material()?.secret.public_key()
    }
}

impl SymmetricKey<'_> {
    /// Encrypts under a message key of its own, bound to this key and the context.
    pub fn encrypt(&self, plaintext: &[u8], context: &BTreeMap<String, String>) -> Result<Vec<u8>, CryptoFailure> {
        let key_id = self.key.id.to_string();
        let owner = owner(self.key.account.as_str(), &self.key.id, &key_id, self.id);
        ciphertext::encrypt(self.current, &owner, plaintext, context)
    }

    /// Decrypts what was encrypted under this key with the same context.
    pub fn decrypt(&self, blob: &[u8], context: &BTreeMap<String, String>) -> Result<SecretBytes, InvalidCiphertext> {
        let header = ciphertext::parse_header(blob)?;
        // All ids are compared, and none is a branch: which material a blob names, and that it names none that is there,
        // takes as long as any damage. For one that is not there the current one, the last, is tried and what comes of it
        // not given.
        let named = header.material_id.map_or([0; 32], |id| id.0);
        let places = self.key.materials().zip(1..);
        let at: usize = places.map(|(material, place)| usize::from(black_box(material.id.0 == named)) * place).sum();
        let last = self.key.materials().count().saturating_sub(1);
        let tried = match self.key.materials().nth(at.wrapping_sub(1).min(last)).map(|material| &material.secret) {
            Some(SecretHalf::Symmetric(material)) => material,
            _ => self.current,
        };
        let opened = ciphertext::decrypt(tried, blob, context)?;
        if at > 0 && header.material_id.is_some() { Ok(opened) } else { Err(InvalidCiphertext) }
    }
}

impl KeyRecord {
    /// A new key without description, tags or aliases: enabled, or waiting for its material.
    pub fn new(
        id: KeyId,
        account: AccountId,
        kind: KeyKind,
        created_us: u64,
        (policy, policy_event): (Arc<KeyPolicy>, Uuid),
        material: Option<Arc<Material>>,
    ) -> Self {
        Self {
            id,
            account,
            kind,
            state: if material.is_some() { KeyState::Enabled } else { KeyState::PendingImport },
            description: "".into(),
            created_us,
            policy,
            policy_event,
            tags: BTreeMap::new(),
            aliases: Vec::new(),
            rotation: None,
            on_demand_us: None,
            valid_to_us: None,
            comes_back_disabled: false,
            imports: Imports::none(),
            service: None,
            store: None,
            family: id.multi_region.then(|| Arc::new(Family::of_primary(id.region))),
            current: material.as_ref().map(|material| material.id),
            material,
            former: Vec::new(),
            pending: None,
        }
    }

    /// The same key with the material that it had before, oldest first.
    pub fn with_former(self, former: Vec<Arc<Material>>) -> Self {
        Self { former, ..self }
    }

    /// The same key that has had imported material with this id.
    pub fn with_current(self, current: Option<MaterialId>) -> Self {
        Self { current, ..self }
    }

    /// All material that decrypts; the last is the current one.
    pub fn materials(&self) -> impl Iterator<Item = &Arc<Material>> {
        self.former.iter().chain(&self.material)
    }

    /// Which rotation is due. A disabled key does not rotate; when it is enabled again it catches up. A replica rotates
    /// with its primary key.
    pub fn rotation_due(&self, now_us: u64) -> Option<RotationType> {
        if self.state != KeyState::Enabled || self.is_replica() {
            return None;
        }
        if self.kind.origin == Origin::External {
            return self.import_rotation_due(now_us);
        }
        if self.on_demand_us.is_some_and(|asked_us| asked_us <= now_us) {
            return Some(RotationType::OnDemand);
        }
        self.rotation.filter(|rotation| rotation.next_us <= now_us).map(|_| RotationType::Automatic)
    }

    /// The dates on which the service itself changes this key.
    pub fn due_dates(&self) -> impl Iterator<Item = (u64, DueKind)> {
        let deletion = self.state.deletion_us().map(|at_us| (at_us, DueKind::Deletion));
        let rotation = [self.on_demand_us, self.rotation.map(|rotation| rotation.next_us)].into_iter().flatten().min();
        let rotates = self.state == KeyState::Enabled && !self.is_replica();
        let rotation = rotation.filter(|_| rotates).map(|at_us| (at_us, DueKind::Rotation));
        let expiry = self.import_ends().map(|(_, at_us)| (at_us, DueKind::Expiry));
        let synchronization = self.state.until_us().map(|at_us| (at_us, DueKind::Synchronization));
        deletion.into_iter().chain(rotation).chain(expiry).chain(synchronization)
    }

    /// The key for cryptographic use, if its state allows that. Imported material ends on its date, not when the job
    /// that deletes it gets there.
    pub fn usable(&self, now_us: u64) -> Result<UsableKey<'_>, KeyState> {
        if let Some(store) = &self.store {
            return match (self.shown_state(), store.connection()) {
                (KeyState::Enabled, Some(connection)) => Ok(UsableKey { key: self, works: Works::InToken(connection) }),
                (KeyState::Enabled, None) => Err(KeyState::Unavailable),
                (other, _) => Err(other),
            };
        }
        let needed = self.imports.former.iter().map(|import| import.valid_to_us).chain([self.valid_to_us]);
        let ended = needed.flatten().any(|valid_to_us| valid_to_us <= now_us);
        match (self.state, &self.material) {
            (KeyState::Enabled | KeyState::Updating { .. }, Some(material)) if !ended => {
                Ok(UsableKey { key: self, works: Works::Here(material) })
            }
            (KeyState::Enabled | KeyState::Updating { .. }, _) => Err(KeyState::PendingImport),
            (other, _) => Err(other),
        }
    }

    /// Id of the current material, also while imported material is away; not a secret.
    pub fn material_id(&self) -> Option<String> {
        self.current.map(|id| id.to_string())
    }

    /// The same as it is compared.
    pub fn current_material(&self) -> Option<MaterialId> {
        self.current
    }

    /// Whether all its material is here, or in its token.
    pub fn has_material(&self) -> bool {
        self.is_complete() || self.store.is_some()
    }

    /// Secret bytes of the current material as the store keeps them, wrapped for this key and its related keys only.
    pub fn wrapped(&self, root: &RootKey, secret: &SecretBytes) -> Result<Vec<u8>, WrapError> {
        self.wrapped_as(root, self.current.ok_or(WrapError::Owner)?, secret)
    }

    /// The same of a material that it names.
    pub fn wrapped_as(
        &self,
        root: &RootKey,
        material_id: MaterialId,
        secret: &SecretBytes,
    ) -> Result<Vec<u8>, WrapError> {
        let key_id = self.id.to_string();
        wrap::wrap(root, &owner(self.account.as_str(), &self.id, &key_id, material_id), self.kind, secret.expose())
    }

    /// `arn:aws:kms:<region>:<account>:key/<id>`.
    pub fn arn(&self) -> String {
        key_arn(self.account, self.id)
    }

    /// A copy in another state.
    pub fn with_state(&self, state: KeyState) -> Self {
        Self { state, ..self.clone() }
    }

    /// A copy with another description.
    pub fn with_description(&self, description: &str) -> Self {
        Self { description: description.into(), ..self.clone() }
    }

    /// A copy with another schedule.
    pub fn with_rotation(&self, rotation: Option<AutomaticRotation>, on_demand_us: Option<u64>) -> Self {
        Self { rotation, on_demand_us, ..self.clone() }
    }

    /// A copy with new material. Its schedule, if that was the reason, begins another period.
    pub fn with_rotated(&self, material: Arc<Material>, reason: RotationType, now_us: u64) -> Self {
        let mut copy = self.clone();
        copy.current = Some(material.id);
        copy.former.extend(copy.material.replace(material));
        match reason {
            RotationType::OnDemand => copy.on_demand_us = None,
            RotationType::Automatic => {
                let next = |rotation: AutomaticRotation| AutomaticRotation::starting(rotation.period_days, now_us);
                copy.rotation = copy.rotation.map(next);
            }
        }
        copy
    }

    /// The state that a key comes back to when its deletion is cancelled.
    pub fn state_without_deletion(&self) -> KeyState {
        if self.has_material() { KeyState::Disabled } else { KeyState::PendingImport }
    }

    /// The id that material has once it is imported into this key.
    pub fn imported_id(&self, secret: &SecretHalf, bytes: &SecretBytes) -> Result<MaterialId, CryptoFailure> {
        let key_id = self.id.to_string();
        let owner = (self.account.as_str(), scope(&self.id), key_id.as_str());
        let public = secret.public_key().transpose()?;
        let imported = public.as_deref().map_or(Imported::Secret(bytes.expose()), Imported::Public);
        MaterialId::of_imported(owner, self.kind, imported)
    }

    /// A copy with other tags.
    pub fn with_tags(&self, tags: BTreeMap<String, String>) -> Self {
        Self { tags, ..self.clone() }
    }

    /// A copy under another policy, set by the call with this eventID.
    pub fn with_policy(&self, policy: Arc<KeyPolicy>, policy_event: Uuid) -> Self {
        Self { policy, policy_event, ..self.clone() }
    }

    /// A copy with one alias more.
    pub fn with_alias(&self, name: &str) -> Self {
        let mut copy = self.clone();
        if let Err(at) = copy.aliases.binary_search_by(|alias| alias.as_str().cmp(name)) {
            copy.aliases.insert(at, name.to_owned());
        }
        copy
    }

    /// A copy with one alias less.
    pub fn without_alias(&self, name: &str) -> Self {
        let mut copy = self.clone();
        copy.aliases.retain(|alias| alias != name);
        copy
    }
}

/// Whose material it is, and what sealed things of a key are bound to: the key, with its related keys in all regions.
pub(crate) fn owner<'a>(account: &'a str, id: &'a KeyId, key_id: &'a str, material_id: MaterialId) -> Owner<'a> {
    Owner { account, region: scope(id), key_id, material_id }
}

/// What stands for the region where material and ciphertexts are bound to their key: related keys share them.
pub(crate) fn scope(id: &KeyId) -> &str {
    if id.multi_region { MULTI_REGION } else { id.region.as_str() }
}

/// Stands where a region would, for multi-Region keys. No other key's id begins with `mrk-`, so it need be no region's
/// name that nobody could choose.
const MULTI_REGION: &str = "multi-region";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::policy::{Flavor, default_key_policy};

    /// A key that never had material.
    pub(super) fn waiting() -> KeyRecord {
        let kind = KeyKind { origin: Origin::External, ..KeyKind::SYMMETRIC };
        let account = AccountId::parse("123456789012").unwrap();
        let text = default_key_policy("123456789012");
        let policy = PolicyPool::default().policy(&text, |text| Document::parse(text, Flavor::KeyPolicy)).unwrap();
        let id = KeyId::single(Region::parse("eu-central-1").unwrap(), Uuid::nil());
        KeyRecord::new(id, account, kind, 1, (policy, Uuid::nil()), None)
    }

    pub(super) fn material_of(byte: u8) -> Arc<Material> {
        let secret = SecretHalf::read(KeyKind::SYMMETRIC, &[byte; 32]).unwrap();
        Arc::new(Material::new(MaterialId([byte; 32]), secret, 1, None))
    }

    /// The job that deletes ended material may be late, or the journal too full for its event.
    #[test]
    fn imported_material_ends_on_its_date() {
        let waiting = waiting();
        assert_eq!(waiting.usable(5).err(), Some(KeyState::PendingImport));
        let key = waiting.with_imported(material_of(1), Some(10), None);
        assert!(key.usable(9).is_ok());
        assert_eq!(key.usable(10).err(), Some(KeyState::PendingImport));
        assert!(waiting.with_imported(material_of(1), None, None).usable(u64::MAX).is_ok());
    }

    #[test]
    fn a_disabled_key_is_disabled_when_its_material_comes_back() {
        let waiting = waiting();
        let import = |key: &KeyRecord| key.with_imported(material_of(1), None, None);
        let key = import(&waiting);
        let states = [
            (KeyState::Enabled, KeyState::Enabled),
            (KeyState::Disabled, KeyState::Disabled),
            (KeyState::PendingDeletion { deletion_us: 9 }, KeyState::Disabled),
        ];
        for (before, back) in states {
            // Deleting what is not there changes nothing.
            let away = key.with_state(before).without_imported(None).without_imported(None);
            let away = away.with_state(away.state_without_deletion());
            assert_eq!((away.state, import(&away).state), (KeyState::PendingImport, back), "{before:?}");
            assert!(!import(&away).comes_back_disabled);
        }
    }

    #[test]
    fn times_are_written_as_the_wire_and_the_log_want_them() {
        assert_eq!(epoch_seconds(1_767_614_400_123_456).to_string(), "1767614400.123");
        assert_eq!(rfc3339_micros(1_767_614_400_000_000), "2026-01-05T12:00:00.000000Z");
        assert_eq!(rfc3339_seconds(1_767_614_400_999_999), "2026-01-05T12:00:00Z");
    }
}
