//! The root key under a key inside a token: SoftHSM in a folder of its own for each scenario.
//!
//! A PKCS#11 library reads its configuration once for its process, so that each scenario runs in a process of its own: this
//! test binary again, with one ignored test.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use keytrail_kms::auth::credentials::Credentials;
use keytrail_kms::client::Client;
use keytrail_kms::clock::SystemClock;
use keytrail_kms::crypto::{Passphrase, RootKey, RootKeyError, Seal, SealKey, TokenSeal};
use keytrail_kms::hsm::{HsmError, Pin, TokenAddress};
use keytrail_kms::init::{InitOptions, init_sealed_folder};
use keytrail_kms::service::{Kms, KmsConfig, RunningKms, rotate_running};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

const SCENARIO: &str = "KEYTRAIL_TOKEN_SCENARIO";
const FOLDER: &str = "KEYTRAIL_TOKEN_FOLDER";
const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const PIN: &str = "12345678";

fn pin(text: &str) -> Pin {
    Pin::new(text.as_bytes().to_vec().into()).unwrap()
}

fn seal_of(module: &str, token: &str, key: &str, pin: Pin, create: bool) -> SealKey {
    let address = TokenAddress { module: PathBuf::from(module), token: token.to_owned() };
    SealKey::Token(TokenSeal::new(address, key.to_owned(), pin, create).unwrap())
}

fn token(key: &str, create: bool) -> SealKey {
    seal_of(MODULE, "one", key, pin(PIN), create)
}

fn why(opened: Result<RootKey, RootKeyError>) -> HsmError {
    match opened {
        Err(RootKeyError::Token { source, .. }) => source,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it opens"),
    }
}

fn sealing_and_opening(folder: &Path) {
    let path = folder.join("root.key");
    assert!(matches!(
        RootKey::create_sealed(&path, Some(&token("root", false))),
        Err(RootKeyError::Token { source: HsmError::Key { found: 0, .. }, .. })
    ));
    assert!(!path.exists(), "nothing is made when the token cannot seal it");
    let id = RootKey::create_sealed(&path, Some(&token("root", true))).unwrap().id();
    assert_eq!(RootKey::open(&path, Some(&token("root", false))).unwrap().id(), id);
    let Seal::Token { token: label, key, .. } = RootKey::seal_of(&path).unwrap() else { panic!("another seal") };
    assert_eq!((label.as_str(), key.as_str()), ("one", "root"));
    let file = std::fs::read(&path).unwrap();

    // Each way it can fail, with its own error.
    for seal in [None, Some(token("another", false)), Some(seal_of(MODULE, "two", "root", pin(PIN), false))] {
        let refused = RootKey::open(&path, seal.as_ref());
        assert!(matches!(refused, Err(RootKeyError::SealedByToken { .. })));
    }
    let missing = folder.join("none.so");
    let missing = seal_of(missing.to_str().unwrap(), "one", "root", pin(PIN), false);
    assert!(matches!(why(RootKey::open(&path, Some(&missing))), HsmError::Module { .. }));
    let text = folder.join("text.so");
    std::fs::write(&text, "no library").unwrap();
    let text = seal_of(text.to_str().unwrap(), "one", "root", pin(PIN), false);
    assert!(matches!(why(RootKey::open(&path, Some(&text))), HsmError::Module { .. }));
    let nowhere = folder.join("other.key");
    let absent = RootKey::create_sealed(&nowhere, Some(&seal_of(MODULE, "absent", "root", pin(PIN), true)));
    assert!(matches!(why(absent), HsmError::Token { found: 0, .. }));
    for bit in (0..file.len() * 8).step_by(7) {
        let mut changed = file.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, changed).unwrap();
        assert!(RootKey::open(&path, Some(&token("root", false))).is_err(), "bit {bit}");
    }
    std::fs::write(&path, &file).unwrap();
    assert_eq!(RootKey::open(&path, Some(&token("root", false))).unwrap().id(), id);
}

fn all_three_seals(folder: &Path) {
    let path = folder.join("root.key");
    let id = RootKey::create(&path).unwrap().id();
    let words = || SealKey::Passphrase(Passphrase::new(b"correct horse battery".to_vec().into()).unwrap());
    let seals = || [None, Some(words()), Some(token("root", true)), Some(token("second", true))];
    let mut now = None;
    for next in [0, 1, 2, 0, 2, 1, 3, 2, 3, 3, 0, 1, 0, 3] {
        let new = seals().into_iter().nth(next).unwrap();
        RootKey::reseal(&path, now.as_ref(), new.as_ref()).unwrap();
        now = new;
        assert_eq!(RootKey::open(&path, now.as_ref()).unwrap().id(), id);
    }
    let before = std::fs::read(&path).unwrap();
    let lost = seal_of(MODULE, "one", "nowhere", pin(PIN), false);
    assert!(RootKey::reseal(&path, now.as_ref(), Some(&lost)).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), before, "a refused change changes nothing");
}

fn a_wrong_pin_is_tried_once(folder: &Path) {
    let path = folder.join("root.key");
    std::fs::copy(folder.join("made/root.key"), &path).unwrap();
    let wrong = || seal_of(MODULE, "one", "root", pin("87654321"), false);
    assert!(matches!(why(RootKey::open(&path, Some(&wrong()))), HsmError::WrongPin { .. }));
    RootKey::open(&path, Some(&token("root", false))).unwrap();
    assert!(matches!(why(RootKey::open(&path, Some(&wrong()))), HsmError::WrongPin { .. }), "also after a login");
    for guess in ["11111111", "22222222", "33333333"] {
        let guess = seal_of(MODULE, "one", "root", pin(guess), false);
        assert!(matches!(why(RootKey::open(&path, Some(&guess))), HsmError::WrongPin { .. }));
    }
    // The token would let this one in: that it is refused shows that after so many wrong ones it is not asked at all.
    assert!(matches!(why(RootKey::open(&path, Some(&token("root", false)))), HsmError::WrongPin { .. }));
}

fn a_replaced_key_is_told(folder: &Path) {
    let path = folder.join("root.key");
    std::fs::copy(folder.join("made/root.key"), &path).unwrap();
    // As after the token was set up anew: the same labels, another key.
    assert!(matches!(why(RootKey::open(&path, Some(&token("root", false)))), HsmError::Key { found: 0, .. }));
    RootKey::create_sealed(&folder.join("new.key"), Some(&token("root", true))).unwrap();
    assert!(matches!(why(RootKey::open(&path, Some(&token("root", false)))), HsmError::NotOpened));
}

fn client(dir: &Path, kms: &RunningKms) -> Client {
    let credentials = Credentials::read(&dir.join("credentials"), "default").unwrap();
    Client::new(&format!("http://{}", kms.addr), credentials, "eu-central-1").unwrap()
}

async fn call(dir: &Path, kms: &RunningKms, operation: &str, body: Value) -> Value {
    client(dir, kms).call(&format!("TrentService.{operation}"), body, None).await.unwrap().body
}

async fn a_node_lives_with_it(folder: &Path) {
    let dir = folder.join("data");
    let named = |text: &str| text.to_owned();
    let options = InitOptions {
        account: named("123456789012"),
        region: named("eu-central-1"),
        cluster: named("test"),
        node: named("n"),
    };
    let seal = Arc::new(token("root", true));
    init_sealed_folder(&dir, &options, Some(&seal)).unwrap();
    let start = async |seal: Option<Arc<SealKey>>| {
        let config = KmsConfig { seal_key: seal, ..KmsConfig::new(&dir, "127.0.0.1:0".parse().unwrap()) };
        Kms::start(config, Arc::new(SystemClock)).await
    };
    assert!(start(None).await.is_err());
    let kms = start(Some(Arc::clone(&seal))).await.unwrap();
    let key = call(&dir, &kms, "CreateKey", json!({})).await["KeyMetadata"]["Arn"].clone();
    let blob = call(&dir, &kms, "Encrypt", json!({"KeyId": key, "Plaintext": "eA=="})).await["CiphertextBlob"].clone();
    let before = RootKey::open(&dir.join("root.key"), Some(&seal)).unwrap().id();
    let (rotating, with) = (dir.clone(), Arc::clone(&seal));
    let told =
        tokio::task::spawn_blocking(move || rotate_running(&rotating, Some(&with), false)).await.unwrap().unwrap();
    assert_ne!(told["rootKeyId"], before);
    kms.shutdown().await.unwrap();
    assert!(matches!(RootKey::seal_of(&dir.join("root.key")).unwrap(), Seal::Token { .. }));
    let kms = start(Some(seal)).await.unwrap();
    let opened = call(&dir, &kms, "Decrypt", json!({"CiphertextBlob": blob})).await;
    assert_eq!(opened["Plaintext"], "eA==");
    kms.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the child of the tests below"]
async fn child() {
    let (Ok(scenario), Ok(folder)) = (std::env::var(SCENARIO), std::env::var(FOLDER)) else { return };
    let folder = PathBuf::from(folder);
    match scenario.as_str() {
        "node" => a_node_lives_with_it(&folder).await,
        other => {
            let work: fn(&Path) = match other {
                "sealing" => sealing_and_opening,
                "seals" => all_three_seals,
                "make" => |folder| {
                    std::fs::create_dir(folder.join("made")).unwrap();
                    RootKey::create_sealed(&folder.join("made/root.key"), Some(&token("root", true))).unwrap();
                },
                "pin" => a_wrong_pin_is_tried_once,
                "replaced" => a_replaced_key_is_told,
                _ => panic!("{other}"),
            };
            tokio::task::spawn_blocking(move || work(&folder)).await.unwrap();
        }
    }
    println!("SCENARIO DONE");
}

/// A token in a folder of its own; none when there is no SoftHSM on this machine.
struct Token {
    folder: tempfile::TempDir,
}

impl Token {
    fn new() -> Option<Self> {
        if !Path::new(MODULE).exists() {
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "SoftHSM is missing, and with CI=true nothing is skipped"
            );
            println!("NOT RUN: SoftHSM is missing (scripts/setup hsm)");
            return None;
        }
        let token = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir(token.folder.path().join("tokens")).unwrap();
        let text = format!("directories.tokendir = {}\n", token.folder.path().join("tokens").display());
        std::fs::write(token.folder.path().join("softhsm2.conf"), text).unwrap();
        token.set_up();
        Some(token)
    }

    fn set_up(&self) {
        let made = self
            .command("softhsm2-util")
            .args(["--init-token", "--free", "--label", "one", "--so-pin", "0000", "--pin", PIN])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("SOFTHSM2_CONF", self.folder.path().join("softhsm2.conf"));
        command
    }

    fn run(&self, scenario: &str) {
        let program = std::env::current_exe().unwrap();
        let output = self
            .command(program.to_str().unwrap())
            .args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"])
            .env(SCENARIO, scenario)
            .env(FOLDER, self.folder.path())
            .output()
            .unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && out.contains("SCENARIO DONE"), "{scenario}: {out}{err}");
    }
}

#[test]
fn a_root_key_opens_only_under_its_token_and_says_what_is_missing() {
    let Some(token) = Token::new() else { return };
    token.run("sealing");
}

#[test]
fn a_root_key_goes_from_any_seal_to_any_other() {
    let Some(token) = Token::new() else { return };
    token.run("seals");
}

#[test]
fn a_wrong_pin_is_not_tried_twice_and_a_replaced_key_is_told() {
    let Some(token) = Token::new() else { return };
    token.run("make");
    token.run("pin");
    std::fs::remove_dir_all(token.folder.path().join("tokens")).unwrap();
    std::fs::create_dir(token.folder.path().join("tokens")).unwrap();
    token.set_up();
    token.run("replaced");
}

#[test]
fn a_node_starts_with_its_token_and_changes_its_root_key_under_it() {
    let Some(token) = Token::new() else { return };
    token.run("node");
}
