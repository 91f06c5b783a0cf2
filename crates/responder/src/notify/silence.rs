//! Silences: notices that match are held back until an end, by somebody, for a reason. Never containment.
//!
//! A silence is a row in `responder.db`, put there by `keytrail silence add`; what it holds back is counted, noted in
//! the incident's timeline, and told when the silence ends if the incident is still open. Pages and heartbeats, which
//! are about the responder itself, are never held back; each heartbeat says how many silences there are. Whoever can
//! write `responder.db` can mute notices, which is why silences end and cannot be deleted.

use crate::notify::render::clean;
use crate::notify::route::{Matcher, RouteError, Subject};
use crate::store::{Micros, Store, StoreError};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde::Serialize;
use std::path::Path;
use std::time::Duration;

/// Longest silence: whoever needs more says so again.
pub const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);
/// Most silences at one time, and most shown.
const ACTIVE_MAX: i64 = 1_000;
const SHOWN_MAX: i64 = 1_000;
/// Longest author and reason in characters.
const WORDS_CHARS_MAX: usize = 200;

/// Why there is no such silence.
#[derive(Debug, thiserror::Error)]
pub enum SilenceError {
    /// responder.db.
    #[error("silences cannot be read or written")]
    Store(#[from] StoreError),
    /// A condition is not one.
    #[error("silence matches nothing that there is")]
    Match(#[from] RouteError),
    /// A silence of everything would hide an attack.
    #[error("silence needs at least one condition, as in severity=low or tag:owner=payments")]
    Everything,
    /// Nobody, or for no reason.
    #[error("silence needs an author and a reason")]
    Unsigned,
    /// Zero or beyond the bound.
    #[error("silence must end, within 30 days")]
    Duration,
    /// Too many already.
    #[error("there are {ACTIVE_MAX} silences already: let some expire")]
    TooMany,
    /// Not there, or over.
    #[error("there is no active silence {0}")]
    Unknown(i64),
}

/// One silence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Silence {
    /// Its number.
    pub id: i64,
    /// Who put it.
    pub author: String,
    /// Why.
    pub reason: String,
    /// `field=value` words that must all fit; of one field one.
    pub matches: Vec<String>,
    /// When it was put.
    pub created_us: Micros,
    /// When it ends.
    pub ends_us: Micros,
    /// Who ended it before.
    pub expired_by: Option<String>,
    /// How many notices it held back.
    pub muted: u32,
}

/// Puts a silence; gives its number.
pub fn add(
    data_dir: &Path,
    words: &[String],
    author: &str,
    reason: &str,
    duration: Duration,
    now_us: Micros,
) -> Result<i64, SilenceError> {
    let matches = Matcher::parse(words.iter().map(String::as_str))?;
    if matches.is_empty() {
        return Err(SilenceError::Everything);
    }
    let (author, reason) = (clean(author.trim(), WORDS_CHARS_MAX), clean(reason.trim(), WORDS_CHARS_MAX));
    if author.is_empty() || reason.is_empty() {
        return Err(SilenceError::Unsigned);
    }
    if duration.is_zero() || duration > LONGEST {
        return Err(SilenceError::Duration);
    }
    let ends_us = now_us.saturating_add(crate::guard::micros(duration));
    let words = serde_json::to_string(&matches.words()).unwrap_or_default();
    let added = Store::open_existing(data_dir)?.write_now(|tx| {
        let active: i64 =
            tx.query_row("SELECT count(*) FROM silences WHERE ends_us > ?1", [now_us], |row| row.get(0))?;
        if active >= ACTIVE_MAX {
            return Ok(None);
        }
        tx.execute(
            "INSERT INTO silences(author, reason, matches, created_us, ends_us) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![author, reason, words, now_us, ends_us],
        )?;
        Ok(Some(tx.last_insert_rowid()))
    })?;
    added.ok_or(SilenceError::TooMany)
}

/// The newest silences first; with `all` also those that are over.
pub fn list(data_dir: &Path, all: bool, now_us: Micros) -> Result<Vec<Silence>, SilenceError> {
    let from = if all { Micros::MIN } else { now_us };
    Ok(Store::open_existing(data_dir)?.read_now(|db| {
        let sql = format!("SELECT {COLUMNS} FROM silences WHERE ends_us > ?1 ORDER BY id DESC LIMIT ?2");
        let mut statement = db.prepare(&sql)?;
        let rows = statement.query_map(params![from, SHOWN_MAX], silence)?;
        Ok(rows.collect::<Result<_, _>>()?)
    })?)
}

/// Ends a silence now.
pub fn expire(data_dir: &Path, id: i64, author: &str, now_us: Micros) -> Result<(), SilenceError> {
    let author = clean(author.trim(), WORDS_CHARS_MAX);
    if author.is_empty() {
        return Err(SilenceError::Unsigned);
    }
    let ended = Store::open_existing(data_dir)?.write_now(|tx| {
        let sql = "UPDATE silences SET ends_us = ?2, expired_by = ?3 WHERE id = ?1 AND ends_us > ?2";
        Ok(tx.execute(sql, params![id, now_us, author])?)
    })?;
    if ended == 1 { Ok(()) } else { Err(SilenceError::Unknown(id)) }
}

/// The silence that holds back notices about this, the one that lasts longest first.
pub(crate) fn of(db: &Connection, subject: &Subject, now_us: Micros) -> Result<Option<Silence>, StoreError> {
    let mut statement = db.prepare_cached(
        "SELECT id, author, reason, matches, created_us, ends_us, expired_by, muted FROM silences
         WHERE ends_us > ?1 ORDER BY ends_us DESC, id",
    )?;
    let rows = statement.query_map([now_us], silence)?;
    for row in rows {
        let one = row?;
        // Words that cannot be read mute nothing.
        let Ok(matches) = Matcher::parse(one.matches.iter().map(String::as_str)) else { continue };
        if !matches.is_empty() && matches.takes(subject) {
            return Ok(Some(one));
        }
    }
    Ok(None)
}

/// How many silences there are now.
pub(crate) fn active(db: &Connection, now_us: Micros) -> Result<u32, StoreError> {
    let count = db.query_row("SELECT count(*) FROM silences WHERE ends_us > ?1", [now_us], |row| row.get(0));
    Ok(count.optional()?.unwrap_or(0))
}

/// It held one back.
pub(crate) fn count(tx: &Transaction<'_>, id: i64) -> Result<(), StoreError> {
    tx.execute("UPDATE silences SET muted = muted + 1 WHERE id = ?1", [id])?;
    Ok(())
}

const COLUMNS: &str = "id, author, reason, matches, created_us, ends_us, expired_by, muted";

fn silence(row: &Row<'_>) -> Result<Silence, rusqlite::Error> {
    let matches: String = row.get(3)?;
    Ok(Silence {
        id: row.get(0)?,
        author: row.get(1)?,
        reason: row.get(2)?,
        matches: serde_json::from_str(&matches).unwrap_or_default(),
        created_us: row.get(4)?,
        ends_us: row.get(5)?,
        expired_by: row.get(6)?,
        muted: row.get(7)?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::playbook::Severity;
    use std::collections::BTreeSet;

    #[test]
    fn a_silence_has_author_reason_conditions_and_end() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let hour = Duration::from_secs(3600);
        let put = |text: &str, author: &str, reason: &str, long| add(dir.path(), &words(text), author, reason, long, 0);
        assert!(matches!(put("", "ann", "move", hour), Err(SilenceError::Everything)));
        assert!(matches!(put("severity=low", " ", "move", hour), Err(SilenceError::Unsigned)));
        assert!(matches!(put("severity=low", "ann", "\r\n", hour), Err(SilenceError::Unsigned)));
        assert!(matches!(put("severity=low", "ann", "move", LONGEST * 2), Err(SilenceError::Duration)));
        assert!(matches!(put("nonsense=low", "ann", "move", hour), Err(SilenceError::Match(_))));
        let id = put("severity=low tag:owner=payments", "ann", "move", hour).unwrap();

        let subject = Subject {
            severity: Severity::Low,
            rules: BTreeSet::new(),
            labels: BTreeSet::new(),
            tags: [("owner".to_owned(), "payments".to_owned())].into(),
            principal: None,
            keys: vec![],
        };
        let held = |subject: &Subject, now_us| store.read_now(|db| of(db, subject, now_us)).unwrap().map(|one| one.id);
        assert_eq!(held(&subject, 1), Some(id));
        assert_eq!(held(&Subject { severity: Severity::High, ..subject.clone() }, 1), None);
        assert_eq!(held(&Subject { tags: BTreeSet::new(), ..subject.clone() }, 1), None);
        assert_eq!(held(&subject, 3_600_000_000), None, "it is over");
        expire(dir.path(), id, "bob", 5).unwrap();
        assert!(matches!(expire(dir.path(), id, "bob", 6), Err(SilenceError::Unknown(_))));
        assert_eq!(held(&subject, 7), None);
        assert!(list(dir.path(), false, 7).unwrap().is_empty());
        assert_eq!(list(dir.path(), true, 7).unwrap()[0].expired_by.as_deref(), Some("bob"));
    }
}
