//! Rows sorted by key, and back in order of seq.
//!
//! A merged file is sorted by key inside each row group, not as a whole: whoever needs the chain's order then holds one
//! row group in memory and not a file of two million rows, and time still tells row groups apart. Page statistics find
//! a key's few pages in each group (docs/decisions/0040-files-sorted-by-key.md).

use super::file::ROW_GROUP_ROWS;
use arrow::array::{ArrayRef, AsArray, BinaryArray, RecordBatch};
use arrow::compute::{SortColumn, SortOptions, concat, interleave_record_batch, lexsort_to_indices};
use arrow::datatypes::Int64Type;
use arrow::error::ArrowError;

/// Payload bytes after which a row group ends early. Arrow's 32-bit offsets end at 2 GiB, memory before that.
const GROUP_RAW_BYTES_MAX: usize = 256 << 20;

/// Columns that rows of a group are sorted by; the last makes the order the only one possible.
const SORTED_BY: [&str; 3] = ["key_arn", "event_time", "seq"];

/// How the rows of a file are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowOrder {
    /// By seq.
    Seq,
    /// By key, time and seq inside each row group; the row groups by seq.
    Key,
}

impl RowOrder {
    /// As commits write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Seq => "seq",
            Self::Key => "key",
        }
    }

    /// The order of this name.
    pub(crate) fn of(name: &str) -> Option<Self> {
        [Self::Seq, Self::Key].into_iter().find(|order| order.name() == name)
    }
}

/// Collects rows in order of seq until a row group is full.
#[derive(Default)]
pub(super) struct Group {
    batches: Vec<RecordBatch>,
    rows: usize,
    raw_bytes: usize,
}

impl Group {
    /// Takes as many rows as still fit; gives back the rest.
    pub(super) fn take(&mut self, batch: &RecordBatch) -> Option<RecordBatch> {
        let fit = batch.num_rows().min(ROW_GROUP_ROWS - self.rows);
        let taken = batch.slice(0, fit);
        self.rows += fit;
        self.raw_bytes += raw_bytes(&taken);
        self.batches.push(taken);
        (fit < batch.num_rows()).then(|| batch.slice(fit, batch.num_rows() - fit))
    }

    pub(super) fn is_full(&self) -> bool {
        self.rows >= ROW_GROUP_ROWS || self.raw_bytes >= GROUP_RAW_BYTES_MAX
    }

    /// The rows by key, in batches of at most `rows` rows; the group is empty afterwards.
    pub(super) fn by_key(
        &mut self,
        rows: usize,
    ) -> Result<impl Iterator<Item = Result<RecordBatch, ArrowError>> + use<>, ArrowError> {
        let Self { batches, .. } = std::mem::take(self);
        let places: Vec<(usize, usize)> = places(&batches).collect();
        let column = |name: &str| -> Result<ArrayRef, ArrowError> {
            let parts: Option<Vec<_>> =
                batches.iter().map(|batch| batch.column_by_name(name).map(AsRef::as_ref)).collect();
            concat(&parts.ok_or_else(|| missing(name))?)
        };
        let order = if batches.is_empty() {
            Vec::new()
        } else {
            let sort = |name| {
                let options = SortOptions { descending: false, nulls_first: true };
                Ok::<_, ArrowError>(SortColumn { values: column(name)?, options: Some(options) })
            };
            let columns = SORTED_BY.into_iter().map(sort).collect::<Result<Vec<_>, _>>()?;
            let sorted = lexsort_to_indices(&columns, None)?;
            sorted.values().iter().filter_map(|index| places.get(*index as usize).copied()).collect()
        };
        Ok(gathered(batches, order, rows))
    }
}

/// The rows of a row group in order of seq, in batches of at most `rows` rows.
pub(super) fn by_seq(
    batches: Vec<RecordBatch>,
    rows: usize,
) -> Result<impl Iterator<Item = Result<RecordBatch, ArrowError>> + use<>, ArrowError> {
    let mut keyed = Vec::with_capacity(batches.iter().map(RecordBatch::num_rows).sum());
    for (index, batch) in batches.iter().enumerate() {
        let seqs = batch.column_by_name("seq").and_then(|column| column.as_primitive_opt::<Int64Type>());
        let seqs = seqs.ok_or_else(|| missing("seq"))?;
        keyed.extend(seqs.values().iter().enumerate().map(|(row, seq)| (*seq, index, row)));
    }
    keyed.sort_unstable();
    Ok(gathered(batches, keyed.into_iter().map(|(_, batch, row)| (batch, row)).collect(), rows))
}

fn gathered(
    batches: Vec<RecordBatch>,
    order: Vec<(usize, usize)>,
    rows: usize,
) -> impl Iterator<Item = Result<RecordBatch, ArrowError>> {
    let mut next = 0;
    std::iter::from_fn(move || {
        let end = (next + rows).min(order.len());
        let chunk = order.get(next..end).filter(|chunk| !chunk.is_empty())?;
        next = end;
        Some(interleave_record_batch(&batches.iter().collect::<Vec<_>>(), chunk))
    })
}

fn places(batches: &[RecordBatch]) -> impl Iterator<Item = (usize, usize)> {
    batches.iter().enumerate().flat_map(|(index, batch)| (0..batch.num_rows()).map(move |row| (index, row)))
}

fn raw_bytes(batch: &RecordBatch) -> usize {
    let raw: Option<&BinaryArray> = batch.column_by_name("raw").and_then(|column| column.as_binary_opt());
    let ends = raw.map(|raw| (raw.value_offsets().first().copied(), raw.value_offsets().last().copied()));
    ends.and_then(|(first, last)| usize::try_from(last? - first?).ok()).unwrap_or_default()
}

fn missing(name: &str) -> ArrowError {
    ArrowError::SchemaError(format!("column {name} is missing or of another type"))
}
