//! Project Wycheproof's vectors at the functions that the operations call: signatures at what Verify calls, wrapped
//! material at what ImportKeyMaterial calls. What a caller can bring in whole (HMAC, ECDH and RSA keys) goes through the
//! API in `service_tests::wycheproof`. A set that shrinks, or a vector that is skipped, changes a count below.

use super::import::{ImportToken, Terms};
use super::mac::{MacKey, mac_bytes};
use super::material::{MaterialId, Owner};
use super::oaep::DecryptingKey;
use super::signing::{Message, SigningKey, verify};
use super::{RootKey, SecretBytes};
use crate::spec::{EncryptionAlgorithm, KeySpec, MacAlgorithm, SigningAlgorithm, WrappingAlgorithm};
use aws_lc_rs::digest::{SHA256, SHA384, SHA512, digest};
use wycheproof::{
    HashFunction, TestResult, ecdsa, eddsa, keywrap, mac, mldsa_verify, rsa_pkcs1_verify, rsa_pss_verify,
};

/// How many vectors were accepted and how many refused.
type Count = (usize, usize);

/// Checks one vector's message as Verify would, whole and, where the algorithm takes one, as its digest.
fn holds(spec: KeySpec, algorithm: SigningAlgorithm, public: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let raw = verify(spec, algorithm, public, Message::Raw(message), signature).is_ok();
    let hash = match algorithm.digest_bytes() {
        Some(32) => &SHA256,
        Some(48) => &SHA384,
        Some(_) => &SHA512,
        None => return raw,
    };
    let hashed = digest(hash, message);
    assert_eq!(verify(spec, algorithm, public, Message::Digest(hashed.as_ref()), signature).is_ok(), raw);
    raw
}

fn counted(count: &mut Count, accepted: bool) {
    if accepted { count.0 += 1 } else { count.1 += 1 }
}

/// Nothing in these sets is left to choice; secp256k1 takes both values of s, as AWS does.
#[test]
fn ecdsa_signatures() {
    use ecdsa::TestName as Set;
    for (set, spec, algorithm, expected) in [
        (Set::EcdsaSecp256r1Sha256, KeySpec::P256, SigningAlgorithm::EcdsaSha256, (174, 310)),
        (Set::EcdsaSecp256k1Sha256, KeySpec::Secp256k1, SigningAlgorithm::EcdsaSha256, (168, 308)),
        (Set::EcdsaSecp384r1Sha384, KeySpec::P384, SigningAlgorithm::EcdsaSha384, (194, 310)),
        (Set::EcdsaSecp521r1Sha512, KeySpec::P521, SigningAlgorithm::EcdsaSha512, (232, 310)),
    ] {
        let mut count = (0, 0);
        for group in ecdsa::TestSet::load(set).unwrap().test_groups {
            for test in group.tests {
                let accepted = holds(spec, algorithm, &group.key.key, &test.msg, &test.sig);
                assert_eq!(accepted, test.result == TestResult::Valid, "{set:?} {}: {}", test.tc_id, test.comment);
                counted(&mut count, accepted);
            }
        }
        assert_eq!(count, expected, "{set:?}");
    }
}

#[test]
fn ed25519_signatures() {
    let mut count = (0, 0);
    for group in eddsa::TestSet::load(eddsa::TestName::Ed25519).unwrap().test_groups {
        for test in group.tests {
            let accepted = holds(KeySpec::Ed25519, SigningAlgorithm::Ed25519, &group.key.pk, &test.msg, &test.sig);
            assert_eq!(accepted, test.result == TestResult::Valid, "{}: {}", test.tc_id, test.comment);
            counted(&mut count, accepted);
        }
    }
    assert_eq!(count, (88, 63));
}

/// KMS signs without a context, so that what was signed under one does not hold.
#[test]
fn ml_dsa_signatures() {
    use mldsa_verify::TestName as Set;
    for (set, spec, expected) in [
        (Set::MlDsa44Verify, KeySpec::MlDsa44, (75, 105, 2)),
        (Set::MlDsa65Verify, KeySpec::MlDsa65, (77, 133, 2)),
        (Set::MlDsa87Verify, KeySpec::MlDsa87, (69, 172, 2)),
    ] {
        let (mut count, mut under_context) = ((0, 0), 0);
        for group in mldsa_verify::TestSet::load(set).unwrap().test_groups {
            for test in group.tests {
                let accepted = holds(spec, SigningAlgorithm::MlDsa, &group.pubkey, &test.msg, &test.sig);
                let context = test.ctx.is_some_and(|context| !context.is_empty());
                under_context += usize::from(context && test.result == TestResult::Valid);
                let expected = test.result == TestResult::Valid && !context;
                assert_eq!(accepted, expected, "{set:?} {}: {}", test.tc_id, test.comment);
                counted(&mut count, accepted);
            }
        }
        assert_eq!((count.0, count.1, under_context), expected, "{set:?}");
    }
}

/// "Acceptable" is one vector in each set, a DigestInfo without its NULL: refused, as RFC 8017 allows verifiers to.
#[test]
fn rsa_pkcs1_signatures() {
    use SigningAlgorithm::{Pkcs1Sha256, Pkcs1Sha384, Pkcs1Sha512};
    use rsa_pkcs1_verify::TestName as Set;
    for (set, spec, algorithm, expected) in [
        (Set::Rsa2048Sha256, KeySpec::Rsa2048, Pkcs1Sha256, (9, 250)),
        (Set::Rsa2048Sha384, KeySpec::Rsa2048, Pkcs1Sha384, (7, 251)),
        (Set::Rsa2048Sha512, KeySpec::Rsa2048, Pkcs1Sha512, (8, 251)),
        (Set::Rsa3072Sha256, KeySpec::Rsa3072, Pkcs1Sha256, (8, 251)),
        (Set::Rsa3072Sha384, KeySpec::Rsa3072, Pkcs1Sha384, (7, 252)),
        (Set::Rsa3072Sha512, KeySpec::Rsa3072, Pkcs1Sha512, (8, 252)),
        (Set::Rsa4096Sha256, KeySpec::Rsa4096, Pkcs1Sha256, (7, 251)),
        (Set::Rsa4096Sha384, KeySpec::Rsa4096, Pkcs1Sha384, (7, 252)),
        (Set::Rsa4096Sha512, KeySpec::Rsa4096, Pkcs1Sha512, (7, 252)),
    ] {
        let mut count = (0, 0);
        for group in rsa_pkcs1_verify::TestSet::load(set).unwrap().test_groups {
            for test in group.tests {
                let accepted = holds(spec, algorithm, &group.asn_key, &test.msg, &test.sig);
                assert_eq!(accepted, test.result == TestResult::Valid, "{set:?} {}: {}", test.tc_id, test.comment);
                if test.result == TestResult::Acceptable {
                    assert_eq!(test.flags, [rsa_pkcs1_verify::TestFlag::MissingNull], "{set:?} {}", test.tc_id);
                }
                counted(&mut count, accepted);
            }
        }
        assert_eq!(count, expected, "{set:?}");
    }
}

/// KMS has one form of PSS for each digest: the same digest in MGF1, and a salt as long as it. Good signatures of any
/// other form are refused, under each algorithm.
#[test]
fn rsa_pss_signatures() {
    use SigningAlgorithm::{PssSha256, PssSha384, PssSha512};
    use rsa_pss_verify::TestName as Set;
    for (set, expected) in [
        (Set::RsaPss2048Sha256Mgf1SaltLen32, (63, 261)),
        (Set::RsaPss2048Sha256Mgf1SaltLen0, (1, 308)),
        (Set::RsaPss2048Sha256Mgf1Sha1_20, (0, 324)),
        (Set::RsaPss2048Sha384Mgf1SaltLen48, (95, 328)),
        (Set::RsaPss2048Sha512_256Mgf1SaltLen32, (0, 345)),
        (Set::RsaPss3072Sha256Mgf1SaltLen32, (63, 261)),
        (Set::RsaPss4096Sha256Mgf1SaltLen32, (63, 261)),
        (Set::RsaPss4096Sha384Mgf1SaltLen48, (95, 328)),
        (Set::RsaPss4096Sha512Mgf1SaltLen32, (0, 531)),
        (Set::RsaPss4096Sha512Mgf1SaltLen64, (132, 405)),
        (Set::RsaPssmisc, (3, 447)),
    ] {
        let mut count = (0, 0);
        for group in rsa_pss_verify::TestSet::load(set).unwrap().test_groups {
            let Some(spec) = rsa_spec(group.key_size) else { panic!("{set:?}: {} bits", group.key_size) };
            let own = [
                (PssSha256, HashFunction::Sha2_256, 32),
                (PssSha384, HashFunction::Sha2_384, 48),
                (PssSha512, HashFunction::Sha2_512, 64),
            ];
            for test in group.tests {
                for (algorithm, hash, salt_bytes) in own {
                    let ours = group.hash == hash && group.mgf_hash == Some(hash) && group.salt_size == salt_bytes;
                    let accepted = holds(spec, algorithm, &group.asn_key, &test.msg, &test.sig);
                    // Bad in its set, where salts are empty, for having a salt of 32 bytes: which is the one form here.
                    let form = set == Set::RsaPss2048Sha256Mgf1SaltLen0 && test.comment == "s_len changed to 32";
                    let expected = match form {
                        true => algorithm == PssSha256,
                        false => ours && test.result == TestResult::Valid,
                    };
                    assert_eq!(accepted, expected, "{set:?} {algorithm:?} {}: {}", test.tc_id, test.comment);
                    counted(&mut count, accepted);
                }
            }
        }
        assert_eq!(count, expected, "{set:?}");
    }
}

/// Whole MACs under keys as long as their digest, the messages that the API refuses for being empty among them.
#[test]
fn macs() {
    for (set, algorithm, expected) in [
        (mac::TestName::HmacSha224, MacAlgorithm::Sha224, (27, 133)),
        (mac::TestName::HmacSha256, MacAlgorithm::Sha256, (27, 135)),
        (mac::TestName::HmacSha384, MacAlgorithm::Sha384, (27, 135)),
        (mac::TestName::HmacSha512, MacAlgorithm::Sha512, (27, 135)),
    ] {
        let mut count = (0, 0);
        for group in mac::TestSet::load(set).unwrap().test_groups {
            let ours = group.key_size == 8 * mac_bytes(algorithm);
            for test in group.tests {
                let key = MacKey::read(algorithm, &test.key);
                assert_eq!(key.is_ok(), ours, "{set:?} {}", test.tc_id);
                let Ok(key) = key else { continue };
                let accepted = key.verify(&test.msg, &test.tag).is_ok();
                let expected = group.tag_size == group.key_size && test.result == TestResult::Valid;
                assert_eq!(accepted, expected, "{set:?} {}: {}", test.tc_id, test.comment);
                counted(&mut count, accepted);
            }
        }
        assert_eq!(count, expected, "{set:?}");
    }
}

/// AES keys of 256 bits are the only ones that RSA_AES_KEY_WRAP carries here; shorter ones open nothing.
#[test]
fn wrapped_material_to_import() {
    let folder = tempfile::tempdir().unwrap();
    let root = RootKey::create(&folder.path().join("root")).unwrap();
    let owner = Owner {
        account: "111122223333",
        region: "eu-central-1",
        key_id: "1234abcd-12ab-34cd-56ef-1234567890ab",
        material_id: MaterialId([0; 32]),
    };
    let terms = Terms { valid_to_us: 7, algorithm: WrappingAlgorithm::AesKeyWrapSha256, spec: KeySpec::Rsa2048 };
    let private = SigningKey::generate(KeySpec::Rsa2048).unwrap();
    let public = DecryptingKey::read(KeySpec::Rsa2048, private.expose()).unwrap();
    let token = ImportToken::open(&root, &owner, &ImportToken::seal(&root, &owner, &terms, &private).unwrap()).unwrap();
    for (set, expected) in
        [(keywrap::TestName::AesKeyWrapWithPadding, (25, 229)), (keywrap::TestName::AesKeyWrap, (0, 165))]
    {
        let mut count = (0, 0);
        for group in keywrap::TestSet::load(set).unwrap().test_groups {
            for test in group.tests {
                let head = public.encrypt(EncryptionAlgorithm::OaepSha256, &test.key).unwrap();
                let opened = token.unwrap(&[&head, &test.ct[..]].concat());
                let ours = set == keywrap::TestName::AesKeyWrapWithPadding && group.key_size == 256;
                let expected = ours && test.result == TestResult::Valid;
                assert_eq!(opened.is_ok(), expected, "{set:?} {}: {}", test.tc_id, test.comment);
                counted(&mut count, opened.is_ok());
                assert!(opened.is_err() || opened.is_ok_and(|text: SecretBytes| text.expose() == &test.pt[..]));
            }
        }
        assert_eq!(count, expected, "{set:?}");
    }
}

fn rsa_spec(bits: usize) -> Option<KeySpec> {
    match bits {
        2_048 => Some(KeySpec::Rsa2048),
        3_072 => Some(KeySpec::Rsa3072),
        4_096 => Some(KeySpec::Rsa4096),
        _ => None,
    }
}
