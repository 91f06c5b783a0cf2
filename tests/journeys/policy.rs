//! The administrator's questions about policies: what is wrong with them, and why a call was denied.

use crate::support::{Caller, Folder, keytrail, text};
use serde_json::{Value, json};

fn explain(folder: &Folder, request_id: &str) -> String {
    let out = keytrail().args(["explain", request_id, "--data"]).arg(folder.path()).output().unwrap();
    assert!(out.status.success(), "explain: {}", text(&out.stderr));
    text(&out.stdout)
}

#[test]
fn a_denied_call_is_explained_and_a_loose_policy_found() {
    let folder = Folder::with_people();
    let up = folder.up(&[]);
    let admin = Caller::new(&up.field("kms"), folder.administrator());
    let key = admin.create_key(json!([]));
    let statements = json!([
        {"Sid": "Loose", "Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"},
        {"Sid": "NoMacs", "Effect": "Deny", "Principal": "*", "Action": "kms:GetKeyRotationStatus", "Resource": "*"}
    ]);
    let policy = json!({"Version": "2012-10-17", "Statement": statements}).to_string();
    admin.call("PutKeyPolicy", json!({"KeyId": key, "Policy": policy})).expect("put the policy");
    let denied = admin.request_id("GetKeyRotationStatus", json!({"KeyId": key})).expect("an answer");
    let allowed = admin.request_id("DescribeKey", json!({"KeyId": key})).expect("an answer");

    let said = explain(&folder, &denied);
    assert!(said.contains("Statement NoMacs of the key policy denies it"), "{said}");
    assert!(said.contains("\"Effect\": \"Deny\""), "{said}");
    assert!(explain(&folder, &allowed).contains("It was allowed by KeyPolicy/Loose"));

    let mut lint = keytrail();
    lint.args(["policy", "lint", "--format", "json", "--data"]).arg(folder.path());
    let out = lint.output().unwrap();
    assert_eq!(out.status.code(), Some(1), "{}", text(&out.stderr));
    let found: Value = serde_json::from_slice(&out.stdout).unwrap();
    let of_key = found.as_array().unwrap().iter().find(|one| one["policy"] == key.as_str()).expect("the key is linted");
    let codes: Vec<&str> = of_key["findings"].as_array().unwrap().iter().filter_map(|f| f["code"].as_str()).collect();
    assert!(codes.contains(&"open-to-everyone") && codes.contains(&"all-actions"), "{codes:?}");

    up.stop();
    assert!(explain(&folder, &denied).contains("NoMacs"), "also when the node is stopped");
    let unknown = keytrail().args(["explain", "' OR 1=1 --", "--data"]).arg(folder.path()).output().unwrap();
    assert!(!unknown.status.success());
    let bad = keytrail().args(["policy", "lint"]).arg(folder.path().join("keytrail.toml")).output().unwrap();
    assert_eq!(bad.status.code(), Some(2));
}
