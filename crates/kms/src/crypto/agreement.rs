//! Private keys that agree on a shared secret: ECDH on the NIST curves.
//!
//! The answer is the raw x coordinate, as at AWS: deriving keys from it is the caller's part.

use aws_lc_rs::agreement::{
    Algorithm, ECDH_P256, ECDH_P384, ECDH_P521, ParsedPublicKey, PrivateKey, UnparsedPublicKey, agree,
};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};

use super::secret::SecretBytes;
use super::{CryptoFailure, secret_half::InvalidMaterial};
use crate::spec::KeySpec;

/// Not a public key on this key's curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("public key is not one of this curve")]
pub struct InvalidPeer;

/// AlgorithmIdentifier of a public key on each curve, by its name: RFC 5480 allows no other way to say the curve.
const P256_ID: &[u8] = b"\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
const P384_ID: &[u8] = b"\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22";
const P521_ID: &[u8] = b"\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x23";

/// A private key that agrees on secrets.
pub struct AgreementKey {
    private: PrivateKey,
    /// How public keys on its curve begin, with the point whole or compressed.
    heads: [Vec<u8>; 2],
}

impl AgreementKey {
    /// Reads a PKCS#8 private key that must be on this spec's curve.
    pub fn read(spec: KeySpec, pkcs8: &[u8]) -> Result<Self, InvalidMaterial> {
        let (algorithm, id, field_bytes): (&'static Algorithm, _, _) = match spec {
            KeySpec::P256 => (&ECDH_P256, P256_ID, 32),
            KeySpec::P384 => (&ECDH_P384, P384_ID, 48),
            KeySpec::P521 => (&ECDH_P521, P521_ID, 66),
            _ => return Err(InvalidMaterial),
        };
        let heads = [head(id, 1 + 2 * field_bytes), head(id, 1 + field_bytes)];
        Ok(Self { private: PrivateKey::from_private_key_der(algorithm, pkcs8)?, heads })
    }

    /// The public half as X.509 SubjectPublicKeyInfo.
    pub fn public_key(&self) -> Result<Vec<u8>, CryptoFailure> {
        let public = self.private.compute_public_key().map_err(|_| CryptoFailure)?;
        let der: PublicKeyX509Der<'_> = public.as_der().map_err(|_| CryptoFailure)?;
        Ok(der.as_ref().to_vec())
    }

    /// The secret shared with the owner of a public key in X.509 form; a point off the curve is refused.
    ///
    /// The library alone would also take a curve that is written out in parameters, and not look at all of them.
    pub fn agree(&self, peer: &[u8]) -> Result<SecretBytes, InvalidPeer> {
        let found = self.heads.iter().find_map(|head| peer.strip_prefix(head.as_slice()));
        // The library could read a whole key where only its point may be.
        let point = found.filter(|point| matches!(point.first(), Some(2..=4))).ok_or(InvalidPeer)?;
        let peer = UnparsedPublicKey::new(self.private.algorithm(), point);
        let peer = ParsedPublicKey::try_from(&peer).map_err(|_| InvalidPeer)?;
        agree(&self.private, peer, InvalidPeer, |secret| Ok(SecretBytes::new(secret.to_vec())))
    }
}

/// What stands before a point of this length in a SubjectPublicKeyInfo.
fn head(id: &[u8], point_bytes: usize) -> Vec<u8> {
    let mut bits = vec![3];
    push_length(&mut bits, 1 + point_bytes);
    bits.push(0);
    let mut head = vec![0x30];
    push_length(&mut head, id.len() + bits.len() + point_bytes);
    head.extend_from_slice(id);
    head.extend_from_slice(&bits);
    head
}

fn push_length(out: &mut Vec<u8>, length: usize) {
    let byte = u8::try_from(length).expect("points of these curves are shorter");
    if byte >= 0x80 {
        out.push(0x81);
    }
    out.push(byte);
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
