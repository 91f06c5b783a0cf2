//! The timeline of an incident: append-only, numbered, each entry hash-linked to the one before it.
//!
//! An entry's digest is SHA-256 over `CONTEXT`, the 32 bytes of the digest before it (zeros for the first), and then
//! incident, number, time, kind and text, each with its u32 length (big-endian) before it, numbers in decimal. The same
//! entries go to the log (`record`), so that whoever changes this file is contradicted there. Entries of an older version
//! are linked when the next one is written.

use super::{IncidentId, home};
use crate::notify::render::clean;
use crate::store::{Micros, StoreError};
use keytrail_kms::chain::leaf::sha256;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde::{Deserialize, Serialize};

/// First bytes of what is hashed.
const CONTEXT: &str = "keytrail incident entry v1";
/// Longest text of an entry in characters, and a sign that it was cut.
const TEXT_CHARS_MAX: usize = 500;
/// Kind of the entry that says that all before it leaves (`retention`).
pub(crate) const LEAVES: &str = "leaves";
/// Before the first entry.
const ZERO: [u8; 32] = [0; 32];

/// One entry of a timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TimelineEntry {
    /// Grows over all incidents; ask for what came after with it.
    pub id: i64,
    /// Which incident.
    pub incident: IncidentId,
    /// When.
    pub at_us: Micros,
    /// `opened`, `alert`, `plan`, `guard`, `action`, `state`, `notice`, `undo`, `person`,
    /// `check`, `leaves`.
    pub kind: String,
    /// What happened, in one line.
    pub text: String,
    /// From 1 within its incident; 0 while an older version's entry is not linked yet.
    pub number: u64,
    /// Digest over the entry and the one before it, hex; empty while it is not linked yet.
    pub digest: String,
}

/// Columns of [`entry`], of `timeline t` and its links `l`.
pub(super) const COLUMNS: &str =
    "t.id, t.incident, t.at_us, t.kind, t.text, coalesce(l.number, 0), coalesce(l.digest, '')";
/// Where they come from.
pub(super) const TABLES: &str = "timeline t LEFT JOIN timeline_links l ON l.entry = t.id";

/// Reads a row of [`COLUMNS`].
pub(super) fn entry(row: &Row<'_>) -> Result<TimelineEntry, rusqlite::Error> {
    Ok(TimelineEntry {
        id: row.get(0)?,
        incident: IncidentId(row.get(1)?),
        at_us: row.get(2)?,
        kind: row.get(3)?,
        text: row.get(4)?,
        number: row.get::<_, i64>(5)?.unsigned_abs(),
        digest: row.get(6)?,
    })
}

/// Appends to the timeline; of a merged incident, to that of the one it is part of.
pub fn note(tx: &Transaction<'_>, id: &IncidentId, at_us: Micros, kind: &str, text: &str) -> Result<(), StoreError> {
    append(tx, &home(tx, id)?, at_us, kind, text)
}

/// Appends to this very timeline.
pub(crate) fn append(
    tx: &Transaction<'_>,
    id: &IncidentId,
    at_us: Micros,
    kind: &str,
    text: &str,
) -> Result<(), StoreError> {
    tx.prepare_cached("INSERT INTO timeline(incident, at_us, kind, text) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![id.as_str(), at_us, kind, clean(text, TEXT_CHARS_MAX)])?;
    link(tx, id)
}

/// Links what is not linked yet, in order, and puts it up for the log.
fn link(tx: &Transaction<'_>, id: &IncidentId) -> Result<(), StoreError> {
    let (after, mut number, mut digest) = last_link(tx, id)?;
    let mut statement = tx.prepare_cached(
        "SELECT id, incident, at_us, kind, text, 0, '' FROM timeline WHERE incident = ?1 AND id > ?2 ORDER BY id",
    )?;
    let entries = statement.query_map(params![id.as_str(), after], entry)?.collect::<Result<Vec<_>, _>>()?;
    for mut entry in entries {
        number += 1;
        entry.number = number;
        digest = digest_of(&digest, &entry);
        tx.prepare_cached("INSERT INTO timeline_links(entry, incident, number, digest) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![entry.id, id.as_str(), number.cast_signed(), hex::encode(digest)])?;
        tx.prepare_cached("INSERT INTO timeline_unsent(entry, incident) VALUES (?1, ?2)")?
            .execute(params![entry.id, id.as_str()])?;
    }
    Ok(())
}

/// Entry, number and digest of the last link.
fn last_link(db: &Connection, id: &IncidentId) -> Result<(i64, u64, [u8; 32]), StoreError> {
    let mut statement = db.prepare_cached(
        "SELECT entry, number, digest FROM timeline_links WHERE incident = ?1 ORDER BY number DESC LIMIT 1",
    )?;
    let last = statement.query_row([id.as_str()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
    let Some((entry, number, digest)): Option<(i64, i64, String)> = last else { return Ok((0, 0, ZERO)) };
    let digest = parse_digest(&digest).ok_or(StoreError::Damaged("timeline digest"))?;
    Ok((entry, number.unsigned_abs(), digest))
}

/// Where a timeline ends: number and digest of its last entry.
pub(crate) fn end(db: &Connection, id: &IncidentId) -> Result<(u64, String), StoreError> {
    let (_, number, digest) = last_link(db, id)?;
    Ok((number, hex::encode(digest)))
}

fn parse_digest(hex_text: &str) -> Option<[u8; 32]> {
    hex::decode(hex_text).ok()?.try_into().ok()
}

fn digest_of(before: &[u8; 32], entry: &TimelineEntry) -> [u8; 32] {
    let (number, at_us) = (entry.number.to_string(), entry.at_us.to_string());
    let mut message = CONTEXT.as_bytes().to_vec();
    message.extend_from_slice(before);
    for field in [entry.incident.as_str(), &number, &at_us, &entry.kind, &entry.text] {
        message.extend_from_slice(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
        message.extend_from_slice(field.as_bytes());
    }
    sha256(&[&message])
}

/// The first thing that is wrong with a whole timeline in order, if something is: a number, or a digest that does not
/// follow from the entry and the one before it. One whose beginning has left starts with the entry that says so, which the
/// log alone can vouch for ([`agree`]).
pub fn fault(entries: &[TimelineEntry]) -> Option<String> {
    let mut before = ZERO;
    let first = entries.first().filter(|entry| entry.kind == LEAVES).map_or(1, |entry| entry.number);
    for (number, entry) in (first..).zip(entries) {
        if entry.number != number {
            return Some(format!("entry {number} is missing, there is {} instead", entry.number));
        }
        if number == first && first > 1 {
            before = parse_digest(&entry.digest)?;
            continue;
        }
        before = digest_of(&before, entry);
        if hex::encode(before) != entry.digest {
            return Some(format!("the digest of entry {number} does not fit to the entry and the one before it"));
        }
    }
    None
}

/// An entry as the log has it: in `requestParameters` of `RecordIncident`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recorded {
    /// From 1 within its incident.
    pub number: u64,
    /// When.
    pub at_micros: Micros,
    /// Its kind.
    pub kind: String,
    /// Its text.
    pub text: String,
    /// Its digest.
    pub digest: String,
}

/// Compares a timeline that links with what the log has of it, in the log's order: up to which entry it has it, or what
/// does not agree. A repeat is no fault. Where entries have left, the log must have the one that says so, if it has any.
pub fn agree(entries: &[TimelineEntry], recorded: &[Recorded]) -> Result<u64, String> {
    let first = entries.first().map_or(1, |entry| entry.number.max(1));
    // What has left here may have left the log before.
    let begins = recorded.first().map_or(1, |told| told.number).min(first);
    let mut through = begins.saturating_sub(1);
    for told in recorded {
        if told.number > through + 1 {
            return Err(format!("the log has entry {} but not {}", told.number, through + 1));
        }
        through = through.max(told.number);
        if told.number < first {
            continue;
        }
        let at = usize::try_from(told.number - first).ok();
        let Some(entry) = at.and_then(|at| entries.get(at)) else {
            return Err(format!("the log has entry {}, and the timeline has not", told.number));
        };
        let same = entry.digest == told.digest
            && (entry.at_us, &entry.kind, &entry.text) == (told.at_micros, &told.kind, &told.text);
        if !same {
            return Err(format!("entry {} is another one in the log", told.number));
        }
    }
    if !recorded.is_empty() && through < first {
        return Err(format!("the log has not entry {first}, before which the timeline has nothing"));
    }
    Ok(if recorded.is_empty() { 0 } else { through })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::Store;

    fn store_with(texts: &[&str]) -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let id = IncidentId::new("I-1");
        store.write_now(|tx| texts.iter().try_for_each(|text| append(tx, &id, 7, "note", text))).unwrap();
        (dir, store)
    }

    fn entries(store: &Store) -> Vec<TimelineEntry> {
        store
            .read_now(|db| {
                let mut statement = db.prepare(&format!("SELECT {COLUMNS} FROM {TABLES} ORDER BY t.id"))?;
                let rows = statement.query_map([], entry)?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .unwrap()
    }

    #[test]
    fn the_digest_has_a_test_vector() {
        let (_dir, store) = store_with(&["a\r\nb"]);
        let mut message = b"keytrail incident entry v1".to_vec();
        message.extend_from_slice(&[0; 32]);
        for field in ["I-1", "1", "7", "note", "ab"] {
            message.extend_from_slice(&u32::try_from(field.len()).unwrap().to_be_bytes());
            message.extend_from_slice(field.as_bytes());
        }
        assert_eq!(entries(&store)[0].digest, hex::encode(sha256(&[&message])));
    }

    #[test]
    fn whatever_is_changed_is_found() {
        let (_dir, store) = store_with(&["one", "two", "three"]);
        let sound = entries(&store);
        assert_eq!(fault(&sound), None);
        let changes: [fn(&mut Vec<TimelineEntry>); 6] = [
            |entries| entries[1].text.push('x'),
            |entries| entries[0].at_us += 1,
            |entries| entries[2].kind = "alert".into(),
            |entries| entries.swap(0, 1),
            |entries| {
                entries.remove(1);
            },
            |entries| entries[2].digest = "00".repeat(32),
        ];
        for (at, change) in changes.iter().enumerate() {
            let mut changed = sound.clone();
            change(&mut changed);
            assert!(fault(&changed).is_some(), "{at}");
        }
    }

    #[test]
    fn the_log_agrees_or_not() {
        let (_dir, store) = store_with(&["one", "two"]);
        let entries = entries(&store);
        let told = |entry: &TimelineEntry| Recorded {
            number: entry.number,
            at_micros: entry.at_us,
            kind: entry.kind.clone(),
            text: entry.text.clone(),
            digest: entry.digest.clone(),
        };
        let [one, two] = [told(&entries[0]), told(&entries[1])];
        assert_eq!(agree(&entries, &[]), Ok(0));
        assert_eq!(agree(&entries, &[one.clone(), one.clone(), two.clone(), one.clone()]), Ok(2));
        assert!(agree(&entries, std::slice::from_ref(&two)).is_err(), "a gap");
        assert!(agree(&entries[..1], &[one.clone(), two]).is_err(), "a timeline that lost its end");
        assert!(agree(&entries, &[Recorded { text: "x".into(), ..one }]).is_err());
    }

    #[test]
    fn entries_of_an_older_version_are_linked_with_the_next_one() {
        let (_dir, store) = store_with(&[]);
        let old = "INSERT INTO timeline(incident, at_us, kind, text) VALUES ('I-1', 1, 'opened', 'old')";
        store.write_now(|tx| Ok(tx.execute(old, [])?)).unwrap();
        assert_eq!(entries(&store)[0].number, 0);
        store.write_now(|tx| append(tx, &IncidentId::new("I-1"), 2, "note", "new")).unwrap();
        let linked = entries(&store);
        assert_eq!((linked[0].number, linked[1].number, fault(&linked)), (1, 2, None));
        for sql in ["UPDATE timeline_links SET digest = ''", "DELETE FROM timeline_links"] {
            assert!(store.write_now(|tx| Ok(tx.execute(sql, [])?)).is_err(), "{sql}");
        }
    }
}
