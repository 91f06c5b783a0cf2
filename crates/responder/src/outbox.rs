//! The actions table: what is to be done, what is being done, and how it ended.
//!
//! States: `planned` (waits for an earlier step), `ready`, `leased` (the call may be out), then `done`, `failed` (the KMS
//! said no, or the effect was not there), `dead` (could not be carried out in time), `dropped` (a person gave a dead one up),
//! `suppressed` (a guard held it) or `observed` (the playbook may not act). A row in `leased` after a crash is carried out again under the same action id,
//! which the KMS answers without doing it twice. Nothing here talks to the KMS; see `act`.

use crate::guard::{COVERED, Facts, Guard, kept_as, micros};
use crate::incident::{self, IncidentId};
use crate::plan::Proposal;
use crate::standing;
use crate::store::{Micros, StoreError};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde::Serialize;
use serde_json::Value;
use std::fmt;
use std::time::Duration;

pub mod dead;

/// The hour that the circuit breaker looks back.
const BREAKER_WINDOW: Duration = Duration::from_secs(3600);

/// What took effect, may have, or is about to, also once people agree; the condition of the indexes that the guards'
/// questions go by.
const ACTING: &str =
    "state IN ('planned', 'awaiting_approval', 'ready', 'leased', 'done', 'failed') AND undo_of IS NULL";

/// Member of the arguments of a restore that is done: SHA-256 of the policy that it put back, hex.
pub(crate) const RESTORED_ARG: &str = "restoredPolicySha256";

/// What is done to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionKind {
    /// `KeytrailService.PutQuarantine`.
    QuarantinePrincipal,
    /// `KeytrailService.LiftQuarantine`, only as an undo.
    LiftQuarantine,
    /// `TrentService.CancelKeyDeletion`.
    CancelKeyDeletion,
    /// `TrentService.EnableKey`: after a cancelled deletion, or as an undo.
    EnableKey,
    /// `KeytrailService.RestoreKeyPolicy`.
    RestoreKeyPolicy,
    /// `TrentService.DisableKey`.
    DisableKey,
    /// Reads, and a file of what they found.
    SnapshotEvidence,
    /// Reads a grantee's grants on a key and plans a [`Self::RevokeGrant`] of each.
    RevokeGrants,
    /// `TrentService.RevokeGrant`.
    RevokeGrant,
    /// `KeytrailService.PutMfaRequirement`.
    RequireMfa,
    /// `KeytrailService.LiftMfaRequirement`, only as an undo.
    LiftMfa,
    /// `KeytrailService.RestoreAlias`.
    AliasRestore,
    /// `KeytrailService.DeactivateAccessKey`.
    DeactivateAccessKey,
    /// `KeytrailService.ActivateAccessKey`, only as an undo.
    ActivateAccessKey,
    /// A POST to one of `[responder.call_outs]`.
    CallOut,
}

impl ActionKind {
    pub(crate) const ALL: [Self; 15] = [
        Self::QuarantinePrincipal,
        Self::LiftQuarantine,
        Self::CancelKeyDeletion,
        Self::EnableKey,
        Self::RestoreKeyPolicy,
        Self::DisableKey,
        Self::SnapshotEvidence,
        Self::RevokeGrants,
        Self::RevokeGrant,
        Self::RequireMfa,
        Self::LiftMfa,
        Self::AliasRestore,
        Self::DeactivateAccessKey,
        Self::ActivateAccessKey,
        Self::CallOut,
    ];

    /// The word in the store, in playbooks and for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QuarantinePrincipal => "quarantine_principal",
            Self::LiftQuarantine => "lift_quarantine",
            Self::CancelKeyDeletion => "cancel_key_deletion",
            Self::EnableKey => "enable_key",
            Self::RestoreKeyPolicy => "restore_key_policy",
            Self::DisableKey => "disable_key",
            Self::SnapshotEvidence => "snapshot_evidence",
            Self::RevokeGrants => "revoke_grants",
            Self::RevokeGrant => "revoke_grant",
            Self::RequireMfa => "require_mfa",
            Self::LiftMfa => "lift_mfa",
            Self::AliasRestore => "alias_restore",
            Self::DeactivateAccessKey => "deactivate_access_key",
            Self::ActivateAccessKey => "activate_access_key",
            Self::CallOut => "call_out",
        }
    }

    /// Whether somebody can do less for it: this is what a tripped breaker stops.
    pub fn takes_away(self) -> bool {
        match self {
            Self::QuarantinePrincipal
            | Self::DisableKey
            | Self::RevokeGrants
            | Self::RevokeGrant
            | Self::RequireMfa
            | Self::DeactivateAccessKey
            // Nobody here knows what its receiver does.
            | Self::CallOut => true,
            // The earlier policy or target is the one that its owners had set: it takes away what an alert was about.
            Self::LiftQuarantine
            | Self::CancelKeyDeletion
            | Self::EnableKey
            | Self::RestoreKeyPolicy
            | Self::AliasRestore
            | Self::LiftMfa
            | Self::ActivateAccessKey
            | Self::SnapshotEvidence => false,
        }
    }

    /// What it changes of its target; the flip-flop guard counts by this.
    pub fn attribute(self) -> &'static str {
        match self {
            Self::QuarantinePrincipal | Self::LiftQuarantine => "quarantine",
            Self::CancelKeyDeletion => "deletion",
            Self::EnableKey | Self::DisableKey => "key_state",
            Self::RestoreKeyPolicy => "policy",
            Self::SnapshotEvidence => "evidence",
            Self::RevokeGrants | Self::RevokeGrant => "grants",
            Self::RequireMfa | Self::LiftMfa => "mfa",
            Self::AliasRestore => "alias",
            Self::DeactivateAccessKey | Self::ActivateAccessKey => "access_key",
            Self::CallOut => "call_out",
        }
    }

    /// Contains nothing by itself: it reads, or tells somebody.
    pub fn is_beside(self) -> bool {
        matches!(self, Self::SnapshotEvidence | Self::CallOut)
    }
}

impl fmt::Display for ActionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where an action stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionState {
    /// Waits for the action it requires.
    Planned,
    /// Waits for people.
    AwaitingApproval,
    /// May be carried out now or at its next attempt.
    Ready,
    /// The call may be out.
    Leased,
    /// The effect was read back.
    Done,
    /// The KMS refused, or the effect was not there.
    Failed,
    /// Could not be carried out before its deadline.
    Dead,
    /// A person gave it up, after it was dead.
    Dropped,
    /// Held by a guard.
    Suppressed,
    /// Recorded only.
    Observed,
}

impl ActionState {
    /// Each of them.
    pub const ALL: [Self; 10] = [
        Self::Planned,
        Self::AwaitingApproval,
        Self::Ready,
        Self::Leased,
        Self::Done,
        Self::Failed,
        Self::Dead,
        Self::Dropped,
        Self::Suppressed,
        Self::Observed,
    ];

    /// The word in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::AwaitingApproval => "awaiting_approval",
            Self::Ready => "ready",
            Self::Leased => "leased",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Dead => "dead",
            Self::Dropped => "dropped",
            Self::Suppressed => "suppressed",
            Self::Observed => "observed",
        }
    }

    /// Nothing more will happen to it.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Planned | Self::AwaitingApproval | Self::Ready | Self::Leased)
    }
}

impl fmt::Display for ActionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Action {
    /// Order of planning.
    pub row: i64,
    /// The action id that the KMS and the log know.
    pub id: String,
    /// Its incident.
    pub incident: IncidentId,
    /// Which playbook; `undo` for undos.
    pub playbook: String,
    /// Which version of it.
    pub playbook_version: u32,
    /// Which step.
    pub step: String,
    /// What to do.
    pub kind: ActionKind,
    /// Key or principal ARN.
    pub target: String,
    /// How often this step was caused anew.
    pub generation: u32,
    /// eventID of the offending call, empty for quarantines.
    pub cause: String,
    /// The action that this one takes back.
    pub undo_of: Option<String>,
    /// The action that must be done first.
    pub requires: Option<String>,
    /// A failure suppresses later steps on this target.
    pub stop_on_error: bool,
    /// What the call needs to know.
    pub args: Value,
    /// Where it stands.
    pub state: ActionState,
    /// Why it stands there, for people.
    pub reason: Option<String>,
    /// A person must look at it.
    pub needs_person: bool,
    /// How many times a call was made.
    pub attempts: u32,
    /// Not before.
    pub next_attempt_us: Micros,
    /// When it was planned.
    pub planned_us: Micros,
    /// When the first call went out.
    pub leased_us: Option<Micros>,
    /// When it ended.
    pub finished_us: Option<Micros>,
    /// What the target looked like before the first call.
    pub pre_state: Option<String>,
    /// Whether we changed anything; false when it was so already.
    pub changed: Option<bool>,
    /// Index in the log of the call that did it.
    pub log_seq: Option<i64>,
}

impl Action {
    /// When its effect ends by itself.
    pub fn ends_us(&self) -> Option<Micros> {
        let seconds = self.args.get("ttlSeconds")?.as_i64()?;
        Some(self.planned_us.saturating_add(seconds.saturating_mul(1_000_000)))
    }
}

/// How a new row starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Its first state.
    pub state: ActionState,
    /// Why, if not just ready.
    pub reason: Option<String>,
    /// A person must look at it.
    pub needs_person: bool,
    /// Not before.
    pub next_attempt_us: Micros,
}

/// How an action ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Its final state.
    pub state: ActionState,
    /// Why, for people.
    pub reason: Option<String>,
    /// A person must look at it.
    pub needs_person: bool,
    /// Whether we changed anything.
    pub changed: Option<bool>,
    /// Index in the log of the call that did it.
    pub log_seq: Option<i64>,
}

impl End {
    /// The effect is there.
    pub fn done(changed: bool, log_seq: Option<i64>, reason: Option<String>) -> Self {
        Self { state: ActionState::Done, reason, needs_person: false, changed: Some(changed), log_seq }
    }

    /// It did not come to be, and a person must look at it.
    pub fn not_done(state: ActionState, reason: impl Into<String>) -> Self {
        Self { state, reason: Some(reason.into()), needs_person: true, changed: None, log_seq: None }
    }
}

/// Adds a proposal; false when an action with this id is there already.
pub fn insert(
    tx: &Transaction<'_>,
    proposal: &Proposal,
    undo_of: Option<&str>,
    start: &Start,
    now_us: Micros,
) -> Result<bool, StoreError> {
    let finished = start.state.is_final().then_some(now_us);
    let added = tx
        .prepare_cached(
            "INSERT OR IGNORE INTO actions(id, incident, playbook, playbook_version, step, kind, attribute, target,
               generation, cause, undo_of, requires, stop_on_error, args, state, reason, needs_person,
               next_attempt_us, planned_us, finished_us)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)",
        )?
        .execute(params![
            proposal.id,
            proposal.incident.as_str(),
            proposal.playbook,
            proposal.playbook_version,
            proposal.step,
            proposal.kind.as_str(),
            proposal.attribute(),
            proposal.target,
            proposal.generation,
            proposal.cause,
            undo_of,
            proposal.requires,
            proposal.stop_on_error,
            proposal.args.to_string(),
            start.state.as_str(),
            start.reason,
            start.needs_person,
            start.next_attempt_us,
            now_us,
            finished
        ])?;
    Ok(added == 1)
}

/// Rows that may be carried out now, oldest first; of each target the first, as the others wait for it.
///
/// Undos come first: a person waits for them, and behind a storm they would wait long. While the responder is paused
/// nothing else comes.
///
/// With `only`, those of one incident.
pub fn due(
    db: &Connection,
    now_us: Micros,
    rows_max: u32,
    only: Option<&IncidentId>,
) -> Result<Vec<Action>, StoreError> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM (
           SELECT *, row_number() OVER (PARTITION BY target ORDER BY undo_of IS NULL, row) AS place FROM actions
           WHERE state IN ('ready', 'leased') AND next_attempt_us <= ?1 AND (undo_of IS NOT NULL OR NOT ?3)
             AND (?4 IS NULL OR incident = ?4))
         WHERE place = 1 ORDER BY undo_of IS NULL, row LIMIT ?2"
    ))?;
    let paused = standing::is_paused(db)?;
    let only = only.map(IncidentId::as_str);
    let rows = statement.query_map(params![now_us, rows_max, paused, only], |row| Ok(action(row)))?;
    rows.map(|row| row?).collect()
}

/// All actions of an incident, in order.
pub fn of_incident(db: &Connection, incident: &IncidentId) -> Result<Vec<Action>, StoreError> {
    let mut statement =
        db.prepare_cached(&format!("SELECT {COLUMNS} FROM actions WHERE incident = ?1 ORDER BY row"))?;
    let rows = statement.query_map([incident.as_str()], |row| Ok(action(row)))?;
    rows.map(|row| row?).collect()
}

/// One action.
pub(crate) fn one(db: &Connection, id: &str) -> Result<Option<Action>, StoreError> {
    let mut statement = db.prepare_cached(&format!("SELECT {COLUMNS} FROM actions WHERE id = ?1"))?;
    statement.query_row([id], |row| Ok(action(row))).optional()?.transpose()
}

/// Earlier rows of an incident that this proposal repeats: the newest of the same step and target, and one that the same
/// call led to.
pub(crate) fn alike(db: &Connection, proposal: &Proposal) -> Result<Vec<Action>, StoreError> {
    let same = "incident = ?1 AND playbook = ?2 AND step = ?3 AND target = ?4 AND undo_of IS NULL";
    let (incident, playbook) = (proposal.incident.as_str(), &proposal.playbook);
    let newest = db
        .prepare_cached(&format!("SELECT {COLUMNS} FROM actions WHERE {same} ORDER BY generation DESC LIMIT 1"))?
        .query_row(params![incident, playbook, proposal.step, proposal.target], |row| Ok(action(row)))
        .optional()?;
    // The plus keeps SQLite to the call's index: rows of one step and target may be many, of one call they are few.
    let caused = db
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM actions WHERE {} AND cause = ?5 AND cause <> '' LIMIT 1",
            same.replacen("incident", "+incident", 1)
        ))?
        .query_row(params![incident, playbook, proposal.step, proposal.target, proposal.cause], |row| Ok(action(row)))
        .optional()?;
    newest.into_iter().chain(caused).collect()
}

/// Whether it was taken back, or is being.
pub(crate) fn is_undone(db: &Connection, id: &str) -> Result<bool, StoreError> {
    let mut statement = db.prepare_cached("SELECT 1 FROM actions WHERE undo_of = ?1 AND state <> 'suppressed'")?;
    Ok(statement.exists([id])?)
}

/// Whoever else a target is to the key service, which keeps a quarantine of a session as its role's: one name, and where
/// those of the role's sessions begin and end.
fn also_named(target: &str) -> [String; 3] {
    let kept = kept_as(target);
    let role = kept.strip_prefix("arn:aws:iam::").and_then(|rest| rest.split_once(":role/"));
    match role.map(|(account, name)| format!("arn:aws:sts::{account}:assumed-role/{name}")) {
        // '0' is what follows '/'.
        Some(sessions) => [kept, format!("{sessions}/"), format!("{sessions}0")],
        None => [kept.clone(), kept.clone(), kept],
    }
}

/// An open incident other than `undo`'s that relies on what `undo` would take back, and its action by which it does: one
/// that did the same, found it done, is about to do it, or was not carried out because a quarantine was in force.
pub(crate) fn reliance(
    db: &Connection,
    undo: &Action,
    now_us: Micros,
) -> Result<Option<(IncidentId, String, ActionState)>, StoreError> {
    let mut statement = db.prepare_cached(
        "SELECT y.incident, y.id, y.state
         FROM actions y JOIN actions x ON x.id = ?1 AND +y.kind = x.kind JOIN incidents i ON i.id = y.incident
         WHERE (y.target = ?5 OR y.target >= ?6 AND y.target < ?7) AND y.incident <> ?2
           AND y.undo_of IS NULL AND i.resolved_us IS NULL
           AND coalesce(y.planned_us + json_extract(y.args, '$.ttlSeconds') * 1000000, ?3 + 1) > ?3
           AND (y.state IN ('planned', 'ready', 'leased', 'done')
                  AND json_extract(y.args, '$.keyArn') IS json_extract(x.args, '$.keyArn')
                OR y.state = 'suppressed' AND instr(y.reason, ?4) = 1
                  AND (json_extract(x.args, '$.keyArn') IS NULL
                    OR json_extract(x.args, '$.keyArn') = json_extract(y.args, '$.keyArn')))
           AND NOT EXISTS (SELECT 1 FROM actions u WHERE u.undo_of = y.id AND u.state <> 'suppressed')
         ORDER BY y.row LIMIT 1",
    )?;
    let covered = format!("{}: {COVERED}", Guard::Cooldown);
    let (undone, than) = (&undo.undo_of, undo.incident.as_str());
    let [kept, from, to] = also_named(&undo.target);
    let row = statement
        .query_row(params![undone, than, now_us, covered, kept, from, to], |row| {
            Ok((row.get::<_, String>(0)?, row.get(1)?, row.get::<_, String>(2)?))
        })
        .optional()?;
    row.map(|(incident, id, state)| Ok((IncidentId::new(&incident), id, state_named(&state)?))).transpose()
}

/// Gives an action to another incident.
pub(crate) fn move_to(tx: &Transaction<'_>, id: &str, incident: &IncidentId) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE actions SET incident = ?2 WHERE id = ?1")?.execute([id, incident.as_str()])?;
    Ok(())
}

/// Says that an action which found its effect there is now the one that has it.
pub(crate) fn take_over(tx: &Transaction<'_>, id: &str) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE actions SET changed = 1 WHERE id = ?1 AND state = 'done'")?.execute([id])?;
    Ok(())
}

/// Writes down that the call goes out now; false when the row is no longer to be carried out.
pub fn lease(tx: &Transaction<'_>, id: &str, pre_state: &str, now_us: Micros) -> Result<bool, StoreError> {
    // Once a pause is written down no further call goes out.
    let undo: bool = tx
        .prepare_cached("SELECT undo_of IS NOT NULL FROM actions WHERE id = ?1")?
        .query_row([id], |row| row.get(0))?;
    if !undo && standing::is_paused(tx)? {
        return Ok(false);
    }
    let leased = tx
        .prepare_cached(
            "UPDATE actions SET state = 'leased', attempts = attempts + 1, leased_us = coalesce(leased_us, ?3),
               pre_state = coalesce(pre_state, ?2)
             WHERE id = ?1 AND state IN ('ready', 'leased')",
        )?
        .execute(params![id, pre_state, now_us])?;
    Ok(leased == 1)
}

/// Keeps what a restore put back, to be compared with later.
pub(crate) fn note_restored(tx: &Transaction<'_>, id: &str, digest: &str) -> Result<(), StoreError> {
    let sql = format!("UPDATE actions SET args = json_set(args, '$.{RESTORED_ARG}', ?2) WHERE id = ?1");
    tx.prepare_cached(&sql)?.execute(params![id, digest])?;
    Ok(())
}

/// Asks for the undo of a call that is out, whenever it ends.
pub(crate) fn want_undo(tx: &Transaction<'_>, id: &str) -> Result<(), StoreError> {
    tx.execute("UPDATE actions SET undo_wanted = 1 WHERE id = ?1", [id])?;
    Ok(())
}

/// Whether its incident was undone while its call was out.
pub(crate) fn is_undo_wanted(db: &Connection, id: &str) -> Result<bool, StoreError> {
    let mut statement = db.prepare_cached("SELECT undo_wanted FROM actions WHERE id = ?1")?;
    Ok(statement.query_row([id], |row| row.get(0)).optional()?.unwrap_or(false))
}

/// Tries again later. A row whose call may be out stays leased, so that nobody takes it for unsent.
pub fn retry(tx: &Transaction<'_>, id: &str, reason: &str, next_attempt_us: Micros) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE actions SET next_attempt_us = ?2, reason = ?3 WHERE id = ?1 AND state IN ('ready', 'leased')",
        params![id, next_attempt_us, reason],
    )?;
    Ok(())
}

/// Writes down the end, releases or suppresses what waited for it, and computes the incident's state.
pub fn finish(tx: &Transaction<'_>, action: &Action, end: &End, now_us: Micros) -> Result<(), StoreError> {
    let finished = tx
        .prepare_cached(
            "UPDATE actions SET state = ?2, reason = ?3, needs_person = ?4, changed = ?5, log_seq = ?6,
               finished_us = ?7
             WHERE id = ?1 AND state IN ('planned', 'awaiting_approval', 'ready', 'leased')",
        )?
        .execute(params![
            action.id,
            end.state.as_str(),
            end.reason,
            end.needs_person,
            end.changed,
            end.log_seq,
            now_us
        ])?;
    if finished == 0 {
        return Ok(());
    }
    let mut text = format!("{} {}: {}", action.kind, action.target, end.state);
    if let Some(seq) = end.log_seq {
        text = format!("{text}, log seq {seq}");
    }
    if let Some(reason) = &end.reason {
        text = format!("{text} ({reason})");
    }
    incident::note(tx, &action.incident, now_us, if action.undo_of.is_some() { "undo" } else { "action" }, &text)?;
    for (waiting, end) in followers(tx, action, end)? {
        match end {
            None => {
                tx.execute(
                    "UPDATE actions SET state = 'ready', next_attempt_us = ?2 WHERE id = ?1 AND state = 'planned'",
                    params![waiting.id, now_us],
                )?;
            }
            Some(end) => finish(tx, &waiting, &end, now_us)?,
        }
    }
    incident::settle(tx, &action.incident, now_us)
}

/// Actions that this end releases (`None`) or suppresses.
fn followers(tx: &Transaction<'_>, action: &Action, end: &End) -> Result<Vec<(Action, Option<End>)>, StoreError> {
    let ours = end.state == ActionState::Done && end.changed == Some(true);
    let broken = matches!(end.state, ActionState::Failed | ActionState::Dead) && action.stop_on_error;
    let mut found = Vec::new();
    let mut statement = tx.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM actions WHERE incident = ?1 AND state IN ('planned', 'awaiting_approval', 'ready')
         ORDER BY row"
    ))?;
    let rows = statement.query_map([action.incident.as_str()], |row| Ok(self::action(row)))?;
    for other in rows {
        let other = other??;
        let waits = other.requires.as_deref() == Some(&action.id) && other.state == ActionState::Planned;
        let behind = other.playbook == action.playbook && other.target == action.target && other.row > action.row;
        if waits && ours {
            found.push((other, None));
        } else if waits {
            let reason = format!("{} ended as {}, not by us", action.kind, end.state);
            found.push((other, Some(End::not_done(ActionState::Suppressed, reason))));
        } else if behind && broken {
            let reason = format!("an earlier step ended as {}", end.state);
            found.push((other, Some(End::not_done(ActionState::Suppressed, reason))));
        }
    }
    Ok(found)
}

/// What the guards want to know, including what this very transaction has planned.
pub fn facts(
    tx: &Transaction<'_>,
    proposal: &Proposal,
    flip_flop_window: Duration,
    now_us: Micros,
) -> Result<Facts, StoreError> {
    let hour = now_us.saturating_sub(micros(BREAKER_WINDOW));
    let one = |sql: &str, values: &[&dyn rusqlite::ToSql]| -> Result<u32, StoreError> {
        Ok(tx.prepare_cached(sql)?.query_row(values, |row| row.get(0))?)
    };
    let kind = proposal.kind.as_str();
    // What was suppressed, observed or undone changed nothing and counts for nothing.
    let attribute_changes = one(
        &format!(
            "SELECT count(*) FROM actions WHERE target = ?1 AND attribute = ?2 AND planned_us > ?3 AND {ACTING}
               AND coalesce(changed, 1)"
        ),
        params![proposal.target, proposal.attribute(), now_us.saturating_sub(micros(flip_flop_window))],
    )?;
    let disables_last_hour = disables_last_hour(tx, now_us)?;
    let reset_row = standing::reset_row(tx, &proposal.playbook)?;
    let playbook_last_hour = one(
        &format!("SELECT count(*) FROM actions WHERE playbook = ?1 AND planned_us > ?2 AND {ACTING} AND row > ?3"),
        params![proposal.playbook, hour, reset_row],
    )?;
    let last_same_us = tx
        .prepare_cached(&format!(
            "SELECT max(planned_us) FROM actions WHERE target = ?1 AND kind = ?2 AND attribute = ?3 AND {ACTING}"
        ))?
        .query_row(params![proposal.target, kind, proposal.attribute()], |row| row.get(0))?;
    // A quarantine everywhere is one on each key, not the other way round.
    let key = proposal.args.get("keyArn").and_then(Value::as_str).unwrap_or_default();
    let [kept, from, to] = also_named(&proposal.target);
    let quarantined_until_us = tx
        .prepare_cached(&format!(
            "SELECT max(planned_us + json_extract(args, '$.ttlSeconds') * 1000000)
             FROM (SELECT * FROM actions WHERE target = ?1 AND {ACTING}
                 UNION ALL SELECT * FROM actions WHERE target >= ?3 AND target < ?4 AND {ACTING}) a
             WHERE +kind = 'quarantine_principal' AND state IN ('ready', 'leased', 'done')
               AND coalesce(json_extract(args, '$.keyArn'), '') IN ('', ?2)
               AND NOT EXISTS (SELECT 1 FROM actions u WHERE u.undo_of = a.id AND u.state <> 'suppressed')"
        ))?
        .query_row(params![kept, key, from, to], |row| row.get(0))?;
    let tripped = match standing::tripped(tx, standing::EVERYTHING)? {
        Some(trip) => Some(trip),
        None => standing::tripped(tx, &proposal.playbook)?,
    };
    Ok(Facts {
        attribute_changes,
        last_same_us,
        quarantined_until_us,
        disables_last_hour,
        playbook_last_hour,
        tripped: tripped.map(|trip| format!("at {}: {}", clock_text(trip.at_us), trip.reason)),
    })
}

/// Keys that were disabled, or are about to be, in the hour that the circuit breaker looks back.
pub fn disables_last_hour(db: &Connection, now_us: Micros) -> Result<u32, StoreError> {
    let hour = now_us.saturating_sub(micros(BREAKER_WINDOW));
    let reset_row = standing::reset_row(db, standing::EVERYTHING)?;
    let mut statement = db.prepare_cached(&format!(
        "SELECT count(DISTINCT target) FROM actions WHERE kind = 'disable_key' AND planned_us > ?1 AND {ACTING}
           AND state <> 'awaiting_approval'
           AND coalesce(changed, 1) AND row > ?2"
    ))?;
    Ok(statement.query_row([hour, reset_row], |row| row.get(0))?)
}

/// A moment as people read it.
fn clock_text(at_us: Micros) -> String {
    let time = chrono::DateTime::<chrono::Utc>::from_timestamp_micros(at_us);
    time.map_or_else(|| at_us.to_string(), |time| time.format("%FT%TZ").to_string())
}

const COLUMNS: &str = "row, id, incident, playbook, playbook_version, step, kind, target, generation, cause, undo_of, \
                       requires, stop_on_error, args, state, reason, needs_person, attempts, next_attempt_us, \
                       planned_us, leased_us, finished_us, pre_state, changed, log_seq";

fn state_named(word: &str) -> Result<ActionState, StoreError> {
    ActionState::ALL.into_iter().find(|known| known.as_str() == word).ok_or(StoreError::Damaged("action state"))
}

fn action(row: &Row<'_>) -> Result<Action, StoreError> {
    let (kind, state): (String, String) = (row.get(6)?, row.get(14)?);
    let args: String = row.get(13)?;
    Ok(Action {
        row: row.get(0)?,
        id: row.get(1)?,
        incident: IncidentId::new(&row.get::<_, String>(2)?),
        playbook: row.get(3)?,
        playbook_version: row.get(4)?,
        step: row.get(5)?,
        kind: ActionKind::ALL
            .into_iter()
            .find(|known| known.as_str() == kind)
            .ok_or(StoreError::Damaged("action kind"))?,
        target: row.get(7)?,
        generation: row.get(8)?,
        cause: row.get(9)?,
        undo_of: row.get(10)?,
        requires: row.get(11)?,
        stop_on_error: row.get(12)?,
        args: serde_json::from_str(&args).map_err(|_| StoreError::Damaged("action argument"))?,
        state: state_named(&state)?,
        reason: row.get(15)?,
        needs_person: row.get(16)?,
        attempts: row.get(17)?,
        next_attempt_us: row.get(18)?,
        planned_us: row.get(19)?,
        leased_us: row.get(20)?,
        finished_us: row.get(21)?,
        pre_state: row.get(22)?,
        changed: row.get(23)?,
        log_seq: row.get(24)?,
    })
}
