//! Multi-Region keys while a start reads them: their shared material is opened once, and what they must share is compared.

use crate::crypto::{MaterialId, RootKey, SecretHalf, WrapError, wrap};
use crate::key::{self, AccountId, Family, KeyId, KeyRecord, Material, Region};
use crate::recover::StartError;
use crate::spec::KeyKind;
use crate::store::{LoadedMaterial, StoreError};
use std::collections::HashMap;
use std::sync::Arc;
use uuid::Uuid;

/// Multi-Region keys while they are read, until all related keys are there.
#[derive(Default)]
pub(crate) struct Related {
    /// Each with the region of its primary key.
    pub(crate) records: Vec<(KeyRecord, Region)>,
    /// Material that related keys share.
    materials: HashMap<MaterialId, Arc<Material>>,
}

impl Related {
    /// Opens one generation of a key's material, or takes what a related key has opened.
    pub(crate) fn material(
        &mut self,
        root: &RootKey,
        (account, id, kind): (AccountId, KeyId, KeyKind),
        stored: LoadedMaterial,
    ) -> Result<Arc<Material>, StartError> {
        let material_id = MaterialId::from_hex(&stored.id).ok_or(StoreError::Row { table: "key_materials" })?;
        if let Some(shared) = self.materials.get(&material_id).filter(|_| id.multi_region) {
            return Ok(Arc::clone(shared));
        }
        let key_id = id.to_string();
        let owner = key::owner(account.as_str(), &id, &key_id, material_id);
        let secret = wrap::unwrap(root, &owner, kind, &stored.wrapped)
            .and_then(|bytes| SecretHalf::read(kind, &bytes).map_err(|_| WrapError::Damaged))
            .map_err(|source| StartError::Material { key_id, source })?;
        let material = Arc::new(Material::new(material_id, secret, stored.created_us, stored.rotation));
        if id.multi_region {
            self.materials.insert(material_id, Arc::clone(&material));
        }
        Ok(material)
    }

    /// All keys, each with its family. Related keys that do not name one primary key, or do not share what they must, were
    /// not written by this service.
    pub(crate) fn keys(self) -> Result<Vec<KeyRecord>, StartError> {
        let wrong = || StartError::from(StoreError::Row { table: "keys" });
        let mut families: HashMap<(AccountId, Uuid), Family> = HashMap::new();
        for (key, primary) in &self.records {
            let of = || Family::of_primary(*primary);
            let family = families.entry((key.account, key.id.uuid)).or_insert_with(of);
            if family.primary != *primary {
                return Err(wrong());
            }
            if key.id.region != *primary {
                family.replicas.insert(key.id.region);
            }
        }
        let families: HashMap<_, _> = families.into_iter().map(|(of, family)| (of, Arc::new(family))).collect();
        let keys: Vec<KeyRecord> = self
            .records
            .into_iter()
            .map(|(key, _)| key.with_family(Arc::clone(&families[&(key.account, key.id.uuid)])))
            .collect();
        let primaries: HashMap<_, _> =
            keys.iter().filter(|key| !key.is_replica()).map(|key| ((key.account, key.id.uuid), key)).collect();
        for key in &keys {
            let primary = primaries.get(&(key.account, key.id.uuid)).ok_or_else(wrong)?;
            if !key.shares_with(primary) {
                return Err(wrong());
            }
        }
        Ok(keys)
    }
}
