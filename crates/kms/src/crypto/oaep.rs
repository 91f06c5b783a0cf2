//! RSA keys that decrypt, with OAEP only. Unlike a symmetric blob, a ciphertext here says nothing about its key.

use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepAlgorithm, OaepPrivateDecryptingKey, OaepPublicEncryptingKey,
    PrivateDecryptingKey,
};

use super::ciphertext::InvalidCiphertext;
use super::secret::SecretBytes;
use super::{CryptoFailure, secret_half::InvalidMaterial};
use crate::spec::{EncryptionAlgorithm, KeySpec};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};

/// An RSA private key that decrypts, with its public half.
pub struct DecryptingKey {
    private: OaepPrivateDecryptingKey,
    public: OaepPublicEncryptingKey,
    public_der: Box<[u8]>,
}

impl DecryptingKey {
    /// Reads a PKCS#8 private key that must be of this spec.
    pub fn read(spec: KeySpec, pkcs8: &[u8]) -> Result<Self, InvalidMaterial> {
        let bits = match spec {
            KeySpec::Rsa2048 => 2_048,
            KeySpec::Rsa3072 => 3_072,
            KeySpec::Rsa4096 => 4_096,
            _ => return Err(InvalidMaterial),
        };
        let key = PrivateDecryptingKey::from_pkcs8(pkcs8)?;
        if key.key_size_bits() != bits {
            return Err(InvalidMaterial);
        }
        let public = key.public_key();
        let der: PublicKeyX509Der<'_> = public.as_der().map_err(|_| InvalidMaterial)?;
        let public_der = der.as_ref().into();
        Ok(Self {
            private: OaepPrivateDecryptingKey::new(key).map_err(|_| InvalidMaterial)?,
            public: OaepPublicEncryptingKey::new(public).map_err(|_| InvalidMaterial)?,
            public_der,
        })
    }

    /// The public half as X.509 SubjectPublicKeyInfo.
    pub fn public_key(&self) -> Vec<u8> {
        self.public_der.to_vec()
    }

    /// Length of every ciphertext.
    pub fn ciphertext_bytes(&self) -> usize {
        self.public.ciphertext_size()
    }

    /// Longest plaintext.
    pub fn plaintext_bytes_max(&self, algorithm: EncryptionAlgorithm) -> usize {
        oaep(algorithm).map_or(0, |oaep| self.public.max_plaintext_size(oaep))
    }

    /// Encrypts with the public half.
    pub fn encrypt(&self, algorithm: EncryptionAlgorithm, plaintext: &[u8]) -> Result<Vec<u8>, CryptoFailure> {
        let mut ciphertext = vec![0; self.public.ciphertext_size()];
        let oaep = oaep(algorithm).ok_or(CryptoFailure)?;
        let length = self.public.encrypt(oaep, plaintext, &mut ciphertext, None).map_err(|_| CryptoFailure)?.len();
        ciphertext.truncate(length);
        Ok(ciphertext)
    }

    /// Decrypts; whatever is wrong is one and the same error.
    pub fn decrypt(&self, algorithm: EncryptionAlgorithm, ciphertext: &[u8]) -> Result<SecretBytes, InvalidCiphertext> {
        let mut plaintext = SecretBytes::new(vec![0; self.private.min_output_size()]);
        let oaep = oaep(algorithm).ok_or(InvalidCiphertext)?;
        let opened = self.private.decrypt(oaep, ciphertext, plaintext.as_mut(), None);
        let length = opened.map_err(|_| InvalidCiphertext)?.len();
        plaintext.truncate(length);
        Ok(plaintext)
    }
}

fn oaep(algorithm: EncryptionAlgorithm) -> Option<&'static OaepAlgorithm> {
    match algorithm {
        EncryptionAlgorithm::OaepSha1 => Some(&OAEP_SHA1_MGF1SHA1),
        EncryptionAlgorithm::OaepSha256 => Some(&OAEP_SHA256_MGF1SHA256),
        EncryptionAlgorithm::Symmetric => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::super::signing::SigningKey;
    use super::*;

    #[test]
    fn what_goes_in_comes_out_and_nothing_else_does() {
        let private = SigningKey::generate(KeySpec::Rsa2048).unwrap();
        let key = DecryptingKey::read(KeySpec::Rsa2048, private.expose()).unwrap();
        assert!(DecryptingKey::read(KeySpec::Rsa3072, private.expose()).is_err());
        for (algorithm, longest) in [(EncryptionAlgorithm::OaepSha1, 214), (EncryptionAlgorithm::OaepSha256, 190)] {
            assert_eq!(key.plaintext_bytes_max(algorithm), longest);
            let text = vec![7; longest];
            let mut blob = key.encrypt(algorithm, &text).unwrap();
            assert_eq!(key.decrypt(algorithm, &blob).unwrap().expose(), text);
            assert!(key.encrypt(algorithm, &vec![7; longest + 1]).is_err());
            blob[17] ^= 1;
            assert!(key.decrypt(algorithm, &blob).is_err() && key.decrypt(algorithm, &blob[1..]).is_err());
        }
        let blob = key.encrypt(EncryptionAlgorithm::OaepSha1, b"x").unwrap();
        assert!(key.decrypt(EncryptionAlgorithm::OaepSha256, &blob).is_err());
    }
}
