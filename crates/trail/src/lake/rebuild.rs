//! Rows back to leaves: a file's own columns prove the chain, so nothing else needs to be stored per row.
//!
//! Used before a file is named by a commit (also when compaction rewrites it), when a lake is verified, and to hand out
//! the frames of single records.

use crate::land::{Position, VerifiedFrame};
use arrow::array::{Array, AsArray, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Int32Type, Int64Type};
use bytes::Bytes;
use keytrail_kms::chain::leaf::{link, payload_digest};
use keytrail_kms::chain::{Kind, LEAF_BYTES, Leaf, LogId};
use keytrail_kms::journal::Frame;
use std::ops::Range;

/// Why rows are not the records that the chain says.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// A column is missing or has another type.
    #[error("column {0} is missing or of another type")]
    Column(&'static str),
    /// A value that no leaf can have.
    #[error("row of seq {0} has a value that no leaf can have")]
    Value(i64),
    /// A hole, a repeat or another log's row.
    #[error("row of seq {found} stands where seq {expected} must be")]
    Order {
        /// The seq that must come next.
        expected: u64,
        /// The seq of the row.
        found: i64,
    },
    /// The chain leads elsewhere than the commit says.
    #[error("rows up to seq {seq} do not lead to the committed link")]
    End {
        /// The last seq.
        seq: u64,
    },
}

/// Walks rows in seq order and recomputes the chain.
pub(super) struct Rows {
    log_text: String,
    log: LogId,
    /// Where the chain stands after the rows taken.
    pub(super) position: Position,
    /// Smallest leaf time taken, 0 without rows.
    pub(super) time_first: u64,
    /// Largest leaf time taken.
    pub(super) time_last: u64,
    rows: u64,
}

impl Rows {
    pub(super) fn new(log: LogId, start: Position) -> Self {
        Self { log_text: log.to_string(), log, position: start, time_first: 0, time_last: 0, rows: 0 }
    }

    /// Takes the rows of a batch; each must be the next seq of the log.
    pub(super) fn take(&mut self, batch: &RecordBatch) -> Result<(), RebuildError> {
        self.each(batch, |_, _| {})
    }

    /// Takes the rows of a batch and shows each leaf, decoded and as it is hashed.
    pub(super) fn each(
        &mut self,
        batch: &RecordBatch,
        mut visit: impl FnMut(&Leaf, &[u8; LEAF_BYTES]),
    ) -> Result<(), RebuildError> {
        let columns = Columns::of(batch)?;
        for row in 0..batch.num_rows() {
            let (leaf, bytes) = self.take_row(&columns, row)?;
            visit(&leaf, &bytes);
        }
        Ok(())
    }

    /// Takes a batch and gives back the frames of `wanted` seqs whose payloads were not erased.
    pub(super) fn frames(
        &mut self,
        batch: &RecordBatch,
        wanted: Range<u64>,
    ) -> Result<Vec<VerifiedFrame>, RebuildError> {
        let columns = Columns::of(batch)?;
        let mut frames = Vec::new();
        for row in 0..batch.num_rows() {
            let (leaf, bytes) = self.take_row(&columns, row)?;
            if let Some(salt) = columns.salt(row)
                && wanted.contains(&leaf.seq)
                && columns.raw.is_valid(row)
            {
                let payload = Bytes::copy_from_slice(columns.raw.value(row));
                frames.push(VerifiedFrame { leaf, frame: Frame { leaf: bytes, salt, payload } });
            }
        }
        Ok(frames)
    }

    fn take_row(&mut self, columns: &Columns<'_>, row: usize) -> Result<(Leaf, [u8; LEAF_BYTES]), RebuildError> {
        let leaf = columns.leaf(row, self.log, self.position)?;
        if columns.log.value(row) != self.log_text || leaf.seq != self.position.next_seq {
            return Err(RebuildError::Order { expected: self.position.next_seq, found: columns.seq.value(row) });
        }
        self.time_first = if self.rows == 0 { leaf.time_us } else { self.time_first.min(leaf.time_us) };
        self.time_last = self.time_last.max(leaf.time_us);
        self.rows += 1;
        let bytes = leaf.encode();
        self.position = Position { next_seq: leaf.seq + 1, link: link(&bytes) };
        Ok((leaf, bytes))
    }
}

struct Columns<'a> {
    log: &'a StringArray,
    seq: &'a Int64Array,
    epoch: &'a Int64Array,
    kind: &'a Int32Array,
    time: &'a Int64Array,
    len: &'a Int32Array,
    digest: &'a BinaryArray,
    salt: &'a BinaryArray,
    raw: &'a BinaryArray,
}

impl<'a> Columns<'a> {
    fn of(batch: &'a RecordBatch) -> Result<Self, RebuildError> {
        let column = |name| batch.column_by_name(name).ok_or(RebuildError::Column(name));
        let long = |name| column(name)?.as_primitive_opt::<Int64Type>().ok_or(RebuildError::Column(name));
        let int = |name| column(name)?.as_primitive_opt::<Int32Type>().ok_or(RebuildError::Column(name));
        let bytes = |name| column(name)?.as_binary_opt::<i32>().ok_or(RebuildError::Column(name));
        Ok(Self {
            log: column("log")?.as_string_opt().ok_or(RebuildError::Column("log"))?,
            seq: long("seq")?,
            epoch: long("epoch")?,
            kind: int("kind")?,
            time: long("leaf_time_us")?,
            len: int("payload_len")?,
            digest: bytes("payload_digest")?,
            salt: bytes("salt")?,
            raw: bytes("raw")?,
        })
    }

    fn salt(&self, row: usize) -> Option<[u8; 16]> {
        if self.salt.is_null(row) { None } else { self.salt.value(row).try_into().ok() }
    }

    fn leaf(&self, row: usize, log: LogId, before: Position) -> Result<Leaf, RebuildError> {
        let seq = self.seq.value(row);
        let impossible = || RebuildError::Value(seq);
        // An erased payload leaves its digest behind; otherwise the digest follows from salt and bytes.
        let payload_digest = if self.digest.is_null(row) {
            let salt = self.salt(row).ok_or_else(impossible)?;
            if self.raw.is_null(row) || i64::from(self.len.value(row)) != self.raw.value(row).len() as i64 {
                return Err(impossible());
            }
            payload_digest(&salt, self.raw.value(row))
        } else {
            self.digest.value(row).try_into().map_err(|_| impossible())?
        };
        let kind = u8::try_from(self.kind.value(row)).ok().and_then(Kind::from_u8).ok_or_else(impossible)?;
        Ok(Leaf {
            log,
            epoch: u64::try_from(self.epoch.value(row)).map_err(|_| impossible())?,
            seq: u64::try_from(seq).map_err(|_| impossible())?,
            kind,
            time_us: u64::try_from(self.time.value(row)).map_err(|_| impossible())?,
            payload_len: u32::try_from(self.len.value(row)).map_err(|_| impossible())?,
            payload_digest,
            prev: before.link,
        })
    }
}
