//! Kill the process at every transition of outbox and mail, start it again: one effect each, none lost, one Message-ID.
//!
//! The victim is this test binary started again on one test that does nothing unless told to; it aborts at the fail
//! point, so nothing is flushed or dropped that a kill -9 would not flush or drop either.
#![allow(clippy::unwrap_used)]

use crate::config::{NotifySettings, Settings, SmtpSettings, TlsMode};
use crate::notify::Mailer;
use crate::service::{Parts, Responder, RunLock};
use crate::store::Store;
use crate::testing::{self, Bench, FakeKms, SmtpSink, event, key_arn, principal_arn, shipped_playbooks};
use keytrail_kms::clock::SystemClock;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

const VICTIM: &str = "crash_tests::victim";
const POINTS: [&str; 10] = [
    "responder::after_plan_commit=return",
    "responder::before_call=return",
    "responder::before_call=2*off->return",
    "responder::after_call=return",
    "responder::after_call=2*off->return",
    "responder::before_done=return",
    "responder::before_done=3*off->return",
    "responder::after_mail=return",
    "responder::after_record=return",
    "none=off",
];

/// Runs a responder on the folder in the environment until all is done and told.
#[test]
fn victim() {
    let (Ok(dir), Ok(port)) = (std::env::var("KEYTRAIL_VICTIM_DIR"), std::env::var("KEYTRAIL_VICTIM_PORT")) else {
        return;
    };
    let _faults = fail::FailScenario::setup();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run(Path::new(&dir), port.parse().unwrap()));
}

async fn run(dir: &Path, port: u16) {
    let lock = RunLock::take(dir).unwrap();
    let smtp = SmtpSettings {
        host: "127.0.0.1".into(),
        port,
        tls: TlsMode::None,
        ca_file: None,
        username: None,
        password_file: None,
        from: "keytrail@example.org".into(),
        to: vec!["soc@example.org".into()],
        timeout: Duration::from_secs(5),
        dkim: None,
    };
    let notify = NotifySettings { group_wait: Duration::from_millis(300), ..NotifySettings::default() };
    let parts = Parts {
        settings: Settings { notify, ..Settings::default() },
        channels: vec![Arc::new(Mailer::new(&smtp).unwrap())],
        ..testing::parts(dir, FakeKms::open(&dir.join("effects")), shipped_playbooks())
    };
    let responder = Responder::start_parts(parts, lock, Arc::new(SystemClock)).unwrap();
    crate::journey_tests::until("all is done and told", || {
        let left: (i64, i64, i64, i64, i64) = responder
            .store()
            .read_now(|db| {
                Ok(db.query_row(
                    "SELECT (SELECT count(*) FROM alerts),
                       (SELECT count(*) FROM actions WHERE state IN ('planned', 'ready', 'leased')),
                       (SELECT count(*) FROM incidents WHERE tell_since_us IS NOT NULL)
                         + (SELECT count(*) FROM tellings WHERE due_us IS NOT NULL),
                       (SELECT count(*) FROM notices WHERE state = 'ready'),
                       (SELECT count(*) FROM timeline_unsent)",
                    [],
                    |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)),
                )?)
            })
            .unwrap();
        left == (3, 0, 0, 0, 0)
    })
    .await;
    responder.shutdown().await;
}

fn victim_run(dir: &Path, port: u16, fault: &str) -> ExitStatus {
    let mut victim = Command::new(std::env::current_exe().unwrap());
    victim.args([VICTIM, "--exact", "--quiet"]).env("KEYTRAIL_VICTIM_DIR", dir);
    victim.env("KEYTRAIL_VICTIM_PORT", port.to_string()).env("FAILPOINTS", fault);
    victim.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).status().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_anywhere_leads_to_one_effect_each() {
    for fault in POINTS {
        let dir = tempfile::tempdir().unwrap();
        let sink = SmtpSink::start().await;
        let bench = Bench::new();
        let trail = bench.folder(dir.path());
        let kms = FakeKms::open(&dir.path().join("effects"));
        kms.set_key("k2", "Enabled", true);
        kms.set_key("k3", "PendingDeletion", false);
        let open = event("PutKeyPolicy").id("e2").by("mallory").on_key("k2").opened("e0");
        let open = open.tagged("on-exposure", "disable");
        let deletion = event("ScheduleKeyDeletion").id("e3").by("mallory").on_key("k3").was("Enabled");
        trail.push(&bench.alert("denied-burst", vec![event("Decrypt").denied().by("mallory")]).signed());
        trail.push(&bench.alert("key-policy-public", vec![open]).signed());
        trail.push(&bench.alert("key-deletion-scheduled", vec![deletion]).signed());

        let path = dir.path().to_owned();
        let port = sink.port;
        let (first, second) =
            tokio::task::spawn_blocking(move || (victim_run(&path, port, fault), victim_run(&path, port, "none=off")))
                .await
                .unwrap();
        assert_eq!(first.success(), fault == "none=off", "{fault}");
        assert!(second.success(), "{fault}");

        let kms = FakeKms::open(&dir.path().join("effects"));
        let mut effects = kms.effects();
        effects.sort();
        let expected = [
            ("CancelKeyDeletion", key_arn("k3")),
            ("DisableKey", key_arn("k2")),
            ("EnableKey", key_arn("k3")),
            ("PutQuarantine", principal_arn("mallory")),
            ("RestoreKeyPolicy", key_arn("k2")),
        ]
        .map(|(call, target)| (call.to_owned(), target));
        assert_eq!(effects, expected, "{fault}");
        assert_eq!(kms.key("k2"), ("Disabled".into(), false), "{fault}");
        assert_eq!(kms.key("k3"), ("Enabled".into(), false), "{fault}");
        let recorded = "SELECT (SELECT count(*) FROM timeline) - (SELECT count(*) FROM timeline_unsent)
                          - (SELECT sum(through) FROM timeline_recorded)";
        let missing: i64 =
            Store::open(dir.path()).unwrap().read_now(|db| Ok(db.query_row(recorded, [], |row| row.get(0))?)).unwrap();
        assert_eq!(missing, 0, "{fault}: an entry that the log was not told of");
        let ids: BTreeSet<String> = sink.mails().iter().map(|mail| message_id(mail)).collect();
        let numbers: BTreeSet<&str> = ids.iter().filter_map(|id| id.split('.').nth(1)).collect();
        assert_eq!(numbers.len(), ids.len(), "{fault}: {ids:?}");
        assert!(numbers.contains("1"), "{fault}: {ids:?}");
        if fault == "responder::after_mail=return" {
            assert_eq!(sink.mails().len(), ids.len() + 1, "sent again under the same id");
        }
    }
}

fn message_id(mail: &[u8]) -> String {
    let text = String::from_utf8_lossy(mail);
    text.lines().find_map(|line| line.strip_prefix("Message-ID: ")).unwrap().to_owned()
}
