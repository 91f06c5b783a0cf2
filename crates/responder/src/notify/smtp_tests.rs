//! Mail against servers that fail in every way that a server can, and the bytes that leave us.
//!
//! Faults that Postfix's `smtp-sink` knows come from it (`make test` installs it); what it does not know is scripted.
//! TLS, AUTH LOGIN and a real mail server are tested through the command, in tests/clients/test_notices.py.
#![allow(clippy::unwrap_used)]

use crate::config::{SmtpSettings, TlsMode};
use crate::notify::queue::Notice;
use crate::notify::render::{Message, Occasion, clean};
use crate::notify::smtp::{MailError, Mailer};
use crate::notify::{Channel as _, DeliveryError};
use crate::testing::{SmtpSink, hostile_detail, hostile_facts, notice, story};
use std::net::TcpStream;
use std::process::{Child, Command};
use std::time::Duration;

pub(crate) fn settings(port: u16) -> SmtpSettings {
    SmtpSettings {
        host: "127.0.0.1".into(),
        port,
        tls: TlsMode::None,
        ca_file: None,
        username: None,
        password_file: None,
        from: "Keytrail <keytrail@example.org>".into(),
        to: vec!["soc@example.org".into()],
        timeout: Duration::from_secs(5),
        dkim: None,
    }
}

/// No bare CR or LF, no byte beyond printable ASCII, no line that a server could take for a command's end.
pub(crate) fn assert_clean(raw: &[u8]) {
    for (index, byte) in raw.iter().enumerate() {
        match byte {
            b'\r' => assert_eq!(raw.get(index + 1), Some(&b'\n'), "bare CR at {index}"),
            b'\n' => assert_eq!(raw.get(index.wrapping_sub(1)), Some(&b'\r'), "bare LF at {index}"),
            other => assert!((b' '..=b'~').contains(other), "byte {other} at {index}"),
        }
    }
    let text = String::from_utf8(raw.to_vec()).unwrap();
    assert!(text.lines().all(|line| line.len() <= 998 && !line.starts_with('.')), "{text}");
    assert!(text.contains("Content-Transfer-Encoding: base64"));
}

fn to(notice: &Notice, recipient: &str) -> Notice {
    Notice { recipient: recipient.into(), ..notice.clone() }
}

fn is_later(result: &Result<(), DeliveryError>) -> bool {
    matches!(result, Err(DeliveryError::Later(_)))
}

#[test]
fn unsafe_or_incomplete_settings_are_refused() {
    let check = |change: &dyn Fn(&mut SmtpSettings)| {
        let mut changed = settings(25);
        change(&mut changed);
        Mailer::new(&changed).err()
    };
    assert!(check(&|_| ()).is_none());
    assert!(matches!(check(&|s| s.host = "mx.example.org".into()), Some(MailError::Plaintext(_))));
    assert!(matches!(check(&|s| s.to.clear()), Some(MailError::NoReceiver)));
    assert!(matches!(check(&|s| s.username = Some("u".into())), Some(MailError::HalfLogin)));
    assert!(matches!(check(&|s| s.from = "no address\r\n".into()), Some(MailError::Address { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_text_reaches_the_wire_only_as_base64() {
    let sink = SmtpSink::start().await;
    let mut hostile = notice("line\r.\r\n.\nMAIL FROM:<evil@example.org>\rX\u{0}\n.\r\n");
    hostile.subject = format!("subject\r\nBcc: evil@example.org\u{0}{}", "👩‍👩‍👧é漢\u{202e}".repeat(40));
    hostile.in_reply_to = Some("I-1.1.mail@x".into());
    Mailer::new(&settings(sink.port)).unwrap().deliver(&hostile).await.unwrap();
    let raw = sink.mails().remove(0);
    assert_clean(&raw);
    let mail = String::from_utf8(raw).unwrap();
    assert!(mail.contains("Message-ID: <I-1.2.mail@x>") && mail.contains("References: <I-1.1.mail@x>"));
    assert!(!mail.contains("evil"), "{mail}");
    assert!(!mail.lines().any(|line| line.starts_with("Bcc:") || line.starts_with('.')));
    assert_eq!(sink.receivers(), ["RCPT TO:<soc@example.org>"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_recipient_has_a_delivery_of_its_own() {
    let sink = SmtpSink::start().await;
    let all = ["good@example.org", "gone@example.org", "later@example.org", "o'dd+name@example.org"];
    let mailer = Mailer::new(&SmtpSettings { to: all.map(str::to_owned).to_vec(), ..settings(sink.port) }).unwrap();
    assert_eq!(mailer.recipients(), all);
    sink.answer("RCPT TO:<gone@", "550 5.1.1 nobody");
    sink.answer("RCPT TO:<later@", "450 4.2.1 greylisted");
    let one = notice("text");
    assert!(mailer.deliver(&to(&one, all[0])).await.is_ok());
    assert!(is_later(&mailer.deliver(&to(&one, all[1])).await));
    assert!(is_later(&mailer.deliver(&to(&one, all[2])).await));
    assert!(mailer.deliver(&to(&one, all[3])).await.is_ok());
    // A misconfigured relay has some attempts to get better; then a refusal is believed.
    let last = Notice { attempts: 7, ..to(&one, all[1]) };
    assert!(matches!(mailer.deliver(&last).await, Err(DeliveryError::Never(reason)) if reason.contains("nobody")));
    assert_eq!(sink.mails().len(), 2);
    assert!(sink.receivers().contains(&"RCPT TO:<o'dd+name@example.org>".to_owned()));
    for mail in sink.mails() {
        assert!(String::from_utf8(mail).unwrap().contains("Message-ID: <I-1.2.mail@x>"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_but_valid_addresses_reach_the_wire_in_ascii() {
    let sink = SmtpSink::start().await;
    let odd =
        [r#""two words"@example.org"#, r#""a\"b"@example.org"#, "Büro <soc@bücher.example>", "soc@日本語.example"];
    let mailer = Mailer::new(&SmtpSettings { to: odd.map(str::to_owned).to_vec(), ..settings(sink.port) }).unwrap();
    let recipients = mailer.recipients();
    for recipient in &recipients {
        mailer.deliver(&to(&notice("text"), recipient)).await.unwrap();
    }
    let wire = [
        r#"RCPT TO:<"two words"@example.org>"#,
        r#"RCPT TO:<"a\"b"@example.org>"#,
        "RCPT TO:<soc@xn--bcher-kva.example>",
        "RCPT TO:<soc@xn--wgv71a119e.example>",
    ];
    assert_eq!(sink.receivers(), wire);
    for mail in sink.mails() {
        assert_clean(&mail);
        let mail = String::from_utf8(mail).unwrap();
        assert!(mail.contains("<soc@xn--bcher-kva.example>") && mail.contains("=?utf-8?"), "{mail}");
    }
    let unspoken = Mailer::new(&SmtpSettings { to: vec!["büro@example.org".into()], ..settings(sink.port) }).err();
    assert!(matches!(unspoken, Some(MailError::NotAscii(address)) if address == "büro@example.org"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_is_smaller_than_what_every_server_must_take_and_one_that_takes_less_is_believed_in_the_end() {
    let sink = SmtpSink::start().await;
    sink.answer("EHLO", "250-sink\r\n250 SIZE 1000");
    sink.answer("MAIL", "552 5.3.4 message too big");
    let mailer = Mailer::new(&settings(sink.port)).unwrap();
    let one = notice(&"x".repeat(2_000));
    assert!(is_later(&mailer.deliver(&one).await), "a relay may be repaired");
    let last = Notice { attempts: 7, ..one };
    assert!(matches!(mailer.deliver(&last).await, Err(DeliveryError::Never(reason)) if reason.contains("too big")));
    // RFC 5321, 4.5.3.1.7: 64 KiB.
    let sink = SmtpSink::start().await;
    let (mut detail, mut facts) = (hostile_detail(1_000), hostile_facts(1_000));
    let long = "漢".repeat(5_000);
    detail.summary.principal = Some(long.clone());
    detail.alerts.iter_mut().for_each(|alert| alert.title.clone_from(&long));
    detail.actions.iter_mut().for_each(|action| (action.target, action.reason) = (long.clone(), Some(long.clone())));
    facts.queries = vec![clean(&long, 400); 3];
    let message = Message::Incident(story(&detail, &facts, 2, Occasion::Rescue));
    let longest = Notice { subject: message.subject(), ..notice(&message.text()) };
    Mailer::new(&settings(sink.port)).unwrap().deliver(&longest).await.unwrap();
    let mail = sink.mails().remove(0);
    assert!(mail.len() < 64 * 1024, "{} bytes", mail.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_kept_and_one_that_died_meanwhile_costs_nothing() {
    let sink = SmtpSink::start().await;
    let (mailer, one) = (Mailer::new(&settings(sink.port)).unwrap(), notice("text"));
    // A connection is given back on a task of its own, so a mail right behind another may need a second one.
    while sink.mails().len() <= sink.connections() {
        mailer.deliver(&one).await.unwrap();
    }
    let before = sink.mails().len();
    // Closed at the question whether it lives, and at commands after it.
    for verb in ["NOOP", "MAIL", "DATA"] {
        sink.hang_up_at(verb, true);
        mailer.deliver(&one).await.unwrap();
    }
    assert_eq!(sink.mails().len(), before + 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_whose_end_was_not_answered_is_sent_again_under_its_message_id() {
    let sink = SmtpSink::start().await;
    let (mailer, one) = (Mailer::new(&settings(sink.port)).unwrap(), notice("text"));
    sink.hang_up_at(".", true);
    assert!(is_later(&mailer.deliver(&one).await));
    mailer.deliver(&one).await.unwrap();
    let mails = sink.mails();
    assert_eq!(mails.len(), 2, "both have arrived");
    assert_eq!(mails[0], mails[1], "and are one to whoever looks at the Message-ID");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_for_later_or_none_gets_another_attempt() {
    for (verb, answer) in [
        ("CONNECT", Some("421 4.3.2 closing")),
        ("CONNECT", None),
        ("CONNECT", Some("nonsense")),
        ("EHLO", None),
        ("MAIL", Some("451 4.3.0 later")),
        ("MAIL", Some("550 5.7.1 not you")),
        ("MAIL", None),
        ("RCPT", None),
        ("DATA", Some("452 4.3.1 full")),
        ("DATA", None),
        (".", Some("451 4.3.0 later")),
        (".", Some("554 5.7.1 never")),
    ] {
        let sink = SmtpSink::start().await;
        match answer {
            Some(answer) => sink.answer(verb, answer),
            None => sink.hang_up_at(verb, false),
        }
        let result = Mailer::new(&settings(sink.port)).unwrap().deliver(&notice("text")).await;
        assert!(is_later(&result), "{verb} {answer:?}: {result:?}");
    }
    let port = SmtpSink::start().await.port;
    assert!(is_later(&Mailer::new(&settings(port)).unwrap().deliver(&notice("text")).await), "nobody listens");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_end_is_cut_off() {
    let sink = SmtpSink::start().await;
    sink.answer("EHLO", &format!("250-{}\r\n", "x".repeat(900)).repeat(2_000));
    let mailer = Mailer::new(&SmtpSettings { timeout: Duration::from_secs(1), ..settings(sink.port) }).unwrap();
    assert!(is_later(&mailer.deliver(&notice("text")).await));
    assert!(sink.receivers().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn starttls_that_is_required_is_never_done_without() {
    // Not offered; offered and refused; followed by plain text that a naive client would take for the server's.
    for (ehlo, answer) in [
        ("250 8BITMIME", None),
        ("250 STARTTLS", Some("454 4.7.0 no TLS today")),
        ("250 STARTTLS", Some("220 go\r\n250-injected\r\n250 AUTH PLAIN")),
    ] {
        let sink = SmtpSink::start().await;
        sink.answer("EHLO", &format!("250-sink\r\n{ehlo}"));
        if let Some(answer) = answer {
            sink.answer("STARTTLS", answer);
        }
        let dir = tempfile::tempdir().unwrap();
        let password = dir.path().join("password");
        std::fs::write(&password, "secret\n").unwrap();
        let starttls = SmtpSettings {
            tls: TlsMode::Starttls,
            username: Some("u".into()),
            password_file: Some(password),
            timeout: Duration::from_secs(2),
            ..settings(sink.port)
        };
        assert!(is_later(&Mailer::new(&starttls).unwrap().deliver(&notice("text")).await), "{answer:?}");
        assert!(sink.receivers().is_empty() && sink.mails().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_refused_sends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let password_file = dir.path().join("password");
    std::fs::write(&password_file, "secret\nsecond line\n").unwrap();
    for (answer, taken) in [("235 2.7.0 in", true), ("535 5.7.8 no", false), ("454 4.7.0 later", false)] {
        let sink = SmtpSink::start().await;
        sink.answer("EHLO", "250-sink\r\n250 AUTH PLAIN");
        // The name and the first line of the file, as PLAIN packs them.
        sink.answer("AUTH PLAIN AHUAc2VjcmV0", answer);
        let login = SmtpSettings {
            username: Some("u".into()),
            password_file: Some(password_file.clone()),
            ..settings(sink.port)
        };
        let result = Mailer::new(&login).unwrap().deliver(&notice("text")).await;
        assert_eq!(result.is_ok(), taken, "{answer}: {result:?}");
        assert_eq!(sink.mails().len(), usize::from(taken));
        if let Err(error) = result {
            assert!(!error.to_string().contains("secret") && !error.to_string().contains("AHUAc2VjcmV0"));
        }
    }
}

/// Postfix's `smtp-sink` with some fault.
struct PostfixSink {
    child: Child,
    port: u16,
}

impl PostfixSink {
    fn start(flags: &[&str]) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("/usr/bin/env");
        command.env("PATH", path).arg("smtp-sink");
        // It refuses to stay root.
        if std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0) {
            command.args(["-u", "nobody"]);
        }
        let child = command.args(flags).args([&format!("127.0.0.1:{port}"), "16"]).spawn();
        let sink = Self { child: child.expect("start smtp-sink: run `make test`, which installs it"), port };
        for _ in 0..1_000 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return sink;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("smtp-sink did not start: run `make test`, which installs it");
    }
}

impl Drop for PostfixSink {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postfixs_sink_with_each_of_its_faults() {
    for (flags, taken) in [
        (&[][..], true),
        // Without ESMTP there is neither STARTTLS nor AUTH; lettre does not fall back to HELO.
        (&["-e"], false),
        (&["-8"], true),
        (&["-W", "data:1"], true),
        (&["-H", "1", "-T", "512"], true),
        (&["-Q", "connect"], false),
        (&["-q", "connect"], false),
        (&["-q", "ehlo"], false),
        (&["-q", "mail"], false),
        (&["-q", "rcpt"], false),
        (&["-q", "data"], false),
        (&["-q", "."], false),
        (&["-r", "mail"], false),
        (&["-r", "rcpt"], false),
        (&["-r", "data"], false),
        (&["-r", "."], false),
        (&["-f", "mail"], false),
        (&["-f", "rcpt"], false),
        (&["-f", "data"], false),
        (&["-f", "."], false),
        (&["-A", "1"], false),
    ] {
        let sink = PostfixSink::start(flags);
        let mailer = Mailer::new(&settings(sink.port)).unwrap();
        let result = mailer.deliver(&notice(&"a long body\n".repeat(2_000))).await;
        assert_eq!(result.is_ok(), taken, "{flags:?}: {result:?}");
        assert!(taken || is_later(&result), "{flags:?}: {result:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_its_time_has_the_bound_of_a_step() {
    let sink = PostfixSink::start(&["-W", "mail:30"]);
    let mailer = Mailer::new(&SmtpSettings { timeout: Duration::from_millis(500), ..settings(sink.port) }).unwrap();
    assert!(is_later(&mailer.deliver(&notice("text")).await));
}
