//! The chain and the tree over the audit log: pure functions, no I/O and no clock.
//!
//! `leaf` is the record that is hashed and linked, `tree` the RFC 6962 Merkle tree over leaves, `proof` inclusion
//! proofs, `range` proofs of dense runs, `checkpoint` the signed log head. Byte formats with test vectors: docs/chain.md.

pub mod checkpoint;
pub mod leaf;
pub mod proof;
pub mod range;
pub mod tree;

pub use checkpoint::{Checkpoint, NoteError, Pkcs8, SigningKey, VerifyKey};
pub use leaf::{Kind, LEAF_BYTES, Leaf, LeafError, LeafHash, Link, LogId, Salt};
pub use proof::{InclusionProof, ProofError};
pub use range::{Frontier, RangeError, RangeProof, SeqRange};
pub use tree::{RootHash, Tree, TreeError};
