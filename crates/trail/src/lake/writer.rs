//! The lake's one writer: takes landed records into the tail, seals them into files, commits, merges, lets go.
//!
//! A seal runs beside everything else: the records being written stay visible until their commit is durable, then the
//! cut moves. Order: file and folder durable, commit put, commit and folder durable, cut. A crash between any two
//! leaves a file that no commit names, or a commit whose records are simply not landed again. A merge writes beside the
//! seals (`compact`); its commit takes its turn among theirs.
//!
//! An imported log has a writer of its own, the same code with a lock of its own; this lake's writer only shows it.

use super::commit::{Commit, DataFile, LogFiles, Retention, digest};
use super::compact::{self, Merge};
use super::decode::{decode, decode_imported};
use super::erase::Erasure;
use super::file::{self, FileError};
use super::fold::FoldBase;
use super::imported;
use super::order::RowOrder;
use super::reader::Footers;
use super::rebuild::{RECORD_COLUMNS, Rows};
use super::retain;
use super::snapshot::{LogSnapshot, Snapshot};
use super::store::{Access, LakeError, SetAside, SharedStore, Store};
use super::tail::Tail;
use crate::describe;
use crate::land::{Landed, Position, VerifiedFrame};
use arrow::array::RecordBatch;
use keytrail_kms::chain::LogId;
use keytrail_kms::clock::Clock;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// When files are sealed and merged.
#[derive(Clone, Debug)]
pub struct LakeOptions {
    /// Seal at this many rows.
    pub seal_rows: u64,
    /// Seal at this many payload bytes.
    pub seal_raw_bytes: u64,
    /// Seal when the oldest unsealed record came this long ago.
    pub seal_after: Duration,
    /// Merge adjacent files of like size once there are this many.
    pub compact_files: usize,
    /// Largest file that merging makes, in rows.
    pub compact_rows_max: u64,
    /// Keep replaced files this long for queries that still read them.
    pub keep_replaced: Duration,
    /// Write a commit snapshot each this many commits.
    pub snapshot_every: u64,
    /// Let records go that are older; None keeps all. Changes stay (`retain`).
    pub keep: Option<Duration>,
}

impl Default for LakeOptions {
    fn default() -> Self {
        Self {
            seal_rows: 131_072,
            seal_raw_bytes: 64 << 20,
            seal_after: Duration::from_secs(15 * 60),
            compact_files: 8,
            compact_rows_max: 2 << 20,
            keep_replaced: Duration::from_secs(24 * 3600),
            snapshot_every: 1_000,
            keep: None,
        }
    }
}

/// Most payload bytes decoded into one batch: Arrow's 32-bit offsets end at 2 GiB.
const DECODE_BYTES_MAX: usize = 32 << 20;

/// Between two looks for records that are old enough to go: each time writes all kept changes anew.
const RETENTION_PAUSE: Duration = Duration::from_secs(3600);

/// After a merge that failed for want of space or the like.
const MERGE_PAUSE: Duration = Duration::from_secs(60);

/// What opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Where each log's committed records end; sources go on from here.
    pub positions: BTreeMap<LogId, Position>,
    /// Newest commits that a crash had torn.
    pub set_aside: Vec<SetAside>,
    /// Files that no commit names, relative to the lake; invisible to queries.
    pub strays: Vec<String>,
}

/// A commit that became durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Which log.
    pub log: LogId,
    /// All records below this seq are in committed files.
    pub next_seq: u64,
}

/// The writer. One per folder, enforced by a lock; dropping it loses nothing that a source cannot give again.
pub struct Lake {
    store: SharedStore,
    options: LakeOptions,
    clock: Arc<dyn Clock>,
    logs: BTreeMap<LogId, LogState>,
    /// Imported logs as last seen; not this writer's.
    imported: BTreeMap<LogId, Imported>,
    /// This is the writer of an imported log, and of nothing else.
    importing: bool,
    notices: Vec<String>,
    fold_base: Arc<FoldBase>,
    footers: Footers,
    published: watch::Sender<Arc<Snapshot>>,
    job: Option<Job>,
    /// Before the lock: dropping it ends the merge's thread, which writes to the folder.
    merge: Option<Merge>,
    /// No merge starts before, Unix microseconds.
    merge_after_us: u64,
    /// When records last left, or were looked for, Unix microseconds.
    retained_us: Option<u64>,
    _lock: File,
}

struct LogState {
    committed: LogFiles,
    /// `committed.files` as snapshots share it.
    files: Arc<Vec<Arc<DataFile>>>,
    sealing: Option<Tail>,
    tail: Tail,
    /// Erasures that landed and whose files are not rewritten yet, with the seq from which files are still to be looked
    /// at. Nothing is sealed before they are done.
    erasing: VecDeque<(Arc<Erasure>, u64)>,
    /// Files of this log could not be merged, and will not be before somebody looks at them.
    unmergeable: bool,
}

/// An imported log as the lake's writer sees it.
#[derive(Default)]
struct Imported {
    /// Number of the newest commit when it was last read.
    newest: Option<u64>,
    view: Option<LogSnapshot>,
}

struct Job {
    log: LogId,
    work: Work,
    handle: JoinHandle<Result<Option<Vec<u8>>, LakeError>>,
}

/// What a job's commit says.
struct Change {
    adds: Vec<DataFile>,
    chain_in: String,
    chain_out: String,
    retention: Option<Retention>,
}

impl From<DataFile> for Change {
    fn from(file: DataFile) -> Self {
        let (chain_in, chain_out) = (file.chain_in.clone(), file.chain_out.clone());
        Self { adds: vec![file], chain_in, chain_out, retention: None }
    }
}

/// What a job's commit does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Seal,
    Merge,
    /// Rewrites the file before this seq, if it holds something that is to be erased.
    Erase {
        next_seq: u64,
    },
    /// Lets the oldest files go.
    Retain,
}

impl Lake {
    /// Opens the lake at `root` (`DIR/lake`) for writing, creating an empty one where nothing is.
    pub fn open(root: &Path, options: LakeOptions, clock: Arc<dyn Clock>) -> Result<(Self, Opened), LakeError> {
        file::create_folder(root, root)?;
        let lock = lock(root)?;
        // Asked after a log was seen, not before: an import may begin at any time, and marks its log first.
        let ours = |log: Option<LogId>| log.is_none_or(|log| !imported::is_marked(root, log));
        let (mut lake, opened) = Self::open_logs(root, options, clock, lock, ours)?;
        lake.refresh_imported()?;
        Ok((lake, opened))
    }

    /// Opens the imported log of `origin` in the lake at `root` for writing, and no other. Works beside the lake's own
    /// writer; a log that is not there yet is marked as imported before anything is written.
    pub fn open_imported(
        root: &Path,
        origin: &str,
        options: LakeOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, Opened), LakeError> {
        file::create_folder(root, root)?;
        let log = LogId::of_origin(origin);
        // Not a log that somebody else writes already.
        if !imported::is_marked(root, log) && Store::at(root).newest(log)?.is_some() {
            return Err(LakeError::Conflict { log, n: 0 });
        }
        let lock = imported::lock(root, origin)?;
        let (mut lake, opened) = Self::open_logs(root, options, clock, lock, |other| other == Some(log))?;
        lake.importing = true;
        lake.logs.entry(log).or_insert_with(|| LogState::new(LogFiles::empty()));
        lake.publish();
        Ok((lake, opened))
    }

    fn open_logs(
        root: &Path,
        options: LakeOptions,
        clock: Arc<dyn Clock>,
        lock: File,
        ours: impl Fn(Option<LogId>) -> bool,
    ) -> Result<(Self, Opened), LakeError> {
        let store = Store::at(root);
        let mut opened = Opened::default();
        let mut logs = BTreeMap::new();
        for log in store.logs()?.into_iter().filter(|log| ours(Some(*log))) {
            let (committed, set_aside) = store.replay(log, Access::Write)?;
            opened.set_aside.extend(set_aside);
            opened.positions.insert(log, committed.position);
            logs.insert(log, LogState::new(committed));
        }
        let states = logs.iter().map(|(log, state)| (*log, &state.committed)).collect();
        opened.strays = store.strays(&states, Access::Write, ours)?;
        let notices = notices(&opened);
        for notice in &notices {
            tracing::warn!(lake = %root.display(), notice, "lake opened");
        }
        let fold_base = Arc::new(FoldBase::default());
        let footers = Footers::default();
        let snapshot =
            Snapshot::new(root.to_owned(), BTreeMap::new(), notices.clone(), fold_base.clone(), footers.clone());
        let mut lake = Self {
            store: Arc::new(store),
            options,
            clock,
            logs,
            imported: BTreeMap::new(),
            importing: false,
            notices,
            fold_base,
            footers,
            published: watch::Sender::new(Arc::new(snapshot)),
            job: None,
            merge: None,
            merge_after_us: 0,
            retained_us: None,
            _lock: lock,
        };
        lake.publish();
        // Those that an erasure replaced just before a crash; all others are too new.
        if let Err(error) = lake.remove_replaced() {
            tracing::warn!(%error, "replaced files cannot be removed");
        }
        Ok((lake, opened))
    }

    /// Takes landed records into the tail, where queries see them at once, and gives them back decoded, for the rules.
    pub fn append(&mut self, landed: &Landed) -> Result<Vec<RecordBatch>, LakeError> {
        if self.imported.contains_key(&landed.log) {
            return Err(LakeError::Imported { log: landed.log });
        }
        let now_us = self.clock.now_us();
        let decode = if self.importing { decode_imported } else { decode };
        let state = self.logs.entry(landed.log).or_insert_with(|| LogState::new(LogFiles::empty()));
        let expected = state.tail.end.next_seq;
        let follows = landed.frames.first().is_none_or(|first| first.leaf.prev == state.tail.end.link);
        if landed.first_seq != expected || !follows {
            return Err(LakeError::Order { log: landed.log, expected, found: landed.first_seq });
        }
        let mut decoded = Vec::new();
        for frames in bounded(&landed.frames) {
            let batch = decode(frames);
            let Some(last) = frames.last() else { continue };
            let end = Position { next_seq: last.leaf.seq + 1, link: last.frame.link() };
            let raw_bytes = frames.iter().map(|verified| verified.frame.payload.len() as u64).sum();
            state
                .tail
                .push(batch.clone(), end, raw_bytes, now_us)
                .map_err(|source| FileError::Arrow { path: self.store.data_path(landed.log), source })?;
            decoded.push(batch);
        }
        for erasure in landed.frames.iter().filter_map(Erasure::of) {
            state
                .tail
                .erase(&erasure)
                .map_err(|source| FileError::Arrow { path: self.store.data_path(landed.log), source })?;
            state.erasing.push_back((Arc::new(erasure), 0));
        }
        self.publish();
        Ok(decoded)
    }

    /// Finishes a running seal or merge when it is done and starts the next one that is due. To be called often; waits
    /// only when records come faster than they can be sealed. On an error that [`LakeError::is_retryable`] the records
    /// are in the tail again; after another one the process must end.
    pub async fn maybe_seal(&mut self) -> Result<Option<Committed>, LakeError> {
        let mut committed = None;
        let full = self.logs.values().any(|state| state.sealing.is_some() && self.is_due(&state.tail, 2));
        if full || self.job.as_ref().is_some_and(|job| job.handle.is_finished()) {
            committed = self.finish().await?;
        }
        if self.job.is_none() {
            self.start_erasure();
        }
        if self.job.is_none() && self.merge.as_ref().is_some_and(Merge::is_finished) {
            self.commit_merge().await?;
        }
        if self.job.is_none() {
            let due = self.logs.iter().find(|(_, state)| self.is_due(&state.tail, 1)).map(|(log, _)| *log);
            match due {
                Some(log) => self.start_seal(log),
                None => self.start_retention(),
            }
        }
        self.start_merge()?;
        Ok(committed)
    }

    /// Seals everything in the tail now; for a clean stop.
    pub async fn flush(&mut self) -> Result<Vec<Committed>, LakeError> {
        self.merge = None;
        let mut committed: Vec<Committed> = self.finish().await?.into_iter().collect();
        self.start_erasure();
        while self.job.is_some() {
            self.finish().await?;
            self.start_erasure();
        }
        let logs: Vec<LogId> = self.logs.keys().copied().collect();
        for log in logs {
            self.start_seal(log);
            committed.extend(self.finish().await?);
        }
        Ok(committed)
    }

    /// Merges small files until none are due, waiting for it. In service `maybe_seal` does this in passing.
    pub async fn compact(&mut self) -> Result<(), LakeError> {
        self.finish().await?;
        loop {
            self.start_merge()?;
            if self.merge.is_none() {
                return Ok(());
            }
            self.commit_merge().await?;
            self.finish().await?;
        }
    }

    /// Lets records go that are older than `LakeOptions::keep`, waiting for it. In service `maybe_seal` does this.
    pub async fn retain(&mut self) -> Result<(), LakeError> {
        self.finish().await?;
        self.retained_us = None;
        self.start_retention();
        self.finish().await?;
        Ok(())
    }

    /// Removes replaced files that no query can be reading any more. Returns how many.
    pub fn remove_replaced(&mut self) -> Result<usize, LakeError> {
        let keep_us = u64::try_from(self.options.keep_replaced.as_micros()).unwrap_or(u64::MAX);
        let now_us = self.clock.now_us();
        let mut count = 0;
        for state in self.logs.values_mut() {
            let old: Vec<String> = state
                .committed
                .removed
                .iter()
                .filter(|(_, at_us)| now_us.saturating_sub(**at_us) >= keep_us)
                .map(|(path, _)| path.clone())
                .collect();
            for path in old {
                let full = self.store.root.join(&path);
                std::fs::remove_file(&full).map_err(|source| LakeError::Io { step: "remove", path: full, source })?;
                state.committed.removed.remove(&path);
                count += 1;
            }
        }
        Ok(count)
    }

    /// Looks for what imports committed meanwhile. An imported log that cannot be read is reported and left out: it is
    /// not this writer's, and must not stop it.
    pub fn refresh_imported(&mut self) -> Result<(), LakeError> {
        let marked: BTreeSet<LogId> = imported::logs(&self.store.root)?;
        let mut changed = false;
        for log in marked.into_iter().filter(|_| !self.importing) {
            let newest = self.store.newest(log)?;
            let seen = self.imported.entry(log).or_default();
            if seen.newest == newest {
                continue;
            }
            changed = true;
            *seen = match self.store.replay(log, Access::Read) {
                // One that is torn, or still being written, is looked at again.
                Ok((files, _)) => {
                    Imported { newest: files.next_commit.checked_sub(1), view: Some(LogState::new(files).view(true)) }
                }
                Err(error) => {
                    tracing::warn!(%log, %error, "imported log cannot be read and is not shown");
                    Imported { newest, view: None }
                }
            };
        }
        if changed {
            self.publish();
        }
        Ok(())
    }

    /// The lake as it is now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.published.borrow().clone()
    }

    /// Snapshots as they come, for the query doors of this process.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.published.subscribe()
    }

    /// Where each log's records end, the tail included.
    pub fn positions(&self) -> BTreeMap<LogId, Position> {
        self.logs.iter().map(|(log, state)| (*log, state.tail.end)).collect()
    }

    /// Where each log's records in committed files end.
    pub fn committed_positions(&self) -> BTreeMap<LogId, Position> {
        self.logs.iter().map(|(log, state)| (*log, state.committed.position)).collect()
    }

    fn is_due(&self, tail: &Tail, times: u64) -> bool {
        let waited_us = self.clock.now_us().saturating_sub(tail.since_us);
        let after_us = u64::try_from(self.options.seal_after.as_micros()).unwrap_or(u64::MAX);
        !tail.is_empty()
            && (tail.rows() >= self.options.seal_rows.saturating_mul(times)
                || tail.raw_bytes >= self.options.seal_raw_bytes.saturating_mul(times)
                || (times == 1 && waited_us >= after_us))
    }

    fn start_seal(&mut self, log: LogId) {
        let Some(state) = self.logs.get_mut(&log) else { return };
        if state.tail.is_empty() {
            return;
        }
        let next = Tail::at(state.tail.end);
        let sealing = std::mem::replace(&mut state.tail, next);
        state.sealing = Some(sealing.clone());
        let write = move |root: &Path| {
            let rows = sealing.batches.into_iter().map(Ok);
            let written = file::write(root, log, sealing.start, RowOrder::Seq, rows)?;
            Ok(Some(written.into()))
        };
        self.start_job(log, Work::Seal, Vec::new(), write);
    }

    /// Starts the next rewrite that an erasure is waiting for.
    fn start_erasure(&mut self) {
        if self.logs.values().any(|state| !state.erasing.is_empty()) {
            // Its file could bring back what is erased.
            self.merge = None;
        }
        let mut next = None;
        for (log, state) in &mut self.logs {
            while let Some((erasure, from)) = state.erasing.front() {
                let file =
                    state.files.iter().find(|file| file.first >= *from && erasure.touches(file.first, file.last));
                if let Some(file) = file {
                    next = Some((*log, Arc::clone(erasure), Arc::clone(file)));
                    break;
                }
                state.erasing.pop_front();
            }
        }
        let Some((log, erasure, file)) = next else { return };
        let work = Work::Erase { next_seq: file.last + 1 };
        self.start_job(log, work, vec![file.path.clone()], move |root: &Path| {
            Ok(erasure.rewrite(root, log, &file)?.map(Change::from))
        });
    }

    /// Starts a merge where one is due and none is under way.
    fn start_merge(&mut self) -> Result<(), LakeError> {
        // While a merge is being committed its inputs still count as files: the same one would begin again, write a file of
        // the same name, find its inputs gone and remove what was committed.
        let committing = self.job.as_ref().is_some_and(|job| job.work == Work::Merge);
        if self.merge.is_some() || committing || self.clock.now_us() < self.merge_after_us {
            return Ok(());
        }
        let mut mergeable = self.logs.iter().filter(|(_, state)| !state.unmergeable && state.erasing.is_empty());
        let due = mergeable.find_map(|(log, state)| {
            let files = compact::due(&state.files, self.options.compact_files, self.options.compact_rows_max)?;
            Some((*log, files))
        });
        if let Some((log, inputs)) = due {
            self.merge = Some(Merge::start(&self.store.root, log, inputs)?);
        }
        Ok(())
    }

    /// Waits for the merge and starts its commit, if its inputs are still the lake.
    async fn commit_merge(&mut self) -> Result<(), LakeError> {
        let Some(merge) = &mut self.merge else { return Ok(()) };
        let merged = merge.wait().await;
        let (log, removes) = (merge.log, std::mem::take(&mut merge.inputs));
        self.merge = None;
        let Some(state) = self.logs.get_mut(&log) else { return Ok(()) };
        match merged {
            Ok(merged) => {
                if removes.iter().all(|path| state.files.iter().any(|file| file.path == *path)) {
                    self.start_job(log, Work::Merge, removes, move |_: &Path| Ok(Some(merged.into())));
                } else if !state.files.iter().any(|file| file.path == merged.path) {
                    let path = self.store.root.join(&merged.path);
                    std::fs::remove_file(&path).map_err(|source| LakeError::Io { step: "remove", path, source })?;
                }
            }
            // Nothing depends on a merge: landing goes on, and the files stay as they are.
            Err(error) if error.is_retryable() => {
                tracing::warn!(%log, error = describe(&error), "lake files cannot be merged now");
                let pause = u64::try_from(MERGE_PAUSE.as_micros()).unwrap_or(u64::MAX);
                self.merge_after_us = self.clock.now_us().saturating_add(pause);
            }
            Err(error) => {
                tracing::error!(%log, error = describe(&error), "lake files are not merged any more");
                state.unmergeable = true;
                self.notices.push(format!("{} (log {log})", describe(&error)));
                self.publish();
            }
        }
        Ok(())
    }

    /// Lets the oldest files go when they are due.
    fn start_retention(&mut self) {
        let Some(keep) = self.options.keep.filter(|_| !self.importing && self.merge.is_none()) else { return };
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let now_us = self.clock.now_us();
        if self.retained_us.is_some_and(|at_us| now_us.saturating_sub(at_us) < micros(RETENTION_PAUSE)) {
            return;
        }
        let before_us = now_us.saturating_sub(micros(keep));
        let due = self.logs.iter().find_map(|(log, state)| {
            let leaving = retain::leaving(&state.files, before_us);
            (!leaving.is_empty()).then(|| (*log, leaving, state.committed.kept.clone(), state.committed.start.link))
        });
        let Some((log, leaving, kept, link)) = due else {
            self.retained_us = Some(now_us);
            return;
        };
        let mut removes: Vec<String> = leaving.iter().map(|file| file.path.clone()).collect();
        removes.extend(kept.iter().map(|kept| kept.path.clone()));
        self.start_job(log, Work::Retain, removes, move |root: &Path| {
            let retention = retain::keep_changes(root, log, &leaving, kept.as_deref())?;
            let chain_out = leaving.last().map_or_else(|| link.to_string(), |file| file.chain_out.clone());
            Ok(Some(Change { adds: Vec::new(), chain_in: link.to_string(), chain_out, retention: Some(retention) }))
        });
    }

    /// Writes a file and then its commit, beside everything else.
    fn start_job(
        &mut self,
        log: LogId,
        work: Work,
        removes: Vec<String>,
        write: impl FnOnce(&Path) -> Result<Option<Change>, LakeError> + Send + 'static,
    ) {
        let Some(state) = self.logs.get(&log) else { return };
        let (n, previous_digest) = (state.committed.next_commit, state.committed.digest.clone());
        let (store, created_at_micros) = (self.store.clone(), self.clock.now_us());
        let handle = tokio::spawn(async move {
            let root = store.root.clone();
            let written = tokio::task::spawn_blocking(move || write(&root)).await.map_err(LakeError::Job)??;
            let Some(Change { adds, chain_in, chain_out, retention }) = written else { return Ok(None) };
            fail::fail_point!("lake::after_file", |_| std::process::abort());
            let commit = Commit {
                version: 0,
                log: log.to_string(),
                n,
                adds,
                removes,
                chain_in,
                chain_out,
                previous_digest,
                created_at_micros,
                erasure: matches!(work, Work::Erase { .. }),
                retention,
            };
            let mut bytes = serde_json::to_vec_pretty(&commit.versioned()).expect("a commit is plain data");
            bytes.push(b'\n');
            fail::fail_point!("lake::before_commit", |_| std::process::abort());
            store.put_commit(log, n, bytes.clone()).await?;
            fail::fail_point!("lake::after_commit", |_| std::process::abort());
            Ok(Some(bytes))
        });
        self.job = Some(Job { log, work, handle });
    }

    /// Waits for the running job and moves the cut.
    async fn finish(&mut self) -> Result<Option<Committed>, LakeError> {
        let Some(job) = &mut self.job else { return Ok(None) };
        // Awaited in place: a caller that stops waiting does not lose the job.
        let result = (&mut job.handle).await.map_err(LakeError::Job).and_then(|result| result);
        let Job { log, work, .. } = *job;
        self.job = None;
        let Some(state) = self.logs.get_mut(&log) else { return Ok(None) };
        let bytes = match result {
            Ok(bytes) => bytes,
            Err(error) => {
                if let Some(sealing) = state.sealing.take() {
                    state.tail.prepend(sealing);
                    // What landed while these were being written has not touched them.
                    for (erasure, _) in &state.erasing {
                        state
                            .tail
                            .erase(erasure)
                            .map_err(|source| FileError::Arrow { path: self.store.data_path(log), source })?;
                    }
                }
                return Err(error);
            }
        };
        if let (Work::Erase { next_seq }, Some((_, from))) = (work, state.erasing.front_mut()) {
            *from = next_seq;
        }
        let Some(bytes) = bytes else { return Ok(None) };
        let n = state.committed.next_commit;
        let commit = state.committed.apply(log, &bytes).map_err(|source| LakeError::Commit { log, n, source })?;
        debug_assert_eq!(digest(&bytes), state.committed.digest);
        state.files = Arc::new(state.committed.files.values().cloned().collect());
        if let Some(sealed) = state.sealing.take() {
            self.fold_base = Arc::new(self.fold_base.after(&sealed.batches));
        }
        let next_seq = state.committed.position.next_seq;
        tracing::info!(%log, n, next_seq, files = state.files.len(), ?work, "lake committed");
        if self.options.snapshot_every > 0 && (commit.n + 1) % self.options.snapshot_every == 0 {
            self.store.write_snapshot(log, &state.committed)?;
        }
        self.publish();
        if matches!(work, Work::Erase { .. }) {
            self.remove_replaced()?;
        }
        Ok((work == Work::Seal).then_some(Committed { log, next_seq }))
    }

    fn publish(&self) {
        let own = self.logs.iter().map(|(log, state)| (*log, state.view(self.importing)));
        let imported = self.imported.iter().filter_map(|(log, seen)| Some((*log, seen.view.clone()?)));
        let logs = own.chain(imported).collect();
        let snapshot = Snapshot::new(
            self.store.root.clone(),
            logs,
            self.notices.clone(),
            self.fold_base.clone(),
            self.footers.clone(),
        );
        self.published.send_replace(Arc::new(snapshot));
    }
}

impl LogState {
    fn new(committed: LogFiles) -> Self {
        let files = Arc::new(committed.files.values().cloned().collect());
        let tail = Tail::at(committed.position);
        Self { files, sealing: None, tail, committed, erasing: VecDeque::new(), unmergeable: false }
    }

    fn view(&self, imported: bool) -> LogSnapshot {
        let sealing = self.sealing.iter().flat_map(|tail| &tail.batches);
        LogSnapshot {
            start: self.committed.start,
            kept: self.committed.kept.clone(),
            files: self.files.clone(),
            cut: self.committed.position,
            tail: sealing.chain(&self.tail.batches).cloned().collect(),
            end: self.tail.end,
            imported,
        }
    }
}

/// A lake as another process sees it: commits only, nothing locked, nothing repaired. The caller adds the tail.
pub(crate) struct ReadLake {
    store: Store,
    logs: BTreeMap<LogId, LogState>,
    imported: BTreeSet<LogId>,
    notices: Vec<String>,
}

impl ReadLake {
    /// Reads the commits below `root`; an empty lake where none is yet.
    pub(crate) fn open(root: &Path) -> Result<Self, LakeError> {
        let store = Store::at(root);
        // Marks come before commits: a log that is committed to by now is marked by now.
        let commits = store.logs()?;
        let imported = imported::logs(root)?;
        let mut opened = Opened::default();
        let mut logs = BTreeMap::new();
        for log in commits {
            let (committed, set_aside) = store.replay(log, Access::Read)?;
            opened.set_aside.extend(set_aside);
            logs.insert(log, LogState::new(committed));
        }
        let states = logs.iter().map(|(log, state)| (*log, &state.committed)).collect();
        opened.strays = store.strays(&states, Access::Read, |_| true)?;
        let pruned = logs.iter().filter_map(|(log, state)| pruned(*log, &state.committed));
        let notices = notices(&opened).into_iter().chain(pruned).collect();
        Ok(Self { store, logs, imported, notices })
    }

    /// Where the committed records of each log end.
    pub(crate) fn positions(&self) -> BTreeMap<LogId, Position> {
        self.logs.iter().map(|(log, state)| (*log, state.tail.end)).collect()
    }

    /// Adds frames above the last commit.
    pub(crate) fn append(&mut self, landed: &Landed) -> Result<(), LakeError> {
        let state = self.logs.entry(landed.log).or_insert_with(|| LogState::new(LogFiles::empty()));
        for frames in bounded(&landed.frames) {
            let Some(last) = frames.last() else { continue };
            let end = Position { next_seq: last.leaf.seq + 1, link: last.frame.link() };
            state
                .tail
                .push(decode(frames), end, 0, 0)
                .map_err(|source| FileError::Arrow { path: self.store.data_path(landed.log), source })?;
        }
        for erasure in landed.frames.iter().filter_map(Erasure::of) {
            state
                .tail
                .erase(&erasure)
                .map_err(|source| FileError::Arrow { path: self.store.data_path(landed.log), source })?;
        }
        Ok(())
    }

    pub(crate) fn into_snapshot(self) -> Snapshot {
        let logs = self.logs.iter().map(|(log, state)| (*log, state.view(self.imported.contains(log)))).collect();
        Snapshot::new(self.store.root.clone(), logs, self.notices, Arc::new(FoldBase::default()), Footers::default())
    }
}

/// What a full check of a lake found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Where each log's committed records end.
    pub positions: BTreeMap<LogId, Position>,
    /// Where they begin: above seq 0, what is below left by retention and was not checked.
    pub starts: BTreeMap<LogId, Position>,
    /// Rows whose leaf and link were recomputed.
    pub rows: u64,
    /// Strays and a newest commit that was looked past.
    pub notices: Vec<String>,
}

/// Re-reads every committed file: digest, rows, and the chain from the first record to the last. Changes nothing.
pub fn check(root: &Path) -> Result<Checked, LakeError> {
    let lake = ReadLake::open(root)?;
    let starts = lake.logs.iter().map(|(log, state)| (*log, state.committed.start)).collect();
    let mut checked = Checked { positions: lake.positions(), starts, rows: 0, notices: lake.notices };
    for (log, state) in &lake.logs {
        let mut rows = Rows::new(*log, state.committed.start);
        if let Some(kept) = &state.committed.kept {
            check_digest(root, &kept.path, &kept.sha256)?;
        }
        for data in state.files.iter() {
            check_digest(root, &data.path, &data.sha256)?;
            for batch in file::read(root, data, Some(&RECORD_COLUMNS))? {
                rows.take(&batch?).map_err(FileError::from)?;
            }
            checked.rows += data.rows;
        }
        if rows.position != state.committed.position {
            let (n, source) = (
                state.committed.next_commit.saturating_sub(1),
                super::commit::CommitError::Contradiction("rows do not lead to the committed link".to_owned()),
            );
            return Err(LakeError::Commit { log: *log, n, source });
        }
    }
    Ok(checked)
}

fn check_digest(root: &Path, path: &str, sha256: &str) -> Result<(), LakeError> {
    let full = root.join(path);
    let found = file::hash(&full).map_err(|source| LakeError::Io { step: "read", path: full, source })?;
    if found == sha256 { Ok(()) } else { Err(LakeError::MissingFile { path: path.to_owned() }) }
}

/// What somebody who queries a log has to know of its beginning.
fn pruned(log: LogId, files: &LogFiles) -> Option<String> {
    let first = files.start.next_seq.checked_sub(1)?;
    Some(format!("pruned up to seq {first}: of the records of log {log} up to there only changes are kept"))
}

fn notices(opened: &Opened) -> Vec<String> {
    let aside = opened
        .set_aside
        .iter()
        .map(|bad| format!("commit {} of log {} is torn and does not count: {}", bad.n, bad.log, bad.reason));
    let strays = opened.strays.iter().map(|path| format!("{path} belongs to no commit and is not read"));
    aside.chain(strays).collect()
}

/// Cuts frames into runs of bounded payload size.
fn bounded(frames: &[VerifiedFrame]) -> impl Iterator<Item = &[VerifiedFrame]> {
    let mut rest = frames;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let count = rest
            .iter()
            .take_while(|verified| {
                bytes += verified.frame.payload.len();
                bytes <= DECODE_BYTES_MAX
            })
            .count()
            .max(1);
        let (run, after) = rest.split_at_checked(count)?;
        rest = after;
        Some(run)
    })
}

fn lock(root: &Path) -> Result<File, LakeError> {
    let path = root.join("writer.lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| LakeError::Io { step: "open", path: path.clone(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(LakeError::Locked),
        Err(std::fs::TryLockError::Error(source)) => Err(LakeError::Io { step: "lock", path, source }),
    }
}
