//! Private keys that agree on a shared secret: ECDH on the NIST curves.
//!
//! The answer is the raw x coordinate, as at AWS: deriving keys from it is the caller's part.

use aws_lc_rs::agreement::{
    Algorithm, ECDH_P256, ECDH_P384, ECDH_P521, ParsedPublicKey, ParsedPublicKeyFormat, PrivateKey, UnparsedPublicKey,
    agree,
};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};

use super::secret::SecretBytes;
use super::{CryptoFailure, secret_half::InvalidMaterial};
use crate::spec::KeySpec;

/// Not a public key on this key's curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("public key is not one of this curve")]
pub struct InvalidPeer;

/// A private key that agrees on secrets.
pub struct AgreementKey {
    private: PrivateKey,
}

impl AgreementKey {
    /// Reads a PKCS#8 private key that must be on this spec's curve.
    pub fn read(spec: KeySpec, pkcs8: &[u8]) -> Result<Self, InvalidMaterial> {
        let algorithm: &'static Algorithm = match spec {
            KeySpec::P256 => &ECDH_P256,
            KeySpec::P384 => &ECDH_P384,
            KeySpec::P521 => &ECDH_P521,
            _ => return Err(InvalidMaterial),
        };
        Ok(Self { private: PrivateKey::from_private_key_der(algorithm, pkcs8)? })
    }

    /// The public half as X.509 SubjectPublicKeyInfo.
    pub fn public_key(&self) -> Result<Vec<u8>, CryptoFailure> {
        let public = self.private.compute_public_key().map_err(|_| CryptoFailure)?;
        let der: PublicKeyX509Der<'_> = public.as_der().map_err(|_| CryptoFailure)?;
        Ok(der.as_ref().to_vec())
    }

    /// The secret shared with the owner of a public key in X.509 form; a point off the curve is refused.
    pub fn agree(&self, peer: &[u8]) -> Result<SecretBytes, InvalidPeer> {
        let peer = UnparsedPublicKey::new(self.private.algorithm(), peer);
        let peer = ParsedPublicKey::try_from(&peer).map_err(|_| InvalidPeer)?;
        if peer.format() != ParsedPublicKeyFormat::X509 {
            return Err(InvalidPeer);
        }
        agree(&self.private, peer, InvalidPeer, |secret| Ok(SecretBytes::new(secret.to_vec())))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::signing::SigningKey;
    use super::*;

    #[test]
    fn two_sides_agree_and_strangers_do_not() {
        for (spec, other, length) in
            [(KeySpec::P256, KeySpec::P384, 32), (KeySpec::P384, KeySpec::P521, 48), (KeySpec::P521, KeySpec::P256, 66)]
        {
            let key = |spec| AgreementKey::read(spec, SigningKey::generate(spec).unwrap().expose()).unwrap();
            let (ours, theirs, stranger) = (key(spec), key(spec), key(other));
            let secret = ours.agree(&theirs.public_key().unwrap()).unwrap();
            assert_eq!(secret.len(), length);
            assert_eq!(secret.expose(), theirs.agree(&ours.public_key().unwrap()).unwrap().expose());
            assert!(ours.agree(&stranger.public_key().unwrap()).is_err());
            let mut off = theirs.public_key().unwrap();
            *off.last_mut().unwrap() ^= 1;
            assert!(ours.agree(&off).is_err() && ours.agree(b"").is_err());
        }
        assert!(AgreementKey::read(KeySpec::Secp256k1, b"").is_err());
    }
}
