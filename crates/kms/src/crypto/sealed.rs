//! Small secrets sealed under the root key: session tokens, and what the store keeps of access keys and MFA seeds.
//!
//! Each is bound to what it is for and to whom it belongs, so a row moved to another user, or a seed presented as a
//! token, does not open. Every damage is one and the same error. Layout with a test vector: docs/ciphertext.md.

use aws_lc_rs::aead::{Aad, NONCE_LEN, Nonce};

use super::material::KeyMaterial;
use super::root_key::RootKey;
use super::secret::SecretBytes;
use super::{CryptoFailure, random};

/// Longest secret; a session token with its policies is the largest.
pub const SEALED_PLAINTEXT_BYTES_MAX: usize = 16 * 1024;

const VERSION: u8 = 1;
const SALT_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
const HEAD_BYTES: usize = 1 + SALT_BYTES + NONCE_LEN;
const KEY_LABEL: &[u8] = b"keytrail sealed secret v1";

/// What a secret is for; part of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A session token, in the hands of its caller.
    SessionToken,
    /// The secret of an access key, in the store.
    AccessKey,
    /// The seed of an MFA device, in the store.
    MfaSeed,
    /// The PIN of a custom key store's token, in the store.
    KeyStorePin,
    /// The keys of root keys of before, in the store.
    FormerKeys,
    /// The next root key, on its way to the node.
    Successor,
}

impl Purpose {
    fn label(self) -> &'static [u8] {
        match self {
            Self::SessionToken => b"session token",
            Self::AccessKey => b"access key",
            Self::MfaSeed => b"mfa seed",
            Self::KeyStorePin => b"key store pin",
            Self::FormerKeys => b"former root keys",
            Self::Successor => b"next root key",
        }
    }
}

/// Not sealed here, damaged, for another purpose or of another owner. Deliberately says no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sealed secret does not open")]
pub struct NotSealed;

/// Seals a secret of at most [`SEALED_PLAINTEXT_BYTES_MAX`] for one owner.
pub fn seal(root: &RootKey, purpose: Purpose, owner: &str, secret: &[u8]) -> Result<Vec<u8>, CryptoFailure> {
    seal_with(root, purpose, owner, secret, &random()?, &random()?)
}

fn seal_with(
    root: &RootKey,
    purpose: Purpose,
    owner: &str,
    secret: &[u8],
    salt: &[u8; SALT_BYTES],
    nonce: &[u8; NONCE_LEN],
) -> Result<Vec<u8>, CryptoFailure> {
    if secret.len() > SEALED_PLAINTEXT_BYTES_MAX {
        return Err(CryptoFailure);
    }
    // Large enough from the start: growing would leave copies of the secret behind.
    let mut blob = Vec::with_capacity(HEAD_BYTES + secret.len() + TAG_BYTES);
    blob.push(VERSION);
    blob.extend_from_slice(salt);
    blob.extend_from_slice(nonce);
    let aad = additional_data(&blob, owner);
    blob.extend_from_slice(secret);
    let key = root.sealing().message_key(salt, &[KEY_LABEL, purpose.label()])?;
    let text = blob.get_mut(HEAD_BYTES..).ok_or(CryptoFailure)?;
    let tag = key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(*nonce), aad, text);
    blob.extend_from_slice(tag.map_err(|_| CryptoFailure)?.as_ref());
    Ok(blob)
}

/// Opens what [`seal`] made for the same purpose and owner. What callers hold may be from under a root key of before.
pub fn open(root: &RootKey, purpose: Purpose, owner: &str, blob: &[u8]) -> Result<SecretBytes, NotSealed> {
    match purpose {
        Purpose::SessionToken => {
            root.caller_keys().find_map(|keys| open_with(&keys.sealing, purpose, owner, blob).ok()).ok_or(NotSealed)
        }
        _ => open_with(root.sealing(), purpose, owner, blob),
    }
}

/// The same secret under another root key.
pub fn reseal(
    (old, new): (&RootKey, &RootKey),
    purpose: Purpose,
    owner: &str,
    blob: &[u8],
) -> Result<Vec<u8>, NotSealed> {
    let secret = open_with(old.sealing(), purpose, owner, blob)?;
    seal(new, purpose, owner, secret.expose()).map_err(|_| NotSealed)
}

fn open_with(sealing: &KeyMaterial, purpose: Purpose, owner: &str, blob: &[u8]) -> Result<SecretBytes, NotSealed> {
    if blob.len() > HEAD_BYTES + SEALED_PLAINTEXT_BYTES_MAX + TAG_BYTES {
        return Err(NotSealed);
    }
    let (head, sealed) = blob.split_at_checked(HEAD_BYTES).ok_or(NotSealed)?;
    let (version, rest) = head.split_first().ok_or(NotSealed)?;
    let (salt, rest) = rest.split_first_chunk::<SALT_BYTES>().ok_or(NotSealed)?;
    let nonce: &[u8; NONCE_LEN] = rest.try_into().map_err(|_| NotSealed)?;
    if *version != VERSION {
        return Err(NotSealed);
    }
    let key = sealing.message_key(salt, &[KEY_LABEL, purpose.label()]).map_err(|_| NotSealed)?;
    let mut text = SecretBytes::new(sealed.to_vec());
    let opened = key.open_in_place(Nonce::assume_unique_for_key(*nonce), additional_data(head, owner), text.as_mut());
    let length = opened.map_err(|_| NotSealed)?.len();
    text.truncate(length);
    Ok(text)
}

fn additional_data(head: &[u8], owner: &str) -> Aad<Vec<u8>> {
    Aad::from([head, owner.as_bytes()].concat())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn root() -> RootKey {
        let folder = tempfile::tempdir().unwrap();
        RootKey::create(&folder.path().join("root.key")).unwrap()
    }

    #[test]
    fn the_documented_vector_holds() {
        let root = RootKey::from_bytes(&std::array::from_fn(|index| u8::try_from(index).unwrap())).unwrap();
        let salt = std::array::from_fn(|index| 0x80 + u8::try_from(index).unwrap());
        let nonce = std::array::from_fn(|index| 0xf0 + u8::try_from(index).unwrap());
        let owner = "arn:aws:iam::111122223333:mfa/phone";
        let blob = seal_with(&root, Purpose::MfaSeed, owner, b"attack at dawn", &salt, &nonce).unwrap();
        let document = include_str!("../../../../docs/ciphertext.md");
        let line = document.lines().find_map(|line| line.strip_prefix("vector 3: ")).unwrap_or_default();
        assert_eq!(hex::encode(&blob), line);
    }

    #[test]
    fn a_secret_opens_only_for_its_purpose_and_owner() {
        let root = root();
        let blob = seal(&root, Purpose::AccessKey, "AKIA1", b"secret").unwrap();
        assert_eq!(open(&root, Purpose::AccessKey, "AKIA1", &blob).unwrap().expose(), b"secret");
        assert!(open(&root, Purpose::AccessKey, "AKIA2", &blob).is_err());
        assert!(open(&root, Purpose::SessionToken, "AKIA1", &blob).is_err());
        assert!(open(&self::root(), Purpose::AccessKey, "AKIA1", &blob).is_err());
        for bit in 0..blob.len() * 8 {
            let mut bad = blob.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&root, Purpose::AccessKey, "AKIA1", &bad).is_err(), "bit {bit}");
        }
        for length in 0..blob.len() {
            assert!(open(&root, Purpose::AccessKey, "AKIA1", &blob[..length]).is_err());
        }
        assert!(open(&root, Purpose::AccessKey, "AKIA1", &vec![1; 20_000]).is_err());
        assert!(seal(&root, Purpose::AccessKey, "AKIA1", &vec![0; SEALED_PLAINTEXT_BYTES_MAX + 1]).is_err());
    }
}
