//! Merging: two incidents turn out to be one.
//!
//! Alerts, keys, actions and offences move to the other one, so that `undo` covers both. The timeline stays where it was
//! written, for its links hold only there: the other one names the number and digest that it ended with, and `show`
//! prints both in order. What comes later for the merged one goes to the other.

use super::person::{Resolution, resolve};
use super::{IncidentDetail, IncidentId, raise, settle, tell_more, timeline};
use crate::store::{Micros, StoreError};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

/// The incident that this one is part of; itself, unless it was merged.
pub(crate) fn home(db: &Connection, id: &IncidentId) -> Result<IncidentId, StoreError> {
    let mut statement = db.prepare_cached("SELECT merged_into FROM incidents WHERE id = ?1")?;
    let into: Option<Option<String>> = statement.query_row([id.as_str()], |row| row.get(0)).optional()?;
    Ok(into.flatten().map_or_else(|| id.clone(), IncidentId))
}

/// Moves all of `from` into `into`.
pub(super) fn merge(
    tx: &Transaction<'_>,
    from: &IncidentDetail,
    into: &IncidentId,
    by: &str,
    now_us: Micros,
) -> Result<(), StoreError> {
    let summary = &from.summary;
    let id = &summary.id;
    // The last entry of its own timeline; the next one names it.
    if summary.resolved_us.is_none() {
        resolve(tx, id, Resolution::Merged, by, Some(&format!("into {into}")), now_us)?;
    } else {
        timeline::append(tx, id, now_us, "person", &format!("merged into {into} by {by}"))?;
    }
    let (number, digest) = timeline::end(tx, id)?;
    for sql in [
        "UPDATE alerts SET incident = ?2 WHERE incident = ?1",
        "UPDATE actions SET incident = ?2 WHERE incident = ?1",
        "UPDATE offences SET incident = ?2 WHERE incident = ?1",
        "UPDATE alias_offences SET incident = ?2 WHERE incident = ?1",
        "UPDATE OR IGNORE alert_facts SET incident = ?2 WHERE incident = ?1",
        "UPDATE OR IGNORE refused_calls SET incident = ?2 WHERE incident = ?1",
        "UPDATE OR IGNORE approvals SET incident = ?2 WHERE incident = ?1",
        "INSERT OR IGNORE INTO incident_keys SELECT ?2, key_arn FROM incident_keys WHERE incident = ?1",
        // One step is enough for whoever follows.
        "UPDATE incidents SET merged_into = ?2 WHERE id = ?1 OR merged_into = ?1",
    ] {
        tx.execute(sql, params![id.as_str(), into.as_str()])?;
    }
    tx.execute("DELETE FROM incident_keys WHERE incident = ?1", [id.as_str()])?;
    tx.execute(
        "UPDATE incidents SET tell_since_us = NULL, tell_last_us = NULL, check_us = NULL, contained_us = NULL,
           resolution = 'merged' WHERE id = ?1",
        [id.as_str()],
    )?;
    tx.execute(
        "UPDATE incidents SET first_event_us = min(first_event_us, ?2), last_event_us = max(last_event_us, ?3),
           changed_us = ?4, contained_us = NULL WHERE id = ?1",
        params![into.as_str(), summary.first_event_us, summary.last_event_us, now_us],
    )?;
    raise(tx, into, summary.severity)?;
    let text = format!("{id} was merged into this one by {by}; its timeline ends with entry {number}, {digest}");
    timeline::append(tx, into, now_us, "person", &text)?;
    settle(tx, into, now_us)?;
    tell_more(tx, into, now_us)
}
