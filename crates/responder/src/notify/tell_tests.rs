//! Who is told when: alerts go in through `ingest`, time is moved by hand, receivers are recorded.
#![allow(clippy::unwrap_used)]

use crate::config::{Limits, NotifySettings, Protected, Settings};
use crate::guard::Outside;
use crate::incident::{self, IncidentId, IncidentState, Resolution};
use crate::ingest::{Outcome, Rules, take_in};
use crate::intake::RawAlert;
use crate::notify::ledger;
use crate::notify::queue::Notice;
use crate::notify::receivers::Kind;
use crate::notify::route::RouteSettings;
use crate::notify::{Channel, DeliveryError, Notifier, silence};
use crate::playbook::Severity;
use crate::standing;
use crate::status;
use crate::store::{Micros, Store, counted};
use crate::testing::{Bench, EventBuilder, event};
use async_trait::async_trait;
use keytrail_kms::clock::{Clock as _, FakeClock};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// Remembers what it took; fails while told to.
struct Recorded {
    name: String,
    recipients: Vec<String>,
    taken: Mutex<Vec<Notice>>,
    fails: Mutex<Option<fn() -> DeliveryError>>,
}

#[async_trait]
impl Channel for Recorded {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> Kind {
        Kind::Smtp
    }

    fn recipients(&self) -> Vec<String> {
        self.recipients.clone()
    }

    async fn deliver(&self, notice: &Notice) -> Result<(), DeliveryError> {
        if let Some(fail) = *self.fails.lock().unwrap() {
            return Err(fail());
        }
        self.taken.lock().unwrap().push(notice.clone());
        Ok(())
    }
}

struct Rig {
    dir: tempfile::TempDir,
    bench: Bench,
    clock: Arc<FakeClock>,
    channels: Vec<Arc<Recorded>>,
    notifier: Arc<Notifier>,
    store: Store,
    position: Mutex<i64>,
}

impl Rig {
    fn new(receivers: &[&str], change: impl Fn(&mut Settings)) -> Self {
        let (dir, clock) = (tempfile::tempdir().unwrap(), Arc::new(FakeClock::default()));
        let channel = |name: &&str| {
            let recipients = if *name == "two" { vec!["a@x".into(), "b@x".into()] } else { vec![] };
            Arc::new(Recorded { name: (*name).into(), recipients, taken: Mutex::default(), fails: Mutex::new(None) })
        };
        let channels: Vec<Arc<Recorded>> = receivers.iter().map(channel).collect();
        let store = Store::open(dir.path()).unwrap();
        let (notifier, bench, position) = (notifier(&store, &clock, &channels, &change), Bench::new(), Mutex::new(1));
        Self { dir, bench, clock, channels, notifier, store, position }
    }

    /// Takes in an alert of this severity about these calls; gives its incident.
    fn alert(&self, severity: Severity, events: Vec<EventBuilder>) -> IncidentId {
        let mut position = self.position.lock().unwrap();
        *position += 1;
        let alert = self.bench.alert("denied-burst", events).severity(severity).bucket(*position).verified();
        let raw = RawAlert { source: "t".into(), position: *position, json: vec![], signature: vec![] };
        let rules = Rules {
            playbooks: vec![],
            enforce: true,
            limits: Limits::default(),
            protected: Protected::default(),
            windows: vec![],
            aws: Vec::new(),
            tell_from: Severity::Low,
        };
        match self.store.write_now(|tx| take_in(tx, &rules, &raw, &Ok(alert), &Outside::default(), self.now())).unwrap()
        {
            Outcome::Joined { incident, .. } => incident,
            other => panic!("{other:?}"),
        }
    }

    fn by(&self, severity: Severity, who: &str) -> IncidentId {
        self.alert(severity, vec![event("Decrypt").denied().by(who)])
    }

    fn now(&self) -> Micros {
        self.clock.now_us().try_into().unwrap()
    }

    async fn after(&self, wait: Duration) {
        self.clock.advance(wait);
        self.notifier.write_due().await.unwrap();
        for channel in &self.channels {
            while self.notifier.deliver_due(channel.as_ref()).await.unwrap() > 0 {}
        }
    }

    /// Time goes by in steps, as it does.
    async fn later(&self, steps: u32, step: Duration) {
        for _ in 0..steps {
            self.after(step).await;
        }
    }

    fn channel(&self, name: &str) -> &Recorded {
        self.channels.iter().find(|channel| channel.name == name).unwrap()
    }

    fn taken(&self, name: &str) -> Vec<Notice> {
        self.channel(name).taken.lock().unwrap().clone()
    }

    fn counts(&self) -> Vec<usize> {
        self.channels.iter().map(|channel| channel.taken.lock().unwrap().len()).collect()
    }

    fn fail(&self, name: &str, how: Option<fn() -> DeliveryError>) {
        *self.channel(name).fails.lock().unwrap() = how;
    }

    fn news(&self, id: &IncidentId) {
        self.store.write_now(|tx| incident::tell(tx, id, self.now())).unwrap();
    }

    fn timeline(&self, id: &IncidentId) -> String {
        let detail = incident::show(self.dir.path(), id.as_str()).unwrap().unwrap();
        detail.timeline.iter().map(|entry| format!("{}: {}\n", entry.kind, entry.text)).collect()
    }
}

fn notifier(
    store: &Store,
    clock: &Arc<FakeClock>,
    channels: &[Arc<Recorded>],
    change: impl Fn(&mut Settings),
) -> Arc<Notifier> {
    let mut settings =
        Settings { notify: NotifySettings { heartbeat: None, ..NotifySettings::default() }, ..Settings::default() };
    change(&mut settings);
    let channels = channels.iter().map(|channel| Arc::clone(channel) as Arc<dyn Channel>).collect();
    Notifier::new(store.clone(), clock.clone(), &settings, channels).unwrap()
}

fn route(text: &str) -> RouteSettings {
    toml::from_str(text).unwrap()
}

fn down() -> DeliveryError {
    DeliveryError::Later("down".into())
}

fn refused() -> DeliveryError {
    DeliveryError::Never("refused".into())
}

#[tokio::test]
async fn high_is_told_at_once_the_rest_after_quiet_time_and_updates_are_threaded() {
    let rig = Rig::new(&["soc", "two"], |_| ());
    let (high, medium) = (rig.by(Severity::High, "h"), rig.by(Severity::Medium, "m"));
    rig.after(Duration::ZERO).await;
    assert_eq!(rig.counts(), [1, 2], "one receiver with two recipients has two deliveries");
    rig.after(Duration::from_secs(4)).await;
    rig.by(Severity::Low, "m");
    rig.after(Duration::from_secs(4)).await;
    assert_eq!(rig.counts(), [1, 2], "more of the same keeps it quiet");
    rig.after(Duration::from_secs(1)).await;
    assert_eq!(rig.counts(), [2, 4]);
    rig.news(&high);
    rig.after(Duration::from_secs(4)).await;
    assert_eq!(rig.counts(), [2, 4]);
    rig.after(Duration::from_secs(1)).await;
    let taken = rig.taken("soc");
    assert_eq!(taken.iter().map(|one| one.number).collect::<Vec<_>>(), [1, 1, 2]);
    assert_eq!(taken[2].in_reply_to.as_ref(), Some(&taken[0].message_id));
    assert!(taken[2].body.contains("Update 2"), "{}", taken[2].body);
    assert_eq!(taken[1].incident.as_ref(), Some(&medium));
    let two = rig.taken("two");
    assert_eq!((two[0].recipient.as_str(), two[1].recipient.as_str()), ("a@x", "b@x"));
    assert_eq!(two[0].message_id, two[1].message_id);
    rig.later(20, MINUTE).await;
    assert_eq!(rig.counts(), [3, 6], "nothing new, nobody told");
}

#[tokio::test]
async fn owner_tags_route_and_the_owner_of_before_is_told_too() {
    let tree =
        "receivers = [\"soc\"]\n[[routes]]\nmatch = { \"tag:owner\" = \"payments\" }\nreceivers = [\"payments\"]\n";
    let rig = Rig::new(&["soc", "payments"], |settings| settings.route = route(tree));
    let tagged = |who: &str, value| event("DisableKey").by(who).on_key("k1").tagged("owner", value);
    rig.alert(Severity::High, vec![tagged("a", "payments")]);
    rig.after(Duration::ZERO).await;
    assert_eq!(rig.counts(), [0, 1]);
    // The attacker renames the owner: the one that the key had is still remembered.
    rig.alert(Severity::High, vec![tagged("b", "nobody")]);
    rig.alert(Severity::High, vec![event("DisableKey").by("c").on_key("k2")]);
    rig.after(Duration::ZERO).await;
    assert_eq!(rig.counts(), [1, 2]);
}

#[tokio::test]
async fn a_critical_incident_mutes_lesser_ones_of_the_same_key_until_it_is_over() {
    let rig = Rig::new(&["soc"], |_| ());
    let on = |who: &str, key: &str| vec![event("DisableKey").by(who).on_key(key)];
    let worst = rig.alert(Severity::Critical, on("a", "k1"));
    let lesser = rig.alert(Severity::High, on("b", "k1"));
    let other = rig.alert(Severity::High, on("c", "k2"));
    rig.after(Duration::ZERO).await;
    rig.later(3, MINUTE).await;
    let told: Vec<IncidentId> = rig.taken("soc").into_iter().filter_map(|one| one.incident).collect();
    assert!(told.contains(&worst) && told.contains(&other) && !told.contains(&lesser), "{told:?}");
    assert!(rig.timeline(&lesser).contains(&format!("held back by incident {worst}")));
    assert_eq!(rig.store.read_now(|db| counted(db, "notices/muted")).unwrap(), 1);
    rig.store
        .write_now(|tx| incident::person::resolve(tx, &worst, Resolution::Benign, "ann", None, rig.now()))
        .unwrap();
    rig.later(2, MINUTE).await;
    let last = rig.taken("soc").pop().unwrap();
    assert_eq!(last.incident, Some(lesser));
    assert!(last.body.contains("One notice was held back"), "{}", last.body);
}

#[tokio::test]
async fn a_silence_holds_notices_back_says_so_and_ends() {
    let rig = Rig::new(&["soc"], |_| ());
    let put = |words: &[&str], long| {
        let words: Vec<String> = words.iter().map(|&word| word.into()).collect();
        silence::add(rig.dir.path(), &words, "ann", "moving keys", long, rig.now()).unwrap()
    };
    let number = put(&["principal=arn:aws:iam::111122223333:user/m*", "severity=high"], MINUTE * 60);
    let (muted, told) = (rig.by(Severity::High, "mover"), rig.by(Severity::High, "other"));
    rig.after(Duration::ZERO).await;
    rig.later(10, MINUTE).await;
    assert_eq!(rig.taken("soc").into_iter().filter_map(|one| one.incident).collect::<Vec<_>>(), [told]);
    assert!(rig.timeline(&muted).contains(&format!("held back by silence {number} of ann: moving keys")));
    assert_eq!(silence::list(rig.dir.path(), false, rig.now()).unwrap()[0].muted, 1);
    let status = status::read(rig.dir.path(), rig.now()).unwrap();
    assert_eq!((status.silences, status.notices_muted), (1, 1));
    // Worse than what was silenced: told at once.
    rig.by(Severity::Critical, "mover");
    rig.news(&muted);
    rig.after(MINUTE).await;
    assert_eq!(rig.counts(), [2]);
    let quiet = rig.by(Severity::High, "mother");
    rig.after(Duration::ZERO).await;
    rig.later(130, Duration::from_secs(30)).await;
    assert_eq!(rig.taken("soc").pop().unwrap().incident, Some(quiet), "told when the silence was over");
    // What was over before the silence was is told to nobody.
    put(&["severity=high"], MINUTE * 60);
    let over = rig.by(Severity::High, "quick");
    rig.after(Duration::ZERO).await;
    rig.store.write_now(|tx| incident::person::resolve(tx, &over, Resolution::Benign, "ann", None, rig.now())).unwrap();
    rig.later(130, Duration::from_secs(30)).await;
    assert!(rig.taken("soc").iter().all(|one| one.incident.as_ref() != Some(&over)));
}

#[tokio::test]
async fn pages_are_not_silenced() {
    let rig = Rig::new(&["soc"], |_| ());
    silence::add(rig.dir.path(), &["min_severity=info".into()], "ann", "all", MINUTE, rig.now()).unwrap();
    let id = rig.by(Severity::Critical, "m");
    rig.store.write_now(|tx| super::queue::page(tx, Some(&id), "guard-failed", "text", rig.now())).unwrap();
    rig.after(Duration::ZERO).await;
    assert!(rig.taken("soc").iter().all(|one| one.number == 0) && rig.counts() == [1]);
}

#[tokio::test]
async fn what_nobody_acknowledges_is_escalated_once_and_reminded_of() {
    let tree = "receivers = [\"soc\"]\nescalate_after = \"15m\"\nescalate_to = [\"boss\"]\nrepeat_interval = \"1h\"\n";
    let rig = Rig::new(&["soc", "boss"], |settings| settings.route = route(tree));
    let (left, taken_over) = (rig.by(Severity::High, "left"), rig.by(Severity::High, "taken"));
    rig.after(Duration::ZERO).await;
    rig.later(14, MINUTE).await;
    assert_eq!(rig.counts(), [2, 0]);
    incident::person::act_on(rig.dir.path(), taken_over.as_str(), "ann", &incident::Deed::Acknowledge, rig.now())
        .unwrap();
    rig.later(2, MINUTE).await;
    let boss = rig.taken("boss");
    assert_eq!(boss.len(), 1);
    assert!(boss[0].incident == Some(left.clone()) && boss[0].body.contains("ESCALATED"), "{}", boss[0].body);
    assert!(rig.timeline(&left).contains("escalated to boss"));
    rig.later(50, MINUTE).await;
    let soc = rig.taken("soc");
    assert_eq!(rig.counts(), [4, 1], "that it was taken over, and one reminder of what is left");
    let reminders: Vec<_> = soc.iter().filter(|one| one.body.contains("Reminder")).collect();
    assert!(reminders.len() == 1 && reminders[0].incident == Some(left), "{soc:?}");
    let status = status::read(rig.dir.path(), rig.now()).unwrap();
    assert_eq!(status.notices_escalated, 1);
}

#[tokio::test]
async fn contained_is_no_answer_it_is_escalated_all_the_same() {
    let tree = "receivers = [\"soc\"]\nescalate_after = \"15m\"\nescalate_to = [\"boss\"]\n";
    let rig = Rig::new(&["soc", "boss"], |settings| settings.route = route(tree));
    let id = rig.by(Severity::High, "mallory");
    rig.after(Duration::ZERO).await;
    let contained = "UPDATE incidents SET state = 'contained', contained_us = 1 WHERE id = ?1";
    rig.store.write_now(|tx| Ok(tx.execute(contained, [id.as_str()])?)).unwrap();
    rig.later(16, MINUTE).await;
    assert_eq!(rig.taken("boss").len(), 1, "{}", rig.timeline(&id));
}

#[tokio::test]
async fn what_becomes_worse_is_told_also_to_who_was_not_and_after_an_acknowledgement() {
    let tree = "receivers = [\"soc\"]\n[[routes]]\nmatch = { min_severity = \"critical\" }\nreceivers = [\"soc\", \"pager\"]\n";
    let rig = Rig::new(&["soc", "pager"], |settings| settings.route = route(tree));
    let id = rig.by(Severity::Medium, "mallory");
    rig.later(10, MINUTE).await;
    assert_eq!(rig.counts(), [1, 0]);
    incident::person::act_on(rig.dir.path(), id.as_str(), "ann", &incident::Deed::Acknowledge, rig.now()).unwrap();
    rig.later(10, MINUTE).await;
    assert_eq!(rig.counts(), [2, 0], "that somebody has it");
    assert_eq!(rig.by(Severity::Medium, "mallory"), id);
    rig.later(10, MINUTE).await;
    assert_eq!(rig.counts(), [2, 0], "more of the same");
    assert_eq!(rig.by(Severity::Critical, "mallory"), id);
    rig.after(Duration::ZERO).await;
    assert_eq!(rig.taken("pager").len(), 1, "at once: {}", rig.timeline(&id));
    rig.later(10, MINUTE).await;
    assert_eq!(rig.counts(), [3, 1]);
    let held = incident::show(rig.dir.path(), id.as_str()).unwrap().unwrap();
    assert!(held.summary.acknowledged_by.is_none() && held.summary.state == IncidentState::Open);
    assert!(rig.timeline(&id).contains("it is critical now: what ann acknowledged was less"));
    assert_eq!(rig.by(Severity::Critical, "mallory"), id);
    rig.later(10, MINUTE).await;
    assert_eq!(rig.counts(), [3, 1]);
}

#[tokio::test]
async fn paused_resumed_and_paused_again_are_three_pages() {
    let rig = Rig::new(&["soc"], |_| ());
    let minutes = [("pause", 1), ("resume", 1), ("pause", 3)];
    for (word, after) in minutes {
        rig.after(MINUTE * after).await;
        let now = rig.now();
        rig.store
            .write_now(|tx| {
                match word {
                    "pause" => standing::pause(tx, "ann", "drill", now).unwrap(),
                    _ => standing::resume(tx, "ann", "over", now).unwrap(),
                }
                Ok(())
            })
            .unwrap();
        rig.store.write_now(|tx| standing::trip(tx, word, "too many", now)).unwrap();
    }
    rig.after(Duration::ZERO).await;
    let subjects: Vec<String> = rig.taken("soc").into_iter().map(|one| one.body).collect();
    let with = |words: &str| subjects.iter().filter(|body| body.contains(words)).count();
    assert_eq!((with("is paused by ann"), with("goes on, by ann"), with("tripped its circuit breaker")), (2, 1, 2));
}

#[tokio::test]
async fn what_is_opened_again_is_escalated_again() {
    let tree = "receivers = [\"soc\"]\nescalate_after = \"15m\"\nescalate_to = [\"boss\"]\n";
    let rig = Rig::new(&["soc", "boss"], |settings| settings.route = route(tree));
    let id = rig.by(Severity::High, "mallory");
    rig.after(Duration::ZERO).await;
    let close = |deed| incident::person::act_on(rig.dir.path(), id.as_str(), "ann", &deed, rig.now()).unwrap();
    close(incident::Deed::Close(Resolution::TruePositiveContained, None));
    rig.later(20, MINUTE).await;
    assert_eq!(rig.taken("boss").len(), 0, "it was closed in time");
    assert_eq!(rig.by(Severity::Critical, "mallory"), id);
    rig.later(20, MINUTE).await;
    assert_eq!(rig.taken("boss").len(), 1, "{}", rig.timeline(&id));
}

#[tokio::test]
async fn a_receiver_that_takes_nothing_keeps_no_page_from_the_others() {
    let rig = Rig::new(&["soc", "chat"], |_| ());
    rig.fail("soc", Some(down));
    for number in 0..1_100 {
        let kind = format!("kind-{number}");
        rig.store.write_now(|tx| super::queue::page(tx, None, &kind, "text", rig.now())).unwrap();
    }
    let waiting = |channel: &str| {
        let sql = "SELECT count(*) FROM notices WHERE channel = ?1";
        rig.store.read_now(|db| Ok(db.query_row(sql, [channel], |row| row.get::<_, i64>(0))?)).unwrap()
    };
    assert_eq!([waiting("soc"), waiting("chat")], [1_000, 1_000], "each has its own bound");
    rig.store.write_now(|tx| Ok(tx.execute("UPDATE notices SET state = 'sent' WHERE channel = 'chat'", [])?)).unwrap();
    rig.store.write_now(|tx| super::queue::page(tx, None, "another", "text", rig.now())).unwrap();
    assert_eq!([waiting("soc"), waiting("chat")], [1_000, 1_001]);
}

#[tokio::test]
async fn when_all_receivers_fail_the_last_one_is_told_once() {
    let rig = Rig::new(&["soc", "chat", "last"], |settings| {
        settings.route = route("receivers = [\"soc\", \"chat\"]");
        settings.notify.last_resort = Some("last".into());
    });
    rig.fail("soc", Some(down));
    let both = rig.by(Severity::High, "one");
    rig.after(Duration::ZERO).await;
    rig.later(10, MINUTE).await;
    assert_eq!(rig.counts(), [0, 1, 0], "one of two is enough");
    rig.fail("chat", Some(down));
    let none = rig.by(Severity::High, "two");
    rig.after(Duration::ZERO).await;
    rig.later(4, MINUTE).await;
    assert!(rig.taken("last").is_empty());
    rig.later(20, MINUTE).await;
    let last = rig.taken("last");
    assert_eq!(last.len(), 1, "{last:?}");
    assert!(last[0].incident == Some(none) && last[0].body.contains("LAST RESORT"), "{}", last[0].body);
    let status = status::read(rig.dir.path(), rig.now()).unwrap();
    let failing: Vec<&str> =
        status.receivers.iter().filter(|one| one.failing_us.is_some()).map(|one| one.name.as_str()).collect();
    assert_eq!((failing, status.notices_rescued), (vec!["chat", "soc"], 1));
    rig.fail("soc", None);
    rig.later(10, MINUTE).await;
    assert_eq!(rig.taken("soc").iter().filter(|one| one.incident == Some(both.clone())).count(), 1);
    let status = status::read(rig.dir.path(), rig.now()).unwrap();
    assert!(status.receivers.iter().any(|one| one.name == "soc" && one.failing_us.is_none()));
}

#[tokio::test]
async fn a_dead_letter_is_counted_paged_elsewhere_and_can_be_sent_again_or_dropped() {
    let rig = Rig::new(&["soc", "chat"], |_| ());
    rig.fail("soc", Some(refused));
    let id = rig.by(Severity::High, "m");
    rig.by(Severity::High, "n");
    rig.after(Duration::ZERO).await;
    rig.after(Duration::from_secs(1)).await;
    let pages: Vec<Notice> = rig.taken("chat").into_iter().filter(|one| one.number == 0).collect();
    assert_eq!(pages.len(), 1, "one page of a kind");
    assert!(pages[0].body.contains("refused") && pages[0].subject.contains("dead-letter-soc"));
    assert!(rig.timeline(&id).contains("soc was given up"));
    let status = status::read(rig.dir.path(), rig.now()).unwrap();
    assert_eq!(status.receivers.iter().find(|one| one.name == "soc").unwrap().dead, 2);
    let dead = ledger::list(rig.dir.path(), Some("dead")).unwrap();
    assert_eq!((dead.len(), dead[0].error.as_deref()), (2, Some("refused")));
    rig.fail("soc", None);
    assert!(ledger::drop_notice(rig.dir.path(), dead[0].row, "ann", " ", rig.now()).is_err());
    ledger::drop_notice(rig.dir.path(), dead[0].row, "ann", "told by phone", rig.now()).unwrap();
    assert_eq!(ledger::retry(rig.dir.path(), None, "ann", rig.now()).unwrap(), 1);
    assert!(ledger::retry(rig.dir.path(), Some(dead[0].row), "ann", rig.now()).is_err(), "dropped is dropped");
    rig.after(Duration::from_secs(1)).await;
    assert_eq!(rig.taken("soc").len(), 1);
    assert_eq!(rig.taken("soc")[0].incident, Some(id.clone()));
    assert!(rig.timeline(&id).contains("tried again by ann"));
}

#[tokio::test]
async fn notices_of_one_incident_arrive_in_order() {
    let rig = Rig::new(&["soc"], |_| ());
    rig.fail("soc", Some(down));
    let id = rig.by(Severity::High, "m");
    rig.after(Duration::ZERO).await;
    rig.news(&id);
    rig.after(Duration::from_secs(30)).await;
    rig.fail("soc", None);
    rig.later(40, Duration::from_secs(10)).await;
    assert_eq!(rig.taken("soc").iter().map(|one| one.number).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn each_receiver_has_a_daily_sign_of_life() {
    let rig = Rig::new(&["chat", "soc"], |settings| settings.notify.heartbeat = Some(MINUTE * 60 * 24));
    rig.later(23, MINUTE * 60).await;
    assert_eq!(rig.counts(), [0, 0], "the first one a day after the start");
    rig.later(2, MINUTE * 60).await;
    assert_eq!(rig.counts(), [1, 1]);
    rig.later(24, MINUTE * 60).await;
    let beat = rig.taken("soc").pop().unwrap();
    assert_eq!(rig.counts(), [2, 2]);
    assert!(beat.body.contains("Open incidents: 0") && beat.body.contains("Active silences: 0"), "{}", beat.body);
    // A restart does not begin the day anew.
    let again = notifier(&rig.store, &rig.clock, &rig.channels, |settings| {
        settings.notify.heartbeat = Some(MINUTE * 60 * 24);
    });
    rig.clock.advance(MINUTE * 60 * 24);
    again.write_due().await.unwrap();
    assert_eq!(again.deliver_due(rig.channel("soc")).await.unwrap(), 1);
}

#[tokio::test]
async fn a_storm_is_bounded_by_the_hour_and_waits_for_room() {
    let rig = Rig::new(&["soc"], |settings| {
        settings.notify.notices_per_hour = 5;
        settings.inhibit.clear();
    });
    for index in 0..100 {
        rig.by(Severity::High, &format!("u{index}"));
    }
    rig.later(10, MINUTE).await;
    let taken = rig.taken("soc");
    assert_eq!(taken.iter().filter(|one| one.number > 0).count(), 5);
    assert!((1..=2).contains(&taken.iter().filter(|one| one.number == 0).count()), "pages are coalesced");
    rig.by(Severity::Critical, "worst");
    rig.later(2, MINUTE).await;
    assert!(rig.taken("soc").iter().any(|one| one.subject.contains("CRITICAL")), "critical has room of its own");
    rig.later(60, MINUTE).await;
    let told = rig.taken("soc").iter().filter(|one| one.number > 0).count();
    assert!((10..=16).contains(&told), "{told}");
}

#[tokio::test]
async fn who_is_no_longer_configured_is_replaced_by_whom_the_routes_name() {
    let rig = Rig::new(&["old"], |_| ());
    rig.fail("old", Some(down));
    let id = rig.by(Severity::High, "m");
    rig.after(Duration::ZERO).await;
    let fresh =
        Arc::new(Recorded { name: "new".into(), recipients: vec![], taken: Mutex::default(), fails: Mutex::new(None) });
    let again = notifier(&rig.store, &rig.clock, std::slice::from_ref(&fresh), |_| ());
    again.write_due().await.unwrap();
    assert_eq!(again.deliver_due(fresh.as_ref()).await.unwrap(), 1);
    assert_eq!(fresh.taken.lock().unwrap()[0].incident, Some(id));
    let dropped = ledger::list(rig.dir.path(), Some("dropped")).unwrap();
    assert_eq!(dropped.len(), 1);
}

#[tokio::test]
async fn without_receivers_incidents_are_told_to_nobody() {
    let rig = Rig::new(&[], |_| ());
    let id = rig.by(Severity::High, "m");
    rig.after(Duration::ZERO).await;
    assert!(rig.timeline(&id).contains("to nobody"));
    assert_eq!(rig.notifier.write_due().await.unwrap(), 0);
}

#[tokio::test]
async fn the_mail_says_why_it_fired_and_who_fails_since() {
    let rig = Rig::new(&["soc"], |_| ());
    let id = rig.alert(Severity::High, vec![event("DisableKey").id("e1").by("mallory").on_key("k1")]);
    rig.store
        .write_now(|tx| {
            // The effect, at the log's index 0; both callers below were refused after it.
            tx.execute(
                "INSERT INTO actions(id, incident, playbook, playbook_version, step, kind, attribute, target, generation,
                   cause, stop_on_error, args, state, needs_person, next_attempt_us, planned_us, changed, log_seq)
                 VALUES ('a', ?1, 'p', 1, '1', 'disable_key', 'state', ?2, 0, '', 0, '{}', 'done', 0, 0, 0, 1, -1)",
                [id.as_str(), &crate::testing::key_arn("k1")],
            )?;
            Ok(tx.execute("UPDATE alert_facts SET why = 'denied 12, fires from 10'", [])?)
        })
        .unwrap();
    let fails = |who: &str| event("Decrypt").by(who).on_key("k1").error("DisabledException");
    rig.alert(Severity::Low, vec![fails("payments"), fails("payments")]);
    rig.news(&id);
    rig.later(2, Duration::from_secs(5)).await;
    let mail = rig.taken("soc").into_iter().find(|one| one.incident == Some(id.clone())).unwrap().body;
    assert!(mail.contains("denied 12, fires from 10"), "{mail}");
    assert!(
        mail.contains(&format!("2 calls, DisabledException: {}", crate::testing::principal_arn("payments"))),
        "{mail}"
    );
}
