//! Changes of policies and aliases that a restore does not go back to, kept across incidents: a key that was opened twice
//! gets the policy from before the first time.
//!
//! Every change in the evidence of an alert is remembered, but most alerts only tell of a change: an administrator's policy
//! is in the evidence of `key-policy-changed`, and to go back behind it would be an outage by us. A change counts when an
//! action wanted it back and neither an announcement nor the protected list held that, or when it is part of the same
//! incident, as it is when somebody opens a key step by step, alone or with others that the evidence ties to him. It does not when people closed the incident as harmless.

use crate::incident::IncidentId;
use crate::intake::verify::{Call, VerifiedAlert};
use crate::outbox::ActionKind;
use crate::plan::{POLICY_STEPS_MAX, Proposal, sets_policy};
use crate::store::StoreError;
use rusqlite::{OptionalExtension as _, Row, Transaction, params};
use std::collections::HashMap;

/// What makes the change `o` one that an action of incident ?2 does not go back to.
const COUNTS: &str = "o.event_id = ?1
  AND NOT EXISTS (SELECT 1 FROM incidents i WHERE i.id = o.incident
    AND i.resolution IN ('benign', 'false_positive', 'authorised_by_owner', 'test'))
  AND (o.incident = ?2 OR EXISTS (SELECT 1 FROM actions a WHERE a.id = o.action
    AND NOT (a.state IN ('suppressed', 'observed')
      AND (instr(a.reason, 'announced: ') > 0 AND instr(a.reason, 'cannot be read') = 0 OR instr(a.reason, 'protected list: ') > 0))))";

/// Remembers the changes in an alert's evidence.
pub(crate) fn remember(tx: &Transaction<'_>, id: &IncidentId, alert: &VerifiedAlert) -> Result<(), StoreError> {
    for call in alert.calls().iter().filter(|call| is_policy_change(call)) {
        tx.prepare_cached(
            "INSERT OR IGNORE INTO offences(event_id, incident, key_arn, previous_event_id) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![
            call.event.event_id,
            id.as_str(),
            call.key_arn,
            call.more("previousPolicyEventId")
        ])?;
    }
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

/// Notes that a proposal wants back what these calls of its alert did to its target.
pub(crate) fn wanted_back<'a>(
    tx: &Transaction<'_>,
    proposal: &Proposal,
    calls: impl Iterator<Item = &'a Call>,
) -> Result<(), StoreError> {
    let (table, column) = match proposal.kind {
        ActionKind::RestoreKeyPolicy => ("offences", "key_arn"),
        ActionKind::AliasRestore => ("alias_offences", "alias_arn"),
        _ => return Ok(()),
    };
    let sql = format!("UPDATE {table} SET action = coalesce(action, ?2) WHERE event_id = ?1 AND {column} = ?3");
    for call in calls {
        tx.prepare_cached(&sql)?.execute(params![call.event.event_id, proposal.id, proposal.target])?;
    }
    Ok(())
}

/// What counts behind the policy changes of an alert: eventID, and what had set the policy before it.
pub(crate) fn of_policies(
    tx: &Transaction<'_>,
    id: &IncidentId,
    alert: &VerifiedAlert,
) -> Result<HashMap<String, Option<String>>, StoreError> {
    let sql = format!("SELECT o.previous_event_id FROM offences o WHERE {COUNTS}");
    let changes = alert.calls().iter().filter(|call| is_policy_change(call));
    behind(tx, id, &sql, changes.map(|call| call.more("previousPolicyEventId")), |row| row.get(0))
}

/// What counts behind the moved aliases of an alert: eventID, what had set the target before it, and that target.
pub(crate) fn of_aliases(
    tx: &Transaction<'_>,
    id: &IncidentId,
    alert: &VerifiedAlert,
) -> Result<HashMap<String, (Option<String>, String)>, StoreError> {
    let sql = format!("SELECT o.previous_event_id, o.previous_target FROM alias_offences o WHERE {COUNTS}");
    let moves = alert.calls().iter().filter_map(Call::moved_alias);
    behind(tx, id, &sql, moves.map(|moved| moved.set_by), |row| Ok((row.get(0)?, row.get(1)?)))
}

/// From each of these events back, as far as they count. The first column is the event before.
fn behind<'a, T>(
    tx: &Transaction<'_>,
    id: &IncidentId,
    sql: &str,
    events: impl Iterator<Item = Option<&'a str>>,
    read: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<HashMap<String, T>, StoreError> {
    let mut statement = tx.prepare_cached(sql)?;
    let mut found = HashMap::new();
    for event in events {
        let mut next = event.map(str::to_owned);
        for _ in 0..POLICY_STEPS_MAX {
            let Some(event_id) = next.filter(|event_id| !found.contains_key(event_id)) else { break };
            let of = [&event_id, id.as_str()];
            let Some((before, held)) = statement.query_row(of, |row| Ok((row.get(0)?, read(row)?))).optional()? else {
                break;
            };
            found.insert(event_id, held);
            next = before;
        }
    }
    Ok(found)
}

fn is_policy_change(call: &Call) -> bool {
    call.is_allowed_administration() && sets_policy(call)
}
