//! The life of incidents and of the outbox against a small model: any order of alerts, outcomes, looks and what people do.
//!
//! After each step the state is the model's, every alert is where the model has it, each action went only where its state
//! leads, and each timeline has only grown and still links. While the responder is paused nothing but undos goes out; while
//! the playbook observes nothing is planned that would. The same steps again give the same ids, plans and digests.
#![allow(clippy::unwrap_used)]

use crate::config::{Limits, Protected};
use crate::guard::Outside;
use crate::incident::{self, Deed, IncidentDetail, IncidentId, Resolution, TimelineEntry, person, timeline};
use crate::ingest::{Rules, take_in};
use crate::outbox::{self, Action, ActionState, End};
use crate::playbook::{Mode, Severity};
use crate::store::{Micros, Store, StoreError};
use crate::testing::{Bench, event, shipped_playbooks};
use crate::{contain, standing, undo};
use proptest::prelude::*;
use rusqlite::Transaction;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// The one that answers the alerts.
const PLAYBOOK: &str = "credential-misuse";

#[derive(Clone, Debug)]
enum Op {
    /// A new alert about one of some principals.
    Alert(u8),
    /// The last one again.
    Repeat,
    /// The oldest action that is due ends; true: with its effect.
    Finish(bool),
    /// Its call goes out and is not answered: it is due again in two seconds.
    PutOff,
    /// It is given up.
    GiveUp,
    /// Of the responder; false: it goes on.
    Pause(bool),
    /// Of the playbook; false: it observes.
    Promote(bool),
    /// `contain` looks and finds nothing wrong.
    Look,
    Acknowledge(u8),
    Assign(u8),
    Note(u8),
    Close(u8, u8),
    Reopen(u8),
    Merge(u8, u8),
    Undo(u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0u8..3).prop_map(Op::Alert),
        1 => Just(Op::Repeat),
        4 => any::<bool>().prop_map(Op::Finish),
        1 => Just(Op::PutOff),
        1 => Just(Op::GiveUp),
        1 => any::<bool>().prop_map(Op::Pause),
        1 => any::<bool>().prop_map(Op::Promote),
        2 => Just(Op::Look),
        2 => (0u8..4).prop_map(Op::Acknowledge),
        1 => (0u8..4).prop_map(Op::Assign),
        1 => (0u8..4).prop_map(Op::Note),
        2 => (0u8..4, 0u8..5).prop_map(|(which, why)| Op::Close(which, why)),
        1 => (0u8..4).prop_map(Op::Reopen),
        1 => (0u8..4, 0u8..4).prop_map(|(from, into)| Op::Merge(from, into)),
        2 => (0u8..4).prop_map(Op::Undo),
    ]
}

/// What an incident should be.
#[derive(Clone, Debug, Default)]
struct Model {
    alerts: usize,
    resolved: bool,
    /// Closed as a test: never opened by an alert.
    test: bool,
    reopened: bool,
    contained: bool,
    acknowledged: Option<Micros>,
    merged_into: Option<usize>,
}

struct World {
    _dir: tempfile::TempDir,
    store: Store,
    bench: Bench,
    rules: Rules,
    now: Micros,
    bucket: i64,
    last: Option<u8>,
    ids: Vec<IncidentId>,
    models: Vec<Model>,
    /// By principal.
    groups: BTreeMap<u8, Vec<usize>>,
    seen: Vec<TimelineEntry>,
    /// State and attempts of each action by its id.
    actions: BTreeMap<String, (ActionState, u32)>,
    paused: bool,
    observes: bool,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            store: Store::open(dir.path()).unwrap(),
            _dir: dir,
            bench: Bench::new(),
            rules: Rules {
                playbooks: shipped_playbooks(),
                enforce: true,
                limits: Limits::default(),
                protected: Protected::default(),
                windows: Vec::new(),
                aws: Vec::new(),
                tell_from: Severity::Medium,
            },
            now: 1_767_614_500_000_000,
            bucket: 0,
            last: None,
            ids: Vec::new(),
            models: Vec::new(),
            groups: BTreeMap::new(),
            seen: Vec::new(),
            actions: BTreeMap::new(),
            paused: false,
            observes: false,
        }
    }

    fn details(&self) -> Vec<IncidentDetail> {
        self.store.read_now(|db| self.ids.iter().map(|id| Ok(incident::detail(db, id)?.unwrap())).collect()).unwrap()
    }

    fn step(&mut self, op: &Op) {
        self.now += 1_000_000;
        match op {
            Op::Alert(who) => {
                self.bucket += 1;
                self.last = Some(*who);
                self.alert(*who);
                let group = self.groups.entry(*who).or_default().clone();
                let homes = group.into_iter().map(|at| self.home(at)).filter(|at| !self.models[*at].test);
                let at = homes.min_by_key(|at| (self.models[*at].resolved, Reverse(*at))).unwrap_or_else(|| {
                    self.models.push(Model::default());
                    self.groups.entry(*who).or_default().push(self.models.len() - 1);
                    self.models.len() - 1
                });
                let model = &mut self.models[at];
                model.alerts += 1;
                if model.resolved {
                    *model = Model { alerts: model.alerts, reopened: true, ..Model::default() };
                }
            }
            Op::Repeat => {
                if let Some(who) = self.last {
                    self.alert(who);
                }
            }
            Op::Finish(true) => {
                self.carry_out(|tx, action, now| outbox::finish(tx, action, &End::done(true, Some(7), None), now))
            }
            Op::Finish(false) => self.carry_out(|tx, action, now| {
                outbox::finish(tx, action, &End::not_done(ActionState::Failed, "no"), now)
            }),
            Op::PutOff => self.carry_out(|tx, action, now| outbox::retry(tx, &action.id, "later", now + 2_000_000)),
            Op::GiveUp => self.carry_out(|tx, action, now| {
                outbox::finish(tx, action, &End::not_done(ActionState::Dead, "never"), now)
            }),
            Op::Pause(on) => {
                let now = self.now;
                let done = self.store.write_now(|tx| {
                    Ok(match on {
                        true => standing::pause(tx, "alice", "test", now).is_ok(),
                        false => standing::resume(tx, "alice", "test", now).is_ok(),
                    })
                });
                assert_eq!(done.unwrap(), *on != self.paused, "only what it is not yet");
                self.paused = *on;
            }
            Op::Promote(on) => {
                let (mode, now) = (if *on { Mode::Enforce } else { Mode::Observe }, self.now);
                self.store
                    .write_now(|tx| Ok(standing::promote(tx, PLAYBOOK, mode, "alice", "test", now).is_ok()))
                    .unwrap();
                self.observes = !on;
            }
            Op::Look => {
                self.store.write_now(|tx| contain::found_nothing(tx, self.now)).unwrap();
                let details = self.details();
                for (model, detail) in self.models.iter_mut().zip(&details) {
                    model.contained |= !model.resolved && is_effective(detail);
                }
            }
            Op::Undo(which) => {
                let Some(at) = self.pick(*which) else { return };
                let (id, now) = (self.ids[self.home(at)].clone(), self.now);
                self.store
                    .write_now(|tx| undo::request(tx, &id, ("undoer", Resolution::Undone), true, now))
                    .unwrap()
                    .unwrap();
                let at = self.home(at);
                self.models[at].resolved = true;
            }
            _ => self.person(op),
        }
    }

    fn alert(&mut self, who: u8) {
        let alert = || {
            let events = vec![event("Decrypt").denied().by(&format!("user-{who}"))];
            self.bench.alert("denied-burst", events).bucket(self.bucket)
        };
        let (raw, verified) = (alert().raw(self.bucket), Ok(alert().verified()));
        self.store.write_now(|tx| take_in(tx, &self.rules, &raw, &verified, &Outside::default(), self.now)).unwrap();
        let listed = self.store.read_now(|db| incident::listed(db, None, 100)).unwrap();
        for one in listed {
            if !self.ids.contains(&one.id) {
                self.ids.push(one.id);
            }
        }
    }

    /// What the worker does with the oldest action that is due.
    fn carry_out(&mut self, end: impl Fn(&Transaction<'_>, &Action, Micros) -> Result<(), StoreError>) {
        let (now, paused) = (self.now, self.paused);
        self.store
            .write_now(|tx| {
                let Some(action) = outbox::due(tx, now, 1, None)?.pop() else { return Ok(()) };
                assert!(!paused || action.undo_of.is_some(), "{action:?} while paused");
                if undo::hand_over(tx, &action, now)? {
                    return Ok(());
                }
                assert!(outbox::lease(tx, &action.id, "-", now)?);
                end(tx, &action, now)
            })
            .unwrap();
    }

    fn person(&mut self, op: &Op) {
        let (which, deed) = match op {
            Op::Acknowledge(which) => (which, Deed::Acknowledge),
            Op::Assign(which) => (which, Deed::Assign("bob".into())),
            Op::Note(which) => (which, Deed::Note("looked".into())),
            Op::Close(which, why) => (which, Deed::Close(Resolution::GIVEN[usize::from(*why)], None)),
            Op::Reopen(which) => (which, Deed::Reopen(None)),
            Op::Merge(which, into) => {
                let Some(into) = self.pick(*into) else { return };
                (which, Deed::Merge(self.ids[into].to_string()))
            }
            _ => return,
        };
        let Some(at) = self.pick(*which) else { return };
        let done = person::act(&self.store, self.ids[at].as_str(), "alice", &deed, self.now).is_ok();
        let model = self.models[at].clone();
        let merged = model.merged_into.is_some();
        let into = match &deed {
            Deed::Merge(id) => self.ids.iter().position(|one| one.as_str() == id),
            _ => None,
        };
        let allowed = match &deed {
            Deed::Note(_) => true,
            _ if merged => false,
            Deed::Acknowledge | Deed::Close(..) => !model.resolved,
            Deed::Reopen(_) => model.resolved,
            Deed::Merge(_) => into.is_some_and(|into| into != at && !self.models[into].resolved),
            Deed::Assign(_) => true,
        };
        assert_eq!(done, allowed, "{deed:?} of {model:?}");
        if !done {
            return;
        }
        match deed {
            // The first one counts: who acknowledges again has nothing new to say.
            Deed::Acknowledge => {
                self.models[at].acknowledged.get_or_insert(self.now);
            }
            Deed::Close(reason, _) => {
                self.models[at].resolved = true;
                self.models[at].test = reason == Resolution::Test;
            }
            Deed::Reopen(_) => {
                self.models[at] = Model { alerts: model.alerts, reopened: true, ..Model::default() };
            }
            Deed::Merge(_) => {
                let into = into.unwrap();
                self.models[into].alerts += model.alerts;
                self.models[into].contained = false;
                for other in &mut self.models {
                    if other.merged_into == Some(at) {
                        other.merged_into = Some(into);
                    }
                }
                self.models[at] = Model { resolved: true, merged_into: Some(into), ..Model::default() };
            }
            Deed::Assign(_) | Deed::Note(_) => {}
        }
    }

    fn pick(&self, which: u8) -> Option<usize> {
        (!self.ids.is_empty()).then(|| usize::from(which) % self.ids.len())
    }

    fn home(&self, at: usize) -> usize {
        self.models[at].merged_into.unwrap_or(at)
    }

    fn check(&mut self) {
        let details = self.details();
        for action in details.iter().flat_map(|detail| &detail.actions) {
            let before = self.actions.insert(action.id.clone(), (action.state, action.attempts));
            let (state, attempts) = before.unwrap_or((ActionState::Planned, 0));
            assert!(leads_to(state, action.state) && attempts <= action.attempts, "{state} to {action:?}");
            let is_new = before.is_none() && action.undo_of.is_none();
            assert!(!is_new || self.observes == (action.state == ActionState::Observed), "{action:?}");
        }
        for ((at, model), detail) in self.models.iter_mut().enumerate().zip(&details) {
            // Whoever acknowledged knew of what was planned until then, not of what a merge brings that is newer.
            let newest = detail.actions.iter().filter(|a| a.undo_of.is_none()).map(|a| a.planned_us).max();
            model.acknowledged = model.acknowledged.filter(|at| newest.is_none_or(|newest| *at >= newest));
            model.contained &= model.resolved || is_effective(detail);
            let expected = match model {
                Model { resolved: true, .. } => "resolved",
                Model { contained: true, .. } => "contained",
                Model { acknowledged: Some(_), .. } => "acknowledged",
                Model { reopened: true, .. } => "reopened",
                _ => "open",
            };
            assert_eq!(detail.summary.state.as_str(), expected, "{at}: {model:?}\n{:#?}", detail.timeline);
            assert_eq!(detail.alerts.len(), model.alerts, "{at}: {model:?}");
            if model.merged_into.is_some() {
                assert!(detail.actions.is_empty() && detail.keys.is_empty());
            }
        }
        let mut all: Vec<TimelineEntry> = Vec::new();
        for (detail, id) in details.iter().zip(&self.ids) {
            let own: Vec<TimelineEntry> =
                detail.timeline.iter().filter(|entry| entry.incident == *id).cloned().collect();
            assert_eq!(timeline::fault(&own), None);
            all.extend(own);
        }
        all.sort_by_key(|entry| entry.id);
        assert_eq!(all.get(..self.seen.len()), Some(self.seen.as_slice()), "what was written stays as it was");
        self.seen = all;
    }

    /// All that a replay must bring again.
    fn plan_bytes(&self) -> String {
        let mut told = String::new();
        for detail in self.details() {
            let actions: Vec<_> = detail.actions.iter().map(|action| (&action.id, action.args.to_string())).collect();
            let digests: Vec<_> = detail.timeline.iter().map(|entry| (entry.number, &entry.digest)).collect();
            told += &format!("{} {:?} {actions:?} {digests:?}\n", detail.summary.id, detail.summary.state);
        }
        told
    }
}

/// Whether an action may go from one state to another in one step; what has ended stays as it ended.
fn leads_to(from: ActionState, to: ActionState) -> bool {
    use ActionState::{AwaitingApproval, Planned, Ready};
    match from {
        _ if from == to => true,
        Planned => true,
        AwaitingApproval | Ready => !matches!(to, Planned | ActionState::Observed),
        ActionState::Leased => to.is_final() && to != ActionState::Observed,
        _ => false,
    }
}

/// Something is done, and nothing is left.
fn is_effective(detail: &IncidentDetail) -> bool {
    let undone = |id: &str| {
        detail.actions.iter().any(|undo| undo.undo_of.as_deref() == Some(id) && undo.state != ActionState::Suppressed)
    };
    let planned = || detail.actions.iter().filter(|action| action.undo_of.is_none());
    let done = planned().any(|action| action.state == ActionState::Done && !undone(&action.id));
    let left = planned().any(|action| match action.state {
        ActionState::Done => false,
        ActionState::Suppressed => action.needs_person,
        _ => true,
    });
    done && !left
}

fn run(ops: &[Op]) -> World {
    let mut world = World::new();
    for op in ops {
        world.step(op);
        world.check();
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn incidents_live_as_the_model_says_and_a_replay_is_the_same(ops in proptest::collection::vec(op(), 1..30)) {
        let (first, again) = (run(&ops), run(&ops));
        prop_assert_eq!(first.plan_bytes(), again.plan_bytes());
    }
}

#[test]
fn undo_covers_what_was_merged() {
    let mut world = run(&[Op::Alert(0), Op::Alert(1), Op::Finish(true), Op::Finish(true), Op::Merge(0, 1)]);
    let left = "SELECT count(*) FROM alert_facts WHERE incident <> ?1";
    let left = |id: &str| world.store.read_now(|db| Ok(db.query_row(left, [id], |row| row.get::<_, i64>(0))?)).unwrap();
    assert_eq!(left(world.ids[1].as_str()), 0, "why and queries of its alerts come along");
    let of = |world: &World| world.details()[1].actions.clone();
    assert_eq!(of(&world).iter().filter(|action| action.state == ActionState::Done).count(), 2);
    world.step(&Op::Undo(0));
    world.check();
    let undos: Vec<String> =
        of(&world).iter().filter(|action| action.undo_of.is_some()).map(|undo| undo.target.clone()).collect();
    assert_eq!(undos.len(), 2, "{undos:?}");
    assert_ne!(undos[0], undos[1]);
    let shown = &world.details()[1];
    assert!(shown.timeline.iter().any(|entry| entry.incident == world.ids[0]), "the merged one's timeline is shown");
}

#[test]
fn a_reopened_incident_is_contained_again() {
    let mut world = run(&[Op::Alert(0), Op::Finish(true), Op::Look, Op::Undo(0), Op::Finish(true)]);
    assert_eq!(world.details()[0].summary.state.as_str(), "resolved");
    world.step(&Op::Alert(0));
    world.check();
    let detail = world.details().remove(0);
    assert_eq!((detail.summary.state.as_str(), detail.summary.reopenings), ("reopened", 1));
    let ready = detail.actions.iter().filter(|action| action.undo_of.is_none() && !action.state.is_final()).count();
    assert_eq!(ready, 1, "the lifted quarantine is put again: {:?}", detail.timeline);
}
