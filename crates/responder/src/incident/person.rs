//! What people do with an incident: acknowledge, assign, note, close, reopen, merge. Who did it always stands beside it.
//!
//! Marks never change what the responder does: an acknowledged incident still acts and still tells of new actions, a
//! closed one is opened again by what happens later. Every text is cleaned and cut here, whichever door it came through.
//! Each function is one transaction on `responder.db`, whether a responder runs or not.

use super::{IncidentDetail, IncidentId, IncidentSummary, detail, home, settle, tell_more, timeline};
use crate::notify::render::clean;
use crate::notify::tell;
use crate::store::{Micros, Store, StoreError};
use rusqlite::{Transaction, params};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Longest name of a person in characters.
pub(crate) const NAME_CHARS_MAX: usize = 100;
/// Longest text of a note in characters; a timeline entry has room for it and for who wrote it.
pub(crate) const NOTE_CHARS_MAX: usize = 380;

/// Why a person closed an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// An attack, or a mistake as bad as one, and it is over.
    TruePositiveContained,
    /// It happened, and it is harmless.
    Benign,
    /// It did not happen as the alert says.
    FalsePositive,
    /// The owner of the key wanted it.
    AuthorisedByOwner,
    /// Somebody tried whether this works.
    Test,
    /// What we did was taken back with `undo`.
    Undone,
    /// It is part of another incident.
    Merged,
}

impl Resolution {
    /// Those that a person may give.
    pub const GIVEN: [Self; 5] =
        [Self::TruePositiveContained, Self::Benign, Self::FalsePositive, Self::AuthorisedByOwner, Self::Test];

    /// The word in the store and for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TruePositiveContained => "true_positive_contained",
            Self::Benign => "benign",
            Self::FalsePositive => "false_positive",
            Self::AuthorisedByOwner => "authorised_by_owner",
            Self::Test => "test",
            Self::Undone => "undone",
            Self::Merged => "merged",
        }
    }

    /// Reads a word that a person gave.
    pub fn given(text: &str) -> Option<Self> {
        Self::GIVEN.into_iter().find(|reason| reason.as_str() == text)
    }
}

/// What a person asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Somebody looks at it.
    Acknowledge,
    /// This one shall deal with it.
    Assign(String),
    /// A comment.
    Note(String),
    /// It is over.
    Close(Resolution, Option<String>),
    /// It is not.
    Reopen(Option<String>),
    /// It belongs to that one.
    Merge(String),
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum DeedError {
    /// No such incident.
    #[error("there is no incident {0}")]
    NoIncident(String),
    /// It is in a state in which that makes no sense.
    #[error("incident {id} {why}")]
    State {
        /// Which.
        id: String,
        /// What it is.
        why: &'static str,
    },
    /// Who or what is missing.
    #[error("{0} must not be empty")]
    Empty(&'static str),
    /// The store failed.
    #[error("incident cannot be written")]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for DeedError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Does it, in a store of another process or of our own; gives the incident as it is then.
pub fn act(store: &Store, id: &str, by: &str, deed: &Deed, now_us: Micros) -> Result<IncidentDetail, DeedError> {
    // What is refused must not look like a broken file.
    store.write_now(|tx| match act_in(tx, id, by, deed, now_us) {
        Err(DeedError::Store(error)) => Err(error),
        answered => Ok(answered),
    })?
}

/// The same for `DIR/responder.db`.
pub fn act_on(data_dir: &Path, id: &str, by: &str, deed: &Deed, now_us: Micros) -> Result<IncidentDetail, DeedError> {
    act(&Store::open_existing(data_dir)?, id, by, deed, now_us)
}

/// Nothing is written before everything was looked at: a refusal leaves no trace.
pub(crate) fn act_in(
    tx: &Transaction<'_>,
    id: &str,
    by: &str,
    deed: &Deed,
    now_us: Micros,
) -> Result<IncidentDetail, DeedError> {
    let by = clean(by.trim(), NAME_CHARS_MAX);
    if by.is_empty() {
        return Err(DeedError::Empty("who does it"));
    }
    let unknown = || DeedError::NoIncident(clean(id, 40));
    let held = detail(tx, &IncidentId::new(id))?.ok_or_else(unknown)?;
    if held.summary.merged_into.is_some() && !matches!(deed, Deed::Note(_)) {
        return Err(state(&held, "is merged into another one"));
    }
    let id = &held.summary.id;
    match deed {
        Deed::Acknowledge => acknowledge(tx, &held, &by, now_us)?,
        Deed::Assign(name) => {
            let name = text(name, NAME_CHARS_MAX).ok_or(DeedError::Empty("the assignee"))?;
            tx.execute(
                "UPDATE incidents SET assignee = ?2, changed_us = ?3 WHERE id = ?1",
                params![id.as_str(), name, now_us],
            )?;
            timeline::note(tx, id, now_us, "person", &format!("assigned to {name} by {by}"))?;
        }
        Deed::Note(words) => {
            let words = text(words, NOTE_CHARS_MAX).ok_or(DeedError::Empty("the note"))?;
            timeline::note(tx, id, now_us, "person", &format!("{by}: {words}"))?;
        }
        Deed::Close(reason, words) => {
            if held.summary.resolved_us.is_some() {
                return Err(state(&held, "is resolved already"));
            }
            let words = words.as_deref().and_then(|words| text(words, NOTE_CHARS_MAX));
            resolve(tx, id, *reason, &by, words.as_deref(), now_us)?;
        }
        Deed::Reopen(words) => {
            if held.summary.resolved_us.is_none() {
                return Err(state(&held, "is not resolved"));
            }
            let words = words.as_deref().and_then(|words| text(words, NOTE_CHARS_MAX));
            let why = words.map_or_else(|| format!("by {by}"), |words| format!("by {by}: {words}"));
            reopen(tx, id, &why, now_us)?;
            settle(tx, id, now_us)?;
            tell_more(tx, id, now_us)?;
        }
        Deed::Merge(into) => {
            let into = detail(tx, &IncidentId::new(into))?.ok_or_else(|| DeedError::NoIncident(clean(into, 40)))?;
            if into.summary.id == *id {
                return Err(state(&held, "cannot be merged into itself"));
            }
            if into.summary.resolved_us.is_some() {
                return Err(state(&into, "is resolved: reopen it first"));
            }
            super::merge::merge(tx, &held, &into.summary.id, &by, now_us)?;
        }
    }
    detail(tx, &home(tx, id)?)?.ok_or_else(unknown)
}

fn state(held: &IncidentDetail, why: &'static str) -> DeedError {
    DeedError::State { id: held.summary.id.to_string(), why }
}

fn text(words: &str, chars_max: usize) -> Option<String> {
    Some(clean(words, chars_max).trim().to_owned()).filter(|words| !words.is_empty())
}

/// Twice says it once, unless something was done in between.
fn acknowledge(tx: &Transaction<'_>, held: &IncidentDetail, by: &str, now_us: Micros) -> Result<(), DeedError> {
    let summary = &held.summary;
    if summary.resolved_us.is_some() {
        return Err(state(held, "is resolved already"));
    }
    if held.is_acknowledged() && summary.acknowledged_by.as_deref() == Some(by) {
        return Ok(());
    }
    tx.execute(
        "UPDATE incidents SET acknowledged_by = ?2, acknowledged_us = ?3, changed_us = ?3,
           first_acknowledged_us = coalesce(first_acknowledged_us, ?3) WHERE id = ?1",
        params![summary.id.as_str(), by, now_us],
    )?;
    timeline::note(tx, &summary.id, now_us, "person", &format!("acknowledged by {by}"))?;
    settle(tx, &summary.id, now_us)?;
    tell::answered(tx, &summary.id)?;
    // Those who were told of it know that somebody has it; a pager stops.
    Ok(tell_more(tx, &summary.id, now_us)?)
}

/// An incident that became worse is nobody's again: an acknowledgement was of what was known then.
pub(crate) fn take_back_acknowledgement(
    tx: &Transaction<'_>,
    worse: &IncidentSummary,
    now_us: Micros,
) -> Result<(), StoreError> {
    let Some(by) = &worse.acknowledged_by else { return Ok(()) };
    tx.execute(
        "UPDATE incidents SET acknowledged_us = NULL, acknowledged_by = NULL, changed_us = ?2 WHERE id = ?1",
        params![worse.id.as_str(), now_us],
    )?;
    tell::answered(tx, &worse.id)?;
    let text = format!("it is {} now: what {by} acknowledged was less", worse.severity.as_str());
    timeline::note(tx, &worse.id, now_us, "state", &text)
}

/// Closes it, unless it is closed.
pub(crate) fn resolve(
    tx: &Transaction<'_>,
    id: &IncidentId,
    reason: Resolution,
    by: &str,
    words: Option<&str>,
    now_us: Micros,
) -> Result<(), StoreError> {
    let changed = tx.execute(
        "UPDATE incidents SET resolved_us = ?2, resolved_by = ?3, resolution = ?4, check_us = NULL, changed_us = ?2
         WHERE id = ?1 AND resolved_us IS NULL",
        params![id.as_str(), now_us, by, reason.as_str()],
    )?;
    if changed == 0 {
        return Ok(());
    }
    let words = words.map_or_else(String::new, |words| format!(": {words}"));
    timeline::append(tx, id, now_us, "person", &format!("closed as {} by {by}{words}", reason.as_str()))?;
    settle(tx, id, now_us)
}

/// Opens it again; `why` says by whom or by what. The assignee stays, an acknowledgement was of what was known then.
pub(super) fn reopen(tx: &Transaction<'_>, id: &IncidentId, why: &str, now_us: Micros) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE incidents SET resolved_us = NULL, resolved_by = NULL, resolution = NULL, reopened_us = ?2,
           reopenings = reopenings + 1, acknowledged_us = NULL, acknowledged_by = NULL, contained_us = NULL,
           not_contained = NULL, changed_us = ?2
         WHERE id = ?1",
        params![id.as_str(), now_us],
    )?;
    tell::answered(tx, id)?;
    timeline::append(tx, id, now_us, "person", &format!("reopened {why}"))
}
