//! The statement of a pack: what was asked, what the log shows, and what it cannot show, for people.
//!
//! The first page is the summary that someone reads who is no engineer; everything after it is detail. `Facts` are what
//! the exporter knows; what the pack's tables know is looked up there, so that the statement cannot say other than the pack.

mod detail;
mod seen;
mod summary;
mod words;

use super::control::Period;
use super::controls::{ControlResult, RunControlError};
use super::document::{Block, Document};
use datafusion::prelude::SessionContext;
use seen::Seen;
use std::collections::BTreeMap;
use words::{day, set_name};

/// What the exporter knows of a pack.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Program and version.
    pub tool: String,
    /// When, RFC 3339.
    pub created_at: String,
    /// Who.
    pub exported_by: String,
    /// The period.
    pub period: Period,
    /// The control set, if controls were run.
    pub control_set: Option<String>,
    /// Condition and reason of records that the exporter withheld.
    pub redaction: Option<(String, String)>,
    /// The logs.
    pub logs: Vec<LogFacts>,
    /// What the controls came to.
    pub results: Vec<ControlResult>,
    /// What else a reader has to know: what is left out, what could not be made.
    pub remarks: Vec<String>,
}

/// A log of a pack.
#[derive(Clone, Debug)]
pub struct LogFacts {
    /// Origin.
    pub origin: String,
    /// First seq in the pack.
    pub first: u64,
    /// Last seq in the pack.
    pub last: u64,
    /// Leaf time of the first record, Unix microseconds.
    pub time_first: u64,
    /// Leaf time of the last record, Unix microseconds.
    pub time_last: u64,
    /// Size of the checkpoint.
    pub size: u64,
    /// Root of the checkpoint, hex.
    pub root: String,
    /// Kind to number of records.
    pub counts: BTreeMap<u8, u64>,
    /// Records withheld from the pack.
    pub withheld: u64,
    /// Records erased from the log.
    pub erased: u64,
    /// Who cosigned the checkpoint, and when as Unix seconds where the signature says so.
    pub cosigned: Vec<(String, Option<u64>)>,
}

/// Makes the statement from the facts and the pack's tables.
pub async fn render(session: &SessionContext, facts: &Facts) -> Result<Document, RunControlError> {
    let seen = Seen::look(session, &facts.period).await?;
    let mut blocks = summary::page(facts, &seen);
    blocks.push(Block::NewPage);
    blocks.extend(detail::scope(facts, &seen));
    blocks.extend(detail::controls(facts));
    blocks.extend(detail::destruction(&seen));
    blocks.extend(detail::alerts(&seen));
    blocks.extend(detail::inventory(&seen));
    blocks.extend(detail::limits_of_proof(facts));
    let set = facts.control_set.as_deref().map_or_else(|| "no control set".to_owned(), set_name);
    Ok(Document {
        title: "Statement of evidence".to_owned(),
        subtitle: format!(
            "Key management audit log, {} to {} UTC; {set}",
            day(&facts.period.start()),
            day(&facts.period.end())
        ),
        footer: format!("Made {} by {} with {}", facts.created_at, facts.exported_by, facts.tool),
        blocks,
    })
}
