//! `journal/head`: 16 bytes that tell other processes how far the journal is durable.
//!
//! The seq after the last durable record (u64, big-endian), then the first 8 bytes of SHA-256("keytrail journal head
//! v1\n" || those 8 bytes). Written in place after each fdatasync and not synced itself: after a power cut it may be
//! behind the journal, never ahead. Recovery takes it as a lower bound only. The writer holds its flock.

use super::error::JournalError;
use crate::chain::leaf::sha256;
use rustix::fs::FlockOperation;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Length of the file.
pub(crate) const HEAD_BYTES: usize = 16;
/// Name inside the journal folder.
pub(crate) const HEAD_NAME: &str = "head";
const CONTEXT: &[u8] = b"keytrail journal head v1\n";
/// A reader that meets the writer in the middle of its 16 bytes reads again; once is practically always enough.
const READS_MAX: usize = 100;

/// The 16 bytes for `next_seq`.
pub(crate) fn encode(next_seq: u64) -> [u8; HEAD_BYTES] {
    let number = next_seq.to_be_bytes();
    let check = sha256(&[CONTEXT, &number]);
    let mut bytes = [0; HEAD_BYTES];
    bytes[..8].copy_from_slice(&number);
    bytes[8..].copy_from_slice(&check[..8]);
    bytes
}

/// The seq after the last durable record, if the check is right.
pub(crate) fn decode(bytes: &[u8; HEAD_BYTES]) -> Option<u64> {
    let next_seq = u64::from_be_bytes(*bytes.first_chunk()?);
    (encode(next_seq) == *bytes).then_some(next_seq)
}

/// The open head file, for writer and readers alike.
#[derive(Debug)]
pub(crate) struct HeadFile(File);

/// What the writer found in the head file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// There was none, or it was empty or all zeros: a power cut before the first sync leaves that.
    Absent,
    /// The bytes are not a head.
    Damaged,
    /// The seq after the last durable record.
    NextSeq(u64),
}

impl HeadFile {
    /// Opens for reading. The error is NotFound when there is no journal yet.
    pub(crate) fn open_read(dir: &Path) -> Result<Self, std::io::Error> {
        File::open(dir.join(HEAD_NAME)).map(Self)
    }

    /// Opens (or creates) for writing and takes the writer's lock, which the kernel drops with the process.
    pub(crate) fn open_write(dir: &Path) -> Result<(Self, Found), JournalError> {
        let path = dir.join(HEAD_NAME);
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(JournalError::io("open", &path))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(JournalError::InUse { path }),
            Err(errno) => return Err(JournalError::io("lock", &path)(errno.into())),
        }
        let length = file.metadata().map_err(JournalError::io("read the length of", &path))?.len();
        let head = Self(file);
        let found = if length == 0 || head.is_zero() {
            Found::Absent
        } else {
            match head.read() {
                Ok(next_seq) => Found::NextSeq(next_seq),
                Err(_) => Found::Damaged,
            }
        };
        Ok((head, found))
    }

    fn is_zero(&self) -> bool {
        let mut bytes = [1; HEAD_BYTES];
        self.0.read_exact_at(&mut bytes, 0).is_ok() && bytes == [0; HEAD_BYTES]
    }

    /// The seq after the last durable record. InvalidData when the bytes are not a head.
    pub(crate) fn read(&self) -> std::io::Result<u64> {
        for _ in 0..READS_MAX {
            let mut bytes = [0; HEAD_BYTES];
            self.0.read_exact_at(&mut bytes, 0)?;
            if let Some(next_seq) = decode(&bytes) {
                return Ok(next_seq);
            }
            std::thread::yield_now();
        }
        Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "journal head fails its check"))
    }

    /// Writes in place, without syncing.
    pub(crate) fn write(&self, next_seq: u64) -> std::io::Result<()> {
        self.0.write_all_at(&encode(next_seq), 0)
    }

    /// Syncs; at start-up only.
    pub(crate) fn sync(&self) -> std::io::Result<()> {
        self.0.sync_all()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_head_survives_and_any_changed_bit_breaks_it() {
        for next_seq in [0, 1, u64::MAX] {
            assert_eq!(decode(&encode(next_seq)), Some(next_seq));
        }
        for bit in 0..HEAD_BYTES * 8 {
            let mut bytes = encode(42);
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bytes), None);
        }
    }

    #[test]
    fn a_second_writer_is_refused_and_the_first_one_leaves_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let (head, found) = HeadFile::open_write(dir.path()).unwrap();
        assert_eq!(found, Found::Absent);
        head.write(5).unwrap();
        assert!(matches!(HeadFile::open_write(dir.path()), Err(JournalError::InUse { .. })));
        assert_eq!(HeadFile::open_read(dir.path()).unwrap().read().unwrap(), 5);
        drop(head);
        assert_eq!(HeadFile::open_write(dir.path()).unwrap().1, Found::NextSeq(5));
        for (bytes, found) in [([0; HEAD_BYTES], Found::Absent), ([1; HEAD_BYTES], Found::Damaged)] {
            std::fs::write(dir.path().join(HEAD_NAME), bytes).unwrap();
            assert_eq!(HeadFile::open_write(dir.path()).unwrap().1, found);
        }
    }
}
