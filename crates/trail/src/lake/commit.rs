//! The commit log: which files are the lake, as dense numbered JSON documents that nobody overwrites.
//!
//! A commit adds files, replaces some by one that holds the same records, or lets the oldest go, and carries the digest
//! of the commit before it and the chain's links at both ends. Readers believe commits only; `replay` folds them into the list of
//! files and refuses whatever does not follow. Format: docs/lake.md.

use super::order::RowOrder;
use crate::land::Position;
use keytrail_kms::chain::leaf::sha256;
use keytrail_kms::chain::{Link, LogId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The version of commits that only append, merge and erase files sorted by seq.
const VERSION_FIRST: u32 = 1;

/// The newest version: that of commits with files sorted by key, or by which records leave. Others stay readable to
/// whoever knows the first version only.
const VERSION_NEWEST: u32 = 2;

/// Digest that commit 0 names as its predecessor's.
pub(super) const NO_DIGEST: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Largest commit in bytes that is read; a snapshot of a million files stays below.
pub(super) const COMMIT_BYTES_MAX: u64 = 512 << 20;

/// A file of the lake as a commit names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DataFile {
    /// Path below the lake folder, `/` between parts.
    pub path: String,
    /// First seq, inclusive.
    pub first: u64,
    /// Last seq, inclusive.
    pub last: u64,
    /// Number of rows; always `last - first + 1`.
    pub rows: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 of the file, hex.
    pub sha256: String,
    /// How rows are sorted: `seq`, or `key` inside each row group.
    pub order: String,
    /// Link before the first record, hex.
    pub chain_in: String,
    /// Link after the last record, hex.
    pub chain_out: String,
    /// Smallest leaf time, Unix microseconds.
    pub time_first: u64,
    /// Largest leaf time, Unix microseconds.
    pub time_last: u64,
    /// Smallest `event_time`, Unix microseconds; absent where each row's is its leaf time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_time_first: Option<i64>,
    /// Largest `event_time`, Unix microseconds; absent where each row's is its leaf time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_time_last: Option<i64>,
}

impl DataFile {
    /// Smallest and largest `event_time`, Unix microseconds.
    pub fn event_times(&self) -> (i64, i64) {
        let signed = |time_us: u64| i64::try_from(time_us).unwrap_or(i64::MAX);
        let first = self.event_time_first.unwrap_or_else(|| signed(self.time_first));
        (first, self.event_time_last.unwrap_or_else(|| signed(self.time_last)))
    }
}

/// What stays of records that left by retention: the changes among them, without which nobody could tell what keys,
/// policies and grants are. One file for all of them; no chain leads through it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeptFile {
    /// Path below the lake folder.
    pub path: String,
    /// The last seq that left.
    pub last: u64,
    /// Number of rows.
    pub rows: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 of the file, hex.
    pub sha256: String,
}

/// In a commit by which the oldest records leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retention {
    /// The first seq that stays; the link before it is the commit's `chainOut`.
    pub start: u64,
    /// What is kept of the records before, those of earlier retentions included.
    pub kept: Option<KeptFile>,
}

/// One commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Commit {
    /// 1 or 2: the first that knows what is in it.
    pub version: u32,
    /// The log, 32 lower-case hex digits.
    pub log: String,
    /// Dense number from 0; also the file's name.
    pub n: u64,
    /// Files that are part of the lake from here on.
    pub adds: Vec<DataFile>,
    /// Paths that are no longer.
    pub removes: Vec<String>,
    /// Link before the first added record, hex.
    pub chain_in: String,
    /// Link after the last added record, hex.
    pub chain_out: String,
    /// SHA-256 of the previous commit's bytes, hex; zeros for commit 0.
    pub previous_digest: String,
    /// When the commit was written, Unix microseconds. Information only.
    pub created_at_micros: u64,
    /// What is removed held payloads that were erased: no query may go on reading it. Left out when false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub erasure: bool,
    /// The oldest records leave: nothing is added, and the links are those around what is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
}

impl Commit {
    /// Sets `version` to the first that knows what is in the commit.
    pub(super) fn versioned(mut self) -> Self {
        let newer = self.retention.is_some() || self.adds.iter().any(|file| file.order != RowOrder::Seq.name());
        self.version = if newer { VERSION_NEWEST } else { VERSION_FIRST };
        self
    }
}

/// The files of one log after some commit, and where the next commit must go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogFiles {
    /// Number of the next commit.
    pub(super) next_commit: u64,
    /// SHA-256 of the last commit's bytes, hex.
    pub(super) digest: String,
    /// Where the committed records begin: later than seq 0 once some left by retention.
    pub(super) start: Position,
    /// The changes among the records that left.
    pub(super) kept: Option<Arc<KeptFile>>,
    /// Where the committed records end.
    pub(super) position: Position,
    /// Files by first seq; adjacent, without overlap.
    pub(super) files: BTreeMap<u64, Arc<DataFile>>,
    /// Files that a rewrite replaced and that may still be on disk, with the time of that commit.
    pub(super) removed: BTreeMap<String, u64>,
}

/// All files after commit `n`, so that opening a lake does not read every commit ever made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CommitSnapshot {
    pub(super) version: u32,
    pub(super) log: String,
    pub(super) n: u64,
    /// SHA-256 of commit `n`'s bytes, hex.
    pub(super) digest: String,
    pub(super) files: Vec<DataFile>,
    /// Replaced files that may still be on disk.
    pub(super) removed: BTreeMap<String, u64>,
    pub(super) chain_out: String,
    /// What left by retention, if anything did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) retention: Option<Retention>,
    /// Link before the first record that stays; absent where all do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) chain_in: Option<String>,
}

/// Why a commit does not follow its predecessors.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Not JSON of a commit: torn, empty or foreign.
    #[error("commit cannot be read")]
    Json(#[from] serde_json::Error),
    /// Written by a newer Keytrail.
    #[error("version {0} is not known")]
    Version(u32),
    /// A field contradicts the commits before, or itself.
    #[error("{0}")]
    Contradiction(String),
}

impl CommitError {
    /// Whether a crash while writing can have caused this. Everything else is refused, also in the newest commit.
    pub(super) fn is_torn(&self) -> bool {
        matches!(self, Self::Json(_))
    }
}

/// Only the version, read first: a newer format may have other fields.
#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

/// Parses a commit or commit snapshot after looking at its version.
pub(super) fn parse<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, CommitError> {
    let VersionOnly { version } = serde_json::from_slice(bytes)?;
    if !(VERSION_FIRST..=VERSION_NEWEST).contains(&version) {
        return Err(CommitError::Version(version));
    }
    Ok(serde_json::from_slice(bytes)?)
}

/// SHA-256 in lower-case hex.
pub(super) fn digest(bytes: &[u8]) -> String {
    hex::encode(sha256(&[bytes]))
}

/// Name of commit `n` below its log's folder.
pub(super) fn commit_name(n: u64) -> String {
    format!("{n:020}.json")
}

/// Name of the snapshot after commit `n`.
pub(super) fn snapshot_name(n: u64) -> String {
    format!("{n:020}.snapshot.json")
}

/// Name of a data file below its log's folder.
pub(super) fn data_name(first: u64, last: u64, sha256_hex: &str) -> String {
    format!("{first:020}-{last:020}-{}.parquet", sha256_hex.get(..8).unwrap_or(sha256_hex))
}

/// Name of the file of kept changes up to seq `last` below its log's folder.
pub(super) fn kept_name(last: u64, sha256_hex: &str) -> String {
    format!("kept-{last:020}-{}.parquet", sha256_hex.get(..8).unwrap_or(sha256_hex))
}

/// Folder of a log's files below the lake folder.
pub(super) fn data_folder(log: LogId) -> String {
    format!("data/log={log}")
}

/// Folder of a log's commits below the lake folder.
pub(super) fn commits_folder(log: LogId) -> String {
    format!("commits/{log}")
}

impl LogFiles {
    pub(super) fn empty() -> Self {
        Self {
            next_commit: 0,
            digest: NO_DIGEST.to_owned(),
            start: Position::START,
            kept: None,
            position: Position::START,
            files: BTreeMap::new(),
            removed: BTreeMap::new(),
        }
    }

    /// Goes on from a snapshot whose commit has the digest it names.
    pub(super) fn from_snapshot(snapshot: CommitSnapshot, log: LogId) -> Result<Self, CommitError> {
        let mut state = Self::empty();
        if let (Some(retention), Some(chain_in)) = (snapshot.retention, snapshot.chain_in) {
            state.start = Position { next_seq: retention.start, link: link(&chain_in)? };
            state.position = state.start;
            check_kept(retention.kept.as_ref(), log, state.start)?;
            state.kept = retention.kept.map(Arc::new);
        }
        for file in snapshot.files {
            state.position = check_file(&file, log, state.position)?;
            state.files.insert(file.first, Arc::new(file));
        }
        if state.position.link.to_string() != snapshot.chain_out {
            return Err(CommitError::Contradiction("snapshot ends at another link".to_owned()));
        }
        for path in snapshot.removed.keys() {
            let own = path.strip_prefix(&data_folder(log)).and_then(|rest| rest.strip_prefix('/'));
            if !own.is_some_and(|name| !name.contains('/') && name.ends_with(".parquet")) {
                return Err(CommitError::Contradiction(format!("removed file {path} is not in the log's folder")));
            }
        }
        state.removed = snapshot.removed;
        state.next_commit = snapshot.n + 1;
        state.digest = snapshot.digest;
        Ok(state)
    }

    pub(super) fn snapshot(&self, log: LogId) -> Option<CommitSnapshot> {
        let pruned = self.start.next_seq > 0;
        let kept = self.kept.as_deref().cloned();
        let newer = pruned || self.files.values().any(|file| file.order != RowOrder::Seq.name());
        Some(CommitSnapshot {
            version: if newer { VERSION_NEWEST } else { VERSION_FIRST },
            log: log.to_string(),
            n: self.next_commit.checked_sub(1)?,
            digest: self.digest.clone(),
            files: self.files.values().map(|file| DataFile::clone(file)).collect(),
            removed: self.removed.clone(),
            chain_out: self.position.link.to_string(),
            retention: pruned.then_some(Retention { start: self.start.next_seq, kept }),
            chain_in: pruned.then(|| self.start.link.to_string()),
        })
    }

    /// Applies the commit with these bytes; any contradiction leaves the state as it was.
    pub(super) fn apply(&mut self, log: LogId, bytes: &[u8]) -> Result<Commit, CommitError> {
        let commit: Commit = parse(bytes)?;
        let end = self.check(log, &commit)?;
        for path in &commit.removes {
            self.files.retain(|_, file| file.path != *path);
            // One that must go at once counts as removed long ago.
            let at_us = if commit.erasure { 0 } else { commit.created_at_micros };
            self.removed.insert(path.clone(), at_us);
        }
        if let Some(retention) = &commit.retention {
            self.start = end;
            self.kept = retention.kept.clone().map(Arc::new);
        } else if commit.removes.is_empty() {
            self.position = end;
        }
        for file in &commit.adds {
            self.files.insert(file.first, Arc::new(file.clone()));
        }
        self.next_commit = commit.n + 1;
        self.digest = digest(bytes);
        Ok(commit)
    }

    /// Checks a commit against the state and returns where its records end.
    fn check(&self, log: LogId, commit: &Commit) -> Result<Position, CommitError> {
        let contradiction = |text: &str| Err(CommitError::Contradiction(text.to_owned()));
        if commit.log != log.to_string() {
            return contradiction("commit belongs to another log");
        }
        if commit.n != self.next_commit {
            return contradiction("commit number differs from its name");
        }
        if commit.previous_digest != self.digest {
            return contradiction("previous commit has another digest");
        }
        if let Some(retention) = &commit.retention {
            return self.check_retention(log, commit, retention);
        }
        let Some(first) = commit.adds.first() else {
            return contradiction("commit adds nothing");
        };
        let start = Position { next_seq: first.first, link: link(&commit.chain_in)? };
        let mut end = start;
        for file in &commit.adds {
            end = check_file(file, log, end)?;
        }
        if end.link != link(&commit.chain_out)? {
            return contradiction("commit ends at another link than its files");
        }
        if commit.erasure && commit.removes.is_empty() {
            return contradiction("an erasure replaces files");
        }
        if commit.removes.is_empty() {
            if start != self.position {
                return contradiction("commit does not go on where the last one ended");
            }
            return Ok(end);
        }
        // A rewrite covers exactly the records of what it removes, from link to link.
        let mut covered = start;
        let mut removed = 0;
        for file in self.files.range(start.next_seq..end.next_seq).map(|(_, file)| file) {
            if !commit.removes.contains(&file.path) {
                return contradiction("rewrite does not cover what it removes");
            }
            covered = check_file(file, log, covered)?;
            removed += 1;
        }
        if covered != end || removed != commit.removes.len() {
            return contradiction("rewrite does not cover what it removes");
        }
        Ok(end)
    }

    /// Checks that exactly the oldest files go, and with them the changes kept so far; returns where the rest begins.
    fn check_retention(&self, log: LogId, commit: &Commit, retention: &Retention) -> Result<Position, CommitError> {
        let contradiction = |text: &str| Err(CommitError::Contradiction(text.to_owned()));
        if commit.version < VERSION_NEWEST || commit.erasure || !commit.adds.is_empty() {
            return contradiction("retention only removes");
        }
        let leaving: Vec<&DataFile> = self.files.range(..retention.start).map(|(_, file)| file.as_ref()).collect();
        let Some(last) = leaving.last() else { return contradiction("retention removes no records") };
        let mut expected: Vec<&str> = leaving.iter().map(|file| file.path.as_str()).collect();
        expected.extend(self.kept.iter().map(|kept| kept.path.as_str()));
        let end = Position { next_seq: last.last + 1, link: link(&last.chain_out)? };
        let links = link(&commit.chain_in)? == self.start.link && link(&commit.chain_out)? == end.link;
        if retention.start != end.next_seq || !links || commit.removes != expected {
            return contradiction("retention does not remove the oldest files");
        }
        check_kept(retention.kept.as_ref(), log, end)?;
        Ok(end)
    }
}

/// Checks a file's description and that it goes on at `start`; returns where it ends.
fn check_file(file: &DataFile, log: LogId, start: Position) -> Result<Position, CommitError> {
    let contradiction = |text: &str| Err(CommitError::Contradiction(format!("file {} {text}", file.path)));
    let named = format!("{}/{}", data_folder(log), data_name(file.first, file.last, &file.sha256));
    let hex = file.sha256.len() == 64 && file.sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    // The path is derived, never taken: a commit cannot point outside the lake.
    if !hex || file.path != named || RowOrder::of(&file.order).is_none() {
        return contradiction("does not match its description");
    }
    if file.last > i64::MAX.unsigned_abs() || file.last < file.first || file.rows != file.last - file.first + 1 {
        return contradiction("is not a dense range");
    }
    if file.first != start.next_seq || link(&file.chain_in)? != start.link {
        return contradiction("does not go on where the one before ended");
    }
    Ok(Position { next_seq: file.last + 1, link: link(&file.chain_out)? })
}

/// Checks the description of the changes kept of the records before `start`.
fn check_kept(kept: Option<&KeptFile>, log: LogId, start: Position) -> Result<(), CommitError> {
    let Some(kept) = kept else { return Ok(()) };
    let named = format!("{}/{}", data_folder(log), kept_name(kept.last, &kept.sha256));
    let hex = kept.sha256.len() == 64 && kept.sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !hex || kept.path != named || kept.last.checked_add(1) != Some(start.next_seq) || kept.rows > start.next_seq {
        return Err(CommitError::Contradiction(format!("file {} does not match its description", kept.path)));
    }
    Ok(())
}

pub(super) fn link(text: &str) -> Result<Link, CommitError> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes)
        .map_err(|_| CommitError::Contradiction("link is not 64 hex digits".to_owned()))?;
    Ok(Link(bytes))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn log() -> LogId {
        LogId([1; 16])
    }

    /// The link before `seq` in these tests.
    fn at(seq: u64) -> Link {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seq.to_be_bytes());
        Link(bytes)
    }

    fn file(first: u64, last: u64) -> DataFile {
        let sha256 = digest(&first.to_be_bytes());
        DataFile {
            path: format!("{}/{}", data_folder(log()), data_name(first, last, &sha256)),
            first,
            last,
            rows: last - first + 1,
            bytes: 1,
            sha256,
            order: "seq".to_owned(),
            chain_in: at(first).to_string(),
            chain_out: at(last + 1).to_string(),
            time_first: 0,
            time_last: 0,
            event_time_first: None,
            event_time_last: None,
        }
    }

    fn commit(state: &LogFiles, adds: Vec<DataFile>, removes: Vec<String>) -> Commit {
        Commit {
            version: VERSION_FIRST,
            log: log().to_string(),
            n: state.next_commit,
            chain_in: adds[0].chain_in.clone(),
            chain_out: adds[0].chain_out.clone(),
            adds,
            removes,
            previous_digest: state.digest.clone(),
            created_at_micros: 0,
            erasure: false,
            retention: None,
        }
    }

    fn bytes(commit: &Commit) -> Vec<u8> {
        serde_json::to_vec(commit).unwrap()
    }

    #[test]
    fn commits_extend_each_other() {
        let mut state = LogFiles::empty();
        state.apply(log(), &bytes(&commit(&state.clone(), vec![file(0, 9)], vec![]))).unwrap();
        state.apply(log(), &bytes(&commit(&state.clone(), vec![file(10, 19)], vec![]))).unwrap();
        assert_eq!(state.position, Position { next_seq: 20, link: at(20) });
        let removes = state.files.values().map(|file| file.path.clone()).collect();
        state.apply(log(), &bytes(&commit(&state.clone(), vec![file(0, 19)], removes))).unwrap();
        assert_eq!(state.files.len(), 1);
        assert_eq!((state.position.next_seq, state.next_commit), (20, 3));
        let again = LogFiles::from_snapshot(state.snapshot(log()).unwrap(), log()).unwrap();
        assert_eq!(again, state);
    }

    #[test]
    fn whatever_does_not_follow_is_refused() {
        let mut state = LogFiles::empty();
        state.apply(log(), &bytes(&commit(&state.clone(), vec![file(0, 9)], vec![]))).unwrap();
        let good = commit(&state, vec![file(10, 19)], vec![]);
        let outside = DataFile { path: "../../etc/passwd".to_owned(), ..file(10, 19) };
        let wrong = [
            Commit { version: 3, ..good.clone() },
            Commit { n: 2, ..good.clone() },
            Commit { log: LogId([2; 16]).to_string(), ..good.clone() },
            Commit { previous_digest: NO_DIGEST.to_owned(), ..good.clone() },
            Commit { chain_in: at(3).to_string(), ..good.clone() },
            Commit { chain_out: "zz".to_owned(), ..good.clone() },
            Commit { adds: vec![], ..good.clone() },
            Commit { erasure: true, ..good.clone() },
            Commit { adds: vec![file(11, 19)], ..good.clone() },
            Commit { adds: vec![file(10, 19), file(21, 22)], ..good.clone() },
            Commit { adds: vec![outside], ..good.clone() },
            Commit { adds: vec![DataFile { rows: 3, ..file(10, 19) }], ..good.clone() },
            Commit { adds: vec![file(0, 8)], removes: vec![file(0, 9).path], ..good.clone() },
            Commit { adds: vec![file(0, 9)], removes: vec![file(0, 9).path, "other".to_owned()], ..good.clone() },
        ];
        for commit in wrong {
            let before = state.clone();
            assert!(state.apply(log(), &bytes(&commit)).is_err(), "{commit:?}");
            assert_eq!(state, before);
        }
        assert!(state.apply(log(), b"").unwrap_err().is_torn());
        assert!(!state.apply(log(), &bytes(&Commit { version: 3, ..good.clone() })).unwrap_err().is_torn());
        state.apply(log(), &bytes(&good)).unwrap();
    }

    #[test]
    fn only_the_oldest_files_leave_and_the_rest_goes_on_from_there() {
        let mut state = LogFiles::empty();
        for first in [0, 10, 20] {
            state.apply(log(), &bytes(&commit(&state.clone(), vec![file(first, first + 9)], vec![]))).unwrap();
        }
        let kept = |last: u64| {
            let sha256 = digest(&last.to_be_bytes());
            KeptFile {
                path: format!("{}/{}", data_folder(log()), kept_name(last, &sha256)),
                last,
                rows: 1,
                bytes: 1,
                sha256,
            }
        };
        let leave = |state: &LogFiles, start: u64, removes: Vec<String>| Commit {
            version: VERSION_NEWEST,
            log: log().to_string(),
            n: state.next_commit,
            adds: vec![],
            removes,
            chain_in: state.start.link.to_string(),
            chain_out: at(start).to_string(),
            previous_digest: state.digest.clone(),
            created_at_micros: 5,
            erasure: false,
            retention: Some(Retention { start, kept: Some(kept(start - 1)) }),
        };
        let good = leave(&state, 10, vec![file(0, 9).path]);
        let wrong = [
            Commit { version: VERSION_FIRST, ..good.clone() },
            Commit { erasure: true, ..good.clone() },
            Commit { adds: vec![file(0, 9)], ..good.clone() },
            Commit { chain_out: at(11).to_string(), ..good.clone() },
            Commit { chain_in: at(3).to_string(), ..good.clone() },
            Commit { removes: vec![file(10, 19).path], ..good.clone() },
            Commit { removes: vec![], ..good.clone() },
            Commit { retention: Some(Retention { start: 5, kept: None }), ..good.clone() },
            Commit { retention: Some(Retention { start: 10, kept: Some(kept(19)) }), ..good.clone() },
            leave(&state, 20, vec![file(0, 9).path]),
        ];
        for commit in wrong {
            let before = state.clone();
            assert!(state.apply(log(), &bytes(&commit)).is_err(), "{commit:?}");
            assert_eq!(state, before);
        }
        state.apply(log(), &bytes(&good)).unwrap();
        let again = leave(&state, 20, vec![file(10, 19).path, kept(9).path]);
        state.apply(log(), &bytes(&again)).unwrap();
        assert_eq!((state.start.next_seq, state.position.next_seq, state.files.len()), (20, 30, 1));
        assert_eq!(state.kept.as_deref(), Some(&kept(19)));
        assert_eq!(LogFiles::from_snapshot(state.snapshot(log()).unwrap(), log()).unwrap(), state);
        state.apply(log(), &bytes(&commit(&state.clone(), vec![file(30, 39)], vec![]))).unwrap();
    }
}
