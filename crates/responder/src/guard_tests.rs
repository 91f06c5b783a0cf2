//! Properties of the guards over whole runs: alerts, a store, a KMS that counts effects, and whoever works against them.
#![allow(clippy::unwrap_used)]

use crate::announced::{AnnouncedChange, Changes};
use crate::config::{Limits, Protected};
use crate::guard::Outside;
use crate::incident;
use crate::ingest::{Outcome, Rules, take_in};
use crate::intake::{BATCH_ALERTS_MAX, RawAlert, VerifiedAlert};
use crate::notify::queue;
use crate::notify::receivers::{Kind, Receiver};
use crate::outbox::ActionState;
use crate::playbook::{Playbook, Severity};
use crate::standing;
use crate::store::{Micros, Store};
use crate::testing::{Bench, EventBuilder, announcement, event, key_arn, principal_arn, shipped_playbooks};
use proptest::prelude::*;
use std::sync::Arc;

/// Noon of the fixtures.
const NOON_US: Micros = 1_767_614_400_000_000;
const SECOND_US: Micros = 1_000_000;
const HOUR_US: Micros = 3_600_000_000;

fn rules() -> Rules {
    Rules {
        playbooks: shipped_playbooks(),
        enforce: true,
        limits: Limits::default(),
        protected: Protected::default(),
        tell_from: Severity::Medium,
        windows: Vec::new(),
        aws: Vec::new(),
    }
}

fn announcing(all: Vec<AnnouncedChange>) -> Outside {
    Outside { changes: Some(Ok(Arc::new(Changes { all, as_of_us: Micros::MAX }))), enabled_keys: None }
}

/// A responder without worker: what was planned counts as done when the test says so.
struct Desk {
    store: Store,
    rules: Rules,
    taken: i64,
}

impl Desk {
    fn new() -> Self {
        Self { store: Store::in_memory().unwrap(), rules: rules(), taken: 0 }
    }

    /// Undoes an incident with one action; whether that is left to another incident.
    fn hands_over(&self, id: &incident::IncidentId, at: Micros) -> bool {
        let by = ("ann", incident::person::Resolution::Undone);
        self.store.write_now(|tx| crate::undo::request(tx, id, by, false, at)).unwrap().unwrap();
        let due = self.store.read_now(|db| crate::outbox::due(db, at, 10, None)).unwrap();
        let [undo] = <[_; 1]>::try_from(due).unwrap();
        self.store.write_now(|tx| crate::undo::hand_over(tx, &undo, at)).unwrap()
    }

    /// Takes in an alert; the states of what it led to.
    fn take(&mut self, alert: VerifiedAlert, outside: &Outside, now_us: Micros) -> Vec<(String, ActionState)> {
        self.take_all(vec![alert], outside, now_us)
    }

    /// Takes in alerts in one transaction; the states of what they led to.
    fn take_all(
        &mut self,
        alerts: Vec<VerifiedAlert>,
        outside: &Outside,
        now_us: Micros,
    ) -> Vec<(String, ActionState)> {
        let alerts = alerts.into_iter().map(|alert| {
            self.taken += 1;
            let position = self.taken;
            let raw = RawAlert { source: "trail.db".into(), position, json: Vec::new(), signature: Vec::new() };
            (raw, Ok(alert))
        });
        let alerts: Vec<_> = alerts.collect();
        let outcomes = self.store.write_now(|tx| {
            let taken = alerts.iter().map(|(raw, verdict)| take_in(tx, &self.rules, raw, verdict, outside, now_us));
            taken.collect::<Result<Vec<_>, _>>()
        });
        let actions = outcomes.unwrap().into_iter().flat_map(|outcome| match outcome {
            Outcome::Joined { actions, .. } => actions,
            other => panic!("{other:?}"),
        });
        actions.map(|(kind, _, state)| (kind, state)).collect()
    }

    fn finish_all(&self) {
        // The first condition is an index.
        let done = "UPDATE actions SET state = 'done', changed = 1
                    WHERE state IN ('planned', 'awaiting_approval', 'ready') AND state <> 'awaiting_approval'";
        self.store.write_now(|tx| Ok(tx.execute(done, [])?)).unwrap();
    }

    fn acting(&self) -> i64 {
        let sql = "SELECT count(*) FROM actions WHERE state IN ('planned', 'ready', 'leased', 'done')";
        self.store.read_now(|db| Ok(db.query_row(sql, [], |row| row.get(0))?)).unwrap()
    }

    fn count(&self, sql: &str) -> i64 {
        self.store.read_now(|db| Ok(db.query_row(sql, [], |row| row.get(0))?)).unwrap()
    }
}

fn open_key(number: usize, by: &str) -> EventBuilder {
    let key = format!("k{number}");
    event("PutKeyPolicy")
        .id(&format!("open-{number}"))
        .by(by)
        .on_key(&key)
        .opened("e0")
        .tagged("on-exposure", "disable")
}

/// One of the announced jobs: its alert, and the announcement by somebody else.
fn job(bench: &Bench, number: usize, what: usize, by_principal: bool) -> (VerifiedAlert, AnnouncedChange) {
    let (user, key) = (format!("worker-{number}"), format!("k{number}"));
    let id = format!("call-{number}");
    let (rule, call, operation) = match what {
        0 => ("key-policy-public", event("PutKeyPolicy").opened("e0").tagged("on-exposure", "disable"), "PutKeyPolicy"),
        1 => ("key-deletion-scheduled", event("ScheduleKeyDeletion").was("Enabled"), "ScheduleKeyDeletion"),
        2 => ("many-contexts", event("Decrypt"), "Decrypt"),
        _ => ("denied-burst", event("Decrypt").denied(), "Decrypt"),
    };
    let alert = bench.alert(rule, vec![call.id(&id).by(&user).on_key(&key)]).verified();
    let (key, principal) = if by_principal { (None, Some(user.as_str())) } else { (Some(key.as_str()), None) };
    (alert, announcement("lead", key, principal, &[operation, "DisableKey"]))
}

#[test]
fn of_a_thousand_announced_changes_none_is_contained_and_each_says_its_ticket() {
    let bench = Bench::new();
    let mut desk = Desk::new();
    let jobs: Vec<_> = (0..1_000).map(|number| job(&bench, number, number % 4, number % 3 == 0)).collect();
    let mut changes: Vec<AnnouncedChange> = jobs.iter().map(|(_, change)| change.clone()).collect();
    for (number, change) in changes.iter_mut().enumerate() {
        change.ticket = format!("CHG-{number}");
    }
    let outside = announcing(changes);
    for (number, (alert, _)) in jobs.into_iter().enumerate() {
        let actions = desk.take(alert, &outside, NOON_US + SECOND_US);
        assert!(!actions.is_empty(), "job {number} leads to an action");
    }
    assert_eq!(desk.acting(), 0);
    let held = "SELECT count(*) FROM actions WHERE state = 'suppressed' AND reason LIKE 'announced: CHG-%' AND NOT needs_person";
    assert_eq!(desk.count(held), desk.count("SELECT count(*) FROM actions"));
    assert!(desk.count(held) >= 1_000);
    assert_eq!(desk.count("SELECT count(DISTINCT reason) FROM actions WHERE reason LIKE 'announced: %'"), 1_000);
    let pages = "SELECT coalesce(sum(value), 0) FROM counts WHERE name LIKE 'page/%'";
    assert_eq!(desk.count(pages), 0, "nobody is paged for what was announced");
    let told = "SELECT count(*) FROM incidents WHERE tell_since_us IS NOT NULL";
    assert!(desk.count(told) >= 1_000 / 2, "and people are told");
}

#[test]
fn an_announcement_that_is_not_about_this_very_change_by_somebody_else_holds_nothing() {
    let good = || announcement("lead", Some("k1"), None, &["PutKeyPolicy"]);
    let cases: Vec<(&str, AnnouncedChange)> = vec![
        ("another key", AnnouncedChange { key_arn: Some(key_arn("k2")), ..good() }),
        ("another operation", AnnouncedChange { operations: vec!["DisableKey".into()], ..good() }),
        ("not yet", AnnouncedChange { from_micros: NOON_US + 1, ..good() }),
        ("over", AnnouncedChange { until_micros: NOON_US - 1, ..good() }),
        ("told afterwards", AnnouncedChange { announced_at_micros: NOON_US + 1, ..good() }),
        ("by the actor", AnnouncedChange { announced_by: principal_arn("m"), ..good() }),
        (
            "by a session of the actor's",
            AnnouncedChange { announced_as: vec!["x".into(), principal_arn("m")], ..good() },
        ),
        ("another principal", AnnouncedChange { key_arn: None, principal_arn: Some(principal_arn("n")), ..good() }),
        ("about nothing", AnnouncedChange { key_arn: None, ..good() }),
        ("about two things", AnnouncedChange { principal_arn: Some(principal_arn("m")), ..good() }),
    ];
    let bench = Bench::new();
    let alert =
        || bench.alert("key-policy-public", vec![event("PutKeyPolicy").by("m").on_key("k1").opened("e0")]).verified();
    for (what, change) in cases {
        let actions = Desk::new().take(alert(), &announcing(vec![change]), NOON_US);
        assert_eq!(actions, [("restore_key_policy".into(), ActionState::Ready)], "{what}");
    }
    let actions = Desk::new().take(alert(), &announcing(vec![good()]), NOON_US);
    assert_eq!(actions, [("restore_key_policy".into(), ActionState::Suppressed)]);
}

#[test]
fn who_opens_a_role_is_who_acts_in_it() {
    let bench = Bench::new();
    let alert = |opened_by: Option<&[&str]>| {
        let call = event("PutKeyPolicy").in_role("deploy", opened_by).on_key("k1").opened("e0");
        bench.alert("key-policy-public", vec![call]).verified()
    };
    let held = |opened_by: Option<&[&str]>, by: &str| {
        let outside = announcing(vec![announcement(by, Some("k1"), None, &["PutKeyPolicy"])]);
        Desk::new().take(alert(opened_by), &outside, NOON_US)[0].1 == ActionState::Suppressed
    };
    assert!(held(Some(&["m"]), "lead"));
    assert!(!held(Some(&["m"]), "m"), "announced by who opened the session");
    assert!(!held(Some(&["ci", "m"]), "m"), "or opened it through another one");
    assert!(!held(None, "lead"), "a session that does not say who opened it");
    let mut role = announcement("lead", None, None, &["PutKeyPolicy"]);
    role.principal_arn = Some("arn:aws:iam::111122223333:role/deploy".into());
    let actions = Desk::new().take(alert(Some(&["m"])), &announcing(vec![role]), NOON_US);
    assert_eq!(actions[0].1, ActionState::Suppressed, "a role's work is announced for the role");
}

#[test]
fn a_role_is_stopped_for_what_any_of_its_sessions_did() {
    let (bench, role) = (Bench::new(), "arn:aws:iam::111122223333:role/app");
    let session = |name: &str| {
        let mut call = event("Decrypt").in_role("app", Some(&["m"])).on_key("k1");
        call.rename_session(name);
        call
    };
    let state = |calls: Vec<EventBuilder>| {
        let mut desk = Desk::new();
        let steps = r#"{ action = "quarantine_principal", ttl = "1h" }"#;
        desk.rules.playbooks = vec![crate::testing::playbook_of("stop", "many-contexts", steps)];
        let mut announced = announcement("lead", None, None, &["Decrypt"]);
        announced.principal_arn = Some("arn:aws:sts::111122223333:assumed-role/app/one".into());
        let alert = bench.alert("many-contexts", calls).about(role).verified();
        desk.take(alert, &announcing(vec![announced]), NOON_US)
    };
    let quarantine = |state| vec![("quarantine_principal".to_owned(), state)];
    assert_eq!(state(vec![session("one")]), quarantine(ActionState::Suppressed), "that was announced");
    assert_eq!(state(vec![session("two"), session("one")]), quarantine(ActionState::Ready));
    let unsigned = session("two").error("InvalidSignatureException");
    assert_eq!(state(vec![unsigned, session("three")]), quarantine(ActionState::Suppressed), "not all were signed");
}

#[test]
fn break_glass_and_our_own_name_are_never_announced() {
    let bench = Bench::new();
    for name in ["break-glass", "keytrail/break-glass"] {
        let call = event("PutKeyPolicy").by("m").on_key("k1").opened("e0").call(0);
        let mut event = call.event.clone();
        let arn = principal_arn("m")
            .replace(":user/m", &format!(":{}", if name.contains('/') { name } else { "user/break-glass" }));
        event.user_identity.arn = Some(arn.clone());
        let call = crate::intake::Call { principal: Some(arn), event, ..call };
        let alert = bench.alert("key-policy-public", vec![open_key(1, "m")]).verified();
        let alert = VerifiedAlert::unchecked(alert.alert().clone(), vec![call]);
        let outside = announcing(vec![announcement("lead", Some("k1"), None, &["PutKeyPolicy"])]);
        let actions = Desk::new().take(alert, &outside, NOON_US);
        assert!(
            actions.iter().any(|(kind, state)| kind == "restore_key_policy" && *state == ActionState::Ready),
            "{name}"
        );
    }
}

#[test]
fn evidence_that_is_a_part_is_covered_by_the_principals_announcement_alone() {
    let bench = Bench::new();
    let shown = |change: AnnouncedChange| {
        let verified = bench.alert("many-contexts", vec![event("Decrypt").by("batch").on_key("k1")]).verified();
        let mut alert = verified.alert().clone();
        alert.evidence_total = 5_000;
        let alert = VerifiedAlert::unchecked(alert, verified.calls().to_vec());
        Desk::new().take(alert, &announcing(vec![change]), NOON_US)[0].1
    };
    assert_eq!(shown(announcement("lead", None, Some("batch"), &["Decrypt"])), ActionState::Suppressed);
    assert_eq!(shown(announcement("lead", Some("k1"), None, &["Decrypt"])), ActionState::Ready);
}

#[test]
fn whoever_toggles_as_fast_as_we_do_meets_a_person_and_not_a_loop() {
    let bench = Bench::new();
    let mut desk = Desk::new();
    let mut restored = 0;
    for round in 0..200_i64 {
        let call = event("PutKeyPolicy").id(&format!("e{round}")).by("m").on_key("k1").opened("e-before");
        let alert = bench.alert("key-policy-public", vec![call]).bucket(round).verified();
        let actions = desk.take(alert, &Outside::default(), NOON_US + round * 10 * SECOND_US);
        restored += actions.iter().filter(|(_, state)| *state == ActionState::Ready).count();
        desk.finish_all();
    }
    assert_eq!(restored, 2, "in the first hour");
    let held = "SELECT count(*) FROM actions WHERE reason LIKE 'flip-flop:%' AND needs_person";
    assert_eq!(desk.count(held), 198);
}

#[test]
fn a_tripped_breaker_outlives_a_restart_pages_once_and_works_again_after_two_persons() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new();
    let open = |desk: &mut Desk, numbers: std::ops::Range<usize>, now_us: Micros| -> Vec<ActionState> {
        let mut states = Vec::new();
        for number in numbers {
            let alert = bench.alert("key-policy-public", vec![open_key(number, &format!("m{number}"))]).verified();
            let actions = desk.take(alert, &Outside::default(), now_us);
            states.extend(actions.into_iter().filter(|(kind, _)| kind == "disable_key").map(|(_, state)| state));
            desk.finish_all();
        }
        states
    };
    let mut desk = Desk { store: Store::open(dir.path()).unwrap(), rules: rules(), taken: 0 };
    let receivers =
        ["mail", "webhook"].map(|name| Receiver { name: name.into(), kind: Kind::Smtp, recipients: vec![] });
    desk.store.write_now(|tx| queue::set_receivers(tx, &receivers, 0)).unwrap();
    use ActionState::{Observed, Ready, Suppressed};
    assert_eq!(open(&mut desk, 0..6, NOON_US), [Ready, Ready, Ready, Suppressed, Observed, Observed]);
    let pages = "SELECT count(*) FROM notices WHERE dedup LIKE 'page/responder-tripped/%'";
    assert_eq!(desk.count(pages), 2, "one page, on each channel");
    // A day later and after a restart it is tripped still.
    let mut desk = Desk { store: Store::open(dir.path()).unwrap(), rules: rules(), taken: 6 };
    assert_eq!(open(&mut desk, 6..8, NOON_US + 24 * HOUR_US), [Observed, Observed]);
    // A principal is not quarantined either, a key is given back.
    let burst = bench.alert("denied-burst", vec![event("Decrypt").denied().by("z")]).verified();
    assert_eq!(
        desk.take(burst, &Outside::default(), NOON_US + 24 * HOUR_US),
        [("quarantine_principal".into(), Observed)]
    );
    let deletion = event("ScheduleKeyDeletion").by("y").on_key("k99").was("Disabled");
    let deletion = bench.alert("key-deletion-scheduled", vec![deletion]).verified();
    assert_eq!(
        desk.take(deletion, &Outside::default(), NOON_US + 24 * HOUR_US),
        [("cancel_key_deletion".into(), Ready)]
    );
    let now_us = NOON_US + 24 * HOUR_US;
    desk.store
        .write_now(|tx| {
            standing::reset_by(tx, standing::EVERYTHING, ["ann", "bob"], now_us).unwrap();
            Ok(())
        })
        .unwrap();
    assert_eq!(open(&mut desk, 8..13, now_us), [Ready, Ready, Ready, Suppressed, Observed], "it counts anew");
}

#[test]
fn a_playbook_that_observes_trips_nothing() {
    let bench = Bench::new();
    let mut desk = Desk::new();
    desk.rules.limits.playbook_actions_per_hour = Some(0);
    desk.rules.enforce = false;
    let alert = bench.alert("denied-burst", vec![event("Decrypt").denied().by("m")]).verified();
    assert_eq!(desk.take(alert, &Outside::default(), NOON_US)[0].1, ActionState::Observed);
    assert_eq!(desk.count("SELECT count(*) FROM standing"), 0);
}

#[test]
fn a_promotion_lowers_what_a_file_allows_while_the_responder_runs() {
    let bench = Bench::new();
    let mut desk = Desk::new();
    let burst = |user: &str| bench.alert("denied-burst", vec![event("Decrypt").denied().by(user)]).verified();
    assert_eq!(desk.take(burst("a"), &Outside::default(), NOON_US)[0].1, ActionState::Ready);
    let set = |mode| {
        move |tx: &rusqlite::Transaction<'_>| {
            standing::promote(tx, "credential-misuse", mode, "ann", "r", 1).unwrap();
            Ok(())
        }
    };
    desk.store.write_now(set(crate::playbook::Mode::Observe)).unwrap();
    assert_eq!(desk.take(burst("b"), &Outside::default(), NOON_US)[0].1, ActionState::Observed);
    desk.store.write_now(set(crate::playbook::Mode::Off)).unwrap();
    assert!(desk.take(burst("c"), &Outside::default(), NOON_US).is_empty());
    desk.store.write_now(set(crate::playbook::Mode::Enforce)).unwrap();
    assert_eq!(desk.take(burst("d"), &Outside::default(), NOON_US)[0].1, ActionState::Ready);
    let file = |one: &Playbook| (one.id.clone(), one.mode);
    assert!(desk.rules.playbooks.iter().map(file).eq(shipped_playbooks().iter().map(file)), "the files' modes stay");
}

#[test]
fn labels_and_tags_choose_which_alerts_a_playbook_answers() {
    let bench = Bench::new();
    let mut desk = Desk::new();
    for playbook in &mut desk.rules.playbooks {
        playbook.matches.labels.insert("tag:env".into(), "prod".into());
    }
    let opened = |key: &str, env: &str| {
        let call = event("PutKeyPolicy").id(key).by(key).on_key(key).opened("e0").tagged("env", env);
        bench.alert("key-policy-public", vec![call]).verified()
    };
    assert!(desk.take(opened("k1", "test"), &Outside::default(), NOON_US).is_empty());
    assert_eq!(desk.take(opened("k2", "prod"), &Outside::default(), NOON_US).len(), 1);
    for playbook in &mut desk.rules.playbooks {
        playbook.matches.labels.insert("team".into(), "payments".into());
    }
    assert!(desk.take(opened("k3", "prod"), &Outside::default(), NOON_US).is_empty());
    let verified = opened("k4", "prod");
    let mut alert = verified.alert().clone();
    alert.labels.insert("team".into(), "payments".into());
    let alert = VerifiedAlert::unchecked(alert, verified.calls().to_vec());
    assert_eq!(desk.take(alert, &Outside::default(), NOON_US).len(), 1);
}

#[test]
fn each_judgement_is_kept_for_whoever_asks_why() {
    let bench = Bench::new();
    let mut desk = Desk::new();
    desk.rules.protected.principals.push(principal_arn("m"));
    desk.take(
        bench.alert("denied-burst", vec![event("Decrypt").denied().by("m")]).verified(),
        &Outside::default(),
        NOON_US,
    );
    let said = desk
        .store
        .read_now(|db| {
            let id: String = db.query_row("SELECT id FROM actions", [], |row| row.get(0))?;
            crate::explain::recorded(db, &id)
        })
        .unwrap();
    let words: Vec<(&str, &str)> = said.iter().map(|said| (said.guard.as_str(), said.verdict.as_str())).collect();
    assert_eq!(words, [("verified input", "pass"), ("provenance", "pass"), ("protected list", "hold")]);
}

#[test]
fn a_pause_is_a_line_in_each_open_incident() {
    let bench = Bench::new();
    let mut desk = Desk::new();
    desk.take(
        bench.alert("denied-burst", vec![event("Decrypt").denied().by("m")]).verified(),
        &Outside::default(),
        NOON_US,
    );
    desk.store
        .write_now(|tx| {
            standing::pause(tx, "ann", "migration", NOON_US).unwrap();
            Ok(())
        })
        .unwrap();
    let lines = "SELECT count(*) FROM timeline WHERE kind = 'responder' AND text LIKE '%paused by ann: migration%'";
    assert_eq!(desk.count(lines), 1);
    assert_eq!(desk.count("SELECT value FROM counts WHERE name = 'page/responder-paused'"), 1);
    assert!(desk.store.read_now(|db| crate::outbox::due(db, Micros::MAX, 9, None)).unwrap().is_empty());
    let id = desk
        .store
        .read_now(|db| Ok(db.query_row("SELECT id FROM actions", [], |row| row.get::<_, String>(0))?))
        .unwrap();
    let leased = desk.store.write_now(|tx| crate::outbox::lease(tx, &id, "-", NOON_US)).unwrap();
    assert!(!leased, "not even one that was on its way");
    desk.store
        .write_now(|tx| {
            standing::resume(tx, "ann", "done", NOON_US).unwrap();
            Ok(())
        })
        .unwrap();
    assert_eq!(desk.store.read_now(|db| crate::outbox::due(db, Micros::MAX, 9, None)).unwrap().len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the clock does, no more than three keys are disabled before two persons say so, once the breaker tripped.
    #[test]
    fn clock_jumps_do_not_open_a_tripped_breaker(jumps in proptest::collection::vec(-30_i64..30, 8..24)) {
        let bench = Bench::new();
        let mut desk = Desk::new();
        let mut now_us = NOON_US;
        for number in 0..4 {
            let alert = bench.alert("key-policy-public", vec![open_key(number, &format!("m{number}"))]).verified();
            desk.take(alert, &Outside::default(), now_us);
            desk.finish_all();
        }
        for (number, hours) in jumps.into_iter().enumerate() {
            now_us += hours * HOUR_US;
            let number = number + 4;
            let alert = bench.alert("key-policy-public", vec![open_key(number, &format!("m{number}"))]).verified();
            desk.take(alert, &Outside::default(), now_us);
            desk.finish_all();
        }
        prop_assert_eq!(desk.count("SELECT count(*) FROM actions WHERE kind = 'disable_key' AND state = 'done'"), 3);
    }

    /// A clock that goes back makes a cooldown no longer than it is.
    #[test]
    fn a_cooldown_is_never_longer_than_it_says(back_hours in 0_i64..1_000) {
        let bench = Bench::new();
        let mut desk = Desk::new();
        let deletion = |id: &str| {
            let call = event("ScheduleKeyDeletion").id(id).by("m").on_key("k1").was("Disabled");
            bench.alert("key-deletion-scheduled", vec![call]).bucket(i64::try_from(id.len()).unwrap()).verified()
        };
        desk.take(deletion("a"), &Outside::default(), NOON_US);
        desk.finish_all();
        let now_us = NOON_US - back_hours * HOUR_US;
        desk.take(deletion("bb"), &Outside::default(), now_us);
        let next = desk.count("SELECT max(next_attempt_us) FROM actions WHERE state = 'ready'");
        prop_assert!(next <= now_us + SECOND_US, "{} s", (next - now_us) / SECOND_US);
    }

    /// The guards are asked in DESIGN's order, and none after the one that holds, whatever is known.
    #[test]
    fn the_first_guard_that_holds_decides(
        protected: bool, announced: bool, flips in 0_u32..4, recent: bool, disables in 0_u32..5, tripped: bool,
    ) {
        use crate::guard::{Bounds, Facts, Guard, judge};
        let bench = Bench::new();
        let alert = bench.alert("key-policy-public", vec![open_key(1, "m")]).verified();
        let playbooks = shipped_playbooks();
        let id = incident::IncidentId::new("I-1");
        let proposal = crate::plan::plan(&alert, &id, &crate::plan::Known::default(), &playbooks, true, 0).remove(0);
        let list = Protected { keys: if protected { vec!["k1".into()] } else { vec![] }, principals: vec![] };
        let changes = if announced { vec![announcement("lead", Some("k1"), None, &["PutKeyPolicy"])] } else { vec![] };
        let facts = Facts {
            attribute_changes: flips,
            last_same_us: recent.then_some(NOON_US - 1),
            disables_last_hour: disables,
            tripped: tripped.then(|| "before".to_owned()),
            ..Facts::default()
        };
        let bounds = Bounds {
            protected: &list,
            limits: &Limits::default(),
            playbook: &crate::playbook::GuardSettings::default(),
            windows: &[],
            outside: &announcing(changes),
        };
        let judgement = judge(&proposal, &alert, Ok(&facts), &bounds, NOON_US);
        let wanted = [
            (Guard::Protected, protected),
            (Guard::Announced, announced),
            (Guard::FlipFlop, flips >= 2),
            (Guard::Cooldown, recent),
            (Guard::Breaker, tripped || disables >= 3),
        ];
        let first = wanted.iter().find(|(_, holds)| *holds).map(|(guard, _)| *guard);
        prop_assert_eq!(judgement.hold().map(|(guard, ..)| guard), first);
        let order = [
            Guard::VerifiedInput, Guard::Provenance, Guard::Protected, Guard::Announced, Guard::FlipFlop,
            Guard::Cooldown, Guard::Breaker, Guard::Approval,
        ];
        let asked: Vec<Guard> = judgement.verdicts.iter().map(|(guard, _)| *guard).collect();
        prop_assert_eq!(&order[..asked.len()], &asked[..]);
        prop_assert_eq!(asked.last().copied(), first.or(Some(Guard::Approval)));
    }
}

/// What a storm is made of.
#[derive(Clone, Copy, Debug)]
enum Storm {
    /// A third about one principal, a third about two hundred, a third opens a key each.
    Mixed,
    /// Each about a principal of its own.
    Crowd,
    /// One principal opens one key again and again.
    Toggler,
}

impl Storm {
    fn alert(self, bench: &Bench, number: i64) -> VerifiedAlert {
        let (who, key) = match self {
            Self::Mixed => (format!("m{}", number % 200), format!("k{number}")),
            Self::Crowd => (format!("m{number}"), "k".to_owned()),
            Self::Toggler => ("one".to_owned(), "k".to_owned()),
        };
        let burst = |who: &str| bench.alert("denied-burst", vec![event("Decrypt").denied().by(who)]);
        let alert = match (self, number % 3) {
            (Self::Mixed, 0) => burst("one"),
            (Self::Mixed, 1) | (Self::Crowd, _) => burst(&who),
            _ => {
                let before = format!("e{}", number - 1);
                let open = event("PutKeyPolicy").id(&format!("e{number}")).by(&who).on_key(&key).opened(&before);
                bench.alert("key-policy-public", vec![open.tagged("on-exposure", "disable")])
            }
        };
        alert.severity(Severity::High).bucket(number).verified()
    }
}

/// A minute of alerts. STORM= for more of them; then it also tells how fast they were taken in, and in how much memory.
#[test]
fn a_storm_of_alerts_is_bounded_in_actions_and_pages_and_stays_tripped() {
    let asked: Option<i64> = std::env::var("STORM").ok().and_then(|text| text.parse().ok());
    for storm in [Storm::Mixed, Storm::Crowd, Storm::Toggler] {
        ride_out(storm, asked.unwrap_or(2_000), asked.is_some());
    }
}

fn ride_out(storm: Storm, alerts: i64, tells: bool) {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new();
    let mut desk = Desk { store: Store::open(dir.path()).unwrap(), rules: rules(), taken: 0 };
    let receivers =
        ["mail", "webhook"].map(|name| Receiver { name: name.into(), kind: Kind::Smtp, recipients: vec![] });
    desk.store.write_now(|tx| queue::set_receivers(tx, &receivers, 0)).unwrap();
    let mut taking = std::time::Duration::ZERO;
    let numbers: Vec<i64> = (0..alerts).collect();
    for batch in numbers.chunks(BATCH_ALERTS_MAX) {
        let now_us = NOON_US + batch[0] * 60 * SECOND_US / alerts;
        let batch = batch.iter().map(|number| storm.alert(&bench, *number)).collect();
        let before = std::time::Instant::now();
        desk.take_all(batch, &Outside::default(), now_us);
        taking += before.elapsed();
        desk.finish_all();
        if tells && desk.taken % 20_000 == 0 {
            let rate = desk.taken * 1_000 / i64::try_from(taking.as_millis()).unwrap().max(1);
            eprintln!("{storm:?}: {} alerts, {rate} a second, {}", desk.taken, resident());
        }
    }
    let taken =
        |kind: &str| desk.count(&format!("SELECT count(*) FROM actions WHERE state = 'done' AND kind = '{kind}'"));
    assert!(taken("disable_key") <= 3, "{} keys disabled", taken("disable_key"));
    assert!(taken("quarantine_principal") <= 20, "{} principals stopped", taken("quarantine_principal"));
    assert!(taken("restore_key_policy") <= 20, "{} policies put back", taken("restore_key_policy"));
    // One of a kind in ten minutes for each incident and receiver that it is about, and no more than wait for delivery.
    assert!(desk.count("SELECT count(*) FROM notices") <= 1_010);
    assert_eq!(desk.count("SELECT count(*) FROM notices WHERE dedup LIKE 'page/responder-tripped/-/%'") % 2, 0);
    let principals = match storm {
        Storm::Mixed => 201,
        Storm::Crowd => alerts,
        Storm::Toggler => 1,
    };
    assert!(desk.count("SELECT count(*) FROM incidents") <= principals, "one for each principal");
    drop(desk);
    let store = Store::open(dir.path()).unwrap();
    let standing = store.read_now(standing::now).unwrap();
    match storm {
        Storm::Mixed => assert!(standing.tripped.iter().any(|trip| trip.subject == standing::EVERYTHING)),
        Storm::Crowd => assert_eq!(standing.tripped.len(), 1, "its playbook's"),
        // Two changes of one thing are all there is; a person is asked for the rest.
        Storm::Toggler => assert!(standing.tripped.is_empty()),
    }
}

/// Memory of this process, as the kernel tells.
fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or("VmRSS unknown").replace(char::is_whitespace, " ")
}

/// Takes in an alert about one change of a key's policy; to what the newest restore wants to go back, if there is one.
fn policy_change(desk: &mut Desk, rule: &str, id: &str, by: &str, before: &str, at: Micros) -> Option<String> {
    let bench = Bench::new();
    let call = event("PutKeyPolicy").id(id).by(by).on_key("k1").opened(before);
    let alert = bench.alert(rule, vec![call]).bucket((at - NOON_US) / SECOND_US).verified();
    let planned = desk.take(alert, &Outside::default(), at);
    desk.finish_all();
    let sql = "SELECT json_extract(args, '$.wantedEventId') FROM actions WHERE kind = 'restore_key_policy'
               ORDER BY row DESC LIMIT 1";
    let wanted = || desk.store.read_now(|db| Ok(db.query_row(sql, [], |row| row.get(0))?)).unwrap();
    (!planned.is_empty()).then(wanted)
}

#[test]
fn a_restore_does_not_go_back_behind_changes_that_alerts_only_told_of() {
    let mut desk = Desk::new();
    assert_eq!(policy_change(&mut desk, "key-policy-changed", "e1", "terraform", "e0", NOON_US), None);
    assert_eq!(policy_change(&mut desk, "key-policy-changed", "e2", "terraform", "e1", NOON_US + SECOND_US), None);
    let wanted = policy_change(&mut desk, "key-policy-public", "e3", "m", "e2", NOON_US + 2 * SECOND_US);
    assert_eq!(wanted.as_deref(), Some("e2"));
    let again = policy_change(&mut desk, "key-policy-public", "e4", "m", "e3", NOON_US + HOUR_US);
    assert_eq!(again.as_deref(), Some("e2"), "the opening before is one that was wanted back");
}

#[test]
fn who_opens_a_key_step_by_step_does_not_get_the_step_before() {
    let mut desk = Desk::new();
    assert_eq!(policy_change(&mut desk, "key-policy-changed", "e1", "m", "e0", NOON_US), None);
    let wanted = policy_change(&mut desk, "key-policy-public", "e2", "m", "e1", NOON_US + SECOND_US);
    assert_eq!(wanted.as_deref(), Some("e0"));
}

#[test]
fn a_change_that_people_found_harmless_is_gone_back_to() {
    let mut desk = Desk::new();
    assert_eq!(policy_change(&mut desk, "key-policy-public", "e1", "a", "e0", NOON_US).as_deref(), Some("e0"));
    let close = "UPDATE incidents SET state = 'resolved', resolved_us = 1, resolution = 'benign'";
    desk.store.write_now(|tx| Ok(tx.execute(close, [])?)).unwrap();
    let later = NOON_US + 24 * HOUR_US;
    assert_eq!(policy_change(&mut desk, "key-policy-public", "e2", "m", "e1", later).as_deref(), Some("e1"));
}

#[test]
fn an_announced_change_is_gone_back_to() {
    let (bench, mut desk) = (Bench::new(), Desk::new());
    let call = event("PutKeyPolicy").id("e1").by("a").on_key("k1").opened("e0");
    let alert = bench.alert("key-policy-public", vec![call]).verified();
    let outside = announcing(vec![announcement("lead", Some("k1"), None, &["PutKeyPolicy", "DisableKey"])]);
    assert!(desk.take(alert, &outside, NOON_US).iter().all(|(_, state)| *state == ActionState::Suppressed));
    let later = NOON_US + 24 * HOUR_US;
    assert_eq!(policy_change(&mut desk, "key-policy-public", "e2", "m", "e1", later).as_deref(), Some("e1"));
}

#[test]
fn what_was_only_observed_or_held_is_done_once_it_may_be() {
    let (bench, mut desk) = (Bench::new(), Desk::new());
    let burst = |bucket| bench.alert("denied-burst", vec![event("Decrypt").denied().by("m")]).bucket(bucket).verified();
    let quarantine = |state| vec![("quarantine_principal".to_owned(), state)];
    desk.rules.enforce = false;
    assert_eq!(desk.take(burst(1), &Outside::default(), NOON_US), quarantine(ActionState::Observed));
    assert_eq!(desk.take(burst(2), &Outside::default(), NOON_US + 1), [], "no second line about the same");
    desk.rules.enforce = true;
    desk.store.write_now(|tx| standing::trip(tx, standing::EVERYTHING, "test", NOON_US)).unwrap();
    assert_eq!(desk.take(burst(3), &Outside::default(), NOON_US + 2), []);
    let reset = |tx: &rusqlite::Transaction<'_>| {
        standing::reset_by(tx, standing::EVERYTHING, ["ann", "bob"], NOON_US + 3).unwrap();
        Ok(())
    };
    desk.store.write_now(reset).unwrap();
    assert_eq!(desk.take(burst(4), &Outside::default(), NOON_US + 4), quarantine(ActionState::Ready));
    desk.finish_all();
    assert_eq!(desk.take(burst(5), &Outside::default(), NOON_US + 5), [], "it is in force");
}

#[test]
fn requests_for_approval_are_as_bounded_as_actions() {
    let (bench, mut desk) = (Bench::new(), Desk::new());
    let steps = r#"{ action = "restore_key_policy", approval = { quorum = 2, ttl = "30m", on_expiry = "escalate" } }"#;
    desk.rules.playbooks = vec![crate::testing::playbook_of("ask", "key-policy-public", steps)];
    for round in 0..200_i64 {
        let call = event("PutKeyPolicy").id(&format!("e{round}")).by("m").on_key("k1").opened("e-before");
        let alert = bench.alert("key-policy-public", vec![call]).bucket(round).verified();
        desk.take(alert, &Outside::default(), NOON_US + round * SECOND_US);
    }
    let asked = desk.count("SELECT count(*) FROM approvals");
    assert!((1..=5).contains(&asked), "{asked}");
}

#[test]
fn what_was_out_when_the_incident_was_undone_is_taken_back_when_it_ends() {
    let (bench, mut desk) = (Bench::new(), Desk::new());
    let alert = bench.alert("key-policy-public", vec![open_key(1, "m")]).verified();
    desk.take(alert, &Outside::default(), NOON_US);
    let id = desk.store.read_now(|db| Ok(db.query_row("SELECT id FROM incidents", [], |row| row.get::<_, String>(0))?));
    let id = incident::IncidentId::new(&id.unwrap());
    let rows = || desk.store.read_now(|db| crate::outbox::of_incident(db, &id)).unwrap();
    let disable = rows().into_iter().find(|action| action.kind == crate::outbox::ActionKind::DisableKey).unwrap();
    let asked = desk.store.write_now(|tx| {
        assert!(crate::outbox::lease(tx, &disable.id, "Enabled", NOON_US)?);
        crate::undo::request(tx, &id, ("ann", incident::person::Resolution::Undone), false, NOON_US)
    });
    assert!(asked.unwrap().is_some() && rows().iter().all(|action| action.undo_of.is_none()));
    let end = crate::outbox::End::done(true, Some(9), None);
    desk.store
        .write_now(|tx| {
            crate::outbox::finish(tx, &disable, &end, NOON_US + 1)?;
            crate::undo::when_ended(tx, &disable, &end, NOON_US + 1)
        })
        .unwrap();
    let undo = rows().into_iter().find(|action| action.undo_of.as_deref() == Some(disable.id.as_str())).unwrap();
    assert_eq!((undo.kind, undo.state), (crate::outbox::ActionKind::EnableKey, ActionState::Ready));
}

#[test]
fn sessions_of_one_role_share_a_quarantine_which_the_first_undo_leaves_to_the_other_incident() {
    let (bench, mut desk) = (Bench::new(), Desk::new());
    let steps = r#"{ action = "quarantine_principal", ttl = "24h" }"#;
    desk.rules.playbooks = vec![crate::testing::playbook_of("stop", "many-contexts", steps)];
    let session = |name: &str| format!("arn:aws:sts::111122223333:assumed-role/app/{name}");
    let by = |name: &str, bucket| {
        let mut call = event("Decrypt").in_role("app", None).on_key("k1");
        call.rename_session(name);
        bench.alert("many-contexts", vec![call]).bucket(bucket).verified()
    };
    let quarantine = |state| vec![("quarantine_principal".to_owned(), state)];
    assert_eq!(desk.take(by("one", 1), &Outside::default(), NOON_US), quarantine(ActionState::Ready));
    desk.finish_all();
    let covered = desk.take(by("two", 2), &Outside::default(), NOON_US + 1);
    assert_eq!(covered, quarantine(ActionState::Suppressed), "it is stopped already");
    let with = |name: &str| {
        let listed = desk.store.read_now(|db| incident::listed(db, None, 10)).unwrap();
        listed.into_iter().find(|one| one.principal == Some(session(name))).unwrap().id
    };
    assert!(desk.hands_over(&with("one"), NOON_US + 2), "the other is open and relies on it");
    assert!(!desk.hands_over(&with("two"), NOON_US + 3), "nobody else relies on it");
}

#[test]
fn a_quarantine_that_spared_a_second_one_belongs_to_the_incident_that_is_left() {
    let (bench, mut desk) = (Bench::new(), Desk::new());
    let steps = r#"{ action = "quarantine_principal", ttl = "24h" }"#;
    desk.rules.playbooks = vec![crate::testing::playbook_of("stop", "many-contexts", steps)];
    let burst =
        |bucket| bench.alert("many-contexts", vec![event("Decrypt").by("m").on_key("k1")]).bucket(bucket).verified();
    let quarantine = |state| vec![("quarantine_principal".to_owned(), state)];
    assert_eq!(desk.take(burst(1), &Outside::default(), NOON_US), quarantine(ActionState::Ready));
    desk.finish_all();
    let earlier = "UPDATE incidents SET first_event_us = first_event_us - ?1, last_event_us = last_event_us - ?1";
    desk.store.write_now(|tx| Ok(tx.execute(earlier, [5 * HOUR_US])?)).unwrap();
    assert_eq!(desk.take(burst(2), &Outside::default(), NOON_US + HOUR_US), quarantine(ActionState::Suppressed));
    let ids = || -> Vec<incident::IncidentId> {
        let listed = desk.store.read_now(|db| incident::listed(db, None, 10)).unwrap();
        listed.into_iter().map(|one| one.id).collect()
    };
    let [later, earlier] = <[_; 2]>::try_from(ids()).unwrap();
    assert!(desk.hands_over(&earlier, NOON_US + 2 * HOUR_US), "the later one is open and relies on it");
    let left = desk.store.read_now(|db| crate::outbox::of_incident(db, &later)).unwrap();
    assert_eq!(left.iter().filter(|action| action.state == ActionState::Done).count(), 1);
    assert!(!desk.hands_over(&later, NOON_US + 3 * HOUR_US), "nobody else relies on it");
}
