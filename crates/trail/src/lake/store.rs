//! The lake's folder: replaying commits, setting a torn newest one aside, putting new ones, finding strays.
//!
//! A crash can only have damaged the newest commit or left files that no commit names. Damage anywhere else is not a
//! crash, and the lake refuses to open: going on would build on records that nobody can prove.

use super::commit::{
    COMMIT_BYTES_MAX, Commit, CommitError, CommitSnapshot, LogFiles, commit_name, commits_folder, data_folder, digest,
    parse, snapshot_name,
};
use super::file::{FileError, TEMPORARY, create_folder, hash, sync_folder};
use keytrail_kms::chain::LogId;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, PutMode, PutOptions};
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why the lake cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum LakeError {
    /// Folder or file operations.
    #[error("lake {step} {path}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A data file.
    #[error("lake data file")]
    File(#[from] FileError),
    /// The object store refused.
    #[error("lake commit {n} of log {log} cannot be put")]
    Put {
        /// Which log.
        log: LogId,
        /// Which commit.
        n: u64,
        /// Why it failed.
        source: object_store::Error,
    },
    /// Another writer put this commit first. Going on would fork the lake.
    #[error("lake commit {n} of log {log} exists already: another writer is at work")]
    Conflict {
        /// Which log.
        log: LogId,
        /// Which commit.
        n: u64,
    },
    /// Another process holds the writer's lock.
    #[error("lake is locked by another writer")]
    Locked,
    /// A commit that no crash explains.
    #[error("lake commit {n} of log {log} is refused; restore it from a copy or start a new lake from the journal")]
    Commit {
        /// Which log.
        log: LogId,
        /// Which commit.
        n: u64,
        /// What is wrong with it.
        source: CommitError,
    },
    /// A commit is missing between others.
    #[error("lake commit {n} of log {log} is missing")]
    MissingCommit {
        /// Which log.
        log: LogId,
        /// Which commit.
        n: u64,
    },
    /// A file that an older commit names is missing or has another length.
    #[error("lake file {path} is missing or damaged although an older commit names it")]
    MissingFile {
        /// Which file, below the lake folder.
        path: String,
    },
    /// Frames that do not follow what the lake holds.
    #[error("frames of log {log} start at seq {found}, the lake goes on at {expected}")]
    Order {
        /// Which log.
        log: LogId,
        /// The next seq of the lake.
        expected: u64,
        /// The first seq that came.
        found: u64,
    },
    /// The log was imported: its writer is the import.
    #[error("log {log} was imported and is not written here")]
    Imported {
        /// Which log.
        log: LogId,
    },
    /// Files that cannot be merged: what was read or written does not rebuild the chain. They stay as they are.
    #[error("lake files of seq {first} to {last} are not merged")]
    Merge {
        /// First seq.
        first: u64,
        /// Last seq.
        last: u64,
        /// Why not.
        source: FileError,
    },
    /// A merge ended without an answer.
    #[error("lake merge ended without an answer")]
    MergeEnded,
    /// A background job ended without an answer.
    #[error("lake job ended without an answer")]
    Job(#[source] tokio::task::JoinError),
}

impl LakeError {
    /// Whether the same step may work later (disk full, file system busy). After a failed sync or a conflict nobody
    /// knows what is on disk: the process must end and recover from the folder.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Io { step, .. } | Self::File(FileError::Io { step, .. }) => *step != "sync",
            Self::Put { .. } | Self::File(FileError::Parquet { .. }) => true,
            _ => false,
        }
    }
}

/// A commit that was set aside, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// Which log.
    pub log: LogId,
    /// Which commit.
    pub n: u64,
    /// Why it could not stay.
    pub reason: String,
}

/// Whether opening may repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// The one writer: sets aside, removes debris.
    Write,
    /// Anyone else: looks past a torn newest commit and changes nothing.
    Read,
}

/// The folder.
pub(super) struct Store {
    pub(super) root: PathBuf,
}

impl Store {
    pub(super) fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Number of the newest commit of `log`, whether it counts or not.
    pub(super) fn newest(&self, log: LogId) -> Result<Option<u64>, LakeError> {
        Ok(numbers(&names(&self.root.join(commits_folder(log)))?).0.last().copied())
    }

    /// Logs that have a commit folder.
    pub(super) fn logs(&self) -> Result<Vec<LogId>, LakeError> {
        let mut logs: Vec<LogId> =
            names(&self.root.join("commits"))?.iter().filter_map(|name| LogId::from_hex(name)).collect();
        logs.sort_unstable();
        Ok(logs)
    }

    /// Replays the commits of `log`.
    pub(super) fn replay(&self, log: LogId, access: Access) -> Result<(LogFiles, Option<SetAside>), LakeError> {
        let folder = self.root.join(commits_folder(log));
        let (commits, snapshots) = numbers(&names(&folder)?);
        let Some(newest) = commits.last().copied() else { return Ok((LogFiles::empty(), None)) };
        let mut state = self.start(log, &folder, newest, &snapshots)?;
        let mut bad = None;
        for n in state.next_commit..=newest {
            if commits.binary_search(&n).is_err() {
                return Err(LakeError::MissingCommit { log, n });
            }
            let bytes = read_bounded(&folder.join(commit_name(n)))?;
            let mut next = state.clone();
            let reason = match next.apply(log, &bytes) {
                Ok(commit) if n == newest => self.damage_of(&commit)?,
                Ok(_) => None,
                Err(error) if n == newest && error.is_torn() => Some(format!("{error}: {}", cause(&error))),
                Err(source) => return Err(LakeError::Commit { log, n, source }),
            };
            match reason {
                None => state = next,
                Some(reason) => bad = Some(SetAside { log, n, reason }),
            }
        }
        if let (Some(bad), Access::Write) = (&bad, access) {
            set_aside(&folder, bad)?;
        }
        self.check_files(&mut state)?;
        Ok((state, bad))
    }

    /// The newest snapshot whose commit is the one it was made of, or the beginning. A snapshot that does not fit is
    /// only a lost shortcut: replaying from an older one proves more.
    fn start(&self, log: LogId, folder: &Path, newest: u64, snapshots: &[u64]) -> Result<LogFiles, LakeError> {
        for n in snapshots.iter().rev().copied().filter(|n| *n <= newest) {
            let parsed = read_bounded(&folder.join(snapshot_name(n)))
                .ok()
                .and_then(|bytes| parse::<CommitSnapshot>(&bytes).ok())
                .filter(|snapshot| snapshot.n == n && snapshot.log == log.to_string());
            let commit = read_bounded(&folder.join(commit_name(n))).ok();
            if let (Some(snapshot), Some(commit)) = (parsed, commit)
                && snapshot.digest == digest(&commit)
                && (n < newest || parse::<Commit>(&commit).is_ok_and(|c| matches!(self.damage_of(&c), Ok(None))))
                && let Ok(state) = LogFiles::from_snapshot(snapshot, log)
            {
                return Ok(state);
            }
            tracing::warn!(%log, n, "commit snapshot does not fit its commit and is not used");
        }
        Ok(LogFiles::empty())
    }

    /// Why the newest commit's files are not what it says; files of older commits are only checked by length.
    fn damage_of(&self, commit: &Commit) -> Result<Option<String>, LakeError> {
        let kept = commit.retention.iter().filter_map(|retention| retention.kept.as_ref());
        let kept = kept.map(|kept| (&kept.path, kept.bytes, &kept.sha256));
        for (name, bytes, sha256) in commit.adds.iter().map(|file| (&file.path, file.bytes, &file.sha256)).chain(kept) {
            let path = self.root.join(name);
            match fs::metadata(&path) {
                Ok(metadata) if metadata.len() == bytes => {}
                Ok(_) => return Ok(Some(format!("file {name} has another length"))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(Some(format!("file {name} is missing")));
                }
                Err(source) => return Err(LakeError::Io { step: "look at", path, source }),
            }
            let found = hash(&path).map_err(|source| LakeError::Io { step: "read", path, source })?;
            if found != *sha256 {
                return Ok(Some(format!("file {name} has another digest")));
            }
        }
        Ok(None)
    }

    fn check_files(&self, state: &mut LogFiles) -> Result<(), LakeError> {
        let kept = state.kept.iter().map(|kept| (&kept.path, kept.bytes));
        for (path, bytes) in state.files.values().map(|file| (&file.path, file.bytes)).chain(kept) {
            let whole = fs::metadata(self.root.join(path)).is_ok_and(|metadata| metadata.len() == bytes);
            if !whole {
                return Err(LakeError::MissingFile { path: path.clone() });
            }
        }
        state.removed.retain(|path, _| self.root.join(path).exists());
        Ok(())
    }

    /// Puts commit `n` if nobody did, durably.
    pub(super) async fn put_commit(&self, log: LogId, n: u64, bytes: Vec<u8>) -> Result<(), LakeError> {
        let folder = self.root.join(commits_folder(log));
        create_folder(&self.root, &folder)?;
        let location = ObjectPath::from(format!("{}/{}", commits_folder(log), commit_name(n)));
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let objects =
            LocalFileSystem::new_with_prefix(&self.root).map_err(|source| LakeError::Put { log, n, source })?;
        match objects.put_opts(&location, bytes.into(), options).await {
            Ok(_) => {}
            Err(object_store::Error::AlreadyExists { .. }) => return Err(LakeError::Conflict { log, n }),
            Err(source) => return Err(LakeError::Put { log, n, source }),
        }
        let path = folder.join(commit_name(n));
        let synced = tokio::task::spawn_blocking(move || {
            File::open(&path).and_then(|file| file.sync_all()).map_err(|source| LakeError::Io {
                step: "sync",
                path: path.clone(),
                source,
            })?;
            sync_folder(&folder).map_err(LakeError::from)
        });
        synced.await.map_err(LakeError::Job)?
    }

    /// Writes the snapshot after the last commit. Losing it loses nothing.
    pub(super) fn write_snapshot(&self, log: LogId, state: &LogFiles) -> Result<(), LakeError> {
        let Some(snapshot) = state.snapshot(log) else { return Ok(()) };
        let folder = self.root.join(commits_folder(log));
        let path = folder.join(snapshot_name(snapshot.n));
        let temporary = folder.join(format!("{TEMPORARY}snapshot"));
        let bytes = serde_json::to_vec(&snapshot).expect("a commit snapshot is plain data");
        let write = || {
            fs::write(&temporary, &bytes)?;
            File::open(&temporary)?.sync_all()?;
            fs::rename(&temporary, &path)
        };
        write().map_err(|source| LakeError::Io { step: "write", path: path.clone(), source })?;
        Ok(sync_folder(&folder)?)
    }

    /// Everything below `data/` and `commits/` that no commit explains, as paths below the lake. Debris of our own
    /// crashes is removed by the writer and not listed. Only folders that are `ours` (None: named after no log).
    pub(super) fn strays(
        &self,
        logs: &BTreeMap<LogId, &LogFiles>,
        access: Access,
        ours: impl Fn(Option<LogId>) -> bool,
    ) -> Result<Vec<String>, LakeError> {
        let mut strays = Vec::new();
        for name in names(&self.root.join("data"))? {
            let log = name.strip_prefix("log=").and_then(LogId::from_hex);
            let folder = format!("data/{name}");
            if !ours(log) {
                continue;
            }
            if !self.root.join(&folder).is_dir() {
                strays.push(folder);
                continue;
            }
            let known = log.and_then(|log| logs.get(&log));
            let live: HashSet<&str> = known
                .iter()
                .flat_map(|state| {
                    let files = state.files.values().map(|file| file.path.as_str());
                    let kept = state.kept.iter().map(|kept| kept.path.as_str());
                    files.chain(kept).chain(state.removed.keys().map(String::as_str))
                })
                .collect();
            self.collect(&folder, access, &mut strays, |path, _| live.contains(path))?;
        }
        for name in names(&self.root.join("commits"))? {
            let folder = format!("commits/{name}");
            if !ours(LogId::from_hex(&name)) {
                continue;
            }
            if LogId::from_hex(&name).is_none() || !self.root.join(&folder).is_dir() {
                strays.push(folder);
                continue;
            }
            self.collect(&folder, access, &mut strays, |_, name| is_commit_file(name))?;
        }
        strays.sort_unstable();
        Ok(strays)
    }

    fn collect(
        &self,
        folder: &str,
        access: Access,
        strays: &mut Vec<String>,
        known: impl Fn(&str, &str) -> bool,
    ) -> Result<(), LakeError> {
        for name in names(&self.root.join(folder))? {
            let path = format!("{folder}/{name}");
            if known(&path, &name) {
                continue;
            }
            // Our own unfinished writes: `.tmp-*`, and object_store's staging files `<commit>#<n>`.
            let debris = name.starts_with(TEMPORARY) || (folder.starts_with("commits/") && name.contains(".json#"));
            match (debris, access) {
                (true, Access::Write) => {
                    let full = self.root.join(&path);
                    fs::remove_file(&full).map_err(|source| LakeError::Io { step: "remove", path: full, source })?;
                }
                (true, Access::Read) => {}
                (false, _) => strays.push(path),
            }
        }
        Ok(())
    }

    /// Full path of a log's data folder.
    pub(super) fn data_path(&self, log: LogId) -> PathBuf {
        self.root.join(data_folder(log))
    }
}

/// The shared handle of a store.
pub(super) type SharedStore = Arc<Store>;

fn cause(error: &CommitError) -> String {
    std::error::Error::source(error).map(ToString::to_string).unwrap_or_default()
}

fn is_commit_file(name: &str) -> bool {
    let digits = name.get(..20).is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let rest = name.get(20..).unwrap_or_default();
    digits && (rest == ".json" || rest == ".snapshot.json" || rest.starts_with(".bad"))
}

/// Commit and snapshot numbers among file names, ascending.
pub(super) fn numbers(names: &[String]) -> (Vec<u64>, Vec<u64>) {
    let of = |suffix: &str| {
        let mut found: Vec<u64> = names
            .iter()
            .filter(|name| is_commit_file(name))
            .filter_map(|name| name.strip_suffix(suffix))
            .filter(|digits| digits.len() == 20)
            .filter_map(|digits| digits.parse().ok())
            .collect();
        found.sort_unstable();
        found
    };
    (of(".json"), of(".snapshot.json"))
}

/// Renames a torn commit so that its number is free again and the evidence stays.
fn set_aside(folder: &Path, bad: &SetAside) -> Result<(), LakeError> {
    let from = folder.join(commit_name(bad.n));
    let free = (1..)
        .map(|try_no: u32| {
            folder.join(if try_no == 1 { format!("{:020}.bad", bad.n) } else { format!("{:020}.bad-{try_no}", bad.n) })
        })
        .find(|path| !path.exists())
        .expect("some name is free");
    tracing::warn!(log = %bad.log, n = bad.n, reason = bad.reason, "newest commit set aside, its records land again");
    fs::rename(&from, &free).map_err(|source| LakeError::Io { step: "set aside", path: from, source })?;
    Ok(sync_folder(folder)?)
}

/// Names in a folder; none when it does not exist.
pub(super) fn names(folder: &Path) -> Result<Vec<String>, LakeError> {
    let io = |source| LakeError::Io { step: "list", path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(io)?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, LakeError> {
    let io = |source| LakeError::Io { step: "read", path: path.to_owned(), source };
    let length = fs::metadata(path).map_err(io)?.len();
    if length > COMMIT_BYTES_MAX {
        return Err(io(io::Error::other("larger than any commit")));
    }
    fs::read(path).map_err(io)
}
