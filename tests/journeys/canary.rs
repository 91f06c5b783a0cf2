//! Secrets planted in every field that must not be recorded are found in no store, log, file, topic or mail.

use crate::kafka::{Broker, message_bytes};
use crate::support::{Caller, Folder, MailSink, wait_for};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use std::path::Path;

/// Every form in which a secret could have been written.
fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    // Base64 depends on the position in the surrounding text, so all three alignments are looked for.
    let aligned = (0..3).map(|pad| {
        let mut padded = vec![0; pad];
        padded.extend(secret);
        let packed = STANDARD.encode(padded);
        packed.as_bytes()[4..packed.len() - 4].to_vec()
    });
    [secret.to_vec(), hex.into_bytes()].into_iter().chain(aligned).collect()
}

fn assert_absent(dir: &Path, messages: &[Vec<u8>], what: &str, secret: &[u8]) {
    let forms = forms(secret);
    let holds = |bytes: &[u8]| forms.iter().any(|form| memchr::memmem::find(bytes, form).is_some());
    assert!(!messages.iter().any(|message| holds(message)), "{what} is in a Kafka topic or a mail");
    let mut open = vec![dir.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let Ok(bytes) = std::fs::read(&path) else { continue };
            assert!(!holds(&bytes), "{what} is in {}", path.display());
        }
    }
}

#[test]
fn no_planted_secret_is_found_anywhere() {
    let folder = Folder::with_people();
    let mail = MailSink::start();
    let broker = Broker::start();
    let mut arguments = vec!["--enforce", "--smtp", &mail.address, "--mail-to", "soc@example.org"];
    arguments.extend(broker.iter().flat_map(|broker| ["--brokers", broker.address.as_str()]));
    let up = folder.up(&arguments);
    let admin = Caller::new(&up.field("kms"), folder.administrator());
    let key = admin.create_key(json!([]));
    let plaintext = b"canary-plaintext-5b1f0c77-never-recorded";
    let body = json!({ "KeyId": key, "Plaintext": STANDARD.encode(plaintext) });
    let blob = admin.call("Encrypt", body).unwrap()["CiphertextBlob"].as_str().unwrap().to_owned();
    admin.call("Decrypt", json!({ "CiphertextBlob": blob })).unwrap();
    let data_key = admin.call("GenerateDataKey", json!({ "KeyId": key, "KeySpec": "AES_256" })).unwrap();
    let data_key_plain = STANDARD.decode(data_key["Plaintext"].as_str().unwrap()).unwrap();
    // Refused calls must not record their inputs either.
    let wrong = json!({ "KeyId": key, "Plaintext": STANDARD.encode(plaintext), "EncryptionContext": 7 });
    admin.call("Encrypt", wrong).unwrap_err();
    let too_long = plaintext.repeat(200);
    admin.call("Encrypt", json!({ "KeyId": key, "Plaintext": STANDARD.encode(&too_long) })).unwrap_err();
    admin.call("Decrypt", json!({ "CiphertextBlob": STANDARD.encode(plaintext) })).unwrap_err();
    // An alert with evidence, so that all three topics and a mail have something in them.
    admin.call("ScheduleKeyDeletion", json!({ "KeyId": key, "PendingWindowInDays": 7 })).unwrap();
    wait_for("the mail", || (!mail.messages().is_empty()).then_some(()));
    up.stop();

    let mut messages = broker.as_ref().map(message_bytes).unwrap_or_default();
    for (name, there) in [("an event", "\"eventName\":\"Decrypt\""), ("an alert", "\"ruleId\"")] {
        let found = messages.iter().any(|message| memchr::memmem::find(message, there.as_bytes()).is_some());
        assert_eq!(found, broker.is_some(), "{name} in the topics");
    }
    messages.extend(mail.messages().into_iter().map(String::into_bytes));
    assert_absent(folder.path(), &messages, "the plaintext", plaintext);
    assert_absent(folder.path(), &messages, "the data key", &data_key_plain);
    let blob = STANDARD.decode(blob).unwrap();
    assert_absent(folder.path(), &messages, "the ciphertext", &blob[blob.len() - 40..]);
    let rows =
        folder.sql("SELECT count(*) AS n FROM events WHERE event_name IN ('Encrypt', 'Decrypt', 'GenerateDataKey')");
    assert_eq!(rows[0]["n"], 6, "all six calls are recorded");
}
