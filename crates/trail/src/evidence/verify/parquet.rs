//! Step 7: the Parquet files hold the records of `leaves.gz`, and their columns say what the payloads say.
//!
//! The first half recomputes each leaf from its row; the second decodes each payload again, and compares the statistics. They
//! cost differently, so `bench` measures them apart.

use super::Failure;
use super::statistics::Statistics;
use crate::evidence::leaves::{Entry, LeavesReader, Status};
use crate::evidence::manifest::LogEntry;
use crate::lake::decode::decode_records;
use crate::lake::file::read_columns;
use crate::lake::rebuild::{RECORD_COLUMNS, Rows};
use crate::land::Position;
use arrow::array::RecordBatch;
use keytrail_kms::chain::{Leaf, LogId};
use std::path::Path;

/// How much is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Leaves alone.
    Leaves,
    /// Every column.
    Columns,
}

/// Checks the Parquet files of a log below the pack's payload folder; gives the number of rows.
pub(super) fn check(root: &Path, log: &LogEntry, depth: Depth) -> Result<u64, Failure> {
    let id = LogId::from_hex(&log.log).ok_or_else(|| Failure::new("log id is not 32 hex digits"))?;
    let mut leaves = LeavesReader::open(&root.join(format!("logs/{id}/leaves.gz")))?;
    let mut next = leaves.next()?;
    let start = next.as_ref().map_or(Position::START, |entry| Position { next_seq: log.first, link: entry.leaf.prev });
    let mut rows = Rows::new(id, start);
    for name in &log.parquet {
        let in_file = |failure: Failure| Failure { reason: format!("{name}: {}", failure.reason), ..failure };
        let path = root.join(name);
        let mut statistics = (depth == Depth::Columns).then(|| Statistics::open(&path)).transpose().map_err(in_file)?;
        let columns = (depth == Depth::Leaves).then_some(&RECORD_COLUMNS[..]);
        for batch in read_columns(&path, columns).map_err(|error| in_file(error.into()))? {
            let batch = batch.map_err(|error| in_file(error.into()))?;
            let mut compare = |leaf: &Leaf, present: bool| {
                let found = next.take();
                next = leaves.next()?;
                same(leaf, present, found)
            };
            match depth {
                Depth::Leaves => rows.each(&batch, |leaf, _, body| compare(leaf, body.is_some())),
                Depth::Columns => columns_of(&mut rows, &batch, log.imported, compare),
            }
            .map_err(in_file)?;
            if let Some(statistics) = &mut statistics {
                statistics.take(&batch).map_err(in_file)?;
            }
        }
        statistics.map_or(Ok(()), Statistics::finish).map_err(in_file)?;
    }
    match next {
        None => Ok(rows.position.next_seq - start.next_seq),
        Some(entry) => Err(Failure::at(entry.leaf.seq, "record is not in the Parquet files")),
    }
}

fn same(leaf: &Leaf, present: bool, found: Option<Entry>) -> Result<(), Failure> {
    let Some(entry) = found else { return Err(Failure::at(leaf.seq, "row is above the range")) };
    if entry.leaf != *leaf {
        return Err(Failure::at(entry.leaf.seq, "row is another record than its leaf"));
    }
    if present != (entry.status == Status::Present) {
        return Err(Failure::at(leaf.seq, "row has a payload where the pack must have none, or none where it has one"));
    }
    Ok(())
}

/// Rebuilds the records, and from their payloads the columns.
fn columns_of(
    rows: &mut Rows,
    batch: &RecordBatch,
    imported: bool,
    mut compare: impl FnMut(&Leaf, bool) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let first = rows.position.next_seq;
    let records = rows.records(batch, &(0..u64::MAX))?;
    for record in &records {
        compare(&record.leaf, record.body.is_some())?;
    }
    let decoded = decode_records(&records, imported);
    // A newer program may have added columns, which nothing here can check.
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        let Some(expected) = decoded.column_by_name(field.name()) else { continue };
        if expected != column {
            let row = (0..column.len()).find(|row| expected.slice(*row, 1) != column.slice(*row, 1)).unwrap_or(0);
            let seq = first + row as u64;
            return Err(Failure::at(seq, format!("column {} does not follow from the payload", field.name())));
        }
    }
    Ok(())
}
