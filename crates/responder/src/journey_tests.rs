//! The whole responder over a real trail.db, a real SQLite outbox, an SMTP server and a KMS that counts effects.
#![allow(clippy::unwrap_used)]

use crate::config::{AllowedRule, Settings, SmtpSettings, TlsMode};
use crate::incident::{self, IncidentState};
use crate::notify::{Channel, Mailer};
use crate::outbox::ActionState;
use crate::playbook::Severity;
use crate::service::{Parts, Responder, RunLock, RunningResponder};
use crate::standing;
use crate::store::{Store, counted};
use crate::testing::{
    self, Bench, EventBuilder, FakeKms, SmtpSink, TrailDb, announcement, event, key_arn, principal_arn,
    shipped_playbooks,
};
use base64::Engine as _;
use keytrail_kms::clock::{Clock, FakeClock};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

struct Rig {
    dir: tempfile::TempDir,
    bench: Bench,
    trail: TrailDb,
    kms: Arc<FakeKms>,
    clock: Arc<FakeClock>,
    settings: Settings,
    enforce: bool,
    mail_port: Option<u16>,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bench = Bench::new();
        let trail = bench.folder(dir.path());
        let kms = FakeKms::open(&dir.path().join("effects"));
        let clock = Arc::new(FakeClock::default());
        clock.advance(Duration::from_secs(2));
        Self { dir, bench, trail, kms, clock, settings: Settings::default(), enforce: true, mail_port: None }
    }

    fn start(&self) -> RunningResponder {
        let lock = RunLock::take(self.dir.path()).unwrap();
        let channels: Vec<Arc<dyn Channel>> =
            self.mail_port.map(|port| mailer(port) as Arc<dyn Channel>).into_iter().collect();
        let parts = Parts {
            enforce: self.enforce,
            settings: self.settings.clone(),
            channels,
            ..testing::parts(self.dir.path(), self.kms.clone(), shipped_playbooks())
        };
        Responder::start_parts(parts, lock, self.clock.clone()).unwrap()
    }

    fn path(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    fn states(&self) -> Vec<(String, ActionState)> {
        let mut states = Vec::new();
        for summary in incident::list(&self.path(), 100).unwrap() {
            let detail = incident::show(&self.path(), summary.id.as_str()).unwrap().unwrap();
            states.extend(detail.actions.iter().map(|action| (action.kind.to_string(), action.state)));
        }
        states
    }

    fn state(&self) -> IncidentState {
        incident::list(&self.path(), 1).unwrap().remove(0).state
    }

    async fn settled(&self, actions: usize) {
        until("all actions are final", || {
            let states = self.states();
            states.len() >= actions && states.iter().all(|(_, state)| state.is_final())
        })
        .await;
    }

    async fn undo(&self, id: &str) -> incident::UndoReport {
        let clock: Arc<dyn Clock> = self.clock.clone();
        incident::undo(
            &self.path(),
            id,
            ("a test", incident::Resolution::Undone),
            self.kms.clone(),
            clock,
            Duration::from_secs(20),
        )
        .await
        .unwrap()
    }
}

fn mailer(port: u16) -> Arc<Mailer> {
    let settings = SmtpSettings {
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
    Arc::new(Mailer::new(&settings).unwrap())
}

pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..6_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came true that {what}");
}

fn body_of(mail: &[u8]) -> String {
    let text = String::from_utf8(mail.to_vec()).unwrap();
    let (_, body) = text.split_once("\r\n\r\n").unwrap();
    let packed: String = body.split_whitespace().collect();
    let text = String::from_utf8(base64::engine::general_purpose::STANDARD.decode(packed).unwrap()).unwrap();
    text.replace("\r\n", "\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_attack_is_contained_told_once_and_undone() {
    let sink = SmtpSink::start().await;
    let mut rig = Rig::new();
    rig.mail_port = Some(sink.port);
    for (key, state, open) in [("k1", "Enabled", true), ("k2", "Enabled", true), ("k3", "PendingDeletion", false)] {
        rig.kms.set_key(key, state, open);
    }
    let responder = rig.start();
    let open = |id: &str, key: &str| event("PutKeyPolicy").id(id).by("mallory").on_key(key).opened("e0");
    rig.trail.push(&rig.bench.alert("denied-burst", vec![event("Decrypt").denied().by("mallory")]).signed());
    let both = vec![open("e1", "k1"), open("e2", "k2").tagged("on-exposure", "disable")];
    rig.trail.push(&rig.bench.alert("key-policy-public", both).signed());
    let deletion = event("ScheduleKeyDeletion").id("e3").by("mallory").on_key("k3").was("Enabled");
    rig.trail.push(&rig.bench.alert("key-deletion-scheduled", vec![deletion]).signed());
    rig.settled(6).await;
    assert!(rig.kms.is_quarantined("mallory"));
    assert_eq!(rig.kms.key("k1"), ("Enabled".into(), false));
    assert_eq!(rig.kms.key("k2"), ("Disabled".into(), false));
    assert_eq!(rig.kms.key("k3"), ("Enabled".into(), false));
    assert_eq!(rig.kms.effects().len(), 6);
    let list = incident::list(&rig.path(), 10).unwrap();
    assert_eq!(list.len(), 1, "one principal, one incident");
    until("it is contained", || rig.state() == IncidentState::Contained).await;
    until("the first mail arrived", || sink.mails().len() == 1).await;

    // All that was done is told: by an update, or by the first mail if that was written late.
    rig.clock.advance(Duration::from_secs(5));
    let complete = || sink.mails().iter().map(|mail| body_of(mail)).find(|mail| mail.contains(", contained: "));
    until("a mail told all of it", || complete().is_some()).await;
    let mail = complete().unwrap();
    for expected in ["contained", "denied-burst", "key-policy-public", "key-deletion-scheduled", "quarantine_principal"]
    {
        assert!(mail.contains(expected), "{expected} in\n{mail}");
    }
    assert!(mail.contains(&principal_arn("mallory")) && mail.contains(&key_arn("k2")));
    assert!(mail.contains("STILL OPEN\n  nothing"), "{mail}");

    let told = sink.mails().len();
    let report = rig.undo(list[0].id.as_str()).await;
    assert!(report.complete);
    assert_eq!(report.actions.len(), 2);
    assert_eq!(report.left.len(), 3, "{:?}", report.left);
    assert!(!rig.kms.is_quarantined("mallory"));
    assert_eq!(rig.kms.key("k2"), ("Enabled".into(), false), "the policy is not opened again");
    assert_eq!(rig.kms.key("k3"), ("Enabled".into(), false), "the deletion is not scheduled again");
    let detail = incident::show(&rig.path(), list[0].id.as_str()).unwrap().unwrap();
    assert_eq!(detail.summary.state, IncidentState::Resolved);
    rig.clock.advance(Duration::from_secs(5));
    until("the follow-up arrived", || sink.mails().len() == told + 1).await;
    let follow_up = String::from_utf8(sink.mails()[told].clone()).unwrap();
    assert!(follow_up.contains(&format!("References: <{}.1.mail@", list[0].id)), "{follow_up}");
    responder.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn undo_works_when_no_responder_runs_and_can_be_asked_twice() {
    let rig = Rig::new();
    rig.kms.set_key("k2", "Enabled", true);
    let responder = rig.start();
    let open = event("PutKeyPolicy").by("mallory").on_key("k2").opened("e0").tagged("on-exposure", "disable");
    rig.trail.push(&rig.bench.alert("key-policy-public", vec![open]).signed());
    rig.settled(2).await;
    responder.shutdown().await;
    assert_eq!(rig.kms.key("k2").0, "Disabled");
    let id = incident::list(&rig.path(), 1).unwrap().remove(0).id;
    assert!(rig.undo(id.as_str()).await.complete);
    assert!(rig.undo(id.as_str()).await.complete);
    assert_eq!(rig.kms.key("k2").0, "Enabled");
    let enables = rig.kms.effects().into_iter().filter(|(call, _)| call == "EnableKey").count();
    assert_eq!(enables, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn undo_leaves_what_another_open_incident_relies_on_until_that_one_is_undone() {
    let rig = Rig::new();
    rig.kms.set_key("k2", "Enabled", true);
    let responder = rig.start();
    for (who, id, before) in [("mallory", "e1", "e0"), ("eve", "e2", "e1")] {
        let open = event("PutKeyPolicy").id(id).by(who).on_key("k2").opened(before).tagged("on-exposure", "disable");
        rig.trail.push(&rig.bench.alert("key-policy-public", vec![open]).signed());
        let disables = || rig.states().iter().filter(|(kind, _)| kind == "disable_key").count();
        until("it is planned", || disables() == if who == "eve" { 2 } else { 1 }).await;
        rig.clock.advance(Duration::from_secs(30));
        rig.settled(1).await;
    }
    let with = |who: &str| {
        let mut list = incident::list(&rig.path(), 10).unwrap().into_iter();
        list.find(|one| one.principal.as_deref() == Some(principal_arn(who).as_str())).unwrap().id
    };
    let (first, second) = (with("mallory"), with("eve"));
    let undone = rig.undo(first.as_str()).await;
    assert!(undone.complete && undone.left.iter().any(|left| left.contains(second.as_str())), "{undone:?}");
    assert_eq!(rig.kms.key("k2").0, "Disabled", "the other incident is open");
    assert!(rig.undo(second.as_str()).await.complete);
    assert_eq!(rig.kms.key("k2").0, "Enabled");
    let again = rig.undo(first.as_str()).await;
    assert!(again.complete, "{again:?}");
    responder.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_does_not_take_back_what_was_refused_to_us_and_done_by_somebody_else() {
    let rig = Rig::new();
    rig.kms.set_key("k2", "Enabled", true);
    rig.kms.refuse("DisableKey");
    let responder = rig.start();
    let open = event("PutKeyPolicy").by("mallory").on_key("k2").opened("e0").tagged("on-exposure", "disable");
    rig.trail.push(&rig.bench.alert("key-policy-public", vec![open]).signed());
    until("it was refused", || rig.states().contains(&("disable_key".into(), ActionState::Failed))).await;
    rig.kms.set_key("k2", "Disabled", false);
    let id = incident::list(&rig.path(), 1).unwrap().remove(0).id;
    assert!(rig.undo(id.as_str()).await.complete);
    assert_eq!(rig.kms.key("k2").0, "Disabled");
    responder.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_enforce_it_observes() {
    let mut rig = Rig::new();
    rig.enforce = false;
    let responder = rig.start();
    rig.trail.push(&rig.bench.alert("denied-burst", vec![event("Decrypt").denied().by("mallory")]).signed());
    rig.settled(1).await;
    assert_eq!(rig.states(), [("quarantine_principal".into(), ActionState::Observed)]);
    assert!(rig.kms.calls().is_empty());
    responder.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_alerts_do_nothing_and_page_once() {
    let sink = SmtpSink::start().await;
    let mut rig = Rig::new();
    rig.mail_port = Some(sink.port);
    let responder = rig.start();
    let good = || rig.bench.alert("denied-burst", vec![event("Decrypt").denied().by("alice")]);
    rig.trail.push(&good().signed_by_stranger().signed());
    rig.trail.push(&good().bucket(1).signed_by_stranger().signed());
    rig.trail.push(&good().bucket(2).checkpoint_by_stranger().signed());
    rig.trail.push(&good().bucket(3).evidence_changed().signed());
    rig.trail.push(&good().bucket(4).rule_hash("00").signed());
    until("all were refused", || responder.store().read_now(|db| counted(db, "refused")).unwrap() == 5).await;
    until("each kind was paged", || sink.mails().len() == 4).await;
    assert!(rig.states().is_empty() && rig.kms.calls().is_empty());
    assert!(incident::list(&rig.path(), 10).unwrap().is_empty());
    responder.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mail_waits_for_its_server_and_the_action_does_not() {
    let gone = SmtpSink::start().await;
    let port = gone.port;
    drop(gone);
    let mut rig = Rig::new();
    rig.mail_port = Some(port);
    let responder = rig.start();
    rig.trail.push(&rig.bench.alert("denied-burst", vec![event("Decrypt").denied().by("mallory")]).signed());
    rig.settled(1).await;
    assert!(rig.kms.is_quarantined("mallory"));
    rig.clock.advance(Duration::from_secs(6));
    let failed = || {
        responder
            .store()
            .read_now(|db| Ok(db.query_row("SELECT coalesce(max(attempts), 0) FROM notices", [], |row| row.get(0))?))
            .unwrap_or(0_i64)
    };
    until("a delivery failed", || failed() > 0).await;
    let sink = SmtpSink::start_on(port).await;
    rig.clock.advance(Duration::from_secs(600));
    until("the mail arrived", || !sink.mails().is_empty()).await;
    responder.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_kms_and_lost_answers_lead_to_one_effect() {
    let rig = Rig::new();
    rig.kms.set_key("k2", "Enabled", true);
    rig.kms.unreachable_for(2);
    rig.kms.lose_answers(2);
    let responder = rig.start();
    let open = event("PutKeyPolicy").by("mallory").on_key("k2").opened("e0").tagged("on-exposure", "disable");
    rig.trail.push(&rig.bench.alert("key-policy-public", vec![open]).signed());
    until("both took effect", || {
        rig.clock.advance(Duration::from_millis(200));
        let states = rig.states();
        states.len() == 2 && states.iter().all(|(_, state)| *state == ActionState::Done)
    })
    .await;
    assert_eq!(rig.kms.effects().len(), 2);
    responder.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_changed_the_target_since_is_not_overruled() {
    let rig = Rig::new();
    rig.kms.set_other_policy("k1");
    let responder = rig.start();
    let open = event("PutKeyPolicy").by("mallory").on_key("k1").opened("e0");
    rig.trail.push(&rig.bench.alert("key-policy-public", vec![open]).signed());
    rig.settled(1).await;
    assert_eq!(rig.states(), [("restore_key_policy".into(), ActionState::Suppressed)]);
    assert!(rig.kms.effects().is_empty());
    assert_eq!(incident::list(&rig.path(), 1).unwrap()[0].state, IncidentState::Open);
    responder.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_somebody_put_back_before_us_is_back() {
    let rig = Rig::new();
    rig.kms.set_key("k1", "Enabled", false);
    let responder = rig.start();
    let open = event("PutKeyPolicy").by("mallory").on_key("k1").opened("e0");
    rig.trail.push(&rig.bench.alert("key-policy-public", vec![open]).signed());
    rig.settled(1).await;
    assert_eq!(rig.states(), [("restore_key_policy".into(), ActionState::Done)]);
    assert!(rig.kms.effects().is_empty());
    until("it is contained", || rig.state() == IncidentState::Contained).await;
    responder.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replays_restarts_and_our_own_events_add_nothing() {
    let rig = Rig::new();
    rig.kms.set_key("k2", "Enabled", true);
    let alert = || {
        let open = event("PutKeyPolicy").by("mallory").on_key("k2").opened("e0").tagged("on-exposure", "disable");
        rig.bench.alert("key-policy-public", vec![open])
    };
    let responder = rig.start();
    rig.trail.push(&alert().signed());
    rig.settled(2).await;
    rig.trail.push(&alert().revision(1).signed());
    let alerts = || {
        let id = incident::list(&rig.path(), 1).unwrap().remove(0).id;
        incident::show(&rig.path(), id.as_str()).unwrap().unwrap().alerts
    };
    until("the revision was taken in", || alerts().iter().any(|alert| alert.revision == 1)).await;
    until("it is contained", || rig.state() == IncidentState::Contained).await;
    let id = incident::list(&rig.path(), 1).unwrap().remove(0).id;
    let detail = incident::show(&rig.path(), id.as_str()).unwrap().unwrap();
    let ours = event("DisableKey").by_responder(Some(&detail.actions[0].id)).on_key("k2");
    rig.trail.push(&rig.bench.alert("key-disabled", vec![ours]).signed());
    let shown = || incident::show(&rig.path(), id.as_str()).unwrap().unwrap();
    until("our own event joined", || shown().alerts.iter().any(|alert| alert.ours)).await;
    responder.shutdown().await;
    // A position that was lost reads everything again.
    Store::open(rig.dir.path()).unwrap().write_now(|tx| Ok(tx.execute("DELETE FROM positions", [])?)).unwrap();
    let responder = rig.start();
    let calls = rig.kms.calls().len();
    let position = || responder.store().read_now(|db| crate::store::position(db, "trail.db")).unwrap();
    until("all was read again", || position() == Some(4)).await;
    assert_eq!(shown().actions.len(), 2);
    assert_eq!(incident::list(&rig.path(), 10).unwrap().len(), 1);
    assert_eq!(rig.kms.calls().len(), calls);
    responder.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_under_our_name_is_critical() {
    let rig = Rig::new();
    let responder = rig.start();
    let stray = event("DisableKey").by_responder(Some("unknown")).on_key("k1");
    rig.trail.push(&rig.bench.alert("key-disabled", vec![stray]).severity(Severity::Low).signed());
    until("it is critical", || {
        incident::list(&rig.path(), 1).unwrap().first().is_some_and(|one| one.severity == Severity::Critical)
    })
    .await;
    assert!(rig.kms.calls().is_empty());
    responder.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_breaker_survives_a_restart_and_a_storm_is_bounded() {
    let rig = Rig::new();
    let push = |number: usize| {
        let key = format!("k{number}");
        rig.kms.set_key(&key, "Enabled", true);
        let open = event("PutKeyPolicy").id(&key).by(&key).on_key(&key).opened("e0").tagged("on-exposure", "disable");
        rig.trail.push(&rig.bench.alert("key-policy-public", vec![open]).signed());
    };
    let responder = rig.start();
    (0..2).for_each(push);
    rig.settled(4).await;
    responder.shutdown().await;
    let responder = rig.start();
    (2..20).for_each(push);
    rig.settled(40).await;
    let disabled = rig.kms.effects().into_iter().filter(|(call, _)| call == "DisableKey").count();
    assert_eq!(disabled, 3);
    assert!(rig.kms.effects().len() <= 20, "the playbook's own limit");
    responder.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_responder_is_refused() {
    let rig = Rig::new();
    let responder = rig.start();
    assert!(RunLock::take(rig.dir.path()).is_err());
    responder.shutdown().await;
    assert!(RunLock::take(rig.dir.path()).is_ok());
}

/// A quarantine that took effect, by an alert about one denied call.
async fn quarantined(rig: &Rig) -> incident::IncidentId {
    rig.trail.push(&rig.bench.alert("denied-burst", vec![event("Decrypt").denied().by("mallory")]).signed());
    rig.settled(1).await;
    incident::list(&rig.path(), 1).unwrap().remove(0).id
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_used_before_is_the_exposure_and_what_is_used_after_is_not_contained() {
    let rig = Rig::new();
    let used = |operation: &str, last: u64| {
        json!({ "PrincipalArn": principal_arn("mallory"), "KeyArn": key_arn("k1"), "Operation": operation,
            "EncryptionContext": { "tenant": "a" }, "Count": 3, "FirstSeq": last, "LastSeq": last })
    };
    rig.kms.was_used(used("Decrypt", 3));
    rig.kms.was_used(used("Encrypt", 4));
    let responder = rig.start();
    let id = quarantined(&rig).await;
    until("it is contained", || rig.state() == IncidentState::Contained).await;
    let exposure = incident::show(&rig.path(), id.as_str()).unwrap().unwrap().exposure.unwrap();
    let expected = json!([{ "principal": principal_arn("mallory"), "key": key_arn("k1"), "operation": "Decrypt",
        "context": { "tenant": "a" }, "count": 3 }]);
    assert_eq!((&exposure["uses"], &exposure["complete"]), (&expected, &json!(true)), "{exposure}");

    rig.kms.was_used(used("Decrypt", 99));
    rig.trail.push(&rig.bench.alert("denied-burst", vec![event("Decrypt").denied().by("mallory")]).bucket(9).signed());
    until("it is open again", || rig.state() == IncidentState::Open).await;
    let detail = incident::show(&rig.path(), id.as_str()).unwrap().unwrap();
    let why = detail.summary.not_contained.unwrap();
    assert!(why.contains("did Decrypt") && why.contains("log seq 99"), "{why}");
    responder.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_effect_that_is_gone_opens_it_again_and_what_cannot_be_told_is_not_contained() {
    let rig = Rig::new();
    let responder = rig.start();
    let id = quarantined(&rig).await;
    until("it is contained", || rig.state() == IncidentState::Contained).await;
    rig.kms.lift("mallory");
    rig.clock.advance(Duration::from_secs(61));
    until("it is open again", || rig.state() == IncidentState::Open).await;
    let shown = || incident::show(&rig.path(), id.as_str()).unwrap().unwrap();
    assert!(shown().summary.not_contained.unwrap().contains("is over"));

    rig.kms.unreachable_for(1_000_000);
    rig.clock.advance(Duration::from_secs(121));
    until("it says that nobody can tell", || {
        shown().summary.not_contained.is_some_and(|why| why.contains("not known"))
    })
    .await;
    responder.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_gets_the_timeline_once_in_order_and_linked() {
    let rig = Rig::new();
    let responder = rig.start();
    let id = quarantined(&rig).await;
    until("it is contained", || rig.state() == IncidentState::Contained).await;
    let deed = incident::Deed::Note("seen".into());
    incident::person::act_on(&rig.path(), id.as_str(), "alice", &deed, 5).unwrap();
    let shown = || incident::show(&rig.path(), id.as_str()).unwrap().unwrap();
    until("all of it is in the log", || shown().recorded_through == shown().timeline.len() as u64).await;
    responder.shutdown().await;
    let told: Vec<Value> =
        rig.kms.recorded().iter().flat_map(|body| body["Entries"].as_array().unwrap().clone()).collect();
    let timeline = shown().timeline;
    assert_eq!(told.len(), timeline.len());
    for (told, entry) in told.iter().zip(&timeline) {
        assert_eq!((&told["Number"], &told["Digest"]), (&json!(entry.number), &json!(entry.digest)));
        assert_eq!((&told["Text"], &told["Kind"]), (&json!(entry.text), &json!(entry.kind)));
    }
    assert_eq!(incident::timeline::fault(&timeline), None);
    let unsent = "SELECT count(*) FROM timeline_unsent";
    let left = Store::open_existing(rig.dir.path()).unwrap();
    assert_eq!(left.read_now(|db| Ok(db.query_row(unsent, [], |row| row.get::<_, i64>(0))?)).unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announced_change_is_left_alone_and_told() {
    let rig = Rig::new();
    rig.kms.set_key("k1", "Enabled", true);
    rig.kms.announce(announcement("lead", Some("k1"), None, &["PutKeyPolicy"]));
    let responder = rig.start();
    let open = event("PutKeyPolicy").by("mallory").on_key("k1").opened("e0").tagged("on-exposure", "disable");
    rig.trail.push(&rig.bench.alert("key-policy-public", vec![open]).signed());
    rig.settled(2).await;
    assert!(rig.states().iter().all(|(_, state)| *state == ActionState::Suppressed));
    assert!(rig.kms.effects().is_empty());
    responder.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn announcements_that_cannot_be_read_are_read_before_the_call() {
    for announced in [true, false] {
        let rig = Rig::new();
        rig.kms.set_key("k1", "Enabled", true);
        if announced {
            rig.kms.announce(announcement("lead", Some("k1"), None, &["PutKeyPolicy"]));
        }
        // The list at planning, and the first try of the action.
        rig.kms.unreachable_for(2);
        let responder = rig.start();
        let open = event("PutKeyPolicy").by("mallory").on_key("k1").opened("e0");
        rig.trail.push(&rig.bench.alert("key-policy-public", vec![open]).signed());
        until("it is decided", || {
            rig.clock.advance(Duration::from_millis(200));
            let states = rig.states();
            states.len() == 1 && states.iter().all(|(_, state)| state.is_final())
        })
        .await;
        let wanted = if announced { ActionState::Suppressed } else { ActionState::Done };
        assert_eq!(rig.states()[0].1, wanted);
        assert_eq!(rig.kms.effects().len(), usize::from(!announced));
        responder.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_responder_plans_and_holds_until_it_is_resumed_and_undo_works_all_the_same() {
    let rig = Rig::new();
    for key in ["k1", "k2"] {
        rig.kms.set_key(key, "Enabled", true);
    }
    let open = |key: &str| {
        let call = event("PutKeyPolicy").id(key).by(key).on_key(key).opened("e0").tagged("on-exposure", "disable");
        rig.bench.alert("key-policy-public", vec![call]).signed()
    };
    let responder = rig.start();
    rig.trail.push(&open("k1"));
    rig.settled(2).await;
    let decide = |pause: bool| {
        Store::open_existing(&rig.path())
            .unwrap()
            .write_now(|tx| {
                let done =
                    if pause { standing::pause(tx, "ann", "drill", 1) } else { standing::resume(tx, "ann", "over", 2) };
                done.unwrap();
                Ok(())
            })
            .unwrap();
    };
    decide(true);
    rig.trail.push(&open("k2"));
    until("it is planned", || rig.states().len() == 4).await;
    let first =
        incident::list(&rig.path(), 9).unwrap().into_iter().find(|one| one.principal == Some(principal_arn("k1")));
    assert!(rig.undo(first.unwrap().id.as_str()).await.complete);
    assert_eq!(rig.kms.key("k1").0, "Enabled", "undone while paused");
    assert_eq!(rig.kms.key("k2"), ("Enabled".into(), true), "nothing was carried out");
    assert_eq!(rig.states().iter().filter(|(_, state)| *state == ActionState::Ready).count(), 2);
    until("the log was told", || rig.kms.reports().iter().any(|report| report["Kind"] == "pause")).await;
    decide(false);
    rig.settled(5).await;
    assert_eq!(rig.kms.key("k2"), ("Disabled".into(), false));
    responder.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_announcements_that_is_refused_holds_and_pages() {
    let sink = SmtpSink::start().await;
    let mut rig = Rig::new();
    rig.mail_port = Some(sink.port);
    rig.kms.set_key("k1", "Enabled", true);
    rig.kms.refuse_lists();
    let responder = rig.start();
    let open = event("PutKeyPolicy").by("mallory").on_key("k1").opened("e0");
    rig.trail.push(&rig.bench.alert("key-policy-public", vec![open]).signed());
    rig.settled(1).await;
    assert_eq!(rig.states()[0].1, ActionState::Suppressed);
    assert!(rig.kms.effects().is_empty());
    until("somebody is paged", || sink.mails().iter().any(|mail| body_of(mail).contains("A guard failed"))).await;
    responder.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_neither_the_old_nor_the_offending_one_is_not_contained() {
    let rig = Rig::new();
    rig.kms.set_key("k1", "Enabled", true);
    let responder = rig.start();
    let open = event("PutKeyPolicy").by("mallory").on_key("k1").opened("e0");
    rig.trail.push(&rig.bench.alert("key-policy-public", vec![open]).signed());
    rig.settled(1).await;
    until("it is contained", || rig.state() == IncidentState::Contained).await;
    rig.kms.set_other_policy("k1");
    rig.trail.push(&rig.bench.alert("many-contexts", vec![event("Decrypt").by("mallory").on_key("k1")]).signed());
    until("it is open again", || rig.state() == IncidentState::Open).await;
    let id = incident::list(&rig.path(), 1).unwrap().remove(0).id;
    let why = || incident::show(&rig.path(), id.as_str()).unwrap().unwrap().summary.not_contained.unwrap_or_default();
    until("it says why", || why().contains("another policy than the one that was put back")).await;
    responder.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_of_rules_that_were_in_force_are_taken_in_and_of_others_refused() {
    let rig = Rig::new();
    let responder = rig.start();
    let changed = Bench::rules().into_iter().map(|rule| AllowedRule { hash: "11".repeat(32), ..rule });
    responder.allow_rules(&changed.collect::<Vec<_>>()).unwrap();
    rig.trail.push(&rig.bench.alert("denied-burst", vec![event("Decrypt").denied().by("mallory")]).signed());
    rig.settled(1).await;
    let stranger =
        rig.bench.alert("denied-burst", vec![event("Decrypt").denied().by("eve")]).rule_hash(&"22".repeat(32));
    rig.trail.push(&stranger.signed());
    let refused = "SELECT count(*) FROM refused";
    let count = || responder.store().read_now(|db| Ok(db.query_row(refused, [], |row| row.get::<_, i64>(0))?)).unwrap();
    until("the stranger's is refused", || count() == 1).await;
    assert_eq!(incident::list(&rig.path(), 10).unwrap().len(), 1);
    responder.shutdown().await;
}

#[test]
fn sessions_of_one_role_are_one_principal() {
    let bench = Bench::new();
    let session = |role: &str, name: &str| {
        let mut one = event("Decrypt").in_role(role, None);
        one.rename_session(name);
        one
    };
    let of = |calls: Vec<EventBuilder>| {
        let alert = bench.alert("many-contexts", calls).about("").verified();
        alert.principal().map(str::to_owned)
    };
    let last = Some("arn:aws:sts::111122223333:assumed-role/app/two".to_owned());
    assert_eq!(of(vec![session("app", "one"), session("app", "two")]), last);
    assert_eq!(of(vec![session("app", "one"), session("web", "two")]), None);
    assert_eq!(of(vec![event("Decrypt").by("m"), session("app", "two")]), None);
    let both = vec![session("app", "one"), session("app", "two"), event("Decrypt").by("m")];
    let named = bench.alert("many-contexts", both).about("arn:aws:iam::111122223333:role/app").verified();
    assert_eq!(named.principal().map(str::to_owned), last, "a rule that names the role");
}
