//! The same log, read by a trail and a responder that know nothing yet, once and again: the same plans, byte for byte.

use crate::incident::public_policy;
use crate::rules::part;
use crate::support::{Caller, Folder, keytrail, text, wait_for};
use serde_json::{Value, json};

#[test]
fn the_same_log_read_twice_gives_the_same_plans() {
    let folder = Folder::with_people();
    let kms = part(&folder, "kms");
    let endpoint = kms.field("kms");
    let [admin, insider, app] = [
        Caller::new(&endpoint, folder.administrator()),
        Caller::person(&endpoint, "insider"),
        Caller::person(&endpoint, "app"),
    ];
    let [orders, vault, archive, last] =
        [json!([]), json!([{ "TagKey": "on-exposure", "TagValue": "disable" }]), json!([]), json!([])]
            .map(|tags| admin.create_key(tags));
    let blobs: Vec<(String, Value)> = (0..30)
        .map(|tenant| {
            let context = json!({ "tenant": tenant.to_string() });
            (app.encrypt(&orders, &context), context)
        })
        .collect();
    for (blob, context) in &blobs {
        insider.decrypt(blob, context).expect("the stolen credential decrypts");
    }
    for key in [&orders, &vault] {
        let body = json!({ "KeyId": key, "Policy": public_policy() });
        insider.call("PutKeyPolicy", body).expect("open the key");
    }
    for (who, key) in [(&insider, &archive), (&admin, &last)] {
        who.call("ScheduleKeyDeletion", json!({ "KeyId": key, "PendingWindowInDays": 7 })).expect("schedule");
    }
    kms.stop();
    let (first, again) = (plans(folder.copy(), &last), plans(folder.copy(), &last));
    let kinds = ["quarantine_principal", "restore_key_policy", "disable_key", "cancel_key_deletion"];
    for kind in kinds {
        assert!(first.iter().any(|line| line.contains(kind)), "{kind}: {first:#?}");
    }
    assert_eq!(first, again);
}

/// What is planned until the last key's deletion is answered, in a folder whose responder only observes.
fn plans(folder: Folder, last: &str) -> Vec<String> {
    let up = folder.up(&[]);
    let planned = wait_for("the last plan", || {
        let all = actions(&folder);
        let end = all.iter().position(|action| action["target"] == last)?;
        Some(all[..=end].to_vec())
    });
    up.stop();
    let kept =
        ["id", "incident", "playbook", "playbook_version", "step", "kind", "target", "generation", "cause", "args"];
    let bytes = |action: &Value| Value::from_iter(kept.map(|name| (name, action[name].clone()))).to_string();
    let mut lines: Vec<String> = planned.iter().map(bytes).collect();
    lines.sort();
    lines
}

/// In the order in which they were planned.
fn actions(folder: &Folder) -> Vec<Value> {
    let run = |arguments: &[&str]| -> Vec<Value> {
        let out = keytrail().arg("incident").args(arguments).arg("--data").arg(folder.path()).output().expect("run");
        text(&out.stdout).lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let mut all = Vec::new();
    for incident in run(&["list", "--json"]) {
        for shown in run(&["show", "--json", incident["id"].as_str().unwrap_or_default()]) {
            all.extend(shown["actions"].as_array().cloned().unwrap_or_default());
        }
    }
    all.sort_by_key(|action| action["row"].as_i64());
    all
}
