//! AWS's key-state table: each operation on a key in each state, and on a service's own key.

use super::import::parcel;
use super::via_service::{arn, call, service_key};
use super::*;
use crate::policy::KMS_ACTIONS;

/// Operations that name no key, and those of custom key stores and several regions.
const ELSEWHERE: &[&str] = &[
    "ConnectCustomKeyStore",
    "CreateCustomKeyStore",
    "CreateKey",
    "DeleteCustomKeyStore",
    "DescribeCustomKeyStores",
    "DisconnectCustomKeyStore",
    "GenerateRandom",
    "ListKeys",
    "ListRetirableGrants",
    "ReplicateKey",
    "SynchronizeMultiRegionKey",
    "UpdateCustomKeyStore",
    "UpdatePrimaryRegion",
];

/// The kind of key that an operation is for.
pub(super) fn kind(operation: &str) -> (&'static str, &'static str) {
    match operation {
        "Sign" | "Verify" | "GetPublicKey" => ("ECC_NIST_P256", "SIGN_VERIFY"),
        "GenerateMac" | "VerifyMac" => ("HMAC_256", "GENERATE_VERIFY_MAC"),
        "DeriveSharedSecret" => ("ECC_NIST_P256", "KEY_AGREEMENT"),
        _ => ("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT"),
    }
}

/// A call of an operation on an enabled key of its kind that works; what it needs before, `owner` does.
pub(super) async fn body(owner: &impl AsyncFn(&str, Value) -> Value, operation: &str, key: &str) -> Value {
    let id = key.rsplit('/').next().unwrap();
    let with = |more: Value| {
        let mut body = json!({"KeyId": key});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let sign = with(json!({"Message": "eA==", "SigningAlgorithm": "ECDSA_SHA_256"}));
    let mac = with(json!({"Message": "eA==", "MacAlgorithm": "HMAC_SHA_256"}));
    let grant = with(json!({"GranteePrincipal": arn("powerless"), "Operations": ["Decrypt"]}));
    let alias = |name: &str| json!({"AliasName": format!("alias/{name}-{id}"), "TargetKeyId": key});
    match operation {
        "CreateAlias" => alias("new"),
        "CreateGrant" => grant,
        "Decrypt" | "ReEncrypt" => {
            let blob = owner("Encrypt", with(json!({"Plaintext": "eA=="}))).await["CiphertextBlob"].clone();
            if operation == "Decrypt" {
                json!({"CiphertextBlob": blob})
            } else {
                json!({"CiphertextBlob": blob, "DestinationKeyId": key})
            }
        }
        "DeleteAlias" => {
            owner("CreateAlias", alias("old")).await;
            json!({"AliasName": format!("alias/old-{id}")})
        }
        "DeriveSharedSecret" => {
            let public = owner("GetPublicKey", with(json!({}))).await["PublicKey"].clone();
            with(json!({"KeyAgreementAlgorithm": "ECDH", "PublicKey": public}))
        }
        "Encrypt" => with(json!({"Plaintext": "eA=="})),
        "GenerateDataKey" | "GenerateDataKeyWithoutPlaintext" => with(json!({"KeySpec": "AES_128"})),
        "GenerateDataKeyPair" | "GenerateDataKeyPairWithoutPlaintext" => with(json!({"KeyPairSpec": "ECC_NIST_P256"})),
        "GenerateMac" => mac,
        "GetParametersForImport" => {
            with(json!({"WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"}))
        }
        "ImportKeyMaterial" => with(json!({
            "ImportToken": "eA==", "EncryptedKeyMaterial": "eA==", "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
        })),
        "PutKeyPolicy" => with(json!({"Policy": crate::policy::default_key_policy(ACCOUNT)})),
        "RetireGrant" => json!({"GrantToken": owner("CreateGrant", grant).await["GrantToken"]}),
        "RevokeGrant" => with(json!({"GrantId": owner("CreateGrant", grant).await["GrantId"]})),
        "Sign" => sign,
        "TagResource" => with(json!({"Tags": [{"TagKey": "a", "TagValue": "b"}]})),
        "UntagResource" => with(json!({"TagKeys": ["a"]})),
        "UpdateAlias" => {
            let other = owner("CreateKey", json!({})).await["KeyMetadata"]["KeyId"].clone();
            let name = format!("alias/moves-{id}");
            owner("CreateAlias", json!({"AliasName": name, "TargetKeyId": other})).await;
            json!({"AliasName": name, "TargetKeyId": key})
        }
        "UpdateKeyDescription" => with(json!({"Description": "d"})),
        "Verify" => {
            let mut verify = sign.clone();
            verify["Signature"] = owner("Sign", sign).await["Signature"].clone();
            verify
        }
        "VerifyMac" => {
            let mut verify = mac.clone();
            verify["Mac"] = owner("GenerateMac", mac).await["Mac"].clone();
            verify
        }
        _ => with(json!({})),
    }
}

/// For each operation: Enabled, Disabled, PendingDeletion and PendingImport; then a service's own key, called by an
/// administrator and through the service. + works; D DisabledException, I KMSInvalidStateException, U
/// UnsupportedOperationException, T InvalidImportTokenException (the state was not in the way), A AccessDeniedException,
/// N NotAuthorizedException; . there is no such key.
const TABLE: &[(&str, &str, &str)] = &[
    ("CancelKeyDeletion", "II+I", "AA"),
    ("CreateAlias", "++I+", "AA"),
    ("CreateGrant", "+DII", "A+"),
    ("Decrypt", "+DII", "A+"),
    ("DeleteAlias", "++++", "NA"),
    ("DeleteImportedKeyMaterial", "UUU+", "AA"),
    ("DeriveSharedSecret", "+DII", ".."),
    ("DescribeKey", "++++", "++"),
    ("DisableKey", "++II", "AA"),
    ("DisableKeyRotation", "+DIU", "AA"),
    ("EnableKey", "++II", "AA"),
    ("EnableKeyRotation", "+DIU", "AA"),
    ("Encrypt", "+DII", "A+"),
    ("GenerateDataKey", "+DII", "A+"),
    ("GenerateDataKeyPair", "+DII", "A+"),
    ("GenerateDataKeyPairWithoutPlaintext", "+DII", "A+"),
    ("GenerateDataKeyWithoutPlaintext", "+DII", "A+"),
    ("GenerateMac", "+DII", ".."),
    ("GetKeyLastUsage", "++++", "+A"),
    ("GetKeyPolicy", "++++", "+A"),
    ("GetKeyRotationStatus", "+++U", "+A"),
    ("GetParametersForImport", "UUU+", "UA"),
    ("GetPublicKey", "+DII", ".."),
    ("ImportKeyMaterial", "UUUT", "AA"),
    ("ListAliases", "++++", "+A"),
    ("ListGrants", "++++", "++"),
    ("ListKeyPolicies", "++++", "+A"),
    ("ListKeyRotations", "++++", "+A"),
    ("ListResourceTags", "++++", "+A"),
    ("PutKeyPolicy", "++++", "AA"),
    ("ReEncrypt", "+DII", "A+"),
    ("RetireGrant", "++++", "++"),
    ("RevokeGrant", "++++", "++"),
    ("RotateKeyOnDemand", "+DII", "AA"),
    ("ScheduleKeyDeletion", "++I+", "AA"),
    ("Sign", "+DII", ".."),
    ("TagResource", "++I+", "AA"),
    ("UntagResource", "++I+", "AA"),
    ("UpdateAlias", "++I+", "AA"),
    ("UpdateKeyDescription", "++I+", "AA"),
    ("Verify", "+DII", ".."),
    ("VerifyMac", "+DII", ".."),
];

fn letter(answer: Result<Value, String>) -> char {
    match answer.as_ref().map_err(String::as_str) {
        Ok(_) => '+',
        Err("DisabledException") => 'D',
        Err("KMSInvalidStateException") => 'I',
        Err("UnsupportedOperationException") => 'U',
        Err("InvalidImportTokenException") => 'T',
        Err("AccessDeniedException") => 'A',
        Err("NotAuthorizedException") => 'N',
        Err(_) => '?',
    }
}

async fn by_admin(admin: &Client, operation: &str, body: Value) -> Result<Value, String> {
    let answer = admin.call(&format!("TrentService.{operation}"), body, None).await;
    answer.map(|answer| answer.body).map_err(|error| error.code().unwrap_or("no answer").to_owned())
}

/// What an operation answers for keys of its kind in each state.
async fn states(fixture: &Fixture, admin: &Client, operation: &str) -> String {
    let owner = async |operation: &str, body: Value| by_admin(admin, operation, body).await.unwrap();
    let (spec, usage) = kind(operation);
    let mut found = String::new();
    for state in ["Enabled", "Disabled", "PendingDeletion", "PendingImport"] {
        let origin = if state == "PendingImport" { "EXTERNAL" } else { "AWS_KMS" };
        let made = owner("CreateKey", json!({"KeySpec": spec, "KeyUsage": usage, "Origin": origin})).await;
        let key = made["KeyMetadata"]["Arn"].as_str().unwrap();
        let named = json!({"KeyId": key});
        // What these need before takes material, which then goes away again.
        let once = ["Decrypt", "ReEncrypt", "RetireGrant", "RevokeGrant"].contains(&operation);
        let body = match (state, spec) {
            ("PendingImport", "SYMMETRIC_DEFAULT") if once => {
                owner("ImportKeyMaterial", parcel(fixture, key, "RSAES_OAEP_SHA_256", &[7; 32]).await).await;
                let body = body(&owner, operation, key).await;
                owner("DeleteImportedKeyMaterial", named.clone()).await;
                body
            }
            ("PendingImport", "SYMMETRIC_DEFAULT") => body(&owner, operation, key).await,
            ("PendingImport", _) => {
                // A key of the same kind prepares what this one cannot.
                let other = owner("CreateKey", json!({"KeySpec": spec, "KeyUsage": usage})).await;
                let mut body = body(&owner, operation, other["KeyMetadata"]["Arn"].as_str().unwrap()).await;
                body["KeyId"] = key.into();
                body
            }
            _ => body(&owner, operation, key).await,
        };
        match state {
            "Disabled" => drop(owner("DisableKey", named).await),
            "PendingDeletion" => drop(owner("ScheduleKeyDeletion", named).await),
            _ => {}
        }
        found.push(letter(by_admin(admin, operation, body).await));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn each_operation_in_each_key_state() {
    let fixture = Fixture::new().await;
    let admin = fixture.admin();
    for (operation, answers, _) in TABLE {
        assert_eq!(states(&fixture, &admin, operation).await, *answers, "{operation}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_operation_on_a_services_own_key() {
    let mut fixture = Fixture::new().await;
    fixture.stop().await;
    fixture.append_identities(&service_key(ACCOUNT, "objects", "s3", "Active"));
    fixture.append_identities(&user(ACCOUNT, "strong", "[\"AdministratorAccess\"]"));
    fixture.start().await.unwrap();
    let (admin, strong) = (fixture.admin(), arn("strong"));
    let through =
        async |operation: &str, body: &Value| call(&fixture, "objects", (Some(&strong), None), operation, body).await;
    let key = through("DescribeKey", &json!({"KeyId": "alias/aws/s3"})).await.unwrap();
    let key = key["KeyMetadata"]["Arn"].as_str().unwrap();
    // An alias that is there from the call before will do.
    let owner = async |operation: &str, body: Value| match operation {
        "CreateKey" | "CreateAlias" => by_admin(&admin, operation, body).await.unwrap_or_default(),
        _ => through(operation, &body).await.unwrap(),
    };
    for (operation, _, answers) in TABLE.iter().filter(|(_, _, answers)| *answers != "..") {
        let reserved = json!({"AliasName": "alias/aws/s3"});
        let mut found = String::new();
        for admins in [true, false] {
            let body = if *operation == "DeleteAlias" { reserved.clone() } else { body(&owner, operation, key).await };
            let answer = if admins { by_admin(&admin, operation, body).await } else { through(operation, &body).await };
            found.push(letter(answer));
        }
        assert_eq!(found, *answers, "{operation}");
    }
}

#[test]
fn the_table_has_every_operation_on_keys() {
    let of = |action: &'static str| if action.starts_with("ReEncrypt") { "ReEncrypt" } else { action };
    let wanted: std::collections::BTreeSet<_> = KMS_ACTIONS.iter().map(|(action, _)| of(action)).collect();
    let found = TABLE.iter().map(|(operation, ..)| *operation).chain(ELSEWHERE.iter().copied());
    assert_eq!(found.collect::<std::collections::BTreeSet<_>>(), wanted);
}
