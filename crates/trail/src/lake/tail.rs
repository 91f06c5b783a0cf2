//! The tail: durable records above the last commit, as batches in memory, queryable at once.

use super::erase::Erasure;
use crate::land::Position;
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::error::ArrowError;

/// Batches up to this size are merged with their neighbours; a quiet log would otherwise collect a batch for each
/// record, and each batch costs the same 47 columns.
const MERGE_ROWS_MAX: usize = 8_192;

/// A dense run of decoded records of one log.
#[derive(Clone, Debug)]
pub(super) struct Tail {
    /// Where the log stands before the first record.
    pub(super) start: Position,
    /// Where it stands after the last.
    pub(super) end: Position,
    /// Records in seq order.
    pub(super) batches: Vec<RecordBatch>,
    /// Payload bytes in it.
    pub(super) raw_bytes: u64,
    /// When the first record came, Unix microseconds.
    pub(super) since_us: u64,
}

impl Tail {
    pub(super) fn at(position: Position) -> Self {
        Self { start: position, end: position, batches: Vec::new(), raw_bytes: 0, since_us: 0 }
    }

    pub(super) fn rows(&self) -> u64 {
        self.end.next_seq - self.start.next_seq
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Adds records that follow `end`. Small neighbours merge like the digits of a binary counter, so each record is
    /// copied a logarithmic number of times.
    pub(super) fn push(
        &mut self,
        batch: RecordBatch,
        end: Position,
        raw_bytes: u64,
        now_us: u64,
    ) -> Result<(), ArrowError> {
        if self.batches.is_empty() {
            self.since_us = now_us;
        }
        let mut newest = batch;
        while let Some(last) = self.batches.last()
            && last.num_rows() <= 2 * newest.num_rows()
            && last.num_rows() + newest.num_rows() <= MERGE_ROWS_MAX
        {
            newest = concat_batches(&newest.schema(), [last, &newest])?;
            self.batches.pop();
        }
        self.batches.push(newest);
        self.end = end;
        self.raw_bytes += raw_bytes;
        Ok(())
    }

    /// Takes what an erasure names out of the records.
    pub(super) fn erase(&mut self, erasure: &Erasure) -> Result<(), ArrowError> {
        for batch in &mut self.batches {
            if let Some(erased) = erasure.erased(batch)? {
                *batch = erased;
            }
        }
        Ok(())
    }

    /// Puts records that came before in front again, after their file could not be written.
    pub(super) fn prepend(&mut self, earlier: Self) {
        let mut batches = earlier.batches;
        batches.append(&mut self.batches);
        self.batches = batches;
        self.start = earlier.start;
        self.raw_bytes += earlier.raw_bytes;
        self.since_us = earlier.since_us;
    }
}
