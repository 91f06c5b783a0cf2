//! A key's material: 32 secret bytes, their public id, and their wrapped form in the store.
//!
//! The wrapped form is bound to account, region, key id and material id, so a row copied onto another key does not
//! unwrap. Layout: docs/ciphertext.md, "Wrapped key material".

use std::fmt;

use aws_lc_rs::aead::AES_256_GCM;
use aws_lc_rs::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use zeroize::Zeroizing;

use super::root_key::RootKey;
use super::{CryptoFailure, is_account, is_label, push_short, random};

/// Length of symmetric key material.
pub const MATERIAL_BYTES: usize = 32;

/// Length of wrapped material: version, nonce, material, tag.
pub const WRAPPED_BYTES: usize = 1 + NONCE_LEN + MATERIAL_BYTES + 16;

const WRAP_VERSION: u8 = 1;
const WRAP_AAD_LABEL: &[u8] = b"keytrail wrapped material v1";

/// Longest region name.
pub(super) const REGION_BYTES_MAX: usize = 32;
/// Longest key id; a UUID has 36 bytes.
pub(super) const KEY_ID_BYTES_MAX: usize = 64;

/// Names one generation of a key's material: 32 random bytes, written as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MaterialId(pub [u8; 32]);

impl MaterialId {
    /// A new random id.
    pub fn generate() -> Result<Self, CryptoFailure> {
        Ok(Self(random()?))
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

impl fmt::Debug for MaterialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MaterialId({self})")
    }
}

/// Whose material it is; bound into the wrapped form.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// Twelve digits.
    pub account: &'a str,
    /// As in ARNs.
    pub region: &'a str,
    /// As in ARNs.
    pub key_id: &'a str,
    /// Which generation.
    pub material_id: MaterialId,
}

/// Why material could not be wrapped or unwrapped.
#[derive(Debug, thiserror::Error)]
pub enum WrapError {
    /// Account, region or key id is not of the form that headers hold.
    #[error("owner of key material is malformed")]
    Owner,
    /// Damaged, moved from another key, or wrapped under another root key.
    #[error("wrapped key material does not open")]
    Damaged,
    /// Random source or cipher.
    #[error("wrap key material")]
    Crypto(#[from] CryptoFailure),
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

    /// Encrypts the material for the store.
    pub fn wrap(&self, root: &RootKey, owner: &Owner<'_>) -> Result<Vec<u8>, WrapError> {
        let nonce: [u8; NONCE_LEN] = random()?;
        let mut sealed = Zeroizing::new(*self.0);
        let aad = Aad::from(owner.aad()?);
        let tag = root
            .wrapping
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, sealed.as_mut_slice())
            .map_err(|_| CryptoFailure)?;
        let mut out = Vec::with_capacity(WRAPPED_BYTES);
        out.push(WRAP_VERSION);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(sealed.as_slice());
        out.extend_from_slice(tag.as_ref());
        Ok(out)
    }

    /// Decrypts material from the store.
    pub fn unwrap(root: &RootKey, owner: &Owner<'_>, wrapped: &[u8]) -> Result<Self, WrapError> {
        let wrapped: &[u8; WRAPPED_BYTES] = wrapped.try_into().map_err(|_| WrapError::Damaged)?;
        let (version, rest) = wrapped.split_first().ok_or(WrapError::Damaged)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or(WrapError::Damaged)?;
        if *version != WRAP_VERSION {
            return Err(WrapError::Damaged);
        }
        let mut buffer = Zeroizing::new([0; MATERIAL_BYTES + 16]);
        buffer.copy_from_slice(sealed);
        let opened = root
            .wrapping
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(owner.aad()?), buffer.as_mut_slice())
            .map_err(|_| WrapError::Damaged)?;
        let mut bytes = Zeroizing::new([0; MATERIAL_BYTES]);
        bytes.copy_from_slice(opened);
        Ok(Self(bytes))
    }

    /// The AES-256-GCM key of one message.
    pub(super) fn message_key(&self, salt: &[u8], info: &[&[u8]]) -> Result<LessSafeKey, CryptoFailure> {
        let derived = Salt::new(HKDF_SHA256, salt).extract(self.0.as_slice());
        let key = derived.expand(info, &AES_256_GCM).map_err(|_| CryptoFailure)?;
        Ok(LessSafeKey::new(UnboundKey::from(key)))
    }

    #[cfg(test)]
    pub(super) fn from_bytes(bytes: [u8; MATERIAL_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl Owner<'_> {
    fn aad(&self) -> Result<Vec<u8>, WrapError> {
        let Self { account, region, key_id, material_id } = self;
        if !is_account(account) || !is_label(region, REGION_BYTES_MAX) || !is_label(key_id, KEY_ID_BYTES_MAX) {
            return Err(WrapError::Owner);
        }
        let mut aad = Vec::with_capacity(160);
        aad.extend_from_slice(WRAP_AAD_LABEL);
        for text in [account, region, key_id] {
            push_short(&mut aad, text);
        }
        aad.extend_from_slice(&material_id.0);
        Ok(aad)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    const KEY_ID: &str = "1234abcd-12ab-34cd-56ef-1234567890ab";

    #[test]
    fn wrapped_material_opens_only_where_it_belongs() {
        let folder = tempfile::tempdir().unwrap();
        let root = RootKey::create(&folder.path().join("a")).unwrap();
        let other = RootKey::create(&folder.path().join("b")).unwrap();
        let material = KeyMaterial::generate().unwrap();
        let material_id = MaterialId::generate().unwrap();
        let owner = Owner { account: "111122223333", region: "eu-central-1", key_id: KEY_ID, material_id };
        let wrapped = material.wrap(&root, &owner).unwrap();
        assert_eq!(wrapped.len(), WRAPPED_BYTES);
        assert!(KeyMaterial::unwrap(&root, &owner, &wrapped).is_ok_and(|same| *same.0 == *material.0));
        let strangers = [
            Owner { account: "444455556666", ..owner },
            Owner { region: "us-east-1", ..owner },
            Owner { key_id: "another", ..owner },
            Owner { material_id: MaterialId([0; 32]), ..owner },
            Owner { key_id: "NOT A KEY", ..owner },
        ];
        assert!(strangers.iter().all(|stranger| KeyMaterial::unwrap(&root, stranger, &wrapped).is_err()));
        assert!(KeyMaterial::unwrap(&other, &owner, &wrapped).is_err());
        for bit in 0..wrapped.len() * 8 {
            let mut bad = wrapped.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(KeyMaterial::unwrap(&root, &owner, &bad).is_err());
        }
        assert!(KeyMaterial::unwrap(&root, &owner, &wrapped[1..]).is_err());
        assert_eq!(MaterialId::from_hex(&material_id.to_string()), Some(material_id));
        assert_eq!(MaterialId::from_hex(&material_id.to_string().to_uppercase().replace('0', "A")), None);
    }
}
