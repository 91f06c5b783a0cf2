//! Custom key stores in a SoftHSM token: their life, their keys, and the key state Unavailable.
//!
//! A PKCS#11 library reads its configuration once for its process, so that each scenario runs in a process of its own: this
//! test binary again, with one ignored test.

#![allow(clippy::print_stdout)]

use super::import::parcel;
use super::key_states::{body, by_admin, letter};
use super::*;
use crate::key_store::Cluster;
use crate::service::rotate_running;
use std::path::PathBuf;
use std::process::Command;

const SCENARIO: &str = "KEYTRAIL_STORE_SCENARIO";
const FOLDER: &str = "KEYTRAIL_STORE_FOLDER";
const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const PIN: &str = "tulip-4711";
const WRONG_PIN: &str = "daisy-4711";
const CLUSTER: &str = "cluster-abcdefghijk";
const ABSENT: &str = "cluster-zyxwvutsrqp";
const ANCHOR: &str = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";

/// A node whose configuration names the token, and one that is not there.
async fn node(folder: &Path) -> (Fixture, Arc<FakeClock>) {
    let clock = Arc::new(FakeClock::new(SystemClock.now_us()));
    let mut fixture = Fixture::with_clock(Arc::clone(&clock) as Arc<dyn Clock>).await;
    fixture.stop().await;
    let anchor = folder.join("anchor.pem");
    std::fs::write(&anchor, ANCHOR).unwrap();
    let cluster = |token: &str, trust_anchor_file| Cluster {
        module: PathBuf::from(MODULE),
        token: token.to_owned(),
        trust_anchor_file,
    };
    fixture.clusters.insert(CLUSTER.to_owned(), cluster("one", Some(anchor)));
    fixture.clusters.insert(ABSENT.to_owned(), cluster("absent", None));
    fixture.start().await.unwrap();
    (fixture, clock)
}

fn wanted(name: &str, cluster: &str, pin: &str) -> Value {
    json!({
        "CustomKeyStoreName": name, "CloudHsmClusterId": cluster, "KeyStorePassword": pin,
        "TrustAnchorCertificate": ANCHOR,
    })
}

async fn run(admin: &Client, operation: &str, body: Value) -> Value {
    ok(admin, &format!("TrentService.{operation}"), body).await.body
}

async fn code(admin: &Client, operation: &str, body: Value) -> String {
    refused(admin, &format!("TrentService.{operation}"), body).await.0
}

async fn described(admin: &Client, store: &Value) -> Value {
    let answer = run(admin, "DescribeCustomKeyStores", json!({"CustomKeyStoreId": store})).await;
    answer["CustomKeyStores"][0].clone()
}

/// Waits until a store is not connecting any more.
async fn settled(admin: &Client, store: &Value) -> Value {
    for _ in 0..STEPS_MAX {
        let now = described(admin, store).await;
        if now["ConnectionState"] != "CONNECTING" {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it goes on connecting");
}

async fn connected(admin: &Client) -> Value {
    let made = run(admin, "CreateCustomKeyStore", wanted("hsm", CLUSTER, PIN)).await;
    let store = made["CustomKeyStoreId"].clone();
    assert_eq!(run(admin, "ConnectCustomKeyStore", json!({"CustomKeyStoreId": store})).await, json!({}));
    assert_eq!(settled(admin, &store).await["ConnectionState"], "CONNECTED");
    store
}

async fn key_in(admin: &Client, store: &Value) -> Value {
    run(admin, "CreateKey", json!({"Origin": "AWS_CLOUDHSM", "CustomKeyStoreId": store})).await["KeyMetadata"].clone()
}

fn outcomes(fixture: &Fixture) -> Vec<Value> {
    let events = fixture.events().into_iter().filter(|(_, event)| event.event_name == "SettleCustomKeyStoreConnection");
    events.map(|(_, event)| event.request_parameters.unwrap()["connectionErrorCode"].clone()).collect()
}

async fn a_life(folder: &Path) {
    let (mut fixture, _) = node(folder).await;
    let admin = fixture.admin();
    let strange = wanted("hsm", "cluster-strangerrrr", PIN);
    assert_eq!(code(&admin, "CreateCustomKeyStore", strange).await, "CloudHsmClusterNotFoundException");
    let mut other = wanted("hsm", CLUSTER, PIN);
    other["TrustAnchorCertificate"] = "another".into();
    assert_eq!(code(&admin, "CreateCustomKeyStore", other).await, "IncorrectTrustAnchorException");
    for (member, value) in [("CustomKeyStoreType", "EXTERNAL_KEY_STORE"), ("XksProxyUriPath", "/kms/xks/v1")] {
        let mut external = wanted("hsm", CLUSTER, PIN);
        external[member] = value.into();
        assert_eq!(code(&admin, "CreateCustomKeyStore", external).await, "UnsupportedOperationException");
    }
    let short = wanted("hsm", CLUSTER, "secret");
    let answer = admin.call("TrentService.CreateCustomKeyStore", short, None).await.unwrap_err();
    assert_eq!(answer.code(), Some("ValidationException"));
    assert!(!answer.to_string().contains("'secret'"), "{answer}");
    let powerless = fixture.user("powerless");
    for operation in ["Create", "Connect", "Disconnect", "Update", "Delete"] {
        let operation = format!("{operation}CustomKeyStore");
        let mut body = wanted("hsm", CLUSTER, PIN);
        body["CustomKeyStoreId"] = "cks-1".into();
        assert_eq!(code(&powerless, &operation, body).await, "AccessDeniedException", "{operation}");
    }
    assert_eq!(code(&powerless, "DescribeCustomKeyStores", json!({})).await, "AccessDeniedException");

    // A wrong PIN: told, not tried again by a restart, and replaced.
    let store =
        run(&admin, "CreateCustomKeyStore", wanted("first", CLUSTER, WRONG_PIN)).await["CustomKeyStoreId"].clone();
    let named = json!({"CustomKeyStoreId": store});
    assert_eq!(
        code(&admin, "CreateCustomKeyStore", wanted("first", ABSENT, PIN)).await,
        "CustomKeyStoreNameInUseException"
    );
    assert_eq!(code(&admin, "CreateCustomKeyStore", wanted("x", CLUSTER, PIN)).await, "CloudHsmClusterInUseException");
    assert_eq!(code(&admin, "DisconnectCustomKeyStore", named.clone()).await, "CustomKeyStoreInvalidStateException");
    run(&admin, "ConnectCustomKeyStore", named.clone()).await;
    let failed = settled(&admin, &store).await;
    assert_eq!(
        (&failed["ConnectionState"], &failed["ConnectionErrorCode"]),
        (&json!("FAILED"), &json!("INVALID_CREDENTIALS"))
    );
    fixture.stop().await;
    fixture.start().await.unwrap();
    let admin = fixture.admin();
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(described(&admin, &store).await["ConnectionErrorCode"], "INVALID_CREDENTIALS");
    assert_eq!(outcomes(&fixture), [json!("INVALID_CREDENTIALS")], "the restart asked the token again");
    for operation in ["ConnectCustomKeyStore", "UpdateCustomKeyStore", "DeleteCustomKeyStore"] {
        assert_eq!(code(&admin, operation, named.clone()).await, "CustomKeyStoreInvalidStateException", "{operation}");
    }
    run(&admin, "DisconnectCustomKeyStore", named.clone()).await;
    let update = json!({"CustomKeyStoreId": store, "NewCustomKeyStoreName": "hsm", "KeyStorePassword": PIN});
    let updated = ok(&admin, "TrentService.UpdateCustomKeyStore", update).await;
    let event = fixture.event(updated.seq.unwrap());
    let (before, after) = (event.additional_event_data.before.unwrap(), event.additional_event_data.after.unwrap());
    assert_eq!((&before["customKeyStoreName"], &after["customKeyStoreName"]), (&json!("first"), &json!("hsm")));
    assert_eq!((&before["passwordRefused"], &after["passwordRefused"]), (&json!(true), &json!(false)));
    run(&admin, "ConnectCustomKeyStore", named.clone()).await;
    assert_eq!(settled(&admin, &store).await["ConnectionState"], "CONNECTED");

    // A token that is not there.
    let absent = run(&admin, "CreateCustomKeyStore", wanted("absent", ABSENT, PIN)).await["CustomKeyStoreId"].clone();
    run(&admin, "ConnectCustomKeyStore", json!({"CustomKeyStoreId": absent})).await;
    assert_eq!(settled(&admin, &absent).await["ConnectionErrorCode"], "CLUSTER_NOT_FOUND");
    let listed = run(&admin, "DescribeCustomKeyStores", json!({"Limit": 1})).await;
    let rest = json!({"Marker": listed["NextMarker"]});
    assert_eq!(listed["Truncated"], true);
    assert_eq!(run(&admin, "DescribeCustomKeyStores", rest).await["Truncated"], false);
    run(&admin, "DisconnectCustomKeyStore", json!({"CustomKeyStoreId": absent})).await;
    let deleted = ok(&admin, "TrentService.DeleteCustomKeyStore", json!({"CustomKeyStoreId": absent})).await;
    let event = fixture.event(deleted.seq.unwrap());
    assert_eq!(event.additional_event_data.before.unwrap()["customKeyStoreName"], "absent");
    assert_eq!(
        code(&admin, "DescribeCustomKeyStores", json!({"CustomKeyStoreId": absent})).await,
        "CustomKeyStoreNotFoundException"
    );

    // No PIN is in the log, nor in the clear in the store.
    fixture.stop().await;
    let store = std::fs::read(fixture.dir().join("kms.db")).unwrap();
    let log = fixture.records().into_iter().flat_map(|(_, payload)| payload).collect::<Vec<_>>();
    for pin in [PIN, WRONG_PIN] {
        for bytes in [&store, &log] {
            assert!(!bytes.windows(pin.len()).any(|window| window == pin.as_bytes()));
        }
    }
}

async fn keys(folder: &Path) {
    let (mut fixture, clock) = node(folder).await;
    let admin = fixture.admin();
    let store = connected(&admin).await;
    let key = key_in(&admin, &store).await;
    assert_eq!((&key["CustomKeyStoreId"], &key["CloudHsmClusterId"]), (&store, &json!(CLUSTER)));
    assert_eq!((&key["Origin"], &key["KeyState"]), (&json!("AWS_CLOUDHSM"), &json!("Enabled")));
    assert!(key.get("CurrentKeyMaterialId").is_none());
    for more in [json!({"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"}), json!({"MultiRegion": true})] {
        let mut body = json!({"Origin": "AWS_CLOUDHSM", "CustomKeyStoreId": store});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(code(&admin, "CreateKey", body).await, "UnsupportedOperationException");
    }
    assert_eq!(code(&admin, "CreateKey", json!({"CustomKeyStoreId": store})).await, "ValidationException");
    let lost = json!({"Origin": "AWS_CLOUDHSM", "CustomKeyStoreId": "cks-1"});
    assert_eq!(code(&admin, "CreateKey", lost).await, "CustomKeyStoreNotFoundException");

    let arn = key["Arn"].as_str().unwrap();
    let blob = encrypt(&admin, arn, b"canary", json!({"app": "a"})).await;
    let body = json!({"CiphertextBlob": blob, "EncryptionContext": {"app": "a"}});
    let opened = run(&admin, "Decrypt", body.clone()).await;
    assert_eq!(opened["Plaintext"], STANDARD.encode("canary"));
    assert!(opened.get("KeyMaterialId").is_none());
    assert_eq!(code(&admin, "Decrypt", json!({"CiphertextBlob": blob})).await, "InvalidCiphertextException");
    let bytes = STANDARD.decode(&blob).unwrap();
    for at in [0, 1, 20, bytes.len() - 40, bytes.len() - 1] {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let body = json!({"CiphertextBlob": STANDARD.encode(changed), "EncryptionContext": {"app": "a"}, "KeyId": arn});
        let code = code(&admin, "Decrypt", body).await;
        assert!(["InvalidCiphertextException", "IncorrectKeyException"].contains(&code.as_str()), "{at}: {code}");
    }
    let data_key = run(&admin, "GenerateDataKey", json!({"KeyId": arn, "KeySpec": "AES_256"})).await;
    let opened = run(&admin, "Decrypt", json!({"CiphertextBlob": data_key["CiphertextBlob"]})).await;
    assert_eq!(opened["Plaintext"], data_key["Plaintext"]);
    run(&admin, "GenerateDataKeyPair", json!({"KeyId": arn, "KeyPairSpec": "ECC_NIST_P256"})).await;
    let plain = create_key(&admin).await;
    let there = json!({"CiphertextBlob": blob, "SourceEncryptionContext": {"app": "a"}, "DestinationKeyId": plain});
    let there = run(&admin, "ReEncrypt", there).await;
    assert!(there.get("SourceKeyMaterialId").is_none() && there.get("DestinationKeyMaterialId").is_some());
    let back = json!({"CiphertextBlob": there["CiphertextBlob"], "DestinationKeyId": arn});
    let back = run(&admin, "ReEncrypt", back).await;
    let opened = run(&admin, "Decrypt", json!({"CiphertextBlob": back["CiphertextBlob"]})).await;
    assert_eq!(opened["Plaintext"], STANDARD.encode("canary"));

    // The root key seals the PIN, and not what the token's key encrypts; a restart connects by itself.
    let dir = fixture.dir().to_owned();
    tokio::task::spawn_blocking(move || rotate_running(&dir, None, false)).await.unwrap().unwrap();
    fixture.stop().await;
    fixture.start().await.unwrap();
    let admin = fixture.admin();
    assert_eq!(settled(&admin, &store).await["ConnectionState"], "CONNECTED");
    assert_eq!(run(&admin, "Decrypt", body).await["Plaintext"], STANDARD.encode("canary"));

    // One key goes while its store is connected, one while it is not.
    let named = json!({"CustomKeyStoreId": store});
    let other = key_in(&admin, &store).await["Arn"].clone();
    assert_eq!(code(&admin, "DeleteCustomKeyStore", named.clone()).await, "CustomKeyStoreHasCMKsException");
    for (key, end) in [(json!(arn), "destroyed"), (other, "orphaned")] {
        run(&admin, "ScheduleKeyDeletion", json!({"KeyId": key, "PendingWindowInDays": 7})).await;
        if end == "orphaned" {
            run(&admin, "DisconnectCustomKeyStore", named.clone()).await;
        }
        clock.advance(Duration::from_secs(8 * 86_400));
        let gone = |event: &AuditEvent| {
            let parameters = event.request_parameters.as_ref();
            event.event_name == "DestroyTokenKey" && parameters.is_some_and(|told| told["keyId"] == key)
        };
        wait_until(|| fixture.events().iter().any(|(_, event)| gone(event))).await;
        let event = fixture.events().into_iter().find(|(_, event)| gone(event)).unwrap().1;
        assert_eq!(event.request_parameters.unwrap()["tokenObject"], end);
        // Callers sign by the system's clock.
        clock.set(SystemClock.now_us());
    }
    wait_until(|| fixture.kms.as_ref().unwrap().node().key_count() == 1).await;
    run(&admin, "DeleteCustomKeyStore", named).await;
}

/// Each operation on a key whose store is not connected, in the letters of key_states.rs. Those on signing, HMAC and
/// multi-Region keys have no such key.
const UNAVAILABLE: &[(&str, char)] = &[
    ("CancelKeyDeletion", 'I'),
    ("CreateAlias", '+'),
    ("CreateGrant", '+'),
    ("Decrypt", 'I'),
    ("DeleteAlias", '+'),
    ("DeleteImportedKeyMaterial", 'U'),
    ("DescribeKey", '+'),
    ("DisableKey", '+'),
    ("DisableKeyRotation", 'U'),
    ("EnableKey", '+'),
    ("EnableKeyRotation", 'U'),
    ("Encrypt", 'I'),
    ("GenerateDataKey", 'I'),
    ("GenerateDataKeyPair", 'I'),
    ("GenerateDataKeyPairWithoutPlaintext", 'I'),
    ("GenerateDataKeyWithoutPlaintext", 'I'),
    ("GetKeyLastUsage", '+'),
    ("GetKeyPolicy", '+'),
    ("GetKeyRotationStatus", 'U'),
    ("GetParametersForImport", 'U'),
    ("ImportKeyMaterial", 'U'),
    ("ListAliases", '+'),
    ("ListGrants", '+'),
    ("ListKeyPolicies", '+'),
    ("ListKeyRotations", 'U'),
    ("ListResourceTags", '+'),
    ("PutKeyPolicy", '+'),
    ("ReEncrypt", 'I'),
    ("RetireGrant", '+'),
    ("RevokeGrant", '+'),
    ("RotateKeyOnDemand", 'I'),
    ("ScheduleKeyDeletion", '+'),
    ("TagResource", '+'),
    ("UntagResource", '+'),
    ("UpdateAlias", '+'),
    ("UpdateKeyDescription", '+'),
];

async fn unavailable(folder: &Path) {
    let (fixture, _) = node(folder).await;
    let admin = fixture.admin();
    let store = connected(&admin).await;
    let owner = async |operation: &str, body: Value| by_admin(&admin, operation, body).await.unwrap();
    let imported = run(&admin, "CreateKey", json!({"Origin": "EXTERNAL"})).await["KeyMetadata"]["Arn"].clone();
    let mut calls = Vec::new();
    for (operation, answer) in UNAVAILABLE {
        let key = key_in(&admin, &store).await["Arn"].clone();
        let mut body = match *operation {
            // Of a key that can be imported into: this one never can.
            "ImportKeyMaterial" => parcel(&fixture, imported.as_str().unwrap(), "RSAES_OAEP_SHA_256", &[7; 32]).await,
            _ => body(&owner, operation, key.as_str().unwrap()).await,
        };
        if *operation == "ImportKeyMaterial" {
            body["KeyId"] = key.clone();
        }
        calls.push((*operation, body, *answer, key));
    }
    run(&admin, "DisconnectCustomKeyStore", json!({"CustomKeyStoreId": store})).await;
    for (operation, body, answer, key) in calls {
        let metadata = run(&admin, "DescribeKey", json!({"KeyId": key})).await["KeyMetadata"].clone();
        assert_eq!((&metadata["KeyState"], &metadata["Enabled"]), (&json!("Unavailable"), &json!(false)));
        assert_eq!(letter(by_admin(&admin, operation, body).await), answer, "{operation}");
    }
    let more = json!({"Origin": "AWS_CLOUDHSM", "CustomKeyStoreId": store});
    assert_eq!(code(&admin, "CreateKey", more).await, "CustomKeyStoreInvalidStateException");
}

/// SoftHSM behind a module that blocks while a file exists: what a dead network HSM does to its callers.
fn hanging_module(folder: &Path) -> PathBuf {
    let (source, module) = (folder.join("hang.c"), folder.join("hang.so"));
    std::fs::write(&source, include_str!("hanging_module.c")).unwrap();
    let quoted = |name: &str, path: &Path| format!("-D{name}=\"{}\"", path.display());
    let made = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&module)
        .args([quoted("REAL", Path::new(MODULE)), quoted("HANGS", &folder.join("hangs"))])
        .arg(&source)
        .arg("-ldl")
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    module
}

/// A token that hangs costs its own keys and nothing else, and the node says so.
async fn hangs(folder: &Path) {
    let (mut fixture, _) = node(folder).await;
    fixture.stop().await;
    fixture.clusters.get_mut(CLUSTER).unwrap().module = hanging_module(folder);
    let other = Cluster { module: PathBuf::from(MODULE), token: "two".to_owned(), trust_anchor_file: None };
    fixture.clusters.insert(ABSENT.to_owned(), other);
    fixture.start().await.unwrap();
    let admin = fixture.admin();
    let store = connected(&admin).await;
    let there = run(&admin, "CreateCustomKeyStore", wanted("other", ABSENT, PIN)).await["CustomKeyStoreId"].clone();
    let there = json!({"CustomKeyStoreId": there});
    run(&admin, "ConnectCustomKeyStore", there.clone()).await;
    assert_eq!(settled(&admin, &there["CustomKeyStoreId"]).await["ConnectionState"], "CONNECTED");
    let key = key_in(&admin, &store).await["Arn"].clone();
    let managed = json!({"KeyId": key_in(&admin, &store).await["Arn"]});
    let works = [create_key(&admin).await.into(), key_in(&admin, &there["CustomKeyStoreId"]).await["Arn"].clone()];
    let encrypting = |key: &Value| json!({"KeyId": key, "Plaintext": "eA=="});
    let blob = run(&admin, "Encrypt", encrypting(&key)).await["CiphertextBlob"].clone();

    let file = folder.join("hangs");
    std::fs::write(&file, "").unwrap();
    let (caller, body) = (fixture.admin(), json!({"CiphertextBlob": blob}));
    let hung = tokio::spawn(async move { caller.call("TrentService.Decrypt", body, None).await });
    for key in &works {
        run(&admin, "Encrypt", encrypting(key)).await;
    }
    // Another token's login does not wait for this one, nor do the keys of this one for being managed.
    for operation in ["DisconnectCustomKeyStore", "ConnectCustomKeyStore"] {
        run(&admin, operation, there.clone()).await;
    }
    assert_eq!(settled(&admin, &there["CustomKeyStoreId"]).await["ConnectionState"], "CONNECTED");
    run(&admin, "Encrypt", encrypting(&works[1])).await;
    for operation in ["DisableKey", "EnableKey"] {
        run(&admin, operation, managed.clone()).await;
    }
    assert!(!hung.is_finished(), "the token has answered");
    assert_eq!(hung.await.unwrap().unwrap_err().code(), Some("DependencyTimeoutException"));

    // Nothing more is asked of it, and its state tells.
    let now = described(&admin, &store).await;
    assert_eq!((&now["ConnectionState"], &now["ConnectionErrorCode"]), (&json!("FAILED"), &json!("NETWORK_ERRORS")));
    assert_eq!(code(&admin, "Encrypt", encrypting(&key)).await, "KMSInvalidStateException");
    let metadata = run(&admin, "DescribeKey", json!({"KeyId": key})).await["KeyMetadata"].clone();
    assert_eq!(metadata["KeyState"], "Unavailable");
    wait_until(|| outcomes(&fixture).last() == Some(&json!("NETWORK_ERRORS"))).await;

    // It comes back by itself.
    std::fs::remove_file(&file).unwrap();
    wait_until(|| outcomes(&fixture).last() == Some(&Value::Null)).await;
    assert_eq!(described(&admin, &store).await["ConnectionState"], "CONNECTED");
    run(&admin, "Decrypt", json!({"CiphertextBlob": blob})).await;

    // A login that hangs, and a stop meanwhile.
    std::fs::write(&file, "").unwrap();
    for operation in ["DisconnectCustomKeyStore", "ConnectCustomKeyStore"] {
        run(&admin, operation, json!({"CustomKeyStoreId": store})).await;
    }
    run(&admin, "Encrypt", encrypting(&works[1])).await;
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the child of the tests below"]
async fn child() {
    let (Ok(scenario), Ok(folder)) = (std::env::var(SCENARIO), std::env::var(FOLDER)) else { return };
    let folder = PathBuf::from(folder);
    match scenario.as_str() {
        "life" => a_life(&folder).await,
        "keys" => keys(&folder).await,
        "unavailable" => unavailable(&folder).await,
        "hangs" => hangs(&folder).await,
        _ => panic!("{scenario}"),
    }
    println!("SCENARIO DONE");
}

/// Runs a scenario in a process of its own with a fresh token; not at all when there is no SoftHSM on this machine.
fn scenario(name: &str) {
    if !Path::new(MODULE).exists() {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "SoftHSM is missing, and with CI=true nothing is skipped"
        );
        println!("NOT RUN: SoftHSM is missing (scripts/setup hsm)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let conf = folder.path().join("softhsm2.conf");
    std::fs::create_dir(folder.path().join("tokens")).unwrap();
    std::fs::write(&conf, format!("directories.tokendir = {}\n", folder.path().join("tokens").display())).unwrap();
    for label in ["one", "two"] {
        let made = Command::new("softhsm2-util")
            .env("SOFTHSM2_CONF", &conf)
            .args(["--init-token", "--free", "--label", label, "--so-pin", "0000", "--pin", PIN])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "service_tests::custom_key_stores::child", "--ignored", "--nocapture", "--test-threads=1"])
        .env("SOFTHSM2_CONF", &conf)
        .env(SCENARIO, name)
        .env(FOLDER, folder.path())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("SCENARIO DONE"), "{name}: {out}{err}");
}

#[test]
fn a_store_is_made_connected_corrected_and_deleted() {
    scenario("life");
}

#[test]
fn keys_work_inside_their_token_and_end_there() {
    scenario("keys");
}

#[test]
fn keys_of_a_store_that_is_not_connected_are_unavailable() {
    scenario("unavailable");
}

#[test]
fn a_token_that_hangs_stops_its_own_keys_only() {
    scenario("hangs");
}
