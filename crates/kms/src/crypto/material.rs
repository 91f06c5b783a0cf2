//! Symmetric key material: 32 secret bytes, and the public id that each generation of any key's material has.
//!
//! How it lies in the store is `wrap`'s business, what it encrypts `ciphertext`'s.

use std::fmt;

use aws_lc_rs::aead::AES_256_GCM;
use aws_lc_rs::aead::{LessSafeKey, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use zeroize::Zeroizing;

use super::root_key::RootKey;
use super::wrap::{self, WrapError};
use super::{CryptoFailure, push_short, random};
use crate::spec::KeyKind;

/// Length of symmetric key material.
pub const MATERIAL_BYTES: usize = 32;

const IMPORTED_LABEL: &[u8] = b"keytrail imported material v1";

/// Longest region name.
pub(super) const REGION_BYTES_MAX: usize = 32;
/// Longest key id; those of AWS have 36 bytes.
pub(super) const KEY_ID_BYTES_MAX: usize = 64;

/// Names one generation of a key's material: 32 random bytes, written as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MaterialId(pub [u8; 32]);

impl MaterialId {
    /// A new random id.
    pub fn generate() -> Result<Self, CryptoFailure> {
        Ok(Self(random()?))
    }

    /// The id of imported material: the same whenever the same material is imported into the same key, and telling
    /// nobody else what it is. `secret` is the material of a symmetric or HMAC key, `public` the public half of others.
    pub fn of_imported(
        owner: (&str, &str, &str),
        kind: KeyKind,
        material: Imported<'_>,
    ) -> Result<Self, CryptoFailure> {
        let (account, region, key_id) = owner;
        let mut names = Vec::with_capacity(192);
        for text in [account, region, key_id, kind.spec.name(), kind.usage.name()] {
            push_short(&mut names, text);
        }
        let (Imported::Secret(told) | Imported::Public(told)) = material;
        // Extracted first: an id in the log that came from the bare secret would be a MAC under an HMAC key of its owner.
        let derived = Salt::new(HKDF_SHA256, IMPORTED_LABEL).extract(told);
        let mut id = [0; 32];
        derived.expand(&[&names], HKDF_SHA256).and_then(|okm| okm.fill(&mut id)).map_err(|_| CryptoFailure)?;
        Ok(Self(id))
    }

    /// Reads 64 lower-case hex digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut id = [0; 32];
        hex::decode_to_slice(text, &mut id).ok()?;
        (hex::encode(id) == text).then_some(Self(id))
    }
}

impl fmt::Display for MaterialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl serde::Serialize for MaterialId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for MaterialId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
        Self::from_hex(&text).ok_or_else(|| serde::de::Error::custom("no id of key material"))
    }
}

impl fmt::Debug for MaterialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MaterialId({self})")
    }
}

/// What tells imported material from any other.
#[derive(Clone, Copy)]
pub enum Imported<'a> {
    /// The secret itself, which a key is derived from.
    Secret(&'a [u8]),
    /// The public half, which a private key can be written in several ways for.
    Public(&'a [u8]),
}

/// Whose material it is; bound into the wrapped form.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// Twelve digits.
    pub account: &'a str,
    /// As in ARNs; `multi-region` for keys that are in several.
    pub region: &'a str,
    /// As in ARNs.
    pub key_id: &'a str,
    /// Which generation.
    pub material_id: MaterialId,
}

/// Key material in clear. Never printed, cloned or serialised; wiped on drop.
pub struct KeyMaterial(Zeroizing<[u8; MATERIAL_BYTES]>);

impl KeyMaterial {
    /// New random material.
    pub fn generate() -> Result<Self, CryptoFailure> {
        let mut bytes = Zeroizing::new([0; MATERIAL_BYTES]);
        aws_lc_rs::rand::fill(bytes.as_mut_slice()).map_err(|_| CryptoFailure)?;
        Ok(Self(bytes))
    }

    /// Takes material over from bytes of the right length.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut own = Zeroizing::new([0; MATERIAL_BYTES]);
        if bytes.len() != MATERIAL_BYTES {
            return None;
        }
        own.copy_from_slice(bytes);
        Some(Self(own))
    }

    /// The bytes in clear, for wrapping them.
    pub(crate) fn expose(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// Encrypts the material for the store, as a symmetric key's.
    pub fn wrap(&self, root: &RootKey, owner: &Owner<'_>) -> Result<Vec<u8>, WrapError> {
        wrap::wrap(root, owner, KeyKind::SYMMETRIC, self.expose())
    }

    /// Decrypts a symmetric key's material from the store.
    pub fn unwrap(root: &RootKey, owner: &Owner<'_>, wrapped: &[u8]) -> Result<Self, WrapError> {
        Self::read(&wrap::unwrap(root, owner, KeyKind::SYMMETRIC, wrapped)?).ok_or(WrapError::Damaged)
    }

    /// The AES-256-GCM key of one message.
    pub(super) fn message_key(&self, salt: &[u8], info: &[&[u8]]) -> Result<LessSafeKey, CryptoFailure> {
        let derived = Salt::new(HKDF_SHA256, salt).extract(self.0.as_slice());
        let key = derived.expand(info, &AES_256_GCM).map_err(|_| CryptoFailure)?;
        Ok(LessSafeKey::new(UnboundKey::from(key)))
    }

    /// Takes bytes over.
    pub(super) fn from_bytes(bytes: Zeroizing<[u8; MATERIAL_BYTES]>) -> Self {
        Self(bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::spec::{KeySpec, KeyUsage};
    use aws_lc_rs::hmac;

    /// The id is computed by docs/ciphertext.md in an independent program (Python hmac). It must be nothing that the key
    /// answers to anyone: what it is derived from is not used as the key of a MAC.
    #[test]
    fn the_id_of_imported_material_is_no_mac_under_it() {
        let kind = KeyKind { spec: KeySpec::Hmac256, usage: KeyUsage::GenerateVerifyMac, ..KeyKind::SYMMETRIC };
        let owner = ("111122223333", "eu-central-1", "1234abcd-12ab-34cd-56ef-1234567890ab");
        let secret: Vec<u8> = (0..32).collect();
        let id = MaterialId::of_imported(owner, kind, Imported::Secret(&secret)).unwrap();
        assert_eq!(id.to_string(), "c89e4fb589f1aa90dd20e0327730aa36f1d43abdb50c328592c54c4d93edbe46");
        let mut names = Vec::new();
        for text in [owner.0, owner.1, owner.2, kind.spec.name(), kind.usage.name()] {
            push_short(&mut names, text);
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        for message in [names.clone(), [IMPORTED_LABEL, &names].concat(), [&names[..], &[1]].concat()] {
            assert_ne!(hmac::sign(&key, &message).as_ref(), id.0);
        }
        let other = (owner.0, owner.1, "another");
        assert_ne!(MaterialId::of_imported(other, kind, Imported::Secret(&secret)).unwrap(), id);
    }

    #[test]
    fn an_id_is_read_in_its_one_form() {
        let material_id = MaterialId::generate().unwrap();
        assert_eq!(MaterialId::from_hex(&material_id.to_string()), Some(material_id));
        assert_eq!(MaterialId::from_hex(&material_id.to_string().to_uppercase().replace('0', "A")), None);
        assert!(KeyMaterial::read(&[0; 31]).is_none() && KeyMaterial::read(&[0; 32]).is_some());
    }
}
