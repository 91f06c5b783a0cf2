//! An incident: what one principal did within some hours, what we did about it, and everything that was said.
//!
//! Alerts are grouped by principal; those about no one principal by key, then by rule. The state is computed from the
//! actions, never set by hand except by `undo`. The timeline is append-only (a trigger refuses anything else). The
//! functions at the end are what `keytrail incident list` and `show` print.

use crate::alias;
use crate::guard::micros;
use crate::intake::verify::VerifiedAlert;
use crate::outbox::{self, Action, ActionState};
use crate::plan::{Known, KnownAction, sets_policy};
use crate::playbook::Severity;
use crate::store::{Micros, Store, StoreError};
use keytrail_kms::chain::leaf::sha256;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde::Serialize;
use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

pub use crate::undo::{UndoError, UndoReport, undo};

/// Longest text of a timeline entry in characters.
const TEXT_CHARS_MAX: usize = 500;

/// `I-` and twelve hex digits, from the group and the first alert: a replay opens the same incident again.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct IncidentId(String);

impl IncidentId {
    /// Takes an id as written.
    pub fn new(id: &str) -> Self {
        Self(id.to_owned())
    }

    /// The id as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn of(group: &Group, alert_id: &str, revision: u32) -> Self {
        let text = format!("keytrail incident v1\n{}\n{}\n{alert_id}\n{revision}", group.kind, group.value);
        Self(format!("I-{}", &hex::encode(sha256(&[text.as_bytes()]))[..12]))
    }
}

impl fmt::Display for IncidentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where an incident stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IncidentState {
    /// Something is left to do, by us or by a person.
    Open,
    /// Every planned action took effect and none was held back.
    Contained,
    /// A person closed it with `undo`.
    Resolved,
}

impl IncidentState {
    /// The word in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Contained => "contained",
            Self::Resolved => "resolved",
        }
    }

    fn read(text: &str) -> Result<Self, StoreError> {
        [Self::Open, Self::Contained, Self::Resolved]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or(StoreError::Damaged("incident state"))
    }
}

/// What alerts are grouped by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    kind: &'static str,
    value: String,
}

impl Group {
    /// The group of an alert: its principal, else its only key, else the rule and its group values.
    pub fn of(alert: &VerifiedAlert) -> Self {
        if let Some(principal) = alert.principal() {
            return Self { kind: "principal", value: principal.to_owned() };
        }
        let keys = alert.keys();
        if let (Some(key), 1) = (keys.first(), keys.len()) {
            return Self { kind: "key", value: (*key).to_owned() };
        }
        Self { kind: "alert", value: alert.alert().alert_id.clone() }
    }
}

/// The incident that an alert belongs to, opened if need be; true when it was opened just now.
pub fn find_or_open(
    tx: &Transaction<'_>,
    alert: &VerifiedAlert,
    window: Duration,
    now_us: Micros,
) -> Result<(IncidentId, bool), StoreError> {
    let body = alert.alert();
    let group = Group::of(alert);
    let (first, last) = (body.first_event_micros, body.last_event_micros);
    if let Some(id) = of_earlier_revision(tx, &body.alert_id, last)? {
        return Ok((id, false));
    }
    if let Some(id) = open_in_window(tx, &group, first, last, micros(window))? {
        return Ok((id, false));
    }
    let id = IncidentId::of(&group, &body.alert_id, body.revision);
    let opened = tx.execute(
        "INSERT OR IGNORE INTO incidents(id, group_kind, group_value, principal, title, severity, state, opened_us,
           changed_us, first_event_us, last_event_us)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'open', ?7, ?7, ?8, ?9)",
        params![
            id.as_str(),
            group.kind,
            group.value,
            alert.principal(),
            body.title,
            body.severity.as_str(),
            now_us,
            first,
            last
        ],
    )?;
    if opened == 1 {
        note(tx, &id, now_us, "opened", &body.title)?;
    }
    Ok((id, opened == 1))
}

/// A revision goes where the alert went before, unless a person closed that incident and it happened again since.
fn of_earlier_revision(
    tx: &Transaction<'_>,
    alert_id: &str,
    last_event_us: Micros,
) -> Result<Option<IncidentId>, StoreError> {
    let mut statement = tx.prepare_cached(
        "SELECT i.id FROM alerts a JOIN incidents i ON i.id = a.incident
         WHERE a.alert_id = ?1 AND (i.resolved_us IS NULL OR i.resolved_us >= ?2) ORDER BY a.revision DESC LIMIT 1",
    )?;
    Ok(statement.query_row(params![alert_id, last_event_us], |row| row.get(0)).optional()?.map(IncidentId))
}

fn open_in_window(
    tx: &Transaction<'_>,
    group: &Group,
    first_us: Micros,
    last_us: Micros,
    window_us: Micros,
) -> Result<Option<IncidentId>, StoreError> {
    let (from, to) = (first_us.saturating_sub(window_us), last_us.saturating_add(window_us));
    let mut by_group = tx.prepare_cached(
        "SELECT id FROM incidents WHERE group_kind = ?1 AND group_value = ?2 AND state <> 'resolved'
           AND last_event_us >= ?3 AND first_event_us <= ?4 ORDER BY opened_us DESC LIMIT 1",
    )?;
    let found = by_group.query_row(params![group.kind, group.value, from, to], |row| row.get(0)).optional()?;
    if found.is_some() || group.kind != "key" {
        return Ok(found.map(IncidentId));
    }
    // About a key and nobody in particular: it joins whoever's incident has that key.
    let mut by_key = tx.prepare_cached(
        "SELECT i.id FROM incidents i JOIN incident_keys k ON k.incident = i.id
         WHERE k.key_arn = ?1 AND i.state <> 'resolved' AND i.last_event_us >= ?2 AND i.first_event_us <= ?3
         ORDER BY i.opened_us DESC LIMIT 1",
    )?;
    Ok(by_key.query_row(params![group.value, from, to], |row| row.get(0)).optional()?.map(IncidentId))
}

/// Adds the alert to the incident: times, severity, keys, policy changes to look behind. False when it was there before.
pub fn join(
    tx: &Transaction<'_>,
    id: &IncidentId,
    alert: &VerifiedAlert,
    ours: bool,
    now_us: Micros,
) -> Result<bool, StoreError> {
    let body = alert.alert();
    let seqs: Vec<String> = alert.calls().iter().map(|call| call.seq.to_string()).collect();
    let mut addresses: Vec<&str> = alert.calls().iter().map(|call| call.event.source_ip_address.as_str()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let added = tx.execute(
        "INSERT OR IGNORE INTO alerts(alert_id, revision, incident, rule_id, rule_version, severity, title, matched,
           first_event_us, last_event_us, detected_us, received_us, seqs, source_ips, ours)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
        params![
            body.alert_id,
            body.revision,
            id.as_str(),
            body.rule_id,
            body.rule_version,
            body.severity.as_str(),
            body.title,
            i64::try_from(body.matched).unwrap_or(i64::MAX),
            body.first_event_micros,
            body.last_event_micros,
            body.detected_at_micros,
            now_us,
            seqs.join(" "),
            addresses.join(" "),
            ours
        ],
    )?;
    if added == 0 {
        return Ok(false);
    }
    for key in alert.keys() {
        tx.execute("INSERT OR IGNORE INTO incident_keys VALUES (?1, ?2)", params![id.as_str(), key])?;
    }
    remember_offences(tx, id, alert)?;
    alias::remember(tx, id, alert)?;
    raise(tx, id, body.severity)?;
    tx.execute(
        "UPDATE incidents SET changed_us = ?2, first_event_us = min(first_event_us, ?3),
           last_event_us = max(last_event_us, ?4) WHERE id = ?1",
        params![id.as_str(), now_us, body.first_event_micros, body.last_event_micros],
    )?;
    Ok(true)
}

/// True when this very revision was taken in before.
pub fn is_known(tx: &Transaction<'_>, alert: &VerifiedAlert) -> Result<bool, StoreError> {
    let mut statement = tx.prepare_cached("SELECT 1 FROM alerts WHERE alert_id = ?1 AND revision = ?2")?;
    let body = alert.alert();
    Ok(statement.query_row(params![body.alert_id, body.revision], |_| Ok(())).optional()?.is_some())
}

fn remember_offences(tx: &Transaction<'_>, id: &IncidentId, alert: &VerifiedAlert) -> Result<(), StoreError> {
    for call in alert.calls().iter().filter(|call| call.is_allowed_administration() && sets_policy(call)) {
        tx.execute(
            "INSERT OR IGNORE INTO offences(event_id, incident, key_arn, previous_event_id) VALUES (?1, ?2, ?3, ?4)",
            params![call.event.event_id, id.as_str(), call.key_arn, call.more("previousPolicyEventId")],
        )?;
    }
    Ok(())
}

/// Lifts the incident's severity to at least this.
pub fn raise(tx: &Transaction<'_>, id: &IncidentId, severity: Severity) -> Result<(), StoreError> {
    let held: String = tx.query_row("SELECT severity FROM incidents WHERE id = ?1", [id.as_str()], |row| row.get(0))?;
    if severity > read_severity(&held)? {
        tx.execute("UPDATE incidents SET severity = ?2 WHERE id = ?1", params![id.as_str(), severity.as_str()])?;
    }
    Ok(())
}

/// Appends to the timeline.
pub fn note(tx: &Transaction<'_>, id: &IncidentId, at_us: Micros, kind: &str, text: &str) -> Result<(), StoreError> {
    let text: String = text.chars().take(TEXT_CHARS_MAX).collect();
    tx.prepare_cached("INSERT INTO timeline(incident, at_us, kind, text) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![id.as_str(), at_us, kind, text])?;
    Ok(())
}

/// Computes the state from the actions.
pub fn settle(tx: &Transaction<'_>, id: &IncidentId, now_us: Micros) -> Result<(), StoreError> {
    let held: String = tx.query_row("SELECT state FROM incidents WHERE id = ?1", [id.as_str()], |row| row.get(0))?;
    if IncidentState::read(&held)? == IncidentState::Resolved {
        return Ok(());
    }
    let (done, left): (i64, i64) = tx.query_row(
        "SELECT coalesce(sum(state = 'done'), 0),
                coalesce(sum(state IN ('planned', 'ready', 'leased', 'failed', 'dead', 'observed')
                  OR (state = 'suppressed' AND needs_person)), 0)
         FROM actions WHERE incident = ?1 AND undo_of IS NULL AND kind NOT IN ('snapshot_evidence', 'call_out')",
        [id.as_str()],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let state = if done > 0 && left == 0 { IncidentState::Contained } else { IncidentState::Open };
    if state.as_str() != held {
        tx.execute(
            "UPDATE incidents SET state = ?2, changed_us = ?3 WHERE id = ?1",
            params![id.as_str(), state.as_str(), now_us],
        )?;
        note(tx, id, now_us, "state", state.as_str())?;
    }
    Ok(())
}

/// A person closed it.
pub fn resolve(tx: &Transaction<'_>, id: &IncidentId, now_us: Micros) -> Result<(), StoreError> {
    let changed = tx.execute(
        "UPDATE incidents SET state = 'resolved', resolved_us = ?2, changed_us = ?2
         WHERE id = ?1 AND state <> 'resolved'",
        params![id.as_str(), now_us],
    )?;
    if changed == 1 {
        note(tx, id, now_us, "state", "resolved")?;
    }
    Ok(())
}

/// Starts (or, while it runs, restarts) the quiet time after which people are told.
pub fn tell(tx: &Transaction<'_>, id: &IncidentId, now_us: Micros) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE incidents SET tell_since_us = coalesce(tell_since_us, ?2), tell_last_us = ?2 WHERE id = ?1",
        params![id.as_str(), now_us],
    )?;
    Ok(())
}

/// Tells what came of an incident to those who were, or are about to be, told of it: not where nobody is.
pub fn tell_more(tx: &Transaction<'_>, id: &IncidentId, now_us: Micros) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE incidents SET tell_since_us = coalesce(tell_since_us, ?2), tell_last_us = ?2
         WHERE id = ?1 AND (notices > 0 OR tell_since_us IS NOT NULL)",
        params![id.as_str(), now_us],
    )?;
    Ok(())
}

/// Restarts the quiet time only if it runs: more of the same is no reason for another mail.
pub fn keep_quiet(tx: &Transaction<'_>, id: &IncidentId, now_us: Micros) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE incidents SET tell_last_us = ?2 WHERE id = ?1 AND tell_since_us IS NOT NULL",
        params![id.as_str(), now_us],
    )?;
    Ok(())
}

/// What planning needs to know of an incident; policy changes are known across incidents, since keys are.
pub fn known(tx: &Transaction<'_>, id: &IncidentId, alert: &VerifiedAlert) -> Result<Known, StoreError> {
    let actions = outbox::of_incident(tx, id)?.into_iter().filter(|action| action.undo_of.is_none());
    let actions = actions
        .map(|action| KnownAction {
            ends_us: action.ends_us(),
            playbook: action.playbook,
            step: action.step,
            target: action.target,
            generation: action.generation,
            cause: action.cause,
            state: action.state,
        })
        .collect();
    let mut offences = HashMap::new();
    let mut statement = tx.prepare_cached("SELECT event_id, previous_event_id FROM offences WHERE key_arn = ?1")?;
    for key in alert.keys() {
        let rows = statement.query_map([key], |row| Ok((row.get(0)?, row.get(1)?)))?;
        for row in rows {
            let (event, previous): (String, Option<String>) = row?;
            offences.insert(event, previous);
        }
    }
    Ok(Known { actions, offences, alias_offences: alias::remembered(tx, alert)? })
}

/// One line of `keytrail incident list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IncidentSummary {
    /// Its id.
    pub id: IncidentId,
    /// Where it stands.
    pub state: IncidentState,
    /// The worst of its alerts.
    pub severity: Severity,
    /// The first alert's title.
    pub title: String,
    /// Whose calls it is about.
    pub principal: Option<String>,
    /// When we opened it.
    pub opened_us: Micros,
    /// When it last changed.
    pub changed_us: Micros,
    /// Event time of the first offending call.
    pub first_event_us: Micros,
    /// Event time of the last one.
    pub last_event_us: Micros,
    /// When a person closed it.
    pub resolved_us: Option<Micros>,
    /// How many times people were told.
    pub notices: u32,
}

/// An alert of an incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IncidentAlert {
    /// The alert's id.
    pub alert_id: String,
    /// Its newest revision.
    pub revision: u32,
    /// Which rule.
    pub rule_id: String,
    /// Which version of it.
    pub rule_version: u32,
    /// How bad.
    pub severity: Severity,
    /// The rule's title.
    pub title: String,
    /// How many events matched.
    pub matched: u64,
    /// Event time of the first.
    pub first_event_us: Micros,
    /// When the trail found it.
    pub detected_us: Micros,
    /// When we took it in.
    pub received_us: Micros,
    /// Log indexes of the evidence, with spaces between.
    pub seqs: String,
    /// Addresses the evidence came from, with spaces between.
    pub source_ips: String,
    /// All its evidence is calls of ours.
    pub ours: bool,
}

/// One entry of a timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TimelineEntry {
    /// Grows over all incidents; ask for what came after with it.
    pub id: i64,
    /// Which incident.
    pub incident: IncidentId,
    /// When.
    pub at_us: Micros,
    /// `opened`, `alert`, `plan`, `guard`, `action`, `state`, `notice`, `reply`, `undo`.
    pub kind: String,
    /// What happened, in one line.
    pub text: String,
}

/// All of an incident.
#[derive(Clone, Debug, Serialize)]
pub struct IncidentDetail {
    /// The incident.
    pub summary: IncidentSummary,
    /// Keys in its evidence.
    pub keys: Vec<String>,
    /// Its alerts, newest revision of each, oldest first.
    pub alerts: Vec<IncidentAlert>,
    /// Its actions in order.
    pub actions: Vec<Action>,
    /// Its timeline.
    pub timeline: Vec<TimelineEntry>,
}

/// The newest incidents first, at most `incidents_max`.
pub fn list(data_dir: &Path, incidents_max: u32) -> Result<Vec<IncidentSummary>, StoreError> {
    Store::open_existing(data_dir)?.read_now(|db| {
        let mut statement =
            db.prepare(&format!("SELECT {SUMMARY} FROM incidents ORDER BY opened_us DESC, id LIMIT ?1"))?;
        let rows = statement.query_map([incidents_max], |row| Ok(summary(row)))?;
        rows.map(|row| row?).collect()
    })
}

/// Incidents about events before `to_us` that were still changing at `from_us` or later, oldest first, in full.
pub fn between(data_dir: &Path, from_us: Micros, to_us: Micros) -> Result<Vec<IncidentDetail>, StoreError> {
    Store::open_existing(data_dir)?.read_now(|db| {
        let mut statement = db.prepare(
            "SELECT id FROM incidents WHERE first_event_us < ?2 AND changed_us >= ?1 ORDER BY opened_us, id",
        )?;
        let ids = statement.query_map([from_us, to_us], |row| row.get::<_, String>(0))?;
        let ids = ids.collect::<Result<Vec<_>, _>>()?;
        let details = ids.iter().map(|id| detail(db, &IncidentId::new(id)));
        Ok(details.collect::<Result<Vec<_>, StoreError>>()?.into_iter().flatten().collect())
    })
}

/// One incident in full, `None` if there is none with this id.
pub fn show(data_dir: &Path, id: &str) -> Result<Option<IncidentDetail>, StoreError> {
    Store::open_existing(data_dir)?.read_now(|db| detail(db, &IncidentId::new(id)))
}

/// Timeline entries after `after_id` over all incidents, for a running display.
pub fn timeline_after(data_dir: &Path, after_id: i64, entries_max: u32) -> Result<Vec<TimelineEntry>, StoreError> {
    Store::open_existing(data_dir)?.read_now(|db| {
        let mut statement =
            db.prepare("SELECT id, incident, at_us, kind, text FROM timeline WHERE id > ?1 ORDER BY id LIMIT ?2")?;
        let rows = statement.query_map(params![after_id, entries_max], timeline_entry)?;
        Ok(rows.collect::<Result<_, _>>()?)
    })
}

/// All of an incident, from an open store.
pub(crate) fn detail(db: &Connection, id: &IncidentId) -> Result<Option<IncidentDetail>, StoreError> {
    let found = db
        .query_row(&format!("SELECT {SUMMARY} FROM incidents WHERE id = ?1"), [id.as_str()], |row| Ok(summary(row)))
        .optional()?;
    let Some(found) = found else { return Ok(None) };
    let mut keys = db.prepare_cached("SELECT key_arn FROM incident_keys WHERE incident = ?1 ORDER BY key_arn")?;
    let keys = keys.query_map([id.as_str()], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut alerts = db.prepare_cached(
        "SELECT alert_id, revision, rule_id, rule_version, severity, title, matched, first_event_us, detected_us,
           received_us, seqs, source_ips, ours
         FROM alerts a WHERE incident = ?1
           AND revision = (SELECT max(revision) FROM alerts b WHERE b.alert_id = a.alert_id AND b.incident = ?1)
         ORDER BY received_us, alert_id",
    )?;
    let alerts = alerts.query_map([id.as_str()], |row| Ok(alert(row)))?.map(|row| row?).collect::<Result<_, _>>()?;
    let mut timeline =
        db.prepare_cached("SELECT id, incident, at_us, kind, text FROM timeline WHERE incident = ?1 ORDER BY id")?;
    let timeline = timeline.query_map([id.as_str()], timeline_entry)?.collect::<Result<_, _>>()?;
    Ok(Some(IncidentDetail { summary: found?, keys, alerts, actions: outbox::of_incident(db, id)?, timeline }))
}

const SUMMARY: &str = "id, state, severity, title, principal, opened_us, changed_us, first_event_us, last_event_us, \
                       resolved_us, notices";

fn summary(row: &Row<'_>) -> Result<IncidentSummary, StoreError> {
    Ok(IncidentSummary {
        id: IncidentId(row.get(0)?),
        state: IncidentState::read(&row.get::<_, String>(1)?)?,
        severity: read_severity(&row.get::<_, String>(2)?)?,
        title: row.get(3)?,
        principal: row.get(4)?,
        opened_us: row.get(5)?,
        changed_us: row.get(6)?,
        first_event_us: row.get(7)?,
        last_event_us: row.get(8)?,
        resolved_us: row.get(9)?,
        notices: row.get(10)?,
    })
}

fn alert(row: &Row<'_>) -> Result<IncidentAlert, StoreError> {
    Ok(IncidentAlert {
        alert_id: row.get(0)?,
        revision: row.get(1)?,
        rule_id: row.get(2)?,
        rule_version: row.get(3)?,
        severity: read_severity(&row.get::<_, String>(4)?)?,
        title: row.get(5)?,
        matched: row.get::<_, i64>(6)?.unsigned_abs(),
        first_event_us: row.get(7)?,
        detected_us: row.get(8)?,
        received_us: row.get(9)?,
        seqs: row.get(10)?,
        source_ips: row.get(11)?,
        ours: row.get(12)?,
    })
}

fn timeline_entry(row: &Row<'_>) -> Result<TimelineEntry, rusqlite::Error> {
    Ok(TimelineEntry {
        id: row.get(0)?,
        incident: IncidentId(row.get(1)?),
        at_us: row.get(2)?,
        kind: row.get(3)?,
        text: row.get(4)?,
    })
}

fn read_severity(text: &str) -> Result<Severity, StoreError> {
    text.parse().map_err(|_| StoreError::Damaged("severity"))
}

/// Whether an action with this id is ours.
pub(crate) fn knows_action(db: &Connection, action_id: &str) -> Result<Option<IncidentId>, StoreError> {
    let mut statement = db.prepare_cached("SELECT incident FROM actions WHERE id = ?1")?;
    Ok(statement.query_row([action_id], |row| row.get(0)).optional()?.map(IncidentId))
}

impl IncidentDetail {
    /// Actions that are not what they should be: to be done, failed, held back, or only observed.
    pub fn open_actions(&self) -> impl Iterator<Item = &Action> {
        self.actions.iter().filter(|action| match action.state {
            ActionState::Done => false,
            ActionState::Suppressed => action.needs_person,
            _ => true,
        })
    }
}
