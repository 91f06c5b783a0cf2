//! The administrator's questions about policies: what is wrong with them, and why a call was denied.

use crate::support::{ACCOUNT, Caller, Folder, keytrail, text};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Output;

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
    let of_a_user = keytrail().args(["policy", "lint", "examples/policies/key-user.json"]).output().unwrap();
    assert!(String::from_utf8_lossy(&of_a_user.stderr).contains("--kind identity"), "{of_a_user:?}");
}

/// `keytrail policy ... --data FOLDER`.
fn policy(folder: &Folder, arguments: &[&str]) -> Output {
    keytrail().arg("policy").args(arguments).arg("--data").arg(folder.path()).output().unwrap()
}

fn json_of(out: &Output) -> Value {
    serde_json::from_slice(&out.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&out.stderr)))
}

fn replayed(folder: &Folder, file: &Path, more: &[&str]) -> (Option<i32>, Value) {
    let out = policy(folder, &[&["replay", file.to_str().unwrap(), "--json"], more].concat());
    (out.status.code(), json_of(&out))
}

#[test]
fn a_policy_is_generated_tried_and_put_without_stopping_anyone() {
    let folder = Folder::with_people();
    let up = folder.up(&[]);
    let admin = Caller::new(&up.field("kms"), folder.administrator());
    let app = Caller::person(&up.field("kms"), "app");
    let key = admin.create_key(json!([]));
    admin.call("CreateAlias", json!({"AliasName": "alias/orders", "TargetKeyId": key})).expect("make an alias");
    for tenant in 0..5 {
        let context = json!({"tenant": tenant.to_string(), "purpose": "orders"});
        let blob = app.encrypt(&key, &context);
        app.decrypt(&blob, &context).expect("the application decrypts");
    }
    folder.assert_reproduced();

    let out = policy(&folder, &["generate", "--key", "alias/orders"]);
    assert_eq!(out.status.code(), Some(0), "{}{}", text(&out.stdout), text(&out.stderr));
    let generated = text(&out.stdout);
    assert!(generated.contains("kms:EncryptionContext:purpose") && !generated.contains("kms:Sign"), "{generated}");
    let file = folder.path().join("generated.json");
    std::fs::write(&file, &generated).unwrap();
    let (code, same) = replayed(&folder, &file, &["--key", &key]);
    assert_eq!((code, &same["denied"], &same["untold"]), (Some(0), &json!(0), &json!(0)), "{same}");
    assert!(same["calls"].as_u64().unwrap() >= 11, "{same}");

    // A policy that would stop the application is found before it is put.
    let app_arn = format!("arn:aws:iam::{ACCOUNT}:user/app");
    let decrypt_only =
        json!({"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "kms:Decrypt", "Resource": "*"}});
    let narrow = folder.path().join("narrow.json");
    std::fs::write(&narrow, decrypt_only.to_string()).unwrap();
    let (code, found) = replayed(&folder, &narrow, &["--identity", &app_arn, "--days", "1"]);
    assert_eq!((code, &found["denied"]), (Some(1), &json!(5)), "{found}");
    assert_eq!(found["groups"][0]["operation"], "Encrypt");
    assert!(explain(&folder, found["groups"][0]["requestId"].as_str().unwrap()).contains("It was allowed"));
    let (code, nobody) = replayed(&folder, &narrow, &["--identity", &app_arn, "--to", "2020-01-01"]);
    assert_eq!((code, &nobody["calls"]), (Some(0), &json!(0)), "{nobody}");

    let able = |at: &[&str]| -> Vec<String> {
        let out =
            policy(&folder, &[&["who-can", "--action", "kms:Encrypt", "--key", "alias/orders", "--json"], at].concat());
        assert!(out.status.success(), "{}", text(&out.stderr));
        json_of(&out).as_array().unwrap().iter().map(|right| right["principal"].as_str().unwrap().to_owned()).collect()
    };
    let insider = format!("arn:aws:iam::{ACCOUNT}:user/insider");
    assert!(able(&[]).contains(&app_arn) && able(&[]).contains(&insider), "{:?}", able(&[]));
    let before = now();
    admin.call("PutKeyPolicy", json!({"KeyId": key, "Policy": generated})).expect("put the generated policy");
    app.encrypt(&key, &json!({"tenant": "9", "purpose": "orders"}));
    assert!(able(&[]).contains(&app_arn) && !able(&[]).contains(&insider), "{:?}", able(&[]));
    assert!(able(&["--at", &before]).contains(&insider), "as it was before");
    up.stop();
    // From the files that were sealed at the stop.
    folder.assert_reproduced();
    let (code, same) = replayed(&folder, &file, &["--key", &key]);
    assert_eq!((code, &same["denied"]), (Some(0), &json!(0)), "{same}");
    assert!(same["calls"].as_u64().unwrap() >= 13, "{same}");
    let out = policy(&folder, &["lint"]);
    assert_eq!(out.status.code(), Some(1), "{}", text(&out.stderr));
    assert!(text(&out.stdout).contains("all-actions"), "the insider's policy: {}", text(&out.stdout));

    let bad = |arguments: &[&str]| policy(&folder, arguments).status.code();
    assert_eq!(bad(&["replay", file.to_str().unwrap()]), Some(2), "whose policy is it?");
    assert_eq!(bad(&["replay", "--key", &key]), Some(2), "which policy?");
    assert_eq!(bad(&["replay", folder.path().join("keytrail.toml").to_str().unwrap(), "--key", &key]), Some(2));
    assert_eq!(bad(&["replay", file.to_str().unwrap(), "--key", "alias/none"]), Some(2));
    assert_eq!(bad(&["who-can", "--action", "kms:Steal"]), Some(2));
    assert_eq!(bad(&["generate", "--identity", "arn:aws:iam::123456789012:group/all"]), Some(2));
}

/// The time by this machine's clock, to the microsecond.
fn now() -> String {
    let time = std::process::Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%S.%6NZ"]).output().expect("run date");
    text(&time.stdout).trim().to_owned()
}
