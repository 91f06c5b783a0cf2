//! An incident: what one principal did within some hours, what we did about it, and everything that was said.
//!
//! Which alerts belong together is the trail's `alert::grouping`, fed by `incident::group`. The state is computed: from the
//! actions, from what `contain` found, from a person's marks (`incident::person`). The timeline is append-only (a trigger
//! refuses anything else) and linked (`incident::timeline`). The functions at the end are what `keytrail incident list`
//! and `show` print.

mod group;
pub(crate) mod merge;
pub mod person;
pub(crate) mod record;
pub mod timeline;

use crate::guard::micros;
use crate::intake::verify::VerifiedAlert;
use crate::offence;
use crate::outbox::{self, Action, ActionState};
use crate::plan::{Known, KnownAction, Proposal};
use crate::playbook::Severity;
use crate::store::{Micros, Store, StoreError};
use keytrail_kms::chain::leaf::sha256;
use keytrail_trail::alert::grouping::Group;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::time::Duration;

pub use crate::undo::{UndoError, UndoReport, undo};
pub(crate) use merge::home;
pub use person::{Deed, DeedError, Resolution};
pub use timeline::{TimelineEntry, note};

/// Actions that are left to do are counted so far: a storm may leave many.
const LEFT_MAX: i64 = 1_000;

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
    /// The same, and a person looks at it; new actions make it open again.
    Acknowledged,
    /// Every planned action took effect, none was held back, and nothing was used since: see `contain`.
    Contained,
    /// A person closed it.
    Resolved,
    /// Open again after a person closed it.
    Reopened,
}

impl IncidentState {
    /// The word in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Acknowledged => "acknowledged",
            Self::Contained => "contained",
            Self::Resolved => "resolved",
            Self::Reopened => "reopened",
        }
    }

    /// Reads the word.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Open, Self::Acknowledged, Self::Contained, Self::Resolved, Self::Reopened]
            .into_iter()
            .find(|state| state.as_str() == text)
    }

    fn read(text: &str) -> Result<Self, StoreError> {
        Self::parse(text).ok_or(StoreError::Damaged("incident state"))
    }
}

/// The incident that an alert belongs to, opened or reopened if need be; true when that was done just now.
///
/// Closing is no silence: an alert that the person who closed the incident had not seen opens it again within the window,
/// whatever reason was given but `test`, and the same alert does when it tells of something later. A test is over when it is
/// closed: what comes later is no part of it. What was merged goes where it was merged to.
pub fn find_or_open(
    tx: &Transaction<'_>,
    alert: &VerifiedAlert,
    window: Duration,
    now_us: Micros,
) -> Result<(IncidentId, bool), StoreError> {
    let body = alert.alert();
    let subject = group::subject(alert);
    let (group, first, last) = (&subject.group, subject.first_us, subject.last_us);
    let found = match of_earlier_revision(tx, &body.alert_id, last, micros(window))? {
        Some(earlier) => Some(earlier),
        None => group::in_window(tx, &subject, micros(window), now_us)?,
    };
    if let Some((id, reopens)) = found {
        if reopens {
            let what = format!("by {} v{} revision {}", body.rule_id, body.rule_version, body.revision);
            person::reopen(tx, &id, &what, now_us)?;
        }
        return Ok((id, reopens));
    }
    let id = IncidentId::of(group, &body.alert_id, body.revision);
    let opened = tx
        .prepare_cached(
            "INSERT OR IGNORE INTO incidents(id, group_kind, group_value, principal, title, severity, state, opened_us,
           changed_us, first_event_us, last_event_us)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'open', ?7, ?7, ?8, ?9)",
        )?
        .execute(params![
            id.as_str(),
            group.kind,
            group.value,
            alert.principal(),
            body.title,
            body.severity.as_str(),
            now_us,
            first,
            last
        ])?;
    if opened == 1 {
        note(tx, &id, now_us, "opened", &body.title)?;
    }
    Ok((id, opened == 1))
}

/// A revision goes where the alert went before; true when it tells of something after a person closed that. Beyond the
/// window of a closed one, or after a test, it is on its own.
fn of_earlier_revision(
    tx: &Transaction<'_>,
    alert_id: &str,
    last_event_us: Micros,
    window_us: Micros,
) -> Result<Option<(IncidentId, bool)>, StoreError> {
    let mut statement = tx.prepare_cached(
        "SELECT i.id, i.resolved_us, i.last_event_us, coalesce(i.resolution, '') = 'test' FROM alerts a JOIN incidents i ON i.id = a.incident
         WHERE a.alert_id = ?1 ORDER BY a.revision DESC LIMIT 1",
    )?;
    let found = statement
        .query_row([alert_id], |row| Ok((IncidentId(row.get(0)?), row.get(1)?, row.get(2)?, row.get(3)?)))
        .optional()?;
    let Some((id, resolved_us, known_us, test)): Option<(_, Option<Micros>, Micros, bool)> = found else {
        return Ok(None);
    };
    let reopens = resolved_us.is_some_and(|resolved| last_event_us > resolved);
    let late = last_event_us > known_us.saturating_add(window_us);
    Ok((!(reopens && (late || test))).then_some((id, reopens)))
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
    let added = tx.prepare_cached("INSERT OR IGNORE INTO alerts(alert_id, revision, incident, rule_id, rule_version, severity, title, matched,
           first_event_us, last_event_us, detected_us, received_us, seqs, source_ips, ours)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)")?.execute(params![
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
        ])?;
    if added == 0 {
        return Ok(false);
    }
    for key in alert.keys() {
        tx.prepare_cached("INSERT OR IGNORE INTO incident_keys VALUES (?1, ?2)")?.execute(params![id.as_str(), key])?;
    }
    group::link(tx, id, alert, now_us)?;
    if !alert.is_imported() {
        offence::remember(tx, id, alert)?;
    }
    raise(tx, id, body.severity)?;
    tx.prepare_cached(
        "UPDATE incidents SET changed_us = ?2, first_event_us = min(first_event_us, ?3),
           last_event_us = max(last_event_us, ?4) WHERE id = ?1",
    )?
    .execute(params![id.as_str(), now_us, body.first_event_micros, body.last_event_micros])?;
    Ok(true)
}

/// True when this very revision was taken in before.
pub fn is_known(tx: &Transaction<'_>, alert: &VerifiedAlert) -> Result<bool, StoreError> {
    let mut statement = tx.prepare_cached("SELECT 1 FROM alerts WHERE alert_id = ?1 AND revision = ?2")?;
    let body = alert.alert();
    Ok(statement.query_row(params![body.alert_id, body.revision], |_| Ok(())).optional()?.is_some())
}

/// The worst of its alerts so far.
pub(crate) fn severity(tx: &Transaction<'_>, id: &IncidentId) -> Result<Severity, StoreError> {
    let held: String = tx
        .prepare_cached("SELECT severity FROM incidents WHERE id = ?1")?
        .query_row([id.as_str()], |row| row.get(0))?;
    read_severity(&held)
}

/// Lifts the incident's severity to at least this.
pub fn raise(tx: &Transaction<'_>, id: &IncidentId, severity: Severity) -> Result<(), StoreError> {
    if severity > self::severity(tx, id)? {
        tx.prepare_cached("UPDATE incidents SET severity = ?2 WHERE id = ?1")?
            .execute(params![id.as_str(), severity.as_str()])?;
    }
    Ok(())
}

/// Computes the state from the actions, from what `contain` found and from the marks, after something has happened to it.
/// When every action took effect, `contain` is asked to look (again).
pub fn settle(tx: &Transaction<'_>, id: &IncidentId, now_us: Micros) -> Result<(), StoreError> {
    let id = &home(tx, id)?;
    let counts = "incident = ?1 AND undo_of IS NULL AND kind NOT IN ('snapshot_evidence', 'call_out')";
    let (done, left, newest_us): (bool, i64, Option<Micros>) = tx
        .prepare_cached(&format!(
            "SELECT EXISTS (SELECT 1 FROM actions a WHERE {counts} AND state = 'done' AND NOT EXISTS
                (SELECT 1 FROM actions u WHERE u.undo_of = a.id AND u.state <> 'suppressed')),
              (SELECT count(*) FROM (SELECT 1 FROM actions WHERE {counts} AND
                (state IN ('planned', 'awaiting_approval', 'ready', 'leased', 'failed', 'dead', 'observed')
                  OR (state = 'suppressed' AND needs_person)) LIMIT ?2)),
              (SELECT planned_us FROM actions WHERE {counts} ORDER BY planned_us DESC LIMIT 1)"
        ))?
        .query_row(params![id.as_str(), LEFT_MAX], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let why = match (done, left) {
        (_, LEFT_MAX..) => Some(format!("{LEFT_MAX} actions or more are not done")),
        (_, 1..) => Some(format!("{left} actions are not done")),
        (false, _) => Some("nothing was done".to_owned()),
        _ => None,
    };
    tx.prepare_cached(
        "UPDATE incidents SET contained_us = CASE WHEN ?2 IS NULL THEN contained_us END,
           check_us = CASE WHEN ?2 IS NULL AND resolved_us IS NULL THEN ?3 END, checks = 0, checked_through = NULL,
           not_contained = coalesce(?2, CASE WHEN contained_us IS NULL THEN 'it is being looked at' END)
         WHERE id = ?1",
    )?
    .execute(params![id.as_str(), why, now_us])?;
    name_state(tx, id, newest_us, now_us)
}

/// Writes down the word for it, and in the timeline that it changed.
pub(crate) fn name_state(
    tx: &Transaction<'_>,
    id: &IncidentId,
    newest_us: Option<Micros>,
    now_us: Micros,
) -> Result<(), StoreError> {
    let (held, resolved, contained, acknowledged_us, reopened_us): (
        String,
        bool,
        bool,
        Option<Micros>,
        Option<Micros>,
    ) = tx
        .prepare_cached(
            "SELECT state, resolved_us IS NOT NULL, contained_us IS NOT NULL, acknowledged_us, reopened_us
             FROM incidents WHERE id = ?1",
        )?
        .query_row([id.as_str()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))?;
    let state = match (resolved, contained, acknowledged_us) {
        (true, ..) => IncidentState::Resolved,
        (_, true, _) => IncidentState::Contained,
        (.., Some(at)) if newest_us.is_none_or(|newest| at >= newest) => IncidentState::Acknowledged,
        _ if reopened_us.is_some() => IncidentState::Reopened,
        _ => IncidentState::Open,
    };
    if state.as_str() == held {
        return Ok(());
    }
    tx.prepare_cached("UPDATE incidents SET state = ?2, changed_us = ?3 WHERE id = ?1")?.execute(params![
        id.as_str(),
        state.as_str(),
        now_us
    ])?;
    timeline::append(tx, id, now_us, "state", state.as_str())
}

/// Starts (or, while it runs, restarts) the quiet time after which people are told.
pub fn tell(tx: &Transaction<'_>, id: &IncidentId, now_us: Micros) -> Result<(), StoreError> {
    let id = &home(tx, id)?;
    tx.prepare_cached(
        "UPDATE incidents SET tell_since_us = coalesce(tell_since_us, ?2), tell_last_us = ?2 WHERE id = ?1",
    )?
    .execute(params![id.as_str(), now_us])?;
    Ok(())
}

/// Tells what came of an incident to those who were, or are about to be, told of it: not where nobody is.
pub fn tell_more(tx: &Transaction<'_>, id: &IncidentId, now_us: Micros) -> Result<(), StoreError> {
    let id = &home(tx, id)?;
    tx.prepare_cached(
        "UPDATE incidents SET tell_since_us = coalesce(tell_since_us, ?2), tell_last_us = ?2
         WHERE id = ?1 AND (notices > 0 OR tell_since_us IS NOT NULL)",
    )?
    .execute(params![id.as_str(), now_us])?;
    Ok(())
}

/// Restarts the quiet time only if it runs: more of the same is no reason for another mail.
pub fn keep_quiet(tx: &Transaction<'_>, id: &IncidentId, now_us: Micros) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE incidents SET tell_last_us = ?2 WHERE id = ?1 AND tell_since_us IS NOT NULL")?
        .execute(params![id.as_str(), now_us])?;
    tx.prepare_cached(
        "UPDATE tellings SET due_us = max(due_us, min(?2 + wait_us, since_us + longest_us))
         WHERE incident = ?1 AND due_us IS NOT NULL AND muted_by IS NULL",
    )?
    .execute(params![id.as_str(), now_us])?;
    Ok(())
}

/// What planning needs to know of an incident to make of these proposals, planned without knowing anything, what is not
/// planned already. Policy changes are known across incidents, since keys are.
pub(crate) fn known(
    tx: &Transaction<'_>,
    id: &IncidentId,
    alert: &VerifiedAlert,
    proposals: &[Proposal],
) -> Result<Known, StoreError> {
    let reopened_us: Option<Micros> = tx
        .prepare_cached("SELECT reopened_us FROM incidents WHERE id = ?1")?
        .query_row([id.as_str()], |row| row.get(0))?;
    let mut actions = Vec::new();
    for action in proposals.iter().map(|proposal| outbox::alike(tx, proposal)).collect::<Result<Vec<_>, _>>()? {
        for action in action {
            // What was undone or called off before the incident was opened again is not in force any more.
            let called_off =
                action.state == ActionState::Suppressed && action.finished_us.is_some_and(|at| Some(at) <= reopened_us);
            let ended = called_off || outbox::is_undone(tx, &action.id)?;
            actions.push(KnownAction {
                ends_us: if ended { None } else { action.ends_us() },
                playbook: action.playbook,
                step: action.step,
                target: action.target,
                generation: action.generation,
                cause: action.cause,
                state: action.state,
            });
        }
    }
    Ok(Known {
        actions,
        offences: offence::of_policies(tx, id, alert)?,
        alias_offences: offence::of_aliases(tx, id, alert)?,
    })
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
    /// Who looks at it, and since when.
    pub acknowledged_by: Option<String>,
    /// See `acknowledged_by`.
    pub acknowledged_us: Option<Micros>,
    /// Who shall deal with it.
    pub assignee: Option<String>,
    /// Why it was closed: a word of [`Resolution`].
    pub resolution: Option<String>,
    /// Who closed it.
    pub resolved_by: Option<String>,
    /// When it was last opened again.
    pub reopened_us: Option<Micros>,
    /// How often it was.
    pub reopenings: u32,
    /// The incident that it is part of.
    pub merged_into: Option<IncidentId>,
    /// Since when nothing was used any more.
    pub contained_us: Option<Micros>,
    /// Why it is not contained.
    pub not_contained: Option<String>,
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

/// All of an incident.
#[derive(Clone, Debug, Serialize)]
pub struct IncidentDetail {
    /// The incident.
    pub summary: IncidentSummary,
    /// Who acted together in it, as far as the evidence says.
    pub principals: Vec<String>,
    /// Keys in its evidence.
    pub keys: Vec<String>,
    /// Its alerts, newest revision of each, oldest first.
    pub alerts: Vec<IncidentAlert>,
    /// Its actions in order.
    pub actions: Vec<Action>,
    /// Its timeline, and those of incidents that were merged into it.
    pub timeline: Vec<TimelineEntry>,
    /// Up to which entry of its own timeline the log has it.
    pub recorded_through: u64,
    /// What was used between the first evidence and the effect, once it was contained.
    pub exposure: Option<Value>,
}

/// The newest incidents first, at most `incidents_max`.
pub fn list(data_dir: &Path, incidents_max: u32) -> Result<Vec<IncidentSummary>, StoreError> {
    Store::open_existing(data_dir)?.read_now(|db| listed(db, None, incidents_max))
}

/// The same, of one state if that is given, from an open store.
pub fn listed(
    db: &Connection,
    state: Option<IncidentState>,
    incidents_max: u32,
) -> Result<Vec<IncidentSummary>, StoreError> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT {SUMMARY} FROM incidents WHERE ?1 IS NULL OR state = ?1 ORDER BY opened_us DESC, id LIMIT ?2"
    ))?;
    let rows = statement.query_map(params![state.map(IncidentState::as_str), incidents_max], |row| Ok(summary(row)))?;
    rows.map(|row| row?).collect()
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
        let (columns, tables) = (timeline::COLUMNS, timeline::TABLES);
        let sql = format!("SELECT {columns} FROM {tables} WHERE t.id > ?1 ORDER BY t.id LIMIT ?2");
        let mut statement = db.prepare(&sql)?;
        let rows = statement.query_map(params![after_id, entries_max], timeline::entry)?;
        Ok(rows.collect::<Result<_, _>>()?)
    })
}

/// An incident without what belongs to it: of one with many alerts that is much.
pub(crate) fn summary_of(db: &Connection, id: &IncidentId) -> Result<Option<IncidentSummary>, StoreError> {
    let mut statement = db.prepare_cached(&format!("SELECT {SUMMARY} FROM incidents WHERE id = ?1"))?;
    statement.query_row([id.as_str()], |row| Ok(summary(row))).optional()?.transpose()
}

/// All of an incident, from an open store.
pub(crate) fn detail(db: &Connection, id: &IncidentId) -> Result<Option<IncidentDetail>, StoreError> {
    let Some(detail) = without_timeline(db, id)? else { return Ok(None) };
    let mut entries = db.prepare_cached(&format!(
        "SELECT {} FROM {} WHERE t.incident IN (SELECT id FROM incidents WHERE id = ?1 OR merged_into = ?1) ORDER BY t.id",
        timeline::COLUMNS,
        timeline::TABLES
    ))?;
    let timeline = entries.query_map([id.as_str()], timeline::entry)?.collect::<Result<_, _>>()?;
    Ok(Some(IncidentDetail { timeline, ..detail }))
}

/// The same with an empty timeline: after a storm it is most of an incident, and neither notices nor `contain` read it.
pub(crate) fn without_timeline(db: &Connection, id: &IncidentId) -> Result<Option<IncidentDetail>, StoreError> {
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
    let (recorded_through, exposure): (i64, Option<String>) = db.query_row(
        "SELECT coalesce((SELECT through FROM timeline_recorded WHERE incident = ?1), 0), exposure FROM incidents
         WHERE id = ?1",
        [id.as_str()],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    Ok(Some(IncidentDetail {
        summary: found?,
        principals: group::principals(db, id)?,
        keys,
        alerts,
        actions: outbox::of_incident(db, id)?,
        timeline: Vec::new(),
        recorded_through: recorded_through.unsigned_abs(),
        exposure: exposure.and_then(|text| serde_json::from_str(&text).ok()),
    }))
}

const SUMMARY: &str = "id, state, severity, title, principal, opened_us, changed_us, first_event_us, last_event_us, \
                       resolved_us, notices, acknowledged_by, acknowledged_us, assignee, resolution, resolved_by, \
                       reopened_us, reopenings, merged_into, contained_us, not_contained";

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
        acknowledged_by: row.get(11)?,
        acknowledged_us: row.get(12)?,
        assignee: row.get(13)?,
        resolution: row.get(14)?,
        resolved_by: row.get(15)?,
        reopened_us: row.get(16)?,
        reopenings: row.get(17)?,
        merged_into: row.get::<_, Option<String>>(18)?.map(IncidentId),
        contained_us: row.get(19)?,
        not_contained: row.get(20)?,
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

fn read_severity(text: &str) -> Result<Severity, StoreError> {
    text.parse().map_err(|_| StoreError::Damaged("severity"))
}

/// Whether an action with this id is ours.
pub(crate) fn knows_action(db: &Connection, action_id: &str) -> Result<Option<IncidentId>, StoreError> {
    let mut statement = db.prepare_cached("SELECT incident FROM actions WHERE id = ?1")?;
    Ok(statement.query_row([action_id], |row| row.get(0)).optional()?.map(IncidentId))
}

/// Whom it is about: its own principal, those of what was merged into it, and whoever the evidence ties to them.
pub(crate) fn principals(db: &Connection, id: &IncidentId) -> Result<BTreeSet<String>, StoreError> {
    let mut statement = db.prepare_cached(
        "SELECT principal FROM incidents WHERE (id = ?1 OR merged_into = ?1) AND principal IS NOT NULL",
    )?;
    let own = statement.query_map([id.as_str()], |row| row.get(0))?.collect::<Result<BTreeSet<String>, _>>()?;
    Ok(own.into_iter().chain(group::principals(db, id)?).collect())
}

impl IncidentDetail {
    /// Whether somebody looks at it who knows of every action.
    pub fn is_acknowledged(&self) -> bool {
        let newest =
            self.actions.iter().filter(|action| action.undo_of.is_none()).map(|action| action.planned_us).max();
        self.summary.acknowledged_us.is_some_and(|at| newest.is_none_or(|newest| at >= newest))
    }

    /// Actions that are not what they should be: to be done, failed, held back, or only observed.
    pub fn open_actions(&self) -> impl Iterator<Item = &Action> {
        self.actions.iter().filter(|action| match action.state {
            ActionState::Done | ActionState::Dropped => false,
            ActionState::Suppressed => action.needs_person,
            _ => true,
        })
    }
}
