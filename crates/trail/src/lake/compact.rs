//! Merging small adjacent files into larger ones: 1,600 files of 5,000 rows query ten times slower than sixteen.
//!
//! The chain is recomputed from the merged file's own rows before a commit names it (`file::write` does), and must end
//! at the link where the inputs ended. Inputs stay on disk for a day for queries that still read them.

use super::commit::{DataFile, link};
use super::file::{self, FileError};
use super::store::LakeError;
use crate::land::Position;
use arrow::array::RecordBatch;
use keytrail_kms::chain::LogId;
use std::path::Path;
use std::sync::Arc;

/// The first run of at least `files_min` adjacent files of like size, cut at `rows_max` rows together.
pub(super) fn due(files: &[Arc<DataFile>], files_min: usize, rows_max: u64) -> Option<Vec<Arc<DataFile>>> {
    let tiers: Vec<u32> = files.iter().map(|file| file.rows.max(1).ilog(8)).collect();
    let mut start = 0;
    while start < files.len() {
        let tier = tiers.get(start)?;
        let mut rows = 0;
        let run: Vec<Arc<DataFile>> = files
            .iter()
            .zip(&tiers)
            .skip(start)
            .take_while(|(file, other)| {
                rows += file.rows;
                *other == tier && rows <= rows_max
            })
            .map(|(file, _)| file.clone())
            .collect();
        if run.len() >= files_min.max(2) {
            return Some(run);
        }
        start += run.len().max(1);
    }
    None
}

/// Merges adjacent files into one.
pub(super) fn merge(root: &Path, log: LogId, inputs: &[Arc<DataFile>]) -> Result<DataFile, LakeError> {
    let (Some(first), Some(last)) = (inputs.first(), inputs.last()) else {
        return Err(LakeError::MissingFile { path: String::new() });
    };
    let damaged = |path: &str| LakeError::MissingFile { path: path.to_owned() };
    let start = Position { next_seq: first.first, link: link(&first.chain_in).map_err(|_| damaged(&first.path))? };
    let paths: Vec<_> = inputs.iter().map(|input| root.join(&input.path)).collect();
    let batches = paths.iter().flat_map(|path| match file::read(path) {
        Ok(batches) => Box::new(batches) as Box<dyn Iterator<Item = Result<RecordBatch, FileError>>>,
        Err(error) => Box::new(std::iter::once(Err(error))),
    });
    let written = file::write(root, log, start, batches)?;
    if written.chain_out != last.chain_out || written.last != last.last {
        return Err(damaged(&last.path));
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(first: u64, rows: u64) -> Arc<DataFile> {
        Arc::new(DataFile {
            path: first.to_string(),
            first,
            last: first + rows - 1,
            rows,
            bytes: 1,
            sha256: String::new(),
            order: "seq".to_owned(),
            chain_in: String::new(),
            chain_out: String::new(),
            time_first: 0,
            time_last: 0,
            event_time_first: None,
            event_time_last: None,
        })
    }

    fn files(rows: &[u64]) -> Vec<Arc<DataFile>> {
        let mut first = 0;
        rows.iter()
            .map(|rows| {
                let made = file(first, *rows);
                first += rows;
                made
            })
            .collect()
    }

    fn due_rows(rows: &[u64]) -> Option<Vec<u64>> {
        due(&files(rows), 4, 1_000).map(|run| run.iter().map(|file| file.rows).collect())
    }

    #[test]
    fn only_long_runs_of_like_files_are_due() {
        assert_eq!(due_rows(&[10, 10, 10]), None);
        assert_eq!(due_rows(&[10, 10, 10, 10]), Some(vec![10; 4]));
        assert_eq!(due_rows(&[100, 10, 10, 10, 10]), Some(vec![10; 4]));
        assert_eq!(due_rows(&[10, 10, 100, 10, 10]), None);
        assert_eq!(due_rows(&[600, 600, 600, 600]), None);
        assert_eq!(due_rows(&[]), None);
    }
}
