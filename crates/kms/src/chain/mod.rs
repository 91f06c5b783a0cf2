//! The chain and the tree over the audit log: pure functions, no I/O and no clock.
//!
//! `leaf` is the record that is hashed and linked, `tree` the RFC 6962 Merkle tree over leaves, `proof` inclusion
//! proofs, `consistency` proofs that a log only grew, `checkpoint` the signed log head, `cosignature` what witnesses
//! add to it, `trust_policy` which of them must. Byte formats with test vectors: docs/chain.md.

pub mod checkpoint;
pub mod consistency;
pub mod cosignature;
pub mod leaf;
pub mod proof;
pub mod tree;
pub mod trust_policy;

pub use checkpoint::{Checkpoint, NoteError, Pkcs8, SigningKey, VerifyKey};
pub use consistency::{ConsistencyProof, Growth};
pub use cosignature::{Cosigner, CosigningKey};
pub use leaf::{Kind, LEAF_BYTES, Leaf, LeafError, LeafHash, Link, LogId, Salt};
pub use proof::{InclusionProof, ProofError};
pub use tree::{RootHash, Tree, TreeError};
pub use trust_policy::{PolicyFileError, TrustPolicy};
