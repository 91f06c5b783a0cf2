//! A KMS key as the node holds it in memory: identity, state, policy, tags, aliases and material.
//!
//! The state decides by type what can be done: only a [`UsableKey`], which only an enabled key gives out, reaches the
//! material. A record is immutable; a change makes a new one, which is published after its event is durable. Rows on
//! disk are store/'s business, decisions are ops/'s.

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
use crate::family::{Family, MultiRegionKeyType};
pub use crate::place::{AccountId, KeyId, Region, alias_arn, key_arn};
use crate::policy::Document;
use crate::spec::{ExpirationModel, KeyKind, Origin, RotationType};
use parking_lot::Mutex;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use uuid::Uuid;

/// One day in microseconds.
pub const DAY_US: u64 = 86_400_000_000;

/// How long a multi-Region key stays in a transient state; at AWS it is seconds.
pub const TRANSIENT_US: u64 = 500_000;

/// What a key may be used for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Everything works.
    Enabled,
    /// No cryptographic use.
    Disabled,
    /// Made for imported material, which is not there.
    PendingImport,
    /// A replica that was just made of its primary key: no cryptographic use yet.
    Creating {
        /// Unix microseconds from which the service makes it usable.
        until_us: u64,
    },
    /// A key that was just made the primary key, or a replica: works, but is not managed meanwhile.
    Updating {
        /// Unix microseconds from which the service ends that.
        until_us: u64,
    },
    /// No use and no change but its cancelling; gone after the date.
    PendingDeletion {
        /// Unix microseconds from which the deletion job removes the key.
        deletion_us: u64,
    },
    /// A primary key that shall be deleted and has replicas: the waiting period begins when the last of them is gone.
    PendingReplicaDeletion {
        /// The waiting period, in days.
        window_days: u32,
    },
}

impl KeyState {
    /// AWS's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Enabled => "Enabled",
            Self::Disabled => "Disabled",
            Self::PendingImport => "PendingImport",
            Self::Creating { .. } => "Creating",
            Self::Updating { .. } => "Updating",
            Self::PendingDeletion { .. } => "PendingDeletion",
            Self::PendingReplicaDeletion { .. } => "PendingReplicaDeletion",
        }
    }

    /// The date of deletion, while one is set.
    pub fn deletion_us(self) -> Option<u64> {
        match self {
            Self::PendingDeletion { deletion_us } => Some(deletion_us),
            _ => None,
        }
    }

    /// When a transient state ends.
    pub fn until_us(self) -> Option<u64> {
        match self {
            Self::Creating { until_us } | Self::Updating { until_us } => Some(until_us),
            _ => None,
        }
    }

    /// Of a replica that is made now.
    pub fn creating(now_us: u64) -> Self {
        Self::Creating { until_us: now_us + TRANSIENT_US }
    }

    /// Of a key that is made the primary key, or a replica, now.
    pub fn updating(now_us: u64) -> Self {
        Self::Updating { until_us: now_us + TRANSIENT_US }
    }

    /// The waiting period that has not begun, in days.
    pub fn window_days(self) -> Option<u32> {
        match self {
            Self::PendingReplicaDeletion { window_days } => Some(window_days),
            _ => None,
        }
    }

    /// Whether the key shall be deleted.
    pub fn is_pending_deletion(self) -> bool {
        matches!(self, Self::PendingDeletion { .. } | Self::PendingReplicaDeletion { .. })
    }
}

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

/// The schedule of a key that rotates by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AutomaticRotation {
    /// Days between two rotations.
    pub period_days: u32,
    /// Unix microseconds of the next one.
    pub next_us: u64,
}

impl AutomaticRotation {
    /// A schedule whose first period begins now.
    pub fn starting(period_days: u32, now_us: u64) -> Self {
        Self { period_days, next_us: now_us.saturating_add(u64::from(period_days) * DAY_US) }
    }
}

/// What the service itself does to a key when a date comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DueKind {
    /// It is deleted.
    Deletion,
    /// It gets new material.
    Rotation,
    /// Its imported material ends.
    Expiry,
    /// It is made equal to its related keys, which ends [`KeyState::Creating`] and [`KeyState::Updating`].
    Synchronization,
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
    /// The service whose key it is, which nobody else manages or uses; none for keys of customers.
    pub service: Option<Box<str>>,
    /// Its related keys in other regions and itself; none for keys of one region.
    pub family: Option<Arc<Family>>,
    /// Id of the material that encrypts, also while imported material is away; none before the first import.
    current: Option<MaterialId>,
    /// The material that encrypts, shared between the records of one key; none while imported material is away.
    material: Option<Arc<Material>>,
    /// Former material, oldest first: it decrypts what it encrypted.
    former: Vec<Arc<Material>>,
}

/// A key whose material may be used: proof that its state was looked at. It gives out the one secret that fits the
/// key's usage.
pub struct UsableKey<'a> {
    key: &'a KeyRecord,
    material: &'a Material,
}

/// A symmetric key in use.
pub struct SymmetricKey<'a> {
    key: &'a KeyRecord,
    id: MaterialId,
    current: &'a KeyMaterial,
}

impl<'a> UsableKey<'a> {
    /// For ENCRYPT_DECRYPT with a symmetric key.
    pub fn symmetric(&self) -> Option<SymmetricKey<'a>> {
        match &self.material.secret {
            SecretHalf::Symmetric(current) => Some(SymmetricKey { key: self.key, id: self.material.id, current }),
            _ => None,
        }
    }

    /// For ENCRYPT_DECRYPT with an RSA key.
    pub fn decrypting(&self) -> Option<&'a DecryptingKey> {
        match &self.material.secret {
            SecretHalf::Decrypting(key) => Some(key),
            _ => None,
        }
    }

    /// For SIGN_VERIFY.
    pub fn signing(&self) -> Option<&'a SigningKey> {
        match &self.material.secret {
            SecretHalf::Signing(key) => Some(key),
            _ => None,
        }
    }

    /// For GENERATE_VERIFY_MAC.
    pub fn mac(&self) -> Option<&'a MacKey> {
        match &self.material.secret {
            SecretHalf::Mac(key) => Some(key),
            _ => None,
        }
    }

    /// For KEY_AGREEMENT.
    pub fn agreement(&self) -> Option<&'a AgreementKey> {
        match &self.material.secret {
            SecretHalf::Agreement(key) => Some(key),
            _ => None,
        }
    }

    /// The public half, which only asymmetric keys have.
    pub fn public_key(&self) -> Option<Result<Vec<u8>, CryptoFailure>> {
        self.material.secret.public_key()
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
        let found = self.key.materials().find(|material| material.id == header.material_id);
        match found.map(|material| &material.secret) {
            Some(SecretHalf::Symmetric(material)) => ciphertext::decrypt(material, blob, context),
            _ => Err(InvalidCiphertext),
        }
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
            service: None,
            family: id.multi_region.then(|| Arc::new(Family::of_primary(id.region))),
            current: material.as_ref().map(|material| material.id),
            material,
            former: Vec::new(),
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

    /// All material, oldest first; the last is the current one.
    pub fn materials(&self) -> impl Iterator<Item = &Arc<Material>> {
        self.former.iter().chain(&self.material)
    }

    /// What it is among its related keys; none for keys of one region.
    pub fn key_type(&self) -> Option<MultiRegionKeyType> {
        self.family.as_ref().map(|family| family.key_type(self.id.region))
    }

    /// Whether it follows a primary key in another region.
    pub fn is_replica(&self) -> bool {
        self.key_type() == Some(MultiRegionKeyType::Replica)
    }

    /// The regions of its related keys, without its own.
    pub fn related_regions(&self) -> impl Iterator<Item = Region> + use<> {
        let own = self.id.region;
        let regions = self.family.as_ref().map(|family| family.regions()).unwrap_or_default();
        regions.into_iter().filter(move |region| *region != own)
    }

    /// Which rotation is due. A disabled key does not rotate; when it is enabled again it catches up. A replica rotates
    /// with its primary key.
    pub fn rotation_due(&self, now_us: u64) -> Option<RotationType> {
        if self.state != KeyState::Enabled || self.is_replica() {
            return None;
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
        let expiry = self.valid_to_us.map(|at_us| (at_us, DueKind::Expiry));
        let synchronization = self.state.until_us().map(|at_us| (at_us, DueKind::Synchronization));
        deletion.into_iter().chain(rotation).chain(expiry).chain(synchronization)
    }

    /// The key for cryptographic use, if its state allows that. Imported material ends on its date, not when the job
    /// that deletes it gets there.
    pub fn usable(&self, now_us: u64) -> Result<UsableKey<'_>, KeyState> {
        let ended = self.valid_to_us.is_some_and(|valid_to_us| valid_to_us <= now_us);
        match (self.state, &self.material) {
            (KeyState::Enabled | KeyState::Updating { .. }, Some(material)) if !ended => {
                Ok(UsableKey { key: self, material })
            }
            (KeyState::Enabled | KeyState::Updating { .. }, _) => Err(KeyState::PendingImport),
            (other, _) => Err(other),
        }
    }

    /// Id of the current material, also while imported material is away; not a secret.
    pub fn material_id(&self) -> Option<String> {
        self.current.map(|id| id.to_string())
    }

    /// Whether its material is here.
    pub fn has_material(&self) -> bool {
        self.material.is_some()
    }

    /// Secret bytes as the store keeps them, wrapped for this key and its related keys only.
    pub fn wrapped(&self, root: &RootKey, secret: &SecretBytes) -> Result<Vec<u8>, WrapError> {
        let key_id = self.id.to_string();
        let material_id = self.current.ok_or(WrapError::Owner)?;
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

    /// A copy among other related keys.
    pub fn with_family(&self, family: Arc<Family>) -> Self {
        Self { family: Some(family), ..self.clone() }
    }

    /// A copy that has what related keys share with this one: material, its rotation, and who is related. What was
    /// imported into each region stays as it is there.
    pub fn follow(&self, primary: &Self) -> Self {
        let mut copy = self.with_rotation(primary.rotation, primary.on_demand_us);
        copy.family = primary.family.clone();
        if self.kind.origin != Origin::External {
            (copy.current, copy.material, copy.former) =
                (primary.current, primary.material.clone(), primary.former.clone());
        }
        copy
    }

    /// Whether it has what related keys must share with their primary key.
    pub fn shares_with(&self, primary: &Self) -> bool {
        let former = |key: &Self| key.former.iter().map(|material| material.id).collect::<Vec<_>>();
        let imported = self.kind.origin == Origin::External;
        self.kind == primary.kind
            && self.current == primary.current
            && (imported || former(self) == former(primary))
            && (self.rotation, self.on_demand_us) == (primary.rotation, primary.on_demand_us)
    }

    /// A replica of this primary key in a region where there is none, under a policy of its own. Imported material has to
    /// be imported there, too, and be the same.
    pub fn replica(&self, region: Region, created_us: u64, policy: (Arc<KeyPolicy>, Uuid)) -> Self {
        let id = self.id.in_region(region);
        let copy = Self::new(id, self.account, self.kind, created_us, policy, None).follow(self);
        Self { state: KeyState::creating(created_us), current: self.current, ..copy }
    }

    /// The state that follows when a key has been made equal to its related keys.
    pub fn synchronized_state(&self) -> KeyState {
        match self.state {
            KeyState::Creating { .. } if self.material.is_none() => KeyState::PendingImport,
            KeyState::Creating { .. } | KeyState::Updating { .. } if self.material.is_some() => KeyState::Enabled,
            other => other,
        }
    }

    /// A copy with imported material. A key that waited for it is enabled, unless it was not when the former went.
    pub fn with_imported(&self, material: Arc<Material>, valid_to_us: Option<u64>) -> Self {
        let state = match self.state {
            KeyState::PendingImport if self.comes_back_disabled => KeyState::Disabled,
            KeyState::PendingImport => KeyState::Enabled,
            other => other,
        };
        let (current, material) = (Some(material.id), Some(material));
        Self { state, valid_to_us, comes_back_disabled: false, current, material, ..self.clone() }
    }

    /// A copy without its imported material, whose id it keeps. That a key was disabled outlasts its material: whoever
    /// may import must not be able to enable.
    pub fn without_material(&self) -> Self {
        let state = if self.state.is_pending_deletion() { self.state } else { KeyState::PendingImport };
        let comes_back_disabled = if self.material.is_some() {
            !matches!(self.state, KeyState::Enabled | KeyState::Updating { .. })
        } else {
            self.comes_back_disabled
        };
        Self { state, valid_to_us: None, comes_back_disabled, material: None, ..self.clone() }
    }

    /// The state that a key comes back to when its deletion is cancelled.
    pub fn state_without_deletion(&self) -> KeyState {
        if self.material.is_some() { KeyState::Disabled } else { KeyState::PendingImport }
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

    /// The image that events carry in `before` and `after`; the lake's `keys` table is folded from it.
    pub fn image(&self) -> Value {
        let mut image = Map::new();
        let mut put = |name: &str, value: Value| image.insert(name.to_owned(), value);
        put("keyArn", self.arn().into());
        put("account", self.account.as_str().into());
        put("region", self.id.region.as_str().into());
        put("keyId", self.id.to_string().into());
        put("keyState", self.state.name().into());
        put("description", (*self.description).into());
        put("keySpec", self.kind.spec.name().into());
        put("keyUsage", self.kind.usage.name().into());
        put("origin", self.kind.origin.name().into());
        put("keyManager", self.manager().into());
        if let Some(service) = &self.service {
            put("service", (**service).into());
        }
        put("createdAt", rfc3339_micros(self.created_us).into());
        if let Some(deletion_us) = self.state.deletion_us() {
            put("deletionDate", rfc3339_micros(deletion_us).into());
        }
        if let Some(window_days) = self.state.window_days() {
            put("pendingWindowInDays", window_days.into());
        }
        if let Some(family) = &self.family {
            put("multiRegionKeyType", family.key_type(self.id.region).name().into());
            put("primaryRegion", family.primary.as_str().into());
            if !self.is_replica() {
                put("replicaRegions", family.replicas.iter().map(Region::as_str).collect());
            }
        }
        let tags: Map<String, Value> =
            self.tags.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        put("tags", tags.into());
        put("policySha256", hex::encode(self.policy.sha256).into());
        if let Some(material_id) = self.material_id() {
            put("keyMaterialId", material_id.into());
        }
        if let Some(model) = self.expiration_model() {
            put("expirationModel", model.name().into());
        }
        if let Some(valid_to_us) = self.valid_to_us {
            put("validTo", rfc3339_micros(valid_to_us).into());
        }
        if self.comes_back_disabled {
            put("comesBackDisabled", true.into());
        }
        if let Some(rotation) = self.rotation {
            put("rotationPeriodInDays", rotation.period_days.into());
            put("nextRotationDate", rfc3339_micros(rotation.next_us).into());
        }
        if let Some(on_demand_us) = self.on_demand_us {
            put("onDemandRotationStartDate", rfc3339_micros(on_demand_us).into());
        }
        image.into()
    }

    /// AWS's word for who manages it.
    fn manager(&self) -> &'static str {
        if self.service.is_some() { "AWS" } else { "CUSTOMER" }
    }

    /// Whether imported material ends by itself; none while there is none.
    pub fn expiration_model(&self) -> Option<ExpirationModel> {
        let imported = self.kind.origin == Origin::External && self.material.is_some();
        let model = if self.valid_to_us.is_some() { ExpirationModel::Expires } else { ExpirationModel::DoesNotExpire };
        imported.then_some(model)
    }

    /// `KeyMetadata` as DescribeKey and CreateKey answer it; members that do not apply are absent.
    pub fn metadata(&self) -> Value {
        let KeyKind { spec, usage, origin } = self.kind;
        let mut metadata = Map::new();
        let mut put = |name: &str, value: Value| metadata.insert(name.to_owned(), value);
        put("AWSAccountId", self.account.as_str().into());
        put("KeyId", self.id.to_string().into());
        put("Arn", self.arn().into());
        put("CreationDate", epoch_seconds(self.created_us));
        put("Enabled", (self.state == KeyState::Enabled).into());
        put("Description", (*self.description).into());
        put("KeyUsage", usage.name().into());
        put("KeyState", self.state.name().into());
        put("Origin", origin.name().into());
        put("KeyManager", self.manager().into());
        put("CustomerMasterKeySpec", spec.name().into());
        put("KeySpec", spec.name().into());
        for (name, algorithms) in self.kind.algorithm_lists() {
            put(name, algorithms.into());
        }
        put("MultiRegion", self.family.is_some().into());
        if let Some(family) = &self.family {
            put("MultiRegionConfiguration", family.configuration(self.account, self.id));
        }
        if let (true, Some(material_id)) = (self.kind.is_symmetric_encryption(), self.material_id()) {
            put("CurrentKeyMaterialId", material_id.into());
        }
        if let Some(model) = self.expiration_model() {
            put("ExpirationModel", model.name().into());
        }
        if let Some(valid_to_us) = self.valid_to_us {
            put("ValidTo", epoch_seconds(valid_to_us));
        }
        if let Some(deletion_us) = self.state.deletion_us() {
            put("DeletionDate", epoch_seconds(deletion_us));
        }
        if let Some(window_days) = self.state.window_days() {
            put("PendingDeletionWindowInDays", window_days.into());
        }
        metadata.into()
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

/// A JSON number of seconds with milliseconds, as the JSON protocol writes times.
pub fn epoch_seconds(time_us: u64) -> Value {
    // Milliseconds of this century fit a double exactly enough for SDKs, which round to them.
    #[allow(clippy::cast_precision_loss)]
    let seconds = (time_us / 1_000) as f64 / 1_000.0;
    seconds.into()
}

/// `2026-01-05T12:00:00.000000Z`.
pub fn rfc3339_micros(time_us: u64) -> String {
    timestamp(time_us).to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

/// `2026-01-05T12:00:00Z`.
pub fn rfc3339_seconds(time_us: u64) -> String {
    timestamp(time_us).to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

fn timestamp(time_us: u64) -> chrono::DateTime<chrono::Utc> {
    i64::try_from(time_us).ok().and_then(chrono::DateTime::from_timestamp_micros).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::policy::{Flavor, default_key_policy};

    /// A key that never had material.
    fn waiting() -> KeyRecord {
        let kind = KeyKind { origin: Origin::External, ..KeyKind::SYMMETRIC };
        let account = AccountId::parse("123456789012").unwrap();
        let text = default_key_policy("123456789012");
        let policy = PolicyPool::default().policy(&text, |text| Document::parse(text, Flavor::KeyPolicy)).unwrap();
        let id = KeyId::single(Region::parse("eu-central-1").unwrap(), Uuid::nil());
        KeyRecord::new(id, account, kind, 1, (policy, Uuid::nil()), None)
    }

    fn material() -> Arc<Material> {
        let secret = SecretHalf::read(KeyKind::SYMMETRIC, &[7; 32]).unwrap();
        Arc::new(Material::new(MaterialId([1; 32]), secret, 1, None))
    }

    /// The job that deletes ended material may be late, or the journal too full for its event.
    #[test]
    fn imported_material_ends_on_its_date() {
        let waiting = waiting();
        assert_eq!(waiting.usable(5).err(), Some(KeyState::PendingImport));
        let key = waiting.with_imported(material(), Some(10));
        assert!(key.usable(9).is_ok());
        assert_eq!(key.usable(10).err(), Some(KeyState::PendingImport));
        assert!(waiting.with_imported(material(), None).usable(u64::MAX).is_ok());
    }

    #[test]
    fn a_disabled_key_is_disabled_when_its_material_comes_back() {
        let waiting = waiting();
        let import = |key: &KeyRecord| key.with_imported(material(), None);
        let key = import(&waiting);
        let states = [
            (KeyState::Enabled, KeyState::Enabled),
            (KeyState::Disabled, KeyState::Disabled),
            (KeyState::PendingDeletion { deletion_us: 9 }, KeyState::Disabled),
        ];
        for (before, back) in states {
            // Deleting what is not there changes nothing.
            let away = key.with_state(before).without_material().without_material();
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
