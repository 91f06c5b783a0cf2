//! `keytrail incident undo`: gives back what we took, and closes the incident.
//!
//! Keys that we disabled are enabled, quarantines and required second factors that we put are lifted, access keys given
//! back, aliases pointed to where they had been moved, actions not begun are called off. Some things are never undone: a
//! policy that we replaced is not put back (it opened the key), a deletion that we cancelled is not scheduled again, a grant
//! that we revoked is not made again, an alias that had been deleted stays; the report says so. Undos are rows of the outbox like any other: a running responder carries
//! them out, and if none runs this process takes its lock and does so itself.

use crate::act::aws::carry_account;
use crate::act::{Control, Means, Worker};
use crate::incident::{self, IncidentId, Resolution};
use crate::intake::table::socket_path;
use crate::notify::render::clean;
use crate::outbox::{self, Action, ActionKind, ActionState, End, Start};
use crate::plan::{Proposal, action_id};
use crate::playbook::Mode;
use crate::service::{RunLock, StartError};
use crate::store::{Micros, Store, StoreError, now_us};
use keytrail_kms::clock::Clock;
use rusqlite::Transaction;
use serde::Serialize;
use serde_json::{Value, json};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How often a running responder's progress is looked at.
const POLL: Duration = Duration::from_millis(20);
/// Longest name of a person in characters.
const BY_CHARS_MAX: usize = 100;

/// Why an incident could not be undone.
#[derive(Debug, thiserror::Error)]
pub enum UndoError {
    /// No such incident.
    #[error("there is no incident {0}")]
    NoIncident(String),
    /// The store failed.
    #[error("incident cannot be undone")]
    Store(#[from] StoreError),
    /// The lock cannot be taken.
    #[error("responder lock cannot be taken")]
    Lock(#[source] Box<StartError>),
}

/// What `undo` did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UndoReport {
    /// Which incident; it is resolved now.
    pub incident: IncidentId,
    /// The undos, each with its state: enabled keys and lifted quarantines.
    pub actions: Vec<Action>,
    /// Actions called off before they began.
    pub called_off: u32,
    /// What stays as it is, one sentence each.
    pub left: Vec<String>,
    /// True when every undo took effect and no call is out.
    pub complete: bool,
}

/// Undoes an incident, for somebody who says why it is closed with it. `kms` is only called if no responder runs on this folder; `wait` bounds the whole.
pub async fn undo(
    data_dir: &Path,
    id: &str,
    (by, reason): (&str, Resolution),
    kms: Arc<dyn Control>,
    clock: Arc<dyn Clock>,
    wait: Duration,
) -> Result<UndoReport, UndoError> {
    let store = Store::open_existing(data_dir)?;
    let asked = IncidentId::new(id);
    let incident = store.read(move |db| incident::home(db, &asked)).await?;
    let by = clean(by.trim(), BY_CHARS_MAX);
    let until = Instant::now() + wait;
    let lock = RunLock::try_take(data_dir).map_err(|error| UndoError::Lock(Box::new(error)))?;
    let alone = lock.is_some();
    let mut called_off = 0;
    let mut asked: Option<Requested> = None;
    loop {
        // Written again only while something may have been added: the running responder needs the file for its own writes.
        if asked.as_ref().is_none_or(|step: &Requested| step.leased > 0) {
            let (of, by, now) = (incident.clone(), by.clone(), now_us(clock.as_ref()));
            let step = store.write(move |tx| request(tx, &of, (&by, reason), alone, now)).await?;
            let Some(step) = step else { return Err(UndoError::NoIncident(id.to_owned())) };
            called_off += step.called_off;
            if !alone {
                knock(data_dir);
            }
            asked = Some(step);
        }
        if alone {
            let told = Arc::new(Notify::new());
            let worker = {
                // No undo needs anything but the KMS.
                let means = Means::default();
                Worker::new(store.clone(), Arc::clone(&kms), Arc::clone(&clock), 4, wait, told, means)
            };
            worker.drain_incident(&incident).await?;
        }
        let report = report(&store, &incident, called_off).await?;
        let under_way = report.actions.iter().any(|action| !action.state.is_final())
            || asked.as_ref().is_some_and(|step| step.leased > 0);
        if !under_way || Instant::now() >= until {
            let (of, now) = (incident.clone(), now_us(clock.as_ref()));
            store.write(move |tx| incident::tell_more(tx, &of, now)).await?;
            return Ok(report);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What one look at the incident led to.
pub(crate) struct Requested {
    called_off: u32,
    leased: u32,
}

/// Writes the undos of everything that is done; repeating it adds only what is missing. With `alone`, an action whose
/// call may be out counts as done: nobody is left to tell, and enabling an enabled key changes nothing.
pub(crate) fn request(
    tx: &Transaction<'_>,
    id: &IncidentId,
    (by, reason): (&str, Resolution),
    alone: bool,
    now_us: Micros,
) -> Result<Option<Requested>, StoreError> {
    if incident::summary_of(tx, id)?.is_none() {
        return Ok(None);
    }
    let mut requested = Requested { called_off: 0, leased: 0 };
    let actions = outbox::of_incident(tx, id)?;
    for action in actions.iter().filter(|action| action.undo_of.is_none()) {
        match action.state {
            ActionState::Planned | ActionState::AwaitingApproval | ActionState::Ready => {
                outbox::finish(tx, action, &called_off(&format!("undone by {by}")), now_us)?;
                requested.called_off += 1;
            }
            ActionState::Leased if alone => {
                let end = called_off(&format!("undone by {by}; the call may have been made"));
                outbox::finish(tx, action, &end, now_us)?;
                add_undo(tx, &actions, action, now_us)?;
            }
            ActionState::Leased => {
                // Whoever carries it out takes it back, also when nobody waits for that any more.
                outbox::want_undo(tx, &action.id)?;
                requested.leased += 1;
            }
            ActionState::Done if action.changed == Some(true) => add_undo(tx, &actions, action, now_us)?,
            // A call whose effect was not seen, or given up on, may have landed all the same.
            ActionState::Failed | ActionState::Dead | ActionState::Dropped
                if action.attempts > 0 && action.changed != Some(false) =>
            {
                add_undo(tx, &actions, action, now_us)?;
            }
            _ => {}
        }
    }
    incident::person::resolve(tx, id, reason, by, None, now_us)?;
    Ok(Some(requested))
}

/// Takes back what came of a call that was out when its incident was undone.
pub(crate) fn when_ended(tx: &Transaction<'_>, action: &Action, end: &End, now_us: Micros) -> Result<(), StoreError> {
    let may_stand = match end.state {
        ActionState::Done => end.changed == Some(true),
        ActionState::Failed | ActionState::Dead => end.changed != Some(false),
        _ => false,
    };
    if !may_stand || !outbox::is_undo_wanted(tx, &action.id)? {
        return Ok(());
    }
    add_undo(tx, &outbox::of_incident(tx, &action.incident)?, action, now_us)
}

/// Ends an undo without a call, and says so, when another open incident relies on what it would take back; that one has
/// the action from now on, and its own undo takes it back. Asked right before the call, so that nothing comes between.
pub(crate) fn hand_over(tx: &Transaction<'_>, undo: &Action, now_us: Micros) -> Result<bool, StoreError> {
    let Some(done) = undo.undo_of.as_deref().map(|id| outbox::one(tx, id)).transpose()?.flatten() else {
        return Ok(false);
    };
    let Some((other, relies, state)) = outbox::reliance(tx, undo, now_us)? else { return Ok(false) };
    match (done.state, state) {
        (ActionState::Done, _) => outbox::move_to(tx, &done.id, &other)?,
        // Perhaps never done by us, so not to be had by anybody.
        (_, ActionState::Done) => outbox::take_over(tx, &relies)?,
        // It does so by itself soon.
        _ => return Ok(false),
    }
    let text = format!("{} {}: stays for this incident, {} was undone", done.kind, done.target, undo.incident);
    incident::note(tx, &other, now_us, "undo", &text)?;
    incident::settle(tx, &other, now_us)?;
    let end = called_off(&format!("{other}, which is not closed, relies on {}; its undo takes it back", done.kind));
    outbox::finish(tx, undo, &end, now_us)?;
    Ok(true)
}

fn called_off(reason: &str) -> End {
    End { needs_person: false, ..End::not_done(ActionState::Suppressed, reason) }
}

fn add_undo(tx: &Transaction<'_>, actions: &[Action], action: &Action, now_us: Micros) -> Result<(), StoreError> {
    let Some((kind, mut args)) = counterpart(action) else { return Ok(()) };
    carry_account(&action.args, &mut args);
    let earlier = actions.iter().filter(|undo| undo.undo_of.as_deref() == Some(action.id.as_str()));
    let generation = match earlier.max_by_key(|undo| undo.generation) {
        None => action.generation + 1,
        // The KMS answers a known action id as it did before, also with a refusal: a new try needs a new id.
        Some(last) if last.state.is_final() && last.state != ActionState::Done => last.generation + 1,
        Some(_) => return Ok(()),
    };
    let step = format!("{}/undo", action.step);
    let mut proposal = Proposal {
        id: action_id(&action.incident, &action.playbook, action.playbook_version, &step, &action.target, generation),
        incident: action.incident.clone(),
        playbook: action.playbook.clone(),
        playbook_version: action.playbook_version,
        step,
        kind,
        target: action.target.clone(),
        generation,
        cause: action.id.clone(),
        args,
        mode: Mode::Enforce,
        requires: None,
        stop_on_error: false,
        impossible: None,
        again: false,
    };
    let start = Start { state: ActionState::Ready, reason: None, needs_person: false, next_attempt_us: now_us };
    // Of two incidents that were merged, two actions may have the same place in their plan: each undo has its own id.
    for _ in 0..=actions.len() {
        if outbox::insert(tx, &proposal, Some(&action.id), &start, now_us)? {
            let text = format!("{kind} {}: ready", action.target);
            return incident::note(tx, &action.incident, now_us, "undo", &text);
        }
        proposal.generation += 1;
        let Proposal { incident, playbook, playbook_version, step, target, generation, .. } = &proposal;
        proposal.id = action_id(incident, playbook, *playbook_version, step, target, *generation);
    }
    Ok(())
}

/// What takes an action back, and with which arguments; none for what is never taken back.
fn counterpart(action: &Action) -> Option<(ActionKind, Value)> {
    let arg = |name: &str| action.args.get(name).filter(|value| !value.is_null()).cloned();
    match action.kind {
        ActionKind::DisableKey => Some((ActionKind::EnableKey, json!({}))),
        ActionKind::QuarantinePrincipal => {
            let key = arg("keyArn").map_or_else(|| json!({}), |key| json!({ "keyArn": key }));
            Some((ActionKind::LiftQuarantine, key))
        }
        ActionKind::RequireMfa => Some((ActionKind::LiftMfa, json!({}))),
        ActionKind::DeactivateAccessKey => Some((ActionKind::ActivateAccessKey, json!({}))),
        // Back to the move that we took back; an alias that was deleted stays.
        ActionKind::AliasRestore => {
            let (moved_to, restored) = (arg("currentTargetKeyArn")?, arg("wantedKeyArn")?);
            let args = json!({
                "currentTargetKeyArn": restored, "wantedKeyArn": moved_to, "wantedEventId": action.cause,
            });
            Some((ActionKind::AliasRestore, args))
        }
        _ => None,
    }
}

async fn report(store: &Store, id: &IncidentId, called_off: u32) -> Result<UndoReport, StoreError> {
    let of = id.clone();
    let actions = store.read(move |db| outbox::of_incident(db, &of)).await?;
    let out = actions.iter().any(|action| action.undo_of.is_none() && action.state == ActionState::Leased);
    let left = actions.iter().filter_map(left_alone).collect();
    // Of several tries only the last one of each counts.
    let mut undos: Vec<Action> = Vec::new();
    for action in actions.into_iter().filter(|action| action.undo_of.is_some()) {
        undos.retain(|earlier| earlier.undo_of != action.undo_of);
        undos.push(action);
    }
    let complete = !out && undos.iter().all(|undo| undo.state == ActionState::Done || was_kept(undo));
    Ok(UndoReport { incident: id.clone(), actions: undos, called_off, left, complete })
}

/// Whether an undo was not carried out because another incident relies on the effect.
fn was_kept(undo: &Action) -> bool {
    undo.undo_of.is_some() && undo.state == ActionState::Suppressed && !undo.needs_person
}

fn left_alone(action: &Action) -> Option<String> {
    if was_kept(action) {
        return Some(format!("{} stays as it is: {}", action.target, action.reason.as_deref().unwrap_or_default()));
    }
    if action.undo_of.is_some() {
        return None;
    }
    if action.state != ActionState::Done || action.changed != Some(true) {
        return None;
    }
    let target = &action.target;
    match action.kind {
        ActionKind::RestoreKeyPolicy => {
            Some(format!("the policy that was replaced on {target} is not put back: set it anew if it was meant"))
        }
        ActionKind::CancelKeyDeletion => {
            Some(format!("the deletion of {target} is not scheduled again: schedule it anew if it was meant"))
        }
        ActionKind::RevokeGrant => Some(format!(
            "a grant revoked on {target} is not made again: the evidence bundle, if one was taken, has its terms"
        )),
        ActionKind::AliasRestore if counterpart(action).is_none() => {
            Some(format!("{target}, which had been deleted, stays: delete it anew if it was meant"))
        }
        ActionKind::CallOut => Some(format!("the call-out {target} is not taken back: tell its receiver")),
        _ => None,
    }
}

/// Wakes the running responder; it would look by itself soon.
fn knock(data_dir: &Path) {
    if let Ok(socket) = UnixDatagram::unbound() {
        let _ = socket.set_nonblocking(true);
        let _ = socket.send_to(&[1], socket_path(data_dir));
    }
}
