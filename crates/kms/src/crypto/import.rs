//! Import tokens: how key material made elsewhere comes in without anyone but this node being able to read it.
//!
//! A token holds the private half of a wrapping key pair, sealed under the root key and bound to the key it was asked
//! for, so that the node needs to remember nothing. It ends with its date; like AWS's it works more than once before.

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded};

use super::caller_keys::CallerKeys;
use super::ciphertext::InvalidCiphertext;
use super::material::Owner;
use super::oaep::DecryptingKey;
use super::root_key::RootKey;
use super::secret::SecretBytes;
use super::wrap::{self, WrapError};
use super::{is_account, is_label, push_short};
use crate::spec::{EncryptionAlgorithm, KeySpec, WrappingAlgorithm};

/// Longest token: AWS's limit; one with an RSA_4096 key has some 2,450 bytes.
pub const TOKEN_BYTES_MAX: usize = 6_144;
/// Longest wrapped material: AWS's limit.
pub const WRAPPED_MATERIAL_BYTES_MAX: usize = 6_144;

const VERSION: u8 = 1;
const LABEL: &[u8] = b"keytrail import token v1";
/// AES key that RSA_AES_KEY_WRAP carries.
const AES_KEY_BYTES: usize = 32;

/// Not a token of this node for this key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("import token does not open")]
pub struct InvalidToken;

/// How and until when material may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Unix microseconds of the end.
    pub valid_to_us: u64,
    /// How material must be wrapped.
    pub algorithm: WrappingAlgorithm,
    /// The wrapping key pair's spec.
    pub spec: KeySpec,
}

/// What a token says.
pub struct ImportToken {
    /// How and until when.
    pub terms: Terms,
    /// The wrapping key pair's private half as PKCS#8.
    private: SecretBytes,
}

impl ImportToken {
    /// Makes the token of one key for a wrapping key pair.
    pub fn seal(root: &RootKey, owner: &Owner<'_>, terms: &Terms, private: &SecretBytes) -> Result<Vec<u8>, WrapError> {
        // Large enough from the start: growing would leave copies of the private key behind.
        let mut secret = zeroize::Zeroizing::new(Vec::with_capacity(64 + private.len()));
        secret.extend_from_slice(&terms.valid_to_us.to_be_bytes());
        push_short(&mut secret, terms.algorithm.name());
        push_short(&mut secret, terms.spec.name());
        secret.extend_from_slice(private.expose());
        wrap::seal(&root.import_tokens()?, &aad(owner)?, VERSION, &secret)
    }

    /// Opens a token for the key that it must be of; it may be from under a root key of before.
    pub fn open(root: &RootKey, owner: &Owner<'_>, token: &[u8]) -> Result<Self, InvalidToken> {
        if token.len() > TOKEN_BYTES_MAX || token.first() != Some(&VERSION) {
            return Err(InvalidToken);
        }
        let aad = aad(owner).map_err(|_| InvalidToken)?;
        let opened = |keys: &CallerKeys| wrap::open(&keys.import_tokens().ok()?, &aad, token).ok();
        let secret = root.caller_keys().find_map(opened).ok_or(InvalidToken)?;
        let (valid_to, rest) = secret.split_first_chunk::<8>().ok_or(InvalidToken)?;
        let (algorithm, rest) = short(rest)?;
        let (spec, private) = short(rest)?;
        let terms = Terms {
            valid_to_us: u64::from_be_bytes(*valid_to),
            algorithm: WrappingAlgorithm::parse(algorithm).ok_or(InvalidToken)?,
            spec: KeySpec::parse(spec).ok_or(InvalidToken)?,
        };
        Ok(Self { terms, private: SecretBytes::new(private.to_vec()) })
    }

    /// Whether wrapped material of so many bytes can have come from this token's public key.
    pub fn fits(&self, wrapped_bytes: usize) -> bool {
        let block_bytes = match self.terms.spec {
            KeySpec::Rsa2048 => 256,
            KeySpec::Rsa3072 => 384,
            KeySpec::Rsa4096 => 512,
            _ => return false,
        };
        match self.terms.algorithm {
            WrappingAlgorithm::OaepSha1 | WrappingAlgorithm::OaepSha256 => wrapped_bytes == block_bytes,
            WrappingAlgorithm::AesKeyWrapSha1 | WrappingAlgorithm::AesKeyWrapSha256 => wrapped_bytes > block_bytes,
        }
    }

    /// The material in clear; whatever is wrong is one and the same error.
    pub fn unwrap(&self, wrapped: &[u8]) -> Result<SecretBytes, InvalidCiphertext> {
        let key = DecryptingKey::read(self.terms.spec, self.private.expose()).map_err(|_| InvalidCiphertext)?;
        match self.terms.algorithm {
            WrappingAlgorithm::OaepSha1 => key.decrypt(EncryptionAlgorithm::OaepSha1, wrapped),
            WrappingAlgorithm::OaepSha256 => key.decrypt(EncryptionAlgorithm::OaepSha256, wrapped),
            WrappingAlgorithm::AesKeyWrapSha1 => unwrap_aes(&key, EncryptionAlgorithm::OaepSha1, wrapped),
            WrappingAlgorithm::AesKeyWrapSha256 => unwrap_aes(&key, EncryptionAlgorithm::OaepSha256, wrapped),
        }
    }
}

/// An AES key under OAEP, then the material under that key by RFC 5649.
fn unwrap_aes(
    key: &DecryptingKey,
    algorithm: EncryptionAlgorithm,
    wrapped: &[u8],
) -> Result<SecretBytes, InvalidCiphertext> {
    let (head, tail) = wrapped.split_at_checked(key.ciphertext_bytes()).ok_or(InvalidCiphertext)?;
    let aes = key.decrypt(algorithm, head)?;
    if aes.len() != AES_KEY_BYTES {
        return Err(InvalidCiphertext);
    }
    let kek = AesKek::new(&AES_256, aes.expose()).map_err(|_| InvalidCiphertext)?;
    let mut material = SecretBytes::new(vec![0; tail.len()]);
    let length = kek.unwrap_with_padding(tail, material.as_mut()).map_err(|_| InvalidCiphertext)?.len();
    material.truncate(length);
    Ok(material)
}

fn aad(owner: &Owner<'_>) -> Result<Vec<u8>, WrapError> {
    let Owner { account, region, key_id, material_id: _ } = owner;
    if !is_account(account)
        || !is_label(region, super::material::REGION_BYTES_MAX)
        || !is_label(key_id, super::material::KEY_ID_BYTES_MAX)
    {
        return Err(WrapError::Owner);
    }
    let mut aad = LABEL.to_vec();
    for text in [account, region, key_id] {
        push_short(&mut aad, text);
    }
    Ok(aad)
}

fn short(bytes: &[u8]) -> Result<(&str, &[u8]), InvalidToken> {
    let (length, rest) = bytes.split_first().ok_or(InvalidToken)?;
    let (text, rest) = rest.split_at_checked(usize::from(*length)).ok_or(InvalidToken)?;
    Ok((std::str::from_utf8(text).map_err(|_| InvalidToken)?, rest))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::super::material::MaterialId;
    use super::super::signing::SigningKey;
    use super::*;

    #[test]
    fn a_token_opens_for_its_key_and_root_only() {
        let folder = tempfile::tempdir().unwrap();
        let root = RootKey::create(&folder.path().join("a")).unwrap();
        let other = RootKey::create(&folder.path().join("b")).unwrap();
        let owner = Owner {
            account: "111122223333",
            region: "eu-central-1",
            key_id: "1234abcd-12ab-34cd-56ef-1234567890ab",
            material_id: MaterialId([0; 32]),
        };
        let terms = Terms { valid_to_us: 7, algorithm: WrappingAlgorithm::AesKeyWrapSha256, spec: KeySpec::Rsa2048 };
        let private = SigningKey::generate(KeySpec::Rsa2048).unwrap();
        let token = ImportToken::seal(&root, &owner, &terms, &private).unwrap();
        assert!(token.len() < TOKEN_BYTES_MAX);
        let opened = ImportToken::open(&root, &owner, &token).unwrap();
        assert_eq!(opened.terms, terms);
        assert_eq!(opened.private.expose(), private.expose());
        // What wraps stored material must not open what callers hold and hand in.
        assert!(wrap::open(root.wrapping(), &aad(&owner).unwrap(), &token).is_err());
        assert!(ImportToken::open(&other, &owner, &token).is_err());
        for stranger in [Owner { account: "444455556666", ..owner }, Owner { key_id: "another", ..owner }] {
            assert!(ImportToken::open(&root, &stranger, &token).is_err());
        }
        for at in 0..token.len() {
            let mut bad = token.clone();
            bad[at] ^= 1;
            assert!(ImportToken::open(&root, &owner, &bad).is_err());
        }
        assert!(ImportToken::open(&root, &owner, &token[..token.len() - 1]).is_err());
        assert!(opened.unwrap(b"").is_err() && opened.unwrap(&[1; 256]).is_err() && opened.unwrap(&[1; 296]).is_err());
    }
}
