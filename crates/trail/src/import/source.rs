//! Where CloudTrail files are: a file, a folder of any depth, or a bucket; which of them count, and their bytes.
//!
//! Files are taken in the order of the time in their names, so that the parts of a long import follow each other in
//! time, too. Digest files and whatever is not named like a log file are passed over and counted.

use super::s3::{Bucket, S3Error};
use flate2::read::MultiGzDecoder;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Longest file, packed and unpacked, in bytes; it is held in memory. CloudTrail's own have a few MiB.
pub const FILE_BYTES_MAX: u64 = 1 << 30;

/// Most files of one run; each costs some 200 bytes of memory.
pub const FILES_MAX: usize = 4_000_000;

/// Where files come from.
#[derive(Debug)]
pub enum Source {
    /// A file or a folder.
    Local(PathBuf),
    /// `s3://bucket/prefix`.
    S3(Box<Bucket>),
}

/// Why there is no list of files.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file or folder.
    #[error("look at {path}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The bucket.
    #[error("list the bucket")]
    S3(#[from] S3Error),
    /// More than memory is meant for.
    #[error("more than {FILES_MAX} files; import them by year or account")]
    TooMany,
}

/// Why a file gives no records.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileFault {
    /// It cannot be read.
    #[error("cannot be read")]
    Io(#[from] io::Error),
    /// The bucket does not give it.
    #[error("cannot be fetched")]
    S3(#[from] S3Error),
    /// Torn or no gzip at all.
    #[error("cannot be unpacked")]
    Gzip(#[source] io::Error),
    /// Too long.
    #[error("has more than {FILE_BYTES_MAX} bytes")]
    TooLong,
    /// Not CloudTrail's JSON.
    #[error(transparent)]
    Split(#[from] super::split::SplitError),
}

/// A file that may hold records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SourceFile {
    /// Whole path or URL.
    pub(super) name: String,
    /// Its length, packed.
    pub(super) bytes: u64,
    /// Changes when its content does: time of the last change, or the bucket's ETag.
    pub(super) stamp: String,
}

/// What a source has.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) files: Vec<SourceFile>,
    /// Digest files and others that are not looked into.
    pub(super) passed_over: u64,
}

impl Listing {
    /// Takes a file if its name is a log file's.
    pub(super) fn add(&mut self, file: SourceFile) -> Result<(), SourceError> {
        if !is_log_file(&file.name) {
            self.passed_over += 1;
        } else if self.files.len() == FILES_MAX {
            return Err(SourceError::TooMany);
        } else {
            self.files.push(file);
        }
        Ok(())
    }
}

impl Source {
    /// All files, in the order in which they are read. For a thread that may wait.
    pub(super) fn list(&self) -> Result<Listing, SourceError> {
        let mut listing = match self {
            Self::Local(path) => list_local(path)?,
            Self::S3(bucket) => bucket.list()?,
        };
        listing.files.sort_unstable_by(|a, b| (time_in_name(&a.name), &a.name).cmp(&(time_in_name(&b.name), &b.name)));
        Ok(listing)
    }

    /// A file's content, unpacked. For a thread that may wait.
    pub(super) fn read(&self, file: &SourceFile) -> Result<Vec<u8>, FileFault> {
        let bytes = match self {
            Self::Local(_) => bounded(File::open(&file.name)?)?.ok_or(FileFault::TooLong)?,
            Self::S3(bucket) => bucket.read(&file.name)?.ok_or(FileFault::TooLong)?,
        };
        if !bytes.starts_with(&[0x1f, 0x8b]) {
            return Ok(bytes);
        }
        bounded(MultiGzDecoder::new(bytes.as_slice())).map_err(FileFault::Gzip)?.ok_or(FileFault::TooLong)
    }
}

/// Everything that `input` gives; None when that is too long.
fn bounded(input: impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    input.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= FILE_BYTES_MAX).then_some(bytes))
}

fn list_local(path: &Path) -> Result<Listing, SourceError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| SourceError::Io { path, source }
    };
    let root = path.canonicalize().map_err(io(path))?;
    let metadata = fs::metadata(&root).map_err(io(&root))?;
    let mut listing = Listing::default();
    if !metadata.is_dir() {
        // Named by hand: whatever its name is.
        listing.files.push(local_file(&root, &metadata));
        return Ok(listing);
    }
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(io(&folder))? {
            let path = entry.map_err(io(&folder))?.path();
            // Links to folders are not followed: they may lead in a circle.
            let link = fs::symlink_metadata(&path).map_err(io(&path))?;
            if link.is_dir() {
                folders.push(path);
                continue;
            }
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_file() => listing.add(local_file(&path, &metadata))?,
                // Pipes, devices, dangling links.
                Ok(_) | Err(_) => listing.passed_over += 1,
            }
        }
    }
    Ok(listing)
}

fn local_file(path: &Path, metadata: &fs::Metadata) -> SourceFile {
    let changed = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    SourceFile {
        name: path.to_string_lossy().into_owned(),
        bytes: metadata.len(),
        stamp: changed.as_nanos().to_string(),
    }
}

fn is_log_file(name: &str) -> bool {
    let digest = name.split('/').any(|part| part == "CloudTrail-Digest") || name.contains("_CloudTrail-Digest_");
    (name.ends_with(".json") || name.ends_with(".json.gz")) && !digest
}

/// `20260105T1200Z` of `111122223333_CloudTrail_eu-central-1_20260105T1200Z_Ab3dEf6hIj9kLm2n.json.gz`; empty in other names.
fn time_in_name(name: &str) -> &str {
    let is_time = |part: &&str| part.len() == 14 && part.as_bytes().get(8) == Some(&b'T') && part.ends_with('Z');
    name.rsplit('/').next().unwrap_or(name).split('_').find(is_time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_a_file_is_and_when() {
        let name = "/t/AWSLogs/111122223333/CloudTrail/eu-central-1/2026/01/05/111122223333_CloudTrail_eu-central-1_20260105T1200Z_Ab3dEf6hIj9kLm2n.json.gz";
        assert!(is_log_file(name) && is_log_file("/x/part.json"));
        assert_eq!(time_in_name(name), "20260105T1200Z");
        assert_eq!(time_in_name("/a_20260105T1200Z_b/part.json"), "");
        let digest = "AWSLogs/1/CloudTrail-Digest/eu-central-1/2026/01/05/1_CloudTrail-Digest_eu-central-1_t_eu-central-1_20260105T120000Z.json.gz";
        assert!(
            !is_log_file(digest) && !is_log_file("/x/1_CloudTrail-Digest_z.json.gz") && !is_log_file("/x/readme.txt")
        );
    }
}
