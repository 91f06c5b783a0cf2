//! RFC 6962 consistency proofs: that a log at one size is the beginning of the same log at a larger one.
//!
//! Made by the tree of whoever has the log, checked by whoever remembers only its last size and root: the separate
//! signer and the witnesses. [`Growth`] is the one judgement that both make before they sign.

use super::leaf::LeafHash;
use super::proof::ConsistencyProof;
use super::subtree;
use super::tree::{RootHash, Tree, TreeError, cut_block};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

/// Most hashes of a proof that is read: enough for any tree, and C2SP's bound.
pub const PROOF_HASHES_MAX: usize = 63;

impl ConsistencyProof {
    /// One base64 line a hash, as tlog-witness has them.
    pub fn lines(&self) -> String {
        self.hashes.iter().map(|hash| BASE64.encode(hash) + "\n").collect()
    }

    /// Reads one line; None if it is not 32 bytes of base64, or one too many.
    pub fn push_line(&mut self, line: &str) -> Option<()> {
        let hash = BASE64.decode(line).ok()?.try_into().ok()?;
        self.hashes.push(hash);
        (self.hashes.len() <= PROOF_HASHES_MAX).then_some(())
    }

    /// Whether the tree of `old` with `old_root` is the beginning of the tree of `size` with `root`. From size 0 there is
    /// nothing to prove and the proof has to be empty, as tlog-witness wants it.
    pub fn leads(&self, (old, old_root): (u64, &RootHash), (size, root): (u64, &RootHash)) -> bool {
        if old == 0 { self.hashes.is_empty() } else { self.verify(old, old_root, size, root).is_ok() }
    }
}

/// A head and the proof that it continues an older one, as text: `old` and a size, the proof's lines, an empty line, the
/// head. What a node sends to its signer and, with signatures below the head, to witnesses (tlog-witness).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrowthText<'a> {
    /// Size that the proof is from.
    pub old: u64,
    /// The proof.
    pub proof: ConsistencyProof,
    /// What stands below the empty line.
    pub head: &'a str,
}

impl<'a> GrowthText<'a> {
    /// Reads it; None if it is malformed.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (first, mut rest) = text.split_once('\n')?;
        let digits = first.strip_prefix("old ")?;
        let old: u64 = digits.parse().ok()?;
        if old.to_string() != digits {
            return None;
        }
        let mut proof = ConsistencyProof::default();
        loop {
            let (line, after) = rest.split_once('\n')?;
            rest = after;
            if line.is_empty() {
                return Some(Self { old, proof, head: rest });
            }
            proof.push_line(line)?;
        }
    }

    /// Writes it.
    pub fn write(&self) -> String {
        format!("old {}\n{}\n{}", self.old, self.proof.lines(), self.head)
    }
}

/// Why a head is not a growth of the one remembered. In the order in which tlog-witness wants them told.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Growth {
    /// The request contradicts itself.
    #[error("old size {old} is above the size {size}")]
    OldAbove {
        /// Size that the proof is from.
        old: u64,
        /// Size of the head.
        size: u64,
    },
    /// The proof is from another size than the one remembered.
    #[error("{known} records are known, not {old}")]
    Unknown {
        /// Size that the proof is from.
        old: u64,
        /// Size remembered.
        known: u64,
    },
    /// Another log, or a rewritten one.
    #[error("log of size {size} does not continue the one of size {old}")]
    Inconsistent {
        /// Size remembered.
        old: u64,
        /// Size of the head.
        size: u64,
    },
}

impl Growth {
    /// Judges a head against the one remembered: size 0 when there is none.
    pub fn check(
        (known, known_root): (u64, &RootHash),
        old: u64,
        proof: &ConsistencyProof,
        (size, root): (u64, &RootHash),
    ) -> Result<(), Self> {
        if old > size {
            return Err(Self::OldAbove { old, size });
        }
        if old != known {
            return Err(Self::Unknown { old, known });
        }
        let empty = size != 0 || *root == Tree::new().root();
        if empty && proof.leads((known, known_root), (size, root)) {
            return Ok(());
        }
        Err(Self::Inconsistent { old, size })
    }
}

impl Tree {
    /// Proof that the tree of `old` is the beginning of the tree of `size`; see [`Tree::inclusion_proof`] for `leaves`,
    /// which is asked for the blocks that the two sizes cut.
    pub fn consistency_proof<E: std::error::Error + 'static>(
        &self,
        old: u64,
        size: u64,
        leaves: impl FnMut(u64) -> Result<Vec<LeafHash>, E>,
    ) -> Result<ConsistencyProof, TreeError<E>> {
        if size > self.size() || old > size {
            return Err(TreeError::Size { tree: self.size().min(size), wanted: size.max(old) });
        }
        if old == 0 || old == size {
            return Ok(ConsistencyProof::default());
        }
        let blocks = self.fetch(&cut_blocks(old, size), size, leaves)?;
        let Ok(hashes) = subtree::consistency(old, size, &mut self.nodes(&blocks));
        Ok(ConsistencyProof { hashes })
    }
}

/// The blocks that two sizes cut: whose leaf hashes a proof between them may need.
pub(crate) fn cut_blocks(old: u64, size: u64) -> Vec<u64> {
    let mut blocks = cut_block(size);
    blocks.extend(cut_block(old).into_iter().filter(|block| !cut_block(size).contains(block)));
    blocks
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tree::tests::leaf;
    use super::*;
    use std::convert::Infallible;

    fn grown(count: u64) -> (Vec<LeafHash>, Tree, Vec<RootHash>) {
        let all: Vec<_> = (0..count).map(|seq| leaf(&seq.to_be_bytes())).collect();
        let mut tree = Tree::new();
        let mut roots = vec![tree.root()];
        for leaf in &all {
            tree.push(*leaf);
            roots.push(tree.root());
        }
        (all, tree, roots)
    }

    fn proof(all: &[LeafHash], tree: &Tree, old: u64, size: u64) -> ConsistencyProof {
        let block =
            |block: u64| Ok::<_, Infallible>(all.chunks(256).nth(usize::try_from(block).unwrap()).unwrap().to_vec());
        tree.consistency_proof(old, size, block).unwrap()
    }

    fn at(size: u64, roots: &[RootHash]) -> (u64, &RootHash) {
        (size, &roots[usize::try_from(size).unwrap()])
    }

    #[test]
    fn the_proofs_of_rfc_6962s_example_have_its_shape() {
        // Section 2.1.3: the tree of seven leaves; proofs from 3, 4 and 6.
        let (all, tree, _) = grown(7);
        let hash = |from: usize, to: usize| {
            let mut part = Tree::new();
            all[from..to].iter().for_each(|leaf| part.push(*leaf));
            part.root().0
        };
        assert_eq!(proof(&all, &tree, 3, 7).hashes, [hash(2, 3), hash(3, 4), hash(0, 2), hash(4, 7)]);
        assert_eq!(proof(&all, &tree, 4, 7).hashes, [hash(4, 7)]);
        assert_eq!(proof(&all, &tree, 6, 7).hashes, [hash(4, 6), hash(6, 7), hash(0, 4)]);
    }

    #[test]
    fn proofs_hold_between_all_sizes_and_no_others() {
        let (all, tree, roots) = grown(600);
        let sizes: Vec<u64> =
            (0..40).chain([63, 64, 65, 127, 128, 200, 255, 256, 257, 300, 511, 512, 513, 599, 600]).collect();
        for &size in &sizes {
            for &old in sizes.iter().filter(|old| **old <= size) {
                let found = proof(&all, &tree, old, size);
                assert!(found.leads(at(old, &roots), at(size, &roots)), "{old} to {size}");
                let mut longer = found.clone();
                longer.hashes.push([7; 32]);
                assert!(!longer.leads(at(old, &roots), at(size, &roots)), "longer, {old} to {size}");
                if old == 0 {
                    continue;
                }
                assert!(!found.leads((old, &RootHash([1; 32])), at(size, &roots)), "other old root, {old} to {size}");
                assert!(!found.leads(at(old, &roots), (size, &RootHash([1; 32]))), "other root, {old} to {size}");
                for index in 0..found.hashes.len() {
                    let mut changed = found.clone();
                    changed.hashes[index][0] ^= 1;
                    assert!(!changed.leads(at(old, &roots), at(size, &roots)), "hash {index}, {old} to {size}");
                    let mut shorter = found.clone();
                    shorter.hashes.remove(index);
                    assert!(!shorter.leads(at(old, &roots), at(size, &roots)), "without {index}, {old} to {size}");
                }
            }
        }
    }

    #[test]
    fn proofs_of_earlier_sizes_come_from_a_grown_tree_too() {
        let (all, tree, roots) = grown(1_500);
        for (old, size) in [(1, 1_400), (255, 257), (700, 1_280), (900, 901), (1_023, 1_279)] {
            assert!(proof(&all, &tree, old, size).leads(at(old, &roots), at(size, &roots)), "{old} to {size}");
        }
        let beyond = tree.consistency_proof(3, 1_501, |_| Ok::<_, Infallible>(Vec::new()));
        assert_eq!(beyond, Err(TreeError::Size { tree: 1_500, wanted: 1_501 }));
    }

    #[test]
    fn growth_is_judged_in_the_protocols_order() {
        let (all, tree, roots) = grown(10);
        let check = |known, old, proof: &ConsistencyProof, new| Growth::check(at(known, &roots), old, proof, new);
        let right = proof(&all, &tree, 4, 10);
        assert_eq!(check(4, 4, &right, at(10, &roots)), Ok(()));
        assert_eq!(check(4, 11, &right, at(10, &roots)), Err(Growth::OldAbove { old: 11, size: 10 }));
        assert_eq!(check(4, 0, &right, at(10, &roots)), Err(Growth::Unknown { old: 0, known: 4 }));
        assert_eq!(check(4, 4, &right, (10, &roots[9])), Err(Growth::Inconsistent { old: 4, size: 10 }));
        let none = ConsistencyProof::default();
        assert_eq!(check(0, 0, &none, at(10, &roots)), Ok(()));
        assert_eq!(check(0, 0, &right, at(10, &roots)), Err(Growth::Inconsistent { old: 0, size: 10 }));
        assert_eq!(check(0, 0, &none, at(0, &roots)), Ok(()));
        assert_eq!(check(0, 0, &none, (0, &roots[1])), Err(Growth::Inconsistent { old: 0, size: 0 }));
        assert_eq!(check(4, 4, &none, at(4, &roots)), Ok(()));
        assert_eq!(check(4, 4, &none, (4, &roots[5])), Err(Growth::Inconsistent { old: 4, size: 4 }));
    }

    #[test]
    fn the_text_of_a_growth_reads_back_and_malformed_ones_are_refused() {
        let proof = ConsistencyProof { hashes: vec![[1; 32], [2; 32]] };
        let growth = GrowthText { old: 7, proof, head: "a\n8\n\nb\n" };
        let text = growth.write();
        assert_eq!(GrowthText::parse(&text), Some(growth));
        assert_eq!(GrowthText::parse("old 0\n\nx").unwrap().head, "x");
        for bad in
            ["", "old 7", "old 7\n", "old 07\n\nx", "old -1\n\nx", "old +1\n\nx", "new 7\n\nx", "old 7\nAAAA\n\nx"]
        {
            assert_eq!(GrowthText::parse(bad), None, "{bad:?}");
        }
        assert_eq!(GrowthText::parse(&format!("old 7\n{}", text.lines().nth(1).unwrap())), None, "no empty line");
    }

    #[test]
    fn lines_read_back_within_their_bound() {
        let (all, tree, _) = grown(600);
        let found = proof(&all, &tree, 300, 600);
        let mut again = ConsistencyProof::default();
        assert!(found.lines().lines().all(|line| again.push_line(line).is_some()));
        assert_eq!(again, found);
        assert_eq!(again.push_line("AAAA"), None);
        let mut many = ConsistencyProof { hashes: vec![[0; 32]; PROOF_HASHES_MAX] };
        assert_eq!(many.push_line(&BASE64.encode([0; 32])), None);
    }
}
