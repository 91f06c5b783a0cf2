//! Which incident an alert belongs to, and who acts together in it.
//!
//! The rule is the trail's (`alert::grouping`), so that the score of labelled traffic counts the incidents that we would open. Here are its
//! inputs: calls that the log provably holds, and the open incidents near in time. An alert that leads to a second open
//! incident says so in both timelines; putting them together is a person's decision.

use super::{IncidentId, note};
use crate::intake::verify::VerifiedAlert;
use crate::store::{Micros, StoreError};
use keytrail_trail::alert::grouping::{Call, Candidate, Group, Subject, extend, fitting, role};
use rusqlite::{Connection, Transaction, params};
use serde_json::Value;
use std::collections::BTreeSet;

/// Most incidents that are looked at for one alert.
const CANDIDATES_MAX: u32 = 64;
/// Who acts together in an incident and in what was merged into it.
const PRINCIPALS: &str = "SELECT principal FROM incident_principals
  WHERE incident IN (SELECT id FROM incidents WHERE id = ?1 OR merged_into = ?1)";

/// What an alert is about.
pub(super) fn subject(alert: &VerifiedAlert) -> Subject {
    let calls: Vec<Call> = alert.calls().iter().map(|call| Call::of(&call.event, call.key_arn.as_deref())).collect();
    Subject::of(alert.alert(), &calls)
}

/// The incident that it belongs to, and whether that was closed: an open one before a closed one.
pub(super) fn in_window(
    tx: &Transaction<'_>,
    subject: &Subject,
    window_us: Micros,
    now_us: Micros,
) -> Result<Option<(IncidentId, bool)>, StoreError> {
    let mut fitting = fitting(subject, candidates(tx, subject, window_us)?, window_us);
    fitting.sort_by_key(|(_, closed)| *closed);
    let Some(home) = fitting.first().cloned() else { return Ok(None) };
    for (other, _) in fitting.iter().filter(|(other, closed)| *other != home.0 && !closed) {
        see_also(tx, &home.0, other, now_us)?;
        see_also(tx, other, &home.0, now_us)?;
    }
    Ok(Some(home))
}

/// Once a pair.
fn see_also(tx: &Transaction<'_>, id: &IncidentId, other: &IncidentId, now_us: Micros) -> Result<(), StoreError> {
    let text = format!("an alert is also about {}: see there", other.as_str());
    let mut known =
        tx.prepare_cached("SELECT 1 FROM timeline WHERE incident = ?1 AND kind = 'linked' AND text = ?2")?;
    if !known.exists(params![id.as_str(), text])? {
        note(tx, id, now_us, "linked", &text)?;
    }
    Ok(())
}

/// Incidents near in time that share the group, a principal or the key, the newest first; each as what it was merged into,
/// and whether that is closed. One that was closed as a test takes in nothing more.
fn candidates(
    tx: &Transaction<'_>,
    subject: &Subject,
    window_us: Micros,
) -> Result<Vec<Candidate<(IncidentId, bool)>>, StoreError> {
    let mut statement = tx.prepare_cached(
        "SELECT h.id, i.group_kind, i.group_value, h.first_event_us, h.last_event_us, h.resolved_us IS NOT NULL,
           coalesce((SELECT min(last_event_us) FROM alerts WHERE incident = h.id), h.first_event_us)
         FROM incidents i JOIN incidents h ON h.id = coalesce(i.merged_into, i.id)
         WHERE coalesce(h.resolution, '') <> 'test' AND h.last_event_us >= ?1 AND h.first_event_us <= ?2
           AND ((i.group_kind = ?3 AND i.group_value = ?4)
             OR i.id IN (SELECT incident FROM incident_principals WHERE principal IN (SELECT value FROM json_each(?5)))
             OR i.id IN (SELECT incident FROM incident_principals WHERE role IN (SELECT value FROM json_each(?7)))
             OR (?3 = 'key' AND i.id IN (SELECT incident FROM incident_keys WHERE key_arn = ?4)))
         ORDER BY h.resolved_us IS NOT NULL, h.opened_us DESC, h.id LIMIT ?6",
    )?;
    // Those themselves and the roles of theirs, and the sessions of a role that is named: not all other sessions of a role.
    let named: Value = subject.principals.iter().flat_map(|principal| [principal.clone(), role(principal)]).collect();
    let roles: Value = subject.principals.iter().cloned().collect();
    let (from, to) = (subject.first_us.saturating_sub(window_us), subject.last_us.saturating_add(window_us));
    let group = &subject.group;
    let rows = statement.query_map(
        params![from, to, group.kind, group.value, named.to_string(), CANDIDATES_MAX, roles.to_string()],
        |row| {
            let id: String = row.get(0)?;
            Ok((id, row.get::<_, String>(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?))
        },
    )?;
    let mut found = Vec::new();
    for row in rows {
        let (id, kind, value, first_us, last_us, closed, opened_us) = row?;
        let kind = ["principal", "key", "alert"].into_iter().find(|known| *known == kind);
        let kind = kind.ok_or(StoreError::Damaged("incident group"))?;
        let principals = names(tx, PRINCIPALS, &id)?;
        // Asked for nothing but the key that an alert is about; of many keys that one is.
        let mut has = tx.prepare_cached("SELECT 1 FROM incident_keys WHERE incident = ?1 AND key_arn = ?2")?;
        let keys = if group.kind == "key" && has.exists([&id, &group.value])? {
            BTreeSet::from([group.value.clone()])
        } else {
            BTreeSet::new()
        };
        let id = (IncidentId::new(&id), closed);
        found.push(Candidate { id, group: Group { kind, value }, principals, keys, first_us, opened_us, last_us });
    }
    Ok(found)
}

fn names(db: &Connection, sql: &str, id: &str) -> Result<BTreeSet<String>, StoreError> {
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement.query_map([id], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Takes the alert's principals into the incident; those who come second are told of in the timeline.
pub(super) fn link(
    tx: &Transaction<'_>,
    id: &IncidentId,
    alert: &VerifiedAlert,
    now_us: Micros,
) -> Result<(), StoreError> {
    let mut known = names(tx, PRINCIPALS, id.as_str())?;
    let first = known.is_empty();
    let subject = subject(alert);
    for principal in extend(&mut known, &subject) {
        tx.prepare_cached("INSERT OR IGNORE INTO incident_principals(incident, principal, role) VALUES (?1, ?2, ?3)")?
            .execute(params![id.as_str(), principal, role(&principal)])?;
        if !first || principal != subject.group.value {
            note(tx, id, now_us, "linked", &format!("{principal}, by {}", alert.alert().rule_id))?;
        }
    }
    Ok(())
}

/// The principals of an incident, sorted.
pub(super) fn principals(db: &Connection, id: &IncidentId) -> Result<Vec<String>, StoreError> {
    let all = names(db, PRINCIPALS, id.as_str())?;
    Ok(all.into_iter().collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::config::Limits;
    use crate::incident::{self, IncidentId};
    use crate::intake::VerifiedAlert;
    use crate::store::{Store, StoreError};
    use crate::testing::{Bench, event, principal_arn};
    use serde_json::json;

    /// Opens or finds the alert's incident and joins it.
    fn take(store: &Store, alert: &VerifiedAlert) -> IncidentId {
        store
            .write_now(|tx| {
                let (id, _) = incident::find_or_open(tx, alert, Limits::default().incident_window, 1)?;
                incident::join(tx, &id, alert, false, 1)?;
                Ok::<_, StoreError>(id)
            })
            .unwrap()
    }

    #[test]
    fn a_grantee_is_found_in_the_incident_of_who_made_the_grant() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let grant =
            event("CreateGrant").by("mallory").on_key("k1").with("granteePrincipal", json!(principal_arn("eve")));
        let first = take(&store, &Bench::new().alert("grant-broad", vec![grant]).verified());
        let used = event("Decrypt").by("eve").on_key("k1");
        let second = take(&store, &Bench::new().alert("first-seen-network", vec![used]).verified());
        assert_eq!(second, first);
        let other = event("Decrypt").by("bystander").on_key("k1");
        assert_ne!(take(&store, &Bench::new().alert("denied-burst", vec![other]).verified()), first);
        let detail = incident::show(dir.path(), first.as_str()).unwrap().unwrap();
        assert_eq!(detail.principals, [principal_arn("eve"), principal_arn("mallory")]);
        assert_eq!(detail.summary.principal, Some(principal_arn("mallory")));
        assert_eq!(detail.alerts.len(), 2);
        assert!(detail.timeline.iter().any(|entry| entry.kind == "linked" && entry.text.contains("eve")));
    }

    #[test]
    fn incidents_that_an_alert_ties_together_name_each_other_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let one = take(&store, &Bench::new().alert("denied-burst", vec![event("Decrypt").by("mallory")]).verified());
        let two = take(&store, &Bench::new().alert("denied-burst", vec![event("Decrypt").by("eve")]).verified());
        let grant =
            event("CreateGrant").by("mallory").on_key("k1").with("granteePrincipal", json!(principal_arn("eve")));
        let both = Bench::new().alert("grant-broad", vec![grant]).verified();
        assert_eq!(take(&store, &both), one);
        assert_eq!(take(&store, &both), one);
        for (id, other) in [(&one, &two), (&two, &one)] {
            let detail = incident::show(dir.path(), id.as_str()).unwrap().unwrap();
            let named = detail.timeline.iter().filter(|entry| entry.text.contains(other.as_str())).count();
            assert_eq!(named, 1, "{:?}", detail.timeline);
        }
    }
}
