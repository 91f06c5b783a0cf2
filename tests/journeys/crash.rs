//! kill -9 between each pair of steps, and a restart: every acknowledged call has exactly one event, nothing twice,
//! `verify` passes, and the log replayed by seq explains every decision.

use crate::support::{ACCOUNT, Caller, Folder, Running, child, keytrail, signal, wait_for};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where the process aborts, and after how many passes: early ones are start-up's own records.
const POINTS: &[(&str, u32)] = &[
    ("kms::after_store_commit", 6),
    ("kms::after_append", 40),
    ("kms::before_reply", 40),
    ("kms::before_row_delete", 4),
    ("journal::before_write", 25),
    ("journal::after_write", 25),
    ("journal::before_fdatasync", 25),
    ("journal::after_fdatasync", 25),
    ("journal::before_head", 25),
    // Once a second, when 256 more records are durable.
    ("tiles::before_sync", 1),
    ("tiles::after_sync", 1),
];

fn kms(folder: &Folder, fail_points: &str, more: &[&str]) -> Running {
    let mut command = keytrail();
    command.args(["kms", "--listen", "127.0.0.1:0", "--data"]).arg(folder.path()).args(more);
    Running::start(command.env("FAILPOINTS", fail_points))
}

/// Runs the key service under load until it aborts at the point's pass number `passes`; gives the request ids of all
/// calls that were answered.
pub(crate) fn crash_at(folder: &Folder, point: &str, passes: u32, more: &[&str]) -> Vec<String> {
    let acknowledged = Acknowledged::default();
    let mut first = kms(folder, &format!("{point}={passes}*off->return"), more);
    load_until_crash(&first.field("kms"), folder, &acknowledged);
    let status = first.child.wait().expect("wait for the crash");
    assert!(!status.success(), "{point}: the process ended in order");
    acknowledged.0.into_inner().unwrap()
}

/// Request ids of calls that were answered, whether allowed or refused.
#[derive(Default)]
struct Acknowledged(Mutex<Vec<String>>);

/// Sends calls from several people at once until the service is gone.
fn load_until_crash(endpoint: &str, folder: &Folder, acknowledged: &Acknowledged) {
    let admin = Caller::new(endpoint, folder.administrator());
    let key = admin.create_key(json!([]));
    let context = json!({ "tenant": "1" });
    let blob = admin.encrypt(&key, &context);
    let gone = AtomicBool::new(false);
    let app_arn = format!("arn:aws:iam::{ACCOUNT}:user/app");
    std::thread::scope(|scope| {
        let run = |who: &str, calls: Vec<(&'static str, Value)>| {
            let caller = match who {
                "admin" => Caller::new(endpoint, folder.administrator()),
                "responder" => Caller::new(endpoint, folder.profile("service-credentials", "responder")),
                person => Caller::person(endpoint, person),
            };
            let (gone, acknowledged) = (&gone, acknowledged);
            scope.spawn(move || {
                for (operation, body) in calls.iter().cycle() {
                    if gone.load(Ordering::Relaxed) {
                        return;
                    }
                    match caller.request_id(operation, body.clone()) {
                        Some(id) => acknowledged.0.lock().unwrap().push(id),
                        None => gone.store(true, Ordering::Relaxed),
                    }
                }
            });
        };
        let decrypt = ("Decrypt", json!({ "CiphertextBlob": blob, "EncryptionContext": context }));
        run("app", vec![decrypt.clone()]);
        run("admin", vec![decrypt]);
        run("admin", vec![("DisableKey", json!({ "KeyId": key })), ("EnableKey", json!({ "KeyId": key }))]);
        run(
            "responder",
            vec![
                (
                    "KeytrailService.PutQuarantine",
                    json!({ "PrincipalArn": app_arn, "TtlSeconds": 600, "Reason": "crash journey" }),
                ),
                ("KeytrailService.LiftQuarantine", json!({ "PrincipalArn": app_arn })),
            ],
        );
    });
}

/// The plain model: walks the log by seq and says whether each recorded decision follows from what came before.
fn assert_log_explains_itself(rows: &[Value]) {
    let mut states: HashMap<String, String> = HashMap::new();
    let mut quarantined: HashSet<String> = HashSet::new();
    for row in rows {
        let seq = &row["seq"];
        let name = row["event_name"].as_str().unwrap();
        let failed = row["error_code"].as_str();
        let who = row["principal_arn"].as_str().unwrap_or_default();
        let key = row["key_arn"].as_str().unwrap_or_default();
        let state = states.get(key).map(String::as_str);
        match (name, failed) {
            ("Decrypt", None) => {
                assert_eq!(state, Some("Enabled"), "seq {seq}: decrypted with a key that was {state:?}");
                assert!(!quarantined.contains(who), "seq {seq}: {who} decrypted while quarantined");
            }
            ("Decrypt", Some("DisabledException")) => {
                assert_eq!(state, Some("Disabled"), "seq {seq}: refused as disabled while {state:?}");
            }
            ("Decrypt", Some("AccessDenied")) => {
                assert!(quarantined.contains(who), "seq {seq}: {who} was refused without a quarantine");
            }
            ("PutQuarantine", None) => {
                quarantined.insert(format!("arn:aws:iam::{ACCOUNT}:user/app"));
            }
            ("LiftQuarantine", None) => quarantined.clear(),
            _ => {}
        }
        if let Some(after) = row["key_state_after"].as_str() {
            states.insert(key.to_owned(), after.to_owned());
        }
    }
}

/// Every acknowledged call has exactly one event, nothing is there twice, and the log explains its decisions.
pub(crate) fn assert_recorded_once(folder: &Folder, point: &str, acknowledged: &[String]) {
    let rows = folder.sql(
        "SELECT seq, event_name, error_code, principal_arn, key_arn, key_state_after, request_id, event_id \
         FROM events ORDER BY seq",
    );
    let mut seen: HashMap<&str, u32> = HashMap::new();
    for id in rows.iter().filter_map(|row| row["request_id"].as_str()) {
        *seen.entry(id).or_default() += 1;
    }
    assert!(!acknowledged.is_empty(), "{point}: nothing was acknowledged before the crash");
    for id in acknowledged {
        assert_eq!(seen.get(id.as_str()), Some(&1), "{point}: events of acknowledged request {id}");
    }
    assert!(seen.values().all(|count| *count == 1), "{point}: a request has two events");
    assert_log_explains_itself(&rows);
}

#[test]
fn a_crash_at_any_step_loses_and_doubles_nothing() {
    for (point, passes) in POINTS {
        let folder = Folder::with_people();
        let acknowledged = crash_at(&folder, point, *passes, &[]);
        let second = kms(&folder, "", &[]);
        let admin = Caller::new(&second.field("kms"), folder.administrator());
        admin.call("ListKeys", json!({})).expect("service is back");
        second.stop();
        folder.assert_verified();
        assert_recorded_once(&folder, point, &acknowledged);
    }
}

/// A query that ends the trail can be asked again and again.
#[test]
fn a_trail_that_keeps_ending_does_not_stop_the_key_service() {
    let folder = Folder::with_people();
    let up = folder.up(&[]);
    let admin = Caller::new(&up.field("kms"), folder.administrator());
    let key = admin.create_key(json!([]));
    let mut last = 0;
    for _ in 0..7 {
        last = wait_for("the next trail", || child(up.child.id(), "trail").filter(|pid| *pid != last));
        signal(last, "KILL");
    }
    let context = json!({ "tenant": "1" });
    assert!(admin.decrypt(&admin.encrypt(&key, &context), &context).is_ok());
    let landed =
        || (folder.sql("SELECT count(*) AS n FROM events WHERE event_name = 'Decrypt'")[0]["n"] == 1).then_some(());
    wait_for("the call to be in the log", landed);
    up.stop();
}
