//! Backup sets: one consistent copy of a data folder, taken while the node runs, and its way back.
//!
//! A set is the data folder's own files as of one size of the log, and `manifest.json` with the hash of each. `take`
//! decides the order of copying and says why that is consistent; `restore` what a set must prove before a node may start
//! on it. A set holds what the folder holds (the signer's key, the credentials, every wrapped key): whoever reads it and
//! has the root key has every key, and whoever can write it can put another state of `kms.db` behind an honest log.

mod restore;
mod take;

pub use restore::{Against, Restored, published, restore};
pub use take::Taking;

use crate::chain::checkpoint::NoteError;
use crate::crypto::RootKeyError;
use crate::file::read_bounded;
use crate::journal::JournalError;
use crate::ship::{PublishedError, ShipError};
use crate::signer::SignError;
use crate::store::StoreError;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io;
use std::path::{Component, Path, PathBuf};

/// The file that makes a folder a set; written last.
pub const MANIFEST_NAME: &str = "manifest.json";
const MANIFEST_VERSION: u32 = 1;
/// A manifest names a file for each 64 MiB of journal and each file of the lake: far fewer than fit here.
const MANIFEST_BYTES_MAX: u64 = 64 << 20;
/// What a restore leaves for the next start, which puts it into the log.
const RESTORED_NAME: &str = "restored.json";
const RESTORED_BYTES_MAX: u64 = 4_096;

/// What a set says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    version: u32,
    /// The log's name.
    pub origin: String,
    /// The log's id.
    pub log: String,
    /// Records in the set's journal.
    pub size: u64,
    /// Root of the tree over them, as checkpoints have it.
    pub root_hash: String,
    /// The signed note over just these records.
    pub checkpoint: String,
    /// When the set was taken, Unix microseconds.
    pub taken_at_micros: u64,
    /// Version that took it.
    pub build: String,
    /// Public id of the root key that the set needs.
    pub root_key_id: String,
    /// Whether the set holds that root key's file.
    pub root_key_included: bool,
    /// Every file, by path.
    pub files: Vec<SetFile>,
}

/// One file of a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SetFile {
    /// Below the folder, `/` between parts.
    pub path: String,
    /// Length.
    pub bytes: u64,
    /// Hex.
    pub blake3: String,
}

/// Why a set could not be taken or restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file system refused.
    #[error("cannot {step} {path}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something is there.
    #[error("{path} is not empty")]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// A database cannot be copied.
    #[error("database {path} cannot be copied")]
    Database {
        /// Which.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The store's own entries.
    #[error("store in the set cannot be read")]
    Store(#[from] StoreError),
    /// The journal.
    #[error("journal cannot be copied")]
    Journal(#[from] JournalError),
    /// The store does not say how far its journal must reach.
    #[error("this version has not been started on the folder yet: start it once before a backup")]
    NeverStarted,
    /// The signer.
    #[error("checkpoint of the set cannot be signed")]
    Sign(#[from] SignError),
    /// The signer has a folder of its own and does not sign.
    #[error(
        "the newest checkpoint covers {size} records, and none comes that covers the set's {wanted}: is the signer there?"
    )]
    Unsigned {
        /// Records under it.
        size: u64,
        /// Records of the set.
        wanted: u64,
    },
    /// The root key's file.
    #[error("root key of the set")]
    RootKey(#[from] RootKeyError),
    /// The manifest is not one, or names files where none may be.
    #[error("manifest {path} is refused: {found}")]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        found: String,
    },
    /// A file is not what the manifest says.
    #[error("set is damaged: {path} is not the file that the manifest names")]
    Damaged {
        /// Which.
        path: String,
    },
    /// The log in the set does not verify.
    #[error("log of the set does not verify: {0}")]
    Unverified(String),
    /// The checkpoint that the set is compared with is not one of its log.
    #[error("checkpoint to compare with is not one of this log")]
    Note(#[source] NoteError),
    /// The log went on after the set was taken.
    #[error("set is too old or of another history: what was deleted since then would come back")]
    Older(#[source] PublishedError),
    /// Kafka.
    #[error("Kafka cannot be asked for the log's newest checkpoint")]
    Kafka(#[source] ShipError),
    /// Kafka has nothing to compare with.
    #[error("Kafka holds no checkpoint of this log to compare the set with")]
    NothingPublished,
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Io { step, path, source }
}

/// Makes a private folder; one that is there must be empty.
fn empty_folder(path: &Path) -> Result<(), BackupError> {
    make_folder(path)?;
    match std::fs::read_dir(path).map_err(failed("list", path))?.next() {
        None => Ok(()),
        Some(_) => Err(BackupError::NotEmpty { path: path.to_owned() }),
    }
}

fn make_folder(path: &Path) -> Result<(), BackupError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("create", path))
}

/// Whether a manifest may name this path: below the folder, and not what a restore writes itself.
fn is_inside(path: &str) -> bool {
    let parts = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    parts && !path.is_empty() && !["lock", MANIFEST_NAME, RESTORED_NAME].contains(&path)
}

/// A file of at most this length; a longer one is an error.
fn read_whole(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    read_bounded(path, bytes_max)?.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "file is too large"))
}

/// What the last restore has to tell the log.
pub(crate) fn restored(dir: &Path) -> Result<Option<Value>, BackupError> {
    let path = dir.join(RESTORED_NAME);
    let bytes = match read_whole(&path, RESTORED_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", &path)(error)),
    };
    let note = serde_json::from_slice(&bytes).map_err(|error| failed("read", &path)(error.into()))?;
    Ok(Some(note))
}

/// It is in the log now.
pub(crate) fn forget_restored(dir: &Path) -> Result<(), BackupError> {
    let path = dir.join(RESTORED_NAME);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}
