//! Evidence packs of a real service: exported while it runs and when it is stopped, checked by `keytrail verify` and by
//! `sha256sum`, damaged, withheld in part.

use crate::support::{Caller, Folder, keytrail, text, wait_for};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

struct Stage {
    folder: Folder,
    packs: Folder,
}

impl Stage {
    fn export(&self, from: &str, to: &str, name: &str, more: &[&str]) -> PathBuf {
        let out = self.packs.path().join(name);
        let mut command = keytrail();
        command.args(["evidence", "export", "--from", from, "--to", to, "--data"]).arg(self.folder.path());
        let done = command.arg("--out").arg(&out).args(more).output().unwrap();
        assert!(done.status.success(), "export: {}{}", text(&done.stdout), text(&done.stderr));
        out
    }

    /// The time of the newest record, as the log writes it.
    fn newest(&self) -> String {
        let rows = self.folder.sql("SELECT CAST(max(event_time) AS VARCHAR) AS t FROM records");
        rows[0]["t"].as_str().unwrap().replace(' ', "T")
    }

    /// Waits until a checkpoint covers all records of now.
    fn covered(&self) {
        let rows = self.folder.sql("SELECT max(seq) AS seq FROM records");
        let wanted = rows[0]["seq"].as_u64().unwrap();
        wait_for("a checkpoint", || {
            let note = std::fs::read_to_string(self.folder.path().join("checkpoints/latest")).ok()?;
            let size: u64 = note.lines().nth(1)?.parse().ok()?;
            (size > wanted).then_some(())
        });
    }
}

fn verify(pack: &Path, more: &[&str]) -> Output {
    keytrail().arg("verify").arg(pack).args(more).output().unwrap()
}

fn assert_verdict(pack: &Path, more: &[&str], code: i32, says: &str) {
    let out = verify(pack, more);
    assert_eq!(out.status.code(), Some(code), "{}{}", text(&out.stdout), text(&out.stderr));
    assert!(text(&out.stdout).starts_with(says), "{}", text(&out.stdout));
}

fn file(pack: &Path, ending: &str) -> PathBuf {
    let out = Command::new("find").arg(pack).args(["-name", &format!("*{ending}"), "-type", "f"]).output().unwrap();
    PathBuf::from(text(&out.stdout).lines().next().unwrap_or_else(|| panic!("no {ending}")))
}

#[test]
fn a_period_becomes_a_pack_that_anyone_can_check() {
    let stage = Stage { folder: Folder::with_people(), packs: Folder::empty() };
    let up = stage.folder.up(&[]);
    let admin = Caller::new(&up.field("kms"), stage.folder.administrator());
    let key = admin.create_key(json!([]));
    let blob = admin.encrypt(&key, &json!({ "patient": "canary-4711" }));
    for _ in 0..5 {
        admin.decrypt(&blob, &json!({ "patient": "canary-4711" })).unwrap();
    }
    assert!(admin.decrypt(&blob, &json!({ "patient": "another" })).is_err());
    admin.call("KeytrailService.GetCheckpoint", json!({})).unwrap();
    // A period ends before the time that it ends with.
    admin.key_state(&key);
    let end = stage.newest();
    admin.key_state(&key);
    stage.covered();
    let vkey = stage.folder.path().join("checkpoints/vkey");
    let vkey = vkey.to_str().unwrap();

    // Beside the running service, the whole period.
    let pack = stage.export("2026-01-01", &end, "pack", &["--nonce", "auditor", "--ocsf"]);
    assert_verdict(&pack, &["--vkey", vkey], 0, "VERIFIED\n");
    for list in ["manifest-sha256.txt", "tagmanifest-sha256.txt"] {
        let sums =
            Command::new("sha256sum").args(["--quiet", "--strict", "-c", list]).current_dir(&pack).output().unwrap();
        assert!(sums.status.success(), "{}{}", text(&sums.stdout), text(&sums.stderr));
    }
    let access = std::fs::read_to_string(pack.join("data/access.jsonl")).unwrap();
    let reads: Vec<Value> = access.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(reads.iter().any(|read| read["eventName"] == "GetCheckpoint"), "{access}");

    // A head that the auditor kept.
    let head = pack.join(format!("data/logs/{}/checkpoint", log_of(&pack)));
    assert_verdict(&pack, &["--vkey", vkey, "--head", head.to_str().unwrap()], 0, "VERIFIED\n");

    // The end of the period is not there yet.
    let open = stage.export("2026-01-01", "2100-01-01", "open.tar", &[]);
    assert_verdict(&open, &["--vkey", vkey], 2, "VERIFIED-UP-TO log ");

    // Part of it withheld, with the service stopped.
    drop(admin);
    up.stop();
    let condition = "enc_context LIKE '%canary%'";
    let redacted = stage.export("2026-01-01", &end, "redacted", &["--redact", condition, "--reason", "patients"]);
    assert_verdict(&redacted, &["--vkey", vkey], 0, "VERIFIED\n");
    let manifest: Value = serde_json::from_slice(&std::fs::read(redacted.join("data/manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["logs"][0]["withheld"], 6, "an Encrypt and five Decrypts");
    let zipped = file(&redacted, "leaves.gz");
    for path in [zipped, file(&redacted, "00.json.gz")] {
        let plain = Command::new("zcat").arg(&path).output().unwrap();
        assert!(plain.status.success() && !text(&plain.stdout).contains("canary-4711"), "{}", path.display());
    }

    // One byte.
    let parquet = file(&pack, ".parquet");
    let mut bytes = std::fs::read(&parquet).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&parquet, bytes).unwrap();
    assert_verdict(&pack, &["--vkey", vkey], 1, "FAILED data/parquet/");

    // Nothing is left behind, and a pack is never written over.
    let names: Vec<String> = std::fs::read_dir(stage.packs.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.len(), 3, "{names:?}");
    let again = keytrail()
        .args(["evidence", "export", "--from", "2026-01-01", "--to", "2100-01-01", "--data"])
        .arg(stage.folder.path())
        .arg("--out")
        .arg(&open)
        .output()
        .unwrap();
    assert!(!again.status.success() && text(&again.stderr).contains("exists already"), "{}", text(&again.stderr));
}

fn log_of(pack: &Path) -> String {
    let manifest: Value = serde_json::from_slice(&std::fs::read(pack.join("data/manifest.json")).unwrap()).unwrap();
    manifest["logs"][0]["log"].as_str().unwrap().to_owned()
}
