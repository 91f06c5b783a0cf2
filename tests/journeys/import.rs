//! CloudTrail files imported beside a service at work and alone: kill -9 between each pair of steps, Ctrl-C, verify.

use crate::support::{Caller, Folder, Running, keytrail, text, wait_for};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output, Stdio};

const RECORDS: usize = 600;
const FILES: usize = 6;

/// Where the process aborts; the number of passes before it.
const POINTS: &[(&str, u32)] = &[
    ("import::after_gather", 0),
    ("import::after_append", 0),
    ("import::after_append", 6),
    ("lake::after_file", 0),
    ("lake::after_file", 2),
    ("lake::before_commit", 0),
    ("lake::before_commit", 2),
    ("lake::after_commit", 0),
    ("lake::after_commit", 2),
    ("import::before_checkpoint", 0),
    ("import::after_checkpoint", 0),
];

fn record(n: usize) -> Value {
    // Neither files nor records are in order of time.
    let secs = (n * 7919) % RECORDS;
    json!({
        "eventVersion": "1.09", "eventName": if n.is_multiple_of(3) { "Decrypt" } else { "PutObject" },
        "eventSource": if n.is_multiple_of(3) { "kms.amazonaws.com" } else { "s3.amazonaws.com" },
        "eventTime": format!("2024-03-01T10:{:02}:{:02}Z", secs / 60, secs % 60), "eventID": format!("id-{n}"),
        "userIdentity": { "type": "IAMUser", "arn": "arn:aws:iam::111122223333:user/a", "accountId": "111122223333" },
        "resources": [{ "ARN": format!("arn:aws:kms:eu-central-1:111122223333:key/k-{}", n % 5), "type": "AWS::KMS::Key" }],
        "readOnly": true, "eventType": "AwsApiCall"
    })
}

/// Files of these records; the last of each comes again in the next file.
fn files(to: &Path) {
    let each = RECORDS / FILES;
    for file in 0..FILES {
        let first = (file * each).saturating_sub(1);
        let records: Vec<Value> = (first..(file + 1) * each).map(record).collect();
        let folder = to.join(format!("AWSLogs/111122223333/CloudTrail/eu-central-1/2024/03/{:02}", FILES - file));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("part.json"), json!({ "Records": records }).to_string()).unwrap();
    }
}

fn command(files: &Path, data: &Path) -> Command {
    let mut command = keytrail();
    command.args(["import", "cloudtrail"]).arg(files).arg("--data").arg(data);
    command
}

fn import(files: &Path, data: &Path) -> Output {
    let out = command(files, data).output().unwrap();
    assert!(out.status.success(), "{}{}", text(&out.stdout), text(&out.stderr));
    out
}

fn sql(data: &Path, query: &str) -> Vec<Value> {
    let out = keytrail().args(["sql", "--format", "jsonl", "--data"]).arg(data).arg(query).output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    text(&out.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Every record once, in order of time within an epoch, and the log proves itself.
fn assert_whole(data: &Path) {
    let counts = sql(data, "SELECT count(*) AS n, count(DISTINCT event_id) AS ids, max(seq) AS last FROM events");
    assert_eq!(counts, [json!({ "n": RECORDS, "ids": RECORDS, "last": RECORDS - 1 })]);
    let fallen = "SELECT count(*) AS n FROM (SELECT event_time, lag(event_time) OVER (PARTITION BY epoch ORDER BY seq) \
                  AS before FROM events) WHERE event_time < before";
    assert_eq!(sql(data, fallen), [json!({ "n": 0 })]);
    let out = keytrail().arg("verify").arg(data).output().unwrap();
    assert!(out.status.success(), "{}{}", text(&out.stdout), text(&out.stderr));
    assert!(text(&out.stdout).contains(": VERIFIED\n"), "{}", text(&out.stdout));
}

#[test]
fn killed_anywhere_the_same_command_goes_on() {
    let source = tempfile::tempdir().unwrap();
    files(source.path());
    for (point, passes) in POINTS {
        let data = tempfile::tempdir().unwrap();
        let killed = command(source.path(), data.path())
            .env("FAILPOINTS", format!("{point}={passes}*off->return"))
            .stderr(Stdio::null())
            .output()
            .unwrap();
        assert!(!killed.status.success() && killed.stdout.is_empty(), "{point} was not passed");
        import(source.path(), data.path());
        assert_whole(data.path());
        let again = import(source.path(), data.path());
        assert!(text(&again.stdout).starts_with("nothing new\n"), "{point}: {}", text(&again.stdout));
        assert_whole(data.path());
    }
}

#[test]
fn a_service_at_work_is_not_disturbed_and_shows_what_was_imported() {
    let source = tempfile::tempdir().unwrap();
    files(source.path());
    std::fs::write(source.path().join("torn.json.gz"), [0x1f, 0x8b, 8, 0]).unwrap();
    let folder = Folder::with_people();
    let up = folder.up(&[]);
    let admin = Caller::new(&up.field("kms"), folder.administrator());
    let key = admin.create_key(json!([]));
    let out = command(source.path(), folder.path()).output().unwrap();
    assert!(!out.status.success(), "one file is torn");
    assert!(text(&out.stdout).contains("torn.json.gz: cannot be unpacked"), "{}", text(&out.stdout));
    assert!(text(&out.stdout).contains(&format!("landed      {RECORDS} records")), "{}", text(&out.stdout));
    admin.encrypt(&key, &json!({ "tenant": "7" }));
    let of = |query: &str| folder.sql(query);
    let imported = "event_time < '2024-03-02'";
    let names = of(&format!("SELECT event_name, count(*) AS n FROM events WHERE {imported} GROUP BY 1 ORDER BY 1"));
    assert_eq!(names, [json!({ "event_name": "Decrypt", "n": 200 }), json!({ "event_name": "PutObject", "n": 400 })]);
    let of_key = of("SELECT count(*) AS n FROM events WHERE key_arn = 'arn:aws:kms:eu-central-1:111122223333:key/k-2'");
    assert_eq!(of_key, [json!({ "n": 120 })]);
    wait_for("our own event beside them", || {
        let own = of("SELECT count(*) AS n FROM events WHERE event_name = 'Encrypt' AND event_time > '2025-01-01'");
        (own == [json!({ "n": 1 })]).then_some(())
    });
    assert_eq!(of("SELECT count(*) AS n FROM keys"), [json!({ "n": 1 })], "imported keys are none of ours");
    up.stop();
    // The trail starts beside the second log, and its rules go on.
    let up = folder.up(&[]);
    Caller::new(&up.field("kms"), folder.administrator()).encrypt(&key, &json!({ "tenant": "8" }));
    std::fs::remove_file(source.path().join("torn.json.gz")).unwrap();
    import(source.path(), folder.path());
    up.stop();
    folder.assert_verified();
    assert_eq!(of("SELECT count(DISTINCT log) AS n FROM events"), [json!({ "n": 2 })]);

    // A backup has it all, and what is restored goes on.
    let sets = tempfile::tempdir().unwrap();
    let (set, to) = (sets.path().join("set"), sets.path().join("to"));
    let backup = keytrail().args(["backup", "--data"]).arg(folder.path()).arg("--out").arg(&set).output().unwrap();
    assert!(backup.status.success(), "{}", text(&backup.stderr));
    let restore = keytrail()
        .args(["restore", "--from"])
        .arg(&set)
        .args(["--without-checkpoint", "--data"])
        .arg(&to)
        .output()
        .unwrap();
    assert!(restore.status.success(), "{}", text(&restore.stderr));
    let again = import(source.path(), &to);
    assert!(text(&again.stdout).starts_with("nothing new\n"), "{}", text(&again.stdout));
    let verify = keytrail().arg("verify").arg(&to).output().unwrap();
    assert!(text(&verify.stdout).contains("imported log cloudtrail: VERIFIED"), "{}", text(&verify.stdout));
}

#[test]
fn ctrl_c_leaves_a_log_that_goes_on() {
    let source = tempfile::tempdir().unwrap();
    files(source.path());
    let data = tempfile::tempdir().unwrap();
    let child = command(source.path(), data.path())
        .env("FAILPOINTS", "import::slow_append=sleep(300)")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let imports = data.path().join("imports/cloudtrail/files.db");
    wait_for("the import to begin", || imports.exists().then_some(()));
    crate::support::signal(child.id(), "INT");
    let out = child.wait_with_output().unwrap();
    assert!(!out.status.success() && text(&out.stdout).contains("the same command goes on"), "{}", text(&out.stdout));
    import(source.path(), data.path());
    assert_whole(data.path());
}

/// A call of another company's trail that happened just now.
fn foreign(name: &str, id: &str) -> Value {
    let time = chrono::Utc::now().format("%FT%TZ").to_string();
    json!({
        "eventVersion": "1.11", "eventName": name, "eventSource": "kms.amazonaws.com", "eventTime": time,
        "eventID": id, "awsRegion": "eu-central-1", "sourceIPAddress": "192.0.2.9", "userAgent": "aws-cli",
        "userIdentity": { "type": "IAMUser", "arn": "arn:aws:iam::999988887777:user/thief", "accountId": "999988887777" },
        "requestParameters": { "keyId": "arn:aws:kms:eu-central-1:999988887777:key/k", "pendingWindowInDays": 7 },
        "resources": [{ "ARN": "arn:aws:kms:eu-central-1:999988887777:key/k", "accountId": "999988887777",
            "type": "AWS::KMS::Key" }],
        "readOnly": false, "eventType": "AwsApiCall", "recipientAccountId": "999988887777"
    })
}

#[test]
fn what_is_imported_beside_a_service_becomes_an_incident_and_nothing_is_done_about_it() {
    let folder = Folder::with_people();
    let up = folder.up(&["--enforce"]);
    let files = folder.path().join("files");
    std::fs::create_dir(&files).unwrap();
    let put = |name: &str, record: Value| {
        // Whole at once, as an object in a bucket is.
        std::fs::write(files.join("new"), json!({ "Records": [record] }).to_string()).unwrap();
        std::fs::rename(files.join("new"), files.join(name)).unwrap();
    };
    put("1.json", foreign("ScheduleKeyDeletion", "e-1"));
    let following = Running::start(command(&files, folder.path()).args(["--name", "aws", "--follow"]));
    let incidents = || {
        let out = keytrail().args(["incident", "list", "--data"]).arg(folder.path()).output().unwrap();
        text(&out.stdout).lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    let line = wait_for("an incident", || incidents().into_iter().find(|line| line.contains("user/thief")));
    let id = line.split_whitespace().next().unwrap().to_owned();
    put("2.json", foreign("DisableKey", "e-2"));
    let shown = wait_for("the second call in it", || {
        let out = keytrail().args(["incident", "show", &id, "--data"]).arg(folder.path()).output().unwrap();
        let shown = text(&out.stdout);
        (shown.contains("key-deletion-scheduled") && shown.contains("key-disabled")).then_some(shown)
    });
    assert!(!shown.contains(" done ") && !shown.contains("CancelKeyDeletion"), "{shown}");
    assert_eq!(incidents().iter().filter(|line| line.contains("user/thief")).count(), 1);
    following.stop();
    up.stop();
    let alerts = sql(folder.path(), "SELECT DISTINCT rule_id FROM alerts ORDER BY 1");
    assert!(alerts.contains(&json!({ "rule_id": "key-disabled" })), "{alerts:?}");
}
