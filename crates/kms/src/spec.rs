//! What kinds of keys there are: spec, usage and origin, and the algorithms that each allows, in AWS's names.
//!
//! Tables only. What AWS has and this node has not (SM2, ML-KEM, Ed25519ph) is in the lists of the operations that
//! refuse it, never here: whatever has a value of these types works.

/// An enumeration whose members have the names of AWS's model.
macro_rules! names {
    ($(#[$doc:meta])* $type:ident { $($variant:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $type {
            $(#[doc = concat!("`", $name, "`.")] $variant,)*
        }

        impl $type {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// AWS's name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// Reads AWS's name.
            pub fn parse(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.name() == name)
            }
        }
    };
}

names! {
    /// What material a key has.
    KeySpec {
        SymmetricDefault = "SYMMETRIC_DEFAULT",
        Rsa2048 = "RSA_2048",
        Rsa3072 = "RSA_3072",
        Rsa4096 = "RSA_4096",
        P256 = "ECC_NIST_P256",
        P384 = "ECC_NIST_P384",
        P521 = "ECC_NIST_P521",
        Secp256k1 = "ECC_SECG_P256K1",
        Ed25519 = "ECC_NIST_EDWARDS25519",
        Hmac224 = "HMAC_224",
        Hmac256 = "HMAC_256",
        Hmac384 = "HMAC_384",
        Hmac512 = "HMAC_512",
        MlDsa44 = "ML_DSA_44",
        MlDsa65 = "ML_DSA_65",
        MlDsa87 = "ML_DSA_87",
    }
}

names! {
    /// What a key is for; fixed at its creation.
    KeyUsage {
        EncryptDecrypt = "ENCRYPT_DECRYPT",
        SignVerify = "SIGN_VERIFY",
        GenerateVerifyMac = "GENERATE_VERIFY_MAC",
        KeyAgreement = "KEY_AGREEMENT",
    }
}

names! {
    /// Where a key's material comes from.
    Origin {
        AwsKms = "AWS_KMS",
        External = "EXTERNAL",
        CloudHsm = "AWS_CLOUDHSM",
    }
}

names! {
    /// Why a key got new material.
    RotationType {
        Automatic = "AUTOMATIC",
        OnDemand = "ON_DEMAND",
    }
}

names! {
    /// Whether imported material ends by itself.
    ExpirationModel {
        Expires = "KEY_MATERIAL_EXPIRES",
        DoesNotExpire = "KEY_MATERIAL_DOES_NOT_EXPIRE",
    }
}

names! {
    /// How material is wrapped for its import.
    WrappingAlgorithm {
        OaepSha1 = "RSAES_OAEP_SHA_1",
        OaepSha256 = "RSAES_OAEP_SHA_256",
        AesKeyWrapSha1 = "RSA_AES_KEY_WRAP_SHA_1",
        AesKeyWrapSha256 = "RSA_AES_KEY_WRAP_SHA_256",
    }
}

names! {
    /// How Encrypt and Decrypt work.
    EncryptionAlgorithm {
        Symmetric = "SYMMETRIC_DEFAULT",
        OaepSha1 = "RSAES_OAEP_SHA_1",
        OaepSha256 = "RSAES_OAEP_SHA_256",
    }
}

names! {
    /// How Sign and Verify work.
    SigningAlgorithm {
        PssSha256 = "RSASSA_PSS_SHA_256",
        PssSha384 = "RSASSA_PSS_SHA_384",
        PssSha512 = "RSASSA_PSS_SHA_512",
        Pkcs1Sha256 = "RSASSA_PKCS1_V1_5_SHA_256",
        Pkcs1Sha384 = "RSASSA_PKCS1_V1_5_SHA_384",
        Pkcs1Sha512 = "RSASSA_PKCS1_V1_5_SHA_512",
        EcdsaSha256 = "ECDSA_SHA_256",
        EcdsaSha384 = "ECDSA_SHA_384",
        EcdsaSha512 = "ECDSA_SHA_512",
        Ed25519 = "ED25519_SHA_512",
        MlDsa = "ML_DSA_SHAKE_256",
    }
}

names! {
    /// How GenerateMac and VerifyMac work; in the order in which AWS lists them to who names another.
    MacAlgorithm {
        Sha384 = "HMAC_SHA_384",
        Sha256 = "HMAC_SHA_256",
        Sha224 = "HMAC_SHA_224",
        Sha512 = "HMAC_SHA_512",
    }
}

/// AWS's only key agreement.
pub const ECDH: &str = "ECDH";

/// Spec, usage and origin of a key: all that its creation fixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyKind {
    /// What material.
    pub spec: KeySpec,
    /// What for.
    pub usage: KeyUsage,
    /// From where.
    pub origin: Origin,
}

impl KeySpec {
    /// The usages that a key of this spec may be made for.
    pub fn usages(self) -> &'static [KeyUsage] {
        match self {
            Self::SymmetricDefault => &[KeyUsage::EncryptDecrypt],
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => &[KeyUsage::EncryptDecrypt, KeyUsage::SignVerify],
            Self::P256 | Self::P384 | Self::P521 => &[KeyUsage::SignVerify, KeyUsage::KeyAgreement],
            Self::Secp256k1 | Self::Ed25519 | Self::MlDsa44 | Self::MlDsa65 | Self::MlDsa87 => &[KeyUsage::SignVerify],
            Self::Hmac224 | Self::Hmac256 | Self::Hmac384 | Self::Hmac512 => &[KeyUsage::GenerateVerifyMac],
        }
    }

    /// Whether keys of this spec have a public half.
    pub fn is_asymmetric(self) -> bool {
        self.mac_algorithm().is_none() && self != Self::SymmetricDefault
    }

    /// Whether keys of this spec take long to make.
    pub fn is_rsa(self) -> bool {
        matches!(self, Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096)
    }

    /// The one MAC of an HMAC key.
    pub fn mac_algorithm(self) -> Option<MacAlgorithm> {
        match self {
            Self::Hmac224 => Some(MacAlgorithm::Sha224),
            Self::Hmac256 => Some(MacAlgorithm::Sha256),
            Self::Hmac384 => Some(MacAlgorithm::Sha384),
            Self::Hmac512 => Some(MacAlgorithm::Sha512),
            _ => None,
        }
    }

    fn signing_algorithms(self) -> &'static [SigningAlgorithm] {
        use SigningAlgorithm::{
            EcdsaSha256, EcdsaSha384, EcdsaSha512, Ed25519, MlDsa, Pkcs1Sha256, Pkcs1Sha384, Pkcs1Sha512, PssSha256,
            PssSha384, PssSha512,
        };
        match self {
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => {
                &[Pkcs1Sha256, Pkcs1Sha384, Pkcs1Sha512, PssSha256, PssSha384, PssSha512]
            }
            Self::P256 | Self::Secp256k1 => &[EcdsaSha256],
            Self::P384 => &[EcdsaSha384],
            Self::P521 => &[EcdsaSha512],
            Self::Ed25519 => &[Ed25519],
            Self::MlDsa44 | Self::MlDsa65 | Self::MlDsa87 => &[MlDsa],
            Self::SymmetricDefault | Self::Hmac224 | Self::Hmac256 | Self::Hmac384 | Self::Hmac512 => &[],
        }
    }
}

impl KeyKind {
    /// What CreateKey makes when nothing is asked for.
    pub const SYMMETRIC: Self =
        Self { spec: KeySpec::SymmetricDefault, usage: KeyUsage::EncryptDecrypt, origin: Origin::AwsKms };

    /// The algorithms of Encrypt and Decrypt.
    pub fn encryption_algorithms(self) -> &'static [EncryptionAlgorithm] {
        match (self.usage, self.spec) {
            (KeyUsage::EncryptDecrypt, KeySpec::SymmetricDefault) => &[EncryptionAlgorithm::Symmetric],
            (KeyUsage::EncryptDecrypt, _) => &[EncryptionAlgorithm::OaepSha1, EncryptionAlgorithm::OaepSha256],
            _ => &[],
        }
    }

    /// The algorithms of Sign and Verify.
    pub fn signing_algorithms(self) -> &'static [SigningAlgorithm] {
        if self.usage == KeyUsage::SignVerify { self.spec.signing_algorithms() } else { &[] }
    }

    /// The lists of algorithms that metadata of such a key has, by the names of their members.
    pub fn algorithm_lists(self) -> Vec<(&'static str, Vec<&'static str>)> {
        let lists = [
            ("EncryptionAlgorithms", self.encryption_algorithms().iter().map(|found| found.name()).collect()),
            ("SigningAlgorithms", self.signing_algorithms().iter().map(|found| found.name()).collect()),
            ("MacAlgorithms", self.spec.mac_algorithm().iter().map(|found| found.name()).collect()),
            (
                "KeyAgreementAlgorithms",
                if self.usage == KeyUsage::KeyAgreement { vec![ECDH] } else { Vec::<&'static str>::new() },
            ),
        ];
        lists.into_iter().filter(|(_, list)| !list.is_empty()).collect()
    }

    /// Whether the key encrypts with AES: only such keys have encryption contexts, data keys and rotation.
    pub fn is_symmetric_encryption(self) -> bool {
        self.spec == KeySpec::SymmetricDefault
    }
}

impl SigningAlgorithm {
    /// Length of the digest that MessageType DIGEST takes; none where only whole messages are signed.
    pub fn digest_bytes(self) -> Option<usize> {
        match self {
            Self::PssSha256 | Self::Pkcs1Sha256 | Self::EcdsaSha256 => Some(32),
            Self::PssSha384 | Self::Pkcs1Sha384 | Self::EcdsaSha384 => Some(48),
            Self::PssSha512 | Self::Pkcs1Sha512 | Self::EcdsaSha512 => Some(64),
            Self::Ed25519 | Self::MlDsa => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_each_usage_has_algorithms() {
        assert_eq!(KeySpec::parse("SM2"), None);
        for spec in KeySpec::ALL.iter().copied() {
            assert_eq!(KeySpec::parse(spec.name()), Some(spec));
            assert!(!spec.usages().is_empty());
            for usage in KeyUsage::ALL.iter().copied() {
                let kind = KeyKind { spec, usage, origin: Origin::AwsKms };
                if spec.usages().contains(&usage) {
                    assert_eq!(kind.algorithm_lists().len(), 1, "{kind:?}");
                }
            }
        }
    }
}
