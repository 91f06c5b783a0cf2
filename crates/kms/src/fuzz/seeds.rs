//! Inputs that are right, for a fuzzer to begin with: made anew each time, so that none is kept in the repository and
//! each follows the code that reads it.

use super::material::{OWNER, context, root, symmetric};
use super::request::{NOW_US, credentials};
use super::{ACCOUNT, REGION};
use crate::auth::sigv4::{RequestParts, sign};
use crate::crypto::import::{ImportToken, Terms};
use crate::crypto::{CryptoFailure, SecretHalf, ciphertext};
use crate::policy::default_key_policy;
use crate::spec::{KeyKind, KeySpec, WrappingAlgorithm};
use serde_json::json;
use std::collections::BTreeMap;

/// Seeds of one target; an error when the cryptographic library fails.
pub fn seeds(target: &str) -> Result<Vec<Vec<u8>>, CryptoFailure> {
    match target {
        "signature" => Ok(requests()),
        "body" => Ok(BODIES.iter().map(|body| body.as_bytes().to_vec()).collect()),
        "form" => Ok(FORMS.iter().map(|form| form.as_bytes().to_vec()).collect()),
        "policy" => Ok(policies()),
        "ciphertext" => blobs(),
        "import" => parcels(),
        _ => Ok(Vec::new()),
    }
}

fn requests() -> Vec<Vec<u8>> {
    let json = ("content-type", &b"application/x-amz-json-1.1"[..]);
    let form = ("content-type", &b"application/x-www-form-urlencoded; charset=utf-8"[..]);
    let host = ("host", &b"127.0.0.1:7610"[..]);
    let decrypt = ("x-amz-target", &b"TrentService.Decrypt"[..]);
    let token = ("x-amz-security-token", &b"dG9rZW4="[..]);
    let on_behalf = ("x-keytrail-on-behalf-of", &b"arn:aws:iam::111122223333:user/alice"[..]);
    let spaced = ("x-spaced", &b"  a   b\tc "[..]);
    [
        ("kms", "/", "", vec![json, host, decrypt], &b"{\"CiphertextBlob\":\"eA==\"}"[..]),
        ("kms", "/", "", vec![host, decrypt, token, on_behalf, spaced, spaced], b"{}"),
        ("kms", "/a/./b/../c//%20", "b=2&a=%7E%20x+y&a=&c", vec![host], b""),
        ("sts", "/", "", vec![form, host], b"Action=GetCallerIdentity&Version=2011-06-15"),
        ("iam", "/", "", vec![form, host], b"Action=ListUsers&Version=2010-05-08"),
    ]
    .into_iter()
    .map(|(service, path, query, headers, body)| {
        let parts = RequestParts { method: "POST", path, query, headers: &headers, body };
        let added = sign(&credentials(), &parts, REGION, service, NOW_US);
        let mut lines = format!("POST {path}?{query}\n").into_bytes();
        let added = added.iter().map(|(name, value)| (*name, value.as_bytes()));
        for (name, value) in headers.iter().copied().chain(added) {
            lines.extend([name.as_bytes(), b":", value, b"\n"].concat());
        }
        [&lines, &b"\n"[..], body].concat()
    })
    .collect()
}

fn policies() -> Vec<Vec<u8>> {
    let statement = |more: serde_json::Value| {
        let mut statement = json!({"Sid": "s", "Effect": "Allow", "Action": "kms:*", "Resource": "*"});
        for (name, value) in more.as_object().into_iter().flatten() {
            statement[name] = value.clone();
        }
        json!({"Version": "2012-10-17", "Id": "id", "Statement": [statement]}).to_string()
    };
    let everyone = |condition: serde_json::Value| statement(json!({"Principal": "*", "Condition": condition}));
    let root = format!("arn:aws:iam::{ACCOUNT}:root");
    let mut all = vec![
        default_key_policy(ACCOUNT),
        statement(json!({})),
        statement(json!({"Principal": {"AWS": [ACCOUNT, root, format!("arn:aws:iam::{ACCOUNT}:user/alice"), "*"]}})),
        statement(json!({"Effect": "Deny", "NotPrincipal": {"AWS": format!("arn:aws:iam::{ACCOUNT}:role/reader")}})),
        statement(json!({"Principal": {"Service": "ec2.amazonaws.com", "AWS": "AIDA111122223333"}})),
        statement(json!({"Action": ["kms:Dec*", "kms:?ncrypt"], "Resource": "arn:aws:kms:*:*:key/${aws:username}"})),
    ];
    all.extend(
        [
            json!({"StringEquals": {"kms:CallerAccount": ACCOUNT, "kms:ViaService": ["ec2.eu-central-1.amazonaws.com"]}}),
            json!({"StringLikeIfExists": {"aws:PrincipalArn": "arn:aws:iam::*:role/r?ader", "kms:RequestAlias": "alias/*"}}),
            json!({"ArnNotLike": {"aws:PrincipalArn": "arn:aws:iam::111122223333:*"}, "Null": {"kms:GrantOperations": "true"}}),
            json!({"ForAllValues:StringEquals": {"kms:EncryptionContextKeys": ["tenant", "app"], "aws:TagKeys": "a"}}),
            json!({"ForAnyValue:StringNotEqualsIgnoreCase": {"kms:ResourceAliases": "ALIAS/ORDERS"}}),
            json!({"StringEquals": {"kms:EncryptionContext:tenant": "${aws:PrincipalTag/team, 'none'}", "aws:ResourceTag/team": "${$}${*}"}}),
            json!({"IpAddress": {"aws:SourceIp": ["203.0.113.0/24", "2001:db8::/32"]}, "Bool": {"aws:SecureTransport": true}}),
            json!({"NumericLessThanEquals": {"kms:ScheduleKeyDeletionPendingWindowInDays": 7, "aws:EpochTime": "1e9"}}),
            json!({"DateGreaterThanIfExists": {"aws:CurrentTime": "2026-01-05T12:00:00Z", "aws:TokenIssueTime": "2026-01-05"}}),
            json!({"BinaryEquals": {"kms:EncryptionContext:tenant": "Nw=="}, "BoolIfExists": {"aws:MultiFactorAuthPresent": "false"}}),
        ]
        .map(everyone),
    );
    all.into_iter().map(String::into_bytes).collect()
}

fn blobs() -> Result<Vec<Vec<u8>>, CryptoFailure> {
    let longest = [7; ciphertext::PLAINTEXT_BYTES_MAX];
    [(&b""[..], BTreeMap::new()), (b"text", BTreeMap::new()), (b"text", context()), (&longest[..300], context())]
        .into_iter()
        .map(|(text, context)| ciphertext::encrypt(&symmetric(), &OWNER, text, &context))
        .collect()
}

/// A token, and material of each kind; RSA of one size, as it is slow to make and to use.
fn parcels() -> Result<Vec<Vec<u8>>, CryptoFailure> {
    let mut all = Vec::new();
    for spec in KeySpec::ALL.iter().copied().filter(|spec| !matches!(spec, KeySpec::Rsa3072 | KeySpec::Rsa4096)) {
        let usage = spec.usages().first().copied().ok_or(CryptoFailure)?;
        let secret = SecretHalf::generate(KeyKind { spec, usage, ..KeyKind::SYMMETRIC })?;
        all.push(secret.expose().to_vec());
        if spec == KeySpec::Rsa2048 {
            let terms = Terms { valid_to_us: NOW_US, algorithm: WrappingAlgorithm::AesKeyWrapSha256, spec };
            all.push(ImportToken::seal(root(), &OWNER, &terms, &secret).map_err(|_| CryptoFailure)?);
        }
    }
    Ok(all)
}

const BODIES: &[&str] = &[
    "{}",
    r#"{"KeyId":"alias/orders","Plaintext":"eA==","EncryptionContext":{"tenant":"7"},"EncryptionAlgorithm":"SYMMETRIC_DEFAULT","GrantTokens":["AQpA"],"DryRun":false}"#,
    r#"{"CiphertextBlob":"eA==","KeyId":"arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab","Recipient":{"KeyEncryptionAlgorithm":"RSAES_OAEP_SHA_256","AttestationDocument":"eA=="}}"#,
    r#"{"CiphertextBlob":"eA==","SourceEncryptionContext":{"a":"b"},"SourceKeyId":"k","DestinationKeyId":"k","DestinationEncryptionContext":{},"SourceEncryptionAlgorithm":"RSAES_OAEP_SHA_1","DestinationEncryptionAlgorithm":"SYMMETRIC_DEFAULT"}"#,
    r#"{"KeyId":"k","KeySpec":"AES_256","NumberOfBytes":64,"KeyPairSpec":"ECC_NIST_P256"}"#,
    r#"{"Description":"d","KeyUsage":"SIGN_VERIFY","KeySpec":"RSA_2048","CustomerMasterKeySpec":"RSA_2048","Origin":"EXTERNAL","MultiRegion":false,"BypassPolicyLockoutSafetyCheck":true,"Policy":"{}","Tags":[{"TagKey":"a","TagValue":"b"}],"CustomKeyStoreId":"c","XksKeyId":"x"}"#,
    r#"{"KeyId":"k","Message":"eA==","MessageType":"DIGEST","SigningAlgorithm":"ECDSA_SHA_256","Signature":"eA==","MacAlgorithm":"HMAC_SHA_256","Mac":"eA=="}"#,
    r#"{"KeyId":"k","KeyAgreementAlgorithm":"ECDH","PublicKey":"MFkw"}"#,
    r#"{"KeyId":"k","PendingWindowInDays":7,"RotationPeriodInDays":365,"Limit":1000,"Marker":"eA==","IncludeKeyMaterial":"ALL_KEY_MATERIAL"}"#,
    r#"{"KeyId":"k","ImportToken":"eA==","EncryptedKeyMaterial":"eA==","ValidTo":1767614400.5,"ExpirationModel":"KEY_MATERIAL_EXPIRES","ImportType":"NEW_KEY_MATERIAL","KeyMaterialId":"00","KeyMaterialDescription":"d","WrappingAlgorithm":"RSAES_OAEP_SHA_256","WrappingKeySpec":"RSA_4096"}"#,
    r#"{"AliasName":"alias/a","TargetKeyId":"k","KeyId":"k","Limit":5}"#,
    r#"{"KeyId":"k","PolicyName":"default","Policy":"{\"Version\":\"2012-10-17\",\"Statement\":[]}","Description":"d"}"#,
    r#"{"KeyId":"k","Tags":[{"TagKey":"a","TagValue":"b"},{"TagKey":"","TagValue":""}],"TagKeys":["a"]}"#,
    r#"{"KeyId":"k","GranteePrincipal":"arn:aws:iam::111122223333:user/a","RetiringPrincipal":"arn:aws:iam::111122223333:root","Operations":["Decrypt","CreateGrant"],"Constraints":{"EncryptionContextSubset":{"a":"b"},"EncryptionContextEquals":{"a":"b"}},"Name":"n","GrantId":"g","GrantToken":"t"}"#,
    r#"{"PrincipalArn":"arn:aws:iam::111122223333:user/a","TtlSeconds":600,"Reason":"r","FromSeq":7,"MaxFrames":5,"Seq":1}"#,
    "{\"KeyId\":\"\\u0000\\u001f\\ud83d\\ude00\",\"Description\":\"\\\"\\\\\"}",
];

const FORMS: &[&str] = &[
    "Action=GetCallerIdentity&Version=2011-06-15",
    "Action=AssumeRole&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A111122223333%3Arole%2Freader&RoleSessionName=one&DurationSeconds=900&ExternalId=x&Policy=%7B%7D&PolicyArns.member.1.arn=arn&Tags.member.1.Key=a&Tags.member.1.Value=b&TransitiveTagKeys.member.1=a&SerialNumber=s&TokenCode=123456",
    "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=r&RoleSessionName=s&WebIdentityToken=a.b.c&ProviderId=p",
    "Action=GetSessionToken&Version=2011-06-15&DurationSeconds=3600&SerialNumber=s&TokenCode=1",
    "Action=CreateUser&Version=2010-05-08&UserName=alice&Path=%2F&PermissionsBoundary=b&Tags.member.2.Key=a&Tags.member.2.Value=&Tags.member.10.Key=b",
    "Action=PutUserPolicy&Version=2010-05-08&UserName=alice&PolicyName=p&PolicyDocument=%7B%22Version%22%3A%222012-10-17%22%7D",
    "Action=CreateOpenIDConnectProvider&Version=2010-05-08&Url=https%3A%2F%2Fissuer.example.org&ClientIDList.member.1=c&ThumbprintList.member.1=t",
    "Action=AddClientIDToOpenIDConnectProvider&Version=2010-05-08&ClientIDList=&ThumbprintList=",
    "Action=EnableMFADevice&Version=2010-05-08&UserName=a&SerialNumber=s&AuthenticationCode1=123456&AuthenticationCode2=654321",
    "Action=ListUsers&Version=2010-05-08&MaxItems=10&Marker=x&PathPrefix=%2F&OnlyAttached=true&Scope=All",
];
