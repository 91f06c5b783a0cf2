//! Imported material: its way in, its end, and that only the same comes back.

use super::rotation::{fails, fixture_and_clock, works};
use super::*;
use crate::crypto::signing::SigningKey;
use crate::spec::KeySpec;
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded};
use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepAlgorithm, OaepPublicEncryptingKey, PublicEncryptingKey,
};

const FOREVER: &str = "KEY_MATERIAL_DOES_NOT_EXPIRE";

pub(super) async fn external(fixture: &Fixture, spec: &str, usage: &str) -> String {
    let body = json!({"Origin": "EXTERNAL", "KeySpec": spec, "KeyUsage": usage});
    let metadata = works(fixture, "CreateKey", body).await["KeyMetadata"].clone();
    assert_eq!((&metadata["KeyState"], &metadata["Origin"]), (&json!("PendingImport"), &json!("EXTERNAL")));
    assert_eq!((&metadata["Enabled"], metadata.get("CurrentKeyMaterialId")), (&json!(false), None));
    metadata["Arn"].as_str().unwrap().to_owned()
}

fn oaep(public_key: &[u8], algorithm: &'static OaepAlgorithm, text: &[u8]) -> Vec<u8> {
    let key = OaepPublicEncryptingKey::new(PublicEncryptingKey::from_der(public_key).unwrap()).unwrap();
    let mut wrapped = vec![0; key.ciphertext_size()];
    key.encrypt(algorithm, text, &mut wrapped, None).unwrap();
    wrapped
}

/// As the owner of the material would wrap it.
fn wrap(algorithm: &str, public_key: &[u8], material: &[u8]) -> Vec<u8> {
    let hash = if algorithm.ends_with("SHA_1") { &OAEP_SHA1_MGF1SHA1 } else { &OAEP_SHA256_MGF1SHA256 };
    if algorithm.starts_with("RSAES_OAEP") {
        return oaep(public_key, hash, material);
    }
    let aes = [9; 32];
    let mut wrapped = vec![0; material.len() + 15];
    let kek = AesKek::new(&AES_256, &aes).unwrap();
    let length = kek.wrap_with_padding(material, &mut wrapped).unwrap().len();
    wrapped.truncate(length);
    [oaep(public_key, hash, &aes), wrapped].concat()
}

/// The body of an import of this material into this key.
pub(super) async fn parcel(fixture: &Fixture, key: &str, algorithm: &str, material: &[u8]) -> Value {
    let body = json!({"KeyId": key, "WrappingAlgorithm": algorithm, "WrappingKeySpec": "RSA_2048"});
    let mut parcel = parcel_from(&works(fixture, "GetParametersForImport", body).await, algorithm, material);
    parcel["KeyId"] = key.into();
    parcel
}

/// The body of an import by what GetParametersForImport gave.
pub(super) fn parcel_from(given: &Value, algorithm: &str, material: &[u8]) -> Value {
    let public_key = STANDARD.decode(given["PublicKey"].as_str().unwrap()).unwrap();
    json!({
        "KeyId": given["KeyId"], "ImportToken": given["ImportToken"], "ExpirationModel": FOREVER,
        "EncryptedKeyMaterial": STANDARD.encode(wrap(algorithm, &public_key, material)),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_material_comes_in_by_each_wrapping() {
    let (mut fixture, _clock) = fixture_and_clock().await;
    let p256 = SigningKey::generate(KeySpec::P256).unwrap();
    let rsa = SigningKey::generate(KeySpec::Rsa2048).unwrap();
    let mut keys = Vec::new();
    for (spec, usage, algorithm, material) in [
        ("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT", "RSAES_OAEP_SHA_1", &[1; 32][..]),
        ("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT", "RSA_AES_KEY_WRAP_SHA_256", &[2; 32]),
        ("HMAC_512", "GENERATE_VERIFY_MAC", "RSAES_OAEP_SHA_256", &[3; 64]),
        ("ECC_NIST_P256", "SIGN_VERIFY", "RSAES_OAEP_SHA_256", p256.expose()),
        ("RSA_2048", "SIGN_VERIFY", "RSA_AES_KEY_WRAP_SHA_1", rsa.expose()),
    ] {
        let key = external(&fixture, spec, usage).await;
        let body = parcel(&fixture, &key, algorithm, material).await;
        let answer = works(&fixture, "ImportKeyMaterial", body).await;
        assert_eq!(answer.get("KeyMaterialId").is_some(), spec == "SYMMETRIC_DEFAULT", "{answer}");
        let metadata = works(&fixture, "DescribeKey", json!({"KeyId": key})).await["KeyMetadata"].clone();
        assert_eq!((&metadata["KeyState"], &metadata["ExpirationModel"]), (&json!("Enabled"), &json!(FOREVER)));
        assert!(metadata.get("ValidTo").is_none());
        keys.push((spec, key));
    }
    let events = fixture.events();
    let imported = events.iter().rfind(|(_, event)| event.event_name == "ImportKeyMaterial").unwrap();
    assert!(!imported.1.read_only && imported.1.additional_event_data.mutation.is_some());
    assert_eq!(imported.1.additional_event_data.before.as_ref().unwrap()["keyState"], "PendingImport");
    for (_, event) in &events {
        let text = serde_json::to_string(event).unwrap();
        assert!(!text.contains("ImportToken") && !text.contains("importToken") && !text.contains("encryptedKey"));
    }
    fixture.stop().await;
    fixture.start().await.unwrap();
    let sealed = works(&fixture, "Encrypt", json!({"KeyId": keys[0].1, "Plaintext": "eA=="})).await;
    works(&fixture, "Decrypt", json!({"CiphertextBlob": sealed["CiphertextBlob"]})).await;
    let mac = json!({"KeyId": keys[2].1, "Message": "eA==", "MacAlgorithm": "HMAC_SHA_512"});
    let made = works(&fixture, "GenerateMac", mac).await;
    let outside = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA512, &[3; 64]);
    assert_eq!(made["Mac"], STANDARD.encode(aws_lc_rs::hmac::sign(&outside, b"x")));
    let public = works(&fixture, "GetPublicKey", json!({"KeyId": keys[4].1})).await;
    let outside = SigningKey::read(KeySpec::Rsa2048, rsa.expose()).unwrap().public_key().unwrap();
    assert_eq!(public["PublicKey"], STANDARD.encode(outside));
}

#[tokio::test(flavor = "multi_thread")]
async fn material_that_is_deleted_or_expires_comes_back_only_as_it_was() {
    let (mut fixture, clock) = fixture_and_clock().await;
    let key = external(&fixture, "SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT").await;
    let named = json!({"KeyId": key});
    let encrypting = json!({"KeyId": key, "Plaintext": "eA=="});
    for (target, body) in [("Encrypt", encrypting.clone()), ("EnableKey", named.clone()), ("DisableKey", named.clone())]
    {
        assert_eq!(fails(&fixture, target, body).await, "KMSInvalidStateException", "{target}");
    }
    works(&fixture, "DeleteImportedKeyMaterial", named.clone()).await;
    let mut body = parcel(&fixture, &key, "RSAES_OAEP_SHA_256", &[7; 32]).await;
    let ends_us = clock.now_us() + 3_600_000_000;
    body["ExpirationModel"] = "KEY_MATERIAL_EXPIRES".into();
    body["ValidTo"] = (ends_us / 1_000_000).into();
    let id = works(&fixture, "ImportKeyMaterial", body.clone()).await["KeyMaterialId"].clone();
    let metadata = works(&fixture, "DescribeKey", named.clone()).await["KeyMetadata"].clone();
    assert_eq!(metadata["ExpirationModel"], "KEY_MATERIAL_EXPIRES");
    assert_eq!((&metadata["CurrentKeyMaterialId"], metadata["ValidTo"].is_number()), (&id, true));
    let blob = works(&fixture, "Encrypt", encrypting.clone()).await["CiphertextBlob"].clone();
    let all = json!({"KeyId": key, "IncludeKeyMaterial": "ALL_KEY_MATERIAL"});
    let listed = works(&fixture, "ListKeyRotations", all.clone()).await["Rotations"].clone();
    assert_eq!(listed[0]["ValidTo"], metadata["ValidTo"]);
    assert_eq!((&listed[0]["KeyMaterialId"], &listed[0]["ImportState"]), (&id, &json!("IMPORTED")));
    assert_eq!(works(&fixture, "ListKeyRotations", named.clone()).await["Rotations"], json!([]));
    assert_eq!(fails(&fixture, "EnableKeyRotation", named.clone()).await, "UnsupportedOperationException");

    clock.advance(Duration::from_secs(3_500));
    crate::ops::make_due_changes(fixture.kms.as_ref().unwrap().node()).await;
    works(&fixture, "Encrypt", encrypting.clone()).await;
    clock.advance(Duration::from_secs(101));
    let expired = || fixture.events().into_iter().find(|(_, event)| event.event_name == "DeleteExpiredKeyMaterial");
    wait_until(|| expired().is_some()).await;
    crate::ops::make_due_changes(fixture.kms.as_ref().unwrap().node()).await;
    let event = expired().unwrap().1;
    assert_eq!((event.event_type.as_str(), event.request_id), ("AwsServiceEvent", None));
    assert_eq!(event.additional_event_data.more["serviceEventDetails"]["keyMaterialId"], id);
    assert_eq!(event.additional_event_data.after.unwrap()["keyState"], "PendingImport");
    let listed = works(&fixture, "ListKeyRotations", all).await["Rotations"].clone();
    assert_eq!((&listed[0]["ImportState"], listed[0].get("ValidTo")), (&json!("PENDING_IMPORT"), None));
    let decrypting = json!({"CiphertextBlob": blob});
    assert_eq!(fails(&fixture, "Decrypt", decrypting.clone()).await, "KMSInvalidStateException");

    // The key remembers which material it had, also over a restart and a cancelled deletion.
    fixture.stop().await;
    fixture.start().await.unwrap();
    works(&fixture, "ScheduleKeyDeletion", named.clone()).await;
    let pending = parcel_refused(&fixture, &key).await;
    assert_eq!(pending, "KMSInvalidStateException");
    works(&fixture, "CancelKeyDeletion", named.clone()).await;
    let metadata = works(&fixture, "DescribeKey", named.clone()).await["KeyMetadata"].clone();
    assert_eq!(metadata["KeyState"], "PendingImport");
    let other = parcel(&fixture, &key, "RSAES_OAEP_SHA_256", &[8; 32]).await;
    assert_eq!(fails(&fixture, "ImportKeyMaterial", other).await, "IncorrectKeyMaterialException");
    let mut same = parcel(&fixture, &key, "RSAES_OAEP_SHA_256", &[7; 32]).await;
    same["KeyMaterialId"] = "0".repeat(64).into();
    assert_eq!(fails(&fixture, "ImportKeyMaterial", same.clone()).await, "IncorrectKeyMaterialException");
    same["KeyMaterialId"] = id.clone();
    same["ImportType"] = "EXISTING_KEY_MATERIAL".into();
    assert_eq!(works(&fixture, "ImportKeyMaterial", same).await["KeyMaterialId"], id);
    let opened = works(&fixture, "Decrypt", decrypting).await;
    assert_eq!((&opened["Plaintext"], &opened["KeyMaterialId"]), (&json!("eA=="), &id));

    let body = json!({"KeyId": key, "KeyMaterialId": "0".repeat(64)});
    assert_eq!(fails(&fixture, "DeleteImportedKeyMaterial", body).await, "NotFoundException");
    // Whoever may import is not for that allowed to enable.
    works(&fixture, "DisableKey", named.clone()).await;
    let again = parcel(&fixture, &key, "RSAES_OAEP_SHA_256", &[7; 32]).await;
    assert_eq!(fails(&fixture, "ImportKeyMaterial", again.clone()).await, "KMSInvalidStateException");
    let answer = works(&fixture, "DeleteImportedKeyMaterial", named.clone()).await;
    assert_eq!(answer, json!({"KeyId": key, "KeyMaterialId": id}));
    let metadata = works(&fixture, "DescribeKey", named.clone()).await["KeyMetadata"].clone();
    assert_eq!((&metadata["KeyState"], metadata.get("ExpirationModel")), (&json!("PendingImport"), None));
    fixture.stop().await;
    fixture.start().await.unwrap();
    works(&fixture, "ImportKeyMaterial", again).await;
    let metadata = works(&fixture, "DescribeKey", named.clone()).await["KeyMetadata"].clone();
    assert_eq!(metadata["KeyState"], "Disabled");
    assert_eq!(fails(&fixture, "Encrypt", encrypting).await, "DisabledException");
    works(&fixture, "EnableKey", named).await;
}

async fn parcel_refused(fixture: &Fixture, key: &str) -> String {
    let body = json!({"KeyId": key, "WrappingAlgorithm": "RSAES_OAEP_SHA_1", "WrappingKeySpec": "RSA_2048"});
    fails(fixture, "GetParametersForImport", body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_belong_in_a_key_is_refused() {
    let (fixture, clock) = fixture_and_clock().await;
    let key = external(&fixture, "SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT").await;
    let other = external(&fixture, "SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT").await;
    let own = create_key(&fixture.admin()).await;
    assert_eq!(parcel_refused(&fixture, &own).await, "UnsupportedOperationException");
    for (algorithm, spec, code) in [
        ("RSAES_PKCS1_V1_5", "RSA_2048", "UnsupportedOperationException"),
        ("SM2PKE", "SM2", "UnsupportedOperationException"),
        ("ROT13", "RSA_2048", "ValidationException"),
        ("RSAES_OAEP_SHA_1", "RSA_1024", "ValidationException"),
        ("RSAES_OAEP_SHA_1", "ECC_NIST_P256", "ValidationException"),
    ] {
        let body = json!({"KeyId": key, "WrappingAlgorithm": algorithm, "WrappingKeySpec": spec});
        assert_eq!(fails(&fixture, "GetParametersForImport", body).await, code, "{algorithm} {spec}");
    }
    let good = parcel(&fixture, &key, "RSAES_OAEP_SHA_256", &[7; 32]).await;
    let changed = |name: &str, value: Value| {
        let mut changed = good.clone();
        changed[name] = value;
        changed
    };
    let mut damaged = STANDARD.decode(good["ImportToken"].as_str().unwrap()).unwrap();
    damaged[40] ^= 1;
    let now_secs = clock.now_us() / 1_000_000;
    let expiring = |valid_to: Value| {
        let mut body = changed("ExpirationModel", "KEY_MATERIAL_EXPIRES".into());
        body["ValidTo"] = valid_to;
        body
    };
    let short = parcel(&fixture, &key, "RSAES_OAEP_SHA_256", &[7; 31]).await;
    for (body, code) in [
        (changed("KeyId", other.into()), "InvalidImportTokenException"),
        (changed("KeyId", own.into()), "UnsupportedOperationException"),
        (changed("ImportToken", STANDARD.encode(damaged).into()), "InvalidImportTokenException"),
        (changed("ImportToken", Value::Null), "ValidationException"),
        (changed("EncryptedKeyMaterial", STANDARD.encode([1; 256]).into()), "InvalidCiphertextException"),
        (changed("EncryptedKeyMaterial", STANDARD.encode([1; 6_145]).into()), "ValidationException"),
        (changed("ImportType", "EXISTING_KEY_MATERIAL".into()), "IncorrectKeyMaterialException"),
        (changed("ImportType", "SOME".into()), "ValidationException"),
        (changed("ExpirationModel", Value::Null), "ValidationException"),
        (changed("ExpirationModel", "NEVER".into()), "ValidationException"),
        (changed("ValidTo", (now_secs + 60).into()), "ValidationException"),
        (changed("KeyMaterialDescription", "not, mine".into()), "ValidationException"),
        (changed("KeyMaterialDescription", "m".repeat(257).into()), "ValidationException"),
        (expiring(Value::Null), "ValidationException"),
        (expiring((now_secs - 1).into()), "ValidationException"),
        (expiring((now_secs + 366 * 86_400).into()), "ValidationException"),
        (expiring((-5).into()), "ValidationException"),
        (short, "IncorrectKeyMaterialException"),
    ] {
        assert_eq!(fails(&fixture, "ImportKeyMaterial", body.clone()).await, code, "{body}");
    }
    clock.advance(Duration::from_secs(86_401));
    assert_eq!(fails(&fixture, "ImportKeyMaterial", good).await, "ExpiredImportTokenException");
    let again = parcel(&fixture, &key, "RSAES_OAEP_SHA_256", &[7; 32]).await;
    works(&fixture, "ImportKeyMaterial", again.clone()).await;
    works(&fixture, "ImportKeyMaterial", again.clone()).await;
    let mut new = again;
    new["ImportType"] = "NEW_KEY_MATERIAL".into();
    assert_eq!(fails(&fixture, "ImportKeyMaterial", new.clone()).await, "IncorrectKeyMaterialException");
    new["KeyMaterialId"] = "0".repeat(64).into();
    assert_eq!(fails(&fixture, "ImportKeyMaterial", new).await, "ValidationException");
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_may_look_at_how_material_is_imported() {
    let (fixture, clock) = fixture_and_clock().await;
    let key = external(&fixture, "SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT").await;
    let body = parcel(&fixture, &key, "RSAES_OAEP_SHA_256", &[7; 32]).await;
    let deny = async |action: &str, condition: Value| {
        let policy = json!({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Principal": {"AWS": format!("arn:aws:iam::{ACCOUNT}:root")}, "Action": "kms:*", "Resource": "*"},
            {"Effect": "Deny", "Principal": "*", "Action": action, "Resource": "*", "Condition": condition},
        ]});
        works(&fixture, "PutKeyPolicy", json!({"KeyId": key, "Policy": policy.to_string()})).await;
    };
    deny("kms:ImportKeyMaterial", json!({"StringEquals": {"kms:ExpirationModel": FOREVER}})).await;
    assert_eq!(fails(&fixture, "ImportKeyMaterial", body.clone()).await, "AccessDeniedException");
    let now_us = clock.now_us();
    let limit = crate::key::rfc3339_seconds(now_us + 3_600_000_000);
    deny("kms:ImportKeyMaterial", json!({"DateGreaterThan": {"kms:ValidTo": limit}})).await;
    let mut expiring = body;
    expiring["ExpirationModel"] = "KEY_MATERIAL_EXPIRES".into();
    expiring["ValidTo"] = (now_us / 1_000_000 + 7_200).into();
    assert_eq!(fails(&fixture, "ImportKeyMaterial", expiring.clone()).await, "AccessDeniedException");
    expiring["ValidTo"] = (now_us / 1_000_000 + 1_800).into();
    works(&fixture, "ImportKeyMaterial", expiring).await;
    let condition =
        json!({"StringEquals": {"kms:WrappingAlgorithm": "RSAES_OAEP_SHA_1", "kms:WrappingKeySpec": "RSA_2048"}});
    deny("kms:GetParametersForImport", condition).await;
    assert_eq!(parcel_refused(&fixture, &key).await, "AccessDeniedException");
    parcel(&fixture, &key, "RSAES_OAEP_SHA_256", &[7; 32]).await;
}
