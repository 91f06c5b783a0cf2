//! Erasure: takes payload and salt of named records out of rows, and leaves the digest that the chain needs.
//!
//! A kind-9 record names seqs. Those that are events which changed nothing lose every column that came from the payload;
//! others stay, whatever the record says, because tables are folded from them. The tail is changed at once, files by
//! rewrite commits, and the erasure record itself is sealed only after those: a crash before lands it again.

use super::commit::{DataFile, link};
use super::file;
use super::order::RowOrder;
use super::store::LakeError;
use crate::land::{Position, VerifiedFrame};
use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{Int32Type, Int64Type};
use arrow::error::ArrowError;
use keytrail_kms::chain::leaf::payload_digest;
use keytrail_kms::chain::{Kind, LogId};
use serde::Deserialize;
use std::path::Path;
use std::sync::Arc;

/// Columns that tell whether a row is to be erased.
const FOUND_BY: [&str; 5] = ["seq", "kind", "read_only", "error_code", "raw"];

/// Ranges in one record; the node takes as many.
const RANGES_MAX: usize = 100;

/// Seqs to be erased.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Erasure {
    ranges: Vec<Range>,
}

/// Both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
struct Range {
    first: u64,
    last: u64,
}

impl Erasure {
    /// What a record asks for; None for records of another kind.
    pub(super) fn of(verified: &VerifiedFrame) -> Option<Self> {
        if verified.leaf.kind != Kind::Erasure {
            return None;
        }
        match serde_json::from_slice::<Self>(&verified.frame.payload) {
            Ok(mut erasure) => {
                erasure.ranges.truncate(RANGES_MAX);
                // What comes later cannot be meant.
                erasure.ranges.retain(|range| range.first <= range.last && range.last < verified.leaf.seq);
                Some(erasure)
            }
            Err(error) => {
                tracing::error!(seq = verified.leaf.seq, %error, "erasure record cannot be read");
                None
            }
        }
    }

    /// Whether a record with a seq from `first` to `last` is named.
    pub(super) fn touches(&self, first: u64, last: u64) -> bool {
        self.ranges.iter().any(|range| range.first <= last && first <= range.last)
    }

    fn names(&self, seq: i64) -> bool {
        u64::try_from(seq).is_ok_and(|seq| self.touches(seq, seq))
    }

    /// The rows that are to be erased and are not yet.
    fn rows(&self, batch: &RecordBatch) -> Option<Vec<bool>> {
        let column = |name| batch.column_by_name(name);
        let seq = column("seq")?.as_primitive_opt::<Int64Type>()?;
        let kind = column("kind")?.as_primitive_opt::<Int32Type>()?;
        let read_only = column("read_only")?.as_boolean_opt()?;
        let (error, raw) = (column("error_code")?, column("raw")?);
        let erases = |row: usize| {
            let changed_nothing = (read_only.is_valid(row) && read_only.value(row)) || error.is_valid(row);
            self.names(seq.value(row))
                && kind.value(row) == i32::from(Kind::Event as u8)
                && raw.is_valid(row)
                && changed_nothing
        };
        let rows: Vec<bool> = (0..batch.num_rows()).map(erases).collect();
        rows.contains(&true).then_some(rows)
    }

    /// The batch without what is to be erased; None where nothing is.
    pub(super) fn erased(&self, batch: &RecordBatch) -> Result<Option<RecordBatch>, ArrowError> {
        let Some(rows) = self.rows(batch) else { return Ok(None) };
        // Values are copied, not masked: a mask would leave the text in memory.
        let kept: UInt32Array = (0_u32..).zip(&rows).map(|(row, erased)| (!erased).then_some(row)).collect();
        let schema = batch.schema();
        let columns = schema.fields().iter().zip(batch.columns()).map(|(field, column)| match field.name().as_str() {
            "payload_digest" => digests(batch, &rows),
            _ if field.is_nullable() => take(column, &kept, None),
            _ => Ok(Arc::clone(column)),
        });
        RecordBatch::try_new(Arc::clone(&schema), columns.collect::<Result<_, _>>()?).map(Some)
    }

    /// The file without what is to be erased; None if it holds nothing of that.
    pub(super) fn rewrite(&self, root: &Path, log: LogId, input: &DataFile) -> Result<Option<DataFile>, LakeError> {
        let path = root.join(&input.path);
        let mut found = false;
        for batch in file::read(root, input, Some(&FOUND_BY))? {
            found |= self.rows(&batch?).is_some();
        }
        if !found {
            return Ok(None);
        }
        let damaged = || LakeError::MissingFile { path: input.path.clone() };
        let start = Position { next_seq: input.first, link: link(&input.chain_in).map_err(|_| damaged())? };
        let order = RowOrder::of(&input.order).ok_or_else(damaged)?;
        let batches = file::read(root, input, None)?.map(|batch| {
            let batch = batch?;
            let erased = self.erased(&batch);
            let erased = erased.map_err(|source| file::FileError::Arrow { path: path.clone(), source })?;
            Ok(erased.unwrap_or(batch))
        });
        let written = file::write(root, log, start, order, batches)?;
        if written.chain_out != input.chain_out || written.last != input.last {
            return Err(damaged());
        }
        Ok(Some(written))
    }
}

fn digests(batch: &RecordBatch, rows: &[bool]) -> Result<ArrayRef, ArrowError> {
    let column = |name: &str| {
        let column = batch.column_by_name(name).and_then(|column| column.as_binary_opt::<i32>());
        column.ok_or_else(|| ArrowError::SchemaError(format!("{name} is not binary")))
    };
    let (digest, salt, raw) = (column("payload_digest")?, column("salt")?, column("raw")?);
    let values = rows.iter().enumerate().map(|(row, erased)| {
        if !erased {
            return Ok(digest.is_valid(row).then(|| digest.value(row).to_vec()));
        }
        let salt = <[u8; 16]>::try_from(salt.value(row));
        let salt = salt.map_err(|_| ArrowError::InvalidArgumentError("salt has another length".to_owned()))?;
        Ok(Some(payload_digest(&salt, raw.value(row)).to_vec()))
    });
    Ok(Arc::new(BinaryArray::from_iter(values.collect::<Result<Vec<_>, ArrowError>>()?)))
}
