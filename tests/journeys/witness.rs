//! A signer in a process of its own and two witnesses: killed under load, rolled back, forked, away.

use crate::support::{Caller, Folder, Running, free_address, keytrail, text, wait_for};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;

/// A node's folder, a signer's and two witnesses', with a policy that wants both.
struct Place {
    node: Folder,
    temp: TempDir,
    addresses: [String; 2],
}

impl Place {
    /// The signer moved out, witnesses that have made their keys, the policy, and the node told of all of it.
    fn new(more: &str) -> (Self, Parts) {
        let place = Self {
            node: Folder::with_people(),
            temp: tempfile::tempdir().unwrap(),
            addresses: [free_address(), free_address()],
        };
        let mut moved = keytrail();
        moved.args(["signer", "move", "--data"]).arg(place.node.path()).arg("--dir").arg(place.signer_dir());
        let out = moved.output().unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
        assert!(!place.node.path().join("checkpoints/signer.key").exists());
        let parts = Parts { signer: Some(place.signer()), witnesses: [0, 1].map(|number| Some(place.witness(number))) };
        let log = std::fs::read_to_string(place.node.path().join("checkpoints/vkey")).unwrap();
        let mut policy = format!("log {log}");
        for (number, address) in place.addresses.iter().enumerate() {
            let vkey = parts.witnesses[number].as_ref().unwrap().field("vkey");
            policy += &format!("witness W{number} {vkey} http://{address}\n");
        }
        std::fs::write(place.policy(), policy + "group both all W0 W1\nquorum both\n").unwrap();
        let file = place.node.path().join("keytrail.toml");
        let config = std::fs::read_to_string(&file).unwrap()
            + &format!(
                "\n[signer]\nsocket = \"{}\"\n\n[quorum]\npolicy_file = \"{}\"\n{more}\n",
                place.socket().display(),
                place.policy().display()
            );
        std::fs::write(&file, config).unwrap();
        (place, parts)
    }

    fn signer_dir(&self) -> PathBuf {
        self.temp.path().join("signer")
    }

    fn socket(&self) -> PathBuf {
        self.temp.path().join("signer.sock")
    }

    fn policy(&self) -> PathBuf {
        self.temp.path().join("witnesses.policy")
    }

    fn witness_dir(&self, number: usize) -> PathBuf {
        self.temp.path().join(format!("witness-{number}"))
    }

    fn signer(&self) -> Running {
        let mut command = keytrail();
        command.args(["signer", "run", "--dir"]).arg(self.signer_dir()).arg("--socket").arg(self.socket());
        Running::start(&mut command)
    }

    fn witness(&self, number: usize) -> Running {
        let mut command = keytrail();
        command.args(["witness", "--listen", &self.addresses[number], "--dir"]).arg(self.witness_dir(number));
        command.arg("--log").arg(self.node.path().join("checkpoints/vkey"));
        Running::start(&mut command)
    }

    fn kms_on(&self, folder: &Path) -> Command {
        let mut command = keytrail();
        command.args(["kms", "--listen", "127.0.0.1:0", "--health", "127.0.0.1:0", "--data"]).arg(folder);
        command
    }

    fn kms(&self) -> Running {
        Running::start(&mut self.kms_on(self.node.path()))
    }

    fn admin(&self, kms: &Running) -> Caller {
        Caller::new(&kms.field("kms"), self.node.administrator())
    }

    /// `keytrail verify --policy`: its first line.
    fn verdict(&self, folder: &Path) -> String {
        let out = keytrail().arg("verify").arg(folder).arg("--policy").arg(self.policy()).output().unwrap();
        text(&out.stdout).lines().next().unwrap_or_default().to_owned()
    }
}

/// The processes beside the node.
struct Parts {
    signer: Option<Running>,
    witnesses: [Option<Running>; 2],
}

/// The value of a metric.
fn metric(kms: &Running, name: &str) -> f64 {
    let page = page(&kms.field("health"), "/metrics");
    let line = page.lines().find(|line| line.split_whitespace().next() == Some(name));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or_else(|| panic!("no {name} in {page}"))
}

/// The body of a page.
fn page(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("connect");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").expect("ask");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("read");
    answer.split_once("\r\n\r\n").expect("a body").1.to_owned()
}

/// SIGKILL, and gone.
fn kill(part: &mut Option<Running>) {
    let mut running = part.take().expect("it runs");
    running.signal("KILL");
    running.child.wait().expect("wait for the killed");
}

#[test]
fn signer_and_witness_may_die_under_load_and_the_log_is_covered_afterwards() {
    let (place, mut parts) = Place::new("");
    let kms = place.kms();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let admin = place.admin(&kms);
            let key = admin.create_key(json!([]));
            while !stop.load(Ordering::Acquire) {
                admin.encrypt(&key, &json!({}));
            }
        });
        let covered = || metric(&kms, "keytrail_log_cosigned_records");
        wait_for("the first cosigned checkpoint", || (covered() > 5.0).then_some(()));
        kill(&mut parts.signer);
        // Calls go on; checkpoints do not.
        wait_for("a checkpoint that is late", || (metric(&kms, "keytrail_log_unsigned_seconds") > 1.0).then_some(()));
        let before = metric(&kms, "keytrail_log_durable_records");
        wait_for("calls without a signer", || {
            (metric(&kms, "keytrail_log_durable_records") > before + 20.0).then_some(())
        });
        assert_eq!(page(&kms.field("health"), "/readyz"), "ok\n");
        parts.signer = Some(place.signer());
        let at = metric(&kms, "keytrail_log_durable_records");
        wait_for("the signer's checkpoint over that", || (covered() > at).then_some(()));
        kill(&mut parts.witnesses[0]);
        wait_for("an open window", || (metric(&kms, "keytrail_log_unwitnessed_seconds") > 1.0).then_some(()));
        parts.witnesses[0] = Some(place.witness(0));
        let at = metric(&kms, "keytrail_log_durable_records");
        wait_for("a quorum over that", || (covered() > at).then_some(()));
        stop.store(true, Ordering::Release);
    });
    kms.stop();
    place.node.assert_verified();
    assert_eq!(place.verdict(place.node.path()), "VERIFIED");
    // What is above the newest cosigned checkpoint does not count with a policy.
    kill(&mut parts.witnesses[1]);
    let kms = place.kms();
    place.admin(&kms).create_key(json!([]));
    kms.stop();
    place.node.assert_verified();
    assert!(place.verdict(place.node.path()).starts_with("VERIFIED-UP-TO seq "));
}

#[test]
fn a_folder_that_was_rolled_back_as_a_whole_is_refused_by_signer_and_by_witness() {
    let (place, mut parts) = Place::new("");
    let kms = place.kms();
    place.admin(&kms).create_key(json!([]));
    kms.stop();
    let old = place.node.copy();
    let signer_of_then = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-a").arg(place.signer_dir()).arg(signer_of_then.path()).status().unwrap();
    assert!(copied.success());
    let kms = place.kms();
    place.admin(&kms).create_key(json!([]));
    kms.stop();
    let refused = place.kms_on(old.path()).output().unwrap();
    assert!(!refused.status.success());
    assert!(text(&refused.stderr).contains("already signed for"), "{}", text(&refused.stderr));
    // Whoever rolls the signer's folder back with it has the witnesses against him.
    parts.signer.take().unwrap().stop();
    std::fs::remove_dir_all(place.signer_dir()).unwrap();
    let back = signer_of_then.path().join("signer");
    assert!(Command::new("cp").arg("-a").arg(back).arg(place.signer_dir()).status().unwrap().success());
    parts.signer = Some(place.signer());
    let refused = place.kms_on(old.path()).output().unwrap();
    assert!(!refused.status.success());
    assert!(text(&refused.stderr).contains("journal was rolled back"), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("witness W"), "{}", text(&refused.stderr));
    // Without witnesses at the start it starts, and is stopped when one is back.
    kill(&mut parts.witnesses[0]);
    kill(&mut parts.witnesses[1]);
    let mut forked = Running::start(&mut place.kms_on(old.path()));
    parts.witnesses[0] = Some(place.witness(0));
    let status = wait_for("the node to stop", || forked.child.try_wait().unwrap());
    assert!(!status.success(), "a fork went on");
}

#[test]
fn chosen_calls_are_answered_under_a_quorum_or_not_at_all() {
    let (place, mut parts) = Place::new("wait_for = [\"ScheduleKeyDeletion\"]\nwait_bound = \"2s\"");
    let kms = place.kms();
    let admin = place.admin(&kms);
    let key = admin.create_key(json!([]));
    let delete = json!({ "KeyId": key, "PendingWindowInDays": 7 });
    admin.call("ScheduleKeyDeletion", delete.clone()).unwrap();
    // The answer came: whatever is cosigned now covers the call's record.
    let covered = metric(&kms, "keytrail_log_cosigned_records");
    admin.call("CancelKeyDeletion", json!({ "KeyId": key })).unwrap();
    kill(&mut parts.witnesses[1]);
    assert_eq!(admin.call("ScheduleKeyDeletion", delete).unwrap_err(), "KMSInternalException");
    assert_eq!(metric(&kms, "keytrail_kms_unwitnessed_replies_total"), 1.0);
    // Decided all the same, and others are answered.
    assert_eq!(admin.key_state(&key), "PendingDeletion");
    parts.witnesses[1] = Some(place.witness(1));
    let durable = metric(&kms, "keytrail_log_durable_records");
    wait_for("the quorum", || (metric(&kms, "keytrail_log_cosigned_records") >= durable).then_some(()));
    kms.stop();
    let up = place.node.up(&[]);
    let scheduled = "SELECT seq, raw FROM events WHERE event_name = 'ScheduleKeyDeletion' ORDER BY seq";
    let rows = wait_for("both calls in the log", || Some(place.node.sql(scheduled)).filter(|rows| rows.len() == 2));
    assert!(rows[0]["seq"].as_f64().unwrap() < covered, "{rows:?}, covered {covered}");
    let late = rows[1]["seq"].as_u64().unwrap();
    let addenda = place.node.sql("SELECT raw FROM records WHERE kind = 6");
    // Payloads that are no events are shown in hex.
    let raw = hex::decode(addenda[0]["raw"].as_str().unwrap()).unwrap();
    assert!(text(&raw).contains(&format!("\"repliesNotSent\":[[{late},{late}]]")), "{}", text(&raw));
    up.stop();
    assert_eq!(place.verdict(place.node.path()), "VERIFIED");
    // A pack brings the node's policy along and is under a checkpoint that meets it: all that it lacks is the year 2100.
    let pack = place.temp.path().join("pack");
    let mut export = keytrail();
    export.args(["evidence", "export", "--from", "2026-01-01", "--to", "2100-01-01", "--data"]).arg(place.node.path());
    let out = export.arg("--out").arg(&pack).output().unwrap();
    assert!(out.status.success(), "{}{}", text(&out.stdout), text(&out.stderr));
    assert!(text(&out.stdout).contains("recorded    in the log, seq "), "{}", text(&out.stdout));
    let policy = std::fs::read_to_string(pack.join("data/policy")).unwrap();
    assert_eq!(policy, std::fs::read_to_string(place.policy()).unwrap());
    let verdict = place.verdict(&pack);
    assert!(verdict.starts_with("VERIFIED-UP-TO ") && verdict.contains("no record under the checkpoint"), "{verdict}");
}

#[test]
fn nodes_witness_each_other() {
    let (one, other) = (Folder::with_people(), Folder::with_people());
    let append = |folder: &Folder, section: String| {
        let file = folder.path().join("keytrail.toml");
        std::fs::write(&file, std::fs::read_to_string(&file).unwrap() + &section).unwrap();
    };
    let listen = free_address();
    let watched = one.path().join("checkpoints/vkey");
    append(
        &other,
        format!("\n[witness]\nlisten = \"{listen}\"\nname = \"peer\"\nlogs = [\"{}\"]\n", watched.display()),
    );
    let start = |folder: &Folder| {
        let mut command = keytrail();
        command.args(["kms", "--listen", "127.0.0.1:0", "--health", "127.0.0.1:0", "--data"]).arg(folder.path());
        Running::start(&mut command)
    };
    let peer = start(&other);
    assert_eq!(peer.field("witness"), listen);
    let vkey = std::fs::read_to_string(other.path().join("witness/vkey")).unwrap();
    let policy = one.path().join("policy");
    std::fs::write(&policy, format!("witness peer {} http://{listen}/witness\nquorum peer\n", vkey.trim())).unwrap();
    append(&one, format!("\n[quorum]\npolicy_file = \"{}\"\n", policy.display()));
    let kms = start(&one);
    Caller::new(&kms.field("kms"), one.administrator()).create_key(json!([]));
    let durable = metric(&kms, "keytrail_log_durable_records");
    wait_for("the peer's cosignature", || (metric(&kms, "keytrail_log_cosigned_records") >= durable).then_some(()));
    kms.stop();
    peer.stop();
    let out = keytrail().arg("verify").arg(one.path()).arg("--policy").arg(&policy).output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stdout));
    assert!(text(&out.stdout).contains("peer at "), "{}", text(&out.stdout));
}

#[test]
fn a_backup_of_a_node_without_a_key_carries_the_signers_note() {
    let (place, _parts) = Place::new("");
    let kms = place.kms();
    place.admin(&kms).create_key(json!([]));
    let set = place.temp.path().join("set");
    let mut backup = keytrail();
    backup.args(["backup", "--data"]).arg(place.node.path()).arg("--out").arg(&set);
    let out = backup.output().unwrap();
    assert!(out.status.success(), "{}{}", text(&out.stdout), text(&out.stderr));
    assert!(!set.join("checkpoints/signer.key").exists());
    let verified = keytrail().arg("verify").arg(&set).output().unwrap();
    assert!(text(&verified.stdout).starts_with("VERIFIED\n"), "{}", text(&verified.stdout));
    kms.stop();
}
