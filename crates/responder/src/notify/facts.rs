//! What alerts say beyond what an incident keeps: why they fired, labels, tags, refused calls. For routes and for mail.
//!
//! Written in the transaction that takes an alert in, read when somebody is told. Tags and refused calls come from
//! records that the log provably holds; reasons, labels and queries are the trail's words, which it signed.

use crate::incident::IncidentId;
use crate::intake::VerifiedAlert;
use crate::notify::render::clean;
use crate::notify::route::Subject;
use crate::playbook::Provenance;
use crate::store::{Micros, StoreError};
use keytrail_trail::alert::Alert;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Tags remembered of one key, values that it had before among them: an attacker may change a tag, but the owner of
/// before is still told.
const TAGS_OF_KEY_MAX: i64 = 200;
/// Longest reason, in characters.
const WHY_CHARS_MAX: usize = 120;
/// Longest query, in characters: two ARNs and two times are some 450. A longer one is left out, for cut it would be no query.
const QUERY_CHARS_MAX: usize = 1_000;
/// Principals named as failing now.
const FAILING_MAX: i64 = 4;
/// Columns of a baseline rule's row that are not the count itself.
const BASELINE_COLUMNS: [&str; 3] = ["threshold", "usual_median", "usual_high"];

/// What a notice tells besides the incident itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// By alert id: the value against its threshold or against what is usual.
    pub(crate) why: BTreeMap<String, String>,
    /// The rules' own questions, with their values filled in.
    pub(crate) queries: Vec<String>,
    /// Whose calls are refused since we acted.
    pub(crate) failing: Vec<Failing>,
    /// When a person took it over.
    pub(crate) acked_us: Option<Micros>,
    /// How many notices silences and inhibitions held back.
    pub(crate) muted: u32,
}

/// A principal whose calls fail on what we contained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failing {
    pub(crate) principal: String,
    pub(crate) error_code: String,
    /// As many as the evidence of alerts shows: the query in the notice counts all.
    pub(crate) calls: u32,
}

/// A query for a line of a notice, if all of it fits.
fn one_line(query: &str) -> Option<String> {
    let line = query.split_whitespace().collect::<Vec<_>>().join(" ");
    (line.chars().count() <= QUERY_CHARS_MAX).then(|| clean(&line, QUERY_CHARS_MAX))
}

/// Keeps what the alert says.
pub(crate) fn remember(
    tx: &Transaction<'_>,
    id: &IncidentId,
    alert: &VerifiedAlert,
    now_us: Micros,
) -> Result<(), StoreError> {
    let body = alert.alert();
    let queries: Vec<String> = body.queries.iter().take(3).filter_map(|query| one_line(query)).collect();
    tx.prepare_cached(
        "INSERT OR IGNORE INTO alert_facts(alert_id, revision, incident, why, labels, queries)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        body.alert_id,
        body.revision,
        id.as_str(),
        why(body),
        serde_json::to_string(&body.labels).unwrap_or_default(),
        serde_json::to_string(&queries).unwrap_or_default()
    ])?;
    for call in alert.calls() {
        let verified = call.provenance != Provenance::Unauthenticated;
        if let (Some(principal), Some(code), true) = (&call.principal, &call.event.error_code, verified) {
            tx.prepare_cached(
                "INSERT OR IGNORE INTO refused_calls(incident, seq, principal, key_arn, error_code)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![
                id.as_str(),
                i64::try_from(call.seq).unwrap_or(i64::MAX),
                principal,
                call.key_arn,
                code
            ])?;
        }
        if let (Some(key), true) = (&call.key_arn, verified) {
            let extra = &call.event.additional_event_data;
            for tags in [&extra.before, &extra.after].into_iter().flatten().filter_map(|image| image.get("tags")) {
                remember_tags(tx, key, tags, now_us)?;
            }
        }
    }
    Ok(())
}

fn remember_tags(tx: &Transaction<'_>, key: &str, tags: &Value, now_us: Micros) -> Result<(), StoreError> {
    for (name, value) in tags.as_object().into_iter().flatten() {
        let Some(value) = value.as_str() else { continue };
        tx.prepare_cached(
            "INSERT OR IGNORE INTO key_tags(key_arn, name, value, seen_us) SELECT ?1, ?2, ?3, ?4
             WHERE (SELECT count(*) FROM key_tags WHERE key_arn = ?1) < ?5",
        )?
        .execute(params![key, name, value, now_us, TAGS_OF_KEY_MAX])?;
    }
    Ok(())
}

/// One sentence: the value and what it was measured against.
fn why(alert: &Alert) -> Option<String> {
    if let Some(why) = alert.why.as_ref().filter(|why| !why.text.is_empty()) {
        return Some(clean(&why.text, WHY_CHARS_MAX));
    }
    let number = |column: &str| alert.row.get(column).filter(|value| value.is_number());
    if alert.rule_kind == "baseline" {
        let counted = alert.row.iter().find(|(name, value)| {
            value.is_u64()
                && !BASELINE_COLUMNS.contains(&name.as_str())
                && !alert.group_by.iter().any(|group| &group.name == *name)
        });
        let (name, value) = counted?;
        let usual = match (number("usual_median"), number("usual_high")) {
            (Some(median), Some(high)) => format!("usually {median}, at most {high}"),
            _ => "not learned yet".into(),
        };
        let limit = number("threshold").map(|limit| format!(", fires above {limit}")).unwrap_or_default();
        return Some(clean(&format!("{name} {value}, {usual}{limit}"), WHY_CHARS_MAX));
    }
    match (alert.rule_kind.as_str(), alert.row_text("last_seen")) {
        ("first_seen", Some(before)) => Some(clean(&format!("not seen since {before}"), WHY_CHARS_MAX)),
        ("first_seen", None) => Some("never seen before".into()),
        _ => None,
    }
}

/// What routes look at; `None` if there is no such incident.
pub(crate) fn subject(db: &Connection, id: &IncidentId) -> Result<Option<Subject>, StoreError> {
    let found: Option<(String, Option<String>)> = db
        .prepare_cached("SELECT severity, principal FROM incidents WHERE id = ?1")?
        .query_row([id.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((severity, principal)) = found else { return Ok(None) };
    let rules = texts(db, "SELECT DISTINCT rule_id FROM alerts WHERE incident = ?1", id)?;
    let keys = texts(db, "SELECT key_arn FROM incident_keys WHERE incident = ?1 ORDER BY key_arn", id)?;
    let mut labels = BTreeSet::new();
    for text in texts(db, "SELECT DISTINCT labels FROM alert_facts WHERE incident = ?1", id)? {
        labels.extend(serde_json::from_str::<BTreeMap<String, String>>(&text).unwrap_or_default());
    }
    let mut tags = db.prepare_cached(
        "SELECT DISTINCT name, value FROM key_tags JOIN incident_keys USING (key_arn) WHERE incident = ?1",
    )?;
    let tags = tags.query_map([id.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    Ok(Some(Subject {
        severity: severity.parse().map_err(|_| StoreError::Damaged("severity"))?,
        rules: rules.into_iter().collect(),
        labels,
        tags,
        principal,
        keys,
    }))
}

/// What a notice about the incident tells besides.
pub(crate) fn read(db: &Connection, id: &IncidentId) -> Result<Facts, StoreError> {
    let mut statement = db.prepare_cached(
        "SELECT f.alert_id, f.why, f.queries FROM alert_facts f JOIN alerts a USING (alert_id, revision)
         WHERE f.incident = ?1 AND a.ours = 0
         ORDER BY CASE a.severity WHEN 'critical' THEN 0 WHEN 'high' THEN 1 WHEN 'medium' THEN 2 ELSE 3 END,
           a.received_us, f.revision",
    )?;
    let rows = statement.query_map([id.as_str()], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, Option<String>>(1)?, row.get::<_, String>(2)?))
    })?;
    let mut facts = Facts { acked_us: acked_us(db, id)?, muted: muted(db, id)?, ..Facts::default() };
    for row in rows {
        let (alert, why, queries) = row?;
        // Of several revisions the last one's words count.
        facts.why.extend(why.map(|why| (alert, why)));
        if facts.queries.is_empty() {
            facts.queries = serde_json::from_str(&queries).unwrap_or_default();
        }
    }
    facts.failing = failing(db, id)?;
    Ok(facts)
}

fn failing(db: &Connection, id: &IncidentId) -> Result<Vec<Failing>, StoreError> {
    let mut statement = db.prepare_cached(
        "WITH effect AS (SELECT target, log_seq FROM actions
           WHERE incident = ?1 AND state = 'done' AND undo_of IS NULL AND log_seq IS NOT NULL)
         SELECT principal, max(error_code), count(DISTINCT seq) AS calls FROM refused_calls r
         WHERE EXISTS (SELECT 1 FROM effect WHERE seq > log_seq AND target IN (r.key_arn, r.principal))
         GROUP BY principal ORDER BY calls DESC, principal LIMIT ?2",
    )?;
    let rows = statement.query_map(params![id.as_str(), FAILING_MAX], |row| {
        Ok(Failing { principal: row.get(0)?, error_code: row.get(1)?, calls: row.get(2)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// When a person acknowledged the incident.
fn acked_us(db: &Connection, id: &IncidentId) -> Result<Option<Micros>, StoreError> {
    let mut statement = db.prepare_cached("SELECT acknowledged_us FROM incidents WHERE id = ?1")?;
    Ok(statement.query_row([id.as_str()], |row| row.get(0)).optional()?.flatten())
}

fn muted(db: &Connection, id: &IncidentId) -> Result<u32, StoreError> {
    let mut statement = db.prepare_cached("SELECT coalesce(sum(muted), 0) FROM tellings WHERE incident = ?1")?;
    Ok(statement.query_row([id.as_str()], |row| row.get(0))?)
}

fn texts(db: &Connection, sql: &str, id: &IncidentId) -> Result<Vec<String>, StoreError> {
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement.query_map([id.as_str()], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_told_whole_or_not_at_all() {
        let query = format!("SELECT *\n  FROM events WHERE key_arn = '{}' ORDER BY seq", "k".repeat(500));
        assert_eq!(one_line(&query).unwrap(), query.replace("\n  ", " "));
        assert_eq!(one_line(&format!("SELECT '{}'", "k".repeat(1_000))), None);
    }
}
