//! `keytrail backup` beside a service at work, `keytrail restore` on an empty folder, and what each refuses.

use crate::support::{Caller, Folder, Running, keytrail, text, wait_for};
use serde_json::json;
use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

fn backup(folder: &Folder, out: &Path, more: &[&str]) -> Output {
    keytrail().args(["backup", "--data"]).arg(folder.path()).arg("--out").arg(out).args(more).output().unwrap()
}

fn restore(set: &Path, to: &Path, more: &[&str]) -> Output {
    keytrail().args(["restore", "--from"]).arg(set).arg("--data").arg(to).args(more).output().unwrap()
}

#[test]
fn a_set_taken_under_load_becomes_a_service_that_opens_what_was_encrypted() {
    let folder = Folder::with_people();
    let file = folder.path().join("keytrail.toml");
    // Files in the lake while the test runs.
    let config = std::fs::read_to_string(&file).unwrap().replace("seal_after = \"15m\"", "seal_after = \"1s\"");
    assert!(config.contains("seal_after = \"1s\""), "{config}");
    std::fs::write(&file, config).unwrap();
    let up = folder.up(&[]);
    let endpoint = up.field("kms");
    let admin = Caller::new(&endpoint, folder.administrator());
    let (context, key, doomed) = (json!({"tenant": "7"}), admin.create_key(json!([])), admin.create_key(json!([])));
    let blob = admin.encrypt(&key, &context);
    admin.call("ScheduleKeyDeletion", json!({ "KeyId": doomed, "PendingWindowInDays": 7 })).unwrap();
    let (stop, made) = (AtomicBool::new(false), AtomicUsize::new(0));
    let sets = tempfile::tempdir().unwrap();
    let set = sets.path().join("set");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let admin = Caller::new(&endpoint, folder.administrator());
            while !stop.load(Ordering::Acquire) {
                match admin.call("CreateKey", json!({})) {
                    Ok(_) => _ = made.fetch_add(1, Ordering::AcqRel),
                    // Beyond the account's quota on a quick machine.
                    Err(code) => assert_eq!(code, "ThrottlingException"),
                }
            }
        });
        let lake = folder.path().join("lake/commits");
        wait_for("keys and a commit of the lake", || {
            let sealed = std::fs::read_dir(&lake).is_ok_and(|logs| logs.count() > 0);
            (sealed && made.load(Ordering::Acquire) > 20).then_some(())
        });
        let out = backup(&folder, &set, &["--with-root-key"]);
        stop.store(true, Ordering::Release);
        assert!(out.status.success(), "{}{}", text(&out.stdout), text(&out.stderr));
        assert!(text(&out.stdout).contains("minutes"), "{}", text(&out.stdout));
    });
    let again = backup(&folder, &set, &[]);
    assert!(text(&again.stderr).contains("is not empty"), "{}", text(&again.stderr));
    admin.call("ScheduleKeyDeletion", json!({ "KeyId": key, "PendingWindowInDays": 7 })).unwrap();
    up.stop();

    let target = Folder::empty();
    let newest = folder.path().join("checkpoints/latest");
    let old = restore(&set, target.path(), &["--newer-than", newest.to_str().unwrap()]);
    assert!(!old.status.success() && text(&old.stderr).contains("too old"), "{}", text(&old.stderr));
    let unasked = restore(&set, target.path(), &[]);
    assert!(text(&unasked.stderr).contains("--without-checkpoint"), "{}", text(&unasked.stderr));

    let target = Folder::empty();
    let own = set.join("checkpoints/latest");
    let out = restore(&set, target.path(), &["--newer-than", own.to_str().unwrap()]);
    assert!(out.status.success(), "{}{}", text(&out.stdout), text(&out.stderr));
    target.assert_verified();
    let mut command = keytrail();
    command.args(["up", "--listen", "127.0.0.1:0", "--data"]).arg(target.path());
    let up = Running::start(&mut command);
    let admin = Caller::new(&up.field("kms"), target.administrator());
    assert_eq!(admin.decrypt(&blob, &context).unwrap()["Plaintext"], "aGVsbG8=");
    assert_eq!(admin.key_state(&doomed), "PendingDeletion");
    let created = "SELECT count(*) AS n FROM events WHERE event_name = 'CreateKey'";
    let before = target.sql(created)[0]["n"].as_i64().unwrap();
    admin.create_key(json!([]));
    wait_for("the trail to go on", || (target.sql(created)[0]["n"].as_i64() == Some(before + 1)).then_some(()));
    let strays = target.sql_output("SELECT 1 AS n");
    assert_eq!(text(&strays.stderr), "", "the lake of the set is whole");
    up.stop();
    target.assert_verified();

    std::fs::write(set.join("identities.toml"), "").unwrap();
    let damaged = restore(&set, Folder::empty().path(), &["--without-checkpoint"]);
    assert!(text(&damaged.stderr).contains("set is damaged"), "{}", text(&damaged.stderr));
}

#[test]
fn a_root_key_under_a_passphrase_is_asked_for_and_goes_along() {
    let folder = Folder::with_people();
    let phrase = |name: &str, words: &str| {
        use std::os::unix::fs::OpenOptionsExt;
        let path = folder.path().join(name);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).unwrap();
        std::io::Write::write_all(&mut file, words.as_bytes()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (right, wrong) = (phrase("right", "correct horse battery\n"), phrase("wrong", "incorrect horse battery\n"));
    let reseal =
        |more: &[&str]| keytrail().args(["rootkey", "reseal", "--data"]).arg(folder.path()).args(more).output();
    let up = folder.up(&[]);
    let admin = Caller::new(&up.field("kms"), folder.administrator());
    let key = admin.create_key(json!([]));
    let blob = admin.encrypt(&key, &json!({}));
    let out = reseal(&["--seal", "passphrase", "--new-passphrase-file", &right]).unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    let logged = "SELECT raw FROM events WHERE event_name = 'ResealRootKey'";
    wait_for("the change of the seal in the log", || (folder.sql(logged).len() == 1).then_some(()));
    up.stop();
    let status = keytrail().args(["rootkey", "status", "--data"]).arg(folder.path()).output().unwrap();
    assert!(text(&status.stdout).contains("Argon2id, 256 MiB"), "{}", text(&status.stdout));
    for (flags, found) in [(&[][..], "passphrase"), (&["--passphrase-file", &wrong], "wrong passphrase")] {
        let mut command = keytrail();
        command.args(["kms", "--listen", "127.0.0.1:0", "--data"]).arg(folder.path()).args(flags);
        let out = command.stdin(std::process::Stdio::null()).output().unwrap();
        assert!(!out.status.success() && text(&out.stderr).contains(found), "{}", text(&out.stderr));
    }
    let up = folder.up(&["--passphrase-file", &right]);
    let admin = Caller::new(&up.field("kms"), folder.administrator());
    assert_eq!(admin.decrypt(&blob, &json!({})).unwrap()["Plaintext"], "aGVsbG8=");
    let sets = tempfile::tempdir().unwrap();
    let out = backup(&folder, &sets.path().join("set"), &[]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(sets.path().join("set/root.key").exists(), "a sealed root key goes along");
    up.stop();
    // Killed between writing the new file and putting it in place: the old one is in force.
    let next = phrase("next", "another horse battery\n");
    let change = ["--seal", "passphrase", "--passphrase-file", &right, "--new-passphrase-file", &next];
    let mut killed = keytrail();
    killed.args(["rootkey", "reseal", "--data"]).arg(folder.path()).args(change);
    let killed = killed.env("FAILPOINTS", "kms::before_reseal_rename=return").output().unwrap();
    assert!(!killed.status.success() && folder.path().join("root.key.new").exists());
    let refused = reseal(&["--seal", "file", "--passphrase-file", &next]).unwrap();
    assert!(text(&refused.stderr).contains("wrong passphrase"), "{}", text(&refused.stderr));
    assert!(reseal(&change).unwrap().status.success(), "the change can be made again");
    let refused = reseal(&["--seal", "file", "--passphrase-file", &wrong]).unwrap();
    assert!(text(&refused.stderr).contains("wrong passphrase"), "{}", text(&refused.stderr));
}
