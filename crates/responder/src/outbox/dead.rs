//! What people do with actions that were given up: look at them, have them tried again, or drop them.
//!
//! Works on `responder.db` beside a running responder, which carries a retried action out at its next look. A retry keeps the
//! action's id, so that the key service answers a call that had landed after all instead of doing it twice, and counts for the
//! guards as planned now. It is no way around them: what would hold a new action holds it. A drop ends the action and takes
//! nothing back; `undo` still does, for a call of it may have landed. Each is in the incident's timeline with its author.

use super::{Action, ActionKind, ActionState, COLUMNS, action, facts, one};
use crate::act::aws;
use crate::config::{Limits, Protected};
use crate::guard::{judge_again, micros};
use crate::incident;
use crate::notify::render::clean;
use crate::plan::Proposal;
use crate::playbook::Mode;
use crate::standing;
use crate::store::{Micros, Store, StoreError};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use std::time::Duration;

/// Most actions listed.
const LISTED_MAX: u32 = 1_000;
/// Shortest beginning of an id that names an action.
const ID_CHARS_MIN: usize = 8;
/// Longest name and longest reason in characters; an entry of a timeline has room for both beside a target.
const NAME_CHARS_MAX: usize = 100;
const REASON_CHARS_MAX: usize = 200;
/// The key service remembers an action id for 30 days. Beyond that the same call could take effect a second time.
const CALL_REMEMBERED: Duration = Duration::from_secs(28 * 86_400);

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum DeadError {
    /// responder.db.
    #[error("outbox cannot be read or written")]
    Store(#[from] StoreError),
    /// No such action.
    #[error("there is no action {0}: see `keytrail outbox list`")]
    Unknown(String),
    /// The beginning of several ids.
    #[error("more than one action begins with {0}")]
    Several(String),
    /// It is under way, or ended otherwise.
    #[error("action {id} is {state}: only a dead one is retried or dropped")]
    NotDead {
        /// Which.
        id: String,
        /// Where it stands.
        state: ActionState,
    },
    /// It would not be planned now either.
    #[error("action {id} is not tried again: {why}")]
    Held {
        /// Which.
        id: String,
        /// What holds it.
        why: String,
    },
    /// A name or a reason is missing or too long.
    #[error("{0} must have between 1 and {1} characters")]
    Text(&'static str, usize),
}

impl From<rusqlite::Error> for DeadError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Whose deed it is, and why.
#[derive(Clone, Copy, Debug)]
pub struct Deed<'a> {
    /// Who.
    pub by: &'a str,
    /// Why; a drop needs one.
    pub reason: Option<&'a str>,
}

/// The newest actions first, of one state or of all.
pub fn list(db: &Connection, state: Option<ActionState>) -> Result<Vec<Action>, StoreError> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM actions WHERE ?1 IS NULL OR state = ?1 ORDER BY row DESC LIMIT ?2"
    ))?;
    let rows = statement.query_map(params![state.map(ActionState::as_str), LISTED_MAX], |row| Ok(action(row)))?;
    rows.map(|row| row?).collect()
}

/// Has a dead action carried out after all, unless a guard would hold it now.
pub fn retry(
    store: &Store,
    id: &str,
    deed: &Deed<'_>,
    limits: &Limits,
    protected: &Protected,
    now_us: Micros,
) -> Result<Action, DeadError> {
    let (by, why) = signed(deed)?;
    changed(store, |tx| {
        let dead = named(tx, id)?;
        if let Some(why) = held(tx, &dead, limits, protected, now_us)? {
            return Err(DeadError::Held { id: short(&dead.id).to_owned(), why });
        }
        // A call that may be out is made again whatever the target looks like: its answer says whether it was ours. One
        // that never was is looked at first, like a new one.
        let state = if dead.attempts > 0 { ActionState::Leased } else { ActionState::Ready };
        tx.execute(
            "UPDATE actions SET row = (SELECT max(row) + 1 FROM actions), state = ?2, reason = NULL, needs_person = 0,
               finished_us = NULL, planned_us = ?3, next_attempt_us = ?3 WHERE id = ?1",
            params![dead.id, state.as_str(), now_us],
        )?;
        note(tx, &dead, &format!("tried again by {by}{why}"), now_us)
    })
}

/// Gives a dead action up for good.
pub fn drop_dead(store: &Store, id: &str, deed: &Deed<'_>, now_us: Micros) -> Result<Action, DeadError> {
    let (by, why) = signed(deed)?;
    if why.is_empty() {
        return Err(DeadError::Text("the reason", REASON_CHARS_MAX));
    }
    changed(store, |tx| {
        let dead = named(tx, id)?;
        let text = format!("dropped by {by}{why}");
        tx.execute(
            "UPDATE actions SET state = ?2, reason = ?3, needs_person = 0, finished_us = ?4 WHERE id = ?1",
            params![dead.id, ActionState::Dropped.as_str(), text, now_us],
        )?;
        note(tx, &dead, &text, now_us)
    })
}

/// How an action is named to people, and as much of its id as finds it again.
pub fn short(id: &str) -> &str {
    id.get(..16).unwrap_or(id)
}

/// One transaction. What is refused must not look like a broken file, and wrote nothing.
fn changed(
    store: &Store,
    change: impl FnOnce(&Transaction<'_>) -> Result<Action, DeadError>,
) -> Result<Action, DeadError> {
    store.write_now(|tx| match change(tx) {
        Err(DeadError::Store(error)) => Err(error),
        answered => Ok(answered),
    })?
}

fn note(tx: &Transaction<'_>, dead: &Action, what: &str, now_us: Micros) -> Result<Action, DeadError> {
    incident::note(tx, &dead.incident, now_us, "person", &format!("{} {}: {what}", dead.kind, dead.target))?;
    incident::settle(tx, &dead.incident, now_us)?;
    incident::tell_more(tx, &dead.incident, now_us)?;
    one(tx, &dead.id)?.ok_or_else(|| DeadError::Unknown(dead.id.clone()))
}

/// Name, and `: reason` or nothing.
fn signed(deed: &Deed<'_>) -> Result<(String, String), DeadError> {
    let fits = |words: &str, what, chars_max| {
        let words = clean(words, usize::MAX).trim().to_owned();
        let fits = (1..=chars_max).contains(&words.chars().count());
        if fits { Ok(words) } else { Err(DeadError::Text(what, chars_max)) }
    };
    let by = fits(deed.by, "who does it", NAME_CHARS_MAX)?;
    let why = deed.reason.map(|reason| fits(reason, "the reason", REASON_CHARS_MAX)).transpose()?;
    Ok((by, why.map_or_else(String::new, |why| format!(": {why}"))))
}

/// The dead action with this id, or with an id that begins so.
fn named(db: &Connection, id: &str) -> Result<Action, DeadError> {
    let shown = || clean(id, 64);
    if id.len() < ID_CHARS_MIN || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(DeadError::Unknown(shown()));
    }
    let mut statement = db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM actions WHERE id >= ?1 AND substr(id, 1, length(?1)) = ?1 ORDER BY id LIMIT 2"
    ))?;
    let rows = statement.query_map([id.to_ascii_lowercase()], |row| Ok(action(row)))?;
    let mut found = rows.map(|row| row?).collect::<Result<Vec<Action>, StoreError>>()?;
    match (found.pop(), found.is_empty()) {
        (None, _) => Err(DeadError::Unknown(shown())),
        (Some(_), false) => Err(DeadError::Several(shown())),
        (Some(one), true) if one.state == ActionState::Dead => Ok(one),
        (Some(other), true) => Err(DeadError::NotDead { id: short(&other.id).to_owned(), state: other.state }),
    }
}

/// Why it is not to be done any more, or not now.
fn held(
    tx: &Transaction<'_>,
    dead: &Action,
    limits: &Limits,
    protected: &Protected,
    now_us: Micros,
) -> Result<Option<String>, DeadError> {
    if dead.undo_of.is_some() {
        return Ok(Some(format!("it is an undo, and `keytrail incident undo {}` makes a new one", dead.incident)));
    }
    let home = incident::home(tx, &dead.incident)?;
    let summary = incident::summary_of(tx, &home)?.ok_or(StoreError::Damaged("incident"))?;
    if summary.resolved_us.is_some() {
        return Ok(Some(format!("incident {home} is resolved: reopen it first")));
    }
    if super::is_undone(tx, &dead.id)? {
        return Ok(Some("it was undone since".into()));
    }
    let known_until = dead.leased_us.map(|at| at.saturating_add(micros(CALL_REMEMBERED)));
    if known_until.is_some_and(|until| until < now_us) && !aws::is_there(dead) && dead.kind != ActionKind::CallOut {
        return Ok(Some("its first call is so old that the key service may not know it any more: act by hand".into()));
    }
    if let Some(why) = is_replaced(tx, dead)? {
        return Ok(Some(why));
    }
    let approved = "SELECT expires_us FROM approvals WHERE action = ?1";
    let until: Option<Micros> = tx.prepare_cached(approved)?.query_row([&dead.id], |row| row.get(0)).optional()?;
    if until.is_some_and(|until| until < now_us) {
        return Ok(Some("what people agreed to is over: act by hand".into()));
    }
    let lowered = standing::promoted(tx)?.get(&dead.playbook).is_some_and(|mode| *mode < Mode::Enforce);
    if lowered || standing::mode(tx)? == Some(Mode::Observe) {
        return Ok(Some("its playbook, or the responder, only observes now".into()));
    }
    let proposal = again(dead);
    let facts = facts(tx, &proposal, limits.flip_flop_window, now_us)?;
    Ok(judge_again(&proposal, &facts, protected, limits).map(|(guard, why)| format!("{guard}: {why}")))
}

/// A later action of the same step on the same target knows more.
fn is_replaced(tx: &Transaction<'_>, dead: &Action) -> Result<Option<String>, StoreError> {
    let mut statement = tx.prepare_cached(
        "SELECT id, state FROM actions WHERE incident = ?1 AND playbook = ?2 AND step = ?3 AND target = ?4 AND row > ?5
           AND undo_of IS NULL AND state IN ('planned', 'awaiting_approval', 'ready', 'leased', 'done', 'failed')
         ORDER BY row LIMIT 1",
    )?;
    let later = params![dead.incident.as_str(), dead.playbook, dead.step, dead.target, dead.row];
    let later: Option<(String, String)> =
        statement.query_row(later, |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    Ok(later.map(|(id, state)| format!("{} took its place and is {state}", short(&id))))
}

/// As it was planned.
fn again(dead: &Action) -> Proposal {
    Proposal {
        id: dead.id.clone(),
        incident: dead.incident.clone(),
        playbook: dead.playbook.clone(),
        playbook_version: dead.playbook_version,
        step: dead.step.clone(),
        kind: dead.kind,
        target: dead.target.clone(),
        generation: dead.generation,
        cause: dead.cause.clone(),
        args: dead.args.clone(),
        mode: Mode::Enforce,
        requires: dead.requires.clone(),
        stop_on_error: dead.stop_on_error,
        impossible: None,
        again: false,
    }
}
