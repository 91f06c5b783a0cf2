//! Puts a set on an empty folder, if it is whole, proves itself, and is not older than what is known of its log.
//!
//! A set that is older than its log brings back what was deleted since: keys, grants, people, quarantines lifted or not.
//! So whoever restores has to show a checkpoint to compare with (a note from elsewhere, or Kafka's), and a set that does
//! not reach it is refused. Without any there is no telling; that has to be asked for, and the log then says so.

use super::{
    BackupError, MANIFEST_BYTES_MAX, MANIFEST_NAME, MANIFEST_VERSION, Manifest, RESTORED_NAME, SetFile, empty_folder,
    failed, is_inside, make_folder, read_whole,
};
use crate::chain::{Checkpoint, LogKeys, VerifyKey};
use crate::journal::{Reader, tree_of};
use crate::ship::published as kafka;
use crate::signer::{VKEY_NAME, read_keys};
use crate::verify::{Verdict, verify_folder_with};
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// How long Kafka may take; nobody is served meanwhile.
const KAFKA_BOUND: Duration = Duration::from_secs(30);
const COPY_BYTES: usize = 1 << 20;

/// What a set is compared with before it may be used.
#[derive(Clone, Debug)]
pub enum Against {
    /// A signed note of this log, from elsewhere than the set.
    Note(String),
    /// The newest checkpoint that these brokers hold.
    Brokers(String),
    /// Nothing is left to compare with; the log will say so.
    Nothing,
}

/// What was restored.
#[derive(Debug)]
pub struct Restored {
    /// What the set says of itself.
    pub manifest: Manifest,
    /// Size of the checkpoint that it was compared with.
    pub compared_size: Option<u64>,
    /// Bytes copied.
    pub bytes: u64,
}

/// Restores the set in `from` on the absent or empty folder `to`. `key` is the log's verifier key, if the caller has one
/// from elsewhere; else the set's own. After an error `to` is unfinished, and no node starts in it.
pub fn restore(from: &Path, to: &Path, key: Option<&VerifyKey>, against: &Against) -> Result<Restored, BackupError> {
    let manifest = read_manifest(from)?;
    empty_folder(to)?;
    for file in &manifest.files {
        copy(from, to, file)?;
    }
    let key = match key {
        Some(key) => key.clone(),
        None => own_key(to)?,
    };
    prove(&manifest, to, &key)?;
    let keys = read_keys(&to.join("checkpoints"), Some(&key))?;
    let checkpoint = match against {
        Against::Note(note) => Some(keys.verify(note).map_err(BackupError::Note)?),
        Against::Brokers(brokers) => Some(published(brokers, &keys)?),
        Against::Nothing => None,
    };
    if let Some(checkpoint) = &checkpoint {
        compare(to, checkpoint)?;
    }
    let compared_size = checkpoint.map(|checkpoint| checkpoint.size);
    let note = json!({
        "setTakenAtMicros": manifest.taken_at_micros, "setSize": manifest.size, "comparedSize": compared_size,
    });
    write(&to.join(RESTORED_NAME), note.to_string().as_bytes())?;
    // As at init: the lock comes last, and no node starts in a folder without one.
    write(&to.join("lock"), b"")?;
    File::open(to).and_then(|folder| folder.sync_all()).map_err(failed("sync", to))?;
    let bytes = manifest.files.iter().map(|file| file.bytes).sum();
    Ok(Restored { manifest, compared_size, bytes })
}

/// The newest checkpoint of this log that Kafka holds.
pub fn published(brokers: &str, keys: &LogKeys) -> Result<Checkpoint, BackupError> {
    let newest = kafka::newest_checkpoint(brokers, keys, KAFKA_BOUND).map_err(BackupError::Kafka)?;
    newest.ok_or(BackupError::NothingPublished)
}

fn read_manifest(from: &Path) -> Result<Manifest, BackupError> {
    let path = from.join(MANIFEST_NAME);
    let refused = |found: String| BackupError::Manifest { path: path.clone(), found };
    let bytes = read_whole(&path, MANIFEST_BYTES_MAX).map_err(failed("read", &path))?;
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| refused(error.to_string()))?;
    if manifest.version != MANIFEST_VERSION {
        return Err(refused(format!("version {} is not known", manifest.version)));
    }
    match manifest.files.iter().find(|file| !is_inside(&file.path)) {
        Some(file) => Err(refused(format!("{:?} is not a path inside the folder", file.path))),
        None => Ok(manifest),
    }
}

/// Copies one file and hashes what it copies, so that nobody can change it in between.
fn copy(from: &Path, to: &Path, file: &SetFile) -> Result<(), BackupError> {
    let (source, target) = (from.join(&file.path), to.join(&file.path));
    make_folder(target.parent().unwrap_or(to))?;
    let opened = File::open(&source).map_err(failed("open", &source))?;
    let mut opened = opened.take(file.bytes + 1);
    let mut copy = create(&target)?;
    let (mut hasher, mut buffer) = (blake3::Hasher::new(), vec![0; COPY_BYTES]);
    loop {
        let count = opened.read(&mut buffer).map_err(failed("read", &source))?;
        let bytes = buffer.get(..count).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        hasher.update(bytes);
        copy.write_all(bytes).map_err(failed("write", &target))?;
    }
    copy.sync_all().map_err(failed("sync", &target))?;
    if hasher.count() != file.bytes || hasher.finalize().to_hex().as_str() != file.blake3 {
        return Err(BackupError::Damaged { path: file.path.clone() });
    }
    Ok(())
}

fn own_key(to: &Path) -> Result<VerifyKey, BackupError> {
    let path = to.join("checkpoints").join(VKEY_NAME);
    let text = std::fs::read_to_string(&path).map_err(failed("read", &path))?;
    text.trim_end().parse().map_err(BackupError::Note)
}

/// That the log is whole, signed for to its end, and the one the manifest tells of.
fn prove(manifest: &Manifest, to: &Path, key: &VerifyKey) -> Result<(), BackupError> {
    let report = verify_folder_with(to, Some(key), |_| ());
    if report.verdict != Verdict::Verified {
        return Err(BackupError::Unverified(format!("{:?}", report.verdict)));
    }
    let found = report.checkpoint.map(|checkpoint| (checkpoint.origin, checkpoint.size, checkpoint.root.to_string()));
    if found != Some((manifest.origin.clone(), manifest.size, manifest.root_hash.clone())) {
        return Err(BackupError::Unverified("it is not the log that the manifest tells of".to_owned()));
    }
    Ok(())
}

/// That the restored log reaches the checkpoint and has the same records.
fn compare(to: &Path, checkpoint: &Checkpoint) -> Result<(), BackupError> {
    let mut reader = Reader::open(&to.join("journal"), 0)?;
    let tree = tree_of(&to.join("journal"))?;
    kafka::compare(checkpoint, "what is compared with", &tree, |block| reader.leaf_hashes(block))
        .map_err(BackupError::Older)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), BackupError> {
    let mut file = create(path)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed("write", path))
}

fn create(path: &Path) -> Result<File, BackupError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.map_err(failed("create", path))
}
