//! One record as it travels: leaf, salt and payload, in the journal, over Kafka and in the trail's spool.

use crate::chain::leaf::{self, LEAF_BYTES, Leaf, LeafError, LeafHash, Link, Salt};
use bytes::Bytes;

/// Largest payload of one record in bytes (DESIGN decision 9; Kafka's message limit is four times that).
pub const PAYLOAD_BYTES_MAX: usize = 256 * 1024;

/// A record with all that is needed to verify it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The encoded leaf, exactly as hashed.
    pub leaf: [u8; LEAF_BYTES],
    /// Salt of the payload digest.
    pub salt: Salt,
    /// The exact bytes as first written; CloudTrail JSON for kind 1.
    pub payload: Bytes,
}

/// Why a frame does not hold together.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    /// The leaf cannot be read.
    #[error("leaf cannot be decoded")]
    Leaf(#[from] LeafError),
    /// Payload length or salted digest differ from the leaf's.
    #[error("payload of seq {seq} does not match its leaf")]
    Payload {
        /// Which record.
        seq: u64,
    },
}

impl Frame {
    /// Decodes the leaf and checks payload length and digest against it. Does not check the chain.
    pub fn verify(&self) -> Result<Leaf, FrameError> {
        let leaf = Leaf::decode(&self.leaf)?;
        let matches = usize::try_from(leaf.payload_len) == Ok(self.payload.len())
            && leaf.payload_digest == leaf::payload_digest(&self.salt, &self.payload);
        if matches { Ok(leaf) } else { Err(FrameError::Payload { seq: leaf.seq }) }
    }

    /// The link the next frame's leaf must carry.
    pub fn link(&self) -> Link {
        leaf::link(&self.leaf)
    }

    /// The leaf's hash in the Merkle tree.
    pub fn leaf_hash(&self) -> LeafHash {
        leaf::leaf_hash(&self.leaf)
    }
}
