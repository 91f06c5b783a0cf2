//! Faults of the surroundings: a full disk, a mail server that is down, a forged alert.

use crate::support::{Caller, Folder, MailSink, Running, free_address, keytrail, wait_for};
use serde_json::json;

#[test]
fn a_full_disk_fails_calls_closed_and_service_returns() {
    let folder = Folder::with_people();
    // Small segments, so that a new one is needed soon; preparing it fails five times.
    let file = folder.path().join("keytrail.toml");
    let config =
        std::fs::read_to_string(&file).unwrap().replace("segment_size = \"64 MiB\"", "segment_size = \"1 MiB\"");
    assert!(config.contains("\"1 MiB\""), "{config}");
    std::fs::write(&file, config).unwrap();
    let mut command = keytrail();
    command.args(["kms", "--listen", "127.0.0.1:0", "--data"]).arg(folder.path());
    command.env("FAILPOINTS", "journal::prepare_segment=2*off->5*return->off");
    let kms = Running::start(&mut command);
    let admin = Caller::new(&kms.field("kms"), folder.administrator());
    let key = admin.create_key(json!([]));
    let context = json!({ "filler": "f".repeat(4000) });
    let mut refused = 0;
    wait_for("a refusal and then service again", || {
        let body = json!({ "KeyId": key, "Plaintext": "aGk=", "EncryptionContext": context });
        match admin.call("Encrypt", body) {
            Ok(_) => (refused > 0).then_some(()),
            Err(error) => {
                assert_eq!(error, "KMSInternalException");
                refused += 1;
                None
            }
        }
    });
    kms.stop();
    folder.assert_verified();
}

#[test]
fn mail_that_cannot_be_sent_delays_no_action_and_arrives_later() {
    let folder = Folder::with_people();
    let address = free_address();
    let up = folder.up(&["--enforce", "--smtp", &address, "--mail-to", "soc@example.org"]);
    let admin = Caller::new(&up.field("kms"), folder.administrator());
    let key = admin.create_key(json!([]));
    admin.call("ScheduleKeyDeletion", json!({ "KeyId": key, "PendingWindowInDays": 7 })).unwrap();
    wait_for("the deletion to be cancelled", || (admin.key_state(&key) == "Enabled").then_some(()));
    let mail = MailSink::start_at(&address);
    wait_for("the mail", || mail.messages().into_iter().next());
    up.stop();
}

#[test]
fn a_forged_alert_leads_to_no_action() {
    let folder = Folder::with_people();
    let up = folder.up(&["--enforce"]);
    let admin = Caller::new(&up.field("kms"), folder.administrator());
    let key = admin.create_key(json!([]));
    let forged = json!({ "alertVersion": 1, "alertId": "00".repeat(32), "revision": 0, "ruleId": "key-policy-public",
        "severity": "critical", "row": { "key_arn": key, "principal_arn": "arn:aws:iam::123456789012:user/administrator" } });
    let store = rusqlite::Connection::open(folder.path().join("trail.db")).unwrap();
    store.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    store
        .execute(
            "INSERT INTO alerts (alert_id, revision, json, signature, created_us) VALUES (?1, 0, ?2, ?3, 1)",
            rusqlite::params!["00".repeat(32), forged.to_string().into_bytes(), vec![0_u8; 64]],
        )
        .unwrap();
    // A true alert behind it proves that the forged one was read and passed over.
    let other = admin.create_key(json!([]));
    admin.call("ScheduleKeyDeletion", json!({ "KeyId": other, "PendingWindowInDays": 7 })).unwrap();
    wait_for("the true alert's action", || (admin.key_state(&other) == "Enabled").then_some(()));
    assert_eq!(admin.key_state(&key), "Enabled");
    let quarantines = admin.call("KeytrailService.ListQuarantines", json!({})).unwrap().to_string();
    assert!(!quarantines.contains("00000000"), "{quarantines}");
    up.stop();
    let rows = folder.sql("SELECT count(*) AS n FROM events WHERE actor_class = 'responder' AND read_only = false");
    assert!(rows[0]["n"].as_i64().unwrap() <= 4, "only the true alert led to calls: {rows:?}");
}
