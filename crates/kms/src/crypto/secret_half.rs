//! The secret of one generation of a key, in the form that does its work: which one follows from the key's kind.
//!
//! Bytes exist only on their way into and out of the wrapped form: random bytes for symmetric and HMAC keys, PKCS#8 for
//! private keys.

use super::agreement::AgreementKey;
use super::mac::{MacKey, mac_bytes};
use super::material::{KeyMaterial, MATERIAL_BYTES};
use super::oaep::DecryptingKey;
use super::signing::SigningKey;
use super::{CryptoFailure, SecretBytes};
use crate::spec::{KeyKind, KeyUsage};

/// Bytes that are not a secret of this kind of key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("key material is not of the key's spec")]
pub struct InvalidMaterial;

/// A key's secret.
pub enum SecretHalf {
    /// Encrypts, decrypts and makes data keys.
    Symmetric(KeyMaterial),
    /// Makes and checks MACs.
    Mac(MacKey),
    /// Signs.
    Signing(SigningKey),
    /// Decrypts what its public half encrypted.
    Decrypting(DecryptingKey),
    /// Agrees on secrets.
    Agreement(AgreementKey),
}

impl SecretHalf {
    /// New bytes for a kind of key. Slow for RSA: see [`SigningKey::generate`].
    pub fn generate(kind: KeyKind) -> Result<SecretBytes, CryptoFailure> {
        match kind.spec.mac_algorithm() {
            Some(algorithm) => SecretBytes::random(mac_bytes(algorithm)),
            None if kind.is_symmetric_encryption() => SecretBytes::random(MATERIAL_BYTES),
            None => SigningKey::generate(kind.spec),
        }
    }

    /// Reads bytes that must be of the kind.
    pub fn read(kind: KeyKind, bytes: &[u8]) -> Result<Self, InvalidMaterial> {
        let KeyKind { spec, usage, .. } = kind;
        match usage {
            KeyUsage::EncryptDecrypt if kind.is_symmetric_encryption() => {
                KeyMaterial::read(bytes).map(Self::Symmetric).ok_or(InvalidMaterial)
            }
            KeyUsage::EncryptDecrypt => DecryptingKey::read(spec, bytes).map(Self::Decrypting),
            KeyUsage::SignVerify => SigningKey::read(spec, bytes).map(Self::Signing),
            KeyUsage::KeyAgreement => AgreementKey::read(spec, bytes).map(Self::Agreement),
            KeyUsage::GenerateVerifyMac => {
                MacKey::read(spec.mac_algorithm().ok_or(InvalidMaterial)?, bytes).map(Self::Mac)
            }
        }
    }

    /// The public half as X.509 SubjectPublicKeyInfo; none for keys that have only a secret.
    pub fn public_key(&self) -> Option<Result<Vec<u8>, CryptoFailure>> {
        match self {
            Self::Symmetric(_) | Self::Mac(_) => None,
            Self::Signing(key) => Some(key.public_key()),
            Self::Decrypting(key) => Some(Ok(key.public_key())),
            Self::Agreement(key) => Some(key.public_key()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::spec::KeySpec;

    #[test]
    fn what_is_generated_for_a_kind_is_read_for_it() {
        for spec in KeySpec::ALL.iter().copied() {
            if matches!(spec, KeySpec::Rsa3072 | KeySpec::Rsa4096) {
                continue; // Slow to make, and no different.
            }
            for usage in spec.usages().iter().copied() {
                let kind = KeyKind { spec, usage, ..KeyKind::SYMMETRIC };
                let bytes = SecretHalf::generate(kind).unwrap();
                let secret = SecretHalf::read(kind, bytes.expose()).unwrap();
                assert_eq!(secret.public_key().is_some(), spec.is_asymmetric());
                assert!(SecretHalf::read(kind, b"garbage").is_err());
            }
        }
    }
}
