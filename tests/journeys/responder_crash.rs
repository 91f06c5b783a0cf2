//! kill -9 of the responder between decision and effect: the log has each of its effects once, and the incident is contained.

use crate::incident::public_policy;
use crate::rules::part;
use crate::support::{Caller, Folder, Running, keytrail, wait_for};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Where the process aborts, and at which pass.
const POINTS: [(&str, u32); 6] = [
    ("responder::after_plan_commit", 0),
    ("responder::before_call", 0),
    ("responder::after_call", 0),
    ("responder::after_call", 2),
    ("responder::before_done", 0),
    ("responder::before_done", 2),
];

fn responder(folder: &Folder, endpoint: &str, fail_points: &str) -> Running {
    let (_, kms) = endpoint.split_once("://").unwrap();
    let mut command = keytrail();
    command.args(["responder", "--enforce", "--listen", kms, "--data"]).arg(folder.path());
    Running::start(command.env("FAILPOINTS", fail_points))
}

#[test]
fn a_responder_killed_anywhere_has_each_effect_once_in_the_log() {
    for (point, passes) in POINTS {
        let folder = Folder::with_people();
        let kms = part(&folder, "kms");
        let endpoint = kms.field("kms");
        let (admin, insider) = (Caller::new(&endpoint, folder.administrator()), Caller::person(&endpoint, "insider"));
        let [exposed, going] = [(); 2].map(|()| admin.create_key(json!([])));
        let trail = part(&folder, "trail");
        let mut first = responder(&folder, &endpoint, &format!("{point}={passes}*off->return"));
        insider.call("PutKeyPolicy", json!({ "KeyId": exposed, "Policy": public_policy() })).expect("open the key");
        insider.call("ScheduleKeyDeletion", json!({ "KeyId": going, "PendingWindowInDays": 7 })).expect("schedule");
        let status = wait_for("the crash", || first.child.try_wait().expect("wait"));
        assert!(!status.success(), "{point}: it ended in order");

        let second = responder(&folder, &endpoint, "");
        wait_for("containment", || {
            let states = folder.sql("SELECT state FROM incidents");
            (!states.is_empty() && states.iter().all(|row| row["state"] == "contained")).then_some(())
        });
        let policy = admin.call("GetKeyPolicy", json!({ "KeyId": exposed })).expect("read the policy");
        assert!(!policy["Policy"].as_str().unwrap().contains("Everyone"), "{point}: {policy}");
        let described = admin.call("DescribeKey", json!({ "KeyId": going })).expect("describe");
        assert_eq!(described["KeyMetadata"]["KeyState"], "Enabled", "{point}");
        second.stop();
        trail.stop();
        kms.stop();

        let rows = folder.sql(
            "SELECT event_name, action_id, repeat_of FROM events \
             WHERE actor_class = 'responder' AND action_id IS NOT NULL AND error_code IS NULL ORDER BY seq",
        );
        let mut effects: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
        for row in &rows {
            let calls = effects.entry(row["action_id"].as_str().unwrap()).or_default();
            if row["repeat_of"].is_null() {
                calls.push(&row["event_name"]);
            }
        }
        assert!(effects.values().all(|calls| calls.len() == 1), "{point}: {effects:#?}");
        for wanted in ["PutQuarantine", "RestoreKeyPolicy", "CancelKeyDeletion"] {
            assert!(effects.values().any(|calls| calls[0] == wanted), "{point}: no {wanted} in {effects:#?}");
        }
        folder.assert_verified();
    }
}
