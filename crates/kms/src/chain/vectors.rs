//! Other people's test vectors for the tree, and the properties of its proofs at every size.
//!
//! tests/vectors/merkle.json holds the files of transparency-dev/merkle's testdata, one a line. Trap: these and RFC 9162
//! refuse a proof from size 0, while C2SP tlog-witness wants old size 0 with an empty proof: whoever speaks that protocol
//! must look at 0 before asking for a proof.

use super::leaf::{LeafHash, sha256};
use super::proof::{ConsistencyProof, InclusionProof, subtree_roots};
use super::subtree::{self, Hash, hash_of, node_hash};
use super::tree::RootHash;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use proptest::prelude::*;
use serde::Deserialize;
use std::convert::Infallible;

#[derive(Deserialize)]
struct Vectors {
    inclusion: Vec<Inclusion>,
    consistency: Vec<Consistency>,
    subtreeinclusion: Vec<Inclusion>,
    subtreeconsistency: Vec<Consistency>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Inclusion {
    name: String,
    leaf_idx: u64,
    /// Absent for a subtree, which has `start` and `end` instead.
    tree_size: Option<u64>,
    start: Option<u64>,
    end: Option<u64>,
    root: Option<String>,
    leaf_hash: Option<String>,
    proof: Vec<String>,
    want_err: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Consistency {
    name: String,
    size1: Option<u64>,
    size2: Option<u64>,
    start: Option<u64>,
    end: Option<u64>,
    size: Option<u64>,
    root1: Option<String>,
    root2: Option<String>,
    proof: Vec<String>,
    want_err: bool,
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("../../tests/vectors/merkle.json")).unwrap()
}

/// A hash of another length is refused by our types, before any proof is looked at.
fn hash(text: Option<&String>) -> Option<Hash> {
    BASE64.decode(text?).ok()?.try_into().ok()
}

fn hashes(proof: &[String]) -> Option<Vec<Hash>> {
    proof.iter().map(|text| hash(Some(text))).collect()
}

/// A subtree begins at a multiple of the power of two at or above its size.
fn is_subtree(start: u64, end: u64) -> bool {
    start < end && (end - start).checked_next_power_of_two().is_some_and(|power| start.is_multiple_of(power))
}

fn includes(case: &Inclusion) -> Option<()> {
    let (start, end) = (case.start.unwrap_or(0), case.tree_size.or(case.end)?);
    // What is asked of a subtree is asked of a tree that begins where it does.
    let tree = case.start.is_none() || is_subtree(start, end);
    let (seq, size) = tree.then(|| Some((case.leaf_idx.checked_sub(start)?, end - start)))??;
    let (leaf, root) = (LeafHash(hash(case.leaf_hash.as_ref())?), RootHash(hash(case.root.as_ref())?));
    InclusionProof { hashes: hashes(&case.proof)? }.verify(leaf, seq, size, &root).ok()
}

#[test]
fn inclusion_vectors_of_transparency_dev() {
    let vectors = vectors();
    assert_eq!((vectors.inclusion.len(), vectors.subtreeinclusion.len()), (98, 204));
    for case in vectors.inclusion.iter().chain(&vectors.subtreeinclusion) {
        assert_eq!(includes(case).is_none(), case.want_err, "{}", case.name);
    }
}

/// Cases with something in them that is no hash of 32 bytes: our types refuse those before any proof is looked at, and so
/// does whoever wrote them, but for cases that compare texts of equal sizes without hashing.
const TEXTS_COMPARED: [&str; 2] =
    ["additional/sizes-are-equal-one-and-proof-is-empty", "additional/subtree-is-empty-sizes-are-equal-zero"];

fn refused(case: &Consistency) -> bool {
    let compared = TEXTS_COMPARED.iter().any(|name| case.name.starts_with(name));
    case.want_err || compared
}

#[test]
fn consistency_vectors_of_transparency_dev() {
    let vectors = vectors();
    let mut texts = 0;
    for case in &vectors.consistency {
        let (old, new) = (case.size1.unwrap(), case.size2.unwrap());
        let roots = hash(case.root1.as_ref()).zip(hash(case.root2.as_ref()));
        let Some(((old_root, new_root), hashes)) = roots.zip(hashes(&case.proof)) else {
            texts += 1;
            assert!(refused(case), "{}", case.name);
            continue;
        };
        let holds = ConsistencyProof { hashes }.verify(old, &RootHash(old_root), new, &RootHash(new_root));
        assert_eq!(holds.is_err(), case.want_err, "{}: {holds:?}", case.name);
    }
    assert_eq!((vectors.consistency.len(), texts), (98, 27));
}

/// As the published verifier has it: an empty subtree is under every tree.
fn subtree_consistent(case: &Consistency) -> Option<bool> {
    let (start, end, size) = (case.start?, case.end?, case.size?);
    let (part_root, hashes) = (hash(case.root1.as_ref())?, hashes(&case.proof)?);
    if start == end {
        return Some(end <= size && hashes.is_empty() && part_root == sha256(&[]));
    }
    let root = hash(case.root2.as_ref())?;
    if !is_subtree(start, end) || end > size {
        return Some(false);
    }
    let mut rest = hashes.iter();
    let roots = subtree_roots(start..end, size, Some(part_root), &mut rest);
    Some(rest.next().is_none() && roots == Some((part_root, root)))
}

#[test]
fn subtree_consistency_vectors_of_transparency_dev() {
    let vectors = vectors();
    let mut texts = 0;
    for case in &vectors.subtreeconsistency {
        let Some(holds) = subtree_consistent(case) else {
            texts += 1;
            assert!(refused(case), "{}", case.name);
            continue;
        };
        assert_eq!(!holds, case.want_err, "{}", case.name);
    }
    assert_eq!((vectors.subtreeconsistency.len(), texts), (118, 34));
}

#[test]
fn constants_of_rfc_6962_hashing() {
    // transparency-dev/merkle, rfc6962/rfc6962_test.go.
    assert_eq!(hex::encode(hash_of(&[])), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_eq!(hex::encode(sha256(&[&[0], b""])), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
    assert_eq!(
        hex::encode(sha256(&[&[0], b"L123456"])),
        "395aa064aa4c29f7010acfe3f25db9485bbd4b91897b6ad7ad547639252b4d56"
    );
    // That test hashes two texts that are no hashes, which node_hash does not take; the bytes hashed are the same.
    assert_eq!(
        hex::encode(sha256(&[&[1], b"N123", b"N456"])),
        "aa217fe888e47007fa15edab33c2b492a722cb106c64667fc2b044444de66bbb"
    );
}

/// Complete nodes over made-up leaves, level by level.
struct Nodes(Vec<Vec<Hash>>);

impl Nodes {
    fn new(size: u64) -> Self {
        let mut levels = vec![(0..size).map(|seq| sha256(&[&[0], &seq.to_be_bytes()])).collect::<Vec<_>>()];
        while let Some(below) = levels.last().filter(|level| level.len() > 1) {
            levels.push(below.chunks_exact(2).map(|pair| node_hash(&pair[0], &pair[1])).collect());
        }
        Self(levels)
    }

    fn node(&self) -> impl FnMut(u32, u64) -> Result<Hash, Infallible> {
        |level, index| Ok(self.0[level as usize][usize::try_from(index).unwrap()])
    }

    fn leaf(&self, seq: u64) -> LeafHash {
        LeafHash(self.0[0][usize::try_from(seq).unwrap()])
    }

    fn root(&self, size: u64) -> RootHash {
        let Ok(root) = subtree::range(0, size, &mut self.node());
        RootHash(root)
    }

    fn inclusion(&self, seq: u64, size: u64) -> InclusionProof {
        let Ok(hashes) = subtree::inclusion(seq, 0, size, &mut self.node());
        InclusionProof { hashes }
    }

    fn consistency(&self, old: u64, new: u64) -> ConsistencyProof {
        let Ok(hashes) = subtree::consistency(old, new, &mut self.node());
        ConsistencyProof { hashes }
    }

    fn check(&self, seq: u64, old: u64, size: u64) {
        let root = self.root(size);
        assert_eq!(self.inclusion(seq, size).verify(self.leaf(seq), seq, size, &root), Ok(()), "seq {seq} of {size}");
        let holds = self.consistency(old, size).verify(old, &self.root(old), size, &root);
        assert_eq!(holds, Ok(()), "size {old} of {size}");
    }
}

#[test]
fn proofs_hold_for_every_size_up_to_4096_and_every_prefix_is_consistent() {
    let nodes = Nodes::new(4_096);
    for size in 1..=4_096_u64 {
        // The edges, and places that wander over all of the tree as sizes go by.
        for pick in [0, size / 2, size - 1, size * 37 % size.max(2), size * size % (size + 1).min(size.max(1))] {
            let seq = pick.min(size - 1);
            nodes.check(seq, seq + 1, size);
        }
    }
    for size in 1..=130 {
        for seq in 0..size {
            nodes.check(seq, seq + 1, size);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn proofs_hold_for_random_larger_sizes(size in 4_097_u64..60_000, picks in prop::collection::vec(any::<prop::sample::Index>(), 8)) {
        let nodes = Nodes::new(size);
        for pick in picks {
            let seq = pick.index(usize::try_from(size).unwrap()) as u64;
            nodes.check(seq, seq + 1, size);
        }
    }

    #[test]
    fn any_changed_bit_breaks_a_consistency_proof(old in 1_u64..700, more in 0_u64..700, bit in 0_usize..256) {
        let size = old + more;
        let nodes = Nodes::new(size);
        let (proof, old_root, root) = (nodes.consistency(old, size), nodes.root(old), nodes.root(size));
        prop_assert_eq!(proof.verify(old, &old_root, size, &root), Ok(()));
        let flipped = |hash: &Hash| { let mut other = *hash; other[bit / 8] ^= 1 << (bit % 8); other };
        prop_assert!(proof.verify(old, &RootHash(flipped(&old_root.0)), size, &root).is_err());
        prop_assert!(proof.verify(old, &old_root, size, &RootHash(flipped(&root.0))).is_err());
        for index in 0..proof.hashes.len() {
            let mut other = proof.clone();
            other.hashes[index] = flipped(&other.hashes[index]);
            prop_assert!(other.verify(old, &old_root, size, &root).is_err());
        }
        let mut longer = proof.clone();
        longer.hashes.push([0; 32]);
        prop_assert!(longer.verify(old, &old_root, size, &root).is_err());
        let mut shorter = proof.clone();
        if shorter.hashes.pop().is_some() {
            prop_assert!(shorter.verify(old, &old_root, size, &root).is_err());
        }
        prop_assert!(proof.verify(0, &old_root, size, &root).is_err(), "no proof leads from nothing");
        if more > 0 {
            prop_assert!(proof.verify(size, &root, old, &old_root).is_err(), "nor backwards");
        }
    }
}
