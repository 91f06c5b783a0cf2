//! Imported logs under watch: their records go through the rules as they land, and what is found carries proofs under the
//! import's own key.
//!
//! Only what the import has signed is judged, after our own tree over the lake's rows agrees with it. Who may write `DIR/imports`
//! could sign any story there, so such alerts say whose key they stand under, and the responder does nothing because of
//! them. A record that tells of long ago is judged, since later ones are compared with it, but raises nothing: looking back
//! is a backtest's business.

use super::{FOUND_MAX, TrailError, Watch};
use crate::alert::Alert;
use crate::describe;
use crate::import::{FOLDER, names};
use crate::lake::file::FileError;
use crate::lake::schema::records_schema;
use crate::lake::snapshot::Snapshot;
use crate::rule::{Finding, Integrity};
use crate::service::prove::{ProveError, Told, evidence, plain};
use crate::store::{Store, StoreError};
use arrow::array::{AsArray as _, RecordBatch};
use arrow::datatypes::Int64Type;
use keytrail_kms::chain::tree::BLOCK_LEAVES;
use keytrail_kms::chain::{Checkpoint, LeafHash, LogId, LogKeys, Tree};
use keytrail_kms::signer::{LATEST_NAME, VKEY_NAME};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most imported logs that are watched; further ones are left to backtests.
const IMPORTS_MAX: usize = 64;

/// Longest key or note read from an import's folder.
const NOTE_BYTES_MAX: u64 = 64 * 1024;

/// Most rows given to the rules in one turn: our own log waits for them.
const ROWS_PER_TURN: u64 = 16_384;

/// An alert about events that ended longer ago is history.
const RAISED_WITHIN_US: i64 = 7 * 24 * 3_600 * 1_000_000;

/// Why an imported log is not followed, for now.
#[derive(Debug, thiserror::Error)]
enum ImportError {
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] std::io::Error),
    #[error("key or checkpoint is not its own: {0}")]
    Note(String),
    #[error("rows cannot be read")]
    Rows(#[from] FileError),
    #[error("rows do not lead to its checkpoint over {0} records")]
    Mismatch(u64),
    #[error("stored tree cannot be read")]
    Store(#[from] StoreError),
}

/// One of them.
struct Imported {
    keys: LogKeys,
    origin: String,
    /// Over what is signed and agrees with the lake.
    tree: Tree,
    proved: Option<(String, Checkpoint)>,
}

/// All of them.
pub(super) struct Imports {
    dir: PathBuf,
    logs: BTreeMap<LogId, Imported>,
    /// What was wrong last, by name: told once.
    faults: BTreeMap<String, String>,
}

impl Imports {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), logs: BTreeMap::new(), faults: BTreeMap::new() }
    }

    /// The trees, to be stored with the rules' state.
    pub(super) fn trees(&self) -> impl Iterator<Item = (LogId, &Tree)> {
        self.logs.iter().map(|(log, imported)| (*log, &imported.tree))
    }

    /// The log's name, if it is an import that is watched.
    pub(super) fn origin(&self, log: LogId) -> Option<&str> {
        self.logs.get(&log).map(|imported| imported.origin.as_str())
    }

    /// Looks at each import's key and checkpoint. Reads files.
    fn refresh(&mut self, snapshot: &Snapshot, store: &Store) {
        for name in names(&self.dir).into_iter().take(IMPORTS_MAX) {
            match self.follow(&name, snapshot, store) {
                Ok(()) => drop(self.faults.remove(&name)),
                Err(error) => {
                    let fault = describe(&error);
                    if self.faults.insert(name.clone(), fault.clone()).as_ref() != Some(&fault) {
                        tracing::error!(import = name, error = fault, "imported log is not judged any further");
                    }
                }
            }
        }
    }

    fn follow(&mut self, name: &str, snapshot: &Snapshot, store: &Store) -> Result<(), ImportError> {
        let folder = self.dir.join(FOLDER).join(name);
        // It has not begun yet, or nothing of it is signed.
        let (Some(vkey), Some(note)) = (read(&folder.join(VKEY_NAME))?, read(&folder.join(LATEST_NAME))?) else {
            return Ok(());
        };
        let bad = |error: &dyn std::error::Error| ImportError::Note(describe(error));
        let vkey: keytrail_kms::chain::VerifyKey = vkey.trim().parse().map_err(|error| bad(&error))?;
        let keys = LogKeys::from(vkey);
        let checkpoint = keys.verify(&note).map_err(|error| bad(&error))?;
        let log = LogId::of_origin(&checkpoint.origin);
        // Only logs that are marked as imported: no folder here may speak for a node's log.
        let Some(state) = snapshot.logs().get(&log).filter(|state| state.imported) else { return Ok(()) };
        if state.cut.next_seq < checkpoint.size {
            return Ok(());
        }
        let imported = match self.logs.entry(log) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let (origin, tree) = (checkpoint.origin.clone(), store.tree(log)?);
                place.insert(Imported { keys: keys.clone(), origin, tree, proved: None })
            }
        };
        if imported.keys != keys {
            return Err(ImportError::Note("another key than before".to_owned()));
        }
        if imported.proved.as_ref().is_none_or(|(_, known)| known.size < checkpoint.size) {
            imported.grow(log, checkpoint.size, snapshot)?;
            if imported.tree.root() != checkpoint.root {
                // What was stored may be of rows that are not there any more.
                imported.tree = Tree::new();
                imported.grow(log, checkpoint.size, snapshot)?;
            }
            if imported.tree.root() != checkpoint.root {
                return Err(ImportError::Mismatch(checkpoint.size));
            }
            imported.proved = Some((note, checkpoint));
        }
        Ok(())
    }
}

impl Imported {
    fn grow(&mut self, log: LogId, size: u64, snapshot: &Snapshot) -> Result<(), ImportError> {
        if self.tree.size() > size {
            self.tree = Tree::new();
        }
        let (first, tree) = (self.tree.size(), &mut self.tree);
        snapshot.leaf_hashes(log, first, |leaf| {
            if tree.size() < size {
                tree.push(leaf);
            }
        })?;
        if self.tree.size() == size { Ok(()) } else { Err(ImportError::Mismatch(size)) }
    }

    fn alert(&self, finding: &Finding, snapshot: &Snapshot, told: Told) -> Result<Alert, ProveError> {
        let alert = plain(finding, &self.origin, told);
        let Some((note, checkpoint)) = &self.proved else { return Ok(alert) };
        let log = LogId::of_origin(&self.origin);
        let frame = |seq| match snapshot.frames(log, seq, 1) {
            Ok(mut frames) => frames.pop().map(|verified| verified.frame),
            Err(error) => {
                tracing::warn!(%log, seq, error = describe(&error), "record for evidence cannot be read");
                None
            }
        };
        let leaves = |block: u64| -> Result<Vec<LeafHash>, FileError> {
            let frames = snapshot.frames(log, block * BLOCK_LEAVES, BLOCK_LEAVES)?;
            if frames.len() as u64 == BLOCK_LEAVES {
                return Ok(frames.iter().map(|verified| verified.frame.leaf_hash()).collect());
            }
            // Erased payloads leave their leaves.
            let mut leaves = Vec::new();
            snapshot.leaf_hashes(log, block * BLOCK_LEAVES, |leaf| {
                if (leaves.len() as u64) < BLOCK_LEAVES {
                    leaves.push(leaf);
                }
            })?;
            Ok(leaves)
        };
        let proof = |seq| {
            let proof = self.tree.inclusion_proof(seq, checkpoint.size, leaves);
            proof.map_err(|error| ProveError::Imported(describe(&error)))
        };
        let evidence = evidence(&finding.evidence, log, frame, proof)?;
        Ok(Alert { evidence, checkpoint: note.clone(), ..alert })
    }
}

/// The text of a small file; None if it is not there.
fn read(path: &Path) -> Result<Option<String>, ImportError> {
    let mut text = String::new();
    match File::open(path).and_then(|file| file.take(NOTE_BYTES_MAX).read_to_string(&mut text)) {
        Ok(_) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ImportError::Read(path.to_owned(), error)),
    }
}

impl Watch {
    /// Looks for what imports signed meanwhile.
    pub(super) fn refresh_imports(&mut self) {
        let snapshot: Arc<Snapshot> = self.lake.subscribe().borrow().clone();
        self.imports.refresh(&snapshot, &self.store);
    }

    /// Gives the rules the next rows of imported logs. Reads files.
    pub(super) fn feed_imports(&mut self) {
        let behind = |(log, imported): (&LogId, &Imported)| {
            let size = imported.proved.as_ref()?.1.size;
            let next_seq = self.engine.position(&log.to_string());
            (next_seq < size).then_some((*log, next_seq, size.min(next_seq + ROWS_PER_TURN)))
        };
        // What waits is judged first.
        let Some((log, next_seq, end)) = self.imports.logs.iter().find_map(behind).filter(|_| self.waiting.is_empty())
        else {
            return;
        };
        let snapshot: Arc<Snapshot> = self.lake.subscribe().borrow().clone();
        match rows(&snapshot, log, next_seq, end) {
            Ok(batches) => batches.into_iter().for_each(|batch| self.wait(batch)),
            Err(error) => {
                tracing::error!(%log, error = describe(&error), "rows of an imported log cannot be read");
                // Until the next look.
                self.imports.logs.get_mut(&log).and_then(|imported| imported.proved.take());
            }
        }
    }

    /// A finding for each imported log of which something came when rules had judged what happened later.
    pub(super) fn look_for_late(&mut self) {
        let now_us = i64::try_from(self.clock.now_us()).unwrap_or(i64::MAX);
        for (log, late) in self.engine.take_late() {
            // Of long ago nothing is raised, whatever its order.
            if late.time_us < now_us.saturating_sub(RAISED_WITHIN_US) || self.found.len() >= FOUND_MAX {
                continue;
            }
            let seconds = u64::try_from(late.behind_us / 1_000_000).unwrap_or(0);
            self.found.push_back(Integrity {
                log,
                time_us: now_us,
                finding: "late".to_owned(),
                first_seq: Some(late.first_seq),
                last_seq: Some(late.last_seq),
                detail: format!(
                    "{} events came when later ones were judged, the last of them {seconds} s behind",
                    late.events
                ),
                value: Some(seconds),
                ..Integrity::default()
            });
        }
    }

    /// Alerts about an imported log. Needs no checkpoint from anybody: what is judged is proved already.
    pub(super) fn raise_imported(&mut self, log: LogId, findings: Vec<(Finding, u32)>) -> Result<(), TrailError> {
        let snapshot: Arc<Snapshot> = self.lake.subscribe().borrow().clone();
        let since_us = i64::try_from(self.clock.now_us()).unwrap_or(i64::MAX).saturating_sub(RAISED_WITHIN_US);
        let (mut alerts, mut old) = (Vec::new(), 0_u64);
        for (finding, revision) in findings {
            if finding.last_event_us < since_us {
                old += 1;
                continue;
            }
            let told = self.told(&finding, revision);
            let Some(imported) = self.imports.logs.get(&log) else { continue };
            match imported.alert(&finding, &snapshot, told) {
                Ok(alert) => alerts.push(alert),
                Err(error) => self.disagree(log, &error),
            }
        }
        if old > 0 {
            tracing::info!(%log, old, "findings about events of long ago are not raised");
        }
        if alerts.is_empty() { Ok(()) } else { self.keep(alerts) }
    }
}

/// Rows of `log` from `first` to before `end`, with all columns.
fn rows(snapshot: &Snapshot, log: LogId, first: u64, end: u64) -> Result<Vec<RecordBatch>, FileError> {
    let schema = records_schema();
    let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let mut found = Vec::new();
    for batch in snapshot.batches_from(log, &columns, first) {
        let batch = batch?;
        let Some(seqs) = batch.column_by_name("seq").and_then(|seqs| seqs.as_primitive_opt::<Int64Type>()) else {
            continue;
        };
        // In order of seq, as files are.
        let at = |seq: u64| seqs.values().partition_point(|&own| u64::try_from(own).unwrap_or(0) < seq);
        let (from, to) = (at(first), at(end));
        if to > from {
            found.push(batch.slice(from, to - from));
        }
        if to < batch.num_rows() {
            break;
        }
    }
    Ok(found)
}
