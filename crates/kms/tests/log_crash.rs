//! Kills the change of a log's signing key between each pair of its steps: the next start has the key of before or the next
//! one, never neither, and whoever knows the first key still verifies the log.
//!
//! A gap that is being declared is killed in the same way: the folder is the one of before, or starts only once the same
//! declaration was applied to its end.
//!
//! The child is this test binary again, running one ignored test that rotates or declares.

#![cfg(all(feature = "testing", feature = "server"))]
#![allow(clippy::unwrap_used)]

use fail::FailScenario;
use keytrail_kms::chain::{Checkpoint, GapDeclaration, RootHash, SigningKey, VerifyKey};
use keytrail_kms::clock::SystemClock;
use keytrail_kms::gap::{DeclareError, apply, declare};
use keytrail_kms::init::{InitOptions, init_folder};
use keytrail_kms::journal::JournalOptions;
use keytrail_kms::service::{Kms, KmsConfig, StartError, rotate_signer_offline};
use keytrail_kms::signer::{CheckpointSigner as _, LocalSigner};
use keytrail_kms::verify::{Verdict, verify_folder, verify_folder_with};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

const DIR_VARIABLE: &str = "KEYTRAIL_SIGNER_CRASH_DIR";
const SIGABRT: i32 = 6;

fn vkey(dir: &Path) -> VerifyKey {
    std::fs::read_to_string(dir.join("checkpoints/vkey")).unwrap().trim().parse().unwrap()
}

async fn run_once(dir: &Path) {
    let mut config = KmsConfig::new(dir, "127.0.0.1:0".parse().unwrap());
    // A machine that builds meanwhile may take long to write; that is not what is tested here.
    config.journal = JournalOptions { append_bound: Duration::from_secs(60), ..JournalOptions::default() };
    Kms::start(config, Arc::new(SystemClock)).await.unwrap().shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child of the crash test"]
async fn child() {
    let Ok(dir) = std::env::var(DIR_VARIABLE) else { return };
    let _scenario = FailScenario::setup();
    rotate_signer_offline(Path::new(&dir), (None, None), Arc::new(SystemClock)).await.unwrap();
}

fn operator(name: &str, seed: u8) -> SigningKey {
    SigningKey::from_seed(name, &[seed; 32]).unwrap()
}

fn apply_declared(dir: &Path) -> Result<(), DeclareError> {
    let gap = GapDeclaration::parse(&std::fs::read(dir.join("declared")).unwrap()).unwrap();
    let operators = [operator("alice", 1), operator("bob", 2)].map(|key| key.verify_key().clone());
    apply(dir, &gap, &operators, Arc::new(SystemClock))
}

#[test]
#[ignore = "the child of the crash test"]
fn declaring_child() {
    let Ok(dir) = std::env::var(DIR_VARIABLE) else { return };
    let _scenario = FailScenario::setup();
    apply_declared(Path::new(&dir)).unwrap();
}

fn killed(dir: &Path, child: &str, point: &str) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", child, "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIR_VARIABLE, dir)
        .env("FAILPOINTS", format!("{point}=return"))
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    assert_eq!(output.status.signal(), Some(SIGABRT), "{point}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declaration_that_was_killed_is_brought_to_its_end_by_the_same_one() {
    for point in ["kms::gap_after_marker", "kms::gap_after_moves", "kms::gap_after_record", "kms::gap_after_names"] {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let (account, region) = ("123456789012".into(), "eu-central-1".into());
        init_folder(dir, &InitOptions { account, region, cluster: "test".into(), node: "n".into() }).unwrap();
        run_once(dir).await;
        let log = LocalSigner::open(&dir.join("checkpoints")).unwrap();
        let longer = Checkpoint { origin: log.origin().to_owned(), size: 1_000, root: RootHash([7; 32]) };
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::copy(dir.join("checkpoints/signer.key"), elsewhere.path().join("signer.key")).unwrap();
        let note = LocalSigner::open(elsewhere.path()).unwrap().sign(longer.size, longer.root).unwrap();
        let mut gap = declare(dir, (&[note], None), "lost", &SystemClock).unwrap();
        gap.sign(&operator("alice", 1)).unwrap();
        gap.sign(&operator("bob", 2)).unwrap();
        std::fs::write(dir.join("declared"), gap.to_json()).unwrap();
        killed(dir, "declaring_child", point);
        let config = KmsConfig::new(dir, "127.0.0.1:0".parse().unwrap());
        let refused = Kms::start(config, Arc::new(SystemClock)).await.map(|_| ()).unwrap_err();
        assert!(matches!(refused, StartError::GapUnderWay { .. }), "{point}: {refused}");
        let again = dir.to_owned();
        tokio::task::spawn_blocking(move || apply_declared(&again)).await.unwrap().unwrap();
        run_once(dir).await;
        let report = verify_folder(dir, |_| ());
        assert_eq!(report.verdict, Verdict::Verified, "{point}");
        assert_eq!(report.gap.unwrap().declaration, gap, "{point}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_keys_that_was_killed_ends_with_one_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let (account, region) = ("123456789012".into(), "eu-central-1".into());
    init_folder(dir, &InitOptions { account, region, cluster: "test".into(), node: "n".into() }).unwrap();
    run_once(dir).await;
    let first = vkey(dir);
    let table = [
        ("kms::signer_before_record", false),
        ("kms::signer_after_record", true),
        ("kms::signer_after_keys", true),
        ("kms::signer_after_rename", true),
        ("kms::signer_after_adopt", true),
    ];
    for (point, expected) in table {
        let before = vkey(dir);
        killed(dir, "child", point);
        let left = verify_folder_with(dir, Some(&first), |_| ()).verdict;
        assert!(!matches!(left, Verdict::Failed { .. }), "{point}: what the crash left: {left:?}");
        run_once(dir).await;
        assert_eq!(vkey(dir) != before, expected, "{point}");
        assert_eq!(vkey(dir), LocalSigner::open(&dir.join("checkpoints")).unwrap().verify_key(), "{point}");
        let report = verify_folder_with(dir, Some(&first), |_| ());
        assert_eq!(report.verdict, Verdict::Verified, "{point}");
        assert_eq!(report.keys.unwrap().current(), &vkey(dir), "{point}");
    }
}
