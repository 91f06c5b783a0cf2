//! The logs of a data folder that packs are made of: the node's own, and imported ones.

use super::{IoError, io};
use crate::lake::Snapshot;
use crate::query::{OpenError, open_folder};
use keytrail_kms::chain::{Checkpoint, NoteError, PolicyFileError, TrustPolicy, VerifyKey};
use keytrail_kms::signer::{COSIGNED_NAME, LATEST_NAME, VKEY_NAME};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest note or key read.
const NOTE_BYTES_MAX: u64 = 64 * 1024;
/// Folder of imported logs, below the data folder.
const IMPORTS: &str = "imports";
/// How often the lake is looked at again while it is behind the checkpoint (records that come through Kafka).
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);

/// A log with the head that it is exported under.
#[derive(Clone, Debug)]
pub(super) struct SourceLog {
    pub(super) vkey: VerifyKey,
    pub(super) note: String,
    pub(super) checkpoint: Checkpoint,
    pub(super) imported: bool,
}

/// Why there is nothing to export from.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A file.
    #[error(transparent)]
    Io(#[from] IoError),
    /// Key or note.
    #[error("checkpoint in {path} is not accepted")]
    Note {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: NoteError,
    },
    /// The node's policy of witnesses.
    #[error("trust policy of the node")]
    Policy(#[from] PolicyFileError),
    /// A policy that no checkpoint meets.
    #[error("no checkpoint in {0} has the quorum of the node's trust policy yet")]
    NotCosigned(PathBuf),
    /// A log of which nothing is signed.
    #[error("no checkpoint covers any record of the log in {0}")]
    Empty(PathBuf),
    /// The lake and the journal.
    #[error("records cannot be read")]
    Open(#[from] OpenError),
    /// Records that were signed for are not there.
    #[error("log {log} has {found} records, but its checkpoint covers {size}")]
    Behind {
        /// Origin.
        log: String,
        /// Records found.
        found: u64,
        /// Records signed for.
        size: u64,
    },
}

/// The logs of `dir` and a snapshot that reaches their checkpoints. The heads are read first: the log only grows. With the
/// node's trust policy its own log is exported under the newest checkpoint that the quorum has cosigned.
pub(super) async fn open(dir: &Path, policy: Option<&str>) -> Result<(Vec<SourceLog>, Snapshot), SourceError> {
    let policy = policy.map(|text| TrustPolicy::parse(text.as_bytes())).transpose()?;
    let logs = logs(dir, policy.as_ref().filter(|policy| !policy.wants_none()))?;
    for attempt in 1.. {
        let snapshot = open_folder(dir).await?;
        let behind = logs.iter().find_map(|log| {
            let found = snapshot.logs().get(&log.checkpoint.log_id()).map_or(0, |state| state.end.next_seq);
            (found < log.checkpoint.size).then(|| SourceError::Behind {
                log: log.checkpoint.origin.clone(),
                found,
                size: log.checkpoint.size,
            })
        });
        match behind {
            None => return Ok((logs, snapshot)),
            Some(error) if attempt == ATTEMPTS => return Err(error),
            Some(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    unreachable!("the loop ends with its last attempt")
}

fn logs(dir: &Path, policy: Option<&TrustPolicy>) -> Result<Vec<SourceLog>, SourceError> {
    let checkpoints = dir.join("checkpoints");
    let imports = dir.join(IMPORTS);
    let mut logs = Vec::new();
    // An auditor's folder may hold imports and nothing else.
    if checkpoints.is_dir() || !imports.is_dir() {
        let own = log(&checkpoints, false)?;
        logs.push(match policy {
            Some(policy) => cosigned(own, &checkpoints, policy)?,
            None => own,
        });
    }
    if imports.is_dir() {
        for entry in fs::read_dir(&imports).map_err(io("list", &imports))? {
            let folder = entry.map_err(io("list", &imports))?.path();
            if folder.join(LATEST_NAME).is_file() {
                logs.push(log(&folder, true)?);
            }
        }
    }
    logs.sort_by_key(|log| log.checkpoint.log_id());
    if logs.is_empty() { Err(SourceError::Empty(imports)) } else { Ok(logs) }
}

/// The log under its cosigned checkpoint, which may be some records behind the newest.
fn cosigned(log: SourceLog, folder: &Path, policy: &TrustPolicy) -> Result<SourceLog, SourceError> {
    let path = folder.join(COSIGNED_NAME);
    if !path.is_file() {
        return Err(SourceError::NotCosigned(folder.to_owned()));
    }
    let note = read(&path)?;
    let judged = policy.judge(&note, Some(&log.vkey.clone().into()));
    let judged = judged.map_err(|source| SourceError::Note { path: folder.to_owned(), source })?;
    if !judged.satisfied || judged.checkpoint.size == 0 {
        return Err(SourceError::NotCosigned(folder.to_owned()));
    }
    Ok(SourceLog { note, checkpoint: judged.checkpoint, ..log })
}

fn log(folder: &Path, imported: bool) -> Result<SourceLog, SourceError> {
    let refused = |source| SourceError::Note { path: folder.to_owned(), source };
    let vkey: VerifyKey = read(&folder.join(VKEY_NAME))?.trim_end().parse().map_err(refused)?;
    if !folder.join(LATEST_NAME).is_file() {
        return Err(SourceError::Empty(folder.to_owned()));
    }
    let note = read(&folder.join(LATEST_NAME))?;
    let checkpoint = vkey.verify(&note).map_err(refused)?;
    if checkpoint.size == 0 {
        return Err(SourceError::Empty(folder.to_owned()));
    }
    Ok(SourceLog { vkey, note, checkpoint, imported })
}

pub(super) fn read(path: &Path) -> Result<String, IoError> {
    let length = fs::metadata(path).map_err(io("read", path))?.len();
    if length > NOTE_BYTES_MAX {
        return Err(io("read", path)(std::io::ErrorKind::FileTooLarge.into()));
    }
    fs::read_to_string(path).map_err(io("read", path))
}
