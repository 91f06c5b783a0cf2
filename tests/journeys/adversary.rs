//! Somebody works against the responder: shuts everyone out of a key, or changes back what it does as fast as it can.

use crate::incident::mail_text;
use crate::support::{ACCOUNT, Caller, Folder, MailSink, Running, child_pid, keytrail, signal, text, wait_for};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Our changes of one attribute of one key in an hour before the flip-flop stop: `[responder.limits] flip_flop_changes`.
const FLIPS_MAX: usize = 2;

/// An enforcing service whose mail goes to a sink, with more platform engineers of these names beside the insider.
struct Office {
    folder: Folder,
    mail: MailSink,
    up: Running,
    endpoint: String,
    admin: Caller,
}

impl Office {
    fn open(engineers: &[&str]) -> Self {
        let folder = Folder::with_people();
        let mut people = String::new();
        for name in engineers {
            people += &format!(
                "\n[[user]]\naccount = \"{ACCOUNT}\"\nname = \"{name}\"\npolicies = [\"platform-engineer\"]\n\n[[access_key]]\n\
                 id = \"{}\"\nsecret = \"{}\"\naccount = \"{ACCOUNT}\"\nuser = \"{name}\"\n",
                access_key(name),
                secret(name)
            );
        }
        let file = folder.path().join("identities.toml");
        let text = std::fs::read_to_string(&file).unwrap() + &people;
        std::fs::write(&file, text).unwrap();
        let mail = MailSink::start();
        let up = folder.up(&["--enforce", "--smtp", &mail.address, "--mail-to", "soc@example.org"]);
        let endpoint = up.field("kms");
        let admin = Caller::new(&endpoint, folder.administrator());
        Self { folder, mail, up, endpoint, admin }
    }

    fn engineer(&self, name: &str) -> Caller {
        Caller::with_secret(&self.endpoint, &access_key(name), &secret(name))
    }

    /// Runs `deeds` while the responder is held, so that what is true before it acts is a fact and no race.
    fn unanswered(&self, deeds: impl FnOnce()) {
        let responder = child_pid(self.up.child.id(), "responder");
        signal(responder, "STOP");
        deeds();
        signal(responder, "CONT");
    }

    fn quarantined(&self) -> Vec<String> {
        let answer = self.admin.call("KeytrailService.ListQuarantines", json!({})).expect("list quarantines");
        let name = |one: &Value| one["PrincipalArn"].as_str().unwrap().to_owned();
        answer["Quarantines"].as_array().unwrap().iter().map(name).collect()
    }

    /// What the responder did to a key, in order, from the log.
    fn done_to(&self, key: &str) -> Vec<String> {
        let query = format!(
            "SELECT event_name FROM events WHERE actor_class = 'responder' AND key_arn = '{key}' AND read_only = false \
             AND error_code IS NULL AND repeat_of IS NULL ORDER BY seq"
        );
        self.folder.sql(&query).iter().map(|row| row["event_name"].as_str().unwrap().to_owned()).collect()
    }

    /// All incidents in full, as `show --json` has them.
    fn incidents(&self) -> Vec<Value> {
        let run = |arguments: &[&str]| {
            let mut command = keytrail();
            command.arg("incident").args(arguments).arg("--json").arg("--data").arg(self.folder.path());
            let out = command.output().unwrap();
            assert!(out.status.success(), "{}", text(&out.stderr));
            text(&out.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
        };
        run(&["list"]).iter().flat_map(|one| run(&["show", one["id"].as_str().unwrap()])).collect()
    }

    fn close(self) {
        self.up.stop();
        self.folder.assert_verified();
        self.folder.assert_reproduced();
    }
}

fn access_key(name: &str) -> String {
    format!("AKIA{:0>12}", name.to_uppercase())
}

fn secret(name: &str) -> String {
    format!("adversary-secret-of-{name}-0123456789abcdef")
}

fn user(name: &str) -> String {
    format!("arn:aws:iam::{ACCOUNT}:user/{name}")
}

/// Refuses everyone everything, and the responder by name.
fn nobody() -> String {
    let all =
        |principal: Value| json!({ "Effect": "Deny", "Principal": principal, "Action": "kms:*", "Resource": "*" });
    let responder = format!("arn:aws:iam::{ACCOUNT}:keytrail/responder");
    let statement = json!([
        all(json!("*")),
        { "Effect": "Deny", "Principal": "*", "Action": "kms:*", "Resource": "*",
          "Condition": { "ArnLike": { "aws:PrincipalArn": [responder, "arn:aws:iam::*:keytrail/*"] } } },
    ]);
    json!({ "Version": "2012-10-17", "Statement": statement }).to_string()
}

/// Lets everyone in; each number makes another text.
fn everyone(number: usize) -> String {
    let statement = json!([
        { "Sid": "Owner", "Effect": "Allow", "Principal": { "AWS": format!("arn:aws:iam::{ACCOUNT}:root") },
          "Action": "kms:*", "Resource": "*" },
        { "Sid": format!("Everyone{number}"), "Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*" },
    ]);
    json!({ "Version": "2012-10-17", "Statement": statement }).to_string()
}

#[test]
fn a_key_that_everyone_is_shut_out_of_comes_back_and_its_owner_decrypts_again() {
    let office = Office::open(&[]);
    let (admin, insider) = (&office.admin, Caller::person(&office.endpoint, "insider"));
    let app = Caller::person(&office.endpoint, "app");
    let key = admin.create_key(json!([]));
    let before = admin.policy(&key);
    let blob = app.encrypt(&key, &json!({}));
    let strip = |bypass: bool| {
        let body = json!({ "KeyId": key, "Policy": nobody(), "BypassPolicyLockoutSafetyCheck": bypass });
        insider.call("PutKeyPolicy", body)
    };
    office.unanswered(|| {
        assert_eq!(strip(false).unwrap_err(), "MalformedPolicyDocumentException", "the safety check");
        strip(true).expect("strip the policy");
        // Nobody is left: not the application, not the administrator, and no other policy can be put.
        assert_eq!(app.decrypt(&blob, &json!({})).unwrap_err(), "AccessDeniedException");
        for (operation, body) in [
            ("GetKeyPolicy", json!({ "KeyId": key })),
            ("PutKeyPolicy", json!({ "KeyId": key, "Policy": before })),
            ("ScheduleKeyDeletion", json!({ "KeyId": key })),
        ] {
            assert_eq!(admin.call(operation, body).unwrap_err(), "AccessDeniedException", "{operation}");
        }
    });

    wait_for("the owner to decrypt again", || app.decrypt(&blob, &json!({})).ok());
    assert_eq!(admin.policy(&key), before);
    wait_for("the author to be stopped", || office.quarantined().contains(&user("insider")).then_some(()));
    assert_eq!(strip(true).unwrap_err(), "AccessDeniedException", "once is all he gets");

    // Who did what, in order, is in the log.
    let query = format!(
        "SELECT event_name, principal_arn, json_get_bool(request_parameters, 'bypassPolicyLockoutSafetyCheck') AS bypass, \
           action_id IS NOT NULL AS by_action FROM events \
         WHERE key_arn = '{key}' AND event_name IN ('PutKeyPolicy', 'RestoreKeyPolicy') AND error_code IS NULL ORDER BY seq"
    );
    let expected = json!([
        { "event_name": "PutKeyPolicy", "principal_arn": user("insider"), "bypass": true, "by_action": false },
        { "event_name": "RestoreKeyPolicy", "principal_arn": format!("arn:aws:iam::{ACCOUNT}:keytrail/responder"),
          "bypass": null, "by_action": true },
    ]);
    wait_for("both in SQL", || (json!(office.folder.sql(&query)) == expected).then_some(()));
    wait_for("the mail", || {
        office.mail.messages().iter().find(|mail| mail_text(mail).contains("key-policy-lockout")).map(|_| ())
    });
    office.close();
}

/// One stolen credential on four connections, each time with another text, until it is refused.
#[test]
fn whoever_opens_a_key_as_fast_as_we_close_it_is_stopped_and_the_key_ends_closed() {
    let office = Office::open(&[]);
    let key = office.admin.create_key(json!([{ "TagKey": "on-exposure", "TagValue": "disable" }]));
    let before = office.admin.policy(&key);
    let (opened, enabled) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let insider = Caller::person(&office.endpoint, "insider");
                loop {
                    let number = opened.fetch_add(1, Ordering::Relaxed);
                    let open = insider.call("PutKeyPolicy", json!({ "KeyId": key, "Policy": everyone(number) }));
                    if insider.call("EnableKey", json!({ "KeyId": key })).is_ok() {
                        enabled.fetch_add(1, Ordering::Relaxed);
                    }
                    match open {
                        Ok(_) => {}
                        Err(code) if code == "AccessDeniedException" => break,
                        Err(code) => panic!("{code}"),
                    }
                }
            });
        }
    });
    println!("{} openings, {} times enabled", opened.into_inner(), enabled.into_inner());
    assert_eq!(office.quarantined(), [user("insider")]);
    wait_for("the policy of before", || (office.admin.policy(&key) == before).then_some(()));
    wait_for("the key disabled", || (office.admin.key_state(&key) == "Disabled").then_some(()));
    wait_for("every action to end", || {
        let incidents = office.incidents();
        let mut actions = incidents.iter().flat_map(|one| one["actions"].as_array().unwrap());
        actions
            .all(|action| ["done", "suppressed", "failed"].contains(&action["state"].as_str().unwrap()))
            .then_some(())
    });
    let done = office.done_to(&key);
    let times = |name: &str| done.iter().filter(|one| *one == name).count();
    assert!((1..=FLIPS_MAX).contains(&times("RestoreKeyPolicy")), "{done:?}");
    assert!((1..=FLIPS_MAX).contains(&times("DisableKey")), "{done:?}");
    assert_eq!(done.len(), times("RestoreKeyPolicy") + times("DisableKey"), "{done:?}");
    assert_eq!(office.admin.policy(&key), before, "it stays so");
    office.close();
}

/// Three stolen credentials, one after the other: each is stopped, but together they change it back once more than we do.
#[test]
fn several_credentials_against_one_key_meet_the_flip_flop_stop_and_people_are_told() {
    let engineers = ["one", "two", "three"];
    let office = Office::open(&engineers);
    let key = office.admin.create_key(json!([]));
    let before = office.admin.policy(&key);
    for (number, name) in engineers.iter().enumerate() {
        let open = json!({ "KeyId": key, "Policy": everyone(number) });
        office.engineer(name).call("PutKeyPolicy", open).expect("open the key");
        wait_for("its author to be stopped", || office.quarantined().contains(&user(name)).then_some(()));
        if number < FLIPS_MAX {
            wait_for("the policy of before", || (office.admin.policy(&key) == before).then_some(()));
        }
    }
    let held = wait_for("the stop", || {
        let incidents = office.incidents();
        let stopped = |action: &&Value| action["reason"].as_str().is_some_and(|why| why.starts_with("flip-flop"));
        let mut actions = incidents.iter().flat_map(|one| one["actions"].as_array().unwrap());
        actions.find(stopped).cloned()
    });
    assert_eq!(
        (held["kind"].as_str(), held["state"].as_str()),
        (Some("restore_key_policy"), Some("suppressed")),
        "{held}"
    );
    assert_eq!(held["needs_person"], true, "{held}");
    wait_for("people to be told", || {
        office.mail.messages().iter().find(|mail| mail_text(mail).contains("flip-flop")).map(|_| ())
    });
    // What is promised (docs/responder.md): no third change, and nobody says that it is contained.
    assert_eq!(office.done_to(&key), ["RestoreKeyPolicy"; FLIPS_MAX]);
    assert_eq!(office.admin.policy(&key), everyone(2));
    let of_third = |one: &&Value| one["summary"]["principal"] == user("three");
    let shown = office.incidents().iter().find(of_third).cloned().expect("an incident about the third");
    assert_ne!(shown["summary"]["state"], "contained", "{shown}");
    office.close();
}

/// A request as anyone can send it who reaches the port: no signature, and a user agent that is not what it seems.
fn unsigned(endpoint: &str, operation: &str, body: &Value) {
    use std::io::{Read, Write};
    let address = endpoint.trim_start_matches("http://");
    let mut stream = std::net::TcpStream::connect(address).expect("connect");
    let body = body.to_string();
    let request = format!(
        "POST / HTTP/1.1\r\nhost: {address}\r\nx-amz-target: TrentService.{operation}\r\ncontent-type: application/x-amz-json-1.1\r\n\
         user-agent: \u{202e}<script>alert(1)</script> $(reboot) {{{{7*7}}}}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("send");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let answer = text(&answer);
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
}

/// Whoever may not, and whoever has no credential at all, asks for everything that would buy an action on a key if it were
/// allowed, and names things so that a mail or a page might break on them.
#[test]
fn denied_forged_and_unsigned_calls_buy_nothing_on_a_key_whatever_they_are_called() {
    let office = Office::open(&[]);
    let key = office.admin.create_key(json!([{ "TagKey": "on-exposure", "TagValue": "disable" }]));
    let before = office.admin.policy(&key);
    let hostile = "x\r\nBcc: eve@example.org\r\n\r\n\u{202e}<img src=x onerror=alert(1)> {{7*7}} $(reboot)";
    let app = Caller::person(&office.endpoint, "app");
    // The insider's access key, but not the secret.
    let forger = Caller::with_secret(&office.endpoint, "AKIADEMO0INSIDER", &secret("somebody-else"));
    let calls = [
        ("PutKeyPolicy", json!({ "KeyId": key, "Policy": everyone(0) })),
        ("ScheduleKeyDeletion", json!({ "KeyId": key, "PendingWindowInDays": 7 })),
        ("DisableKey", json!({ "KeyId": key })),
        (
            "CreateGrant",
            json!({ "KeyId": key, "GranteePrincipal": user("app"), "Operations": ["Decrypt"], "Name": hostile }),
        ),
        ("UpdateKeyDescription", json!({ "KeyId": key, "Description": hostile })),
        ("TagResource", json!({ "KeyId": key, "Tags": [{ "TagKey": hostile, "TagValue": hostile }] })),
        ("CreateAlias", json!({ "AliasName": format!("alias/{hostile}"), "TargetKeyId": key })),
        ("Sign", json!({ "KeyId": key, "Message": "aGVsbG8=", "SigningAlgorithm": hostile })),
    ];
    // Fifty refusals are high; some of these calls are not even worth a refusal.
    for _ in 0..20 {
        for (operation, body) in &calls {
            assert!(app.call(operation, body.clone()).is_err(), "{operation}");
            assert!(forger.call(operation, body.clone()).is_err(), "{operation}");
            unsigned(&office.endpoint, operation, body);
        }
    }
    wait_for("who was refused so often to be stopped", || office.quarantined().contains(&user("app")).then_some(()));
    wait_for("the mail", || {
        office.mail.messages().iter().find(|mail| mail_text(mail).contains("denied-burst")).map(|_| ())
    });

    assert_eq!(office.quarantined(), [user("app")], "not whose name was used");
    assert_eq!(office.done_to(&key), [] as [String; 0]);
    assert_eq!((office.admin.policy(&key), office.admin.key_state(&key).as_str()), (before, "Enabled"));
    for incident in office.incidents() {
        for action in incident["actions"].as_array().unwrap() {
            assert_eq!(action["kind"], "quarantine_principal", "{action}");
        }
    }
    for mail in office.mail.messages() {
        let (head, _) = mail.split_once("\n\n").or(mail.split_once("\r\n\r\n")).expect("a head and a body");
        assert!(!head.contains("eve@example.org") && !mail_text(&mail).contains('\u{202e}'), "{mail}");
    }
    office.close();
}
