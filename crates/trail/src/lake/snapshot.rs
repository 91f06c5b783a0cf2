//! One immutable view of the lake: committed files, the cut between them and the tail, and the tail itself.
//!
//! A query takes one snapshot and keeps it; a seal or a compaction that happens meanwhile changes nothing for it
//! (replaced files stay on disk for a day).

use super::commit::{DataFile, KeptFile, link};
use super::file::{self, FileError};
use super::fold::{FoldBase, Folded};
use super::reader::Footers;
use super::rebuild::{RECORD_COLUMNS, RebuildError, Record, Rows};
use crate::land::{Position, VerifiedFrame};
use arrow::array::RecordBatch;
use keytrail_kms::chain::leaf::leaf_hash;
use keytrail_kms::chain::{LeafHash, LogId};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::OnceCell;

/// One log in a snapshot.
#[derive(Clone, Debug)]
pub struct LogSnapshot {
    /// Where the files begin: above seq 0 once records left by retention.
    pub start: Position,
    /// The changes among those that left.
    pub kept: Option<Arc<KeptFile>>,
    /// Committed files in seq order.
    pub files: Arc<Vec<Arc<DataFile>>>,
    /// Where the files end and the tail begins.
    pub cut: Position,
    /// Records above the cut, in seq order.
    pub tail: Vec<RecordBatch>,
    /// Where the tail ends.
    pub end: Position,
    /// An imported log: others' records, with their own times.
    pub imported: bool,
}

impl LogSnapshot {
    /// Refuses what would have to begin at seq `first` where records below left by retention: nothing then looks
    /// complete that is not.
    fn check_kept(&self, first: u64) -> Result<(), RebuildError> {
        let last = self.start.next_seq.saturating_sub(1);
        if first < self.start.next_seq { Err(RebuildError::Pruned { last }) } else { Ok(()) }
    }
}

/// The lake as one query sees it.
#[derive(Debug)]
pub struct Snapshot {
    root: PathBuf,
    logs: BTreeMap<LogId, LogSnapshot>,
    notices: Vec<String>,
    fold_base: Arc<FoldBase>,
    footers: Footers,
    folded: OnceCell<Arc<Folded>>,
}

impl Snapshot {
    pub(super) fn new(
        root: PathBuf,
        logs: BTreeMap<LogId, LogSnapshot>,
        notices: Vec<String>,
        fold_base: Arc<FoldBase>,
        footers: Footers,
    ) -> Self {
        Self { root, logs, notices, fold_base, footers, folded: OnceCell::new() }
    }

    pub(super) fn footers(&self) -> &Footers {
        &self.footers
    }

    /// A snapshot of records of one log that are in no lake: rules are tested over one.
    pub(crate) fn of_tail(batches: impl IntoIterator<Item = RecordBatch>) -> Self {
        let tail: Vec<RecordBatch> = batches.into_iter().collect();
        let next_seq = tail.iter().map(|batch| batch.num_rows() as u64).sum();
        let (files, cut) = (Arc::default(), Position::START);
        let end = Position { next_seq, ..Position::START };
        let log = LogSnapshot { start: Position::START, kept: None, files, cut, tail, end, imported: false };
        let logs = BTreeMap::from([(LogId([0; 16]), log)]);
        Self::new(PathBuf::new(), logs, Vec::new(), Arc::default(), Footers::default())
    }

    /// The lake folder that file paths are relative to.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The logs, by id.
    pub fn logs(&self) -> &BTreeMap<LogId, LogSnapshot> {
        &self.logs
    }

    /// The logs that are not imported: the records of our own nodes.
    pub fn own_logs(&self) -> impl Iterator<Item = (LogId, &LogSnapshot)> {
        self.logs.iter().filter(|(_, log)| !log.imported).map(|(id, log)| (*id, log))
    }

    /// What an operator should know: stray files, a newest commit that was looked past.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// All committed files.
    pub fn files(&self) -> impl Iterator<Item = &Arc<DataFile>> {
        self.logs.values().flat_map(|log| log.files.iter())
    }

    /// All tail batches.
    pub fn tail(&self) -> impl Iterator<Item = &RecordBatch> {
        self.logs.values().flat_map(|log| log.tail.iter())
    }

    /// Up to `count` records of `log` from seq `first` on, rebuilt from rows with all that is needed to verify them;
    /// erased payloads are left out. Reads files: not for an async thread.
    pub fn frames(&self, log: LogId, first: u64, count: u64) -> Result<Vec<VerifiedFrame>, FileError> {
        let Some(state) = self.logs.get(&log) else { return Ok(Vec::new()) };
        let end = first.saturating_add(count).min(state.end.next_seq);
        let mut frames = Vec::new();
        for file in state.files.iter().filter(|file| file.first < end && file.last >= first) {
            let link = link(&file.chain_in).map_err(|_| RebuildError::Column("chainIn"))?;
            let mut rows = Rows::new(log, Position { next_seq: file.first, link });
            for batch in file::read(&self.root, file, Some(&RECORD_COLUMNS))? {
                frames.extend(rows.frames(&batch?, first..end)?);
            }
        }
        let mut rows = Rows::new(log, state.cut);
        for batch in &state.tail {
            frames.extend(rows.frames(batch, first..end)?);
        }
        Ok(frames)
    }

    /// Shows the leaf hashes of the committed records of `log` from seq `first` on, each computed from the row itself.
    /// Gives where the records end. Reads files: not for an async thread.
    pub fn leaf_hashes(&self, log: LogId, first: u64, mut visit: impl FnMut(LeafHash)) -> Result<Position, FileError> {
        let Some(state) = self.logs.get(&log) else { return Ok(Position::START) };
        state.check_kept(first)?;
        for file in state.files.iter().filter(|file| file.last >= first) {
            let link = |text: &str, name| link(text).map_err(|_| RebuildError::Column(name));
            let start = Position { next_seq: file.first, link: link(&file.chain_in, "chainIn")? };
            let mut rows = Rows::new(log, start);
            for batch in file::read(&self.root, file, Some(&RECORD_COLUMNS))? {
                rows.each(&batch?, |leaf, bytes, _| {
                    if leaf.seq >= first {
                        visit(leaf_hash(bytes));
                    }
                    Ok::<_, RebuildError>(())
                })?;
            }
            let end = Position { next_seq: file.last + 1, link: link(&file.chain_out, "chainOut")? };
            if rows.position != end {
                return Err(RebuildError::End { seq: file.last }.into());
            }
        }
        Ok(state.cut)
    }

    /// All records of `log` in seq order, in batches, the chain recomputed from the first one on. Reads files: not for
    /// an async thread.
    pub fn records(&self, log: LogId) -> impl Iterator<Item = Result<Vec<Record>, FileError>> + '_ {
        let mut rows = Rows::new(log, Position::START);
        let whole = self.logs.get(&log).map_or(Ok(()), |state| state.check_kept(0));
        let batches = self.batches_from(log, &RECORD_COLUMNS, 0);
        let batches = whole.err().map(|error| Err(error.into())).into_iter().chain(batches);
        batches.map(move |batch| Ok(rows.records(&batch?, &(0..u64::MAX))?))
    }

    /// Committed files that reach seq `first`, one open at a time, and then the tail; of files only `columns`.
    pub(crate) fn batches_from<'a>(
        &'a self,
        log: LogId,
        columns: &'a [&'a str],
        first: u64,
    ) -> impl Iterator<Item = Result<RecordBatch, FileError>> + 'a {
        let state = self.logs.get(&log);
        let files = state.into_iter().flat_map(|state| state.files.iter()).filter(move |file| file.last >= first);
        let files = files.flat_map(move |file| -> Box<dyn Iterator<Item = Result<RecordBatch, FileError>>> {
            match file::read(&self.root, file, Some(columns)) {
                Ok(batches) => batches,
                Err(error) => Box::new(std::iter::once(Err(error))),
            }
        });
        files.chain(state.into_iter().flat_map(|state| state.tail.iter().cloned().map(Ok)))
    }

    /// The tables folded from the log, made once per snapshot; the part below the cut once per set of files.
    pub(crate) async fn folded(&self) -> Result<Arc<Folded>, datafusion::error::DataFusionError> {
        self.folded.get_or_try_init(|| self.fold_base.fold(self)).await.cloned()
    }
}
