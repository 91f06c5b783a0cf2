//! `leaves.gz`: leaf and salt of each record of the range, in order, and the payloads that no CloudTrail file holds.
//!
//! A stream in both directions: neither side keeps more than one record.

use super::{IoError, NO_FILE, io};
use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use keytrail_kms::chain::{LEAF_BYTES, Leaf, LeafError, Salt};
use keytrail_kms::journal::frame::PAYLOAD_BYTES_MAX;
use std::fs::File;
use std::io::{self as std_io, BufRead as _, BufReader, BufWriter, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

/// Where a record's payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// In the pack.
    Present,
    /// In the log only.
    Withheld,
    /// Nowhere.
    Erased,
}

impl Status {
    fn of(byte: u8) -> Option<Self> {
        [Self::Present, Self::Withheld, Self::Erased].get(usize::from(byte)).copied()
    }
}

/// Writes the file.
pub(super) struct LeavesWriter {
    path: PathBuf,
    out: GzEncoder<BufWriter<File>>,
}

impl LeavesWriter {
    pub(super) fn create(path: &Path) -> Result<Self, IoError> {
        let file = File::create(path).map_err(io("create", path))?;
        // Digests and salts do not compress.
        let out = GzEncoder::new(BufWriter::with_capacity(1 << 20, file), Compression::fast());
        Ok(Self { path: path.to_owned(), out })
    }

    /// Adds a record. `body` is salt and payload; the payload is written when no CloudTrail file has it.
    pub(super) fn push(
        &mut self,
        status: Status,
        file: u32,
        leaf: &[u8; LEAF_BYTES],
        body: Option<(&Salt, &[u8])>,
    ) -> Result<(), IoError> {
        let mut write = |bytes: &[u8]| self.out.write_all(bytes).map_err(io("write", &self.path));
        write(&[status as u8])?;
        write(&file.to_be_bytes())?;
        write(leaf)?;
        if let Some((salt, payload)) = body {
            write(salt)?;
            if file == NO_FILE {
                write(payload)?;
            }
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<(), IoError> {
        let Self { path, out } = self;
        out.finish().and_then(|mut out| out.flush()).map_err(io("write", &path))
    }
}

/// One record of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) status: Status,
    /// Index of the CloudTrail file, or [`NO_FILE`].
    pub(super) file: u32,
    pub(super) bytes: [u8; LEAF_BYTES],
    pub(super) leaf: Leaf,
    pub(super) salt: Option<Salt>,
    /// The payload, when it stands here.
    pub(super) payload: Option<Vec<u8>>,
}

/// Why the file cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum LeavesError {
    /// The file ends inside a record, or is no gzip.
    #[error("leaves cannot be read")]
    Read(#[from] std_io::Error),
    /// A status byte above 2.
    #[error("leaves have a record of status {0}")]
    Status(u8),
    /// Not a leaf.
    #[error("leaves have a record that is no leaf")]
    Leaf(#[from] LeafError),
    /// Longer than any payload.
    #[error("leaf of seq {0} has an impossible payload length")]
    Length(u64),
    /// An index for a payload that is not there.
    #[error("record of seq {0} has no payload but names a CloudTrail file")]
    File(u64),
    /// Bytes behind the one gzip member.
    #[error("leaves go on after their end")]
    Trailing,
}

/// Reads the file.
pub(super) struct LeavesReader {
    input: BufReader<GzDecoder<BufReader<File>>>,
    ended: bool,
}

impl LeavesReader {
    pub(super) fn open(path: &Path) -> Result<Self, LeavesError> {
        let file = BufReader::with_capacity(1 << 16, File::open(path)?);
        Ok(Self { input: BufReader::with_capacity(1 << 16, GzDecoder::new(file)), ended: false })
    }

    /// The next record; None at the end of the file.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, LeavesError> {
        if self.ended || self.input.fill_buf()?.is_empty() {
            self.ended = true;
            let file = self.input.get_mut().get_mut();
            return if file.fill_buf()?.is_empty() { Ok(None) } else { Err(LeavesError::Trailing) };
        }
        let [status] = self.take()?;
        let status = Status::of(status).ok_or(LeavesError::Status(status))?;
        let file = u32::from_be_bytes(self.take()?);
        let bytes: [u8; LEAF_BYTES] = self.take()?;
        let leaf = Leaf::decode(&bytes)?;
        let length = usize::try_from(leaf.payload_len).ok().filter(|length| *length <= PAYLOAD_BYTES_MAX);
        let length = length.ok_or(LeavesError::Length(leaf.seq))?;
        let present = status == Status::Present;
        if !present && file != NO_FILE {
            return Err(LeavesError::File(leaf.seq));
        }
        let salt = if present { Some(self.take()?) } else { None };
        let payload = if present && file == NO_FILE {
            let mut payload = vec![0; length];
            self.input.read_exact(&mut payload)?;
            Some(payload)
        } else {
            None
        };
        Ok(Some(Entry { status, file, bytes, leaf, salt, payload }))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], std_io::Error> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => std_io::Error::new(ErrorKind::UnexpectedEof, "leaves end inside a record"),
            _ => error,
        })?;
        Ok(bytes)
    }
}
