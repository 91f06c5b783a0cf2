//! The records of a range as Parquet, in the lake's own format, below `parquet/`.

use crate::lake::DataFile;
use crate::lake::file::{FileError, FileWriter};
use crate::lake::order::RowOrder;
use crate::land::Position;
use arrow::array::RecordBatch;
use keytrail_kms::chain::LogId;
use std::path::{Path, PathBuf};

/// Most rows in a file: eight row groups.
const FILE_ROWS_MAX: u64 = 1_048_576;

/// Writes the files of one log.
pub(super) struct RowFiles {
    folder: PathBuf,
    /// The folder below the pack's payload.
    name: String,
    log: LogId,
    position: Position,
    file: Option<FileWriter>,
    done: Vec<DataFile>,
}

impl RowFiles {
    /// For records that follow `start`, below the pack's payload folder `root`.
    pub(super) fn new(root: &Path, log: LogId, start: Position) -> Self {
        let name = format!("parquet/log={log}");
        Self { folder: root.join(&name), name, log, position: start, file: None, done: Vec::new() }
    }

    /// Adds rows that come next.
    pub(super) fn push(&mut self, batch: &RecordBatch) -> Result<(), FileError> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => {
                std::fs::create_dir_all(&self.folder).map_err(|source| FileError::Io {
                    step: "create",
                    path: self.folder.clone(),
                    source,
                })?;
                FileWriter::create(&self.folder, self.log, self.position, RowOrder::Seq)?
            }
        };
        let start = file.start();
        file.push(batch)?;
        self.position = file.position();
        if self.position.next_seq - start.next_seq >= FILE_ROWS_MAX {
            self.done.push(file.finish()?);
        } else {
            self.file = Some(file);
        }
        Ok(())
    }

    /// Ends the last file; gives their paths below the pack's payload.
    pub(super) fn finish(mut self) -> Result<Vec<String>, FileError> {
        if let Some(file) = self.file.take() {
            self.done.push(file.finish()?);
        }
        Ok(self.done.iter().map(|file| format!("{}/{}", self.name, file.path)).collect())
    }
}
