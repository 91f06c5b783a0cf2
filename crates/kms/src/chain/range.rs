//! Range proofs: that a dense run of leaves stands in a tree, with the nodes beside the run.
//!
//! Both directions walk the tree once, from left to right, and pull leaf hashes as they need them, so that a range of
//! any length costs a logarithm of memory. The walk is the function in docs/evidence.md, word for word.

use super::leaf::LeafHash;
use super::subtree::{node_hash, split};
use super::tree::RootHash;

/// A run of leaves, both ends inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeqRange {
    /// First leaf.
    pub first: u64,
    /// Last leaf.
    pub last: u64,
}

/// The hashes of the largest nodes outside the range, from left to right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeProof {
    /// The hashes.
    pub hashes: Vec<[u8; 32]>,
}

/// Why a range does not lead to a root. `E` is the error of the caller's source of leaf hashes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RangeError<E: std::error::Error + 'static> {
    /// No such range at that size.
    #[error("range {first} to {last} is not in a tree of size {size}")]
    Range {
        /// First leaf.
        first: u64,
        /// Last leaf.
        last: u64,
        /// Size of the tree.
        size: u64,
    },
    /// Too many or too few hashes for that range and size.
    #[error("range proof has {0} hashes, which does not fit its range")]
    Length(usize),
    /// The source failed.
    #[error("leaf hashes of the range cannot be had")]
    Source(#[source] E),
}

impl RangeProof {
    /// The proof of `range` and the root of the tree of `size`. `leaf` gives the hashes of all leaves, from 0 on.
    pub fn of_tree<E: std::error::Error + 'static>(
        range: SeqRange,
        size: u64,
        leaf: impl FnMut() -> Result<LeafHash, E>,
    ) -> Result<(Self, RootHash), RangeError<E>> {
        let mut nodes = Making { leaf, proof: Self::default() };
        let root = walk(range, size, &mut nodes)?;
        Ok((nodes.proof, root))
    }

    /// The root that the proof gives with the leaves of `range`, which `leaf` gives in order.
    pub fn root<E: std::error::Error + 'static>(
        &self,
        range: SeqRange,
        size: u64,
        leaf: impl FnMut() -> Result<LeafHash, E>,
    ) -> Result<RootHash, RangeError<E>> {
        let mut nodes = Checking { leaf, left: self.hashes.iter() };
        let root = walk(range, size, &mut nodes).map_err(|error| match error {
            RangeError::Length(_) => RangeError::Length(self.hashes.len()),
            other => other,
        })?;
        if nodes.left.next().is_some() { Err(RangeError::Length(self.hashes.len())) } else { Ok(root) }
    }

    /// The tree over the leaves below the range, if the proof is long enough to say.
    pub fn before(&self, range: SeqRange) -> Option<Frontier> {
        let mut frontier = Frontier::default();
        let mut hashes = self.hashes.iter();
        for bit in (0..u64::BITS).rev().map(|bit| 1_u64 << bit).filter(|bit| range.first & bit != 0) {
            frontier.nodes.push((bit, *hashes.next()?));
        }
        Some(frontier)
    }
}

/// The right edge of a growing tree: enough for its root at each size.
#[derive(Clone, Debug, Default)]
pub struct Frontier {
    /// Leaves below a complete node, and its hash; the largest first.
    nodes: Vec<(u64, [u8; 32])>,
}

impl Frontier {
    /// Adds the next leaf.
    pub fn push(&mut self, leaf: LeafHash) {
        let (mut count, mut node) = (1, leaf.0);
        while let Some(&(left_count, left)) = self.nodes.last()
            && left_count == count
        {
            self.nodes.pop();
            (count, node) = (2 * count, node_hash(&left, &node));
        }
        self.nodes.push((count, node));
    }

    /// Leaves so far.
    pub fn size(&self) -> u64 {
        self.nodes.iter().map(|(count, _)| count).sum()
    }

    /// Root over them; None over nothing.
    pub fn root(&self) -> Option<RootHash> {
        let mut nodes = self.nodes.iter().rev().map(|(_, node)| *node);
        let last = nodes.next()?;
        Some(RootHash(nodes.fold(last, |right, left| node_hash(&left, &right))))
    }
}

/// What the walk asks for.
trait Nodes<E: std::error::Error + 'static> {
    /// The hash over leaves that are not in the range.
    fn outside(&mut self, start: u64, end: u64) -> Result<[u8; 32], RangeError<E>>;
    /// The next leaf of the range.
    fn inside(&mut self) -> Result<[u8; 32], RangeError<E>>;
}

fn walk<E: std::error::Error + 'static>(
    range: SeqRange,
    size: u64,
    nodes: &mut impl Nodes<E>,
) -> Result<RootHash, RangeError<E>> {
    let SeqRange { first, last } = range;
    if first > last || last >= size {
        return Err(RangeError::Range { first, last, size });
    }
    node(range, 0, size, nodes).map(RootHash)
}

/// Hash over the leaves from `start` up to `end`, of which there is at least one. Recurses once a level, 64 at most.
fn node<E: std::error::Error + 'static>(
    range: SeqRange,
    start: u64,
    end: u64,
    nodes: &mut impl Nodes<E>,
) -> Result<[u8; 32], RangeError<E>> {
    if end <= range.first || start > range.last {
        return nodes.outside(start, end);
    }
    if end - start == 1 {
        return nodes.inside();
    }
    let middle = start + split(end - start);
    let left = node(range, start, middle, nodes)?;
    Ok(node_hash(&left, &node(range, middle, end, nodes)?))
}

struct Making<F> {
    leaf: F,
    proof: RangeProof,
}

impl<F> Making<F> {
    fn over<E: std::error::Error + 'static>(&mut self, count: u64) -> Result<[u8; 32], RangeError<E>>
    where
        F: FnMut() -> Result<LeafHash, E>,
    {
        if count == 1 {
            return (self.leaf)().map(|leaf| leaf.0).map_err(RangeError::Source);
        }
        let left = self.over(split(count))?;
        Ok(node_hash(&left, &self.over(count - split(count))?))
    }
}

impl<E: std::error::Error + 'static, F: FnMut() -> Result<LeafHash, E>> Nodes<E> for Making<F> {
    fn outside(&mut self, start: u64, end: u64) -> Result<[u8; 32], RangeError<E>> {
        let hash = self.over(end - start)?;
        self.proof.hashes.push(hash);
        Ok(hash)
    }

    fn inside(&mut self) -> Result<[u8; 32], RangeError<E>> {
        self.over(1)
    }
}

struct Checking<'a, F> {
    leaf: F,
    left: std::slice::Iter<'a, [u8; 32]>,
}

impl<E: std::error::Error + 'static, F: FnMut() -> Result<LeafHash, E>> Nodes<E> for Checking<'_, F> {
    fn outside(&mut self, _: u64, _: u64) -> Result<[u8; 32], RangeError<E>> {
        self.left.next().copied().ok_or(RangeError::Length(0))
    }

    fn inside(&mut self) -> Result<[u8; 32], RangeError<E>> {
        (self.leaf)().map(|leaf| leaf.0).map_err(RangeError::Source)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tree::Tree;
    use super::super::tree::tests::leaf;
    use super::*;
    use proptest::prelude::*;
    use std::io::{Error, ErrorKind};

    /// io::Error cannot be compared, a kind is no error: the source of the tests fails with this.
    #[derive(Debug, thiserror::Error, PartialEq, Eq)]
    #[error("no more leaves")]
    struct Ended;

    fn leaves(count: u64) -> Vec<LeafHash> {
        (0..count).map(|seq| leaf(&seq.to_be_bytes())).collect()
    }

    fn source(leaves: &[LeafHash]) -> impl FnMut() -> Result<LeafHash, Ended> {
        let mut leaves = leaves.iter();
        move || leaves.next().copied().ok_or(Ended)
    }

    fn inside(leaves: &[LeafHash], range: SeqRange) -> &[LeafHash] {
        &leaves[usize::try_from(range.first).unwrap()..=usize::try_from(range.last).unwrap()]
    }

    fn tree(leaves: &[LeafHash]) -> RootHash {
        let mut tree = Tree::new();
        leaves.iter().for_each(|leaf| tree.push(*leaf));
        tree.root()
    }

    #[test]
    fn every_range_of_every_small_tree_is_proved() {
        for size in 1..40 {
            let all = leaves(size);
            for first in 0..size {
                for last in first..size {
                    let range = SeqRange { first, last };
                    let (proof, root) = RangeProof::of_tree(range, size, source(&all)).unwrap();
                    assert_eq!(root, tree(&all));
                    assert_eq!(proof.root(range, size, source(inside(&all, range))), Ok(root));
                    let mut frontier = proof.before(range).unwrap();
                    assert_eq!(frontier.size(), first);
                    for (leaf, end) in inside(&all, range).iter().zip(first + 1..) {
                        frontier.push(*leaf);
                        assert_eq!(frontier.root(), Some(tree(&all[..usize::try_from(end).unwrap()])));
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_no_range_or_ends_early_is_an_error() {
        let all = leaves(9);
        for (first, last) in [(3, 2), (0, 9), (9, 9), (u64::MAX, u64::MAX)] {
            let range = SeqRange { first, last };
            assert_eq!(
                RangeProof::default().root(range, 9, source(&all)),
                Err(RangeError::Range { first, last, size: 9 })
            );
        }
        let range = SeqRange { first: 2, last: 5 };
        assert_eq!(RangeProof::of_tree(range, 9, source(&all[..8])), Err(RangeError::Source(Ended)));
        assert!(RangeProof::default().before(range).is_none());
        let other = || Err::<LeafHash, _>(Error::from(ErrorKind::Other));
        assert!(RangeProof::of_tree(range, 9, other).is_err());
    }

    proptest! {
        #[test]
        fn any_changed_bit_gives_another_root(size in 1_u64..2_000, a: u64, b: u64, bit: usize, pick: usize) {
            let (first, last) = ((a % size).min(b % size), (a % size).max(b % size));
            let range = SeqRange { first, last };
            let all = leaves(size);
            let (proof, root) = RangeProof::of_tree(range, size, source(&all)).unwrap();
            let mut changed = inside(&all, range).to_vec();
            let at = pick % changed.len();
            changed[at].0[bit / 8 % 32] ^= 1 << (bit % 8);
            prop_assert_ne!(proof.root(range, size, source(&changed)), Ok(root));
            for index in 0..proof.hashes.len() {
                let mut other = proof.clone();
                other.hashes[index][bit / 8 % 32] ^= 1 << (bit % 8);
                prop_assert_ne!(other.root(range, size, source(inside(&all, range))), Ok(root));
            }
            let mut longer = proof;
            longer.hashes.push([0; 32]);
            let count = longer.hashes.len();
            prop_assert_eq!(longer.root(range, size, source(inside(&all, range))), Err(RangeError::Length(count)));
        }
    }
}
