//! Judging a pack, offline: the steps of docs/evidence.md in their order; the first that fails ends it.
//!
//! Everything in a pack may be hostile. Paths are those of files found in the folder, lengths are bounded before
//! anything is read, and nothing is believed that does not lead to the signed root.

mod bag;
mod cloudtrail;
mod digests;
mod extras;
mod head;
mod parquet;
mod records;
mod statistics;

pub use bag::{UnpackError, unpack};
pub use parquet::Depth;

use super::leaves::LeavesError;
use super::manifest::{LogEntry, Manifest};
use super::{IoError, rfc3339};
use crate::lake::file::FileError;
use crate::lake::rebuild::RebuildError;
use keytrail_kms::chain::{TrustPolicy, VerifyKey};
use records::Ranged;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// What the auditor brings along.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// Verifier keys of logs. None: the pack's own are taken, and the report says so.
    pub vkeys: Vec<VerifyKey>,
    /// Checkpoints seen elsewhere, as signed notes.
    pub heads: Vec<String>,
    /// Who must have cosigned; the logs that it names are trusted like `vkeys`.
    pub policy: Option<TrustPolicy>,
}

impl Trust {
    fn keys(&self) -> impl Iterator<Item = &VerifyKey> {
        self.policy.iter().flat_map(TrustPolicy::logs).chain(&self.vkeys)
    }
}

/// The outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything holds.
    Verified,
    /// What is here holds, but something to compare with is missing.
    VerifiedUpTo {
        /// Which log.
        log: String,
        /// Last record that is covered.
        seq: u64,
        /// Its leaf time, Unix microseconds.
        time_us: u64,
        /// What is missing.
        reason: String,
    },
    /// Something does not hold.
    Failed(Failure),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verified => f.write_str("VERIFIED"),
            Self::VerifiedUpTo { log, seq, time_us, reason } => {
                write!(f, "VERIFIED-UP-TO log {log} seq {seq} at {}: {reason}", rfc3339(*time_us))
            }
            Self::Failed(failure) => write!(f, "FAILED {failure}"),
        }
    }
}

/// What does not hold, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which log, when it is about one.
    pub log: Option<String>,
    /// Which record, when it is about one.
    pub seq: Option<u64>,
    /// What does not hold.
    pub reason: String,
}

impl Failure {
    fn new(reason: impl Into<String>) -> Self {
        Self { log: None, seq: None, reason: reason.into() }
    }

    fn at(seq: u64, reason: impl Into<String>) -> Self {
        Self { log: None, seq: Some(seq), reason: reason.into() }
    }

    fn of_log(self, log: &str) -> Self {
        Self { log: self.log.or_else(|| Some(log.to_owned())), ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(log) = &self.log {
            write!(f, "log {log} ")?;
        }
        if let Some(seq) = self.seq {
            write!(f, "seq {seq}")?;
        }
        if self.log.is_some() || self.seq.is_some() {
            f.write_str(": ")?;
        }
        f.write_str(&self.reason)
    }
}

/// A file that cannot be read is as bad as a wrong one.
impl From<IoError> for Failure {
    fn from(error: IoError) -> Self {
        Self::new(crate::describe(&error))
    }
}

impl From<LeavesError> for Failure {
    fn from(error: LeavesError) -> Self {
        Self::new(crate::describe(&error))
    }
}

impl From<RebuildError> for Failure {
    fn from(error: RebuildError) -> Self {
        Self::new(crate::describe(&error))
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        Self::new(crate::describe(&error))
    }
}

/// The verdict, and what it rests on.
#[derive(Clone, Debug)]
pub struct Report {
    /// The outcome.
    pub verdict: Verdict,
    /// What the pack says, once that was found to be signed.
    pub manifest: Option<Manifest>,
    /// Records checked.
    pub records: u64,
    /// Whether the logs' keys came from the auditor.
    pub keys_are_trusted: bool,
}

/// Checks the pack in `folder`.
pub fn verify(folder: &Path, trust: &Trust) -> Report {
    let mut check = Check { folder, trust, manifest: None, records: 0 };
    let verdict = check.run().unwrap_or_else(Verdict::Failed);
    Report {
        verdict,
        manifest: check.manifest,
        records: check.records,
        keys_are_trusted: trust.keys().next().is_some(),
    }
}

/// Step 7 alone, for all logs of a pack; gives the number of rows.
pub fn check_parquet(folder: &Path, depth: Depth) -> Result<u64, Failure> {
    let root = folder.join(super::PAYLOAD);
    let manifest = bag::manifest(&root, &bag::check(folder)?)?;
    manifest.logs.iter().map(|log| parquet::check(&root, log, depth)).sum()
}

struct Check<'a> {
    folder: &'a Path,
    trust: &'a Trust,
    manifest: Option<Manifest>,
    records: u64,
}

impl Check<'_> {
    fn run(&mut self) -> Result<Verdict, Failure> {
        let files = bag::check(self.folder)?;
        let root = self.folder.join(super::PAYLOAD);
        let manifest = bag::manifest(&root, &files)?;
        self.manifest = Some(manifest.clone());
        let period = manifest.period.micros().ok_or_else(|| Failure::new("period of the manifest is not a period"))?;
        let mut ranges = Vec::new();
        let mut missing = None;
        for log in &manifest.logs {
            let in_log = |failure: Failure| failure.of_log(&log.log);
            let head = head::checkpoint(&root, log, self.trust).map_err(in_log)?;
            let ranged = records::check(&root, log, head, period).map_err(in_log)?;
            self.records += ranged.records;
            let up_to = |reason: String| Verdict::VerifiedUpTo {
                log: log.log.clone(),
                seq: log.last,
                time_us: log.time_last,
                reason,
            };
            missing = missing.or(ranged.limit.clone().map(up_to));
            ranges.push(ranged);
        }
        for (log, ranged) in manifest.logs.iter().zip(&ranges) {
            self.second_half(&root, &manifest, log, ranged).map_err(|failure| failure.of_log(&log.log))?;
        }
        extras::alerts(&root, &manifest)?;
        extras::sample(&root, &manifest, &ranges)?;
        for log in &manifest.logs {
            let open_end = bracketed(log, period).map_err(|failure| failure.of_log(&log.log))?;
            missing = missing.or(open_end);
        }
        Ok(missing.unwrap_or(Verdict::Verified))
    }

    /// What is compared with the leaves once they are known to be the log's.
    fn second_half(&self, root: &Path, manifest: &Manifest, log: &LogEntry, ranged: &Ranged) -> Result<(), Failure> {
        digests::check(root, manifest, log, ranged)?;
        // The library that reads Parquet trusts what it reads: some damaged pages make it panic.
        let read = AssertUnwindSafe(|| parquet::check(root, log, Depth::Columns).map(drop));
        catch_unwind(read).unwrap_or_else(|_| Err(Failure::new("Parquet file is damaged: its reader gives up on it")))
    }
}

/// Whether the range reaches over both ends of the period; a missing end is not a failure when the log had none yet.
fn bracketed(log: &LogEntry, (from_us, to_us): (u64, u64)) -> Result<Option<Verdict>, Failure> {
    let newest = log.last + 1 == log.size;
    if log.imported {
        let whole = log.first == 0 && newest;
        return if whole { Ok(None) } else { Err(Failure::new("range of an imported log is not the whole log")) };
    }
    if log.first > 0 && log.time_first >= from_us {
        return Err(Failure::at(log.first, "range begins after the period does"));
    }
    if log.time_last >= to_us {
        return Ok(None);
    }
    if !newest {
        return Err(Failure::at(log.last, "range ends before the period does, although the checkpoint covers more"));
    }
    Ok(Some(Verdict::VerifiedUpTo {
        log: log.log.clone(),
        seq: log.last,
        time_us: log.time_last,
        reason: format!("no record under the checkpoint is from {} or later", rfc3339(to_us)),
    }))
}
