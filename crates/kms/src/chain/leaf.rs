//! One log record's fixed-size leaf, its chain link and its tree leaf hash.
//!
//! A leaf commits to the payload by a salted digest, so a payload can be erased while every proof still holds. The
//! layout (110 bytes, big-endian) is described byte by byte in docs/chain.md; it never changes, a new one gets a new
//! version byte.

use aws_lc_rs::digest;
use std::fmt;

/// Length of an encoded leaf in bytes.
pub const LEAF_BYTES: usize = 110;

/// The only leaf version written and read so far.
pub const LEAF_VERSION: u8 = 1;

/// Context string of the BLAKE3 key derivation that links one leaf to the next.
const CHAIN_CONTEXT: &str = "keytrail audit chain v1";

/// Random bytes kept beside a payload; without them the leaf's digest says nothing about the payload.
pub type Salt = [u8; 16];

/// The first 16 bytes of SHA-256 over the log's origin; written as 32 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogId(pub [u8; 16]);

impl LogId {
    /// The id of the log named `origin`.
    pub fn of_origin(origin: &str) -> Self {
        let hash = sha256(&[origin.as_bytes()]);
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        Self(id)
    }

    /// Reads 32 lower-case hex digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut id = [0; 16];
        hex::decode_to_slice(text, &mut id).ok()?;
        (hex::encode(id) == text).then_some(Self(id))
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogId({self})")
    }
}

/// A chain value: BLAKE3 in key-derivation mode over a leaf, which itself holds the link before it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Link(pub [u8; 32]);

impl Link {
    /// The previous link of the leaf with seq 0.
    pub const ZERO: Self = Self([0; 32]);
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({self})")
    }
}

/// RFC 6962 leaf hash: SHA-256(0x00 || leaf).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeafHash(pub [u8; 32]);

impl fmt::Display for LeafHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for LeafHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeafHash({self})")
    }
}

/// What a record is. Numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A call: the payload is CloudTrail JSON.
    Event = 1,
    /// Counts of requests refused without an event of their own.
    Refusals = 2,
    /// A process run begins.
    EpochStart = 3,
    /// A clean stop.
    Stop = 4,
    /// Sign of life each ten seconds, with the clock's offset.
    Heartbeat = 5,
    /// Replies that were not sent although their events are recorded.
    Addendum = 6,
    /// The checkpoint key changes.
    KeyTransition = 7,
    /// A declared gap.
    GapDeclaration = 8,
    /// A payload was erased.
    Erasure = 9,
    /// Payloads below an index were pruned.
    Prune = 10,
    /// The node's mode of service changed.
    ModeChange = 11,
}

impl Kind {
    /// The kind with this number, if there is one.
    pub fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Event,
            2 => Self::Refusals,
            3 => Self::EpochStart,
            4 => Self::Stop,
            5 => Self::Heartbeat,
            6 => Self::Addendum,
            7 => Self::KeyTransition,
            8 => Self::GapDeclaration,
            9 => Self::Erasure,
            10 => Self::Prune,
            11 => Self::ModeChange,
            _ => return None,
        })
    }
}

/// A leaf, decoded. All fields are hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Which log.
    pub log: LogId,
    /// Number of the process run, from 1.
    pub epoch: u64,
    /// Dense index in the log, from 0 over restarts.
    pub seq: u64,
    /// What the record is.
    pub kind: Kind,
    /// Unix microseconds at append; never falls from one leaf to the next.
    pub time_us: u64,
    /// Length of the payload in bytes.
    pub payload_len: u32,
    /// SHA-256(salt || payload).
    pub payload_digest: [u8; 32],
    /// Link of the leaf with the previous seq; zeros at seq 0.
    pub prev: Link,
}

/// Why bytes are not a leaf.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LeafError {
    /// Not 110 bytes.
    #[error("leaf has {0} bytes instead of {LEAF_BYTES}")]
    Length(usize),
    /// Written by a newer Keytrail.
    #[error("leaf version {0} is not known")]
    Version(u8),
    /// Kind number outside 1 to 11.
    #[error("leaf kind {0} is not known")]
    Kind(u8),
}

impl Leaf {
    /// The 110 bytes that are hashed, linked, stored and shipped.
    pub fn encode(&self) -> [u8; LEAF_BYTES] {
        let mut bytes = [0; LEAF_BYTES];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            let (start, end) = (at, at + field.len());
            if let Some(slot) = bytes.get_mut(start..end) {
                slot.copy_from_slice(field);
            }
            at = end;
        };
        put(&[LEAF_VERSION]);
        put(&self.log.0);
        put(&self.epoch.to_be_bytes());
        put(&self.seq.to_be_bytes());
        put(&[self.kind as u8]);
        put(&self.time_us.to_be_bytes());
        put(&self.payload_len.to_be_bytes());
        put(&self.payload_digest);
        put(&self.prev.0);
        bytes
    }

    /// Reads the 110 bytes; any other length, version or kind is an error.
    pub fn decode(bytes: &[u8]) -> Result<Self, LeafError> {
        let exact: &[u8; LEAF_BYTES] = bytes.try_into().map_err(|_| LeafError::Length(bytes.len()))?;
        let mut fields = Fields(exact);
        let version = fields.take::<1>()[0];
        if version != LEAF_VERSION {
            return Err(LeafError::Version(version));
        }
        let log = LogId(fields.take());
        let epoch = u64::from_be_bytes(fields.take());
        let seq = u64::from_be_bytes(fields.take());
        let kind = fields.take::<1>()[0];
        Ok(Self {
            log,
            epoch,
            seq,
            kind: Kind::from_u8(kind).ok_or(LeafError::Kind(kind))?,
            time_us: u64::from_be_bytes(fields.take()),
            payload_len: u32::from_be_bytes(fields.take()),
            payload_digest: fields.take(),
            prev: Link(fields.take()),
        })
    }
}

/// The link that the next leaf must carry.
pub fn link(leaf: &[u8; LEAF_BYTES]) -> Link {
    Link(blake3::derive_key(CHAIN_CONTEXT, leaf))
}

/// The leaf's hash in the Merkle tree.
pub fn leaf_hash(leaf: &[u8; LEAF_BYTES]) -> LeafHash {
    LeafHash(sha256(&[&[0], leaf]))
}

/// SHA-256(salt || payload), the only thing a leaf says about its payload.
pub fn payload_digest(salt: &Salt, payload: &[u8]) -> [u8; 32] {
    sha256(&[salt, payload])
}

/// SHA-256 over the parts as one message.
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// Walks the fixed layout; the total length was checked before.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (head, rest) = self.0.split_first_chunk::<N>().expect("leaf fields add up to LEAF_BYTES");
        self.0 = rest;
        *head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn sample() -> Leaf {
        Leaf {
            log: LogId::of_origin("keytrail/test/node-0123456789abcdef"),
            epoch: 1,
            seq: 0,
            kind: Kind::Event,
            time_us: 1_767_614_400_000_000,
            payload_len: 2,
            payload_digest: payload_digest(&[7; 16], b"{}"),
            prev: Link::ZERO,
        }
    }

    #[test]
    fn a_leaf_survives_its_encoding() {
        assert_eq!(Leaf::decode(&sample().encode()), Ok(sample()));
    }

    #[test]
    fn any_changed_byte_changes_link_and_hash() {
        let bytes = sample().encode();
        for index in 0..LEAF_BYTES {
            let mut changed = bytes;
            changed[index] ^= 1;
            assert_ne!(link(&changed), link(&bytes), "byte {index}");
            assert_ne!(leaf_hash(&changed), leaf_hash(&bytes), "byte {index}");
        }
    }

    #[test]
    fn wrong_length_version_and_kind_are_refused() {
        let bytes = sample().encode();
        assert_eq!(Leaf::decode(&bytes[1..]), Err(LeafError::Length(109)));
        let mut version = bytes;
        version[0] = 2;
        assert_eq!(Leaf::decode(&version), Err(LeafError::Version(2)));
        let mut kind = bytes;
        kind[33] = 12;
        assert_eq!(Leaf::decode(&kind), Err(LeafError::Kind(12)));
    }
}
