//! The daily sign of life of each receiver: whoever misses it knows that the path to them is broken (a dead-man switch).
//!
//! It says what a person would ask: what is open, what was not delivered, and what is held back by whom. The first comes
//! one interval after a receiver was configured. PagerDuty gets it as a change event, which pages nobody.

use crate::guard::micros;
use crate::notify::queue::{self, Envelope};
use crate::notify::render::{Message, Page};
use crate::notify::silence;
use crate::notify::tell::Plan;
use crate::store::{Micros, StoreError};
use rusqlite::{Connection, Transaction, params};

/// Writes those that are due.
pub(crate) fn write_due(tx: &Transaction<'_>, plan: &Plan, now_us: Micros) -> Result<(), StoreError> {
    let Some(every) = plan.settings.heartbeat else { return Ok(()) };
    let every_us = micros(every).max(1);
    let text = text(tx, now_us)?;
    for receiver in &plan.receivers {
        let sql = "UPDATE receivers SET heartbeat_us = ?2 WHERE name = ?1 AND heartbeat_us <= ?3";
        if tx.execute(sql, params![receiver.name, now_us, now_us.saturating_sub(every_us)])? == 0 {
            continue;
        }
        let domain = queue::message_domain(tx)?;
        let message_id = format!("heartbeat.{now_us}.{}@{domain}", receiver.name);
        let page = Page {
            incident: None,
            kind: "heartbeat",
            text: &text,
            message_id: &message_id,
            at_us: now_us,
            heartbeat: true,
        };
        let batch = format!("heartbeat/{}/{now_us}", receiver.name);
        let envelope = Envelope {
            incident: None,
            number: 0,
            message_id: &message_id,
            in_reply_to: None,
            dedup: &batch,
            batch: &batch,
            now_us,
        };
        queue::put(tx, receiver, &Message::Page(page), &envelope)?;
    }
    Ok(())
}

fn text(db: &Connection, now_us: Micros) -> Result<String, StoreError> {
    let count = |sql: &str| -> Result<i64, StoreError> { Ok(db.query_row(sql, [], |row| row.get(0))?) };
    let open = count("SELECT count(*) FROM incidents WHERE resolved_us IS NULL")?;
    let waiting = count("SELECT count(*) FROM notices WHERE state = 'ready' AND attempts > 0")?;
    let dead = count("SELECT count(*) FROM notices WHERE state = 'dead'")?;
    let muted = count("SELECT count(*) FROM tellings WHERE muted_by IS NOT NULL")?;
    Ok(words([open, waiting, dead, silence::active(db, now_us)?.into(), muted]))
}

/// What it says of five counts.
pub(super) fn words([open, waiting, dead, silences, muted]: [i64; 5]) -> String {
    format!(
        "Keytrail's responder runs and this way to you works. Open incidents: {open}. Notices under way again: {waiting}, \
         given up: {dead}. Active silences: {silences}, notices held back now: {muted}. If this message stops coming, \
         look at the responder."
    )
}
