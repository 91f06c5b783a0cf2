//! Project Wycheproof's vectors through the API: each key is brought in by ImportKeyMaterial, then every vector of it is
//! one call. Signatures and key wrapping are in `crypto::wycheproof_tests`: no caller can bring in a public key.

use super::import::{external, parcel};
use super::*;
use ::wycheproof::{TestResult, ecdh, mac, rsa_oaep};
use std::collections::BTreeMap;

/// What a call of a vector was answered: the answer's body, or the exception.
type Answered = Result<Value, String>;

/// One call, without the receipts and records that other tests look at.
async fn answered(client: &Client, target: &str, body: Value) -> Answered {
    match client.call(target, body.clone(), None).await {
        Ok(answer) => Ok(answer.body),
        Err(ClientError::Service { code, .. }) => Err(code),
        other => panic!("{target} {body}: {other:?}"),
    }
}

/// Makes a key of imported material, or says why the material was refused.
async fn imported(fixture: &Fixture, spec: &str, usage: &str, material: &[u8]) -> Result<String, String> {
    let key = external(fixture, spec, usage).await;
    let body = parcel(fixture, &key, "RSA_AES_KEY_WRAP_SHA_256", material).await;
    answered(&fixture.admin(), "TrentService.ImportKeyMaterial", body).await.map(|_| key)
}

/// KMS's HMAC keys are as long as their digest, and so are its MACs: keys of another length are refused at their import,
/// and a MAC that was cut is none, also where the vector's author would let a verifier take it. KMS takes no empty
/// message, so that vectors of one need no key of their own here.
#[tokio::test(flavor = "multi_thread")]
async fn hmac_vectors() {
    let fixture = Fixture::new().await;
    for (set, spec, bits, bad) in [
        (mac::TestName::HmacSha224, "HMAC_224", 224, 53),
        (mac::TestName::HmacSha256, "HMAC_256", 256, 54),
        (mac::TestName::HmacSha384, "HMAC_384", 384, 54),
        (mac::TestName::HmacSha512, "HMAC_512", 512, 54),
    ] {
        let mut by_key: BTreeMap<Vec<u8>, Vec<(usize, mac::Test)>> = BTreeMap::new();
        for group in mac::TestSet::load(set).unwrap().test_groups {
            for test in group.tests {
                by_key.entry(test.key.to_vec()).or_default().push((group.tag_size, test));
            }
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (secret, tests) in by_key {
            if secret.len() * 8 == bits && tests.iter().all(|(_, test)| test.msg.is_empty()) {
                *counts.entry("empty").or_default() += tests.len();
                continue;
            }
            let key = imported(&fixture, spec, "GENERATE_VERIFY_MAC", &secret).await;
            assert_eq!(key.is_ok(), secret.len() * 8 == bits, "{spec}: a key of {} bytes", secret.len());
            let Ok(key) = key else {
                assert_eq!(key, Err("IncorrectKeyMaterialException".into()));
                *counts.entry("key of another length").or_default() += tests.len();
                continue;
            };
            for (tag_bits, test) in tests {
                let (expected, what) = match test.result {
                    _ if test.msg.is_empty() => ("ValidationException", "empty"),
                    TestResult::Valid if tag_bits == bits => ("", "valid"),
                    TestResult::Valid => ("KMSInvalidMacException", "cut"),
                    TestResult::Invalid | TestResult::Acceptable => ("KMSInvalidMacException", "invalid"),
                };
                let code = verify_mac(&fixture, &key, spec, &test).await;
                assert_eq!(code, expected, "{spec} {}: {}", test.tc_id, test.comment);
                *counts.entry(what).or_default() += 1;
            }
        }
        let empty = if bits == 224 { 55 } else { 56 };
        let expected = [("cut", 26), ("empty", empty), ("invalid", bad), ("key of another length", 12), ("valid", 26)];
        assert_eq!(counts, BTreeMap::from(expected), "{spec}");
    }
}

/// The exception, or nothing where the MAC holds.
async fn verify_mac(fixture: &Fixture, key: &str, spec: &str, test: &mac::Test) -> String {
    let body = json!({
        "KeyId": key, "MacAlgorithm": spec.replace("HMAC_", "HMAC_SHA_"),
        "Message": STANDARD.encode(&test.msg[..]), "Mac": STANDARD.encode(&test.tag[..]),
    });
    answered(&fixture.admin(), "TrentService.VerifyMac", body).await.err().unwrap_or_default()
}

/// DeriveSharedSecret takes a SubjectPublicKeyInfo in DER with a named curve. Of what is "acceptable" only a compressed
/// point is taken; a curve that is written out in parameters, and every encoding that is not DER, is refused.
#[tokio::test(flavor = "multi_thread")]
async fn ecdh_vectors() {
    let fixture = Fixture::new().await;
    let admin = fixture.admin();
    for (set, spec, oid, scalar_bytes, expected) in [
        (ecdh::TestName::EcdhSecp256r1, "ECC_NIST_P256", "06082a8648ce3d030107", 32, [330, 1, 229, 52]),
        (ecdh::TestName::EcdhSecp384r1, "ECC_NIST_P384", "06052b81040022", 48, [771, 1, 229, 46]),
        (ecdh::TestName::EcdhSecp521r1, "ECC_NIST_P521", "06052b81040023", 66, [632, 1, 227, 56]),
    ] {
        let mut by_key: BTreeMap<Vec<u8>, Vec<ecdh::Test>> = BTreeMap::new();
        for group in ecdh::TestSet::load(set).unwrap().test_groups {
            for test in group.tests {
                by_key.entry(test.private_key.to_vec()).or_default().push(test);
            }
        }
        let [mut valid, mut compressed, mut unusual, mut invalid] = [0; 4];
        for (scalar, tests) in by_key {
            let pkcs8 = ec_pkcs8(&hex::decode(oid).unwrap(), scalar_bytes, &scalar);
            let key = imported(&fixture, spec, "KEY_AGREEMENT", &pkcs8).await.unwrap();
            for test in tests {
                let peer = STANDARD.encode(&test.public_key[..]);
                let body = json!({"KeyId": key, "KeyAgreementAlgorithm": "ECDH", "PublicKey": peer});
                let found = answered(&admin, "TrentService.DeriveSharedSecret", body).await;
                let is_compressed = test.flags.contains(&ecdh::TestFlag::CompressedPoint);
                let (count, agrees) = match test.result {
                    TestResult::Valid => (&mut valid, true),
                    TestResult::Acceptable if is_compressed => (&mut compressed, true),
                    TestResult::Acceptable => (&mut unusual, false),
                    TestResult::Invalid => (&mut invalid, false),
                };
                let secret = found.map(|answer| answer["SharedSecret"].clone());
                let expected = match agrees {
                    true => Ok(STANDARD.encode(&test.shared_secret[..]).into()),
                    false => Err("ValidationException".to_owned()),
                };
                assert_eq!(secret, expected, "{spec} {}: {}", test.tc_id, test.comment);
                *count += 1;
            }
        }
        assert_eq!([valid, compressed, unusual, invalid], expected, "{spec}");
    }
}

/// A private key as its owner would bring it: PKCS#8 around RFC 5915, without the public half.
fn ec_pkcs8(curve: &[u8], scalar_bytes: usize, scalar: &[u8]) -> Vec<u8> {
    let digits: Vec<u8> = scalar.iter().copied().skip_while(|byte| *byte == 0).collect();
    let padded = [vec![0; scalar_bytes - digits.len()], digits].concat();
    let private = der(0x30, &[der(2, &[1]), der(4, &padded)].concat());
    let algorithm = der(0x30, &[&hex::decode("06072a8648ce3d0201").unwrap(), curve].concat());
    der(0x30, &[der(2, &[0]), algorithm, der(4, &private)].concat())
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap();
    let head = if length < 128 { vec![tag, length] } else { vec![tag, 0x81, length] };
    [&head, content].concat()
}

/// KMS encrypts without a label: what was made under one does not open.
#[tokio::test(flavor = "multi_thread")]
async fn rsa_oaep_vectors() {
    use rsa_oaep::TestName as Set;
    let fixture = Fixture::new().await;
    let admin = fixture.admin();
    let mut keys: BTreeMap<Vec<u8>, String> = BTreeMap::new();
    for (set, algorithm, expected) in [
        (Set::Rsa2048Sha1Mgf1Sha1, "RSAES_OAEP_SHA_1", [10, 19, 7]),
        (Set::Rsa2048Sha256Mgf1Sha256, "RSAES_OAEP_SHA_256", [10, 19, 8]),
        (Set::Rsa3072Sha256Mgf1Sha256, "RSAES_OAEP_SHA_256", [10, 19, 8]),
        (Set::Rsa4096Sha256Mgf1Sha256, "RSAES_OAEP_SHA_256", [10, 19, 8]),
        // Another digest in MGF1 than over the label: no form of KMS's.
        (Set::Rsa2048Sha256Mgf1Sha1, "RSAES_OAEP_SHA_256", [0, 18, 13]),
    ] {
        let [mut opened, mut invalid, mut labelled] = [0; 3];
        for group in rsa_oaep::TestSet::load(set).unwrap().test_groups {
            let key = match keys.get(&group.pkcs8[..]) {
                Some(key) => key.clone(),
                None => {
                    let spec = format!("RSA_{}", group.key_size);
                    imported(&fixture, &spec, "ENCRYPT_DECRYPT", &group.pkcs8).await.unwrap()
                }
            };
            keys.insert(group.pkcs8.to_vec(), key.clone());
            for test in group.tests {
                let blob = STANDARD.encode(&test.ct[..]);
                let body = json!({"KeyId": key, "CiphertextBlob": blob, "EncryptionAlgorithm": algorithm});
                let found = answered(&admin, "TrentService.Decrypt", body).await;
                let ours = group.hash == group.mgf_hash && test.label.is_empty();
                match (test.result, found) {
                    (TestResult::Valid, Ok(answer)) if ours => {
                        assert_eq!(answer["Plaintext"], STANDARD.encode(&test.pt[..]), "{set:?} {}", test.tc_id);
                        opened += 1;
                    }
                    (TestResult::Valid, Err(code)) if !ours => {
                        assert_eq!(code, "InvalidCiphertextException", "{set:?} {}", test.tc_id);
                        labelled += 1;
                    }
                    (TestResult::Invalid, Err(code)) => {
                        assert!(["InvalidCiphertextException", "ValidationException"].contains(&code.as_str()));
                        invalid += 1;
                    }
                    (_, found) => panic!("{set:?} {}: {}: {found:?}", test.tc_id, test.comment),
                }
            }
        }
        assert_eq!([opened, invalid, labelled], expected, "{set:?}");
    }
}
