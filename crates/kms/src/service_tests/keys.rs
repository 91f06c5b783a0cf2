//! Key specs and what can be done with each: signatures, MACs, agreement, data key pairs, re-encryption.

use super::*;
use crate::crypto::agreement::AgreementKey;
use crate::crypto::oaep::DecryptingKey;
use crate::crypto::signing::{Message, SigningKey};
use crate::spec::{EncryptionAlgorithm, KeySpec, SigningAlgorithm};

async fn create(client: &Client, spec: &str, usage: &str) -> String {
    let answer = ok(client, "TrentService.CreateKey", json!({"KeySpec": spec, "KeyUsage": usage})).await;
    answer.body["KeyMetadata"]["Arn"].as_str().unwrap().to_owned()
}

fn bytes(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap()).unwrap()
}

fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_key_is_described_as_at_aws_and_works_after_a_restart() {
    let mut fixture = Fixture::new().await;
    let admin = fixture.admin();
    let mut signed = Vec::new();
    for spec in KeySpec::ALL.iter().copied().filter(|spec| !matches!(spec, KeySpec::Rsa3072 | KeySpec::Rsa4096)) {
        for usage in spec.usages() {
            let body = json!({"KeySpec": spec.name(), "KeyUsage": usage.name()});
            let answer = ok(&admin, "TrentService.CreateKey", body).await;
            let metadata = &answer.body["KeyMetadata"];
            assert_eq!((&metadata["KeySpec"], &metadata["KeyUsage"]), (&json!(spec.name()), &json!(usage.name())));
            assert_eq!(metadata["CustomerMasterKeySpec"], metadata["KeySpec"]);
            let lists = ["EncryptionAlgorithms", "SigningAlgorithms", "MacAlgorithms", "KeyAgreementAlgorithms"];
            let present: Vec<_> = lists.into_iter().filter(|name| metadata.get(name).is_some()).collect();
            assert_eq!(present.len(), 1, "{metadata}");
            assert_eq!(metadata.get("CurrentKeyMaterialId").is_some(), spec == KeySpec::SymmetricDefault);
            let image = fixture.event(answer.seq.unwrap()).additional_event_data.after.unwrap();
            assert_eq!((&image["keySpec"], &image["keyUsage"]), (&metadata["KeySpec"], &metadata["KeyUsage"]));
            let arn = metadata["Arn"].as_str().unwrap().to_owned();
            if let Some(algorithms) = metadata.get("SigningAlgorithms") {
                let body = json!({"KeyId": arn, "Message": "eA==", "SigningAlgorithm": algorithms[0]});
                let answer = ok(&admin, "TrentService.Sign", body).await.body;
                signed.push((arn, algorithms[0].clone(), answer["Signature"].clone()));
            }
        }
    }
    fixture.stop().await;
    fixture.start().await.unwrap();
    let admin = fixture.admin();
    assert_eq!(signed.len(), 9);
    for (key, algorithm, signature) in signed {
        let body = json!({"KeyId": key, "Message": "eA==", "SigningAlgorithm": algorithm, "Signature": signature});
        assert_eq!(ok(&admin, "TrentService.Verify", body).await.body["SignatureValid"], true);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_does_not_exist_or_fit_is_refused_and_makes_no_key() {
    let fixture = Fixture::new().await;
    let admin = fixture.admin();
    for (spec, usage, code) in [
        (Some("RSA_1024"), Some("SIGN_VERIFY"), "ValidationException"),
        (Some("SM2"), Some("SIGN_VERIFY"), "UnsupportedOperationException"),
        (Some("ML_KEM_768"), Some("ENCAPSULATE_DECAPSULATE"), "UnsupportedOperationException"),
        (Some("HMAC_256"), Some("ENCRYPT_DECRYPT"), "ValidationException"),
        (Some("HMAC_256"), None, "ValidationException"),
        (Some("ECC_SECG_P256K1"), Some("KEY_AGREEMENT"), "ValidationException"),
        (Some("ECC_NIST_P256"), Some("ENCRYPT_DECRYPT"), "ValidationException"),
        (None, Some("SIGN_VERIFY"), "ValidationException"),
        (Some("RSA_2048"), Some("NONSENSE"), "ValidationException"),
    ] {
        let body = json!({"KeySpec": spec, "KeyUsage": usage});
        assert_eq!(refused(&admin, "TrentService.CreateKey", body).await.0, code, "{spec:?} {usage:?}");
    }
    let body = json!({"KeySpec": "HMAC_256", "CustomerMasterKeySpec": "RSA_2048", "KeyUsage": "SIGN_VERIFY"});
    assert_eq!(refused(&admin, "TrentService.CreateKey", body).await.0, "ValidationException");
    let body = json!({"KeySpec": "RSA_2048", "KeyUsage": "SIGN_VERIFY"});
    let before = std::time::Instant::now();
    assert_eq!(refused(&fixture.user("powerless"), "TrentService.CreateKey", body).await.0, "AccessDeniedException");
    assert!(before.elapsed() < Duration::from_secs(60), "denied");
    assert_eq!(fixture.kms.as_ref().unwrap().node().key_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_hold_for_their_key_message_and_algorithm_only() {
    let fixture = Fixture::new().await;
    let admin = fixture.admin();
    let key = create(&admin, "ECC_NIST_P384", "SIGN_VERIFY").await;
    let rsa = create(&admin, "RSA_2048", "SIGN_VERIFY").await;
    let digest = base64(&[7; 48]);
    let body = json!({"KeyId": key, "Message": digest, "MessageType": "DIGEST", "SigningAlgorithm": "ECDSA_SHA_384"});
    let answer = ok(&admin, "TrentService.Sign", body.clone()).await;
    let event = fixture.event(answer.seq.unwrap());
    assert_eq!(event.request_parameters.as_ref().unwrap()["messageType"], "DIGEST");
    assert!(event.read_only && event.additional_event_data.key_material_id.is_some());
    let text = serde_json::to_string(&event).unwrap();
    assert!(!text.contains(&digest) && !text.contains(answer.body["Signature"].as_str().unwrap()));

    let mut verify = body.clone();
    verify["Signature"] = answer.body["Signature"].clone();
    let verified = ok(&admin, "TrentService.Verify", verify.clone()).await.body;
    assert_eq!((&verified["SignatureValid"], &verified["KeyId"]), (&json!(true), &json!(key)));
    let changed = |name: &str, value: Value| {
        let mut changed = verify.clone();
        changed[name] = value;
        changed
    };
    for (body, code) in [
        (changed("Message", base64(&[8; 48]).into()), "KMSInvalidSignatureException"),
        (changed("Signature", "AAAA".into()), "KMSInvalidSignatureException"),
        (changed("MessageType", "RAW".into()), "KMSInvalidSignatureException"),
        (changed("Message", base64(&[7; 32]).into()), "ValidationException"),
        (changed("Message", "".into()), "ValidationException"),
        (changed("Message", base64(&[7; 4_097]).into()), "ValidationException"),
        (changed("MessageType", "EXTERNAL_MU".into()), "UnsupportedOperationException"),
        (changed("MessageType", "HASH".into()), "ValidationException"),
        (changed("SigningAlgorithm", "ECDSA_SHA_256".into()), "InvalidKeyUsageException"),
        (changed("SigningAlgorithm", "SM2DSA".into()), "UnsupportedOperationException"),
        (changed("SigningAlgorithm", "ROT13".into()), "ValidationException"),
        (changed("KeyId", rsa.clone().into()), "InvalidKeyUsageException"),
        (changed("DryRun", true.into()), "DryRunOperationException"),
        (changed("Signature", Value::Null), "ValidationException"),
    ] {
        assert_eq!(refused(&admin, "TrentService.Verify", body.clone()).await.0, code, "{body}");
    }

    // The public half, outside of the service.
    let public = ok(&admin, "TrentService.GetPublicKey", json!({"KeyId": rsa})).await.body;
    assert_eq!((&public["KeySpec"], &public["KeyUsage"]), (&json!("RSA_2048"), &json!("SIGN_VERIFY")));
    assert_eq!(public["SigningAlgorithms"].as_array().unwrap().len(), 6);
    assert!(public.get("EncryptionAlgorithms").is_none());
    let body = json!({"KeyId": rsa, "Message": base64(b"hello"), "SigningAlgorithm": "RSASSA_PSS_SHA_512"});
    let signature = bytes(&ok(&admin, "TrentService.Sign", body).await.body["Signature"]);
    let outside = aws_lc_rs::signature::UnparsedPublicKey::new(
        &aws_lc_rs::signature::RSA_PSS_2048_8192_SHA512,
        bytes(&public["PublicKey"]),
    );
    outside.verify(b"hello", &signature).unwrap();
    let symmetric = create_key(&admin).await;
    for (target, body, code) in [
        ("TrentService.GetPublicKey", json!({"KeyId": symmetric}), "UnsupportedOperationException"),
        (
            "TrentService.Sign",
            json!({"KeyId": symmetric, "Message": "eA==", "SigningAlgorithm": "ECDSA_SHA_256"}),
            "InvalidKeyUsageException",
        ),
        ("TrentService.Encrypt", json!({"KeyId": rsa, "Plaintext": "eA=="}), "InvalidKeyUsageException"),
        ("TrentService.GenerateDataKey", json!({"KeyId": rsa, "KeySpec": "AES_256"}), "InvalidKeyUsageException"),
    ] {
        assert_eq!(refused(&admin, target, body).await.0, code, "{target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rsa_keys_encrypt_what_only_they_decrypt() {
    let fixture = Fixture::new().await;
    let admin = fixture.admin();
    let key = create(&admin, "RSA_2048", "ENCRYPT_DECRYPT").await;
    let encrypt = |length: usize, algorithm: &str| json!({"KeyId": key, "Plaintext": base64(&vec![7; length]), "EncryptionAlgorithm": algorithm});
    for (algorithm, longest) in [("RSAES_OAEP_SHA_1", 214), ("RSAES_OAEP_SHA_256", 190)] {
        let sealed = ok(&admin, "TrentService.Encrypt", encrypt(longest, algorithm)).await.body;
        assert_eq!(sealed["EncryptionAlgorithm"], algorithm);
        let body = json!({"KeyId": key, "CiphertextBlob": sealed["CiphertextBlob"], "EncryptionAlgorithm": algorithm});
        let opened = ok(&admin, "TrentService.Decrypt", body.clone()).await.body;
        assert_eq!((bytes(&opened["Plaintext"]), opened.get("KeyMaterialId")), (vec![7; longest], None));
        let mut nameless = body.clone();
        nameless.as_object_mut().unwrap().remove("KeyId");
        assert_eq!(refused(&admin, "TrentService.Decrypt", nameless).await.0, "ValidationException");
        let mut damaged = body;
        damaged["CiphertextBlob"] = base64(&[1; 256]).into();
        assert_eq!(refused(&admin, "TrentService.Decrypt", damaged).await.0, "InvalidCiphertextException");
        let (code, _) = refused(&admin, "TrentService.Encrypt", encrypt(longest + 1, algorithm)).await;
        assert_eq!(code, "ValidationException");
    }
    let mut with_context = encrypt(1, "RSAES_OAEP_SHA_256");
    with_context["EncryptionContext"] = json!({"a": "b"});
    assert_eq!(refused(&admin, "TrentService.Encrypt", with_context).await.0, "ValidationException");
    assert_eq!(
        refused(&admin, "TrentService.Encrypt", encrypt(1, "SYMMETRIC_DEFAULT")).await.0,
        "InvalidKeyUsageException"
    );
    assert_eq!(refused(&admin, "TrentService.Encrypt", encrypt(1, "SM2PKE")).await.0, "UnsupportedOperationException");

    // Encrypted outside with the public half.
    let public = ok(&admin, "TrentService.GetPublicKey", json!({"KeyId": key})).await.body;
    let outside = aws_lc_rs::rsa::PublicEncryptingKey::from_der(&bytes(&public["PublicKey"])).unwrap();
    let outside = aws_lc_rs::rsa::OaepPublicEncryptingKey::new(outside).unwrap();
    let mut sealed = vec![0; 256];
    outside.encrypt(&aws_lc_rs::rsa::OAEP_SHA256_MGF1SHA256, b"outside", &mut sealed, None).unwrap();
    let body = json!({"KeyId": key, "CiphertextBlob": base64(&sealed), "EncryptionAlgorithm": "RSAES_OAEP_SHA_256"});
    assert_eq!(bytes(&ok(&admin, "TrentService.Decrypt", body).await.body["Plaintext"]), b"outside");
}

#[tokio::test(flavor = "multi_thread")]
async fn macs_random_bytes_and_shared_secrets() {
    let fixture = Fixture::new().await;
    let admin = fixture.admin();
    let key = create(&admin, "HMAC_384", "GENERATE_VERIFY_MAC").await;
    let body = json!({"KeyId": key, "Message": base64(b"hello"), "MacAlgorithm": "HMAC_SHA_384"});
    let answer = ok(&admin, "TrentService.GenerateMac", body.clone()).await;
    assert_eq!(bytes(&answer.body["Mac"]).len(), 48);
    assert_eq!(fixture.event(answer.seq.unwrap()).request_parameters.unwrap()["macAlgorithm"], "HMAC_SHA_384");
    let mut verify = body.clone();
    verify["Mac"] = answer.body["Mac"].clone();
    assert_eq!(ok(&admin, "TrentService.VerifyMac", verify.clone()).await.body["MacValid"], true);
    verify["Message"] = base64(b"hullo").into();
    assert_eq!(refused(&admin, "TrentService.VerifyMac", verify).await.0, "KMSInvalidMacException");
    let mut other = body;
    other["MacAlgorithm"] = "HMAC_SHA_256".into();
    assert_eq!(refused(&admin, "TrentService.GenerateMac", other.clone()).await.0, "InvalidKeyUsageException");
    other["MacAlgorithm"] = "HMAC_MD5".into();
    assert_eq!(refused(&admin, "TrentService.GenerateMac", other).await.0, "ValidationException");

    let random = ok(&admin, "TrentService.GenerateRandom", json!({"NumberOfBytes": 1_024})).await;
    assert_eq!(bytes(&random.body["Plaintext"]).len(), 1_024);
    for (body, code) in [
        (json!({}), "ValidationException"),
        (json!({"NumberOfBytes": 0}), "ValidationException"),
        (json!({"NumberOfBytes": 1_025}), "ValidationException"),
        (json!({"NumberOfBytes": 8, "CustomKeyStoreId": "cks-1"}), "UnsupportedOperationException"),
        (json!({"NumberOfBytes": 8, "Recipient": {}}), "UnsupportedOperationException"),
    ] {
        assert_eq!(refused(&admin, "TrentService.GenerateRandom", body.clone()).await.0, code, "{body}");
    }

    let key = create(&admin, "ECC_NIST_P256", "KEY_AGREEMENT").await;
    let peer = AgreementKey::read(KeySpec::P256, SigningKey::generate(KeySpec::P256).unwrap().expose()).unwrap();
    let body = json!({
        "KeyId": key, "KeyAgreementAlgorithm": "ECDH", "PublicKey": base64(&peer.public_key().unwrap()),
    });
    let answer = ok(&admin, "TrentService.DeriveSharedSecret", body.clone()).await;
    let public = ok(&admin, "TrentService.GetPublicKey", json!({"KeyId": key})).await.body;
    assert_eq!(bytes(&answer.body["SharedSecret"]), peer.agree(&bytes(&public["PublicKey"])).unwrap().expose());
    assert_eq!((&answer.body["KeyOrigin"], &public["KeyAgreementAlgorithms"]), (&json!("AWS_KMS"), &json!(["ECDH"])));
    let text = serde_json::to_string(&fixture.event(answer.seq.unwrap())).unwrap();
    assert!(!text.contains(answer.body["SharedSecret"].as_str().unwrap()));
    let mut wrong = body.clone();
    wrong["PublicKey"] = base64(b"garbage").into();
    assert_eq!(refused(&admin, "TrentService.DeriveSharedSecret", wrong).await.0, "ValidationException");
    let mut wrong = body;
    wrong["DryRun"] = true.into();
    assert_eq!(refused(&admin, "TrentService.DeriveSharedSecret", wrong).await.0, "DryRunOperationException");
    let body = json!({"KeyId": key, "Message": "eA==", "SigningAlgorithm": "ECDSA_SHA_256"});
    assert_eq!(refused(&admin, "TrentService.Sign", body).await.0, "InvalidKeyUsageException");
}

#[tokio::test(flavor = "multi_thread")]
async fn data_key_pairs_come_back_from_their_ciphertext() {
    let fixture = Fixture::new().await;
    let admin = fixture.admin();
    let key = create_key(&admin).await;
    let body = |spec: &str| json!({"KeyId": key, "KeyPairSpec": spec, "EncryptionContext": {"for": "pair"}});
    for (name, spec) in [
        ("ECC_NIST_P521", KeySpec::P521),
        ("ECC_SECG_P256K1", KeySpec::Secp256k1),
        ("ECC_NIST_EDWARDS25519", KeySpec::Ed25519),
        ("RSA_2048", KeySpec::Rsa2048),
    ] {
        let answer = ok(&admin, "TrentService.GenerateDataKeyPair", body(name)).await;
        let private = bytes(&answer.body["PrivateKeyPlaintext"]);
        let pair = SigningKey::read(spec, &private).unwrap();
        assert_eq!(pair.public_key().unwrap(), bytes(&answer.body["PublicKey"]));
        let open = json!({
            "CiphertextBlob": answer.body["PrivateKeyCiphertextBlob"], "EncryptionContext": {"for": "pair"},
        });
        let opened = ok(&admin, "TrentService.Decrypt", open).await.body;
        assert_eq!(bytes(&opened["Plaintext"]), private);
        assert_eq!(opened["KeyMaterialId"], answer.body["KeyMaterialId"]);
        let event = fixture.event(answer.seq.unwrap());
        assert_eq!(event.request_parameters.unwrap()["keyPairSpec"], name);
    }
    let without = ok(&admin, "TrentService.GenerateDataKeyPairWithoutPlaintext", body("ECC_NIST_P256")).await.body;
    assert!(without.get("PrivateKeyPlaintext").is_none() && without["PublicKey"].is_string());
    for (spec, code) in [
        ("SM2", "UnsupportedOperationException"),
        ("ML_DSA_44", "ValidationException"),
        ("HMAC_256", "ValidationException"),
    ] {
        assert_eq!(refused(&admin, "TrentService.GenerateDataKeyPair", body(spec)).await.0, code, "{spec}");
    }
    let mut dry = body("RSA_4096");
    dry["DryRun"] = true.into();
    assert_eq!(refused(&admin, "TrentService.GenerateDataKeyPair", dry).await.0, "DryRunOperationException");
}

#[tokio::test(flavor = "multi_thread")]
async fn re_encryption_moves_a_ciphertext_and_asks_for_both_permissions() {
    let fixture = Fixture::new().await;
    let admin = fixture.admin();
    let (from, to) = (create_key(&admin).await, create_key(&admin).await);
    let rsa = create(&admin, "RSA_2048", "ENCRYPT_DECRYPT").await;
    let blob = encrypt(&admin, &from, b"moved", json!({"at": "from"})).await;
    let body = json!({
        "CiphertextBlob": blob, "SourceEncryptionContext": {"at": "from"},
        "DestinationKeyId": to, "DestinationEncryptionContext": {"at": "to"},
    });
    let answer = ok(&admin, "TrentService.ReEncrypt", body.clone()).await;
    assert_eq!((&answer.body["SourceKeyId"], &answer.body["KeyId"]), (&json!(from), &json!(to)));
    let event = fixture.event(answer.seq.unwrap());
    let arns: Vec<_> = event.resources.iter().map(|resource| resource.arn.as_str()).collect();
    assert_eq!(arns, [from.as_str(), to.as_str()]);
    let parameters = event.request_parameters.unwrap();
    assert_eq!((&parameters["sourceKeyId"], &parameters["destinationKeyId"]), (&json!(from), &json!(to)));
    assert!(event.additional_event_data.more["sourceDecidedBy"].is_string());
    assert_eq!(event.additional_event_data.more["sourceKeyMaterialId"], answer.body["SourceKeyMaterialId"]);
    let open = json!({"CiphertextBlob": answer.body["CiphertextBlob"], "EncryptionContext": {"at": "to"}});
    assert_eq!(bytes(&ok(&admin, "TrentService.Decrypt", open).await.body["Plaintext"]), b"moved");

    // To an RSA key and back.
    let body_rsa = json!({
        "CiphertextBlob": blob, "SourceEncryptionContext": {"at": "from"},
        "DestinationKeyId": rsa, "DestinationEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
    });
    let sealed = ok(&admin, "TrentService.ReEncrypt", body_rsa).await.body;
    assert!(sealed.get("DestinationKeyMaterialId").is_none());
    let back = json!({
        "CiphertextBlob": sealed["CiphertextBlob"], "SourceKeyId": rsa, "SourceEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
        "DestinationKeyId": to,
    });
    let sealed = ok(&admin, "TrentService.ReEncrypt", back).await.body;
    let open = json!({"CiphertextBlob": sealed["CiphertextBlob"]});
    assert_eq!(bytes(&ok(&admin, "TrentService.Decrypt", open).await.body["Plaintext"]), b"moved");

    let changed = |name: &str, value: Value| {
        let mut changed = body.clone();
        changed[name] = value;
        changed
    };
    for (body, code) in [
        (changed("SourceEncryptionContext", json!({"at": "to"})), "InvalidCiphertextException"),
        (changed("SourceKeyId", to.clone().into()), "IncorrectKeyException"),
        (changed("DestinationKeyId", "alias/none".into()), "NotFoundException"),
        (changed("DestinationKeyId", Value::Null), "ValidationException"),
        (changed("DryRun", true.into()), "DryRunOperationException"),
    ] {
        assert_eq!(refused(&admin, "TrentService.ReEncrypt", body.clone()).await.0, code, "{body}");
    }

    // Either side's policy can refuse, and both may look at whether the key stays the same.
    let forbid = async |key: &str, action: &str, condition: Value| {
        let policy = json!({"Version": "2012-10-17", "Statement": [
            {"Sid": "All", "Effect": "Allow", "Principal": {"AWS": format!("arn:aws:iam::{ACCOUNT}:root")},
             "Action": "kms:*", "Resource": "*"},
            {"Sid": "No", "Effect": "Deny", "Principal": "*", "Action": action, "Resource": "*", "Condition": condition},
        ]});
        let put = json!({"KeyId": key, "Policy": policy.to_string()});
        ok(&admin, "TrentService.PutKeyPolicy", put).await;
    };
    let same = changed("DestinationKeyId", from.clone().into());
    forbid(&from, "kms:ReEncryptFrom", json!({"Bool": {"kms:ReEncryptOnSameKey": "true"}})).await;
    assert_eq!(refused(&admin, "TrentService.ReEncrypt", same.clone()).await.0, "AccessDeniedException");
    ok(&admin, "TrentService.ReEncrypt", body.clone()).await;
    forbid(&to, "kms:ReEncryptTo", json!({"Bool": {"kms:ReEncryptOnSameKey": "false"}})).await;
    let (code, seq) = refused(&admin, "TrentService.ReEncrypt", body).await;
    assert_eq!(code, "AccessDeniedException");
    assert_eq!(fixture.event(seq).additional_event_data.decided_by.as_deref(), Some("KeyPolicy/No"));
}

/// Conditions about the request's algorithms: true, false, and absent for a call that has none.
#[tokio::test(flavor = "multi_thread")]
async fn policies_may_look_at_the_algorithms_of_a_call() {
    let fixture = Fixture::new().await;
    let admin = fixture.admin();
    let sign = create(&admin, "RSA_2048", "SIGN_VERIFY").await;
    let mac = create(&admin, "HMAC_256", "GENERATE_VERIFY_MAC").await;
    let agree = create(&admin, "ECC_NIST_P256", "KEY_AGREEMENT").await;
    let symmetric = create_key(&admin).await;
    let peer = AgreementKey::read(KeySpec::P256, SigningKey::generate(KeySpec::P256).unwrap().expose()).unwrap();
    let pss = SigningAlgorithm::PssSha256.name();
    let calls = [
        ("kms:SigningAlgorithm", pss, &sign, "Sign", json!({"Message": "eA==", "SigningAlgorithm": pss})),
        ("kms:MessageType", "RAW", &sign, "Sign", json!({"Message": "eA==", "SigningAlgorithm": pss})),
        (
            "kms:MacAlgorithm",
            "HMAC_SHA_256",
            &mac,
            "GenerateMac",
            json!({"Message": "eA==", "MacAlgorithm": "HMAC_SHA_256"}),
        ),
        (
            "kms:KeyAgreementAlgorithm",
            "ECDH",
            &agree,
            "DeriveSharedSecret",
            json!({"KeyAgreementAlgorithm": "ECDH", "PublicKey": base64(&peer.public_key().unwrap())}),
        ),
        (
            "kms:DataKeyPairSpec",
            "ECC_NIST_P256",
            &symmetric,
            "GenerateDataKeyPair",
            json!({"KeyPairSpec": "ECC_NIST_P256"}),
        ),
        (
            "kms:EncryptionAlgorithm",
            EncryptionAlgorithm::Symmetric.name(),
            &symmetric,
            "GenerateDataKey",
            json!({"KeySpec": "AES_256"}),
        ),
        ("kms:KeySpec", "HMAC_256", &mac, "GenerateMac", json!({"Message": "eA==", "MacAlgorithm": "HMAC_SHA_256"})),
        ("kms:KeyUsage", "SIGN_VERIFY", &sign, "Sign", json!({"Message": "eA==", "SigningAlgorithm": pss})),
        ("kms:KeyOrigin", "AWS_KMS", &sign, "Sign", json!({"Message": "eA==", "SigningAlgorithm": pss})),
    ];
    for (condition, value, key, operation, mut body) in calls {
        body["KeyId"] = key.as_str().into();
        for (wanted, allowed) in [(value, true), ("SOMETHING_ELSE", false)] {
            let owner = format!("arn:aws:iam::{ACCOUNT}:root");
            let policy = json!({"Version": "2012-10-17", "Statement": [
                {"Sid": "Admin", "Effect": "Allow", "Principal": {"AWS": owner}, "Resource": "*",
                 "Action": ["kms:PutKeyPolicy", "kms:DescribeKey"]},
                {"Sid": "Use", "Effect": "Allow", "Principal": {"AWS": owner}, "Resource": "*", "Action": "kms:*",
                 "Condition": {"StringEquals": {condition: wanted}}},
            ]});
            ok(&admin, "TrentService.PutKeyPolicy", json!({"KeyId": key, "Policy": policy.to_string()})).await;
            let answer = admin.call(&format!("TrentService.{operation}"), body.clone(), None).await;
            match answer {
                Ok(_) => assert!(allowed, "{condition} = {wanted}"),
                Err(error) => {
                    assert_eq!(
                        (allowed, error.code()),
                        (false, Some("AccessDeniedException")),
                        "{condition} = {wanted}"
                    );
                }
            }
        }
    }
    // Absent: DescribeKey has none of these.
    let policy = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"AWS": format!("arn:aws:iam::{ACCOUNT}:root")}, "Resource": "*", "Action": "kms:*"},
        {"Effect": "Deny", "Principal": "*", "Resource": "*", "Action": "kms:DescribeKey",
         "Condition": {"Null": {"kms:SigningAlgorithm": "true", "kms:MacAlgorithm": "true", "kms:MessageType": "true",
                                "kms:DataKeyPairSpec": "true", "kms:KeyAgreementAlgorithm": "true"}}},
    ]});
    ok(&admin, "TrentService.PutKeyPolicy", json!({"KeyId": sign, "Policy": policy.to_string()})).await;
    assert_eq!(refused(&admin, "TrentService.DescribeKey", json!({"KeyId": sign})).await.0, "AccessDeniedException");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_description_changes_and_the_one_policy_is_listed() {
    let mut fixture = Fixture::new().await;
    let admin = fixture.admin();
    let key = create_key(&admin).await;
    let body = json!({"KeyId": key, "Description": "for payroll"});
    let answer = ok(&admin, "TrentService.UpdateKeyDescription", body).await;
    let event = fixture.event(answer.seq.unwrap());
    assert_eq!(event.additional_event_data.before.unwrap()["description"], "");
    assert_eq!(event.additional_event_data.after.unwrap()["description"], "for payroll");
    assert!(!event.read_only);
    for body in [json!({"KeyId": key}), json!({"KeyId": key, "Description": "x".repeat(8_193)})] {
        assert_eq!(refused(&admin, "TrentService.UpdateKeyDescription", body).await.0, "ValidationException");
    }
    let listed = ok(&admin, "TrentService.ListKeyPolicies", json!({"KeyId": key})).await.body;
    assert_eq!(listed, json!({"PolicyNames": ["default"], "Truncated": false}));
    let body = json!({"KeyId": key, "Marker": "eA=="});
    assert_eq!(refused(&admin, "TrentService.ListKeyPolicies", body).await.0, "InvalidMarkerException");
    fixture.stop().await;
    fixture.start().await.unwrap();
    let described = ok(&fixture.admin(), "TrentService.DescribeKey", json!({"KeyId": key})).await.body;
    assert_eq!(described["KeyMetadata"]["Description"], "for payroll");
}

/// The private key that GetPublicKey's key decrypts with is one the service made itself; a stranger's does not fit.
#[test]
fn a_strangers_private_key_is_not_the_keys() {
    let strangers = SigningKey::generate(KeySpec::Rsa2048).unwrap();
    let key = DecryptingKey::read(KeySpec::Rsa2048, strangers.expose()).unwrap();
    let signing = SigningKey::read(KeySpec::Rsa2048, strangers.expose()).unwrap();
    assert_eq!(key.public_key(), signing.public_key().unwrap(), "both uses of a pair have one public half");
    assert!(signing.sign(SigningAlgorithm::EcdsaSha256, Message::Raw(b"x")).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_account_cannot_tell_a_missing_key_from_a_forbidden_one() {
    let fixture = Fixture::new().await;
    let (admin, neighbour) = (fixture.admin(), fixture.user("neighbour"));
    let there = create_key(&admin).await;
    ok(&admin, "TrentService.CreateAlias", json!({"AliasName": "alias/there", "TargetKeyId": there})).await;
    let missing = format!("{}{}", &there[..there.len() - 36], uuid::Uuid::nil());
    let alias = |name: &str| format!("arn:aws:kms:{REGION}:{ACCOUNT}:alias/{name}");
    let own = create_key(&neighbour).await;
    let blob = encrypt(&neighbour, &own, b"x", Value::Null).await;
    let foreign = encrypt(&admin, &create_key(&admin).await, b"x", Value::Null).await;
    let message = async |target: &str, body: Value, key: &str| {
        let (code, seq) = refused(&neighbour, target, body).await;
        assert_eq!(code, "AccessDeniedException");
        fixture.event(seq).error_message.unwrap().replace(key, "<key>")
    };
    for (there, missing) in [(&there, &missing), (&alias("there"), &alias("nowhere"))] {
        for body in [
            json!({"CiphertextBlob": blob, "DestinationKeyId": "<key>"}),
            json!({"CiphertextBlob": foreign, "DestinationKeyId": "<key>"}),
            json!({"CiphertextBlob": foreign, "SourceKeyId": "<key>", "DestinationKeyId": own}),
        ] {
            let named = |key: &str| serde_json::from_str(&body.to_string().replace("<key>", key)).unwrap();
            let target = "TrentService.ReEncrypt";
            let (one, other) =
                (message(target, named(there), there).await, message(target, named(missing), missing).await);
            assert_eq!(one, other, "{body}");
        }
        let named = |key: &str| json!({"KeyId": key, "Plaintext": "eA=="});
        let target = "TrentService.Encrypt";
        assert_eq!(message(target, named(there), there).await, message(target, named(missing), missing).await);
    }
    // Nor does a blob tell which alias its key has.
    let foreign = encrypt(&admin, &there, b"x", Value::Null).await;
    let by = |name: &str| json!({"CiphertextBlob": foreign, "DestinationKeyId": alias(name)});
    let target = "TrentService.ReEncrypt";
    assert_eq!(message(target, by("there"), "").await, message(target, by("nowhere"), "").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_does_not_move_to_a_key_of_another_kind() {
    let fixture = Fixture::new().await;
    let admin = fixture.admin();
    let key = create_key(&admin).await;
    ok(&admin, "TrentService.CreateAlias", json!({"AliasName": "alias/app", "TargetKeyId": key})).await;
    for (spec, usage) in [("HMAC_256", "GENERATE_VERIFY_MAC"), ("RSA_2048", "ENCRYPT_DECRYPT")] {
        let body = json!({"AliasName": "alias/app", "TargetKeyId": create(&admin, spec, usage).await});
        assert_eq!(refused(&admin, "TrentService.UpdateAlias", body).await.0, "ValidationException", "{spec}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_use_of_a_key_names_its_event_and_survives_a_restart_and_a_lost_store() {
    let mut fixture = Fixture::new().await;
    let admin = fixture.admin();
    let (key, other) = (create_key(&admin).await, create_key(&admin).await);
    let named = json!({"KeyId": key});
    let unused = ok(&admin, "TrentService.GetKeyLastUsage", named.clone()).await.body;
    assert_eq!((&unused["KeyId"], &unused["KeyLastUsage"]), (&json!(key.rsplit('/').next()), &json!({})));
    assert_eq!(unused["TrackingStartDate"], unused["KeyCreationDate"]);
    let blob = encrypt(&admin, &key, b"x", Value::Null).await;
    let body = json!({"CiphertextBlob": blob, "DestinationKeyId": other});
    let used = ok(&admin, "TrentService.ReEncrypt", body.clone()).await;
    let event = fixture.event(used.seq.unwrap());
    // None of these is a use.
    let mut dry = body;
    dry["DryRun"] = true.into();
    refused(&admin, "TrentService.ReEncrypt", dry).await;
    refused(&fixture.user("powerless"), "TrentService.Decrypt", json!({"CiphertextBlob": blob})).await;
    ok(&admin, "TrentService.DescribeKey", named.clone()).await;
    let check = async |fixture: &Fixture| {
        for key in [&key, &other] {
            let last = ok(&fixture.admin(), "TrentService.GetKeyLastUsage", json!({"KeyId": key})).await.body;
            let last = &last["KeyLastUsage"];
            assert_eq!((&last["Operation"], &last["CloudTrailEventId"]), (&json!("ReEncrypt"), &json!(event.event_id)));
            assert_eq!(last["KmsRequestId"], used.request_id);
            assert!(last["Timestamp"].is_number());
        }
    };
    check(&fixture).await;
    fixture.stop().await;
    fixture.start().await.unwrap();
    check(&fixture).await;
    fixture.stop().await;
    // What a crash keeps out of the store is read back from the end of the journal.
    let store = rusqlite::Connection::open(fixture.dir().join("kms.db")).unwrap();
    store.execute("DELETE FROM key_usage", []).unwrap();
    store.execute("UPDATE meta SET value = 0 WHERE name = 'usage_through_seq'", []).unwrap();
    drop(store);
    fixture.start().await.unwrap();
    check(&fixture).await;
    let missing = json!({"KeyId": "alias/none"});
    assert_eq!(refused(&fixture.admin(), "TrentService.GetKeyLastUsage", missing).await.0, "NotFoundException");
}
