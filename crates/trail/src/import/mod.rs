//! CloudTrail files in: each import is a log of its own in the lake, under a signer of its own.
//!
//! `source` lists and reads files, `split` cuts them into records as they stand, `part` puts records in order and drops
//! what comes twice, `log` writes leaves, rows, commits and checkpoints, `verify` re-checks them. What is true at any
//! crash: a record is in the log or its file is not in the list of done files, and what the log has is never written
//! again. So the same command always goes on where the last one ended. For users: docs/import.md.

mod known;
mod log;
mod part;
mod s3;
mod source;
mod split;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod verify;

pub use part::{PART_BYTES_MAX, PART_RECORDS_MAX};
pub use s3::{Bucket, S3Error};
pub use source::{FILE_BYTES_MAX, FILES_MAX, Source, SourceError};
pub use verify::{ImportedReport, verify_imported};

use self::known::Files;
use self::log::{ImportedLog, folder_of};
use self::part::Part;
use self::source::SourceFile;
use crate::describe;
use crate::lake::LakeError;
use crate::lake::file::FileError;
use keytrail_kms::chain::RootHash;
use keytrail_kms::clock::Clock;
use keytrail_kms::signer::{HEAD_NAME, KEY_NAME, LATEST_NAME, SignError, VKEY_NAME};
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Folder below the data folder with a folder for each import.
pub const FOLDER: &str = "imports";

/// Files of an import's signer, in the order in which a copy is true: the newest note before the signer's memory.
pub const SIGNER_FILES: [&str; 4] = [LATEST_NAME, HEAD_NAME, KEY_NAME, VKEY_NAME];

pub use crate::alert::IMPORT_ORIGIN_PREFIX as ORIGIN_PREFIX;

/// Records written at once, and payload bytes. Few in tests, which look at what a kill between two turns leaves.
const TURN_RECORDS: usize = if cfg!(feature = "testing") { 64 } else { 4_096 };
const TURN_BYTES_MAX: usize = 16 << 20;

/// Faults and differing records that a report names; further ones are counted.
const NAMED_MAX: usize = 1_000;

/// Longest name of an import in bytes.
const NAME_BYTES_MAX: usize = 32;

/// Why an import cannot begin or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The name would not do in a path or an origin.
    #[error("name {0:?} has something else than 1 to {NAME_BYTES_MAX} lower-case letters, digits and inner hyphens")]
    Name(String),
    /// The data folder.
    #[error("data folder {0} does not exist")]
    NoFolder(PathBuf),
    /// Another import of this name runs.
    #[error("another import works in {folder}")]
    Busy {
        /// Its folder.
        folder: PathBuf,
    },
    /// Files cannot be listed.
    #[error("files cannot be listed")]
    Source(#[from] SourceError),
    /// The folder of the import.
    #[error("cannot {step} {path}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Records on their way.
    #[error("records cannot be kept until they are in order")]
    Spool(#[source] io::Error),
    /// The list of done files.
    #[error("list of files cannot be used")]
    Files(#[from] rusqlite::Error),
    /// What the log has already.
    #[error("records in the lake cannot be read")]
    Known {
        /// Why not.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Rows of the log.
    #[error("rows in the lake cannot be read")]
    Rows(#[from] FileError),
    /// The lake.
    #[error("lake cannot be written")]
    Lake(#[from] LakeError),
    /// The signer, or a log that is not what was signed for.
    #[error("checkpoint cannot be signed")]
    Sign(#[from] SignError),
    /// The system's randomness.
    #[error("the system gives no random bytes")]
    Random,
    /// A background step ended without an answer.
    #[error("a step of the import ended without an answer")]
    Job(#[from] tokio::task::JoinError),
}

impl ImportError {
    fn io(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { step, path, source }
    }
}

/// How far an import is, for whoever watches it; and the way to stop it.
#[derive(Debug, Default)]
pub struct Counters {
    /// Files to read.
    pub files_total: AtomicU64,
    /// Their bytes, packed.
    pub bytes_total: AtomicU64,
    /// Files read.
    pub files: AtomicU64,
    /// Their bytes, packed.
    pub bytes: AtomicU64,
    /// Records found in them.
    pub found: AtomicU64,
    /// Records written.
    pub landed: AtomicU64,
    /// Records of the current part that are still to be written.
    pub waiting: AtomicU64,
    stopped: AtomicBool,
}

impl Counters {
    /// Ends the import after its current step; what was written until then is committed and signed.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

/// A file, and what is wrong with it or in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Path or URL.
    pub name: String,
    /// What is wrong.
    pub reason: String,
}

/// What an import did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The log's name.
    pub origin: String,
    /// Records in the log.
    pub size: u64,
    /// Root of its tree, as signed.
    pub root: Option<RootHash>,
    /// Files read.
    pub files: u64,
    /// Files that were in the log as a whole.
    pub files_known: u64,
    /// Files that are no log files by their names, digest files among them.
    pub passed_over: u64,
    /// Records written.
    pub landed: u64,
    /// Records dropped because the log has the same bytes.
    pub duplicates: u64,
    /// Records dropped because the log has other bytes under their eventID.
    pub differing: u64,
    /// Written records that could not be parsed: rows with a `parse_error`.
    pub unparsed: u64,
    /// Written records that were longer than a payload may be: their beginning.
    pub cut: u64,
    /// Files that gave nothing.
    pub faults: u64,
    /// The first of them.
    pub faults_named: Vec<Fault>,
    /// The first of the differing records.
    pub differing_named: Vec<Fault>,
    /// It was stopped before the end.
    pub stopped: bool,
}

impl Report {
    fn fault(&mut self, fault: Fault) {
        self.faults += 1;
        if self.faults_named.len() < NAMED_MAX {
            self.faults_named.push(fault);
        }
    }

    fn differs(&mut self, fault: Fault) {
        self.differing += 1;
        if self.differing_named.len() < NAMED_MAX {
            self.differing_named.push(fault);
        }
    }
}

/// Imports what `source` has and the log named `name` of the data folder `dir` has not.
pub async fn import(
    dir: &Path,
    name: &str,
    source: Source,
    clock: Arc<dyn Clock>,
    counters: Arc<Counters>,
) -> Result<Report, ImportError> {
    check_name(name)?;
    if !dir.is_dir() {
        return Err(ImportError::NoFolder(dir.to_owned()));
    }
    let (dir, name) = (dir.to_owned(), name.to_owned());
    let begin = move || {
        // Before anything is made: a mistyped path leaves nothing behind.
        let listing = source.list()?;
        let log = ImportedLog::open(&dir, &name, clock)?;
        let folder = folder_of(&dir, &name);
        let files = Files::open(&folder)?;
        Ok::<_, ImportError>((listing, Run { root: dir.join("lake"), folder, source, log, files, counters }))
    };
    let (listing, mut run) = tokio::task::spawn_blocking(begin).await??;
    let mut report = Report { passed_over: listing.passed_over, ..Report::default() };
    let mut left = run.unknown(listing.files, &mut report)?;
    while !left.is_empty() && !run.counters.is_stopped() {
        run = run.part(&mut left, &mut report).await?;
    }
    let signed = run.log.signed();
    Ok(Report {
        origin: run.log.origin().to_owned(),
        size: signed.size,
        root: (signed.size > 0).then_some(signed.root),
        stopped: run.counters.is_stopped(),
        ..report
    })
}

struct Run {
    root: PathBuf,
    folder: PathBuf,
    source: Source,
    log: ImportedLog,
    files: Files,
    counters: Arc<Counters>,
}

impl Run {
    /// Files that are not in the log yet, last first.
    fn unknown(&self, files: Vec<SourceFile>, report: &mut Report) -> Result<Vec<SourceFile>, ImportError> {
        let mut left = Vec::new();
        for file in files.into_iter().rev() {
            if self.files.has(&file)? {
                report.files_known += 1;
            } else {
                left.push(file);
            }
        }
        self.counters.files_total.store(left.len() as u64, Ordering::Relaxed);
        self.counters.bytes_total.store(left.iter().map(|file| file.bytes).sum(), Ordering::Relaxed);
        Ok(left)
    }

    /// Takes one part from files to checkpoint.
    async fn part(self, left: &mut Vec<SourceFile>, report: &mut Report) -> Result<Self, ImportError> {
        let (mut rest, mut told) = (std::mem::take(left), std::mem::take(report));
        let gather = move || {
            let mut part = Part::gather(&self.source, &mut rest, &self.folder, &self.counters, &mut told)?;
            part.drop_repeats(&mut told)?;
            let known = known::records(&self.root, &self.log.files(), &part.index());
            part.drop_known(&known.map_err(|source| ImportError::Known { source })?, &mut told)?;
            Ok::<_, ImportError>((self, part, rest, told))
        };
        let (mut run, part);
        (run, part, *left, *report) = tokio::task::spawn_blocking(gather).await??;
        if run.counters.is_stopped() {
            return Ok(run);
        }
        fail::fail_point!("import::after_gather", |_| std::process::abort());
        if run.write(&part, report).await? {
            run.files.add(&part.files)?;
        }
        Ok(run)
    }

    /// Writes a part; whether all of it is in the log.
    async fn write(&mut self, part: &Part, report: &mut Report) -> Result<bool, ImportError> {
        let mut next = 0;
        while next < part.len() && !self.counters.is_stopped() {
            let records = part.read(next, TURN_RECORDS, TURN_BYTES_MAX)?;
            fail::fail_point!("import::slow_append");
            next += records.len();
            self.counters.landed.fetch_add(records.len() as u64, Ordering::Relaxed);
            self.counters.waiting.store((part.len() - next) as u64, Ordering::Relaxed);
            self.log.append(records, report).await?;
        }
        if next > 0 {
            self.log.seal().await?;
            fail::fail_point!("import::after_checkpoint", |_| std::process::abort());
        }
        Ok(next == part.len())
    }
}

/// Names of the imports of the data folder `dir`, sorted.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join(FOLDER)).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

fn check_name(name: &str) -> Result<(), ImportError> {
    let plain = name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    let edges = name.starts_with('-') || name.ends_with('-');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !plain || edges {
        return Err(ImportError::Name(name.to_owned()));
    }
    Ok(())
}
