//! Private keys that sign: RSA, ECDSA, Ed25519 and ML-DSA, as PKCS#8 at rest.
//!
//! Signatures have the encodings of AWS KMS: DER for ECDSA, salts as long as the digest for PSS. A private key never
//! leaves but wrapped, or as the data key pair of the caller that asked for one.

use aws_lc_rs::digest::{Digest, SHA256, SHA384, SHA512};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::error::{KeyRejected, Unspecified};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256K1_SHA256_ASN1,
    ECDSA_P256K1_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1,
    ECDSA_P521_SHA512_ASN1_SIGNING, ED25519, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _,
    ML_DSA_44, ML_DSA_44_SIGNING, ML_DSA_65, ML_DSA_65_SIGNING, ML_DSA_87, ML_DSA_87_SIGNING, PqdsaKeyPair,
    PqdsaSigningAlgorithm, RsaEncoding, RsaKeyPair, UnparsedPublicKey, VerificationAlgorithm,
};

use super::secret::SecretBytes;
use super::{CryptoFailure, secret_half::InvalidMaterial};
use crate::spec::{KeySpec, SigningAlgorithm};

/// What is signed: a whole message, or its digest made by the caller.
#[derive(Clone, Copy)]
pub enum Message<'a> {
    /// To be hashed here.
    Raw(&'a [u8]),
    /// Hashed already, of the algorithm's digest length.
    Digest(&'a [u8]),
}

/// Not a signature of this message by this key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("signature does not hold")]
pub struct InvalidSignature;

/// A private key that signs, with its public half.
pub struct SigningKey {
    spec: KeySpec,
    pair: Pair,
}

enum Pair {
    Rsa(Box<RsaKeyPair>),
    Ecdsa(Box<EcdsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
    MlDsa(Box<PqdsaKeyPair>),
}

impl SigningKey {
    /// A new private key as PKCS#8. Slow for RSA: up to seconds, so never under a lock or on the threads of requests.
    pub fn generate(spec: KeySpec) -> Result<SecretBytes, CryptoFailure> {
        let generated = match Scheme::of(spec).ok_or(CryptoFailure)? {
            Scheme::Rsa(size) => RsaKeyPair::generate(size).and_then(|pair| pkcs8(&pair)),
            Scheme::Ecdsa(algorithm) => EcdsaKeyPair::generate(algorithm)
                .and_then(|pair| Ok(SecretBytes::new(pair.to_pkcs8v1()?.as_ref().to_vec()))),
            Scheme::Ed25519 => Ed25519KeyPair::generate().and_then(|pair| pkcs8(&pair)),
            Scheme::MlDsa(algorithm) => PqdsaKeyPair::generate(algorithm).and_then(|pair| pkcs8(&pair.private_key())),
        };
        generated.map_err(|_| CryptoFailure)
    }

    /// Reads a private key that must be of this spec.
    pub fn read(spec: KeySpec, pkcs8: &[u8]) -> Result<Self, InvalidMaterial> {
        let pair = match Scheme::of(spec).ok_or(InvalidMaterial)? {
            Scheme::Rsa(size) => {
                let pair = RsaKeyPair::from_pkcs8(pkcs8)?;
                // Bits, not bytes: a modulus may be shorter than its last byte.
                if modulus_bits(&pair)? != 8 * size.len() {
                    return Err(InvalidMaterial);
                }
                Pair::Rsa(Box::new(pair))
            }
            Scheme::Ecdsa(algorithm) => Pair::Ecdsa(Box::new(EcdsaKeyPair::from_pkcs8(algorithm, pkcs8)?)),
            Scheme::Ed25519 => Pair::Ed25519(Box::new(Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8)?)),
            Scheme::MlDsa(algorithm) => Pair::MlDsa(Box::new(PqdsaKeyPair::from_pkcs8(algorithm, pkcs8)?)),
        };
        Ok(Self { spec, pair })
    }

    /// The public half as X.509 SubjectPublicKeyInfo.
    pub fn public_key(&self) -> Result<Vec<u8>, CryptoFailure> {
        let der: Result<PublicKeyX509Der<'_>, Unspecified> = match &self.pair {
            Pair::Rsa(pair) => pair.public_key().as_der(),
            Pair::Ecdsa(pair) => pair.public_key().as_der(),
            Pair::Ed25519(pair) => pair.public_key().as_der(),
            Pair::MlDsa(pair) => pair.public_key().as_der(),
        };
        der.map(|der| der.as_ref().to_vec()).map_err(|_| CryptoFailure)
    }

    /// Signs. The caller has checked that the key offers the algorithm and a digest's length.
    pub fn sign(&self, algorithm: SigningAlgorithm, message: Message<'_>) -> Result<Vec<u8>, CryptoFailure> {
        self.try_sign(algorithm, message).map_err(|_| CryptoFailure)
    }

    fn try_sign(&self, algorithm: SigningAlgorithm, message: Message<'_>) -> Result<Vec<u8>, Unspecified> {
        match (&self.pair, message) {
            (Pair::Rsa(pair), message) => {
                let padding = rsa_padding(algorithm).ok_or(Unspecified)?;
                let mut signature = vec![0; pair.public_modulus_len()];
                match message {
                    Message::Raw(message) => pair.sign(padding, &SystemRandom::new(), message, &mut signature)?,
                    Message::Digest(digest) => {
                        pair.sign_digest(padding, &import(algorithm, digest)?, &mut signature)?
                    }
                }
                Ok(signature)
            }
            (Pair::Ecdsa(pair), Message::Raw(message)) => {
                Ok(pair.sign(&SystemRandom::new(), message)?.as_ref().to_vec())
            }
            (Pair::Ecdsa(pair), Message::Digest(digest)) => {
                Ok(pair.sign_digest(&import(algorithm, digest)?)?.as_ref().to_vec())
            }
            (Pair::Ed25519(pair), Message::Raw(message)) => Ok(pair.try_sign(message)?.as_ref().to_vec()),
            (Pair::MlDsa(pair), Message::Raw(message)) => {
                let mut signature = vec![0; pair.algorithm().signature_len()];
                let length = pair.sign(message, &mut signature)?;
                signature.truncate(length);
                Ok(signature)
            }
            (Pair::Ed25519(_) | Pair::MlDsa(_), Message::Digest(_)) => Err(Unspecified),
        }
    }

    /// Checks a signature with the public half.
    pub fn verify(
        &self,
        algorithm: SigningAlgorithm,
        message: Message<'_>,
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let public: &[u8] = match &self.pair {
            Pair::Rsa(pair) => pair.public_key().as_ref(),
            Pair::Ecdsa(pair) => pair.public_key().as_ref(),
            Pair::Ed25519(pair) => pair.public_key().as_ref(),
            Pair::MlDsa(pair) => pair.public_key().as_ref(),
        };
        verify(self.spec, algorithm, public, message, signature)
    }
}

/// Checks a signature with a public half of the spec, in the library's own form of it (no SubjectPublicKeyInfo).
pub(super) fn verify(
    spec: KeySpec,
    algorithm: SigningAlgorithm,
    public: &[u8],
    message: Message<'_>,
    signature: &[u8],
) -> Result<(), InvalidSignature> {
    let verification = verification(spec, algorithm).ok_or(InvalidSignature)?;
    let key = UnparsedPublicKey::new(verification, public);
    let checked = match message {
        Message::Raw(message) => key.verify(message, signature),
        Message::Digest(digest) => import(algorithm, digest).and_then(|digest| key.verify_digest(&digest, signature)),
    };
    checked.map_err(|_| InvalidSignature)
}

impl From<KeyRejected> for InvalidMaterial {
    fn from(_: KeyRejected) -> Self {
        Self
    }
}

/// How a spec's keys are made and read.
enum Scheme {
    Rsa(rsa::KeySize),
    Ecdsa(&'static EcdsaSigningAlgorithm),
    Ed25519,
    MlDsa(&'static PqdsaSigningAlgorithm),
}

impl Scheme {
    fn of(spec: KeySpec) -> Option<Self> {
        match spec {
            KeySpec::Rsa2048 => Some(Self::Rsa(rsa::KeySize::Rsa2048)),
            KeySpec::Rsa3072 => Some(Self::Rsa(rsa::KeySize::Rsa3072)),
            KeySpec::Rsa4096 => Some(Self::Rsa(rsa::KeySize::Rsa4096)),
            KeySpec::P256 => Some(Self::Ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING)),
            KeySpec::P384 => Some(Self::Ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING)),
            KeySpec::P521 => Some(Self::Ecdsa(&ECDSA_P521_SHA512_ASN1_SIGNING)),
            KeySpec::Secp256k1 => Some(Self::Ecdsa(&ECDSA_P256K1_SHA256_ASN1_SIGNING)),
            KeySpec::Ed25519 => Some(Self::Ed25519),
            KeySpec::MlDsa44 => Some(Self::MlDsa(&ML_DSA_44_SIGNING)),
            KeySpec::MlDsa65 => Some(Self::MlDsa(&ML_DSA_65_SIGNING)),
            KeySpec::MlDsa87 => Some(Self::MlDsa(&ML_DSA_87_SIGNING)),
            KeySpec::SymmetricDefault | KeySpec::Hmac224 | KeySpec::Hmac256 | KeySpec::Hmac384 | KeySpec::Hmac512 => {
                None
            }
        }
    }
}

fn modulus_bits(pair: &RsaKeyPair) -> Result<usize, InvalidMaterial> {
    let der: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(|_| InvalidMaterial)?;
    Ok(rsa::PublicEncryptingKey::from_der(der.as_ref())?.key_size_bits())
}

fn rsa_padding(algorithm: SigningAlgorithm) -> Option<&'static dyn RsaEncoding> {
    match algorithm {
        SigningAlgorithm::PssSha256 => Some(&signature::RSA_PSS_SHA256),
        SigningAlgorithm::PssSha384 => Some(&signature::RSA_PSS_SHA384),
        SigningAlgorithm::PssSha512 => Some(&signature::RSA_PSS_SHA512),
        SigningAlgorithm::Pkcs1Sha256 => Some(&signature::RSA_PKCS1_SHA256),
        SigningAlgorithm::Pkcs1Sha384 => Some(&signature::RSA_PKCS1_SHA384),
        SigningAlgorithm::Pkcs1Sha512 => Some(&signature::RSA_PKCS1_SHA512),
        SigningAlgorithm::EcdsaSha256
        | SigningAlgorithm::EcdsaSha384
        | SigningAlgorithm::EcdsaSha512
        | SigningAlgorithm::Ed25519
        | SigningAlgorithm::MlDsa => None,
    }
}

fn verification(spec: KeySpec, algorithm: SigningAlgorithm) -> Option<&'static dyn VerificationAlgorithm> {
    Some(match (algorithm, spec) {
        (SigningAlgorithm::PssSha256, _) => &signature::RSA_PSS_2048_8192_SHA256,
        (SigningAlgorithm::PssSha384, _) => &signature::RSA_PSS_2048_8192_SHA384,
        (SigningAlgorithm::PssSha512, _) => &signature::RSA_PSS_2048_8192_SHA512,
        (SigningAlgorithm::Pkcs1Sha256, _) => &signature::RSA_PKCS1_2048_8192_SHA256,
        (SigningAlgorithm::Pkcs1Sha384, _) => &signature::RSA_PKCS1_2048_8192_SHA384,
        (SigningAlgorithm::Pkcs1Sha512, _) => &signature::RSA_PKCS1_2048_8192_SHA512,
        (SigningAlgorithm::EcdsaSha256, KeySpec::P256) => &ECDSA_P256_SHA256_ASN1,
        (SigningAlgorithm::EcdsaSha256, KeySpec::Secp256k1) => &ECDSA_P256K1_SHA256_ASN1,
        (SigningAlgorithm::EcdsaSha384, KeySpec::P384) => &ECDSA_P384_SHA384_ASN1,
        (SigningAlgorithm::EcdsaSha512, KeySpec::P521) => &ECDSA_P521_SHA512_ASN1,
        (SigningAlgorithm::Ed25519, KeySpec::Ed25519) => &ED25519,
        (SigningAlgorithm::MlDsa, KeySpec::MlDsa44) => &ML_DSA_44,
        (SigningAlgorithm::MlDsa, KeySpec::MlDsa65) => &ML_DSA_65,
        (SigningAlgorithm::MlDsa, KeySpec::MlDsa87) => &ML_DSA_87,
        _ => return None,
    })
}

/// A digest that the caller made. What it is a digest of is the caller's word, as at AWS.
fn import(algorithm: SigningAlgorithm, digest: &[u8]) -> Result<Digest, Unspecified> {
    let hash = match algorithm.digest_bytes() {
        Some(32) => &SHA256,
        Some(48) => &SHA384,
        Some(64) => &SHA512,
        _ => return Err(Unspecified),
    };
    Digest::import_less_safe(digest, hash)
}

fn pkcs8(pair: &impl AsDer<Pkcs8V1Der<'static>>) -> Result<SecretBytes, Unspecified> {
    Ok(SecretBytes::new(pair.as_der()?.as_ref().to_vec()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::spec::{KeyKind, KeyUsage};
    use aws_lc_rs::digest::digest;

    #[test]
    fn each_spec_signs_and_verifies_with_each_of_its_algorithms() {
        let specs = KeySpec::ALL.iter().copied().filter(|spec| spec.usages().contains(&KeyUsage::SignVerify));
        for spec in specs.filter(|spec| !matches!(spec, KeySpec::Rsa3072 | KeySpec::Rsa4096)) {
            let private = SigningKey::generate(spec).unwrap();
            let key = SigningKey::read(spec, private.expose()).unwrap();
            assert!(key.public_key().unwrap().len() > 40);
            let kind = KeyKind { spec, usage: KeyUsage::SignVerify, ..KeyKind::SYMMETRIC };
            for algorithm in kind.signing_algorithms().iter().copied() {
                let signature = key.sign(algorithm, Message::Raw(b"message")).unwrap();
                assert_eq!(key.verify(algorithm, Message::Raw(b"message"), &signature), Ok(()), "{algorithm:?}");
                assert!(key.verify(algorithm, Message::Raw(b"massage"), &signature).is_err());
                let mut bad = signature.clone();
                *bad.last_mut().unwrap() ^= 1;
                assert!(key.verify(algorithm, Message::Raw(b"message"), &bad).is_err());
                assert!(key.verify(algorithm, Message::Raw(b"message"), b"").is_err());
                let hash = match algorithm.digest_bytes() {
                    Some(32) => &SHA256,
                    Some(48) => &SHA384,
                    Some(_) => &SHA512,
                    None => {
                        assert!(key.sign(algorithm, Message::Digest(&[0; 64])).is_err());
                        continue;
                    }
                };
                let hashed = digest(hash, b"message");
                let hashed = Message::Digest(hashed.as_ref());
                assert_eq!(key.verify(algorithm, hashed, &signature), Ok(()), "{algorithm:?}");
                let signature = key.sign(algorithm, hashed).unwrap();
                assert_eq!(key.verify(algorithm, Message::Raw(b"message"), &signature), Ok(()), "{algorithm:?}");
                assert!(key.sign(algorithm, Message::Digest(&[0; 20])).is_err());
            }
        }
    }

    #[test]
    fn a_private_key_of_another_spec_is_not_read() {
        let private = SigningKey::generate(KeySpec::P256).unwrap();
        for other in [KeySpec::P384, KeySpec::Secp256k1, KeySpec::Rsa2048, KeySpec::Ed25519, KeySpec::MlDsa44] {
            assert!(SigningKey::read(other, private.expose()).is_err(), "{other:?}");
        }
        let rsa = SigningKey::generate(KeySpec::Rsa2048).unwrap();
        assert!(SigningKey::read(KeySpec::Rsa3072, rsa.expose()).is_err());
        assert!(SigningKey::read(KeySpec::P256, b"garbage").is_err());
        // 3,070 bits fill as many bytes as 3,072.
        let short = include_bytes!("testdata/rsa-3070-bits.pk8");
        assert!(RsaKeyPair::from_pkcs8(short).is_ok_and(|pair| pair.public_modulus_len() == 384));
        assert!(SigningKey::read(KeySpec::Rsa3072, short).is_err());
    }
}
