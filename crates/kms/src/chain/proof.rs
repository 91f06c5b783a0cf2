//! RFC 6962 inclusion and consistency proofs: made by whoever keeps the tree, checked here by anyone.
//!
//! An inclusion proof says that one leaf hash stands at one seq in the tree with one size and root; a consistency proof
//! that one tree begins with all leaves of another. Whoever checks them needs the roots from checkpoints that they trust;
//! a proof by itself proves nothing.

use super::leaf::LeafHash;
use super::subtree::{node_hash, split};
use super::tree::RootHash;

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
    /// Checks that `leaf` stands at `seq` in the tree of `size` with `root`.
    pub fn verify(&self, leaf: LeafHash, seq: u64, size: u64, root: &RootHash) -> Result<(), ProofError> {
        if self.root(leaf, seq, size)? == *root { Ok(()) } else { Err(ProofError::Root { seq, size }) }
    }

    /// The root that the proof leads to (RFC 9162 section 2.1.3.2).
    pub(super) fn root(&self, leaf: LeafHash, seq: u64, size: u64) -> Result<RootHash, ProofError> {
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
        if last == 0 { Ok(RootHash(hash)) } else { Err(length) }
    }
}

/// Hashes from which the roots of an old and of a new tree come out, if the new one begins with the old one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsistencyProof {
    /// The hashes, as RFC 6962 section 2.1.2 orders them; none between equal sizes.
    pub hashes: Vec<[u8; 32]>,
}

/// Why a consistency proof does not hold.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConsistencyError {
    /// Not 0 < old <= new. The empty tree begins every other: there is nothing to prove, and RFC 9162 has no such proof.
    #[error("no proof leads from size {old} to size {new}")]
    Sizes {
        /// Size of the old tree.
        old: u64,
        /// Size of the new one.
        new: u64,
    },
    /// Too many or too few hashes for the sizes.
    #[error("proof has {found} hashes, which does not fit sizes {old} and {new}")]
    Length {
        /// Hashes in the proof.
        found: usize,
        /// Size of the old tree.
        old: u64,
        /// Size of the new one.
        new: u64,
    },
    /// The hashes lead to another old root: the new tree begins with other leaves.
    #[error("proof leads to another root at size {old}")]
    OldRoot {
        /// Size of the old tree.
        old: u64,
    },
    /// The hashes lead to another new root.
    #[error("proof leads to another root at size {new}")]
    NewRoot {
        /// Size of the new tree.
        new: u64,
    },
}

impl ConsistencyProof {
    /// Checks that the tree of size `new` with `new_root` begins with the tree of size `old` with `old_root`.
    pub fn verify(&self, old: u64, old_root: &RootHash, new: u64, new_root: &RootHash) -> Result<(), ConsistencyError> {
        if old == 0 || old > new {
            return Err(ConsistencyError::Sizes { old, new });
        }
        let length = ConsistencyError::Length { found: self.hashes.len(), old, new };
        let mut hashes = self.hashes.iter();
        let (found_old, found_new) = subtree_roots(0..old, new, Some(old_root.0), &mut hashes).ok_or(length)?;
        if hashes.next().is_some() {
            return Err(length);
        }
        if found_old != old_root.0 {
            return Err(ConsistencyError::OldRoot { old });
        }
        if found_new == new_root.0 { Ok(()) } else { Err(ConsistencyError::NewRoot { new }) }
    }
}

/// Roots of the leaves `part` and of the whole tree of `size`, from a proof made by the recursion SUBPROOF of RFC 6962,
/// followed backwards; None when hashes run out. `known` is the root of the part while it stands alone on its side.
/// A part that does not begin at 0 is a subtree of the MTC draft's sense, whose published test vectors then apply.
pub(super) fn subtree_roots<'a>(
    part: std::ops::Range<u64>,
    size: u64,
    known: Option<[u8; 32]>,
    hashes: &mut impl Iterator<Item = &'a [u8; 32]>,
) -> Option<([u8; 32], [u8; 32])> {
    if part == (0..size) {
        let root = match known {
            Some(root) => root,
            None => *hashes.next()?,
        };
        return Some((root, root));
    }
    let middle = split(size);
    if part.end <= middle {
        let (of_part, left) = subtree_roots(part, middle, known, hashes)?;
        return Some((of_part, node_hash(&left, hashes.next()?)));
    }
    if part.start >= middle {
        let (of_part, right) = subtree_roots(part.start - middle..part.end - middle, size - middle, known, hashes)?;
        return Some((of_part, node_hash(hashes.next()?, &right)));
    }
    let (of_part, right) = subtree_roots(0..part.end - middle, size - middle, None, hashes)?;
    let left = hashes.next()?;
    Some((node_hash(left, &of_part), node_hash(left, &right)))
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
