//! Steps 1 and 2: the files are those that were packed, and the manifest is the exporter's.

use super::Failure;
use crate::evidence::bag::{BAGIT, BAGIT_NAME, FILES_MAX, MANIFEST_NAME, TAG_MANIFEST_NAME, entry, files};
use crate::evidence::manifest::{FileEntry, LogEntry, MANIFEST_VERSION, Manifest, check_note};
use crate::evidence::{IoError, PAYLOAD, io};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use keytrail_kms::chain::VerifyKey;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Component, Path};

/// Largest manifest or list of hashes read: a million files of 256 bytes a line.
const LIST_BYTES_MAX: u64 = 256 << 20;
/// Largest note read.
const NOTE_BYTES_MAX: u64 = 64 * 1024;
/// Largest proof read: 64 levels on either side, 45 bytes each, and to spare.
const PROOF_BYTES_MAX: u64 = 64 * 1024;

/// Step 1; gives what was found of each file below `data/`.
pub(super) fn check(folder: &Path) -> Result<BTreeMap<String, FileEntry>, Failure> {
    let found = files(folder)?;
    let prefix = format!("{PAYLOAD}/");
    let payload = listed(folder, MANIFEST_NAME)?;
    let tags = listed(folder, TAG_MANIFEST_NAME)?;
    if let Some(name) = payload.keys().find(|name| !name.starts_with(&prefix)) {
        return Err(Failure::new(format!("{MANIFEST_NAME} names {name}, which is not below {prefix}")));
    }
    for name in [BAGIT_NAME, MANIFEST_NAME] {
        if !tags.contains_key(name) {
            return Err(Failure::new(format!("{TAG_MANIFEST_NAME} does not name {name}")));
        }
    }
    for name in found.keys().filter(|name| *name != TAG_MANIFEST_NAME) {
        let list = if name.starts_with(&prefix) { &payload } else { &tags };
        if !list.contains_key(name) {
            return Err(Failure::new(format!("{name} is in no list of hashes")));
        }
    }
    let mut entries = BTreeMap::new();
    for (name, wanted) in tags.iter().chain(&payload) {
        let path = found.get(name).ok_or_else(|| Failure::new(format!("{name} is missing")))?;
        let entry = entry(path)?;
        if entry.sha256 != *wanted {
            return Err(Failure::new(format!("{name} has another hash than its list says")));
        }
        if let Some(below) = name.strip_prefix(&prefix) {
            entries.insert(below.to_owned(), entry);
        }
    }
    if read_text(&folder.join(BAGIT_NAME), NOTE_BYTES_MAX)? != BAGIT {
        return Err(Failure::new(format!("{BAGIT_NAME} is not that of version 1.0")));
    }
    Ok(entries)
}

/// Lines of hash, two spaces and path.
fn listed(folder: &Path, name: &str) -> Result<BTreeMap<String, String>, Failure> {
    let text = read_text(&folder.join(name), LIST_BYTES_MAX)?;
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let (hash, path) = line.split_once("  ").ok_or_else(|| Failure::new(format!("{name} has a malformed line")))?;
        let plain = hash.len() == 64 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !plain || found.insert(path.to_owned(), hash.to_owned()).is_some() {
            return Err(Failure::new(format!("{name} has a malformed or repeated line")));
        }
    }
    Ok(found)
}

/// Step 2.
pub(super) fn manifest(root: &Path, files: &BTreeMap<String, FileEntry>) -> Result<Manifest, Failure> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let malformed = |error: serde_json::Error| Failure::new(format!("manifest.json cannot be read: {error}"));
    let text = read_text(&root.join("manifest.json"), LIST_BYTES_MAX)?;
    let Version { version } = serde_json::from_str(&text).map_err(malformed)?;
    if version != MANIFEST_VERSION {
        return Err(Failure::new(format!("manifest has version {version}, this program knows {MANIFEST_VERSION}")));
    }
    let manifest: Manifest = serde_json::from_str(&text).map_err(malformed)?;
    let key: VerifyKey = manifest
        .evidence_vkey
        .parse()
        .map_err(|error| Failure::new(format!("evidenceVkey of the manifest: {error}")))?;
    let note = read_text(&root.join("manifest.note"), NOTE_BYTES_MAX)?;
    match check_note(text.as_bytes(), &note, &key) {
        Ok(true) => {}
        Ok(false) => return Err(Failure::new("manifest.note is about another manifest")),
        Err(error) => return Err(Failure::new(format!("manifest.note: {error}"))),
    }
    let own = ["manifest.json", "manifest.note"];
    let listed = manifest.files.iter();
    if !files.iter().filter(|(name, _)| !own.contains(&name.as_str())).eq(listed) {
        return Err(Failure::new("files of the manifest are not those of the pack"));
    }
    if !manifest.logs.is_sorted_by(|one, other| one.log < other.log) || manifest.logs.is_empty() {
        return Err(Failure::new("logs of the manifest are none, out of order or repeated"));
    }
    for log in &manifest.logs {
        known(log, &manifest).map_err(|failure| failure.of_log(&log.log))?;
    }
    all_of_logs(&manifest)?;
    Ok(manifest)
}

/// Names of a log's files are those of files, where such files belong; and what is withheld is said to be.
fn known(log: &LogEntry, manifest: &Manifest) -> Result<(), Failure> {
    if log.withheld > 0 && manifest.redaction.is_none() {
        return Err(Failure::new("records are withheld, but the manifest declares no redaction"));
    }
    let folders = [(&log.cloudtrail, "cloudtrail/"), (&log.digests, "cloudtrail/"), (&log.parquet, "parquet/")];
    for (names, folder) in folders {
        if let Some(name) = names.iter().find(|name| !name.starts_with(folder) || !manifest.files.contains_key(*name)) {
            return Err(Failure::new(format!("manifest names {name}, which is no such file of the pack")));
        }
    }
    Ok(())
}

/// Files that look like records belong to one log each: readers of the folder take them for what the log holds.
fn all_of_logs(manifest: &Manifest) -> Result<(), Failure> {
    let mut unclaimed: BTreeSet<String> = manifest
        .files
        .keys()
        .filter(|name| name.starts_with("cloudtrail/") || name.starts_with("parquet/"))
        .cloned()
        .collect();
    for log in &manifest.logs {
        let signatures = log.digests.iter().map(|name| format!("{name}.signature"));
        let names = [&log.cloudtrail, &log.digests, &log.parquet].into_iter().flatten().cloned();
        for name in names.chain(signatures) {
            if !unclaimed.remove(&name) {
                return Err(Failure::new(format!("manifest names {name} twice, or it is not there")));
            }
        }
    }
    let left = unclaimed.first().map(|name| Failure::new(format!("{name} belongs to no log of the manifest")));
    left.map_or(Ok(()), Err)
}

/// The hashes of a proof, one a line in base64.
pub(super) fn hashes(path: &Path) -> Result<Vec<[u8; 32]>, Failure> {
    let text = read_text(path, PROOF_BYTES_MAX)?;
    let lines = text.strip_suffix('\n').unwrap_or(&text).split('\n');
    let hashes: Option<_> =
        lines.filter(|_| !text.is_empty()).map(|line| BASE64.decode(line).ok()?.try_into().ok()).collect();
    hashes.ok_or_else(|| Failure::new(format!("{} has a line that is no hash", path.display())))
}

/// The text of a file of bounded length.
pub(super) fn read_text(path: &Path, bytes_max: u64) -> Result<String, Failure> {
    let mut text = String::new();
    let file = File::open(path).map_err(io("open", path))?;
    let read = file.take(bytes_max + 1).read_to_string(&mut text).map_err(io("read", path))?;
    if read as u64 > bytes_max {
        return Err(Failure::new(format!("{} is longer than {bytes_max} bytes", path.display())));
    }
    Ok(text)
}

/// Why a tar is no pack.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// Files.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A member that has no place in a pack.
    #[error("tar has a member {0}, which is no plain file below one folder")]
    Member(String),
    /// More members than any pack.
    #[error("tar has more than {FILES_MAX} members")]
    Members,
}

/// Writes the files of a tar below `folder`, without the folder that they are all in.
pub fn unpack(tar: &Path, folder: &Path) -> Result<(), UnpackError> {
    let mut archive = tar::Archive::new(File::open(tar).map_err(io("open", tar))?);
    let mut top: Option<String> = None;
    for (count, member) in archive.entries().map_err(io("read", tar))?.enumerate() {
        let mut member = member.map_err(io("read", tar))?;
        if count == FILES_MAX {
            return Err(UnpackError::Members);
        }
        let path = member.path().map_err(io("read", tar))?.into_owned();
        let refused = || UnpackError::Member(path.display().to_string());
        let mut parts = Vec::new();
        for part in path.components() {
            let Component::Normal(part) = part else { return Err(refused()) };
            parts.push(part.to_str().ok_or_else(refused)?.to_owned());
        }
        let kind = member.header().entry_type();
        if kind.is_dir() {
            continue;
        }
        let [first, below @ ..] = parts.as_slice() else { return Err(refused()) };
        if !kind.is_file() || below.is_empty() || top.get_or_insert_with(|| first.clone()) != first {
            return Err(refused());
        }
        let out = folder.join(below.join("/"));
        if let Some(parent) = out.parent() {
            fs::create_dir_all(parent).map_err(io("create", parent))?;
        }
        // A second member of the same name would replace the first one for some readers and not for others.
        let mut file = File::create_new(&out).map_err(io("create", &out))?;
        std::io::copy(&mut member, &mut file).map_err(io("write", &out))?;
    }
    Ok(())
}
