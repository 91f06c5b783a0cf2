//! `--previous PACK`: an earlier pack's heads, and the proof that each log still begins with what that pack was proved under.
//!
//! Of the earlier pack nothing but its checkpoints is read, and those only under this folder's own keys. The new pack gets
//! them as `logs/<log>/previous` with `logs/<log>/consistency-<size>`, so that whoever keeps one pack can tell a rewritten
//! log from the next.

use super::export::write;
use super::pass::Passed;
use super::source::{SourceLog, read};
use super::{IoError, PAYLOAD, io};
use keytrail_kms::chain::{Checkpoint, LogId, NoteError, TreeError};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// An earlier pack's head of a log.
#[derive(Clone, Debug)]
pub(super) struct Earlier {
    note: String,
    pub(super) checkpoint: Checkpoint,
}

/// Why a pack cannot continue an earlier one.
#[derive(Debug, thiserror::Error)]
pub enum EarlierError {
    /// A file.
    #[error(transparent)]
    Io(#[from] IoError),
    /// No pack.
    #[error("{0} holds no logs of a pack")]
    NoPack(std::path::PathBuf),
    /// Of somebody else, or of an import that is gone.
    #[error("earlier pack is of log {0}, which this folder does not have")]
    OtherLog(String),
    /// Not under our key.
    #[error("earlier pack's checkpoint of log {log} is not accepted")]
    Note {
        /// Origin.
        log: String,
        /// Why.
        source: NoteError,
    },
    /// A log that got shorter.
    #[error(
        "log {log} has {size} signed records, the earlier pack covers {earlier}: the log was rolled back or forked"
    )]
    Shorter {
        /// Origin.
        log: String,
        /// Of the checkpoint of now.
        size: u64,
        /// Of the earlier one.
        earlier: u64,
    },
    /// Another history.
    #[error("log {log} has another root at size {earlier} than the earlier pack: its history was forked")]
    Forked {
        /// Origin.
        log: String,
        /// Of the earlier checkpoint.
        earlier: u64,
    },
    /// The proof.
    #[error("consistency proof cannot be made")]
    Proof(#[source] Box<TreeError<IoError>>),
}

/// The heads of the pack in `folder`, of logs that are all ours and no shorter than they were.
pub(super) fn open(folder: &Path, logs: &[SourceLog]) -> Result<BTreeMap<LogId, Earlier>, EarlierError> {
    let under = folder.join(PAYLOAD).join("logs");
    if !under.is_dir() {
        return Err(EarlierError::NoPack(folder.to_owned()));
    }
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(&under).map_err(io("list", &under))? {
        let own = entry.map_err(io("list", &under))?.path();
        let note = read(&own.join("checkpoint"))?;
        let origin = note.lines().next().unwrap_or_default().to_owned();
        let log = logs.iter().find(|log| log.checkpoint.origin == origin);
        let log = log.ok_or_else(|| EarlierError::OtherLog(origin.clone()))?;
        let checkpoint = log.vkey.verify(&note).map_err(|source| EarlierError::Note { log: origin.clone(), source })?;
        if checkpoint.size > log.checkpoint.size {
            return Err(EarlierError::Shorter { log: origin, size: log.checkpoint.size, earlier: checkpoint.size });
        }
        found.insert(checkpoint.log_id(), Earlier { note, checkpoint });
    }
    if found.is_empty() { Err(EarlierError::NoPack(folder.to_owned())) } else { Ok(found) }
}

impl Earlier {
    /// Writes the head and the proof that `passed`, of now, begins with it.
    pub(super) fn prove(&self, root: &Path, size: u64, passed: &Passed) -> Result<(), EarlierError> {
        let Checkpoint { origin, size: earlier, root: was } = &self.checkpoint;
        let failed = |error| EarlierError::Proof(Box::new(error));
        let is = passed.tree.root_at(*earlier, |block| passed.hashes.block(block)).map_err(failed)?;
        if is != *was {
            return Err(EarlierError::Forked { log: origin.clone(), earlier: *earlier });
        }
        let folder = format!("logs/{}", self.checkpoint.log_id());
        write(root, &format!("{folder}/previous"), self.note.as_bytes())?;
        // At one size the roots are compared: there is nothing to prove.
        if *earlier < size {
            let proof = passed.tree.consistency_proof(*earlier, size, |block| passed.hashes.block(block));
            let lines = proof.map_err(failed)?.lines();
            write(root, &format!("{folder}/consistency-{earlier}"), lines.as_bytes())?;
        }
        Ok(())
    }
}
