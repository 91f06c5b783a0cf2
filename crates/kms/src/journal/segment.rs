//! Segment files: 64 MiB of zeros made ready ahead of use, filled with batches from byte 4,096 on.
//!
//! Preparing first matters: an fdatasync on a file that grows must also write its metadata and takes ten times as
//! long. A segment gets its final name only when it is whole and synced, so a file with that name is never half made.

use super::batch::{BLOCK_BYTES, BatchHeader, HEADER_BYTES};
use super::error::JournalError;
use crate::chain::leaf::LogId;
use bytes::Bytes;
use rustix::fs::FallocateFlags;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Starts each segment; the last byte is the version.
const MAGIC: [u8; 8] = *b"KTSEGMT\x01";
/// Where the first batch starts.
pub(crate) const FIRST_BATCH_AT: u64 = BLOCK_BYTES;
/// Zeros are written and read back in pieces of this size.
const CHUNK_BYTES: usize = 1024 * 1024;
/// Digits of the number in a file name, so that names sort.
const NAME_DIGITS: usize = 20;
/// Largest file accepted, far above any option; keeps offsets and lengths inside u32.
pub(crate) const SEGMENT_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// An open segment.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    pub(crate) number: u64,
    pub(crate) log: LogId,
    pub(crate) bytes: u64,
    pub(crate) file: File,
}

/// How a new segment comes by its zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zeros {
    /// Written and synced: a journal's callers wait for each fdatasync, which then changes no metadata.
    Written,
    /// Reserved and synced: a spool takes whole batches in one go, and writing everything twice costs it more.
    Reserved,
    /// Neither: for frames that a restart throws away.
    Sparse,
}

/// What stands at a place where a batch may start.
#[derive(Debug)]
pub(crate) enum Slot {
    /// A batch whose digests are right.
    Batch(BatchHeader, Bytes),
    /// 4,096 zeros, or too little room for a batch.
    Empty,
    /// Anything else.
    Bad(&'static str),
}

/// What stands from some offset up to the end of a segment.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    /// First byte that is not zero.
    pub(crate) nonzero_at: Option<u64>,
    /// Valid batch headers' offsets and numbers: the one with the highest number.
    pub(crate) header: Option<(u64, u64)>,
}

/// File name of segment `number`.
pub(crate) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("segment-{number:0NAME_DIGITS$}.ktj"))
}

/// Numbers of the segments in `dir`, ascending; errors when one in the middle is missing.
pub(crate) fn list(dir: &Path) -> Result<Vec<u64>, JournalError> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(JournalError::io("list", dir))? {
        let name = entry.map_err(JournalError::io("list", dir))?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_prefix("segment-")?.strip_suffix(".ktj"));
        let number = digits.filter(|digits| digits.len() == NAME_DIGITS).and_then(|digits| digits.parse::<u64>().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    for pair in numbers.windows(2) {
        if let [before, after] = pair
            && before + 1 != *after
        {
            return Err(JournalError::MissingSegment { path: segment_path(dir, before + 1) });
        }
    }
    Ok(numbers)
}

/// Makes names in a folder durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), JournalError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(JournalError::io("sync", dir))
}

impl Segment {
    /// Makes a segment ready: allocated, zero-filled, headed, synced, then named.
    pub(crate) fn prepare(dir: &Path, log: LogId, number: u64, bytes: u64) -> Result<Self, JournalError> {
        Self::make(dir, log, number, bytes, Zeros::Written)
    }

    /// The same with zeros of another kind.
    pub(crate) fn make(dir: &Path, log: LogId, number: u64, bytes: u64, zeros: Zeros) -> Result<Self, JournalError> {
        let path = segment_path(dir, number);
        let made = Self::write_new(dir, log, number, bytes, zeros);
        if made.is_err() {
            // Leaves the space to others; a failure to remove changes nothing, recovery does it again.
            let _ = std::fs::remove_file(temporary_path(dir));
        }
        let file = made?;
        std::fs::rename(temporary_path(dir), &path).map_err(JournalError::io("name", &path))?;
        if zeros != Zeros::Sparse {
            sync_dir(dir)?;
        }
        Ok(Self { path, number, log, bytes, file })
    }

    fn write_new(dir: &Path, log: LogId, number: u64, bytes: u64, zeros: Zeros) -> Result<File, JournalError> {
        fail::fail_point!("journal::prepare_segment", |_| {
            let full = io::Error::from(io::ErrorKind::StorageFull);
            Err(JournalError::io("allocate", &temporary_path(dir))(full))
        });
        let path = temporary_path(dir);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(&path).map_err(JournalError::io("create", &path))?;
        file.set_len(bytes).map_err(JournalError::io("lengthen", &path))?;
        file.write_all_at(&header(log, number, bytes), 0).map_err(JournalError::io("write", &path))?;
        if zeros == Zeros::Sparse {
            return Ok(file);
        }
        // Asks for the whole space at once, so that a full disk is known before the zeros are written.
        match rustix::io::retry_on_intr(|| rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes)) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
            Err(errno) => return Err(JournalError::io("allocate", &path)(errno.into())),
        }
        if zeros == Zeros::Written {
            zero(&file, FIRST_BATCH_AT, bytes).map_err(JournalError::io("fill", &path))?;
        }
        file.sync_all().map_err(JournalError::io("sync", &path))?;
        Ok(file)
    }

    /// Opens segment `number` and checks its header.
    pub(crate) fn open(dir: &Path, number: u64, write: bool) -> Result<Self, JournalError> {
        let path = segment_path(dir, number);
        let file = match OpenOptions::new().read(true).write(write).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(JournalError::MissingSegment { path });
            }
            Err(error) => return Err(JournalError::io("open", &path)(error)),
        };
        let damaged = |found: &str| JournalError::Damaged {
            path: path.clone(),
            offset: 0,
            seq: 0,
            found: format!("segment header: {found}"),
        };
        let bytes = file.metadata().map_err(JournalError::io("read the length of", &path))?.len();
        if bytes <= FIRST_BATCH_AT || bytes > SEGMENT_BYTES_MAX || !bytes.is_multiple_of(BLOCK_BYTES) {
            return Err(damaged(&format!("file has {bytes} bytes")));
        }
        let mut found = vec![0; usize_of(FIRST_BATCH_AT)];
        file.read_exact_at(&mut found, 0).map_err(JournalError::io("read", &path))?;
        let log = LogId(std::array::from_fn(|index| found[8 + index]));
        if found != header(log, number, bytes) {
            return Err(damaged("magic, version, number, length, check or padding is wrong"));
        }
        Ok(Self { path, number, log, bytes, file })
    }

    /// Reads what stands at `offset`, a multiple of 4,096.
    pub(crate) fn slot(&self, offset: u64) -> Result<Slot, JournalError> {
        if offset + BLOCK_BYTES > self.bytes {
            return Ok(Slot::Empty);
        }
        let mut first = vec![0; usize_of(BLOCK_BYTES)];
        self.read(&mut first, offset)?;
        let Some(header) = BatchHeader::decode(&first) else {
            let empty = first.iter().all(|byte| *byte == 0);
            return Ok(if empty { Slot::Empty } else { Slot::Bad("batch header is damaged") });
        };
        if header.count == 0 || header.disk_bytes() > self.bytes - offset {
            return Ok(Slot::Bad("batch header names an impossible length"));
        }
        let mut rest = vec![0; usize_of(header.disk_bytes() - BLOCK_BYTES)];
        self.read(&mut rest, offset + BLOCK_BYTES)?;
        first.append(&mut rest);
        let end = HEADER_BYTES + header.body_bytes as usize;
        if first[end..].iter().any(|byte| *byte != 0) {
            return Ok(Slot::Bad("bytes after the batch are not zero"));
        }
        let body = Bytes::from(first).slice(HEADER_BYTES..end);
        if *blake3::hash(&body).as_bytes() != header.body_digest {
            return Ok(Slot::Bad("batch body does not match its digest"));
        }
        Ok(Slot::Batch(header, body))
    }

    /// Reads a header alone, without looking at the body.
    pub(crate) fn header_at(&self, offset: u64) -> Result<Option<BatchHeader>, JournalError> {
        if offset + BLOCK_BYTES > self.bytes {
            return Ok(None);
        }
        let mut bytes = [0; HEADER_BYTES];
        self.read(&mut bytes, offset)?;
        Ok(BatchHeader::decode(&bytes))
    }

    /// Looks through everything from `offset` to the end.
    pub(crate) fn rest(&self, offset: u64) -> Result<Rest, JournalError> {
        let mut rest = Rest::default();
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut at = offset;
        while at < self.bytes {
            let length = usize_of((self.bytes - at).min(CHUNK_BYTES as u64));
            let piece = &mut chunk[..length];
            self.read(piece, at)?;
            for (block_at, block) in (at..).step_by(usize_of(BLOCK_BYTES)).zip(piece.chunks(usize_of(BLOCK_BYTES))) {
                let Some(first) = block.iter().position(|byte| *byte != 0) else { continue };
                rest.nonzero_at.get_or_insert(block_at + first as u64);
                if let Some(header) = BatchHeader::decode(block)
                    && rest.header.is_none_or(|(_, number)| number < header.number)
                {
                    rest.header = Some((block_at, header.number));
                }
            }
            at += length as u64;
        }
        Ok(rest)
    }

    /// Overwrites everything from `offset` on with zeros and syncs.
    pub(crate) fn erase_from(&self, offset: u64) -> Result<(), JournalError> {
        zero(&self.file, offset, self.bytes).map_err(JournalError::io("clear the torn end of", &self.path))?;
        self.sync()
    }

    /// fdatasync.
    pub(crate) fn sync(&self) -> Result<(), JournalError> {
        self.file.sync_data().map_err(JournalError::io("sync", &self.path))
    }

    /// Whether the open file is still the one with this name: an append to a deleted file would be lost in silence.
    pub(crate) fn is_linked(&self) -> io::Result<bool> {
        let open = self.file.metadata()?;
        if open.nlink() == 0 {
            return Ok(false);
        }
        match std::fs::metadata(&self.path) {
            Ok(named) => Ok((named.dev(), named.ino()) == (open.dev(), open.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn read(&self, bytes: &mut [u8], offset: u64) -> Result<(), JournalError> {
        self.file.read_exact_at(bytes, offset).map_err(JournalError::io("read", &self.path))
    }
}

/// Removes what an interrupted preparation left.
pub(crate) fn remove_temporary(dir: &Path) -> Result<(), JournalError> {
    let path = temporary_path(dir);
    match std::fs::remove_file(&path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(JournalError::io("remove", &path)(error)),
    }
}

fn temporary_path(dir: &Path) -> PathBuf {
    dir.join("segment.tmp")
}

/// The first 4,096 bytes of a segment.
pub(super) fn header(log: LogId, number: u64, bytes: u64) -> Vec<u8> {
    let mut header = Vec::with_capacity(usize_of(FIRST_BATCH_AT));
    header.extend_from_slice(&MAGIC);
    header.extend_from_slice(&log.0);
    header.extend_from_slice(&number.to_be_bytes());
    header.extend_from_slice(&bytes.to_be_bytes());
    let check = blake3::hash(&header);
    header.extend_from_slice(check.as_bytes());
    header.resize(usize_of(FIRST_BATCH_AT), 0);
    header
}

fn zero(file: &File, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; CHUNK_BYTES];
    let mut at = from;
    while at < to {
        let length = usize_of((to - at).min(CHUNK_BYTES as u64));
        file.write_all_at(&zeros[..length], at)?;
        at += length as u64;
    }
    Ok(())
}

fn usize_of(bytes: u64) -> usize {
    usize::try_from(bytes).expect("pieces of a segment fit into memory")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const BYTES: u64 = 64 * 1024;

    #[test]
    fn a_prepared_segment_opens_empty() {
        let dir = tempfile::tempdir().unwrap();
        let log = LogId::of_origin("a");
        Segment::prepare(dir.path(), log, 0, BYTES).unwrap();
        assert_eq!(list(dir.path()).unwrap(), [0]);
        let segment = Segment::open(dir.path(), 0, false).unwrap();
        assert_eq!((segment.log, segment.bytes), (log, BYTES));
        assert!(matches!(segment.slot(FIRST_BATCH_AT).unwrap(), Slot::Empty));
        assert!(segment.rest(FIRST_BATCH_AT).unwrap().nonzero_at.is_none());
    }

    #[test]
    fn any_changed_byte_of_a_segment_header_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let segment = Segment::prepare(dir.path(), LogId::of_origin("a"), 0, BYTES).unwrap();
        for at in (0..80).chain([4_095]) {
            let mut byte = [0];
            segment.file.read_exact_at(&mut byte, at).unwrap();
            segment.file.write_all_at(&[byte[0] ^ 1], at).unwrap();
            assert!(matches!(Segment::open(dir.path(), 0, false), Err(JournalError::Damaged { .. })), "byte {at}");
            segment.file.write_all_at(&byte, at).unwrap();
        }
        assert!(Segment::open(dir.path(), 0, false).is_ok());
    }

    #[test]
    fn a_missing_segment_is_found_by_name() {
        let dir = tempfile::tempdir().unwrap();
        for number in [0, 2] {
            Segment::prepare(dir.path(), LogId::of_origin("a"), number, BYTES).unwrap();
        }
        let error = list(dir.path()).unwrap_err();
        assert!(error.to_string().contains("segment-00000000000000000001.ktj"), "{error}");
    }

    #[test]
    fn a_deleted_or_replaced_file_is_not_linked() {
        let dir = tempfile::tempdir().unwrap();
        let segment = Segment::prepare(dir.path(), LogId::of_origin("a"), 0, BYTES).unwrap();
        assert!(segment.is_linked().unwrap());
        std::fs::remove_file(&segment.path).unwrap();
        assert!(!segment.is_linked().unwrap());
        std::fs::write(&segment.path, b"other").unwrap();
        assert!(!segment.is_linked().unwrap());
    }
}
