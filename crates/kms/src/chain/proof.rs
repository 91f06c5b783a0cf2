//! RFC 6962 inclusion proofs: made by the tree, checked here by anyone.
//!
//! A proof says that one leaf hash stands at one seq in the tree with one size and root. Whoever checks it needs the
//! root from a checkpoint they trust; a proof by itself proves nothing.

use super::leaf::LeafHash;
use super::tree::{RootHash, node_hash};

/// Sibling hashes from the leaf up to the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InclusionProof {
    /// The hashes, nearest to the leaf first; none in a tree of one.
    pub hashes: Vec<[u8; 32]>,
}

/// Why a proof does not hold.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProofError {
    /// No such leaf at that size.
    #[error("seq {seq} is not in a tree of size {size}")]
    Seq {
        /// Leaf claimed.
        seq: u64,
        /// Size claimed.
        size: u64,
    },
    /// Too many or too few hashes for that seq and size.
    #[error("proof has {found} hashes, which does not fit seq {seq} in a tree of size {size}")]
    Length {
        /// Hashes in the proof.
        found: usize,
        /// Leaf claimed.
        seq: u64,
        /// Size claimed.
        size: u64,
    },
    /// The hashes lead to another root.
    #[error("proof of seq {seq} in a tree of size {size} leads to another root")]
    Root {
        /// Leaf claimed.
        seq: u64,
        /// Size claimed.
        size: u64,
    },
}

impl InclusionProof {
    /// Checks that `leaf` stands at `seq` in the tree of `size` with `root` (RFC 9162 section 2.1.3.2).
    pub fn verify(&self, leaf: LeafHash, seq: u64, size: u64, root: &RootHash) -> Result<(), ProofError> {
        if seq >= size {
            return Err(ProofError::Seq { seq, size });
        }
        let length = ProofError::Length { found: self.hashes.len(), seq, size };
        let (mut node, mut last) = (seq, size - 1);
        let mut hash = leaf.0;
        for sibling in &self.hashes {
            if last == 0 {
                return Err(length);
            }
            if node % 2 == 1 || node == last {
                hash = node_hash(sibling, &hash);
                while node % 2 == 0 && node != 0 {
                    (node, last) = (node >> 1, last >> 1);
                }
            } else {
                hash = node_hash(&hash, sibling);
            }
            (node, last) = (node >> 1, last >> 1);
        }
        if last != 0 {
            return Err(length);
        }
        if RootHash(hash) == *root { Ok(()) } else { Err(ProofError::Root { seq, size }) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tree::Tree;
    use super::super::tree::tests::leaf;
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    fn case(size: u64, seq: u64) -> (LeafHash, InclusionProof, RootHash) {
        let all: Vec<_> = (0..size).map(|seq| leaf(&seq.to_be_bytes())).collect();
        let mut tree = Tree::new();
        for leaf in &all {
            tree.push(*leaf);
        }
        let source =
            |block: u64| Ok::<_, Infallible>(all.chunks(256).nth(usize::try_from(block).unwrap()).unwrap().to_vec());
        let proof = tree.inclusion_proof(seq, size, source).unwrap();
        (all[usize::try_from(seq).unwrap()], proof, tree.root())
    }

    proptest! {
        #[test]
        fn any_changed_bit_breaks_a_proof(size in 1_u64..700, pick: u64, bit: usize) {
            let seq = pick % size;
            let (leaf, proof, root) = case(size, seq);
            prop_assert_eq!(proof.verify(leaf, seq, size, &root), Ok(()));

            let mut other = leaf;
            other.0[bit / 8 % 32] ^= 1 << (bit % 8);
            prop_assert!(proof.verify(other, seq, size, &root).is_err());
            let mut other = root;
            other.0[bit / 8 % 32] ^= 1 << (bit % 8);
            prop_assert!(proof.verify(leaf, seq, size, &other).is_err());
            for index in 0..proof.hashes.len() {
                let mut other = proof.clone();
                other.hashes[index][bit / 8 % 32] ^= 1 << (bit % 8);
                prop_assert!(other.verify(leaf, seq, size, &root).is_err());
            }
            let mut longer = proof.clone();
            longer.hashes.push([0; 32]);
            prop_assert!(longer.verify(leaf, seq, size, &root).is_err());
            if size > 1 {
                let mut shorter = proof.clone();
                shorter.hashes.pop();
                prop_assert!(shorter.verify(leaf, seq, size, &root).is_err());
                prop_assert!(proof.verify(leaf, (seq + 1) % size, size, &root).is_err());
            }
        }
    }

    #[test]
    fn a_seq_at_or_beyond_the_size_is_refused() {
        let (leaf, proof, root) = case(3, 2);
        assert_eq!(proof.verify(leaf, 3, 3, &root), Err(ProofError::Seq { seq: 3, size: 3 }));
        assert_eq!(proof.verify(leaf, 0, 0, &root), Err(ProofError::Seq { seq: 0, size: 0 }));
    }
}
