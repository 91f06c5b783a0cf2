//! Merging small adjacent files into larger ones, sorted by key: 1,600 files of 5,000 rows query ten times slower than
//! sixteen, and a key's history is then a few pages of each row group.
//!
//! A merge runs on a thread of its own, of low priority, beside landing; only its commit waits its turn. The chain is
//! recomputed from the written file before a commit may name it. Inputs stay on disk for a day for queries that still
//! read them.

use super::commit::{DataFile, link};
use super::file::{self, FileError};
use super::order::RowOrder;
use super::store::LakeError;
use crate::land::Position;
use arrow::array::RecordBatch;
use keytrail_kms::chain::LogId;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// How much landing is preferred over merging (Linux: niceness of the thread).
const NICENESS: i32 = 10;

/// The first run of adjacent files that are to become one. Files of like size are merged once there are `files_min`, or
/// once they make half of the largest file, `rows_max`; a file of that size stays as it is.
pub(super) fn due(files: &[Arc<DataFile>], files_min: usize, rows_max: u64) -> Option<Vec<Arc<DataFile>>> {
    let tiers: Vec<u32> = files.iter().map(|file| file.rows.max(1).ilog(8)).collect();
    let mut start = 0;
    while start < files.len() {
        let tier = tiers.get(start)?;
        let mut rows = 0;
        let mut run: Vec<Arc<DataFile>> = Vec::new();
        for (file, other) in files.iter().zip(&tiers).skip(start) {
            if other != tier || file.rows > rows_max / 2 || rows + file.rows > rows_max {
                break;
            }
            rows += file.rows;
            run.push(Arc::clone(file));
        }
        if run.len() >= files_min.max(2) || (run.len() >= 2 && rows >= rows_max.div_ceil(2)) {
            return Some(run);
        }
        start += run.len().max(1);
    }
    None
}

/// A merge under way. Dropping it ends the thread and removes what it wrote.
pub(super) struct Merge {
    pub(super) log: LogId,
    /// Paths of what is being merged.
    pub(super) inputs: Vec<String>,
    root: PathBuf,
    stop: Arc<AtomicBool>,
    result: Option<oneshot::Receiver<Result<DataFile, LakeError>>>,
    thread: Option<JoinHandle<()>>,
}

impl Merge {
    /// Starts to merge `inputs`, which are adjacent.
    pub(super) fn start(root: &Path, log: LogId, inputs: Vec<Arc<DataFile>>) -> Result<Self, LakeError> {
        let (sender, result) = oneshot::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let paths = inputs.iter().map(|input| input.path.clone()).collect();
        let (below, stopped) = (root.to_owned(), Arc::clone(&stop));
        let body = move || {
            // Without it the merge is only less polite.
            #[cfg(target_os = "linux")]
            let _ = rustix::process::nice(NICENESS);
            let _ = sender.send(merge(&below, log, &inputs, &stopped));
        };
        let spawned = std::thread::Builder::new().name("lake-merge".to_owned()).spawn(body);
        let thread =
            spawned.map_err(|source| LakeError::Io { step: "start a merge of", path: root.to_owned(), source })?;
        let root = root.to_owned();
        Ok(Self { log, inputs: paths, root, stop, result: Some(result), thread: Some(thread) })
    }

    /// Whether `wait` answers at once.
    pub(super) fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// The merged file, proved, which no commit names yet.
    pub(super) async fn wait(&mut self) -> Result<DataFile, LakeError> {
        let Some(result) = &mut self.result else { return Err(LakeError::MergeEnded) };
        let written = result.await.unwrap_or(Err(LakeError::MergeEnded));
        self.result = None;
        written
    }
}

impl Drop for Merge {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic was printed; the file is debris either way.
            let _ = thread.join();
        }
        if let Some(Ok(Ok(written))) = self.result.take().map(|mut result| result.try_recv()) {
            let _ = std::fs::remove_file(self.root.join(written.path));
        }
    }
}

/// Merges adjacent files into one, and proves it.
fn merge(root: &Path, log: LogId, inputs: &[Arc<DataFile>], stop: &AtomicBool) -> Result<DataFile, LakeError> {
    let (Some(first), Some(last)) = (inputs.first(), inputs.last()) else { return Err(LakeError::MergeEnded) };
    let refused = |source| LakeError::Merge { first: first.first, last: last.last, source };
    let start = link(&first.chain_in).map_err(|_| LakeError::MissingFile { path: first.path.clone() })?;
    let start = Position { next_seq: first.first, link: start };
    let go_on = || if stop.load(Ordering::Relaxed) { Err(FileError::Stopped) } else { Ok(()) };
    let batches = inputs.iter().flat_map(|input| match file::read(root, input, None) {
        Ok(batches) => batches,
        Err(error) => Box::new(std::iter::once(Err(error))) as Box<dyn Iterator<Item = _>>,
    });
    let batches = batches.map(|batch: Result<RecordBatch, FileError>| {
        fail::fail_point!("lake::merging", |_| std::process::abort());
        go_on().and(batch)
    });
    let written = file::write(root, log, start, RowOrder::Key, batches).map_err(refused)?;
    let mut promised = written.clone();
    promised.chain_out.clone_from(&last.chain_out);
    promised.last = last.last;
    fail::fail_point!("lake::merged", |_| std::process::abort());
    // From the file itself: neither sorting nor encoding may have changed a record.
    if let Err(source) = file::prove(root, log, &promised, go_on) {
        let _ = std::fs::remove_file(root.join(&written.path));
        return Err(refused(source));
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(first: u64, rows: u64) -> Arc<DataFile> {
        Arc::new(DataFile {
            path: first.to_string(),
            first,
            last: first + rows - 1,
            rows,
            bytes: 1,
            sha256: String::new(),
            order: "seq".to_owned(),
            chain_in: String::new(),
            chain_out: String::new(),
            time_first: 0,
            time_last: 0,
            event_time_first: None,
            event_time_last: None,
        })
    }

    fn files(rows: &[u64]) -> Vec<Arc<DataFile>> {
        let mut first = 0;
        rows.iter()
            .map(|rows| {
                let made = file(first, *rows);
                first += rows;
                made
            })
            .collect()
    }

    fn due_rows(rows: &[u64]) -> Option<Vec<u64>> {
        due(&files(rows), 4, 1_000).map(|run| run.iter().map(|file| file.rows).collect())
    }

    #[test]
    fn only_long_runs_of_like_files_are_due() {
        assert_eq!(due_rows(&[10, 10, 10]), None);
        assert_eq!(due_rows(&[10, 10, 10, 10]), Some(vec![10; 4]));
        assert_eq!(due_rows(&[100, 10, 10, 10, 10]), Some(vec![10; 4]));
        assert_eq!(due_rows(&[10, 10, 100, 10, 10]), None);
        assert_eq!(due_rows(&[600, 600, 600, 600]), None);
        assert_eq!(due_rows(&[300, 300, 300, 300]), Some(vec![300; 3]), "half of the largest file is enough");
        assert_eq!(due_rows(&[10, 10, 400, 200, 10]), Some(vec![400, 200]));
        assert_eq!(due_rows(&[10, 10, 400, 90, 10]), None);
        assert_eq!(due_rows(&[]), None);
    }
}
