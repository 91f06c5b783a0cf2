//! Retention: the oldest files leave by a commit that says up to where, and what changed something stays.
//!
//! Calls that changed nothing go. Changes are copied to one file beside the log's own, because keys, policies and grants
//! are folded from them; erasure draws the same line. Whole files only, from the first on, and never the newest: where
//! the chain stands is known from what is left. Whoever recomputes it begins at the commit's link and says so.

use super::commit::{DataFile, KeptFile, Retention};
use super::file::{self, FileError};
use super::store::LakeError;
use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Int32Type;
use keytrail_kms::chain::{Kind, LogId};
use std::path::Path;
use std::sync::Arc;

/// The files all of whose records are older than `before_us`, from the first on.
pub(super) fn leaving(files: &[Arc<DataFile>], before_us: u64) -> Vec<Arc<DataFile>> {
    let (_, older) = files.split_last().map_or((None, files), |(newest, older)| (Some(newest), older));
    older.iter().take_while(|file| file.time_last < before_us).cloned().collect()
}

/// Writes the changes among the rows of `leaving`, behind those that earlier retentions kept.
pub(super) fn keep_changes(
    root: &Path,
    log: LogId,
    leaving: &[Arc<DataFile>],
    kept: Option<&KeptFile>,
) -> Result<Retention, LakeError> {
    let Some(last) = leaving.last() else { return Ok(Retention { start: 0, kept: kept.cloned() }) };
    let earlier = kept.map(|kept| file::read_columns(&root.join(&kept.path), None)).transpose()?;
    let rows = leaving.iter().flat_map(|data| match file::read(root, data, None) {
        Ok(batches) => batches,
        Err(error) => Box::new(std::iter::once(Err(error))) as Box<dyn Iterator<Item = _>>,
    });
    let arrow = |source| FileError::Arrow { path: root.to_owned(), source };
    let rows = rows.map(|batch| batch.and_then(|batch| filter_record_batch(&batch, &changes(&batch)).map_err(arrow)));
    let kept = file::write_kept(root, log, last.last, earlier.into_iter().flatten().chain(rows))?;
    Ok(Retention { start: last.last + 1, kept })
}

/// Which rows are events that changed something.
fn changes(batch: &RecordBatch) -> BooleanArray {
    let column = |name| batch.column_by_name(name);
    let kind = column("kind").and_then(|column| column.as_primitive_opt::<Int32Type>());
    let read_only = column("read_only").and_then(|column| column.as_boolean_opt());
    let error = column("error_code");
    let is_change = |row: usize| {
        kind.is_some_and(|kind| kind.value(row) == i32::from(Kind::Event as u8))
            && read_only.is_some_and(|read_only| read_only.is_valid(row) && !read_only.value(row))
            && error.is_some_and(|error| error.is_null(row))
    };
    (0..batch.num_rows()).map(|row| Some(is_change(row))).collect()
}
