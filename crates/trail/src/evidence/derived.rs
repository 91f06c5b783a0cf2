//! What follows from the records of a pack: state as of the period's end, controls with their results, and the statement.
//!
//! Written last, from the files that stand in the pack by then, so that `rerun` finds the same. A PDF is made by the program
//! `typst`, where there is one: a compiler of documents with its fonts and an interpreter does not belong into a key
//! service (docs/decisions/0032-statement-and-controls.md).

use super::control::{Control, ControlError, Period};
use super::controls::{self, ControlResult, Outcome, Results, RunControlError, Scope, engine, limits};
use super::export::{Request, write as write_file};
use super::manifest::LogEntry;
use super::state::{self, StateError};
use super::statement::{self, Facts, LogFacts};
use super::tables::{self, TablesError};
use super::{IoError, bag, io, rfc3339};
use crate::lake::Snapshot;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use datafusion::prelude::SessionContext;
use keytrail_kms::chain::LogId;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The statement as PDF.
pub(super) const PDF: &str = "statement.pdf";
/// Its source.
const TYPST: &str = "statement.typ";

/// Longest run of the typst program, and how often it is looked at.
const TYPST_WAIT: Duration = Duration::from_mins(2);
const TYPST_PAUSE: Duration = Duration::from_millis(20);

/// Length of a witness's signature in a note: key hash, time, Ed25519.
const COSIGNATURE_BYTES: usize = 4 + 8 + 64;

/// Why these parts were not made.
#[derive(Debug, thiserror::Error)]
pub enum DerivedError {
    /// A file.
    #[error(transparent)]
    Io(#[from] IoError),
    /// State.
    #[error("state of the pack")]
    State(#[from] StateError),
    /// The pack's tables.
    #[error("tables of the pack")]
    Tables(#[from] TablesError),
    /// Control files.
    #[error("controls")]
    Control(#[from] ControlError),
    /// Controls or the statement's own questions.
    #[error("controls")]
    Run(#[from] RunControlError),
    /// JSON.
    #[error("results of the controls cannot be encoded")]
    Encode(#[from] serde_json::Error),
    /// A time beyond what can be written.
    #[error("period is out of range")]
    Period,
}

/// Writes all of it below `root`. Waits for queries: for a blocking thread of a runtime.
pub(super) fn write(
    root: &Path,
    snapshot: &Arc<Snapshot>,
    request: &Request,
    logs: &[LogEntry],
) -> Result<(), DerivedError> {
    let micros = |us: u64| i64::try_from(us).map_err(|_| DerivedError::Period);
    let period = Period { from_us: micros(request.from_us)?, to_us: micros(request.to_us)? };
    let document = tokio::runtime::Handle::current().block_on(async {
        write_state(root, snapshot, request, logs, &period).await?;
        let session = tables::session(root, &limits())?;
        let results = write_controls(root, &session, request, period).await?;
        let facts = facts(root, request, logs, period, &results)?;
        Ok::<_, DerivedError>(statement::render(&session, &facts).await?)
    })?;
    write_file(root, "statement.html", document.html().as_bytes())?;
    write_file(root, TYPST, document.typst().as_bytes())?;
    make_pdf(root)
}

async fn write_state(
    root: &Path,
    snapshot: &Arc<Snapshot>,
    request: &Request,
    logs: &[LogEntry],
    period: &Period,
) -> Result<(), DerivedError> {
    let folder = root.join("state");
    fs::create_dir(&folder).map_err(io("create", &folder))?;
    let last: BTreeMap<LogId, u64> = logs.iter().map(|log| (LogId::of_origin(&log.origin), log.last)).collect();
    let withheld = request.redaction.as_ref().map(|redaction| redaction.condition.as_str());
    // Policies and grants of withheld events would show through.
    let mut access = if withheld.is_some() { Vec::new() } else { request.access.clone() };
    Ok(state::write(snapshot, &state::Cut { last: &last, period, withheld }, &mut access, &folder).await?)
}

async fn write_controls(
    root: &Path,
    session: &SessionContext,
    request: &Request,
    period: Period,
) -> Result<Vec<ControlResult>, DerivedError> {
    let Some(set) = &request.control_set else { return Ok(Vec::new()) };
    let all = Control::of_set(set, &request.site, &period)?;
    let scope = Scope { period, redacted: request.redaction.is_some() };
    let outcomes = controls::run(session, all, &scope).await?;
    for Outcome { control, csv, result } in &outcomes {
        write_file(root, &format!("controls/{}.sql", result.id), control.to_text().as_bytes())?;
        write_file(root, &format!("controls/{}.csv", result.id), csv)?;
    }
    let results: Vec<ControlResult> = outcomes.into_iter().map(|outcome| outcome.result).collect();
    let results = Results {
        version: 1,
        control_set: set.clone(),
        from: period.start(),
        to: period.end(),
        engine: engine(),
        inputs: inputs(root)?,
        results,
    };
    write_file(root, "controls/results.json", &serde_json::to_vec_pretty(&results)?)?;
    Ok(results.results)
}

/// Hashes of the files that controls read.
fn inputs(root: &Path) -> Result<BTreeMap<String, String>, DerivedError> {
    let mut names = tables::parquet_files(root)?;
    names.extend(tables::STATE_TABLES.map(|table| format!("state/{table}.parquet")));
    names.extend(["alerts/alerts.jsonl", "alerts/incidents.jsonl"].map(str::to_owned));
    let hash = |name: String| Ok((name.clone(), bag::entry(&root.join(&name))?.sha256));
    names.into_iter().map(hash).collect()
}

fn facts(
    root: &Path,
    request: &Request,
    logs: &[LogEntry],
    period: Period,
    results: &[ControlResult],
) -> Result<Facts, DerivedError> {
    let log = |log: &LogEntry| {
        let path = root.join(format!("logs/{}/checkpoint", log.log));
        let note = fs::read_to_string(&path).map_err(io("read", &path))?;
        let counts = log.counts.iter().filter_map(|(kind, count)| Some((kind.parse().ok()?, *count)));
        Ok::<_, DerivedError>(LogFacts {
            origin: log.origin.clone(),
            first: log.first,
            last: log.last,
            time_first: log.time_first,
            time_last: log.time_last,
            size: log.size,
            root: log.root.clone(),
            counts: counts.collect(),
            withheld: log.withheld,
            erased: log.erased,
            cosigned: cosigned(&note, &log.origin),
        })
    };
    let mut remarks = request.remarks.clone();
    remarks.push(request.unrecorded.as_ref().map_or_else(
        || "This export is itself an event of the log (ExportEvidence), behind the end of the range.".to_owned(),
        |why| format!("This export is NOT recorded in the log: {why}."),
    ));
    for log in logs.iter().filter(|log| log.digests.is_empty()) {
        remarks.push(format!(
            "{}: the range holds no event, so there are no CloudTrail files and no digests of it; that it is empty is shown by the leaves.",
            log.origin
        ));
    }
    if request.previous.is_some() {
        remarks.push("Each log is proved to continue what the earlier pack holds of it (logs/*/previous).".to_owned());
    }
    if request.redaction.is_some() {
        remarks.push("Keys, grants and policies at the end of the period were computed without the withheld records, and access to keys is left out.".to_owned());
    }
    Ok(Facts {
        tool: request.tool.clone(),
        created_at: rfc3339(request.now_us),
        exported_by: request.exported_by.clone(),
        period,
        control_set: request.control_set.clone(),
        redaction: request.redaction.as_ref().map(|one| (one.condition.clone(), one.reason.clone())),
        logs: logs.iter().map(log).collect::<Result<_, _>>()?,
        results: results.to_vec(),
        remarks,
    })
}

/// Who cosigned a note, and when, as its lines say: the statement tells it, verifiers check it.
fn cosigned(note: &str, origin: &str) -> Vec<(String, Option<u64>)> {
    let signatures = note.split_once("\n\n").map_or("", |(_, lines)| lines);
    let lines = signatures.lines().filter_map(|line| line.strip_prefix("\u{2014} ")?.split_once(' '));
    lines
        .filter(|(name, _)| *name != origin)
        .filter_map(|(name, signature)| {
            let bytes = BASE64.decode(signature).ok().filter(|bytes| bytes.len() == COSIGNATURE_BYTES)?;
            let time = bytes.get(4..12)?.try_into().ok().map(u64::from_be_bytes);
            Some((name.to_owned(), time))
        })
        .collect()
}

/// Makes the PDF, if the program is there. A PDF that was not made is said by the command and in `manifest.json`, which then
/// does not name it; the page and the source are there in any case.
fn make_pdf(root: &Path) -> Result<(), DerivedError> {
    let mut command = Command::new("typst");
    command.arg("compile").arg("--root").arg(root).arg(root.join(TYPST)).arg(root.join(PDF));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = command.spawn() else { return Ok(()) };
    let started = Instant::now();
    let done = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status.success(),
            Ok(None) if started.elapsed() < TYPST_WAIT => std::thread::sleep(TYPST_PAUSE),
            Ok(None) | Err(_) => break false,
        }
    };
    if !done {
        // It may have ended by itself; half a PDF must not stay.
        let _ = child.kill();
        let _ = child.wait();
        let pdf = root.join(PDF);
        if pdf.exists() {
            fs::remove_file(&pdf).map_err(io("remove", &pdf))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosignatures_are_told_from_the_logs_own_line() {
        let mut line = vec![1, 2, 3, 4];
        line.extend(1_800_000_000_u64.to_be_bytes());
        line.extend([9; 64]);
        let note = format!(
            "origin\n5\nroot\n\n\u{2014} origin {own}\n\u{2014} witness.example {cosignature}\n\u{2014} other {own}\n",
            own = BASE64.encode([7; 68]),
            cosignature = BASE64.encode(&line)
        );
        assert_eq!(cosigned(&note, "origin"), [("witness.example".to_owned(), Some(1_800_000_000))]);
        assert_eq!(cosigned("no note", "origin"), []);
    }
}
