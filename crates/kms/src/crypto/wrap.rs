//! Secrets at rest: any key's material under the root key, bound to whose it is and what kind of key that is.
//!
//! A row copied onto another key, or a key whose spec or usage was changed in the store, does not open. Version 1 held
//! symmetric material only and did not name the kind; it is read, never written. Layout: docs/ciphertext.md, "Wrapped
//! key material".

use aws_lc_rs::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};
use zeroize::Zeroizing;

use super::material::{KEY_ID_BYTES_MAX, Owner, REGION_BYTES_MAX};
use super::root_key::RootKey;
use super::{CryptoFailure, is_account, is_label, push_short, random};
use crate::spec::{KeyKind, KeySpec, KeyUsage};

/// Longest secret; an RSA_4096 private key has some 2,400 bytes.
const SECRET_BYTES_MAX: usize = 16 * 1024;
const TAG_BYTES: usize = 16;
/// Symmetric material without its kind.
const VERSION_1: u8 = 1;
const VERSION_2: u8 = 2;
const LABEL_1: &[u8] = b"keytrail wrapped material v1";
const LABEL_2: &[u8] = b"keytrail wrapped material v2";

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

/// Encrypts a secret for the store.
pub fn wrap(root: &RootKey, owner: &Owner<'_>, kind: KeyKind, secret: &[u8]) -> Result<Vec<u8>, WrapError> {
    if secret.len() > SECRET_BYTES_MAX {
        return Err(WrapError::Owner);
    }
    seal(root.wrapping(), &owner.aad(VERSION_2, kind)?, VERSION_2, secret)
}

/// Decrypts a secret from the store.
pub fn unwrap(
    root: &RootKey,
    owner: &Owner<'_>,
    kind: KeyKind,
    wrapped: &[u8],
) -> Result<Zeroizing<Vec<u8>>, WrapError> {
    let version = wrapped.first().copied().ok_or(WrapError::Damaged)?;
    open(root.wrapping(), &owner.aad(version, kind)?, wrapped)
}

/// The same secret under another root key, in the newest form.
pub fn rewrap(
    (old, new): (&RootKey, &RootKey),
    owner: &Owner<'_>,
    kind: KeyKind,
    wrapped: &[u8],
) -> Result<Vec<u8>, WrapError> {
    wrap(new, owner, kind, &unwrap(old, owner, kind, wrapped)?)
}

/// `version || nonce || ciphertext || tag` under a key derived from the root key.
pub(super) fn seal(key: &LessSafeKey, aad: &[u8], version: u8, secret: &[u8]) -> Result<Vec<u8>, WrapError> {
    let nonce: [u8; NONCE_LEN] = random()?;
    // Large enough from the start: growing would leave copies of the secret behind.
    let mut out = Vec::with_capacity(1 + NONCE_LEN + secret.len() + TAG_BYTES);
    out.push(version);
    out.extend_from_slice(&nonce);
    out.extend_from_slice(secret);
    let text = out.get_mut(1 + NONCE_LEN..).ok_or(CryptoFailure)?;
    let tag = key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), text);
    out.extend_from_slice(tag.map_err(|_| CryptoFailure)?.as_ref());
    Ok(out)
}

/// Opens what `seal` made; the version was looked at by the caller.
pub(super) fn open(key: &LessSafeKey, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, WrapError> {
    if sealed.len() > 1 + NONCE_LEN + SECRET_BYTES_MAX + TAG_BYTES {
        return Err(WrapError::Damaged);
    }
    let (_, rest) = sealed.split_first().ok_or(WrapError::Damaged)?;
    let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or(WrapError::Damaged)?;
    let mut secret = Zeroizing::new(sealed.to_vec());
    let opened = key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(aad), &mut secret);
    let length = opened.map_err(|_| WrapError::Damaged)?.len();
    secret.truncate(length);
    Ok(secret)
}

impl Owner<'_> {
    fn aad(&self, version: u8, kind: KeyKind) -> Result<Vec<u8>, WrapError> {
        let Self { account, region, key_id, material_id } = self;
        if !is_account(account) || !is_label(region, REGION_BYTES_MAX) || !is_label(key_id, KEY_ID_BYTES_MAX) {
            return Err(WrapError::Owner);
        }
        let symmetric = (kind.spec, kind.usage) == (KeySpec::SymmetricDefault, KeyUsage::EncryptDecrypt);
        let mut aad = Vec::with_capacity(192);
        aad.extend_from_slice(match version {
            VERSION_1 if symmetric => LABEL_1,
            VERSION_2 => LABEL_2,
            _ => return Err(WrapError::Damaged),
        });
        for text in [account, region, key_id] {
            push_short(&mut aad, text);
        }
        if version == VERSION_2 {
            push_short(&mut aad, kind.spec.name());
            push_short(&mut aad, kind.usage.name());
        }
        aad.extend_from_slice(&material_id.0);
        Ok(aad)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::super::MaterialId;
    use super::*;

    const KEY_ID: &str = "1234abcd-12ab-34cd-56ef-1234567890ab";

    #[test]
    fn wrapped_material_opens_only_where_it_belongs() {
        let folder = tempfile::tempdir().unwrap();
        let root = RootKey::create(&folder.path().join("a")).unwrap();
        let other = RootKey::create(&folder.path().join("b")).unwrap();
        let kind = KeyKind { spec: KeySpec::Hmac256, usage: KeyUsage::GenerateVerifyMac, ..KeyKind::SYMMETRIC };
        let secret = [7; 32];
        let material_id = MaterialId::generate().unwrap();
        let owner = Owner { account: "111122223333", region: "eu-central-1", key_id: KEY_ID, material_id };
        let wrapped = wrap(&root, &owner, kind, &secret).unwrap();
        assert_eq!(wrapped.len(), 1 + 12 + 32 + 16);
        assert_eq!(unwrap(&root, &owner, kind, &wrapped).unwrap().as_slice(), secret);
        let strangers = [
            Owner { account: "444455556666", ..owner },
            Owner { region: "us-east-1", ..owner },
            Owner { key_id: "another", ..owner },
            Owner { material_id: MaterialId([0; 32]), ..owner },
            Owner { key_id: "NOT A KEY", ..owner },
        ];
        assert!(strangers.iter().all(|stranger| unwrap(&root, stranger, kind, &wrapped).is_err()));
        assert!(unwrap(&root, &owner, KeyKind::SYMMETRIC, &wrapped).is_err(), "another spec");
        assert!(unwrap(&root, &owner, KeyKind { usage: KeyUsage::SignVerify, ..kind }, &wrapped).is_err());
        assert!(unwrap(&other, &owner, kind, &wrapped).is_err());
        for bit in 0..wrapped.len() * 8 {
            let mut bad = wrapped.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(unwrap(&root, &owner, kind, &bad).is_err());
        }
        assert!((0..wrapped.len()).all(|length| unwrap(&root, &owner, kind, &wrapped[..length]).is_err()));
        assert!(wrap(&root, &owner, kind, &vec![0; SECRET_BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn the_first_version_opens_for_symmetric_keys_only() {
        let folder = tempfile::tempdir().unwrap();
        let root = RootKey::create(&folder.path().join("a")).unwrap();
        let material_id = MaterialId([1; 32]);
        let owner = Owner { account: "111122223333", region: "eu-central-1", key_id: KEY_ID, material_id };
        let old =
            seal(root.wrapping(), &owner.aad(VERSION_1, KeyKind::SYMMETRIC).unwrap(), VERSION_1, &[7; 32]).unwrap();
        assert_eq!(unwrap(&root, &owner, KeyKind::SYMMETRIC, &old).unwrap().as_slice(), [7; 32]);
        let mac = KeyKind { spec: KeySpec::Hmac256, usage: KeyUsage::GenerateVerifyMac, ..KeyKind::SYMMETRIC };
        assert!(unwrap(&root, &owner, mac, &old).is_err());
    }
}
