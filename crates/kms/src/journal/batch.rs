//! A batch: the unit that one fdatasync makes durable.
//!
//! 128 bytes of header, then the records one after another (leaf, salt, payload), then zeros up to the next multiple
//! of 4,096 bytes. The header's digest covers its body and the batch before it, so batches form a chain of their own
//! that a torn write cannot fake. Byte by byte: docs/chain.md.

use super::frame::{Frame, PAYLOAD_BYTES_MAX};
use crate::chain::leaf::{LEAF_BYTES, Leaf, Salt};
use bytes::Bytes;

/// Batches start at multiples of this: a disk sector or page never holds two.
pub(crate) const BLOCK_BYTES: u64 = 4_096;
/// Length of the header.
pub(crate) const HEADER_BYTES: usize = 128;
/// Bytes of a record besides its payload.
pub(crate) const RECORD_OVERHEAD_BYTES: usize = LEAF_BYTES + size_of::<Salt>();
/// Starts each batch; the last byte is the version. A control character, so no JSON payload can hold it.
const MAGIC: [u8; 8] = *b"KTBATCH\x01";

/// The header, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    /// Dense number of the batch, from 0.
    pub(crate) number: u64,
    /// Seq of the first record.
    pub(crate) first_seq: u64,
    /// Records in the batch, at least 1.
    pub(crate) count: u32,
    /// Bytes of all records.
    pub(crate) body_bytes: u32,
    /// BLAKE3 of the body.
    pub(crate) body_digest: [u8; 32],
    /// Digest of the batch before; zeros for batch 0.
    pub(crate) prev: [u8; 32],
}

impl BatchHeader {
    /// Encodes the header; the last 32 bytes are the batch's digest.
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.number.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.first_seq.to_be_bytes());
        bytes[24..28].copy_from_slice(&self.count.to_be_bytes());
        bytes[28..32].copy_from_slice(&self.body_bytes.to_be_bytes());
        bytes[32..64].copy_from_slice(&self.body_digest);
        bytes[64..96].copy_from_slice(&self.prev);
        let digest = blake3::hash(&bytes[..96]);
        bytes[96..].copy_from_slice(digest.as_bytes());
        bytes
    }

    /// Reads a header; None unless magic, version and digest are right.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        if bytes[0..8] != MAGIC || blake3::hash(&bytes[..96]).as_bytes() != &bytes[96..] {
            return None;
        }
        let u64_at = |at: usize| u64::from_be_bytes(std::array::from_fn(|index| bytes[at + index]));
        let u32_at = |at: usize| u32::from_be_bytes(std::array::from_fn(|index| bytes[at + index]));
        Some(Self {
            number: u64_at(8),
            first_seq: u64_at(16),
            count: u32_at(24),
            body_bytes: u32_at(28),
            body_digest: std::array::from_fn(|index| bytes[32 + index]),
            prev: std::array::from_fn(|index| bytes[64 + index]),
        })
    }

    /// The batch's digest, which the next batch carries as `prev`.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let bytes = self.encode();
        std::array::from_fn(|index| bytes[96 + index])
    }

    /// Bytes of header, body and padding in the segment.
    pub(crate) fn disk_bytes(&self) -> u64 {
        disk_bytes(u64::from(self.body_bytes))
    }

    /// Seq after the last record.
    pub(crate) fn next_seq(&self) -> u64 {
        self.first_seq.saturating_add(u64::from(self.count))
    }
}

/// Bytes that a batch with a body of `body_bytes` takes in a segment.
pub(crate) const fn disk_bytes(body_bytes: u64) -> u64 {
    (HEADER_BYTES as u64 + body_bytes).next_multiple_of(BLOCK_BYTES)
}

/// Bytes of a record with a payload of `payload_bytes`.
pub(crate) const fn record_bytes(payload_bytes: usize) -> usize {
    RECORD_OVERHEAD_BYTES + payload_bytes
}

/// Most bytes that a single record can take in a segment, alone in its batch.
pub(crate) const LONE_RECORD_BYTES_MAX: u64 = disk_bytes(record_bytes(PAYLOAD_BYTES_MAX) as u64);

/// Collects records and closes them into the bytes of one batch. Reused, so that appending allocates nothing.
#[derive(Default)]
pub(crate) struct BatchBuffer {
    bytes: Vec<u8>,
    count: u32,
}

impl BatchBuffer {
    /// Forgets all records.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.resize(HEADER_BYTES, 0);
        self.count = 0;
    }

    /// Adds a record.
    pub(crate) fn push(&mut self, leaf: &[u8; LEAF_BYTES], salt: &Salt, payload: &[u8]) {
        self.bytes.extend_from_slice(leaf);
        self.bytes.extend_from_slice(salt);
        self.bytes.extend_from_slice(payload);
        self.count += 1;
    }

    /// Writes header and padding; gives the header and all bytes.
    pub(crate) fn close(&mut self, number: u64, first_seq: u64, prev: [u8; 32]) -> (BatchHeader, &[u8]) {
        let body = &self.bytes[HEADER_BYTES..];
        let header = BatchHeader {
            number,
            first_seq,
            count: self.count,
            body_bytes: u32::try_from(body.len()).expect("a batch fits into a segment, which is below 4 GiB"),
            body_digest: *blake3::hash(body).as_bytes(),
            prev,
        };
        self.bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
        let padded = usize::try_from(header.disk_bytes()).expect("a batch fits into memory");
        self.bytes.resize(padded, 0);
        (header, &self.bytes)
    }
}

/// Cuts a body into its records. The digest was checked before, so an error means that the writer was wrong.
pub(crate) fn frames(header: &BatchHeader, body: &Bytes) -> Result<Vec<Frame>, &'static str> {
    let mut frames = Vec::with_capacity((header.count as usize).min(body.len() / RECORD_OVERHEAD_BYTES));
    let mut at = 0;
    for index in 0..header.count {
        let head = body.get(at..at + RECORD_OVERHEAD_BYTES).ok_or("body ends inside a record")?;
        let (leaf, salt) = head.split_first_chunk::<LEAF_BYTES>().ok_or("body ends inside a leaf")?;
        let decoded = Leaf::decode(leaf).map_err(|_| "leaf cannot be decoded")?;
        if decoded.seq != header.first_seq + u64::from(index) {
            return Err("seqs are not dense");
        }
        let start = at + RECORD_OVERHEAD_BYTES;
        let end = start + decoded.payload_len as usize;
        if end > body.len() {
            return Err("body ends inside a payload");
        }
        let salt = salt.try_into().map_err(|_| "body ends inside a salt")?;
        frames.push(Frame { leaf: *leaf, salt, payload: body.slice(start..end) });
        at = end;
    }
    if at == body.len() { Ok(frames) } else { Err("body is longer than its records") }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::chain::leaf::{self, Kind, Link, LogId};

    fn frame(seq: u64, payload: &'static [u8]) -> Frame {
        let leaf = Leaf {
            log: LogId::of_origin("keytrail/test/node-0123456789abcdef"),
            epoch: 1,
            seq,
            kind: Kind::Event,
            time_us: 1,
            payload_len: u32::try_from(payload.len()).unwrap(),
            payload_digest: leaf::payload_digest(&[3; 16], payload),
            prev: Link::ZERO,
        };
        Frame { leaf: leaf.encode(), salt: [3; 16], payload: Bytes::from_static(payload) }
    }

    #[test]
    fn a_batch_survives_its_encoding() {
        let records = [frame(7, b"one"), frame(8, b""), frame(9, b"three")];
        let mut buffer = BatchBuffer::default();
        buffer.clear();
        for record in &records {
            buffer.push(&record.leaf, &record.salt, &record.payload);
        }
        let (header, bytes) = buffer.close(4, 7, [1; 32]);
        assert_eq!(bytes.len(), 4_096);
        assert_eq!(BatchHeader::decode(bytes), Some(header));
        assert_eq!((header.next_seq(), header.disk_bytes()), (10, 4_096));
        let end = HEADER_BYTES + header.body_bytes as usize;
        let body = Bytes::copy_from_slice(&bytes[HEADER_BYTES..end]);
        assert_eq!(frames(&header, &body).unwrap(), records);
        assert!(frames(&header, &body.slice(1..)).is_err());
        assert!(frames(&BatchHeader { count: 2, ..header }, &body).is_err());
        assert!(frames(&BatchHeader { count: u32::MAX, ..header }, &body).is_err());
    }

    #[test]
    fn any_changed_bit_breaks_a_header() {
        let header =
            BatchHeader { number: 1, first_seq: 2, count: 3, body_bytes: 4, body_digest: [5; 32], prev: [6; 32] };
        let bytes = header.encode();
        assert_eq!(&bytes[96..], header.digest());
        for bit in 0..HEADER_BYTES * 8 {
            let mut changed = bytes;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(BatchHeader::decode(&changed), None, "bit {bit}");
        }
        assert_eq!(BatchHeader::decode(&bytes[..127]), None);
    }
}
