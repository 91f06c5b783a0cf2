//! The delivery ledger for people: who was sent what, what was given up, and trying again or dropping it.
//!
//! Works on `responder.db` beside a running responder; each change is noted in the incident's timeline with its author.

use crate::incident::{self, IncidentId};
use crate::notify::render::clean;
use crate::store::{self, Micros, Store, StoreError};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde::Serialize;
use std::path::Path;

/// Most notices listed.
const LISTED_MAX: i64 = 1_000;

/// One delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Delivery {
    /// Its number.
    pub row: i64,
    /// Whose incident, if any.
    pub incident: Option<String>,
    /// The receiver's name.
    pub receiver: String,
    /// The address, of receivers that have several.
    pub recipient: String,
    /// `ready`, `sent`, `dead` or `dropped`.
    pub state: String,
    /// One line.
    pub subject: String,
    /// How many attempts failed.
    pub attempts: u32,
    /// When it was written.
    pub created_us: Micros,
    /// When it is tried next, if it waits.
    pub next_attempt_us: Option<Micros>,
    /// When the receiver took it.
    pub sent_us: Option<Micros>,
    /// What went wrong last.
    pub error: Option<String>,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// responder.db.
    #[error("notices cannot be read or written")]
    Store(#[from] StoreError),
    /// No such row in a fitting state.
    #[error("there is no notice {0} that waits or was given up")]
    Unknown(i64),
    /// Dropped for no reason, or by nobody.
    #[error("an author and a reason are needed")]
    Unsigned,
}

/// The newest first, of one state or of all.
pub fn list(data_dir: &Path, state: Option<&str>) -> Result<Vec<Delivery>, LedgerError> {
    Ok(Store::open_existing(data_dir)?.read_now(|db| {
        let mut statement = db.prepare(
            "SELECT row, incident, channel, recipient, state, subject, attempts, created_us, next_attempt_us, sent_us, error
             FROM notices WHERE ?1 IS NULL OR state = ?1 ORDER BY row DESC LIMIT ?2",
        )?;
        let rows = statement.query_map(params![state, LISTED_MAX], delivery)?;
        Ok(rows.collect::<Result<_, _>>()?)
    })?)
}

/// Tries a notice again now, or all that were given up; gives how many.
pub fn retry(data_dir: &Path, row: Option<i64>, author: &str, now_us: Micros) -> Result<usize, LedgerError> {
    let author = signed(author)?;
    let count = Store::open_existing(data_dir)?.write_now(|tx| {
        let rows = match row {
            Some(row) => vec![row],
            None => dead_rows(tx)?,
        };
        let mut count = 0;
        for row in rows {
            count += tx.execute(
                "UPDATE notices SET state = 'ready', next_attempt_us = ?2, created_us = ?2, rescued = 0
                 WHERE row = ?1 AND state IN ('ready', 'dead')",
                params![row, now_us],
            )?;
            note(tx, row, &format!("is tried again by {author}"), now_us)?;
        }
        Ok(count)
    })?;
    match row {
        Some(row) if count == 0 => Err(LedgerError::Unknown(row)),
        _ => Ok(count),
    }
}

/// Gives a notice up for good.
pub fn drop_notice(data_dir: &Path, row: i64, author: &str, reason: &str, now_us: Micros) -> Result<(), LedgerError> {
    let (author, reason) = (signed(author)?, signed(reason)?);
    let text = format!("dropped by {author}: {reason}");
    let changed = Store::open_existing(data_dir)?.write_now(|tx| {
        let sql = "UPDATE notices SET state = 'dropped', error = ?2 WHERE row = ?1 AND state IN ('ready', 'dead')";
        let changed = tx.execute(sql, params![row, text])?;
        if changed == 1 {
            store::count(tx, "notices/dropped")?;
            note(tx, row, &text, now_us)?;
        }
        Ok(changed)
    })?;
    if changed == 1 { Ok(()) } else { Err(LedgerError::Unknown(row)) }
}

fn signed(words: &str) -> Result<String, LedgerError> {
    let words = clean(words.trim(), 200);
    if words.is_empty() { Err(LedgerError::Unsigned) } else { Ok(words) }
}

fn dead_rows(db: &Connection) -> Result<Vec<i64>, StoreError> {
    let mut statement = db.prepare("SELECT row FROM notices WHERE state = 'dead' ORDER BY row LIMIT ?1")?;
    let rows = statement.query_map([LISTED_MAX], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn note(tx: &Transaction<'_>, row: i64, text: &str, now_us: Micros) -> Result<(), StoreError> {
    let of: Option<(Option<String>, String)> = tx
        .query_row("SELECT incident, channel FROM notices WHERE row = ?1", [row], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match of {
        Some((Some(id), channel)) => {
            incident::note(tx, &IncidentId::new(&id), now_us, "notice", &format!("{channel} (notice {row}) {text}"))
        }
        _ => Ok(()),
    }
}

fn delivery(row: &Row<'_>) -> Result<Delivery, rusqlite::Error> {
    let state: String = row.get(4)?;
    Ok(Delivery {
        row: row.get(0)?,
        incident: row.get(1)?,
        receiver: row.get(2)?,
        recipient: row.get(3)?,
        subject: row.get(5)?,
        attempts: row.get(6)?,
        created_us: row.get(7)?,
        next_attempt_us: if state == "ready" { row.get(8)? } else { None },
        sent_us: row.get(9)?,
        error: row.get(10)?,
        state,
    })
}
