//! Answers whose every word was recorded at AWS (docs/conformance.md says where), and what must not be in them.

use super::import::parcel;
use super::rotation::{fixture_and_clock, works};
use super::*;

const PENDING: &str = "1234abcd-12ab-34cd-56ef-1234567890ab";

/// Exception and sentence; a sentence that was not sent is empty.
async fn said(client: &Client, operation: &str, body: Value) -> (String, String) {
    match client.call(&format!("TrentService.{operation}"), body.clone(), None).await {
        Err(ClientError::Service { code, message, .. }) => (code, message),
        other => panic!("{operation} {body}: {other:?}"),
    }
}

async fn created(client: &Client, body: Value) -> String {
    let answer = ok(client, "TrentService.CreateKey", body).await;
    answer.body["KeyMetadata"]["Arn"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_has_the_words_of_aws() {
    let fixture = Fixture::new().await;
    let admin = fixture.admin();
    let symmetric = create_key(&admin).await;
    let hmac = created(&admin, json!({"KeySpec": "HMAC_224", "KeyUsage": "GENERATE_VERIFY_MAC"})).await;
    let signing = created(&admin, json!({"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"})).await;
    let agreement = created(&admin, json!({"KeySpec": "ECC_NIST_P256", "KeyUsage": "KEY_AGREEMENT"})).await;
    let post_quantum = created(&admin, json!({"KeySpec": "ML_DSA_44", "KeyUsage": "SIGN_VERIFY"})).await;
    let external = created(&admin, json!({"Origin": "EXTERNAL"})).await;
    let mac = |key: &str, algorithm: &str| json!({"KeyId": key, "Message": "eA==", "MacAlgorithm": algorithm});
    let sign = |key: &str, algorithm: &str, kind: &str| json!({"KeyId": key, "Message": "eA==", "MessageType": kind, "SigningAlgorithm": algorithm});
    let wrapping =
        |key: &str| json!({"KeyId": key, "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"});
    let broken = |value: &str, member: &str, constraint: &str| {
        format!("1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: {constraint}")
    };
    let macs = "Member must satisfy enum value set: [HMAC_SHA_384, HMAC_SHA_256, HMAC_SHA_224, HMAC_SHA_512]";
    for (operation, body, code, message) in [
        (
            "GenerateMac",
            mac(&hmac, "HMAC_SHA_256"),
            "InvalidKeyUsageException",
            "Algorithm HMAC_SHA_256 is incompatible with key spec HMAC_224.".to_owned(),
        ),
        ("GenerateMac", mac(&hmac, "MD5"), "ValidationException", broken("MD5", "macAlgorithm", macs)),
        (
            "Sign",
            sign(&signing, "ECDSA_SHA_384", "RAW"),
            "InvalidKeyUsageException",
            "Algorithm ECDSA_SHA_384 is incompatible with key spec ECC_NIST_P256.".to_owned(),
        ),
        (
            "Sign",
            sign(&post_quantum, "ML_DSA_SHAKE_256", "DIGEST"),
            "ValidationException",
            "Message type DIGEST is incompatible with key spec ML_DSA_44.".to_owned(),
        ),
        (
            "Encrypt",
            json!({"KeyId": symmetric, "Plaintext": "eA==", "EncryptionAlgorithm": "RSAES_OAEP_SHA_256"}),
            "InvalidKeyUsageException",
            "Algorithm RSAES_OAEP_SHA_256 is incompatible with key spec SYMMETRIC_DEFAULT.".to_owned(),
        ),
        (
            "DeriveSharedSecret",
            json!({"KeyId": agreement, "KeyAgreementAlgorithm": "ECDH", "PublicKey": "eA=="}),
            "ValidationException",
            String::new(),
        ),
        ("GetPublicKey", json!({"KeyId": symmetric}), "UnsupportedOperationException", String::new()),
        (
            "GetParametersForImport",
            wrapping(&symmetric),
            "UnsupportedOperationException",
            format!("{symmetric} origin is AWS_KMS which is not valid for this operation."),
        ),
        ("RotateKeyOnDemand", json!({"KeyId": signing}), "UnsupportedOperationException", String::new()),
        (
            "RotateKeyOnDemand",
            json!({"KeyId": external}),
            "KMSInvalidStateException",
            format!("{external} is pending import."),
        ),
        (
            "CreateKey",
            json!({"KeySpec": "RSA_2048", "CustomerMasterKeySpec": "RSA_2048", "KeyUsage": "SIGN_VERIFY"}),
            "ValidationException",
            "You cannot specify KeySpec and CustomerMasterKeySpec in the same request. CustomerMasterKeySpec is \
             deprecated."
                .to_owned(),
        ),
        (
            "DescribeKey",
            json!({"KeyId": PENDING}),
            "NotFoundException",
            format!("Key 'arn:aws:kms:{REGION}:{ACCOUNT}:key/{PENDING}' does not exist"),
        ),
        ("DescribeKey", json!({"KeyId": "x"}), "NotFoundException", "Invalid keyId 'x'".to_owned()),
        (
            "GetKeyPolicy",
            json!({"KeyId": symmetric, "PolicyName": "a-b"}),
            "ValidationException",
            broken("a-b", "policyName", "Member must satisfy regular expression pattern: [\\w]+"),
        ),
        (
            "PutKeyPolicy",
            json!({"KeyId": symmetric, "PolicyName": "mine", "Policy": "{}"}),
            "NotFoundException",
            "No such policy exists".to_owned(),
        ),
    ] {
        assert_eq!(said(&admin, operation, body.clone()).await, (code.to_owned(), message), "{operation} {body}");
    }
    // The state comes before what the operation is not for.
    ok(&admin, "TrentService.DisableKey", json!({"KeyId": signing})).await;
    let disabled = ("DisabledException".to_owned(), format!("{signing} is disabled."));
    for operation in ["RotateKeyOnDemand", "EnableKeyRotation", "DisableKeyRotation"] {
        assert_eq!(said(&admin, operation, json!({"KeyId": signing})).await, disabled, "{operation}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_and_aliases_are_refused_in_the_words_of_aws() {
    let fixture = Fixture::new().await;
    let admin = fixture.admin();
    let key = create_key(&admin).await;
    let broken = |value: &str, member: &str, constraint: &str| {
        format!("1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: {constraint}")
    };
    let (long_key, long_value) = ("k".repeat(129), "v".repeat(257));
    let tag = |key: &str, value: &str| json!({"TagKey": key, "TagValue": value});
    let many: Vec<Value> = (0..51).map(|index| tag(&format!("key{index}"), "")).collect();
    for (tags, code, message) in [
        (json!([tag("AWS:a", "b")]), "TagException", "Tags beginning with aws: are reserved".to_owned()),
        (json!([tag("a", "b"), tag("a", "c")]), "TagException", "Duplicate tag keys".to_owned()),
        (json!(many), "TagException", "Too many tags".to_owned()),
        (
            json!([tag(&long_key, "b")]),
            "ValidationException",
            broken(&long_key, "tags.1.member.tagKey", "Member must have length less than or equal to 128"),
        ),
        (
            json!([tag("a", "b"), tag("aws:c", &long_value)]),
            "ValidationException",
            broken(&long_value, "tags.2.member.tagValue", "Member must have length less than or equal to 256"),
        ),
        (
            json!([tag("", "b")]),
            "ValidationException",
            broken("", "tags.1.member.tagKey", "Member must have length greater than or equal to 1"),
        ),
    ] {
        let wanted = (code.to_owned(), message);
        assert_eq!(said(&admin, "CreateKey", json!({"Tags": tags})).await, wanted, "{tags}");
        assert_eq!(said(&admin, "TagResource", json!({"KeyId": key, "Tags": tags})).await, wanted, "{tags}");
    }
    // What is there counts, too.
    ok(&admin, "TrentService.TagResource", json!({"KeyId": key, "Tags": many[..50]})).await;
    let one_more = json!({"KeyId": key, "Tags": [many[50]]});
    assert_eq!(said(&admin, "TagResource", one_more).await, ("TagException".to_owned(), "Too many tags".to_owned()));

    let pattern = "Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$";
    let long_name = format!("alias/{}", "a".repeat(251));
    for (name, target, code, message) in [
        (
            "app",
            &*key,
            "ValidationException",
            "Alias must start with the prefix \"alias/\". Please see \
             https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html"
                .to_owned(),
        ),
        ("alias/a!", &*key, "ValidationException", broken("alias/a!", "aliasName", pattern)),
        (
            &*long_name,
            &*key,
            "ValidationException",
            broken(&long_name, "aliasName", "Member must have length less than or equal to 256"),
        ),
        ("alias/a:b", &*key, "ValidationException", "alias/a:b contains invalid characters for an alias".to_owned()),
        ("alias/aws/s3", &*key, "NotAuthorizedException", String::new()),
        ("alias/a", "alias/b", "ValidationException", "Aliases must refer to keys. Not aliases".to_owned()),
    ] {
        let body = json!({"AliasName": name, "TargetKeyId": target});
        assert_eq!(said(&admin, "CreateAlias", body).await, (code.to_owned(), message), "{name}");
    }
    let body = json!({"AliasName": "alias/a", "TargetKeyId": key});
    ok(&admin, "TrentService.CreateAlias", body.clone()).await;
    let arn = format!("arn:aws:kms:{REGION}:{ACCOUNT}:alias/a");
    let exists = ("AlreadyExistsException".to_owned(), format!("An alias with the name {arn} already exists"));
    assert_eq!(said(&admin, "CreateAlias", body).await, exists);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_says_which_kind_of_policy_stood_in_the_way_and_no_more() {
    let mut fixture = Fixture::new().await;
    fixture.stop().await;
    let statement = |effect: &str, action: &str| {
        format!(
            r#"'''{{"Version":"2012-10-17","Statement":{{"Sid":"Secret","Effect":"{effect}","Action":"{action}","Resource":"*"}}}}'''"#
        )
    };
    let torn = format!("[{}, {}]", statement("Allow", "kms:*"), statement("Deny", "kms:Encrypt"));
    fixture.append_identities(&user(ACCOUNT, "torn", &torn));
    fixture.start().await.unwrap();
    let (admin, powerless, torn) = (fixture.admin(), fixture.user("powerless"), fixture.user("torn"));
    let neighbour = fixture.user("neighbour");
    let arn = |name: &str| format!("arn:aws:iam::{ACCOUNT}:user/{name}");
    let key = create_key(&admin).await;
    let blob = encrypt(&admin, &key, b"x", Value::Null).await;
    let own = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"AWS": arn("administrator")}, "Action": "kms:*", "Resource": "*"},
        {"Sid": "Secret", "Effect": "Deny", "Principal": {"AWS": arn("torn")}, "Action": "kms:DescribeKey", "Resource": "*"},
    ]});
    let closed = created(&admin, json!({"Policy": own.to_string()})).await;
    let encrypting = json!({"KeyId": key, "Plaintext": "eA=="});
    let (nowhere, not_yours) = (
        format!("arn:aws:kms:{REGION}:{ACCOUNT}:key/{PENDING}"),
        "because the resource does not exist in this Region, no resource-based policies allow access, or a \
         resource-based policy explicitly denies access",
    );
    for (client, name, operation, body, on, because) in [
        (
            &powerless,
            arn("powerless"),
            "Encrypt",
            encrypting.clone(),
            format!("on resource: {key}"),
            "because no identity-based policy allows the kms:Encrypt action",
        ),
        (
            &torn,
            arn("torn"),
            "Encrypt",
            encrypting,
            format!("on resource: {key}"),
            "with an explicit deny in an identity-based policy",
        ),
        (
            &torn,
            arn("torn"),
            "Decrypt",
            json!({"KeyId": closed, "CiphertextBlob": encrypt(&admin, &closed, b"x", Value::Null).await}),
            format!("on resource: {closed}"),
            "because no resource-based policy allows the kms:Decrypt action",
        ),
        (
            &torn,
            arn("torn"),
            "DescribeKey",
            json!({"KeyId": closed}),
            format!("on resource: {closed}"),
            "with an explicit deny in a resource-based policy",
        ),
        (
            &powerless,
            arn("powerless"),
            "Decrypt",
            json!({"CiphertextBlob": blob}),
            "on the resource associated with this ciphertext".to_owned(),
            "because no identity-based policy allows the kms:Decrypt action",
        ),
        (
            &powerless,
            arn("powerless"),
            "ListKeys",
            json!({}),
            "on resource: *".to_owned(),
            "because no identity-based policy allows the kms:ListKeys action",
        ),
        (
            &neighbour,
            format!("arn:aws:iam::{OTHER}:user/neighbour"),
            "DescribeKey",
            json!({"KeyId": key}),
            "on this resource".to_owned(),
            not_yours,
        ),
        (
            &neighbour,
            format!("arn:aws:iam::{OTHER}:user/neighbour"),
            "DescribeKey",
            json!({"KeyId": nowhere}),
            "on this resource".to_owned(),
            not_yours,
        ),
        (
            &neighbour,
            format!("arn:aws:iam::{OTHER}:user/neighbour"),
            "Decrypt",
            json!({"CiphertextBlob": blob}),
            "on the resource associated with this ciphertext".to_owned(),
            not_yours,
        ),
    ] {
        let wanted = format!("User: {name} is not authorized to perform: kms:{operation} {on} {because}");
        let (code, message) = said(client, operation, body).await;
        assert_eq!((code.as_str(), message), ("AccessDeniedException", wanted), "{operation}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ciphertext_of_a_key_that_is_gone_is_denied() {
    let (fixture, clock) = fixture_and_clock().await;
    let admin = fixture.admin();
    let key = create_key(&admin).await;
    let blob = encrypt(&admin, &key, b"x", Value::Null).await;
    works(&fixture, "ScheduleKeyDeletion", json!({"KeyId": key, "PendingWindowInDays": 7})).await;
    clock.advance(Duration::from_secs(8 * 86_400));
    crate::ops::make_due_changes(fixture.kms.as_ref().unwrap().node()).await;
    wait_until(|| fixture.events().iter().any(|(_, event)| event.event_name == "DeleteKey")).await;
    let denied = rotation::fails(&fixture, "Decrypt", json!({"CiphertextBlob": blob})).await;
    assert_eq!(denied, "AccessDeniedException");
    let named = json!({"KeyId": key, "CiphertextBlob": blob});
    assert_eq!(rotation::fails(&fixture, "Decrypt", named).await, "NotFoundException");
}

#[tokio::test(flavor = "multi_thread")]
async fn imported_material_is_refused_in_the_words_of_aws() {
    let fixture = Fixture::new().await;
    let admin = fixture.admin();
    let key = created(&admin, json!({"Origin": "EXTERNAL"})).await;
    let good = parcel(&fixture, &key, "RSAES_OAEP_SHA_256", &[7; 32]).await;
    let mut short = good.clone();
    short["EncryptedKeyMaterial"] = STANDARD.encode([1; 255]).into();
    let wrong_size = ("ValidationException".to_owned(), "Invalid encrypted key size.".to_owned());
    assert_eq!(said(&admin, "ImportKeyMaterial", short).await, wrong_size);
    ok(&admin, "TrentService.ImportKeyMaterial", good).await;
    let none = format!("No available key material pending rotation for the key: {key}.");
    let refused = said(&admin, "RotateKeyOnDemand", json!({"KeyId": key})).await;
    assert_eq!(refused, ("KMSInvalidStateException".to_owned(), none));
    let origin = format!("{key} origin is EXTERNAL which is not valid for this operation.");
    let refused = said(&admin, "EnableKeyRotation", json!({"KeyId": key})).await;
    assert_eq!(refused, ("UnsupportedOperationException".to_owned(), origin));
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_have_the_members_of_aws() {
    let fixture = Fixture::new().await;
    let admin = fixture.admin();
    let key = create_key(&admin).await;
    let grantee = format!("arn:aws:iam::{ACCOUNT}:user/powerless");
    let body = json!({"KeyId": key, "GranteePrincipal": grantee, "Operations": ["Decrypt"]});
    ok(&admin, "TrentService.CreateGrant", body).await;
    let listed = ok(&admin, "TrentService.ListGrants", json!({"KeyId": key})).await.body;
    let grant = listed["Grants"][0].as_object().unwrap();
    let members: std::collections::BTreeSet<&str> = grant.keys().map(String::as_str).collect();
    let wanted = ["CreationDate", "GrantId", "GranteePrincipal", "IssuingAccount", "KeyId", "Name", "Operations"];
    assert_eq!((members, &grant["Name"]), (wanted.into(), &json!("")));

    let used = ok(&admin, "TrentService.GetKeyLastUsage", json!({"KeyId": key})).await.body;
    assert_eq!(used["KeyId"], key.rsplit('/').next().unwrap());
}
