//! Kills a real node between each pair of steps of a change of root keys, with calls under way, then starts it again: the
//! folder holds one root key, the one that the store is wrapped under, and the log says which.
//!
//! The child is this test binary again, running one ignored test that serves and rotates.

#![cfg(all(feature = "testing", feature = "server"))]
#![allow(clippy::unwrap_used)]

use fail::FailScenario;
use keytrail_kms::auth::credentials::Credentials;
use keytrail_kms::client::Client;
use keytrail_kms::clock::SystemClock;
use keytrail_kms::crypto::RootKey;
use keytrail_kms::event::AuditEvent;
use keytrail_kms::init::{InitOptions, init_folder};
use keytrail_kms::journal::{JournalOptions, Reader};
use keytrail_kms::service::{Kms, KmsConfig, RunningKms, rotate_running};
use keytrail_kms::verify::{Verdict, verify_folder};
use serde_json::{Value, json};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

const DIR_VARIABLE: &str = "KEYTRAIL_ROOT_KEY_CRASH_DIR";
const SIGABRT: i32 = 6;
const REGION: &str = "eu-central-1";

async fn start(dir: &Path) -> RunningKms {
    let mut config = KmsConfig::new(dir, "127.0.0.1:0".parse().unwrap());
    // A machine that builds meanwhile may take long to write; that is not what is tested here.
    config.journal = JournalOptions { append_bound: Duration::from_secs(60), ..JournalOptions::default() };
    Kms::start(config, Arc::new(SystemClock)).await.unwrap()
}

fn admin(dir: &Path, kms: &RunningKms) -> Client {
    let credentials = Credentials::read(&dir.join("credentials"), "default").unwrap();
    Client::new(&format!("http://{}", kms.addr), credentials, REGION).unwrap()
}

async fn made(admin: &Client) -> Option<Value> {
    let key = admin.call("TrentService.CreateKey", json!({}), None).await.ok()?.body["KeyMetadata"]["Arn"].clone();
    let sealed = admin.call("TrentService.Encrypt", json!({"KeyId": key, "Plaintext": "eA=="}), None).await.ok()?;
    Some(json!({"CiphertextBlob": sealed.body["CiphertextBlob"]}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child of the crash tests"]
async fn child() {
    let Ok(dir) = std::env::var(DIR_VARIABLE) else { return };
    let dir = Path::new(&dir).to_owned();
    let _scenario = FailScenario::setup();
    let kms = start(&dir).await;
    let client = admin(&dir, &kms);
    tokio::spawn(async move { while made(&client).await.is_some() {} });
    let rotating = dir.clone();
    tokio::task::spawn_blocking(move || rotate_running(&rotating, None, false)).await.unwrap().unwrap();
    // Each waits for its own write, so that a point behind the first few is reached, however many calls shared one before.
    let client = admin(&dir, &kms);
    for _ in 0..10 {
        made(&client).await.unwrap();
    }
    kms.shutdown().await.unwrap();
}

fn rotations(dir: &Path) -> Vec<Value> {
    let mut reader = Reader::open(&dir.join("journal"), 0).unwrap();
    let frames = reader.next(100_000).unwrap();
    let events = frames.iter().filter_map(|frame| serde_json::from_slice::<AuditEvent>(&frame.payload).ok());
    events.filter(|event| event.event_name == "RotateRootKey").map(|event| event.request_parameters.unwrap()).collect()
}

/// Starts the node on what a crash left; gives whether the next root key is in force.
async fn check(dir: &Path, blobs: &[Value], before: &str, told_before: usize, context: &str) -> bool {
    let kms = start(dir).await;
    let client = admin(dir, &kms);
    for blob in blobs {
        let opened = client.call("TrentService.Decrypt", blob.clone(), None).await.unwrap();
        assert_eq!(opened.body["Plaintext"], "eA==", "{context}");
    }
    let blob = made(&client).await.unwrap();
    kms.shutdown().await.unwrap();
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: Vec<_> = names.filter(|name| name.starts_with("root.key")).collect();
    assert_eq!(names, ["root.key"], "{context}");
    let id = RootKey::open(&dir.join("root.key"), None).unwrap().id();
    let told = rotations(dir);
    assert_eq!(told.len() - told_before, usize::from(id != before), "{context}: the log says what is");
    if id != before {
        assert_eq!(told.last().unwrap()["rootKeyId"], id, "{context}");
    }
    assert_eq!(verify_folder(dir, |_| ()).verdict, Verdict::Verified, "{context}");
    // What was made after the crash is wrapped under the root key that the next start opens.
    let kms = start(dir).await;
    admin(dir, &kms).call("TrentService.Decrypt", blob, None).await.unwrap();
    kms.shutdown().await.unwrap();
    id != before
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_while_root_keys_change_has_one_of_them_whole() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let options =
        InitOptions { account: "123456789012".into(), region: REGION.into(), cluster: "test".into(), node: "n".into() };
    init_folder(dir, &options).unwrap();
    let kms = start(dir).await;
    let client = admin(dir, &kms);
    let mut blobs = Vec::new();
    for _ in 0..20 {
        blobs.push(made(&client).await.unwrap());
    }
    kms.shutdown().await.unwrap();
    // Some: whether the next root key must be in force; none where that depends on which commit was hit.
    let table = [
        ("kms::rotate_before_stage", "", Some(false)),
        ("kms::rotate_after_stage", "", Some(false)),
        ("kms::after_rewrap", "", Some(true)),
        ("kms::rotate_before_promote", "", Some(true)),
        ("kms::rotate_after_promote", "", Some(true)),
        ("kms::after_store_commit", "1*off->", None),
        ("kms::after_store_commit", "4*off->", None),
        ("kms::after_append", "3*off->", None),
    ];
    for (point, skip, expected) in table {
        let context = format!("{point} {skip}");
        let before = RootKey::open(&dir.join("root.key"), None).unwrap().id();
        let told = rotations(dir).len();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"])
            .env(DIR_VARIABLE, dir)
            .env("FAILPOINTS", format!("{point}={skip}return"))
            .env("RUST_BACKTRACE", "0")
            .output()
            .unwrap();
        assert_eq!(output.status.signal(), Some(SIGABRT), "{context}: {}", String::from_utf8_lossy(&output.stderr));
        let changed = check(dir, &blobs, &before, told, &context).await;
        assert!(expected.is_none_or(|expected| expected == changed), "{context}");
    }
}
