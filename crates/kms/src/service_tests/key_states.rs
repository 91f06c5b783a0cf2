//! AWS's key-state table: each operation on a key in each state, and on a service's own key.

use super::import::{parcel, parcel_from};
use super::multi_region::{US, node_of_regions, settle};
use super::via_service::{arn, call, service_key};
use super::*;
use crate::policy::KMS_ACTIONS;

/// Operations that name no key, what the service does by itself, and those of custom key stores (whose keys' state
/// Unavailable is in custom_key_stores.rs: it needs a token).
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
    "SynchronizeMultiRegionKey",
    "UpdateCustomKeyStore",
];

const AP: &str = "ap-south-1";

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
        "ReplicateKey" => with(json!({"ReplicaRegion": AP})),
        "UpdatePrimaryRegion" => with(json!({"PrimaryRegion": US})),
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

/// For each operation: Enabled, Disabled, PendingDeletion and PendingImport; of multi-Region keys Creating, Updating and
/// PendingReplicaDeletion; then a service's own key, called by an administrator and through the service. + works; D DisabledException, I KMSInvalidStateException, U
/// UnsupportedOperationException, T InvalidImportTokenException (the state was not in the way), A AccessDeniedException,
/// N NotAuthorizedException; . there is no such key.
const TABLE: &[(&str, &str, &str, &str)] = &[
    ("CancelKeyDeletion", "II+I", "II+", "AA"),
    ("CreateAlias", "++I+", "++I", "AA"),
    ("CreateGrant", "+DII", "I+I", "A+"),
    ("Decrypt", "+DII", "I+I", "A+"),
    ("DeleteAlias", "++++", "+++", "NA"),
    ("DeleteImportedKeyMaterial", "UUU+", "II+", "AA"),
    ("DeriveSharedSecret", "+DII", "I+I", ".."),
    ("DescribeKey", "++++", "+++", "++"),
    ("DisableKey", "++II", "III", "AA"),
    ("DisableKeyRotation", "+DIU", "I+I", "AA"),
    ("EnableKey", "++II", "III", "AA"),
    ("EnableKeyRotation", "+DIU", "I+I", "AA"),
    ("Encrypt", "+DII", "I+I", "A+"),
    ("GenerateDataKey", "+DII", "I+I", "A+"),
    ("GenerateDataKeyPair", "+DII", "I+I", "A+"),
    ("GenerateDataKeyPairWithoutPlaintext", "+DII", "I+I", "A+"),
    ("GenerateDataKeyWithoutPlaintext", "+DII", "I+I", "A+"),
    ("GenerateMac", "+DII", "I+I", ".."),
    ("GetKeyLastUsage", "++++", "+++", "+A"),
    ("GetKeyPolicy", "++++", "+++", "+A"),
    ("GetKeyRotationStatus", "+++U", "+++", "+A"),
    ("GetParametersForImport", "UUU+", "III", "UA"),
    ("GetPublicKey", "+DII", "I+I", ".."),
    ("ImportKeyMaterial", "UUUT", "ITI", "AA"),
    ("ListAliases", "++++", "+++", "+A"),
    ("ListGrants", "++++", "+++", "++"),
    ("ListKeyPolicies", "++++", "+++", "+A"),
    ("ListKeyRotations", "++++", "+++", "+A"),
    ("ListResourceTags", "++++", "+++", "+A"),
    ("PutKeyPolicy", "++++", "+++", "AA"),
    ("ReEncrypt", "+DII", "I+I", "A+"),
    ("ReplicateKey", "+DII", "UII", "AA"),
    ("RetireGrant", "++++", ".++", "++"),
    ("RevokeGrant", "++++", ".++", "++"),
    ("RotateKeyOnDemand", "+DII", "I+I", "AA"),
    ("ScheduleKeyDeletion", "++I+", "+II", "AA"),
    ("Sign", "+DII", "I+I", ".."),
    ("TagResource", "++I+", "++I", "AA"),
    ("UntagResource", "++I+", "++I", "AA"),
    ("UpdateAlias", "++I+", "++I", "AA"),
    ("UpdateKeyDescription", "++I+", "++I", "AA"),
    ("UpdatePrimaryRegion", "+DII", "III", "AA"),
    ("Verify", "+DII", "I+I", ".."),
    ("VerifyMac", "+DII", "I+I", ".."),
];

pub(super) fn letter(answer: Result<Value, String>) -> char {
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

pub(super) async fn by_admin(admin: &Client, operation: &str, body: Value) -> Result<Value, String> {
    let answer = admin.call(&format!("TrentService.{operation}"), body, None).await;
    answer.map(|answer| answer.body).map_err(|error| error.code().unwrap_or("no answer").to_owned())
}

/// What an operation answers for keys of its kind in each state.
async fn states(fixture: &Fixture, clock: &FakeClock, admin: &Client, operation: &str) -> String {
    let owner = async |operation: &str, body: Value| by_admin(admin, operation, body).await.unwrap();
    let (spec, usage) = kind(operation);
    let mut found = String::new();
    for state in ["Enabled", "Disabled", "PendingDeletion", "PendingImport"] {
        let origin = if state == "PendingImport" { "EXTERNAL" } else { "AWS_KMS" };
        let related = is_of_related(operation);
        let create = json!({"KeySpec": spec, "KeyUsage": usage, "Origin": origin, "MultiRegion": related});
        let made = owner("CreateKey", create).await;
        let key = made["KeyMetadata"]["Arn"].as_str().unwrap();
        if related && state != "PendingImport" {
            owner("ReplicateKey", json!({"KeyId": key, "ReplicaRegion": US})).await;
            settle(fixture, clock).await;
        }
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
    let (fixture, clock) = node_of_regions().await;
    let admin = fixture.admin();
    for (operation, answers, ..) in TABLE {
        assert_eq!(states(&fixture, &clock, &admin, operation).await, *answers, "{operation}");
    }
}

/// Whether an operation is for multi-Region keys only.
fn is_of_related(operation: &str) -> bool {
    ["ReplicateKey", "UpdatePrimaryRegion"].contains(&operation)
}

/// What an operation answers for keys of its kind in each state that only multi-Region keys have.
async fn states_of_related(fixture: &Fixture, clock: &FakeClock, admin: &Client, operation: &str) -> String {
    let there = fixture.client_in(AP, "credentials", "default");
    let owner = async |operation: &str, body: Value| by_admin(admin, operation, body).await.unwrap();
    // What a replica that is not ready yet cannot prepare, its primary key does.
    let for_replica = async |operation: &str, body: Value| {
        let client = if ["CreateAlias", "CreateKey"].contains(&operation) { &there } else { admin };
        by_admin(client, operation, body).await.unwrap()
    };
    let (spec, usage) = kind(operation);
    let imports = ["DeleteImportedKeyMaterial", "GetParametersForImport", "ImportKeyMaterial"].contains(&operation);
    let origin = if imports { "EXTERNAL" } else { "AWS_KMS" };
    let mut found = String::new();
    for state in ["Creating", "Updating", "PendingReplicaDeletion"] {
        let create = json!({"KeySpec": spec, "KeyUsage": usage, "Origin": origin, "MultiRegion": true});
        let id = owner("CreateKey", create).await["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned();
        let import = async |client: &Client| {
            let body = json!({"KeyId": id, "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"});
            let given = by_admin(client, "GetParametersForImport", body).await.unwrap();
            let parcel = parcel_from(&given, "RSAES_OAEP_SHA_256", &[7; 32]);
            by_admin(client, "ImportKeyMaterial", parcel).await.unwrap();
        };
        if imports {
            import(admin).await;
        }
        if state == "Creating" {
            if ["RetireGrant", "RevokeGrant"].contains(&operation) {
                found.push('.');
                continue;
            }
            owner("ReplicateKey", json!({"KeyId": id, "ReplicaRegion": AP})).await;
            let body = body(&for_replica, operation, &id).await;
            found.push(letter(by_admin(&there, operation, body).await));
            continue;
        }
        owner("ReplicateKey", json!({"KeyId": id, "ReplicaRegion": US})).await;
        settle(fixture, clock).await;
        if imports {
            import(&fixture.client_in(US, "credentials", "default")).await;
        }
        let body = body(&owner, operation, &id).await;
        if state == "Updating" {
            owner("UpdatePrimaryRegion", json!({"KeyId": id, "PrimaryRegion": US})).await;
            // What is for a primary key only is asked of the new one.
            let new = fixture.client_in(US, "credentials", "default");
            let rotates = operation.contains("KeyRotation") || operation == "RotateKeyOnDemand";
            let client = if rotates || is_of_related(operation) { &new } else { admin };
            found.push(letter(by_admin(client, operation, body).await));
        } else {
            owner("ScheduleKeyDeletion", json!({"KeyId": id})).await;
            found.push(letter(by_admin(admin, operation, body).await));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn each_operation_in_each_state_of_multi_region_keys() {
    let (fixture, clock) = node_of_regions().await;
    let admin = fixture.admin();
    for (operation, _, answers, _) in TABLE {
        assert_eq!(states_of_related(&fixture, &clock, &admin, operation).await, *answers, "{operation}");
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
    for (operation, .., answers) in TABLE.iter().filter(|(.., answers)| *answers != "..") {
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
