//! The auditor's pack: exported beside a running service with each set of controls, computed again, and found out when
//! someone changed an answer.

use crate::support::{Caller, Folder, keytrail, text};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Output;

fn export(folder: &Folder, pack: &Path, more: &[&str]) -> Output {
    let mut command = keytrail();
    command.args(["evidence", "export", "--data"]).arg(folder.path());
    command.args(["--from", "2020-01-01", "--to", "2100-01-01"]).args(more).arg("--out").arg(pack);
    command.output().unwrap()
}

fn rerun(pack: &Path) -> (Option<i32>, String) {
    let out = keytrail().args(["evidence", "rerun"]).arg(pack).output().unwrap();
    (out.status.code(), text(&out.stdout) + &text(&out.stderr))
}

fn results(pack: &Path) -> Vec<Value> {
    let bytes = std::fs::read(pack.join("data/controls/results.json")).unwrap();
    let results: Value = serde_json::from_slice(&bytes).unwrap();
    results["results"].as_array().unwrap().clone()
}

#[test]
fn each_set_of_controls_is_answered_and_its_answers_are_checked_again() {
    let folder = Folder::with_people();
    let up = folder.up(&[]);
    let admin = Caller::new(&up.field("kms"), folder.administrator());
    let app = Caller::person(&up.field("kms"), "app");
    let key = admin.create_key(json!([{"TagKey": "data", "TagValue": "ephi"}]));
    let blob = app.encrypt(&key, &json!({"tenant": "1"}));
    app.decrypt(&blob, &json!({"tenant": "1"})).expect("the application decrypts");
    let open = json!({"Version": "2012-10-17", "Statement": [
        {"Sid": "All", "Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}]});
    admin.call("PutKeyPolicy", json!({"KeyId": key, "Policy": open.to_string()})).expect("open the key to everyone");
    up.stop();

    let bad = export(&folder, &folder.path().join("bad"), &["--control-set", "sox"]);
    assert_eq!(bad.status.code(), Some(2), "{}", text(&bad.stderr));
    for set in ["hipaa", "iso27001", "nist-800-53", "pci-dss-4", "soc2"] {
        let pack = folder.path().join(format!("pack-{set}"));
        let out = export(&folder, &pack, &["--control-set", set]);
        assert!(out.status.success(), "{set}: {}", text(&out.stderr));
        let (code, said) = rerun(&pack);
        assert_eq!(code, Some(0), "{set}: {said}");
        assert!(said.contains("EQUAL"), "{said}");
        let statement = std::fs::read_to_string(pack.join("data/statement.html")).unwrap();
        for result in results(&pack) {
            assert!(statement.contains(result["id"].as_str().unwrap()), "{set}: {result}");
        }
    }
    // What was done above has to be in the answers.
    let answer = |set: &str, id: &str| {
        let all = results(&folder.path().join(format!("pack-{set}")));
        all.into_iter().find(|result| result["id"] == id).unwrap_or_else(|| panic!("{set} {id}"))
    };
    let changes = answer("soc2", "CC6.3");
    assert_eq!(changes["verdict"], "exceptions", "{changes}");
    assert!(changes["named"][0].as_str().unwrap().contains("lets anyone in"), "{changes}");
    let access = answer("nist-800-53", "AC-6");
    assert!(
        access["named"].as_array().unwrap().iter().any(|why| why.as_str().unwrap().contains("everyone may")),
        "{access}"
    );
    assert_eq!(answer("hipaa", "164.312-a-2-iv")["verdict"], "cannot be shown", "nobody is approved");
    assert_eq!(answer("pci-dss-4", "3.7.1")["verdict"], "met");
    assert_eq!(answer("pci-dss-4", "3.7.5")["verdict"], "cannot be shown", "no key was destroyed");

    let pack = folder.path().join("pack-soc2");
    let csv = pack.join("data/controls/CC6.3.csv");
    let rows = std::fs::read_to_string(&csv).unwrap();
    std::fs::write(&csv, rows.replace("exception,", "ok,")).unwrap();
    let (code, said) = rerun(&pack);
    assert_eq!(code, Some(1));
    assert!(said.contains("DIFFERS controls/CC6.3.csv") && !said.contains("CC6.1.csv"), "{said}");
    std::fs::write(&csv, rows).unwrap();
    let file = pack.join("data/controls/results.json");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replacen("\"exceptions\"", "\"met\"", 1)).unwrap();
    let (code, said) = rerun(&pack);
    assert_eq!(code, Some(1));
    assert!(said.contains("DIFFERS controls/results.json"), "{said}");
}
