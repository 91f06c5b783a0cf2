//! The chain and the tree over the audit log: pure functions, no I/O and no clock.
//!
//! `leaf` is the record that is hashed and linked, `tree` the RFC 6962 Merkle tree over leaves, `tile` its parts as C2SP
//! tlog-tiles lays them out, `proof` inclusion and consistency proofs, `consistency` the judgement that a log only grew,
//! `range` proofs of dense runs, `tlog_proof` an inclusion proof as a file, `checkpoint` the signed log head, `cosignature`
//! what witnesses add to it, `trust_policy` which of them must,
//! `gap` that a log cannot go on, `transition` which key signs from which size on. Byte formats with test vectors: docs/chain.md.

pub mod checkpoint;
pub mod consistency;
pub mod cosignature;
pub mod gap;
pub mod leaf;
pub mod proof;
pub mod range;
mod subtree;
pub mod tile;
pub mod tlog_proof;
pub mod transition;
pub mod tree;
pub mod trust_policy;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod vectors;

pub use checkpoint::{Checkpoint, NoteError, Pkcs8, SigningKey, VerifyKey};
pub use consistency::Growth;
pub use cosignature::{Cosigner, CosigningKey};
pub use gap::{GapDeclaration, GapError};
pub use leaf::{Kind, LEAF_BYTES, Leaf, LeafError, LeafHash, Link, LogId, Salt};
pub use proof::{ConsistencyError, ConsistencyProof, InclusionProof, ProofError};
pub use range::{Frontier, RangeError, RangeProof, SeqRange};
pub(crate) use subtree::{Hash, consistency, inclusion, range};
pub use tile::{Tile, TileKind};
pub use tlog_proof::{TlogProof, TlogProofError};
pub use transition::{KeyTransition, LogKeys, TransitionError};
pub use tree::{RootHash, Tree, TreeError};
pub use trust_policy::{PolicyFileError, TrustPolicy};
