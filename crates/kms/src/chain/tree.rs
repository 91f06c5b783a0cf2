//! The RFC 6962 Merkle tree over leaf hashes, kept compactly.
//!
//! Of a full block of 256 leaves only the hash is kept (and the nodes above it, so that a root costs a logarithm);
//! leaf hashes only of the last, partial block. Whoever wants a proof into a full block brings that block's leaf
//! hashes: the caller has the journal, this file has no I/O. A block brought is checked against the hash kept.

use super::leaf::LeafHash;
use super::proof::InclusionProof;
use super::subtree::{self, Hash, node_hash};
use std::convert::Infallible;
use std::fmt;

/// Leaves in a block, as in a full C2SP tlog-tiles tile.
pub const BLOCK_LEAVES: u64 = 256;
const BLOCK_LEAVES_USIZE: usize = 256;

/// Root of the tree at some size.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RootHash(pub [u8; 32]);

impl fmt::Display for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootHash({self})")
    }
}

/// Why a root or a proof cannot be had. `E` is the error of the caller's source of leaf hashes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TreeError<E: std::error::Error + 'static> {
    /// The tree has not grown that far.
    #[error("tree of size {tree} has no size {wanted}")]
    Size {
        /// Leaves in the tree.
        tree: u64,
        /// Size asked for.
        wanted: u64,
    },
    /// No such leaf at that size.
    #[error("seq {seq} is not in a tree of size {size}")]
    Seq {
        /// Leaf asked for.
        seq: u64,
        /// Size asked for.
        size: u64,
    },
    /// The source gave fewer leaf hashes than the block has.
    #[error("block {block} came with {found} leaf hashes instead of {wanted}")]
    ShortBlock {
        /// Which block of 256.
        block: u64,
        /// Leaf hashes needed.
        wanted: usize,
        /// Leaf hashes given.
        found: usize,
    },
    /// The source gave other leaf hashes than were pushed.
    #[error("leaf hashes of block {block} do not add up to its hash in the tree")]
    ForeignBlock {
        /// Which block of 256.
        block: u64,
    },
    /// The source failed.
    #[error("leaf hashes of block {block} cannot be read")]
    Source {
        /// Which block of 256.
        block: u64,
        /// What the source said.
        #[source]
        source: E,
    },
}

/// The tree.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// `levels[0]` are the hashes of full blocks, `levels[k]` the complete nodes over 2^k of them.
    levels: Vec<Vec<[u8; 32]>>,
    /// Leaf hashes of the last block, always fewer than 256.
    tail: Vec<LeafHash>,
}

impl Tree {
    /// The empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// A tree from what [`Tree::subtrees`] and [`Tree::tail`] gave; None if the tail is a full block or longer.
    pub fn from_subtrees(subtrees: Vec<[u8; 32]>, tail: Vec<LeafHash>) -> Option<Self> {
        if tail.len() >= BLOCK_LEAVES_USIZE {
            return None;
        }
        let mut tree = Self::new();
        for subtree in subtrees {
            tree.push_block(subtree);
        }
        tree.tail = tail;
        Some(tree)
    }

    /// Adds the next leaf.
    pub fn push(&mut self, leaf: LeafHash) {
        self.tail.push(leaf);
        if self.tail.len() == BLOCK_LEAVES_USIZE {
            let block = hash_of(&self.tail);
            self.tail.clear();
            self.push_block(block);
        }
    }

    /// Leaves in the tree.
    pub fn size(&self) -> u64 {
        self.full_blocks() * BLOCK_LEAVES + self.tail.len() as u64
    }

    /// Hashes of the full blocks, in order.
    pub fn subtrees(&self) -> &[[u8; 32]] {
        self.levels.first().map_or(&[], Vec::as_slice)
    }

    /// Leaf hashes of the last, partial block.
    pub fn tail(&self) -> &[LeafHash] {
        &self.tail
    }

    /// The hashes of a tile at level 1 or above, as many of its 256 as the tree has.
    pub fn tile(&self, level: u8, index: u64) -> &[Hash] {
        let Some(nodes) = level.checked_sub(1).and_then(|above| self.levels.get(usize::from(above) * 8)) else {
            return &[];
        };
        let start = usize::try_from(index).ok().and_then(|index| index.checked_mul(BLOCK_LEAVES_USIZE));
        let rest = start.and_then(|start| nodes.get(start..)).unwrap_or_default();
        rest.get(..BLOCK_LEAVES_USIZE).unwrap_or(rest)
    }

    /// Root over all leaves.
    pub fn root(&self) -> RootHash {
        let blocks = Blocks { blocks: vec![(self.full_blocks(), self.tail.clone())] };
        RootHash(self.range(0, self.size(), &blocks))
    }

    /// Root at an earlier `size`. `leaves(block)` is called at most once, for the block that `size` cuts.
    pub fn root_at<E: std::error::Error + 'static>(
        &self,
        size: u64,
        leaves: impl FnMut(u64) -> Result<Vec<LeafHash>, E>,
    ) -> Result<RootHash, TreeError<E>> {
        if size > self.size() {
            return Err(TreeError::Size { tree: self.size(), wanted: size });
        }
        let blocks = self.fetch(&cut_block(size), size, leaves)?;
        Ok(RootHash(self.range(0, size, &blocks)))
    }

    /// Proof that leaf `seq` is in the tree of `size`.
    ///
    /// `leaves(block)` gives the leaf hashes of the block numbered `block` (256 leaves from `256 * block`), at least
    /// those below `size`; it is called for the block of `seq` and for the block that `size` cuts, never for the
    /// tree's own last block.
    pub fn inclusion_proof<E: std::error::Error + 'static>(
        &self,
        seq: u64,
        size: u64,
        leaves: impl FnMut(u64) -> Result<Vec<LeafHash>, E>,
    ) -> Result<InclusionProof, TreeError<E>> {
        if size > self.size() {
            return Err(TreeError::Size { tree: self.size(), wanted: size });
        }
        if seq >= size {
            return Err(TreeError::Seq { seq, size });
        }
        let mut wanted = cut_block(size);
        if !wanted.contains(&(seq / BLOCK_LEAVES)) {
            wanted.push(seq / BLOCK_LEAVES);
        }
        let blocks = self.fetch(&wanted, size, leaves)?;
        let Ok(hashes) = subtree::inclusion(seq, 0, size, &mut self.nodes(&blocks));
        Ok(InclusionProof { hashes })
    }

    fn full_blocks(&self) -> u64 {
        self.subtrees().len() as u64
    }

    fn push_block(&mut self, block: [u8; 32]) {
        let mut node = block;
        for level in 0.. {
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            let Some(nodes) = self.levels.get_mut(level) else { return };
            nodes.push(node);
            match nodes.as_slice() {
                [.., left, right] if nodes.len() % 2 == 0 => node = node_hash(left, right),
                _ => return,
            }
        }
    }

    fn fetch<E: std::error::Error + 'static>(
        &self,
        wanted: &[u64],
        size: u64,
        mut leaves: impl FnMut(u64) -> Result<Vec<LeafHash>, E>,
    ) -> Result<Blocks, TreeError<E>> {
        let mut blocks = Vec::with_capacity(wanted.len());
        for &block in wanted {
            if block == self.full_blocks() {
                blocks.push((block, self.tail.clone()));
                continue;
            }
            let found = leaves(block).map_err(|source| TreeError::Source { block, source })?;
            let needed = usize::try_from((size - block * BLOCK_LEAVES).min(BLOCK_LEAVES)).unwrap_or(BLOCK_LEAVES_USIZE);
            if found.len() < needed {
                return Err(TreeError::ShortBlock { block, wanted: needed, found: found.len() });
            }
            if found.len() == BLOCK_LEAVES_USIZE && self.node(0, block) != Some(&hash_of(&found)) {
                return Err(TreeError::ForeignBlock { block });
            }
            blocks.push((block, found));
        }
        Ok(Blocks { blocks })
    }

    fn node(&self, level: usize, index: u64) -> Option<&[u8; 32]> {
        self.levels.get(level)?.get(usize::try_from(index).ok()?)
    }

    /// MTH(D[start..end]) of RFC 6962; `start` is a multiple of the power of two at or above `end - start`.
    fn range(&self, start: u64, end: u64, blocks: &Blocks) -> Hash {
        let Ok(hash) = subtree::range(start, end, &mut self.nodes(blocks));
        hash
    }

    /// Complete nodes: kept from whole blocks on, made of the leaf hashes below.
    fn nodes(&self, blocks: &Blocks) -> impl FnMut(u32, u64) -> Result<Hash, Infallible> {
        |level, index| {
            Ok(match level.checked_sub(BLOCK_LEAVES.trailing_zeros()) {
                Some(level) => *self.node(level as usize, index).expect("complete nodes below the size are kept"),
                None => hash_of(blocks.slice(index << level, (index + 1) << level)),
            })
        }
    }
}

/// Leaf hashes brought in for one computation, by block.
struct Blocks {
    blocks: Vec<(u64, Vec<LeafHash>)>,
}

impl Blocks {
    /// Leaf hashes from `start` up to `end`, all in one block.
    fn slice(&self, start: u64, end: u64) -> &[LeafHash] {
        if start == end {
            return &[];
        }
        let block = start / BLOCK_LEAVES;
        let at = |seq: u64| usize::try_from(seq - block * BLOCK_LEAVES).unwrap_or(usize::MAX);
        self.blocks
            .iter()
            .find(|(number, _)| *number == block)
            .and_then(|(_, leaves)| leaves.get(at(start)..at(end)))
            .expect("blocks that a range cuts were fetched and checked")
    }
}

/// The block that `size` cuts, if it cuts one.
fn cut_block(size: u64) -> Vec<u64> {
    if size.is_multiple_of(BLOCK_LEAVES) { Vec::new() } else { vec![size / BLOCK_LEAVES] }
}

/// MTH over leaf hashes; SHA-256 of nothing for none.
fn hash_of(leaves: &[LeafHash]) -> Hash {
    match leaves {
        [] => subtree::hash_of(&[]),
        [one] => one.0,
        more => {
            let (left, right) = more.split_at(more.len().next_power_of_two() / 2);
            node_hash(&hash_of(left), &hash_of(right))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::super::leaf::sha256;
    use super::*;

    pub(crate) fn leaf(data: &[u8]) -> LeafHash {
        LeafHash(sha256(&[&[0], data]))
    }

    /// RFC 6962's definition, word for word, as the reference.
    fn reference(leaves: &[LeafHash]) -> [u8; 32] {
        match leaves.len() {
            0 => sha256(&[]),
            1 => leaves[0].0,
            count => {
                let mut k = 1;
                while k * 2 < count {
                    k *= 2;
                }
                node_hash(&reference(&leaves[..k]), &reference(&leaves[k..]))
            }
        }
    }

    fn leaves(count: u64) -> Vec<LeafHash> {
        (0..count).map(|seq| leaf(&seq.to_be_bytes())).collect()
    }

    fn block_of(all: &[LeafHash], block: u64) -> Result<Vec<LeafHash>, Infallible> {
        let start = usize::try_from(block * BLOCK_LEAVES).unwrap();
        Ok(all[start..all.len().min(start + 256)].to_vec())
    }

    #[test]
    fn known_roots_of_rfc_6962() {
        // The vectors that Google's certificate-transparency and trillian test suites share.
        let inputs: [&[u8]; 8] = [
            b"",
            &[0x00],
            &[0x10],
            &[0x20, 0x21],
            &[0x30, 0x31],
            &[0x40, 0x41, 0x42, 0x43],
            &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
            &[0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d, 0x6e, 0x6f],
        ];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut tree = Tree::new();
        assert_eq!(tree.root().to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        for (input, root) in inputs.iter().zip(roots) {
            tree.push(leaf(input));
            assert_eq!(tree.root().to_string(), root, "size {}", tree.size());
        }
    }

    #[test]
    fn roots_at_every_size_match_the_definition() {
        let all = leaves(1_300);
        let mut grown = Tree::new();
        for leaf in &all {
            grown.push(*leaf);
        }
        let mut tree = Tree::new();
        for size in 0..=all.len() {
            let expected = RootHash(reference(&all[..size]));
            assert_eq!(tree.root(), expected, "root at {size}");
            let at = grown.root_at(size as u64, |block| block_of(&all, block)).unwrap();
            assert_eq!(at, expected, "root_at {size}");
            if let Some(leaf) = all.get(size) {
                tree.push(*leaf);
            }
        }
    }

    #[test]
    fn a_tree_survives_being_stored() {
        let mut tree = Tree::new();
        for leaf in leaves(700) {
            tree.push(leaf);
        }
        let again = Tree::from_subtrees(tree.subtrees().to_vec(), tree.tail().to_vec()).unwrap();
        assert_eq!((again.size(), again.root()), (tree.size(), tree.root()));
        assert!(Tree::from_subtrees(Vec::new(), leaves(256)).is_none());
    }

    #[test]
    fn proofs_hold_for_every_size_and_index() {
        let all = leaves(600);
        let mut tree = Tree::new();
        for leaf in &all {
            tree.push(*leaf);
        }
        for size in 1..=600_u64 {
            let root = tree.root_at(size, |block| block_of(&all, block)).unwrap();
            // Every index at small sizes and around block edges, a stride of seven elsewhere.
            let dense = size <= 70 || size % 256 <= 2 || size == 600;
            for seq in (0..size).filter(|seq| dense || seq % 7 == size % 7) {
                let proof = tree.inclusion_proof(seq, size, |block| block_of(&all, block)).unwrap();
                let leaf = all[usize::try_from(seq).unwrap()];
                assert_eq!(proof.verify(leaf, seq, size, &root), Ok(()), "seq {seq} size {size}");
            }
        }
    }

    #[test]
    fn foreign_and_short_blocks_are_refused() {
        let mut tree = Tree::new();
        for leaf in leaves(600) {
            tree.push(leaf);
        }
        let mut wrong = leaves(256);
        wrong[3] = leaf(b"other");
        let foreign = tree.inclusion_proof(1, 600, |_| Ok::<_, Infallible>(wrong.clone()));
        assert_eq!(foreign, Err(TreeError::ForeignBlock { block: 0 }));
        let short = tree.inclusion_proof(1, 600, |_| Ok::<_, Infallible>(leaves(255)));
        assert_eq!(short, Err(TreeError::ShortBlock { block: 0, wanted: 256, found: 255 }));
        let beyond = tree.inclusion_proof(1, 601, |_| Ok::<_, Infallible>(leaves(256)));
        assert_eq!(beyond, Err(TreeError::Size { tree: 600, wanted: 601 }));
        let seq = tree.inclusion_proof(600, 600, |_| Ok::<_, Infallible>(leaves(256)));
        assert_eq!(seq, Err(TreeError::Seq { seq: 600, size: 600 }));
    }
}
