//! The BagIt folder around a pack: hashes of all its files, and the tar it may be carried in.
//!
//! `sha256sum -c manifest-sha256.txt` in the folder checks it. The order of everything is that of the names, so that
//! the same content gives the same bag.

use super::manifest::FileEntry;
use super::{IoError, PAYLOAD, io};
use crate::lake::file::hash;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// What BagIt wants first.
pub(super) const BAGIT: &str = "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n";
pub(super) const BAGIT_NAME: &str = "bagit.txt";
pub(super) const MANIFEST_NAME: &str = "manifest-sha256.txt";
pub(super) const TAG_MANIFEST_NAME: &str = "tagmanifest-sha256.txt";
pub(super) const INFO_NAME: &str = "bag-info.txt";
/// Most files in a pack.
pub(super) const FILES_MAX: usize = 1_000_000;

/// All plain files below `folder`, by path relative to it with slashes. A link or a device is an error.
pub(super) fn files(folder: &Path) -> Result<BTreeMap<String, PathBuf>, IoError> {
    let mut found = BTreeMap::new();
    let mut folders = vec![(folder.to_owned(), String::new())];
    while let Some((path, prefix)) = folders.pop() {
        for entry in fs::read_dir(&path).map_err(io("list", &path))? {
            let entry = entry.map_err(io("list", &path))?;
            let refused = |kind: ErrorKind| io("take", &entry.path())(kind.into());
            let name = entry.file_name().into_string().map_err(|_| refused(ErrorKind::InvalidFilename))?;
            // Line ends would break the lists of hashes.
            if name.chars().any(char::is_control) {
                return Err(refused(ErrorKind::InvalidFilename));
            }
            let kind = entry.file_type().map_err(io("look at", &entry.path()))?;
            if kind.is_dir() {
                folders.push((entry.path(), format!("{prefix}{name}/")));
            } else if kind.is_file() && found.len() < FILES_MAX {
                found.insert(format!("{prefix}{name}"), entry.path());
            } else {
                return Err(refused(ErrorKind::InvalidInput));
            }
        }
    }
    Ok(found)
}

/// Hash and length of each file below `folder`.
pub(super) fn entries(folder: &Path) -> Result<BTreeMap<String, FileEntry>, IoError> {
    let entry = |(name, path): (String, PathBuf)| Ok((name, entry(&path)?));
    files(folder)?.into_iter().map(entry).collect()
}

/// Hash and length of one file.
pub(super) fn entry(path: &Path) -> Result<FileEntry, IoError> {
    let bytes = fs::metadata(path).map_err(io("look at", path))?.len();
    Ok(FileEntry { sha256: hash(path).map_err(io("read", path))?, bytes })
}

/// Writes the files around `payload`, the entries of everything below `data/`.
pub(super) fn close(bag: &Path, payload: &BTreeMap<String, FileEntry>, date: &str) -> Result<(), IoError> {
    let write = |name: &str, text: &str| {
        let path = bag.join(name);
        fs::write(&path, text).map_err(io("write", &path))
    };
    write(BAGIT_NAME, BAGIT)?;
    let bytes: u64 = payload.values().map(|entry| entry.bytes).sum();
    write(INFO_NAME, &format!("Bagging-Date: {date}\nPayload-Oxum: {bytes}.{}\n", payload.len()))?;
    let lines: String = payload.iter().map(|(name, entry)| format!("{}  {PAYLOAD}/{name}\n", entry.sha256)).collect();
    write(MANIFEST_NAME, &lines)?;
    let mut tags = String::new();
    for name in [INFO_NAME, BAGIT_NAME, MANIFEST_NAME] {
        tags.push_str(&format!("{}  {name}\n", entry(&bag.join(name))?.sha256));
    }
    write(TAG_MANIFEST_NAME, &tags)
}

/// Packs the bag into a tar with one folder named `name`. Times and owners are left out.
pub(super) fn pack(bag: &Path, name: &str, out: &Path) -> Result<(), IoError> {
    let file = File::create_new(out).map_err(io("create", out))?;
    let mut tar = tar::Builder::new(BufWriter::with_capacity(1 << 20, file));
    for (path, file) in files(bag)? {
        let source = File::open(&file).map_err(io("read", &file))?;
        let mut header = tar::Header::new_ustar();
        // Without a type, readers take a long path whose first hundred bytes end in a slash for a folder.
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(source.metadata().map_err(io("look at", &file))?.len());
        header.set_mode(0o644);
        header.set_mtime(0);
        tar.append_data(&mut header, format!("{name}/{path}"), source).map_err(io("write", out))?;
    }
    let file = tar.into_inner().and_then(|mut out| out.flush().map(|()| out));
    let file = file.map_err(io("write", out))?;
    file.get_ref().sync_all().map_err(io("sync", out))
}
