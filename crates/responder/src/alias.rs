//! Moves of aliases that alerts were about, kept across incidents: an alias that was moved twice goes back to where it was
//! before the first time.

use crate::incident::IncidentId;
use crate::intake::verify::{Call, VerifiedAlert};
use crate::plan::POLICY_STEPS_MAX;
use crate::store::StoreError;
use rusqlite::{OptionalExtension, Transaction, params};
use std::collections::HashMap;

/// Remembers the moves in an alert's evidence.
pub(crate) fn remember(tx: &Transaction<'_>, id: &IncidentId, alert: &VerifiedAlert) -> Result<(), StoreError> {
    for call in alert.calls() {
        let Some(moved) = call.moved_alias() else { continue };
        tx.prepare_cached(
            "INSERT OR IGNORE INTO alias_offences(event_id, incident, alias_arn, previous_event_id, previous_target)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![call.event.event_id, id.as_str(), moved.arn, moved.set_by, moved.from])?;
    }
    Ok(())
}

/// What is remembered behind the moves in an alert's evidence, as far back as alerts were about them: eventID of the move,
/// what had set the target before, the target.
pub(crate) fn remembered(
    tx: &Transaction<'_>,
    alert: &VerifiedAlert,
) -> Result<HashMap<String, (Option<String>, String)>, StoreError> {
    let mut statement =
        tx.prepare_cached("SELECT previous_event_id, previous_target FROM alias_offences WHERE event_id = ?1")?;
    let mut found = HashMap::new();
    for moved in alert.calls().iter().filter_map(Call::moved_alias) {
        let mut next = moved.set_by.map(str::to_owned);
        for _ in 0..POLICY_STEPS_MAX {
            let Some(event_id) = next.filter(|event_id| !found.contains_key(event_id)) else { break };
            let before = statement.query_row([&event_id], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
            let Some(before): Option<(Option<String>, String)> = before else { break };
            next = before.0.clone();
            found.insert(event_id, before);
        }
    }
    Ok(found)
}
