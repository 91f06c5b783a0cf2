//! Golden mails and payloads, byte for byte, of an honest incident and of one with hostile text in every field.
//!
//! tests/golden holds what people and receivers get; tests/clients checks the same files against the receivers' schemas.
//! `KEYTRAIL_GOLDEN=write` writes them anew: read the difference before you commit it.
#![allow(clippy::unwrap_used)]

use crate::config::{DkimSettings, SmtpSettings};
use crate::incident::{IncidentDetail, IncidentId, IncidentState};
use crate::notify::facts::{Facts, Failing};
use crate::notify::queue::Notice;
use crate::notify::receivers::Kind;
use crate::notify::render::{MAIL_LINES_MAX, Message, Occasion, Page, Story};
use crate::notify::smtp::Mailer;
use crate::outbox::{ActionKind, ActionState};
use crate::playbook::Severity;
use crate::testing::{SmtpSink, hostile_detail, key_arn, principal_arn};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

const AT_US: i64 = 1_767_614_402_500_000;
const THREAD: &str = "I-0123456789ab@0123.keytrail.invalid";
const MESSAGE_ID: &str = "I-0123456789ab.2.soc@0123.keytrail.invalid";
const LINK: &str = "https://keytrail.example.org/ack/I-0123456789ab";
/// Folds, directions, line ends, markup, templates, mentions, formulas, escapes of terminals.
const HOSTILE: &str = "😀👩\u{200d}👩\u{200d}👧\u{202e}drow\u{202c}\r\nBcc: evil@example.org\r\n.\r\n\0<script>alert(1)</script>{{7*7}}${7*7}\
                       <!channel><@U1>[pay](https://evil.example)`*_~|=cmd()\u{1b}[31m\"'\\%0d%0a\u{feff}\u{2028}é漢";

/// The key of RFC 8463, appendix A, which everybody knows.
const DKIM_KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";

fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn check(name: &str, text: &str) {
    let path = golden_dir().join(name);
    if std::env::var("KEYTRAIL_GOLDEN").as_deref() == Ok("write") {
        std::fs::create_dir_all(golden_dir()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let held = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, held, "{} differs: KEYTRAIL_GOLDEN=write writes it anew", path.display());
}

fn sample() -> (IncidentDetail, Facts) {
    let mut detail = hostile_detail(2);
    let summary = &mut detail.summary;
    summary.title = "A key policy lets anyone in".into();
    summary.principal = Some(principal_arn("mallory"));
    summary.last_event_us += 1_500_000;
    detail.keys = vec![key_arn("k1"), key_arn("k2")];
    let titles =
        [("denied-burst", "Many denied calls by one principal"), ("key-policy-public", "A key policy lets anyone in")];
    for (alert, (rule, title)) in detail.alerts.iter_mut().zip(titles) {
        (alert.rule_id, alert.title, alert.source_ips) = (rule.into(), title.into(), "192.0.2.7".into());
    }
    detail.actions.truncate(3);
    let kinds = [ActionKind::QuarantinePrincipal, ActionKind::RestoreKeyPolicy, ActionKind::DisableKey];
    for (action, kind) in detail.actions.iter_mut().zip(kinds) {
        (action.kind, action.reason, action.state, action.needs_person) = (kind, None, ActionState::Done, false);
        action.target = key_arn("k1");
    }
    detail.actions[0].target = principal_arn("mallory");
    detail.actions[0].args = json!({ "ttlSeconds": 14_400 });
    detail.actions[2].target = key_arn("k2");
    detail.actions[2].state = ActionState::Suppressed;
    detail.actions[2].reason = Some("circuit breaker: 3 keys were disabled within an hour".into());
    detail.actions[2].needs_person = true;
    let facts = Facts {
        why: [
            ("0".to_owned(), "denied 12, fires from 10".to_owned()),
            ("1".to_owned(), "decrypts 900, usually 12, at most 40, fires above 120".to_owned()),
        ]
        .into(),
        queries: vec!["SELECT event_time, event_name FROM events WHERE principal_arn = 'mallory' ORDER BY seq".into()],
        failing: vec![Failing {
            principal: principal_arn("payments-app"),
            error_code: "DisabledException".into(),
            calls: 3,
        }],
        acked_us: None,
        muted: 0,
    };
    (detail, facts)
}

fn hostile() -> (IncidentDetail, Facts) {
    let mut detail = hostile_detail(12);
    let long = HOSTILE.repeat(10_000 / HOSTILE.len());
    detail.summary.severity = Severity::Critical;
    detail.summary.title = long.clone();
    detail.summary.principal = Some(format!("arn:aws:iam::111122223333:user/{long}"));
    detail.keys = vec![format!("arn:aws:kms:eu-west-1:111122223333:key/{long}"), HOSTILE.into(), String::new()];
    for alert in &mut detail.alerts {
        (alert.rule_id, alert.title) = (HOSTILE.into(), long.clone());
        (alert.source_ips, alert.seqs) = (HOSTILE.into(), HOSTILE.into());
    }
    for action in &mut detail.actions {
        (action.target, action.reason) = (long.clone(), Some(long.clone()));
    }
    let facts = Facts {
        why: [("0".to_owned(), crate::notify::render::clean(HOSTILE, 120))].into(),
        queries: vec![crate::notify::render::clean(&long, 400)],
        failing: vec![Failing { principal: long.clone(), error_code: HOSTILE.into(), calls: u32::MAX }; 9],
        acked_us: None,
        muted: 7,
    };
    (detail, facts)
}

fn message<'a>(detail: &'a IncidentDetail, facts: &'a Facts, number: u32, occasion: Occasion) -> Message<'a> {
    Message::Incident(Story {
        detail,
        facts,
        number,
        occasion,
        link: Some(LINK),
        message_id: MESSAGE_ID,
        thread: THREAD,
        at_us: AT_US,
    })
}

/// One line a member, so that a difference can be read.
fn shown(kind: Kind, body: &str) -> String {
    match kind {
        Kind::Smtp | Kind::Syslog => body.to_owned(),
        _ => serde_json::to_string_pretty(&serde_json::from_str::<Value>(body).unwrap()).unwrap() + "\n",
    }
}

fn check_all(name: &str, message: &Message<'_>) {
    for kind in [Kind::Webhook, Kind::Slack, Kind::Teams, Kind::PagerDuty, Kind::Sns, Kind::Syslog] {
        let body = kind.body(message);
        let ending = if kind == Kind::Syslog { "txt" } else { "json" };
        check(&format!("{name}.{}.{ending}", kind.as_str()), &shown(kind, &body));
        let bytes_max = match kind {
            Kind::Slack => 13_000 * 4,
            Kind::Teams => 28 * 1024,
            Kind::Sns => 256 * 1024,
            _ => 512 * 1024,
        };
        assert!(body.len() <= bytes_max, "{name} {}: {} bytes", kind.as_str(), body.len());
        assert!(!body.chars().any(char::is_control), "{name} {}", kind.as_str());
    }
    let text = Kind::Smtp.body(message);
    check(&format!("{name}.smtp.txt"), &format!("Subject: {}\n\n{text}", message.subject()));
    assert!(text.lines().count() <= MAIL_LINES_MAX && text.lines().all(|line| line.chars().count() < 700), "{text}");
}

#[test]
fn an_incident_is_told_as_in_the_golden_files() {
    let (mut detail, mut facts) = sample();
    let (mut early, nobody_fails) = (detail.clone(), Facts { failing: vec![], ..facts.clone() });
    let states = [ActionState::Leased, ActionState::Planned, ActionState::AwaitingApproval];
    for (action, state) in early.actions.iter_mut().zip(states) {
        (action.state, action.reason, action.finished_us, action.log_seq) = (state, None, None, None);
    }
    check_all("early", &message(&early, &nobody_fails, 1, Occasion::News));
    check_all("first", &message(&detail, &facts, 1, Occasion::News));
    check_all("update", &message(&detail, &facts, 2, Occasion::News));
    check_all("escalation", &message(&detail, &facts, 1, Occasion::Escalation));
    facts.acked_us = Some(AT_US);
    check(
        "acknowledged.pagerduty.json",
        &shown(Kind::PagerDuty, &Kind::PagerDuty.body(&message(&detail, &facts, 3, Occasion::News))),
    );
    (detail.summary.state, detail.summary.resolved_us) = (IncidentState::Resolved, Some(AT_US));
    detail.summary.resolved_by = Some("ann".into());
    detail.summary.resolution = Some("true_positive_contained".into());
    check_all("resolved", &message(&detail, &facts, 4, Occasion::News));
}

#[test]
fn hostile_text_harms_no_receiver() {
    let (detail, facts) = hostile();
    let message = message(&detail, &facts, 2, Occasion::News);
    check_all("hostile", &message);
    for kind in [Kind::Slack, Kind::Teams, Kind::Sns, Kind::PagerDuty, Kind::Webhook, Kind::Syslog, Kind::Smtp] {
        let body = kind.body(&message);
        for hidden in ['\u{202e}', '\u{202c}', '\u{feff}', '\u{200d}', '\u{2028}', '\u{1b}', '\0'] {
            assert!(!body.contains(hidden), "{} holds {hidden:?}", kind.as_str());
        }
        assert!(!body.contains("\r\nBcc") && !body.contains("\nBcc"), "{}", kind.as_str());
    }
    assert!(Kind::Syslog.body(&message).is_ascii());
    let slack: Value = serde_json::from_str(&Kind::Slack.body(&message)).unwrap();
    assert!(!slack["text"].as_str().unwrap().contains('<'), "a mention in the one field that Slack formats");
}

#[test]
fn pages_and_signs_of_life_are_told_as_in_the_golden_files() {
    let id = IncidentId::new("I-0123456789ab");
    let page = |incident, kind, text, heartbeat| {
        let message_id = "page.dead-action.1@0123.keytrail.invalid";
        Message::Page(Page { incident, kind, text, message_id, at_us: AT_US, heartbeat })
    };
    check_all("page", &page(Some(&id), "dead-action", "restore_key_policy could not be carried out", false));
    check_all("heartbeat", &page(None, "heartbeat", &crate::notify::heartbeat::words([1, 0, 2, 1, 3]), true));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mail_of_a_hostile_incident_is_clean_on_the_wire() {
    let sink = SmtpSink::start().await;
    let (detail, facts) = hostile();
    let message = message(&detail, &facts, 2, Occasion::News);
    let notice = Notice {
        row: 1,
        incident: Some(detail.summary.id.clone()),
        channel: "soc".into(),
        recipient: String::new(),
        number: 2,
        message_id: MESSAGE_ID.into(),
        in_reply_to: Some("I-0123456789ab.1.soc@0123.keytrail.invalid".into()),
        subject: message.subject(),
        body: Kind::Smtp.body(&message),
        attempts: 0,
        created_us: AT_US,
    };
    let dir = tempfile::tempdir().unwrap();
    let key_file = dir.path().join("dkim.pem");
    std::fs::write(&key_file, DKIM_KEY).unwrap();
    std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let dkim = DkimSettings { domain: "example.org".into(), selector: "keytrail".into(), key_file };
    let settings = SmtpSettings { dkim: Some(dkim), ..crate::notify::smtp_tests::settings(sink.port) };
    use crate::notify::Channel as _;
    Mailer::new(&settings).unwrap().deliver(&notice).await.unwrap();
    let raw = sink.mails().remove(0);
    crate::notify::smtp_tests::assert_clean(&raw);
    check("hostile.eml", &String::from_utf8(raw).unwrap().replace("\r\n", "\n"));
}
