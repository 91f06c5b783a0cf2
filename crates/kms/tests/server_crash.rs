//! Kills a real node between each pair of steps of a call, with changes, uses and quarantines under way, then starts
//! it again and asks: does the log explain everything, and does it hold each acknowledged call once?
//!
//! The child is this test binary again, running one ignored test that serves and calls itself over HTTP.

#![cfg(all(feature = "testing", feature = "server"))]
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use fail::FailScenario;
use keytrail_kms::auth::credentials::Credentials;
use keytrail_kms::chain::{Kind, Leaf};
use keytrail_kms::client::{Client, ClientError};
use keytrail_kms::clock::SystemClock;
use keytrail_kms::event::AuditEvent;
use keytrail_kms::init::{InitOptions, init_folder};
use keytrail_kms::journal::{JournalOptions, Reader};
use keytrail_kms::service::{Kms, KmsConfig, RunningKms};
use keytrail_kms::verify::{Verdict, verify_folder};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

const DIR_VARIABLE: &str = "KEYTRAIL_SERVER_CRASH_DIR";
const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;
const ADMINISTRATOR: &str = "arn:aws:iam::123456789012:user/administrator";
const REGION: &str = "eu-central-1";
/// Where the related key of a multi-Region key is.
const OTHER_REGION: &str = "us-east-1";
const KEYS: usize = 3;

async fn start(dir: &Path) -> RunningKms {
    let mut config = KmsConfig::new(dir, "127.0.0.1:0".parse().unwrap());
    config.journal = JournalOptions { segment_bytes: 2 * 1024 * 1024, ..JournalOptions::default() };
    config.regions = vec![REGION.into(), OTHER_REGION.into()];
    Kms::start(config, Arc::new(SystemClock)).await.unwrap()
}

fn client(dir: &Path, kms: &RunningKms, file: &str, profile: &str) -> Client {
    client_in(REGION, dir, kms, (file, profile))
}

fn client_in(region: &str, dir: &Path, kms: &RunningKms, (file, profile): (&str, &str)) -> Client {
    let credentials = Credentials::read(&dir.join(file), profile).unwrap();
    Client::new(&format!("http://{}", kms.addr), credentials, region).unwrap()
}

/// Reports a call that was answered with a receipt, in one write.
fn acknowledge(answer: Result<keytrail_kms::client::Answer, ClientError>) -> bool {
    let (request_id, seq) = match answer {
        Ok(answer) => (answer.request_id, answer.seq),
        Err(ClientError::Service { request_id, seq, .. }) => (request_id, seq),
        Err(_) => return false,
    };
    if let Some(seq) = seq {
        let mut out = std::io::stdout().lock();
        out.write_all(format!("ACK {request_id} {seq}\n").as_bytes()).unwrap();
        out.flush().unwrap();
    }
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child of the crash tests"]
async fn child() {
    let Ok(dir) = std::env::var(DIR_VARIABLE) else { return };
    let dir = Path::new(&dir);
    let _scenario = FailScenario::setup();
    let kms = start(dir).await;
    let blobs: Vec<Value> = serde_json::from_slice(&std::fs::read(dir.join("blobs.json")).unwrap()).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..4 {
        let (client, blob) = (client(dir, &kms, "credentials", "default"), blobs[task % KEYS].clone());
        tasks.spawn(async move {
            for _ in 0..40 {
                if !acknowledge(client.call("TrentService.Decrypt", blob["decrypt"].clone(), None).await) {
                    return;
                }
            }
        });
    }
    for blob in blobs {
        let client = client(dir, &kms, "break-glass", "break-glass");
        tasks.spawn(async move {
            let body = json!({"KeyId": blob["key"]});
            for round in 0..20 {
                let target = if round % 2 == 0 { "TrentService.DisableKey" } else { "TrentService.EnableKey" };
                if !acknowledge(client.call(target, body.clone(), None).await) {
                    return;
                }
            }
        });
    }
    // Each of these changes two keys, and leaves an event of each.
    let related = client(dir, &kms, "break-glass", "break-glass");
    let named = json!({"KeyId": std::fs::read_to_string(dir.join("related")).unwrap()});
    tasks.spawn(async move {
        for round in 0..20 {
            let verb = if round % 2 == 0 { "Enable" } else { "Disable" };
            let target = format!("TrentService.{verb}KeyRotation");
            if !acknowledge(related.call(&target, named.clone(), None).await) {
                return;
            }
        }
    });
    let responder = client(dir, &kms, "service-credentials", "responder");
    let required = std::fs::read_to_string(dir.join("related")).unwrap();
    tasks.spawn(async move {
        for round in 0..24 {
            let (target, body) = match round % 4 {
                0 => ("KeytrailService.PutQuarantine", json!({"PrincipalArn": ADMINISTRATOR, "TtlSeconds": 600})),
                1 => ("KeytrailService.LiftQuarantine", json!({"PrincipalArn": ADMINISTRATOR})),
                2 => (
                    "KeytrailService.PutMfaRequirement",
                    json!({"KeyId": required, "Actions": ["DisableKey"], "TtlSeconds": 600}),
                ),
                _ => ("KeytrailService.LiftMfaRequirement", json!({"KeyId": required})),
            };
            let action = uuid::Uuid::now_v7().to_string();
            if !acknowledge(responder.call(target, body, Some(&action)).await) {
                return;
            }
        }
    });
    let steady: Vec<Value> = serde_json::from_slice(&std::fs::read(dir.join("steady.json")).unwrap()).unwrap();
    for task in 0..2 {
        let (grantor, keys) = (client(dir, &kms, "break-glass", "break-glass"), steady.clone());
        tasks.spawn(async move { make_grants(&grantor, &keys[task]).await });
        let (namer, keys) = (client(dir, &kms, "break-glass", "break-glass"), steady.clone());
        tasks.spawn(async move { make_aliases(&namer, &keys).await });
    }
    // Refused calls that are changes: each opens a request for approval, or meets the one of an earlier run.
    let asker = client(dir, &kms, "credentials", "default");
    let guarded = std::fs::read_to_string(dir.join("guarded")).unwrap();
    tasks.spawn(async move {
        for days in 7..=26 {
            let body = json!({"KeyId": guarded, "PendingWindowInDays": days});
            if !acknowledge(asker.call("TrentService.ScheduleKeyDeletion", body, None).await) {
                return;
            }
        }
    });
    while tasks.join_next().await.is_some() {}
    kms.shutdown().await.unwrap();
}

/// Makes grants, and takes each second one back.
async fn make_grants(client: &Client, key: &Value) {
    for round in 0..20 {
        let body = json!({"KeyId": key, "GranteePrincipal": ADMINISTRATOR, "Operations": ["Decrypt", "DescribeKey"]});
        let made = client.call("TrentService.CreateGrant", body, None).await;
        let id = made.as_ref().ok().map(|answer| answer.body["GrantId"].clone());
        if !acknowledge(made) {
            return;
        }
        let body = json!({"KeyId": key, "GrantId": id});
        if round % 2 == 1 && !acknowledge(client.call("TrentService.RevokeGrant", body, None).await) {
            return;
        }
    }
}

/// Makes aliases, moves each to the other key, and deletes each second one.
async fn make_aliases(client: &Client, keys: &[Value]) {
    for round in 0..10 {
        let name = format!("alias/{}", uuid::Uuid::now_v7());
        let mut calls = vec![
            ("TrentService.CreateAlias", json!({"AliasName": name, "TargetKeyId": keys[0]})),
            ("TrentService.UpdateAlias", json!({"AliasName": name, "TargetKeyId": keys[1]})),
        ];
        if round % 2 == 1 {
            calls.push(("TrentService.DeleteAlias", json!({"AliasName": name})));
        }
        for (target, body) in calls {
            if !acknowledge(client.call(target, body, None).await) {
                return;
            }
        }
    }
}

async fn prepare(dir: &Path) {
    let options =
        InitOptions { account: "123456789012".into(), region: REGION.into(), cluster: "test".into(), node: "n".into() };
    init_folder(dir, &options).unwrap();
    let kms = start(dir).await;
    let admin = client(dir, &kms, "credentials", "default");
    let mut blobs = Vec::new();
    for _ in 0..KEYS {
        let made = admin.call("TrentService.CreateKey", json!({}), None).await.unwrap().body;
        let key = made["KeyMetadata"]["Arn"].clone();
        let sealed =
            admin.call("TrentService.Encrypt", json!({"KeyId": key, "Plaintext": "eA=="}), None).await.unwrap();
        blobs.push(json!({"key": key, "decrypt": {"CiphertextBlob": sealed.body["CiphertextBlob"]}}));
    }
    let made = admin.call("TrentService.CreateKey", json!({"MultiRegion": true}), None).await.unwrap().body;
    let id = made["KeyMetadata"]["KeyId"].as_str().unwrap();
    let body = json!({"KeyId": id, "ReplicaRegion": OTHER_REGION});
    admin.call("TrentService.ReplicateKey", body, None).await.unwrap();
    std::fs::write(dir.join("related"), id).unwrap();
    let tags = json!([{"TagKey": "keytrail:dual-control", "TagValue": "required"}]);
    let made = admin.call("TrentService.CreateKey", json!({"Tags": tags}), None).await.unwrap().body;
    std::fs::write(dir.join("guarded"), made["KeyMetadata"]["Arn"].as_str().unwrap()).unwrap();
    std::fs::write(dir.join("blobs.json"), serde_json::to_vec(&blobs).unwrap()).unwrap();
    // Never disabled, so that no call of grants or aliases fails.
    let mut steady = Vec::new();
    for _ in 0..2 {
        let made = admin.call("TrentService.CreateKey", json!({}), None).await.unwrap().body;
        steady.push(made["KeyMetadata"]["Arn"].clone());
    }
    std::fs::write(dir.join("steady.json"), serde_json::to_vec(&steady).unwrap()).unwrap();
    kms.shutdown().await.unwrap();
}

fn events(dir: &Path) -> Vec<(Leaf, AuditEvent)> {
    let mut reader = Reader::open(&dir.join("journal"), 0).unwrap();
    let mut events = Vec::new();
    loop {
        let frames = reader.next(1_000).unwrap();
        if frames.is_empty() {
            return events;
        }
        for frame in frames {
            let leaf = frame.verify().unwrap();
            if leaf.kind == Kind::Event {
                events.push((leaf, serde_json::from_slice(&frame.payload).unwrap()));
            }
        }
    }
}

/// What the log says there is.
#[derive(Default)]
struct Replayed {
    /// Each key's last image, by its ARN.
    keys: BTreeMap<String, Value>,
    /// Id and the key's ARN.
    grants: BTreeMap<String, String>,
    /// Name and the key's ARN.
    aliases: BTreeMap<String, String>,
    /// Requests for approval.
    requests: BTreeSet<String>,
}

impl Replayed {
    /// Takes an event's images over: `after` is what is there now, `before` without it what is gone.
    fn take(&mut self, event: &AuditEvent) {
        let (before, after) = (&event.additional_event_data.before, &event.additional_event_data.after);
        let images = [("grantId", &mut self.grants), ("aliasName", &mut self.aliases)];
        for (name, table) in images {
            let of = |image: &Option<Value>| image.as_ref().and_then(|image| Some(image[name].as_str()?.to_owned()));
            if let Some(gone) = of(before) {
                table.remove(&gone);
            }
            if let (Some(made), Some(image)) = (of(after), after) {
                table.insert(made, image["targetKeyArn"].as_str().unwrap().to_owned());
            }
        }
    }
}

/// Replays the log; every decision must be what the state at its place says, and every change begin where the one before
/// it ended.
fn replay(events: &[(Leaf, AuditEvent)]) -> Replayed {
    let mut replayed = Replayed::default();
    let (mut quarantined, mut required) = (false, false);
    for (leaf, event) in events {
        replayed.take(event);
        let states = &mut replayed.keys;
        if let Some(before) = event.additional_event_data.before.as_ref().filter(|before| before["keyArn"].is_string())
        {
            assert_eq!(states[before["keyArn"].as_str().unwrap()], *before, "seq {}", leaf.seq);
        }
        if let Some(after) = event.additional_event_data.after.as_ref().filter(|after| after["keyArn"].is_string()) {
            states.insert(after["keyArn"].as_str().unwrap().to_owned(), after.clone());
        }
        let found = event.error_code.as_deref();
        match event.event_name.as_str() {
            "PutQuarantine" => quarantined = true,
            "PutMfaRequirement" => required = true,
            "LiftMfaRequirement" => {
                assert_eq!(found, (!required).then_some("NotFoundException"), "seq {}", leaf.seq);
                required = false;
            }
            "LiftQuarantine" => {
                assert_eq!(found, (!quarantined).then_some("NotFoundException"), "seq {}", leaf.seq);
                quarantined = false;
            }
            "Decrypt" => {
                let expected = if quarantined {
                    Some("AccessDenied")
                } else {
                    (states[&event.resources[0].arn]["keyState"] == "Disabled").then_some("DisabledException")
                };
                assert_eq!(found, expected, "seq {}", leaf.seq);
            }
            "ScheduleKeyDeletion" => {
                assert_eq!(found, Some("AccessDenied"), "seq {}", leaf.seq);
                let more = &event.additional_event_data.more;
                let Some(id) = more.get("approvalRequestId").and_then(Value::as_str) else {
                    assert!(quarantined, "seq {}", leaf.seq);
                    continue;
                };
                let opened = more.contains_key("approvalRequest");
                assert_eq!(replayed.requests.insert(id.to_owned()), opened, "seq {}", leaf.seq);
            }
            _ => assert_eq!(found, None, "seq {}", leaf.seq),
        }
    }
    replayed
}

/// All entries of a listing, by the members that `replay` knows them by.
async fn listed(client: &Client, target: &str, list: &str, mut body: Value) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    loop {
        let answer = client.call(target, body.clone(), None).await.unwrap().body;
        for entry in answer[list].as_array().unwrap() {
            let name = entry.get("GrantId").unwrap_or(&entry["AliasName"]);
            all.insert(name.as_str().unwrap().to_owned(), entry.clone());
        }
        match answer.get("NextMarker") {
            Some(marker) => body["Marker"] = marker.clone(),
            None => return all,
        }
    }
}

async fn compare_names(client: &Client, replayed: &Replayed, steady: &[Value], context: &str) {
    let mut grants = BTreeMap::new();
    for key in steady {
        let found = listed(client, "TrentService.ListGrants", "Grants", json!({"KeyId": key})).await;
        grants.extend(found.into_iter().map(|(id, entry)| (id, entry["KeyId"].as_str().unwrap().to_owned())));
    }
    assert_eq!(grants, replayed.grants, "{context}: grants");
    let aliases = listed(client, "TrentService.ListAliases", "Aliases", json!({})).await;
    let key_of = |entry: &Value| {
        let id = entry["TargetKeyId"].as_str().unwrap().to_owned();
        steady.iter().find_map(|arn| arn.as_str().filter(|arn| arn.ends_with(&id))).unwrap().to_owned()
    };
    let aliases: BTreeMap<_, _> = aliases.iter().map(|(name, entry)| (name.clone(), key_of(entry))).collect();
    assert_eq!(aliases, replayed.aliases, "{context}: aliases");
}

async fn check(dir: &Path, acknowledged: &[(String, u64)], context: &str) {
    let kms = start(dir).await;
    let events = events(dir);
    let mut by_request: HashMap<&str, Vec<u64>> = HashMap::new();
    for (leaf, event) in &events {
        if let Some(id) = &event.request_id {
            by_request.entry(id).or_default().push(leaf.seq);
        }
    }
    for (request_id, seq) in acknowledged {
        assert_eq!(by_request.get(request_id.as_str()), Some(&vec![*seq]), "{context}: {request_id}");
    }
    let ids: HashSet<_> = events.iter().map(|(_, event)| &event.event_id).collect();
    assert_eq!(ids.len(), events.len(), "{context}: no event twice");
    let replayed = replay(&events);
    let listing = client(dir, &kms, "break-glass", "break-glass");
    let requests = listing.call("KeytrailService.ListApprovalRequests", json!({}), None).await.unwrap().body;
    let requests = requests["ApprovalRequests"].as_array().unwrap().iter();
    let requests: BTreeSet<String> =
        requests.map(|request| request["RequestId"].as_str().unwrap().to_owned()).collect();
    assert_eq!(requests, replayed.requests, "{context}: requests for approval");
    let steady: Vec<Value> = serde_json::from_slice(&std::fs::read(dir.join("steady.json")).unwrap()).unwrap();
    compare_names(&client(dir, &kms, "break-glass", "break-glass"), &replayed, &steady, context).await;
    for (key, image) in replayed.keys {
        let break_glass = client_in(image["region"].as_str().unwrap(), dir, &kms, ("break-glass", "break-glass"));
        let described = break_glass.call("TrentService.DescribeKey", json!({"KeyId": key}), None).await.unwrap();
        let metadata = &described.body["KeyMetadata"];
        // The service may have ended a transient state since the log was read.
        if image["keyState"] != "Creating" {
            assert_eq!(metadata["KeyState"], image["keyState"], "{context}: {key}");
        }
        let status = break_glass.call("TrentService.GetKeyRotationStatus", json!({"KeyId": key}), None).await.unwrap();
        let rotates = image.get("rotationPeriodInDays").is_some();
        assert_eq!(status.body["KeyRotationEnabled"], rotates, "{context}: {key}");
    }
    kms.shutdown().await.unwrap();
    let report = verify_folder(dir, |_| ());
    assert!(matches!(report.verdict, Verdict::Verified), "{context}: {:?}", report.verdict);
    let store = rusqlite::Connection::open(dir.join("kms.db")).unwrap();
    let waiting: i64 = store.query_row("SELECT count(*) FROM outbox", [], |row| row.get(0)).unwrap();
    assert_eq!(waiting, 0, "{context}: the outbox is empty after a clean stop");
}

/// Request id and seq of a line that reports a call.
fn acknowledged(line: &str) -> Option<(String, u64)> {
    let (id, seq) = line[line.find("ACK ")? + 4..].split_once(' ')?;
    Some((id.to_owned(), seq.parse().ok()?))
}

/// Wherever the kernel ends it: the same folder again and again, each time after some more answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_at_any_moment_has_kept_what_it_answered() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path()).await;
    for answers in [1, 3, 17, 60, 120, 190, 260] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"])
            .env(DIR_VARIABLE, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut found = Vec::new();
        for line in lines {
            found.extend(acknowledged(&line.unwrap()));
            if found.len() == answers {
                child.kill().unwrap();
            }
        }
        let context = format!("killed after {answers} answers");
        assert_eq!(child.wait().unwrap().signal(), Some(SIGKILL), "{context}: {} answers", found.len());
        check(folder.path(), &found, &context).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_loses_nothing_it_acknowledged_and_its_log_explains_its_state() {
    // The first deletion of rows is part of each start, so that a skip of 1 is the first of a run or its last.
    let table: [(&str, &[u32]); 4] = [
        ("kms::after_store_commit", &[0, 3, 11]),
        ("kms::after_append", &[1, 40, 120]),
        ("kms::before_reply", &[2, 35, 110]),
        ("kms::before_row_delete", &[0, 1]),
    ];
    for (point, skips) in table {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path()).await;
        for skip in skips {
            let context = format!("{point} after {skip}");
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"])
                .env(DIR_VARIABLE, folder.path())
                .env("FAILPOINTS", format!("{point}={skip}*off->return"))
                .env("RUST_BACKTRACE", "0")
                .output()
                .unwrap();
            assert_eq!(output.status.signal(), Some(SIGABRT), "{context}: {}", String::from_utf8_lossy(&output.stderr));
            let text = String::from_utf8_lossy(&output.stdout);
            let acknowledged: Vec<(String, u64)> = text.lines().filter_map(acknowledged).collect();
            check(folder.path(), &acknowledged, &context).await;
        }
    }
}
