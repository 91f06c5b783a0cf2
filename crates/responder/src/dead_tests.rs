//! Dead actions that people have tried again or drop: carried out once whatever had become of the first call, held by what
//! would hold a new action, refused with nothing changed when asked for the wrong one.
#![allow(clippy::unwrap_used)]

use crate::config::{Limits, Protected};
use crate::incident::{self, Deed as IncidentDeed, IncidentDetail, IncidentState, Resolution};
use crate::journey_tests::until;
use crate::outbox::dead::{DeadError, Deed, drop_dead, list, retry};
use crate::outbox::{Action, ActionState};
use crate::playbook::{Mode, Playbook, Severity};
use crate::service::{Responder, RunLock, RunningResponder};
use crate::standing;
use crate::store::Store;
use crate::testing::{self, Bench, EventBuilder, FakeKms, TrailDb, event, key_arn, playbook_of};
use crate::undo;
use keytrail_kms::clock::{Clock as _, FakeClock};
use std::sync::Arc;
use std::time::Duration;

const BY: Deed<'static> = Deed { by: "ann", reason: Some("the network is back") };

struct Rig {
    dir: tempfile::TempDir,
    bench: Bench,
    trail: TrailDb,
    kms: Arc<FakeKms>,
    clock: Arc<FakeClock>,
    playbook: Playbook,
    limits: Limits,
    protected: Protected,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bench = Bench::new();
        let trail = bench.folder(dir.path());
        let kms = FakeKms::open(&dir.path().join("effects"));
        let clock = Arc::new(FakeClock::new(FakeClock::START_US + 2_000_000));
        let playbook = playbook_of("opened", "key-policy-public", r#"{ action = "disable_key" }"#);
        let (limits, protected) = (Limits::default(), Protected::default());
        Self { dir, bench, trail, kms, clock, playbook, limits, protected }
    }

    fn start(&self) -> RunningResponder {
        let playbooks = vec![self.playbook.clone()];
        let parts = testing::parts(self.dir.path(), Arc::<FakeKms>::clone(&self.kms), playbooks);
        let lock = RunLock::take(self.dir.path()).unwrap();
        Responder::start_parts(parts, lock, Arc::<FakeClock>::clone(&self.clock)).unwrap()
    }

    fn push(&self, key: &str) {
        let number = key[1..].parse().unwrap();
        let opened: EventBuilder = event("PutKeyPolicy").id(key).by("mallory").on_key(key).opened("e0");
        let alert = self.bench.alert("key-policy-public", vec![opened]).severity(Severity::High).bucket(number);
        self.trail.push(&alert.signed());
    }

    fn store(&self) -> Store {
        Store::open(self.dir.path()).unwrap()
    }

    fn incident(&self) -> IncidentDetail {
        let list = incident::list(self.dir.path(), 9).unwrap();
        incident::show(self.dir.path(), list[0].id.as_str()).unwrap().unwrap()
    }

    fn actions(&self) -> Vec<Action> {
        let mut actions = self.store().read_now(|db| list(db, None)).unwrap();
        actions.reverse();
        actions
    }

    fn now(&self) -> i64 {
        i64::try_from(self.clock.now_us()).unwrap()
    }

    /// A responder whose action on this key is dead: no call went out, or one whose answer was lost.
    async fn dead(&self, key: &str, landed: bool) -> (RunningResponder, Action) {
        self.kms.set_key(key, "Enabled", true);
        let before = if landed { 0 } else { u32::MAX };
        self.kms.unreachable_for(before);
        self.kms.lose_answers(u32::from(landed));
        let responder = self.start();
        self.push(key);
        until("it was tried", || self.actions().iter().any(|one| one.target == key_arn(key) && one.reason.is_some()))
            .await;
        self.kms.unreachable_for(u32::MAX);
        self.clock.advance(self.limits.action_deadline + Duration::from_secs(60));
        let is_dead = |one: &&Action| one.target == key_arn(key) && one.state == ActionState::Dead;
        until("it is dead", || self.actions().iter().any(|one| is_dead(&one))).await;
        self.kms.unreachable_for(0);
        let action = self.actions().iter().find(is_dead).unwrap().clone();
        (responder, action)
    }

    fn retry(&self, id: &str) -> Result<Action, DeadError> {
        retry(&self.store(), id, &BY, &self.limits, &self.protected, self.now())
    }

    async fn ends(&self, id: &str, state: ActionState) -> Action {
        let ended = || self.actions().into_iter().find(|one| one.id == id).unwrap();
        until("it ended", || ended().state.is_final()).await;
        assert_eq!(ended().state, state, "{:?}", ended().reason);
        ended()
    }

    /// What people did, as the timeline has it.
    fn deeds(&self) -> Vec<String> {
        let entries = self.incident().timeline.into_iter().filter(|entry| entry.kind == "person");
        entries.map(|entry| entry.text).collect()
    }

    /// It says so, and no row is another and no deed is told.
    fn refuses(&self, asked: impl Fn() -> Result<Action, DeadError>, says: &str) {
        let before = (self.actions(), self.deeds());
        let error = asked().unwrap_err().to_string();
        assert!(error.contains(says), "{error:?} does not say {says:?}");
        assert_eq!((self.actions(), self.deeds()), before, "{says}");
    }

    fn disables(&self) -> usize {
        self.kms.effects().iter().filter(|(call, _)| call == "DisableKey").count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_action_is_done_once_whether_its_first_call_had_landed_or_not() {
    for landed in [false, true] {
        let rig = Rig::new();
        let (responder, action) = rig.dead("k1", landed).await;
        assert_eq!(rig.disables(), usize::from(landed), "the answer was lost, not the effect");
        let retried = rig.retry(&action.id[..16]).unwrap();
        assert_eq!((retried.id.as_str(), retried.planned_us), (action.id.as_str(), rig.now()));
        let done = rig.ends(&action.id, ActionState::Done).await;
        assert_eq!(done.changed, Some(true), "undo takes it back");
        assert_eq!(rig.disables(), 1, "landed before: {landed}");
        assert_eq!(rig.kms.key("k1").0, "Disabled");
        let told = format!("disable_key {}: tried again by ann: the network is back", key_arn("k1"));
        assert_eq!(rig.deeds(), [told]);
        responder.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_looks_at_its_target_again() {
    let rig = Rig::new();
    let (responder, action) = rig.dead("k1", false).await;
    rig.kms.set_key("k1", "PendingDeletion", true);
    rig.retry(&action.id).unwrap();
    let held = rig.ends(&action.id, ActionState::Suppressed).await;
    assert_eq!(held.reason.as_deref(), Some("the key is in state PendingDeletion"));
    assert_eq!(rig.disables(), 0);
    responder.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_is_not_reached_either_is_dead_again_after_the_same_time() {
    let rig = Rig::new();
    let (responder, action) = rig.dead("k1", false).await;
    rig.kms.unreachable_for(u32::MAX);
    rig.retry(&action.id).unwrap();
    let state = || rig.actions()[0].clone();
    until("it was tried", || state().reason.is_some()).await;
    assert_eq!(state().state, ActionState::Ready, "its deadline begins anew");
    rig.clock.advance(rig.limits.action_deadline + Duration::from_secs(60));
    rig.ends(&action.id, ActionState::Dead).await;
    responder.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_action_holds_nothing_up_and_what_may_have_landed_is_undone() {
    let rig = Rig::new();
    let (responder, action) = rig.dead("k1", true).await;
    assert!(rig.incident().open_actions().count() == 1);
    let dropped = drop_dead(&rig.store(), &action.id[..8], &BY, rig.now()).unwrap();
    assert_eq!(dropped.state, ActionState::Dropped);
    assert_eq!(dropped.reason.as_deref(), Some("dropped by ann: the network is back"));
    assert_eq!(rig.incident().open_actions().count(), 0);
    assert_eq!(rig.incident().summary.not_contained.as_deref(), Some("nothing was done"));
    rig.refuses(|| rig.retry(&action.id), "is dropped: only a dead one");
    let (store, id, now) = (rig.store(), rig.incident().summary.id, rig.now());
    store.write_now(|tx| undo::request(tx, &id, ("ann", Resolution::Undone), false, now)).unwrap();
    until("the key is given back", || rig.kms.key("k1").0 == "Enabled").await;
    responder.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_wrongly_changes_nothing() {
    let rig = Rig::new();
    let (responder, action) = rig.dead("k1", false).await;
    let long = "x".repeat(201);
    let reasons = [Some(""), Some(" \u{202e}\n"), Some(long.as_str())];
    for reason in reasons {
        let deed = Deed { by: "ann", reason };
        rig.refuses(|| drop_dead(&rig.store(), &action.id, &deed, rig.now()), "the reason must have between 1 and 200");
        let store = rig.store();
        let again = || retry(&store, &action.id, &deed, &rig.limits, &rig.protected, rig.now());
        rig.refuses(again, "the reason must have between 1 and 200");
    }
    let unsaid = Deed { by: "ann", reason: None };
    rig.refuses(|| drop_dead(&rig.store(), &action.id, &unsaid, rig.now()), "the reason must have");
    let nobody = Deed { by: " ", reason: Some("why") };
    rig.refuses(|| drop_dead(&rig.store(), &action.id, &nobody, rig.now()), "who does it");
    let last = if action.id.ends_with('0') { "1" } else { "0" };
    let another = format!("{}{last}", &action.id[..63]);
    for id in ["", "0", &action.id[..7], "../../etc/passwd", "%", &another, &format!("{}0", action.id)] {
        rig.refuses(|| rig.retry(id), "there is no action");
    }
    rig.retry(&action.id).unwrap();
    rig.ends(&action.id, ActionState::Done).await;
    rig.refuses(|| rig.retry(&action.id), "is done: only a dead one");
    rig.refuses(|| drop_dead(&rig.store(), &action.id, &BY, rig.now()), "is done: only a dead one");
    responder.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_hold_a_new_action_holds_a_retry() {
    let mut rig = Rig::new();
    let (responder, action) = rig.dead("k1", false).await;
    responder.shutdown().await;
    let asked = |rig: &Rig, says: &str| rig.refuses(|| rig.retry(&action.id), says);
    rig.protected.keys.push("k1".into());
    asked(&rig, "protected list: the key is on the protected list");
    rig.protected = Protected::default();
    rig.limits.disable_keys_per_hour = 0;
    asked(&rig, "circuit breaker: 0 keys were disabled in the last hour");
    rig.limits = Limits { flip_flop_changes: 0, ..Limits::default() };
    asked(&rig, "flip-flop: we changed this 0 times");
    rig.limits = Limits::default();
    let (store, now) = (rig.store(), rig.now());
    store.write_now(|tx| Ok(standing::promote(tx, "opened", Mode::Observe, "ann", "quiet", now).is_ok())).unwrap();
    asked(&rig, "only observes now");
    store.write_now(|tx| Ok(standing::promote(tx, "opened", Mode::Enforce, "ann", "on", now).is_ok())).unwrap();
    let id = rig.incident().summary.id;
    incident::person::act(&store, id.as_str(), "ann", &IncidentDeed::Close(Resolution::Benign, None), now).unwrap();
    asked(&rig, "is resolved: reopen it first");
    incident::person::act(&store, id.as_str(), "ann", &IncidentDeed::Reopen(None), now).unwrap();
    store.write_now(|tx| standing::trip(tx, standing::EVERYTHING, "too many", now)).unwrap();
    asked(&rig, "circuit breaker: tripped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_the_key_service_may_have_forgotten_is_not_made_again() {
    let rig = Rig::new();
    let (responder, action) = rig.dead("k1", true).await;
    responder.shutdown().await;
    rig.clock.advance(Duration::from_secs(29 * 86_400));
    rig.refuses(|| rig.retry(&action.id), "may not know it any more");
    drop_dead(&rig.store(), &action.id, &BY, rig.now()).unwrap();
    assert_eq!(rig.incident().summary.state, IncidentState::Open);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_action_counts_for_the_breaker_as_planned_now() {
    let mut rig = Rig::new();
    rig.limits.disable_keys_per_hour = 1;
    let (responder, first) = rig.dead("k1", false).await;
    responder.shutdown().await;
    let (responder, second) = rig.dead("k2", false).await;
    responder.shutdown().await;
    // Counted by order after a reset, which both were planned before.
    let now = rig.now();
    let reset = "INSERT INTO standing(at_us, kind, subject, by_whom, reason, detail)
                 SELECT ?1, 'reset', '*', 'ann', 'test', max(row) FROM actions";
    rig.store().write_now(|tx| Ok(tx.execute(reset, [now])?)).unwrap();
    rig.retry(&first.id).unwrap();
    rig.refuses(|| rig.retry(&second.id), "circuit breaker: 1 keys were disabled");
}
