//! What opening, reading and verifying a journal can report.
//!
//! Damage says where it is and what to do: the journal never repairs itself beyond dropping a torn last batch,
//! because whatever else is wrong was not caused by a crash.

use crate::chain::leaf::LogId;
use std::path::{Path, PathBuf};

/// Why a journal cannot be opened, read on or trusted.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system refused.
    #[error("cannot {step} {path}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Another process (or another handle of this one) writes here.
    #[error("journal is in use by another writer, which holds {path}")]
    InUse {
        /// The locked file.
        path: PathBuf,
    },
    /// An option is out of its bounds.
    #[error("journal option is out of bounds: {0}")]
    Options(&'static str),
    /// There is no journal here.
    #[error("no journal in {path}")]
    Absent {
        /// The folder.
        path: PathBuf,
    },
    /// The head file fails its check.
    #[error(
        "{path} is damaged; run `keytrail verify`, and if only the head is bad move that file away: the next start \
         writes a new one"
    )]
    Head {
        /// The head file.
        path: PathBuf,
    },
    /// The file that says where a pruned journal begins fails its check.
    #[error("{path} is damaged: a pruned journal cannot be read without it; restore it from a backup")]
    Start {
        /// The file.
        path: PathBuf,
    },
    /// No prune record says that the journal may begin where it does.
    #[error(
        "journal begins at seq {first}, but no prune record in it says so with this link and root: someone took records \
         away; keep a copy of the folder and restore it from a backup"
    )]
    Unrecorded {
        /// First seq held.
        first: u64,
    },
    /// Another process pruned the journal while it was copied.
    #[error("journal was pruned while it was copied; take the copy again")]
    PrunedMeanwhile,
    /// The folder belongs to another log.
    #[error("{path} belongs to log {found}, not to log {expected}")]
    ForeignLog {
        /// The segment.
        path: PathBuf,
        /// Log id in the segment.
        found: LogId,
        /// Log id wanted.
        expected: LogId,
    },
    /// A segment in the middle is not there.
    #[error("segment {path} is missing; put it back from a backup, the journal is never started without it")]
    MissingSegment {
        /// The file that should be there.
        path: PathBuf,
    },
    /// Something other than the last batch is bad, or the last one is bad in a way no crash explains.
    #[error(
        "{path} is damaged at byte {offset}, at seq {seq}: {found}; no crash leaves this, so keep a copy of the \
         folder, find out who wrote to it, and restore it from a backup"
    )]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Where the bad batch starts.
        offset: u64,
        /// First seq that cannot be trusted.
        seq: u64,
        /// What is wrong.
        found: String,
    },
    /// Records that were durable are gone.
    #[error(
        "journal ends before seq {found} although it was durable up to seq {durable} ({witness}): records are lost \
         or the folder was rolled back; restore the newest copy, do not start from this one"
    )]
    Shorter {
        /// Seq after the last record found.
        found: u64,
        /// Seq after the last record that was durable.
        durable: u64,
        /// Who says so.
        witness: &'static str,
    },
    /// A reader asks for records that are not here (trimmed, or never written).
    #[error("seq {seq} is not in the journal, which holds seqs from {first} up to {next}")]
    NoSuchSeq {
        /// Seq asked for.
        seq: u64,
        /// First seq held.
        first: u64,
        /// Seq after the last durable one.
        next: u64,
    },
    /// Frames given to a spool do not continue it.
    #[error("frame does not continue the spool at seq {seq}: {found}")]
    NotNext {
        /// Seq the spool waits for.
        seq: u64,
        /// What is wrong.
        found: String,
    },
}

impl JournalError {
    /// Wraps an I/O error with its step and path.
    pub(crate) fn io(step: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { step, path, source }
    }

    /// Whether the disk (or the quota) is full: the only error that passes by itself.
    pub fn is_no_space(&self) -> bool {
        let Self::Io { source, .. } = self else { return false };
        matches!(source.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
    }

    /// The seq that the error is about, where there is one.
    pub fn seq(&self) -> Option<u64> {
        match self {
            Self::Damaged { seq, .. } | Self::NoSuchSeq { seq, .. } | Self::NotNext { seq, .. } => Some(*seq),
            Self::Shorter { found, .. } => Some(*found),
            Self::Unrecorded { first } => Some(*first),
            Self::Io { .. }
            | Self::InUse { .. }
            | Self::Options(_)
            | Self::Absent { .. }
            | Self::Head { .. }
            | Self::Start { .. }
            | Self::PrunedMeanwhile
            | Self::ForeignLog { .. }
            | Self::MissingSegment { .. } => None,
        }
    }
}

/// Readers meet the same errors.
pub type ReadError = JournalError;
