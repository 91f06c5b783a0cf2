//! Rows back to leaves: a file's own columns prove the chain, so nothing else needs to be stored per row.
//!
//! Used before a file is named by a commit (also when compaction rewrites it), when a lake or an evidence pack is
//! verified, and to hand out records.

use crate::land::{Position, VerifiedFrame};
use arrow::array::{Array, AsArray, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Int32Type, Int64Type};
use bytes::Bytes;
use keytrail_kms::chain::leaf::{link, payload_digest};
use keytrail_kms::chain::{Kind, LEAF_BYTES, Leaf, LogId, Salt};
use keytrail_kms::journal::Frame;
use std::ops::Range;

/// The columns that rebuild a record.
pub(crate) const RECORD_COLUMNS: [&str; 9] =
    ["log", "seq", "epoch", "kind", "leaf_time_us", "payload_len", "payload_digest", "salt", "raw"];

/// A record rebuilt from its row: the digest in its leaf was recomputed from salt and payload, if they are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its leaf.
    pub leaf: Leaf,
    /// Salt and payload; None when the payload was erased.
    pub body: Option<(Salt, Bytes)>,
}

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
    /// The record left by retention.
    #[error("records up to seq {last} left the lake by retention")]
    Pruned {
        /// The last that left.
        last: u64,
    },
    /// The chain leads elsewhere than the commit says.
    #[error("rows up to seq {seq} do not lead to the committed link")]
    End {
        /// The last seq.
        seq: u64,
    },
}

/// Walks rows in seq order and recomputes the chain.
pub(crate) struct Rows {
    log_text: String,
    log: LogId,
    /// Where the chain stands after the rows taken.
    pub(crate) position: Position,
    /// Smallest leaf time taken, 0 without rows.
    pub(super) time_first: u64,
    /// Largest leaf time taken.
    pub(super) time_last: u64,
    rows: u64,
}

impl Rows {
    pub(crate) fn new(log: LogId, start: Position) -> Self {
        Self { log_text: log.to_string(), log, position: start, time_first: 0, time_last: 0, rows: 0 }
    }

    /// Takes the rows of a batch; each must be the next seq of the log.
    pub(super) fn take(&mut self, batch: &RecordBatch) -> Result<(), RebuildError> {
        self.each(batch, |_, _, _| Ok(()))
    }

    /// Takes a batch and shows each leaf, decoded and as it is hashed, with salt and payload, if they are there.
    pub(crate) fn each<E: From<RebuildError>>(
        &mut self,
        batch: &RecordBatch,
        mut look: impl FnMut(&Leaf, &[u8; LEAF_BYTES], Option<(Salt, &[u8])>) -> Result<(), E>,
    ) -> Result<(), E> {
        let columns = Columns::of(batch)?;
        for row in 0..batch.num_rows() {
            let (leaf, bytes) = self.take_row(&columns, row)?;
            look(&leaf, &bytes, columns.body(row))?;
        }
        Ok(())
    }

    /// Takes a batch and gives back the frames of `wanted` seqs whose payloads were not erased.
    pub(super) fn frames(
        &mut self,
        batch: &RecordBatch,
        wanted: Range<u64>,
    ) -> Result<Vec<VerifiedFrame>, RebuildError> {
        let records = self.records(batch, &wanted)?.into_iter();
        Ok(records
            .filter_map(|Record { leaf, body }| {
                let (salt, payload) = body?;
                Some(VerifiedFrame { leaf, frame: Frame { leaf: leaf.encode(), salt, payload } })
            })
            .collect())
    }

    /// Takes a batch and gives back the records of `wanted` seqs.
    pub(crate) fn records(&mut self, batch: &RecordBatch, wanted: &Range<u64>) -> Result<Vec<Record>, RebuildError> {
        let mut records = Vec::new();
        self.each(batch, |leaf, _, body| {
            if wanted.contains(&leaf.seq) {
                let body = body.map(|(salt, raw)| (salt, Bytes::copy_from_slice(raw)));
                records.push(Record { leaf: *leaf, body });
            }
            Ok::<_, RebuildError>(())
        })?;
        Ok(records)
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

    fn body(&self, row: usize) -> Option<(Salt, &'a [u8])> {
        if self.salt.is_null(row) || self.raw.is_null(row) {
            return None;
        }
        Some((self.salt.value(row).try_into().ok()?, self.raw.value(row)))
    }

    fn leaf(&self, row: usize, log: LogId, before: Position) -> Result<Leaf, RebuildError> {
        let seq = self.seq.value(row);
        let impossible = || RebuildError::Value(seq);
        // An erased payload leaves its digest behind; otherwise the digest follows from salt and bytes.
        let payload_digest = if self.digest.is_null(row) {
            let (salt, raw) = self.body(row).ok_or_else(impossible)?;
            if i64::from(self.len.value(row)) != raw.len() as i64 {
                return Err(impossible());
            }
            payload_digest(&salt, raw)
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
