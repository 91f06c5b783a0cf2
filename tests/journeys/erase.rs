//! Erasure through the running service: the text is gone from the lake, the row and every proof stay.

use crate::support::{Caller, Folder, keytrail, text, wait_for};
use serde_json::{Value, json};
use std::path::Path;

const PERSON: &str = "canary-of-a-person-5521";

fn erase(folder: &Folder, seqs: &str) -> std::process::Output {
    let mut command = keytrail();
    command.args(["log", "erase", "--seq", seqs, "--reason", "a person asked", "--data"]).arg(folder.path());
    command.output().expect("run log erase")
}

/// Whether any file below holds the text.
fn holds(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return holds(&path);
        }
        let bytes = std::fs::read(&path).unwrap_or_default();
        memchr::memmem::find(&bytes, PERSON.as_bytes()).is_some()
    })
}

#[test]
fn what_a_person_asks_to_be_erased_is_gone_from_the_lake_and_the_log_still_verifies() {
    let folder = Folder::with_people();
    let up = folder.up(&[]);
    let admin = Caller::new(&up.field("kms"), folder.administrator());
    let key = admin.create_key(json!([]));
    admin.encrypt(&key, &json!({ "person": PERSON }));
    let found = |folder: &Folder| {
        folder.sql(&format!("SELECT seq, event_name, enc_context FROM events WHERE enc_context LIKE '%{PERSON}%'"))
    };
    let rows = wait_for("the event in SQL", || Some(found(&folder)).filter(|rows| !rows.is_empty()));
    let seq = rows[0]["seq"].as_u64().unwrap();
    let created = folder.sql("SELECT seq FROM events WHERE event_name = 'CreateKey'")[0]["seq"].as_u64().unwrap();
    let out = erase(&folder, &created.to_string());
    assert!(!out.status.success(), "a change is not erased: {}", text(&out.stdout));
    let out = erase(&folder, &format!("{seq}-{seq}"));
    assert!(out.status.success(), "{}{}", text(&out.stdout), text(&out.stderr));
    wait_for("the erasure in SQL", || found(&folder).is_empty().then_some(()));
    // A stop seals: from now on the lake is files alone.
    up.stop();
    let row = &folder.sql(&format!("SELECT * FROM records WHERE seq = {seq}"))[0];
    for column in ["raw", "salt", "event_name", "principal_arn", "enc_context", "request_id", "source_ip"] {
        assert_eq!(row[column], Value::Null, "{column}");
    }
    assert!(row["payload_digest"].is_string() && row["payload_len"].as_u64() > Some(0), "{row}");
    let told = folder.sql("SELECT count(*) AS n FROM events WHERE event_name = 'EraseRecords' AND error_code IS NULL");
    assert_eq!(told[0]["n"], 1);
    assert_eq!(folder.sql("SELECT count(*) AS n FROM records WHERE kind = 9")[0]["n"], 1);
    assert!(!holds(&folder.path().join("lake")));
    folder.assert_verified();
    folder.assert_reproduced();
    // It stays so when the trail starts again beside a journal that still has the payload.
    let up = folder.up(&[]);
    Caller::new(&up.field("kms"), folder.administrator()).call("ListKeys", json!({})).unwrap();
    up.stop();
    assert!(found(&folder).is_empty());
    folder.assert_verified();
}
