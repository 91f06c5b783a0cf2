//! Moves of aliases that alerts were about, kept across incidents: an alias that was moved twice goes back to where it was
//! before the first time.

use crate::incident::IncidentId;
use crate::intake::verify::{Call, VerifiedAlert};
use crate::store::StoreError;
use rusqlite::{Transaction, params};
use std::collections::HashMap;

/// Remembers the moves in an alert's evidence.
pub(crate) fn remember(tx: &Transaction<'_>, id: &IncidentId, alert: &VerifiedAlert) -> Result<(), StoreError> {
    for call in alert.calls() {
        let Some(moved) = call.moved_alias() else { continue };
        tx.execute(
            "INSERT OR IGNORE INTO alias_offences(event_id, incident, alias_arn, previous_event_id, previous_target)
             VALUES (?1, ?2, ?3, ?4, ?5)",
            params![call.event.event_id, id.as_str(), moved.arn, moved.set_by, moved.from],
        )?;
    }
    Ok(())
}

/// What is remembered of the aliases in an alert's evidence: eventID of the move, what had set the target before, the target.
pub(crate) fn remembered(
    tx: &Transaction<'_>,
    alert: &VerifiedAlert,
) -> Result<HashMap<String, (Option<String>, String)>, StoreError> {
    let mut statement = tx.prepare_cached(
        "SELECT event_id, previous_event_id, previous_target FROM alias_offences WHERE alias_arn = ?1",
    )?;
    let mut found = HashMap::new();
    for moved in alert.calls().iter().filter_map(Call::moved_alias) {
        let rows = statement.query_map([moved.arn], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?;
        for row in rows {
            let (event_id, before) = row?;
            found.insert(event_id, before);
        }
    }
    Ok(found)
}
