//! How the responder stands: paused or not, breaker tripped or not, playbooks promoted or demoted, and by whom.
//!
//! Each decision is an entry that is never changed and never goes; how things stand follows from the last one. Entries are
//! told to the key service's log (`report`), where nobody with `responder.db` can take them back. Written by the running
//! responder (a trip, another set of playbooks) and by commands (`keytrail responder`, `keytrail playbook promote`).

use crate::incident::{self, IncidentId};
use crate::notify::queue;
use crate::playbook::{Mode, Playbook};
use crate::store::{Micros, StoreError};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde::Serialize;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Subject of what concerns the whole responder.
pub const EVERYTHING: &str = "*";
/// Longest text that somebody gives.
pub const TEXT_BYTES_MAX: usize = 256;
/// A breaker trips on what was done in the hour before.
const TRIP_LOOKS_BACK_US: Micros = 3_600_000_000;
/// The KMS's bound on whom a request for approval may be about.
const SUSPECTS_MAX: u32 = 64;
/// Open incidents that are told of a pause; there are few of them, or nobody reads their timelines.
const INCIDENTS_MAX: u32 = 200;

/// What an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Nothing is carried out from now on.
    Pause,
    /// It is again.
    Resume,
    /// The circuit breaker stopped what takes something away.
    Trip,
    /// Somebody wants it to go on; two people must agree.
    ResetWanted,
    /// They did.
    Reset,
    /// A playbook's mode was set.
    Promote,
    /// Another set of playbooks was loaded.
    Playbooks,
}

impl Kind {
    const ALL: [Self; 7] =
        [Self::Pause, Self::Resume, Self::Trip, Self::ResetWanted, Self::Reset, Self::Promote, Self::Playbooks];

    /// The word in the store and in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Trip => "trip",
            Self::ResetWanted => "reset_wanted",
            Self::Reset => "reset",
            Self::Promote => "promote",
            Self::Playbooks => "playbooks",
        }
    }
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Order of deciding.
    pub id: i64,
    /// When.
    pub at_us: Micros,
    /// What.
    pub kind: Kind,
    /// A playbook, or [`EVERYTHING`].
    pub subject: String,
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
    /// The mode of a promotion, the hashes of playbooks as JSON, the newest action at a reset.
    pub detail: String,
    /// Index of its record in the log, once it is there.
    pub log_seq: Option<i64>,
}

/// Why a decision is not taken.
#[derive(Debug, thiserror::Error)]
pub enum StandingError {
    /// The store failed.
    #[error("responder store failed")]
    Store(#[from] StoreError),
    /// Nothing would change.
    #[error("{0}")]
    Nothing(String),
    /// A name or reason is missing or too long.
    #[error("{0} must have between 1 and {TEXT_BYTES_MAX} bytes without control characters")]
    Text(&'static str),
}

/// How things stand now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// Since when and why nothing is carried out.
    pub paused: Option<Entry>,
    /// Of the whole responder ([`EVERYTHING`]) and of playbooks.
    pub tripped: Vec<Entry>,
    /// Playbooks whose mode somebody set.
    pub promoted: Vec<Entry>,
    /// The set of playbooks that was loaded last.
    pub playbooks: Option<Entry>,
    /// Entries that the log does not know yet.
    pub unreported: u64,
}

/// Reads how things stand.
pub fn now(db: &Connection) -> Result<Standing, StoreError> {
    let last = lasts(db)?;
    let of = |kinds: &[Kind], live: Kind| {
        let mut newest: BTreeMap<&str, &Entry> = BTreeMap::new();
        for entry in last.iter().filter(|entry| kinds.contains(&entry.kind)) {
            newest.insert(&entry.subject, entry);
        }
        newest.into_values().filter(|entry| entry.kind == live).cloned().collect::<Vec<Entry>>()
    };
    let unreported: i64 = db.query_row("SELECT count(*) FROM standing WHERE log_seq IS NULL", [], |row| row.get(0))?;
    Ok(Standing {
        paused: of(&[Kind::Pause, Kind::Resume], Kind::Pause).pop(),
        tripped: of(&[Kind::Trip, Kind::Reset], Kind::Trip),
        promoted: of(&[Kind::Promote], Kind::Promote),
        playbooks: of(&[Kind::Playbooks], Kind::Playbooks).pop(),
        unreported: unreported.unsigned_abs(),
    })
}

/// Notes how far this responder may go, for commands that tell.
pub(crate) fn note_mode(tx: &Transaction<'_>, enforce: bool) -> Result<(), StoreError> {
    let mode = if enforce { Mode::Enforce } else { Mode::Observe };
    tx.execute(
        "INSERT INTO meta(key, value) VALUES ('mode', ?1) ON CONFLICT(key) DO UPDATE SET value = ?1",
        [mode.to_string()],
    )?;
    Ok(())
}

/// How far the responder that was started last may go.
pub fn mode(db: &Connection) -> Result<Option<Mode>, StoreError> {
    let text: Option<String> =
        db.query_row("SELECT value FROM meta WHERE key = 'mode'", [], |row| row.get(0)).optional()?;
    Ok(text.as_deref().and_then(Mode::read))
}

/// Whether actions wait.
pub fn is_paused(db: &Connection) -> Result<bool, StoreError> {
    Ok(last(db, &[Kind::Pause, Kind::Resume], EVERYTHING)?.is_some_and(|entry| entry.kind == Kind::Pause))
}

/// The trip that is in force, if one is.
pub fn tripped(db: &Connection, subject: &str) -> Result<Option<Entry>, StoreError> {
    Ok(last(db, &[Kind::Trip, Kind::Reset], subject)?.filter(|entry| entry.kind == Kind::Trip))
}

/// The newest action when the breaker was last reset: it counts those after. By order, not by time, which may jump.
pub fn reset_row(db: &Connection, subject: &str) -> Result<i64, StoreError> {
    let Some(entry) = last(db, &[Kind::Reset], subject)? else { return Ok(0) };
    entry.detail.parse().map_err(|_| StoreError::Damaged("reset"))
}

/// The playbooks with what people decided of them; a file's mode is never exceeded.
pub fn effective<'p>(db: &Connection, playbooks: &'p [Playbook]) -> Result<Cow<'p, [Playbook]>, StoreError> {
    let promoted = promoted(db)?;
    if promoted.is_empty() {
        return Ok(Cow::Borrowed(playbooks));
    }
    let mut lowered = playbooks.to_vec();
    for playbook in &mut lowered {
        if let Some(mode) = promoted.get(&playbook.id) {
            playbook.mode = playbook.mode.min(*mode);
        }
    }
    Ok(Cow::Owned(lowered))
}

/// The modes that people set.
pub fn promoted(db: &Connection) -> Result<BTreeMap<String, Mode>, StoreError> {
    let mut modes = BTreeMap::new();
    for entry in lasts(db)?.into_iter().filter(|entry| entry.kind == Kind::Promote) {
        let mode = Mode::read(&entry.detail).ok_or(StoreError::Damaged("promotion"))?;
        modes.insert(entry.subject, mode);
    }
    Ok(modes)
}

/// Nothing is carried out from now on, but for undos.
pub fn pause(tx: &Transaction<'_>, by: &str, reason: &str, now_us: Micros) -> Result<(), StandingError> {
    if is_paused(tx)? {
        return Err(StandingError::Nothing("the responder is paused already".into()));
    }
    let entry = enter(tx, Kind::Pause, EVERYTHING, (by, reason, ""), now_us)?;
    let text = format!("The responder is paused by {by}: {reason}. It plans and records, and carries out nothing.");
    tell(tx, "responder-paused", entry, &text, now_us)?;
    Ok(())
}

/// What waited is carried out, each after another look at its target.
pub fn resume(tx: &Transaction<'_>, by: &str, reason: &str, now_us: Micros) -> Result<(), StandingError> {
    if !is_paused(tx)? {
        return Err(StandingError::Nothing("the responder is not paused".into()));
    }
    let entry = enter(tx, Kind::Resume, EVERYTHING, (by, reason, ""), now_us)?;
    tell(tx, "responder-resumed", entry, &format!("The responder goes on, by {by}: {reason}."), now_us)?;
    Ok(())
}

/// Trips the breaker of a playbook or of everything; false when it is tripped already.
pub fn trip(tx: &Transaction<'_>, subject: &str, reason: &str, now_us: Micros) -> Result<bool, StoreError> {
    if tripped(tx, subject)?.is_some() {
        return Ok(false);
    }
    let entry = insert(tx, Kind::Trip, subject, ("keytrail/responder", reason, ""), now_us)?;
    let whose = if subject == EVERYTHING { "The responder".to_owned() } else { format!("Playbook {subject}") };
    let text = format!(
        "{whose} tripped its circuit breaker: {reason}. What would take something away is only recorded now, until \
         somebody runs `keytrail responder reset` and two people agree."
    );
    queue::page_entry(tx, "responder-tripped", entry, &text, now_us)?;
    Ok(true)
}

/// Somebody wants the breaker to work again, which two people must agree to (`crate::reset`); the entry's id.
pub(crate) fn want_reset(tx: &Transaction<'_>, subject: &str, by: &str, now_us: Micros) -> Result<i64, StandingError> {
    enter(tx, Kind::ResetWanted, subject, (by, "wants the circuit breaker reset", ""), now_us)
}

/// Whom the actions before and since a trip are about, newest first: none of them decides that it is over.
pub(crate) fn held_back(db: &Connection, trip: &Entry) -> Result<Vec<String>, StoreError> {
    let mut statement = db.prepare(
        "SELECT p.principal FROM actions a JOIN incident_principals p ON p.incident = a.incident
         WHERE a.planned_us > ?1 AND (?2 = ?3 OR a.playbook = ?2) GROUP BY p.principal ORDER BY max(a.row) DESC LIMIT ?4",
    )?;
    let from = trip.at_us.saturating_sub(TRIP_LOOKS_BACK_US);
    let rows = statement.query_map(params![from, trip.subject, EVERYTHING, SUSPECTS_MAX], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Two people, as the KMS knows them, let the breaker work again: it counts from now on.
pub(crate) fn reset_by(
    tx: &Transaction<'_>,
    subject: &str,
    approved: [&str; 2],
    now_us: Micros,
) -> Result<(), StandingError> {
    let [first, second] = approved;
    if first == second {
        return Err(StandingError::Nothing("a reset needs two persons".into()));
    }
    let by = format!("{first} and {second}");
    let newest: i64 =
        tx.query_row("SELECT coalesce(max(row), 0) FROM actions", [], |row| row.get(0)).map_err(StoreError::from)?;
    // Not `enter`: two ARNs are longer than what somebody may give as a name.
    let entry = insert(tx, Kind::Reset, subject, (&by, "circuit breaker reset", &newest.to_string()), now_us)?;
    tell(tx, "responder-reset", entry, &format!("The circuit breaker of {subject} was reset by {by}."), now_us)?;
    Ok(())
}

/// Sets a playbook's mode. `report` says what it would have done, in a few words.
pub fn promote(
    tx: &Transaction<'_>,
    playbook: &str,
    mode: Mode,
    by: &str,
    report: &str,
    now_us: Micros,
) -> Result<(), StandingError> {
    enter(tx, Kind::Promote, playbook, (by, report, &mode.to_string()), now_us)?;
    Ok(())
}

/// Notes which playbooks are loaded; false when these very files were loaded before.
pub fn note_playbooks(
    tx: &Transaction<'_>,
    hashes: &BTreeMap<String, String>,
    now_us: Micros,
) -> Result<bool, StoreError> {
    let detail = serde_json::to_string(hashes).map_err(|_| StoreError::Damaged("hash"))?;
    if last(tx, &[Kind::Playbooks], EVERYTHING)?.is_some_and(|entry| entry.detail == detail) {
        return Ok(false);
    }
    insert(tx, Kind::Playbooks, EVERYTHING, ("keytrail/responder", "loaded", &detail), now_us)?;
    Ok(true)
}

/// What the log does not know yet, oldest first.
pub fn unreported(db: &Connection, entries_max: u32) -> Result<Vec<Entry>, StoreError> {
    let mut statement =
        db.prepare_cached(&format!("SELECT {COLUMNS} FROM standing WHERE log_seq IS NULL ORDER BY id LIMIT ?1"))?;
    let rows = statement.query_map([entries_max], |row| Ok(entry(row)))?;
    rows.map(|row| row?).collect()
}

/// It is in the log.
pub fn reported(tx: &Transaction<'_>, id: i64, log_seq: i64) -> Result<(), StoreError> {
    tx.execute("UPDATE standing SET log_seq = ?2 WHERE id = ?1 AND log_seq IS NULL", [id, log_seq])?;
    Ok(())
}

fn enter(
    tx: &Transaction<'_>,
    kind: Kind,
    subject: &str,
    (by, reason, detail): (&str, &str, &str),
    now_us: Micros,
) -> Result<i64, StandingError> {
    for (name, text) in [("the name", by), ("the reason", reason)] {
        if text.trim().is_empty() || text.len() > TEXT_BYTES_MAX || text.chars().any(char::is_control) {
            return Err(StandingError::Text(name));
        }
    }
    Ok(insert(tx, kind, subject, (by, reason, detail), now_us)?)
}

/// The entry's id.
fn insert(
    tx: &Transaction<'_>,
    kind: Kind,
    subject: &str,
    (by, reason, detail): (&str, &str, &str),
    now_us: Micros,
) -> Result<i64, StoreError> {
    tx.execute(
        "INSERT INTO standing(at_us, kind, subject, by_whom, reason, detail) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![now_us, kind.as_str(), subject, by, reason, detail],
    )?;
    Ok(tx.last_insert_rowid())
}

/// A page, and a line in each open incident: it says why nothing happens there.
fn tell(tx: &Transaction<'_>, kind: &str, entry: i64, text: &str, now_us: Micros) -> Result<(), StoreError> {
    queue::page_entry(tx, kind, entry, text, now_us)?;
    let mut open =
        tx.prepare_cached("SELECT id FROM incidents WHERE state <> 'resolved' ORDER BY opened_us DESC LIMIT ?1")?;
    let ids = open.query_map([INCIDENTS_MAX], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    for id in ids {
        incident::note(tx, &IncidentId::new(&id), now_us, "responder", text)?;
    }
    Ok(())
}

fn last(db: &Connection, kinds: &[Kind], subject: &str) -> Result<Option<Entry>, StoreError> {
    let names: Vec<String> = kinds.iter().map(|kind| format!("'{}'", kind.as_str())).collect();
    let mut statement = db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM standing WHERE subject = ?1 AND kind IN ({}) ORDER BY id DESC LIMIT 1",
        names.join(", ")
    ))?;
    statement.query_row([subject], |row| Ok(entry(row))).optional()?.transpose()
}

/// The last entry of each kind and subject, in order.
fn lasts(db: &Connection) -> Result<Vec<Entry>, StoreError> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM standing WHERE id IN (SELECT max(id) FROM standing GROUP BY kind, subject) ORDER BY id"
    ))?;
    let rows = statement.query_map([], |row| Ok(entry(row)))?;
    rows.map(|row| row?).collect()
}

const COLUMNS: &str = "id, at_us, kind, subject, by_whom, reason, detail, log_seq";

fn entry(row: &Row<'_>) -> Result<Entry, StoreError> {
    let kind: String = row.get(2)?;
    Ok(Entry {
        id: row.get(0)?,
        at_us: row.get(1)?,
        kind: Kind::ALL.into_iter().find(|known| known.as_str() == kind).ok_or(StoreError::Damaged("standing"))?,
        subject: row.get(3)?,
        by: row.get(4)?,
        reason: row.get(5)?,
        detail: row.get(6)?,
        log_seq: row.get(7)?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::Store;
    use crate::testing::shipped_playbooks;

    fn with<T>(change: impl FnOnce(&Transaction<'_>) -> T) -> T {
        let dir = tempfile::tempdir().unwrap();
        Store::open(dir.path()).unwrap().write_now(|tx| Ok(change(tx))).unwrap()
    }

    #[test]
    fn a_pause_lasts_until_it_is_taken_back() {
        with(|tx| {
            assert!(!is_paused(tx).unwrap());
            assert!(resume(tx, "ann", "no reason", 1).is_err());
            pause(tx, "ann", "migration", 1).unwrap();
            assert!(is_paused(tx).unwrap());
            assert!(pause(tx, "bob", "again", 2).is_err());
            assert_eq!(now(tx).unwrap().paused.unwrap().by, "ann");
            resume(tx, "bob", "done", 3).unwrap();
            assert!(!is_paused(tx).unwrap() && now(tx).unwrap().paused.is_none());
            for (by, reason) in [("", "x"), ("ann", " "), ("ann", "two\nlines"), ("ann", &"x".repeat(257))] {
                assert!(matches!(pause(tx, by, reason, 4), Err(StandingError::Text(_))), "{by:?} {reason:?}");
            }
        });
    }

    #[test]
    fn a_breaker_trips_once_and_is_reset_by_two() {
        with(|tx| {
            assert!(trip(tx, EVERYTHING, "3 keys", 1).unwrap());
            assert!(!trip(tx, EVERYTHING, "4 keys", 2).unwrap());
            assert!(reset_by(tx, EVERYTHING, ["ann", "ann"], 3).is_err());
            assert!(tripped(tx, EVERYTHING).unwrap().is_some());
            // As long as ARNs of sessions are.
            let (first, second) = ("a".repeat(300), "b".repeat(300));
            reset_by(tx, EVERYTHING, [&first, &second], 4).unwrap();
            assert!(tripped(tx, EVERYTHING).unwrap().is_none());
            assert_eq!(reset_row(tx, EVERYTHING).unwrap(), 0, "there are no actions");
            assert!(trip(tx, EVERYTHING, "again", 5).unwrap());
            assert!(tripped(tx, "some-playbook").unwrap().is_none());
        });
    }

    #[test]
    fn the_lower_of_file_and_promotion_holds() {
        with(|tx| {
            let mut playbooks = shipped_playbooks();
            playbooks.retain(|playbook| playbook.mode == Mode::Enforce);
            playbooks.truncate(3);
            playbooks[1].mode = Mode::Observe;
            let modes = |tx: &Transaction<'_>| -> Vec<Mode> {
                effective(tx, &playbooks).unwrap().iter().map(|playbook| playbook.mode).collect()
            };
            assert_eq!(modes(tx), [Mode::Enforce, Mode::Observe, Mode::Enforce]);
            let (first, second) = (playbooks[0].id.clone(), playbooks[1].id.clone());
            promote(tx, &first, Mode::Observe, "ann", "held back", 1).unwrap();
            promote(tx, &second, Mode::Enforce, "ann", "nothing in 30 days", 2).unwrap();
            assert_eq!(modes(tx), [Mode::Observe, Mode::Observe, Mode::Enforce]);
            promote(tx, &first, Mode::Enforce, "ann", "nothing in 30 days", 3).unwrap();
            assert_eq!(modes(tx), [Mode::Enforce, Mode::Observe, Mode::Enforce]);
        });
    }

    #[test]
    fn entries_stay_and_are_reported_once() {
        with(|tx| {
            let hashes = BTreeMap::from([("p".to_owned(), "ab".to_owned())]);
            assert!(note_playbooks(tx, &hashes, 1).unwrap());
            assert!(!note_playbooks(tx, &hashes, 2).unwrap(), "the same files");
            pause(tx, "ann", "migration", 3).unwrap();
            let waiting = unreported(tx, 10).unwrap();
            assert_eq!(waiting.iter().map(|entry| entry.kind).collect::<Vec<_>>(), [Kind::Playbooks, Kind::Pause]);
            reported(tx, waiting[0].id, 77).unwrap();
            reported(tx, waiting[0].id, 78).unwrap();
            assert_eq!(now(tx).unwrap().playbooks.unwrap().log_seq, Some(77));
            assert_eq!(now(tx).unwrap().unreported, 1);
            for sql in
                ["UPDATE standing SET by_whom = 'bob'", "DELETE FROM standing", "UPDATE standing SET kind = 'resume'"]
            {
                assert!(tx.execute(sql, []).is_err(), "{sql}");
            }
        });
    }
}
