//! The logs of a data folder that packs are made of: the node's own, and imported ones.

use super::{IoError, io};
use crate::lake::Snapshot;
use crate::query::{OpenError, open_folder};
use keytrail_kms::chain::{Checkpoint, NoteError, VerifyKey};
use keytrail_kms::signer::{LATEST_NAME, VKEY_NAME};
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

/// The logs of `dir` and a snapshot that reaches their checkpoints. The heads are read first: the log only grows.
pub(super) async fn open(dir: &Path) -> Result<(Vec<SourceLog>, Snapshot), SourceError> {
    let logs = logs(dir)?;
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

fn logs(dir: &Path) -> Result<Vec<SourceLog>, SourceError> {
    let mut logs = vec![log(&dir.join("checkpoints"), false)?];
    let imports = dir.join(IMPORTS);
    if imports.is_dir() {
        for entry in fs::read_dir(&imports).map_err(io("list", &imports))? {
            let folder = entry.map_err(io("list", &imports))?.path();
            if folder.join(LATEST_NAME).is_file() {
                logs.push(log(&folder, true)?);
            }
        }
    }
    logs.sort_by_key(|log| log.checkpoint.log_id());
    Ok(logs)
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

fn read(path: &Path) -> Result<String, IoError> {
    let length = fs::metadata(path).map_err(io("read", path))?.len();
    if length > NOTE_BYTES_MAX {
        return Err(io("read", path)(std::io::ErrorKind::FileTooLarge.into()));
    }
    fs::read_to_string(path).map_err(io("read", path))
}
